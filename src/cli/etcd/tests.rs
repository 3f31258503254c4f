//! The flags as tables: what is read from where, and what becomes of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use super::flags::{Does, FLAGS};
use super::options::{Compaction, Options};
use super::parse::{Asked, ParseError, Values};
use super::{config, file, parse};
use crate::config::{Cluster, Config, Data, InitialCluster};
use crate::transport::tls::{Allowed, Identity, KeyPair, Version};

/// What `etcd --help` of 3.7.3 lists.
const NEWEST: &[&str] = &[
    "name",
    "data-dir",
    "wal-dir",
    "snapshot-count",
    "heartbeat-interval",
    "election-timeout",
    "initial-election-tick-advance",
    "listen-peer-urls",
    "listen-client-urls",
    "listen-client-http-urls",
    "max-snapshots",
    "max-wals",
    "memory-mlock",
    "quota-backend-bytes",
    "backend-bbolt-freelist-type",
    "backend-batch-interval",
    "backend-batch-limit",
    "max-txn-ops",
    "max-request-bytes",
    "max-concurrent-streams",
    "grpc-keepalive-min-time",
    "grpc-keepalive-interval",
    "grpc-keepalive-timeout",
    "socket-reuse-port",
    "socket-reuse-address",
    "enable-grpc-gateway",
    "raft-read-timeout",
    "raft-write-timeout",
    "feature-gates",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "advertise-client-urls",
    "discovery",
    "discovery-token",
    "discovery-endpoints",
    "discovery-dial-timeout",
    "discovery-request-timeout",
    "discovery-keepalive-time",
    "discovery-keepalive-timeout",
    "discovery-insecure-transport",
    "discovery-insecure-skip-tls-verify",
    "discovery-cert",
    "discovery-key",
    "discovery-cacert",
    "discovery-user",
    "discovery-password",
    "discovery-fallback",
    "discovery-proxy",
    "discovery-srv",
    "discovery-srv-name",
    "strict-reconfig-check",
    "pre-vote",
    "auto-compaction-retention",
    "auto-compaction-mode",
    "v2-deprecation",
    "cert-file",
    "key-file",
    "client-cert-auth",
    "client-cert-file",
    "client-key-file",
    "client-crl-file",
    "client-cert-allowed-hostname",
    "trusted-ca-file",
    "auto-tls",
    "peer-cert-file",
    "peer-key-file",
    "peer-client-cert-auth",
    "peer-client-cert-file",
    "peer-client-key-file",
    "peer-trusted-ca-file",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
    "peer-auto-tls",
    "self-signed-cert-validity",
    "peer-crl-file",
    "cipher-suites",
    "cors",
    "host-whitelist",
    "tls-min-version",
    "tls-max-version",
    "auth-token",
    "bcrypt-cost",
    "auth-token-ttl",
    "enable-pprof",
    "metrics",
    "listen-metrics-urls",
    "logger",
    "log-outputs",
    "log-level",
    "log-format",
    "enable-log-rotation",
    "log-rotation-config-json",
    "warning-unary-request-duration",
    "enable-distributed-tracing",
    "distributed-tracing-address",
    "distributed-tracing-service-name",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "corrupt-check-time",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "peer-skip-client-san-verification",
    "watch-progress-notify-interval",
    "warning-apply-duration",
    "bootstrap-defrag-threshold-megabytes",
    "max-learners",
    "compaction-sleep-interval",
    "downgrade-check-time",
    "snapshot-catchup-entries",
    "force-new-cluster",
    "unsafe-no-fsync",
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn values(of: &[&str]) -> Values {
    match parse::words(&words(of)).unwrap() {
        Asked::Serve(values) => values,
        other => panic!("{other:?}"),
    }
}

fn options(of: &[&str]) -> Result<Options, String> {
    Options::new(&values(of))
}

fn configured(of: &[&str]) -> (Config, Vec<String>) {
    config::config(&options(of).unwrap()).unwrap()
}

fn initial(config: &Config) -> &InitialCluster {
    match &config.cluster {
        Cluster::Initial(initial) => initial,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_flag_of_the_newest_etcd_is_known() {
    for name in NEWEST {
        assert!(FLAGS.iter().any(|flag| flag.name == *name), "--{name}");
    }
}

#[test]
fn each_flag_stands_there_once_with_a_default_of_its_kind_and_a_reason() {
    for (at, flag) in FLAGS.iter().enumerate() {
        assert!(FLAGS[..at].iter().all(|other| other.name != flag.name), "{}", flag.name);
        let unset = flag.default.is_empty();
        assert!(unset || super::values::check(flag.kind, flag.default).is_ok(), "{}", flag.name);
        if let Does::Nothing(why) | Does::Refused(why) = flag.does {
            assert!(!why.is_empty(), "{}", flag.name);
        }
        assert!(super::help().contains(&format!("--{} ", flag.name)), "{}", flag.name);
    }
}

#[test]
fn words_are_read_as_go_reads_them() {
    for of in
        [&["--name", "a"][..], &["-name", "a"], &["--name=a"], &["-name=a"], &["--name=b", "--name", "a"]]
    {
        assert_eq!(values(of).text("name"), "a", "{of:?}");
    }
    for (word, value) in [("--pre-vote", "true"), ("--pre-vote=0", "0"), ("-pre-vote=F", "F")] {
        assert_eq!(values(&[word]).text("pre-vote"), value);
    }
    assert_eq!(
        values(&["--experimental-watch-progress-notify-interval=5s"]).text("watch-progress-notify-interval"),
        "5s"
    );
    assert!(matches!(parse::words(&words(&["--version"])), Ok(Asked::Version)));
    assert!(matches!(parse::words(&words(&["-h"])), Ok(Asked::Help)));
    assert!(
        matches!(parse::words(&words(&["--no-such", "x"])), Err(ParseError::Unknown(name)) if name == "no-such")
    );
    for (of, said) in [
        (&["serve"][..], "\"serve\" is not a valid flag"),
        (&["--pre-vote", "false"], "\"false\" is not a valid flag"),
        (&["--name"], "flag needs an argument: -name"),
        (&["---name"], "bad flag syntax: ---name"),
        (&["--max-txn-ops=x"], "invalid value \"x\" for flag -max-txn-ops: parse error"),
        (&["--initial-cluster-state=old"], "must be one of new, existing"),
        (&["--listen-client-urls=127.0.0.1:2379"], "URL scheme must be http"),
        (&["--bcrypt-cost=32"], "out of range"),
    ] {
        let error = parse::words(&words(of)).unwrap_err().to_string();
        assert!(error.contains(said), "{of:?}: {error}");
    }
}

#[test]
fn variables_come_after_words_and_before_defaults() {
    let lookup = |name: &str| match name {
        "ETCD_NAME" => Some("v".to_owned()),
        "ETCD_DATA_DIR" => Some(String::new()),
        "ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK" => Some("true".to_owned()),
        _ => None,
    };
    let read = parse::variables(Values::default(), &lookup).unwrap();
    assert_eq!((read.text("name"), read.text("data-dir")), ("v", ""));
    assert!(Options::new(&read).unwrap().initial_corrupt_check);
    let shadowed = parse::variables(values(&["--name=a"]), &lookup).unwrap_err();
    assert_eq!(shadowed, ParseError::Shadowed("ETCD_NAME".into()));
    let wrong = |name: &str| (name == "ETCD_MAX_TXN_OPS").then(|| "x".to_owned());
    let error = parse::variables(Values::default(), &wrong).unwrap_err().to_string();
    assert_eq!(error, "invalid value \"x\" for ETCD_MAX_TXN_OPS: parse error");
    let names = ["ETCD_NAME", "ETCD_WHAT", "HOME", "ETCD_EXPERIMENTAL_CORRUPT_CHECK_TIME"].map(str::to_owned);
    assert_eq!(parse::unrecognized(names.into_iter()), ["ETCD_WHAT"]);
}

const FILE: &str = "\
name: 'm1'
data-dir: /var/lib/m1
heartbeat-interval: 50
election-timeout: 500
listen-client-urls: http://10.0.0.1:2379,http://127.0.0.1:2379
listen-peer-urls: http://10.0.0.1:2380
initial-advertise-peer-urls: http://10.0.0.1:2380
advertise-client-urls: http://10.0.0.1:2379
initial-cluster: m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380
initial-cluster-state: 'new'
strict-reconfig-check: false
watch-progress-notify-interval: 600000000
client-transport-security:
  cert-file:
  client-cert-auth: false
log-outputs: [stderr, /tmp/m1.log]
enable-nonsense: true
";

#[test]
fn a_file_has_the_names_of_flags_as_keys() {
    let (values, unknown) = file::read(FILE).unwrap();
    assert_eq!(unknown, ["enable-nonsense"]);
    let options = Options::new(&values).unwrap();
    assert_eq!(options.watch_progress, Duration::from_millis(600));
    assert_eq!(options.log_outputs, ["stderr", "/tmp/m1.log"]);
    let (config, _) = config::config(&options).unwrap();
    assert_eq!(config.tuning.heartbeat, Duration::from_millis(50));
    assert_eq!(
        (config.tuning.election_min, config.tuning.election_max),
        (Duration::from_millis(500), Duration::from_secs(1))
    );
    assert_eq!(config.listen_client, "10.0.0.1:2379".parse().unwrap());
    assert_eq!(config.also_listen.client, ["127.0.0.1:2379".parse().unwrap()]);
    let initial = initial(&config);
    assert_eq!((initial.own.as_str(), initial.strict), ("10.0.0.1:2380", false));
    assert_eq!(initial.ordinal_of("m2"), Some(1));
    for (text, said) in [
        ("- a", "no list of keys"),
        ("name: {a: b}", "name: a section is not expected"),
        ("max-txn-ops: many", "invalid value \"many\" for the key max-txn-ops"),
        ("client-transport-security: x", "invalid client-transport-security"),
    ] {
        let error = file::read(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let (tls, _) = file::read("client-transport-security: {cert-file: a.pem}").unwrap();
    assert!(Options::new(&tls).unwrap_err().contains("[key: , cert: a.pem] (--key-file, --cert-file)"));
    assert!(file::read("").is_ok_and(|(values, _)| Options::new(&values).is_ok()));
}

#[test]
fn a_member_alone_needs_no_flags() {
    let (config, said) = configured(&[]);
    assert!(said.is_empty(), "{said:?}");
    assert!(matches!(&config.data, Data::Directory(path) if path.ends_with("default.etcd")));
    assert_eq!(config.listen_client, "127.0.0.1:2379".parse().unwrap());
    assert_eq!(config.listen_peer, "127.0.0.1:2380".parse().unwrap());
    assert_eq!(config.advertise_client, ["http://localhost:2379"]);
    assert_eq!(initial(&config).members, [("default".to_owned(), "localhost:2380".to_owned())]);
    let default = crate::config::Tuning::default();
    assert_eq!(config.tuning.election_min, default.election_min, "etcd's default is slower than it must be");
    assert!(config.listen_admin.is_none());
}

#[test]
fn what_an_api_servers_store_is_started_with() {
    let (config, _) = configured(&[
        "--data-dir=/x",
        "--listen-client-urls=http://198.18.0.1:2379",
        "--advertise-client-urls=http://198.18.0.1:2379",
        "--listen-peer-urls=http://198.18.0.1:2380",
    ]);
    assert_eq!(config.listen_peer, "198.18.0.1:2380".parse().unwrap());
    assert_eq!(initial(&config).own, "localhost:2380");
}

#[test]
fn everywhere_covers_the_addresses_of_its_port() {
    let (config, _) = configured(&[
        "--listen-client-urls=http://127.0.0.1:2379,http://0.0.0.0:2379,http://127.0.0.1:2479",
        "--listen-client-http-urls=http://127.0.0.1:2579",
        "--listen-metrics-urls=http://0.0.0.0:2381,http://127.0.0.1:2382",
        "--advertise-client-urls=http://h:2379",
    ]);
    assert_eq!(config.listen_client, "0.0.0.0:2379".parse().unwrap());
    let also: Vec<String> = config.also_listen.client.iter().map(ToString::to_string).collect();
    assert_eq!(also, ["127.0.0.1:2479", "127.0.0.1:2579"]);
    assert_eq!(config.listen_admin, Some("0.0.0.0:2381".parse().unwrap()));
    assert_eq!(config.also_listen.admin, ["127.0.0.1:2382".parse().unwrap()]);
}

#[test]
fn what_cannot_be_had_is_refused_by_name() {
    for (of, said) in [
        (&["--pre-vote=false"][..], "flag -pre-vote"),
        (&["--unsafe-no-fsync"], "flag -unsafe-no-fsync"),
        (&["--discovery-srv=example.com"], "flag -discovery-srv"),
        (&["--listen-metrics-urls=https://127.0.0.1:1"], "probes and metrics are served in plain HTTP"),
        (&["--listen-peer-urls=http://example.com:1"], "expected IP in URL for binding"),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (&["--heartbeat-interval=300"], "--election-timeout[1000ms] should be at least as 5 times"),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0"),
        (&["--initial-cluster=a"], "not name=URL"),
        (&["--feature-gates=Nonsense=true"], "unrecognized feature gate: Nonsense"),
        (&["--auth-token=ldap"], "simple and jwt,… are"),
        (&["--auth-token=jwt,nonsense"], "is not NAME=VALUE"),
        (&["--auto-compaction-retention=x"], "--auto-compaction-retention \"x\""),
    ] {
        let error = options(of).unwrap_err();
        assert!(error.contains(said), "{of:?}: {error}");
    }
    for fine in ["--pre-vote=1", "--auto-tls=false", "--cors=", "--cert-file="] {
        options(&[fine]).unwrap();
    }
}

#[test]
fn an_initial_cluster_must_have_this_member_where_it_says_it_is() {
    let own = "--initial-advertise-peer-urls=http://127.0.0.1:1";
    let with = |cluster: &str| options(&["--name=a", own, &format!("--initial-cluster={cluster}")]).unwrap();
    let missing = config::config(&with("a=http://10.0.0.9:1")).unwrap_err();
    assert!(missing.contains("--initial-cluster has a=http://10.0.0.9:1 but missing from"), "{missing}");
    let (config, said) =
        config::config(&with("a=http://localhost:1,b=http://10.0.0.2:1,a=http://x:1")).unwrap();
    assert_eq!(initial(&config).own, "localhost:1", "as the others know it");
    assert!(said.is_empty(), "{said:?}");
    let twice = config::config(&with("a=http://127.0.0.1:1,b=http://127.0.0.1:1")).unwrap_err();
    assert!(twice.contains("two members at 127.0.0.1:1"), "{twice}");
    let two = options(&["--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2"]).unwrap();
    let (_, said) = config::config(&two).unwrap();
    assert_eq!(said, ["members find this one at http://127.0.0.1:1 only, not at http://127.0.0.1:2"]);
}

#[test]
fn values_for_later_parts_are_read() {
    let read = options(&[
        "--quota-backend-bytes=8589934592",
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=1000",
        "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true,LeaseCheckpoint=1",
        "--corrupt-check-time=1m",
        "--auth-token=jwt,pub-key=a,priv-key=b,sign-method=RS256,ttl=10m",
        "--auth-token-ttl=60",
    ])
    .unwrap();
    assert_eq!(read.quota_backend_bytes, 8 << 30);
    assert_eq!(read.compaction, Compaction::Revisions(1000));
    assert!(read.initial_corrupt_check && read.lease_checkpoint);
    assert_eq!((read.corrupt_check, read.auth_token_ttl), (Duration::from_mins(1), Duration::from_mins(1)));
    for (text, expected) in [
        ("0", Compaction::Off),
        ("5", Compaction::Periodic(Duration::from_hours(5))),
        ("5m", Compaction::Periodic(Duration::from_mins(5))),
    ] {
        assert_eq!(options(&["--auto-compaction-retention", text]).unwrap().compaction, expected);
    }
    let (config, said) = configured(&["--max-txn-ops=1024", "--max-request-bytes=33554432"]);
    assert_eq!(said, ["--max-request-bytes is 33554432, and 1572864 is what counts: more is not possible"]);
    assert_eq!((config.requests.txn_operations, config.requests.request_bytes), (1024, 1_572_864));
    for (asked, counts) in [("7", 7), ("0", 4_096), ("4096", 4_096)] {
        let (config, said) = configured(&["--max-concurrent-streams", asked]);
        assert_eq!((config.requests.concurrent_streams, said.as_slice()), (counts, &[][..]), "{asked}");
    }
    let (config, said) = configured(&["--max-concurrent-streams=4294967295"]);
    assert_eq!(
        said,
        ["--max-concurrent-streams is 4294967295, and 4096 is what counts: more is not possible"]
    );
    assert_eq!(config.requests.concurrent_streams, 4_096);
}

#[test]
fn it_is_called_for_by_its_name_or_as_the_first_word() {
    let called = |words: &[&str]| super::called_for(words.iter().map(|word| (*word).into()));
    assert_eq!(called(&["/usr/bin/setstone", "etcd", "--name", "a"]), Some(words(&["--name", "a"])));
    assert_eq!(called(&["/usr/local/bin/etcd", "--version"]), Some(words(&["--version"])));
    assert_eq!(called(&["setstone", "serve", "etcd"]), None);
    assert_eq!(called(&[]), None);
}

#[test]
fn the_version_is_told_in_etcds_lines() {
    let version = super::version();
    let lines: Vec<&str> = version.lines().collect();
    assert!(lines[0].starts_with("etcd Version: 3.7."), "{version}");
    for (line, begin) in
        lines[1..].iter().zip(["Git SHA: ", "Go Version: ", "Go OS/Arch: ", "Setstone Version: "])
    {
        assert!(line.starts_with(begin), "{version}");
    }
}

const SECURE_CLIENTS: [&str; 2] =
    ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"];
const SECURE_PEERS: [&str; 2] =
    ["--listen-peer-urls=https://127.0.0.1:2", "--initial-advertise-peer-urls=https://localhost:2"];

#[test]
fn tls_is_where_the_urls_say_so() {
    let with = |more: &[&str]| {
        configured(&[&SECURE_CLIENTS[..], &SECURE_PEERS, &["--cert-file=c", "--key-file=k"], more].concat())
    };
    let peer = ["--peer-cert-file=pc", "--peer-key-file=pk", "--peer-trusted-ca-file=pca"];
    let (config, said) = with(&peer);
    assert!(said.is_empty(), "{said:?}");
    let client = config.client_tls.unwrap();
    assert!(!client.demands_certificates && !config.auth.common_names);
    let tls = config.peer_tls.unwrap();
    assert!(tls.tls.demands_certificates && !tls.any_name, "who names authorities wants certificates");
    let (config, _) = with(
        &[
            &peer[..],
            &[
                "--trusted-ca-file=ca",
                "--client-cert-auth",
                "--client-crl-file=crl",
                "--tls-min-version=TLS1.3",
            ],
            &["--experimental-peer-skip-client-san-verification", "--peer-cert-allowed-cn=a,b"],
            &["--peer-client-cert-file=oc", "--peer-client-key-file=ok", "--client-cert-allowed-hostname=h"],
        ]
        .concat(),
    );
    let client = config.client_tls.unwrap();
    assert!(client.demands_certificates && config.auth.common_names);
    assert_eq!(client.allowed, Allowed::Hosts(vec!["h".into()]));
    assert_eq!((client.crl, client.protocol.min), (Some("crl".into()), Version::Tls13));
    let tls = config.peer_tls.unwrap();
    assert!(tls.any_name);
    assert_eq!(tls.tls.allowed, Allowed::CommonNames(vec!["a".into(), "b".into()]));
    let outgoing = KeyPair { certificate: "oc".into(), key: "ok".into() };
    assert_eq!(tls.tls.outgoing, Some(outgoing));

    let (config, said) = configured(&[
        "--auto-tls",
        "--cert-file=c",
        "--key-file=k",
        "--trusted-ca-file=ca",
        "--client-cert-auth",
    ]);
    assert!(config.client_tls.is_none() && !config.auth.common_names);
    assert!(said[0].contains("scheme of client url http://localhost:2379 is HTTP"), "{said:?}");
    let auto = ["--auto-tls", "--peer-auto-tls", "--self-signed-cert-validity=2"];
    let (config, _) = configured(&[&SECURE_CLIENTS[..], &SECURE_PEERS, &auto].concat());
    let validity = Duration::from_hours(2 * 365 * 24);
    assert_eq!(config.client_tls.unwrap().identity, Identity::SelfSigned { validity });
    assert_eq!(config.peer_tls.unwrap().tls.identity, Identity::SelfSigned { validity });
}

#[test]
fn what_does_not_go_together_about_tls_is_refused() {
    let certificate = ["--cert-file=c", "--key-file=k"];
    for (of, said) in [
        (&["--cert-file=a.pem"][..], "KeyFile and CertFile must both be present[key: , cert: a.pem]"),
        (&["--peer-client-key-file=k"], "ClientKeyFile and ClientCertFile must both be present"),
        (
            &[
                "--peer-cert-file=c",
                "--peer-key-file=k",
                "--peer-cert-allowed-cn=a",
                "--peer-cert-allowed-hostname=b",
            ],
            "AllowedCNs and AllowedHostnames are mutually exclusive",
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max",
        ),
        (&["--cipher-suites=TLS_RSA_WITH_RC4_128_SHA"], "unexpected TLS cipher suite"),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (&["--auto-tls", "--self-signed-cert-validity=0"], "it should be greater than 0"),
    ] {
        let error = options(of).unwrap_err();
        assert!(error.contains(said), "{of:?}: {error}");
    }
    for (of, said) in [
        (
            SECURE_CLIENTS.to_vec(),
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https",
        ),
        (
            SECURE_PEERS.to_vec(),
            "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url",
        ),
        (
            [&SECURE_CLIENTS[..], &certificate, &["--listen-client-http-urls=http://127.0.0.1:9"]].concat(),
            "speak TLS with everybody or with nobody",
        ),
        (
            [
                &SECURE_PEERS[..],
                &["--peer-auto-tls", "--initial-cluster=default=https://localhost:2,b=http://b:2"],
            ]
            .concat(),
            "the peer URL http://b:2 is not https",
        ),
        (vec!["--initial-advertise-peer-urls=https://a:1"], "the peer URL https://a:1 is not http"),
        (
            [&SECURE_CLIENTS[..], &certificate, &["--client-cert-auth"]].concat(),
            "which authorities are trusted",
        ),
    ] {
        let error = options(&of).and_then(|options| config::config(&options)).unwrap_err();
        assert!(error.contains(said), "{of:?}: {error}");
    }
}
