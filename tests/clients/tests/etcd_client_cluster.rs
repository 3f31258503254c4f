//! The crate `etcd-client` against a cluster of three: the scenarios of its own test programs beside those of `etcd_client.rs`, and a leader
//! that is killed and comes back.

mod world;

use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmType, Client, ConnectOptions, Error, EventType, GetOptions, KvClientPrefix,
    LeaseGrantOptions, LeaseTimeToLiveOptions, LockOptions, Permission, ProclaimOptions, PutOptions,
    ResignOptions, RoleRevokePermissionOptions, UserAddOptions, WatchOptions, WatchStream,
};
use world::cluster::Cluster;

/// Time for one call, across an election.
const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(cluster: &Cluster, user: Option<(&str, &str)>) -> Result<Client, Error> {
    let options = ConnectOptions::new()
        .with_require_leader(true)
        .with_connect_timeout(Duration::from_secs(2))
        .with_timeout(Duration::from_secs(5))
        .with_keep_alive(Duration::from_secs(2), Duration::from_secs(2));
    let options = match user {
        Some((name, password)) => options.with_user(name, password).with_auto_token_refresh(true),
        None => options,
    };
    let endpoints: Vec<String> = cluster.endpoints().split(',').map(str::to_owned).collect();
    Client::connect(endpoints, Some(options)).await
}

fn refused<T: std::fmt::Debug>(text: &str, result: Result<T, Error>) {
    match result {
        Err(Error::GRpcStatus(status)) => assert!(status.message().contains(text), "{status:?}"),
        other => panic!("it was not refused with {text}: {other:?}"),
    }
}

/// Tries until it succeeds.
async fn soon<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) if Instant::now() > deadline => panic!("not in time: {what}: {error}"),
            // Nobody tells when.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_scenarios_and_a_leader_that_is_killed() {
    let mut cluster = Cluster::start("etcd-client");
    let client = connect(&cluster, None).await.unwrap();
    macro_rules! scenario {
        ($name:literal, $run:expr) => {
            let begin = Instant::now();
            $run.await;
            println!("etcd-client: {} {:.1} s", $name, begin.elapsed().as_secs_f64());
        };
    }
    scenario!("streams of pairs, namespaces", streams_and_namespaces(client.clone()));
    scenario!("watch", watch(client.clone()));
    scenario!("lease", lease(client.clone()));
    scenario!("lock", lock(client.clone()));
    scenario!("election", election(client.clone()));
    scenario!("roles and users", roles_and_users(client.clone()));
    scenario!("maintenance", maintenance(client.clone()));
    scenario!("members", members(&mut cluster, client.clone()));
    scenario!("endpoints", endpoints(&cluster, client.clone()));
    scenario!("leader killed", leader_killed(&mut cluster, client.clone()));
    scenario!("auth", auth(&cluster, client));
}

async fn streams_and_namespaces(mut client: Client) {
    for number in 0..50 {
        client.put(format!("stream/{number:02}"), vec![b'x'; 3_000], None).await.unwrap();
    }
    let options = GetOptions::new().with_prefix().with_limit(20);
    let mut stream = client.kv_client().get_stream("stream/", Some(options)).await.unwrap();
    let (mut keys, mut count) = (0, 0);
    while let Some(part) = stream.message().await.unwrap() {
        keys += part.kvs().len();
        count = part.count();
    }
    assert_eq!((keys, count), (20, 50));
    let mut inside = KvClientPrefix::new(client.kv_client(), "space/".into());
    inside.put("a", "1", None).await.unwrap();
    assert_eq!(inside.get("a", None).await.unwrap().kvs()[0].key(), b"a");
    assert_eq!(client.get("space/a", None).await.unwrap().kvs()[0].value(), b"1");
    assert_eq!(inside.delete("a", None).await.unwrap().deleted(), 1);
}

async fn begun(client: &mut Client, key: &str, options: Option<WatchOptions>) -> WatchStream {
    let mut stream = client.watch(key, options).await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    assert!(first.created() && !first.canceled());
    stream
}

async fn watch(mut client: Client) {
    let begin = client.put("watch/a", "0", None).await.unwrap().header().unwrap().revision();
    let options = WatchOptions::new().with_prefix().with_start_revision(begin).with_prev_key();
    let mut stream = begun(&mut client, "watch/", Some(options)).await;
    client.put("watch/a", "1", None).await.unwrap();
    client.delete("watch/a", None).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(stream.message().await.unwrap().unwrap().events().to_vec());
    }
    assert_eq!(events[1].prev_kv().unwrap().value(), b"0");
    assert_eq!(events[2].event_type(), EventType::Delete);
    stream.request_progress().await.unwrap();
    let progress = stream.message().await.unwrap().unwrap();
    assert!(progress.events().is_empty() && progress.header().unwrap().revision() >= begin + 2);
    stream.cancel(0).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().canceled());
}

async fn lease(mut client: Client) {
    let granted = client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(200))).await.unwrap();
    assert_eq!((granted.id(), granted.ttl()), (200, 60));
    refused(
        "lease already exists",
        client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(200))).await,
    );
    client.put("lease/a", "x", Some(PutOptions::new().with_lease(200))).await.unwrap();
    let (mut keeper, mut stream) = client.lease_keep_alive(200).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().ttl(), 60);
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let left = client.lease_time_to_live(200, Some(options)).await.unwrap();
    assert_eq!((left.granted_ttl(), left.keys()), (60, &[b"lease/a".to_vec()][..]));
    assert!(client.leases().await.unwrap().leases().iter().any(|lease| lease.id() == 200));
    client.lease_revoke(200).await.unwrap();
    assert!(client.lease_keep_alive(200).await.is_err());
    refused("requested lease not found", client.lease_revoke(200).await);
    assert_eq!(client.get("lease/a", None).await.unwrap().count(), 0);
    assert_eq!(client.lease_time_to_live(200, None).await.unwrap().ttl(), -1);
}

async fn lock(mut client: Client) {
    let held = client.lock("lock", None).await.unwrap();
    assert!(held.key().starts_with(b"lock/"));
    let lease = client.lease_grant(30, None).await.unwrap().id();
    let mut other = client.clone();
    let waiting =
        tokio::spawn(async move { other.lock("lock", Some(LockOptions::new().with_lease(lease))).await });
    client.unlock(held.key()).await.unwrap();
    let next = waiting.await.unwrap().unwrap();
    assert_ne!(next.key(), held.key());
    // A lease that ends lets go.
    client.lease_revoke(lease).await.unwrap();
    let last = client.lock("lock", None).await.unwrap();
    client.unlock(last.key()).await.unwrap();
}

async fn election(mut client: Client) {
    refused("election: no leader", client.leader("election").await);
    let lease = client.lease_grant(30, None).await.unwrap().id();
    let campaign = client.campaign("election", "one", lease).await.unwrap();
    let leader = campaign.leader().unwrap().clone();
    assert_eq!((leader.name(), leader.lease()), (&b"election"[..], lease));
    let mut observed = client.observe("election").await.unwrap();
    assert_eq!(observed.message().await.unwrap().unwrap().kv().unwrap().value(), b"one");
    let options = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("one, still", Some(options)).await.unwrap();
    assert_eq!(observed.message().await.unwrap().unwrap().kv().unwrap().value(), b"one, still");
    let found = client.leader("election").await.unwrap();
    assert_eq!(found.kv().unwrap().key(), leader.key());
    client.resign(Some(ResignOptions::new().with_leader(leader))).await.unwrap();
    refused("election: no leader", client.leader("election").await);
    client.lease_revoke(lease).await.unwrap();
}

async fn roles_and_users(mut client: Client) {
    client.role_add("reader").await.unwrap();
    refused("role name already exists", client.role_add("reader").await);
    let granted = [
        Permission::read("123"),
        Permission::write("abc").with_from_key(),
        Permission::read_write("hi").with_range_end("hjj"),
        Permission::write("pp").with_prefix(),
    ];
    for permission in granted.clone() {
        client.role_grant_permission("reader", permission).await.unwrap();
    }
    let found = client.role_get("reader").await.unwrap().permissions();
    assert!(granted.iter().all(|permission| found.contains(permission)), "{found:?}");
    client.role_revoke_permission("reader", "123", None).await.unwrap();
    let options = RoleRevokePermissionOptions::new().with_from_key();
    client.role_revoke_permission("reader", "abc", Some(options)).await.unwrap();
    assert_eq!(client.role_get("reader").await.unwrap().permissions().len(), 2);
    client.user_add("alice", "wonder", None).await.unwrap();
    client.user_add("carol", "", Some(UserAddOptions::new().with_no_pwd())).await.unwrap();
    client.user_grant_role("alice", "reader").await.unwrap();
    assert_eq!(client.user_get("alice").await.unwrap().roles(), ["reader"]);
    client.user_change_password("alice", "land").await.unwrap();
    assert_eq!(client.user_list().await.unwrap().users(), ["alice", "carol"]);
    client.user_revoke_role("alice", "reader").await.unwrap();
    refused("role is not granted to the user", client.user_revoke_role("alice", "reader").await);
    for user in ["alice", "carol"] {
        client.user_delete(user).await.unwrap();
    }
    refused("user name not found", client.user_get("alice").await);
    client.role_delete("reader").await.unwrap();
    refused("role name not found", client.role_get("reader").await);
}

async fn maintenance(mut client: Client) {
    client.alarm(AlarmAction::Deactivate, AlarmType::None, None).await.unwrap();
    assert!(client.alarm(AlarmAction::Get, AlarmType::Nospace, None).await.unwrap().alarms().is_empty());
    assert!(client.status().await.unwrap().db_size() > 0);
    assert!(client.defragment().await.unwrap().header().is_none());
    assert_ne!(client.hash().await.unwrap().hash(), 0);
    let hash = client.hash_kv(0).await.unwrap();
    assert_ne!((hash.hash(), hash.compact_version()), (0, 0));
    let mut snapshot = client.snapshot().await.unwrap();
    let mut bytes = 0;
    while let Some(piece) = snapshot.message().await.unwrap() {
        bytes += piece.blob().len();
    }
    assert!(bytes > 0);
}

async fn members(cluster: &mut Cluster, mut client: Client) {
    use etcd_client::MemberAddOptions;
    let url = cluster.another().peer_url();
    let options = MemberAddOptions::new().with_is_learner();
    let added = client.member_add([url], Some(options)).await.unwrap().member().unwrap().id();
    cluster.start_added();
    soon("the learner is promoted", async || client.member_promote(added).await).await;
    let all = client.member_list().await.unwrap();
    assert!(all.members().iter().any(|member| member.id() == added && !member.is_learner()));
    let leader = client.status().await.unwrap().leader();
    let other = all.members().iter().map(etcd_client::Member::id).find(|id| *id != leader && *id != added);
    // Only the leader moves the lead; which member answers is not for the client to say.
    let moved = soon("the lead is moved", async || client.move_leader(other.unwrap()).await);
    assert!(moved.await.header().is_some());
    soon("it is removed", async || client.member_remove(added).await).await;
    assert_eq!(client.member_list().await.unwrap().members().len(), 3);
    cluster.forget_last();
}

async fn endpoints(cluster: &Cluster, mut client: Client) {
    let one = cluster.members()[0].endpoint();
    client.put("endpoint", "x", None).await.unwrap();
    client.remove_endpoint(&one).await.unwrap();
    assert_eq!(client.get("endpoint", None).await.unwrap().count(), 1);
    client.add_endpoint(&one).await.unwrap();
    assert_eq!(client.get("endpoint", None).await.unwrap().count(), 1);
}

async fn leader_killed(cluster: &mut Cluster, mut client: Client) {
    let lease = client.lease_grant(10, None).await.unwrap().id();
    client.put("killed/lease", "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    let lock = client.lock("killed/lock", Some(LockOptions::new().with_lease(lease))).await.unwrap();
    let begin = client.put("killed/n", "-1", None).await.unwrap().header().unwrap().revision();
    let mut last = -1;
    let mut write = async |client: &mut Client, count: i64| {
        for number in last + 1..=last + count {
            // A put of unknown outcome is put again: it is the same value.
            soon("a write", async || client.put("killed/n", number.to_string(), None).await).await;
            if number % 10 == 0 {
                soon("a keep-alive", async || {
                    let (mut keeper, mut stream) = client.lease_keep_alive(lease).await?;
                    keeper.keep_alive().await?;
                    stream.message().await
                })
                .await;
            }
        }
        last += count;
        last
    };
    write(&mut client, 50).await;
    tokio::task::block_in_place(|| cluster.kill_leader());
    write(&mut client, 50).await;
    let held = soon("the lock's key", async || client.get(lock.key(), None).await).await;
    assert_eq!(held.count(), 1, "the lock is still held");
    tokio::task::block_in_place(|| cluster.restart());
    let last = write(&mut client, 50).await;
    // It does not resume by itself: whoever watches begins again where it was.
    let (mut expected, mut revision) = (0, begin);
    while expected <= last {
        let options = WatchOptions::new().with_start_revision(revision + 1);
        let Ok(mut stream) = client.watch("killed/n", Some(options)).await else { continue };
        while let Ok(Some(answer)) = stream.message().await {
            for event in answer.events() {
                let kv = event.kv().unwrap();
                assert!(kv.mod_revision() > revision);
                revision = kv.mod_revision();
                let number: i64 = kv.value_str().unwrap().parse().unwrap();
                // The same value again is one whose first outcome was unknown.
                assert!(number == expected || number == expected - 1, "{number}, not {expected}");
                expected = number + 1;
            }
            if expected > last {
                break;
            }
        }
    }
    assert_eq!(client.get("killed/lease", None).await.unwrap().count(), 1);
    client.unlock(lock.key()).await.unwrap();
    client.lease_revoke(lease).await.unwrap();
}

async fn auth(cluster: &Cluster, mut client: Client) {
    client.role_add("root").await.unwrap();
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("alice", "wonder", None).await.unwrap();
    client.auth_enable().await.unwrap();
    refused("user name is empty", client.put("auth/a", "1", None).await);
    let mut root = connect(cluster, Some(("root", "secret"))).await.unwrap();
    root.put("auth/a", "1", None).await.unwrap();
    root.member_list().await.unwrap();
    let mut alice = connect(cluster, Some(("alice", "wonder"))).await.unwrap();
    refused("permission denied", alice.get("auth/a", None).await);
    refused("authentication failed", connect(cluster, Some(("root", "wrong"))).await.map(drop));
    root.auth_disable().await.unwrap();
    assert_eq!(client.get("auth/a", None).await.unwrap().count(), 1);
    for user in ["alice", "root"] {
        client.user_delete(user).await.unwrap();
    }
    client.role_delete("root").await.unwrap();
}
