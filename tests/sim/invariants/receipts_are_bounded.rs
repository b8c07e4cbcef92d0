//! Nobody is shown to have received or read more than they had (R36).
//!
//! "Delivered" is the member's own commit index, and "read" is at most that.

use std::collections::BTreeMap;

use demes_protocol::types::{Index, PeerId};

use super::{Invariant, Step};

#[derive(Default)]
pub struct ReceiptsAreBounded(BTreeMap<PeerId, Index>);

impl Invariant for ReceiptsAreBounded {
    fn name(&self) -> &'static str {
        "receipts are never ahead of the commit index"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let me = step.peers[step.peer].id;
        let own = self.0.entry(me).or_insert(0);
        *own = (*own).max(step.status.commit);
        if step.before.receipts == step.status.receipts {
            return Ok(());
        }
        for (peer, receipt) in &step.status.receipts {
            let known = self.0.get(peer).copied().unwrap_or(0);
            if receipt.delivered > known || receipt.read > known {
                let (at, peer) = (step.peer + 1, peer.0[0]);
                return Err(format!("{at} shows {receipt:?} of {peer}, which had {known}"));
            }
        }
        Ok(())
    }
}
