//! Messages in pages, both ways.

use std::sync::Arc;
use std::time::Duration;

use crate::peer::refusal::{self, Refusal};
use crate::protocol::types::{Entry, Index};
use crate::runtime::feed::{ChatFeed, open};
use crate::runtime::handle::ChatShared;
use crate::storage::{ChatReader, Page};
use crate::wire::pb;
use crate::wire::pb::list_messages_request::From as Start;
use crate::wire::view::to_event;

const PAGE_SIZE: usize = 50;
const PAGE_SIZE_MAX: usize = 500;
/// Between looks whether the disk has what is confirmed, and the longest wait for it.
const STORED_LOOK: Duration = Duration::from_millis(1);
const STORED_LIMIT: Duration = Duration::from_secs(1);

/// Where a page begins, and which way it leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cursor {
    Before(Index),
    After(Index),
}

impl Cursor {
    fn token(self) -> String {
        match self {
            Cursor::Before(index) => format!("b{index:x}"),
            Cursor::After(index) => format!("a{index:x}"),
        }
    }

    fn parse(token: &str) -> Option<Self> {
        let (way, index) = token.split_at_checked(1)?;
        let index = Index::from_str_radix(index, 16).ok()?;
        let cursor = match way {
            "b" => Cursor::Before(index),
            "a" => Cursor::After(index),
            _ => return None,
        };
        (cursor.token() == token).then_some(cursor)
    }
}

/// One page.
pub async fn list(
    chat: Arc<ChatShared>,
    request: pb::ListMessagesRequest,
) -> Result<pb::ListMessagesResponse, Refusal> {
    let size = match usize::try_from(request.page_size) {
        Ok(0) => PAGE_SIZE,
        Ok(size) => size.min(PAGE_SIZE_MAX),
        Err(_) => return Err(refusal::page_size_invalid()),
    };
    let committed = chat.feed.commit();
    let cursor = match (request.page_token.as_str(), request.from) {
        ("", None | Some(Start::Before(0))) => Cursor::Before(Index::MAX),
        ("", Some(Start::Before(before))) => Cursor::Before(before),
        ("", Some(Start::After(after))) => Cursor::After(after),
        (token, _) => Cursor::parse(token).ok_or_else(refusal::page_token_invalid)?,
    };
    let stored = wait_until_stored(&chat.feed, committed).await;
    // One more than the page has tells whether there is another page.
    let mut messages = read(&chat.reader, cursor, stored, size + 1).await?;
    let next = (messages.len() > size).then(|| match cursor {
        Cursor::Before(_) => {
            messages.remove(0);
            Cursor::Before(messages[0].index)
        }
        Cursor::After(_) => {
            messages.pop();
            Cursor::After(messages[size - 1].index)
        }
    });
    let names = chat.feed.names();
    Ok(pb::ListMessagesResponse {
        messages: messages.iter().map(|it| to_event(chat.id, it, &names, open)).collect(),
        next_page_token: next.map(Cursor::token).unwrap_or_default(),
    })
}

/// Up to `count` messages from the cursor on, oldest first; fewer only where there are no more. The
/// store looks at a bounded number of entries at a time, and a caller who goes away ends the search
/// in between.
async fn read(
    reader: &ChatReader,
    mut cursor: Cursor,
    committed: Index,
    count: usize,
) -> Result<Vec<Arc<Entry>>, Refusal> {
    let mut found: Vec<Arc<Entry>> = Vec::new();
    loop {
        let (reader, missing) = (reader.clone(), count - found.len());
        let looking = tokio::task::spawn_blocking(move || match cursor {
            // Nothing beyond the commit index is shown.
            Cursor::Before(before) => reader.messages_before(before.min(committed + 1), missing),
            Cursor::After(after) => reader.messages_after(after, committed, missing),
        });
        let page: Page = looking
            .await
            .map_err(|_| refusal::internal("reading was interrupted"))?
            .map_err(|error| refusal::store(&error))?;
        match cursor {
            Cursor::Before(_) => drop(found.splice(..0, page.messages)),
            Cursor::After(_) => found.extend(page.messages),
        }
        let Some(next) = page.next.filter(|_| found.len() < count) else { return Ok(found) };
        cursor = match cursor {
            Cursor::Before(_) => Cursor::Before(next),
            Cursor::After(_) => Cursor::After(next),
        };
    }
}

/// A member may learn that an entry is committed a moment before its own disk has it. Who was told
/// of a message must find it in the history, so the page waits for the disk, within reason. How far
/// it has come: beyond that, it may have what the log has just cut.
async fn wait_until_stored(feed: &ChatFeed, index: Index) -> Index {
    let wait = async {
        while feed.stored_through() < index {
            tokio::time::sleep(STORED_LOOK).await;
        }
    };
    let _ = tokio::time::timeout(STORED_LIMIT, wait).await;
    index.min(feed.stored_through())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event::Persist;
    use crate::protocol::types::{ChatId, Hash, Payload, PeerId};
    use crate::storage::ChatStore;
    use crate::wire::view::Names;

    /// Chained entries that are messages at these indexes, and nothing else between and behind.
    fn entries(messages: &[Index], last: Index) -> Vec<Arc<Entry>> {
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        for index in 1..=last {
            let sealed = bytes::Bytes::from_static(b"a text");
            let message = Payload::Message { request_id: format!("r{index}"), sealed };
            let mut entry = Entry {
                index,
                term: 1,
                author: PeerId([1; 32]),
                incarnation: 1,
                number: index,
                generation: 0,
                created_at_ms: 0,
                trace: None,
                payload: match messages.contains(&index) {
                    true => message,
                    false => Payload::TermStart(Default::default()),
                },
                signature: None,
                previous: entries.last().map_or(Hash::default(), |entry| entry.hash),
                hash: Hash::default(),
            };
            entry.hash = entry.computed_hash();
            entries.push(Arc::new(entry));
        }
        entries
    }

    #[tokio::test]
    async fn messages_are_found_however_much_else_lies_between_them() {
        const LAST: Index = 10_000;
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, _) = ChatStore::create(dir.path(), ChatId([7; 16]), 1, &[]).expect("new");
        let persist = Persist { entries: entries(&[2, 3, 9_000], LAST), ..Persist::default() };
        store.persist(&persist).expect("durable");
        let reader = store.reader();
        for (cursor, count, expected) in [
            (Cursor::Before(Index::MAX), 1, &[9_000][..]),
            (Cursor::Before(Index::MAX), 2, &[3, 9_000]),
            (Cursor::Before(Index::MAX), 4, &[2, 3, 9_000]),
            (Cursor::Before(2), 1, &[]),
            (Cursor::After(0), 2, &[2, 3]),
            (Cursor::After(0), 4, &[2, 3, 9_000]),
            (Cursor::After(9_000), 1, &[]),
        ] {
            let found = read(&reader, cursor, LAST, count).await.expect("read");
            let indexes: Vec<_> = found.iter().map(|entry| entry.index).collect();
            assert_eq!(indexes, expected, "{cursor:?}, {count}");
        }
        let nothing_beyond = read(&reader, Cursor::After(0), 8_999, 3).await.expect("read");
        assert_eq!(nothing_beyond.len(), 2, "what is not committed is not shown");
    }

    #[test]
    fn tokens_read_back_and_others_are_refused() {
        for cursor in [Cursor::Before(1), Cursor::After(u64::MAX)] {
            assert_eq!(Cursor::parse(&cursor.token()), Some(cursor));
        }
        for bad in ["", "b", "x1", "b01", "b+1", "bG", "é1"] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }

    // What is on the disk beyond that may be about to be cut.
    #[tokio::test]
    async fn a_page_waits_for_the_disk_and_then_shows_only_what_that_has() {
        let feed = ChatFeed::new(ChatId([1; 16]), 3, Names::default());
        feed.push(&entries(&[4, 5], 5)[3..]);
        assert_eq!(wait_until_stored(&feed, 5).await, 3, "nothing more is written");
        feed.stored(5);
        assert_eq!(wait_until_stored(&feed, 5).await, 5);
        feed.cut(5);
        assert_eq!(wait_until_stored(&feed, 5).await, 4);
    }
}
