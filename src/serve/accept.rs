//! Taking connections from a listener, even where there is no room for one at the moment.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// After a connection could not be taken.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Waits for a connection.
pub async fn accept_one(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => {
                let _ = tcp.set_nodelay(true);
                return (tcp, from.ip());
            }
            // Out of file descriptors, most likely: some come back as connections end.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}
