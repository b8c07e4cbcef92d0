//! Machines with a network of their own, and the router between them.
//!
//! A machine is a network namespace with an address, a cable to the router, and nothing else. The
//! router is the network in which the run itself is: a world of its own (`sandbox`).
#![allow(dead_code)] // each test that has it uses a part of it

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::sandbox::run;

/// Lets what arrives from one machine go on to another.
pub fn be_a_router() -> Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)
}

/// One machine: a thread in a network namespace of its own. Whatever runs on its runtime,
/// and every process that is started there, is in that network.
pub struct Machine {
    runtime: Handle,
    /// The router's end of its cable.
    cable: String,
    subnet: Subnet,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// A new machine, with an address of this block that no other one had before, of 256.
    pub fn start(block: [u8; 2]) -> Result<Self> {
        static SUBNETS: AtomicU8 = AtomicU8::new(0);
        let subnet = Subnet(block, SUBNETS.fetch_add(1, Ordering::Relaxed));
        let cable = format!("cable{}", subnet.1);
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
        let (tid, router) = (tid.to_string(), format!("{}/24", subnet.router()));
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

    /// What is spawned here is in the machine's network, and so are the processes that it starts.
    pub fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.subnet.machine()
    }

    /// The router's end of its cable.
    pub fn cable(&self) -> &str {
        &self.cable
    }

    /// Its router's address.
    pub fn router(&self) -> Ipv4Addr {
        self.subnet.router()
    }

    /// Pulls its cable: it has an address still, and reaches nobody.
    pub fn unplug(&self) -> Result<()> {
        run("ip", &["link", "set", &self.cable, "down"])
    }

    /// Ends `unplug`.
    pub fn plug(&self) -> Result<()> {
        run("ip", &["link", "set", &self.cable, "up"])
    }

    /// Runs `ip` on the machine, once for each of these arguments.
    pub async fn run(&self, commands: &[&[&str]]) -> Result<()> {
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
fn plug_in(subnet: Subnet) -> Result<()> {
    let (ip, router) = (format!("{}/24", subnet.machine()), subnet.router().to_string());
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["address", "add", &ip, "dev", "eth0"])?;
    run("ip", &["link", "set", "eth0", "up"])?;
    run("ip", &["route", "add", "default", "via", &router])
}

/// The third byte of the addresses at both ends of a cable, after the first two.
#[derive(Clone, Copy)]
struct Subnet([u8; 2], u8);

impl Subnet {
    fn machine(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[0], self.0[1], self.1, 2)
    }

    fn router(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[0], self.0[1], self.1, 1)
    }
}
