//! `setstone recover` and `setstone bootstrap`: a human decides what no pod may decide from silence. Each leaves a request in the data
//! directory; the pod of that directory carries it out when its own guard agrees, and says in `setstone status` why it does not.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output;
use crate::env::Files;
use crate::env::real_files::RealFiles;
use crate::identity::{ClusterId, Identity, IdentityFile, REQUEST_FILE, Recovery, Request};
use crate::storage::replace_file;

/// Lets this pod go on alone, after a majority of the cluster's disks is gone for good
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Run it in the pod that `setstone status` names: the survivor that holds the most. The pod starts anew
with what its disk holds, as the only member of a new cluster; all other pods join that as new, and
what only the lost disks held is gone. The revision is raised by a billion, and what was watched
before is told that it was compacted.

The pod refuses while another pod knows a leader, holds more, or a majority of the disks is there; and
while a pod of the old cluster does not answer, unless --gone says that its disk is gone for good.

Examples:
  kubectl exec setstone-1 -- setstone recover --cluster 5f2a9c0d11e04b7a --yes
  kubectl exec setstone-1 -- setstone recover --cluster 5f2a9c0d11e04b7a --gone setstone-2 --yes")]
pub(super) struct RecoverArguments {
    #[command(flatten)]
    directory: Directory,
    /// The cluster that has lost its majority, as `setstone status` shows it
    #[arg(long, value_name = "ID", value_parser = cluster_id)]
    cluster: ClusterId,
    /// A pod that does not answer and whose disk is gone for good; may be repeated
    #[arg(long, value_name = "POD")]
    gone: Vec<String>,
    /// Really do it; without, it only says what would be asked for
    #[arg(long)]
    yes: bool,
}

/// Lets this pod, alone and with a new volume, found a cluster although its StatefulSet is not new
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A pod that is alone does not found a cluster on a new volume once its StatefulSet was changed: its old
volume may have been lost, and with it all data. This says that the data is gone for good.

Example:
  kubectl exec setstone-0 -- setstone bootstrap --yes")]
pub(super) struct BootstrapArguments {
    #[command(flatten)]
    directory: Directory,
    /// Really do it; without, it only says what would be asked for
    #[arg(long)]
    yes: bool,
}

#[derive(Args, Clone, Debug)]
struct Directory {
    /// The data directory of the pod
    #[arg(long = "data-dir", value_name = "DIR", env = "SETSTONE_DATA_DIR")]
    path: PathBuf,
}

fn cluster_id(text: &str) -> Result<ClusterId, String> {
    output::parse_id(text).map(ClusterId)
}

pub(super) fn recover(
    arguments: RecoverArguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let root = &arguments.directory.path;
    let Some(identity) = identity(root)? else {
        return Err(disk(root, "it has no identity: nothing is left here to go on with"));
    };
    if identity.cluster != arguments.cluster {
        return Err(disk(root, &format!("it is of cluster {}, not {}", identity.cluster, arguments.cluster)));
    }
    let gone: BTreeSet<String> = arguments.gone.into_iter().collect();
    let what = format!("{} of cluster {} goes on alone", identity.node_id, identity.cluster);
    let request = Request::Recover(Recovery {
        cluster: identity.cluster,
        node: identity.node_id,
        gone,
        everyone: false,
    });
    ask(root, &request, arguments.yes, &what, global, out)
}

pub(super) fn bootstrap(
    arguments: &BootstrapArguments,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let root = &arguments.directory.path;
    if let Some(identity) = identity(root)? {
        return Err(disk(root, &format!("it is of cluster {}: there is nothing to found", identity.cluster)));
    }
    ask(root, &Request::Bootstrap {}, arguments.yes, "this pod founds a cluster alone", global, out)
}

fn identity(root: &Path) -> Result<Option<Identity>, Failure> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    IdentityFile::new(files, root).load().map_err(|error| Failure::new(Exit::Disk, error.to_string()))
}

fn disk(root: &Path, reason: &str) -> Failure {
    Failure::new(Exit::Disk, format!("{}: {reason}", root.display()))
}

fn ask(
    root: &Path,
    request: &Request,
    really: bool,
    what: &str,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    if really {
        let path = root.join(REQUEST_FILE);
        replace_file(&RealFiles, &path, &request.encode())
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))?;
    }
    if global.json {
        output::print_json(out, &json!({ "asked": really, "what": what }))?;
    } else if really {
        writeln!(out, "asked: {what}. `setstone status` in the pod says what becomes of it")?;
    } else {
        writeln!(out, "nothing was done. With --yes: {what}")?;
    }
    Ok(if really { Exit::Ok } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::identity::{DiskState, NodeId};

    const X: ClusterId = ClusterId(0xabc);

    fn run(arguments: &[&str]) -> (Result<Exit, String>, String) {
        let mut out = Vec::new();
        let cli = <super::super::Cli as clap::Parser>::try_parse_from([&["setstone"], arguments].concat());
        let result = cli
            .map_err(|error| error.to_string())
            .and_then(|cli| super::super::run(cli, &mut out).map_err(|failure| failure.text));
        (result, String::from_utf8(out).unwrap())
    }

    fn asked(root: &Path) -> Option<Request> {
        std::fs::read(root.join(REQUEST_FILE)).ok().map(|bytes| Request::decode(&bytes).unwrap())
    }

    #[test]
    fn a_recovery_is_asked_of_the_disk_that_was_meant_and_only_with_yes() {
        let volume = tempfile::tempdir().unwrap();
        let (root, at) = (volume.path(), volume.path().to_str().unwrap());
        let recover = ["recover", "--data-dir", at, "--cluster", "abc", "--gone", "s-2"];
        let (result, _) = run(&recover);
        assert!(result.unwrap_err().contains("it has no identity"));
        let identity = Identity {
            cluster: X,
            supersedes: Vec::new(),
            node_id: NodeId::new(1, 1),
            ordinal: 1,
            state: DiskState::Member,
            boot: 3,
            last_stop: None,
        };
        IdentityFile::new(Arc::new(RealFiles), root).store(&identity).unwrap();
        let (result, _) = run(&["recover", "--data-dir", at, "--cluster", "abd", "--yes"]);
        assert!(result.unwrap_err().contains("it is of cluster 0000000000000abc"));
        let (result, said) = run(&recover);
        assert_eq!((result, asked(root)), (Ok(Exit::Failed), None));
        assert_eq!(said, "nothing was done. With --yes: 1#1 of cluster 0000000000000abc goes on alone\n");
        let (result, _) = run(&[&recover[..], &["--yes"]].concat());
        let recovery = Recovery {
            cluster: X,
            node: NodeId::new(1, 1),
            gone: ["s-2".to_owned()].into(),
            everyone: false,
        };
        assert_eq!((result, asked(root)), (Ok(Exit::Ok), Some(Request::Recover(recovery))));
        let (result, _) = run(&["bootstrap", "--data-dir", at, "--yes"]);
        assert!(result.unwrap_err().contains("there is nothing to found"));
    }

    #[test]
    fn a_bootstrap_is_asked_of_a_blank_directory() {
        let volume = tempfile::tempdir().unwrap();
        let (root, at) = (volume.path(), volume.path().to_str().unwrap());
        assert_eq!((run(&["bootstrap", "--data-dir", at]).0, asked(root)), (Ok(Exit::Failed), None));
        let (result, _) = run(&["bootstrap", "--data-dir", at, "--yes"]);
        assert_eq!((result, asked(root)), (Ok(Exit::Ok), Some(Request::Bootstrap {})));
    }
}
