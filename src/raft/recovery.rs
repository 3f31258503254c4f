//! The entries with which a disk goes on alone (DESIGN section 5, `setstone recover`): nobody has voted for them, because nobody else is
//! left. Whoever appends them takes them for committed, as all before them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec;
use super::open::peer_node;
use super::types::{EntryPayload, Membership};
use crate::identity::{Member, NodeId};
use crate::mvcc::cluster::ClusterCommand;
use crate::mvcc::command::{Command, Request};

/// Payloads of the entries, in order: a membership of `node` alone, and the command that raises the revision by `revisions`.
///
/// # Errors
/// If that is no membership.
pub fn recovery_entries(node: NodeId, own: Member, revisions: u32) -> Result<Vec<Bytes>, codec::CodecError> {
    let membership = Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, peer_node(own))]))
        .map_err(|error| codec::CodecError::Membership(error.to_string()))?;
    let raise = Request::anonymous(Command::Cluster(ClusterCommand::RaiseRevision(revisions)));
    let batch = codec::encode_batch(&[codec::encode_request(raise)]);
    Ok(vec![
        codec::encode_payload(&EntryPayload::Membership(membership)),
        codec::encode_payload(&EntryPayload::Normal(batch)),
    ])
}
