//! What happens to the pods, and what must hold after each part of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use demes::cli::demo::check::{check, lines_of};
use demes::cli::demo::peer::until;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cluster::{Cluster, watch};
use crate::common::memory_mib;
use crate::kubelet::Shared;
use crate::names::Names;
use crate::policy::Stranger;
use crate::store::Stores;
use crate::workload::Workload;

/// Messages a second.
const RATE: u32 = 50;
/// Between two parts everything is left alone for so long, and must stay well.
const CALM: Duration = Duration::from_secs(3);
/// Voters come back when they were steady for 10 s, and one at a time.
const VOTERS_LIMIT: Duration = Duration::from_secs(60);
const EQUAL_LIMIT: Duration = Duration::from_secs(20);

pub struct Story {
    cluster: Cluster,
    shared: Arc<Shared>,
    workload: Workload,
    watcher: JoinHandle<()>,
    /// When the part under way began, and in which term.
    part: (Instant, u64),
}

impl Story {
    /// Plays all of it; problems are in the record, an error is one that nothing can go on after.
    pub async fn play(shared: Arc<Shared>, names: Names, seed: u64) -> Result<()> {
        let workload = Workload::start(shared.world.clone(), RATE, seed);
        let watcher = tokio::spawn(watch(shared.clone()));
        let cluster = Cluster::new(shared.clone(), names);
        let part = (Instant::now(), 0);
        let mut story = Self { cluster, shared, workload, watcher, part };
        story.all_at_once().await?;
        story.as_the_manifests_say().await?;
        story.one_by_one().await?;
        story.host_deleted().await?;
        story.two_of_five_lost().await?;
        story.down_and_up().await?;
        story.node_drained().await?;
        story.end().await
    }

    fn begin(&mut self, name: &str, term: u64) {
        self.shared.record.phase(name);
        self.part = (Instant::now(), term);
    }

    /// Waits for calm, and tells the part's figures.
    async fn finish(&mut self) -> Result<u64> {
        sleep(CALM).await;
        let term = self.cluster.view().await?.term;
        let (begun, before) = self.part;
        let gap = self.shared.world.history.longest_gap(begun, Instant::now());
        let count = self.shared.world.history.count();
        self.shared.record.note(format!(
            "{:.1} s, {} new terms, longest gap between confirmations {} ms; {} confirmed so far",
            begun.elapsed().as_secs_f64(),
            term - before,
            gap.as_millis(),
            count.confirmed,
        ));
        Ok(term)
    }

    async fn all_at_once(&mut self) -> Result<()> {
        let replicas = self.shared.recipe.manifests.set.replicas;
        self.begin(&format!("{replicas} pods are started, all at once"), 0);
        self.cluster.scale(replicas).await?;
        let took = self.part.0.elapsed().as_secs_f64();
        self.shared.record.note(format!("all are ready after {took:.1} s"));
        let voters = self.cluster.until_voters(replicas, VOTERS_LIMIT).await?;
        self.shared.record.note(format!("all vote {:.1} s later", voters.as_secs_f64()));
        self.part.0 = Instant::now();
        self.finish().await.map(drop)
    }

    /// What the manifests promise about each pod, seen from outside.
    async fn as_the_manifests_say(&mut self) -> Result<()> {
        let term = self.cluster.view().await?.term;
        self.begin("pods are what the manifests say", term);
        let manifests = &self.shared.recipe.manifests;
        let record = &self.shared.record;
        let ports = &manifests.container().ports;
        let port = |name: &str| {
            let port = ports.iter().find(|port| port.name == name);
            port.map(|port| port.container_port).with_context(|| format!("a port {name}"))
        };
        let stranger = Stranger::start()?;
        let pod = self.cluster.pod(0)?;
        let health = stranger.reaches(pod.ip(), port("health")?).await?;
        record.check(health, "anybody reaches the health port");
        let peer = stranger.reaches(pod.ip(), port("peer")?).await?;
        record.check(!peer, "the network policy keeps strangers from the peer port");
        let metrics = stranger.reaches(pod.ip(), port("metrics")?).await?;
        record.check(!metrics, "the network policy keeps strangers from the metrics port");
        let out = stranger.is_reached_from(&pod.machine).await?;
        record.check(!out, "the network policy keeps pods from dialling strangers");
        let programs = self.shared.client_address.port();
        let inside = stranger.reaches(pod.ip(), programs).await?;
        record.check(!inside, "nobody outside the pod reaches the client port");
        let asked = self.cluster.names.asked();
        record.check(asked > 0, &format!("names came from the name server, asked {asked} times"));
        for pod in self.cluster.pods() {
            let wrong = pod.confinement(&self.shared)?;
            let what = format!("{} runs as the security contexts say{wrong}", pod.name);
            record.check(wrong.is_empty(), &what);
        }
        self.finish().await.map(drop)
    }

    async fn one_by_one(&mut self) -> Result<()> {
        let term = self.cluster.view().await?.term;
        self.begin("rolling restart, one by one", term);
        self.cluster.roll().await?;
        self.finish().await.map(drop)
    }

    async fn host_deleted(&mut self) -> Result<()> {
        let term = self.cluster.view().await?.term;
        self.begin("the hosting pod is deleted, twice", term);
        for _ in 0..2 {
            let host = self.cluster.host().await?;
            self.cluster.replace(host).await?;
            sleep(CALM).await;
        }
        self.finish().await.map(drop)
    }

    async fn two_of_five_lost(&mut self) -> Result<()> {
        let term = self.cluster.view().await?.term;
        self.begin("two pods are lost with their nodes, the host among them", term);
        let host = self.cluster.host().await?;
        let other = (host + 1) % self.cluster.replicas();
        let begun = self.shared.world.history.mark();
        self.cluster.lose(&[host, other]).await?;
        let voters = self.cluster.until_voters(self.cluster.replicas() - 2, VOTERS_LIMIT).await?;
        sleep(CALM).await;
        let history = &self.shared.world.history;
        let first = history.first_after_mark().context("three of five go on")?;
        let gap = history.longest_gap(begun, Instant::now());
        let record = &self.shared.record;
        record.note(format!(
            "first message sent after the loss confirmed after {} ms, longest gap {} ms; the three \
             that are left vote alone after {:.1} s",
            first.as_millis(),
            gap.as_millis(),
            voters.as_secs_f64(),
        ));
        let ready = self.cluster.pods().iter().filter(|pod| pod.is_ready()).count();
        record.check(ready == self.cluster.replicas() - 2, "the three that are left are ready");
        record.note("both are given up and come back elsewhere");
        self.cluster.gone(&[host, other]).await?;
        let replicas = self.cluster.replicas();
        self.cluster.scale(replicas).await?;
        let voters = self.cluster.until_voters(replicas, VOTERS_LIMIT).await?;
        record.note(format!("all vote again after {:.1} s", voters.as_secs_f64()));
        self.finish().await.map(drop)
    }

    async fn down_and_up(&mut self) -> Result<()> {
        let (replicas, term) = (self.cluster.replicas(), self.cluster.view().await?.term);
        let fewer = replicas - 2;
        self.begin(&format!("scaled from {replicas} to {fewer} and back"), term);
        let _ = self.shared.world.history.mark();
        self.cluster.scale(fewer).await?;
        let voters = self.cluster.until_voters(fewer, VOTERS_LIMIT).await?;
        let record = &self.shared.record;
        record.note(format!("the {fewer} vote alone after {:.1} s", voters.as_secs_f64()));
        record.note("one of them restarts: two of three go on");
        self.cluster.replace(fewer - 1).await?;
        self.cluster.scale(replicas).await?;
        let voters = self.cluster.until_voters(replicas, VOTERS_LIMIT).await?;
        record.note(format!("all vote again after {:.1} s", voters.as_secs_f64()));
        self.finish().await.map(drop)
    }

    async fn node_drained(&mut self) -> Result<()> {
        let term = self.cluster.view().await?.term;
        self.begin("the host's node is drained", term);
        let host = self.cluster.host().await?;
        let node = self.cluster.pod(host)?.node;
        let there = self.cluster.pods().iter().filter(|pod| pod.node == node).count();
        self.shared.record.note(format!("node {node} has {there} pods"));
        self.cluster.drain(node).await?;
        self.cluster.uncordon(node);
        let after = self.finish().await?;
        let most = there as u64;
        let what =
            format!("draining {there} pods costs at most {most} hand-overs: {}", after - term);
        self.cluster.judge(after - term <= most, &what, self.part.0);
        Ok(())
    }

    /// Everybody has written; everything is compared.
    async fn end(self) -> Result<()> {
        let Self { mut cluster, shared, workload, watcher, .. } = self;
        let record = &shared.record;
        record.phase("the end: everything is compared");
        workload.end().await?;
        let ids = shared.lock_ids().clone();
        let ids: Vec<String> = ids.into_iter().map(Option::unwrap_or_default).collect();
        let history = &shared.world.history;
        let last = history.last_confirmed();
        let feeds = until(EQUAL_LIMIT, "equal feeds", || async {
            let mut feeds = Vec::new();
            for pod in cluster.pods() {
                let client = pod.client(&shared).await.ok()?;
                feeds.push((pod.name.clone(), lines_of(client, &shared.world.chat).await.ok()?));
            }
            let far = |lines: usize| lines as u64 >= last && lines == feeds[0].1.len();
            feeds.iter().all(|(_, lines)| far(lines.len())).then_some(feeds)
        });
        let feeds = feeds.await?;
        let seen = match check(&feeds, &history.told(&ids)) {
            Ok(seen) => seen,
            Err(problems) => {
                problems.into_iter().for_each(|problem| record.problem(problem));
                anyhow::bail!("the feeds are not what was confirmed");
            }
        };
        for problem in history.check(&feeds[0].1, &ids).into_iter().chain(history.take_problems()) {
            record.problem(problem);
        }
        let what = "nothing confirmed is lost, doubled or moved";
        record.check(seen.confirmed > 0, &format!("{what}: {} messages", seen.confirmed));
        let (feeds_seen, events) = (seen.feeds, seen.events);
        record.check(
            feeds_seen == cluster.replicas(),
            &format!("{feeds_seen} equal feeds of {events}"),
        );
        let good = record.good_restarts_of_host();
        record.check(good > 0, &format!("{good} restarts of the host cost one hand-over at most"));
        record.check_leniency();
        memory_within_limits(&cluster, &shared)?;
        watcher.abort();
        let all: Vec<usize> = cluster.pods().iter().map(|pod| pod.ordinal).collect();
        cluster.delete(&all).await?;
        record.note("all pods are stopped, all at once");
        let mut stores = Stores::of(&feeds[0].1);
        let mut wrong = 0;
        for ordinal in all {
            let name = shared.recipe.name(ordinal);
            let problems = stores.check(&name, &shared.recipe.data_dir(ordinal)?)?;
            wrong += problems.len();
            problems.into_iter().for_each(|problem| record.problem(problem));
            complaints(&name, &shared.recipe.log(ordinal), &shared)?;
        }
        record.check(wrong == 0, "the volumes hold the same chat");
        Ok(())
    }
}

/// No pod has ever used more memory than its limit, where a cluster would have killed it.
fn memory_within_limits(cluster: &Cluster, shared: &Shared) -> Result<()> {
    let limit = shared.recipe.manifests.container().resources.memory_limit_mib()?;
    let mut most: f64 = 0.0;
    for pod in cluster.pods() {
        most = most.max(memory_mib(pod.pid().context("the pod runs")?, "VmHWM")?);
    }
    let what = format!("memory stays within its limit: {most:.0} of {limit:.0} MiB");
    shared.record.check(most < limit, &what);
    Ok(())
}

/// Log lines that nothing here calls for.
fn complaints(name: &str, log: &Path, shared: &Shared) -> Result<()> {
    let text = std::fs::read_to_string(log)?;
    ensure!(!text.is_empty(), "{name} has logged nothing");
    let bad = |line: &&str| line.contains(r#""level":"ERROR""#) || line.contains("panicked");
    for line in text.lines().filter(bad) {
        shared.record.problem(format!("{name} logged: {line}"));
    }
    Ok(())
}
