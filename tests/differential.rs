//! The same random programs of calls against a real etcd and against a node of ours: every answer, every stream of watchers and the
//! state at the end are compared.
//!
//! `ETCD_BIN` names the directory that holds etcd 3.7.3; without it nothing is compared, and that is said. `DIFFERENTIAL_SEEDS`
//! (`0..4`) and `DIFFERENTIAL_CALLS` make more of it. A seed makes the same program again.
//!
//! * `differential/etcd.rs`: the process
//! * `differential/program.rs`: what is called
//! * `differential/auth.rs`: programs about users, roles and tokens
//! * `differential/side.rs`: one of the two, and what it answers
//! * `differential/watching.rs`: one stream of watchers
//! * `differential/json.rs`: the gateways, and JSON that nobody would send
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::disallowed_methods)]

#[path = "differential/auth.rs"]
mod auth;
#[path = "differential/etcd.rs"]
mod etcd;
#[path = "differential/json.rs"]
mod json;
#[path = "hostile/messages.rs"]
mod messages;
#[path = "differential/program.rs"]
mod program;
#[path = "differential/side.rs"]
mod side;
#[path = "differential/watching.rs"]
mod watching;
#[path = "golden/web.rs"]
mod web;

use std::collections::VecDeque;
use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use setstone::proto::etcdserverpb as pb;
use setstone::{Config, Node};
use tokio::time::Instant;

use self::program::{Program, Step, World};
use self::side::{Answer, Side};

/// What is known to differ, and why. Programs do not ask for it, or the comparison leaves it out.
const KNOWN: [(&str, &str); 15] = [
    ("texts about what is no JSON, or no message", "they are a parser's; status and code are compared"),
    (
        "an integer as text, with something behind it that no number goes on with, such as \"5{\"",
        "protojson reads the number and ignores the rest; we refuse it",
    ),
    ("ids of cluster and members, and terms", "each server has its own"),
    ("ids of leases that the server draws", "they are drawn; such a lease is revoked at once"),
    ("the order of a lease's keys and of the list of leases", "etcd takes it from a map"),
    ("how much time a lease has left, by two seconds", "the servers are asked one after the other"),
    (
        "how events are put into responses, beyond that those of a revision stay together",
        "it depends on the time",
    ),
    (
        "a compare whose result or target is none of the enum's values",
        "etcd 3.7.3 takes it as one that holds, or executes it as another; we refuse it (api::texts::INVALID_COMPARE)",
    ),
    (
        "progress on a stream one of whose watchers was ended by a compaction",
        "etcd counts it as one that lags until the stream ends, and is silent; we are not. Such a stream is opened anew",
    ),
    (
        "a put with ignore_value or ignore_lease of a key that the same transaction has deleted",
        "etcd 3.7.3 panics when it applies it, on every member; it gets by the check if the range ends with \\0. We put",
    ),
    (
        "the order of pairs that a sort takes for equal, if more than twelve are sorted",
        "etcd sorts by an unstable algorithm that is stable up to there; ours keeps the order of the keys",
    ),
    (
        "the alarms, asked for by a user who is not root",
        "etcd tells and sets them for everybody; with us they are root's (api::permission)",
    ),
    (
        "a password for a user who has none",
        "etcd tells whoever asks that there is such a user; we say what we say of a wrong password",
    ),
    (
        "users with an empty password",
        "etcd keeps no hash of it, so that nobody can authenticate as one of them; with us the empty password is one",
    ),
    (
        "header.revision of responses to watchers",
        "etcd fills it when it sends, so it depends on the time; that no event is newer than it is asserted",
    ),
];

/// Steps between two looks at what the watchers got.
const LOOK_EVERY: usize = 40;
/// Steps that are shown of a program that failed.
const SHOWN: usize = 8;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("DIFFERENTIAL_SEEDS") else { return 0..2 };
    let (from, to) = text.split_once("..").expect("DIFFERENTIAL_SEEDS is a range such as 0..4");
    from.parse().unwrap()..to.parse().unwrap()
}

fn calls() -> usize {
    std::env::var("DIFFERENTIAL_CALLS").map_or(2_000, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_programs_are_answered_as_etcd_does() {
    let Some(directory) = etcd_directory() else { return };
    for (what, why) in KNOWN {
        println!("not compared: {what} ({why})");
    }
    for seed in seeds() {
        let begin = Instant::now();
        let etcd = etcd::Etcd::start(&directory).await;
        let node = Node::start(Config::in_memory("differential")).await.unwrap();
        node.ready(Instant::now() + Duration::from_secs(20)).await.unwrap();
        let ours = Side::connect("setstone", node.addresses().client).await;
        let theirs = Side::connect("etcd", etcd.address).await;
        let mut both = Both { theirs, ours, world: World::default(), last: VecDeque::new(), seed };
        both.run(calls()).await;
        println!("seed {seed}: {} calls in {:?}", calls(), begin.elapsed());
        drop(both);
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles_are_answered_as_etcd_does() {
    let Some(directory) = etcd_directory() else { return };
    for seed in seeds() {
        // Passwords are hashed often, and this is not about how well.
        let etcd = etcd::Etcd::start_with(&directory, &["--bcrypt-cost", "4"]).await;
        let mut config = Config::in_memory("differential");
        config.auth.bcrypt_cost = 4;
        let node = Node::start(config).await.unwrap();
        node.ready(Instant::now() + Duration::from_secs(20)).await.unwrap();
        let ours = Side::connect("setstone", node.addresses().client).await;
        let theirs = Side::connect("etcd", etcd.address).await;
        auth::Users::new(theirs, ours, seed).run(calls()).await;
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_json_is_taken_as_etcd_takes_it() {
    let Some(directory) = etcd_directory() else { return };
    for seed in seeds() {
        let etcd = etcd::Etcd::start(&directory).await;
        let node = Node::start(Config::in_memory("differential")).await.unwrap();
        node.ready(Instant::now() + Duration::from_secs(20)).await.unwrap();
        json::compare(seed, calls(), etcd.address, node.addresses().client).await;
        node.shutdown().await;
    }
}

/// Where etcd is; says so if it is nowhere.
fn etcd_directory() -> Option<PathBuf> {
    let directory = std::env::var_os("ETCD_BIN").filter(|text| !text.is_empty());
    if directory.is_none() {
        // Not by a macro, whose output is kept from whoever runs the tests.
        let text =
            "\n*** NOTHING WAS COMPARED WITH ETCD: ETCD_BIN does not name a directory that holds it ***\n\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    directory.map(PathBuf::from)
}

/// Two servers that are told the same.
struct Both {
    theirs: Side,
    ours: Side,
    world: World,
    last: VecDeque<String>,
    seed: u64,
}

impl Both {
    async fn run(&mut self, calls: usize) {
        let mut program = Program::new(self.seed);
        for stream in 0..program::STREAMS {
            self.open(stream).await;
        }
        for number in 0..calls {
            let step = program.next(&self.world);
            self.last.push_back(format!("{number}: {step:?}").chars().take(2_000).collect());
            if self.last.len() > SHOWN {
                self.last.pop_front();
            }
            self.step(step).await;
            if number % LOOK_EVERY == 0 {
                self.look_at_all().await;
            }
        }
        self.look_at_all().await;
        self.compare_states().await;
        self.expire().await;
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Call(call) => {
                // What a watcher gets of what is compacted depends on how far it is: all are up to date before.
                if matches!(call, program::Call::Compact(_)) {
                    self.look_at_all().await;
                }
                let (theirs, ours) = (self.theirs.call(&call).await, self.ours.call(&call).await);
                self.compare(&theirs, &ours);
                self.world.learn(&call, &theirs);
            }
            Step::Watch { stream, create } => {
                self.theirs.stream(stream).create(create.clone()).await;
                self.ours.stream(stream).create(create.clone()).await;
                self.world.watched(stream, &create);
                if self.world.is_compacted(create.start_revision) {
                    self.wait_for_the_end(stream).await;
                    self.open(stream).await;
                } else {
                    self.look_at(stream).await;
                }
            }
            Step::Cancel { stream, watch_id } => {
                self.look_at(stream).await;
                self.theirs.stream(stream).cancel(watch_id).await;
                self.ours.stream(stream).cancel(watch_id).await;
                self.look_at(stream).await;
            }
            Step::Reopen { stream } => {
                self.look_at(stream).await;
                self.open(stream).await;
            }
        }
    }

    async fn open(&mut self, stream: usize) {
        self.theirs.open(stream);
        self.ours.open(stream);
        self.world.opened(stream);
        // A stream without watchers never tells how far it is.
        let create = pb::WatchCreateRequest {
            key: program::SENTINEL.into(),
            watch_id: program::SENTINEL_ID,
            ..Default::default()
        };
        self.theirs.stream(stream).create(create.clone()).await;
        self.ours.stream(stream).create(create).await;
        self.look_at(stream).await;
    }

    fn compare(&self, theirs: &Answer, ours: &Answer) {
        if !theirs.is_like(ours) {
            self.fail(&format!("etcd:     {}\nsetstone: {}", shown(theirs), shown(ours)));
        }
    }

    fn fail(&self, what: &str) -> ! {
        let steps = self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        panic!("seed {}: they differ\n{what}\nafter\n{steps}", self.seed);
    }

    async fn look_at_all(&mut self) {
        for stream in 0..program::STREAMS {
            self.look_at(stream).await;
        }
    }

    /// Waits until both streams have delivered everything, and compares what they have delivered.
    async fn look_at(&mut self, stream: usize) {
        // As long as a watcher waits for a revision to come, no progress is told.
        while self.world.revision < self.world.awaited(stream) {
            let call = program::sentinel();
            let (theirs, ours) = (self.theirs.call(&call).await, self.ours.call(&call).await);
            self.compare(&theirs, &ours);
            self.world.learn(&call, &theirs);
        }
        let revision = self.world.revision;
        for side in [&self.theirs, &self.ours] {
            if let Err(what) = side.stream(stream).catch_up(revision).await {
                let what = format!("{}, stream {stream}, at revision {revision}: {what}", side.name);
                self.fail(&what);
            }
        }
        // What is no event may come after the progress.
        self.wait_until_same(stream).await;
    }

    /// Waits until a watcher has been told of its end, by both.
    async fn wait_for_the_end(&mut self, stream: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        for side in [&self.theirs, &self.ours] {
            while !side.stream(stream).has_an_end() {
                if Instant::now() > deadline {
                    self.fail(&format!("{}, stream {stream}: no watcher was ended", side.name));
                }
                looks.tick().await;
            }
        }
        self.wait_until_same(stream).await;
    }

    async fn wait_until_same(&mut self, stream: usize) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        loop {
            let difference = self.theirs.stream(stream).difference(self.ours.stream(stream));
            match difference {
                None => break,
                Some(what) if Instant::now() > deadline => self.fail(&format!("stream {stream}: {what}")),
                Some(_) => looks.tick().await,
            };
        }
    }

    /// Lets a lease expire: its keys go at one revision, in order, and that is all that happens.
    async fn expire(&mut self) {
        let id = 31_337;
        let mut calls = vec![program::Call::Grant(pb::LeaseGrantRequest { id, ttl: 2 })];
        calls.extend(["d/4", "a", "d/1", "\u{7f}"].map(|key| {
            program::Call::Put(pb::PutRequest { key: key.into(), lease: id, ..Default::default() })
        }));
        for call in calls {
            let (theirs, ours) = (self.theirs.call(&call).await, self.ours.call(&call).await);
            self.compare(&theirs, &ours);
            self.world.learn(&call, &theirs);
        }
        let question = program::Call::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true });
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        for side in [&mut self.theirs, &mut self.ours] {
            while !matches!(side.call(&question).await, Answer::TimeToLive(answer) if answer.ttl == -1) {
                assert!(Instant::now() < deadline, "{}: the lease does not expire", side.name);
                looks.tick().await;
            }
        }
        self.world.leases.remove(&id);
        let call = program::everything_at(0);
        let (theirs, ours) = (self.theirs.call(&call).await, self.ours.call(&call).await);
        self.compare(&theirs, &ours);
        self.world.learn(&call, &theirs);
        self.look_at_all().await;
    }

    async fn compare_states(&mut self) {
        let (from, to) = (self.world.compacted.max(1), self.world.revision);
        let step = ((to - from) / 20).max(1) as usize;
        let mut calls = vec![program::Call::Leases];
        calls.extend((from..=to).step_by(step).chain([to]).map(program::everything_at));
        calls.extend(
            self.world
                .leases
                .iter()
                .map(|id| program::Call::TimeToLive(pb::LeaseTimeToLiveRequest { id: *id, keys: true })),
        );
        for call in calls {
            let (theirs, ours) = (self.theirs.call(&call).await, self.ours.call(&call).await);
            assert!(!matches!(theirs, Answer::Failed { .. }), "{call:?}: {theirs:?}");
            self.compare(&theirs, &ours);
        }
    }
}

fn shown(answer: &Answer) -> String {
    format!("{answer:?}").chars().take(4_000).collect()
}
