//! What the run tells at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{grouped, percentile, sorted};
use crate::history::Count;
use crate::menu::Fault;

/// One kind of fault under one kind of circumstances.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Row {
    pub fault: Fault,
    /// Whether the chat went on at once, so that time counts from the fault, not from the healing.
    pub goes_on: bool,
    /// Whether proxies with delays stood between the peers.
    pub delayed: bool,
}

/// What one round of it was like.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Until the first message confirmed that was sent after the fault, or after the healing.
    pub without: Duration,
    /// From the healing until everyone followed one host and had everything.
    pub healed_in: Duration,
    /// Whether another term began.
    pub failed_over: bool,
}

/// The sum of everything.
#[derive(Default)]
pub struct Report {
    pub rounds: BTreeMap<Row, Vec<Round>>,
    /// Faults that this machine cannot have: how often they were drawn, and why not.
    pub skipped: BTreeMap<&'static str, (u64, String)>,
    pub chats: u64,
    /// Hosts that took over, as the feeds tell it.
    pub hosts: u64,
    /// Terms that began without a host.
    pub terms_without_host: u64,
    pub events: u64,
    pub count: Count,
    pub refusals: BTreeMap<String, u64>,
    /// Each time that a chat stood still although a majority was there, with what was done then.
    pub stills: Vec<String>,
    pub problems: Vec<String>,
}

impl Report {
    /// Adds what a chat's clients did.
    pub fn add(&mut self, count: Count, refusals: BTreeMap<String, u64>) {
        self.count.messages += count.messages;
        self.count.confirmed += count.confirmed;
        self.count.queued += count.queued;
        self.count.unknown += count.unknown;
        for (why, times) in refusals {
            *self.refusals.entry(why).or_default() += times;
        }
    }

    fn of_problem(&self, word: &str) -> usize {
        self.problems.iter().filter(|problem| problem.starts_with(word)).count()
    }

    fn faults(&self) -> usize {
        self.rounds.values().map(Vec::len).sum()
    }

    /// For a person.
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{:<34} {:>5} {:>9} {:>8} {:>8} {:>8} {:>12}\n",
            "fault", "times", "failovers", "p50 ms", "p99 ms", "max ms", "healed in ms"
        );
        for (row, rounds) in &self.rounds {
            let times = times(rounds, |round| round.without);
            let healed = times_of_healing(rounds);
            text += &format!(
                "{:<34} {:>5} {:>9} {:>8.1} {:>8.1} {:>8.1} {:>12.0}\n",
                row.name(),
                rounds.len(),
                rounds.iter().filter(|round| round.failed_over).count(),
                percentile(&times, 0.5),
                percentile(&times, 0.99),
                times.last().unwrap_or(&0.0),
                percentile(&healed, 0.5),
            );
        }
        text += "from the fault to the first message confirmed that was sent after it; *: from the \
                 healing\n";
        for (name, (times, why)) in &self.skipped {
            text += &format!("SKIPPED {times} times: {name}: {why}\n");
        }
        for still in &self.stills {
            text += &format!("STOOD STILL {still}\n");
        }
        text
    }

    /// The last lines.
    pub fn summary(&self, elapsed: Duration, seed: u64) -> String {
        let refusals: Vec<String> =
            self.refusals.iter().map(|(why, times)| format!("{} {why}", grouped(*times))).collect();
        format!(
            "{:.1} minutes, seed {seed}: {} faults in {} chats, {} skipped; {} hosts took over, {} \
             terms without a host\n\
             {} messages sent, {} confirmed, {} more queued for sure, {} unknown; calls that \
             failed: {}\n\
             {} events; {} lost, {} doubled, {} moved, {} out of order, {} altered; {} times with \
             a majority and nothing confirmed for 3 s; {} problems in all\n",
            elapsed.as_secs_f64() / 60.0,
            self.faults(),
            self.chats,
            self.skipped.values().map(|(times, _)| times).sum::<u64>(),
            self.hosts,
            self.terms_without_host,
            grouped(self.count.messages),
            grouped(self.count.confirmed),
            self.count.queued,
            self.count.unknown,
            if refusals.is_empty() { "none".to_owned() } else { refusals.join(", ") },
            grouped(self.events),
            self.of_problem("lost"),
            self.of_problem("doubled"),
            self.of_problem("moved"),
            self.of_problem("order"),
            self.of_problem("altered"),
            self.stills.len(),
            self.problems.len(),
        )
    }

    /// For a program.
    pub fn json(&self, elapsed: Duration, seed: u64) -> Value {
        let faults: Vec<Value> = self.rounds.iter().map(|(row, rounds)| row.json(rounds)).collect();
        let skipped: Vec<Value> = self
            .skipped
            .iter()
            .map(|(name, (times, why))| json!({ "fault": name, "times": times, "reason": why }))
            .collect();
        json!({
            "minutes": (elapsed.as_secs_f64() / 6.0).round() / 10.0,
            "seed": seed,
            "chats": self.chats,
            "faults": faults,
            "fault_count": self.faults(),
            "skipped": skipped,
            "failovers": self.hosts,
            "terms_without_host": self.terms_without_host,
            "messages": self.count.messages,
            "confirmed": self.count.confirmed,
            "queued": self.count.queued,
            "unknown": self.count.unknown,
            "events": self.events,
            "lost": self.of_problem("lost"),
            "doubled": self.of_problem("doubled"),
            "moved": self.of_problem("moved"),
            "out_of_order": self.of_problem("order"),
            "altered": self.of_problem("altered"),
            "stood_still": self.stills,
            "problems": self.problems,
        })
    }
}

impl Row {
    fn name(&self) -> String {
        let delayed = if self.delayed { ", delays" } else { "" };
        let from_healing = if self.goes_on { "" } else { " *" };
        format!("{}{delayed}{from_healing}", self.fault.name())
    }

    fn json(&self, rounds: &[Round]) -> Value {
        let times = times(rounds, |round| round.without);
        json!({
            "fault": self.fault.name(),
            "delays": self.delayed,
            "from": if self.goes_on { "fault" } else { "healing" },
            "times": rounds.len(),
            "failovers": rounds.iter().filter(|round| round.failed_over).count(),
            "p50_ms": percentile(&times, 0.5),
            "p99_ms": percentile(&times, 0.99),
            "max_ms": times.last(),
            "healed_in_p50_ms": percentile(&times_of_healing(rounds), 0.5),
            "healed_in_max_ms": times_of_healing(rounds).last(),
        })
    }
}

fn times(rounds: &[Round], of: impl Fn(&Round) -> Duration) -> Vec<f64> {
    sorted(rounds.iter().map(|round| of(round).as_secs_f64() * 1_000.0).collect())
}

fn times_of_healing(rounds: &[Round]) -> Vec<f64> {
    times(rounds, |round| round.healed_in)
}
