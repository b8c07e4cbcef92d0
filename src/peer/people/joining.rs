//! Bringing a person's answer to an invitation, or a link's proof, to the chat's host, wherever
//! that is: any member says who hosts.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::invites::{IncomingInvite, InviteAnswer};
use crate::crypto::link::LinkSeed;
use crate::links::asking::NotDone;
use crate::links::backoff::Backoff;
use crate::links::dial::{Connection, DialError, dial};
use crate::peer::life::{self, Answering, TakenOn};
use crate::peer::node::{Node, now_ms};
use crate::peer::refusal::{self, Refusal};
use crate::protocol::message::{Body, Join, RefusedReason};
use crate::protocol::sign::signed_submission;
use crate::protocol::types::{
    ChatId, Course, Generation, Incarnation, InviteLinkProof, Membership, Payload, PeerId,
};
use crate::wire::entry::to_proof;
use crate::wire::link::{LinkText, PeerHint};
use crate::wire::message::{from_join_response, to_join_request};
use crate::wire::reason::Reason;
use crate::wire::{check_address, hex, pb};

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// With so many members to ask in turn for the host, no more are learnt from others.
const TARGETS_MAX: usize = 16;
/// An answer is brought for at least this long after the invitation has ended.
const GRACE_MS: u64 = 900_000;

/// How far an answer has come.
#[derive(Clone, Debug)]
pub enum Joining {
    /// It is on its way; the last attempt failed for that reason, if it failed.
    Trying(Option<Refusal>),
    /// The chat runs here, or the host knows that the person declines.
    Done,
    /// It will never arrive, or was refused for good.
    Failed(Refusal),
}

/// Where to ask.
#[derive(Clone, PartialEq, Eq)]
struct Target {
    who: Who,
    address: String,
}

/// Whose key must answer there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Peer(PeerId),
    /// A link has no room for whole keys.
    Beginning(PeerHint),
}

/// Starts the task that brings the answer, unless it runs. Gives how far it is.
pub fn start(node: &Arc<Node>, chat: ChatId) -> watch::Receiver<Joining> {
    let mut running = lock(node);
    if let Some(shown) = running.get(&chat) {
        return shown.clone();
    }
    let (progress, shown) = watch::channel(Joining::Trying(None));
    running.insert(chat, shown.clone());
    drop(running);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let end = tokio::select! {
            end = bring(&node, chat, &progress) => end,
            () = node.stop.cancelled() => Joining::Failed(refusal::stopping()),
        };
        lock(&node).remove(&chat);
        progress.send_replace(end);
    });
    shown
}

/// The reason for which the last attempt failed, while it is being tried.
pub fn problem(node: &Node, chat: ChatId) -> Option<String> {
    let shown = lock(node).get(&chat)?.clone();
    match &*shown.borrow() {
        Joining::Trying(problem) => {
            problem.as_ref().map(|problem| problem.reason.name().to_owned())
        }
        Joining::Done | Joining::Failed(_) => None,
    }
}

fn lock(node: &Node) -> MutexGuard<'_, BTreeMap<ChatId, watch::Receiver<Joining>>> {
    node.joining.lock().expect("nothing panics while it holds this lock")
}

async fn bring(node: &Arc<Node>, chat: ChatId, progress: &watch::Sender<Joining>) -> Joining {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut attempt: Option<Attempt> = None;
    for turn in 0.. {
        // Looked up each time: the person may have thought better of it, or got a newer link.
        let changed = node.invite_changed.notified();
        let invite = node.lock_invites().answered(chat).cloned();
        let current = invite.and_then(|invite| Attempt::new(chat, invite));
        let Some(current) = current else {
            life::answer_over(node, chat, None).await;
            // Another task may have brought the answer just now.
            return match node.takes_part(chat) {
                true => Joining::Done,
                false => Joining::Failed(refusal::invite_not_found()),
            };
        };
        match life::answer(node, chat, current.answer.accept).await {
            Ok(Answering::Go) => {}
            Ok(Answering::Done) => return Joining::Done,
            Ok(Answering::Later) => {
                if timeout(backoff.pause(), changed).await.is_ok() {
                    backoff.reset();
                }
                continue;
            }
            Err(refusal) => return Joining::Failed(refusal),
        }
        let attempt = match &mut attempt {
            Some(attempt) if attempt.answer == current.answer => attempt,
            other => other.insert(current),
        };
        match attempt.make(node, turn).await {
            Ok(()) => return attempt.arrived(node).await,
            Err(Problem::Final(refusal)) => {
                if life::answer_over(node, chat, Some(attempt.answer.incarnation)).await {
                    continue; // there is another one by now
                }
                return Joining::Failed(refusal);
            }
            Err(Problem::NotYet) => {
                progress.send_replace(Joining::Trying(None));
            }
            Err(Problem::Passing(refusal)) => {
                tracing::debug!(reason = refusal.reason.name(), "an answer did not arrive");
                progress.send_replace(Joining::Trying(Some(refusal)));
            }
        }
        if now_ms() >= attempt.expires_at_ms.saturating_add(GRACE_MS) {
            break;
        }
        if timeout(backoff.pause(), changed).await.is_ok() {
            backoff.reset();
        }
    }
    let is_link = attempt.as_ref().is_some_and(|attempt| attempt.seed.is_some());
    let answer = attempt.map(|attempt| attempt.answer.incarnation);
    life::answer_over(node, chat, answer).await;
    Joining::Failed(match is_link {
        true => refusal::link_problem(crate::protocol::invite_link::InviteLinkProblem::Expired),
        false => refusal::invite_not_found(),
    })
}

/// Why an attempt failed.
pub enum Problem {
    /// The host is about to take the peer on; the next attempt hears of it.
    NotYet,
    /// Another attempt may succeed.
    Passing(Refusal),
    Final(Refusal),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Passing(refusal)
    }
}

/// What is being brought, and where it may be handed in.
pub struct Attempt {
    chat: ChatId,
    expires_at_ms: u64,
    answer: InviteAnswer,
    seed: Option<LinkSeed>,
    targets: Vec<Target>,
    /// The chat's generation (R30): that of the store which comes back, or else where the answer
    /// was handed in.
    generation: Generation,
    /// Whether there is such a store, which takes part in no other generation.
    comes_back: bool,
    /// Another generation than the store's that a member was met in.
    elsewhere: Option<Generation>,
}

impl Attempt {
    /// `None` where the person has not answered, or the text of a link of another version was kept.
    fn new(chat: ChatId, invite: IncomingInvite) -> Option<Self> {
        let answer = invite.answer?;
        let who = Who::Peer(invite.inviter);
        let mut targets = vec![Target { who, address: invite.inviter_address.clone() }];
        let mut seed = None;
        if !invite.link.is_empty() {
            let link = LinkText::parse(&invite.link).ok()?;
            seed = Some(LinkSeed(link.seed));
            let others = link.others.into_iter();
            targets.extend(
                others.map(|(hint, address)| Target { who: Who::Beginning(hint), address }),
            );
        }
        let expires_at_ms = invite.expires_at_ms;
        let (generation, comes_back, elsewhere) = (0, false, None);
        Some(Self { chat, expires_at_ms, answer, seed, targets, generation, comes_back, elsewhere })
    }

    /// Of a member that comes back in another incarnation (R9), through one of the others that take
    /// part in the same generation. That may be any one of them, so that all are asked.
    pub fn to_come_back(
        chat: ChatId,
        incarnation: Incarnation,
        generation: Generation,
        contacts: &[(PeerId, String)],
    ) -> Self {
        let target = |(peer, address): &(PeerId, String)| Target {
            who: Who::Peer(*peer),
            address: address.clone(),
        };
        let targets = contacts.iter().map(target).collect();
        let answer = InviteAnswer { accept: true, incarnation };
        let (expires_at_ms, seed, comes_back, elsewhere) = (u64::MAX, None, true, None);
        Self { chat, expires_at_ms, answer, seed, targets, generation, comes_back, elsewhere }
    }

    /// Another generation than the store's that a member was met in.
    pub fn elsewhere(&self) -> Option<Generation> {
        self.elsewhere
    }

    /// How many members there are to ask.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Asks one member for the host, and tells the host.
    pub async fn make(&mut self, node: &Node, turn: usize) -> Result<(), Problem> {
        let (connection, found) = self.ask(node, turn).await?;
        if !self.comes_back {
            self.generation = found.generation;
        } else if found.generation != self.generation {
            // R30: a join there would end this peer's place in a course that it has no part in.
            self.elsewhere = Some(found.generation);
            return Err(refusal::no_host().into());
        }
        for member in &found.members {
            self.learn(&member.peer_id, &member.address);
        }
        let host: PeerId = found.host_peer_id.parse().map_err(|_| refusal::no_host())?;
        self.learn(&found.host_peer_id, &found.host_address);
        if host == connection.peer {
            return self.join(node, &connection, found.incarnation).await;
        }
        let target = Target { who: Who::Peer(host), address: found.host_address };
        let connection = reach(node, &target).await?;
        self.join(node, &connection, 0).await
    }

    /// Asks one member who hosts and who belongs to the chat, in whatever generation.
    pub async fn ask(
        &mut self,
        node: &Node,
        turn: usize,
    ) -> Result<(Connection, pb::FindHostResponse), Problem> {
        let target = self.targets[turn % self.targets.len()].clone();
        let connection = reach(node, &target).await?;
        if let Who::Beginning(_) = target.who {
            self.learn(&connection.peer.to_string(), &target.address);
        }
        let found = self.find_host(node, &connection).await?;
        Ok((connection, found))
    }

    fn learn(&mut self, peer: &str, address: &str) {
        let Ok(peer) = peer.parse() else { return };
        let is_known = self.targets.iter().any(|target| target.who == Who::Peer(peer));
        if !is_known
            && check_address(address, "address").is_ok()
            && self.targets.len() < TARGETS_MAX
        {
            self.targets.push(Target { who: Who::Peer(peer), address: address.to_owned() });
        }
    }

    fn proof(&self, node: &Node) -> Option<InviteLinkProof> {
        let me = node.identity.peer_id();
        self.seed.as_ref().map(|seed| seed.prove(self.chat, me, self.answer.incarnation))
    }

    async fn find_host(
        &self,
        node: &Node,
        connection: &Connection,
    ) -> Result<pb::FindHostResponse, Problem> {
        let request = pb::FindHostRequest {
            chat_id: hex(&self.chat.0),
            incarnation: self.answer.incarnation,
            proof: self.proof(node).as_ref().map(to_proof),
        };
        connection.find_host(request).await.map_err(told)
    }

    async fn join(
        &self,
        node: &Node,
        connection: &Connection,
        to_incarnation: u64,
    ) -> Result<(), Problem> {
        let (name, address) = (node.name.clone(), node.address.clone());
        let (accept, incarnation) = (self.answer.accept, self.answer.incarnation);
        let proof = self.proof(node);
        let payload = Payload::Membership(if accept {
            Membership::Joined { name: name.clone(), address: address.clone(), proof }
        } else {
            Membership::Declined
        });
        let course = Course { chat: self.chat, generation: self.generation };
        let signed = signed_submission(course, node.identity.peer_id(), incarnation, 0, &payload);
        let join = Join {
            name,
            address,
            created_at_ms: now_ms(),
            decline: !accept,
            proof,
            signature: node.identity.sign(&signed),
            arrived_at_ms: 0,
        };
        let header = pb::Header {
            chat_id: hex(&self.chat.0),
            from_incarnation: incarnation,
            from_boot: 1,
            to_incarnation,
            generation: self.generation,
            words: Vec::new(),
        };
        let response = connection.join(to_join_request(Some(header), &join)).await.map_err(told)?;
        match from_join_response(response).map_err(refusal::invalid)? {
            (_, Body::JoinAnswer(answer)) if answer.accepted => Ok(()),
            (_, Body::JoinAnswer(_)) => Err(Problem::NotYet),
            // Where there is no invitation any more, there is nothing to decline.
            (_, Body::Refused(refused))
                if !accept && refused.reason == RefusedReason::NotMember =>
            {
                Ok(())
            }
            (_, Body::Refused(refused)) => Err(refused_by_host(refused.reason)),
            _ => Err(refusal::no_host().into()),
        }
    }

    /// The members that have been heard of.
    pub fn contacts(&self) -> Vec<(PeerId, String)> {
        let known = self.targets.iter().filter_map(|target| match target.who {
            Who::Peer(peer) => Some((peer, target.address.clone())),
            Who::Beginning(_) => None,
        });
        known.collect()
    }

    /// The host has it.
    async fn arrived(&self, node: &Arc<Node>) -> Joining {
        if !self.answer.accept {
            life::answer_over(node, self.chat, Some(self.answer.incarnation)).await;
            return Joining::Done;
        }
        let (incarnation, generation) = (self.answer.incarnation, self.generation);
        let taken = TakenOn { incarnation, generation, contacts: self.contacts() };
        match life::taken_on(node, self.chat, taken).await {
            Ok(()) => {
                tracing::info!(chat = ?self.chat, "this peer has joined a chat");
                Joining::Done
            }
            Err(error) => {
                tracing::error!(
                    reason = error.reason.name(),
                    "cannot keep a chat: see to the disk"
                );
                Joining::Failed(error)
            }
        }
    }
}

async fn reach(node: &Node, target: &Target) -> Result<Connection, Refusal> {
    let expected = match target.who {
        Who::Peer(peer) => Some(peer),
        Who::Beginning(_) => None,
    };
    let dialled = dial(&node.identity, &target.address, expected).await;
    let connection = dialled.and_then(|connection| match target.who {
        Who::Beginning(hint) if hint != PeerHint::of(&connection.peer) => {
            Err(DialError::WrongKey(connection.peer))
        }
        _ => Ok(connection),
    });
    connection.map_err(|error| refusal::address_unreachable(error.to_string()))
}

/// What another peer's error means. Its words are not passed on.
fn told(error: NotDone) -> Problem {
    if let Some(problem) = error.reason.and_then(refusal::link_problem_of) {
        return Problem::Final(refusal::link_problem(problem));
    }
    Problem::Passing(match error.reason {
        Some(Reason::NotMember) => return Problem::Final(refusal::removed_before()),
        Some(Reason::ChatNotFound) => refusal::invite_not_found(),
        _ if error.is_exhausted => refusal::too_often(),
        _ => refusal::address_unreachable("the peer there does not answer"),
    })
}

/// What the host's refusal means. Not all that it does not know has ended: an invitation arrives
/// before it is committed.
fn refused_by_host(reason: RefusedReason) -> Problem {
    match reason {
        RefusedReason::InviteLink(problem) => Problem::Final(refusal::link_problem(problem)),
        RefusedReason::ChatFull => Problem::Final(refusal::chat_full()),
        RefusedReason::Removed { .. } => Problem::Final(refusal::removed_before()),
        RefusedReason::NotMember => Problem::Passing(refusal::invite_not_found()),
        RefusedReason::StaleTerm
        | RefusedReason::NotHost { .. }
        | RefusedReason::OtherGeneration
        | RefusedReason::Outlived { .. }
        | RefusedReason::WrongIncarnation { .. } => Problem::Passing(refusal::no_host()),
    }
}
