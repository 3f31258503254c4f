#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::client::{Endpoint, Options};
use crate::env::random::SystemRandom;
use crate::proto::etcdserverpb::kv_server::{Kv, KvServer};
use crate::proto::mvccpb;

fn pairs(keys: &[&'static str]) -> Vec<KeyValue> {
    keys.iter().map(|key| KeyValue { key: (*key).into(), ..KeyValue::default() }).collect()
}

#[test]
fn the_rest_begins_behind_the_last_key_and_ends_with_the_range_or_the_limit() {
    let range = |limit| Range { key: "a".into(), range_end: "z".into(), limit, ..Range::default() };
    let mut rest = Rest::of(range(0)).unwrap();
    assert_eq!(rest.look().unwrap().key, "a");
    rest.pin(7);
    assert_eq!(rest.look(), None);
    assert_eq!(rest.next(0).unwrap(), Range { revision: 7, ..range(0) });
    let page = rest.take(pairs(&["a", "b"]), true).unwrap();
    assert_eq!((page.revision, page.kvs.len()), (7, 2));
    let next = rest.next(9).unwrap();
    assert_eq!((&next.key[..], next.limit), (&b"b\0"[..], 9));
    assert!(rest.take(pairs(&["c"]), false).is_some());
    assert!(rest.range.is_none() && rest.next(0).is_none());

    let mut rest = Rest::of(range(3)).unwrap();
    assert_eq!(rest.next(0).unwrap().limit, 3);
    assert!(rest.take(pairs(&["a", "b"]), true).is_some());
    assert_eq!(rest.next(10).unwrap().limit, 1);
    assert!(rest.take(pairs(&["c"]), true).is_some());
    assert!(rest.range.is_none(), "no more is wanted");

    let mut rest = Rest::of(range(0)).unwrap();
    assert_eq!(rest.take(Vec::new(), true), None);
    assert!(rest.range.is_none());
}

#[test]
fn what_cannot_be_read_in_pages_is_refused() {
    for range in [
        Range { sort_order: SortOrder::Descend, ..Range::default() },
        Range { sort_target: SortTarget::Mod, ..Range::default() },
        Range { count_only: true, ..Range::default() },
        Range { max_create_revision: 1, ..Range::default() },
    ] {
        assert!(matches!(Rest::of(range.clone()), Err(Error::Invalid(_))), "{range:?}");
    }
}

/// How a server sends a range in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    /// Not at all.
    Unimplemented,
    /// All of them, three pairs each.
    Whole,
    /// Two, then the connection breaks.
    Broken,
    /// Two, then the end, as if that were all.
    CutShort,
    /// The revision is gone.
    Compacted,
}

/// A server of the keys from 0 to 99 at revision 7.
#[derive(Clone)]
struct Hundred {
    parts: Parts,
    streams: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<pb::RangeRequest>>>,
}

const REVISION: i64 = 7;

fn answer(request: &pb::RangeRequest) -> pb::RangeResponse {
    let kvs = (0..100).map(|number| mvccpb::KeyValue {
        key: format!("k{number:02}").into(),
        mod_revision: REVISION,
        value: vec![b'v'; 10].into(),
        ..Default::default()
    });
    let kvs: Vec<_> = kvs
        .filter(|kv| kv.key >= request.key && (kv.key == request.key || kv.key < request.range_end))
        .collect();
    let limit = usize::try_from(request.limit).unwrap();
    let cut = if limit == 0 { kvs.len() } else { limit.min(kvs.len()) };
    pb::RangeResponse {
        header: Some(pb::ResponseHeader { revision: REVISION, ..Default::default() }),
        more: cut < kvs.len(),
        count: kvs.len() as i64,
        kvs: kvs[..cut].to_vec(),
    }
}

#[tonic::async_trait]
impl Kv for Hundred {
    type RangeStreamStream = BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.asked.lock().unwrap().push(request.get_ref().clone());
        Ok(Response::new(answer(request.get_ref())))
    }
    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let request = request.into_inner();
        self.asked.lock().unwrap().push(request.clone());
        match self.parts {
            Parts::Unimplemented => return Err(Status::unimplemented("unknown method RangeStream")),
            Parts::Compacted => {
                return Err(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"));
            }
            Parts::Whole | Parts::Broken | Parts::CutShort => {}
        }
        let whole = answer(&request);
        let mut parts: Vec<Result<pb::RangeStreamResponse, Status>> = Vec::new();
        let count = whole.kvs.chunks(3).count();
        for (number, kvs) in whole.kvs.chunks(3).enumerate() {
            let mut part = pb::RangeResponse { kvs: kvs.to_vec(), ..Default::default() };
            if number + 1 == count {
                part = pb::RangeResponse { kvs: part.kvs, ..whole.clone() };
            }
            parts.push(Ok(pb::RangeStreamResponse { range_response: Some(part) }));
        }
        if self.parts != Parts::Whole {
            parts.truncate(2);
        }
        if self.parts == Parts::Broken {
            parts.push(Err(Status::unavailable("etcdserver: server stopped")));
        }
        Ok(Response::new(futures::stream::iter(parts).boxed()))
    }
    async fn put(&self, _: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A client of servers that behave so.
async fn cluster(parts: &[Parts]) -> (Remote, Vec<Hundred>) {
    let (mut endpoints, mut servers): (Vec<Endpoint>, _) = (Vec::new(), Vec::new());
    for parts in parts {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        endpoints.push(listener.local_addr().unwrap().to_string().parse().unwrap());
        let server = Hundred { parts: *parts, streams: Arc::default(), asked: Arc::default() };
        let serving = tonic::transport::Server::builder().add_service(KvServer::new(server.clone()));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        servers.push(server);
    }
    let options = Options { timeout: Duration::from_secs(4), ..Options::default() };
    (Remote::with_random(endpoints, &options, Arc::new(SystemRandom)).unwrap(), servers)
}

fn all_keys() -> Range {
    Range { key: "k".into(), range_end: "l".into(), ..Range::default() }
}

async fn read(client: &Remote, range: Range) -> Result<Vec<Page>, Error> {
    let mut pages = client.pages(range);
    let mut all = Vec::new();
    while let Some(page) = tokio::time::timeout(Duration::from_secs(20), pages.next()).await.unwrap() {
        all.push(page?);
    }
    Ok(all)
}

fn keys(pages: &[Page]) -> Vec<String> {
    let all = pages.iter().flat_map(|page| &page.kvs);
    all.map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

fn from_to(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("k{number:02}")).collect()
}

#[tokio::test]
async fn one_stream_brings_all_pages_at_the_revision_that_was_seen_first() {
    let (client, servers) = cluster(&[Parts::Whole]).await;
    let pages = read(&client, all_keys()).await.unwrap();
    assert_eq!(keys(&pages), from_to(0, 100));
    assert_eq!((pages.len(), pages[0].revision), (34, REVISION));
    let asked = servers[0].asked.lock().unwrap().clone();
    assert_eq!((asked.len(), asked[1].revision), (2, REVISION), "{asked:?}");
    let limited = read(&client, Range { limit: 7, ..all_keys() }).await.unwrap();
    assert_eq!(keys(&limited), from_to(0, 7));
}

#[tokio::test]
async fn a_server_without_streams_is_asked_for_one_page_after_the_other() {
    let (client, servers) = cluster(&[Parts::Unimplemented]).await;
    let pages = read(&client, all_keys()).await.unwrap();
    assert_eq!(keys(&pages), from_to(0, 100));
    let sizes: Vec<_> = pages.iter().map(|page| page.kvs.len()).collect();
    assert_eq!(sizes, [10, 20, 40, 30]);
    assert_eq!(servers[0].streams.load(Ordering::Relaxed), 1, "it is not tried again and again");
    let asked = servers[0].asked.lock().unwrap().clone();
    assert!(asked[1..].iter().all(|request| request.revision == REVISION));
    assert_eq!(keys(&read(&client, Range { limit: 25, ..all_keys() }).await.unwrap()), from_to(0, 25));
}

#[tokio::test]
async fn a_stream_that_breaks_or_ends_too_early_goes_on_behind_the_last_page() {
    for parts in [Parts::Broken, Parts::CutShort] {
        // Each of them brings six pairs, then the other one has its turn.
        let (client, servers) = cluster(&[parts, parts]).await;
        let pages = read(&client, all_keys()).await.unwrap();
        assert_eq!(keys(&pages), from_to(0, 100), "{parts:?}");
        let asked: usize = servers.iter().map(|server| server.streams.load(Ordering::Relaxed)).sum();
        assert!(asked > 10, "{asked}");
    }
}

#[tokio::test]
async fn a_refusal_is_the_last_item() {
    let (client, servers) = cluster(&[Parts::Compacted]).await;
    let mut pages = client.pages(Range { revision: 3, ..all_keys() });
    let error = pages.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("has been compacted"), "{error}");
    assert!(pages.next().await.is_none());
    assert_eq!(servers[0].streams.load(Ordering::Relaxed), 1);
}
