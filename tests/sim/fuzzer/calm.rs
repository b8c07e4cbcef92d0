//! What a fuzzed chat does while nothing goes wrong: at the beginning, and at the end, when all
//! must come to an agreement.

use std::sync::OnceLock;

use demes_protocol::config::Config;
use demes_protocol::event::Persist;
use demes_protocol::founding::founding_entry;
use demes_protocol::types::{Incarnation, MemberState, PeerId};

use super::super::disk::Disk;
use super::super::invariants::Synced;
use super::super::peer::Peer;
use super::super::process::Wish;
use super::super::world::{MS, SECOND};
use super::chat::Chat;
use super::step::Deed;

/// Messages that may follow from each other at one moment: the longest log goes to everybody in
/// pieces of one entry several times within that.
const REST_MAX: u64 = 20_000;
/// All agree within this time.
const AGREED_WITHIN_US: u64 = 60 * SECOND;
/// Between looks of people at their peers.
const LOOK_US: u64 = 100 * MS;
/// Timers due in a second, over all peers, and hand-overs in all of the end.
const WAKES_PER_SECOND_MAX: u64 = 1_000;
const HAND_OVERS_MAX: u64 = 40;
/// The most members that a fuzzed chat begins with.
pub const MEMBERS_MAX: usize = 5;

fn id(number: usize) -> PeerId {
    PeerId([number as u8 + 1; 32])
}

fn incarnation(number: usize) -> Incarnation {
    1_001 + number as Incarnation
}

/// The stores of so many members who have come in and are voters, as far as they may.
fn stores(members: usize) -> &'static [Disk] {
    static STORES: [OnceLock<Vec<Disk>>; MEMBERS_MAX + 1] = [const { OnceLock::new() }; 6];
    STORES[members].get_or_init(|| {
        let (chat, name, address) = ("chat".into(), "person 1".into(), "h:1".into());
        let founded = founding_entry(id(0), incarnation(0), chat, name, address, 0, |_| [0; 64]);
        let first = std::sync::Arc::new(founded.1);
        let peers = (0..members).map(|number| {
            let entries = if number == 0 { vec![first.clone()] } else { Vec::new() };
            Peer::new(id(number), Disk::new(incarnation(number), entries), number == 0)
        });
        let mut chat = Chat::new(Config::default(), 0, MS, peers.collect());
        chat.oracle.commit(&first, 0);
        chat.peers.iter_mut().for_each(|peer| peer.wants_in = true);
        let agreed = chat.run_until_agreed();
        assert!(agreed.is_none() && chat.broken.is_none(), "{agreed:?} {:?}", chat.broken);
        // The odd number of voters, and everything written down.
        let end = chat.now + 3 * SECOND;
        chat.run_until(end);
        chat.peers.iter().map(|peer| peer.disk.again()).collect()
    })
}

impl Chat {
    /// A chat of so many members, all of whose processes have just started, and of newcomers.
    pub fn grown(config: Config, seed: u64, us: u64, members: usize, newcomers: usize) -> Self {
        let disks = stores(members).iter().map(Disk::again);
        let new = (members..members + newcomers).map(|n| Disk::new(incarnation(n), Vec::new()));
        let peers = disks.chain(new).enumerate();
        let peers = peers.map(|(number, disk)| Peer::new(id(number), disk, number < members));
        let mut chat = Self::new(config, seed, us, peers.collect());
        for peer in 0..members {
            let entries = chat.peers[peer].disk.image().entries.clone();
            entries.iter().for_each(|entry| chat.oracle.commit(entry, entry.term));
            let persist = Persist { entries, ..Persist::default() };
            let (peers, oracle) = (&chat.peers, &chat.oracle);
            let synced = Synced { peer, peers, persist: &persist, oracle };
            let known = chat.invariants.after_sync(&synced);
            known.expect("the stores are those of a good chat");
        }
        for peer in 0..members {
            chat.start(peer);
        }
        chat
    }

    /// Everything that is under way arrives in order, and is written, until nothing more follows.
    pub fn rest(&mut self) {
        let mut count = 0;
        while self.broken.is_none() {
            for peer in 0..self.peers.len() {
                while !self.peers[peer].disk.pending.is_empty() && self.runs(peer) {
                    self.sync(peer);
                }
            }
            if self.flying.is_empty() {
                return;
            }
            let message = self.flying.remove(0).message;
            self.deliver(message);
            count += 1;
            if count > REST_MAX {
                let last = self.flying.last().map(|flying| flying.key.to_string());
                let what = format!("{count} messages at one moment, the last is {last:?}");
                self.break_off("messages come to rest", what);
                return;
            }
        }
    }

    fn look_at_all(&mut self) {
        for peer in 0..self.peers.len() {
            for other in 0..self.peers.len() {
                // What has closed is dialled again.
                self.look(peer, other);
                self.look(peer, other);
            }
        }
    }

    /// Time passes without faults.
    pub fn run_until(&mut self, end: u64) {
        while self.broken.is_none() {
            self.look_at_all();
            self.rest();
            let due = |peer: &usize| {
                let replica = self.peers[*peer].replica.as_ref()?;
                Some((replica.poll_timeout()?.0, *peer))
            };
            let next = (0..self.peers.len()).filter_map(|peer| due(&peer)).min();
            match next.filter(|(at, _)| *at <= end) {
                Some((_, peer)) => self.wake(peer),
                None => break,
            }
        }
        self.now = self.now.max(end);
    }

    /// People see to it that everybody runs and is in the chat who wants to be.
    fn tend(&mut self) {
        for peer in 0..self.peers.len() {
            let state = &self.peers[peer];
            if state.is_stopped {
                self.take_step(Deed::Wipe(peer));
            }
            self.start(peer);
            let state = &self.peers[peer];
            let Some(host) = self.host().filter(|_| state.wants_in && !state.joined) else {
                continue;
            };
            let is_known = self.peers[host].status.members.contains_key(&state.id);
            self.take_step(match state.wish {
                Wish::Decline if state.has_answered => Deed::Decline(peer, host),
                _ if is_known => Deed::Join(peer, host),
                _ => Deed::Invite(host, peer),
            });
        }
    }

    /// Lets time pass until all agree. What they do not agree on when the time is over.
    pub fn run_until_agreed(&mut self) -> Option<String> {
        let deadline = self.now + AGREED_WITHIN_US;
        let (began, wakes, hand_overs) = (self.now, self.wakes, self.hand_overs);
        let mut disagreement = None;
        while self.now < deadline && self.broken.is_none() {
            self.tend();
            let next = self.now + LOOK_US;
            self.run_until(next);
            let seconds = (self.now - began) / SECOND + 1;
            if self.wakes - wakes > seconds * WAKES_PER_SECOND_MAX {
                let wakes = self.wakes - wakes;
                self.break_off("no busy loop", format!("woken {wakes} times in {seconds} s"));
            }
            if self.hand_overs - hand_overs > HAND_OVERS_MAX {
                let what = format!("more than {HAND_OVERS_MAX} hand-overs in {seconds} s");
                self.break_off("the hosting does not go to and fro", what);
            }
            disagreement = self.disagreement();
            if disagreement.is_none() {
                break;
            }
        }
        disagreement
    }

    /// The faults are over, but that perhaps two peers never reach each other again. All must come
    /// to an agreement, and hear of what is said then.
    pub fn settle(&mut self, stays_cut: Option<(usize, usize)>) {
        self.cuts.clear();
        // Who comes in anew asks the host itself, and nobody else for it.
        let is_in = |peer: &Peer| !peer.wants_in || (peer.joined && !peer.is_stopped);
        let is_everybody_in = self.peers.iter().all(is_in);
        let stays_cut = stays_cut.filter(|(a, b)| {
            is_everybody_in && self.can_spare(Some(*a)) && self.can_spare(Some(*b))
        });
        self.cuts.extend(stays_cut);
        for peer in 0..self.peers.len() {
            self.take_step(Deed::Disk(peer, false));
        }
        for _ in 0..2 {
            if let Some(what) = self.run_until_agreed() {
                if self.can_spare(None) {
                    self.break_off("all agree in the end", what);
                }
                return;
            }
            for peer in 0..self.peers.len() {
                self.say(peer);
            }
        }
    }

    fn disagreement(&self) -> Option<String> {
        let wanting = (0..self.peers.len()).filter(|peer| self.peers[*peer].wants_in);
        let wanting: Vec<_> = wanting.collect();
        if !wanting.iter().any(|peer| self.peers[*peer].joined) {
            // Everybody has gone, and there is nobody to join.
            return None;
        }
        if let Some(out) = wanting.iter().find(|peer| !self.runs(**peer)) {
            return Some(format!("{} does not run", out + 1));
        }
        let Some(host) = self.host() else { return Some("nobody hosts".into()) };
        let first = &self.peers[host].status;
        for peer in wanting {
            let status = &self.peers[peer].status;
            let stored = self.peers[peer].disk.image().entries.len() as u64;
            let me = status.members.get(&self.peers[peer].id);
            let at_host = first.members.get(&self.peers[peer].id);
            let goes =
                at_host.is_none_or(|me| me.state != MemberState::Active) || !self.is_active(peer);
            let what = match () {
                () if me.is_none_or(|me| me.state == MemberState::Invited) => "is no member",
                // Who is to go may not know it yet, and its only way to the host be the one cut.
                () if goes && !self.cuts.is_empty() => continue,
                () if !self.is_active(peer) => "is still leaving",
                () if status.host != first.host => "has another host",
                // Who has voted in vain, and cannot reach the host, reads on through others.
                () if status.term != first.term && self.cuts.is_empty() => "is in another term",
                () if status.queued > 0 => "has something queued",
                () if !status.serving => "is not served",
                () if status.last != first.last || stored != first.last => "has another log",
                () if status.commit != status.last => "has uncommitted entries",
                () => continue,
            };
            return Some(format!("{} {what}", peer + 1));
        }
        None
    }
}
