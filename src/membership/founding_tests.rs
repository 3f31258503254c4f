//! Two attempts cannot both win: attempts, restarts and resumes in any order, with the real gate and the real table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::super::disk::{Answer, Asked, ConsensusView, Described, Disk, Held, LogId, What};
use super::super::local::{Admitted, PrepareRefusal};
use super::super::start::{Action, Facts, decide};
use super::*;
use crate::identity::{Boot, DiskState, Identity};

const PODS: u16 = 3;

#[derive(Default)]
struct Fake(Mutex<Disk>);

impl Local for Fake {
    fn is_loading(&self) -> bool {
        false
    }

    fn disk(&self) -> Disk {
        self.0.lock().clone()
    }

    fn consensus(&self) -> Option<ConsensusView> {
        None
    }

    fn prepare(&self, given: Prepared) -> BoxFuture<'_, Result<(), PrepareRefusal>> {
        let identity = Identity {
            cluster: given.cluster,
            supersedes: Vec::new(),
            node_id: given.node_id,
            ordinal: given.node_id.ordinal(),
            state: DiskState::Prepared { voters: given.voters },
            boot: 1,
            last_stop: None,
        };
        *self.0.lock() = Disk::from_identity(&identity, Boot { number: 1, random: 1 }, Held::default(), None);
        futures::future::ready(Ok(())).boxed()
    }

    fn begin_joining(&self, _: ClusterId) -> BoxFuture<'_, Result<u64, String>> {
        futures::future::ready(Err("nobody joins here".into())).boxed()
    }

    fn join(&self, _: Admitted) -> BoxFuture<'_, Result<(), String>> {
        futures::future::ready(Err("nobody joins here".into())).boxed()
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// An attempt begins on a pod that the table lets found.
    Begin(u16),
    /// The newest attempt of a coordinator reaches a pod.
    Prepare(u16, u16),
    /// A coordinator that has everyone's word starts consensus.
    Initialise(u16),
    /// A pod looks at the table, and starts consensus if it says so.
    Resume(u16),
    /// Consensus that runs on a pod writes something.
    Write(u16),
    /// A pod restarts.
    Restart(u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    let pod = 0..PODS;
    prop_oneof![
        1 => pod.clone().prop_map(Step::Begin),
        6 => (pod.clone(), pod.clone()).prop_map(|(by, to)| Step::Prepare(by, to)),
        3 => pod.clone().prop_map(Step::Initialise),
        3 => pod.clone().prop_map(Step::Resume),
        3 => pod.clone().prop_map(Step::Write),
        1 => pod.prop_map(Step::Restart),
    ]
}

#[derive(Default)]
struct World {
    pods: Vec<(Fake, Gate)>,
    /// By coordinator: cluster, who gave its word, and what the disks were prepared for when it began.
    attempts: BTreeMap<u16, (u64, Vec<u16>, Vec<ClusterId>)>,
    begun: u64,
    /// By pod: the cluster that its process runs consensus for.
    running: BTreeMap<u16, u64>,
}

impl World {
    fn new() -> Self {
        Self { pods: (0..PODS).map(|_| (Fake::default(), Gate::default())).collect(), ..Self::default() }
    }

    fn disk(&self, pod: u16) -> Disk {
        self.pods[usize::from(pod)].0.disk()
    }

    fn decide(&self, pod: u16) -> Action {
        let mut answers = Answers::default();
        for other in (0..PODS).filter(|other| *other != pod) {
            let described = Described { disk: self.disk(other), ..Described::default() };
            let answer = Answer::Described(Box::new(described));
            answers.pods.insert(format!("s-{other}"), Asked { ordinal: other, answer, ..Asked::default() });
        }
        let facts = Facts { ordinal: pod, name: format!("s-{pod}"), expected: PODS, ..Facts::default() };
        decide(&self.disk(pod), &answers, &facts)
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            // Not only the lowest: where pods disagree about who is expected, there are two coordinators.
            Step::Begin(by) => {
                if matches!(self.decide(by), Action::Bootstrap { .. }) {
                    self.begun += 1;
                    let before = (0..PODS).map(|pod| self.disk(pod).cluster).collect();
                    self.attempts.insert(by, (self.begun, Vec::new(), before));
                }
            }
            Step::Prepare(by, to) => {
                let Some((cluster, words, before)) = self.attempts.get_mut(&by) else { return };
                let member = |ordinal| Member { node_id: NodeId::new(ordinal, 1), ..Member::default() };
                let voters = Membership::all_vote((0..PODS).map(member).collect());
                let (local, gate) = &self.pods[usize::from(to)];
                let (cluster, replaces) = (ClusterId(*cluster), before[usize::from(to)]);
                let given = Prepared { cluster, node_id: NodeId::new(to, 1), voters, replaces };
                if gate.hold().await.take(local, given).await.is_ok() {
                    words.push(to);
                }
            }
            Step::Initialise(by) => {
                let Some((cluster, words, _)) = self.attempts.get(&by) else { return };
                let (local, gate) = &self.pods[usize::from(by)];
                let mut still = gate.hold().await;
                let all = (0..PODS).all(|pod| words.contains(&pod));
                if all && local.disk().cluster.0 == *cluster && !still.is_closed() {
                    still.close();
                    self.running.insert(by, *cluster);
                }
            }
            Step::Resume(pod) => {
                let (local, gate) = &self.pods[usize::from(pod)];
                let action = self.decide(pod);
                if action == Action::Release && !self.running.contains_key(&pod) {
                    gate.hold().await.close();
                    self.running.insert(pod, local.disk().cluster.0);
                }
            }
            Step::Write(pod) => {
                if self.running.contains_key(&pod) {
                    let mut disk = self.pods[usize::from(pod)].0.0.lock();
                    disk.what = What::Member;
                    disk.held.last = LogId { term: 1, index: 1 };
                }
            }
            Step::Restart(pod) => {
                self.attempts.remove(&pod);
                self.running.remove(&pod);
                self.pods[usize::from(pod)].1 = Gate::default();
            }
        }
    }

    /// The clusters that a majority of the pods has voted in, or written to.
    fn winners(&self) -> Vec<u64> {
        (1..=self.begun)
            .filter(|cluster| {
                let part = |pod: &u16| {
                    let disk = self.disk(*pod);
                    disk.cluster.0 == *cluster && !disk.held.is_nothing()
                };
                (0..PODS).filter(part).count() > usize::from(PODS / 2)
            })
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn at_most_one_attempt_wins_and_the_winner_stays(steps in prop::collection::vec(any_step(), 0..120)) {
        let mut world = World::new();
        let mut won = None;
        for step in &steps {
            world.step(step).now_or_never().expect("nobody else holds a gate");
            for (pod, cluster) in &world.running {
                prop_assert_eq!(world.disk(*pod).cluster.0, *cluster, "the identity changed under consensus");
            }
            let winners = world.winners();
            prop_assert!(winners.len() <= 1, "{winners:?}");
            if let Some(won) = won {
                prop_assert_eq!(winners.first(), Some(&won));
            }
            won = winners.first().copied();
        }
    }
}

/// The check above is not empty: the plain way wins.
#[test]
fn an_attempt_that_nobody_disturbs_wins() {
    let mut world = World::new();
    let founding = [Step::Begin(0), Step::Prepare(0, 1), Step::Prepare(0, 2), Step::Prepare(0, 0)];
    let following = [Step::Initialise(0), Step::Write(0), Step::Resume(1), Step::Write(1)];
    for step in founding.iter().chain(&following) {
        world.step(step).now_or_never().unwrap();
    }
    assert_eq!(world.winners(), [1]);
}
