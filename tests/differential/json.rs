//! JSON that nobody would send, to both gateways: each must take it as a message, or not, as the other does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::net::SocketAddr;

use prost_reflect::{DescriptorPool, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use setstone::proto::CLIENT_DESCRIPTORS;

use super::messages::{Dice, broken_json, message};
use super::web;

/// What is called, with the kind of its request. Nothing that waits, or that the time answers.
const CALLS: [(&str, &str); 9] = [
    ("/v3/kv/range", "RangeRequest"),
    ("/v3/kv/put", "PutRequest"),
    ("/v3/kv/put", "PutRequest"),
    ("/v3/kv/deleterange", "DeleteRangeRequest"),
    ("/v3/kv/txn", "TxnRequest"),
    ("/v3/kv/compaction", "CompactionRequest"),
    ("/v3/lease/revoke", "LeaseRevokeRequest"),
    ("/v3/lease/keepalive", "LeaseKeepAliveRequest"),
    ("/v3/lease/timetolive", "LeaseTimeToLiveRequest"),
];

/// Sends `count` requests to both.
pub async fn compare(seed: u64, count: usize, etcd: SocketAddr, ours: SocketAddr) {
    let pool = DescriptorPool::decode(CLIENT_DESCRIPTORS).unwrap();
    let mut dice = Dice(seed);
    let mut taken = 0;
    for number in 0..count {
        let (path, kind) = CALLS[dice.below(CALLS.len())];
        let kind = pool.get_message_by_name(&format!("etcdserverpb.{kind}")).unwrap();
        let is_whole = dice.below(2) == 0;
        let mut text = plain(&kind, is_whole, &mut dice);
        if !is_whole {
            text = broken_json(text, &mut dice);
        }
        let (theirs, ours) = (ask(etcd, path, &text).await, ask(ours, path, &text).await);
        let shown = text.chars().take(2_000).collect::<String>();
        assert_eq!(
            theirs, ours,
            "seed {seed}, request {number}: etcd first, then setstone: {path} with {shown}"
        );
        taken += usize::from(theirs.0 == 200);
    }
    println!("seed {seed}: {taken} of {count} requests as JSON were taken");
    assert!(taken > count / 10, "too few to tell anything: {taken} of {count}");
}

/// A message as JSON, without what is known to differ (`super::KNOWN`).
fn plain(kind: &MessageDescriptor, is_whole: bool, dice: &mut Dice) -> String {
    let message = message(kind, dice, 0);
    let options = SerializeOptions::new()
        .use_proto_field_name(dice.below(2) == 0)
        .use_enum_numbers(dice.below(4) == 0)
        .stringify_64_bit_integers(is_whole && dice.below(2) == 0);
    let mut json = message.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
    let is_txn = kind.name() == "TxnRequest";
    without_known(&mut json, is_txn);
    json.to_string()
}

fn without_known(json: &mut Value, is_txn: bool) {
    match json {
        Value::Object(fields) => {
            for name in ["sort_target", "sortTarget"] {
                fields.remove(name);
            }
            if is_txn {
                for name in ["ignore_value", "ignoreValue", "ignore_lease", "ignoreLease"] {
                    fields.remove(name);
                }
                // A compare's, whose numbers must be those of names.
                for name in ["result", "target"] {
                    if fields
                        .get(name)
                        .is_some_and(|value| value.as_i64().is_none_or(|value| !(0..4).contains(&value)))
                        && fields[name].is_number()
                    {
                        fields.remove(name);
                    }
                }
            }
            fields.values_mut().for_each(|value| without_known(value, is_txn));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| without_known(value, is_txn)),
        _ => {}
    }
}

/// The status, and the answer without what differs from server to server: of a failure its code, because the texts about JSON are
/// those of a parser.
async fn ask(address: SocketAddr, path: &str, text: &str) -> (u16, Vec<Value>) {
    let mut answer = web::post(address, path, text.to_owned()).await;
    let (status, body) = (answer.status, answer.text().await);
    let values = serde_json::Deserializer::from_str(&body).into_iter::<Value>().map(|value| {
        let value = value.unwrap_or_else(|error| panic!("{path} answered {body:?}: {error}"));
        if status == 200 { without_ids(value) } else { value["code"].clone() }
    });
    (status, values.collect())
}

fn without_ids(mut answer: Value) -> Value {
    if let Some(result) = answer.get_mut("result") {
        *result = without_ids(result.take());
    }
    if let Some(header) = answer.get_mut("header").and_then(Value::as_object_mut) {
        for name in ["cluster_id", "member_id", "raft_term"] {
            header.remove(name);
        }
    }
    answer
}
