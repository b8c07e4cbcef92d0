//! The MLS group of a chat as one participant has it: mls-rs with the rules of demes around it.

use bytes::Bytes;
use demes_protocol::types::{ChatId, Incarnation, PeerId, Signature};
use mls_rs::client_builder::{
    BaseConfig, WithCryptoProvider, WithGroupStateStorage, WithIdentityProvider,
    WithKeyPackageRepo, WithMlsRules,
};
use mls_rs::error::MlsError;
use mls_rs::group::proposal::Proposal;
use mls_rs::group::{CommitEffect, CommitSecrets, ReceivedMessage};
use mls_rs::{Client, ExtensionList, Group as MlsGroup, MlsMessage, WireFormat};
use mls_rs_core::key_package::KeyPackageData;
use mls_rs_core::time::MlsTime;
use mls_rs_crypto_awslc::AwsLcCryptoProvider;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::credential::{Seat, Seats};
use crate::memory::{Changed, Memory, Secret};
use crate::planted::{Bug, planted};
use crate::roster::{Change, Leaf};
use crate::rules::Rules;
use crate::suite::{Suite, providers, signature_keys};

type Config = WithMlsRules<
    Rules,
    WithKeyPackageRepo<
        Memory,
        WithGroupStateStorage<
            Memory,
            WithCryptoProvider<AwsLcCryptoProvider, WithIdentityProvider<Seats, BaseConfig>>,
        >,
    >,
>;

/// The longest id of a group in bytes.
pub const GROUP_ID_BYTES: usize = 16;
/// How far a receiver follows a sender's ratchet at once (mls-rs).
pub const RATCHET_GAP_MAX: u32 = 1_024;

/// Why MLS did not do what it was asked, for logs. It says nothing of a content.
#[derive(Debug, thiserror::Error)]
#[error("MLS: {0}")]
pub struct GroupError(#[from] MlsError);

/// A key package with its private parts. A seat of the group is made from it, once.
pub struct NewSeat {
    pub seat: Seat,
    pub package: Bytes,
    pub(crate) secrets: SeatSecrets,
}

/// The private parts of a key package, and what is needed to sign in the seat.
pub(crate) struct SeatSecrets {
    pub suite: Suite,
    pub signature: Signature,
    pub signer: Secret,
    pub init: Secret,
    pub leaf: Secret,
}

/// A Commit that this peer has made and that is not in the log yet.
pub struct Committed {
    pub commit: Bytes,
    /// For those that it adds; empty where it adds nobody.
    pub welcome: Bytes,
    /// The state after it.
    pub(crate) secrets: Secret,
}

/// What became of a Commit of another member.
#[derive(Debug)]
pub enum Processed {
    /// It is in force. The group has moved on.
    Applied,
    /// It is in force and takes this peer's leaf out.
    Removed,
    /// It is void for all alike.
    Void(GroupError),
    /// Its signer sits where this peer does: MLS takes no own Commit this way.
    Own,
    /// It may be in force for others; its path does not open here (S16).
    LockedOut(GroupError),
}

/// Why a sealed message does not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("it was sealed in an epoch whose keys are gone, or by a seat that has been given up")]
    EpochGone,
    #[error("it was sealed in an epoch that is not known here")]
    EpochUnknown,
    #[error("it was not sealed by its author for this place")]
    NotAuthentic,
    #[error("it is an own message, which MLS does not open")]
    Own,
}

/// A message that was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    pub seat: Seat,
    /// Which of the sender's keys it was sealed with.
    pub key_generation: u32,
    pub content: Secret,
}

fn client(chat: ChatId, memory: Memory, seat: Option<(&Seat, &SeatSecrets)>) -> Client<Config> {
    let builder = Client::builder()
        .identity_provider(Seats { chat })
        .crypto_provider(providers())
        .group_state_storage(memory.clone())
        .key_package_repo(memory)
        .mls_rules(Rules);
    match seat {
        Some((seat, secrets)) => builder
            .signing_identity(
                seat.identity(&secrets.signature),
                secrets.signer.to_vec().into(),
                secrets.suite.mls(),
            )
            .build(),
        None => builder.build(),
    }
}

impl NewSeat {
    /// Draws a key package. `certify` signs with the peer's identity key. The private parts must
    /// be durable before the package is shown to anyone (S6).
    pub fn draw(
        chat: ChatId,
        suite: Suite,
        peer: PeerId,
        incarnation: Incarnation,
        certify: &dyn Fn(&[u8]) -> Signature,
    ) -> Result<Self, GroupError> {
        let (signer, key) = signature_keys(suite).ok_or(MlsError::SignerNotFound)?;
        let seat = Seat { peer, incarnation, key };
        let signature = certify(&seat.signed(chat));
        let none = || Zeroizing::new(Vec::new());
        let signer = Zeroizing::new(signer);
        let mut secrets = SeatSecrets { suite, signature, signer, init: none(), leaf: none() };
        let memory = Memory::default();
        let client = client(chat, memory.clone(), Some((&seat, &secrets)));
        // S2: nothing depends on a clock, so that the lifetime in it says nothing either.
        let since_1970 = Some(MlsTime::from(0));
        let none = ExtensionList::default;
        let message = client.generate_key_package_message(none(), none(), since_1970)?;
        let package = Bytes::from(message.to_bytes()?);
        let private = memory.take_package().ok_or(MlsError::WelcomeKeyPackageNotFound)?;
        secrets.init = Zeroizing::new(private.init_key.to_vec());
        secrets.leaf = Zeroizing::new(private.leaf_node_key.to_vec());
        Ok(Self { seat, package, secrets })
    }
}

/// What a key package says, checked as far as it can be without a group: suite, credential and
/// that the seat's key is the one which it is certified for.
pub fn read_package(chat: ChatId, suite: Suite, whole: &[u8]) -> Option<Leaf> {
    let message = MlsMessage::from_bytes(whole).ok()?;
    let reference = message.key_package_reference(&suite.provider()).ok()??;
    let package = message.into_key_package()?;
    if package.cipher_suite != suite.mls() {
        return None;
    }
    let seat = Seat::verify(package.signing_identity(), chat).ok()?;
    fits_a_group(chat, suite, whole)?;
    Some(Leaf { seat, reference: Bytes::from(reference.to_vec()) })
}

/// Whether MLS would add this key package to a group: one is made for the question. So a package
/// that nobody can add seats nobody, for all alike, and holds up nobody's Keying. Who asks follows
/// from the package, so that it is never the one who is asked for.
fn fits_a_group(chat: ChatId, suite: Suite, package: &[u8]) -> Option<()> {
    let asker = Sha256::new().chain_update(b"demes/v1/asker\0").chain_update(package).finalize();
    let asker = ed25519_dalek::SigningKey::from_bytes(&asker.into());
    let peer = PeerId(asker.verifying_key().to_bytes());
    let certify = |signed: &[u8]| ed25519_dalek::Signer::sign(&asker, signed).to_bytes();
    let asker = NewSeat::draw(chat, suite, peer, 0, &certify).ok()?;
    let group = Group::found(chat, &asker, &[0; GROUP_ID_BYTES]).ok()?;
    group.commit(&[Bytes::copy_from_slice(package)], &[]).ok().map(drop)
}

/// Whom a Welcome is for, as references of key packages.
pub fn welcomed(welcome: &[u8]) -> Vec<Bytes> {
    let Ok(message) = MlsMessage::from_bytes(welcome) else {
        return Vec::new();
    };
    let references = message.welcome_key_package_references();
    references.into_iter().map(|reference| Bytes::from(reference.to_vec())).collect()
}

/// The group and the epoch that a Commit is for; `None` for what is no Commit in plain.
pub fn place_of(commit: &[u8]) -> Option<(Vec<u8>, u64)> {
    let message = MlsMessage::from_bytes(commit).ok()?;
    if message.wire_format() != WireFormat::PublicMessage {
        return None;
    }
    Some((message.group_id()?.to_vec(), message.epoch()?))
}

/// A chat's group. `Clone` copies it for something that may fail, and then one of both is dropped.
#[derive(Clone)]
pub struct Group {
    chat: ChatId,
    memory: Memory,
    mls: MlsGroup<Config>,
}

impl Group {
    /// Founds a group of which this seat is the only leaf.
    pub fn found(
        chat: ChatId,
        new: &NewSeat,
        id: &[u8; GROUP_ID_BYTES],
    ) -> Result<Self, GroupError> {
        let memory = Memory::default();
        let client = client(chat, memory.clone(), Some((&new.seat, &new.secrets)));
        let none = ExtensionList::default;
        let mls =
            client.create_group_with_id(id.to_vec(), none(), none(), Some(MlsTime::from(0)))?;
        Ok(Self { chat, memory, mls })
    }

    /// Joins by a Welcome with the key package of this seat, which is used up by it.
    pub fn join(chat: ChatId, new: &NewSeat, welcome: &[u8]) -> Result<Self, GroupError> {
        let mut memory = Memory::default();
        let package = MlsMessage::from_bytes(&new.package)?;
        let reference = package.key_package_reference(&new.secrets.suite.provider())?;
        let reference = reference.ok_or(MlsError::WelcomeKeyPackageNotFound)?;
        // The storage has the key package without the frame of a message.
        let inner = package.into_key_package().ok_or(MlsError::WelcomeKeyPackageNotFound)?;
        let inner =
            mls_rs::mls_rs_codec::MlsEncode::mls_encode_to_vec(&inner).map_err(MlsError::from)?;
        let init = new.secrets.init.to_vec().into();
        let leaf = new.secrets.leaf.to_vec().into();
        let data = KeyPackageData::new(inner, init, leaf, u64::MAX);
        let insert = mls_rs_core::key_package::KeyPackageStorage::insert;
        let Ok(()) = insert(&mut memory, reference.to_vec(), data);
        let client = client(chat, memory.clone(), Some((&new.seat, &new.secrets)));
        let welcome = MlsMessage::from_bytes(welcome)?;
        let (mls, _) = client.join_group(None, &welcome, None)?;
        let group = Self { chat, memory, mls };
        if group.mls.group_id().len() != GROUP_ID_BYTES {
            return Err(MlsError::GroupIdMismatch.into());
        }
        Ok(group)
    }

    /// What a vault has kept of a group.
    pub(crate) fn load(chat: ChatId, id: &[u8], memory: Memory) -> Result<Self, GroupError> {
        let mls = client(chat, memory.clone(), None).load_group(id)?;
        Ok(Self { chat, memory, mls })
    }

    pub fn id(&self) -> &[u8] {
        self.mls.group_id()
    }

    pub fn epoch(&self) -> u64 {
        self.mls.current_epoch()
    }

    /// What all members of an epoch compute alike, and nobody else: people compare it (S12).
    pub fn authenticator(&self) -> Result<Vec<u8>, GroupError> {
        Ok(self.mls.epoch_authenticator()?.to_vec())
    }

    /// The leaves, each with its place.
    pub fn leaves(&self) -> Vec<(u32, Seat)> {
        let members = self.mls.roster().members_iter();
        // Every leaf was verified when it came in.
        let seat = |member: mls_rs::group::Member| {
            Some((member.index, Seat::read(&member.signing_identity).ok()?.0))
        };
        members.filter_map(seat).collect()
    }

    /// The seat of this peer.
    pub fn own_seat(&self) -> Option<Seat> {
        let identity = self.mls.current_member_signing_identity().ok()?;
        Some(Seat::read(identity).ok()?.0)
    }

    /// Makes a Commit; with nothing to add or remove it is a refresh (S10). The group stays as it
    /// is until the Commit comes back in the log.
    pub fn commit(&self, add: &[Bytes], remove: &[Seat]) -> Result<Committed, GroupError> {
        let mut group = self.mls.clone();
        let leaves = self.leaves();
        let mut builder = group.commit_builder().commit_time(MlsTime::from(0));
        for seat in remove {
            let leaf = leaves.iter().find(|(_, held)| held == seat);
            builder = builder.remove_member(leaf.ok_or(MlsError::MemberNotFound)?.0)?;
        }
        for package in add {
            builder = builder.add_member(MlsMessage::from_bytes(package)?)?;
        }
        let (output, secrets) = builder.build_detached()?;
        let welcome = match output.welcome_messages.first() {
            Some(welcome) => welcome.to_bytes()?,
            None => Vec::new(),
        };
        Ok(Committed {
            commit: output.commit_message.to_bytes()?.into(),
            welcome: welcome.into(),
            secrets: Zeroizing::new(secrets.to_bytes()?),
        })
    }

    /// Applies this peer's own Commit, which stands in the log now.
    pub(crate) fn apply_own(&mut self, secrets: &[u8]) -> Result<(), GroupError> {
        self.mls.apply_detached_commit(CommitSecrets::from_bytes(secrets)?)?;
        Ok(())
    }

    /// Takes a Commit of another member, if MLS accepts it and `is_wanted` what it changes (S2).
    /// Otherwise the group is as it was.
    pub fn process(&mut self, commit: &[u8], is_wanted: impl Fn(&[Change]) -> bool) -> Processed {
        let mut next = self.mls.clone();
        let message = match MlsMessage::from_bytes(commit) {
            Ok(message) if message.wire_format() == WireFormat::PublicMessage => message,
            Ok(_) => return Processed::Void(MlsError::UnexpectedMessageType.into()),
            Err(error) => return Processed::Void(error.into()),
        };
        let received = match next.process_incoming_message(message) {
            Ok(received) => received,
            Err(error) => return Self::refused(error),
        };
        let ReceivedMessage::Commit(commit) = received else {
            return Processed::Void(MlsError::UnexpectedMessageType.into());
        };
        let (effect, is_removed) = match commit.effect {
            CommitEffect::NewEpoch(epoch) => (epoch, false),
            CommitEffect::Removed { new_epoch, .. } => (new_epoch, true),
            CommitEffect::ReInit(_) => {
                return Processed::Void(MlsError::InvalidProposalTypeForSender.into());
            }
        };
        let Some(changes) =
            self.changes(effect.applied_proposals.iter().map(|info| &info.proposal))
        else {
            return Processed::Void(MlsError::InvalidProposalTypeForSender.into());
        };
        if !is_wanted(&changes) && !planted(Bug::VoidKeyingTaken) {
            return Processed::Void(MlsError::ProposalNotFound.into());
        }
        if is_removed {
            return Processed::Removed;
        }
        self.mls = next;
        Processed::Applied
    }

    /// A Commit is void, for all alike, for everything that all can see. What only this peer sees
    /// is whether its own share of the path opens.
    fn refused(error: MlsError) -> Processed {
        match error {
            MlsError::CantProcessMessageFromSelf => Processed::Own,
            MlsError::CryptoProviderError(_)
            | MlsError::PubKeyMismatch
            | MlsError::LcaNotFoundInDirectPath
            | MlsError::UpdateErrorNoSecretKey
            | MlsError::InvalidTreeKemPrivateKey
                if !planted(Bug::LockedOutIsVoid) =>
            {
                Processed::LockedOut(error.into())
            }
            error => Processed::Void(error.into()),
        }
    }

    fn changes<'a>(&self, proposals: impl Iterator<Item = &'a Proposal>) -> Option<Vec<Change>> {
        let leaves = self.leaves();
        let change = |proposal: &Proposal| match proposal {
            Proposal::Add(add) => {
                let seat = Seat::verify(add.key_package().signing_identity(), self.chat).ok()?;
                Some(Change::Add(seat))
            }
            Proposal::Remove(remove) => {
                let leaf = leaves.iter().find(|(index, _)| *index == remove.to_remove())?;
                Some(Change::Remove(leaf.1))
            }
            _ => None,
        };
        proposals.map(change).collect()
    }

    /// Seals a content for the place that `binding` names. Gives the sealed bytes and the
    /// generation of the key, which is used up: the caller has reserved it (S6).
    pub(crate) fn seal(
        &mut self,
        content: &[u8],
        binding: &[u8; 32],
    ) -> Result<(Bytes, u32), GroupError> {
        let generation = self.next_generation()?;
        let sealed = self.mls.encrypt_application_message(content, binding.to_vec())?;
        Ok((sealed.to_bytes()?.into(), generation))
    }

    /// The generation of the key that seals next.
    pub(crate) fn next_generation(&mut self) -> Result<u32, GroupError> {
        Ok(self.mls.peek_next_key_generation()?)
    }

    /// Gives up the keys before this generation: they may have been used.
    pub(crate) fn skip_to(&mut self, generation: u32) -> Result<(), GroupError> {
        while self.next_generation()? < generation {
            self.mls.next_encryption_key()?;
        }
        Ok(())
    }

    /// Opens a sealed message of another member at the place that `binding` names. On an error the
    /// group may have lost the key that the message asked for: `Opener` gives it back.
    pub(crate) fn open(&mut self, sealed: &[u8], binding: &[u8; 32]) -> Result<Opened, OpenError> {
        let message = MlsMessage::from_bytes(sealed).map_err(|_| OpenError::NotAuthentic)?;
        if message.wire_format() != WireFormat::PrivateMessage
            || message.group_id() != Some(self.id())
        {
            return Err(OpenError::EpochUnknown);
        }
        if message.epoch().is_none_or(|epoch| epoch > self.epoch()) {
            return Err(OpenError::EpochUnknown);
        }
        let received = self.mls.process_incoming_message(message).map_err(|error| match error {
            MlsError::EpochNotFound | MlsError::MemberNotFound => OpenError::EpochGone,
            MlsError::CantProcessMessageFromSelf => OpenError::Own,
            _ => OpenError::NotAuthentic,
        })?;
        let ReceivedMessage::ApplicationMessage(message) = received else {
            return Err(OpenError::NotAuthentic);
        };
        let is_here = message.authenticated_data == binding || planted(Bug::BindingUnchecked);
        // A past epoch's message was compared with the signature key that sits there now.
        let member = self.mls.member_at_index(message.sender_index);
        let seat = member.and_then(|member| Seat::read(&member.signing_identity).ok());
        match seat {
            Some((seat, _)) if is_here => Ok(Opened {
                seat,
                key_generation: message.unauthenticated_key_generation.unwrap_or_default(),
                content: Zeroizing::new(message.data().to_vec()),
            }),
            _ => Err(OpenError::NotAuthentic),
        }
    }

    /// What the vault has to store since the last call.
    pub(crate) fn changed(&mut self) -> Result<Changed, GroupError> {
        self.mls.write_to_storage()?;
        Ok(self.memory.take())
    }

    /// The past epochs whose messages open.
    pub fn past_epochs(&self) -> Vec<u64> {
        self.memory.epochs()
    }

    /// Forgets the keys of a past epoch (S8).
    pub(crate) fn forget(&mut self, epoch: u64) {
        if !planted(Bug::PastEpochsKept) {
            self.memory.forget(epoch);
        }
    }
}
