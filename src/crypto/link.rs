//! The key pair of an invite link (R43), made from the seed that the link's text carries.

use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

use crate::protocol::sign::signed_invite_link;
use crate::protocol::types::{ChatId, Incarnation, InviteLinkId, InviteLinkProof, PeerId};

const KEY: &[u8] = b"demes/v1/invite-link-key\0";

/// The secret of a link: 128 random bits. It is shown nowhere but in the link's text.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkSeed(pub [u8; 16]);

impl LinkSeed {
    /// Draws a new one.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed)?;
        Ok(Self(seed))
    }

    /// The link's public key.
    pub fn id(&self) -> InviteLinkId {
        InviteLinkId(self.key().verifying_key().to_bytes())
    }

    /// Proves that `peer`, in this incarnation, has the link.
    pub fn prove(&self, chat: ChatId, peer: PeerId, incarnation: Incarnation) -> InviteLinkProof {
        let signed = signed_invite_link(chat, peer, incarnation);
        InviteLinkProof { link: self.id(), signature: self.key().sign(&signed).to_bytes() }
    }

    fn key(&self) -> SigningKey {
        let digest = Sha256::new().chain_update(KEY).chain_update(self.0).finalize();
        SigningKey::from_bytes(&digest.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::verify::verify_proof;
    use super::*;

    // R43: what one joiner has shown is of no use to anybody else.
    #[test]
    fn a_proof_holds_for_one_chat_peer_and_incarnation() {
        let (seed, chat, peer) = (LinkSeed([3; 16]), ChatId([1; 16]), PeerId([2; 32]));
        let proof = seed.prove(chat, peer, 7);
        assert_eq!(proof.link, seed.id());
        assert!(verify_proof(chat, peer, 7, &proof));
        assert!(!verify_proof(ChatId([9; 16]), peer, 7, &proof));
        assert!(!verify_proof(chat, PeerId([9; 32]), 7, &proof));
        assert!(!verify_proof(chat, peer, 8, &proof));
        let other = InviteLinkProof { link: LinkSeed([4; 16]).id(), ..proof };
        assert!(!verify_proof(chat, peer, 7, &other));
    }

    #[test]
    fn a_seed_makes_the_same_key_for_ever() {
        let id = LinkSeed([3; 16]).id().to_string();
        assert_eq!(id, "e2bdd1950ce5bee85012a6ab85d54fedfa57ac8979eb2c3c8d05a36663223ce5");
        let drawn = [LinkSeed::generate().unwrap(), LinkSeed::generate().unwrap()];
        assert!(drawn[0] != drawn[1]);
    }
}
