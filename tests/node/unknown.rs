//! Requests of a newer client: fields that this version does not know are ignored, and nothing else is.

use prost::Message;
use setstone::proto::etcdserverpb as pb;
use setstone::{Config, Node};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// One field of each wire type, under numbers that no message of ours has.
#[derive(Clone, PartialEq, Message)]
struct Newer {
    #[prost(uint64, tag = "2001")]
    number: u64,
    #[prost(fixed64, tag = "2002")]
    eight: u64,
    #[prost(bytes = "vec", tag = "2003")]
    bytes: Vec<u8>,
    #[prost(fixed32, tag = "2004")]
    four: u32,
    #[prost(message, optional, boxed, tag = "2005")]
    nested: Option<Box<Newer>>,
}

fn newer() -> Vec<u8> {
    let inner = Newer { number: u64::MAX, eight: 1, bytes: vec![0xff; 300], four: 2, nested: None };
    Newer { nested: Some(Box::new(inner.clone())), ..inner }.encode_to_vec()
}

/// The bytes of a message as they are: whatever stands in front of and behind it.
#[derive(Clone, Debug, Default)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl prost::bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        unreachable!("it is only sent")
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The message of a newer client.
fn with_more(message: &impl Message) -> Raw {
    Raw([newer(), message.encode_to_vec(), newer()].concat())
}

/// One field of a message, of which `bytes` is the content.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut field);
    prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

async fn call<R: Message + Default + 'static>(channel: &Channel, path: &'static str, request: Raw) -> R {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<Raw, R>::default();
    grpc.unary(tonic::Request::new(request), path.parse().unwrap(), codec).await.unwrap().into_inner()
}

#[tokio::test]
async fn fields_that_are_not_known_are_ignored() {
    let node = Node::start(Config::in_memory("alone")).await.unwrap();
    node.ready(Instant::now() + std::time::Duration::from_secs(20)).await.unwrap();
    let address = format!("http://{}", node.addresses().client);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();

    let put = pb::PutRequest { key: "k".into(), value: "1".into(), ..Default::default() };
    let put = with_more(&put);
    let answer: pb::PutResponse = call(&channel, "/etcdserverpb.KV/Put", put.clone()).await;
    assert_eq!(answer.header.unwrap().revision, 2);
    let get = with_more(&pb::RangeRequest { key: "k".into(), ..Default::default() });
    let answer: pb::RangeResponse = call(&channel, "/etcdserverpb.KV/Range", get.clone()).await;
    assert_eq!((answer.count, &answer.kvs[0].value[..]), (1, &b"1"[..]));

    // Inside of others: a transaction whose compare and whose operation have more than we know.
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Version.into(),
        key: "k".into(),
        target_union: Some(pb::compare::TargetUnion::Version(1)),
        ..Default::default()
    };
    let operation = |number, request: &Raw| [newer(), field(number, &request.0)].concat();
    let txn = [
        field(1, &with_more(&compare).0),
        field(2, &operation(2, &put)),
        field(2, &operation(1, &get)),
        newer(),
    ];
    let answer: pb::TxnResponse = call(&channel, "/etcdserverpb.KV/Txn", Raw(txn.concat())).await;
    assert!(answer.succeeded);
    assert_eq!((answer.responses.len(), answer.header.unwrap().revision), (2, 3));

    let delete = with_more(&pb::DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() });
    let answer: pb::DeleteRangeResponse = call(&channel, "/etcdserverpb.KV/DeleteRange", delete).await;
    assert_eq!((answer.deleted, answer.prev_kvs[0].version), (1, 2));
    let compact = with_more(&pb::CompactionRequest { revision: 3, physical: true });
    let _: pb::CompactionResponse = call(&channel, "/etcdserverpb.KV/Compact", compact).await;
    let status: pb::StatusResponse =
        call(&channel, "/etcdserverpb.Maintenance/Status", with_more(&pb::StatusRequest {})).await;
    assert_eq!(status.header.unwrap().revision, 4);
    let list = with_more(&pb::MemberListRequest { linearizable: true });
    let members: pb::MemberListResponse = call(&channel, "/etcdserverpb.Cluster/MemberList", list).await;
    assert_eq!(members.members.len(), 1);
    node.shutdown().await;
}
