//! Large ranges in pages, all of one revision.
//!
//! The revision is fixed before the first page, by reading nothing at the newest one. So a member that fails in the middle is replaced by
//! another that goes on where the last page ended, and what is written meanwhile is not seen. Pages come as etcd 3.7's `RangeStream`
//! sends them, one call for all of them; a server that has it not is asked for one page after the other.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::time::Instant;
use tonic::{Code, Streaming};

use super::failure::{self, Kind};
use super::{Client, Consistency, KeyValue, Remote, retry, wire};
use crate::error::Error;
use crate::limits;
use crate::mvcc;
use crate::mvcc::command::{Range, SortOrder, SortTarget};
use crate::proto::etcdserverpb as pb;

/// Some of the pairs of a range, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The revision of all pages.
    pub revision: i64,
    /// The pairs; never none.
    pub kvs: Vec<KeyValue>,
}

/// The pages of a range, one after the other; an error is the last. A page is fetched when it is asked for, with little read ahead.
pub struct Pages(BoxStream<'static, Result<Page, Error>>);

impl Pages {
    pub(super) fn new(pages: BoxStream<'static, Result<Page, Error>>) -> Self {
        Self(pages)
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Page, Error>> {
        self.0.next().await
    }

    /// The pairs one by one, and their revision.
    pub fn pairs(self) -> impl Stream<Item = Result<KeyValue, Error>> + Send {
        self.0.flat_map(|page| {
            let pairs: Vec<_> = match page {
                Ok(page) => page.kvs.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(pairs)
        })
    }
}

impl Stream for Pages {
    type Item = Result<Page, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// What is still to be fetched of a range.
#[derive(Debug)]
pub(super) struct Rest {
    /// What is left, at its revision; `None` once all was fetched.
    pub(super) range: Option<Range>,
    /// Pairs that are still wanted.
    wanted: i64,
    pub(super) revision: i64,
}

impl Rest {
    /// Of `range`, or why it cannot be read in pages.
    pub(super) fn of(range: Range) -> Result<Self, Error> {
        let by_key = range.sort_order == SortOrder::None || range.sort_order == SortOrder::Ascend;
        let filters = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        if !by_key || range.sort_target != SortTarget::Key || range.count_only || filters != [0; 4] {
            let text = "a range is read in pages by key only, without filters and not for its count";
            return Err(Error::Invalid(text.into()));
        }
        let wanted = if range.limit > 0 { range.limit } else { i64::MAX };
        Ok(Self { revision: range.revision.max(0), range: Some(range), wanted })
    }

    /// What to ask for to learn the newest revision.
    pub(super) fn look(&self) -> Option<Range> {
        let key = self.range.as_ref().filter(|_| self.revision == 0)?.key.clone();
        Some(Range { key, keys_only: true, ..Range::default() })
    }

    /// From now on it is read at `revision`.
    pub(super) fn pin(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// What to ask for: at most `pairs` pairs, or all.
    pub(super) fn next(&self, pairs: i64) -> Option<Range> {
        let range = self.range.as_ref()?;
        let limit = if pairs > 0 { pairs.min(self.wanted) } else { self.wanted };
        let limit = if limit == i64::MAX { 0 } else { limit };
        Some(Range { limit, revision: self.revision, ..range.clone() })
    }

    /// Takes what was fetched; `more`: there is more of the range. `None`: nothing was.
    pub(super) fn take(&mut self, kvs: Vec<KeyValue>, more: bool) -> Option<Page> {
        self.wanted = self.wanted.saturating_sub(kvs.len() as i64);
        let last = kvs.last().map(|last| [&last.key[..], b"\0"].concat());
        match (&mut self.range, last) {
            (Some(range), Some(next)) if more && self.wanted > 0 => range.key = next.into(),
            (range, last) => {
                // More without a pair, from a server that is confused, would never end.
                if !more || last.is_none() || self.wanted <= 0 {
                    *range = None;
                }
            }
        }
        (!kvs.is_empty()).then_some(Page { revision: self.revision, kvs })
    }
}

pub(super) fn bytes(kvs: &[KeyValue]) -> usize {
    kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum()
}

/// Pages of a cluster.
pub(super) fn remote(remote: Remote, range: Range) -> Pages {
    let rest = match Rest::of(range) {
        Ok(rest) => rest,
        Err(error) => return Pages::new(futures::stream::iter([Err(error)]).boxed()),
    };
    let paging = Paging { remote, rest, open: None, one_by_one: None, attempt: 0, by: None };
    let pages = futures::stream::try_unfold(paging, |mut paging| async move {
        Ok(paging.next().await?.map(|page| (page, paging)))
    });
    Pages::new(pages.boxed())
}

/// A range of a cluster that is being read.
struct Paging {
    remote: Remote,
    rest: Rest,
    /// The stream, and the endpoint that sends it.
    open: Option<(usize, Streaming<pb::RangeStreamResponse>)>,
    /// There are no streams; the limit of the next page.
    one_by_one: Option<i64>,
    /// Attempts since the last page.
    attempt: u32,
    /// Until when there must be a page, after an attempt that failed.
    by: Option<Instant>,
}

impl Paging {
    async fn next(&mut self) -> Result<Option<Page>, Error> {
        if let Some(look) = self.rest.look() {
            let answer = self.remote.get(look, Consistency::Linearizable).await?;
            self.rest.pin(answer.header.revision);
        }
        while self.rest.range.is_some() {
            let page = match self.one_by_one {
                Some(limit) => self.one(limit).await?,
                None => self.part().await?,
            };
            if page.is_some() {
                return Ok(page);
            }
        }
        Ok(None)
    }

    /// A page by itself.
    async fn one(&mut self, limit: i64) -> Result<Option<Page>, Error> {
        let Some(range) = self.rest.next(limit) else { return Ok(None) };
        let found = self.remote.get(range, Consistency::Linearizable).await?.value;
        self.one_by_one = Some(mvcc::next_part_pairs(limit, bytes(&found.kvs)));
        Ok(self.rest.take(found.kvs, found.more))
    }

    /// The next part of a stream, which is opened if there is none. `None`: to be asked again, if there is more at all.
    async fn part(&mut self) -> Result<Option<Page>, Error> {
        match self.receive().await {
            Ok(part) => {
                (self.attempt, self.by) = (0, None);
                // Only the last part has a header, and says truly whether there is more.
                let is_last = part.header.is_some();
                let kvs = part.kvs.into_iter().map(wire::key_value).collect();
                Ok(self.rest.take(kvs, !is_last))
            }
            Err(Error::Remote { code, .. }) if code == Code::Unimplemented as i32 => {
                self.open = None;
                self.one_by_one = Some(limits::RANGE_PART_FIRST_PAIRS);
                Ok(None)
            }
            Err(error) => self.lost(error).await.map(|()| None),
        }
    }

    async fn receive(&mut self) -> Result<pb::RangeResponse, Error> {
        let limit = limits::CALLER_ATTEMPT_MIN.max(self.remote.timeout() / 2);
        if self.open.is_none() {
            let range = self.rest.next(0).ok_or_else(|| Error::Invalid("nothing is left".into()))?;
            let (endpoint, connection) =
                self.remote.choose().ok_or_else(|| Error::Invalid("no endpoints".into()))?;
            let opened = connection.range_stream(range, limit).await;
            if opened.as_ref().is_err_and(retry::blames_endpoint) {
                self.remote.blame(endpoint, Some(Instant::now() + limits::CALLER_BLAME));
            }
            self.open = Some((endpoint, opened?));
        }
        let Some((_, parts)) = &mut self.open else { return Err(Error::NoLeader) };
        match tokio::time::timeout(limit, parts.message()).await {
            Ok(Ok(Some(message))) => message
                .range_response
                .ok_or_else(|| failure::malformed("a part of a range is empty", Kind::Read)),
            Ok(Ok(None)) => Err(Error::Remote {
                code: Code::Unavailable as i32,
                text: "the range ended before its last part".into(),
                outcome_unknown: false,
            }),
            Ok(Err(status)) => Err(failure::from_status(&status, Kind::Read, "a member")),
            Err(_) => Err(Error::TimedOut),
        }
    }

    /// A stream was lost, or none could be had: pauses before another one goes on behind the last page.
    async fn lost(&mut self, error: Error) -> Result<(), Error> {
        if let Some((endpoint, _)) = self.open.take() {
            self.remote.blame(endpoint, Some(Instant::now() + limits::CALLER_BLAME));
        }
        let timeout: Duration = self.remote.timeout();
        let by = *self.by.get_or_insert_with(|| Instant::now() + timeout);
        if !retry::is_safe(&error, Kind::Read) || Instant::now() >= by {
            return Err(error);
        }
        self.attempt += 1;
        let pause = self.remote.pause(self.attempt);
        tracing::debug!(%error, attempt = self.attempt, ?pause, "a range is read on elsewhere");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
