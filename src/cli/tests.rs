//! What commands take and what they print.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use bytes::Bytes;
use clap::CommandFactory;

use super::*;
use crate::client::{Answer, Header, KeyValue, MemberInfo, Status};
use crate::error::Error;
use crate::identity::{ClusterId, NodeId};
use crate::mvcc::command::{Deleted, Outcome, Range, RangeResult, SortOrder, SortTarget, TxnResult};
use text::Encoding;

fn parse(arguments: &[&str]) -> Result<Command, clap::Error> {
    Cli::try_parse_from([&["setstone"], arguments].concat()).map(|cli| cli.command)
}

fn get_arguments(arguments: &[&str]) -> get::Arguments {
    match parse(&[&["get"], arguments].concat()).unwrap() {
        Command::Get(arguments) => arguments,
        other => panic!("{other:?}"),
    }
}

fn header() -> Header {
    Header { cluster: ClusterId(0xabc), member: NodeId::new(1, 7), revision: 42, term: 3 }
}

fn pair(key: &'static str, value: &'static [u8], version: i64, lease: i64) -> KeyValue {
    KeyValue {
        key: key.into(),
        create_revision: 2,
        mod_revision: 1 + version,
        version,
        value: Bytes::from_static(value),
        lease,
    }
}

/// What a command prints.
fn printed(print: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> String {
    let mut out = Vec::new();
    print(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_examples_or_is_help() {
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        if name != "help" && name != "playground" {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("xample"), "{name}");
        }
    }
}

#[test]
fn every_shell_gets_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let Command::Completion(arguments) = parse(&["completion", shell]).unwrap() else { panic!() };
        let script = printed(|out| completion::run(&arguments, out).map(|_| ()));
        assert!(script.contains("setstone") && script.contains("compact"), "{shell}");
    }
}

#[test]
fn get_means_the_range_that_it_says() {
    let range = |arguments: &[&str]| get_arguments(arguments).request().unwrap();
    let plain = |key: &'static [u8], end: &'static [u8]| Range {
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(end),
        ..Range::default()
    };
    assert_eq!(range(&["a"]), plain(b"a", b""));
    assert_eq!(range(&["a", "c"]), plain(b"a", b"c"));
    assert_eq!(range(&["--prefix", "a"]), plain(b"a", b"b"));
    assert_eq!(range(&["--prefix", ""]), plain(b"\0", b"\0"));
    assert_eq!(range(&["--from-key", "a"]), plain(b"a", b"\0"));
    assert_eq!(range(&["--from-key", ""]), plain(b"\0", b"\0"));
    assert_eq!(range(&["--hex", "61ff", "6200"]), plain(b"a\xff", b"b\0"));
    assert_eq!(
        range(&[
            "a",
            "--limit",
            "5",
            "--rev",
            "9",
            "--sort-by",
            "modify",
            "--order",
            "descend",
            "--keys-only"
        ]),
        Range {
            limit: 5,
            revision: 9,
            sort_order: SortOrder::Descend,
            sort_target: SortTarget::Mod,
            keys_only: true,
            ..plain(b"a", b"")
        }
    );
    assert_eq!(range(&["a", "--sort-by", "value"]).sort_order, SortOrder::Ascend);
    assert_eq!(range(&["a", "--order", "descend"]).sort_order, SortOrder::Descend);
}

#[test]
fn arguments_that_contradict_each_other_are_usage_errors() {
    for arguments in [
        &["get"][..],
        &["get", "a", "b", "--prefix"],
        &["get", "--prefix", "--from-key", "a"],
        &["get", "a", "--limit", "-1"],
        &["get", "a", "--rev", "-1"],
        &["get", "a", "--count-only", "--keys-only"],
        &["get", "a", "--value-only", "--keys-only"],
        &["get", "a", "--sort-by", "size"],
        &["put", "a"],
        &["put", "a", "b", "--ignore-value"],
        &["put", "a", "b", "--lease", "1", "--ignore-lease"],
        &["put", "a", "b", "--lease", "x"],
        &["compact", "0"],
        &["compact", "x"],
        &["completion", "tcsh"],
        &["get", "a", "--timeout", "never"],
        &["bench", "put", "--clients", "0"],
        &["bench", "put", "--rate", "0"],
        &["bench", "put", "--total", "1", "--duration", "1s"],
        &["bench", "range", "--limit", "0"],
        &["bench", "mixed", "--reads", "101"],
        &["bench"],
        &["nothing"],
    ] {
        let error = parse(arguments).map(|command| format!("{command:?}")).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(Exit::Usage as u8), "{arguments:?}");
    }
    assert_eq!(get_arguments(&[""]).request().unwrap_err().exit, Exit::Usage);
    assert_eq!(get_arguments(&["--hex", "x"]).request().unwrap_err().exit, Exit::Usage);
}

#[test]
fn global_options_are_taken_before_and_after_the_command() {
    for arguments in [["--endpoints", "a:1", "get", "k"], ["get", "k", "--endpoints", "a:1"]] {
        let cli = Cli::try_parse_from([&["setstone"][..], &arguments].concat()).unwrap();
        assert_eq!(cli.global.endpoints, "a:1");
    }
}

#[test]
fn get_prints() {
    let answer = Answer {
        header: header(),
        value: RangeResult {
            kvs: vec![pair("color", b"dark blue", 1, 0), pair("k\n", b"\xff\x00", 12, 0x77)],
            more: true,
            count: 5,
            revision: 42,
        },
    };
    let text =
        |arguments: &[&str], json| printed(|out| get::print(&answer, &get_arguments(arguments), json, out));
    insta::assert_snapshot!("get", text(&["--prefix", ""], false));
    insta::assert_snapshot!("get_keys_only", text(&["--prefix", "", "--keys-only"], false));
    insta::assert_snapshot!("get_count_only", text(&["--prefix", "", "--count-only"], false));
    insta::assert_snapshot!("get_hex", text(&["--prefix", "", "--hex"], false));
    insta::assert_snapshot!("get_json", text(&["--prefix", ""], true));
    assert_eq!(text(&["--prefix", "", "--value-only", "--hex"], false), "6461726b20626c7565\nff00\n");
}

#[test]
fn get_value_only_prints_bytes_as_they_are() {
    let answer = Answer {
        header: header(),
        value: RangeResult { kvs: vec![pair("a", b"\xff\x00", 1, 0)], more: false, count: 1, revision: 1 },
    };
    let mut out = Vec::new();
    get::print(&answer, &get_arguments(&["a", "--value-only"]), false, &mut out).unwrap();
    assert_eq!(out, b"\xff\x00\n");
}

#[test]
fn put_and_del_print() {
    let Command::Put(arguments) = parse(&["put", "a", "b"]).unwrap() else { panic!() };
    let put =
        |value, json| printed(|out| put::print(&Answer { header: header(), value }, &arguments, json, out));
    insta::assert_snapshot!("put", put(None, false));
    insta::assert_snapshot!("put_prev_kv", put(Some(pair("a", b"0", 3, 0)), false));
    insta::assert_snapshot!("put_json", put(Some(pair("a", b"0", 3, 0)), true));
    let del = |previous, json| {
        let value = Deleted { deleted: 2, previous, revision: 42 };
        printed(|out| del::print(&Answer { header: header(), value }, Encoding::Text, json, out))
    };
    insta::assert_snapshot!("del", del(vec![], false));
    insta::assert_snapshot!("del_prev_kv", del(vec![pair("a", b"0", 3, 0), pair("b", b"1", 1, 0)], false));
    insta::assert_snapshot!("del_json", del(vec![pair("a", b"0", 3, 0)], true));
}

#[test]
fn txn_prints() {
    let range = RangeResult { kvs: vec![pair("a", b"0", 3, 0)], more: false, count: 1, revision: 42 };
    let inner = TxnResult { succeeded: false, revision: 42, outcomes: vec![Outcome::Put(None)] };
    let value = TxnResult {
        succeeded: true,
        revision: 42,
        outcomes: vec![
            Outcome::Range(range),
            Outcome::Put(Some(pair("b", b"1", 1, 0))),
            Outcome::DeleteRange(Deleted { deleted: 1, previous: vec![], revision: 42 }),
            Outcome::Txn(inner),
        ],
    };
    let answer = Answer { header: header(), value };
    let text = |json| printed(|out| txn::print(&answer, Encoding::Text, json, out));
    insta::assert_snapshot!("txn", text(false));
    insta::assert_snapshot!("txn_json", text(true));
}

#[test]
fn status_prints() {
    let status = Status {
        version: "3.7.0".into(),
        storage_version: "1".into(),
        db_size: 5_300_000,
        db_size_in_use: 5_000_000,
        leader: Some(NodeId::new(1, 7)),
        term: 3,
        index: 100,
        applied_index: 99,
        is_learner: false,
        errors: vec![],
    };
    let lost = Status { leader: None, errors: vec!["no leader".into(), "NOSPACE".into()], ..status.clone() };
    let learner = Answer {
        header: Header { member: NodeId::new(2, 9), ..header() },
        value: Status { is_learner: true, ..status.clone() },
    };
    let rows = vec![
        ("a:2379".to_owned(), Ok(Answer { header: header(), value: status })),
        ("b:2379".to_owned(), Ok(Answer { header: Header { member: NodeId(1), ..header() }, value: lost })),
        ("c:2379".to_owned(), Ok(learner)),
        ("d:2379".to_owned(), Err(Error::TimedOut)),
    ];
    insta::assert_snapshot!("status", printed(|out| status::print(&rows, false, out)));
    insta::assert_snapshot!("status_json", printed(|out| status::print(&rows, true, out)));
}

#[test]
fn members_print() {
    let member = |ordinal, name: &str, is_learner| MemberInfo {
        id: NodeId::new(ordinal, 1),
        name: name.into(),
        peer_urls: vec![format!("http://p{ordinal}:2380")],
        client_urls: vec![format!("http://c{ordinal}:2379"), "http://lb:2379".into()],
        is_learner,
    };
    let answer =
        Answer { header: header(), value: vec![member(0, "setstone-0", false), member(1, "", true)] };
    insta::assert_snapshot!("members", printed(|out| members::print(&answer, false, out)));
    insta::assert_snapshot!("members_json", printed(|out| members::print(&answer, true, out)));
}
