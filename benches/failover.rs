//! How long a chat is without a host: five peers on loopback, a sender that does not host, the host
//! killed (or frozen) again and again.
//!
//!     cargo bench --bench failover -- --kills 100
//!     cargo bench --bench failover -- --stop 20
//!
//! Measured from the kill to the first message confirmed that was sent after it. The lost peer is
//! back, voting and caught up before the next round. At the end every feed is checked; the exit
//! code is 1 if a confirmed message is lost, doubled or moved.

mod common;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use demes::cli::demo::check::{Confirmed, Line, check};
use demes::cli::demo::cluster::{Cluster, STEP_LIMIT};
use demes::cli::demo::peer::{Client, until};
use demes::wire::pb;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;

use common::{binary, grouped, message, percentile, room, sorted};

/// Calls under way at most; beyond that the sender skips beats, which are counted.
const IN_FLIGHT_MAX: usize = 8_000;
/// Confirmed messages through a newly chosen sender before the next round.
const STEADY_MESSAGES: u64 = 300;

#[derive(Parser)]
struct Options {
    /// Rounds in which the host is killed
    #[arg(long, default_value_t = 0)]
    kills: u32,
    /// Rounds in which the host is frozen, and continued when it was followed
    #[arg(long, default_value_t = 0)]
    stop: u32,
    /// Messages a second
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Peers in the chat
    #[arg(long, default_value_t = 5)]
    peers: usize,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut options = Options::parse();
    if options.kills + options.stop == 0 {
        options.kills = 20;
    }
    let names = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Fay", "Gus"];
    ensure!((3..=names.len()).contains(&options.peers), "--peers must be 3 to 7");
    let mut cluster = Cluster::new(binary(), &names[..options.peers], &[])?;
    cluster.start_all().await?;
    cluster.found("Failover").await?;
    let host = cluster.host().await?;
    let first_sender = (host + 1) % options.peers;
    let sender = Sender::start(&cluster, first_sender, options.rate);

    let mut rounds = Vec::new();
    for round in 0..options.kills + options.stop {
        let freeze = round >= options.kills;
        let taken = lose_one_host(&mut cluster, &sender, freeze).await?;
        let what = if freeze { "stop" } else { "kill" };
        eprintln!(
            "{what} {:>3}: {:>7.1} ms, host {} → {}, terms {} → {}, back in {:.0} ms",
            round + 1,
            taken.without_host_ms,
            taken.lost,
            taken.next,
            taken.terms.0,
            taken.terms.1,
            taken.back_ms,
        );
        rounds.push((freeze, taken));
    }
    let (confirmed, calls) = sender.stop().await?;
    let feeds = cluster.feeds(1).await?;
    report(&options, &rounds, &feeds, &confirmed, calls)
}

/// One round.
struct Taken {
    without_host_ms: f64,
    lost: String,
    next: String,
    terms: (u64, u64),
    back_ms: f64,
}

async fn lose_one_host(cluster: &mut Cluster, sender: &Sender, freeze: bool) -> Result<Taken> {
    let (host, term) = cluster.host_above(0, STEP_LIMIT).await?;
    sender.use_peer(cluster, last_in_line(cluster, host).await?).await?;
    let (host_now, term_now) = cluster.host_above(0, STEP_LIMIT).await?;
    ensure!((host, term) == (host_now, term_now), "an election that nobody caused, before a kill");

    let pid = Pid::from_raw(i32::try_from(cluster.peers[host].pid().context("it runs")?)?);
    sender.mark();
    if freeze {
        kill(pid, Signal::SIGSTOP)?;
    } else {
        cluster.peers[host].kill()?;
    }
    let without_host = match sender.first_after_mark().await {
        Ok(length) => length,
        Err(error) => return Err(error.context(cluster.describe().await)),
    };
    let (next, next_term) = next_host(cluster, host, term).await?;

    let back = Instant::now();
    if freeze {
        kill(pid, Signal::SIGCONT)?;
    } else {
        cluster.peers[host].start().await?;
    }
    wait_until_back(cluster, host, next, next_term).await?;
    Ok(Taken {
        without_host_ms: without_host.as_secs_f64() * 1_000.0,
        lost: cluster.peers[host].name.clone(),
        next: cluster.peers[next].name.clone(),
        terms: (term, next_term),
        back_ms: back.elapsed().as_secs_f64() * 1_000.0,
    })
}

/// The member that is last on the published list: the least likely to host next.
async fn last_in_line(cluster: &Cluster, host: usize) -> Result<usize> {
    let ranking = cluster.chat_at(host).await?.ranking.unwrap_or_default();
    let places = ranking.candidates.iter().rev().filter_map(|one| cluster.place_of(&one.peer_id));
    let ranked = places.into_iter().find(|place| *place != host);
    Ok(ranked.unwrap_or((host + 1) % cluster.peers.len()))
}

/// The host after `lost`, as any other member sees it.
async fn next_host(cluster: &Cluster, lost: usize, term: u64) -> Result<(usize, u64)> {
    let found = until(STEP_LIMIT, "the next host", || async {
        for place in (0..cluster.peers.len()).filter(|place| *place != lost) {
            let chat = cluster.chat_at(place).await.ok()?;
            let host = cluster.place_of(&chat.host_peer_id);
            if let Some(host) =
                host.filter(|host| *host != lost && chat.serving && chat.term > term)
            {
                return Some((host, chat.term));
            }
        }
        None
    });
    found.await
}

/// The lost peer follows the new host, votes, and has what the host had confirmed by then.
async fn wait_until_back(cluster: &Cluster, lost: usize, host: usize, term: u64) -> Result<()> {
    let lost_id = &cluster.peers[lost].id;
    let back = until(STEP_LIMIT, "the lost peer to be back", || async {
        let goal = cluster.chat_at(host).await.ok()?;
        let there = cluster.chat_at(lost).await.ok()?;
        let member = goal.members.iter().find(|member| member.peer_id == *lost_id)?;
        let follows = there.serving && there.term >= term && there.role() == pb::Role::Follower;
        let caught_up = there.committed >= goal.committed && goal.committed > 0;
        (follows && caught_up && member.voter && member.reachable).then_some(())
    });
    match back.await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(cluster.describe().await)),
    }
}

/// Sends at a fixed rate, whether or not the answers come.
struct Sender {
    state: Arc<Mutex<State>>,
    task: JoinHandle<Calls>,
}

struct State {
    client: Client,
    author: String,
    stopped: bool,
    /// Confirmed through the present peer since it was chosen.
    through_present: u64,
    mark: Option<Instant>,
    first_after_mark: Option<Duration>,
    confirmed: Confirmed,
    failed: u64,
}

/// What became of the calls.
#[derive(Clone, Copy)]
struct Calls {
    skipped: u64,
    failed: u64,
}

impl Sender {
    fn start(cluster: &Cluster, peer: usize, rate: u32) -> Self {
        let state = Arc::new(Mutex::new(State {
            client: cluster.peers[peer].client(),
            author: cluster.peers[peer].id.clone(),
            stopped: false,
            through_present: 0,
            mark: None,
            first_after_mark: None,
            confirmed: Confirmed::default(),
            failed: 0,
        }));
        let beat = Duration::from_secs(1) / rate;
        let task = tokio::spawn(send_at_rate(state.clone(), cluster.chat.clone(), beat));
        Self { state, task }
    }

    /// Sends through another peer from now on, and waits until that goes smoothly.
    async fn use_peer(&self, cluster: &Cluster, peer: usize) -> Result<()> {
        {
            let mut state = lock(&self.state);
            state.client = cluster.peers[peer].client();
            state.author = cluster.peers[peer].id.clone();
            state.through_present = 0;
        }
        let steady = until(STEP_LIMIT, "messages through the sender's peer", || async {
            (lock(&self.state).through_present >= STEADY_MESSAGES).then_some(())
        });
        match steady.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(cluster.describe().await)),
        }
    }

    /// The moment of the kill is now.
    fn mark(&self) {
        let mut state = lock(&self.state);
        state.mark = Some(Instant::now());
        state.first_after_mark = None;
    }

    /// From the mark to the first confirmation of a message that was sent after it.
    async fn first_after_mark(&self) -> Result<Duration> {
        until(STEP_LIMIT, "a message confirmed after the kill", || async {
            lock(&self.state).first_after_mark
        })
        .await
    }

    async fn stop(self) -> Result<(Confirmed, Calls)> {
        lock(&self.state).stopped = true;
        let calls = self.task.await?;
        let state = lock(&self.state);
        Ok((state.confirmed.clone(), Calls { failed: state.failed, ..calls }))
    }
}

async fn send_at_rate(state: Arc<Mutex<State>>, chat: String, beat: Duration) -> Calls {
    let room = room(IN_FLIGHT_MAX);
    let mut calls = Calls { skipped: 0, failed: 0 };
    let mut beats = tokio::time::interval(beat);
    for number in 0.. {
        beats.tick().await;
        if lock(&state).stopped {
            break;
        }
        match room.clone().try_acquire_owned() {
            Ok(place) => {
                let call = send_one(state.clone(), message(&chat, number));
                tokio::spawn(async move {
                    call.await;
                    drop(place);
                });
            }
            Err(_) => calls.skipped += 1,
        }
    }
    let all = u32::try_from(IN_FLIGHT_MAX).expect("thousands fit");
    let _all_are_back = room.acquire_many(all).await;
    calls
}

async fn send_one(state: Arc<Mutex<State>>, message: pb::SendMessageRequest) {
    let (mut client, author) = {
        let state = lock(&state);
        (state.client.clone(), state.author.clone())
    };
    let request_id = message.request_id.clone();
    let sent = Instant::now();
    let answer = client.send_message(message).await;
    let now = Instant::now();
    let mut state = lock(&state);
    match answer {
        Ok(answer) => {
            state.confirmed.note(&author, &request_id, answer.into_inner().sequence);
            if author == state.author {
                state.through_present += 1;
            }
            if let Some(mark) = state.mark.filter(|mark| sent > *mark) {
                state.first_after_mark.get_or_insert(now - mark);
            }
        }
        Err(_) => state.failed += 1,
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(
    options: &Options,
    rounds: &[(bool, Taken)],
    feeds: &[(String, Vec<Line>)],
    confirmed: &Confirmed,
    calls: Calls,
) -> Result<ExitCode> {
    for (freeze, name) in [(false, "killed"), (true, "frozen")] {
        let of_kind = rounds.iter().filter(|(frozen, _)| *frozen == freeze);
        let times = sorted(of_kind.map(|(_, taken)| taken.without_host_ms).collect());
        if let Some(max) = times.last() {
            println!(
                "host {name} {} times, {} peers, {} messages/s: until a message sent afterwards is \
                 confirmed: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {max:.1} ms",
                times.len(),
                options.peers,
                options.rate,
                percentile(&times, 0.5),
                percentile(&times, 0.9),
                percentile(&times, 0.99),
            );
        }
    }
    let (_, first_feed) = feeds.first().context("peers have feeds")?;
    let terms: Vec<u64> = first_feed.iter().filter_map(|line| line.host_term).collect();
    let reigns = terms.len() as u64;
    let last_term = terms.last().copied().unwrap_or(0);
    println!(
        "elections: {} for {} losses, {} that no loss caused; {} terms without a host",
        reigns.saturating_sub(1),
        rounds.len(),
        reigns.saturating_sub(1 + rounds.len() as u64),
        last_term.saturating_sub(reigns),
    );
    let problems = check(feeds, confirmed).err().unwrap_or_default();
    let count = |word: &str| problems.iter().filter(|problem| problem.starts_with(word)).count();
    println!(
        "messages: {} confirmed, {} lost, {} doubled, {} moved; {} calls failed, {} beats skipped",
        grouped(confirmed.len() as u64),
        count("lost"),
        count("doubled"),
        count("moved"),
        calls.failed,
        calls.skipped,
    );
    for problem in problems.iter().take(20) {
        eprintln!("{problem}");
    }
    println!(
        "feeds: {} compared, {}",
        feeds.len(),
        match problems.len() {
            0 => "all equal".to_owned(),
            count => format!("{count} problems"),
        }
    );
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
