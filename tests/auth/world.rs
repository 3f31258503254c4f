//! A member with users, and calls of them as any etcd client makes them.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use setstone::client::{Access, Credentials, Options, Permission, Remote};
use setstone::config::{AuthConfig, Tokens};
use setstone::proto::etcdserverpb as pb;
use setstone::{Config, Node, limits};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Long enough for a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A member alone, in memory, whose passwords are worth no work.
pub fn config(tokens: Tokens, token_ttl: Duration) -> Config {
    let auth =
        AuthConfig { tokens, token_ttl, bcrypt_cost: limits::BCRYPT_COST_MIN, ..AuthConfig::default() };
    Config { auth, ..Config::in_memory("alone") }
}

pub async fn start(config: Config) -> Node {
    let node = Node::start(config).await.unwrap();
    node.ready(Instant::now() + PATIENCE).await.unwrap();
    node
}

pub async fn alone() -> Node {
    start(config(Tokens::Simple, limits::TOKEN_TTL)).await
}

pub fn remote(endpoints: impl std::fmt::Display, user: Option<(&str, &str)>) -> Remote {
    let credentials = user.map(|(name, password)| Credentials::new(name, password));
    Remote::new(&endpoints.to_string(), &Options { credentials, ..Options::default() }).unwrap()
}

pub fn permission(access: Access, key: &str, range_end: &str) -> Permission {
    Permission { access, key: bytes(key), range_end: bytes(range_end) }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// `root`, and `alice`, who reads `[r, s)` and writes `[w, x)`; their passwords are their names. Then enables.
pub async fn set_up(client: &Remote) {
    client.user_add("root", Some("root")).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("alice", Some("alice")).await.unwrap();
    client.role_add("r").await.unwrap();
    client.role_grant_permission("r", permission(Access::Read, "r", "s")).await.unwrap();
    client.role_grant_permission("r", permission(Access::Write, "w", "x")).await.unwrap();
    client.user_grant_role("alice", "r").await.unwrap();
    client.auth_enable().await.unwrap();
}

/// A member with those, and `root`'s client.
pub async fn with_users(config: Config) -> (Node, Remote) {
    let node = start(config).await;
    set_up(&remote(node.addresses().client, None)).await;
    let root = remote(node.addresses().client, Some(("root", "root")));
    (node, root)
}

/// Calls with a header, or none.
#[derive(Clone)]
pub struct Calls {
    channel: Channel,
    header: Option<(&'static str, String)>,
}

impl Calls {
    pub async fn to(address: impl std::fmt::Display) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { channel, header: None }
    }

    pub fn with(&self, name: &'static str, value: impl Into<String>) -> Self {
        Self { channel: self.channel.clone(), header: Some((name, value.into())) }
    }

    pub fn with_token(&self, token: &str) -> Self {
        self.with("token", token)
    }

    pub async fn token(&self, user: &str, password: &str) -> Result<String, Status> {
        let request = pb::AuthenticateRequest { name: user.into(), password: password.into() };
        let answer: pb::AuthenticateResponse = self.ask("etcdserverpb.Auth/Authenticate", request).await?;
        Ok(answer.token)
    }

    /// The user, with a token that is new.
    pub async fn user(&self, name: &str) -> Self {
        self.with_token(&self.token(name, name).await.unwrap())
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn request<Q>(&self, message: Q) -> tonic::Request<Q> {
        let mut request = tonic::Request::new(message);
        if let Some((name, value)) = &self.header {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        request
    }

    pub async fn ask<Q, A>(&self, method: &str, message: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let path = format!("/{method}").parse().unwrap();
        Ok(grpc.unary(self.request(message), path, codec).await?.into_inner())
    }

    pub async fn range(
        &self,
        key: &str,
        range_end: &str,
        serializable: bool,
    ) -> Result<pb::RangeResponse, Status> {
        let (key, range_end) = (bytes(key), bytes(range_end));
        self.ask(
            "etcdserverpb.KV/Range",
            pb::RangeRequest { key, range_end, serializable, ..Default::default() },
        )
        .await
    }

    pub async fn put(&self, put: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        self.ask("etcdserverpb.KV/Put", put).await
    }

    pub async fn txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.ask("etcdserverpb.KV/Txn", txn).await
    }
}

pub fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: "v".into(), ..Default::default() }
}

/// What etcd says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Fine,
    Nobody,
    NoToken,
    Old,
    Denied,
    NotEnabled,
    Failed,
}

/// What an answer says.
///
/// # Panics
/// If it says anything else.
pub fn said<T: std::fmt::Debug>(answer: &Result<T, Status>) -> Said {
    let Err(status) = answer else { return Said::Fine };
    match (status.code(), status.message()) {
        (Code::InvalidArgument, "etcdserver: user name is empty") => Said::Nobody,
        (Code::Unauthenticated, "etcdserver: invalid auth token") => Said::NoToken,
        (Code::InvalidArgument, "etcdserver: revision of auth store is old") => Said::Old,
        (Code::PermissionDenied, "etcdserver: permission denied") => Said::Denied,
        (Code::FailedPrecondition, "etcdserver: authentication is not enabled") => Said::NotEnabled,
        (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password") => {
            Said::Failed
        }
        other => panic!("{other:?}"),
    }
}
