//! What must hold at every moment, told from inside the members: one leader per term, the same entry at the same index,
//! nothing applied twice or out of order. Pure.

use std::collections::BTreeMap;

use crate::env::simulated::Seen;
use crate::identity::NodeId;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Invariants {
    leaders: BTreeMap<u64, u64>,
    entries: BTreeMap<u64, (u64, u64)>,
    /// Last index that a member applied since it was started.
    applied: BTreeMap<u64, u64>,
    wrong: Vec<String>,
}

impl Invariants {
    /// A process begins: its state starts wherever its disk says.
    pub fn started(&mut self, ordinal: u16) {
        self.applied.retain(|node, _| NodeId(*node).ordinal() != ordinal);
    }

    /// Takes in what happened; true if it is something new.
    pub fn take(&mut self, seen: Seen) -> bool {
        match seen {
            Seen::Leads { term, leader } => {
                let first = !self.leaders.contains_key(&term);
                let known = *self.leaders.entry(term).or_insert(leader);
                if known != leader {
                    self.wrong.push(format!("two leaders in term {term}: {known:x} and {leader:x}"));
                }
                first
            }
            Seen::Installed { node, index } => {
                self.applied.insert(node, index);
                true
            }
            Seen::Applied { node, term, index, digest } => {
                let known = *self.entries.entry(index).or_insert((term, digest));
                if known != (term, digest) {
                    self.wrong.push(format!(
                        "member {node:x} applied {term}-{index} with digest {digest:x}; another applied {}-{index} with {:x}",
                        known.0, known.1
                    ));
                }
                if let Some(last) = self.applied.insert(node, index)
                    && index != last + 1
                {
                    self.wrong.push(format!("member {node:x} applied entry {index} after entry {last}"));
                }
                true
            }
        }
    }

    /// What did not hold.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn applied(node: u64, term: u64, index: u64, digest: u64) -> Seen {
        Seen::Applied { node, term, index, digest }
    }

    #[test]
    fn what_may_be_is_not_reported() {
        let mut invariants = Invariants::default();
        for seen in [
            Seen::Leads { term: 1, leader: 7 },
            Seen::Leads { term: 1, leader: 7 },
            Seen::Leads { term: 2, leader: 8 },
            applied(7, 1, 5, 50),
            applied(7, 1, 6, 60),
            applied(8, 1, 6, 60),
            Seen::Installed { node: 8, index: 9 },
            applied(8, 2, 10, 100),
        ] {
            invariants.take(seen);
        }
        invariants.started(NodeId(7).ordinal());
        invariants.take(applied(7, 1, 5, 50));
        assert_eq!(invariants.wrong(), Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be_is_reported() {
        for (seen, what) in [
            (Seen::Leads { term: 1, leader: 8 }, "two leaders"),
            (applied(8, 1, 5, 51), "with digest"),
            (applied(8, 2, 5, 50), "with digest"),
            (applied(7, 1, 5, 50), "after entry 5"),
            (applied(7, 1, 7, 70), "after entry 5"),
        ] {
            let mut invariants = Invariants::default();
            invariants.take(Seen::Leads { term: 1, leader: 7 });
            invariants.take(applied(7, 1, 5, 50));
            invariants.take(seen);
            assert!(invariants.wrong().first().unwrap().contains(what), "{:?}", invariants.wrong());
        }
    }
}
