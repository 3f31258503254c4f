use std::fmt::Write as _;

use super::super::transcripts::{Scene, id, replay_all};
use super::*;

/// A pod that probes look at. Nothing is known of a leader, and the disk is open and healthy, unless a line says otherwise.
struct Probed(Look);

impl Default for Probed {
    fn default() -> Self {
        Self(Look { storage_moves: true, ..Look::default() })
    }
}

impl Scene for Probed {
    fn line(&mut self, word: &str, rest: &str) {
        let (look, yes) = (&mut self.0, rest == "yes");
        let some = (rest != "none").then_some(rest);
        match word {
            "stuck" => look.storage_moves = !yes,
            "storage" => {
                look.storage_failure = Some(rest).filter(|rest| *rest != "healthy").map(str::to_owned);
            }
            "loading" => look.loading = yes,
            "told-to-stop" => look.draining = yes,
            "leader" => look.leader_known = rest == "known",
            "leaderless" => {
                look.leader_known = false;
                look.leaderless_for = Duration::from_secs(rest.trim_end_matches('s').parse().unwrap());
            }
            "member" => look.is_member = yes,
            "older" => look.older_member = some.map(id),
            "applied" => look.applied_index = rest.parse().unwrap(),
            "needs" => look.read_index = some.map(|index| index.parse().unwrap()),
            "outside" => look.retired = yes,
            "absent" => look.needed.absent = rest.split(", ").map(str::to_owned).collect(),
            "cannot-do-without" => look.needed.cannot_do_without = yes,
            _ => panic!("what is {word:?}?"),
        }
    }

    fn outcome(&self) -> String {
        let (ready, serving) = of(&self.0);
        let live = readiness(&self.0).live;
        let word = |is: bool, what: &str| if is { what.to_owned() } else { format!("not {what}") };
        let mut out =
            format!("=> {}, {}, {}\n", word(live, "live"), word(ready, "ready"), word(serving, "serving"));
        for clause in readiness(&self.0).clauses {
            let holds = if clause.holds { "yes" } else { "no" };
            writeln!(out, "=>   {}: {holds}, {}", clause.name, clause.detail).unwrap();
        }
        out
    }
}

#[test]
fn ready_transcripts() {
    let decisions = replay_all::<Probed>("ready");
    assert!(decisions >= 20, "only {decisions} decisions were looked at");
}

fn serving() -> Look {
    Look {
        storage_moves: true,
        leader_known: true,
        is_member: true,
        applied_index: 10,
        read_index: Some(10),
        ..Look::default()
    }
}

fn leaderless(absent: &[&str], cannot_do_without: bool, seconds: u64) -> Look {
    Look {
        storage_moves: true,
        leaderless_for: Duration::from_secs(seconds),
        needed: Needed { absent: absent.iter().map(|name| (*name).to_owned()).collect(), cannot_do_without },
        ..Look::default()
    }
}

/// (ready, serving)
fn of(look: &Look) -> (bool, bool) {
    let readiness = readiness(look);
    assert!(!readiness.serving || readiness.ready, "serving without being ready");
    assert!(readiness.clauses.iter().all(|clause| !clause.detail.is_empty()));
    let refused = readiness.clauses.iter().any(|clause| clause.name != "live" && !clause.holds);
    assert!(readiness.ready || refused, "not ready, and nobody says why");
    (readiness.ready, readiness.serving)
}

#[test]
fn with_a_leader_every_clause_counts() {
    assert_eq!(of(&serving()), (true, true));
    for (name, look) in [
        ("not draining", Look { draining: true, ..serving() }),
        ("disk open", Look { loading: true, ..serving() }),
        ("storage healthy", Look { storage_failure: Some("fsync failed".into()), ..serving() }),
        ("member", Look { is_member: false, ..serving() }),
        ("no older disk", Look { older_member: Some(NodeId::new(1, 1)), ..serving() }),
        ("caught up", Look { applied_index: 9, ..serving() }),
        ("caught up", Look { read_index: None, ..serving() }),
    ] {
        assert_eq!(of(&look), (false, false), "{name}");
        let clause = readiness(&look).clauses.into_iter().find(|clause| clause.name == name);
        assert!(clause.is_some_and(|clause| !clause.holds), "{name}");
    }
}

#[test]
fn it_says_how_far_it_is_and_how_far_it_must_get() {
    let behind = readiness(&Look { applied_index: 6, read_index: Some(9), ..serving() });
    let clause = behind.clauses.into_iter().find(|clause| clause.name == "caught up").unwrap();
    assert_eq!(clause.detail, "applied 6, needs 9, the read index at the start");
}

#[test]
fn a_retired_pod_is_ready_and_does_not_serve() {
    let retired = Look { retired: true, is_member: false, ..serving() };
    assert_eq!(of(&retired), (true, false));
    assert_eq!(of(&Look { draining: true, ..retired }), (false, false));
    // Still a member: it goes on serving.
    assert_eq!(of(&Look { retired: true, ..serving() }), (true, true));
}

#[test]
fn without_a_leader_only_an_absent_pod_makes_ready() {
    assert_eq!(of(&leaderless(&[], true, 1_000)), (false, false));
    assert_eq!(of(&leaderless(&["s-1"], true, 0)), (true, false));
    assert_eq!(of(&leaderless(&["s-1"], false, 14)), (false, false));
    assert_eq!(of(&leaderless(&["s-1"], false, 15)), (true, false));
    assert_eq!(of(&Look { draining: true, ..leaderless(&["s-1"], true, 20) }), (false, false));
    // Whatever the disk is.
    let refused = Look { storage_failure: Some("damaged".into()), ..leaderless(&["s-1"], true, 0) };
    assert_eq!(of(&refused), (true, false));
}

#[test]
fn while_the_disk_is_opened_nothing_makes_ready() {
    let loading = Look { loading: true, ..leaderless(&["s-1"], true, 1_000) };
    assert_eq!(of(&loading), (false, false));
    assert!(readiness(&loading).live);
}

#[test]
fn live_never_looks_at_peers_or_disks() {
    for look in [serving(), leaderless(&[], false, 0), Look { draining: true, ..serving() }] {
        assert!(readiness(&look).live);
        assert!(!readiness(&Look { storage_moves: false, ..look }).live);
    }
}
