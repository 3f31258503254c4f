//! The arguments, and what they ask for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use clap::Parser;

use super::*;
use crate::playground::{Phase, PodStatus, Status};

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

fn parse(line: &str) -> Result<Arguments, String> {
    let words = std::iter::once("playground").chain(line.split_whitespace());
    Program::try_parse_from(words).map(|parsed| parsed.arguments).map_err(|error| error.to_string())
}

#[test]
fn arguments() {
    let Arguments { command: None, start } = parse("").unwrap() else { panic!("a command") };
    assert_eq!((start.replicas, start.name.as_str(), start.namespace.as_str()), (3, "setstone", "default"));
    assert_eq!((start.data, start.run, start.pod_management), (None, None, PodManagement::OrderedReady));
    let start = parse("--replicas 5 --data d --run r --pod-management parallel").unwrap().start;
    assert_eq!((start.replicas, start.data, start.run), (5, Some("d".into()), Some("r".into())));
    assert_eq!(start.pod_management, PodManagement::Parallel);

    assert!((start.dns_cache, start.when_scaled, start.plain) == (Duration::ZERO, WhenScaled::Retain, false));
    let start = parse("--parallel --when-scaled delete --dns-cache 30s --plain").unwrap().start;
    assert!(start.parallel && start.plain);
    assert_eq!((start.dns_cache, start.when_scaled), (Duration::from_secs(30), WhenScaled::Delete));
}

#[test]
fn commands() {
    let cases = [
        ("status --json", Request::Status),
        ("kill 2", Request::Kill { ordinal: 2 }),
        ("delete-pod 0", Request::DeletePod { ordinal: 0 }),
        ("restart 0", Request::DeletePod { ordinal: 0 }),
        ("restart --rolling", Request::RolloutRestart),
        ("delete-pod 1 --force", Request::ForceDeletePod { ordinal: 1, linger_ms: 0 }),
        ("delete-pod 1 --force --linger 1.5s", Request::ForceDeletePod { ordinal: 1, linger_ms: 1_500 }),
        ("delete-pods", Request::DeleteAllPods),
        ("stop-all", Request::DeleteAllPods),
        ("scale 0", Request::Scale { replicas: 0 }),
        ("delete-volume 1", Request::DeleteVolume { ordinal: 1 }),
        ("save-volume 1", Request::SaveVolume { ordinal: 1 }),
        ("rollback-volume 1", Request::RollbackVolume { ordinal: 1 }),
        ("swap-volumes 1 2", Request::SwapVolumes { one: 1, other: 2 }),
        ("dns up", Request::Dns { mode: DnsMode::Up }),
        ("dns down", Request::Dns { mode: DnsMode::Down }),
        ("dns silent", Request::Dns { mode: DnsMode::Silent }),
        ("dns stale 2 1", Request::DnsStale { ordinal: 2, to: 1 }),
        ("api-server down", Request::ApiServer { mode: ApiMode::Down }),
        ("api-server forbidden", Request::ApiServer { mode: ApiMode::Forbidden }),
    ];
    for (line, expected) in cases {
        let (request, chosen) = parse(&format!("{line} --run r")).unwrap().command.unwrap().request();
        assert_eq!((request, chosen.run), (expected, Some("r".into())), "{line}");
    }
    for bad in [
        "scale",
        "--replicas 0",
        "--replicas 51",
        "--replicas x",
        "kill",
        "kill -1",
        "kill 65536",
        "dance",
        "restart",
        "restart 1 --rolling",
        "delete-pod",
        "delete-pod 1 --linger 5s",
        "swap-volumes 1",
        "dns",
        "dns stale 1",
        "api-server sideways",
        "--dns-cache soon",
        "--when-scaled sometimes",
        "--parallel --pod-management parallel",
        "--replicas 3 status",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

pub(super) fn status() -> Status {
    let pod = |ordinal: Ordinal, phase, ready, restarts| PodStatus {
        ordinal,
        name: format!("setstone-{ordinal}"),
        fqdn: format!("setstone-{ordinal}.setstone-peers.default.svc.playground.local"),
        phase,
        ready,
        uid: Some(1),
        address: (phase != Phase::Absent).then_some([127, 70, 80, 10 + ordinal as u8].into()),
        client_address: Some(([127, 70, 80, 200 + ordinal as u8], 2379).into()),
        restarts,
        pid: None,
        last_exit: (restarts > 0).then(|| "SIGKILL".to_owned()),
    };
    Status {
        name: "setstone".to_owned(),
        namespace: "default".to_owned(),
        replicas: 3,
        stopping: false,
        service: ([127, 70, 80, 2], 2379).into(),
        dns: ([127, 70, 80, 53], 5300).into(),
        api_server: "http://127.70.80.2:6443".to_owned(),
        api_mode: ApiMode::Up,
        dns_mode: DnsMode::Up,
        headless_service: "setstone-peers.default.svc.playground.local".to_owned(),
        data: "/tmp/x".into(),
        temporary: true,
        run: "/tmp/y".into(),
        pods: vec![
            pod(0, Phase::Running, true, 0),
            pod(1, Phase::CrashLoopBackOff, false, 2),
            pod(2, Phase::Absent, false, 0),
        ],
        orphans: Vec::new(),
    }
}

#[test]
fn the_introduction_names_every_way_in() {
    let text = start::introduction(&status());
    for needed in [
        "etcdctl --endpoints=127.70.80.2:2379 put a 1",
        "127.70.80.53:5300",
        "/tmp/x (removed at the end)",
        "/tmp/y",
        "setstone playground status | scale N | kill N | delete-pod N | delete-volume N",
    ] {
        assert!(text.contains(needed), "{needed:?} is missing in\n{text}");
    }
}

#[test]
fn json_is_read_back_as_it_was() {
    let json = serde_json::to_string(&status()).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
}
