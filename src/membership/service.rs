//! The gRPC service that answers before consensus exists: what is your disk (also the hello of whoever asks), be a member of this
//! new cluster, let me join, let me go.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use super::admission::{AdmitRefusal, may_join};
use super::journal::Journal;
use super::local::{Gate, Lead, Local, PrepareRefusal, Prepared};
use super::locate;
use super::operator;
use super::reconcile::{Outlook, Retiring};
use super::start::Desired;
use super::wire;
use crate::discovery::{AddressBook, Directory, Speaker};
use crate::identity::{Member, NodeId, Ordinal};
use crate::proto::peer;
use crate::proto::peer::membership_server::Membership;

/// Who this pod is to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// The name under which it is asked (see `Directory::name_of`).
    pub name: String,
    /// What it is called as a member.
    pub member_name: String,
    /// Host and port of its peer service, by name.
    pub peer_address: String,
    /// Where its clients reach it.
    pub client_urls: Vec<String>,
    /// Where its peer service can be reached now; lent to others until its name says so.
    pub reachable_at: Option<SocketAddr>,
    /// Tells first bootstraps apart that have nothing to do with each other; empty in a `StatefulSet`.
    pub token: String,
}

impl Own {
    /// What it is called as a member, and where it is reached; without an id.
    pub(super) fn member(&self) -> Member {
        Member {
            node_id: NodeId::default(),
            name: self.member_name.clone(),
            peer_address: self.peer_address.clone(),
            client_urls: self.client_urls.clone(),
        }
    }

    /// This node of a directory. Where the environment says the pod's address, that is what is lent to others.
    pub fn new(directory: &Directory, client_urls: Vec<String>) -> Self {
        let own = directory.own();
        let ip = match directory {
            Directory::Pods(facts) => facts.pod_ip,
            Directory::Fixed { .. } | Directory::Members { .. } => None,
        };
        Self {
            ordinal: own.ordinal,
            name: directory.name_of(&own),
            member_name: directory.own_name(),
            peer_address: own.to_string(),
            client_urls,
            reachable_at: ip.map(|ip| SocketAddr::new(ip, own.port)),
            token: String::new(),
        }
    }
}

/// Describe, Prepare, Admit, Retire and Change.
pub struct MembershipService {
    pub(super) own: Arc<Own>,
    pub(super) local: Arc<dyn Local>,
    pub(super) lead: Arc<dyn Lead>,
    pub(super) outlook: Outlook,
    pub(super) hurry: Arc<Notify>,
    pub(super) retiring: Arc<Retiring>,
    pub(super) gate: Arc<Gate>,
    pub(super) book: Option<Arc<AddressBook>>,
    pub(super) heard: Arc<Notify>,
    pub(super) journal: Journal,
}

impl MembershipService {
    /// What came with a hello: the address is lent, and the sender is asked at once. What it says of its own disk does not count:
    /// only the answer of the pod that was asked does.
    fn hello(&self, speaker: &Speaker, request: &peer::DescribeRequest) {
        let Some(book) = &self.book else { return };
        let Some(sender) = book.directory().find(&request.sender) else { return };
        if sender.ordinal == self.own.ordinal || !speaker.speaks_for(sender.ordinal) {
            return;
        }
        if let Ok(address) = request.sender_address.parse() {
            book.lend(&sender, address);
        }
        self.heard.notify_one();
    }

    /// Nothing is said of a disk that is not open yet: to be silent is evidence of nothing, to be wrong might be.
    fn loaded(&self) -> Result<(), Status> {
        if self.local.is_loading() {
            return Err(Status::unavailable("the disk of this member is being opened"));
        }
        Ok(())
    }

    /// Whether this is the pod that was asked; else who this is.
    fn addressed(&self, asked: &str) -> Result<(), String> {
        if asked == self.own.name { Ok(()) } else { Err(format!("this is {}, not {asked}", self.own.name)) }
    }

    fn same_cluster(&self, id: u64) -> Result<(), Status> {
        let cluster = self.local.disk().cluster;
        if cluster.0 == id {
            Ok(())
        } else {
            Err(Status::failed_precondition(format!("this is cluster {cluster}")))
        }
    }

    /// Whether `id` is in no committed uniform membership any more; else it is noted that it wants to go.
    fn retire_now(&self, id: NodeId) -> Result<(), String> {
        let view = self.lead.leading().ok_or("this member does not lead")?;
        if !view.members.contains(&id) && view.committed && view.configs.len() == 1 {
            return Ok(());
        }
        if view.members.contains(&id) {
            self.retiring.ask(id);
            self.hurry.notify_one();
        }
        match &self.outlook.size.borrow().desired {
            desired if desired.excludes(id.ordinal()) => Err("its removal is not committed yet".into()),
            Desired::Known(range) => {
                Err(format!("there are to be {range}, ordinal {} included", id.ordinal()))
            }
            Desired::NotUsed => Err("no size is set".into()),
            Desired::Unknown(reason) => Err(format!("the desired size is not known here: {reason}")),
        }
    }

    fn check(&self, asked: &str, prepared: &Prepared) -> Result<(), PrepareRefusal> {
        let wrong = |reason: String| Err(PrepareRefusal::Wrong(reason));
        let (own, id, voters) = (&self.own, prepared.node_id, &prepared.voters);
        self.addressed(asked).map_err(PrepareRefusal::Wrong)?;
        if id.ordinal() != own.ordinal {
            return wrong(format!("node {id} is not for ordinal {}", own.ordinal));
        }
        if prepared.cluster.0 == 0 {
            return wrong("a cluster has a number".into());
        }
        if !voters.is_uniform() || !voters.is_voter(id) || voters.ids().iter().any(|id| !voters.is_voter(*id))
        {
            return wrong(format!(
                "the voters of a first bootstrap are one set of all members, {id} included"
            ));
        }
        Ok(())
    }
}

/// Whether a request about this ordinal is from its pod.
fn speaks_for(speaker: &Speaker, ordinal: u32) -> Result<(), Status> {
    match Ordinal::try_from(ordinal) {
        Ok(ordinal) if !speaker.speaks_for(ordinal) => {
            Err(Status::permission_denied(format!("the certificate is not that of ordinal {ordinal}'s pod")))
        }
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn describe(
        &self,
        request: Request<peer::DescribeRequest>,
    ) -> Result<Response<peer::DescribeResponse>, Status> {
        self.hello(&Speaker::of(request.extensions()), request.get_ref());
        self.loaded()?;
        let mut consensus = self.local.consensus();
        let mut disk = self.local.disk();
        if let Some(view) = consensus.as_mut().filter(|view| view.leader == Some(disk.node_id)) {
            view.desired = self.outlook.size.borrow().desired.range();
        }
        if !disk.has_identity() {
            disk.ordinal = self.own.ordinal;
        }
        Ok(Response::new(peer::DescribeResponse {
            pod: self.own.name.clone(),
            description: Some(wire::description(&disk, consensus.as_ref())),
            consensus: consensus.as_ref().map(wire::consensus),
            member_name: self.own.member_name.clone(),
            client_urls: self.own.client_urls.clone(),
            connected: self.book.as_ref().map(|book| wire::whereabouts(book.connected())).unwrap_or_default(),
            token: self.own.token.clone(),
        }))
    }

    async fn prepare(
        &self,
        request: Request<peer::PrepareRequest>,
    ) -> Result<Response<peer::PrepareResponse>, Status> {
        self.loaded()?;
        let request = request.into_inner();
        let asked = request.asked.clone();
        let prepared =
            wire::from_prepare(request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut taken = self.check(&asked, &prepared);
        if taken.is_ok() {
            // On a task of its own: an asker that gives up must not leave half an identity, or the gate open too early.
            let (gate, local) = (Arc::clone(&self.gate), Arc::clone(&self.local));
            taken = tokio::spawn(async move { gate.hold().await.take(local.as_ref(), prepared).await })
                .await
                .map_err(|error| Status::internal(error.to_string()))?;
        }
        let outcome = match taken {
            Ok(()) => peer::prepare_response::Outcome::Accepted(peer::Blank {}),
            Err(refusal) => peer::prepare_response::Outcome::Refused(refusal.to_string()),
        };
        self.heard.notify_one();
        Ok(Response::new(peer::PrepareResponse { outcome: Some(outcome) }))
    }

    async fn admit(
        &self,
        request: Request<peer::AdmitRequest>,
    ) -> Result<Response<peer::AdmitResponse>, Status> {
        self.loaded()?;
        let speaker = Speaker::of(request.extensions());
        let request = request.into_inner();
        self.addressed(&request.asked).map_err(Status::failed_precondition)?;
        speaks_for(&speaker, request.ordinal)?;
        let applicant =
            wire::from_admit(request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let view = self.outlook.of(self.lead.as_ref());
        let desired = self.outlook.size.borrow().desired.clone();
        let admitted = match may_join(self.local.disk().cluster, view.as_ref(), &desired, &applicant) {
            Ok(()) => self.lead.admit(applicant).await,
            Err(refusal) => Err(refusal),
        };
        if matches!(admitted, Err(AdmitRefusal::Outside(_))) {
            // Its pod was created, so the size that is known here may be an old one.
            self.hurry.notify_one();
        }
        let outcome = match admitted {
            Ok(id) => peer::admit_response::Outcome::NodeId(id.0),
            Err(refusal @ AdmitRefusal::NotListed(..)) => {
                peer::admit_response::Outcome::Never(refusal.to_string())
            }
            Err(refusal) => peer::admit_response::Outcome::Refused(refusal.to_string()),
        };
        Ok(Response::new(peer::AdmitResponse { outcome: Some(outcome) }))
    }

    async fn retire(
        &self,
        request: Request<peer::RetireRequest>,
    ) -> Result<Response<peer::RetireResponse>, Status> {
        self.loaded()?;
        let speaker = Speaker::of(request.extensions());
        let peer::RetireRequest { asked, cluster_id, node_id } = request.into_inner();
        self.addressed(&asked).map_err(Status::failed_precondition)?;
        speaks_for(&speaker, NodeId(node_id).ordinal().into())?;
        self.same_cluster(cluster_id)?;
        let outcome = match self.retire_now(NodeId(node_id)) {
            Ok(()) => peer::retire_response::Outcome::Retired(peer::Blank {}),
            Err(reason) => peer::retire_response::Outcome::Pending(reason),
        };
        Ok(Response::new(peer::RetireResponse { outcome: Some(outcome) }))
    }

    async fn change(
        &self,
        request: Request<peer::ChangeRequest>,
    ) -> Result<Response<peer::ChangeResponse>, Status> {
        self.loaded()?;
        let peer::ChangeRequest { asked, cluster_id, wish } = request.into_inner();
        self.addressed(&asked).map_err(Status::failed_precondition)?;
        self.same_cluster(cluster_id)?;
        let wish = wish.ok_or_else(|| Status::invalid_argument("it wants nothing"))?;
        let wish = operator::wish_from(wish).map_err(|reason| Status::invalid_argument(reason.to_owned()))?;
        let outcome = match self.outlook.of(self.lead.as_ref()) {
            Some(view) => {
                operator::to_wire(operator::step(self.lead.as_ref(), &self.journal, view, &wish).await)
            }
            None => peer::change_response::Outcome::Again("this member does not lead".into()),
        };
        Ok(Response::new(peer::ChangeResponse { outcome: Some(outcome) }))
    }

    async fn locate(
        &self,
        request: Request<peer::LocateRequest>,
    ) -> Result<Response<peer::LocateResponse>, Status> {
        self.loaded()?;
        if request.get_ref().peer_address.len() > crate::limits::URL_BYTES {
            return Err(Status::invalid_argument("too long an address"));
        }
        let view = self.outlook.of(self.lead.as_ref());
        let membership = self.local.disk().membership;
        let found = locate::find(view.as_ref(), &membership, &request.get_ref().peer_address);
        Ok(Response::new(locate::to_wire(found, &membership)))
    }
}
