//! One of the two servers, and what it answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use setstone::proto::etcdserverpb::{self as pb, kv_client::KvClient, lease_client::LeaseClient};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::program::{Call, STREAMS};
use super::watching::Stream;

/// Seconds by which the time that a lease has left may differ.
const TTL_TOLERANCE: i64 = 2;

/// What a call was answered, without what differs from server to server.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    KeepAlive(pb::LeaseKeepAliveResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    Leases(pb::LeaseLeasesResponse),
    /// Of [`Call::Auth`], as text.
    Auth(String),
    Failed {
        code: tonic::Code,
        message: String,
    },
}

impl Answer {
    /// Whether they are the same, but for the time that passed between them.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::TimeToLive(one), Self::TimeToLive(other)) => {
                (one.ttl - other.ttl).abs() <= TTL_TOLERANCE
                    && *one == pb::LeaseTimeToLiveResponse { ttl: one.ttl, ..other.clone() }
            }
            _ => self == other,
        }
    }

    /// The revision in the header.
    pub fn revision(&self) -> Option<i64> {
        let header = match self {
            Self::Range(answer) => &answer.header,
            Self::Put(answer) => &answer.header,
            Self::Delete(answer) => &answer.header,
            Self::Txn(answer) => &answer.header,
            Self::Compact(answer) => &answer.header,
            Self::Grant(answer) => &answer.header,
            Self::Revoke(answer) => &answer.header,
            Self::KeepAlive(answer) => &answer.header,
            Self::TimeToLive(answer) => &answer.header,
            Self::Leases(answer) => &answer.header,
            Self::Auth(_) | Self::Failed { .. } => &None,
        };
        header.as_ref().map(|header| header.revision)
    }
}

/// In whose name calls are made: a token, if in anybody's.
#[derive(Clone, Default)]
pub struct Name(Arc<Mutex<Option<String>>>);

impl Interceptor for Name {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &*self.0.lock() {
            let token = token.parse().map_err(|_| Status::internal("the token is no header"))?;
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }
}

/// A channel on which calls are made in somebody's name.
pub type Named = InterceptedService<Channel, Name>;

pub struct Side {
    pub name: &'static str,
    /// What the last authentication gave.
    pub token: Option<String>,
    who: Name,
    channel: Channel,
    kv: KvClient<Named>,
    lease: LeaseClient<Named>,
    streams: Vec<Option<Stream>>,
}

impl Side {
    pub async fn connect(name: &'static str, address: SocketAddr) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let who = Name::default();
        let named = || Named::new(channel.clone(), who.clone());
        Self {
            name,
            token: None,
            kv: KvClient::new(named()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(named()),
            channel: channel.clone(),
            who,
            streams: (0..STREAMS).map(|_| None).collect(),
        }
    }

    /// Begins a stream anew.
    pub fn open(&mut self, stream: usize) {
        self.streams[stream] = Some(Stream::open(self.channel.clone()));
    }

    pub fn stream(&self, stream: usize) -> &Stream {
        self.streams[stream].as_ref().unwrap()
    }

    /// The call in the name of whoever has this token.
    pub async fn call_as(&mut self, token: Option<String>, call: &Call) -> Answer {
        *self.who.0.lock() = token;
        self.call(call).await
    }

    pub async fn call(&mut self, call: &Call) -> Answer {
        match self.answer(call.clone()).await {
            Ok(answer) => answer,
            Err(status) => Answer::Failed { code: status.code(), message: status.message().to_owned() },
        }
    }

    async fn answer(&mut self, call: Call) -> Result<Answer, Status> {
        macro_rules! answered {
            ($client:ident . $method:ident ($request:expr)) => {{
                let mut answer = self.$client.$method($request).await?.into_inner();
                without_ids(&mut answer.header);
                answer
            }};
        }
        Ok(match call {
            Call::Range(request) => Answer::Range(answered!(kv.range(request))),
            Call::Put(request) => Answer::Put(answered!(kv.put(request))),
            Call::Delete(request) => Answer::Delete(answered!(kv.delete_range(request))),
            Call::Txn(request) => Answer::Txn(answered!(kv.txn(request))),
            Call::Compact(request) => Answer::Compact(answered!(kv.compact(request))),
            Call::Grant(request) => Answer::Grant(answered!(lease.lease_grant(request))),
            Call::Revoke(request) => Answer::Revoke(answered!(lease.lease_revoke(request))),
            Call::PassingGrant(request) => {
                let is_drawn = request.id == 0;
                let mut granted = answered!(lease.lease_grant(request));
                answered!(lease.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }));
                if is_drawn {
                    assert!(granted.id > 0, "{granted:?}");
                    granted.id = 0;
                }
                Answer::Grant(granted)
            }
            Call::KeepAlive(request) => {
                let requests = tokio_stream::once(request);
                let mut answers = self.lease.lease_keep_alive(requests).await?.into_inner();
                let mut answer =
                    answers.message().await?.ok_or_else(|| Status::internal("there was no answer"))?;
                without_ids(&mut answer.header);
                Answer::KeepAlive(answer)
            }
            Call::TimeToLive(request) => {
                let mut answer = answered!(lease.lease_time_to_live(request));
                answer.keys.sort();
                Answer::TimeToLive(answer)
            }
            Call::Auth(call) => {
                let named = Named::new(self.channel.clone(), self.who.clone());
                let (text, token) = super::auth::answer(named, call).await?;
                self.token = token;
                Answer::Auth(text)
            }
            Call::Leases => {
                let mut answer = answered!(lease.lease_leases(pb::LeaseLeasesRequest {}));
                answer.leases.sort_by_key(|lease| lease.id);
                Answer::Leases(answer)
            }
        })
    }
}

/// They are there, and are not compared.
pub fn without_ids(header: &mut Option<pb::ResponseHeader>) {
    let header = header.as_mut().expect("a header");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0, "{header:?}");
    *header = pb::ResponseHeader { revision: header.revision, ..Default::default() };
}
