//! The way of committed entries to their readers.
//!
//! The newest committed entries of a chat stand in a shared tail, each encoded once, by whoever
//! reads it first. A reader only has a position: it takes everything after it at once, from the
//! tail or, when it is further behind, from the store. So there is no queue for any reader.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;

use crate::crypto::seal;
use crate::planted::{Mistake, planted};
use crate::protocol::types::{ChatId, Entry, Index};
use crate::wire::feed::{FeedFrame, encode_event};
use crate::wire::view::{Names, learn_name, to_event};

/// The most entries, and bytes of them, that a tail keeps; older ones are read from the store.
const TAIL_ENTRIES_MAX: usize = 8_192;
const TAIL_BYTES_MAX: usize = 8 << 20;

/// A frame is full beyond this many bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// The committed end of one chat.
pub struct ChatFeed {
    chat: ChatId,
    tail: Mutex<Tail>,
}

struct Tail {
    items: VecDeque<Arc<Item>>,
    bytes: usize,
    /// The last committed index.
    commit: Index,
    /// The store has the log up to here, and perhaps more. A chat that catches up commits what its
    /// own disk does not have yet.
    stored: Index,
    /// The members' names after the last entry; copied when one changes.
    names: Arc<Names>,
}

struct Item {
    entry: Arc<Entry>,
    names: Arc<Names>,
    event: OnceLock<Bytes>,
}

/// What stands after a position.
pub enum After {
    /// Nothing yet.
    Nothing,
    /// The next frame, and the position after it.
    Frame(FeedFrame, Index),
    /// Committed entries that only the store has, up to this one at least.
    Stored { through: Index },
}

impl ChatFeed {
    /// The feed of a chat that is committed up to `commit`.
    pub fn new(chat: ChatId, commit: Index, names: Names) -> Self {
        let names = Arc::new(names);
        let tail = Tail { items: VecDeque::new(), bytes: 0, commit, stored: commit, names };
        Self { chat, tail: Mutex::new(tail) }
    }

    /// The store has the log up to `through`. Whether a reader may have waited for that: one who is
    /// further behind than the tail.
    pub fn stored(&self, through: Index) -> bool {
        let mut tail = self.lock();
        let before = tail.stored;
        tail.stored = before.max(through);
        let first = tail.items.front().map_or(tail.commit + 1, |item| item.entry.index);
        before < tail.stored && before + 1 < first
    }

    /// What is committed up to here is in the store.
    pub fn stored_through(&self) -> Index {
        self.lock().stored
    }

    /// What the store has from `from` on is about to be replaced.
    pub fn cut(&self, from: Index) {
        let mut tail = self.lock();
        tail.stored = tail.stored.min(from.saturating_sub(1));
    }

    /// Adds entries that have become committed.
    pub fn push(&self, entries: &[Arc<Entry>]) {
        let mut tail = self.lock();
        for entry in entries {
            // After a restart the core may tell again what the store had.
            if entry.index <= tail.commit {
                continue;
            }
            let item =
                Item { entry: entry.clone(), names: tail.names.clone(), event: OnceLock::new() };
            learn_name_shared(&mut tail.names, entry);
            tail.bytes += entry.size();
            tail.commit = entry.index;
            tail.items.push_back(Arc::new(item));
        }
        while tail.items.len() > TAIL_ENTRIES_MAX || tail.bytes > TAIL_BYTES_MAX {
            let Some(oldest) = tail.items.pop_front() else { break };
            tail.bytes -= oldest.entry.size();
        }
    }

    /// The last committed index.
    pub fn commit(&self) -> Index {
        self.lock().commit
    }

    /// The members' names, those who have left since the start included.
    pub fn names(&self) -> Arc<Names> {
        self.lock().names.clone()
    }

    /// Everything after `position`, at most about `FRAME_BYTES_MAX`.
    pub fn after(&self, position: Index) -> After {
        let items: Vec<Arc<Item>> = {
            let tail = self.lock();
            if position >= tail.commit {
                return After::Nothing;
            }
            let first = tail.items.front().map_or(Index::MAX, |item| item.entry.index);
            if position + 1 < first {
                let through = match planted(Mistake::DiskNotWaitedFor) {
                    true => tail.commit,
                    false => tail.commit.min(tail.stored),
                };
                return if position < through { After::Stored { through } } else { After::Nothing };
            }
            let skip = usize::try_from(position + 1 - first).unwrap_or(usize::MAX);
            let skip = skip.saturating_sub(usize::from(planted(Mistake::CursorOffByOne)));
            let mut bytes = 0;
            let fits = |item: &&Arc<Item>| {
                let fits = bytes < FRAME_BYTES_MAX;
                bytes += item.entry.size();
                fits
            };
            tail.items.iter().skip(skip).take_while(fits).cloned().collect()
        };
        let mut frame = FeedFrame::default();
        let mut end = position;
        for item in items {
            frame.push(item.event.get_or_init(|| self.encode(&item.entry, &item.names)).clone());
            end = item.entry.index;
        }
        After::Frame(frame, end)
    }

    /// A frame of entries from the store, which learns `names` on the way.
    pub fn frame_of_stored(&self, entries: &[Arc<Entry>], names: &mut Names) -> FeedFrame {
        let mut frame = FeedFrame::default();
        for entry in entries {
            frame.push(self.encode(entry, names));
            learn_name(names, entry);
        }
        frame
    }

    fn encode(&self, entry: &Entry, names: &Names) -> Bytes {
        encode_event(&to_event(self.chat, entry, names, open))
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("nothing panics while it holds this lock")
    }
}

/// The text of a message; empty when it cannot be opened.
pub fn open(sealed: &Bytes) -> String {
    seal::open(sealed).unwrap_or_default()
}

fn learn_name_shared(names: &mut Arc<Names>, entry: &Entry) {
    use crate::protocol::types::Payload;
    if matches!(entry.payload, Payload::Membership(_)) {
        learn_name(Arc::make_mut(names), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::{Hash, Payload, PeerId};

    fn entries(count: Index) -> Vec<Arc<Entry>> {
        let entry = |index| Entry {
            index,
            term: 1,
            author: PeerId([1; 32]),
            incarnation: 1,
            number: index,
            generation: 0,
            created_at_ms: 0,
            trace: None,
            payload: Payload::TermStart(Default::default()),
            signature: None,
            previous: Hash::default(),
            hash: Hash::default(),
        };
        (1..=count).map(|index| Arc::new(entry(index))).collect()
    }

    /// While a chat catches up, more is committed than its own disk has.
    #[test]
    fn a_reader_waits_for_what_the_disk_does_not_have_yet() {
        let feed = ChatFeed::new(ChatId([1; 16]), 0, Names::new());
        let last = 2 * TAIL_ENTRIES_MAX as Index;
        feed.push(&entries(last));
        let first = last - TAIL_ENTRIES_MAX as Index + 1;
        let through = |feed: &ChatFeed, position| match feed.after(position) {
            After::Stored { through } => Some(through),
            After::Nothing => None,
            After::Frame(..) => panic!("the tail begins at {first}"),
        };
        assert_eq!(through(&feed, 0), None);
        assert!(feed.stored(10), "whoever waits is told");
        assert_eq!((through(&feed, 0), through(&feed, 10)), (Some(10), None));
        // What is cut is not what was committed, though it stands on the disk for a moment.
        feed.stored(last);
        feed.cut(8);
        assert_eq!((through(&feed, 0), through(&feed, 7)), (Some(7), None));
        feed.stored(last);
        assert_eq!(through(&feed, 7), Some(last));
        assert!(!feed.stored(last));
        assert!(matches!(feed.after(first - 1), After::Frame(..)));
        assert!(matches!(feed.after(last), After::Nothing));
    }
}
