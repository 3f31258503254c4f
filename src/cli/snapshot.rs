//! `setstone snapshot`: saves a snapshot of one member's store to a file, and tells what is in such a file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, header_json};
use super::snapshot_status;
use crate::client::{Client, Connection, Endpoint, Snapshot};
use crate::env::Files;
use crate::env::files::{File, Open};
use crate::env::real_files::RealFiles;

/// What the file is called until it is whole: etcdctl's habit.
const PART: &str = ".part";
/// Bytes between two fsyncs, so that the last one has little left to do.
const SYNC_BYTES: u64 = 64 << 20;

/// Saves a snapshot of a member's store, or tells what is in one
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone --endpoints 10.0.0.7:2379 snapshot save backup.db
  setstone snapshot status backup.db

`save` takes one endpoint. The file has its name only once it is whole, its digest is right and it is
on disk; one that broke off cannot be resumed, because the store has moved on, and is fetched anew.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Saves a snapshot of the member at the endpoint to FILE
    Save {
        /// Replaced if it is there
        file: PathBuf,
    },
    /// Verifies a saved snapshot, and tells what is in it
    Status {
        /// The file
        file: PathBuf,
    },
}

pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    match arguments.command {
        Command::Save { file } => save(&file, global, out).await,
        Command::Status { file } => snapshot_status::run(&file, global, out),
    }
}

async fn save(path: &Path, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let endpoints = Endpoint::list(&global.endpoints).map_err(|error| Failure::usage(error.to_string()))?;
    let [endpoint] = &endpoints[..] else {
        let text = format!("a snapshot is of one member; {} endpoints are given", endpoints.len());
        return Err(Failure::usage(text));
    };
    let started = Instant::now();
    let answer = Connection::new(endpoint.clone(), &global.options()?).snapshot().await?;
    let mut snapshot = answer.value;
    let version = snapshot.version().to_owned();
    let part = Part::begin(path).map_err(|error| named(path, &error))?;
    let bytes = receive(&mut snapshot, &part).await?;
    part.keep(path).map_err(|error| named(path, &error))?;
    if global.json {
        let document = json!({
            "header": header_json(&answer.header),
            "file": path.display().to_string(),
            "bytes": bytes,
            "version": version,
            "seconds": started.elapsed().as_secs_f64(),
        });
        output::print_json(out, &document)?;
    } else {
        writeln!(out, "Snapshot saved at {}", path.display())?;
        if !version.is_empty() {
            writeln!(out, "Server version {version}")?;
        }
    }
    Ok(Exit::Ok)
}

fn named(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}

/// Everything into the file. Returns how many bytes there are.
async fn receive(snapshot: &mut Snapshot, part: &Part) -> Result<u64, Failure> {
    let bar = ProgressBar::new(snapshot.remaining());
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    let mut synced = 0;
    loop {
        let offset = snapshot.received();
        let piece = match snapshot.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => {
                bar.finish_and_clear();
                let text = format!(
                    "{error}; it broke off after {offset} bytes and cannot be resumed: nothing was kept, fetch it anew"
                );
                return Err(Failure::new(Exit::Failed, text));
            }
        };
        part.file.write_at(&piece, offset).map_err(|error| named(&part.path, &error))?;
        if offset - synced > SYNC_BYTES {
            part.file.sync_data().map_err(|error| named(&part.path, &error))?;
            synced = offset;
        }
        bar.set_position(snapshot.received());
    }
    bar.finish_and_clear();
    Ok(snapshot.received())
}

/// The file before it has its name. Dropped, it is removed.
struct Part {
    path: PathBuf,
    file: Box<dyn File>,
    is_kept: bool,
}

impl Part {
    fn begin(path: &Path) -> std::io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(PART);
        let path = PathBuf::from(name);
        if RealFiles.exists(&path)? {
            // Of an attempt that was killed.
            RealFiles.remove_file(&path)?;
        }
        let file = RealFiles.open(&path, Open::Create)?;
        Ok(Self { path, file, is_kept: false })
    }

    /// Gives it its name, durably.
    fn keep(mut self, path: &Path) -> std::io::Result<()> {
        self.file.sync_data()?;
        RealFiles.rename(&self.path, path)?;
        self.is_kept = true;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        RealFiles.sync_dir(directory)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_kept {
            // Should this fail, the next attempt removes it.
            let _ = RealFiles.remove_file(&self.path);
        }
    }
}
