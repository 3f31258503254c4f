//! The library in a StatefulSet of a service's own.

use std::time::{Duration, Instant};

use super::report::Run;
use super::world::{LONG, Step, World};

const APP: &str = "counters";
const VOTES: u64 = 20;

/// Calls the service through the API server's proxy; what it says is a number.
fn call(world: &World, method: &str) -> Step<u64> {
    let path = format!("/api/v1/namespaces/{}/services/{APP}:http/proxy/visits", world.namespace);
    let text = match method {
        "GET" => world.global.run(&["get", "--raw", &path])?,
        _ => world.global.run(&["create", "--raw", &path, "-f", "/dev/null"])?,
    };
    text.trim().parse().map_err(|error| format!("{error}: {text}"))
}

pub fn embedded(run: &mut Run) -> Step {
    let begin = Instant::now();
    run.install("examples/service/k8s", APP, &|_| ())?;
    let world = run.world()?;
    world.until("it counts", Duration::from_secs(45), || call(world, "POST").ok())?;
    let took = begin.elapsed();
    world.all_ready(3, LONG)?;
    let first = call(world, "GET")?;
    for expected in first + 1..=first + VOTES {
        let count = call(world, "POST")?;
        if count != expected {
            return Err(format!("it counted {count} in place of {expected}"));
        }
    }
    run.fact("a service that embeds the library: first install", Some(took), "");
    let begin = Instant::now();
    let world = run.world()?;
    world.kubectl.run(&["rollout", "restart", "statefulset/counters"])?;
    world.kubectl.within(LONG * 2, &["rollout", "status", "statefulset/counters"], "")?;
    world.all_ready(3, LONG)?;
    let count = call(world, "GET")?;
    if count != first + VOTES {
        return Err(format!("after a restart it is {count} in place of {}", first + VOTES));
    }
    run.fact("its rolling restart", Some(begin.elapsed()), "every count is still there");
    let begin = Instant::now();
    let world = run.world()?;
    world.scale(1)?;
    world.all_ready(1, LONG)?;
    let count = world.until("one pod alone counts on", LONG, || call(world, "POST").ok())?;
    let took = begin.elapsed();
    // A call that was not answered may have counted.
    if count <= first + VOTES {
        return Err(format!("after a scale step it is {count}, less than {}", first + VOTES));
    }
    run.fact("its scaling from 3 to 1", Some(took), "");
    Ok(())
}
