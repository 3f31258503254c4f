//! etcd's Maintenance service.

use bytes::Bytes;

use super::{CLUSTER_VERSION, SERVER_VERSION, STORAGE_VERSION, Shared, alarm, cluster, texts};
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
    errors.extend(api.store.alarms().into_iter().map(alarm::describe));
    let header = api.headers.at(&position, position.revision, 0);
    // Never 0: etcdctl divides by it.
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX).max(1);
    let size = bytes(disk.state);
    grpc::encode(&pb::StatusResponse {
        version: SERVER_VERSION.into(),
        db_size: size,
        leader: position.leader.map_or(0, |leader| leader.0),
        raft_index: position.committed_index,
        raft_term: header.raft_term,
        raft_applied_index: position.applied_index,
        errors,
        // An engine may pack what it holds.
        db_size_in_use: bytes(disk.state_in_use).min(size),
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

/// Rewrites what this member has on disk without what is dead. The answer has no header, as in etcd.
pub(super) async fn defragment(api: &Shared) -> Result<Bytes, Failure> {
    api.store.defragment().await.map_err(|error| texts::failure(&error))?;
    Ok(grpc::encode(&pb::DefragmentResponse { header: None }))
}

/// Checksum of all that this member has, whatever its members have.
pub(super) async fn hash(api: &Shared) -> Result<Bytes, Failure> {
    let (hash, revision) = api.store.hash_all().await.map_err(|error| texts::failure(&error))?;
    let header = Some(api.headers.at(&api.store.position(), revision, 0));
    Ok(grpc::encode(&pb::HashResponse { header, hash }))
}

/// There is no older version of this store: no version can be downgraded to, and none is being. What etcd says then, to each action.
pub(super) async fn downgrade(api: &Shared, request: pb::DowngradeRequest) -> Result<Bytes, Failure> {
    use pb::downgrade_request::DowngradeAction;
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
            if !is_version(&request.version) {
                return Err(texts::WRONG_DOWNGRADE_FORMAT.into());
            }
            api.store.barrier().await.map_err(|error| texts::failure(&error))?;
            Err(texts::INVALID_DOWNGRADE_TARGET.into())
        }
        // As in etcd, that nothing was to be cancelled is no error.
        Ok(DowngradeAction::Cancel) => {
            api.store.barrier().await.map_err(|error| texts::failure(&error))?;
            let position = api.store.position();
            let header = Some(api.headers.at(&position, position.revision, 0));
            let version = CLUSTER_VERSION.rsplit_once('.').map_or(CLUSTER_VERSION, |(minor, _)| minor);
            Ok(grpc::encode(&pb::DowngradeResponse { header, version: version.into() }))
        }
        Err(_) => Err(texts::UNKNOWN_METHOD.into()),
    }
}

/// `major.minor`, or a whole semantic version.
fn is_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (text, pre) = text.split_once('-').map_or((text, None), |(text, pre)| (text, Some(pre)));
    let numbers: Vec<&str> = text.split('.').collect();
    let whole = numbers.len() == 3 || numbers.len() == 2 && build.is_none() && pre.is_none();
    let labels = build.iter().chain(&pre);
    let label = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    whole
        && numbers.iter().all(|number| number.parse::<u64>().is_ok() && !number.starts_with('+'))
        && labels.into_iter().all(|text| !text.is_empty() && text.chars().all(label))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_what_is_none() {
        for text in ["3.6", "3.6.0", "3.6.0-alpha.1", "3.6.0+build", "10.20.30", "0.0"] {
            assert!(is_version(text), "{text}");
        }
        for text in
            ["", "3", "3.", "3.6.", "3.6.0.1", "a.b", "v3.6.0", "3.-6", "+3.6", "3.6-", "3.6.0-", "3.6.0+ä"]
        {
            assert!(!is_version(text), "{text}");
        }
    }
}
