//! Who is asked, when, and what came of it: the starter's memory. It asks through `discovery`, which knows when a name may be
//! asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::time::{Instant, timeout};

use super::disk::{Answer, Answers, Asked, Disk, Service};
use super::local::Local;
use super::resume;
use super::service::Own;
use super::start::{Facts, whom_to_ask};
use super::wire;
use crate::discovery::{Path, Peer, PeerChannels, Presence, ServiceAnswer};
use crate::identity::Ordinal;
use crate::limits;
use crate::proto::peer;
use crate::proto::peer::membership_client::MembershipClient;

/// What came of one question.
pub(super) enum Outcome {
    /// A pod was asked; it told where these others are.
    Pod { name: String, answer: Answer, told: Vec<String> },
    /// The headless service was asked, and whoever is behind it: the pods there, or why not all are known.
    Service(Result<Vec<Peer>, String>),
}

struct Pod {
    peer: Peer,
    since: Instant,
    due: Instant,
    flying: bool,
    answer: Answer,
}

/// The pods that are asked.
pub(super) struct Asking {
    own: Arc<Own>,
    local: Arc<dyn Local>,
    channels: Option<PeerChannels>,
    pods: BTreeMap<String, Pod>,
    /// Members of the last membership that is known.
    members: BTreeSet<Ordinal>,
    /// Pods that were found behind the service.
    found: Vec<Peer>,
    service: Service,
    service_wanted: bool,
    service_flying: bool,
    service_due: Instant,
}

impl Asking {
    pub(super) fn new(own: Arc<Own>, local: Arc<dyn Local>, channels: Option<PeerChannels>) -> Self {
        let has_service =
            channels.as_ref().is_some_and(|channels| channels.book().directory().service().is_some());
        Self {
            own,
            local,
            channels,
            pods: BTreeMap::new(),
            members: BTreeSet::new(),
            found: Vec::new(),
            service: if has_service { Service::NotAsked } else { Service::NotUsed },
            service_wanted: false,
            service_flying: false,
            service_due: Instant::now(),
        }
    }

    /// Sets whom to ask; forgets the others.
    pub(super) fn whom(&mut self, disk: &Disk, facts: &Facts, now: Instant) {
        let Some(channels) = &self.channels else { return };
        let directory = channels.book().directory();
        let answers = self.answers(now);
        let membership = resume::last_membership(disk, &answers);
        self.members = membership.ids().iter().map(|id| id.ordinal()).collect();
        let mut peers: Vec<Peer> = Vec::new();
        for ordinal in whom_to_ask(disk, &answers, facts) {
            // The name is the truth, and not what another cluster's disk says of its members; a member outside the set is
            // known by its address only.
            let member = membership.members.iter().rfind(|member| member.node_id.ordinal() == ordinal);
            peers.extend(directory.peer_at(ordinal, member.map(|member| member.peer_address.as_str())));
        }
        if directory.follows_members() {
            peers.extend(told(&disk.membership, &answers));
            for peer in &peers {
                channels.book().moved(peer);
            }
        }
        peers.extend(self.found.iter().cloned());
        let mut names = BTreeSet::new();
        for peer in peers.into_iter().take(limits::PEERS) {
            let name = directory.name_of(&peer);
            if name == self.own.name || !names.insert(name.clone()) {
                continue;
            }
            let pod = self.pods.entry(name).or_insert_with(|| Pod {
                peer: peer.clone(),
                since: now,
                due: now,
                flying: false,
                answer: Answer::NotAsked,
            });
            pod.peer = peer;
        }
        self.pods.retain(|name, _| names.contains(name));
    }

    /// Whether the addresses behind the headless service are needed now.
    pub(super) fn ask_service(&mut self, wanted: bool) {
        self.service_wanted = wanted && self.service != Service::NotUsed;
    }

    /// What is known now.
    pub(super) fn answers(&self, now: Instant) -> Answers {
        let pods = self
            .pods
            .iter()
            .map(|(name, pod)| {
                let asked = Asked {
                    ordinal: pod.peer.ordinal,
                    answer: pod.answer.clone(),
                    asked_for: now.duration_since(pod.since),
                };
                (name.clone(), asked)
            })
            .collect();
        Answers { pods, service: self.service.clone() }
    }

    /// Whether a member was not reached yet.
    pub(super) fn lacks_a_member(&self) -> bool {
        self.pods.values().any(|pod| self.members.contains(&pod.peer.ordinal) && !is_described(&pod.answer))
    }

    /// Where a pod is asked.
    pub(super) fn peer(&self, name: &str) -> Option<Peer> {
        self.pods.get(name).map(|pod| pod.peer.clone())
    }

    /// Somebody said hello: it can be reached now.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        for pod in
            self.pods.values_mut().filter(|pod| pod.answer == Answer::NotAsked || !is_described(&pod.answer))
        {
            pod.due = now;
        }
    }

    /// The questions to ask now; each pod is asked again `interval` after this.
    pub(super) fn due(&mut self, now: Instant, interval: Duration) -> Vec<BoxFuture<'static, Outcome>> {
        let Some(channels) = &self.channels else { return Vec::new() };
        let mut questions = Vec::new();
        for (name, pod) in &mut self.pods {
            if !pod.flying && pod.due <= now {
                pod.flying = true;
                pod.due = now + interval;
                let question = describe(
                    Arc::clone(&self.own),
                    Arc::clone(&self.local),
                    channels.clone(),
                    pod.peer.clone(),
                    name.clone(),
                );
                let name = name.clone();
                let outcome = move |(answer, told)| Outcome::Pod { name, answer, told };
                questions.push(question.map(outcome).boxed());
            }
        }
        if self.service_wanted && !self.service_flying && self.service_due <= now {
            self.service_flying = true;
            let survey = survey(Arc::clone(&self.own), Arc::clone(&self.local), channels.clone());
            questions.push(survey.map(Outcome::Service).boxed());
        }
        questions
    }

    /// When the next question is due, among those that no answer is awaited for.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.pods.values().filter(|pod| !pod.flying).map(|pod| pod.due).min()
    }

    /// Takes what came of a question.
    pub(super) fn take(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Pod { name, answer, told } => {
                if let Some(pod) = self.pods.get_mut(&name) {
                    pod.flying = false;
                    pod.answer = answer;
                }
                for name in told {
                    if let Some(pod) = self.pods.get_mut(&name).filter(|pod| !is_described(&pod.answer)) {
                        pod.due = now;
                    }
                }
            }
            Outcome::Service(found) => {
                self.service_flying = false;
                self.service_due = now + limits::SERVICE_INTERVAL;
                match found {
                    Ok(found) => {
                        self.found = found;
                        self.service = Service::Listed;
                    }
                    Err(reason) => self.service = Service::Unknown(reason),
                }
            }
        }
    }
}

/// The members that pods tell of, where this disk knows none: one of them may lead whom nobody named to this process.
fn told(known: &crate::identity::Membership, answers: &Answers) -> Vec<Peer> {
    if !known.members.is_empty() {
        return Vec::new();
    }
    let members = answers.described().flat_map(|(_, _, described)| described.disk.membership.members.iter());
    members.filter_map(|member| Peer::parse(member.node_id.ordinal(), &member.peer_address).ok()).collect()
}

fn is_described(answer: &Answer) -> bool {
    matches!(answer, Answer::Described(_))
}

/// Asks one pod what its disk is, and says what this one is; also the names of those of whom it told where they are.
async fn describe(
    own: Arc<Own>,
    local: Arc<dyn Local>,
    channels: PeerChannels,
    peer: Peer,
    name: String,
) -> (Answer, Vec<String>) {
    let mut told = Vec::new();
    let answer = match hello(&own, local.as_ref(), &channels, &peer, name.clone()).await {
        Ok(response) if response.pod == name => {
            told = listen(&own, &channels, &response);
            let token = response.token.clone();
            match wire::described(response) {
                Ok(described) if described.disk.is_fresh() && token != own.token => {
                    Answer::Unknown(format!("it is to found a cluster of its own, by the token {token:?}"))
                }
                Ok(described) => Answer::Described(Box::new(described)),
                Err(error) => Answer::Unknown(format!("its answer makes no sense: {error}")),
            }
        }
        Ok(response) => {
            channels.misdirected(&peer);
            Answer::Unknown(format!("{} answers there", response.pod))
        }
        Err(_) => match channels.book().presence(&peer) {
            Presence::At => Answer::Silent,
            Presence::Absent => Answer::Absent,
            Presence::Unknown(reason) => Answer::Unknown(reason),
            Presence::NotAsked => Answer::NotAsked,
        },
    };
    (answer, told)
}

/// Takes what a pod tells of the whereabouts of others; the names of those for whom that is news.
fn listen(own: &Own, channels: &PeerChannels, response: &peer::DescribeResponse) -> Vec<String> {
    let book = channels.book();
    let news = |told: &&peer::Whereabouts| {
        let peer = book.directory().find(&told.pod).filter(|peer| peer.ordinal != own.ordinal);
        peer.zip(told.address.parse().ok()).is_some_and(|(peer, address)| book.tell(&peer, address))
    };
    let told = response.connected.iter().take(limits::PEERS).filter(news);
    told.map(|told| told.pod.clone()).collect()
}

async fn hello(
    own: &Own,
    local: &dyn Local,
    channels: &PeerChannels,
    peer: &Peer,
    asked: String,
) -> Result<peer::DescribeResponse, tonic::Status> {
    let consensus = local.consensus();
    let request = peer::DescribeRequest {
        asked,
        sender: own.name.clone(),
        sender_address: own.reachable_at.map(|address| address.to_string()).unwrap_or_default(),
        description: Some(wire::description(&local.disk(), consensus.as_ref())),
    };
    let mut client = MembershipClient::new(channels.channel(peer, Path::Data))
        .max_decoding_message_size(limits::HELLO_BYTES);
    match timeout(limits::HELLO_TIMEOUT, client.describe(request)).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded("no answer in time")),
    }
}

/// Asks every address behind the headless service who it is. `Ok` only if all are pods of the set.
async fn survey(own: Arc<Own>, local: Arc<dyn Local>, channels: PeerChannels) -> Result<Vec<Peer>, String> {
    let addresses = match channels.book().service().await {
        ServiceAnswer::Listed(addresses) => addresses,
        ServiceAnswer::Unknown(reason) => return Err(reason),
    };
    let port = channels.book().directory().own().port;
    let (own, local, channels) = (&own, local.as_ref(), &channels);
    let asked = addresses.into_iter().map(|address| async move {
        // By its address, because its name is what is asked for.
        let peer = Peer { ordinal: own.ordinal, fqdn: address.to_string(), port };
        let answer = hello(own, local, channels, &peer, String::new()).await;
        channels.forget(&peer);
        let pod = answer.map_err(|_| format!("{address} does not answer"))?.pod;
        channels
            .book()
            .directory()
            .find(&pod)
            .ok_or_else(|| format!("{address} is {pod}, which is no pod of this set"))
    });
    join_all(asked).await.into_iter().collect()
}
