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
use super::disk::{Answers, Disk, What};
use super::founding;
use super::joining;
use super::journal::Journal;
use super::local::{Gate, Lead, Local, Prepared};
use super::reconcile::{Outlook, Retiring};
use super::recovery;
use super::service::{MembershipService, Own};
use super::size::Size;
use super::start::{Action, Desired, Facts, decide};
use super::wait::{Needed, list, needed};
use crate::discovery::PeerChannels;
use crate::env::Random;
use crate::identity::{ClusterId, Member, NodeId, Request};
use crate::limits;
use crate::proto::peer::membership_server::MembershipServer;

/// What the starter needs to know.
pub struct StarterConfig {
    /// Who this pod is to others.
    pub own: Own,
    /// Number of pods at the first install; 1 for a single node.
    pub expected: u16,
    /// Ordinals of others that were named to this process.
    pub named: std::collections::BTreeSet<crate::identity::Ordinal>,
    /// The desired size, as its source says, and what else the leader's plan goes by.
    pub outlook: Outlook,
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
    /// What was decided is told here.
    pub journal: Journal,
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
    /// The disk becomes the only member of a new cluster, as this; then end the process: a restart begins with it.
    Recover(Member),
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

/// What is said beside the decision.
#[derive(Default)]
struct Said {
    needed: Needed,
    /// Which command makes a cluster go on that has lost its majority.
    advice: Option<String>,
    /// Why the recovery that was asked for is not done.
    refused: Option<String>,
}

impl Said {
    fn of(disk: &Disk, answers: &Answers, facts: &Facts, led: bool) -> Self {
        let asked = facts.recovery.as_ref();
        Self {
            needed: needed(disk, answers, facts),
            advice: if led { None } else { recovery::advice(disk, answers, facts) },
            refused: asked.and_then(|asked| recovery::may_recover(asked, disk, answers).err()),
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
    /// Why the disk was lost, until it is admitted anew: an attempt that fails may leave it blank.
    lost: Option<String>,
    /// Why the last attempt at a first bootstrap, or at being admitted, broke off.
    broke_off: Option<String>,
    /// Why this process has nothing left to wait for: its member was removed by hand.
    removed: Option<String>,
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
            lost: None,
            broke_off: None,
            removed: None,
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
            outlook: self.config.outlook.clone(),
            hurry: Arc::clone(&self.config.hurry),
            retiring: Arc::clone(&self.config.retiring),
            gate: Arc::clone(&self.gate),
            book: self.config.channels.as_ref().map(|channels| Arc::clone(channels.book())),
            heard: Arc::clone(&self.heard),
            journal: self.config.journal.clone(),
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
            let interval = self.interval(&asking);
            for question in asking.due(Instant::now(), interval) {
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
        let led = self.is_led();
        let request = self.request(led);
        let facts = self.facts(now, request.as_ref());
        let gate = Arc::clone(&self.gate);
        // Held still from the look at the disk to what follows from it: no identity is taken meanwhile.
        let mut still = gate.hold().await;
        let disk = self.local.disk();
        asking.whom(&disk, &facts, now);
        let answers = asking.answers(now);
        let action = match &self.removed {
            Some(reason) => Action::Stop { reason: reason.clone() },
            None => decide(&disk, &answers, &facts),
        };
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
                if !std::mem::replace(&mut self.takes_part, true) {
                    let text =
                        format!("started, and takes part as {} (start {})", disk.node_id, disk.boot.number);
                    self.config.journal.tell(&text);
                }
                // What initialised stays so: the newest step must tell it all.
                match self.state.borrow().step.clone() {
                    initialise @ Step::Initialise(_) => initialise,
                    _ => Step::Release,
                }
            }
            Action::Bootstrap { .. } if still.is_closed() => Step::Stop,
            Action::Recover { .. } => {
                still.close();
                let mut own = self.own.member();
                // Outside a StatefulSet a member may have moved since its flags were written.
                if let (Some(_), Some(known)) =
                    (self.config.outlook.rules, disk.membership.member(disk.node_id))
                {
                    own.peer_address.clone_from(&known.peer_address);
                }
                Step::Recover(own)
            }
            Action::Rejoin { .. } | Action::Join { .. } | Action::Bootstrap { .. } | Action::Wait { .. } => {
                Step::Wait
            }
        };
        let said = Said::of(&disk, &answers, &facts, led);
        self.publish(step, action.clone(), said, answers.clone());
        drop(still);
        if self.state.borrow().step == Step::Wait && now >= self.no_attempt_before {
            match &action {
                Action::Bootstrap { coordinator, founders } if *coordinator == self.own.ordinal => {
                    self.found(asking, &disk, founders, &answers, action.clone()).await;
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
        now + self.interval(asking)
    }

    /// One attempt at being admitted.
    async fn join(&mut self, asking: &Asking, cluster: ClusterId, leader: NodeId, answers: &Answers) {
        let name =
            answers.pods.iter().find(|(_, asked)| asked.ordinal == leader.ordinal()).map(|(name, _)| name);
        let peer = name.and_then(|name| Some((name.clone(), asking.peer(name)?)));
        let (Some(leader), Some(channels)) = (peer, &self.config.channels) else { return };
        let attempt = joining::Attempt { own: &self.own, cluster, leader, answers };
        if let What::Lost { reason } = self.local.disk().what {
            self.lost = Some(format!("the volume was lost ({reason})"));
        }
        match attempt.join(self.local.as_ref(), channels).await {
            Ok(node_id) => {
                tracing::info!(%cluster, %node_id, "admitted");
                let was = self.lost.take();
                let was = was.as_deref().unwrap_or("the volume was empty");
                self.config.journal.tell(&format!("{was}; admitted as {node_id}"));
                self.gate.hold().await.close();
                self.takes_part = true;
                self.broke_off = None;
            }
            Err(joining::NotAdmitted::Ever(reason)) => {
                self.removed =
                    Some(format!("the member has been permanently removed from the cluster: {reason}"));
            }
            Err(joining::NotAdmitted::Yet(reason)) => {
                if self.broke_off.as_ref() != Some(&reason) {
                    tracing::info!(%cluster, reason, "not admitted yet; asking again");
                }
                self.broke_off = Some(reason);
                self.no_attempt_before = Instant::now() + limits::ADMIT_RETRY;
            }
        }
    }

    /// Time between two rounds.
    fn interval(&self, asking: &Asking) -> Duration {
        match self.takes_part {
            true if self.is_led() && !asking.lacks_a_member() => limits::HELLO_INTERVAL_RUNNING,
            true => limits::HELLO_INTERVAL_LEADERLESS,
            false => limits::HELLO_INTERVAL,
        }
    }

    /// One attempt at a first bootstrap. One that breaks off is replaced by the next, under another id.
    async fn found(
        &mut self,
        asking: &Asking,
        disk: &Disk,
        founders: &[super::start::Founder],
        answers: &Answers,
        action: Action,
    ) {
        let attempt =
            founding::Attempt::new(&self.own, disk, founders, answers, asking, self.config.random.as_ref());
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
                let names: Vec<_> = founders.iter().map(|founder| &founder.name).collect();
                self.config.journal.tell(&format!("founded cluster {} of {}", prepared.cluster, list(names)));
                self.publish(Step::Initialise(prepared), action, Said::default(), answers.clone());
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

    /// Whether this pod's own consensus knows a leader.
    fn is_led(&self) -> bool {
        self.local.consensus().is_some_and(|consensus| consensus.leader.is_some())
    }

    /// What a human asks for. While somebody leads, nobody needs it, and it must not be left for later.
    fn request(&self, led: bool) -> Option<Request> {
        let request = self.local.request()?;
        if led || self.state.borrow().leader_known {
            self.local.drop_request("the cluster has a leader");
            return None;
        }
        Some(request)
    }

    fn facts(&self, now: Instant, request: Option<&Request>) -> Facts {
        let Size { mut desired, generation } = self.config.outlook.size.borrow().clone();
        // A disk with data knows the size that was seen last.
        if let (Desired::Unknown(_), Some(recorded)) = (&desired, self.local.recorded()) {
            desired = Desired::Known(recorded);
        }
        Facts {
            ordinal: self.own.ordinal,
            name: self.own.name.clone(),
            expected: self.config.expected,
            desired,
            may_found_alone: matches!(request, Some(Request::Bootstrap {}))
                || self.config.may_found_alone && generation.is_none_or(|changes| changes == 1),
            recovery: match request {
                Some(Request::Recover(recovery)) => Some(recovery.clone()),
                Some(Request::Bootstrap {}) | None => None,
            },
            named: self.config.named.clone(),
            takes_part: self.takes_part,
            ready_for: self.first_ready.map(|ready| now.duration_since(ready)),
        }
    }

    fn publish(&self, step: Step, action: Action, said: Said, answers: Answers) {
        let (mut text, hint) = words(&step, &action, self.own.ordinal);
        let Said { needed, advice, refused } = said;
        let hint = advice.or(hint);
        if let Some(reason) = refused {
            text = format!("{text}; the recovery that was asked for is refused: {reason}");
        }
        let attempted =
            matches!(action, Action::Bootstrap { .. } | Action::Join { .. } | Action::Rejoin { .. });
        if let (Step::Wait, true, Some(reason)) = (&step, attempted, &self.broke_off) {
            text = format!("{text}; the last attempt broke off: {reason}");
        }
        let news = self.state.borrow().text != text;
        if news {
            log(&step, &text, hint.as_deref());
            if step == Step::BecomeLost {
                self.config.journal.tell(&text);
            }
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
        Action::Recover { cluster } => {
            (format!("going on alone, in a new cluster that replaces {cluster}, as somebody asked"), None)
        }
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
