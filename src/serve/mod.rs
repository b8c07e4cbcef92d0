//! The composition root: starts a peer out of its parts.
//!
//! `serve` starts a peer and returns once its listeners are bound and its chats are running.
//! `server.rs` has the listeners, `client_door.rs` the socket and the token of the person's
//! programs; `readiness.rs` is what the readiness probe is told, and `observe.rs` and `scrape.rs`
//! what metrics are read and told.

mod accept;
pub mod client_door;
mod observe;
mod options;
mod readiness;
mod scrape;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

pub use self::options::{OnStop, ServeError, ServeOptions};
pub use crate::peer::limits::{BootstrapChat, Limits};

use self::readiness::Readiness;
use crate::crypto::{Identity, tls};
use crate::faces::grpc::client::Person;
use crate::faces::grpc::inbound::Inbound;
use crate::links::peers;
use crate::peer::people::invites::Invites;
use crate::peer::{gate, life, lookup, node, records, repair};
use crate::protocol::types::PeerId;
use crate::runtime::driver::{self, DriverOptions, Reports};
use crate::runtime::handle::Handle;
use crate::storage::{DataDir, PeerStore, StorageError, free_bytes, write_private};
use crate::telemetry::Observed;
use crate::wire::{check_address, check_name};

/// A graceful stop takes at most this long, of which the hand-over may take the first part.
const STOP_MAX: Duration = Duration::from_millis(3_400);
/// What is on its way to other peers gets this long to leave.
const DRAIN_MAX: Duration = Duration::from_millis(200);
/// How long closing the chats' files may take.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// The record of the peer's own store that names whose directory it is.
const OWNER: (&str, &str) = ("peer", "id");
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Between looks at the disk's free space; a loop that says nothing for so long does not turn.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between looks at whether this peer is ready.
const READY_EVERY: Duration = Duration::from_millis(500);
/// The services of the health check: startup, readiness and liveness (in this order).
const HEALTH_SERVICES: [&str; 3] = ["startup", "readiness", "liveness"];

/// A peer at work. Dropping it without `stop` ends it as a crash would.
pub struct RunningPeer {
    handle: Handle,
    peer_address: String,
    client_address: SocketAddr,
    data_dir: PathBuf,
    has_socket: bool,
    metrics_address: Option<SocketAddr>,
    fatal: watch::Receiver<Option<String>>,
    /// Ends streams with a status, and the connections to other peers.
    stop: CancellationToken,
    /// Ends the listeners and all their connections. Both are cancelled when this is dropped.
    closed: CancellationToken,
    tasks: TaskTracker,
    /// Its metrics are read for as long as it is here.
    _observed: Observed,
}

impl RunningPeer {
    /// This peer's id.
    pub fn peer_id(&self) -> PeerId {
        self.handle.me()
    }

    /// Where other peers reach it, `host:port`.
    pub fn peer_address(&self) -> String {
        self.peer_address.clone()
    }

    /// Where the person's programs reach it with the token.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where they reach it without; none: this file system has no sockets.
    pub fn client_socket(&self) -> Option<PathBuf> {
        self.has_socket.then(|| self.data_dir.join(client_door::SOCKET_FILE))
    }

    /// Where Prometheus is told the metrics; none: nowhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Hands over, says goodbye, ends the streams and stops; takes at most 5 seconds.
    pub async fn stop(self) {
        // All limits together stay below what a supervisor waits.
        let _ = timeout(STOP_MAX, self.handle.stop()).await;
        let drained = async {
            while self.handle.roster().borrow().values().any(|c| !c.send_queue.is_empty()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // What has left the send queue is on its way through the connection's own task.
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let _ = timeout(DRAIN_MAX, drained).await;
        self.stop.cancel();
        // The last statuses leave before the connections break.
        tokio::time::sleep(LAST_WORDS).await;
        // The directory is still this process's: no other peer has put its own there.
        for name in [client_door::SOCKET_FILE, client_door::ADDRESS_FILE] {
            let _ = fs::remove_file(self.data_dir.join(name));
        }
        self.closed.cancel();
        self.tasks.close();
        let _ = timeout(DRAIN_MAX, self.tasks.wait()).await;
        let _ = timeout(CLOSE_MAX, self.handle.close()).await;
    }

    /// Resolves, with the reason, when the peer can no longer work and the process must end.
    pub async fn failed(&self) -> String {
        let mut fatal = self.fatal.clone();
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the peer's loop has ended".to_owned(),
        }
    }
}

impl Drop for RunningPeer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.closed.cancel();
    }
}

/// What [`serve`] returns. It is boxed so that it is compiled once, here.
pub type Serving = Pin<Box<dyn Future<Output = Result<RunningPeer, ServeError>> + Send>>;

/// Starts a peer: takes the data directory, binds the listeners, and takes up its chats.
pub fn serve(options: ServeOptions) -> Serving {
    Box::pin(start(options))
}

async fn start(options: ServeOptions) -> Result<RunningPeer, ServeError> {
    check(&options)?;
    let storage = |error: StorageError| match error {
        StorageError::InUse { .. } => ServeError::InUse(error.to_string()),
        error => ServeError::Storage(error.to_string()),
    };
    let dir = DataDir::open(&options.data_dir).map_err(storage)?;
    let identity = Identity::load_or_create(&options.data_dir);
    let identity = Arc::new(identity.map_err(|error| ServeError::Crypto(error.to_string()))?);
    if options.repair
        && let Some(kept_at) = dir.repair_peer_store().map_err(storage)?
    {
        let kept_at = kept_at.display().to_string();
        tracing::warn!(
            kept_at,
            "the peer's own store begins anew; the old one is kept: invitations \
            that were in it are gone"
        );
    }
    let store = dir.peer_store().map_err(storage)?;
    check_owner(&store, identity.peer_id(), &options.data_dir)?;
    let invites = Invites::load(&store).map_err(storage)?;

    let peers = server::bind(options.peer_listen, "--listen").await?;
    let programs = server::bind(options.client_listen, "--client-listen").await?;
    let health = bind_if(options.health_listen, "--health-listen").await?;
    let metrics = bind_if(options.metrics_listen, "--metrics-listen").await?;
    let client_address = local_address(&programs, "--client-listen", options.client_listen)?;
    let listening = local_address(&peers, "--listen", options.peer_listen)?;
    let peer_address = match &options.advertise {
        Some(address) => address.clone(),
        None => advertised(listening),
    };

    let keep_seat = options.on_stop == OnStop::KeepSeat;
    let config = options.protocol.clone();
    let (handle, reports) =
        driver::start(DriverOptions { identity: Arc::clone(&identity), config, keep_seat });
    let stop = CancellationToken::new();
    let node = Arc::new(node::Node {
        handle: handle.clone(),
        identity: Arc::clone(&identity),
        name: options.name.clone(),
        address: peer_address.clone(),
        listen_port: listening.port(),
        auto_accept: options.auto_accept,
        repair: options.repair,
        limits: options.limits.clone(),
        storage_reserve_bytes: options.storage_reserve_bytes,
        bootstrap: options.bootstrap.clone(),
        gate: gate::Gate::new(&options.limits),
        lookup: lookup::Lookup::start(),
        repeats: Arc::default(),
        stop: stop.clone(),
        dir,
        store,
        invites: Mutex::new(invites),
        inviting: Mutex::new(BTreeSet::new()),
        invite_changed: Notify::new(),
        joining: Mutex::new(BTreeMap::new()),
        lives: life::Lives::default(),
    });
    node.resume_all().await.map_err(storage)?;
    let pass = match options.require_token {
        true => {
            let token = client_door::load_token(&options.data_dir).map_err(|error| {
                let path = options.data_dir.join(client_door::TOKEN_FILE);
                ServeError::Storage(format!("cannot keep a token in {}: {error}", path.display()))
            })?;
            client_door::Pass::new(Some(&token))
        }
        false => {
            tracing::warn!(%client_address, "every user of this machine can read and write these \
                chats: `client.require_token` is false");
            client_door::Pass::new(None)
        }
    };
    let socket = client_door::bind_socket(&options.data_dir).inspect_err(|error| {
        tracing::warn!(%error, "there can be no socket in the data directory: commands use the \
            listener on loopback instead");
    });
    let address_file = options.data_dir.join(client_door::ADDRESS_FILE);
    write_private(&address_file, &format!("{client_address}\n")).map_err(|error| {
        ServeError::Storage(format!("cannot write {}: {error}", address_file.display()))
    })?;

    let fatal = reports.fatal.clone();
    let tasks = TaskTracker::new();
    let closed = CancellationToken::new();
    let metrics_address = metrics.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(listener) = metrics {
        tasks.spawn(scrape::serve_metrics(listener, closed.clone()));
    }
    let reserve = options.storage_reserve_bytes;
    let (data_dir, has_socket) = (options.data_dir.clone(), socket.is_ok());
    let _observed = observe::observe_peer(&node, data_dir.clone(), reserve);
    let running = Running { node, options, stop: stop.clone(), closed: closed.clone(), tasks };
    let listeners = Listeners { peers, programs, socket: socket.ok(), pass, health };
    let tasks = running.start(listeners, client_address, reports).await;
    Ok(RunningPeer {
        handle,
        peer_address,
        client_address,
        data_dir,
        has_socket,
        metrics_address,
        fatal,
        stop,
        closed,
        tasks,
        _observed,
    })
}

async fn bind_if(
    address: Option<SocketAddr>,
    flag: &'static str,
) -> Result<Option<TcpListener>, ServeError> {
    match address {
        Some(address) => Ok(Some(server::bind(address, flag).await?)),
        None => Ok(None),
    }
}

/// The listeners but for the one of metrics.
struct Listeners {
    peers: TcpListener,
    programs: TcpListener,
    socket: Option<UnixListener>,
    /// What programs must show where there is no socket.
    pass: client_door::Pass,
    health: Option<TcpListener>,
}

/// What the tasks of a peer are started with.
struct Running {
    node: Arc<node::Node>,
    options: ServeOptions,
    stop: CancellationToken,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    async fn start(
        self,
        listeners: Listeners,
        client_address: SocketAddr,
        reports: Reports,
    ) -> TaskTracker {
        let Listeners { peers, programs, socket, pass, health } = listeners;
        let Self { node, options, stop, closed, tasks } = self;
        let handle = node.handle.clone();
        let inbound =
            Inbound { handle: handle.clone(), node: Arc::clone(&node), stop: stop.clone() };
        // First contact comes from keys that nobody knows: each service decides for itself.
        let tls = tls::server_config(&node.identity, Arc::new(|_: &PeerId| true));
        let limits = options.limits.clone();
        tasks.spawn(server::serve_peers(peers, tls, inbound, limits.clone(), closed.clone()));
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let person = Person { node: Arc::clone(&node), client_address };
        tasks.spawn(server::serve_programs(
            programs,
            socket,
            pass,
            person,
            health_service.clone(),
            limits,
            closed.clone(),
        ));
        if let Some(listener) = health {
            tasks.spawn(server::serve_health(listener, health_service, closed));
        }
        let identity = Arc::clone(&node.identity);
        tasks.spawn(peers::keep_links(handle.clone(), identity, stop.clone()));
        let reserve = options.storage_reserve_bytes;
        let path = options.data_dir.clone();
        let (stopped, reported) = (stop.clone(), Arc::clone(&node));
        tasks.spawn(async move {
            tokio::select! {
                () = watch_disk(&handle, &path, reserve) => {}
                () = report_health(&reported, reporter) => {}
                () = stopped.cancelled() => {}
            }
        });
        node.go_on().await;
        tasks.spawn(records::keep(Arc::clone(&node)));
        tasks.spawn(repair::check_all(Arc::clone(&node)));
        tasks.spawn(see_to_ended(node, reports, stop));
        tasks
    }
}

fn check(options: &ServeOptions) -> Result<(), ServeError> {
    let invalid = |what: &str| ServeError::Invalid(what.to_owned());
    check_name(&options.name, "name")
        .map_err(|_| invalid("peer.name must have 1 to 64 characters, no control characters"))?;
    if let Some(address) = &options.advertise {
        check_address(address, "advertise")
            .map_err(|_| invalid("the advertised address must be host:port"))?;
    }
    if !options.client_listen.ip().is_loopback() {
        return Err(invalid("the client listener must be on loopback: anyone could read along"));
    }
    for chat in &options.bootstrap {
        check_name(&chat.name, "name")
            .map_err(|_| invalid("a bootstrap chat's name must have 1 to 64 characters"))?;
        for address in &chat.members {
            check_address(address, "members")
                .map_err(|_| invalid("a bootstrap chat's members must be host:port"))?;
        }
    }
    Ok(())
}

fn local_address(
    listener: &TcpListener,
    flag: &'static str,
    address: SocketAddr,
) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(|source| ServeError::Listen { flag, address, source })
}

/// What others can dial when nothing was configured: the listener's own address; for one that
/// listens everywhere, loopback, which at least works on this machine.
fn advertised(listening: SocketAddr) -> String {
    let ip = match listening {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => "[::1]".to_owned(),
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    format!("{ip}:{}", listening.port())
}

/// A directory belongs to one key for ever: the votes and promises in it are that key's, and
/// another one must not take them for its own.
fn check_owner(store: &PeerStore, me: PeerId, data_dir: &Path) -> Result<(), ServeError> {
    let storage = |error: StorageError| ServeError::Storage(error.to_string());
    let (me, data_dir) = (me.to_string(), data_dir.display());
    match store.get(OWNER.0, OWNER.1).map_err(storage)? {
        None => store.put(OWNER.0, OWNER.1, me.as_bytes()).map_err(storage),
        Some(owner) if owner == me.as_bytes() => Ok(()),
        Some(owner) => Err(ServeError::Crypto(format!(
            "{data_dir} belongs to the peer {}, and the key in it is that of {me}: put the right \
             identity.pem back from a backup, or name another directory with --data-dir",
            String::from_utf8_lossy(&owner)
        ))),
    }
}

/// R38: tells the loop when free space falls below the reserve, and when it rises again.
async fn watch_disk(handle: &Handle, path: &Path, reserve_bytes: u64) {
    let mut told = false;
    loop {
        let looked = path.to_owned();
        let free = tokio::task::spawn_blocking(move || free_bytes(&looked)).await;
        if let Ok(Ok(free)) = free
            && (free < reserve_bytes) != told
        {
            told = !told;
            match told {
                true => tracing::warn!(
                    free_bytes = free,
                    reserve_bytes,
                    "the disk is full: nothing \
                    new is taken until there is more free space than `storage.reserve_mib`"
                ),
                false => tracing::info!(free_bytes = free, "there is free space again"),
            }
            handle.disk_full(told).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Startup: stores are open and listeners bound. Readiness: every chat is served and caught up
/// here, or has no host that could be reached (`readiness.rs`). Liveness: the loop turns; a loop
/// that does not turn leaves the last report to age.
async fn report_health(node: &node::Node, reporter: HealthReporter) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let [startup, readiness, liveness] = HEALTH_SERVICES;
    let begun = Instant::now();
    let mut looks = Readiness::of(node.handle.me());
    let bootstrap = node.bootstrap.iter().filter(|chat| chat.members.contains(&node.address));
    let bootstrap = bootstrap.count();
    // Nobody takes a peer for ready that has not looked yet.
    reporter.set_service_status(readiness, NotServing).await;
    reporter.set_service_status("", Serving).await;
    reporter.set_service_status(startup, Serving).await;
    loop {
        let views = async {
            let mut views = Vec::new();
            for chat in node.handle.chats() {
                if let Ok(view) = node.handle.view(chat.id).await {
                    views.push((chat.id, view));
                }
            }
            views
        };
        let views = timeout(LOOK_EVERY, views).await;
        let ready = views.as_ref().is_ok_and(|views| {
            let chats = views.iter().map(|(id, view)| (*id, &view.status, !view.fault.is_empty()));
            looks.look(begun.elapsed(), bootstrap, chats)
        });
        let state = |good| if good { Serving } else { NotServing };
        reporter.set_service_status(readiness, state(ready)).await;
        reporter.set_service_status(liveness, state(views.is_ok())).await;
        tokio::time::sleep(READY_EVERY).await;
    }
}

/// Sees to chats that the loop has ended: those that this peer has left go, and those whose store
/// cannot be used are repaired.
async fn see_to_ended(node: Arc<node::Node>, mut reports: Reports, stop: CancellationToken) {
    loop {
        tokio::select! {
            ended = reports.ended.recv() => match ended {
                Some(ended) => {
                    // Each by itself: closing one's file may take a while.
                    let node = Arc::clone(&node);
                    tokio::spawn(async move { life::ended(&node, ended).await });
                }
                None => return,
            },
            () = stop.cancelled() => return,
        }
    }
}
