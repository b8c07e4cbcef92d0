//! Long logs and quiet chats.
//!
//!     cargo bench --bench catchup
//!
//! Three measurements: a member that missed 100,000 messages comes back; a peer with 1,000,000
//! messages starts; five peers have nothing to say to each other.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use demes::cli::demo::cluster::Cluster;
use demes::cli::demo::peer::until;
use demes::wire::pb;

use common::{binary, cpu_time, fill, grouped, memory_mib};

const IN_FLIGHT: u64 = 768;
const QUOTA: pb::Quota = pb::Quota { bytes_per_day: 1 << 40, changes_per_day: 1_024 };
/// A chat counts as quiet this long after its last message.
const QUIET_AFTER: Duration = Duration::from_secs(12);
/// The longest catch-up or start.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Options {
    /// Messages that the returning member missed; 0 leaves this out
    #[arg(long, default_value_t = 100_000)]
    missed: u64,
    /// Messages of the peer that starts; 0 leaves this out
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Seconds for which the quiet chat is watched; 0 leaves this out
    #[arg(long, default_value_t = 20)]
    quiet_seconds: u64,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if options.missed > 0 {
        come_back(options.missed).await?;
    }
    if options.messages > 0 {
        start_with(options.messages).await?;
    }
    if options.quiet_seconds > 0 {
        keep_quiet(Duration::from_secs(options.quiet_seconds)).await?;
    }
    Ok(())
}

/// From the start of the returning member's process to everything confirmed being there.
async fn come_back(missed: u64) -> Result<()> {
    let mut cluster = Cluster::new(binary(), &["Ada", "Ben", "Cleo"], &[])?;
    cluster.start_all().await?;
    cluster.found("Catch-up").await?;
    let host = cluster.host().await?;
    let late = (host + 1) % 3;
    cluster.peers[late].kill()?;
    let client = cluster.peers[host].client();
    eprintln!("{} messages are sent while one of three is away", grouped(missed));
    fill(&[client], &cluster.chat, 0, missed, IN_FLIGHT).await?;
    let goal = cluster.chat_at(host).await?.committed;

    let started = Instant::now();
    cluster.peers[late].start().await?;
    let answered = started.elapsed();
    until(LIMIT, "the member to catch up", || async {
        (cluster.chat_at(late).await.ok()?.committed >= goal).then_some(())
    })
    .await?;
    let took = started.elapsed();
    println!(
        "missed {} messages: caught up {:.2} s after the start ({:.0} ms until it answered), \
         {} messages/s",
        grouped(missed),
        took.as_secs_f64(),
        answered.as_secs_f64() * 1_000.0,
        grouped((missed as f64 / took.as_secs_f64()) as u64),
    );
    Ok(())
}

/// From the start of the process to its first answer about the chat, and its memory then.
async fn start_with(messages: u64) -> Result<()> {
    let mut cluster = Cluster::new(binary(), &["Ada"], &[])?;
    cluster.start_all().await?;
    cluster.found("Long").await?;
    // One author adds more than members may in a day, unless they have agreed on that.
    cluster.allow(0, QUOTA).await?;
    eprintln!("{} messages are sent to a chat of one", grouped(messages));
    let client = cluster.peers[0].client();
    fill(&[client], &cluster.chat, 0, messages, IN_FLIGHT).await?;
    let goal = cluster.chat_at(0).await?.committed;
    cluster.peers[0].kill()?;

    let started = Instant::now();
    cluster.peers[0].start().await?;
    let answered = started.elapsed();
    until(LIMIT, "the whole log", || async {
        let chat = cluster.chat_at(0).await.ok()?;
        (chat.committed >= goal && chat.serving).then_some(())
    })
    .await?;
    let serves = started.elapsed();
    let pid = cluster.peers[0].pid().context("it runs")?;
    println!(
        "a log of {} messages after kill -9: answers in {:.0} ms, hosts in {:.0} ms, RSS {:.0} MiB \
         (at most {:.0})",
        grouped(messages),
        answered.as_secs_f64() * 1_000.0,
        serves.as_secs_f64() * 1_000.0,
        memory_mib(pid, "VmRSS")?,
        memory_mib(pid, "VmHWM")?,
    );
    Ok(())
}

/// The processor time of five peers whose chat is quiet.
async fn keep_quiet(span: Duration) -> Result<()> {
    let mut cluster = Cluster::new(binary(), &["Ada", "Ben", "Cleo", "Dan", "Eve"], &[])?;
    cluster.start_all().await?;
    cluster.found("Quiet").await?;
    tokio::time::sleep(QUIET_AFTER).await;
    let host = cluster.host().await?;
    let pids: Option<Vec<u32>> = cluster.peers.iter().map(|peer| peer.pid()).collect();
    let pids = pids.context("all run")?;
    let before = pids.iter().map(|pid| cpu_time(*pid)).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(span).await;
    for (place, (pid, before)) in pids.iter().zip(before).enumerate() {
        let share = (cpu_time(*pid)? - before).as_secs_f64() / span.as_secs_f64();
        println!(
            "quiet chat of five, {} s: {:<5} {:.2} % of a core, {:.0} MiB{}",
            span.as_secs(),
            cluster.peers[place].name,
            share * 100.0,
            memory_mib(*pid, "VmRSS")?,
            if place == host { ", hosts" } else { "" },
        );
    }
    Ok(())
}
