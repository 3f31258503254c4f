//! Users, roles and permissions: what the role `root` manages.

use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Code, Status as GrpcStatus};

use super::connection::{attempt, timed};
use super::credentials::{self, Credentials};
use super::failure::Kind;
use super::{Answer, Call, Connection, Remote, wire};
use crate::error::Error;
pub use crate::mvcc::auth::{Access, Permission};
use crate::proto::authpb;
use crate::proto::etcdserverpb as pb;

/// Whether requests are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthStatus {
    /// They are.
    pub enabled: bool,
    /// Rises with every change of users, roles and permissions.
    pub revision: u64,
}

/// An answer that has etcd's header.
trait Headed {
    fn header(&self) -> Option<&pb::ResponseHeader>;
}

/// One line for each method: what is asked, and what is answered.
macro_rules! headed {
    ($($answer:ident)*) => {
        $(impl Headed for pb::$answer {
            fn header(&self) -> Option<&pb::ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

headed! {
    AuthEnableResponse AuthDisableResponse AuthStatusResponse AuthUserAddResponse AuthUserGetResponse AuthUserListResponse
    AuthUserDeleteResponse AuthUserChangePasswordResponse AuthUserGrantRoleResponse AuthUserRevokeRoleResponse AuthRoleAddResponse
    AuthRoleGetResponse AuthRoleListResponse AuthRoleDeleteResponse AuthRoleGrantPermissionResponse AuthRoleRevokePermissionResponse
}

impl Connection {
    /// Runs `call` with a token, if there are credentials; once more with another one, if that one is not taken any more.
    pub(super) async fn with_token<T, F>(
        &self,
        limit: Duration,
        call: impl Fn(Self, Duration) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = tokio::time::Instant::now() + limit;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        let mut again = true;
        // A loop, so that each method's call is in the program once.
        loop {
            let credentials = self.credentials();
            if let Some(credentials) = credentials {
                self.authenticate_if_needed(credentials, left()).await?;
            }
            let used = credentials.and_then(Credentials::token);
            match (call(self.clone(), left()).await, credentials) {
                (Err(error), Some(credentials)) if again && credentials::refuses_token(&error) => {
                    tracing::debug!(%error, user = credentials.user(), "authenticates anew");
                    credentials.forget(used.as_ref());
                    again = false;
                }
                (result, _) => return result,
            }
        }
    }

    /// Gets a token, if there are credentials and there is none.
    pub(super) async fn authenticate_if_needed(
        &self,
        credentials: &Credentials,
        limit: Duration,
    ) -> Result<(), Error> {
        if credentials.token().is_some() {
            return Ok(());
        }
        let request = pb::AuthenticateRequest {
            name: credentials.user().to_owned(),
            password: credentials.password().to_owned(),
        };
        let path = PathAndQuery::from_static("/etcdserverpb.Auth/Authenticate");
        // Made twice, there are two tokens; nothing else happens.
        match self.unary::<_, pb::AuthenticateResponse>(path, request, Kind::Read, limit).await {
            Ok(response) => credentials.keep(&response.token),
            // Nobody is asked who it is, as etcd's clients take it.
            Err(Error::Remote { code, text, .. })
                if code == Code::FailedPrecondition as i32
                    && text == "etcdserver: authentication is not enabled" =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// One attempt at a unary method.
    async fn unary<Q, A>(
        &self,
        path: PathAndQuery,
        request: Q,
        kind: Kind,
        limit: Duration,
    ) -> Result<A, Error>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel());
        let call = async move {
            grpc.ready().await.map_err(|error| GrpcStatus::from_error(error.into()))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            grpc.unary(timed(request, limit), path, codec).await
        };
        attempt(kind, limit, self.endpoint(), call).await
    }
}

impl Remote {
    /// Calls a method of the Auth service, wherever it is answered.
    fn auth<Q, A, T>(
        &self,
        kind: Kind,
        method: &'static str,
        request: Q,
        value: impl Fn(A) -> T + Clone + Send + Sync + 'static,
    ) -> Call<'_, T>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Headed + Message + Default + Send + Sync + 'static,
        T: Send + 'static,
    {
        let path = PathAndQuery::from_static(method);
        Box::pin(self.run(kind, move |on, limit| {
            let (path, request, value) = (path.clone(), request.clone(), value.clone());
            async move {
                let answered: A = on.unary(path, request, kind, limit).await?;
                let Answer { header, value: () } = wire::answer(answered.header(), ());
                Ok(Answer { header, value: value(answered) })
            }
        }))
    }

    /// Checks requests from now on: every call needs a user, and permission. There must be a user `root` that has the role `root`.
    pub fn auth_enable(&self) -> Call<'_, ()> {
        let request = pb::AuthEnableRequest {};
        self.auth(Kind::Write, "/etcdserverpb.Auth/AuthEnable", request, |_: pb::AuthEnableResponse| ())
    }

    /// Checks none any more. Users, roles and permissions stay.
    pub fn auth_disable(&self) -> Call<'_, ()> {
        let request = pb::AuthDisableRequest {};
        self.auth(Kind::Write, "/etcdserverpb.Auth/AuthDisable", request, |_: pb::AuthDisableResponse| ())
    }

    /// Whether requests are checked.
    pub fn auth_status(&self) -> Call<'_, AuthStatus> {
        let value = |answer: pb::AuthStatusResponse| AuthStatus {
            enabled: answer.enabled,
            revision: answer.auth_revision,
        };
        self.auth(Kind::Read, "/etcdserverpb.Auth/AuthStatus", pb::AuthStatusRequest {}, value)
    }

    /// Adds a user. Without a password it can be known by a certificate only.
    pub fn user_add(&self, name: &str, password: Option<&str>) -> Call<'_, ()> {
        let options = password.is_none().then_some(authpb::UserAddOptions { no_password: true });
        let request = pb::AuthUserAddRequest {
            name: name.into(),
            password: password.unwrap_or_default().into(),
            options,
            hashed_password: String::new(),
        };
        self.auth(Kind::Write, "/etcdserverpb.Auth/UserAdd", request, |_: pb::AuthUserAddResponse| ())
    }

    /// Removes a user.
    pub fn user_delete(&self, name: &str) -> Call<'_, ()> {
        let request = pb::AuthUserDeleteRequest { name: name.into() };
        self.auth(Kind::Write, "/etcdserverpb.Auth/UserDelete", request, |_: pb::AuthUserDeleteResponse| ())
    }

    /// Gives a user another password.
    pub fn user_change_password(&self, name: &str, password: &str) -> Call<'_, ()> {
        let request = pb::AuthUserChangePasswordRequest {
            name: name.into(),
            password: password.into(),
            hashed_password: String::new(),
        };
        let value = |_: pb::AuthUserChangePasswordResponse| ();
        self.auth(Kind::Write, "/etcdserverpb.Auth/UserChangePassword", request, value)
    }

    /// The roles of a user, sorted.
    pub fn user_get(&self, name: &str) -> Call<'_, Vec<String>> {
        let request = pb::AuthUserGetRequest { name: name.into() };
        self.auth(Kind::Read, "/etcdserverpb.Auth/UserGet", request, |answer: pb::AuthUserGetResponse| {
            answer.roles
        })
    }

    /// The names of all users, sorted.
    pub fn user_list(&self) -> Call<'_, Vec<String>> {
        let value = |answer: pb::AuthUserListResponse| answer.users;
        self.auth(Kind::Read, "/etcdserverpb.Auth/UserList", pb::AuthUserListRequest {}, value)
    }

    /// Gives a role to a user.
    pub fn user_grant_role(&self, user: &str, role: &str) -> Call<'_, ()> {
        let request = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        let value = |_: pb::AuthUserGrantRoleResponse| ();
        self.auth(Kind::Write, "/etcdserverpb.Auth/UserGrantRole", request, value)
    }

    /// Takes a role from a user.
    pub fn user_revoke_role(&self, user: &str, role: &str) -> Call<'_, ()> {
        let request = pb::AuthUserRevokeRoleRequest { name: user.into(), role: role.into() };
        let value = |_: pb::AuthUserRevokeRoleResponse| ();
        self.auth(Kind::Write, "/etcdserverpb.Auth/UserRevokeRole", request, value)
    }

    /// Adds a role.
    pub fn role_add(&self, name: &str) -> Call<'_, ()> {
        let request = pb::AuthRoleAddRequest { name: name.into() };
        self.auth(Kind::Write, "/etcdserverpb.Auth/RoleAdd", request, |_: pb::AuthRoleAddResponse| ())
    }

    /// Removes a role, from all users too.
    pub fn role_delete(&self, name: &str) -> Call<'_, ()> {
        let request = pb::AuthRoleDeleteRequest { role: name.into() };
        self.auth(Kind::Write, "/etcdserverpb.Auth/RoleDelete", request, |_: pb::AuthRoleDeleteResponse| ())
    }

    /// What a role may do, by first keys. Of the role `root` it is one range of all keys.
    pub fn role_get(&self, name: &str) -> Call<'_, Vec<Permission>> {
        let request = pb::AuthRoleGetRequest { role: name.into() };
        self.auth(Kind::Read, "/etcdserverpb.Auth/RoleGet", request, |answer: pb::AuthRoleGetResponse| {
            // What another version permits is not read as something that we know.
            let known = |one: authpb::Permission| {
                let access = Access::from_number(u64::try_from(one.perm_type).ok()?)?;
                Some(Permission { access, key: one.key, range_end: one.range_end })
            };
            answer.perm.into_iter().filter_map(known).collect()
        })
    }

    /// The names of all roles, sorted.
    pub fn role_list(&self) -> Call<'_, Vec<String>> {
        let value = |answer: pb::AuthRoleListResponse| answer.roles;
        self.auth(Kind::Read, "/etcdserverpb.Auth/RoleList", pb::AuthRoleListRequest {}, value)
    }

    /// Permits something to a role. What was permitted on exactly this range is replaced.
    pub fn role_grant_permission(&self, role: &str, permission: Permission) -> Call<'_, ()> {
        let Permission { access, key, range_end } = permission;
        let perm = authpb::Permission { perm_type: i32::from(access as u8), key, range_end };
        let request = pb::AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) };
        let value = |_: pb::AuthRoleGrantPermissionResponse| ();
        self.auth(Kind::Write, "/etcdserverpb.Auth/RoleGrantPermission", request, value)
    }

    /// Takes from a role what it is permitted on exactly this range.
    pub fn role_revoke_permission(
        &self,
        role: &str,
        key: bytes::Bytes,
        range_end: bytes::Bytes,
    ) -> Call<'_, ()> {
        let request = pb::AuthRoleRevokePermissionRequest { role: role.into(), key, range_end };
        let value = |_: pb::AuthRoleRevokePermissionResponse| ();
        self.auth(Kind::Write, "/etcdserverpb.Auth/RoleRevokePermission", request, value)
    }
}
