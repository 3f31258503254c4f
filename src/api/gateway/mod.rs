//! The calls of etcd's API as JSON over plain HTTP, as etcd's own gateway (grpc-gateway with protojson) offers them.
//!
//! It knows messages from their descriptors alone, and calls from [`methods::call`], which gRPC's calls go through too: a method
//! that is served there needs one line in `routes` to be reached from here. It may not know what any method does.
//!
//! Streams are lines of an answer that goes on, or messages of a websocket.
//!
//! * `routes`: which path is which method
//! * `read`: JSON into messages
//! * `write`: messages into JSON
//! * `values`: the JSON values of a body, as they arrive
//! * `unary`, `stream`: one call, and one that answers more than once
//! * `websocket`: a call over a websocket
//! * `answered`: the messages of an answer
//! * `metadata`: what a request's headers tell the method
//! * `status`: failures, as HTTP has them
//! * `origins`: which web pages may read answers

mod answered;
mod metadata;
mod origins;
pub(crate) mod read;
mod routes;
mod status;
mod stream;
mod unary;
mod values;
mod websocket;
pub(crate) mod write;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tokio::sync::Semaphore;
use tonic::Code;

use self::origins::Origins;
use self::routes::Route;
use self::status::Form;
use super::http::PortKind;
use super::{Shared, http as plain_http, methods, redirect};
use crate::limits;
use crate::proto::CLIENT_DESCRIPTORS;
use crate::transport::answers::Answers;
use crate::transport::{Afterwards, AnswerBody, Failure, RequestBody};
use crate::watch::Budget;

/// What all calls of the gateway share.
#[derive(Debug)]
pub(super) struct Gateway {
    /// Read when the first call comes; `None` if they cannot be.
    descriptors: OnceLock<Option<DescriptorPool>>,
    origins: OnceLock<Origins>,
    /// KiB of JSON that may still be buffered.
    room: Arc<Semaphore>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            descriptors: OnceLock::new(),
            origins: OnceLock::new(),
            room: Arc::new(Semaphore::new(limits::GATEWAY_BUFFERED_BYTES >> 10)),
        }
    }
}

impl Gateway {
    /// See [`super::Api::allow_origins`].
    pub(super) fn allow_origins(&self, origins: &[String]) {
        self.origins.get_or_init(|| Origins::new(origins));
    }

    fn origins(&self) -> &Origins {
        self.origins.get_or_init(Origins::default)
    }

    fn method(&self, route: Route) -> Result<MethodDescriptor, Failure> {
        let descriptors = self.descriptors.get_or_init(|| match DescriptorPool::decode(CLIENT_DESCRIPTORS) {
            Ok(descriptors) => Some(descriptors),
            Err(error) => {
                tracing::error!(%error, "the descriptors cannot be read; JSON is not served");
                None
            }
        });
        let unknown = |what: String| Failure::new(Code::Unimplemented, what);
        // The texts are those of grpc-go, as for a call by gRPC.
        let service = descriptors
            .as_ref()
            .and_then(|descriptors| descriptors.get_service_by_name(route.service))
            .ok_or_else(|| unknown(format!("unknown service {}", route.service)))?;
        service
            .methods()
            .find(|method| method.name() == route.method)
            .ok_or_else(|| unknown(format!("unknown method {} for service {}", route.method, route.service)))
    }
}

/// One call that the gateway makes.
struct Call<'a> {
    api: &'a Arc<Shared>,
    answers: &'a Answers,
    budget: &'a Budget,
    route: Route,
    method: MethodDescriptor,
}

impl Call<'_> {
    /// The answer of the method, as a gRPC client would get it.
    async fn answer(
        &self,
        metadata: http::HeaderMap,
        body: RequestBody,
    ) -> Result<answered::Answered, Failure> {
        let request = self.route.request(metadata, body)?;
        let response = methods::call(self.api, self.answers, self.budget, request).await;
        Ok(answered::Answered::new(response))
    }
}

/// See [`super::json_paths`].
pub(super) fn paths() -> impl Iterator<Item = (String, String)> {
    routes::all().map(|(name, route)| (format!("/v3/{name}"), route.path()))
}

/// Answers a plain HTTP request on the client port, whether it is for the gateway or not.
pub(super) async fn answer(
    api: &Arc<Shared>,
    answers: &Answers,
    budget: &Budget,
    afterwards: &Afterwards,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let allowed = api.gateway.origins().allowed(request.headers());
    let mut response = if request.method() == Method::OPTIONS {
        // As etcd: whatever is asked, and nothing more than the headers.
        Response::new(AnswerBody::Plain(Bytes::new()))
    } else if let Some(elsewhere) = redirect::answer(&request) {
        elsewhere
    } else if let Some(name) = routes::name_of(request.uri().path()) {
        match (routes::find(name), request.method() == Method::POST) {
            (route, _) if websocket::is_asked_for(&request) => {
                websocket::answer(api, answers, budget, afterwards, route, request)
            }
            (Some(route), true) => called(api, answers, budget, route, request).await,
            (Some(_), false) => {
                status::response(&Failure::new(Code::Unimplemented, "Method Not Allowed"), Form::Bare)
            }
            (None, _) => status::response(&Failure::new(Code::NotFound, "Not Found"), Form::Bare),
        }
    } else {
        plain_http::answer(api, PortKind::Client, answers, &request).await
    };
    if let Some(origin) = allowed.filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS) {
        origins::allow(origin, response.headers_mut());
    }
    response
}

async fn called<B>(
    api: &Arc<Shared>,
    answers: &Answers,
    budget: &Budget,
    route: Route,
    request: Request<B>,
) -> Response<AnswerBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let method = match api.gateway.method(route) {
        Ok(method) => method,
        Err(failure) => return status::response(&failure, Form::Bare),
    };
    let call = Call { api, answers, budget, route, method };
    if call.method.is_server_streaming() {
        stream::answer(call, request).await
    } else {
        unary::answer(&call, request).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    /// What is served and has a path in etcd can be reached.
    #[test]
    fn routes_lead_to_methods() {
        let gateway = Gateway::default();
        let mut unknown = Vec::new();
        for (_, route) in routes::all() {
            match gateway.method(route) {
                Ok(method) => assert_eq!(method.name(), route.method),
                Err(failure) => {
                    assert_eq!(failure.code, Code::Unimplemented);
                    unknown.push(route.service);
                }
            }
        }
        assert!(!unknown.contains(&"etcdserverpb.KV"), "{unknown:?}");
        let pool = gateway.descriptors.get().unwrap().as_ref().unwrap();
        // etcd has no path for these.
        let pathless = ["RangeStream"];
        for service in pool.services().filter(|service| !service.full_name().starts_with("setstone.")) {
            for method in service.methods().filter(|method| !pathless.contains(&method.name())) {
                let is_routed = routes::all()
                    .any(|(_, route)| route.service == service.full_name() && route.method == method.name());
                assert!(is_routed, "{} has no path", method.full_name());
            }
        }
    }

    /// What `read` does not take apart does not occur.
    #[test]
    fn messages_have_no_maps_and_no_well_known_types() {
        let pool = DescriptorPool::decode(CLIENT_DESCRIPTORS).unwrap();
        for message in pool.all_messages() {
            assert!(!message.full_name().starts_with("google.protobuf."), "{}", message.full_name());
            assert!(message.fields().all(|field| !field.is_map()), "{}", message.full_name());
        }
    }
}
