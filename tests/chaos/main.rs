//! Chaos: chats of real `demes` processes with real keys, networks and files, broken in every way
//! that this machine allows, while people write and read; then everything is compared.
//!
//!     cargo test --test chaos                       # a short run
//!     cargo test --test chaos -- --minutes 3
//!     cargo test --test chaos -- --minutes 60 --seed 7
//!     cargo test --test chaos -- --minutes 1 --only killed --peers 3
//!
//! Read `round` for what a fault is like, `plan` for the menu, `arena` for how harm is done, and
//! `history` and `store` for what must hold in the end. It needs no rights: where the machine
//! allows it, the run makes a world of its own (`sandbox`), with a machine for each peer
//! (`network`) and a small disk (`disk`); where not, it says what it skips, and why.

mod arena;
#[path = "../../benches/common/mod.rs"]
mod common;
mod disk;
mod draw;
mod dry_run;
#[path = "../common/history.rs"]
mod history;
mod loopback;
#[path = "../common/machine.rs"]
mod machine;
mod menu;
mod network;
mod packet;
mod plan;
mod report;
mod round;
#[path = "../common/sandbox.rs"]
mod sandbox;
mod shim;
#[path = "../common/store.rs"]
mod store;
mod stores;
mod switch;
mod tools;
mod watch;
#[path = "../common/workload.rs"]
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Parser;
use demes::protocol::prng::Prng;
use tokio::signal::unix::{SignalKind, signal};

use report::Report;
use round::{Chat, Lacks, Setting};
use tools::Tools;
use watch::Pulse;

/// What one chat after the other is like: peers, and whether proxies delay what they say.
const SETTINGS: [(usize, bool); 4] = [(5, false), (5, true), (3, false), (4, true)];
/// The namespaces of a world of its own, for which nobody needs rights.
const WORLD: [&str; 6] = ["--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"];
/// What the faults need.
const PROBE: &str = "\
    set -e
    ip link add cable type veth peer name eth0
    ip rule add from 10.0.0.1 to 10.0.0.2 blackhole
    echo 1 > /proc/sys/net/ipv4/ip_forward
    mount -t tmpfs -o size=1m none /tmp";
/// A chat's life is at most so long.
const CHAT_LIMIT: Duration = Duration::from_secs(300);
/// How far peers are from each other in a chat with delays, one way, until they are moved.
const DELAY: Duration = Duration::from_millis(4);

#[derive(Parser)]
struct Options {
    /// How long faults happen; the first chat's founding and the last check come on top
    #[arg(long, default_value_t = 0.25)]
    minutes: f64,
    /// Draws the faults [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Messages a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Peers in every chat, 2 to 7 [default: 5, 3 and 4 in turn]
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=7))]
    peers: Option<u8>,
    /// Only faults with this in their names; may be given again
    #[arg(long)]
    only: Vec<String>,
    /// Run on loopback, as on a machine that does not allow more
    #[arg(long)]
    loopback: bool,
    /// Go on with the next chat when something is wrong in one
    #[arg(long)]
    go_on: bool,
    /// Leave the data directories where they are
    #[arg(long)]
    keep: bool,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
    /// The program under test [default: the one built with this]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// What `cargo test` gives to every test: names of tests, and how to run them
    #[arg(hide = true)]
    names: Vec<String>,
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        println!("chaos: test");
        return Ok(ExitCode::SUCCESS);
    }
    if !options.names.is_empty() && !options.names.iter().any(|name| "chaos".contains(name)) {
        return Ok(ExitCode::SUCCESS); // another test is meant
    }
    history::check_yourself();
    dry_run::check_yourself();
    packet::check_yourself();
    switch::check_yourself();
    watch::check_yourself();
    let no_own_world = match options.loopback {
        true => Some("--loopback was given".to_owned()),
        false => sandbox::enter(&WORLD, PROBE).err(),
    };
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(
        async {
            tokio::select! {
                held = run(&options, no_own_world) => held,
                signal = stop_signal() => {
                    let number = signal?;
                    println!("ended by signal {number}");
                    Ok(ExitCode::from(128 + number))
                }
            }
        },
    )
}

/// Chat after chat until the time is over.
async fn run(options: &Options, no_own_world: Option<String>) -> Result<ExitCode> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).context("it is after 1970")?;
    let seed = options.seed.unwrap_or_else(|| Prng::new(clock.as_micros() as u64).below(1 << 32));
    let total = Duration::from_secs_f64(options.minutes * 60.0);
    println!("chaos: {:.2} minutes, seed {seed}", options.minutes);
    let tools = Tools::build();
    let lacks = lacks(no_own_world, &tools);
    let pulse = Pulse::begin()?;
    let mut prng = Prng::new(seed);
    let mut report = Report::default();
    let mut deck = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < total && (report.problems.is_empty() || options.go_on) {
        let (peers, delayed) = SETTINGS[report.chats as usize % SETTINGS.len()];
        let left = total.saturating_sub(begun.elapsed());
        let setting = Setting {
            peers: options.peers.map_or(peers, usize::from),
            delay: delayed.then_some(DELAY),
            rate: options.rate,
            only: options.only.clone(),
            keep: options.keep,
            lacks: lacks.clone(),
            lasts: (total / 3).max(Duration::from_secs(60)).min(CHAT_LIMIT).min(left),
        };
        let binary = options.binary.clone().unwrap_or_else(|| common::binary().to_owned());
        let seed = prng.next_u64();
        let tools = tools.as_ref().ok();
        let mut chat = Chat::found(&binary, setting, tools, pulse.clone(), seed).await?;
        let lived = chat.live(&mut deck, &mut report).await;
        chat.end(lived, &mut report).await;
    }
    print!("{}{}", report.table(), report.summary(begun.elapsed(), seed));
    for problem in &report.problems {
        println!("PROBLEM {problem}");
    }
    if options.json {
        println!("{}", report.json(begun.elapsed(), seed));
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What this machine does not have; it is said at once.
fn lacks(own_world: Option<String>, tools: &Result<Tools>) -> Lacks {
    let no_tools = tools.as_ref().err().map(|error| format!("{error:#}"));
    let no_switch = || {
        let tools = tools.as_ref().ok()?;
        switch::probe(&tools.tun()).err().map(|error| format!("{error:#}"))
    };
    let lacks = Lacks {
        switch: own_world.clone().or_else(|| no_tools.clone()).or_else(no_switch),
        own_world,
        shim: no_tools,
    };
    if let Some(why) = &lacks.own_world {
        println!("SKIPPED: networks and disks of their own ({why}); proxies cut the links instead");
    }
    if let Some(why) = &lacks.switch {
        println!("SKIPPED: a switch between the peers ({why}); proxies delay, without jitter");
    }
    if let Some(why) = &lacks.shim {
        println!("SKIPPED: slow and failing syncs and bent clocks ({why})");
    }
    lacks
}

/// The number of the first signal that asks the program to end.
async fn stop_signal() -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    })
}
