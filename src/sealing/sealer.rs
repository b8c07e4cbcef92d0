//! One participant's side of one sealed chat: takes the committed log in order, opens what others
//! said, seals what is said here, and brings the group to the membership.
//!
//! Everything that MLS has is in memory and in the vault. `take` works in memory, `flush` makes
//! many entries durable at once: contents, keys and position in one transaction (S7). What must be
//! durable before it is shown to anybody (key packages, Commits, reserved keys) is written at
//! once. After an error of the vault a sealer is dropped and opened anew: it goes on from its
//! position.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use demes_content::{Binding, Content};
use demes_protocol::types::{ChatId, Generation, Hash, Incarnation, Index, PeerId, Signature};

use crate::credential::Seat;
use crate::group::{Group, NewSeat, RATCHET_GAP_MAX};
use crate::ledger::Ledger;
use crate::memory::{Memory, Secret};
use crate::opener::Opener;
use crate::planted::{Bug, planted};
use crate::records::{Own, Pending, Reserved, encode_seat};
use crate::roster::{Change, Difference, Participant, Roster};
use crate::suite::Suite;
use crate::timing::{RefreshLimits, RefreshState, epochs_to_forget};
use crate::vault::{Batch, Vault, VaultError};
use crate::vault_key::VaultKey;
use crate::{GroupError, Keying};

/// How many keys are reserved at a time (S6).
pub const RESERVED_AHEAD: u32 = 256;

pub(super) const LEDGER: &str = "ledger";
pub(super) const GROUP: &str = "group";
pub(super) const EPOCH: &str = "epoch/";
pub(super) const SEAT: &str = "seat/";
pub(super) const PENDING: &str = "pending";
pub(super) const RESERVED: &str = "reserved/";

/// Whose side it is, and of which chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub chat: ChatId,
    pub me: PeerId,
    pub incarnation: Incarnation,
    pub suite: Suite,
}

/// Why the sealer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("the vault is ahead of its log: it belongs to a later copy of the chat")]
    AheadOfLog,
    #[error("the vault has read another history than the log has")]
    OtherHistory,
    #[error("entry {found} is not the one after {position}")]
    OutOfOrder { position: Index, found: Index },
}

/// Why something is not sealed now. It waits in the queue.
#[derive(Debug, thiserror::Error)]
pub enum NotSealed {
    #[error("no group is held here yet")]
    NoGroup,
    #[error("somebody holds keys who should not read: the group is keyed first")]
    Gate,
    #[error("a new seat is needed before anything can be sealed")]
    SeatNeeded,
    #[error("too many keys were skipped: the leaf is renewed first")]
    RefreshNeeded,
    #[error("the content is not valid: {0}")]
    Content(#[from] demes_content::ContentError),
    #[error(transparent)]
    Failed(#[from] SealingError),
}

/// What the log wants this participant to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Duty {
    Nothing,
    /// Publish a new key package: the log has none of this incarnation, or the seat is lost.
    Seat,
    /// Found a group: nobody holds one (S11).
    Found,
    /// Bring the group to the roster, when it is this participant's turn (S3).
    Key(Difference),
    /// Renew the leaf (S10).
    Refresh,
    /// A Commit of this participant waits for the log.
    Wait,
}

/// A sealed message, and what its author keeps of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// For the entry.
    pub sealed: Bytes,
    /// For the outbox, beside the submission; to be given back with the entry.
    pub own: Bytes,
    /// The epoch: what still waits when the group has left it is sealed again.
    pub epoch: u64,
}

/// See the module.
pub struct Sealer {
    pub(super) place: Place,
    pub(super) vault: Vault,
    pub(super) ledger: Ledger,
    pub(super) group: Option<Opener>,
    pub(super) pending: Option<Pending>,
    /// By group and epoch: of the durable state's, and of those that were entered since.
    pub(super) reserved: BTreeMap<(Vec<u8>, u64), Reserved>,
    /// Key packages that the group does not take.
    pub(super) refused: BTreeSet<Bytes>,
    pub(super) unwritten: Batch,
    /// Whether `reserved` has counted skips otherwise than the vault.
    pub(super) are_skips_unwritten: bool,
}

impl Sealer {
    /// Opens this peer's side of a chat, or begins it with an empty log.
    pub fn open(dir: &Path, key: &VaultKey, place: Place) -> Result<Self, SealingError> {
        let vault = Vault::open(dir, key, place.chat, place.me)?;
        let damaged = |what: &str| VaultError::Damaged {
            path: vault.path().to_owned(),
            what: what.to_owned(),
        };
        let ledger = match vault.secret(LEDGER)? {
            Some(ledger) => Ledger::decode(&ledger).ok_or_else(|| damaged("the ledger"))?,
            None => Ledger::default(),
        };
        let group = match &ledger.group {
            Some(held) => {
                let state = vault.secret(GROUP)?.ok_or_else(|| damaged("no group"))?;
                let epochs = vault.secrets(EPOCH)?.into_iter();
                let epochs = epochs.map(|(name, epoch)| Some((name.parse().ok()?, epoch)));
                let epochs: Option<_> = epochs.collect();
                let epochs = epochs.ok_or_else(|| damaged("an epoch"))?;
                let memory = Memory::of(held.id.clone(), state, epochs);
                Some(Opener::new(Group::load(place.chat, &held.id, memory)?))
            }
            None => None,
        };
        let pending = vault.secret(PENDING)?;
        let pending = pending
            .map(|pending| Pending::decode(&pending).ok_or_else(|| damaged("the Commit")))
            .transpose()?;
        let reserved = vault.secrets(RESERVED)?.into_values().map(|record| {
            let reserved = Reserved::read(&record).ok_or_else(|| damaged("reserved keys"))?;
            Ok(((reserved.group.clone(), reserved.epoch), reserved))
        });
        let reserved = reserved.collect::<Result<_, VaultError>>()?;
        let mut sealer = Self {
            place,
            vault,
            ledger,
            group,
            pending,
            reserved,
            refused: BTreeSet::new(),
            unwritten: Batch::default(),
            are_skips_unwritten: false,
        };
        sealer.skip_reserved()?;
        Ok(sealer)
    }

    /// Entries up to here were taken. The next one to be taken is the one after it.
    pub fn position(&self) -> Index {
        self.ledger.position
    }

    /// Whether the vault belongs to this log, which is committed up to `commit`. `hash_at` gives
    /// the hash of an entry.
    pub fn check_log(
        &self,
        commit: Index,
        hash_at: impl Fn(Index) -> Option<Hash>,
    ) -> Result<(), SealingError> {
        if self.ledger.position > commit {
            return Err(SealingError::AheadOfLog);
        }
        let is_own =
            self.ledger.position == 0 || hash_at(self.ledger.position) == Some(self.ledger.hash);
        if is_own { Ok(()) } else { Err(SealingError::OtherHistory) }
    }

    /// The group that is held.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref().map(Opener::group)
    }

    pub fn roster(&self) -> &Roster {
        &self.ledger.roster
    }

    pub(super) fn held(&self) -> Vec<Seat> {
        let leaves = self.group().map(Group::leaves).unwrap_or_default();
        leaves.into_iter().map(|(_, seat)| seat).collect()
    }

    // ---- what this participant does ----

    /// What the log wants of this participant. `draw` is random and was drawn once for this leaf.
    pub fn duty(&self, limits: &RefreshLimits, now_ms: u64, draw: u64) -> Duty {
        let own = self.ledger.roster.participants().get(&self.place.me);
        let is_seated = own.is_some_and(|own| {
            own.leaf.seat.incarnation == self.place.incarnation && !self.needs_seat()
        });
        if !is_seated {
            return Duty::Seat;
        }
        if self.pending.is_some() {
            return Duty::Wait;
        }
        if self.ledger.roster.founder() == Some(self.place.me) {
            return Duty::Found;
        }
        // One that waits to be taken in anew keys nothing.
        let group = self.group().filter(|group| group.own_seat() == own.map(|own| own.leaf.seat));
        let Some(group) = group else {
            return Duty::Nothing;
        };
        let difference = self.difference();
        if !difference.is_empty() {
            return Duty::Key(difference);
        }
        let state = RefreshState {
            age_ms: now_ms.saturating_sub(self.ledger.renewed_at_ms),
            own_messages: self.ledger.own_messages,
            leaves: group.leaves().len() as u64,
            suite: self.place.suite,
            draw,
        };
        if limits.is_due(&state) || self.has_skipped_too_much() {
            return Duty::Refresh;
        }
        Duty::Nothing
    }

    fn difference(&self) -> Difference {
        let mut difference = self.ledger.roster.difference(&self.held());
        let participants = self.ledger.roster.participants();
        difference.add.retain(|peer| {
            participants.get(peer).is_some_and(|new| !self.refused.contains(&new.leaf.reference))
        });
        difference
    }

    // S16: locked out, and an old copy (S6), need a new seat.
    fn needs_seat(&self) -> bool {
        self.ledger.is_locked_out || self.ledger.is_stale
    }

    fn has_skipped_too_much(&self) -> bool {
        let reserved = self.group().and_then(|group| self.reserved_of(group.id(), group.epoch()));
        reserved.is_some_and(|reserved| reserved.skipped > RATCHET_GAP_MAX - 2 * RESERVED_AHEAD)
    }

    pub(super) fn reserved_of(&self, group: &[u8], epoch: u64) -> Option<&Reserved> {
        self.reserved.get(&(group.to_vec(), epoch))
    }

    /// Draws a key package, for a `Joined` or for a new seat. `certify` signs with the identity
    /// key. Its private parts are durable when this returns (S6).
    pub fn publish_seat(
        &mut self,
        certify: &dyn Fn(&[u8]) -> Signature,
    ) -> Result<Bytes, SealingError> {
        let Place { chat, me, incarnation, suite } = self.place;
        let new = NewSeat::draw(chat, suite, me, incarnation, certify)?;
        let mut batch = Batch::default();
        batch.secrets.insert(seat_name(&new.seat), Some(encode_seat(&new)));
        if !planted(Bug::PackageShownFirst) {
            self.vault.write(&batch)?;
        }
        Ok(new.package)
    }

    /// Makes the Commit for `Duty::Key`, `Duty::Found` or `Duty::Refresh`, for a Keying. It is
    /// durable when this returns, and waits for the log. `None` where there is nothing to do.
    pub fn key(&mut self) -> Result<Option<Keying>, SealingError> {
        if let Some(pending) = &self.pending {
            return Ok(Some(pending.keying()));
        }
        let mut founded = None;
        // One that is to found may hold a group that nobody is in any more, its own seat neither.
        let is_founder = self.ledger.roster.founder() == Some(self.place.me);
        let is_founder = is_founder && !(planted(Bug::OldGroupKept) && self.group.is_some());
        let (group, held) = match self.group() {
            Some(group) if !is_founder => (group.clone(), self.held()),
            _ if is_founder => {
                let Some(new) = self.own_new_seat()? else {
                    return Ok(None);
                };
                let id = self.ledger.roster.next_group(self.place.chat, self.ledger.generation);
                let mut group = Group::found(self.place.chat, &new, &id)?;
                founded = group.changed()?.state;
                (group, vec![new.seat])
            }
            _ => return Ok(None),
        };
        let difference = self.ledger.roster.difference(&held);
        let participants = self.ledger.roster.participants();
        let added = difference.add.iter().map(|peer| &participants[peer]);
        let mut added: Vec<_> = added.cloned().collect();
        added.retain(|added| !self.refused.contains(&added.leaf.reference));
        let packages = |added: &[Participant]| -> Vec<Bytes> {
            added.iter().map(|added| added.package.clone()).collect()
        };
        let committed = match group.commit(&packages(&added), &difference.remove) {
            // One key package that does not fit keeps nobody else out.
            Err(_) if !added.is_empty() => {
                added.retain(|one| {
                    let fits = group.commit(std::slice::from_ref(&one.package), &[]).is_ok();
                    if !fits {
                        self.refused.insert(one.leaf.reference.clone());
                    }
                    fits
                });
                group.commit(&packages(&added), &difference.remove)?
            }
            committed => committed?,
        };
        let adds = added.iter().map(|added| Change::Add(added.leaf.seat));
        let removes = difference.remove.iter().map(|seat| Change::Remove(*seat));
        let changes = adds.chain(removes).collect();
        let pending = Pending {
            commit: committed.commit,
            welcome: committed.welcome,
            changes,
            secrets: committed.secrets,
            founded,
        };
        let mut batch = Batch::default();
        batch.secrets.insert(PENDING.to_owned(), Some(pending.encode()));
        self.vault.write(&batch)?;
        let keying = pending.keying();
        self.pending = Some(pending);
        if planted(Bug::CommitAppliedAtOnce) {
            self.apply_own(0, 0)?;
        }
        Ok(Some(keying))
    }

    // S5: seal.
    /// Seals a content as the author's submission `number`. `Err` with a reason to wait for is no
    /// fault: the content stays queued.
    pub fn seal(&mut self, number: u64, content: &Content) -> Result<Sealed, NotSealed> {
        let encoded = content.encode()?;
        if self.needs_seat() {
            return Err(NotSealed::SeatNeeded);
        }
        let held = self.held();
        if self.group.is_none() {
            return Err(NotSealed::NoGroup);
        }
        // S4: the gate.
        if !self.ledger.roster.may_seal(&held) {
            return Err(NotSealed::Gate);
        }
        if self.has_skipped_too_much() {
            return Err(NotSealed::RefreshNeeded);
        }
        self.reserve()?;
        let binding = self.binding(self.place.me, self.place.incarnation, number);
        let group = self.group.as_mut().expect("it was looked at").group_mut();
        let sealed = group.seal(&encoded, &binding.digest()).map_err(SealingError::from)?;
        let own = Own {
            content: encoded,
            epoch: group.epoch(),
            generation: sealed.1,
            group: group.id().to_vec(),
        };
        let epoch = own.epoch;
        let record = prost::Message::encode_to_vec(&own);
        let own = self.vault.wrap(number, &record).map_err(SealingError::from)?;
        Ok(Sealed { sealed: sealed.0, own: own.into(), epoch })
    }

    // S6: keys are used once.
    /// Makes it durable that the next keys may have been used, before one of them is.
    fn reserve(&mut self) -> Result<(), SealingError> {
        let Some(opener) = &mut self.group else {
            return Ok(());
        };
        let group = opener.group_mut();
        let (next, id, epoch) = (group.next_generation()?, group.id().to_vec(), group.epoch());
        let now = self.reserved_of(&id, epoch);
        if now.is_some_and(|now| next < now.end) || planted(Bug::NothingReserved) {
            return Ok(());
        }
        let (skipped, skipped_to) = now.map_or((0, 0), |now| (now.skipped, now.skipped_to));
        let end = next.saturating_add(RESERVED_AHEAD);
        let reserved = Reserved { group: id, epoch, end, skipped, skipped_to };
        let mut batch = Batch::default();
        batch.secrets.insert(reserved_name(&reserved.group, epoch), Some(reserved.record()));
        self.vault.write(&batch)?;
        self.reserved.insert((reserved.group.clone(), epoch), reserved);
        Ok(())
    }

    /// Skips the keys that may have been used in this epoch before this process began.
    pub(super) fn skip_reserved(&mut self) -> Result<(), SealingError> {
        let Some(opener) = &mut self.group else {
            return Ok(());
        };
        let group = opener.group_mut();
        let reserved = self.reserved.get_mut(&(group.id().to_vec(), group.epoch()));
        let Some(reserved) = reserved.filter(|_| !planted(Bug::ReservedUsedAgain)) else {
            return Ok(());
        };
        let next = group.next_generation()?;
        if next < reserved.end {
            if !planted(Bug::SkipsUncounted) {
                reserved.skipped = reserved.skipped.saturating_add(reserved.end - next);
                reserved.skipped_to = reserved.end;
            }
            group.skip_to(reserved.end)?;
            opener.checkpoint();
            self.are_skips_unwritten = true;
        }
        Ok(())
    }

    pub(super) fn binding(&self, author: PeerId, incarnation: Incarnation, number: u64) -> Binding {
        let (chat, generation) = (self.place.chat, self.ledger.generation);
        Binding { chat, generation, author, incarnation, number }
    }

    // ---- the vault ----

    /// Makes everything up to the position durable, and forgets the keys of past epochs that are
    /// over (S8): `acknowledged` is the least position that any participant has acknowledged.
    pub fn flush(&mut self, acknowledged: Index, now_ms: u64) -> Result<(), SealingError> {
        let mut batch = std::mem::take(&mut self.unwritten);
        let over = epochs_to_forget(&self.ledger.past, acknowledged, now_ms);
        if let Some(opener) = &mut self.group {
            for epoch in over {
                opener.group_mut().forget(epoch);
                self.ledger.past.retain(|past| past.epoch != epoch);
                batch.secrets.insert(format!("{EPOCH}{epoch}"), None);
            }
            let changed = opener.group_mut().changed()?;
            if let Some(state) = changed.state.filter(|_| !planted(Bug::StateBehindContent)) {
                batch.secrets.insert(GROUP.to_owned(), Some(state));
            }
            for (epoch, record) in changed.epochs {
                batch.secrets.insert(format!("{EPOCH}{epoch}"), Some(record));
            }
            opener.checkpoint();
        }
        let (id, epoch) = match self.group() {
            Some(group) => (group.id().to_vec(), group.epoch()),
            None => (Vec::new(), 0),
        };
        self.reserved.retain(|(group, reserved_epoch), _| {
            let is_over = *reserved_epoch < epoch || *group != id;
            if is_over {
                batch.secrets.insert(reserved_name(group, *reserved_epoch), None);
            }
            !is_over
        });
        // With the state that has skipped them: a later start would not see that it did.
        if std::mem::take(&mut self.are_skips_unwritten) {
            for ((group, epoch), reserved) in &self.reserved {
                batch.secrets.insert(reserved_name(group, *epoch), Some(reserved.record()));
            }
        }
        batch.secrets.insert(LEDGER.to_owned(), Some(self.ledger.encode()));
        self.vault.write(&batch)?;
        Ok(())
    }

    /// The content of an entry that was opened and is durable; `None` where there is none.
    pub fn content(&self, index: Index) -> Result<Option<Secret>, SealingError> {
        Ok(self.vault.content(index)?)
    }

    /// Deletes contents for good. With MLS's keys gone after use, nothing opens the entries again.
    pub fn delete(&mut self, indices: &[Index]) -> Result<(), SealingError> {
        for index in indices {
            self.unwritten.contents.remove(index);
        }
        let batch = Batch { deleted: indices.iter().copied().collect(), ..Batch::default() };
        self.vault.write(&batch)?;
        Ok(())
    }

    pub fn generation(&self) -> Generation {
        self.ledger.generation
    }
}

impl Pending {
    fn keying(&self) -> Keying {
        Keying { commit: self.commit.clone(), welcome: self.welcome.clone() }
    }
}

pub(super) fn seat_name(seat: &Seat) -> String {
    format!("{SEAT}{}", hex(&seat.key))
}

/// Two groups of a chat have the same epochs, and a crash may take a peer back into the older one.
fn reserved_name(group: &[u8], epoch: u64) -> String {
    format!("{RESERVED}{}/{epoch}", hex(group))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
