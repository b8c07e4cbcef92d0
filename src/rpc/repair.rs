//! Chats whose file can no longer be used (R9, R37): it is bad, gone, or not the newest. They begin
//! anew in another incarnation and fetch everything from the other members.
//!
//! That happens by itself, but only once the chat has a host that takes this peer back: until then
//! the file is left as it is. What nobody else has is refused, with words that say what a person
//! can do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use opentelemetry::KeyValue;
use tonic::Status;

use super::joining::{Attempt, Problem};
use super::node::{Node, now_ms};
use super::records::{self, ChatRecord};
use super::status;
use crate::protocol::event::Recovered;
use crate::protocol::recovery::generation_text;
use crate::protocol::types::{ChatId, Generation, PeerId};
use crate::runtime::driver::Ended;
use crate::runtime::handle::NewChat;
use crate::storage::{Anew, ChatStore, PeerStore, StorageError, new_incarnation};
use crate::telemetry::metrics::{Metric, REPAIR_OUTCOME, add};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A chat begins anew at most so often: a disk that spoils everything must not fill the chat's log
/// with one incarnation after the other.
const RENEW_EVERY_MS: u64 = 600_000;
/// How long a file may take to be closed after the loop has let it go.
const CLOSE_LOOK: Duration = Duration::from_millis(10);
const CLOSE_LOOKS: u32 = 1_000;

const NOBODY: &str = "Nobody else is known to have it: put back a copy of the file if it is bad, \
                      and start with `demes up --repair`, which takes what is there for the \
                      newest; or give the chat up here with `demes leave`";
const TOO_SOON: &str =
    "It was repaired a short while ago, and is again in some minutes: look at the disk";
const WAITS_FOR_HOST: &str = "It waits for the chat's host, which must take this peer back: a \
                              majority of the voters must be there for that";
const REMOVED: &str = "The others say that this peer is no longer a member: ask to be invited \
                       again, or give the chat up here with `demes leave`";

/// The chats that do not run, and the tasks that repair them.
#[derive(Default)]
pub struct Repairs {
    ailing: Mutex<BTreeMap<ChatId, Ailing>>,
    running: Mutex<BTreeSet<ChatId>>,
}

/// A chat that does not run here at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ailing {
    pub name: String,
    /// What is wrong, what happens now, and what a person can do.
    pub fault: String,
    /// Nothing more is tried until the next start.
    pub is_given_up: bool,
}

impl Ailing {
    /// Why a call about this chat cannot be answered.
    pub fn refusal(&self) -> Status {
        status::storage_damaged(&self.fault)
    }
}

impl Repairs {
    /// The chats that do not run.
    pub fn ailing(&self) -> MutexGuard<'_, BTreeMap<ChatId, Ailing>> {
        self.ailing.lock().expect("nothing panics while it holds this lock")
    }

    /// Says what is wrong with a chat. Its name stands in `store`.
    pub fn set_ailing(&self, store: &PeerStore, chat: ChatId, fault: String) {
        let record = records::get(store, chat).ok().flatten();
        let name = record.map(|record| record.name).unwrap_or_default();
        self.ailing().insert(chat, Ailing { name, fault, is_given_up: false });
    }

    /// The same of one that is not repaired before the next start.
    pub fn give_up(&self, store: &PeerStore, chat: ChatId, fault: String) {
        self.set_ailing(store, chat, fault);
        if let Some(ailing) = self.ailing().get_mut(&chat) {
            ailing.is_given_up = true;
        }
    }

    pub fn clear_ailing(&self, chat: ChatId) {
        self.ailing().remove(&chat);
    }

    fn running(&self) -> MutexGuard<'_, BTreeSet<ChatId>> {
        self.running.lock().expect("nothing panics while it holds this lock")
    }
}

/// Why an attempt to repair a chat has not led further.
enum Obstacle {
    /// Another one may.
    Wait(String),
    /// None will.
    Final(String),
}

/// Reads the stores of all chats through, one after the other, once after the start: what opening
/// does not read may be bad as well, and others still have it. The loop hears of what is found.
pub async fn check_all(node: Arc<Node>) {
    for chat in node.handle.chats() {
        let reader = chat.reader.clone();
        let checked = tokio::task::spawn_blocking(move || reader.check());
        tokio::select! {
            checked = checked => if let Ok(Err(error)) = checked {
                tracing::error!(chat = ?chat.id, %error, "the check of a chat's store found \
                    damage: it is repaired from the other members; see to the disk");
            },
            () = node.stop.cancelled() => return,
        }
    }
}

/// The loop has ended a chat because its file cannot be used.
pub fn after(node: &Arc<Node>, chat: ChatId, why: Ended) {
    let why = match why {
        Ended::BelowOwnPast => "the others know more of this peer than its store does: an older \
                                copy of it was put back"
            .to_owned(),
        Ended::Damaged | Ended::Left => {
            let what = node.dir.damage_of(chat).unwrap_or_default();
            format!("the chat's store is damaged ({what})")
        }
    };
    start(node, chat, why);
}

/// Starts to repair a chat. `why` says what is wrong with it.
pub fn start(node: &Arc<Node>, chat: ChatId, why: String) {
    add(Metric::StorageDamages, 1, &[]);
    tracing::error!(
        ?chat,
        fault = why,
        "a chat cannot be gone on with and is repaired from the \
        other members; the other chats go on. `demes status` shows it"
    );
    run(node, chat, why, None);
}

/// Goes on where a chat has begun, anew or not, and nothing of it has come: this peer may not have
/// been taken in.
pub fn go_on(node: &Arc<Node>, new: NewChat) {
    run(node, new.id, "the chat begins here".to_owned(), Some(new));
}

/// What the store at hand makes of a chat for the loop.
pub fn new_chat(
    id: ChatId,
    store: ChatStore,
    recovered: Recovered,
    contacts: Vec<(PeerId, String)>,
) -> Result<NewChat, StorageError> {
    let carried = store.carried()?;
    Ok(NewChat { id, store, recovered, contacts, carried })
}

fn run(node: &Arc<Node>, chat: ChatId, why: String, new: Option<NewChat>) {
    if !node.repairs.running().insert(chat) {
        let fault = format!("{why}. It was repaired this moment: start the peer again");
        node.repairs.give_up(&node.store, chat, fault);
        return;
    }
    node.repairs.set_ailing(&node.store, chat, why.clone());
    let node = Arc::clone(node);
    tokio::spawn(async move {
        tokio::select! {
            () = repair(&node, chat, &why, new) => {}
            () = node.stop.cancelled() => {}
        }
        node.repairs.running().remove(&chat);
    });
}

async fn repair(node: &Arc<Node>, chat: ChatId, why: &str, mut new: Option<NewChat>) {
    let mut wait = RETRY_MIN;
    loop {
        let begun = new.is_some();
        let obstacle = match step(node, chat, &mut new).await {
            Ok(()) => {
                node.repairs.clear_ailing(chat);
                add(Metric::StorageRepairs, 1, &[KeyValue::new(REPAIR_OUTCOME, "begun_anew")]);
                tracing::info!(?chat, "the chat has begun anew and catches up");
                return;
            }
            Err(obstacle) => obstacle,
        };
        if !node.repairs.ailing().contains_key(&chat) {
            return; // the person has given it up
        }
        match obstacle {
            Obstacle::Wait(what) => {
                node.repairs.set_ailing(&node.store, chat, format!("{why}. {what}"));
            }
            Obstacle::Final(what) => {
                let fault = format!("{why}. {what}");
                add(Metric::StorageRepairs, 1, &[KeyValue::new(REPAIR_OUTCOME, "failed")]);
                tracing::error!(
                    ?chat,
                    fault,
                    "the chat cannot be repaired: the fault says what to do"
                );
                node.repairs.give_up(&node.store, chat, fault);
                return;
            }
        }
        if new.is_some() != begun {
            wait = RETRY_MIN;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// One attempt: finds a host, begins anew, and is taken back.
async fn step(node: &Arc<Node>, chat: ChatId, new: &mut Option<NewChat>) -> Result<(), Obstacle> {
    let mut record = records::get(&node.store, chat).map_err(unwritable)?.unwrap_or_default();
    let contacts = record.contacts();
    if contacts.is_empty() {
        return Err(Obstacle::Final(NOBODY.to_owned()));
    }
    if new.is_none() {
        find_host(node, chat, &record).await?;
        if now_ms() < record.renewed_at_ms.saturating_add(RENEW_EVERY_MS) {
            return Err(Obstacle::Wait(TOO_SOON.to_owned()));
        }
        record.renewed_at_ms = now_ms();
        records::put(&node.store, chat, &record).map_err(unwritable)?;
        let Anew { store, recovered, .. } = begin_anew(node, chat, &record).await?;
        *new = Some(new_chat(chat, store, recovered, contacts.clone()).map_err(unwritable)?);
    }
    let Some(begun) = new.as_ref().map(|new| &new.recovered) else { return Ok(()) };
    let (incarnation, generation) = (begun.incarnation, begun.generation);
    if record.generation != generation {
        // R30: what a person has chosen stays chosen if this file is lost as well.
        records::put(&node.store, chat, &ChatRecord { generation, ..record })
            .map_err(unwritable)?;
    }
    let mut attempt = Attempt::to_come_back(chat, incarnation, generation, &contacts);
    for turn in 0..attempt.doors() {
        match attempt.make(node, turn).await {
            Ok(()) => {
                let Some(new) = new.take() else { return Ok(()) };
                let new = NewChat { contacts: attempt.contacts(), ..new };
                return node.handle.add(new).await.map_err(Obstacle::Final);
            }
            Err(Problem::Final(error)) => {
                let code = error.code();
                tracing::warn!(
                    ?chat,
                    ?code,
                    "the host does not take this peer back: ask a member \
                    for a new invitation"
                );
                return Err(Obstacle::Wait(REMOVED.to_owned()));
            }
            Err(Problem::NotYet) => {}
            Err(Problem::Passing(error)) => {
                tracing::debug!(code = ?error.code(), "this peer is not taken back yet");
            }
        }
    }
    // It may be the wrong generation that a person has chosen.
    let Some(elsewhere) = attempt.elsewhere() else {
        return Err(Obstacle::Wait(WAITS_FOR_HOST.to_owned()));
    };
    hear(node, chat, elsewhere);
    let (own, elsewhere) = (generation_text(generation), generation_text(elsewhere));
    Err(Obstacle::Wait(format!(
        "{WAITS_FOR_HOST}. It takes part in generation {own}, and a member was met in {elsewhere}: \
         `demes recover {chat} --follow {elsewhere}` goes there, while the peer is stopped"
    )))
}

/// Asks the members until one says that it has the chat, and this peer in it, and that the chat has
/// a host. Without one nobody could take this peer back, and its old vote may be needed yet.
async fn find_host(node: &Node, chat: ChatId, record: &ChatRecord) -> Result<(), Obstacle> {
    let contacts = record.contacts();
    let me = node.handle.me().to_string();
    let mut attempt = Attempt::to_come_back(chat, 0, record.generation, &contacts);
    // What the members say that do not help; the first word counts.
    let mut holders = 0;
    let mut obstacle = None;
    for turn in 0..contacts.len().min(attempt.doors()) {
        let found = match attempt.ask(node, turn).await {
            Ok((_, found)) => found,
            Err(Problem::Final(_)) => {
                obstacle.get_or_insert_with(|| REMOVED.to_owned());
                continue;
            }
            Err(Problem::NotYet) => continue,
            Err(Problem::Passing(error)) => {
                tracing::debug!(code = ?error.code(), "a member does not have the chat");
                continue;
            }
        };
        if found.generation != record.generation {
            // R30: only a person decides which course of the chat to take part in.
            hear(node, chat, found.generation);
            let generation = generation_text(found.generation);
            obstacle.get_or_insert_with(|| {
                format!(
                    "A member has recovered the chat: `demes recover {chat} --follow {generation}` \
                     takes part in that, while the peer is stopped"
                )
            });
        } else if !found.members.iter().any(|member| member.peer_id == me) {
            obstacle.get_or_insert_with(|| REMOVED.to_owned());
        } else if !found.host_peer_id.is_empty() {
            return Ok(());
        } else {
            holders += 1;
        }
    }
    let others = contacts.len();
    let again = "they are asked again and again, and the file is left as it is until then";
    Err(Obstacle::Wait(match obstacle {
        Some(obstacle) => obstacle,
        None if holders == 0 && others == 1 => {
            format!("The other member was not reached, or does not have the chat; {again}")
        }
        None if holders == 0 => {
            format!("None of the {others} other members was reached who has the chat; {again}")
        }
        None => format!(
            "Members that have the chat: {holders} of {others} others, too few for a host; \
             {again}. If the rest are lost for good, `demes recover` on one of those goes on"
        ),
    }))
}

/// Writes down that a member takes part in that generation.
fn hear(node: &Node, chat: ChatId, generation: Generation) {
    let written = records::get(&node.store, chat).and_then(|record| {
        let mut record = record.unwrap_or_default();
        record.hear([generation]);
        records::put(&node.store, chat, &record)
    });
    if let Err(error) = written {
        tracing::error!(%error, "cannot keep where a chat goes on: see to the disk");
    }
}

async fn begin_anew(node: &Arc<Node>, chat: ChatId, record: &ChatRecord) -> Result<Anew, Obstacle> {
    let generation = record.generation;
    for _ in 0..CLOSE_LOOKS {
        let incarnation = new_incarnation().map_err(unwritable)?;
        let node = Arc::clone(node);
        let begun =
            tokio::task::spawn_blocking(move || node.dir.follow(chat, incarnation, generation));
        match begun.await {
            Ok(Ok(anew)) => {
                let kept_at = anew.kept_at.as_ref().map(|path| path.display().to_string());
                tracing::warn!(
                    ?chat,
                    kept_at,
                    "the chat begins anew; its old store is kept: \
                    delete it once nothing is missing"
                );
                return Ok(anew);
            }
            Ok(Err(StorageError::InUse { .. })) => tokio::time::sleep(CLOSE_LOOK).await,
            Ok(Err(error)) => return Err(unwritable(error)),
            Err(_) => return Err(Obstacle::Wait("The repair was interrupted".to_owned())),
        }
    }
    Err(Obstacle::Final("Its file is not closed: start the peer again".to_owned()))
}

fn unwritable(error: StorageError) -> Obstacle {
    Obstacle::Wait(format!("It cannot be repaired at the moment ({error})"))
}
