//! Every bound, with its reason. A limit that is hit is a typed error, never a stall and never an allocation without end.

use std::time::Duration;

/// What one client address may do on one port (`transport::addresses`). Rates are not bounded unless configured: behind one address there
/// may be a thousand clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerAddress {
    /// Connections at a time.
    pub connections: usize,
    /// Requests in a second; new connections count as such. 0: any number.
    pub requests_per_second: u64,
    /// Bytes received in a second; more are read later. 0: any number.
    pub bytes_per_second: u64,
}

impl Default for PerAddress {
    fn default() -> Self {
        Self { connections: CONNECTIONS_PER_ADDRESS, requests_per_second: 0, bytes_per_second: 0 }
    }
}

/// Largest request that is proposed, in bytes of its encoding: etcd's default `--max-request-bytes`.
pub const REQUEST_BYTES: usize = 1_572_864;
/// Largest gRPC message that is received, in bytes: etcd's [`REQUEST_BYTES`] and 512 KiB for overhead.
pub const RECEIVED_MESSAGE_BYTES: usize = REQUEST_BYTES + 524_288;
/// Operations (compares, or operations of one branch) in a transaction: etcd's `--max-txn-ops`.
pub const TXN_OPERATIONS: usize = 128;
/// Most that may be configured instead: an entry of so many operations is applied in some milliseconds.
pub const TXN_OPERATIONS_MAX: usize = 16_384;
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
/// How long word of a commit waits for entries that take it along to the followers. Longer than a write takes on a good disk,
/// so that of writes that follow each other each tells of the one before; short, because a follower's readers without a
/// quorum and its watchers see that much later what was written.
pub const COMMIT_DELAY: Duration = Duration::from_millis(1);
/// URLs that one member may have of one kind: etcd's examples have two.
pub const MEMBER_URLS: usize = 16;
/// Bytes of a URL or name of a member: a name in DNS has 253.
pub const URL_BYTES: usize = 512;
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
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the handshake of TLS with a peer.
pub const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for which a peer that speaks for another is still answered, so that it hears why, before its connection is closed.
pub const PEER_HANG_UP: Duration = Duration::from_secs(1);
/// Keep-alive of peer connections, interval and answer: a dead peer is noticed within the sum.
pub const PEER_KEEPALIVE: Duration = Duration::from_secs(1);
/// Time for one question between members that is not consensus (describe, prepare).
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of the newest log entries kept in memory for replication and apply.
pub const LOG_CACHE_BYTES: usize = 1 << 20;
/// Bytes of one log segment file.
pub const LOG_SEGMENT_BYTES: u64 = 16 << 20;
/// The log is cut when what came after the last snapshot has outgrown this and that snapshot, which bounds write amplification by two.
pub const LOG_BYTES_BEFORE_SNAPSHOT: u64 = 64 << 20;
/// Entries that stay in the log behind a snapshot, for a peer that is slow but healthy; they take no more bytes than what comes after it
/// may.
pub const LOG_ENTRIES_KEPT: u64 = 1_000;

/// Bytes of one history record: sled keeps a page beyond 128 KiB in a file that it never syncs, and a larger record
/// would be rewritten as a whole by compaction.
pub const RECORD_BYTES: usize = 8 << 10;
/// Bytes from which on a record takes no further entry. sled keeps a page, which holds up to sixteen records, in each of the
/// 256 parts of its cache, whatever its capacity: small records bound that.
pub const RECORD_GATHER_BYTES: usize = 2 << 10;
/// Leases that are granted at a time. Each takes some 250 bytes on every member, and one heap entry where the leader is.
pub const LEASES: usize = 1_000_000;
/// Alarms that are raised at a time: a client may name members that are not there. Two kinds and two causes of the most members.
pub const ALARMS: usize = 1_024;
/// Leases that one entry ends because their time is over: bounds the time that apply holds the state.
pub const EXPIRE_LEASES: usize = 1_000;
/// Keys from which on no further lease is put into that entry.
pub const EXPIRE_KEYS: usize = 10_000;
/// Keep-alives of one stream that are on their way at a time; more wait in the connection.
pub const KEEP_ALIVES_IN_FLIGHT: usize = 256;
/// Bytes that a question about a lease counts for among what waits for the leader.
pub const LEASE_QUESTION_BYTES: usize = 64;
/// Longest entry of history that is put together from its parts: far above [`REQUEST_BYTES`], and a bound for a length that
/// damage made up.
pub const LARGE_ENTRY_BYTES: usize = 64 << 20;
/// Users. Each is some hundred bytes on every member, and what each may do is kept worked out.
pub const USERS: usize = 10_000;
/// Roles.
pub const ROLES: usize = 10_000;
/// Roles of one user: bounds what working out its permissions takes.
pub const ROLES_OF_USER: usize = 256;
/// Permissions of one role.
pub const PERMISSIONS_OF_ROLE: usize = 1_024;
/// Bytes of the keys of the permissions of one role, and of the names of the roles of one user: what is written as one item stays
/// below half of what sled keeps in a page.
pub const ROLE_BYTES: usize = 32 << 10;
/// Bytes of the name of a user or role, and of the hash of a password. One of bcrypt has 60.
pub const AUTH_NAME_BYTES: usize = 1 << 10;
/// Tokens that a member knows. Each takes some 150 bytes, for as long as it is used and [`TOKEN_TTL`] after that.
pub const TOKENS: usize = 100_000;
/// Time that a simple token lives after it was last used: etcd's default `--auth-token-ttl`.
pub const TOKEN_TTL: Duration = Duration::from_mins(5);
/// Time to wait for a member that lags to hear of a token, which names the log entry that made it. Above this the token counts as
/// made up.
pub const TOKEN_WAIT: Duration = Duration::from_secs(1);
/// Work that hashing a password takes, as a power of two: bcrypt's and etcd's default. About 60 ms.
pub const BCRYPT_COST: u32 = 10;
/// The most work that a password may take: about 20 s. A hash that wants more is no password's.
pub const BCRYPT_COST_MAX: u32 = 18;
/// The least: bcrypt's.
pub const BCRYPT_COST_MIN: u32 = 4;
/// Passwords that are hashed at a time: who asks for tokens must leave processors to those who have some.
pub const PASSWORDS_AT_A_TIME: usize = 2;
/// Passwords that wait for that or are hashed. Above this, "too many requests".
pub const PASSWORDS_WAITING: usize = 64;
/// How often a password is checked anew because users changed meanwhile.
pub const AUTHENTICATE_ATTEMPTS: usize = 5;
/// Memory for the engine's cache, in bytes, unless configured.
pub const ENGINE_CACHE_BYTES: u64 = 6 << 20;
/// Bytes of changes that the engine gets in one batch: hundreds of entries, whose applied ids but the last are never written.
/// Twice this is the most that is kept in memory.
pub const ENGINE_WRITE_BYTES: usize = 1 << 20;
/// Records that one step of physical compaction looks at: bounds the time that it holds the state.
pub const COMPACTION_STEP_RECORDS: usize = 64;
/// Records that a long range reads before it lets others run.
pub const RANGE_STEP_RECORDS: usize = 512;

/// Pairs in the first part of a range that is read in parts, as in etcd.
pub const RANGE_PART_FIRST_PAIRS: i64 = 10;
/// Pairs in one part: bounds the time that planning it holds the state.
pub const RANGE_PART_PAIRS: i64 = 16_384;
/// Bytes of pairs in one part, but for the last of them: etcd aims at [`REQUEST_BYTES`], and halves what has twice as many.
pub const RANGE_PART_BYTES: usize = 2 * REQUEST_BYTES;
/// Calls that wait for a lock or an election on one member. Each costs a task and a stream of watchers, some kilobytes.
pub const QUEUED_CALLS: usize = 16_384;
/// Time for a key to be taken out of a queue whose owner is gone: a few elections.
pub const QUEUE_LEAVE_TIMEOUT: Duration = Duration::from_mins(1);
/// Time to live of the lease of a lock whose client names none, in seconds: etcd's.
pub const QUEUE_LEASE_SECONDS: i64 = 60;

/// Connections on the client port.
pub const CLIENT_CONNECTIONS: usize = 65_536;
/// Connections of one client address: a quarter of [`CLIENT_CONNECTIONS`], so that no address alone can have all of them.
pub const CONNECTIONS_PER_ADDRESS: usize = CLIENT_CONNECTIONS / 4;
/// Connections on the admin port of one address: half of [`ADMIN_CONNECTIONS`], so that a probe finds one.
pub const ADMIN_CONNECTIONS_PER_ADDRESS: usize = ADMIN_CONNECTIONS / 2;
/// Connections on the peer port: each of the most [`PEERS`] has a few, and those that a member lost are not closed at once.
pub const PEER_CONNECTIONS: usize = 4_096;
/// Connections on the peer port of one address: all members of a test may be on one machine.
pub const PEER_CONNECTIONS_PER_ADDRESS: usize = 1_024;
/// Connections that the system may have made for a port before it is asked for them; `net.core.somaxconn`, 4096 by default, limits it too.
/// What comes after that is not answered, and is tried again by its system.
pub const UNACCEPTED_CONNECTIONS: u32 = 4_096;
/// Time for which a client may leave everything unread that waits in the system's buffers, before the system closes the connection:
/// above the [`CLIENT_PING_INTERVAL`] and [`CLIENT_PING_TIMEOUT`] that HTTP/2 has for this; HTTP/1 has nothing of its own.
pub const UNREAD_TIMEOUT: Duration = Duration::from_mins(2);
/// Concurrent requests on one HTTP/2 connection.
pub const STREAMS_PER_CONNECTION: u32 = 4_096;
/// HTTP/2 flow-control window of one stream, in bytes: enough for a request of the largest size in a few round trips, and
/// little enough that ten thousand idle connections cost nothing.
pub const HTTP2_STREAM_WINDOW: u32 = 256 << 10;
/// HTTP/2 flow-control window of one connection, in bytes.
pub const HTTP2_CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of answers that one HTTP/2 stream may have waiting for a client that does not read.
pub const HTTP2_SEND_BUFFER: usize = 256 << 10;
/// Bytes of one JSON value that becomes a message: base64 makes [`RECEIVED_MESSAGE_BYTES`] a third larger, and people indent.
pub const GATEWAY_VALUE_BYTES: usize = 4 << 20;
/// Bytes of a JSON value up to which it does not count among [`GATEWAY_BUFFERED_BYTES`]: nearly all are smaller.
pub const GATEWAY_UNCOUNTED_BYTES: usize = 64 << 10;
/// Bytes of JSON values that are not complete yet, of all connections together. Above this, "too many requests".
pub const GATEWAY_BUFFERED_BYTES: usize = 256 << 20;
/// Messages and elements of lists in one JSON value: far above what a transaction of [`TXN_OPERATIONS`] nested ones has, and each
/// takes memory that three bytes of JSON can ask for.
pub const GATEWAY_ELEMENTS: usize = 100_000;
/// Bytes that one message on a websocket may have: the requests of streams name keys and leases, and what is larger would have to count
/// among [`GATEWAY_BUFFERED_BYTES`].
pub const WEBSOCKET_MESSAGE_BYTES: usize = GATEWAY_UNCOUNTED_BYTES;
/// Bytes that are read of a websocket at once.
pub const WEBSOCKET_READ_BYTES: usize = 4 << 10;
/// Time that a websocket's end waits for its client to say goodbye, too.
pub const WEBSOCKET_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the first bytes of a connection to arrive.
pub const CONNECTION_HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for a handshake of TLS, the wait for its turn included: two round trips and some milliseconds of work, on a machine that is busy.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes of one port that are made at a time; more wait. Each holds some 50 KiB, and costs a millisecond of a processor.
pub const TLS_HANDSHAKES: usize = 1_024;
/// How long a certificate is valid that a member makes itself: etcd's default `--self-signed-cert-validity`.
pub const SELF_SIGNED_VALIDITY: Duration = Duration::from_hours(365 * 24);
/// How often the files of certificates are looked at.
pub const TLS_LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Bytes of a file with certificates, a key or a revocation list: a list of ten thousand has some 400 KB.
pub const TLS_FILE_BYTES: u64 = 16 << 20;
/// Names of a certificate that are looked up to find whether it is that of the address it came from.
pub const TLS_NAMES_LOOKED_UP: usize = 16;
/// How often a refused connection is told of in the log, for each reason.
pub const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);
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
pub const CLIENT_PING_INTERVAL: Duration = Duration::from_mins(1);
/// Silence on a connection after which the system asks whether its peer is still there, for protocols without pings of their own.
pub const TCP_PROBE_AFTER: Duration = Duration::from_mins(1);
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
/// Watchers on one stream: as many as kube-apiserver has many times over, and a bound for what one step over them costs.
pub const WATCHERS_PER_STREAM: usize = 65_536;
/// Memory for the watchers of one connection, in bytes: some 150,000 with short keys.
pub const WATCHER_BYTES_PER_CONNECTION: usize = 64 << 20;
/// Memory for the watchers of all connections, in bytes.
pub const WATCHER_BYTES: usize = 1 << 30;
/// Bytes of events that may wait for one stream of watchers; what comes on top is dropped, and read from the history later. A
/// third of a second of what a busy store writes, so that a reader that pauses for a moment costs no second encoding.
pub const WATCH_QUEUE_BYTES: usize = 2 << 20;
/// Bytes of events that wait for all streams (shared ones count for each) from which on [`WATCH_QUEUE_BYTES_WHEN_SCARCE`] holds.
pub const WATCH_QUEUED_BYTES_OF_ALL: usize = 256 << 20;
/// See [`WATCH_QUEUED_BYTES_OF_ALL`]: streams that do not read must not add up.
pub const WATCH_QUEUE_BYTES_WHEN_SCARCE: usize = 32 << 10;
/// Bytes of history that a watcher which lags looks at in one step.
pub const WATCH_STEP_BYTES: usize = 256 << 10;
/// Bytes of events in one response beyond which the next revision goes into another one: some gRPC clients take 4 MiB at most.
pub const WATCH_RESPONSE_BYTES: usize = 1 << 20;
/// Bytes of one revision's events and of the pairs before them. A watcher of more that asked for these pairs is ended: they
/// would have to be in memory at once.
pub const WATCH_REVISION_BYTES: usize = 256 << 20;
/// Bytes that the header and the other fields of a response to a watcher take at most.
pub const WATCH_HEADER_BYTES: usize = 128;
/// Bytes that a stream of watchers hands to HTTP/2 at once; larger events go as they are, uncopied.
pub const WATCH_CHUNK_BYTES: usize = 16 << 10;
/// Time between two notices of progress: etcd's ten minutes.
pub const WATCH_PROGRESS_INTERVAL: Duration = Duration::from_mins(10);
/// Shortest time between two notices of progress that can be configured, as with etcd.
pub const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Looks at the leader, an election time-out apart, that must all find none before a stream ends that wants one, as with etcd.
pub const LEADERLESS_LOOKS: u32 = 3;
/// Time to connect to a server, as a client.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of HTTP/2 pings to a server, as a client, while calls are waiting: etcd takes one every five seconds.
pub const CHANNEL_PING_INTERVAL: Duration = Duration::from_secs(10);
/// Time that a server has to answer a ping.
pub const CHANNEL_PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after the system refused a new connection (no file descriptors left, for example).
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Time for a leader that stops to hand over: several tries of one election time-out each.
pub const HANDOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// What is left of the grace period when the client port closes: for requests in flight, consensus and the disk.
pub const STOP_CLOSING: Duration = Duration::from_secs(3);

/// Time without a leader after which a member that stops waits for requests no more: two elections.
pub const LEADERLESS_AT_STOP: Duration = Duration::from_secs(3);

/// Time for the other members to take the answers to what their clients have asked for, when a member stops.
pub const FORWARDING_AT_STOP: Duration = Duration::from_secs(1);

/// Time for one step of a stop when the grace period is over or somebody hurries: ample unless the disk is stuck, and little
/// enough that three of them end before Kubernetes kills the process.
pub const STOP_STEP: Duration = Duration::from_secs(1);

/// Time without a finished write, while one waits, after which the disk counts as stuck and the process as not live.
pub const STORAGE_STUCK: Duration = Duration::from_secs(30);

/// Default quota of the store, in bytes: etcd's 2 GiB.
pub const QUOTA_BYTES: i64 = 2 << 30;

/// Bytes of a volume that are kept free beside what the log and the next snapshot need: what a fast disk writes between two looks, and
/// room for deletes and compaction, which also write.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;
/// How often free space is looked at.
pub const DISK_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is while little more is free than must be.
pub const DISK_LOOK_INTERVAL_NEAR: Duration = Duration::from_millis(50);
/// How much more than must be free counts as little: a fast disk does not write it within [`DISK_LOOK_INTERVAL`].
pub const DISK_NEAR_BYTES: u64 = 2 << 30;
/// Longest time for one look at the free space; a volume that does not answer is not known to have any.
pub const DISK_LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a member does not answer before the leader takes back what it said of its volume: longer than a restart takes.
pub const DISK_ALARM_OF_SILENT: Duration = Duration::from_mins(1);
/// Shortest time between two snapshots that are made to cut the log because space is scarce.
pub const DISK_CUT_INTERVAL: Duration = Duration::from_secs(30);
/// How old the size of the store may be that the quota is compared with; asking costs a few system calls.
pub const QUOTA_SIZE_AGE: Duration = Duration::from_millis(250);
/// Longest time of revisions that automatic compaction keeps: a revision is noted every six minutes.
pub const AUTO_COMPACTION_LONGEST: Duration = Duration::from_hours(24 * 366);
/// How often automatic compaction by revision looks: etcd's five minutes.
pub const AUTO_COMPACTION_REVISION_INTERVAL: Duration = Duration::from_mins(5);
/// Shortest time between two comparisons of the members' stores: each reads all of every store.
pub const CORRUPT_CHECK_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Time for another member to hash its store; one that takes longer is left out of the comparison.
pub const CORRUPT_CHECK_TIMEOUT: Duration = Duration::from_mins(1);
/// Snapshots that clients fetch from one member at a time: each takes the store's size on its disk.
pub const SNAPSHOT_CLIENTS: usize = 4;
/// Bytes of one piece of a snapshot for a client: etcd's.
pub const SNAPSHOT_PIECE_BYTES: usize = 32 << 10;
/// Longest time that a client may take for one piece of a snapshot.
pub const SNAPSHOT_CLIENT_TIMEOUT: Duration = Duration::from_mins(1);
/// Bytes that must stay free on the volume beside a snapshot, of a small volume a sixteenth; or beside what a defragmentation writes.
pub const SPARE_BYTES: u64 = 32 << 20;
/// Time for one call of the Rust client that reads or writes a whole store: defragmentation, hash.
pub const CALLER_LONG_TIMEOUT: Duration = Duration::from_mins(10);

/// Time for one call of the Rust client, repetitions included: above [`REQUEST_TIMEOUT`], so that the member's own answer
/// about a request of unknown outcome still arrives.
pub const CALLER_TIMEOUT: Duration = Duration::from_secs(8);
/// Time for the Rust client to connect to one endpoint, so that others are tried before [`CALLER_TIMEOUT`].
pub const CALLER_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest time that one attempt of a read gets when there are other endpoints to ask.
pub const CALLER_ATTEMPT_MIN: Duration = Duration::from_secs(1);
/// First pause before a request is sent again.
pub const CALLER_RETRY_MIN: Duration = Duration::from_millis(25);
/// Longest pause before a request is sent again: an election takes about a second.
pub const CALLER_RETRY_MAX: Duration = Duration::from_millis(400);
/// Time for which an endpoint that failed is asked last.
pub const CALLER_BLAME: Duration = Duration::from_secs(1);
/// Endpoints of one client: more is a mistake in a list.
pub const CALLER_ENDPOINTS: usize = 64;
/// Largest answer that the client takes, in bytes: etcd's client takes the most that a gRPC message can have.
pub const CALLER_ANSWER_BYTES: usize = i32::MAX as usize;
/// Flow-control window of one stream of the client, in bytes: a large range arrives without waiting for round trips.
pub const CALLER_STREAM_WINDOW: u32 = 2 << 20;
/// Flow-control window of one connection of the client, in bytes.
pub const CALLER_CONNECTION_WINDOW: u32 = 8 << 20;
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
/// First time between two questions for a name that could not be asked; doubles up to [`DNS_RETRY_MAX`].
pub const DNS_RETRY: Duration = Duration::from_millis(500);
/// Longest time between two questions for a name that could not be asked: no cache keeps that it could not, and a pod that starts
/// meanwhile is to find the others as soon as there are names again.
pub const DNS_RETRY_MAX: Duration = Duration::from_secs(1);
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
/// The same while no leader is known: then somebody may hold evidence, or a human may have asked for something. And while a member was
/// not reached: those that are connected to it tell where it is, and the next election may need it.
pub const HELLO_INTERVAL_LEADERLESS: Duration = Duration::from_secs(1);
/// Time between two looks behind the headless service.
pub const SERVICE_INTERVAL: Duration = Duration::from_secs(2);
/// Largest message of the service that answers before consensus exists, in bytes: a description of the most members.
pub const HELLO_BYTES: usize = 1 << 20;
/// Time for a disk to take the identity of a first bootstrap: a few fsyncs, of a slow disk too.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two attempts at a first bootstrap.
pub const BOOTSTRAP_RETRY: Duration = Duration::from_secs(1);
/// Time for a leader to admit a disk: one entry for the id, one for the learner.
pub const ADMIT_TIMEOUT: Duration = Duration::from_secs(7);
/// Time between two attempts at being admitted.
pub const ADMIT_RETRY: Duration = Duration::from_millis(500);
/// How often a leader looks whether the membership is to be changed.
pub const RECONCILE_INTERVAL: Duration = Duration::from_millis(250);
/// How many looks in a row a member outside the desired range must not have answered before it is removed: two seconds.
pub const REMOVAL_LOOKS: u32 = 8;
/// Time for which a member that asked to be retired is taken to want it still. It asks five times a second.
pub const RETIRE_MEMORY: Duration = Duration::from_secs(5);
/// Pause between two requests to be retired.
pub const RETIRE_RETRY: Duration = Duration::from_millis(200);
/// Time for one answer about the own `StatefulSet`.
pub const OWNER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a leader, and a pod that does not take part yet, looks at its `StatefulSet`: one small request.
pub const OWNER_INTERVAL: Duration = Duration::from_secs(2);
/// How often everybody else does.
pub const OWNER_INTERVAL_FOLLOWER: Duration = Duration::from_secs(15);
/// How many members vote at most, where nothing else is said: more make every write slower, and five survive two losses.
pub const MAX_VOTERS: usize = 5;
/// By how much a recovery raises the revision: more than any client can have seen of what was lost, as etcd's guide for a restored
/// store has it.
pub const RECOVERY_REVISIONS: u32 = 1_000_000_000;
/// Bytes of a human's request in the data directory: names of the most pods.
pub const REQUEST_FILE_BYTES: usize = 64 << 10;
/// Events that the cluster keeps; the oldest make room. Some weeks of a quiet cluster, and all of a bad night.
pub const EVENTS: usize = 256;
/// Bytes of the text of an event, and of the name of the pod that tells it.
pub const EVENT_BYTES: usize = 512;
/// Events that a member holds back until the cluster takes them; what comes on top is only logged.
pub const EVENTS_WAITING: usize = 64;
/// Pause before an event that was not taken is told again.
pub const EVENT_RETRY: Duration = Duration::from_secs(1);
/// Time that a member which stops spends on telling why.
pub const EVENT_AT_STOP: Duration = Duration::from_millis(300);
/// Time for a change of the membership to be committed; after it the leader looks again.
pub const MEMBERSHIP_CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries that a member may lack and still count as caught up: they arrive within one heartbeat.
pub const CAUGHT_UP_ENTRIES: u64 = 200;
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
/// Pods of a playground: their fixed client addresses begin at host 200 of a /24.
pub const PLAYGROUND_PODS: u16 = 50;
/// Bytes of a pod's log in a playground, after which it is set aside in place of the one before: enough for some hours of
/// a talkative pod, and little enough to leave running.
pub const PLAYGROUND_LOG_BYTES: u64 = 16 << 20;
/// Connections through one proxy of a playground. More wait in the kernel's queue until one ends.
pub const PLAYGROUND_PROXY_CONNECTIONS: usize = 32_768;
/// Answers that a playground's name server keeps: some of each name that there is. More are not kept.
pub const PLAYGROUND_DNS_ANSWERS: usize = 1_024;
/// Messages that may wait for a playground's driver: some probes and exits of each pod. Senders wait when it is full.
pub const PLAYGROUND_MESSAGES: usize = 256;
/// Connections to a playground's API server: some of each pod.
pub const PLAYGROUND_API_CONNECTIONS: usize = 256;
/// Connections to a playground's control socket.
pub const PLAYGROUND_CONTROL_CONNECTIONS: usize = 16;
/// Bytes of one request on a playground's control socket; the longest that means anything has some 40.
pub const PLAYGROUND_CONTROL_REQUEST_BYTES: usize = 4 << 10;
/// Bytes of one response of a playground; that of [`PLAYGROUND_PODS`] pods with long names has some 50 KiB.
pub const PLAYGROUND_CONTROL_RESPONSE_BYTES: usize = 1 << 20;
