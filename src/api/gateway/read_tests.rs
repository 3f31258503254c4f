#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::DescriptorPool;

use super::*;
use crate::proto::{CLIENT_DESCRIPTORS, etcdserverpb as pb};

fn read_as<M: prost::Message + Default>(name: &str, text: &str) -> Result<M, String> {
    let pool = DescriptorPool::decode(CLIENT_DESCRIPTORS).unwrap();
    let kind = pool.get_message_by_name(&format!("etcdserverpb.{name}")).unwrap();
    let message = super::read(&kind, text.as_bytes()).map_err(|failure| {
        assert_eq!(failure.code, Code::InvalidArgument, "{failure}");
        failure.text.into_owned()
    })?;
    Ok(M::decode(message.encode_to_vec().as_slice()).unwrap())
}

fn range(text: &str) -> Result<pb::RangeRequest, String> {
    read_as("RangeRequest", text)
}

#[test]
fn names_are_those_of_the_proto_file_or_in_camel_case() {
    let expected = pb::RangeRequest { key: "a".into(), keys_only: true, limit: 3, ..Default::default() };
    for text in [
        r#"{"key":"YQ==","keys_only":true,"limit":3}"#,
        r#"{"keysOnly":true,"limit":"3","key":"YQ=="}"#,
        r#" {"key" : "YQ==", "nope": {"a":[1,{"b":null}]}, "keysOnly":true, "limit":3.0, "revision":null} "#,
    ] {
        assert_eq!(range(text).unwrap(), expected, "{text}");
    }
    // These have capitals in the proto file.
    let grant = pb::LeaseGrantRequest { ttl: 60, id: -3 };
    assert_eq!(
        read_as::<pb::LeaseGrantRequest>("LeaseGrantRequest", r#"{"TTL":"60","ID":-3}"#).unwrap(),
        grant
    );
    let ignored = read_as::<pb::LeaseGrantRequest>("LeaseGrantRequest", r#"{"ttl":60,"id":5}"#).unwrap();
    assert_eq!(ignored, pb::LeaseGrantRequest::default());
}

#[test]
fn integers_are_numbers_or_texts_and_must_fit() {
    let limit = |value: &str| range(&format!("{{\"limit\":{value}}}")).map(|request| request.limit);
    for (text, value) in [
        ("0", 0),
        ("-0", 0),
        ("\"-5\"", -5),
        ("\"1e3\"", 1_000),
        ("1.5e1", 15),
        ("9223372036854775807", i64::MAX),
        ("\"9223372036854775807\"", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("null", 0),
    ] {
        assert_eq!(limit(text), Ok(value), "{text}");
    }
    for text in [
        "9223372036854775808",
        "-9223372036854775809",
        "\"18446744073709551616\"",
        "1.5",
        "1e400",
        "9007199254740993.0",
        "\"\"",
        "\" 5\"",
        "\"+5\"",
        "\"007\"",
        "\"0x5\"",
        "\"1_000\"",
        "true",
        "[]",
        "{}",
    ] {
        assert!(limit(text).is_err(), "{text}");
    }
    let member = |value: &str| {
        read_as::<pb::MemberRemoveRequest>("MemberRemoveRequest", &format!("{{\"ID\":{value}}}"))
            .map(|m| m.id)
    };
    assert_eq!(member("18446744073709551615"), Ok(u64::MAX));
    assert!(member("-1").is_err());
}

#[test]
fn bytes_are_base64_of_either_alphabet() {
    let key = |value: &str| range(&format!("{{\"key\":{value}}}")).map(|request| request.key);
    for (text, value) in [
        (r#""""#, &b""[..]),
        (r#""/+8=""#, &[0xff, 0xef]),
        (r#""_-8=""#, &[0xff, 0xef]),
        (r#""_-8""#, &[0xff, 0xef]),
        (r#""YQ""#, b"a"),
        (r#""YR==""#, b"a"),
        (r#""Zm9v\n""#, b"foo"),
        (r#""Zm9v\r\nYmFy""#, b"foobar"),
        (r#""\u0059Q==""#, b"a"),
    ] {
        assert_eq!(key(text), Ok(Bytes::copy_from_slice(value)), "{text}");
    }
    for text in [
        r#""%%%""#,
        r#""YQ=""#,
        r#""YQ===""#,
        r#""Y""#,
        r#""Y Q=""#,
        r#""/_8=""#,
        "5",
        "[1]",
        r#""YQ==YQ==""#,
    ] {
        assert!(key(text).is_err(), "{text}");
    }
    let error = range(r#"{"key":"%%%"}"#).unwrap_err();
    assert!(error.contains("field key: \"%%%\"") && error.contains("line 1 column"), "{error}");
}

#[test]
fn enums_are_names_or_numbers() {
    let order = |value: &str| range(&format!("{{\"sort_order\":{value}}}")).map(|request| request.sort_order);
    for (text, value) in
        [("\"DESCEND\"", 2), ("2", 2), ("7", 7), ("\"NOPE\"", 0), ("\"descend\"", 0), ("2.0", 2)]
    {
        assert_eq!(order(text), Ok(value), "{text}");
    }
    assert!(order("3000000000").is_err() && order("true").is_err());
    let filters =
        read_as::<pb::WatchCreateRequest>("WatchCreateRequest", r#"{"filters":["NOPE","NODELETE",0]}"#);
    assert_eq!(filters.unwrap().filters, [1, 0]);
}

#[test]
fn what_was_chosen_of_several_is_kept_even_if_it_is_zero() {
    let compare = |text: &str| read_as::<pb::Compare>("Compare", text);
    let chosen = compare(r#"{"create_revision":"0"}"#).unwrap().target_union;
    assert_eq!(chosen, Some(pb::compare::TargetUnion::CreateRevision(0)));
    assert_eq!(compare(r#"{"version":null}"#).unwrap().target_union, None);
    assert!(compare(r#"{"version":null,"value":"YQ=="}"#).is_ok());
    let error = compare(r#"{"version":1,"value":"YQ=="}"#).unwrap_err();
    assert!(error.contains("already set"), "{error}");
    let watch = read_as::<pb::WatchRequest>("WatchRequest", r#"{"progress_request":{}}"#).unwrap();
    assert!(matches!(watch.request_union, Some(pb::watch_request::RequestUnion::ProgressRequest(_))));
}

#[test]
fn a_field_is_there_once() {
    for text in [
        r#"{"key":"YQ==","key":"Yg=="}"#,
        r#"{"keys_only":true,"keysOnly":true}"#,
        r#"{"limit":null,"limit":1}"#,
    ] {
        let error = range(text).unwrap_err();
        assert!(error.contains("duplicate field"), "{error}");
    }
}

#[test]
fn what_is_no_message_is_told_where() {
    for text in
        ["null", "1", "\"\"", "[]", "{} {}", "{}}", "{\"key\"}", "{key:1}", "{\"success\":{}}", "\u{feff}{}"]
    {
        assert!(read_as::<pb::TxnRequest>("TxnRequest", text).is_err(), "{text}");
    }
    for text in ["", "{", "{\"success\":[", "{\"success\":[{\"request_put\":{\"key\":\"YQ="] {
        assert_eq!(read_as::<pb::TxnRequest>("TxnRequest", text).unwrap_err(), "unexpected EOF", "{text}");
    }
    let error = read_as::<pb::TxnRequest>("TxnRequest", r#"{"success":[null]}"#).unwrap_err();
    assert!(error.contains("RequestOp"), "{error}");
    let long = range(&format!("{{\"key\":\"{}\"}}", "%".repeat(100_000))).unwrap_err();
    assert!(long.len() < 400, "{} bytes of an error", long.len());
}

#[test]
fn depth_and_number_are_bounded() {
    let nested = |depth: usize| {
        let open = r#"{"success":[{"request_txn":"#.repeat(depth);
        format!("{open}{{}}{}", "}]}".repeat(depth))
    };
    assert!(read_as::<pb::TxnRequest>("TxnRequest", &nested(20)).is_ok());
    assert!(read_as::<pb::TxnRequest>("TxnRequest", &nested(200_000)).is_err());
    let unknown = format!("{{\"nope\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    // However deep it is: it is not recursed into, or refused.
    let _ = range(&unknown);
    let many = |count: usize| format!("{{\"success\":[{}{{}}]}}", "{},".repeat(count - 1));
    assert!(read_as::<pb::TxnRequest>("TxnRequest", &many(1_000)).is_ok());
    let error = read_as::<pb::TxnRequest>("TxnRequest", &many(limits::GATEWAY_ELEMENTS)).unwrap_err();
    assert!(error.contains("more than"), "{error}");
}
