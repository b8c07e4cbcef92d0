//! The heartbeats of a host that is paused renew no lease (R22), but for a moment at first: their
//! echoes may be on their way over a line that is full.
//!
//! Those who hear it, and others do not, would go on waiting for it, and elect nobody who could
//! serve them.

use std::collections::BTreeMap;

use demes_protocol::event::Notice;
use demes_protocol::message::Body;
use demes_protocol::time::{MS, Micros};
use demes_protocol::types::Term;

use super::{Invariant, Step};

/// 0.8 of three heartbeats of an idle chat.
const KEPT_US: Micros = 600 * MS;

/// When each host sent the first heartbeat of its present pause, by its own clock in that term.
#[derive(Default)]
pub struct PausedRenewsNothing {
    paused: BTreeMap<usize, (Term, Micros)>,
}

impl Invariant for PausedRenewsNothing {
    fn name(&self) -> &'static str {
        "a paused host renews no lease"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        // Of several events in one turn, one may resume it and another pause it again.
        let resumes = |notice: &Notice| matches!(notice, Notice::Paused { paused: false });
        let is_paused =
            step.before.paused && step.status.paused && !step.ready.notices.iter().any(resumes);
        if !is_paused {
            self.paused.remove(&step.peer);
            return Ok(());
        }
        for message in &step.ready.early {
            let Body::Heartbeat(heartbeat) = &message.body else { continue };
            let first = (heartbeat.term, heartbeat.sent_us);
            let (term, since) = *self.paused.entry(step.peer).or_insert(first);
            let is_long = term == heartbeat.term && heartbeat.sent_us > since + KEPT_US;
            if is_long && !heartbeat.probe {
                return Err(format!("{} renews leases while it is paused", step.peer + 1));
            }
        }
        Ok(())
    }
}
