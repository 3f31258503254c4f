#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use bytes::Bytes;
use prost::Message;

use super::*;

fn range_of(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..pb::RangeRequest::default() }
}

fn put_of(key: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: "v".into(), ..pb::PutRequest::default() }
}

fn op(request: OpRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn told<T>(result: Result<T, Failure>) -> &'static str {
    match result {
        Ok(_) => "",
        Err(failure) => texts::ALL.iter().find(|text| Failure::from(**text) == failure).unwrap().text,
    }
}

#[test]
fn keys_and_values_are_not_copied() {
    let encoded = Bytes::from(put_of("key").encode_to_vec());
    let within = |bytes: &Bytes| encoded.as_ptr_range().contains(&bytes.as_ptr());
    let put = put(pb::PutRequest::decode(encoded.clone()).unwrap()).unwrap();
    assert!(within(&put.key) && within(&put.value));
    let kv = KeyValue { key: put.key, value: put.value, ..KeyValue::default() };
    let kv = key_value(kv);
    assert!(within(&kv.key) && within(&kv.value));
}

#[test]
fn every_field_of_a_range_arrives() {
    let asked = pb::RangeRequest {
        key: "a".into(),
        range_end: "b".into(),
        limit: 1,
        revision: 2,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Value.into(),
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 3,
        max_mod_revision: 4,
        min_create_revision: 5,
        max_create_revision: 6,
    };
    let expected = command::Range {
        key: "a".into(),
        range_end: "b".into(),
        limit: 1,
        revision: 2,
        sort_order: command::SortOrder::Descend,
        sort_target: command::SortTarget::Value,
        keys_only: true,
        count_only: true,
        min_mod_revision: 3,
        max_mod_revision: 4,
        min_create_revision: 5,
        max_create_revision: 6,
    };
    assert_eq!(range(asked), Ok(expected));
}

#[test]
fn mistakes_in_single_requests_are_told_as_etcd_does() {
    assert_eq!(told(range(range_of(""))), texts::EMPTY_KEY.text);
    for wrong in [-1, 3, 7, i32::MAX] {
        let asked = pb::RangeRequest { sort_order: wrong, ..range_of("a") };
        assert_eq!(told(range(asked)), texts::INVALID_SORT_OPTION.text, "order {wrong}");
        let asked = pb::RangeRequest { sort_target: wrong + i32::from(wrong == 3) * 2, ..range_of("a") };
        assert_eq!(told(range(asked)), texts::INVALID_SORT_OPTION.text, "target {wrong}");
    }
    // The key comes first.
    assert_eq!(told(range(pb::RangeRequest { sort_order: 9, ..range_of("") })), texts::EMPTY_KEY.text);

    assert_eq!(told(put(put_of(""))), texts::EMPTY_KEY.text);
    assert_eq!(told(put(pb::PutRequest { ignore_value: true, ..put_of("a") })), texts::VALUE_PROVIDED.text);
    let asked = pb::PutRequest { ignore_lease: true, lease: 1, ..put_of("a") };
    assert_eq!(told(put(asked)), texts::LEASE_PROVIDED.text);
    assert_eq!(told(delete_range(pb::DeleteRangeRequest::default())), texts::EMPTY_KEY.text);
}

#[test]
fn mistakes_in_transactions_are_told_in_etcds_order() {
    let txn_of = |success| pb::TxnRequest { success, ..pb::TxnRequest::default() };
    let put_op = |key| op(OpRequest::RequestPut(put_of(key)));

    assert_eq!(told(txn(pb::TxnRequest::default())), "");
    assert_eq!(told(txn(txn_of(vec![pb::RequestOp::default()]))), texts::KEY_NOT_FOUND.text);
    assert_eq!(told(txn(txn_of(vec![put_op("a"), put_op("a")]))), texts::DUPLICATE_KEY.text);
    assert_eq!(told(txn(txn_of(vec![put_op("")]))), texts::EMPTY_KEY.text);
    // Too many is told before anything in them, and a mistake in the form before an overlap.
    assert_eq!(told(txn(txn_of(vec![put_op(""); 129]))), texts::TOO_MANY_OPERATIONS.text);
    assert_eq!(
        told(txn(txn_of(vec![put_op("a"), put_op("a"), pb::RequestOp::default()]))),
        texts::KEY_NOT_FOUND.text
    );
    // A compare is looked at before an operation.
    let both = pb::TxnRequest {
        compare: vec![pb::Compare::default()],
        success: vec![pb::RequestOp::default()],
        ..pb::TxnRequest::default()
    };
    assert_eq!(told(txn(both)), texts::EMPTY_KEY.text);

    // What is nested has the rest of the budget.
    let nested = |outer: usize, inner: usize| {
        let inner = txn_of(vec![op(OpRequest::RequestRange(range_of("a"))); inner]);
        let mut success = vec![op(OpRequest::RequestRange(range_of("a"))); outer - 1];
        success.push(op(OpRequest::RequestTxn(inner)));
        txn(txn_of(success))
    };
    assert_eq!(told(nested(28, 100)), "");
    assert_eq!(told(nested(28, 101)), texts::TOO_MANY_OPERATIONS.text);
}

#[test]
fn compares_are_read() {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let of = |target: CompareTarget, union| pb::Compare {
        key: "k".into(),
        target: target.into(),
        result: CompareResult::NotEqual.into(),
        target_union: union,
        ..pb::Compare::default()
    };
    let operand = |asked| compare(asked).unwrap().operand;
    assert_eq!(operand(of(CompareTarget::Mod, Some(TargetUnion::ModRevision(7)))), command::Operand::Mod(7));
    assert_eq!(operand(of(CompareTarget::Lease, Some(TargetUnion::Lease(-7)))), command::Operand::Lease(-7));
    let value = Some(TargetUnion::Value("v".into()));
    assert_eq!(operand(of(CompareTarget::Value, value.clone())), command::Operand::Value("v".into()));
    // A value of another kind counts as not given.
    assert_eq!(operand(of(CompareTarget::Version, value)), command::Operand::Version(0));
    assert_eq!(operand(of(CompareTarget::Create, None)), command::Operand::Create(0));
    assert_eq!(operand(of(CompareTarget::Value, None)), command::Operand::Value(Bytes::new()));

    for wrong in [-1, 5, i32::MIN] {
        let asked = pb::Compare { target: wrong, key: "k".into(), ..pb::Compare::default() };
        assert_eq!(told(compare(asked)), texts::INVALID_COMPARE.text);
        let asked = pb::Compare { result: wrong, key: "k".into(), ..pb::Compare::default() };
        assert_eq!(told(compare(asked)), texts::INVALID_COMPARE.text);
    }
}

#[test]
fn the_largest_request_passes_and_one_byte_more_does_not() {
    assert_eq!(told(check_size(limits::REQUEST_BYTES, limits::REQUEST_BYTES)), "");
    assert_eq!(
        told(check_size(limits::REQUEST_BYTES + 1, limits::REQUEST_BYTES)),
        texts::REQUEST_TOO_LARGE.text
    );
}

#[test]
fn headers_inside_a_transaction_have_a_revision_only() {
    let header = pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 9, raft_term: 3 };
    let nested = command::TxnResult { succeeded: true, revision: 9, outcomes: vec![] };
    let result = command::TxnResult {
        succeeded: false,
        revision: 9,
        outcomes: vec![
            command::Outcome::Put(None),
            command::Outcome::Range(command::RangeResult { revision: 8, ..command::RangeResult::default() }),
            command::Outcome::Txn(nested),
        ],
    };
    let response = txn_response(header, result).unwrap();
    assert_eq!(response.header, Some(header));
    let headers: Vec<_> = response
        .responses
        .into_iter()
        .map(|op| match op.response.unwrap() {
            OpResponse::ResponsePut(put) => put.header,
            OpResponse::ResponseRange(range) => range.header,
            OpResponse::ResponseTxn(txn) => txn.header,
            OpResponse::ResponseDeleteRange(delete) => delete.header,
        })
        .collect();
    let only = |revision| Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    assert_eq!(headers, [only(9), only(8), only(0)]);

    let odd = command::TxnResult { succeeded: true, revision: 1, outcomes: vec![command::Outcome::Compact] };
    assert_eq!(txn_response(header, odd).unwrap_err().code, Code::Internal);
}

#[test]
fn a_transaction_that_is_nested_too_deep_is_not_even_decoded() {
    let nested = |depth: usize| {
        let mut txn = pb::TxnRequest::default();
        for _ in 0..depth {
            let success = vec![op(OpRequest::RequestTxn(txn))];
            txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
        }
        txn.encode_to_vec()
    };
    assert_eq!(told(txn(pb::TxnRequest::decode(nested(40).as_slice()).unwrap())), "");
    assert!(pb::TxnRequest::decode(nested(120).as_slice()).is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_conversion_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        // Bytes that mean something more often than chance would have it: small fields, small lengths.
        let likely: Vec<u8> = bytes.iter().map(|byte| if byte % 3 == 0 { byte % 8 } else { *byte % 0x53 }).collect();
        for bytes in [&bytes, &likely] {
            let _ = pb::TxnRequest::decode(bytes.as_slice()).map(txn);
            let _ = pb::RangeRequest::decode(bytes.as_slice()).map(range);
            let _ = pb::PutRequest::decode(bytes.as_slice()).map(put);
            let _ = pb::DeleteRangeRequest::decode(bytes.as_slice()).map(delete_range);
        }
    }
}
