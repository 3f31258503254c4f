//! The Rust client's locks, elections, transactions and pages: over the network, in this process, and beside etcd's own clients.

use std::time::Duration;

use futures::StreamExt as _;
use setstone::client::txn::{self, created, delete, exists, get, missing, put, value, version, when};
use setstone::client::{
    Client, Connection, Consistency, Endpoint, Kv, Leadership, Lock, Options, Outcome, Page, Range, Remote,
    prefix_end,
};
use setstone::testing::TestCluster;
use setstone::{Config, Node};
use tokio::time::{Instant, timeout};

use super::{PATIENCE, locks, queue, queued, request, soon, unlock};

const TTL: Duration = Duration::from_mins(1);

/// Holds, waits, passes on, gives up: the same with every kind of client.
async fn any_client(store: impl Client + Clone + 'static) {
    let first = Lock::acquire(store.clone(), "any", TTL).await.unwrap();
    assert_eq!(first.key(), &format!("any/{:x}", first.lease()));
    assert!(Lock::try_acquire(store.clone(), "any", TTL).await.unwrap().is_none());
    let given_up = Lock::acquire_unless(store.clone(), "any", TTL, tokio::task::yield_now()).await.unwrap();
    assert!(given_up.is_none());
    let mut second = tokio::spawn(Lock::acquire(store.clone(), "any", TTL));
    assert!(timeout(Duration::from_millis(200), &mut second).await.is_err(), "it is held");
    assert!(!first.is_lost());

    // Conditional on the lock.
    let guarded = |lock: &Lock, text: &str| when(lock.is_held()).then(put("guarded", text));
    assert!(guarded(&first, "1").run(&store).await.unwrap().value.succeeded);
    let (token, held) = (first.token(), first.is_held());
    first.unlock().await.unwrap();
    let second = soon(second).await.unwrap().unwrap();
    assert!(second.token() > token);
    assert!(!when(held).then(put("guarded", "late")).run(&store).await.unwrap().value.succeeded);
    assert!(guarded(&second, "2").run(&store).await.unwrap().value.succeeded);
    assert_eq!(Kv::get(&store, "guarded").await.unwrap().unwrap().value, "2");

    // Dropped, it is given back.
    let key = second.key().clone();
    drop(second);
    let third = soon(Lock::acquire(store.clone(), "any", TTL)).await.unwrap();
    assert!(Kv::get(&store, &key).await.unwrap().is_none());
    third.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_the_same_in_this_process_and_over_the_network() {
    let node = Node::start(Config::in_memory("here")).await.unwrap();
    any_client(node.client()).await;
    node.shutdown().await;
    let cluster = TestCluster::start(3).await.unwrap();
    any_client(cluster.client()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_outlives_the_members_that_it_was_asked_of() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let held = Lock::acquire(client.clone(), "alive", TTL).await.unwrap();
    let mut waits = tokio::spawn(Lock::acquire(client.clone(), "alive", TTL));
    queued(&client, "alive", 2).await;
    for member in 0..3 {
        cluster.stop(member).await;
        assert!(!held.is_lost() && !waits.is_finished(), "after member {member} stopped");
        cluster.start_again(member).await.unwrap();
    }
    held.unlock().await.unwrap();
    soon(&mut waits).await.unwrap().unwrap().unlock().await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_lost_says_so() {
    let cluster = TestCluster::start(1).await.unwrap();
    let client = cluster.client();
    // Its lease is ended by somebody.
    let held = Lock::acquire(client.clone(), "lost", TTL).await.unwrap();
    assert!(timeout(Duration::from_millis(100), held.lost()).await.is_err());
    client.revoke(held.lease()).await.unwrap();
    soon(held.lost()).await;
    assert!(held.is_lost());
    held.unlock().await.expect_err("there is nothing to give back");
    // Its key is deleted by somebody.
    let held = Lock::acquire(client.clone(), "lost", TTL).await.unwrap();
    Kv::delete(&client, held.key()).await.unwrap();
    soon(held.lost()).await;
    drop(held);
    // One that waits hears of it, too.
    let held = Lock::acquire(client.clone(), "lost", TTL).await.unwrap();
    let waits = tokio::spawn(Lock::acquire(client.clone(), "lost", TTL));
    let order = queued(&client, "lost", 2).await;
    Kv::delete(&client, &order[1]).await.unwrap();
    let error = soon(waits).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("lease not found"), "{error}");
    drop(held);
    cluster.shutdown().await;
}

/// The cluster is gone for longer than the lease lives: the holder knows it in time, without a word from anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_gives_up_before_the_cluster_does() {
    let mut cluster = TestCluster::start(1).await.unwrap();
    let held = Lock::acquire(cluster.client(), "cut", Duration::from_secs(2)).await.unwrap();
    cluster.stop(0).await;
    let cut = Instant::now();
    soon(held.lost()).await;
    assert!(cut.elapsed() <= Duration::from_secs(4), "{:?}", cut.elapsed());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_the_lock_service_stand_in_one_queue() {
    let cluster = TestCluster::start(3).await.unwrap();
    let client = cluster.client();
    let held = Lock::acquire(client.clone(), "mixed", TTL).await.unwrap();
    let lease = super::lease(&client, 60).await;
    let service = super::ask(locks(&cluster, 1).await, "mixed", lease);
    queued(&client, "mixed", 2).await;
    let mut last = tokio::spawn(Lock::acquire(client.clone(), "mixed", TTL));
    queued(&client, "mixed", 3).await;
    held.unlock().await.unwrap();
    let key = soon(service).await.unwrap().unwrap();
    assert!(!last.is_finished());
    unlock(&mut locks(&cluster, 2).await, &key).await;
    let last = soon(&mut last).await.unwrap().unwrap();
    assert_eq!(queue(&client, "mixed").await, [last.key().clone()]);

    // The members' service, from the client.
    let address = cluster.node(0).unwrap().addresses().client.to_string();
    let connection = Connection::new(Endpoint::list(&address).unwrap()[0].clone(), &Options::default());
    let error = connection.lock(b"mixed", lease, Duration::from_millis(300)).await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    queued(&client, "mixed", 1).await;
    last.unlock().await.unwrap();
    let key = connection.lock(b"mixed", lease, PATIENCE).await.unwrap().value;
    assert_eq!(queue(&client, "mixed").await, std::slice::from_ref(&key));
    connection.unlock(key).await.unwrap();
    assert_eq!(
        locks(&cluster, 0).await.lock(request("mixed", lease)).await.unwrap().into_inner().key,
        queue(&client, "mixed").await[0]
    );
    cluster.shutdown().await;
}

/// With every kind of client.
async fn elect(store: impl Client + Clone + 'static) {
    assert_eq!(Leadership::leader(&store, "e").await.unwrap(), None);
    let mut observer = Leadership::observe(store.clone(), "e");
    let one = Leadership::campaign(store.clone(), "e", "a", TTL).await.unwrap();
    let seen = soon(observer.next()).await.unwrap().unwrap();
    assert_eq!((&seen.value[..], seen.create_revision, &seen.key), (&b"a"[..], one.token(), one.key()));
    let mut two = tokio::spawn(Leadership::campaign(store.clone(), "e", "b", TTL));
    one.proclaim("a2").await.unwrap();
    assert_eq!(soon(observer.next()).await.unwrap().unwrap().value, "a2");
    assert_eq!(Leadership::leader(&store, "e").await.unwrap().unwrap().value, "a2");
    assert!(!two.is_finished() && !one.is_lost());
    one.resign().await.unwrap();
    let two = soon(&mut two).await.unwrap().unwrap();
    assert_eq!(soon(observer.next()).await.unwrap().unwrap().value, "b");
    Kv::delete(&store, two.key()).await.unwrap();
    soon(two.lost()).await;
    two.proclaim("c").await.expect_err("it leads no more");
    let three = soon(Leadership::campaign(store.clone(), "e", "d", TTL)).await.unwrap();
    assert_eq!(soon(observer.next()).await.unwrap().unwrap().value, "d");
    let late = Leadership::observe(store.clone(), "e").next().await.unwrap().unwrap();
    assert_eq!(late.value, "d", "who comes late sees who leads");
    three.resign().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_are_the_same_in_this_process_and_over_the_network() {
    let node = Node::start(Config::in_memory("here")).await.unwrap();
    elect(node.client()).await;
    node.shutdown().await;
    let cluster = TestCluster::start(3).await.unwrap();
    elect(cluster.client()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_do_what_they_say() {
    let node = Node::start(Config::in_memory("txn")).await.unwrap();
    let store = node.client();
    let create = || when(missing("k")).then(put("k", "1")).otherwise(get("k"));
    assert!(create().run(&store).await.unwrap().value.succeeded);
    let again = create().run(&store).await.unwrap().value;
    let [Outcome::Range(found)] = &again.outcomes[..] else { panic!("{again:?}") };
    assert!(!again.succeeded && found.kvs[0].value == "1");
    let nested = when(value("k").is_not("2"))
        .and(exists("k"))
        .then(when(version("k").above(5)).otherwise(put("k", "2")))
        .then(txn::always().then(put("n", "x")).then(get("n")));
    let done = nested.run(&store).await.unwrap().value;
    let [Outcome::Txn(inner), Outcome::Txn(other)] = &done.outcomes[..] else { panic!("{done:?}") };
    assert!(done.succeeded && !inner.succeeded && other.outcomes.len() == 2);
    assert_eq!(Kv::get(&store, "k").await.unwrap().unwrap().value, "2");
    let created_at = Kv::get(&store, "k").await.unwrap().unwrap().create_revision;
    let all = when(created("k").of_prefix().is(created_at)).then(delete("k"));
    assert!(all.run(&store).await.unwrap().value.succeeded);
    assert!(Kv::get(&store, "k").await.unwrap().is_none());
    node.shutdown().await;
}

fn range(prefix: &str) -> Range {
    Range { key: prefix.to_owned().into(), range_end: prefix_end(prefix.as_bytes()), ..Range::default() }
}

async fn all_pages(store: &impl Client, range: Range) -> Vec<Page> {
    let mut pages = store.pages(range);
    let mut all = Vec::new();
    while let Some(page) = soon(pages.next()).await {
        all.push(page.unwrap());
    }
    all
}

/// Pages are the range, with every kind of client.
async fn read_pages(store: &impl Client, writes: &impl Client) {
    for hundred in 0..20 {
        let write = (0..100)
            .fold(txn::always(), |write, number| write.then(put(format!("p/{hundred:02}{number:02}"), "v")));
        write.run(writes).await.unwrap();
    }
    Kv::put(writes, "q", "no part of it").await.unwrap();
    let whole = |range: Range| async { Client::get(store, range, Consistency::Linearizable).await.unwrap() };
    for asked in [
        range("p/"),
        Range { limit: 1, ..range("p/") },
        Range { limit: 777, ..range("p/") },
        Range { keys_only: true, ..range("p/") },
        Range { key: "p/0001".into(), ..Range::default() },
        Range { key: "\0".into(), range_end: "\0".into(), ..Range::default() },
        range("nothing/"),
    ] {
        let pages = all_pages(store, asked.clone()).await;
        let answer = whole(asked.clone()).await;
        assert!(pages.iter().all(|page| page.revision == answer.header.revision && !page.kvs.is_empty()));
        let kvs: Vec<_> = pages.into_iter().flat_map(|page| page.kvs).collect();
        assert_eq!(kvs, answer.value.kvs, "{asked:?}");
    }
    // All of one revision, while it changes.
    let revision = whole(range("p/")).await.header.revision;
    let mut pages = store.pages(range("p/"));
    let first = soon(pages.next()).await.unwrap().unwrap();
    assert_eq!(first.revision, revision);
    Kv::put(writes, "p/1999", "new").await.unwrap();
    Kv::put(writes, "p/new", "new").await.unwrap();
    let rest: Vec<_> =
        soon(pages.pairs().collect::<Vec<_>>()).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(first.kvs.len() + rest.len(), 2_000);
    assert!(rest.iter().all(|kv| kv.value == "v"));
    // As it was then.
    let then: usize =
        all_pages(store, Range { revision, ..range("p/") }).await.iter().map(|page| page.kvs.len()).sum();
    assert_eq!(then, 2_000);
    let future = Range { revision: revision + 1_000, ..range("p/") };
    assert!(soon(store.pages(future).next()).await.unwrap().is_err());
    assert!(soon(store.pages(Range { count_only: true, ..range("p/") }).next()).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_the_same_in_this_process_and_over_the_network() {
    let node = Node::start(Config::in_memory("pages")).await.unwrap();
    read_pages(&node.client(), &node.client()).await;
    node.shutdown().await;
    let mut cluster = TestCluster::start(3).await.unwrap();
    read_pages(&cluster.client(), &cluster.client()).await;
    // A member that goes away in the middle is replaced by another, which goes on behind the last page.
    let big = bytes::Bytes::from(vec![b'b'; 256 << 10]);
    for number in 0..60 {
        Kv::put(&cluster.client(), format!("big/{number:02}"), &big).await.unwrap();
    }
    let addresses: Vec<_> =
        [1, 2].iter().map(|index| cluster.node(*index).unwrap().addresses().client.to_string()).collect();
    let client = Remote::new(&addresses.join(","), &Options::default()).unwrap();
    let mut pages = client.pages(range("big/"));
    let mut found = soon(pages.next()).await.unwrap().unwrap().kvs;
    cluster.stop(1).await;
    cluster.start_again(1).await.unwrap();
    cluster.stop(2).await;
    while let Some(page) = soon(pages.next()).await {
        found.extend(page.unwrap().kvs);
    }
    let keys: Vec<_> = found.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!(keys, (0..60).map(|number| format!("big/{number:02}")).collect::<Vec<_>>());
    cluster.shutdown().await;
}

mod examples {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_examples_run() {
        assert_eq!(super::super::lock_example::run().await.unwrap(), "second");
        let seen = super::super::election_example::run().await.unwrap();
        assert_eq!(seen, ["10.0.0.1", "10.0.0.1, draining", "10.0.0.2"]);
        assert_eq!(super::super::pages_example::run().await.unwrap(), (7, 1_000));
    }
}
