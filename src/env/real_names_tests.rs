#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::collections::BTreeMap;
use std::sync::Arc;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::serialize::binary::BinDecodable;
use parking_lot::Mutex;
use tokio::net::UdpSocket;

use super::*;

/// What a name server says to a question for one type.
#[derive(Clone, Debug)]
enum Say {
    Address(IpAddr),
    Code(ResponseCode),
    Nothing,
}

type Zone = Arc<Mutex<BTreeMap<(&'static str, RecordType), Say>>>;

async fn server(zone: BTreeMap<(&'static str, RecordType), Say>) -> Dns {
    serve(Arc::new(Mutex::new(zone))).await
}

async fn serve(zone: Zone) -> Dns {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let request = Message::from_bytes(&buffer[..length]).unwrap();
            let query: Query = request.queries[0].clone();
            let name = query.name().to_ascii();
            let said = zone
                .lock()
                .iter()
                .find(|((of, kind), _)| *of == name && *kind == query.query_type())
                .map(|(_, say)| say.clone());
            let mut answer = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
            answer.metadata.recursion_desired = true;
            answer.add_query(query.clone());
            match said {
                Some(Say::Nothing) => continue,
                Some(Say::Code(code)) => answer.metadata.response_code = code,
                Some(Say::Address(ip)) => {
                    let data = match ip {
                        IpAddr::V4(four) => RData::A(A(four)),
                        IpAddr::V6(six) => RData::AAAA(AAAA(six)),
                    };
                    answer.add_answer(Record::from_rdata(query.name().clone(), 30, data));
                }
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    Dns::at(&[address]).unwrap()
}

const NAME: &str = "s-0.peers.shop.svc.cluster.local.";
const ASKED: &str = "s-0.peers.shop.svc.cluster.local";

async fn lookup(four: Say, six: Say) -> Lookup {
    let dns = server([((NAME, RecordType::A), four), ((NAME, RecordType::AAAA), six)].into()).await;
    dns.lookup(ASKED).await
}

fn four() -> IpAddr {
    "10.0.0.1".parse().unwrap()
}

fn six() -> IpAddr {
    "fd00::1".parse().unwrap()
}

const EMPTY: Say = Say::Code(ResponseCode::NoError);
const NO_SUCH: Say = Say::Code(ResponseCode::NXDomain);
const FAILED: Say = Say::Code(ResponseCode::ServFail);
const REFUSED: Say = Say::Code(ResponseCode::Refused);

#[tokio::test]
async fn an_address_of_either_kind_is_an_address() {
    assert_eq!(lookup(Say::Address(four()), EMPTY).await, Lookup::At(vec![four()]));
    assert_eq!(lookup(EMPTY, Say::Address(six())).await, Lookup::At(vec![six()]));
    assert_eq!(lookup(Say::Address(four()), FAILED).await, Lookup::At(vec![four()]));
}

#[tokio::test]
async fn absent_is_what_both_questions_say() {
    assert_eq!(lookup(NO_SUCH, NO_SUCH).await, Lookup::Absent);
    assert_eq!(lookup(EMPTY, EMPTY).await, Lookup::Absent);
}

#[tokio::test]
async fn all_else_is_unknown() {
    for (one, other) in [(FAILED, FAILED), (REFUSED, REFUSED), (NO_SUCH, FAILED), (FAILED, EMPTY)] {
        let found = lookup(one.clone(), other.clone()).await;
        assert!(matches!(found, Lookup::Unknown(_)), "{one:?} {other:?}: {found:?}");
    }
    let dns = Dns::at(&[]).unwrap();
    assert!(matches!(dns.lookup(ASKED).await, Lookup::Unknown(_)));
    let dns = server(BTreeMap::new()).await;
    assert!(matches!(dns.lookup("a..b").await, Lookup::Unknown(_)));
}

#[tokio::test]
async fn no_answer_is_unknown_in_time() {
    let started = tokio::time::Instant::now();
    let found = lookup(Say::Nothing, NO_SUCH).await;
    assert!(matches!(found, Lookup::Unknown(_)), "{found:?}");
    assert!(started.elapsed() <= limits::DNS_TIMEOUT + std::time::Duration::from_secs(2));
}

#[tokio::test]
async fn nothing_is_cached() {
    let zone: Zone = Arc::new(Mutex::new([((NAME, RecordType::A), Say::Address(four()))].into()));
    let dns = serve(Arc::clone(&zone)).await;
    assert_eq!(dns.lookup(ASKED).await, Lookup::At(vec![four()]));
    zone.lock().clear();
    assert_eq!(dns.lookup(ASKED).await, Lookup::Absent);
    zone.lock().insert((NAME, RecordType::AAAA), Say::Address(six()));
    assert_eq!(dns.lookup(ASKED).await, Lookup::At(vec![six()]));
}
