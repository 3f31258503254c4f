//! A whole playground with real processes. The pods are this test binary, run again with [`a_pod`] as its only test.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// Long enough for a machine that is busy; nothing waits for it when all is well.
const DEADLINE: Duration = Duration::from_mins(1);

/// Not a test, but a pod: ready while there is no file `not-ready` in its volume, answers its name to clients, leaves on a
/// SIGTERM unless there is a file `stubborn` in its volume, and when its standard input closes.
#[test]
#[ignore = "a pod, which the tests of the playground start"]
fn a_pod() {
    let Ok(address) = std::env::var("SETSTONE_POD_IP") else { return };
    let address: Ipv4Addr = address.parse().unwrap();
    let variable = |name: &str| std::env::var(name).unwrap();
    let volume = PathBuf::from(variable("SETSTONE_DATA_DIR"));
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(volume.join("lives"))
        .unwrap()
        .write_all(format!("{address}\n").as_bytes())
        .unwrap();
    println!("{} is here", variable("SETSTONE_POD_NAME"));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if volume.join("stubborn").exists() {
        let _guard = runtime.enter();
        let signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        std::mem::forget(signals);
    }
    let name = variable("SETSTONE_POD_NAME");
    let clients = TcpListener::bind((address, naming::CLIENT_PORT)).unwrap();
    std::thread::spawn(move || {
        for stream in clients.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(name.as_bytes()).ok();
            stream.shutdown(Shutdown::Write).ok();
        }
    });
    let probes = TcpListener::bind((address, naming::ADMIN_PORT)).unwrap();
    std::thread::spawn(move || {
        for stream in probes.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0u8; 1024];
            // All of it comes at once; and what it is does not matter.
            let _read = stream.read(&mut request).unwrap_or_default();
            let code = if volume.join("not-ready").exists() { 503 } else { 200 };
            stream.write_all(format!("HTTP/1.1 {code} x\r\n\r\n").as_bytes()).ok();
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Test {
    playground: Playground,
    _run: tempfile::TempDir,
    data: tempfile::TempDir,
}

fn options(data: &std::path::Path, run: &std::path::Path) -> Options {
    Options {
        arguments: ["playground::tests::a_pod", "--exact", "--ignored", "--nocapture"]
            .map(Into::into)
            .to_vec(),
        data: Some(data.to_owned()),
        run: Some(run.join("run")),
        probe_period: Duration::from_millis(20),
        ..Options::new(std::env::current_exe().unwrap())
    }
}

impl Test {
    async fn start(change: impl FnOnce(&mut Options)) -> Self {
        let (data, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut options = options(data.path(), run.path());
        change(&mut options);
        Self { playground: Playground::start(options).await.unwrap(), _run: run, data }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    /// Addresses that a pod had, one line for each time it started.
    fn lives(&self, ordinal: Ordinal) -> Vec<Ipv4Addr> {
        let lives = std::fs::read_to_string(self.file(&format!("setstone-{ordinal}/lives"))).unwrap();
        lives.lines().map(|line| line.parse().unwrap()).collect()
    }

    async fn until(&self, wanted: impl FnMut(&Status) -> bool) -> Status {
        self.playground.wait_until(DEADLINE, wanted).await.unwrap()
    }
}

/// Who answers at an endpoint, asked until somebody does.
async fn who(endpoint: &str) -> String {
    let address: SocketAddr = endpoint.strip_prefix("http://").unwrap().parse().unwrap();
    tokio::task::spawn_blocking(move || {
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            let mut name = String::new();
            if TcpStream::connect(address).is_ok_and(|mut stream| stream.read_to_string(&mut name).is_ok()) {
                return name;
            }
            assert!(std::time::Instant::now() < deadline, "nobody answers at {address}");
            std::thread::sleep(Duration::from_millis(5));
        }
    })
    .await
    .unwrap()
}

fn alive(pid: u32) -> bool {
    // A process that was killed but not reaped by its parent yet is no process.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

async fn dead(pid: u32) {
    tokio::time::timeout(DEADLINE, async {
        while alive(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn pods_start_in_order_serve_clients_and_stop() {
    let test = Test::start(|_| {}).await;
    let endpoints = test.playground.endpoints();
    assert_eq!(endpoints.pods.len(), 3, "known before there is any pod");
    let mut changes = test.playground.changes();
    loop {
        let status = changes.wait_for(|_| true).await.unwrap().clone();
        for pod in &status.pods {
            let below = status.pods.iter().filter(|other| other.ordinal < pod.ordinal);
            assert!(pod.phase == Phase::Absent || below.clone().all(|other| other.ready), "{status:?}");
        }
        if status.is_ready() {
            break;
        }
        changes.changed().await.unwrap();
    }
    assert_eq!(test.playground.endpoints(), endpoints);
    for (ordinal, endpoint) in endpoints.pods.iter().enumerate() {
        assert_eq!(who(endpoint).await, format!("setstone-{ordinal}"));
    }
    let mut by_service = Vec::new();
    for _ in 0..3 {
        by_service.push(who(&endpoints.service).await);
    }
    by_service.sort();
    assert_eq!(by_service, ["setstone-0", "setstone-1", "setstone-2"]);

    let status = test.playground.status();
    test.playground.stop().await;
    let after = test.playground.status();
    assert!(after.stopping && after.pods.iter().all(|pod| pod.phase == Phase::Absent), "{after:?}");
    for pod in &status.pods {
        assert!(!alive(pod.pid.unwrap()));
    }
    assert!(!status.run.exists());
    let log = std::fs::read_to_string(test.file("setstone-1.log")).unwrap();
    assert!(log.contains("setstone-1 is here"), "{log}");
    assert_eq!(test.playground.kill(0).await, Err(CommandError::Stopping));
    test.playground.stop().await;
}

#[tokio::test]
async fn a_killed_pod_keeps_its_address_and_a_restarted_one_gets_another() {
    let test = Test::start(|options| options.back_off.initial = Duration::from_millis(50)).await;
    let before = test.playground.wait_ready(DEADLINE).await.unwrap();
    let endpoint = test.playground.endpoints().pods[1].clone();

    test.playground.kill(1).await.unwrap();
    let killed = test.playground.status();
    assert!(!killed.pods[1].ready, "{killed:?}");
    assert_eq!(killed.pods[1].last_exit.as_deref(), Some("SIGKILL"));
    let again = test.playground.wait_ready(DEADLINE).await.unwrap();
    assert_eq!((again.pods[1].address, again.pods[1].restarts), (before.pods[1].address, 1));
    assert_ne!(again.pods[1].pid, before.pods[1].pid);

    // Once more: now there is a wait, and it ends.
    test.playground.kill(1).await.unwrap();
    test.until(|status| status.is_ready() && status.pods[1].restarts == 2).await;

    test.playground.restart(1).await.unwrap();
    let old = before.pods[1].uid;
    let new = test.until(|status| status.is_ready() && status.pods[1].uid != old).await;
    assert_ne!(new.pods[1].address, before.pods[1].address);
    assert_eq!((new.pods[1].restarts, new.pods[1].client_address), (0, before.pods[1].client_address));
    assert_eq!(who(&endpoint).await, "setstone-1");
    assert_eq!((&new.pods[0], &new.pods[2]), (&before.pods[0], &before.pods[2]), "the others are left alone");
    let first = before.pods[1].address.unwrap();
    assert_eq!(test.lives(1), [first, first, first, new.pods[1].address.unwrap()], "and the volume stayed");

    assert_eq!(test.playground.kill(3).await, Err(CommandError::NoSuchPod { ordinal: 3, replicas: 3 }));
    test.playground.stop().await;
}

#[tokio::test]
async fn the_service_leaves_out_a_pod_that_is_not_ready_and_its_own_address_does_not() {
    let test = Test::start(|options| options.replicas = 2).await;
    test.playground.wait_ready(DEADLINE).await.unwrap();
    let endpoints = test.playground.endpoints();
    std::fs::write(test.file("setstone-0/not-ready"), b"").unwrap();
    test.until(|status| !status.pods[0].ready).await;
    assert_eq!(who(&endpoints.pods[0]).await, "setstone-0");
    for _ in 0..4 {
        assert_eq!(who(&endpoints.service).await, "setstone-1");
    }
    std::fs::write(test.file("setstone-1/not-ready"), b"").unwrap();
    test.until(|status| status.pods.iter().all(|pod| !pod.ready)).await;
    let service = test.playground.status().service;
    let refused = tokio::time::timeout(DEADLINE, async {
        loop {
            match tokio::net::TcpStream::connect(service).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => return error.kind(),
            }
        }
    });
    assert_eq!(refused.await.unwrap(), std::io::ErrorKind::ConnectionRefused);
    test.playground.stop().await;
}

#[tokio::test]
async fn a_pod_that_ignores_the_signal_is_killed_after_its_grace_or_at_once() {
    let test = Test::start(|options| {
        options.replicas = 1;
        options.grace = Duration::from_millis(300);
    })
    .await;
    test.playground.wait_ready(DEADLINE).await.unwrap();
    std::fs::write(test.file("setstone-0/stubborn"), b"").unwrap();
    // The pod looks at its volume when it starts.
    let old = test.playground.status().pods[0].uid;
    test.playground.restart(0).await.unwrap();
    test.until(|status| status.is_ready() && status.pods[0].uid != old).await;
    let old = test.playground.status().pods[0].clone();
    test.playground.restart(0).await.unwrap();
    assert_eq!(test.playground.restart(0).await, Err(CommandError::Terminating { ordinal: 0 }));
    let status = test.until(|status| status.is_ready() && status.pods[0].uid != old.uid).await;
    assert!(!alive(old.pid.unwrap()));
    test.playground.stop().await;
    assert!(!alive(status.pods[0].pid.unwrap()));

    let test = Test::start(|options| {
        options.replicas = 2;
        options.grace = DEADLINE * 10;
    })
    .await;
    let status = test.playground.wait_ready(DEADLINE).await.unwrap();
    for name in ["setstone-0", "setstone-1"] {
        std::fs::write(test.file(name).join("stubborn"), b"").unwrap();
    }
    for pod in &status.pods {
        test.playground.kill(pod.ordinal).await.unwrap();
    }
    let status = test.playground.wait_ready(DEADLINE).await.unwrap();
    let hurried = async {
        test.until(|status| status.stopping).await;
        test.playground.hurry().await;
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(test.playground.stop(), hurried) }).await.unwrap();
    assert!(status.pods.iter().all(|pod| !alive(pod.pid.unwrap())));
}

#[tokio::test]
async fn volumes_are_set_back_and_swapped_only_between_pods() {
    let test = Test::start(|options| options.management = PodManagement::Parallel).await;
    let first = test.playground.wait_ready(DEADLINE).await.unwrap();
    let address = |status: &Status, ordinal: usize| status.pods[ordinal].address.unwrap();
    let replaced = |before: &Status, ordinals: &'static [usize]| {
        let uids: Vec<_> = before.pods.iter().map(|pod| pod.uid).collect();
        move |status: &Status| {
            status.is_ready() && ordinals.iter().all(|ordinal| status.pods[*ordinal].uid != uids[*ordinal])
        }
    };
    assert_eq!(test.playground.rollback_volume(1).await, Err(CommandError::NotSaved { ordinal: 1 }));
    test.playground.save_volume(1).await.unwrap();
    test.playground.restart(1).await.unwrap();
    let second = test.until(replaced(&first, &[1])).await;
    assert_eq!(test.lives(1), [address(&first, 1), address(&second, 1)]);
    test.playground.rollback_volume(1).await.unwrap();
    let third = test.until(replaced(&second, &[1])).await;
    assert_eq!(test.lives(1), [address(&first, 1), address(&third, 1)], "the second life is forgotten");
    assert_eq!(third.pods[1].last_exit, None, "the process went on after the copy");

    // One of the two does not end: the other waits for its volume.
    std::fs::write(test.file("setstone-2/stubborn"), b"").unwrap();
    test.playground.kill(2).await.unwrap();
    let third = test.playground.wait_ready(DEADLINE).await.unwrap();
    test.playground.swap_volumes(1, 2).await.unwrap();
    let waits = test.until(|status| status.pods[1].phase == Phase::ContainerCreating).await;
    assert_eq!((waits.pods[2].phase, waits.pods[1].pid), (Phase::Terminating, None));
    let busy = CommandError::VolumeBusy { ordinal: 2 };
    assert_eq!(test.playground.swap_volumes(0, 2).await, Err(busy));
    // Even that one is deleted, and the next one waits as well.
    test.playground.restart(1).await.unwrap();
    let waits = test.until(|status| status.pods[1].phase == Phase::ContainerCreating).await;
    assert_eq!(waits.pods[2].phase, Phase::Terminating);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(third.pods[2].pid.unwrap().cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let swapped = test.until(replaced(&third, &[1, 2])).await;
    assert_eq!(test.lives(2)[..2], [address(&first, 1), address(&third, 1)]);
    assert_eq!(test.lives(1)[0], address(&first, 2));
    assert_eq!(test.lives(1).last(), swapped.pods[1].address.as_ref());
    assert_eq!(test.playground.swap_volumes(1, 1).await, Err(CommandError::SameVolume { ordinal: 1 }));
    assert_eq!(test.playground.swap_volumes(1, 7).await, Err(CommandError::NoSuchVolume { ordinal: 7 }));
    test.playground.stop().await;
}

#[tokio::test]
async fn a_pod_deleted_with_force_lives_on_beside_the_next_one() {
    let test = Test::start(|options| options.replicas = 2).await;
    let before = test.playground.wait_ready(DEADLINE).await.unwrap();
    let old = before.pods[0].clone();
    test.playground.force_delete(0, DEADLINE * 10).await.unwrap();
    let orphan = [OrphanStatus { ordinal: 0, uid: old.uid.unwrap(), address: old.address, pid: old.pid }];
    assert_eq!(test.playground.status().orphans, orphan);
    let after = test.until(Status::is_ready).await;
    assert_eq!(after.orphans, orphan, "and it does not stand in the way");
    assert!(alive(old.pid.unwrap()) && after.pods[0].address != old.address);
    assert_eq!(test.lives(0), [old.address.unwrap(), after.pods[0].address.unwrap()], "one volume");
    assert_eq!(after.pods[1], before.pods[1]);
    // The end is not before its end.
    test.playground.stop().await;
    assert!(!alive(old.pid.unwrap()));
}

#[tokio::test]
async fn volumes_of_a_set_that_shrinks_go_if_that_is_the_policy_and_each_is_replaced_in_turn() {
    let test = Test::start(|options| options.when_scaled = WhenScaled::Delete).await;
    let first = test.playground.wait_ready(DEADLINE).await.unwrap();
    test.playground.restart_rolling().await.unwrap();
    let uids: Vec<_> = first.pods.iter().map(|pod| pod.uid).collect();
    let rolled = test
        .until(|status| status.is_ready() && status.pods.iter().zip(&uids).all(|(pod, uid)| pod.uid != *uid))
        .await;
    let order: Vec<_> = rolled.pods.iter().map(|pod| pod.uid.unwrap()).collect();
    assert!(order[2] < order[1] && order[1] < order[0], "{order:?}");
    assert_eq!(test.lives(2).len(), 2);
    test.playground.scale(1).await.unwrap();
    test.until(|status| status.pods.len() == 1).await;
    assert!(!test.file("setstone-1").exists() && !test.file("setstone-2").exists());
    test.playground.delete_all().await.unwrap();
    test.until(|status| status.is_ready() && status.pods[0].uid != rolled.pods[0].uid).await;
    assert_eq!(test.lives(0).len(), 3);
    test.playground.stop().await;
    assert!(test.file("setstone-0").exists());
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_tried_again_and_says_why() {
    let test = Test::start(|options| options.binary = PathBuf::from("/nonexistent/setstone")).await;
    let status = test.until(|status| status.pods.iter().any(|pod| pod.last_exit.is_some())).await;
    assert_eq!(status.pods[0].phase, Phase::CrashLoopBackOff);
    let why = status.pods[0].last_exit.clone().unwrap();
    assert!(why.contains("/nonexistent/setstone"), "{why}");
    assert_eq!(status.pods[1].phase, Phase::Absent);
    assert_eq!(
        test.playground.kill(0).await,
        Err(CommandError::NotRunning { ordinal: 0, phase: Phase::CrashLoopBackOff })
    );
    test.playground.stop().await;
}

#[tokio::test]
async fn a_dropped_playground_takes_its_pods_and_its_temporary_directory_along() {
    let test = Test::start(|options| {
        options.data = None;
        options.replicas = 2;
    })
    .await;
    let status = test.playground.wait_ready(DEADLINE).await.unwrap();
    assert!(status.temporary && status.data.join("setstone-1/lives").exists());
    let mut changes = test.playground.changes();
    drop(test);
    // The driver has ended when it tells no more.
    tokio::time::timeout(DEADLINE, async { while changes.changed().await.is_ok() {} }).await.unwrap();
    for pod in &status.pods {
        assert!(!alive(pod.pid.unwrap()));
    }
    assert!(!status.data.exists());
}

#[test]
fn pods_do_not_outlive_the_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (test, status) = runtime.block_on(async {
        let test = Test::start(|options| options.replicas = 2).await;
        let status = test.playground.wait_ready(DEADLINE).await.unwrap();
        (test, status)
    });
    drop(runtime);
    drop(test);
    let wait = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for pod in &status.pods {
        wait.block_on(dead(pod.pid.unwrap()));
    }
}

#[tokio::test]
async fn two_at_once_do_not_meet_and_the_control_socket_reaches_the_right_one() {
    let (one, other) = tokio::join!(
        Test::start(|options| options.replicas = 1),
        Test::start(|options| {
            options.replicas = 1;
            options.name = "other".to_owned();
        })
    );
    let (a, b) = tokio::join!(one.playground.wait_ready(DEADLINE), other.playground.wait_ready(DEADLINE));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_ne!(a.service, b.service);
    assert_eq!(who(&a.endpoints().service).await, "setstone-0");
    assert_eq!(who(&b.endpoints().service).await, "other-0");

    let ask = |request| control::ask(Some(&b.run), request);
    let Response::Status(told) = ask(Request::Status).await.unwrap() else { panic!("no status") };
    assert_eq!(*told, other.playground.status());
    ask(Request::Kill { ordinal: 0 }).await.unwrap();
    other.until(|status| status.is_ready() && status.pods[0].restarts == 1).await;
    assert_eq!(one.playground.status(), a);
    let refused = ask(Request::DeletePod { ordinal: 9 }).await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no pod with ordinal 9 (replicas: 1)");

    let again = options(one.data.path(), other.data.path());
    let error = Playground::start(again).await.unwrap_err();
    assert!(matches!(error, StartError::Volume(VolumeError::InUse(_))), "{error}");
    tokio::join!(one.playground.stop(), other.playground.stop());
}

type Change = fn(&mut Options);

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_touched() {
    let (data, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cases: [(Change, &str); 4] = [
        (|options| options.replicas = 0, "0 replicas"),
        (|options| options.replicas = 51, "51 replicas"),
        (|options| options.name = "../x".to_owned(), "\"../x\""),
        (|options| options.namespace = "A".to_owned(), "\"A\""),
    ];
    for (change, named) in cases {
        let mut options = options(&data.path().join("data"), run.path());
        change(&mut options);
        let error = Playground::start(options).await.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    assert!(!data.path().join("data").exists() && !run.path().join("run").exists());
}
