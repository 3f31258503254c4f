//! Members in one process, on simulated files, talking over loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::config::Tuning;
use crate::env::{Env, clock, names, network, random, simulated_files::SimulatedFiles, tasks};
use crate::identity::{ClusterId, NodeId};
use crate::metrics::Metrics;
use crate::mvcc::command::{Command, Put, Range, Request};
use crate::raft::boots::Boots;
use crate::raft::machine::Machine;
use crate::raft::store::Store;
use crate::storage::{Log, MemoryEngine, log::Options};

#[derive(Debug)]
struct NoNames;

impl names::Names for NoNames {
    fn lookup<'a>(&'a self, _: &'a str) -> futures::future::BoxFuture<'a, names::Lookup> {
        Box::pin(std::future::ready(names::Lookup::Unknown("no names in this test".into())))
    }
}

pub(crate) fn env(files: SimulatedFiles) -> Env {
    Env {
        clock: Arc::new(clock::SystemClock),
        random: Arc::new(random::SystemRandom),
        files: Arc::new(files),
        network: Arc::new(network::Tcp::default()),
        names: Arc::new(NoNames),
        tasks: Arc::new(tasks::Threads),
    }
}

struct Loopback;

impl Dial for Loopback {
    fn channel(&self, _: NodeId, address: &str, _: Lane) -> Channel {
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
    }
}

struct Member {
    consensus: Consensus,
    server: tokio::task::JoinHandle<()>,
}

struct Cluster {
    members: Vec<Member>,
}

impl Cluster {
    async fn start(size: u16) -> Self {
        let mut ports = Vec::new();
        for _ in 0..size {
            ports.push(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let nodes: BTreeMap<NodeId, PeerNode> = ports
            .iter()
            .enumerate()
            .map(|(ordinal, port)| {
                let node = PeerNode {
                    name: format!("test-{ordinal}"),
                    peer_address: port.local_addr().unwrap().to_string(),
                    client_urls: Vec::new(),
                };
                (NodeId::new(ordinal as u16, 1), node)
            })
            .collect();
        let mut members = Vec::new();
        for (id, port) in nodes.keys().zip(ports) {
            members.push(Member::start(*id, port).await);
        }
        members[0].consensus.initialise(nodes).await.unwrap();
        Self { members }
    }

    async fn leader(&self) -> &Consensus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            for member in &self.members {
                if member.consensus.is_leader() {
                    return &member.consensus;
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        for member in self.members {
            member.consensus.shutdown().await;
            member.server.abort();
        }
    }
}

impl Member {
    async fn start(id: NodeId, port: tokio::net::TcpListener) -> Self {
        let env = env(SimulatedFiles::new(id.0));
        let directory = Path::new("/data/log");
        Log::create(&env, directory, Options::default()).unwrap();
        let (log, recovered) = Log::open(&env, directory, Options::default()).unwrap();
        let machine = Arc::new(Machine::load(Arc::new(MemoryEngine::new()), None).unwrap());
        let directory = Path::new("/data/snapshots");
        let snapshots =
            crate::storage::Snapshots::open(env.files.clone(), directory, Path::new("/data/incoming"))
                .unwrap();
        let snapshots =
            snapshot::Store::new(snapshots, ClusterId(7), env.tasks.clone(), Metrics::default()).unwrap();
        let snapshots = Arc::new(snapshots);
        let mine = Sender { cluster: ClusterId(7), node: id, boot: 1, boot_random: id.0 };
        let parts = Parts {
            mine,
            log,
            committed: recovered.committed,
            machine,
            snapshots,
            dial: Arc::new(Loopback),
            boots: Boots::default(),
            tuning: Tuning { log_bytes_before_snapshot: 1 << 40, ..Tuning::default() },
            metrics: Metrics::default(),
        };
        let consensus = Consensus::start(parts).await.unwrap();
        let service = Service::new();
        service.set(consensus.clone());
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service.into_server())
                .serve_with_incoming(
                    tonic::transport::server::TcpIncoming::from(port).with_nodelay(Some(true)),
                )
                .await
                .unwrap();
        });
        Self { consensus, server }
    }
}

fn put(key: &str, value: &str) -> Request {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Put::default()
    };
    Request::anonymous(Command::Put(put))
}

fn get(key: &str) -> Range {
    Range { key: Bytes::copy_from_slice(key.as_bytes()), ..Range::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_takes_writes_and_reads_what_was_written() {
    let cluster = Cluster::start(3).await;
    cluster.leader().await;
    for (number, writer) in cluster.members.iter().enumerate() {
        let (reply, _) = writer.consensus.propose(put("k", &number.to_string())).await.unwrap();
        assert_eq!(reply.revision, number as i64 + 2);
        for reader in &cluster.members {
            reader.consensus.barrier().await.unwrap();
            let (found, revision) = reader.consensus.range(get("k")).await.unwrap();
            assert_eq!(found.kvs[0].value, number.to_string());
            assert_eq!(revision, reply.revision);
        }
    }
    let mut hashes = Vec::new();
    for member in &cluster.members {
        hashes.push(member.consensus.hash(0).await.unwrap());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn speed() {
    let cluster = Cluster::start(3).await;
    cluster.leader().await;
    for clients in [1, 2, 3, 128, 512] {
        let start = Instant::now();
        let mut tasks = Vec::new();
        for client in 0..clients {
            let consensus = cluster.members[client % 3].consensus.clone();
            tasks.push(tokio::spawn(async move {
                let value = "x".repeat(256);
                let mut done = 0;
                while start.elapsed() < Duration::from_secs(2) {
                    consensus.propose(put(&format!("k{client}"), &value)).await.unwrap();
                    done += 1;
                }
                done
            }));
        }
        let mut done = 0;
        for task in tasks {
            done += task.await.unwrap();
        }
        println!("{clients} clients: {} puts/s", done / 2);
    }
    cluster.stop().await;
}
