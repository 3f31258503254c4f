//! The watchers of one session: by id, by key, and who of them lags.

use std::collections::BTreeMap;

use super::delivery::{Delivery, Outgoing};
use crate::env::simulated::{self, Bug};
use crate::mvcc::{Interests, WatchOptions, WatchedKeys};

/// Bytes that a watcher takes beside its keys, here and in the hub. A test measures it.
pub(super) const WATCHER_BYTES: usize = 400;

/// One watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) id: i64,
    pub(super) keys: WatchedKeys,
    pub(super) options: WatchOptions,
    /// It gets its events from the history.
    pub(super) is_behind: bool,
    /// It got events since the last look at progress.
    pub(super) was_told: bool,
    /// The store has reached its start.
    pub(super) has_begun: bool,
    /// The least revision that it still wants.
    pub(super) next: i64,
}

/// The watchers of the same keys, and their place in the delivery that is being made.
#[derive(Debug, Default)]
struct SameKeys {
    slots: Slots,
    round: u32,
    place: u32,
}

/// One watcher, most often.
#[derive(Debug, Default)]
enum Slots {
    #[default]
    None,
    One(u32),
    Many(Vec<u32>),
}

impl Slots {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }

    fn add(&mut self, slot: u32) {
        match self {
            Self::None => *self = Self::One(slot),
            Self::One(one) => *self = Self::Many(vec![*one, slot]),
            Self::Many(slots) => slots.push(slot),
        }
    }

    /// True if none is left.
    fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::One(one) if *one == slot => *self = Self::None,
            Self::Many(slots) => {
                if let Some(at) = slots.iter().position(|known| *known == slot) {
                    slots.swap_remove(at);
                }
                if let [one] = slots.as_slice() {
                    *self = Self::One(*one);
                }
            }
            Self::None | Self::One(_) => {}
        }
        self.as_slice().is_empty()
    }
}

/// The watchers.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Watcher>>,
    free: Vec<u32>,
    ids: BTreeMap<i64, u32>,
    by_keys: Interests<SameKeys>,
    behind: usize,
    /// Watchers that want the pair before.
    previous: usize,
    /// Watchers that want to hear of progress.
    progress: usize,
    round: u32,
}

/// Which watchers events are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The hub: for those that lag not.
    Hub,
    /// The history: for those that lag.
    History,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn has(&self, id: i64) -> bool {
        self.ids.contains_key(&id)
    }

    /// Watchers that lag.
    pub(super) fn behind(&self) -> usize {
        self.behind
    }

    /// Whether anybody wants the pair before.
    pub(super) fn wants_previous(&self) -> bool {
        self.previous > 0
    }

    /// Whether anybody wants to hear of progress.
    pub(super) fn wants_progress(&self) -> bool {
        self.progress > 0
    }

    pub(super) fn add(&mut self, watcher: Watcher) {
        self.behind += usize::from(watcher.is_behind);
        self.previous += usize::from(watcher.options.has(WatchOptions::PREVIOUS));
        self.progress += usize::from(watcher.options.has(WatchOptions::PROGRESS));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.ids.insert(watcher.id, slot);
        self.by_keys.entry(&watcher.keys).slots.add(slot);
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(watcher);
        }
    }

    pub(super) fn remove(&mut self, id: i64) -> Option<Watcher> {
        let slot = self.ids.remove(&id)?;
        let watcher = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        self.behind -= usize::from(watcher.is_behind);
        self.previous -= usize::from(watcher.options.has(WatchOptions::PREVIOUS));
        self.progress -= usize::from(watcher.options.has(WatchOptions::PROGRESS));
        if let Some(same) = self.by_keys.get_mut(&watcher.keys)
            && same.slots.remove(slot)
        {
            self.by_keys.remove(&watcher.keys);
        }
        Some(watcher)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Watcher> {
        self.slots.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Watcher> {
        self.slots.iter_mut().flatten()
    }

    /// The least revision that somebody who lags wants.
    pub(super) fn first_wanted(&self) -> Option<i64> {
        self.iter().filter(|watcher| watcher.is_behind).map(|watcher| watcher.next).min()
    }

    /// Those that lag and want what is compacted.
    pub(super) fn below(&self, compacted: i64) -> Vec<i64> {
        let lost = self.iter().filter(|watcher| watcher.is_behind && watcher.next < compacted);
        lost.map(|watcher| watcher.id).collect()
    }

    /// Everything after `handled` was lost: all lag that did not, if they want anything up to `published`.
    pub(super) fn fall_behind(&mut self, handled: i64, published: i64) {
        let mut behind = 0;
        for watcher in self.slots.iter_mut().flatten() {
            if !watcher.is_behind {
                watcher.has_begun |= watcher.next <= handled;
                watcher.next = watcher.next.max(handled + 1);
                if simulated::planted(Bug::WatchTellTwice) {
                    watcher.next = handled;
                }
                watcher.is_behind = watcher.next <= published;
            }
            behind += usize::from(watcher.is_behind);
        }
        self.behind = behind;
    }

    /// The history was read up to `read`: who wants nothing up to `handled` any more lags no longer.
    pub(super) fn catch_up(&mut self, read: i64, handled: i64) {
        let mut behind = 0;
        for watcher in self.slots.iter_mut().flatten().filter(|watcher| watcher.is_behind) {
            // Also if nothing was there for it.
            watcher.has_begun |= watcher.next <= read;
            watcher.next = watcher.next.max(read + 1);
            watcher.is_behind = watcher.next <= handled;
            behind += usize::from(watcher.is_behind);
        }
        self.behind = behind;
    }

    /// Whether somebody for whom events from `from` are watches `key` and has these options.
    pub(super) fn is_wanted(&mut self, key: &[u8], from: From, options: WatchOptions) -> bool {
        let (slots, mut wanted) = (&self.slots, false);
        self.by_keys.visit(key, &mut |same| {
            wanted = wanted
                || same.slots.as_slice().iter().any(|slot| {
                    slots.get(*slot as usize).and_then(Option::as_ref).is_some_and(|watcher| {
                        watcher.is_behind == (from == From::History) && watcher.options.has(options)
                    })
                });
        });
        wanted
    }

    /// Who gets which of `events`, which are in order. Whoever gets one wants no earlier one any more.
    pub(super) fn deliver(&mut self, events: Vec<Outgoing>, from: From, revision: i64) -> Delivery {
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        let mut hits: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
        for (index, outgoing) in events.iter().enumerate() {
            self.by_keys.visit(outgoing.event.key(), &mut |same| {
                if same.round != round || hits.is_empty() {
                    (same.round, same.place) = (round, hits.len() as u32);
                    hits.push((Vec::new(), same.slots.as_slice().to_vec()));
                }
                if let Some((indices, _)) = hits.get_mut(same.place as usize) {
                    indices.push(index as u32);
                }
            });
        }
        let mut delivery = Delivery::new(revision, events);
        for (indices, slots) in hits {
            let mut receivers = Vec::new();
            for slot in slots {
                let Some(watcher) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
                    continue;
                };
                if watcher.is_behind == (from == From::History)
                    && let Some(first) = watcher.take(&delivery, &indices)
                {
                    receivers.push(Delivery::receiver(watcher.id, watcher.options, first));
                }
            }
            delivery.add(indices, receivers);
        }
        delivery
    }
}

impl Watcher {
    /// Where in `indices` the events begin that it gets; none if it gets none.
    fn take(&mut self, delivery: &Delivery, indices: &[u32]) -> Option<usize> {
        let event = |index: &u32| delivery.event(*index);
        let first =
            indices.partition_point(|index| event(index).is_some_and(|event| event.revision < self.next));
        let wanted = indices.get(first..)?;
        let last = wanted.last().and_then(event)?;
        self.next = last.revision + 1;
        self.has_begun = true;
        let wants = wanted.iter().filter_map(event).any(|event| self.options.wants(event.kind));
        self.was_told |= wants;
        wants.then_some(first)
    }
}
