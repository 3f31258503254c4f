//! Programs about users, roles, permissions and tokens: who may do what, and who is told what. Each call is made in somebody's name, or in
//! nobody's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::VecDeque;

use setstone::proto::authpb::{Permission, UserAddOptions};
use setstone::proto::etcdserverpb::{self as pb, auth_client::AuthClient, watch_request::RequestUnion};
use tonic::Status;

use super::program::{Call, Dice, Program, Step, World};
use super::side::{Answer, Named, Side, without_ids};

const USERS: [&str; 5] = ["root", "ann", "bob", "eve", ""];
const ROLES: [&str; 5] = ["root", "red", "green", "blue", ""];
const PASSWORDS: [&str; 3] = ["one", "two", "three"];
/// Calls of a program between two beginnings.
const EPOCH: usize = 400;
/// Steps that are shown of a program that failed.
const SHOWN: usize = 12;

/// A call about users and roles, or one that is answered differently for each.
#[derive(Clone, Debug)]
pub enum AuthCall {
    Enable,
    Disable,
    Status,
    Authenticate(pb::AuthenticateRequest),
    UserAdd(pb::AuthUserAddRequest),
    UserGet(pb::AuthUserGetRequest),
    UserList,
    UserDelete(pb::AuthUserDeleteRequest),
    ChangePassword(pb::AuthUserChangePasswordRequest),
    GrantRole(pb::AuthUserGrantRoleRequest),
    RevokeRole(pb::AuthUserRevokeRoleRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleGet(pb::AuthRoleGetRequest),
    RoleList,
    RoleDelete(pb::AuthRoleDeleteRequest),
    Permit(pb::AuthRoleGrantPermissionRequest),
    Forbid(pb::AuthRoleRevokePermissionRequest),
    /// A stream with one watcher, up to its first answer.
    Watch(pb::WatchCreateRequest),
    MemberList,
}

/// What it was answered, as text, and the token, if it is one.
pub async fn answer(channel: Named, call: AuthCall) -> Result<(String, Option<String>), Status> {
    let mut auth = AuthClient::new(channel.clone());
    macro_rules! told {
        ($method:ident ($request:expr)) => {{
            let mut answer = auth.$method($request).await?.into_inner();
            without_ids(&mut answer.header);
            format!("{answer:?}")
        }};
    }
    let text = match call {
        AuthCall::Enable => told!(auth_enable(pb::AuthEnableRequest {})),
        AuthCall::Disable => told!(auth_disable(pb::AuthDisableRequest {})),
        AuthCall::Status => told!(auth_status(pb::AuthStatusRequest {})),
        AuthCall::Authenticate(request) => {
            let mut answer = auth.authenticate(request).await.map_err(without_what_etcd_tells)?.into_inner();
            without_ids(&mut answer.header);
            let token = std::mem::take(&mut answer.token);
            return Ok((format!("{answer:?}"), Some(token)));
        }
        AuthCall::UserAdd(request) => told!(user_add(request)),
        AuthCall::UserGet(request) => told!(user_get(request)),
        AuthCall::UserList => told!(user_list(pb::AuthUserListRequest {})),
        AuthCall::UserDelete(request) => told!(user_delete(request)),
        AuthCall::ChangePassword(request) => told!(user_change_password(request)),
        AuthCall::GrantRole(request) => told!(user_grant_role(request)),
        AuthCall::RevokeRole(request) => told!(user_revoke_role(request)),
        AuthCall::RoleAdd(request) => told!(role_add(request)),
        AuthCall::RoleGet(request) => told!(role_get(request)),
        AuthCall::RoleList => told!(role_list(pb::AuthRoleListRequest {})),
        AuthCall::RoleDelete(request) => told!(role_delete(request)),
        AuthCall::Permit(request) => told!(role_grant_permission(request)),
        AuthCall::Forbid(request) => told!(role_revoke_permission(request)),
        AuthCall::Watch(create) => first_answer(channel, create).await?,
        AuthCall::MemberList => {
            let mut cluster = pb::cluster_client::ClusterClient::new(channel);
            let answer =
                cluster.member_list(pb::MemberListRequest { linearizable: true }).await?.into_inner();
            format!("{} members", answer.members.len())
        }
    };
    Ok((text, None))
}

/// A failed authentication, without that the user has no password: we do not tell.
fn without_what_etcd_tells(status: Status) -> Status {
    if status.message() == "auth: authentication failed, password was given for no password user" {
        return Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password");
    }
    status
}

/// Whether a watcher is let in. What it is told then, others compare.
async fn first_answer(channel: Named, create: pb::WatchCreateRequest) -> Result<String, Status> {
    let mut client = pb::watch_client::WatchClient::new(channel);
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream stays open until it has answered.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut responses = client.watch(requests).await?.into_inner();
    let first = responses.message().await?.ok_or_else(|| Status::internal("there was no answer"))?;
    let pb::WatchResponse { watch_id, created, canceled, compact_revision, cancel_reason, .. } = first;
    Ok(format!("{watch_id} {created} {canceled} {compact_revision} {cancel_reason:?}"))
}

/// Somebody who once showed who he is: what each side gave him.
struct Session {
    user: String,
    theirs: String,
    ours: String,
}

/// One program, on both sides.
pub struct Users {
    theirs: Side,
    ours: Side,
    dice: Dice,
    program: Program,
    world: World,
    sessions: VecDeque<Session>,
    last: VecDeque<String>,
    seed: u64,
}

impl Users {
    pub fn new(theirs: Side, ours: Side, seed: u64) -> Self {
        let (dice, program) = (Dice::new(seed ^ 0x6175_7468), Program::new(seed));
        let (world, sessions, last) = (World::default(), VecDeque::new(), VecDeque::new());
        Self { theirs, ours, dice, program, world, sessions, last, seed }
    }

    pub async fn run(&mut self, calls: usize) {
        for number in 0..calls {
            if number % EPOCH == 0 {
                self.begin().await;
            }
            let call = self.next();
            // Most calls that change users are of somebody who may.
            let who = match self.dice.below(10) {
                0 => None,
                1 => Some(("nonsense".to_owned(), "nonsense".to_owned())),
                2..6 => self.token_of("root"),
                _ => self.any_token(),
            };
            self.call(number, who, call).await;
        }
        // What is held at the end is compared as root sees it.
        for call in [AuthCall::Status, AuthCall::UserList, AuthCall::RoleList] {
            let who = self.token_of("root");
            self.call(calls, who, Call::Auth(call)).await;
        }
    }

    /// Users that may do something, and checks of all calls.
    async fn begin(&mut self) {
        let root = || "root".to_owned();
        let user = |name: &str| pb::AuthUserAddRequest {
            name: name.into(),
            password: "one".into(),
            ..Default::default()
        };
        let grant =
            |user: &str, role: &str| pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        let mut calls = vec![
            AuthCall::UserAdd(user("root")),
            AuthCall::RoleAdd(pb::AuthRoleAddRequest { name: root() }),
            AuthCall::GrantRole(grant("root", "root")),
            AuthCall::ChangePassword(pb::AuthUserChangePasswordRequest {
                name: root(),
                password: "one".into(),
                ..Default::default()
            }),
        ];
        for (name, role) in USERS[1..4].iter().zip(&ROLES[1..4]) {
            calls.extend([
                AuthCall::UserAdd(user(name)),
                AuthCall::RoleAdd(pb::AuthRoleAddRequest { name: (*role).into() }),
                AuthCall::Permit(self.permit(role)),
                AuthCall::GrantRole(grant(name, role)),
            ]);
        }
        calls.push(AuthCall::Enable);
        for name in &USERS[..4] {
            let request = pb::AuthenticateRequest { name: (*name).into(), password: "one".into() };
            calls.push(AuthCall::Authenticate(request));
        }
        for call in calls {
            let who = self.token_of("root");
            self.call(0, who, Call::Auth(call)).await;
        }
    }

    fn next(&mut self) -> Call {
        if self.dice.chance(45) {
            loop {
                match self.program.next(&self.world) {
                    // Its lease may not be this caller's to end.
                    Step::Call(Call::PassingGrant(_)) => {}
                    Step::Call(call) => return call,
                    Step::Watch { create, .. } => return Call::Auth(AuthCall::Watch(create)),
                    _ => {}
                }
            }
        }
        let (user, role) = (self.dice.one_of(&USERS).to_owned(), self.dice.one_of(&ROLES).to_owned());
        let password = self.dice.one_of(&PASSWORDS).to_owned();
        Call::Auth(match self.dice.below(100) {
            0..2 => AuthCall::Enable,
            2 => AuthCall::Disable,
            3..6 => AuthCall::Status,
            6..22 => {
                let password = if self.dice.chance(70) { "one".to_owned() } else { password };
                AuthCall::Authenticate(pb::AuthenticateRequest { name: user, password })
            }
            22..30 => {
                let options = self.dice.chance(15).then_some(UserAddOptions { no_password: true });
                let password = if self.dice.chance(70) { "one".to_owned() } else { password };
                AuthCall::UserAdd(pb::AuthUserAddRequest {
                    name: user,
                    password,
                    options,
                    ..Default::default()
                })
            }
            30..36 => AuthCall::UserGet(pb::AuthUserGetRequest { name: user }),
            36..39 => AuthCall::UserList,
            39..42 => AuthCall::UserDelete(pb::AuthUserDeleteRequest { name: user }),
            42..45 => AuthCall::ChangePassword(pb::AuthUserChangePasswordRequest {
                name: user,
                password,
                ..Default::default()
            }),
            45..55 => AuthCall::GrantRole(pb::AuthUserGrantRoleRequest { user, role }),
            55..60 => AuthCall::RevokeRole(pb::AuthUserRevokeRoleRequest { name: user, role }),
            60..65 => AuthCall::RoleAdd(pb::AuthRoleAddRequest { name: role }),
            65..71 => AuthCall::RoleGet(pb::AuthRoleGetRequest { role }),
            71..74 => AuthCall::RoleList,
            74..76 => AuthCall::RoleDelete(pb::AuthRoleDeleteRequest { role }),
            76..90 => AuthCall::Permit(self.permit(&role)),
            90..96 => {
                let Permission { key, range_end, .. } = self.permit(&role).perm.unwrap_or_default();
                AuthCall::Forbid(pb::AuthRoleRevokePermissionRequest { role, key, range_end })
            }
            _ => AuthCall::MemberList,
        })
    }

    fn permit(&mut self, role: &str) -> pb::AuthRoleGrantPermissionRequest {
        let (key, range_end) = self.program.key_and_end();
        let perm_type = self.dice.below(3) as i32;
        let perm = self.dice.chance(97).then_some(Permission { perm_type, key, range_end });
        pb::AuthRoleGrantPermissionRequest { name: role.into(), perm }
    }

    /// The newest tokens of a user.
    fn token_of(&self, user: &str) -> Option<(String, String)> {
        let session = self.sessions.iter().rev().find(|session| session.user == user)?;
        Some((session.theirs.clone(), session.ours.clone()))
    }

    /// Tokens of anybody; some are void.
    fn any_token(&mut self) -> Option<(String, String)> {
        let at = self.dice.below(self.sessions.len() as u64) as usize;
        self.sessions.get(at).map(|session| (session.theirs.clone(), session.ours.clone()))
    }

    async fn call(&mut self, number: usize, who: Option<(String, String)>, call: Call) {
        let name = who.as_ref().and_then(|who| self.sessions.iter().find(|session| session.theirs == who.0));
        let name = name.map_or("nobody", |session| session.user.as_str());
        self.last.push_back(format!("{number}: {name}: {call:?}").chars().take(1_000).collect());
        self.last.drain(..self.last.len().saturating_sub(SHOWN));
        let (theirs, ours) = who.unzip();
        let (theirs, ours) = (self.theirs.call_as(theirs, &call).await, self.ours.call_as(ours, &call).await);
        if !theirs.is_like(&ours) {
            let steps = self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
            panic!(
                "seed {}: they differ\netcd:     {theirs:?}\nsetstone: {ours:?}\nafter\n{steps}",
                self.seed
            );
        }
        self.world.learn(&call, &theirs);
        if let (Call::Auth(AuthCall::Authenticate(request)), Answer::Auth(_)) = (&call, &theirs) {
            let [theirs, ours] = [&mut self.theirs, &mut self.ours].map(|side| side.token.take().unwrap());
            self.sessions.push_back(Session { user: request.name.clone(), theirs, ours });
            // Old ones are mostly void.
            self.sessions.drain(..self.sessions.len().saturating_sub(16));
        }
    }
}
