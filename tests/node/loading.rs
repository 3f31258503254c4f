//! A member whose disk takes long to open: the ports are there, and say so.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use setstone::client::{Client, Kv};
use setstone::config::Cluster;
use setstone::env::files::{File, Files, Lock, Open, Space};
use setstone::env::simulated_files::SimulatedFiles;
use setstone::proto::peer::membership_client::MembershipClient;
use setstone::proto::peer::{AppendRequest, DescribeRequest, PrepareRequest, raft_client::RaftClient};
use setstone::{Config, Node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic::transport::Channel;

use crate::disks::world;
use crate::process::{Looks, free_ports};

/// Files of which those of the log are opened only while `held` is free.
#[derive(Debug)]
struct Slow {
    files: SimulatedFiles,
    held: Arc<RwLock<()>>,
}

impl Files for Slow {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let _held = path.components().any(|part| part.as_os_str() == "log").then(|| self.held.read());
        self.files.open(path, how)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.files.list(directory)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.files.exists(path)
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.files.create_dir_all(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.files.remove_file(path)
    }

    fn remove_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.files.remove_dir_all(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.files.sync_dir(directory)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.files.space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.files.lock(path)
    }
}

/// The answer of a port to a GET: status and body.
async fn get(at: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(at).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    code.zip(body).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A world in which a node has put `k` and stopped. Its files open only while nobody holds the lock.
async fn written(seed: u64, config: Config) -> (Arc<RwLock<()>>, setstone::env::Env) {
    let (files, held) = (SimulatedFiles::new(seed), Arc::new(RwLock::new(())));
    let slow = Slow { files: files.clone(), held: held.clone() };
    let env = setstone::env::Env { files: Arc::new(slow), ..world(&files) };
    let node = Node::start_in(config, env.clone()).await.unwrap();
    Kv::put(&node.client(), "k", "v").await.unwrap();
    node.shutdown().await;
    (held, env)
}

async fn peer(at: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap()
}

#[tokio::test]
#[allow(clippy::await_holding_lock)] // What waits for it is not a task.
async fn while_the_disk_is_opened_the_ports_answer_and_say_so() {
    let [peer_port, admin] = free_ports();
    let config = || Config {
        cluster: Cluster::Fixed { ordinal: 0, peers: vec![peer_port.to_string()] },
        listen_peer: peer_port,
        listen_admin: Some(admin),
        ..Config::in_memory("slow")
    };
    let (held, env) = written(3, config()).await;

    let closed = held.write().unwrap();
    let starting = tokio::spawn(Node::start_in(config(), env.clone()));
    let mut looks = Looks::within(Duration::from_secs(20));
    while !get(admin, "/livez").await.is_ok_and(|(code, _)| code == 200) {
        looks.next("it is live").await;
    }
    let (code, body) = get(admin, "/readyz").await.unwrap();
    assert_eq!(code, 503);
    assert!(
        body.contains("[-]disk open failed: the log is being read, and the state opened or rebuilt"),
        "{body}"
    );
    let (_, status) = get(admin, "/status").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["disk"]["is"], "being opened");
    assert_eq!((&status["ready"], &status["serving"]), (&false.into(), &false.into()));
    // Others are told at once that there is nothing to be told yet: they would hold half of the truth for all of it.
    let mut membership = MembershipClient::new(peer(peer_port).await);
    let silent = membership.describe(DescribeRequest::default()).await.unwrap_err();
    assert_eq!(
        (silent.code(), silent.message()),
        (Code::Unavailable, "the disk of this member is being opened")
    );
    let refused = membership.prepare(PrepareRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let append = RaftClient::new(peer(peer_port).await).heartbeat(AppendRequest::default()).await;
    assert_eq!(append.unwrap_err().code(), Code::Unavailable);
    assert!(!starting.is_finished());

    drop(closed);
    let node = starting.await.unwrap().unwrap();
    let pair = Kv::get(&node.client(), "k").await.unwrap().unwrap();
    assert_eq!(&pair.value[..], b"v");
    assert!(membership.describe(DescribeRequest::default()).await.is_ok());
    while get(admin, "/readyz").await.unwrap().0 != 200 {
        looks.next("it is ready").await;
    }
    assert_eq!(node.client().status().await.unwrap().value.errors, Vec::<String>::new());
    node.shutdown().await;
}

#[tokio::test]
#[allow(clippy::await_holding_lock)] // What waits for it is not a task.
async fn a_start_that_is_given_up_closes_its_ports_and_keeps_the_directory_until_it_is_done() {
    let [client, admin] = free_ports();
    let config = || Config { listen_client: client, listen_admin: Some(admin), ..Config::in_memory("slow") };
    let (held, env) = written(4, config()).await;

    let closed = held.write().unwrap();
    let starting = tokio::spawn(Node::start_in(config(), env.clone()));
    let mut looks = Looks::within(Duration::from_secs(20));
    while get(admin, "/livez").await.is_err() {
        looks.next("it is live").await;
    }
    starting.abort();
    while get(admin, "/livez").await.is_ok() {
        looks.next("the port is closed").await;
    }
    let second = Node::start_in(config(), env.clone()).await.err();
    assert!(matches!(second, Some(setstone::Error::Locked(_))), "{second:?}");

    drop(closed);
    let node = loop {
        match Node::start_in(config(), env.clone()).await {
            Err(setstone::Error::Locked(_)) => looks.next("the directory is free").await,
            started => break started.unwrap(),
        }
    };
    assert!(Kv::get(&node.client(), "k").await.unwrap().is_some());
    node.shutdown().await;
}

#[tokio::test]
async fn a_disk_that_cannot_be_opened_leaves_no_port_behind() {
    let directory = tempfile::tempdir().unwrap();
    let [client, admin] = free_ports();
    let config = || Config {
        data: setstone::config::Data::Directory(directory.path().into()),
        listen_client: client,
        listen_admin: Some(admin),
        ..Config::in_memory("alone")
    };
    let node = Node::start(config()).await.unwrap();
    Kv::put(&node.client(), "k", "v").await.unwrap();
    node.shutdown().await;
    drop(node);
    let segment = std::fs::read_dir(directory.path().join("log")).unwrap().next().unwrap().unwrap().path();
    let good = std::fs::read(&segment).unwrap();
    // A good header of a later version.
    let mut later = good.clone();
    later[8..12].copy_from_slice(&9_u32.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&later[..12]), &later[16..512]);
    later[12..16].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(&segment, later).unwrap();
    for _ in 0..2 {
        let refused = Node::start(config()).await.err();
        assert!(matches!(&refused, Some(setstone::Error::Disk(_))), "{refused:?}");
        for port in [client, admin] {
            assert!(tokio::net::TcpStream::connect(port).await.is_err(), "{port} is still open");
        }
    }
    std::fs::write(&segment, good).unwrap();
    let node = Node::start(config()).await.unwrap();
    assert!(Kv::get(&node.client(), "k").await.unwrap().is_some());
    node.shutdown().await;
}
