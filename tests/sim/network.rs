//! A network that delays, loses, doubles, reorders and parts.
//!
//! Streams of entries keep their order or break, as TCP's do; single calls do neither. What is
//! wrong at a moment is a set of conditions, each of which comes and goes by itself.

use std::collections::{BTreeMap, BTreeSet};

use demes_protocol::message::Body;
use demes_protocol::prng::Prng;

/// Messages that the stream to a slow reader holds; one more, and the host ends the stream.
const SLOW_STREAM_MAX: u64 = 8;
/// What a slow reader needs for each of them.
const SLOW_READ_US: u64 = 100_000;
/// Until the receiver of a stream that broke notices.
const BREAK_NOTICED_US: u64 = 5_000;
/// What every message takes at least.
const DELAY_US_MIN: u64 = 50;
const SECOND_US: u64 = 1_000_000;

/// Nothing waits for its line for longer; what would is lost, and a stream of entries breaks.
const LINE_WAIT_US: u64 = 5_000_000;
/// Of the log and of submissions each stream sends so much ahead; what is more waits where the rest
/// overtakes it (`src/runtime/pace.rs`).
const AHEAD_BYTES: u64 = 1_024;

/// A directed way between two peers.
pub type Way = (usize, usize);

/// One thing that is wrong with the network.
#[derive(Clone, Debug)]
pub enum Condition {
    /// This share of all messages is lost.
    Loss { percent: u64 },
    /// This share of single calls arrives twice.
    Duplicates { percent: u64 },
    /// Messages take up to this much longer, each its own time, so that they overtake each other.
    Delay { us_max: u64 },
    /// All are so much further from each other, one way, and each message up to that much more.
    /// What one says to another keeps its order, as on one connection.
    Far { us: u64, jitter_us: u64 },
    /// What each peer sends shares a line that carries so much, and so does what it receives. All
    /// of it waits for what came before, but for the log and submissions, which go in pieces.
    Narrow { bytes_per_second: u64 },
    /// Nothing arrives. With `held_until` it arrives then, as what TCP sends again does.
    Cut { ways: BTreeSet<Way>, held_until: Option<u64> },
    /// No connection can be made, while the one the other way carries both directions (R25).
    NoDial { ways: BTreeSet<Way> },
    /// This peer loses this share of what it sends.
    LossyOutbound { peer: usize, percent: u64 },
    /// This peer reads its stream of entries slowly.
    SlowReader { peer: usize },
}

/// What all conditions make of one way.
#[derive(Clone, Copy, Default)]
struct State {
    loss_percent: u64,
    duplicate_percent: u64,
    delay_us_max: u64,
    is_cut: bool,
    held_until: u64,
    no_dial: bool,
    is_slow: bool,
    far_us: u64,
    jitter_us: u64,
    /// 0 where the line is no limit.
    bytes_per_second: u64,
}

/// Until when a line is busy in one direction: with everything, and with what is not sent in
/// pieces.
#[derive(Clone, Copy, Default)]
struct Line {
    all: u64,
    whole: u64,
}

impl Line {
    /// When so much more has come through that arrives at it now.
    fn through(&mut self, now: u64, takes_us: u64, is_whole: bool, ahead_us: u64) -> u64 {
        let all = self.all.max(now);
        self.all = all + takes_us;
        if !is_whole {
            return self.all;
        }
        let begins = self.whole.max(now);
        self.whole = begins + takes_us;
        self.whole + ahead_us.min(all.saturating_sub(begins))
    }
}

/// What becomes of one message.
pub enum Fate {
    /// It arrives at these moments.
    Arrives(u64, Option<u64>),
    /// It is lost, and if it was part of a stream of entries, that was so from now on.
    Lost,
    /// It was part of a stream of entries, which breaks: the receiver notices at this moment.
    Breaks(u64),
    /// The host ends the stream of one who does not keep up.
    CutOff(u64),
}

/// The newest stream of entries from a host to a member.
#[derive(Default)]
struct Stream {
    is_open: bool,
    /// When the last message of it arrives.
    until: u64,
}

pub struct Network {
    /// One-way delays without any condition, in microseconds.
    distances: Vec<Vec<u64>>,
    conditions: BTreeMap<u64, Condition>,
    next_condition: u64,
    /// Among these peers every way is good, whatever the conditions say.
    healed: BTreeSet<usize>,
    states: Vec<Vec<State>>,
    streams: BTreeMap<Way, Stream>,
    /// When the last message arrives, on ways that keep the order.
    ordered: BTreeMap<(usize, usize, bool), u64>,
    /// Each peer's line, for what it sends and for what it receives.
    lines: Vec<[Line; 2]>,
    /// When the last submission or answer to one arrives: they keep their order too.
    queues: BTreeMap<(usize, usize, bool), u64>,
}

impl Network {
    pub fn new(distances: Vec<Vec<u64>>) -> Self {
        let count = distances.len();
        Self {
            distances,
            conditions: BTreeMap::new(),
            next_condition: 1,
            healed: BTreeSet::new(),
            states: vec![vec![State::default(); count]; count],
            streams: BTreeMap::new(),
            ordered: BTreeMap::new(),
            lines: vec![[Line::default(); 2]; count],
            queues: BTreeMap::new(),
        }
    }

    /// The way between all peers is another one from now on. What is on its way arrives as it
    /// would.
    pub fn move_to(&mut self, distances: Vec<Vec<u64>>) {
        self.distances = distances;
    }

    // ---- conditions ----

    /// Something goes wrong. The number ends it.
    pub fn begin(&mut self, condition: Condition) -> u64 {
        let number = self.next_condition;
        self.next_condition += 1;
        self.conditions.insert(number, condition);
        self.compute();
        number
    }

    pub fn end(&mut self, condition: u64) {
        self.conditions.remove(&condition);
        self.compute();
    }

    /// Everything that is wrong ends.
    pub fn end_all(&mut self) {
        self.conditions.clear();
        self.compute();
    }

    /// Among `peers` every way is good from now on.
    pub fn heal(&mut self, peers: BTreeSet<usize>) {
        self.healed = peers;
        self.compute();
    }

    fn compute(&mut self) {
        let count = self.distances.len();
        for from in 0..count {
            for to in 0..count {
                let mut state = State::default();
                if !(self.healed.contains(&from) && self.healed.contains(&to)) {
                    for condition in self.conditions.values() {
                        state.suffer(condition, from, to);
                    }
                }
                self.states[from][to] = state;
            }
        }
    }

    // ---- questions ----

    /// Whether nothing is wrong.
    pub fn is_calm(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether what one sends to the other arrives, in a time that can be known.
    pub fn is_good(&self, from: usize, to: usize) -> bool {
        let state = &self.states[from][to];
        let is_lossy = state.loss_percent > 0 || state.is_cut || state.is_slow;
        !is_lossy && !state.no_dial && state.delay_us_max == 0
    }

    /// Whether packets pass from one to the other.
    pub fn carries(&self, from: usize, to: usize) -> bool {
        let state = &self.states[from][to];
        !state.is_cut || state.held_until > 0
    }

    /// Whether one can open a connection to the other, and keep it.
    pub fn can_dial(&self, from: usize, to: usize) -> bool {
        self.carries(from, to) && self.carries(to, from) && !self.states[from][to].no_dial
    }

    /// What a ping measures that is sent now.
    pub fn round_trip(&mut self, prng: &mut Prng, now: u64, from: usize, to: usize) -> u64 {
        let [there, back] = [(from, to), (to, from)].map(|way| {
            let delay = self.delay(prng, way.0, way.1);
            delay + self.wait(now, way, PING_BYTES, true)
        });
        there + back
    }

    /// How much later something arrives for the lines of both.
    fn wait(&mut self, now: u64, (from, to): Way, bytes: u64, is_whole: bool) -> u64 {
        let rate = self.states[from][to].bytes_per_second;
        if rate == 0 {
            return 0;
        }
        let (takes_us, ahead_us) = (bytes * SECOND_US / rate, AHEAD_BYTES * SECOND_US / rate);
        let ahead_us = ahead_us * (self.lines.len() as u64 - 1);
        let sent = self.lines[from][0].through(now, takes_us, is_whole, ahead_us);
        self.lines[to][1].through(sent, takes_us, is_whole, ahead_us) - now
    }

    fn delay(&self, prng: &mut Prng, from: usize, to: usize) -> u64 {
        let far = self.states[from][to].far_us;
        DELAY_US_MIN + self.distances[from][to] + far + prng.below(self.jitter(from, to))
    }

    /// When everything has arrived that is on its way now.
    pub fn delay_max(&self, from: usize, to: usize) -> u64 {
        let far = self.states[from][to].far_us;
        DELAY_US_MIN + self.distances[from][to] + far + self.jitter(from, to)
    }

    fn jitter(&self, from: usize, to: usize) -> u64 {
        let state = &self.states[from][to];
        self.distances[from][to] / 4 + 100 + state.delay_us_max + state.jitter_us
    }

    // ---- messages ----

    /// A member has opened a stream of entries anew.
    pub fn open_stream(&mut self, host: usize, member: usize) {
        self.streams.entry((host, member)).or_default().is_open = true;
    }

    /// The connection that carried the stream is gone.
    pub fn close_stream(&mut self, host: usize, member: usize) {
        self.streams.entry((host, member)).or_default().is_open = false;
    }

    pub fn fate(&mut self, prng: &mut Prng, now: u64, way: Way, body: &Body) -> Fate {
        let (from, to) = way;
        let state = self.states[from][to];
        let is_piece = matches!(body, Body::Append(_) | Body::LookBack(_) | Body::Submit(_));
        let wait = self.wait(now, way, size(body), !is_piece);
        let mut arrival = now + wait + self.delay(prng, from, to);
        if state.far_us > 0 || state.bytes_per_second > 0 {
            // Each way has two queues on a narrow line.
            let until = self.ordered.entry((from, to, is_piece && wait > 0)).or_insert(0);
            arrival = arrival.max(*until + 1);
            *until = arrival;
        }
        if state.held_until > 0 {
            arrival = arrival.max(state.held_until + prng.below(1_000));
        }
        let is_lost = (state.is_cut && state.held_until == 0)
            || prng.below(100) < state.loss_percent
            || wait > LINE_WAIT_US;
        match body {
            Body::Append(_) | Body::LookBack(_) => self.stream(now, way, arrival, is_lost),
            _ if is_lost => Fate::Lost,
            Body::Submit(_) | Body::SubmitAnswer(_) => {
                let is_answer = body.is_answer();
                let until = self.queues.entry((from, to, is_answer)).or_insert(0);
                *until = arrival.max(*until + 1);
                Fate::Arrives(*until, None)
            }
            _ => {
                let is_doubled = prng.below(100) < state.duplicate_percent;
                let second = is_doubled.then(|| arrival + prng.below(20_000));
                Fate::Arrives(arrival, second)
            }
        }
    }

    fn stream(&mut self, now: u64, way: Way, arrival: u64, is_lost: bool) -> Fate {
        let is_slow = self.states[way.0][way.1].is_slow;
        let stream = self.streams.entry(way).or_default();
        if !stream.is_open {
            return Fate::Lost;
        }
        if is_lost {
            stream.is_open = false;
            // Whatever waits for its line longer than that is given up, with the connection.
            let at = arrival.max(stream.until).min(now + LINE_WAIT_US);
            return Fate::Breaks(at + BREAK_NOTICED_US);
        }
        if is_slow && stream.until > now + SLOW_STREAM_MAX * SLOW_READ_US {
            stream.is_open = false;
            return Fate::CutOff(stream.until + BREAK_NOTICED_US);
        }
        let gap = if is_slow { SLOW_READ_US } else { 1 };
        stream.until = arrival.max(stream.until + gap);
        Fate::Arrives(stream.until, None)
    }
}

/// What a ping and its answer take each.
const PING_BYTES: u64 = 200;

/// About what a message is on the wire, with the headers of all layers and the confirmation of its
/// packet.
fn size(body: &Body) -> u64 {
    const AROUND: usize = 200;
    /// What names a peer, or holds a hash.
    const NAME: usize = 70;
    /// What a peer has said of itself, with its signature.
    const PAST: usize = 90;
    let inside = match body {
        Body::Append(append) => append.entries.iter().map(|it| it.size() + 2 * NAME).sum(),
        Body::FetchLogAnswer(answer) => answer.entries.iter().map(|it| it.size() + 2 * NAME).sum(),
        Body::Submit(submit) => submit.submissions.iter().map(|it| it.size() + NAME).sum(),
        Body::Heartbeat(heartbeat) => {
            let ranking = heartbeat
                .ranking
                .as_ref()
                .map_or(0, |it| (NAME + 10) * it.candidates.len() + 12 * it.delays.len());
            let pasts = (NAME + PAST) * heartbeat.pasts.len();
            ranking + pasts + (NAME + 8) * heartbeat.positions.len()
        }
        Body::ReportDelays(report) => {
            let past = if report.past.is_some() { PAST } else { 0 };
            past + (2 * NAME + 5) * report.row.len()
        }
        _ => 0,
    };
    (AROUND + inside) as u64
}

impl State {
    fn suffer(&mut self, condition: &Condition, from: usize, to: usize) {
        match condition {
            Condition::Loss { percent } => self.loss_percent = self.loss_percent.max(*percent),
            Condition::Duplicates { percent } => {
                self.duplicate_percent = self.duplicate_percent.max(*percent);
            }
            Condition::Far { us, jitter_us } => {
                self.far_us = self.far_us.max(*us);
                self.jitter_us = self.jitter_us.max(*jitter_us);
            }
            Condition::Narrow { bytes_per_second } => self.bytes_per_second = *bytes_per_second,
            Condition::Delay { us_max } => self.delay_us_max = self.delay_us_max.max(*us_max),
            Condition::Cut { ways, held_until } if ways.contains(&(from, to)) => {
                // What is lost for good by one cut is not held by another.
                self.held_until = match held_until {
                    Some(until) if !self.is_cut || self.held_until > 0 => {
                        self.held_until.max(*until)
                    }
                    _ => 0,
                };
                self.is_cut = true;
            }
            Condition::NoDial { ways } => self.no_dial |= ways.contains(&(from, to)),
            Condition::LossyOutbound { peer, percent } if *peer == from => {
                self.loss_percent = self.loss_percent.max(*percent);
            }
            Condition::SlowReader { peer } => self.is_slow |= *peer == to,
            Condition::Cut { .. } | Condition::LossyOutbound { .. } => {}
        }
    }
}
