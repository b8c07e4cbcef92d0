//! Honest peers in this process, over real sockets, disks and keys.

use std::time::Duration;

use demes::protocol::config::Config;
use demes::serve::{Limits, OnStop, RunningPeer, ServeOptions, serve};
use demes::wire::pb;
use demes::wire::pb::client_service_client::ClientServiceClient;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// The longest step of a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The chat that all tests are about.
pub const LUNCH: &str = "lunch";

pub struct Peer {
    pub name: String,
    pub dir: TempDir,
    pub running: Option<RunningPeer>,
    pub client: ClientServiceClient<Channel>,
}

/// Waits for `look` to find something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

impl Peer {
    pub async fn start(name: &str) -> Self {
        Self::with_limits(name, Limits::default()).await
    }

    pub async fn with_limits(name: &str, limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::at(name, dir, "127.0.0.1:0", limits).await
    }

    /// One that has run before, at its old address.
    pub async fn again(name: &str, dir: TempDir, address: &str) -> Self {
        Self::at(name, dir, address, Limits::default()).await
    }

    async fn at(name: &str, dir: TempDir, address: &str, limits: Limits) -> Self {
        // A busy machine is no reason to elect a host here.
        let protocol = Config { lease_min_us: 2_000_000, ..Config::default() };
        let options = ServeOptions {
            data_dir: dir.path().to_owned(),
            name: name.to_owned(),
            peer_listen: address.parse().expect("an address"),
            advertise: None,
            client_listen: "127.0.0.1:0".parse().expect("an address"),
            require_token: false,
            metrics_listen: None,
            health_listen: None,
            auto_accept: false,
            repair: false,
            on_stop: OnStop::Goodbye,
            protocol,
            storage_reserve_bytes: 0,
            bootstrap: Vec::new(),
            limits,
        };
        // The directory and the address are free once the last task of the peer before has ended.
        let start = || async { serve(options.clone()).await.ok() };
        let running = until("the peer to start", start).await;
        let address = format!("http://{}", running.client_address());
        let channel = Endpoint::from_shared(address).expect("an address").connect().await;
        let client = ClientServiceClient::new(channel.expect("the peer listens"));
        let client = client.max_decoding_message_size(16 << 20);
        Self { name: name.to_owned(), dir, running: Some(running), client }
    }

    pub fn id(&self) -> String {
        self.running.as_ref().expect("it runs").peer_id().to_string()
    }

    pub fn address(&self) -> String {
        self.running.as_ref().expect("it runs").peer_address()
    }

    pub async fn chat(&self, chat: &str) -> Result<pb::Chat, Status> {
        let request = pb::GetChatRequest { chat: chat.to_owned() };
        let response = self.client.clone().get_chat(request).await?;
        Ok(response.into_inner().chat.expect("a chat"))
    }

    pub async fn lunch(&self) -> pb::Chat {
        self.chat(LUNCH).await.expect("the chat is here")
    }

    /// Waits until the chat looks right.
    pub async fn sees(&self, what: &str, right: impl Fn(&pb::Chat) -> bool) -> pb::Chat {
        let look = || async { self.chat(LUNCH).await.ok().filter(&right) };
        until(&format!("{} to see {what}", self.name), look).await
    }

    pub async fn create(&self, chat: &str, addresses: Vec<String>) -> Result<pb::Chat, Status> {
        let request = pb::CreateChatRequest {
            name: chat.to_owned(),
            addresses,
            invite_timeout_s: 0,
            ..Default::default()
        };
        let response = self.client.clone().create_chat(request).await?;
        Ok(response.into_inner().chat.expect("a chat"))
    }

    pub async fn invites(&self) -> Vec<pb::Invite> {
        let list = self.client.clone().list_invites(pb::ListInvitesRequest {}).await;
        list.expect("a list").into_inner().invites
    }

    pub async fn accept(&self, chat: &str) {
        let arrived = || async {
            self.invites().await.into_iter().find(|invite| invite.chat_name == chat).map(drop)
        };
        until("an invitation", arrived).await;
        let request = pb::AcceptInviteRequest { chat: chat.to_owned(), link: String::new() };
        self.client.clone().accept_invite(request).await.expect("accepted");
    }

    /// Says something and waits until it is confirmed.
    pub async fn says(&self, chat: &str, text: &str) -> u64 {
        let mut request = Request::new(pb::SendMessageRequest {
            chat: chat.to_owned(),
            text: text.to_owned(),
            request_id: String::new(),
            wait: pb::Wait::Committed.into(),
        });
        request.set_timeout(PATIENCE);
        let sent = self.client.clone().send_message(request).await;
        sent.expect("the chat is served").into_inner().sequence
    }

    /// Everything from the beginning to CAUGHT_UP.
    pub async fn feed(&self) -> Vec<pb::Event> {
        let cursors = vec![pb::FeedCursor { chat: LUNCH.to_owned(), after: 0 }];
        let response = self.client.clone().feed(pb::FeedRequest { cursors }).await;
        let mut stream = response.expect("a feed").into_inner();
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

    /// The texts of the chat.
    pub async fn texts(&self) -> Vec<String> {
        let text = |event: pb::Event| match event.kind {
            Some(pb::event::Kind::Message(message)) => Some(message.text),
            _ => None,
        };
        self.feed().await.into_iter().filter_map(text).collect()
    }
}

/// The first founds the chat with the others, who accept; returns when all see as many voters.
pub async fn lunch_of(peers: &[&Peer], voters: usize) {
    let addresses = peers[1..].iter().map(|peer| peer.address()).collect();
    peers[0].create(LUNCH, addresses).await.expect("a chat");
    for guest in &peers[1..] {
        guest.accept(LUNCH).await;
    }
    for peer in peers {
        peer.sees("everybody there", |chat| {
            let active = |member: &&pb::Member| member.state() == pb::MemberState::Active;
            chat.serving
                && chat.members.iter().filter(active).count() == peers.len()
                && chat.members.iter().filter(|member| member.voter).count() == voters
        })
        .await;
    }
}

/// Ann hosts a chat with Ben and Eva.
pub async fn three() -> [Peer; 3] {
    let peers = [Peer::start("Ann").await, Peer::start("Ben").await, Peer::start("Eva").await];
    lunch_of(&[&peers[0], &peers[1], &peers[2]], 3).await;
    peers
}

/// Four peers in one chat, three of which vote.
pub async fn four() -> [Peer; 4] {
    let [ann, ben] = [Peer::start("Ann").await, Peer::start("Ben").await];
    let [dan, eva] = [Peer::start("Dan").await, Peer::start("Eva").await];
    lunch_of(&[&ann, &ben, &dan, &eva], 3).await;
    [ann, ben, dan, eva]
}

/// One who is invited by the first of these members, which all have that in their logs, and has
/// not answered.
pub async fn guest_of(members: &[&Peer]) -> Peer {
    let guest = Peer::start("Guest").await;
    let request = pb::InviteMemberRequest {
        chat: LUNCH.to_owned(),
        address: guest.address(),
        timeout_s: 0,
        ..Default::default()
    };
    members[0].client.clone().invite_member(request).await.expect("on its way");
    for peer in members {
        peer.sees("the invitation", |chat| chat.members.len() == members.len() + 1).await;
    }
    guest
}

/// The machine-readable reason of an error; empty without one.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// Asserts an error's code, and its reason unless that is empty.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, why: &str) {
    let status = answer.expect_err("the call is refused");
    assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status:?}");
}
