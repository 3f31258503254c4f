//! The desired size, kept up to date from its source. What cannot be read is unknown, and leads to nothing.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::local::{Lead, Local};
use super::start::Desired;
use crate::env::owner::{Owner, Seen};
use crate::identity::OrdinalRange;
use crate::limits;

/// Where the desired size comes from.
#[derive(Clone, Default)]
pub enum SizeSource {
    /// From nowhere: nobody is ever outside.
    #[default]
    Fixed,
    /// From the replicated setting (`setstone members resize N`).
    Setting,
    /// From the pod's own `StatefulSet`.
    Owner(Arc<dyn Owner>),
}

/// What the source says now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The desired size.
    pub desired: Desired,
    /// How often the `StatefulSet` was changed, its creation included; `None` where there is none or it cannot be read.
    pub generation: Option<i64>,
}

impl From<Seen> for Size {
    fn from(seen: Seen) -> Self {
        let unknown = |reason: &str| Self { desired: Desired::Unknown(reason.to_owned()), generation: None };
        match seen {
            Seen::Unknown(reason) => unknown(&reason),
            Seen::Gone => unknown("the StatefulSet does not exist"),
            Seen::BeingDeleted => unknown("the StatefulSet is being deleted"),
            Seen::Wants { start, size, generation } => {
                Self { desired: Desired::Known(OrdinalRange { start, size }), generation: Some(generation) }
            }
        }
    }
}

impl SizeSource {
    /// What is known before the source was asked.
    pub fn at_start(&self) -> Size {
        match self {
            Self::Fixed | Self::Setting => Size::default(),
            Self::Owner(_) => Seen::Unknown("it was not asked yet".into()).into(),
        }
    }

    /// Asks once, within [`limits::OWNER_TIMEOUT`]. `recorded` is what the applied state holds.
    pub async fn look(&self, recorded: Option<OrdinalRange>) -> Seen {
        match self {
            Self::Fixed => Seen::Unknown("there is no source of the size".into()),
            Self::Setting => match recorded {
                Some(OrdinalRange { start, size }) => Seen::Wants { start, size, generation: 0 },
                None => Seen::Unknown("no size was set".into()),
            },
            Self::Owner(owner) => timeout(limits::OWNER_TIMEOUT, owner.look())
                .await
                .unwrap_or_else(|_| Seen::Unknown("no answer in time".into())),
        }
    }
}

/// Keeps [`Size`] up to date.
pub struct SizeKeeper {
    /// Where it comes from.
    pub source: SizeSource,
    /// What the applied state holds.
    pub local: Arc<dyn Local>,
    /// Who leads looks more often.
    pub lead: Arc<dyn Lead>,
    /// Who is told.
    pub size: watch::Sender<Size>,
    /// Somebody cannot wait: look now.
    pub hurry: Arc<Notify>,
}

impl SizeKeeper {
    /// Looks until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            let size = match &self.source {
                SizeSource::Fixed => return,
                // A setting that was never made puts nobody outside.
                SizeSource::Setting => Size {
                    desired: self.local.recorded().map_or(Desired::NotUsed, Desired::Known),
                    generation: None,
                },
                SizeSource::Owner(_) => self.source.look(None).await.into(),
            };
            self.size.send_if_modified(|old| {
                let changed = *old != size;
                if changed && let Desired::Unknown(reason) = &size.desired {
                    tracing::warn!(
                        reason,
                        "the desired size cannot be read; nobody is added or removed for its sake"
                    );
                }
                *old = size;
                changed
            });
            tokio::select! {
                () = self.pause() => {}
                () = self.hurry.notified() => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    /// A follower looks less often; one that becomes the leader looks soon.
    async fn pause(&self) {
        let SizeSource::Owner(_) = self.source else { return sleep(limits::RECONCILE_INTERVAL).await };
        let begin = Instant::now();
        loop {
            sleep(limits::OWNER_INTERVAL).await;
            let follows = self.local.consensus().is_some() && self.lead.leading().is_none();
            if !follows || begin.elapsed() >= limits::OWNER_INTERVAL_FOLLOWER {
                return;
            }
        }
    }
}
