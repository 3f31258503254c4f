//! The rules one by one; `model`: random commands against a naive model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod model;

use bytes::Bytes;

use super::super::command::{
    Command, Compact, Compare, CompareResult, DeleteRange, LogPosition, Operand, Outcome, Put, Range,
    Refusal, Reply, Request, Txn, TxnOp,
};
use super::super::lease::LeaseCommand;
use super::super::tests::Store;
use super::super::{Applied, State};
use super::{Access, AuthCommand, AuthEvent, By, Identity, Permission, ROOT};
use crate::limits;

/// A hash; nobody looks at it here.
fn hash() -> Bytes {
    Bytes::from_static(b"$2b$")
}

fn add(name: &str) -> AuthCommand {
    AuthCommand::UserAdd { name: name.into(), password: Some(hash()) }
}

fn role(name: &str) -> AuthCommand {
    AuthCommand::RoleAdd { name: name.into() }
}

fn give(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole { name: user.into(), role: role.into() }
}

fn take(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserRevokeRole { name: user.into(), role: role.into() }
}

fn permission(access: Access, key: &str, range_end: &str) -> Permission {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Permission { access, key: bytes(key), range_end: bytes(range_end) }
}

fn permit(role: &str, access: Access, key: &str, range_end: &str) -> AuthCommand {
    AuthCommand::RoleGrantPermission { name: role.into(), permission: permission(access, key, range_end) }
}

fn forbid(role: &str, key: &str, range_end: &str) -> AuthCommand {
    let Permission { key, range_end, .. } = permission(Access::Read, key, range_end);
    AuthCommand::RoleRevokePermission { name: role.into(), key, range_end }
}

impl Store {
    fn all_as(&mut self, by: &Identity, commands: Vec<Command>) -> Applied {
        let requests: Vec<_> = commands.into_iter().map(|command| Request::of(by.clone(), command)).collect();
        self.entries += 1;
        let applied = self.state.apply(&self.engine, LogPosition { term: 1, index: self.entries }, &requests);
        self.engine.write(&applied.changes);
        applied
    }

    fn run_as(&mut self, by: &Identity, command: Command) -> Result<Reply, Refusal> {
        self.all_as(by, vec![command]).replies.remove(0)
    }

    /// As somebody who may.
    fn auth(&mut self, command: AuthCommand) -> Result<(), Refusal> {
        let reply = self.run_as(&Identity::member(), Command::Auth(command))?;
        assert!(matches!(reply.outcome, Outcome::Auth | Outcome::Authenticated { .. }));
        Ok(())
    }

    /// All of these, which must be possible.
    fn set_up(commands: impl IntoIterator<Item = AuthCommand>) -> Self {
        let mut store = Self::default();
        for command in commands {
            store.auth(command.clone()).unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"));
        }
        store
    }

    /// The user, as a token made now says.
    fn user(&self, name: &str) -> Identity {
        Identity { user: name.into(), revision: self.state.auth().revision() }
    }
}

/// `root` with its role, enabled.
fn enabled() -> Vec<AuthCommand> {
    vec![add(ROOT), role(ROOT), give(ROOT, ROOT), AuthCommand::Enable]
}

#[test]
fn each_command_keeps_to_etcds_rules() {
    use AuthCommand as A;
    let mut store = Store::default();
    let name = |name: &str| name.to_owned();
    let mut revision = 1;
    for (command, result, raises) in [
        (A::Enable, Err(Refusal::RootUserMissing), false),
        // Disabling what is not enabled is nothing.
        (A::Disable, Ok(()), false),
        (add(""), Err(Refusal::UserEmpty), false),
        (add(ROOT), Ok(()), true),
        (add(ROOT), Err(Refusal::UserExists), false),
        (A::Enable, Err(Refusal::RootRoleMissing), false),
        (give(ROOT, "r"), Err(Refusal::RoleNotFound), false),
        (give("nobody", "r"), Err(Refusal::UserNotFound), false),
        // The role `root` need not be there to be given.
        (give(ROOT, ROOT), Ok(()), true),
        (give(ROOT, ROOT), Ok(()), false),
        (role(""), Err(Refusal::RoleEmpty), false),
        (role(ROOT), Ok(()), true),
        (role(ROOT), Err(Refusal::RoleExists), false),
        (A::Enable, Ok(()), false),
        (A::Enable, Ok(()), false),
        (A::UserDelete { name: name(ROOT) }, Err(Refusal::InvalidAuthManagement), false),
        (A::RoleDelete { name: name(ROOT) }, Err(Refusal::InvalidAuthManagement), false),
        (take(ROOT, ROOT), Err(Refusal::InvalidAuthManagement), false),
        (role("r"), Ok(()), true),
        (permit("nothing", Access::Read, "a", ""), Err(Refusal::RoleNotFound), false),
        (permit("r", Access::Read, "", ""), Err(Refusal::InvalidAuthManagement), false),
        (permit("r", Access::Read, "b", "a"), Err(Refusal::InvalidAuthManagement), false),
        (permit("r", Access::Read, "b", "b"), Err(Refusal::InvalidAuthManagement), false),
        (permit("r", Access::Read, "b", "\0"), Ok(()), true),
        (permit("r", Access::Read, "b", "c"), Ok(()), true),
        // Nothing changes, but the revision, as in etcd.
        (permit("r", Access::Read, "b", "c"), Ok(()), true),
        (permit("r", Access::Write, "b", "c"), Ok(()), true),
        (permit("r", Access::ReadWrite, "a", ""), Ok(()), true),
        (forbid("r", "b", ""), Err(Refusal::PermissionNotGranted), false),
        (forbid("nothing", "b", ""), Err(Refusal::RoleNotFound), false),
        (forbid("r", "b", "\0"), Ok(()), true),
        (add("alice"), Ok(()), true),
        (give("alice", "r"), Ok(()), true),
        (take("alice", "s"), Err(Refusal::RoleNotGranted), false),
        (take("nobody", "r"), Err(Refusal::UserNotFound), false),
        (A::UserChangePassword { name: name("nobody"), password: hash() }, Err(Refusal::UserNotFound), false),
        (A::UserChangePassword { name: name("alice"), password: hash() }, Ok(()), true),
        (A::RoleDelete { name: name("nothing") }, Err(Refusal::RoleNotFound), false),
        (A::RoleDelete { name: name("r") }, Ok(()), true),
        (A::UserDelete { name: name("nobody") }, Err(Refusal::UserNotFound), false),
        (A::UserDelete { name: name("alice") }, Ok(()), true),
        (A::Disable, Ok(()), true),
        (take(ROOT, ROOT), Ok(()), true),
        (A::UserDelete { name: name(ROOT) }, Ok(()), true),
    ] {
        assert_eq!(store.auth(command.clone()), result, "{command:?}");
        revision += u64::from(raises);
        assert_eq!(store.state.auth().revision(), revision, "{command:?}");
        let before = store.state.auth().clone();
        store.reload();
        assert_eq!(*store.state.auth(), before, "what was written is what is known: {command:?}");
    }
    assert_eq!(store.state.auth().roles().collect::<Vec<_>>(), [ROOT]);
    assert_eq!(store.state.revision(), 1, "no key has changed");
}

#[test]
fn lists_are_sorted_and_what_is_permitted_on_a_range_is_replaced() {
    let mut commands: Vec<_> = ["c", "a", "b"].into_iter().flat_map(|name| [add(name), role(name)]).collect();
    commands.extend([give("a", "c"), give("a", "a"), give("a", "b")]);
    let permitted = [("b", ""), ("a", "z"), ("a", "c"), ("c", "\0")];
    commands.extend(permitted.map(|(key, end)| permit("a", Access::Read, key, end)));
    commands.push(permit("a", Access::Write, "a", "c"));
    let store = Store::set_up(commands);
    let auth = store.state.auth();
    assert_eq!(auth.users().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(auth.roles().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(auth.user("a").unwrap().roles.iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    let known: Vec<_> = auth.role("a").unwrap().to_vec();
    assert_eq!(
        known,
        [
            permission(Access::Read, "a", "z"),
            permission(Access::Write, "a", "c"),
            permission(Access::Read, "b", ""),
            permission(Access::Read, "c", "\0"),
        ]
    );
}

#[test]
fn those_who_keep_tokens_hear_which_are_made_and_which_are_void() {
    let mut store = Store::set_up(enabled());
    store.auth(add("alice")).unwrap();
    let mut run = |command| {
        let mut applied = store.all_as(&Identity::NOBODY, vec![Command::Auth(command)]);
        (applied.replies.remove(0).map(|reply| reply.outcome), applied.auth)
    };
    let revision = 5;
    let authenticate = |name: &str, token: &str, revision| AuthCommand::Authenticate {
        name: name.into(),
        token: token.into(),
        revision,
    };
    let (outcome, events) = run(authenticate("alice", "abc", revision));
    let token = "abc.6".to_owned();
    assert_eq!(outcome, Ok(Outcome::Authenticated { token: token.clone(), revision }));
    assert_eq!(events, [AuthEvent::Issued { token, user: "alice".into() }]);
    // Of tokens that are made otherwise nobody needs to know.
    let (outcome, events) = run(authenticate("alice", "", revision));
    assert_eq!((outcome, events), (Ok(Outcome::Authenticated { token: String::new(), revision }), vec![]));
    assert_eq!(run(authenticate("alice", "abc", revision - 1)), (Err(Refusal::AuthRevisionOld), vec![]));
    assert_eq!(run(authenticate("bob", "abc", revision)), (Err(Refusal::AuthFailed), vec![]));

    let by = Identity::member();
    let mut as_member = |command| store.all_as(&by, vec![Command::Auth(command)]).auth;
    let forgotten = || vec![AuthEvent::Forget("alice".into())];
    let password = hash();
    assert_eq!(as_member(AuthCommand::UserChangePassword { name: "alice".into(), password }), forgotten());
    assert_eq!(as_member(AuthCommand::UserDelete { name: "alice".into() }), forgotten());
    assert_eq!(as_member(AuthCommand::UserDelete { name: "alice".into() }), []);
    assert_eq!(as_member(AuthCommand::Disable), [AuthEvent::ForgetAll]);
    assert_eq!(as_member(AuthCommand::Disable), []);
}

#[test]
fn a_user_without_password_keeps_none_and_gets_no_token() {
    let mut store = Store::set_up(enabled());
    store.auth(AuthCommand::UserAdd { name: "cn".into(), password: None }).unwrap();
    store.auth(AuthCommand::UserChangePassword { name: "cn".into(), password: hash() }).unwrap();
    store.reload();
    assert_eq!(store.state.auth().user("cn").unwrap().password, None);
    let (known, revision) = store.state.auth().password_of("cn").unwrap();
    assert_eq!(known, None);
    let token = AuthCommand::Authenticate { name: "cn".into(), token: "x".into(), revision };
    assert_eq!(store.run_as(&Identity::NOBODY, Command::Auth(token)), Err(Refusal::AuthFailed));
    store.auth(AuthCommand::Disable).unwrap();
    assert_eq!(store.state.auth().password_of("cn"), Err(Refusal::AuthDisabled));
}

fn range(key: &str, range_end: &str) -> Range {
    let Permission { key, range_end, .. } = permission(Access::Read, key, range_end);
    Range { key, range_end, ..Range::default() }
}

fn put(key: &str) -> Put {
    Put { key: Bytes::copy_from_slice(key.as_bytes()), ..Put::default() }
}

fn delete(key: &str, range_end: &str, prev_kv: bool) -> DeleteRange {
    let Range { key, range_end, .. } = range(key, range_end);
    DeleteRange { key, range_end, prev_kv }
}

fn compare(key: &str, range_end: &str) -> Compare {
    let Range { key, range_end, .. } = range(key, range_end);
    Compare { key, range_end, result: CompareResult::Equal, operand: Operand::Version(0) }
}

fn txn(compares: Vec<Compare>, success: Vec<TxnOp>, failure: Vec<TxnOp>) -> Command {
    Command::Txn(Txn { compares, success, failure })
}

/// Reads `[r, s)`, writes `[w, x)`; lease 7 holds `w1`, lease 8 `w2` and another's key, lease 9 nothing.
fn with_alice() -> Store {
    let mut commands = vec![add("alice"), role("r"), give("alice", "r")];
    commands.extend([permit("r", Access::Read, "r", "s"), permit("r", Access::Write, "w", "x")]);
    commands.extend(enabled());
    let mut store = Store::set_up(commands);
    let root = store.user(ROOT);
    for id in [7, 8, 9] {
        store.run_as(&root, Command::Lease(LeaseCommand::Grant { id, ttl: 60 })).unwrap();
    }
    for (key, lease) in [("w1", 7), ("w2", 8), ("other", 8)] {
        store.run_as(&root, Command::Put(Put { lease, ..put(key) })).unwrap();
    }
    store
}

/// What `alice` may do, and whether she may.
fn what_alice_wants() -> Vec<(Command, bool)> {
    let op = TxnOp::Range;
    let nested = |inner: Command| match inner {
        Command::Txn(inner) => txn(vec![], vec![TxnOp::Txn(inner)], vec![]),
        other => panic!("{other:?}"),
    };
    vec![
        (Command::Put(put("w")), true),
        (Command::Put(put("x")), false),
        (Command::Put(put("r")), false),
        // The pair before is read.
        (Command::Put(Put { prev_kv: true, ..put("w") }), false),
        (Command::Put(Put { ignore_value: true, ..put("w1") }), true),
        (Command::Put(Put { ignore_lease: true, ..put("w1") }), true),
        (Command::Put(Put { lease: 7, ..put("w") }), true),
        (Command::Put(Put { lease: 9, ..put("w") }), true),
        // Whoever hangs a key on it could end it, and so delete another's key.
        (Command::Put(Put { lease: 8, ..put("w") }), false),
        (Command::DeleteRange(delete("w", "", false)), true),
        (Command::DeleteRange(delete("w", "x", false)), true),
        (Command::DeleteRange(delete("w", "", true)), false),
        (Command::DeleteRange(delete("w", "x\0", false)), false),
        (Command::DeleteRange(delete("w", "\0", false)), false),
        (Command::DeleteRange(delete("v", "x", false)), false),
        (txn(vec![compare("r", "")], vec![op(range("r", "s"))], vec![TxnOp::Put(put("w"))]), true),
        (txn(vec![compare("w", "")], vec![], vec![]), false),
        (txn(vec![compare("r", "s")], vec![], vec![]), true),
        (txn(vec![compare("r", "t")], vec![], vec![]), false),
        (txn(vec![compare("r", "\0")], vec![], vec![]), false),
        (txn(vec![], vec![op(range("r", "t")), TxnOp::Put(put("w"))], vec![]), false),
        // Also the branch that does not run.
        (txn(vec![], vec![TxnOp::Put(put("w"))], vec![TxnOp::Put(put("x"))]), false),
        (txn(vec![], vec![TxnOp::Put(put("w"))], vec![op(range("w", ""))]), false),
        (txn(vec![], vec![TxnOp::DeleteRange(delete("w", "x", true))], vec![]), false),
        (txn(vec![], vec![TxnOp::DeleteRange(delete("w", "x", false))], vec![]), true),
        (nested(txn(vec![compare("r", "")], vec![TxnOp::Put(put("w"))], vec![])), true),
        (nested(txn(vec![compare("w", "")], vec![], vec![])), false),
        (nested(txn(vec![], vec![], vec![TxnOp::Put(put("x"))])), false),
        (nested(nested(txn(vec![], vec![op(range("a", "\0"))], vec![]))), false),
        (nested(txn(vec![], vec![TxnOp::Put(Put { lease: 8, ..put("w") })], vec![])), false),
        (Command::Lease(LeaseCommand::Grant { id: 10, ttl: 60 }), true),
        (Command::Lease(LeaseCommand::Revoke { id: 7 }), true),
        (Command::Lease(LeaseCommand::Revoke { id: 8 }), false),
        (Command::Lease(LeaseCommand::Revoke { id: 9 }), true),
        (Command::Compact(Compact { revision: 2, physical: false }), false),
        (Command::Auth(add("mallory")), false),
        (Command::Auth(AuthCommand::Disable), false),
        (Command::Auth(give("alice", ROOT)), false),
    ]
}

#[test]
fn every_part_of_a_command_is_checked_when_it_is_applied() {
    for (command, may) in what_alice_wants() {
        let mut store = with_alice();
        let (before, alice) = (store.engine.clone(), store.user("alice"));
        let result = store.run_as(&alice, command.clone());
        if may {
            assert!(result.is_ok(), "{command:?}: {result:?}");
        } else {
            assert_eq!(result, Err(Refusal::PermissionDenied), "{command:?}");
            assert_eq!(store.engine, before, "a refused command changes nothing: {command:?}");
        }
        let root = with_alice().user(ROOT);
        let result = with_alice().run_as(&root, command.clone());
        assert!(result.is_ok(), "root may everything: {command:?} {result:?}");
    }
}

#[test]
fn nobody_and_yesterdays_users_may_nothing() {
    for (command, _) in what_alice_wants() {
        let mut store = with_alice();
        let early = store.user("alice");
        let nobody = store.run_as(&Identity::NOBODY, command.clone());
        match &command {
            // What members do by themselves, when the space or the age of the history asks for it.
            Command::Compact(_) => assert!(nobody.is_ok(), "{command:?}"),
            // Nothing hangs on it.
            Command::Lease(LeaseCommand::Revoke { id: 9 }) => assert!(nobody.is_ok()),
            _ => assert_eq!(nobody, Err(Refusal::UserEmpty), "{command:?}"),
        }
        let mut store = with_alice();
        let stranger = store.user("stranger");
        let result = store.run_as(&stranger, command.clone());
        let expected = match &command {
            Command::Compact(_) | Command::Auth(_) => Err(Refusal::UserNotFound),
            // They need somebody, and hold no key.
            Command::Lease(LeaseCommand::Grant { .. } | LeaseCommand::Revoke { id: 9 }) => continue,
            _ => Err(Refusal::PermissionDenied),
        };
        assert_eq!(result, expected, "{command:?}");
        // Something has changed since she was known.
        store.auth(add("bob")).unwrap();
        let result = store.run_as(&early, command.clone());
        match &command {
            Command::Put(_) | Command::DeleteRange(_) | Command::Txn(_) => {
                assert_eq!(result, Err(Refusal::AuthRevisionOld), "{command:?}");
            }
            _ => {}
        }
    }
}

#[test]
fn what_was_permitted_when_it_was_asked_is_refused_when_it_is_applied() {
    for change in [
        take("alice", "r"),
        forbid("r", "w", "x"),
        AuthCommand::RoleDelete { name: "r".into() },
        AuthCommand::UserDelete { name: "alice".into() },
    ] {
        let mut store = with_alice();
        let alice = store.user("alice");
        let command = Command::Put(put("w"));
        assert_eq!(store.state.may_run(alice.by(), &command), Ok(()));
        store.auth(change.clone()).unwrap();
        assert_eq!(store.run_as(&alice, command.clone()), Err(Refusal::AuthRevisionOld), "{change:?}");
        // With a token that is new.
        let alice = store.user("alice");
        assert_eq!(store.run_as(&alice, command), Err(Refusal::PermissionDenied), "{change:?}");
    }
    // In one and the same entry.
    let mut store = with_alice();
    let alice = store.user("alice");
    let (root, change) = (store.user(ROOT), Command::Auth(take("alice", "r")));
    let requests = [
        Request::of(alice.clone(), Command::Put(put("w"))),
        Request::of(root, change),
        Request::of(alice, Command::Put(put("w"))),
    ];
    let applied = store.state.apply(&store.engine, LogPosition { term: 1, index: 99 }, &requests);
    assert!(applied.replies[0].is_ok() && applied.replies[1].is_ok());
    assert_eq!(applied.replies[2], Err(Refusal::AuthRevisionOld));
}

#[test]
fn reads_and_leases_are_looked_at_key_by_key() {
    let store = with_alice();
    let (alice, state) = (store.user("alice"), &store.state);
    let by = alice.by();
    for (key, end, may) in
        [("r", "", true), ("r", "s", true), ("r", "\0", false), ("q", "s", false), ("w", "", false)]
    {
        let result = state.auth().may_read(by, key.as_bytes(), end.as_bytes());
        assert_eq!(result.is_ok(), may, "{key} {end}");
        assert_eq!(state.auth().may_go_on_reading("alice", key.as_bytes(), end.as_bytes()).is_ok(), may);
    }
    assert_eq!(state.auth().may_go_on_reading("", b"r", b""), Err(Refusal::UserEmpty));
    let denied = Err(Refusal::PermissionDenied);
    assert_eq!(state.may_keep_lease(by, 7), Ok(()));
    assert_eq!(state.may_keep_lease(by, 8), denied);
    assert_eq!(state.may_keep_lease(by, 404), Ok(()), "there is nothing to keep");
    // She may write its key, not read it.
    assert_eq!(state.may_see_lease(by, 7), denied);
    assert_eq!(state.may_see_lease(by, 9), Ok(()));
    assert_eq!(state.may_see_leases(by), denied);
    let root = store.user(ROOT);
    assert_eq!(state.may_see_leases(root.by()), Ok(()));
    let auth = state.auth();
    assert_eq!((auth.may_see_user(by, "alice"), auth.may_see_user(by, ROOT)), (Ok(()), denied));
    assert_eq!((auth.may_see_role(by, "r"), auth.may_see_role(by, ROOT)), (Ok(()), denied));
    assert_eq!(auth.may_see_user(Identity::NOBODY.by(), ROOT), Err(Refusal::UserEmpty));
}

#[test]
fn nobody_becomes_the_member_itself_by_a_name_or_a_revision() {
    let store = with_alice();
    for (user, revision) in [("", 0), ("", 1), ("", u64::MAX - 1), ("x", u64::MAX), ("alice", u64::MAX)] {
        let by = By { user, revision };
        assert!(!by.is_member() && store.state.auth().may_administer(by).is_err(), "{user} {revision}");
    }
    assert!(Identity::member().by().is_member());
}

#[test]
fn there_are_never_more_than_there_may_be() {
    let mut store = Store::set_up([add("u"), role("r")]);
    for number in 0..limits::PERMISSIONS_OF_ROLE {
        store.auth(permit("r", Access::Read, &format!("{number}"), "")).unwrap();
    }
    assert_eq!(store.auth(permit("r", Access::Read, "more", "")), Err(Refusal::TooManyUsers));
    assert_eq!(store.auth(permit("r", Access::Write, "5", "")), Ok(()), "what is there can be changed");
    let long = "x".repeat(limits::AUTH_NAME_BYTES + 1);
    for command in [add(&long), role(&long)] {
        assert_eq!(store.auth(command), Err(Refusal::TooManyUsers));
    }
    store.auth(role("s")).unwrap();
    let long = "x".repeat(limits::ROLE_BYTES + 1);
    assert_eq!(store.auth(permit("s", Access::Read, &long, "")), Err(Refusal::TooManyUsers));
    for number in 0..limits::ROLES_OF_USER {
        store.auth(role(&format!("role-{number}"))).unwrap();
        store.auth(give("u", &format!("role-{number}"))).unwrap();
    }
    assert_eq!(store.auth(give("u", "r")), Err(Refusal::TooManyUsers));
}

#[test]
fn damaged_items_are_found() {
    let store = Store::set_up(enabled());
    for (key, value) in &store.engine.0 {
        for length in [value.len() - 1, value.len() / 2] {
            let mut engine = store.engine.clone();
            engine.0.insert(key.clone(), value.slice(..length));
            assert!(State::load(&engine).is_err(), "{key:?}");
        }
    }
}
