//! The heartbeats of a host that is paused renew no lease (R22).
//!
//! Those who hear it, and others do not, would go on waiting for it, and elect nobody who could
//! serve them.

use demes_protocol::event::Notice;
use demes_protocol::message::Body;

use super::{Invariant, Step};

pub struct PausedRenewsNothing;

impl Invariant for PausedRenewsNothing {
    fn name(&self) -> &'static str {
        "a paused host renews no lease"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        // Of several events in one turn, one may resume it and another pause it again.
        let resumes = |notice: &Notice| matches!(notice, Notice::Paused { paused: false });
        let is_paused =
            step.before.paused && step.status.paused && !step.ready.notices.iter().any(resumes);
        let renews = |body: &Body| matches!(body, Body::Heartbeat(heartbeat) if !heartbeat.probe);
        if is_paused && step.ready.early.iter().any(|message| renews(&message.body)) {
            return Err(format!("{} renews leases while it is paused", step.peer + 1));
        }
        Ok(())
    }
}
