//! Several real peers in one chat: the demo, the cluster tests and the benchmarks stand on it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::check::{Line, lines_of};
use super::peer::{Client, Peer, Place, until};
use crate::wire::pb;

/// How long a chat may take to get somewhere.
pub const STEP_LIMIT: Duration = Duration::from_secs(20);

/// How long a peer may take to say how it sees the chat.
const VIEW_LIMIT: Duration = Duration::from_millis(500);

/// The peers and the chat that they share. Processes and directories go when it is dropped.
pub struct Cluster {
    /// In the order of the names given to `start`.
    pub peers: Vec<Peer>,
    /// The id of the chat; empty until `found`.
    pub chat: String,
    root: TempDir,
}

impl Cluster {
    /// Prepares one peer for each name, without starting any. With `delays`, one for each peer,
    /// proxies stand between them.
    pub fn new(binary: &Path, names: &[&str], delays: &[Duration]) -> Result<Self> {
        let delays = delays.iter().copied().map(Some).chain(std::iter::repeat(None));
        let places = names.iter().zip(delays).map(|(_, delay)| Place::loopback(delay));
        Self::at(binary, names, places.collect::<Result<_>>()?)
    }

    /// The same with a peer at each of these places.
    pub fn at(binary: &Path, names: &[&str], places: Vec<Place>) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("demes-").tempdir()?;
        let mut peers = Vec::new();
        for (name, place) in names.iter().zip(places) {
            peers.push(Peer::new(binary, root.path(), name, place)?);
        }
        Ok(Self { peers, chat: String::new(), root })
    }

    /// A directory that goes with the cluster.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Lets that directory stay, for a person to look into.
    pub fn keep_root(&mut self) {
        self.root.disable_cleanup(true);
    }

    /// Starts every peer that does not run, side by side.
    pub async fn start_all(&mut self) -> Result<()> {
        let stopped = self.peers.iter_mut().filter(|peer| !peer.is_running());
        let starts: Vec<_> = stopped.map(Peer::start).collect();
        for started in futures_util::future::join_all(starts).await {
            started?;
        }
        Ok(())
    }

    /// Peer 0 founds a chat and invites all others, who accept; returns when all of them vote as
    /// far as their number allows.
    pub async fn found(&mut self, chat_name: &str) -> Result<()> {
        self.create(chat_name).await?;
        for guest in 1..self.peers.len() {
            self.accept(guest).await?;
        }
        self.settled().await
    }

    /// Peer 0 founds a chat and invites all others.
    pub async fn create(&mut self, chat_name: &str) -> Result<()> {
        let addresses = self.peers[1..].iter().map(|peer| peer.address().to_string()).collect();
        let request = pb::CreateChatRequest {
            name: chat_name.into(),
            addresses,
            invite_timeout_s: 0,
            ..Default::default()
        };
        let answer = self.peers[0].client().create_chat(request).await?.into_inner();
        self.chat = answer.chat.context("CreateChat answers with the chat")?.chat_id;
        Ok(())
    }

    /// A guest waits for the invitation and accepts it.
    pub async fn accept(&self, guest: usize) -> Result<()> {
        let client = self.peers[guest].client();
        until(STEP_LIMIT, "an invitation", || invited(client.clone(), &self.chat)).await?;
        let request = pb::AcceptInviteRequest { chat: self.chat.clone(), link: String::new() };
        client.clone().accept_invite(request).await?;
        Ok(())
    }

    /// Everybody may add so much in a day from here on.
    pub async fn allow(&self, peer: usize, quota: pb::Quota) -> Result<()> {
        let (chat, name) = (self.chat.clone(), String::new());
        let request =
            pb::UpdateChatRequest { chat, name, quota: Some(quota), ..Default::default() };
        self.peers[peer].client().update_chat(request).await?;
        Ok(())
    }

    /// Returns when every running peer sees the same serving host, all peers as active members, and
    /// as many voters as the chat can have.
    pub async fn settled(&self) -> Result<()> {
        let members = self.peers.len();
        let voters = if members == 2 { 2 } else { (members - (members + 1) % 2).min(7) };
        let settled = |chat: &pb::Chat| {
            let active = |member: &&pb::Member| member.state() == pb::MemberState::Active;
            chat.serving
                && chat.members.iter().filter(active).count() == members
                && chat.members.iter().filter(|member| member.voter).count() == voters
        };
        self.all_see("a host, and everyone as a member", settled).await
    }

    /// Returns when every running peer knows the same host, in the same term, and `seen` holds
    /// there.
    pub async fn all_see(&self, what: &str, seen: impl Fn(&pb::Chat) -> bool) -> Result<()> {
        let found = until(STEP_LIMIT, what, || async {
            let mut known = None;
            for peer in self.peers.iter().filter(|peer| peer.is_running()) {
                let chat = chat_at(peer.client(), &self.chat).await.ok()?;
                let host = (chat.term, chat.host_peer_id.clone());
                if host.1.is_empty() || !seen(&chat) || *known.get_or_insert(host.clone()) != host {
                    return None;
                }
            }
            known
        });
        match found.await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.describe().await)),
        }
    }

    /// The chat as a peer sees it.
    pub async fn chat_at(&self, peer: usize) -> Result<pb::Chat> {
        chat_at(self.peers[peer].client(), &self.chat).await
    }

    /// The place of the peer with this id.
    pub fn place_of(&self, id: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    /// The name of the peer with this id.
    pub fn name_of(&self, id: &str) -> String {
        self.place_of(id).map_or("nobody", |place| &self.peers[place].name).to_owned()
    }

    /// Who hosts and serves, as seen by the running peers: the first that knows one of a term above
    /// `above_term`, within `limit`.
    pub async fn host_above(&self, above_term: u64, limit: Duration) -> Result<(usize, u64)> {
        let found = until(limit, "a host", || async {
            for peer in self.peers.iter().filter(|peer| peer.is_running()) {
                let Ok(chat) = chat_at(peer.client(), &self.chat).await else { continue };
                let host = self.place_of(&chat.host_peer_id);
                if let Some(host) = host.filter(|_| chat.serving && chat.term > above_term) {
                    return Some((host, chat.term));
                }
            }
            None
        });
        match found.await {
            Ok(found) => Ok(found),
            Err(error) => Err(error.context(self.describe().await)),
        }
    }

    /// Who hosts.
    pub async fn host(&self) -> Result<usize> {
        Ok(self.host_above(0, STEP_LIMIT).await?.0)
    }

    /// Sends through a peer and waits until a majority has the text; returns its sequence.
    pub async fn say(&self, peer: usize, text: &str, request_id: &str) -> Result<u64> {
        say(self.peers[peer].client(), &self.chat, text, request_id).await
    }

    /// What each running peer's feed says from the beginning, once all of them are equally far and
    /// as far as `at_least`.
    pub async fn feeds(&self, at_least: u64) -> Result<Vec<(String, Vec<Line>)>> {
        let begun = Instant::now();
        loop {
            let mut feeds = Vec::new();
            for peer in self.peers.iter().filter(|peer| peer.is_running()) {
                feeds.push((peer.name.clone(), lines_of(peer.client(), &self.chat).await?));
            }
            let last = feeds.iter().filter_map(|(_, lines)| lines.last()).map(|line| line.sequence);
            let last = last.max().unwrap_or(0);
            if last >= at_least && feeds.iter().all(|(_, lines)| lines.len() as u64 >= last) {
                return Ok(feeds);
            }
            if begun.elapsed() > STEP_LIMIT {
                bail!("the feeds do not become equal: {}", self.describe().await);
            }
        }
    }

    /// Each peer's view in a line, for an error.
    pub async fn describe(&self) -> String {
        let mut text = String::new();
        for peer in &self.peers {
            let view = match peer.is_running() {
                false => "not running".to_owned(),
                true => match chat_at(peer.client(), &self.chat).await {
                    Ok(chat) => view(&chat),
                    Err(error) => format!("{error:#}\n{}", peer.log_tail()),
                },
            };
            text += &format!("\n  {} {}: {view}", peer.name, &peer.id.get(..8).unwrap_or("-"));
        }
        text
    }
}

fn view(chat: &pb::Chat) -> String {
    format!(
        "{:?}, term {}, host {}, serving {}, {} of {} voters ({} for a majority), {} members, \
         {} confirmed of {}, {} queued{}",
        chat.role(),
        chat.term,
        chat.host_peer_id.get(..8).unwrap_or("none"),
        chat.serving,
        chat.voters_in_contact,
        chat.members.iter().filter(|member| member.voter).count(),
        chat.majority,
        chat.members.len(),
        chat.committed,
        chat.last,
        chat.queued,
        if chat.fault.is_empty() { String::new() } else { format!(", fault: {}", chat.fault) },
    )
}

async fn invited(mut client: Client, chat: &str) -> Option<()> {
    let invites = client.list_invites(pb::ListInvitesRequest {}).await.ok()?.into_inner().invites;
    let waits = |invite: &pb::Invite| {
        invite.incoming && invite.chat_id == chat && invite.state() == pb::InviteState::Pending
    };
    invites.iter().any(waits).then_some(())
}

/// The chat as the peer behind `client` sees it; an error from one that is frozen.
pub async fn chat_at(mut client: Client, chat: &str) -> Result<pb::Chat> {
    let request = pb::GetChatRequest { chat: chat.to_owned() };
    let answer = tokio::time::timeout(VIEW_LIMIT, client.get_chat(request)).await;
    let answer = answer.context("the peer does not answer")??;
    answer.into_inner().chat.context("GetChat answers with the chat")
}

/// Sends and waits until a majority has the text; returns its sequence.
pub async fn say(mut client: Client, chat: &str, text: &str, request_id: &str) -> Result<u64> {
    let request = pb::SendMessageRequest {
        chat: chat.to_owned(),
        text: text.to_owned(),
        request_id: request_id.to_owned(),
        wait: pb::Wait::Committed.into(),
    };
    Ok(client.send_message(request).await?.into_inner().sequence)
}
