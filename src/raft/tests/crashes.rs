//! Power cuts under load: nothing acknowledged is lost, whatever was not synced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::harness::*;
use crate::config::Tuning;
use crate::env::simulated_files::Crash;
use crate::raft::store::Store;

/// Per key, the highest number that was acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<String, u64>>>;

async fn write(
    consensus: Vec<crate::raft::Consensus>,
    key: String,
    acknowledged: Acknowledged,
    first: u64,
    end: CancellationToken,
) -> u64 {
    let mut number = first;
    while !end.is_cancelled() {
        number += 1;
        let member = &consensus[number as usize % consensus.len()];
        let write = member.propose(put(&key, &number.to_string()));
        let answer = tokio::select! {
            answer = write => answer,
            () = end.cancelled() => break,
        };
        if answer.is_ok() {
            acknowledged.lock().insert(key.clone(), number);
        }
    }
    number
}

fn quick() -> Setup {
    let tuning = Tuning {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(200),
        election_max: Duration::from_millis(400),
        log_bytes_before_snapshot: 48 << 10,
        log_entries_kept: 10,
        log_segment_bytes: 16 << 10,
        ..Setup::default().tuning
    };
    Setup { tuning, ..Setup::default() }
}

/// Rounds of load that end in a crash of `of` members, chosen by the round.
async fn rounds(count: u64, of: impl Fn(u64) -> Vec<usize>, keep: impl Fn(u64) -> Crash) {
    let mut cluster = Cluster::with(3, quick()).await;
    let acknowledged = Acknowledged::default();
    let mut numbers = [0; 8];
    let mut revision = 0;
    for round in 0..count {
        let end = CancellationToken::new();
        let consensus: Vec<_> = cluster.members.iter().map(|member| member.consensus.clone()).collect();
        let writers: Vec<_> = numbers
            .iter()
            .enumerate()
            .map(|(key, first)| {
                let (consensus, key) = (consensus.clone(), format!("key-{key}"));
                tokio::spawn(write(consensus, key, acknowledged.clone(), *first, end.clone()))
            })
            .collect();
        drop(consensus);
        tokio::time::sleep(Duration::from_millis(40 + round * 37 % 150)).await;
        let victims = of(round);
        for member in &victims {
            cluster.members[*member].files.stop_after(0);
        }
        end.cancel();
        for (number, writer) in numbers.iter_mut().zip(writers) {
            *number = writer.await.unwrap();
        }
        let crashes = cluster
            .members
            .iter_mut()
            .enumerate()
            .filter(|(number, _)| victims.contains(number))
            .map(|(_, member)| member.crash_and_restart(keep(round)));
        futures::future::join_all(crashes).await;
        cluster.leader().await;
        for member in &cluster.members {
            member.consensus.barrier().await.unwrap();
            let expected = acknowledged.lock().clone();
            for (key, number) in &expected {
                let found: u64 = value(member, key).await.expect("a key is gone").parse().unwrap();
                assert!(
                    found >= *number,
                    "round {round}, {}: {key} is {found}, acknowledged was {number}",
                    member.id
                );
            }
        }
        let now = cluster.converge().await;
        assert!(now >= revision, "the revision went back from {revision} to {now}");
        revision = now;
    }
    assert!(acknowledged.lock().values().sum::<u64>() > count * 4, "hardly anything was written");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_crash_at_once() {
    rounds(14, |_| vec![0, 1, 2], |_| Crash::LoseAll).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_or_two_crash() {
    let of = |round: u64| if round % 3 == 2 { vec![0, 1] } else { vec![(round % 3) as usize, 2] };
    let keep = |round| if round % 2 == 0 { Crash::LoseAll } else { Crash::Seeded(round) };
    rounds(14, of, keep).await;
}
