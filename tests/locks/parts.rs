//! A range in parts: `RangeStream`.

use setstone::client::{Client, Compact, Kv, Txn, TxnOp};
use setstone::limits;
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::kv_client::KvClient;
use setstone::testing::TestCluster;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{channel, soon};

fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..pb::RangeRequest::default()
    }
}

async fn parts(
    kv: &mut KvClient<Channel>,
    request: pb::RangeRequest,
) -> Result<Vec<pb::RangeResponse>, Status> {
    let mut stream = kv.range_stream(request).await?.into_inner();
    let mut parts = Vec::new();
    while let Some(part) = soon(stream.message()).await? {
        parts.push(part.range_response.unwrap());
    }
    Ok(parts)
}

async fn fill(client: &impl Client, prefix: &str, count: usize, size: usize) -> i64 {
    let value = bytes::Bytes::from(vec![b'v'; size]);
    let mut revision = 0;
    let together = (limits::REQUEST_BYTES / 2 / (size + 64)).clamp(1, 100);
    for chunk in (0..count).collect::<Vec<_>>().chunks(together) {
        let put = |number: &usize| {
            let key = format!("{prefix}{number:06}").into();
            TxnOp::Put(setstone::client::Put { key, value: value.clone(), ..Default::default() })
        };
        let txn = Txn { success: chunk.iter().map(put).collect(), ..Txn::default() };
        revision = client.txn(txn).await.unwrap().header.revision;
    }
    revision
}

/// All parts of all shapes are what a range answers at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_merged_are_the_range() {
    let cluster = TestCluster::start(1).await.unwrap();
    let client = cluster.client();
    fill(&client, "a/", 1_500, 100).await;
    let middle = fill(&client, "b/", 3, 100_000).await;
    Kv::delete(&client, "a/000003").await.unwrap();
    let mut kv = KvClient::new(channel(&cluster, 0).await).max_decoding_message_size(usize::MAX);
    let at = |request: pb::RangeRequest, change: fn(&mut pb::RangeRequest)| {
        let mut request = request;
        change(&mut request);
        request
    };
    let mut shapes = vec![
        range("a/", "a0"),
        range("\0", "\0"),
        range("b/", "\0"),
        range("a/000001", ""),
        range("nothing", ""),
        range("nothing", "nothinh"),
        range("z", "a"),
        at(range("a/", "a0"), |request| request.limit = 1),
        at(range("a/", "a0"), |request| request.limit = 10),
        at(range("a/", "a0"), |request| request.limit = 11),
        at(range("a/", "a0"), |request| request.limit = 1_499),
        at(range("a/", "a0"), |request| request.limit = 2_000),
        at(range("a/", "a0"), |request| request.limit = -1),
        at(range("a/", "a0"), |request| request.keys_only = true),
        at(range("a/", "a0"), |request| request.count_only = true),
        at(range("a/", "a0"), |request| request.serializable = true),
        at(range("a/", "a0"), |request| request.sort_order = 1),
        at(range("a/", "a0"), |request| request.revision = -7),
        at(range("a/", "a0"), |request| {
            request.limit = 700;
            request.keys_only = true;
        }),
    ];
    let mut old = range("\0", "\0");
    old.revision = middle;
    shapes.push(old);
    for request in shapes {
        let whole = kv.range(request.clone()).await.unwrap().into_inner();
        let parts = parts(&mut kv, request.clone()).await.unwrap();
        let (last, before) = parts.split_last().unwrap();
        for part in before {
            assert!(part.header.is_none() && !part.more && part.count == 0, "{request:?}");
            assert!(!part.kvs.is_empty(), "{request:?}");
        }
        if let Some(first) = before.first() {
            assert_eq!(first.kvs.len(), 10, "{request:?}");
        }
        let kvs = parts.iter().flat_map(|part| part.kvs.clone()).collect::<Vec<_>>();
        let merged = pb::RangeResponse { header: last.header, kvs, more: last.more, count: last.count };
        assert_eq!(merged, whole, "{request:?}");
    }
    // Ten, twenty, forty: a few parts.
    let small = parts(&mut kv, range("a/", "a0")).await.unwrap();
    let sizes: Vec<usize> = small.iter().map(|part| part.kvs.len()).collect();
    assert_eq!(sizes, [10, 20, 40, 80, 160, 320, 640, 229]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_read_in_parts_is_unimplemented_and_mistakes_are_etcds() {
    let cluster = TestCluster::start(1).await.unwrap();
    let mut kv = KvClient::new(channel(&cluster, 0).await);
    let with = |change: fn(&mut pb::RangeRequest)| {
        let mut request = range("a", "b");
        change(&mut request);
        request
    };
    for (request, code, text) in [
        (range("", ""), Code::InvalidArgument, "etcdserver: key is not provided"),
        (with(|r| r.sort_order = 9), Code::InvalidArgument, "etcdserver: invalid sort option"),
        (with(|r| r.sort_order = 2), Code::Unimplemented, "RangeStream does not support custom sort orders"),
        (
            with(|r| {
                r.sort_order = 1;
                r.sort_target = 3;
            }),
            Code::Unimplemented,
            "RangeStream does not support custom sort orders",
        ),
        (
            with(|r| r.max_mod_revision = 1),
            Code::Unimplemented,
            "RangeStream does not support revision filters",
        ),
        (
            with(|r| r.revision = 999),
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ] {
        let status = parts(&mut kv, request.clone()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text), "{request:?}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_parts_are_of_one_revision_and_a_compaction_of_it_ends_them() {
    let cluster = TestCluster::start(1).await.unwrap();
    let client = cluster.client();
    // More than the connection's windows hold, so that parts are still to be made when the client pauses.
    let pinned = fill(&client, "big/", 400, 64 << 10).await;
    let mut kv = KvClient::new(channel(&cluster, 0).await).max_decoding_message_size(usize::MAX);

    let mut stream = kv.range_stream(range("big/", "big0")).await.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().unwrap().range_response.unwrap();
    assert_eq!(first.kvs.len(), 10);
    Kv::put(&client, "big/000399", "new").await.unwrap();
    Kv::put(&client, "big/new", "new").await.unwrap();
    let mut kvs = first.kvs;
    let mut largest = 0;
    let last = loop {
        let message = soon(stream.message()).await.unwrap().unwrap().range_response.unwrap();
        let bytes: usize = message.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        largest = largest.max(bytes);
        kvs.extend(message.kvs);
        if let Some(header) = message.header {
            break (header, message.count);
        }
    };
    assert!(soon(stream.message()).await.unwrap().is_none());
    assert_eq!((last.0.revision, last.1, kvs.len()), (pinned, 400, 400));
    assert!(kvs.iter().all(|kv| kv.mod_revision <= pinned && kv.value.len() == 64 << 10));
    assert!(largest <= limits::RANGE_PART_BYTES + (65 << 10), "{largest}");

    let mut stream = kv.range_stream(range("big/", "big0")).await.unwrap().into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    let revision = Kv::put(&client, "other", "x").await.unwrap();
    client.compact(Compact { revision, physical: true }).await.unwrap();
    let status = loop {
        match soon(stream.message()).await {
            Ok(Some(part)) => assert!(part.range_response.unwrap().header.is_none(), "it did not end"),
            Ok(None) => panic!("it ended as if it were whole"),
            Err(status) => break status,
        }
    };
    let text = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, text));
    cluster.shutdown().await;
}

/// Values that grow: what a small first part says of the size of the next is wrong, and the parts are bounded all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_bounded_by_bytes_whatever_came_before() {
    let cluster = TestCluster::start(1).await.unwrap();
    let client = cluster.client();
    fill(&client, "m/a", 700, 10).await;
    fill(&client, "m/b", 30, 1 << 20).await;
    let mut kv = KvClient::new(channel(&cluster, 0).await).max_decoding_message_size(usize::MAX);
    let parts = parts(&mut kv, range("m/", "m0")).await.unwrap();
    let bytes = |part: &pb::RangeResponse| part.kvs.iter().map(|kv| kv.value.len()).sum::<usize>();
    assert!(parts.iter().all(|part| bytes(part) < limits::RANGE_PART_BYTES + (2 << 20)));
    assert_eq!(parts.iter().map(|part| part.kvs.len()).sum::<usize>(), 730);
    assert_eq!(parts.last().unwrap().count, 730);
    cluster.shutdown().await;
}

/// Parts are made when there is room for them: whoever does not read costs a few, and hurts nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_costs_little_and_gets_everything_when_it_does() {
    let cluster = TestCluster::start(1).await.unwrap();
    let client = cluster.client();
    fill(&client, "big/", 600, 64 << 10).await;
    let mut kv = KvClient::new(channel(&cluster, 0).await).max_decoding_message_size(usize::MAX);
    let sent = || cluster.node(0).unwrap().metrics().client_bytes_sent.get();
    let before = sent();
    let mut stream = kv.range_stream(range("big/", "big0")).await.unwrap().into_inner();
    let mut pairs = soon(stream.message()).await.unwrap().unwrap().range_response.unwrap().kvs.len();
    for _ in 0..200 {
        soon(Kv::get(&client, "big/000000")).await.unwrap();
    }
    let unread = sent() - before - 200 * (64 << 10);
    assert!(unread < 4 * limits::RANGE_PART_BYTES as u64, "{unread} bytes were made for nobody");
    while let Some(part) = soon(stream.message()).await.unwrap() {
        pairs += part.range_response.unwrap().kvs.len();
    }
    assert_eq!(pairs, 600);
    cluster.shutdown().await;
}
