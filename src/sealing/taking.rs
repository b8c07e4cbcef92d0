//! How a sealer takes the committed log: in order, once (S7).

use bytes::Bytes;
use demes_content::{Binding, Content};
use demes_protocol::types::{Hash, Incarnation, Index, Number, PeerId};

use crate::KEYING_BYTES_MAX;
use crate::group::{Group, NewSeat, OpenError, Processed, place_of, read_package, welcomed};
use crate::ledger::Held;
use crate::memory::{Memory, Secret};
use crate::opener::Opener;
use crate::planted::{Bug, planted};
use crate::records::{Own, Reserved, decode_seat};
use crate::sealer::{EPOCH, GROUP, PENDING, Sealer, SealingError, seat_name};
use crate::shown::{Keying, Logged, Shown, Unreadable};
use crate::timing::PastEpoch;
use crate::vault::secret;

impl Sealer {
    // S7: in order, once.
    /// Takes the committed entry after the last one. `now_ms` is the own wall clock.
    pub fn take(
        &mut self,
        index: Index,
        hash: Hash,
        now_ms: u64,
        entry: &Logged<'_>,
    ) -> Result<Shown, SealingError> {
        if index != self.ledger.position + 1 {
            return Err(SealingError::OutOfOrder { position: self.ledger.position, found: index });
        }
        let shown = match entry {
            Logged::Other => Shown::Nothing,
            Logged::Recovered { generation } => {
                self.ledger.generation = *generation;
                Shown::Nothing
            }
            Logged::Seat { peer, incarnation, package } => {
                self.take_seat(*peer, *incarnation, package)
            }
            Logged::Left { peer } => {
                self.ledger.roster.leave(peer);
                Shown::Nothing
            }
            Logged::Keying { author, keying } => {
                self.take_keying(index, now_ms, *author, keying)?
            }
            Logged::Sealed { author, incarnation, number, sealed, own } => {
                let binding = self.binding(*author, *incarnation, *number);
                self.take_sealed(index, &binding, sealed, *own)?
            }
        };
        self.ledger.position = index;
        self.ledger.hash = hash;
        Ok(shown)
    }

    // S1: the newest key package of each participant.
    fn take_seat(&mut self, peer: PeerId, incarnation: Incarnation, package: &Bytes) -> Shown {
        let leaf = read_package(self.place.chat, self.place.suite, package);
        match leaf.filter(|leaf| leaf.seat.peer == peer && leaf.seat.incarnation == incarnation) {
            Some(leaf) => {
                let is_own = peer == self.place.me;
                if is_own && leaf.seat.incarnation == self.place.incarnation {
                    // Whatever was wrong with the seat before, this one is new.
                    self.ledger.is_locked_out = false;
                    self.ledger.is_stale = false;
                }
                self.ledger.roster.seat(leaf, package.clone());
                Shown::Nothing
            }
            // A package of another's, or of no use, seats nobody: its author reads nothing.
            None => {
                self.ledger.roster.leave(&peer);
                Shown::SeatInvalid
            }
        }
    }

    fn take_keying(
        &mut self,
        index: Index,
        now_ms: u64,
        author: PeerId,
        keying: &Keying,
    ) -> Result<Shown, SealingError> {
        let shown = self.judge_keying(index, now_ms, author, keying);
        // The log has decided about it: what was void once is dropped, too.
        if self.pending.as_ref().is_some_and(|own| own.commit == keying.commit) {
            self.drop_pending();
        }
        shown
    }

    fn judge_keying(
        &mut self,
        index: Index,
        now_ms: u64,
        author: PeerId,
        keying: &Keying,
    ) -> Result<Shown, SealingError> {
        if keying.commit.len() + keying.welcome.len() > KEYING_BYTES_MAX {
            return Ok(Shown::KeyingVoid);
        }
        let Some((id, epoch)) = place_of(&keying.commit) else {
            return Ok(Shown::KeyingVoid);
        };
        let references = welcomed(&keying.welcome);
        let is_own = self.pending.as_ref().is_some_and(|own| own.commit == keying.commit);
        // S11: the first Keying of a new group. Whoever has made one and was no longer the one
        // to do it when the log took it, has founded nothing.
        let is_founding = self.ledger.roster.founder() == Some(author);
        if is_founding {
            let next = self.ledger.roster.next_group(self.place.chat, self.ledger.generation);
            if id != next || epoch != 0 {
                return Ok(Shown::KeyingVoid);
            }
            self.ledger.roster.found(&author);
            self.drop_group();
            if !is_own {
                self.drop_pending();
            }
        }
        let is_mine = self.group().is_some_and(|group| group.id() == id && group.epoch() == epoch);
        let is_founding =
            is_own && self.group.is_none() && (is_founding || planted(Bug::LostFoundingTaken));
        let mut shown = Shown::KeyingVoid;
        if is_mine || is_founding {
            shown = self.take_commit(index, now_ms, keying)?;
        }
        // It may take out this participant's old leaf and put in its new one.
        let own = self.ledger.roster.participants().get(&self.place.me);
        let is_for_me = own.is_some_and(|own| {
            references.contains(&own.leaf.reference)
                && self.group().and_then(Group::own_seat) != Some(own.leaf.seat)
        });
        if is_for_me {
            shown = self.take_welcome(now_ms, &id, epoch, keying)?;
        }
        // Whether it is in force only those in the group know, and S11 must be alike for all.
        self.ledger.roster.welcome(&references);
        Ok(shown)
    }

    /// A Keying for the group and epoch that are held.
    fn take_commit(
        &mut self,
        index: Index,
        now_ms: u64,
        keying: &Keying,
    ) -> Result<Shown, SealingError> {
        let is_own = self.pending.as_ref().is_some_and(|own| own.commit == keying.commit);
        if is_own {
            let pending = self.pending.as_ref().expect("it is there");
            let is_founding = pending.founded.is_some();
            let held = self.held();
            if !is_founding && !self.ledger.roster.is_wanted(&held, &pending.changes) {
                self.drop_pending();
                return Ok(Shown::KeyingVoid);
            }
            return self.apply_own(index, now_ms);
        }
        let held = self.held();
        let roster = self.ledger.roster.clone();
        let opener = self.group.as_mut().expect("it is held");
        let ended = opener.group().epoch();
        let processed =
            opener.group_mut().process(&keying.commit, |changes| roster.is_wanted(&held, changes));
        match processed {
            Processed::Void(_) => Ok(Shown::KeyingVoid),
            // This peer has made it and does not know: others took it, and here it is lost.
            Processed::Own => {
                self.ledger.is_stale = true;
                Ok(Shown::LockedOut)
            }
            Processed::LockedOut(_) => {
                self.ledger.is_locked_out = true;
                Ok(Shown::LockedOut)
            }
            Processed::Removed => {
                self.drop_group();
                Ok(Shown::LeftGroup)
            }
            Processed::Applied => {
                opener.checkpoint();
                self.entered(index, now_ms, ended, false)
            }
        }
    }

    pub(super) fn apply_own(&mut self, index: Index, now_ms: u64) -> Result<Shown, SealingError> {
        let pending = self.pending.take().expect("it was looked at");
        if let Some(state) = pending.founded {
            let (id, _) = place_of(&pending.commit).expect("it was made here");
            let memory = Memory::of(id.clone(), state, Default::default());
            self.group = Some(Opener::new(Group::load(self.place.chat, &id, memory)?));
            self.ledger.group = Some(Held { id, since_epoch: 0 });
        }
        let opener = self.group.as_mut().expect("it is held or was founded");
        let ended = opener.group().epoch();
        opener.group_mut().apply_own(&pending.secrets)?;
        opener.checkpoint();
        self.unwritten.secrets.insert(PENDING.to_owned(), None);
        self.entered(index, now_ms, ended, true)
    }

    /// The group is in another epoch.
    fn entered(
        &mut self,
        index: Index,
        now_ms: u64,
        ended: u64,
        is_own: bool,
    ) -> Result<Shown, SealingError> {
        self.ledger.past.push(PastEpoch { epoch: ended, ended_at: index, ended_at_ms: now_ms });
        if is_own {
            self.ledger.own_messages = 0;
            self.ledger.renewed_at_ms = now_ms;
        }
        // S3: who has lost the race drops its Commit. One for a later epoch was made before a
        // crash that has taken this process back.
        let place = self.pending.as_ref().and_then(|pending| place_of(&pending.commit));
        if place.is_some_and(|(_, epoch)| epoch <= ended) && !planted(Bug::LoserKept) {
            self.drop_pending();
        }
        self.used_up_seats();
        self.skip_reserved()?;
        let epoch = self.group().map_or(0, Group::epoch);
        Ok(Shown::Keyed { epoch })
    }

    /// A Keying with a Welcome for this participant's newest key package.
    fn take_welcome(
        &mut self,
        now_ms: u64,
        id: &[u8],
        epoch: u64,
        keying: &Keying,
    ) -> Result<Shown, SealingError> {
        let Some(new) = self.own_new_seat()? else {
            self.ledger.is_locked_out = true;
            return Ok(Shown::LockedOut);
        };
        let joined = Group::join(self.place.chat, &new, &keying.welcome);
        match joined {
            Ok(group) if group.id() == id && Some(group.epoch()) == epoch.checked_add(1) => {
                self.drop_group();
                self.ledger.group = Some(Held { id: id.to_vec(), since_epoch: group.epoch() });
                self.ledger.own_messages = 0;
                self.ledger.renewed_at_ms = now_ms;
                let epoch = group.epoch();
                self.group = Some(Opener::new(group));
                self.drop_pending();
                self.used_up_seats();
                self.skip_reserved()?;
                Ok(Shown::Joined { epoch })
            }
            // S16: a Welcome that does not open.
            Ok(_) | Err(_) => {
                self.ledger.is_locked_out = true;
                Ok(Shown::LockedOut)
            }
        }
    }

    /// The key package that the log has of this participant, with its private parts.
    pub(super) fn own_new_seat(&self) -> Result<Option<NewSeat>, SealingError> {
        let own = self.ledger.roster.participants().get(&self.place.me);
        let Some(own) = own else { return Ok(None) };
        let name = seat_name(&own.leaf.seat);
        if self.unwritten.secrets.get(&name).is_some_and(Option::is_none) {
            return Ok(None);
        }
        let record = self.vault.secret(&name)?;
        Ok(record.and_then(|record| decode_seat(&record)))
    }

    /// The private parts of key packages that cannot be used any more are deleted with the next
    /// transaction: that of the seat that is held, and older ones.
    fn used_up_seats(&mut self) {
        let Some(seat) = self.group().and_then(Group::own_seat) else {
            return;
        };
        if !planted(Bug::PackageUsedTwice) {
            self.unwritten.secrets.insert(seat_name(&seat), None);
        }
    }

    fn drop_pending(&mut self) {
        if self.pending.take().is_some() {
            self.unwritten.secrets.insert(PENDING.to_owned(), None);
        }
    }

    /// The group is left, with everything that it has.
    fn drop_group(&mut self) {
        if let Some(opener) = self.group.take() {
            for epoch in opener.group().past_epochs() {
                self.unwritten.secrets.insert(format!("{EPOCH}{epoch}"), None);
            }
            self.unwritten.secrets.insert(GROUP.to_owned(), None);
        }
        self.ledger.group = None;
        self.ledger.past.clear();
        if self.pending.as_ref().is_some_and(|pending| pending.founded.is_none()) {
            self.drop_pending();
        }
    }

    fn take_sealed(
        &mut self,
        index: Index,
        binding: &Binding,
        sealed: &Bytes,
        own: Option<&Bytes>,
    ) -> Result<Shown, SealingError> {
        let is_own =
            binding.author == self.place.me && binding.incarnation == self.place.incarnation;
        let opened = if is_own {
            self.open_own(binding.number, own)
        } else {
            self.open_other(binding, sealed)?
        };
        let content = match opened {
            Ok(content) => content,
            Err(reason) => return Ok(Shown::Unreadable(reason)),
        };
        let decoded = Content::decode(&Bytes::copy_from_slice(&content));
        self.unwritten.contents.insert(index, content);
        Ok(match decoded {
            Ok(content) => Shown::Content(Box::new(content)),
            Err(_) => Shown::Unreadable(Unreadable::UnknownContent),
        })
    }

    fn open_own(&mut self, number: Number, own: Option<&Bytes>) -> Result<Secret, Unreadable> {
        let Some(own) = own.and_then(|own| self.read_own(number, own)) else {
            // This peer said it and does not know: its vault or outbox is an old copy.
            self.ledger.is_stale = true;
            return Err(Unreadable::OwnLost);
        };
        self.ledger.own_messages += 1;
        self.ledger.is_stale |= self.is_unreserved(&own);
        let reserved = self.reserved.get_mut(&(own.group.clone(), own.epoch));
        let is_seen = |reserved: &&mut Reserved| own.generation >= reserved.skipped_to;
        if let Some(reserved) = reserved.filter(is_seen).filter(|reserved| reserved.skipped > 0) {
            reserved.skipped = 0;
            self.are_skips_unwritten = true;
        }
        Ok(secret(own.content.to_vec()))
    }

    // S6: an old copy of the vault does not know which keys were used since.
    /// Whether an own message of the epoch that is held was sealed with a key that this vault has
    /// not reserved. Of past epochs nothing is sealed any more.
    fn is_unreserved(&self, own: &Own) -> bool {
        let is_current =
            self.group().is_some_and(|group| group.id() == own.group && group.epoch() == own.epoch);
        let end = self.reserved_of(&own.group, own.epoch).map_or(0, |reserved| reserved.end);
        is_current && own.generation >= end && !planted(Bug::OldCopyUnnoticed)
    }

    /// Looks at what the outbox has of this peer's own messages that are not in the log yet. One
    /// that the vault knows nothing of shows that the vault is an old copy; it is to be called
    /// before anything is sealed.
    pub fn check_own(&mut self, number: Number, own: &Bytes) {
        if let Some(own) = self.read_own(number, own) {
            self.ledger.is_stale |= self.is_unreserved(&own);
        }
    }

    fn read_own(&self, number: Number, own: &Bytes) -> Option<Own> {
        let record = self.vault.unwrap(number, own)?;
        <Own as prost::Message>::decode(&record[..]).ok()
    }

    fn open_other(
        &mut self,
        binding: &Binding,
        sealed: &Bytes,
    ) -> Result<Result<Secret, Unreadable>, SealingError> {
        let Some(opener) = &mut self.group else {
            return Ok(Err(Unreadable::BeforeJoining));
        };
        let since = self.ledger.group.as_ref().map_or(0, |held| held.since_epoch);
        match opener.open(sealed, binding)? {
            Ok(content) => Ok(Ok(content)),
            Err(OpenError::EpochGone) => {
                let epoch = Opener::epoch_of(sealed);
                let is_before = epoch.is_some_and(|epoch| epoch < since);
                let reason =
                    if is_before { Unreadable::BeforeJoining } else { Unreadable::EpochGone };
                Ok(Err(reason))
            }
            Err(OpenError::EpochUnknown | OpenError::NotAuthentic | OpenError::Own) => {
                Ok(Err(Unreadable::NotAuthentic))
            }
        }
    }
}
