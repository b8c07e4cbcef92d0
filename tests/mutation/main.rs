//! Plants mistakes in the rules, one at a time, and sees that each is found, and by what.
//!
//! ```text
//! cargo test --release -p demes-protocol --features planted --test mutation
//!     SEEDS=2000          so many seeds of the simulation for each mistake
//!     THREADS=1           so many mistakes at a time (one for each core)
//!     -- HostCountsEarly  these mistakes only, with what every script shows of them
//! ```
//!
//! A mistake counts as found by the script that shows its rule, whose difference was read and is
//! the mistake's doing, or by the first seed that breaks an invariant. What nothing finds lacks a
//! test. Each mistake has a process of its own, because the switch is one for the process, and
//! because a mistake may keep a simulation from ever coming to its end.

#![allow(clippy::duplicate_mod, reason = "two kinds of test in one program have modules in common")]

mod catchers;
#[path = "../golden/main.rs"]
#[allow(dead_code, unused_imports, reason = "its tests are not run in here")]
mod golden;

#[path = "../sim/main.rs"]
#[allow(dead_code, unused_imports, reason = "its tests are not run in here")]
mod sim;

use std::env;
use std::io::Read as _;
use std::panic;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use demes_protocol::planted::{Bug, plant};

use sim::plan::Plan;
use sim::run::run;

/// Seeds for each mistake, and for the rules without any.
const SEEDS: u64 = 200;
/// A process that takes longer is stopped. What it had found by then counts.
const LIMIT: Duration = Duration::from_secs(120);
/// Tells a process which mistake is its.
const MISTAKE: &str = "MISTAKE";

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

fn main() -> ExitCode {
    // What cargo passes on for a test harness is not for this one.
    let chosen: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let Ok(mistake) = env::var(MISTAKE) {
        let bug = Bug::ALL.iter().find(|bug| format!("{bug:?}") == mistake);
        look(bug.copied(), !chosen.is_empty());
        return ExitCode::SUCCESS;
    }
    let is_chosen = |bug: &&Bug| chosen.is_empty() || chosen.contains(&format!("{bug:?}"));
    let bugs: Vec<_> = Bug::ALL.iter().filter(is_chosen).copied().collect();
    assert!(!bugs.is_empty(), "none of {chosen:?} can be planted");
    let begun = Instant::now();
    let findings = look_at_all(&bugs, &chosen);
    report(&findings, begun.elapsed())
}

// ---- one mistake, in a process of its own ----

/// What the tests say with this mistake planted, or with none, line by line as it is found.
fn look(bug: Option<Bug>, is_verbose: bool) {
    plant(bug);
    // Every panic in here is a finding.
    panic::set_hook(Box::new(|_| {}));
    for path in golden::scripts() {
        let name = path.file_stem().expect("it is a file").to_string_lossy().into_owned();
        if !is_verbose && bug.is_some_and(|bug| catchers::script(bug) != name) {
            continue;
        }
        let compared = panic::catch_unwind(|| golden::compare(&path, false));
        if let Err(why) = compared.unwrap_or(Err("an assertion fails".into())) {
            println!("script {name}");
            if is_verbose {
                println!("shown {name}: {}", why.replace('\n', "\nshown "));
            }
        }
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    for seed in 1..=seeds {
        if let Some(broken) = run(Plan::new(seed, None), false).broken {
            println!("seed {seed} {}", broken.invariant);
            return;
        }
    }
    println!("end {seeds}");
}

// ---- all of them ----

/// What was found of one mistake, or without any.
struct Finding {
    bug: Option<Bug>,
    scripts: Vec<String>,
    /// The first seed that breaks something, and what.
    seed: Option<(u64, String)>,
    /// It had to be stopped.
    is_endless: bool,
    shown: Vec<String>,
}

fn look_at_all(bugs: &[Bug], arguments: &[String]) -> Vec<Finding> {
    let all: Vec<_> = [None].into_iter().chain(bugs.iter().copied().map(Some)).collect();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = number("THREADS").map_or(cores, |threads| threads as usize);
    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(bug) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let finding = find(*bug, arguments);
                    println!("{}", finding.line());
                    findings.lock().expect("no thread panics").push(finding);
                }
            });
        }
    });
    let mut findings = findings.into_inner().expect("no thread panics");
    findings.sort_by_key(|finding| finding.bug.map(|bug| bug as u8));
    findings
}

fn find(bug: Option<Bug>, arguments: &[String]) -> Finding {
    let program = env::current_exe().expect("a process knows its program");
    let mistake = bug.map_or("none".into(), |bug| format!("{bug:?}"));
    let mut command = Command::new(program);
    command.args(arguments).env(MISTAKE, mistake).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a process can be started");
    let mut output = child.stdout.take().expect("it is piped");
    let reader = thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).expect("it is text");
        text
    });
    let is_endless = !ends_in_time(&mut child);
    let text = reader.join().expect("reading does not panic");
    let mut finding = Finding { bug, scripts: vec![], seed: None, is_endless, shown: vec![] };
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("script", name)) => finding.scripts.push(name.into()),
            Some(("seed", rest)) => {
                let (seed, invariant) = rest.split_once(' ').unwrap_or((rest, ""));
                finding.seed = seed.parse().ok().map(|seed| (seed, invariant.into()));
            }
            Some(("shown", text)) => finding.shown.push(text.into()),
            _ => {}
        }
    }
    finding
}

/// Waits for the end of a process, up to a limit, and then stops it.
fn ends_in_time(child: &mut Child) -> bool {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                assert!(status.success(), "a process that looks for a mistake fails: {status}");
                return true;
            }
            _ if begun.elapsed() >= LIMIT => {
                child.kill().and_then(|()| child.wait()).expect("it can be stopped");
                return false;
            }
            _ => thread::park_timeout(Duration::from_millis(20)),
        }
    }
}

impl Finding {
    fn is_caught(&self) -> bool {
        !self.scripts.is_empty() || self.seed.is_some()
    }

    fn line(&self) -> String {
        let (rule, what) = self.bug.map_or(("", " The rules as they are."), Bug::description);
        let name = self.bug.map_or(String::new(), |bug| format!("{bug:?}"));
        let script = self.scripts.join(", ");
        let seed = match &self.seed {
            Some((seed, invariant)) => format!("{seed}: {invariant}"),
            None if self.is_endless => "does not end".into(),
            None => String::new(),
        };
        format!("| {rule} | `{name}`{what} | {script} | {seed} |")
    }
}

fn report(findings: &[Finding], took: Duration) -> ExitCode {
    println!("\n| rule | mistake | script | seeds: invariant |\n|---|---|---|---|");
    let mut failures = Vec::new();
    for finding in findings {
        println!("{}", finding.line());
        match finding.bug {
            None if finding.is_caught() || finding.is_endless => {
                failures.push("without any mistake, something fails".into());
            }
            Some(bug) if !finding.is_caught() => failures.push(format!("nothing finds {bug:?}")),
            Some(bug) if finding.scripts.is_empty() => {
                let script = catchers::script(bug);
                failures.push(format!("{script} does not show {bug:?} any more"));
            }
            _ => {}
        }
        for line in &finding.shown {
            println!("{line}");
        }
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    let planted: Vec<_> = findings.iter().filter(|finding| finding.bug.is_some()).collect();
    let count = |is: fn(&Finding) -> bool| planted.iter().filter(|finding| is(finding)).count();
    let caught = count(Finding::is_caught);
    let (by_script, by_seed) = (count(|f| !f.scripts.is_empty()), count(|f| f.seed.is_some()));
    println!("{} mistakes planted, {caught} caught in {} s", planted.len(), took.as_secs());
    println!("{by_script} by a golden script, {by_seed} by the simulation");
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
