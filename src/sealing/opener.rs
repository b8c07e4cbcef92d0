//! Opens messages so that a false one costs nothing (S7).
//!
//! mls-rs takes a message's key before it knows whether the message is genuine. A host that
//! changes one byte, or a member that speaks as another, would use up the key of the true message.
//! So the group that has failed to open something is thrown away: the one before takes its place,
//! and opens again what was opened since.

use bytes::Bytes;
use demes_content::Binding;

use crate::GroupError;
use crate::group::{Group, OpenError};
use crate::memory::Secret;
use crate::planted::{Bug, planted};

/// How many messages are opened between two copies. Each is opened twice at most for one forgery.
const CHECKPOINT: usize = 64;

pub(crate) struct Opener {
    group: Group,
    before: Group,
    since: Vec<(Bytes, [u8; 32])>,
}

impl Opener {
    pub fn new(group: Group) -> Self {
        Self { before: group.clone(), group, since: Vec::new() }
    }

    pub fn group(&self) -> &Group {
        &self.group
    }

    /// For everything but opening. What changes the epoch calls `checkpoint` afterwards.
    pub fn group_mut(&mut self) -> &mut Group {
        &mut self.group
    }

    /// What the group is now, it stays.
    pub fn checkpoint(&mut self) {
        self.before = self.group.clone();
        self.since.clear();
    }

    /// Opens a message of another member, and checks that its author is who the entry says.
    pub fn open(
        &mut self,
        sealed: &Bytes,
        binding: &Binding,
    ) -> Result<Result<Secret, OpenError>, GroupError> {
        let digest = binding.digest();
        match self.group.open(sealed, &digest) {
            Ok(opened) => {
                let is_author = opened.seat.peer == binding.author
                    && opened.seat.incarnation == binding.incarnation;
                if is_author || planted(Bug::AuthorUnchecked) {
                    self.since.push((sealed.clone(), digest));
                    if self.since.len() >= CHECKPOINT {
                        self.checkpoint();
                    }
                    return Ok(Ok(opened.content));
                }
                self.go_back()?;
                Ok(Err(OpenError::NotAuthentic))
            }
            Err(error) => {
                if !matches!(error, OpenError::EpochUnknown) {
                    self.go_back()?;
                }
                Ok(Err(error))
            }
        }
    }

    /// The epoch that a message says it was sealed in.
    pub fn epoch_of(sealed: &[u8]) -> Option<u64> {
        mls_rs::MlsMessage::from_bytes(sealed).ok()?.epoch()
    }

    fn go_back(&mut self) -> Result<(), GroupError> {
        if planted(Bug::ForgeryBurnsKey) {
            return Ok(());
        }
        // Own keys that were used stay used.
        let next = self.group.next_generation()?;
        self.group = self.before.clone();
        self.group.skip_to(next)?;
        for (sealed, digest) in &self.since {
            let again = self.group.open(sealed, digest);
            debug_assert!(again.is_ok(), "it did open");
        }
        self.checkpoint();
        Ok(())
    }
}
