//! Requests in the shapes in which kube-apiserver sends them.

use std::time::Duration;

use bytes::Bytes;
use setstone::client::prefix_end;
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::kv_client::KvClient;
use setstone::proto::etcdserverpb::lease_client::LeaseClient;
use setstone::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use setstone::proto::mvccpb;
use setstone::testing::TestCluster;
use tonic::Status;
use tonic::transport::Channel;

use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;

/// The connection of one API server to one member.
#[derive(Clone)]
pub struct Kube {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
}

/// What a conditional write did.
#[derive(Debug)]
pub enum Done {
    /// It was done, at this revision.
    At(i64),
    /// It was not; this is there instead.
    Instead(Option<mvccpb::KeyValue>),
}

pub async fn channel(cluster: &TestCluster, member: usize) -> Channel {
    let address = cluster.node(member).unwrap().addresses().client;
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..pb::RangeRequest::default() }
}

fn put(key: &str, value: Bytes, lease: i64) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.to_owned().into(), value, lease, ..pb::PutRequest::default() };
    op(Request::RequestPut(put))
}

fn prefix(prefix: &str) -> pb::RangeRequest {
    pb::RangeRequest { range_end: prefix_end(prefix.as_bytes()), ..get(prefix) }
}

impl Kube {
    pub async fn connect(cluster: &TestCluster, member: usize) -> Self {
        let channel = channel(cluster, member).await;
        Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel),
        }
    }

    /// One compare of the mod revision, one write, and what is there if it fails: the shape of all its writes.
    async fn if_unchanged(&self, key: &str, revision: i64, write: pb::RequestOp) -> Done {
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.to_owned().into(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..pb::Compare::default()
        };
        let failure = vec![op(Request::RequestRange(get(key)))];
        let txn = pb::TxnRequest { compare: vec![compare], success: vec![write], failure };
        let response = self.kv.clone().txn(txn).await.unwrap().into_inner();
        if response.succeeded {
            return Done::At(response.header.unwrap().revision);
        }
        match response.responses.into_iter().next().unwrap().response {
            Some(Response::ResponseRange(range)) => Done::Instead(range.kvs.into_iter().next()),
            other => panic!("{other:?}"),
        }
    }

    pub async fn create(&self, key: &str, value: Bytes, lease: i64) -> Done {
        self.if_unchanged(key, 0, put(key, value, lease)).await
    }

    pub async fn update(&self, key: &str, value: Bytes, revision: i64) -> Done {
        self.if_unchanged(key, revision, put(key, value, 0)).await
    }

    pub async fn delete(&self, key: &str, revision: i64) -> Done {
        let delete =
            pb::DeleteRangeRequest { key: key.to_owned().into(), ..pb::DeleteRangeRequest::default() };
        self.if_unchanged(key, revision, op(Request::RequestDeleteRange(delete))).await
    }

    pub async fn get(&self, key: &str) -> Option<mvccpb::KeyValue> {
        self.kv.clone().range(get(key)).await.unwrap().into_inner().kvs.into_iter().next()
    }

    /// The newest revision, as a list of one is asked for it.
    pub async fn revision(&self, of: &str) -> i64 {
        let range = pb::RangeRequest { limit: 1, ..prefix(of) };
        self.kv.clone().range(range).await.unwrap().into_inner().header.unwrap().revision
    }

    pub async fn page(
        &self,
        key: Bytes,
        of: &str,
        limit: i64,
        revision: i64,
    ) -> Result<pb::RangeResponse, Status> {
        let range = pb::RangeRequest { key, limit, revision, ..prefix(of) };
        Ok(self.kv.clone().range(range).await?.into_inner())
    }

    pub async fn count(&self, of: &str) -> i64 {
        let range = pb::RangeRequest { count_only: true, ..prefix(of) };
        let response = self.kv.clone().range(range).await.unwrap().into_inner();
        assert!(response.kvs.is_empty() && !response.more);
        response.count
    }

    pub async fn keys_only(&self, of: &str) -> pb::RangeResponse {
        let range = pb::RangeRequest { keys_only: true, ..prefix(of) };
        self.kv.clone().range(range).await.unwrap().into_inner()
    }

    pub async fn grant(&self, ttl: Duration) -> i64 {
        let grant = pb::LeaseGrantRequest { ttl: ttl.as_secs() as i64, id: 0 };
        self.lease.clone().lease_grant(grant).await.unwrap().into_inner().id
    }

    /// Writes down `revision` if `compact_rev_key` has this version: the newest revision then. Else what is written there.
    pub async fn swap_compact_revision(&self, version: i64, revision: i64) -> Result<i64, String> {
        const KEY: &str = "compact_rev_key";
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key: KEY.into(),
            target_union: Some(TargetUnion::Version(version)),
            ..pb::Compare::default()
        };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![put(KEY, revision.to_string().into(), 0)],
            failure: vec![op(Request::RequestRange(get(KEY)))],
        };
        let response = self.kv.clone().txn(txn).await.unwrap().into_inner();
        if response.succeeded {
            return Ok(response.header.unwrap().revision);
        }
        match response.responses.into_iter().next().unwrap().response {
            Some(Response::ResponseRange(range)) => {
                let kv = range.kvs.into_iter().next().unwrap();
                assert_eq!(kv.version, version + 1);
                Err(String::from_utf8(kv.value.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn compact(&self, revision: i64) -> Result<(), Status> {
        let compact = pb::CompactionRequest { revision, physical: false };
        self.kv.clone().compact(compact).await.map(drop)
    }

    pub async fn version(&self) -> String {
        self.maintenance.clone().status(pb::StatusRequest {}).await.unwrap().into_inner().version
    }
}
