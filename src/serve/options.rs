//! What `serve` is told, and why it may refuse.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::peer::limits::{BootstrapChat, Limits};
use crate::protocol::config::Config;

/// How a peer is to run.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where identity, chats and invitations are kept. Locked while the peer runs.
    pub data_dir: PathBuf,
    /// The person's name, 1 to 64 characters.
    pub name: String,
    /// Where the peer listens for other peers.
    pub peer_listen: SocketAddr,
    /// What other peers are told to dial, `host:port`; made from the listener when absent.
    pub advertise: Option<String>,
    /// Where the peer listens for the person's own programs: a loopback address.
    pub client_listen: SocketAddr,
    /// Whether a program must show the token there; on the socket in the data directory none must.
    pub require_token: bool,
    /// Where only the health service is served, in plain text.
    pub health_listen: Option<SocketAddr>,
    /// Where Prometheus is told the metrics, in plain text.
    pub metrics_listen: Option<SocketAddr>,
    /// Accepts invitations from members of chats that this peer is in.
    pub auto_accept: bool,
    /// Goes on with the stores as they are where nobody else could bring back what is lost.
    pub repair: bool,
    /// What a graceful stop tells the others.
    pub on_stop: OnStop,
    /// Timers and limits of the protocol. `Config::check` has passed.
    pub protocol: Config,
    /// Below this much free space the disk counts as full (R38).
    pub storage_reserve_bytes: u64,
    /// Chats that are founded or joined without a person.
    pub bootstrap: Vec<BootstrapChat>,
    /// Limits of the listeners.
    pub limits: Limits,
}

/// What a graceful stop means for this peer's vote (R26).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnStop {
    /// The others count it as away at once.
    #[default]
    Goodbye,
    /// It comes back soon: its vote stays.
    KeepSeat,
}

/// Why a peer did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another program listens there.
    #[error("{address} is in use: stop the other program or choose another port with {flag}")]
    PortInUse { flag: &'static str, address: SocketAddr },
    /// The listener could not be opened for another reason.
    #[error(
        "cannot listen on {address} ({flag}): {source}\nname an address of this machine with a \
         port that you may use, such as {}, with {flag}",
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
    )]
    Listen { flag: &'static str, address: SocketAddr, source: std::io::Error },
    /// Another process uses the data directory.
    #[error("{0}")]
    InUse(String),
    /// The data directory cannot be used.
    #[error("{0}")]
    Storage(String),
    /// The identity or TLS could not be set up.
    #[error("{0}")]
    Crypto(String),
    /// A bootstrap chat, name or address is not valid.
    #[error("{0}")]
    Invalid(String),
}
