//! Who sits at a leaf of the group (S13).
//!
//! MLS's signature key is one of its own, drawn for one seat; the peer's identity key says that it
//! belongs to the peer, in this chat and in this incarnation. So the identity key signs nothing
//! that MLS makes up, and a seat that is given up takes its key with it.

use demes_protocol::types::{ChatId, Incarnation, PeerId, Signature};
use ed25519_dalek::VerifyingKey;
use mls_rs::identity::{Credential, CredentialType, CustomCredential, SigningIdentity};
use mls_rs::time::MlsTime;
use mls_rs::{ExtensionList, IdentityProvider};
use mls_rs_core::error::IntoAnyError;
use mls_rs_core::identity::MemberValidationContext;

use crate::planted::{Bug, planted};

const TAG: &[u8] = b"demes/v1/seat\0";
/// Of the range that RFC 9420 leaves for private use.
const CREDENTIAL: CredentialType = CredentialType::new(0xf0de);
const FORMAT: u8 = 1;
/// Format, peer, incarnation, signature.
const CREDENTIAL_BYTES: usize = 1 + 32 + 8 + 64;

/// One leaf's worth of membership: a peer in one incarnation, and the key that it signs with
/// there. The key is fresh for every key package, so that it names the seat.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Seat {
    pub peer: PeerId,
    pub incarnation: Incarnation,
    /// The public half of MLS's signature key.
    pub key: [u8; 32],
}

/// Why a leaf's credential is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("the credential is of another kind")]
    OtherKind,
    #[error("the credential is malformed")]
    Malformed,
    #[error("the identity key does not say that this seat is the peer's")]
    NotCertified,
    #[error("nobody outside the group may sign for it")]
    External,
}

impl IntoAnyError for CredentialError {
    fn into_dyn_error(self) -> Result<Box<dyn std::error::Error + Send + Sync>, Self> {
        Ok(Box::new(self))
    }
}

impl Seat {
    /// What the identity key signs. Only participants have seats, so that the role needs no field:
    /// the tag says it.
    pub fn signed(&self, chat: ChatId) -> Vec<u8> {
        let incarnation = self.incarnation.to_le_bytes();
        [TAG, &chat.0, &self.peer.0, &incarnation, &self.key].concat()
    }

    /// The leaf's identity with the signature of the peer's identity key over `signed`.
    pub(crate) fn identity(&self, signature: &Signature) -> SigningIdentity {
        let mut data = Vec::with_capacity(CREDENTIAL_BYTES);
        data.push(FORMAT);
        data.extend_from_slice(&self.peer.0);
        data.extend_from_slice(&self.incarnation.to_le_bytes());
        data.extend_from_slice(signature);
        let credential = Credential::Custom(CustomCredential::new(CREDENTIAL, data));
        SigningIdentity::new(credential, self.key.to_vec().into())
    }

    /// Reads a leaf's identity, without asking whether it is certified.
    pub(crate) fn read(identity: &SigningIdentity) -> Result<(Self, Signature), CredentialError> {
        let Credential::Custom(custom) = &identity.credential else {
            return Err(CredentialError::OtherKind);
        };
        if custom.credential_type() != CREDENTIAL {
            return Err(CredentialError::OtherKind);
        }
        let data = custom.data();
        if data.len() != CREDENTIAL_BYTES || data[0] != FORMAT {
            return Err(CredentialError::Malformed);
        }
        let fixed = |from: usize| -> [u8; 32] {
            data[from..from + 32].try_into().expect("the length was checked")
        };
        let incarnation = data[33..41].try_into().expect("the length was checked");
        let seat = Self {
            peer: PeerId(fixed(1)),
            incarnation: Incarnation::from_le_bytes(incarnation),
            key: identity
                .signature_key
                .as_bytes()
                .try_into()
                .map_err(|_| CredentialError::Malformed)?,
        };
        let signature = data[41..].try_into().expect("the length was checked");
        Ok((seat, signature))
    }

    /// The seat of a leaf, certified by its peer for this chat.
    pub(crate) fn verify(
        identity: &SigningIdentity,
        chat: ChatId,
    ) -> Result<Self, CredentialError> {
        let (seat, signature) = Self::read(identity)?;
        if planted(Bug::CredentialUnchecked) {
            return Ok(seat);
        }
        let key = VerifyingKey::from_bytes(&seat.peer.0);
        let key = key.map_err(|_| CredentialError::NotCertified)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature);
        key.verify_strict(&seat.signed(chat), &signature)
            .map_err(|_| CredentialError::NotCertified)?;
        Ok(seat)
    }
}

/// Checks the leaves of one chat's group, for mls-rs.
#[derive(Clone, Copy, Debug)]
pub struct Seats {
    pub chat: ChatId,
}

impl IdentityProvider for Seats {
    type Error = CredentialError;

    fn validate_member(
        &self,
        identity: &SigningIdentity,
        _: Option<MlsTime>,
        _: MemberValidationContext<'_>,
    ) -> Result<(), CredentialError> {
        Seat::verify(identity, self.chat).map(drop)
    }

    fn validate_external_sender(
        &self,
        _: &SigningIdentity,
        _: Option<MlsTime>,
        _: Option<&ExtensionList>,
    ) -> Result<(), CredentialError> {
        Err(CredentialError::External)
    }

    /// A peer has one leaf at a time.
    fn identity(
        &self,
        identity: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<Vec<u8>, CredentialError> {
        Ok(Seat::read(identity)?.0.peer.0.to_vec())
    }

    /// A renewed leaf stays in its seat: another key would be another seat, which comes only by a
    /// key package in the log (S1).
    fn valid_successor(
        &self,
        before: &SigningIdentity,
        after: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<bool, CredentialError> {
        Ok(Seat::read(before)?.0 == Seat::read(after)?.0)
    }

    fn supported_types(&self) -> Vec<CredentialType> {
        vec![CREDENTIAL]
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    // S13: a leaf is taken only with the identity key's word for this chat, peer, incarnation and
    // signature key.
    #[test]
    fn a_seat_is_certified_for_one_place_only() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let (chat, peer) = (ChatId([1; 16]), PeerId(key.verifying_key().to_bytes()));
        let seat = Seat { peer, incarnation: 5, key: [3; 32] };
        let signature = key.sign(&seat.signed(chat)).to_bytes();
        let identity = seat.identity(&signature);
        assert_eq!(Seat::verify(&identity, chat), Ok(seat));
        let not = Err(CredentialError::NotCertified);
        assert_eq!(Seat::verify(&identity, ChatId([2; 16])), not);
        for other in [
            Seat { incarnation: 6, ..seat },
            Seat { key: [4; 32], ..seat },
            Seat { peer: PeerId([9; 32]), ..seat },
        ] {
            assert_eq!(Seat::verify(&other.identity(&signature), chat), not, "{other:?}");
        }
        let other = SigningKey::from_bytes(&[8; 32]).sign(&seat.signed(chat)).to_bytes();
        assert_eq!(Seat::verify(&seat.identity(&other), chat), not);
    }

    #[test]
    fn foreign_credentials_are_refused_with_a_reason() {
        let basic = mls_rs::identity::basic::BasicCredential::new(b"Ana".to_vec());
        let basic = SigningIdentity::new(basic.into_credential(), vec![1; 32].into());
        assert_eq!(Seat::read(&basic), Err(CredentialError::OtherKind));
        let custom = |kind, data: Vec<u8>, key: Vec<u8>| {
            let credential = CustomCredential::new(CredentialType::new(kind), data);
            SigningIdentity::new(Credential::Custom(credential), key.into())
        };
        let sound = vec![FORMAT; CREDENTIAL_BYTES];
        let read = |identity: &SigningIdentity| Seat::read(identity).map(drop);
        assert_eq!(read(&custom(0xf0de, sound.clone(), vec![1; 32])), Ok(()));
        let malformed = Err(CredentialError::Malformed);
        assert_eq!(read(&custom(0xf0de, sound.clone(), vec![1; 31])), malformed);
        assert_eq!(read(&custom(0xf0de, vec![2; CREDENTIAL_BYTES], vec![1; 32])), malformed);
        assert_eq!(read(&custom(0xf0de, vec![], vec![1; 32])), malformed);
        assert_eq!(read(&custom(0xf0df, sound, vec![1; 32])), Err(CredentialError::OtherKind));
    }
}
