//! Making and ending invite links, and taking back invitations by address.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::client::{Person, wish};
use super::invites::{OwnLink, outgoing_key};
use super::node::{now_ms, storage};
use super::shown::link_text;
use super::status::{self, unable};
use crate::crypto::link::LinkSeed;
use crate::protocol::event::Status as ChatStatus;
use crate::protocol::types::{
    ChatId, INVITE_LINK_USES_MAX, InviteLinkId, MemberState, Membership, Payload, PeerId,
};
use crate::runtime::handle::{ChatShared, Wait};
use crate::wire::link::{LINK_HOST_BYTES_MAX, LinkText, PREFIX};
use crate::wire::{hex, pb};

const DAY_S: u32 = 24 * 3_600;
const VALID_S: u32 = 7 * DAY_S;
const VALID_DAYS_MAX: u32 = 90;

/// What somebody wants to end.
enum Target {
    Link(InviteLinkId),
    /// An invitation by address, by the key that it is kept under, and whom it has reached.
    Invite {
        key: Option<String>,
        peer: Option<PeerId>,
    },
}

impl Person {
    /// Makes a link. The secret is durable here before anybody hears of the link.
    pub(super) async fn create_link(
        &self,
        chat: &ChatShared,
        uses_max: u32,
        valid_s: u32,
        deadline: Option<Instant>,
    ) -> Result<pb::InviteLink, Status> {
        let uses_max = if uses_max == 0 { 1 } else { uses_max };
        if uses_max > INVITE_LINK_USES_MAX {
            return Err(status::uses_invalid());
        }
        let valid_s = if valid_s == 0 { VALID_S } else { valid_s };
        if valid_s > VALID_DAYS_MAX * DAY_S {
            return Err(status::expiry_invalid(VALID_DAYS_MAX));
        }
        let valid = Duration::from_secs(valid_s.into());
        let valid_ms = u64::try_from(valid.as_millis()).unwrap_or(u64::MAX);
        let seed = LinkSeed::generate().map_err(|error| status::internal(error.to_string()))?;
        let (id, expires_at_ms) = (seed.id(), now_ms().saturating_add(valid_ms));
        let own = OwnLink { chat: chat.id, seed: seed.0, uses_max, expires_at_ms };
        let too_long = |_| status::link_too_long(LINK_HOST_BYTES_MAX);
        link_text(&self.node, chat, &own).map_err(too_long)?;
        let view = self.node.handle.view(chat.id).await.map_err(unable)?;
        if !view.status.invite_links.has_room(now_ms()) {
            return Err(status::links_too_many());
        }
        let store = &self.node.store;
        self.node.lock_invites().put_link(store, id, own.clone()).map_err(storage)?;
        let created = Membership::InviteLinkCreated { link: id, uses_max, expires_at_ms };
        let wish = wish(Payload::Membership(created), Wait::Committed);
        self.propose(chat, wish, deadline, "").await?;
        let view = self.node.handle.view(chat.id).await.map_err(unable)?;
        let Some(link) = view.status.invite_links.get(&id) else {
            // Others took the room meanwhile, or nobody may make links here any more.
            self.node.lock_invites().remove_link(store, &id).map_err(storage)?;
            return Err(status::links_too_many());
        };
        Ok(self.show_link(chat, id, Some(link), Some(&own)))
    }

    /// Ends a link, or takes an invitation back that is not answered.
    pub(super) async fn revoke(
        &self,
        chat: &ChatShared,
        text: &str,
        deadline: Option<Instant>,
    ) -> Result<(), Status> {
        let now = self.node.handle.view(chat.id).await.map_err(unable)?.status;
        let change = match self.find_open(chat.id, &now, text)? {
            Target::Link(link) => Membership::InviteLinkRevoked { link },
            Target::Invite { key, peer } => {
                if let Some(key) = key {
                    let mut invites = self.node.lock_invites();
                    invites.remove_outgoing(&self.node.store, &key).map_err(storage)?;
                    self.node.invite_changed.notify_waiters();
                }
                let Some(peer) = peer else { return Ok(()) };
                Membership::InviteRevoked { peer }
            }
        };
        let wish = wish(Payload::Membership(change), Wait::Committed);
        self.propose(chat, wish, deadline, "").await?;
        Ok(())
    }

    /// The open link or invitation that the text names.
    fn find_open(&self, chat: ChatId, now: &ChatStatus, text: &str) -> Result<Target, Status> {
        let known = now.invite_links.iter();
        let open = known.filter(|(_, link)| link.problem(now_ms()).is_none()).map(|(id, _)| *id);
        if text.starts_with(PREFIX) {
            let link = LinkText::parse(text).map_err(status::link_text)?;
            let id = LinkSeed(link.seed).id();
            let found = open.into_iter().find(|open| *open == id && link.chat == chat);
            return found.map(Target::Link).ok_or_else(status::invite_over);
        }
        let is_invited = |peer: &PeerId| {
            let member = now.members.get(peer);
            member.is_some_and(|member| member.state == MemberState::Invited)
        };
        let invites = self.node.lock_invites();
        let key = outgoing_key(chat, text);
        if let Some(invite) = invites.outgoing_to(&key) {
            let peer = invite.reached.as_deref().and_then(|peer| peer.parse().ok());
            // What has arrived a moment ago may not be in the log yet.
            let is_unknown = |peer: &PeerId| !now.members.contains_key(peer);
            let may_answer = peer.is_none_or(|peer| is_invited(&peer) || is_unknown(&peer));
            if may_answer && invite.expires_at_ms > now_ms() {
                return Ok(Target::Invite { key: Some(key), peer });
            }
        }
        let begins = |id: &[u8; 32]| !text.is_empty() && hex(id).starts_with(text);
        let links = open.filter(|id| begins(&id.0)).map(Target::Link);
        let invited = now.members.keys().filter(|peer| begins(&peer.0) && is_invited(peer));
        let invited = invited.map(|peer| {
            let reached = peer.to_string();
            let mut sent = invites.outgoing();
            let sent = sent.find(|i| i.chat == chat && i.reached.as_ref() == Some(&reached));
            let key = sent.map(|invite| outgoing_key(chat, &invite.address));
            Target::Invite { key, peer: Some(*peer) }
        });
        let mut found: Vec<Target> = links.chain(invited).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(status::invite_over()),
            _ => Err(status::invite_ambiguous()),
        }
    }
}
