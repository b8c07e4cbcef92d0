//! What the streams that two peers share have in common at their host's end: they go on when one
//! chat's part of them ends.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::inbound::Inbound;
use crate::peer::gate::Caller;
use crate::peer::refusal::{Refusal, internal};
use crate::protocol::message::{Body, Message};
use crate::protocol::types::ChatId;
use crate::runtime::lanes::{LaneReader, Lanes, Outgoing};
use crate::wire::message::Header;
use crate::wire::{WireError, hex, pb};

/// The answers of a stream.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A request of a stream that cannot be handed in.
pub enum Unfit {
    /// It concerns its chat alone: the stream goes on for the others.
    Chat { chat: ChatId, reason: &'static str },
    /// The stream ends.
    Stream(Refusal),
}

impl Unfit {
    /// What a request about this chat ends with; where it names none, nobody else can be told.
    pub fn new(chat: Option<ChatId>, refusal: Refusal) -> Self {
        match chat {
            Some(chat) => Self::Chat { chat, reason: refusal.reason.name() },
            None => Self::Stream(refusal),
        }
    }

    /// Tells the member, or ends the stream. What it has asked may end so each time, which is no
    /// more than it asks.
    pub fn tell(self, lanes: &Lanes<Outgoing>, attach: u64) -> Result<(), Refusal> {
        match self {
            Self::Chat { chat, reason } => {
                lanes.push(chat, Outgoing::Ended { reason, attach }, ENDED_MAX);
                Ok(())
            }
            Self::Stream(refusal) => Err(refusal),
        }
    }
}

/// Ends that wait for the connection, of one chat.
const ENDED_MAX: usize = 2_048;

impl Inbound {
    /// The message of a stream's request, like `message`.
    pub async fn stream_message(
        &self,
        caller: &Caller,
        chat: Option<ChatId>,
        parsed: Result<(Header, Body), WireError>,
    ) -> Result<(ChatId, Message), Unfit> {
        self.count(caller).map_err(Unfit::Stream)?;
        self.admit(caller, parsed).await.map_err(|refusal| Unfit::new(chat, refusal))
    }
}

/// The header of what is said of a chat's part of a stream by this peer, and not by the chat.
pub fn ended_header(chat: ChatId) -> Option<pb::Header> {
    Some(pb::Header { chat_id: hex(&chat.0), ..Default::default() })
}

pub fn to_ended(reason: &str) -> Option<pb::Ended> {
    Some(pb::Ended { reason: reason.to_owned() })
}

/// Sends what comes into the lanes, until the member has gone or `reading` its requests has failed.
pub fn carry<T: Send + 'static>(
    lanes: LaneReader<Outgoing>,
    reading: AbortOnDropHandle<Result<(), Status>>,
    render: impl Fn(ChatId, Outgoing, u64) -> Result<T, Status> + Clone + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    stream::unfold((lanes, Some(reading)), move |(lanes, mut reading)| {
        let render = render.clone();
        async move {
            loop {
                let Some(running) = &mut reading else {
                    let (chat, outgoing, mark) = lanes.next().await?;
                    return Some((render(chat, outgoing, mark), (lanes, None)));
                };
                tokio::select! {
                    biased;
                    next = lanes.next() => {
                        let (chat, outgoing, mark) = next?;
                        return Some((render(chat, outgoing, mark), (lanes, reading)));
                    }
                    read = running => {
                        reading = None;
                        let failed = |_| Err(internal("reading has failed").into());
                        let read = read.unwrap_or_else(failed);
                        if let Err(status) = read {
                            lanes.close();
                            return Some((Err(status), (lanes, None)));
                        }
                    }
                }
            }
        }
    })
}
