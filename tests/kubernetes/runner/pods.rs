//! First installs, and pods that go away and come back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::report::{ANYTHING, NO_FAILURES, Run, SHORT_GAP};
use super::world::{LONG, Step, World};

const APP: &str = "setstone";

/// Installs, and measures until the first write and until all are ready.
pub fn first_install(
    run: &mut Run,
    folder: &str,
    event: &str,
    limit: Duration,
    edit: &dyn Fn(&mut Value),
) -> Step {
    let begin = Instant::now();
    run.install(folder, APP, edit)?;
    installed(run, event, begin, limit)
}

/// Waits for what was applied at `begin`: for the first write, and until all are ready.
pub fn installed(run: &mut Run, event: &str, begin: Instant, limit: Duration) -> Step {
    let world = run.world()?;
    world.until("a first write", limit, || {
        world.setstone(0, &["put", "first", "write", "--timeout", "1s"]).ok()
    })?;
    let took = begin.elapsed();
    let size = world.kubectl.run(&["get", "statefulset", APP, "-o", "jsonpath={.spec.replicas}"])?;
    world.settled(size.parse().unwrap_or(3), LONG)?;
    let ready = begin.elapsed();
    run.fact(event, Some(took), &format!("all ready after {:.1} s", ready.as_secs_f64()));
    if took > limit { Err(format!("{event}: {took:?}, more than {limit:?}")) } else { Ok(()) }
}

/// Waits until the pod of an ordinal is another one and ready.
pub fn replaced(world: &World, ordinal: u16, before: &str, limit: Duration) -> Step {
    world.until(&format!("{} is another pod and ready", world.name(ordinal)), limit, || {
        world.pod(ordinal).ok().filter(|pod| pod.uid != before && pod.ready && !pod.deleting)
    })?;
    Ok(())
}

fn delete_one(world: &World, ordinal: u16) -> Step<Option<Duration>> {
    let (before, begin) = (world.pod(ordinal)?, Instant::now());
    world.delete_pods(&[ordinal])?;
    replaced(world, ordinal, &before.uid, LONG)?;
    Ok(Some(begin.elapsed()))
}

fn delete_all(world: &World, limit: Duration) -> Step<Option<Duration>> {
    let before = world.pods()?;
    world.delete_pods(&[0, 1, 2])?;
    let is_new = |uid: &str| before.iter().all(|pod| pod.uid != uid);
    world.until("all are other pods and run", LONG, || {
        let pods = world.pods().ok()?;
        (pods.len() == 3 && pods.iter().all(|pod| pod.running && is_new(&pod.uid))).then_some(())
    })?;
    let begin = Instant::now();
    world.all_ready(3, limit)?;
    world.serves(limit)?;
    Ok(Some(begin.elapsed()))
}

/// Kills the process of a pod's container, which `kubectl` cannot do: a first process hears no SIGKILL from inside.
fn kill_nine(run: &mut Run) -> Step {
    let Some(cluster) = run.cluster.clone() else {
        run.left_out("kill -9 inside the leader's container");
        return Ok(());
    };
    run.row("kill -9 inside the leader's container", SHORT_GAP, |world| {
        let leader = world.leader()?;
        let (before, name) = (world.pod(leader)?, world.name(leader));
        let script = format!(
            "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ 2>/dev/null | grep -qx SETSTONE_POD_NAME={name} && \
             tr '\\0' '\\n' < $p/environ | grep -qx SETSTONE_POD_NAMESPACE={} && kill -9 ${{p#/proc/}}; done; true",
            world.namespace
        );
        let begin = Instant::now();
        cluster.run(&["exec", "bash", "-c", &script])?;
        world.until("the container was started again and is ready", LONG, || {
            world.pod(leader).ok().filter(|pod| pod.restarts > before.restarts && pod.ready)
        })?;
        Ok(Some(begin.elapsed()))
    })
}

fn rollout(world: &World, arguments: &[&str]) -> Step<Option<Duration>> {
    let begin = Instant::now();
    world.kubectl.run(arguments)?;
    world.kubectl.within(LONG * 2, &["rollout", "status", "statefulset/setstone"], "")?;
    world.settled(3, LONG)?;
    Ok(Some(begin.elapsed()))
}

/// What every installation of three goes through.
fn come_and_go(run: &mut Run) -> Step {
    run.world()?.start_load(None)?;
    run.row("delete a pod that follows", SHORT_GAP, |world| delete_one(world, (world.leader()? + 1) % 3))?;
    run.row("delete the leader's pod", SHORT_GAP, |world| delete_one(world, world.leader()?))?;
    kill_nine(run)?;
    run.row("kubectl rollout restart", NO_FAILURES, |world| {
        rollout(world, &["rollout", "restart", "statefulset/setstone"])
    })?;
    run.row("rollout to another image", NO_FAILURES, |world| {
        rollout(world, &["set", "image", "statefulset/setstone", "setstone=docker.io/setstone:next"])
    })?;
    Ok(())
}

/// Three pods, one after the other.
pub fn ordered(run: &mut Run) -> Step {
    first_install(run, "k8s/base", "first install, base (OrderedReady)", Duration::from_secs(45), &|_| ())?;
    idle(run)?;
    come_and_go(run)?;
    run.row("delete all pods (OrderedReady)", ANYTHING, |world| delete_all(world, Duration::from_secs(15)))?;
    run.check()
}

/// Three pods at once.
pub fn parallel(run: &mut Run) -> Step {
    let limit = Duration::from_secs(20);
    first_install(run, "k8s/overlays/prod", "first install, prod (Parallel)", limit, &|object| {
        // Three members on a machine with two cores.
        if object["kind"] == "StatefulSet" {
            object["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] =
                json!("100m");
        }
    })?;
    come_and_go(run)?;
    run.row("delete all pods (Parallel)", ANYTHING, |world| delete_all(world, Duration::from_secs(15)))?;
    run.check()
}

/// Pods without volumes: one that is replaced joins as new.
pub fn memory(run: &mut Run) -> Step {
    let limit = Duration::from_secs(45);
    first_install(run, "k8s/overlays/memory", "first install, memory", limit, &|_| ())?;
    let world = run.world()?;
    let (before, cluster) = (world.members(0)?, world.cluster()?);
    world.start_load(None)?;
    run.row("memory: delete the leader's pod, which joins as new", SHORT_GAP, |world| {
        let leader = world.leader()?;
        let took = delete_one(world, leader)?;
        world.settled(3, LONG)?;
        let after = world.member((leader + 1) % 3, leader)?;
        if before.contains(&after) { Err(format!("{after:?} is the old member")) } else { Ok(took) }
    })?;
    run.check()?;
    let now = run.world()?.cluster()?;
    if now == cluster { Ok(()) } else { Err(format!("cluster {now} in place of {cluster}")) }
}

/// Memory and CPU of idle pods, as the kubelet's own accounting of the container has it.
fn idle(run: &mut Run) -> Step {
    let world = run.world()?;
    let read = |ordinal: u16| -> Step<(f64, f64)> {
        let pod = world.pod(ordinal)?;
        let path = format!("/api/v1/nodes/{}/proxy/stats/summary", pod.node);
        let text = world.global.run(&["get", "--raw", &path])?;
        let summary: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let found = summary["pods"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["podRef"]["uid"] == pod.uid.as_str());
        let container = &found.ok_or("the kubelet does not know the pod yet")?["containers"][0];
        let number = |value: &Value| value.as_f64().ok_or("the kubelet does not say it yet");
        Ok((
            number(&container["cpu"]["usageCoreNanoSeconds"])?,
            number(&container["memory"]["workingSetBytes"])?,
        ))
    };
    let all = || (0..3).map(read).collect::<Step<Vec<_>>>();
    let Ok(first) = world.until("the kubelets count", Duration::from_secs(30), || all().ok()) else {
        run.fact("idle pods", None, "the kubelets count nothing");
        return Ok(());
    };
    let begin = Instant::now();
    // The kubelet counts every ten seconds and more.
    let span = Duration::from_secs(30);
    world.pass(span)?;
    let last = all()?;
    let cpu: f64 = first.iter().zip(&last).map(|(one, other)| other.0 - one.0).sum();
    let cpu = cpu / begin.elapsed().as_nanos() as f64 / 3.0 * 100.0;
    let memory = last.iter().map(|(_, memory)| memory).sum::<f64>() / 3.0 / f64::from(1 << 20);
    run.fact(
        "an idle pod of three",
        None,
        &format!("{memory:.0} MiB working set, {cpu:.1} % of a core, probes included"),
    );
    Ok(())
}
