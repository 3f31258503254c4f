//! Transcripts: text files in `tests/transcripts` that set values line by line, each `=>` line being what a pure function says then.
//! `---` begins anew, `#` is a comment. `SETSTONE_TRANSCRIPTS=write cargo test` writes the `=>` lines anew; the diff is for review.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::PathBuf;

use super::plan::{Change, Leading, plan};
use super::start::Desired;
use super::stop::verdict;
use super::wait::list;
use crate::env::owner::Seen;
use crate::identity::{NodeId, Ordinal, OrdinalRange};
use crate::mvcc::cluster::{Admission, Standing};

/// What a transcript is about.
pub(super) trait Scene: Default {
    /// Takes one line.
    fn line(&mut self, word: &str, rest: &str);
    /// What the function says now, one or more lines that begin with `=>`.
    fn outcome(&self) -> String;
}

/// Replays every file in `tests/transcripts/{directory}`; how many decisions there were.
pub(super) fn replay_all<S: Scene>(directory: &str) -> usize {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(directory);
    let mut files: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut decisions = 0;
    for path in files {
        let expected = std::fs::read_to_string(&path).unwrap();
        let actual = replay::<S>(&expected);
        decisions +=
            actual.lines().filter(|line| line.starts_with("=> ") && !line.starts_with("=>  ")).count();
        if std::env::var("SETSTONE_TRANSCRIPTS").as_deref() == Ok("write") {
            std::fs::write(&path, &actual).unwrap();
        } else {
            assert_eq!(actual, expected, "{}", path.display());
        }
    }
    decisions
}

fn replay<S: Scene>(text: &str) -> String {
    let mut scene = S::default();
    let mut out = String::new();
    let mut decided = false;
    for line in text.lines() {
        if line.starts_with("=>") {
            if !decided {
                out += &scene.outcome();
            }
            decided = true;
            continue;
        }
        decided = false;
        if line == "---" {
            scene = S::default();
        } else if !line.is_empty() && !line.starts_with('#') {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            scene.line(word, rest);
        }
        out += line;
        out.push('\n');
    }
    out
}

/// `0#1`.
pub(super) fn id(text: &str) -> NodeId {
    let (ordinal, incarnation) = text.split_once('#').unwrap();
    NodeId::new(ordinal.parse().unwrap(), incarnation.parse().unwrap())
}

/// `0#1,1#1`.
pub(super) fn ids<C: FromIterator<NodeId>>(text: &str) -> C {
    text.split(',').filter(|word| !word.is_empty()).map(id).collect()
}

/// `0..3`.
fn range(text: &str) -> Option<OrdinalRange> {
    let (start, end) = text.split_once("..")?;
    let (start, end): (u16, u16) = (start.parse().unwrap(), end.parse().unwrap());
    Some(OrdinalRange { start, size: end - start })
}

/// What a leader sees. All members answer and have caught up unless a line says otherwise.
struct Seeing {
    view: Leading,
    silent: Vec<NodeId>,
    lags: Vec<NodeId>,
    newer: Vec<NodeId>,
}

impl Default for Seeing {
    fn default() -> Self {
        let view = Leading { committed: true, max_voters: 5, ..Leading::default() };
        Self { view, silent: Vec::new(), lags: Vec::new(), newer: Vec::new() }
    }
}

impl Scene for Seeing {
    fn line(&mut self, word: &str, rest: &str) {
        match word {
            "leader" => self.view.id = id(rest),
            // `0#1,1#1`, or the two sets of a joint change: `0#1;0#1,1#1`.
            "voters" => self.view.configs = rest.split(';').map(ids).collect(),
            "members" => self.view.members = ids(rest),
            "committed" => self.view.committed = rest == "yes",
            "silent" => self.silent = ids(rest),
            "lags" => self.lags = ids(rest),
            "newest" => self.newer = ids(rest),
            "leaving" => self.view.leaving = ids(rest),
            "max" => self.view.max_voters = rest.parse().unwrap(),
            "desired" => {
                self.view.desired = match (range(rest), rest) {
                    (Some(range), _) => Desired::Known(range),
                    (None, "none") => Desired::NotUsed,
                    (None, reason) => Desired::Unknown(reason.strip_prefix("unknown ").unwrap().into()),
                };
            }
            _ => panic!("what is {word:?}?"),
        }
    }

    fn outcome(&self) -> String {
        let mut view = self.view.clone();
        let voters = view.configs.iter().flatten().copied().collect::<Vec<_>>();
        view.members.extend(voters);
        let heard = |away: &[NodeId]| view.members.iter().filter(|id| !away.contains(id)).copied().collect();
        (view.answering, view.caught_up) = (heard(&self.silent), heard(&self.lags));
        for newest in view.members.iter().chain(&self.newer) {
            let admission = Admission { id: *newest, nonce: 1, standing: Standing::Voter };
            let known = view.admissions.entry(newest.ordinal()).or_insert(admission);
            known.id = known.id.max(*newest);
        }
        match plan(&view) {
            Some(Change::Voters(ids)) => format!("=> these vote, and nobody else stays: {}\n", list(&ids)),
            Some(Change::Demote(ids)) => format!("=> these vote, and all stay: {}\n", list(&ids)),
            Some(Change::Remove(ids)) => format!("=> these leave: {}\n", list(&ids)),
            Some(Change::HandOver(ids)) => format!("=> one of these leads: {}\n", list(&ids)),
            Some(other) => format!("=> {other:?}\n"),
            None => "=> nothing\n".into(),
        }
    }
}

#[test]
fn plan_transcripts() {
    let decisions = replay_all::<Seeing>("plan");
    assert!(decisions >= 30, "only {decisions} decisions were looked at");
}

/// A pod that stops.
struct Stopping {
    ordinal: Ordinal,
    seen: Seen,
}

impl Default for Stopping {
    fn default() -> Self {
        Self { ordinal: 0, seen: Seen::Unknown("not asked".into()) }
    }
}

impl Scene for Stopping {
    fn line(&mut self, word: &str, rest: &str) {
        match word {
            "me" => self.ordinal = rest.parse().unwrap(),
            "seen" => {
                self.seen = match (range(rest), rest) {
                    (Some(OrdinalRange { start, size }), _) => Seen::Wants { start, size, generation: 4 },
                    (None, "404") => Seen::Gone,
                    (None, "being deleted") => Seen::BeingDeleted,
                    (None, reason) => Seen::Unknown(reason.into()),
                };
            }
            _ => panic!("what is {word:?}?"),
        }
    }

    fn outcome(&self) -> String {
        format!("=> {}\n", verdict(&self.seen, self.ordinal))
    }
}

#[test]
fn stop_transcripts() {
    let decisions = replay_all::<Stopping>("stop");
    assert!(decisions >= 10, "only {decisions} decisions were looked at");
}
