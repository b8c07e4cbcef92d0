//! One real peer as a child process with its own data directory, and a client of its API.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use super::proxy::Proxy;
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
/// Large answers (a long feed frame, a chat of many members) must fit, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A peer that can be started, killed and started again. It is killed when it is dropped.
pub struct Peer {
    /// The person's name.
    pub name: String,
    /// Its id, once it was started.
    pub id: String,
    /// Its own directory, under the one given to `new`.
    pub dir: PathBuf,
    binary: PathBuf,
    listen: SocketAddr,
    proxy: Option<Proxy>,
    settings: Vec<(String, String)>,
    child: Option<Child>,
    /// A killed process whose end has not been waited for.
    dying: Option<Child>,
    client: Option<Client>,
}

impl Peer {
    /// Prepares a peer that will run `binary` with a data directory under `root`. With a delay, the
    /// others reach it only through a proxy; this must then be called on a tokio runtime.
    pub fn new(binary: &Path, root: &Path, name: &str, delay: Option<Duration>) -> Result<Self> {
        let dir = root.join(name.to_lowercase());
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let listen = free_address()?;
        let proxy = match delay {
            Some(delay) => Some(Proxy::start(free_address()?, listen, delay)),
            None => None,
        };
        Ok(Self {
            name: name.to_owned(),
            id: String::new(),
            dir,
            binary: binary.to_owned(),
            listen,
            proxy,
            settings: Vec::new(),
            child: None,
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
        self.proxy.as_ref().map_or(self.listen, Proxy::address)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
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
            .args(["--listen", &self.listen.to_string()])
            .args(["--advertise", &self.address().to_string()])
            .args(["--client-listen", "127.0.0.1:0"])
            .env("XDG_CONFIG_HOME", self.dir.join("config"))
            .envs(self.settings.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts the process and returns when it answers calls; the time is bounded by `START_LIMIT`.
    pub async fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{}'s peer runs already", self.name);
        }
        if let Some(mut dying) = self.dying.take() {
            dying.wait().await.context("cannot wait for the killed process")?;
        }
        let address_file = self.data_dir().join("client.addr");
        match fs::remove_file(&address_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("cannot remove the client address of the last start");
            }
            _ => {}
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let child = self.command().stderr(log).spawn();
        self.child = Some(child.with_context(|| format!("cannot run {}", self.binary.display()))?);
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose())
            {
                let status = status.context("cannot watch the peer's process")?;
                bail!("{}'s peer ended with {status}:\n{}", self.name, self.log_tail());
            }
            if let Ok(address) = fs::read_to_string(&address_file)
                && let Ok(client) = connect(address.trim()).await
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
        self.child.is_some()
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
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
        let mut child = self.child.take().ok_or_else(|| anyhow!("{} does not run", self.name))?;
        child.start_kill().context("cannot kill the peer")?;
        self.dying = Some(child);
        Ok(())
    }

    /// The exit status once the process has ended by itself, within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let child = self.child.as_mut().ok_or_else(|| anyhow!("{} does not run", self.name))?;
        let status = tokio::time::timeout(limit, child.wait()).await;
        let status = status.map_err(|_| anyhow!("{}'s peer runs on", self.name))??;
        self.child = None;
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

    fn log_path(&self) -> PathBuf {
        self.dir.join("peer.log")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for mut child in self.child.take().into_iter().chain(self.dying.take()) {
            let _ = child.start_kill(); // it may have ended by itself
            // Its directory can only be removed when it writes no more.
            let killed = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && killed.elapsed() < KILL_LIMIT {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// A client of the peer whose client listener is at `address`.
pub async fn connect(address: &str) -> Result<Client> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
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
