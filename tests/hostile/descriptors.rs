//! Every method that the descriptors name, called with messages that nobody would send, by gRPC and as JSON: each is answered with a
//! code of etcd's, nothing panics, memory stays bounded, and the server serves on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::Request;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MethodDescriptor, SerializeOptions};
use serde_json::Value;
use setstone::proto::CLIENT_DESCRIPTORS;
use setstone::{Config, Node};
use tokio::time::Instant;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::messages::{Dice, broken, broken_json, message};
use super::web::{self, Version};
use super::{MEMORY, channel, resident};

/// Messages for each method, each of which is sent whole and broken, by gRPC and as JSON.
const CASES: u64 = 24;
/// Time for an answer that must come.
const ANSWER: Duration = Duration::from_secs(30);
/// Time that a call gets whose method may wait for ever.
const PATIENCE: Duration = Duration::from_millis(150);
/// Methods with one answer that wait until somebody else lets go.
const WAITING: [&str; 2] = ["Lock", "Campaign"];
/// Bytes by which this process may have grown: what all the values that were stored take, several times over.
const GROWTH_BYTES: usize = 512 << 20;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Sends bytes, whether they are a message or not.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

fn may_wait(method: &MethodDescriptor) -> bool {
    method.is_server_streaming() || WAITING.contains(&method.name())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_answers_what_nobody_would_send() {
    let _alone = MEMORY.write().await;
    let before_us = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before_us(panic);
    }));
    let node = Node::start(Config::in_memory("hostile")).await.unwrap();
    node.ready(Instant::now() + ANSWER).await.unwrap();
    let address = node.addresses().client;
    let channel = channel(address).await;
    let json_paths: Vec<(String, String)> = setstone::api::json_paths().collect();
    let pool = DescriptorPool::decode(CLIENT_DESCRIPTORS).unwrap();
    let before = resident();
    let (mut by_grpc, mut by_json) = (0, 0);
    for (number, method) in
        pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).enumerate()
    {
        let json_path = json_paths.iter().find(|(_, called)| *called == path(&method)).map(|(json, _)| json);
        for case in 0..CASES {
            let mut dice = Dice((number as u64) << 32 | case);
            let message = message(&method.input(), &mut dice, 0);
            let bytes = message.encode_to_vec();
            for bytes in [bytes.clone(), broken(bytes, &mut dice)] {
                grpc(&channel, &method, bytes.into()).await;
                by_grpc += 1;
            }
            let Some(json_path) = json_path else { continue };
            let options = SerializeOptions::new().use_proto_field_name(case % 2 == 0);
            let text =
                message.serialize_with_options(serde_json::value::Serializer, &options).unwrap().to_string();
            for text in [text.clone(), broken_json(text, &mut dice)] {
                json(address, json_path, &method, text).await;
                by_json += 1;
            }
        }
    }
    println!("{by_grpc} calls by gRPC and {by_json} as JSON");
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "something panicked");
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_BYTES, "{} MiB more than before", grown >> 20);
    let mut version =
        web::send(address, Version::Http1, Request::get("/version").body(web::whole("")).unwrap()).await;
    assert!(version.status == 200 && !version.text().await.is_empty());
    let status = Bytes::new();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = "/etcdserverpb.Maintenance/Status".parse().unwrap();
    client.unary(tonic::Request::new(status), path, Raw).await.unwrap();
    node.shutdown().await;
}

/// A failure must be one that etcd has. `Internal` is only said of what is no message.
fn check(label: &str, code: Code, text: &str) {
    let is_no_message = text.contains("unmarshal") || text.contains("decode");
    assert!(code != Code::Internal || is_no_message, "{label}: {code:?} {text}");
    assert!(!text.is_empty() && text.len() < 2_000, "{label}: {code:?}, {} bytes of text", text.len());
}

async fn grpc(channel: &Channel, method: &MethodDescriptor, bytes: Bytes) {
    let label = format!("{} with {bytes:?}", path(method)).chars().take(1_000).collect::<String>();
    let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    client.ready().await.unwrap();
    let path = path(method).parse().unwrap();
    let answered = async {
        let requests = tonic::Request::new(tokio_stream::once(bytes));
        let mut answers = client.streaming(requests, path, Raw).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let limit = if may_wait(method) { PATIENCE } else { ANSWER };
    match tokio::time::timeout(limit, answered).await {
        Ok(Ok(())) => {}
        Ok(Err(status)) => {
            // What broke off has a cause of its own, and no trailers.
            assert!(std::error::Error::source(&status).is_none(), "{label}: {status:?}");
            check(&label, status.code(), status.message());
        }
        Err(_) => assert!(may_wait(method), "{label}: there is no answer"),
    }
}

async fn json(address: SocketAddr, path: &str, method: &MethodDescriptor, text: String) {
    let label = format!("{path} with {text}").chars().take(1_000).collect::<String>();
    let answered = async {
        let mut answer = web::post(address, path, text).await;
        assert!(answer.status == 200 || answer.header("content-type") == "application/json", "{label}");
        if answer.status != 200 {
            // A line of a stream, or what is wrong with the request.
            let body = answer.json().await;
            failed(&label, body.get("error").unwrap_or(&body));
        } else if method.is_server_streaming() {
            while let Some(line) = answer.line().await {
                let line: Value =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{label}: {error}: {line}"));
                if let Some(failure) = line.get("error") {
                    failed(&label, failure);
                }
            }
        } else {
            answer.json().await;
        }
    };
    let limit = if may_wait(method) { PATIENCE } else { ANSWER };
    let in_time = tokio::time::timeout(limit, answered).await.is_ok();
    assert!(in_time || may_wait(method), "{label}: there is no answer");
}

fn failed(label: &str, failure: &Value) {
    let code = failure["code"].as_i64().unwrap_or_else(|| panic!("{label}: {failure}"));
    check(label, Code::from(code as i32), failure["message"].as_str().unwrap_or_default());
}
