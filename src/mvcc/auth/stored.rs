//! Users, roles and the status in the engine. Texts and keys follow their lengths; numbers are little-endian, 8 bytes each.
//!
//! A user with many roles, or a role with many permissions, is cut into parts, because no item of the engine is larger than a record
//! ([`limits::RECORD_BYTES`]). Each part begins with the number of parts.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};

use super::super::record::Damage;
use super::super::{Changes, layout, small};
use super::{Access, Auth, FIRST_REVISION, Permission, Roles, TouchedAuth, User};
use crate::limits;

/// Bytes of one part, so that it fits into an item with what is put before it.
const PART_BYTES: usize = limits::RECORD_BYTES - 64;
/// Of a user that has no password.
const NO_PASSWORD: u64 = 1;

impl Auth {
    /// All items.
    pub(in super::super) fn items(&self) -> impl Iterator<Item = (Bytes, Bytes)> {
        let status = (self.enabled || self.revision != FIRST_REVISION).then(|| self.status());
        let users = self.users.iter().flat_map(|(name, user)| parts(layout::USER, name, &encode_user(user)));
        let roles = self.roles.iter().flat_map(|(name, role)| parts(layout::ROLE, name, &encode_role(role)));
        status.into_iter().chain(users).chain(roles)
    }

    /// Adds to `changes` what an entry changed.
    pub(in super::super) fn write(&self, touched: &TouchedAuth, changes: &mut Changes) {
        changes.puts.extend(touched.status.then(|| self.status()));
        for (name, before) in &touched.users {
            let now = self.users.get(name).map(encode_user);
            replace(layout::USER, name, *before, now.as_deref(), changes);
        }
        for (name, before) in &touched.roles {
            let now = self.roles.get(name).map(|role| encode_role(role));
            replace(layout::ROLE, name, *before, now.as_deref(), changes);
        }
    }

    fn status(&self) -> (Bytes, Bytes) {
        let mut out = Vec::new();
        out.put_u64_le(u64::from(self.enabled));
        out.put_u64_le(self.revision);
        small::item_with(layout::AUTH, &[], &out)
    }
}

/// How many items a user takes.
pub(super) fn items_of_user(user: &User) -> u16 {
    count(encode_user(user).len())
}

/// How many items a role takes.
pub(super) fn items_of_role(permissions: &[Permission]) -> u16 {
    count(encode_role(permissions).len())
}

fn count(bytes: usize) -> u16 {
    // The bounds of users and roles are far below.
    u16::try_from(bytes.div_ceil(PART_BYTES)).unwrap_or(u16::MAX)
}

fn parts(begin: &'static [u8], name: &str, encoded: &[u8]) -> Vec<(Bytes, Bytes)> {
    let all = u64::from(count(encoded.len()));
    let part = |(number, part)| small::item_with(&layout::part_of(begin, number, name), &[all], part);
    (0..).zip(encoded.chunks(PART_BYTES)).map(part).collect()
}

/// Writes the parts that there are now, and removes those of `before` that are none any more.
fn replace(begin: &'static [u8], name: &str, before: u16, now: Option<&[u8]>, changes: &mut Changes) {
    changes.puts.extend(now.map(|encoded| parts(begin, name, encoded)).unwrap_or_default());
    let now = now.map_or(0, |encoded| count(encoded.len()));
    changes.deletes.extend((now..before).map(|part| Bytes::from(layout::part_of(begin, part, name))));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u64_le(bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn encode_user(user: &User) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64_le(if user.password.is_none() { NO_PASSWORD } else { 0 });
    put_bytes(&mut out, user.password.as_deref().unwrap_or_default());
    out.put_u64_le(user.roles.len() as u64);
    for role in &user.roles {
        put_bytes(&mut out, role.as_bytes());
    }
    out
}

fn encode_role(permissions: &[Permission]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64_le(permissions.len() as u64);
    for Permission { access, key, range_end } in permissions {
        out.put_u64_le(*access as u64);
        put_bytes(&mut out, key);
        put_bytes(&mut out, range_end);
    }
    out
}

/// An item, as it is read.
#[derive(Debug)]
pub(in super::super) enum Item {
    Status { enabled: bool, revision: u64 },
    User(Part),
    Role(Part),
}

/// A part of a user or role.
#[derive(Debug)]
pub(in super::super) struct Part {
    number: u16,
    all: u64,
    name: String,
    bytes: Vec<u8>,
}

/// Reads the item under `key`; `None` if it is none of these.
pub(in super::super) fn read(key: &[u8], body: &[u8]) -> Option<Result<Item, Damage>> {
    if key == layout::AUTH {
        return Some(read_status(body));
    }
    let part = |(number, name), item: fn(Part) -> Item| {
        let mut rest = Rest(body);
        let (all, name) = (rest.number()?, text(name)?);
        Ok(item(Part { number, all, name, bytes: rest.0.to_vec() }))
    };
    if let Some(found) = layout::parse_part_of(layout::USER, key) {
        return Some(part(found, Item::User));
    }
    layout::parse_part_of(layout::ROLE, key).map(|found| part(found, Item::Role))
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

/// What was read so far. The items of an engine come in the order of their keys, so parts in the order of their numbers.
#[derive(Debug, Default)]
pub(in super::super) struct Pieces {
    auth: Auth,
    users: BTreeMap<String, Vec<Part>>,
    roles: BTreeMap<String, Vec<Part>>,
}

impl Pieces {
    /// Takes an item.
    pub(in super::super) fn add(&mut self, item: Item) {
        match item {
            Item::Status { enabled, revision } => {
                (self.auth.enabled, self.auth.revision) = (enabled, revision);
            }
            Item::User(part) => self.users.entry(part.name.clone()).or_default().push(part),
            Item::Role(part) => self.roles.entry(part.name.clone()).or_default().push(part),
        }
    }

    /// Puts everything together; with what is damaged comes the key of its first part.
    pub(in super::super) fn finish(self) -> Result<Auth, (Bytes, Damage)> {
        let Self { mut auth, users, roles } = self;
        for (name, parts) in users {
            let key = || Bytes::from(layout::part_of(layout::USER, 0, &name));
            let user = whole(&parts).and_then(|bytes| read_user(&bytes)).map_err(|damage| (key(), damage))?;
            auth.users.insert(name, user);
        }
        for (name, parts) in roles {
            let key = || Bytes::from(layout::part_of(layout::ROLE, 0, &name));
            let role = whole(&parts).and_then(|bytes| read_role(&bytes)).map_err(|damage| (key(), damage))?;
            auth.roles.insert(name, role);
        }
        auth.work_out(|_, _| true);
        Ok(auth)
    }
}

fn whole(parts: &[Part]) -> Result<Vec<u8>, Damage> {
    let follows =
        (0..).zip(parts).all(|(number, part)| part.number == number && part.all == parts.len() as u64);
    if !follows {
        return Err(Damage::Part);
    }
    Ok(parts.iter().flat_map(|part| part.bytes.iter().copied()).collect())
}

fn read_user(body: &[u8]) -> Result<User, Damage> {
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
    Ok(User { password, roles })
}

fn read_role(body: &[u8]) -> Result<Vec<Permission>, Damage> {
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
    Ok(permissions)
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
