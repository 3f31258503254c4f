//! openraft's storage suite on our log and state machine, with both engines.

use std::io;
use std::sync::Arc;

use futures::Stream;
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::watch;

use super::harness::{CLUSTER, env};
use crate::env::simulated_files::SimulatedFiles;
use crate::env::{Env, tasks::Threads};
use crate::metrics::Metrics;
use crate::raft::log_store::LogStore;
use crate::raft::machine::Machine;
use crate::raft::snapshot::{self, Builder, SnapshotFile};
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::storage::engine::{Engine, MemoryEngine, SledEngine};
use crate::storage::{Log, Snapshots, log::Options};

/// The state machine, with snapshots of another one copied into its own directory, as a transfer does.
#[derive(Clone)]
struct Receiving {
    machine: StateMachine,
    snapshots: Snapshots,
}

impl RaftStateMachine<TypeConfig> for Receiving {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.machine.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        self.machine.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.machine.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, sent: SnapshotFile) -> io::Result<()> {
        let raw = self.snapshots.raw(sent.0.as_ref().unwrap()).unwrap();
        let mut incoming = self.snapshots.receive("suite", raw.length()).unwrap();
        incoming.write(0, &raw.read(0, usize::MAX).unwrap()).unwrap();
        let (file, _) = incoming.finish().unwrap();
        self.machine.install_snapshot(meta, SnapshotFile(Some(file))).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>>> {
        self.machine.get_current_snapshot().await
    }
}

struct Stores {
    sled: bool,
    env: Env,
    made: std::sync::atomic::AtomicU64,
}

type Kept = (watch::Sender<u64>, Option<tempfile::TempDir>);

impl StoreBuilder<TypeConfig, LogStore, Receiving, Kept> for Stores {
    async fn build(&self) -> Result<(Kept, LogStore, Receiving), openraft::StorageError<TypeConfig>> {
        let number = self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = std::path::PathBuf::from(format!("/{number}"));
        let (log, snapshots) = (root.join("log"), root.join("snapshots"));
        self.env.files.create_dir_all(&root).unwrap();
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        Log::create(&self.env, &log, options).unwrap();
        let (log, _) = Log::open(&self.env, &log, options).unwrap();
        let directory = self.sled.then(|| tempfile::tempdir().unwrap());
        let engine: Arc<dyn Engine> = match &directory {
            Some(directory) => Arc::new(SledEngine::open(directory.path(), 1 << 20).unwrap()),
            None => Arc::new(MemoryEngine::new()),
        };
        let machine = Arc::new(Machine::load(engine).unwrap());
        let snapshots = Snapshots::open(self.env.files.clone(), &snapshots, &root.join("incoming")).unwrap();
        let store = snapshot::Store::new(
            snapshots.clone(),
            CLUSTER.into(),
            self.env.tasks.clone(),
            Metrics::default(),
        );
        // The suite applies entries that were never appended.
        let (everything, durable) = watch::channel(u64::MAX);
        let machine = StateMachine::new(
            crate::identity::NodeId(1),
            machine,
            Arc::new(store.unwrap()),
            &log,
            Metrics::default(),
        );
        let machine = Receiving { machine: machine.with_durable(durable), snapshots };
        Ok(((everything, directory), LogStore::new(log, None), machine))
    }
}

async fn run(sled: bool) {
    let env = env(SimulatedFiles::new(1), Arc::new(Threads));
    Suite::test_all(Stores { sled, env, made: 0.into() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_suite_passes_in_memory() {
    run(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_suite_passes_on_sled() {
    run(true).await;
}
