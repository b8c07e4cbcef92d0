//! What was met and worked out before.
//!
//! There are far fewer situations of one peer than of three, so equal peers and messages are kept
//! once and shared by all states, and what a peer does about a thing is worked out once.
//!
//! That is right only if peers in equal situations really do the same. So some of those that are
//! taken for equal are compared in what they do next (`Compared`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use demes_protocol::message::{Body, Message};
use demes_protocol::situation::Scale;
use demes_protocol::types::Payload;

use crate::key::Key;
use crate::peer::{Around, Effect, Input, PEERS, Parcel, Peer};

/// What came of an input: the peer afterwards, and the rest.
pub type Outcome = (Arc<Peer>, Arc<[Effect]>);

/// One of so many peers that are taken for known ones is compared with that.
const COMPARE_EVERY: u64 = 32;

pub struct Memory {
    keeps: bool,
    tables: Mutex<Tables>,
    merged: AtomicU64,
    compared: AtomicU64,
    different: AtomicU64,
}

/// What was met so far.
pub struct Sizes {
    pub peers: usize,
    pub messages: usize,
    /// Peers that were compared with the one that they are taken for, and those that did otherwise.
    pub compared: u64,
    pub different: u64,
}

#[derive(Default)]
struct Tables {
    peers: HashMap<Key, Arc<Peer>>,
    parcels: HashMap<Key, Arc<Parcel>>,
    outcomes: HashMap<(u32, Name), Outcome>,
}

/// An input by its name.
#[derive(PartialEq, Eq, Hash)]
enum Name {
    Hear(u32),
    /// So long after what the clock shows.
    Tick(u64),
    Sync,
    Start,
    Connect(usize),
    Disconnect(usize),
    Refused(usize),
    Detach(usize),
    Crash,
    Wipe,
    PutBack,
    Propose(Payload),
    HandOver(usize),
    Stop,
}

impl Name {
    fn of(input: &Input, peer: &Peer) -> Self {
        match input {
            Input::Hear(parcel) => Name::Hear(parcel.number),
            Input::Tick { at } => Name::Tick(at - peer.now),
            Input::Sync => Name::Sync,
            Input::Start => Name::Start,
            Input::Connect(q) => Name::Connect(*q),
            Input::Disconnect(q) => Name::Disconnect(*q),
            Input::Refused(q) => Name::Refused(*q),
            Input::Detach(q) => Name::Detach(*q),
            Input::Crash => Name::Crash,
            Input::Wipe => Name::Wipe,
            Input::PutBack => Name::PutBack,
            Input::Propose(payload) => Name::Propose(payload.clone()),
            Input::HandOver(q) => Name::HandOver(*q),
            Input::Stop => Name::Stop,
        }
    }
}

impl Memory {
    pub fn new() -> Self {
        let (merged, compared, different) = Default::default();
        Self { keeps: true, tables: Mutex::default(), merged, compared, different }
    }

    /// One that takes no situation for another, so that what is far away comes nearer.
    pub fn none() -> Self {
        Self { keeps: false, ..Self::new() }
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        // A replica that panics does so before anything is changed here.
        self.tables.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What comes of `input` at `peer`.
    pub fn outcome(&self, peer: &Arc<Peer>, input: &Input, around: &Around<'_>) -> Outcome {
        if !self.keeps {
            let (after, effects) = Peer::clone(peer).happen(input, around);
            return (Arc::new(after), effects.into());
        }
        let name = (peer.number, Name::of(input, peer));
        let known = self.tables().outcomes.get(&name).cloned();
        known.unwrap_or_else(|| {
            let (after, effects) = Peer::clone(peer).happen(input, around);
            self.compare(&after, around);
            let outcome = (self.peer(after), effects.into());
            self.tables().outcomes.insert(name, outcome.clone());
            outcome
        })
    }

    /// Looks, now and then, whether a peer does the same as the known one that it is taken for.
    fn compare(&self, peer: &Peer, around: &Around<'_>) {
        let known = self.tables().peers.get(&peer.key).cloned();
        let Some(known) = known else { return };
        if !self.merged.fetch_add(1, Ordering::Relaxed).is_multiple_of(COMPARE_EVERY) {
            return;
        }
        let tick = |peer: &Peer| Input::Tick { at: peer.timeout().unwrap_or(peer.now) };
        let is_same = do_the_same([(&known, &tick(&known)), (peer, &tick(peer))], around)
            && do_the_same([(&known, &Input::Sync), (peer, &Input::Sync)], around)
            && (0..PEERS).all(|q| {
                let connect = Input::Connect(q);
                do_the_same([(&known, &connect), (peer, &connect)], around)
            });
        self.compared.fetch_add(1, Ordering::Relaxed);
        self.different.fetch_add(u64::from(!is_same), Ordering::Relaxed);
    }

    /// The peer that is in the same situation as this one.
    pub fn peer(&self, mut peer: Peer) -> Arc<Peer> {
        let peers = &mut self.tables().peers;
        peer.number = peers.len() as u32;
        Arc::clone(peers.entry(peer.key.clone()).or_insert_with(|| Arc::new(peer)))
    }

    /// The message on its way that is equal to this one.
    pub fn parcel(&self, message: Message, scale: Scale) -> Arc<Parcel> {
        let key = Key::of_message(&message, scale);
        let parcels = &mut self.tables().parcels;
        let number = parcels.len() as u32;
        let parcel = || Arc::new(Parcel { message, key: key.clone(), number });
        Arc::clone(parcels.entry(key.clone()).or_insert_with(parcel))
    }

    pub fn sizes(&self) -> Sizes {
        let tables = self.tables();
        Sizes {
            peers: tables.peers.len(),
            messages: tables.parcels.len(),
            compared: self.compared.load(Ordering::Relaxed),
            different: self.different.load(Ordering::Relaxed),
        }
    }
}

/// Whether the same comes of both. Whom to ask first is left to chance, and is no difference.
fn do_the_same(both: [(&Peer, &Input); 2], around: &Around<'_>) -> bool {
    let asks = |message: &Message| matches!(message.body, Body::FindHost);
    let [one, other] = both.map(|(peer, input)| {
        let (after, effects) = peer.clone().happen(input, around);
        let will_ask = after.disk.pending.iter().flat_map(|ready| &ready.messages).any(asks);
        let said = effects.iter().filter_map(|effect| match effect {
            Effect::Send(parcel) if !asks(&parcel.message) => Some(parcel.number),
            _ => None,
        });
        (Some(after.key).filter(|_| !will_ask), said.collect::<Vec<_>>())
    });
    one == other
}
