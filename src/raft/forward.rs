//! Requests of a follower's clients, handed to the leader over one stream: whatever waits goes into one message.
//!
//! When the leader changes, a new stream takes the requests from then on, and the old one still takes the answers that are
//! under way: a leader that stops hands over first, answers what it has proposed, and says that it takes no more.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Streaming;

use super::lease::LeaseQuestion;
use super::network::PeerChannels;
use super::proposer::{Held, ReplyTo};
use super::room::{Growth, Room};
use super::wire::{self, Proposed};
use crate::env::simulated::{self, Bug};
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::mvcc::command::Refusal;
use crate::proto::peer;
use crate::proto::peer::{ForwardRequest, ForwardResponse, ForwardedReply, ForwardedRequest};

/// Messages that wait for the connection; more wait in the queue before.
const MESSAGES_IN_FLIGHT: usize = 16;

/// What is handed to the leader.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// A `setstone.log.v1.Request`.
    Propose(Bytes, Growth),
    /// What the leader answers from its memory.
    Lease(LeaseQuestion),
}

impl Ask {
    fn grows(&self) -> bool {
        matches!(self, Self::Propose(_, Growth::Grows))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Propose(request, _) => request.len(),
            Self::Lease(_) => limits::LEASE_QUESTION_BYTES,
        }
    }

    fn numbered(&self, number: u64) -> ForwardedRequest {
        match self {
            Self::Propose(request, _) => ForwardedRequest { number, request: request.clone(), lease: None },
            Self::Lease(LeaseQuestion { id, renew }) => {
                let lease = peer::LeaseQuestion { id: *id, renew: *renew };
                ForwardedRequest { number, request: Bytes::new(), lease: Some(lease) }
            }
        }
    }
}

/// One that is on its way.
pub(crate) struct Waiting {
    pub(crate) ask: Ask,
    pub(crate) reply: ReplyTo,
    pub(crate) _held: Held,
}

/// One and the leader that it is for.
pub(crate) struct Forwarded {
    pub(crate) leader: NodeId,
    pub(crate) waiting: Waiting,
}

/// The streams of followers to this member.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followers {
    streams: TaskTracker,
    ending: CancellationToken,
}

impl Followers {
    /// A stream that begins; `None` if no more are taken.
    pub(crate) fn enter(&self) -> Option<Entered> {
        let entered = Entered { _open: self.streams.token(), ending: self.ending.clone(), told: false };
        (!self.ending.is_cancelled()).then_some(entered)
    }

    /// Takes no more. Returns when every follower has the answers to what it has sent, and has left.
    pub(crate) async fn end(&self) {
        self.ending.cancel();
        self.streams.close();
        self.streams.wait().await;
    }
}

/// A stream of a follower, as long as it reads its answers.
pub(crate) struct Entered {
    _open: TaskTrackerToken,
    ending: CancellationToken,
    told: bool,
}

impl Entered {
    /// The answers, and among them that no more is taken. They end with `replies`; once that is told, the follower ends them: it knows
    /// when it has all.
    pub(crate) fn answers(
        self,
        replies: impl Stream<Item = Vec<ForwardedReply>> + Send + Unpin + 'static,
    ) -> impl Stream<Item = Result<ForwardResponse, tonic::Status>> + Send {
        futures::stream::unfold((self, replies), |(mut entered, mut replies)| async move {
            let response = tokio::select! {
                some = replies.next() => match some {
                    Some(replies) => ForwardResponse { replies, ending: false },
                    None if entered.told => std::future::pending().await,
                    None => return None,
                },
                () = entered.ending.cancelled(), if !entered.told => {
                    entered.told = true;
                    ForwardResponse { replies: Vec::new(), ending: true }
                }
            };
            Some((Ok(response), (entered, replies)))
        })
    }
}

/// Runs until `cancel`: hands each request to the link of its leader.
pub(crate) async fn run(
    peers: PeerChannels,
    mut queue: mpsc::Receiver<Forwarded>,
    room: Arc<Room>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let mut current: Option<(NodeId, mpsc::Sender<Waiting>)> = None;
    loop {
        let forwarded = tokio::select! {
            forwarded = queue.recv() => forwarded,
            () = cancel.cancelled() => None,
        };
        let Some(Forwarded { leader, waiting: mut pending }) = forwarded else { break };
        if let Some((to, link)) = &current
            && *to == leader
        {
            match link.send(pending).await {
                Ok(()) => continue,
                // The link broke; this one was not sent.
                Err(mpsc::error::SendError(back)) => pending = back,
            }
        }
        let (link, requests) = mpsc::channel(limits::BATCH_REQUESTS);
        // There is room for one.
        let _ = link.try_send(pending);
        tasks.spawn(serve(peers.clone(), leader, requests, room.clone(), cancel.clone()));
        current = Some((leader, link));
    }
    queue.close();
    while let Some(forwarded) = queue.recv().await {
        forwarded.waiting.reply.answer(Err(Error::Stopped));
    }
}

/// The stream to one leader, and what it has not answered.
struct Link {
    leader: NodeId,
    /// `None` when no more is sent.
    outgoing: Option<mpsc::Sender<ForwardRequest>>,
    answers: Streaming<ForwardResponse>,
    /// Dropped unanswered, a request is of unknown outcome.
    unanswered: BTreeMap<u64, Waiting>,
    next_number: u64,
}

/// Serves one leader until its stream breaks, or another leads and all is answered.
async fn serve(
    peers: PeerChannels,
    leader: NodeId,
    mut requests: mpsc::Receiver<Waiting>,
    room: Arc<Room>,
    cancel: CancellationToken,
) {
    let link = tokio::select! {
        link = open(&peers, leader) => link,
        () = cancel.cancelled() => None,
    };
    if let Some(link) = link {
        tokio::select! {
            () = link.run(&mut requests, &room) => {}
            () = cancel.cancelled() => {}
        }
    }
    return_unsent(&mut requests, &mut Vec::new()).await;
}

/// Answers what was never sent: another leader may take it.
async fn return_unsent(requests: &mut mpsc::Receiver<Waiting>, waiting: &mut Vec<Waiting>) {
    requests.close();
    for pending in waiting.drain(..) {
        pending.reply.answer(Err(Error::NoLeader));
    }
    while let Some(pending) = requests.recv().await {
        pending.reply.answer(Err(Error::NoLeader));
    }
}

async fn open(peers: &PeerChannels, leader: NodeId) -> Option<Link> {
    let (mut client, envelope) = peers.connect(leader).ok()?;
    let (outgoing, messages) = mpsc::channel(MESSAGES_IN_FLIGHT);
    outgoing.try_send(ForwardRequest { envelope: Some(envelope), requests: Vec::new() }).ok()?;
    let call = client.forward(ReceiverStream::new(messages));
    let answers = match tokio::time::timeout(limits::PEER_CONNECT_TIMEOUT, call).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => {
            tracing::debug!(%leader, text = status.message(), "the leader does not take requests");
            peers.note_refusal(leader, &status);
            return None;
        }
        Err(_) => return None,
    };
    Some(Link { leader, outgoing: Some(outgoing), answers, unanswered: BTreeMap::new(), next_number: 0 })
}

impl Link {
    async fn run(mut self, requests: &mut mpsc::Receiver<Waiting>, space: &Room) {
        let mut waiting = Vec::new();
        while self.outgoing.is_some() || !self.unanswered.is_empty() {
            let outgoing = self.outgoing.clone();
            // Answers are read while a message waits for the connection: the leader takes no more until they are.
            tokio::select! {
                room = room(outgoing, requests, &mut waiting) => match room {
                    Some(permit) => {
                        if space.is_low() {
                            refuse_growth(&mut waiting);
                        }
                        self.send(permit, &mut waiting);
                    }
                    None => self.outgoing = None,
                },
                answer = self.answers.next() => {
                    if !self.take_answer(answer) {
                        break;
                    }
                    if self.outgoing.is_none() {
                        return_unsent(requests, &mut waiting).await;
                    }
                }
            }
        }
        return_unsent(requests, &mut waiting).await;
    }

    /// Sends what waits, up to one message.
    fn send(&mut self, permit: mpsc::OwnedPermit<ForwardRequest>, waiting: &mut Vec<Waiting>) {
        let mut bytes = 0;
        let count = waiting
            .iter()
            .take_while(|pending| {
                let fits = bytes < limits::BATCH_BYTES;
                bytes += pending.ask.bytes();
                fits
            })
            .count();
        let mut requests = Vec::with_capacity(count);
        for pending in waiting.drain(..count) {
            let number = self.next_number;
            self.next_number += 1;
            if simulated::planted(Bug::ForwardTwice) {
                requests.push(pending.ask.numbered(u64::MAX));
            }
            requests.push(pending.ask.numbered(number));
            self.unanswered.insert(number, pending);
        }
        permit.send(ForwardRequest { envelope: None, requests });
    }

    /// False if the stream has ended.
    fn take_answer(&mut self, answer: Option<Result<ForwardResponse, tonic::Status>>) -> bool {
        let response = match answer {
            Some(Ok(response)) => response,
            Some(Err(status)) => {
                tracing::info!(leader = %self.leader, text = status.message(), "the stream to the leader broke");
                return false;
            }
            None => return false,
        };
        if response.ending {
            self.outgoing = None;
        }
        for reply in response.replies {
            let Some(pending) = self.unanswered.remove(&reply.number) else { continue };
            pending.reply.answer(proposed_of(reply.reply));
        }
        true
    }
}

/// Fills `waiting`, then waits for room in the connection. `None` if nothing more will be sent. Loses nothing when it is
/// dropped: what was taken is in `waiting`.
async fn room(
    outgoing: Option<mpsc::Sender<ForwardRequest>>,
    requests: &mut mpsc::Receiver<Waiting>,
    waiting: &mut Vec<Waiting>,
) -> Option<mpsc::OwnedPermit<ForwardRequest>> {
    let Some(outgoing) = outgoing else { return std::future::pending().await };
    if waiting.is_empty() && requests.recv_many(waiting, limits::BATCH_REQUESTS).await == 0 {
        return None;
    }
    outgoing.reserve_owned().await.ok()
}

fn proposed_of(reply: Option<crate::proto::peer::Reply>) -> Proposed {
    let reply = reply.ok_or_else(|| Error::OutcomeUnknown("the leader's answer is empty".into()))?;
    wire::proposed_from_wire(reply)?.ok_or(Error::NoLeader)
}

/// What makes the store grow is not handed on where there is no room: an alarm may wait behind it.
fn refuse_growth(waiting: &mut Vec<Waiting>) {
    for refused in waiting.extract_if(.., |waiting| waiting.ask.grows()) {
        refused.reply.answer(Err(Refusal::NoSpace.into()));
    }
}

/// For a request that never reached the queue.
pub(crate) fn refuse(reply: ReplyTo, error: Error) {
    reply.answer(Err(error));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    type Replies = mpsc::UnboundedSender<Vec<ForwardedReply>>;

    fn begin(followers: &Followers) -> (Replies, impl Stream<Item = ForwardResponse> + use<>) {
        let (replies, answered) = mpsc::unbounded_channel();
        let answers = followers.enter().unwrap().answers(UnboundedReceiverStream::new(answered));
        (replies, answers.map(Result::unwrap).boxed())
    }

    #[tokio::test]
    async fn answers_end_with_what_is_answered() {
        let (replies, answers) = begin(&Followers::default());
        replies.send(vec![ForwardedReply { number: 7, reply: None }]).unwrap();
        drop(replies);
        let answers: Vec<ForwardResponse> = answers.collect().await;
        assert_eq!(answers.len(), 1);
        assert_eq!((answers[0].replies[0].number, answers[0].ending), (7, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_that_was_told_leaves_when_it_has_all_answers() {
        let followers = Followers::default();
        let (replies, mut answers) = begin(&followers);
        let leader = followers.clone();
        let mut end = tokio::spawn(async move { leader.end().await });
        let told = answers.next().await.unwrap();
        assert!(told.ending && told.replies.is_empty());
        assert!(followers.enter().is_none(), "no more are taken");
        replies.send(vec![ForwardedReply { number: 7, reply: None }]).unwrap();
        drop(replies);
        assert_eq!(answers.next().await.unwrap().replies[0].number, 7);
        let long = Duration::from_hours(1);
        assert!(tokio::time::timeout(long, answers.next()).await.is_err(), "it has not left yet");
        assert!(tokio::time::timeout(long, &mut end).await.is_err());
        drop(answers);
        end.await.unwrap();
    }
}
