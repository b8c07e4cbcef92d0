//! Making and ending invite links, and taking back invitations by address.

use std::time::Duration;

use tokio::time::Instant;

use super::invites::{OwnLink, outgoing_key};
use crate::crypto::link::LinkSeed;
use crate::peer::node::{Node, now_ms, storage};
use crate::peer::person::proposal;
use crate::peer::refusal::{self, Refusal, unable};
use crate::peer::resolve::SURE_DIGITS;
use crate::protocol::event::Status as ChatStatus;
use crate::protocol::invite_link::InviteLink;
use crate::protocol::types::{
    ChatId, INVITE_LINK_USES_MAX, InviteLinkId, MemberState, Membership, Payload, PeerId,
};
use crate::runtime::handle::{ChatShared, Wait};
use crate::wire::hex;
use crate::wire::link::{LINK_HOST_BYTES_MAX, LinkText, LinkTooLong, PREFIX, PeerHint};

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

impl Node {
    /// Makes a link. The secret is durable here before anybody hears of the link.
    pub async fn create_link(
        &self,
        chat: &ChatShared,
        uses_max: u32,
        valid_s: u32,
        deadline: Option<Instant>,
    ) -> Result<(InviteLinkId, InviteLink, OwnLink), Refusal> {
        let uses_max = if uses_max == 0 { 1 } else { uses_max };
        if uses_max > INVITE_LINK_USES_MAX {
            return Err(refusal::uses_invalid());
        }
        let valid_s = if valid_s == 0 { VALID_S } else { valid_s };
        if valid_s > VALID_DAYS_MAX * DAY_S {
            return Err(refusal::expiry_invalid(VALID_DAYS_MAX));
        }
        let valid = Duration::from_secs(valid_s.into());
        let valid_ms = u64::try_from(valid.as_millis()).unwrap_or(u64::MAX);
        let seed = LinkSeed::generate().map_err(|error| refusal::internal(error.to_string()))?;
        let (id, expires_at_ms) = (seed.id(), now_ms().saturating_add(valid_ms));
        let own = OwnLink { chat: chat.id, seed: seed.0, uses_max, expires_at_ms };
        let too_long = |_| refusal::link_too_long(LINK_HOST_BYTES_MAX);
        link_text(self, chat, &own).map_err(too_long)?;
        let view = self.handle.view(chat.id).await.map_err(unable)?;
        if !view.status.invite_links.has_room(now_ms()) {
            return Err(refusal::links_too_many());
        }
        let store = &self.store;
        self.lock_invites().put_link(store, id, own.clone()).map_err(storage)?;
        let created = Membership::InviteLinkCreated { link: id, uses_max, expires_at_ms };
        let proposal = proposal(Payload::Membership(created), Wait::Committed);
        self.propose(chat, proposal, deadline, "").await?;
        let view = self.handle.view(chat.id).await.map_err(unable)?;
        let Some(link) = view.status.invite_links.get(&id) else {
            // Others took the room meanwhile, or nobody may make links here any more.
            self.lock_invites().remove_link(store, &id).map_err(storage)?;
            return Err(refusal::links_too_many());
        };
        Ok((id, *link, own))
    }

    /// Ends a link, or takes an invitation back that is not answered. Gives which, and whose;
    /// neither for an invitation that has reached nobody.
    pub async fn revoke(
        &self,
        chat: &ChatShared,
        text: &str,
        deadline: Option<Instant>,
    ) -> Result<(Option<InviteLinkId>, Option<PeerId>), Refusal> {
        let now = self.handle.view(chat.id).await.map_err(unable)?.status;
        let (change, ended) = match self.find_open(chat.id, &now, text)? {
            Target::Link(link) => (Membership::InviteLinkRevoked { link }, (Some(link), None)),
            Target::Invite { key, peer } => {
                if let Some(key) = key {
                    let mut invites = self.lock_invites();
                    invites.remove_outgoing(&self.store, &key).map_err(storage)?;
                    self.invite_changed.notify_waiters();
                }
                let Some(peer) = peer else { return Ok((None, None)) };
                (Membership::InviteRevoked { peer }, (None, Some(peer)))
            }
        };
        let proposal = proposal(Payload::Membership(change), Wait::Committed);
        self.propose(chat, proposal, deadline, "").await?;
        Ok(ended)
    }

    /// The open link or invitation that the text names.
    fn find_open(&self, chat: ChatId, now: &ChatStatus, text: &str) -> Result<Target, Refusal> {
        let known = now.invite_links.iter();
        let open = known.filter(|(_, link)| link.problem(now_ms()).is_none()).map(|(id, _)| *id);
        if text.starts_with(PREFIX) {
            let link = LinkText::parse(text).map_err(refusal::link_text)?;
            let id = LinkSeed(link.seed).id();
            let found = open.into_iter().find(|open| *open == id && link.chat == chat);
            return found.map(Target::Link).ok_or_else(refusal::invite_over);
        }
        let is_invited = |peer: &PeerId| {
            let member = now.members.get(peer);
            member.is_some_and(|member| member.state == MemberState::Invited)
        };
        let invites = self.lock_invites();
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
        let digits = text.to_ascii_lowercase();
        let names = |peer: &PeerId| {
            let is_called =
                |name: &str| !text.is_empty() && name.to_lowercase() == text.to_lowercase();
            let reached = peer.to_string();
            invites.outgoing().any(|sent| {
                sent.chat == chat
                    && sent.reached.as_ref() == Some(&reached)
                    && is_called(&sent.name)
            })
        };
        let begins = |id: &[u8; 32]| !digits.is_empty() && hex(id).starts_with(&digits);
        let links = open.filter(|id| begins(&id.0)).map(Target::Link);
        let is_meant = |peer: &PeerId| is_invited(peer) && (begins(&peer.0) || names(peer));
        let invited = now.members.keys().filter(|peer| is_meant(peer));
        let invited = invited.map(|peer| {
            let reached = peer.to_string();
            let mut sent = invites.outgoing();
            let sent = sent.find(|i| i.chat == chat && i.reached.as_ref() == Some(&reached));
            let key = sent.map(|invite| outgoing_key(chat, &invite.address));
            Target::Invite { key, peer: Some(*peer) }
        });
        let mut found: Vec<Target> = links.chain(invited).collect();
        let is_named = |target: &Target| match target {
            Target::Invite { peer: Some(peer), .. } => names(peer),
            _ => false,
        };
        match found.len() {
            1 if digits.len() < SURE_DIGITS && !is_named(&found[0]) => {
                Err(refusal::invite_unsure())
            }
            1 => Ok(found.remove(0)),
            0 => Err(refusal::invite_over()),
            _ => Err(refusal::invite_ambiguous()),
        }
    }
}

/// The text of a link that this peer has made, with the addresses of today. After its own come
/// those of the members that would host.
pub fn link_text(node: &Node, chat: &ChatShared, own: &OwnLink) -> Result<String, LinkTooLong> {
    let me = node.identity.peer_id();
    let view = chat.view.borrow();
    let ranked = view.status.ranking.candidates.iter().map(|candidate| &candidate.peer);
    let unranked = view.status.members.keys();
    let mut peers: Vec<&PeerId> = Vec::new();
    for peer in ranked.chain(unranked) {
        if *peer != me && !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    let active = peers.into_iter().filter_map(|peer| {
        let member = view.status.members.get(peer)?;
        let is_active = member.state == MemberState::Active;
        is_active.then(|| (PeerHint::of(peer), member.address.clone()))
    });
    let link = LinkText {
        chat: chat.id,
        inviter: me,
        seed: own.seed,
        expires_at_s: u32::try_from(own.expires_at_ms / 1_000).unwrap_or(u32::MAX),
        address: node.address.clone(),
        others: active.collect(),
    };
    link.encode()
}
