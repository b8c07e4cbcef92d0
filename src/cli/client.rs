//! The connection to this person's running peer, and how long a command waits for it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{GrpcMethod, Request, Response, Status, Streaming};

use super::pb::client_service_client::ClientServiceClient;
use super::{Failure, Global, pb};
use crate::config::{self, ConfigError};

/// The calls of a person's programs. Each has a deadline, so that a peer that hangs is told.
pub type Client = ClientServiceClient<Limited>;

/// A connection on which calls have a deadline.
pub type Limited = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

/// The file in which a running peer names its client listener.
const ADDRESS_FILE: &str = "client.addr";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Streams have no deadline: they end when the peer answers no keepalive, eight seconds after it
/// hung.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(4);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a call may take, which the peer answers from what it has. What must wait for others
/// (a confirmation, a hand-over) is answered with how far it is.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for what is only read: a peer that works answers in milliseconds.
const READ_TIMEOUT: Duration = Duration::from_secs(4);
/// The same for accepting an invitation, which the chat's host must agree to.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Connects to the peer that `--peer-api` names, or the one that runs on the data directory.
///
/// # Errors
/// When no peer answers there.
pub async fn connect(global: &Global) -> Result<Client> {
    Ok(ClientServiceClient::new(channel(global).await?))
}

/// The same connection, for services other than ours.
pub async fn channel(global: &Global) -> Result<Limited> {
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
    Ok(InterceptedService::new(channel, limit))
}

/// Gives a call its deadline, unless it is a stream that goes on.
fn limit(mut request: Request<()>) -> Result<Request<()>, Status> {
    let deadline = match request.extensions().get::<GrpcMethod<'_>>().map(GrpcMethod::method) {
        Some("Feed" | "WatchChat") => return Ok(request),
        Some("AcceptInvite") => ACCEPT_TIMEOUT,
        Some("GetPeer" | "GetChat" | "ListChats" | "ListInvites" | "Check") => READ_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    };
    request.set_timeout(deadline);
    Ok(request)
}

/// Opens a stream that goes on: its first answer must come as soon as that of a read.
pub async fn opened<T>(
    call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<Streaming<T>, Status> {
    match timeout(READ_TIMEOUT, call).await {
        Ok(response) => Ok(response?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("the stream did not begin")),
    }
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
