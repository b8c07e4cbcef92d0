//! The one canonical form of entries and submissions, in bytes; that of checkpoints stands in
//! `checkpoint.rs`.
//!
//! Hashes and signatures cover it and stores keep it, so that it must never depend on a library's
//! version. Integers are little-endian and of fixed width; texts, bytes and lists carry their
//! length before them. Decoding foreign bytes fails with `None` and allocates no more than the
//! bytes at hand can fill.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::quota::Quota;
use crate::types::{
    Entry, Hash, InviteLinkId, InviteLinkProof, Membership, Payload, PeerId, Policy, Reign,
    SignedVote, Submission, VoterSet,
};

/// Appends values to a buffer.
#[derive(Default)]
pub(super) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn byte(&mut self, value: u8) {
        self.0.push(value);
    }
    pub fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn fixed(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
    pub fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.fixed(value);
    }
    pub fn optional(&mut self, value: Option<&[u8]>) {
        self.byte(u8::from(value.is_some()));
        self.fixed(value.unwrap_or_default());
    }

    pub fn payload(&mut self, payload: &Payload) {
        match payload {
            Payload::TermStart(reign) => {
                self.byte(1);
                self.reign(reign);
            }
            Payload::Message { request_id, sealed } => {
                self.byte(2);
                self.bytes(request_id.as_bytes());
                self.bytes(sealed);
            }
            Payload::Membership(change) => {
                self.byte(3);
                self.membership(change);
            }
            Payload::VoterChange(voters) => {
                self.byte(4);
                self.voters(voters);
            }
            Payload::Policy(policy) => {
                self.byte(5);
                self.byte(u8::from(policy.chat_name.is_some()));
                policy.chat_name.iter().for_each(|name| self.bytes(name.as_bytes()));
                self.quota(policy.quota);
            }
        }
    }

    pub fn quota(&mut self, quota: Option<Quota>) {
        self.byte(u8::from(quota.is_some()));
        for number in quota.iter().flat_map(|quota| [quota.bytes, quota.rare]) {
            self.number(number);
        }
    }

    pub fn membership(&mut self, change: &Membership) {
        match change {
            Membership::Founded { chat_name, name, address } => {
                self.byte(1);
                self.bytes(chat_name.as_bytes());
                self.bytes(name.as_bytes());
                self.bytes(address.as_bytes());
            }
            Membership::Invited { peer, address } => {
                self.byte(2);
                self.fixed(&peer.0);
                self.bytes(address.as_bytes());
            }
            Membership::Joined { name, address, proof } => {
                self.byte(if proof.is_none() { 3 } else { 7 });
                self.bytes(name.as_bytes());
                self.bytes(address.as_bytes());
                if let Some(proof) = proof {
                    self.fixed(&proof.link.0);
                    self.fixed(&proof.signature);
                }
            }
            Membership::Declined => self.byte(4),
            Membership::Leaving => self.byte(5),
            Membership::Removed { peer } => {
                self.byte(6);
                self.fixed(&peer.0);
            }
            Membership::Removing { peer } => {
                self.byte(8);
                self.fixed(&peer.0);
            }
            Membership::InviteRevoked { peer } => {
                self.byte(9);
                self.fixed(&peer.0);
            }
            Membership::InviteLinkCreated { link, uses_max, expires_at_ms } => {
                self.byte(10);
                self.fixed(&link.0);
                self.number(u64::from(*uses_max));
                self.number(*expires_at_ms);
            }
            Membership::InviteLinkRevoked { link } => {
                self.byte(11);
                self.fixed(&link.0);
            }
            Membership::Recovered { generation } => {
                self.byte(12);
                self.number(*generation);
            }
        }
    }

    fn reign(&mut self, reign: &Reign) {
        self.number(reign.last_term);
        self.number(reign.votes.len() as u64);
        for (voter, vote) in &reign.votes {
            self.fixed(&voter.0);
            self.number(vote.incarnation);
            self.fixed(&vote.signature);
        }
    }

    pub fn voters(&mut self, voters: &VoterSet) {
        self.number(voters.len() as u64);
        for (peer, incarnation) in &voters.0 {
            self.fixed(&peer.0);
            self.number(*incarnation);
        }
    }

    /// Everything of an entry but its hash.
    fn entry_head(&mut self, entry: &Entry) {
        self.number(entry.index);
        self.number(entry.term);
        self.fixed(&entry.author.0);
        self.number(entry.incarnation);
        self.number(entry.number);
        self.number(entry.generation);
        self.number(entry.created_at_ms);
        self.optional(entry.trace.as_ref().map(<[u8; 25]>::as_slice));
        self.optional(entry.signature.as_ref().map(<[u8; 64]>::as_slice));
        self.fixed(&entry.previous.0);
        self.payload(&entry.payload);
    }
}

/// Takes values from the front of a buffer.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }
    pub fn byte(&mut self) -> Option<u8> {
        self.fixed::<1>().map(|[byte]| byte)
    }
    pub fn number(&mut self) -> Option<u64> {
        self.fixed().map(u64::from_le_bytes)
    }
    pub fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn bytes(&mut self) -> Option<&[u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }
    pub fn text(&mut self) -> Option<String> {
        self.bytes().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
    }
    pub fn optional<const N: usize>(&mut self) -> Option<Option<[u8; N]>> {
        match self.byte()? {
            0 => Some(None),
            1 => self.fixed().map(Some),
            _ => None,
        }
    }
    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
    pub fn quota(&mut self) -> Option<Option<Quota>> {
        Some(match self.flag()? {
            true => Some(Quota { bytes: self.number()?, rare: self.number()? }),
            false => None,
        })
    }
    pub fn peer(&mut self) -> Option<PeerId> {
        self.fixed().map(PeerId)
    }
    pub fn optional_peer(&mut self) -> Option<Option<PeerId>> {
        self.optional().map(|peer| peer.map(PeerId))
    }
    pub fn link(&mut self) -> Option<InviteLinkId> {
        self.fixed().map(InviteLinkId)
    }
    /// The value, if nothing is left over.
    pub fn finish<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }

    fn payload(&mut self) -> Option<Payload> {
        Some(match self.byte()? {
            1 => Payload::TermStart(self.reign()?),
            2 => Payload::Message {
                request_id: self.text()?,
                sealed: Bytes::copy_from_slice(self.bytes()?),
            },
            3 => Payload::Membership(self.membership()?),
            4 => Payload::VoterChange(self.voters()?),
            5 => {
                let chat_name = if self.flag()? { Some(self.text()?) } else { None };
                Payload::Policy(Policy { chat_name, quota: self.quota()? })
            }
            _ => return None,
        })
    }

    pub fn membership(&mut self) -> Option<Membership> {
        Some(match self.byte()? {
            1 => Membership::Founded {
                chat_name: self.text()?,
                name: self.text()?,
                address: self.text()?,
            },
            2 => Membership::Invited { peer: self.peer()?, address: self.text()? },
            3 => Membership::Joined { name: self.text()?, address: self.text()?, proof: None },
            4 => Membership::Declined,
            5 => Membership::Leaving,
            6 => Membership::Removed { peer: self.peer()? },
            7 => Membership::Joined {
                name: self.text()?,
                address: self.text()?,
                proof: Some(InviteLinkProof { link: self.link()?, signature: self.fixed()? }),
            },
            8 => Membership::Removing { peer: self.peer()? },
            9 => Membership::InviteRevoked { peer: self.peer()? },
            10 => Membership::InviteLinkCreated {
                link: self.link()?,
                uses_max: self.number().and_then(|uses| u32::try_from(uses).ok())?,
                expires_at_ms: self.number()?,
            },
            11 => Membership::InviteLinkRevoked { link: self.link()? },
            12 => Membership::Recovered { generation: self.number()? },
            _ => return None,
        })
    }

    fn reign(&mut self) -> Option<Reign> {
        let mut reign = Reign { last_term: self.number()?, ..Reign::default() };
        for _ in 0..self.number()? {
            let voter = self.peer()?;
            let vote = SignedVote { incarnation: self.number()?, signature: self.fixed()? };
            // In order and once each, like a set of voters.
            if reign.votes.last_key_value().is_some_and(|(last, _)| *last >= voter) {
                return None;
            }
            reign.votes.insert(voter, vote);
        }
        Some(reign)
    }

    pub fn voters(&mut self) -> Option<VoterSet> {
        let mut voters = BTreeMap::new();
        for _ in 0..self.number()? {
            let (peer, incarnation) = (self.peer()?, self.number()?);
            // In order and once each: there is one form of a set.
            if voters.last_key_value().is_some_and(|(last, _)| *last >= peer) {
                return None;
            }
            voters.insert(peer, incarnation);
        }
        Some(VoterSet(voters))
    }

    fn entry(&mut self) -> Option<Entry> {
        Some(Entry {
            index: self.number()?,
            term: self.number()?,
            author: self.peer()?,
            incarnation: self.number()?,
            number: self.number()?,
            generation: self.number()?,
            created_at_ms: self.number()?,
            trace: self.optional()?,
            signature: self.optional()?,
            previous: self.fixed().map(Hash)?,
            payload: self.payload()?,
            hash: self.fixed().map(Hash)?,
        })
    }
}

impl Entry {
    /// The canonical form, ending in the hash.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = self.encode_head();
        writer.fixed(&self.hash.0);
        writer.0
    }

    /// Reads the canonical form. The hash is not checked; `verify_hash` does that.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        let mut reader = Reader(bytes);
        let entry = reader.entry()?;
        reader.finish(entry)
    }

    /// What `hash` must be.
    pub fn computed_hash(&self) -> Hash {
        super::sign::entry_hash(&self.encode_head().0)
    }

    /// Whether `hash` is right.
    pub fn verify_hash(&self) -> bool {
        self.hash == self.computed_hash()
    }

    /// About how many bytes the entry takes in memory, in a store and on the wire.
    pub fn size(&self) -> usize {
        payload_size(&self.payload) + 256
    }

    fn encode_head(&self) -> Writer {
        let mut writer = Writer(Vec::with_capacity(self.size()));
        writer.entry_head(self);
        writer
    }
}

fn payload_size(payload: &Payload) -> usize {
    match payload {
        Payload::Message { request_id, sealed } => request_id.len() + sealed.len(),
        Payload::VoterChange(voters) => voters.len() * 40,
        Payload::TermStart(reign) => reign.votes.len() * 104,
        _ => 512,
    }
}

impl Submission {
    /// About how many bytes the submission takes on the wire.
    pub fn size(&self) -> usize {
        payload_size(&self.payload) + 128
    }

    /// The canonical form, for the outbox.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(self.number);
        writer.number(self.created_at_ms);
        writer.optional(self.trace.as_ref().map(<[u8; 25]>::as_slice));
        writer.optional(self.signature.as_ref().map(<[u8; 64]>::as_slice));
        writer.payload(&self.payload);
        writer.0
    }

    /// Reads the canonical form.
    pub fn decode(bytes: &[u8]) -> Option<Submission> {
        let mut reader = Reader(bytes);
        let submission = Submission {
            number: reader.number()?,
            created_at_ms: reader.number()?,
            trace: reader.optional()?,
            signature: reader.optional()?,
            payload: reader.payload()?,
        };
        reader.finish(submission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: Payload) -> Entry {
        let mut entry = Entry {
            index: 7,
            term: 3,
            author: PeerId([1; 32]),
            incarnation: 9,
            number: 4,
            generation: 12,
            created_at_ms: 1_700_000_000_000,
            trace: Some([5; 25]),
            payload,
            signature: Some([6; 64]),
            previous: Hash([8; 32]),
            hash: Hash::default(),
        };
        entry.hash = entry.computed_hash();
        entry
    }

    fn payloads() -> Vec<Payload> {
        let voters = VoterSet([(PeerId([2; 32]), 11)].into());
        let link = InviteLinkId([5; 32]);
        let vote = SignedVote { incarnation: 7, signature: [3; 64] };
        let joined = |proof| {
            let (name, address) = ("n".to_owned(), "c:3".to_owned());
            Payload::Membership(Membership::Joined { name, address, proof })
        };
        vec![
            Payload::TermStart(Reign::default()),
            Payload::TermStart(Reign {
                last_term: 2,
                votes: [1, 2].map(|n| (PeerId([n; 32]), vote)).into(),
            }),
            Payload::Message { request_id: "r".into(), sealed: Bytes::from_static(b"sealed") },
            Payload::Membership(Membership::Founded {
                chat_name: "c".into(),
                name: "n".into(),
                address: "a:1".into(),
            }),
            Payload::Membership(Membership::Invited {
                peer: PeerId([3; 32]),
                address: "b:2".into(),
            }),
            joined(None),
            joined(Some(InviteLinkProof { link, signature: [7; 64] })),
            Payload::Membership(Membership::Declined),
            Payload::Membership(Membership::Leaving),
            Payload::Membership(Membership::Removing { peer: PeerId([4; 32]) }),
            Payload::Membership(Membership::Removed { peer: PeerId([4; 32]) }),
            Payload::Membership(Membership::InviteRevoked { peer: PeerId([4; 32]) }),
            Payload::Membership(Membership::InviteLinkCreated {
                link,
                uses_max: 3,
                expires_at_ms: 9,
            }),
            Payload::Membership(Membership::InviteLinkRevoked { link }),
            Payload::Membership(Membership::Recovered { generation: 13 }),
            Payload::VoterChange(voters),
            Payload::Policy(Policy::named("new")),
            Payload::Policy(Policy { chat_name: None, quota: Some(Quota { bytes: 7, rare: 8 }) }),
        ]
    }

    #[test]
    fn every_kind_of_entry_reads_back_and_its_hash_covers_every_byte() {
        for payload in payloads() {
            let entry = entry(payload);
            assert!(entry.verify_hash());
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes), Some(entry));
            for position in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1;
                let damaged = Entry::decode(&flipped);
                assert!(damaged.is_none_or(|damaged| !damaged.verify_hash()));
            }
            for length in 0..bytes.len() {
                assert_eq!(Entry::decode(&bytes[..length]), None, "truncated at {length}");
            }
        }
    }

    #[test]
    fn a_set_of_voters_has_one_form() {
        let (one, two) = (PeerId([1; 32]), PeerId([2; 32]));
        let form = |voters: &[(PeerId, u64)]| {
            let mut writer = Writer::default();
            writer.number(voters.len() as u64);
            for (peer, incarnation) in voters {
                writer.fixed(&peer.0);
                writer.number(*incarnation);
            }
            writer.0
        };
        let read = |voters: &[(PeerId, u64)]| Reader(&form(voters)).voters();
        assert_eq!(read(&[(one, 7), (two, 8)]), Some(VoterSet([(one, 7), (two, 8)].into())));
        assert_eq!(read(&[(two, 8), (one, 7)]), None);
        assert_eq!(read(&[(one, 7), (one, 8)]), None);
    }

    #[test]
    fn submissions_read_back() {
        for payload in payloads() {
            let submission =
                Submission { number: 1, created_at_ms: 2, trace: None, payload, signature: None };
            assert_eq!(Submission::decode(&submission.encode()), Some(submission));
        }
    }
}
