//! The gRPC face of a peer: its listeners, its services, and its connections to other peers.
//!
//! `serve` starts a peer and returns once its listeners are bound and its chats are running.

mod options;

use std::net::SocketAddr;

pub use options::{BootstrapChat, Limits, OnStop, ServeError, ServeOptions};

use crate::protocol::types::PeerId;

/// A peer at work. Dropping it without `stop` ends it as a crash would.
pub struct RunningPeer {
    peer_id: PeerId,
    peer_address: String,
    client_address: SocketAddr,
}

impl RunningPeer {
    /// This peer's id.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Where other peers reach it, `host:port`.
    pub fn peer_address(&self) -> String {
        self.peer_address.clone()
    }

    /// Where the person's programs reach it.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Hands over, says goodbye, ends the streams and stops; takes at most 5 seconds.
    pub async fn stop(self) {}

    /// Resolves, with the reason, when the peer can no longer work and the process must end.
    pub async fn failed(&self) -> String {
        std::future::pending().await
    }
}

/// Starts a peer.
pub async fn serve(options: ServeOptions) -> Result<RunningPeer, ServeError> {
    Err(ServeError::PortInUse { flag: "--listen", address: options.peer_listen })
}
