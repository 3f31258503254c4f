//! The crate `etcd-client` against a member: what it sends is understood, what it gets it understands.
//!
//! With `SETSTONE_BIN`, each test starts a member of its own from that binary. With `SETSTONE_ENDPOINTS` (`host:port,…`) they
//! talk to what is there: a playground, or a real etcd. So no test assumes that the store is empty or that it is alone.

mod member;

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error, GetOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse,
};
use member::Member;

/// The gRPC code and text of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (i32, String) {
    match result {
        Err(Error::GRpcStatus(status)) => (status.code() as i32, status.message().to_owned()),
        other => panic!("{other:?}"),
    }
}

async fn keys(client: &mut Client, prefix: &str, options: GetOptions) -> Vec<String> {
    let answer = client.get(prefix, Some(options.with_prefix())).await.unwrap();
    answer.kvs().iter().map(|kv| kv.key_str().unwrap().trim_start_matches(prefix).to_owned()).collect()
}

#[tokio::test]
async fn put_get_delete() {
    let member = Member::start("put_get_delete").await;
    let (mut client, key) = (member.client().await, member.key("k"));
    let first = client.put(key.as_str(), "1", None).await.unwrap();
    let created = first.header().unwrap().revision();
    assert!(first.prev_key().is_none());
    assert_ne!(first.header().unwrap().cluster_id(), 0);
    assert_ne!(first.header().unwrap().member_id(), 0);
    assert_ne!(first.header().unwrap().raft_term(), 0);

    let options = PutOptions::new().with_prev_key();
    let second = client.put(key.as_str(), "2", Some(options)).await.unwrap();
    let changed = second.header().unwrap().revision();
    assert!(changed > created);
    assert_eq!(second.prev_key().unwrap().value(), b"1");

    for options in [GetOptions::new(), GetOptions::new().with_serializable()] {
        let serializable_may_lag = client.get(key.as_str(), Some(options)).await.unwrap();
        let kv = &serializable_may_lag.kvs()[0];
        assert_eq!((kv.key(), kv.value()), (key.as_bytes(), &b"2"[..]));
        assert_eq!(
            (kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease()),
            (created, changed, 2, 0)
        );
        assert_eq!((serializable_may_lag.count(), serializable_may_lag.more()), (1, false));
    }

    let options = DeleteOptions::new().with_prev_key();
    let deleted = client.delete(key.as_str(), Some(options.clone())).await.unwrap();
    assert_eq!((deleted.deleted(), deleted.prev_kvs()[0].value()), (1, &b"2"[..]));
    let again = client.delete(key.as_str(), Some(options)).await.unwrap();
    assert_eq!((again.deleted(), again.prev_kvs().len()), (0, 0));
    assert_eq!(client.get(key.as_str(), None).await.unwrap().kvs().len(), 0);

    client.put(key.as_str(), "3", None).await.unwrap();
    assert_eq!(client.get(key.as_str(), None).await.unwrap().kvs()[0].version(), 1);
}

#[tokio::test]
async fn put_options() {
    let member = Member::start("put_options").await;
    let (mut client, key) = (member.client().await, member.key("k"));
    let keep = PutOptions::new().with_ignore_value();
    let missing = refusal(client.put(key.as_str(), "", Some(keep.clone())).await);
    assert_eq!(missing, (3, "etcdserver: key not found".into()));
    client.put(key.as_str(), "1", None).await.unwrap();
    let both = refusal(client.put(key.as_str(), "2", Some(keep.clone())).await);
    assert_eq!(both, (3, "etcdserver: value is provided".into()));
    client.put(key.as_str(), "", Some(keep)).await.unwrap();
    let answer = client.get(key.as_str(), None).await.unwrap();
    assert_eq!((answer.kvs()[0].value(), answer.kvs()[0].version()), (&b"1"[..], 2));
    let lease = refusal(client.put(key.as_str(), "2", Some(PutOptions::new().with_lease(0x7777))).await);
    assert_eq!(lease, (5, "etcdserver: requested lease not found".into()));
    assert_eq!(refusal(client.put("", "x", None).await), (3, "etcdserver: key is not provided".into()));
}

#[tokio::test]
async fn ranges() {
    let member = Member::start("ranges").await;
    let (mut client, prefix) = (member.client().await, member.key(""));
    let mut revisions = Vec::new();
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("a", "0")] {
        let answer = client.put(format!("{prefix}{key}"), value, None).await.unwrap();
        revisions.push(answer.header().unwrap().revision());
    }
    let by = |target, order| GetOptions::new().with_sort(target, order);
    for (options, expected) in [
        (GetOptions::new(), &["a", "b", "c"][..]),
        (by(SortTarget::Key, SortOrder::Descend), &["c", "b", "a"]),
        (by(SortTarget::Value, SortOrder::Ascend), &["a", "b", "c"]),
        (by(SortTarget::Mod, SortOrder::Ascend), &["b", "c", "a"]),
        (by(SortTarget::Create, SortOrder::Descend), &["c", "b", "a"]),
        (by(SortTarget::Version, SortOrder::Descend), &["a", "b", "c"]),
        (GetOptions::new().with_limit(2), &["a", "b"]),
        (GetOptions::new().with_revision(revisions[1]), &["a", "b"]),
        (GetOptions::new().with_min_mod_revision(revisions[2]), &["a", "c"]),
        (GetOptions::new().with_max_mod_revision(revisions[1]), &["b"]),
        (GetOptions::new().with_min_create_revision(revisions[1]), &["b", "c"]),
        (GetOptions::new().with_max_create_revision(revisions[0]), &["a"]),
    ] {
        assert_eq!(keys(&mut client, &prefix, options.clone()).await, expected, "{options:?}");
    }

    let limited =
        client.get(prefix.as_str(), Some(GetOptions::new().with_prefix().with_limit(2))).await.unwrap();
    assert_eq!((limited.count(), limited.more()), (3, true));
    let counted =
        client.get(prefix.as_str(), Some(GetOptions::new().with_prefix().with_count_only())).await.unwrap();
    assert_eq!((counted.count(), counted.kvs().len(), counted.more()), (3, 0, false));
    let bare =
        client.get(prefix.as_str(), Some(GetOptions::new().with_prefix().with_keys_only())).await.unwrap();
    assert!(bare.kvs().iter().all(|kv| kv.value().is_empty() && kv.mod_revision() > 0));
    let end = format!("{prefix}c");
    let half_open = client.get(format!("{prefix}a"), Some(GetOptions::new().with_range(end))).await.unwrap();
    assert_eq!(half_open.count(), 2);
    let old =
        client.get(format!("{prefix}a"), Some(GetOptions::new().with_revision(revisions[0]))).await.unwrap();
    assert_eq!(old.kvs()[0].value(), b"3");
    assert!(old.header().unwrap().revision() >= revisions[3]);
    let future = GetOptions::new().with_revision(revisions[3] + 1_000_000);
    assert_eq!(
        refusal(client.get(prefix.as_str(), Some(future)).await),
        (11, "etcdserver: mvcc: required revision is a future revision".into())
    );
    let from_key = client
        .get(format!("{prefix}b"), Some(GetOptions::new().with_from_key().with_limit(1)))
        .await
        .unwrap();
    assert_eq!(from_key.kvs()[0].key(), format!("{prefix}b").as_bytes());

    let deleted = client.delete(prefix.as_str(), Some(DeleteOptions::new().with_prefix())).await.unwrap();
    assert_eq!(deleted.deleted(), 3);
}

#[tokio::test]
async fn transactions() {
    let member = Member::start("transactions").await;
    let (mut client, key, other) = (member.client().await, member.key("k"), member.key("other"));
    let create = || {
        Txn::new()
            .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.as_str(), "mine", None)])
            .or_else([TxnOp::get(key.as_str(), None)])
    };
    let first = client.txn(create()).await.unwrap();
    assert!(first.succeeded());
    assert!(matches!(&first.op_responses()[..], [TxnOpResponse::Put(_)]));
    let second = client.txn(create()).await.unwrap();
    assert!(!second.succeeded());
    match &second.op_responses()[..] {
        [TxnOpResponse::Get(found)] => assert_eq!(found.kvs()[0].value(), b"mine"),
        other => panic!("{other:?}"),
    }

    let inner = Txn::new().and_then([TxnOp::put(other.as_str(), "inner", None)]);
    let several = Txn::new()
        .when([
            Compare::value(key.as_str(), CompareOp::Equal, "mine"),
            Compare::version(key.as_str(), CompareOp::Greater, 0),
            Compare::mod_revision(key.as_str(), CompareOp::NotEqual, 0),
            Compare::lease(key.as_str(), CompareOp::Less, 1),
        ])
        .and_then([
            TxnOp::delete(key.as_str(), Some(DeleteOptions::new().with_prev_key())),
            TxnOp::get(key.as_str(), None),
            TxnOp::txn(inner),
        ]);
    let answer = client.txn(several).await.unwrap();
    assert!(answer.succeeded());
    match &answer.op_responses()[..] {
        [TxnOpResponse::Delete(deleted), TxnOpResponse::Get(gone), TxnOpResponse::Txn(inner)] => {
            assert_eq!(deleted.prev_kvs()[0].value(), b"mine");
            assert_eq!(gone.kvs().len(), 0);
            assert!(inner.succeeded());
        }
        other => panic!("{other:?}"),
    }
    let written = client.get(other.as_str(), None).await.unwrap();
    assert_eq!(written.kvs()[0].mod_revision(), answer.header().unwrap().revision());

    let twice =
        Txn::new().and_then([TxnOp::put(key.as_str(), "1", None), TxnOp::put(key.as_str(), "2", None)]);
    assert_eq!(
        refusal(client.txn(twice).await),
        (3, "etcdserver: duplicate key given in txn request".into())
    );
    let many: Vec<_> = (0..129).map(|_| TxnOp::get(key.as_str(), None)).collect();
    let many = refusal(client.txn(Txn::new().and_then(many)).await);
    assert_eq!(many, (3, "etcdserver: too many operations in txn request".into()));
}

#[tokio::test]
async fn compaction() {
    let member = Member::start("compaction").await;
    let (mut client, key) = (member.client().await, member.key("k"));
    let mut revisions = Vec::new();
    for value in ["1", "2", "3"] {
        revisions.push(client.put(key.as_str(), value, None).await.unwrap().header().unwrap().revision());
    }
    let physical = CompactionOptions::new().with_physical();
    client.compact(revisions[1], Some(physical)).await.unwrap();
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    let kept = client.get(key.as_str(), at(revisions[1])).await.unwrap();
    assert_eq!(kept.kvs()[0].value(), b"2");
    let compacted = (11, "etcdserver: mvcc: required revision has been compacted".to_owned());
    assert_eq!(refusal(client.get(key.as_str(), at(revisions[0])).await), compacted);
    assert_eq!(refusal(client.compact(revisions[1], None).await), compacted);
    let future = refusal(client.compact(revisions[2] + 1_000_000, None).await);
    assert_eq!(future, (11, "etcdserver: mvcc: required revision is a future revision".into()));
}

#[tokio::test]
async fn status_members_and_hash() {
    let member = Member::start("status").await;
    let mut client = member.client().await;
    let written = client.put(member.key("k"), "v", None).await.unwrap();
    let status = client.status().await.unwrap();
    // Clients parse it: digits and dots only.
    assert!(status.version().split('.').all(|part| part.parse::<u32>().is_ok()), "{}", status.version());
    assert_ne!(status.leader(), 0);
    assert!(status.raft_applied_index() > 0 && status.raft_index() >= status.raft_applied_index());
    assert!(status.raft_term() > 0 && status.db_size() > 0);
    assert!(status.errors().is_empty(), "{:?}", status.errors());

    let members = client.member_list().await.unwrap();
    let members = members.members();
    assert!(members.iter().any(|one| one.id() == status.leader()));
    assert!(members.iter().all(|one| !one.client_urls().is_empty() && !one.name().is_empty()));

    let revision = written.header().unwrap().revision();
    let (one, other) = (client.hash_kv(revision).await.unwrap(), client.hash_kv(revision).await.unwrap());
    assert_eq!(one.hash(), other.hash());
    client.put(member.key("k"), "w", None).await.unwrap();
    assert_ne!(client.hash_kv(0).await.unwrap().hash(), one.hash());
}

#[tokio::test]
async fn large_and_binary_values() {
    let member = Member::start("large").await;
    let (mut client, key) = (member.client().await, member.key("k"));
    for size in [0, 1, 8 << 10, 1 << 20] {
        let value: Vec<u8> = (0..size).map(|byte| (byte * 31 % 256) as u8).collect();
        client.put(key.as_str(), value.clone(), None).await.unwrap();
        let answer = client.get(key.as_str(), None).await.unwrap();
        assert!(answer.kvs()[0].value() == value, "{size} bytes came back as others");
    }
    let too_large = refusal(client.put(key.as_str(), vec![0; 1_600_000], None).await);
    assert_eq!(too_large, (3, "etcdserver: request is too large".into()));
    let binary = [key.as_bytes(), b"\x00\xff"].concat();
    client.put(binary.clone(), "x", None).await.unwrap();
    assert_eq!(client.get(binary, None).await.unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once() {
    let member = Member::start("many").await;
    let (client, prefix) = (member.client().await, member.key(""));
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (mut client, key) = (client.clone(), format!("{prefix}{task}"));
            tokio::spawn(async move {
                for number in 0..20 {
                    client.put(key.as_str(), number.to_string(), None).await.unwrap();
                    let seen = client.get(key.as_str(), None).await.unwrap();
                    assert_eq!(seen.kvs()[0].value(), number.to_string().as_bytes());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut client = member.client().await;
    let all = client.get(prefix.as_str(), Some(GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(all.count(), 16);
    assert!(all.kvs().iter().all(|kv| kv.version() == 20));
}
