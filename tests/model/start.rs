//! The states that exploration begins with: a chat of three that has grown up in the usual way.

use std::collections::VecDeque;
use std::sync::Arc;

use demes_protocol::Replica;
use demes_protocol::config::Config;
use demes_protocol::founding::founding_entry;
use demes_protocol::message::Body;
use demes_protocol::situation::Scale;
use demes_protocol::types::{Membership, Payload, Position};

use crate::chat::{Bounds, Travel};
use crate::configurations::changes_voters;
use crate::history::{History, Sights};
use crate::key::{FAR_US, QUANTUM_US};
use crate::memory::Memory;
use crate::peer::{Input, PEERS, Peer, first_incarnation, id, invitation, join};
use crate::state::{Left, State, Sync};
use crate::step::Step;

/// Delays are reported and ranks published once while the chat grows, and never afterwards.
const REPORT_US: u64 = 10_000 * QUANTUM_US;
/// Rounds of time after which a chat that has not grown up never will.
const ROUNDS_MAX: usize = 100_000;

/// How finely time is told.
#[derive(Clone, Copy)]
pub enum Time {
    /// Whatever a peer waits for comes with the next step of its clock. A host pauses after two.
    Coarse,
    /// The same, and a round of nominations is four steps: an answer is waited for over the end of
    /// a lease.
    Far,
    /// A lease is three steps, a round of nominations is one.
    Fine,
}

impl Time {
    /// Spans are such that clocks need few positions. What is only told in passing is put far
    /// away. `Config::check` does not hold: peers have clocks of their own here, so that no
    /// relation between the spans of different peers means anything.
    pub fn config(self) -> Config {
        let (heartbeat_us, lease_us, pause_percent) = match self {
            Time::Coarse | Time::Far => (QUANTUM_US / 3, QUANTUM_US, 100),
            Time::Fine => (QUANTUM_US, 3 * QUANTUM_US, 80),
        };
        let round_us = match self {
            Time::Far => 4 * QUANTUM_US,
            Time::Coarse | Time::Fine => heartbeat_us,
        };
        Config {
            heartbeat_us,
            heartbeat_far_us: heartbeat_us,
            heartbeat_idle_us: heartbeat_us,
            lease_min_us: lease_us,
            lease_max_us: lease_us,
            pause_percent,
            round_min_us: round_us,
            // The drawn part of a back-off is always one microsecond.
            fallback_min_us: 1,
            fallback_max_us: 1,
            report_us: REPORT_US,
            publish_us: 100 * REPORT_US,
            resend_min_us: lease_us,
            resend_max_us: lease_us,
            flush_us: REPORT_US,
            // Silence takes no vote out in a chat of three.
            silent_critical_us: REPORT_US,
            silent_us: REPORT_US,
            back_us: 1,
            back_max_us: 1,
            tenure_us: REPORT_US,
            move_every_us: REPORT_US,
            ..Config::default()
        }
    }

    /// Nothing looks back further than a host does before it pauses.
    pub fn scale(self) -> Scale {
        let past_us = match self {
            Time::Coarse | Time::Far => 2 * QUANTUM_US,
            Time::Fine => 3 * QUANTUM_US,
        };
        Scale { quantum_us: QUANTUM_US, past_us, future_us: FAR_US }
    }
}

/// Which chat there is at first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// One member hosts in term 1 and has invited the other two, who have not come yet.
    Alone,
    /// Three members that all vote, the first hosting in term 1, with a published ranking 1 2 3.
    Grown,
    /// The same chat, later: the first member was parted from the others while it had an entry
    /// that nobody else got. The second one hosts in term 2. The first one still takes itself for
    /// the host of term 1.
    Forked,
    /// The second one hosted in term 2, and its process and the first one's ended before anybody
    /// had an entry of its. All are connected again, nobody hosts, and the three logs end
    /// differently: the first one has an entry of term 1 in the place where the second one has one
    /// of term 2, and the third one has nothing.
    Asunder,
    /// Two members want to leave. The first member, who hosts in term 1, was parted from them while
    /// it had a change of the voters that they did not get. One of them hosts in term 2.
    Changing,
}

/// That chat. Everything is synced, committed and known to all of its members.
pub fn begin(begin: Begin, time: Time, left: Left, memory: &Memory) -> State {
    let bounds = Bounds {
        config: time.config(),
        scale: time.scale(),
        terms_max: 1,
        entries_max: 0,
        held_max: 0,
        travel: |_| Travel::InTurn,
        late_syncs: false,
        hosts_say: false,
        refusals: false,
        all_stay: false,
        strict: true,
        sights: &[],
    };
    let without_entries = Bounds {
        travel: |body| match body {
            Body::Append(_) => Travel::Lost,
            _ => Travel::InTurn,
        },
        ..bounds.clone()
    };
    let none = Memory::none();
    let change_within = |bounds: &Bounds, state: State, what: &dyn Fn(&mut Step<'_>)| {
        let mut step = Step::new(state, bounds, &none, false);
        what(&mut step);
        let (state, _) = step.end();
        assert!(state.broken.is_none(), "growing up breaks {:?}", state.broken);
        state
    };
    let change = |state: State, what: &dyn Fn(&mut Step<'_>)| change_within(&bounds, state, what);
    let mut state = change(founded(bounds.scale), &|step| step.start(0));
    state = pass(state, change, |state| state.history.last() > 1);
    for p in 1..PEERS {
        state = change(state, &|step| step.happen(0, &Input::Propose(invitation(p))));
    }
    if begin != Begin::Alone {
        for p in 1..PEERS {
            while state.peers[p].replica.is_none() {
                let join = none.parcel(join(&state.peers[p], 0), bounds.scale);
                state = change(state, &|step| step.send(&join));
            }
        }
        state = pass(state, change, |state| state.peers.iter().all(|peer| has_grown(peer)));
        for p in 1..PEERS {
            let at = state.peers[p].now + REPORT_US;
            state = change(state, &|step| step.happen(p, &Input::Tick { at }));
        }
        state = pass(state, change, |state| state.peers.iter().all(|peer| is_ranked(peer)));
    }
    assert!(state.peers[0].hosts && state.peers[0].term == 1, "the founder hosts");
    if begin == Begin::Changing {
        let without_changes = Bounds {
            travel: |body| match body {
                Body::Append(append) if changes_voters(append) => Travel::Lost,
                _ => Travel::InTurn,
            },
            ..bounds.clone()
        };
        state = change_within(&without_changes, state, &|step| {
            for p in 1..PEERS {
                step.happen(p, &Input::Propose(Payload::Membership(Membership::Leaving)));
            }
        });
        let change_late = |state: State, what: &dyn Fn(&mut Step<'_>)| {
            change_within(&without_changes, state, what)
        };
        state =
            pass(state, change_late, |state| last_of(&state.peers[0]).index > state.history.last());
        state.cut = Some(0);
        for _ in 0..ROUNDS_MAX {
            if state.peers[1].hosts || state.peers[2].hosts {
                break;
            }
            for p in (1..PEERS).rev() {
                let at = state.peers[p].now + QUANTUM_US;
                state = change(state, &|step| step.happen(p, &Input::Tick { at }));
            }
        }
        assert!(state.peers[0].hosts, "it does not know of term 2");
    }
    if matches!(begin, Begin::Forked | Begin::Asunder) {
        state.cut = Some(0);
        let message = state.peers[0].message("lost");
        state = change(state, &|step| step.happen(0, &Input::Propose(message.clone())));
        let (is_whole, bounds) = match begin {
            Begin::Forked => (true, &bounds),
            _ => (false, &without_entries),
        };
        for _ in 0..ROUNDS_MAX {
            // The one who is to host comes last, when the others already want that.
            for p in (1..PEERS).rev() {
                let at = state.peers[p].now + QUANTUM_US;
                state = change_within(bounds, state, &|step| step.happen(p, &Input::Tick { at }));
            }
            if state.peers[1].hosts && (has_grown(&state.peers[1]) || !is_whole) {
                break;
            }
        }
        assert!(state.peers[0].hosts && state.peers[1].hosts, "each of two terms has its host");
    }
    if begin == Begin::Asunder {
        for host in 0..=1 {
            state = change(state, &|step| step.crash(host));
        }
        state = change(state, &|step| step.mend());
        for host in 0..=1 {
            state = change(state, &|step| step.start(host));
        }
        assert!(state.peers.iter().all(|peer| !peer.hosts), "nobody hosts");
        let ends: Vec<_> = state.peers.iter().map(|peer| last_of(peer).term).collect();
        assert_eq!(ends, [1, 2, 1], "two ends");
        assert_eq!(last_of(&state.peers[0]).index, last_of(&state.peers[2]).index + 1, "three");
    }
    state.left = left;
    // What a step showed on the way is no sight of what is explored.
    state.sights = Sights::default();
    state.peers = state.peers.map(|peer| {
        let mut peer = Peer::clone(&peer);
        peer.copy = Some(Arc::new(peer.disk.image.clone()));
        memory.peer(peer)
    });
    state
}

fn founded(scale: Scale) -> State {
    let incarnation = first_incarnation(id(0));
    let (chat, name, address) = ("chat".into(), "one".into(), "h:1".into());
    let (_, first) = founding_entry(id(0), incarnation, chat, name, address, 0, |_| [0; 64]);
    let first = Arc::new(first);
    let mut history = History::default();
    history.commit(Arc::clone(&first), 0).expect("it is the first entry");
    let peer = |p: usize| {
        let entries = if p == 0 { vec![Arc::clone(&first)] } else { Vec::new() };
        let mut peer = Peer::new(p, entries);
        peer.mark(scale);
        Arc::new(peer)
    };
    State {
        peers: [0, 1, 2].map(peer),
        due: VecDeque::new(),
        held: Vec::new(),
        disks: [Sync::Idle; PEERS],
        cut: None,
        left: Left::default(),
        history: Arc::new(history),
        sights: Sights::default(),
        broken: None,
    }
}

fn has_grown(peer: &Peer) -> bool {
    let status = peer.replica.as_ref().map(Replica::status).unwrap_or_default();
    status.voters.len() == PEERS && status.commit == status.last
}

fn last_of(peer: &Peer) -> Position {
    peer.replica.as_ref().map(|replica| replica.log().last()).unwrap_or_default()
}

fn is_ranked(peer: &Peer) -> bool {
    let status = peer.replica.as_ref().map(Replica::status).unwrap_or_default();
    let candidates = &status.ranking.candidates;
    candidates.len() == PEERS && candidates.iter().all(|one| one.farness_us.is_some())
}

/// Lets the host's time pass until it is so. The others' clocks stand still meanwhile, so that
/// nobody misses it.
fn pass(
    mut state: State,
    change: impl Fn(State, &dyn Fn(&mut Step<'_>)) -> State,
    until: impl Fn(&State) -> bool,
) -> State {
    for _ in 0..ROUNDS_MAX {
        if until(&state) {
            return state;
        }
        let at = state.peers[0].now + QUANTUM_US;
        state = change(state, &|step| step.happen(0, &Input::Tick { at }));
    }
    panic!("the chat does not grow up")
}
