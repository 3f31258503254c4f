//! When a name is asked and which address is dialled. Pure: state and time in, decision out.
//!
//! A name server's cache is shared by all who ask it, and it keeps wrong answers for as long as right ones: whoever asks too
//! early blinds everyone. So a name is asked only when the answer is likely to be right and to stay right (DESIGN section 5,
//! "DNS"). The numbers are in `limits`.

use std::mem::discriminant;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::env::Lookup;
use crate::limits;

/// What is known of this pod's own name. It is the first that is asked; and until it resolves to this pod, nobody is believed
/// absent, and nobody was surely listed by the service.
#[derive(Clone, Debug)]
pub(super) struct OwnName {
    born: Instant,
    asked: Option<Instant>,
    confirmed: Option<Instant>,
    /// The last answer was that it does not exist.
    absent: bool,
    reason: String,
}

/// What to do about the own name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OwnNext {
    /// It resolved to this pod: an absence may be believed.
    Confirmed,
    /// Ask it.
    Ask,
    /// Not before then.
    NotBefore(Instant),
}

impl OwnName {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            born: now,
            asked: None,
            confirmed: None,
            absent: false,
            reason: "this pod's own name was not asked yet".into(),
        }
    }

    /// `fresh`: the confirmation must not be older than this, because an `Absent` is to be believed.
    pub(super) fn next(&self, now: Instant, fresh: Duration) -> OwnNext {
        if self.confirmed.is_some_and(|at| now.duration_since(at) <= fresh) {
            return OwnNext::Confirmed;
        }
        let quiet = self.born + limits::DNS_QUIET;
        let spaced = self.asked.map_or(quiet, |at| at + limits::DNS_OWN_INTERVAL);
        // A name that was confirmed once is asked again at once: it is known to be published.
        let earliest = if self.confirmed.is_some() { quiet } else { quiet.max(spaced) };
        if now < earliest { OwnNext::NotBefore(earliest) } else { OwnNext::Ask }
    }

    pub(super) fn answered(&mut self, now: Instant, answer: &Lookup, is_own: impl Fn(IpAddr) -> bool) {
        self.asked = Some(now);
        self.confirmed = None;
        self.absent = *answer == Lookup::Absent;
        match answer {
            Lookup::At(addresses) if addresses.iter().any(|address| is_own(*address)) => {
                self.confirmed = Some(now);
            }
            Lookup::At(addresses) => {
                self.reason = format!("this pod's own name resolves to {addresses:?}, which is not this pod");
            }
            Lookup::Absent => self.reason = "this pod's own name is not published yet".into(),
            Lookup::Unknown(reason) => self.reason = format!("this pod's own name cannot be asked: {reason}"),
        }
    }

    /// Whether it was asked at all: then other names may be asked too.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether the name server said last that it does not exist.
    pub(super) fn is_absent(&self) -> bool {
        self.absent
    }

    /// Why it is not confirmed, for people.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }
}

/// What the name of a peer said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Never,
    At(Vec<IpAddr>),
    Absent,
    Unknown(String),
}

/// What is known of where one peer is.
#[derive(Clone, Debug)]
pub(super) struct Whereabouts {
    /// What its name said last; an address stays when the name fails later.
    said: Said,
    /// Addresses that the name gave last, if it ever did.
    named: Vec<IpAddr>,
    /// Lent by a hello, until the name gives it.
    lent: Option<SocketAddr>,
    /// Where another pod says that it is connected to this peer; until it cannot be reached there.
    told: Option<SocketAddr>,
    /// Addresses where somebody else answered; not dialled again until a name or a hello gives it anew.
    wrong: Vec<SocketAddr>,
    /// When the last connection was lost, or the first attempt failed.
    lost: Option<Instant>,
    asked: Option<Instant>,
    /// How often it said the like of that in a row, since there was a connection.
    alike: u32,
    failed: Option<Instant>,
    /// Connects that failed in a row.
    failures: u32,
}

/// What to do to reach a peer now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Dial these, in this order.
    Dial(Vec<SocketAddr>),
    /// Ask its name first.
    Ask,
    /// Nothing before then.
    NotBefore(Instant),
}

impl Whereabouts {
    pub(super) fn new() -> Self {
        Self {
            said: Said::Never,
            named: Vec::new(),
            lent: None,
            told: None,
            wrong: Vec::new(),
            lost: None,
            asked: None,
            alike: 0,
            failed: None,
            failures: 0,
        }
    }

    pub(super) fn next(&self, now: Instant, port: u16) -> Next {
        let addresses = self.addresses(port);
        let ask_at = self.ask_at(now, !addresses.is_empty());
        if ask_at.is_some_and(|at| now >= at) {
            return Next::Ask;
        }
        match (addresses.is_empty(), self.redial(now)) {
            (false, Some(at)) => Next::NotBefore(ask_at.map_or(at, |ask| ask.min(at))),
            (false, _) => Next::Dial(addresses),
            (true, _) => Next::NotBefore(ask_at.unwrap_or(now)),
        }
    }

    /// What may be dialled now, without asking.
    pub(super) fn dialable(&self, now: Instant, port: u16) -> Vec<SocketAddr> {
        if self.redial(now).is_some() { Vec::new() } else { self.addresses(port) }
    }

    /// When the peer may be dialled again, if that is not now.
    pub(super) fn redial(&self, now: Instant) -> Option<Instant> {
        self.failed
            .map(|at| at + backoff(limits::PEER_REDIAL, self.failures, limits::PEER_REDIAL_MAX))
            .filter(|at| now < *at)
    }

    /// Earliest time for the next question; `None`: there is no need for one.
    fn ask_at(&self, now: Instant, reachable: bool) -> Option<Instant> {
        let Some(asked) = self.asked else {
            // A lent address is quicker, and spares the name server a question that may come too early.
            return match (reachable, self.lost) {
                (false, _) => Some(now),
                (true, Some(lost)) => Some(lost + limits::DNS_LOST),
                (true, None) => None,
            };
        };
        let spacing = match self.said {
            Said::Absent => limits::DNS_ABSENT,
            Said::At(_) => backoff(limits::DNS_LOST, self.alike, limits::DNS_BACKOFF_MAX),
            Said::Unknown(_) | Said::Never => backoff(limits::DNS_RETRY, self.alike, limits::DNS_RETRY_MAX),
        };
        match (reachable, self.lost) {
            (false, _) => Some(asked + spacing),
            (true, Some(lost)) => Some((lost + limits::DNS_LOST).max(asked + spacing)),
            (true, None) => None,
        }
    }

    fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = self.lent.into_iter().collect();
        addresses.extend(self.told.filter(|told| self.lent != Some(*told)));
        for ip in &self.named {
            let address = SocketAddr::new(*ip, port);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.retain(|address| !self.wrong.contains(address));
        addresses
    }

    pub(super) fn answered(&mut self, now: Instant, answer: Lookup, port: u16) {
        self.asked = Some(now);
        let before = discriminant(&self.said);
        self.said = match answer {
            Lookup::At(addresses) => {
                let addresses: Vec<_> = addresses.into_iter().take(limits::ADDRESSES_PER_NAME).collect();
                // A new address may be dialled at once.
                if addresses != self.named {
                    self.failed = None;
                    self.failures = 0;
                }
                // The name gives the lent address now, so it is lent no longer.
                if self.lent.is_some_and(|lent| lent.port() == port && addresses.contains(&lent.ip())) {
                    self.lent = None;
                }
                self.wrong.clear();
                self.named.clone_from(&addresses);
                Said::At(addresses)
            }
            Lookup::Absent => {
                // A lent address overrides this for as long as somebody answers there: the pod that lent it may be gone.
                if self.lost.is_some() {
                    self.lent = None;
                }
                Said::Absent
            }
            Lookup::Unknown(reason) => Said::Unknown(reason),
        };
        self.alike = if discriminant(&self.said) == before { self.alike.saturating_add(1) } else { 1 };
    }

    /// A hello came from this peer, which can be reached there. Returns whether that is news.
    pub(super) fn lend(&mut self, address: SocketAddr, port: u16) -> bool {
        self.wrong.retain(|wrong| *wrong != address);
        self.lost = None;
        self.failed = None;
        self.failures = 0;
        if self.lent == Some(address) || (self.lent.is_none() && self.addresses(port) == [address]) {
            return false;
        }
        self.lent = Some(address);
        true
    }

    /// Another pod says that it is connected to this peer there. Worth a try before the name, which a cache may answer for; it is
    /// evidence of nothing. Returns whether that is news.
    pub(super) fn tell(&mut self, address: SocketAddr, port: u16) -> bool {
        if self.wrong.contains(&address) || self.addresses(port).contains(&address) {
            return false;
        }
        self.told = Some(address);
        // It may be dialled at once.
        self.failed = None;
        self.failures = 0;
        true
    }

    pub(super) fn connected(&mut self) {
        self.lost = None;
        self.alike = 0;
        self.failed = None;
        self.failures = 0;
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.told = None;
        self.failed = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.lost.get_or_insert(now);
    }

    pub(super) fn lost(&mut self, now: Instant) {
        self.lost.get_or_insert(now);
    }

    /// Somebody else answered there.
    pub(super) fn wrong(&mut self, now: Instant, address: SocketAddr) {
        if self.lent == Some(address) {
            self.lent = None;
        }
        if self.told == Some(address) {
            self.told = None;
        }
        if !self.wrong.contains(&address) && self.wrong.len() < limits::ADDRESSES_PER_NAME {
            self.wrong.push(address);
        }
        self.lost.get_or_insert(now);
    }

    /// Whether a connection was lost, or could not be made, and there was none since.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    pub(super) fn said(&self) -> &Said {
        &self.said
    }

    /// Whether its name gave this address last.
    pub(super) fn is_named(&self, address: IpAddr) -> bool {
        self.named.contains(&address)
    }

    pub(super) fn is_lent(&self) -> bool {
        self.lent.is_some()
    }
}

/// `first`, doubled with each attempt after the first, up to `most`.
fn backoff(first: Duration, attempts: u32, most: Duration) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(most)
}

#[cfg(test)]
#[path = "timing_tests.rs"]
mod tests;
