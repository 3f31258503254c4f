//! Messages into JSON, by their descriptors: names as in the proto file, 64-bit integers as texts, what has its default left out.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Code;

use crate::transport::Failure;

const OPTIONS: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// Writes one message behind what is in `into`.
///
/// # Errors
/// `Internal`: it is not one of this kind.
pub(crate) fn write(kind: &MessageDescriptor, message: Bytes, into: &mut Vec<u8>) -> Result<(), Failure> {
    let wrong =
        |error: String| Failure::new(Code::Internal, format!("the answer is no {}: {error}", kind.name()));
    let message = DynamicMessage::decode(kind.clone(), message).map_err(|error| wrong(error.to_string()))?;
    let mut json = serde_json::Serializer::new(into);
    message.serialize_with_options(&mut json, &OPTIONS).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use prost_reflect::DescriptorPool;
    use serde_json::{Value, json};

    use super::*;
    use crate::proto::{CLIENT_DESCRIPTORS, etcdserverpb as pb, mvccpb};

    fn written(name: &str, message: &impl prost::Message) -> Value {
        let pool = DescriptorPool::decode(CLIENT_DESCRIPTORS).unwrap();
        let kind = pool.get_message_by_name(name).unwrap();
        let mut text = b"x".to_vec();
        write(&kind, message.encode_to_vec().into(), &mut text).unwrap();
        serde_json::from_slice(&text[1..]).unwrap()
    }

    #[test]
    fn messages_are_written_as_etcd_does() {
        let pair =
            mvccpb::KeyValue { key: "a".into(), lease: -1, mod_revision: i64::MAX, ..Default::default() };
        let response = pb::WatchResponse {
            events: vec![
                mvccpb::Event { r#type: 1, kv: Some(pair), prev_kv: None },
                mvccpb::Event::default(),
            ],
            header: Some(pb::ResponseHeader { cluster_id: u64::MAX, ..Default::default() }),
            cancel_reason: "<&\u{1}>".into(),
            ..Default::default()
        };
        assert_eq!(
            written("etcdserverpb.WatchResponse", &response),
            json!({
                "header": {"cluster_id": "18446744073709551615"},
                "cancel_reason": "<&\u{1}>",
                "events": [
                    {"type": "DELETE", "kv": {"key": "YQ==", "mod_revision": "9223372036854775807", "lease": "-1"}},
                    {},
                ],
            })
        );
        // What was chosen of several is there even if it is empty.
        let nested = pb::ResponseOp {
            response: Some(pb::response_op::Response::ResponseTxn(pb::TxnResponse::default())),
        };
        assert_eq!(written("etcdserverpb.ResponseOp", &nested), json!({"response_txn": {}}));
        let hash = pb::HashKvResponse { hash: u32::MAX, compact_revision: -1, ..Default::default() };
        assert_eq!(
            written("etcdserverpb.HashKVResponse", &hash),
            json!({"hash": 4_294_967_295_u32, "compact_revision": "-1"})
        );
        let unknown = mvccpb::Event { r#type: 9, ..Default::default() };
        assert_eq!(written("mvccpb.Event", &unknown), json!({"type": 9}));
    }

    #[test]
    fn what_is_no_message_is_a_failure() {
        let pool = DescriptorPool::decode(CLIENT_DESCRIPTORS).unwrap();
        let kind = pool.get_message_by_name("mvccpb.KeyValue").unwrap();
        let failure = write(&kind, Bytes::from_static(&[255]), &mut Vec::new()).unwrap_err();
        assert_eq!(failure.code, Code::Internal);
    }
}
