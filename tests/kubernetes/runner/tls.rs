//! Certificates: the overlay `tls`, whose authorities are replaced under load, and a pod that has not the certificate it should have.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::certificates::{self, Authority, Signed};
use super::pods::installed;
use super::report::{NO_FAILURES, Run};
use super::world::{LONG, Step, World};

const FOLDER: &str = "k8s/overlays/tls";
const CLIENT_SECRET: &str = "setstone-client-tls";
const PEER_SECRET: &str = "setstone-peer-tls";
const LOAD_SECRET: &str = "load-tls";
const OTHER_SECRET: &str = "other-peer-tls";

/// Time until a Secret's new content is in the pods, where the kubelet takes its own: a minute and a half, and what the machine adds.
const KUBELET: Duration = Duration::from_secs(150);

/// The pod from which ports are tried, and the Secret with the certificates for it.
const PROBE: &str = "probe";

/// The authorities of clients and of peers, and what these have signed.
struct Certificates {
    clients: Authority,
    peers: Authority,
    client_port: Signed,
    load: Signed,
    peer_port: Signed,
}

impl Certificates {
    /// For an installation whose client Service has this address.
    fn new(name: &str, namespace: &str, address: &str) -> Step<Self> {
        let (clients, peers) =
            (Authority::new(&format!("{name} clients"))?, Authority::new(&format!("{name} peers"))?);
        let pods = format!("*.setstone-peers.{namespace}.svc.cluster.local");
        let service = format!("setstone.{namespace}.svc");
        let hosts = ["setstone", &service, "localhost", "127.0.0.1", address, &pods].map(str::to_owned);
        Ok(Self {
            client_port: clients.sign("setstone", &hosts)?,
            load: clients.sign("load", &[])?,
            peer_port: peers.sign("setstone-peer", &[pods])?,
            clients,
            peers,
        })
    }

    /// Puts these certificates into the Secrets, with the authorities of all of `trusted`.
    fn put(&self, world: &World, trusted: &[&Self]) -> Step {
        let all = |of: fn(&Self) -> &Authority| -> String {
            trusted.iter().map(|one| of(one).pem.as_str()).collect()
        };
        let (clients, peers) = (all(|one| &one.clients), all(|one| &one.peers));
        world.apply_all(&[
            self.client_port.secret(CLIENT_SECRET, &clients),
            self.load.secret(LOAD_SECRET, &clients),
            self.peer_port.secret(PEER_SECRET, &peers),
        ])
    }
}

/// What changes in a pod makes its kubelet look at its Secrets at once.
fn hurry(world: &World) -> Step {
    let stamp = format!("hurried={}", world.mark()?);
    world.kubectl.run(&["annotate", "pods", "--all", "--overwrite", &stamp]).map(drop)
}

/// How a member is tried that should have taken what was put into the Secrets: which authorities its certificate is to be of, which
/// certificate it is shown, and whether it is to take that.
#[derive(Clone, Copy)]
struct Trial {
    trusted: &'static str,
    shown: &'static str,
    is_taken: bool,
}

/// A pod that does nothing but to have old and new certificates, for commands in it.
fn start_probe(world: &World, old: &Certificates, new: &Certificates) -> Step {
    let mut files = Vec::new();
    for (age, of) in [("old", old), ("new", new)] {
        for (port, authority, shown) in [("2379", &of.clients, &of.load), ("2380", &of.peers, &of.peer_port)]
        {
            files.push((format!("{age}-{port}-ca.crt"), authority.pem.as_str()));
            files.push((format!("{age}-{port}.crt"), shown.certificate.as_str()));
            files.push((format!("{age}-{port}.key"), shown.key.as_str()));
        }
    }
    world.apply(&certificates::files(PROBE, &files))?;
    world.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": PROBE },
        "spec": {
            "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "enableServiceLinks": false,
            "volumes": [{ "name": "tls", "secret": { "secretName": PROBE } }, { "name": "data", "emptyDir": {} }],
            "containers": [{
                "name": "probe", "image": "docker.io/setstone:dev", "imagePullPolicy": "IfNotPresent",
                "args": ["serve", "--data-dir", "/data/setstone"],
                "volumeMounts": [{ "name": "tls", "mountPath": "/tls" }, { "name": "data", "mountPath": "/data" }],
            }],
        },
    }))
}

/// Whether a port takes the certificate that it is shown; `None`: that is not to be known now.
fn takes(world: &World, ordinal: u16, port: &str, trial: Trial) -> Option<bool> {
    let host = format!("{}.setstone-peers.{}.svc.cluster.local:{port}", world.name(ordinal), world.namespace);
    let ca = format!("/tls/{}-{port}-ca.crt", trial.trusted);
    let [certificate, key] = ["crt", "key"].map(|kind| format!("/tls/{}-{port}.{kind}", trial.shown));
    let words = ["exec", PROBE, "--", "setstone", "get", "rotated", "--timeout", "2s", "--endpoints", &host];
    let files = ["--cacert", &ca, "--cert", &certificate, "--key", &key];
    match world.kubectl.run(&[&words[..], &files[..]].concat()) {
        Ok(_) => Some(true),
        // Peers have no keys to get: whoever is told so was let in.
        Err(error) if error.contains("code 12") => Some(true),
        Err(error) if error.contains("fatal alert") => Some(false),
        Err(_) => None,
    }
}

/// Waits until both ports of every member do as the trial says, and the load has what is in its Secret.
fn taken(world: &World, trial: Trial, limit: Duration) -> Step {
    let expected = world.kubectl.run(&["get", "secret", LOAD_SECRET, "-o", "jsonpath={.data}"])?;
    let expected: Value = serde_json::from_str(&expected).map_err(|error| error.to_string())?;
    let ports = (0..3).flat_map(|ordinal| ["2379", "2380"].map(|port| (ordinal, port)));
    let begin = Instant::now();
    for (ordinal, port) in ports {
        let what = format!("port {port} of {} does as it should", world.name(ordinal));
        let left = limit.saturating_sub(begin.elapsed());
        world.until(&what, left, || {
            takes(world, ordinal, port, trial).filter(|takes| *takes == trial.is_taken)
        })?;
    }
    world.until("the load has its certificates", limit.saturating_sub(begin.elapsed()), || {
        ["ca.crt", "tls.crt"].iter().all(|file| has(world, file, &expected[file])).then_some(())
    })
}

/// Whether the load has this file as the Secret has it.
fn has(world: &World, file: &str, encoded: &Value) -> bool {
    let path = format!("/tls/{file}");
    let decoded = STANDARD.decode(encoded.as_str().unwrap_or_default());
    world.load(&["show", &path]).is_ok_and(|text| decoded.is_ok_and(|bytes| bytes == text.as_bytes()))
}

/// One step of a replacement: what is to be in the Secrets, and until all have taken it.
fn step(
    world: &World,
    put: &Certificates,
    trusted: &[&Certificates],
    (trial, in_a_hurry): (Trial, bool),
) -> Step<Option<Duration>> {
    let begin = Instant::now();
    put.put(world, trusted)?;
    if in_a_hurry {
        hurry(world)?;
    }
    taken(world, trial, KUBELET)?;
    let took = begin.elapsed();
    // From now on with what was taken: connections of commands are new.
    for ordinal in 0..3 {
        world.setstone(ordinal, &["put", "rotated", trial.shown])?;
    }
    Ok(Some(took))
}

/// A client that shows what is in a Secret, and what it says in the end; an error if it got in and must not, or the other way round.
fn client(world: &World, name: &str, secret: &Value, gets_in: bool) -> Step<String> {
    world.apply(secret)?;
    let endpoint = format!("{}:2379", world.service()?);
    let files = ["--cacert", "/tls/ca.crt", "--cert", "/tls/tls.crt", "--key", "/tls/tls.key"];
    let mut arguments = vec!["get", "rotated", "--timeout", "5s", "--endpoints", &endpoint];
    arguments.extend(files);
    world.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
            "volumes": [{ "name": "tls", "secret": { "secretName": name } }],
            "containers": [{
                "name": "client", "image": "docker.io/setstone:dev", "imagePullPolicy": "IfNotPresent",
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "args": arguments, "volumeMounts": [{ "name": "tls", "mountPath": "/tls" }],
            }],
        },
    }))?;
    let phase = world.until(&format!("{name} ends"), LONG, || {
        let phase = world.kubectl.run(&["get", "pod", name, "-o", "jsonpath={.status.phase}"]).ok()?;
        matches!(phase.as_str(), "Succeeded" | "Failed").then_some(phase)
    })?;
    let message = "jsonpath={.status.containerStatuses[0].state.terminated.message}";
    let words = world.kubectl.run(&["get", "pod", name, "-o", message])?;
    if (phase == "Succeeded") == gets_in { Ok(words) } else { Err(format!("{name} {phase}: {words}")) }
}

/// Authorities and certificates are replaced while they are used, step by step as the guide says.
fn rotation(run: &mut Run, old: &Certificates, new: &Certificates) -> Step {
    start_probe(run.world()?, old, new)?;
    // What is not there is an error to who asks for it.
    run.world()?.setstone(0, &["put", "rotated", "old"])?;
    let event = "TLS: a Secret is replaced (both authorities are trusted): until all use it, in the kubelet's own time";
    let trial = Trial { trusted: "old", shown: "new", is_taken: true };
    run.row(event, NO_FAILURES, |world| step(world, old, &[old, new], (trial, false)))?;
    let event = "TLS: new certificates: the same, with the kubelet in a hurry";
    let trial = Trial { trusted: "new", ..trial };
    run.row(event, NO_FAILURES, |world| step(world, new, &[old, new], (trial, true)))?;
    let event = "TLS: only the new authorities are trusted: the same";
    let trial = Trial { shown: "old", is_taken: false, ..trial };
    run.row(event, NO_FAILURES, |world| step(world, new, &[new], (trial, true)))?;
    let world = run.world()?;
    client(world, "client-new", &new.load.secret("client-new", &new.clients.pem), true)?;
    let words = client(world, "client-old", &old.load.secret("client-old", &new.clients.pem), false)?;
    run.fact(
        "TLS: a client with a certificate of the old authority",
        None,
        &format!("is refused: {}", words.trim()),
    );
    run.row("TLS: kubectl rollout restart after it", NO_FAILURES, |world| {
        let begin = Instant::now();
        world.kubectl.run(&["rollout", "restart", "statefulset/setstone"])?;
        world.kubectl.within(LONG * 2, &["rollout", "status", "statefulset/setstone"], "")?;
        world.settled(3, LONG)?;
        Ok(Some(begin.elapsed()))
    })
}

/// Whether the status of a pod says all of these words about others that it does not reach.
fn says(world: &World, ordinal: u16, words: &[&str]) -> Option<String> {
    let status = world.status(ordinal).ok()?;
    let lines = status["status"]["unreached"].as_array()?;
    let lines = lines.iter().filter_map(Value::as_str);
    lines.filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).next()
}

/// One pod whose certificate is of another authority: it is let in by nobody, and says why; the others go on. With the right one it is
/// let in, without a restart.
fn stranger(run: &mut Run, new: &Certificates, namespace: &str) -> Step {
    let other = Certificates::new("other", namespace, "127.0.0.1")?;
    run.world()?.apply(&other.peer_port.secret(OTHER_SECRET, &new.peers.pem))?;
    let patch = json!({ "spec": {
        "updateStrategy": { "rollingUpdate": { "partition": 2 } },
        "template": { "spec": { "volumes": [{ "name": "peer-tls", "secret": { "secretName": OTHER_SECRET } }] } },
    }});
    let mut why = String::new();
    run.row(
        "TLS: a pod with a certificate of another authority: until it says why it gets nowhere",
        NO_FAILURES,
        |world| {
            let before = world.pod(2)?;
            let begin = Instant::now();
            let patch = patch.to_string();
            world.kubectl.run(&["patch", "statefulset", "setstone", "--type=strategic", "-p", &patch])?;
            let is_another = || world.pod(2).ok().filter(|pod| pod.uid != before.uid && pod.running);
            world.until("it is another pod and runs", LONG, is_another)?;
            let said = || says(world, 2, &["setstone-0", "does not take the certificate of this pod"]);
            why = world.until("it says why", LONG, said)?;
            let took = begin.elapsed();
            world.until("the others say why", LONG, || says(world, 0, &["setstone-2", "UnknownIssuer"]))?;
            world.pass(Duration::from_secs(10))?;
            for (ordinal, ready) in [(0, true), (1, true), (2, false)] {
                let pod = world.pod(ordinal)?;
                if pod.ready != ready || pod.restarts > 0 {
                    return Err(format!("{pod:?} should be ready: {ready}"));
                }
            }
            Ok(Some(took))
        },
    )?;
    run.fact("TLS: what it says", None, &why);
    run.row("TLS: it gets one of the members' authority: until it is ready", NO_FAILURES, |world| {
        let before = world.pod(2)?;
        let begin = Instant::now();
        world.apply(&new.peer_port.secret(OTHER_SECRET, &new.peers.pem))?;
        hurry(world)?;
        world.settled(3, KUBELET)?;
        let (took, after) = (begin.elapsed(), world.pod(2)?);
        let same = after.uid == before.uid && after.restarts == before.restarts;
        if same { Ok(Some(took)) } else { Err(format!("{after:?} is not {before:?}")) }
    })
}

pub fn tls(run: &mut Run) -> Step {
    let world = run.prepare("setstone")?;
    world.load_secret = Some(LOAD_SECRET);
    // The Service first: the certificate is for its address, too.
    let services = world.objects(FOLDER)?.into_iter().filter(|object| object["kind"] == "Service");
    world.apply_all(&services.collect::<Vec<_>>())?;
    let (namespace, address) = (world.namespace.clone(), world.service()?);
    let old = Certificates::new("old", &namespace, &address)?;
    let new = Certificates::new("new", &namespace, &address)?;
    old.put(world, &[&old])?;
    let begin = Instant::now();
    world.install(FOLDER, &|_| ())?;
    installed(run, "first install, tls", begin, Duration::from_secs(45))?;
    run.world()?.start_load(None)?;
    rotation(run, &old, &new)?;
    stranger(run, &new, &namespace)?;
    run.check()
}
