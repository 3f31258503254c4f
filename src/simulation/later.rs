//! What seeds from [`FIRST_LATER_SEED`] on plan beside what all seeds do. Pure.
//!
//! Each part has dice of its own, and seeds below have none of it: planted bugs are looked for in them, and what they plan stays as it is.

use std::time::Duration;

use super::fault::Fault;
use super::plan::{Mode, majority};
use super::world::Dice;
use crate::config::{AuthConfig, Tokens};
use crate::env::simulated::{FIRST_LATER_SEED, mix};
use crate::limits;

/// Longest time for which a process stands still, in milliseconds.
const STANDING_MILLIS: u64 = 6_000;

/// All volumes are put back to older copies at the very end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restore {
    /// To copies that were all made at one moment, when something may have been going wrong.
    AtOnce(u64),
    /// To copies that were made when all was well, those of these pods some seconds before the others'.
    Older(Vec<u16>),
}

/// A majority of the volumes is lost while the set is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// Pods that are wanted.
    pub replicas: u16,
    /// So long before the volumes are lost, in milliseconds.
    pub before: u64,
    /// So long after they are lost all pods are wanted again.
    pub after: u64,
}

/// What the parts are made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basics {
    pub(super) seed: u64,
    pub(super) size: u16,
    pub(super) mode: Mode,
    /// When things go wrong.
    pub(super) begin: u64,
    pub(super) heal: u64,
    /// Nothing is done to any disk before the very end.
    pub(super) untouched: bool,
    pub(super) follows: bool,
}

impl Basics {
    fn dice(&self, salt: u64) -> Dice {
        Dice::new(mix(self.seed) ^ salt)
    }

    /// Pods that all vote, by the names of a `StatefulSet`.
    fn all_vote(&self) -> bool {
        self.mode == Mode::StatefulSet && matches!(self.size, 2 | 3 | 5)
    }
}

/// Processes that stand still, and when.
pub(super) fn standing(of: &Basics) -> Vec<(u64, Fault)> {
    let dice = of.dice(0x7374_6f70);
    if of.seed < FIRST_LATER_SEED || !dice.chance(50) {
        return Vec::new();
    }
    let one = |_| {
        let pod = dice.below(u64::from(of.size)) as u16;
        let time = if dice.chance(50) { dice.within(10, 1_000) } else { dice.within(500, STANDING_MILLIS) };
        (dice.within(of.begin, of.heal), Fault::Stopped { pod, time })
    };
    (0..dice.within(1, 6)).map(one).collect()
}

/// What happens at the very end: how the set is scaled meanwhile, which volumes are lost, how all are put back. `lost` is what is lost anyway.
pub(super) fn ends(of: &Basics, lost: Vec<u16>) -> (Option<Resize>, Vec<u16>, Option<Restore>) {
    let (resized, lost) = resized(of).map_or((None, lost), |(resize, lost)| (Some(resize), lost));
    let restored = restored(of, !lost.is_empty());
    (resized, lost, restored)
}

/// The loss of a majority of the volumes while the set is scaled, and the pods whose volumes go.
fn resized(of: &Basics) -> Option<(Resize, Vec<u16>)> {
    let dice = of.dice(0x7265_7369);
    if of.seed < FIRST_LATER_SEED || !of.follows || !of.all_vote() || !dice.chance(90) {
        return None;
    }
    let replicas = dice.within(1, u64::from(of.size - 1)) as u16;
    let resize = Resize { replicas, before: dice.within(0, 5_000), after: dice.within(0, 20_000) };
    Some((resize, majority(&dice, of.size)))
}

/// All volumes from older copies. `ends`: the plan ends in another way already.
fn restored(of: &Basics, ends: bool) -> Option<Restore> {
    let dice = of.dice(0x7265_7374);
    if of.seed < FIRST_LATER_SEED || ends || !of.untouched || !dice.chance(60) {
        return None;
    }
    if of.all_vote() && !of.follows && dice.chance(70) {
        let mut older: Vec<u16> = (0..of.size).collect();
        for _ in 0..dice.within(1, u64::from(of.size - 1)) {
            older.remove(dice.below(older.len() as u64) as usize);
        }
        return Some(Restore::Older(older));
    }
    Some(Restore::AtOnce(dice.within(of.begin, of.heal)))
}

/// Whether users are asked who they are.
pub(super) fn has_users(seed: u64) -> bool {
    seed >= FIRST_LATER_SEED && Dice::new(mix(seed) ^ 0x7573_6572).chance(30)
}

/// How: tokens die early in some seeds, and passwords are worth no work.
pub(super) fn auth(seed: u64) -> AuthConfig {
    let dice = Dice::new(mix(seed) ^ 0x746f_6b65);
    let token_ttl =
        if dice.chance(50) { Duration::from_millis(dice.within(300, 3_000)) } else { limits::TOKEN_TTL };
    AuthConfig {
        tokens: Tokens::Simple,
        token_ttl,
        bcrypt_cost: limits::BCRYPT_COST_MIN,
        ..AuthConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Plan;
    use super::*;

    #[test]
    fn earlier_seeds_have_none_of_it_and_of_the_others_many_have_each() {
        let (mut standing, mut resized, mut users) = (0, 0, 0);
        let (mut at_once, mut older) = (0, 0);
        for plan in (0..1_000).map(Plan::of) {
            let stops = plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::Stopped { .. }));
            let any = stops || plan.resized.is_some() || plan.restored.is_some() || plan.has_users;
            assert!(plan.seed >= FIRST_LATER_SEED || !any, "{plan:?}");
            assert!(plan.restored.is_none() || plan.lost.is_empty() && plan.rollback.is_none(), "{plan:?}");
            if let Some(resize) = plan.resized {
                assert!(plan.follows && !plan.lost.is_empty() && resize.replicas < plan.size, "{plan:?}");
                resized += 1;
            }
            match &plan.restored {
                Some(Restore::AtOnce(at)) => {
                    assert!(*at <= plan.heal, "{plan:?}");
                    at_once += 1;
                }
                Some(Restore::Older(pods)) => {
                    assert!(!pods.is_empty() && pods.len() < usize::from(plan.size), "{plan:?}");
                    older += 1;
                }
                None => {}
            }
            standing += usize::from(stops);
            users += usize::from(plan.has_users);
        }
        let counts = [standing, resized, users, at_once, older];
        assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    }
}
