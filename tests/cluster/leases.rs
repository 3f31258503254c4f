//! Leases while pods are killed, and stock etcdctl.

use std::process::Command;
use std::time::Duration;

use setstone::client::{Client, Consistency};
use setstone::mvcc::command::Put;
use tokio::time::Instant;

use super::world::{DEADLINE, LOOK, World, range};

fn leased(key: &str, lease: i64) -> Put {
    Put { key: key.to_owned().into(), value: "v".into(), lease, ..Put::default() }
}

async fn is_there(client: &impl Client, key: &str) -> bool {
    client.get(range(key.as_bytes(), None), Consistency::Linearizable).await.unwrap().value.count > 0
}

/// Leases whose leader is killed live for their whole time from then on, also those that were about to end, and go soon after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_takes_no_lease_along() {
    const TTL: Duration = Duration::from_secs(3);
    let world = World::start(&[]).await;
    for round in 0..3 {
        let (kept, left) = (format!("kept/{round}"), format!("left/{round}"));
        let lease = world.remote.grant(0, 3).await.unwrap().value.id;
        let abandoned = world.remote.grant(0, 3).await.unwrap().value.id;
        world.remote.put(leased(&kept, lease)).await.unwrap();
        world.remote.put(leased(&left, abandoned)).await.unwrap();
        // Most of the time to live passes, so that the next leader is seen to begin it anew.
        tokio::time::sleep(TTL - Duration::from_millis(700)).await;
        // This is what the next leader must stand by.
        let renewed = Instant::now();
        assert_eq!(world.remote.keep_alive(lease).await.unwrap().value, 3);
        let leader = world.leader().await;
        let killed = Instant::now();
        world.playground.kill(leader).await.unwrap();
        let others = world.without(leader);
        let (mut kept_until, mut left_until) = (None, None);
        while kept_until.is_none() || left_until.is_none() {
            for (key, until) in [(&kept, &mut kept_until), (&left, &mut left_until)] {
                if until.is_none() && !is_there(&others, key).await {
                    *until = Some(Instant::now());
                }
            }
            assert!(killed.elapsed() < DEADLINE, "leases are still there");
            // Between two looks; nothing tells when a key is gone.
            tokio::time::sleep(LOOK).await;
        }
        let (kept_for, left_for) = (kept_until.unwrap() - renewed, left_until.unwrap() - killed);
        println!("leader killed: a renewed lease lived {kept_for:?}, another {left_for:?} from then on");
        assert!(kept_for >= TTL - LOOK, "{kept_for:?}: a promise was broken");
        assert!(left_for >= TTL - LOOK, "{left_for:?}: not begun anew");
        assert!(kept_for < TTL * 4 && left_for < TTL * 4, "{kept_for:?}, {left_for:?}: very late");
        world.ready().await;
    }
    world.stop().await;
}

/// What etcd's own tool prints, from any version of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_is_at_home() {
    let world = World::start(&[]).await;
    let endpoints = world.playground.endpoints().pods.join(",");
    let etcdctl = |arguments: &str| {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoints])
            .args(arguments.split(' '))
            .output()
            .expect("etcdctl is needed: apt-get install etcd-client");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{arguments}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text.trim_end().to_owned()
    };
    let granted = etcdctl("lease grant 60");
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(60s)"));
    assert_eq!(etcdctl(&format!("put --lease={id} color blue")), "OK");
    let life = etcdctl(&format!("lease timetolive {id} --keys"));
    assert!(life.starts_with(&format!("lease {id} granted with TTL(60s), remaining(")), "{life}");
    assert!(life.ends_with("attached keys([color])"), "{life}");
    assert_eq!(
        etcdctl(&format!("lease keep-alive {id} --once")),
        format!("lease {id} keepalived with TTL(60)")
    );
    assert_eq!(etcdctl("lease list"), format!("found 1 leases\n{id}"));
    assert_eq!(etcdctl(&format!("lease revoke {id}")), format!("lease {id} revoked"));
    assert_eq!(etcdctl("get color"), "");
    assert_eq!(etcdctl(&format!("lease timetolive {id}")), format!("lease {id} already expired"));
    world.stop().await;
}
