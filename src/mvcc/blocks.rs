//! The sorted map under the key index: entries in blocks of 64, each block one allocation.
//!
//! Why not a `BTreeMap` alone: keys that arrive in order leave its nodes 6/11 full, at two thirds more memory for each key. Here
//! a block that is full and grows at its end stays full.
//!
//! Every block but the first is found under a lower bound of its keys, which the block before it does not reach. The first
//! block's bound is the empty key.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use super::key::Key;

/// Entries of a full block. With entries of 40 bytes it is a size that the allocator has.
const FULL: usize = 64;
/// A block with fewer entries joins the one before it, if both fit.
const FEW: usize = 16;

type Block<V> = Vec<(Key, V)>;

/// A map from keys to `V`, ordered by key.
pub(super) struct Blocks<V> {
    blocks: BTreeMap<Key, Block<V>>,
}

impl<V> Default for Blocks<V> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new() }
    }
}

impl<V: fmt::Debug> fmt::Debug for Blocks<V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self.iter()).finish()
    }
}

/// The same entries; how they lie in blocks does not matter.
impl<V: PartialEq> PartialEq for Blocks<V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<V: Eq> Eq for Blocks<V> {}

impl<V> Blocks<V> {
    /// What is under `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        let (_, block) = self.blocks.range::<[u8], _>(up_to(key)).next_back()?;
        let place = search(block, key).ok()?;
        block.get(place).map(|(_, value)| value)
    }

    /// What is under `key`, to change it.
    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        let (_, block) = self.blocks.range_mut::<[u8], _>(up_to(key)).next_back()?;
        let place = search(block, key).ok()?;
        block.get_mut(place).map(|(_, value)| value)
    }

    /// Put `value` under `key`. What was there before.
    pub(super) fn insert(&mut self, key: &[u8], value: V) -> Option<V> {
        let Some((_, block)) = self.blocks.range_mut::<[u8], _>(up_to(key)).next_back() else {
            self.blocks.insert(Key::from(&[][..]), vec![(Key::from(key), value)]);
            return None;
        };
        let place = match search(block, key) {
            Ok(place) => {
                return block.get_mut(place).map(|(_, old)| std::mem::replace(old, value));
            }
            Err(place) => place,
        };
        let entry = (Key::from(key), value);
        if block.len() < FULL {
            block.insert(place, entry);
            return None;
        }
        let mut upper = block.split_off(if place == FULL { FULL } else { FULL / 2 });
        match place.checked_sub(block.len()) {
            Some(place) => upper.insert(place, entry),
            None => block.insert(place, entry),
        }
        if let Some(bound) = upper.first().map(|(key, _)| key.clone()) {
            self.blocks.insert(bound, upper);
        }
        None
    }

    /// Remove what is under `key`.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<V> {
        let (bound, block) = self.blocks.range_mut::<[u8], _>(up_to(key)).next_back()?;
        let place = search(block, key).ok()?;
        let (_, value) = block.remove(place);
        if block.len() < FEW {
            let bound = bound.clone();
            self.join(&bound);
        }
        Some(value)
    }

    /// Let the block at `bound` join the one before it, if both fit; a block without entries goes.
    fn join(&mut self, bound: &Key) {
        let few = self.blocks.get(bound).map_or(0, Vec::len);
        let before = self.blocks.range::<Key, _>(..bound).next_back();
        if few == 0 || before.is_some_and(|(_, before)| before.len() + few <= FULL - FEW) {
            let moved = self.blocks.remove(bound).unwrap_or_default();
            if let Some((_, before)) = self.blocks.range_mut::<Key, _>(..bound).next_back() {
                before.extend(moved);
            }
        }
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.range(&[], None)
    }

    /// The entries from `from` on and, if `to` is given, below it, in order. `from` is not above `to`.
    pub(super) fn range<'a>(
        &'a self,
        from: &'a [u8],
        to: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a V)> {
        let first =
            self.blocks.range::<[u8], _>(up_to(from)).next_back().map_or(&[][..], |(key, _)| key.as_slice());
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        // A range that ends at the empty key has nothing in it, and a B-tree no name for it.
        let blocks =
            (to != Some(&[][..])).then(|| self.blocks.range::<[u8], _>((Bound::Included(first), end)));
        blocks
            .into_iter()
            .flatten()
            .flat_map(move |(_, block)| part(block, from, to))
            .map(|(key, value)| (key.as_slice(), value))
    }
}

/// The bounds at or before `key`.
fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

/// Where `key` is in `block`, or where it would be.
fn search<V>(block: &Block<V>, key: &[u8]) -> Result<usize, usize> {
    block.binary_search_by(|(other, _)| other.as_slice().cmp(key))
}

/// The entries of `block` from `from` on and below `to`. Most blocks of a long range lie in it whole.
fn part<'a, V>(block: &'a Block<V>, from: &[u8], to: Option<&[u8]>) -> &'a [(Key, V)] {
    let below = |bound: &[u8]| block.partition_point(|(key, _)| key.as_slice() < bound);
    let begins = block.first().is_some_and(|(key, _)| key.as_slice() >= from);
    let begin = if begins { 0 } else { below(from) };
    let end = match to {
        Some(to) if block.last().is_some_and(|(key, _)| key.as_slice() >= to) => below(to),
        _ => block.len(),
    };
    block.get(begin..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16),
        Remove(u16),
        Range(u16, Option<u16>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Runs up and down, so that blocks fill, split and empty.
        let run =
            (0u16..600, 1u16..200, any::<bool>(), any::<bool>()).prop_map(|(start, count, up, insert)| {
                (0..count)
                    .map(|step| {
                        let key = if up { start.saturating_add(step) } else { start.saturating_sub(step) };
                        if insert { Step::Insert(key) } else { Step::Remove(key) }
                    })
                    .collect::<Vec<_>>()
            });
        let range = (0u16..600, proptest::option::of(0u16..200))
            .prop_map(|(from, length)| vec![Step::Range(from, length.map(|length| from + length))]);
        let single = (0u16..600, any::<bool>())
            .prop_map(|(key, insert)| vec![if insert { Step::Insert(key) } else { Step::Remove(key) }]);
        proptest::collection::vec(prop_oneof![2 => run, 2 => range, 1 => single], 1..30)
            .prop_map(|parts| parts.concat())
    }

    fn bytes(key: u16) -> Vec<u8> {
        // The first key is the empty one, which is also the first block's bound.
        if key == 0 { Vec::new() } else { format!("{key:05}").into_bytes() }
    }

    fn well_formed<V>(blocks: &Blocks<V>) {
        let bounds: Vec<_> = blocks.blocks.keys().cloned().collect();
        for (at, (bound, block)) in blocks.blocks.iter().enumerate() {
            assert!(!block.is_empty() && block.len() <= FULL);
            assert!(block.first().unwrap().0 >= *bound);
            assert!(bounds.get(at + 1).is_none_or(|next| block.last().unwrap().0 < *next));
        }
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map(steps in steps()) {
            let (mut blocks, mut model) = (Blocks::default(), BTreeMap::new());
            for (value, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(key) => {
                        prop_assert_eq!(blocks.insert(&bytes(key), value), model.insert(bytes(key), value));
                        prop_assert_eq!(blocks.get(&bytes(key)), Some(&value));
                    }
                    Step::Remove(key) => {
                        prop_assert_eq!(blocks.remove(&bytes(key)), model.remove(&bytes(key)));
                        prop_assert_eq!(blocks.get_mut(&bytes(key)), None);
                    }
                    Step::Range(from, to) => {
                        let (from, to) = (bytes(from), to.map(bytes));
                        let expected: Vec<_> = model
                            .range(from.clone()..)
                            .take_while(|(key, _)| to.as_ref().is_none_or(|to| *key < to))
                            .map(|(key, value)| (key.as_slice(), value))
                            .collect();
                        let found: Vec<_> = blocks.range(&from, to.as_deref()).collect();
                        prop_assert_eq!(found, expected);
                    }
                }
                well_formed(&blocks);
            }
            prop_assert!(blocks.iter().eq(model.iter().map(|(key, value)| (key.as_slice(), value))));
        }
    }

    #[test]
    fn keys_that_arrive_in_order_leave_full_blocks() {
        let mut blocks = Blocks::default();
        for key in 0..6_400 {
            blocks.insert(format!("{key:05}").as_bytes(), ());
        }
        assert!(blocks.blocks.values().all(|block| block.len() == FULL));
    }
}
