//! A host that lies: it has the key and the store of an honest one, and sends what it likes. The
//! member that is attached to it stops where the lie can be proven, with its own log as the proof,
//! and takes no harm from the rest.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use demes::crypto::tls;
use demes::protocol::types::{Entry, Hash, Payload};
use demes::wire::entry::to_entry;
use demes::wire::pb;
use demes::wire::pb::election_service_server::{ElectionService, ElectionServiceServer};
use demes::wire::pb::host_service_server::{HostService, HostServiceServer};
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::{IntervalStream, ReceiverStream};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::peer::{LUNCH, Peer, lunch_of, until};
use crate::raw::{Speaker, text};

/// Entries that follow a place in the log, and how far the host says that it has committed.
struct Frame {
    /// The index of the entry before them.
    after: u64,
    entries: Vec<Entry>,
    commit: u64,
}

/// What the liar sends, made from what it really has.
type Script = fn(&Liar) -> Vec<Frame>;

#[derive(Clone)]
struct Liar(Arc<Inner>);

struct Inner {
    speaker: Speaker,
    term: u64,
    script: Script,
    /// How often the log was asked for.
    attempts: AtomicUsize,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Liar {
    fn last(&self) -> &Entry {
        self.0.speaker.log.last().expect("there is a log")
    }

    fn entry(&self, index: u64) -> &Entry {
        let found = self.0.speaker.log.iter().find(|entry| entry.index == index);
        found.expect("the log has it")
    }

    /// The next message of the host's own person, as an honest host would append it.
    fn next(&self, before: &Entry, number: u64, words: &str) -> Entry {
        let mut entry = Entry {
            index: before.index + 1,
            term: self.0.term,
            author: self.0.speaker.identity.peer_id(),
            session: self.0.speaker.incarnation,
            number,
            created_at_ms: 1,
            trace: None,
            payload: text(words),
            signature: None,
            previous: before.hash,
            hash: Hash::default(),
        };
        entry.hash = entry.computed_hash();
        entry
    }

    /// The log's last message of the host's own person.
    fn own_number(&self) -> u64 {
        let own = |entry: &&Arc<Entry>| entry.author == self.0.speaker.identity.peer_id();
        self.0.speaker.log.iter().filter(own).map(|entry| entry.number).max().unwrap_or(0)
    }

    /// An entry of the log with other words in it.
    fn changed(&self, index: u64) -> Entry {
        let mut entry = self.entry(index).clone();
        entry.payload = text("never said");
        entry.signature = None;
        entry.hash = entry.computed_hash();
        entry
    }

    fn response(&self, attach: u64, frame: &Frame) -> pb::ReplicateResponse {
        let before = self.0.speaker.log.iter().find(|entry| entry.index == frame.after);
        let term = before.map_or(self.0.term, |entry| entry.term);
        let append = pb::Append {
            previous: Some(pb::Position { term, index: frame.after }),
            entries: frame.entries.iter().map(to_entry).collect(),
            commit: frame.commit,
            past: None,
            reign: None,
        };
        pb::ReplicateResponse {
            header: self.0.speaker.header(),
            term: self.0.term,
            attach,
            content: Some(pb::replicate_response::Content::Append(append)),
            mark: 0,
        }
    }

    /// Takes the honest host's place at its address.
    async fn serve(self, address: &str) -> JoinHandle<()> {
        let bind = || async { TcpListener::bind(address).await.ok() };
        let listener = until("the address to be free", bind).await;
        let config = tls::server_config(&self.0.speaker.identity, Arc::new(|_| true));
        let (connections, incoming) = mpsc::channel(4);
        let acceptor = TlsAcceptor::from(config);
        let services = Server::builder()
            .add_service(HostServiceServer::new(self.clone()))
            .add_service(ElectionServiceServer::new(self));
        tokio::spawn(async move {
            let accepting = async {
                while let Ok((tcp, _)) = listener.accept().await {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        let _ = connections.send(io::Result::Ok(Connection(tls))).await;
                    }
                }
            };
            tokio::select! {
                () = accepting => {}
                served = services.serve_with_incoming(ReceiverStream::new(incoming)) => {
                    served.expect("it serves");
                }
            }
        })
    }
}

#[tonic::async_trait]
impl HostService for Liar {
    async fn join(
        &self,
        _: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        Err(Status::unimplemented("not a lie"))
    }

    type SubmitStream = Answers<pb::SubmitResponse>;

    /// Says that all is in the log and committed, and puts nothing there.
    async fn submit(
        &self,
        request: Request<Streaming<pb::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStream>, Status> {
        let liar = self.clone();
        let answers = request.into_inner().map(move |request| {
            let accepted = request?.submissions.into_iter().map(|submission| {
                let (index, term) = (liar.last().index + 1, liar.0.term);
                pb::AcceptedSubmission { number: submission.number, index, term, committed: true }
            });
            Ok(pb::SubmitResponse {
                header: liar.0.speaker.header(),
                term: liar.0.term,
                accepted: accepted.collect(),
                ..Default::default()
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type HeartbeatsStream = Answers<pb::HeartbeatsResponse>;

    async fn heartbeats(
        &self,
        _: Request<Streaming<pb::HeartbeatsRequest>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let (liar, mut number) = (self.clone(), 1_000);
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(50)));
        let beats = ticks.map(move |_| {
            number += 1;
            Ok(pb::HeartbeatsResponse {
                header: liar.0.speaker.header(),
                term: liar.0.term,
                number,
                interval_us: 50_000,
                commit: liar.last().index,
                ..Default::default()
            })
        });
        Ok(Response::new(Box::pin(beats)))
    }

    type ReplicateStream = Answers<pb::ReplicateResponse>;

    async fn replicate(
        &self,
        request: Request<Streaming<pb::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let liar = self.clone();
        let responses = request.into_inner().flat_map(move |request| {
            let attach = request.map_or(0, |request| request.attach);
            liar.0.attempts.fetch_add(1, Ordering::Relaxed);
            let frames = (liar.0.script)(&liar);
            let responses: Vec<_> =
                frames.iter().map(|frame| Ok(liar.response(attach, frame))).collect();
            tokio_stream::iter(responses)
        });
        Ok(Response::new(Box::pin(responses)))
    }

    type AcknowledgeStream = Answers<pb::AcknowledgeResponse>;

    async fn acknowledge(
        &self,
        request: Request<Streaming<pb::AcknowledgeRequest>>,
    ) -> Result<Response<Self::AcknowledgeStream>, Status> {
        let heard = request.into_inner().filter_map(|request| async { request.err().map(Err) });
        Ok(Response::new(Box::pin(heard)))
    }

    async fn report_delays(
        &self,
        _: Request<pb::ReportDelaysRequest>,
    ) -> Result<Response<pb::ReportDelaysResponse>, Status> {
        Ok(Response::new(pb::ReportDelaysResponse::default()))
    }

    async fn goodbye(
        &self,
        _: Request<pb::GoodbyeRequest>,
    ) -> Result<Response<pb::GoodbyeResponse>, Status> {
        Ok(Response::new(pb::GoodbyeResponse::default()))
    }
}

/// Nothing to say but that it is there.
macro_rules! says_nothing {
    ($($call:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl ElectionService for Liar {
            async fn ping(
                &self,
                _: Request<pb::PingRequest>,
            ) -> Result<Response<pb::PingResponse>, Status> {
                Ok(Response::new(pb::PingResponse {}))
            }
            $(async fn $call(
                &self,
                _: Request<pb::$request>,
            ) -> Result<Response<pb::$response>, Status> {
                Err(Status::unimplemented("it does not say"))
            })*
        }
    };
}

says_nothing! {
    nominate(NominateRequest) -> NominateResponse;
    solicit(SolicitRequest) -> SolicitResponse;
    request_vote(RequestVoteRequest) -> RequestVoteResponse;
    fetch_log(FetchLogRequest) -> FetchLogResponse;
    withdraw(WithdrawRequest) -> WithdrawResponse;
    announce(AnnounceRequest) -> AnnounceResponse;
    hand_over(ElectionServiceHandOverRequest) -> ElectionServiceHandOverResponse;
}

struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Ben, whose host Ann has turned into a liar after both had said something; a chat of his own,
/// and the liar.
async fn lied_to(script: Script) -> (Peer, JoinHandle<()>) {
    let (ann, ben) = (Peer::start("Ann").await, Peer::start("Ben").await);
    lunch_of(&[&ann, &ben], 2).await;
    ben.create("diary", Vec::new()).await.expect("a chat");
    ben.says(LUNCH, "one").await;
    ann.says(LUNCH, "two").await;
    let last = ann.lunch().await.committed;
    let seen = ben.sees("both texts", |chat| chat.committed >= last).await;
    let address = ann.address();
    assert_eq!(seen.host_peer_id, ann.id());
    let speaker = Speaker::in_place_of(ann).await;
    let liar =
        Liar(Arc::new(Inner { speaker, term: seen.term, script, attempts: AtomicUsize::new(0) }));
    (ben, liar.serve(&address).await)
}

/// Ben notices, says so, keeps what he has, and goes on elsewhere.
async fn is_found_out(script: Script, fault: &str) {
    let (ben, liar) = lied_to(script).await;
    let chat = ben.sees("the lie", |chat| !chat.fault.is_empty()).await;
    assert!(chat.fault.contains(fault), "{}", chat.fault);
    assert_eq!(ben.texts().await, ["one", "two"], "his own log is the proof");
    ben.says("diary", "she lies").await;
    liar.abort();
}

/// Ben is told `texts` in the end, and nothing is wrong.
async fn does_no_harm(script: Script, texts: &[&str]) {
    let (ben, liar) = lied_to(script).await;
    let look = || async { (ben.texts().await == texts).then_some(()) };
    until("what is true in the end", look).await;
    assert_eq!(ben.lunch().await.fault, "");
    ben.says("diary", "all is well").await;
    assert_eq!(ben.texts().await, texts);
    liar.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_chain_is_found_out() {
    let script: Script = |liar| {
        let mut entry = liar.next(liar.last(), liar.own_number() + 1, "never said");
        entry.previous = Hash([7; 32]);
        entry.hash = entry.computed_hash();
        let last = liar.last().index;
        vec![Frame { after: last, entries: vec![entry], commit: last + 1 }]
    };
    is_found_out(script, "chain of hashes is broken").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_entry_where_one_is_committed_is_found_out() {
    let script: Script = |liar| {
        let last = liar.last().index;
        vec![Frame { after: last - 1, entries: vec![liar.changed(last)], commit: last }]
    };
    is_found_out(script, "different entries in one term").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_history_that_conflicts_is_found_out() {
    let script: Script = |liar| {
        let last = liar.last().index;
        let mut entry = liar.changed(last);
        entry.term -= 1;
        entry.hash = entry.computed_hash();
        vec![Frame { after: last - 1, entries: vec![entry], commit: last }]
    };
    is_found_out(script, "conflicts with what is committed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_put_into_the_log_twice_is_found_out() {
    let script: Script = |liar| {
        let last = liar.last();
        let again = liar.next(last, liar.own_number(), "two");
        vec![Frame { after: last.index, entries: vec![again], commit: last.index + 1 }]
    };
    is_found_out(script, "a second time").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_hash_or_signature_is_dropped() {
    let script: Script = |liar| {
        let (last, number) = (liar.last(), liar.own_number() + 1);
        let mut wrong_hash = liar.next(last, number, "never said");
        wrong_hash.hash = Hash([9; 32]);
        let mut unsigned = liar.next(last, number, "");
        let name = demes::protocol::types::Policy { chat_name: "hers".to_owned() };
        unsigned.payload = Payload::Policy(name);
        unsigned.hash = unsigned.computed_hash();
        // What is true comes only after both lies have been told.
        let first = match liar.0.attempts.load(Ordering::Relaxed) {
            1 => wrong_hash,
            2 => unsigned,
            _ => liar.next(last, number, "three"),
        };
        vec![Frame { after: last.index, entries: vec![first], commit: last.index + 1 }]
    };
    does_no_harm(script, &["one", "two", "three"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_twice_or_out_of_order_is_told_once_and_in_order() {
    let script: Script = |liar| {
        let last = liar.last();
        let three = liar.next(last, liar.own_number() + 1, "three");
        let four = liar.next(&three, liar.own_number() + 2, "four");
        let (before, index) = (last.index - 1, last.index);
        let frame = |after, entries: &[&Entry], commit| Frame {
            after,
            entries: entries.iter().map(|entry| (*entry).clone()).collect(),
            commit,
        };
        vec![
            frame(before, &[last], index),
            frame(index, &[&four], index + 2),
            frame(index, &[&three], index + 1),
            frame(index, &[&three], index + 1),
            frame(index, &[&three, &four], index + 2),
            frame(before, &[last, &three], index + 1),
            frame(index, &[&four, &three], u64::MAX),
        ]
    };
    does_no_harm(script, &["one", "two", "three", "four"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_host_drops_is_never_called_confirmed() {
    let script: Script = |liar| {
        let last = liar.last().index;
        vec![Frame { after: last, entries: Vec::new(), commit: last }]
    };
    let (ben, liar) = lied_to(script).await;
    ben.sees("a host", |chat| chat.serving).await;
    let mut request = Request::new(pb::SendMessageRequest {
        chat: LUNCH.to_owned(),
        text: "dropped".to_owned(),
        request_id: "dropped".to_owned(),
        wait: pb::Wait::Committed.into(),
    });
    request.set_timeout(Duration::from_secs(2));
    let told = ben.client.clone().send_message(request).await;
    crate::peer::assert_refused(told, tonic::Code::DeadlineExceeded, "NO_MAJORITY");
    assert_eq!((ben.lunch().await.queued, ben.texts().await.len()), (1, 2));
    liar.abort();
}
