//! Watching a store in this process: a session of its hub, without the wire in between.

use bytes::Buf as _;
use futures::StreamExt as _;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Code;

use super::watch::{Watch, WatchEvent, Watched, Watcher, event};
use crate::error::Error;
use crate::limits;
use crate::mvcc::{WatchOptions, WatchedKeys};
use crate::proto::mvccpb;
use crate::raft::store::SharedStore;
use crate::watch::{Budget, Create, Delivery, Hub, Outgoing, Refused, Session, Update};

/// A watcher of a store in this process, which is waited for if it starts.
pub(super) fn here(store: SharedStore, hub: Hub, watch: Watch) -> Watcher {
    let (ask, asked) = mpsc::channel(1);
    let listening = Listening { store, hub, watch, asked, session: None, has_ended: false };
    let items = futures::stream::unfold(listening, |mut listening| async move {
        if listening.has_ended {
            return None;
        }
        let item = listening.next().await;
        listening.has_ended = matches!(item, Err(_) | Ok(Watched::Compacted(_)));
        Some((item, listening))
    });
    Watcher::new(items.boxed(), ask)
}

struct Listening {
    store: SharedStore,
    hub: Hub,
    watch: Watch,
    asked: mpsc::Receiver<()>,
    session: Option<Session>,
    has_ended: bool,
}

impl Listening {
    async fn next(&mut self) -> Result<Watched, Error> {
        if self.session.is_none() {
            let _ = tokio::time::timeout(limits::REQUEST_TIMEOUT, self.store.opened()).await;
            let mut session = self.hub.open(Budget::of_connection()).ok_or_else(|| {
                Error::NotServing(self.store.position().failure.unwrap_or_else(|| "it is starting".into()))
            })?;
            session.create(create(&self.watch));
            self.session = Some(session);
        }
        let Some(session) = &mut self.session else { return Err(Error::Stopped) };
        loop {
            let asked = async {
                match self.asked.recv().await {
                    Some(()) => {}
                    None => std::future::pending().await,
                }
            };
            let update = tokio::select! {
                update = session.next() => update,
                () = asked => {
                    session.ask_progress();
                    continue;
                }
            };
            return match update.map_err(|_| Error::Stopped)? {
                Update::Created { revision, .. } => Ok(Watched::Began(revision)),
                Update::Events(delivery) => Ok(Watched::Events(events(delivery)?)),
                Update::Progress { revision, .. } => Ok(Watched::Progress(revision)),
                Update::Compacted { compacted, .. } => Ok(Watched::Compacted(compacted)),
                Update::Refused { reason: Refused::EmptyRange, .. } => {
                    Err(Error::Invalid("the range to watch is empty".into()))
                }
                Update::Refused { reason: Refused::NegativeStart, .. } => {
                    Err(Error::Invalid("the first revision to watch is negative".into()))
                }
                Update::Refused { reason: Refused::TooMany, .. } => Err(Error::TooManyRequests),
                Update::Refused { reason: Refused::DuplicateId, .. }
                | Update::Canceled { .. }
                | Update::Denied { .. }
                | Update::TooLarge { .. } => Err(Error::Remote {
                    code: Code::ResourceExhausted as i32,
                    text: "the watch was ended: one revision holds too much for it".into(),
                    outcome_unknown: false,
                }),
            };
        }
    }
}

fn create(watch: &Watch) -> Create {
    let options = WatchOptions::default()
        .with(WatchOptions::NO_PUT, watch.no_put)
        .with(WatchOptions::NO_DELETE, watch.no_delete)
        .with(WatchOptions::PREVIOUS, watch.prev_kv)
        .with(WatchOptions::PROGRESS, watch.progress);
    Create {
        keys: WatchedKeys::new(&watch.key, &watch.range_end),
        watch_id: 0,
        start_revision: watch.start_revision,
        options,
    }
}

fn events(mut delivery: Delivery) -> Result<Vec<WatchEvent>, Error> {
    let mut events = Vec::new();
    while let Some((receiver, _)) = delivery.next_receiver() {
        for message in delivery.messages(&receiver) {
            for outgoing in &message.events {
                events.push(decode(outgoing)?);
            }
        }
    }
    Ok(events)
}

fn decode(outgoing: &Outgoing) -> Result<WatchEvent, Error> {
    let previous = outgoing.previous.clone().unwrap_or_default();
    mvccpb::Event::decode(outgoing.event.encoded().clone().chain(previous))
        .map(event)
        .map_err(|error| Error::Storage(format!("an event cannot be read: {error}")))
}
