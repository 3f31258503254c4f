//! The start table. Transcripts in `tests/transcripts/start` for every row and interleaving, and properties that hold for all disks
//! and answers.
//!
//! A transcript sets the disk, the facts and the answers line by line, as they would change in one process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::disk::{Answer, Asked, ConsensusView, Held, LogId, Vote};
use super::super::recovery::advice;
use super::super::transcripts::{self, id, ids, replay_all};
use super::super::wait::needed;
use super::*;
use crate::identity::{Boot, Member, Membership};
use crate::mvcc::cluster::Mark;

struct Scene {
    disk: Disk,
    answers: Answers,
    facts: Facts,
}

fn name(ordinal: Ordinal) -> String {
    format!("s-{ordinal}")
}

impl Default for Scene {
    fn default() -> Self {
        let facts = Facts { name: name(0), expected: 3, may_found_alone: true, ..Facts::default() };
        Self { disk: Disk::blank(1), answers: Answers::default(), facts }
    }
}

impl transcripts::Scene for Scene {
    fn line(&mut self, word: &str, rest: &str) {
        match word {
            "me" => {
                self.facts.ordinal = rest.parse().unwrap();
                self.facts.name = name(self.facts.ordinal);
            }
            "expected" => self.facts.expected = rest.parse().unwrap(),
            "alone" => self.facts.may_found_alone = yes(rest),
            // `recover a1 0#1 s-2`: cluster, disk, pods that are said to be gone.
            "recover" => {
                let mut words = rest.split(' ');
                let cluster = cluster(words.next().unwrap());
                let node = id(words.next().unwrap());
                let gone = words.map(str::to_owned).collect();
                self.facts.recovery = Some(Recovery { cluster, node, gone, everyone: false });
            }
            "takes-part" => self.facts.takes_part = yes(rest),
            "ready-for" => self.facts.ready_for = Some(seconds(rest)),
            "desired" => {
                self.facts.desired = match rest.split_once("..") {
                    Some((start, end)) => {
                        let (start, end): (u16, u16) = (start.parse().unwrap(), end.parse().unwrap());
                        Desired::Known(OrdinalRange { start, size: end - start })
                    }
                    None => Desired::Unknown(rest.strip_prefix("unknown ").unwrap().into()),
                }
            }
            "service" => {
                self.answers.service = match rest {
                    "listed" => Service::Listed,
                    "unasked" => Service::NotAsked,
                    _ => Service::Unknown(rest.strip_prefix("unknown ").unwrap().into()),
                }
            }
            "disk" => self.disk = disk(self.facts.ordinal, rest).disk,
            "pod" => {
                let (ordinal, rest) = rest.split_once(' ').unwrap();
                let (ordinal, asked) = pod(ordinal.parse().unwrap(), rest);
                self.answers.pods.insert(name(ordinal), asked);
            }
            "gone" => {
                self.answers.pods.remove(&name(rest.parse().unwrap()));
            }
            _ => panic!("what is {word:?}?"),
        }
    }

    fn outcome(&self) -> String {
        let action = decide(&self.disk, &self.answers, &self.facts);
        let mut text = format!("=> {}\n", words(&action));
        if let Some(advice) = advice(&self.disk, &self.answers, &self.facts) {
            writeln!(text, "=>   advice: {advice}").unwrap();
        }
        let needed = needed(&self.disk, &self.answers, &self.facts);
        if !needed.absent.is_empty() && action != Action::Release {
            let doing = if needed.cannot_do_without { "cannot do without" } else { "can do without" };
            writeln!(text, "=>   {doing} {}", needed.absent.join(", ")).unwrap();
        }
        text
    }
}

fn yes(word: &str) -> bool {
    match word {
        "yes" => true,
        "no" => false,
        _ => panic!("{word:?} is neither yes nor no"),
    }
}

fn seconds(word: &str) -> Duration {
    Duration::from_secs_f64(word.strip_suffix('s').unwrap().parse().unwrap())
}

/// `silent 2s`, `absent 1s`, `unknown 0s why`, `unasked`, or a disk.
fn pod(ordinal: Ordinal, text: &str) -> (Ordinal, Asked) {
    let mut words = text.splitn(3, ' ');
    let kind = words.next().unwrap();
    let asked_for = || seconds(text.split(' ').nth(1).unwrap());
    let (answer, asked_for) = match kind {
        "unasked" => (Answer::NotAsked, Duration::ZERO),
        "silent" => (Answer::Silent, asked_for()),
        "absent" => (Answer::Absent, asked_for()),
        "unknown" => (Answer::Unknown(text.splitn(3, ' ').nth(2).unwrap().into()), asked_for()),
        _ => (Answer::Described(Box::new(disk(ordinal, text))), Duration::ZERO),
    };
    (ordinal, Asked { ordinal, answer, asked_for })
}

fn pair(text: &str) -> (u64, u64) {
    let (one, two) = text.split_once('/').unwrap();
    (one.parse().unwrap(), two.parse().unwrap())
}

fn cluster(text: &str) -> ClusterId {
    ClusterId(u64::from_str_radix(text, 16).unwrap())
}

/// `member c=a1 id=0#1 boot=3/77 vote=5/1 last=5/100 voters=0#1,1#1;2#1 learners=… leader=1#1 term=5 removed=… seen=0#1@4/9
/// mark=0#1@4:5/1:5/90 supersedes=b2 ordinal=0`. The voters are the disk's own if there is nothing else.
fn disk(ordinal: Ordinal, text: &str) -> Described {
    let mut words = text.split(' ');
    let what = match words.next().unwrap() {
        "blank" => What::Blank,
        "prepared" => What::Prepared,
        "joining" => What::Joining,
        "member" => What::Member,
        "lost" => What::Lost { reason: "damaged".into() },
        other => panic!("no disk is {other}"),
    };
    let mut disk = Disk { what, ordinal, boot: Boot { number: 1, random: 100 }, ..Disk::default() };
    if disk.has_identity() {
        disk.node_id = NodeId::new(ordinal, 1);
    }
    let mut consensus: Option<ConsensusView> = None;
    let mut learners = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "c" => disk.cluster = cluster(value),
            "id" => disk.node_id = id(value),
            "ordinal" => disk.ordinal = value.parse().unwrap(),
            "boot" => {
                let (number, random) = pair(value);
                disk.boot = Boot { number, random };
            }
            "vote" => {
                let (term, node) = pair(value);
                disk.held.vote = Vote { term, node };
            }
            "last" => {
                let (term, index) = pair(value);
                disk.held.last = LogId { term, index };
            }
            "voters" => disk.membership.configs = value.split(';').map(ids).collect(),
            "learners" => learners = ids(value),
            "supersedes" => disk.supersedes = value.split(',').map(cluster).collect(),
            "leader" => consensus.get_or_insert_default().leader = Some(id(value)),
            "term" => consensus.get_or_insert_default().term = value.parse().unwrap(),
            "removed" => consensus.get_or_insert_default().removed = ids(value),
            "seen" => {
                let (of, boot) = value.split_once('@').unwrap();
                let (number, random) = pair(boot);
                disk.seen.insert(id(of), Boot { number, random });
            }
            "mark" => {
                let (of, mark) = value.split_once('@').unwrap();
                let mut parts = mark.split(':');
                let boot = parts.next().unwrap().parse().unwrap();
                let (vote_term, vote_node) = pair(parts.next().unwrap());
                let (log_term, log_index) = pair(parts.next().unwrap());
                let mark = Mark { boot, vote_term, vote_node, log_term, log_index };
                disk.marks.insert(id(of), mark);
            }
            _ => panic!("no disk has {key}"),
        }
    }
    disk.at_boot = disk.held;
    let voters: Vec<_> = disk.membership.voters().collect();
    disk.membership.members =
        voters.into_iter().chain(learners).map(|node_id| Member { node_id, ..Member::default() }).collect();
    Described { disk, consensus, ..Described::default() }
}

fn words(action: &Action) -> String {
    match action {
        Action::Refuse { reason } => format!("refuse: {reason}"),
        Action::BecomeLost { reason } => format!("become lost: {reason}"),
        Action::Stop { reason } => format!("stop: {reason}"),
        Action::HoldResume { waiting_for } => format!("hold, waiting for {waiting_for}"),
        Action::Release => "release".into(),
        Action::Recover { cluster } => format!("recover, in place of {cluster}"),
        Action::Rejoin { cluster, leader } => format!("rejoin {cluster} through {leader}"),
        Action::Join { cluster, leader } => format!("join {cluster} through {leader}"),
        Action::Bootstrap { coordinator, founders } => {
            let names: Vec<_> = founders.iter().map(|founder| founder.name.as_str()).collect();
            format!("bootstrap of {} by ordinal {coordinator}", names.join(", "))
        }
        Action::Wait { waiting_for, hint, ask_service } => {
            let hint = hint.as_ref().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
            let service = if *ask_service { "; asks the service" } else { "" };
            format!("wait for {waiting_for}{hint}{service}")
        }
    }
}

#[test]
fn transcripts() {
    let decisions = replay_all::<Scene>("start");
    assert!(decisions >= 60, "only {decisions} decisions were looked at");
}

// ---- properties

fn any_what() -> impl Strategy<Value = What> {
    prop_oneof![
        Just(What::Blank),
        Just(What::Prepared),
        Just(What::Joining),
        Just(What::Member),
        Just(What::Lost { reason: "damaged".into() }),
    ]
}

fn any_id() -> impl Strategy<Value = NodeId> {
    (0..4_u16, 1..3_u64).prop_map(|(ordinal, incarnation)| NodeId::new(ordinal, incarnation))
}

fn any_membership() -> impl Strategy<Value = Membership> {
    (
        prop::collection::vec(prop::collection::vec(any_id(), 0..4), 0..3),
        prop::collection::vec(any_id(), 0..2),
    )
        .prop_map(|(configs, learners)| Membership {
            configs,
            members: learners.into_iter().map(|node_id| Member { node_id, ..Member::default() }).collect(),
        })
}

fn any_held() -> impl Strategy<Value = Held> {
    (0..3_u64, 0..2_u64, 0..3_u64, 0..3_u64).prop_map(|(vote, node, term, index)| Held {
        vote: Vote { term: vote, node },
        last: LogId { term, index },
    })
}

prop_compose! {
    fn any_disk()(
        what in any_what(), ordinal in 0..4_u16, cluster in 1..4_u64, supersedes in prop::collection::vec(1..4_u64, 0..2),
        node_id in any_id(), boot in (1..4_u64, 0..2_u64), held in any_held(), at_boot in any_held(),
        membership in any_membership(),
        marks in prop::collection::btree_map(any_id(), (0..4_u64, any_held()), 0..2),
        seen in prop::collection::btree_map(any_id(), (1..4_u64, 0..2_u64), 0..2),
    ) -> Disk {
        let mark = |(boot, held): (u64, Held)| Mark {
            boot, vote_term: held.vote.term, vote_node: held.vote.node, log_term: held.last.term, log_index: held.last.index,
        };
        Disk {
            what, ordinal, cluster: ClusterId(cluster), supersedes: supersedes.into_iter().map(ClusterId).collect(), node_id,
            boot: Boot { number: boot.0, random: boot.1 }, held, at_boot, membership,
            marks: marks.into_iter().map(|(id, of)| (id, mark(of))).collect(),
            seen: seen.into_iter().map(|(id, (number, random))| (id, Boot { number, random })).collect(),
        }
    }
}

fn any_silence() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::NotAsked),
        Just(Answer::Silent),
        Just(Answer::Absent),
        Just(Answer::Unknown("refused".into())),
    ]
}

prop_compose! {
    fn any_description()(
        disk in any_disk(), leader in prop::option::of(any_id()), runs in any::<bool>(),
        removed in prop::collection::btree_set(any_id(), 0..2), term in 0..3_u64,
    ) -> Answer {
        let consensus = runs.then_some(ConsensusView { leader, term, applied_index: 1, removed, desired: None });
        Answer::Described(Box::new(Described { disk, consensus, ..Described::default() }))
    }
}

fn any_answers(answer: impl Strategy<Value = Answer>) -> impl Strategy<Value = Answers> {
    let pod = (0..5_u16, answer, 0..4_u64);
    let service = prop_oneof![
        Just(Service::NotUsed),
        Just(Service::NotAsked),
        Just(Service::Listed),
        Just(Service::Unknown("refused".into())),
    ];
    (prop::collection::vec(pod, 0..5), service).prop_map(|(pods, service)| Answers {
        pods: pods
            .into_iter()
            .map(|(ordinal, answer, secs)| {
                (name(ordinal), Asked { ordinal, answer, asked_for: Duration::from_secs(secs) })
            })
            .collect(),
        service,
    })
}

prop_compose! {
    fn any_facts()(
        ordinal in 0..4_u16, expected in 0..5_u16, range in prop::option::of((0..3_u16, 0..4_u16)), alone in any::<bool>(),
        takes_part in any::<bool>(), ready in prop::option::of(0..100_u64),
    ) -> Facts {
        Facts {
            ordinal, name: name(ordinal), expected,
            desired: range.map_or(Desired::NotUsed, |(start, size)| Desired::Known(OrdinalRange { start, size })),
            may_found_alone: alone, recovery: None, takes_part, ready_for: ready.map(Duration::from_secs),
            ..Facts::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The function is total, says why, and does the same for the same.
    #[test]
    fn the_table_is_total(disk in any_disk(), facts in any_facts(),
        answers in any_answers(prop_oneof![any_silence(), any_description()]))
    {
        let action = decide(&disk, &answers, &facts);
        prop_assert_eq!(&action, &decide(&disk, &answers, &facts));
        if let Action::Wait { waiting_for: text, .. } | Action::HoldResume { waiting_for: text }
            | Action::Refuse { reason: text } | Action::BecomeLost { reason: text } | Action::Stop { reason: text } = &action {
            prop_assert!(!text.is_empty());
        }
        let needed = needed(&disk, &answers, &facts);
        prop_assert!(!needed.cannot_do_without || !needed.absent.is_empty());
    }

    /// Rule 2: silence, of whatever kind, never founds, loses, refuses, joins, stops; and releases only a disk that is a quorum by
    /// itself.
    #[test]
    fn silence_leads_to_nothing(disk in any_disk(), facts in any_facts(), answers in any_answers(any_silence())) {
        let expected = facts.expected.max(facts.ordinal + 1).max(2);
        let facts = Facts { takes_part: false, expected, ..facts };
        let own_ordinal = disk.ordinal == facts.ordinal;
        match decide(&disk, &answers, &facts) {
            Action::Release => {
                prop_assert_eq!(&disk.what, &What::Member);
                prop_assert!(disk.membership.has_quorum(|id| id == disk.node_id));
                prop_assert!(facts.ready_for.is_some_and(|ready| ready >= limits::LONE_VOTER_PATIENCE)
                    || facts.others().is_empty());
            }
            Action::HoldResume { .. } => prop_assert_eq!(&disk.what, &What::Member),
            Action::Wait { .. } => {}
            Action::Refuse { .. } => prop_assert!(disk.has_identity() && !own_ordinal),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// A first bootstrap takes everyone's positive answer, and all of them must be new.
    #[test]
    fn a_bootstrap_takes_everyone(disk in any_disk(), facts in any_facts(),
        answers in any_answers(prop_oneof![any_silence(), any_description()]))
    {
        if let Action::Bootstrap { coordinator, founders } = decide(&disk, &answers, &facts) {
            prop_assert!(disk.is_fresh());
            prop_assert!(answers.pods.values().all(|asked| asked.described().is_some_and(|of| of.disk.is_fresh())));
            for ordinal in (0..facts.expected).filter(|_| facts.desired == Desired::NotUsed) {
                prop_assert!(founders.iter().any(|founder| founder.ordinal == ordinal));
            }
            prop_assert!(founders.iter().any(|founder| founder.ordinal == facts.ordinal));
            prop_assert_eq!(founders.iter().map(|founder| founder.ordinal).min(), Some(coordinator));
            prop_assert!(founders.len() > 1 || facts.may_found_alone);
        }
    }

    /// A disk is lost only by the word of a pod of its own cluster, or of one that replaced it; and never if it is new.
    #[test]
    fn a_disk_is_lost_only_by_evidence(disk in any_disk(), facts in any_facts(),
        answers in any_answers(prop_oneof![any_silence(), any_description()]))
    {
        if let Action::BecomeLost { .. } = decide(&disk, &answers, &facts) {
            let admitted = disk.what == What::Joining && facts.takes_part;
            prop_assert!(admitted || matches!(disk.what, What::Member | What::Prepared));
            let evidence = answers.described().any(|(_, _, of)| of.disk.has_identity()
                && (of.disk.cluster == disk.cluster || of.disk.supersedes.contains(&disk.cluster)));
            prop_assert!(evidence);
        }
    }

    /// A disk goes on alone only when it was asked to, while nobody of its cluster leads, and never beside a majority.
    #[test]
    fn a_recovery_takes_a_human(disk in any_disk(), facts in any_facts(),
        answers in any_answers(prop_oneof![any_silence(), any_description()]), other in any::<bool>())
    {
        let asked = Recovery { cluster: disk.cluster, node: disk.node_id, gone: (0..5).map(name).collect(), everyone: false };
        let recovery = if other { Recovery { cluster: ClusterId(9), ..asked } } else { asked };
        let facts = Facts { recovery: Some(recovery), ..facts };
        if let Action::Recover { cluster } = decide(&disk, &answers, &facts) {
            prop_assert!(!other && !facts.takes_part && cluster == disk.cluster && disk.ordinal == facts.ordinal);
            let was_member = matches!(disk.what, What::Member | What::Lost { .. });
            prop_assert!(was_member);
            for (_, _, of) in answers.described().filter(|(_, _, of)| of.disk.cluster == disk.cluster) {
                prop_assert_eq!(of.leader(), None);
                prop_assert!(!disk.membership.voters().any(|id| id == of.disk.node_id)
                    || of.disk.held.last <= disk.held.last || of.disk.node_id.ordinal() == disk.ordinal
                    || !of.disk.has_identity());
            }
        }
    }

    /// A disk is released only with a quorum of a membership of its cluster, itself included; or it took part already.
    #[test]
    fn a_release_takes_a_quorum(disk in any_disk(), facts in any_facts(),
        answers in any_answers(prop_oneof![any_silence(), any_description()]))
    {
        let facts = Facts { takes_part: false, ..facts };
        if decide(&disk, &answers, &facts) == Action::Release {
            let present = |id: NodeId| id == disk.node_id || answers.described().any(|(_, _, of)|
                of.disk.cluster == disk.cluster && of.disk.node_id == id);
            let known = answers.described().filter(|(_, _, of)| of.disk.cluster == disk.cluster)
                .map(|(_, _, of)| &of.disk.membership).chain([&disk.membership]);
            prop_assert!(known.into_iter().any(|membership| membership.has_quorum(present)));
        }
    }
}
