//! The processes that open harmed stores. One does its share of the cases one after the other and
//! prints how each ends; where the storage library ends it, another starts over that case's files,
//! as whoever supervises a peer would, and the rest of the share is done by a new one.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{fs, panic, thread};

use demes::cli::EXIT_DISK;
use demes::storage::{Panic, take_panic};

use super::battery::{Battery, Counts};
use super::sample::{Sample, temporary};
use super::verdict::Verdict;

/// One case may take so long.
const CASE_LIMIT: Duration = Duration::from_secs(60);
/// After a start that ended the process, so many more may do the same before one refuses the store.
const ENDS_MAX: usize = 2;
/// The first argument of a worker.
const WORKER: &str = "worker";

/// What a worker is to do.
pub struct Order {
    battery: String,
    from: usize,
    through: usize,
    /// The first case has ended a process before this one.
    is_again: bool,
    dir: PathBuf,
}

/// The order that stands on a command line, if one does.
pub fn order(arguments: &[String]) -> Option<Order> {
    let [worker, battery, from, through, is_again, dir] = arguments else { return None };
    (worker == WORKER).then(|| Order {
        battery: battery.clone(),
        from: from.parse().expect("a number"),
        through: through.parse().expect("a number"),
        is_again: is_again.parse().expect("true or false"),
        dir: dir.into(),
    })
}

/// Does the cases of an order, and prints `begin N` and `end N VERDICT` for each.
pub fn obey(order: &Order) -> ExitCode {
    end_as_the_program_does();
    let sample = Sample::new();
    let batteries = Battery::all(&sample);
    let battery = batteries.iter().find(|battery| battery.name == order.battery);
    let battery = battery.expect("a battery of that name");
    for case in order.from..order.through {
        let dir = case_dir(&order.dir, case);
        println!("begin {case}");
        let verdict = if order.is_again {
            battery.examine_after_end(&sample, case, &dir);
            Verdict::Ends
        } else {
            fs::create_dir_all(&dir).expect("it is writable");
            battery.examine(&sample, case, &dir)
        };
        fs::remove_dir_all(&dir).expect("it is writable");
        println!("end {case} {}", verdict as u8);
    }
    ExitCode::SUCCESS
}

/// Like `main.rs`: the storage library's own panics are told as damage, or end the process.
fn end_as_the_program_does() {
    let show = panic::take_hook();
    panic::set_hook(Box::new(move |told| match take_panic() {
        Panic::Caught => {}
        Panic::Ends(_) => process::exit(i32::from(EXIT_DISK)),
        Panic::Other => show(told),
    }));
}

fn case_dir(dir: &Path, case: usize) -> PathBuf {
    dir.join(case.to_string())
}

/// Runs every case of a battery in some processes, and counts how they end.
///
/// # Errors
/// The first case that does not end well.
pub fn run(battery: &Battery) -> Result<Counts, String> {
    let processes = thread::available_parallelism().map_or(2, usize::from);
    let share = battery.harms.len().div_ceil(processes).max(1);
    let shares = (0..battery.harms.len()).step_by(share);
    let counted: Vec<Result<Counts, String>> = thread::scope(|scope| {
        let workers = shares.map(|from| {
            let through = battery.harms.len().min(from + share);
            scope.spawn(move || run_share(battery, from, through))
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().map(|worker| worker.join().expect("it does not panic")).collect()
    });
    let mut all = Counts::new();
    for counts in counted {
        for (verdict, count) in counts? {
            *all.entry(verdict).or_default() += count;
        }
    }
    Ok(all)
}

fn run_share(battery: &Battery, from: usize, through: usize) -> Result<Counts, String> {
    let dir = temporary();
    let mut counts = Counts::new();
    let mut next = from;
    let mut ends = 0;
    while next < through {
        // After an end, a process does only that case again.
        let until = if ends > 0 { next + 1 } else { through };
        let arguments = [
            WORKER.to_owned(),
            battery.name.to_owned(),
            next.to_string(),
            until.to_string(),
            (ends > 0).to_string(),
            dir.path().display().to_string(),
        ];
        let ended = Worker::start(&arguments)?.watch(|case, verdict| {
            *counts.entry(verdict).or_default() += 1;
            next = case + 1;
            ends = 0;
        });
        let told =
            |what| format!("case {next}, {:?}: {what}", battery.harms[next.min(through - 1)]);
        match ended.map_err(told)? {
            Some(0) => {}
            Some(code) if code == i32::from(EXIT_DISK) => {
                ends += 1;
                if ends > ENDS_MAX {
                    return Err(told("every start ends the process".to_owned()));
                }
            }
            other => return Err(told(format!("the process ended with {other:?}"))),
        }
    }
    Ok(counts)
}

struct Worker(Child);

impl Worker {
    fn start(arguments: &[String]) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().map(Self).map_err(|error| error.to_string())
    }

    /// Passes on how each case ends. Gives the process's exit code, or `None` for a signal.
    fn watch(mut self, mut ended: impl FnMut(usize, Verdict)) -> Result<Option<i32>, String> {
        let stdout = self.0.stdout.take().expect("it is piped");
        let (lines, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if lines.send(line).is_err() {
                        return;
                    }
                }
            });
            let watched = loop {
                match told.recv_timeout(CASE_LIMIT) {
                    Ok(line) => {
                        if let Some((case, verdict)) = parse_end(&line) {
                            ended(case, verdict);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => break Ok(()),
                    Err(RecvTimeoutError::Timeout) => {
                        let _ = self.0.kill();
                        break Err("it does not come to an end".to_owned());
                    }
                }
            };
            let status = self.0.wait().map_err(|error| error.to_string())?;
            watched.map(|()| status.code())
        })
    }
}

fn parse_end(line: &str) -> Option<(usize, Verdict)> {
    let (case, verdict) = line.strip_prefix("end ")?.split_once(' ')?;
    let verdict: u8 = verdict.parse().ok()?;
    let verdict = Verdict::ALL.into_iter().find(|known| *known as u8 == verdict)?;
    Some((case.parse().ok()?, verdict))
}
