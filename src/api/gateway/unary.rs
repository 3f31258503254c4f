//! One call that is answered once.

use std::fmt;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::Body;
use prost_reflect::DynamicMessage;
use tonic::Code;

use super::status::{Form, JSON};
use super::values::Values;
use super::{Call, metadata, read, status, write};
use crate::transport::{AnswerBody, Failure, RequestBody, grpc};

/// Answers it.
pub(super) async fn answer<B>(call: &Call<'_>, request: Request<B>) -> Response<AnswerBody>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    match json_answer(call, request).await {
        Ok(text) => {
            let mut response = Response::new(AnswerBody::Plain(call.answers.count(text)));
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            response
        }
        Err(failure) => status::response(&failure, Form::Bare),
    }
}

async fn json_answer<B>(call: &Call<'_>, request: Request<B>) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let (head, body) = request.into_parts();
    let timeout = metadata::timeout(&head.headers)?;
    let body = message(call, body).await?;
    let asked = async {
        let mut answered = call.answer(metadata::of(&head.headers), body).await?;
        answered.next().await.unwrap_or_else(|| Err(Failure::new(Code::Internal, "there is no answer")))
    };
    let message = match timeout {
        Some(timeout) => {
            tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| Err(metadata::too_late()))
        }
        None => asked.await,
    }?;
    // Of base64, names and the ends of it all.
    let mut text = Vec::with_capacity(message.len() * 2 + 128);
    write::write(&call.method.output(), message, &mut text)?;
    Ok(text.into())
}

/// The one message of a call that sends one. A body without any is an empty message.
pub(super) async fn message<B>(call: &Call<'_>, body: B) -> Result<RequestBody, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let text = Values::new(body, &call.api.gateway.room).only().await?;
    let kind = call.method.input();
    let message = if text.is_empty() { DynamicMessage::new(kind) } else { read::read(&kind, &text)? };
    Ok(RequestBody::Message(Some(grpc::encode(&message))))
}
