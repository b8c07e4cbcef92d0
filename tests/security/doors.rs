//! Places at the listeners: whoever takes them and says nothing, says half of something, or comes
//! again and again, holds little memory and keeps nobody out. Against processes.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use demes::cli::demo::cluster::Cluster;
use demes::cli::demo::peer::{connect, free_address};
use demes::crypto::{Identity, tls};
use demes::wire::pb;
use http_body::Body as HttpBody;
use http_body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service as _, ServiceExt as _};

use crate::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, call, frame, greeting};
use crate::peer::PATIENCE;
use crate::raw::{Calls, channel, shake_hands};

/// How soon programs that say nothing are closed, for the tests.
const IDLE: (&str, &str) = ("DEMES__LIMITS__CLIENT_IDLE_S", "10");

/// One at a time: they measure the memory of processes.
static TURNS: Semaphore = Semaphore::const_new(1);

/// A peer, or a few with a chat, that somebody comes to.
struct House {
    cluster: Cluster,
    health: String,
    metrics: String,
    said: u32,
    _turn: SemaphorePermit<'static>,
}

impl House {
    /// A chat of these people; the first one's peer is the target.
    async fn of(names: &[&str], settings: &[(&str, &str)]) -> Self {
        let turn = TURNS.acquire().await.expect("it is never closed");
        let binary = Path::new(env!("CARGO_BIN_EXE_demes"));
        let mut cluster = Cluster::new(binary, names, &[]).expect("prepared");
        let address = || free_address().expect("a free port").to_string();
        let (health, metrics) = (address(), address());
        cluster.peers[0].set("DEMES__CLIENT__REQUIRE_TOKEN", "false");
        cluster.peers[0].set("DEMES__HEALTH__LISTEN", &health);
        cluster.peers[0].set("DEMES__METRICS__LISTEN", &metrics);
        for (variable, value) in settings {
            cluster.peers[0].set(variable, value);
        }
        cluster.start_all().await.expect("started");
        cluster.found("lunch").await.expect("a chat");
        let mut house = Self { cluster, health, metrics, said: 0, _turn: turn };
        house.serves(0).await;
        house
    }

    /// A message of this peer's person goes through.
    async fn serves(&mut self, peer: usize) {
        self.said += 1;
        let (words, id) = (format!("{}", self.said), format!("request-{}", self.said));
        let begun = Instant::now();
        let said = timeout(PATIENCE, self.cluster.say(peer, &words, &id)).await;
        said.expect("in time").expect("the chat is served");
        eprintln!("the next message was confirmed after {:?}", begun.elapsed());
    }

    fn peers(&self) -> String {
        self.cluster.peers[0].address().to_string()
    }

    fn programs(&self) -> String {
        let file = self.cluster.peers[0].data_dir().join("client.addr");
        std::fs::read_to_string(file).expect("it listens").trim().to_owned()
    }

    fn pid(&self) -> u32 {
        self.cluster.peers[0].pid().expect("it runs")
    }

    /// The most that the target has had in memory.
    fn most_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// How many files and sockets the target has open.
    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }

    /// Ben's process is killed and started again: its dials must get through, and a message, which
    /// both of two voters must have.
    async fn a_member_comes_back(&mut self) {
        self.cluster.peers[1].kill().expect("it runs");
        self.cluster.peers[1].start().await.expect("it starts");
        let begun = Instant::now();
        self.serves(1).await;
        eprintln!("a member is back after {:?}", begun.elapsed());
    }
}

/// A call that sends `bytes` and then nothing more, without an end; `taken` counts what has left.
struct Unfinished {
    bytes: Bytes,
    taken: Arc<AtomicU64>,
}

impl HttpBody for Unfinished {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.bytes.is_empty() {
            return Poll::Pending;
        }
        let most = self.bytes.len().min(16 << 10);
        let part = self.bytes.split_to(most);
        self.taken.fetch_add(part.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }
}

/// Begins messages of this length on so many streams, and leaves out the last byte of each.
pub fn begin(
    channel: &Channel,
    path: &str,
    length: u32,
    streams: usize,
    taken: &Arc<AtomicU64>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.resize(5 + length as usize - 1, 7);
    let message = Bytes::from(message);
    let one = |_| {
        let body = Unfinished { bytes: message.clone(), taken: Arc::clone(taken) };
        let request = http::Request::post(format!("http://peer.demes{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(body))
            .expect("a request");
        let mut channel = channel.clone();
        tokio::spawn(async move {
            // Streams answer at once, and what they answer must be held, or they end.
            let ready = channel.ready().await.expect("connected");
            let _answer = ready.call(request).await;
            std::future::pending::<()>().await;
        })
    };
    (0..streams).map(one).collect()
}

/// Waits until nothing more has left for a while: the other side takes no more.
pub async fn poured(taken: &AtomicU64) -> u64 {
    let (mut last, mut still) = (0, 0);
    while still < 10 {
        sleep(Duration::from_millis(100)).await;
        let now = taken.load(Ordering::Relaxed);
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    last
}

async fn plain(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("it listens")
}

async fn stranger(address: &str) -> Channel {
    let identity = Identity::generate().expect("a key");
    channel(tls::client_config(&identity, None), address).await.expect("it listens")
}

const SUBMIT: &str = "/demes.v1.HostService/Submit";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// What unfinished messages may add to a peer's memory, whoever sends them.
const HELD_KIB_MAX: u64 = 48 << 10;

// L7: bytes are bounded before anybody knows who calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_of_strangers_hold_little() {
    let mut house = House::of(&["Ada"], &[]).await;
    for (what, path, length, connections, one_key) in [
        ("one connection", SUBMIT, 2 << 20, 1, true),
        ("one key", SUBMIT, 2 << 20, 12, true),
        ("many keys", SUBMIT, 2 << 20, 12, false),
        ("other calls", "/demes.v1.HostService/Join", 2 << 20, 8, false),
        ("small calls", "/demes.v1.ElectionService/Announce", 64 << 10, 40, false),
        ("reflection", REFLECT, 4 << 20, 8, false),
    ] {
        let before_kib = house.most_kib();
        let taken = Arc::new(AtomicU64::new(0));
        let identity = Identity::generate().expect("a key");
        let mut held = Vec::new();
        for _ in 0..connections {
            let channel = match one_key {
                true => channel(tls::client_config(&identity, None), &house.peers()).await,
                false => Ok(stranger(&house.peers()).await),
            };
            // An older one may give way meanwhile.
            let Ok(channel) = channel else { continue };
            held.extend(begin(&channel, path, length, 60, &taken));
        }
        let sent_kib = poured(&taken).await >> 10;
        let grown_kib = house.most_kib().saturating_sub(before_kib);
        eprintln!("{what}: sent {sent_kib} KiB, held {grown_kib} KiB");
        assert!(grown_kib <= HELD_KIB_MAX, "{what}: {grown_kib} KiB");
        held.iter().for_each(tokio::task::JoinHandle::abort);
        house.serves(0).await;
    }
}

// The same where nobody asks for a key at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_to_the_health_listener_hold_little() {
    let mut house = House::of(&["Ada"], &[]).await;
    let before_kib = house.most_kib();
    let taken = Arc::new(AtomicU64::new(0));
    let mut held = Vec::new();
    for _ in 0..8 {
        let channel = plain(&house.health).await;
        held.extend(begin(&channel, "/grpc.health.v1.Health/Check", 4 << 20, 32, &taken));
    }
    let sent_kib = poured(&taken).await >> 10;
    let grown_kib = house.most_kib().saturating_sub(before_kib);
    eprintln!("health: sent {sent_kib} KiB, held {grown_kib} KiB");
    assert!(grown_kib <= HELD_KIB_MAX, "{grown_kib} KiB");
    house.serves(0).await;
}

/// Opens TCP connections one after the other, says the beginning of a handshake on every second
/// one, and keeps them all.
async fn half_open(address: String, opened: Arc<AtomicU64>) {
    let mut kept = Vec::new();
    loop {
        let Ok(Ok(mut tcp)) = timeout(Duration::from_secs(1), TcpStream::connect(&address)).await
        else {
            continue;
        };
        if kept.len() % 2 == 0 {
            // The beginning of a ClientHello of 512 bytes.
            let _ = tcp.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await;
        }
        kept.push(tcp);
        if kept.len() > 6_000 {
            kept.remove(0);
        }
        opened.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(5)).await;
    }
}

// L7: half-open connections keep no member's dials out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_through_a_flood_of_half_open_connections() {
    let mut house = House::of(&["Ada", "Ben"], &[]).await;
    let opened = Arc::new(AtomicU64::new(0));
    let flood = tokio::spawn(half_open(house.peers(), Arc::clone(&opened)));
    while opened.load(Ordering::Relaxed) < 400 {
        sleep(Duration::from_millis(10)).await;
    }
    let mut took = Vec::new();
    for _ in 0..10 {
        let begun = Instant::now();
        let identity = Identity::generate().expect("a key");
        let mut calls = timeout(PATIENCE, Calls::to(&identity, &house.peers())).await;
        let calls = calls.as_mut().expect("the dial gets through");
        calls.election.ping(pb::PingRequest {}).await.expect("an answer");
        took.push(begun.elapsed());
    }
    took.sort();
    eprintln!("dials beside the flood: median {:?}, slowest {:?}", took[5], took[9]);
    house.a_member_comes_back().await;
    eprintln!("{} files open, {} KiB", house.open_files(), house.most_kib());
    flood.abort();
}

/// How far one goes who then says nothing.
#[derive(Clone, Copy, Debug)]
enum Silent {
    /// The handshake of TLS, where there is one; else TCP alone.
    Connected,
    /// The preface of HTTP/2 too.
    Greeted,
    /// A stream that is open and never used.
    Asking,
}

impl Silent {
    fn bytes(self, path: &str) -> Vec<u8> {
        match self {
            Self::Connected => Vec::new(),
            Self::Greeted => greeting(),
            Self::Asking => [greeting(), frame(HEADERS, END_HEADERS, 1, &call(path))].concat(),
        }
    }
}

// L7: one key, or many, take no member's place by being connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_take_no_members_place() {
    let settings = [("DEMES__LIMITS__PEER_CONNECTIONS_MAX", "24")];
    let mut house = House::of(&["Ada", "Ben"], &settings).await;
    let before = house.open_files();
    for (silent, one_key) in [
        (Silent::Connected, true),
        (Silent::Greeted, true),
        (Silent::Asking, true),
        (Silent::Connected, false),
        (Silent::Greeted, false),
        (Silent::Asking, false),
    ] {
        let one = Identity::generate().expect("a key");
        let mut kept = Vec::new();
        for _ in 0..100 {
            let other = Identity::generate().expect("a key");
            let identity = if one_key { &one } else { &other };
            let config = tls::client_config(identity, None);
            let hands = timeout(Duration::from_secs(1), shake_hands(config, &house.peers())).await;
            // Those that find no place wait in the kernel, where they take none.
            let Ok(Ok(mut stream)) = hands else { continue };
            let _ = stream.write_all(&silent.bytes(SUBMIT)).await;
            kept.push(stream);
        }
        let opened = house.open_files().saturating_sub(before);
        eprintln!("{silent:?}, one key: {one_key}: {opened} connections open of 100");
        assert!(opened <= 80, "{opened} connections");
        if one_key {
            assert!(opened <= 16, "{opened} connections of one key");
        }
        house.a_member_comes_back().await;
    }
}

/// Waits until the other side closes.
async fn is_closed(mut stream: impl tokio::io::AsyncRead + Unpin, what: &str) {
    let begun = Instant::now();
    let mut rest = Vec::new();
    let closed = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "{what} is closed");
    eprintln!("{what}: closed after {:?}", begun.elapsed());
}

// L7: whoever says nothing is closed, at every listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_closed_in_time() {
    let mut house = House::of(&["Ada"], &[IDLE]).await;
    let identity = Identity::generate().expect("a key");
    let mut waiting: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    for silent in [Silent::Connected, Silent::Greeted] {
        let config = tls::client_config(&identity, None);
        let mut tls = shake_hands(config, &house.peers()).await.expect("a key");
        tls.write_all(&silent.bytes("")).await.expect("sent");
        waiting.push(Box::pin(async move { is_closed(tls, &format!("peers {silent:?}")).await }));
        for (name, address) in [
            ("programs", house.programs()),
            ("health", house.health.clone()),
            ("metrics", house.metrics.clone()),
        ] {
            let mut tcp = TcpStream::connect(address).await.expect("it listens");
            tcp.write_all(&silent.bytes("")).await.expect("sent");
            let what = format!("{name} {silent:?}");
            waiting.push(Box::pin(async move { is_closed(tcp, &what).await }));
        }
    }
    futures_util::future::join_all(waiting).await;
    house.serves(0).await;
}

// L7: the probes always get through, and so do the person's programs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_no_probe_and_no_program_out() {
    let settings = [("DEMES__LIMITS__CLIENT_CONNECTIONS_MAX", "40")];
    let mut house = House::of(&["Ada"], &settings).await;
    let watch = "/grpc.health.v1.Health/Watch";
    let mut kept = Vec::new();
    for silent in [Silent::Connected, Silent::Greeted, Silent::Asking] {
        for (address, count) in
            [(house.health.clone(), 70), (house.metrics.clone(), 20), (house.programs(), 70)]
        {
            for _ in 0..count {
                let mut tcp = TcpStream::connect(&address).await.expect("the kernel takes it");
                let _ = tcp.write_all(&silent.bytes(watch)).await;
                if matches!(silent, Silent::Asking) {
                    // An empty request, and the stream goes on.
                    let _ = tcp.write_all(&frame(DATA, END_STREAM, 1, &[0; 5])).await;
                }
                kept.push(tcp);
            }
        }
        let begun = Instant::now();
        let probe = async {
            let mut health = HealthClient::new(plain(&house.health).await);
            let request = HealthCheckRequest { service: "liveness".to_owned() };
            health.check(request).await.expect("it lives");
        };
        timeout(PATIENCE, probe).await.expect("the probe gets through");
        eprintln!("{silent:?}: the probe took {:?}", begun.elapsed());
        let scrape = async {
            let mut tcp = TcpStream::connect(&house.metrics).await.expect("it listens");
            let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            tcp.write_all(request).await.expect("sent");
            let mut answer = Vec::new();
            tcp.read_to_end(&mut answer).await.expect("an answer");
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        };
        timeout(PATIENCE, scrape).await.expect("Prometheus gets through");
        if !matches!(silent, Silent::Asking) {
            let begun = Instant::now();
            let program = timeout(PATIENCE, async {
                let mut client = connect(&house.programs()).await.expect("it listens");
                client.get_peer(pb::GetPeerRequest {}).await.expect("an answer");
            });
            program.await.expect("a program gets through");
            eprintln!("{silent:?}: the program took {:?}", begun.elapsed());
        }
    }
    drop(kept);
    house.serves(0).await;
}
