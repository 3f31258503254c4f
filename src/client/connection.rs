//! One endpoint: one HTTP/2 connection, made when it is first needed and made again when it broke. Every call is one
//! attempt.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status as GrpcStatus, Streaming};

#[path = "connection_maintenance.rs"]
mod maintenance;

use super::credentials::{Bearer, Credentials};
use super::failure::{self, Kind};
use super::{
    Alarm, Answer, Call, Client, Consistency, Endpoint, EventInfo, LeaseGranted, LeaseLife, MemberInfo,
    Pages, Remote, Snapshot, Status, StoreHash, Watch, Watcher, pages, watch, wire,
};
use crate::env::Env;
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::mvcc::KeyValue;
use crate::mvcc::command::{Compact, DeleteRange, Deleted, Put, Range, RangeResult, Txn, TxnResult};
use crate::proto::client::members_client::MembersClient;
use crate::proto::client::{EventsRequest, ResizeRequest};
use crate::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::{
    HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MoveLeaderRequest, RangeStreamResponse, StatusRequest, WatchRequest, WatchResponse,
};
use crate::proto::v3lockpb::lock_client::LockClient;
use crate::proto::v3lockpb::{LockRequest, UnlockRequest};
use crate::transport::{self, tls::Connector};

/// How a client connects and how long it waits.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time for one call, repetitions included.
    pub timeout: Duration,
    /// Time for one connection to be made.
    pub connect_timeout: Duration,
    /// How connections are made.
    pub dial: Dial,
    /// Who calls; `None`: nobody in particular, as long as authentication is disabled.
    pub credentials: Option<Credentials>,
    /// TLS; used by [`Dial::System`], for endpoints that say `https://` and for those that say nothing. `None`: for `https://` servers count
    /// for which an authority of the system has signed.
    pub tls: Option<Connector>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: limits::CALLER_TIMEOUT,
            connect_timeout: limits::CALLER_CONNECT_TIMEOUT,
            dial: Dial::System,
            credentials: None,
            tls: None,
        }
    }
}

/// How connections are made.
#[derive(Clone, Default)]
pub enum Dial {
    /// By the operating system, which also resolves names.
    #[default]
    System,
    /// Through a world that may be simulated.
    Env(Env),
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Env(_) => "Env",
        })
    }
}

/// A connection whose calls say who calls.
type Authorized = InterceptedService<Channel, Bearer>;

/// One endpoint. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Connection {
    endpoint: Endpoint,
    timeout: Duration,
    credentials: Option<Credentials>,
    channel: Authorized,
    kv: KvClient<Authorized>,
    lease: LeaseClient<Authorized>,
    cluster: ClusterClient<Authorized>,
    maintenance: MaintenanceClient<Authorized>,
    watch: WatchClient<Authorized>,
    lock: LockClient<Authorized>,
    own: MembersClient<Authorized>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that will be made when it is first needed. Must be called inside a tokio runtime.
    pub fn new(endpoint: Endpoint, options: &Options) -> Self {
        let channel = match &options.dial {
            Dial::System => {
                let (uri, is_secure) = endpoint.for_client(options.tls.is_some());
                let builder = Channel::builder(uri)
                    .connect_timeout(options.connect_timeout)
                    .http2_keep_alive_interval(limits::CHANNEL_PING_INTERVAL)
                    .keep_alive_timeout(limits::CHANNEL_PING_TIMEOUT)
                    .initial_stream_window_size(limits::CALLER_STREAM_WINDOW)
                    .initial_connection_window_size(limits::CALLER_CONNECTION_WINDOW);
                match &options.tls {
                    _ if !is_secure => builder.connect_lazy(),
                    Some(tls) => transport::over_tls(&builder, tls.clone()),
                    None => transport::over_tls(&builder, Connector::of_system()),
                }
            }
            Dial::Env(env) => transport::channel(endpoint.uri(), env),
        };
        let credentials = options.credentials.clone();
        let channel = InterceptedService::new(channel, Bearer(credentials.clone()));
        Self {
            endpoint,
            timeout: options.timeout,
            credentials,
            channel: channel.clone(),
            kv: KvClient::new(channel.clone()).max_decoding_message_size(limits::CALLER_ANSWER_BYTES),
            lease: LeaseClient::new(channel.clone()).max_decoding_message_size(limits::CALLER_ANSWER_BYTES),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(limits::CALLER_ANSWER_BYTES),
            lock: LockClient::new(channel.clone()),
            own: MembersClient::new(channel),
        }
    }

    /// Opens a stream of watchers; `requests` are its requests.
    pub(super) async fn watch(
        mut self,
        requests: mpsc::Receiver<WatchRequest>,
        limit: Duration,
    ) -> Result<Streaming<WatchResponse>, Error> {
        let mut request = Request::new(ReceiverStream::new(requests));
        // A member that is cut off from the others must not keep it.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        attempt(Kind::Read, limit, &self.endpoint, self.watch.watch(request)).await
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    pub(super) fn channel(&self) -> InterceptedService<Channel, Bearer> {
        self.channel.clone()
    }

    /// Where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) async fn get_within(
        mut self,
        range: Range,
        consistency: Consistency,
        limit: Duration,
    ) -> Result<Answer<RangeResult>, Error> {
        let request = timed(wire::range(range, consistency), limit);
        let response = attempt(Kind::Read, limit, &self.endpoint, self.kv.range(request)).await?;
        let answer = wire::answer(response.header.as_ref(), ());
        Ok(Answer { header: answer.header, value: wire::range_result(response) })
    }

    /// A range in parts.
    pub(super) async fn range_stream(
        mut self,
        range: Range,
        limit: Duration,
    ) -> Result<Streaming<RangeStreamResponse>, Error> {
        // Without a deadline for the server: how long it takes, the reader decides.
        let request = Request::new(wire::range(range, Consistency::Linearizable));
        attempt(Kind::Read, limit, &self.endpoint, self.kv.range_stream(request)).await
    }

    /// Waits in this member's lock service until the lock hangs on `lease`; returns its key. The lock is lost with the lease, and the wait
    /// with the member: [`super::Lock`] takes care of both.
    ///
    /// # Errors
    /// As [`Client::txn`]; of unknown outcome after `limit`: the member then leaves the queue by itself.
    pub async fn lock(&self, name: &[u8], lease: i64, limit: Duration) -> Result<Answer<Bytes>, Error> {
        let mut connection = self.clone();
        let request = timed(LockRequest { name: Bytes::copy_from_slice(name), lease }, limit);
        let call = connection.lock.lock(request);
        let response = attempt(Kind::Write, limit, &self.endpoint, call).await?;
        Ok(wire::answer(response.header.as_ref(), response.key))
    }

    /// Gives back what [`Connection::lock`] took.
    ///
    /// # Errors
    /// As [`Client::delete`].
    pub async fn unlock(&self, key: Bytes) -> Result<Answer<()>, Error> {
        let mut connection = self.clone();
        let call = connection.lock.unlock(timed(UnlockRequest { key }, self.timeout));
        let response = attempt(Kind::Write, self.timeout, &self.endpoint, call).await?;
        Ok(wire::answer(response.header.as_ref(), ()))
    }

    pub(super) async fn put_within(
        mut self,
        put: Put,
        limit: Duration,
    ) -> Result<Answer<Option<KeyValue>>, Error> {
        let request = timed(wire::put(put), limit);
        let response = attempt(Kind::Write, limit, &self.endpoint, self.kv.put(request)).await?;
        Ok(wire::answer(response.header.as_ref(), response.prev_kv.map(wire::key_value)))
    }

    pub(super) async fn delete_within(
        mut self,
        delete: DeleteRange,
        limit: Duration,
    ) -> Result<Answer<Deleted>, Error> {
        let request = timed(wire::delete(delete), limit);
        let response = attempt(Kind::Write, limit, &self.endpoint, self.kv.delete_range(request)).await?;
        let answer = wire::answer(response.header.as_ref(), ());
        Ok(Answer { header: answer.header, value: wire::deleted(response) })
    }

    pub(super) async fn txn_within(mut self, txn: Txn, limit: Duration) -> Result<Answer<TxnResult>, Error> {
        let request = timed(wire::txn(txn), limit);
        let mut response = attempt(Kind::Write, limit, &self.endpoint, self.kv.txn(request)).await?;
        let answer = wire::answer(response.header.take().as_ref(), ());
        let value = wire::txn_result(response, answer.header.revision)?;
        Ok(Answer { header: answer.header, value })
    }

    pub(super) async fn compact_within(
        mut self,
        compact: Compact,
        limit: Duration,
    ) -> Result<Answer<()>, Error> {
        let request = timed(wire::compact(compact), limit);
        let response = attempt(Kind::Write, limit, &self.endpoint, self.kv.compact(request)).await?;
        Ok(wire::answer(response.header.as_ref(), ()))
    }

    pub(super) async fn status_within(mut self, limit: Duration) -> Result<Answer<Status>, Error> {
        let request = timed(StatusRequest {}, limit);
        let mut response =
            attempt(Kind::Read, limit, &self.endpoint, self.maintenance.status(request)).await?;
        let header = response.header.take();
        Ok(wire::answer(header.as_ref(), wire::status(response)))
    }

    pub(super) async fn grant_within(
        mut self,
        id: i64,
        ttl: i64,
        limit: Duration,
    ) -> Result<Answer<LeaseGranted>, Error> {
        let request = timed(LeaseGrantRequest { id, ttl }, limit);
        let response = attempt(Kind::Write, limit, &self.endpoint, self.lease.lease_grant(request)).await?;
        let granted = LeaseGranted { id: response.id, ttl: response.ttl };
        Ok(wire::answer(response.header.as_ref(), granted))
    }

    pub(super) async fn revoke_within(mut self, id: i64, limit: Duration) -> Result<Answer<()>, Error> {
        let request = timed(LeaseRevokeRequest { id }, limit);
        let response = attempt(Kind::Write, limit, &self.endpoint, self.lease.lease_revoke(request)).await?;
        Ok(wire::answer(response.header.as_ref(), ()))
    }

    /// A stream of one keep-alive: its answer, or the error that ended it, is all that is waited for.
    pub(super) async fn keep_alive_within(self, id: i64, limit: Duration) -> Result<Answer<i64>, Error> {
        let response = self.keep_alives().ask(id, limit).await?;
        Ok(wire::answer(response.header.as_ref(), response.ttl))
    }

    /// A stream of keep-alives to this one member, for whoever keeps many leases. One lease keeps itself alive with
    /// [`super::KeptLease`].
    pub fn keep_alives(&self) -> KeepAlives {
        KeepAlives { connection: self.clone(), stream: None }
    }

    pub(super) async fn time_to_live_within(
        mut self,
        id: i64,
        keys: bool,
        limit: Duration,
    ) -> Result<Answer<LeaseLife>, Error> {
        let call = self.lease.lease_time_to_live(timed(LeaseTimeToLiveRequest { id, keys }, limit));
        let response = attempt(Kind::Read, limit, &self.endpoint, call).await?;
        let life = LeaseLife { ttl: response.ttl, granted: response.granted_ttl, keys: response.keys };
        Ok(wire::answer(response.header.as_ref(), life))
    }

    pub(super) async fn leases_within(mut self, limit: Duration) -> Result<Answer<Vec<i64>>, Error> {
        let call = self.lease.lease_leases(timed(LeaseLeasesRequest {}, limit));
        let response = attempt(Kind::Read, limit, &self.endpoint, call).await?;
        let leases = response.leases.into_iter().map(|lease| lease.id).collect();
        Ok(wire::answer(response.header.as_ref(), leases))
    }

    pub(super) async fn members_within(mut self, limit: Duration) -> Result<Answer<Vec<MemberInfo>>, Error> {
        let request = timed(MemberListRequest { linearizable: true }, limit);
        let response = attempt(Kind::Read, limit, &self.endpoint, self.cluster.member_list(request)).await?;
        Ok(wire::answer(response.header.as_ref(), wire::members(response.members)))
    }

    pub(super) async fn resize_within(mut self, size: u16, limit: Duration) -> Result<Answer<()>, Error> {
        let request = timed(ResizeRequest { size: u32::from(size) }, limit);
        let response = attempt(Kind::Write, limit, &self.endpoint, self.own.resize(request)).await?;
        Ok(wire::answer(response.header.as_ref(), ()))
    }

    pub(super) async fn remove_member_within(
        mut self,
        id: NodeId,
        limit: Duration,
    ) -> Result<Answer<Vec<MemberInfo>>, Error> {
        let request = timed(MemberRemoveRequest { id: id.0 }, limit);
        let call = self.cluster.member_remove(request);
        let response = attempt(Kind::Write, limit, &self.endpoint, call).await?;
        Ok(wire::answer(response.header.as_ref(), wire::members(response.members)))
    }

    pub(super) async fn promote_member_within(
        mut self,
        id: NodeId,
        limit: Duration,
    ) -> Result<Answer<Vec<MemberInfo>>, Error> {
        let request = timed(MemberPromoteRequest { id: id.0 }, limit);
        let call = self.cluster.member_promote(request);
        let response = attempt(Kind::Write, limit, &self.endpoint, call).await?;
        Ok(wire::answer(response.header.as_ref(), wire::members(response.members)))
    }

    /// As [`super::Remote::remove_member`], at this endpoint.
    pub async fn remove_member(&self, id: NodeId) -> Result<Answer<Vec<MemberInfo>>, Error> {
        self.with_token(self.timeout, |on, limit| on.remove_member_within(id, limit)).await
    }

    /// As [`super::Remote::promote_member`], at this endpoint.
    pub async fn promote_member(&self, id: NodeId) -> Result<Answer<Vec<MemberInfo>>, Error> {
        self.with_token(self.timeout, |on, limit| on.promote_member_within(id, limit)).await
    }

    /// Hands leadership to a voter, if this is the leader's endpoint.
    pub async fn move_leader(&self, to: NodeId) -> Result<Answer<()>, Error> {
        self.with_token(self.timeout, |on, limit| on.move_leader_within(to, limit)).await
    }

    async fn move_leader_within(mut self, to: NodeId, limit: Duration) -> Result<Answer<()>, Error> {
        let request = timed(MoveLeaderRequest { target_id: to.0 }, limit);
        let call = self.maintenance.move_leader(request);
        let response = attempt(Kind::Write, limit, &self.endpoint, call).await?;
        Ok(wire::answer(response.header.as_ref(), ()))
    }

    pub(super) async fn events_within(mut self, limit: Duration) -> Result<Answer<Vec<EventInfo>>, Error> {
        let request = timed(EventsRequest {}, limit);
        let response = attempt(Kind::Read, limit, &self.endpoint, self.own.events(request)).await?;
        let events = response.events.into_iter().map(wire::event).collect();
        Ok(wire::answer(response.header.as_ref(), events))
    }

    pub(super) async fn hash_within(
        mut self,
        revision: i64,
        limit: Duration,
    ) -> Result<Answer<StoreHash>, Error> {
        let request = timed(HashKvRequest { revision }, limit);
        let response = attempt(Kind::Read, limit, &self.endpoint, self.maintenance.hash_kv(request)).await?;
        let value = StoreHash {
            hash: response.hash,
            compact_revision: response.compact_revision,
            hash_revision: response.hash_revision,
        };
        Ok(wire::answer(response.header.as_ref(), value))
    }
}

impl Client for Connection {
    fn get(&self, range: Range, consistency: Consistency) -> Call<'_, RangeResult> {
        Box::pin(
            self.with_token(self.timeout, move |on, limit| on.get_within(range.clone(), consistency, limit)),
        )
    }
    fn put(&self, put: Put) -> Call<'_, Option<KeyValue>> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.put_within(put.clone(), limit)))
    }
    fn delete(&self, delete: DeleteRange) -> Call<'_, Deleted> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.delete_within(delete.clone(), limit)))
    }
    fn txn(&self, txn: Txn) -> Call<'_, TxnResult> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.txn_within(txn.clone(), limit)))
    }
    fn pages(&self, range: Range) -> Pages {
        pages::remote(Remote::of(self.clone(), self.timeout), range)
    }
    fn watch(&self, watch: Watch) -> Watcher {
        watch::remote(Remote::of(self.clone(), self.timeout), watch)
    }
    fn compact(&self, compact: Compact) -> Call<'_, ()> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.compact_within(compact, limit)))
    }
    fn grant(&self, id: i64, ttl: i64) -> Call<'_, LeaseGranted> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.grant_within(id, ttl, limit)))
    }
    fn revoke(&self, id: i64) -> Call<'_, ()> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.revoke_within(id, limit)))
    }
    fn keep_alive(&self, id: i64) -> Call<'_, i64> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.keep_alive_within(id, limit)))
    }
    fn time_to_live(&self, id: i64, keys: bool) -> Call<'_, LeaseLife> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.time_to_live_within(id, keys, limit)))
    }
    fn leases(&self) -> Call<'_, Vec<i64>> {
        Box::pin(self.with_token(self.timeout, Self::leases_within))
    }
    fn status(&self) -> Call<'_, Status> {
        Box::pin(self.with_token(self.timeout, Self::status_within))
    }
    fn members(&self) -> Call<'_, Vec<MemberInfo>> {
        Box::pin(self.with_token(self.timeout, Self::members_within))
    }
    fn resize(&self, size: u16) -> Call<'_, ()> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.resize_within(size, limit)))
    }
    fn events(&self) -> Call<'_, Vec<EventInfo>> {
        Box::pin(self.with_token(self.timeout, Self::events_within))
    }
    fn hash(&self, revision: i64) -> Call<'_, StoreHash> {
        Box::pin(self.with_token(self.timeout, move |on, limit| on.hash_within(revision, limit)))
    }
    fn alarms(&self) -> Call<'_, Vec<Alarm>> {
        Box::pin(self.clone().alarms_within(self.timeout))
    }
    fn set_alarm(&self, alarm: Alarm, raised: bool) -> Call<'_, Vec<Alarm>> {
        Box::pin(self.clone().set_alarm_within(alarm, raised, self.timeout))
    }
    fn defragment(&self) -> Call<'_, ()> {
        Box::pin(self.clone().defragment_within(self.timeout))
    }
    fn snapshot(&self) -> Call<'_, Snapshot> {
        Box::pin(self.clone().snapshot_within(self.timeout))
    }
}

/// A stream of keep-alives to one member. After an error it is of no use any more.
pub struct KeepAlives {
    connection: Connection,
    /// Opened with the first question: etcd does not say that it is open before it is asked something.
    stream: Option<(mpsc::Sender<LeaseKeepAliveRequest>, Streaming<LeaseKeepAliveResponse>)>,
}

impl fmt::Debug for KeepAlives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlives").field("endpoint", self.connection.endpoint()).finish_non_exhaustive()
    }
}

impl KeepAlives {
    /// Begins a lease's time anew; returns the seconds that it has now, 0 if there is no such lease.
    ///
    /// # Errors
    /// As [`Client::keep_alive`].
    pub async fn keep_alive(&mut self, id: i64) -> Result<i64, Error> {
        self.ask(id, self.connection.timeout).await.map(|response| response.ttl)
    }

    async fn ask(&mut self, id: i64, limit: Duration) -> Result<LeaseKeepAliveResponse, Error> {
        let request = LeaseKeepAliveRequest { id };
        let Self { connection, stream } = self;
        if let Some(credentials) = connection.credentials.clone() {
            connection.authenticate_if_needed(&credentials, limit).await?;
        }
        let Connection { lease, endpoint, .. } = connection;
        let first = async {
            let answers = if let Some((requests, answers)) = stream {
                // If the stream has ended, it says why instead of answering.
                let _ = requests.send(request).await;
                answers
            } else {
                let (requests, queue) = mpsc::channel(1);
                // The queue is empty.
                let _ = requests.try_send(request);
                let opened = lease.lease_keep_alive(ReceiverStream::new(queue)).await?;
                &mut stream.insert((requests, opened.into_inner())).1
            };
            answers.message().await.map(Response::new)
        };
        let answer = attempt(Kind::Read, limit, endpoint, first).await?;
        answer.ok_or_else(|| failure::malformed("the stream of keep-alives ended without one", Kind::Read))
    }
}

/// A message that also tells the server how long the caller waits.
pub(super) fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// One attempt. The deadline is kept here too, because a server may ignore it.
pub(super) async fn attempt<T>(
    kind: Kind,
    limit: Duration,
    endpoint: &Endpoint,
    call: impl Future<Output = Result<Response<T>, GrpcStatus>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failure::from_status(&status, kind, endpoint.authority())),
        Err(_) => Err(failure::timed_out(kind)),
    }
}
