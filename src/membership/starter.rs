//! Asks the others, decides again with every answer, and founds the first cluster. One per process; `node` does what its state
//! says.
//!
//! The starter acts on nothing but identities of a first bootstrap, through [`Local::prepare`]. Everything else (starting consensus,
//! holding and releasing it, storing that the disk is lost) is `node`'s, which watches [`StartState`].

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::asking::{Asking, Outcome};
use super::disk::Answers;
use super::founding;
use super::joining;
use super::local::{Gate, Lead, Local, Prepared};
use super::reconcile::Retiring;
use super::service::{MembershipService, Own};
use super::size::Size;
use super::start::{Action, Desired, Facts, decide};
use super::wait::{Needed, needed};
use crate::discovery::PeerChannels;
use crate::env::Random;
use crate::identity::{ClusterId, NodeId};
use crate::limits;
use crate::proto::peer::membership_server::MembershipServer;

/// What the starter needs to know.
pub struct StarterConfig {
    /// Who this pod is to others.
    pub own: Own,
    /// Number of pods at the first install; 1 for a single node.
    pub expected: u16,
    /// The desired size, as its source says.
    pub size: watch::Receiver<Size>,
    /// Told when somebody cannot wait for the next look at the size.
    pub hurry: Arc<Notify>,
    /// Who asked to be retired.
    pub retiring: Arc<Retiring>,
    /// Whether a pod that is alone may found a cluster (see [`Facts::may_found_alone`]).
    pub may_found_alone: bool,
    /// Whether this pod is ready, as its probe says. `None` where nobody starts pods by their readiness.
    pub ready: Option<watch::Receiver<bool>>,
    /// Channels to the others; `None` for a node that is alone.
    pub channels: Option<PeerChannels>,
    /// Random numbers, for the id of a new cluster.
    pub random: Arc<dyn Random>,
}

/// What `node` is to do now. It only sees the newest: what lies between may have been skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet; do not start consensus. If it runs, it stays held.
    Wait,
    /// As `Wait`, but a human must look. Touch nothing.
    Refuse,
    /// Store, fsynced, that the disk is lost, and stop consensus if it runs. The starter decides again when [`Local::disk`] says so.
    BecomeLost,
    /// End the process without touching the disk; a restart begins anew.
    Stop,
    /// The disk has this identity, and so have all the others: start consensus and initialise it with these voters. Not held.
    Initialise(Prepared),
    /// Start consensus if it does not run, held: it takes no entry, grants no vote and does not campaign.
    Hold,
    /// Start consensus if it does not run, and let it take part.
    Release,
}

/// Where the start stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartState {
    /// What `node` is to do.
    pub step: Step,
    /// The row of the start table that decided.
    pub action: Action,
    /// What was decided, or what is waited for, for people.
    pub text: String,
    /// Which command would help.
    pub hint: Option<String>,
    /// Which pods are needed and not there: for readiness.
    pub needed: Needed,
    /// Some pod that answered knows a leader: for readiness where no consensus runs.
    pub leader_known: bool,
    /// A leader says that this pod's ordinal is outside the desired range.
    pub outside: bool,
    /// What the others said.
    pub answers: Answers,
}

impl StartState {
    fn new() -> Self {
        let waiting_for = "the first answers".to_owned();
        Self {
            step: Step::Wait,
            text: format!("waiting for {waiting_for}"),
            action: Action::Wait { waiting_for, hint: None, ask_service: false },
            hint: None,
            needed: Needed::default(),
            leader_known: false,
            outside: false,
            answers: Answers::default(),
        }
    }
}

/// The loop. See the module.
pub struct Starter {
    config: StarterConfig,
    own: Arc<Own>,
    local: Arc<dyn Local>,
    lead: Arc<dyn Lead>,
    gate: Arc<Gate>,
    heard: Arc<Notify>,
    state: watch::Sender<StartState>,
    takes_part: bool,
    first_ready: Option<Instant>,
    no_attempt_before: Instant,
    /// Why the last attempt at a first bootstrap, or at being admitted, broke off.
    broke_off: Option<String>,
}

impl Starter {
    /// A starter for this disk, and what `node` watches. Nothing happens before [`Starter::run`].
    pub fn new(
        config: StarterConfig,
        local: Arc<dyn Local>,
        lead: Arc<dyn Lead>,
    ) -> (Self, watch::Receiver<StartState>) {
        let (state, watched) = watch::channel(StartState::new());
        let own = Arc::new(config.own.clone());
        let starter = Self {
            own,
            local,
            lead,
            gate: Arc::default(),
            heard: Arc::default(),
            state,
            takes_part: false,
            first_ready: None,
            no_attempt_before: Instant::now(),
            broke_off: None,
            config,
        };
        (starter, watched)
    }

    /// The service that answers the other pods; it must be served before [`Starter::run`] and for as long as the process runs.
    pub fn service(&self) -> MembershipServer<MembershipService> {
        MembershipServer::new(MembershipService {
            own: Arc::clone(&self.own),
            local: Arc::clone(&self.local),
            lead: Arc::clone(&self.lead),
            size: self.config.size.clone(),
            hurry: Arc::clone(&self.config.hurry),
            retiring: Arc::clone(&self.config.retiring),
            gate: Arc::clone(&self.gate),
            book: self.config.channels.as_ref().map(|channels| Arc::clone(channels.book())),
            heard: Arc::clone(&self.heard),
        })
        .max_decoding_message_size(limits::HELLO_BYTES)
        .max_encoding_message_size(limits::HELLO_BYTES)
    }

    /// Asks and decides until `cancel`.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut asking =
            Asking::new(Arc::clone(&self.own), Arc::clone(&self.local), self.config.channels.clone());
        let mut flying: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
        if self.config.ready.is_none() {
            self.first_ready = Some(Instant::now());
        }
        loop {
            let next = self.look(&mut asking).await;
            for question in asking.due(Instant::now(), self.interval()) {
                flying.push(question);
            }
            let wake = asking.next_due().map_or(next, |due| due.min(next));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep_until(wake) => {}
                () = self.heard.notified() => asking.hurry(),
                Some(outcome) = flying.next() => asking.take(outcome, Instant::now()),
            }
        }
    }

    /// Decides once and does what follows; returns when to look again at the latest.
    async fn look(&mut self, asking: &mut Asking) -> Instant {
        let now = Instant::now();
        if self.first_ready.is_none() && self.config.ready.as_ref().is_some_and(|ready| *ready.borrow()) {
            self.first_ready = Some(now);
        }
        let facts = self.facts(now);
        let gate = Arc::clone(&self.gate);
        // Held still from the look at the disk to what follows from it: no identity is taken meanwhile.
        let mut still = gate.hold().await;
        let disk = self.local.disk();
        asking.whom(&disk, &facts, now);
        let answers = asking.answers(now);
        let action = decide(&disk, &answers, &facts);
        asking.ask_service(matches!(action, Action::Wait { ask_service: true, .. }));
        let step = match &action {
            Action::Refuse { .. } => Step::Refuse,
            Action::BecomeLost { .. } => Step::BecomeLost,
            Action::Stop { .. } => Step::Stop,
            Action::HoldResume { .. } => {
                still.close();
                Step::Hold
            }
            Action::Release => {
                still.close();
                self.takes_part = true;
                // What initialised stays so: the newest step must tell it all.
                match self.state.borrow().step.clone() {
                    initialise @ Step::Initialise(_) => initialise,
                    _ => Step::Release,
                }
            }
            Action::Bootstrap { .. } if still.is_closed() => Step::Stop,
            Action::Rejoin { .. } | Action::Join { .. } | Action::Bootstrap { .. } | Action::Wait { .. } => {
                Step::Wait
            }
        };
        self.publish(step, action.clone(), needed(&disk, &answers, &facts), answers.clone());
        drop(still);
        if self.state.borrow().step == Step::Wait && now >= self.no_attempt_before {
            match &action {
                Action::Bootstrap { coordinator, founders } if *coordinator == self.own.ordinal => {
                    self.found(asking, founders, &answers, action.clone()).await;
                }
                Action::Join { cluster, leader } | Action::Rejoin { cluster, leader } => {
                    self.join(asking, *cluster, *leader, &answers).await;
                    if self.takes_part {
                        return now;
                    }
                }
                _ => {}
            }
        }
        now + self.interval()
    }

    /// One attempt at being admitted.
    async fn join(&mut self, asking: &Asking, cluster: ClusterId, leader: NodeId, answers: &Answers) {
        let name =
            answers.pods.iter().find(|(_, asked)| asked.ordinal == leader.ordinal()).map(|(name, _)| name);
        let peer = name.and_then(|name| Some((name.clone(), asking.peer(name)?)));
        let (Some(leader), Some(channels)) = (peer, &self.config.channels) else { return };
        let attempt = joining::Attempt { own: &self.own, cluster, leader, answers };
        match attempt.join(self.local.as_ref(), channels).await {
            Ok(node_id) => {
                tracing::info!(%cluster, %node_id, "admitted");
                self.gate.hold().await.close();
                self.takes_part = true;
                self.broke_off = None;
            }
            Err(reason) => {
                if self.broke_off.as_ref() != Some(&reason) {
                    tracing::info!(%cluster, reason, "not admitted yet; asking again");
                }
                self.broke_off = Some(reason);
                self.no_attempt_before = Instant::now() + limits::ADMIT_RETRY;
            }
        }
    }

    /// Time between two rounds.
    fn interval(&self) -> Duration {
        if self.takes_part { limits::HELLO_INTERVAL_RUNNING } else { limits::HELLO_INTERVAL }
    }

    /// One attempt at a first bootstrap. One that breaks off is replaced by the next, under another id.
    async fn found(
        &mut self,
        asking: &Asking,
        founders: &[super::start::Founder],
        answers: &Answers,
        action: Action,
    ) {
        let attempt =
            founding::Attempt::new(&self.own, founders, answers, asking, self.config.random.as_ref());
        let founded =
            attempt.prepare_all(&self.gate, self.local.as_ref(), self.config.channels.as_ref()).await;
        match founded {
            Ok(prepared) => {
                let mut still = self.gate.hold().await;
                if self.local.disk().cluster != prepared.cluster || still.is_closed() {
                    tracing::warn!(cluster = %prepared.cluster, "another pod founds a cluster too; trying again");
                    self.no_attempt_before = Instant::now() + limits::BOOTSTRAP_RETRY;
                    return;
                }
                still.close();
                self.takes_part = true;
                tracing::info!(cluster = %prepared.cluster, voters = founders.len(), "founding a cluster");
                self.publish(Step::Initialise(prepared), action, Needed::default(), answers.clone());
            }
            Err(reason) => {
                if self.broke_off.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "the first bootstrap broke off; trying again");
                }
                self.broke_off = Some(reason);
                self.no_attempt_before = Instant::now() + limits::BOOTSTRAP_RETRY;
            }
        }
    }

    fn facts(&self, now: Instant) -> Facts {
        let Size { mut desired, generation } = self.config.size.borrow().clone();
        // A disk with data knows the size that was seen last.
        if let (Desired::Unknown(_), Some(recorded)) = (&desired, self.local.recorded()) {
            desired = Desired::Known(recorded);
        }
        Facts {
            ordinal: self.own.ordinal,
            name: self.own.name.clone(),
            expected: self.config.expected,
            desired,
            may_found_alone: self.config.may_found_alone && generation.is_none_or(|changes| changes == 1),
            takes_part: self.takes_part,
            ready_for: self.first_ready.map(|ready| now.duration_since(ready)),
        }
    }

    fn publish(&self, step: Step, action: Action, needed: Needed, answers: Answers) {
        let (mut text, hint) = words(&step, &action, self.own.ordinal);
        let attempted =
            matches!(action, Action::Bootstrap { .. } | Action::Join { .. } | Action::Rejoin { .. });
        if let (Step::Wait, true, Some(reason)) = (&step, attempted, &self.broke_off) {
            text = format!("{text}; the last attempt broke off: {reason}");
        }
        let news = self.state.borrow().text != text;
        if news {
            log(&step, &text, hint.as_deref());
        }
        let leader_known = answers.described().any(|(_, _, described)| described.leader().is_some());
        let outside = answers.described().any(|(_, _, described)| {
            let desired = described.consensus.as_ref().and_then(|view| view.desired);
            desired.is_some_and(|range| Desired::Known(range).excludes(self.own.ordinal))
        });
        self.state.send_if_modified(|state| {
            let next = StartState { step, action, text, hint, needed, leader_known, outside, answers };
            let changed = *state != next;
            *state = next;
            changed
        });
    }
}

fn words(step: &Step, action: &Action, own: u16) -> (String, Option<String>) {
    if let Step::Initialise(prepared) = step {
        return (format!("founded cluster {}", prepared.cluster), None);
    }
    match action {
        Action::Refuse { reason } => (format!("refusing the disk: {reason}"), None),
        Action::BecomeLost { reason } => (format!("the disk is lost: {reason}"), None),
        Action::Stop { reason } => (format!("stopping: {reason}"), None),
        Action::HoldResume { waiting_for } => (format!("held, waiting for {waiting_for}"), None),
        Action::Release => ("taking part".into(), None),
        Action::Rejoin { cluster, leader } => {
            (format!("waiting to be admitted anew to cluster {cluster}, whose leader is {leader}"), None)
        }
        Action::Join { cluster, leader } => {
            (format!("waiting to be admitted to cluster {cluster}, whose leader is {leader}"), None)
        }
        Action::Bootstrap { .. } if *step == Step::Stop => (
            "stopping: the bootstrap that this disk was prepared for was given up; starting over".into(),
            None,
        ),
        Action::Bootstrap { coordinator, .. } if *coordinator == own => {
            ("founding a cluster with everyone who is expected".into(), None)
        }
        Action::Bootstrap { coordinator, .. } => {
            (format!("waiting for ordinal {coordinator}, the lowest, to found the cluster"), None)
        }
        Action::Wait { waiting_for, hint, .. } => (format!("waiting for {waiting_for}"), hint.clone()),
    }
}

/// Once per change of reason.
fn log(step: &Step, text: &str, hint: Option<&str>) {
    let hint = hint.unwrap_or_default();
    match step {
        Step::Refuse | Step::BecomeLost => tracing::error!(hint, "{text}"),
        Step::Stop => tracing::warn!(hint, "{text}"),
        _ => tracing::info!(hint, "{text}"),
    }
}

#[cfg(test)]
#[path = "starter_tests.rs"]
mod tests;
