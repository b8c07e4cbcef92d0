//! HostService: what members ask of the chat's host. The calls are handed to the loop as messages;
//! the streams are fed by it.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use super::inbound::Inbound;
use super::node::links_now_ms;
use super::status::{chat_not_found, internal, invalid, unable, until_stopped};
use crate::protocol::message::{Body, Message};
use crate::protocol::types::ChatId;
use crate::runtime::handle::Answer;
use crate::runtime::outbox::HeartbeatSlot;
use crate::telemetry::{call_span, child_of};
use crate::wire::message as convert;
use crate::wire::pb;
use crate::wire::pb::host_service_server::HostService;

/// Entries on their way to one member, counted in messages. A stream that is full is ended, and the
/// member attaches again.
const REPLICATE_MAX: usize = 1_024;
/// Requests of one `Submit` stream that wait for their answers; more wait in the connection.
const SUBMITS_MAX: usize = 64;
/// The call's name in traces.
const SUBMIT: &str = "demes.v1.HostService/Submit";

/// A `Submit` request that has been handed in, and what is traced of it until it is answered.
type HandedIn = (ChatId, oneshot::Receiver<Answer>, Vec<Span>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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
        let mut requests = request.into_inner();
        let (waiting, answers) = mpsc::channel::<Result<HandedIn, Status>>(SUBMITS_MAX);
        let inbound = self.clone();
        tokio::spawn(async move {
            // Requests go in as they come; their answers are awaited in the same order beside it.
            while let Ok(Some(request)) = requests.message().await {
                let parsed = convert::from_submit_request(request);
                let handed_in = match inbound.message(&caller, parsed) {
                    Ok((chat, mut message)) => {
                        let spans = trace_submissions(&message);
                        message.call = inbound.handle.next_call();
                        let handed_in = inbound.handle.deliver_call(chat, message).await;
                        handed_in.map(|answer| (chat, answer, spans)).map_err(unable)
                    }
                    Err(status) => Err(status),
                };
                let failed = handed_in.is_err();
                if waiting.send(handed_in).await.is_err() || failed {
                    return;
                }
            }
        });
        let answers = ReceiverStream::new(answers).then(|handed_in| async {
            let (chat, answer, spans) = handed_in?;
            let answer = answer.await;
            if answer.is_ok() {
                for span in spans {
                    span.record("rpc.response.status_code", "OK");
                }
            }
            match answer {
                Ok(Answer::Message(message)) => convert::to_submit_response(chat, &message)
                    .ok_or_else(|| internal("the answer is of another kind")),
                Ok(Answer::Empty) | Err(_) => Err(chat_not_found()),
            }
        });
        Ok(Response::new(until_stopped(answers, self.stop.clone())))
    }

    type HeartbeatsStream = Answers<pb::HeartbeatsResponse>;

    async fn heartbeats(
        &self,
        request: Request<pb::HeartbeatsRequest>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let caller = self.caller(&request)?;
        self.count(&caller)?;
        let from = caller.peer;
        let header = convert::from_header(request.into_inner().header).map_err(invalid)?;
        let chat = header.chat;
        if !self.is_member(chat, from)? {
            return Err(super::status::not_member());
        }
        let slot = Arc::new(HeartbeatSlot::default());
        self.handle.heartbeats(chat, from, Arc::clone(&slot)).await.map_err(unable)?;
        let beats = stream::unfold(slot, move |slot| async move {
            let message = slot.next().await?;
            let response =
                convert::to_heartbeat(chat, &message).ok_or_else(|| internal("not a heartbeat"));
            Some((response, slot))
        });
        Ok(Response::new(until_stopped(beats, self.stop.clone())))
    }

    type ReplicateStream = Answers<pb::ReplicateResponse>;

    async fn replicate(
        &self,
        request: Request<pb::ReplicateRequest>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let caller = self.caller(&request)?;
        let parsed = convert::from_replicate_request(request.into_inner());
        let (chat, attach) = self.message(&caller, parsed)?;
        let (sender, receiver) = mpsc::channel(REPLICATE_MAX);
        let refused = self.handle.replicate(chat, attach, sender).await.map_err(unable)?;
        // A refusal comes as the answer to the attach, and ends the stream.
        let responses =
            stream::unfold((receiver, Some(refused)), move |(mut entries, refused)| async move {
                let (message, refused) = next_of_log(&mut entries, refused).await?;
                let response = convert::to_replicate_response(chat, &message)
                    .ok_or_else(|| internal("not a part of the log"));
                Some((response, (entries, refused)))
            });
        Ok(Response::new(until_stopped(responses, self.stop.clone())))
    }

    async fn acknowledge(
        &self,
        request: Request<Streaming<pb::AcknowledgeRequest>>,
    ) -> Result<Response<pb::AcknowledgeResponse>, Status> {
        let caller = self.caller(&request)?;
        let mut requests = request.into_inner();
        // One call for the whole stream: its only answer is a refusal, which ends it.
        let call = self.handle.next_call();
        let mut refused: Option<(ChatId, oneshot::Receiver<Answer>)> = None;
        loop {
            let next = match &mut refused {
                Some((chat, answer)) => tokio::select! {
                    biased;
                    Ok(Answer::Message(message)) = answer => {
                        let header = convert::to_header(*chat, &message);
                        let Body::Refused(refused) = message.body else { continue };
                        let refused = Some(convert::to_refused(&refused));
                        return Ok(Response::new(pb::AcknowledgeResponse { header, refused }));
                    }
                    next = requests.message() => next?,
                    () = self.stop.cancelled() => None,
                },
                None => requests.message().await?,
            };
            let Some(request) = next else {
                return Ok(Response::new(pb::AcknowledgeResponse::default()));
            };
            let (chat, mut message) = self.message(&caller, convert::from_acknowledge(request))?;
            message.call = call;
            match &refused {
                Some(_) => self.handle.deliver(chat, message).await.map_err(unable)?,
                None => {
                    let answer = self.handle.deliver_call(chat, message).await;
                    refused = Some((chat, answer.map_err(unable)?));
                }
            }
        }
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

/// The next message of a `Replicate` stream, and where its refusal would come from.
async fn next_of_log(
    entries: &mut mpsc::Receiver<Message>,
    mut refused: Option<oneshot::Receiver<Answer>>,
) -> Option<(Message, Option<oneshot::Receiver<Answer>>)> {
    loop {
        let Some(answer) = &mut refused else { return Some((entries.recv().await?, None)) };
        tokio::select! {
            biased;
            message = entries.recv() => return Some((message?, refused)),
            answer = answer => match answer {
                Ok(Answer::Message(message)) => {
                    entries.close();
                    return Some((message, None));
                }
                Ok(Answer::Empty) | Err(_) => refused = None,
            }
        }
    }
}
