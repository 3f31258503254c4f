#![allow(missing_docs)]
//! placeholder
use std::io;
use std::sync::Arc;
use super::machine::{Machine, Pin};
use super::types::*;
/// a
pub struct Store;
/// a
pub struct SnapshotFile;
/// a
pub struct Builder;
impl Builder { pub fn new(_p: Pin, _s: Arc<Store>) -> Self { Builder } }
impl Store {
    pub async fn install(&self, _m: &Arc<Machine>, _meta: &SnapshotMeta, _s: SnapshotFile) -> io::Result<()> { Ok(()) }
    pub fn newest(&self) -> io::Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>>> { Ok(None) }
    pub fn newest_index(&self) -> Option<u64> { None }
    pub fn bytes(&self) -> u64 { 0 }
    pub fn received(&self, _id: &str) -> io::Result<u64> { Ok(0) }
}
impl openraft::storage::RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;
    async fn build_snapshot(&mut self) -> io::Result<openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>> { Err(io::Error::other("x")) }
}
pub async fn send(_c: crate::proto::peer::raft_client::RaftClient<tonic::transport::Channel>, _e: crate::proto::peer::Envelope, _v: Vote, _s: openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>) -> Result<Vote, String> { Err("".into()) }
pub async fn receive(_s: &Arc<Store>, _h: crate::proto::peer::SnapshotHead, _f: crate::proto::peer::SnapshotChunk, _c: &mut tonic::Streaming<crate::proto::peer::SnapshotChunk>) -> Result<(Vote, openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>), tonic::Status> { Err(tonic::Status::internal("")) }
