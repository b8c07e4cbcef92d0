//! What a node does for a pod: starts its container, asks its probes, starts it again when it ends
//! or does not live, and stops it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitStatus;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use demes::cli::demo::cluster::chat_at;
use demes::cli::demo::peer::{Client, connect_on};
use demes::wire::pb;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::container::{Container, Recipe};
use crate::machine::Machine;
use crate::manifests::Probe;
use crate::record::{Kind, Record};
use crate::workload::World;

/// A cluster waits 10 s, and then twice as long each time.
const BACK_OFF: Duration = Duration::from_secs(1);
/// A pod whose containers end so often is given up: a cluster would go on.
const CONTAINERS_MAX: u32 = 5;
/// How long after its start a container need not be ready.
const CATCH_UP: Duration = Duration::from_secs(20);
/// How long after something was done to the chat a pod need not be ready, and may be thought to be:
/// its peer looks every second or so, and the probe every five.
const UNSETTLED: Duration = Duration::from_secs(8);
/// A ready pod has everything that was confirmed to anybody so long ago.
const BEHIND: Duration = Duration::from_secs(3);

/// What everything is done with.
pub struct Shared {
    pub recipe: Recipe,
    pub world: Arc<World>,
    pub record: Record,
    /// Where a pod's own programs reach it, inside.
    pub client_address: SocketAddr,
    /// The ids of the pods' peers, as they were first seen.
    ids: Mutex<Vec<Option<String>>>,
    /// The pods that there are.
    pods: Mutex<BTreeMap<usize, Arc<Pod>>>,
}

impl Shared {
    pub fn new(recipe: Recipe, client_address: SocketAddr, chat: String) -> Arc<Self> {
        let replicas = recipe.manifests.set.replicas;
        Arc::new(Self {
            recipe,
            world: World::new(chat, replicas),
            record: Record::new(),
            client_address,
            ids: Mutex::new(vec![None; replicas]),
            pods: Mutex::default(),
        })
    }

    pub fn lock_ids(&self) -> MutexGuard<'_, Vec<Option<String>>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_pods(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<Pod>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.lock_pods().values().cloned().collect()
    }

    /// The pod whose peer has this id.
    pub fn ordinal_of(&self, id: &str) -> Option<usize> {
        self.lock_ids().iter().position(|known| known.as_deref() == Some(id))
    }
}

/// One pod, from its making to its end.
pub struct Pod {
    pub ordinal: usize,
    pub name: String,
    pub node: usize,
    pub machine: Arc<Machine>,
    status: Mutex<Status>,
    /// Asks for a stop in order.
    pub delete: CancellationToken,
    /// Its node is gone: it ends at once, and nobody is told.
    pub lose: CancellationToken,
}

struct Status {
    stage: Stage,
    ready: bool,
    container_began: Instant,
    became_ready: Option<Instant>,
    ready_since: Option<Instant>,
    pid: Option<Pid>,
    client: Option<Client>,
}

impl Status {
    fn starting() -> Self {
        let container_began = Instant::now();
        let (stage, ready) = (Stage::Starting, false);
        Self {
            stage,
            ready,
            container_began,
            became_ready: None,
            ready_since: None,
            pid: None,
            client: None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Up,
    Stopping,
    Gone,
}

/// What a probe was told.
#[derive(PartialEq, Eq)]
enum Answer {
    Good,
    Bad(String),
}

/// Why a container is no longer probed.
enum Outcome {
    Ended(Result<ExitStatus>),
    Unhealthy(Kind),
    Delete,
    Lose,
}

impl Pod {
    pub fn new(ordinal: usize, name: String, node: usize, machine: Machine) -> Arc<Self> {
        Arc::new(Self {
            ordinal,
            name,
            node,
            machine: Arc::new(machine),
            status: Mutex::new(Status::starting()),
            delete: CancellationToken::new(),
            lose: CancellationToken::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.machine.ip()
    }

    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Whether it is ready, and was for so long.
    pub fn is_available(&self, min_ready: Duration) -> bool {
        let status = self.lock();
        status.ready && status.ready_since.is_some_and(|since| since.elapsed() >= min_ready)
    }

    /// From its container's start until it was first ready.
    pub fn ready_in(&self) -> Option<Duration> {
        let status = self.lock();
        Some(status.became_ready? - status.container_began)
    }

    /// Its program's process.
    pub fn pid(&self) -> Option<u32> {
        u32::try_from(self.lock().pid?.as_raw()).ok()
    }

    /// What its process may do beyond what the security contexts say; nothing, if all is well.
    pub fn confinement(&self, shared: &Shared) -> Result<String> {
        let pid = self.pid().context("its program runs")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
        let security = &shared.recipe.manifests.pod().security_context;
        let mut wrong = String::new();
        let (user, group) = (security.run_as_user.to_string(), security.run_as_group.to_string());
        let none = "0000000000000000";
        let expected = [
            ("Uid:", user.as_str()),
            ("Gid:", group.as_str()),
            ("NoNewPrivs:", "1"),
            ("CapPrm:", none),
            ("CapEff:", none),
        ];
        for (what, value) in expected {
            let line = status.lines().find_map(|line| line.strip_prefix(what));
            let found = line.context("the kernel tells it")?;
            if found.split_whitespace().any(|word| word != value) {
                wrong += &format!(" ({what} {found})");
            }
        }
        let written = |path: &str| {
            let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let options = mount.filter(|mount| mount[1] == path).map(|mount| mount[3].to_owned());
            options.last().is_none_or(|options| !options.split(',').any(|option| option == "ro"))
        };
        for mount in &shared.recipe.manifests.container().volume_mounts {
            if mount.read_only && written(&mount.mount_path) {
                wrong += &format!(" ({} can be written)", mount.mount_path);
            }
        }
        if written("/") {
            wrong += " (the root can be written)";
        }
        Ok(wrong)
    }

    /// A letter for the timeline.
    pub fn letter(&self, hosts: bool) -> char {
        let status = self.lock();
        match status.stage {
            Stage::Starting => 's',
            Stage::Up if status.ready && hosts => 'H',
            Stage::Up if status.ready => 'R',
            Stage::Up => 'u',
            Stage::Stopping => 't',
            Stage::Gone => '.',
        }
    }

    /// A caller inside the pod, as `kubectl exec` is; the same one for
    /// as long as its container lives.
    pub async fn client(&self, shared: &Shared) -> Result<Client> {
        if let Some(client) = &self.lock().client {
            return Ok(client.clone());
        }
        let runtime = Some(self.machine.runtime());
        let data_dir = shared.recipe.data_dir(self.ordinal)?;
        let client = connect_on(&runtime, &format!("socket:{}", data_dir.display())).await?;
        Ok(self.lock().client.insert(client).clone())
    }

    /// Runs it until it is deleted or lost.
    pub async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        for _ in 0..CONTAINERS_MAX {
            let Err(error) = self.run_container(&shared).await else { break };
            shared.record.problem(format!("{}: {error:#}", self.name));
            if self.delete.is_cancelled() || self.lose.is_cancelled() {
                break;
            }
            sleep(BACK_OFF).await;
        }
        self.enter(Stage::Gone, &shared);
    }

    /// One container's life; an error when it ended otherwise than by a stop in order.
    async fn run_container(&self, shared: &Shared) -> Result<()> {
        *self.lock() = Status::starting();
        let mut container = shared.recipe.start(self.ordinal, &self.machine).await?;
        self.lock().pid = Some(container.pid());
        let outcome = tokio::select! {
            ended = container.ended() => Outcome::Ended(ended),
            kind = self.probe(shared) => Outcome::Unhealthy(kind),
            () = self.delete.cancelled() => Outcome::Delete,
            () = self.lose.cancelled() => Outcome::Lose,
        };
        self.enter(Stage::Stopping, shared);
        match outcome {
            Outcome::Ended(status) => {
                anyhow::bail!("the container ended by itself: {}", status?)
            }
            Outcome::Unhealthy(kind) => {
                self.stop(&mut container, shared).await?;
                anyhow::bail!("killed by its {kind} probe")
            }
            Outcome::Delete => self.stop(&mut container, shared).await,
            Outcome::Lose => {
                container.signal(Signal::SIGKILL)?;
                container.ended().await.map(drop)
            }
        }
    }

    /// SIGTERM, the time that the manifest grants, and SIGKILL.
    async fn stop(&self, container: &mut Container, shared: &Shared) -> Result<()> {
        let begun = Instant::now();
        container.signal(Signal::from_str(&shared.recipe.image.stop_signal)?)?;
        let grace = shared.recipe.manifests.pod().termination_grace_period_seconds;
        match timeout(Duration::from_secs(grace), container.ended()).await {
            Ok(status) => {
                let status = status?;
                shared.record.stopped(&self.name, begun.elapsed());
                anyhow::ensure!(status.success(), "a stop in order ended with {status}");
                Ok(())
            }
            Err(_) => {
                container.signal(Signal::SIGKILL)?;
                container.ended().await?;
                anyhow::bail!("it did not stop within {grace} s and was killed")
            }
        }
    }

    fn enter(&self, stage: Stage, shared: &Shared) {
        let mut status = self.lock();
        status.stage = stage;
        if stage != Stage::Up {
            status.ready = false;
            shared.world.set_client(self.ordinal, None);
        }
    }

    /// Probes the container; the kind of the probe that fails for good.
    async fn probe(&self, shared: &Shared) -> Kind {
        let spec = shared.recipe.manifests.container();
        if !self.probe_until(shared, Kind::Startup, &spec.startup_probe, |good| good).await {
            return Kind::Startup;
        }
        self.enter(Stage::Up, shared);
        let ready = self.probe_until(shared, Kind::Readiness, &spec.readiness_probe, |_| false);
        let alive = self.probe_until(shared, Kind::Liveness, &spec.liveness_probe, |_| false);
        tokio::pin!(ready);
        tokio::pin!(alive);
        loop {
            tokio::select! {
                _ = &mut ready => unreachable!("readiness ends nothing"),
                _ = &mut alive => return Kind::Liveness,
            }
        }
    }

    /// Asks at its period until `enough` says so, which is true, or until it failed too often,
    /// which is false; failures of readiness only make the pod not ready.
    async fn probe_until(
        &self,
        shared: &Shared,
        kind: Kind,
        probe: &Probe,
        enough: impl Fn(bool) -> bool,
    ) -> bool {
        sleep(Duration::from_secs(probe.initial_delay_seconds)).await;
        let mut period = interval(Duration::from_secs(probe.period_seconds));
        let mut failures = 0;
        loop {
            period.tick().await;
            let answer = self.ask(probe).await;
            let good = answer == Answer::Good;
            let wrong = self.judge(shared, kind, &answer).await;
            if let Some(why) = &wrong {
                shared.record.problem(format!("{}: {kind} probe: {why}", self.name));
            }
            shared.record.probed(kind, good, wrong.is_none());
            failures = if good { 0 } else { failures + 1 };
            if kind == Kind::Readiness {
                match good {
                    true => self.become_ready(shared).await,
                    false if failures >= probe.failure_threshold => self.become_unready(shared),
                    false => {}
                }
            } else if failures >= probe.failure_threshold {
                return false;
            }
            if enough(good) {
                return true;
            }
        }
    }

    /// One probe, from the node, as a kubelet makes it: a new connection, and one call.
    async fn ask(&self, probe: &Probe) -> Answer {
        let limit = Duration::from_secs(probe.timeout_seconds as u64);
        let asked = async {
            let address = format!("http://{}:{}", self.ip(), probe.grpc.port);
            let channel = Endpoint::from_shared(address)?.connect().await?;
            let request = HealthCheckRequest { service: probe.grpc.service.clone() };
            let answer = HealthClient::new(channel).check(request).await?.into_inner();
            anyhow::Ok(answer.status())
        };
        match timeout(limit, asked).await {
            Ok(Ok(ServingStatus::Serving)) => Answer::Good,
            Ok(Ok(status)) => Answer::Bad(status.as_str_name().to_owned()),
            Ok(Err(error)) => Answer::Bad(format!("{error:#}")),
            Err(_) => Answer::Bad(format!("no answer within {limit:?}")),
        }
    }

    /// Why a probe should have been told something else, if it should.
    async fn judge(&self, shared: &Shared, kind: Kind, answer: &Answer) -> Option<String> {
        let young = self.lock().container_began.elapsed() < CATCH_UP;
        let unsettled = shared.record.quiet_for() < UNSETTLED;
        match (kind, answer) {
            (Kind::Startup, _) | (Kind::Liveness, Answer::Good) => None,
            (Kind::Liveness, Answer::Bad(why)) => Some(format!("of a healthy pod: {why}")),
            (Kind::Readiness, Answer::Bad(why)) => {
                (!young && !unsettled).then(|| format!("with nothing the matter: {why}"))
            }
            (Kind::Readiness, Answer::Good) => {
                let needed = shared.record.confirmed_before(BEHIND);
                match self.view(shared).await {
                    Ok(chat) if !chat.serving && !unsettled => {
                        Some("ready, and not attached to a host".to_owned())
                    }
                    Ok(chat) if chat.serving && chat.committed < needed => {
                        Some(format!("ready with #{} of #{needed}", chat.committed))
                    }
                    Ok(_) => None,
                    Err(error) => Some(format!("ready, and not in the chat: {error:#}")),
                }
            }
        }
    }

    /// The chat as the pod's peer sees it.
    pub async fn view(&self, shared: &Shared) -> Result<pb::Chat> {
        chat_at(self.client(shared).await?, &shared.world.chat).await
    }

    async fn become_ready(&self, shared: &Shared) {
        if self.is_ready() {
            return;
        }
        let Ok(client) = self.client(shared).await else { return };
        if let Err(error) = self.know_peer(shared, client.clone()).await {
            shared.record.problem(format!("{}: {error:#}", self.name));
        }
        let mut status = self.lock();
        status.ready = true;
        status.ready_since = Some(Instant::now());
        status.became_ready.get_or_insert_with(Instant::now);
        let took = status.container_began.elapsed().as_secs_f64();
        shared.world.set_client(self.ordinal, Some(client));
        shared.record.note(format!("{} is ready, {took:.1} s after its start", self.name));
    }

    fn become_unready(&self, shared: &Shared) {
        if std::mem::take(&mut self.lock().ready) {
            shared.record.note(format!("{} is not ready any more", self.name));
            shared.world.set_client(self.ordinal, None);
        }
    }

    /// A pod comes back as the same peer, whatever became of its container and its address.
    async fn know_peer(&self, shared: &Shared, mut client: Client) -> Result<()> {
        let peer = client.get_peer(pb::GetPeerRequest {}).await?.into_inner();
        let mut ids = shared.lock_ids();
        let known = ids.get_mut(self.ordinal).context("there are not so many pods")?;
        let known = known.get_or_insert_with(|| peer.peer_id.clone());
        anyhow::ensure!(*known == peer.peer_id, "it came back as another peer");
        Ok(())
    }
}
