//! By what peers and messages are told apart: their situations, never clocks or counts as such.
//!
//! See `demes_protocol::situation`. A key is a hash of what matters and a list of the numbers that
//! several peers know. Numbers are compared as they are within a part, so that equal parts can be
//! shared, and by their order only between whole states (see `state.rs`).

use std::hash::{DefaultHasher, Hash, Hasher};

use demes_protocol::event::Persist;
use demes_protocol::message::{Append, Body, FetchLogAnswer, Heartbeat, HostAlive, Message};
use demes_protocol::situation::{Count, Scale, Situation};

use crate::peer::Peer;

/// Clocks show multiples of this.
pub const QUANTUM_US: u64 = 1_000_000;
/// What is this far ahead never comes due.
pub const FAR_US: u64 = 100 * QUANTUM_US;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Key {
    pub hash: u64,
    pub counts: Vec<Count>,
}

type Part = Situation<DefaultHasher>;

fn key(scale: Scale, add: impl FnOnce(&mut Part)) -> Key {
    let mut part = Situation::new(DefaultHasher::new(), scale);
    add(&mut part);
    Key { hash: part.hasher.finish(), counts: part.counts }
}

impl Key {
    pub fn of_message(message: &Message, scale: Scale) -> Self {
        key(scale, |part| add_message(part, message))
    }

    /// Everything of a peer but its clock.
    pub fn of_peer(peer: &Peer, scale: Scale) -> Self {
        key(scale, |part| add_peer(part, peer))
    }
}

fn add_peer(part: &mut Part, peer: &Peer) {
    let Peer {
        id,
        now: _,
        replica,
        disk,
        gone,
        joining,
        lost,
        put_back,
        handed,
        term: _,
        hosts: _,
        ..
    } = peer;
    (id.0[0], gone, joining, handed, replica.is_some()).hash(&mut part.hasher);
    if let Some(replica) = replica {
        replica.situation(part);
    }
    let lost = lost.as_ref().map(|image| (image.incarnation, image.entries.last().map(|e| e.hash)));
    (lost, put_back).hash(&mut part.hasher);
    let image = &disk.image;
    let last = image.entries.last().map(|entry| (entry.index, entry.hash));
    let (state, read) = (image.hard_state, image.read);
    (image.incarnation, image.boot, state, last, image.commit, read, image.removed_by)
        .hash(&mut part.hasher);
    (&image.pasts, image.furthest).hash(&mut part.hasher);
    (&image.outbox, image.last_number, disk.pending.len()).hash(&mut part.hasher);
    for ready in &disk.pending {
        // Their numbers follow one another.
        add_persist(part, &ready.persist);
        ready.messages.len().hash(&mut part.hasher);
        for message in &ready.messages {
            add_message(part, message);
        }
        ready.persisted_notices.hash(&mut part.hasher);
    }
}

fn add_persist(part: &mut Part, persist: &Persist) {
    let into = &mut part.hasher;
    (persist.hard_state, persist.truncate_from, persist.entries.len()).hash(into);
    persist.furthest.hash(into);
    for entry in &persist.entries {
        entry.hash.hash(into);
    }
    (&persist.outbox_put, persist.outbox_remove_through, persist.commit).hash(into);
    (persist.checkpoint.is_some(), persist.read, persist.removed_by).hash(into);
    persist.pasts.hash(into);
}

/// For how long a host is alive, and what is for showing, changes nothing that a receiver does.
fn add_message(part: &mut Part, message: &Message) {
    let Message {
        from,
        from_incarnation,
        from_boot,
        to,
        to_incarnation,
        generation,
        call,
        words,
        body,
    } = message;
    let into = &mut part.hasher;
    words.hash(into);
    (from.0[0], from_incarnation, from_boot, to.0[0], to_incarnation, generation, call).hash(into);
    std::mem::discriminant(body).hash(into);
    body.term().hash(into);
    let alive = |alive: Option<HostAlive>| alive.map(|alive| (alive.host, alive.term));
    match body {
        Body::Attach(body) => {
            (body.look, body.relay).hash(into);
            part.counts.push(Count::Attach { member: *from, number: body.attach });
        }
        Body::Append(body) => {
            let Append { term: _, attach, previous, entries, commit, past, reign, last } = body;
            (previous, entries.len(), commit, past, last).hash(into);
            reign.as_ref().map(|reign| reign.hash).hash(into);
            for entry in entries {
                entry.hash.hash(into);
            }
            part.counts.push(Count::Attach { member: *to, number: *attach });
        }
        Body::LookBack(body) => {
            body.index.hash(into);
            part.counts.push(Count::Attach { member: *to, number: body.attach });
        }
        Body::Heartbeat(body) => {
            // All leases are alike here.
            let Heartbeat { sent_us: _, lease_us: _, .. } = body;
            let Heartbeat {
                term,
                number,
                interval_us,
                probe,
                commit,
                positions,
                pasts,
                ranking,
                ..
            } = body;
            (interval_us, probe, commit, positions, pasts).hash(into);
            ranking.as_ref().map(|ranking| (ranking.term, ranking.version)).hash(into);
            part.counts.push(Count::Heartbeat { term: *term, number: *number });
        }
        Body::Acknowledge(body) => {
            (body.synced, body.received, body.receipt, body.ranking_version).hash(into);
            part.counts.push(Count::Attach { member: *from, number: body.attach });
            part.counts.push(Count::Heartbeat { term: body.term, number: body.heartbeat });
        }
        Body::FetchLog(body) => {
            body.look.hash(into);
            part.counts.push(Count::Fetch { member: *from, number: body.fetch });
        }
        Body::FetchLogAnswer(body) => {
            let FetchLogAnswer { term: _, fetch, previous, entries, last, look_back } = body;
            (previous, entries.len(), last, look_back).hash(into);
            for entry in entries {
                entry.hash.hash(into);
            }
            part.counts.push(Count::Fetch { member: *to, number: *fetch });
        }
        Body::Announce(body) => body.reign.as_ref().map(|reign| reign.hash).hash(into),
        Body::RequestVote(body) => {
            // What the host signs is as good as who it is.
            let hand_over =
                body.hand_over.map(|it| (it.host, it.host_incarnation, it.term, it.target));
            (body.end, hand_over, body.past).hash(into);
        }
        Body::NominateAnswer(body) => alive(body.host_alive).hash(into),
        Body::SolicitAnswer(body) => {
            (body.nominated, body.last, body.in_doubt, alive(body.host_alive)).hash(into);
        }
        Body::Vote(body) => (body.granted.is_some(), alive(body.host_alive)).hash(into),
        other => other.hash(into),
    }
}
