//! `doctor`: looks for what keeps a peer or its chats from working, and says what to do.
//!
//! It works whether the peer runs or not; without it, only what lies on this machine is looked at.
//! `settings.rs` looks at configuration and addresses, `machine.rs` at key, disk and stores,
//! `running.rs` at the peer and its chats, `members.rs` at who reaches whom and at the clocks.
//! Nothing is repaired or changed.

mod findings;
mod machine;
mod members;
mod running;
mod settings;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::Global;
use super::errors::{EXIT_REFUSED, EXIT_UNREACHABLE};
use crate::config::locate;
use findings::{Finding, Level, Report, Section};
use running::Found;

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// How long all of it may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u16).range(1..=600))]
    timeout: u16,
}

/// Looks at everything. Exits with 0 if there is no problem, 69 if the only one is that the peer
/// cannot be reached, and 1 otherwise.
pub async fn run(global: &Global, args: DoctorArgs) -> Result<ExitCode> {
    let until = Instant::now() + Duration::from_secs(args.timeout.into());
    let mut report = Report::new(global.output());
    // Another machine's peer, or another one of this machine, has its files elsewhere.
    let is_here = global.peer_api.is_none() || global.data_dir.is_some();
    let version = env!("CARGO_PKG_VERSION");
    let mut rest = json!({ "version": version, "data_dir": null, "members": [] });
    let mut place = None;
    if is_here {
        let (data_dir, _) = locate(&global.arguments())?;
        report.text(&format!("demes {version}, data in {}\n", data_dir.display()))?;
        rest["data_dir"] = json!(data_dir);
        let settings = settings::load(&mut report, global)?;
        machine::key(&mut report, &data_dir)?;
        machine::disk(&mut report, &data_dir, settings.as_ref(), until).await?;
        place = Some((data_dir, settings));
    } else {
        let address = global.peer_api.as_deref().unwrap_or_default();
        report.text(&format!("demes {version}, the peer at {address}\n"))?;
        let text = "configuration, key and disk: --peer-api names a peer whose files may be \
                    elsewhere; --data-dir says where they are";
        report.skipped(Section::Configuration, "configuration", text)?;
    }
    let found = running::find(&mut report, global, place.as_ref().map(|it| &*it.0), until).await?;
    let running = match found {
        Found::Running(running) => Some(running),
        Found::Silent => None,
        Found::Down => {
            if let Some((data_dir, settings)) = &place {
                offline(&mut report, data_dir, settings.as_ref(), until).await?;
            }
            None
        }
    };
    let settings = place.as_ref().and_then(|(_, settings)| settings.as_ref());
    let chats = running.as_ref().map_or(&[][..], |running| &running.chats);
    let own = running.as_ref().map(|running| running.peer.address.as_str());
    settings::address(&mut report, settings, own, chats, until).await?;
    match running {
        Some(mut running) => {
            running::chats(&mut report, &running)?;
            rest["members"] = members::check(&mut report, &mut running, until).await?;
        }
        None => {
            let text = "chats and members: only the running peer can tell, and it does not answer";
            report.skipped(Section::Members, "members", text)?;
        }
    }
    report.finish(rest)?;
    Ok(exit(&report))
}

/// What can be looked at only while no peer runs.
async fn offline(
    report: &mut Report,
    data_dir: &std::path::Path,
    settings: Option<&crate::config::Settings>,
    until: Instant,
) -> Result<()> {
    if let Some(settings) = settings {
        settings::ports(report, settings)?;
    }
    machine::stores(report, data_dir, until).await
}

fn exit(report: &Report) -> ExitCode {
    let problems = report.count(Level::Problem);
    match problems {
        0 => ExitCode::SUCCESS,
        1 if report.is_problem(running::PEER) => ExitCode::from(EXIT_UNREACHABLE),
        _ => ExitCode::from(EXIT_REFUSED),
    }
}

/// Work that may block, on a thread of its own; none where it does not end in time.
async fn blocking<T: Send + 'static>(
    until: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    timeout_at(until, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}
