//! The peers' stores, read from their files when all processes have ended.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use demes::cli::demo::check::Line;
use demes::protocol::types::{Entry, Hash, Incarnation, Number, PeerId};
use demes::storage::DataDir;
use demes::wire::hex;

/// Entries that are read at once, in bytes.
const PAGE_BYTES: usize = 4 << 20;

/// What the stores must agree on.
pub struct Stores {
    /// The hashes of what was in the feeds; behind them, of what any store holds for committed: the
    /// peers that stopped last may have confirmed more.
    committed: Vec<String>,
    fed: usize,
}

impl Stores {
    pub fn of(feed: &[Line]) -> Self {
        let committed = feed.iter().map(|line| line.hash.to_string()).collect();
        Self { committed, fed: feed.len() }
    }

    /// Reads one peer's store: everything that was in the feeds is there, what is committed is the
    /// same as elsewhere, the chain of hashes holds, and every author's numbers have no gaps.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    pub fn check(&mut self, name: &str, data_dir: &Path) -> Result<Vec<String>> {
        let directory = DataDir::open(data_dir).with_context(|| format!("{name}'s store"))?;
        let chats = directory.chats()?;
        let [chat] = chats[..] else {
            return Ok(vec![format!("{name} has {} chats, not one", chats.len())]);
        };
        let (store, recovered) = directory.open_chat(chat)?;
        let reader = store.reader();
        let mut chain = Chain::default();
        let mut problems = Vec::new();
        loop {
            let entries = reader.entries(chain.length as u64 + 1, u64::MAX, PAGE_BYTES)?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                problems.extend(chain.problem_with(&entry));
                chain.extend(&entry);
                if entry.index <= recovered.commit && !self.agrees(&entry) {
                    problems.push(format!("entry {} is another one elsewhere", entry.index));
                }
            }
        }
        if chain.length < self.fed {
            problems.push(format!("lost: there are {} entries of {}", chain.length, self.fed));
        }
        Ok(problems.into_iter().map(|problem| format!("{problem} (in {name}'s store)")).collect())
    }

    fn agrees(&mut self, entry: &Entry) -> bool {
        let place = usize::try_from(entry.index - 1).expect("it was read into memory");
        let hash = hex(&entry.hash.0);
        match self.committed.get(place) {
            Some(known) => *known == hash,
            None => {
                self.committed.push(hash);
                true
            }
        }
    }
}

/// A store as it was read so far.
#[derive(Default)]
struct Chain {
    length: usize,
    last: Hash,
    numbers: BTreeMap<(PeerId, Incarnation), Number>,
}

impl Chain {
    fn problem_with(&self, entry: &Entry) -> Option<String> {
        let place = self.length as u64 + 1;
        if entry.index != place || entry.previous != self.last || !entry.verify_hash() {
            return Some(format!("the chain breaks at {place}"));
        }
        // What a host appends by itself, and joins, have no number.
        let last = self.numbers.get(&(entry.author, entry.incarnation)).copied().unwrap_or(0);
        let gap = entry.number != 0 && entry.number != last + 1;
        gap.then(|| format!("an author's number {} follows {last} at {place}", entry.number))
    }

    fn extend(&mut self, entry: &Entry) {
        self.length += 1;
        self.last = entry.hash;
        if entry.number != 0 {
            self.numbers.insert((entry.author, entry.incarnation), entry.number);
        }
    }
}
