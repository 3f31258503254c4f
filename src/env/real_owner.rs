//! The pod's own `StatefulSet`, asked for at the Kubernetes API server: one GET of one named object, which is all that the
//! `ServiceAccount` must be allowed. The only place that names the `kube` crate, which reads the pod's token anew when it changes.

use futures::future::BoxFuture;
use kube::core::{ApiResource, GroupVersionKind, NotUsed, Object};
use kube::{Api, Client, Config};
use serde::Deserialize;

use super::owner::{Owner, Seen};

/// As much of a `StatefulSet` as is looked at. To read all that a pod may be made of is a third of a megabyte of code.
type StatefulSet = Object<Option<Spec>, NotUsed>;

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    replicas: Option<i32>,
    ordinals: Option<Ordinals>,
}

#[derive(Clone, Debug, Deserialize)]
struct Ordinals {
    start: Option<i32>,
}

/// Where the API server is, and which object is ours.
#[derive(Clone)]
pub struct Kubernetes {
    api: Api<StatefulSet>,
    name: String,
}

impl Kubernetes {
    /// The `StatefulSet` of that name. `server` is the URL of an API server that takes anybody's word; without it, it is the one that
    /// every pod is told of, with the pod's own token. To be called in a tokio runtime.
    ///
    /// # Errors
    /// If this is not a pod, its token cannot be read, or `server` is no URL.
    pub fn new(namespace: &str, name: &str, server: Option<&str>) -> Result<Self, String> {
        let config = match server {
            Some(url) => Config::new(
                url.parse().map_err(|error| format!("{url} is no URL of an API server: {error}"))?,
            ),
            None => Config::incluster().map_err(|error| format!("no API server: {error}"))?,
        };
        let client = Client::try_from(config).map_err(|error| format!("no API server: {error}"))?;
        let of = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "StatefulSet"));
        Ok(Self { api: Api::namespaced_with(client, namespace, &of), name: name.to_owned() })
    }
}

impl Owner for Kubernetes {
    fn look(&self) -> BoxFuture<'_, Seen> {
        Box::pin(async move {
            match self.api.get_opt(&self.name).await {
                Ok(Some(set)) => seen(&set),
                Ok(None) => Seen::Gone,
                Err(error) => Seen::Unknown(reason(&error)),
            }
        })
    }
}

/// Why there was no answer, for people. What the API server refuses, it explains in words; the client adds the whole answer to them.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

/// What an object says.
fn seen(set: &StatefulSet) -> Seen {
    if set.metadata.deletion_timestamp.is_some() {
        return Seen::BeingDeleted;
    }
    let Some(spec) = &set.spec else { return Seen::Unknown("the StatefulSet has no spec".into()) };
    // What Kubernetes takes an absent number for.
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let size = spec.replicas.unwrap_or(1);
    match (u16::try_from(start), u16::try_from(size)) {
        (Ok(start), Ok(size)) => {
            Seen::Wants { start, size, generation: set.metadata.generation.unwrap_or(0) }
        }
        _ => Seen::Unknown(format!("the StatefulSet wants {size} pods from {start} on")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_objects_say() {
        let of = |metadata: serde_json::Value, spec: serde_json::Value| {
            let object = json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec,
            });
            seen(&serde_json::from_value(object).unwrap())
        };
        let wants = |start, size, generation| Seen::Wants { start, size, generation };
        assert_eq!(of(json!({ "generation": 4 }), json!({ "replicas": 3 })), wants(0, 3, 4));
        assert_eq!(of(json!({}), json!({})), wants(0, 1, 0));
        let moved = json!({ "replicas": 0, "ordinals": { "start": 7 } });
        assert_eq!(of(json!({ "generation": 1 }), moved), wants(7, 0, 1));
        let deleted = json!({ "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z" });
        assert_eq!(of(deleted, json!({ "replicas": 3 })), Seen::BeingDeleted);
        for strange in
            [json!({ "replicas": -1 }), json!({ "replicas": 70_000 }), json!({ "ordinals": { "start": -2 } })]
        {
            assert!(matches!(of(json!({}), strange), Seen::Unknown(_)));
        }
        let nothing =
            serde_json::from_value(json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {} }));
        assert!(matches!(seen(&nothing.unwrap()), Seen::Unknown(_)));
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server() {
        let text = r#"statefulsets.apps "setstone" is forbidden: User "x" cannot get resource"#;
        let refusal = kube::core::Status { code: 403, ..kube::core::Status::failure(text, "Forbidden") };
        assert_eq!(reason(&kube::Error::Api(Box::new(refusal))), format!("{text} (403)"));
    }

    #[tokio::test]
    async fn nobody_there_is_unknown() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let owner = Kubernetes::new("default", "setstone", Some(&format!("http://{port}"))).unwrap();
        assert!(matches!(owner.look().await, Seen::Unknown(_)));
        assert!(Kubernetes::new("default", "setstone", Some("not a url")).is_err());
    }
}
