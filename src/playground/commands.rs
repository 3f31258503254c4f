//! What a playground is asked to do: checks that it can be, and sees to it that it is done.
//!
//! The part of the driver that answers requests. Invariant: every request is answered, once; one that is refused has changed
//! nothing. Called by `driver`.

use std::time::Duration;

use tokio::sync::oneshot;

use super::claims::Copied;
use super::controller::Event;
use super::driver::Driver;
use super::pod::{ContainerId, Pod};
use super::status::{CommandError, DnsMode, Request};
use crate::identity::Ordinal;
use crate::limits::PLAYGROUND_PODS;

/// Where the answer to a request goes.
pub(super) type Reply = oneshot::Sender<Result<(), CommandError>>;

/// What the driver is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Something happened.
    Event(Event),
    /// Somebody asks for something.
    Asked(Request, Reply),
    /// A copy of a volume is complete, or failed.
    Copied(Copied),
}

impl Driver {
    pub(super) fn asked(&mut self, request: Request, reply: Reply) {
        let done = match request {
            Request::Status => Ok(()),
            // Answered when it has ended.
            Request::Kill { ordinal } => match self.killable(ordinal) {
                Ok(container) => {
                    self.kills.push((container, reply));
                    self.step(Event::KillContainer { ordinal });
                    return;
                }
                Err(error) => Err(error),
            },
            Request::DeletePod { ordinal } => self.delete_pod(ordinal),
            Request::ForceDeletePod { ordinal, linger_ms } => self.force_delete_pod(ordinal, linger_ms),
            Request::DeleteAllPods => self.unless_ending().map(|()| self.step(Event::DeleteAllPods)),
            Request::RolloutRestart => self.unless_ending().map(|()| {
                self.api.change_template();
                self.step(Event::RolloutRestart);
            }),
            Request::Scale { replicas } => self.scale(replicas),
            Request::ApiServer { mode } => {
                self.api.set_mode(mode);
                self.refresh();
                Ok(())
            }
            Request::DeleteVolume { ordinal } => self.delete_volume(ordinal),
            // Answered when the copy is there.
            Request::SaveVolume { ordinal } => return self.save_volume(ordinal, reply),
            Request::RollbackVolume { ordinal } => return self.rollback_volume(ordinal, reply),
            Request::SwapVolumes { one, other } => self.swap_volumes(one, other),
            Request::Dns { mode } => {
                self.set_dns(mode);
                Ok(())
            }
            Request::DnsStale { ordinal, to } => self.dns_stale(ordinal, to),
        };
        // Whoever asked may be gone.
        drop(reply.send(done));
    }

    pub(super) fn unless_ending(&self) -> Result<(), CommandError> {
        if self.set.is_ending() { Err(CommandError::Stopping) } else { Ok(()) }
    }

    fn existing(&self, ordinal: Ordinal) -> Result<&Pod, CommandError> {
        self.unless_ending()?;
        let replicas = self.set.spec().replicas;
        self.set.pods().get(&ordinal).ok_or(CommandError::NoSuchPod { ordinal, replicas })
    }

    fn killable(&self, ordinal: Ordinal) -> Result<ContainerId, CommandError> {
        let pod = self.existing(ordinal)?;
        pod.running().ok_or(CommandError::NotRunning { ordinal, phase: pod.phase() })
    }

    fn delete_pod(&mut self, ordinal: Ordinal) -> Result<(), CommandError> {
        if self.existing(ordinal)?.is_terminating() {
            return Err(CommandError::Terminating { ordinal });
        }
        self.step(Event::DeletePod { ordinal });
        Ok(())
    }

    fn force_delete_pod(&mut self, ordinal: Ordinal, linger_ms: u64) -> Result<(), CommandError> {
        self.existing(ordinal)?;
        self.step(Event::ForceDeletePod { ordinal, linger: Duration::from_millis(linger_ms) });
        Ok(())
    }

    fn scale(&mut self, replicas: Ordinal) -> Result<(), CommandError> {
        self.unless_ending()?;
        if replicas > PLAYGROUND_PODS {
            return Err(CommandError::TooMany { replicas, most: PLAYGROUND_PODS });
        }
        self.api.scale(replicas);
        self.step(Event::Scale { replicas });
        Ok(())
    }

    fn set_dns(&mut self, mode: DnsMode) {
        self.dns.set_mode(mode);
        self.refresh();
    }

    fn dns_stale(&mut self, ordinal: Ordinal, to: Ordinal) -> Result<(), CommandError> {
        self.existing(to)?;
        self.dns.set_stale(&self.naming.pod_fqdn(ordinal), &self.naming.pod_fqdn(to));
        self.refresh();
        Ok(())
    }
}
