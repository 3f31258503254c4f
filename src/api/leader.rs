//! Clients that want a leader: metadata `hasleader: true`, as etcd's clients set it with `WithRequireLeader`.

use http::HeaderMap;

/// Whether a call is to fail while no leader is known.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}
