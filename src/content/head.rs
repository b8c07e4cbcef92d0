//! What an author says of the log with everything that it says (S12).

use demes_protocol::types::{Hash, Index};

/// The end of the committed part of an author's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// From 1.
    pub index: Index,
    /// Of the entry there, and so of everything up to it.
    pub hash: Hash,
}

/// What a reader's own log says of an author's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadCheck {
    /// Both logs are one up to there.
    Same,
    /// The author claims to have known an entry that stands at or after the one which carries its
    /// words: no honest author can.
    Impossible,
    /// The logs differ: one host, or a majority, has shown two histories. What was said is the
    /// proof of it.
    Differs,
}

impl Head {
    /// Compares an author's head with the reader's log, in which the author's words stand at
    /// `carried_at` and whose entry at this head's index has the hash `own`. `own` must be given
    /// where the head lies before `carried_at`: a reader has the log up to there.
    pub fn check(&self, carried_at: Index, own: Option<Hash>) -> HeadCheck {
        match own {
            _ if self.index >= carried_at => HeadCheck::Impossible,
            Some(own) if own == self.hash => HeadCheck::Same,
            _ => HeadCheck::Differs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S12: two histories are found by what people say.
    #[test]
    fn a_head_of_another_history_is_found() {
        let head = Head { index: 5, hash: Hash([5; 32]) };
        assert_eq!(head.check(6, Some(Hash([5; 32]))), HeadCheck::Same);
        assert_eq!(head.check(6, Some(Hash([6; 32]))), HeadCheck::Differs);
        assert_eq!(head.check(5, Some(Hash([5; 32]))), HeadCheck::Impossible);
        assert_eq!(head.check(2, None), HeadCheck::Impossible);
    }
}
