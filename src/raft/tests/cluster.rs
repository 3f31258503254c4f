//! A whole cluster: writes, reads, compaction, idleness, stopping, messages that are not for this member.

use std::time::Duration;

use tokio::time::Instant;

use super::harness::*;
use crate::env::simulated_files::SimulatedFiles;
use crate::error::Error;
use crate::limits;
use crate::mvcc::command::{Command, Compact, Request};
use crate::proto::peer;
use crate::raft::store::Store;

#[tokio::test(flavor = "multi_thread")]
async fn every_member_takes_writes_and_reads_what_was_written() {
    let cluster = Cluster::start(3).await;
    for (number, writer) in cluster.members.iter().enumerate() {
        let (reply, _) = writer.consensus.propose(put("k", &number.to_string())).await.unwrap();
        assert_eq!(reply.revision, number as i64 + 2);
        // Its own client may read here without a quorum.
        assert_eq!(value(writer, "k").await, Some(number.to_string()));
        for reader in &cluster.members {
            reader.consensus.barrier().await.unwrap();
            assert_eq!(value(reader, "k").await, Some(number.to_string()));
        }
    }
    assert_eq!(cluster.converge().await, 4);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_share_a_round() {
    let cluster = Cluster::start(3).await;
    cluster.members[0].consensus.propose(put("k", "v")).await.unwrap();
    let rounds = || -> u64 {
        let of = |member: &Member| member.consensus.read_rounds();
        cluster.members.iter().map(of).sum()
    };
    let before = rounds();
    let readers = (0..2_000).map(|reader| {
        let consensus = cluster.members[reader % 3].consensus.clone();
        async move { consensus.barrier().await }
    });
    for answer in futures::future::join_all(readers).await {
        answer.unwrap();
    }
    let spent = rounds() - before;
    assert!(spent < 200, "2000 readers took {spent} rounds");
    cluster.stop().await;
}

fn compact(revision: i64) -> Request {
    Request::anonymous(Command::Compact(Compact { revision, physical: true }))
}

#[tokio::test(flavor = "multi_thread")]
async fn physical_compaction_is_answered_when_the_disk_has_forgotten() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for number in 0..300 {
        cluster.members[leader].consensus.propose(put("k", &number.to_string())).await.unwrap();
    }
    // A snapshot that is being made needs what would go.
    let pin = cluster.members[leader].consensus.machine().pin();
    let consensus = cluster.members[leader].consensus.clone();
    let compaction = tokio::spawn(async move { consensus.propose(compact(200)).await });
    wait_for("the compaction to be applied", || {
        (cluster.members[leader].consensus.position().compacted == 200).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!compaction.is_finished(), "answered although a snapshot holds on to the past");
    drop(pin);
    compaction.await.unwrap().unwrap();
    let done = |member: usize| {
        cluster.members[member].consensus.machine().with_state(crate::mvcc::State::physically_compacted)
    };
    assert!(done(leader) >= 200);
    let follower = (leader + 1) % 3;
    cluster.members[follower].consensus.propose(compact(250)).await.unwrap();
    assert!(done(follower) >= 250);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_writes_nothing_after_its_marks() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let consensus = &cluster.members[leader].consensus;
    consensus.propose(put("k", "v")).await.unwrap();
    let marks = wait_for("marks of all members", || {
        let marks = consensus.marks();
        (marks.len() == 3).then_some(marks)
    })
    .await;
    for (id, mark) in marks {
        assert_eq!((mark.boot, mark.vote_node), (1, consensus.mine().node.0), "{id}");
        assert!(mark.log_index > 0 && mark.log_index <= consensus.position().last_index);
    }
    // Until the next marks are written, the leader tells what it knows.
    consensus.propose(put("k", "w")).await.unwrap();
    wait_for("the leader to know that all disks have its last entry", || {
        let last = consensus.position().last_index;
        let known = consensus.known_marks();
        known.values().all(|mark| mark.log_index == last).then_some(())
    })
    .await;
    let follower = &cluster.members[(leader + 1) % 3].consensus;
    assert_eq!(follower.known_marks().len(), 3);
    // The marks that a lagging answer left behind may be written once more; after that nothing is.
    let mut last = consensus.position().last_index;
    let mut quiet_since = Instant::now();
    let deadline = Instant::now() + PATIENCE;
    while quiet_since.elapsed() < Duration::from_millis(3_500) {
        assert!(Instant::now() < deadline, "an idle cluster goes on writing");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = consensus.position().last_index;
        if now != last {
            (last, quiet_since) = (now, Instant::now());
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_and_nothing_is_lost() {
    let cluster = Cluster::start(3).await;
    for number in 0..20 {
        cluster.members[number % 3].consensus.propose(put("k", &number.to_string())).await.unwrap();
    }
    let leader = cluster.leader().await;
    let started = Instant::now();
    assert!(cluster.members[leader].consensus.hand_over(started + limits::HANDOVER_TIMEOUT, |_| true).await);
    assert!(started.elapsed() < limits::HANDOVER_TIMEOUT);
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    let (reply, _) = cluster.members[leader].consensus.propose(put("k", "after")).await.unwrap();
    assert_eq!(reply.revision, 22);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_at_a_leader_that_hands_over_are_answered() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.members[(leader + 1) % 3].consensus.clone();
    let writers: Vec<_> = (0..200)
        .map(|number| {
            let follower = follower.clone();
            tokio::spawn(async move { follower.propose(put(&format!("k{number}"), "v")).await })
        })
        .collect();
    cluster.members[leader].consensus.hand_over(Instant::now() + limits::HANDOVER_TIMEOUT, |_| true).await;
    let mut done = 0;
    for writer in writers {
        match writer.await.unwrap() {
            Ok(_) => done += 1,
            Err(Error::OutcomeUnknown(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(done >= 190, "only {done} of 200 were answered");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_answers_what_waits_and_leaves_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    // Nothing can be committed any more, so what is proposed waits.
    cluster.isolate(leader, true);
    let consensus = cluster.members[leader].consensus.clone();
    let waiting: Vec<_> = (0..50)
        .map(|number| {
            let consensus = consensus.clone();
            tokio::spawn(async move {
                (consensus.propose(put(&number.to_string(), "v")).await, consensus.barrier().await)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    cluster.members[leader].stop().await;
    for answers in waiting {
        let (write, read) = answers.await.unwrap();
        assert!(write.is_err() && read.is_err(), "{write:?} {read:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(cluster.members[leader].lacks_tasks());
    assert_eq!(consensus.propose(put("late", "v")).await.unwrap_err(), Error::Stopped);
    // Its port is free.
    tokio::net::TcpListener::bind(cluster.members[leader].address).await.unwrap();
    cluster.members.remove(leader);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_for_a_leader_are_answered_at_shutdown() {
    let mut cluster = Cluster::start(3).await;
    let alone = (cluster.leader().await + 1) % 3;
    cluster.isolate(alone, true);
    // With an empty disk it has never heard of a leader.
    cluster.members[alone].stop().await;
    cluster.members[alone].files.replace(&SimulatedFiles::new(99));
    cluster.members[alone].restart().await;
    let consensus = cluster.members[alone].consensus.clone();
    assert_eq!(consensus.leader(), None);
    let mut read = std::pin::pin!(consensus.barrier());
    let mut write = std::pin::pin!(consensus.propose(put("k", "v")));
    assert!(futures::poll!(&mut read).is_pending() && futures::poll!(&mut write).is_pending());
    let started = Instant::now();
    cluster.members[alone].stop().await;
    for answer in [read.await.map(drop), write.await.map(drop)] {
        assert!(matches!(answer, Err(Error::Stopped | Error::Storage(_))), "{answer:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    cluster.members.remove(alone);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_others_and_impossible_ones_change_nothing() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let target = &cluster.members[(leader + 1) % 3];
    let (from, to) = (cluster.members[leader].id, target.id);
    let term = cluster.members[leader].consensus.position().term;
    wait_for("it knows the leader's term", || (target.consensus.position().term == term).then_some(())).await;
    let mut client = target.client();
    let good = peer::Envelope { cluster_id: CLUSTER.0, to: to.0, from: from.0, boot: 1, boot_random: 1 };
    let vote = |term, committed| Some(peer::Vote { term, node_id: from.0, committed });
    let append = |envelope, vote, entries| peer::AppendRequest {
        envelope,
        vote,
        prev: None,
        leader_commit: None,
        entries,
    };
    let higher = vote(term + 10, true);
    // Who is told by another that a message was not for it, is told by whom: the address is wrong.
    for (wrong, by) in [
        (peer::Envelope { cluster_id: 8, ..good }, Some(to)),
        (peer::Envelope { to: from.0, ..good }, Some(to)),
        (peer::Envelope { boot: 0, ..good }, None),
        (peer::Envelope { boot_random: 2, ..good }, None),
    ] {
        let refused = client.heartbeat(append(Some(wrong), higher, vec![])).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{wrong:?}: {refused}");
        assert_eq!(crate::raft::wire::refused_by(&refused), by, "{wrong:?}");
    }
    let entry = |term, index| peer::Entry {
        id: Some(peer::LogId { term, index }),
        // A blank entry.
        payload: vec![10, 0].into(),
    };
    for (vote, entries) in [
        (vote(term + 10, false), vec![]),
        (Some(peer::Vote { term: term + 10, node_id: to.0, committed: true }), vec![]),
        (higher, vec![entry(1, 7)]),
        (higher, vec![entry(2, 0), entry(1, 1)]),
        (higher, vec![entry(term + 11, 0)]),
        (None, vec![]),
    ] {
        let refused = client.heartbeat(append(Some(good), vote, entries)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{vote:?}: {refused}");
    }
    let election =
        peer::VoteRequest { envelope: Some(good), vote: higher, last: None, leader_transfer: true };
    assert_eq!(client.vote(election).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(target.consensus.position().term, term);
    target.consensus.propose(put("k", "v")).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_applied_does_not_reach_the_log() {
    let cluster = Cluster::start(3).await;
    let leader = &cluster.members[cluster.leader().await].consensus;
    // A command of a newer version: none that this one knows.
    for unknown in [&[0xff_u8, 1, 2][..], &[], &[0xf2, 0x01, 0x00]] {
        let (stream, mut answers) = tokio::sync::mpsc::unbounded_channel();
        let reply = crate::raft::proposer::ReplyTo::follower(5, stream);
        leader.enqueue(bytes::Bytes::copy_from_slice(unknown), reply).await;
        let (number, answer) = answers.recv().await.unwrap();
        assert_eq!(number, 5);
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    }
    leader.propose(put("k", "v")).await.unwrap();
    cluster.converge().await;
    cluster.stop().await;
}
