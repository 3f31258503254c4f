#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;

use clap::{Args, Command, FromArgMatches};

use super::*;
use crate::cli::settings::SETTINGS;
use crate::transport::tls::{Identity, Version};

const POD: &[(&str, &str)] = &[
    ("SETSTONE_POD_NAME", "setstone-2"),
    ("SETSTONE_POD_NAMESPACE", "shop"),
    ("SETSTONE_POD_INDEX", "2"),
    ("SETSTONE_SERVICE_NAME", "peers"),
    ("SETSTONE_POD_IP", "10.1.2.3"),
    ("SETSTONE_EXPECTED", "3"),
];

fn flags(arguments: &[&str]) -> Flags {
    let command = Flags::augment_args(Command::new("serve").no_binary_name(true));
    Flags::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
}

fn with(arguments: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> Result<Settings, ConfigError> {
    let variables: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let world = World {
        variables: &|name| variables.get(name).cloned(),
        read: &|_| file.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into()),
        resolv_conf: "search shop.svc.k8s.example\n",
    };
    resolve(&flags(arguments), &world)
}

fn config(arguments: &[&str], variables: &[(&str, &str)]) -> Config {
    with(arguments, variables, None).unwrap().config
}

fn refusal(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    with(arguments, variables, None).unwrap_err().to_string()
}

#[test]
fn nothing_given_is_one_member_on_disk() {
    let settings = with(&[], &[], None).unwrap();
    let config = settings.config;
    assert!(matches!(config.cluster, Cluster::Single));
    assert!(matches!(&config.data, Data::Directory(path) if path == Path::new("setstone-0.setstone")));
    assert_eq!(config.name, "setstone-0");
    assert_eq!(config.listen_client.to_string(), "0.0.0.0:2379");
    assert_eq!(config.listen_peer.to_string(), "0.0.0.0:2380");
    assert_eq!(config.listen_admin.unwrap().to_string(), "0.0.0.0:2381");
    assert_eq!(config.client_urls(config.listen_client), ["http://localhost:2379"]);
    assert_eq!(config.drain_delay, Duration::ZERO);
    assert_eq!(config.dns_server, None);
    assert_eq!((settings.log.as_str(), settings.log_format), (LOG, LogFormat::Text));
    assert!(!settings.exit_with_stdin);
}

#[test]
fn a_pod_is_described_by_its_environment() {
    let settings = with(&[], &[POD, &[("SETSTONE_DNS_SERVER", "10.96.0.10:53")]].concat(), None).unwrap();
    let config = settings.config;
    let Cluster::StatefulSet { pod, expected } = &config.cluster else { panic!("{:?}", config.cluster) };
    assert_eq!((pod.ordinal, *expected), (2, 3));
    assert_eq!(pod.fqdn(), "setstone-2.peers.shop.svc.k8s.example");
    assert_eq!(config.name, "setstone-2");
    assert_eq!(config.listen_client.to_string(), "10.1.2.3:2379");
    assert_eq!(config.listen_peer.to_string(), "10.1.2.3:2380");
    assert_eq!(config.listen_admin.unwrap().to_string(), "10.1.2.3:2381");
    let urls = config.client_urls(config.listen_client);
    assert_eq!(urls, ["http://setstone-2.peers.shop.svc.k8s.example:2379"]);
    assert_eq!(config.drain_delay, Duration::from_secs(3));
    assert_eq!(config.dns_server.unwrap().to_string(), "10.96.0.10:53");
}

#[test]
fn the_pods_ports_follow_the_listeners() {
    let config = config(&["--listen-peer", "0.0.0.0:9", "--listen-client", "0.0.0.0:8"], POD);
    let Cluster::StatefulSet { pod, .. } = config.cluster else { panic!() };
    assert_eq!((pod.peer_port, pod.client_port), (9, 8));
    assert_eq!(pod.peer_address_of(0), "setstone-0.peers.shop.svc.k8s.example:9");
}

#[test]
fn a_member_of_a_fixed_list_listens_where_the_list_says() {
    let variables =
        [("SETSTONE_PEERS", "127.0.0.1:7000,127.0.0.1:7001,other:7002"), ("SETSTONE_ORDINAL", "1")];
    let first = config(&[], &variables);
    let Cluster::Fixed { ordinal, peers } = &first.cluster else { panic!() };
    assert_eq!((*ordinal, peers.len()), (1, 3));
    assert_eq!(first.name, "setstone-1");
    assert_eq!(first.listen_peer.to_string(), "127.0.0.1:7001");
    assert_eq!(config(&["--ordinal", "2"], &variables).listen_peer.to_string(), "0.0.0.0:7002");
    assert_eq!(config(&["--listen-peer", "[::1]:5"], &variables).listen_peer.to_string(), "[::1]:5");
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let file = Some(
        "name = \"from-file\"\nlog-entries-kept = 7\nmemory = true\npeers = [\"a:1\", \"b:2\"]\nordinal = 1\n",
    );
    let settings = with(
        &["--config", "x.toml", "--name", "from-flag"],
        &[("SETSTONE_NAME", "from-variable"), ("SETSTONE_LOG_ENTRIES_KEPT", "8")],
        file,
    )
    .unwrap();
    assert_eq!(settings.config.name, "from-flag");
    assert_eq!(settings.config.tuning.log_entries_kept, 8);
    assert!(matches!(settings.config.data, Data::Memory));
    assert!(matches!(settings.config.cluster, Cluster::Fixed { ordinal: 1, .. }));
    let from_file = with(&[], &[("SETSTONE_CONFIG", "x.toml")], file).unwrap();
    assert_eq!(from_file.config.name, "from-file");
    assert_eq!(from_file.config.tuning.log_entries_kept, 7);
}

#[test]
fn an_empty_variable_is_not_set() {
    let empty: Vec<(&str, &str)> = SETTINGS.iter().map(|setting| (setting.variable, "")).collect();
    assert_eq!(config(&[], &empty).name, "setstone-0");
    assert!(matches!(config(&[], &[("SETSTONE_POD_NAME", "")]).cluster, Cluster::Single));
}

#[test]
fn switches_take_a_value_only_after_an_equals_sign() {
    assert!(matches!(config(&["--memory"], &[]).data, Data::Memory));
    assert!(matches!(config(&["--memory=false"], &[("SETSTONE_MEMORY", "1")]).data, Data::Directory(_)));
    assert!(matches!(config(&["--engine", "memory"], &[]).data, Data::Memory));
    assert!(with(&["--exit-with-stdin"], &[], None).unwrap().exit_with_stdin);
    assert_eq!(config(&["--listen-admin", "none"], &[]).listen_admin, None);
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_value() {
    for (arguments, variables, expected) in [
        (&["--listen-client", "x"][..], &[][..], "--listen-client=\"x\": is no address; write ip:port"),
        (
            &[],
            &[("SETSTONE_LISTEN_PEER", "a:b")],
            "SETSTONE_LISTEN_PEER=\"a:b\": is no address; write ip:port",
        ),
        (&["--engine", "x"], &[], "--engine=\"x\": is no engine; disk and memory are"),
        (&["--memory", "--engine", "disk"], &[], "--memory and --engine disk exclude each other"),
        (&["--memory=2"], &[], "--memory=\"2\": is neither true nor false"),
        (&["--log-format", "xml"], &[], "--log-format=\"xml\": is no format; text and json are"),
        (&["--heartbeat", "1x"], &[], "--heartbeat=\"1x\": \"x\" is no unit of time; us, ms, s, m and h are"),
        (
            &["--engine-cache", "1MB"],
            &[],
            "--engine-cache=\"1MB\": is no number of bytes; write 1048576, 64KiB, 32MiB or 2GiB",
        ),
        (&["--name", "a b"], &[], "--name=\"a b\": is no name; up to 253 characters without blanks are"),
        (
            &["--peers", "a:1"],
            &[],
            "SETSTONE_ORDINAL (or --ordinal) is not set: a member of --peers must know which of them it is",
        ),
        (
            &["--ordinal", "1"],
            &[],
            "SETSTONE_PEERS (or --peers) is not set: an ordinal means nothing without the list of members",
        ),
        (&["--peers", "a:1,a:1", "--ordinal", "0"], &[], "--peers=\"a:1,a:1\": names \"a:1\" twice"),
        (
            &["--peers", "a:1,b", "--ordinal", "0"],
            &[],
            "--peers=\"a:1,b\": endpoint \"b\": has no port from 1 to 65535",
        ),
        (
            &["--peers", "http://a:1", "--ordinal", "0"],
            &[],
            "--peers=\"http://a:1\": \"http://a:1\" is not host:port",
        ),
        (
            &["--peers", "a:1", "--ordinal", "1"],
            &[],
            "ordinal 1 is not in the list of 1 peers, which counts from 0",
        ),
        (
            &["--cert-file", "c"],
            &[],
            "SETSTONE_KEY_FILE (or --key-file) is not set: a certificate is shown by whoever has its key",
        ),
        (
            &["--trusted-ca-file", "ca"],
            &[],
            "SETSTONE_CERT_FILE (or --cert-file) is not set: without a certificate to show there is no TLS",
        ),
        (&["--client-cert-auth"], &[], "--client-cert-auth means nothing without --cert-file"),
        (
            &["--auto-tls", "--client-cert-auth"],
            &[],
            "clients are to be known by their certificates, and none are demanded of them",
        ),
        (
            &["--peer-cert-file", "c", "--peer-key-file", "k"],
            &[],
            "TLS between members: they must show certificates, and a file says which authority's",
        ),
        (
            &["--tls-min-version", "TLS1.1", "--auto-tls"],
            &[],
            "--tls-min-version=\"TLS1.1\": is no version of TLS that is spoken; TLS1.2 and TLS1.3 are",
        ),
        (&["--ordinal", "65536"], &[], "--ordinal=\"65536\": is no number from 0 to 65535"),
        (
            &["--advertise-client-url", "ftp://a:1"],
            &[],
            "--advertise-client-url=\"ftp://a:1\": endpoint \"ftp://a:1\": the scheme is neither http nor https",
        ),
        (
            &[
                "--listen-client",
                "127.0.0.1:5",
                "--listen-peer",
                "127.0.0.1:5",
                "--peers",
                "a:1",
                "--ordinal",
                "0",
            ],
            &[],
            "the peer and the client listener are both at 127.0.0.1:5",
        ),
        (
            &["--drain-delay", "30s"],
            &[],
            "the grace period, 25s, is too short for a stop: the drain delay of 30s and what follows may take 30s",
        ),
        (
            &["--election-max", "300ms"],
            &[],
            "the longest election time-out, 300ms, must be longer than the shortest, 400ms",
        ),
        (
            &["--heartbeat", "200ms"],
            &[],
            "the shortest election time-out, 400ms, must be at least three heartbeats of 200ms",
        ),
        (&["--heartbeat", "0"], &[], "a heartbeat every 0ns is too often; 1ms is the least"),
        (&[], &[("SETSTONE_POD_IP", "x")], "SETSTONE_POD_IP=\"x\": is no IP address"),
    ] {
        assert_eq!(refusal(arguments, variables), expected, "{arguments:?} {variables:?}");
    }
}

#[test]
fn a_member_that_is_alone_has_no_peer_listener_to_collide_with() {
    let config = config(&["--listen-client", "127.0.0.1:5", "--listen-peer", "127.0.0.1:5"], &[]);
    assert!(matches!(config.cluster, Cluster::Single));
}

#[test]
fn a_pod_must_say_who_it_is_and_how_many_are_expected() {
    let without = |name: &str| POD.iter().copied().filter(|(known, _)| *known != name).collect::<Vec<_>>();
    assert!(
        refusal(&[], &without("SETSTONE_EXPECTED"))
            .starts_with("SETSTONE_EXPECTED (or --expected) is not set")
    );
    assert_eq!(refusal(&[], &without("SETSTONE_SERVICE_NAME")), "SETSTONE_SERVICE_NAME is not set");
    assert_eq!(refusal(&["--expected", "0"], POD), "--expected=\"0\": is no number from 1 to 65535");
    assert!(refusal(&["--peers", "a:1"], POD).contains("makes this a pod of a StatefulSet"));
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let refusal = |file| with(&["--config", "x.toml"], &[], file).unwrap_err().to_string();
    assert_eq!(refusal(None), "x.toml: entity not found");
    assert_eq!(
        refusal(Some("nmae = \"x\"")),
        "x.toml: \"nmae\" is no setting; settings are named as the flags of serve are"
    );
    assert_eq!(
        refusal(Some("config = \"x\"")),
        "x.toml: \"config\" is no setting; settings are named as the flags of serve are"
    );
    assert!(refusal(Some("name =")).starts_with("x.toml: "));
    assert_eq!(
        refusal(Some("name = 1.5")),
        "x.toml: name=\"1.5\": is neither text, number, true or false, nor a list of texts"
    );
    assert_eq!(refusal(Some("ordinal = -1")), "x.toml: ordinal=\"-1\": is no number from 0 to 65535");
}

#[test]
fn every_setting_has_a_flag_and_a_variable_of_its_own() {
    let mut keys: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), SETTINGS.len());
    for setting in SETTINGS {
        let variable = format!("SETSTONE_{}", setting.key.to_uppercase().replace('-', "_"));
        assert_eq!(setting.variable, variable);
    }
}

#[test]
fn byte_counts() {
    for (text, bytes) in [("0", 0), ("7B", 7), ("64KiB", 65_536), ("2Mi", 2 << 20), ("1GiB", 1 << 30)] {
        assert_eq!(byte_count(text), Ok(bytes), "{text}");
    }
    for text in ["", "KiB", "-1", "1 KiB", "1KB", "99999999999999999999", "18446744073709551615GiB"] {
        assert!(byte_count(text).is_err(), "{text}");
    }
}

#[test]
fn tls_is_named_as_etcds() {
    assert!(config(&[], &[]).client_tls.is_none() && config(&[], &[]).peer_tls.is_none());
    let client = [
        ("SETSTONE_CERT_FILE", "c"),
        ("SETSTONE_KEY_FILE", "k"),
        ("SETSTONE_TRUSTED_CA_FILE", "ca"),
        ("SETSTONE_CLIENT_CERT_AUTH", "true"),
        ("SETSTONE_CLIENT_CRL_FILE", "crl"),
    ];
    let secure = config(&["--tls-min-version", "TLS1.3"], &client);
    let tls = secure.client_tls.clone().unwrap();
    assert!(tls.demands_certificates && secure.auth.common_names && secure.peer_tls.is_none());
    assert_eq!((tls.crl, tls.protocol.min), (Some("crl".into()), Version::Tls13));
    assert_eq!(secure.client_urls(secure.listen_client), ["https://localhost:2379"]);
    let advertised = config(&["--advertise-client-url", "a:1,http://b:2"], &client).advertise_client;
    assert_eq!(advertised, ["https://a:1", "http://b:2"], "a scheme that is given is kept");
    let peer = ["--peer-cert-file", "c", "--peer-key-file", "k", "--peer-trusted-ca-file", "ca"];
    let tls = config(&peer, &[]).peer_tls.unwrap();
    assert!(tls.tls.demands_certificates && !tls.any_name);
    let auto = config(&["--auto-tls", "--peer-auto-tls"], &[]);
    let validity = crate::limits::SELF_SIGNED_VALIDITY;
    assert_eq!(auto.client_tls.unwrap().identity, Identity::SelfSigned { validity });
    assert_eq!(auto.peer_tls.unwrap().tls.identity, Identity::SelfSigned { validity });
}

#[test]
fn origins_are_those_of_browsers() {
    assert!(config(&[], &[]).cors.is_empty());
    assert_eq!(
        config(&["--cors", "https://a.example, http://b:8080"], &[]).cors,
        ["https://a.example", "http://b:8080"]
    );
    assert_eq!(config(&[], &[("SETSTONE_CORS", "*")]).cors, ["*"]);
    for wrong in ["a.example", "https://a.example/", "https://a.example/x", "", "https://a,,"] {
        let refused = refusal(&["--cors", wrong], &[]);
        assert!(refused.starts_with("--cors=") && refused.contains("is no origin"), "{wrong}: {refused}");
    }
}
