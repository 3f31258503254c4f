#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use futures::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::env::network::Tcp;
use crate::identity::PodFacts;

/// A name server whose answers the test sets, and which remembers what it was asked.
#[derive(Debug, Default)]
struct Zone {
    says: Mutex<BTreeMap<String, Lookup>>,
    asked: Mutex<Vec<String>>,
}

impl Names for Zone {
    fn lookup<'a>(&'a self, fqdn: &'a str) -> BoxFuture<'a, Lookup> {
        self.asked.lock().push(fqdn.split('.').next().unwrap().to_owned());
        let said = self.says.lock().get(fqdn).cloned().unwrap_or(Lookup::Absent);
        Box::pin(async move { said })
    }
}

impl Zone {
    fn say(&self, name: &str, lookup: Lookup) {
        self.says.lock().insert(name.into(), lookup);
    }

    fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

const OWN_IP: &str = "127.0.0.1";

fn facts(port: u16) -> PodFacts {
    let set = [
        ("SETSTONE_POD_NAME", "s-0"),
        ("SETSTONE_POD_NAMESPACE", "shop"),
        ("SETSTONE_SERVICE_NAME", "peers"),
        ("SETSTONE_POD_IP", OWN_IP),
    ];
    let lookup = |name: &str| set.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
    PodFacts { peer_port: port, ..PodFacts::from(lookup, "").unwrap() }
}

/// A book of pod 0, old enough to ask, whose own name is right; the listener stands where pod 1's name will point.
async fn setup() -> (Arc<Zone>, Arc<AddressBook>, TcpListener, Peer) {
    let listener = TcpListener::bind((OWN_IP, 0)).await.unwrap();
    let directory = Directory::Pods(facts(listener.local_addr().unwrap().port()));
    let zone = Arc::new(Zone::default());
    zone.say(&directory.own().fqdn, at(OWN_IP));
    let peer = directory.peer(1).unwrap();
    let born = Instant::now() - limits::DNS_QUIET;
    let book = AddressBook::born(born, Arc::clone(&zone) as _, Arc::new(Tcp::default()), directory, None);
    (zone, book, listener, peer)
}

fn at(ip: &str) -> Lookup {
    Lookup::At(vec![ip.parse().unwrap()])
}

async fn why_not(book: &Arc<AddressBook>, peer: &Peer) -> String {
    match book.dial(peer).await {
        Ok(_) => panic!("connected"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_young_pod_asks_nobody() {
    let (zone, _, _listener, peer) = setup().await;
    let directory = Directory::Pods(facts(2380));
    let book =
        AddressBook::born(Instant::now(), Arc::clone(&zone) as _, Arc::new(Tcp::default()), directory, None);
    why_not(&book, &peer).await;
    assert!(matches!(book.presence(&peer), Presence::Unknown(_)));
    assert!(matches!(book.service().await, ServiceAnswer::Unknown(_)));
    assert_eq!(zone.take_asked(), Vec::<String>::new());
}

#[tokio::test]
async fn while_the_own_name_is_wrong_absence_is_not_believed_and_addresses_are_dialled() {
    let (zone, book, listener, peer) = setup().await;
    let own = book.directory().own().fqdn;
    zone.say(&own, at("127.0.0.9"));
    let reason = why_not(&book, &peer).await;
    assert!(reason.contains("127.0.0.9"), "{reason}");
    assert_eq!(zone.take_asked(), ["s-0", "s-1"], "the own name first, and once");
    assert!(matches!(book.presence(&peer), Presence::Unknown(_)));
    assert!(matches!(book.service().await, ServiceAnswer::Unknown(_)));
    let other = book.directory().peer(2).unwrap();
    zone.say(&other.fqdn, at(OWN_IP));
    let (dialled, accepted) = tokio::join!(book.dial(&other), listener.accept());
    dialled.unwrap();
    accepted.unwrap();
    assert_eq!(zone.take_asked(), ["s-2"]);
}

#[tokio::test]
async fn a_peer_is_found_by_its_name() {
    let (zone, book, listener, peer) = setup().await;
    zone.say(&peer.fqdn, at(OWN_IP));
    let connection = book.dial(&peer).await.unwrap();
    listener.accept().await.unwrap();
    assert_eq!(zone.take_asked(), ["s-0", "s-1"]);
    assert_eq!(book.presence(&peer), Presence::At);
    // Again, without a question; also after it was lost.
    drop(connection);
    book.dial(&peer).await.unwrap();
    assert_eq!(zone.take_asked(), Vec::<String>::new());
}

#[tokio::test]
async fn why_a_peer_could_not_be_reached_is_remembered() {
    let (zone, book, listener, peer) = setup().await;
    zone.say(&peer.fqdn, at(OWN_IP));
    let connection = book.dial(&peer).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(book.trouble(&peer), None, "it is connected");
    drop((connection, listener));
    assert_eq!(book.trouble(&peer), None, "a connection that was closed is none");
    why_not(&book, &peer).await;
    let trouble = book.trouble(&peer).unwrap();
    assert!(trouble.starts_with(&format!("{peer} at {address}: ")), "{trouble}");
}

#[tokio::test]
async fn absence_counts_only_while_the_own_name_is_right() {
    let (zone, book, _listener, peer) = setup().await;
    why_not(&book, &peer).await;
    assert_eq!(book.presence(&peer), Presence::Absent);
    assert_eq!(zone.take_asked(), ["s-0", "s-1"]);
    why_not(&book, &peer).await;
    assert_eq!(zone.take_asked(), Vec::<String>::new(), "absent names are not asked again at once");
    // The confirmation is old, and the own name points elsewhere now: nothing can be believed.
    let long_ago = Instant::now() - limits::DNS_OWN_FRESH * 2;
    let own = book.directory().own().fqdn;
    book.state.lock().own.answered(long_ago, &at(OWN_IP), |_| true);
    zone.say(&own, at("127.0.0.9"));
    let other = book.directory().peer(2).unwrap();
    why_not(&book, &other).await;
    assert!(matches!(book.presence(&other), Presence::Unknown(_)), "{:?}", book.presence(&other));
    assert_eq!(zone.take_asked(), ["s-2", "s-0"]);
}

/// An ordered first install: pod 0 asked for this pod before it was created, and the name server remembers that it was absent.
#[tokio::test]
async fn while_the_own_name_is_absent_that_of_a_connected_peer_may_be_right_instead() {
    let (zone, book, listener, peer) = setup().await;
    zone.say(&book.directory().own().fqdn, Lookup::Absent);
    let absent = book.directory().peer(2).unwrap();
    why_not(&book, &absent).await;
    assert!(matches!(book.presence(&absent), Presence::Unknown(_)), "nothing is known to be right");
    zone.say(&peer.fqdn, at(OWN_IP));
    let _connection = book.dial(&peer).await.unwrap();
    listener.accept().await.unwrap();
    zone.take_asked();
    let another = book.directory().peer(3).unwrap();
    why_not(&book, &another).await;
    assert_eq!(book.presence(&another), Presence::Absent);
    assert_eq!(zone.take_asked(), ["s-3", "s-1"], "the peer's name is asked again: it must be right now");
    zone.say(&peer.fqdn, Lookup::Absent);
    let third = book.directory().peer(4).unwrap();
    why_not(&book, &third).await;
    assert!(matches!(book.presence(&third), Presence::Unknown(_)), "a name server that forgot the set");
    // One that answers elsewhere than its name says was not found by the name.
    book.lend(&peer, "127.0.0.2:9".parse().unwrap());
    zone.say(&peer.fqdn, at(OWN_IP));
    let fourth = book.directory().peer(5).unwrap();
    why_not(&book, &fourth).await;
    assert!(matches!(book.presence(&fourth), Presence::Unknown(_)));
}

#[tokio::test]
async fn a_lent_address_overrides_absence_and_cuts_what_was_elsewhere() {
    let (zone, book, listener, peer) = setup().await;
    zone.say(&peer.fqdn, at(OWN_IP));
    let mut old = book.dial(&peer).await.unwrap();
    let _held = listener.accept().await.unwrap();
    let elsewhere = TcpListener::bind(("127.0.0.2", 0)).await.unwrap();
    // Lending where it is already cuts nothing.
    book.lend(&peer, listener.local_addr().unwrap());
    let mut byte = [0];
    assert!(futures::poll!(Box::pin(old.read(&mut byte))).is_pending());
    book.lend(&peer, elsewhere.local_addr().unwrap());
    assert_eq!(old.read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    drop(old);
    let (dialled, accepted) = tokio::join!(book.dial(&peer), elsewhere.accept());
    dialled.unwrap();
    accepted.unwrap();

    let absent = book.directory().peer(2).unwrap();
    why_not(&book, &absent).await;
    assert_eq!(book.presence(&absent), Presence::Absent);
    book.lend(&absent, elsewhere.local_addr().unwrap());
    assert_eq!(book.presence(&absent), Presence::At);
    book.dial(&absent).await.unwrap();
}

#[tokio::test]
async fn pods_that_moved_find_each_other_through_one_that_is_connected_to_both() {
    let (zone, book, listener, peer) = setup().await;
    let here = listener.local_addr().unwrap();
    zone.say(&peer.fqdn, at(OWN_IP));
    assert_eq!(book.connected(), []);
    let connection = book.dial(&peer).await.unwrap();
    assert_eq!(book.connected(), [(peer.fqdn.clone(), here)]);
    assert!(!book.tell(&peer, "127.0.0.2:9".parse().unwrap()), "it is connected");
    drop(connection);
    assert_eq!(book.connected(), [], "what was lost is not told");

    let moved = book.directory().peer(2).unwrap();
    for wrong in ["0.0.0.0:2380", "127.0.0.1:0", "[::]:1"] {
        assert!(!book.tell(&moved, wrong.parse().unwrap()), "{wrong}");
    }
    zone.take_asked();
    assert!(book.tell(&moved, here));
    book.dial(&moved).await.unwrap();
    assert_eq!(zone.take_asked(), [""; 0]);
    assert_eq!(book.presence(&moved), Presence::NotAsked, "what another says is evidence of nothing");
}

#[tokio::test]
async fn where_somebody_else_answers_is_left_alone() {
    let (zone, book, listener, peer) = setup().await;
    zone.say(&peer.fqdn, at(OWN_IP));
    let mut wrong = book.dial(&peer).await.unwrap();
    let _held = listener.accept().await.unwrap();
    book.misdirected(&peer);
    assert!(wrong.read(&mut [0]).await.is_err());
    tokio::time::sleep(limits::PEER_REDIAL_MAX).await;
    why_not(&book, &peer).await;
    book.lend(&peer, listener.local_addr().unwrap());
    book.dial(&peer).await.unwrap();
}

#[tokio::test]
async fn what_is_no_address_is_not_lent() {
    let (_zone, book, _listener, peer) = setup().await;
    for wrong in ["0.0.0.0:2380", "127.0.0.1:0", "[::]:1"] {
        book.lend(&peer, wrong.parse().unwrap());
        assert_ne!(book.presence(&peer), Presence::At, "{wrong}");
    }
}

#[tokio::test]
async fn a_fixed_list_needs_no_own_name_and_knows_no_absence() {
    let zone = Arc::new(Zone::default());
    let listener = TcpListener::bind((OWN_IP, 0)).await.unwrap();
    let list =
        vec!["127.0.0.1:1".into(), listener.local_addr().unwrap().to_string(), "elsewhere:2380".into()];
    let directory = Directory::fixed(0, &list).unwrap();
    let book = AddressBook::born(
        Instant::now(),
        Arc::clone(&zone) as _,
        Arc::new(Tcp::default()),
        directory.clone(),
        None,
    );
    book.dial(&directory.peer(1).unwrap()).await.unwrap();
    assert_eq!(zone.take_asked(), Vec::<String>::new());
    let named = directory.peer(2).unwrap();
    why_not(&book, &named).await;
    assert_eq!(zone.take_asked(), ["elsewhere"]);
    assert!(matches!(book.presence(&named), Presence::Unknown(_)));
}

#[tokio::test]
async fn the_service_lists_addresses_and_is_not_asked_twice_at_once() {
    let (zone, book, _listener, _) = setup().await;
    let service = book.directory().service().unwrap();
    zone.say(&service, Lookup::At(vec![OWN_IP.parse().unwrap(), "127.0.0.2".parse().unwrap()]));
    let listed = book.service().await;
    assert!(matches!(&listed, ServiceAnswer::Listed(addresses) if addresses.len() == 2));
    assert_eq!(book.service().await, listed);
    assert_eq!(zone.take_asked(), ["s-0", "peers"]);
}

#[tokio::test]
async fn more_addresses_than_can_be_asked_are_unknown() {
    let (zone, book, _listener, _) = setup().await;
    let many = (0..=limits::ADDRESSES_PER_SERVICE)
        .map(|n| IpAddr::from([10, 0, (n / 256) as u8, n as u8]))
        .collect();
    zone.say(&book.directory().service().unwrap(), Lookup::At(many));
    assert!(matches!(book.service().await, ServiceAnswer::Unknown(_)));
}

#[tokio::test]
async fn the_book_stays_bounded() {
    let (_zone, book, _listener, peer) = setup().await;
    book.lend(&peer, "127.0.0.1:9".parse().unwrap());
    for ordinal in 2..1_000 {
        book.lend(&book.directory().peer(ordinal).unwrap(), "127.0.0.1:9".parse().unwrap());
        // In use all the time, so it stays.
        assert_eq!(book.presence(&peer), Presence::At);
    }
    assert_eq!(book.state.lock().peers.len(), limits::PEERS);
}
