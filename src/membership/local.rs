//! What `membership` needs of this pod's own disk and consensus; `node` gives it.

use futures::future::BoxFuture;

use super::{AdmitRefusal, Applicant, Change, ConsensusView, Disk, Leading};
use crate::identity::{ClusterId, Membership, NodeId, OrdinalRange, Request};
use crate::mvcc::cluster::{Adding, ClusterEvent};

/// The identity that a first bootstrap gives to a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Which disk this one becomes.
    pub node_id: NodeId,
    /// The members that the cluster starts with.
    pub voters: Membership,
    /// The cluster that the disk was prepared for before, by an attempt that broke off; 0 for a blank one.
    pub replaces: ClusterId,
}

/// What a disk becomes that was admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The cluster that it joins.
    pub cluster: ClusterId,
    /// Clusters that `cluster` replaced after a recovery.
    pub supersedes: Vec<ClusterId>,
    /// Which disk it becomes.
    pub node_id: NodeId,
    /// What it called itself when it asked.
    pub nonce: u64,
}

/// Why a disk did not take the identity of a first bootstrap. For people; the bootstrap is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareRefusal {
    /// The disk was in use: it has a vote or an entry, or is joining or lost.
    #[error("the disk is {0}")]
    InUse(String),
    /// This process already votes or initialises under the identity that the disk has.
    #[error("the disk already takes part in cluster {0}")]
    TakesPart(ClusterId),
    /// The disk was prepared by another attempt than the one that this one means to replace.
    #[error("the disk is prepared for cluster {0} meanwhile")]
    Late(ClusterId),
    /// The identity is not for this pod, or not one of a first bootstrap.
    #[error("{0}")]
    Wrong(String),
    /// The disk could not be written.
    #[error("the disk could not be written: {0}")]
    Disk(String),
}

/// What the starter needs of the disk and of consensus.
pub trait Local: Send + Sync {
    /// Log and state are still being opened: the rest cannot be told yet, and no identity can be taken.
    fn is_loading(&self) -> bool;
    /// What the disk is now, with its vote, last log id, last membership, marks and the boots that were seen. Asked often.
    fn disk(&self) -> Disk;
    /// What consensus knows now; `None` before it runs.
    fn consensus(&self) -> Option<ConsensusView>;
    /// The pods that there should be, as the applied state holds it.
    fn recorded(&self) -> Option<OrdinalRange> {
        None
    }
    /// What a human asks for through the data directory.
    fn request(&self) -> Option<Request> {
        None
    }
    /// Forgets what was asked for, because it is not done; why.
    fn drop_request(&self, _why: &str) {}
    /// Gives the disk the identity of a first bootstrap: creates an empty log, then the identity, and fsyncs both, before it
    /// returns. Replaces the identity of a bootstrap that broke off. Refuses, and changes nothing, if the log has a vote or an
    /// entry, or if the disk is anything but blank or prepared. Called by one at a time, and never once the [`Gate`] is closed.
    fn prepare(&self, identity: Prepared) -> BoxFuture<'_, Result<(), PrepareRefusal>>;
    /// What the disk calls itself while it asks `cluster` to be admitted. Drawn at random once, and fsynced before it is returned: from
    /// then on the disk is not fresh any more. A lost disk stays lost.
    fn begin_joining(&self, cluster: ClusterId) -> BoxFuture<'_, Result<u64, String>>;
    /// The disk was admitted: sets a lost one aside, creates an empty log, then the identity, and fsyncs all, before it returns.
    fn join(&self, admitted: Admitted) -> BoxFuture<'_, Result<(), String>>;
}

/// What `membership` needs of consensus where it leads.
pub trait Lead: Send + Sync {
    /// What this member sees; `None` if it does not lead.
    fn leading(&self) -> Option<Leading>;
    /// Commits that `applicant` is admitted, which [`super::may_join`] allowed, and makes it a learner. The same nonce gets the same id.
    fn admit(&self, applicant: Applicant) -> BoxFuture<'_, Result<NodeId, AdmitRefusal>>;
    /// Commits that these pods there should be.
    fn record(&self, range: OrdinalRange) -> BoxFuture<'_, Result<(), String>>;
    /// Commits that this is kept in the event log, wherever the leader is. Told twice, it is kept once.
    fn note(&self, event: ClusterEvent) -> BoxFuture<'_, Result<(), String>>;
    /// Commits that somebody may join, and returns the id that it gets; `None` if a URL of it was another's by then.
    fn add(&self, _adding: Adding) -> BoxFuture<'_, Result<Option<NodeId>, String>> {
        Box::pin(async { Err("members are not added here".into()) })
    }
    /// Commits a change that was planned on the membership that [`Lead::leading`] shows now.
    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), String>>;
}

/// Taking an identity, voting and initialising exclude each other: identities are taken through this gate, and it is closed, for
/// the life of the process, before this process votes or initialises.
#[derive(Debug, Default)]
pub struct Gate {
    closed: tokio::sync::Mutex<bool>,
}

/// The gate, held still: nobody takes an identity meanwhile.
pub(super) struct Still<'a> {
    closed: tokio::sync::MutexGuard<'a, bool>,
}

impl Gate {
    /// Waits until nobody is taking an identity, and keeps it so.
    pub(super) async fn hold(&self) -> Still<'_> {
        Still { closed: self.closed.lock().await }
    }
}

impl Still<'_> {
    /// From now on no identity is taken.
    pub(super) fn close(&mut self) {
        *self.closed = true;
    }

    /// Whether no identity is taken any more.
    pub(super) fn is_closed(&self) -> bool {
        *self.closed
    }

    /// Lets the disk take an identity, unless the gate is closed.
    pub(super) async fn take(&self, local: &dyn Local, identity: Prepared) -> Result<(), PrepareRefusal> {
        let disk = local.disk();
        if !disk.is_fresh() || !disk.held.is_nothing() {
            return Err(PrepareRefusal::InUse(disk.what.to_string()));
        }
        if *self.closed {
            return Err(PrepareRefusal::TakesPart(disk.cluster));
        }
        // A letter of an earlier attempt that comes late must not undo a later one.
        if disk.cluster != identity.replaces {
            return Err(PrepareRefusal::Late(disk.cluster));
        }
        local.prepare(identity).await
    }
}
