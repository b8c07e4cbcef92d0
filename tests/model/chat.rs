//! The chat as a model: what may happen next, how far it goes, and what must hold.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use demes_protocol::config::Config;
use demes_protocol::message::Body;
use demes_protocol::situation::Scale;
use demes_protocol::types::{Index, Membership, Payload, Term};
use stateright::{Model, Property};

use crate::configurations::Configuration;
use crate::history::{Broken, Sight, Sights};
use crate::lies::{self, Liar, Lie};
use crate::memory::Memory;
use crate::peer::{Input, PEERS, id, join};
use crate::start;
use crate::state::{Item, State, Sync};
use crate::step::Step;
use crate::text;

/// What a configuration of the model leaves out.
#[derive(Clone)]
pub struct Bounds {
    pub config: Config,
    /// How moments are told apart.
    pub scale: Scale,
    pub terms_max: Term,
    /// Entries beyond those that the chat begins with.
    pub entries_max: Index,
    /// Messages and syncs that are late at once.
    pub held_max: usize,
    /// How each kind of message travels.
    pub travel: fn(&Body) -> Travel,
    /// Syncs may be late.
    pub late_syncs: bool,
    /// Only hosts write messages.
    pub hosts_say: bool,
    /// Peers may be told that another one's process is gone.
    pub refusals: bool,
    /// Nobody leaves and nobody is removed, so that no peer may believe it.
    pub all_stay: bool,
    /// What a peer must not do by itself counts as broken before anything comes of it.
    pub strict: bool,
    /// What must be met somewhere.
    pub sights: &'static [Sight],
}

/// The member in whose name lies are told.
const LIAR: usize = 2;

/// How a message travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Travel {
    /// It arrives after all that was sent before it.
    InTurn,
    /// It may be late: it arrives in turn, or at any later time, or never.
    Free,
    /// It never arrives.
    Lost,
}

/// A configuration of the model, with the states that it begins with.
pub struct Chat {
    pub bounds: Bounds,
    pub begin: Vec<State>,
    /// The last index in those.
    pub founded: Index,
    pub memory: Memory,
    /// States whose successors are looked at; those of the rest are not.
    states_max: u64,
    states: AtomicU64,
}

/// One step. Peers and messages are named by their places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// What is due first happens,
    Next,
    /// or will be late,
    Hold,
    /// or happens, and happens again later.
    Double,
    /// Nothing is due. The network parts one peer from the others, and brings it back.
    Cut(usize),
    Mend,
    /// What was late arrives,
    Deliver(usize),
    /// or is lost,
    Lose(usize),
    /// or becomes durable.
    Resume(usize),
    Tick(usize),
    Sleep(usize),
    Crash(usize),
    Restart(usize),
    Refused(usize, usize),
    Say(usize),
    HandOver(usize, usize),
    Stop(usize),
    Leave(usize),
    Wipe(usize),
    PutBack(usize),
    Join(usize, usize),
    /// Somebody tells a peer what is not so.
    Lie(Liar, Lie, usize),
}

impl Bounds {
    /// Whether something else than what is due first may happen.
    pub fn chooses(&self, state: &State) -> bool {
        let may_be_late = match state.due.front() {
            None => return true,
            Some(Item::Arrive(parcel)) => (self.travel)(&parcel.message.body) == Travel::Free,
            Some(Item::Sync(_)) => self.late_syncs,
        };
        may_be_late && (state.held() < self.held_max || state.left.crashes > 0)
    }
}

impl Chat {
    /// Of at most `states_max` states it looks at what may follow.
    pub fn new(configuration: Configuration, states_max: u64) -> Self {
        let Configuration { time, begin, left, bounds, .. } = configuration;
        let memory = Memory::new();
        let begin = start::begin(begin, time, left, &memory);
        let (founded, states) = (begin.history.last(), AtomicU64::new(0));
        Self { bounds, begin: vec![begin], founded, memory, states_max, states }
    }

    /// Whether there are no more states than those that were looked at.
    pub fn is_exhausted(&self) -> bool {
        self.states.load(Ordering::Relaxed) <= self.states_max
    }

    /// Looks at any state again, to tell a path once all is explored.
    pub fn reopen(&self) {
        self.states.store(0, Ordering::Relaxed);
    }

    /// What is done, in words.
    pub fn format(&self, state: &State, action: Action) -> String {
        match action {
            Action::Next | Action::Hold | Action::Double => match state.due.front() {
                Some(Item::Arrive(parcel)) => {
                    format!("{action:?} {}", text::message(&parcel.message))
                }
                Some(Item::Sync(p)) => format!("{action:?} sync of {}", p + 1),
                None => format!("{action:?}"),
            },
            Action::Deliver(place) => {
                format!("Deliver {}", text::message(&state.held[place].message))
            }
            Action::Lose(place) => format!("Lose {}", text::message(&state.held[place].message)),
            other => format!("{other:?}"),
        }
    }

    /// Does it, and tells what happened if that is wanted.
    pub fn step(&self, state: &State, action: Action, tell: bool) -> (State, Vec<String>) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut begin = state.clone();
            begin.sights = Sights::default();
            let mut step = Step::new(begin, &self.bounds, &self.memory, tell);
            self.act(&mut step, action);
            step.end()
        }));
        done.unwrap_or_else(|_| {
            let mut state = state.clone();
            state.broken = Some(Broken::Panic);
            (state, vec!["PANIC".into()])
        })
    }

    fn act(&self, step: &mut Step<'_>, action: Action) {
        let state = &mut step.state;
        let left = &mut state.left;
        match action {
            Action::Next => {
                step.next();
            }
            Action::Hold => step.hold(),
            Action::Double => {
                left.doubles -= 1;
                if let Some(Item::Arrive(parcel)) = state.due.front().cloned() {
                    step.next();
                    step.put_aside(parcel);
                }
            }
            Action::Deliver(place) => {
                let parcel = state.held.remove(place);
                step.arrive(parcel);
            }
            Action::Lose(place) => step.lose(place),
            Action::Resume(p) => step.sync(p),
            Action::Cut(p) => {
                left.cuts -= 1;
                state.cut = Some(p);
            }
            Action::Mend => step.mend(),
            Action::Tick(p) => {
                let at = state.peers[p].timeout().unwrap_or(0);
                step.happen(p, &Input::Tick { at });
            }
            Action::Sleep(p) => {
                left.sleeps -= 1;
                let at = state.peers[p].now + self.bounds.scale.past_us;
                step.happen(p, &Input::Tick { at });
            }
            Action::Crash(p) => {
                left.crashes -= 1;
                step.crash(p);
            }
            Action::Restart(p) => step.start(p),
            Action::Refused(p, q) => step.happen(p, &Input::Refused(q)),
            Action::Say(p) => {
                left.says -= 1;
                let payload = state.peers[p].message("message");
                step.happen(p, &Input::Propose(payload));
            }
            Action::HandOver(p, q) => {
                left.hand_overs -= 1;
                step.happen(p, &Input::HandOver(q));
            }
            Action::Stop(p) => {
                left.stops -= 1;
                step.happen(p, &Input::Stop);
            }
            Action::Leave(p) => {
                left.leaves -= 1;
                step.happen(p, &Input::Propose(Payload::Membership(Membership::Leaving)));
            }
            Action::Wipe(p) => {
                left.wipes -= 1;
                step.happen(p, &Input::Wipe);
            }
            Action::PutBack(p) => {
                left.copies -= 1;
                step.happen(p, &Input::PutBack);
            }
            Action::Lie(liar, lie, to) => {
                left.lies -= 1;
                if let Some(message) = lies::told(liar, lie, &state.peers, to) {
                    step.arrive(self.memory.parcel(message, self.bounds.scale));
                }
            }
            Action::Join(p, host) => {
                let join = self.memory.parcel(join(&state.peers[p], host), self.bounds.scale);
                step.send(&join);
            }
        }
    }
}

impl Chat {
    fn running_actions(&self, state: &State, p: usize, actions: &mut Vec<Action>) {
        let (left, peer) = (state.left, &state.peers[p]);
        if state.disks[p] == Sync::Held {
            actions.push(Action::Resume(p));
        }
        if peer.timeout().is_some() {
            actions.push(Action::Tick(p));
            if left.sleeps > 0 {
                actions.push(Action::Sleep(p));
            }
        }
        if left.crashes > 0 {
            actions.push(Action::Crash(p));
        }
        for q in 0..PEERS {
            let gone = q != p && state.peers[q].replica.is_none() && !state.are_parted(p, q);
            if self.bounds.refusals && gone && !peer.gone[q] {
                actions.push(Action::Refused(p, q));
            }
        }
        if left.says > 0 && (peer.hosts || !self.bounds.hosts_say) {
            actions.push(Action::Say(p));
        }
        if left.leaves > 0 {
            actions.push(Action::Leave(p));
        }
        if left.stops > 0 {
            actions.push(Action::Stop(p));
        }
        if left.hand_overs > 0 && peer.hosts {
            actions.extend((0..PEERS).filter(|q| *q != p).map(|q| Action::HandOver(p, q)));
        }
    }
}

impl Model for Chat {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.begin.clone()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let enough = self.states.fetch_add(1, Ordering::Relaxed) >= self.states_max;
        if enough || state.broken.is_some() {
            return;
        }
        let left = state.left;
        let room = state.held() < self.bounds.held_max;
        if let Some(first) = state.due.front() {
            actions.push(Action::Next);
            if room {
                actions.push(Action::Hold);
            }
            if room && left.doubles > 0 && matches!(first, Item::Arrive(_)) {
                actions.push(Action::Double);
            }
            if left.crashes > 0 {
                let running = (0..PEERS).filter(|p| state.peers[*p].replica.is_some());
                actions.extend(running.map(Action::Crash));
            }
            return;
        }
        for (place, parcel) in state.held.iter().enumerate() {
            if place == 0 || state.held[place - 1].key != parcel.key {
                actions.extend([Action::Deliver(place), Action::Lose(place)]);
            }
        }
        match state.cut {
            Some(_) => actions.push(Action::Mend),
            None if left.cuts > 0 => actions.extend((0..PEERS).map(Action::Cut)),
            None => {}
        }
        for to in (0..PEERS).filter(|to| left.lies > 0 && state.peers[*to].replica.is_some()) {
            let liars = [Liar::Stranger, Liar::Member(LIAR)].into_iter();
            for liar in liars.filter(|liar| *liar != Liar::Member(to)) {
                actions.extend(Lie::ALL.map(|lie| Action::Lie(liar, lie, to)));
            }
        }
        for p in 0..PEERS {
            let peer = &state.peers[p];
            if peer.replica.is_some() {
                self.running_actions(state, p, actions);
            } else if peer.joining {
                joining_actions(state, p, actions);
            } else {
                actions.push(Action::Restart(p));
                if left.wipes > 0 {
                    actions.push(Action::Wipe(p));
                }
                if left.copies > 0 && !peer.put_back {
                    actions.push(Action::PutBack(p));
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.step(state, action, false).0)
    }

    fn within_boundary(&self, state: &State) -> bool {
        let bounds = &self.bounds;
        let peers_within = state.peers.iter().all(|peer| {
            peer.replica.as_ref().is_none_or(|replica| {
                let last = replica.log().last().index;
                last <= self.founded + bounds.entries_max && peer.term <= bounds.terms_max
            })
        });
        // What is broken is looked at, wherever that is.
        peers_within || state.broken.is_some()
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = promises();
        let wanted = |(sight, ..): &&(Sight, _, _)| self.bounds.sights.contains(sight);
        let sights = SIGHTS.iter().filter(wanted);
        properties.extend(sights.map(|(_, name, seen)| Property::sometimes(name, *seen)));
        properties
    }
}

fn joining_actions(state: &State, p: usize, actions: &mut Vec<Action>) {
    let asked = state.held.iter().any(|parcel| parcel.message.from == id(p));
    for q in 0..PEERS {
        if q != p && !asked && state.peers[q].replica.is_some() {
            actions.push(Action::Join(p, q));
        }
    }
}

type Condition = fn(&Chat, &State) -> bool;

macro_rules! promise {
    ($name:literal, $broken:ident) => {
        Property::<Chat>::always($name, |_, state| state.broken != Some(Broken::$broken))
    };
}

fn promises() -> Vec<Property<Chat>> {
    vec![
        promise!("one host per term", TwoHosts),
        promise!("logs with an entry in common are equal up to it", LogsDiffer),
        promise!("the voters are those of the latest change in the log", VotersDiffer),
        promise!("every host has what hosts before it committed", HostLacksCommitted),
        promise!("commit never goes back", CommitWentBack),
        promise!("what is committed never changes", CommittedChanged),
        promise!("what is committed is durable at a majority of the voters", CommitNotDurable),
        promise!("a host commits an entry of its own term, older ones with it", CommitOfOlderTerm),
        promise!("no disk loses what is committed", CommittedCut),
        promise!("a durable vote is kept", VoteChanged),
        promise!("a durable term is at least that of the log's last entry", TermBehindLog),
        promise!("nothing is said before it is durable", SaidBeforeDurable),
        promise!("what is confirmed is committed", ConfirmedWrongly),
        promise!("an author's submissions are committed in order and once", OrderOfAuthor),
        promise!("nobody finds proof of a fault", Fault),
        promise!("nobody is sent away who has not gone", SentAway),
        promise!("nobody panics", Panic),
        promise!("messages come to rest", NoRest),
    ]
}

macro_rules! sight {
    ($name:literal, $sight:ident) => {
        (Sight::$sight, $name, |_, state| state.sights.has(Sight::$sight as u32))
    };
}

const SIGHTS: [(Sight, &str, Condition); 21] = [
    sight!("a host of term 2", HostInTerm2),
    sight!("a host of term 3", HostInTerm3),
    sight!("a message is committed after term 1", CommitInTerm2),
    sight!("an author is told that its message is confirmed", Confirmed),
    sight!("a log is cut", Cut),
    sight!("a host pauses", Paused),
    sight!("a paused host resumes", Resumed),
    sight!("a hand-over succeeds", HandedOver),
    sight!("a nominee withdraws because its log is behind", WithdrewBehind),
    sight!("a candidate withdraws without a majority", WithdrewWithoutMajority),
    sight!("a nominee holds a nomination", Held),
    sight!("a voter falls back to asking all", FellBack),
    sight!("a crash loses entries that were not synced", UnsyncedLost),
    sight!("two voters", TwoVoters),
    sight!("one voter", OneVoter),
    sight!("three voters again", ThreeVotersAgain),
    sight!("a new incarnation votes", NewIncarnationVotes),
    sight!("a member is removed", Removed),
    sight!("a peer notices that its store is an old copy", OldCopyNoticed),
    sight!("a nominee adopts a longer log", Adopted),
    sight!("a nominee adopts a log, and its own is cut", AdoptedAndCut),
];
