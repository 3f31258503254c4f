//! Volumes that are lost.

use std::time::{Duration, Instant};

use super::pods::{first_install, replaced};
use super::report::{ANYTHING, Run, SHORT_GAP};
use super::world::{LONG, Step, World};

/// A pod with a new volume votes again within this time.
const VOTING: Duration = Duration::from_secs(40);

/// For how long a name server remembers what it said, as kubeadm configures it.
const NAME_CACHE: Duration = Duration::from_secs(30);

fn install(run: &mut Run) -> Step {
    let limit = Duration::from_secs(45);
    first_install(run, "k8s/base", "first install, base (OrderedReady)", limit, &|_| ())
}

/// Waits until a pod has another volume, and votes as another member.
fn votes_as_new(world: &World, ordinal: u16, old: (&str, &str), limit: Duration) -> Step {
    let (volume, id) = old;
    world.until(&format!("{} votes as another member", world.name(ordinal)), limit, || {
        let pod = world.pod(ordinal).ok()?;
        let member = world.member((ordinal + 1) % 3, ordinal).ok()?;
        let is_new =
            member.id != id && !member.is_learner && world.volume(ordinal).is_ok_and(|now| now != volume);
        (pod.ready && is_new).then_some(())
    })
}

fn lose(world: &World, ordinal: u16) -> Step<Option<Duration>> {
    let cluster = world.cluster()?;
    let (volume, id) = (world.volume(ordinal)?, world.member((ordinal + 1) % 3, ordinal)?.id);
    let begin = Instant::now();
    world.delete_volumes(&[ordinal])?;
    votes_as_new(world, ordinal, (&volume, &id), VOTING)?;
    let took = begin.elapsed();
    world.settled(3, LONG)?;
    let now = world.cluster()?;
    if now == cluster { Ok(Some(took)) } else { Err(format!("cluster {now} in place of {cluster}")) }
}

pub fn lost(run: &mut Run) -> Step {
    install(run)?;
    run.world()?.start_load(None)?;
    run.row("delete PVC and pod of ordinal 2", SHORT_GAP, |world| lose(world, 2))?;
    run.row("delete PVC and pod of the leader", SHORT_GAP, |world| lose(world, world.leader()?))?;
    run.row("delete PVC and pod of ordinal 0", SHORT_GAP, |world| lose(world, 0))?;
    run.row("all pods down and PVC 0 gone", ANYTHING, |world| {
        let cluster = world.cluster()?;
        let (volume, id) = (world.volume(0)?, world.member(1, 0)?.id);
        world.scale(0)?;
        world.until("no pod is left", LONG, || world.pods().ok().filter(Vec::is_empty))?;
        world.kubectl.within(LONG, &["delete", "pvc", "data-setstone-0"], "")?;
        // Until nobody remembers where the pods of before were: what that costs is the name server's.
        world.pass(NAME_CACHE)?;
        let begin = Instant::now();
        world.scale(3)?;
        votes_as_new(world, 0, (&volume, &id), VOTING)?;
        let took = begin.elapsed();
        let now = world.cluster()?;
        if now == cluster { Ok(Some(took)) } else { Err(format!("cluster {now} in place of {cluster}")) }
    })?;
    run.check()
}

/// A majority of the disks is gone: the pods wait, say what to run, and what they say helps.
pub fn recover(run: &mut Run) -> Step {
    install(run)?;
    let world = run.world()?;
    world.setstone(0, &["put", "kept", "by the survivor"])?;
    world.settled(3, LONG)?;
    let (old, begin) = (world.cluster()?, Instant::now());
    world.delete_volumes(&[1, 2])?;
    let words = world.until("the survivor says what to run", LONG, || {
        let status = world.status(0).ok()?;
        let hint = status["status"]["start"]["hint"].as_str()?.to_owned();
        let command = hint.find("setstone recover").map(|at| hint[at..].to_owned())?;
        let command = command.split('`').next()?;
        Some(command.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    })?;
    let said = begin.elapsed();
    if world.setstone(0, &["put", "x", "y", "--timeout", "2s"]).is_ok() {
        return Err("it serves without a majority".into());
    }
    let begin = Instant::now();
    let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let answer = world.setstone(0, &arguments)?;
    world.settled(3, LONG)?;
    let took = begin.elapsed();
    let kept = world.setstone(1, &["get", "kept"])?;
    if !kept.contains("by the survivor") || world.cluster()? == old {
        return Err(format!("{kept}{answer}"));
    }
    let note = format!("it said after {:.1} s: {}", said.as_secs_f64(), words.join(" "));
    run.fact("two of three PVCs gone, setstone recover", Some(took), &note);
    run.world()?.start_load(None)?;
    run.row("after the recovery", SHORT_GAP, |world| world.serves(LONG).map(|()| None))?;
    run.check()
}

/// A volume that only one pod can have at a time.
pub fn once(run: &mut Run) -> Step {
    let folder = "tests/kubernetes/read-write-once-pod";
    first_install(run, folder, "first install, dev with ReadWriteOncePod", Duration::from_secs(45), &|_| ())?;
    let world = run.world()?;
    let modes = ["get", "pvc", "data-setstone-0", "-o", "jsonpath={.spec.accessModes}"];
    let modes = world.kubectl.run(&modes)?;
    if modes != r#"["ReadWriteOncePod"]"# {
        return Err(format!("the claim's modes are {modes}"));
    }
    world.setstone(0, &["put", "kept", "on the volume"])?;
    let (before, begin) = (world.pod(0)?, Instant::now());
    world.delete_pods(&[0])?;
    replaced(world, 0, &before.uid, LONG)?;
    let took = begin.elapsed();
    let kept = world.setstone(0, &["get", "kept"])?;
    if !kept.contains("on the volume") {
        return Err(format!("after the pod was deleted: {kept}"));
    }
    run.fact("ReadWriteOncePod: delete the pod", Some(took), "");
    Ok(())
}
