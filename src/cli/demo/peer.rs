//! One real peer as a child process with its own data directory, and a client of its API.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::runtime::Handle;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::proxy::{Gate, Proxy};
use crate::serve::client_door::connect_socket;
use crate::wire::pb;
use crate::wire::pb::client_service_client::ClientServiceClient;

/// A caller of one peer's `ClientService`; cheap to clone.
pub type Client = ClientServiceClient<Channel>;

/// How long a peer may take to start.
pub const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a killed process may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// Between looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Where a peer on a machine of its own listens for the others.
const PEER_PORT: u16 = 7443;
/// Large answers (a long feed frame, a chat of many members) must fit, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where a peer runs, and how the others reach it.
pub struct Place {
    listen: SocketAddr,
    proxy: Option<Proxy>,
    machine: Option<Handle>,
}

impl Place {
    /// On loopback. With a delay, the others reach the peer only through a proxy; this must then be
    /// called on a tokio runtime.
    pub fn loopback(delay: Option<Duration>) -> Result<Self> {
        let listen = free_address()?;
        let proxy = match delay {
            Some(delay) => Some(Proxy::start(free_address()?, listen, delay, None)),
            None => None,
        };
        Ok(Self { listen, proxy, machine: None })
    }

    /// The same behind a proxy that asks `gate` what it may carry.
    pub fn gated(delay: Duration, gate: Arc<dyn Gate>) -> Result<Self> {
        let listen = free_address()?;
        let proxy = Proxy::start(free_address()?, listen, delay, Some(gate));
        Ok(Self { listen, proxy: Some(proxy), machine: None })
    }

    /// On a machine with the address `ip`: the peer's process, its proxy and the connections to it
    /// are made on `machine`, a runtime whose thread lives in that machine's network.
    pub fn machine(machine: Handle, ip: Ipv4Addr, delay: Option<Duration>) -> Self {
        let public = SocketAddr::from((ip, PEER_PORT));
        let Some(delay) = delay else {
            return Self { listen: public, proxy: None, machine: Some(machine) };
        };
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, PEER_PORT));
        let _here = machine.enter();
        let proxy = Proxy::start(public, listen, delay, None);
        Self { listen, proxy: Some(proxy), machine: Some(machine.clone()) }
    }
}

/// A peer that can be started, killed and started again. It is killed when it is dropped.
pub struct Peer {
    /// The person's name.
    pub name: String,
    /// Its id, once it was started.
    pub id: String,
    /// Its own directory, under the one given to `new`.
    pub dir: PathBuf,
    binary: PathBuf,
    place: Place,
    settings: Vec<(String, String)>,
    process: Option<Process>,
    /// A killed process whose end has not been waited for.
    dying: Option<Process>,
    client: Option<Client>,
}

/// A running peer.
struct Process {
    child: Child,
    /// The peer stops when this end closes. So it does not outlive this program, whatever ends it.
    _stdin: Option<ChildStdin>,
}

impl Peer {
    /// Prepares a peer that will run `binary` with a data directory under `root`.
    pub fn new(binary: &Path, root: &Path, name: &str, place: Place) -> Result<Self> {
        let dir = root.join(name.to_lowercase());
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self {
            name: name.to_owned(),
            id: String::new(),
            dir,
            binary: binary.to_owned(),
            place,
            settings: Vec::new(),
            process: None,
            dying: None,
            client: None,
        })
    }

    /// Sets a configuration variable (`DEMES__SECTION__KEY`) or flag's environment for later
    /// starts.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.settings.push((variable.to_owned(), value.to_owned()));
    }

    /// Where the other peers reach it.
    pub fn address(&self) -> SocketAddr {
        self.place.proxy.as_ref().map_or(self.place.listen, Proxy::address)
    }

    /// Moves the peer: what is sent to it and by it from now on takes `delay`. It must have been
    /// prepared with a delay.
    ///
    /// # Panics
    /// When no proxy stands before it.
    pub fn set_delay(&self, delay: Duration) {
        let proxy = self.place.proxy.as_ref().expect("it was prepared with a delay");
        proxy.set_delay(delay);
    }

    /// Narrows the peer's line, in each direction, to so many bytes a second; 0 widens it again.
    ///
    /// # Panics
    /// When no proxy stands before it.
    pub fn set_rate(&self, bytes_per_s: u64) {
        let proxy = self.place.proxy.as_ref().expect("it was prepared with a delay");
        proxy.set_rate(bytes_per_s);
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where its programs reach it without a token, for `connect`.
    pub fn socket(&self) -> String {
        format!("{SOCKET}{}", self.data_dir().display())
    }

    /// The command that `start` runs.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("DEMES__") {
                command.env_remove(variable);
            }
        }
        command
            .arg("up")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--name", &self.name])
            .args(["--listen", &self.place.listen.to_string()])
            .args(["--advertise", &self.address().to_string()])
            .args(["--client-listen", "127.0.0.1:0"])
            .arg("--until-stdin-ends")
            .env("XDG_CONFIG_HOME", self.dir.join("config"))
            .envs(self.settings.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts the process and returns when it answers calls; the time is bounded by `START_LIMIT`.
    pub async fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{}'s peer runs already", self.name);
        }
        self.gone().await?;
        let address_file = self.data_dir().join("client.addr");
        match fs::remove_file(&address_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context("cannot remove the client address of the last start");
            }
            _ => {}
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.command();
        let child = on(&self.place.machine, async move { command.stderr(log).spawn() }).await;
        let mut child = child.with_context(|| format!("cannot run {}", self.binary.display()))?;
        self.process = Some(Process { _stdin: child.stdin.take(), child });
        let started = Instant::now();
        loop {
            if let Some(status) = self.has_ended()? {
                bail!("{}'s peer ended with {status}:\n{}", self.name, self.log_tail());
            }
            if address_file.exists()
                && let Ok(client) = connect_on(&self.place.machine, &self.socket()).await
                && let Ok(peer) = client.clone().get_peer(pb::GetPeerRequest {}).await
            {
                self.id = peer.into_inner().peer_id;
                self.client = Some(client);
                return Ok(());
            }
            if started.elapsed() > START_LIMIT {
                bail!("{}'s peer does not start:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether the process was started and has not been killed.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The exit status of a process that has ended by itself; it then no longer counts as running.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let status = process.child.try_wait().context("cannot watch the peer's process")?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(|process| process.child.id())
    }

    /// Calls of this peer; after a restart a new one is needed.
    ///
    /// # Panics
    /// When the peer was never started.
    pub fn client(&self) -> Client {
        self.client.clone().expect("the peer was started before it is called")
    }

    /// Kills the process as `kill -9` does. Returns at once; `start` waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        let process = self.process.take().ok_or_else(|| anyhow!("{} does not run", self.name))?;
        self.dying.insert(process).child.start_kill().context("cannot kill the peer")?;
        Ok(())
    }

    /// Waits for the end of a killed process: its files are then nobody's.
    pub async fn gone(&mut self) -> Result<()> {
        if let Some(mut dying) = self.dying.take() {
            dying.child.wait().await.context("cannot wait for the killed process")?;
        }
        Ok(())
    }

    /// The exit status once the process has ended by itself, within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let process = self.process.as_mut().ok_or_else(|| anyhow!("{} does not run", self.name))?;
        let status = tokio::time::timeout(limit, process.child.wait()).await;
        let status = status.map_err(|_| anyhow!("{}'s peer runs on", self.name))??;
        self.process = None;
        Ok(status)
    }

    /// The end of what the peer has written on its standard error.
    pub fn log_tail(&self) -> String {
        const LINES: usize = 12;
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// What the peer has written on its standard error, over all its starts.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("peer.log")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for Process { mut child, .. } in self.process.take().into_iter().chain(self.dying.take()) {
            let _ = child.start_kill(); // it may have ended by itself
            // Its directory can only be removed when it writes no more.
            let killed = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && killed.elapsed() < KILL_LIMIT {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Does something on a machine, or right here.
async fn on<T: Send + 'static>(
    machine: &Option<Handle>,
    work: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    match machine {
        Some(machine) => machine.spawn(work).await.map_err(io::Error::other)?,
        None => work.await,
    }
}

/// What stands before a data directory whose socket is meant.
const SOCKET: &str = "socket:";

/// A client of the peer whose client listener is at `address`, or `socket:` and a data directory.
pub async fn connect(address: &str) -> Result<Client> {
    connect_on(&None, address).await
}

/// The same for a listener on another machine, given by a runtime whose thread lives there.
pub async fn connect_on(machine: &Option<Handle>, address: &str) -> Result<Client> {
    let (machine, target) = (machine.clone(), address.to_owned());
    let connector = service_fn(move |_: http::Uri| {
        let (machine, target) = (machine.clone(), target.clone());
        async move {
            if let Some(data_dir) = target.strip_prefix(SOCKET) {
                // It is in no machine's network.
                let stream = connect_socket(Path::new(data_dir)).await?;
                return io::Result::Ok(TokioIo::new(Either::Left(stream)));
            }
            let stream = on(&machine, TcpStream::connect(target)).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(Either::Right(stream)))
        }
    });
    let authority = if address.starts_with(SOCKET) { "localhost" } else { address };
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))?;
    let channel = endpoint.connect_with_connector(connector).await?;
    Ok(ClientServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// Looks until `look` has found something, for at most `limit`. `what` completes the sentence
/// "waited … for …" of the error.
pub async fn until<T, F>(limit: Duration, what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if begun.elapsed() > limit {
            bail!("waited {limit:?} for {what}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A loopback address that nobody listens at. The port lies below the range from which systems pick
/// ports for outgoing connections, so that it stays free while its owner is down.
pub fn free_address() -> Result<SocketAddr> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(101);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("20,000 + 12,000 fits into 16 bits");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free on this machine")
}
