//! Pages of a store in this process.

use futures::StreamExt as _;

use super::Embedded;
use super::pages::{Page, Pages, Rest, bytes};
use crate::error::Error;
use crate::limits;
use crate::mvcc::command::Range;
use crate::mvcc::{self, check};

/// Pages of a store in this process, which is waited for if it starts.
pub(super) fn here(client: Embedded, range: Range) -> Pages {
    let rest = check::range(&range).map_err(|invalid| Error::Invalid(invalid.to_string()));
    let rest = match rest.and_then(|()| Rest::of(range)) {
        Ok(rest) => rest,
        Err(error) => return Pages::new(futures::stream::iter([Err(error)]).boxed()),
    };
    let reading = Reading { client, rest, limit: limits::RANGE_PART_FIRST_PAIRS, has_begun: false };
    let pages = futures::stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|page| (page, reading)))
    });
    Pages::new(pages.boxed())
}

struct Reading {
    client: Embedded,
    rest: Rest,
    limit: i64,
    has_begun: bool,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Page>, Error> {
        if !self.has_begun {
            self.client.barrier().await?;
            self.has_begun = true;
        }
        let Some(range) = self.rest.next(self.limit) else { return Ok(None) };
        let store = self.client.store();
        let (part, revision) = store.range_part(range, limits::RANGE_PART_BYTES).await?;
        if self.rest.look().is_some() {
            self.rest.pin(revision);
        }
        self.limit = mvcc::next_part_pairs(self.limit, bytes(&part.kvs));
        Ok(self.rest.take(part.kvs, part.more))
    }
}
