//! The manifests: every file is read into the types of Kubernetes' API and written again, and nothing may be lost on the way (a field
//! that is misspelt is lost); and what one file takes for granted of another, or of the program, holds.
//!
//! Overlays are looked at file by file, without kustomize: a patch is part of an object, so all that it says must be in the type too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use setstone::identity::PodFacts;
use setstone::limits;

/// Every set of manifests that stands for itself.
const BASES: [&str; 2] = ["k8s/base", "examples/service/k8s"];
/// What is laid over `k8s/base`.
const OVERLAYS: [&str; 4] = ["dev", "memory", "prod", "tls"];

/// What the example, which reads no such variable, sets itself.
const EXAMPLES_GRACE: &str = "25s";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files with manifests below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found.sort();
}

/// The documents of a file.
fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let read = |part: &str| {
        serde_saphyr::from_str(part).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    text.split("\n---\n").map(read).collect()
}

fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap_or_default()
}

/// As the type has it, written again.
fn again<T: DeserializeOwned + Serialize>(document: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// As much of cert-manager's kinds as the manifests use: `cert-manager.io/v1`, whose types no crate here has.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CertManager<Spec> {
    api_version: String,
    kind: String,
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: Spec,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IssuerSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    self_signed: Option<BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<SecretName>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretName {
    secret_name: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CertificateSpec {
    common_name: String,
    secret_name: String,
    duration: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    renew_before: Option<String>,
    private_key: BTreeMap<String, Value>,
    #[serde(rename = "isCA", default, skip_serializing_if = "std::ops::Not::not")]
    is_ca: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    usages: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dns_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ip_addresses: Vec<String>,
    issuer_ref: BTreeMap<String, String>,
}

fn through_its_type(document: &Value) -> Result<Value, String> {
    match kind(document) {
        "Certificate" => again::<CertManager<CertificateSpec>>(document),
        "Issuer" => again::<CertManager<IssuerSpec>>(document),
        "ConfigMap" => again::<ConfigMap>(document),
        "NetworkPolicy" => again::<NetworkPolicy>(document),
        "PodDisruptionBudget" => again::<PodDisruptionBudget>(document),
        "Role" => again::<Role>(document),
        "RoleBinding" => again::<RoleBinding>(document),
        "Service" => again::<Service>(document),
        "ServiceAccount" => again::<ServiceAccount>(document),
        "StatefulSet" => again::<StatefulSet>(document),
        other => Err(format!("{other:?} is no kind that this test knows")),
    }
}

/// Where `written` lacks something of `original`. What it has beside that is what the type requires and a patch leaves out. A `null` in
/// a patch takes something away.
fn lost(original: &Value, written: &Value, at: &str, found: &mut Vec<String>) {
    match (original, written) {
        (Value::Null, Value::Null) => {}
        (Value::Object(original), Value::Object(written)) => {
            for (key, value) in original {
                lost(value, written.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"), found);
            }
        }
        (Value::Array(original), Value::Array(written)) if original.len() == written.len() => {
            for (index, (one, other)) in original.iter().zip(written).enumerate() {
                lost(one, other, &format!("{at}[{index}]"), found);
            }
        }
        _ if original == written => {}
        _ => found.push(format!("{at}: {original} became {written}")),
    }
}

#[test]
fn nothing_is_lost_in_the_types_of_kubernetes() {
    let mut all = Vec::new();
    files(&root().join("k8s"), &mut all);
    files(&root().join("examples/service/k8s"), &mut all);
    let (mut wrong, mut objects) = (Vec::new(), 0);
    for path in all.iter().filter(|path| !path.ends_with("kustomization.yaml")) {
        for document in documents(path) {
            objects += 1;
            let at = format!("{}: {}", path.strip_prefix(root()).unwrap().display(), kind(&document));
            match through_its_type(&document) {
                Ok(written) => lost(&document, &written, &at, &mut wrong),
                Err(error) => wrong.push(format!("{at}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(objects > 15, "only {objects} objects were found");
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_noticed() {
    let mut set = object("k8s/base", "StatefulSet");
    set["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = Value::from(1);
    let mut found = Vec::new();
    lost(&set, &through_its_type(&set).unwrap(), "", &mut found);
    assert_eq!(found, [".spec.template.spec.containers[0].readinesProbe: 1 became null"]);
}

#[test]
fn every_file_is_named_and_every_name_is_a_file() {
    let mut kustomizations = Vec::new();
    files(&root().join("k8s"), &mut kustomizations);
    files(&root().join("examples/service/k8s"), &mut kustomizations);
    kustomizations.retain(|path| path.ends_with("kustomization.yaml"));
    assert_eq!(kustomizations.len(), 8);
    for path in kustomizations {
        let folder = path.parent().unwrap();
        let [document] = &documents(&path)[..] else { panic!("{}: not one document", path.display()) };
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let mut named: BTreeSet<PathBuf> =
            list("resources").iter().map(|name| folder.join(name.as_str().unwrap())).collect();
        named.extend(list("patches").iter().filter_map(|patch| Some(folder.join(patch["path"].as_str()?))));
        for name in &named {
            assert!(name.exists(), "{}: {} is not there", path.display(), name.display());
        }
        let mut there = Vec::new();
        files(folder, &mut there);
        for file in there.iter().filter(|file| !file.ends_with("kustomization.yaml")) {
            assert!(named.contains(file), "{} is not named in {}", file.display(), path.display());
        }
    }
}

/// All objects of a base, by kind and name.
fn objects(base: &str) -> BTreeMap<(String, String), Value> {
    let mut all = Vec::new();
    files(&root().join(base), &mut all);
    all.iter()
        .filter(|path| !path.ends_with("kustomization.yaml"))
        .flat_map(|path| documents(path))
        .map(|document| {
            let name = document["metadata"]["name"].as_str().unwrap().to_owned();
            ((kind(&document).to_owned(), name), document)
        })
        .collect()
}

/// The only object of a kind.
fn object(base: &str, wanted: &str) -> Value {
    let mut all: Vec<Value> = objects(base).into_values().filter(|object| kind(object) == wanted).collect();
    assert_eq!(all.len(), 1, "{base}: {wanted}");
    all.remove(0)
}

fn typed<T: DeserializeOwned>(base: &str, wanted: &str) -> T {
    serde_json::from_value(object(base, wanted)).unwrap()
}

struct Set {
    name: String,
    spec: StatefulSetSpec,
    pod: PodSpec,
    container: Container,
    services: Vec<Service>,
}

fn set(base: &str) -> Set {
    let set: StatefulSet = typed(base, "StatefulSet");
    let spec = set.spec.unwrap();
    let pod = spec.template.spec.clone().unwrap();
    let [container] = &pod.containers[..] else { panic!("{base}: not one container") };
    let services = objects(base)
        .into_values()
        .filter(|object| kind(object) == "Service")
        .map(|object| serde_json::from_value(object).unwrap())
        .collect();
    Set { name: set.metadata.name.unwrap(), container: container.clone(), pod, spec, services }
}

/// The variables that a pod of a base gets; a field's path stands for what the kubelet puts in its place.
fn variables(base: &str) -> BTreeMap<String, String> {
    let set = set(base);
    let mut variables = BTreeMap::new();
    for source in set.container.env_from.iter().flatten() {
        let config: ConfigMap = typed(base, "ConfigMap");
        assert_eq!(source.config_map_ref.as_ref().unwrap().name, config.metadata.name.clone().unwrap());
        variables.extend(config.data.unwrap());
    }
    for variable in set.container.env.iter().flatten() {
        let field = || variable.value_from.as_ref()?.field_ref.as_ref().map(|field| field.field_path.clone());
        variables.insert(variable.name.clone(), variable.value.clone().or_else(field).unwrap());
    }
    variables
}

/// What the kubelet makes of them for one pod.
fn in_pod(base: &str, ordinal: u16) -> BTreeMap<String, String> {
    let name = set(base).name;
    variables(base)
        .into_iter()
        .map(|(variable, value)| {
            let value = match value.as_str() {
                "metadata.name" => format!("{name}-{ordinal}"),
                "metadata.namespace" => "shop".into(),
                "metadata.labels['apps.kubernetes.io/pod-index']" => ordinal.to_string(),
                "status.podIP" => "10.1.2.3".into(),
                _ => value,
            };
            (variable, value)
        })
        .collect()
}

#[test]
fn pods_are_told_who_they_are() {
    for base in BASES {
        let set = set(base);
        let spec = &set.spec;
        let environment = in_pod(base, 2);
        let resolv = "search shop.svc.k8s.example svc.k8s.example k8s.example\n";
        let facts = PodFacts::from(|name| environment.get(name).cloned(), resolv).unwrap();
        assert_eq!((facts.set_name(), facts.ordinal), (set.name.as_str(), 2), "{base}");
        assert_eq!(Some(&facts.service), spec.service_name.as_ref(), "{base}");
        assert_eq!(facts.pod_ip, Some("10.1.2.3".parse().unwrap()), "{base}");
        assert_eq!(environment["SETSTONE_EXPECTED"], spec.replicas.unwrap().to_string(), "{base}");
    }
}

#[test]
fn every_variable_is_one_of_the_programs() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_setstone"))
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut words: BTreeSet<&str> = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    words.remove("");
    let secure = object("k8s/overlays/tls", "ConfigMap")["data"].clone();
    let secure: BTreeMap<String, String> = serde_json::from_value(secure).unwrap();
    for (variable, value) in variables("k8s/base").into_iter().chain(secure) {
        assert!(words.contains(variable.as_str()), "{variable}={value} is not in `setstone serve --help`");
    }
}

#[test]
fn a_stop_ends_before_the_kubelet_kills() {
    for base in BASES {
        let set = set(base);
        let killed_after = set.pod.termination_grace_period_seconds.unwrap() as u64;
        let grace = variables(base).remove("SETSTONE_GRACE_PERIOD").unwrap_or_else(|| EXAMPLES_GRACE.into());
        let grace: u64 = grace.strip_suffix('s').unwrap().parse().unwrap();
        // What is late then still gets this, step by step: consensus, tasks, disk.
        let last = limits::STOP_STEP.as_secs() * 3;
        assert!(grace + last < killed_after, "{base}: {grace} s and {last} s, killed after {killed_after} s");
        assert!(set.container.lifecycle.is_none(), "{base}: a pod needs no hooks");
    }
}

#[test]
fn a_pod_may_read_its_own_set_and_nothing_else() {
    for base in BASES {
        let (set, role): (_, Role) = (set(base), typed(base, "Role"));
        let [rule] = &role.rules.unwrap()[..] else { panic!("{base}: not one rule") };
        assert_eq!(rule.verbs, ["get"], "{base}");
        assert_eq!(rule.api_groups.as_deref().unwrap(), ["apps"], "{base}");
        assert_eq!(rule.resources.as_deref().unwrap(), ["statefulsets"], "{base}");
        assert_eq!(rule.resource_names.as_deref().unwrap(), [set.name.as_str()], "{base}");
        let binding: RoleBinding = typed(base, "RoleBinding");
        assert_eq!(Some(&binding.role_ref.name), role.metadata.name.as_ref(), "{base}");
        let account: ServiceAccount = typed(base, "ServiceAccount");
        assert_eq!(set.pod.service_account_name, account.metadata.name, "{base}");
        let [subject] = &binding.subjects.unwrap()[..] else { panic!("{base}: not one subject") };
        assert_eq!(Some(&subject.name), account.metadata.name.as_ref(), "{base}");
    }
}

#[test]
fn services_lead_to_the_pods_ports() {
    for base in BASES {
        let set = set(base);
        let spec = &set.spec;
        let labels = spec.template.metadata.as_ref().unwrap().labels.clone().unwrap();
        assert_eq!(spec.selector.match_labels.as_ref(), Some(&labels), "{base}");
        let ports: BTreeMap<_, _> = set
            .container
            .ports
            .iter()
            .flatten()
            .map(|port| (port.name.clone().unwrap(), port.container_port))
            .collect();
        let port = |name: &str| *ports.get(name).unwrap_or_else(|| panic!("{base}: no port {name:?}"));
        let mut headless = 0;
        for service in &set.services {
            let name = service.metadata.name.as_deref().unwrap();
            let of = service.spec.as_ref().unwrap();
            assert_eq!(of.selector.as_ref(), Some(&labels), "{base}: {name}");
            for one in of.ports.iter().flatten() {
                let target = serde_json::to_value(one.target_port.as_ref().unwrap()).unwrap();
                assert_eq!(port(target.as_str().unwrap()), one.port, "{base}: {name}");
            }
            if of.cluster_ip.as_deref() == Some("None") {
                headless += 1;
                assert_eq!(Some(name), spec.service_name.as_deref(), "{base}");
                assert_eq!(
                    of.publish_not_ready_addresses,
                    Some(true),
                    "{base}: pods meet before they are ready"
                );
            } else {
                assert_eq!(of.publish_not_ready_addresses, None, "{base}: {name} is for clients");
            }
        }
        assert_eq!(headless, 1, "{base}");
        assert_eq!(port("peer"), i32::from(setstone::identity::PEER_PORT), "{base}");
        let probes = [&set.container.readiness_probe, &set.container.liveness_probe];
        for (probe, path) in probes.into_iter().zip(["/readyz", "/livez"]) {
            let get = probe.as_ref().unwrap().http_get.as_ref().unwrap();
            assert_eq!(get.path.as_deref(), Some(path), "{base}");
            assert_eq!(serde_json::to_value(&get.port).unwrap(), "admin", "{base}");
        }
        for (variable, name) in [("SETSTONE_LISTEN_CLIENT", "client"), ("SETSTONE_LISTEN_ADMIN", "admin")] {
            let Some(listen) = variables(base).remove(variable) else { continue };
            let listen: std::net::SocketAddr = listen.parse().unwrap();
            assert_eq!(i32::from(listen.port()), port(name), "{base}: {variable}");
        }
    }
}

#[test]
fn selectors_of_the_rest_find_the_pods() {
    let labels = set("k8s/base").spec.selector.match_labels;
    let budget: PodDisruptionBudget = typed("k8s/base", "PodDisruptionBudget");
    assert_eq!(budget.spec.unwrap().selector.unwrap().match_labels, labels);
    let policy: NetworkPolicy = typed("k8s/base", "NetworkPolicy");
    let policy = policy.spec.unwrap();
    assert_eq!(policy.pod_selector.unwrap().match_labels, labels);
    let names: BTreeSet<_> =
        set("k8s/base").container.ports.unwrap().into_iter().map(|port| port.name.unwrap()).collect();
    let mut open = BTreeSet::new();
    for port in policy.ingress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten()) {
        open.insert(serde_json::to_value(port.port.as_ref().unwrap()).unwrap().as_str().unwrap().to_owned());
    }
    assert_eq!(open, names, "every port can be reached by somebody");
    for constraint in set("k8s/base").pod.topology_spread_constraints.unwrap() {
        assert_eq!(constraint.label_selector.unwrap().match_labels, labels);
    }
}

#[test]
fn pods_have_no_rights_that_they_do_not_need() {
    for base in BASES {
        let set = set(base);
        let pod = set.pod.security_context.as_ref().unwrap();
        assert_eq!(
            (pod.run_as_non_root, pod.seccomp_profile.as_ref().unwrap().type_.as_str()),
            (Some(true), "RuntimeDefault")
        );
        let container = set.container.security_context.as_ref().unwrap();
        assert_eq!(container.read_only_root_filesystem, Some(true), "{base}");
        assert_eq!(container.allow_privilege_escalation, Some(false), "{base}");
        assert_eq!(container.capabilities.as_ref().unwrap().drop.as_deref().unwrap(), ["ALL"], "{base}");
    }
}

#[test]
fn data_is_on_the_volume() {
    for base in BASES {
        let set = set(base);
        let mounts = set.container.volume_mounts.clone().unwrap();
        let data = &variables(base)["SETSTONE_DATA_DIR"];
        let mount = mounts.iter().find(|mount| Path::new(data).starts_with(&mount.mount_path)).unwrap();
        // A file system of its own may have things at its top that are not ours, such as lost+found.
        assert_ne!(data, &mount.mount_path, "{base}");
        let claims = set.spec.volume_claim_templates.unwrap();
        assert!(claims.iter().any(|claim| claim.metadata.name.as_ref() == Some(&mount.name)), "{base}");
    }
}

#[test]
fn overlays_say_how_many_found_the_cluster() {
    let base = variables("k8s/base");
    for overlay in OVERLAYS {
        let folder = format!("k8s/overlays/{overlay}");
        let all = objects(&folder);
        let get = |kind: &str| all.get(&(kind.to_owned(), "setstone".to_owned()));
        let expected = get("ConfigMap").map(|config| config["data"]["SETSTONE_EXPECTED"].clone());
        let expected = expected.filter(|patched| !patched.is_null());
        let expected = expected.unwrap_or_else(|| Value::from(base["SETSTONE_EXPECTED"].clone()));
        let replicas = get("StatefulSet").map_or(Value::Null, |set| set["spec"]["replicas"].clone());
        let replicas = replicas.as_i64().unwrap_or(3);
        assert_eq!(expected, replicas.to_string(), "{overlay}");
        for (kind, name) in all.keys() {
            assert!(
                objects("k8s/base").contains_key(&(kind.clone(), name.clone())),
                "{overlay} patches {kind} {name}"
            );
        }
    }
}

/// Where the overlay `tls` mounts which Secret.
fn secrets() -> BTreeMap<String, String> {
    let set: StatefulSet = typed("k8s/overlays/tls", "StatefulSet");
    let pod = set.spec.unwrap().template.spec.unwrap();
    let [container] = &pod.containers[..] else { panic!("not one container") };
    let volumes: BTreeMap<String, String> = pod
        .volumes
        .unwrap()
        .into_iter()
        .map(|volume| (volume.name, volume.secret.unwrap().secret_name.unwrap()))
        .collect();
    let mounts = container.volume_mounts.clone().unwrap().into_iter();
    mounts
        .map(|mount| {
            assert_eq!(
                (mount.read_only, mount.sub_path),
                (Some(true), None),
                "a file mounted alone is never replaced"
            );
            (mount.mount_path, volumes[&mount.name].clone())
        })
        .collect()
}

#[test]
fn certificates_are_where_the_settings_say() {
    let secrets = secrets();
    assert_eq!(secrets.len(), 2);
    let config: ConfigMap = typed("k8s/overlays/tls", "ConfigMap");
    let (mut named, data) = (BTreeSet::new(), config.data.unwrap());
    for (variable, path) in &data {
        let path = Path::new(path);
        let folder = path.parent().unwrap().to_str().unwrap();
        assert!(secrets.contains_key(folder), "{variable}={} is in no Secret", path.display());
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!(["tls.crt", "tls.key", "ca.crt"].contains(&file), "{variable}: cert-manager makes no {file}");
        named.insert(folder);
    }
    assert_eq!(named.len(), secrets.len());
    // Members must show certificates; a configuration that lacks one of these is refused by the program.
    for variable in ["SETSTONE_PEER_CERT_FILE", "SETSTONE_PEER_KEY_FILE", "SETSTONE_PEER_TRUSTED_CA_FILE"] {
        assert!(data.contains_key(variable), "{variable}");
    }
}

#[test]
fn cert_manager_makes_the_secrets_that_are_mounted() {
    let all = objects("k8s/components/cert-manager");
    let certificates: Vec<CertManager<CertificateSpec>> = all
        .values()
        .filter(|object| kind(object) == "Certificate")
        .map(|object| serde_json::from_value(object.clone()).unwrap())
        .collect();
    for (path, secret) in secrets() {
        let found = certificates.iter().find(|certificate| certificate.spec.secret_name == secret);
        let spec = &found.unwrap_or_else(|| panic!("nobody makes {secret}, for {path}")).spec;
        for usage in ["server auth", "client auth"] {
            assert!(spec.usages.iter().any(|is| is == usage), "{secret}: {usage}");
        }
        // The authority is its own, and is made too.
        let issuer = &spec.issuer_ref["name"];
        let issuer = &all[&("Issuer".to_owned(), issuer.clone())];
        let authority = issuer["spec"]["ca"]["secretName"].as_str().unwrap();
        assert!(
            certificates.iter().any(|of| of.spec.is_ca && of.spec.secret_name == authority),
            "{authority}"
        );
        assert_eq!(authority, secret.replace("-tls", "-ca"));
    }
    // Its names are those that the pods know each other by.
    let mut environment = in_pod("k8s/base", 7);
    environment.insert("SETSTONE_POD_NAMESPACE".into(), "default".into());
    let facts = PodFacts::from(|name| environment.get(name).cloned(), "search svc.cluster.local\n").unwrap();
    let wild = format!("*.{}", facts.service_fqdn());
    for secret in ["setstone-peer-tls", "setstone-client-tls"] {
        let certificate =
            certificates.iter().find(|certificate| certificate.spec.secret_name == secret).unwrap();
        assert!(certificate.spec.dns_names.contains(&wild), "{secret} is not for {wild}");
    }
}
