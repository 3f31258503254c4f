//! Catching up by snapshot, transfers that break off, snapshots that must not be taken, restarts in between.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::harness::*;
use crate::config::Tuning;
use crate::env::files::Files;
use crate::env::simulated_files::SimulatedFiles;
use crate::env::tasks::Threads;
use crate::identity::{ClusterId, NodeId};
use crate::limits;
use crate::mvcc::command::{Command, Compact, Request};
use crate::proto::peer;
use crate::raft::Consensus;
use crate::raft::codec;
use crate::raft::store::Store;
use crate::raft::types::{self, Entry, EntryPayload, StoredMembership};
use crate::storage::snapshot::SnapshotHeader;
use crate::storage::{self, LogId, Snapshots};

pub(super) fn small_logs() -> Setup {
    let tuning = Tuning {
        log_bytes_before_snapshot: 64 << 10,
        log_entries_kept: 5,
        log_segment_bytes: 16 << 10,
        ..Setup::default().tuning
    };
    Setup { tuning, ..Setup::default() }
}

/// Writes more than the log keeps.
pub(super) async fn outgrow(cluster: &Cluster, from: usize, bytes: usize) {
    let value = "x".repeat(4_000);
    for number in 0..bytes / 4_000 {
        cluster.members[from].consensus.propose(put(&format!("key-{number}"), &value)).await.unwrap();
    }
    let consensus = &cluster.members[from].consensus;
    wait_for("the log to be cut", || consensus.log().purged().filter(|purged| purged.index > 20)).await;
}

fn compact_all(consensus: &Consensus) -> Request {
    let revision = consensus.position().revision;
    Request::anonymous(Command::Compact(Compact { revision, physical: false }))
}

/// Waits until a member has counted a snapshot, which it does some time after its state is the snapshot's.
async fn received(member: &Member) {
    wait_for("the snapshot", || (member.metrics.snapshots_received.get() >= 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lags_catches_up_by_snapshot() {
    let cluster = Cluster::with(3, small_logs()).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.isolate(away, true);
    outgrow(&cluster, leader, 600_000).await;
    cluster.isolate(away, false);
    cluster.converge().await;
    received(&cluster.members[away]).await;
    // The events of a member that goes on as usual.
    cluster.members[away].consensus.propose(put("k", "v")).await.unwrap();
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let mut cluster = Cluster::with(3, small_logs()).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.isolate(away, true);
    let value = "x".repeat(100_000);
    for number in 0..40 {
        cluster.members[leader].consensus.propose(put(&format!("big-{number}"), &value)).await.unwrap();
    }
    outgrow(&cluster, leader, 300_000).await;
    // No connection carries the whole snapshot; each resumes, or it would never be there.
    cluster.net.snapshot_bytes.store(1_500_000, Ordering::Relaxed);
    cluster.isolate(away, false);
    cluster.converge().await;
    let connections = cluster.net.snapshot_connections.load(Ordering::Relaxed);
    assert!(connections >= 3, "{connections} connections carried more than they may");
    received(&cluster.members[away]).await;
    cluster.members[away].stop().await;
    cluster.members[away].files.kill();
    cluster.members[away].restart().await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_behind_a_snapshot_is_bounded_in_bytes_and_goes_where_room_is_scarce() {
    let tuning = Tuning { log_entries_kept: 1_000, ..small_logs().tuning };
    let cluster = Cluster::with(3, Setup { tuning, ..Setup::default() }).await;
    let leader = cluster.leader().await;
    let consensus = &cluster.members[leader].consensus;
    let value = "x".repeat(4_000);
    // The same key: the snapshots are small.
    for _ in 0..100 {
        consensus.propose(put("key", &value)).await.unwrap();
        consensus.propose(compact_all(consensus)).await.unwrap();
    }
    let kept = || {
        let snapshot = consensus.snapshots().newest_index()?;
        Some((snapshot, consensus.log().bytes() - consensus.log().bytes_from(snapshot + 1)))
    };
    let snapshot = wait_for("the log to be cut", || {
        consensus.log().purged()?;
        kept().filter(|(_, kept)| *kept <= 64 << 10).map(|(snapshot, _)| snapshot)
    })
    .await;
    let made = cluster.members[leader].metrics.snapshots_made.get();
    assert!(kept().is_some_and(|(_, kept)| kept > 32 << 10), "{:?}: it is for those who lag", kept());
    assert!(made < 20, "400 kB in pieces of 64 KiB took {made} snapshots");
    let before = consensus.log().bytes();
    consensus.cut_all_of_log().await;
    wait_for("the log to be cut", || consensus.log().purged().filter(|purged| purged.index >= snapshot))
        .await;
    wait_for("its files to go", || (consensus.log().bytes() < before).then_some(())).await;
    // Again: there is nothing to be cut.
    consensus.cut_all_of_log().await;
    consensus.propose(put("k", "v")).await.unwrap();
    cluster.converge().await;
    cluster.stop().await;
}

/// Sends bytes as a snapshot, as a leader with everything in order does.
async fn send(target: &Member, from: NodeId, bytes: &[u8], term: u64) -> Result<(), tonic::Status> {
    let envelope =
        peer::Envelope { cluster_id: CLUSTER.0, to: target.id.0, from: from.0, boot: 1, boot_random: 1 };
    let head = peer::SnapshotHead {
        envelope: Some(envelope),
        vote: Some(peer::Vote { term, node_id: from.0, committed: true }),
        snapshot_id: format!("test-{}", bytes.len()),
        length: bytes.len() as u64,
        ..peer::SnapshotHead::default()
    };
    let chunks = [
        peer::SnapshotChunk { head: Some(head), ..peer::SnapshotChunk::default() },
        peer::SnapshotChunk {
            data: Bytes::copy_from_slice(bytes),
            last: true,
            ..peer::SnapshotChunk::default()
        },
    ];
    let mut client = target.client();
    client.install_snapshot(tokio_stream::iter(chunks)).await.map(|_| ())
}

/// A snapshot's bytes.
fn made(cluster: ClusterId, last: LogId) -> Vec<u8> {
    let files = Arc::new(SimulatedFiles::new(3));
    let snapshots = Snapshots::open(files, Path::new("/s"), Path::new("/i")).unwrap();
    let header = SnapshotHeader {
        cluster,
        last,
        revision: 1,
        membership: codec::encode_stored_membership(&StoredMembership::default()),
        membership_id: None,
    };
    let (file, verified) = snapshots.write(&header).unwrap().finish().unwrap();
    snapshots.raw(&file).unwrap().read(0, verified.length as usize).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_no_leader_can_have_sent_are_refused_and_leave_nothing() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.members[leader].consensus.propose(put("k", "v")).await.unwrap();
    let revision = cluster.converge().await;
    let (from, target) = (cluster.members[leader].id, &cluster.members[(leader + 1) % 3]);
    let term = target.consensus.position().term;
    let mut damaged = made(CLUSTER, LogId { term, index: 900 });
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for (what, bytes) in [
        ("another cluster's", made(ClusterId(8), LogId { term, index: 900 })),
        ("of a later term", made(CLUSTER, LogId { term: term + 1, index: 900 })),
        ("contradicting what is committed", made(CLUSTER, LogId { term: 0, index: 900 })),
        ("damaged", damaged),
    ] {
        let refused = send(target, from, &bytes, term).await.expect_err(what);
        let files: &dyn crate::env::Files = &target.files;
        assert!(files.list(&root().join("snapshots")).unwrap().is_empty(), "{what}: {refused}");
        assert!(files.list(&root().join("incoming")).unwrap().is_empty(), "{what}: {refused}");
    }
    assert_eq!(target.consensus.failure(), None);
    assert_eq!(cluster.converge().await, revision);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_makes_no_snapshot_and_stops_nobody() {
    let cluster = Cluster::with(1, small_logs()).await;
    let member = &cluster.members[0];
    member.consensus.propose(put("k", "v")).await.unwrap();
    // It would fit, but the log needs room as well.
    member.files.set_free(limits::SPARE_BYTES);
    member.consensus.raft().trigger().snapshot().await.unwrap();
    wait_for("the attempt", || member.consensus.snapshots().lacks_room().then_some(())).await;
    assert_eq!(member.consensus.snapshots().newest_index(), None);
    member.files.set_free(1 << 30);
    member.consensus.propose(put("k", "w")).await.unwrap();
    member.consensus.raft().trigger().snapshot().await.unwrap();
    wait_for("the snapshot", || member.consensus.snapshots().newest_index()).await;
    assert_eq!(member.consensus.failure(), None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_log_that_a_snapshot_contradicts_is_cut() {
    let files = SimulatedFiles::new(9);
    let env = env(files.clone(), Arc::new(Threads));
    let opened = open_disk(&env).unwrap();
    append_twelve(&opened.log).await;
    // Entry 8 of term 3 is committed: those of term 2 from some place on never were.
    write_snapshot(&env, CLUSTER, LogId { term: 3, index: 8 });
    opened.log.close().await;
    files.kill();
    let opened = open_disk(&env).unwrap();
    let applied = opened.machine.applied().unwrap();
    assert_eq!(types::stored_log_id(&applied), LogId { term: 3, index: 8 });
    assert_eq!(opened.log.last(), Some(LogId { term: 3, index: 8 }));
    opened.log.close().await;
    files.kill();
    // And again, from disk.
    let opened = open_disk(&env).unwrap();
    assert_eq!(opened.log.last(), Some(LogId { term: 3, index: 8 }));
    opened.log.close().await;
}

/// Entries 0 to 11 of term 2.
async fn append_twelve(log: &storage::Log) {
    let blank = codec::encode_payload(&EntryPayload::Blank);
    let entries: Vec<_> = (0..12)
        .map(|index| storage::Entry { id: LogId { term: 2, index }, payload: blank.clone() })
        .collect();
    let (done, durable) = tokio::sync::oneshot::channel();
    log.append(entries, Box::new(|result| drop(done.send(result))));
    durable.await.unwrap().unwrap();
}

/// What a damaged snapshot held, this member may have said to have: it is lost unless the log has it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_needless_if_the_log_has_all_of_it() {
    let path = |term, index| root().join("snapshots").join(format!("{term:016x}-{index:016x}.snapshot"));
    for (term, index, needless) in [(2, 8, true), (2, 11, true), (2, 12, false), (3, 8, false)] {
        let files = SimulatedFiles::new(12);
        let env = env(files.clone(), Arc::new(Threads));
        let opened = open_disk(&env).unwrap();
        append_twelve(&opened.log).await;
        write_snapshot(&env, CLUSTER, LogId { term: 2, index: 5 });
        write_snapshot(&env, CLUSTER, LogId { term, index });
        opened.log.close().await;
        files.kill();
        files.corrupt(&path(term, index), 20).unwrap();
        for _ in 0..2 {
            match open_disk(&env) {
                Ok(opened) => {
                    assert!(needless, "{term} {index}");
                    let applied = opened.machine.applied().map(|id| types::stored_log_id(&id));
                    assert_eq!(applied, Some(LogId { term: 2, index: 5 }), "the older one is loaded");
                    assert_eq!(opened.log.last(), Some(LogId { term: 2, index: 11 }));
                    opened.log.close().await;
                }
                Err(crate::raft::OpenError::Lost(error)) => {
                    assert!(!needless && error.contains("damaged"), "{term} {index}: {error}");
                }
                Err(error) => panic!("{term} {index}: {error:?}"),
            }
            files.kill();
            // Consensus would bring the state up to it.
            assert_eq!(files.exists(&path(term, index)).unwrap(), !needless, "{term} {index}");
            assert!(files.exists(&path(2, 5)).unwrap());
        }
    }
}

/// A snapshot of a state in which only this entry was applied, among a member's own.
fn write_snapshot(env: &crate::env::Env, cluster: ClusterId, last: LogId) {
    let snapshots =
        Snapshots::open(env.files.clone(), &root().join("snapshots"), &root().join("incoming")).unwrap();
    let machine = crate::raft::machine::Machine::load(Arc::new(storage::MemoryEngine::new())).unwrap();
    machine.apply(&Entry { log_id: types::log_id(last), payload: EntryPayload::Blank }).unwrap();
    let machine = Arc::new(machine);
    let pin = machine.pin();
    let header = SnapshotHeader {
        cluster,
        last,
        revision: pin.revision,
        membership: codec::encode_stored_membership(&pin.membership),
        membership_id: None,
    };
    let mut writer = snapshots.write(&header).unwrap();
    pin.visit(&mut |key, value| writer.pair(key, value)).unwrap();
    writer.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_another_cluster_is_not_loaded() {
    let files = SimulatedFiles::new(10);
    let env = env(files.clone(), Arc::new(Threads));
    let opened = open_disk(&env).unwrap();
    write_snapshot(&env, ClusterId(8), LogId { term: 3, index: 8 });
    opened.log.close().await;
    files.kill();
    let opened = open_disk(&env).unwrap();
    assert_eq!(opened.machine.applied(), None);
    opened.log.close().await;
}

/// As when the volume has no room for the engine's files: the snapshot is sound, so nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_be_written_now_is_no_loss() {
    let files = SimulatedFiles::new(11);
    let env = env(files.clone(), Arc::new(Threads));
    let opened = open_disk(&env).unwrap();
    write_snapshot(&env, CLUSTER, LogId { term: 3, index: 8 });
    let snapshots =
        Snapshots::open(env.files.clone(), &root().join("snapshots"), &root().join("incoming")).unwrap();
    let engine = Arc::new(storage::MemoryEngine::new());
    let machine = crate::raft::machine::Machine::load(engine.clone()).unwrap();
    storage::Engine::close(&*engine).unwrap();
    let refused = crate::raft::open::rebuild(&machine, &snapshots, &CLUSTER.into(), &opened.log);
    assert!(matches!(refused, Err(crate::raft::OpenError::Refused(_))), "{refused:?}");
    opened.log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_answers_while_its_state_is_replaced() {
    use crate::raft::machine::Machine;
    let machine = Arc::new(Machine::load(Arc::new(storage::MemoryEngine::new())).unwrap());
    let (started, begun) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let installing = machine.clone();
    let install = tokio::task::spawn_blocking(move || {
        installing.install(&mut std::iter::from_fn(|| {
            started.send(()).unwrap();
            gone.recv().unwrap();
            None
        }))
    });
    begun.recv_timeout(Duration::from_secs(5)).unwrap();
    // Not blocked by the installation, and not answered from half a state.
    assert_eq!(machine.with_state(crate::mvcc::State::revision), 1);
    assert!(machine.range(&get("k")).await.is_err());
    assert!(!machine.compaction_step().unwrap());
    go.send(()).unwrap();
    install.await.unwrap().unwrap();
    assert!(machine.range(&get("k")).await.is_ok());
}

/// Damage to sled's files can take a part of a batch, and leave items that are all sound.
#[test]
fn a_part_of_a_state_is_not_believed() {
    use crate::raft::machine::{Machine, MachineError};
    use crate::storage::{Batch, Engine, MemoryEngine};
    let engine = Arc::new(MemoryEngine::new());
    let machine = Machine::load(engine.clone()).unwrap();
    let mut states = Vec::new();
    for index in 1..=3 {
        let request = codec::encode_request(put(&format!("key-{index}"), "value"));
        let payload = EntryPayload::Normal(codec::encode_batch(&[request]));
        machine.apply(&Entry { log_id: types::log_id(LogId { term: 1, index }), payload }).unwrap();
        states.push(engine.fork());
    }
    let load = |batch| {
        let fork = engine.fork();
        fork.commit(batch).unwrap();
        Machine::load(Arc::new(fork)).map(|machine| machine.applied())
    };
    let applied = Bytes::from_static(b"ra");
    let (newest, _) = engine.floor(std::ops::Bound::Excluded(b"i")).unwrap().unwrap();
    assert_eq!(load(Batch::default()).unwrap(), machine.applied());
    let torn = |batch| matches!(load(batch), Err(MachineError::Torn));
    assert!(torn(Batch { deletes: vec![newest.clone()], ..Batch::default() }), "the newest record is gone");
    assert!(torn(Batch { deletes: vec![applied.clone()], ..Batch::default() }), "the applied id is gone");
    let older = states[1].get(&applied).unwrap().unwrap();
    assert!(torn(Batch { puts: vec![(applied.clone(), older.clone())], ..Batch::default() }), "it is older");
    let both = Batch { puts: vec![(applied, older)], deletes: vec![newest] };
    assert_eq!(load(both).unwrap().map(|id| id.index), Some(2), "the state one entry before");
}
