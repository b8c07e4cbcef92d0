//! The network between the peers, and how it breaks.
//!
//! In a world of its own (`sandbox`) each peer has a machine: a network namespace with an address,
//! a cable to a router, and nothing else. The router drops what a rule says, so that packets vanish
//! in one direction and nobody is told; a cable can be pulled. Elsewhere the peers share loopback,
//! and the project's proxy in front of each holds bytes by who dialled.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use demes::cli::demo::peer::Place;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::loopback::Loopback;
use crate::sandbox::run;

/// What connects the peers of one chat.
pub enum Network {
    /// A machine for each peer.
    Machines(Vec<Machine>, BTreeSet<(usize, usize)>),
    /// All on loopback.
    Loopback(Arc<Loopback>, BTreeSet<(usize, usize)>),
}

impl Network {
    /// That many machines, in a world of its own.
    pub fn machines(peers: usize) -> Result<Self> {
        run("ip", &["link", "set", "lo", "up"])?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        let machines: Result<_> = (0..peers).map(|_| Machine::start()).collect();
        Ok(Self::Machines(machines?, BTreeSet::new()))
    }

    /// Loopback, with gates between that many peers.
    pub fn loopback(peers: usize) -> Self {
        Self::Loopback(Arc::new(Loopback::new(peers)), BTreeSet::new())
    }

    /// A place for each peer. With a delay, or on loopback, a proxy stands before each.
    pub fn places(&self, delay: Option<Duration>) -> Result<Vec<Place>> {
        match self {
            Self::Machines(machines, _) => {
                let place = |one: &Machine| Place::machine(one.runtime.clone(), one.ip(), delay);
                Ok(machines.iter().map(place).collect())
            }
            Self::Loopback(loopback, _) => (0..loopback.peers())
                .map(|peer| Place::gated(delay.unwrap_or_default(), loopback.gate_of(peer)))
                .collect(),
        }
    }

    /// Tells which process is which peer; only loopback needs it.
    pub fn know(&self, peer: usize, pid: Option<u32>) {
        if let Self::Loopback(loopback, _) = self {
            loopback.know(peer, pid);
        }
    }

    /// From now on nothing that the first sends arrives at the second, for each pair.
    pub fn cut(&mut self, pairs: &[(usize, usize)]) -> Result<()> {
        self.change(pairs, true)
    }

    /// Ends `cut`.
    pub fn mend(&mut self, pairs: &[(usize, usize)]) -> Result<()> {
        self.change(pairs, false)
    }

    fn change(&mut self, pairs: &[(usize, usize)], cut: bool) -> Result<()> {
        match self {
            Self::Machines(machines, cuts) => {
                for (from, to) in pairs {
                    if cut == cuts.contains(&(*from, *to)) {
                        continue;
                    }
                    let what = if cut { "add" } else { "del" };
                    let (source, target) = (machines[*from].ip(), machines[*to].ip());
                    let (source, target) = (source.to_string(), target.to_string());
                    let rule = ["rule", what, "pref", "10", "from", &source, "to", &target];
                    run("ip", &[&rule[..], &["blackhole"]].concat())?;
                }
                remember(cuts, pairs, cut);
            }
            Self::Loopback(loopback, cuts) => {
                remember(cuts, pairs, cut);
                for (from, to) in pairs {
                    loopback.set_passes(*from, *to, !cut);
                }
            }
        }
        Ok(())
    }

    /// Pulls a peer's cable: its machine has an address still, and reaches nobody.
    pub fn unplug(&mut self, peer: usize) -> Result<()> {
        match self {
            Self::Machines(machines, _) => {
                run("ip", &["link", "set", &machines[peer].cable, "down"])
            }
            Self::Loopback(loopback, _) => {
                let pairs = all_pairs_of(peer, loopback.peers());
                self.cut(&pairs)
            }
        }
    }

    /// Ends `unplug`.
    pub fn plug(&mut self, peer: usize) -> Result<()> {
        match self {
            Self::Machines(machines, _) => run("ip", &["link", "set", &machines[peer].cable, "up"]),
            Self::Loopback(loopback, _) => {
                let pairs = all_pairs_of(peer, loopback.peers());
                self.mend(&pairs)
            }
        }
    }

    /// Switches a peer's own interface off: its machine knows that it has no network.
    pub async fn switch_off(&mut self, peer: usize) -> Result<()> {
        match self {
            Self::Machines(machines, _) => {
                machines[peer].run(&[&["link", "set", "eth0", "down"]]).await
            }
            Self::Loopback(..) => self.unplug(peer),
        }
    }

    /// Ends `switch_off`.
    pub async fn switch_on(&mut self, peer: usize) -> Result<()> {
        match self {
            Self::Machines(machines, _) => {
                let router = machines[peer].router().to_string();
                let up: &[&str] = &["link", "set", "eth0", "up"];
                let route: &[&str] = &["route", "add", "default", "via", &router];
                machines[peer].run(&[up, route]).await
            }
            Self::Loopback(..) => self.plug(peer),
        }
    }
}

fn remember(cuts: &mut BTreeSet<(usize, usize)>, pairs: &[(usize, usize)], cut: bool) {
    for pair in pairs {
        if cut {
            cuts.insert(*pair)
        } else {
            cuts.remove(pair)
        };
    }
}

fn all_pairs_of(peer: usize, peers: usize) -> Vec<(usize, usize)> {
    let others = (0..peers).filter(|other| *other != peer);
    others.flat_map(|other| [(peer, other), (other, peer)]).collect()
}

/// One peer's machine: a thread in a network namespace of its own. Whatever runs on its runtime,
/// and every process that is started there, is in that network.
pub struct Machine {
    runtime: Handle,
    /// The router's end of its cable.
    cable: String,
    subnet: u8,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    fn start() -> Result<Self> {
        static SUBNETS: AtomicU8 = AtomicU8::new(0);
        let subnet = SUBNETS.fetch_add(1, Ordering::Relaxed);
        let cable = format!("cable{subnet}");
        let (stop, stopped) = oneshot::channel();
        let (to_router, from_machine) = mpsc::channel();
        let (to_machine, from_router) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name(cable.clone()).spawn(move || {
            let network = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
            let alone = network.is_ok() && to_router.send(Made::Network(network)).is_ok();
            if !alone || from_router.recv().is_err() {
                return;
            }
            let runtime = plug_in(subnet).and_then(|()| {
                Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
            });
            match runtime {
                Ok(runtime) => {
                    let _ = to_router.send(Made::Runtime(Ok(runtime.handle().clone())));
                    let _ = runtime.block_on(stopped); // an end of the sender ends it too
                }
                Err(error) => drop(to_router.send(Made::Runtime(Err(error)))),
            }
        })?;
        let Ok(Made::Network(Ok(tid))) = from_machine.recv() else {
            anyhow::bail!("a thread cannot have a network of its own");
        };
        let (tid, router) = (tid.to_string(), format!("{}/24", router_of(subnet)));
        run("ip", &["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &tid])?;
        run("ip", &["address", "add", &router, "dev", &cable])?;
        run("ip", &["link", "set", &cable, "up"])?;
        to_machine.send(()).context("the machine's thread waits")?;
        let Made::Runtime(runtime) = from_machine.recv().context("the machine's thread answers")?
        else {
            anyhow::bail!("the machine's thread answers out of turn");
        };
        Ok(Self { runtime: runtime?, cable, subnet, stop: Some(stop), thread: Some(thread) })
    }

    fn ip(&self) -> Ipv4Addr {
        ip_of(self.subnet)
    }

    fn router(&self) -> Ipv4Addr {
        router_of(self.subnet)
    }

    /// Runs `ip` on the machine, once for each of these arguments.
    async fn run(&self, commands: &[&[&str]]) -> Result<()> {
        let owned = |command: &&[&str]| command.iter().map(|word| (*word).to_owned()).collect();
        let commands: Vec<Vec<String>> = commands.iter().map(owned).collect();
        let all = async move {
            for command in commands {
                let words: Vec<&str> = command.iter().map(String::as_str).collect();
                run("ip", &words)?;
            }
            anyhow::Ok(())
        };
        self.runtime.spawn(all).await?
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has said what there was to say
        }
    }
}

/// What a machine's thread tells while it is set up.
enum Made {
    Network(nix::Result<nix::unistd::Pid>),
    Runtime(Result<tokio::runtime::Handle>),
}

/// Sets up the machine's end of its cable; called on its thread.
fn plug_in(subnet: u8) -> Result<()> {
    let (ip, router) = (format!("{}/24", ip_of(subnet)), router_of(subnet).to_string());
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["address", "add", &ip, "dev", "eth0"])?;
    run("ip", &["link", "set", "eth0", "up"])?;
    run("ip", &["route", "add", "default", "via", &router])
}

fn ip_of(subnet: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, subnet, 2)
}

fn router_of(subnet: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, subnet, 1)
}
