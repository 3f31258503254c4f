//! Every bound, with its reason. A limit that is hit is a typed error, never a stall and never an allocation without end.

use std::time::Duration;

/// Largest request that is proposed, in bytes of its encoding: etcd's default `--max-request-bytes`.
pub const REQUEST_BYTES: usize = 1_572_864;
/// Largest gRPC message that is received, in bytes: etcd's [`REQUEST_BYTES`] and 512 KiB for overhead.
pub const RECEIVED_MESSAGE_BYTES: usize = REQUEST_BYTES + 524_288;
/// Operations (compares, or operations of one branch) in a transaction: etcd's `--max-txn-ops`.
pub const TXN_OPERATIONS: usize = 128;
/// Entries between commit and apply before new requests are refused: etcd's `maxGapBetweenApplyAndCommitIndex`.
pub const APPLY_GAP_ENTRIES: u64 = 5_000;
/// Time for one client request: etcd's 5 s plus two election time-outs.
pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(6_600);

/// Requests that wait for the proposer. Above this, "too many requests".
pub const PROPOSER_QUEUE_REQUESTS: usize = 16_384;
/// Bytes of requests that wait for, or are in, an entry that is not applied yet. Above this, "too many requests".
pub const PROPOSER_BYTES: usize = 64 << 20;
/// Requests in one log entry: bounds the time that apply holds the state.
pub const BATCH_REQUESTS: usize = 1_024;
/// Bytes in one log entry, unless a single request is larger: bounds what one fdatasync waits for.
pub const BATCH_BYTES: usize = 1 << 20;

/// Interval of heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(100);
/// Shortest election time-out.
pub const ELECTION_MIN: Duration = Duration::from_millis(400);
/// Longest election time-out; also the lease that a leader has from its followers.
pub const ELECTION_MAX: Duration = Duration::from_millis(800);

/// Largest message between members, in bytes: a batch of entries and its envelope. A single entry may be as large as a
/// request, so this is above both.
pub const PEER_MESSAGE_BYTES: usize = 8 << 20;
/// Bytes of entries in one append message, unless one entry is larger.
pub const APPEND_BYTES: usize = 1 << 20;
/// Bytes of one snapshot chunk between members.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Time to connect to a peer.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Keep-alive of peer connections, interval and answer: a dead peer is noticed within the sum.
pub const PEER_KEEPALIVE: Duration = Duration::from_millis(1_000);
/// Time for one question between members that is not consensus (describe, prepare).
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of the newest log entries kept in memory for replication and apply.
pub const LOG_CACHE_BYTES: usize = 16 << 20;
/// Bytes of one log segment file.
pub const LOG_SEGMENT_BYTES: u64 = 16 << 20;
/// The log is cut when it has outgrown this and the last snapshot, which bounds write amplification by two.
pub const LOG_BYTES_BEFORE_SNAPSHOT: u64 = 64 << 20;
/// Entries that stay in the log behind a snapshot, for a peer that is slow but healthy.
pub const LOG_ENTRIES_KEPT: u64 = 1_000;

/// Bytes of one history record: sled keeps a page beyond 128 KiB in a file that it never syncs, and a larger record
/// would be rewritten as a whole by compaction.
pub const RECORD_BYTES: usize = 8 << 10;
/// Memory for the engine's cache, in bytes, unless configured.
pub const ENGINE_CACHE_BYTES: u64 = 32 << 20;
/// Records that one step of physical compaction looks at: bounds the time that it holds the state.
pub const COMPACTION_STEP_RECORDS: usize = 64;
/// Records that a long range reads before it lets others run.
pub const RANGE_STEP_RECORDS: usize = 512;

/// Connections on the client port.
pub const CLIENT_CONNECTIONS: usize = 65_536;
/// Concurrent requests on one HTTP/2 connection.
pub const STREAMS_PER_CONNECTION: u32 = 4_096;
/// HTTP/2 flow-control window of one stream, in bytes: enough for a request of the largest size in a few round trips, and
/// little enough that ten thousand idle connections cost nothing.
pub const HTTP2_STREAM_WINDOW: u32 = 256 << 10;
/// HTTP/2 flow-control window of one connection, in bytes.
pub const HTTP2_CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of answers that one HTTP/2 stream may have waiting for a client that does not read.
pub const HTTP2_SEND_BUFFER: usize = 256 << 10;
/// Time for the first bytes of a connection to arrive.
pub const CONNECTION_HEADER_TIMEOUT: Duration = Duration::from_secs(20);

/// Default quota of the store, in bytes: etcd's 2 GiB.
pub const QUOTA_BYTES: i64 = 2 << 30;

/// Bytes of the identity file: two hundred members fit many times over; more is not an identity.
pub const IDENTITY_BYTES: usize = 1 << 20;

/// Time at the begin of a pod's life in which it asks no name: its own is published about then, and a name that is asked too
/// early stays absent in the name server's cache for 30 s.
pub const DNS_QUIET: Duration = Duration::from_secs(2);
/// Time between two questions for the own name while it does not resolve to this pod.
pub const DNS_OWN_INTERVAL: Duration = Duration::from_secs(2);
/// A peer that is named absent is believed absent only if the own name was seen to be right this recently.
pub const DNS_OWN_FRESH: Duration = Duration::from_secs(5);
/// Time in which a lost peer is redialled at its last address only: a container that restarts keeps its pod's.
pub const DNS_LOST: Duration = Duration::from_secs(5);
/// Time between two questions for a name that is absent.
pub const DNS_ABSENT: Duration = Duration::from_secs(15);
/// First time between two questions for a name that could not be asked; doubles up to [`DNS_BACKOFF_MAX`].
pub const DNS_RETRY: Duration = Duration::from_millis(500);
/// Longest time between two questions for a name: what a name server caches as kubeadm configures it.
pub const DNS_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Time for one question to the name servers.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses that are used of what one name has.
pub const ADDRESSES_PER_NAME: usize = 16;
/// Addresses behind the headless service that are asked before a first bootstrap. With more, nobody can be sure that nobody was
/// overlooked, and the bootstrap waits.
pub const ADDRESSES_PER_SERVICE: usize = 256;
/// Peers whose whereabouts and channels are kept; the one used longest ago makes room.
pub const PEERS: usize = 256;
/// Shortest time between two connects to a peer that cannot be reached; doubles up to [`PEER_REDIAL_MAX`].
pub const PEER_REDIAL: Duration = Duration::from_millis(50);
/// Longest time between two connects to a peer that cannot be reached: bounds how late a restarted peer is noticed.
pub const PEER_REDIAL_MAX: Duration = Duration::from_millis(400);

/// Time that every member is given to answer before a member's disk takes part again, although a quorum answered: it may hold the
/// evidence that the disk was replaced.
pub const RESUME_PATIENCE: Duration = Duration::from_secs(2);
/// Time that a disk that knows no other voter waits for the silent pods of the first install, from when its pod was ready.
pub const LONE_VOTER_PATIENCE: Duration = Duration::from_mins(1);
/// Time without a leader after which a pod is ready for the sake of an absent one, although a quorum could do without it.
pub const LEADERLESS_PATIENCE: Duration = Duration::from_secs(15);
/// Time between two rounds of asking everybody, until this pod takes part.
pub const HELLO_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two rounds of asking the members once this pod takes part: it only looks for evidence against its own disk.
pub const HELLO_INTERVAL_RUNNING: Duration = Duration::from_secs(10);
/// Time between two looks behind the headless service.
pub const SERVICE_INTERVAL: Duration = Duration::from_secs(2);
/// Largest message of the service that answers before consensus exists, in bytes: a description of the most members.
pub const HELLO_BYTES: usize = 1 << 20;
/// Time for a disk to take the identity of a first bootstrap: a few fsyncs, of a slow disk too.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two attempts at a first bootstrap.
pub const BOOTSTRAP_RETRY: Duration = Duration::from_secs(1);
