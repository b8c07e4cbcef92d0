//! How far somebody has come, as a peer shows it, never goes back while that peer runs (R36).
//!
//! A message that was read does not become unread because another peer hosts. A new incarnation of
//! that somebody begins anew.

use super::{Invariant, Step};

pub struct ReceiptsOnlyGrow;

impl Invariant for ReceiptsOnlyGrow {
    fn name(&self) -> &'static str {
        "receipts never go back"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let (before, now) = (step.before, step.status);
        if before.receipts == now.receipts {
            return Ok(());
        }
        for (peer, receipt) in &before.receipts {
            let incarnation = |status: &demes_protocol::event::Status| {
                status.members.get(peer).map(|member| member.incarnation)
            };
            let Some(next) = now.receipts.get(peer) else { continue };
            let is_same = incarnation(before) == incarnation(now);
            if is_same && (next.delivered < receipt.delivered || next.read < receipt.read) {
                let (at, peer) = (step.peer + 1, peer.0[0]);
                return Err(format!("{at} shows {next:?} of {peer}, and before {receipt:?}"));
            }
        }
        Ok(())
    }
}
