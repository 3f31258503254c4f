//! Random commands, against users and roles that are kept as they are, with nothing worked out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::super::State;
use super::super::super::command::Command;
use super::super::super::tests::Store;
use super::super::{Access, AuthCommand, Identity, Permission, ROOT};
use super::hash;

/// Every key of up to two letters of `a` to `c`, and some around.
fn all_keys() -> Vec<Vec<u8>> {
    let letters = [b'a', b'b', b'c'];
    let mut keys = vec![vec![0]];
    for one in letters {
        keys.extend([vec![one], vec![one, 0]]);
        keys.extend(letters.map(|other| vec![one, other]));
    }
    keys.push(vec![b'd']);
    keys
}

fn is_in(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => key >= from,
        end => key >= from && key < end,
    }
}

fn some_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'c']), 1..3)
}

fn some_end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), Just(vec![0]), some_key()]
}

fn some_command() -> impl Strategy<Value = AuthCommand> {
    let name = || prop::sample::select(vec!["root", "u", "v"]).prop_map(str::to_owned);
    let role = || prop::sample::select(vec!["root", "r", "s"]).prop_map(str::to_owned);
    let access = prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite]);
    let granted = (role(), access, some_key(), some_end()).prop_map(|(name, access, key, end)| {
        let permission = Permission { access, key: key.into(), range_end: end.into() };
        AuthCommand::RoleGrantPermission { name, permission }
    });
    let revoked = (role(), some_key(), some_end()).prop_map(|(name, key, end)| {
        AuthCommand::RoleRevokePermission { name, key: key.into(), range_end: end.into() }
    });
    prop_oneof![
        1 => Just(AuthCommand::Enable),
        1 => Just(AuthCommand::Disable),
        3 => name().prop_map(|name| AuthCommand::UserAdd { name, password: Some(hash()) }),
        1 => name().prop_map(|name| AuthCommand::UserDelete { name }),
        3 => role().prop_map(|name| AuthCommand::RoleAdd { name }),
        1 => role().prop_map(|name| AuthCommand::RoleDelete { name }),
        4 => (name(), role()).prop_map(|(name, role)| AuthCommand::UserGrantRole { name, role }),
        1 => (name(), role()).prop_map(|(name, role)| AuthCommand::UserRevokeRole { name, role }),
        6 => granted,
        1 => revoked,
    ]
}

/// Users and roles, and nothing worked out.
#[derive(Default)]
struct Model {
    enabled: bool,
    users: BTreeMap<String, Vec<String>>,
    roles: BTreeMap<String, Vec<Permission>>,
}

impl Model {
    /// Follows a command that was not refused.
    fn follow(&mut self, command: &AuthCommand) {
        match command.clone() {
            AuthCommand::Enable => self.enabled = true,
            AuthCommand::Disable => self.enabled = false,
            AuthCommand::UserAdd { name, .. } => {
                self.users.insert(name, Vec::new());
            }
            AuthCommand::UserDelete { name } => {
                self.users.remove(&name);
            }
            AuthCommand::RoleAdd { name } => {
                self.roles.insert(name, Vec::new());
            }
            AuthCommand::RoleDelete { name } => {
                self.roles.remove(&name);
                self.users.values_mut().for_each(|roles| roles.retain(|role| *role != name));
            }
            AuthCommand::UserGrantRole { name, role } => self.users.get_mut(&name).unwrap().push(role),
            AuthCommand::UserRevokeRole { name, role } => {
                self.users.get_mut(&name).unwrap().retain(|known| *known != role);
            }
            AuthCommand::RoleGrantPermission { name, permission } => {
                let known = self.roles.get_mut(&name).unwrap();
                known.retain(|one| (&one.key, &one.range_end) != (&permission.key, &permission.range_end));
                known.push(permission);
            }
            AuthCommand::RoleRevokePermission { name, key, range_end } => {
                self.roles
                    .get_mut(&name)
                    .unwrap()
                    .retain(|one| (&one.key, &one.range_end) != (&key, &range_end));
            }
            AuthCommand::Authenticate { .. } | AuthCommand::UserChangePassword { .. } => {}
        }
    }

    fn may_read(&self, user: &str, key: &[u8]) -> bool {
        let Some(roles) = self.users.get(user) else { return false };
        let permitted = |role: &String| {
            self.roles
                .get(role)
                .into_iter()
                .flatten()
                .any(|one| one.access != Access::Write && is_in(key, &one.key, &one.range_end))
        };
        !self.enabled || roles.iter().any(|role| role == ROOT || permitted(role))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A range is permitted if every key of it is: those that are short, and the one after any of them.
    #[test]
    fn permissions_are_those_of_a_naive_model(
        commands in prop::collection::vec(some_command(), 1..40),
        asked in prop::collection::vec((some_key(), some_end()), 8),
    ) {
        let (mut store, mut model) = (Store::default(), Model::default());
        for command in commands {
            if store.auth(command.clone()).is_ok() {
                model.follow(&command);
            }
        }
        store.reload();
        let auth = store.state.auth();
        prop_assert_eq!(auth.is_enabled(), model.enabled);
        for user in ["root", "u", "v"] {
            let identity = store.user(user);
            for (key, end) in &asked {
                let says = auth.may_read(identity.by(), key, end).is_ok();
                let keys: Vec<_> = all_keys().into_iter().filter(|one| is_in(one, key, end)).collect();
                // One without keys is permitted with its first key.
                let holds = if !model.enabled {
                    true
                } else if keys.is_empty() {
                    model.may_read(user, key)
                } else {
                    keys.iter().all(|key| model.may_read(user, key))
                };
                // The least key that is longer than all of those: what is permitted key by key leaves it out.
                let gap = end.as_slice() != b"" && keys.iter().any(|key| {
                    let next = [key.as_slice(), &[0]].concat();
                    is_in(&next, key, end) && model.enabled && !model.may_read(user, &next)
                });
                let open = end.as_slice() == [0] && model.enabled && !model.may_read(user, &[0xff]);
                prop_assert_eq!(says, holds && !gap && !open, "{} {:?} {:?}", user, key, end);
            }
        }
    }

    /// The same commands give the same bytes and the same state, whether in one entry or in many, read back or not.
    #[test]
    fn what_is_written_is_what_is_known(commands in prop::collection::vec(some_command(), 1..40)) {
        let mut one_by_one = Store::default();
        for command in &commands {
            let _ = one_by_one.auth(command.clone());
        }
        let mut at_once = Store::default();
        at_once.all_as(&Identity::member(), commands.into_iter().map(Command::Auth).collect());
        prop_assert_eq!(&at_once.engine, &one_by_one.engine);
        prop_assert_eq!(at_once.state.auth(), one_by_one.state.auth());
        let mut small: Vec<_> = at_once.state.small_state();
        small.sort();
        prop_assert_eq!(small, at_once.engine.0.clone().into_iter().collect::<Vec<_>>());
        let loaded = State::load(&at_once.engine).unwrap();
        prop_assert_eq!(loaded.auth(), at_once.state.auth());
    }
}
