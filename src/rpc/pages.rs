//! Messages in pages, both ways.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::status;
use crate::protocol::types::{Index, Payload};
use crate::runtime::feed::open;
use crate::runtime::handle::ChatShared;
use crate::storage::Page;
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
) -> Result<pb::ListMessagesResponse, Status> {
    let size = match usize::try_from(request.page_size) {
        Ok(0) => PAGE_SIZE,
        Ok(size) => size.min(PAGE_SIZE_MAX),
        Err(_) => return Err(status::page_size_invalid()),
    };
    let committed = chat.feed.commit();
    let cursor = match (request.page_token.as_str(), request.from) {
        ("", None | Some(Start::Before(0))) => Cursor::Before(Index::MAX),
        ("", Some(Start::Before(before))) => Cursor::Before(before),
        ("", Some(Start::After(after))) => Cursor::After(after),
        (token, _) => Cursor::parse(token).ok_or_else(status::page_token_invalid)?,
    };
    wait_until_stored(&chat, committed).await;
    let reader = chat.reader.clone();
    let read = tokio::task::spawn_blocking(move || match cursor {
        // Nothing beyond the commit index is shown.
        Cursor::Before(before) => reader.messages_before(before.min(committed + 1), size),
        Cursor::After(after) => reader.messages_after(after, committed, size),
    });
    let page: Page = read
        .await
        .map_err(|_| status::internal("reading was interrupted"))?
        .map_err(|error| status::store(&error))?;
    let next = page.next.map(|index| match cursor {
        Cursor::Before(_) => Cursor::Before(index).token(),
        Cursor::After(_) => Cursor::After(index).token(),
    });
    let names = chat.feed.names();
    let entries = page.messages.iter();
    let entries = entries.filter(|entry| matches!(entry.payload, Payload::Message { .. }));
    Ok(pb::ListMessagesResponse {
        messages: entries.map(|entry| to_event(chat.id, entry, &names, open)).collect(),
        next_page_token: next.unwrap_or_default(),
    })
}

/// A member may learn that an entry is committed a moment before its own disk has it. Who was told
/// of a message must find it in the history, so the page waits for the disk, within reason.
async fn wait_until_stored(chat: &ChatShared, index: Index) {
    if index == 0 {
        return;
    }
    let wait = async {
        loop {
            let reader = chat.reader.clone();
            let read = tokio::task::spawn_blocking(move || reader.entries(index, index, 1)).await;
            match read {
                Ok(Ok(entries)) if entries.is_empty() => tokio::time::sleep(STORED_LOOK).await,
                _ => break, // it is there, or reading the page will say what is wrong
            }
        }
    };
    let _ = tokio::time::timeout(STORED_LIMIT, wait).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_and_others_are_refused() {
        for cursor in [Cursor::Before(1), Cursor::After(u64::MAX)] {
            assert_eq!(Cursor::parse(&cursor.token()), Some(cursor));
        }
        for bad in ["", "b", "x1", "b01", "b+1", "bG", "é1"] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }
}
