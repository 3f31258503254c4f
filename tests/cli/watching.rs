//! `watch`, as scripts use it.

use std::io::{BufRead, BufReader};

use super::*;

#[test]
fn a_command_runs_for_each_change_in_their_order_and_its_failure_is_the_end() {
    let member = Member::start(&["--memory"]);
    for arguments in [&["put", "a", "one"][..], &["put", "a b", "two"], &["del", "a"]] {
        assert_eq!(code(&member.run(arguments)), 0, "{arguments:?}");
    }
    let watch = |limit: &str, script: &str| {
        output(&[
            "--endpoints",
            &member.endpoint,
            "watch",
            "--prefix",
            "a",
            "--rev",
            "1",
            "--max-events",
            limit,
            "--",
            "sh",
            "-c",
            script,
        ])
    };
    let told =
        watch("3", "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY \"$ETCD_WATCH_VALUE\"");
    assert_eq!(code(&told), 0, "{told:?}");
    let expected = [
        "PUT\na\none\n2 \"PUT\" \"a\" \"one\"\n",
        "PUT\na b\ntwo\n3 \"PUT\" \"a b\" \"two\"\n",
        "DELETE\na\n\n4 \"DELETE\" \"a\" \"\"\n",
    ];
    assert_eq!(stdout(&told), expected.concat());
    let failed = watch("0", "exit 3");
    assert_eq!(code(&failed), 1);
    assert!(String::from_utf8_lossy(&failed.stderr).contains("sh: exit status: 3"), "{failed:?}");
    assert_eq!(stdout(&failed).matches("PUT").count(), 1);
}

/// The next lines.
fn read(from: &mut impl BufRead, lines: usize) -> String {
    let mut text = String::new();
    for _ in 0..lines {
        from.read_line(&mut text).unwrap();
    }
    text
}

#[test]
fn standard_input_says_what_to_watch() {
    let member = Member::start(&["--memory"]);
    let mut watching = setstone(&["--endpoints", &member.endpoint, "watch", "-i"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = watching.stdin.take().unwrap();
    let mut out = BufReader::new(watching.stdout.take().unwrap());
    let mut complaints = BufReader::new(watching.stderr.take().unwrap());
    // From the first revision on: whether the watch or the write comes first makes no difference.
    writeln!(input, "watch a --rev 1\n").unwrap();
    assert_eq!(code(&member.run(&["put", "a", "one"])), 0);
    assert_eq!(read(&mut out, 3), "PUT\na\none\n");
    for (line, reason) in [
        ("watch nothing --hex", "\"nothing\""),
        ("watch", "not provided: <KEY>"),
        ("watch -i", "every line is asked for already"),
        ("listen a", "\"listen a\": unrecognized"),
        ("watch \"a", "a double quote is not closed"),
    ] {
        writeln!(input, "{line}").unwrap();
        let complaint = read(&mut complaints, 1);
        assert!(complaint.contains(reason), "{line}: {complaint}");
    }
    writeln!(input, "watch \"b c\" --rev 1 --max-events 1 -- echo done").unwrap();
    assert_eq!(code(&member.run(&["put", "b c", "two"])), 0);
    assert_eq!(read(&mut out, 4), "PUT\nb c\ntwo\ndone\n");
    assert_eq!(code(&member.run(&["put", "b c", "three"])), 0);
    assert_eq!(code(&member.run(&["del", "a"])), 0);
    assert_eq!(read(&mut out, 3), "DELETE\na\n\n", "the second watch has ended");
    writeln!(input, "progress").unwrap();
    assert_eq!(read(&mut out, 1), "progress notify: 5\n");
    assert_eq!(code(&member.run(&["compact", "5"])), 0);
    writeln!(input, "watch a --rev 2").unwrap();
    let complaint = read(&mut complaints, 1);
    assert!(complaint.contains("a watch ended: revisions before 5 were compacted"), "{complaint}");
    assert_eq!(code(&member.run(&["put", "a", "four"])), 0);
    assert_eq!(read(&mut out, 3), "PUT\na\nfour\n");
    drop(input);
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    assert_eq!((read(&mut out, 1), read(&mut complaints, 1)), (String::new(), String::new()));
}

#[test]
fn a_watch_needs_a_key_or_standard_input() {
    for arguments in [&["watch"][..], &["watch", "-i", "a"], &["watch", "--rev", "3"]] {
        let refused = output(arguments);
        assert_eq!(code(&refused), 2, "{arguments:?}: {refused:?}");
    }
}
