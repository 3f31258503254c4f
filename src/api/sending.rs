//! Calls with one request and a stream of answers that are made here: how they are received, counted, sent and ended.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use prost::Message;
use tokio::time::Interval;
use tonic::Code;

use super::{Shared, leader, refused, texts, watch};
use crate::metrics::{MethodMetrics, Metrics};
use crate::transport::{AnswerBody, Failure, grpc};

/// The counters of these calls.
pub(super) struct SendingMethods {
    pub(super) range_stream: MethodMetrics,
    pub(super) observe: MethodMetrics,
}

impl SendingMethods {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            range_stream: metrics.method("etcdserverpb.KV", "RangeStream", "server_stream"),
            observe: metrics.method("v3electionpb.Election", "Observe", "server_stream"),
        }
    }
}

/// Encoded messages, each ready for the wire. An error is the last.
type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// Receives the one request, and sends what `answer` makes of it: until it ends, the member stops, or, if the client wants a leader, none
/// was known for some time.
pub(super) async fn call<M, B, S>(
    api: &Arc<Shared>,
    metrics: &MethodMetrics,
    request: Request<B>,
    answer: impl FnOnce(M) -> S,
) -> Response<AnswerBody>
where
    M: Message + Default,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
    S: Stream<Item = Result<Bytes, Failure>> + Send + 'static,
{
    let wants_leader = leader::is_wanted(request.headers());
    if wants_leader && api.store.position().leader.is_none() {
        return grpc::failure(&texts::NO_LEADER.into());
    }
    metrics.started();
    let messages: Messages = match grpc::receive(request.into_body()).await {
        Ok((message, size)) => {
            api.metrics.client_bytes_received.inc_by(size as u64);
            Box::pin(answer(message))
        }
        Err(failure) => Box::pin(futures::stream::iter([Err(failure)])),
    };
    let sending = Sending {
        api: Arc::clone(api),
        metrics: metrics.clone(),
        messages,
        leader_looks: wants_leader.then(watch::leader_looks),
        leaderless: 0,
        code: Code::Cancelled,
        has_ended: false,
    };
    let frames = futures::stream::unfold(sending, |mut sending| async move {
        let frame = sending.next_frame().await?;
        Some((Ok::<_, tonic::Status>(frame), sending))
    });
    grpc::stream(tonic::body::Body::new(http_body_util::StreamBody::new(frames)))
}

/// One call.
struct Sending {
    api: Arc<Shared>,
    metrics: MethodMetrics,
    messages: Messages,
    leader_looks: Option<Interval>,
    leaderless: u32,
    code: Code,
    has_ended: bool,
}

impl Sending {
    async fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        if self.has_ended {
            return None;
        }
        let Self { api, messages, leader_looks, leaderless, .. } = self;
        let message = tokio::select! {
            biased;
            // First, because a call that always has something to send must end, too.
            () = api.stopping.cancelled() => Some(Err(texts::STOPPED.into())),
            () = watch::no_leader(api, leader_looks, leaderless) => Some(Err(texts::NO_LEADER.into())),
            message = messages.next() => message,
        };
        Some(match message {
            Some(Ok(bytes)) => {
                self.api.metrics.client_bytes_sent.inc_by(bytes.len() as u64);
                Frame::data(bytes)
            }
            Some(Err(failure)) => {
                refused::count(&self.api, &failure, false);
                self.end(failure.code, grpc::trailers(&failure))
            }
            None => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(grpc::STATUS, HeaderValue::from_static("0"));
                self.end(Code::Ok, trailers)
            }
        })
    }

    fn end(&mut self, code: Code, trailers: HeaderMap) -> Frame<Bytes> {
        self.has_ended = true;
        self.code = code;
        Frame::trailers(trailers)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.metrics.handled(self.code as i32);
    }
}
