//! HostService: what members ask of the chat's host. The calls are handed to the loop as messages;
//! the streams are fed by it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body as HttpBody;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;
use tracing::Span;

use super::inbound::Inbound;
use super::status::until_stopped;
use super::streams::{Answers, Unfit, carry, ended_header, to_ended};
use crate::faces::visit::Visitor;
use crate::links::dial::MESSAGE_BYTES_MAX;
use crate::peer::gate::Caller;
use crate::peer::node::links_now_ms;
use crate::peer::refusal::{internal, invalid, not_member, unable};
use crate::planted::{Mistake, planted};
use crate::protocol::message::{Body, Message};
use crate::protocol::types::ChatId;
use crate::runtime::handle::{Answer, Unable};
use crate::runtime::lanes::{Lane, LaneReader, Lanes, Outgoing};
use crate::runtime::pace::Pace;
use crate::telemetry::{call_span, child_of};
use crate::wire::message as convert;
use crate::wire::pb;
use crate::wire::pb::host_service_server::{HostService, HostServiceServer};
use crate::wire::reason::Reason;

/// Requests of one chat on a `Submit` stream that wait for their answers; the next is not taken.
const SUBMITS_MAX: usize = 64;
/// Answers of a `Submit` stream that wait for the connection.
const ANSWERS_MAX: usize = 64;
/// The call's name in traces.
const SUBMIT: &str = "demes.v1.HostService/Submit";

/// The path of the one call whose requests are large.
const SUBMIT_PATH: &str = "/demes.v1.HostService/Submit";

/// R44: the service, where only members may submit more than `small` bytes at once. The length
/// stands before a message and is checked before room is made for it.
#[derive(Clone)]
pub struct HostDoor {
    inbound: Inbound,
    small: HostServiceServer<Inbound>,
    large: HostServiceServer<Inbound>,
}

impl HostDoor {
    pub fn new(inbound: &Inbound, small: usize) -> Self {
        let sized = |most| {
            HostServiceServer::new(inbound.clone())
                .max_decoding_message_size(most)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
        let (small, large) = (sized(small), sized(MESSAGE_BYTES_MAX));
        Self { inbound: inbound.clone(), small, large }
    }
}

impl NamedService for HostDoor {
    const NAME: &'static str = HostServiceServer::<Inbound>::NAME;
}

impl Service<http::Request<HttpBody>> for HostDoor {
    type Response = http::Response<HttpBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<HttpBody>) -> Self::Future {
        let caller = request.extensions().get::<Visitor>().and_then(|it| it.caller.as_ref());
        let is_large = request.uri().path() == SUBMIT_PATH
            && caller.is_some_and(|caller| {
                self.inbound.knows(&caller.peer) || planted(Mistake::StrangersSayMuch)
            });
        match is_large {
            true => self.large.call(request),
            false => self.small.call(request),
        }
    }
}

#[tonic::async_trait]
impl HostService for Inbound {
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let caller = self.caller(&request)?;
        let (header, mut body) =
            convert::from_join_request(request.into_inner()).map_err(invalid)?;
        if let Body::Join(join) = &mut body {
            join.arrived_at_ms = links_now_ms();
        }
        self.answered(&caller, Ok((header, body)), convert::to_join_response).await
    }

    type SubmitStream = Answers<pb::SubmitResponse>;

    async fn submit(
        &self,
        request: Request<Streaming<pb::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStream>, Status> {
        let caller = self.caller(&request)?;
        let place = caller.bucket.submit().ok_or_else(|| unable(Unable::Busy))?;
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        let requests = request.into_inner();
        let (inbound, waiting) = (self.clone(), HashMap::new());
        let submitting = Submitting { inbound, caller, waiting, _place: place };
        // It ends when nobody takes its answers any more.
        tokio::spawn(submitting.run(requests, answers));
        Ok(Response::new(until_stopped(ReceiverStream::new(receiver), self.stop.clone())))
    }

    type HeartbeatsStream = Answers<pb::HeartbeatsResponse>;

    async fn heartbeats(
        &self,
        request: Request<Streaming<pb::HeartbeatsRequest>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let caller = self.caller(&request)?;
        let mut requests = request.into_inner();
        let lanes = Arc::new(Lanes::default());
        let (inbound, filled) = (self.clone(), Arc::clone(&lanes));
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(request) = requests.message().await? {
                inbound.count(&caller)?;
                let header = convert::from_header(request.header).map_err(invalid)?;
                let asked = inbound.is_member(header.chat, caller.peer);
                match asked.and_then(|member| member.then_some(()).ok_or_else(not_member)) {
                    Ok(()) => {
                        let lane = Lane::new(&filled, header.chat, 0);
                        let handed_in = inbound.handle.heartbeats(header.chat, caller.peer, lane);
                        handed_in.await.map_err(unable)?;
                    }
                    Err(refusal) => Unfit::new(Some(header.chat), refusal).tell(&filled, 0)?,
                }
            }
            filled.finish();
            Ok(())
        }));
        let beats =
            carry(LaneReader::new(lanes, None), reading, |chat, outgoing, _| match outgoing {
                Outgoing::Message(message) => convert::to_heartbeat(chat, &message)
                    .ok_or_else(|| internal("not a heartbeat").into()),
                Outgoing::Ended { reason, .. } => Ok(pb::HeartbeatsResponse {
                    header: ended_header(chat),
                    ended: to_ended(reason),
                    ..Default::default()
                }),
            });
        Ok(Response::new(until_stopped(beats, self.stop.clone())))
    }

    type ReplicateStream = Answers<pb::ReplicateResponse>;

    async fn replicate(
        &self,
        request: Request<Streaming<pb::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        use pb::replicate_response::Content;
        let caller = self.caller(&request)?;
        let mut requests = request.into_inner();
        let lanes = Arc::new(Lanes::default());
        let (inbound, filled) = (self.clone(), Arc::clone(&lanes));
        let pace = Arc::new(Pace::default());
        let paced = Arc::clone(&pace);
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(request) = requests.message().await? {
                if request.header.is_none() && request.received > 0 {
                    inbound.count(&caller)?;
                    paced.has_arrived(Instant::now(), request.received);
                    continue;
                }
                let (chat, attach) = (convert::chat_of(request.header.as_ref()), request.attach);
                let parsed = convert::from_replicate_request(request);
                match inbound.stream_message(&caller, chat, parsed).await {
                    Ok((chat, message)) => {
                        let lane = Lane::new(&filled, chat, attach);
                        let handed_in = inbound.handle.replicate(chat, message, lane);
                        handed_in.await.map_err(unable)?;
                    }
                    Err(unfit) => unfit.tell(&filled, attach)?,
                }
            }
            filled.finish();
            Ok(())
        }));
        let lanes = LaneReader::new(lanes, Some(pace));
        let pieces = carry(lanes, reading, |chat, outgoing, mark| match outgoing {
            // A refusal comes as the answer to the attach.
            Outgoing::Message(message) => convert::to_replicate_response(chat, &message)
                .map(|response| pb::ReplicateResponse { mark, ..response })
                .ok_or_else(|| internal("not a part of the log").into()),
            Outgoing::Ended { reason, attach } => Ok(pb::ReplicateResponse {
                header: ended_header(chat),
                attach,
                mark,
                content: to_ended(reason).map(Content::Ended),
                ..Default::default()
            }),
        });
        Ok(Response::new(until_stopped(pieces, self.stop.clone())))
    }

    type AcknowledgeStream = Answers<pb::AcknowledgeResponse>;

    async fn acknowledge(
        &self,
        request: Request<Streaming<pb::AcknowledgeRequest>>,
    ) -> Result<Response<Self::AcknowledgeStream>, Status> {
        let caller = self.caller(&request)?;
        let mut requests = request.into_inner();
        let lanes = Arc::new(Lanes::default());
        let (inbound, filled) = (self.clone(), Arc::clone(&lanes));
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            // One call of each chat for the whole stream: its only answer is a refusal.
            let mut calls: HashMap<ChatId, (u64, Arc<Lane>)> = HashMap::new();
            while let Some(request) = requests.message().await? {
                let chat = convert::chat_of(request.header.as_ref());
                let parsed = convert::from_acknowledge(request);
                let (chat, mut message) = match inbound.stream_message(&caller, chat, parsed).await
                {
                    Ok(parsed) => parsed,
                    Err(unfit) => {
                        unfit.tell(&filled, 0)?;
                        continue;
                    }
                };
                let known = calls.get(&chat).filter(|(_, lane)| !lane.is_over());
                let handed_in = match known {
                    Some((call, _)) => {
                        message.call = *call;
                        inbound.handle.deliver(chat, message).await
                    }
                    None => {
                        message.call = inbound.handle.next_call();
                        let lane = Lane::new(&filled, chat, 0);
                        calls.insert(chat, (message.call, Arc::clone(&lane)));
                        inbound.handle.deliver_for(chat, message, &lane).await
                    }
                };
                handed_in.map_err(unable)?;
            }
            filled.close();
            Ok(())
        }));
        let lanes = LaneReader::new(lanes, None);
        let refusals = carry(lanes, reading, |chat, outgoing, _| match outgoing {
            Outgoing::Message(message) => {
                let Body::Refused(refused) = &message.body else {
                    return Err(internal("not a refusal").into());
                };
                let refused = Some(convert::to_refused(refused));
                let header = convert::to_header(chat, &message);
                Ok(pb::AcknowledgeResponse { header, refused, ended: None })
            }
            Outgoing::Ended { reason, .. } => Ok(pb::AcknowledgeResponse {
                header: ended_header(chat),
                refused: None,
                ended: to_ended(reason),
            }),
        });
        Ok(Response::new(until_stopped(refusals, self.stop.clone())))
    }

    async fn report_delays(
        &self,
        request: Request<pb::ReportDelaysRequest>,
    ) -> Result<Response<pb::ReportDelaysResponse>, Status> {
        let (header, refused) = self.notice(request, convert::from_report_request).await?;
        Ok(Response::new(pb::ReportDelaysResponse { header, refused }))
    }

    async fn goodbye(
        &self,
        request: Request<pb::GoodbyeRequest>,
    ) -> Result<Response<pb::GoodbyeResponse>, Status> {
        let parse = |request: pb::GoodbyeRequest| {
            Ok((convert::from_header(request.header)?, Body::Goodbye))
        };
        let (header, refused) = self.notice(request, parse).await?;
        Ok(Response::new(pb::GoodbyeResponse { header, refused }))
    }
}

/// The request as each traced submission in it sees it, in the trace of the call that made that.
fn trace_submissions(message: &Message) -> Vec<Span> {
    let Body::Submit(submit) = &message.body else { return Vec::new() };
    let traces = submit.submissions.iter().map(|submission| submission.trace);
    let spans = traces.map(|trace| child_of(trace, || call_span(SUBMIT, "server")));
    spans.filter(|span| !span.is_none()).collect()
}

/// What a `Submit` stream has handed in and waits for.
struct Submitting {
    inbound: Inbound,
    caller: Caller,
    /// How many requests of each chat.
    waiting: HashMap<ChatId, usize>,
    _place: OwnedSemaphorePermit,
}

type Answered = (ChatId, Result<pb::SubmitResponse, Status>);

impl Submitting {
    /// Requests go in as they come, and answers leave as they come: a chat that does not answer
    /// holds up no other one.
    async fn run(
        mut self,
        mut requests: Streaming<pb::SubmitRequest>,
        answers: mpsc::Sender<Result<pb::SubmitResponse, Status>>,
    ) {
        let mut under_way: FuturesUnordered<BoxFuture<'static, Answered>> = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !under_way.is_empty() {
            let answer = tokio::select! {
                request = requests.message(), if is_open => match request {
                    Ok(Some(request)) => {
                        let received = request.mark;
                        if received > 0 {
                            let response = pb::SubmitResponse { received, ..Default::default() };
                            if answers.send(Ok(response)).await.is_err() {
                                return;
                            }
                        }
                        match self.hand_in(request).await {
                            Ok(answer) => {
                                under_way.push(answer);
                                continue;
                            }
                            Err(answer) => *answer,
                        }
                    }
                    Ok(None) => {
                        is_open = false;
                        continue;
                    }
                    Err(status) => Err(status),
                },
                Some((chat, answer)) = under_way.next() => {
                    let count = self.waiting.entry(chat).or_default();
                    *count = count.saturating_sub(1);
                    answer
                }
                () = answers.closed() => return,
            };
            let failed = answer.is_err();
            if answers.send(answer).await.is_err() || failed {
                return;
            }
        }
    }

    /// Gives a request to its chat; the error is its answer already.
    async fn hand_in(
        &mut self,
        request: pb::SubmitRequest,
    ) -> Result<BoxFuture<'static, Answered>, Box<Result<pb::SubmitResponse, Status>>> {
        let (chat, term) = (convert::chat_of(request.header.as_ref()), request.term);
        let parsed = convert::from_submit_request(request);
        let admitted = self.inbound.stream_message(&self.caller, chat, parsed).await;
        let (chat, mut message) = admitted.map_err(|unfit| {
            Box::new(match unfit {
                Unfit::Chat { chat, reason } => Ok(pb::SubmitResponse {
                    header: ended_header(chat),
                    term,
                    ended: to_ended(reason),
                    ..Default::default()
                }),
                Unfit::Stream(refusal) => Err(refusal.into()),
            })
        })?;
        let count = self.waiting.entry(chat).or_default();
        if *count >= SUBMITS_MAX {
            // What is not taken leaves a gap, and its author sends it again.
            return Err(Box::new(Ok(pb::SubmitResponse {
                header: ended_header(chat),
                term,
                problem: pb::SubmitProblem::NotServing.into(),
                ..Default::default()
            })));
        }
        *count += 1;
        let spans = trace_submissions(&message);
        message.call = self.inbound.handle.next_call();
        let answer = self.inbound.handle.deliver_call(chat, message).await;
        let answer = answer.map_err(|error| Box::new(Err(unable(error).into())))?;
        Ok(answered(chat, answer, spans).boxed())
    }
}

/// The answer to a `Submit` request, once the chat has it.
async fn answered(chat: ChatId, answer: oneshot::Receiver<Answer>, spans: Vec<Span>) -> Answered {
    let answer = answer.await;
    if answer.is_ok() {
        for span in spans {
            span.record("rpc.response.status_code", "OK");
        }
    }
    let answer = match answer {
        Ok(Answer::Message(message)) => convert::to_submit_response(chat, &message)
            .ok_or_else(|| internal("the answer is of another kind").into()),
        Ok(Answer::Empty) | Err(_) => Ok(pb::SubmitResponse {
            header: ended_header(chat),
            ended: to_ended(Reason::ChatNotFound.name()),
            ..Default::default()
        }),
    };
    (chat, answer)
}
