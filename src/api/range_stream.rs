//! `RangeStream` (etcd 3.7): a range in parts, all read at one revision.
//!
//! The first part fixes the revision: what is written afterwards is not seen, and if that revision is compacted meanwhile, the stream ends
//! with that. The first part has ten pairs; how many the next one may have doubles and halves with the size of the last, as in etcd. A
//! part is made when HTTP/2 has room for it, so a client that does not read costs one.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use prost::Message as _;
use tonic::Code;

use super::permission::{self, Caller};
use super::{Shared, convert, kv, texts};
use crate::limits;
use crate::mvcc;
use crate::mvcc::auth::{By, Identity};
use crate::mvcc::command::{Range, RangeResult, SortOrder, SortTarget};
use crate::proto::etcdserverpb as pb;
use crate::transport::answers::Answers;
use crate::transport::{Failure, grpc};

/// Answers a range in parts.
pub(super) fn parts(
    api: Arc<Shared>,
    caller: Caller,
    answers: Answers,
    request: pb::RangeRequest,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
    let reading = async move { Reading::begin(api, &caller, answers, request).await };
    futures::stream::try_unfold(State::Begin(Box::pin(reading)), |state| async move {
        let mut reading = match state {
            State::Begin(reading) => reading.await?,
            State::Reading(reading) => reading,
            State::Done => return Ok(None),
        };
        let (message, is_last) = reading.next().await?;
        Ok(Some((message, if is_last { State::Done } else { State::Reading(reading) })))
    })
}

enum State<F> {
    Begin(std::pin::Pin<Box<F>>),
    Reading(Reading),
    Done,
}

/// A range that is being answered.
struct Reading {
    api: Arc<Shared>,
    by: Identity,
    answers: Answers,
    /// What is left of it; its limit is that of the next part.
    range: Range,
    /// Pairs that are still wanted.
    wanted: i64,
    sent: i64,
    /// Revision of the store when the first part was read, for the header; 0 before.
    revision: i64,
}

impl Reading {
    async fn begin(
        api: Arc<Shared>,
        caller: &Caller,
        answers: Answers,
        request: pb::RangeRequest,
    ) -> Result<Self, Failure> {
        let serializable = request.serializable;
        let mut range = convert::range(request)?;
        check(&range)?;
        // Without an order they come by key, whatever the target: parts cannot be sorted otherwise.
        range.sort_target = SortTarget::Key;
        range.revision = range.revision.max(0);
        let wanted = if range.limit > 0 { range.limit } else { i64::MAX };
        range.limit = limits::RANGE_PART_FIRST_PAIRS.min(wanted);
        if !serializable {
            api.store.barrier().await.map_err(|error| texts::failure(&error))?;
        }
        let may_read =
            |state: &mvcc::State, by: By<'_>| state.auth().may_read(by, &range.key, &range.range_end);
        let by = permission::check(&api, caller, may_read).await?;
        Ok(Self { api, by, answers, range, wanted, sent: 0, revision: 0 })
    }

    /// The next part, and whether it is the last.
    async fn next(&mut self) -> Result<(Bytes, bool), Failure> {
        // It may go on for long.
        let Range { key, range_end, .. } = &self.range;
        let goes_on =
            |state: &mvcc::State, _: By<'_>| state.auth().may_go_on_reading(&self.by.user, key, range_end);
        permission::check_here(&self.api, &self.by, goes_on).map_err(texts::refusal)?;
        if self.range.count_only {
            return self.count().await;
        }
        let _turn = kv::turn(&self.answers, limits::LARGE_ANSWER_SHARE).await?;
        let range = self.range.clone();
        let part = self.api.store.range_part(range, limits::RANGE_PART_BYTES).await;
        let (part, revision) = part.map_err(|error| texts::failure(&error))?;
        if self.revision == 0 {
            self.revision = revision;
            if self.range.revision == 0 {
                self.range.revision = revision;
            }
        }
        let pairs = part.kvs.len() as i64;
        self.sent += pairs;
        self.wanted -= pairs;
        // More without a pair would never end.
        let next = part.kvs.last().filter(|_| part.more).map(|last| [&last.key[..], b"\0"].concat());
        let is_last = next.is_none() || self.wanted <= 0;
        let mut response = message(part);
        if let Some(next) = next {
            self.range.key = next.into();
        }
        if is_last {
            let mut count = self.sent;
            if response.more {
                let rest = Range { count_only: true, limit: 0, ..self.range.clone() };
                let rest = self.api.store.range(rest).await.map_err(|error| texts::failure(&error))?;
                count += rest.0.count;
            }
            response.count = count;
            response.header = Some(self.api.headers.at(&self.api.store.position(), self.revision, 0));
        } else {
            response.more = false;
            self.range.limit =
                mvcc::next_part_pairs(self.range.limit, response.encoded_len()).min(self.wanted);
        }
        Ok((self.encode(response), is_last))
    }

    async fn count(&mut self) -> Result<(Bytes, bool), Failure> {
        let counted = self.api.store.range(self.range.clone()).await;
        let (result, revision) = counted.map_err(|error| texts::failure(&error))?;
        let header = Some(self.api.headers.at(&self.api.store.position(), revision, 0));
        let response = pb::RangeResponse { header, count: result.count, ..pb::RangeResponse::default() };
        Ok((self.encode(response), true))
    }

    fn encode(&self, response: pb::RangeResponse) -> Bytes {
        let message = pb::RangeStreamResponse { range_response: Some(response) };
        self.answers.count(grpc::encode(&message))
    }
}

/// What etcd does not read in parts; its clients ask for the whole range then.
fn check(range: &Range) -> Result<(), Failure> {
    let by_key = range.sort_target == SortTarget::Key && range.sort_order == SortOrder::Ascend;
    let text = if range.sort_order != SortOrder::None && !by_key {
        texts::RANGE_STREAM_SORTED
    } else if [
        range.min_mod_revision,
        range.max_mod_revision,
        range.min_create_revision,
        range.max_create_revision,
    ]
    .iter()
    .any(|filter| *filter != 0)
    {
        texts::RANGE_STREAM_FILTERED
    } else {
        return Ok(());
    };
    Err(Failure::new(Code::Unimplemented, text))
}

fn message(part: RangeResult) -> pb::RangeResponse {
    pb::RangeResponse {
        header: None,
        kvs: part.kvs.into_iter().map(convert::key_value).collect(),
        more: part.more,
        count: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_does_not_read_in_parts_is_unimplemented() {
        let fine = [
            Range::default(),
            Range { sort_order: SortOrder::Ascend, ..Range::default() },
            Range { sort_target: SortTarget::Mod, ..Range::default() },
            Range { keys_only: true, count_only: true, limit: 3, revision: 9, ..Range::default() },
        ];
        for range in fine {
            assert_eq!(check(&range), Ok(()), "{range:?}");
        }
        let refused = [
            (Range { sort_order: SortOrder::Descend, ..Range::default() }, texts::RANGE_STREAM_SORTED),
            (
                Range { sort_order: SortOrder::Ascend, sort_target: SortTarget::Version, ..Range::default() },
                texts::RANGE_STREAM_SORTED,
            ),
            (Range { min_mod_revision: 1, ..Range::default() }, texts::RANGE_STREAM_FILTERED),
            (Range { max_create_revision: -1, ..Range::default() }, texts::RANGE_STREAM_FILTERED),
        ];
        for (range, text) in refused {
            assert_eq!(check(&range), Err(Failure::new(Code::Unimplemented, text)), "{range:?}");
        }
    }
}
