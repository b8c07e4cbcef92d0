//! Commands about the peer itself: `down`, `health`, `token` and `config`.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use tokio::time::{interval, timeout};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::{channel, denied};
use super::errors::EXIT_REFUSED;
use super::output::Table;
use super::up::STOP_TIMEOUT;
use super::{Failure, Global};
use crate::config;
use crate::serve::client_door::{ADDRESS_FILE, TOKEN_FILE, token_of};
use crate::storage::{StorageError, process_on};

/// Between looks at whether a peer has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A peer that was told to stop has ended by then, unless it hangs.
const DOWN_MAX: Duration = STOP_TIMEOUT.saturating_add(Duration::from_secs(5));

#[derive(Args, Debug)]
pub struct HealthArgs {
    /// The part of the peer to ask for [default: the whole]
    #[arg(value_name = "SERVICE", default_value = "", hide_default_value = true)]
    service: String,
}

/// Asks the running peer for its health; exits with 0 only if it serves.
pub async fn health(global: &Global, args: HealthArgs) -> Result<ExitCode> {
    let mut client = HealthClient::new(channel(global).await?);
    let request = HealthCheckRequest { service: args.service.clone() };
    let response = client.check(request).await.map_err(|status| match status.code() {
        Code::NotFound => anyhow::Error::from(Failure::usage(format!(
            "the peer has no part called {:?}; without a name the whole is asked",
            args.service
        ))),
        _ => status.into(),
    })?;
    let status = response.into_inner().status();
    let serving = status == ServingStatus::Serving;
    global.output().emit(
        || json!({ "status": status.as_str_name() }),
        || if serving { "serving".into() } else { "not serving".into() },
    )?;
    Ok(if serving { ExitCode::SUCCESS } else { ExitCode::from(EXIT_REFUSED) })
}

/// Stops the peer that runs on the data directory, and returns when it has ended.
pub async fn down(global: &Global) -> Result<()> {
    let (data_dir, _) = config::locate(&global.arguments())?;
    let shown = data_dir.display().to_string();
    if global.peer_api.is_some() {
        let text = "a peer is stopped on its own machine: name its directory with --data-dir";
        return Err(Failure::usage(text).into());
    }
    let look = || {
        process_on(&data_dir).map_err(|error| match &error {
            StorageError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                denied(&data_dir)
            }
            _ => Failure::disk(error.to_string()),
        })
    };
    // Whoever repairs a chat holds the directory, too, and has no listener.
    let process = look()?.filter(|_| data_dir.join(ADDRESS_FILE).exists());
    let Some(process) = process else {
        return Err(Failure::refused(format!("no peer runs on {shown}")).into());
    };
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::bug(format!("{process} is no process")))?;
    match kill_process(pid, Signal::TERM) {
        // It has just ended by itself.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(Errno::PERM) => return Err(denied(&data_dir).into()),
        Err(error) => return Err(Failure::refused(error.to_string()).into()),
    }
    let ended = async {
        let mut looks = interval(LOOK_EVERY);
        while look()? == Some(process) {
            looks.tick().await;
        }
        Ok::<_, Failure>(())
    };
    let ended = timeout(DOWN_MAX, ended).await.map_err(|_| {
        Failure::refused(format!(
            "the peer on {shown} was told to stop, and is still there\n\
             its process {process} hangs: `kill -9 {process}` ends it; nothing confirmed is lost"
        ))
    })?;
    ended?;
    global.output().emit(|| json!({}), || format!("the peer on {shown} has stopped\n"))?;
    Ok(())
}

/// Prints the token. Whoever reads it can do what this person can.
pub fn token(global: &Global) -> Result<()> {
    let (data_dir, _) = config::locate(&global.arguments())?;
    let token = token_of(&data_dir).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => denied(&data_dir.join(TOKEN_FILE)),
        ErrorKind::NotFound => Failure::refused(format!(
            "there is no token in {}: `demes up` makes it there, unless `client.require_token` is \
             false",
            data_dir.display()
        )),
        _ => Failure::refused(format!(
            "there is no token in {}: {error}\n\
             the next start of `demes up` makes a new one",
            data_dir.join(TOKEN_FILE).display()
        )),
    })?;
    global.output().emit(|| json!({ "token": token }), || format!("{token}\n"))?;
    Ok(())
}

/// Shows the configuration that `demes up` would start with.
pub fn config(global: &Global) -> Result<()> {
    let settings = config::load(&global.arguments())?;
    global.output().emit(
        || {
            let entry = |it: &config::Resolved| {
                (it.key.clone(), json!({ "value": it.value, "origin": it.origin }))
            };
            let keys: Map<String, Value> = settings.origins.iter().map(entry).collect();
            json!({
                "file": settings.file,
                "data_dir": settings.data_dir,
                "keys": keys,
                "bootstrap_chats": settings.bootstrap.len(),
            })
        },
        || {
            let mut table = Table::default();
            for it in &settings.origins {
                table.row(vec![it.key.clone(), format!("= {}", it.value), it.origin.clone()]);
            }
            table.render("")
        },
    )?;
    Ok(())
}
