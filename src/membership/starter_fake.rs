//! A disk and consensus in memory, for the tests of the starter.

use super::*;

/// A disk and consensus in memory.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) disk: Mutex<Disk>,
    pub(super) consensus: Mutex<Option<ConsensusView>>,
}

impl Local for Fake {
    fn is_loading(&self) -> bool {
        false
    }

    fn disk(&self) -> Disk {
        self.disk.lock().clone()
    }

    fn consensus(&self) -> Option<ConsensusView> {
        self.consensus.lock().clone()
    }

    fn prepare(&self, identity: Prepared) -> BoxFuture<'_, Result<(), PrepareRefusal>> {
        let mut disk = self.disk.lock();
        let random = disk.boot.random;
        let stored = Identity {
            cluster: identity.cluster,
            supersedes: Vec::new(),
            node_id: identity.node_id,
            ordinal: identity.node_id.ordinal(),
            state: DiskState::Prepared { voters: identity.voters },
            boot: 1,
            last_stop: None,
        };
        *disk = Disk::from_identity(&stored, Boot { number: 1, random }, Held::default(), None);
        Box::pin(async { Ok(()) })
    }

    fn begin_joining(&self, cluster: ClusterId) -> BoxFuture<'_, Result<u64, String>> {
        let mut disk = self.disk.lock();
        if !matches!(disk.what, What::Lost { .. }) {
            (disk.what, disk.cluster) = (What::Joining, cluster);
        }
        Box::pin(async { Ok(NONCE) })
    }

    fn join(&self, admitted: Admitted) -> BoxFuture<'_, Result<(), String>> {
        let mut disk = self.disk.lock();
        assert_eq!(admitted.nonce, NONCE);
        let random = disk.boot.random;
        *disk = Disk {
            what: What::Joining,
            ordinal: admitted.node_id.ordinal(),
            cluster: admitted.cluster,
            node_id: admitted.node_id,
            boot: Boot { number: 1, random },
            ..Disk::default()
        };
        Box::pin(async { Ok(()) })
    }
}

pub(super) const NONCE: u64 = 7;

/// A leader that admits whoever asks, if it is one.
impl Lead for Fake {
    fn leading(&self) -> Option<Leading> {
        let id = self.disk.lock().node_id;
        let leads = self.consensus.lock().as_ref().is_some_and(|view| view.leader == Some(id));
        leads.then(|| Leading { id, answering: [id].into(), ..Leading::default() })
    }

    fn admit(&self, applicant: Applicant) -> BoxFuture<'_, Result<NodeId, AdmitRefusal>> {
        assert_eq!(applicant.nonce, NONCE);
        Box::pin(async move { Ok(NodeId::new(applicant.ordinal, 50)) })
    }

    fn note(&self, _: ClusterEvent) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Err("nothing is noted here".into()) })
    }

    fn record(&self, _: OrdinalRange) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Err("nothing is recorded here".into()) })
    }

    fn change(&self, _: Change) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Err("nothing changes here".into()) })
    }
}

/// Nobody takes what is told to it.
pub(super) fn journal(lead: &Arc<Fake>) -> Journal {
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    Journal::new("s-0", clock, random, Arc::clone(lead) as _).0
}

impl Fake {
    pub(super) fn blank() -> Arc<Self> {
        let fake = Self::default();
        *fake.disk.lock() = Disk::blank(crate::env::random::SystemRandom.next_u64());
        Arc::new(fake)
    }

    pub(super) fn member(ordinal: u16, cluster: u64, voters: &[u16], last: u64) -> Arc<Self> {
        let fake = Self::default();
        let held = Held { vote: Vote::default(), last: LogId { term: 1, index: last } };
        *fake.disk.lock() = Disk {
            what: What::Member,
            ordinal,
            cluster: ClusterId(cluster),
            node_id: NodeId::new(ordinal, 1),
            boot: Boot { number: 2, random: u64::from(ordinal) },
            held,
            at_boot: held,
            membership: Membership {
                configs: vec![voters.iter().map(|ordinal| NodeId::new(*ordinal, 1)).collect()],
                members: Vec::new(),
            },
            ..Disk::default()
        };
        Arc::new(fake)
    }

    /// What `node` does on `Initialise`: the log gets its first entry.
    pub(super) fn initialise(&self) {
        let mut disk = self.disk.lock();
        assert_eq!(disk.what, What::Prepared);
        disk.what = What::Member;
        disk.held.last = LogId { term: 1, index: 1 };
    }
}
