//! One connection to another peer: TCP, TLS with a pinned key, and a channel over it that ends when
//! the connection ends.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::{Layer, service_fn};

use crate::crypto::{Identity, tls};
use crate::protocol::types::PeerId;
use crate::telemetry::{GrpcClientLayer, GrpcTrace};

const CONNECT_MAX: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// The largest message between peers: a batch of 1 MiB, and room around it.
pub const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// Every call that leaves may be part of a trace.
pub type Traced = GrpcTrace<Channel>;

/// A connection whose both ends have proven their keys as far as TLS does it. In TLS 1.3 a server
/// that does not want the client says so only afterwards: one call must prove it.
pub struct Connection {
    pub channel: Traced,
    pub peer: PeerId,
    /// Cancelled at the moment when the connection is closed, by whomever.
    pub closed: CancellationToken,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address answers, and nobody listens there (R14).
    #[error("nobody listens there")]
    Refused,
    /// Another key answers than the expected one.
    #[error("another peer answers there: {0}")]
    WrongKey(PeerId),
    #[error("no answer in time")]
    NoAnswer,
    #[error("there is no way to that address from here")]
    NoRoute,
    #[error("{0}")]
    Other(String),
}

/// Dials `address`. With `expected` only that key is accepted.
pub async fn dial(
    identity: &Identity,
    address: &str,
    expected: Option<PeerId>,
) -> Result<Connection, DialError> {
    secure(identity, connect(address).await?, expected).await
}

/// The first half of `dial`: TCP alone.
pub async fn connect(address: &str) -> Result<TcpStream, DialError> {
    let tcp = timeout(CONNECT_MAX, TcpStream::connect(address))
        .await
        .map_err(|_| DialError::NoAnswer)?
        .map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => DialError::Refused,
            io::ErrorKind::TimedOut => DialError::NoAnswer,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                DialError::NoRoute
            }
            _ => other(&error),
        })?;
    tcp.set_nodelay(true).map_err(|error| other(&error))?;
    Ok(tcp)
}

/// The second half: keys, and a channel.
pub async fn secure(
    identity: &Identity,
    tcp: TcpStream,
    expected: Option<PeerId>,
) -> Result<Connection, DialError> {
    let name = ServerName::try_from("peer.demes").expect("a valid name");
    let connector = TlsConnector::from(tls::client_config(identity, expected));
    let tls = timeout(CONNECT_MAX, connector.connect(name, tcp))
        .await
        .map_err(|_| DialError::NoAnswer)?
        .map_err(|error| tls_error(&error))?;
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = tls::peer_id_of(certificates).ok_or_else(|| other(&"no key was shown"))?;
    let closed = CancellationToken::new();
    let io = Mutex::new(Some(TokioIo::new(Watched { tls, closed: closed.clone() })));
    let io = Arc::new(io);
    // The channel can connect once, with what is connected already.
    let connector = service_fn(move |_| {
        let io = io.lock().expect("nothing panics in there").take();
        async move { io.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = Endpoint::from_static("http://peer.demes")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector(connector)
        .await
        .map_err(|error| other(&error))?;
    Ok(Connection { channel: GrpcClientLayer.layer(channel), peer, closed })
}

fn other(error: &dyn std::fmt::Display) -> DialError {
    DialError::Other(error.to_string())
}

/// A process that is gone, behind a proxy or in a container, is accepted and then closed.
fn tls_error(error: &io::Error) -> DialError {
    if let Some(tls::Refusal::OtherKey { found, .. }) = tls::refusal_of(error) {
        return DialError::WrongKey(found);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => DialError::Refused,
        _ => DialError::Other(error.to_string()),
    }
}

/// A stream that tells when it ends.
struct Watched {
    tls: TlsStream<TcpStream>,
    closed: CancellationToken,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = (buffer.filled().len(), buffer.remaining());
        let result = Pin::new(&mut self.tls).poll_read(context, buffer);
        let ended = match &result {
            Poll::Ready(Ok(())) => buffer.filled().len() == before.0 && before.1 > 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.closed.cancel();
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
