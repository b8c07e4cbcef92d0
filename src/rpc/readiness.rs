//! Whether this peer is ready, as a supervisor asks before it goes on to the next one: it is in the
//! chats that it is to be in, and has what their hosts have, or nobody hosts them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::protocol::event::{Role, Status};
use crate::protocol::types::{ChatId, Index};

/// For so long after its start a peer looks for the host of a chat; then there is none to be found,
/// and waiting for the peer would hold up whoever could bring one back.
const SEEK_MAX: Duration = Duration::from_secs(10);

/// What was seen so far.
#[derive(Default)]
pub struct Readiness {
    chats: BTreeMap<ChatId, Seen>,
}

#[derive(Default)]
struct Seen {
    /// It had, when it was last attached to a host, what that host had a look before.
    caught_up: bool,
    /// What the host had at the last look, if this peer was attached to it.
    goal: Option<Index>,
}

impl Readiness {
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
            ready &= over || (!has_fault && seen.is_served(status, since_start));
            self.chats.insert(id, seen);
        }
        ready && self.chats.len() >= bootstrap
    }
}

impl Seen {
    fn is_served(&mut self, status: &Status, since_start: Duration) -> bool {
        let goal = self.goal.take();
        if status.role == Role::Host && status.serving {
            self.caught_up = true;
        } else if status.serving {
            // What the host had at the last look must be here by now. What it has at this moment is
            // on its way, always, while people write.
            self.caught_up = goal.map_or(self.caught_up, |goal| status.commit >= goal);
            let of_host = status.host.and_then(|host| status.receipts.get(&host));
            self.goal = of_host.map(|receipt| receipt.delivered);
        } else if status.role == Role::Follower && status.host.is_some() {
            return false;
        } else {
            // Between two hosts a peer stays what it was.
            return self.caught_up || since_start >= SEEK_MAX;
        }
        self.caught_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Receipt;
    use crate::protocol::types::PeerId;

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
        let mut readiness = Readiness::default();
        assert!(!look(&mut readiness, 0, 0, &follower(0, None)));
        assert!(!look(&mut readiness, 9, 0, &follower(0, None)));
        assert!(look(&mut readiness, 10, 0, &follower(0, None)), "there is nobody to wait for");
    }

    #[test]
    fn a_peer_is_ready_when_it_has_what_the_host_had() {
        let mut readiness = Readiness::default();
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
        let mut readiness = Readiness::default();
        let host = Status { role: Role::Host, serving: true, ..Status::default() };
        assert!(look(&mut readiness, 0, 1, &host));
        assert!(look(&mut readiness, 1, 1, &follower(10, Some(11))));
    }

    #[test]
    fn a_peer_is_not_ready_without_a_chat_that_it_is_to_be_in_or_with_one_that_has_stopped() {
        let host = Status { role: Role::Host, serving: true, ..Status::default() };
        let mut readiness = Readiness::default();
        assert!(!look(&mut readiness, 60, 2, &host));
        let after = Duration::from_secs(60);
        assert!(!readiness.look(after, 0, [(CHAT, &host, true)].into_iter()));
        assert!(readiness.look(after, 0, std::iter::empty()), "nobody wants it to be in one");
    }

    #[test]
    fn a_chat_that_somebody_was_removed_from_is_over() {
        let removed = Status { removed_by: Some(HOST), ..Status::default() };
        assert!(look(&mut Readiness::default(), 0, 1, &removed));
    }
}
