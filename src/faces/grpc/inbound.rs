//! What the services for other peers share: who calls, parsing, and handing in to the loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::faces::visit::Visitor;
use crate::links::edge::checked;
use crate::peer::gate::Caller;
use crate::peer::node::Node;
use crate::peer::refusal::{
    Refusal, chat_not_found, internal, invalid, no_answer, no_key, not_genuine, rate_limited,
    too_often, unable,
};
use crate::planted::{Mistake, planted};
use crate::protocol::event;
use crate::protocol::message::{Body, Message};
use crate::protocol::types::{ChatId, PeerId};
use crate::runtime::handle::{Answer, ChatShared, Handle};
use crate::wire::message::{Header, to_header, to_refused};
use crate::wire::{WireError, pb};

/// A call that the loop has not answered by then is given up.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a peer is to a chat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Member,
    /// No member; the core says what it may.
    Stranger,
    /// Nobody knows yet who the members are, and nobody has spoken of this peer.
    Unheard,
}

/// The services for other peers.
#[derive(Clone)]
pub struct Inbound {
    pub handle: Handle,
    pub node: Arc<Node>,
    pub stop: CancellationToken,
}

/// Whether the peer is a member. A voter is one, though its joining may not be known to be
/// committed here (R35).
fn is_member_of(status: &event::Status, peer: &PeerId) -> bool {
    status.members.contains_key(peer) || status.voters.contains(peer)
}

impl Inbound {
    /// The peer that calls.
    pub fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Refusal> {
        let visitor = request.extensions().get::<Visitor>();
        visitor.and_then(|visitor| visitor.caller.clone()).ok_or_else(no_key)
    }

    /// R44: takes one of the caller's tokens, for a call or a message of a stream.
    pub fn count(&self, caller: &Caller) -> Result<(), Refusal> {
        let per_second = self.node.limits.calls_per_second_peer;
        match caller.bucket.takes_call() || planted(Mistake::CallsUncounted) {
            true => Ok(()),
            false => Err(rate_limited(per_second)),
        }
    }

    /// Whether the peer is a member of a chat that runs here.
    pub fn is_member(&self, chat: ChatId, peer: PeerId) -> Result<bool, Refusal> {
        let is_member = is_member_of(&self.node.chat(chat)?.view.borrow().status, &peer);
        Ok(is_member || planted(Mistake::StrangerIsMember))
    }

    /// Whether the peer is a member of any chat that runs here.
    pub fn knows(&self, peer: &PeerId) -> bool {
        let chats = self.handle.chats();
        let mut chats = chats.iter().filter(|chat| !chat.is_read_only());
        chats.any(|chat| self.standing(chat, peer) == Standing::Member)
    }

    /// The message of a parsed request, after it was counted and its signatures were checked.
    pub async fn message(
        &self,
        caller: &Caller,
        parsed: Result<(Header, Body), WireError>,
    ) -> Result<(ChatId, Message), Refusal> {
        self.count(caller)?;
        self.admit(caller, parsed).await
    }

    /// The same for a request that was counted.
    pub async fn admit(
        &self,
        caller: &Caller,
        parsed: Result<(Header, Body), WireError>,
    ) -> Result<(ChatId, Message), Refusal> {
        let (header, body) = parsed.map_err(invalid)?;
        header.check(&body).map_err(invalid)?;
        let from = caller.peer;
        let chat = self.node.chat(header.chat)?;
        let standing = self.standing(&chat, &from);
        if standing != Standing::Member && !self.node.gate.admits(from, caller.ip) {
            // Checking signatures is work that strangers get little of.
            return Err(too_often());
        }
        if standing == Standing::Unheard {
            return Err(chat_not_found());
        }
        let message = header.message(from, self.handle.me(), body);
        let chat = header.chat;
        checked(chat, message).await.map(|message| (chat, message)).ok_or_else(not_genuine)
    }

    /// What a peer is to a chat, as far as this peer knows. While the log is empty, those count as
    /// members who are to be asked for it: anybody else could talk this peer into anything (R11).
    fn standing(&self, chat: &ChatShared, peer: &PeerId) -> Standing {
        let view = Arc::clone(&chat.view.borrow());
        if is_member_of(&view.status, peer) {
            Standing::Member
        } else if !view.status.members.is_empty() {
            Standing::Stranger
        } else if self.handle.roster().borrow().contains_key(peer) {
            Standing::Member
        } else {
            Standing::Unheard
        }
    }

    /// A call with one answer.
    pub async fn unary<Req, Res>(
        &self,
        request: Request<Req>,
        parse: impl FnOnce(Req) -> Result<(Header, Body), WireError>,
        render: impl FnOnce(ChatId, &Message) -> Option<Res>,
    ) -> Result<Response<Res>, Status> {
        let caller = self.caller(&request)?;
        self.answered(&caller, parse(request.into_inner()), render).await
    }

    /// The rest of a call with one answer, once it is parsed.
    pub async fn answered<Res>(
        &self,
        caller: &Caller,
        parsed: Result<(Header, Body), WireError>,
        render: impl FnOnce(ChatId, &Message) -> Option<Res>,
    ) -> Result<Response<Res>, Status> {
        let (chat, message) = self.message(caller, parsed).await?;
        let Answer::Message(message) = self.call(chat, message).await? else {
            return Err(internal("the call has no answer").into());
        };
        render(chat, &message)
            .map(Response::new)
            .ok_or_else(|| internal("the answer is of another kind").into())
    }

    /// A call that tells something; its only answer is a refusal.
    pub async fn notice<Req>(
        &self,
        request: Request<Req>,
        parse: impl FnOnce(Req) -> Result<(Header, Body), WireError>,
    ) -> Result<(Option<pb::Header>, Option<pb::Refused>), Status> {
        let caller = self.caller(&request)?;
        let (chat, message) = self.message(&caller, parse(request.into_inner())).await?;
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
    pub async fn call(&self, chat: ChatId, message: Message) -> Result<Answer, Refusal> {
        timeout(ANSWER_MAX, self.handle.call(chat, message))
            .await
            .map_err(|_| no_answer())?
            .map_err(unable)
    }
}
