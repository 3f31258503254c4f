//! Users, roles and the status in the engine. Texts and keys follow their lengths; numbers are little-endian, 8 bytes each.

use bytes::{BufMut, Bytes};

use super::super::record::Damage;
use super::super::{Changes, layout, small};
use super::{Access, Auth, FIRST_REVISION, Permission, Roles, TouchedAuth, User};

/// An item, as it is read.
#[derive(Debug)]
pub(in super::super) enum Item {
    Status { enabled: bool, revision: u64 },
    User(String, User),
    Role(String, Vec<Permission>),
}

/// Of a user that has no password.
const NO_PASSWORD: u64 = 1;

impl Auth {
    /// All items.
    pub(in super::super) fn items(&self) -> impl Iterator<Item = (Bytes, Bytes)> {
        let status = (self.enabled || self.revision != FIRST_REVISION).then(|| self.status());
        let users = self.users.iter().map(|(name, user)| stored_user(name, user));
        let roles = self.roles.iter().map(|(name, permissions)| stored_role(name, permissions));
        status.into_iter().chain(users).chain(roles)
    }

    /// Adds to `changes` what an entry changed.
    pub(in super::super) fn write(&self, touched: &TouchedAuth, changes: &mut Changes) {
        changes.puts.extend(touched.status.then(|| self.status()));
        for (name, was_there) in &touched.users {
            match self.users.get(name) {
                Some(user) => changes.puts.push(stored_user(name, user)),
                None if *was_there => changes.deletes.push(layout::user_key(name).into()),
                // It came and went in one entry.
                None => {}
            }
        }
        for (name, was_there) in &touched.roles {
            match self.roles.get(name) {
                Some(permissions) => changes.puts.push(stored_role(name, permissions)),
                None if *was_there => changes.deletes.push(layout::role_key(name).into()),
                None => {}
            }
        }
    }

    /// Puts back an item that was read; [`Auth::finish_load`] follows the last.
    pub(in super::super) fn load(&mut self, item: Item) {
        match item {
            Item::Status { enabled, revision } => (self.enabled, self.revision) = (enabled, revision),
            Item::User(name, user) => {
                self.users.insert(name, user);
            }
            Item::Role(name, permissions) => {
                self.roles.insert(name, permissions);
            }
        }
    }

    fn status(&self) -> (Bytes, Bytes) {
        let mut out = Vec::new();
        out.put_u64_le(u64::from(self.enabled));
        out.put_u64_le(self.revision);
        small::item_with(layout::AUTH, &[], &out)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u64_le(bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn stored_user(name: &str, user: &User) -> (Bytes, Bytes) {
    let mut out = Vec::new();
    out.put_u64_le(if user.password.is_none() { NO_PASSWORD } else { 0 });
    put_bytes(&mut out, user.password.as_deref().unwrap_or_default());
    out.put_u64_le(user.roles.len() as u64);
    for role in &user.roles {
        put_bytes(&mut out, role.as_bytes());
    }
    small::item_with(&layout::user_key(name), &[], &out)
}

fn stored_role(name: &str, permissions: &[Permission]) -> (Bytes, Bytes) {
    let mut out = Vec::new();
    out.put_u64_le(permissions.len() as u64);
    for Permission { access, key, range_end } in permissions {
        out.put_u64_le(*access as u64);
        put_bytes(&mut out, key);
        put_bytes(&mut out, range_end);
    }
    small::item_with(&layout::role_key(name), &[], &out)
}

/// Reads the item under `key`; `None` if it is none of these.
pub(in super::super) fn read(key: &[u8], body: &[u8]) -> Option<Result<Item, Damage>> {
    if key == layout::AUTH {
        Some(read_status(body))
    } else if let Some(name) = layout::user_name(key) {
        Some(read_user(name, body))
    } else {
        layout::role_name(key).map(|name| read_role(name, body))
    }
}

fn read_status(body: &[u8]) -> Result<Item, Damage> {
    let mut rest = Rest(body);
    let enabled = match rest.number()? {
        0 => false,
        1 => true,
        _ => return Err(Damage::Number),
    };
    let revision = rest.number()?;
    rest.end()?;
    if revision < FIRST_REVISION { Err(Damage::Number) } else { Ok(Item::Status { enabled, revision }) }
}

fn read_user(name: &[u8], body: &[u8]) -> Result<Item, Damage> {
    let mut rest = Rest(body);
    let flags = rest.number()?;
    let password = rest.bytes()?;
    let password = match flags {
        NO_PASSWORD => None,
        0 => Some(Bytes::copy_from_slice(password)),
        _ => return Err(Damage::Number),
    };
    let count = rest.number()?;
    let mut roles = Roles::new();
    for _ in 0..count {
        roles.insert(text(rest.bytes()?)?);
    }
    rest.end()?;
    Ok(Item::User(text(name)?, User { password, roles }))
}

fn read_role(name: &[u8], body: &[u8]) -> Result<Item, Damage> {
    let mut rest = Rest(body);
    let count = rest.number()?;
    let mut permissions = Vec::new();
    for _ in 0..count {
        let access = Access::from_number(rest.number()?).ok_or(Damage::Number)?;
        let key = Bytes::copy_from_slice(rest.bytes()?);
        let range_end = Bytes::copy_from_slice(rest.bytes()?);
        permissions.push(Permission { access, key, range_end });
    }
    rest.end()?;
    Ok(Item::Role(text(name)?, permissions))
}

fn text(bytes: &[u8]) -> Result<String, Damage> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Damage::Text)
}

/// What is left of an item.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn number(&mut self) -> Result<u64, Damage> {
        let (number, rest) = self.0.split_first_chunk::<8>().ok_or(Damage::Truncated)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*number))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let length = usize::try_from(self.number()?).map_err(|_| Damage::Number)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Damage::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn end(&self) -> Result<(), Damage> {
        if self.0.is_empty() { Ok(()) } else { Err(Damage::Truncated) }
    }
}
