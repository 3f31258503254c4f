//! One namespace with one installation in it: how to change it, and how it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::kubectl::Tool;

/// Time between two looks at something that is waited for. Times that are measured this way are true to about as much.
const LOOK: Duration = Duration::from_millis(100);
/// Time for what has no limit of its own.
pub const LONG: Duration = Duration::from_secs(90);
const LABEL: &str = "app.kubernetes.io/name=";

pub type Step<T = ()> = Result<T, String>;

/// What runs, and where.
pub struct World {
    pub kubectl: Tool,
    /// `kubectl` without a namespace.
    pub global: Tool,
    pub namespace: String,
    /// Name of the StatefulSet, and of all else.
    pub app: String,
    /// The Secret with the certificates of the load, where it speaks TLS.
    pub load_secret: Option<&'static str>,
}

/// A pod as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub ready: bool,
    pub running: bool,
    pub deleting: bool,
    pub restarts: u64,
    pub image: String,
    /// How the container before this one ended.
    pub ended: String,
}

/// A member as the cluster has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub name: String,
    pub is_learner: bool,
}

/// What the load saw.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Seen {
    pub acknowledged: usize,
    pub failed: usize,
    pub unknown: usize,
    pub failed_reads: usize,
    pub gap: u64,
    pub slowest: u64,
    pub violations: Vec<String>,
    pub errors: BTreeMap<String, usize>,
}

impl World {
    /// A new namespace.
    pub fn new(global: &Tool, namespace: &str, app: &str) -> Step<Self> {
        let _ = global.within(LONG, &["delete", "namespace", namespace, "--ignore-not-found"], "");
        global.run(&["create", "namespace", namespace])?;
        let kubectl = global.clone().with(&["--namespace", namespace]);
        let (namespace, app) = (namespace.to_owned(), app.to_owned());
        Ok(Self { kubectl, global: global.clone(), namespace, app, load_secret: None })
    }

    /// The objects of a folder of manifests.
    pub fn objects(&self, folder: &str) -> Step<Vec<Value>> {
        let text = self.global.run(&["kustomize", folder])?;
        let object = |part: &str| serde_saphyr::from_str(part).map_err(|error| format!("{folder}: {error}"));
        text.split("\n---\n").map(object).collect()
    }

    /// Applies a folder of manifests after `edit`, which gets each object.
    pub fn install(&self, folder: &str, edit: &dyn Fn(&mut Value)) -> Step {
        let mut objects = self.objects(folder)?;
        objects.iter_mut().for_each(edit);
        self.apply_all(&objects)
    }

    pub fn apply_all(&self, objects: &[Value]) -> Step {
        self.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }))
    }

    pub fn apply(&self, object: &Value) -> Step {
        self.kubectl.within(LONG, &["apply", "-f", "-"], &object.to_string()).map(drop)
    }

    /// All pods of the set, by name.
    pub fn pods(&self) -> Step<Vec<Pod>> {
        let label = format!("{LABEL}{}", self.app);
        let text = self.kubectl.run(&["get", "pods", "-l", &label, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let mut pods: Vec<Pod> = list["items"].as_array().into_iter().flatten().map(pod).collect();
        pods.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(pods)
    }

    pub fn pod(&self, ordinal: u16) -> Step<Pod> {
        let name = self.name(ordinal);
        let found = self.pods()?.into_iter().find(|pod| pod.name == name);
        found.ok_or(format!("{name} is not there"))
    }

    pub fn name(&self, ordinal: u16) -> String {
        format!("{}-{ordinal}", self.app)
    }

    /// Waits until exactly the pods 0 to `size` are there and ready.
    pub fn all_ready(&self, size: usize, limit: Duration) -> Step {
        self.until(&format!("{size} pods are ready"), limit, || {
            let pods = self.pods().ok()?;
            (pods.len() == size && pods.iter().all(|pod| pod.ready && !pod.deleting)).then_some(())
        })
    }

    pub fn until<T>(&self, what: &str, limit: Duration, look: impl Fn() -> Option<T>) -> Step<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(format!("not within {limit:?}: {what}"));
            }
            // Between two looks at what `kubectl` shows.
            std::thread::sleep(LOOK);
        }
    }

    /// Lets time pass in which something is so.
    pub fn pass(&self, span: Duration) -> Step {
        let begin = Instant::now();
        self.until("time passes", span + LONG, || (begin.elapsed() >= span).then_some(()))
    }

    /// `setstone` in a pod.
    pub fn setstone(&self, ordinal: u16, arguments: &[&str]) -> Step<String> {
        let name = self.name(ordinal);
        let mut words = vec!["exec", &name, "--", "setstone"];
        words.extend(arguments);
        self.kubectl.run(&words)
    }

    /// What a pod says of itself; a pod that is not ready says it too.
    pub fn status(&self, ordinal: u16) -> Step<Value> {
        let text = self.setstone(ordinal, &["status", "--json"]);
        let text = text.or_else(|error| error.find('{').map(|at| error[at..].to_owned()).ok_or(error))?;
        let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        documents.next().ok_or("no answer")?.map_err(|error| format!("{error}: {text}"))
    }

    /// The ordinal of the leader, as a ready pod says.
    pub fn leader(&self) -> Step<u16> {
        self.until("somebody leads", LONG, || {
            for pod in self.pods().ok()?.iter().filter(|pod| pod.ready) {
                let ordinal = pod.name.rsplit_once('-')?.1.parse().ok()?;
                let Ok(status) = self.status(ordinal) else { continue };
                let leader = status["status"]["consensus"]["leader"].as_str().map(str::to_owned);
                if let Some(leader) = leader.and_then(|id| id.split('#').next()?.parse().ok()) {
                    return Some(leader);
                }
            }
            None
        })
    }

    /// The members, as a pod says.
    pub fn members(&self, ordinal: u16) -> Step<Vec<Member>> {
        let text = self.setstone(ordinal, &["members", "--json"])?;
        let document: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        serde_json::from_value(document["members"].clone()).map_err(|error| error.to_string())
    }

    /// The member of an ordinal.
    pub fn member(&self, asked: u16, ordinal: u16) -> Step<Member> {
        let name = self.name(ordinal);
        let found = self.members(asked)?.into_iter().find(|member| member.name == name);
        found.ok_or(format!("{name} is no member"))
    }

    /// The cluster's id, as every pod says; an error if they differ.
    pub fn cluster(&self) -> Step<String> {
        let mut ids = Vec::new();
        for pod in self.pods()? {
            let ordinal = pod.name.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).ok_or("no ordinal")?;
            let id =
                self.status(ordinal)?["status"]["disk"]["cluster"].as_str().unwrap_or_default().to_owned();
            ids.push(id);
        }
        ids.dedup();
        match &ids[..] {
            [one] => Ok(one.clone()),
            _ => Err(format!("the pods are of the clusters {ids:?}")),
        }
    }

    /// Waits until `size` pods are ready and vote as they should: an odd number of them, the rest as spares.
    pub fn settled(&self, size: usize, limit: Duration) -> Step {
        let since = Instant::now();
        self.all_ready(size, limit)?;
        let voters = match size {
            2 => 2,
            _ => size - usize::from(size % 2 == 0),
        };
        let left = limit.saturating_sub(since.elapsed());
        self.until(&format!("{voters} of {size} members vote"), left, || {
            let members = self.members(0).ok()?;
            let voting = members.iter().filter(|member| !member.is_learner).count();
            (members.len() == size && voting == voters).then_some(())
        })
    }

    pub fn scale(&self, size: u16) -> Step {
        let set = format!("statefulset/{}", self.app);
        self.kubectl.run(&["scale", &set, "--replicas", &size.to_string()]).map(drop)
    }

    /// Deletes pods, without waiting.
    pub fn delete_pods(&self, ordinals: &[u16]) -> Step {
        let names: Vec<String> = ordinals.iter().map(|ordinal| self.name(*ordinal)).collect();
        let mut words = vec!["delete", "pod", "--wait=false"];
        words.extend(names.iter().map(String::as_str));
        self.kubectl.run(&words).map(drop)
    }

    /// Deletes volumes and their pods, without waiting.
    pub fn delete_volumes(&self, ordinals: &[u16]) -> Step {
        let names: Vec<String> =
            ordinals.iter().map(|ordinal| format!("data-{}", self.name(*ordinal))).collect();
        let mut words = vec!["delete", "pvc", "--wait=false"];
        words.extend(names.iter().map(String::as_str));
        self.kubectl.run(&words)?;
        self.delete_pods(ordinals)
    }

    pub fn volume(&self, ordinal: u16) -> Step<String> {
        let name = format!("data-{}", self.name(ordinal));
        self.kubectl.run(&["get", "pvc", &name, "-o", "jsonpath={.metadata.uid}"])
    }

    /// Starts a load at the client Service: by its address, so that it is the store that is tested, and not how a client finds names.
    pub fn start_load(&self, node: Option<&str>) -> Step {
        let endpoint = format!("{}:2379", self.service()?);
        let mut arguments = vec!["run", &endpoint];
        let (mut volumes, mut mounts) = (json!([]), json!([]));
        if let Some(secret) = self.load_secret {
            arguments.push("/tls");
            volumes = json!([{ "name": "tls", "secret": { "secretName": secret } }]);
            mounts = json!([{ "name": "tls", "mountPath": "/tls" }]);
        }
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "load" },
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                "nodeName": node,
                "tolerations": [{ "operator": "Exists" }],
                "volumes": volumes,
                "containers": [{
                    "name": "load", "image": "docker.io/setstone-load:dev", "imagePullPolicy": "IfNotPresent",
                    "args": arguments, "volumeMounts": mounts,
                }],
            },
        }))?;
        self.until("the load runs", LONG, || self.seen(0).ok().filter(|seen| seen.acknowledged > 50))
            .map(drop)
    }

    /// The address of the client Service.
    pub fn service(&self) -> Step<String> {
        self.kubectl.run(&["get", "service", &self.app, "-o", "jsonpath={.spec.clusterIP}"])
    }

    /// `setstone-load` in the pod of the load.
    pub fn load(&self, arguments: &[&str]) -> Step<String> {
        let mut words = vec!["exec", "load", "--", "setstone-load"];
        words.extend(arguments);
        self.kubectl.within(LONG, &words, "")
    }

    /// A moment, by the clock of the load.
    pub fn mark(&self) -> Step<u64> {
        self.load(&["mark"])?.trim().parse().map_err(|error| format!("{error}"))
    }

    pub fn seen(&self, since: u64) -> Step<Seen> {
        serde_json::from_str(&self.load(&["report", &since.to_string()])?).map_err(|error| error.to_string())
    }

    /// Waits until a write was acknowledged from now on.
    pub fn serves(&self, limit: Duration) -> Step {
        let now = self.mark()?;
        self.until("a write is acknowledged", limit, || {
            self.seen(now).ok().filter(|seen| seen.acknowledged > 0)
        })
        .map(drop)
    }

    /// Ends the load and checks all that it saw.
    pub fn finish_load(&self) -> Step<String> {
        let text = self.load(&["finish"])?;
        let verdict: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let wrong = verdict["wrong"].as_array().ok_or_else(|| text.clone())?;
        self.kubectl.run(&["delete", "pod", "load", "--force", "--grace-period=0"])?;
        if wrong.is_empty() {
            Ok(format!("{} writes and {} reads are right", verdict["writes"], verdict["reads"]))
        } else {
            Err(format!(
                "{} things are wrong: {}",
                wrong.len(),
                json!(wrong.iter().take(5).collect::<Vec<_>>())
            ))
        }
    }

    pub fn remove(&self) {
        let arguments = ["delete", "namespace", &self.namespace, "--wait=false"];
        if let Err(error) = self.global.run(&arguments) {
            println!("{error}");
        }
    }
}

fn pod(object: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let status = &object["status"];
    let container = &status["containerStatuses"][0];
    let ready = status["conditions"].as_array().into_iter().flatten();
    let mut ready = ready.filter(|condition| condition["type"] == "Ready");
    Pod {
        name: text(&object["metadata"]["name"]),
        uid: text(&object["metadata"]["uid"]),
        node: text(&object["spec"]["nodeName"]),
        ready: ready.any(|condition| condition["status"] == "True"),
        running: container["state"]["running"].is_object(),
        deleting: object["metadata"]["deletionTimestamp"].is_string(),
        restarts: container["restartCount"].as_u64().unwrap_or(0),
        image: text(&object["spec"]["containers"][0]["image"]),
        ended: text(&container["lastState"]["terminated"]["reason"]),
    }
}
