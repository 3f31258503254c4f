#![allow(clippy::unwrap_used)]
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use super::*;
use crate::discovery::Directory;
use crate::env::network::Tcp;
use crate::env::{Clock, Env, Lookup, Names};
use crate::proto::peer;
use crate::proto::peer::membership_client::MembershipClient;
use crate::proto::peer::membership_server::{Membership, MembershipServer};

#[derive(Debug)]
struct Nobody;

impl Names for Nobody {
    fn lookup<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Lookup> {
        Box::pin(async { Lookup::Unknown("there is no name server".into()) })
    }
}

impl Clock for Nobody {
    fn unix_millis(&self) -> u64 {
        0
    }
}

/// A peer that answers with the address of whoever calls, so that connections can be told apart.
struct Mirror;

#[tonic::async_trait]
impl Membership for Mirror {
    async fn describe(
        &self,
        request: Request<peer::DescribeRequest>,
    ) -> Result<Response<peer::DescribeResponse>, Status> {
        let from = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
        Ok(Response::new(peer::DescribeResponse { pod: from, ..peer::DescribeResponse::default() }))
    }

    async fn prepare(
        &self,
        _: Request<peer::PrepareRequest>,
    ) -> Result<Response<peer::PrepareResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn retire(
        &self,
        _: Request<peer::RetireRequest>,
    ) -> Result<Response<peer::RetireResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn change(
        &self,
        _: Request<peer::ChangeRequest>,
    ) -> Result<Response<peer::ChangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn locate(
        &self,
        _: Request<peer::LocateRequest>,
    ) -> Result<Response<peer::LocateResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn admit(&self, _: Request<peer::AdmitRequest>) -> Result<Response<peer::AdmitResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn serve(at: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(at).await.unwrap();
    let at = listener.local_addr().unwrap();
    let incoming = futures::stream::unfold(listener, |listener| async {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let served = tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(MembershipServer::new(Mirror));
        server.serve_with_incoming(Box::pin(incoming)).await.unwrap();
    });
    (at, served)
}

fn channels(list: &[String]) -> (PeerChannels, Directory) {
    channels_by(Arc::new(Nobody), list)
}

fn channels_by(names: Arc<dyn Names>, list: &[String]) -> (PeerChannels, Directory) {
    let directory = Directory::fixed(0, list).unwrap();
    let env = Env {
        clock: Arc::new(Nobody),
        random: Arc::new(crate::env::random::SystemRandom),
        files: Arc::new(crate::env::test_files::NoFiles),
        network: Arc::new(Tcp::default()),
        names,
        tasks: Arc::new(crate::env::tasks::Threads),
        owner: None,
    };
    (PeerChannels::new(AddressBook::new(&env, directory.clone())), directory)
}

async fn call(channel: Channel) -> Result<String, Status> {
    let answer = MembershipClient::new(channel).describe(peer::DescribeRequest::default()).await?;
    Ok(answer.into_inner().pod)
}

async fn until_it_answers(channels: &PeerChannels, peer: &Peer) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match call(channels.channel(peer, Path::Data)).await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A name server that answers nobody until it is told to.
#[derive(Debug)]
struct Silent(tokio::sync::watch::Sender<bool>);

impl Names for Silent {
    fn lookup<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Lookup> {
        let mut answers = self.0.subscribe();
        Box::pin(async move {
            let _ = answers.wait_for(|answers| *answers).await;
            Lookup::At(vec![[127, 0, 0, 1].into()])
        })
    }
}

/// A channel whose caller gives up while the peer's name is asked does nothing more until its next call.
#[tokio::test]
async fn a_call_that_is_given_up_holds_up_no_other_path() {
    let (at, _served) = serve(anywhere()).await;
    let names = Arc::new(Silent(tokio::sync::watch::Sender::new(false)));
    let (channels, directory) = channels_by(names.clone(), &[format!("peer.example:{}", at.port())]);
    let peer = directory.own().clone();
    let given_up = call(channels.channel(&peer, Path::Snapshot));
    assert!(timeout(Duration::from_millis(100), given_up).await.is_err(), "nobody knows its address yet");
    names.0.send_replace(true);
    let answered = timeout(2 * limits::DNS_TIMEOUT, until_it_answers(&channels, &peer)).await;
    assert!(answered.is_ok(), "the other path waits for its turn to ask");
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test]
async fn each_path_has_one_connection_of_its_own() {
    let (at, _served) = serve(anywhere()).await;
    let (channels, directory) = channels(&[at.to_string()]);
    let peer = directory.peer(0).unwrap();
    let data = call(channels.channel(&peer, Path::Data)).await.unwrap();
    let heartbeat = call(channels.channel(&peer, Path::Heartbeat)).await.unwrap();
    let snapshot = call(channels.channel(&peer, Path::Snapshot)).await.unwrap();
    assert!(data != heartbeat && heartbeat != snapshot && data != snapshot);
    assert_eq!(call(channels.channel(&peer, Path::Data)).await.unwrap(), data);
}

#[tokio::test]
async fn a_channel_outlives_its_peer() {
    let (at, served) = serve(anywhere()).await;
    let (channels, directory) = channels(&[at.to_string()]);
    let peer = directory.peer(0).unwrap();
    let first = until_it_answers(&channels, &peer).await;
    served.abort();
    let _ = served.await;
    channels.misdirected(&peer);
    call(channels.channel(&peer, Path::Data)).await.unwrap_err();
    let (_, _served) = serve(at).await;
    assert_ne!(until_it_answers(&channels, &peer).await, first);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_by_keep_alive() {
    // It accepts connections, and that is all.
    let silent = TcpListener::bind(anywhere()).await.unwrap();
    let (channels, directory) = channels(&[silent.local_addr().unwrap().to_string()]);
    let channel = channels.channel(&directory.peer(0).unwrap(), Path::Data);
    let failed = timeout(limits::PEER_KEEPALIVE * 6, call(channel)).await;
    assert!(failed.is_ok_and(|answer| answer.is_err()), "the call hangs, or is answered");
}

#[tokio::test]
async fn an_unreachable_peer_is_refused_at_once_and_dialled_rarely() {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let (channels, directory) = channels(&[at.to_string()]);
    let peer = directory.peer(0).unwrap();
    let started = Instant::now();
    let mut held_back = 0;
    for _ in 0..100 {
        let status = call(channels.channel(&peer, Path::Data)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
        held_back += usize::from(format!("{status:?}").contains("a moment ago"));
    }
    assert!(held_back >= 50, "dialled {} times", 100 - held_back);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn channels_are_bounded() {
    let (channels, _) = channels(&["127.0.0.1:1".into()]);
    for port in 1..=1_000 {
        let peer = Peer { ordinal: 0, fqdn: "127.0.0.1".into(), port };
        let _ = channels.channel(&peer, Path::Data);
    }
    assert_eq!(channels.made.lock().channels.len(), limits::PEERS);
}
