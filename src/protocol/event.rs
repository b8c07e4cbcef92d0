//! What goes into a replica and what comes out: the one door in, the one door out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::evidence::{Findings, Offence};
use super::log::Checkpoint;
use super::log::invite_link::InviteLinks;
use super::message::{Message, Ranking, Receipt};
use super::quota::Quota;
use super::time::Micros;
use super::types::{
    Boot, Entry, FormerMember, Generation, HardState, Incarnation, Index, Member, Number, Pasts,
    Payload, PeerId, Position, Signature, Submission, Term, TraceContext, VoterSet,
};

/// What a store gives back when it is opened; empty for a chat that is new here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Recovered {
    pub incarnation: Incarnation,
    /// Raised durably by this very start (R9).
    pub boot: Boot,
    /// The generation of the chat that this store takes part in (R30). A log that is being fetched
    /// comes to it in the end.
    pub generation: Generation,
    pub hard_state: HardState,
    pub checkpoint: Checkpoint,
    /// Every entry after the checkpoint, in order, with its chain already checked.
    pub entries: Vec<Arc<Entry>>,
    /// The last commit index that was written down.
    pub commit: Index,
    /// Submissions that have not left the outbox, by number.
    pub outbox: Vec<Submission>,
    /// The highest number this incarnation ever gave away.
    pub last_number: Number,
    pub read: Index,
    /// Who removed this peer from the chat, if somebody has.
    pub removed_by: Option<PeerId>,
    /// What was remembered of other peers when that was last written down (R9).
    pub pasts: Pasts,
    /// What was found of peers that lie, or are broken (L6).
    pub evidence: Findings,
    /// The furthest that the log has ever been where it was cut since; zero if it never was (R9).
    pub furthest: Position,
    /// The last batch was torn and cut: vote and stand only once caught up (R37).
    pub tail_in_doubt: bool,
}

/// Something happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Time has passed. Every event looks at the timers; this one does nothing else.
    Tick,
    /// A message arrived: authenticated, its signatures checked.
    Message(Message),
    /// The state of this peer's own connection to another peer changed.
    Link { peer: PeerId, state: LinkState },
    /// The stream of entries or heartbeats from this peer ended, though the connection stands:
    /// attach again.
    Detached { peer: PeerId },
    /// A ping came back.
    RoundTrip { peer: PeerId, rtt_us: Micros },
    /// The `Ready` of this number has been made durable.
    Persisted { ready: u64, sync_us: Micros },
    /// Entries that `Ready::loads` asked for.
    Loaded { load: Load, entries: Vec<Arc<Entry>> },
    /// How the disk does (R24, R38).
    Disk(DiskState),
    /// The person, or this peer on their behalf, wants something in the log.
    Propose(Proposal),
    /// The person has read up to here (R36).
    MarkRead { index: Index },
    /// The person asks the host, this peer, to hand over to `target`, or to the best (R23).
    HandOver { target: Option<PeerId> },
    /// The process is about to stop: hand over, say goodbye (R23, R26).
    Stop,
}

/// A proposal for the log. It takes the number that `Replica::next_number` gave beforehand.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    pub payload: Payload,
    pub created_at_ms: u64,
    pub trace: TraceContext,
    /// Over the canonical form with that number; for the kinds that R41 names.
    pub signature: Option<Signature>,
}

/// This peer's own connection to another one (R14).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LinkState {
    /// Connected, both sides proven, and one call answered.
    Up,
    /// Closed or silent; being dialled again.
    Down,
    /// The address answers, and nobody listens there: the process is gone.
    Refused,
}

/// How the disk does. Thresholds are the runtime's (R24, R38).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DiskState {
    Fit,
    /// Free space is below the reserve: refuse submissions, hand over.
    Full,
    /// A sync takes longer than 500 ms: hand over.
    Stalling,
    /// A sync takes longer than 2 s: pause.
    Stalled,
}

/// Why a proposal cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProposeError {
    /// The outbox has no room until a majority is reachable again.
    OutboxFull,
    /// This peer has added as much to the chat as it may in a day (L8).
    OverQuota,
    /// The disk has no room (R38).
    StorageFull,
    /// This peer does not take part in the chat.
    NotMember,
    /// The peer is about to stop.
    Stopping,
}

/// Everything that a replica wants done, in the order in which to do it.
///
/// `early`, `committed` and `notices` rely on nothing in `persist` and are done at once. Then
/// `persist` is made durable in one sync, and only then may `messages` leave. The syncs, and with
/// them the `messages`, of successive `Ready`s keep their order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ready {
    /// Counts this replica's `Ready`s; `Event::Persisted` names it.
    pub number: u64,
    /// Messages that rely on nothing unsynced.
    pub early: Vec<Message>,
    /// Entries that have become committed, in order.
    pub committed: Vec<Arc<Entry>>,
    pub notices: Vec<Notice>,
    /// Entries to be read from the store.
    pub loads: Vec<Load>,
    /// What to make durable in one sync.
    pub persist: Persist,
    /// Messages that rely on `persist`, or follow one that does.
    pub messages: Vec<Message>,
    /// Notices that rely on `persist`.
    pub persisted_notices: Vec<Notice>,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self { number: self.number, ..Self::default() }
    }
}

/// One atomic, synced change of the store. Done in field order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Persist {
    pub hard_state: Option<HardState>,
    /// Cut the log from this index on, before `entries` are written.
    pub truncate_from: Option<Index>,
    /// The furthest that the log has been, where it is cut (R9).
    pub furthest: Option<Position>,
    pub entries: Vec<Arc<Entry>>,
    /// Submissions that enter the outbox (R31).
    pub outbox_put: Vec<Submission>,
    /// Submissions up to this number leave the outbox (R34).
    pub outbox_remove_through: Option<Number>,
    pub commit: Option<Index>,
    /// Own request ids with the index that each has got, so that a repeat gets the first result.
    pub request_ids: Vec<(String, Index)>,
    pub checkpoint: Option<Arc<Checkpoint>>,
    pub read: Option<Index>,
    /// That member has removed this peer, for good.
    pub removed_by: Option<PeerId>,
    /// All that is remembered of other peers (R9), in place of what was.
    pub pasts: Option<Arc<Pasts>>,
    /// All that was found of other peers (L6), in place of what was.
    pub evidence: Option<Arc<Findings>>,
    /// From here on the log is of this generation; see `recovery.rs` (R30).
    pub generation: Option<Generation>,
}

impl Persist {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Entries `from..` to be read for `peer`, up to about 1 MiB, never beyond `through`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Load {
    pub peer: PeerId,
    pub attach: u64,
    pub from: Index,
    pub through: Index,
}

/// Something the runtime, a person or a trace should know.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Notice {
    /// The proposal of this number is durable in the outbox, or in the host's log.
    Queued {
        number: Number,
    },
    /// This peer's own submission is committed at `index`.
    Confirmed {
        number: Number,
        index: Index,
    },
    /// The host changed, or is unknown.
    Host {
        host: Option<PeerId>,
        term: Term,
    },
    /// This peer began to host: its `TermStart` is committed and it serves (R4).
    Serving {
        term: Term,
    },
    /// For the election's trace.
    Suspect {
        term: Term,
    },
    Nominated {
        nominee: PeerId,
        term: Term,
    },
    Standing {
        term: Term,
    },
    /// This peer confirms nothing until it hears from a majority again (R22), or does again.
    Paused {
        paused: bool,
    },
    /// The members, their addresses or the voters changed.
    Members,
    /// `Event::Stop` is done: the process may end.
    MayStop,
    /// This peer stopped being a member: by itself, or because somebody removed it.
    Removed {
        by: Option<PeerId>,
    },
    /// This peer was shown to be below its own past: take a new incarnation (R9).
    BelowOwnPast,
    /// A member takes part in another generation of the chat than this peer (R30). Once for each.
    OtherGeneration {
        peer: PeerId,
        generation: Generation,
    },
    /// Another peer lies, or is broken: it is not followed in this term (L6).
    Evidence {
        peer: PeerId,
        term: Term,
        what: Offence,
    },
    /// Proof of a fault of this peer's store: this chat stops here, and says why.
    Fault {
        what: &'static str,
    },
}

/// The role that a peer plays in a chat.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Role {
    #[default]
    Follower,
    /// The lease has run out; nominating, or being nominated.
    Suspecting,
    Candidate,
    Host,
}

/// A replica as it sees itself, for people and programs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Status {
    pub role: Role,
    pub term: Term,
    pub host: Option<PeerId>,
    /// A host without contact to a majority (R22).
    pub paused: bool,
    /// The host has committed its `TermStart`; at a follower: the host is alive and attached to.
    pub serving: bool,
    /// The log has come up to what the host has committed, so that everything which was known to be
    /// committed here in an earlier run is known again.
    pub caught_up: bool,
    /// Voters that are in contact, this peer included, and how many make a majority.
    pub voters_in_contact: usize,
    pub majority: usize,
    pub incarnation: Incarnation,
    pub generation: Generation,
    /// Members that were last heard of in another generation, and which (R30).
    pub other_generations: BTreeMap<PeerId, Generation>,
    /// No majority of the voters was linked to this peer for ten minutes or more.
    pub majority_lost: bool,
    pub chat_name: String,
    pub members: Arc<BTreeMap<PeerId, Member>>,
    pub former_members: Arc<BTreeMap<PeerId, FormerMember>>,
    pub invite_links: InviteLinks,
    /// Who removed this peer, which takes no part in the chat any more.
    pub removed_by: Option<PeerId>,
    /// This peer has asked to leave. It stays until the others know.
    pub is_leaving: bool,
    /// Another running peer has this one's key, and takes part in its place.
    pub key_in_use: bool,
    /// Peers that were found out, and last by what (L6).
    pub evidence: Findings,
    /// How much an author may add in a day, where the members have agreed on that.
    pub quota: Option<Quota>,
    /// The host takes nothing more of this peer for now: it has added too much of late (L8).
    pub is_over_quota: bool,
    pub voters: VoterSet,
    pub links: BTreeMap<PeerId, LinkState>,
    pub receipts: BTreeMap<PeerId, Receipt>,
    pub last: Index,
    pub commit: Index,
    /// Submissions waiting in the outbox.
    pub queued: usize,
    pub ranking: Arc<Ranking>,
}
