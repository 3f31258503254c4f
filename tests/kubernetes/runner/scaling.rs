//! `kubectl scale`, in all directions.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pods::first_install;
use super::report::{ANYTHING, Run, SHORT_GAP};
use super::world::{LONG, Step, World};

/// Time for one step.
const STEP: Duration = Duration::from_secs(45);

/// Begins with one pod; the management policy is the caller's.
fn one_pod(run: &mut Run, policy: &'static str) -> Step {
    let limit = Duration::from_secs(45);
    first_install(
        run,
        "k8s/overlays/dev",
        &format!("first install, dev ({policy})"),
        limit,
        &|object: &mut Value| {
            if object["kind"] == "StatefulSet" {
                object["spec"]["podManagementPolicy"] = json!(policy);
            }
        },
    )
}

fn step(world: &World, size: u16) -> Step<Option<Duration>> {
    let begin = Instant::now();
    world.scale(size)?;
    world.settled(usize::from(size), STEP)?;
    Ok(Some(begin.elapsed()))
}

/// To nothing and back.
fn sleep(run: &mut Run, size: u16) -> Step {
    run.row(&format!("scale {size} to 0 and back"), ANYTHING, |world| {
        let cluster = world.cluster()?;
        world.scale(0)?;
        world.until("no pod is left", LONG, || world.pods().ok().filter(Vec::is_empty))?;
        let took = step(world, size)?;
        world.serves(STEP)?;
        let now = world.cluster()?;
        if now == cluster { Ok(took) } else { Err(format!("cluster {now} in place of {cluster}")) }
    })
}

fn steps(run: &mut Run, policy: &'static str) -> Step {
    one_pod(run, policy)?;
    run.world()?.start_load(None)?;
    let mut from = 1;
    for to in [3, 5, 3, 1, 5, 1] {
        run.row(&format!("scale {from} to {to} ({policy})"), SHORT_GAP, |world| step(world, to))?;
        from = to;
    }
    sleep(run, 1)?;
    run.row(&format!("scale 1 to 3 ({policy}), volumes from before"), SHORT_GAP, |world| step(world, 3))?;
    sleep(run, 3)?;
    run.check()
}

pub fn ordered(run: &mut Run) -> Step {
    steps(run, "OrderedReady")
}

pub fn parallel(run: &mut Run) -> Step {
    steps(run, "Parallel")?;
    // Once more, with volumes that go with their pods.
    run.world()?.start_load(None)?;
    let patch =
        r#"{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenScaled":"Delete","whenDeleted":"Retain"}}}"#;
    run.world()?.kubectl.run(&["patch", "statefulset", "setstone", "--type=merge", "-p", patch])?;
    run.row("scale 3 to 1 and back with whenScaled: Delete", SHORT_GAP, |world| {
        let (before, volume) = (world.members(0)?, world.volume(2)?);
        step(world, 1)?;
        world.until("the volumes are gone", LONG, || world.volume(2).err())?;
        let took = step(world, 3)?;
        let after = world.members(0)?;
        for ordinal in [1, 2] {
            let member = world.member(0, ordinal)?;
            if before.contains(&member) {
                return Err(format!("{member:?} is the old member; {after:?}"));
            }
        }
        if world.volume(2)? == volume { Err("the volume is the old one".into()) } else { Ok(took) }
    })?;
    run.check()
}
