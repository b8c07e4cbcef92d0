//! The world, as far as a peer has heard of it. None of it is durable: a restarted peer begins
//! without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::event::LinkState;
use super::message::{Ranking, Receipt};
use super::sender::{Added, ShownByLink};
use super::time::Instant;
use super::timers::{Estimate, Lateness};
use super::types::{Boot, Generation, Incarnation, PeerId, Term};

/// What a peer has heard of the others in this run. It outlasts terms and parts.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct World {
    pub links: BTreeMap<PeerId, LinkState>,
    /// Since when no majority of the voters has been linked to this peer (R30).
    pub apart_since: Option<Instant>,
    pub round_trips: BTreeMap<PeerId, Estimate>,
    /// Of the present host, or the last one of this term.
    pub lateness: Lateness,
    /// Who comes next, as the last host has ranked it.
    pub ranking: Arc<Ranking>,
    pub receipts: BTreeMap<PeerId, Receipt>,
    /// Who has stopped gracefully, and in which boot; it is back with a later one (R26).
    pub goodbyes: BTreeMap<PeerId, (Incarnation, Boot)>,
    /// The later terms that members have said they are in, each of itself (L5).
    pub heard_terms: BTreeMap<PeerId, Term>,
    /// Peers that have said themselves that they have outlived the incarnation which this log
    /// names, the first one, and which one they are now (R9).
    pub newer_incarnations: BTreeMap<PeerId, (Incarnation, Incarnation)>,
    /// Members that were last heard of in another generation (R30).
    pub other_generations: BTreeMap<PeerId, Generation>,
    /// Another running peer has this one's key, and takes part in its place.
    pub key_in_use: bool,
    /// Voters that say that this peer was removed, and could not show it (L1).
    pub sent_away_by: BTreeSet<PeerId>,
    /// Whom links have let in, as strangers have shown and the log does not tell yet (L2).
    pub shown_by_link: ShownByLink,
    /// Who has shown words in this peer's name that its store does not know.
    pub foreign_words_of: BTreeSet<PeerId>,
    /// What authors have added of late (L8).
    pub added: BTreeMap<PeerId, Added>,
}

impl World {
    /// Forgets a peer whose membership has ended. What it has done, and what others may hold
    /// against this peer or against it, stays.
    pub fn forget(&mut self, peer: PeerId) {
        self.receipts.remove(&peer);
        self.round_trips.remove(&peer);
        self.links.remove(&peer);
        self.goodbyes.remove(&peer);
        self.other_generations.remove(&peer);
        self.heard_terms.remove(&peer);
    }
}
