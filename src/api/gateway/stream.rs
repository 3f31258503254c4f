//! One call that is answered by any number of lines, `{"result":…}` each, and by `{"error":…}` if it fails. If the client sends a
//! stream too, its body is any number of JSON values, which are read while the answers go out.

use std::fmt;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use prost_reflect::MessageDescriptor;
use tokio::time::Instant;
use tonic::Code;

use super::answered::Answered;
use super::status::{Form, JSON};
use super::values::Values;
use super::{Call, metadata, read, status, unary, write};
use crate::transport::answers::Answers;
use crate::transport::request::BodyError;
use crate::transport::{AnswerBody, Failure, RequestBody, grpc};

/// Answers it. The head of the answer waits for the first line, because a failure has a status of its own until then.
pub(super) async fn answer<B>(call: Call<'_>, request: Request<B>) -> Response<AnswerBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    let (head, body) = request.into_parts();
    let deadline = match metadata::timeout(&head.headers) {
        Ok(timeout) => timeout.map(|timeout| Instant::now() + timeout),
        Err(failure) => return status::response(&failure, Form::Bare),
    };
    let body = if call.method.is_client_streaming() {
        Ok(messages(&call, body))
    } else {
        unary::message(&call, body).await
    };
    let body = match body {
        Ok(body) => body,
        Err(failure) => return status::response(&failure, Form::Bare),
    };
    let metadata = metadata::of(&head.headers);
    let (kind, answers) = (call.method.output(), call.answers.clone());
    let answered = match call.answer(metadata, body).await {
        Ok(answered) => answered,
        Err(failure) => return status::response(&failure, Form::Line),
    };
    let mut lines = Lines { answered, deadline, kind, answers, has_failed: false };
    let first = match lines.next().await {
        Some(Err(failure)) => return status::response(&failure, Form::Line),
        Some(Ok(line)) => line,
        // Nothing to say is said without a content type.
        None => return Response::new(AnswerBody::Plain(Bytes::new())),
    };
    let frames = futures::stream::unfold((Some(first), lines), |(first, mut lines)| async move {
        let line = match first {
            Some(line) => line,
            None => match lines.next().await? {
                Ok(line) => line,
                Err(failure) => status::text(&failure, Form::Line),
            },
        };
        Some((Ok::<_, tonic::Status>(Frame::data(line)), (None, lines)))
    });
    let mut response = Response::new(AnswerBody::Stream(tonic::body::Body::new(StreamBody::new(frames))));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// The messages of a body, made as they are asked for. One that is none ends them, as if the client had said no more: so etcd does.
fn messages<B>(call: &Call<'_>, body: B) -> RequestBody
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display,
{
    let (values, kind) = (Values::new(body, &call.api.gateway.room), call.method.input());
    let messages = futures::stream::unfold((values, kind), |(mut values, kind)| async move {
        let message = match values.next().await {
            Ok(Some(text)) => read::read(&kind, &text),
            Ok(None) => return None,
            Err(failure) => Err(failure),
        };
        match message {
            Ok(message) => {
                let frame = Frame::data(grpc::encode(&message));
                Some((Ok::<_, BodyError>(frame), (values, kind)))
            }
            Err(failure) if failure.code == Code::InvalidArgument => None,
            Err(failure) => Some((Err(failure.into()), (values, kind))),
        }
    });
    RequestBody::Made(Box::pin(StreamBody::new(messages)))
}

/// What is answered, a line at a time.
struct Lines {
    answered: Answered,
    deadline: Option<Instant>,
    kind: MessageDescriptor,
    answers: Answers,
    has_failed: bool,
}

impl Lines {
    /// The next line; `None` after the last, or after a failure.
    async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        if self.has_failed {
            return None;
        }
        let next = self.answered.next();
        let answered = match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, next)
                .await
                .unwrap_or_else(|_| Some(Err(metadata::too_late()))),
            None => next.await,
        };
        let line = answered?.and_then(|message| self.line(message));
        self.has_failed = line.is_err();
        Some(line)
    }

    fn line(&self, message: Bytes) -> Result<Bytes, Failure> {
        let mut line = Vec::with_capacity(message.len() * 2 + 128);
        line.extend_from_slice(b"{\"result\":");
        write::write(&self.kind, message, &mut line)?;
        line.extend_from_slice(b"}\n");
        Ok(self.answers.count(line.into()))
    }
}
