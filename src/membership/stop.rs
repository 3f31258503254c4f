//! Stopping is not leaving (rule 4): whether a pod that was told to stop also leaves the cluster. Pure.

use crate::identity::Ordinal;

/// What the pod's own `StatefulSet` looked like when it was asked once, within one second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// No access, an error, a time-out, or nothing to ask; why.
    Unknown(String),
    /// It does not exist (404).
    Gone,
    /// It is being deleted.
    BeingDeleted,
    /// It wants `size` pods, from ordinal `start` on.
    Wants {
        /// Ordinal of the first pod.
        start: Ordinal,
        /// Number of pods.
        size: u32,
    },
}

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
pub fn verdict(observed: &Observed, ordinal: Ordinal) -> Verdict {
    match observed {
        Observed::Unknown(_) => Verdict::Restart,
        Observed::Gone | Observed::BeingDeleted => Verdict::Teardown,
        Observed::Wants { size: 0, .. } => Verdict::Hibernation,
        Observed::Wants { start, size } => {
            let (ordinal, start) = (u64::from(ordinal), u64::from(*start));
            if (start..start + u64::from(*size)).contains(&ordinal) {
                Verdict::Restart
            } else {
                Verdict::Retire
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let wants = |start, size| Observed::Wants { start, size };
        for (observed, ordinal, expected) in [
            (Observed::Unknown("time-out".into()), 2, Verdict::Restart),
            (Observed::Gone, 2, Verdict::Teardown),
            (Observed::BeingDeleted, 2, Verdict::Teardown),
            (wants(0, 0), 0, Verdict::Hibernation),
            (wants(0, 0), 9, Verdict::Hibernation),
            (wants(0, 3), 2, Verdict::Restart),
            (wants(0, 3), 3, Verdict::Retire),
            (wants(5, 3), 4, Verdict::Retire),
            (wants(5, 3), 5, Verdict::Restart),
            (wants(5, 3), 7, Verdict::Restart),
            (wants(5, 3), 8, Verdict::Retire),
            (wants(Ordinal::MAX, u32::MAX), Ordinal::MAX, Verdict::Restart),
        ] {
            assert_eq!(verdict(&observed, ordinal), expected, "{observed:?} seen by {ordinal}");
        }
    }

    #[test]
    fn only_a_positive_answer_makes_a_pod_leave() {
        for ordinal in 0..=9 {
            for observed in [Observed::Unknown(String::new()), Observed::Gone, Observed::BeingDeleted] {
                assert_ne!(verdict(&observed, ordinal), Verdict::Retire);
            }
        }
    }
}
