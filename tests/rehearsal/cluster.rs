//! What a cluster's controllers do: keep a StatefulSet's pods, replace and scale them, evict them
//! from a node within the disruption budget.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use demes::cli::demo::peer::until;
use demes::wire::pb;
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};

use crate::kubelet::{Pod, Shared};
use crate::machine::Machine;
use crate::manifests::PodManagement;
use crate::names::Names;
use crate::policy::PODS;
use crate::record::Restart;
use crate::sandbox::run;

/// Nodes that pods are put on.
const NODES: usize = 3;
/// How long a pod may take until it is ready. A cluster waits for ever.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts to evict, as `kubectl drain` makes them.
const EVICT_AGAIN: Duration = Duration::from_secs(5);
const EVICT_LIMIT: Duration = Duration::from_secs(90);
/// A part of the shortest lease, 250 ms.
pub const STALL: Duration = Duration::from_millis(100);
/// Between two looks at whether the machine goes on.
const PULSE: Duration = Duration::from_millis(10);
/// Between looks at who hosts.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub struct Cluster {
    pub shared: Arc<Shared>,
    pub names: Names,
    tasks: BTreeMap<usize, JoinHandle<()>>,
    replicas: usize,
    cordoned: BTreeSet<usize>,
}

impl Cluster {
    pub fn new(shared: Arc<Shared>, names: Names) -> Self {
        Self { shared, names, tasks: BTreeMap::new(), replicas: 0, cordoned: BTreeSet::new() }
    }

    pub fn replicas(&self) -> usize {
        self.replicas
    }

    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.shared.pods()
    }

    pub fn pod(&self, ordinal: usize) -> Result<Arc<Pod>> {
        let mut pods = self.pods().into_iter();
        pods.find(|pod| pod.ordinal == ordinal).context("there is no such pod")
    }

    /// Makes a pod on the node that has the fewest.
    fn create(&mut self, ordinal: usize) -> Result<()> {
        let pods = self.pods();
        let on = |node: usize| pods.iter().filter(|pod| pod.node == node).count();
        let open = (0..NODES).filter(|node| !self.cordoned.contains(node));
        let node = open.min_by_key(|node| on(*node)).context("a node takes pods")?;
        let pod = Pod::new(ordinal, self.shared.recipe.name(ordinal), node, Machine::start(PODS)?);
        self.names.set(&self.dns_name(ordinal), Some(pod.ip()));
        self.shared.record.note(format!("{} starts on node {node} as {}", pod.name, pod.ip()));
        let task = tokio::spawn(pod.clone().run(self.shared.clone()));
        self.shared.lock_pods().insert(ordinal, pod);
        self.tasks.insert(ordinal, task);
        Ok(())
    }

    fn dns_name(&self, ordinal: usize) -> String {
        let service = &self.shared.recipe.manifests.service.name;
        format!("{}.{service}", self.shared.recipe.name(ordinal))
    }

    /// Stops pods in order, all at once, and returns when they are gone.
    pub async fn delete(&mut self, ordinals: &[usize]) -> Result<()> {
        self.shared.record.disturb();
        for ordinal in ordinals {
            self.pod(*ordinal)?.delete.cancel();
        }
        self.gone(ordinals).await
    }

    /// Nodes with these pods lose their network and then their power.
    pub async fn lose(&mut self, ordinals: &[usize]) -> Result<()> {
        self.shared.record.disturb();
        for ordinal in ordinals {
            let pod = self.pod(*ordinal)?;
            // From now on, whoever sends to it hears nothing.
            run("ip", &["route", "add", "blackhole", &format!("{}/32", pod.ip())])?;
            pod.machine.unplug()?;
            pod.lose.cancel();
        }
        for ordinal in ordinals {
            self.tasks.remove(ordinal).context("it was there")?.await?;
        }
        Ok(())
    }

    /// What is left of pods that are stopped goes; nobody has their addresses any more.
    pub async fn gone(&mut self, ordinals: &[usize]) -> Result<()> {
        for ordinal in ordinals {
            if let Some(task) = self.tasks.remove(ordinal) {
                task.await?;
            }
            let pod = self.shared.lock_pods().remove(ordinal).context("it was there")?;
            self.names.set(&self.dns_name(*ordinal), None);
            let unreachable = format!("{}/32", pod.ip());
            run("ip", &["route", "replace", "blackhole", &unreachable])?;
        }
        Ok(())
    }

    /// Makes or stops pods until there are so many, and returns when all are ready.
    pub async fn scale(&mut self, replicas: usize) -> Result<()> {
        let parallel = self.shared.recipe.manifests.set.pod_management_policy;
        let at_once = parallel == PodManagement::Parallel;
        self.replicas = replicas;
        let surplus: Vec<usize> =
            self.pods().iter().map(|pod| pod.ordinal).filter(|it| *it >= replicas).collect();
        if at_once {
            self.delete(&surplus).await?;
        } else {
            for ordinal in surplus.into_iter().rev() {
                self.delete(&[ordinal]).await?;
            }
        }
        self.shared.record.disturb();
        for ordinal in 0..replicas {
            if self.pod(ordinal).is_err() {
                self.create(ordinal)?;
            }
            if !at_once {
                self.until_ready(ordinal).await?;
            }
        }
        for ordinal in 0..replicas {
            self.until_ready(ordinal).await?;
        }
        Ok(())
    }

    pub async fn until_ready(&self, ordinal: usize) -> Result<()> {
        let pod = self.pod(ordinal)?;
        let what = format!("{} to be ready", pod.name);
        until(READY_LIMIT, &what, || async { pod.is_ready().then_some(()) }).await
    }

    /// Replaces all pods, from the last one down, each when the one before has been ready for as
    /// long as the manifest says.
    pub async fn roll(&mut self) -> Result<()> {
        let min_ready = Duration::from_secs(self.shared.recipe.manifests.set.min_ready_seconds);
        for ordinal in (0..self.replicas).rev() {
            self.replace(ordinal).await?;
            let pod = self.pod(ordinal)?;
            until(min_ready + READY_LIMIT, "a pod to stay ready", || async {
                pod.is_available(min_ready).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Deletes a pod; its successor has another address.
    pub async fn replace(&mut self, ordinal: usize) -> Result<()> {
        let (name, before) = (self.pod(ordinal)?.name.clone(), self.view().await?);
        let was_host = before.host_peer_id == self.id_of(ordinal)?;
        let begun = self.shared.world.history.mark();
        self.delete(&[ordinal]).await?;
        self.create(ordinal)?;
        self.until_ready(ordinal).await?;
        let history = &self.shared.world.history;
        let confirmed = until(READY_LIMIT, "a message", || async { history.first_after_mark() });
        let first_confirmed = Some(confirmed.await?);
        let restart = Restart {
            was_host,
            stopped_in: self.shared.record.stop_of(&name),
            ready_in: self.pod(ordinal)?.ready_in().unwrap_or_default(),
            terms: self.view().await?.term - before.term,
            first_confirmed,
            gap: history.longest_gap(begun, Instant::now()),
            pod: name,
        };
        let (name, terms) = (restart.pod.clone(), restart.terms);
        self.shared.record.restarted(restart);
        let most = u64::from(was_host);
        let what = format!("restarting {name} costs at most {most} hand-overs: {terms}");
        self.judge(terms <= most, &what, begun);
        Ok(())
    }

    /// Checks what only holds on a machine that goes on: a host whose processor or disk is taken
    /// away for longer than its lease loses its place, and must.
    pub fn judge(&self, holds: bool, what: &str, since: Instant) {
        let record = &self.shared.record;
        record.judgeable();
        match record.longest_stall(since) {
            stall if !holds && stall >= STALL => record.leave_unjudged(what, stall),
            _ => record.check(holds, what),
        }
    }

    /// Evicts every pod of a node, as far as the budget allows at each moment; they come back on
    /// other nodes.
    pub async fn drain(&mut self, node: usize) -> Result<()> {
        self.cordoned.insert(node);
        let begun = Instant::now();
        let mut refused = 0;
        loop {
            let here = self.pods().into_iter().filter(|pod| pod.node == node);
            let here: Vec<usize> = here.map(|pod| pod.ordinal).collect();
            let Some(ordinal) = here.last().copied() else { break };
            anyhow::ensure!(begun.elapsed() < EVICT_LIMIT, "the node is not drained in time");
            let ready = self.pods().iter().filter(|pod| pod.is_ready()).count();
            let budget = self.shared.recipe.manifests.budget.max_unavailable;
            if ready + budget <= self.replicas {
                refused += 1;
                self.shared.record.note("an eviction is refused by the disruption budget");
                sleep(EVICT_AGAIN).await;
                continue;
            }
            self.shared.record.note(format!("{} is evicted", self.shared.recipe.name(ordinal)));
            let _ = self.shared.world.history.mark();
            self.delete(&[ordinal]).await?;
            self.create(ordinal)?;
        }
        self.shared.record.note(format!("{refused} evictions were refused for a while"));
        for ordinal in 0..self.replicas {
            self.until_ready(ordinal).await?;
        }
        Ok(())
    }

    pub fn uncordon(&mut self, node: usize) {
        self.cordoned.remove(&node);
    }

    /// The id of a pod's peer.
    pub fn id_of(&self, ordinal: usize) -> Result<String> {
        let ids = self.shared.lock_ids();
        ids.get(ordinal).cloned().flatten().context("the pod was ready once")
    }

    /// The pod whose peer has this id.
    pub fn ordinal_of(&self, id: &str) -> Option<usize> {
        self.shared.ordinal_of(id)
    }

    /// The chat with its host, as the pods agree about it now.
    pub async fn view(&self) -> Result<pb::Chat> {
        until(READY_LIMIT, "the pods to agree about their host", || async {
            let mut seen: Option<pb::Chat> = None;
            for pod in self.pods().iter().filter(|pod| pod.is_ready()) {
                let chat = pod.view(&self.shared).await.ok().filter(|chat| chat.serving)?;
                if seen.as_ref().is_some_and(|it| it.term != chat.term) {
                    return None;
                }
                seen = Some(chat);
            }
            seen
        })
        .await
    }

    /// The pod that hosts.
    pub async fn host(&self) -> Result<usize> {
        let id = self.view().await?.host_peer_id;
        self.ordinal_of(&id).context("the host is a pod")
    }

    /// Waits until the chat has that many voters, as the pods see it.
    pub async fn until_voters(&self, voters: usize, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        until(limit, &format!("{voters} voters"), || async {
            let chat = self.view().await.ok()?;
            let count = chat.members.iter().filter(|member| member.voter).count();
            (count == voters).then_some(())
        })
        .await?;
        Ok(begun.elapsed())
    }
}

/// Notes when the machine itself stands still, its processors or its disk, until the record is
/// gone; for a thread of its own.
pub fn feel_pulse(shared: &Weak<Shared>) -> Result<()> {
    let path = shared.upgrade().context("it has just begun")?.recipe.root.join("pulse");
    let mut file = File::create(path)?;
    while let Some(shared) = shared.upgrade() {
        let begun = Instant::now();
        thread::park_timeout(PULSE);
        file.write_all(b".")?;
        file.sync_data()?;
        let stall = begun.elapsed().saturating_sub(PULSE);
        if stall >= STALL {
            shared.record.stalled(stall);
        }
    }
    Ok(())
}

/// Looks at the chat through all pods, for the record, until it is aborted.
pub async fn watch(shared: Arc<Shared>) {
    let mut looks = interval(LOOK_EVERY);
    let mut drawn = 0;
    let mut host = String::new();
    loop {
        looks.tick().await;
        shared.record.sample(shared.world.history.last_confirmed());
        let pods = shared.pods();
        for pod in pods.iter().filter(|pod| pod.is_ready()) {
            let Ok(chat) = pod.view(&shared).await else { continue };
            if chat.serving && !chat.host_peer_id.is_empty() {
                host.clone_from(&chat.host_peer_id);
                let known = shared.ordinal_of(&host);
                let name = known.map_or("somebody".to_owned(), |it| shared.recipe.name(it));
                if shared.record.hosts(chat.term, &name) {
                    shared.record.disturb();
                    shared.record.note(format!("♔ {name} hosts, term {}", chat.term));
                }
            }
        }
        if shared.record.elapsed().as_secs() > drawn {
            drawn = shared.record.elapsed().as_secs();
            let hosts = |pod: &Pod| shared.ordinal_of(&host) == Some(pod.ordinal);
            let letter = |ordinal: usize| {
                let pod = pods.iter().find(|pod| pod.ordinal == ordinal);
                (ordinal, pod.map_or('.', |pod| pod.letter(hosts(pod))))
            };
            shared.record.draw((0..shared.recipe.manifests.set.replicas).map(letter));
        }
    }
}
