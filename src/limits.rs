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
/// Longest entry of history that is put together from its parts: far above [`REQUEST_BYTES`], and a bound for a length that
/// damage made up.
pub const LARGE_ENTRY_BYTES: usize = 64 << 20;
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
/// Connections on the admin port: probes, scrapes and people.
pub const ADMIN_CONNECTIONS: usize = 256;
/// Time for the rest of a request to arrive once its headers are there: half a message does not hold a stream for ever.
pub const REQUEST_BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of headers of one request: far above what clients send (a token and a few names).
pub const REQUEST_HEADER_BYTES: u32 = 16 << 10;
/// Bytes that an HTTP/1 connection buffers; the least that hyper takes is 8 KiB.
pub const HTTP1_BUFFER_BYTES: usize = 16 << 10;
/// Interval of HTTP/2 pings to a client. One that stopped in the middle of a frame, or vanished, is noticed within this and
/// [`CLIENT_PING_TIMEOUT`].
pub const CLIENT_PING_INTERVAL: Duration = Duration::from_secs(60);
/// Time that a client has to answer a ping: etcd's `--grpc-keepalive-timeout`.
pub const CLIENT_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of answers that one connection may leave unread before its further requests are refused.
pub const UNREAD_ANSWER_BYTES: usize = 32 << 20;
/// Bytes of unread answers on all connections from which on a connection that does not read is refused at
/// [`UNREAD_ANSWER_BYTES_WHEN_SCARCE`] already: many such connections must not add up.
pub const UNREAD_ANSWER_BYTES_OF_ALL: usize = 256 << 20;
/// See [`UNREAD_ANSWER_BYTES_OF_ALL`]. What a client that does read may have under way.
pub const UNREAD_ANSWER_BYTES_WHEN_SCARCE: usize = 1 << 20;
/// Answers below this are not counted towards [`UNREAD_ANSWER_BYTES`]: the number of streams bounds them, and counting costs
/// an allocation.
pub const UNCOUNTED_ANSWER_BYTES: usize = 4 << 10;
/// Requests with an answer as large as a value that one connection executes at the same time; more wait. An answer counts
/// only once it is there, so this bounds by how much [`UNREAD_ANSWER_BYTES`] can be passed.
pub const ANSWERS_IN_THE_MAKING: u32 = 256;
/// How many of [`ANSWERS_IN_THE_MAKING`] a request counts for whose answer can be of any size, as that to a range.
pub const LARGE_ANSWER_SHARE: u32 = 8;
/// Time to connect to a server, as a client.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of HTTP/2 pings to a server, as a client, while calls are waiting: etcd takes one every five seconds.
pub const CHANNEL_PING_INTERVAL: Duration = Duration::from_secs(10);
/// Time that a server has to answer a ping.
pub const CHANNEL_PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after the system refused a new connection (no file descriptors left, for example).
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Default quota of the store, in bytes: etcd's 2 GiB.
pub const QUOTA_BYTES: i64 = 2 << 30;
