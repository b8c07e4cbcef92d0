//! The listeners: for other peers over mutual TLS, for the person's programs in plain text on
//! loopback, and one for health alone.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use opentelemetry::KeyValue;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic::transport::server::{Connected, Router};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};
use tower::util::MapResponseLayer;

use super::client::Person;
use super::dial::MESSAGE_BYTES_MAX;
use super::inbound::{Caller, Inbound};
use super::options::{Limits, ServeError};
use super::status::with_reason;
use crate::crypto::tls;
use crate::telemetry::metrics::{Held, LISTENER, Metric, hold, rejected};
use crate::telemetry::{GrpcDurationLayer, GrpcServerLayer};
use crate::wire::FILE_DESCRIPTOR_SET;
use crate::wire::pb::client_service_server::ClientServiceServer;
use crate::wire::pb::election_service_server::ElectionServiceServer;
use crate::wire::pb::host_service_server::HostServiceServer;
use crate::wire::pb::peer_service_server::PeerServiceServer;

const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// The largest request of a program (R44).
const CLIENT_MESSAGE_BYTES_MAX: usize = 64 << 10;
const HEALTH_STREAMS_MAX: u32 = 64;
const HEALTH_CONNECTIONS_MAX: usize = 64;
/// Calls that their callers had given up before this peer looked at them; more end the connection.
/// A frozen peer finds all of them at once when it goes on, and they are nobody's fault.
const GIVEN_UP_MAX: usize = 4_096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Every call that arrives may be part of a trace, and is measured; every refusal has a reason.
type Traced =
    Stack<MapResponseLayer<WithReason>, Stack<GrpcDurationLayer, Stack<GrpcServerLayer, Identity>>>;
type WithReason = fn(http::Response<Body>) -> http::Response<Body>;

/// Opens a listener; an error names the flag that moves it.
pub async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortInUse { flag, address },
        _ => ServeError::Listen { flag, address, source },
    })
}

/// Serves other peers until `stop`.
pub async fn serve_peers(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    inbound: Inbound,
    limits: Limits,
    stop: CancellationToken,
) {
    let (connections, incoming) = mpsc::channel(1);
    let accepting = accept_peers(listener, tls, inbound.clone(), connections, stop.clone());
    let mut routes = Routes::builder();
    routes
        .add_service(
            HostServiceServer::new(inbound.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            ElectionServiceServer::new(inbound.clone())
                .max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX),
        )
        .add_service(
            PeerServiceServer::new(inbound).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX),
        );
    add_reflection(
        &mut routes,
        &["demes.v1.HostService", "demes.v1.ElectionService", "demes.v1.PeerService"],
    );
    let server = builder(limits.peer_streams_max).add_routes(routes.routes());
    run(accepting, server, incoming, stop).await;
}

/// Serves the person's programs, and health, until `stop`.
pub async fn serve_programs(
    listener: TcpListener,
    person: Person,
    health: HealthServer<impl Health>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut routes = Routes::builder();
    let client = ClientServiceServer::new(person);
    routes.add_service(client.max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX));
    routes.add_service(health);
    add_reflection(&mut routes, &["demes.v1.ClientService", "grpc.health.v1.Health"]);
    let server = builder(limits.client_streams_max).add_routes(routes.routes());
    serve_plain(listener, "client", server, limits.client_connections_max, stop).await;
}

/// Serves health alone until `stop`.
pub async fn serve_health(
    listener: TcpListener,
    health: HealthServer<impl Health>,
    stop: CancellationToken,
) {
    let server = builder(HEALTH_STREAMS_MAX).add_service(health);
    serve_plain(listener, "health", server, HEALTH_CONNECTIONS_MAX, stop).await;
}

/// Connections in plain text. At the limit, further ones wait in the kernel's queue.
async fn serve_plain(
    listener: TcpListener,
    name: &'static str,
    server: Router<Traced>,
    connections_max: usize,
    stop: CancellationToken,
) {
    let (connections, incoming) = mpsc::channel(1);
    let places = Arc::new(Semaphore::new(connections_max));
    let closed = stop.clone();
    let accepting = async {
        loop {
            let (place, tcp) = accept_one(&listener, &places).await;
            let connection = Served::new(tcp, (), place, name, &closed);
            let _ = connections.send(Ok(connection)).await;
        }
    };
    run(accepting, server, incoming, stop.clone()).await;
}

/// Serves what is accepted until `stop`.
async fn run<S, I>(
    accepting: impl Future<Output = ()>,
    server: Router<Traced>,
    incoming: mpsc::Receiver<io::Result<Served<S, I>>>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    I: Clone + Send + Sync + Unpin + 'static,
{
    tokio::select! {
        () = accepting => {}
        result = server.serve_with_incoming(ReceiverStream::new(incoming)) => {
            if let Err(error) = result {
                tracing::error!(%error, "a listener ended: start the peer again");
            }
        }
        () = stop.cancelled() => {}
    }
}

/// Waits for a place, and then for a connection.
pub(super) async fn accept_one(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, TcpStream) {
    let place = Arc::clone(places).acquire_owned().await.expect("nobody closes this semaphore");
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let _ = tcp.set_nodelay(true);
                return (place, tcp);
            }
            // Out of file descriptors, most likely: some come back as connections end.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn builder(streams_max: u32) -> Server<Traced> {
    Server::builder()
        .max_concurrent_streams(streams_max)
        .http2_max_pending_accept_reset_streams(Some(GIVEN_UP_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .layer(GrpcServerLayer)
        .layer(GrpcDurationLayer)
        .layer(MapResponseLayer::new(with_reason as WithReason))
}

/// Lists the services of this listener. The details of errors are described too, so that programs
/// can show them.
fn add_reflection(routes: &mut RoutesBuilder, services: &[&str]) {
    let configure = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
        services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
    };
    let valid = "the descriptors come from the compiler";
    routes.add_service(configure().build_v1().expect(valid));
    routes.add_service(configure().build_v1alpha().expect(valid));
}

/// Accepts connections and shakes hands, each in a task of its own, so that a slow one holds up
/// nobody. At the limits, further ones wait in the kernel's queue.
async fn accept_peers(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    inbound: Inbound,
    connections: mpsc::Sender<io::Result<Served<TlsStream<TcpStream>, Caller>>>,
    closed: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let limits = &inbound.node.limits;
    let places = Arc::new(Semaphore::new(limits.peer_connections_max));
    let handshakes = Arc::new(Semaphore::new(limits.handshakes_max));
    loop {
        let open = "nobody closes this semaphore";
        let handshake = Arc::clone(&handshakes).acquire_owned().await.expect(open);
        let (place, tcp) = accept_one(&listener, &places).await;
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        let (node, roster) = (Arc::clone(&inbound.node), inbound.handle.roster());
        let closed = closed.clone();
        tokio::spawn(async move {
            let _handshake = handshake;
            let tls = match timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await {
                Ok(Ok(tls)) => tls,
                Ok(Err(_)) => return rejected("HANDSHAKE_FAILED"),
                Err(_) => return rejected("HANDSHAKE_TIMEOUT"),
            };
            let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
            if let Some(peer) = tls::peer_id_of(certificates) {
                if let Some(contact) = roster.borrow().get(&peer) {
                    contact.outbox.dialled_us();
                }
                let caller = Caller { peer, bucket: node.gate.bucket(peer) };
                let connection = Served::new(tls, caller, place, "peer", &closed);
                let _ = connections.send(Ok(connection)).await;
            }
        });
    }
}

/// A connection that breaks when the peer has stopped, and keeps its place until then.
struct Served<S, I> {
    io: S,
    info: I,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
    _held: Held,
}

impl<S, I> Served<S, I> {
    fn new(
        io: S,
        info: I,
        place: OwnedSemaphorePermit,
        listener: &'static str,
        closed: &CancellationToken,
    ) -> Self {
        let closed = Box::pin(closed.clone().cancelled_owned());
        let held = hold(Metric::Connections, KeyValue::new(LISTENER, listener));
        Self { io, info, closed, _place: place, _held: held }
    }
}

impl<S, I: Clone + Send + Sync + 'static> Connected for Served<S, I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<S: AsyncRead + Unpin, I: Unpin> AsyncRead for Served<S, I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, I: Unpin> AsyncWrite for Served<S, I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
