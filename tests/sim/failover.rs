//! How long a chat is without a host that serves, and how often somebody had to stand.

use demes_protocol::event::Notice;

/// What became of one loss of a host.
#[derive(Clone, Copy, Default)]
pub struct Failover {
    /// When the host was lost for which another is still awaited.
    pub lost_at: Option<u64>,
    pub candidacies: u64,
    /// From the loss until another served.
    pub took_us: Option<u64>,
}

impl Failover {
    /// Whether a host was lost at all.
    pub fn has_happened(&self) -> bool {
        self.took_us.is_some() || self.lost_at.is_some()
    }

    pub fn note(&mut self, now: u64, notice: &Notice) {
        let Some(lost_at) = self.lost_at else { return };
        match notice {
            Notice::Standing { .. } => self.candidacies += 1,
            Notice::Serving { .. } => {
                self.took_us = Some(now - lost_at);
                self.lost_at = None;
            }
            _ => {}
        }
    }
}
