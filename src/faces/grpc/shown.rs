//! Invitations and links as a person's programs see them.

use super::client::Person;
use crate::peer::node::{Node, now_ms};
use crate::peer::people::invite_links::link_text;
use crate::peer::people::invites::{IncomingInvite, OutgoingInvite, OwnLink};
use crate::peer::people::joining;
use crate::protocol::invite_link::{InviteLink, InviteLinkProblem};
use crate::protocol::types::{ChatId, InviteLinkId, MemberState, PeerId};
use crate::runtime::handle::ChatShared;
use crate::wire::{hex, pb, timestamp};

impl Person {
    /// Every invitation, those that arrived here first.
    pub(super) fn show_invites(&self) -> Vec<pb::Invite> {
        let invites = self.node.lock_invites();
        // Who takes part has no use for what others have sent meanwhile.
        let incoming = invites
            .incoming()
            .filter(|(chat, invite)| invite.answer.is_some() || !self.node.takes_part(*chat));
        let incoming = incoming.map(|(chat, invite)| show_incoming(&self.node, chat, invite));
        let outgoing = invites.outgoing().map(|invite| self.show_outgoing(invite));
        incoming.chain(outgoing).collect()
    }

    pub(super) fn show_outgoing(&self, invite: &OutgoingInvite) -> pb::Invite {
        let chat = self.node.handle.chat(invite.chat);
        let (chat_name, member) = chat.map_or((String::new(), None), |chat| {
            let view = chat.view.borrow();
            let peer = invite.reached.as_deref().and_then(|peer| peer.parse::<PeerId>().ok());
            let member = peer.and_then(|peer| view.status.members.get(&peer)).map(|m| m.state);
            (view.status.chat_name.clone(), member)
        });
        let is_over = invite.expires_at_ms <= now_ms();
        let state = match (&invite.reached, member) {
            (_, Some(MemberState::Active | MemberState::Leaving)) => pb::InviteState::Accepted,
            _ if is_over => pb::InviteState::Expired,
            (None, _) => pb::InviteState::Sending,
            (Some(_), Some(MemberState::Invited)) => pb::InviteState::Pending,
            (Some(_), None) if invite.noted => pb::InviteState::Declined,
            (Some(_), None) => pb::InviteState::Pending,
        };
        pb::Invite {
            chat_id: hex(&invite.chat.0),
            chat_name,
            incoming: false,
            peer_id: invite.reached.clone().or(invite.expected.clone()).unwrap_or_default(),
            name: invite.name.clone(),
            address: invite.address.clone(),
            state: state.into(),
            expires_at: Some(timestamp(invite.expires_at_ms)),
            by_link: false,
            problem: String::new(),
        }
    }

    /// Every link that the chats know of, and own ones that they do not know yet.
    pub(super) async fn show_links(&self) -> Vec<pb::InviteLink> {
        let mut shown = Vec::new();
        for chat in self.node.handle.chats().iter().filter(|chat| !chat.is_read_only()) {
            let Ok(view) = self.node.handle.view(chat.id).await else { continue };
            let known = view.status.invite_links;
            let invites = self.node.lock_invites();
            for (id, link) in known.iter() {
                shown.push(self.show_link(chat, *id, Some(link), invites.links().get(id)));
            }
            let queued = invites.links().iter().filter(|(id, link)| {
                link.chat == chat.id && known.get(id).is_none() && link.expires_at_ms > now_ms()
            });
            shown.extend(queued.map(|(id, own)| self.show_link(chat, *id, None, Some(own))));
        }
        shown
    }

    /// A link: what the log says of it, and what this peer knows of it.
    pub(super) fn show_link(
        &self,
        chat: &ChatShared,
        id: InviteLinkId,
        link: Option<&InviteLink>,
        own: Option<&OwnLink>,
    ) -> pb::InviteLink {
        use pb::InviteLinkState as State;
        let state = match link.map(|link| link.problem(now_ms())) {
            None => State::Queued,
            Some(None) => State::Open,
            Some(Some(InviteLinkProblem::Expired)) => State::Expired,
            Some(Some(InviteLinkProblem::UsedUp)) => State::UsedUp,
            Some(Some(InviteLinkProblem::Revoked | InviteLinkProblem::Unknown)) => State::Revoked,
        };
        let me = self.node.identity.peer_id();
        let uses_max = link.map(|l| l.uses_max).or(own.map(|own| own.uses_max)).unwrap_or(0);
        let expires_at_ms = link.map(|link| link.expires_at_ms);
        let expires_at_ms = expires_at_ms.or(own.map(|own| own.expires_at_ms)).unwrap_or(0);
        let text = own.and_then(|own| link_text(&self.node, chat, own).ok());
        pb::InviteLink {
            link_id: hex(&id.0),
            chat_id: hex(&chat.id.0),
            chat_name: chat.view.borrow().status.chat_name.clone(),
            created_by_peer_id: hex(&link.map_or(me, |link| link.created_by).0),
            text: text.unwrap_or_default(),
            uses_max,
            uses_left: link.map_or(uses_max, |link| link.uses_left),
            expires_at: Some(timestamp(expires_at_ms)),
            state: state.into(),
        }
    }
}

fn show_incoming(node: &Node, chat: ChatId, invite: &IncomingInvite) -> pb::Invite {
    let state = match invite.answer {
        Some(answer) if answer.accept => pb::InviteState::Joining,
        Some(_) => pb::InviteState::Declined,
        None if invite.expires_at_ms <= now_ms() => pb::InviteState::Expired,
        None => pb::InviteState::Pending,
    };
    let problem = invite.answer.and_then(|_| joining::problem(node, chat));
    pb::Invite {
        chat_id: hex(&chat.0),
        chat_name: invite.chat_name.clone(),
        incoming: true,
        peer_id: hex(&invite.inviter.0),
        name: invite.inviter_name.clone(),
        address: invite.inviter_address.clone(),
        state: state.into(),
        expires_at: Some(timestamp(invite.expires_at_ms)),
        by_link: !invite.link.is_empty(),
        problem: problem.unwrap_or_default(),
    }
}
