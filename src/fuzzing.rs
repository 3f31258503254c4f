//! What the fuzzers in `tests/fuzz` call, one function for each: everything that reads bytes which a disk or another machine may
//! have made up. None may panic, hang, or allocate without end; each also asserts what must hold of what it made of the bytes.
//!
//! Built with `--cfg fuzzing`, checksums are not looked at, or nothing behind them would ever be reached.

// To panic is how they say that something is wrong.
#![allow(clippy::missing_panics_doc)]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::api::convert;
use crate::api::gateway::{read, write};
use crate::env::Files as _;
use crate::env::files::Open;
use crate::env::simulated_files::SimulatedFiles;
use crate::identity::IdentityFile;
use crate::mvcc::command::{Command, Compact, Request};
use crate::proto::{CLIENT_DESCRIPTORS, etcdserverpb as pb, peer};
use crate::raft::machine::{EngineHistory, Machine};
use crate::raft::{codec, wire};
use crate::storage::{Batch, Engine, MemoryEngine, log, snapshot};

/// A target: its name, which is that of its corpus, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("log", log_reader),
    ("snapshot", snapshot_reader),
    ("identity", identity_file),
    ("record", record_codec),
    ("peer", peer_messages),
    ("requests", requests),
    ("json", json_requests),
];

/// A volume with one file.
fn volume(directory: &str, name: &str, bytes: &[u8]) -> SimulatedFiles {
    let files = SimulatedFiles::new(0);
    let directory = Path::new(directory);
    let written = files
        .create_dir_all(directory)
        .and_then(|()| files.open(&directory.join(name), Open::Create))
        .and_then(|file| file.write_at(bytes, 0));
    assert!(written.is_ok(), "{written:?}");
    files
}

/// A segment of the log.
pub fn log_reader(bytes: &[u8]) {
    let files = volume("/log", "0000000000000001.log", bytes);
    let Ok(scan) = log::scan(&files, Path::new("/log")) else { return };
    let used: u64 = scan.segments.iter().map(|segment| segment.used).sum();
    // A write ends at a boundary that a file which was cut does not reach.
    let room = (bytes.len() as u64).next_multiple_of(512);
    assert!(used <= room, "{used} bytes of {} are in use", bytes.len());
    assert!(scan.entries() <= used, "{} entries in {used} bytes", scan.entries());
}

/// A snapshot, from a disk or a peer.
pub fn snapshot_reader(bytes: &[u8]) {
    let files = volume("/snapshots", "s", bytes);
    // Whether it is sound or not: it is read to its end.
    let _ = snapshot::verify(&files, Path::new("/snapshots/s"));
}

/// The identity file: what is read can be written, and is read again.
pub fn identity_file(bytes: &[u8]) {
    let file = IdentityFile::new(Arc::new(volume("/data", "identity", bytes)), Path::new("/data"));
    let Ok(Some(identity)) = file.load() else { return };
    if file.store(&identity).is_ok() {
        let again = file.load();
        assert!(again.as_ref().is_ok_and(|again| again.as_ref() == Some(&identity)), "{again:?}");
    }
}

/// The records of the state: pairs of a key and a value, each behind its length.
pub fn record_codec(mut bytes: &[u8]) {
    let engine = MemoryEngine::new();
    let mut batch = Batch::default();
    while let Some(((key, value), rest)) = split(bytes).and_then(|(key, rest)| {
        let (value, rest) = split(rest)?;
        Some(((key, value), rest))
    }) {
        batch.puts.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        bytes = rest;
    }
    if engine.commit(batch).is_err() {
        return;
    }
    let Ok(machine) = Machine::load(Arc::new(engine)) else { return };
    while machine.compaction_step().is_ok_and(|more| more) {}
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}

/// A message of a peer; the first byte says of which kind.
pub fn peer_messages(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else { return };
    match kind % 6 {
        0 => drop(peer::AppendRequest::decode(message).map(wire::append_from_wire)),
        1 => drop(peer::AppendResponse::decode(message).map(|found| wire::appended_from_wire(found, None))),
        2 => drop(peer::VoteRequest::decode(message).map(|found| wire::vote_request_from_wire(&found))),
        3 => drop(peer::VoteResponse::decode(message).map(|found| wire::vote_response_from_wire(&found))),
        4 => drop(peer::Reply::decode(message).map(wire::proposed_from_wire)),
        _ => {
            let message = Bytes::copy_from_slice(message);
            let _ = codec::decode_request(&message);
            let _ = codec::decode_payload(message);
        }
    }
}

/// Requests of clients, each behind its kind and its length, through to apply: two members do the same, and a state that is
/// loaded again is the same.
pub fn requests(mut bytes: &[u8]) {
    let engines = [Arc::new(MemoryEngine::new()), Arc::new(MemoryEngine::new())];
    let load = |engine: &Arc<MemoryEngine>| Machine::load(engine.clone());
    let [Ok(one), Ok(other)] = engines.each_ref().map(load) else { panic!("an empty state does not load") };
    let mut index = 0;
    while let Some((kind, (message, rest))) =
        bytes.split_first().and_then(|(kind, rest)| Some((*kind, split(rest)?)))
    {
        bytes = rest;
        let Some(command) = command(kind, message) else { continue };
        index += 1;
        let batch = codec::encode_batch(&[codec::encode_request(Request::anonymous(command))]);
        let replies = [&one, &other].map(|machine| machine.apply_batch(index, batch.clone()));
        let [Ok(first), Ok(second)] = replies else { panic!("entry {index} cannot be applied: {replies:?}") };
        assert_eq!(first, second, "entry {index}");
        while other.compaction_step().is_ok_and(|more| more) {}
    }
    let hash = |machine: &Machine| {
        machine.with_state(|state| state.hash(&EngineHistory(machine.engine().clone()), 0))
    };
    assert_eq!(hash(&one), hash(&other), "one has compacted its disk, the other has not");
    let [Ok(again), Ok(compacted)] = engines.each_ref().map(load) else {
        panic!("the state does not load again")
    };
    assert_eq!((hash(&one), hash(&one)), (hash(&again), hash(&compacted)), "loaded again");
}

fn command(kind: u8, message: &[u8]) -> Option<Command> {
    match kind % 4 {
        0 => Some(Command::Put(convert::put(pb::PutRequest::decode(message).ok()?).ok()?)),
        1 => {
            let request = pb::DeleteRangeRequest::decode(message).ok()?;
            Some(Command::DeleteRange(convert::delete_range(request).ok()?))
        }
        2 => Some(Command::Txn(convert::txn(pb::TxnRequest::decode(message).ok()?).ok()?)),
        _ => {
            let request = pb::CompactionRequest::decode(message).ok()?;
            Some(Command::Compact(Compact { revision: request.revision, physical: request.physical }))
        }
    }
}

/// A request as JSON; the first byte says of which method: what is read can be written, and is the same when it is read again.
pub fn json_requests(bytes: &[u8]) {
    static KINDS: OnceLock<Vec<MessageDescriptor>> = OnceLock::new();
    let kinds = KINDS.get_or_init(|| {
        let Ok(pool) = DescriptorPool::decode(CLIENT_DESCRIPTORS) else {
            panic!("the descriptors cannot be read")
        };
        pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).map(|m| m.input()).collect()
    });
    let Some((kind, text)) = bytes.split_first() else { return };
    let Some(kind) = kinds.get(usize::from(*kind) % kinds.len()) else { return };
    let Ok(message) = read::read(kind, text) else { return };
    let encoded = message.encode_to_vec();
    let mut written = Vec::new();
    let outcome = write::write(kind, encoded.clone().into(), &mut written);
    assert!(outcome.is_ok(), "{outcome:?}");
    let again = read::read(kind, &written).map(|message| message.encode_to_vec());
    assert_eq!(again, Ok(encoded), "{}", String::from_utf8_lossy(&written));
}
