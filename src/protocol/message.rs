//! What the peers of one chat say to each other.
//!
//! A message that asks for an answer carries a `call` when it arrives; the answer carries the same
//! number back, and the runtime completes the call with it. Answers are never answered (R8).

use std::sync::Arc;

use super::log::invite_link::InviteLinkProblem;
use super::log::signed::Words;
use super::time::Micros;
use super::types::{
    Boot, CallId, End, Entry, Generation, Incarnation, Index, InviteLinkProof, Number, Past,
    PeerId, Position, Signature, Submission, Term,
};

/// One message between two members, each named with its incarnation (R9).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    pub from: PeerId,
    pub from_incarnation: Incarnation,
    pub from_boot: Boot,
    pub to: PeerId,
    /// 0 where the sender does not know it yet (first contact).
    pub to_incarnation: Incarnation,
    /// The generation of the sender's log (R30).
    pub generation: Generation,
    pub call: CallId,
    /// What others have signed that bears this out (L1); for most messages nothing.
    pub words: Words,
    pub body: Body,
}

/// The kinds of message. Each comment says who sends it to whom.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// Member → host: stream me the log from here (R35). Opens a `Replicate` stream.
    Attach(Attach),
    /// Host → member: entries, the commit index, or both.
    Append(Append),
    /// Host → member: I do not know that position; attach again at or below this index.
    LookBack(LookBack),
    /// Host → member: I live. Opened by the member as a `Heartbeats` stream.
    Heartbeat(Heartbeat),
    /// Member → host: what I have made durable, which heartbeat I heard, what was read.
    Acknowledge(Acknowledge),
    /// Member → host: put these in order (R32).
    Submit(Submit),
    /// Host → member: what became of them.
    SubmitAnswer(SubmitAnswer),
    /// Member → host: my delays to the others, and my order of preference (R12).
    ReportDelays(ReportDelays),
    /// Member → everyone: I stop, gracefully.
    Goodbye,
    /// Invited or returning peer → host: I take part (or not). Its signature is checked.
    Join(Join),
    JoinAnswer(JoinAnswer),
    /// Voter → candidate: take over, as far as I am concerned (R15).
    Nominate(Nominate),
    NominateAnswer(NominateAnswer),
    /// Voter → everyone: would you nominate me (R20)?
    Solicit(Nominate),
    SolicitAnswer(SolicitAnswer),
    /// Candidate → voter (R17).
    RequestVote(RequestVote),
    Vote(Vote),
    /// Candidate → everyone: do not wait for me (R18).
    Withdraw(Withdraw),
    /// Nominee → a nominator that is ahead: give me what I lack (R10).
    FetchLog(FetchLog),
    FetchLogAnswer(FetchLogAnswer),
    /// New host → everyone (R21).
    Announce(Announce),
    /// Host → successor (R23).
    HandOver(HandOver),
    /// Anyone → anyone: who is the host (M10)?
    FindHost,
    FindHostAnswer(FindHostAnswer),
    /// The answer to a request of an older term (R8), or one that is not for this peer.
    Refused(Refused),
}

impl Body {
    /// The term that the message speaks of; 0 where it speaks of none.
    pub fn term(&self) -> Term {
        match self {
            Body::Attach(body) => body.term,
            Body::Append(body) => body.term,
            Body::LookBack(body) => body.term,
            Body::Heartbeat(body) => body.term,
            Body::Acknowledge(body) => body.term,
            Body::Submit(body) => body.term,
            Body::SubmitAnswer(body) => body.term,
            Body::ReportDelays(body) => body.term,
            Body::JoinAnswer(body) => body.term,
            Body::Nominate(body) | Body::Solicit(body) => body.term,
            Body::NominateAnswer(body) => body.term,
            Body::SolicitAnswer(body) => body.term,
            Body::RequestVote(body) => body.term,
            Body::Vote(body) => body.term,
            Body::Withdraw(body) => body.term,
            Body::FetchLog(body) => body.term,
            Body::FetchLogAnswer(body) => body.term,
            Body::Announce(body) => body.term,
            Body::HandOver(body) => body.term,
            Body::FindHostAnswer(body) => body.term,
            Body::Refused(body) => body.term,
            Body::Goodbye | Body::Join(_) | Body::FindHost => 0,
        }
    }

    /// Whether the message answers another one.
    pub fn is_answer(&self) -> bool {
        matches!(
            self,
            Body::Append(_)
                | Body::LookBack(_)
                | Body::Heartbeat(_)
                | Body::SubmitAnswer(_)
                | Body::JoinAnswer(_)
                | Body::NominateAnswer(_)
                | Body::SolicitAnswer(_)
                | Body::Vote(_)
                | Body::FetchLogAnswer(_)
                | Body::FindHostAnswer(_)
                | Body::Refused(_)
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attach {
    pub term: Term,
    /// Counts this member's attaches; later answers name it, and older ones are dropped.
    pub attach: u64,
    /// A position of the member's synced log: its end at first, further back after `LookBack`.
    pub look: Position,
    /// To a member that does not host: pass on to me what is committed, since I cannot reach the
    /// host.
    pub relay: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Append {
    pub term: Term,
    pub attach: u64,
    /// Where the entry before `entries[0]` stands.
    pub previous: Position,
    pub entries: Vec<Arc<Entry>>,
    /// Everything up to here is committed.
    pub commit: Index,
    /// What the member has said of itself (R9, L5); only in the first answer to an attach.
    pub past: Option<Past>,
    /// The first entry of the reign, which proves it (L3); likewise. Who passes the log on may not
    /// have it at hand.
    pub reign: Option<Arc<Entry>>,
    /// Where the log that is passed on ended then (R31); likewise.
    pub last: Option<Index>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LookBack {
    pub term: Term,
    pub attach: u64,
    pub index: Index,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Heartbeat {
    pub term: Term,
    /// Counts the host's heartbeats in this term; echoed in `Acknowledge` (R22).
    pub number: u64,
    /// When the next heartbeat is due at the latest.
    pub interval_us: Micros,
    /// When it was sent: how long the host had hosted by then, by its own clock.
    pub sent_us: Micros,
    /// The lease that the host takes the member to have after it, at least (R14, R22).
    pub lease_us: Micros,
    /// Sent by a paused host: renews no lease (R22).
    pub probe: bool,
    pub commit: Index,
    /// Delivered and read positions that changed (R36).
    pub positions: Vec<(PeerId, Receipt)>,
    /// What voters have said of themselves, where it is new: to voters, every 4 s at most.
    pub pasts: Vec<(PeerId, Incarnation, Past)>,
    /// The ranked candidates (R13), when the member has not acknowledged this version.
    pub ranking: Option<Arc<Ranking>>,
}

/// How far a member has come (R36).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Receipt {
    pub delivered: Index,
    pub read: Index,
}

impl Receipt {
    /// Takes over what is further in `other`.
    pub fn advance(&mut self, other: Self) {
        self.delivered = self.delivered.max(other.delivered);
        self.read = self.read.max(other.read);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Acknowledge {
    pub term: Term,
    pub attach: u64,
    /// The member's log equals the host's up to here, durably.
    pub synced: Index,
    /// What has come up to here is held until the reign is proven, and counts for nothing; 0 where
    /// that is not so (L3).
    pub received: Index,
    /// The newest heartbeat heard in this term; 0 if none.
    pub heartbeat: u64,
    pub receipt: Receipt,
    /// The version of the ranked candidates that the member holds.
    pub ranking_version: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Submit {
    pub term: Term,
    /// Whose they are, where they come through another member (R35). Each is signed then: the core
    /// leaves that out, the runtime signs what leaves and has checked what arrives.
    pub author: Option<(PeerId, Incarnation)>,
    pub submissions: Vec<Submission>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SubmitAnswer {
    pub term: Term,
    pub accepted: Vec<Accepted>,
    pub problem: Option<SubmitProblem>,
}

/// Where a submission stands in the log. Only a committed one is confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Accepted {
    pub number: Number,
    pub index: Index,
    pub term: Term,
    pub committed: bool,
}

/// Why the rest of a `Submit` was not accepted. All are temporary but `NotMember`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SubmitProblem {
    /// The next number that the host takes is `last + 1`.
    Gap {
        last: Number,
    },
    /// The host has not committed its `TermStart`, hands over, or has too much in flight.
    NotServing,
    /// The host's disk has no room (R38).
    StorageFull,
    /// The author has added as much as it may in a day (L8).
    OverQuota,
    NotMember,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReportDelays {
    pub term: Term,
    /// Smoothed one-way delays as this member sees them, in microseconds.
    pub row: Vec<(PeerId, Micros)>,
    /// The other members from most to least wanted.
    pub preferences: Vec<PeerId>,
    /// The member's own wish to host, in percent; 0 puts it last.
    pub host_weight: u32,
    /// The rest of this is as it was told last, and left out.
    pub unchanged: bool,
    /// How far the member has come, by its own word (L5).
    pub past: Option<Past>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Join {
    pub name: String,
    pub address: String,
    pub created_at_ms: u64,
    pub decline: bool,
    /// For one whom nobody has invited (R43).
    pub proof: Option<InviteLinkProof>,
    pub signature: Signature,
    /// When it arrived, in milliseconds since 1970 by the host's wall clock, which alone says
    /// whether a link has expired. The host's runtime sets it: the rules know no wall clock.
    pub arrived_at_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct JoinAnswer {
    pub term: Term,
    pub host: Option<PeerId>,
    /// Whether the log has, or will have, the peer as asked.
    pub accepted: bool,
    /// The last number of this incarnation in the host's log (R33).
    pub last_number: Number,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nominate {
    pub term: Term,
    pub last: Position,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NominateAnswer {
    pub term: Term,
    /// The nominee's lease still runs (R16).
    pub host_alive: Option<HostAlive>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SolicitAnswer {
    pub term: Term,
    /// The answering voter nominates the asker, with its own last position.
    pub nominated: bool,
    pub last: Position,
    /// The end of its log may have been lost (R37).
    pub in_doubt: bool,
    pub host_alive: Option<HostAlive>,
}

/// Somebody hears the host, and until when at the latest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HostAlive {
    pub host: PeerId,
    pub term: Term,
    pub retry_in_us: Micros,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestVote {
    pub term: Term,
    /// The end of the candidate's log, which the vote will name.
    pub end: End,
    /// Lets a voter whose lease runs grant all the same (R2, R23).
    pub hand_over: Option<HandOver>,
    /// What the voter has said of itself, as far as the candidate knows (R9, L5).
    pub past: Option<Past>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Vote {
    pub term: Term,
    pub granted: Option<Granted>,
    pub host_alive: Option<HostAlive>,
}

/// A vote for the addressee in this term, for good (L3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Granted {
    /// The end of the log that it was asked for with.
    pub end: End,
    /// The voter's; what arrives has been checked.
    pub signature: Signature,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Withdraw {
    pub term: Term,
    pub reason: WithdrawReason,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WithdrawReason {
    /// The round ended without a majority of votes or nominations.
    NoMajority,
    /// A nominator's log is further than the nominee's.
    LogBehind,
    /// The disk stalls or is full.
    Unfit,
    /// It hears the host again, stands itself, or has voted for another, and takes back its
    /// nomination of the addressee (R16, R17).
    HostHeard,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FetchLog {
    pub term: Term,
    /// Counts this peer's fetches; the answer names it.
    pub fetch: u64,
    /// A position of this peer's log: its end at first, further back when told to look there.
    pub look: Position,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FetchLogAnswer {
    pub term: Term,
    pub fetch: u64,
    /// Where the entry before `entries[0]` stands: the position that was looked at.
    pub previous: Position,
    pub entries: Vec<Arc<Entry>>,
    /// The end of the answering peer's log.
    pub last: Position,
    /// It does not have that position: look again at or below this index.
    pub look_back: Option<Index>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Announce {
    pub term: Term,
    /// The first entry of the reign, which proves it (L3).
    pub reign: Option<Arc<Entry>>,
}

/// The host of `term` asks `target` to follow it, and everyone to let it (R23).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HandOver {
    pub host: PeerId,
    pub host_incarnation: Incarnation,
    pub term: Term,
    pub target: PeerId,
    /// By the host's key. The core leaves it out; the runtime signs what leaves and has checked
    /// what arrives.
    pub signature: Option<Signature>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FindHostAnswer {
    pub term: Term,
    pub host: Option<PeerId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Refused {
    pub term: Term,
    pub reason: RefusedReason,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RefusedReason {
    /// The request's term is over.
    StaleTerm,
    /// This peer does not host; `FindHostAnswer` says who may.
    NotHost {
        host: Option<PeerId>,
    },
    /// The request names another incarnation of this peer, or came from an outlived one (R9).
    WrongIncarnation {
        incarnation: Incarnation,
    },
    NotMember,
    /// The request is of another generation of the chat than this message (R30).
    OtherGeneration,
    /// The asking peer's membership, in the incarnation that it asks with, has ended.
    Removed {
        /// `None` where it left by itself.
        by: Option<PeerId>,
    },
    /// The asking peer goes on in another incarnation (R9). `is_here`: the host hears that one, so
    /// that two running peers have one key.
    Outlived {
        is_here: bool,
    },
    /// The link lets nobody in, or not any more (R43).
    InviteLink(InviteLinkProblem),
    /// The chat has as many members as it may.
    ChatFull,
}

impl RefusedReason {
    pub(super) const LINK_UNKNOWN: Self = Self::InviteLink(InviteLinkProblem::Unknown);
}

/// The published line of succession (R12, R13).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ranking {
    /// The term of the host that made it, and its count within that term.
    pub term: Term,
    pub version: u64,
    pub candidates: Vec<Candidate>,
    /// The directed delays it was made from: (from, to, microseconds).
    pub delays: Vec<(PeerId, PeerId, Micros)>,
}

/// One ranked candidate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Candidate {
    pub peer: PeerId,
    /// The sum of the shortest paths to and from all others, in microseconds, quantised; `None`
    /// where a path is missing. Closeness centrality is its reciprocal.
    pub farness_us: Option<Micros>,
    /// Why it counts as away, if it does (R26).
    pub absence: Option<Absence>,
}

/// Why a member counts as away, so that its vote is taken out or it is not given one (R25–R28).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Absence {
    /// It stopped gracefully.
    Goodbye,
    /// Nothing was heard of it for long.
    Silent,
    /// It can reach the host, and a majority of the voters cannot reach it.
    NotDialled,
    /// It is back, and not yet for long enough.
    Returning,
}
