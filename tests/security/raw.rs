//! What an attacker brings: keys of its own, or those of a member that it has taken over.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use demes::crypto::{Identity, tls};
use demes::protocol::sign::signed_submission;
use demes::protocol::types::{ChatId, Course, Entry, Payload, Submission};
use demes::storage::DataDir;
use demes::wire::{entry, pb};
use hyper_util::rt::TokioIo;
use pb::election_service_client::ElectionServiceClient;
use pb::host_service_client::HostServiceClient;
use pb::peer_service_client::PeerServiceClient;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::service_fn;

use crate::peer::{LUNCH, Peer, until};

/// A TLS connection with these keys.
pub async fn shake_hands(
    config: Arc<ClientConfig>,
    address: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(tls::SERVER_NAME).expect("a valid name");
    TlsConnector::from(config).connect(name, tcp).await
}

/// The same for gRPC.
pub async fn channel(config: Arc<ClientConfig>, address: &str) -> io::Result<Channel> {
    let stream = Arc::new(Mutex::new(Some(shake_hands(config, address).await?)));
    let connector = service_fn(move |_| {
        let stream = stream.lock().expect("nothing panics in there").take();
        async move { stream.map(TokioIo::new).ok_or(io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let endpoint = Endpoint::from_static("http://peer.demes").timeout(Duration::from_secs(20));
    endpoint.connect_with_connector(connector).await.map_err(io::Error::other)
}

/// Calls to one peer's listener for peers.
#[derive(Clone)]
pub struct Calls {
    pub host: HostServiceClient<Channel>,
    pub election: ElectionServiceClient<Channel>,
    pub peer: PeerServiceClient<Channel>,
}

impl Calls {
    /// Connects to `address` as `identity`.
    pub async fn to(identity: &Identity, address: &str) -> Self {
        let config = tls::client_config(identity, None);
        Self::over(channel(config, address).await.expect("the handshake succeeds"))
    }

    pub fn over(channel: Channel) -> Self {
        let host = HostServiceClient::new(channel.clone()).max_encoding_message_size(64 << 20);
        let election = ElectionServiceClient::new(channel.clone());
        Self { host, election, peer: PeerServiceClient::new(channel) }
    }

    /// The first answer to one request on a `Submit` stream.
    pub async fn submit(
        &mut self,
        request: pb::SubmitRequest,
    ) -> Result<pb::SubmitResponse, Status> {
        let answers = self.host.submit(tokio_stream::once(request)).await?;
        let first = first_of(answers.into_inner()).await?;
        unless_ended(first.ended.clone(), first)
    }

    /// The first answer to a `Replicate` request.
    pub async fn replicate(
        &mut self,
        request: pb::ReplicateRequest,
    ) -> Result<pb::ReplicateResponse, Status> {
        let answers = self.host.replicate(tokio_stream::once(request)).await?;
        let first = first_of(answers.into_inner()).await?;
        let ended = match &first.content {
            Some(pb::replicate_response::Content::Ended(ended)) => Some(ended.clone()),
            _ => None,
        };
        unless_ended(ended, first)
    }

    /// The first answer to a `Heartbeats` request.
    pub async fn heartbeats(
        &mut self,
        request: pb::HeartbeatsRequest,
    ) -> Result<pb::HeartbeatsResponse, Status> {
        let answers = self.host.heartbeats(tokio_stream::once(request)).await?;
        let first = first_of(answers.into_inner()).await?;
        unless_ended(first.ended.clone(), first)
    }

    /// The first answer to an acknowledgement, which is a refusal.
    pub async fn acknowledge(
        &mut self,
        request: pb::AcknowledgeRequest,
    ) -> Result<pb::AcknowledgeResponse, Status> {
        let requests = tokio_stream::once(request);
        let requests = tokio_stream::StreamExt::chain(requests, tokio_stream::pending());
        let answers = self.host.acknowledge(requests).await?;
        let first = first_of(answers.into_inner()).await?;
        unless_ended(first.ended.clone(), first)
    }
}

async fn first_of<T>(mut answers: Streaming<T>) -> Result<T, Status> {
    answers.message().await?.ok_or_else(|| Status::unknown("the stream ended"))
}

/// The answer, or the error that an end with this reason would be for a call of its own.
fn unless_ended<T>(ended: Option<pb::Ended>, answer: T) -> Result<T, Status> {
    let Some(ended) = ended else { return Ok(answer) };
    let code = match ended.reason.as_str() {
        "NOT_GENUINE" | "NOT_MEMBER" => Code::PermissionDenied,
        "REQUEST_INVALID" => Code::InvalidArgument,
        "CHAT_NOT_FOUND" => Code::NotFound,
        "RATE_LIMITED" => Code::ResourceExhausted,
        _ => Code::Unknown,
    };
    let details = ErrorDetails::with_error_info(ended.reason, "demes", HashMap::new());
    Err(Status::with_error_details(code, "the chat's part of the stream has ended", details))
}

/// Who speaks: a key, an incarnation, and the chat that it is about.
pub struct Speaker {
    pub identity: Identity,
    pub incarnation: u64,
    pub boot: u64,
    pub chat: ChatId,
    /// The log as the store had it, where a member was taken over.
    pub log: Vec<Arc<Entry>>,
    pub dir: Option<TempDir>,
}

impl Speaker {
    /// Somebody new, who knows the chat's id.
    pub fn stranger(chat: &pb::Chat) -> Self {
        let chat = chat.chat_id.parse().expect("an id");
        let identity = Identity::generate().expect("a key");
        Self { identity, incarnation: 7, boot: 1, chat, log: Vec::new(), dir: None }
    }

    /// Whoever has a key and knows an incarnation.
    pub fn of(identity: Identity, incarnation: u64, chat: ChatId) -> Self {
        Self { identity, incarnation, boot: 1, chat, log: Vec::new(), dir: None }
    }

    /// Whoever has copied the key and the store of `peer`, which runs no more.
    pub async fn in_place_of(mut peer: Peer) -> Self {
        let chat = peer.chat(LUNCH).await.expect("the chat is here").chat_id;
        let chat: ChatId = chat.parse().expect("an id");
        drop(peer.running.take());
        let speaker = Self::from_store(peer.dir.path(), chat).await;
        Self { dir: Some(peer.dir), ..speaker }
    }

    /// The same for the one of four that has no vote, and the others.
    pub async fn learner_of(peers: [Peer; 4]) -> (Vec<Peer>, Self) {
        let chat = peers[0].lunch().await;
        let learner = chat.members.iter().find(|member| !member.voter).expect("one of four");
        let is_learner = |peer: &Peer| peer.id() == learner.peer_id;
        let (mut taken, honest): (Vec<_>, Vec<_>) = peers.into_iter().partition(is_learner);
        let taken = taken.pop().expect("it is one of them");
        (honest, Self::in_place_of(taken).await)
    }

    /// The same from the data directory of a peer that has ended.
    pub async fn from_store(path: &Path, chat: ChatId) -> Self {
        let identity = Identity::load_or_create(path).expect("its key");
        // A store is free once the last task of its peer has ended.
        let open = || async { DataDir::open(path).ok()?.open_chat(chat).ok() };
        let (_store, recovered) = until("the store to be free", open).await;
        let (incarnation, boot) = (recovered.incarnation, recovered.boot);
        Self { identity, incarnation, boot, chat, log: recovered.entries, dir: None }
    }

    /// The incarnation in which a peer that runs takes part, as its own key is told.
    pub async fn incarnation_of(peer: &Peer) -> u64 {
        let identity = Identity::load_or_create(peer.dir.path()).expect("its key");
        let mut calls = Calls::to(&identity, &peer.address()).await;
        let chat_id = peer.lunch().await.chat_id;
        let request = pb::FindHostRequest { chat_id, ..Default::default() };
        let found = calls.peer.find_host(request).await.expect("its own peer tells it");
        found.into_inner().incarnation
    }

    pub fn header(&self) -> Option<pb::Header> {
        Some(pb::Header {
            chat_id: self.chat.to_string(),
            from_incarnation: self.incarnation,
            from_boot: self.boot,
            to_incarnation: 0,
            generation: 0,
            words: Vec::new(),
        })
    }

    /// The right signature.
    pub fn sign(&self, number: u64, payload: &Payload) -> [u8; 64] {
        let me = self.identity.peer_id();
        let signed =
            signed_submission(Course::founded(self.chat), me, self.incarnation, number, payload);
        self.identity.sign(&signed)
    }

    /// A request with one submission.
    pub fn submission(
        &self,
        term: u64,
        number: u64,
        payload: Payload,
        signature: Option<[u8; 64]>,
    ) -> pb::SubmitRequest {
        let submission = Submission { number, created_at_ms: 1, trace: None, payload, signature };
        let submissions = vec![entry::to_submission(&submission)];
        pb::SubmitRequest { header: self.header(), term, submissions, author: None, mark: 0 }
    }
}

/// A message's payload.
pub fn text(words: &str) -> Payload {
    Payload::Message { request_id: String::new(), sealed: demes::crypto::seal::seal(words) }
}
