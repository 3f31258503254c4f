//! Who calls, and whether that call is for them: asked of every method before it is answered.
//!
//! While authentication is disabled nothing of this happens: one load of a flag.
//!
//! What a call needs is stated in one table, [`rule`], which does not compile while a method is missing; a method that streams calls
//! [`admit`] itself, with its rule. Whatever needs keys is looked at by the method once the request is there, with [`check`], and again
//! when it is applied ([`crate::mvcc::auth`]).
//!
//! A check here is against what this member has applied. It may lag, so that a user does not have yet what another member has confirmed:
//! whoever is refused is looked at once more when this member has caught up. etcd refuses there, and its clients must try again.

use std::borrow::Cow;

use http::{Extensions, HeaderMap};

use super::methods::Unary;
use super::{Shared, texts};
use crate::limits;
use crate::mvcc::State;
use crate::mvcc::auth::{By, Identity};
use crate::mvcc::command::Refusal;
use crate::raft::access::AccessState;
use crate::transport::Failure;

/// What a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing. A token is not even looked at.
    Nobody,
    /// Nothing, but a token that is sent must be one.
    Anybody,
    /// A user.
    User,
    /// The role `root`.
    Root,
    /// What the method itself looks at: permission for keys, or for a user or role.
    Own,
}

/// What `method` needs: etcd's rules. Our own methods are about members, so they need what etcd's about members do.
pub(super) fn rule(method: Unary) -> Rule {
    match method {
        Unary::Authenticate => Rule::Nobody,
        Unary::AuthStatus => Rule::Anybody,
        Unary::LeaseGrant
        | Unary::LeaseRevoke
        | Unary::LeaseTimeToLive
        | Unary::LeaseLeases
        | Unary::MemberList
        | Unary::Status => Rule::User,
        Unary::Range
        | Unary::Put
        | Unary::DeleteRange
        | Unary::Txn
        | Unary::Lock
        | Unary::Unlock
        | Unary::Campaign
        | Unary::Proclaim
        | Unary::Leader
        | Unary::Resign
        | Unary::UserGet
        | Unary::RoleGet => Rule::Own,
        Unary::Compact
        | Unary::MemberAdd
        | Unary::MemberRemove
        | Unary::MemberUpdate
        | Unary::MemberPromote
        | Unary::Alarm
        | Unary::Defragment
        | Unary::Hash
        | Unary::HashKv
        | Unary::Downgrade
        | Unary::MoveLeader
        | Unary::Resize
        | Unary::Events
        | Unary::AuthEnable
        | Unary::AuthDisable
        | Unary::UserAdd
        | Unary::UserList
        | Unary::UserDelete
        | Unary::UserChangePassword
        | Unary::UserGrantRole
        | Unary::UserRevokeRole
        | Unary::RoleAdd
        | Unary::RoleList
        | Unary::RoleDelete
        | Unary::RoleGrantPermission
        | Unary::RoleRevokePermission => Rule::Root,
    }
}

/// The common name in the certificate that a client showed, if clients are known by those. Whoever serves connections with certificates
/// puts it into the extensions of each request.
#[derive(Clone, Debug)]
pub struct CommonName(pub String);

/// Who calls, as the call's headers say. Made anew for every call; of a stream for as long as it lasts.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    token: Option<String>,
    common_name: Option<String>,
}

impl Caller {
    /// Of a call, whether or not authentication is enabled by now.
    pub(super) fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let token = headers.get("token").or_else(|| headers.get("authorization"));
        let token = token.map(|value| match String::from_utf8_lossy(value.as_bytes()) {
            Cow::Borrowed(text) => text.strip_prefix("Bearer ").unwrap_or(text).to_owned(),
            // No token of ours.
            Cow::Owned(text) => text,
        });
        // A gateway's certificate is not that of whoever calls through it.
        let is_gateway = headers.contains_key("grpcgateway-accept");
        let common_name = extensions.get::<CommonName>().filter(|_| !is_gateway);
        Self { token, common_name: common_name.map(|CommonName(name)| name.clone()) }
    }

    /// Who it is. Nobody, if authentication is disabled or it did not say.
    ///
    /// # Errors
    /// The token is none.
    pub(super) async fn identity(&self, api: &Shared) -> Result<Identity, Failure> {
        let Some(access) = enabled(api) else {
            return Ok(Identity::NOBODY);
        };
        // Before the token is looked at: what changes meanwhile makes the identity an old one.
        let revision = access.revision();
        let identity = match (&self.token, &self.common_name) {
            (Some(token), _) => match api.auth.get().and_then(|auth| auth.signed.as_ref()) {
                Some(signed) => signed.verify(token),
                None => simple(api, token).await.map(|user| Identity { user, revision }),
            }
            .filter(|identity| !identity.user.is_empty())
            .ok_or(texts::INVALID_AUTH_TOKEN)?,
            (None, Some(name)) if !name.is_empty() => Identity { user: name.clone(), revision },
            (None, _) => Identity::NOBODY,
        };
        Ok(identity)
    }
}

/// What is known of tokens, while authentication is enabled.
fn enabled(api: &Shared) -> Option<&AccessState> {
    api.store.access().filter(|access| access.is_enabled())
}

/// Whose a simple token is. It names the log entry that made it, which this member may not have applied yet.
async fn simple(api: &Shared, token: &str) -> Option<String> {
    let (_, index) = token.rsplit_once('.')?;
    let index = index.parse().ok()?;
    if let Some(user) = api.store.access()?.user_of(token) {
        return Some(user);
    }
    // An entry that this member has not heard of is most likely none.
    tokio::time::timeout(limits::TOKEN_WAIT, api.store.applied(index)).await.ok()?;
    api.store.access()?.user_of(token)
}

/// Lets a call pass that has what its method needs; says who it is. [`Rule::Own`] is left to the method.
pub(super) async fn admit(
    api: &Shared,
    rule: Rule,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Caller, Failure> {
    if enabled(api).is_none() {
        // Enabled meanwhile, it is nobody who calls, and is refused.
        return Ok(Caller::default());
    }
    let caller = Caller::of(headers, extensions);
    match rule {
        Rule::Nobody | Rule::Own => {}
        Rule::Anybody => {
            caller.identity(api).await?;
        }
        Rule::User => {
            check(api, &caller, |state, by| state.auth().is_somebody(by)).await?;
        }
        Rule::Root => {
            check(api, &caller, |state, by| state.auth().may_administer(by)).await?;
        }
    }
    Ok(caller)
}

/// Whether `caller` may do what `may` says, and who it is. Whoever may not is looked at again when this member has caught up.
pub(super) async fn check(
    api: &Shared,
    caller: &Caller,
    may: impl Fn(&State, By<'_>) -> Result<(), Refusal>,
) -> Result<Identity, Failure> {
    if enabled(api).is_none() {
        // Enabled meanwhile, it is nobody who calls, and is refused when it is applied, or before it is told.
        return Ok(Identity::NOBODY);
    }
    let identity = caller.identity(api).await?;
    let Err(refusal) = check_here(api, &identity, &may) else { return Ok(identity) };
    if refusal == Refusal::UserEmpty {
        return Err(texts::refusal(refusal));
    }
    // A member that cannot catch up does not know: what was permitted meanwhile must not be denied.
    api.store.barrier().await.map_err(|error| texts::failure(&error))?;
    let identity = caller.identity(api).await?;
    check_here(api, &identity, may).map_err(texts::refusal)?;
    Ok(identity)
}

/// Whether `identity` may do what `may` says, as far as this member knows.
pub(super) fn check_here(
    api: &Shared,
    identity: &Identity,
    may: impl Fn(&State, By<'_>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if enabled(api).is_none() {
        return Ok(());
    }
    // Whoever cannot be looked at may not.
    let mut answer = Err(Refusal::PermissionDenied);
    api.store.look(&mut |state| answer = may(state, identity.by()));
    answer
}

/// Whether what was read may still be told: nothing has changed about users since `identity` was checked.
pub(super) fn unchanged(api: &Shared, identity: &Identity) -> Result<(), Failure> {
    let Some(access) = enabled(api) else { return Ok(()) };
    // Nobody was asked when nobody in particular read; or nothing was read, which needs nobody.
    if identity.revision == 0 || access.revision() == identity.revision {
        Ok(())
    } else {
        Err(texts::AUTH_OLD_REVISION.into())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_call_says_who_calls_by_a_token_or_by_a_certificate() {
        let of = |headers: &[(&'static str, &'static str)], name: Option<&str>| {
            let mut map = HeaderMap::new();
            for (header, value) in headers {
                map.insert(*header, HeaderValue::from_static(value));
            }
            let mut extensions = Extensions::new();
            if let Some(name) = name {
                extensions.insert(CommonName(name.into()));
            }
            let Caller { token, common_name } = Caller::of(&map, &extensions);
            (token, common_name)
        };
        let token = |text: &str| (Some(text.to_owned()), None);
        assert_eq!(of(&[], None), (None, None));
        assert_eq!(of(&[("token", "a.1")], None), token("a.1"));
        assert_eq!(of(&[("token", "Bearer a.1")], None), token("a.1"));
        assert_eq!(of(&[("authorization", "Bearer a.1")], None), token("a.1"));
        assert_eq!(of(&[("authorization", "bearer a.1")], None), token("bearer a.1"));
        // As in etcd, what its own clients send comes first.
        assert_eq!(of(&[("authorization", "b.2"), ("token", "a.1")], None), token("a.1"));
        assert_eq!(of(&[], Some("alice")), (None, Some("alice".into())));
        assert_eq!(of(&[("token", "a.1")], Some("alice")), (Some("a.1".into()), Some("alice".into())));
        // The certificate is the gateway's.
        assert_eq!(of(&[("grpcgateway-accept", "*/*")], Some("gateway")), (None, None));
    }

    #[test]
    fn nothing_that_changes_the_cluster_or_its_users_is_left_to_all() {
        for method in [
            Unary::AuthEnable,
            Unary::AuthDisable,
            Unary::UserAdd,
            Unary::RoleGrantPermission,
            Unary::MemberRemove,
            Unary::MoveLeader,
            Unary::Compact,
            Unary::Resize,
        ] {
            assert_eq!(rule(method), Rule::Root, "{method:?}");
        }
        assert_eq!(rule(Unary::Authenticate), Rule::Nobody);
    }
}
