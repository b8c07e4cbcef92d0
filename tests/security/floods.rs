//! Too much of everything, against processes: the peer serves its chat all the while, and its
//! memory stays bounded.

use std::path::Path;
use std::time::Instant;

use demes::cli::demo::cluster::Cluster;
use demes::cli::demo::peer::connect;
use demes::crypto::{Identity, tls};
use demes::wire::pb;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, call, frame, greeting, next_frame,
};
use crate::peer::PATIENCE;
use crate::raw::{Calls, Speaker, shake_hands, text};

/// One flood at a time: the others would only wait for the machine.
static FLOODS: Semaphore = Semaphore::const_new(1);

/// What a flood may add to a peer's memory.
const GROWTH_KIB_MAX: u64 = 96 << 10;

struct Flooded {
    cluster: Cluster,
    said: u32,
    before_kib: u64,
    _turn: tokio::sync::SemaphorePermit<'static>,
}

impl Flooded {
    /// A chat of these people; the first one's peer is the target.
    async fn chat_of(names: &[&str]) -> Self {
        let turn = FLOODS.acquire().await.expect("it is never closed");
        let binary = Path::new(env!("CARGO_BIN_EXE_demes"));
        let mut cluster = Cluster::new(binary, names, &[]).expect("prepared");
        // Floods of programs are of such as have the token, or need none.
        cluster.peers[0].set("DEMES__CLIENT__REQUIRE_TOKEN", "false");
        cluster.start_all().await.expect("started");
        cluster.found("lunch").await.expect("a chat");
        let mut flooded = Self { cluster, said: 0, before_kib: 0, _turn: turn };
        flooded.serves().await;
        flooded.before_kib = flooded.resident_kib();
        flooded
    }

    /// What the target has in memory.
    fn resident_kib(&self) -> u64 {
        let pid = self.cluster.peers[0].pid().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// A message goes through.
    async fn serves(&mut self) {
        self.said += 1;
        let (words, id) = (format!("{}", self.said), format!("request-{}", self.said));
        let begun = Instant::now();
        let said = timeout(PATIENCE, self.cluster.say(0, &words, &id)).await;
        said.expect("in time").expect("the chat is served");
        eprintln!("the next message was confirmed after {:?}", begun.elapsed());
    }

    fn is_bounded(&self, most_kib: u64) {
        let growth_kib = self.resident_kib().saturating_sub(self.before_kib);
        eprintln!("grew by {growth_kib} KiB");
        assert!(growth_kib <= most_kib, "{growth_kib} KiB");
    }

    fn programs(&self) -> String {
        let file = self.cluster.peers[0].data_dir().join("client.addr");
        std::fs::read_to_string(file).expect("it listens").trim().to_owned()
    }

    fn peers(&self) -> String {
        self.cluster.peers[0].address().to_string()
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

/// Writes as long as the other side takes it, and gives the kinds of frames that came back.
async fn pour(stream: Box<dyn Io>, chunks: impl Iterator<Item = Vec<u8>>) -> (Vec<u8>, bool) {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let seen = async {
        let mut kinds = Vec::new();
        while let Some((kind, _, _)) = next_frame(&mut reading).await {
            kinds.push(kind);
            if kind == GOAWAY {
                break;
            }
        }
        kinds
    };
    let poured = async {
        for chunk in chunks {
            if writing.write_all(&chunk).await.is_err() {
                return false;
            }
        }
        // Everything was taken: the reading side says what came of it.
        let _ = writing.shutdown().await;
        true
    };
    timeout(PATIENCE, async { tokio::join!(seen, poured) }).await.expect("it ends")
}

async fn listeners(flooded: &Flooded) -> Vec<(Box<dyn Io>, Vec<u8>)> {
    let identity = Identity::generate().expect("a key");
    let config = tls::client_config(&identity, None);
    let peers = shake_hands(config, &flooded.peers()).await.expect("the handshake succeeds");
    let programs = TcpStream::connect(flooded.programs()).await.expect("it listens");
    vec![
        (Box::new(peers) as Box<dyn Io>, call("/demes.v1.ElectionService/Ping")),
        (Box::new(programs) as Box<dyn Io>, call("/demes.v1.ClientService/GetPeer")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_ends_its_connection() {
    let mut flooded = Flooded::chat_of(&["Ada"]).await;
    for (stream, headers) in listeners(&flooded).await {
        let resets = (0..400_u32).map(|chunk| {
            let ids = (0..256).map(|n| 2 * (chunk * 256 + n) + 1);
            let pair = |id| {
                let reset = frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
                [frame(HEADERS, END_HEADERS, id, &headers), reset].concat()
            };
            ids.flat_map(pair).collect()
        });
        let (kinds, _) = pour(stream, std::iter::once(greeting()).chain(resets)).await;
        assert!(kinds.contains(&GOAWAY), "it is told to go away: {} frames", kinds.len());
        flooded.serves().await;
    }
    flooded.is_bounded(GROWTH_KIB_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit_are_refused() {
    let mut flooded = Flooded::chat_of(&["Ada"]).await;
    for (stream, headers) in listeners(&flooded).await {
        // Calls that never end their request stay open.
        let opens = (0..20_u32).map(|chunk| {
            let ids = (0..100).map(|n| 2 * (chunk * 100 + n) + 1);
            ids.flat_map(|id| frame(HEADERS, END_HEADERS, id, &headers)).collect()
        });
        let (kinds, _) = pour(stream, std::iter::once(greeting()).chain(opens)).await;
        assert!(kinds.iter().any(|kind| [RST_STREAM, GOAWAY].contains(kind)), "{}", kinds.len());
        flooded.serves().await;
    }
    flooded.is_bounded(GROWTH_KIB_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_content_cost_nothing() {
    let mut flooded = Flooded::chat_of(&["Ada"]).await;
    for (stream, headers) in listeners(&flooded).await {
        let open = [greeting(), frame(HEADERS, END_HEADERS, 1, &headers)].concat();
        let empty = frame(DATA, 0, 1, &[]).repeat(1_000);
        let chunks = std::iter::once(open).chain(std::iter::repeat_n(empty, 200));
        pour(stream, chunks).await;
        flooded.serves().await;
    }
    flooded.is_bounded(GROWTH_KIB_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_hold_up_nobody_for_long() {
    let mut flooded = Flooded::chat_of(&["Ada"]).await;
    let (peers, programs) = (flooded.peers(), flooded.programs());
    let mut idle = Vec::new();
    // As many as are let in, and some that wait in the kernel.
    for _ in 0..300 {
        idle.push(TcpStream::connect(&programs).await.expect("the kernel takes it"));
    }
    let mut half_open = Vec::new();
    for n in 0..64 {
        let mut stream = TcpStream::connect(&peers).await.expect("the kernel takes it");
        if n % 2 == 0 {
            // The beginning of a ClientHello of 512 bytes.
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await.expect("sent");
        }
        half_open.push(stream);
    }
    flooded.serves().await;
    // Each half-open one is closed after its time, and then an honest one gets through.
    let identity = Identity::generate().expect("a key");
    let mut calls = timeout(PATIENCE, Calls::to(&identity, &peers)).await.expect("in time");
    calls.election.ping(pb::PingRequest {}).await.expect("an answer");
    for stream in &mut half_open {
        let mut rest = Vec::new();
        let closed = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "it is closed");
    }
    flooded.is_bounded(GROWTH_KIB_MAX);
    drop(idle);
    let client = timeout(PATIENCE, connect(&programs)).await.expect("in time");
    let mut client = client.expect("there is room again");
    client.get_peer(pb::GetPeerRequest {}).await.expect("an answer");
    flooded.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_take_nothing_cost_a_bounded_part_each() {
    const READERS: usize = 48;
    let mut flooded = Flooded::chat_of(&["Ada"]).await;
    let long = "🦀".repeat(2_048);
    for n in 0..400 {
        let said = flooded.cluster.say(0, &long, &format!("long-{n}")).await;
        said.expect("the chat is served");
    }
    flooded.before_kib = flooded.resident_kib();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(flooded.programs()).await.expect("it listens");
        let mut bytes = greeting();
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &call("/demes.v1.ClientService/Feed")));
        bytes.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
        stream.write_all(&bytes).await.expect("sent");
        // The feed has begun.
        while next_frame(&mut stream).await.expect("an answer").0 != DATA {}
        readers.push(stream);
    }
    for _ in 0..20 {
        flooded.serves().await;
    }
    // A frame of 1 MiB that waits, one that is being written, and what a buffer grows by.
    flooded.is_bounded(READERS as u64 * (4 << 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_tiny_messages_of_one_member_fit() {
    const MESSAGES: u64 = 50_000;
    const BATCH: u64 = 250;
    let mut flooded = Flooded::chat_of(&["Ada", "Ben", "Cleo"]).await;
    let seen = flooded.cluster.chat_at(0).await.expect("the chat is here");
    assert_eq!(seen.host_peer_id, flooded.cluster.peers[0].id, "the founder hosts");
    let directory = flooded.cluster.peers[2].data_dir();
    flooded.cluster.peers[2].kill().expect("it runs");
    let chat = seen.chat_id.parse().expect("an id");
    let cleo = Speaker::from_store(&directory, chat).await;
    let mut calls = Calls::to(&cleo.identity, &flooded.peers()).await;
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = calls.host.submit(receiver).await.expect("open").into_inner();
    let one = cleo.submission(seen.term, 1, text(""), None);
    let mut next = 1;
    while next <= MESSAGES {
        let mut batch = one.clone();
        let numbers = next..(next + BATCH).min(MESSAGES + 1);
        let numbered = numbers.map(|number| {
            let mut submission = one.submissions[0].clone();
            submission.number = number;
            submission
        });
        batch.submissions = numbered.collect();
        requests.send(batch).await.expect("the stream is open");
        let answer = timeout(PATIENCE, answers.message()).await.expect("in time");
        let answer = answer.expect("no error").expect("no end");
        assert!(answer.refused.is_none(), "{answer:?}");
        next = answer.accepted.last().map_or(next, |last| last.number + 1);
    }
    flooded.serves().await;
    let committed = flooded.cluster.chat_at(0).await.expect("here").committed;
    assert!(committed > MESSAGES, "{committed}");
    // Windows and tails of 8,192 entries are kept; the rest is on the disk.
    flooded.is_bounded(GROWTH_KIB_MAX);
}

/// What lies in a peer's data directory.
fn disk_kib(directory: &Path) -> u64 {
    let items = std::fs::read_dir(directory).expect("it is there").flatten();
    let sizes = items.map(|item| match item.path() {
        path if path.is_dir() => disk_kib(&path),
        path => std::fs::metadata(path).map_or(0, |file| file.len() >> 10),
    });
    sizes.sum()
}

// L8: however fast a member says what it likes, it fills nobody's disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_writes_no_more_than_it_may() {
    const QUOTA_MIB: u64 = 16;
    let mut flooded = Flooded::chat_of(&["Ada", "Ben", "Cleo"]).await;
    let quota = pb::Quota { bytes_per_day: QUOTA_MIB << 20, changes_per_day: 100 };
    flooded.cluster.allow(0, quota).await.expect("agreed on");
    let seen = flooded.cluster.chat_at(0).await.expect("the chat is here");
    let homes = [0, 1].map(|peer| flooded.cluster.peers[peer].data_dir());
    let before_kib = homes.each_ref().map(|home| disk_kib(home));
    let directory = flooded.cluster.peers[2].data_dir();
    flooded.cluster.peers[2].kill().expect("it runs");
    let chat = seen.chat_id.parse().expect("an id");
    let cleo = Speaker::from_store(&directory, chat).await;
    let mut calls = Calls::to(&cleo.identity, &flooded.peers()).await;
    // As long as a member's text may be.
    let long = cleo.submission(seen.term, 1, text(&"x".repeat(16_000)), None);
    let (begun, mut next, mut refused) = (Instant::now(), 1, 0);
    while refused < 20 {
        let mut batch = long.clone();
        let numbered = (next..next + 100).map(|number| {
            let mut submission = long.submissions[0].clone();
            submission.number = number;
            submission
        });
        batch.submissions = numbered.collect();
        let answer = timeout(PATIENCE, calls.submit(batch)).await.expect("in time").expect("read");
        assert!(begun.elapsed() < PATIENCE, "{next} messages are more than it may say");
        next = answer.accepted.last().map_or(next, |last| last.number + 1);
        refused += usize::from(answer.problem() == pb::SubmitProblem::OverQuota);
    }
    let said_kib = ((next - 1) * 16_000) >> 10;
    flooded.serves().await;
    for (home, before_kib) in homes.iter().zip(before_kib) {
        let grown_kib = disk_kib(home) - before_kib;
        let took = begun.elapsed();
        eprintln!(
            "of {QUOTA_MIB} MiB: {said_kib} KiB said, a disk grew by {grown_kib} KiB in {took:?}"
        );
        // A store has pages that are not full, and grows by parts of itself.
        assert!(grown_kib <= 3 * (QUOTA_MIB << 10), "{grown_kib} KiB");
    }
    assert!(said_kib <= QUOTA_MIB << 10 && said_kib > QUOTA_MIB << 9, "{said_kib} KiB");
    flooded.is_bounded(GROWTH_KIB_MAX);
}
