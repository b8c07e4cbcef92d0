//! When the chat could have gone on and did not: the times without anything confirmed while a
//! majority was there and connected, and the machine itself moved.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::history::History;

/// A chat that stands still for longer is told of.
const TOLD: Duration = Duration::from_secs(3);
/// Between two beats of the machine's pulse, and how late one may be.
const PULSE: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_millis(200);
/// So many late beats are remembered: more than one chat has.
const LATE_MAX: usize = 10_000;

/// Since when a majority is there, and since when not.
pub struct Watch {
    changes: Vec<(Instant, bool)>,
}

/// One time in which the chat stood still.
#[derive(Clone, Copy, Debug)]
pub struct Still {
    pub since: Instant,
    pub lasted: Duration,
    /// For how long of it the machine itself, its processors or its disk, stood still.
    pub machine: Duration,
}

impl Watch {
    pub fn begin() -> Self {
        Self { changes: vec![(Instant::now(), true)] }
    }

    /// Whether a majority is there from now on.
    pub fn note(&mut self, has_majority: bool) {
        self.changes.push((Instant::now(), has_majority));
    }

    /// All that is to be told.
    pub fn stills(&self, history: &History, pulse: &Pulse) -> Vec<Still> {
        let now = Instant::now();
        let mut stills = Vec::new();
        let mut since = None;
        for (at, has_majority) in self.changes.iter().copied().chain([(now, false)]) {
            match (since, has_majority) {
                (None, true) => since = Some(at),
                (Some(from), false) => {
                    let gaps = history.gaps(from, at).into_iter();
                    stills.extend(gaps.filter(|(_, lasted)| *lasted > TOLD));
                    since = None;
                }
                _ => {}
            }
        }
        let with_machine = |(since, lasted): (Instant, Duration)| Still {
            since,
            lasted,
            machine: pulse.stood_still(since, since + lasted),
        };
        stills.into_iter().map(with_machine).collect()
    }
}

/// What the machine itself is like, as a thread of its own feels it.
#[derive(Clone, Default)]
pub struct Pulse {
    /// When a beat was late, and by how much.
    late: Arc<Mutex<VecDeque<(Instant, Duration)>>>,
}

impl Pulse {
    /// Begins; it ends with the program.
    pub fn begin() -> Result<Self> {
        let pulse = Self::default();
        let (late, mut file) = (pulse.late.clone(), tempfile::tempfile()?);
        std::thread::Builder::new().name("pulse".into()).spawn(move || {
            loop {
                let begun = Instant::now();
                std::thread::park_timeout(PULSE);
                if file.write_all(b".").and_then(|()| file.sync_data()).is_err() {
                    return; // then nothing is excused
                }
                let by = begun.elapsed().saturating_sub(PULSE);
                if by >= LATE {
                    let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
                    late.push_back((begun, by));
                    if late.len() > LATE_MAX {
                        late.pop_front();
                    }
                }
            }
        })?;
        Ok(pulse)
    }

    /// For how long the machine stood still between two moments.
    fn stood_still(&self, from: Instant, to: Instant) -> Duration {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.iter()
            .map(|(begun, by)| to.min(*begun + *by).saturating_duration_since(from.max(*begun)))
            .sum()
    }
}

/// Checked at the beginning of every run.
pub fn check_yourself() {
    let history = History::default();
    let begun = Instant::now();
    let at =
        |seconds: u64| begun.checked_sub(Duration::from_secs(100 - seconds)).expect("it is up");
    let late = VecDeque::from([(at(12), Duration::from_secs(4))]);
    let pulse = Pulse { late: Arc::new(Mutex::new(late)) };
    let told = |changes: &[(u64, bool)]| {
        let changes = changes.iter().map(|(second, there)| (at(*second), *there)).collect();
        let stills = Watch { changes }.stills(&history, &pulse);
        stills.iter().map(|it| (it.lasted.as_secs(), it.machine.as_secs())).collect::<Vec<_>>()
    };
    assert_eq!(told(&[(0, true), (2, false)]), [], "that is short");
    assert_eq!(told(&[(0, true), (10, false), (20, true), (22, false)]), [(10, 0)]);
    assert_eq!(told(&[(0, false), (10, true), (12, true), (20, false)]), [(10, 4)]);
}
