//! `up`: runs this person's peer until it is stopped.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::{self, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use tokio::io::Stdin;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::errors::EXIT_REFUSED;
use super::output::clean;
use super::{Failure, Global};
use crate::config::{self, Arguments, Flag, Settings};
use crate::crypto::Identity;
use crate::serve::{RunningPeer, ServeError, ServeOptions, serve};
use crate::storage::make_private_dir;
use crate::telemetry::{self, LogLevel};

/// How long a stop may take; then the process ends regardless, as a crash would.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args, Debug, Default)]
pub struct UpArgs {
    /// The name that the others see [default: your login name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where to listen for other peers [default: 0.0.0.0:7443]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// What the others are told to dial [default: made from --listen]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where to listen for your own programs [default: 127.0.0.1:7444]
    #[arg(long, value_name = "IP:PORT")]
    client_listen: Option<String>,
    /// Where to answer health checks in plaintext [default: nowhere]
    #[arg(long, value_name = "IP:PORT")]
    health_listen: Option<String>,
    /// Where to tell Prometheus the metrics in plaintext, as /metrics [default: nowhere]
    #[arg(long, value_name = "IP:PORT")]
    metrics_listen: Option<String>,
    /// Accept invitations of people that you already share a chat with
    #[arg(long)]
    auto_accept: bool,
    /// Stop when standard input ends, as it does when the program that holds its other end dies
    #[arg(long)]
    until_stdin_ends: bool,
    /// Go on with the stores as they are, where nobody else could bring back what is lost: take an
    /// older copy for the newest, and set the peer's own store aside if it is damaged
    #[arg(long)]
    repair: bool,
    /// error, warn, info, debug, trace, or directives [default: info]; SIGHUP rereads what the
    /// configuration file has
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl UpArgs {
    /// The keys that these flags set.
    pub fn flags(&self) -> Vec<Flag> {
        let auto_accept = self.auto_accept.then(|| "true".to_owned());
        [
            ("peer.name", "--name", &self.name),
            ("peer.listen", "--listen", &self.listen),
            ("peer.advertise", "--advertise", &self.advertise),
            ("client.listen", "--client-listen", &self.client_listen),
            ("health.listen", "--health-listen", &self.health_listen),
            ("metrics.listen", "--metrics-listen", &self.metrics_listen),
            ("invite.auto_accept", "--auto-accept", &auto_accept),
            ("telemetry.log_level", "--log-level", &self.log_level),
        ]
        .into_iter()
        .filter_map(|(key, flag, text)| Some(Flag { key, flag, text: text.clone()? }))
        .collect()
    }
}

/// Runs the peer until a signal, or until it can no longer work.
pub async fn run(global: &Global, args: UpArgs) -> Result<ExitCode> {
    let settings = config::load(&Arguments { flags: args.flags(), ..global.arguments() })?;
    let repair = args.repair;
    // From here on a signal is answered by a stop, never by the default of dying at once.
    let signals = Signals::new().context("signals cannot be received")?;
    make_data_dir(&settings.data_dir)?;
    // Traces carry the peer's id, so the identity comes first. `serve` locks the directory; should
    // two first starts race before that, one identity is written and the other start is refused.
    let identity = Identity::load_or_create(&settings.data_dir)
        .map_err(|error| Failure::disk(error.to_string()))?;
    let guard = telemetry::start(&settings.telemetry, &identity.peer_id().to_string())
        .map_err(|error| Failure::usage(error.to_string()))?;
    write_first_file(&settings);
    let data_dir = settings.data_dir.display().to_string();
    let name = settings.name.clone();
    let reload = Reload {
        arguments: Arguments { flags: args.flags(), ..global.arguments() },
        level: guard.log_level(),
    };
    let mut stops = Stops { signals, reload, stdin: args.until_stdin_ends.then(tokio::io::stdin) };
    let directory = settings.data_dir.clone();
    let result = match serve(options(settings, repair)).await {
        Ok(peer) => {
            if let Err(error) = config::remember(&directory, &args.flags()) {
                tracing::warn!(%error, "what the flags say could not be remembered");
            }
            announce(global, &peer, &name, &data_dir)?;
            until_stopped(peer, &mut stops).await
        }
        Err(error) => Err(refusal(&error).into()),
    };
    guard.flush().await;
    result
}

/// Says where the peer is reached. The only thing on stdout: logs go to stderr.
fn announce(global: &Global, peer: &RunningPeer, name: &str, data_dir: &str) -> Result<()> {
    let (peer_id, address) = (peer.peer_id(), peer.peer_address());
    let client_address = peer.client_address();
    let socket = peer.client_socket().map(|path| path.display().to_string());
    let metrics = peer.metrics_address().map(|address| format!("http://{address}/metrics"));
    let written = global.output().emit(
        || {
            json!({
                "peer_id": peer_id.to_string(),
                "address": address,
                "client_address": client_address.to_string(),
                "client_socket": socket,
                "metrics": metrics,
                "data_dir": data_dir,
            })
        },
        || {
            let name = clean(name);
            let metrics = metrics.as_ref().map(|at| format!("  metrics     {at}\n"));
            let metrics = metrics.unwrap_or_default();
            let socket = socket.as_ref().map(|path| format!("{path}\n              "));
            let socket = socket.unwrap_or_default();
            format!(
                "{name}'s peer is running; Ctrl-C stops it\n  peer        {peer_id}\n  \
                 invite me   {peer_id}@{address}\n  programs    {socket}{client_address}\n\
                 {metrics}  data        {data_dir}\n"
            )
        },
    );
    match written {
        // A peer does not depend on anybody reading this.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

async fn until_stopped(peer: RunningPeer, stops: &mut Stops) -> Result<ExitCode> {
    tokio::select! {
        () = stops.next() => {}
        // Nothing more can be made durable, so there is nothing to wait for: the sooner its
        // connections break, the sooner the members go on without it.
        reason = peer.failed() => {
            drop(peer);
            return Err(Failure::disk(format!("the peer had to stop: {reason}")).into());
        }
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        stopped = timeout(STOP_TIMEOUT, peer.stop()) => {
            if stopped.is_err() {
                tracing::warn!("the stop took more than five seconds and was cut short: \
                    nothing confirmed is lost");
            }
        }
        () = stops.signals.next() => process::exit(i32::from(EXIT_REFUSED)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What ends a peer.
struct Stops {
    signals: Signals,
    reload: Reload,
    /// Watched for its end, where that counts.
    stdin: Option<Stdin>,
}

impl Stops {
    async fn next(&mut self) {
        let stdin = self.stdin.as_mut();
        let ended = async {
            match stdin {
                Some(stdin) => drop(tokio::io::copy(stdin, &mut tokio::io::sink()).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.signals.next_stop(&self.reload) => {}
            () = ended => {}
        }
    }
}

/// What a SIGHUP changes.
struct Reload {
    arguments: Arguments,
    level: LogLevel,
}

impl Reload {
    /// Reads the configuration again and takes its log level. Nothing else changes without a start.
    fn run(&self) {
        let changed = config::load(&self.arguments).map_err(|error| error.to_string());
        let changed = changed.and_then(|settings| {
            let level = settings.telemetry.log_level;
            let set = self.level.set(&level).map_err(|error| error.to_string());
            set.map(|()| level)
        });
        match changed {
            Ok(log_level) => tracing::info!(log_level, "the log level was read again"),
            Err(error) => tracing::warn!(
                error,
                "the configuration cannot be read again, and the \
                log level stays: correct it and send SIGHUP once more"
            ),
        }
    }
}

/// SIGTERM and SIGINT stop the peer. SIGHUP has the log level read again, unless the peer has a
/// terminal: there it says that the terminal is gone, and stops the peer too.
struct Signals {
    hang_up: Signal,
    has_terminal: bool,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            has_terminal: std::io::stdin().is_terminal(),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal that stops the peer; rereads what may change meanwhile.
    async fn next_stop(&mut self, reload: &Reload) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    if self.has_terminal {
                        return;
                    }
                    reload.run();
                }
            }
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Only the person may look inside: the key is there.
fn make_data_dir(path: &Path) -> Result<(), Failure> {
    make_private_dir(path).map_err(|error| {
        let path = path.display();
        Failure::disk(format!(
            "the data directory {path} cannot be made: {error}\nname another with --data-dir"
        ))
    })
}

/// Writes the commented configuration at the first start. A peer runs without it too.
fn write_first_file(settings: &Settings) {
    match config::write_default_file(&settings.file) {
        Ok(true) => tracing::info!("a commented configuration file was written"),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(%error, "the configuration file could not be written: the defaults hold")
        }
    }
}

fn options(settings: Settings, repair: bool) -> ServeOptions {
    ServeOptions {
        data_dir: settings.data_dir,
        name: settings.name,
        peer_listen: settings.peer_listen,
        advertise: settings.advertise,
        client_listen: settings.client_listen,
        require_token: settings.require_token,
        health_listen: settings.health_listen,
        metrics_listen: settings.metrics_listen,
        auto_accept: settings.auto_accept,
        repair,
        on_stop: settings.on_stop,
        protocol: settings.protocol,
        storage_reserve_bytes: settings.storage_reserve_bytes,
        bootstrap: settings.bootstrap,
        limits: settings.limits,
    }
}

fn refusal(error: &ServeError) -> Failure {
    let text = error.to_string();
    match error {
        ServeError::PortInUse { .. } | ServeError::Listen { .. } | ServeError::InUse(_) => {
            Failure::refused(text)
        }
        ServeError::Crypto(_) | ServeError::Storage(_) => Failure::disk(text),
        ServeError::Invalid(_) => Failure::usage(text),
    }
}
