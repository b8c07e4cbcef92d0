//! How a membership ends here: by the log, or by the word of one who has read on.

use crate::event::Notice;
use crate::log::quorum::is_majority;
use crate::message::{Message, Refused, RefusedReason};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::types::{Incarnation, MemberState, PeerId};

impl Replica {
    // R39: whoever was a member in this incarnation, and is none any more, is told so whatever it
    // asks: its vote is not counted, its messages are not taken, and it gets nothing of the log.
    /// Whether the message comes from such a peer; then it has been answered.
    pub(crate) fn refuse_former_member(&mut self, message: &Message) -> bool {
        let former = self.log.state().former_members.get(&message.from);
        let former = former.filter(|former| former.incarnation == message.from_incarnation);
        let former = former.filter(|_| !planted(Bug::FormerMemberAnswered));
        let Some(removed_by) = former.map(|former| former.removed_by) else { return false };
        self.refuse(message, RefusedReason::Removed { by: removed_by });
        true
    }

    /// A member says that this peer is none. That nothing is known of this peer is no proof of
    /// that, unless it was about to go: the other's log may be behind.
    pub(super) fn on_not_member(&mut self, message: &Message, refused: Refused) {
        match refused.reason {
            RefusedReason::Removed { .. } if planted(Bug::RemovalNotBelieved) => {}
            RefusedReason::Removed { by } => self.on_told_removed(message, by),
            RefusedReason::NotMember
                if self.host() == Some(message.from) && refused.term == self.hard_state.term =>
            {
                let me = self.log.state().members.get(&self.me);
                let leaving = me.filter(|me| me.state == MemberState::Leaving);
                // Its own log may not have come as far as its own wish to leave. What else waits
                // is not given up for the word of one who may not have read on.
                let wants_to_go = match planted(Bug::QueueDroppedAtNotMember) {
                    true => self.outbox.has_leaving(),
                    false => self.outbox.has_only_leaving(),
                };
                if leaving.is_some() || wants_to_go {
                    self.end_own_membership(leaving.and_then(|me| me.removed_by));
                }
            }
            _ => {}
        }
    }

    // L1: a committed entry that ended this very incarnation cannot be undone, and whoever tells of
    // it shows the word that it follows from. Where that was said by one of whom this log does not
    // know yet, it takes a majority of the voters that this log names, each over its own
    // connection. Anything less is a hint, and others are asked.
    fn on_told_removed(&mut self, message: &Message, by: Option<PeerId>) {
        let state = self.log.state();
        let me = state.members.get(&self.me).filter(|me| me.incarnation == self.incarnation);
        let is_leaving = me.is_some_and(|me| me.state == MemberState::Leaving);
        let mut words = message.words.iter();
        let me = (self.generation, self.me, self.incarnation);
        let shown = words.find_map(|word| state.ends_membership(me, word));
        if let Some(by) = shown {
            self.end_own_membership(by);
        } else if is_leaving {
            self.end_own_membership(self.removed_by_whom());
        } else if planted(Bug::RemovalNotShown) {
            self.end_own_membership(by);
        } else if self.is_voting(message.from, message.from_incarnation) {
            self.world.sent_away_by.insert(message.from);
            let says = |peer: &PeerId, _: &Incarnation| self.world.sent_away_by.contains(peer);
            if is_majority(self.log.voters(), says) {
                self.end_own_membership(by);
            }
        }
    }

    /// Who sends this peer away, as far as its log says; `None` where it goes by itself.
    pub(crate) fn removed_by_whom(&self) -> Option<PeerId> {
        self.log.state().members.get(&self.me).and_then(|me| me.removed_by)
    }

    /// From now on this peer takes no part in anything. One who has left is forgotten with the
    /// chat; one who was removed keeps what was said until then.
    pub(crate) fn end_own_membership(&mut self, by: Option<PeerId>) {
        self.ready.notices.push(Notice::Removed { by });
        self.ready.persist.removed_by = by;
        self.keep_receipts();
        self.has_gone = true;
        self.kept.removed_by = by;
        self.part = Part::follower();
        self.search.suspicion = None;
    }
}
