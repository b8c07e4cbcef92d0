//! The commands against a peer that says what the test wants: what they print, and how they exit.

use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use demes::wire::feed::{FeedFrame, encode_event};
use demes::wire::pb;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pb::client_service_server::{ClientService, ClientServiceServer};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
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
    /// Whether a call that waits for a majority waits on.
    waits: bool,
    messages: Mutex<Vec<pb::Event>>,
    live: broadcast::Sender<pb::Event>,
}

impl FakePeer {
    fn new(majority: bool) -> Self {
        let (live, _) = broadcast::channel(16);
        let messages = Mutex::new(vec![message(7, "hello", "")]);
        Self { majority, hangs: false, waits: false, messages, live }
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
fn started(peer: SocketAddr, arguments: &[&str]) -> Child {
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
async fn demes(peer: SocketAddr, arguments: &[&str], input: &str) -> Output {
    demes_on(peer, arguments, input.as_bytes()).await
}

async fn demes_on(peer: SocketAddr, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = started(peer, arguments);
    let mut stdin = child.stdin.take().expect("piped");
    // It may have refused before it reads.
    let _ = stdin.write_all(input).await;
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
    assert_eq!((text(&sent.stdout), sent.status.code()), (queued, Some(75)));
    let sent = demes(alone, &["send", "club", "--no-wait", "--json", "hi"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&sent.stdout).expect("JSON");
    assert_eq!(json["state"], "MESSAGE_STATE_QUEUED");
    assert_eq!(sent.status.code(), Some(0), "that is what was asked for");
}

/// It is not left to guess whether the text will be sent.
#[tokio::test]
async fn whoever_waits_is_told_for_what_and_what_ctrl_c_leaves() {
    let peer = FakePeer { waits: true, ..FakePeer::new(false) };
    let peer = FakePeer::start_as(peer).await;
    let late = demes(peer, &["send", "club", "hi", "--timeout", "1"], "").await;
    let queued = "queued; it will be sent when a majority is reachable\n";
    assert_eq!((text(&late.stdout), late.status.code()), (queued, Some(75)));

    let mut child = started(peer, &["send", "club", "hi", "--timeout", "600"]);
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let line = timeout(LIMIT, said.next_line()).await.expect("in time").unwrap();
    let expected = "not confirmed yet: waiting for a majority (1 of 2); Ctrl-C leaves it queued";
    assert_eq!(line.as_deref(), Some(expected));
    let pid = Pid::from_raw(i32::try_from(child.id().expect("it runs")).unwrap());
    kill(pid, Signal::SIGINT).expect("it is ours");
    let ended = timeout(LIMIT, child.wait_with_output()).await.expect("in time").unwrap();
    assert_eq!((text(&ended.stdout), ended.status.code()), (queued, Some(130)));
}

#[tokio::test]
async fn what_a_tired_person_types_is_understood_or_refused() {
    let peer = FakePeer::start(true).await;
    // The only chat needs no name.
    let history = demes(peer, &["history"], "").await;
    assert_eq!(text(&history.stdout), "--:--  Ben: hello\n", "{}", text(&history.stderr));
    let sent = demes(peer, &["send", "hi"], "").await;
    assert_eq!((text(&sent.stdout), sent.status.code()), ("sent (8)\n", Some(0)));
    for (arguments, says) in [
        (&["send", "club"][..], "there is no text"),
        (&["send", "Club"], "there is no text"),
        (&["invite", "club"], "--link"),
        (&["send", "club", "it's", "late"], r"demes send club 'it'\''s late'"),
    ] {
        let refused = demes(peer, arguments, "").await;
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    for (input, says) in [
        (&b" \n\t\n"[..], "blank"),
        (b"\xff\xfeh\0i\0", "UTF-16"),
        (b"h\0i\0", "UTF-16"),
        (b"\xe4", "not UTF-8"),
    ] {
        let refused = demes_on(peer, &["send", "club", "-"], input).await;
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{error}");
        assert!(error.contains(says), "{error}");
    }
    // A byte order mark is no part of the text.
    demes(peer, &["send", "club", "-"], "\u{feff}marked\n").await;
    let history = demes(peer, &["history", "--json"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&history.stdout).expect("JSON");
    let texts: Vec<_> = json["messages"].as_array().unwrap().iter().collect();
    assert_eq!(texts.last().unwrap()["message"]["text"], "marked");
    assert_eq!(texts.len(), 3, "nothing else was sent");
}

#[tokio::test]
async fn sequences_and_the_time_where_the_person_is_are_shown() {
    let created_at = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
    let first = pb::Event { created_at, ..message(7, "hello", "") };
    let peer = FakePeer { messages: Mutex::new(vec![first]), ..FakePeer::new(true) };
    let peer = FakePeer::start_as(peer).await;
    let history = demes(peer, &["history", "-s"], "").await;
    assert_eq!(text(&history.stdout), "   7  1970-01-01 09:00  Ben: hello\n");
    let chats = demes(peer, &["ls", "--json"], "").await;
    let json: serde_json::Value = serde_json::from_slice(&chats.stdout).expect("JSON");
    assert_eq!(json["chats"][0]["unread"], 1);
}

#[tokio::test]
async fn a_feed_of_all_chats_names_them() {
    let peer = FakePeer::start(true).await;
    let mut feed = started(peer, &["feed", "--new", "-s"]);
    let mut lines = BufReader::new(feed.stdout.take().expect("piped")).lines();
    // The fake tells only those who listen already.
    let line = async {
        loop {
            demes(peer, &["send", "club", "psst"], "").await;
            if let Ok(line) = timeout(Duration::from_millis(300), lines.next_line()).await {
                return line.unwrap().expect("a line");
            }
        }
    };
    let line = timeout(LIMIT, line).await.expect("in time");
    assert!(line.starts_with("club  ") && line.ends_with("--:--  Ben: psst"), "{line}");
}

#[tokio::test]
async fn failures_are_json_for_programs() {
    let peer = FakePeer::start(true).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = gone.local_addr().expect("bound");
    drop(gone);
    for (peer, arguments, code, reason, exit_code) in [
        (peer, &["history", "nowhere", "--json"][..], "NOT_FOUND", "CHAT_NOT_FOUND", 1),
        (nobody, &["chats", "--json"], "UNAVAILABLE", "PEER_UNREACHABLE", 69),
        (peer, &["--json", "frobnicate"], "INVALID_ARGUMENT", "USAGE", 64),
        (peer, &["chat", "club", "--json"], "INVALID_ARGUMENT", "USAGE", 64),
        (peer, &["send", "club", "", "--json"], "FAILED_PRECONDITION", "REFUSED", 1),
    ] {
        let failed = demes(peer, arguments, "").await;
        let json: serde_json::Value = serde_json::from_slice(&failed.stderr).expect("JSON");
        let error = &json["error"];
        assert_eq!((&error["code"], &error["reason"]), (&code.into(), &reason.into()), "{json}");
        assert_eq!(error["exit_code"], exit_code, "{json}");
        assert_eq!(failed.status.code(), Some(exit_code));
        assert!(error["metadata"].is_object() && error["message"].is_string(), "{json}");
    }
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
