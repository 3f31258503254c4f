//! The starter against fake disks, over loopback sockets and a fixed list.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "starter_fake.rs"]
mod fake;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::fake::{Fake, journal};
use super::super::admission::{AdmitRefusal, Applicant};
use super::super::disk::{ConsensusView, Disk, Held, LogId, Vote, What};
use super::super::local::{Admitted, PrepareRefusal};
use super::super::plan::{Change, Leading};
use super::*;
use crate::discovery::{AddressBook, Directory};
use crate::env::clock::SystemClock;
use crate::env::random::SystemRandom;
use crate::env::{Env, Lookup, Names};
use crate::identity::OrdinalRange;
use crate::identity::{Boot, ClusterId, DiskState, Identity, Membership, NodeId, PodFacts};
use crate::mvcc::cluster::ClusterEvent;
use crate::proto::peer;
use crate::proto::peer::membership_client::MembershipClient;

/// One pod that runs.
struct Pod {
    local: Arc<Fake>,
    state: watch::Receiver<StartState>,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Pod {
    async fn until(&mut self, what: impl FnMut(&StartState) -> bool) -> StartState {
        let mut watched = self.state.clone();
        let seen = timeout(Duration::from_secs(30), watched.wait_for(what)).await;
        seen.unwrap_or_else(|_| panic!("still {}", self.state.borrow().text)).unwrap().clone()
    }

    async fn until_step(&mut self, step: Step) -> StartState {
        self.until(|state| state.step == step).await
    }
}

/// Reserves a port for each pod.
async fn ports(count: usize) -> (Vec<TcpListener>, Vec<String>) {
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let list = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    (listeners, list)
}

fn start(ordinal: u16, list: &[String], listener: TcpListener, local: Arc<Fake>) -> Pod {
    let directory = Directory::fixed(ordinal, list).unwrap();
    let own = Own { member_name: format!("s-{ordinal}"), ..Own::new(&directory, urls(ordinal)) };
    launch(own, list.len() as u16, AddressBook::new(&env(), directory), listener, local)
}

fn urls(ordinal: u16) -> Vec<String> {
    vec![format!("http://s-{ordinal}:2379")]
}

fn launch(own: Own, expected: u16, book: Arc<AddressBook>, listener: TcpListener, local: Arc<Fake>) -> Pod {
    let config = StarterConfig {
        own,
        expected,
        named: std::collections::BTreeSet::new(),
        outlook: Outlook { size: watch::channel(Size::default()).1, max_voters: 5, rules: None },
        hurry: Arc::default(),
        retiring: Arc::default(),
        may_found_alone: true,
        ready: None,
        channels: Some(PeerChannels::new(book)),
        journal: journal(&local),
        random: Arc::new(crate::env::random::SystemRandom),
    };
    let (starter, state) = Starter::new(config, Arc::clone(&local) as _, Arc::clone(&local) as _);
    let cancel = CancellationToken::new();
    let service = starter.service();
    let (stop, stopped) = (cancel.clone(), cancel.clone());
    let incoming = futures::stream::unfold(listener, |listener| async {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let served = tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(service);
        let _ = server.serve_with_incoming_shutdown(Box::pin(incoming), stop.cancelled()).await;
    });
    let ran = tokio::spawn(starter.run(stopped));
    Pod { local, state, cancel, tasks: vec![served, ran] }
}

fn env() -> Env {
    Env {
        clock: Arc::new(crate::env::clock::SystemClock),
        random: Arc::new(crate::env::random::SystemRandom),
        files: Arc::new(crate::env::test_files::NoFiles),
        network: Arc::new(crate::env::network::Tcp::default()),
        names: Arc::new(crate::env::real_names::Dns::at(&[]).unwrap()),
        tasks: Arc::new(crate::env::tasks::Threads),
        owner: None,
    }
}

fn prepared_of(state: &StartState) -> Prepared {
    match &state.step {
        Step::Initialise(prepared) => prepared.clone(),
        step => panic!("{step:?} is not Initialise"),
    }
}

#[tokio::test]
async fn three_blank_pods_found_one_cluster_whoever_comes_last() {
    for last in 0..3_usize {
        let (listeners, list) = ports(3).await;
        let mut waiting: Vec<_> = listeners.into_iter().enumerate().collect();
        let late = waiting.remove(last);
        let mut pods: Vec<_> = waiting
            .into_iter()
            .map(|(ordinal, listener)| (ordinal, start(ordinal as u16, &list, listener, Fake::blank())))
            .collect();
        // Two of three never found: they say for whom they wait.
        for (_, pod) in &mut pods {
            let missing = format!("{} does not answer", list[last]);
            let state = pod.until(|state| state.text.contains(&missing)).await;
            assert_eq!(state.step, Step::Wait);
            assert_eq!(pod.local.disk().what, What::Blank);
        }
        pods.push((late.0, start(late.0 as u16, &list, late.1, Fake::blank())));
        pods.sort_by_key(|(ordinal, _)| *ordinal);
        let mut pods: Vec<_> = pods.into_iter().map(|(_, pod)| pod).collect();

        // The lowest initialises, when all have their identity on disk.
        let founded = prepared_of(&pods[0].until(|state| matches!(state.step, Step::Initialise(_))).await);
        for (ordinal, pod) in pods.iter().enumerate() {
            let disk = pod.local.disk();
            assert_eq!((disk.what, disk.cluster), (What::Prepared, founded.cluster));
            assert_eq!(disk.node_id, NodeId::new(ordinal as u16, NodeId::FIRST_INCARNATION));
            assert_eq!(disk.membership, founded.voters);
            let member = &founded.voters.members[ordinal];
            assert_eq!((&member.name, &member.peer_address), (&format!("s-{ordinal}"), &list[ordinal]));
            assert_eq!(member.client_urls, [format!("http://s-{ordinal}:2379")]);
        }
        // The others take part once it has.
        assert_eq!(pods[1].state.borrow().step, Step::Wait);
        pods[0].local.initialise();
        for pod in &mut pods[1..] {
            pod.until_step(Step::Release).await;
        }
        // What initialised stays so, for whoever looks late.
        assert!(matches!(pods[0].state.borrow().step, Step::Initialise(_)));
    }
}

#[tokio::test]
async fn an_attempt_that_broke_off_is_replaced_under_another_id() {
    let (listeners, list) = ports(3).await;
    let mut pods = Vec::new();
    for (ordinal, listener) in listeners.into_iter().enumerate() {
        let fake = Fake::blank();
        if ordinal != 2 {
            let voters = Membership { configs: vec![vec![NodeId::new(0, 1)]], members: Vec::new() };
            let node_id = NodeId::new(ordinal as u16, 1);
            fake.prepare(Prepared { cluster: ClusterId(0xdead), node_id, voters, replaces: ClusterId(0) })
                .await
                .unwrap();
        }
        pods.push(start(ordinal as u16, &list, listener, fake));
    }
    let founded = prepared_of(&pods[0].until(|state| matches!(state.step, Step::Initialise(_))).await);
    assert_ne!(founded.cluster, ClusterId(0xdead));
    for pod in &pods {
        assert_eq!(pod.local.disk().cluster, founded.cluster);
    }
}

#[tokio::test]
async fn a_node_alone_founds_at_once() {
    let own = Own { name: "one".into(), member_name: "one".into(), ..Own::default() };
    let config = |may_found_alone| StarterConfig {
        own: own.clone(),
        expected: 1,
        named: std::collections::BTreeSet::new(),
        outlook: Outlook { size: watch::channel(Size::default()).1, max_voters: 5, rules: None },
        hurry: Arc::default(),
        retiring: Arc::default(),
        may_found_alone,
        ready: None,
        channels: None,
        journal: journal(&Fake::blank()),
        random: Arc::new(crate::env::random::SystemRandom),
    };
    let local = Fake::blank();
    let (starter, mut state) = Starter::new(config(true), Arc::clone(&local) as _, Arc::clone(&local) as _);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(starter.run(cancel.clone()));
    let founded = state.wait_for(|state| matches!(state.step, Step::Initialise(_)));
    let founded = prepared_of(&timeout(Duration::from_secs(10), founded).await.unwrap().unwrap().clone());
    assert_eq!(founded.voters.ids(), [NodeId::new(0, 1)].into());
    assert_eq!(local.disk().cluster, founded.cluster);
    cancel.cancel();
    timeout(Duration::from_secs(10), running).await.unwrap().unwrap();

    // Not without leave.
    let local = Fake::blank();
    let (starter, mut state) = Starter::new(config(false), Arc::clone(&local) as _, Arc::clone(&local) as _);
    let _running = tokio::spawn(starter.run(CancellationToken::new()));
    let waiting =
        state.wait_for(|state| state.hint.as_deref().is_some_and(|hint| hint.contains("bootstrap")));
    timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(local.disk().what, What::Blank);

    // A restart takes part at once.
    let (starter, mut state) =
        Starter::new(config(false), Fake::member(0, 7, &[0], 9), Fake::member(0, 7, &[0], 9));
    let _running = tokio::spawn(starter.run(CancellationToken::new()));
    let released = state.wait_for(|state| state.step == Step::Release);
    timeout(Duration::from_secs(10), released).await.unwrap().unwrap();
}

#[tokio::test]
async fn members_resume_when_a_quorum_answers() {
    let (listeners, list) = ports(3).await;
    let mut listeners = listeners.into_iter();
    let voters = [0, 1, 2];
    let mut first = start(0, &list, listeners.next().unwrap(), Fake::member(0, 7, &voters, 9));
    let held = first.until_step(Step::Hold).await;
    assert!(held.text.contains("a quorum of its last membership"), "{}", held.text);
    let mut second = start(1, &list, listeners.next().unwrap(), Fake::member(1, 7, &voters, 9));
    first.until_step(Step::Release).await;
    second.until_step(Step::Release).await;
}

#[tokio::test]
async fn evidence_that_comes_late_still_counts() {
    let (listeners, list) = ports(3).await;
    let mut listeners = listeners.into_iter();
    let mut old = start(0, &list, listeners.next().unwrap(), Fake::member(0, 7, &[0, 1, 2], 9));
    old.until_step(Step::Hold).await;
    let leader = Fake::member(1, 7, &[1, 2], 90);
    let removed = [NodeId::new(0, 1)].into();
    *leader.consensus.lock() = Some(ConsensusView {
        leader: Some(NodeId::new(1, 1)),
        term: 4,
        applied_index: 90,
        removed,
        desired: None,
    });
    let _leader = start(1, &list, listeners.next().unwrap(), leader);
    let lost = old.until_step(Step::BecomeLost).await;
    assert!(lost.leader_known);
    // `node` stores it, and the disk asks to be admitted anew.
    old.local.disk.lock().what = What::Lost { reason: lost.text };
    let state = old.until_step(Step::Release).await;
    assert_eq!(state.action, Action::Release);
    assert_eq!(old.local.disk().node_id, NodeId::new(0, 50));
}

#[tokio::test]
async fn a_disk_of_another_cluster_is_refused() {
    let (listeners, list) = ports(2).await;
    let mut listeners = listeners.into_iter();
    let mut stranger = start(0, &list, listeners.next().unwrap(), Fake::member(0, 7, &[0, 1], 9));
    let _other = start(1, &list, listeners.next().unwrap(), Fake::member(1, 8, &[0, 1], 9));
    let refused = stranger.until_step(Step::Refuse).await;
    assert!(refused.text.contains("0000000000000007") && refused.text.contains("0000000000000008"));
}

/// An identity for ordinal 0, of a disk that was blank.
fn first() -> Prepared {
    Prepared { node_id: NodeId::new(0, 1), ..Prepared::default() }
}

async fn client(at: &str) -> MembershipClient<tonic::transport::Channel> {
    let at: SocketAddr = at.parse().unwrap();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{at}")).unwrap();
    let connect =
        move |_| async move { tokio::net::TcpStream::connect(at).await.map(hyper_util::rt::TokioIo::new) };
    MembershipClient::new(endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap())
}

fn request(asked: &str, ordinal: u16) -> peer::PrepareRequest {
    let node_id = NodeId::new(ordinal, 1);
    let member = crate::identity::Member { node_id, ..crate::identity::Member::default() };
    let voters = Membership::all_vote(vec![member]);
    let prepared = Prepared { cluster: ClusterId(0xc), node_id, voters, replaces: ClusterId(0) };
    super::super::wire::to_prepare(asked.into(), &prepared)
}

async fn prepare(at: &str, request: peer::PrepareRequest) -> String {
    match client(at).await.prepare(request).await {
        Ok(answer) => match answer.into_inner().outcome.unwrap() {
            peer::prepare_response::Outcome::Accepted(_) => "accepted".into(),
            peer::prepare_response::Outcome::Refused(reason) => reason,
        },
        Err(status) => status.message().into(),
    }
}

#[tokio::test]
async fn an_identity_is_taken_only_by_a_new_disk_that_it_is_meant_for() {
    let (listeners, list) = ports(2).await;
    let mut listeners = listeners.into_iter();
    let blank = start(0, &list, listeners.next().unwrap(), Fake::blank());
    let at = &list[0];
    assert!(prepare(at, request("elsewhere:1", 0)).await.contains("this is"));
    assert!(prepare(at, request(at, 1)).await.contains("not for ordinal 0"));
    let nameless = peer::PrepareRequest { cluster_id: 0, ..request(at, 0) };
    assert!(prepare(at, nameless).await.contains("a cluster has a number"));
    let voterless = peer::PrepareRequest { voters: None, ..request(at, 0) };
    assert!(prepare(at, voterless).await.contains("lacks the voters"));
    let mut stranger = request(at, 0);
    stranger.voters = request(at, 1).voters;
    assert!(prepare(at, stranger).await.contains("included"));
    assert_eq!(blank.local.disk().what, What::Blank, "nothing was changed");
    assert_eq!(prepare(at, request(at, 0)).await, "accepted");
    assert_eq!(blank.local.disk().cluster, ClusterId(0xc));
    // Again, for an attempt that knows of this one; not for one that began before it, and not once there is an entry.
    assert!(prepare(at, request(at, 0)).await.contains("meanwhile"));
    let next = peer::PrepareRequest { replaces: 0xc, ..request(at, 0) };
    assert_eq!(prepare(at, next).await, "accepted");
    blank.local.initialise();
    assert!(prepare(at, request(at, 0)).await.contains("a member"));
    for what in [What::Joining, What::Lost { reason: String::new() }] {
        *blank.local.disk.lock() = Disk { what, ordinal: 0, ..Disk::default() };
        assert!(prepare(at, request(at, 0)).await.contains("the disk is"), "{:?}", blank.local.disk().what);
    }
}

#[tokio::test]
async fn a_blank_disk_and_a_lost_one_are_admitted_by_the_leader() {
    let (listeners, list) = ports(3).await;
    let mut listeners = listeners.into_iter();
    let led = Fake::member(0, 7, &[0, 1, 2], 9);
    let leader = led.disk().node_id;
    *led.consensus.lock() = Some(ConsensusView { leader: Some(leader), term: 3, ..ConsensusView::default() });
    let _leader = start(0, &list, listeners.next().unwrap(), led);
    let lost = Fake::member(1, 7, &[0, 1, 2], 9);
    lost.disk.lock().what = What::Lost { reason: "damaged".into() };
    for (ordinal, local) in [(1, lost), (2, Fake::blank())] {
        let mut pod = start(ordinal, &list, listeners.next().unwrap(), local);
        let state = pod.until_step(Step::Release).await;
        assert_eq!(state.action, Action::Release);
        let disk = pod.local.disk();
        assert_eq!((disk.cluster, disk.node_id), (ClusterId(7), NodeId::new(ordinal, 50)));
        let answer =
            prepare(&list[usize::from(ordinal)], request(&list[usize::from(ordinal)], ordinal)).await;
        assert!(answer.contains("joining"), "{answer}");
    }
}

#[tokio::test]
async fn no_identity_is_taken_once_this_process_takes_part() {
    // Prepared, and a member of its cluster answers: consensus may start, so the identity must stay.
    let (listeners, list) = ports(3).await;
    let mut listeners = listeners.into_iter();
    let fake = Fake::blank();
    let voters = Fake::member(0, 0xa, &[0, 1, 2], 1).disk().membership;
    fake.prepare(Prepared { cluster: ClusterId(0xa), voters, ..first() }).await.unwrap();
    let mut pod = start(0, &list, listeners.next().unwrap(), fake);
    let member = start(1, &list, listeners.next().unwrap(), Fake::member(1, 0xa, &[0, 1, 2], 1));
    pod.until(|state| matches!(state.step, Step::Hold | Step::Release)).await;
    assert!(prepare(&list[0], request(&list[0], 0)).await.contains("already takes part"));
    assert_eq!(pod.local.disk().cluster, ClusterId(0xa));
    drop(member);
}

#[tokio::test]
async fn a_process_that_resumed_for_a_bootstrap_that_was_given_up_starts_over() {
    let (listeners, list) = ports(2).await;
    let mut listeners = listeners.into_iter();
    let fake = Fake::blank();
    // Of three voters, so that it is not released by the one that answers.
    let voters = Fake::member(0, 0xa, &[0, 1, 2, 3], 1).disk().membership;
    fake.prepare(Prepared { cluster: ClusterId(0xa), voters, ..first() }).await.unwrap();
    fake.disk.lock().membership.configs[0].retain(|id| id.ordinal() < 2);
    fake.disk.lock().membership.configs.push(vec![NodeId::new(1, 9)]);
    let mut pod = start(0, &list, listeners.next().unwrap(), fake);
    let other = start(1, &list, listeners.next().unwrap(), Fake::member(1, 0xa, &[0, 1], 1));
    other.local.disk.lock().membership = Membership::default();
    pod.until_step(Step::Hold).await;
    // The member's volume is lost, and everyone is new again.
    *other.local.disk.lock() = Disk::blank(5);
    pod.until_step(Step::Stop).await;
}

#[tokio::test]
async fn describe_answers_before_anything_is_decided_and_says_who() {
    let (listeners, list) = ports(2).await;
    let _pod = start(1, &list, listeners.into_iter().nth(1).unwrap(), Fake::blank());
    let answer =
        client(&list[1]).await.describe(peer::DescribeRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.pod, list[1]);
    assert_eq!(answer.member_name, "s-1");
    let description = answer.description.unwrap();
    assert_eq!(description.kind, i32::from(peer::description::Kind::Blank));
    assert_eq!(description.ordinal, 1);
}

/// A name server whose cache says of one pod that it is absent.
#[derive(Debug)]
struct Zone {
    pods: Vec<IpAddr>,
    cached_absent: Option<usize>,
}

impl Names for Zone {
    fn lookup<'a>(&'a self, fqdn: &'a str) -> BoxFuture<'a, Lookup> {
        let first = fqdn.split('.').next().unwrap();
        let said = match first.strip_prefix("s-") {
            None => Lookup::At(self.pods.clone()),
            Some(ordinal) => match ordinal.parse::<usize>().unwrap() {
                ordinal if Some(ordinal) == self.cached_absent => Lookup::Absent,
                ordinal => self.pods.get(ordinal).map_or(Lookup::Absent, |ip| Lookup::At(vec![*ip])),
            },
        };
        Box::pin(async move { said })
    }
}

async fn pods(count: u16, cached_absent: Option<usize>) -> Vec<Pod> {
    // One port, an address each, as in Kubernetes; the third number keeps tests apart that run at once.
    let net = cached_absent.map_or(61, |_| 62);
    let first = TcpListener::bind(SocketAddr::from(([127, 0, net, 1], 0))).await.unwrap();
    let port = first.local_addr().unwrap().port();
    let ips: Vec<IpAddr> = (1..=count).map(|last| IpAddr::from([127, 0, net, last as u8])).collect();
    let mut listeners = vec![first];
    for ip in &ips[1..] {
        listeners.push(TcpListener::bind(SocketAddr::new(*ip, port)).await.unwrap());
    }
    let mut pods = Vec::new();
    for (listener, ordinal) in listeners.into_iter().zip(0..count) {
        let ip = ips[usize::from(ordinal)];
        let set = [
            ("SETSTONE_POD_NAME", format!("s-{ordinal}")),
            ("SETSTONE_POD_NAMESPACE", "shop".into()),
            ("SETSTONE_SERVICE_NAME", "peers".into()),
            ("SETSTONE_POD_IP", ip.to_string()),
        ];
        let lookup = |name: &str| set.iter().find(|(of, _)| *of == name).map(|(_, value)| value.clone());
        let facts = PodFacts { peer_port: port, ..PodFacts::from(lookup, "").unwrap() };
        let directory = Directory::Pods(facts);
        let names = Arc::new(Zone { pods: ips.clone(), cached_absent });
        let book = AddressBook::new(&Env { names, ..env() }, directory.clone());
        let own = Own::new(&directory, urls(ordinal));
        pods.push(launch(own, 3, book, listener, Fake::blank()));
    }
    pods
}

#[tokio::test]
async fn nobody_behind_the_service_is_overlooked() {
    // Three are expected, and four are there.
    let mut pods = pods(4, None).await;
    let founded = prepared_of(&pods[0].until(|state| matches!(state.step, Step::Initialise(_))).await);
    let members: Vec<_> = founded.voters.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(members, ["s-0", "s-1", "s-2", "s-3"]);
    assert!(founded.voters.members[3].peer_address.starts_with("s-3.peers.shop.svc.cluster.local:"));
    assert_eq!(pods[3].local.disk().cluster, founded.cluster);
}

#[tokio::test]
async fn a_pod_that_a_cache_calls_absent_is_found_by_its_hello() {
    let mut pods = pods(3, Some(2)).await;
    // The service lists everyone, so nobody needs the name of 2; and 2 says hello although its own name is absent.
    let state = pods[0].until(|state| matches!(state.step, Step::Initialise(_))).await;
    assert_eq!(prepared_of(&state).voters.members.len(), 3);
}
