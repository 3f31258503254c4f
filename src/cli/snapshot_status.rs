//! `setstone snapshot status`: reads a saved snapshot as a member would, and tells what is in it. All of it is checked: the digest, each
//! block, each record, and that together they are a state.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output;
use crate::env::real_files::RealFiles;
use crate::mvcc::{History, HistoryError, State};
use crate::storage::snapshot::{SnapshotError, VERSION, open_backup};

pub(super) fn run(path: &Path, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let fail = |error: SnapshotError| {
        let exit = if matches!(error, SnapshotError::Io { .. }) { Exit::Failed } else { Exit::Disk };
        Failure::new(exit, error.to_string())
    };
    let (mut reader, digest) = open_backup(&RealFiles, path).map_err(fail)?;
    while reader.next_pair().map_err(fail)?.is_some() {}
    let verified = reader.into_verified().map_err(fail)?;
    let state = State::load(&Saved(path)).map_err(|error| {
        Failure::new(Exit::Disk, format!("{}: not the state of a member: {error}", path.display()))
    })?;
    let hash = digest.iter().take(4).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let header = &verified.header;
    if global.json {
        let document = json!({
            "hash": hash,
            "revision": header.revision,
            "total_key": state.keys(),
            "total_size": verified.length,
            "version": VERSION,
            "cluster_id": output::id(header.cluster.0),
            "raft_term": header.last.term,
            "raft_index": header.last.index,
            "compacted_revision": state.compacted(),
            "leases": state.leases().len(),
            "items": verified.pairs,
        });
        output::print_json(out, &document)?;
        return Ok(Exit::Ok);
    }
    let mut table = output::table(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"]);
    table.add_row([
        hash,
        header.revision.to_string(),
        state.keys().to_string(),
        output::bytes(i64::try_from(verified.length).unwrap_or(i64::MAX)),
        VERSION.to_string(),
    ]);
    output::right_align(&mut table, &[1, 2, 3]);
    output::print_table(out, &table)?;
    Ok(Exit::Ok)
}

/// The pairs of a file, read from its begin for each scan: only the state's index is in memory.
struct Saved<'a>(&'a Path);

impl History for Saved<'_> {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        Err(HistoryError("a saved snapshot is read from its begin to its end".into()))
    }

    fn floor(&self, _: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError> {
        Err(HistoryError("a saved snapshot is read from its begin to its end".into()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let unreadable = |error: SnapshotError| HistoryError(error.to_string());
        let (mut reader, _) = open_backup(&RealFiles, self.0).map_err(unreadable)?;
        while let Some((key, value)) = reader.next_pair().map_err(unreadable)? {
            if &key[..] >= from && &key[..] < to && visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
