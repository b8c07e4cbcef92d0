//! A peer that lies: it has the key and the store of an honest one, listens where that one did, and
//! answers every call as its script says.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use demes::crypto::tls;
use demes::protocol::types::{Entry, Hash};
use demes::wire::entry::to_entry;
use demes::wire::pb;
use demes::wire::pb::election_service_server::{ElectionService, ElectionServiceServer};
use demes::wire::pb::host_service_server::{HostService, HostServiceServer};
use demes::wire::pb::peer_service_server::{PeerService, PeerServiceServer};
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

use crate::peer::until;
use crate::raw::{Speaker, text};

/// Entries that follow a place in the log, and how far the host says that it has committed.
pub struct Frame {
    /// The index of the entry before them.
    pub after: u64,
    pub entries: Vec<Entry>,
    pub commit: u64,
}

/// What the liar shows as its log, made from what it really has.
pub type Script = fn(&Liar) -> Vec<Frame>;

/// A refusal with what is to bear it out.
pub type Refusal = (pb::Refused, Vec<pb::SignedChange>);

/// What it answers.
pub enum Lies {
    /// It passes on the log of the script, as a host and to one that wants to adopt it: there a
    /// frame each time, in turn.
    Log(Script),
    /// It refuses whatever it is asked, with each of these in turn.
    Refusals(Vec<Refusal>),
}

#[derive(Clone)]
pub struct Liar(pub Arc<Inner>);

pub struct Inner {
    pub speaker: Speaker,
    pub term: u64,
    pub lies: Lies,
    /// How often the log was asked for.
    pub attempts: AtomicUsize,
    /// How many calls it has refused.
    pub refused: AtomicUsize,
    sockets: Mutex<Vec<std::net::TcpStream>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Liar {
    pub fn new(speaker: Speaker, term: u64, lies: Lies) -> Self {
        let (attempts, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let sockets = Mutex::default();
        Self(Arc::new(Inner { speaker, term, lies, attempts, refused, sockets }))
    }

    /// Breaks all connections; who listens at the address next is another.
    pub fn hang_up(&self) {
        for socket in self.0.sockets.lock().expect("nothing panics in there").drain(..) {
            // It may have been closed by the other side.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Keeps a second hand on a connection.
    fn keep(&self, tcp: TcpStream) -> io::Result<TcpStream> {
        let socket = tcp.into_std()?;
        self.0.sockets.lock().expect("nothing panics in there").push(socket.try_clone()?);
        TcpStream::from_std(socket)
    }

    pub fn attempts(&self) -> usize {
        self.0.attempts.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> usize {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// The next refusal, with its header, if it refuses.
    fn refusal(&self) -> Option<(Option<pb::Header>, Option<pb::Refused>)> {
        let Lies::Refusals(refusals) = &self.0.lies else { return None };
        let turn = self.0.refused.fetch_add(1, Ordering::Relaxed);
        let (refused, words) = refusals[turn % refusals.len()].clone();
        let header = self.0.speaker.header().map(|header| pb::Header { words, ..header });
        Some((header, Some(refused)))
    }

    pub fn last(&self) -> &Entry {
        self.0.speaker.log.last().expect("there is a log")
    }

    pub fn entry(&self, index: u64) -> &Entry {
        let found = self.0.speaker.log.iter().find(|entry| entry.index == index);
        found.expect("the log has it")
    }

    /// The next message of the host's own person, as an honest host would append it.
    pub fn next(&self, before: &Entry, number: u64, words: &str) -> Entry {
        let mut entry = Entry {
            index: before.index + 1,
            term: self.0.term,
            author: self.0.speaker.identity.peer_id(),
            incarnation: self.0.speaker.incarnation,
            number,
            generation: 0,
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
    pub fn own_number(&self) -> u64 {
        let own = |entry: &&Arc<Entry>| entry.author == self.0.speaker.identity.peer_id();
        self.0.speaker.log.iter().filter(own).map(|entry| entry.number).max().unwrap_or(0)
    }

    /// An entry that continues the log in the name of another member who has said something.
    pub fn in_the_name_of_another(&self, number: u64, words: &str) -> Entry {
        let me = self.0.speaker.identity.peer_id();
        let theirs = |entry: &&Arc<Entry>| entry.author != me && entry.number > 0;
        let theirs = self.0.speaker.log.iter().find(theirs).expect("another has said something");
        let (author, incarnation) = (theirs.author, theirs.incarnation);
        let mut entry = Entry { author, incarnation, ..self.next(self.last(), number, words) };
        entry.hash = entry.computed_hash();
        entry
    }

    /// An entry of the log with other words in it.
    pub fn changed(&self, index: u64) -> Entry {
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
            last: None,
        };
        pb::ReplicateResponse {
            header: self.0.speaker.header(),
            term: self.0.term,
            attach,
            content: Some(pb::replicate_response::Content::Append(append)),
            mark: 0,
        }
    }

    fn fetched(&self, request: pb::FetchLogRequest) -> pb::FetchLogResponse {
        let Lies::Log(script) = &self.0.lies else {
            let (header, refused) = self.refusal().unwrap_or_default();
            return pb::FetchLogResponse { header, refused, ..Default::default() };
        };
        let mut frames = script(self);
        let turn = self.0.attempts.fetch_add(1, Ordering::Relaxed);
        let frame = frames.swap_remove(turn % frames.len());
        let position = |entry: &Entry| pb::Position { term: entry.term, index: entry.index };
        pb::FetchLogResponse {
            header: self.0.speaker.header(),
            term: self.0.term,
            fetch: request.fetch,
            previous: request.look,
            last: frame.entries.last().map(position),
            entries: frame.entries.iter().map(to_entry).collect(),
            ..Default::default()
        }
    }

    fn refused_attach(&self, attach: u64) -> Option<pb::ReplicateResponse> {
        let (header, refused) = self.refusal()?;
        let content = refused.map(pb::replicate_response::Content::Refused);
        Some(pb::ReplicateResponse { header, term: self.0.term, attach, content, mark: 0 })
    }

    /// Takes the honest peer's place at its address.
    pub async fn serve(self, address: &str) -> JoinHandle<()> {
        let bind = || async { TcpListener::bind(address).await.ok() };
        let listener = until("the address to be free", bind).await;
        let config = tls::server_config(&self.0.speaker.identity, Arc::new(|_| true));
        let (connections, incoming) = mpsc::channel(4);
        let acceptor = TlsAcceptor::from(config);
        let liar = self.clone();
        let services = Server::builder()
            .add_service(HostServiceServer::new(self.clone()))
            .add_service(PeerServiceServer::new(self.clone()))
            .add_service(ElectionServiceServer::new(self));
        tokio::spawn(async move {
            let accepting = async {
                while let Ok((tcp, _)) = listener.accept().await {
                    let tcp = liar.keep(tcp).expect("a socket has a second handle");
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
            let request = request?;
            if let Some((header, refused)) = liar.refusal() {
                return Ok(pb::SubmitResponse { header, refused, ..Default::default() });
            }
            let accepted = request.submissions.into_iter().map(|submission| {
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
        if let Lies::Refusals(_) = self.0.lies {
            return Ok(Response::new(Box::pin(tokio_stream::pending())));
        }
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
            let responses: Vec<_> = match &liar.0.lies {
                Lies::Log(script) => {
                    let frames = script(&liar);
                    frames.iter().map(|frame| Ok(liar.response(attach, frame))).collect()
                }
                Lies::Refusals(_) => liar.refused_attach(attach).into_iter().map(Ok).collect(),
            };
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
        let (header, refused) = self.refusal().unwrap_or_default();
        Ok(Response::new(pb::ReportDelaysResponse { header, refused }))
    }

    async fn goodbye(
        &self,
        _: Request<pb::GoodbyeRequest>,
    ) -> Result<Response<pb::GoodbyeResponse>, Status> {
        let (header, refused) = self.refusal().unwrap_or_default();
        Ok(Response::new(pb::GoodbyeResponse { header, refused }))
    }
}

#[tonic::async_trait]
impl PeerService for Liar {
    async fn invite(
        &self,
        _: Request<pb::InviteRequest>,
    ) -> Result<Response<pb::InviteResponse>, Status> {
        Err(Status::unimplemented("it does not say"))
    }

    async fn find_host(
        &self,
        _: Request<pb::FindHostRequest>,
    ) -> Result<Response<pb::FindHostResponse>, Status> {
        let Some((header, refused)) = self.refusal() else {
            return Err(Status::unimplemented("it does not say"));
        };
        let words = header.map(|header| header.words).unwrap_or_default();
        Ok(Response::new(pb::FindHostResponse { refused, words, ..Default::default() }))
    }

    async fn dial_back(
        &self,
        _: Request<pb::DialBackRequest>,
    ) -> Result<Response<pb::DialBackResponse>, Status> {
        Err(Status::unimplemented("it does not say"))
    }
}

/// Nothing to say but that it is there, or a refusal.
macro_rules! says_nothing {
    ($($call:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        #[allow(clippy::needless_update, reason = "some answers have nothing else")]
        impl ElectionService for Liar {
            async fn fetch_log(
                &self,
                request: Request<pb::FetchLogRequest>,
            ) -> Result<Response<pb::FetchLogResponse>, Status> {
                Ok(Response::new(self.fetched(request.into_inner())))
            }

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
                let Some((header, refused)) = self.refusal() else {
                    return Err(Status::unimplemented("it does not say"));
                };
                Ok(Response::new(pb::$response { header, refused, ..Default::default() }))
            })*
        }
    };
}

says_nothing! {
    nominate(NominateRequest) -> NominateResponse;
    solicit(SolicitRequest) -> SolicitResponse;
    request_vote(RequestVoteRequest) -> RequestVoteResponse;
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
