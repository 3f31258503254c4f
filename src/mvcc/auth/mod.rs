//! Users, roles, permissions on ranges of keys, and who may do what. Pure: no passwords are hashed here, and no tokens are kept.
//!
//! The rules, the order in which they are looked at, and what is idempotent are those of etcd's `server/auth/store.go`. A refused
//! command changes nothing; one that changes something raises the auth revision by one, except enabling, as in etcd.
//!
//! Invariants:
//! * While authentication is enabled there is a user `root` with the role `root`.
//! * The roles of a user are sorted, and so are the permissions of a role, by their first keys.
//! * What a user may read and write is worked out when users or roles change, not when it is asked.
//!
//! * `values`: users, roles, permissions, who sends a request
//! * `command`: what changes them
//! * `ranges`: sets of keys, merged
//! * `check`: who may do what
//! * `stored`: bytes in the engine

mod check;
mod command;
mod ranges;
mod stored;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

pub(super) use self::command::TouchedAuth;
pub use self::command::{AuthCommand, AuthEvent};
use self::ranges::KeySet;
pub(super) use self::stored::{Item, Pieces, read as read_item};
pub use self::values::{Access, By, Identity, Permission, ROOT, User};

/// Auth revision of a store in which nothing was changed: etcd's.
const FIRST_REVISION: u64 = 1;

/// Who there is and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Vec<Permission>>,
    /// What each user may do, worked out.
    allowed: BTreeMap<String, Allowed>,
}

/// The keys that a user may read and write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Allowed {
    read: KeySet,
    write: KeySet,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: false,
            revision: FIRST_REVISION,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            allowed: BTreeMap::new(),
        }
    }
}

impl Auth {
    /// Requests are checked.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// How often users, roles and permissions were changed, counted from 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The names of all users, sorted.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The permissions of a role, by their first keys. Those of `root` are all there is, and no list.
    pub fn role(&self, name: &str) -> Option<&[Permission]> {
        self.roles.get(name).map(Vec::as_slice)
    }

    /// The names of all roles, sorted.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// How the password of `user` is checked: its hash and the auth revision at which it is that.
    ///
    /// # Errors
    /// [`super::command::Refusal::AuthDisabled`]. A user that is not there, or has no password, has no hash.
    pub fn password_of(&self, user: &str) -> Result<(Option<Bytes>, u64), super::command::Refusal> {
        if !self.enabled {
            return Err(super::command::Refusal::AuthDisabled);
        }
        let hash = self.users.get(user).and_then(|user| user.password.clone());
        Ok((hash, self.revision))
    }

    /// Works out anew what users may do: of all that `of` names.
    fn work_out(&mut self, of: impl Fn(&str, &User) -> bool) {
        for (name, user) in &self.users {
            if of(name, user) {
                let allowed = allowed(user, &self.roles);
                self.allowed.insert(name.clone(), allowed);
            }
        }
        let users = &self.users;
        self.allowed.retain(|name, _| users.contains_key(name));
    }
}

fn allowed(user: &User, roles: &BTreeMap<String, Vec<Permission>>) -> Allowed {
    let permissions = || user.roles.iter().filter_map(|role| roles.get(role)).flatten();
    let of = |may: fn(Access) -> bool| KeySet::of(permissions().filter(|one| may(one.access)));
    Allowed { read: of(Access::reads), write: of(Access::writes) }
}

/// Roles of a user.
type Roles = BTreeSet<String>;
