//! The commands against a peer that says what the test wants: what they print, and how they exit.

use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use demes::wire::feed::{FeedFrame, encode_event};
use demes::wire::pb;
use pb::client_service_server::{ClientService, ClientServiceServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

const LIMIT: Duration = Duration::from_secs(20);
const CHAT_ID: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";

type Reply<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A peer with one chat, "club", of Ana and Ben.
struct FakePeer {
    /// Whether a majority is reachable.
    majority: bool,
    /// Whether streams never begin.
    hangs: bool,
    messages: Mutex<Vec<pb::Event>>,
    live: broadcast::Sender<pb::Event>,
}

impl FakePeer {
    fn new(majority: bool) -> Self {
        let (live, _) = broadcast::channel(16);
        let messages = Mutex::new(vec![message(7, "hello", "")]);
        Self { majority, hangs: false, messages, live }
    }

    async fn start(majority: bool) -> SocketAddr {
        Self::start_as(Self::new(majority)).await
    }

    async fn start_as(peer: Self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = tonic::transport::Server::builder()
            .add_service(ClientServiceServer::from_arc(Arc::new(peer)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }

    fn chat(&self) -> pb::Chat {
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

fn refusal(code: Code, reason: &str, text: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "demes", std::collections::HashMap::new());
    Status::with_error_details(code, text, details)
}

fn message(sequence: u64, text: &str, request_id: &str) -> pb::Event {
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
    get_peer: GetPeerRequest => GetPeerResponse,
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

/// Runs `demes` on a peer, with this input.
async fn demes(peer: SocketAddr, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_demes"))
        .args(["--peer-api", &peer.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    timeout(LIMIT, child.wait_with_output()).await.expect("ends in time").expect("ran")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[tokio::test]
async fn a_sent_message_says_what_is_sure() {
    let (reached, alone) = (FakePeer::start(true).await, FakePeer::start(false).await);
    let sent = demes(reached, &["send", "club", "hi"], "").await;
    assert_eq!((text(&sent.stdout), sent.status.code()), ("sent (8)\n", Some(0)));
    let queued = "queued; it will be sent when a majority is reachable\n";
    let sent = demes(alone, &["send", "club", "-"], "hi\n").await;
    assert_eq!((text(&sent.stdout), sent.status.code()), (queued, Some(0)));
    let sent = demes(alone, &["send", "club", "--no-wait", "--json", "hi"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&sent.stdout).expect("JSON");
    assert_eq!(json["state"], "MESSAGE_STATE_QUEUED");
}

#[tokio::test]
async fn a_refusal_goes_to_stderr_and_says_what_to_do() {
    let peer = FakePeer::start(true).await;
    let refused = demes(peer, &["history", "nowhere"], "").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    let expected = "demes: there is no such chat\n\
                    `demes chats` lists your chats, `demes invites` your invitations\n";
    assert_eq!(text(&refused.stderr), expected);
    let too_long = demes(peer, &["send", "club", &"x".repeat(2_049)], "").await;
    assert_eq!(too_long.status.code(), Some(1));
    let not_text = demes(peer, &["frobnicate"], "").await;
    assert_eq!(not_text.status.code(), Some(64));
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = listener.local_addr().expect("bound");
    drop(listener);
    let output = demes(nobody, &["chats"], "").await;
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains("start it with `demes up`"));
}

/// A frozen peer's kernel still accepts connections.
#[tokio::test]
async fn a_peer_that_hangs_is_told_within_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let frozen = listener.local_addr().expect("bound");
    let (chats, health) =
        tokio::join!(demes(frozen, &["chats"], ""), demes(frozen, &["health"], ""));
    for output in [chats, health] {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{error}");
        assert!(error.contains("did not answer in time"), "{error}");
    }
}

/// A peer that hangs between the question for the chat and the stream.
#[tokio::test]
async fn a_stream_that_does_not_begin_is_told_within_the_deadline() {
    let peer = FakePeer::start_as(FakePeer { hangs: true, ..FakePeer::new(true) }).await;
    let (feed, chat) =
        tokio::join!(demes(peer, &["feed", "club"], ""), demes(peer, &["chat", "club"], ""));
    for output in [feed, chat] {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{error}");
        assert!(error.contains("did not answer in time"), "{error}");
    }
}

/// As behind `demes feed | head -1`: nothing more need happen in the chat.
#[tokio::test]
async fn a_feed_ends_quietly_when_its_reader_has_gone() {
    let peer = FakePeer::start(true).await;
    let mut feed = Command::new(env!("CARGO_BIN_EXE_demes"))
        .args(["--peer-api", &peer.to_string(), "feed", "club"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    drop(feed.stdout.take());
    let ended = timeout(LIMIT, feed.wait_with_output()).await.expect("ends in time").expect("ran");
    assert_eq!((text(&ended.stderr), ended.status.code()), ("", Some(0)));
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_is_told() {
    for arguments in [&["help"][..], &["--version"], &["config"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_demes"))
            .args(arguments)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(74), "{arguments:?}");
        assert!(text(&output.stderr).contains("the disk is full"), "{output:?}");
    }
}

#[tokio::test]
async fn a_chat_from_a_pipe_ends_when_its_messages_are_confirmed() {
    let peer = FakePeer::start(true).await;
    let talk = demes(peer, &["chat", "club"], "hi\n\nbye\n").await;
    let expected = "\
club: Ana, Ben
--:--  Ben: hello
       * hosted by Ben
       … queued: hi
--:--  Ben: hi ✓
       … queued: bye
--:--  Ben: bye ✓
";
    // The second line may be queued before the first is confirmed.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(text(&talk.stdout)), sorted(expected), "{}", text(&talk.stderr));
    assert_eq!(talk.status.code(), Some(0));
}

#[tokio::test]
async fn a_chat_without_a_majority_says_what_still_waits() {
    let peer = FakePeer::start(false).await;
    let talk = demes(peer, &["chat", "club"], "hi\n").await;
    let expected = "\
club: Ana, Ben
--:--  Ben: hello
       * waiting for a majority (1 of 2)
       … queued: hi
1 message is still queued; it will be sent when a majority is reachable
";
    assert_eq!(text(&talk.stdout), expected, "{}", text(&talk.stderr));
    assert_eq!(talk.status.code(), Some(0));
}

#[tokio::test]
async fn reads_are_json_for_programs() {
    let peer = FakePeer::start(true).await;
    let chats = demes(peer, &["chats", "--json"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&chats.stdout).expect("JSON");
    assert_eq!(json["chats"][0]["members"][1]["name"], "Ben");
    let history = demes(peer, &["--json", "history", "c0ff"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&history.stdout).expect("JSON");
    assert_eq!(json["messages"][0]["message"]["text"], "hello");
}
