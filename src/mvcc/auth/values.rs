//! Users, permissions, and who sends a request.

use bytes::Bytes;

use super::Roles;

/// Name of the user and of the role that may do everything.
pub const ROOT: &str = "root";

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Hash of its password; `None`: it has none, and is known by its certificate only. A hash that is none matches no password.
    pub password: Option<Bytes>,
    /// Its roles.
    pub roles: Roles,
}

impl User {
    /// Whether it may do everything.
    pub fn is_root(&self) -> bool {
        self.roles.contains(ROOT)
    }
}

/// What may be done with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    /// Read them.
    Read = 0,
    /// Write them.
    Write = 1,
    /// Both.
    ReadWrite = 2,
}

impl Access {
    pub(super) fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    /// That of this number, which is etcd's.
    pub fn from_number(number: u64) -> Option<Self> {
        [Self::Read, Self::Write, Self::ReadWrite].into_iter().find(|access| *access as u64 == number)
    }
}

/// What may be done with every key in `[key, range_end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// What.
    pub access: Access,
    /// First key; never empty.
    pub key: Bytes,
    /// Empty: `key` alone. `"\0"`: every key from `key` on. Else the first key that is not in the range.
    pub range_end: Bytes,
}

impl Permission {
    /// Whether the range is one that etcd takes.
    pub(super) fn is_valid(&self) -> bool {
        let end = self.range_end.as_ref();
        !self.key.is_empty() && (end.is_empty() || end == [0] || self.key < self.range_end)
    }

    pub(super) fn is_of(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.key == key && self.range_end == range_end
    }
}

/// Who sends a request, as its token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user; empty: nobody, or the member itself.
    pub user: String,
    /// The auth revision at which that was so; 0: nobody.
    pub revision: u64,
}

impl Identity {
    /// No user's revision: that of what a member does by itself, or for the program that it is a part of.
    const MEMBER: u64 = u64::MAX;

    /// Somebody who did not say who.
    pub const NOBODY: Self = Self { user: String::new(), revision: 0 };

    /// The member itself, or the program in the same process: it may do everything. No client can be this, because a token names a
    /// user.
    pub fn member() -> Self {
        Self { user: String::new(), revision: Self::MEMBER }
    }

    /// By reference.
    pub fn by(&self) -> By<'_> {
        By { user: &self.user, revision: self.revision }
    }
}

/// An [`Identity`], by reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By<'a> {
    /// As [`Identity::user`].
    pub user: &'a str,
    /// As [`Identity::revision`].
    pub revision: u64,
}

impl By<'_> {
    /// It is the member itself.
    pub fn is_member(self) -> bool {
        self.user.is_empty() && self.revision == Identity::MEMBER
    }
}
