//! Sets of keys: ranges, merged where they touch, so that one search tells whether all keys of a range are in it.

use bytes::Bytes;

use super::Permission;

/// A set of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeySet {
    /// `[start, end)`, in order, with room between them; no end: to the last key.
    ranges: Vec<(Bytes, Option<Bytes>)>,
}

impl KeySet {
    /// The keys of all these permissions.
    pub(super) fn of<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Self {
        let mut ranges: Vec<_> = permissions.map(range_of).collect();
        ranges.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match merged.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    if let Some(reached) = last
                        && end.as_ref().is_none_or(|end| end > reached)
                    {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Self { ranges: merged }
    }

    /// Whether every key of `[key, range_end)` is in it. A range that holds no key is in it if its first key is.
    pub(super) fn covers(&self, key: &[u8], range_end: &[u8]) -> bool {
        let after = self.ranges.partition_point(|(start, _)| start.as_ref() <= key);
        let Some((_, end)) = after.checked_sub(1).and_then(|place| self.ranges.get(place)) else {
            return false;
        };
        let Some(end) = end else { return true };
        key < end.as_ref()
            && match range_end {
                [] => true,
                [0] => false,
                asked => asked <= end.as_ref(),
            }
    }
}

fn range_of(permission: &Permission) -> (Bytes, Option<Bytes>) {
    let start = permission.key.clone();
    let end = match permission.range_end.as_ref() {
        // The least key above it.
        [] => Some([start.as_ref(), &[0]].concat().into()),
        [0] => None,
        _ => Some(permission.range_end.clone()),
    };
    (start, end)
}
