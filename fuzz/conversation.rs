//! A member of a chat of three is told anything by the two others, who hold their keys and want it
//! harm (R45). Whatever passes the checks of the edge goes into a real replica, and whatever that
//! wants done is done. The replica may stop, for a proof of a fault; it may not panic.
//!
//! Then the same is said by one of them alone, while the other is away. Whatever that was, the two
//! who are honest are a majority: once they meet, they confirm what the one says (L6).

use std::sync::Arc;

use demes::links::edge::is_genuine;
use demes::protocol::config::Config;
use demes::protocol::event::{DiskState, Event, LinkState, Notice, Proposal, Recovered};
use demes::protocol::founding::founding_entry;
use demes::protocol::log::Checkpoint;
use demes::protocol::message::{Body, Message, Vote};
use demes::protocol::reign::ballot_of;
use demes::protocol::replica::Replica;
use demes::protocol::sign::{
    Signer, needs_signature, signed_entry, signed_hand_over, signed_submission, signed_vote,
};
use demes::protocol::time::Instant;
use demes::protocol::types::{
    Ballot, ChatId, Course, End, Entry, HardState, Hash, Membership, Payload, PeerId, Position,
    Reign, SignedVote, VoterSet,
};
use demes::wire::message::Header;
use ed25519_dalek::{Signer as _, SigningKey};

use super::{parse_request, parse_response};

/// The most that happens in one conversation.
const STEPS_MAX: usize = 200;
/// For so long two who are honest may need to find each other and a host.
const HONEST_US: u64 = 60_000_000;
const STEP_US: u64 = 20_000;
/// So many ways there and back fit into a step.
const ROUNDS: usize = 4;

/// Takes a conversation: steps of a kind, an argument and, for messages, their length and bytes.
/// Says whether any message was taken in.
pub fn conversation(bytes: &[u8]) -> bool {
    let talk = hold(bytes, &[1, 2]);
    hold(bytes, &[2]).goes_on();
    talk.taken > 0
}

fn hold(bytes: &[u8], liars: &'static [u8]) -> Talk {
    let mut talk = Talk::new(3, liars, Instant(0));
    for number in [1, 2] {
        talk.handle(Event::Link { peer: peer(number), state: LinkState::Up });
    }
    let mut rest = bytes;
    for _ in 0..STEPS_MAX {
        let Some(([kind, argument], after)) = rest.split_first_chunk() else { break };
        rest = after;
        match kind % 8 {
            // Most steps are messages.
            0..4 => {
                let Some((length, after)) = rest.split_first_chunk() else { break };
                let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
                let (message, after) = after.split_at(length);
                rest = after;
                talk.message(*kind, *argument, message);
            }
            4 => talk.passes(u64::from(*argument) * 10_000),
            5 => talk.link(*argument),
            6 => talk.person(*argument),
            _ => talk.sync(),
        }
    }
    talk
}

/// The three, by number. Their keys are no secret here.
fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// The peer of that number.
pub fn peer(number: u8) -> PeerId {
    PeerId(key(number).verifying_key().to_bytes())
}

/// The incarnation of that peer.
pub fn incarnation(number: u8) -> u64 {
    1_000 + u64::from(number)
}

/// Peer 1 founded it, and all three vote.
pub fn chat() -> (ChatId, Vec<Arc<Entry>>) {
    let (chat, first) = founding_entry(
        peer(1),
        incarnation(1),
        "chat".into(),
        "one".into(),
        "a.example:1".into(),
        0,
        |signed| key(1).sign(signed).to_bytes(),
    );
    let mut entries = vec![Arc::new(first)];
    let mut append = |author: u8, payload: Payload| {
        let last = entries.last().expect("there is a first one");
        let mut entry = Entry {
            index: last.index + 1,
            term: 1,
            author: peer(author),
            incarnation: incarnation(author),
            number: 0,
            generation: 0,
            created_at_ms: 0,
            trace: None,
            payload,
            signature: None,
            previous: last.hash,
            hash: Hash::default(),
        };
        sign_entry(chat, &mut entry, &[1, 2, 3]);
        entries.push(Arc::new(entry));
    };
    append(1, Payload::TermStart(Reign::default()));
    for number in [2, 3] {
        let (address, name) = (format!("b{number}.example:1"), format!("{number}"));
        let invited = Membership::Invited { peer: peer(number), address: address.clone() };
        append(1, Payload::Membership(invited));
        let joined = Membership::Joined { name, address, proof: None };
        append(number, Payload::Membership(joined));
        let voters = (1..=number).map(|number| (peer(number), incarnation(number)));
        append(1, Payload::VoterChange(VoterSet(voters.collect())));
    }
    (chat, entries)
}

/// Gives an entry the hash, and the signatures, that it would have of these.
fn sign_entry(chat: ChatId, entry: &mut Entry, signers: &[u8]) {
    if let Payload::TermStart(Reign { last_term, .. }) = entry.payload {
        let ballot = ballot_of(entry, &Reign { last_term, ..Reign::default() });
        let vote = |number| {
            let incarnation = incarnation(number);
            let signed = signed_vote(chat, &ballot, peer(number), incarnation);
            (
                peer(number),
                SignedVote { incarnation, signature: key(number).sign(&signed).to_bytes() },
            )
        };
        entry.payload = Payload::TermStart(Reign {
            last_term,
            // The third is the one that is told.
            votes: signers.iter().copied().filter(|number| *number != 3).map(vote).collect(),
        });
    }
    if let Some(key) = key_of(&entry.author, signers)
        && needs_signature(&entry.payload)
    {
        entry.signature = Some(key.sign(&signed_entry(chat, entry)).to_bytes());
    }
    entry.hash = entry.computed_hash();
}

fn key_of(wanted: &PeerId, numbers: &[u8]) -> Option<SigningKey> {
    numbers.iter().copied().find(|number| peer(*number) == *wanted).map(key)
}

struct Talk {
    chat: ChatId,
    number: u8,
    /// Who says what the bytes make up.
    liars: &'static [u8],
    replica: Replica,
    now: Instant,
    /// `Ready`s that are not durable yet.
    unsynced: Vec<u64>,
    /// Every entry that the replica has written, for what it loads.
    stored: Vec<Arc<Entry>>,
    /// How many messages have passed the edge.
    taken: usize,
    /// What the replica has sent.
    sent: Vec<Message>,
    /// The last of its own words that is confirmed.
    confirmed: u64,
}

impl Talk {
    fn new(number: u8, liars: &'static [u8], now: Instant) -> Self {
        let (chat, entries) = chat();
        let recovered = Recovered {
            incarnation: incarnation(number),
            boot: 1,
            generation: 0,
            hard_state: HardState { term: 1, vote: None },
            checkpoint: Checkpoint::default(),
            commit: entries.len() as u64,
            entries: entries.clone(),
            outbox: Vec::new(),
            last_number: 0,
            read: 0,
            removed_by: None,
            furthest: Position::default(),
            pasts: Default::default(),
            evidence: Default::default(),
            tail_in_doubt: false,
        };
        let signer = Signer::new(chat, move |bytes| key(number).sign(bytes).to_bytes());
        let replica = Replica::new(Config::default(), peer(number), signer, recovered, now, 7);
        Self {
            chat,
            number,
            liars,
            replica,
            now,
            unsynced: Vec::new(),
            stored: entries,
            taken: 0,
            sent: Vec::new(),
            confirmed: 0,
        }
    }

    /// A message of one of the two others; its text may claim anything.
    fn message(&mut self, kind: u8, argument: u8, bytes: &[u8]) {
        let parsed =
            if kind.is_multiple_of(2) { parse_request(bytes) } else { parse_response(bytes) };
        let Some((header, mut body)) = parsed else { return };
        let number = self.liars[usize::from(argument % 2) % self.liars.len()];
        let header = Header {
            chat: self.chat,
            // What is for another incarnation is refused at once: mostly, it is for this one.
            from_incarnation: match argument & 4 {
                0 => incarnation(number),
                _ => header.from_incarnation,
            },
            to_incarnation: if argument & 8 == 0 { incarnation(3) } else { header.to_incarnation },
            generation: if argument & 16 == 0 { 0 } else { header.generation },
            ..header
        };
        if argument & 32 == 0 {
            self.make_plausible(&header, peer(number), &mut body);
        }
        if header.check(&body).is_err() {
            return;
        }
        let mut message = header.message(peer(number), peer(3), body);
        message.call = 1;
        if is_genuine(self.chat, &message) {
            self.taken += 1;
            self.handle(Event::Message(message));
        }
    }

    /// The terms, hashes and signatures that random bytes would never hit.
    fn make_plausible(&self, header: &Header, from: PeerId, body: &mut Body) {
        let status = self.replica.status();
        let course = Course { chat: self.chat, generation: header.generation };
        match body {
            Body::Append(append) => {
                append.term = near(append.term, status.term);
                append.previous = near_position(append.previous, &self.replica);
                self.chain(append.previous.index, &mut append.entries);
            }
            Body::FetchLogAnswer(answer) => {
                answer.previous = near_position(answer.previous, &self.replica);
                self.chain(answer.previous.index, &mut answer.entries);
            }
            Body::Heartbeat(heartbeat) => heartbeat.term = near(heartbeat.term, status.term),
            Body::Announce(announce) => announce.term = near(announce.term, status.term),
            Body::Nominate(nominate) => nominate.term = near(nominate.term, status.term),
            Body::Attach(attach) => attach.term = near(attach.term, status.term),
            Body::Acknowledge(acknowledge) => {
                acknowledge.term = near(acknowledge.term, status.term);
            }
            Body::RequestVote(request) => request.term = near(request.term, status.term),
            Body::Vote(vote) => {
                vote.term = near(vote.term, status.term);
                self.vote_for(&from, header.from_incarnation, vote);
            }
            Body::HandOver(hand_over) => {
                hand_over.term = near(hand_over.term, status.term);
                hand_over.host = from;
                hand_over.host_incarnation = header.from_incarnation;
                let signed = signed_hand_over(course, hand_over);
                hand_over.signature =
                    key_of(&from, self.liars).map(|key| key.sign(&signed).to_bytes());
            }
            Body::Submit(submit) => {
                for submission in &mut submit.submissions {
                    let (number, payload) = (submission.number % 8, &submission.payload);
                    let incarnation = header.from_incarnation;
                    let signed = signed_submission(course, from, incarnation, number, payload);
                    submission.number = number;
                    submission.signature =
                        key_of(&from, self.liars).map(|key| key.sign(&signed).to_bytes());
                }
                submit.author = None;
            }
            _ => {}
        }
    }

    /// Lets entries follow the replica's own at `index`, as a host could make them.
    fn chain(&self, index: u64, entries: &mut [Arc<Entry>]) {
        let before = index.checked_sub(1).and_then(|place| self.stored.get(place as usize));
        let mut previous = before.map_or(Hash::default(), |entry| entry.hash);
        for (offset, entry) in entries.iter_mut().enumerate() {
            let entry = Arc::make_mut(entry);
            entry.index = index.saturating_add(1 + offset as u64);
            entry.term = near(entry.term, self.replica.status().term);
            entry.previous = previous;
            sign_entry(self.chat, entry, self.liars);
            previous = entry.hash;
        }
    }

    fn passes(&mut self, us: u64) {
        self.now = self.now + us;
        self.handle(Event::Tick);
    }

    fn link(&mut self, argument: u8) {
        let peer = peer(1 + argument % 2);
        let state =
            [LinkState::Up, LinkState::Down, LinkState::Refused][usize::from(argument / 2 % 3)];
        match argument & 64 {
            0 => self.handle(Event::Link { peer, state }),
            _ => self.handle(Event::RoundTrip { peer, rtt_us: u64::from(argument) * 1_000 }),
        }
    }

    fn person(&mut self, argument: u8) {
        let payload = Payload::Message {
            request_id: format!("r{argument}"),
            sealed: bytes::Bytes::from_static(b"text"),
        };
        match argument % 6 {
            0..3 if self.replica.can_propose(&payload).is_ok() => {
                let proposal = Proposal { payload, created_at_ms: 0, trace: None, signature: None };
                self.handle(Event::Propose(proposal));
            }
            3 => self.handle(Event::MarkRead { index: u64::from(argument) }),
            4 => self.handle(Event::HandOver { target: None }),
            5 => self.handle(Event::Disk(
                [DiskState::Fit, DiskState::Full][usize::from(argument / 6 % 2)],
            )),
            _ => {}
        }
    }

    fn sync(&mut self) {
        for ready in std::mem::take(&mut self.unsynced) {
            self.handle(Event::Persisted { ready, sync_us: 100 });
        }
    }

    /// A vote for the log that the replica has.
    fn vote_for(&self, from: &PeerId, from_incarnation: u64, vote: &mut Vote) {
        let Some((key, granted)) = key_of(from, self.liars).zip(vote.granted.as_mut()) else {
            return;
        };
        let end = self.stored.last().map(|entry| End {
            last: Position { term: entry.term, index: entry.index },
            hash: entry.hash,
        });
        granted.end = end.unwrap_or(granted.end);
        let (candidate, incarnation) = (peer(3), incarnation(3));
        let ballot =
            Ballot { generation: 0, term: vote.term, candidate, incarnation, end: granted.end };
        let signed = signed_vote(self.chat, &ballot, *from, from_incarnation);
        granted.signature = key.sign(&signed).to_bytes();
    }

    /// The liar falls silent, and who was away comes back: the two who are left are a majority, and
    /// confirm what this one says.
    fn goes_on(mut self) {
        self.sync();
        self.sent.clear();
        let mut other = Self::new(1, self.liars, self.now);
        self.handle(Event::Disk(DiskState::Fit));
        self.handle(Event::Link { peer: peer(2), state: LinkState::Down });
        self.handle(Event::Link { peer: peer(1), state: LinkState::Down });
        self.handle(Event::Link { peer: peer(1), state: LinkState::Up });
        other.handle(Event::Link { peer: peer(3), state: LinkState::Up });
        let payload = Payload::Message {
            request_id: "after".into(),
            sealed: bytes::Bytes::from_static(b"x"),
        };
        let number = self.replica.next_number();
        let status = self.replica.status();
        // A member may send another away, by a word that it has signed.
        if status.removed_by.is_some() || status.is_leaving {
            return;
        }
        self.handle(Event::Propose(Proposal {
            payload,
            created_at_ms: 0,
            trace: None,
            signature: None,
        }));
        for _ in 0..HONEST_US / STEP_US {
            for _ in 0..ROUNDS {
                other.hears(&mut self);
                self.hears(&mut other);
            }
            if self.confirmed >= number {
                return;
            }
            self.passes(STEP_US);
            other.passes(STEP_US);
        }
        panic!(
            "an honest majority confirms nothing any more: {:?} and {:?}",
            self.replica.status(),
            other.replica.status()
        );
    }

    /// Everything that the other has sent to it arrives, and both have written it down.
    fn hears(&mut self, other: &mut Self) {
        other.sync();
        for mut message in std::mem::take(&mut other.sent) {
            if message.to == peer(self.number) {
                message.call = 1;
                self.handle(Event::Message(message));
            }
        }
        self.sync();
    }

    /// Lets something happen, and does what the replica wants.
    fn handle(&mut self, event: Event) {
        self.replica.handle(self.now, event);
        let ready = self.replica.take_ready();
        self.sent.extend(ready.early.into_iter().chain(ready.messages));
        for notice in ready.notices.iter().chain(&ready.persisted_notices) {
            if let Notice::Confirmed { number, .. } = notice {
                self.confirmed = self.confirmed.max(*number);
            }
        }
        if let Some(from) = ready.persist.truncate_from {
            self.stored.truncate(from as usize - 1);
        }
        self.stored.extend(ready.persist.entries.iter().cloned());
        if !ready.persist.is_empty() {
            self.unsynced.push(ready.number);
        }
        for load in ready.loads {
            let range = load.from as usize - 1..(load.through as usize).min(self.stored.len());
            let entries = self.stored.get(range).unwrap_or_default().to_vec();
            self.replica.handle(self.now, Event::Loaded { load, entries });
        }
    }
}

/// A term close to the replica's, out of any number.
fn near(any: u64, term: u64) -> u64 {
    (term + any % 4).saturating_sub(1).max(1)
}

/// A position that the replica has, or nearly so, out of any.
fn near_position(
    any: demes::protocol::types::Position,
    replica: &Replica,
) -> demes::protocol::types::Position {
    let last = replica.status().last;
    let index = (last + 2).saturating_sub(any.index % (last + 3));
    let term = replica.log().term_at(index).unwrap_or(any.term);
    demes::protocol::types::Position { term, index }
}

/// The message as bytes of a conversation: what `Talk::message` reads.
#[allow(dead_code, reason = "only the test makes seeds")]
pub fn step(kind: u8, argument: u8, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("seeds are short").to_le_bytes();
    [&[kind, argument], &length[..], message].concat()
}

#[allow(dead_code, reason = "only the test makes seeds")]
pub fn message_of(from: u8, body: Body) -> Message {
    let (from_incarnation, to_incarnation) = (incarnation(from), incarnation(3));
    Message {
        from: peer(from),
        from_incarnation,
        from_boot: 1,
        to: peer(3),
        to_incarnation,
        generation: 0,
        call: 1,
        words: Vec::new(),
        body,
    }
}
