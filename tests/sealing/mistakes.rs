//! Plants mistakes in the sealing, one at a time, and sees that the test that must find each of
//! them does.
//!
//! ```text
//! cargo test --release -p demes-sealing --features planted --test mistakes
//!     -- GateLeftOut        these mistakes only, with what the tests say
//! ```
//!
//! The tests are the package's own, built with the feature `planted`. Each is run in a process of
//! its own: without any mistake, where it must pass, and with the mistake, where it must fail.

use std::collections::BTreeMap;
use std::env;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use demes_sealing::planted::{Bug, NONE, VARIABLE};

fn main() -> ExitCode {
    // What cargo passes on for a test harness is not for this one.
    let chosen: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_chosen = |bug: &&Bug| chosen.is_empty() || chosen.contains(&format!("{bug:?}"));
    let bugs: Vec<_> = Bug::ALL.iter().filter(is_chosen).copied().collect();
    assert!(!bugs.is_empty(), "none of {chosen:?} can be planted");
    let program = program();
    let begun = Instant::now();
    let failures = Mutex::new(0);
    // Whether each test passes without a mistake: some find several.
    let sound = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = look(*bug, &program, &sound, !chosen.is_empty()) {
                        println!("FAILED: {why}");
                        *failures.lock().expect("no thread panics") += 1;
                    }
                }
            });
        }
    });
    let failed = failures.into_inner().expect("no thread panics");
    let (planted, took) = (bugs.len(), begun.elapsed().as_secs());
    println!("{planted} mistakes planted, {} caught in {took} s", planted - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a mistake's test without it and with it.
fn look(
    bug: Bug,
    program: &str,
    sound: &Mutex<BTreeMap<&'static str, bool>>,
    is_verbose: bool,
) -> Result<(), String> {
    let test = bug.catcher();
    let known = sound.lock().expect("no thread panics").get(test).copied();
    let is_sound = match known {
        Some(is_sound) => is_sound,
        None => {
            let (passes, said) = run(program, test, NONE);
            sound.lock().expect("no thread panics").insert(test, passes);
            if !passes {
                println!("{said}");
            }
            passes
        }
    };
    if !is_sound {
        return Err(format!("without any mistake, {test} does not pass"));
    }
    let begun = Instant::now();
    let (passes, said) = run(program, test, &format!("{bug:?}"));
    if is_verbose {
        println!("{said}");
    }
    if passes || !said.contains("1 failed;") {
        return Err(format!("{test} does not find {bug:?}:\n{said}"));
    }
    let (what, seconds) = (bug.description(), begun.elapsed().as_secs_f64());
    println!("{bug:?} ({what}): caught by {test} in {seconds:.1} s");
    Ok(())
}

/// Whether that one test passes with this mistake, and what it says. One that is not there does
/// not pass.
fn run(program: &str, test: &str, mistake: &str) -> (bool, String) {
    let mut command = Command::new(program);
    let output = command.args(["--exact", test]).env(VARIABLE, mistake).output();
    let output = output.expect("the program can be run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success() && said.contains("1 passed;"), said)
}

/// Builds the package's tests, and gives the path of the program.
fn program() -> String {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--locked", "-p", "demes-sealing", "--features", "planted", "--lib"]);
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.stderr(Stdio::inherit()).output().expect("cargo can be run");
    assert!(output.status.success(), "the tests cannot be built with mistakes");
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let mut programs = messages.filter_map(|message| {
        let is_test = message["profile"]["test"].as_bool()?;
        let path = message["executable"].as_str().filter(|_| is_test)?;
        Some(path.to_owned())
    });
    programs.next().expect("there is a program with the package's tests")
}
