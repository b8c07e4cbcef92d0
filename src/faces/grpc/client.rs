//! ClientService: what a person's programs ask of that person's own peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use std::pin::Pin;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::feed::{Frames, Reader};
use super::pages;
use super::status::until_stopped;
use crate::crypto::seal;
use crate::peer::node::{Node, now_ms};
use crate::peer::people::accepting::JOIN_MAX;
use crate::peer::reach;
use crate::peer::refusal::{self, Refusal, unable};
use crate::peer::resolve::{resolve_chat, resolve_peer};
use crate::protocol::event::Role;
use crate::protocol::types::{ChatId, Payload, PeerId, REQUEST_ID_BYTES_MAX, TEXT_CHARS_MAX};
use crate::runtime::handle::{ChatShared, ChatView, ProposalRequest, Wait};
use crate::telemetry::current_context;
use crate::wire::pb::client_service_server::ClientService;
use crate::wire::{hex, pb, view};

const HAND_OVER_MAX: Duration = Duration::from_secs(10);
/// Longer than one attempt takes.
const HAND_OVER_AGAIN: Duration = Duration::from_millis(500);
/// How long a position is waited for that a former run may have shown.
const SHOWN_BEFORE_MAX: Duration = Duration::from_secs(10);
/// Left of a caller's deadline to tell what happened.
const DEADLINE_MARGIN: Duration = Duration::from_millis(20);

/// The services for the person's own programs.
#[derive(Clone)]
pub struct Person {
    pub node: Arc<Node>,
    pub client_address: SocketAddr,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ClientService for Person {
    async fn get_peer(
        &self,
        _: Request<pb::GetPeerRequest>,
    ) -> Result<Response<pb::GetPeerResponse>, Status> {
        Ok(Response::new(pb::GetPeerResponse {
            peer_id: hex(&self.node.identity.peer_id().0),
            name: self.node.name.clone(),
            address: self.node.address.clone(),
            client_address: self.client_address.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn create_chat(
        &self,
        request: Request<pb::CreateChatRequest>,
    ) -> Result<Response<pb::CreateChatResponse>, Status> {
        self.once(request, Self::found).await
    }

    async fn list_chats(
        &self,
        _: Request<pb::ListChatsRequest>,
    ) -> Result<Response<pb::ListChatsResponse>, Status> {
        let mut chats = Vec::new();
        for chat in self.node.handle.chats() {
            chats.extend(self.show(chat.id).await.ok());
        }
        chats.extend(self.node.lives.faulty().iter().map(|(chat, faulty)| pb::Chat {
            chat_id: hex(&chat.0),
            name: faulty.name.clone(),
            fault: faulty.fault.clone(),
            ..Default::default()
        }));
        chats.sort_by(|a, b| (&a.name, &a.chat_id).cmp(&(&b.name, &b.chat_id)));
        Ok(Response::new(pb::ListChatsResponse { chats }))
    }

    async fn get_chat(
        &self,
        request: Request<pb::GetChatRequest>,
    ) -> Result<Response<pb::GetChatResponse>, Status> {
        let chat = resolve_chat(&self.node, &request.get_ref().chat)?;
        Ok(Response::new(pb::GetChatResponse { chat: Some(self.show(chat.id).await?) }))
    }

    async fn update_chat(
        &self,
        request: Request<pb::UpdateChatRequest>,
    ) -> Result<Response<pb::UpdateChatResponse>, Status> {
        self.once(request, Self::change).await
    }

    async fn invite_member(
        &self,
        request: Request<pb::InviteMemberRequest>,
    ) -> Result<Response<pb::InviteMemberResponse>, Status> {
        self.once(request, Self::invite).await
    }

    async fn create_invite_link(
        &self,
        request: Request<pb::CreateInviteLinkRequest>,
    ) -> Result<Response<pb::CreateInviteLinkResponse>, Status> {
        self.once(request, Self::make_link).await
    }

    async fn revoke_invite(
        &self,
        request: Request<pb::RevokeInviteRequest>,
    ) -> Result<Response<pb::RevokeInviteResponse>, Status> {
        self.once(request, Self::revoke).await
    }

    async fn list_invites(
        &self,
        _: Request<pb::ListInvitesRequest>,
    ) -> Result<Response<pb::ListInvitesResponse>, Status> {
        let (invites, links) = (self.show_invites(), self.show_links().await);
        Ok(Response::new(pb::ListInvitesResponse { invites, links }))
    }

    async fn accept_invite(
        &self,
        request: Request<pb::AcceptInviteRequest>,
    ) -> Result<Response<pb::AcceptInviteResponse>, Status> {
        let until = deadline(&request).unwrap_or_else(|| Instant::now() + JOIN_MAX);
        let request = request.into_inner();
        let chat = match request.link.as_str() {
            "" => self.node.accept(&request.chat, until).await?,
            link => self.node.accept_link(link, until).await?,
        };
        Ok(Response::new(pb::AcceptInviteResponse { chat_id: hex(&chat.0) }))
    }

    async fn decline_invite(
        &self,
        request: Request<pb::DeclineInviteRequest>,
    ) -> Result<Response<pb::DeclineInviteResponse>, Status> {
        let (chat, inviter) = self.node.resolve_invite(&request.get_ref().chat)?;
        if !self.node.give_up_link(chat, inviter)? {
            self.node.answer(chat, inviter, false)?;
        }
        Ok(Response::new(pb::DeclineInviteResponse {}))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        self.once(request, Self::remove).await
    }

    async fn leave_chat(
        &self,
        request: Request<pb::LeaveChatRequest>,
    ) -> Result<Response<pb::LeaveChatResponse>, Status> {
        self.once(request, Self::leave).await
    }

    async fn send_message(
        &self,
        request: Request<pb::SendMessageRequest>,
    ) -> Result<Response<pb::SendMessageResponse>, Status> {
        let deadline = deadline(&request);
        let trace = current_context();
        let request = request.into_inner();
        let chat = resolve_chat(&self.node, &request.chat)?;
        check_text(&request.text)?;
        let wait = match pb::Wait::try_from(request.wait) {
            Ok(pb::Wait::Committed) => Wait::Committed,
            Ok(pb::Wait::Queued | pb::Wait::Unspecified) => Wait::Queued,
            Err(_) => return Err(refusal::wait_invalid(request.wait).into()),
        };
        let is_repeatable = !request.request_id.is_empty();
        let request_id = if is_repeatable { request.request_id } else { new_request_id()? };
        let response = |index: Option<u64>| {
            let state = match index {
                Some(_) => pb::MessageState::Committed,
                None => pb::MessageState::Queued,
            };
            Response::new(pb::SendMessageResponse {
                chat_id: hex(&chat.id.0),
                request_id: request_id.clone(),
                state: state.into(),
                sequence: index.unwrap_or(0),
            })
        };
        let sealed = seal::seal(&request.text);
        let proposal = ProposalRequest {
            request_id: Some(request_id.clone()),
            looked: None,
            payload: Payload::Message { request_id: request_id.clone(), sealed },
            created_at_ms: now_ms(),
            trace,
            wait,
        };
        let index = match is_repeatable {
            true => {
                check_request_id(&request_id)?;
                self.node.propose_once(Arc::clone(&chat), proposal, deadline, &request_id).await?
            }
            false => self.node.propose(&chat, proposal, deadline, &request_id).await?.index,
        };
        Ok(response(index))
    }

    type FeedStream = Frames;

    async fn feed(
        &self,
        request: Request<pb::FeedRequest>,
    ) -> Result<Response<Self::FeedStream>, Status> {
        let cursors = request.into_inner().cursors.into_iter();
        let cursors = cursors
            .map(|cursor| Ok((resolve_chat(&self.node, &cursor.chat)?, cursor.after)))
            .collect::<Result<Vec<_>, Refusal>>()?;
        let stall = self.node.limits.feed_stall;
        let reader = Reader::new(Arc::clone(&self.node), cursors, stall)?;
        Ok(Response::new(until_stopped(reader.into_stream(), self.node.stop.clone())))
    }

    async fn list_messages(
        &self,
        request: Request<pb::ListMessagesRequest>,
    ) -> Result<Response<pb::ListMessagesResponse>, Status> {
        let request = request.into_inner();
        let chat = resolve_chat(&self.node, &request.chat)?;
        Ok(Response::new(pages::list(chat, request).await?))
    }

    type WatchChatStream = Answers<pb::WatchChatResponse>;

    async fn watch_chat(
        &self,
        request: Request<pb::WatchChatRequest>,
    ) -> Result<Response<Self::WatchChatStream>, Status> {
        let chat = resolve_chat(&self.node, &request.get_ref().chat)?;
        let (id, me) = (chat.id, self.node.identity.peer_id());
        let mut shown = chat.view.clone();
        shown.mark_changed();
        let views = stream::unfold(shown, move |mut shown| async move {
            shown.changed().await.ok()?;
            let chat = {
                let seen = shown.borrow_and_update();
                view::to_chat(id, me, &seen.status, seen.fault, &seen.away_since)
            };
            Some((Ok(pb::WatchChatResponse { chat: Some(chat) }), shown))
        });
        // A chat that was left ends its watchers.
        let views = views.chain(stream::once(async { Err(refusal::chat_not_found().into()) }));
        Ok(Response::new(until_stopped(views, self.node.stop.clone())))
    }

    async fn mark_read(
        &self,
        request: Request<pb::MarkReadRequest>,
    ) -> Result<Response<pb::MarkReadResponse>, Status> {
        let until = deadline(&request).unwrap_or_else(|| Instant::now() + SHOWN_BEFORE_MAX);
        let chat = resolve_chat(&self.node, &request.get_ref().chat)?;
        let index = request.into_inner().sequence;
        // What a former run has shown may not be known to be committed yet.
        let mut shown = chat.view.clone();
        let is_known = |view: &Arc<ChatView>| {
            chat.feed.commit() >= index || view.status.caught_up || chat.is_away()
        };
        let _ = timeout_at(until, shown.wait_for(is_known)).await;
        let committed = chat.feed.commit();
        if index > committed {
            return Err(refusal::cursor_ahead(hex(&chat.id.0), committed).into());
        }
        self.node.handle.mark_read(chat.id, index).await.map_err(unable)?;
        Ok(Response::new(pb::MarkReadResponse {}))
    }

    async fn hand_over(
        &self,
        request: Request<pb::ClientServiceHandOverRequest>,
    ) -> Result<Response<pb::ClientServiceHandOverResponse>, Status> {
        let until = deadline(&request).unwrap_or_else(|| Instant::now() + HAND_OVER_MAX);
        let request = request.into_inner();
        let chat = resolve_chat(&self.node, &request.chat)?;
        let status = self.node.handle.view(chat.id).await.map_err(unable)?.status;
        let me = self.node.identity.peer_id();
        if status.role != Role::Host {
            return Err(
                refusal::not_host(status.host.map_or_else(String::new, |h| hex(&h.0))).into()
            );
        }
        let target = match request.peer.as_str() {
            "" => None,
            peer => Some(resolve_peer(&status, peer, 1)?),
        };
        if target == Some(me) {
            let (host_peer_id, term) = (hex(&me.0), status.term);
            return Ok(Response::new(pb::ClientServiceHandOverResponse { host_peer_id, term }));
        }
        // A member that has just come back may not be fit yet; the host tries again.
        let (host, term) = loop {
            self.node.handle.hand_over(chat.id, target).await.map_err(unable)?;
            let again = until.min(Instant::now() + HAND_OVER_AGAIN);
            match await_other_host(&chat, me, again).await? {
                Some((host, _)) if target.is_some_and(|target| target != host) => {
                    return Err(refusal::not_handed_over().into());
                }
                Some(found) => break found,
                None if again < until => {}
                None => return Err(refusal::not_handed_over().into()),
            }
        };
        let host_peer_id = hex(&host.0);
        Ok(Response::new(pb::ClientServiceHandOverResponse { host_peer_id, term }))
    }

    type CheckMembersStream = Answers<pb::CheckMembersResponse>;

    async fn check_members(
        &self,
        _: Request<pb::CheckMembersRequest>,
    ) -> Result<Response<Self::CheckMembersStream>, Status> {
        let checks = reach::check_members(&self.node)?.map(Ok);
        Ok(Response::new(until_stopped(checks, self.node.stop.clone())))
    }
}

impl Person {
    /// A chat as it is at this moment.
    pub(super) async fn show(&self, chat: ChatId) -> Result<pb::Chat, Refusal> {
        let view = self.node.handle.view(chat).await.map_err(unable)?;
        let me = self.node.identity.peer_id();
        Ok(view::to_chat(chat, me, &view.status, view.fault, &view.away_since))
    }
}

/// Waits until another peer than this one hosts; nothing when it takes too long.
async fn await_other_host(
    chat: &ChatShared,
    me: PeerId,
    until: Instant,
) -> Result<Option<(PeerId, u64)>, Refusal> {
    let mut shown = chat.view.clone();
    let other = shown.wait_for(|view| view.status.host.is_some_and(|host| host != me));
    match timeout_at(until, other).await {
        Ok(Ok(view)) => Ok(view.status.host.map(|host| (host, view.status.term))),
        Ok(Err(_)) => Err(refusal::chat_not_found()),
        Err(_) => Ok(None),
    }
}

fn check_text(text: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        return Err(refusal::text_empty());
    }
    // A character has at least one byte: short texts need no counting.
    if text.len() > TEXT_CHARS_MAX {
        let characters = text.chars().count();
        if characters > TEXT_CHARS_MAX {
            return Err(refusal::text_too_long(characters));
        }
    }
    Ok(())
}

pub(super) fn check_request_id(id: &str) -> Result<(), Refusal> {
    let valid = id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic());
    if valid { Ok(()) } else { Err(refusal::request_id_invalid()) }
}

fn new_request_id() -> Result<String, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| refusal::internal(error.to_string()))?;
    Ok(hex(&bytes))
}

/// The caller's deadline, from `grpc-timeout`, less what an answer takes.
pub(super) fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = count.parse().ok()?;
    let length = match unit {
        "H" => Duration::from_secs(count.checked_mul(3_600)?),
        "M" => Duration::from_secs(count.checked_mul(60)?),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    let margin = DEADLINE_MARGIN.min(length / 5);
    Instant::now().checked_add(length - margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_counted_in_characters() {
        assert!(check_text("x").is_ok());
        assert!(check_text("").is_err());
        assert!(check_text(&"ü".repeat(TEXT_CHARS_MAX)).is_ok());
        assert!(check_text(&"ü".repeat(TEXT_CHARS_MAX + 1)).is_err());
    }

    #[test]
    fn request_ids_are_visible_ascii() {
        assert!(check_request_id("a-1").is_ok());
        for bad in ["a b", "é", &"x".repeat(65)] {
            assert!(check_request_id(bad).is_err(), "{bad}");
        }
    }
}
