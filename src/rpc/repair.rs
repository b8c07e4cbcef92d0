//! Chats whose file can no longer be used (R9, R37): it is bad, gone, or not the newest. They begin
//! anew in another incarnation and fetch everything from the other members.
//!
//! That happens by itself, but only once somebody is reached who has the chat: until then the file
//! is left as it is. What nobody else has is refused, with words that say what a person can do.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::invites::InviteAnswer;
use super::joining::{ask_for_host, attempt};
use super::node::{Node, begin, now_ms};
use super::{records, status};
use crate::protocol::event::Recovered;
use crate::protocol::types::{ChatId, PeerId};
use crate::runtime::driver::Ended;
use crate::runtime::handle::NewChat;
use crate::storage::{Anew, ChatStore, StorageError, new_incarnation};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A chat begins anew at most so often: a disk that spoils everything must not fill the chat's log
/// with one incarnation after the other.
const RENEW_EVERY_MS: u64 = 600_000;
/// How long a file may take to be closed after the loop has let it go.
const CLOSE_LOOK: Duration = Duration::from_millis(10);
const CLOSE_LOOKS: u32 = 1_000;

/// A chat that does not run here at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ailing {
    pub name: String,
    /// What is wrong, what happens now, and what a person can do.
    pub fault: String,
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
                tracing::error!(chat = ?chat.id, %error, "a store was checked");
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
        Ended::Damaged | Ended::Removed => {
            let what = node.dir.damage_of(chat).unwrap_or_default();
            format!("the chat's store is damaged ({what})")
        }
    };
    start(node, chat, why);
}

/// Starts to repair a chat, unless that runs. `why` says what is wrong with it.
pub fn start(node: &Arc<Node>, chat: ChatId, why: String) {
    tracing::error!(?chat, fault = why, "a chat cannot be gone on with; the others go on");
    run(node, chat, why, None);
}

/// Goes on where a chat has begun, anew or not, and nothing of it has come: this peer may not have
/// been taken in.
pub fn go_on(node: &Arc<Node>, new: NewChat) {
    run(node, new.id, "the chat begins here".to_owned(), Some(new));
}

fn run(node: &Arc<Node>, chat: ChatId, why: String, anew: Option<NewChat>) {
    let Some(busy) = begin(node, format!("repair/{chat}")) else {
        node.set_ailing(chat, format!("{why}. It was repaired this moment: start the peer again"));
        return;
    };
    node.set_ailing(chat, why.clone());
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let _busy = busy;
        tokio::select! {
            () = repair(&node, chat, &why, anew) => {}
            () = node.stop.cancelled() => {}
        }
    });
}

async fn repair(node: &Arc<Node>, chat: ChatId, why: &str, mut anew: Option<NewChat>) {
    let mut wait = RETRY_MIN;
    loop {
        let begun = anew.is_some();
        let obstacle = match step(node, chat, &mut anew).await {
            Ok(()) => {
                node.clear_ailing(chat);
                tracing::warn!(?chat, "the chat is repaired: it has begun anew and catches up");
                return;
            }
            Err(obstacle) => obstacle,
        };
        if node.ailing(chat).is_none() {
            return; // the person has given it up
        }
        match obstacle {
            Obstacle::Wait(what) => node.set_ailing(chat, format!("{why}. {what}")),
            Obstacle::Final(what) => {
                let fault = format!("{why}. {what}");
                tracing::error!(?chat, fault, "the chat cannot be repaired");
                node.set_ailing(chat, fault);
                return;
            }
        }
        if anew.is_some() != begun {
            wait = RETRY_MIN;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// One attempt: finds somebody who has the chat, begins anew, and is taken back.
async fn step(node: &Arc<Node>, chat: ChatId, anew: &mut Option<NewChat>) -> Result<(), Obstacle> {
    let record = records::get(&node.store, chat).map_err(unwritable)?.unwrap_or_default();
    let mut contacts = record.contacts();
    if contacts.is_empty() {
        return Err(Obstacle::Final(
            "Nobody else is known to have it: put back a copy of the file if it is bad, and start \
             with `demes up --repair`, which takes what is there for the newest; or give the chat \
             up here with `demes leave`"
                .to_owned(),
        ));
    }
    if anew.is_none() {
        find_host(node, chat, &contacts).await?;
        let due_ms = record.renewed_at_ms.saturating_add(RENEW_EVERY_MS);
        if now_ms() < due_ms {
            return Err(Obstacle::Wait(
                "It was repaired a short while ago, and is again in some minutes: look at the disk"
                    .to_owned(),
            ));
        }
        let renewed = records::ChatRecord { renewed_at_ms: now_ms(), ..record.clone() };
        records::put(&node.store, chat, &renewed).map_err(unwritable)?;
        let Anew { store, recovered, .. } = begin_anew(node, chat).await?;
        let begun = new_chat(chat, store, recovered, contacts.clone()).map_err(unwritable)?;
        *anew = Some(begun);
    }
    let Some(incarnation) = anew.as_ref().map(|anew| anew.recovered.incarnation) else {
        return Ok(());
    };
    let answer = InviteAnswer { accept: true, incarnation };
    let mut last = None;
    for asked in contacts.clone() {
        match attempt(node, chat, answer, &asked, &mut contacts).await {
            Ok(()) => {
                let Some(new) = anew.take() else { return Ok(()) };
                let new = NewChat { contacts, ..new };
                return node.handle.add(new).await.map_err(Obstacle::Final);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(Obstacle::Wait(match last {
        Some(error) if status::is_not_member(&error) => {
            "The chat's host says that this peer is no longer a member: ask to be invited again, \
             or give the chat up here with `demes leave`"
        }
        _ => {
            "It waits for the chat's host, which must take this peer back: a majority of the \
             voters must be there for that"
        }
    }
    .to_owned()))
}

/// Asks the members until one says that it has the chat, and this peer in it, and that the chat has
/// a host. Without one nobody could take this peer back, and its old vote may be needed yet.
async fn find_host(
    node: &Node,
    chat: ChatId,
    contacts: &[(PeerId, String)],
) -> Result<(), Obstacle> {
    let mut holders = 0;
    for contact in contacts {
        match ask_for_host(node, chat, contact).await {
            Ok(true) => return Ok(()),
            Ok(false) => holders += 1,
            Err(error) => tracing::debug!(code = ?error.code(), "a member does not have the chat"),
        }
    }
    let others = contacts.len();
    Err(Obstacle::Wait(if holders == 0 {
        format!(
            "None of the {others} other members was reached who has the chat; they are asked again \
             and again, and the file is left as it is until then"
        )
    } else {
        format!(
            "Of the {others} other members, {holders} have the chat, but are too few for a host; \
             they are asked again and again, and the file is left as it is until then"
        )
    }))
}

async fn begin_anew(node: &Arc<Node>, chat: ChatId) -> Result<Anew, Obstacle> {
    for _ in 0..CLOSE_LOOKS {
        let incarnation = new_incarnation().map_err(unwritable)?;
        let beginning = Arc::clone(node);
        let begun =
            tokio::task::spawn_blocking(move || beginning.dir.begin_anew(chat, incarnation));
        match begun.await {
            Ok(Ok(anew)) => {
                let kept_at = anew.kept_at.as_ref().map(|path| path.display().to_string());
                tracing::warn!(?chat, kept_at, "the chat begins anew; its old store is kept");
                return Ok(anew);
            }
            Ok(Err(StorageError::InUse { .. })) => tokio::time::sleep(CLOSE_LOOK).await,
            Ok(Err(error)) => return Err(unwritable(error)),
            Err(_) => return Err(Obstacle::Wait("The repair was interrupted".to_owned())),
        }
    }
    Err(Obstacle::Final("Its file is not closed: start the peer again".to_owned()))
}

/// A chat for the loop, with what its store carries.
pub fn new_chat(
    id: ChatId,
    store: ChatStore,
    recovered: Recovered,
    contacts: Vec<(PeerId, String)>,
) -> Result<NewChat, StorageError> {
    let carried = store.carried()?;
    Ok(NewChat { id, store, recovered, contacts, carried })
}

fn unwritable(error: StorageError) -> Obstacle {
    Obstacle::Wait(format!("It cannot be repaired at the moment ({error})"))
}

/// Why a call about this chat cannot be answered.
pub fn refusal(ailing: &Ailing) -> Status {
    status::storage_damaged(&ailing.fault)
}
