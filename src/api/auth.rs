//! etcd's Auth service.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Code;

use super::passwords::{self, Passwords};
use super::permission::{self, Caller};
use super::tokens::Signed;
use super::{Shared, convert, texts};
use crate::env::{Random, Tasks};
use crate::limits;
use crate::mvcc::auth::{Access, Auth, AuthCommand, Permission, ROOT};
use crate::mvcc::command::{Command, Outcome, Refusal, Request};
use crate::proto::authpb;
use crate::proto::etcdserverpb as pb;
use crate::transport::{Failure, grpc};

/// What authentication needs beside the store. Of one member.
#[derive(Debug)]
pub struct Authenticator {
    passwords: Passwords,
    random: Arc<dyn Random>,
    /// Tokens that are signed; `None`: tokens are simple.
    pub(super) signed: Option<Signed>,
}

impl Authenticator {
    /// Hashes passwords with bcrypt's `cost`, from [`limits::BCRYPT_COST_MIN`] to [`limits::BCRYPT_COST_MAX`].
    pub fn new(tasks: Arc<dyn Tasks>, random: Arc<dyn Random>, cost: u32, signed: Option<Signed>) -> Self {
        Self { passwords: Passwords::new(tasks, Arc::clone(&random), cost), random, signed }
    }

    /// Begin of a simple token: 16 letters, as etcd's. 91 bits that nobody can guess.
    fn token(&self) -> String {
        const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut token = String::with_capacity(16);
        while token.len() < 16 {
            for byte in self.random.next_u64().to_le_bytes() {
                // 208 is the largest multiple of 52 that a byte holds: all letters are equally likely.
                let letter = (byte < 208).then(|| LETTERS.get(usize::from(byte % 52))).flatten();
                token.extend(letter.filter(|_| token.len() < 16).map(|letter| char::from(*letter)));
            }
        }
        token
    }
}

fn authenticator(api: &Shared) -> Result<&Authenticator, Failure> {
    api.auth.get().ok_or_else(|| texts::STOPPED.into())
}

/// Looks at users and roles as this member knows them, when it knows all that was confirmed.
async fn look<T>(api: &Shared, look: impl Fn(&Auth) -> T) -> Result<T, Failure> {
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    look_here(api, look)
}

fn look_here<T>(api: &Shared, look: impl Fn(&Auth) -> T) -> Result<T, Failure> {
    let mut seen = None;
    api.store.look(&mut |state| seen = Some(look(state.auth())));
    seen.ok_or_else(|| texts::NO_LEADER.into())
}

fn header_now(api: &Shared) -> pb::ResponseHeader {
    let position = api.store.position();
    api.headers.at(&position, position.revision, 0)
}

/// Puts a command through the log.
async fn propose(
    api: &Shared,
    caller: &Caller,
    command: AuthCommand,
) -> Result<Option<pb::ResponseHeader>, Failure> {
    let command = Command::Auth(command);
    let by = permission::check(api, caller, |state, by| state.may_run(by, &command)).await?;
    let proposed = api.store.propose(Request::of(by, command)).await;
    let (reply, term) = proposed.map_err(|error| texts::failure(&error))?;
    Ok(Some(api.headers.at(&api.store.position(), reply.revision, term)))
}

/// Checks requests from now on.
pub(super) async fn enable(api: &Shared, caller: &Caller) -> Result<Bytes, Failure> {
    let header = propose(api, caller, AuthCommand::Enable).await?;
    Ok(grpc::encode(&pb::AuthEnableResponse { header }))
}

/// Checks none any more.
pub(super) async fn disable(api: &Shared, caller: &Caller) -> Result<Bytes, Failure> {
    let header = propose(api, caller, AuthCommand::Disable).await?;
    Ok(grpc::encode(&pb::AuthDisableResponse { header }))
}

/// Whether requests are checked.
pub(super) async fn status(api: &Shared) -> Result<Bytes, Failure> {
    let (enabled, auth_revision) = look(api, |auth| (auth.is_enabled(), auth.revision())).await?;
    Ok(grpc::encode(&pb::AuthStatusResponse { header: Some(header_now(api)), enabled, auth_revision }))
}

/// Makes a token for whoever knows the password. Whoever does not is told the same, after the same time, whether or not there is such a
/// user; etcd tells that a user has no password.
pub(super) async fn authenticate(api: &Shared, request: pb::AuthenticateRequest) -> Result<Bytes, Failure> {
    let pb::AuthenticateRequest { name, password } = request;
    let authenticator = authenticator(api)?;
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
    for _ in 0..limits::AUTHENTICATE_ATTEMPTS {
        if Instant::now() >= deadline {
            break;
        }
        let (hash, revision) = look_here(api, |auth| auth.password_of(&name))?.map_err(texts::refusal)?;
        if !authenticator.passwords.is_of(password.clone(), hash).await? {
            tracing::debug!(user = name, "a user failed to authenticate");
            return Err(texts::AUTH_FAILED.into());
        }
        let token = if authenticator.signed.is_some() { String::new() } else { authenticator.token() };
        let command = AuthCommand::Authenticate { name: name.clone(), token, revision };
        match api.store.propose(Request::anonymous(Command::Auth(command))).await {
            // Users changed while the password was checked: it may be another one now.
            Err(crate::error::Error::Refused(Refusal::AuthRevisionOld)) => {}
            Err(error) => return Err(texts::failure(&error)),
            Ok((reply, term)) => {
                let Outcome::Authenticated { token, revision } = reply.outcome else {
                    return Err(convert::unexpected());
                };
                let token = match &authenticator.signed {
                    Some(signed) => signed.sign(&name, revision)?,
                    None => token,
                };
                let header = Some(api.headers.at(&api.store.position(), reply.revision, term));
                return Ok(grpc::encode(&pb::AuthenticateResponse { header, token }));
            }
        }
    }
    Err(texts::AUTH_OLD_REVISION.into())
}

/// The hash of a password: the client's own, or of what it sent.
async fn hash(api: &Shared, password: String, hashed: &str) -> Result<Bytes, Failure> {
    if password.is_empty() && !hashed.is_empty() {
        return passwords::given(hashed);
    }
    authenticator(api)?.passwords.hash(password).await
}

/// Adds a user. A client's own hash is taken, if there is no password beside it; etcd takes it for the empty password.
pub(super) async fn user_add(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthUserAddRequest,
) -> Result<Bytes, Failure> {
    let pb::AuthUserAddRequest { name, password, options, hashed_password } = request;
    let has_none = options.is_some_and(|options| options.no_password);
    // What is refused for its name is not worth a hash.
    if name.is_empty() {
        return Err(texts::USER_EMPTY.into());
    }
    let password = if has_none { None } else { Some(hash(api, password, &hashed_password).await?) };
    let header = propose(api, caller, AuthCommand::UserAdd { name, password }).await?;
    Ok(grpc::encode(&pb::AuthUserAddResponse { header }))
}

/// Tells the roles of a user.
pub(super) async fn user_get(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthUserGetRequest,
) -> Result<Bytes, Failure> {
    let name = request.name;
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    permission::check(api, caller, |state, by| state.auth().may_see_user(by, &name)).await?;
    let roles = look_here(api, |auth| auth.user(&name).map(|user| user.roles.iter().cloned().collect()))?;
    let roles = roles.ok_or(texts::USER_NOT_FOUND)?;
    Ok(grpc::encode(&pb::AuthUserGetResponse { header: Some(header_now(api)), roles }))
}

/// Lists all users.
pub(super) async fn user_list(api: &Shared) -> Result<Bytes, Failure> {
    let users = look(api, |auth| auth.users().map(str::to_owned).collect()).await?;
    Ok(grpc::encode(&pb::AuthUserListResponse { header: Some(header_now(api)), users }))
}

/// Removes a user.
pub(super) async fn user_delete(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthUserDeleteRequest,
) -> Result<Bytes, Failure> {
    let header = propose(api, caller, AuthCommand::UserDelete { name: request.name }).await?;
    Ok(grpc::encode(&pb::AuthUserDeleteResponse { header }))
}

/// Gives a user another password; its tokens are void.
pub(super) async fn user_change_password(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthUserChangePasswordRequest,
) -> Result<Bytes, Failure> {
    let pb::AuthUserChangePasswordRequest { name, password, hashed_password } = request;
    let password = hash(api, password, &hashed_password).await?;
    let header = propose(api, caller, AuthCommand::UserChangePassword { name, password }).await?;
    Ok(grpc::encode(&pb::AuthUserChangePasswordResponse { header }))
}

/// Gives a role to a user.
pub(super) async fn user_grant_role(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthUserGrantRoleRequest,
) -> Result<Bytes, Failure> {
    let command = AuthCommand::UserGrantRole { name: request.user, role: request.role };
    let header = propose(api, caller, command).await?;
    Ok(grpc::encode(&pb::AuthUserGrantRoleResponse { header }))
}

/// Takes a role from a user.
pub(super) async fn user_revoke_role(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthUserRevokeRoleRequest,
) -> Result<Bytes, Failure> {
    let command = AuthCommand::UserRevokeRole { name: request.name, role: request.role };
    let header = propose(api, caller, command).await?;
    Ok(grpc::encode(&pb::AuthUserRevokeRoleResponse { header }))
}

/// Adds a role.
pub(super) async fn role_add(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthRoleAddRequest,
) -> Result<Bytes, Failure> {
    let header = propose(api, caller, AuthCommand::RoleAdd { name: request.name }).await?;
    Ok(grpc::encode(&pb::AuthRoleAddResponse { header }))
}

/// Tells what a role may do.
pub(super) async fn role_get(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthRoleGetRequest,
) -> Result<Bytes, Failure> {
    let role = request.role;
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    permission::check(api, caller, |state, by| state.auth().may_see_role(by, &role)).await?;
    let permissions = look_here(api, |auth| auth.role(&role).map(<[_]>::to_vec))?;
    let permissions = permissions.ok_or(texts::ROLE_NOT_FOUND)?;
    let perm = if role == ROOT {
        // It may do everything, whatever is granted to it.
        vec![authpb::Permission {
            perm_type: authpb::permission::Type::Readwrite.into(),
            key: Bytes::new(),
            range_end: Bytes::from_static(b"\0"),
        }]
    } else {
        permissions.into_iter().map(to_wire).collect()
    };
    Ok(grpc::encode(&pb::AuthRoleGetResponse { header: Some(header_now(api)), perm }))
}

fn to_wire(permission: Permission) -> authpb::Permission {
    use authpb::permission::Type;
    let Permission { access, key, range_end } = permission;
    let perm_type = match access {
        Access::Read => Type::Read,
        Access::Write => Type::Write,
        Access::ReadWrite => Type::Readwrite,
    };
    authpb::Permission { perm_type: perm_type.into(), key, range_end }
}

/// Lists all roles.
pub(super) async fn role_list(api: &Shared) -> Result<Bytes, Failure> {
    let roles = look(api, |auth| auth.roles().map(str::to_owned).collect()).await?;
    Ok(grpc::encode(&pb::AuthRoleListResponse { header: Some(header_now(api)), roles }))
}

/// Removes a role.
pub(super) async fn role_delete(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthRoleDeleteRequest,
) -> Result<Bytes, Failure> {
    let header = propose(api, caller, AuthCommand::RoleDelete { name: request.role }).await?;
    Ok(grpc::encode(&pb::AuthRoleDeleteResponse { header }))
}

/// Permits something to a role.
pub(super) async fn role_grant_permission(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthRoleGrantPermissionRequest,
) -> Result<Bytes, Failure> {
    let authpb::Permission { perm_type, key, range_end } = request.perm.ok_or(texts::PERMISSION_NOT_GIVEN)?;
    let access = u64::try_from(perm_type).ok().and_then(Access::from_number).ok_or_else(|| {
        Failure::new(Code::InvalidArgument, format!("etcdserver: there is no permission of type {perm_type}"))
    })?;
    let permission = Permission { access, key, range_end };
    let command = AuthCommand::RoleGrantPermission { name: request.name, permission };
    let header = propose(api, caller, command).await?;
    Ok(grpc::encode(&pb::AuthRoleGrantPermissionResponse { header }))
}

/// Takes from a role what it is permitted on exactly a range.
pub(super) async fn role_revoke_permission(
    api: &Shared,
    caller: &Caller,
    request: pb::AuthRoleRevokePermissionRequest,
) -> Result<Bytes, Failure> {
    let pb::AuthRoleRevokePermissionRequest { role, key, range_end } = request;
    let header =
        propose(api, caller, AuthCommand::RoleRevokePermission { name: role, key, range_end }).await?;
    Ok(grpc::encode(&pb::AuthRoleRevokePermissionResponse { header }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::random::SystemRandom;
    use crate::env::tasks::Threads;

    #[test]
    fn tokens_begin_with_sixteen_letters_that_differ() {
        let authenticator =
            Authenticator::new(Arc::new(Threads), Arc::new(SystemRandom), limits::BCRYPT_COST_MIN, None);
        let tokens: std::collections::BTreeSet<_> = (0..100).map(|_| authenticator.token()).collect();
        assert_eq!(tokens.len(), 100);
        for token in tokens {
            assert!(token.len() == 16 && token.chars().all(|c| c.is_ascii_alphabetic()), "{token}");
        }
    }
}
