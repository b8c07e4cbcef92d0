//! How everybody else speaks to the loop: a bounded inbox, and what the loop shows of each chat.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::absences::AwaySince;
use super::feed::ChatFeed;
use super::lanes::Lane;
use super::measure::Gauges;
use super::send_queue::SendQueue;
use crate::protocol::event::{LinkState, ProposeError, Recovered, Status};
use crate::protocol::message::{Body, Message};
use crate::protocol::time::Micros;
use crate::protocol::types::{
    CallId, ChatId, Incarnation, Index, Number, Payload, PeerId, Submission, TraceContext,
};
use crate::storage::{ChatReader, ChatStore};
use crate::telemetry::current_context;

/// The most inputs that wait for the loop. Beyond it streams wait, which slows their senders
/// through flow control, and single calls are refused.
pub(super) const INBOX_MAX: usize = 4_096;
/// The most that the long ones among them take together, in KiB.
pub(super) const INBOX_KIB_MAX: u32 = 64 << 10;

/// A way to the loop; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) inbox: mpsc::Sender<Input>,
    pub(super) shared: Arc<Shared>,
}

/// What the loop shows to everybody.
pub(super) struct Shared {
    pub me: PeerId,
    pub chats: RwLock<BTreeMap<ChatId, Arc<ChatShared>>>,
    /// Counts commits and changes of the list of chats.
    pub activity: watch::Sender<u64>,
    pub roster: watch::Sender<Arc<Roster>>,
    pub next_call: AtomicU64,
    /// What the inbox has room for, in KiB.
    pub room: Arc<Semaphore>,
}

/// What the loop shows of one chat.
pub struct ChatShared {
    pub id: ChatId,
    /// This peer's incarnation in the chat.
    pub incarnation: Incarnation,
    pub feed: ChatFeed,
    pub reader: ChatReader,
    /// The chat's state; at most some 50 ms old.
    pub view: watch::Receiver<Arc<ChatView>>,
    pub gauges: Arc<Gauges>,
    /// Request ids that memory has forgotten, because the store has them.
    pub(super) forgotten: Arc<AtomicU64>,
    /// See `is_away`.
    pub(super) away: AtomicBool,
}

impl ChatShared {
    /// Whether the chat has ended here to come back with the same log, in another incarnation. Who
    /// follows it waits for that.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// To be taken before the store is asked about a request id, and to be given with the proposal.
    pub fn looked(&self) -> Looked {
        let forgotten = self.forgotten.load(Ordering::Acquire);
        Looked { incarnation: self.incarnation, forgotten }
    }
}

impl ChatShared {
    /// Whether somebody has removed this peer, so that the chat can be read, and that is all.
    pub fn is_read_only(&self) -> bool {
        self.view.borrow().status.removed_by.is_some()
    }
}

/// A chat's state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChatView {
    pub status: Status,
    /// Why the chat has stopped here; empty while it runs.
    pub fault: &'static str,
    /// Since when members are away.
    pub away_since: AwaySince,
}

/// The peers to be connected to, with the address of each and what waits for it.
pub type Roster = BTreeMap<PeerId, Contact>;

/// One peer of the roster.
#[derive(Clone)]
pub struct Contact {
    pub address: String,
    pub send_queue: Arc<SendQueue>,
}

/// What a call is answered with.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every answer is a message")]
pub enum Answer {
    Message(Message),
    /// The call is done, and has no answer of its own.
    Empty,
}

/// Where the answers to a call go.
pub(super) enum Answerer {
    /// To one who waits for the only one.
    Once(oneshot::Sender<Answer>),
    /// To the member's stream: whatever of a chat is refused there, the call stays.
    Stream(Weak<Lane>),
}

impl Answerer {
    /// Whether nobody waits any more.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Once(answer) => answer.is_closed(),
            Self::Stream(lane) => lane.upgrade().is_none_or(|lane| lane.is_over()),
        }
    }
}

/// What a proposal waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    Queued,
    Committed,
}

/// When the store was asked about a request id. What memory had by then, and has not forgotten
/// since, is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Looked {
    incarnation: Incarnation,
    forgotten: u64,
}

/// A proposal for the log, from this peer.
#[derive(Clone)]
pub struct ProposalRequest {
    /// A repeat of a proposal with the same id gets the first one's result.
    pub request_id: Option<String>,
    /// When the store did not have that id; none where nobody can have used it before.
    pub looked: Option<Looked>,
    pub payload: Payload,
    pub created_at_ms: u64,
    /// The call that makes it, where that is traced.
    pub trace: TraceContext,
    pub wait: Wait,
}

/// What became of a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProposalResult {
    pub number: Number,
    /// Its index, once it is committed.
    pub index: Option<Index>,
}

/// Why the loop did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unable {
    /// The chat is not here, or not any more.
    #[error("there is no such chat here")]
    NoChat,
    /// The loop has ended, or stops.
    #[error("this peer stops")]
    Stopping,
    /// The inbox is full.
    #[error("this peer has too much to do")]
    Busy,
    /// The store may have the request id by now.
    #[error("the request may have been made before")]
    LookAgain,
    /// A request of that id has said something else.
    #[error("the request id was used for another text")]
    RequestReused,
    /// The rules do not allow it now.
    #[error("the proposal was not taken")]
    Propose(ProposeError),
}

/// Why a chat does not run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAdded {
    /// The loop has ended, or stops: the chat goes on at the next start.
    #[error("this peer stops")]
    Stopping,
    #[error("{0}")]
    Failed(String),
}

/// Something for the loop.
pub(super) enum Input {
    Message {
        chat: ChatId,
        message: Message,
        answer: Option<Answerer>,
        /// The call that brought it, where that is traced.
        trace: TraceContext,
        /// The room that it takes until the loop has dealt with it.
        room: Option<OwnedSemaphorePermit>,
    },
    Replicate {
        chat: ChatId,
        attach: Message,
        lane: Arc<Lane>,
    },
    Heartbeats {
        chat: ChatId,
        member: PeerId,
        lane: Arc<Lane>,
    },
    Link {
        peer: PeerId,
        state: LinkState,
    },
    Detached {
        chat: ChatId,
        peer: PeerId,
    },
    RoundTrip {
        peer: PeerId,
        rtt_us: Micros,
    },
    Propose {
        chat: ChatId,
        proposal: ProposalRequest,
        reply: oneshot::Sender<Result<ProposalResult, Unable>>,
    },
    MarkRead {
        chat: ChatId,
        index: Index,
    },
    HandOver {
        chat: ChatId,
        target: Option<PeerId>,
        trace: TraceContext,
    },
    View {
        chat: ChatId,
        reply: oneshot::Sender<ChatView>,
    },
    Add {
        new: Box<NewChat>,
        reply: oneshot::Sender<Result<(), NotAdded>>,
    },
    Remove {
        chat: ChatId,
        reply: oneshot::Sender<()>,
    },
    DialStranger {
        chat: ChatId,
        peer: PeerId,
        address: String,
    },
    DiskFull(bool),
    Stop {
        reply: oneshot::Sender<()>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// A chat for the loop to run.
pub struct NewChat {
    pub id: ChatId,
    pub store: ChatStore,
    pub recovered: Recovered,
    /// Peers to ask before the log says who the members are.
    pub contacts: Vec<(PeerId, String)>,
    /// What the store carries of an earlier incarnation (`ChatStore::carried`).
    pub carried: Vec<Submission>,
}

impl NewChat {
    /// Whether nothing of the chat has come yet.
    pub fn is_empty(&self) -> bool {
        self.recovered.checkpoint.index() == 0 && self.recovered.entries.is_empty()
    }
}

impl Handle {
    /// This peer.
    pub fn me(&self) -> PeerId {
        self.shared.me
    }

    /// The chats that run here.
    pub fn chats(&self) -> Vec<Arc<ChatShared>> {
        self.shared.chats.read().expect("nothing panics in there").values().cloned().collect()
    }

    /// One of them.
    pub fn chat(&self, chat: ChatId) -> Option<Arc<ChatShared>> {
        self.shared.chats.read().expect("nothing panics in there").get(&chat).cloned()
    }

    /// Changes with every commit and whenever a chat comes or goes.
    pub fn activity(&self) -> watch::Receiver<u64> {
        self.shared.activity.subscribe()
    }

    /// The peers to be connected to.
    pub fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.shared.roster.subscribe()
    }

    /// How many inputs wait for the loop.
    pub fn inputs_waiting(&self) -> usize {
        self.inbox.max_capacity() - self.inbox.capacity()
    }

    /// A number for an inbound call.
    pub fn next_call(&self) -> CallId {
        self.shared.next_call.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands in a message of a stream; waits while the inbox is full.
    pub async fn deliver(&self, chat: ChatId, message: Message) -> Result<(), Unable> {
        let room = self.room_for(&message).await;
        self.send(Input::Message { chat, message, answer: None, trace: None, room }).await
    }

    // L7: messages differ by a thousand times in size, so that their number alone bounds little.
    /// Waits for the room that a long message takes; a short one has its place among the inputs.
    async fn room_for(&self, message: &Message) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = match &message.body {
            Body::Append(append) => append.entries.iter().map(|entry| entry.size()).sum(),
            Body::FetchLogAnswer(answer) => answer.entries.iter().map(|entry| entry.size()).sum(),
            Body::Submit(submit) => submit.submissions.iter().map(|it| it.size()).sum(),
            _ => 0,
        };
        let kib = u32::try_from(bytes / 1_024).unwrap_or(u32::MAX).min(INBOX_KIB_MAX);
        if kib == 0 {
            return None;
        }
        Arc::clone(&self.shared.room).acquire_many_owned(kib).await.ok()
    }

    /// The same, where the message begins a call: what comes back is its answer. The call ends
    /// without one when the receiver is dropped.
    pub async fn deliver_call(
        &self,
        chat: ChatId,
        message: Message,
    ) -> Result<oneshot::Receiver<Answer>, Unable> {
        let (answer, answered) = oneshot::channel();
        let answer = Some(Answerer::Once(answer));
        let room = self.room_for(&message).await;
        self.send(Input::Message { chat, message, answer, trace: None, room }).await?;
        Ok(answered)
    }

    /// A single call; refused when the inbox is full. Gives it a number.
    pub async fn call(&self, chat: ChatId, mut message: Message) -> Result<Answer, Unable> {
        message.call = self.next_call();
        let (answer, answered) = oneshot::channel();
        let (answer, trace) = (Some(Answerer::Once(answer)), current_context());
        let input = Input::Message { chat, message, answer, trace, room: None };
        self.inbox.try_send(input).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unable::Busy,
            mpsc::error::TrySendError::Closed(_) => Unable::Stopping,
        })?;
        answered.await.map_err(|_| Unable::NoChat)
    }

    /// The same as `deliver`, where what is refused goes to a lane.
    pub async fn deliver_for(
        &self,
        chat: ChatId,
        message: Message,
        lane: &Arc<Lane>,
    ) -> Result<(), Unable> {
        let answer = Some(Answerer::Stream(Arc::downgrade(lane)));
        self.send(Input::Message { chat, message, answer, trace: None, room: None }).await
    }

    /// Attaches a member: entries for it go to `lane`, which replaces an older one, and so does a
    /// refusal.
    pub async fn replicate(
        &self,
        chat: ChatId,
        mut attach: Message,
        lane: Arc<Lane>,
    ) -> Result<(), Unable> {
        attach.call = self.next_call();
        self.send(Input::Replicate { chat, attach, lane }).await
    }

    /// Heartbeats for `member` go to `lane`, which replaces an older one.
    pub async fn heartbeats(
        &self,
        chat: ChatId,
        member: PeerId,
        lane: Arc<Lane>,
    ) -> Result<(), Unable> {
        self.send(Input::Heartbeats { chat, member, lane }).await
    }

    /// This peer's own connection to `peer` changed.
    pub async fn link(&self, peer: PeerId, state: LinkState) {
        let _ = self.send(Input::Link { peer, state }).await;
    }

    /// A stream from the host `peer` ended while the connection stayed.
    pub async fn detached(&self, chat: ChatId, peer: PeerId) {
        let _ = self.send(Input::Detached { chat, peer }).await;
    }

    /// A ping of `peer` came back.
    pub async fn round_trip(&self, peer: PeerId, rtt_us: Micros) {
        let _ = self.send(Input::RoundTrip { peer, rtt_us }).await;
    }

    /// Puts a proposal into the outbox, and waits as it says.
    pub async fn propose(
        &self,
        chat: ChatId,
        proposal: ProposalRequest,
    ) -> Result<ProposalResult, Unable> {
        let (reply, replied) = oneshot::channel();
        self.send(Input::Propose { chat, proposal, reply }).await?;
        replied.await.unwrap_or(Err(Unable::NoChat))
    }

    /// The person has read up to `index`.
    pub async fn mark_read(&self, chat: ChatId, index: Index) -> Result<(), Unable> {
        self.send(Input::MarkRead { chat, index }).await
    }

    /// Asks this peer, the host, to hand over.
    pub async fn hand_over(&self, chat: ChatId, target: Option<PeerId>) -> Result<(), Unable> {
        self.send(Input::HandOver { chat, target, trace: current_context() }).await
    }

    /// A chat's state at this moment.
    pub async fn view(&self, chat: ChatId) -> Result<ChatView, Unable> {
        let (reply, replied) = oneshot::channel();
        self.send(Input::View { chat, reply }).await?;
        replied.await.map_err(|_| Unable::NoChat)
    }

    /// Runs a chat from now on.
    pub async fn add(&self, new: NewChat) -> Result<(), NotAdded> {
        let (reply, replied) = oneshot::channel();
        let input = Input::Add { new: Box::new(new), reply };
        self.send(input).await.map_err(|_| NotAdded::Stopping)?;
        replied.await.unwrap_or(Err(NotAdded::Stopping))
    }

    /// Has a peer dialled that wants this one's vote, or has got it, if its joining has not been
    /// read here yet.
    pub async fn dial_stranger(
        &self,
        chat: ChatId,
        peer: PeerId,
        address: String,
    ) -> Result<(), Unable> {
        match self.chat(chat) {
            Some(shown) if !shown.view.borrow().status.members.contains_key(&peer) => {
                self.send(Input::DialStranger { chat, peer, address }).await
            }
            _ => Ok(()),
        }
    }

    /// Ends a chat here; its store is closed once its last write and read have come to their ends.
    pub async fn remove(&self, chat: ChatId) {
        let (reply, replied) = oneshot::channel();
        if self.send(Input::Remove { chat, reply }).await.is_ok() {
            let _ = replied.await;
        }
    }

    /// Free space fell below the reserve, or rose above it again (R38).
    pub async fn disk_full(&self, full: bool) {
        let _ = self.send(Input::DiskFull(full)).await;
    }

    /// Stops all chats gracefully; returns when each has handed over and said goodbye.
    pub async fn stop(&self) {
        let (reply, replied) = oneshot::channel();
        if self.send(Input::Stop { reply }).await.is_ok() {
            let _ = replied.await;
        }
    }

    /// Ends all chats as they are; returns when their files are closed. One that was closed in
    /// order is opened again without a look at all of it.
    pub async fn close(&self) {
        let (reply, replied) = oneshot::channel();
        if self.send(Input::Close { reply }).await.is_ok() {
            let _ = replied.await;
        }
    }

    async fn send(&self, input: Input) -> Result<(), Unable> {
        self.inbox.send(input).await.map_err(|_| Unable::Stopping)
    }
}
