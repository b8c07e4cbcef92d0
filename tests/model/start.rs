//! The states that exploration begins with: a chat of three that has grown up in the usual way.

use std::sync::Arc;

use demes_protocol::Replica;
use demes_protocol::config::Config;
use demes_protocol::founding::founding_entry;
use demes_protocol::message::Body;

use crate::chat::Bounds;
use crate::history::{History, Sights};
use crate::key::SCALE;
use crate::memory::Memory;
use crate::peer::{Input, PEERS, Peer, first_incarnation, id, invitation, join};
use crate::state::{Left, State};
use crate::step::Step;

const SECOND: u64 = 1_000_000;
/// Delays are reported and ranks published once while the chat grows, and never afterwards.
const REPORT_US: u64 = 10_000 * SECOND;
/// Rounds of time after which a chat that has not grown up never will.
const ROUNDS_MAX: usize = 100_000;

/// All spans are multiples of a second, so that timers of different kinds come due together and
/// clocks have few positions; what is only told in passing is put far away.
pub fn config() -> Config {
    Config {
        heartbeat_us: SECOND,
        heartbeat_far_us: SECOND,
        heartbeat_idle_us: SECOND,
        lease_min_us: 3 * SECOND,
        lease_max_us: 3 * SECOND,
        round_min_us: SECOND,
        // The drawn part of a back-off is always one microsecond.
        fallback_min_us: 1,
        fallback_max_us: 1,
        report_us: REPORT_US,
        publish_us: 100 * REPORT_US,
        resend_min_us: 3 * SECOND,
        resend_max_us: 3 * SECOND,
        flush_us: REPORT_US,
        ..Config::default()
    }
}

/// Three members that all vote, the first hosting in term 1, with a published ranking 1 2 3;
/// everything is synced, committed and known to all.
pub fn grown(left: Left, memory: &Memory) -> State {
    let bounds = Bounds {
        config: config(),
        terms_max: 1,
        entries_max: 0,
        in_flight_max: 0,
        at_once: |_: &Body| true,
        syncs_at_once: true,
        sights: &[],
    };
    let none = Memory::none();
    let change = |state: State, what: &dyn Fn(&mut Step<'_>)| {
        let mut step = Step::new(state, &bounds, &none, false);
        what(&mut step);
        step.end().0
    };
    let mut state = change(founded(), &|step| step.start(0));
    state = pass(state, change, |state| state.history.last() > 1);
    for p in 1..PEERS {
        state = change(state, &|step| step.happen(0, &Input::Propose(invitation(p))));
        while state.peers[p].replica.is_none() {
            let join = none.parcel(join(&state.peers[p], 0));
            state = change(state, &|step| step.send(&join));
        }
    }
    state = pass(state, change, |state| state.peers.iter().all(|peer| is_grown(peer)));
    assert!(state.broken.is_none(), "growing up breaks nothing");
    state.left = left;
    state.peers = state.peers.map(|peer| memory.peer(Peer::clone(&peer)));
    state
}

fn founded() -> State {
    let session = first_incarnation(id(0));
    let (chat, name, address) = ("chat".into(), "one".into(), "h:1".into());
    let (_, first) = founding_entry(id(0), session, chat, name, address, 0, |_| [0; 64]);
    let first = Arc::new(first);
    let mut history = History::default();
    history.commit(Arc::clone(&first), 0).expect("it is the first entry");
    let peer = |p: usize| {
        let entries = if p == 0 { vec![Arc::clone(&first)] } else { Vec::new() };
        let mut peer = Peer::new(p, entries);
        peer.mark();
        Arc::new(peer)
    };
    State {
        peers: [0, 1, 2].map(peer),
        network: Vec::new(),
        left: Left::default(),
        history: Arc::new(history),
        sights: Sights::default(),
        broken: None,
    }
}

fn is_grown(peer: &Peer) -> bool {
    let Some(status) = peer.replica.as_ref().map(Replica::status) else { return false };
    let candidates = &status.ranking.candidates;
    status.voters.len() == PEERS
        && status.commit == status.last
        && candidates.len() == PEERS
        && candidates.iter().all(|candidate| candidate.farness_us.is_some())
}

/// Lets timers fire, each when it is due by a common clock, until it is so.
fn pass(
    mut state: State,
    change: impl Fn(State, &dyn Fn(&mut Step<'_>)) -> State,
    until: impl Fn(&State) -> bool,
) -> State {
    for _ in 0..ROUNDS_MAX {
        if until(&state) {
            return state;
        }
        for p in 0..PEERS {
            if state.peers[p].replica.is_some() {
                let at = state.peers[p].now + SCALE.quantum_us;
                state = change(state, &|step| step.happen(p, &Input::Tick { at }));
            }
        }
    }
    panic!("the chat does not grow up")
}
