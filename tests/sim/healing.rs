//! The second phase: a random majority of the voters heals, or everything does, and whatever has
//! healed must come to an agreement, whatever the rest does.

use std::collections::BTreeSet;
use std::mem;

use demes_protocol::prng::Prng;
use demes_protocol::types::{MemberState, PeerId, Position, VoterSet};

use super::invariants::{Broken, End};
use super::liars::Lie;
use super::network::{Condition, Way};
use super::queue::What;
use super::text;
use super::world::{MS, SECOND, World};

/// Healed peers agree within this time: twenty of the longest leases.
const AGREED_WITHIN_US: u64 = 20 * 2 * SECOND;
/// By then the rest does nothing more that could matter to the healed.
const SETTLED_AFTER_US: u64 = 5 * SECOND;
const MINUTE_US: u64 = 60 * SECOND;
/// Between looks.
const LOOK_US: u64 = 50 * MS;
/// Longer than any run.
const FOR_EVER_US: u64 = 1_000 * SECOND;

impl World {
    /// Heals, waits for agreement, and looks whether everything is there. How long that took, in
    /// microseconds.
    pub fn heal_and_agree(&mut self) -> u64 {
        self.is_healing = true;
        let healed = match self.heal_quorum() {
            Some(quorum) => {
                self.counts.add("quorums healed");
                quorum
            }
            None => {
                self.counts.add("chats healed whole");
                self.heal_everything();
                (0..self.peers.len()).collect()
            }
        };
        let healed_at = self.now;
        let is_whole = healed.len() == self.peers.len();
        self.run_until(healed_at + SECOND);
        healed.iter().for_each(|peer| self.say(*peer));
        let deadline = healed_at + AGREED_WITHIN_US;
        while self.now < deadline
            && self.broken.is_none()
            && self.disagreement(&healed, is_whole).is_some()
        {
            let next = self.now + LOOK_US;
            self.run_until(next);
        }
        let agreed_us = self.now - healed_at;
        let deadline = self.now + self.voters_follow_within_us();
        while self.now < deadline
            && self.broken.is_none()
            && (self.wrong_voters(&healed).is_some()
                || self.disagreement(&healed, is_whole).is_some())
        {
            let next = self.now + LOOK_US;
            self.run_until(next);
        }
        if self.broken.is_none() {
            let is_told = self.voters_follow_within_us() > 0;
            let wrong_voters = self.wrong_voters(&healed).filter(|_| is_told);
            let disagreement = self.disagreement(&healed, is_whole);
            if disagreement.is_some() && self.is_majority_lost(&healed) {
                self.counts.add("majorities lost");
            } else if let Some(what) = disagreement.or(wrong_voters) {
                let what = format!("{what}\n{}", self.describe(&healed));
                self.break_off(Broken { invariant: "healed peers agree", what });
            } else {
                self.look_at_end(&healed);
            }
        }
        agreed_us
    }

    /// Voters follow the people within this time: whoever is gone is away, and whoever is back has
    /// waited long enough. With the times of real life, which are minutes, that is not waited for.
    fn voters_follow_within_us(&self) -> u64 {
        let config = &self.plan.config;
        if config.back_max_us > MINUTE_US {
            return 0;
        }
        config.silent_us + 2 * config.back_max_us + AGREED_WITHIN_US
    }

    fn look_at_end(&mut self, healed: &BTreeSet<usize>) {
        let members = healed.iter().copied().filter(|peer| self.is_active(*peer));
        let members: Vec<_> = members.collect();
        let end = End { healed: &members, peers: &self.peers, oracle: &self.oracle };
        if let Err(broken) = self.invariants.at_end(&end) {
            self.break_off(broken);
        }
    }

    // ---- healing ----

    fn heal_everything(&mut self) {
        self.network.end_all();
        self.slow_syncs = (0, 0);
        for peer in 0..self.peers.len() {
            self.heal_peer(peer);
        }
        self.look_at_all_links();
    }

    /// The machine works, and a process runs on it.
    fn heal_peer(&mut self, peer: usize) {
        let now = self.now;
        let state = &mut self.peers[peer];
        state.trap = None;
        state.disk.fails = false;
        state.disk.stalled_until = now;
        state.vanished = false;
        if mem::take(&mut state.disk_is_full) {
            let epoch = state.epoch;
            self.at(0, What::DiskState { peer, epoch });
        }
        self.thaw(peer);
        // A write that was to take long returns now.
        let state = &self.peers[peer];
        if state.disk.writing > 0 {
            let (epoch, write) = (state.epoch, state.disk.write_number);
            self.at(MS, What::Written { peer, epoch, write });
        }
        self.start(peer);
    }

    /// Heals a majority and leaves everything else broken; `None` where that cannot be.
    fn heal_quorum(&mut self) -> Option<BTreeSet<usize>> {
        if self.plan.heals_everything {
            return None;
        }
        let mut prng = Prng::new(self.plan.healing_seed);
        let quorum = self.pick_quorum(&mut prng)?;
        for peer in 0..self.peers.len() {
            if !quorum.contains(&peer) {
                self.spoil(&mut prng, peer, &quorum);
            }
        }
        // A host among those that are lost may just have begun to change the voters, so that those
        // that are left are no majority any more.
        self.run_until(self.now + SETTLED_AFTER_US);
        if !quorum.iter().all(|peer| self.has_majority(&quorum, &self.voters_at(*peer))) {
            for peer in 0..self.peers.len() {
                self.peers[peer].is_lost = false;
                self.at(0, What::Join { peer });
            }
            return None;
        }
        self.network.heal(quorum.clone());
        for peer in &quorum {
            self.heal_peer(*peer);
        }
        self.look_at_all_links();
        Some(quorum)
    }

    fn has_majority(&self, quorum: &BTreeSet<usize>, set: &VoterSet) -> bool {
        let counts = |peer: &&usize| {
            self.is_voter_of(**peer, set) && !self.leads_astray(&self.peers[**peer].id)
        };
        quorum.iter().filter(counts).count() >= set.majority()
    }

    /// What becomes of a peer that does not heal. It may be as bad as it likes, but it must not
    /// keep a majority while others of the healed cannot reach it.
    fn spoil(&mut self, prng: &mut Prng, peer: usize, quorum: &BTreeSet<usize>) {
        let inbound = |(from, to): &Way| quorum.contains(from) && *to == peer;
        let outbound = |(from, to): &Way| *from == peer && quorum.contains(to);
        let ways: Vec<Way> = self.ways().collect();
        let ways: BTreeSet<Way> = match prng.below(5) {
            0 | 1 => {
                self.log(|| format!("{} stays dead", peer + 1));
                self.peers[peer].is_lost = true;
                self.end_process_losing(peer, 0);
                return;
            }
            2 => {
                self.log(|| format!("{} stays cut off", peer + 1));
                ways.into_iter().filter(|way| inbound(way) || outbound(way)).collect()
            }
            3 => {
                self.log(|| format!("{} stays deaf", peer + 1));
                ways.into_iter().filter(inbound).collect()
            }
            _ => {
                self.log(|| format!("{} stays mute", peer + 1));
                ways.into_iter().filter(outbound).collect()
            }
        };
        self.begin(Condition::Cut { ways, held_until: None }, FOR_EVER_US);
    }

    /// A random majority of the voters that have kept all their promises: of the set that is in
    /// force in the latest log, and of every set that is in force in one of theirs, so that each
    /// of them could be elected. Learners come with them, or do not. `None` where there is none.
    fn pick_quorum(&self, prng: &mut Prng) -> Option<BTreeSet<usize>> {
        let with_store = || (0..self.peers.len()).filter(|peer| self.peers[*peer].joined);
        let latest = with_store().max_by_key(|peer| self.last_position(*peer))?;
        let mut left: Vec<_> = with_store().collect();
        let mut quorum = BTreeSet::new();
        while !left.is_empty() {
            let peer = left.swap_remove(prng.below(left.len() as u64) as usize);
            let state = &self.peers[peer];
            let is_sound = self.is_sound(&state.id, state.disk.incarnation());
            if !is_sound || (!self.is_voter_of(peer, &self.voters_at(latest)) && prng.below(2) == 0)
            {
                continue;
            }
            quorum.insert(peer);
            let sets = quorum.iter().chain([&latest]).map(|peer| self.voters_at(*peer));
            if sets.into_iter().all(|set| self.has_majority(&quorum, &set)) {
                return Some(quorum);
            }
        }
        None
    }

    /// Whether so many of some healed peer's voters have lost what they were told to keep that no
    /// majority is left. A bit that flips unseen at a learner can do that, when it is made a voter
    /// before it reads the bit. Such a chat waits for a person (R30); what it confirmed is checked
    /// all the same.
    fn is_majority_lost(&self, healed: &BTreeSet<usize>) -> bool {
        healed.iter().filter(|peer| self.peers[**peer].joined).any(|peer| {
            let voters = self.voters_at(*peer);
            let sound = voters.0.iter().filter(|(id, incarnation)| {
                self.is_sound(id, **incarnation) && !self.leads_astray(id)
            });
            sound.count() < voters.majority()
        })
    }

    /// Whether that peer claims what is not so of who hosts. Where so many do, nothing is promised.
    fn leads_astray(&self, id: &PeerId) -> bool {
        self.peers.iter().any(|peer| peer.id == *id && peer.lie == Some(Lie::Reigns))
    }

    fn is_voter_of(&self, peer: usize, set: &VoterSet) -> bool {
        let state = &self.peers[peer];
        set.0.get(&state.id) == Some(&state.disk.incarnation())
    }

    /// The voter set that is in force at a peer, whether it runs or not.
    pub fn voters_at(&self, peer: usize) -> VoterSet {
        let state = &self.peers[peer];
        match &state.replica {
            Some(replica) => replica.log().voters().clone(),
            None => state.disk.voters(),
        }
    }

    fn last_position(&self, peer: usize) -> Position {
        let state = &self.peers[peer];
        let stored = state.disk.image().entries.last();
        let stored = stored.map(|entry| Position { term: entry.term, index: entry.index });
        match &state.replica {
            Some(replica) => replica.log().last(),
            None => stored.unwrap_or_default(),
        }
    }

    // ---- agreement ----

    /// What the healed peers do not agree on; `None` when they do.
    fn disagreement(&self, healed: &BTreeSet<usize>, is_whole: bool) -> Option<String> {
        let wanting = healed.iter().copied().filter(|peer| self.peers[*peer].wants_in);
        let wanting: Vec<_> = wanting.collect();
        // A chat that all have left is over, and takes nobody in.
        if self.oracle.roll.is_over() && self.peers.iter().all(|peer| !peer.joined) {
            return None;
        }
        if let Some(out) = wanting.iter().find(|peer| self.peers[**peer].replica.is_none()) {
            return Some(format!("{} does not run", out + 1));
        }
        let hosts: Vec<_> = wanting.iter().filter(|peer| self.hosts(**peer)).collect();
        let &[host] = &hosts[..] else {
            return Some(format!("{} of them host", hosts.len()));
        };
        let first = &self.peers[*host].status;
        let is_soon = self.voters_follow_within_us() > 0;
        for &peer in &wanting {
            let status = &self.peers[peer].status;
            let stored = self.peers[peer].disk.image().entries.len() as u64;
            let me = status.members.get(&self.peers[peer].id);
            let problem = match () {
                () if me.is_none_or(|me| me.state == MemberState::Invited) => "is no member",
                // The others may be too few to let it go, or have to wait for their votes.
                () if is_whole && is_soon && !self.is_active(peer) => "is still leaving",
                () if (status.host, status.term) != (first.host, first.term) => "has another host",
                // Nothing more is taken from one who is to go.
                () if status.queued > 0 && self.is_active(peer) => "has something queued",
                () if !status.serving => "is not served",
                () if status.last != first.last || stored != first.last => "has another log",
                () if status.commit != status.last => "has uncommitted entries",
                () => continue,
            };
            return Some(format!("{} {problem}", peer + 1));
        }
        // Who has no log yet can be shown anything by who hosts.
        let is_host_honest = self.peers[*host].lie != Some(Lie::Reigns);
        let is_soon = is_soon && is_host_honest;
        let inside = self.peers.iter().filter(|peer| peer.wants_in).map(|peer| &peer.id);
        let active = first.members.iter();
        let active = active.filter(|(_, member)| member.state == MemberState::Active);
        let is_everybody_in = inside.eq(active.map(|(peer, _)| peer));
        (is_whole && is_soon && !is_everybody_in)
            .then(|| "not everybody is in who wants to be".into())
    }

    /// What is wrong with the voters, once there was time enough to put it right (R27, R28): they
    /// are an odd number, or two of two; a majority of them is here; and they are as many as those
    /// who are here, give or take one, as far as they may be.
    fn wrong_voters(&self, healed: &BTreeSet<usize>) -> Option<String> {
        let status = &self.peers[self.host()?].status;
        let voting = healed.iter().filter(|peer| self.is_voter_of(**peer, &status.voters));
        let (count, voting) = (status.voters.len(), voting.count());
        // One to whom the host has lied follows it no more, and has no vote in its reign (L6).
        let follows = |peer: &&usize| {
            let evidence = &self.peers[**peer].status.evidence;
            evidence.keys().all(|liar| Some(liar) != status.host.as_ref())
        };
        let here = healed.iter().filter(|peer| self.is_active(**peer));
        if !here.clone().all(|peer| follows(&peer)) {
            return None;
        }
        let here = here.count();
        let wanted = here.min(self.plan.config.voters_max);
        // Who leaves keeps its vote as long as those who stay would be no majority without it, and
        // silence alone leaves no fewer than three of them (R27).
        let is_leaving = |id: &&PeerId| {
            let member = status.members.get(id);
            member.is_none_or(|member| member.state == MemberState::Leaving)
        };
        let leaving = status.voters.peers().filter(is_leaving).count();
        let most = match leaving {
            0 => wanted.max(2) + 1,
            _ => wanted.max(2) + 1 + leaving,
        };
        let is_fit = (count % 2 == 1 || here == 2 || leaving > 0)
            && voting >= status.voters.majority()
            && (wanted.saturating_sub(1)..=most).contains(&count)
            && count >= wanted.min(3);
        (!is_fit).then(|| format!("{count} voters, {voting} of them among the {here} here"))
    }

    fn describe(&self, healed: &BTreeSet<usize>) -> String {
        let mut text = String::new();
        for (peer, state) in self.peers.iter().enumerate() {
            let mark = if healed.contains(&peer) { "healed" } else { "      " };
            let stored = state.disk.image().entries.len();
            let what = match &state.replica {
                Some(_) => text::status(&state.status),
                None => format!("does not run, joined: {}", state.joined),
            };
            text += &format!("{mark} {} stored {stored} {what}\n", peer + 1);
        }
        text
    }
}
