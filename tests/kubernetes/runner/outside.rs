//! What is around the pods fails: nodes, names, the API server, rights.

use std::time::{Duration, Instant};

use serde_json::json;

use super::kubectl::Tool;
use super::pods::{first_install, replaced};
use super::report::{Allowed, NO_FAILURES, Run, SHORT_GAP};
use super::world::{LONG, Step, World};

/// For how long things stay broken.
const MINUTE: Duration = Duration::from_secs(60);
/// Time for Kubernetes' own parts to go on after their API server was away: some wait up to half a minute before they ask it again.
const CONTROLLERS: Duration = Duration::from_secs(180);
/// Time for a node to be taken for lost, or to be well again.
const NODE: Duration = Duration::from_secs(60);

fn install(run: &mut Run) -> Step {
    let limit = Duration::from_secs(45);
    first_install(run, "k8s/base", "first install, base (OrderedReady)", limit, &|_| ())
}

/// As `install`, with each pod on a node of its own while there are enough of them: the base only wishes for that, and two pods on the node
/// that is cut off would be a majority.
fn install_apart(run: &mut Run) -> Step {
    let limit = Duration::from_secs(45);
    first_install(run, "k8s/base", "first install, base, on three nodes", limit, &|object| {
        if object["kind"] == "StatefulSet" {
            let apart = &mut object["spec"]["template"]["spec"]["topologySpreadConstraints"][0];
            apart["whenUnsatisfiable"] = json!("DoNotSchedule");
            // Nodes that are lost or being drained do not count.
            apart["nodeTaintsPolicy"] = json!("Honor");
        }
    })
}

fn node_is(world: &World, node: &str, ready: bool) -> Step {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    world.until(&format!("{node} is ready: {ready}"), NODE, || {
        let status = world.global.run(&["get", "node", node, "-o", path]).ok()?;
        ((status == "True") == ready).then_some(())
    })
}

pub fn nodes(run: &mut Run) -> Step {
    install_apart(run)?;
    let world = run.world()?;
    // The load runs where the leader does not.
    let leader = world.leader()?;
    let elsewhere = world.pod((leader + 1) % 3)?.node;
    world.start_load(Some(&elsewhere))?;
    if let Some(cluster) = run.cluster.clone() {
        run.row("node with the leader cut off for 60 s; its pod deleted by force", SHORT_GAP, |world| {
            cut(world, &cluster, leader)
        })?;
        run.row("kubelet dead for 30 s", NO_FAILURES, |world| kubelet(world, &cluster))?;
    } else {
        run.left_out("node cut off; kubelet dead");
    }
    run.row("kubectl drain of each node in turn", NO_FAILURES, |world| {
        let begin = Instant::now();
        let nodes = world.global.run(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
        for node in nodes.split_whitespace() {
            let of = "--pod-selector=app.kubernetes.io/name=setstone";
            world.global.within(
                LONG * 2,
                &["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", of],
                "",
            )?;
            world.settled(3, LONG)?;
            world.global.run(&["uncordon", node])?;
        }
        Ok(Some(begin.elapsed()))
    })?;
    run.check()
}

fn cut(world: &World, cluster: &Tool, leader: u16) -> Step<Option<Duration>> {
    let before = world.pod(leader)?;
    let number = before.node.trim_start_matches(|c: char| !c.is_ascii_digit()).to_owned();
    let begin = Instant::now();
    cluster.run(&["cut", &number])?;
    let broken = (|| {
        node_is(world, &before.node, false)?;
        let name = world.name(leader);
        world.kubectl.run(&["delete", "pod", &name, "--force", "--grace-period=0"])?;
        world.until("its pod is another one, elsewhere", LONG, || {
            world
                .pod(leader)
                .ok()
                .filter(|pod| pod.uid != before.uid && pod.node != before.node && !pod.node.is_empty())
        })?;
        world.pass(MINUTE.saturating_sub(begin.elapsed()))
    })();
    cluster.run(&["heal", &number])?;
    broken?;
    let healed = Instant::now();
    node_is(world, &before.node, true)?;
    world.settled(3, LONG)?;
    Ok(Some(healed.elapsed()))
}

fn kubelet(world: &World, cluster: &Tool) -> Step<Option<Duration>> {
    let node = world.pod(world.leader()?)?.node;
    let part = format!("kubelet{}", node.trim_start_matches(|c: char| !c.is_ascii_digit()));
    cluster.run(&["stop", &part])?;
    let broken = node_is(world, &node, false).and_then(|()| world.pass(Duration::from_secs(5)));
    cluster.run(&["start", &part])?;
    broken?;
    let begin = Instant::now();
    node_is(world, &node, true)?;
    world.settled(3, LONG)?;
    Ok(Some(begin.elapsed()))
}

pub fn dns(run: &mut Run) -> Step {
    let Some(cluster) = run.cluster.clone() else {
        run.left_out("CoreDNS stopped");
        return Ok(());
    };
    install(run)?;
    run.world()?.start_load(None)?;
    let unnoticed = Allowed { gap: Some(Duration::from_secs(1)), no_failures: true };
    run.row("CoreDNS stopped for 60 s", unnoticed, |world| {
        cluster.run(&["stop", "coredns"])?;
        let passed = world.pass(MINUTE);
        cluster.run(&["start", "coredns"])?;
        passed.map(|()| None)
    })?;
    run.row("CoreDNS stopped for 60 s, a pod restarts meanwhile", SHORT_GAP, |world| {
        let ordinal = (world.leader()? + 1) % 3;
        let before = world.pod(ordinal)?;
        cluster.run(&["stop", "coredns"])?;
        let passed = world.delete_pods(&[ordinal]).and_then(|()| world.pass(MINUTE));
        cluster.run(&["start", "coredns"])?;
        passed?;
        let begin = Instant::now();
        replaced(world, ordinal, &before.uid, Duration::from_secs(5))?;
        Ok(Some(begin.elapsed()))
    })?;
    run.check()
}

pub fn api_server(run: &mut Run) -> Step {
    let Some(cluster) = run.cluster.clone() else {
        run.left_out("API server stopped");
        return Ok(());
    };
    install(run)?;
    run.world()?.start_load(None)?;
    let away = |world: &World| -> Step {
        cluster.run(&["stop", "apiserver"])?;
        // How long it is away is what the row is about.
        std::thread::sleep(Duration::from_secs(20));
        cluster.run(&["start", "apiserver"])?;
        world
            .until("the API server answers", LONG, || world.global.run(&["get", "--raw", "/readyz"]).ok())?;
        // Where several could lead, those who could not renew their lease end, and are started anew. Here each is alone, has no lease, and
        // would only wait longer and longer between two attempts.
        for part in ["controller", "scheduler"] {
            cluster.run(&["stop", part])?;
            cluster.run(&["start", part])?;
        }
        Ok(())
    };
    run.row("API server stopped for 20 s during a rolling restart", SHORT_GAP, |world| {
        let before = world.pod(2)?;
        world.kubectl.run(&["rollout", "restart", "statefulset/setstone"])?;
        replaced(world, 2, &before.uid, LONG)?;
        away(world)?;
        let begin = Instant::now();
        world.kubectl.within(LONG * 2, &["rollout", "status", "statefulset/setstone"], "")?;
        world.settled(3, CONTROLLERS)?;
        Ok(Some(begin.elapsed()))
    })?;
    run.row("API server stopped for 20 s during a scale step", SHORT_GAP, |world| {
        world.scale(5)?;
        world.pod(3).or_else(|_| world.until("a fourth pod", LONG, || world.pod(3).ok()))?;
        away(world)?;
        let begin = Instant::now();
        world.settled(5, CONTROLLERS)?;
        Ok(Some(begin.elapsed()))
    })?;
    run.row("API server stopped for 20 s while a pod stops that is scaled away", SHORT_GAP, |world| {
        world.scale(3)?;
        world.until("a pod is told to stop", LONG, || world.pod(4).ok().filter(|pod| pod.deleting))?;
        away(world)?;
        let begin = Instant::now();
        world.settled(3, CONTROLLERS)?;
        Ok(Some(begin.elapsed()))
    })?;
    run.check()
}

pub fn rbac(run: &mut Run) -> Step {
    install(run)?;
    run.world()?.start_load(None)?;
    run.row("RBAC removed, and a scale step", SHORT_GAP, |world| {
        let binding = world.kubectl.run(&["get", "rolebinding", "setstone", "-o", "json"])?;
        world.kubectl.run(&["delete", "rolebinding", "setstone"])?;
        // The leader looks every two seconds.
        world.pass(Duration::from_secs(6))?;
        let before = world.members(0)?;
        world.scale(5)?;
        world.pass(Duration::from_secs(15))?;
        // Who is there may join and learn; who votes, and who goes, is decided by nobody.
        let voters: Vec<_> = world.members(0)?.into_iter().filter(|member| !member.is_learner).collect();
        if voters != before {
            return Err(format!("{before:?} became {voters:?}, and nobody may know the size"));
        }
        world.scale(2)?;
        world.until("two pods are left", LONG, || world.pods().ok().filter(|pods| pods.len() == 2))?;
        world.pass(Duration::from_secs(5))?;
        let after = world.members(0)?;
        if let Some(gone) = before.iter().find(|member| !after.contains(member)) {
            return Err(format!("{gone:?} was removed, and nobody may know the size"));
        }
        world.scale(5)?;
        let mut binding: serde_json::Value =
            serde_json::from_str(&binding).map_err(|error| error.to_string())?;
        let name = binding["metadata"]["name"].clone();
        binding["metadata"] = json!({ "name": name });
        world.apply(&binding)?;
        let begin = Instant::now();
        world.settled(5, LONG)?;
        Ok(Some(begin.elapsed()))
    })?;
    run.check()
}
