//! Whom a member takes for the host, and why (L1, L3, L5).
//!
//! Anybody may say who hosts. That is a hint: it makes this peer ask that one for its log, and
//! changes nothing else. What is followed, with a term, a lease, acknowledgements that count, and
//! submissions, is a reign that has shown its proof: the votes of a majority of the voters that
//! this peer's own log names. Where the log does not reach so far, what comes is put together and
//! checked, one reign after the other, and stands in the log when its voters are the ones who have
//! voted, and not before.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::{LinkState, Notice};
use crate::evidence::Offence;
use crate::host::Progress;
use crate::log::quorum::is_majority;
use crate::log::reign::Reading;
use crate::message::{
    Announce, Append, Attach, Body, Heartbeat, Message, RefusedReason, ReportDelays,
};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, Micros, SECOND};
use crate::types::{Entry, Index, Past, Payload, PeerId, Position, Term, VoterSet};

/// Who could not prove its reign is not asked again before this.
const DISTRUST_US: Micros = 10 * SECOND;
/// The most peers that are remembered for that.
const DISTRUSTED_MAX: usize = 64;
/// So many times what is kept of a log in memory is held before its proof has come.
const TRIAL_WINDOWS: usize = 8;

/// What a follower has of the host of this term. It is dropped with the part, and in a later term
/// a new one begins.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Following {
    /// The host, whose reign is proven.
    pub host: Option<PeerId>,
    /// Where the log comes from, of that host or of one that says that it hosts.
    pub attached: Option<Attached>,
    /// Members that this one passes the committed log on to (R35).
    pub relays: BTreeMap<PeerId, Progress>,
}

/// Whom a peer could read the log from, and when it looks for one. It outlasts the part: a host or
/// a candidate that loses goes on from there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Sources {
    /// The first entry of the newest reign that is known to be one.
    pub reign: Option<Arc<Entry>>,
    /// Who is said to host, unproven (L1).
    pub hint: Option<Hint>,
    /// Who has said so falsely, as far as this peer could tell.
    pub distrusted: BTreeMap<PeerId, Distrust>,
    pub attach_count: u64,
    /// From then on a host that is not heard and cannot be dialled is read through a member.
    pub relay_at: Instant,
    /// Who passes the log on and was found to be behind this peer; not asked until then.
    pub relay_behind: Option<(PeerId, Instant)>,
    /// From then on, one that reads from nobody looks for the host.
    pub seek_host_at: Instant,
}

/// The newest attach to the host's log (R35).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Attached {
    /// Whom the log comes from: the host, or a member that passes it on.
    pub source: PeerId,
    /// Whose log it is, in which term.
    pub host: PeerId,
    pub term: Term,
    /// That one has been elected, as far as this peer's own log can tell.
    pub is_proven: bool,
    /// The first entry of that reign, as it was shown.
    pub reign: Option<Arc<Entry>>,
    /// What has come and is not proven.
    pub trial: Option<Trial>,
    /// The newest heartbeat that came before the proof did, and when.
    pub early: Option<(Heartbeat, Instant)>,
    pub attach: u64,
    /// The position that it named.
    pub look: Position,
    pub since: Instant,
    /// So long an answer is waited for.
    pub patience_us: Micros,
    /// The log equals the host's up to here; `None` until the host has answered with entries.
    pub matched: Option<Index>,
    /// Where the source's log ended when it answered.
    pub end: Option<Index>,
    /// It has come up to what the source had committed when it said so.
    pub caught_up: bool,
    /// The newest heartbeat heard.
    pub heartbeat: u64,
    /// Heartbeats in a row that told of entries which have not come.
    pub holes: u32,
    pub acknowledge: bool,
    /// A heartbeat was heard that has not been echoed.
    pub echo: bool,
    /// The delays that the host was told last, and when.
    pub reported: Option<(Instant, ReportDelays)>,
    /// What this peer has told the host of itself last, and when.
    pub told_past: Option<(Instant, Past)>,
    /// How far apart the host's heartbeats are.
    pub interval_us: Micros,
}

/// A part of another log that follows an end of this one, without a gap, and is not proven yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Trial {
    pub reading: Reading,
    pub entries: Vec<Arc<Entry>>,
    pub bytes: usize,
}

/// Somebody says that this one hosts in a term which is not known to be over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Hint {
    pub host: PeerId,
    pub term: Term,
}

/// One that has claimed a reign and not proven it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Distrust {
    /// Its claims up to this term are not looked at any more.
    pub term: Term,
    /// Nor are any others until then.
    pub until: Instant,
}

/// Whether the entry begins the reign of that host in that term, as far as it says itself.
fn begins(entry: &Entry, host: PeerId, term: Term) -> bool {
    entry.term == term && entry.author == host && matches!(entry.payload, Payload::TermStart(_))
}

/// Whether a majority of those voters has voted for the reign that the entry begins. Their
/// signatures have been checked.
fn is_vouched_for(entry: &Entry, voters: &VoterSet) -> bool {
    let Payload::TermStart(reign) = &entry.payload else { return false };
    is_majority(voters, |peer, incarnation| {
        reign.votes.get(peer).is_some_and(|vote| vote.incarnation == *incarnation)
    })
}

impl Replica {
    // ---- proof ----

    /// Whether this peer's own log tells that the entry begins a reign. Where the log ends before
    /// it, or has something else in its place, those vote whom the log names now.
    pub(crate) fn proves(&self, entry: &Entry) -> bool {
        if planted(Bug::AnnouncementBelieved) {
            return true;
        }
        if !self.is_of_here(entry) {
            return false;
        }
        let before = entry.index.saturating_sub(1);
        if self.log.hash_at(entry.index) == Some(entry.hash) {
            return true;
        }
        match self.log.head_at(before).filter(|head| head.end.hash == entry.previous) {
            Some(head) => head.admits(entry),
            None => entry.term > self.log.last().term && is_vouched_for(entry, self.log.voters()),
        }
    }

    // R30: on the way to its own course of the chat, a log has reigns of those before it. They are
    // no reason to follow anybody: who still takes part in one would lead this peer along it.
    /// Whether the entry is of the course of the chat that this peer takes part in.
    fn is_of_here(&self, entry: &Entry) -> bool {
        entry.generation == self.generation || planted(Bug::EarlierCourseFollowed)
    }

    /// Whether the log has that reign already.
    fn has_reign(&self, host: PeerId, term: Term) -> bool {
        let is_of_here =
            self.log.generation() == self.generation || planted(Bug::EarlierCourseFollowed);
        self.log.last().term == term && self.log.host().0 == host && is_of_here
    }

    /// The first entry of the present reign, to show it to others.
    pub(crate) fn own_proof(&self) -> Option<Arc<Entry>> {
        let reign = self.sources.reign.as_ref().filter(|reign| reign.term == self.hard_state.term);
        reign.map(Arc::clone)
    }

    /// A reign has shown its proof, and is followed.
    fn follow(&mut self, host: PeerId, term: Term) {
        if term > self.hard_state.term {
            self.enter_term(term);
        }
        self.sources.hint = None;
        if self.host().is_some() {
            return;
        }
        match self.part {
            // What it reads meanwhile, it reads on.
            Part::Follower(_) => self.outbox.resend_all(),
            // A candidate that hears of the host of its own term has lost.
            Part::Candidate(_) | Part::Host(_) => self.become_follower(),
        }
        if let Some(following) = self.part.following_mut() {
            following.host = Some(host);
        }
        // It needs a round trip until its heartbeats come, and the attach waits for a sync.
        let until = self.now + self.config.lease_min_us.max(2 * self.round());
        self.search.end();
        self.lease.suspect_at = self.lease.suspect_at.max(until);
        self.ready.notices.push(Notice::Host { host: Some(host), term });
    }

    // ---- hints ----

    // R21: members attach to the heartbeats and the log of the one who announces itself.
    pub(crate) fn on_announce(&mut self, message: &Message, announce: &Announce) {
        let (host, term) = (message.from, announce.term);
        if term < self.hard_state.term {
            self.refuse_older(message);
            return;
        }
        let proof = announce.reign.as_ref().filter(|entry| begins(entry, host, term));
        let proof = proof.filter(|entry| entry.incarnation == message.from_incarnation);
        if let Some(proof) = proof
            && self.proves(proof)
        {
            self.sources.reign = Some(Arc::clone(proof));
            self.part.detach_if(|attached| !attached.is_proven);
            self.follow(host, term);
        }
        self.hear_of_host(host, host, term);
    }

    /// R8: refuses what is of an older term, and names the host of the later one: that one proves
    /// itself, where this peer's word would prove nothing.
    fn refuse_older(&mut self, message: &Message) {
        if self.awaits_candidate() && !planted(Bug::RenewedBesideCandidate) {
            // R21: where somebody may host in the later term before long, the host of this one
            // would only stand against it.
            self.refuse(message, RefusedReason::NotHost { host: None });
            return;
        }
        match self.host().filter(|host| *host != self.me && self.now < self.lease.until) {
            Some(host) => self.refuse(message, RefusedReason::NotHost { host: Some(host) }),
            None => self.refuse(message, RefusedReason::StaleTerm),
        }
    }

    // R21, R35: `informant` says that somebody hosts in that term. Who cannot reach the host reads
    // through it.
    pub(crate) fn hear_of_host(&mut self, informant: PeerId, host: PeerId, term: Term) {
        if host == self.me {
            return;
        }
        let reign = Hint { host, term };
        let is_over = term < self.hard_state.term;
        if !is_over {
            self.take_hint(reign);
        }
        // Who has voted in a later term cannot follow that host any more. What is passed on counts
        // for nothing, so that it may read all the same.
        let may_read = !is_over || (self.host().is_none() && !planted(Bug::LaterTermReadsNothing));
        // Who has claimed a reign falsely may have won it since: whoever follows it has its proof.
        let is_doubted = self.is_distrusted(reign) && planted(Bug::ProofFromNobody);
        if informant != host
            && may_read
            && !is_doubted
            && !self.is_distrusted(Hint { host: informant, term })
            && self.may_attach_through(informant)
        {
            if is_over {
                self.sources.relay_at = self.now + self.config.lease_max_us;
            }
            self.attach_at(informant, reign, self.log.last());
        }
    }

    fn take_hint(&mut self, hint: Hint) {
        let Hint { host, term } = hint;
        if self.is_distrusted(hint) {
            return;
        }
        if self.has_reign(host, term) && !matches!(self.part, Part::Host(_)) {
            self.follow(host, term);
        }
        let is_known = self.host().is_some() && term == self.hard_state.term;
        if !is_known {
            // The latest claim stands: a false one must not keep the true one out for long.
            let later = self.sources.hint.is_none_or(|known| term >= known.term);
            if later && self.sources.hint != Some(hint) {
                self.sources.hint = Some(hint);
            }
        }
        // One that has shown nothing yet gives way to one of a later term.
        self.part.detach_if(|it| !it.is_proven && it.trial.is_none() && it.term < term);
        if matches!(self.part, Part::Follower(_)) && self.part.attached().is_none() {
            self.attach();
        }
    }

    fn is_distrusted(&self, hint: Hint) -> bool {
        let known = self.sources.distrusted.get(&hint.host);
        known.is_some_and(|it| hint.term <= it.term || self.now < it.until)
    }

    /// Whom to read from: the host, while it is heard or nobody else says that it hosts.
    fn whom_to_follow(&self) -> Option<Hint> {
        let is_up = |hint: &Hint| self.world.links.get(&hint.host) == Some(&LinkState::Up);
        let known = self.host().map(|host| Hint { host, term: self.hard_state.term });
        let hint =
            self.sources.hint.filter(|hint| hint.term >= self.hard_state.term && is_up(hint));
        let hint = hint.filter(|hint| !self.is_distrusted(*hint));
        match (known, hint) {
            (Some(known), _) if self.now < self.lease.until => Some(known),
            (_, Some(hint)) => Some(hint),
            (known, None) => known,
        }
    }

    /// What this peer reads is no reign, or not what a reign leads to (L6): it is not looked at
    /// again in that term. Who passes it on may be the one that lies.
    fn distrust(&mut self) {
        self.give_up_claim(true);
    }

    /// The one that this peer reads from has not proven its reign so far.
    pub(crate) fn give_up_claim(&mut self, is_false: bool) {
        let Some(attached) = self.part.detach() else { return };
        let (liar, term) = match attached.source == attached.host {
            true => (attached.host, if is_false { attached.term } else { 0 }),
            false => (attached.source, 0),
        };
        let pause = if is_false { DISTRUST_US } else { self.config.lease_max_us };
        let until = self.now + pause;
        self.sources.hint.take_if(|hint| hint.host == attached.host && hint.term <= attached.term);
        let own = self.hard_state.term;
        self.sources.distrusted.retain(|_, it| it.until > self.now || it.term > own);
        if self.sources.distrusted.len() < DISTRUSTED_MAX
            || self.sources.distrusted.contains_key(&liar)
        {
            let known = self.sources.distrusted.entry(liar).or_insert(Distrust { term, until });
            known.term = known.term.max(term);
            known.until = known.until.max(until);
        }
        self.sources.seek_host_at = self.now + self.config.lease_min_us;
    }

    /// The host says itself that it has gone on to a later term.
    pub(crate) fn lose_host(&mut self) {
        let following = self.part.following_mut();
        let Some(host) = following.and_then(|following| following.host.take()) else { return };
        self.part.detach_if(|attached| attached.host == host);
        self.lease.until = self.now;
        let until = self.now + self.config.lease_min_us + self.round();
        self.lease.suspect_at = self.lease.suspect_at.min(until);
        self.sources.relay_at = self.now + self.config.lease_max_us;
        self.ready.notices.push(Notice::Host { host: None, term: self.hard_state.term });
    }

    // ---- attaching ----

    // R35: attaches with the end of the synced log. The message leaves after everything that is
    // being written, so that the end of the log is the end of the synced log by then.
    pub(crate) fn attach(&mut self) {
        let Some(chosen) = self.whom_to_follow() else { return };
        let is_up = self.world.links.get(&chosen.host) == Some(&LinkState::Up);
        // L6: one that was found out is not followed in this term.
        let is_blamed = chosen.term == self.hard_state.term && self.is_blamed(chosen.host);
        if chosen.host == self.me || !is_up || is_blamed {
            return;
        }
        self.attach_at(chosen.host, chosen, self.log.last());
    }

    // R35: a member that the host cannot be reached by directly, for longer than a lease, reads
    // through one who hears it. From time to time it looks for the host again.
    fn may_attach_through(&self, informant: PeerId) -> bool {
        let is_behind = |(peer, until): (PeerId, Instant)| peer == informant && self.now < until;
        self.part.attached().is_none()
            && matches!(self.part, Part::Follower(_))
            && (planted(Bug::RelayedAtOnce) || self.now >= self.sources.relay_at)
            && !self.sources.relay_behind.is_some_and(is_behind)
            && !self.is_blamed(informant)
            && self.world.links.get(&informant) == Some(&LinkState::Up)
    }

    /// Who hosts, as far as this peer reads of it: one in a later term reads on through others.
    pub(crate) fn host_read(&self) -> Option<PeerId> {
        let read = self.part.attached().filter(|attached| attached.is_proven);
        self.host().or(read.map(|attached| attached.host))
    }

    /// Whether the log comes from the host itself.
    pub(super) fn is_attached_to_host(&self) -> bool {
        self.part.attached().is_some_and(|attached| {
            Some(attached.source) == self.host() && attached.term == self.hard_state.term
        })
    }

    pub(super) fn attach_at(&mut self, source: PeerId, reign: Hint, look: Position) {
        let Hint { host, term } = reign;
        self.sources.attach_count += 1;
        // L8: another host may know better.
        self.is_over_quota = false;
        let attach = self.sources.attach_count;
        let is_followed = self.host() == Some(host) && term == self.hard_state.term;
        self.part.attach(Attached {
            source,
            host,
            term,
            is_proven: is_followed || self.has_reign(host, term),
            reign: None,
            trial: None,
            early: None,
            attach,
            look,
            since: self.now,
            patience_us: self.first_patience(),
            matched: None,
            end: None,
            caught_up: false,
            heartbeat: 0,
            holes: 0,
            acknowledge: false,
            echo: false,
            reported: None,
            told_past: None,
            interval_us: 0,
        });
        self.outbox.resend_all();
        let relay = source != host;
        self.send(source, Body::Attach(Attach { term, attach, look, relay }));
    }

    // ---- what comes before the proof ----

    /// Takes note of the reign that the source shows. Whether it is one.
    pub(super) fn note_reign(&mut self, append: &Append) -> bool {
        let Some(attached) = self.part.attached_mut() else { return false };
        let Some(reign) = append.reign.as_ref().filter(|_| attached.reign.is_none()) else {
            return true;
        };
        if !begins(reign, attached.host, attached.term) {
            let (source, is_proven) = (attached.source, attached.is_proven);
            match is_proven {
                true => self.blame(source, Offence::AnotherReign),
                false => self.distrust(),
            }
            return false;
        }
        attached.reign = Some(Arc::clone(reign));
        let is_proven = attached.is_proven;
        if !is_proven && self.proves(reign) {
            self.settle();
        }
        true
    }

    /// What this peer reads is a reign: it is followed, unless it is over.
    fn settle(&mut self) {
        let Some(mut attached) = self.part.detach() else { return };
        let (host, term, early) = (attached.host, attached.term, attached.early.take());
        attached.is_proven = true;
        if term >= self.hard_state.term {
            if attached.reign.is_some() {
                self.sources.reign.clone_from(&attached.reign);
            }
            self.follow(host, term);
        }
        self.part.attach(attached);
        // Heartbeats and the log come over different streams.
        let early = early.filter(|(_, at)| self.now.since(*at) <= self.config.heartbeat_us);
        if let Some((heartbeat, _)) = early.filter(|_| self.is_attached_to_host()) {
            self.take_heartbeat(host, &heartbeat);
        }
    }

    // L3: nothing of a reign that is not proven enters the log. It is kept beside it until the
    // voters that it names are those who have chosen the host.
    /// Takes entries of such a reign. Gives what may enter the log now, once that is proven.
    pub(super) fn try_entries(&mut self, append: &Append) -> Option<Vec<Arc<Entry>>> {
        let mut attached = self.part.detach()?;
        let source = attached.source;
        let begun = attached.trial.take().or_else(|| {
            let reading = self.log.reading_from(append.previous.index)?;
            Some(Trial { reading, entries: Vec::new(), bytes: 0 })
        });
        let follows = |trial: &Trial| trial.reading.last == append.previous;
        let Some(mut trial) = begun.filter(follows) else {
            // Something before it is lost.
            self.part.attach(attached);
            self.detach_from(source);
            return None;
        };
        let mut is_proven = false;
        for entry in &append.entries {
            let head = trial.reading.head();
            let is_first = trial.entries.is_empty();
            let differs = entry.previous != head.end.hash && entry.index == head.end.last.index + 1;
            if is_first && differs && head.end.last.index > self.log.commit() {
                // L6: an earlier host may have shown two histories.
                self.part.attach(attached);
                self.on_broken_chain(source, entry, head.end.last.index);
                return None;
            }
            if !trial.reading.read(entry) {
                self.part.attach(attached);
                self.distrust();
                return None;
            }
            trial.bytes += entry.size();
            trial.entries.push(Arc::clone(entry));
            let voters = trial.reading.voters();
            let begins = begins(entry, attached.host, attached.term) && self.is_of_here(entry);
            let is_vouched =
                |reign: &Arc<Entry>| self.is_of_here(reign) && is_vouched_for(reign, voters);
            is_proven |= begins || attached.reign.as_ref().is_some_and(is_vouched);
        }
        attached.since = self.now;
        attached.acknowledge = true;
        if !is_proven {
            let bytes_max = TRIAL_WINDOWS.saturating_mul(self.config.window_bytes);
            if trial.bytes > bytes_max && !planted(Bug::TrialUnbounded) {
                self.part.attach(attached);
                self.shorten_trial(&trial.entries);
            } else {
                attached.trial = Some(trial);
                self.part.attach(attached);
            }
            return None;
        }
        self.part.attach(attached);
        self.settle();
        Some(trial.entries)
    }

    /// So much has come without the proof that it cannot be held any longer. An earlier reign among
    /// it vouches for what came before that one: this is adopted (R10), and what follows is asked
    /// for anew. Where there is none, the claim is given up.
    fn shorten_trial(&mut self, entries: &[Arc<Entry>]) {
        let Some(attached) = self.part.attached() else { return };
        let (source, claim) = (attached.source, Hint { host: attached.host, term: attached.term });
        let own = self.log.last().term;
        let is_further =
            |it: &Arc<Entry>| it.term > own && matches!(it.payload, Payload::TermStart(_));
        let through = entries.iter().rposition(is_further);
        let through = through.filter(|_| matches!(self.part, Part::Follower(_)));
        match through {
            Some(through) if self.adopt(source, &entries[..=through]) => {
                self.attach_at(source, claim, self.log.last());
            }
            _ => self.give_up_claim(false),
        }
    }
}
