#![allow(clippy::unwrap_used)]
use super::*;

const PORT: u16 = 2380;

fn at(last: u8) -> SocketAddr {
    SocketAddr::new(ip(last), PORT)
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn found(last: u8) -> Lookup {
    Lookup::At(vec![ip(last)])
}

#[tokio::test]
async fn no_name_is_asked_in_the_first_two_seconds() {
    let born = Instant::now();
    let own = OwnName::new(born);
    assert_eq!(own.next(born, Duration::MAX), OwnNext::NotBefore(born + secs(2)));
    assert_eq!(own.next(born + secs(2), Duration::MAX), OwnNext::Ask);
}

#[tokio::test]
async fn the_own_name_counts_only_once_it_resolves_to_oneself() {
    let born = Instant::now();
    let mut own = OwnName::new(born);
    let mut now = born + secs(2);
    for wrong in [Lookup::Absent, found(9), Lookup::Unknown("refused".into())] {
        own.answered(now, &wrong, |address| address == ip(1));
        assert_eq!(
            own.next(now, Duration::MAX),
            OwnNext::NotBefore(now + limits::DNS_OWN_INTERVAL),
            "{wrong:?}"
        );
        now += limits::DNS_OWN_INTERVAL;
        assert_eq!(own.next(now, Duration::MAX), OwnNext::Ask);
    }
    own.answered(now, &Lookup::At(vec![ip(9), ip(1)]), |address| address == ip(1));
    assert_eq!(own.next(now + secs(1000), Duration::MAX), OwnNext::Confirmed);
    // An absence is believed only next to a fresh confirmation.
    assert_eq!(own.next(now + secs(5), secs(5)), OwnNext::Confirmed);
    assert_eq!(own.next(now + secs(6), secs(5)), OwnNext::Ask);
    // A confirmation can be lost.
    own.answered(now + secs(6), &found(9), |address| address == ip(1));
    assert_ne!(own.next(now + secs(6), Duration::MAX), OwnNext::Confirmed);
}

#[tokio::test]
async fn a_lost_peer_is_redialled_where_it_was_and_asked_for_after_five_seconds() {
    let start = Instant::now();
    let mut peer = Whereabouts::new();
    assert_eq!(peer.next(start, PORT), Next::Ask);
    peer.answered(start, found(1), PORT);
    assert_eq!(peer.next(start, PORT), Next::Dial(vec![at(1)]));
    peer.connected();
    let lost = start + secs(100);
    peer.lost(lost);
    assert_eq!(peer.next(lost, PORT), Next::Dial(vec![at(1)]));
    peer.failed(lost);
    // Not faster than the redial interval.
    assert!(matches!(peer.next(lost, PORT), Next::NotBefore(_)));
    assert_eq!(peer.next(lost + secs(4), PORT), Next::Dial(vec![at(1)]));
    assert_eq!(peer.next(lost + secs(5), PORT), Next::Ask);
    // The same address: asked again later and later, dialled in between.
    let mut asked = lost + secs(5);
    for wait in [5, 10, 20, 30, 30] {
        peer.answered(asked, found(1), PORT);
        assert_eq!(
            peer.next(asked + secs(wait) - Duration::from_millis(1), PORT),
            Next::Dial(vec![at(1)]),
            "{wait}"
        );
        asked += secs(wait);
        assert_eq!(peer.next(asked, PORT), Next::Ask, "{wait}");
    }
    // Another address is dialled at once.
    peer.failed(asked);
    peer.answered(asked, found(2), PORT);
    assert_eq!(peer.next(asked, PORT), Next::Dial(vec![at(2)]));
    peer.connected();
    assert_eq!(peer.next(asked + secs(1000), PORT), Next::Dial(vec![at(2)]));
}

#[tokio::test]
async fn an_absent_name_is_asked_every_fifteen_seconds_at_most() {
    let mut now = Instant::now();
    let mut peer = Whereabouts::new();
    for _ in 0..3 {
        peer.answered(now, Lookup::Absent, PORT);
        assert_eq!(peer.next(now, PORT), Next::NotBefore(now + secs(15)));
        now += secs(15);
        assert_eq!(peer.next(now, PORT), Next::Ask);
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_asked_is_asked_again_soon_and_as_if_for_the_first_time_once_it_can_be() {
    let mut now = Instant::now();
    let mut peer = Whereabouts::new();
    let mut ask = |answer: &Lookup| {
        peer.answered(now, answer.clone(), PORT);
        let begin = now;
        loop {
            match peer.next(now, PORT) {
                Next::Ask => return now.duration_since(begin).as_millis(),
                Next::NotBefore(next) => now = next,
                // Nobody is there.
                Next::Dial(_) => peer.failed(now),
            }
        }
    };
    let spacing: Vec<_> = (0..4).map(|_| ask(&Lookup::Unknown("refused".into()))).collect();
    assert_eq!(spacing, [500, 1000, 1000, 1000]);
    let spacing: Vec<_> = (0..5).map(|_| ask(&found(7))).collect();
    assert_eq!(spacing, [5000, 10000, 20000, 30000, 30000]);
    assert_eq!(ask(&Lookup::Unknown("refused".into())), 500);
}

#[tokio::test]
async fn where_another_pod_says_that_a_peer_is_is_tried_before_its_name_and_once() {
    let start = Instant::now();
    let mut peer = Whereabouts::new();
    // The name server's cache has the address of the pod's last life.
    peer.answered(start, found(7), PORT);
    peer.failed(start);
    assert!(!peer.tell(at(7), PORT), "no news");
    assert!(peer.tell(at(8), PORT));
    assert_eq!(peer.next(start, PORT), Next::Dial(vec![at(8), at(7)]));
    assert!(!peer.is_lent(), "it says nothing about the name");
    peer.failed(start);
    assert_eq!(peer.next(start + secs(1), PORT), Next::Dial(vec![at(7)]));
    // What the peer says itself counts more; where somebody else answered is not believed again.
    assert!(peer.tell(at(8), PORT));
    assert!(peer.lend(at(9), PORT));
    assert_eq!(peer.next(start, PORT), Next::Dial(vec![at(9), at(8), at(7)]));
    peer.wrong(start, at(8));
    assert!(!peer.tell(at(8), PORT));
    assert_eq!(peer.next(start, PORT), Next::Dial(vec![at(9), at(7)]));
}

#[tokio::test]
async fn a_lent_address_is_used_until_the_name_gives_it_and_overrides_absent() {
    let start = Instant::now();
    let mut peer = Whereabouts::new();
    peer.answered(start, Lookup::Absent, PORT);
    assert!(peer.lend(at(7), PORT));
    assert!(!peer.lend(at(7), PORT), "no news");
    assert!(peer.is_lent());
    assert_eq!(peer.next(start, PORT), Next::Dial(vec![at(7)]));
    // It moved: lent again, the newest first.
    assert!(peer.lend(at(8), PORT));
    assert_eq!(peer.next(start, PORT), Next::Dial(vec![at(8)]));
    peer.answered(start + secs(30), found(8), PORT);
    assert!(!peer.is_lent());
    assert_eq!(peer.next(start + secs(30), PORT), Next::Dial(vec![at(8)]));
    assert!(!peer.lend(at(8), PORT), "the name says so already");
}

#[tokio::test]
async fn a_lent_address_spares_the_first_question_until_it_is_lost() {
    let start = Instant::now();
    let mut peer = Whereabouts::new();
    peer.lend(at(7), PORT);
    assert_eq!(peer.next(start + secs(60), PORT), Next::Dial(vec![at(7)]));
    peer.lost(start + secs(60));
    assert_eq!(peer.next(start + secs(64), PORT), Next::Dial(vec![at(7)]));
    assert_eq!(peer.next(start + secs(65), PORT), Next::Ask);
}

#[tokio::test]
async fn where_somebody_else_answers_is_not_dialled_until_it_is_given_anew() {
    let start = Instant::now();
    let mut peer = Whereabouts::new();
    peer.answered(start, Lookup::At(vec![ip(1), ip(2)]), PORT);
    peer.wrong(start, at(1));
    assert_eq!(peer.next(start, PORT), Next::Dial(vec![at(2)]));
    peer.wrong(start, at(2));
    assert_eq!(peer.next(start, PORT), Next::NotBefore(start + secs(5)));
    // A hello gives it anew.
    peer.lend(at(1), PORT);
    assert_eq!(peer.next(start, PORT), Next::Dial(vec![at(1)]));
    // So does the name.
    peer.wrong(start, at(1));
    assert!(!peer.is_lent());
    peer.answered(start + secs(5), found(1), PORT);
    assert_eq!(peer.next(start + secs(5), PORT), Next::Dial(vec![at(1)]));
}

#[tokio::test]
async fn dialling_what_cannot_be_reached_slows_down_and_stays_bounded() {
    let mut now = Instant::now();
    let mut peer = Whereabouts::new();
    peer.lend(at(1), PORT);
    for _ in 0..100 {
        peer.failed(now);
        let wait = peer.redial(now).unwrap().duration_since(now);
        assert!(wait >= limits::PEER_REDIAL && wait <= limits::PEER_REDIAL_MAX, "{wait:?}");
        now += wait;
        assert_eq!(peer.redial(now), None);
        assert_eq!(peer.dialable(now, PORT), [at(1)]);
    }
}

#[tokio::test]
async fn what_a_name_says_is_bounded() {
    let now = Instant::now();
    let mut peer = Whereabouts::new();
    peer.answered(now, Lookup::At((0..=255).map(ip).collect()), PORT);
    let Next::Dial(addresses) = peer.next(now, PORT) else { panic!("nothing to dial") };
    assert_eq!(addresses.len(), limits::ADDRESSES_PER_NAME);
    for last in 0..=255 {
        peer.wrong(now, at(last));
    }
    assert!(peer.wrong.len() <= limits::ADDRESSES_PER_NAME);
}

#[tokio::test]
async fn a_pod_that_is_gone_is_absent_although_it_once_lent_its_address() {
    let now = Instant::now();
    let mut peer = Whereabouts::new();
    peer.lend(at(7), PORT);
    peer.connected();
    peer.answered(now, Lookup::Absent, PORT);
    assert!(peer.is_lent(), "it answers there, whatever its name says");
    peer.lost(now);
    peer.failed(now);
    peer.answered(now + secs(5), Lookup::Absent, PORT);
    assert!(!peer.is_lent(), "it answers no more, and its name is gone");
    // A hello is newer than the loss.
    peer.lend(at(7), PORT);
    peer.answered(now + secs(6), Lookup::Absent, PORT);
    assert!(peer.is_lent());
}
