//! What three voting peers that sync carry: 300-byte messages from 4 senders with at most 1,000 in
//! flight together, and N feed readers.
//!
//!     cargo bench --bench throughput -- --seconds 10
//!
//! For each N: the most that is confirmed and delivered a second; then, at 100 messages a second
//! and at half of that maximum, the time from send to confirmed and to delivered everywhere.
//! Processor time and memory are those of the host's process at the maximum.
//!
//!     cargo bench --bench throughput -- --rate 100
//!
//! The time to a confirmation alone, at one rate, apart for those who speak through the host's peer
//! and for all others.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use demes::cli::demo::cluster::{Cluster, STEP_LIMIT};
use demes::cli::demo::peer::{Client, connect, until};
use demes::wire::pb;
use demes::wire::pb::event::Kind;
use serde::Serialize;
use tokio::task::JoinSet;

use common::{binary, cpu_time, grouped, memory_mib, message, number_of, percentile, room, sorted};

const SENDERS: usize = 4;
const IN_FLIGHT: usize = 1_000;
const PEERS: usize = 3;
/// Readers that share a connection; a peer allows 64 streams on one.
const READERS_PER_CONNECTION: usize = 16;
/// The most messages of one measurement.
const SLOTS: usize = 4_000_000;
const LOW_RATE: f64 = 100.0;

#[derive(Parser)]
struct Options {
    /// Seconds for each measurement
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Numbers of feed readers
    #[arg(long, value_delimiter = ',', default_values_t = [3, 10, 50])]
    readers: Vec<usize>,
    /// Only the time to a confirmation at this many messages a second, with 3 readers
    #[arg(long)]
    rate: Option<f64>,
    /// Print one JSON object for each number of readers instead of a table
    #[arg(long)]
    json: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Row {
    readers: usize,
    confirmed_per_second: f64,
    deliveries_per_second: f64,
    low: Latency,
    half: Latency,
    host_cpu_percent: f64,
    host_cpu_us_per_delivery: f64,
    host_memory_mib: f64,
}

/// At a fixed rate, in milliseconds.
#[derive(Serialize)]
struct Latency {
    messages_per_second: f64,
    confirmed_p50_ms: f64,
    confirmed_p99_ms: f64,
    delivered_p50_ms: f64,
    delivered_p99_ms: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let span = Duration::from_secs(options.seconds);
    let mut cluster = Cluster::new(binary(), &["Ada", "Ben", "Cleo"], &[])?;
    cluster.start_all().await?;
    cluster.found("Throughput").await?;
    if let Some(rate) = options.rate {
        return at_one_rate(&cluster, rate, span).await;
    }
    if !options.json {
        heading();
    }
    for readers in options.readers {
        let row = measure(&cluster, readers, span).await?;
        if options.json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            print_row(&row);
        }
    }
    Ok(())
}

async fn measure(cluster: &Cluster, readers: usize, span: Duration) -> Result<Row> {
    let load = Load::prepare(cluster, readers).await?;
    load.at_most(Duration::from_secs(2), None).await?; // connections and caches get warm

    let host = cluster.host().await?;
    let pid = cluster.peers[host].pid().context("the host runs")?;
    let cpu_before = cpu_time(pid)?;
    let most = load.at_most(span, None).await?;
    let cpu = (cpu_time(pid)? - cpu_before).as_secs_f64();
    let host_memory_mib = memory_mib(pid, "VmHWM")?;
    let deliveries = most.messages * readers as f64;
    let host_readers = (0..readers).filter(|reader| reader % PEERS == host).count();

    let low = load.at_most(span, Some(LOW_RATE)).await?;
    let half = load.at_most(span, Some(most.messages / most.seconds / 2.0)).await?;
    Ok(Row {
        readers,
        confirmed_per_second: most.messages / most.seconds,
        deliveries_per_second: deliveries / most.seconds,
        low: low.latency(),
        half: half.latency(),
        host_cpu_percent: cpu / most.seconds * 100.0,
        host_cpu_us_per_delivery: cpu * 1e6 / (most.messages * host_readers.max(1) as f64),
        host_memory_mib,
    })
}

async fn at_one_rate(cluster: &Cluster, rate: f64, span: Duration) -> Result<()> {
    let load = Load::prepare(cluster, PEERS).await?;
    load.at_most(Duration::from_secs(1), Some(rate)).await?;
    let host = cluster.host().await?;
    let measured = load.at_most(span, Some(rate)).await?;
    let all = measured.latency();
    println!(
        "{:.0} messages/s: confirmed p50 {:.2} p99 {:.2} ms, delivered p50 {:.2} p99 {:.2} ms",
        all.messages_per_second,
        all.confirmed_p50_ms,
        all.confirmed_p99_ms,
        all.delivered_p50_ms,
        all.delivered_p99_ms,
    );
    for (who, at_host) in [("through the host's peer", true), ("through other peers", false)] {
        let senders = (0..SENDERS).filter(|sender| (sender % PEERS == host) == at_host);
        let times = senders.flat_map(|sender| measured.of_sender(sender));
        let times = sorted(times.collect());
        let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
        println!("    {who}: confirmed p50 {p50:.2} p99 {p99:.2} ms");
    }
    Ok(())
}

/// Sender s speaks through peer s modulo 3, each over a connection of its own.
async fn senders(cluster: &Cluster) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for sender in 0..SENDERS {
        clients.push(own_connection(cluster, sender % PEERS).await?);
    }
    Ok(clients)
}

async fn own_connection(cluster: &Cluster, peer: usize) -> Result<Client> {
    connect(&cluster.peers[peer].socket()).await
}

/// When each message was sent, confirmed and delivered everywhere, in microseconds from the start.
struct Slots {
    begun: Instant,
    readers: u32,
    next: AtomicU64,
    sender: Vec<AtomicU8>,
    sent_us: Vec<AtomicU64>,
    confirmed_us: Vec<AtomicU64>,
    deliveries: Vec<AtomicU32>,
    delivered_us: Vec<AtomicU64>,
}

impl Slots {
    fn new(readers: usize) -> Self {
        let times = || std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect();
        Self {
            begun: Instant::now(),
            readers: u32::try_from(readers).expect("few readers"),
            next: AtomicU64::new(0),
            sender: std::iter::repeat_with(AtomicU8::default).take(SLOTS).collect(),
            sent_us: times(),
            confirmed_us: times(),
            deliveries: std::iter::repeat_with(AtomicU32::default).take(SLOTS).collect(),
            delivered_us: times(),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn note_delivery(&self, number: u64) {
        let Some(slot) = usize::try_from(number).ok().filter(|slot| *slot < SLOTS) else { return };
        if self.deliveries[slot].fetch_add(1, Ordering::AcqRel) + 1 == self.readers {
            self.delivered_us[slot].store(self.now_us(), Ordering::Release);
        }
    }
}

/// One feed reader's connection.
struct Readers<'a> {
    cluster: &'a Cluster,
    reader: usize,
}

struct Reader {
    feed: tonic::Streaming<pb::FeedResponse>,
}

impl Readers<'_> {
    /// Reads from the present end; every sixteenth reader of a peer opens a new connection.
    async fn open(self) -> Result<Reader> {
        let peer = self.reader % PEERS;
        let shared = !(self.reader / PEERS).is_multiple_of(READERS_PER_CONNECTION);
        let mut client = match shared {
            true => self.cluster.peers[peer].client(),
            false => own_connection(self.cluster, peer).await?,
        };
        let after = self.cluster.chat_at(peer).await?.committed;
        let cursors = vec![pb::FeedCursor { chat: self.cluster.chat.clone(), after }];
        Ok(Reader { feed: client.feed(pb::FeedRequest { cursors }).await?.into_inner() })
    }
}

impl Reader {
    async fn read(mut self, slots: Arc<Slots>) -> Result<()> {
        while let Some(frame) = self.feed.message().await? {
            for event in frame.events {
                if let Some(Kind::Message(message)) = event.kind
                    && let Some(number) = number_of(&message.text)
                {
                    slots.note_delivery(number & NUMBER_MASK);
                }
            }
        }
        Ok(())
    }
}

/// Numbers differ between measurements in their upper half, so that no request id is used twice.
const NUMBER_MASK: u64 = 0xffff_ffff;

struct Load {
    chat: String,
    clients: Vec<Client>,
    slots: Arc<Slots>,
    readers: usize,
    /// The feed readers; they end with this.
    _reading: JoinSet<Result<()>>,
}

/// One measurement.
struct Measured {
    messages: f64,
    seconds: f64,
    /// In the order of sending, each with its sender.
    confirmed_ms: Vec<(usize, f64)>,
    delivered_ms: Vec<f64>,
}

impl Load {
    /// Opens the connections of readers and senders.
    async fn prepare(cluster: &Cluster, readers: usize) -> Result<Self> {
        let slots = Arc::new(Slots::new(readers));
        let mut reading = JoinSet::new();
        for reader in 0..readers {
            let connection = Readers { cluster, reader };
            reading.spawn(connection.open().await?.read(slots.clone()));
        }
        let clients = senders(cluster).await?;
        Ok(Self { chat: cluster.chat.clone(), clients, slots, readers, _reading: reading })
    }

    /// Sends for `span` at `rate`, or as fast as confirmations come, and waits until all of it is
    /// confirmed and delivered.
    async fn at_most(&self, span: Duration, rate: Option<f64>) -> Result<Measured> {
        let first = self.slots.next.load(Ordering::Relaxed);
        let begun = Instant::now();
        match rate {
            Some(rate) => self.at_rate(span, rate).await?,
            None => self.in_closed_loop(span).await?,
        }
        let seconds = begun.elapsed().as_secs_f64();
        let end = self.slots.next.load(Ordering::Relaxed);
        let range = usize::try_from(first)?..usize::try_from(end)?;
        ensure!(range.end <= SLOTS, "more messages than this benchmark keeps account of");
        until(STEP_LIMIT, "the last delivery", || async {
            let slots = &self.slots.delivered_us[range.clone()];
            slots.iter().rev().all(|slot| slot.load(Ordering::Acquire) > 0).then_some(())
        })
        .await?;
        let since_sent = |times: &[AtomicU64]| {
            let lengths = range.clone().map(|slot| {
                let sent = self.slots.sent_us[slot].load(Ordering::Acquire);
                times[slot].load(Ordering::Acquire).saturating_sub(sent) as f64 / 1_000.0
            });
            lengths.collect::<Vec<f64>>()
        };
        let senders = self.slots.sender[range.clone()].iter();
        let senders = senders.map(|sender| usize::from(sender.load(Ordering::Acquire)));
        Ok(Measured {
            messages: range.len() as f64,
            seconds,
            confirmed_ms: senders.zip(since_sent(&self.slots.confirmed_us)).collect(),
            delivered_ms: sorted(since_sent(&self.slots.delivered_us)),
        })
    }

    async fn in_closed_loop(&self, span: Duration) -> Result<()> {
        let end = Instant::now() + span;
        let mut sending = JoinSet::new();
        for place in 0..IN_FLIGHT {
            let sender = self.one_sender(place);
            sending.spawn(async move {
                while Instant::now() < end {
                    sender.clone().send().await?;
                }
                anyhow::Ok(())
            });
        }
        all_well(sending).await
    }

    async fn at_rate(&self, span: Duration, rate: f64) -> Result<()> {
        let mut beats = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        let room = room(IN_FLIGHT);
        let end = Instant::now() + span;
        let mut sending = JoinSet::new();
        for place in 0.. {
            beats.tick().await;
            if Instant::now() >= end {
                break;
            }
            let (room, sender) = (room.clone().acquire_owned().await?, self.one_sender(place));
            sending.spawn(async move {
                let sent = sender.send().await;
                drop(room);
                sent
            });
            while let Some(sent) = sending.try_join_next() {
                sent??;
            }
        }
        all_well(sending).await
    }

    fn one_sender(&self, place: usize) -> OneSender {
        OneSender {
            chat: self.chat.clone(),
            sender: place % SENDERS,
            client: self.clients[place % SENDERS].clone(),
            slots: self.slots.clone(),
            upper: (self.readers as u64) << 32,
        }
    }
}

async fn all_well(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

#[derive(Clone)]
struct OneSender {
    chat: String,
    sender: usize,
    client: Client,
    slots: Arc<Slots>,
    upper: u64,
}

impl OneSender {
    async fn send(mut self) -> Result<()> {
        let number = self.slots.next.fetch_add(1, Ordering::Relaxed);
        let slot = usize::try_from(number)?;
        ensure!(slot < SLOTS, "more messages than this benchmark keeps account of");
        let request = message(&self.chat, self.upper | number);
        self.slots.sender[slot].store(u8::try_from(self.sender)?, Ordering::Release);
        self.slots.sent_us[slot].store(self.slots.now_us(), Ordering::Release);
        self.client.send_message(request).await?;
        self.slots.confirmed_us[slot].store(self.slots.now_us(), Ordering::Release);
        Ok(())
    }
}

impl Measured {
    fn of_sender(&self, sender: usize) -> impl Iterator<Item = f64> {
        self.confirmed_ms.iter().filter(move |(by, _)| *by == sender).map(|(_, took)| *took)
    }

    fn latency(&self) -> Latency {
        let confirmed_ms = sorted(self.confirmed_ms.iter().map(|(_, took)| *took).collect());
        Latency {
            messages_per_second: self.messages / self.seconds,
            confirmed_p50_ms: percentile(&confirmed_ms, 0.5),
            confirmed_p99_ms: percentile(&confirmed_ms, 0.99),
            delivered_p50_ms: percentile(&self.delivered_ms, 0.5),
            delivered_p99_ms: percentile(&self.delivered_ms, 0.99),
        }
    }
}

fn heading() {
    println!(
        "{SENDERS} senders, at most {IN_FLIGHT} in flight, {PEERS} voting peers that sync, \
         {} bytes a message\n\
         times in ms as p50/p99: from send to confirmed, and to delivered at every reader\n",
        common::TEXT_BYTES,
    );
    println!(
        "readers  confirmed/s  delivered/s  at 100/s: conf.    deliv.      at half: conf.     \
         deliv.  host CPU  µs/delivery  MiB",
    );
}

fn print_row(row: &Row) {
    let pair = |p50: f64, p99: f64| format!("{p50:.2}/{p99:.2}");
    println!(
        "{:>7} {:>12} {:>12} {:>16} {:>9} {:>19} {:>10} {:>8.0}% {:>12.2} {:>4.0}",
        row.readers,
        grouped(row.confirmed_per_second as u64),
        grouped(row.deliveries_per_second as u64),
        pair(row.low.confirmed_p50_ms, row.low.confirmed_p99_ms),
        pair(row.low.delivered_p50_ms, row.low.delivered_p99_ms),
        pair(row.half.confirmed_p50_ms, row.half.confirmed_p99_ms),
        pair(row.half.delivered_p50_ms, row.half.delivered_p99_ms),
        row.host_cpu_percent,
        row.host_cpu_us_per_delivery,
        row.host_memory_mib,
    );
}
