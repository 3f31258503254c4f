//! The settings of `serve`: one table from which the flags, the variables, the file's keys and the help are made, and the
//! search for each setting's text (flag > variable > file > default).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use clap::builder::ArgAction;
use clap::{Arg, ArgMatches, Command, FromArgMatches};

/// One setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// The flag without its dashes, and the key in the file.
    pub key: &'static str,
    /// The variable.
    pub variable: &'static str,
    /// What stands for the value in the help; empty for a switch.
    pub value_name: &'static str,
    /// The help; says the default.
    pub help: &'static str,
}

const fn setting(
    key: &'static str,
    variable: &'static str,
    value_name: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, variable, value_name, help }
}

/// All settings, in the order of the help.
pub(super) const SETTINGS: [Setting; 59] = [
    setting("config", "SETSTONE_CONFIG", "FILE", "TOML file whose keys are the names of these flags"),
    setting(
        "name",
        "SETSTONE_NAME",
        "NAME",
        "Name of the member (default: the pod's; else setstone-ORDINAL)",
    ),
    setting("data-dir", "SETSTONE_DATA_DIR", "DIR", "Where the data lives (default: NAME.setstone)"),
    setting(
        "engine",
        "SETSTONE_ENGINE",
        "disk|memory",
        "Where the store is kept; memory is gone with the process (default: disk)",
    ),
    setting("memory", "SETSTONE_MEMORY", "", "The same as --engine memory"),
    setting(
        "expected",
        "SETSTONE_EXPECTED",
        "N",
        "Pods at the first install; needed in a pod. May be raised, never lowered",
    ),
    setting(
        "size-from",
        "SETSTONE_SIZE_FROM",
        "kubernetes|setting|fixed",
        "Where the desired number of pods comes from: the pod's StatefulSet, what `members resize` set, or nowhere (default: in a pod of Kubernetes kubernetes, in any other pod setting, else fixed)",
    ),
    setting(
        "api-server",
        "SETSTONE_API_SERVER",
        "URL",
        "API server that wants no credentials, as a playground has (default: the one that Kubernetes names, with the pod's token)",
    ),
    setting(
        "max-voters",
        "SETSTONE_MAX_VOTERS",
        "N",
        "At most so many members vote; the others are spares (default: 5)",
    ),
    setting(
        "max-concurrent-streams",
        "SETSTONE_MAX_CONCURRENT_STREAMS",
        "N",
        "Requests that a client may have open on one connection (default and most: 4096)",
    ),
    setting(
        "peers",
        "SETSTONE_PEERS",
        "LIST",
        "Outside of a StatefulSet: peer addresses host:port of all members, by ordinal",
    ),
    setting("ordinal", "SETSTONE_ORDINAL", "N", "With --peers: which of them this member is, counted from 0"),
    setting(
        "listen-client",
        "SETSTONE_LISTEN_CLIENT",
        "ADDRESS",
        "Where clients connect (default: the pod's address, else 0.0.0.0; port 2379)",
    ),
    setting(
        "listen-peer",
        "SETSTONE_LISTEN_PEER",
        "ADDRESS",
        "Where members connect (default: the pod's address, else the own entry of --peers, else 0.0.0.0; port 2380)",
    ),
    setting(
        "listen-admin",
        "SETSTONE_LISTEN_ADMIN",
        "ADDRESS",
        "Where probes and metrics are served; none: nowhere (default: the pod's address, else 0.0.0.0; port 2381)",
    ),
    setting(
        "advertise-client-url",
        "SETSTONE_ADVERTISE_CLIENT_URL",
        "LIST",
        "URLs that clients are told to use (default: from the pod's name, else from --listen-client)",
    ),
    setting(
        "cors",
        "SETSTONE_CORS",
        "LIST",
        "Origins whose web pages may read answers on the client port (default: *, which is all)",
    ),
    setting(
        "max-connections-per-address",
        "SETSTONE_MAX_CONNECTIONS_PER_ADDRESS",
        "N",
        "Connections that one client address, or network of 64 bits in IPv6, may have at a time (default: 16384)",
    ),
    setting(
        "max-requests-per-address",
        "SETSTONE_MAX_REQUESTS_PER_ADDRESS",
        "N",
        "Requests and new connections of one client address in a second; more are refused; 0: any number (default: 0)",
    ),
    setting(
        "max-bytes-per-address",
        "SETSTONE_MAX_BYTES_PER_ADDRESS",
        "BYTES",
        "Bytes that are read of one client address in a second; 0: any number (default: 0)",
    ),
    setting(
        "cert-file",
        "SETSTONE_CERT_FILE",
        "FILE",
        "The client port speaks TLS and nothing else, and shows this certificate, in PEM with those above it; files are read again when they change",
    ),
    setting("key-file", "SETSTONE_KEY_FILE", "FILE", "The key of --cert-file, in PEM"),
    setting(
        "trusted-ca-file",
        "SETSTONE_TRUSTED_CA_FILE",
        "FILE",
        "Clients must show a certificate of one of these authorities, in PEM",
    ),
    setting(
        "client-cert-auth",
        "SETSTONE_CLIENT_CERT_AUTH",
        "",
        "The common name of a client's certificate is the user who calls, once authentication is enabled",
    ),
    setting(
        "client-crl-file",
        "SETSTONE_CLIENT_CRL_FILE",
        "FILE",
        "Certificates of clients that were revoked, in PEM or DER",
    ),
    setting(
        "auto-tls",
        "SETSTONE_AUTO_TLS",
        "",
        "Without --cert-file: the client port shows a certificate of its own making; for trying out",
    ),
    setting(
        "peer-cert-file",
        "SETSTONE_PEER_CERT_FILE",
        "FILE",
        "Members speak TLS to each other, and show this certificate, as servers and as clients; it must be for the name that the others know the member by",
    ),
    setting("peer-key-file", "SETSTONE_PEER_KEY_FILE", "FILE", "The key of --peer-cert-file, in PEM"),
    setting(
        "peer-trusted-ca-file",
        "SETSTONE_PEER_TRUSTED_CA_FILE",
        "FILE",
        "The authorities of the members' certificates, in PEM",
    ),
    setting(
        "peer-crl-file",
        "SETSTONE_PEER_CRL_FILE",
        "FILE",
        "Certificates of members that were revoked, in PEM or DER",
    ),
    setting(
        "peer-auto-tls",
        "SETSTONE_PEER_AUTO_TLS",
        "",
        "Without --peer-cert-file: members show certificates of their own making, and take any; for trying out",
    ),
    setting(
        "tls-min-version",
        "SETSTONE_TLS_MIN_VERSION",
        "TLS1.2|TLS1.3",
        "Oldest version of TLS that is spoken (default: TLS1.2)",
    ),
    setting(
        "tls-max-version",
        "SETSTONE_TLS_MAX_VERSION",
        "TLS1.2|TLS1.3",
        "Newest version of TLS that is spoken (default: TLS1.3)",
    ),
    setting(
        "cipher-suites",
        "SETSTONE_CIPHER_SUITES",
        "LIST",
        "Cipher suites of TLS 1.2, by the names of the registry (default: all that are good)",
    ),
    setting("dns-server", "SETSTONE_DNS_SERVER", "ADDRESS", "Name server, ip:port, instead of the system's"),
    setting(
        "drain-delay",
        "SETSTONE_DRAIN_DELAY",
        "TIME",
        "Time between SIGTERM and the first refusal (default: 0s; in a pod 3s)",
    ),
    setting(
        "grace-period",
        "SETSTONE_GRACE_PERIOD",
        "TIME",
        "Time in which the stop must be done (default: 25s)",
    ),
    setting(
        "auth-token",
        "SETSTONE_AUTH_TOKEN",
        "simple|jwt,…",
        "What tokens of users are, the same on all members: simple, or jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=10m (default: simple)",
    ),
    setting(
        "auth-token-ttl",
        "SETSTONE_AUTH_TOKEN_TTL",
        "TIME",
        "Time that a simple token lives after it was last used (default: 300s)",
    ),
    setting(
        "bcrypt-cost",
        "SETSTONE_BCRYPT_COST",
        "N",
        "Work that hashing a password takes, as a power of two, 4 to 18 (default: 10)",
    ),
    setting("heartbeat", "SETSTONE_HEARTBEAT", "TIME", "Interval of heartbeats (default: 100ms)"),
    setting("election-min", "SETSTONE_ELECTION_MIN", "TIME", "Shortest election time-out (default: 400ms)"),
    setting("election-max", "SETSTONE_ELECTION_MAX", "TIME", "Longest election time-out (default: 800ms)"),
    setting(
        "lease-checkpoint",
        "SETSTONE_LEASE_CHECKPOINT",
        "TIME",
        "How often the leader writes down what is left of long leases, for the next (default: never)",
    ),
    setting(
        "watch-progress-notify-interval",
        "SETSTONE_WATCH_PROGRESS_NOTIFY_INTERVAL",
        "TIME",
        "Time between two notices of progress to an idle watcher (default: 10m; at least 100ms)",
    ),
    setting(
        "quota-backend-bytes",
        "SETSTONE_QUOTA_BACKEND_BYTES",
        "BYTES",
        "Size of the store at which writes that make it grow raise the alarm NOSPACE; below 0: no quota (default: 2GiB)",
    ),
    setting(
        "disk-reserve",
        "SETSTONE_DISK_RESERVE",
        "BYTES",
        "Kept free on the volume beside what log and snapshot need; 0: the volume is not watched (default: 64MiB)",
    ),
    setting(
        "auto-compaction-mode",
        "SETSTONE_AUTO_COMPACTION_MODE",
        "periodic|revision",
        "How --auto-compaction-retention counts (default: periodic)",
    ),
    setting(
        "auto-compaction-retention",
        "SETSTONE_AUTO_COMPACTION_RETENTION",
        "TIME|N",
        "What the leader's compaction leaves: the revisions of the last 10m, 5h (a number alone: hours), or the newest N; 0: no compaction (default: 0)",
    ),
    setting(
        "initial-corrupt-check",
        "SETSTONE_INITIAL_CORRUPT_CHECK",
        "",
        "Compare the store with the other members' at the start",
    ),
    setting(
        "corrupt-check-time",
        "SETSTONE_CORRUPT_CHECK_TIME",
        "TIME",
        "How often the leader compares the members' stores; 0: never (default: 0)",
    ),
    setting(
        "engine-cache",
        "SETSTONE_ENGINE_CACHE",
        "BYTES",
        "Memory for the engine's cache (default: 8MiB)",
    ),
    setting("log-segment", "SETSTONE_LOG_SEGMENT", "BYTES", "Size of one file of the log (default: 16MiB)"),
    setting("log-cache", "SETSTONE_LOG_CACHE", "BYTES", "Newest log entries kept in memory (default: 1MiB)"),
    setting(
        "log-before-snapshot",
        "SETSTONE_LOG_BEFORE_SNAPSHOT",
        "BYTES",
        "The log is cut when what came after the last snapshot has outgrown this and that snapshot (default: 64MiB)",
    ),
    setting(
        "log-entries-kept",
        "SETSTONE_LOG_ENTRIES_KEPT",
        "N",
        "Entries kept behind a snapshot, in no more bytes than the setting before (default: 1000)",
    ),
    setting(
        "log",
        "SETSTONE_LOG",
        "FILTER",
        "What to log: error, warn, info, debug, or setstone=debug,warn (default: info); of openraft only errors, unless it is named",
    ),
    setting(
        "log-format",
        "SETSTONE_LOG_FORMAT",
        "text|json",
        "How to log, on standard error (default: text)",
    ),
    setting(
        "exit-with-stdin",
        "SETSTONE_EXIT_WITH_STDIN",
        "",
        "Stop when standard input ends, as it does when the parent dies",
    ),
];

/// The flags that were given, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(BTreeMap<&'static str, String>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |command, setting| {
            let mut arg = Arg::new(setting.key)
                .long(setting.key)
                .action(ArgAction::Set)
                .help(format!("{} [env: {}]", setting.help, setting.variable));
            arg = if setting.value_name.is_empty() {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
            } else {
                arg.value_name(setting.value_name)
            };
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            matches.get_one::<String>(setting.key).map(|text| (setting.key, text.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Where a setting's text was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In this flag.
    Flag(&'static str),
    /// In this variable.
    Variable(&'static str),
    /// In this file, under this key.
    File(PathBuf, &'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(key) => write!(f, "--{key}"),
            Self::Variable(variable) => f.write_str(variable),
            Self::File(path, key) => write!(f, "{}: {key}", path.display()),
        }
    }
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A setting has a value that it cannot have.
    #[error("{place}={value:?}: {reason}")]
    Invalid {
        /// Where it was found.
        place: Source,
        /// Its text.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting that must be given is not.
    #[error("{variable} (or --{key}) is not set: {reason}")]
    Missing {
        /// Its variable.
        variable: &'static str,
        /// Its flag.
        key: &'static str,
        /// Why it is needed.
        reason: &'static str,
    },
    /// The environment does not describe a pod.
    #[error(transparent)]
    Pod(#[from] crate::identity::PodError),
    /// The file cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings that are right alone do not go together.
    #[error("{0}")]
    Contradiction(String),
}

/// The texts of all settings, wherever they come from.
pub(super) struct Texts<'a> {
    flags: &'a Flags,
    variables: &'a dyn Fn(&str) -> Option<String>,
    file: Option<(PathBuf, toml::Table)>,
}

impl<'a> Texts<'a> {
    /// Reads the file, if a flag or variable names one. Errors: it cannot be read, is no TOML, or has a key that is no
    /// setting.
    pub fn new(
        flags: &'a Flags,
        variables: &'a dyn Fn(&str) -> Option<String>,
        read: &dyn Fn(&std::path::Path) -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let mut texts = Self { flags, variables, file: None };
        if let Some((path, _)) = texts.find("config")? {
            let fail = |reason: String| ConfigError::File { path: path.clone(), reason };
            let text = read(path.as_ref()).map_err(|error| fail(error.to_string()))?;
            let table: toml::Table =
                text.parse().map_err(|error: toml::de::Error| fail(error.to_string()))?;
            let unknown =
                table.keys().find(|key| !SETTINGS.iter().any(|s| s.key == *key && s.key != "config"));
            if let Some(key) = unknown {
                return Err(fail(format!(
                    "{key:?} is no setting; settings are named as the flags of serve are"
                )));
            }
            texts.file = Some((path.into(), table));
        }
        Ok(texts)
    }

    /// The text of a setting, and where it was found. An empty variable is one that is not set.
    pub fn find(&self, key: &'static str) -> Result<Option<(String, Source)>, ConfigError> {
        if let Some(text) = self.flags.0.get(key) {
            return Ok(Some((text.clone(), Source::Flag(key))));
        }
        let variable =
            SETTINGS.iter().find(|setting| setting.key == key).map_or("", |setting| setting.variable);
        if let Some(text) = (self.variables)(variable).filter(|text| !text.is_empty()) {
            return Ok(Some((text, Source::Variable(variable))));
        }
        let Some((path, table)) = &self.file else { return Ok(None) };
        let Some(value) = table.get(key) else { return Ok(None) };
        let place = Source::File(path.clone(), key);
        match plain(value) {
            Some(text) => Ok(Some((text, place))),
            None => Err(ConfigError::Invalid {
                place,
                value: value.to_string(),
                reason: "is neither text, number, true or false, nor a list of texts".into(),
            }),
        }
    }

    /// A setting as `parse` reads it. Errors: those of `parse`, with place and value.
    pub fn get<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((value, place)) = self.find(key)? else { return Ok(None) };
        match parse(&value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(reason) => Err(ConfigError::Invalid { place, value, reason }),
        }
    }
}

/// A TOML value as a flag would have it.
fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}
