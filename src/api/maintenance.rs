//! etcd's Maintenance service.

use bytes::Bytes;

use super::{SERVER_VERSION, STORAGE_VERSION, Shared, cluster, texts};
use crate::identity::NodeId;
use crate::proto::etcdserverpb as pb;
use crate::transport::{Failure, grpc};

/// How this member stands. Answered whatever its state, because it is what people look at when nothing works.
pub(super) fn status(api: &Shared) -> Bytes {
    let position = api.store.position();
    let disk = api.store.disk_use();
    let mut errors: Vec<String> = position.failure.iter().cloned().collect();
    if position.leader.is_none() {
        errors.push(texts::NO_LEADER.text.into());
    }
    let header = api.headers.at(&position, position.revision, 0);
    // Never 0: etcdctl divides by it.
    let size = i64::try_from(disk.state).unwrap_or(i64::MAX).max(1);
    grpc::encode(&pb::StatusResponse {
        version: SERVER_VERSION.into(),
        db_size: size,
        leader: position.leader.map_or(0, |leader| leader.0),
        raft_index: position.committed_index,
        raft_term: header.raft_term,
        raft_applied_index: position.applied_index,
        errors,
        db_size_in_use: size,
        is_learner: position.is_learner,
        storage_version: STORAGE_VERSION.into(),
        db_size_quota: api.quota_bytes,
        downgrade_info: Some(pb::DowngradeInfo::default()),
        header: Some(header),
    })
}

/// Hands leadership to a voter.
pub(super) async fn move_leader(api: &Shared, request: pb::MoveLeaderRequest) -> Result<Bytes, Failure> {
    match api.operator.move_leader(NodeId(request.target_id)).await {
        None => Err(texts::NOT_LEADER.into()),
        Some(Err(_)) => Err(texts::BAD_TRANSFEREE.into()),
        Some(Ok(false)) => Err(texts::TRANSFER_TIMED_OUT.into()),
        Some(Ok(true)) => Ok(grpc::encode(&pb::MoveLeaderResponse { header: Some(cluster::header(api)) })),
    }
}

/// Hashes this member's store at a revision.
pub(super) async fn hash_kv(api: &Shared, request: pb::HashKvRequest) -> Result<Bytes, Failure> {
    let hash = api.store.hash(request.revision).await.map_err(|error| texts::failure(&error))?;
    let position = api.store.position();
    Ok(grpc::encode(&pb::HashKvResponse {
        header: Some(api.headers.at(&position, position.revision, 0)),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    }))
}
