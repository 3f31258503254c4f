//! `watch`, as scripts use it.

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
