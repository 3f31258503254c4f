//! Which member of an initial cluster this process is (DESIGN section 5, "Outside a StatefulSet"), and what `--force-new-cluster` asks for.
//!
//! A disk with an identity is the member that it is, whatever the flags say. A blank one takes its place in the initial cluster, or, where
//! it joins a cluster that is there, asks which member was added at its peer URL. So does one that has not joined yet, or is lost: it may
//! have been removed meanwhile.

use std::collections::BTreeSet;

use super::{Addresses, Place};
use crate::config::{Cluster, Config, InitialCluster};
use crate::discovery::{AddressBook, Directory, Peer, PeerChannels};
use crate::env::Env;
use crate::error::Error;
use crate::identity::{DiskState, Identity, IdentityFile, Ordinal, REQUEST_FILE, Recovery, Request};
use crate::membership::{self, Own, Rules};
use crate::storage::{DataDirectory, replace_file};
use crate::transport::tls::Connector;

/// The rules by which members come and go; `None` in a `StatefulSet`.
pub(super) fn rules(config: &Config) -> Option<Rules> {
    match &config.cluster {
        Cluster::Initial(initial) => {
            Some(Rules { strict: initial.strict, max_learners: initial.max_learners })
        }
        _ => None,
    }
}

/// What tells who this process is. Pure.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    /// A founder: its place in the initial cluster.
    Founder(Ordinal),
    /// The disk's ordinal, and nothing has to be asked.
    Disk(Ordinal),
    /// The cluster says; the disk, if it has an ordinal, must agree.
    Ask(Option<Ordinal>),
}

fn who(name: &str, initial: &InitialCluster, identity: Option<&Identity>) -> Result<Who, String> {
    match identity.map(|identity| (identity.ordinal, &identity.state)) {
        Some((ordinal, DiskState::Prepared { .. })) => Ok(Who::Founder(ordinal)),
        Some((ordinal, DiskState::Member)) => Ok(Who::Disk(ordinal)),
        Some((ordinal, DiskState::Lost { .. })) if initial.force_new => Ok(Who::Disk(ordinal)),
        Some((ordinal, DiskState::Joining { .. } | DiskState::Lost { .. })) => Ok(Who::Ask(Some(ordinal))),
        None if initial.existing => Ok(Who::Ask(None)),
        None => initial
            .ordinal_of(name)
            .map(Who::Founder)
            .ok_or_else(|| format!("couldn't find local name {name:?} in the initial cluster configuration")),
    }
}

/// Who this process is, and whom it can reach.
pub(super) async fn place(
    config: &Config,
    initial: &InitialCluster,
    env: &Env,
    tls: Option<Connector>,
    directory: &DataDirectory,
    addresses: Addresses,
) -> Result<Place, Error> {
    let identity = IdentityFile::new(env.files.clone(), directory.root())
        .load()
        .map_err(|error| Error::Disk(error.to_string()))?;
    if initial.force_new {
        ask_to_go_on_alone(env, directory, identity.as_ref())?;
    } else {
        drop_stale_request(directory)?;
    }
    let founders: Vec<Peer> = (0..)
        .zip(initial.by_ordinal())
        .map(|(ordinal, (_, address))| Peer::parse(ordinal, &address))
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Start(error.to_string()))?;
    let (ordinal, expected, peers) = match who(&config.name, initial, identity.as_ref())
        .map_err(Error::Start)?
    {
        Who::Founder(ordinal) => (ordinal, founders.len() as u16, founders),
        Who::Disk(ordinal) => (ordinal, 0, Vec::new()),
        Who::Ask(own) => {
            let named: Vec<String> = founders.iter().map(ToString::to_string).collect();
            let located = membership::locate(
                |directory| AddressBook::over(env, directory, tls.clone()),
                &named,
                &initial.own,
            )
            .await
            .map_err(Error::Start)?;
            if let Some(own) = own.filter(|own| *own != located.ordinal) {
                return Err(Error::Disk(format!(
                    "{} belongs to the member of ordinal {own}, and the one at {} has ordinal {}: that one was removed, and \
                     added again. Nothing was touched; give this member an empty directory",
                    directory.root().display(),
                    initial.own,
                    located.ordinal
                )));
            }
            (located.ordinal, 0, located.members)
        }
    };
    let own = Peer::parse(ordinal, &initial.own).map_err(|error| Error::Start(error.to_string()))?;
    let named: BTreeSet<Ordinal> =
        peers.iter().map(|peer| peer.ordinal).filter(|other| *other != ordinal).collect();
    let directory = Directory::Members { own: own.clone(), peers };
    let own = Own {
        name: directory.name_of(&own),
        member_name: config.name.clone(),
        token: initial.token.clone(),
        ..Own::new(&directory, config.client_urls(addresses.client))
    };
    let channels = PeerChannels::new(AddressBook::over(env, directory, tls));
    Ok(Place { ordinal, own, expected, named, channels: Some(channels) })
}

/// What `setstone recover` leaves for a pod, with whoever does not answer taken for gone: the same guard decides (no member that answers
/// knows a leader or holds more, and no majority is there).
fn ask_to_go_on_alone(
    env: &Env,
    directory: &DataDirectory,
    identity: Option<&Identity>,
) -> Result<(), Error> {
    let Some(identity) = identity else {
        tracing::warn!("there is no data to go on with alone; a new cluster is founded as the flags say");
        return Ok(());
    };
    if !matches!(identity.state, DiskState::Member | DiskState::Lost { .. }) {
        tracing::warn!("the disk holds no data to go on with alone");
        return Ok(());
    }
    let recovery =
        Recovery { cluster: identity.cluster, node: identity.node_id, gone: BTreeSet::new(), everyone: true };
    let path = directory.root().join(REQUEST_FILE);
    replace_file(&*env.files, &path, &Request::Recover(recovery).encode())
        .map_err(|error| Error::Disk(format!("{}: {error}", path.display())))
}

/// A start that was to go on alone and was killed before that was decided must not make a later one do so.
fn drop_stale_request(directory: &DataDirectory) -> Result<(), Error> {
    let disk = |error: crate::storage::directory::DirectoryError| Error::Disk(error.to_string());
    let request = directory.request().map_err(disk)?.and_then(|bytes| Request::decode(&bytes).ok());
    if matches!(request, Some(Request::Recover(Recovery { everyone: true, .. }))) {
        tracing::warn!("an earlier start was to go on alone, and this one is not: that is forgotten");
        directory.remove_request().map_err(disk)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ClusterId, Membership, NodeId};

    fn initial() -> InitialCluster {
        InitialCluster {
            members: vec![("b".into(), "y:1".into()), ("a".into(), "x:1".into())],
            own: "y:1".into(),
            existing: false,
            token: "t".into(),
            force_new: false,
            strict: true,
            max_learners: 1,
        }
    }

    fn disk(state: DiskState) -> Identity {
        Identity {
            cluster: ClusterId(7),
            supersedes: Vec::new(),
            node_id: NodeId::new(4, 1),
            ordinal: 4,
            state,
            boot: 1,
            last_stop: None,
        }
    }

    #[test]
    fn the_flags_count_for_a_blank_disk_only() {
        let lost = || DiskState::Lost { reason: "x".into(), successor: None };
        let prepared = || DiskState::Prepared { voters: Membership::default() };
        let existing = InitialCluster { existing: true, ..initial() };
        let forced = InitialCluster { force_new: true, ..initial() };
        for (initial, state, expected) in [
            (&initial(), None, Who::Founder(1)),
            (&existing, None, Who::Ask(None)),
            (&initial(), Some(DiskState::Member), Who::Disk(4)),
            (&existing, Some(DiskState::Member), Who::Disk(4)),
            (&existing, Some(prepared()), Who::Founder(4)),
            (&initial(), Some(DiskState::Joining { nonce: 3 }), Who::Ask(Some(4))),
            (&initial(), Some(lost()), Who::Ask(Some(4))),
            (&forced, Some(lost()), Who::Disk(4)),
        ] {
            assert_eq!(who("b", initial, state.map(disk).as_ref()), Ok(expected));
        }
        let unknown = who("c", &initial(), None);
        assert!(unknown.is_err_and(|said| said.contains("couldn't find local name \"c\"")));
    }
}
