//! Where the peers are now: found by asking their names, lent by their hellos, told by whoever is connected to them. One per process;
//! everyone who connects to a peer goes through it.
//!
//! It decides nothing: `timing` says when a name is asked and what is dialled.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::guarded::Guarded;
use super::timing::{Next, OwnName, OwnNext, Said, Whereabouts};
use super::{Directory, Peer};
use crate::env::{Env, Lookup, Names, Network, Stream};
use crate::identity::Ordinal;
use crate::limits;
use crate::transport::tls::{Certificate, Connector, is_name_mismatch, says_certificate_is_refused};

/// What is known of a peer's name: the three values of rule 2, and "not asked yet".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// There is an address to dial.
    At,
    /// The name is absent, and this pod's own name was right when that was said.
    Absent,
    /// It could not be asked, or the answer is not to be believed.
    Unknown(String),
    /// It was not asked yet.
    NotAsked,
}

/// What the headless service said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceAnswer {
    /// It has these addresses.
    Listed(Vec<IpAddr>),
    /// It could not be asked, or the answer is not to be believed; why.
    Unknown(String),
}

/// Addresses of peers. Shared.
pub struct AddressBook {
    directory: Directory,
    names: Arc<dyn Names>,
    network: Arc<dyn Network>,
    /// How connections are made secure; `None`: they are plain.
    tls: Option<Connector>,
    state: Mutex<State>,
    /// Held while the own name is asked, so that it is asked once.
    own_asking: AsyncMutex<()>,
    /// Held while the service name is asked; what it said last, and when.
    service: AsyncMutex<Option<(Instant, ServiceAnswer)>>,
}

struct State {
    own: OwnName,
    peers: BTreeMap<String, Entry>,
    /// Where members are that may move.
    moved: BTreeMap<Ordinal, Peer>,
    uses: u64,
}

struct Entry {
    fqdn: String,
    whereabouts: Whereabouts,
    /// Cuts the connections made so far.
    cut: CancellationToken,
    /// Address of the newest connection.
    current: Option<SocketAddr>,
    /// Why there was no connection the last time, or how the newest one broke.
    trouble: Option<String>,
    /// Held while the name is asked, so that it is asked once.
    asking: Arc<AsyncMutex<()>>,
    used: u64,
}

/// Waits for whoever asks now, so that a name is asked once, but no longer than an answer may take: a channel whose caller has given up
/// makes its connection no further until the next call on it, and would keep the turn until then.
async fn turn(asking: &AsyncMutex<()>) -> Option<MutexGuard<'_, ()>> {
    timeout(limits::DNS_TIMEOUT, asking.lock()).await.ok()
}

impl fmt::Debug for AddressBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressBook").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl AddressBook {
    /// A book that knows nothing yet. The pod's life begins now.
    pub fn new(env: &Env, directory: Directory) -> Arc<Self> {
        Self::over(env, directory, None)
    }

    /// As [`AddressBook::new`], with connections over TLS if it is given.
    pub fn over(env: &Env, directory: Directory, tls: Option<Connector>) -> Arc<Self> {
        Self::born(Instant::now(), Arc::clone(&env.names), Arc::clone(&env.network), directory, tls)
    }

    fn born(
        at: Instant,
        names: Arc<dyn Names>,
        network: Arc<dyn Network>,
        directory: Directory,
        tls: Option<Connector>,
    ) -> Arc<Self> {
        Arc::new(Self {
            directory,
            names,
            network,
            tls,
            state: Mutex::new(State {
                own: OwnName::new(at),
                peers: BTreeMap::new(),
                moved: BTreeMap::new(),
                uses: 0,
            }),
            own_asking: AsyncMutex::new(()),
            service: AsyncMutex::new(None),
        })
    }

    /// The pods that can exist.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Whether connections to peers are secure.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a certificate is that of a member that may move: it is for the host where one is known to be, or for the address that the
    /// connection comes from, by number or by a name that leads there; the last two are etcd's rule. The caller sets the deadline.
    pub async fn is_member(&self, certificate: &Certificate, from: IpAddr) -> bool {
        let known = match &self.directory {
            Directory::Fixed { peers, .. } | Directory::Members { peers, .. } => peers.clone(),
            Directory::Pods(_) => Vec::new(),
        };
        let moved: Vec<Peer> = self.state.lock().moved.values().cloned().collect();
        if known.iter().chain(&moved).any(|peer| certificate.is_for(&peer.fqdn))
            || certificate.is_for_address(from)
        {
            return true;
        }
        let names = certificate.names();
        let names = names.iter().filter(|name| !name.starts_with('*'));
        for name in names.take(limits::TLS_NAMES_LOOKED_UP) {
            if name == "localhost" && from.is_loopback() {
                return true;
            }
            let asked = timeout(limits::DNS_TIMEOUT, self.names.lookup(name)).await;
            if matches!(asked, Ok(Lookup::At(addresses)) if addresses.contains(&from)) {
                return true;
            }
        }
        false
    }

    /// What is known of a peer's name. A lent address overrides `Absent`.
    pub fn presence(&self, peer: &Peer) -> Presence {
        if peer.ip().is_some() {
            return Presence::At;
        }
        let own_reason = self.own_reason();
        self.with(peer, |entry| match entry.whereabouts.said() {
            _ if entry.whereabouts.is_lent() => Presence::At,
            Said::At(_) => Presence::At,
            Said::Absent => Presence::Absent,
            Said::Unknown(reason) => Presence::Unknown(reason.clone()),
            Said::Never => own_reason.map_or(Presence::NotAsked, Presence::Unknown),
        })
    }

    /// A hello came from `peer`, whose peer service can be reached at `address`. Connections to elsewhere are cut.
    pub fn lend(&self, peer: &Peer, address: SocketAddr) {
        if peer.ip().is_some() || address.ip().is_unspecified() || address.port() == 0 {
            return;
        }
        self.with(peer, |entry| {
            if entry.whereabouts.lend(address, peer.port) && entry.current.is_some_and(|at| at != address) {
                entry.cut();
            }
        });
    }

    /// Another pod says that it is connected to `peer` at `address`. True if that is news, and there is no connection to it here.
    pub fn tell(&self, peer: &Peer, address: SocketAddr) -> bool {
        if peer.ip().is_some() || address.ip().is_unspecified() || address.port() == 0 {
            return false;
        }
        self.with(peer, |entry| !entry.is_connected() && entry.whereabouts.tell(address, peer.port))
    }

    /// The names of the peers that this pod is connected to, and where.
    pub fn connected(&self) -> Vec<(String, SocketAddr)> {
        let state = self.state.lock();
        let connected = state.peers.values().filter(|entry| entry.is_connected());
        connected.filter_map(|entry| Some((entry.fqdn.clone(), entry.current?))).collect()
    }

    /// Why `peer` could not be reached the last time, or how the newest connection to it broke, for people. A connection that is made
    /// leaves nothing to tell.
    pub fn trouble(&self, peer: &Peer) -> Option<String> {
        self.state.lock().peers.get(&peer.to_string())?.trouble.clone()
    }

    /// Somebody else answers where `peer` was thought to be: that address is not used again until its name or a hello gives
    /// it anew.
    pub fn misdirected(&self, peer: &Peer) {
        let now = Instant::now();
        self.with(peer, |entry| {
            if let Some(address) = entry.current.take() {
                if peer.ip().is_none() {
                    entry.whereabouts.wrong(now, address);
                }
                entry.whereabouts.failed(now);
            }
            entry.cut();
        });
    }

    /// The membership has this member here. If it was elsewhere, connections to there are cut, and channels lead here from now on.
    pub fn moved(&self, peer: &Peer) {
        if !self.directory.follows_members() {
            return;
        }
        let before = {
            let mut state = self.state.lock();
            if state.moved.len() >= limits::PEERS && !state.moved.contains_key(&peer.ordinal) {
                return;
            }
            state.moved.insert(peer.ordinal, peer.clone())
        };
        if let Some(before) = before.filter(|before| before != peer) {
            self.with(&before, Entry::cut);
        }
    }

    /// Opens a connection to a peer. Errors say, for people, why there is none; the caller tries again later.
    pub(super) async fn dial(self: &Arc<Self>, peer: &Peer) -> io::Result<Guarded> {
        let moved = self.state.lock().moved.get(&peer.ordinal).cloned();
        let peer = moved.as_ref().unwrap_or(peer);
        let (addresses, cut) = self.addresses(peer).await.map_err(io::Error::other)?;
        let mut last = io::Error::other(format!("{peer} has no address"));
        for address in addresses {
            let connected = tokio::select! {
                () = cut.cancelled() => return Err(io::Error::other(format!("{peer} moved"))),
                connected = self.connect(peer, address) => connected,
            };
            match connected {
                Ok(stream) => {
                    self.with(peer, |entry| {
                        entry.whereabouts.connected();
                        entry.current = Some(address);
                        entry.trouble = None;
                    });
                    let (book, lost) = (Arc::clone(self), peer.clone());
                    return Ok(Guarded::new(stream, cut, move |error| book.lost(&lost, address, error)));
                }
                Err(error) => {
                    if is_name_mismatch(&error) && peer.ip().is_none() {
                        // Somebody else has its address by now. The certificate says what a hello would.
                        self.with(peer, |entry| entry.whereabouts.wrong(Instant::now(), address));
                    }
                    last = io::Error::new(error.kind(), format!("{peer} at {address}: {error}"));
                }
            }
        }
        self.with(peer, |entry| {
            entry.whereabouts.failed(Instant::now());
            entry.trouble = Some(last.to_string());
        });
        Err(last)
    }

    /// A connection to an address, which over TLS must be that of the peer, however the address became known; that of any pod of the set,
    /// where it is the address that is asked whose it is.
    async fn connect(&self, peer: &Peer, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        let stream =
            timeout(limits::PEER_CONNECT_TIMEOUT, self.network.connect(address)).await.map_err(late)??;
        let Some(tls) = &self.tls else { return Ok(stream) };
        let handshake = async {
            match (&self.directory, peer.ip()) {
                (Directory::Pods(_), Some(ip)) => {
                    let (stream, certificate) = tls.connect_to_unknown(stream, ip).await?;
                    self.directory.speaker(&certificate).map_err(io::Error::other)?;
                    Ok(stream)
                }
                _ => tls.connect(stream, &peer.fqdn).await,
            }
        };
        timeout(limits::PEER_HANDSHAKE_TIMEOUT, handshake).await.map_err(late)?
    }

    /// The addresses behind the headless service. Asked only before a first bootstrap, where nobody may be overlooked, and no
    /// more often than a lost peer's name.
    pub async fn service(&self) -> ServiceAnswer {
        let Some(name) = self.directory.service() else {
            return ServiceAnswer::Unknown("there is no headless service".into());
        };
        let mut last = self.service.lock().await;
        if let Some((asked, answer)) = last.as_ref()
            && asked.elapsed() < limits::DNS_LOST
        {
            return answer.clone();
        }
        if let Err(reason) = self.confirm_own(limits::DNS_OWN_FRESH).await {
            return ServiceAnswer::Unknown(reason);
        }
        let answer = match self.names.lookup(&name).await {
            Lookup::At(addresses) if addresses.len() > limits::ADDRESSES_PER_SERVICE => {
                ServiceAnswer::Unknown(format!(
                    "{name} has more than {} addresses",
                    limits::ADDRESSES_PER_SERVICE
                ))
            }
            Lookup::At(addresses) => ServiceAnswer::Listed(addresses),
            Lookup::Absent => {
                ServiceAnswer::Unknown(format!("{name} is absent, although this pod is published"))
            }
            Lookup::Unknown(reason) => ServiceAnswer::Unknown(format!("{name}: {reason}")),
        };
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn addresses(&self, peer: &Peer) -> Result<(Vec<SocketAddr>, CancellationToken), String> {
        if let Some(ip) = peer.ip() {
            let (cut, next) =
                self.with(peer, |entry| (entry.cut.clone(), entry.whereabouts.redial(Instant::now())));
            return match next {
                None => Ok((vec![SocketAddr::new(ip, peer.port)], cut)),
                Some(_) => Err(format!("{peer} could not be reached a moment ago")),
            };
        }
        let asking = self.with(peer, |entry| Arc::clone(&entry.asking));
        let _asking = turn(&asking).await;
        if self.with(peer, |entry| entry.whereabouts.next(Instant::now(), peer.port)) == Next::Ask {
            self.ask(peer).await?;
        }
        // One question at most: what is known now decides.
        let (addresses, cut) = self
            .with(peer, |entry| (entry.whereabouts.dialable(Instant::now(), peer.port), entry.cut.clone()));
        if !addresses.is_empty() {
            return Ok((addresses, cut));
        }
        Err(match self.presence(peer) {
            Presence::At => format!("{peer} could not be reached a moment ago"),
            Presence::Absent => format!("{} is not published", peer.fqdn),
            Presence::Unknown(reason) => format!("{}: {reason}", peer.fqdn),
            Presence::NotAsked => format!("{} was not asked yet", peer.fqdn),
        })
    }

    async fn ask(&self, peer: &Peer) -> Result<(), String> {
        let fixed = self.directory.service().is_none();
        // The own name first. While it is not right, another's address is still worth dialling, because whoever answers there says
        // who it is; and the hello that reaches it lends this pod's address long before a name server's cache forgets that
        // this pod was absent. Only an absence must not be believed then.
        if !fixed
            && let Err(reason) = self.confirm_own(Duration::MAX).await
            && !self.state.lock().own.was_asked()
        {
            return if self.presence(peer) == Presence::At { Ok(()) } else { Err(reason) };
        }
        let mut answer = match timeout(limits::DNS_TIMEOUT, self.names.lookup(&peer.fqdn)).await {
            Ok(answer) => answer,
            Err(_) => Lookup::Unknown("no answer in time".into()),
        };
        if answer == Lookup::Absent {
            if fixed {
                answer = Lookup::Unknown("the name does not exist".into());
            } else if let Err(reason) = self.confirm_own(limits::DNS_OWN_FRESH).await
                && !self.confirm_peer().await
            {
                answer = Lookup::Unknown(format!("absent, but not to be believed: {reason}"));
            }
        }
        self.with(peer, |entry| entry.whereabouts.answered(Instant::now(), answer, peer.port));
        Ok(())
    }

    /// Makes sure that the own name resolved to this pod, not longer than `fresh` ago; asks it if it is time.
    async fn confirm_own(&self, fresh: Duration) -> Result<(), String> {
        let _asking = turn(&self.own_asking).await;
        {
            let state = self.state.lock();
            match state.own.next(Instant::now(), fresh) {
                OwnNext::Confirmed => return Ok(()),
                OwnNext::NotBefore(_) => return Err(state.own.reason().to_owned()),
                OwnNext::Ask => {}
            }
        }
        let own = self.directory.own();
        let answer = match timeout(limits::DNS_TIMEOUT, self.names.lookup(&own.fqdn)).await {
            Ok(answer) => answer,
            Err(_) => Lookup::Unknown("no answer in time".into()),
        };
        let mine = match &answer {
            Lookup::At(addresses) => self.mine(addresses).await,
            _ => None,
        };
        let mut state = self.state.lock();
        state.own.answered(Instant::now(), &answer, |address| Some(address) == mine);
        match mine {
            Some(_) => Ok(()),
            None => Err(state.own.reason().to_owned()),
        }
    }

    /// Whether the name of a peer leads to it, while the own name is absent. Then the name server knows this set, and says of this
    /// pod what it remembers from before: whoever waited for this pod to be created asked for it, and the answer stays in the
    /// cache. Without this, each pod of an ordered first install would wait until the cache has forgotten it.
    async fn confirm_peer(&self) -> bool {
        let known = {
            let state = self.state.lock();
            if !state.own.is_absent() {
                return false;
            }
            state.peers.values().find_map(Entry::found_by_name)
        };
        let Some((fqdn, address)) = known else { return false };
        let answer = timeout(limits::DNS_TIMEOUT, self.names.lookup(&fqdn)).await;
        matches!(answer, Ok(Lookup::At(addresses)) if addresses.contains(&address))
    }

    /// The first of these addresses that is this pod's. Where the environment does not say which is, the one that can be
    /// bound.
    async fn mine(&self, addresses: &[IpAddr]) -> Option<IpAddr> {
        if let Directory::Pods(facts) = &self.directory
            && let Some(own) = facts.pod_ip
        {
            return addresses.iter().copied().find(|address| *address == own);
        }
        for address in addresses.iter().take(limits::ADDRESSES_PER_NAME) {
            if self.network.bind(SocketAddr::new(*address, 0)).await.is_ok() {
                return Some(*address);
            }
        }
        None
    }

    /// Why no name may be asked yet, if so.
    fn own_reason(&self) -> Option<String> {
        self.directory.service()?;
        let state = self.state.lock();
        match state.own.next(Instant::now(), Duration::MAX) {
            OwnNext::Confirmed => None,
            _ => Some(state.own.reason().to_owned()),
        }
    }

    fn lost(&self, peer: &Peer, address: SocketAddr, error: Option<io::Error>) {
        let trouble = error.map(|error| {
            let text = error.to_string();
            // Said only after the handshake: that a connection was made, means nothing.
            let refuses = says_certificate_is_refused(&text);
            let what = if refuses { "it does not take the certificate of this pod: " } else { "" };
            format!("{peer} at {address}: {what}{text}")
        });
        self.with(peer, |entry| {
            entry.whereabouts.lost(Instant::now());
            entry.trouble = trouble.or(entry.trouble.take());
        });
    }

    fn with<T>(&self, peer: &Peer, act: impl FnOnce(&mut Entry) -> T) -> T {
        let mut state = self.state.lock();
        state.uses += 1;
        let uses = state.uses;
        let key = peer.to_string();
        if !state.peers.contains_key(&key) && state.peers.len() >= limits::PEERS {
            let oldest = state.peers.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                state.peers.remove(&oldest);
            }
        }
        let entry = state.peers.entry(key).or_insert_with(|| Entry::new(&peer.fqdn));
        entry.used = uses;
        act(entry)
    }
}

impl Entry {
    fn new(fqdn: &str) -> Self {
        Self {
            fqdn: fqdn.to_owned(),
            whereabouts: Whereabouts::new(),
            cut: CancellationToken::new(),
            current: None,
            trouble: None,
            asking: Arc::new(AsyncMutex::new(())),
            used: 0,
        }
    }

    fn is_connected(&self) -> bool {
        self.current.is_some() && !self.whereabouts.is_lost()
    }

    /// Its name, and the address of its connection, if the name gave that.
    fn found_by_name(&self) -> Option<(String, IpAddr)> {
        let address = self.current?.ip();
        self.whereabouts.is_named(address).then(|| (self.fqdn.clone(), address))
    }

    fn cut(&mut self) {
        std::mem::replace(&mut self.cut, CancellationToken::new()).cancel();
        self.current = None;
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
