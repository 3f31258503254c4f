//! Resources that are not enough.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pods::first_install;
use super::report::{ANYTHING, Run};
use super::world::{LONG, Step, World};

/// A volume that is soon full.
const VOLUME: &str = "256Mi";

/// A limit that an idle pod keeps, and a pod with much to hold does not.
const MEMORY: &str = "80Mi";

fn limited(object: &mut Value, limits: &Value) {
    if object["kind"] == "StatefulSet" {
        let container = &mut object["spec"]["template"]["spec"]["containers"][0];
        container["resources"] = json!({ "requests": { "cpu": "50m", "memory": "32Mi" }, "limits": limits });
    }
}

/// Large values from many clients at once, from a pod of its own: more than fits.
fn fill(world: &World, clients: &str) -> Step {
    let endpoint = format!("{}:2379", world.service()?);
    let arguments =
        ["bench", "put", "--clients", clients, "--value-size", "1000000", "--duration", "15s", "--endpoints"];
    let arguments: Vec<&str> = arguments.into_iter().chain([endpoint.as_str()]).collect();
    world.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "fill" },
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false,
            "containers": [{
                "name": "fill", "image": "docker.io/setstone:dev", "imagePullPolicy": "IfNotPresent", "args": arguments,
            }],
        },
    }))
}

pub fn limits(run: &mut Run) -> Step {
    let limit = Duration::from_secs(90);
    first_install(run, "k8s/base", "first install with a CPU limit of 0.1", limit, &|object| {
        limited(object, &json!({ "cpu": "100m" }));
    })?;
    run.world()?.start_load(None)?;
    run.row("CPU limit of 0.1, 30 s under load", ANYTHING, |world| {
        world.pass(Duration::from_secs(30))?;
        world.all_ready(3, LONG)?;
        let restarts: u64 = world.pods()?.iter().map(|pod| pod.restarts).sum();
        if restarts > 0 { Err(format!("{restarts} containers were restarted")) } else { Ok(None) }
    })?;
    run.check()?;
    let limit = Duration::from_secs(45);
    first_install(run, "k8s/base", "first install with a memory limit", limit, &|object| {
        limited(object, &json!({ "memory": MEMORY }));
    })?;
    run.world()?.start_load(None)?;
    run.row("OOM kill at the memory limit", ANYTHING, |world| {
        fill(world, "300")?;
        world.until("a container was killed for its memory", LONG, || {
            world.pods().ok()?.into_iter().find(|pod| pod.ended == "OOMKilled")
        })?;
        let begin = Instant::now();
        world.settled(3, LONG)?;
        Ok(Some(begin.elapsed()))
    })?;
    run.check()
}

/// A volume that is full: the store says so and refuses to grow, nothing ends, and it goes on by itself when there is room.
pub fn full(run: &mut Run) -> Step {
    let limit = Duration::from_secs(45);
    first_install(run, "k8s/overlays/memory", "first install with a small volume", limit, &|object| {
        if object["kind"] == "StatefulSet" {
            let volume = &mut object["spec"]["template"]["spec"]["volumes"][0];
            volume["emptyDir"]["sizeLimit"] = json!(VOLUME);
        }
    })?;
    run.world()?.start_load(None)?;
    run.row("a full volume: from the first room on", ANYTHING, |world| {
        let is_raised = || world.setstone(0, &["alarm", "list"]).map(|text| text.contains("NOSPACE"));
        // More is under way than what is kept free: what waits when room gets scarce must not be written any more.
        fill(world, "300")?;
        world.until("the alarm", LONG, || is_raised().ok().filter(|raised| *raised))?;
        world.kubectl.within(LONG, &["delete", "pod", "fill", "--force", "--grace-period=0"], "")?;
        match world.setstone(0, &["put", "one", "more"]) {
            Err(error) if error.contains("database space exceeded") => {}
            other => return Err(format!("a put while the volume is full: {other:?}")),
        }
        if !world.setstone(0, &["status"]).unwrap_or_else(|error| error).contains("NOSPACE") {
            return Err("the status does not say why".into());
        }
        let begin = Instant::now();
        let answer = world.setstone(0, &["del", "--prefix", "b/", "--json"])?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        let revision = answer["header"]["revision"].to_string();
        world.setstone(0, &["compact", &revision, "--physical"])?;
        for ordinal in 0..3 {
            // It writes too, and is refused until the log was cut.
            world.until("a defragmentation", LONG, || world.setstone(ordinal, &["defrag"]).ok())?;
        }
        world.until("the alarm goes", LONG, || is_raised().ok().filter(|raised| !raised))?;
        let took = begin.elapsed();
        let restarts: u64 = world.pods()?.iter().map(|pod| pod.restarts).sum();
        if restarts > 0 { Err(format!("{restarts} containers were restarted")) } else { Ok(Some(took)) }
    })?;
    run.check()
}
