//! Who may do what. Asked early, before a request costs anything, and again when it is applied: what was permitted may not be any more.
//!
//! While authentication is disabled, and for the member itself, everything is permitted. Else a request of keys names a user, and an
//! auth revision that is not older than the newest, and the user's roles permit every key of it: each key of a range, the keys of
//! compares, both branches of a transaction, transactions inside, what it asks to be told of the pairs before, and the keys that hang
//! on the lease that it hangs a key on. Reading is etcd's `server/etcdserver/apply/auth.go`.

use super::super::State;
use super::super::cluster::ClusterCommand;
use super::super::command::{Command, DeleteRange, Put, Refusal, Txn, TxnOp};
use super::super::lease::LeaseCommand;
use super::{Access, Auth, AuthCommand, By, User};
use crate::env::simulated::{self, Bug};

impl Auth {
    fn is_free(&self, by: By<'_>) -> bool {
        !self.enabled || by.is_member()
    }

    /// The user, if the request is not older than what is known of users.
    fn user_of(&self, by: By<'_>) -> Result<&User, Refusal> {
        if by.revision == 0 {
            return Err(Refusal::UserEmpty);
        }
        if by.revision < self.revision {
            return Err(Refusal::AuthRevisionOld);
        }
        self.users.get(by.user).ok_or(Refusal::PermissionDenied)
    }

    fn may(&self, by: By<'_>, access: Access, key: &[u8], range_end: &[u8]) -> Result<(), Refusal> {
        if self.is_free(by) || self.user_of(by)?.is_root() {
            return Ok(());
        }
        self.covers(by.user, access, key, range_end)
    }

    fn covers(&self, user: &str, access: Access, key: &[u8], range_end: &[u8]) -> Result<(), Refusal> {
        let permitted = self.allowed.get(user).is_some_and(|allowed| {
            let reads = access == Access::Read || simulated::planted(Bug::ReadersWrite);
            let set = if reads { &allowed.read } else { &allowed.write };
            set.covers(key, range_end)
        });
        if permitted { Ok(()) } else { Err(Refusal::PermissionDenied) }
    }

    /// Whether `by` may read every key of a range.
    ///
    /// # Errors
    /// Why not.
    pub fn may_read(&self, by: By<'_>, key: &[u8], range_end: &[u8]) -> Result<(), Refusal> {
        self.may(by, Access::Read, key, range_end)
    }

    fn may_write(&self, by: By<'_>, key: &[u8], range_end: &[u8]) -> Result<(), Refusal> {
        self.may(by, Access::Write, key, range_end)
    }

    /// Whether the user, if authentication is on, may still read every key of a range, whatever the auth revision was when the user was
    /// known: for what goes on for long.
    ///
    /// # Errors
    /// Why not.
    pub fn may_go_on_reading(&self, user: &str, key: &[u8], range_end: &[u8]) -> Result<(), Refusal> {
        let revision = if user.is_empty() { 0 } else { self.revision };
        self.may_read(By { user, revision }, key, range_end)
    }

    /// Whether `by` may do what only the role `root` may. As in etcd, the auth revision is not looked at.
    ///
    /// # Errors
    /// Why not.
    pub fn may_administer(&self, by: By<'_>) -> Result<(), Refusal> {
        if self.is_free(by) {
            return Ok(());
        }
        if by.user.is_empty() {
            return Err(Refusal::UserEmpty);
        }
        let user = self.users.get(by.user).ok_or(Refusal::UserNotFound)?;
        if user.is_root() { Ok(()) } else { Err(Refusal::PermissionDenied) }
    }

    /// Whether `by` has said who it is, where that is asked.
    ///
    /// # Errors
    /// [`Refusal::UserEmpty`].
    pub fn is_somebody(&self, by: By<'_>) -> Result<(), Refusal> {
        if self.is_free(by) || !by.user.is_empty() { Ok(()) } else { Err(Refusal::UserEmpty) }
    }

    /// Whether `by` may look at a user: at itself, or at all as `root`.
    ///
    /// # Errors
    /// Why not.
    pub fn may_see_user(&self, by: By<'_>, name: &str) -> Result<(), Refusal> {
        self.may_administer(by).or_else(|refusal| if by.user == name { Ok(()) } else { Err(refusal) })
    }

    /// Whether `by` may look at a role: at one of its own, or at all as `root`.
    ///
    /// # Errors
    /// Why not.
    pub fn may_see_role(&self, by: By<'_>, role: &str) -> Result<(), Refusal> {
        let has = |user: &User| user.roles.contains(role);
        self.may_administer(by)
            .or_else(|refusal| if self.users.get(by.user).is_some_and(has) { Ok(()) } else { Err(refusal) })
    }
}

impl State {
    /// Whether `by` may run a command; [`State::apply`] asks it of every command.
    ///
    /// # Errors
    /// Why not.
    pub fn may_run(&self, by: By<'_>, command: &Command) -> Result<(), Refusal> {
        let auth = &self.auth;
        if auth.is_free(by) {
            return Ok(());
        }
        match command {
            Command::Put(put) => self.may_put(by, put),
            Command::DeleteRange(delete) => auth.may_delete(by, delete),
            Command::Txn(txn) => self.may_run_txn(by, txn),
            Command::Lease(LeaseCommand::Grant { .. }) => auth.is_somebody(by),
            Command::Lease(LeaseCommand::Revoke { id }) => self.may_keep_lease(by, *id),
            // What members do by themselves; and whoever authenticates is nobody yet.
            Command::Lease(LeaseCommand::Expire { .. } | LeaseCommand::Checkpoint { .. })
            | Command::Cluster(
                ClusterCommand::Marks(_)
                | ClusterCommand::Admit { .. }
                | ClusterCommand::Note(_)
                | ClusterCommand::Alarm(_)
                | ClusterCommand::Add(_)
                | ClusterCommand::Dismiss(_)
                | ClusterCommand::Expect { .. }
                | ClusterCommand::RaiseRevision(_),
            )
            | Command::Auth(AuthCommand::Authenticate { .. }) => Ok(()),
            // Members do it by themselves, too; a client's was looked at before it came here, and names a user.
            Command::Compact(_) | Command::Cluster(ClusterCommand::Resize(_)) if by.user.is_empty() => Ok(()),
            Command::Compact(_) | Command::Cluster(ClusterCommand::Resize(_)) | Command::Auth(_) => {
                auth.may_administer(by)
            }
        }
    }

    fn may_put(&self, by: By<'_>, put: &Put) -> Result<(), Refusal> {
        self.auth.may_write(by, &put.key, &[])?;
        // Whoever hangs a key on a lease could let others' keys be deleted with it.
        self.may_keep_lease(by, put.lease)?;
        if put.prev_kv { self.auth.may_read(by, &put.key, &[]) } else { Ok(()) }
    }

    /// Whether `by` may run a transaction, whichever branch will run.
    ///
    /// # Errors
    /// Why not.
    pub fn may_run_txn(&self, by: By<'_>, txn: &Txn) -> Result<(), Refusal> {
        for compare in &txn.compares {
            self.auth.may_read(by, &compare.key, &compare.range_end)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                TxnOp::Range(range) => self.auth.may_read(by, &range.key, &range.range_end)?,
                TxnOp::Put(put) => self.may_put(by, put)?,
                TxnOp::DeleteRange(delete) => self.auth.may_delete(by, delete)?,
                TxnOp::Txn(nested) => self.may_run_txn(by, nested)?,
            }
        }
        Ok(())
    }

    /// Whether `by` may write every key that hangs on a lease: renew it, end it, or hang another key on it.
    ///
    /// # Errors
    /// Why not.
    pub fn may_keep_lease(&self, by: By<'_>, lease: i64) -> Result<(), Refusal> {
        self.of_lease(by, lease, Access::Write)
    }

    /// Whether `by` may read every key that hangs on a lease.
    ///
    /// # Errors
    /// Why not.
    pub fn may_see_lease(&self, by: By<'_>, lease: i64) -> Result<(), Refusal> {
        self.of_lease(by, lease, Access::Read)
    }

    fn of_lease(&self, by: By<'_>, lease: i64, access: Access) -> Result<(), Refusal> {
        if self.auth.may_administer(by).is_ok() {
            return Ok(());
        }
        let Some(lease) = self.leases.get(lease) else { return Ok(()) };
        lease.keys().try_for_each(|key| self.auth.may(by, access, key, &[]))
    }

    /// Whether `by` may read every key that hangs on any lease, and so see which leases there are.
    ///
    /// # Errors
    /// Why not.
    pub fn may_see_leases(&self, by: By<'_>) -> Result<(), Refusal> {
        if self.auth.may_administer(by).is_ok() {
            return Ok(());
        }
        self.leases.iter().try_for_each(|(id, _)| self.may_see_lease(by, id))
    }
}

impl Auth {
    fn may_delete(&self, by: By<'_>, delete: &DeleteRange) -> Result<(), Refusal> {
        self.may_write(by, &delete.key, &delete.range_end)?;
        if delete.prev_kv { self.may_read(by, &delete.key, &delete.range_end) } else { Ok(()) }
    }
}
