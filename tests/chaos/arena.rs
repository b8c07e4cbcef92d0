//! One chat of real peers under fire: does harm, undoes it, and waits until all is well. What is
//! done to the files of peers, and to who belongs to the chat, does `stores`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use demes::cli::demo::cluster::Cluster;
use demes::cli::demo::peer::{Peer, until};
use demes::wire::pb;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use crate::disk::{Disk, RESERVE_MIB};
use crate::network::Network;
use crate::plan::{Harm, Scene};
use crate::shim::Shim;
use crate::switch::Line;
use crate::tools::Tools;
use crate::workload::{World, reason};

const NAMES: [&str; 7] = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Fay", "Gus"];
/// How long a graceful stop may take; the program itself allows five seconds.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long it may take until a peer notices what its disk is like.
const DISK_LIMIT: Duration = Duration::from_secs(15);
/// How long all may take to be well again after the last harm is undone.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(90);
/// How long a call may take that a person makes once.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Links that are made at once: more than a peer has threads here.
const LINKS: u32 = 4;
/// The exit code of a peer whose disk does not do.
const EXIT_DISK: i32 = 74;

/// The peers, what connects them, and what was done to them.
pub struct Arena {
    pub cluster: Cluster,
    pub world: Arc<World>,
    network: Network,
    disk: Option<(usize, Disk)>,
    /// Each peer's disk and clock, if they can be bent.
    shims: Vec<Shim>,
    /// One-way delays when nobody moved, where they can be changed.
    at_rest: Option<Duration>,
    /// Peers that may say that they cannot go on, as often.
    may_give_up: Vec<usize>,
    /// Peers whose store was harmed: they may say so, and begin the chat anew.
    pub renewed: BTreeSet<usize>,
    /// Copies of directories, by peer.
    pub copies: BTreeMap<usize, PathBuf>,
    /// The other process with a peer's key.
    pub twin: Option<Peer>,
    pub binary: PathBuf,
}

/// What a chat is founded with.
pub struct Ground<'a> {
    pub binary: &'a Path,
    pub peers: usize,
    /// One-way delays when nobody moves.
    pub delay: Option<Duration>,
    /// Whether each peer has a machine, and the last one a small disk.
    pub own_world: bool,
    /// The program that opens an interface, where there can be a switch.
    pub tun: Option<PathBuf>,
    /// The programs that were compiled, where they were.
    pub tools: Option<&'a Tools>,
}

impl Arena {
    /// Founds a chat.
    pub async fn found(ground: Ground<'_>) -> Result<Self> {
        let Ground { binary, peers, delay, own_world, tun, tools } = ground;
        let mut network = match own_world {
            true => Network::machines(peers, tun.as_deref())?,
            false => Network::loopback(peers),
        };
        let mut cluster = Cluster::at(binary, &NAMES[..peers], network.places(delay)?)?;
        let disk = match own_world {
            true => {
                let last = cluster.peers.last_mut().context("a chat has peers")?;
                last.set("DEMES__STORAGE__RESERVE_MIB", &RESERVE_MIB.to_string());
                Some((peers - 1, Disk::make(&last.data_dir())?))
            }
            false => None,
        };
        let mut shims = Vec::new();
        if let Some(tools) = tools {
            for peer in &mut cluster.peers {
                shims.push(Shim::put_under(peer, &tools.shim())?);
            }
        }
        cluster.start_all().await?;
        for (place, peer) in cluster.peers.iter().enumerate() {
            network.know(place, peer.pid());
        }
        cluster.found("Chaos").await?;
        let world = World::new(cluster.chat.clone(), peers);
        for (place, peer) in cluster.peers.iter().enumerate() {
            world.set_client(place, Some(peer.client()));
        }
        // On loopback proxies stand before the peers in any case.
        let has_delays = network.switch().is_some() || !own_world || delay.is_some();
        let mut arena = Self {
            cluster,
            world,
            network,
            disk,
            shims,
            at_rest: has_delays.then(|| delay.unwrap_or_default()),
            may_give_up: Vec::new(),
            renewed: BTreeSet::new(),
            copies: BTreeMap::new(),
            twin: None,
            binary: binary.to_owned(),
        };
        arena.rest()?;
        Ok(arena)
    }

    pub fn ids(&self) -> Vec<String> {
        self.cluster.peers.iter().map(|peer| peer.id.clone()).collect()
    }

    /// The peer with the small disk.
    pub fn disk_of(&self) -> Option<usize> {
        self.disk.as_ref().map(|(peer, _)| *peer)
    }

    /// Who hosts and who votes, with all well.
    pub async fn scene(&self) -> Result<(Scene, u64)> {
        let (host, term) = self.settle().await?;
        let chat = self.cluster.chat_at(host).await?;
        let voters = chat.members.iter().filter(|member| member.voter);
        let voters = voters.filter_map(|voter| self.cluster.place_of(&voter.peer_id)).collect();
        let scene = Scene {
            peers: self.cluster.peers.len(),
            host,
            voters,
            disk: self.disk_of(),
            delays: self.at_rest.is_some(),
            renewed: self.renewed.clone(),
        };
        Ok((scene, term))
    }

    /// Waits until every peer follows the same serving host in the same term and has everything
    /// that was confirmed to anyone by now.
    pub async fn settle(&self) -> Result<(usize, u64)> {
        let goal = self.world.history.last_confirmed().max(self.world.history.last_read());
        let settled = until(SETTLE_LIMIT, "all to be well", || async {
            let mut known = None;
            for place in 0..self.cluster.peers.len() {
                let chat = self.cluster.chat_at(place).await.ok()?;
                let host = (self.cluster.place_of(&chat.host_peer_id)?, chat.term);
                let well = chat.serving && chat.committed >= goal && chat.fault.is_empty();
                if !well || *known.get_or_insert(host) != host {
                    return None;
                }
            }
            known
        });
        match settled.await {
            Ok(known) => Ok(known),
            Err(error) => Err(error.context(self.cluster.describe().await)),
        }
    }

    /// The latest term that a peer tells of.
    pub async fn term(&self) -> u64 {
        let mut term = 0;
        for peer in
            (0..self.cluster.peers.len()).filter(|one| self.cluster.peers[*one].is_running())
        {
            let chat = self.cluster.chat_at(peer).await;
            term = chat.map_or(term, |chat| chat.term.max(term));
        }
        term
    }

    /// Does it, and returns when it is done.
    pub async fn harm(&mut self, harm: &Harm) -> Result<()> {
        for peer in harm.renews() {
            self.renewed.insert(peer);
            self.world.set_harmed(peer);
        }
        match harm {
            Harm::Kill(peer) => {
                self.world.set_client(*peer, None);
                self.cluster.peers[*peer].kill()
            }
            Harm::Stop(peer) => self.stop(*peer).await,
            Harm::Freeze(peer) => self.signal(*peer, Signal::SIGSTOP),
            Harm::Unplug(peer) => self.network.unplug(*peer),
            Harm::SwitchOff(peer) => self.network.switch_off(*peer).await,
            Harm::Cut(pairs) => self.network.cut(pairs),
            Harm::Lines(lines) => self.set_lines(lines),
            Harm::Reset(peers, lasts) => self.switch()?.reset(peers, *lasts),
            Harm::Mtu(bytes) => self.switch()?.set_mtu(Some(*bytes)),
            Harm::HandOver(peer) => self.hand_over(*peer).await,
            Harm::ShortDisk(_) => self.small_disk().fall_short(),
            Harm::FullDisk(peer) => {
                self.may_give_up.push(*peer);
                self.small_disk().fill()
            }
            Harm::Slips(peers, slip) => {
                for peer in peers {
                    self.shim(*peer)?.set_slip(Some(slip.clone()))?;
                    if slip.fails {
                        self.may_give_up.push(*peer);
                    }
                }
                Ok(())
            }
            Harm::Clocks(ahead_ms) => {
                for (shim, ahead_ms) in self.shims.iter_mut().zip(ahead_ms) {
                    shim.set_ahead_ms(*ahead_ms)?;
                }
                Ok(())
            }
            Harm::Pace(percent) => {
                self.world.set_pace(Some(*percent));
                Ok(())
            }
            Harm::MakeLinks(peer) => self.make_links(*peer).await,
            Harm::Copy(peer) => self.copy(*peer).await,
            Harm::PutBack(peer) => self.put_back(*peer).await,
            Harm::Damage(peer) => self.damage(*peer).await,
            Harm::Lose(peer) => self.lose(*peer).await,
            Harm::Recover => self.recover().await,
            Harm::Twin(peer) => self.start_twin(*peer).await,
            Harm::Leave(peers) => self.leave(peers).await,
        }
    }

    /// Waits for what a harm must lead to at the peer itself.
    pub async fn await_effect(&mut self, harm: &Harm) -> Result<()> {
        match harm {
            Harm::ShortDisk(peer) => self.refuses_for_want_of_space(*peer).await,
            Harm::FullDisk(peer) => self.gives_up(*peer).await,
            Harm::Slips(peers, slip) if slip.fails => {
                for peer in peers {
                    self.gives_up(*peer).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A peer whose disk does not do ends by itself, and says so.
    async fn gives_up(&mut self, peer: usize) -> Result<()> {
        let ended = self.cluster.peers[peer].ended(DISK_LIMIT).await;
        let status = ended.context("a peer whose disk does not do must end by itself")?;
        self.world.set_client(peer, None);
        ensure!(status.code() == Some(EXIT_DISK), "such a disk ended it with {status}");
        Ok(())
    }

    /// Undoes it.
    pub async fn undo(&mut self, harm: &Harm) -> Result<()> {
        match harm {
            Harm::Kill(peer) | Harm::Stop(peer) => self.start(*peer).await,
            Harm::Freeze(peer) => self.signal(*peer, Signal::SIGCONT),
            Harm::Unplug(peer) => self.network.plug(*peer),
            Harm::SwitchOff(peer) => self.network.switch_on(*peer).await,
            Harm::Cut(pairs) => self.network.mend(pairs),
            Harm::Lines(_) => self.rest(),
            Harm::Mtu(_) => {
                self.switch()?.set_mtu(None)?;
                self.rest()
            }
            Harm::ShortDisk(_) => self.small_disk().empty(),
            Harm::FullDisk(peer) => {
                self.small_disk().empty()?;
                self.start(*peer).await
            }
            Harm::Slips(peers, slip) => {
                for peer in peers {
                    self.shim(*peer)?.set_slip(None)?;
                    if slip.fails {
                        self.start(*peer).await?;
                    }
                }
                Ok(())
            }
            Harm::Clocks(_) => self.shims.iter_mut().try_for_each(|shim| shim.set_ahead_ms(0)),
            Harm::Pace(_) => {
                self.world.set_pace(None);
                Ok(())
            }
            Harm::Twin(_) => self.end_twin().await,
            Harm::Leave(peers) => self.come_back(peers).await,
            Harm::Reset(..) => self.rest(),
            Harm::HandOver(_) | Harm::MakeLinks(_) | Harm::Copy(_) | Harm::PutBack(_) => Ok(()),
            Harm::Damage(_) | Harm::Lose(_) | Harm::Recover => Ok(()),
        }
    }

    /// Peers that ended and were not asked to.
    pub fn unexpected_ends(&mut self) -> Result<Vec<String>> {
        let mut ends = Vec::new();
        for peer in &mut self.cluster.peers {
            if let Some(status) = peer.has_ended()? {
                ends.push(format!("{} ended with {status}:\n{}", peer.name, peer.log_tail()));
            }
        }
        Ok(ends)
    }

    /// Log lines that no fault calls for: panics, and errors, except that a peer whose disk was
    /// filled says once that it cannot go on, and one whose store was harmed that it is.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let mut complaints = Vec::new();
        for (place, peer) in self.cluster.peers.iter().enumerate() {
            let mut forgiven = self.may_give_up.iter().filter(|other| **other == place).count();
            for line in std::fs::read_to_string(peer.log_path())?.lines() {
                let panics = line.contains("panicked") || line.contains("this is a bug");
                let error = line.split_whitespace().nth(1) == Some("ERROR");
                if error && line.contains("the peer cannot go on") && forgiven > 0 {
                    forgiven -= 1;
                } else if panics || error && !self.renewed.contains(&place) {
                    complaints.push(format!("{} logged: {line}", peer.name));
                }
            }
        }
        Ok(complaints)
    }

    /// Ends all peers, some gracefully and some not.
    pub async fn stop_all(&mut self) -> Result<()> {
        for place in 0..self.cluster.peers.len() {
            match place % 2 {
                0 => self.stop(place).await?,
                _ => self.cluster.peers[place].kill()?,
            }
        }
        Ok(())
    }

    /// Lets the data directories stay, and says where.
    pub fn keep(&mut self) -> String {
        self.cluster.keep_root();
        let root = self.cluster.root().to_owned();
        if let Some((peer, disk)) = &self.disk
            && let Err(error) = disk.copy_to(&self.cluster.peers[*peer].dir.join("disk"))
        {
            return format!("{} (but the small disk: {error:#})", root.display());
        }
        root.display().to_string()
    }

    pub async fn start(&mut self, peer: usize) -> Result<()> {
        self.cluster.peers[peer].start().await?;
        self.network.know(peer, self.cluster.peers[peer].pid());
        self.world.set_client(peer, Some(self.cluster.peers[peer].client()));
        Ok(())
    }

    pub async fn stop(&mut self, peer: usize) -> Result<()> {
        self.signal(peer, Signal::SIGTERM)?;
        let status = self.cluster.peers[peer].ended(STOP_LIMIT).await?;
        self.world.set_client(peer, None);
        ensure!(status.success(), "a graceful stop ended with {status}");
        Ok(())
    }

    fn signal(&self, peer: usize, signal: Signal) -> Result<()> {
        let pid = self.cluster.peers[peer].pid().context("the peer runs")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)?;
        Ok(())
    }

    /// Asks the host to hand over. It may come to nothing: the host says so then, and goes on.
    pub async fn hand_over(&self, target: usize) -> Result<()> {
        let host = self.cluster.host().await?;
        let request = pb::ClientServiceHandOverRequest {
            chat: self.cluster.chat.clone(),
            peer: self.cluster.peers[target].id.clone(),
        };
        let mut client = self.cluster.peers[host].client();
        match timeout(STOP_LIMIT, client.hand_over(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => match reason(&status).as_str() {
                "HAND_OVER_FAILED" | "NOT_HOST" => Ok(()),
                reason => bail!("the host does not hand over: {reason}: {}", status.message()),
            },
            Err(_) => bail!("the host does not hand over in time"),
        }
    }

    /// R38: a peer with too little space refuses what its own person sends, and does not host.
    async fn refuses_for_want_of_space(&self, peer: usize) -> Result<()> {
        until(DISK_LIMIT, "a refusal for want of space", || async {
            let refusal = self.world.send_new(peer, pb::Wait::Queued).await;
            (refusal.as_deref() == Some("STORAGE_FULL")).then_some(())
        })
        .await?;
        until(DISK_LIMIT, "another host than one without space", || async {
            let chat = self.cluster.chat_at(peer).await.ok()?;
            let host = self.cluster.place_of(&chat.host_peer_id)?;
            (host != peer && chat.serving).then_some(())
        })
        .await
    }

    /// All lines as they are when nothing is wrong.
    fn rest(&mut self) -> Result<()> {
        let line = Line::of_delay(self.at_rest.unwrap_or_default() / 2);
        self.set_lines(&vec![line; self.cluster.peers.len()])
    }

    /// Without a switch proxies do what they can: they delay what is dialled through them.
    fn set_lines(&mut self, lines: &[Line]) -> Result<()> {
        if let Some(switch) = self.network.switch() {
            return switch.set_lines(lines);
        }
        if self.at_rest.is_some() {
            for (peer, line) in self.cluster.peers.iter().zip(lines) {
                peer.set_delay(Duration::from_millis(line.delay_ms) * 2);
            }
        }
        Ok(())
    }

    fn switch(&mut self) -> Result<&mut crate::switch::Switch> {
        self.network.switch().context("such faults are played where there is a switch")
    }

    pub fn spare_place(&self) -> Result<demes::cli::demo::peer::Place> {
        self.network.spare_place()
    }

    fn shim(&mut self, peer: usize) -> Result<&mut Shim> {
        self.shims.get_mut(peer).context("such faults are played where there are shims")
    }

    /// Links are made, or refused: that is up to the peer and its disk.
    async fn make_links(&self, peer: usize) -> Result<()> {
        let calls = (0..LINKS).map(|_| {
            let chat = self.cluster.chat.clone();
            let request =
                pb::CreateInviteLinkRequest { chat, uses_max: 1, valid_s: 0, ..Default::default() };
            let mut client = self.cluster.peers[peer].client();
            async move { timeout(CALL_LIMIT, client.create_invite_link(request)).await }
        });
        futures_util::future::join_all(calls).await;
        Ok(())
    }

    fn small_disk(&self) -> &Disk {
        &self.disk.as_ref().expect("plans with a disk are made for peers that have one").1
    }
}
