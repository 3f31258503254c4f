//! Counters over HTTP that survive the loss of a pod: a service that embeds Setstone and runs as a StatefulSet of its own.
//!
//! ```text
//! POST /visits    adds one to the counter "visits", and says what it is now
//! GET  /visits    says what it is
//! ```
//!
//! Every pod answers, whichever of them leads. `k8s/` has the manifests: those of Setstone itself, with this program in the image.

use std::convert::Infallible;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use setstone::client::{Client, Compare, CompareResult, Embedded, Kv, Operand, Put, Txn, TxnOp};
use setstone::config::{Cluster, Data, SizeFrom};
use setstone::identity::PodFacts;
use setstone::{Config, Node};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut stop = signal(SignalKind::terminate())?;
    let node = Node::start(config()?).await?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).await?;
    let store = node.client();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let store = store.clone();
            tokio::spawn(async move {
                let answering = service_fn(|request| answer(store.clone(), request));
                // A connection that breaks is its client's affair.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answering)
                    .await;
            });
        }
    });
    // The requests that are under way when the pod is told to stop are still answered: `shutdown` first makes the pod unready and
    // waits until Kubernetes sends nobody here any more.
    tokio::select! {
        _ = stop.recv() => node.shutdown().await,
        error = node.failed() => return Err(error.into()),
    }
    Ok(())
}

/// What the manifest says, as `setstone serve` reads it; everything else as a program likes it.
fn config() -> Result<Config, Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let pod = PodFacts::from(variable, &std::fs::read_to_string("/etc/resolv.conf")?)?;
    let expected = variable("SETSTONE_EXPECTED").ok_or("SETSTONE_EXPECTED is not set")?.parse()?;
    let directory = PathBuf::from(variable("SETSTONE_DATA_DIR").ok_or("SETSTONE_DATA_DIR is not set")?);
    let peers = pod.pod_ip.ok_or("SETSTONE_POD_IP is not set")?;
    let everywhere = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let base = Config::in_memory(&pod.pod_name);
    Ok(Config {
        cluster: Cluster::StatefulSet { expected, pod: pod.clone() },
        data: Data::Directory(directory),
        listen_client: everywhere(pod.client_port),
        listen_peer: (peers, pod.peer_port).into(),
        listen_admin: Some(everywhere(2381)),
        size_from: SizeFrom::StatefulSet,
        drain_delay: Duration::from_secs(3),
        grace_period: Duration::from_secs(25),
        ..base
    })
}

async fn answer(store: Embedded, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let counted = match *request.method() {
        Method::GET => read(&store, &name).await.map(|(count, _)| count),
        Method::POST => add_one(&store, &name).await,
        _ => return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "GET and POST are possible".into())),
    };
    Ok(match counted {
        Ok(count) => text(StatusCode::OK, count.to_string()),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text + "\n"));
    *response.status_mut() = status;
    response
}

/// The counter, and the revision that it has been that at; 0: it was never written.
async fn read(store: &Embedded, name: &str) -> Result<(u64, i64), Failure> {
    Ok(match Kv::get(store, format!("counter/{name}")).await? {
        Some(pair) => (std::str::from_utf8(&pair.value)?.parse()?, pair.mod_revision),
        None => (0, 0),
    })
}

/// Adds one, whoever else does the same at the same time, here or in another pod.
async fn add_one(store: &Embedded, name: &str) -> Result<u64, Failure> {
    loop {
        let (count, revision) = read(store, name).await?;
        let key = Bytes::from(format!("counter/{name}"));
        let unchanged = Compare {
            key: key.clone(),
            range_end: Bytes::new(),
            result: CompareResult::Equal,
            operand: Operand::Mod(revision),
        };
        let write = Put { key, value: (count + 1).to_string().into(), ..Put::default() };
        let txn = Txn { compares: vec![unchanged], success: vec![TxnOp::Put(write)], ..Txn::default() };
        if store.txn(txn).await?.value.succeeded {
            return Ok(count + 1);
        }
    }
}
