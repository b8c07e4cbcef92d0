//! The connection to this person's running peer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tonic::transport::{Channel, Endpoint};

use super::pb::client_service_client::ClientServiceClient;
use super::{Failure, Global, pb};
use crate::config;

/// The calls of a person's programs.
pub type Client = ClientServiceClient<Channel>;

/// The file in which a running peer names its client listener.
const ADDRESS_FILE: &str = "client.addr";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the peer that `--peer-api` names, or the one that runs on the data directory.
///
/// # Errors
/// When no peer answers there.
pub async fn connect(global: &Global) -> Result<Client> {
    Ok(ClientServiceClient::new(channel(global).await?))
}

/// The same connection, for services other than ours.
pub async fn channel(global: &Global) -> Result<Channel> {
    let address = match &global.peer_api {
        Some(address) => address.clone(),
        None => running_peer(&config::locate(&global.arguments())?.0)?,
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| Failure::usage(format!("--peer-api {address:?} is not host:port")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|_| {
        Failure::unreachable(format!(
            "your peer does not answer at {address}\n\
             is the peer running? start it with `demes up`"
        ))
    })?;
    Ok(channel)
}

/// A chat as it is now.
pub async fn get_chat(client: &mut Client, chat: &str) -> Result<pb::Chat> {
    let request = pb::GetChatRequest { chat: chat.to_owned() };
    required(client.get_chat(request).await?.into_inner().chat)
}

/// A part of a response that our own peer always fills in.
pub fn required<T>(part: Option<T>) -> Result<T> {
    Ok(part.ok_or_else(|| Failure::bug("the peer sent an incomplete answer"))?)
}

/// A new id that names one request when it is repeated.
pub fn request_id() -> Result<String> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(Failure::bug)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How long an invitation is resent: as the flag says, else as the configuration does.
pub fn invite_timeout_s(global: &Global, flag: Option<u32>) -> Result<u32> {
    match flag {
        Some(seconds) => Ok(seconds),
        None => {
            let seconds = config::load(&global.arguments())?.invite_timeout.as_secs();
            Ok(u32::try_from(seconds).unwrap_or(u32::MAX))
        }
    }
}

fn running_peer(data_dir: &Path) -> Result<String, Failure> {
    let address = fs::read_to_string(data_dir.join(ADDRESS_FILE)).map_err(|_| {
        Failure::unreachable(format!(
            "no peer has run on {} yet\n\
             is the peer running? start it with `demes up`; a peer elsewhere is named with \
             --data-dir DIR or --peer-api ADDR",
            data_dir.display()
        ))
    })?;
    Ok(address.trim().to_owned())
}
