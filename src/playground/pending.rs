//! Changes of volumes that wait until no pod uses them. Pure.
//!
//! A pod has its volume from its first start until it is gone, through every restart of its container; so a change never
//! happens under a process. Invariants: a volume has at most one change that waits, which bounds them; a new pod does not start
//! on a volume that is to be changed first. Called by `driver`.

use crate::identity::Ordinal;

/// What is to be done with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Remove it.
    Delete(Ordinal),
    /// Put the copy that was made ready in its place.
    Restore(Ordinal),
    /// Exchange two of them.
    Swap(Ordinal, Ordinal),
}

impl Change {
    fn concerns(self, ordinal: Ordinal) -> bool {
        self.ordinals().any(|of| of == ordinal)
    }

    /// The volume to name in an error.
    pub fn first(self) -> Ordinal {
        match self {
            Self::Delete(one) | Self::Restore(one) | Self::Swap(one, _) => one,
        }
    }

    /// The ordinals of the volumes.
    pub fn ordinals(self) -> impl Iterator<Item = Ordinal> {
        let other = match self {
            Self::Delete(_) | Self::Restore(_) => None,
            Self::Swap(_, other) => Some(other),
        };
        std::iter::once(self.first()).chain(other)
    }
}

/// The changes that wait.
#[derive(Clone, Debug, Default)]
pub struct Pending(Vec<Change>);

impl Pending {
    /// Takes a change. The same one again changes nothing.
    ///
    /// # Errors
    /// The ordinal of a volume that waits for another change.
    pub fn add(&mut self, change: Change) -> Result<(), Ordinal> {
        if self.0.contains(&change) {
            return Ok(());
        }
        if let Some(busy) = change.ordinals().find(|ordinal| self.holds(*ordinal)) {
            return Err(busy);
        }
        self.0.push(change);
        Ok(())
    }

    /// True while the volume of this ordinal waits for a change.
    pub fn holds(&self, ordinal: Ordinal) -> bool {
        self.0.iter().any(|change| change.concerns(ordinal))
    }

    /// Takes out what can be done now.
    pub fn due(&mut self, in_use: impl Fn(Ordinal) -> bool) -> Vec<Change> {
        self.0.extract_if(.., |change| !change.ordinals().any(&in_use)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_waits_until_none_of_its_volumes_is_in_use() {
        let mut pending = Pending::default();
        assert_eq!(pending.add(Change::Delete(0)), Ok(()));
        assert_eq!(pending.add(Change::Swap(1, 2)), Ok(()));
        assert_eq!(pending.add(Change::Swap(1, 2)), Ok(()), "asked twice");
        for (change, busy) in [(Change::Restore(0), 0), (Change::Swap(3, 2), 2), (Change::Delete(1), 1)] {
            assert_eq!(pending.add(change), Err(busy));
        }
        assert!([0, 1, 2].into_iter().all(|ordinal| pending.holds(ordinal)) && !pending.holds(3));
        assert_eq!(pending.due(|ordinal| ordinal < 2), []);
        assert_eq!(pending.due(|ordinal| ordinal == 2), [Change::Delete(0)]);
        assert_eq!(pending.due(|_| false), [Change::Swap(1, 2)]);
        assert!(!pending.holds(1));
    }
}
