//! The listeners: for other peers over mutual TLS, for the person's programs in plain text on
//! loopback, and one for health alone. `places.rs` says who is let in and who gives way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};
use tower::util::MapResponseLayer;

use super::accept::accept_one;
use super::client_door::{Doorway, Pass, PassLayer};
use super::options::ServeError;
use crate::crypto::tls;
use crate::faces::grpc::client::Person;
use crate::faces::grpc::host::HostDoor;
use crate::faces::grpc::inbound::Inbound;
use crate::faces::grpc::status::with_reason;
use crate::faces::places::{Kind, Place, Places, Room, kind_of};
use crate::faces::visit::{CallsLayer, Served};
use crate::peer::gate::Caller;
use crate::peer::limits::Limits;
use crate::planted::{Mistake, planted};
use crate::telemetry::metrics::rejected;
use crate::telemetry::{GrpcDurationLayer, GrpcServerLayer};
use crate::wire::FILE_DESCRIPTOR_SET;
use crate::wire::pb::client_service_server::ClientServiceServer;
use crate::wire::pb::election_service_server::ElectionServiceServer;
use crate::wire::pb::peer_service_server::PeerServiceServer;

/// Where the system does not say which machine a connection comes from.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// The largest request but for `Submit` (R44).
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// The largest request to health and reflection, which ask for a name.
const NAME_BYTES_MAX: usize = 4 << 10;
/// A call of another peer that has no answer by then is given up, so that no unfinished request is
/// kept. Streams have their answer, which is that they are open.
const CALL_MAX: Duration = Duration::from_secs(10);
const HEALTH_CONNECTIONS_MAX: usize = 64;
/// Connections of one key. A member dials this peer once for good, and beside that for checks, to
/// join and to invite.
const KEY_CONNECTIONS_MAX: usize = 8;
const MEMBER_IDLE_MAX: Duration = Duration::from_secs(60);
const STRANGER_IDLE_MAX: Duration = Duration::from_secs(15);

/// What one connection may have under way.
struct Flow {
    streams_max: u32,
    stream_window_bytes: u32,
    connection_window_bytes: u32,
    /// Calls that their callers had given up before this peer looked at them; more end the
    /// connection. A frozen peer finds all of them at once when it goes on, and they are nobody's
    /// fault.
    given_up_max: usize,
    call_max: Option<Duration>,
}

/// For members, and for the person's own programs.
const WIDE: Flow = Flow {
    streams_max: 64,
    stream_window_bytes: 1 << 20,
    connection_window_bytes: 4 << 20,
    given_up_max: 4_096,
    call_max: None,
};
/// For everybody else. A member that was a stranger when it came has its four streams too.
const NARROW: Flow = Flow {
    streams_max: 8,
    stream_window_bytes: 128 << 10,
    connection_window_bytes: 128 << 10,
    given_up_max: 64,
    call_max: Some(CALL_MAX),
};

/// Every call that arrives is counted, may be part of a trace, and is measured; every refusal has a
/// reason.
type Traced = Stack<
    PassLayer,
    Stack<
        MapResponseLayer<WithReason>,
        Stack<GrpcDurationLayer, Stack<GrpcServerLayer, Stack<CallsLayer, Identity>>>,
    >,
>;
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
    let mut routes = Routes::builder();
    let election = ElectionServiceServer::new(inbound.clone());
    let peer = PeerServiceServer::new(inbound.clone());
    routes
        .add_service(HostDoor::new(&inbound, REQUEST_BYTES_MAX))
        .add_service(election.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(peer.max_decoding_message_size(REQUEST_BYTES_MAX));
    add_reflection(
        &mut routes,
        &["demes.v1.HostService", "demes.v1.ElectionService", "demes.v1.PeerService"],
    );
    let routes = routes.routes();
    let wide = Flow { streams_max: limits.peer_streams_max, call_max: Some(CALL_MAX), ..WIDE };
    let narrow = if planted(Mistake::StrangersAskMuch) { &wide } else { &NARROW };
    let (members, from_members) = mpsc::channel(1);
    let (strangers, from_strangers) = mpsc::channel(1);
    let places = Places::new(rooms(&limits));
    let order = Arc::clone(&places);
    let peer_listener =
        PeerListener { places, tls: TlsAcceptor::from(tls), inbound, members, strangers, stop };
    let (stop, known) = (peer_listener.stop.clone(), peer_listener.inbound.clone());
    tokio::select! {
        () = peer_listener.accept(listener) => {}
        () = order.keep_order(|peer| known.knows(peer)) => {}
        () = run(builder(&wide, None).add_routes(routes.clone()), from_members) => {}
        () = run(builder(narrow, None).add_routes(routes), from_strangers) => {}
        () = stop.cancelled() => {}
    }
}

/// The places at the listener for peers.
fn rooms(limits: &Limits) -> [Room; 3] {
    let room = |kind, all: usize, idle_max| Room {
        kind,
        all,
        of_address: all.div_ceil(2),
        of_key: KEY_CONNECTIONS_MAX,
        busy_give_way: true,
        idle_max,
    };
    let members = room(Kind::Member, limits.peer_connections_max, MEMBER_IDLE_MAX);
    [
        room(Kind::Unproven, limits.handshakes_max, HANDSHAKE_MAX),
        room(Kind::Stranger, limits.stranger_connections_max, STRANGER_IDLE_MAX),
        // Members may share an address, and each has its own key.
        Room { of_address: members.all, ..members },
    ]
}

/// Serves the person's programs, and health, until `stop`: on the socket, if there is one, and on
/// loopback, where they must show their pass.
pub async fn serve_programs(
    listener: TcpListener,
    socket: Option<UnixListener>,
    pass: Pass,
    person: Person,
    health: HealthServer<impl Health>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut routes = Routes::builder();
    let client = ClientServiceServer::new(person);
    routes.add_service(client.max_decoding_message_size(REQUEST_BYTES_MAX));
    routes.add_service(health.max_decoding_message_size(NAME_BYTES_MAX));
    add_reflection(&mut routes, &["demes.v1.ClientService", "grpc.health.v1.Health"]);
    let routes = routes.routes();
    let flow = Flow { streams_max: limits.client_streams_max, ..WIDE };
    // A feed that is read is not given up for another one: who comes too late waits.
    let room = Room {
        busy_give_way: false,
        idle_max: limits.client_idle,
        ..plain(limits.client_connections_max)
    };
    let server = |pass| builder(&flow, pass).add_routes(routes.clone());
    let (peer_listener, asking) = (Doorway::Tcp(listener), server(Some(pass)));
    let tcp = serve_plain(peer_listener, "client", asking, room, stop.clone());
    let socket = async {
        if let Some(socket) = socket {
            serve_plain(Doorway::Socket(socket), "client", server(None), room, stop).await;
        }
    };
    tokio::join!(tcp, socket);
}

/// Serves health alone until `stop`.
pub async fn serve_health(
    listener: TcpListener,
    health: HealthServer<impl Health>,
    stop: CancellationToken,
) {
    let most = if planted(Mistake::HealthAskedAtLength) { usize::MAX } else { NAME_BYTES_MAX };
    let health = health.max_decoding_message_size(most);
    let server = builder(&NARROW, None).add_service(health);
    let (peer_listener, room) = (Doorway::Tcp(listener), plain(HEALTH_CONNECTIONS_MAX));
    serve_plain(peer_listener, "health", server, room, stop).await;
}

fn handshake_max() -> Duration {
    if planted(Mistake::HandshakeForEver) { Duration::MAX } else { HANDSHAKE_MAX }
}

/// Places where nobody shows a key: whoever asks gets through, and the others give way.
pub(super) fn plain(all: usize) -> Room {
    let (kind, idle_max) = (Kind::Plain, STRANGER_IDLE_MAX);
    Room { kind, all, of_address: all, of_key: all, busy_give_way: true, idle_max }
}

/// Connections in plain text.
async fn serve_plain(
    peer_listener: Doorway,
    name: &'static str,
    server: Router<Traced>,
    room: Room,
    stop: CancellationToken,
) {
    let (connections, incoming) = mpsc::channel(1);
    let places = Places::new([room]);
    let accepting = async {
        loop {
            let (io, address) = peer_listener.accept().await;
            let place = places.take(Kind::Plain, address, &stop).await;
            let _ = connections.send(Ok(Served::new(io, None, place, name))).await;
        }
    };
    tokio::select! {
        () = accepting => {}
        () = places.keep_order(|_| false) => {}
        () = run(server, incoming) => {}
        () = stop.cancelled() => {}
    }
}

/// Serves what is accepted.
async fn run<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    server: Router<Traced>,
    incoming: mpsc::Receiver<io::Result<Served<S>>>,
) {
    if let Err(error) = server.serve_with_incoming(ReceiverStream::new(incoming)).await {
        tracing::error!(%error, "a listener ended: start the peer again");
    }
}

/// A server whose requests must show this pass, if there is one.
fn builder(flow: &Flow, pass: Option<Pass>) -> Server<Traced> {
    let builder = Server::builder()
        .max_concurrent_streams(flow.streams_max)
        .http2_max_pending_accept_reset_streams(Some(flow.given_up_max))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .initial_stream_window_size(flow.stream_window_bytes)
        .initial_connection_window_size(flow.connection_window_bytes);
    match flow.call_max {
        Some(call_max) => builder.timeout(call_max),
        None => builder,
    }
    .layer(CallsLayer)
    .layer(GrpcServerLayer)
    .layer(GrpcDurationLayer)
    .layer(MapResponseLayer::new(with_reason as WithReason))
    .layer(PassLayer(pass.map(Arc::new)))
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
    let (v1, v1alpha) = (configure().build_v1(), configure().build_v1alpha());
    routes.add_service(v1.expect(valid).max_decoding_message_size(NAME_BYTES_MAX));
    routes.add_service(v1alpha.expect(valid).max_decoding_message_size(NAME_BYTES_MAX));
}

/// Lets other peers in.
#[derive(Clone)]
struct PeerListener {
    places: Arc<Places>,
    tls: TlsAcceptor,
    inbound: Inbound,
    members: mpsc::Sender<io::Result<Served<TlsStream<TcpStream>>>>,
    strangers: mpsc::Sender<io::Result<Served<TlsStream<TcpStream>>>>,
    stop: CancellationToken,
}

impl PeerListener {
    /// Accepts connections, and lets each shake hands in a task of its own, so that a slow one
    /// holds up nobody.
    async fn accept(&self, listener: TcpListener) {
        loop {
            let (tcp, address) = accept_one(&listener).await;
            let place = self.places.take(Kind::Unproven, address, &self.stop).await;
            tokio::spawn(self.clone().let_in(tcp, place));
        }
    }

    async fn let_in(self, tcp: TcpStream, place: Place) {
        let shaking = async {
            // What says nothing costs a socket, and no more.
            tcp.readable().await?;
            self.tls.accept(tcp).await
        };
        let tls = tokio::select! {
            shaken = timeout(handshake_max(), shaking) => match shaken {
                Ok(Ok(tls)) => tls,
                Ok(Err(error)) if tls::lacks_hybrid(&error) => return rejected("HYBRID_MISSING"),
                Ok(Err(_)) => return rejected("HANDSHAKE_FAILED"),
                Err(_) => return rejected("HANDSHAKE_TIMEOUT"),
            },
            // It was counted where it gave way.
            () = place.holder.closed.cancelled() => return,
        };
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let Some(peer) = tls::peer_id_of(certificates) else { return };
        let roster = self.inbound.handle.roster();
        let send_queue = roster.borrow().get(&peer).map(|contact| Arc::clone(&contact.send_queue));
        if let Some(send_queue) = &send_queue {
            send_queue.dialled_us();
        }
        let is_member = self.inbound.knows(&peer);
        place.prove(peer, is_member);
        let ip = tls.get_ref().0.peer_addr().map_or(UNKNOWN, |address| address.ip());
        let caller = Caller { peer, ip, bucket: self.inbound.node.gate.bucket(peer) };
        let connection = Served::new(tls, Some(caller), place, "peer").with_send_queue(send_queue);
        let connections = match kind_of(is_member) {
            Kind::Member => self.members,
            _ => self.strangers,
        };
        let _ = connections.send(Ok(connection)).await;
    }
}
