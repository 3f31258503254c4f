//! Which pod has which volume, and what becomes of the volumes that somebody wants changed.
//!
//! The part of the driver that is a volume plugin. Invariants: a volume changes only while no process has it, nor a pod that
//! had it; a new pod whose volume waits for a change starts after that; copies are made on threads of their own, one at a time
//! for each volume. Called by `driver` and `commands`.

use std::time::Duration;

use super::commands::{Message, Reply};
use super::controller::Event;
use super::driver::Driver;
use super::pending::Change;
use super::pod::ContainerId;
use super::process::Process;
use super::status::CommandError;
use super::volumes::{Copying, VolumeError};
use crate::identity::Ordinal;

/// A copy that was made, or not.
#[derive(Debug)]
pub(super) struct Copied {
    ordinal: Ordinal,
    result: Result<(), CommandError>,
    /// The volume is to be set back to it.
    restore: bool,
    reply: Reply,
}

/// What came of the changes that could be made.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Of containers that waited for a change and could not be started.
    pub(super) events: Vec<Event>,
    failed: Vec<CommandError>,
}

impl Driver {
    /// Starts a container, as soon as its pod can have its volume.
    pub(super) fn start_on_volume(&mut self, container: ContainerId) -> Option<Event> {
        let changes = self.pending.holds(container.pod.ordinal);
        let edges = self.pods.0.entry(container.pod).or_default();
        if changes && !edges.attached {
            edges.held = Some(container);
            return None;
        }
        edges.attached = true;
        edges.held = None;
        let why = self.start(container).err()?;
        Some(Event::ContainerExited {
            container,
            ran_for: Duration::ZERO,
            how: format!("cannot be started: {why}"),
        })
    }

    /// A container that waits for its volume is not to be started any more: it has ended.
    pub(super) fn give_up(&mut self, container: ContainerId) -> Option<Event> {
        let edges = self.pods.0.get_mut(&container.pod)?;
        edges.held.take_if(|held| *held == container)?;
        let how = "never started: its volume was to be changed first".to_owned();
        Some(Event::ContainerExited { container, ran_for: Duration::ZERO, how })
    }

    /// Makes the changes that can be made now, and starts what waited for them.
    pub(super) fn settle_volumes(&mut self) -> Settled {
        let pods = &self.pods.0;
        let in_use = |ordinal| pods.iter().any(|(pod, edges)| pod.ordinal == ordinal && edges.attached);
        let mut settled = Settled::default();
        for change in self.pending.due(in_use) {
            if let Err(error) = self.change(change) {
                let error = CommandError::Volume { ordinal: change.first(), reason: error.to_string() };
                tracing::error!(%error, ?change, "a volume stays as it was");
                settled.failed.push(error);
            }
        }
        let held: Vec<ContainerId> = self.pods.0.values().filter_map(|edges| edges.held).collect();
        settled.events = held.into_iter().filter_map(|container| self.start_on_volume(container)).collect();
        settled
    }

    fn change(&self, change: Change) -> Result<(), VolumeError> {
        let name = |ordinal| self.naming.pod(ordinal);
        match change {
            Change::Delete(ordinal) => self.volumes.remove(&name(ordinal)),
            Change::Restore(ordinal) => self.volumes.restore(&name(ordinal)),
            Change::Swap(one, other) => self.volumes.swap(&name(one), &name(other)),
        }
    }

    /// The set shrank, and its policy is that volumes go with their pods.
    pub(super) fn delete_condemned_volume(&mut self, ordinal: Ordinal) -> Vec<Event> {
        if self.volumes.exists(&self.naming.pod(ordinal))
            && let Err(ordinal) = self.pending.add(Change::Delete(ordinal))
        {
            tracing::warn!(ordinal, "the volume stays: it waits for another change");
        }
        self.settle_volumes().events
    }

    pub(super) fn delete_volume(&mut self, ordinal: Ordinal) -> Result<(), CommandError> {
        self.changeable(ordinal)?;
        self.add_change(Change::Delete(ordinal))?;
        self.settle_now()
    }

    pub(super) fn swap_volumes(&mut self, one: Ordinal, other: Ordinal) -> Result<(), CommandError> {
        self.unless_ending()?;
        if one == other {
            return Err(CommandError::SameVolume { ordinal: one });
        }
        self.changeable(one)?;
        self.changeable(other)?;
        self.add_change(Change::Swap(one, other))?;
        for ordinal in [one, other] {
            self.step(Event::DeletePod { ordinal });
        }
        self.settle_now()
    }

    pub(super) fn save_volume(&mut self, ordinal: Ordinal, reply: Reply) {
        let name = self.naming.pod(ordinal);
        match self.changeable(ordinal) {
            Ok(()) => self.copy(ordinal, self.volumes.saving(&name), false, reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    pub(super) fn rollback_volume(&mut self, ordinal: Ordinal, reply: Reply) {
        let name = self.naming.pod(ordinal);
        let checked = self.unless_ending().and_then(|()| self.idle(ordinal));
        match checked {
            Ok(()) if !self.volumes.is_saved(&name) => {
                drop(reply.send(Err(CommandError::NotSaved { ordinal })));
            }
            Ok(()) => self.copy(ordinal, self.volumes.restoring(&name), true, reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Copies, and tells the driver when it is done. A process that has the volume stands still meanwhile, so that the copy is of
    /// one moment, as a snapshot of a volume is.
    fn copy(&mut self, ordinal: Ordinal, copying: Copying, restore: bool, reply: Reply) {
        self.copying.insert(ordinal);
        let of_ordinal = self.pods.0.iter().filter(|(pod, _)| !restore && pod.ordinal == ordinal);
        let pausers: Vec<_> =
            of_ordinal.filter_map(|(_, edges)| edges.process.as_ref().map(Process::pauser)).collect();
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let copied = async {
                let paused =
                    futures::future::try_join_all(pausers.into_iter().map(super::process::Pauser::pause));
                let paused =
                    paused.await.map_err(|error| format!("its process does not stand still: {error}"))?;
                let copied = tokio::task::spawn_blocking(move || copying.run()).await;
                drop(paused);
                copied.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            };
            let result = copied.await.map_err(|reason| CommandError::Volume { ordinal, reason });
            // Fails only when the playground has ended.
            drop(messages.send(Message::Copied(Copied { ordinal, result, restore, reply })).await);
        });
    }

    pub(super) fn copied(&mut self, copied: Copied) {
        let Copied { ordinal, result, restore, reply } = copied;
        self.copying.remove(&ordinal);
        let done = result.and_then(|()| if restore { self.restore(ordinal) } else { Ok(()) });
        drop(reply.send(done));
    }

    fn restore(&mut self, ordinal: Ordinal) -> Result<(), CommandError> {
        self.unless_ending()?;
        self.add_change(Change::Restore(ordinal))?;
        self.step(Event::DeletePod { ordinal });
        self.settle_now()
    }

    /// Makes what can be made of a change that was asked for just now.
    fn settle_now(&mut self) -> Result<(), CommandError> {
        let Settled { events, failed } = self.settle_volumes();
        for event in events {
            self.step(event);
        }
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn add_change(&mut self, change: Change) -> Result<(), CommandError> {
        self.pending.add(change).map_err(|ordinal| CommandError::VolumeBusy { ordinal })
    }

    fn changeable(&self, ordinal: Ordinal) -> Result<(), CommandError> {
        if !self.volumes.exists(&self.naming.pod(ordinal)) {
            return Err(CommandError::NoSuchVolume { ordinal });
        }
        self.idle(ordinal)
    }

    fn idle(&self, ordinal: Ordinal) -> Result<(), CommandError> {
        if self.copying.contains(&ordinal) {
            return Err(CommandError::VolumeBusy { ordinal });
        }
        Ok(())
    }
}
