//! Whether calls must say who they are, and whose the simple tokens are. What every call looks at, so it is kept beside the state and
//! follows it: apply tells it of every change, while it holds the state.
//!
//! As in etcd a simple token is made by a command in the log, so all members know it, and is kept in memory only: a member that
//! restarts, or takes a snapshot, knows none, and its clients authenticate anew. What a member finds in its log when it starts makes no token
//! either: its time may be over long since. Each member ends a token by its own clock, when it was not used there for some time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::machine::Machine;
use crate::limits;
use crate::mvcc::auth::{Auth, AuthEvent};

/// How often tokens whose time is over are looked for, when there are new ones.
const SWEEP: Duration = Duration::from_secs(1);

/// What every call looks at. Of one member.
#[derive(Debug)]
pub struct AccessState {
    enabled: AtomicBool,
    revision: AtomicU64,
    tokens: Mutex<Tokens>,
    /// Index of the last entry that was in the log when the member started: up to it no token is made.
    replayed: AtomicU64,
    /// The auth revision, or another number whenever something has changed.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Tokens {
    known: BTreeMap<String, Token>,
    ttl: Duration,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Token {
    user: String,
    until: Instant,
}

impl AccessState {
    /// Of a state with these users.
    pub fn new(auth: &Auth) -> Self {
        Self {
            enabled: AtomicBool::new(auth.is_enabled()),
            revision: AtomicU64::new(auth.revision()),
            tokens: Mutex::new(Tokens { known: BTreeMap::new(), ttl: limits::TOKEN_TTL, swept: None }),
            replayed: AtomicU64::new(0),
            changes: watch::Sender::new(0),
        }
    }

    /// Of a state that is loaded; entries follow that are not new, until [`AccessState::replays_up_to`] says up to which.
    pub(crate) fn loaded(auth: &Auth) -> Self {
        let access = Self::new(auth);
        access.replays_up_to(u64::MAX);
        access
    }

    /// Entries up to the index are not new.
    pub(crate) fn replays_up_to(&self, index: u64) {
        self.replayed.store(index, Ordering::Release);
    }

    /// Calls must say who they are.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// The auth revision.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Follows changes of users, roles and permissions.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Lets tokens live for `ttl` after they were last used.
    pub fn set_token_ttl(&self, ttl: Duration) {
        self.tokens.lock().ttl = ttl;
    }

    /// Whose a token is; its time begins anew. `None`: nobody's, or its time is over.
    pub fn user_of(&self, token: &str) -> Option<String> {
        let now = Instant::now();
        let mut tokens = self.tokens.lock();
        let ttl = tokens.ttl;
        let known = tokens.known.get_mut(token)?;
        if known.until <= now {
            tokens.known.remove(token);
            return None;
        }
        known.until = now + ttl;
        Some(known.user.clone())
    }

    /// Follows the state: the entry of this index was applied, and these are its events.
    pub fn follow(&self, auth: &Auth, events: &[AuthEvent], index: u64) {
        let is_new = index > self.replayed.load(Ordering::Acquire);
        for event in events {
            let mut tokens = self.tokens.lock();
            match event {
                AuthEvent::Issued { token, user } if is_new => tokens.add(token, user),
                AuthEvent::Issued { .. } => {}
                AuthEvent::Forget(user) => tokens.known.retain(|_, token| token.user != *user),
                AuthEvent::ForgetAll => tokens.known.clear(),
            }
        }
        let was = self.revision.swap(auth.revision(), Ordering::AcqRel);
        let was_enabled = self.enabled.swap(auth.is_enabled(), Ordering::AcqRel);
        if was != auth.revision() || was_enabled != auth.is_enabled() {
            self.changes.send_modify(|number| *number = number.wrapping_add(1));
        }
    }

    /// Another state has taken the place of the one that was followed: who has changed passwords meanwhile is not known.
    pub(crate) fn jump(&self, auth: &Auth) {
        self.follow(auth, &[AuthEvent::ForgetAll], 0);
    }
}

impl Machine {
    /// Whether calls must say who they are, and whose the tokens are.
    pub fn access(&self) -> &AccessState {
        &self.access
    }
}

impl Tokens {
    fn add(&mut self, token: &str, user: &str) {
        let now = Instant::now();
        if self.swept.is_none_or(|swept| now >= swept + SWEEP) || self.known.len() >= limits::TOKENS {
            self.swept = Some(now);
            self.known.retain(|_, token| token.until > now);
        }
        if self.known.len() >= limits::TOKENS {
            // Whoever used theirs last the longest ago authenticates anew.
            let oldest =
                self.known.iter().min_by_key(|(_, token)| token.until).map(|(token, _)| token.clone());
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(token.to_owned(), Token { user: user.to_owned(), until: now + self.ttl });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(token: &str, user: &str) -> AuthEvent {
        AuthEvent::Issued { token: token.into(), user: user.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_lives_as_long_as_it_is_used_and_some_time_more() {
        let (auth, ttl) = (Auth::default(), Duration::from_secs(10));
        let access = AccessState::new(&auth);
        access.set_token_ttl(ttl);
        access.follow(&auth, &[issued("a.1", "alice"), issued("b.1", "bob")], 1);
        for _ in 0..5 {
            tokio::time::advance(Duration::from_millis(9_999)).await;
            assert_eq!(access.user_of("a.1").as_deref(), Some("alice"));
        }
        assert_eq!(access.user_of("b.1"), None, "nobody used it");
        assert_eq!(access.user_of("c.1"), None);
        tokio::time::advance(ttl).await;
        assert_eq!(access.user_of("a.1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_are_void_are_forgotten_and_those_whose_time_is_over_make_room() {
        let auth = Auth::default();
        let access = AccessState::new(&auth);
        access.follow(&auth, &[issued("a.1", "alice"), issued("a.2", "alice"), issued("b.1", "bob")], 1);
        access.follow(&auth, &[AuthEvent::Forget("alice".into())], 1);
        assert_eq!((access.user_of("a.1"), access.user_of("a.2")), (None, None));
        assert!(access.user_of("b.1").is_some());
        access.jump(&auth);
        assert_eq!(access.user_of("b.1"), None);

        access.follow(&auth, &[issued("a.3", "alice")], 1);
        tokio::time::advance(limits::TOKEN_TTL).await;
        access.follow(&auth, &[issued("b.2", "bob")], 1);
        assert_eq!(access.tokens.lock().known.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_in_the_log_already_makes_no_token() {
        let auth = Auth::default();
        let access = AccessState::loaded(&auth);
        access.follow(&auth, &[issued("a.1", "alice")], 1);
        access.replays_up_to(2);
        access.follow(&auth, &[issued("a.2", "alice")], 2);
        access.follow(&auth, &[issued("a.3", "alice")], 3);
        assert_eq!((access.user_of("a.1"), access.user_of("a.2")), (None, None));
        assert!(access.user_of("a.3").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_more_than_there_may_be() {
        let auth = Auth::default();
        let access = AccessState::new(&auth);
        let mut events: Vec<_> = (0..limits::TOKENS).map(|n| issued(&format!("a.{n}"), "alice")).collect();
        access.follow(&auth, &events, 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(access.user_of("a.0").is_some(), "used last");
        events = vec![issued("b.0", "bob")];
        access.follow(&auth, &events, 1);
        assert_eq!(access.tokens.lock().known.len(), limits::TOKENS);
        assert!(access.user_of("b.0").is_some() && access.user_of("a.0").is_some());
    }
}
