//! Who calls: a user's name and password, and the token that was had for them.
//!
//! A token is got when the first call needs one, and got anew when the cluster does not take it any more: it was not used for long, the
//! member restarted, or users have changed. Both refusals say that nothing was done, so the call is made once more, also if it writes.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use crate::error::Error;

/// Metadata in which etcd's clients send tokens.
const TOKEN: &str = "token";

/// A user's name and password. Clones share the token, so one that several clients use authenticates once.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    user: String,
    password: String,
    token: Mutex<Option<MetadataValue<Ascii>>>,
}

/// Without the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.0.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those of a user.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self(Arc::new(Inner { user: user.into(), password: password.into(), token: Mutex::new(None) }))
    }

    /// Name and password.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> (String, String) {
        (self.0.user.clone(), self.0.password.clone())
    }

    pub(super) fn user(&self) -> &str {
        &self.0.user
    }

    pub(super) fn password(&self) -> &str {
        &self.0.password
    }

    /// The token, if one was had.
    pub(super) fn token(&self) -> Option<MetadataValue<Ascii>> {
        self.0.token.lock().clone()
    }

    /// A token was had.
    pub(super) fn keep(&self, token: &str) -> Result<(), Error> {
        let value =
            token.parse().map_err(|_| Error::Invalid("the token that was answered is none".into()))?;
        *self.0.token.lock() = Some(value);
        Ok(())
    }

    /// The token is not taken any more, unless another one was had meanwhile.
    pub(super) fn forget(&self, token: Option<&MetadataValue<Ascii>>) {
        let mut known = self.0.token.lock();
        if known.as_ref() == token {
            *known = None;
        }
    }
}

/// Whether the cluster refused the token: nothing was done, and another one may do.
pub(super) fn refuses_token(error: &Error) -> bool {
    matches!(error, Error::Remote { code, text, .. } if says_token_is_void(Code::from_i32(*code), text))
}

/// As [`refuses_token`], of a status.
fn says_token_is_void(code: Code, text: &str) -> bool {
    match code {
        Code::Unauthenticated => text == "etcdserver: invalid auth token",
        Code::InvalidArgument => {
            // The second is what etcd says to a client that sent no token because authentication was disabled when it asked for one.
            text == "etcdserver: revision of auth store is old" || text == "etcdserver: user name is empty"
        }
        _ => false,
    }
}

/// Whether a watcher was refused because of its token.
pub(super) fn reason_refuses_token(reason: &str) -> bool {
    ["invalid auth token", "revision of auth store is old", "user name is empty"]
        .iter()
        .any(|text| reason.ends_with(text))
}

/// Puts the token into every call.
#[derive(Clone, Debug)]
pub(super) struct Bearer(pub(super) Option<Credentials>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = self.0.as_ref().and_then(Credentials::token) {
            request.metadata_mut().insert(TOKEN, token);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_tokens_are_not_shown() {
        let credentials = Credentials::new("alice", "secret-1");
        credentials.keep("secret-2").unwrap();
        let shown = format!("{credentials:?} {:?}", Bearer(Some(credentials.clone())));
        assert!(shown.contains("alice") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_token_that_was_replaced_is_not_forgotten() {
        let credentials = Credentials::new("alice", "x");
        credentials.keep("one").unwrap();
        let one = credentials.token();
        credentials.clone().keep("two").unwrap();
        credentials.forget(one.as_ref());
        assert_eq!(credentials.token().unwrap(), "two");
        credentials.forget(credentials.token().as_ref());
        assert_eq!(credentials.token(), None);
        assert!(credentials.keep("\n").is_err());
    }

    #[test]
    fn only_what_another_token_may_cure_is_tried_again() {
        let refused = |code: Code, text: &str| Error::Remote {
            code: code as i32,
            text: text.into(),
            outcome_unknown: false,
        };
        for (error, void) in [
            (refused(Code::Unauthenticated, "etcdserver: invalid auth token"), true),
            (refused(Code::InvalidArgument, "etcdserver: revision of auth store is old"), true),
            (refused(Code::InvalidArgument, "etcdserver: user name is empty"), true),
            (refused(Code::PermissionDenied, "etcdserver: permission denied"), false),
            (refused(Code::InvalidArgument, "etcdserver: key is not provided"), false),
            (Error::NoLeader, false),
        ] {
            assert_eq!(refuses_token(&error), void, "{error}");
        }
        assert!(reason_refuses_token(
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
        ));
        assert!(!reason_refuses_token(
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        ));
    }
}
