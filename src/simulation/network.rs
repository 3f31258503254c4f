//! Network and name server of a simulation.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
/// Time for which the other side still has a connection that is broken for this one.
const HALF_OPEN: Duration = Duration::from_secs(2);
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
    /// Of a thousand writes, after how many the connection is broken for the writer, and not for the reader.
    pub repeats: Arc<AtomicU64>,
    ending: Arc<Ending>,
    dice: Dice,
}

impl SimulatedNetwork {
    /// One that breaks nothing.
    pub fn new(dice: Dice) -> Self {
        Self { breaks: Arc::default(), repeats: Arc::default(), ending: Arc::default(), dice }
    }

    fn stream(&self, stream: TcpStream) -> Box<dyn Stream> {
        let number = self.ending.made.fetch_add(1, Ordering::Relaxed);
        let connection = Connection { stream: Some(stream), number, ending: Arc::clone(&self.ending) };
        Box::new(Fragile { connection: Some(connection), network: self.clone(), broken: false })
    }

    /// The process is about to end with everything in it.
    pub(super) fn ends(&self) {
        self.ending.ends.store(true, Ordering::Relaxed);
    }

    /// It has ended: its connections are closed, one after the other. Must be called in the place of the pod in the network.
    pub(super) fn ended(&self) {
        self.ending.ends.store(false, Ordering::Relaxed);
        let open = std::mem::take(&mut *self.ending.open.lock());
        open.into_values().for_each(drop);
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

/// The end of a process. A runtime drops its tasks in an order that depends on how many tasks there were before in all the
/// threads of the program (tokio keeps them in lists by their number), and each connection that closes sends something, which takes
/// a random time. So connections are kept until all tasks are gone, and closed in the order in which they were made.
#[derive(Debug, Default)]
struct Ending {
    ends: AtomicBool,
    made: AtomicU64,
    open: Mutex<BTreeMap<u64, TcpStream>>,
}

/// One connection.
struct Connection {
    /// There until it is dropped.
    stream: Option<TcpStream>,
    number: u64,
    ending: Arc<Ending>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take().filter(|_| self.ending.ends.load(Ordering::Relaxed)) {
            self.ending.open.lock().insert(self.number, stream);
        }
    }
}

/// A connection that may break in the middle of a message, or for one side only.
struct Fragile {
    /// There until it breaks in the middle of a message.
    connection: Option<Connection>,
    network: SimulatedNetwork,
    broken: bool,
}

impl Fragile {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match self.connection.as_mut().and_then(|connection| connection.stream.as_mut()) {
            Some(stream) if !self.broken => Ok(Pin::new(stream)),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn happens(&self, permille: &AtomicU64) -> bool {
        let permille = permille.load(Ordering::Relaxed);
        permille > 0 && self.network.dice.below(1_000) < permille
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        // One that broke in the middle of a message is gone for both sides.
        let half_open = self.connection.take().filter(|_| self.broken);
        if let (Some(connection), Ok(tasks)) = (half_open, tokio::runtime::Handle::try_current()) {
            tasks.spawn(async move {
                tokio::time::sleep(HALF_OPEN).await;
                drop(connection);
            });
        }
    }
}

impl AsyncRead for Fragile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Fragile {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let (breaks, repeats) = (self.happens(&self.network.breaks), self.happens(&self.network.repeats));
        if breaks {
            let half = bytes.get(..bytes.len() / 2).filter(|half| !half.is_empty());
            let written = half.map(|half| self.stream().map(|stream| stream.poll_write(cx, half)));
            self.connection = None;
            return written.unwrap_or_else(|| Err(io::ErrorKind::ConnectionReset.into()))?;
        }
        let written = self.stream()?.poll_write(cx, bytes);
        if repeats && matches!(written, Poll::Ready(Ok(count)) if count == bytes.len()) {
            self.broken = true;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
