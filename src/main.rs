//! Arguments → configuration → run → drain.

use std::io::Write as _;
use std::process::{self, ExitCode};

use clap::Parser as _;
use clap::error::ErrorKind;
use demes::cli::{self, Cli, EXIT_BUG, EXIT_DISK, EXIT_USAGE, Failure};
use demes::storage::{self, Panic};
use mimalloc::MiMalloc;

/// A message is many small pieces on its way; with this allocator instead of the C library's it
/// takes a tenth less of the processor, for more memory under load (docs/performance.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    if !demes::planted::may_run() {
        complain("demes: built with mistakes in it, for tests/planted; build it without them\n");
        return ExitCode::from(EXIT_USAGE);
    }
    exit_on_panic();
    let is_json = cli::wants_json(std::env::args_os());
    let done = match Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(error) => usage(&error, is_json),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            let failure = cli::explain(&error);
            if let Some(failure) = &failure {
                complain(&match is_json {
                    true => format!("{}\n", failure.to_json()),
                    false => format!("demes: {failure}\n"),
                });
            }
            ExitCode::from(cli::exit_code(failure.as_ref()))
        }
    }
}

/// Prints what clap has to say: help and the version are data, everything else is a usage error.
fn usage(error: &clap::Error, is_json: bool) -> anyhow::Result<ExitCode> {
    let is_data = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if is_json && !is_data {
        return Err(Failure::usage(error.render().to_string().trim_end()).into());
    }
    let printed = error.print();
    if is_data {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    // Nothing can be done when nobody reads.
    Ok(ExitCode::from(EXIT_USAGE))
}

/// A panic is our own fault, on whatever thread: a peer that goes on without one of its tasks would
/// be worse than one that its members see die. The storage library's own are told as damage (R38),
/// most of them where they are caught.
fn exit_on_panic() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match storage::take_panic() {
        Panic::Caught => {}
        Panic::Ends(error) => {
            complain(&format!("demes: {error}; start the peer again\n"));
            process::exit(i32::from(EXIT_DISK));
        }
        Panic::Other => {
            show(panic);
            complain("this is a bug in demes; please report it with the lines above\n");
            process::exit(i32::from(EXIT_BUG));
        }
    }));
}

/// Writes to stderr; `eprintln!` would panic if it were closed.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
