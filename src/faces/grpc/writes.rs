//! The calls by which a person's programs change chats and who is in them. Each can be repeated by
//! its request id, and acts once.

use std::time::Duration;

use prost::Message;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::client::{Person, check_request_id, deadline};
use crate::peer::life;
use crate::peer::node::parse_address;
use crate::peer::own_address::refuse_own;
use crate::peer::person::proposal;
use crate::peer::refusal::{self, Refusal, unable};
use crate::peer::resolve::{Named, SURE_DIGITS, resolve_any, resolve_chat, resolve_peer};
use crate::protocol::types::{Membership, Payload, Policy};
use crate::runtime::handle::Wait;
use crate::wire::entry::from_quota;
use crate::wire::{check_name, hex, pb};

const INVITE_S: u32 = 900;

/// A request that has an id.
pub trait Repeatable: Message {
    const CALL: &str;
    fn request_id(&self) -> &str;
}

macro_rules! repeatable {
    ($($request:ident = $call:literal),* $(,)?) => {
        $(impl Repeatable for pb::$request {
            const CALL: &str = $call;
            fn request_id(&self) -> &str {
                &self.request_id
            }
        })*
    };
}

repeatable! {
    CreateChatRequest = "CreateChat",
    UpdateChatRequest = "UpdateChat",
    InviteMemberRequest = "InviteMember",
    CreateInviteLinkRequest = "CreateInviteLink",
    RevokeInviteRequest = "RevokeInvite",
    RemoveMemberRequest = "RemoveMember",
    LeaveChatRequest = "LeaveChat",
}

impl Person {
    /// Acts on a request, or gives what became of the one that it repeats.
    pub(super) async fn once<R, T, F>(
        &self,
        request: Request<R>,
        act: impl FnOnce(Self, R, Option<Instant>) -> F,
    ) -> Result<Response<T>, Status>
    where
        R: Repeatable,
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let id = request.request_id().to_owned();
        let acted = match id.as_str() {
            "" => act(self.clone(), request, deadline).await,
            id => {
                check_request_id(id)?;
                let said = Sha256::new().chain_update(R::CALL).chain_update([0]);
                let said = said.chain_update(request.encode_to_vec()).finalize().into();
                // Whoever asks first sets no limit for those who repeat it.
                let act = act(self.clone(), request, None);
                self.node.repeats.once(id, said, deadline, act).await
            }
        };
        Ok(Response::new(acted?))
    }

    pub(super) async fn found(
        self,
        request: pb::CreateChatRequest,
        _: Option<Instant>,
    ) -> Result<pb::CreateChatResponse, Refusal> {
        check_name(&request.name, "name").map_err(|_| refusal::name_invalid())?;
        for address in &request.addresses {
            parse_address(address)?;
        }
        refuse_own(&self.node, &request.addresses).await?;
        let chat = self.node.found(&request.name).await?;
        for address in &request.addresses {
            self.node.invite(chat, address, invite_timeout(request.invite_timeout_s))?;
        }
        Ok(pb::CreateChatResponse { chat: Some(self.show(chat).await?) })
    }

    pub(super) async fn change(
        self,
        request: pb::UpdateChatRequest,
        deadline: Option<Instant>,
    ) -> Result<pb::UpdateChatResponse, Refusal> {
        let chat = resolve_chat(&self.node, &request.chat)?;
        let pb::UpdateChatRequest { name, quota, .. } = request;
        let quota = quota.map(from_quota).transpose().map_err(refusal::invalid)?;
        let chat_name = Some(name).filter(|name| !name.is_empty() || quota.is_none());
        let checked = chat_name.iter().try_for_each(|name| check_name(name, "name"));
        checked.map_err(|_| refusal::name_invalid())?;
        let proposal = proposal(Payload::Policy(Policy { chat_name, quota }), Wait::Committed);
        let result = self.node.propose(&chat, proposal, deadline, "").await?;
        Ok(pb::UpdateChatResponse { sequence: result.index.unwrap_or(0) })
    }

    pub(super) async fn invite(
        self,
        request: pb::InviteMemberRequest,
        _: Option<Instant>,
    ) -> Result<pb::InviteMemberResponse, Refusal> {
        let chat = resolve_chat(&self.node, &request.chat)?;
        refuse_own(&self.node, std::slice::from_ref(&request.address)).await?;
        let timeout = invite_timeout(request.timeout_s);
        let invite = self.node.invite(chat.id, &request.address, timeout)?;
        Ok(pb::InviteMemberResponse { invite: Some(self.show_outgoing(&invite)) })
    }

    pub(super) async fn make_link(
        self,
        request: pb::CreateInviteLinkRequest,
        deadline: Option<Instant>,
    ) -> Result<pb::CreateInviteLinkResponse, Refusal> {
        let chat = resolve_chat(&self.node, &request.chat)?;
        let (uses_max, valid_s) = (request.uses_max, request.valid_s);
        let (id, link, own) = self.node.create_link(&chat, uses_max, valid_s, deadline).await?;
        let link = self.show_link(&chat, id, Some(&link), Some(&own));
        Ok(pb::CreateInviteLinkResponse { link: Some(link) })
    }

    pub(super) async fn revoke(
        self,
        request: pb::RevokeInviteRequest,
        deadline: Option<Instant>,
    ) -> Result<pb::RevokeInviteResponse, Refusal> {
        let chat = resolve_chat(&self.node, &request.chat)?;
        let (link, peer) = self.node.revoke(&chat, &request.invite, deadline).await?;
        Ok(pb::RevokeInviteResponse {
            link_id: link.map(|link| hex(&link.0)).unwrap_or_default(),
            peer_id: peer.map(|peer| hex(&peer.0)).unwrap_or_default(),
        })
    }

    pub(super) async fn remove(
        self,
        request: pb::RemoveMemberRequest,
        deadline: Option<Instant>,
    ) -> Result<pb::RemoveMemberResponse, Refusal> {
        let chat = resolve_chat(&self.node, &request.chat)?;
        let status = self.node.handle.view(chat.id).await.map_err(unable)?.status;
        let peer = resolve_peer(&status, &request.peer, SURE_DIGITS)?;
        if peer == self.node.identity.peer_id() {
            return Err(refusal::peer_is_self());
        }
        let proposal =
            proposal(Payload::Membership(Membership::Removing { peer }), Wait::Committed);
        let result = self.node.propose(&chat, proposal, deadline, "").await?;
        let name = status.members.get(&peer).map(|member| member.name.clone());
        Ok(pb::RemoveMemberResponse {
            sequence: result.index.unwrap_or(0),
            peer_id: hex(&peer.0),
            name: name.unwrap_or_default(),
        })
    }

    pub(super) async fn leave(
        self,
        request: pb::LeaveChatRequest,
        deadline: Option<Instant>,
    ) -> Result<pb::LeaveChatResponse, Refusal> {
        let (id, name) = match resolve_any(&self.node, &request.chat, SURE_DIGITS)? {
            Named::Running(chat) => (chat.id, chat.view.borrow().status.chat_name.clone()),
            Named::Faulty(chat, faulty) => (chat, faulty.name),
        };
        let left = pb::LeaveChatResponse { chat_id: hex(&id.0), name };
        if life::leave(&self.node, id).await? {
            return Ok(left);
        }
        let chat = self.node.handle.chat(id).ok_or_else(refusal::chat_not_found)?;
        let proposal = proposal(Payload::Membership(Membership::Leaving), Wait::Queued);
        self.node.propose(&chat, proposal, deadline, "").await?;
        Ok(left)
    }
}

fn invite_timeout(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(if seconds == 0 { INVITE_S } else { seconds }))
}
