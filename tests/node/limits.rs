//! Requests and connections that are too much, against a whole node.

use std::os::fd::AsFd;
use std::time::Duration;

use setstone::client::Kv;
use setstone::limits;
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::kv_client::KvClient;
use setstone::{Config, Node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;

use crate::process::Process;

#[tokio::test]
async fn requests_that_are_too_much_are_refused() {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    node.ready(Instant::now() + Duration::from_secs(20)).await.unwrap();
    let mut client = KvClient::connect(format!("http://{}", node.addresses().client)).await.unwrap();
    let put = |bytes: usize| pb::PutRequest { key: "k".into(), value: vec![b'v'; bytes].into(), ..Default::default() };
    let text = |status: tonic::Status| (status.code(), status.message().to_owned());

    let (code, message) = text(client.put(put(limits::RECEIVED_MESSAGE_BYTES)).await.unwrap_err());
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("larger than max"), "{message}");
    let refused = text(client.put(put(limits::REQUEST_BYTES)).await.unwrap_err());
    assert_eq!(refused, (Code::InvalidArgument, "etcdserver: request is too large".into()));
    client.put(put(limits::REQUEST_BYTES - 64)).await.unwrap();

    let op = pb::RequestOp {
        request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest { key: "k".into(), ..Default::default() })),
    };
    let txn = |count| pb::TxnRequest { success: vec![op.clone(); count], ..Default::default() };
    let refused = text(client.txn(txn(limits::TXN_OPERATIONS + 1)).await.unwrap_err());
    assert_eq!(refused, (Code::InvalidArgument, "etcdserver: too many operations in txn request".into()));
    let small = pb::TxnRequest { success: vec![op.clone(); 2], ..Default::default() };
    client.txn(small).await.unwrap();

    let range = |range| client.clone().range(range).await_text();
    let key = || pb::RangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(range(pb::RangeRequest::default()).await, "InvalidArgument etcdserver: key is not provided");
    assert_eq!(
        range(pb::RangeRequest { sort_order: 9, ..key() }).await,
        "InvalidArgument etcdserver: invalid sort option"
    );
    assert_eq!(
        range(pb::RangeRequest { revision: 1 << 40, ..key() }).await,
        "OutOfRange etcdserver: mvcc: required revision is a future revision"
    );
    let inverted = pb::RangeRequest { range_end: "a".into(), ..key() };
    assert_eq!(client.range(inverted).await.unwrap().into_inner().count, 0, "empty, not an error");
    node.shutdown().await;
}

/// The text of a failure.
trait Text {
    fn await_text(self) -> impl Future<Output = String>;
}

impl<F: Future<Output = Result<tonic::Response<pb::RangeResponse>, tonic::Status>>> Text for F {
    async fn await_text(self) -> String {
        let status = self.await.unwrap_err();
        format!("{:?} {}", status.code(), status.message())
    }
}
