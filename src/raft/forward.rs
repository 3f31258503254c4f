//! Requests of a follower's clients, handed to the leader over one stream: whatever waits goes into one message.

use std::collections::BTreeMap;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::network::PeerChannels;
use super::proposer::{Pending, ReplyTo};
use super::wire::{self, Proposed};
use crate::error::Error;
use crate::identity::NodeId;
use crate::limits;
use crate::proto::peer::{ForwardRequest, ForwardResponse, ForwardedRequest};

/// Messages that wait for the connection; more wait in the queue before.
const MESSAGES_IN_FLIGHT: usize = 16;

/// A request and the leader that it is for.
pub(crate) struct Forwarded {
    pub(crate) leader: NodeId,
    pub(crate) pending: Pending,
}

/// The stream to one leader, and what it has not answered.
struct Link {
    leader: NodeId,
    outgoing: mpsc::Sender<ForwardRequest>,
    answers: Streaming<ForwardResponse>,
    unanswered: BTreeMap<u64, Pending>,
    next_number: u64,
}

/// Runs until `cancel`.
pub(crate) async fn run(
    peers: PeerChannels,
    mut queue: mpsc::Receiver<Forwarded>,
    cancel: CancellationToken,
) {
    let mut link: Option<Link> = None;
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            count = queue.recv_many(&mut waiting, limits::BATCH_REQUESTS) => {
                if count == 0 {
                    break;
                }
                send_all(&peers, &mut link, &mut waiting).await;
            }
            answer = next_answer(&mut link) => {
                if !take_answer(&mut link, answer) {
                    // What was sent and not answered is of unknown outcome: dropping it says so.
                    link = None;
                }
            }
            () = cancel.cancelled() => break,
        }
    }
    queue.close();
    while let Some(forwarded) = queue.recv().await {
        forwarded.pending.reply.answer(Err(Error::Stopped));
    }
}

async fn next_answer(link: &mut Option<Link>) -> Option<ForwardResponse> {
    let Some(link) = link else { return std::future::pending().await };
    match link.answers.next().await? {
        Ok(response) => Some(response),
        Err(status) => {
            tracing::info!(leader = %link.leader, text = status.message(), "the stream to the leader broke");
            None
        }
    }
}

/// False if the stream has ended.
fn take_answer(link: &mut Option<Link>, answer: Option<ForwardResponse>) -> bool {
    let (Some(link), Some(answer)) = (link.as_mut(), answer) else { return false };
    for reply in answer.replies {
        let Some(pending) = link.unanswered.remove(&reply.number) else { continue };
        pending.reply.answer(proposed_of(reply.reply));
    }
    true
}

fn proposed_of(reply: Option<crate::proto::peer::Reply>) -> Proposed {
    let reply = reply.ok_or_else(|| Error::OutcomeUnknown("the leader's answer is empty".into()))?;
    wire::proposed_from_wire(reply)?.ok_or(Error::NoLeader)
}

async fn send_all(peers: &PeerChannels, link: &mut Option<Link>, waiting: &mut Vec<Forwarded>) {
    // Requests for different leaders in one go are rare: the last one names the newest.
    let Some(leader) = waiting.last().map(|forwarded| forwarded.leader) else { return };
    if link.as_ref().is_none_or(|link| link.leader != leader) {
        *link = open(peers, leader).await;
    }
    let Some(open) = link.as_mut() else {
        for forwarded in waiting.drain(..) {
            forwarded.pending.reply.answer(Err(Error::NoLeader));
        }
        return;
    };
    let mut requests = Vec::with_capacity(waiting.len());
    let mut bytes = 0;
    for forwarded in waiting.drain(..) {
        let number = open.next_number;
        open.next_number += 1;
        bytes += forwarded.pending.request.len();
        requests.push(ForwardedRequest { number, request: forwarded.pending.request.clone() });
        open.unanswered.insert(number, forwarded.pending);
        if bytes >= limits::BATCH_BYTES {
            bytes = 0;
            let requests = std::mem::take(&mut requests);
            if open.outgoing.send(ForwardRequest { envelope: None, requests }).await.is_err() {
                *link = None;
                return;
            }
        }
    }
    if !requests.is_empty() && open.outgoing.send(ForwardRequest { envelope: None, requests }).await.is_err()
    {
        *link = None;
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
            return None;
        }
        Err(_) => return None,
    };
    Some(Link { leader, outgoing, answers, unanswered: BTreeMap::new(), next_number: 0 })
}

/// For a request that never reached the queue.
pub(crate) fn refuse(reply: ReplyTo, error: Error) {
    reply.answer(Err(error));
}
