//! Carries out the leader's plan: looks, does at most one change, looks again. Runs on every member; acts where that one leads.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::local::Lead;
use super::plan::plan;
use crate::limits;

/// Runs until `cancel`. A change that broke off is planned anew from what is seen then.
pub async fn reconcile(lead: Arc<dyn Lead>, cancel: CancellationToken) {
    let mut looks = interval(limits::RECONCILE_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = cancel.cancelled() => return,
        }
        let Some(view) = lead.leading() else { continue };
        let Some(change) = plan(&view) else { continue };
        let changed = tokio::select! {
            changed = timeout(limits::MEMBERSHIP_CHANGE_TIMEOUT, lead.change(change.clone())) => changed,
            () = cancel.cancelled() => return,
        };
        match changed {
            Ok(Ok(())) => tracing::info!(?change, "the membership was changed"),
            Ok(Err(reason)) if told.as_ref() != Some(&reason) => {
                tracing::warn!(?change, reason, "the membership was not changed; trying again");
                told = Some(reason);
            }
            Ok(Err(_)) => {}
            Err(_) => tracing::warn!(?change, "the change of the membership is not committed yet"),
        }
    }
}
