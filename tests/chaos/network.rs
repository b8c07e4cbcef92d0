//! The network between the peers, and how it breaks.
//!
//! In a world of its own (`sandbox`) each peer has a machine: a network namespace with an address,
//! a cable to a router, and nothing else. The router drops what a rule says, so that packets vanish
//! in one direction and nobody is told; a cable can be pulled; and what goes wrong with packets is
//! up to a switch in user space (`switch`). Elsewhere the peers share loopback, and the project's
//! proxy in front of each holds bytes by who dialled.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use demes::cli::demo::peer::Place;

use crate::loopback::Loopback;
use crate::machine::{Machine, be_a_router};
use crate::sandbox::run;
use crate::switch::Switch;

/// The machines have addresses of this block, which nobody outside sees.
const BLOCK: [u8; 2] = [10, 77];

/// What connects the peers of one chat.
pub enum Network {
    /// A machine for each peer, and one more.
    Machines(Vec<Machine>, BTreeSet<(usize, usize)>, Option<Switch>),
    /// All on loopback.
    Loopback(Arc<Loopback>, BTreeSet<(usize, usize)>),
}

impl Network {
    /// Machines for that many peers, in a world of its own. With `tun`, the program that opens an
    /// interface, a switch stands between them.
    pub fn machines(peers: usize, tun: Option<&Path>) -> Result<Self> {
        be_a_router()?;
        let machines: Result<Vec<_>> = (0..=peers).map(|_| Machine::start(BLOCK)).collect();
        let machines = machines?;
        let ends = machines[..peers].iter().map(|one| (one.cable().to_owned(), one.ip()));
        let switch = tun.map(|tun| Switch::start(tun, &ends.collect::<Vec<_>>())).transpose()?;
        Ok(Self::Machines(machines, BTreeSet::new(), switch))
    }

    /// Loopback, with gates between that many peers.
    pub fn loopback(peers: usize) -> Self {
        Self::Loopback(Arc::new(Loopback::new(peers)), BTreeSet::new())
    }

    /// A place for each peer. On loopback, and with a delay where there is no switch, a proxy
    /// stands before each.
    pub fn places(&self, delay: Option<Duration>) -> Result<Vec<Place>> {
        match self {
            Self::Machines(machines, _, switch) => {
                let delay = delay.filter(|_| switch.is_none());
                let place = |one: &Machine| Place::machine(one.runtime(), one.ip(), delay);
                Ok(machines.iter().rev().skip(1).rev().map(place).collect())
            }
            Self::Loopback(loopback, _) => (0..loopback.peers())
                .map(|peer| Place::gated(delay.unwrap_or_default(), loopback.gate_of(peer)))
                .collect(),
        }
    }

    /// A place for one more process.
    pub fn spare_place(&self) -> Result<Place> {
        match self {
            Self::Machines(machines, ..) => match &machines[..] {
                [.., spare] => Ok(Place::machine(spare.runtime(), spare.ip(), None)),
                [] => bail!("there is no machine"),
            },
            Self::Loopback(..) => Place::loopback(None),
        }
    }

    /// The switch, where there is one.
    pub fn switch(&mut self) -> Option<&mut Switch> {
        match self {
            Self::Machines(_, _, switch) => switch.as_mut(),
            Self::Loopback(..) => None,
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
            Self::Machines(machines, cuts, _) => {
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
            Self::Machines(machines, ..) => machines[peer].unplug(),
            Self::Loopback(loopback, _) => {
                let pairs = all_pairs_of(peer, loopback.peers());
                self.cut(&pairs)
            }
        }
    }

    /// Ends `unplug`.
    pub fn plug(&mut self, peer: usize) -> Result<()> {
        match self {
            Self::Machines(machines, ..) => machines[peer].plug(),
            Self::Loopback(loopback, _) => {
                let pairs = all_pairs_of(peer, loopback.peers());
                self.mend(&pairs)
            }
        }
    }

    /// Switches a peer's own interface off: its machine knows that it has no network.
    pub async fn switch_off(&mut self, peer: usize) -> Result<()> {
        match self {
            Self::Machines(machines, ..) => {
                machines[peer].run(&[&["link", "set", "eth0", "down"]]).await
            }
            Self::Loopback(..) => self.unplug(peer),
        }
    }

    /// Ends `switch_off`.
    pub async fn switch_on(&mut self, peer: usize) -> Result<()> {
        match self {
            Self::Machines(machines, ..) => {
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
