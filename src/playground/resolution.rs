//! What the name server says: what the zone knows, as it was when somebody last asked, or a fault. Pure.
//!
//! The cache is that of CoreDNS as kubeadm configures it (`cache 30`): one for all who ask, of answers and of the lack of one
//! alike, per name and type. So a pod that was created anew keeps its old address for a while once anyone asked, and whoever asks
//! for a name too early hides it from everyone. Invariants: a fault is never kept; an answer is kept no longer than it was
//! promised; at most [`PLAYGROUND_DNS_ANSWERS`] are. Called by `dns`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::status::DnsMode;
use super::zone::{Answer, Kind, TTL_SECONDS, Zone};
use crate::limits::PLAYGROUND_DNS_ANSWERS;

/// What is said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing: the question is lost.
    Nothing,
    /// SERVFAIL.
    Failure,
    /// An answer.
    Answer {
        /// Which.
        answer: Answer,
        /// Seconds for which it may be kept.
        ttl: u32,
        /// Serial of the zone that it is from.
        serial: u32,
    },
}

/// An answer that was given before.
#[derive(Clone, Debug)]
struct Kept {
    answer: Answer,
    serial: u32,
    until: Duration,
}

/// A zone with its cache and its faults.
#[derive(Debug)]
pub struct Resolution {
    zone: Zone,
    keep: Duration,
    kept: BTreeMap<(String, Kind), Kept>,
    mode: DnsMode,
    /// Names that give the address of another.
    stale: BTreeMap<String, String>,
}

impl Resolution {
    /// Answers from `zone`, and keeps every answer for `keep`; for zero, none.
    pub fn new(zone: Zone, keep: Duration) -> Self {
        Self { zone, keep, kept: BTreeMap::new(), mode: DnsMode::default(), stale: BTreeMap::new() }
    }

    /// What is not kept is answered from this zone from now on.
    pub fn publish(&mut self, zone: Zone) {
        self.zone = zone;
    }

    /// How it answers.
    pub fn mode(&self) -> DnsMode {
        self.mode
    }

    /// How it answers from now on; [`DnsMode::Up`] forgets the names that [`Resolution::set_stale`] changed.
    pub fn set_mode(&mut self, mode: DnsMode) {
        self.mode = mode;
        if mode == DnsMode::Up {
            self.stale.clear();
        }
    }

    /// The one name gives the address of the other. Both are lower case, without a trailing dot.
    pub fn set_stale(&mut self, name: &str, other: &str) {
        self.stale.insert(name.to_owned(), other.to_owned());
    }

    /// What is said of a name at a time, which is counted from anywhere and never goes back.
    pub fn answer(&mut self, name: &str, kind: Kind, now: Duration) -> Said {
        match self.mode {
            DnsMode::Silent => return Said::Nothing,
            DnsMode::Down => return Said::Failure,
            DnsMode::Up => {}
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let fresh = |answer| Said::Answer { answer, ttl: TTL_SECONDS, serial: self.zone.serial() };
        if let Some(other) = self.stale.get(&name) {
            return fresh(self.zone.answer(other, kind));
        }
        if self.keep.is_zero() {
            return fresh(self.zone.answer(&name, kind));
        }
        self.kept.retain(|_, kept| kept.until > now);
        let key = (name, kind);
        if let Some(kept) = self.kept.get(&key) {
            return said(kept, now);
        }
        let answer = self.zone.answer(&key.0, kind);
        let kept = Kept { answer, serial: self.zone.serial(), until: now.saturating_add(self.keep) };
        let said = said(&kept, now);
        if self.kept.len() < PLAYGROUND_DNS_ANSWERS {
            self.kept.insert(key, kept);
        }
        said
    }
}

/// A second that has begun counts: nobody who keeps it that long is later than the server.
fn said(kept: &Kept, now: Duration) -> Said {
    let left = kept.until.saturating_sub(now).as_secs();
    let ttl = u32::try_from(left).unwrap_or(u32::MAX);
    Said::Answer { answer: kept.answer.clone(), ttl, serial: kept.serial }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;
    use crate::identity::Ordinal;
    use crate::playground::naming::Naming;

    const KEEP: Duration = Duration::from_secs(30);

    fn pod(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 70, 80, host)
    }

    fn zone(serial: u32, pods: &[(Ordinal, Ipv4Addr)]) -> Zone {
        Zone::of(&naming(), serial, pod(2), pods.iter().copied())
    }

    fn naming() -> Naming {
        Naming::new("setstone", "default").unwrap()
    }

    /// The answer and its time to live.
    fn ask(resolution: &mut Resolution, name: &str, seconds: u64) -> (Answer, u32) {
        match resolution.answer(name, Kind::A, Duration::from_secs(seconds)) {
            Said::Answer { answer, ttl, .. } => (answer, ttl),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_asked_stays_as_it_was_for_all_and_for_a_while() {
        let names = naming();
        let (zero, one, service) = (names.pod_fqdn(0), names.pod_fqdn(1), names.headless_fqdn());
        let at = |addresses: &[u8]| Answer::Addresses(addresses.iter().map(|host| pod(*host)).collect());
        let mut resolution = Resolution::new(zone(1, &[(0, pod(10))]), KEEP);
        assert_eq!(ask(&mut resolution, &zero, 0), (at(&[10]), 30));
        assert_eq!(ask(&mut resolution, &one, 5), (Answer::NoSuchName, 30), "asked too early");
        assert_eq!(ask(&mut resolution, &service, 5), (at(&[10]), 30));
        resolution.publish(zone(2, &[(0, pod(11)), (1, pod(12))]));
        assert_eq!(ask(&mut resolution, &format!("{}.", zero.to_uppercase()), 29), (at(&[10]), 1));
        assert_eq!(ask(&mut resolution, &zero, 30), (at(&[11]), 30));
        assert_eq!(ask(&mut resolution, &one, 34), (Answer::NoSuchName, 1));
        assert_eq!(ask(&mut resolution, &service, 34), (at(&[10]), 1));
        assert_eq!(ask(&mut resolution, &one, 35), (at(&[12]), 30));
        assert_eq!(ask(&mut resolution, &service, 35), (at(&[11, 12]), 30));
    }

    #[test]
    fn without_a_cache_every_change_shows_at_once() {
        let name = naming().pod_fqdn(0);
        let mut resolution = Resolution::new(zone(1, &[]), Duration::ZERO);
        assert_eq!(ask(&mut resolution, &name, 0), (Answer::NoSuchName, TTL_SECONDS));
        resolution.publish(zone(2, &[(0, pod(11))]));
        assert_eq!(ask(&mut resolution, &name, 0), (Answer::Addresses(vec![pod(11)]), TTL_SECONDS));
    }

    #[test]
    fn faults_hide_what_is_kept_and_are_not_kept() {
        let names = naming();
        let (zero, one) = (names.pod_fqdn(0), names.pod_fqdn(1));
        let mut resolution = Resolution::new(zone(1, &[(0, pod(10)), (1, pod(11))]), KEEP);
        for (mode, expected) in [(DnsMode::Down, Said::Failure), (DnsMode::Silent, Said::Nothing)] {
            resolution.set_mode(mode);
            assert_eq!(resolution.answer(&zero, Kind::A, Duration::ZERO), expected);
            assert_eq!(resolution.mode(), mode);
        }
        resolution.set_mode(DnsMode::Up);
        assert_eq!(ask(&mut resolution, &zero, 0).0, Answer::Addresses(vec![pod(10)]));
        resolution.set_stale(&zero, &one);
        assert_eq!(ask(&mut resolution, &zero, 1).0, Answer::Addresses(vec![pod(11)]));
        assert_eq!(ask(&mut resolution, &one, 1).0, Answer::Addresses(vec![pod(11)]));
        resolution.set_mode(DnsMode::Up);
        assert_eq!(ask(&mut resolution, &zero, 1).0, Answer::Addresses(vec![pod(10)]));
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let mut resolution = Resolution::new(zone(1, &[]), KEEP);
        for number in 0..2 * PLAYGROUND_DNS_ANSWERS {
            ask(&mut resolution, &format!("{number}.playground.local"), 0);
        }
        assert_eq!(resolution.kept.len(), PLAYGROUND_DNS_ANSWERS);
    }
}
