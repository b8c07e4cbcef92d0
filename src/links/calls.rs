//! The calls over this peer's own connection to another one: a stream of each kind for all chats
//! that the two share, and single calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response, Status, Streaming};

use super::asking::CALL_MAX;
use super::dial::{MESSAGE_BYTES_MAX, Traced};
use super::edge::checked;
use crate::protocol::message::{Attach, Body, Message};
use crate::protocol::types::{ChatId, PeerId, TraceContext};
use crate::runtime::handle::Handle;
use crate::runtime::lanes::{LaneReader, Lanes, NO_CHAT, Piece, fitting};
use crate::runtime::pace::Pace;
use crate::telemetry::metrics::rejected;
use crate::wire::message as convert;
use crate::wire::message::Header;
use crate::wire::pb::election_service_client::ElectionServiceClient;
use crate::wire::pb::host_service_client::HostServiceClient;
use crate::wire::pb::peer_service_client::PeerServiceClient;
use crate::wire::{WireError, hex, pb};

/// Submissions of one chat that wait for the connection; the protocol resends what finds no room.
const SUBMITS_MAX: usize = 256;

/// The calls over one connection. Dropping it ends them.
pub struct Calls {
    inward: Inward,
    channel: Traced,
    replicate: Option<Shared<pb::ReplicateRequest>>,
    heartbeats: Option<Shared<pb::HeartbeatsRequest>>,
    acknowledge: Option<Shared<pb::AcknowledgeRequest>>,
    submit: Option<Shared<pb::SubmitRequest>>,
}

/// A stream that chats share, from its asking end. Its task ends with its owner.
struct Shared<T> {
    requests: Arc<Lanes<T>>,
    _running: AbortOnDropHandle<()>,
}

impl<T: Piece + Send + 'static> Shared<T> {
    /// Puts something into the stream; opens another one if it has ended.
    fn put(
        place: &mut Option<Self>,
        put: impl Fn(&Lanes<T>) -> bool,
        open: impl FnOnce(Requests<T>) -> AbortOnDropHandle<()>,
    ) {
        if let Some(Self { requests, .. }) = place
            && (put(requests) || !requests.is_closed())
        {
            return;
        }
        let requests = Arc::new(Lanes::default());
        put(&requests);
        let running = open(Requests(Arc::clone(&requests)));
        *place = Some(Self { requests, _running: running });
    }
}

/// What is asked over a stream. Nothing more is taken once its task has ended.
struct Requests<T>(Arc<Lanes<T>>);

impl<T: Piece + Send + 'static> Requests<T> {
    /// Each with its mark, where there is a pace.
    fn stream(&self, pace: Option<Arc<Pace>>) -> impl Stream<Item = (T, u64)> + Send + use<T> {
        let requests = LaneReader::new(Arc::clone(&self.0), pace);
        stream::unfold(requests, |requests| async move {
            let (_, request, mark) = requests.next().await?;
            Some(((request, mark), requests))
        })
    }

    fn unpaced(&self) -> impl Stream<Item = T> + Send + use<T> {
        self.stream(None).map(|(request, _)| request)
    }
}

impl<T> Drop for Requests<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What is asked is small, and stays whole.
macro_rules! whole {
    ($($request:ident)*) => {
        $(impl Piece for pb::$request {
            fn bytes(&self) -> usize {
                self.encoded_len()
            }

            fn split_off(&mut self, _: usize) -> Option<Self> {
                None
            }
        })*
    };
}

whole!(ReplicateRequest HeartbeatsRequest AcknowledgeRequest);

impl Piece for pb::SubmitRequest {
    fn bytes(&self) -> usize {
        self.encoded_len()
    }

    fn split_off(&mut self, bytes: usize) -> Option<Self> {
        let first = fitting(self.submissions.iter().map(pb::Submission::encoded_len), bytes);
        if first >= self.submissions.len() {
            return None;
        }
        let submissions = self.submissions.split_off(first);
        let (header, author) = (self.header.clone(), self.author.clone());
        Some(Self { header, term: self.term, submissions, author, mark: 0 })
    }
}

/// What a task needs to hand in what it receives.
#[derive(Clone)]
struct Inward {
    handle: Handle,
    peer: PeerId,
    /// The chats that the peer was asked about, and the newest attach of each. It may speak of no
    /// other ones.
    asked: Arc<Mutex<BTreeMap<ChatId, u64>>>,
}

/// What became of an answer.
enum Taken {
    /// The chat has it.
    Delivered,
    /// The chat's part of the stream has ended with it.
    Ended(ChatId),
    /// The stream can be trusted no more.
    Nonsense,
}

impl Inward {
    fn asked(&self) -> MutexGuard<'_, BTreeMap<ChatId, u64>> {
        self.asked.lock().expect("nothing panics while it holds this lock")
    }

    /// Hands a parsed answer to the core, if it is about a chat that the peer was asked about.
    async fn take(&self, chat: Option<ChatId>, parsed: Result<(Header, Body), WireError>) -> Taken {
        let Some(chat) = chat.filter(|chat| self.asked().contains_key(chat)) else {
            rejected("ANSWER_INVALID");
            return Taken::Nonsense;
        };
        let valid = parsed.and_then(|(header, body)| {
            header.check(&body)?;
            Ok((header, body))
        });
        let (header, body) = match valid {
            Ok(parsed) => parsed,
            Err(error) => {
                rejected("ANSWER_INVALID");
                tracing::warn!(peer = ?self.peer, %error, "dropped an answer that is not valid: \
                    that peer may run another version");
                return Taken::Ended(chat);
            }
        };
        let is_refusal = matches!(body, Body::Refused(_));
        let message = header.message(self.peer, self.handle.me(), body);
        let Some(message) = checked(chat, message).await else { return Taken::Ended(chat) };
        match self.handle.deliver(chat, message).await {
            Ok(()) if is_refusal => Taken::Ended(chat),
            Ok(()) => Taken::Delivered,
            Err(_) => Taken::Nonsense,
        }
    }

    /// Hands in the answers of a stream until it ends. Where it is one that chats follow, those
    /// whose part of it has ended are told.
    async fn take_all<T>(
        &self,
        opened: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
        read: impl Fn(T) -> Answer,
        follows: bool,
    ) {
        let mut answers = match opened.await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                tracing::debug!(peer = ?self.peer, code = ?status.code(), "a stream failed");
                return;
            }
        };
        while let Ok(Some(answer)) = answers.message().await {
            let taken = match read(answer) {
                Answer::Said(chat, parsed) => self.take(chat, parsed).await,
                Answer::Ended(Some(chat), attach) => {
                    // It may be about an attach that is none any more.
                    let newest = self.asked().get(&chat).copied();
                    match newest {
                        Some(newest) if attach == 0 || attach == newest => Taken::Ended(chat),
                        _ => Taken::Delivered,
                    }
                }
                Answer::Ended(None, _) => Taken::Nonsense,
                Answer::Receipt => Taken::Delivered,
            };
            match taken {
                Taken::Delivered => {}
                Taken::Ended(chat) if follows => self.handle.detached(chat, self.peer).await,
                Taken::Ended(_) => {}
                Taken::Nonsense => return,
            }
        }
    }

    /// Tells all chats that a stream which they follow has ended.
    async fn detach_all(&self) {
        let asked: Vec<_> = self.asked().iter().map(|(chat, attach)| (*chat, *attach)).collect();
        for (chat, _) in asked.into_iter().filter(|(_, attach)| *attach > 0) {
            self.handle.detached(chat, self.peer).await;
        }
    }
}

/// An answer of a stream, read.
#[allow(clippy::large_enum_variant, reason = "nearly all are of the largest kind")]
enum Answer {
    Said(Option<ChatId>, Result<(Header, Body), WireError>),
    Ended(Option<ChatId>, u64),
    /// Nothing but that something has arrived.
    Receipt,
}

impl Answer {
    fn read(
        header: Option<&pb::Header>,
        ended: Option<&pb::Ended>,
        attach: u64,
        parse: impl FnOnce() -> Result<(Header, Body), WireError>,
    ) -> Self {
        let chat = convert::chat_of(header);
        match ended {
            Some(ended) => {
                tracing::debug!(?chat, reason = ended.reason, "a chat's part of a stream ended");
                Self::Ended(chat, attach)
            }
            None => Self::Said(chat, parse()),
        }
    }
}

impl Calls {
    /// None yet.
    pub fn new(handle: &Handle, peer: PeerId, channel: Traced) -> Self {
        let inward = Inward { handle: handle.clone(), peer, asked: Arc::default() };
        let (replicate, heartbeats, acknowledge, submit) = (None, None, None, None);
        Self { inward, channel, replicate, heartbeats, acknowledge, submit }
    }

    /// Sends a message as its kind travels.
    pub fn send(&mut self, chat: ChatId, message: Message, trace: TraceContext) {
        let header = || convert::to_header(chat, &message);
        match &message.body {
            Body::Attach(attach) => self.attach(chat, header(), attach),
            Body::Acknowledge(acknowledge) => {
                self.acknowledge(chat, convert::to_acknowledge(header(), acknowledge));
            }
            Body::Submit(submit) => {
                self.submit(chat, convert::to_submit_request(header(), submit));
            }
            _ => {
                let channel = self.channel.clone().following(trace);
                self.inward.asked().entry(chat).or_default();
                let call = Single { channel, inward: self.inward.clone(), chat };
                tokio::spawn(call.run(message));
            }
        }
    }

    fn host(&self) -> HostServiceClient<Traced> {
        HostServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Asks for the entries, and for the heartbeats, of a chat.
    fn attach(&mut self, chat: ChatId, header: Option<pb::Header>, attach: &Attach) {
        let (inward, mut host) = (self.inward.clone(), self.host());
        inward.asked().insert(chat, attach.attach);
        if !attach.relay {
            let request = pb::HeartbeatsRequest { header: header.clone(), term: attach.term };
            self.ask_for_heartbeats(chat, request);
        }
        let request = convert::to_replicate_request(header, attach);
        let put = |requests: &Lanes<_>| requests.replace(chat, |_| request.clone());
        Shared::put(&mut self.replicate, put, |requests| {
            spawn(async move {
                let read = |response: pb::ReplicateResponse| {
                    use pb::replicate_response::Content;
                    if response.mark > 0 {
                        let received = response.mark;
                        let receipt = pb::ReplicateRequest { received, ..Default::default() };
                        requests.0.replace(NO_CHAT, |_| receipt);
                    }
                    let (header, attach) = (response.header.clone(), response.attach);
                    let ended = match &response.content {
                        Some(Content::Ended(ended)) => Some(ended.clone()),
                        _ => None,
                    };
                    let parse = || convert::from_replicate_response(response);
                    Answer::read(header.as_ref(), ended.as_ref(), attach, parse)
                };
                let stream = requests.unpaced();
                inward.take_all(host.replicate(stream), read, true).await;
                drop(requests);
                inward.detach_all().await;
            })
        });
    }

    fn ask_for_heartbeats(&mut self, chat: ChatId, request: pb::HeartbeatsRequest) {
        let (inward, mut host) = (self.inward.clone(), self.host());
        let put = |requests: &Lanes<_>| requests.replace(chat, |_| request.clone());
        Shared::put(&mut self.heartbeats, put, |requests| {
            spawn(async move {
                let read = |response: pb::HeartbeatsResponse| {
                    let (header, ended) = (response.header.clone(), response.ended.clone());
                    let parse = || convert::from_heartbeat(response);
                    Answer::read(header.as_ref(), ended.as_ref(), 0, parse)
                };
                let stream = requests.unpaced();
                inward.take_all(host.heartbeats(stream), read, true).await;
                drop(requests);
                inward.detach_all().await;
            })
        });
    }

    /// The newest acknowledgement replaces one that has not left yet.
    fn acknowledge(&mut self, chat: ChatId, request: pb::AcknowledgeRequest) {
        let (inward, mut host) = (self.inward.clone(), self.host());
        inward.asked().entry(chat).or_default();
        let put = |requests: &Lanes<_>| requests.replace(chat, |_| request.clone());
        Shared::put(&mut self.acknowledge, put, |requests| {
            spawn(async move {
                let read = |response: pb::AcknowledgeResponse| {
                    let (header, ended) = (response.header.clone(), response.ended.clone());
                    let parse = || convert::from_acknowledge_response(response);
                    Answer::read(header.as_ref(), ended.as_ref(), 0, parse)
                };
                let stream = requests.unpaced();
                inward.take_all(host.acknowledge(stream), read, false).await;
            })
        });
    }

    fn submit(&mut self, chat: ChatId, request: pb::SubmitRequest) {
        let (inward, mut host) = (self.inward.clone(), self.host());
        inward.asked().entry(chat).or_default();
        // Without room it is lost, the next answer is a gap, and the core sends it again.
        let put = |requests: &Lanes<_>| requests.push(chat, request.clone(), SUBMITS_MAX);
        Shared::put(&mut self.submit, put, |requests| {
            spawn(async move {
                let pace = Arc::new(Pace::default());
                let read = |response: pb::SubmitResponse| {
                    if response.received > 0 {
                        pace.has_arrived(Instant::now(), response.received);
                        return Answer::Receipt;
                    }
                    let (header, ended) = (response.header.clone(), response.ended.clone());
                    let parse = || convert::from_submit_response(response);
                    Answer::read(header.as_ref(), ended.as_ref(), 0, parse)
                };
                let stream = requests.stream(Some(Arc::clone(&pace)));
                let stream = stream.map(|(request, mark)| pb::SubmitRequest { mark, ..request });
                inward.take_all(host.submit(stream), read, false).await;
            })
        });
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// A call of one request and one answer.
struct Single {
    channel: Traced,
    inward: Inward,
    chat: ChatId,
}

impl Single {
    async fn run(self, message: Message) {
        match timeout(CALL_MAX, self.call(message)).await {
            Ok(Ok(Some(parsed))) => {
                self.inward.take(Some(self.chat), parsed).await;
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
        let chat = self.chat;
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
                let request = convert::to_solicit_request(header, nominate);
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
                let request = convert::to_announce_request(header, announce);
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
        let chat = self.chat;
        let incarnation = self.inward.handle.chat(chat).map_or(0, |chat| chat.incarnation);
        let request = pb::FindHostRequest { chat_id: hex(&chat.0), incarnation, proof: None };
        let mut client = PeerServiceClient::new(self.channel.clone());
        let response = client.find_host(request).await?.into_inner();
        Ok(convert::from_find_host_response(chat, response))
    }
}
