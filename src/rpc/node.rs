//! The peer as a whole: its chats' stores, and its invitations in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::gate::Gate;
use super::invites::{IncomingInvite, InviteAnswer, Invites, OutgoingInvite, to_json};
use super::lookup::Lookup;
use super::options::{BootstrapChat, Limits};
use super::{inviting, joining, status};
use crate::crypto::Identity;
use crate::protocol::founding::founding_entry;
use crate::protocol::types::{ChatId, PeerId};
use crate::runtime::handle::{Handle, NewChat};
use crate::storage::{DataDir, PeerStore, StorageError, new_incarnation};
use crate::wire::check_address;

const CONTACTS: &str = "contacts";
const BOOTSTRAP: &str = "bootstrap";
/// How long invitations of a bootstrap chat are resent: pods may take long to come up.
const BOOTSTRAP_INVITE: Duration = Duration::from_secs(24 * 3_600);

/// One running peer, shared by all its services.
pub struct Node {
    pub handle: Handle,
    pub identity: Arc<Identity>,
    pub name: String,
    /// Where other peers reach this one.
    pub address: String,
    /// The port of the listener for other peers.
    pub listen_port: u16,
    pub auto_accept: bool,
    pub limits: Limits,
    pub bootstrap: Vec<BootstrapChat>,
    pub gate: Gate,
    pub lookup: Lookup,
    pub stop: CancellationToken,
    pub dir: DataDir,
    pub store: PeerStore,
    pub invites: Mutex<Invites>,
    /// Answers and invitations that a task is bringing at the moment.
    pub busy: Mutex<BTreeSet<String>>,
    /// Chats whose store cannot be opened, and why.
    pub damaged: BTreeMap<ChatId, String>,
}

/// Milliseconds since 1970, by this machine's clock.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Splits `[PEERID@]host:port`.
pub fn parse_address(text: &str) -> Result<(Option<PeerId>, String), Status> {
    let invalid = || status::address_invalid(text);
    let (peer, address) = match text.split_once('@') {
        Some((peer, address)) => (Some(peer.parse().map_err(|_| invalid())?), address),
        None => (None, text),
    };
    check_address(address, "address").map_err(|_| invalid())?;
    Ok((peer, address.to_owned()))
}

impl Node {
    /// Founds a chat, and runs it.
    pub async fn found(self: &Arc<Self>, chat_name: &str) -> Result<ChatId, Status> {
        self.check_room()?;
        let incarnation = new_incarnation().map_err(storage)?;
        let (chat, entry) = founding_entry(
            self.identity.peer_id(),
            incarnation,
            chat_name.to_owned(),
            self.name.clone(),
            self.address.clone(),
            now_ms(),
            |signed| self.identity.sign(signed),
        );
        let created = self.dir.create_chat(chat, incarnation, &[Arc::new(entry)]);
        let (store, recovered) = created.map_err(storage)?;
        let new = NewChat { id: chat, store, recovered, contacts: Vec::new() };
        self.handle.add(new).await.map_err(Status::internal)?;
        Ok(chat)
    }

    /// Invites whoever answers at `text` to a chat that runs here.
    pub fn invite(
        self: &Arc<Self>,
        chat: ChatId,
        text: &str,
        timeout: Duration,
    ) -> Result<OutgoingInvite, Status> {
        let (expected, address) = parse_address(text)?;
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let invite = OutgoingInvite {
            chat,
            address,
            expected: expected.map(|peer| peer.to_string()),
            reached: None,
            name: String::new(),
            expires_at_ms: now_ms().saturating_add(timeout_ms),
        };
        self.lock_invites().put_outgoing(&self.store, invite.clone()).map_err(storage)?;
        inviting::start(self, invite.clone());
        Ok(invite)
    }

    /// R43: takes note of an invitation that arrived, until it ends.
    pub fn invited(self: &Arc<Self>, chat: ChatId, invite: IncomingInvite) -> Result<(), Status> {
        if self.handle.chat(chat).is_some() {
            return Ok(());
        }
        let now = now_ms();
        if invite.expires_at_ms <= now {
            return Err(Status::failed_precondition("the invitation has ended"));
        }
        let accept = self.accepts_by_itself(&invite);
        {
            let mut invites = self.lock_invites();
            let known = invites.incoming().get(&chat);
            let is_kept =
                known.is_some_and(|known| known.expires_at_ms > now || known.answer.is_some());
            if !is_kept {
                let waiting = invites.incoming().values();
                let waiting = waiting.filter(|invite| invite.expires_at_ms > now).count();
                if waiting >= self.limits.invites_pending_max {
                    return Err(Status::resource_exhausted("too many invitations wait there"));
                }
                invites.put_incoming(&self.store, chat, invite).map_err(storage)?;
            }
        }
        if accept {
            self.answer(chat, true)?;
        }
        Ok(())
    }

    /// Answers an invitation, durably; a task brings the answer to the chat's host.
    pub fn answer(self: &Arc<Self>, chat: ChatId, accept: bool) -> Result<(), Status> {
        if accept {
            self.check_room()?;
        }
        let incarnation = new_incarnation().map_err(storage)?;
        let mut invites = self.lock_invites();
        let found = invites.incoming().get(&chat).cloned();
        let mut invite = found.ok_or_else(status::invite_not_found)?;
        if invite.answer.is_none_or(|answer| answer.accept != accept) {
            if invite.expires_at_ms <= now_ms() {
                return Err(status::invite_not_found());
            }
            invite.answer = Some(InviteAnswer { accept, incarnation });
            invites.put_incoming(&self.store, chat, invite.clone()).map_err(storage)?;
        }
        drop(invites);
        joining::start(self, chat, invite);
        Ok(())
    }

    /// Runs a chat that has taken this peer on. The log comes from the host.
    pub async fn joined(
        self: &Arc<Self>,
        chat: ChatId,
        incarnation: u64,
        contacts: Vec<(PeerId, String)>,
    ) -> Result<(), Status> {
        let record: Vec<_> = contacts.iter().map(|(p, a)| (p.to_string(), a.clone())).collect();
        self.store.put(CONTACTS, &chat.to_string(), &to_json(&record)).map_err(storage)?;
        let created = self.dir.create_chat(chat, incarnation, &[]).map_err(storage)?;
        let (store, recovered) = created;
        let new = NewChat { id: chat, store, recovered, contacts };
        self.handle.add(new).await.map_err(Status::internal)?;
        self.lock_invites().remove_incoming(&self.store, chat).map_err(storage)
    }

    /// Takes up an existing chat.
    pub async fn resume(&self, chat: ChatId) -> Result<(), String> {
        let (store, recovered) = self.dir.open_chat(chat).map_err(|error| error.to_string())?;
        let contacts = self.contacts(chat);
        self.handle.add(NewChat { id: chat, store, recovered, contacts }).await
    }

    /// Goes on with what a former run has left: answers, invitations, bootstrap chats.
    pub async fn go_on(self: &Arc<Self>) {
        let (answers, outgoing) = {
            let invites = self.lock_invites();
            let answered = invites.incoming().iter().filter(|(_, i)| i.answer.is_some());
            let answers: Vec<_> = answered.map(|(chat, i)| (*chat, i.clone())).collect();
            let outgoing: Vec<_> = invites.outgoing().cloned().collect();
            (answers, outgoing)
        };
        for (chat, invite) in answers {
            joining::start(self, chat, invite);
        }
        for invite in outgoing.into_iter().filter(|invite| invite.reached.is_none()) {
            inviting::start(self, invite);
        }
        for chat in &self.bootstrap {
            if let Err(status) = self.bootstrap(chat).await {
                tracing::error!(error = status.message(), "cannot found a bootstrap chat");
            }
        }
    }

    /// Deletes what is kept of a chat that this peer is no longer in.
    pub fn forget(&self, chat: ChatId) {
        let forgotten = self
            .dir
            .remove_chat(chat)
            .and_then(|()| self.store.remove(CONTACTS, &chat.to_string()))
            .and_then(|()| self.lock_invites().remove_outgoing_of(&self.store, chat));
        if let Err(error) = forgotten {
            tracing::error!(%error, "cannot delete a chat that was left");
        }
    }

    pub fn lock_invites(&self) -> MutexGuard<'_, Invites> {
        self.invites.lock().expect("nothing panics while it holds this lock")
    }

    fn check_room(&self) -> Result<(), Status> {
        let most = self.limits.chats_max;
        if self.handle.chats().len() >= most { Err(status::too_many_chats(most)) } else { Ok(()) }
    }

    fn contacts(&self, chat: ChatId) -> Vec<(PeerId, String)> {
        let record = self.store.get(CONTACTS, &chat.to_string()).ok().flatten();
        let record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let contacts: Vec<(String, String)> = record.unwrap_or_default();
        contacts.into_iter().filter_map(|(p, a)| Some((p.parse().ok()?, a))).collect()
    }

    /// Bootstrap chats are accepted from their founder's address only; joining proves that the
    /// inviter's key answers there. Else only people who share a chat are known.
    fn accepts_by_itself(&self, invite: &IncomingInvite) -> bool {
        let is_bootstrap = self.bootstrap.iter().any(|chat| {
            chat.name == invite.chat_name && chat.members.first() == Some(&invite.inviter_address)
        });
        let is_known = || {
            let mut chats = self.handle.chats().into_iter();
            chats.any(|chat| chat.view.borrow().status.members.contains_key(&invite.inviter))
        };
        is_bootstrap || (self.auto_accept && is_known())
    }

    async fn bootstrap(self: &Arc<Self>, chat: &BootstrapChat) -> Result<(), Status> {
        let is_founder = chat.members.first() == Some(&self.address);
        if !is_founder || self.store.get(BOOTSTRAP, &chat.name).map_err(storage)?.is_some() {
            return Ok(());
        }
        let id = self.found(&chat.name).await?;
        self.store.put(BOOTSTRAP, &chat.name, id.to_string().as_bytes()).map_err(storage)?;
        for address in &chat.members[1..] {
            self.invite(id, address, BOOTSTRAP_INVITE)?;
        }
        Ok(())
    }
}

/// Marks a task as running; `None` where it runs already. It ends with the returned value.
pub fn begin(node: &Arc<Node>, key: String) -> Option<Busy> {
    let mut busy = node.busy.lock().expect("nothing panics while it holds this lock");
    busy.insert(key.clone()).then(|| Busy { node: Arc::clone(node), key })
}

/// A running task.
pub struct Busy {
    node: Arc<Node>,
    key: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.node.busy.lock().expect("nothing panics while it holds this lock").remove(&self.key);
    }
}

fn storage(error: StorageError) -> Status {
    tracing::error!(%error, "the store failed");
    status::storage_damaged(error.to_string())
}
