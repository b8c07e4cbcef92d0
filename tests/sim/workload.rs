//! What people do: come in, talk, read, pass the hosting on, stop, leave and come back.

use demes_protocol::event::Event;
use demes_protocol::types::{InviteLinkId, Membership, Payload, Policy};

use super::invariants::Broken;
use super::plan::{Action, Draw, Who, ms};
use super::process::Wish;
use super::queue::What;
use super::world::{MS, SECOND, World};

/// Programs that read feeds, each at some peer or other.
const READERS: u64 = 3;
/// Links that people make.
const LINKS: u64 = 2;
/// What somebody says who has much to say at once: more than a window or a checkpoint holds.
const BURST: u64 = 30;

/// Something that somebody does; mostly they talk.
pub fn draw(draw: &mut Draw, rest_us: u64) -> Action {
    let peer = draw.peer();
    match draw.below(100) {
        0..70 => say(peer, 1 + draw.below(4)),
        70..76 => mark_read(peer),
        76..87 => read_on(draw.below(READERS) as usize, peer),
        87..89 => rename(peer),
        89..92 => hand_over(draw.chance(50).then_some(peer)),
        92..96 => stop(draw.who(), draw.span(10 * MS, (20 * SECOND).min(rest_us))),
        96 => match draw.below(5) {
            0 => leave(peer),
            1 => remove(peer, draw.peer()),
            2 => revoke(peer, draw.peer()),
            3 => make_link(peer, draw.below(LINKS) as u8, 1 + draw.below(3) as u32),
            _ => join_by_link(peer, draw.below(LINKS) as u8),
        },
        97..99 => say(peer, BURST),
        _ => join(peer),
    }
}

/// Wants to be in the chat, for the first time or again.
pub fn join(peer: usize) -> Action {
    Action::new(format!("{} wants to be in the chat", peer + 1), move |world| {
        world.want_in(peer, Wish::Join);
    })
}

/// The same, with a link in the hand (R43).
pub fn join_by_link(peer: usize, link: u8) -> Action {
    Action::new(format!("{} wants in by link {link}", peer + 1), move |world| {
        world.want_in(peer, Wish::JoinByLink(InviteLinkId([link; 32])));
    })
}

/// Is invited, and does not want to.
pub fn decline(peer: usize) -> Action {
    Action::new(format!("{} is invited and declines", peer + 1), move |world| {
        world.want_in(peer, Wish::Decline);
    })
}

/// Goes for good. The last member does not: nobody could ever come back.
fn leave(peer: usize) -> Action {
    Action::new(format!("{} leaves for good", peer + 1), move |world| {
        if world.can_do_without(peer) {
            world.propose(peer, Payload::Membership(Membership::Leaving));
        }
    })
}

/// Sends another member away.
fn remove(by: usize, peer: usize) -> Action {
    Action::new(format!("{} sends {} away", by + 1, peer + 1), move |world| {
        if by != peer && world.is_active(by) && world.can_do_without(peer) {
            let peer = world.peers[peer].id;
            world.propose(by, Payload::Membership(Membership::Removing { peer }));
        }
    })
}

/// Takes an invitation back.
fn revoke(by: usize, peer: usize) -> Action {
    Action::new(format!("{} takes {}'s invitation back", by + 1, peer + 1), move |world| {
        let peer = world.peers[peer].id;
        world.propose(by, Payload::Membership(Membership::InviteRevoked { peer }));
    })
}

/// Makes a link that lets some people in.
pub fn make_link(by: usize, link: u8, uses_max: u32) -> Action {
    let words = format!("{} makes link {link} for {uses_max} people", by + 1);
    Action::new(words, move |world| {
        let (link, expires_at_ms) = (InviteLinkId([link; 32]), u64::MAX);
        let created = Membership::InviteLinkCreated { link, uses_max, expires_at_ms };
        world.propose(by, Payload::Membership(created));
    })
}

pub fn say(peer: usize, count: u64) -> Action {
    Action::new(format!("{} says {count} things", peer + 1), move |world| {
        (0..count).for_each(|_| world.say(peer));
    })
}

/// Has read everything that is there.
fn mark_read(peer: usize) -> Action {
    Action::new(format!("{} has read everything", peer + 1), move |world| {
        let index = world.peers[peer].status.commit;
        world.tell(peer, Event::MarkRead { index });
    })
}

/// Gives the chat another name.
fn rename(peer: usize) -> Action {
    Action::new(format!("{} renames the chat", peer + 1), move |world| {
        let chat_name = format!("chat of {} at {}", peer + 1, world.now);
        world.propose(peer, Payload::Policy(Policy::named(chat_name)));
    })
}

/// Asks the host to hand over, to the best or to somebody.
fn hand_over(target: Option<usize>) -> Action {
    let to = target.map_or("the best".into(), |target| (target + 1).to_string());
    Action::new(format!("the host is asked to hand over to {to}"), move |world| {
        let target = target.map(|target| world.peers[target].id);
        if let Some(host) = world.find(Who::Host) {
            world.tell(host, Event::HandOver { target });
        }
    })
}

/// Stops the process with a goodbye and starts it again later.
fn stop(who: Who, down_us: u64) -> Action {
    Action::new(format!("{who} stops, and is back after {}", ms(down_us)), move |world| {
        if let Some(peer) = world.find(who) {
            world.stop(peer, down_us);
        }
    })
}

/// A program reads the feed where it left off, at any peer.
fn read_on(reader: usize, peer: usize) -> Action {
    Action::new(format!("reader {} reads on at {}", reader + 1, peer + 1), move |world| {
        world.read_on(reader, peer);
    })
}

impl World {
    /// Takes the step of the plan with this number, and sees to the next one.
    pub fn act(&mut self, number: usize) {
        if let Some(next) = self.plan.steps.get(number + 1) {
            self.at(next.at.saturating_sub(self.now), What::Act(number + 1));
        }
        let step = self.plan.steps[number].clone();
        // R9 is about one disaster at a time: see `old_copy`.
        if self.watches_old_copy() {
            self.log(|| format!("-- (not now) {}", step.to_string().trim_start()));
            return;
        }
        self.log(|| format!("-- {}", step.to_string().trim_start()));
        step.action.happen(self);
    }

    /// Whether the chat goes on as well when that member has gone: others are there, and nobody's
    /// memory is gone (see `spared`).
    fn can_do_without(&self, peer: usize) -> bool {
        let others = (0..self.peers.len()).filter(|other| *other != peer);
        let others = others.filter(|other| self.is_active(*other)).count();
        self.is_active(peer) && others >= 2 && self.is_everybody_sound()
    }

    /// A program reads everything after its cursor that the peer's feed has.
    fn read_on(&mut self, reader: usize, peer: usize) {
        let state = &self.peers[peer];
        let Some(replica) = &state.replica else { return };
        let mut cursor = *self.oracle.reader(reader);
        let mut broken = None;
        while cursor < replica.log().commit() {
            let index = cursor + 1;
            let Some(entry) = state.disk.entry(index) else {
                broken = Some(format!("{}'s feed lacks {index}", peer + 1));
                break;
            };
            let known = self.oracle.entry(index);
            if entry.index != index || known.is_none_or(|known| known.hash != entry.hash) {
                broken = Some(format!("reader {} is shown another {index}", reader + 1));
                break;
            }
            cursor = index;
        }
        *self.oracle.reader(reader) = cursor;
        if let Some(what) = broken {
            self.break_off(Broken { invariant: "readers see one history", what });
        }
    }
}
