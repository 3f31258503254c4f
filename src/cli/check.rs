//! `setstone check`: says of a data directory, offline, whether it is sound. Nothing in it is changed but the marker of a
//! cleanly closed engine, which is taken off while the engine is read and put back.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};

use super::Global;
use super::exit::{Exit, Failure};
use super::output;
use crate::env::Files;
use crate::env::real_files::RealFiles;
use crate::env::tasks::Threads;
use crate::identity::{DiskState, Identity, IdentityFile};
use crate::limits::ENGINE_CACHE_BYTES;
use crate::mvcc::State;
use crate::mvcc::history::{History, HistoryError};
use crate::storage::check::{self, Report};
use crate::storage::engine::Engine;
use crate::storage::engine::state::{self, EngineKind};

/// Verifies the data directory of a member that does not run
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Reads every record of the log, every snapshot, and the state if it was closed cleanly (otherwise
the next start rebuilds it from snapshot and log, and there is nothing to check).

Example:
  setstone check /var/lib/setstone

Exits with 11 if a process uses the directory, and with 12 if identity, log or a snapshot is
damaged. A damaged state is told, but is no loss: the next start rebuilds it.")]
pub(super) struct Arguments {
    /// The data directory
    pub directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let root = &arguments.directory;
    let fail =
        |error: io::Error| Failure::new(Exit::Failed, format!("{}: {error}", arguments.directory.display()));
    if !files.exists(root).map_err(fail)? {
        return Err(fail(io::ErrorKind::NotFound.into()));
    }
    // Held to the end. A volume that cannot be written has nobody who writes to it, and is read without a lock.
    let lock = match files.lock(&root.join("lock")) {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let text = format!("{} is in use by another process; stop it first", root.display());
            return Err(Failure::new(Exit::Locked, text));
        }
        Err(_) => None,
    };
    let identity = IdentityFile::new(Arc::clone(&files), root).load();
    if matches!(identity, Ok(None)) && files.list(root).map_err(fail)?.iter().all(|name| name == "lock") {
        return print_blank(root, global.json, out);
    }
    let writable = lock.is_some();
    let report = check::check(&*files, root, &mut |path| scan_state(&*files, path, writable));
    let findings = Findings { identity: identity.map_err(|error| error.to_string()), report };
    if global.json {
        output::print_json(out, &findings.json())?;
    } else {
        findings.print(out)?;
    }
    Ok(if findings.is_sound() { Exit::Ok } else { Exit::Disk })
}

fn print_blank(root: &Path, as_json: bool, out: &mut dyn Write) -> Result<Exit, Failure> {
    if as_json {
        output::print_json(out, &json!({ "sound": true, "blank": true }))?;
    } else {
        writeln!(out, "{} is blank: no member was ever here", root.display())?;
    }
    Ok(Exit::Ok)
}

/// Scans the engine's directory; says what is in it, or what is wrong with it.
fn scan_state(files: &dyn Files, path: &Path, writable: bool) -> Result<String, String> {
    if !files.exists(&path.join("closed-cleanly")).map_err(|error| error.to_string())? {
        return Ok("was not closed cleanly; the next start rebuilds it".into());
    }
    if !writable {
        return Ok("was closed cleanly; it is not read, because the volume is read-only".into());
    }
    let kind = EngineKind::Disk { cache_bytes: ENGINE_CACHE_BYTES };
    let opened = state::open_state(files, &Threads, path, kind).map_err(|error| error.to_string())?;
    let loaded = State::load(&EngineHistory(&*opened.engine)).map_err(|error| error.to_string());
    let closed = if opened.clean && loaded.is_ok() {
        state::close_state(files, path, kind, &*opened.engine)
    } else {
        opened.engine.close()
    };
    let state = loaded?;
    closed.map_err(|error| error.to_string())?;
    Ok(format!("revision {}, compacted up to {}", state.revision(), state.compacted()))
}

/// The engine as the state machine reads it.
struct EngineHistory<'a>(&'a dyn Engine);

impl History for EngineHistory<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        self.0.get(key).map_err(|error| HistoryError(error.to_string()))
    }

    fn floor(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, HistoryError> {
        self.0.floor(Bound::Included(key)).map_err(|error| HistoryError(error.to_string()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        self.0.scan(from, to, visit).map_err(|error| HistoryError(error.to_string()))
    }
}

/// Everything that was found out.
struct Findings {
    identity: Result<Option<Identity>, String>,
    report: Report,
}

/// One part of the directory: its name, and what is in it or wrong with it.
type Line = (&'static str, Result<String, String>);

impl Findings {
    /// Whether the disk is as it should be. A member whose log is missing is not; a disk that says itself that it is lost is
    /// as it should be, and says why.
    fn is_sound(&self) -> bool {
        self.identity.as_ref().is_ok_and(Option::is_some) && self.report.is_sound()
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = vec![("identity", self.identity_line())];
        lines.push((
            "log",
            match &self.report.log {
                Err(error) => Err(error.to_string()),
                Ok(log) => Ok(log_line(log)),
            },
        ));
        match &self.report.snapshots {
            Err(error) => lines.push(("snapshots", Err(error.to_string()))),
            Ok(all) if all.is_empty() => lines.push(("snapshots", Ok("none".into()))),
            Ok(all) => lines.extend(all.iter().map(|one| {
                let line = match &one.content {
                    Err(error) => Err(error.to_string()),
                    Ok(found) => Ok(format!("{}: {} pairs, {} bytes", one.id, found.pairs, found.length)),
                };
                ("snapshot", line)
            })),
        }
        if let Some(damage) = &self.report.gap {
            lines.push(("gap", Err(damage.to_string())));
        }
        let state = match &self.report.state {
            None => Ok("none; the next start builds it".into()),
            Some(Ok(text)) => Ok(text.clone()),
            Some(Err(text)) => Ok(format!("damaged; the next start rebuilds it ({text})")),
        };
        lines.push(("state", state));
        lines
    }

    fn identity_line(&self) -> Result<String, String> {
        let Some(identity) = self.identity.as_ref().map_err(Clone::clone)? else {
            return Err("missing, but the directory is not blank".into());
        };
        let state = match &identity.state {
            DiskState::Prepared { .. } => "prepared for a first bootstrap".to_owned(),
            DiskState::Joining { .. } => "joining".to_owned(),
            DiskState::Member => "member".to_owned(),
            DiskState::Lost { reason, .. } => format!("lost: {reason}"),
        };
        Ok(format!(
            "{state}; cluster {}, node {}, ordinal {}, boot {}",
            identity.cluster, identity.node_id, identity.ordinal, identity.boot
        ))
    }

    fn print(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut table = output::table(&["PART", "SOUND", "WHAT"]);
        for (part, line) in self.lines() {
            match line {
                Ok(text) => table.add_row([part, "yes", &text]),
                Err(text) => table.add_row([part, "NO", &text]),
            };
        }
        output::print_table(out, &table)?;
        Ok(())
    }

    fn json(&self) -> Value {
        let parts: Vec<Value> = self
            .lines()
            .into_iter()
            .map(|(part, line)| {
                let mut object = Map::new();
                object.insert("part".into(), part.into());
                object.insert("sound".into(), line.is_ok().into());
                object.insert("what".into(), line.unwrap_or_else(|text| text).into());
                Value::Object(object)
            })
            .collect();
        json!({ "sound": self.is_sound(), "blank": false, "parts": parts })
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn log_line(log: &check::LogReport) -> String {
    let mut text = match &log.first_last {
        Some((first, last)) => {
            format!("{}, {first} to {}", counted(log.entries, "entry", "entries"), last.index)
        }
        None => "no entries".to_owned(),
    };
    let _ = write!(text, "; {}, {} bytes", counted(log.segments, "segment", "segments"), log.bytes);
    if let Some(purged) = &log.purged {
        let _ = write!(text, "; purged up to {purged}");
    }
    if let Some(torn) = &log.torn {
        let _ = write!(text, "; {} bytes of a write that was never acknowledged", torn.bytes);
    }
    text
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
