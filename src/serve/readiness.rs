//! Whether this peer is ready, as a supervisor asks before it goes on to the next one: it is in the
//! chats that it is to be in, has what their hosts have, and votes if it did, or nobody hosts them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::protocol::event::{Role, Status};
use crate::protocol::types::{ChatId, Index, PeerId};

/// For so long after its start a peer looks for the host of a chat; then there is none to be found,
/// and waiting for the peer would hold up whoever could bring one back.
const SEEK_MAX: Duration = Duration::from_secs(10);
/// For so long a peer that has caught up waits for the vote that it had. Who keeps up gets it back
/// after 10 s (R28). Where that does not happen, a rule holds it back (R25, R27, R28), and an
/// update that waited for it might never end.
const VOTE_MAX: Duration = Duration::from_secs(15);

/// What was seen so far.
pub struct Readiness {
    me: PeerId,
    chats: BTreeMap<ChatId, Seen>,
}

#[derive(Default)]
struct Seen {
    /// How many voted when this peer was last one of them, in this run or before; 0: it never was,
    /// or has waited long enough for its vote.
    seats: usize,
    /// Since when, from the start on, it has waited for its vote.
    waits_since: Option<Duration>,
    /// It had, when it was last attached to a host, what that host had a look before.
    caught_up: bool,
    /// What the host had at the last look, if this peer was attached to it.
    goal: Option<Index>,
}

impl Readiness {
    /// Nothing was seen yet.
    pub fn of(me: PeerId) -> Self {
        Self { me, chats: BTreeMap::new() }
    }

    /// One look at all chats of a peer that started so long ago. It is to be in at least as many
    /// as `bootstrap` names.
    pub fn look<'a>(
        &mut self,
        since_start: Duration,
        bootstrap: usize,
        chats: impl Iterator<Item = (ChatId, &'a Status, bool)>,
    ) -> bool {
        let mut before = std::mem::take(&mut self.chats);
        let mut ready = true;
        for (id, status, has_fault) in chats {
            let mut seen = before.remove(&id).unwrap_or_default();
            let over = status.removed_by.is_some();
            ready &= over || (!has_fault && seen.is_served(self.me, status, since_start));
            self.chats.insert(id, seen);
        }
        ready && self.chats.len() >= bootstrap
    }
}

impl Seen {
    fn is_served(&mut self, me: PeerId, status: &Status, since_start: Duration) -> bool {
        let goal = self.goal.take();
        let votes = self.votes(me, status);
        if status.role == Role::Host && status.serving {
            self.caught_up = true;
        } else if status.serving || status.caught_up {
            // While its host is silent, a peer stays what it was. What the host had at the last
            // look must be here by now. What it has at this moment is on its way, always, while
            // people write.
            self.caught_up = goal.map_or(self.caught_up, |goal| status.commit >= goal);
            let of_host = status.host.and_then(|host| status.receipts.get(&host));
            self.goal = of_host.map(|receipt| receipt.delivered);
        } else if status.role == Role::Follower && status.host.is_some() {
            return false;
        } else {
            // Between two hosts a peer stays what it was.
            return self.caught_up || since_start >= SEEK_MAX;
        }
        self.caught_up && (votes || self.has_waited(since_start))
    }

    /// Whether it votes, or never did, or others vote in its place: the chat bears as many losses
    /// as before. What a former run knew stands in the log, so that the first look sees it.
    fn votes(&mut self, me: PeerId, status: &Status) -> bool {
        let seats = status.voters.len();
        let votes = match status.voters.0.get(&me) {
            Some(incarnation) => {
                self.seats = seats;
                *incarnation == status.incarnation
            }
            None => seats >= self.seats,
        };
        if votes {
            self.waits_since = None;
        }
        votes
    }

    /// Whether it has waited for its vote for long enough. Then it waits no more, until it votes.
    fn has_waited(&mut self, since_start: Duration) -> bool {
        let since = *self.waits_since.get_or_insert(since_start);
        let is_over = since_start.saturating_sub(since) >= VOTE_MAX;
        if is_over {
            (self.seats, self.waits_since) = (0, None);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Receipt;
    use crate::protocol::types::{Incarnation, VoterSet};

    const ME: PeerId = PeerId([3; 32]);
    const CHAT: ChatId = ChatId([1; 16]);
    const HOST: PeerId = PeerId([2; 32]);

    fn look(readiness: &mut Readiness, after_s: u64, bootstrap: usize, status: &Status) -> bool {
        let after = Duration::from_secs(after_s);
        readiness.look(after, bootstrap, [(CHAT, status, false)].into_iter())
    }

    fn follower(commit: Index, host_has: Option<Index>) -> Status {
        let mut status = Status { commit, ..Status::default() };
        if let Some(delivered) = host_has {
            (status.host, status.serving) = (Some(HOST), true);
            status.receipts.insert(HOST, Receipt { delivered, read: 0 });
        }
        status
    }

    #[test]
    fn a_peer_that_just_started_is_not_ready_before_it_has_looked_for_a_host() {
        let mut readiness = Readiness::of(ME);
        assert!(!look(&mut readiness, 0, 0, &follower(0, None)));
        assert!(!look(&mut readiness, 9, 0, &follower(0, None)));
        assert!(look(&mut readiness, 10, 0, &follower(0, None)), "there is nobody to wait for");
    }

    #[test]
    fn a_peer_is_ready_when_it_has_what_the_host_had() {
        let mut readiness = Readiness::of(ME);
        assert!(!look(&mut readiness, 1, 0, &follower(10, Some(100))), "attached is not enough");
        assert!(!look(&mut readiness, 2, 0, &follower(99, Some(150))));
        assert!(look(&mut readiness, 3, 0, &follower(150, Some(190))));
        assert!(look(&mut readiness, 4, 0, &follower(150, None)), "between two hosts");
        let mut unattached = follower(150, Some(190));
        unattached.serving = false;
        assert!(!look(&mut readiness, 5, 0, &unattached), "there is a host, out of reach");
    }

    #[test]
    fn a_host_is_ready_and_stays_so_when_it_has_handed_over() {
        let mut readiness = Readiness::of(ME);
        let host = Status { role: Role::Host, serving: true, ..Status::default() };
        assert!(look(&mut readiness, 0, 1, &host));
        assert!(look(&mut readiness, 1, 1, &follower(10, Some(11))));
    }

    /// Attached, with all that the host has; these vote, besides the host.
    fn voters(incarnations: &[(PeerId, Incarnation)]) -> Status {
        let voters = incarnations.iter().copied().chain([(HOST, 1)]).collect();
        Status { voters: VoterSet(voters), incarnation: 7, ..follower(10, Some(10)) }
    }

    /// A peer that has caught up; the log of its former run has these voters.
    fn after_restart(before: &Status, now: &Status) -> Readiness {
        let mut readiness = Readiness::of(ME);
        let unattached = Status { host: None, serving: false, ..before.clone() };
        assert!(!look(&mut readiness, 0, 0, &unattached));
        assert!(!look(&mut readiness, 1, 0, now), "attached is not enough");
        readiness
    }

    #[test]
    fn a_peer_that_voted_is_ready_when_it_votes_again() {
        let (other, third) = (PeerId([4; 32]), PeerId([5; 32]));
        let before = voters(&[(ME, 7), (other, 1)]);
        let without = voters(&[]);
        let mut readiness = after_restart(&before, &without);
        assert!(!look(&mut readiness, 2, 0, &without), "the chat bears one loss less");
        assert!(look(&mut readiness, 3, 0, &before));
        // Its vote is kept through a short restart, and then there is nothing to wait for.
        assert!(look(&mut after_restart(&before, &before), 2, 0, &before));
        // Where another one votes in its place, it is not waited for.
        let replaced = voters(&[(third, 1), (other, 1)]);
        assert!(look(&mut after_restart(&before, &replaced), 2, 0, &replaced));
        // Nor in a chat where it never voted.
        assert!(look(&mut after_restart(&replaced, &replaced), 2, 0, &replaced));
        // The seat of an incarnation that is gone is none.
        let former = voters(&[(ME, 6), (other, 1)]);
        let mut readiness = after_restart(&former, &former);
        assert!(!look(&mut readiness, 2, 0, &former));
        assert!(look(&mut readiness, 3, 0, &before));
    }

    #[test]
    fn a_vote_that_does_not_come_back_holds_up_nothing_for_long() {
        let before = voters(&[(ME, 7), (PeerId([4; 32]), 1)]);
        let without = voters(&[]);
        let mut readiness = after_restart(&before, &without);
        assert!(!look(&mut readiness, 2, 0, &without));
        assert!(!look(&mut readiness, 16, 0, &without));
        assert!(look(&mut readiness, 17, 0, &without), "that was long enough");
        assert!(look(&mut readiness, 18, 0, &without), "and is not asked again");
        assert!(look(&mut readiness, 19, 0, &before));
        // A peer that loses its vote while it runs is waited for as long, once.
        assert!(!look(&mut readiness, 20, 0, &without));
        assert!(look(&mut readiness, 35, 0, &without));
        // Without a host nobody gives votes.
        let mut readiness = after_restart(&before, &without);
        assert!(look(&mut readiness, 10, 0, &follower(10, None)));
    }

    #[test]
    fn a_peer_is_not_ready_without_a_chat_that_it_is_to_be_in_or_with_one_that_has_stopped() {
        let host = Status { role: Role::Host, serving: true, ..Status::default() };
        let mut readiness = Readiness::of(ME);
        assert!(!look(&mut readiness, 60, 2, &host));
        let after = Duration::from_secs(60);
        assert!(!readiness.look(after, 0, [(CHAT, &host, true)].into_iter()));
        assert!(readiness.look(after, 0, std::iter::empty()), "nobody wants it to be in one");
    }

    #[test]
    fn a_chat_that_somebody_was_removed_from_is_over() {
        let removed = Status { removed_by: Some(HOST), ..Status::default() };
        assert!(look(&mut Readiness::of(ME), 0, 1, &removed));
    }
}
