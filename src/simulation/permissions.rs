//! The clients of a simulation that are users, and the one that gives them their rights and takes them away. Only some seeds have them: there
//! all other clients are the user that may do everything.
//!
//! What is of unknown outcome may happen at any later time. So a user to whom something of that kind happened before it had its right never
//! tries anything; afterwards there is only taking away, which may happen twice.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;

use super::permission_check::{Attempt, Came, Needs, PREFIX, Round};
use super::shared::Shared;
use super::world::{Dice, Pod};
use crate::client::{
    Access, Answer, Client, Connection, Consistency, Credentials, Dial, Endpoint, Options, Permission, Range,
    Remote,
};
use crate::env::simulated::mix;
use crate::error::Error;
use crate::mvcc::command::Put;

/// Time for one call, repetitions included.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Pause before something is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// How rights are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    RoleOfUser,
    PermissionOfRole,
    Role,
    User,
}

/// A round that is under way.
struct UnderWay {
    place: usize,
    user: String,
    role: String,
    key: Bytes,
    /// As this user reaches them.
    members: Vec<Connection>,
    is_over: Cell<bool>,
}

/// Whoever gives and takes.
struct Warden {
    shared: Shared,
    dice: Dice,
    options: Options,
    endpoints: Vec<Endpoint>,
    remote: Remote,
}

/// Runs users, one after the other, until the simulation heals.
pub(super) async fn users(shared: &Shared, place: &Pod) -> Result<(), Error> {
    let warden = Warden::new(shared.clone(), place)?;
    warden.enable().await;
    let mut number = 0;
    while warden.goes_on() {
        number += 1;
        warden.round(number).await;
        tokio::time::sleep(AGAIN).await;
    }
    shared.calling.set(shared.calling.get().saturating_sub(1));
    Ok(())
}

impl Warden {
    fn new(shared: Shared, place: &Pod) -> Result<Self, Error> {
        let env = place.env(&shared.now, &shared.zone);
        let dice = Dice::new(mix(shared.plan.seed ^ 0x7573_6572));
        let options = Options {
            timeout: PATIENCE,
            dial: Dial::Env(env),
            credentials: shared.credentials(),
            ..Options::default()
        };
        let at = |ordinal| format!("{}:2379", shared.facts(ordinal).fqdn()).parse::<Endpoint>();
        let endpoints: Vec<Endpoint> = (0..shared.plan.size)
            .map(at)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Invalid(error.to_string()))?;
        let remote = Remote::with_random(endpoints.clone(), &options, std::sync::Arc::new(dice.clone()))?;
        Ok(Self { shared, dice, options, endpoints, remote })
    }

    fn goes_on(&self) -> bool {
        self.shared.now.millis() < self.shared.plan.heal
    }

    /// Adds the user that may do everything, and has users asked who they are. Each step may have been done already.
    async fn enable(&self) {
        let root = "root";
        self.until_done(|| self.remote.user_add(root, Some(root)), "already exists").await;
        self.until_done(|| self.remote.role_add(root), "already exists").await;
        self.until_done(|| self.remote.user_grant_role(root, root), "already exists").await;
        self.until_done(|| self.remote.auth_enable(), "already exists").await;
        self.shared.trace.add("users are asked who they are");
    }

    /// Does something again and again, until it is done, has been done before (as this text says), or the simulation heals.
    async fn until_done<F>(&self, call: impl Fn() -> F, before: &str) -> bool
    where
        F: Future<Output = Result<Answer<()>, Error>>,
    {
        while self.goes_on() {
            match call().await {
                Ok(_) => return true,
                Err(error) if error.to_string().contains(before) => return true,
                Err(error) => drop(self.shared.trace.add(&format!("the warden: {error}"))),
            }
            tokio::time::sleep(AGAIN).await;
        }
        false
    }

    /// Does something once, and certainly.
    async fn certainly<F>(&self, call: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<Answer<()>, Error>>,
    {
        while self.goes_on() {
            match call().await {
                Ok(_) => return true,
                Err(error) if error.is_outcome_unknown() => return false,
                Err(error) => drop(self.shared.trace.add(&format!("the warden: {error}"))),
            }
            tokio::time::sleep(AGAIN).await;
        }
        false
    }

    /// One user, from its begin to its end.
    async fn round(&self, number: u64) {
        let (user, role) = (format!("u{number}"), format!("r{number}"));
        let key = Bytes::from(format!("{PREFIX}{number}"));
        let access =
            *self.dice.pick(&[Access::Read, Access::Write, Access::ReadWrite]).unwrap_or(&Access::Read);
        let permission = Permission { access, key: key.clone(), range_end: Bytes::new() };
        let is_there = self.certainly(|| self.remote.user_add(&user, Some(&user))).await
            && self.certainly(|| self.remote.role_add(&role)).await
            && self.certainly(|| self.remote.role_grant_permission(&role, permission.clone())).await;
        let asked = self.shared.trace.add(&format!("{user} is to be given {access:?} of {key:?}"));
        if !is_there || !self.certainly(|| self.remote.user_grant_role(&user, &role)).await {
            return;
        }
        let answered = self.shared.trace.add(&format!("{user} was given {access:?} of {key:?}"));
        self.shared.count("rights given");
        let place = self.shared.rounds.borrow().len();
        self.shared.rounds.borrow_mut().push(Round {
            user: user.clone(),
            key: key.clone(),
            reads: access != Access::Write,
            writes: access != Access::Read,
            given: (asked, answered),
            taken: None,
            attempts: Vec::new(),
        });
        let credentials = Some(Credentials::new(&user, &user));
        let options = Options { credentials, ..self.options.clone() };
        let members: Vec<Connection> =
            self.endpoints.iter().map(|at| Connection::new(at.clone(), &options)).collect();
        let under_way = UnderWay { place, user, role, key, members, is_over: Cell::new(false) };
        futures::future::join(self.tries(&under_way), self.takes(&under_way)).await;
    }

    /// Takes the right away, in one of the ways, and gives the user some more time.
    async fn takes(&self, under_way: &UnderWay) {
        let UnderWay { place, user, role, key, .. } = under_way;
        tokio::time::sleep(Duration::from_millis(self.dice.within(20, 1_500))).await;
        let all = [Taking::RoleOfUser, Taking::PermissionOfRole, Taking::Role, Taking::User];
        let taking = *self.dice.pick(&all).unwrap_or(&Taking::User);
        let asked = self.shared.trace.add(&format!("{user} is to lose its right: {taking:?}"));
        self.note(*place, |round| round.taken = Some((asked, None)));
        // An attempt of unknown outcome may have done it.
        let is_taken = match taking {
            Taking::RoleOfUser => {
                self.until_done(|| self.remote.user_revoke_role(user, role), "role is not granted").await
            }
            Taking::PermissionOfRole => {
                let revoke = || self.remote.role_revoke_permission(role, key.clone(), Bytes::new());
                self.until_done(revoke, "permission is not granted").await
            }
            Taking::Role => self.until_done(|| self.remote.role_delete(role), "role name not found").await,
            Taking::User => self.until_done(|| self.remote.user_delete(user), "user name not found").await,
        };
        if is_taken {
            let answered = self.shared.trace.add(&format!("{user} has lost its right"));
            self.shared.count("rights taken away");
            self.note(*place, |round| round.taken = Some((asked, Some(answered))));
            // Members that have not heard of it yet would let it in.
            let everywhere = (under_way.members.iter().zip(1..)).map(|(member, at)| {
                self.attempt(under_way, member, key, Needs::Write, format!("{user}.late{at}"))
            });
            futures::future::join_all(everywhere).await;
        }
        tokio::time::sleep(Duration::from_millis(self.dice.within(50, 1_000))).await;
        under_way.is_over.set(true);
    }

    /// Tries what is permitted and what is not, through any member.
    async fn tries(&self, under_way: &UnderWay) {
        let UnderWay { user, key, members, is_over, .. } = under_way;
        let mut number = 0;
        while !is_over.get() && self.goes_on() {
            number += 1;
            let Some(member) = self.dice.pick(members) else { return };
            let key = if self.dice.chance(15) { &Bytes::from_static(b"k0") } else { key };
            let needs = if self.dice.chance(50) { Needs::Read } else { Needs::Write };
            self.attempt(under_way, member, key, needs, format!("{user}.{number}")).await;
            tokio::time::sleep(Duration::from_millis(self.dice.within(1, 60))).await;
        }
    }

    /// One call of the user.
    async fn attempt(
        &self,
        under_way: &UnderWay,
        member: &Connection,
        key: &Bytes,
        needs: Needs,
        value: String,
    ) {
        let UnderWay { place, user, .. } = under_way;
        let (key, value) = (key.clone(), Bytes::from(value));
        let asked = self.shared.trace.add(&format!("{user} is to {needs:?} {key:?}"));
        let done = match needs {
            Needs::Read => {
                let range = Range { key: key.clone(), ..Range::default() };
                member.get(range, Consistency::Linearizable).await.map(|answer| answer.header.revision)
            }
            Needs::Write => {
                let put = Put { key: key.clone(), value: value.clone(), ..Put::default() };
                member.put(put).await.map(|answer| answer.header.revision)
            }
        };
        let came = match &done {
            Ok(revision) => Came::Done(*revision),
            Err(error) if is_denial(error) => Came::Denied,
            Err(_) => Came::Else,
        };
        self.shared.count(match came {
            Came::Done(_) => "calls of users permitted",
            Came::Denied => "calls of users denied",
            Came::Else => "calls of users that failed",
        });
        let answered = self.shared.trace.add(&format!("{user}: {done:?}"));
        let attempt = Attempt { key, needs, value, asked, answered, came };
        self.note(*place, |round| round.attempts.push(attempt));
    }

    fn note(&self, place: usize, change: impl FnOnce(&mut Round)) {
        if let Some(round) = self.shared.rounds.borrow_mut().get_mut(place) {
            change(round);
        }
    }
}

/// The user may not, or is not known.
fn is_denial(error: &Error) -> bool {
    let text = error.to_string();
    text.contains("permission denied") || text.contains("authentication failed")
}
