//! A switch in user space: between the machines' cables stands an interface of the router whose
//! packets this program takes, holds, loses, turns round or ends, and gives back.
//!
//! Each peer has a line to a middle that is fast; what goes from one peer to another passes the
//! lines of both. While nothing is wrong with any line, the kernel passes packets by itself, and
//! times are those of the machine.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use demes::protocol::prng::Prng;
use tokio::sync::oneshot;

use crate::packet::{ends_of, resets};
use crate::sandbox::run;

/// The router's interface to this program.
const INTERFACE: &str = "switch0";
/// The table of routes for what comes from the machines, and the place of its rules: behind those
/// that cut (`network`).
const TABLE: &str = "77";
const PLACE: &str = "20";
const MTU: u16 = 1500;
const PACKET_BYTES: usize = 65_536;
/// A narrow line holds so much before it loses what comes: a second of it, and some packets at
/// least.
const HELD_BYTES_MIN: u64 = 15_000;
/// How much later a packet comes that others may overtake.
const OVERTAKEN_MS: u64 = 40;
/// How long the interface may take to be there.
const READY_LIMIT: Duration = Duration::from_secs(5);

/// What one peer's line is like, in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// How long a packet takes.
    pub delay_ms: u64,
    /// By how much that changes, up and down, from packet to packet; they keep their order.
    pub jitter_ms: u64,
    /// Of a thousand packets, so many are lost.
    pub loss: u64,
    /// Of a thousand packets, so many come so late that others overtake them.
    pub late: u64,
    /// What it carries in a second; as much as there is, where it is 0.
    pub kbit: u64,
}

impl Line {
    pub fn of_delay(delay: Duration) -> Self {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self { delay_ms, ..Self::default() }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}±{} ms", self.delay_ms, self.jitter_ms)?;
        for (amount, what) in [(self.loss, "‰ lost"), (self.late, "‰ late"), (self.kbit, " kbit/s")]
        {
            if amount > 0 {
                write!(out, " {amount}{what}")?;
            }
        }
        Ok(())
    }
}

/// The switch between the machines of one chat. It ends when it is dropped.
pub struct Switch {
    state: Arc<Mutex<State>>,
    cables: Vec<String>,
    /// Whether packets come through here.
    is_between: bool,
    pump: Child,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Switch {
    /// Between machines with these cables and addresses; `program` is `tun.c`, compiled.
    pub fn start(program: &Path, machines: &[(String, Ipv4Addr)]) -> Result<Self> {
        for which in ["all", "default"] {
            // What comes back from the switch is from addresses behind the cables.
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{which}/rp_filter"), "0")?;
        }
        let (here, pump) = open(program, INTERFACE)?;
        run("ip", &["link", "set", INTERFACE, "up", "mtu", &MTU.to_string()])?;
        run("ip", &["route", "add", "default", "dev", INTERFACE, "table", TABLE])?;
        let state = Arc::new(Mutex::new(State::new(machines.iter().map(|(_, ip)| *ip))));
        let (stop, stopped) = oneshot::channel();
        let shared = state.clone();
        let thread = std::thread::Builder::new().name("switch".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // What fails here is told by every packet that does not arrive.
            let _ = runtime.map(|runtime| runtime.block_on(carry(here, &shared, stopped)));
        })?;
        let cables = machines.iter().map(|(cable, _)| cable.clone()).collect();
        let thread = Some(thread);
        Ok(Self { state, cables, is_between: false, pump, stop: Some(stop), thread })
    }

    /// What the peers' lines are like from now on.
    pub fn set_lines(&mut self, lines: &[Line]) -> Result<()> {
        let mut state = self.lock();
        ensure!(lines.len() == state.lines.len(), "there is one line for each peer");
        state.lines.clone_from_slice(lines);
        drop(state);
        self.stand_between(lines.iter().any(|line| *line != Line::default()))
    }

    /// For so long every connection of these peers ends at its next packet.
    pub fn reset(&mut self, peers: &[usize], lasts: Duration) -> Result<()> {
        self.stand_between(true)?;
        let mut state = self.lock();
        for peer in peers {
            state.resets_until[*peer] = Some(Instant::now() + lasts);
        }
        Ok(())
    }

    /// The largest packet that passes; senders are told.
    pub fn set_mtu(&mut self, mtu: Option<u16>) -> Result<()> {
        self.stand_between(true)?;
        run("ip", &["link", "set", INTERFACE, "mtu", &mtu.unwrap_or(MTU).to_string()])
    }

    fn stand_between(&mut self, between: bool) -> Result<()> {
        if between == self.is_between {
            return Ok(());
        }
        let what = if between { "add" } else { "del" };
        for cable in &self.cables {
            run("ip", &["rule", what, "pref", PLACE, "iif", cable, "table", TABLE])?;
        }
        self.is_between = between;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.stand_between(false); // the cables may be gone
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has said what there was to say
        }
        let _ = self.pump.kill(); // it may have ended by itself
        let _ = self.pump.wait();
    }
}

/// Whether this machine lets a program have an interface.
pub fn probe(program: &Path) -> Result<()> {
    let (_, mut pump) = open(program, "probe0")?;
    pump.kill()?;
    pump.wait()?;
    Ok(())
}

/// Runs the program that opens an interface: its packets, and the process.
fn open(program: &Path, interface: &str) -> Result<(UnixDatagram, Child)> {
    let (here, there) = UnixDatagram::pair()?;
    let mut pump = Command::new(program)
        .arg(interface)
        .stdin(Stdio::from(OwnedFd::from(there)))
        .stderr(Stdio::piped())
        .spawn()?;
    here.set_read_timeout(Some(READY_LIMIT))?;
    if here.recv(&mut [0]).is_err() {
        let _ = pump.kill(); // it may have ended by itself
        let mut said = String::new();
        pump.stderr.take().context("it is piped")?.read_to_string(&mut said)?;
        pump.wait()?;
        bail!("{}", said.lines().next().unwrap_or("no interface"));
    }
    here.set_read_timeout(None)?;
    here.set_nonblocking(true)?;
    Ok((here, pump))
}

/// A packet on its way: when it goes on, and whether the line of the peer that it is for still has
/// to carry it. That is asked when it comes there, since what was sent later may come sooner.
struct Held {
    due: Instant,
    comes_to: Option<usize>,
    packet: Vec<u8>,
}

/// Carries packets until it is stopped, in the order in which they are due.
async fn carry(socket: UnixDatagram, state: &Mutex<State>, mut stopped: oneshot::Receiver<()>) {
    let Ok(socket) = tokio::net::UnixDatagram::from_std(socket) else { return };
    let mut held = BTreeMap::new();
    let mut count = 0_u64;
    let mut buffer = vec![0; PACKET_BYTES];
    loop {
        let due = held.keys().next().map(|(due, _): &(Instant, u64)| *due);
        let wait = due.map(|due| tokio::time::sleep_until(due.into()));
        tokio::select! {
            _ = &mut stopped => return,
            received = socket.recv(&mut buffer) => {
                let Ok(length) = received else { return };
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                for next in state.pass(Instant::now(), &buffer[..length]) {
                    count += 1;
                    held.insert((next.due, count), next);
                }
            }
            () = async { wait.expect("it is only asked then").await }, if due.is_some() => {
                let Some((_, next)) = held.pop_first() else { continue };
                if let Some(peer) = next.comes_to {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(next) = state.arrive(peer, next) {
                        count += 1;
                        held.insert((next.due, count), next);
                    }
                } else if socket.send(&next.packet).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The lines, and what is on its way over them.
struct State {
    places: BTreeMap<Ipv4Addr, usize>,
    lines: Vec<Line>,
    resets_until: Vec<Option<Instant>>,
    /// When each line has carried what it was given, from the peer and to it.
    free_at: Vec<[Option<Instant>; 2]>,
    /// When the last packet of each pair arrives.
    last_of: BTreeMap<(usize, usize), Instant>,
    prng: Prng,
}

impl State {
    fn new(machines: impl Iterator<Item = Ipv4Addr>) -> Self {
        let places: BTreeMap<_, _> = machines.zip(0..).collect();
        let count = places.len();
        Self {
            places,
            lines: vec![Line::default(); count],
            resets_until: vec![None; count],
            free_at: vec![[None; 2]; count],
            last_of: BTreeMap::new(),
            prng: Prng::new(count as u64),
        }
    }

    /// What becomes of a packet that a peer sends: what goes on, and when.
    fn pass(&mut self, now: Instant, packet: &[u8]) -> Vec<Held> {
        let ends = ends_of(packet)
            .and_then(|(from, to)| Some((*self.places.get(&from)?, *self.places.get(&to)?)));
        // The router's own words to a machine, such as that a packet is too large.
        let at_once = |packet| Held { due: now, comes_to: None, packet };
        let Some((from, to)) = ends else { return vec![at_once(packet.to_owned())] };
        let is_reset = |peer: usize| self.resets_until[peer].is_some_and(|until| now < until);
        if (is_reset(from) || is_reset(to))
            && let Some(ends) = resets(packet)
        {
            return ends.into_iter().map(at_once).collect();
        }
        let (one, other) = (self.lines[from], self.lines[to]);
        if self.happens(one.loss) || self.happens(other.loss) {
            return Vec::new();
        }
        let Some(sent) = self.through(now, from, 0, packet.len()) else { return Vec::new() };
        let way = self.time_of(one) + self.time_of(other);
        let late = self.happens(one.late) || self.happens(other.late);
        let mut arrives = sent + way;
        if late {
            arrives += Duration::from_millis(OVERTAKEN_MS);
        } else {
            let last = self.last_of.entry((from, to)).or_insert(arrives);
            arrives = arrives.max(*last);
            *last = arrives;
        }
        vec![Held { due: arrives, comes_to: Some(to), packet: packet.to_owned() }]
    }

    /// What becomes of a packet that has come to the line of the peer that it is for.
    fn arrive(&mut self, peer: usize, held: Held) -> Option<Held> {
        let due = self.through(held.due, peer, 1, held.packet.len())?;
        Some(Held { due, comes_to: None, packet: held.packet })
    }

    /// When a narrow line has carried so many bytes more; nothing where it holds too much already.
    fn through(&mut self, at: Instant, peer: usize, way: usize, bytes: usize) -> Option<Instant> {
        let kbit = self.lines[peer].kbit;
        let bytes_a_second = match kbit {
            0 => return Some(at),
            _ => kbit * 1_000 / 8,
        };
        let free = &mut self.free_at[peer][way];
        let begins = free.map_or(at, |free| free.max(at));
        let held =
            Duration::from_millis(HELD_BYTES_MIN.max(bytes_a_second) * 1_000 / bytes_a_second);
        if begins - at > held {
            return None;
        }
        let ends = begins + Duration::from_micros(bytes as u64 * 1_000_000 / bytes_a_second);
        *free = Some(ends);
        Some(ends)
    }

    fn time_of(&mut self, line: Line) -> Duration {
        let least = line.delay_ms.saturating_sub(line.jitter_ms) * 1_000;
        let most = (line.delay_ms + line.jitter_ms) * 1_000;
        Duration::from_micros(least + self.prng.below(most - least + 1))
    }

    fn happens(&mut self, of_a_thousand: u64) -> bool {
        of_a_thousand > 0 && self.prng.below(1_000) < of_a_thousand
    }
}

/// Checked at the beginning of every run.
pub fn check_yourself() {
    let ips = [1, 2, 3].map(|last| Ipv4Addr::new(10, 0, 0, last));
    let packet_from = |from: usize, bytes: usize| {
        let mut packet = vec![0; bytes];
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&ips[from].octets());
        packet[16..20].copy_from_slice(&ips[1].octets());
        packet
    };
    let packet = |bytes| packet_from(0, bytes);
    let now = Instant::now();
    let arrivals = |line: Line, packets: &[usize]| {
        let mut state = State::new(ips.into_iter());
        state.lines[0] = line;
        let passed = packets.iter().flat_map(|bytes| state.pass(now, &packet(*bytes)));
        passed.map(|held| (held.due - now).as_millis()).collect::<Vec<_>>()
    };
    let line = Line::default();
    assert_eq!(arrivals(line, &[100]), [0]);
    assert_eq!(arrivals(Line { delay_ms: 200, ..line }, &[100, 1_000]), [200, 200]);
    assert_eq!(arrivals(Line { loss: 1_000, ..line }, &[100]), []);
    assert_eq!(arrivals(Line { kbit: 64, ..line }, &[800, 800]), [100, 200]);
    assert!(arrivals(Line { kbit: 64, ..line }, &[1_000; 99]).len() < 30, "it holds so much");
    let jittered = arrivals(Line { delay_ms: 200, jitter_ms: 100, ..line }, &[100; 50]);
    assert!(jittered.is_sorted() && jittered[0] >= 100 && jittered[49] <= 300, "{jittered:?}");
    assert!(!arrivals(Line { late: 300, ..line }, &[100; 50]).is_sorted(), "some are overtaken");

    // A line carries what comes to it first, whoever sent first.
    let mut state = State::new(ips.into_iter());
    state.lines = vec![Line { kbit: 64, ..line }; 3];
    let late = state.pass(now, &packet_from(0, 8_000)).remove(0);
    let soon = state.pass(now, &packet_from(2, 80)).remove(0);
    let mut at = |held: Held| state.arrive(1, held).map(|held| (held.due - now).as_millis());
    assert_eq!((at(soon), at(late)), (Some(20), Some(2_000)));
}
