//! Model check.

mod chat;
mod configurations;
#[path = "../common/disk.rs"]
mod disk;
mod history;
mod key;
mod memory;
#[cfg(feature = "planted")]
mod mistakes;
mod peer;
mod start;
mod state;
mod step;
#[path = "../common/text.rs"]
#[allow(dead_code, reason = "the scripts show more")]
mod text;

use std::fs;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use chat::{Action, Chat};
use configurations::Configuration;
use state::State;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Explores, prints what was explored, and fails with a path where a property does not hold.
fn check(configuration: Configuration) {
    let name = configuration.name;
    let states = number("STATES").unwrap_or(configuration.states);
    let begun = Instant::now();
    let chat = Chat::new(configuration, states);
    let checker = chat.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let chat = checker.model();
    let complete = if chat.is_exhausted() { "all" } else { "to that depth" };
    println!(
        "{name}: {} states, {} unique, {} steps deep ({complete}), {:.1} s, at most {} MiB; {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth() - if chat.is_exhausted() { 1 } else { 2 },
        begun.elapsed().as_secs_f64(),
        memory_mib(),
        chat.memory.sizes(),
    );
    chat.reopen();
    let found = checker.discoveries();
    let mut failures = Vec::new();
    for property in chat.properties() {
        let path = found.get(property.name);
        match property.expectation {
            Expectation::Sometimes if path.is_none() => {
                failures.push(format!("{name}: never seen: {}", property.name));
            }
            Expectation::Always if path.is_some() => {
                let path = path.map(|path| told(chat, path)).unwrap_or_default();
                failures.push(format!("{name}: broken: {}\n{path}", property.name));
            }
            _ => {}
        }
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

#[test]
fn elections() {
    check(configurations::elections());
}

#[test]
fn replication() {
    check(configurations::replication());
}

#[test]
fn leases() {
    check(configurations::leases());
}

#[test]
fn partitions() {
    check(configurations::partitions());
}

#[test]
fn hand_overs() {
    check(configurations::hand_overs());
}

#[test]
fn voters() {
    check(configurations::voters());
}

#[test]
fn late_voters() {
    check(configurations::late_voters());
}

#[test]
fn incarnations() {
    check(configurations::incarnations());
}

#[test]
fn growing() {
    check(configurations::growing());
}

#[test]
fn adoptions() {
    check(configurations::adoptions());
}
