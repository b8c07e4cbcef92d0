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
    /// Entries that only the store has, up to the last committed index.
    Stored { through: Index },
}

impl ChatFeed {
    /// The feed of a chat that is committed up to `commit`.
    pub fn new(chat: ChatId, commit: Index, names: Names) -> Self {
        let tail = Tail { items: VecDeque::new(), bytes: 0, commit, names: Arc::new(names) };
        Self { chat, tail: Mutex::new(tail) }
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
                return After::Stored { through: tail.commit };
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
