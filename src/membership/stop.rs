//! Stopping is not leaving (rule 4): whether a pod that was told to stop also leaves the cluster. Pure.

use std::fmt;

use crate::env::owner::Seen;
use crate::identity::{Ordinal, OrdinalRange};

/// What the stop means for the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod comes back: change nothing.
    Restart,
    /// The whole set goes: change nothing.
    Teardown,
    /// The whole set sleeps: change nothing.
    Hibernation,
    /// The pod does not come back: ask the leader to retire this member, and wait, bounded, until it is in no committed uniform
    /// membership.
    Retire,
}

/// The stop table of DESIGN section 5.
pub fn verdict(seen: &Seen, ordinal: Ordinal) -> Verdict {
    match *seen {
        Seen::Unknown(_) => Verdict::Restart,
        Seen::Gone | Seen::BeingDeleted => Verdict::Teardown,
        Seen::Wants { size: 0, .. } => Verdict::Hibernation,
        Seen::Wants { start, size, .. } if OrdinalRange { start, size }.contains(ordinal) => Verdict::Restart,
        Seen::Wants { .. } => Verdict::Retire,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restart => "the pod comes back: the membership stays as it is",
            Self::Teardown => "the whole set goes: the membership stays as it is",
            Self::Hibernation => "the whole set sleeps: the membership stays as it is",
            Self::Retire => "the pod does not come back: its member leaves",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let wants = |start, size| Seen::Wants { start, size, generation: 3 };
        for (seen, ordinal, expected) in [
            (Seen::Unknown("time-out".into()), 2, Verdict::Restart),
            (Seen::Gone, 2, Verdict::Teardown),
            (Seen::BeingDeleted, 2, Verdict::Teardown),
            (wants(0, 0), 0, Verdict::Hibernation),
            (wants(0, 0), 9, Verdict::Hibernation),
            (wants(0, 3), 2, Verdict::Restart),
            (wants(0, 3), 3, Verdict::Retire),
            (wants(5, 3), 4, Verdict::Retire),
            (wants(5, 3), 5, Verdict::Restart),
            (wants(5, 3), 7, Verdict::Restart),
            (wants(5, 3), 8, Verdict::Retire),
            (wants(Ordinal::MAX, u16::MAX), Ordinal::MAX, Verdict::Restart),
        ] {
            assert_eq!(verdict(&seen, ordinal), expected, "{seen:?} seen by {ordinal}");
        }
    }

    #[test]
    fn only_a_positive_answer_makes_a_pod_leave() {
        for ordinal in 0..=9 {
            for seen in [Seen::Unknown(String::new()), Seen::Gone, Seen::BeingDeleted] {
                assert_ne!(verdict(&seen, ordinal), Verdict::Retire);
            }
        }
    }
}
