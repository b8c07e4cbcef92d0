//! What was met and worked out before.
//!
//! There are far fewer situations of one peer than of three, so equal peers and messages are kept
//! once and shared by all states, and what a peer does about a thing is worked out once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use demes_protocol::message::Message;
use demes_protocol::situation::Scale;
use demes_protocol::types::Payload;

use crate::key::Key;
use crate::peer::{Around, Effect, Input, Parcel, Peer};

/// What came of an input: the peer afterwards, and the rest.
pub type Outcome = (Arc<Peer>, Arc<[Effect]>);

pub struct Memory {
    keeps: bool,
    tables: Mutex<Tables>,
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
            Input::Propose(payload) => Name::Propose(payload.clone()),
            Input::HandOver(q) => Name::HandOver(*q),
            Input::Stop => Name::Stop,
        }
    }
}

impl Memory {
    pub fn new() -> Self {
        Self { keeps: true, tables: Mutex::default() }
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
            let outcome = (self.peer(after), effects.into());
            self.tables().outcomes.insert(name, outcome.clone());
            outcome
        })
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

    /// How many peers, messages and outcomes are known.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let tables = self.tables();
        (tables.peers.len(), tables.parcels.len(), tables.outcomes.len())
    }
}
