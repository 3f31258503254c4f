//! `setstone watch`: prints changes of keys as they happen.

use std::io::Write;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use clap::Args;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};

use super::Global;
use super::exit::{Exit, Failure};
use super::keys::Keys;
use super::output::{self, pair_json};
use super::text::Encoding;
use super::watch_lines;
use crate::client::{Client, EventKind, KeyValue, Remote, Watch, WatchEvent, Watched, Watcher};
use crate::error::Error;

/// Prints changes of a key, a range of keys or all keys with a prefix, until it is stopped
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone watch color
  setstone watch --prefix /services/ --prev-kv
  setstone watch --prefix '' --rev 1 --json         everything that ever happened and is not compacted
  setstone watch a m --no-delete                    keys from a up to, not including, m
  setstone watch color -- sh -c 'echo $ETCD_WATCH_KEY is $ETCD_WATCH_VALUE'
  setstone watch -i                                 then lines such as: watch --prefix /services/ -- COMMAND

Each change is PUT or DELETE, the pair before it with --prev-kv, the key, and the value. A lost connection is made again
elsewhere, and no change is missed or printed twice. With --json each line is a document.
A command runs once for each change, in their order, with ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and ETCD_WATCH_VALUE, in
quotes as etcdctl gives them, and ETCD_WATCH_REVISION; when one fails, this one does.
With -i there may be many watches on one connection. A line that is wrong, and a watch that ends, is told of on standard
error, and the others go on, until standard input ends. The line `progress` asks how far each of them is.
Exits with 1 if the revisions that it wants were compacted.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub keys: Option<Keys>,
    /// Read what to watch from standard input, a line each: watch [OPTIONS] KEY, or progress
    #[arg(short, long, conflicts_with_all = ["key", "prefix", "from_key", "rev", "prev_kv", "progress", "no_put", "no_delete",
        "max_events", "hex", "command"])]
    pub interactive: bool,
    /// The first revision; 0: what comes after now
    #[arg(long, value_name = "REVISION", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub rev: i64,
    /// Print the pair before each change, too
    #[arg(long)]
    pub prev_kv: bool,
    /// Print from time to time up to which revision everything was printed
    #[arg(long, visible_alias = "progress-notify")]
    pub progress: bool,
    /// No writes
    #[arg(long)]
    pub no_put: bool,
    /// No deletions
    #[arg(long)]
    pub no_delete: bool,
    /// Stop after so many changes; 0: never
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_events: u64,
    /// Keys and values are hexadecimal digits
    #[arg(long)]
    pub hex: bool,
    /// What to run for each change
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl Arguments {
    /// The watch that these arguments mean.
    pub(super) fn request(&self) -> Result<Watch, Failure> {
        let encoding = Encoding::from_flag(self.hex);
        let keys = self.keys.as_ref().ok_or_else(|| Failure::usage("no key is named"))?;
        let (key, range_end) = keys.span(encoding)?;
        Ok(Watch {
            key,
            range_end,
            start_revision: self.rev,
            prev_kv: self.prev_kv,
            progress: self.progress,
            no_put: self.no_put,
            no_delete: self.no_delete,
        })
    }
}

/// Runs the command.
pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let client = global.client()?;
    if arguments.interactive {
        return watch_lines::run(&client, global.json, out).await;
    }
    let mut watching = Watching::begin(&client, arguments)?;
    while let Some(item) = watching.next().await {
        if watching.show(item?, global.json, out).await?.is_break() {
            break;
        }
    }
    Ok(Exit::Ok)
}

/// A watch, and how it is shown.
pub(super) struct Watching {
    watcher: Watcher,
    encoding: Encoding,
    /// After how many changes it ends; 0: never.
    left: u64,
    command: Vec<String>,
}

impl Stream for Watching {
    type Item = Result<Watched, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.watcher).poll_next(cx)
    }
}

impl Watching {
    /// Begins what the arguments mean.
    pub(super) fn begin(client: &Remote, arguments: Arguments) -> Result<Self, Failure> {
        Ok(Self {
            watcher: client.watch(arguments.request()?),
            encoding: Encoding::from_flag(arguments.hex),
            left: arguments.max_events,
            command: arguments.command,
        })
    }

    /// Asks the member how far it is, see [`Watcher::ask_progress`].
    pub(super) fn ask_progress(&self) {
        self.watcher.ask_progress();
    }

    /// Prints what the watch said, and runs the command for each change. Breaks after the last change that is wanted.
    pub(super) async fn show(
        &mut self,
        item: Watched,
        json: bool,
        out: &mut dyn Write,
    ) -> Result<ControlFlow<()>, Failure> {
        match item {
            Watched::Began(_) => {}
            Watched::Events(events) => {
                for event in events {
                    if json {
                        output::print_json(out, &event_json(&event, self.encoding))?;
                    } else {
                        print_event(out, &event, self.encoding)?;
                    }
                    if let Some((program, words)) = self.command.split_first() {
                        out.flush()?;
                        run_for(&event, self.encoding, program, words).await?;
                    }
                    if self.left == 1 {
                        return Ok(ControlFlow::Break(()));
                    }
                    self.left = self.left.saturating_sub(1);
                }
            }
            Watched::Progress(revision) if json => {
                output::print_json(out, &json!({ "progress": revision }))?;
            }
            Watched::Progress(revision) => writeln!(out, "progress notify: {revision}")?,
            Watched::Compacted(revision) => {
                let text = format!(
                    "revisions before {revision} were compacted; read the keys, and watch from there"
                );
                return Err(Failure::new(Exit::Failed, text));
            }
        }
        // Whoever reads a pipe wants it now.
        out.flush()?;
        Ok(ControlFlow::Continue(()))
    }
}

/// Runs a command for one change, with etcdctl's variables, until it has ended.
async fn run_for(
    event: &WatchEvent,
    encoding: Encoding,
    program: &str,
    words: &[String],
) -> Result<(), Failure> {
    let quoted = |bytes: &[u8]| match encoding {
        Encoding::Text => format!("{:?}", String::from_utf8_lossy(bytes)),
        Encoding::Hex => format!("{:?}", encoding.show(bytes)),
    };
    let ended = tokio::process::Command::new(program)
        .args(words)
        .env("ETCD_WATCH_REVISION", event.kv.mod_revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", format!("{:?}", kind(event)))
        .env("ETCD_WATCH_KEY", quoted(&event.kv.key))
        .env("ETCD_WATCH_VALUE", quoted(&event.kv.value))
        // Whoever stops waiting stops it.
        .kill_on_drop(true)
        .status()
        .await;
    let what = match ended {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    Err(Failure::new(Exit::Failed, format!("{program}: {what}")))
}

fn kind(event: &WatchEvent) -> &'static str {
    match event.kind {
        EventKind::Put => "PUT",
        EventKind::Delete => "DELETE",
    }
}

fn event_json(event: &WatchEvent, encoding: Encoding) -> Value {
    let mut document =
        json!({ "type": kind(event), "kv": pair_json(&event.kv, encoding, event.kind == EventKind::Put) });
    if let (Some(previous), Some(fields)) = (&event.previous, document.as_object_mut()) {
        fields.insert("prev_kv".into(), pair_json(previous, encoding, true));
    }
    document
}

/// As etcdctl does.
fn print_event(out: &mut dyn Write, event: &WatchEvent, encoding: Encoding) -> Result<(), Failure> {
    writeln!(out, "{}", kind(event))?;
    let mut pair = |pair: &KeyValue| -> std::io::Result<()> {
        writeln!(out, "{}", encoding.show(&pair.key))?;
        writeln!(out, "{}", encoding.show(&pair.value))
    };
    if let Some(previous) = &event.previous {
        pair(previous)?;
    }
    pair(&event.kv)?;
    Ok(())
}
