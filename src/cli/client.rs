//! The connection to this person's running peer, and how long a command waits for it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::Result;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{GrpcMethod, Request, Response, Status, Streaming};
use tower::service_fn;

use super::output::clean;
use super::pb::client_service_client::ClientServiceClient;
use super::{Failure, Global, pb};
use crate::config::{self, ConfigError};
use crate::serve::client_door::{ADDRESS_FILE, SOCKET_FILE, connect_socket, token_of};
use crate::wire::address::Address;
use crate::wire::hex;

/// The calls of a person's programs. Each has a deadline, so that a peer that hangs is told.
pub type Client = ClientServiceClient<Limited>;

/// A connection on which calls have a deadline.
pub type Limited = InterceptedService<Channel, Limit>;

/// Gives a call its deadline, unless it is a stream that goes on, and the token where one is
/// needed.
#[derive(Clone)]
pub struct Limit {
    authorization: Option<MetadataValue<Ascii>>,
}

/// The variable with the token of a peer that `--peer-api` names.
pub const TOKEN_VARIABLE: &str = "DEMES_TOKEN";

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

/// The same connection, for services other than ours. It goes over the socket in the data
/// directory, which only this user can open, unless an address is named.
pub async fn channel(global: &Global) -> Result<Limited> {
    let data_dir = config::locate(&global.arguments()).map(|(data_dir, _)| data_dir);
    let (address, token) = match &global.peer_api {
        Some(address) => {
            let variable = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty());
            // The token here is for the peer here: whoever else listens could use it.
            let here = || {
                let data_dir = data_dir.ok()?;
                let is_here = running_peer(&data_dir).is_ok_and(|here| here == *address);
                if is_here { token_of(&data_dir).ok() } else { None }
            };
            (address.clone(), variable.or_else(here))
        }
        None => {
            let data_dir = data_dir?;
            match data_dir.join(SOCKET_FILE).try_exists() {
                Ok(true) => return over_socket(data_dir).await,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(denied(&data_dir).into());
                }
                // Not every file system has sockets.
                _ => (running_peer(&data_dir)?, token_of(&data_dir).ok()),
            }
        }
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| Failure::refused(format!("{address:?} is not an address")))?;
    let channel = kept(endpoint).connect().await.map_err(|_| silent(&address))?;
    let authorization = token.map(|token| format!("Bearer {}", token.trim()).parse());
    let mut authorization: Option<MetadataValue<Ascii>> =
        authorization.transpose().map_err(|_| {
            Failure::usage(format!("{TOKEN_VARIABLE} is no token: `demes token` prints it"))
        })?;
    if let Some(authorization) = &mut authorization {
        authorization.set_sensitive(true);
    }
    Ok(InterceptedService::new(channel, Limit { authorization }))
}

async fn over_socket(data_dir: PathBuf) -> Result<Limited> {
    let path = data_dir.join(SOCKET_FILE);
    let connector = service_fn(move |_| {
        let data_dir = data_dir.clone();
        async move { connect_socket(&data_dir).await.map(TokioIo::new) }
    });
    let endpoint = kept(Endpoint::from_static("http://localhost"));
    let connected = endpoint.connect_with_connector(connector).await;
    let channel = connected.map_err(|error| match is_denied(&error) {
        true => denied(&path),
        false => silent(&path.display().to_string()),
    })?;
    Ok(InterceptedService::new(channel, Limit { authorization: None }))
}

/// What belongs to another user.
pub fn denied(path: &Path) -> Failure {
    Failure::refused(format!(
        "you may not use {}: it belongs to another user of this machine\n\
         run the command as that user, or name your own peer with --data-dir DIR; a program of \
         another user needs --peer-api ADDR, and the token in {TOKEN_VARIABLE}",
        path.display()
    ))
}

fn is_denied(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
    })
}

fn kept(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

fn silent(address: &str) -> Failure {
    Failure::unreachable(format!(
        "your peer does not answer at {address}\n\
         is the peer running? start it with `demes up`"
    ))
}

impl Interceptor for Limit {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        // A call whose person says how long it may take.
        if request.metadata().contains_key("grpc-timeout") {
            return Ok(request);
        }
        let method = request.extensions().get::<GrpcMethod<'_>>().map(GrpcMethod::method);
        let deadline = match method {
            Some("Feed" | "WatchChat") => return Ok(request),
            Some("AcceptInvite") => ACCEPT_TIMEOUT,
            Some("GetPeer" | "GetChat" | "ListChats" | "ListInvites" | "Check") => READ_TIMEOUT,
            _ => ANSWER_TIMEOUT,
        };
        request.set_timeout(deadline);
        Ok(request)
    }
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
    match Address::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A chat as it is now.
pub async fn get_chat(client: &mut Client, chat: &str) -> Result<pb::Chat> {
    let request = pb::GetChatRequest { chat: chat.to_owned() };
    required(client.get_chat(request).await?.into_inner().chat)
}

/// The chat that is meant: the one of that name, or the only one.
///
/// # Errors
/// When there is no such chat, or several where none is named.
pub async fn pick_chat(client: &mut Client, chat: Option<&str>) -> Result<pb::Chat> {
    if let Some(chat) = chat {
        return get_chat(client, chat).await;
    }
    let chats = client.list_chats(pb::ListChatsRequest {}).await?.into_inner().chats;
    match &chats[..] {
        [] => Err(no_chats().into()),
        [only] => get_chat(client, &only.chat_id).await,
        several => {
            let names = several.iter().map(|chat| clean(&chat.name)).collect::<Vec<_>>();
            let text = format!("which chat is meant? there are: {}", names.join(", "));
            Err(Failure::usage(text).into())
        }
    }
}

/// Nothing can be done without a chat.
pub fn no_chats() -> Failure {
    Failure::refused("no chats yet: found one with `demes new NAME ADDRESS…`")
}

/// A part of a response that our own peer always fills in.
pub fn required<T>(part: Option<T>) -> Result<T> {
    Ok(part.ok_or_else(|| Failure::bug("the peer sent an incomplete answer"))?)
}

/// A new id that names one request when it is repeated.
pub fn request_id() -> Result<String> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(Failure::bug)?;
    Ok(hex(&bytes))
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
    let path = data_dir.join(ADDRESS_FILE);
    let address = fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => denied(data_dir),
        io::ErrorKind::NotFound => Failure::unreachable(format!(
            "no peer runs on {}\n\
             is the peer running? start it with `demes up`; a peer elsewhere is named with \
             --data-dir DIR or --peer-api ADDR",
            data_dir.display()
        )),
        _ => Failure::disk(format!("{} cannot be read: {error}", path.display())),
    })?;
    Ok(address.trim().to_owned())
}
