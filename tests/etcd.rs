//! `setstone etcd` as scripts launch etcd: real processes, real sockets, etcd's own client protocol.

#![allow(clippy::pedantic)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs
)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use setstone::proto::etcdserverpb::cluster_client::ClusterClient;
use setstone::proto::etcdserverpb::kv_client::KvClient;
use setstone::proto::etcdserverpb::{
    Member as Listed, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, PutRequest, RangeRequest,
};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Time for anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(90);
const READY: &str = "ready to serve client requests";

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn etcd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_setstone"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    command.arg("etcd").args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = etcd(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A member: where it is, and its process while it runs.
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Looks at a condition until a deadline.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    loop {
        ticks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}

impl Member {
    fn new(root: &Path, name: &str) -> Self {
        Self {
            name: name.into(),
            client: free_address(),
            peer: free_address(),
            data: root.join(name),
            log: root.join(format!("{name}.log")),
            process: None,
        }
    }

    /// Some by address, some by the name that every machine has for itself.
    fn peer_url(&self) -> String {
        let host = if self.name.starts_with('m') { "127.0.0.1" } else { "localhost" };
        format!("http://{host}:{}", self.peer.port())
    }

    fn client_url(&self) -> String {
        format!("http://{}", self.client)
    }

    fn as_founder(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }

    fn spawn(&mut self, more: &[&str]) {
        self.kill();
        let _ = std::fs::remove_file(&self.log);
        let (client, peer) = (self.client_url(), self.peer_url());
        let child = etcd(&[
            "--name",
            &self.name,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args(["-listen-peer-urls", &peer, &format!("--initial-advertise-peer-urls={peer}")])
        .args(["--data-dir", self.data.to_str().unwrap(), "--log-outputs", self.log.to_str().unwrap()])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
        self.process = Some(child.unwrap());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn says(&mut self, text: &str) {
        until(text, async || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{} ended: {}", self.name, self.said());
            self.said().contains(text).then_some(())
        })
        .await;
    }

    async fn start(&mut self, more: &[&str]) {
        self.spawn(more);
        self.says(READY).await;
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The exit code of a process that ends by itself.
    async fn ended(&mut self) -> i32 {
        let mut process = self.process.take().unwrap();
        let status = until("it ends", async || process.try_wait().unwrap()).await;
        status.code().unwrap()
    }

    async fn terminate(&mut self) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), Signal::TERM).unwrap();
        assert_eq!(self.ended().await, 0, "{}", self.said());
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.client_url()).unwrap().timeout(Duration::from_secs(10)).connect_lazy()
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    async fn members(&self) -> Vec<Listed> {
        until("a list of members", async || {
            let listed = self.cluster().member_list(MemberListRequest { linearizable: true }).await;
            listed.ok().map(|listed| listed.into_inner().members)
        })
        .await
    }

    async fn put(&self, key: &str, value: &str) -> Result<(), Status> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        KvClient::new(self.channel()).put(PutRequest { key, value, ..PutRequest::default() }).await.map(drop)
    }

    async fn get(&self, key: &str, serializable: bool) -> Result<Option<String>, Status> {
        let request = RangeRequest { key: key.to_owned().into(), serializable, ..RangeRequest::default() };
        let found = KvClient::new(self.channel()).range(request).await?.into_inner();
        Ok(found.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap()))
    }

    async fn add(&self, url: &str, is_learner: bool) -> Result<Listed, Status> {
        let request = MemberAddRequest { peer_ur_ls: vec![url.into()], is_learner };
        Ok(self.cluster().member_add(request).await?.into_inner().member.unwrap())
    }

    /// As an operator would: again, while the members are not sure of each other yet.
    async fn add_soon(&self, url: &str, is_learner: bool) -> Listed {
        until("the member is added", async || match self.add(url, is_learner).await {
            Ok(added) => Some(added),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                None
            }
        })
        .await
    }

    async fn remove(&self, id: u64) -> Result<Vec<Listed>, Status> {
        Ok(self.cluster().member_remove(MemberRemoveRequest { id }).await?.into_inner().members)
    }

    /// Waits until the members are these, and vote or not.
    async fn until_members(&self, expected: &[(&str, bool)]) -> Vec<Listed> {
        until(&format!("the members are {expected:?}"), async || {
            let listed = self.cluster().member_list(MemberListRequest { linearizable: false }).await.ok()?;
            let members = listed.into_inner().members;
            let mut are: Vec<(&str, bool)> =
                members.iter().map(|member| (member.name.as_str(), !member.is_learner)).collect();
            are.sort_unstable();
            (are == expected).then_some(members.clone())
        })
        .await
    }
}

fn initial_cluster(members: &[&Member]) -> String {
    let founders: Vec<String> = members.iter().map(|member| member.as_founder()).collect();
    format!("--initial-cluster={}", founders.join(","))
}

fn id_of(members: &[Listed], name: &str) -> u64 {
    members.iter().find(|member| member.name == name).unwrap().id
}

#[test]
fn wrong_words_are_refused_by_name() {
    let (code, _, said) = output(&["--no-such-flag=1"]);
    assert_eq!((code, said.contains("flag provided but not defined: -no-such-flag")), (2, true), "{said}");
    let (code, _, said) = output(&["--name", "a", "--discovery", "http://a:1"]);
    assert_eq!(
        (
            code,
            said.contains("-discovery is set to \"http://a:1\", which cannot be had: there is no discovery")
        ),
        (1, true),
        "{said}"
    );
    let (code, said, _) = output(&["-version"]);
    assert_eq!((code, said.starts_with("etcd Version: 3.7.")), (0, true), "{said}");
    let (code, said, _) = output(&["--help"]);
    assert_eq!((code, said.contains("--initial-cluster-state 'new' (new, existing)")), (0, true), "{said}");
    let shadowed = etcd(&["--name=a"]).env("ETCD_NAME", "b").output().unwrap();
    assert_eq!(shadowed.status.code(), Some(1));
    let foreign = tempfile::tempdir().unwrap();
    std::fs::create_dir(foreign.path().join("member")).unwrap();
    let data = foreign.path().to_str().unwrap();
    let (code, _, said) = output(&["--data-dir", data, "--listen-peer-urls=http://127.0.0.1:0"]);
    assert_eq!((code, said.contains("it is not empty: member")), (12, true), "an etcd's directory: {said}");
}

/// Answer of a port to a plain request.
fn http(address: SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(address) else { return String::new() };
    let mut answer = String::new();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    answer
}

#[tokio::test]
async fn variables_and_a_file_start_a_member_that_listens_in_several_places() {
    let root = tempfile::tempdir().unwrap();
    let [first, second, peer, metrics] = [(); 4].map(|()| free_address());
    let mut member = Member::new(root.path(), "from-variables");
    member.client = first;
    let urls = format!("http://{first},http://{second}");
    let child = etcd(&[])
        .env("ETCD_NAME", &member.name)
        .env("ETCD_DATA_DIR", &member.data)
        .env("ETCD_LISTEN_CLIENT_URLS", &urls)
        .env("ETCD_ADVERTISE_CLIENT_URLS", &urls)
        .env("ETCD_LISTEN_PEER_URLS", format!("http://{peer}"))
        .env("ETCD_LISTEN_METRICS_URLS", format!("http://{metrics}"))
        .env("ETCD_LOG_OUTPUTS", &member.log)
        .env("ETCD_NO_SUCH_THING", "1")
        .stderr(Stdio::null())
        .spawn();
    member.process = Some(child.unwrap());
    member.says(READY).await;
    assert!(member.said().contains("unrecognized environment variable ETCD_NO_SUCH_THING"));
    assert_eq!(
        member.members().await[0].client_ur_ls,
        [format!("http://{first}"), format!("http://{second}")]
    );
    member.put("k", "v").await.unwrap();
    member.client = second;
    assert_eq!(member.get("k", false).await.unwrap().as_deref(), Some("v"));
    assert!(http(metrics, "/metrics").contains("etcd_server_has_leader 1"));
    assert!(http(metrics, "/health").contains("{\"health\":\"true\""));
    member.terminate().await;

    let file = root.path().join("etcd.yaml");
    let text = format!(
        "name: from-file\ndata-dir: {}\nlisten-client-urls: http://{second}\nadvertise-client-urls: http://{second}\n\
         listen-peer-urls: http://{peer}\nlog-outputs: [{}]\nwatch-progress-notify-interval: 600000000\n",
        member.data.display(),
        member.log.display(),
    );
    std::fs::write(&file, text).unwrap();
    std::fs::remove_file(&member.log).unwrap();
    // All else is ignored then.
    let child = etcd(&["--config-file", file.to_str().unwrap(), "--name=ignored"])
        .env("ETCD_NAME", "ignored")
        .stderr(Stdio::null())
        .spawn();
    member.process = Some(child.unwrap());
    member.says(READY).await;
    until("its name is published", async || (member.members().await[0].name == "from-file").then_some(()))
        .await;
    assert_eq!(member.get("k", false).await.unwrap().as_deref(), Some("v"));
}

#[tokio::test]
async fn three_founders_serve_restart_and_one_that_lost_its_disk_is_replaced_by_the_runbook() {
    let root = tempfile::tempdir().unwrap();
    let mut members = ["m0", "m1", "m2"].map(|name| Member::new(root.path(), name));
    let cluster = initial_cluster(&members.each_ref());
    for member in &mut members {
        member.spawn(&[&cluster, "--initial-cluster-token=one", "--initial-cluster-state=new"]);
    }
    for member in &mut members {
        member.says(READY).await;
    }
    let listed = members[1].members().await;
    for member in &members {
        let found = listed.iter().find(|found| found.name == member.name).unwrap();
        assert_eq!(
            (&found.peer_ur_ls, &found.client_ur_ls),
            (&vec![member.peer_url()], &vec![member.client_url()])
        );
        assert!(!found.is_learner);
    }
    members[2].put("k", "v").await.unwrap();
    // What the flags say of the cluster means nothing any more; what they say of this member does.
    for member in &mut members {
        member.terminate().await;
    }
    for member in &mut members {
        member.spawn(&["--initial-cluster-token=other", "--initial-cluster-state=existing"]);
    }
    for member in &mut members {
        member.says(READY).await;
    }
    assert_eq!(members[0].get("k", false).await.unwrap().as_deref(), Some("v"));
    members[0].terminate().await;
    members[0]
        .spawn(&["--experimental-initial-corrupt-check=true", "--advertise-client-urls=http://elsewhere:1"]);
    members[0].says(READY).await;
    until("its client URL is published", async || {
        let listed = members[1].members().await;
        let found = listed.iter().find(|found| found.name == "m0").unwrap();
        (found.client_ur_ls == ["http://elsewhere:1"]).then_some(())
    })
    .await;

    // etcd's runbook for a member whose disk is gone.
    members[2].kill();
    std::fs::remove_dir_all(&members[2].data).unwrap();
    let removed = id_of(&listed, "m2");
    until("it is removed", async || members[0].remove(removed).await.ok()).await;
    members[2].spawn(&[&cluster, "--initial-cluster-state=existing"]);
    assert_eq!(members[2].ended().await, 1, "nobody added it: {}", members[2].said());
    let url = members[2].peer_url();
    let added = members[0].add_soon(&url, false).await;
    let waiting = members[1].members().await;
    let found = waiting.iter().find(|found| found.id == added.id).unwrap();
    assert_eq!((found.name.as_str(), &found.peer_ur_ls, found.client_ur_ls.len()), ("", &vec![url], 0));
    members[2].start(&[&cluster, "--initial-cluster-state=existing"]).await;
    let all = members[0].until_members(&[("m0", true), ("m1", true), ("m2", true)]).await;
    assert_eq!(id_of(&all, "m2"), added.id, "the id that it was given when it was added");
    assert_ne!(added.id, removed);
    assert_eq!(members[2].get("k", false).await.unwrap().as_deref(), Some("v"));
    // It is one of three now.
    members[0].kill();
    until("a write without the first", async || members[2].put("k", "w").await.ok()).await;
}

#[tokio::test]
async fn one_becomes_three_and_two_by_hand_whoever_is_killed_meanwhile() {
    let root = tempfile::tempdir().unwrap();
    let mut members = ["a", "b", "c"].map(|name| Member::new(root.path(), name));
    let alone = initial_cluster(&[&members[0]]);
    members[0].start(&[&alone]).await;
    members[0].put("k", "v").await.unwrap();
    let taken = members[0].add(&members[0].peer_url(), false).await.unwrap_err();
    assert_eq!(
        (taken.code(), taken.message()),
        (Code::FailedPrecondition, "etcdserver: Peer URLs already exists")
    );
    let bad = members[0].add("nonsense", false).await.unwrap_err();
    assert_eq!(
        (bad.code(), bad.message()),
        (Code::InvalidArgument, "etcdserver: given member URLs are invalid")
    );
    let unknown = members[0].remove(1234).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "etcdserver: member not found"));
    let promoted = members[0].cluster().member_promote(MemberPromoteRequest { id: 1234 }).await.unwrap_err();
    assert_eq!((promoted.code(), promoted.message()), (Code::NotFound, "etcdserver: member not found"));
    let last = members[0].remove(id_of(&members[0].members().await, "a")).await.unwrap_err();
    assert_eq!(last.message(), "etcdserver: re-configuration failed due to not enough started members");

    let cluster = initial_cluster(&members.each_ref());
    for at in [1, 2] {
        let url = members[at].peer_url();
        members[0].add_soon(&url, false).await;
        assert!(members[0].put("k", "still").await.is_ok(), "who has not come is in no quorum");
        // Killed in the middle of the join, again and again; once it loses its disk, too.
        for turn in 0..3 {
            if (at, turn) == (2, 2) {
                std::fs::remove_dir_all(&members[at].data).unwrap();
            }
            members[at].spawn(&[&cluster, "--initial-cluster-state=existing"]);
            until("it has an identity", async || members[at].data.join("identity").exists().then_some(()))
                .await;
            members[at].kill();
        }
        members[at].start(&[&cluster, "--initial-cluster-state=existing"]).await;
        let expected: Vec<_> = ["a", "b", "c"][..=at].iter().map(|name| (*name, true)).collect();
        members[0].until_members(&expected).await;
    }
    let listed = members[0].members().await;
    // The leader most likely: it hands over, and its process ends.
    let removed = id_of(&listed, "a");
    until("it is removed", async || match members[1].remove(removed).await {
        Ok(_) => Some(()),
        Err(status) if status.code() == Code::NotFound => Some(()),
        Err(_) => None,
    })
    .await;
    assert_ne!(members[0].ended().await, 0, "it was removed: {}", members[0].said());
    members[1].until_members(&[("b", true), ("c", true)]).await;
    until("a write", async || members[2].put("k", "two").await.ok()).await;
    // With its disk or without, it stays out.
    members[0].spawn(&[&cluster, "--initial-cluster-state=existing"]);
    assert_ne!(members[0].ended().await, 0, "{}", members[0].said());
    assert_eq!(members[1].members().await.len(), 2);
}

#[tokio::test]
async fn a_learner_serves_little_until_it_is_promoted() {
    let root = tempfile::tempdir().unwrap();
    let mut members = ["a", "b", "c"].map(|name| Member::new(root.path(), name));
    members[0].start(&[]).await;
    members[0].put("k", "v").await.unwrap();
    let added = members[0].add_soon(&members[1].peer_url(), true).await;
    assert!(added.is_learner);
    let promote = async |members: &[Member; 3]| {
        members[0].cluster().member_promote(MemberPromoteRequest { id: added.id }).await
    };
    let early = promote(&members).await.unwrap_err();
    assert_eq!(
        (early.code(), early.message()),
        (
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader"
        )
    );
    let second = members[0].add(&members[2].peer_url(), true).await.unwrap_err();
    assert_eq!(
        (second.code(), second.message()),
        (Code::FailedPrecondition, "etcdserver: too many learner members in cluster")
    );
    let cluster = initial_cluster(&[&members[0], &members[1]]);
    members[1].start(&[&cluster, "--initial-cluster-state", "existing"]).await;
    members[0].until_members(&[("a", true), ("b", false)]).await;
    let refused = |status: Status| {
        assert_eq!(
            (status.code(), status.message()),
            (Code::FailedPrecondition, "etcdserver: rpc not supported for learner")
        );
    };
    refused(members[1].put("k", "w").await.unwrap_err());
    refused(members[1].get("k", false).await.unwrap_err());
    refused(members[1].cluster().member_list(MemberListRequest::default()).await.unwrap_err());
    until("it has what the leader has", async || {
        members[1].get("k", true).await.unwrap().filter(|value| value == "v")
    })
    .await;
    until("it is promoted", async || promote(&members).await.ok()).await;
    members[0].until_members(&[("a", true), ("b", true)]).await;
    members[1].put("k", "w").await.unwrap();
    let again = promote(&members).await.unwrap_err();
    assert_eq!(again.message(), "etcdserver: can only promote a learner member");

    // It moves: the members find it where the membership says.
    let moved = free_address();
    let update = MemberUpdateRequest { id: added.id, peer_ur_ls: vec![format!("http://{moved}")] };
    members[0].cluster().member_update(update).await.unwrap();
    members[1].terminate().await;
    members[1].peer = moved;
    members[1].start(&[]).await;
    until("a write of both", async || members[0].put("k", "x").await.ok()).await;
    members[0].terminate().await;
    members[0].start(&[]).await;
    until("a write of both", async || members[0].put("k", "y").await.ok()).await;
}

#[tokio::test]
async fn a_survivor_goes_on_alone_only_if_the_others_are_gone() {
    let root = tempfile::tempdir().unwrap();
    let mut members = ["a", "b", "c"].map(|name| Member::new(root.path(), name));
    let cluster = initial_cluster(&members.each_ref());
    for member in &mut members {
        member.spawn(&[&cluster]);
    }
    for member in &mut members {
        member.says(READY).await;
    }
    members[0].put("k", "v").await.unwrap();
    until("it is everywhere", async || members[0].get("k", true).await.unwrap()).await;
    members[0].terminate().await;
    members[0].start(&["--force-new-cluster"]).await;
    assert_eq!(members[0].members().await.len(), 3, "the others are there: {}", members[0].said());
    for member in &mut members {
        member.kill();
    }
    members[0].start(&["--force-new-cluster"]).await;
    let alone = members[0].members().await;
    assert_eq!(alone.len(), 1, "{alone:?}");
    assert_eq!(members[0].get("k", false).await.unwrap().as_deref(), Some("v"));
    members[0].put("k", "alone").await.unwrap();
    // The others are not of this cluster any more, and are told so.
    members[1].spawn(&[&cluster]);
    assert_ne!(members[1].ended().await, 0, "{}", members[1].said());
    // They join as new members.
    std::fs::remove_dir_all(&members[1].data).unwrap();
    members[0].add_soon(&members[1].peer_url(), false).await;
    members[1].start(&[&cluster, "--initial-cluster-state=existing"]).await;
    members[0].until_members(&[("a", true), ("b", true)]).await;
}
