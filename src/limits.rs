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

/// Bytes that one write to the log gathers, unless one entry is larger: bounds the writer's buffer and what one fdatasync
/// waits for.
pub const LOG_WRITE_BYTES: usize = 4 << 20;
/// Bytes that may wait for the log's writer. Callers bound what they have in flight far below this; it guards the memory
/// should one of them fail to.
pub const LOG_QUEUE_BYTES: usize = 256 << 20;
/// Calls that may wait for the log's writer, likewise.
pub const LOG_QUEUE_OPERATIONS: usize = 65_536;
/// Bytes of one entry in the log; more is refused. Far above [`BATCH_BYTES`] and [`REQUEST_BYTES`]; a length on disk
/// beyond this is not believed.
pub const LOG_ENTRY_BYTES: usize = 64 << 20;
/// Zeros that the log writes ahead of small writes, so that fdatasync finds no new blocks to journal. Measured: 80 µs a
/// flush with, 91 µs in space that is only reserved, 138 µs with an appended file; more brings nothing.
pub const LOG_ZERO_AHEAD_BYTES: usize = 64 << 10;
/// Writes up to this many bytes have zeros written ahead. They share their blocks with several others, so the zeros add
/// little to what the disk has to write; larger ones would double it.
pub const LOG_ZERO_AHEAD_WRITE_BYTES: u64 = 2 << 10;

/// Payload bytes of one block of a snapshot: what is read before its checksum is known.
pub const SNAPSHOT_BLOCK_BYTES: usize = 64 << 10;
/// Bytes of a key in a snapshot: etcd's keys are bounded by the request, the engine's by this.
pub const SNAPSHOT_KEY_BYTES: usize = 2 << 20;
/// Bytes of a value in a snapshot. Records of the history are far smaller ([`RECORD_BYTES`]); small state is not cut.
pub const SNAPSHOT_VALUE_BYTES: usize = 64 << 20;
/// Bytes of the opaque membership in a snapshot's header.
pub const SNAPSHOT_MEMBERSHIP_BYTES: usize = 32 << 10;
/// A snapshot that is written or received is synced this often, in bytes, so that the disk is not handed all of it at
/// once while the log waits for its own fdatasync.
pub const SNAPSHOT_SYNC_BYTES: usize = 4 << 20;
