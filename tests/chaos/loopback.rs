//! Gates between peers that share one machine's loopback. A connection shows only the port that it
//! was dialled from; `/proc` tells whose socket that is.

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use demes::cli::demo::proxy::Gate;
use tokio::sync::watch;

/// Which peer is which process, and what passes between each two.
pub struct Loopback {
    pids: Mutex<Vec<Option<u32>>>,
    /// By who sends, then by who receives: whether it arrives.
    passes: Vec<Vec<watch::Sender<bool>>>,
}

impl Loopback {
    pub fn new(peers: usize) -> Self {
        let row = || (0..peers).map(|_| watch::Sender::new(true)).collect();
        let passes = (0..peers).map(|_| row()).collect();
        Self { pids: Mutex::new(vec![None; peers]), passes }
    }

    pub fn peers(&self) -> usize {
        self.passes.len()
    }

    pub fn know(&self, peer: usize, pid: Option<u32>) {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)[peer] = pid;
    }

    pub fn set_passes(&self, from: usize, to: usize, passes: bool) {
        self.passes[from][to].send_replace(passes);
    }

    /// The gate for the proxy in front of a peer.
    pub fn gate_of(self: &Arc<Self>, peer: usize) -> Arc<dyn Gate> {
        Arc::new(Before { peer, loopback: self.clone() })
    }

    /// Whose socket has this local port.
    fn owner_of(&self, port: u16) -> Option<usize> {
        let socket =
            format!("socket:[{}]", inode_of(&fs::read_to_string("/proc/net/tcp").ok()?, port)?);
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pids.iter().position(|pid| pid.is_some_and(|pid| holds(pid, &socket)))
    }
}

/// The gate in front of one peer.
struct Before {
    peer: usize,
    loopback: Arc<Loopback>,
}

impl Gate for Before {
    fn passes(&self, dialled_from: SocketAddr) -> [watch::Receiver<bool>; 2] {
        match self.loopback.owner_of(dialled_from.port()) {
            Some(from) => [(from, self.peer), (self.peer, from)]
                .map(|(from, to)| self.loopback.passes[from][to].subscribe()),
            // Its process has ended meanwhile.
            None => [watch::channel(true).1, watch::channel(true).1],
        }
    }
}

/// The inode of the socket with this local port, in the words of `/proc/net/tcp`.
fn inode_of(table: &str, port: u16) -> Option<&str> {
    let local = format!("0100007F:{port:04X}");
    let mut lines = table.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut line| (line.nth(1)? == local).then(|| line.nth(7))?)
}

fn holds(pid: u32, socket: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.to_str() == Some(socket))
}
