//! What changes users, roles and permissions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::command::{Outcome, Refusal};
use super::{Auth, Permission, ROOT, Roles, User, stored};
use crate::env::simulated::{self, Bug};
use crate::limits;

/// What a command does to users, roles and permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthCommand {
    /// Check requests from now on.
    Enable,
    /// Check none any more.
    Disable,
    /// Make a token for a user whose password was checked.
    Authenticate {
        /// The user.
        name: String,
        /// Begin of the token, drawn at random; empty where tokens are made otherwise.
        token: String,
        /// The auth revision at which the password was checked.
        revision: u64,
    },
    /// Add a user.
    UserAdd {
        /// Its name.
        name: String,
        /// Hash of its password; `None`: it has none.
        password: Option<Bytes>,
    },
    /// Remove a user.
    UserDelete {
        /// Its name.
        name: String,
    },
    /// Give a user another password. One that has none keeps none.
    UserChangePassword {
        /// Its name.
        name: String,
        /// Hash of the password.
        password: Bytes,
    },
    /// Give a role to a user.
    UserGrantRole {
        /// The user.
        name: String,
        /// The role.
        role: String,
    },
    /// Take a role from a user.
    UserRevokeRole {
        /// The user.
        name: String,
        /// The role.
        role: String,
    },
    /// Add a role.
    RoleAdd {
        /// Its name.
        name: String,
    },
    /// Remove a role, from all users too.
    RoleDelete {
        /// Its name.
        name: String,
    },
    /// Permit something to a role. What was permitted on exactly this range is replaced.
    RoleGrantPermission {
        /// The role.
        name: String,
        /// What.
        permission: Permission,
    },
    /// Take from a role what it is permitted on exactly this range.
    RoleRevokePermission {
        /// The role.
        name: String,
        /// First key of the range.
        key: Bytes,
        /// As in [`Permission::range_end`].
        range_end: Bytes,
    },
}

/// What those who keep tokens must hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthEvent {
    /// There is a new token.
    Issued {
        /// The token.
        token: String,
        /// Whose it is.
        user: String,
    },
    /// The tokens of this user are void.
    Forget(String),
    /// All tokens are void.
    ForgetAll,
}

/// What the running entry changes.
#[derive(Debug, Default)]
pub(in super::super) struct TouchedAuth {
    /// Enabled, or the revision.
    pub(super) status: bool,
    /// Each with the items that it took before; 0: it was not there.
    pub(super) users: BTreeMap<String, u16>,
    pub(super) roles: BTreeMap<String, u16>,
}

impl TouchedAuth {
    /// Before a user changes: this one, `None` if it is not there.
    fn user(&mut self, name: &str, user: Option<&User>) {
        self.users.entry(name.to_owned()).or_insert_with(|| user.map_or(0, stored::items_of_user));
    }

    /// As [`TouchedAuth::user`].
    fn role(&mut self, name: &str, role: Option<&[Permission]>) {
        self.roles.entry(name.to_owned()).or_insert_with(|| role.map_or(0, stored::items_of_role));
    }
}

/// What a command did.
pub(in super::super) struct Done {
    pub(in super::super) outcome: Outcome,
    pub(in super::super) event: Option<AuthEvent>,
}

impl From<Option<AuthEvent>> for Done {
    fn from(event: Option<AuthEvent>) -> Self {
        Self { outcome: Outcome::Auth, event }
    }
}

impl Auth {
    /// Applies a command of the entry `index`. Who may is checked before.
    pub(in super::super) fn apply(
        &mut self,
        command: &AuthCommand,
        index: u64,
        touched: &mut TouchedAuth,
    ) -> Result<Done, Refusal> {
        let event = match command {
            AuthCommand::Enable => self.enable(touched)?,
            AuthCommand::Disable => self.disable(touched),
            AuthCommand::Authenticate { name, token, revision } => {
                return self.authenticate(name, token, *revision, index);
            }
            AuthCommand::UserAdd { name, password } => self.user_add(name, password.as_ref(), touched)?,
            AuthCommand::UserDelete { name } => self.user_delete(name, touched)?,
            AuthCommand::UserChangePassword { name, password } => {
                self.user_change(name, password, touched)?
            }
            AuthCommand::UserGrantRole { name, role } => self.user_grant(name, role, touched)?,
            AuthCommand::UserRevokeRole { name, role } => self.user_revoke(name, role, touched)?,
            AuthCommand::RoleAdd { name } => self.role_add(name, touched)?,
            AuthCommand::RoleDelete { name } => self.role_delete(name, touched)?,
            AuthCommand::RoleGrantPermission { name, permission } => {
                self.role_grant(name, permission, touched)?
            }
            AuthCommand::RoleRevokePermission { name, key, range_end } => {
                self.role_revoke(name, key, range_end, touched)?
            }
        };
        Ok(event.into())
    }

    /// Something changed.
    fn changed(&mut self, touched: &mut TouchedAuth) {
        self.revision = self.revision.saturating_add(1);
        touched.status = true;
    }

    fn enable(&mut self, touched: &mut TouchedAuth) -> Result<Option<AuthEvent>, Refusal> {
        if self.enabled {
            return Ok(None);
        }
        let root = self.users.get(ROOT).ok_or(Refusal::RootUserMissing)?;
        if !root.is_root() {
            return Err(Refusal::RootRoleMissing);
        }
        self.enabled = true;
        touched.status = true;
        Ok(None)
    }

    fn disable(&mut self, touched: &mut TouchedAuth) -> Option<AuthEvent> {
        if !self.enabled {
            return None;
        }
        self.enabled = false;
        self.changed(touched);
        Some(AuthEvent::ForgetAll)
    }

    fn authenticate(&self, name: &str, token: &str, revision: u64, index: u64) -> Result<Done, Refusal> {
        if !self.enabled {
            return Err(Refusal::AuthDisabled);
        }
        if revision != self.revision {
            // The password may be another one by now.
            return Err(Refusal::AuthRevisionOld);
        }
        let user = self.users.get(name).ok_or(Refusal::AuthFailed)?;
        if user.password.is_none() {
            return Err(Refusal::AuthFailed);
        }
        let has_own = !token.is_empty();
        let token = if has_own { format!("{token}.{index}") } else { String::new() };
        let issued = AuthEvent::Issued { token: token.clone(), user: name.to_owned() };
        let outcome = Outcome::Authenticated { token, revision: self.revision };
        Ok(Done { outcome, event: has_own.then_some(issued) })
    }

    fn user_add(
        &mut self,
        name: &str,
        password: Option<&Bytes>,
        touched: &mut TouchedAuth,
    ) -> Result<Option<AuthEvent>, Refusal> {
        if name.is_empty() {
            return Err(Refusal::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(Refusal::UserExists);
        }
        let hash = password.map_or(0, Bytes::len);
        let fits = name.len() <= limits::AUTH_NAME_BYTES && hash <= limits::AUTH_NAME_BYTES;
        if self.users.len() >= limits::USERS || !fits {
            return Err(Refusal::TooManyUsers);
        }
        // Copied: what came is a slice of its request.
        let password = password.map(|hash| Bytes::copy_from_slice(hash));
        touched.user(name, None);
        self.users.insert(name.to_owned(), User { password, roles: Roles::new() });
        self.user_changed(name, touched);
        Ok(None)
    }

    fn user_changed(&mut self, name: &str, touched: &mut TouchedAuth) {
        self.changed(touched);
        self.work_out(|user, _| user == name);
    }

    fn user_delete(&mut self, name: &str, touched: &mut TouchedAuth) -> Result<Option<AuthEvent>, Refusal> {
        if self.enabled && name == ROOT {
            return Err(Refusal::InvalidAuthManagement);
        }
        let user = self.users.remove(name).ok_or(Refusal::UserNotFound)?;
        touched.user(name, Some(&user));
        self.user_changed(name, touched);
        Ok(Some(AuthEvent::Forget(name.to_owned())))
    }

    fn user_change(
        &mut self,
        name: &str,
        password: &Bytes,
        touched: &mut TouchedAuth,
    ) -> Result<Option<AuthEvent>, Refusal> {
        let user = self.users.get_mut(name).ok_or(Refusal::UserNotFound)?;
        if password.len() > limits::AUTH_NAME_BYTES {
            return Err(Refusal::TooManyUsers);
        }
        touched.user(name, Some(user));
        if let Some(known) = &mut user.password {
            *known = Bytes::copy_from_slice(password);
        }
        self.changed(touched);
        Ok(Some(AuthEvent::Forget(name.to_owned())))
    }

    fn user_grant(
        &mut self,
        name: &str,
        role: &str,
        touched: &mut TouchedAuth,
    ) -> Result<Option<AuthEvent>, Refusal> {
        let user = self.users.get_mut(name).ok_or(Refusal::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(Refusal::RoleNotFound);
        }
        if user.roles.contains(role) {
            return Ok(None);
        }
        let bytes = user.roles.iter().map(String::len).sum::<usize>() + role.len();
        if user.roles.len() >= limits::ROLES_OF_USER || bytes > limits::ROLE_BYTES {
            return Err(Refusal::TooManyUsers);
        }
        touched.user(name, Some(user));
        user.roles.insert(role.to_owned());
        self.user_changed(name, touched);
        Ok(None)
    }

    fn user_revoke(
        &mut self,
        name: &str,
        role: &str,
        touched: &mut TouchedAuth,
    ) -> Result<Option<AuthEvent>, Refusal> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(Refusal::InvalidAuthManagement);
        }
        let user = self.users.get_mut(name).ok_or(Refusal::UserNotFound)?;
        if !user.roles.contains(role) {
            return Err(Refusal::RoleNotGranted);
        }
        touched.user(name, Some(user));
        user.roles.remove(role);
        if simulated::planted(Bug::RevokeKeepsRights) {
            self.changed(touched);
            return Ok(None);
        }
        self.user_changed(name, touched);
        Ok(None)
    }

    fn role_add(&mut self, name: &str, touched: &mut TouchedAuth) -> Result<Option<AuthEvent>, Refusal> {
        if name.is_empty() {
            return Err(Refusal::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(Refusal::RoleExists);
        }
        if self.roles.len() >= limits::ROLES || name.len() > limits::AUTH_NAME_BYTES {
            return Err(Refusal::TooManyUsers);
        }
        self.roles.insert(name.to_owned(), Vec::new());
        self.changed(touched);
        touched.role(name, None);
        Ok(None)
    }

    fn role_delete(&mut self, name: &str, touched: &mut TouchedAuth) -> Result<Option<AuthEvent>, Refusal> {
        if self.enabled && name == ROOT {
            return Err(Refusal::InvalidAuthManagement);
        }
        let role = self.roles.remove(name).ok_or(Refusal::RoleNotFound)?;
        touched.role(name, Some(&role));
        let mut had = BTreeSet::new();
        for (user, known) in &mut self.users {
            if known.roles.contains(name) {
                touched.user(user, Some(known));
                known.roles.remove(name);
                had.insert(user.clone());
            }
        }
        self.changed(touched);
        self.work_out(|user, _| had.contains(user));
        Ok(None)
    }

    fn role_grant(
        &mut self,
        name: &str,
        permission: &Permission,
        touched: &mut TouchedAuth,
    ) -> Result<Option<AuthEvent>, Refusal> {
        if !permission.is_valid() {
            return Err(Refusal::InvalidAuthManagement);
        }
        let permissions = self.roles.get_mut(name).ok_or(Refusal::RoleNotFound)?;
        let Permission { access, key, range_end } = permission;
        if let Some(place) = permissions.iter().position(|known| known.is_of(key, range_end)) {
            touched.role(name, Some(permissions));
            if let Some(known) = permissions.get_mut(place) {
                known.access = *access;
            }
        } else {
            let bytes = |one: &Permission| one.key.len() + one.range_end.len();
            let all = permissions.iter().map(bytes).sum::<usize>() + bytes(permission);
            if permissions.len() >= limits::PERMISSIONS_OF_ROLE || all > limits::ROLE_BYTES {
                return Err(Refusal::TooManyUsers);
            }
            touched.role(name, Some(permissions));
            let place = permissions.partition_point(|known| known.key <= *key);
            let (key, range_end) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(range_end));
            permissions.insert(place, Permission { access: *access, key, range_end });
        }
        self.role_changed(name, touched);
        Ok(None)
    }

    fn role_revoke(
        &mut self,
        name: &str,
        key: &[u8],
        range_end: &[u8],
        touched: &mut TouchedAuth,
    ) -> Result<Option<AuthEvent>, Refusal> {
        let permissions = self.roles.get_mut(name).ok_or(Refusal::RoleNotFound)?;
        if !permissions.iter().any(|known| known.is_of(key, range_end)) {
            return Err(Refusal::PermissionNotGranted);
        }
        touched.role(name, Some(permissions));
        permissions.retain(|known| !known.is_of(key, range_end));
        self.role_changed(name, touched);
        Ok(None)
    }

    /// What a role may do has changed.
    fn role_changed(&mut self, name: &str, touched: &mut TouchedAuth) {
        self.changed(touched);
        self.work_out(|_, user| user.roles.contains(name));
    }
}
