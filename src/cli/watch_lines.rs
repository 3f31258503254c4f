//! `setstone watch --interactive`: standard input says what to watch, a line each.

use std::io::{self, BufRead, Read, Write};

use clap::{Parser, Subcommand};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, StreamMap};

use super::exit::{Exit, Failure};
use super::txn_script::{complaint, words};
use super::watch::{Arguments, Watching};
use crate::client::Remote;

/// Lines that were read and not looked at yet.
const LINES: usize = 16;

/// Bytes of a line.
const LINE: u64 = 1 << 20;

/// Watches at one time: each has a stream of its own, of which a connection has few to spare where a member is told to allow few.
const WATCHES: usize = 100;

#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    asks: Asks,
}

#[derive(Debug, Subcommand)]
enum Asks {
    /// One more watch.
    Watch(Arguments),
    /// How far the watches are.
    Progress,
}

/// Runs the command until standard input ends.
pub(super) async fn run(client: &Remote, json: bool, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut lines = read_lines();
    let mut watches = StreamMap::new();
    let mut number = 0_u64;
    loop {
        tokio::select! {
            line = lines.recv() => match line.transpose()?.map(|line| parse(&line)) {
                None => return Ok(Exit::Ok),
                Some(Ok(None)) => {}
                Some(Ok(Some(Asks::Progress))) => watches.values().for_each(Watching::ask_progress),
                Some(Ok(Some(Asks::Watch(_)))) if watches.len() == WATCHES => {
                    say(&format!("there are {WATCHES} watches, and no place for another one"));
                }
                Some(Ok(Some(Asks::Watch(arguments)))) => match Watching::begin(client, arguments) {
                    Ok(watching) => {
                        number += 1;
                        watches.insert(number, watching);
                    }
                    Err(failure) => say(&failure.text),
                },
                Some(Err(reason)) => say(&reason),
            },
            Some((number, item)) = watches.next(), if !watches.is_empty() => {
                let watching = watches.iter_mut().find(|(known, _)| *known == number);
                let shown = match (watching, item) {
                    (Some((_, watching)), Ok(item)) => watching.show(item, json, out).await,
                    (_, Err(error)) => Err(error.into()),
                    (None, Ok(_)) => continue,
                };
                match shown {
                    Ok(flow) if flow.is_continue() => continue,
                    Ok(_) => {}
                    Err(failure) if failure.text.is_empty() => return Err(failure),
                    Err(failure) => say(&format!("a watch ended: {failure}")),
                }
                watches.remove(&number);
            }
        }
    }
}

fn say(text: &str) {
    eprintln!("setstone: {text}");
}

/// What a line asks for; nothing if it is empty.
fn parse(line: &str) -> Result<Option<Asks>, String> {
    let line = line.trim();
    let wrong = |reason: &str| format!("{line:?}: {reason}");
    let words = words(line).map_err(|reason| wrong(&reason))?;
    if words.is_empty() {
        return Ok(None);
    }
    match Line::try_parse_from(words).map_err(|error| wrong(&complaint(&error)))?.asks {
        Asks::Watch(arguments) if arguments.interactive => Err(wrong("every line is asked for already")),
        asks => Ok(Some(asks)),
    }
}

/// Reads standard input on a thread of its own: a read of a terminal cannot be taken back, and must not keep a runtime from ending.
fn read_lines() -> mpsc::Receiver<io::Result<String>> {
    let (lines, receiver) = mpsc::channel(LINES);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = String::new();
            let read = input.by_ref().take(LINE).read_line(&mut line);
            let last = !matches!(read, Ok(1..));
            if matches!(read, Ok(0)) || lines.blocking_send(read.map(|_| line)).is_err() || last {
                return;
            }
        }
    });
    receiver
}
