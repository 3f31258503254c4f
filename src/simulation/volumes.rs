//! What is done to the volumes of pods while their machines are down.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::{EngineBack, Part, Volume};
use super::shared::{DATA, Simulation};
use super::world::{Dice, Pod};
use crate::env::Files as _;
use crate::env::files::Open;
use crate::env::simulated_files::SimulatedFiles;
use crate::identity::{ClusterId, Identity, IdentityFile};
use crate::storage::{log, snapshot};

/// The file of a simulated engine.
const ENGINE: &str = "/data/state/sled/journal";

/// Lets an engine that was closed come back otherwise.
pub(super) fn change_engine(pod: &Pod, back: EngineBack, dice: &Dice) {
    // An engine that was never there cannot come back otherwise.
    let _ = try_change_engine(&pod.files, back, dice);
}

fn try_change_engine(files: &SimulatedFiles, back: EngineBack, dice: &Dice) -> io::Result<()> {
    let path = Path::new(ENGINE);
    let file = files.open(path, Open::Write)?;
    let length = file.length()?;
    match back {
        EngineBack::Empty => file.set_length(0)?,
        EngineBack::Earlier => file.set_length(dice.below(length))?,
        EngineBack::Damaged => files.corrupt(path, dice.below(length))?,
    }
    file.sync_data()
}

/// Flips a bit where a member must notice it.
pub(super) fn flip_bit(pod: &Pod, part: Part, dice: &Dice) {
    if let Some((path, length)) = flippable(&pod.files, part, dice) {
        // The file was just there.
        let _ = pod.files.corrupt(&path, dice.below(length));
    }
}

/// A file, and how much of it is certain: a flip in the last write of a log is taken for a torn end.
fn flippable(files: &SimulatedFiles, part: Part, dice: &Dice) -> Option<(PathBuf, u64)> {
    let root = Path::new(DATA);
    match part {
        Part::Log => {
            let scan = log::scan(files, &root.join("log")).ok()?;
            let newest = scan.segments.last()?.sequence;
            let segment = dice.pick(&scan.segments)?;
            let certain = if segment.sequence == newest { segment.last_write } else { segment.used };
            Some((segment.path.clone(), certain))
        }
        Part::Snapshot => {
            let newest = snapshot::list(files, &root.join("snapshots")).ok()?.into_iter().next()?;
            let length = files.open(&newest.path, Open::Read).ok()?.length().ok()?;
            Some((newest.path, length))
        }
    }
}

fn identity(files: &SimulatedFiles) -> Option<Identity> {
    IdentityFile::new(Arc::new(files.clone()), Path::new(DATA)).load().ok()?
}

/// Whether a volume holds no identity.
pub(super) fn is_blank(pod: &Pod) -> bool {
    let file = IdentityFile::new(Arc::new(pod.files.clone()), Path::new(DATA));
    matches!(file.load(), Ok(None))
}

/// Puts another volume in a pod's place.
pub(super) fn replace(shared: &Simulation, ordinal: u16, volume: Volume, dice: &Dice) {
    let Some(pod) = shared.pods.get(usize::from(ordinal)) else { return };
    match volume {
        Volume::Nothing => pod.files.replace(&SimulatedFiles::new(dice.next())),
        Volume::OtherCluster => {
            if let Some(found) = identity(&pod.files) {
                let cluster = ClusterId(found.cluster.0 ^ dice.next().max(1));
                shared.other_clusters.borrow_mut().insert(cluster);
                let other = Identity { cluster, ..found };
                let file = IdentityFile::new(Arc::new(pod.files.clone()), Path::new(DATA));
                // The disk of a machine without power has room.
                let _ = file.store(&other);
            }
        }
        Volume::Of(other) => {
            let Some(other) = shared.pods.get(usize::from(other)) else { return };
            let mine = pod.files.copy();
            pod.files.replace(&other.files);
            other.files.replace(&mine);
            note(shared, other);
        }
    }
    note(shared, pod);
}

/// Notes whether a pod must not serve with the volume that it has now.
fn note(shared: &Simulation, pod: &Pod) {
    let member = shared.invariants.borrow().has_applied(pod.ordinal);
    let mut must_wait = shared.must_wait.borrow_mut();
    match identity(&pod.files) {
        Some(found) => {
            let others =
                found.ordinal != pod.ordinal || shared.other_clusters.borrow().contains(&found.cluster);
            if others {
                must_wait.insert(pod.ordinal);
            } else {
                must_wait.remove(&pod.ordinal);
            }
        }
        // Before the first bootstrap an empty volume is as good as any.
        None if member => {
            must_wait.insert(pod.ordinal);
        }
        None => {}
    }
}
