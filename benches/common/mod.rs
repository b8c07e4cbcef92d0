//! What the benchmarks share: senders, figures of processes, percentiles.
#![allow(dead_code)] // each benchmark uses a part of it

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use demes::cli::demo::peer::Client;
use demes::wire::pb;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The length of a message's text in bytes.
pub const TEXT_BYTES: usize = 300;

/// The program that is measured.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_demes"))
}

/// A text of `TEXT_BYTES` that begins with its number.
pub fn text(number: u64) -> String {
    let mut text = format!("{number:016x} ");
    while text.len() < TEXT_BYTES {
        text.push(
            "the quick brown fox jumps over the lazy dog. ".as_bytes()[text.len() % 45].into(),
        );
    }
    text
}

/// The number at the beginning of a text.
pub fn number_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text.get(..16)?, 16).ok()
}

/// A request that waits for its confirmation.
pub fn message(chat: &str, number: u64) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        chat: chat.to_owned(),
        text: text(number),
        request_id: format!("bench-{number}"),
        wait: pb::Wait::Committed.into(),
    }
}

/// Sends messages numbered from `first` through the clients in turn, with at most `in_flight` under
/// way, and returns when all are confirmed.
pub async fn fill(
    clients: &[Client],
    chat: &str,
    first: u64,
    count: u64,
    in_flight: u64,
) -> Result<()> {
    let next = Arc::new(AtomicU64::new(first));
    let mut senders = JoinSet::new();
    for sender in 0..in_flight {
        let (next, chat) = (next.clone(), chat.to_owned());
        let mut client = clients[usize::try_from(sender)? % clients.len()].clone();
        senders.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= first + count {
                    return anyhow::Ok(());
                }
                client.send_message(message(&chat, number)).await?;
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    Ok(())
}

/// Room for calls under way, shared by senders.
pub fn room(calls: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(calls))
}

/// The value below which that share (0 to 1) of the sorted values lies; 0 of none.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let place = (share * last as f64).round() as usize;
    sorted.get(place).copied().unwrap_or(0.0)
}

/// Sorts what percentiles are taken of.
pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The processor time that a process has used, in all its threads.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    const TICKS_PER_SECOND: u64 = 100; // Linux' USER_HZ, the same on all its platforms
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("no /proc here")?;
    let after_name = stat.rsplit_once(')').context("a name in parentheses")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

/// A line of a process' status in MiB: `VmRSS` (now) or `VmHWM` (at most so far).
pub fn memory_mib(pid: u32, what: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("no /proc here")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no such line")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
