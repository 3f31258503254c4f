//! One stream of watchers, and what it has delivered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use setstone::proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use setstone::proto::mvccpb;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Channel;

/// Time for a stream to deliver what there is.
const CATCH_UP: Duration = Duration::from_secs(20);

/// What a watcher was told.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Created,
    Refused {
        reason: String,
        compacted: i64,
    },
    Event(Box<mvccpb::Event>),
    Canceled {
        reason: String,
        compacted: i64,
    },
    /// A notice of progress, of one watcher.
    Notice,
}

/// What a stream has delivered.
#[derive(Debug, Default)]
struct Delivered {
    /// By watcher.
    told: BTreeMap<i64, Vec<Told>>,
    /// The newest revision up to which the stream said to have delivered all.
    progress: i64,
    /// By watcher: the revision of the last event, and whether more of it was announced.
    last: BTreeMap<i64, (i64, bool)>,
    /// What must not be.
    wrong: Option<String>,
}

pub struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    delivered: Arc<Mutex<Delivered>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Stream {
    pub fn open(channel: Channel) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let delivered = Arc::new(Mutex::new(Delivered::default()));
        let into = Arc::clone(&delivered);
        let reader = tokio::spawn(async move {
            let mut client =
                pb::watch_client::WatchClient::new(channel).max_decoding_message_size(usize::MAX);
            let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let mut responses = match client.watch(requests).await {
                Ok(responses) => responses.into_inner(),
                Err(status) => {
                    into.lock().wrong = Some(format!("not opened: {status}"));
                    return;
                }
            };
            loop {
                match responses.message().await {
                    Ok(Some(response)) => into.lock().take(response),
                    other => {
                        into.lock().wrong.get_or_insert(format!("it ended: {other:?}"));
                        return;
                    }
                }
            }
        });
        Self { requests, delivered, reader }
    }

    async fn ask(&self, request: RequestUnion) {
        // A stream that has ended says so when it is looked at.
        let _ = self.requests.send(pb::WatchRequest { request_union: Some(request) }).await;
    }

    pub async fn create(&self, create: pb::WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(create)).await;
    }

    pub async fn cancel(&self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
    }

    /// Waits until the stream says that it has delivered everything up to `revision`.
    pub async fn catch_up(&self, revision: i64) -> Result<(), String> {
        let deadline = Instant::now() + CATCH_UP;
        self.delivered.lock().progress = 0;
        let mut asked = Instant::now();
        self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        loop {
            looks.tick().await;
            {
                let delivered = self.delivered.lock();
                if let Some(wrong) = &delivered.wrong {
                    return Err(wrong.clone());
                }
                if delivered.progress >= revision {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                return Err(format!("no progress: {:?}", self.delivered.lock().progress));
            }
            // It is silent as long as one watcher is not up to date.
            if asked.elapsed() > Duration::from_millis(20) {
                asked = Instant::now();
                self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
            }
        }
    }

    /// Whether a watcher was refused or ended, among what was not compared yet.
    pub fn has_an_end(&self) -> bool {
        let delivered = self.delivered.lock();
        let mut told = delivered.told.values().flatten();
        told.any(|told| matches!(told, Told::Refused { .. } | Told::Canceled { .. }))
    }

    /// Where the other one, which is ours, has delivered something else.
    pub fn difference(&self, ours: &Self) -> Option<String> {
        let (mut theirs, mut ours) = (self.delivered.lock(), ours.delivered.lock());
        let ids: Vec<i64> = theirs.told.keys().chain(ours.told.keys()).copied().collect();
        for id in ids {
            let none = Vec::new();
            let [a, b] = [&theirs, &ours].map(|side| side.told.get(&id).unwrap_or(&none));
            if a != b {
                let same = a.iter().zip(b.iter()).take_while(|(a, b)| a == b).count();
                let next = |told: &[Told]| {
                    let text = format!("{:?}", &told[same..told.len().min(same + 4)]);
                    format!("{} in all, then {}", told.len(), text.chars().take(3_000).collect::<String>())
                };
                let [a, b] = [a, b].map(|told| next(told));
                return Some(format!("watcher {id}, {same} times the same\netcd:     {a}\nsetstone: {b}"));
            }
        }
        // What was compared is not compared again.
        theirs.told.clear();
        ours.told.clear();
        None
    }
}

impl Delivered {
    fn take(&mut self, response: pb::WatchResponse) {
        let id = response.watch_id;
        let header = response.header.unwrap();
        let told = self.told.entry(id).or_default();
        let (reason, compacted) = (response.cancel_reason, response.compact_revision);
        match (response.created, response.canceled) {
            (true, true) => told.push(Told::Refused { reason, compacted }),
            (true, false) => told.push(Told::Created),
            (false, true) => told.push(Told::Canceled { reason, compacted }),
            (false, false) if response.events.is_empty() && id == -1 => {
                self.told.remove(&id);
                self.progress = header.revision;
                return;
            }
            (false, false) if response.events.is_empty() => told.push(Told::Notice),
            (false, false) => {}
        }
        if let Some((first, last)) = response.events.first().zip(response.events.last()) {
            let [first, last] = [first, last].map(|event| event.kv.as_ref().unwrap().mod_revision);
            if let Some((before, is_announced)) = self.last.get(&id).copied()
                && (first < before || first == before && !is_announced)
            {
                self.wrong =
                    Some(format!("watcher {id} got revision {before}, and then {first} in another response"));
            }
            if last > header.revision {
                self.wrong =
                    Some(format!("watcher {id} got revision {last} with a header of {}", header.revision));
            }
            self.last.insert(id, (last, response.fragment));
        }
        if response.canceled {
            // The id may be used again.
            self.last.remove(&id);
        }
        let told = self.told.entry(id).or_default();
        told.extend(response.events.into_iter().map(|event| Told::Event(Box::new(event))));
        if told.is_empty() {
            self.told.remove(&id);
        }
    }
}
