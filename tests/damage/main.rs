//! Damaged stores (R37, R38): bytes flipped, files cut, emptied, deleted, replaced by older copies.
//!
//!     cargo test --release --test damage                        # 5,000 seeded flips, and the rest
//!     cargo test --release --test damage -- flips               # what has this in its name
//!     DEMES_FLIPS=20000 cargo test --release --test damage      # more flips of each file
//!     DEMES_FLIPS=all cargo test --release --test damage        # every non-zero byte, once
//!
//! Each case is opened as `demes up` opens it, and must end in one of these ways: the content is
//! what was synced; the last batch is cut and the tail in doubt; or a clear error, which says that
//! the chat must be fetched anew, and then it can be. Never other content, never a panic that is
//! not told, and never a loop of restarts: a start that ends the process is followed by one that
//! refuses the store. `verdict` says what is checked, `battery` what is done to the files, and
//! `workers` runs it in processes of their own, since some cases end the process.

mod battery;
mod sample;
mod verdict;
mod workers;

use std::process::ExitCode;
use std::time::Instant;

use battery::Battery;
use sample::Sample;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(order) = workers::order(&arguments) {
        return workers::obey(&order);
    }
    let sample = Sample::new();
    let batteries = Battery::all(&sample);
    if arguments.iter().any(|argument| argument == "--list") {
        batteries.iter().for_each(|battery| println!("{}: test", battery.name));
        return ExitCode::SUCCESS;
    }
    let names: Vec<&String> = arguments.iter().filter(|name| !name.starts_with('-')).collect();
    let is_meant = |battery: &&Battery| {
        names.is_empty() || names.iter().any(|name| battery.name.contains(name.as_str()))
    };
    let mut ok = true;
    for battery in batteries.iter().filter(is_meant) {
        let begun = Instant::now();
        let problem = workers::run(battery).and_then(|counts| {
            let seconds = begun.elapsed().as_secs_f64();
            println!("{}: {} cases, {counts:?}, {seconds:.1} s", battery.name, battery.harms.len());
            battery.judge(&counts)
        });
        if let Err(problem) = problem {
            println!("FAILED {}: {problem}", battery.name);
            ok = false;
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
