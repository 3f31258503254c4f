//! Network and name server of a simulation.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

use super::world::{Dice, Now};
use crate::env::{Listener, Lookup, Names, Network, Stream};

/// Time in which the name server answers.
const ANSWER: Duration = Duration::from_millis(2);
/// Time after which a question is given up that is not answered.
const GIVE_UP: Duration = Duration::from_secs(3);

/// The name server: what is so, and what it still believes. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Zone {
    now: Now,
    /// Milliseconds for which it answers as before, as `CoreDNS` does for 30 s.
    cached: u64,
    records: Arc<Mutex<Records>>,
}

#[derive(Debug, Default)]
struct Records {
    names: BTreeMap<String, Lookup>,
    cache: BTreeMap<String, (u64, Lookup)>,
    fails: bool,
    silent: bool,
}

impl Zone {
    /// One that knows nothing, and believes for `cached` milliseconds what it once said.
    pub fn new(now: Now, cached: u64) -> Self {
        Self { now, cached, records: Arc::default() }
    }

    /// Sets what is so; a name that was never set is absent.
    pub fn set(&self, name: &str, answer: Lookup) {
        self.records.lock().names.insert(name.to_owned(), answer);
    }

    /// It fails, or works again.
    pub fn fail(&self, fails: bool) {
        self.records.lock().fails = fails;
    }

    /// It is silent, or answers again.
    pub fn silence(&self, silent: bool) {
        self.records.lock().silent = silent;
    }

    fn answer(&self, name: &str) -> Lookup {
        let now = self.now.millis();
        let records = &mut *self.records.lock();
        if records.fails {
            return Lookup::Unknown("the name server failed".into());
        }
        if let Some((until, answer)) = records.cache.get(name)
            && *until > now
        {
            return answer.clone();
        }
        let answer = records.names.get(name).cloned().unwrap_or(Lookup::Absent);
        records.cache.insert(name.to_owned(), (now + self.cached, answer.clone()));
        answer
    }
}

impl Names for Zone {
    fn lookup<'a>(&'a self, fqdn: &'a str) -> BoxFuture<'a, Lookup> {
        Box::pin(async move {
            tokio::time::sleep(ANSWER).await;
            if self.records.lock().silent {
                tokio::time::sleep(GIVE_UP).await;
                return Lookup::Unknown("the name server did not answer".into());
            }
            self.answer(fqdn)
        })
    }
}

/// The network as one pod has it.
#[derive(Clone, Debug)]
pub struct SimulatedNetwork {
    /// Of a thousand writes, how many break their connection.
    pub breaks: Arc<AtomicU64>,
    dice: Dice,
}

impl SimulatedNetwork {
    /// One that breaks nothing.
    pub fn new(dice: Dice) -> Self {
        Self { breaks: Arc::default(), dice }
    }

    fn stream(&self, stream: TcpStream) -> Box<dyn Stream> {
        Box::new(Fragile { stream, network: self.clone(), broken: false })
    }
}

impl Network for SimulatedNetwork {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { Ok(self.stream(TcpStream::connect(to).await?)) })
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = turmoil::net::TcpListener::bind(at).await?;
            Ok(Box::new(Port(listener, self.clone())) as Box<dyn Listener>)
        })
    }
}

struct Port(turmoil::net::TcpListener, SimulatedNetwork);

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Port")
    }
}

impl Listener for Port {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            Ok((self.1.stream(stream), from))
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection that may break in the middle of a message.
struct Fragile {
    stream: TcpStream,
    network: SimulatedNetwork,
    broken: bool,
}

impl AsyncRead for Fragile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Fragile {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let breaks = self.network.breaks.load(Ordering::Relaxed);
        if breaks > 0 && self.network.dice.below(1_000) < breaks {
            self.broken = true;
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            if half.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            return Pin::new(&mut self.stream).poll_write(cx, half);
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
