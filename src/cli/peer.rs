//! Commands about the peer itself: `health`, `token` and `config`.

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::{channel, denied};
use super::errors::EXIT_REFUSED;
use super::output::Table;
use super::{Failure, Global};
use crate::config;
use crate::serve::client_door::{TOKEN_FILE, token_of};

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
