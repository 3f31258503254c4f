//! What the disk does while it joins a cluster: a nonce before the first question, a new log before the new identity.

use super::{DiskState, Identity, LocalDisk, held, start_error};
use crate::error::Error;
use crate::identity::{ClusterId, Lineage, NodeId};
use crate::membership::Admitted;
use crate::storage::Log;

impl LocalDisk {
    /// The nonce of this disk, drawn and stored before it is first said. A lost disk keeps it beside what it was.
    pub(super) fn begin_joining_now(&self, cluster: ClusterId) -> Result<u64, Error> {
        let mut inner = self.inner.lock();
        // 0 means none.
        let nonce = self.env.random.next_u64().max(1);
        let identity = match inner.identity.clone() {
            Some(identity) => match identity.state {
                DiskState::Joining { nonce } if identity.cluster == cluster => return Ok(nonce),
                DiskState::Lost { successor: Some(nonce), .. } => return Ok(nonce),
                DiskState::Lost { ref reason, successor: None } => {
                    let state = DiskState::Lost { reason: reason.clone(), successor: Some(nonce) };
                    Identity { state, ..identity }
                }
                DiskState::Member => return Err(Error::Disk("a member's disk joins nothing".into())),
                DiskState::Prepared { .. } | DiskState::Joining { .. } => {
                    self.joining(cluster, NodeId::default(), nonce, identity.boot)
                }
            },
            None => self.joining(cluster, NodeId::default(), nonce, 1),
        };
        self.identity_file.store(&identity).map_err(start_error)?;
        inner.boot.number = identity.boot;
        inner.identity = Some(identity);
        Ok(nonce)
    }

    fn joining(&self, cluster: ClusterId, node_id: NodeId, nonce: u64, boot: u64) -> Identity {
        let state = DiskState::Joining { nonce };
        let (supersedes, ordinal) = (Vec::new(), self.ordinal);
        Identity { cluster, supersedes, node_id, ordinal, state, boot, last_stop: None }
    }

    /// Removes what was set aside, once this disk serves in its place. Blocks.
    pub(in crate::node) fn remove_retired(&self) {
        let removed = self.directory.retired().and_then(|retired| {
            retired.iter().try_for_each(|aside| {
                self.directory.remove_retired(aside)?;
                tracing::info!(aside = %aside.display(), "removed: this disk serves in its place");
                Ok(())
            })
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "what was set aside could not be removed; the next start tries again");
        }
    }

    /// Gives up what was open: nothing of it is used any more.
    pub(super) async fn close_opened(&self) {
        let opened = self.inner.lock().opened.take();
        if let Some(opened) = opened {
            opened.log.close().await;
            let close = move || {
                // It is set aside or replaced; what it lacks is of no use.
                let _ = opened.machine.engine().close();
            };
            self.env.tasks.blocking(Box::new(close)).await;
        }
    }

    /// The disk becomes what the leader admitted. Blocks. Breaks off without harm: the same nonce gets the same id.
    pub(super) fn join_now(&self, admitted: &Admitted) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let Some(identity) = inner.identity.clone() else {
            return Err(Error::Disk("the disk has no nonce".into()));
        };
        if let DiskState::Lost { reason, .. } = &identity.state {
            let label = format!("{}-{}", identity.cluster, identity.node_id.to_string().replace('#', "-"));
            let aside = self.directory.retire(&label).map_err(start_error)?;
            tracing::warn!(node = %identity.node_id, reason, aside = %aside.display(), "the lost disk was set aside");
        }
        match Log::create(&self.env, &self.directory.log(), self.options) {
            Ok(()) | Err(crate::storage::log::OpenError::Exists(_)) => {}
            Err(error) => return Err(start_error(error)),
        }
        let lineage = Lineage { cluster: admitted.cluster, supersedes: admitted.supersedes.clone() };
        let opened = self.open_parts(lineage).map_err(start_error)?;
        if !held(&opened).is_nothing() {
            return Err(Error::Disk("the log of a disk that joins holds something".into()));
        }
        let joined = Identity {
            supersedes: admitted.supersedes.clone(),
            last_stop: identity.last_stop,
            ..self.joining(admitted.cluster, admitted.node_id, admitted.nonce, identity.boot)
        };
        self.identity_file.store(&joined).map_err(start_error)?;
        Self::take(&mut inner, admitted.node_id, opened);
        inner.identity = Some(joined);
        Ok(())
    }
}
