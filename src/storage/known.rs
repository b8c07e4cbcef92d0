//! Which request ids a chat's file may hold. Nearly every request is new, and asking the file about
//! each takes a thread that may block; here most of them are told apart at once.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most ids that are kept account of; with more of them the file is asked. A set of that size
/// takes about 5 MiB.
const IDS_MAX: usize = 1 << 18;

/// Hashes of request ids: the writer adds to them from the moment when the file is opened, and
/// whoever reads the file through adds what it had before.
#[derive(Default)]
pub struct KnownRequests {
    seeds: RandomState,
    hashes: Mutex<Hashes>,
}

#[derive(Default)]
struct Hashes {
    set: HashSet<u64>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// The file has not been read through yet.
    #[default]
    Partial,
    Complete,
    /// There are too many.
    GivenUp,
}

impl KnownRequests {
    /// Takes note of an id that is in the file, or will be.
    pub fn add(&self, id: &str) {
        let hash = self.seeds.hash_one(id);
        let mut hashes = self.lock();
        if hashes.state == State::GivenUp {
            return;
        }
        hashes.set.insert(hash);
        if hashes.set.len() > IDS_MAX {
            *hashes = Hashes { set: HashSet::new(), state: State::GivenUp };
        }
    }

    /// Everything that the file had when it was opened has been added.
    pub fn complete(&self) {
        let mut hashes = self.lock();
        if hashes.state == State::Partial {
            hashes.state = State::Complete;
        }
    }

    /// Whether the file surely does not hold the id. `false` says nothing.
    pub fn lacks(&self, id: &str) -> bool {
        let hash = self.seeds.hash_one(id);
        let hashes = self.lock();
        hashes.state == State::Complete && !hashes.set.contains(&hash)
    }

    fn lock(&self) -> MutexGuard<'_, Hashes> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_surely_missing_before_all_is_known() {
        let known = KnownRequests::default();
        known.add("new");
        assert!(!known.lacks("old"));
        known.add("old");
        known.complete();
        assert!(!known.lacks("old") && !known.lacks("new"));
        assert!(known.lacks("other"));
        known.add("other");
        assert!(!known.lacks("other"));
    }

    #[test]
    fn too_many_are_given_up() {
        let known = KnownRequests::default();
        known.complete();
        for number in 0..=IDS_MAX {
            known.add(&number.to_string());
        }
        assert!(!known.lacks("other"));
        assert!(known.lock().set.is_empty());
    }
}
