//! The name server: puts what `resolution` says on the wire. An edge; it decides nothing.
//!
//! Whoever replaces the zone changes what the next question is answered, unless an answer is kept. Called by `driver` and
//! `commands`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, SOA};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::addresses::DnsSockets;
use super::naming::CLUSTER_DOMAIN;
use super::resolution::{Resolution, Said};
use super::status::DnsMode;
use super::zone::{Answer, Kind, TTL_SECONDS, Zone};

/// Time that a TCP connection may stay silent.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers that may wait on one TCP connection.
const TCP_RESPONSES: usize = 16;
/// Largest UDP answer, for those who can take more than 512 bytes: the size that DNS flag day 2020 recommends.
const UDP_BYTES: u16 = 1_232;

/// A running name server. Dropping it ends it.
pub struct NameServer {
    resolution: Arc<Mutex<Resolution>>,
    address: SocketAddr,
    _server: Server<Handler>,
}

impl std::fmt::Debug for NameServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl NameServer {
    /// Answers on these sockets, in the current tokio runtime. An answer is kept for `keep`.
    ///
    /// # Errors
    /// If tokio cannot take the sockets.
    pub fn start(sockets: DnsSockets, zone: Zone, keep: Duration) -> std::io::Result<Self> {
        let resolution = Arc::new(Mutex::new(Resolution::new(zone, keep)));
        let handler = Handler { resolution: Arc::clone(&resolution), began: Instant::now() };
        let mut server = Server::new(handler);
        server.register_socket(tokio::net::UdpSocket::from_std(sockets.udp)?);
        server.register_listener(tokio::net::TcpListener::from_std(sockets.tcp)?, TCP_TIMEOUT, TCP_RESPONSES);
        Ok(Self { resolution, address: sockets.address, _server: server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every question from now on is answered from this zone, if no answer to it is kept.
    pub fn publish(&self, zone: Zone) {
        self.resolution.lock().publish(zone);
    }

    /// How it answers from now on. [`DnsMode::Up`] also takes back every [`NameServer::set_stale`].
    pub fn set_mode(&self, mode: DnsMode) {
        self.resolution.lock().set_mode(mode);
    }

    /// How it answers.
    pub fn mode(&self) -> DnsMode {
        self.resolution.lock().mode()
    }

    /// The one name is answered with the address of the other.
    pub fn set_stale(&self, name: &str, other: &str) {
        self.resolution.lock().set_stale(name, other);
    }
}

struct Handler {
    resolution: Arc<Mutex<Resolution>>,
    /// What its time is counted from.
    began: Instant,
}

/// One answer, ready to be sent.
#[derive(Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
}

impl Handler {
    /// `None`: nothing is to be answered.
    fn reply(&self, request: &Request) -> Option<Reply> {
        let code = |code| Some(Reply { code, ..Reply::default() });
        if request.metadata.op_code != OpCode::Query {
            return code(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return code(ResponseCode::FormErr) };
        if info.query.query_class() != DNSClass::IN {
            return code(ResponseCode::Refused);
        }
        let kind = match info.query.query_type() {
            RecordType::A => Kind::A,
            RecordType::SOA => Kind::Soa,
            _ => Kind::Other,
        };
        let name = info.query.name().to_string();
        let said = self.resolution.lock().answer(&name, kind, self.began.elapsed());
        let (answer, ttl, serial) = match said {
            Said::Nothing => return None,
            Said::Failure => return code(ResponseCode::ServFail),
            Said::Answer { answer: Answer::NotOurs, .. } => return code(ResponseCode::Refused),
            Said::Answer { answer, ttl, serial } => (answer, ttl, serial),
        };
        let Ok(soa) = soa(serial) else { return code(ResponseCode::ServFail) };
        // The case of the question comes back, as resolvers that randomise it expect.
        let name = info.query.original().name().clone();
        let (code, answers, authority) = match answer {
            Answer::Addresses(addresses) => {
                let record = |address| Record::from_rdata(name.clone(), ttl, RData::A(A(address)));
                (ResponseCode::NoError, addresses.into_iter().map(record).collect(), Vec::new())
            }
            Answer::Authority => (ResponseCode::NoError, vec![soa], Vec::new()),
            Answer::NoData => (ResponseCode::NoError, Vec::new(), vec![soa]),
            Answer::NoSuchName | Answer::NotOurs => (ResponseCode::NXDomain, Vec::new(), vec![soa]),
        };
        Some(Reply { code, authoritative: true, answers, authority })
    }
}

fn soa(serial: u32) -> Result<Record, hickory_server::proto::ProtoError> {
    let origin = Name::from_ascii(format!("{CLUSTER_DOMAIN}."))?;
    let server = Name::from_ascii(format!("ns.dns.{CLUSTER_DOMAIN}."))?;
    let person = Name::from_ascii(format!("hostmaster.{CLUSTER_DOMAIN}."))?;
    let data = SOA::new(server, person, serial, 7_200, 1_800, 86_400, TTL_SECONDS);
    Ok(Record::from_rdata(origin, TTL_SECONDS, RData::SOA(data)))
}

/// The trait is declared with `async_trait`; this is what that macro makes of it.
impl RequestHandler for Handler {
    fn handle_request<'life0, 'life1, 'async_trait, R, T>(
        &'life0 self,
        request: &'life1 Request,
        mut response_handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'async_trait>>
    where
        R: ResponseHandler + 'async_trait,
        T: Time + 'async_trait,
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let Some(reply) = self.reply(request) else {
                let metadata = Metadata::response_from_request(&request.metadata);
                return ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
            };
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.response_code = reply.code;
            metadata.authoritative = reply.authoritative;
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES);
            let mut builder = MessageResponseBuilder::from_message_request(request);
            if request.edns.is_some() {
                builder.edns(&edns);
            }
            let message = builder.build(metadata, &reply.answers, &reply.authority, [], []);
            match response_handle.send_response(message).await {
                Ok(info) => info,
                Err(error) => {
                    tracing::warn!(%error, "a DNS answer could not be sent");
                    ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::{
        ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts,
    };
    use hickory_resolver::net::runtime::TokioRuntimeProvider;

    use super::*;
    use crate::playground::addresses::Subnet;
    use crate::playground::naming::Naming;

    fn resolver(server: SocketAddr, protocol: ProtocolConfig) -> TokioResolver {
        resolver_within(server, protocol, Duration::from_secs(5))
    }

    fn resolver_within(server: SocketAddr, protocol: ProtocolConfig, timeout: Duration) -> TokioResolver {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.port();
        let server = NameServerConfig::new(server.ip(), true, vec![connection]);
        let mut builder = TokioResolver::builder_with_config(
            ResolverConfig::from_parts(None, vec![], vec![server]),
            TokioRuntimeProvider::default(),
        );
        let mut options = ResolverOpts::default();
        options.cache_size = 0;
        options.attempts = 1;
        options.timeout = timeout;
        *builder.options_mut() = options;
        builder.build().unwrap()
    }

    async fn ask(resolver: &TokioResolver, name: &str) -> Result<Vec<String>, String> {
        let looked_up = resolver.ipv4_lookup(name).await.map_err(|error| {
            if error.is_nx_domain() {
                "NXDOMAIN".to_owned()
            } else if error.is_no_records_found() {
                "NODATA".to_owned()
            } else {
                error.to_string()
            }
        })?;
        Ok(looked_up.answers().iter().map(|record| format!("{} {}", record.data, record.ttl)).collect())
    }

    #[tokio::test]
    async fn a_resolver_sees_the_zone_and_every_change_of_it_at_once() {
        let (subnet, sockets) = Subnet::reserve().unwrap();
        let naming = Naming::new("setstone", "default").unwrap();
        let pod = |host| Ipv4Addr::new(127, 70, 80, host);
        let all: Vec<_> = (0..50u16).map(|ordinal| (ordinal, pod(10 + ordinal as u8))).collect();
        let server =
            NameServer::start(sockets, Zone::of(&naming, 1, subnet.service(), []), Duration::ZERO).unwrap();
        let udp = resolver(server.address(), ProtocolConfig::Udp);
        let tcp = resolver(server.address(), ProtocolConfig::Tcp);
        let (own, service) = (naming.pod_fqdn(0) + ".", naming.headless_fqdn() + ".");

        for resolver in [&udp, &tcp] {
            server.publish(Zone::of(&naming, 1, subnet.service(), []));
            assert_eq!(ask(resolver, &own).await, Err("NXDOMAIN".to_owned()));
            assert_eq!(ask(resolver, &service).await, Err("NODATA".to_owned()));
            server.publish(Zone::of(&naming, 2, subnet.service(), [(0, pod(10))]));
            assert_eq!(ask(resolver, &own).await, Ok(vec!["127.70.80.10 30".to_owned()]));
            server.publish(Zone::of(&naming, 3, subnet.service(), [(0, pod(11)), (1, pod(12))]));
            assert_eq!(ask(resolver, &own).await, Ok(vec!["127.70.80.11 30".to_owned()]));
            assert_eq!(ask(resolver, &service).await.unwrap().len(), 2);
        }
        // More than fits into a UDP answer of 512 bytes.
        server.publish(Zone::of(&naming, 4, subnet.service(), all));
        assert_eq!(ask(&udp, &service).await.unwrap().len(), 50);
        let refused = ask(&udp, "example.com.").await.unwrap_err();
        assert!(refused != "NXDOMAIN" && refused != "NODATA", "{refused}");
    }

    #[tokio::test]
    async fn it_can_fail_and_be_silent() {
        let (subnet, sockets) = Subnet::reserve().unwrap();
        let naming = Naming::new("setstone", "default").unwrap();
        let zone = Zone::of(&naming, 1, subnet.service(), [(0, Ipv4Addr::new(127, 70, 80, 10))]);
        let server = NameServer::start(sockets, zone, Duration::ZERO).unwrap();
        let mut quick = resolver(server.address(), ProtocolConfig::Udp);
        let own = naming.pod_fqdn(0) + ".";
        server.set_mode(DnsMode::Down);
        let failed = ask(&quick, &own).await.unwrap_err();
        assert!(failed != "NXDOMAIN" && failed != "NODATA", "{failed}");
        server.set_mode(DnsMode::Silent);
        quick = resolver_within(server.address(), ProtocolConfig::Udp, Duration::from_millis(200));
        let silent = ask(&quick, &own).await.unwrap_err();
        assert!(silent.contains("timed out"), "{silent}");
        server.set_mode(DnsMode::Up);
        assert_eq!(ask(&quick, &own).await, Ok(vec!["127.70.80.10 30".to_owned()]));
    }
}
