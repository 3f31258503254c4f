//! The watchers of a simulation: what they watch, how slowly they read, and what they write down.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::shared::Shared;
use super::watch_check::Watching;
use super::world::{Dice, Pod};
use crate::client::{Client, Dial, Endpoint, Options, Remote, Watch, Watched, prefix_end};
use crate::error::Error;

/// Time in which a watch must begin; it is asked for again later.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks whether the end has come.
const LOOK: Duration = Duration::from_millis(50);

/// Somebody who watches one thing after the other.
pub(super) struct Observer {
    name: String,
    shared: Shared,
    dice: Dice,
    remote: Remote,
    /// The newest revision that was seen.
    newest: i64,
    watches: u64,
}

impl Observer {
    /// An observer with a place of its own in the network.
    pub(super) fn new(name: &str, shared: Shared, place: &Pod) -> Result<Self, Error> {
        let env = place.env(&shared.now, &shared.zone);
        let random = env.random.clone();
        let dice = Dice::new(random.next_u64());
        let credentials = shared.credentials();
        let options = Options { timeout: PATIENCE, dial: Dial::Env(env), credentials, ..Options::default() };
        let at = |ordinal| format!("{}:2379", shared.facts(ordinal).fqdn()).parse::<Endpoint>();
        let endpoints = (0..shared.plan.size)
            .map(at)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Invalid(error.to_string()))?;
        let remote = Remote::with_random(endpoints, &options, random)?;
        Ok(Self { name: name.to_owned(), shared, dice, remote, newest: 1, watches: 0 })
    }

    /// Watches until everything that happened was seen.
    pub(super) async fn run(mut self) {
        let mut start = None;
        loop {
            let watch = self.choose(start.take());
            let is_last = self.shared.settled.get().is_some();
            let (end, is_done) = self.watch(watch, is_last).await;
            // Whoever lost the track begins where it is possible again, as kube-apiserver does.
            start = end;
            if is_done {
                self.shared.watching.set(self.shared.watching.get().saturating_sub(1));
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn choose(&mut self, start: Option<i64>) -> Watch {
        self.watches += 1;
        let key = |dice: &Dice| Bytes::from(format!("k{}", dice.below(self.shared.plan.keys)));
        let (key, range_end) = match self.dice.below(4) {
            0 => (key(&self.dice), Bytes::new()),
            1 => (key(&self.dice), Bytes::from_static(b"\0")),
            2 => (Bytes::from_static(b"k"), prefix_end(b"k")),
            _ => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        };
        let past = 1 + self.dice.below(self.newest.unsigned_abs()) as i64;
        let start_revision = start.unwrap_or_else(|| match self.dice.below(10) {
            0..4 => 0,
            4..9 => past,
            _ => self.newest + self.dice.below(8) as i64,
        });
        Watch {
            key,
            range_end,
            start_revision,
            prev_kv: self.dice.chance(50),
            progress: self.dice.chance(50),
            no_put: self.dice.chance(5),
            no_delete: self.dice.chance(10),
        }
    }

    /// One watch. Where the next one may begin, if that is known; and whether everything was seen, and the end has come.
    async fn watch(&mut self, watch: Watch, is_last: bool) -> (Option<i64>, bool) {
        let name = format!("{}.{}", self.name, self.watches);
        self.shared.trace.add(&format!("{name} watches {watch:?}"));
        let until = Instant::now() + Duration::from_millis(self.dice.within(500, 8_000));
        let slowness = *self.dice.pick(&[0, 0, 20, 300, 2_000]).unwrap_or(&0);
        let mut watcher = self.remote.watch(watch.clone());
        let mut seen = Watching { name: name.clone(), watch, items: Vec::new(), must_reach: None };
        let mut next = None;
        loop {
            let item = tokio::time::timeout(LOOK, watcher.next()).await;
            let settled = self.shared.settled.get();
            match item {
                Ok(Some(Ok(item))) => {
                    self.shared.trace.add(&format!("{name} {}", brief(&item)));
                    self.newest = self.newest.max(revision(&item));
                    seen.items.push(item.clone());
                    if let Watched::Compacted(at) = item {
                        next = Some(at);
                        break;
                    }
                }
                Ok(Some(Err(error))) => {
                    self.shared.trace.add(&format!("{name} ends: {error}"));
                    break;
                }
                Ok(None) => break,
                Err(_) => {}
            }
            if let Some(newest) = settled {
                if seen.reached() >= newest || seen.begins_after(newest) {
                    seen.must_reach = Some(newest);
                    break;
                }
                watcher.ask_progress();
            } else if Instant::now() >= until {
                break;
            } else if self.dice.chance(10) {
                watcher.ask_progress();
            }
            if slowness > 0 && settled.is_none() && self.dice.chance(20) {
                tokio::time::sleep(Duration::from_millis(self.dice.below(slowness))).await;
            }
        }
        let is_done = is_last && seen.must_reach.is_some();
        self.shared.watchings.borrow_mut().push(seen);
        (next, is_done)
    }
}

fn revision(item: &Watched) -> i64 {
    match item {
        Watched::Began(at) | Watched::Progress(at) | Watched::Compacted(at) => *at,
        Watched::Events(events) => events.last().map_or(0, |event| event.kv.mod_revision),
    }
}

fn brief(item: &Watched) -> String {
    match item {
        Watched::Events(events) => {
            let of = |event: &crate::client::WatchEvent| {
                format!("{:?} {:?}@{}", event.kind, event.kv.key, event.kv.mod_revision)
            };
            format!("saw {}", events.iter().map(of).collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    }
}
