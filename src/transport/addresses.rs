//! What one client address may do on a port: connections at a time, requests and bytes in a second.
//!
//! A port is for all of its clients: one address cannot have all of its connections. How much an address may ask for and send is
//! bounded only where somebody says so, because behind one address there may be a thousand honest clients. Requests above that
//! are refused; bytes above it are read later, so that the sender's own window holds it up.
//!
//! An IPv6 address counts as its network of 64 bits: whoever has one address there has all.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::env::Stream;
use crate::env::network::writes_through;
use crate::limits::PerAddress;

/// The addresses that are, or just were, connected to a port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<All>);

#[derive(Debug)]
struct All {
    may: PerAddress,
    /// Counts how often reading was put off.
    slowed: Counter,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    addresses: BTreeMap<IpAddr, Address>,
    /// When those that left were last looked for.
    swept: Instant,
}

/// One address.
#[derive(Debug)]
struct Address {
    connections: usize,
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwelcome {
    /// Its address has as many connections as it may have.
    Connections,
    /// Its address has asked as often in this second as it may. A connection counts as a request.
    Rate,
}

/// One connection of an address, which counts until this is dropped.
#[derive(Debug)]
pub struct Visit {
    address: IpAddr,
    all: Addresses,
}

/// Fills steadily, and holds what comes in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// Full; `None` if anything is allowed.
    fn new(per_second: u64, now: Instant) -> Option<Self> {
        (per_second > 0).then_some(Self { per_second: per_second as f64, level: per_second as f64, at: now })
    }

    fn fill(&mut self, now: Instant) {
        let came = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.level = (self.level + came).min(self.per_second);
        self.at = now;
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.level >= 1.0;
        if is_there {
            self.level -= 1.0;
        }
        is_there
    }

    /// Takes `amount`, whether it is there or not.
    fn draw(&mut self, amount: usize, now: Instant) {
        self.fill(now);
        self.level -= amount as f64;
    }

    /// Time until what was drawn has come; zero if it has.
    fn debt(&mut self, now: Instant) -> Duration {
        self.fill(now);
        Duration::from_secs_f64((-self.level).max(0.0) / self.per_second)
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level >= self.per_second
    }
}

impl Address {
    fn new(may: &PerAddress, now: Instant) -> Self {
        Self {
            connections: 0,
            requests: Bucket::new(may.requests_per_second, now),
            bytes: Bucket::new(may.bytes_per_second, now),
        }
    }

    /// Whether nothing is lost if it is forgotten: whoever comes again begins with full buckets.
    fn is_forgettable(&mut self, now: Instant) -> bool {
        self.connections == 0
            && [&mut self.requests, &mut self.bytes]
                .into_iter()
                .flatten()
                .all(|bucket: &mut Bucket| bucket.is_full(now))
    }
}

/// What counts as one address.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        canonical @ IpAddr::V4(_) => canonical,
    }
}

impl Addresses {
    /// Of a port on which each address may do what `may` says. `slowed` counts how often reading was put off.
    pub fn new(may: PerAddress, slowed: Counter) -> Self {
        let known = Mutex::new(Known { addresses: BTreeMap::new(), swept: Instant::now() });
        Self(Arc::new(All { may, slowed, known }))
    }

    /// Counts a new connection.
    ///
    /// # Errors
    /// Why it must be closed.
    pub fn admit(&self, from: IpAddr) -> Result<Visit, Unwelcome> {
        let (from, now) = (counted_as(from), Instant::now());
        let mut known = self.0.known.lock();
        known.sweep(now);
        let address = known.addresses.entry(from).or_insert_with(|| Address::new(&self.0.may, now));
        if address.connections >= self.0.may.connections {
            return Err(Unwelcome::Connections);
        }
        if address.requests.as_mut().is_some_and(|requests| !requests.take(now)) {
            return Err(Unwelcome::Rate);
        }
        address.connections += 1;
        Ok(Visit { address: from, all: self.clone() })
    }

    fn with<T>(&self, address: IpAddr, what: impl FnOnce(&mut Address) -> T) -> Option<T> {
        self.0.known.lock().addresses.get_mut(&address).map(what)
    }
}

impl Known {
    /// Forgets those that left, once a second: looking at all of them for each connection would cost too much.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) >= Duration::from_secs(1) {
            self.swept = now;
            self.addresses.retain(|_, address| !address.is_forgettable(now));
        }
    }
}

impl Visit {
    /// Counts a request; whether it may be answered.
    pub fn request(&self) -> bool {
        // Nothing is looked up where nothing is bounded.
        self.all.0.may.requests_per_second == 0 || {
            let take = |address: &mut Address| {
                address.requests.as_mut().is_none_or(|requests| requests.take(Instant::now()))
            };
            self.all.with(self.address, take).unwrap_or(true)
        }
    }

    /// `stream`, read no faster than the address may send.
    pub fn metered(&self, stream: Box<dyn Stream>) -> Box<dyn Stream> {
        if self.all.0.may.bytes_per_second == 0 {
            return stream;
        }
        Box::new(Metered { stream, address: self.address, all: self.all.clone(), pause: None })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut known = self.all.0.known.lock();
        if let Some(address) = known.addresses.get_mut(&self.address) {
            address.connections = address.connections.saturating_sub(1);
            if address.is_forgettable(Instant::now()) {
                known.addresses.remove(&self.address);
            }
        }
    }
}

/// See [`Visit::metered`].
struct Metered {
    stream: Box<dyn Stream>,
    address: IpAddr,
    all: Addresses,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    /// Waits while the address has sent more than its share.
    fn poll_share(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let debt = |address: &mut Address| {
                address.bytes.as_mut().map_or(Duration::ZERO, |bytes| bytes.debt(Instant::now()))
            };
            let debt = self.all.with(self.address, debt).unwrap_or_default();
            if debt.is_zero() {
                return Poll::Ready(());
            }
            self.all.0.slowed.inc();
            // A timer has no parts of a millisecond; one that were over too early would be asked again and again.
            self.pause = Some(Box::pin(tokio::time::sleep(debt + Duration::from_millis(1))));
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_share(cx));
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, into));
        let count = into.filled().len().saturating_sub(before);
        self.all.with(self.address, |address| {
            if let Some(bytes) = &mut address.bytes {
                bytes.draw(count, Instant::now());
            }
        });
        Poll::Ready(read)
    }
}

writes_through!(Metered);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const ANY: PerAddress = PerAddress { connections: 1_000, requests_per_second: 0, bytes_per_second: 0 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn known(all: &Addresses) -> usize {
        all.0.known.lock().addresses.len()
    }

    #[test]
    fn an_address_is_what_one_machine_can_have() {
        for (address, counted) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(counted_as(ip(address)), ip(counted), "{address}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_one_address_are_bounded_and_those_of_another_are_not() {
        let all = Addresses::new(PerAddress { connections: 2, ..ANY }, Counter::default());
        let visits = [all.admit(ip("10.0.0.1")).unwrap(), all.admit(ip("::ffff:10.0.0.1")).unwrap()];
        assert_eq!(all.admit(ip("10.0.0.1")).unwrap_err(), Unwelcome::Connections);
        let other = all.admit(ip("10.0.0.2")).unwrap();
        let [first, second] = visits;
        drop(first);
        let third = all.admit(ip("10.0.0.1")).unwrap();
        drop((second, third, other));
        assert_eq!(known(&all), 0, "nobody is remembered without a reason");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_bounded_however_many_connections_carry_them() {
        let all = Addresses::new(PerAddress { requests_per_second: 10, ..ANY }, Counter::default());
        let (one, two) = (all.admit(ip("10.0.0.1")).unwrap(), all.admit(ip("10.0.0.1")).unwrap());
        let answered = (0..20).filter(|n| if n % 2 == 0 { one.request() } else { two.request() }).count();
        assert_eq!(answered, 8, "the connections counted for two");
        assert_eq!(all.admit(ip("10.0.0.1")).unwrap_err(), Unwelcome::Rate);
        assert!(all.admit(ip("10.0.0.2")).unwrap().request());
        drop((one, two));
        assert_eq!(all.admit(ip("10.0.0.1")).unwrap_err(), Unwelcome::Rate, "coming again is no way out");
        tokio::time::advance(Duration::from_millis(500)).await;
        let again = all.admit(ip("10.0.0.1")).unwrap();
        assert_eq!((0..20).filter(|_| again.request()).count(), 4);
        drop(again);
        tokio::time::advance(Duration::from_secs(2)).await;
        drop(all.admit(ip("10.0.0.3")).unwrap());
        tokio::time::advance(Duration::from_secs(2)).await;
        let last = all.admit(ip("10.0.0.4")).unwrap();
        assert_eq!(known(&all), 1, "those that left are forgotten");
        drop(last);
    }

    #[tokio::test(start_paused = true)]
    async fn without_bounds_nothing_is_refused_or_slowed() {
        let all = Addresses::new(ANY, Counter::default());
        let visit = all.admit(ip("10.0.0.1")).unwrap();
        assert!((0..100_000).all(|_| visit.request()));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_read_no_faster_than_an_address_may_send() {
        let slowed = Counter::default();
        let all = Addresses::new(PerAddress { bytes_per_second: 1_000, ..ANY }, slowed.clone());
        let visit = all.admit(ip("10.0.0.1")).unwrap();
        let (mut client, server) = tokio::io::duplex(100);
        let mut server = visit.metered(Box::new(server));
        let begin = Instant::now();
        let writer = tokio::spawn(async move {
            client.write_all(&[7; 5_000]).await.unwrap();
            client
        });
        let mut read = vec![0; 5_000];
        server.read_exact(&mut read).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 7));
        let took = begin.elapsed();
        assert!((Duration::from_millis(3_800)..Duration::from_millis(4_500)).contains(&took), "{took:?}");
        assert!(slowed.get() > 0);
        // What is answered is not held up.
        let mut client = writer.await.unwrap();
        let before = Instant::now();
        server.write_all(&[8; 50]).await.unwrap();
        client.read_exact(&mut [0; 50]).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
