//! Bytes of the log and messages between members: they come back as they went, and nothing that arrives panics.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use crate::error::Error;
use crate::identity::{NodeId, OrdinalRange};
use crate::mvcc::KeyValue;
use crate::mvcc::alarm::{Alarm, AlarmCommand, AlarmKind, Cause};
use crate::mvcc::auth::{Access, AuthCommand, Permission};
use crate::mvcc::cluster::{Adding, ClusterCommand, ClusterEvent, Mark};
use crate::mvcc::command::*;
use crate::proto::{log, peer};
use crate::raft::codec::{self, CodecError};
use crate::raft::types::Batch;
use crate::raft::wire::{self, Applied};

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn a_put() -> impl Strategy<Value = Put> {
    (bytes(), bytes(), any::<i64>(), any::<(bool, bool, bool)>()).prop_map(|(key, value, lease, flags)| Put {
        key,
        value,
        lease,
        prev_kv: flags.0,
        ignore_value: flags.1,
        ignore_lease: flags.2,
    })
}

fn a_delete() -> impl Strategy<Value = DeleteRange> {
    (bytes(), bytes(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange {
        key,
        range_end,
        prev_kv,
    })
}

fn a_range() -> impl Strategy<Value = Range> {
    let orders = prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)];
    let targets = prop_oneof![
        Just(SortTarget::Key),
        Just(SortTarget::Version),
        Just(SortTarget::Create),
        Just(SortTarget::Mod),
        Just(SortTarget::Value)
    ];
    (bytes(), bytes(), any::<[i64; 6]>(), orders, targets, any::<(bool, bool)>()).prop_map(
        |(key, range_end, numbers, sort_order, sort_target, flags)| Range {
            key,
            range_end,
            limit: numbers[0],
            revision: numbers[1],
            sort_order,
            sort_target,
            keys_only: flags.0,
            count_only: flags.1,
            min_mod_revision: numbers[2],
            max_mod_revision: numbers[3],
            min_create_revision: numbers[4],
            max_create_revision: numbers[5],
        },
    )
}

fn a_compare() -> impl Strategy<Value = Compare> {
    let results = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual)
    ];
    let operands = prop_oneof![
        any::<i64>().prop_map(Operand::Version),
        any::<i64>().prop_map(Operand::Create),
        any::<i64>().prop_map(Operand::Mod),
        bytes().prop_map(Operand::Value),
        any::<i64>().prop_map(Operand::Lease)
    ];
    (bytes(), bytes(), results, operands).prop_map(|(key, range_end, result, operand)| Compare {
        key,
        range_end,
        result,
        operand,
    })
}

fn a_txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        a_range().prop_map(TxnOp::Range),
        a_put().prop_map(TxnOp::Put),
        a_delete().prop_map(TxnOp::DeleteRange)
    ];
    let op = leaf.prop_recursive(3, 16, 4, |inner| {
        (vec(a_compare(), 0..3), vec(inner.clone(), 0..4), vec(inner, 0..4))
            .prop_map(|(compares, success, failure)| TxnOp::Txn(Txn { compares, success, failure }))
    });
    (vec(a_compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
}

fn a_mark() -> impl Strategy<Value = (NodeId, Mark)> {
    any::<[u64; 6]>().prop_map(|numbers| {
        let mark = Mark {
            boot: numbers[1],
            vote_term: numbers[2],
            vote_node: numbers[3],
            log_term: numbers[4],
            log_index: numbers[5],
        };
        (NodeId(numbers[0]), mark)
    })
}

fn an_auth_command() -> impl Strategy<Value = AuthCommand> {
    let name = || ".{0,10}";
    let access = proptest::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite]);
    let granted = (name(), access, bytes(), bytes()).prop_map(|(name, access, key, range_end)| {
        AuthCommand::RoleGrantPermission { name, permission: Permission { access, key, range_end } }
    });
    prop_oneof![
        Just(AuthCommand::Enable),
        Just(AuthCommand::Disable),
        (name(), name(), any::<u64>()).prop_map(|(name, token, revision)| AuthCommand::Authenticate {
            name,
            token,
            revision
        }),
        (name(), proptest::option::of(bytes()))
            .prop_map(|(name, password)| AuthCommand::UserAdd { name, password }),
        name().prop_map(|name| AuthCommand::UserDelete { name }),
        (name(), bytes()).prop_map(|(name, password)| AuthCommand::UserChangePassword { name, password }),
        (name(), name()).prop_map(|(name, role)| AuthCommand::UserGrantRole { name, role }),
        (name(), name()).prop_map(|(name, role)| AuthCommand::UserRevokeRole { name, role }),
        name().prop_map(|name| AuthCommand::RoleAdd { name }),
        name().prop_map(|name| AuthCommand::RoleDelete { name }),
        granted,
        (name(), bytes(), bytes()).prop_map(|(name, key, range_end)| AuthCommand::RoleRevokePermission {
            name,
            key,
            range_end
        }),
    ]
}

fn a_request() -> impl Strategy<Value = Request> {
    let command = prop_oneof![
        a_put().prop_map(Command::Put),
        a_delete().prop_map(Command::DeleteRange),
        a_txn().prop_map(Command::Txn),
        any::<(i64, bool)>()
            .prop_map(|(revision, physical)| Command::Compact(Compact { revision, physical })),
        vec(a_mark(), 0..4).prop_map(|marks| Command::Cluster(ClusterCommand::Marks(marks))),
        any::<(u16, u64)>()
            .prop_map(|(ordinal, nonce)| Command::Cluster(ClusterCommand::Admit { ordinal, nonce })),
        any::<(u16, u16)>().prop_map(|(start, size)| {
            Command::Cluster(ClusterCommand::Resize(OrdinalRange { start, size }))
        }),
        (any::<[u64; 2]>(), ".{0,20}", ".{0,20}").prop_map(|([id, at_millis], source, text)| {
            Command::Cluster(ClusterCommand::Note(ClusterEvent { id, at_millis, source, text }))
        }),
        any::<u32>().prop_map(|by| Command::Cluster(ClusterCommand::RaiseRevision(by))),
        (an_alarm(), any::<[bool; 2]>()).prop_map(|(alarm, [disk, raised])| {
            let cause = if disk { Cause::Disk } else { Cause::Held };
            Command::Cluster(ClusterCommand::Alarm(AlarmCommand { alarm, cause, raised }))
        }),
        an_auth_command().prop_map(Command::Auth),
        (vec(".{0,20}", 0..3), any::<bool>(), any::<u32>()).prop_map(
            |(peer_urls, learner, most_learners)| {
                Command::Cluster(ClusterCommand::Add(Adding { peer_urls, learner, most_learners }))
            }
        ),
        any::<u16>().prop_map(|ordinal| Command::Cluster(ClusterCommand::Dismiss(ordinal))),
        (any::<u16>(), vec(".{0,20}", 0..3)).prop_map(|(ordinal, peer_urls)| {
            Command::Cluster(ClusterCommand::Expect { ordinal, peer_urls })
        }),
    ];
    (".{0,10}", any::<u64>(), command).prop_map(|(user, auth_revision, command)| Request {
        user,
        auth_revision,
        command,
    })
}

fn an_alarm() -> impl Strategy<Value = Alarm> {
    let kind = prop_oneof![Just(AlarmKind::NoSpace), Just(AlarmKind::Corrupt)];
    (kind, any::<u64>()).prop_map(|(kind, member)| Alarm { kind, member: NodeId(member) })
}

fn a_kv() -> impl Strategy<Value = KeyValue> {
    (bytes(), bytes(), any::<[i64; 4]>()).prop_map(|(key, value, numbers)| KeyValue {
        key,
        value,
        create_revision: numbers[0],
        mod_revision: numbers[1],
        version: numbers[2],
        lease: numbers[3],
    })
}

fn an_outcome() -> impl Strategy<Value = Outcome> {
    let deleted = (any::<[i64; 2]>(), vec(a_kv(), 0..3)).prop_map(|(numbers, previous)| Deleted {
        deleted: numbers[0],
        previous,
        revision: numbers[1],
    });
    let range = (any::<[i64; 2]>(), any::<bool>(), vec(a_kv(), 0..3))
        .prop_map(|(numbers, more, kvs)| RangeResult { kvs, more, count: numbers[0], revision: numbers[1] });
    let leaf = prop_oneof![
        proptest::option::of(a_kv()).prop_map(Outcome::Put),
        deleted.prop_map(Outcome::DeleteRange),
        range.prop_map(Outcome::Range),
        Just(Outcome::Compact),
        Just(Outcome::Cluster),
        Just(Outcome::Auth),
        (".{0,20}", any::<u64>()).prop_map(|(token, revision)| Outcome::Authenticated { token, revision }),
        Just(Outcome::Admitted(None)),
        vec(an_alarm(), 0..3).prop_map(Outcome::Alarms),
        (1..u64::MAX).prop_map(|id| Outcome::Admitted(Some(NodeId(id))))
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        (any::<bool>(), any::<i64>(), vec(inner, 0..4)).prop_map(|(succeeded, revision, outcomes)| {
            Outcome::Txn(TxnResult { succeeded, revision, outcomes })
        })
    })
}

proptest! {
    #[test]
    fn requests_come_back_and_the_batch_is_what_prost_writes(requests in vec(a_request(), 1..5)) {
        let encoded: Vec<_> = requests.iter().cloned().map(codec::encode_request).collect();
        let batch = codec::encode_batch(&encoded);
        prop_assert_eq!(codec::decode_batch(&batch).unwrap(), requests);
        for request in &encoded {
            prop_assert!(codec::decode_request(request).is_ok());
        }
        let parts = encoded.iter().map(|part| log::Request::decode(part.clone()).unwrap()).collect();
        let payload = log::payload::Payload::Batch(log::Batch { requests: parts });
        let whole = log::Payload { payload: Some(payload) }.encode_to_vec();
        prop_assert_eq!(&batch.encoded[..], &whole[..]);
        let read = codec::decode_payload(batch.encoded.clone()).unwrap();
        prop_assert_eq!(codec::encode_payload(&read), batch.encoded);
    }

    #[test]
    fn no_bytes_panic(noise in vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), request in a_request()) {
        let noise = Bytes::from(noise);
        let _ = codec::decode_payload(noise.clone());
        let _ = codec::decode_batch(&Batch { encoded: noise.clone() });
        let _ = codec::decode_stored_membership(noise.clone());
        let _ = codec::decode_request(&noise);
        if let Ok(append) = peer::AppendRequest::decode(noise.clone()) {
            let _ = wire::append_from_wire(append);
        }
        if let Ok(reply) = peer::Reply::decode(noise) {
            let _ = wire::proposed_from_wire(reply);
        }
        // A good one with one byte changed.
        let mut bytes = codec::encode_batch(&[codec::encode_request(request)]).encoded.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 0x55;
        let _ = codec::decode_batch(&Batch { encoded: bytes.into() });
    }

    #[test]
    fn answers_come_back(outcome in an_outcome(), revision in any::<i64>(), at in any::<(u64, u64)>()) {
        let applied = Applied { term: at.0, index: at.1, reply: Ok(Reply { revision, outcome }) };
        let back = wire::proposed_from_wire(wire::proposed_to_wire(Ok(applied.clone())));
        prop_assert_eq!(back, Ok(Some(applied)));
    }
}

#[test]
fn what_a_newer_version_wrote_is_a_typed_error() {
    // Field 30 of a request, of a payload, of an operation.
    let request = Bytes::from_static(&[0xf2, 0x01, 0x00]);
    assert_eq!(codec::decode_request(&request), Err(CodecError::Missing("command")));
    assert_eq!(codec::decode_payload(request).unwrap_err(), CodecError::Missing("payload"));
    let bad_order = log::Range { sort_order: 7, ..log::Range::default() };
    let op = log::Op { op: Some(log::op::Op::Range(bad_order)) };
    let txn = log::Txn { success: vec![op], ..log::Txn::default() };
    let command = Some(log::request::Command::Txn(txn));
    let request = log::Request { command, ..log::Request::default() }.encode_to_vec();
    let unknown = CodecError::Unknown { what: "sort order", value: 7 };
    assert_eq!(codec::decode_request(&request.into()), Err(unknown));
}

#[test]
fn refusals_and_failures_keep_what_they_say_about_the_outcome() {
    for number in 1..=5 {
        let refusal = Refusal::from_number(number).unwrap();
        let applied = Applied { term: 4, index: 9, reply: Err(refusal) };
        let back = wire::proposed_from_wire(wire::proposed_to_wire(Ok(applied.clone())));
        assert_eq!(back, Ok(Some(applied)));
    }
    let unknown = |outcome| {
        let reply = peer::Reply { outcome, ..peer::Reply::default() };
        wire::proposed_from_wire(reply).unwrap_err().is_outcome_unknown()
    };
    assert!(unknown(None));
    assert!(unknown(Some(peer::reply::Outcome::Refused(77))));
    assert!(unknown(Some(peer::reply::Outcome::Done(peer::Outcome { outcome: None }))));
    let back = |error| wire::proposed_from_wire(wire::proposed_to_wire(Err(error)));
    assert_eq!(back(Error::NoLeader), Ok(None));
    assert_eq!(back(Error::Stopped), Ok(None));
    assert_eq!(back(Error::TooManyRequests), Err(Error::TooManyRequests));
    assert!(back(Error::OutcomeUnknown("lost".into())).unwrap_err().is_outcome_unknown());
}
