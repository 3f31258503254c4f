//! Who may do what.

use prost_reflect::DescriptorPool;
use setstone::client::{Access, Client, Consistency, Put, Range};
use setstone::proto::{CLIENT_DESCRIPTORS, client as own, etcdserverpb as pb};

use super::world::*;

/// Methods that look at their keys, or at a user or role, themselves; tested one by one.
const OWN: [&str; 12] = [
    "KV/Range",
    "KV/Put",
    "KV/DeleteRange",
    "KV/Txn",
    "Auth/UserGet",
    "Auth/RoleGet",
    "v3lockpb.Lock/Lock",
    "v3lockpb.Lock/Unlock",
    "v3electionpb.Election/Campaign",
    "v3electionpb.Election/Proclaim",
    "v3electionpb.Election/Leader",
    "v3electionpb.Election/Resign",
];
/// Methods that need nobody.
const FREE: [&str; 2] = ["Auth/Authenticate", "Auth/AuthStatus"];
/// Methods that need a user, of whom nothing more is asked.
const USER: [&str; 6] = [
    "Cluster/MemberList",
    "Lease/LeaseGrant",
    "Lease/LeaseLeases",
    "Lease/LeaseRevoke",
    "Lease/LeaseTimeToLive",
    "Maintenance/Status",
];

/// Every method that the server says it has; none can be forgotten here.
fn methods() -> Vec<String> {
    let pool = DescriptorPool::decode(CLIENT_DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for service in pool.services() {
        for method in
            service.methods().filter(|method| !method.is_client_streaming() && !method.is_server_streaming())
        {
            methods.push(format!("{}/{}", service.full_name(), method.name()));
        }
    }
    assert!(methods.len() > 30, "{methods:?}");
    methods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_asks_who_calls_and_what_is_roots_is_roots_alone() {
    let (node, _) = with_users(config(setstone::config::Tokens::Simple, setstone::limits::TOKEN_TTL)).await;
    let nobody = Calls::to(node.addresses().client).await;
    let forger = nobody.with_token("bad");
    let alice = nobody.user("alice").await;
    // An empty message of any method, and an answer of which nothing is looked at.
    let told = async |calls: &Calls, method: &str| {
        calls.ask::<_, pb::AuthStatusRequest>(method, pb::AuthStatusRequest {}).await
    };
    for method in methods() {
        let short = method.strip_prefix("etcdserverpb.").unwrap_or(&method);
        if OWN.contains(&short) {
            continue;
        }
        let (without, forged) = (told(&nobody, &method).await, told(&forger, &method).await);
        if FREE.contains(&short) {
            let is_free = |answer: &Result<_, tonic::Status>| {
                answer.as_ref().is_ok_and(|_: &pb::AuthStatusRequest| true)
                    || answer.as_ref().is_err_and(|status| status.message().contains("authentication failed"))
            };
            assert!(is_free(&without), "{method}: {without:?}");
            // A token is not looked at when one asks for another.
            assert_eq!(is_free(&forged), short == "Auth/Authenticate", "{method}: {forged:?}");
            continue;
        }
        assert_eq!(said(&without), Said::Nobody, "{method}");
        assert_eq!(said(&forged), Said::NoToken, "{method}");
        if USER.contains(&short) {
            let answer = told(&alice, &method).await;
            let refused = answer.err().map(|status| status.message().to_owned());
            let fine = matches!(refused.as_deref(), None | Some("etcdserver: requested lease not found"));
            assert!(fine, "{method}: {refused:?}");
        } else {
            assert_eq!(said(&told(&alice, &method).await), Said::Denied, "{method}");
        }
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_writes_need_permission_for_every_key() {
    use Said::{Denied, Fine};
    let (node, root) =
        with_users(config(setstone::config::Tokens::Simple, setstone::limits::TOKEN_TTL)).await;
    let nobody = Calls::to(node.addresses().client).await;
    let alice = nobody.user("alice").await;
    for (key, end, says) in [
        ("r", "", Fine),
        ("r", "s", Fine),
        ("rx", "rz", Fine),
        ("r", "s\0", Denied),
        ("r", "\0", Denied),
        ("q", "s", Denied),
        ("w", "", Denied),
        ("\0", "\0", Denied),
    ] {
        for serializable in [false, true] {
            assert_eq!(said(&alice.range(key, end, serializable).await), says, "{key} {end}");
            assert_eq!(said(&nobody.range(key, end, serializable).await), Said::Nobody);
            assert_eq!(said(&nobody.with_token("x.1").range(key, end, serializable).await), Said::NoToken);
        }
    }
    // Form comes first, as in etcd.
    assert_eq!(nobody.range("", "", false).await.unwrap_err().message(), "etcdserver: key is not provided");
    assert_eq!(said(&alice.put(put("w")).await), Fine);
    assert_eq!(said(&alice.put(put("r")).await), Denied);
    assert_eq!(said(&alice.put(pb::PutRequest { prev_kv: true, ..put("w") }).await), Denied);
    assert_eq!(said(&nobody.put(put("w")).await), Said::Nobody);
    let delete = |key: &str, end: &str, prev_kv| pb::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv,
    };
    for (request, says) in [
        (delete("w", "", false), Fine),
        (delete("w", "x", false), Fine),
        (delete("w", "", true), Denied),
        (delete("w", "y", false), Denied),
        (delete("w", "\0", false), Denied),
    ] {
        let answer =
            alice.ask::<_, pb::DeleteRangeResponse>("etcdserverpb.KV/DeleteRange", request.clone()).await;
        assert_eq!(said(&answer), says, "{request:?}");
    }
    // What was refused did nothing.
    let all = Range { key: "\0".into(), range_end: "\0".into(), ..Range::default() };
    assert_eq!(root.get(all, Consistency::Linearizable).await.unwrap().value.count, 0);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_need_permission_for_all_that_is_in_them() {
    use Said::{Denied, Fine};
    use pb::request_op::Request as Op;
    let (node, _) = with_users(config(setstone::config::Tokens::Simple, setstone::limits::TOKEN_TTL)).await;
    let nobody = Calls::to(node.addresses().client).await;
    let alice = nobody.user("alice").await;
    let compare = |key: &str, end: &str| pb::Compare {
        key: bytes(key),
        range_end: bytes(end),
        target_union: Some(pb::compare::TargetUnion::Version(0)),
        ..Default::default()
    };
    let read = |key: &str, end: &str| {
        Op::RequestRange(pb::RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() })
    };
    let write = |key: &str| Op::RequestPut(put(key));
    let txn = |compare: Vec<pb::Compare>, success: Vec<Op>, failure: Vec<Op>| {
        let ops = |ops: Vec<Op>| ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect();
        pb::TxnRequest { compare, success: ops(success), failure: ops(failure) }
    };
    for (request, says) in [
        // Some only read, and do not go through the log.
        (txn(vec![compare("r", "s")], vec![read("r", "s")], vec![]), Fine),
        (txn(vec![compare("w", "")], vec![read("r", "s")], vec![]), Denied),
        (txn(vec![compare("r", "t")], vec![read("r", "s")], vec![]), Denied),
        (txn(vec![compare("r", "\0")], vec![], vec![]), Denied),
        (txn(vec![], vec![read("r", "\0")], vec![]), Denied),
        (txn(vec![], vec![], vec![read("w", "")]), Denied),
        (txn(vec![], vec![write("w")], vec![]), Fine),
        (txn(vec![], vec![write("w")], vec![write("x")]), Denied),
        (txn(vec![compare("x", "")], vec![write("w")], vec![]), Denied),
        (txn(vec![], vec![Op::RequestTxn(txn(vec![], vec![write("w")], vec![]))], vec![]), Fine),
        (txn(vec![], vec![Op::RequestTxn(txn(vec![], vec![write("x")], vec![]))], vec![]), Denied),
        (txn(vec![], vec![Op::RequestTxn(txn(vec![compare("w", "x")], vec![], vec![]))], vec![]), Denied),
        (txn(vec![], vec![], vec![Op::RequestTxn(txn(vec![], vec![], vec![read("a", "z")]))]), Denied),
    ] {
        assert_eq!(said(&alice.txn(request.clone()).await), says, "{request:?}");
        assert_eq!(said(&nobody.txn(request).await), Said::Nobody);
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_need_permission_for_the_keys_that_hang_on_them() {
    use Said::{Denied, Fine};
    let (node, root) =
        with_users(config(setstone::config::Tokens::Simple, setstone::limits::TOKEN_TTL)).await;
    let nobody = Calls::to(node.addresses().client).await;
    let alice = nobody.user("alice").await;
    let grant = |id| pb::LeaseGrantRequest { id, ttl: 60 };
    let granted = |calls: &Calls, id| {
        let calls = calls.clone();
        async move { calls.ask::<_, pb::LeaseGrantResponse>("etcdserverpb.Lease/LeaseGrant", grant(id)).await }
    };
    assert_eq!(said(&granted(&alice, 7).await), Fine);
    assert_eq!(said(&granted(&nobody, 8).await), Said::Nobody);
    root.grant(8, 60).await.unwrap();
    for (key, lease) in [("w1", 7), ("other", 8)] {
        root.put(Put { key: bytes(key), lease, ..Put::default() }).await.unwrap();
    }
    assert_eq!(said(&alice.put(pb::PutRequest { lease: 7, ..put("w") }).await), Fine);
    assert_eq!(said(&alice.put(pb::PutRequest { lease: 8, ..put("w") }).await), Denied);

    let life = |calls: &Calls, id, keys| {
        let calls = calls.clone();
        let request = pb::LeaseTimeToLiveRequest { id, keys };
        async move {
            calls.ask::<_, pb::LeaseTimeToLiveResponse>("etcdserverpb.Lease/LeaseTimeToLive", request).await
        }
    };
    assert_eq!(said(&life(&alice, 8, false).await), Fine, "its time is no secret");
    assert_eq!(said(&life(&alice, 8, true).await), Denied);
    assert_eq!(said(&life(&alice, 7, true).await), Denied, "she may write its key, not read it");
    assert_eq!(said(&life(&nobody, 7, false).await), Said::Nobody);
    let leases = |calls: &Calls| {
        let calls = calls.clone();
        async move {
            calls
                .ask::<_, pb::LeaseLeasesResponse>(
                    "etcdserverpb.Lease/LeaseLeases",
                    pb::LeaseLeasesRequest {},
                )
                .await
        }
    };
    assert_eq!(said(&leases(&alice).await), Denied);
    assert_eq!(said(&leases(&nobody.user("root").await).await), Fine);

    for (calls, id, says) in [
        (&alice, 7, Fine),
        (&alice, 8, Denied),
        (&nobody, 7, Said::Nobody),
        (&nobody.with_token("x"), 7, Said::NoToken),
    ] {
        let mut client = pb::lease_client::LeaseClient::new(calls.channel());
        let asked = calls.request(tokio_stream::once(pb::LeaseKeepAliveRequest { id }));
        let mut answers = client.lease_keep_alive(asked).await.unwrap().into_inner();
        assert_eq!(said(&answers.message().await), says, "{id}");
    }
    let revoke = |calls: &Calls, id| {
        let calls = calls.clone();
        let request = pb::LeaseRevokeRequest { id };
        async move { calls.ask::<_, pb::LeaseRevokeResponse>("etcdserverpb.Lease/LeaseRevoke", request).await }
    };
    assert_eq!(said(&revoke(&alice, 8).await), Denied);
    assert_eq!(said(&revoke(&nobody, 7).await), Said::Nobody);
    assert_eq!(said(&revoke(&alice, 7).await), Fine);
    // What is left is not hers to know.
    assert_eq!(said(&leases(&alice).await), Denied);
    root.revoke(8).await.unwrap();
    assert_eq!(said(&leases(&alice).await), Fine);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_see_themselves_and_the_program_in_the_same_process_sees_everything() {
    let (node, root) =
        with_users(config(setstone::config::Tokens::Simple, setstone::limits::TOKEN_TTL)).await;
    let alice = remote(node.addresses().client, Some(("alice", "alice")));
    assert_eq!(alice.user_get("alice").await.unwrap().value, ["r"]);
    assert_eq!(alice.role_get("r").await.unwrap().value.len(), 2);
    assert!(alice.user_get("root").await.unwrap_err().to_string().contains("permission denied"));
    assert!(alice.role_get("root").await.unwrap_err().to_string().contains("permission denied"));
    assert!(alice.user_list().await.unwrap_err().to_string().contains("permission denied"));
    assert_eq!(root.user_list().await.unwrap().value, ["alice", "root"]);
    assert_eq!(root.role_list().await.unwrap().value, ["r", "root"]);
    assert_eq!(root.role_get("root").await.unwrap().value, [permission(Access::ReadWrite, "", "\0")]);
    assert!(root.user_get("bob").await.unwrap_err().to_string().contains("user name not found"));
    assert!(alice.resize(3).await.unwrap_err().to_string().contains("permission denied"));
    assert!(alice.events().await.unwrap_err().to_string().contains("permission denied"));
    let here = node.client();
    here.put(Put { key: "anything".into(), ..Put::default() }).await.unwrap();
    let lease = here.grant(0, 60).await.unwrap().value.id;
    here.put(Put { key: "x".into(), lease, ..Put::default() }).await.unwrap();
    here.revoke(lease).await.unwrap();
    let found =
        here.get(Range { key: "anything".into(), ..Range::default() }, Consistency::Linearizable).await;
    assert_eq!(found.unwrap().value.count, 1);
    // A request of nobody in our own service.
    let nobody = Calls::to(node.addresses().client).await;
    let asked =
        nobody.ask::<_, own::EventsResponse>("setstone.v1.Members/Events", own::EventsRequest {}).await;
    assert_eq!(said(&asked), Said::Nobody);
    node.shutdown().await;
}
