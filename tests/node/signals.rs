//! SIGTERM, as Kubernetes sends it: leadership goes on elsewhere, what is in flight is answered, the process ends in time.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use setstone::client::{Client, Kv};
use setstone::identity::NodeId;
use tokio::time::Instant;

use crate::process::{Looks, Process, free_ports};

/// Nobody campaigns by itself in less time than this.
const ELECTION: Duration = Duration::from_secs(8);
const GRACE: Duration = Duration::from_secs(20);

/// Three members that find each other by a fixed list, and who leads.
async fn three(root: &std::path::Path) -> (Vec<Process>, usize) {
    let peers = free_ports::<3>().map(|address| address.to_string()).join(",");
    let grace = format!("{}s", GRACE.as_secs());
    let shortest = format!("{}s", ELECTION.as_secs());
    let mut members = Vec::new();
    for ordinal in ["0", "1", "2"] {
        let arguments = [
            ["--peers", &peers, "--ordinal", ordinal],
            ["--election-min", &shortest, "--election-max", "9s"],
            ["--drain-delay", "0s", "--grace-period", &grace],
        ]
        .concat();
        members.push(Process::spawn(&[], &root.join(ordinal), &arguments, Stdio::inherit()));
    }
    for member in &mut members {
        member.serves().await;
    }
    let leader = leader(&members[0]).await.unwrap();
    let (leader, _) = leader;
    (members, usize::from(leader.ordinal()))
}

/// Who leads, as this member says, and in which term.
async fn leader(member: &Process) -> Option<(NodeId, u64)> {
    let status = member.remote().status().await.ok()?.value;
    Some((status.leader?, status.term))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_and_answers_what_is_in_flight() {
    let root = tempfile::tempdir().unwrap();
    let (mut members, old) = three(root.path()).await;
    let mut stopping = members.remove(old);
    let (old, term) = leader(&stopping).await.unwrap();
    let store = stopping.remote();
    Kv::put(&store, "before", "1").await.unwrap();

    // The followers stand still, so that the write is under way when the signal comes.
    for follower in &mut members {
        follower.pause().await;
    }
    let puts = |process: &Process| {
        let text = process.http("/metrics");
        let line = "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} ";
        text.lines().find_map(|text| text.strip_prefix(line)?.parse::<u64>().ok())
    };
    let in_flight = tokio::spawn(async move { Kv::put(&store, "in flight", "1").await });
    stopping.until("the write arrived", |process| puts(process) == Some(2)).await;
    assert!(!in_flight.is_finished());
    let told = Instant::now();
    stopping.signal(Signal::TERM);
    let drains = |process: &Process| process.http("/readyz").contains("[-]not draining failed");
    stopping.until("it is not ready any more", drains).await;
    assert!(!in_flight.is_finished());
    for follower in &members {
        follower.signal(Signal::CONT);
    }
    in_flight.await.unwrap().unwrap();
    assert_eq!(stopping.ended().await, 0);
    let took = told.elapsed();
    assert!(took < GRACE, "{took:?}");

    // Handed over, and not waited for: nobody would have campaigned yet.
    let mut looks = Looks::within(Duration::from_secs(20));
    let now = loop {
        if let Some((now, newer)) = leader(&members[0]).await
            && now != old
        {
            assert!(newer > term);
            break now;
        }
        looks.next("another leader").await;
    };
    assert!(told.elapsed() < ELECTION, "{now} leads after {:?}", told.elapsed());
    for member in &members {
        for key in ["before", "in flight"] {
            assert!(Kv::get(&member.remote(), key).await.unwrap().is_some(), "{key}");
        }
        Kv::put(&member.remote(), "after", "1").await.unwrap();
    }
    for member in members {
        assert_eq!(member.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_hurries() {
    let directory = tempfile::tempdir().unwrap();
    let patient = ["--drain-delay", "60s", "--grace-period", "120s"];
    let mut member = Process::start(directory.path(), &patient).await;
    Kv::put(&member.remote(), "k", "v").await.unwrap();
    member.signal(Signal::TERM);
    // Two signals that come at once are one to the kernel.
    let drains = |process: &Process| process.http("/readyz").contains("[-]not draining failed");
    member.until("the first was heard", drains).await;
    assert!(Kv::get(&member.remote(), "k").await.unwrap().is_some(), "it serves while it drains");
    let hurried = Instant::now();
    member.signal(Signal::TERM);
    assert_eq!(member.ended().await, 0);
    assert!(hurried.elapsed() < Duration::from_secs(20), "{:?}", hurried.elapsed());
    assert!(directory.path().join("state/closed-cleanly").exists(), "hurried, and yet in order");
}
