//! A peer that says what the test wants, and the commands run on it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use demes::wire::feed::{FeedFrame, encode_event};
use demes::wire::pb;
use pb::client_service_server::{ClientService, ClientServiceServer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub const LIMIT: Duration = Duration::from_secs(20);
pub const CHAT_ID: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";

type Reply<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A peer with one chat, "club", of Ana and Ben.
pub struct FakePeer {
    /// Whether a majority is reachable.
    pub majority: bool,
    /// Whether streams never begin.
    pub hangs: bool,
    /// Whether a call that waits for a majority waits on.
    pub waits: bool,
    pub messages: Mutex<Vec<pb::Event>>,
    pub live: broadcast::Sender<pb::Event>,
}

impl FakePeer {
    pub fn new(majority: bool) -> Self {
        let (live, _) = broadcast::channel(16);
        let messages = Mutex::new(vec![message(7, "hello", "")]);
        Self { majority, hangs: false, waits: false, messages, live }
    }

    pub async fn start(majority: bool) -> SocketAddr {
        Self::start_as(Self::new(majority)).await
    }

    pub async fn start_as(peer: Self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = tonic::transport::Server::builder()
            .add_service(ClientServiceServer::from_arc(Arc::new(peer)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }

    pub fn chat(&self) -> pb::Chat {
        let member = |digit: &str, name: &str| pb::Member {
            peer_id: digit.repeat(64),
            name: name.into(),
            voter: true,
            state: pb::MemberState::Active.into(),
            reachable: self.majority,
            ..pb::Member::default()
        };
        pb::Chat {
            chat_id: CHAT_ID.into(),
            name: "club".into(),
            role: pb::Role::Follower.into(),
            term: 2,
            host_peer_id: if self.majority { "b".repeat(64) } else { String::new() },
            serving: self.majority,
            voters_in_contact: if self.majority { 2 } else { 1 },
            majority: 2,
            members: vec![member("a", "Ana"), member("b", "Ben")],
            committed: 7,
            last: 7,
            ..pb::Chat::default()
        }
    }

    fn find(&self, chat: &str) -> Result<pb::Chat, Status> {
        if chat == "club" || CHAT_ID.starts_with(chat) {
            return Ok(self.chat());
        }
        Err(refusal(Code::NotFound, "CHAT_NOT_FOUND", "there is no such chat"))
    }
}

pub fn refusal(code: Code, reason: &str, text: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "demes", std::collections::HashMap::new());
    Status::with_error_details(code, text, details)
}

pub fn message(sequence: u64, text: &str, request_id: &str) -> pb::Event {
    pb::Event {
        chat_id: CHAT_ID.into(),
        sequence,
        author_peer_id: "b".repeat(64),
        author_name: "Ben".into(),
        kind: Some(pb::event::Kind::Message(pb::MessageEvent {
            text: text.into(),
            request_id: request_id.into(),
        })),
        ..pb::Event::default()
    }
}

macro_rules! unimplemented_calls {
    ($($name:ident: $request:ident => $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl ClientService for FakePeer {
            $(async fn $name(&self, _: Request<pb::$request>) -> Reply<pb::$response> {
                Err(Status::unimplemented("not in this test"))
            })*

            async fn get_peer(
                &self,
                _: Request<pb::GetPeerRequest>,
            ) -> Reply<pb::GetPeerResponse> {
                let peer_id = "a".repeat(64);
                Ok(Response::new(pb::GetPeerResponse { peer_id, ..Default::default() }))
            }

            async fn list_chats(
                &self,
                _: Request<pb::ListChatsRequest>,
            ) -> Reply<pb::ListChatsResponse> {
                Ok(Response::new(pb::ListChatsResponse { chats: vec![self.chat()] }))
            }

            async fn get_chat(
                &self,
                request: Request<pb::GetChatRequest>,
            ) -> Reply<pb::GetChatResponse> {
                let chat = self.find(&request.get_ref().chat)?;
                Ok(Response::new(pb::GetChatResponse { chat: Some(chat) }))
            }

            async fn send_message(
                &self,
                request: Request<pb::SendMessageRequest>,
            ) -> Reply<pb::SendMessageResponse> {
                let request = request.into_inner();
                self.find(&request.chat)?;
                if self.waits && request.wait() == pb::Wait::Committed {
                    std::future::pending::<()>().await;
                }
                if !self.majority && request.wait() == pb::Wait::Committed {
                    return Err(refusal(Code::Unavailable, "NO_MAJORITY", "too few are online"));
                }
                let mut sequence = 0;
                if self.majority {
                    let mut messages = self.messages.lock().expect("no panic");
                    sequence = 7 + messages.len() as u64;
                    let event = message(sequence, &request.text, &request.request_id);
                    messages.push(event.clone());
                    let _ = self.live.send(event);
                }
                let state = match self.majority {
                    true => pb::MessageState::Committed,
                    false => pb::MessageState::Queued,
                };
                Ok(Response::new(pb::SendMessageResponse {
                    chat_id: CHAT_ID.into(),
                    request_id: request.request_id,
                    state: state.into(),
                    sequence,
                }))
            }

            async fn list_messages(
                &self,
                _: Request<pb::ListMessagesRequest>,
            ) -> Reply<pb::ListMessagesResponse> {
                let messages = self.messages.lock().expect("no panic").clone();
                let next_page_token = String::new();
                Ok(Response::new(pb::ListMessagesResponse { messages, next_page_token }))
            }

            type FeedStream = Replies<FeedFrame>;
            async fn feed(&self, _: Request<pb::FeedRequest>) -> Reply<Self::FeedStream> {
                if self.hangs {
                    std::future::pending::<()>().await;
                }
                let live = BroadcastStream::new(self.live.subscribe());
                let stream = live.map(|event| match event {
                    Ok(event) => {
                        let mut frame = FeedFrame::default();
                        frame.push(encode_event(&event));
                        Ok(frame)
                    }
                    Err(_) => Err(Status::data_loss("the test is too slow")),
                });
                Ok(Response::new(Box::pin(stream)))
            }

            type WatchChatStream = Replies<pb::WatchChatResponse>;
            async fn watch_chat(
                &self,
                _: Request<pb::WatchChatRequest>,
            ) -> Reply<Self::WatchChatStream> {
                let first = pb::WatchChatResponse { chat: Some(self.chat()) };
                let stream = tokio_stream::iter([Ok(first)]).chain(tokio_stream::pending());
                Ok(Response::new(Box::pin(stream)))
            }

            type CheckMembersStream = Replies<pb::CheckMembersResponse>;
            async fn check_members(
                &self,
                _: Request<pb::CheckMembersRequest>,
            ) -> Reply<Self::CheckMembersStream> {
                Err(Status::unimplemented("not in this test"))
            }
        }
    };
}

unimplemented_calls! {
    create_chat: CreateChatRequest => CreateChatResponse,
    update_chat: UpdateChatRequest => UpdateChatResponse,
    invite_member: InviteMemberRequest => InviteMemberResponse,
    create_invite_link: CreateInviteLinkRequest => CreateInviteLinkResponse,
    revoke_invite: RevokeInviteRequest => RevokeInviteResponse,
    list_invites: ListInvitesRequest => ListInvitesResponse,
    accept_invite: AcceptInviteRequest => AcceptInviteResponse,
    decline_invite: DeclineInviteRequest => DeclineInviteResponse,
    remove_member: RemoveMemberRequest => RemoveMemberResponse,
    leave_chat: LeaveChatRequest => LeaveChatResponse,
    mark_read: MarkReadRequest => MarkReadResponse,
    hand_over: ClientServiceHandOverRequest => ClientServiceHandOverResponse,
}

/// Starts `demes` on a peer.
pub fn started(peer: SocketAddr, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_demes"))
        .args(["--peer-api", &peer.to_string()])
        .args(arguments)
        .env("TZ", "Asia/Tokyo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts")
}

/// Runs `demes` on a peer, with this input.
pub async fn demes(peer: SocketAddr, arguments: &[&str], input: &str) -> Output {
    demes_on(peer, arguments, input.as_bytes()).await
}

pub async fn demes_on(peer: SocketAddr, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = started(peer, arguments);
    let mut stdin = child.stdin.take().expect("piped");
    // It may have refused before it reads.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    timeout(LIMIT, child.wait_with_output()).await.expect("ends in time").expect("ran")
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}
