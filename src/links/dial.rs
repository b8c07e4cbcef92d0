//! One connection to another peer: TCP, TLS with a pinned key, and a channel over it that ends when
//! the connection ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::{Layer, service_fn};

use crate::crypto::{Identity, tls};
use crate::protocol::types::PeerId;
use crate::telemetry::{GrpcClientLayer, GrpcTrace};

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long an address may say nothing before the name's next one is tried too, and how many are.
const NEXT_ADDRESS: Duration = Duration::from_millis(200);
const ADDRESSES_MAX: usize = 8;
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
    /// How often something has come over it.
    heard: Arc<AtomicU64>,
}

impl Connection {
    /// How often something has come over it.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
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
    /// No address is known for the name, or nobody could be asked.
    #[error("the name leads nowhere from here")]
    NameUnknown,
    #[error("no answer in time")]
    NoAnswer,
    #[error("there is no way to that address from here")]
    NoRoute,
    #[error(
        "what answers there does not know the key exchange X25519MLKEM768: it is an older demes, \
         or no peer"
    )]
    NoHybrid,
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

/// The first half of `dial`: TCP alone. A name is looked up each time.
pub async fn connect(address: &str) -> Result<TcpStream, DialError> {
    let connecting = async {
        let found = lookup_host(address).await.map_err(|_| DialError::NameUnknown)?;
        let mut found = found.peekable();
        found.peek().ok_or(DialError::NameUnknown)?;
        connect_any(found).await.map_err(|error| tcp_error(&error))
    };
    let tcp = timeout(CONNECT_MAX, connecting).await.map_err(|_| DialError::NoAnswer)??;
    tcp.set_nodelay(true).map_err(|error| other(&error))?;
    Ok(tcp)
}

/// Connects to whichever address of a name answers first. The next one is tried beside those before
/// it: an address that has become wrong mostly says nothing at all.
async fn connect_any(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.take(ADDRESSES_MAX).peekable();
    let mut attempts = FuturesUnordered::new();
    let mut failed: Option<io::Error> = None;
    loop {
        attempts.extend(left.next().map(TcpStream::connect));
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(tcp) => return Ok(tcp),
                // R14: who is gone refuses at each of its addresses.
                Err(error) => {
                    let refused = io::ErrorKind::ConnectionRefused;
                    let known = failed.take().filter(|known| known.kind() != refused);
                    failed = Some(known.unwrap_or(error));
                }
            },
            () = sleep(NEXT_ADDRESS), if left.peek().is_some() => {}
            else => return Err(failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
        }
    }
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
    let (closed, heard) = (CancellationToken::new(), Arc::default());
    let watched = Watched { tls, closed: closed.clone(), heard: Arc::clone(&heard) };
    let io = Mutex::new(Some(TokioIo::new(watched)));
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
    Ok(Connection { channel: GrpcClientLayer.layer(channel), peer, closed, heard })
}

fn other(error: &dyn std::fmt::Display) -> DialError {
    DialError::Other(error.to_string())
}

fn tcp_error(error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        io::ErrorKind::TimedOut => DialError::NoAnswer,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => DialError::NoRoute,
        _ => other(error),
    }
}

/// A process that is gone, behind a proxy or in a container, is accepted and then closed.
fn tls_error(error: &io::Error) -> DialError {
    if let Some(tls::Refusal::OtherKey { found, .. }) = tls::refusal_of(error) {
        return DialError::WrongKey(found);
    }
    if tls::lacks_hybrid(error) {
        return DialError::NoHybrid;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => DialError::Refused,
        _ => DialError::Other(error.to_string()),
    }
}

/// A stream that tells when it ends, and whether anything has come over it.
struct Watched {
    tls: TlsStream<TcpStream>,
    closed: CancellationToken,
    heard: Arc<AtomicU64>,
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
        } else if result.is_ready() {
            self.heard.fetch_add(1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A listener whose queue is full says nothing to whoever dials it.
    async fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let listener = socket.listen(0).expect("it listens");
        let address = listener.local_addr().expect("bound");
        let mut queued = Vec::new();
        while let Ok(Ok(tcp)) = timeout(NEXT_ADDRESS, TcpStream::connect(address)).await {
            queued.push(tcp);
        }
        (address, listener, queued)
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_does_not_hold_up_the_next_one() {
        let (wrong, _listener, _queued) = silent().await;
        let right = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
        let right = right.local_addr().expect("bound");
        let connected = timeout(CONNECT_MAX / 2, connect_any([wrong, right].into_iter()));
        let tcp = connected.await.expect("in time").expect("one of them answers");
        assert_eq!(tcp.peer_addr().expect("connected"), right);
    }

    #[tokio::test]
    async fn a_name_is_refused_only_where_all_of_its_addresses_refuse() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
        let gone = free.local_addr().expect("bound");
        drop(free);
        let error = connect_any([gone, gone].into_iter()).await.expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let no_way = SocketAddr::from(([255, 255, 255, 255], 1));
        let error = connect_any([gone, no_way, gone].into_iter()).await.expect_err("nor there");
        assert_ne!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
