//! The connection to this person's running peer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::pb::client_service_client::ClientServiceClient;
use super::{Failure, Global, pb};
use crate::config::{self, ConfigError};

/// The calls of a person's programs.
pub type Client = ClientServiceClient<Channel>;

/// The file in which a running peer names its client listener.
const ADDRESS_FILE: &str = "client.addr";
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
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
        .map_err(|_| Failure::refused(format!("{address:?} is not an address")))?
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

/// Reads `--peer-api`.
pub fn host_and_port(text: &str) -> Result<String, String> {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = |c: char| c.is_alphanumeric() || "-_.:[]".contains(c);
        !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
    });
    if fits { Ok(text.to_owned()) } else { Err("must be host:port".into()) }
}

/// A chat as it is now.
pub async fn get_chat(client: &mut Client, chat: &str) -> Result<pb::Chat> {
    let request = pb::GetChatRequest { chat: chat.to_owned() };
    required(client.get_chat(request).await?.into_inner().chat)
}

/// A request that returns when the chat has confirmed it, and is waited for as long as is sensible.
pub fn confirmed<T>(request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(CONFIRM_TIMEOUT);
    request
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

/// How long an invitation is resent, in seconds: as the flag says, else as the configuration does.
pub fn invite_timeout_s(global: &Global, flag: Option<u32>) -> Result<u32> {
    if let Some(seconds) = flag {
        return Ok(seconds);
    }
    match config::load(&global.arguments()) {
        Ok(settings) => Ok(u32::try_from(settings.invite_timeout.as_secs()).unwrap_or(u32::MAX)),
        // With --peer-api there need not be a configuration here: the peer knows what is usual.
        Err(ConfigError::NoHome) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn running_peer(data_dir: &Path) -> Result<String, Failure> {
    let address = fs::read_to_string(data_dir.join(ADDRESS_FILE)).map_err(|_| {
        Failure::unreachable(format!(
            "no peer runs on {}\n\
             is the peer running? start it with `demes up`; a peer elsewhere is named with \
             --data-dir DIR or --peer-api ADDR",
            data_dir.display()
        ))
    })?;
    Ok(address.trim().to_owned())
}
