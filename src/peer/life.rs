//! The life of each chat at this peer. Whatever begins, ends or replaces a chat goes through here:
//! one change after the other for each chat, each as the table in `phase.rs` says, and to its end
//! once it has begun, even if whoever asked for it has gone.

mod kept;
mod phase;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use self::kept::Found;
pub use self::kept::{Kept, TakenOn};
use self::phase::{Act, Change, Phase, decide};
use super::node::{Node, storage};
use super::records::{self, ChatRecord};
use super::refusal::{self, Refusal};
use super::repair;
use crate::protocol::types::{ChatId, Entry, Generation, Incarnation, PeerId};
use crate::runtime::driver::{Ended, EndedChat};
use crate::runtime::handle::{NewChat, NotAdded};
use crate::storage::{PeerStore, StorageError};

/// Between looks whether the end of a chat is known by now.
const LOOK: Duration = Duration::from_millis(10);
const ANSWERED: &str = "An invitation to it is being answered";

/// The lives of all chats, and what is shown of those that do not run.
#[derive(Default)]
pub struct Lives {
    lives: Mutex<BTreeMap<ChatId, Arc<tokio::sync::Mutex<Life>>>>,
    faulty: Mutex<BTreeMap<ChatId, Faulty>>,
}

/// One chat's life. Whoever has the lock on it is the only one that changes anything of the chat.
#[derive(Default)]
enum Life {
    #[default]
    Absent,
    /// The loop has it, in this incarnation.
    Running(Incarnation),
    Repairing(Repair),
    /// It does not run; with what is wrong if it is to be repaired once an answer has come to its
    /// end.
    Faulty(Option<String>),
}

/// A chat that is being repaired.
struct Repair {
    /// What is wrong.
    why: String,
    /// Ends the task.
    over: CancellationToken,
    /// What has begun, and runs when the host has taken this peer back.
    begun: Option<Box<NewChat>>,
}

/// A chat that does not run here at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Faulty {
    pub name: String,
    /// What is wrong, what happens now, and what a person can do.
    pub fault: String,
    /// Nothing more is tried until the next start.
    pub is_given_up: bool,
}

impl Faulty {
    /// Why a call about this chat cannot be answered.
    pub fn refusal(&self) -> Refusal {
        refusal::storage_damaged(&self.fault)
    }
}

/// What an answer may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answering {
    /// It may be brought.
    Go,
    /// There is nothing to answer: this peer takes part.
    Done,
    /// Nobody knows yet.
    Later,
}

impl Lives {
    /// The chats that do not run.
    pub fn faulty(&self) -> MutexGuard<'_, BTreeMap<ChatId, Faulty>> {
        self.faulty.lock().expect("nothing panics while it holds this lock")
    }

    /// Waits for the turn to change a chat.
    async fn turn(&self, chat: ChatId) -> OwnedMutexGuard<Life> {
        let life = {
            let mut lives = self.lives.lock().expect("nothing panics while it holds this lock");
            Arc::clone(lives.entry(chat).or_default())
        };
        life.lock_owned().await
    }

    /// Says what is wrong with a chat. Its name stands in `store`.
    fn show(&self, store: &PeerStore, chat: ChatId, fault: String, is_given_up: bool) {
        let record = records::get(store, chat).ok().flatten();
        let name = record.map(|record| record.name).unwrap_or_default();
        self.faulty().insert(chat, Faulty { name, fault, is_given_up });
    }
}

impl Life {
    fn phase(&self, node: &Node, chat: ChatId) -> Phase {
        match self {
            Self::Absent => Phase::Absent,
            Self::Running(_) => match node.handle.chat(chat) {
                None => Phase::Ending,
                Some(chat) if chat.is_read_only() => Phase::Readable,
                Some(_) => Phase::Running,
            },
            Self::Repairing(_) => Phase::Repairing,
            Self::Faulty(_) => Phase::Faulty,
        }
    }

    /// Ends what the life was with its repair, and gives what was wrong.
    fn end(&mut self) -> Option<String> {
        match std::mem::take(self) {
            Self::Repairing(Repair { why, over, begun }) => {
                over.cancel();
                // Closing a file writes.
                tokio::task::spawn_blocking(move || drop(begun));
                Some(why)
            }
            Self::Faulty(why) => why,
            Self::Absent | Self::Running(_) => None,
        }
    }
}

// ---- what the person does ----

/// Runs a chat that this peer has founded.
pub async fn found(
    node: &Arc<Node>,
    chat: ChatId,
    incarnation: Incarnation,
    entry: Entry,
) -> Result<(), Refusal> {
    let node = Arc::clone(node);
    whole(async move {
        let mut life = node.lives.turn(chat).await;
        let made = on_disk(&node, move |kept| kept.found(chat, incarnation, entry)).await;
        run(&node, &mut life, made.map_err(storage)?).await.map_err(not_added)
    })
    .await
}

/// Whether a person's answer to an invitation may be brought to the host, at this moment. One that
/// accepts takes the place of a repair.
pub async fn answer(node: &Arc<Node>, chat: ChatId, accepts: bool) -> Result<Answering, Refusal> {
    let node = Arc::clone(node);
    whole(async move {
        let mut life = node.lives.turn(chat).await;
        let act = decide(life.phase(&node, chat), Change::Accept);
        Ok(match act {
            Act::Wait => Answering::Later,
            Act::DropInvitation => {
                drop_invitation(&node, chat).await?;
                Answering::Done
            }
            Act::BringInstead if accepts => {
                let why = life.end().unwrap_or_default();
                answered_first(&node, chat, &mut life, why);
                Answering::Go
            }
            _ => Answering::Go,
        })
    })
    .await
}

/// The host has taken this peer on, with the answer in that incarnation.
pub async fn taken_on(node: &Arc<Node>, chat: ChatId, taken: TakenOn) -> Result<(), Refusal> {
    let node = Arc::clone(node);
    whole(async move {
        let (mut life, act) = settled(&node, chat, Change::TakenOn).await?;
        if node.kept().accepted_in(chat) != Some(taken.incarnation) {
            tracing::warn!(
                ?chat,
                "the chat's host took this peer on after the person had thought \
                better of it: another member can remove it"
            );
            return Err(refusal::invite_not_found());
        }
        match act {
            Act::Begin | Act::EndAndBegin => {}
            Act::DropInvitation => return drop_invitation(&node, chat).await,
            _ => return Err(refusal::internal("the chat comes back in another way")),
        }
        let taken = Arc::new(taken);
        let claimed = Arc::clone(&taken);
        let claim = on_disk(&node, move |kept| kept.claim(chat, &claimed)).await;
        let is_good = claim.map_err(storage)?;
        if act == Act::EndAndBegin {
            node.handle.remove(chat).await;
        }
        life.end();
        let begun = match is_good {
            true => on_disk(&node, move |kept| kept.begin(chat, &taken)).await,
            // The host has this peer in an incarnation in which a file was made before.
            false => Err(StorageError::AlreadyThere { path: node.dir.path().to_owned() }),
        };
        let ran = match begun {
            Ok(new) => run(&node, &mut life, new).await.map_err(not_added),
            Err(error) => {
                let why = format!("joining the chat was interrupted ({error})");
                begin_repair(&node, chat, &mut life, why, None);
                Err(storage(error))
            }
        };
        // The answer is used up, whatever becomes of the chat now.
        drop_invitation(&node, chat).await.and(ran)
    })
    .await
}

/// A person's answer, in that incarnation, has come to its end without this peer's being taken on.
/// Whether there is another one by now.
pub async fn answer_over(node: &Arc<Node>, chat: ChatId, answer: Option<Incarnation>) -> bool {
    let node = Arc::clone(node);
    let over = whole(async move {
        let mut life = node.lives.turn(chat).await;
        if node.kept().answered_in(chat) == answer {
            // What went wrong is in the log then, and the answer is gone until the next start.
            let _ = drop_invitation(&node, chat).await;
        }
        if node.kept().answered_in(chat).is_some() {
            return Ok(true);
        }
        if decide(life.phase(&node, chat), Change::AnswerOver) == Act::Repair
            && let Life::Faulty(Some(why)) = &*life
        {
            let why = why.clone();
            begin_repair(&node, chat, &mut life, why, None);
        }
        Ok(false)
    });
    over.await.unwrap_or(false)
}

/// Leaves a chat that does not take part. `false` where it does, and the others must be told.
pub async fn leave(node: &Arc<Node>, chat: ChatId) -> Result<bool, Refusal> {
    let node = Arc::clone(node);
    whole(async move {
        let (mut life, act) = settled(&node, chat, Change::Leave).await?;
        match act {
            Act::SayLeaving => return Ok(false),
            Act::EndAndForget => {
                node.handle.remove(chat).await;
                life.end();
                forget(&node, chat).await;
            }
            Act::GiveUp => {
                life.end();
                *life = Life::Faulty(None);
                let given_up = on_disk(&node, move |kept| kept.give_up(chat)).await;
                node.invite_changed.notify_waiters();
                given_up.map_err(storage)?;
                *life = Life::Absent;
                node.lives.faulty().remove(&chat);
            }
            _ => return Err(refusal::chat_not_found()),
        }
        Ok(true)
    })
    .await
}

// ---- what the peer does ----

/// Takes up a chat that a former run has left. What cannot be used is repaired, and holds up
/// nothing else.
///
/// # Errors
/// When the peer's own store fails.
pub async fn start(node: &Arc<Node>, chat: ChatId) -> Result<(), StorageError> {
    let mut life = node.lives.turn(chat).await;
    let is_trusted = node.repair;
    match on_disk(node, move |kept| kept.start(chat, is_trusted)).await? {
        Found::Nothing => {}
        Found::Sound(new) => drop(run(node, &mut life, new).await),
        Found::Begun(new) => {
            let why = "the chat begins here".to_owned();
            match node.kept().accepted_in(chat) {
                None => begin_repair(node, chat, &mut life, why, Some(Box::new(new))),
                Some(_) => {
                    tokio::task::spawn_blocking(move || drop(new));
                    answered_first(node, chat, &mut life, why);
                }
            }
        }
        Found::Unusable(why) => {
            repair::note_damage(chat, &why);
            match node.kept().accepted_in(chat) {
                None => begin_repair(node, chat, &mut life, why, None),
                Some(_) => answered_first(node, chat, &mut life, why),
            }
        }
        Found::Unopenable(error) => {
            tracing::error!(?chat, %error, "a chat cannot be opened; the others go on. `demes \
                status` shows it");
            node.lives.show(&node.store, chat, error.to_string(), false);
            *life = Life::Faulty(None);
        }
    }
    Ok(())
}

/// The loop has ended a chat.
pub async fn ended(node: &Arc<Node>, ended: EndedChat) {
    let EndedChat { chat, incarnation, why } = ended;
    let mut life = node.lives.turn(chat).await;
    if !matches!(*life, Life::Running(running) if running == incarnation) {
        return; // another one is here by now
    }
    let is_joining = node.kept().accepted_in(chat).is_some();
    let change = match why {
        Ended::Left => Change::Left,
        Ended::Damaged | Ended::BelowOwnPast => Change::Unusable { is_joining },
    };
    match decide(life.phase(node, chat), change) {
        Act::Forget => {
            life.end();
            forget(node, chat).await;
        }
        Act::Repair => {
            let why = repair::fault(node, chat, why);
            repair::note_damage(chat, &why);
            begin_repair(node, chat, &mut life, why, None);
        }
        Act::Ail => {
            let why = repair::fault(node, chat, why);
            repair::note_damage(chat, &why);
            answered_first(node, chat, &mut life, why);
        }
        _ => {}
    }
}

/// Keeps the record of a chat as the chat is.
pub async fn keep_record(node: &Arc<Node>, chat: ChatId) -> Result<(), StorageError> {
    let life = node.lives.turn(chat).await;
    let Life::Running(incarnation) = *life else { return Ok(()) };
    let Ok(view) = node.handle.view(chat).await else { return Ok(()) };
    let me = node.handle.me();
    on_disk(node, move |kept| records::renew(kept.store, chat, me, incarnation, &view)).await
}

// ---- what a repair does; `over` says whose it is ----

/// Begins anew. `None` where the repair is over.
pub async fn begin_anew(
    node: &Arc<Node>,
    chat: ChatId,
    over: &CancellationToken,
    record: ChatRecord,
) -> Result<Option<(Incarnation, Generation)>, StorageError> {
    let (node, over) = (Arc::clone(node), over.clone());
    let begun = whole(async move {
        let mut life = node.lives.turn(chat).await;
        let is_wanted = decide(life.phase(&node, chat), Change::Wanted) == Act::BeginAnew;
        let Life::Repairing(repair) = &mut *life else { return Ok(Ok(None)) };
        if over.is_cancelled() || !is_wanted {
            return Ok(Ok(None));
        }
        // An open file of before would be in the way.
        repair.begun = None;
        let begun = on_disk(&node, move |kept| kept.begin_anew(chat, &record)).await;
        Ok(begun.map(|new| {
            let recovered = &new.recovered;
            let begun = (recovered.incarnation, recovered.generation);
            repair.begun = Some(Box::new(new));
            Some(begun)
        }))
    });
    begun.await.unwrap_or(Ok(None))
}

/// Notes what the repair has begun, before the host hears of it.
pub async fn note_begun(
    node: &Arc<Node>,
    chat: ChatId,
    over: &CancellationToken,
    begun: (Incarnation, Generation),
    now_ms: u64,
) -> Result<(), StorageError> {
    let _life = node.lives.turn(chat).await;
    if over.is_cancelled() {
        return Ok(());
    }
    on_disk(node, move |kept| kept.note_begun(chat, begun, now_ms)).await
}

/// Writes down that a member takes part in that generation.
pub async fn hear(
    node: &Arc<Node>,
    chat: ChatId,
    over: &CancellationToken,
    generation: Generation,
) {
    let _life = node.lives.turn(chat).await;
    if over.is_cancelled() {
        return;
    }
    if let Err(error) = on_disk(node, move |kept| kept.hear(chat, generation)).await {
        tracing::error!(%error, "cannot keep where a chat goes on: see to the disk");
    }
}

/// The host has taken this peer back: what has begun runs.
pub async fn taken_back(
    node: &Arc<Node>,
    chat: ChatId,
    over: &CancellationToken,
    contacts: Vec<(PeerId, String)>,
) -> Result<(), NotAdded> {
    let (node, over) = (Arc::clone(node), over.clone());
    let back = whole(async move {
        let mut life = node.lives.turn(chat).await;
        let is_back = decide(life.phase(&node, chat), Change::TakenBack) == Act::Run;
        if over.is_cancelled() || !is_back {
            return Ok(Ok(()));
        }
        let Life::Repairing(repair) = &mut *life else { return Ok(Ok(())) };
        let Some(new) = repair.begun.take() else { return Ok(Ok(())) };
        let ran = run(&node, &mut life, NewChat { contacts, ..*new }).await;
        if ran.is_ok() {
            // An invitation that has come meanwhile is of no more use. If that cannot be written,
            // whoever accepts it, or the next start, drops it.
            let _ = drop_invitation(&node, chat).await;
        }
        Ok(ran)
    });
    back.await.unwrap_or(Ok(()))
}

/// Says how far a repair is, or with `is_given_up` that there is nothing more to be tried.
pub async fn tell(
    node: &Arc<Node>,
    chat: ChatId,
    over: &CancellationToken,
    fault: String,
    is_given_up: bool,
) {
    let mut life = node.lives.turn(chat).await;
    let phase = life.phase(node, chat);
    if over.is_cancelled() || phase != Phase::Repairing {
        return;
    }
    if is_given_up && decide(phase, Change::Hopeless) == Act::Ail {
        life.end();
        *life = Life::Faulty(None);
    }
    node.lives.show(&node.store, chat, fault, is_given_up);
}

// ---- shared ----

/// Waits for the turn to do something about a change, and until it is clear what that is.
async fn settled(
    node: &Arc<Node>,
    chat: ChatId,
    change: Change,
) -> Result<(OwnedMutexGuard<Life>, Act), Refusal> {
    loop {
        let life = node.lives.turn(chat).await;
        match decide(life.phase(node, chat), change) {
            Act::Wait if node.stop.is_cancelled() => return Err(refusal::stopping()),
            Act::Wait => {
                drop(life);
                tokio::time::sleep(LOOK).await;
            }
            act => return Ok((life, act)),
        }
    }
}

/// Lets the loop run a chat. One that cannot be run is shown as such.
async fn run(node: &Arc<Node>, life: &mut Life, new: NewChat) -> Result<(), NotAdded> {
    let (chat, incarnation) = (new.id, new.recovered.incarnation);
    let added = node.handle.add(new).await;
    match &added {
        Ok(()) => {
            *life = Life::Running(incarnation);
            node.lives.faulty().remove(&chat);
        }
        // The next start goes on with it.
        Err(NotAdded::Stopping) => *life = Life::Absent,
        Err(NotAdded::Failed(fault)) => {
            *life = Life::Faulty(None);
            node.lives.show(&node.store, chat, fault.clone(), true);
        }
    }
    added
}

/// An answer is on its way, and what is wrong is seen to when that has come to nothing.
fn answered_first(node: &Arc<Node>, chat: ChatId, life: &mut Life, why: String) {
    life.end();
    node.lives.show(&node.store, chat, format!("{why}. {ANSWERED}"), false);
    *life = Life::Faulty(Some(why));
}

fn begin_repair(
    node: &Arc<Node>,
    chat: ChatId,
    life: &mut Life,
    why: String,
    begun: Option<Box<NewChat>>,
) {
    let over = CancellationToken::new();
    let at = begun.as_ref().map(|new| (new.recovered.incarnation, new.recovered.generation));
    node.lives.show(&node.store, chat, why.clone(), false);
    *life = Life::Repairing(Repair { why: why.clone(), over: over.clone(), begun });
    repair::run(node, chat, why, over, at);
}

/// Deletes what is kept of a chat that this peer is no longer in.
async fn forget(node: &Arc<Node>, chat: ChatId) {
    if let Err(error) = on_disk(node, move |kept| kept.forget(chat)).await {
        tracing::error!(%error, "cannot delete a chat that was left: see to the disk");
    }
}

async fn drop_invitation(node: &Arc<Node>, chat: ChatId) -> Result<(), Refusal> {
    let dropped = on_disk(node, move |kept| kept.drop_invitation(chat)).await;
    node.invite_changed.notify_waiters();
    dropped.map_err(storage)
}

fn not_added(error: NotAdded) -> Refusal {
    match error {
        NotAdded::Stopping => refusal::stopping(),
        NotAdded::Failed(what) => refusal::internal(what),
    }
}

/// Does something that blocks.
async fn on_disk<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(Kept<'_>) -> T + Send + 'static,
) -> T {
    let node = Arc::clone(node);
    match tokio::task::spawn_blocking(move || work(node.kept())).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Runs a change to its end, though whoever waits for it goes away: half of one would stay for the
/// next start.
async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let interrupted = |_| refusal::internal("a change of the chat was interrupted");
    tokio::spawn(change).await.map_err(interrupted)?
}

#[cfg(test)]
mod tests;
