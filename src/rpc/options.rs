//! What `serve` is told, and why it may refuse.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

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

/// A chat whose members are known beforehand. The peer that advertises the first address founds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootstrapChat {
    /// The chat's name.
    pub name: String,
    /// `host:port` of every member, the founder's first.
    pub members: Vec<String>,
}

/// Limits of the listeners. What exceeds one waits, gives way or is refused, never queued
/// without bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections of members; beyond it the one that was silent longest gives way.
    pub peer_connections_max: usize,
    /// The same for peers whose key is in no chat here.
    pub stranger_connections_max: usize,
    /// Connections that have not shown a key yet; likewise.
    pub handshakes_max: usize,
    /// Connections of the person's programs. Those without a call give way; else more wait.
    pub client_connections_max: usize,
    /// A program's connection without a call is closed after this long.
    pub client_idle: Duration,
    /// Concurrent streams on one connection of another peer.
    pub peer_streams_max: u32,
    /// Concurrent streams on one connection of a program.
    pub client_streams_max: u32,
    /// Chats that this peer takes part in; more are refused with TOO_MANY_CHATS.
    pub chats_max: usize,
    /// Invitations that wait for the person; more are refused.
    pub invites_pending_max: usize,
    /// First-contact calls a minute of one peer, and of all together.
    pub first_contact_per_minute_peer: u32,
    pub first_contact_per_minute: u32,
    /// Calls of one peer a second over all its connections, where each message of a stream counts
    /// as one; further ones are refused with RATE_LIMITED, and end their stream.
    pub calls_per_second_peer: u32,
    /// A reader of a feed that takes nothing for so long, though there is something, or that falls
    /// behind what is kept in memory for so long, is ended with SLOW_CONSUMER.
    pub feed_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peer_connections_max: 1_024,
            stranger_connections_max: 64,
            handshakes_max: 128,
            client_connections_max: 256,
            client_idle: Duration::from_secs(300),
            peer_streams_max: 64,
            client_streams_max: 256,
            chats_max: 256,
            invites_pending_max: 256,
            first_contact_per_minute_peer: 120,
            first_contact_per_minute: 1_200,
            calls_per_second_peer: 20_000,
            feed_stall: Duration::from_secs(30),
        }
    }
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
