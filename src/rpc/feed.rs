//! A feed: what a reader has missed, CAUGHT_UP, and then what happens. It is pulled: each time the
//! connection has room, the reader gets everything that stands after its position, in one frame.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::Status;

use super::status::{cursor_ahead, slow_consumer, storage_damaged};
use crate::protocol::types::{ChatId, Index};
use crate::runtime::feed::{After, FRAME_BYTES_MAX};
use crate::runtime::handle::{ChatShared, Handle};
use crate::wire::feed::{FeedFrame, encode_event};
use crate::wire::view::Names;
use crate::wire::{hex, pb};

/// A reader that leaves what is there for so long is ended.
const SLOW_AFTER: Duration = Duration::from_secs(30);
/// Without anything new, a sign of life is sent so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

pub type Frames = Pin<Box<dyn Stream<Item = Result<FeedFrame, Status>> + Send>>;

/// One reader.
pub struct Reader {
    handle: Handle,
    activity: watch::Receiver<u64>,
    chats: Vec<Position>,
    /// Takes up chats that come later.
    all: bool,
    /// When the last frame was handed over.
    gave_at: Option<Instant>,
    ended: bool,
}

/// A reader's position in one chat.
struct Position {
    chat: Arc<ChatShared>,
    after: Index,
    /// The end of what was missed; `None` once CAUGHT_UP was sent.
    missed_through: Option<Index>,
    /// Names that the reader has come past in the store.
    names: Names,
}

impl Position {
    fn new(chat: Arc<ChatShared>, after: Index) -> Self {
        let missed_through = Some(chat.feed.commit());
        // Who reads from the beginning learns the names on the way.
        let names = if after == 0 { Names::new() } else { (*chat.feed.names()).clone() };
        Self { chat, after, missed_through, names }
    }

    fn event(&self, kind: pb::event::Kind) -> bytes::Bytes {
        encode_event(&pb::Event {
            chat_id: hex(&self.chat.id.0),
            kind: Some(kind),
            ..Default::default()
        })
    }
}

impl Reader {
    /// A reader of these positions; of all chats from their beginnings when there are none.
    pub fn new(handle: Handle, cursors: Vec<(Arc<ChatShared>, Index)>) -> Result<Self, Status> {
        for (chat, after) in &cursors {
            let committed = chat.feed.commit();
            if *after > committed {
                return Err(cursor_ahead(hex(&chat.id.0), committed));
            }
        }
        Ok(Self {
            activity: handle.activity(),
            handle,
            all: cursors.is_empty(),
            chats: cursors.into_iter().map(|(chat, after)| Position::new(chat, after)).collect(),
            gave_at: None,
            ended: false,
        })
    }

    /// The frames, without end.
    pub fn into_stream(self) -> Frames {
        Box::pin(stream::unfold(self, |mut reader| async move {
            if reader.ended {
                return None;
            }
            let frame = reader.next().await;
            reader.ended = frame.is_err();
            Some((frame, reader))
        }))
    }

    async fn next(&mut self) -> Result<FeedFrame, Status> {
        // It was this reader's turn since the last frame: the time in between is the reader's.
        let left = self.gave_at.take().map_or(Duration::ZERO, |gave_at| gave_at.elapsed());
        loop {
            self.activity.mark_unchanged();
            self.renew_chats();
            let mut frame = FeedFrame::default();
            for index in 0..self.chats.len() {
                self.fill(index, left, &mut frame).await?;
                if frame.len() >= FRAME_BYTES_MAX {
                    break;
                }
            }
            if frame.is_empty() {
                frame = self.wait().await;
            }
            if !frame.is_empty() {
                self.gave_at = Some(Instant::now());
                return Ok(frame);
            }
        }
    }

    /// Adds what one chat has, and CAUGHT_UP where that is due.
    async fn fill(
        &mut self,
        index: usize,
        left: Duration,
        frame: &mut FeedFrame,
    ) -> Result<(), Status> {
        let position = &mut self.chats[index];
        if position.chat.is_away() {
            return Ok(());
        }
        match position.chat.feed.after(position.after) {
            After::Nothing => {}
            _ if left >= SLOW_AFTER => {
                return Err(slow_consumer(hex(&position.chat.id.0), position.after));
            }
            After::Frame(more, after) => {
                frame.append(more);
                position.after = after;
            }
            After::Stored { through } => {
                let (reader, from) = (position.chat.reader.clone(), position.after + 1);
                let read = tokio::task::spawn_blocking(move || {
                    reader.entries(from, through, FRAME_BYTES_MAX)
                });
                let entries = read
                    .await
                    .map_err(|_| Status::internal("reading was interrupted"))?
                    .map_err(|error| storage_damaged(error.to_string()))?;
                let Some(last) = entries.last() else {
                    return Err(storage_damaged("the log ends before its committed end"));
                };
                position.after = last.index;
                frame.append(position.chat.feed.frame_of_stored(&entries, &mut position.names));
            }
        }
        if position.missed_through.is_some_and(|through| position.after >= through) {
            position.missed_through = None;
            let sequence = position.after;
            frame.push(position.event(pb::event::Kind::CaughtUp(pb::CaughtUp { sequence })));
        }
        Ok(())
    }

    /// Waits until something happens. After a quiet while, tells the positions.
    async fn wait(&mut self) -> FeedFrame {
        let mut frame = FeedFrame::default();
        tokio::select! {
            changed = self.activity.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            () = tokio::time::sleep(PROGRESS_EVERY) => {
                for position in &self.chats {
                    let progress = pb::Progress { sequence: position.after };
                    frame.push(position.event(pb::event::Kind::Progress(progress)));
                }
            }
        }
        frame
    }

    /// Takes up new chats, and those that have come back, and drops those that have ended and been
    /// read.
    fn renew_chats(&mut self) {
        for position in self.chats.iter_mut().filter(|position| position.chat.is_away()) {
            if let Some(back) = self.handle.chat(position.chat.id) {
                position.chat = back;
            }
        }
        let ended = |id: ChatId| self.handle.chat(id).is_none();
        self.chats.retain(|position| {
            position.after < position.chat.feed.commit()
                || position.chat.is_away()
                || !ended(position.chat.id)
        });
        if !self.all {
            return;
        }
        for chat in self.handle.chats() {
            if self.chats.iter().all(|position| position.chat.id != chat.id) {
                self.chats.push(Position::new(chat, 0));
            }
        }
    }
}
