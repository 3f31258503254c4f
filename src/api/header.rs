//! The header of every answer.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::proto::etcdserverpb::ResponseHeader;
use crate::raft::store::Position;

/// Makes headers. A term that a client has seen of this member is never followed by a lower one: Patroni takes that for a
/// stale member.
#[derive(Debug, Default)]
pub(super) struct Headers {
    term: AtomicU64,
}

impl Headers {
    /// The header of an answer made at `revision`; `term` is at least that of the entry that made it.
    pub(super) fn at(&self, position: &Position, revision: i64, term: u64) -> ResponseHeader {
        let term = term.max(position.term);
        let highest = self.term.fetch_max(term, Ordering::Relaxed).max(term);
        ResponseHeader {
            cluster_id: position.cluster.0,
            member_id: position.member.0,
            revision,
            raft_term: highest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_never_go_back() {
        let headers = Headers::default();
        let position = |term| Position { term, ..Position::default() };
        assert_eq!(headers.at(&position(3), 1, 0).raft_term, 3);
        assert_eq!(headers.at(&position(3), 1, 5).raft_term, 5);
        assert_eq!(headers.at(&position(4), 1, 0).raft_term, 5);
        assert_eq!(headers.at(&position(6), 9, 5).raft_term, 6);
    }
}
