//! What the services for other peers share: who calls, parsing, and handing in to the loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::edge::is_genuine;
use super::node::Node;
use super::status::{chat_not_found, invalid, unable};
use crate::protocol::message::{Body, Message};
use crate::protocol::types::{ChatId, PeerId};
use crate::runtime::handle::{Answer, ChatShared, Handle};
use crate::wire::message::{Header, to_header, to_refused};
use crate::wire::{WireError, pb};

/// A call that the loop has not answered by then is given up.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Who is at the other end of an inbound connection; proven by the handshake.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub peer: PeerId,
}

/// The services for other peers.
#[derive(Clone)]
pub struct Inbound {
    pub handle: Handle,
    pub node: Arc<Node>,
    pub stop: CancellationToken,
}

impl Inbound {
    /// The peer that calls.
    pub fn caller<T>(&self, request: &Request<T>) -> Result<PeerId, Status> {
        let caller = request.extensions().get::<Caller>();
        caller.map(|caller| caller.peer).ok_or_else(|| Status::unauthenticated("no key was shown"))
    }

    /// A chat that this peer takes part in. One that it was removed from is not found.
    pub fn chat(&self, chat: ChatId) -> Result<Arc<ChatShared>, Status> {
        let chat = self.handle.chat(chat);
        chat.filter(|chat| !chat.is_read_only()).ok_or_else(chat_not_found)
    }

    /// Whether the peer is a member of a chat that runs here.
    pub fn is_member(&self, chat: ChatId, peer: PeerId) -> Result<bool, Status> {
        Ok(self.chat(chat)?.view.borrow().status.members.contains_key(&peer))
    }

    /// The message of a parsed request, after its signatures were checked.
    pub fn message(
        &self,
        from: PeerId,
        parsed: Result<(Header, Body), WireError>,
    ) -> Result<(ChatId, Message), Status> {
        let (header, body) = parsed.map_err(invalid)?;
        self.chat(header.chat)?;
        let message = header.message(from, self.handle.me(), body);
        if !is_genuine(header.chat, &message) {
            return Err(Status::permission_denied("a signature or hash is wrong"));
        }
        Ok((header.chat, message))
    }

    /// A call with one answer.
    pub async fn unary<Req, Res>(
        &self,
        request: Request<Req>,
        parse: impl FnOnce(Req) -> Result<(Header, Body), WireError>,
        render: impl FnOnce(ChatId, &Message) -> Option<Res>,
    ) -> Result<Response<Res>, Status> {
        let from = self.caller(&request)?;
        self.answered(from, parse(request.into_inner()), render).await
    }

    /// The rest of a call with one answer, once it is parsed.
    pub async fn answered<Res>(
        &self,
        from: PeerId,
        parsed: Result<(Header, Body), WireError>,
        render: impl FnOnce(ChatId, &Message) -> Option<Res>,
    ) -> Result<Response<Res>, Status> {
        let (chat, message) = self.message(from, parsed)?;
        let Answer::Message(message) = self.call(chat, message).await? else {
            return Err(Status::internal("the call has no answer"));
        };
        render(chat, &message)
            .map(Response::new)
            .ok_or_else(|| Status::internal("the answer is of another kind"))
    }

    /// A call that tells something; its only answer is a refusal.
    pub async fn notice<Req>(
        &self,
        request: Request<Req>,
        parse: impl FnOnce(Req) -> Result<(Header, Body), WireError>,
    ) -> Result<(Option<pb::Header>, Option<pb::Refused>), Status> {
        let from = self.caller(&request)?;
        let (chat, message) = self.message(from, parse(request.into_inner()))?;
        match self.call(chat, message).await? {
            Answer::Message(message) => {
                let header = to_header(chat, &message);
                let Body::Refused(refused) = message.body else { return Ok((header, None)) };
                Ok((header, Some(to_refused(&refused))))
            }
            Answer::Empty => Ok((None, None)),
        }
    }

    /// Hands a call in and waits for its answer.
    pub async fn call(&self, chat: ChatId, message: Message) -> Result<Answer, Status> {
        timeout(ANSWER_MAX, self.handle.call(chat, message))
            .await
            .map_err(|_| Status::deadline_exceeded("the chat did not answer"))?
            .map_err(unable)
    }
}
