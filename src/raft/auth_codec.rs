//! Commands about users, roles and permissions: values to bytes of the log and back.

use super::codec::CodecError;
use crate::mvcc::auth::{Access, AuthCommand, Permission};
use crate::proto::log;

pub(super) fn auth_to_log(command: AuthCommand) -> log::AuthCommand {
    use log::auth_command::Command as Log;
    let user = |name, password: Option<_>| log::AuthUser {
        name,
        no_password: password.is_none(),
        password: password.unwrap_or_default(),
    };
    let command = match command {
        AuthCommand::Enable => Log::Enable(log::AuthNothing {}),
        AuthCommand::Disable => Log::Disable(log::AuthNothing {}),
        AuthCommand::Authenticate { name, token, revision } => {
            Log::Authenticate(log::AuthToken { user: name, token, revision })
        }
        AuthCommand::UserAdd { name, password } => Log::UserAdd(user(name, password)),
        AuthCommand::UserDelete { name } => Log::UserDelete(name),
        AuthCommand::UserChangePassword { name, password } => {
            Log::UserChangePassword(user(name, Some(password)))
        }
        AuthCommand::UserGrantRole { name, role } => {
            Log::UserGrantRole(log::AuthRoleOfUser { user: name, role })
        }
        AuthCommand::UserRevokeRole { name, role } => {
            Log::UserRevokeRole(log::AuthRoleOfUser { user: name, role })
        }
        AuthCommand::RoleAdd { name } => Log::RoleAdd(name),
        AuthCommand::RoleDelete { name } => Log::RoleDelete(name),
        AuthCommand::RoleGrantPermission { name, permission: Permission { access, key, range_end } } => {
            let access = u32::from(access as u8);
            Log::RoleGrantPermission(log::AuthPermission { role: name, access, key, range_end })
        }
        AuthCommand::RoleRevokePermission { name, key, range_end } => {
            Log::RoleRevokePermission(log::AuthPermission { role: name, access: 0, key, range_end })
        }
    };
    log::AuthCommand { command: Some(command) }
}

pub(super) fn auth_from_log(command: log::AuthCommand) -> Result<AuthCommand, CodecError> {
    use log::auth_command::Command as Log;
    Ok(match command.command.ok_or(CodecError::Missing("auth command"))? {
        Log::Enable(log::AuthNothing {}) => AuthCommand::Enable,
        Log::Disable(log::AuthNothing {}) => AuthCommand::Disable,
        Log::Authenticate(log::AuthToken { user, token, revision }) => {
            AuthCommand::Authenticate { name: user, token, revision }
        }
        Log::UserAdd(log::AuthUser { name, password, no_password }) => {
            AuthCommand::UserAdd { name, password: (!no_password).then_some(password) }
        }
        Log::UserDelete(name) => AuthCommand::UserDelete { name },
        Log::UserChangePassword(log::AuthUser { name, password, .. }) => {
            AuthCommand::UserChangePassword { name, password }
        }
        Log::UserGrantRole(log::AuthRoleOfUser { user, role }) => {
            AuthCommand::UserGrantRole { name: user, role }
        }
        Log::UserRevokeRole(log::AuthRoleOfUser { user, role }) => {
            AuthCommand::UserRevokeRole { name: user, role }
        }
        Log::RoleAdd(name) => AuthCommand::RoleAdd { name },
        Log::RoleDelete(name) => AuthCommand::RoleDelete { name },
        Log::RoleGrantPermission(log::AuthPermission { role, access, key, range_end }) => {
            let access = Access::from_number(access.into())
                .ok_or(CodecError::Unknown { what: "access of a permission", value: access })?;
            AuthCommand::RoleGrantPermission { name: role, permission: Permission { access, key, range_end } }
        }
        Log::RoleRevokePermission(log::AuthPermission { role, key, range_end, .. }) => {
            AuthCommand::RoleRevokePermission { name: role, key, range_end }
        }
    })
}
