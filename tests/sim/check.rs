//! What must hold after every step.

use std::collections::BTreeMap;

use demes_protocol::Replica;
use demes_protocol::event::{Role, Status};
use demes_protocol::types::{Entry, Hash, Index, Number, Payload, PeerId, Term};

use super::disk::Image;

/// The oracle: it has seen everything that was ever told to anyone.
#[derive(Default)]
pub struct Check {
    hosts: BTreeMap<Term, PeerId>,
    committed: Vec<Hash>,
    /// Where each submission stands.
    places: BTreeMap<(PeerId, u64, Number), Index>,
    last_numbers: BTreeMap<(PeerId, u64), Number>,
    /// What authors were told is confirmed.
    confirmed: BTreeMap<(PeerId, u64, Number), Index>,
    commits: BTreeMap<(PeerId, u64), Index>,
}

impl Check {
    /// One host per term.
    pub fn status(&mut self, peer: PeerId, boot: u64, status: &Status) {
        if status.role == Role::Host {
            let host = *self.hosts.entry(status.term).or_insert(peer);
            assert_eq!(host, peer, "two hosts in term {}", status.term);
        }
        let commit = self.commits.entry((peer, boot)).or_insert(0);
        assert!(status.commit >= *commit, "the commit index goes back");
        *commit = status.commit;
    }

    /// All logs agree on what is committed; nothing is there twice; authors keep their order; and a
    /// majority of the voters really has it on disk.
    pub fn committed(&mut self, entry: &Entry, replica: &Replica, images: &[(PeerId, &Image)]) {
        let position = entry.index as usize - 1;
        assert!(position <= self.committed.len(), "a commit leaves a gap");
        if let Some(hash) = self.committed.get(position) {
            assert_eq!(*hash, entry.hash, "two entries committed at {}", entry.index);
            return;
        }
        self.committed.push(entry.hash);
        let voters = replica.log().voters();
        let having =
            images.iter().filter(|(peer, image)| voters.contains(peer) && image.has(entry)).count();
        assert!(having >= voters.majority(), "entry {} is not on a majority's disks", entry.index);
        if entry.number > 0 {
            let key = (entry.author, entry.session, entry.number);
            let before = self.places.insert(key, entry.index);
            assert_eq!(before, None, "a submission stands in the log twice");
            let last = self.last_numbers.entry((entry.author, entry.session)).or_insert(0);
            assert_eq!(entry.number, *last + 1, "an author's order is broken");
            *last = entry.number;
        }
    }

    /// What an author is told is true.
    pub fn confirmed(&mut self, peer: PeerId, session: u64, number: Number, index: Index) {
        let key = (peer, session, number);
        assert_eq!(self.places.get(&key), Some(&index), "confirmed, but not there");
        let before = self.confirmed.insert(key, index);
        assert!(before.is_none_or(|before| before == index), "confirmed twice, differently");
    }

    /// After healing: every log holds everything that was ever committed.
    pub fn complete(&self, entries: &[std::sync::Arc<Entry>]) {
        assert!(entries.len() >= self.committed.len(), "a log is shorter than what is committed");
        for (entry, hash) in entries.iter().zip(&self.committed) {
            assert_eq!(entry.hash, *hash, "a log differs from what is committed");
        }
        let messages =
            |entry: &&std::sync::Arc<Entry>| matches!(entry.payload, Payload::Message { .. });
        assert!(entries.iter().filter(messages).count() > 0, "nothing was said");
    }

    pub fn confirmed_count(&self) -> u64 {
        self.confirmed.len() as u64
    }
    pub fn terms(&self) -> u64 {
        self.hosts.len() as u64
    }
}
