//! The peer as a whole: its chats' stores, and its invitations in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::life::{self, Kept, Lives};
use super::limits::{BootstrapChat, Limits};
use super::lookup::Lookup;
use super::records;
use super::refusal::{self, Refusal};
use super::repeats::Repeats;
use crate::crypto::Identity;
use crate::peer::people::invites::{
    INVITE_MAX_MS, IncomingInvite, InviteAnswer, Invites, OutgoingInvite,
};
use crate::peer::people::inviting;
use crate::peer::people::joining;
use crate::peer::people::joining::Joining;
use crate::planted::{Mistake, planted};
use crate::protocol::founding::founding_entry;
use crate::protocol::types::{ChatId, PeerId};
use crate::runtime::handle::{ChatShared, Handle};
use crate::storage::{DataDir, PeerStore, StorageError, apart, free_bytes, new_incarnation};
use crate::wire::address::with_key;
use crate::wire::link::LinkText;

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
    /// See `ServeOptions::repair`.
    pub repair: bool,
    pub limits: Limits,
    /// See `ServeOptions::storage_reserve_bytes`.
    pub storage_reserve_bytes: u64,
    pub bootstrap: Vec<BootstrapChat>,
    pub gate: Gate,
    pub lookup: Lookup,
    pub repeats: Arc<Repeats>,
    pub stop: CancellationToken,
    pub dir: DataDir,
    pub store: PeerStore,
    pub invites: Mutex<Invites>,
    /// Invitations that a task is bringing at the moment, by their keys.
    pub inviting: Mutex<BTreeSet<String>>,
    /// Wakes tasks that bring invitations and answers when the person has changed one.
    pub invite_changed: Notify,
    /// Answers that a task is bringing at the moment, and how far each is.
    pub joining: Mutex<BTreeMap<ChatId, watch::Receiver<Joining>>>,
    /// The lives of all chats.
    pub lives: Lives,
}

/// Milliseconds since 1970, by this machine's clock.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The same, where it decides whether a link has expired (R43).
pub fn links_now_ms() -> u64 {
    if planted(Mistake::LinkNeverExpires) { 0 } else { now_ms() }
}

/// Reads `[PEERID@]host:port`, as a person has written it.
pub fn parse_address(text: &str) -> Result<(Option<PeerId>, String), Refusal> {
    let read = with_key(text).map_err(|error| refusal::address_invalid(text, error))?;
    Ok((read.0, read.1.to_owned()))
}

impl Node {
    /// Founds a chat, and runs it.
    pub async fn found(self: &Arc<Self>, chat_name: &str) -> Result<ChatId, Refusal> {
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
        life::found(self, chat, incarnation, entry).await?;
        Ok(chat)
    }

    /// Invites whoever answers at `text` to a chat that runs here.
    pub fn invite(
        self: &Arc<Self>,
        chat: ChatId,
        text: &str,
        timeout: Duration,
    ) -> Result<OutgoingInvite, Refusal> {
        let (expected, address) = parse_address(text)?;
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let invite = OutgoingInvite {
            chat,
            address,
            expected: expected.map(|peer| peer.to_string()),
            reached: None,
            name: String::new(),
            expires_at_ms: now_ms().saturating_add(timeout_ms),
            noted: false,
        };
        self.lock_invites().put_outgoing(&self.store, invite.clone()).map_err(storage)?;
        inviting::start(self, &invite);
        self.invite_changed.notify_waiters();
        Ok(invite)
    }

    /// R43, L2: takes note of an invitation that arrived, until it ends.
    pub async fn invited(
        self: &Arc<Self>,
        chat: ChatId,
        mut invite: IncomingInvite,
    ) -> Result<(), Refusal> {
        if self.takes_part(chat) {
            // Whoever invites tries again.
            return if self.is_leaving(chat).await { Err(refusal::leaving()) } else { Ok(()) };
        }
        let now = now_ms();
        if invite.expires_at_ms <= now {
            return Err(refusal::invite_ended());
        }
        invite.expires_at_ms = invite.expires_at_ms.min(now.saturating_add(INVITE_MAX_MS));
        let (inviter, accept) = (invite.inviter, self.accepts_by_itself(&invite));
        let answered = {
            let mut invites = self.lock_invites();
            let known = invites.incoming_by(chat, inviter);
            let is_kept =
                known.is_some_and(|known| known.expires_at_ms > now || known.answer.is_some());
            if !is_kept {
                let most = self.limits.invites_pending_max;
                invites.remove_ended_incoming(&self.store, now, most).map_err(storage)?;
                if !invites.has_room(&invite, accept || self.shares_a_chat_with(&inviter), most) {
                    return Err(refusal::too_many_invites());
                }
                invites.put_incoming(&self.store, chat, invite).map_err(storage)?;
            }
            invites.answered(chat).is_some()
        };
        if accept && !answered {
            self.answer(chat, inviter, true)?;
        }
        Ok(())
    }

    fn shares_a_chat_with(&self, peer: &PeerId) -> bool {
        let chats = self.handle.chats().into_iter().filter(|chat| !chat.is_read_only());
        chats.into_iter().any(|chat| chat.view.borrow().status.members.contains_key(peer))
    }

    /// Answers an invitation, durably; a task brings the answer to the chat's host.
    pub fn answer(
        self: &Arc<Self>,
        chat: ChatId,
        inviter: PeerId,
        accept: bool,
    ) -> Result<watch::Receiver<Joining>, Refusal> {
        if accept {
            self.check_room()?;
        }
        let incarnation = new_incarnation().map_err(storage)?;
        let mut invites = self.lock_invites();
        let found = invites.incoming_by(chat, inviter).cloned();
        let mut invite = found.ok_or_else(refusal::invite_not_found)?;
        if invite.answer.is_none_or(|answer| answer.accept != accept) {
            if invite.expires_at_ms <= now_ms() {
                return Err(refusal::invite_not_found());
            }
            invite.answer = Some(InviteAnswer { accept, incarnation });
            invites.answer(&self.store, chat, invite).map_err(storage)?;
            self.invite_changed.notify_waiters();
        }
        drop(invites);
        Ok(joining::start(self, chat))
    }

    /// Begins to join by a link, durably. Takes the place of an invitation to the same chat.
    pub fn join_by_link(
        self: &Arc<Self>,
        text: &str,
        link: &LinkText,
    ) -> Result<watch::Receiver<Joining>, Refusal> {
        self.check_room()?;
        let incarnation = new_incarnation().map_err(storage)?;
        let mut invites = self.lock_invites();
        let is_new = invites.incoming_to(link.chat).all(|known| known.link != text);
        if is_new {
            self.make_room(&mut invites, now_ms())?;
            let invite = IncomingInvite {
                chat_name: String::new(),
                inviter: link.inviter,
                inviter_name: String::new(),
                inviter_address: link.address.clone(),
                expires_at_ms: u64::from(link.expires_at_s) * 1_000,
                answer: Some(InviteAnswer { accept: true, incarnation }),
                link: text.to_owned(),
                from: None,
            };
            invites.answer(&self.store, link.chat, invite).map_err(storage)?;
            self.invite_changed.notify_waiters();
        }
        drop(invites);
        Ok(joining::start(self, link.chat))
    }

    /// Gives up joining by a link, which nobody needs to be told. Whether it was one.
    pub fn give_up_link(&self, chat: ChatId, inviter: PeerId) -> Result<bool, Refusal> {
        let mut invites = self.lock_invites();
        let invite = invites.incoming_by(chat, inviter);
        let is_link = invite.is_some_and(|invite| !invite.link.is_empty());
        if is_link {
            invites.remove_incoming(&self.store, chat, inviter).map_err(storage)?;
            self.invite_changed.notify_waiters();
        }
        Ok(is_link)
    }

    /// Takes up the chats that a former run has left, each by itself: what cannot be used is
    /// repaired, and holds up nothing else.
    ///
    /// # Errors
    /// When the peer's own store fails.
    pub async fn resume_all(self: &Arc<Self>) -> Result<(), StorageError> {
        let mut chats = self.dir.chats()?;
        chats.extend(records::chats(&self.store)?);
        chats.sort_unstable();
        chats.dedup();
        for chat in chats {
            life::start(self, chat).await?;
        }
        Ok(())
    }

    /// Goes on with what a former run has left: answers, invitations, bootstrap chats.
    pub async fn go_on(self: &Arc<Self>) {
        let (answers, outgoing) = {
            let mut invites = self.lock_invites();
            if let Err(error) = invites.remove_expired_links(&self.store, now_ms()) {
                tracing::error!(%error, "cannot remove links that have expired: see to the disk");
            }
            let answered = invites.incoming().filter(|(_, i)| i.answer.is_some());
            let answers: Vec<_> = answered.map(|(chat, _)| chat).collect();
            let outgoing: Vec<_> = invites.outgoing().cloned().collect();
            (answers, outgoing)
        };
        for chat in answers {
            joining::start(self, chat);
        }
        for invite in outgoing {
            inviting::start(self, &invite);
        }
        for chat in &self.bootstrap {
            if let Err(refusal) = self.bootstrap(chat).await {
                tracing::error!(
                    reason = refusal.reason.name(),
                    "cannot found a bootstrap chat: check \
                    [[bootstrap.chat]], then start the peer again"
                );
            }
        }
    }

    /// What the disk has of chats' lives.
    pub fn kept(&self) -> Kept<'_> {
        Kept { dir: &self.dir, store: &self.store, invites: &self.invites }
    }

    /// Held by whoever writes them, too, and so for as long as a disk takes.
    pub fn lock_invites(&self) -> MutexGuard<'_, Invites> {
        apart(|| self.invites.lock()).expect("nothing panics while it holds this lock")
    }

    /// A chat that this peer takes part in. One that it was removed from is not found.
    pub fn chat(&self, chat: ChatId) -> Result<Arc<ChatShared>, Refusal> {
        let chat = self.handle.chat(chat);
        chat.filter(|chat| !chat.is_read_only()).ok_or_else(refusal::chat_not_found)
    }

    /// Whether the chat runs here, and this peer was not removed from it.
    pub fn takes_part(&self, chat: ChatId) -> bool {
        self.handle.chat(chat).is_some_and(|chat| !chat.is_read_only())
    }

    /// Whether this peer takes part in the chat only until the others know that it leaves.
    pub async fn is_leaving(&self, chat: ChatId) -> bool {
        // What was shown last may be some moments old.
        self.handle.view(chat).await.is_ok_and(|view| view.status.is_leaving)
    }

    /// For one more invitation: those that have ended give way.
    fn make_room(&self, invites: &mut Invites, now_ms: u64) -> Result<(), Refusal> {
        let most = self.limits.invites_pending_max;
        invites.remove_ended_incoming(&self.store, now_ms, most).map_err(storage)?;
        if invites.incoming().count() >= most {
            return Err(refusal::too_many_invites());
        }
        Ok(())
    }

    fn check_room(&self) -> Result<(), Refusal> {
        let most = self.limits.chats_max;
        if self.handle.chats().len() >= most {
            return Err(refusal::too_many_chats(most));
        }
        // R38: a chat that begins now would take nothing and host nothing.
        let free = apart(|| free_bytes(self.dir.path())).map_err(storage)?;
        if free < self.storage_reserve_bytes { Err(refusal::storage_full()) } else { Ok(()) }
    }

    /// Bootstrap chats are accepted from their founder's address only, and once; joining proves
    /// that the inviter's key answers there. Else only people who share a chat are known.
    fn accepts_by_itself(&self, invite: &IncomingInvite) -> bool {
        let mut chats = self.handle.chats().into_iter().filter(|chat| !chat.is_read_only());
        let is_bootstrap = self.bootstrap.iter().any(|chat| {
            chat.name == invite.chat_name && chat.members.first() == Some(&invite.inviter_address)
        });
        if !is_bootstrap {
            return self.auto_accept && self.shares_a_chat_with(&invite.inviter);
        }
        let is_second = chats.any(|chat| chat.view.borrow().status.chat_name == invite.chat_name);
        if is_second {
            tracing::warn!(
                "a bootstrap chat was founded a second time and is not joined: its founder may \
                 have lost its data; docs/operations.md says how to bring it back"
            );
        }
        !is_second
    }

    async fn bootstrap(self: &Arc<Self>, chat: &BootstrapChat) -> Result<(), Refusal> {
        let is_founder = chat.members.first() == Some(&self.address);
        if !is_founder || self.store.get(BOOTSTRAP, &chat.name).map_err(storage)?.is_some() {
            return Ok(());
        }
        // The record may be lost with the peer's own store; the chat is not.
        let chats = self.handle.chats();
        let known = chats.iter().find(|one| one.view.borrow().status.chat_name == chat.name);
        let id = match known.map(|known| known.id) {
            Some(id) => id,
            None => self.found(&chat.name).await?,
        };
        self.store.put(BOOTSTRAP, &chat.name, id.to_string().as_bytes()).map_err(storage)?;
        for address in &chat.members[1..] {
            self.invite(id, address, BOOTSTRAP_INVITE)?;
        }
        Ok(())
    }
}

/// A failure of the peer's own store.
pub fn storage(error: StorageError) -> Refusal {
    tracing::error!(%error, "the store failed: see to the disk");
    refusal::store(&error)
}
