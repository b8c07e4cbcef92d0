//! Model check: the shipped `Replica`, three times, in every order of events within some bounds.
//!
//! ```text
//! cargo test --release -p demes-protocol --test model                 the normal run
//!     TIMES=20 … -- --nocapture --test-threads=1                      20 times as far
//!     STATES=1000000 … -- --nocapture --exact elections               one of them, so far
//!     THREADS=2                                                       on so many threads
//! cargo test --release -p demes-protocol --features planted --test model mistakes
//! ```
//!
//! A state is three peers, their disks, what is on its way, and what was promised (`state`). What
//! may happen next is in `chat`, how it happens in `step` and `peer`, what must hold in `history`
//! and `step`. `configurations` says what is left free where, and `start` where it begins. The
//! breadth-first search is stateright's. States count as equal where nothing that a peer will do
//! can tell them apart (`key`, and `demes_protocol::situation`); `memory` keeps what was met, and
//! compares samples of what it takes for equal.

mod chat;
mod configurations;
#[path = "../common/disk.rs"]
#[allow(dead_code, reason = "torn writes and offline looks are for the simulation")]
mod disk;
#[path = "../common/false_reign.rs"]
mod false_reign;
mod history;
mod key;
mod lies;
mod memory;
#[cfg(feature = "planted")]
mod mistakes;
mod peer;
#[path = "../common/signing.rs"]
mod signing;
mod start;
mod state;
mod step;
#[path = "../common/text.rs"]
#[allow(dead_code, reason = "the scripts show more")]
mod text;

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use demes_protocol::planted::PLANTED;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use chat::{Action, Chat};
use configurations::Configuration;
use state::State;

/// A configuration with fewer states than this leaves nothing free.
const STATES_MIN: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What came of exploring a configuration.
struct Explored {
    /// What was explored, in one line.
    line: String,
    unique: u64,
    /// Each promise that is broken, with the path to there.
    broken: Vec<(&'static str, String)>,
    /// What was to be seen, and was not.
    unseen: Vec<&'static str>,
    /// Peers that did otherwise than those that they were taken for, and how many were compared.
    different: u64,
    compared: u64,
}

/// Looks at what may follow each of `states` states, the nearest first, or up to the first that
/// breaks a promise.
fn explore(name: &str, chat: Chat) -> Explored {
    let begun = Instant::now();
    let threads = number("THREADS").unwrap_or(1) as usize;
    let checker = chat.checker().threads(threads);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let chat = checker.model();
    let (all, depth) = match chat.is_exhausted() {
        true => ("all there are", checker.max_depth() - 1),
        false => ("all up to that depth", checker.max_depth().saturating_sub(2)),
    };
    let sizes = chat.memory.sizes();
    let line = format!(
        "{name}: {} states, {} unique, {depth} steps deep ({all}), {:.1} s, at most {} MiB; {} \
         situations of a peer, {} messages, {} of {} compared differ",
        checker.state_count(),
        checker.unique_state_count(),
        begun.elapsed().as_secs_f64(),
        memory_mib(),
        sizes.peers,
        sizes.messages,
        sizes.different,
        sizes.compared,
    );
    chat.reopen();
    let found = checker.discoveries();
    let (mut broken, mut unseen) = (Vec::new(), Vec::new());
    for property in chat.properties() {
        match (property.expectation, found.get(property.name)) {
            (Expectation::Sometimes, None) => unseen.push(property.name),
            (Expectation::Always, Some(path)) => broken.push((property.name, told(chat, path))),
            _ => {}
        }
    }
    let (unique, compared) = (checker.unique_state_count() as u64, sizes.compared);
    Explored { line, unique, broken, unseen, different: sizes.different, compared }
}

/// In a build that can plant mistakes, which are planted for the whole process, one test at a time.
fn unplanted() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    PLANTED.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Explores, prints what was explored, and fails with a path where a promise is broken.
fn check(configuration: Configuration) {
    let _turn = unplanted();
    let name = configuration.name;
    let states = configuration.states * number("TIMES").unwrap_or(1);
    let states = number("STATES").unwrap_or(states);
    let explored = explore(name, Chat::new(configuration, states));
    println!("{}", explored.line);
    let mut failures = Vec::new();
    for (promise, path) in &explored.broken {
        failures.push(format!("{name}: broken: {promise}\n{path}"));
    }
    if explored.broken.is_empty() {
        failures.extend(explored.unseen.iter().map(|sight| format!("{name}: never seen: {sight}")));
    }
    if explored.unique < states.min(STATES_MIN) {
        failures.push(format!("{name}: there is next to nothing to explore"));
    }
    if explored.different > 0 || explored.compared == 0 {
        failures.push(format!("{name}: peers are taken for others: {}", explored.line));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A path in words: what is done, and below it what comes of it.
fn told(chat: &Chat, path: &Path<State, Action>) -> String {
    let mut text = String::new();
    for (state, action) in path.clone().into_vec() {
        let Some(action) = action else { break };
        text += &format!("> {}\n", chat.format(&state, action));
        for line in chat.step(&state, action, true).1 {
            text += &format!("  {line}\n");
        }
    }
    text
}

/// The most memory that this process ever had, where the system tells.
fn memory_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}

macro_rules! configurations {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                check(configurations::$name());
            }
        )+
    };
}

configurations! {
    adoptions attaches elections growing hand_overs incarnations late_adoptions late_voters leases
    lies     old_copies parted_voters partitions replication voters votes
}
