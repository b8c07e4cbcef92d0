//! A feed: what a reader has missed, CAUGHT_UP, and then what happens. A frame has everything that
//! stands after the reader's position, and one frame at a time waits for the connection to have
//! room. A reader that leaves it there for too long is ended, whether it reads again or not.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::Stream;
use opentelemetry::KeyValue;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::peer::node::Node;
use crate::peer::refusal::{
    Refusal, chat_not_found, cursor_ahead, internal, slow_consumer, storage_damaged, store,
};
use crate::planted::{Mistake, planted};
use crate::protocol::types::{ChatId, Index};
use crate::runtime::feed::{After, FRAME_BYTES_MAX};
use crate::runtime::handle::ChatShared;
use crate::runtime::measure::chat_attribute;
use crate::telemetry::metrics::{self, Metric};
use crate::wire::feed::{FeedFrame, encode_event};
use crate::wire::view::Names;
use crate::wire::{hex, pb};

/// Without anything new, a sign of life is sent so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// Between looks whether a cursor that lies ahead is known to be good or bad.
const AHEAD_LOOK: Duration = Duration::from_millis(100);

pub type Frames = Pin<Box<dyn Stream<Item = Result<FeedFrame, Status>> + Send>>;

/// One reader.
pub struct Reader {
    node: Arc<Node>,
    activity: watch::Receiver<u64>,
    chats: Vec<Position>,
    /// Takes up chats that come later.
    all: bool,
    /// A reader that leaves what is there for so long is ended.
    stall: Duration,
}

/// A reader's position in one chat.
struct Position {
    chat: Arc<ChatShared>,
    after: Index,
    /// The end of what was missed; `None` once CAUGHT_UP was sent.
    missed_through: Option<Index>,
    /// Since when a reader that was live needs what memory no longer has.
    behind_since: Option<Instant>,
    /// Names that the reader has come past in the store.
    names: Names,
    /// What its metrics are told apart by.
    label: [KeyValue; 1],
}

impl Position {
    fn new(chat: Arc<ChatShared>, after: Index) -> Self {
        let missed_through = Some(chat.feed.commit().max(after));
        // Who reads from the beginning learns the names on the way.
        let names = if after == 0 { Names::new() } else { (*chat.feed.names()).clone() };
        let label = [chat_attribute(chat.id)];
        Self { chat, after, missed_through, behind_since: None, names, label }
    }

    /// The reader has been shown more, by an earlier run, than is known to be committed here yet.
    fn is_ahead(&self) -> bool {
        self.after > self.chat.feed.commit()
    }

    /// The reader is given everything up to there.
    fn moves_to(&mut self, after: Index) {
        metrics::add(Metric::FeedEvents, after - self.after, &self.label);
        self.after = after;
    }

    fn event(&self, kind: pb::event::Kind) -> bytes::Bytes {
        encode_event(&pb::Event {
            chat_id: hex(&self.chat.id.0),
            kind: Some(kind),
            ..Default::default()
        })
    }
}

/// Whether the log has nothing at `index` that anybody could have been shown here: it is as far as
/// its host's. Until then a position that a former run has shown may lie ahead of what is known to
/// be committed, because that is written down a moment later.
fn is_never_known(chat: &ChatShared, index: Index) -> bool {
    // In this order: what has come up to a host's commit index stays so.
    let is_caught_up = chat.view.borrow().status.caught_up || planted(Mistake::ShownNotWaitedFor);
    is_caught_up && !chat.is_away() && index > chat.feed.commit()
}

impl Reader {
    /// A reader of these positions; of all chats from their beginnings when there are none.
    pub fn new(
        node: Arc<Node>,
        cursors: Vec<(Arc<ChatShared>, Index)>,
        stall: Duration,
    ) -> Result<Self, Refusal> {
        for (chat, after) in &cursors {
            if is_never_known(chat, *after) {
                return Err(cursor_ahead(hex(&chat.id.0), chat.feed.commit()));
            }
        }
        Ok(Self {
            activity: node.handle.activity(),
            node,
            all: cursors.is_empty(),
            chats: cursors.into_iter().map(|(chat, after)| Position::new(chat, after)).collect(),
            stall,
        })
    }

    /// The frames, without end.
    pub fn into_stream(self) -> Frames {
        // One place for a frame, and one for the last word.
        let (frames, stream) = mpsc::channel(2);
        tokio::spawn(self.run(frames));
        Box::pin(ReceiverStream::new(stream))
    }

    async fn run(mut self, frames: mpsc::Sender<Result<FeedFrame, Status>>) {
        let Ok(last_word) = frames.clone().reserve_owned().await else { return };
        let refusal = loop {
            let place = match timeout(self.stall, frames.reserve()).await {
                Ok(Ok(place)) => place,
                Ok(Err(_)) => return,
                Err(_) => match self.left_behind() {
                    Some(refusal) => break refusal,
                    // There is nothing that it could have taken.
                    None => continue,
                },
            };
            let next = tokio::select! {
                next = self.next() => next,
                () = frames.closed() => return,
            };
            match next {
                Ok(frame) => place.send(Ok(frame)),
                Err(refusal) => break refusal,
            }
        };
        last_word.send(Err(refusal.into()));
    }

    /// Why a reader that takes nothing is ended: there is more for it than the frame that waits.
    fn left_behind(&self) -> Option<Refusal> {
        let behind = |position: &&Position| position.after < position.chat.feed.commit();
        let position = self.chats.iter().find(behind)?;
        Some(slow_consumer(hex(&position.chat.id.0), position.after))
    }

    async fn next(&mut self) -> Result<FeedFrame, Refusal> {
        loop {
            self.activity.mark_unchanged();
            self.renew_chats();
            let mut frame = FeedFrame::default();
            for index in 0..self.chats.len() {
                self.fill(index, &mut frame).await?;
                if frame.len() >= FRAME_BYTES_MAX {
                    break;
                }
            }
            if frame.is_empty() {
                if let Some(refusal) = self.given_up() {
                    return Err(refusal);
                }
                frame = self.wait().await;
            }
            if !frame.is_empty() {
                return Ok(frame);
            }
        }
    }

    /// Why nothing will come any more: the chats were named, and none of them is left, or can be
    /// repaired.
    fn given_up(&self) -> Option<Refusal> {
        if !self.all && self.chats.is_empty() {
            return Some(chat_not_found());
        }
        if self.all || !self.chats.iter().all(|position| position.chat.is_away()) {
            return None;
        }
        let faulty = self.node.lives.faulty();
        let mut found = self.chats.iter().map(|position| faulty.get(&position.chat.id));
        let first = found.clone().next()??;
        found.all(|faulty| faulty.is_some_and(|it| it.is_given_up)).then(|| first.refusal())
    }

    /// Adds what one chat has, and CAUGHT_UP where that is due.
    async fn fill(&mut self, index: usize, frame: &mut FeedFrame) -> Result<(), Refusal> {
        let stall = self.stall;
        let position = &mut self.chats[index];
        if position.chat.is_away() {
            position.behind_since = None;
            return Ok(());
        }
        if is_never_known(&position.chat, position.after) {
            return Err(cursor_ahead(hex(&position.chat.id.0), position.chat.feed.commit()));
        }
        if position.is_ahead() {
            return Ok(());
        }
        match position.chat.feed.after(position.after) {
            After::Nothing => position.behind_since = None,
            After::Frame(more, after) => {
                frame.append(more);
                position.moves_to(after);
                position.behind_since = None;
            }
            After::Stored { through } => {
                let is_live = position.missed_through.is_none();
                if is_live
                    && position.behind_since.get_or_insert_with(Instant::now).elapsed() >= stall
                {
                    return Err(slow_consumer(hex(&position.chat.id.0), position.after));
                }
                let (reader, from) = (position.chat.reader.clone(), position.after + 1);
                let read = tokio::task::spawn_blocking(move || {
                    reader.entries(from, through, FRAME_BYTES_MAX)
                });
                let entries = match read.await {
                    Ok(Ok(entries)) => entries,
                    // The loop ends the chat, and its repair brings it back. Others go on.
                    Ok(Err(error)) if error.needs_repair() || position.chat.is_away() => {
                        return Ok(());
                    }
                    Ok(Err(error)) => return Err(store(&error)),
                    Err(_) => return Err(internal("reading was interrupted")),
                };
                let Some(last) = entries.last() else {
                    return Err(storage_damaged("the log ends before its committed end"));
                };
                position.moves_to(last.index);
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
            // What a cursor ahead waits for may come without anything new.
            () = tokio::time::sleep(AHEAD_LOOK), if self.chats.iter().any(Position::is_ahead) => {}
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
        for position in &mut self.chats {
            // Repaired, or left and joined again: nothing more comes of what it was.
            if let Some(back) = self.node.handle.chat(position.chat.id)
                && !Arc::ptr_eq(&back, &position.chat)
            {
                position.chat = back;
            }
        }
        let ended = |id: ChatId| self.node.handle.chat(id).is_none();
        self.chats.retain(|position| {
            position.after < position.chat.feed.commit()
                || position.chat.is_away()
                || !ended(position.chat.id)
        });
        if !self.all {
            return;
        }
        for chat in self.node.handle.chats() {
            if self.chats.iter().all(|position| position.chat.id != chat.id) {
                self.chats.push(Position::new(chat, 0));
            }
        }
    }
}
