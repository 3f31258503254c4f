//! What the leader of one term knows of the time that leases have left. Pure: values and the time in, decisions out.
//!
//! Invariants:
//! * A lease ends only after its whole time to live (or what a leader before wrote down as left) has passed since the leader of this
//!   term began, since it was granted, or since it was last renewed, whichever is last.
//! * Once its end is proposed it is renewed no more, because the end may already be in the log: whoever asks is told to ask again,
//!   until the lease is gone.
//! * A lease of which something was written down as left is renewed only after that was taken back, in the log: a later leader would
//!   believe it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::env::simulated::{self, Bug};
use crate::limits;
use crate::mvcc::command::Lifetime;
use crate::mvcc::lease::{Granted, Lease, Leases};
use crate::raft::lease::LeaseQuestion;

/// Timers of leases that are gone are looked for when there are more timers than twice the leases and this.
const SWEEP_TIMERS: usize = 1_024;

/// The time of one lease.
#[derive(Clone, Copy, Debug)]
struct Timer {
    granted: Granted,
    /// Seconds.
    ttl: i64,
    deadline: Instant,
    /// Its end was proposed.
    ending: bool,
    /// Number of the last writing down of what is left of it; 0: nothing is.
    written: u64,
}

/// What is known to an answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The answer.
    Answer(Lifetime),
    /// It is being ended, or what is left of it is being written down: ask again.
    Ending,
    /// What was written down has to be taken back first: of this grant, by this number.
    Written(Granted, u64),
}

/// The times of all leases in one term.
#[derive(Debug)]
pub(super) struct Book {
    term: u64,
    timers: BTreeMap<i64, Timer>,
    by_time: BTreeSet<(Instant, i64)>,
    /// The newest grant that was looked at.
    seen: Granted,
    writings: u64,
    /// What is left is being written down: the log may get it at any moment.
    is_writing: bool,
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl Book {
    /// A leader begins a term, having applied all that was acknowledged before.
    pub(super) fn begin(term: u64, leases: &Leases, now: Instant) -> Self {
        let mut book = Self {
            term,
            timers: BTreeMap::new(),
            by_time: BTreeSet::new(),
            seen: Granted::default(),
            writings: 1,
            is_writing: false,
        };
        for (id, lease) in leases.iter() {
            let mut left = seconds(lease.seconds_left());
            if simulated::planted(Bug::ShortLeases) {
                left /= 4;
            }
            let written = u64::from(lease.remaining > 0);
            book.start(id, lease, now + left, written);
        }
        book.seen = leases.newest();
        book
    }

    /// The term that it is of.
    pub(super) fn term(&self) -> u64 {
        self.term
    }

    fn start(&mut self, id: i64, lease: &Lease, deadline: Instant, written: u64) {
        self.forget(id);
        let timer = Timer { granted: lease.granted, ttl: lease.ttl, deadline, ending: false, written };
        self.timers.insert(id, timer);
        self.by_time.insert((deadline, id));
    }

    fn forget(&mut self, id: i64) {
        if let Some(timer) = self.timers.remove(&id) {
            self.by_time.remove(&(timer.deadline, id));
        }
    }

    fn set_deadline(&mut self, id: i64, deadline: Instant) {
        if let Some(timer) = self.timers.get_mut(&id) {
            self.by_time.remove(&(timer.deadline, id));
            timer.deadline = deadline;
            self.by_time.insert((deadline, id));
        }
    }

    /// Begins the time of leases that were granted since the last look.
    pub(super) fn learn(&mut self, leases: &Leases, now: Instant) {
        for (id, lease) in leases.granted_after(self.seen) {
            let known = self.timers.get(&id).is_some_and(|timer| timer.granted == lease.granted);
            if !known {
                self.start(id, lease, now + seconds(lease.ttl), 0);
            }
        }
        self.seen = self.seen.max(leases.newest());
        if self.timers.len() > 2 * leases.len() + SWEEP_TIMERS {
            let gone: Vec<i64> = self.timers.keys().copied().filter(|id| leases.get(*id).is_none()).collect();
            for id in gone {
                self.forget(id);
            }
        }
    }

    /// What a question is answered, where `lease` is what the state says.
    pub(super) fn ask(&mut self, question: LeaseQuestion, lease: Option<&Lease>, now: Instant) -> Known {
        let LeaseQuestion { id, renew } = question;
        let Some(lease) = lease else { return Known::Answer(Lifetime::UNKNOWN) };
        if self.timers.get(&id).is_none_or(|timer| timer.granted != lease.granted) {
            // Granted a moment ago, and not looked at yet.
            self.start(id, lease, now + seconds(lease.ttl), 0);
        }
        let Some(timer) = self.timers.get(&id).copied() else { return Known::Ending };
        if !renew {
            let left = timer.deadline.saturating_duration_since(now).as_secs();
            let ttl = i64::try_from(left).unwrap_or(i64::MAX);
            return Known::Answer(Lifetime { ttl, granted: lease.ttl });
        }
        if timer.ending || timer.written > 0 && self.is_writing {
            return Known::Ending;
        }
        if timer.written > 0 {
            return Known::Written(timer.granted, timer.written);
        }
        self.set_deadline(id, now + seconds(timer.ttl));
        Known::Answer(Lifetime { ttl: timer.ttl, granted: timer.ttl })
    }

    /// What was written down of a lease by that number was taken back. False if it must be asked again: more was written down meanwhile,
    /// or it is being ended.
    pub(super) fn taken_back(&mut self, id: i64, granted: Granted, written: u64) -> bool {
        match self.timers.get_mut(&id) {
            Some(timer) if timer.granted == granted && timer.written == written && !timer.ending => {
                timer.written = 0;
                true
            }
            _ => false,
        }
    }

    /// Leases whose time is over, as many as one entry may end. They count as ending from now on.
    pub(super) fn due(&mut self, leases: &Leases, now: Instant) -> Vec<(i64, Granted)> {
        let (mut due, mut keys) = (Vec::new(), 0);
        while let Some((deadline, id)) = self.by_time.first().copied() {
            if deadline > now || due.len() >= limits::EXPIRE_LEASES || keys >= limits::EXPIRE_KEYS {
                break;
            }
            self.by_time.remove(&(deadline, id));
            let Some(timer) = self.timers.get_mut(&id) else { continue };
            match leases.get(id).filter(|lease| lease.granted == timer.granted) {
                Some(lease) => {
                    timer.ending = true;
                    keys += lease.key_count();
                    due.push((id, timer.granted));
                }
                // Revoked by a client.
                None => self.forget(id),
            }
        }
        due
    }

    /// The end of these was proposed, with whatever success. Those that are still there are tried again at `again`.
    pub(super) fn settle(&mut self, due: &[(i64, Granted)], leases: &Leases, again: Instant) {
        for (id, granted) in due {
            if self.timers.get(id).is_none_or(|timer| timer.granted != *granted) {
                continue;
            }
            if leases.get(*id).is_some_and(|lease| lease.granted == *granted) {
                self.set_deadline(*id, again);
            } else {
                self.forget(*id);
            }
        }
    }

    /// When the next lease is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(deadline, _)| *deadline)
    }

    /// What was to be written down stands in the log, or never will, before whatever is proposed from now on.
    pub(super) fn written_down(&mut self) {
        self.is_writing = false;
    }

    /// What is left of the leases that live longer than `interval`, to be written down; rounded up. Each counts as written.
    pub(super) fn write_down(&mut self, interval: Duration, now: Instant) -> Vec<(i64, Granted, i64)> {
        self.writings += 1;
        self.is_writing = true;
        let writing = self.writings;
        let long = |timer: &Timer| !timer.ending && seconds(timer.ttl) > interval;
        self.timers
            .iter_mut()
            .filter(|(_, timer)| long(timer))
            .map(|(id, timer)| {
                timer.written = writing;
                let left = timer.deadline.saturating_duration_since(now);
                let up = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                (*id, timer.granted, i64::try_from(up.max(1)).unwrap_or(i64::MAX))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::State;
    use crate::mvcc::command::{Command, LogPosition, Put, Request};
    use crate::mvcc::lease::LeaseCommand;
    use crate::mvcc::tests::Memory;

    struct World {
        state: State,
        index: u64,
        start: Instant,
        book: Book,
    }

    impl World {
        fn new(ttls: &[(i64, i64)]) -> Self {
            let start = Instant::now();
            let (state, index) = (State::new(), 0);
            let mut world = Self { book: Book::begin(1, state.leases(), start), state, index, start };
            for (id, ttl) in ttls {
                world.apply(LeaseCommand::Grant { id: *id, ttl: *ttl });
            }
            world.begin(0);
            world
        }

        fn apply(&mut self, command: LeaseCommand) {
            self.index += 1;
            let at = LogPosition { term: 1, index: self.index };
            let applied =
                self.state.apply(&Memory::default(), at, &[Request::anonymous(Command::Lease(command))]);
            assert!(applied.replies.iter().all(Result::is_ok), "{:?}", applied.replies);
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn begin(&mut self, millis: u64) {
            self.book = Book::begin(1, self.state.leases(), self.at(millis));
        }

        fn learn(&mut self, millis: u64) {
            let now = self.at(millis);
            self.book.learn(self.state.leases(), now);
        }

        fn due(&mut self, millis: u64) -> Vec<i64> {
            let now = self.at(millis);
            self.book.due(self.state.leases(), now).into_iter().map(|(id, _)| id).collect()
        }

        fn ask(&mut self, id: i64, renew: bool, millis: u64) -> Known {
            let now = self.at(millis);
            self.book.ask(LeaseQuestion { id, renew }, self.state.leases().get(id), now)
        }

        fn left(&mut self, id: i64, millis: u64) -> i64 {
            match self.ask(id, false, millis) {
                Known::Answer(lifetime) => lifetime.ttl,
                other => panic!("{other:?}"),
            }
        }

        fn granted(&self, id: i64) -> Granted {
            self.state.leases().get(id).unwrap().granted
        }
    }

    #[test]
    fn a_lease_is_due_when_its_whole_time_has_passed_and_not_before() {
        let mut world = World::new(&[(7, 2), (8, 3)]);
        assert_eq!(world.book.next(), Some(world.at(2_000)));
        assert_eq!(world.due(1_999), [] as [i64; 0]);
        assert_eq!(world.due(2_000), [7]);
        assert_eq!(world.due(2_500), [] as [i64; 0], "its end is proposed already");
        assert_eq!(world.due(3_000), [8]);
    }

    #[test]
    fn what_is_left_is_rounded_down_and_never_negative() {
        let mut world = World::new(&[(7, 60)]);
        assert_eq!(world.left(7, 0), 60);
        assert_eq!(world.left(7, 1), 59);
        assert_eq!(world.left(7, 59_001), 0);
        assert_eq!(world.left(7, 99_000), 0);
        assert_eq!(world.ask(9, false, 0), Known::Answer(Lifetime::UNKNOWN));
        assert_eq!(world.ask(9, true, 0), Known::Answer(Lifetime::UNKNOWN));
    }

    #[test]
    fn a_renewal_begins_the_time_anew_also_when_it_is_over_and_nothing_was_proposed() {
        let mut world = World::new(&[(7, 2)]);
        let renewed = Known::Answer(Lifetime { ttl: 2, granted: 2 });
        assert_eq!(world.ask(7, true, 1_500), renewed);
        assert_eq!(world.due(3_499), [] as [i64; 0]);
        assert_eq!(world.ask(7, true, 3_600), renewed);
        assert_eq!(world.due(5_599), [] as [i64; 0]);
        assert_eq!(world.due(5_600), [7]);
    }

    #[test]
    fn once_its_end_is_proposed_nothing_is_promised() {
        let mut world = World::new(&[(7, 2)]);
        let granted = world.granted(7);
        assert_eq!(world.due(2_000), [7]);
        assert_eq!(world.ask(7, true, 2_001), Known::Ending);
        assert_eq!(world.left(7, 2_001), 0);
        // The proposal failed: it is tried again, and may have come through after all meanwhile.
        let again = world.at(2_100);
        world.book.settle(&[(7, granted)], world.state.leases(), again);
        assert_eq!(world.ask(7, true, 2_050), Known::Ending);
        assert_eq!(world.due(2_099), [] as [i64; 0]);
        assert_eq!(world.due(2_100), [7]);
        world.apply(LeaseCommand::Revoke { id: 7 });
        world.book.settle(&[(7, granted)], world.state.leases(), again);
        assert_eq!(world.ask(7, true, 2_200), Known::Answer(Lifetime::UNKNOWN));
        assert_eq!(world.book.next(), None);
    }

    #[test]
    fn a_new_grant_of_an_id_has_a_time_of_its_own() {
        let mut world = World::new(&[(7, 2)]);
        world.apply(LeaseCommand::Revoke { id: 7 });
        world.apply(LeaseCommand::Grant { id: 7, ttl: 2 });
        // Before anybody has looked: the old time is over, and means nothing.
        assert_eq!(world.due(2_000), [] as [i64; 0]);
        world.learn(2_000);
        assert_eq!(world.due(3_999), [] as [i64; 0]);
        assert_eq!(world.due(4_000), [7]);
        // Asked about before anybody has looked.
        world.apply(LeaseCommand::Grant { id: 9, ttl: 2 });
        assert_eq!(world.left(9, 5_000), 2);
        world.learn(6_000);
        assert_eq!(world.due(7_000), [9], "a look does not begin it anew");
    }

    #[test]
    fn a_new_leader_begins_every_lease_anew_or_with_what_was_written_down() {
        let mut world = World::new(&[(7, 100), (8, 100)]);
        let remaining = vec![(8, world.granted(8), 30)];
        world.apply(LeaseCommand::Checkpoint { term: 1, remaining });
        world.begin(90_000);
        assert_eq!((world.left(7, 90_000), world.left(8, 90_000)), (100, 30));
        assert_eq!(world.due(119_999), [] as [i64; 0]);
        assert_eq!(world.due(120_000), [8]);
    }

    #[test]
    fn what_was_written_down_is_taken_back_before_a_renewal() {
        let mut world = World::new(&[(7, 100), (8, 5)]);
        let granted = world.granted(7);
        let now = world.at(40_500);
        let written = world.book.write_down(Duration::from_secs(10), now);
        assert_eq!(written, [(7, granted, 60)], "rounded up, and short ones are not worth it");
        assert_eq!(world.ask(7, true, 40_600), Known::Ending, "it may not be in the log yet");
        world.book.written_down();
        let Known::Written(of, number) = world.ask(7, true, 41_000) else { panic!("renewed") };
        assert_eq!(of, granted);
        assert!(world.book.taken_back(7, granted, number));
        assert_eq!(world.ask(7, true, 42_000), Known::Answer(Lifetime { ttl: 100, granted: 100 }));
        // Written down again while it is being taken back: the renewal has to begin anew.
        let now = world.at(50_000);
        world.book.write_down(Duration::from_secs(10), now);
        world.book.written_down();
        let Known::Written(_, first) = world.ask(7, true, 50_001) else { panic!("renewed") };
        world.book.write_down(Duration::from_secs(10), now);
        assert!(!world.book.taken_back(7, granted, first));
    }

    #[test]
    fn one_entry_ends_a_bounded_number_of_leases_and_keys() {
        let many: Vec<(i64, i64)> = (1..=limits::EXPIRE_LEASES as i64 + 5).map(|id| (id, 2)).collect();
        let mut world = World::new(&many);
        assert_eq!(world.due(2_000).len(), limits::EXPIRE_LEASES);
        assert_eq!(world.due(2_000).len(), 5);
        let mut world = World::new(&[(1, 2), (2, 2)]);
        let put = |number: usize| {
            let key = format!("k{number}").into();
            Request::anonymous(Command::Put(Put { key, lease: 1, ..Put::default() }))
        };
        let requests: Vec<_> = (0..limits::EXPIRE_KEYS).map(put).collect();
        world.state.apply(&Memory::default(), LogPosition { term: 1, index: 99 }, &requests);
        assert_eq!(world.due(2_000), [1]);
        assert_eq!(world.due(2_000), [2]);
    }

    #[test]
    fn timers_of_revoked_leases_do_not_pile_up() {
        let mut world = World::new(&[]);
        for id in 1..=10 * SWEEP_TIMERS as i64 {
            world.apply(LeaseCommand::Grant { id, ttl: 1_000_000 });
            world.learn(0);
            world.apply(LeaseCommand::Revoke { id });
            assert!(world.book.timers.len() <= SWEEP_TIMERS + 4);
            assert_eq!(world.book.timers.len(), world.book.by_time.len());
        }
    }
}
