//! What the disk has of a chat's life, and in which order it changes: the file, the record in the
//! peer's own store, the invitation there. A crash at any write leaves what the next start goes on
//! with, and no incarnation is ever used for two files: before a file is made in the incarnation
//! of an answer, the record names it, and an answer whose incarnation it names is used up.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::super::records::{self, ChatRecord};
use crate::peer::people::invites::Invites;
use crate::protocol::event::Recovered;
use crate::protocol::types::{ChatId, Entry, Generation, Incarnation, PeerId};
use crate::runtime::handle::NewChat;
use crate::storage::{Anew, ChatStore, DataDir, PeerStore, StorageError, new_incarnation};

/// How long a file may take to be closed after the loop has let it go.
const CLOSE_LOOK: Duration = Duration::from_millis(10);
const CLOSE_LOOKS: u32 = 1_000;

/// Where it is kept. Calls block.
pub struct Kept<'a> {
    pub dir: &'a DataDir,
    pub store: &'a PeerStore,
    pub invites: &'a Mutex<Invites>,
}

/// What a start finds of a chat.
pub enum Found {
    /// Nothing. An answer may be on its way.
    Nothing,
    /// It goes on.
    Sound(NewChat),
    /// It was begun, and nothing has come: the host may not know of it.
    Begun(NewChat),
    /// It must begin anew, because of this.
    Unusable(String),
    /// It may be well again at the next start.
    Unopenable(StorageError),
}

/// A chat whose host has taken this peer on.
pub struct TakenOn {
    /// That of the answer.
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub contacts: Vec<(PeerId, String)>,
}

impl Kept<'_> {
    /// What is left of a chat. An answer that is used up goes, and so does any invitation to a chat
    /// in which this peer takes part. With `repair`, what is there is taken for the newest where
    /// nobody else is known to have it.
    pub fn start(&self, chat: ChatId, repair: bool) -> Result<Found, StorageError> {
        let record = records::get(self.store, chat)?;
        let was_here = record.is_some();
        let record = record.unwrap_or_default();
        let contacts = record.contacts();
        let is_trusted = repair && contacts.is_empty();
        let open = || {
            let (store, recovered) = self.dir.open_chat(chat)?;
            new_chat(chat, store, recovered, contacts.clone())
        };
        let opened = match open() {
            Err(error) if error.needs_repair() && is_trusted => {
                self.dir.trust_chat(chat)?;
                open()
            }
            opened => opened,
        };
        let in_file = opened.as_ref().ok().map(|new| new.recovered.incarnation);
        let is_used = |answer: Incarnation| {
            answer == record.incarnation || in_file.is_some_and(|in_file| in_file == answer)
        };
        if self.accepted_in(chat).is_some_and(is_used) {
            self.drop_invitation(chat)?;
        }
        // What was begun and has not run may be newer than the record, and nothing else.
        let is_outlived = |new: &NewChat| {
            ![0, new.recovered.incarnation].contains(&record.incarnation)
                && (record.is_claimed || !new.is_empty())
        };
        Ok(match opened {
            Ok(new) if new.is_empty() && !is_outlived(&new) => Found::Begun(new),
            Ok(new) => {
                let incarnation = new.recovered.incarnation;
                let is_outlived = is_outlived(&new);
                if is_outlived && !is_trusted {
                    let what = "the chat's store is older than what this peer knows of it: it has \
                                begun anew since";
                    return Ok(Found::Unusable(what.to_owned()));
                }
                if is_outlived {
                    let record = ChatRecord { incarnation, is_claimed: false, ..record };
                    records::put(self.store, chat, &record)?;
                }
                if new.recovered.removed_by.is_none() {
                    self.drop_invitation(chat)?;
                }
                Found::Sound(new)
            }
            Err(StorageError::NotThere { .. }) if !was_here => Found::Nothing,
            Err(error) if error.needs_repair() => Found::Unusable(error.to_string()),
            Err(error) => Found::Unopenable(error),
        })
    }

    /// Makes a chat that this peer has founded.
    pub fn found(
        &self,
        chat: ChatId,
        incarnation: Incarnation,
        entry: Entry,
    ) -> Result<NewChat, StorageError> {
        let (store, recovered) = self.dir.create_chat(chat, incarnation, &[Arc::new(entry)])?;
        let record = ChatRecord { incarnation, ..ChatRecord::default() };
        if let Err(error) = records::put(self.store, chat, &record) {
            drop(store);
            // Nobody has heard of it, and the person is told that there is none.
            let _ = self.dir.remove_chat(chat);
            return Err(error);
        }
        new_chat(chat, store, recovered, Vec::new())
    }

    /// Notes that a file is about to be made in the incarnation of the answer, which is used up by
    /// that. `false` where it was used up before.
    pub fn claim(&self, chat: ChatId, taken: &TakenOn) -> Result<bool, StorageError> {
        let before = records::get(self.store, chat)?.unwrap_or_default();
        if before.incarnation == taken.incarnation {
            return Ok(false);
        }
        let TakenOn { incarnation, generation, .. } = *taken;
        let members = taken.contacts.iter().map(|(peer, a)| (peer.to_string(), a.clone()));
        let (members, is_claimed) = (members.collect(), true);
        let record = ChatRecord { members, generation, incarnation, is_claimed, ..before };
        records::put(self.store, chat, &record).map(|()| true)
    }

    /// Makes the file. What was there of the chat is kept aside, and what waits in it is taken
    /// along.
    pub fn begin(&self, chat: ChatId, taken: &TakenOn) -> Result<NewChat, StorageError> {
        let anew = self.follow(chat, taken.incarnation, taken.generation)?;
        new_chat(chat, anew.store, anew.recovered, taken.contacts.clone())
    }

    /// Begins anew in an incarnation that nobody has ever used.
    pub fn begin_anew(&self, chat: ChatId, record: &ChatRecord) -> Result<NewChat, StorageError> {
        let anew = self.follow(chat, new_incarnation()?, record.generation)?;
        new_chat(chat, anew.store, anew.recovered, record.contacts())
    }

    /// Notes what has begun, before the host hears of it (R30, R37).
    pub fn note_begun(
        &self,
        chat: ChatId,
        begun: (Incarnation, Generation),
        now_ms: u64,
    ) -> Result<(), StorageError> {
        let (incarnation, generation) = begun;
        let before = records::get(self.store, chat)?.unwrap_or_default();
        // What a person has chosen stays chosen if this file is lost as well.
        let is_claimed = false;
        let mut record = ChatRecord { incarnation, generation, is_claimed, ..before.clone() };
        if before.incarnation != incarnation {
            record.renewed_at_ms = now_ms;
        }
        records::put(self.store, chat, &record)
    }

    /// Notes that a member takes part in that generation (R30).
    pub fn hear(&self, chat: ChatId, generation: Generation) -> Result<(), StorageError> {
        let mut record = records::get(self.store, chat)?.unwrap_or_default();
        record.hear([generation]);
        records::put(self.store, chat, &record)
    }

    /// Deletes what is kept of a chat that this peer is no longer in.
    pub fn forget(&self, chat: ChatId) -> Result<(), StorageError> {
        // A file without a record is opened again; a record without a file would be repaired.
        records::remove(self.store, chat)?;
        if let Some(kept_at) = closed(|| self.dir.discard(chat))? {
            let kept_at = kept_at.display().to_string();
            tracing::warn!(
                ?chat,
                kept_at,
                "something that was never sent waits in a chat that \
                this peer is no longer in: its store is kept, delete it if that is of no use"
            );
        }
        self.lock_invites().remove_all_of(self.store, chat)
    }

    /// Gives up a chat that does not run: its file is kept aside, and nothing else of it.
    pub fn give_up(&self, chat: ChatId) -> Result<(), StorageError> {
        records::remove(self.store, chat)?;
        self.dir.keep_aside(chat)?;
        self.drop_invitation(chat)?;
        self.lock_invites().remove_all_of(self.store, chat)
    }

    /// Forgets the invitation that was answered, if there is one. Others to the same chat, which
    /// the person has not answered, stand until they end.
    pub fn drop_invitation(&self, chat: ChatId) -> Result<(), StorageError> {
        let mut invites = self.lock_invites();
        let answered = invites.answered(chat).map(|invite| invite.inviter);
        answered.map_or(Ok(()), |inviter| invites.remove_incoming(self.store, chat, inviter))
    }

    /// The incarnation in which the person has accepted.
    pub fn accepted_in(&self, chat: ChatId) -> Option<Incarnation> {
        let answer = self.lock_invites().answered(chat)?.answer?;
        answer.accept.then_some(answer.incarnation)
    }

    /// The incarnation in which the person has answered, whatever that was.
    pub fn answered_in(&self, chat: ChatId) -> Option<Incarnation> {
        let answer = self.lock_invites().answered(chat)?.answer?;
        Some(answer.incarnation)
    }

    fn follow(
        &self,
        chat: ChatId,
        incarnation: Incarnation,
        generation: Generation,
    ) -> Result<Anew, StorageError> {
        let anew = closed(|| self.dir.follow(chat, incarnation, generation))?;
        if let Some(kept_at) = anew.kept_at.as_ref().map(|path| path.display().to_string()) {
            tracing::warn!(
                ?chat,
                kept_at,
                "the chat begins anew; its old store is kept: delete \
                it once nothing is missing"
            );
        }
        Ok(anew)
    }

    fn lock_invites(&self) -> MutexGuard<'_, Invites> {
        self.invites.lock().expect("nothing panics while it holds this lock")
    }
}

/// What the store at hand makes of a chat for the loop.
fn new_chat(
    id: ChatId,
    store: ChatStore,
    recovered: Recovered,
    contacts: Vec<(PeerId, String)>,
) -> Result<NewChat, StorageError> {
    let carried = store.carried()?;
    Ok(NewChat { id, store, recovered, contacts, carried })
}

/// Does something with a file that the loop has let go, once it is closed.
fn closed<T>(mut work: impl FnMut() -> Result<T, StorageError>) -> Result<T, StorageError> {
    for _ in 1..CLOSE_LOOKS {
        match work() {
            Err(StorageError::InUse { .. }) => thread::sleep(CLOSE_LOOK),
            done => return done,
        }
    }
    work()
}
