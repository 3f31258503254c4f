//! The watchers of API servers, what happened, and whether each has seen exactly that.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use setstone::client::prefix_end;
use setstone::proto::etcdserverpb as pb;
use setstone::proto::etcdserverpb::watch_client::WatchClient;
use setstone::proto::mvccpb;
use setstone::testing::TestCluster;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use pb::watch_request::RequestUnion;

use super::PATIENCE;
use super::server::channel;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Create,
    Update,
    Delete,
}

/// One event that a watcher has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub watch_id: i64,
    pub revision: i64,
    pub kind: Kind,
    pub key: Box<str>,
    /// Mod revision of the pair before; 0: there was none.
    pub previous: i64,
}

/// What the writers did: by revision, what, to which key, and the revision before of that key.
#[derive(Default)]
pub struct Log(Mutex<BTreeMap<i64, (Kind, String, i64)>>);

pub type All = BTreeMap<i64, (Kind, String, i64)>;

impl Log {
    pub fn add(&self, revision: i64, kind: Kind, key: &str, before: i64) {
        let known = self.0.lock().unwrap().insert(revision, (kind, key.to_owned(), before));
        assert_eq!(known, None, "two writes at revision {revision}");
    }

    pub fn all(&self) -> All {
        self.0.lock().unwrap().clone()
    }

    /// The last revision of each key.
    pub fn last_of_keys(&self) -> BTreeMap<String, i64> {
        self.0.lock().unwrap().iter().map(|(revision, (_, key, _))| (key.clone(), *revision)).collect()
    }

    /// Whether a list of the pods at `revision` is what they were then. Once all writes are here: they are when they are answered.
    pub fn check_state(&self, revision: i64, found: &BTreeMap<Bytes, i64>) {
        let mut state: BTreeMap<Bytes, i64> = BTreeMap::new();
        for (at, (kind, key, _)) in self.0.lock().unwrap().range(..=revision) {
            if !key.starts_with("/registry/pods/") {
                continue;
            }
            let key = Bytes::copy_from_slice(key.as_bytes());
            match kind {
                Kind::Delete => state.remove(&key),
                _ => state.insert(key, *at),
            };
        }
        let unknown: Vec<_> = found.iter().filter(|(key, at)| state.get(*key) != Some(*at)).collect();
        let missing: Vec<_> = state.iter().filter(|(key, _)| !found.contains_key(*key)).collect();
        assert!(unknown.is_empty() && missing.is_empty(), "at {revision}: {unknown:?}, without {missing:?}");
    }
}

/// One stream of watchers.
pub struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    /// Prefix and start of each watcher, by id.
    watchers: BTreeMap<i64, (String, i64)>,
    pub seen: Vec<Seen>,
    /// Revision up to which everything was told.
    pub reached: i64,
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

impl Stream {
    /// As the API server opens one: it wants a leader.
    pub async fn open(cluster: &TestCluster, member: usize) -> Self {
        let (requests, sent) = mpsc::channel(16);
        let mut client =
            WatchClient::new(channel(cluster, member).await).max_decoding_message_size(usize::MAX);
        let mut request = tonic::Request::new(ReceiverStream::new(sent));
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
        let responses = client.watch(request).await.unwrap().into_inner();
        Self { requests, responses, watchers: BTreeMap::new(), seen: Vec::new(), reached: 0 }
    }

    async fn create(&mut self, prefix: &str, start_revision: i64, progress_notify: bool) {
        let create = pb::WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix.as_bytes()),
            start_revision,
            prev_kv: true,
            progress_notify,
            ..pb::WatchCreateRequest::default()
        };
        self.requests.send(request(RequestUnion::CreateRequest(create))).await.unwrap();
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let response = timeout(PATIENCE, self.responses.message()).await.expect("in time");
        response.unwrap().expect("more")
    }

    /// Adds a watcher from a revision on, with the pairs before and with notices of progress.
    pub async fn watch(&mut self, prefix: &str, start_revision: i64) {
        self.create(prefix, start_revision, true).await;
        self.wait_created(prefix, start_revision).await;
    }

    /// Without notices of progress.
    pub async fn watch_quietly(&mut self, prefix: &str, start_revision: i64) {
        self.create(prefix, start_revision, false).await;
        self.wait_created(prefix, start_revision).await;
    }

    async fn wait_created(&mut self, prefix: &str, start_revision: i64) {
        loop {
            let response = self.next().await;
            if response.created {
                assert!(!response.canceled, "{response:?}");
                self.watchers.insert(response.watch_id, (prefix.to_owned(), start_revision));
                return;
            }
            self.take(response);
        }
    }

    /// A watcher that cannot begin where it wants to: what it is told then.
    pub async fn refused(&mut self, prefix: &str, start_revision: i64) -> pb::WatchResponse {
        self.create(prefix, start_revision, false).await;
        let created = self.next().await;
        assert!(created.created && !created.canceled, "{created:?}");
        self.next().await
    }

    pub async fn request_progress(&mut self) {
        let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        self.requests.send(request(progress)).await.unwrap();
    }

    pub async fn take_one(&mut self) {
        let response = self.next().await;
        self.take(response);
    }

    fn take(&mut self, response: pb::WatchResponse) {
        assert!(!response.canceled, "{response:?}");
        let header = response.header.unwrap().revision;
        if response.events.is_empty() {
            // An answer to all of the stream, or a notice to one watcher.
            if response.watch_id == -1 {
                self.reached = self.reached.max(header);
            }
            return;
        }
        for event in response.events {
            let (kv, previous) = (event.kv.unwrap(), event.prev_kv);
            assert!(kv.mod_revision <= header && kv.mod_revision > self.reached, "told too early");
            let is_delete = event.r#type == i32::from(mvccpb::event::EventType::Delete);
            let kind = match (is_delete, kv.create_revision == kv.mod_revision) {
                (true, _) => Kind::Delete,
                (false, true) => Kind::Create,
                (false, false) => Kind::Update,
            };
            // The API server gives up if an event that is no creation lacks it.
            assert_eq!(previous.is_none(), kind == Kind::Create, "{kv:?}");
            let previous = previous.map_or(0, |previous| {
                assert!(previous.key == kv.key && !previous.value.is_empty());
                previous.mod_revision
            });
            let key = std::str::from_utf8(&kv.key).unwrap().into();
            self.seen.push(Seen {
                watch_id: response.watch_id,
                revision: kv.mod_revision,
                kind,
                key,
                previous,
            });
        }
    }

    /// Reads in a task of its own.
    pub fn run(self) -> Running {
        let (ask, mut asked) = mpsc::channel::<i64>(1);
        let task = tokio::spawn(async move {
            let mut stream = self;
            let mut until = i64::MAX;
            let mut looks = tokio::time::interval(Duration::from_millis(100));
            while stream.reached < until {
                tokio::select! {
                    response = stream.responses.message() => {
                        let response = response.unwrap().expect("more");
                        stream.take(response);
                    }
                    revision = asked.recv() => until = revision.unwrap_or(0),
                    _ = looks.tick(), if until < i64::MAX => stream.request_progress().await,
                }
            }
            stream
        });
        Running { task, ask }
    }
}

/// A stream that is read.
pub struct Running {
    task: JoinHandle<Stream>,
    ask: mpsc::Sender<i64>,
}

impl Running {
    /// The stream once it has been told that it has everything up to `revision`.
    async fn end(self, revision: i64) -> Stream {
        self.ask.send(revision).await.unwrap();
        timeout(PATIENCE, self.task).await.expect("in time").unwrap()
    }

    pub async fn all_until(self, revision: i64) -> Vec<Seen> {
        self.end(revision).await.seen
    }

    /// Waits until it has everything up to `revision`, and compares what each watcher saw with what happened.
    pub async fn finish(self, revision: i64, log: &All) {
        let stream = self.end(revision).await;
        let mut by_watcher: BTreeMap<i64, Vec<&Seen>> = BTreeMap::new();
        for seen in &stream.seen {
            by_watcher.entry(seen.watch_id).or_default().push(seen);
        }
        let mut by_prefix: BTreeMap<&str, Vec<(i64, Kind, &str, i64)>> = BTreeMap::new();
        for (watch_id, (prefix, start)) in &stream.watchers {
            let expected = by_prefix.entry(prefix).or_insert_with(|| {
                let in_prefix = log.range(start..).filter(|(_, (_, key, _))| key.starts_with(prefix));
                in_prefix.map(|(revision, (kind, key, before))| (*revision, *kind, &**key, *before)).collect()
            });
            let seen: Vec<(i64, Kind, &str, i64)> = by_watcher
                .get(watch_id)
                .into_iter()
                .flatten()
                .map(|seen| (seen.revision, seen.kind, &*seen.key, seen.previous))
                .collect();
            assert!(expected.len() >= 100, "{prefix} has {} events", expected.len());
            assert_eq!(seen.len(), expected.len(), "watcher {watch_id} of {prefix}");
            assert_eq!(seen, *expected, "watcher {watch_id} of {prefix}");
        }
    }
}
