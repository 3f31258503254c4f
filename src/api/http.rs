//! Plain HTTP: health, version, metrics. The same on the client port and on the admin port, but for `/livez` and `/readyz`:
//! on the client port they are etcd's; on the admin port, where probes ask, they are the readiness of this member.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::probe::Report;
use super::{CLUSTER_VERSION, SERVER_VERSION, STORAGE_VERSION, Shared, alarm, texts};
use crate::error::Error;
use crate::metrics::{self, RefusedRequest};
use crate::mvcc::alarm::AlarmKind;
use crate::mvcc::command::{Range, Refusal};
use crate::transport::AnswerBody;
use crate::transport::answers::Answers;

/// Which port a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortKind {
    /// Where clients come.
    Client,
    /// Where probes and people come.
    Admin,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers one request. Bodies of requests are not looked at.
pub(super) async fn answer<B>(
    api: &Shared,
    port: PortKind,
    answers: &Answers,
    request: &Request<B>,
) -> Response<AnswerBody> {
    if answers.is_exhausted() {
        api.metrics.refused(RefusedRequest::Unread);
        return error(StatusCode::TOO_MANY_REQUESTS, texts::TOO_MANY_REQUESTS.text);
    }
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let (root, check) = match path.get(1..).and_then(|rest| rest.split_once('/')) {
        Some((root, check)) => (root, Some(check)),
        None => (path.get(1..).unwrap_or_default(), None),
    };
    let known = match (root, check) {
        ("health" | "version" | "metrics", None) | ("livez" | "readyz", _) => true,
        ("status", None) => port == PortKind::Admin,
        _ => false,
    };
    if !known {
        return error(StatusCode::NOT_FOUND, "404 page not found");
    }
    if request.method() != Method::GET {
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let response = match (root, port) {
        ("health", _) => health(api, query).await,
        ("version", _) => version(),
        ("metrics", _) => {
            refresh(api);
            plain(StatusCode::OK, metrics::CONTENT_TYPE, api.metrics.encode())
        }
        ("status", _) => plain(StatusCode::OK, JSON, api.probe.report().status.to_string() + "\n"),
        (root, PortKind::Client) => client_checks(api, root, check, query).await,
        (root, PortKind::Admin) => admin_checks(&api.probe.report(), root, check, query),
    };
    response.map(|body| match body {
        AnswerBody::Plain(bytes) => AnswerBody::Plain(answers.count(bytes)),
        other => other,
    })
}

fn plain(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Plain(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// As Go's `http.Error`.
pub(super) fn error(status: StatusCode, text: &str) -> Response<AnswerBody> {
    plain(status, TEXT, format!("{text}\n"))
}

/// Whether the query has `name`, with `value` if one is given.
fn has(query: &str, name: &str, value: Option<&str>) -> bool {
    query.split('&').any(|pair| {
        let (key, found) = pair.split_once('=').unwrap_or((pair, ""));
        key == name && value.is_none_or(|value| value == found)
    })
}

/// Reads something, as etcd's health checks do.
async fn read(api: &Shared, linearizable: bool) -> Result<(), Error> {
    if linearizable {
        api.store.barrier().await?;
    }
    let range = Range {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        limit: 1,
        keys_only: true,
        ..Range::default()
    };
    match api.store.range(range).await {
        // That it could be read is what is asked here; that the members' states differ is told by a check of its own.
        Ok(_) | Err(Error::Refused(Refusal::Corrupt)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `/health`.
async fn health(api: &Shared, query: &str) -> Response<AnswerBody> {
    let serializable = has(query, "serializable", Some("true"));
    let alarm = api.store.alarms().into_iter().find(|alarm| !has(query, "exclude", Some(alarm.kind.name())));
    let reason = if let Some(alarm) = alarm {
        Err(alarm::reason(alarm))
    } else if !serializable && api.store.position().leader.is_none() {
        Err("RAFT NO LEADER".to_owned())
    } else {
        read(api, !serializable).await.map_err(|error| format!("RANGE ERROR:{}", texts::failure(&error).text))
    };
    let (status, health, reason) = match reason {
        Ok(()) => (StatusCode::OK, "true", String::new()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, "false", reason),
    };
    count_health(api, status);
    // In etcd's order of fields.
    let reason = serde_json::Value::String(reason);
    let end = if status == StatusCode::OK { "" } else { "\n" };
    plain(status, TEXT, format!("{{\"health\":\"{health}\",\"reason\":{reason}}}{end}"))
}

fn count_health(api: &Shared, status: StatusCode) {
    if status == StatusCode::OK {
        api.metrics.health_success.inc();
    } else {
        api.metrics.health_failures.inc();
    }
}

/// `/version`: etcd's fields are those of the etcd whose API this is; ours has a field of its own.
fn version() -> Response<AnswerBody> {
    let setstone = env!("CARGO_PKG_VERSION");
    plain(
        StatusCode::OK,
        JSON,
        format!(
            "{{\"etcdserver\":\"{SERVER_VERSION}\",\"etcdcluster\":\"{CLUSTER_VERSION}\",\"storage\":\"{STORAGE_VERSION}\",\"setstone\":\"{setstone}\"}}"
        ),
    )
}

/// The checks of `/livez` and `/readyz` in etcd.
const LIVE_CHECKS: &[&str] = &["serializable_read"];
const READY_CHECKS: &[&str] = &["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

/// `/livez`, `/readyz` and their single checks on the client port.
async fn client_checks(api: &Shared, root: &str, only: Option<&str>, query: &str) -> Response<AnswerBody> {
    let checks = if root == "livez" { LIVE_CHECKS } else { READY_CHECKS };
    let chosen: Vec<&str> = match only {
        Some(only) => checks.iter().copied().filter(|check| *check == only).collect(),
        None => checks.iter().copied().filter(|check| !has(query, "exclude", Some(check))).collect(),
    };
    if only.is_some() && chosen.is_empty() {
        return error(StatusCode::NOT_FOUND, "404 page not found");
    }
    let mut lines = Vec::new();
    for check in chosen {
        let result = match check {
            "serializable_read" => {
                read(api, false).await.map_err(|error| texts::failure(&error).text.into_owned())
            }
            "linearizable_read" => {
                read(api, true).await.map_err(|error| texts::failure(&error).text.into_owned())
            }
            "non_learner" => non_learner(api),
            _ => data_corruption(api),
        };
        lines.push((check, result));
    }
    let response = checked(&lines, has(query, "verbose", None));
    count_health(api, response.status());
    response
}

/// etcd's text for the alarm; this member's own store may have failed, too.
fn data_corruption(api: &Shared) -> Result<(), String> {
    if api.store.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
        return Err("alarm activated: CORRUPT".into());
    }
    api.store.position().failure.map_or(Ok(()), Err)
}

/// Our own spares serve everything; only a learner that was added by hand is none to send clients to.
fn non_learner(api: &Shared) -> Result<(), String> {
    if api.store.position().is_held_back {
        return Err("not supported for learner".into());
    }
    Ok(())
}

/// `/livez` and `/readyz` on the admin port. Single clauses have sub paths too.
fn admin_checks(report: &Report, root: &str, only: Option<&str>, query: &str) -> Response<AnswerBody> {
    let verbose = has(query, "verbose", None);
    if root == "livez" {
        if only.is_some() {
            return error(StatusCode::NOT_FOUND, "404 page not found");
        }
        let live = if report.live { Ok(()) } else { Err("the storage does not move".into()) };
        return checked(&[("live", live)], verbose);
    }
    let line = |clause: &super::probe::Clause| {
        (clause.name, if clause.holds { Ok(()) } else { Err(clause.detail.clone()) })
    };
    if let Some(only) = only {
        return match report.clauses.iter().find(|clause| clause.name == only) {
            Some(clause) => checked(&[line(clause)], verbose),
            None => error(StatusCode::NOT_FOUND, "404 page not found"),
        };
    }
    let lines: Vec<_> = report.clauses.iter().map(line).collect();
    // Whether it is ready is for the report to say: clauses may stand in for each other.
    listed(&lines, report.ready, verbose)
}

/// etcd's form of check results, all of which must have passed.
fn checked(lines: &[(&str, Result<(), String>)], verbose: bool) -> Response<AnswerBody> {
    listed(lines, lines.iter().all(|(_, result)| result.is_ok()), verbose)
}

/// etcd's form of check results: a list if asked for, or if they failed.
fn listed(lines: &[(&str, Result<(), String>)], passed: bool, verbose: bool) -> Response<AnswerBody> {
    let mut text = String::new();
    for (name, result) in lines.iter().filter(|_| verbose || !passed) {
        // Writing into a String cannot fail.
        let _ = match result {
            Ok(()) => writeln!(text, "[+]{name} ok"),
            Err(reason) => writeln!(text, "[-]{name} failed: {reason}"),
        };
    }
    if passed {
        plain(StatusCode::OK, TEXT, text + "ok\n")
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, text + "not ok\n")
    }
}

/// Metrics that are read off the store when somebody asks for them.
fn refresh(api: &Shared) {
    let position = api.store.position();
    let disk = api.store.disk_use();
    let metrics = &api.metrics;
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.has_leader.set(position.leader.is_some().into());
    metrics.is_leader.set(position.leader.is_some_and(|leader| leader == position.member).into());
    metrics.is_learner.set(position.is_learner.into());
    metrics.proposals_committed.set(signed(position.committed_index));
    metrics.proposals_applied.set(signed(position.applied_index));
    metrics.revision.set(position.revision);
    metrics.compacted_revision.set(position.compacted);
    metrics.leases.set(signed(position.leases as u64));
    metrics.lease_keys.set(signed(position.lease_keys as u64));
    metrics.db_bytes.set(signed(disk.state));
    metrics.db_bytes_in_use.set(signed(disk.state_in_use.min(disk.state)));
    metrics.keys.set(signed(disk.keys));
    metrics.log_bytes.set(signed(disk.log));
    metrics.snapshot_bytes.set(signed(disk.snapshots));
    metrics.ready.set(api.probe.report().ready.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        assert!(has("verbose", "verbose", None));
        assert!(has("a=b&verbose=", "verbose", None));
        assert!(has("serializable=true", "serializable", Some("true")));
        assert!(!has("serializable=false", "serializable", Some("true")));
        assert!(!has("", "verbose", None));
        assert!(has("exclude=a&exclude=b", "exclude", Some("b")));
    }
}
