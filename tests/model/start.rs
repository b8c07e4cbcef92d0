//! The states that exploration begins with: a chat of three that has grown up in the usual way.

use std::sync::Arc;

use demes_protocol::config::Config;
use demes_protocol::event::Event;
use demes_protocol::founding::founding_entry;
use demes_protocol::message::Body;
use demes_protocol::time::Instant;
use demes_protocol::types::{Membership, Payload};

use crate::chat::Bounds;
use crate::disk::Disk;
use crate::history::History;
use crate::state::{Key, Left, PEERS, Peer, State};
use crate::step::{Step, first_incarnation, id};

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
pub fn grown(left: Left) -> State {
    let bounds = Bounds {
        config: config(),
        left: Left::default(),
        terms_max: 1,
        entries_max: 0,
        in_flight_max: 0,
        at_once: |_: &Body| true,
        syncs_at_once: true,
        sights: &[],
    };
    let mut state = founded();
    state = change(state, &bounds, |step| step.start(0));
    state = pass(state, &bounds, |state| {
        state.history.last() > 1
    });
    for p in 1..PEERS {
        state = change(state, &bounds, |step| {
            let invited = Membership::Invited { peer: id(p), address: format!("h:{p}") };
            step.propose(0, |_| Payload::Membership(invited));
        });
        while state.peers[p].replica.is_none() {
            state = change(state, &bounds, |step| step.join(p, 0));
        }
    }
    state = pass(state, &bounds, |state| {
        state.peers.iter().all(|peer| {
            let status = peer.replica.as_ref().map(|replica| replica.status());
            status.is_some_and(|status| {
                status.voters.len() == PEERS
                    && status.commit == status.last
                    && status.ranking.candidates.len() == PEERS
                    && status.ranking.candidates.iter().all(|c| c.farness_us.is_some())
            })
        })
    });
    assert!(state.broken.is_none(), "growing up breaks nothing");
    state.left = left;
    state
}

fn founded() -> State {
    let session = first_incarnation(id(0));
    let text = String::from;
    let (_, first) =
        founding_entry(id(0), session, text("chat"), text("one"), text("h:1"), 0, |_| [0; 64]);
    let first = Arc::new(first);
    let peer = |p: usize| {
        let entries = if p == 0 { vec![Arc::clone(&first)] } else { Vec::new() };
        let mut peer = Peer {
            id: id(p),
            now: 0,
            replica: None,
            disk: Disk::new(first_incarnation(id(p)), entries),
            gone: [false; PEERS],
            joining: p > 0,
            handed: 0,
            term: 0,
            hosts: false,
            key: Key::default(),
        };
        peer.mark();
        Arc::new(peer)
    };
    let mut history = History::default();
    history.commit(Arc::clone(&first), 0).expect("it is the first entry");
    State {
        peers: [0, 1, 2].map(peer),
        network: Vec::new(),
        left: Left::default(),
        history: Arc::new(history),
        sights: Default::default(),
        broken: None,
    }
}

fn change(state: State, bounds: &Bounds, what: impl FnOnce(&mut Step<'_>)) -> State {
    let mut step = Step::new(state, bounds);
    what(&mut step);
    step.end().0
}

/// Lets timers fire in the order of one common clock until it is so.
fn pass(mut state: State, bounds: &Bounds, until: impl Fn(&State) -> bool) -> State {
    for _ in 0..ROUNDS_MAX {
        if until(&state) {
            return state;
        }
        let timeouts = state.peers.iter().enumerate().filter_map(|(p, peer)| {
            Some((peer.replica.as_ref()?.poll_timeout()?, p))
        });
        let (Instant(at), p) = timeouts.min().expect("somebody waits for something");
        state = change(state, bounds, |step| {
            for q in 0..PEERS {
                let peer = step.change(q);
                peer.now = peer.now.max(at);
            }
            step.event(p, Event::Tick);
        });
    }
    panic!("the chat does not grow up")
}
