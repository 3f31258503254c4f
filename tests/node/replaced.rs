//! Volumes that are emptied, damaged or put back: the pod joins again as another disk, and the one before never comes back.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use setstone::client::{Client, Consistency, Kv, Range};
use setstone::identity::NodeId;
use setstone::testing::TestCluster;

use crate::disks::copy;
use crate::process::Looks;

/// A cluster with its volumes, and what was acknowledged.
struct World {
    root: tempfile::TempDir,
    cluster: TestCluster,
    written: Vec<String>,
}

impl World {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cluster = TestCluster::start_in(root.path(), 3).await.unwrap();
        let mut world = Self { root, cluster, written: Vec::new() };
        world.write(20).await;
        world
    }

    fn volume(&self, member: usize) -> std::path::PathBuf {
        self.root.path().join(format!("member-{member}"))
    }

    async fn write(&mut self, count: usize) {
        for _ in 0..count {
            let key = format!("key-{:04}", self.written.len());
            Kv::put(&self.cluster.client(), &key, "value").await.unwrap();
            self.written.push(key);
        }
    }

    /// Waits until each ordinal has one voter and nobody else is a member; the ids by ordinal.
    async fn settled(&self) -> Vec<NodeId> {
        let mut looks = Looks::within(Duration::from_secs(20));
        loop {
            let members = self.cluster.client().members().await.unwrap().value;
            let ids: Vec<_> = members.iter().map(|member| member.id).collect();
            let ordinals: BTreeSet<_> = ids.iter().map(|id| id.ordinal()).collect();
            if members.len() == 3 && ordinals.len() == 3 && members.iter().all(|member| !member.is_learner) {
                return ids;
            }
            looks.next(format!("one voter for each ordinal, and nobody else: {members:?}")).await;
        }
    }

    /// Every acknowledged write is on this member.
    async fn holds_everything(&self, member: usize) {
        let client = self.cluster.node(member).unwrap().client();
        let all = Range { key: "key-".into(), range_end: "key.".into(), ..Range::default() };
        let found = Client::get(&client, all, Consistency::Linearizable).await.unwrap().value;
        let found: Vec<_> =
            found.kvs.iter().map(|pair| String::from_utf8_lossy(&pair.key).into_owned()).collect();
        assert_eq!(found, self.written);
    }

    /// The quorum needs this member: another is away, and writes go on.
    async fn votes(&mut self, member: usize) {
        let away = (member + 1) % 3;
        self.cluster.stop(away).await;
        self.write(5).await;
        self.cluster.start_again(away).await.unwrap();
    }

    async fn leader(&self) -> usize {
        let status = self.cluster.client().status().await.unwrap().value;
        usize::from(status.leader.unwrap().ordinal())
    }
}

fn empty(volume: &Path) {
    if let Err(e) = std::fs::remove_dir_all(volume) {
        panic!(
            "{e} {:?}",
            crate::disks::tree(volume).into_iter().map(|(p, b)| (p, b.len())).collect::<Vec<_>>()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_volume_is_replaced_and_votes() {
    let mut world = World::new().await;
    let before = world.settled().await;
    // A follower's, then the leader's, then one that was replaced already.
    let leader = world.leader().await;
    let follower = (leader + 1) % 3;
    let mut newest = 1;
    for member in [follower, leader, follower] {
        world.cluster.stop(member).await;
        empty(&world.volume(member));
        world.write(5).await;
        world.cluster.start_again(member).await.unwrap();
        let ids = world.settled().await;
        assert!(ids[member].incarnation() > newest, "{ids:?} after {before:?}");
        newest = ids[member].incarnation();
        world.holds_everything(member).await;
        world.votes(member).await;
    }
    world.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_set_aside_and_the_pod_joins_as_another_disk() {
    let mut world = World::new().await;
    let member = 2;
    world.cluster.stop(member).await;
    let log = world.volume(member).join("log");
    let segment = std::fs::read_dir(&log).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    world.cluster.start_again(member).await.unwrap();
    let ids = world.settled().await;
    assert!(ids[member].incarnation() > 1, "{ids:?}");
    world.holds_everything(member).await;
    // What was set aside goes when its successor serves, and not before.
    let (volume, mut looks) = (world.volume(member), Looks::within(Duration::from_secs(20)));
    let is_aside = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().starts_with("retired-")
    };
    while std::fs::read_dir(&volume).unwrap().any(is_aside) {
        looks.next("what was set aside is removed").await;
    }
    world.votes(member).await;
    // The successor is a member like any other after a restart.
    world.cluster.stop(member).await;
    world.cluster.start_again(member).await.unwrap();
    assert_eq!(world.settled().await, ids);
    world.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_replaced_and_put_back_is_recognised() {
    let mut world = World::new().await;
    let member = 1;
    world.cluster.stop(member).await;
    let copied = world.root.path().join("copied");
    copy(&world.volume(member), &copied);
    empty(&world.volume(member));
    world.cluster.start_again(member).await.unwrap();
    let second = world.settled().await[member];
    world.write(5).await;
    world.cluster.stop(member).await;
    empty(&world.volume(member));
    copy(&copied, &world.volume(member));
    world.cluster.start_again(member).await.unwrap();
    let third = world.settled().await[member];
    assert!(third.incarnation() > second.incarnation(), "{third} after {second}");
    world.holds_everything(member).await;
    world.votes(member).await;
    world.cluster.shutdown().await;
}
