//! Arguments → configuration → run → drain.

use std::io::Write as _;
use std::process::{self, ExitCode};

use clap::Parser as _;
use clap::error::ErrorKind;
use demes::cli::{self, Cli, EXIT_BUG, EXIT_USAGE};
use demes::storage;

fn main() -> ExitCode {
    exit_on_panic();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            let failure = cli::explain(&error);
            if let Some(failure) = &failure {
                complain(&format!("demes: {failure}\n"));
            }
            ExitCode::from(cli::exit_code(failure.as_ref()))
        }
    }
}

/// Prints what clap has to say: help and the version are data, everything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done when nobody reads.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_USAGE),
    }
}

/// A panic is our own fault, on whatever thread: a peer that goes on without one of its tasks would
/// be worse than one that its members see die. The storage library's own are caught where they
/// happen, and told as damage (R38): ending here would leave no word of it for the next start.
fn exit_on_panic() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if storage::is_panic_caught() {
            return;
        }
        show(panic);
        complain("this is a bug in demes; please report it with the lines above\n");
        process::exit(i32::from(EXIT_BUG));
    }));
}

/// Writes to stderr; `eprintln!` would panic if it were closed.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
