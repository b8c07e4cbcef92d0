//! PeerService: first contact. Keys that nobody knows may call it, and only so often.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use super::inbound::Inbound;
use crate::crypto::verify::verify_proof;
use crate::peer::gate::Caller;
use crate::peer::node::links_now_ms;
use crate::peer::people::invites::IncomingInvite;
use crate::peer::reach;
use crate::peer::refusal::{
    Refusal, chat_not_found, internal, invalid, link_problem, removed_before, too_often,
};
use crate::protocol::message::{Body, Message};
use crate::protocol::types::{ChatId, Member, MemberState, PeerId};
use crate::runtime::handle::Answer;
use crate::wire::entry::{from_proof, to_words};
use crate::wire::message::{Header, to_refused};
use crate::wire::pb::peer_service_server::PeerService;
use crate::wire::{WireError, check_address, check_name, hex, milliseconds, pb};

#[tonic::async_trait]
impl PeerService for Inbound {
    async fn invite(
        &self,
        request: Request<pb::InviteRequest>,
    ) -> Result<Response<pb::InviteResponse>, Status> {
        let Caller { peer: from, ip, .. } = self.caller(&request)?;
        if !self.node.gate.admits(from, ip) {
            return Err(too_often().into());
        }
        let request = request.into_inner();
        let chat = parse_chat(&request.chat_id)?;
        let expires_at_ms = parse_invite(&request).map_err(invalid)?;
        let invite = IncomingInvite {
            chat_name: request.chat_name,
            inviter: from,
            inviter_name: request.inviter_name,
            inviter_address: request.inviter_address,
            expires_at_ms,
            answer: None,
            link: String::new(),
            from: Some(ip),
        };
        self.node.invited(chat, invite).await?;
        Ok(Response::new(pb::InviteResponse { name: self.node.name.clone() }))
    }

    async fn find_host(
        &self,
        request: Request<pb::FindHostRequest>,
    ) -> Result<Response<pb::FindHostResponse>, Status> {
        let caller = self.caller(&request)?;
        self.count(&caller)?;
        let from = caller.peer;
        let request = request.into_inner();
        let chat = parse_chat(&request.chat_id)?;
        if !matches!(self.is_member(chat, from), Ok(true)) {
            if !self.node.gate.admits(from, caller.ip) {
                return Err(too_often().into());
            }
            self.check_stranger(chat, from, &request)?;
        }
        let shared = self.node.chat(chat)?;
        let incarnation = request.incarnation;
        // Whoever asks need not know the generation: the answer names it (R30).
        let header = Header {
            chat,
            from_incarnation: incarnation,
            from_boot: 0,
            to_incarnation: 0,
            generation: 0,
            words: Vec::new(),
        };
        let message = header.message(from, self.handle.me(), Body::FindHost);
        let Answer::Message(answer) = self.call(chat, message).await? else {
            return Err(internal("the call has no answer").into());
        };
        let Message { from_boot, generation, words, body, .. } = answer;
        let (term, host) = match body {
            Body::FindHostAnswer(answer) => (answer.term, answer.host),
            Body::Refused(refused) => {
                let refused = Some(to_refused(&refused));
                let words = to_words(&words);
                let none = pb::FindHostResponse::default();
                let answer = pb::FindHostResponse { refused, generation, words, ..none };
                return Ok(Response::new(answer));
            }
            _ => (0, None),
        };
        let members = shared.view.borrow().status.members.clone();
        let address = |peer: &PeerId| members.get(peer).map(|member| member.address.clone());
        Ok(Response::new(pb::FindHostResponse {
            term,
            host_peer_id: host.map_or_else(String::new, |host| hex(&host.0)),
            host_address: host.as_ref().and_then(address).unwrap_or_default(),
            incarnation: shared.incarnation,
            boot: from_boot,
            members: addresses(&members),
            refused: None,
            generation,
            words: Vec::new(),
        }))
    }

    async fn dial_back(
        &self,
        request: Request<pb::DialBackRequest>,
    ) -> Result<Response<pb::DialBackResponse>, Status> {
        let caller = self.caller(&request)?;
        self.count(&caller)?;
        let chat = parse_chat(&request.get_ref().chat_id)?;
        Ok(Response::new(reach::dial_back(&self.node, chat, &caller).await?))
    }
}

impl Inbound {
    /// Whether one who is no member may ask for the host: a former member, who will be told that it
    /// is one, and whoever has an invite link. Others cannot tell a chat that they are not in from
    /// one that does not exist.
    fn check_stranger(
        &self,
        chat: ChatId,
        from: PeerId,
        request: &pb::FindHostRequest,
    ) -> Result<(), Refusal> {
        let shared = self.node.chat(chat)?;
        let view = shared.view.borrow();
        let former = view.status.former_members.get(&from);
        if former.is_some_and(|former| former.incarnation == request.incarnation) {
            return Ok(());
        }
        let proof = request.proof.as_ref().ok_or_else(chat_not_found)?;
        let proof = from_proof(proof).map_err(invalid)?;
        let link = view.status.invite_links.get(&proof.link).ok_or_else(chat_not_found)?;
        if !verify_proof(chat, from, request.incarnation, &proof) {
            return Err(chat_not_found());
        }
        // R43: a link from before its removal tells a former member nothing.
        if former.is_some_and(|it| it.removed_by.is_some() && link.created < it.index) {
            return Err(removed_before());
        }
        match link.problem(links_now_ms()) {
            Some(problem) => Err(link_problem(problem)),
            None => Ok(()),
        }
    }
}

fn parse_chat(id: &str) -> Result<ChatId, Refusal> {
    id.parse().map_err(|_| invalid(WireError::Invalid("chat_id")))
}

/// Checks an invitation's texts; gives the time of its end.
fn parse_invite(request: &pb::InviteRequest) -> Result<u64, WireError> {
    check_name(&request.chat_name, "chat_name")?;
    check_name(&request.inviter_name, "inviter_name")?;
    check_address(&request.inviter_address, "inviter_address")?;
    milliseconds(request.expires_at, "expires_at")
}

fn addresses(members: &BTreeMap<PeerId, Member>) -> Vec<pb::PeerAddress> {
    let active = members.iter().filter(|(_, member)| member.state == MemberState::Active);
    active
        .map(|(peer, m)| pb::PeerAddress { peer_id: hex(&peer.0), address: m.address.clone() })
        .collect()
}
