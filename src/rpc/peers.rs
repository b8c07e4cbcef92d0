//! This peer's own connections to the other members: one task and one connection for each.
//!
//! A connection that closes is dialled again at once; whether that is refused says that the other
//! process is gone (R14). No polling: the moment of the close is told by the connection itself. A
//! peer that cannot be reached is dialled with growing pauses, and again as soon as it dials us: it
//! counts only while both directions work (R25).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::dial::{self, Connection, DialError, MESSAGE_BYTES_MAX, Traced, secure};
use super::edge::is_genuine;
use crate::crypto::Identity;
use crate::protocol::event::LinkState;
use crate::protocol::message::{Attach, Body, Message};
use crate::protocol::types::{ChatId, PeerId, Term, TraceContext};
use crate::runtime::handle::{Contact, Handle};
use crate::telemetry::metrics::rejected;
use crate::wire::message as convert;
use crate::wire::message::Header;
use crate::wire::pb::election_service_client::ElectionServiceClient;
use crate::wire::pb::host_service_client::HostServiceClient;
use crate::wire::pb::peer_service_client::PeerServiceClient;
use crate::wire::{WireError, hex, pb};

const REDIAL_MIN: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// Where TCP has no answer by then, it is begun anew when the peer dials us; alone it would repeat
/// itself only seconds later.
const DIAL_SLOW: Duration = Duration::from_millis(500);
const PING_EVERY: Duration = Duration::from_secs(1);
/// Pings in quick succession when a connection is new (R12).
const PING_BURST: u32 = 3;
/// A call that has no answer by then is given up; a ping too, with its connection.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Submissions that wait for the connection; the protocol resends what finds no room.
const SUBMITS_MAX: usize = 256;

/// Keeps a connection to every peer of the roster until `stop`.
pub async fn keep_links(handle: Handle, identity: Arc<Identity>, stop: CancellationToken) {
    let mut roster = handle.roster();
    let mut links: BTreeMap<PeerId, (Contact, CancellationToken)> = BTreeMap::new();
    loop {
        let wanted = Arc::clone(&roster.borrow_and_update());
        links.retain(|peer, (contact, stop)| {
            let keep = wanted.get(peer).is_some_and(|wanted| {
                wanted.address == contact.address && Arc::ptr_eq(&wanted.outbox, &contact.outbox)
            });
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (&peer, contact) in wanted.iter() {
            links.entry(peer).or_insert_with(|| {
                let stop = stop.child_token();
                let link = Link {
                    handle: handle.clone(),
                    identity: Arc::clone(&identity),
                    peer,
                    contact: contact.clone(),
                };
                let stopped = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = link.run() => {}
                        () = stopped.cancelled() => {}
                    }
                });
                (contact.clone(), stop)
            });
        }
        tokio::select! {
            changed = roster.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// The connection to one peer.
struct Link {
    handle: Handle,
    identity: Arc<Identity>,
    peer: PeerId,
    contact: Contact,
}

impl Link {
    async fn run(self) {
        let mut told = None;
        let mut wait = REDIAL_MIN;
        loop {
            let state = match self.connect().await {
                Ok(connection) => {
                    wait = REDIAL_MIN;
                    self.contact.outbox.set_up(true);
                    self.handle.link(self.peer, LinkState::Up).await;
                    self.serve(&connection).await;
                    self.contact.outbox.set_up(false);
                    self.handle.link(self.peer, LinkState::Down).await;
                    told = Some(LinkState::Down);
                    // Dialled again at once: the answer says whether the process is gone.
                    continue;
                }
                Err(DialError::Refused) => LinkState::Refused,
                Err(error) => {
                    tracing::debug!(peer = ?self.peer, %error, "cannot connect");
                    LinkState::Down
                }
            };
            if told != Some(state) {
                told = Some(state);
                self.handle.link(self.peer, state).await;
            }
            wait = match timeout(jitter(wait), self.contact.outbox.until_dialled()).await {
                Ok(()) => REDIAL_MIN,
                Err(_) => (wait * 2).min(REDIAL_MAX),
            };
        }
    }

    /// A connection over which one call was answered.
    async fn connect(&self) -> Result<Connection, DialError> {
        let tcp = self.connect_tcp().await?;
        // What has come so far is left to end by itself: over a long link the peer's own dial
        // arrives in the midst of it, and two who began anew for that would never connect.
        let connection = secure(&self.identity, tcp, Some(self.peer)).await?;
        ping(&connection.channel).await.map_err(|status| DialError::Other(status.to_string()))?;
        Ok(connection)
    }

    async fn connect_tcp(&self) -> Result<TcpStream, DialError> {
        loop {
            let slow = async {
                tokio::time::sleep(DIAL_SLOW).await;
                self.contact.outbox.until_dialled().await;
            };
            tokio::select! {
                connected = dial::connect(&self.contact.address) => return connected,
                () = slow => {}
            }
        }
    }

    /// Works until the connection closes.
    async fn serve(&self, connection: &Connection) {
        let mut calls = Calls {
            handle: self.handle.clone(),
            peer: self.peer,
            channel: connection.channel.clone(),
            chats: HashMap::new(),
        };
        let sending = async {
            loop {
                for (chat, message, trace) in self.contact.outbox.drain().await {
                    calls.send(chat, message, trace);
                }
            }
        };
        tokio::select! {
            () = connection.closed.cancelled() => {}
            () = self.measure(&connection.channel) => {}
            () = sending => {}
        }
    }

    /// Pings, until one gets no answer.
    async fn measure(&self, channel: &Traced) {
        for count in 1_u32.. {
            let Ok(took) = ping(channel).await else { return };
            let rtt_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.handle.round_trip(self.peer, rtt_us).await;
            if count >= PING_BURST {
                tokio::time::sleep(PING_EVERY).await;
            }
        }
    }
}

/// How long a call takes there and back.
pub async fn ping(channel: &Traced) -> Result<Duration, Status> {
    let started = Instant::now();
    let mut client = ElectionServiceClient::new(channel.clone());
    timeout(CALL_MAX, client.ping(pb::PingRequest {}))
        .await
        .map_err(|_| Status::deadline_exceeded("no answer to a ping"))??;
    Ok(started.elapsed())
}

/// Three quarters to five quarters of `wait`, so that peers do not dial in step.
fn jitter(wait: Duration) -> Duration {
    let share = getrandom::u32().unwrap_or(0) % 512;
    wait * (768 + share) / 1_024
}

/// The calls over one connection. Dropping it ends them.
struct Calls {
    handle: Handle,
    peer: PeerId,
    channel: Traced,
    chats: HashMap<ChatId, ChatCalls>,
}

/// The long calls of one chat.
#[derive(Default)]
struct ChatCalls {
    replicate: Option<Running>,
    heartbeats: Option<(Term, Running)>,
    acknowledge: Option<(watch::Sender<pb::AcknowledgeRequest>, Running)>,
    submit: Option<(mpsc::Sender<pb::SubmitRequest>, Running)>,
}

/// A task that ends with its owner.
struct Running(JoinHandle<()>);

impl Running {
    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a task needs to hand in what it receives.
#[derive(Clone)]
struct Inward {
    handle: Handle,
    peer: PeerId,
    chat: ChatId,
}

impl Inward {
    /// Where the other members dial this peer; empty while the log does not say.
    fn own_address(&self) -> String {
        let chat = self.handle.chat(self.chat);
        let members = chat.map(|chat| Arc::clone(&chat.view.borrow().status.members));
        let me = members.as_ref().and_then(|members| members.get(&self.handle.me()));
        me.map_or_else(String::new, |me| me.address.clone())
    }

    /// Hands a parsed answer to the core; says whether the stream it came from may go on.
    async fn take(&self, parsed: Result<(Header, Body), WireError>) -> bool {
        let checked = parsed.and_then(|(header, body)| {
            header.check(&body)?;
            Ok((header, body))
        });
        let (header, body) = match checked {
            Ok(parsed) => parsed,
            Err(error) => {
                rejected("ANSWER_INVALID");
                tracing::warn!(peer = ?self.peer, %error, "dropped an answer that is not valid: \
                    that peer may run another version");
                return false;
            }
        };
        let goes_on = !matches!(body, Body::Refused(_));
        let message = header.message(self.peer, self.handle.me(), body);
        header.chat == self.chat
            && is_genuine(self.chat, &message)
            && self.handle.deliver(self.chat, message).await.is_ok()
            && goes_on
    }
}

impl Calls {
    fn host(&self) -> HostServiceClient<Traced> {
        HostServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn inward(&self, chat: ChatId) -> Inward {
        Inward { handle: self.handle.clone(), peer: self.peer, chat }
    }

    fn send(&mut self, chat: ChatId, message: Message, trace: TraceContext) {
        match &message.body {
            Body::Attach(attach) => {
                self.attach(chat, convert::to_header(chat, &message), attach);
            }
            Body::Acknowledge(acknowledge) => {
                let header = convert::to_header(chat, &message);
                self.acknowledge(chat, convert::to_acknowledge(header, acknowledge));
            }
            Body::Submit(submit) => {
                let header = convert::to_header(chat, &message);
                self.submit(chat, convert::to_submit_request(header, submit));
            }
            _ => {
                let channel = self.channel.clone().following(trace);
                let call = Single { channel, inward: self.inward(chat) };
                tokio::spawn(call.run(message));
            }
        }
    }

    /// Opens the stream of entries anew, and the one of heartbeats if it is not open in this term.
    fn attach(&mut self, chat: ChatId, header: Option<pb::Header>, attach: &Attach) {
        let (inward, mut host) = (self.inward(chat), self.host());
        let request = convert::to_replicate_request(header.clone(), attach);
        let replicate = async move {
            if let Ok(response) = host.replicate(request).await {
                let mut stream = response.into_inner();
                while let Ok(Some(response)) = stream.message().await
                    && inward.take(convert::from_replicate_response(response)).await
                {
                }
            }
            inward.handle.detached(inward.chat, inward.peer).await;
        };
        let (inward, mut host) = (self.inward(chat), self.host());
        let term = attach.term;
        let heartbeats = async move {
            let request = pb::HeartbeatsRequest { header, term };
            if let Ok(response) = host.heartbeats(request).await {
                let mut stream = response.into_inner();
                while let Ok(Some(response)) = stream.message().await
                    && inward.take(convert::from_heartbeat(response)).await
                {}
            }
            inward.handle.detached(inward.chat, inward.peer).await;
        };
        let calls = self.chats.entry(chat).or_default();
        let is_open = calls
            .heartbeats
            .as_ref()
            .is_some_and(|(open, running)| *open == term && !running.is_finished());
        if !is_open && !attach.relay {
            calls.heartbeats = Some((term, Running(tokio::spawn(heartbeats))));
        }
        calls.replicate = Some(Running(tokio::spawn(replicate)));
    }

    /// The newest acknowledgement replaces one that has not left yet.
    fn acknowledge(&mut self, chat: ChatId, request: pb::AcknowledgeRequest) {
        let (inward, mut host) = (self.inward(chat), self.host());
        let calls = self.chats.entry(chat).or_default();
        if let Some((newest, running)) = &calls.acknowledge
            && !running.is_finished()
        {
            newest.send_replace(request);
            return;
        }
        let (newest, requests) = watch::channel(request);
        let running = tokio::spawn(async move {
            if let Ok(response) = host.acknowledge(WatchStream::new(requests)).await {
                let response = response.into_inner();
                if let Some(refused) = response.refused {
                    let parsed = convert::from_header(response.header).and_then(|header| {
                        Ok((header, Body::Refused(convert::from_refused(&refused)?)))
                    });
                    inward.take(parsed).await;
                }
            }
        });
        calls.acknowledge = Some((newest, Running(running)));
    }

    fn submit(&mut self, chat: ChatId, request: pb::SubmitRequest) {
        let (inward, mut host) = (self.inward(chat), self.host());
        let calls = self.chats.entry(chat).or_default();
        if let Some((requests, running)) = &calls.submit
            && !running.is_finished()
        {
            // Without room it is lost, the next answer is a gap, and the core sends it again.
            let _ = requests.try_send(request);
            return;
        }
        let (requests, receiver) = mpsc::channel(SUBMITS_MAX);
        let _ = requests.try_send(request);
        let running = tokio::spawn(async move {
            if let Ok(response) = host.submit(ReceiverStream::new(receiver)).await {
                let mut stream = response.into_inner();
                while let Ok(Some(response)) = stream.message().await {
                    if !inward.take(convert::from_submit_response(response)).await {
                        return;
                    }
                }
            }
        });
        calls.submit = Some((requests, Running(running)));
    }
}

/// A call of one request and one answer.
struct Single {
    channel: Traced,
    inward: Inward,
}

impl Single {
    async fn run(self, message: Message) {
        match timeout(CALL_MAX, self.call(message)).await {
            Ok(Ok(Some(parsed))) => {
                self.inward.take(parsed).await;
            }
            Ok(Ok(None)) => {}
            Ok(Err(status)) => {
                tracing::debug!(peer = ?self.inward.peer, code = ?status.code(), "a call failed");
            }
            Err(_) => tracing::debug!(peer = ?self.inward.peer, "a call had no answer in time"),
        }
    }

    /// The parsed answer, if there is one.
    async fn call(
        &self,
        message: Message,
    ) -> Result<Option<Result<(Header, Body), WireError>>, Status> {
        let chat = self.inward.chat;
        let header = convert::to_header(chat, &message);
        let mut host = HostServiceClient::new(self.channel.clone());
        let mut election = ElectionServiceClient::new(self.channel.clone());
        let refused = |header: Option<pb::Header>, refused: Option<pb::Refused>| {
            refused.map(|refused| {
                let body = Body::Refused(convert::from_refused(&refused)?);
                Ok((convert::from_header(header)?, body))
            })
        };
        Ok(match &message.body {
            Body::Join(join) => {
                let request = convert::to_join_request(header, join);
                Some(convert::from_join_response(host.join(request).await?.into_inner()))
            }
            Body::ReportDelays(report) => {
                let request = convert::to_report_request(header, report);
                let response = host.report_delays(request).await?.into_inner();
                refused(response.header, response.refused)
            }
            Body::Goodbye => {
                let response = host.goodbye(pb::GoodbyeRequest { header }).await?.into_inner();
                refused(response.header, response.refused)
            }
            Body::Nominate(nominate) => {
                let request = convert::to_nominate_request(header, nominate);
                let response = election.nominate(request).await?.into_inner();
                Some(convert::from_nominate_response(response))
            }
            Body::Solicit(nominate) => {
                let address = self.inward.own_address();
                let request = convert::to_solicit_request(header, nominate);
                let request = pb::SolicitRequest { address, ..request };
                let response = election.solicit(request).await?.into_inner();
                Some(convert::from_solicit_response(response))
            }
            Body::RequestVote(request) => {
                let request = convert::to_vote_request(header, request);
                let response = election.request_vote(request).await?.into_inner();
                Some(convert::from_vote_response(response))
            }
            Body::FetchLog(fetch) => {
                let request = convert::to_fetch_log_request(header, fetch);
                let response = election.fetch_log(request).await?.into_inner();
                Some(convert::from_fetch_log_response(response))
            }
            Body::Withdraw(withdraw) => {
                let request = convert::to_withdraw_request(header, withdraw);
                let response = election.withdraw(request).await?.into_inner();
                refused(response.header, response.refused)
            }
            Body::Announce(announce) => {
                let address = self.inward.own_address();
                let request = pb::AnnounceRequest { header, term: announce.term, address };
                let response = election.announce(request).await?.into_inner();
                refused(response.header, response.refused)
            }
            Body::HandOver(hand_over) => {
                let hand_over = Some(convert::to_hand_over(hand_over));
                let request = pb::ElectionServiceHandOverRequest { header, hand_over };
                let response = election.hand_over(request).await?.into_inner();
                refused(response.header, response.refused)
            }
            Body::FindHost => Some(self.find_host().await?),
            // The rest are answers, which leave over the calls that they answer.
            _ => None,
        })
    }

    async fn find_host(&self) -> Result<Result<(Header, Body), WireError>, Status> {
        let chat = self.inward.chat;
        let incarnation = self.inward.handle.chat(chat).map_or(0, |chat| chat.incarnation);
        let request = pb::FindHostRequest { chat_id: hex(&chat.0), incarnation, proof: None };
        let mut client = PeerServiceClient::new(self.channel.clone());
        let response = client.find_host(request).await?.into_inner();
        let header = Header {
            chat,
            from_incarnation: response.incarnation,
            from_boot: 0,
            to_incarnation: 0,
            generation: response.generation,
        };
        Ok(convert::from_find_host_response(&response).map(|body| (header, body)))
    }
}
