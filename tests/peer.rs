//! Three peers in one process, over real sockets, disks and keys: they found a chat, talk, lose
//! their host, and go on.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use demes::serve::{Limits, OnStop, RunningPeer, ServeOptions, serve};
use demes::wire::pb;
use demes::wire::pb::client_service_client::ClientServiceClient;
use demes::wire::pb::list_messages_request::From as Start;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

const PATIENCE: Duration = Duration::from_secs(20);

struct Peer {
    name: String,
    dir: TempDir,
    running: Option<RunningPeer>,
    client: ClientServiceClient<Channel>,
}

fn options(name: &str, dir: &TempDir, peer_listen: &str) -> ServeOptions {
    ServeOptions {
        data_dir: dir.path().to_owned(),
        name: name.to_owned(),
        peer_listen: peer_listen.parse().expect("an address"),
        advertise: None,
        client_listen: "127.0.0.1:0".parse().expect("an address"),
        metrics_listen: None,
        health_listen: None,
        require_token: false,
        auto_accept: false,
        repair: false,
        on_stop: OnStop::Goodbye,
        protocol: Default::default(),
        storage_reserve_bytes: 0,
        bootstrap: Vec::new(),
        limits: Limits::default(),
    }
}

/// Whether nobody has one of these stores open.
fn are_free(chats: &Path) -> bool {
    let files = std::fs::read_dir(chats).expect("it is there").map(|file| file.expect("a file"));
    let stores =
        files.map(|file| file.path()).filter(|file| file.extension() == Some("redb".as_ref()));
    stores.map(|store| File::open(store).expect("it opens")).all(|store| store.try_lock().is_ok())
}

async fn connect(running: &RunningPeer) -> ClientServiceClient<Channel> {
    let address = format!("http://{}", running.client_address());
    let channel = Endpoint::from_shared(address).expect("an address").connect().await;
    ClientServiceClient::new(channel.expect("the peer listens"))
}

impl Peer {
    async fn start(name: &str) -> Self {
        Self::start_with(name, Limits::default()).await
    }

    async fn start_with(name: &str, limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = ServeOptions { limits, ..options(name, &dir, "127.0.0.1:0") };
        let running = serve(options).await.expect("it starts");
        let client = connect(&running).await;
        Self { name: name.to_owned(), dir, running: Some(running), client }
    }

    fn id(&self) -> String {
        self.running.as_ref().expect("it runs").peer_id().to_string()
    }

    fn address(&self) -> String {
        self.running.as_ref().expect("it runs").peer_address()
    }

    /// Ends without a word.
    fn crash(&mut self) {
        self.running = None;
    }

    /// Starts again after a crash, at another port of the client listener and the same one for
    /// peers. The old one's files are free once its last task has ended.
    async fn restart(&mut self, address: &str) {
        let options = options(&self.name, &self.dir, address);
        let until = Instant::now() + PATIENCE;
        // The directory may be free before the last of the chats' files is.
        while !are_free(&self.dir.path().join("chats")) {
            assert!(Instant::now() < until, "its files are not closed");
            sleep(Duration::from_millis(10)).await;
        }
        let running = loop {
            match serve(options.clone()).await {
                Ok(running) => break running,
                Err(error) => assert!(Instant::now() < until, "it does not start: {error}"),
            }
            sleep(Duration::from_millis(10)).await;
        };
        self.client = connect(&running).await;
        self.running = Some(running);
    }

    async fn chat(&mut self, chat: &str) -> Result<pb::Chat, Status> {
        let request = pb::GetChatRequest { chat: chat.to_owned() };
        let response = self.client.get_chat(request).await?;
        Ok(response.into_inner().chat.expect("a chat"))
    }

    /// Polls the chat until it looks right.
    async fn until(&mut self, chat: &str, what: &str, right: impl Fn(&pb::Chat) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.chat(chat).await;
            if seen.as_ref().is_ok_and(&right) {
                return;
            }
            assert!(Instant::now() < until, "{}: not {what}: {seen:?}", self.name);
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn send(&mut self, text: &str) -> Result<pb::SendMessageResponse, Status> {
        self.send_as(text, "").await
    }

    async fn send_as(&mut self, text: &str, id: &str) -> Result<pb::SendMessageResponse, Status> {
        self.send_in("lunch", text, id).await
    }

    async fn send_in(
        &mut self,
        chat: &str,
        text: &str,
        id: &str,
    ) -> Result<pb::SendMessageResponse, Status> {
        let mut request = Request::new(pb::SendMessageRequest {
            chat: chat.to_owned(),
            text: text.to_owned(),
            request_id: id.to_owned(),
            wait: pb::Wait::Committed.into(),
        });
        request.set_timeout(PATIENCE);
        Ok(self.client.send_message(request).await?.into_inner())
    }

    async fn invite_of(&mut self, chat: &str) -> pb::Invite {
        let until = Instant::now() + PATIENCE;
        loop {
            let list = self.client.list_invites(pb::ListInvitesRequest {}).await.expect("a list");
            let invites = list.into_inner().invites;
            if let Some(invite) = invites.into_iter().find(|invite| invite.chat_name == chat) {
                return invite;
            }
            assert!(Instant::now() < until, "{}: no invitation arrives", self.name);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything from the beginning to CAUGHT_UP.
    async fn feed(&mut self, chat: &str) -> Vec<pb::Event> {
        let cursors = vec![pb::FeedCursor { chat: chat.to_owned(), after: 0 }];
        let response = self.client.feed(pb::FeedRequest { cursors }).await.expect("a feed");
        let mut stream = response.into_inner();
        let mut events = Vec::new();
        loop {
            let frame = timeout(PATIENCE, stream.message()).await.expect("in time");
            for event in frame.expect("no error").expect("no end").events {
                if matches!(event.kind, Some(pb::event::Kind::CaughtUp(_))) {
                    return events;
                }
                events.push(event);
            }
        }
    }
}

/// Ann founds a chat with the others, who accept; all three vote.
async fn three() -> [Peer; 3] {
    let mut ann = Peer::start("Ann").await;
    let mut ben = Peer::start("Ben").await;
    let mut eva = Peer::start("Eva").await;
    let addresses = vec![ben.address(), format!("{}@{}", eva.id(), eva.address())];
    let request = pb::CreateChatRequest {
        name: "lunch".to_owned(),
        addresses,
        invite_timeout_s: 0,
        ..Default::default()
    };
    ann.client.create_chat(request).await.expect("a chat");
    for peer in [&mut ben, &mut eva] {
        let invite = peer.invite_of("lunch").await;
        assert_eq!((invite.peer_id, invite.name), (ann.id(), "Ann".to_owned()));
        let request = pb::AcceptInviteRequest { chat: "lunch".to_owned(), link: String::new() };
        peer.client.accept_invite(request).await.expect("accepted");
    }
    for peer in [&mut ann, &mut ben, &mut eva] {
        peer.until("lunch", "served with three voters", |chat| {
            chat.serving && chat.members.iter().filter(|member| member.voter).count() == 3
        })
        .await;
    }
    [ann, ben, eva]
}

fn texts(events: &[pb::Event]) -> Vec<String> {
    let text = |event: &pb::Event| match &event.kind {
        Some(pb::event::Kind::Message(message)) => Some(message.text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_talk_and_their_feeds_are_the_same() {
    let mut peers = three().await;
    for round in 0..5 {
        for (index, peer) in peers.iter_mut().enumerate() {
            let sent = peer.send(&format!("{round} from {index}")).await.expect("confirmed");
            assert_eq!(sent.state(), pb::MessageState::Committed);
        }
    }
    let [ann, ben, eva] = &mut peers;
    let last = ann.chat("lunch").await.expect("a chat").committed;
    ben.until("lunch", "caught up", |chat| chat.committed >= last).await;
    eva.until("lunch", "caught up", |chat| chat.committed >= last).await;
    let events = ann.feed("lunch").await;
    assert_eq!(texts(&events).len(), 15);
    for (event, sequence) in events.iter().zip(1..) {
        assert_eq!(event.sequence, sequence, "the feed is dense");
    }
    let named = |event: &pb::Event| event.author_name == "Eva";
    assert_eq!(events.iter().filter(|event| named(event)).count(), 6, "five texts and one join");
    assert_eq!(ben.feed("lunch").await, events);
    assert_eq!(eva.feed("lunch").await, events);
    for peer in peers {
        let started = Instant::now();
        peer.running.expect("it runs").stop().await;
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_survives_its_host() {
    let mut peers = three().await;
    peers[1].send("before").await.expect("confirmed");
    let address = peers[0].address();
    let host = peers[1].chat("lunch").await.expect("a chat").host_peer_id;
    assert_eq!(host, peers[0].id(), "the founder hosts");
    peers[0].crash();
    let crashed = Instant::now();
    peers[1].send("after").await.expect("confirmed");
    eprintln!("confirmed {:?} after the crash", crashed.elapsed());
    peers[2].send("and more").await.expect("confirmed");
    // The old host comes back, catches up, and is the same.
    peers[0].restart(&address).await;
    let last = peers[2].chat("lunch").await.expect("a chat").committed;
    for peer in &mut peers {
        peer.until("lunch", "caught up", |chat| chat.committed >= last && chat.serving).await;
    }
    let events = peers[0].feed("lunch").await;
    assert_eq!(texts(&events), ["before", "after", "and more"]);
    peers[0].send("I am back").await.expect("confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_returns_the_first_result() {
    let [mut ann, mut ben, _eva] = three().await;
    for peer in [&mut ann, &mut ben] {
        let id = format!("request-{}", peer.name);
        let first = peer.send_as("once", &id).await.expect("confirmed");
        let again = peer.send_as("once", &id).await.expect("confirmed");
        assert_eq!(first, again);
    }
    let last = ann.chat("lunch").await.expect("a chat").committed;
    assert_eq!(texts(&ann.feed("lunch").await).len(), 2);
    ben.until("lunch", "caught up", |chat| chat.committed >= last).await;
    assert_eq!(texts(&ben.feed("lunch").await).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_after_a_restart_returns_the_first_result() {
    let mut ann = Peer::start("Ann").await;
    let request = pb::CreateChatRequest { name: "lunch".to_owned(), ..Default::default() };
    ann.client.create_chat(request).await.expect("a chat");
    let first = ann.send_as("once", "the-request").await.expect("confirmed");
    ann.send("something else").await.expect("confirmed");
    let address = ann.address();
    ann.crash();
    ann.restart(&address).await;
    let again = ann.send_as("once", "the-request").await.expect("confirmed");
    assert_eq!(first.sequence, again.sequence);
    ann.until("lunch", "served", |chat| chat.serving).await;
    assert_eq!(texts(&ann.feed("lunch").await), ["once", "something else"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_hands_over_and_leaves() {
    let [mut ann, mut ben, mut eva] = three().await;
    let request = |peer: &str| pb::ClientServiceHandOverRequest {
        chat: "lunch".to_owned(),
        peer: peer.to_owned(),
    };
    let refused = ben.client.hand_over(request("Eva")).await.expect_err("Ben does not host");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().expect("a reason").reason, "NOT_HOST");
    let response = ann.client.hand_over(request("Eva")).await.expect("handed over").into_inner();
    assert_eq!(response.host_peer_id, eva.id());
    eva.send("mine now").await.expect("confirmed");

    let request = pb::LeaveChatRequest { chat: "lunch".to_owned(), ..Default::default() };
    ben.client.leave_chat(request).await.expect("durable");
    let until = Instant::now() + PATIENCE;
    while ben.chat("lunch").await.is_ok() {
        assert!(Instant::now() < until, "the chat does not disappear");
        sleep(Duration::from_millis(5)).await;
    }
    eva.until("lunch", "without Ben", |chat| chat.members.len() == 2).await;
    eva.send("two are left").await.expect("confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_comes_in_pages_and_errors_have_reasons() {
    let mut ann = Peer::start("Ann").await;
    let request = pb::CreateChatRequest { name: "lunch".to_owned(), ..Default::default() };
    ann.client.create_chat(request).await.expect("a chat");
    for number in 0..7 {
        ann.send(&number.to_string()).await.expect("confirmed");
    }
    let mut request =
        pb::ListMessagesRequest { chat: "lunch".to_owned(), page_size: 3, ..Default::default() };
    let mut pages = Vec::new();
    loop {
        let page = ann.client.list_messages(request.clone()).await.expect("a page").into_inner();
        pages.push(texts(&page.messages));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages.concat().into_iter().collect::<BTreeSet<_>>().len(), 7);
    assert_eq!(pages[0], ["4", "5", "6"]);
    assert_eq!(pages[1], ["1", "2", "3"]);

    let reason =
        |status: &Status| status.get_error_details().error_info().map(|info| info.reason.clone());
    let error = ann.send(&"x".repeat(2_049)).await.expect_err("too long");
    assert_eq!(
        (error.code(), reason(&error).as_deref()),
        (Code::InvalidArgument, Some("TEXT_TOO_LONG"))
    );
    let error = ann.chat("dinner").await.expect_err("unknown");
    assert_eq!((error.code(), reason(&error).as_deref()), (Code::NotFound, Some("CHAT_NOT_FOUND")));
    let cursors = vec![pb::FeedCursor { chat: "lunch".to_owned(), after: 1_000 }];
    let error = ann.client.feed(pb::FeedRequest { cursors }).await.expect_err("ahead");
    assert_eq!(reason(&error).as_deref(), Some("CURSOR_AHEAD"));

    // A token comes only where there is another message: not after the last one, though the chat
    // has other entries on both sides.
    let rename = pb::UpdateChatRequest {
        chat: "lunch".to_owned(),
        name: "late lunch".to_owned(),
        quota: None,
        ..Default::default()
    };
    ann.client.update_chat(rename).await.expect("renamed");
    for (from, page_size, has_next) in [
        (Start::Before(0), 7, false),
        (Start::Before(0), 6, true),
        (Start::After(0), 7, false),
        (Start::After(0), 6, true),
    ] {
        let chat = "late lunch".to_owned();
        let from = Some(from);
        let mut request = pb::ListMessagesRequest { chat, page_size, from, ..Default::default() };
        let page = ann.client.list_messages(request.clone()).await.expect("a page").into_inner();
        assert_eq!(page.messages.len(), usize::try_from(page_size).expect("it is small"));
        assert_eq!(!page.next_page_token.is_empty(), has_next, "{from:?}, {page_size}");
        if has_next {
            request.page_token = page.next_page_token;
            let page = ann.client.list_messages(request).await.expect("a page").into_inner();
            assert_eq!((page.messages.len(), page.next_page_token.as_str()), (1, ""));
        }
    }
}

/// A pair of peers shares a bounded number of streams, however many chats they have in common: far
/// more than a connection may have streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_peers_share_more_chats_than_a_connection_has_streams() {
    const CHATS: usize = 24;
    let limits = Limits { peer_streams_max: 8, ..Limits::default() };
    let mut ann = Peer::start_with("Ann", limits.clone()).await;
    let mut ben = Peer::start_with("Ben", limits).await;
    let names: Vec<String> = (0..CHATS).map(|number| format!("chat {number}")).collect();
    for name in &names {
        let addresses = vec![ben.address()];
        let request = pb::CreateChatRequest {
            name: name.clone(),
            addresses,
            invite_timeout_s: 0,
            ..Default::default()
        };
        ann.client.create_chat(request).await.expect("a chat");
        ben.invite_of(name).await;
        let request = pb::AcceptInviteRequest { chat: name.clone(), link: String::new() };
        ben.client.accept_invite(request).await.expect("accepted");
    }
    for round in ["before", "after"] {
        for name in &names {
            ben.until(name, "served with two voters", |chat| {
                chat.serving && chat.members.iter().filter(|member| member.voter).count() == 2
            })
            .await;
            let sent = ben.send_in(name, round, "").await.expect("taken");
            assert_eq!(sent.state(), pb::MessageState::Committed, "{name} {round}");
        }
        if round == "before" {
            let address = ben.address();
            ben.crash();
            ben.restart(&address).await;
        }
    }
}
