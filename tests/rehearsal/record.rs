//! What happened, and when: for people as it happens, and for the judgement in the end.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Samples of what is confirmed are kept for so long.
const SAMPLES_KEPT: Duration = Duration::from_secs(10);
/// Of the checks of hand-overs, at most one of so many may be left unjudged: a machine that stands
/// still more often is no place for a rehearsal.
const UNJUDGED_ONE_OF: u64 = 3;
/// Of all readiness probes, at most so many percent may be bad when a pod need not be ready.
const UNREADY_MAX_PERCENT: u64 = 25;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        })
    }
}

/// How many results of one kind of probe there were.
#[derive(Default, Clone, Copy)]
pub struct Tally {
    pub good: u64,
    /// Bad when that is held against nobody, soon after a start or after something was done.
    pub bad: u64,
    pub unexpected: u64,
}

/// A planned stop of one pod and its return.
pub struct Restart {
    pub pod: String,
    pub was_host: bool,
    /// From the signal to the process' end.
    pub stopped_in: Duration,
    /// From the new container's start until it was ready.
    pub ready_in: Duration,
    pub terms: u64,
    /// From the signal to the first confirmation of a message that was sent after it.
    pub first_confirmed: Option<Duration>,
    pub gap: Duration,
}

pub struct Record {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    probes: BTreeMap<Kind, Tally>,
    problems: Vec<String>,
    disturbed: Option<Instant>,
    confirmed: VecDeque<(Instant, u64)>,
    strips: BTreeMap<usize, String>,
    phases: Vec<(String, usize)>,
    hosts: Vec<(u64, String)>,
    stops: BTreeMap<String, Duration>,
    restarts: Vec<Restart>,
    checks: u64,
    stalls: Vec<(Instant, Duration)>,
    /// Checks that a machine which stands still makes worthless, and how many of them it did.
    judgeable: u64,
    unjudged: u64,
}

impl Record {
    pub fn new() -> Self {
        Self { begun: Instant::now(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Tells people.
    pub fn note(&self, text: impl fmt::Display) {
        println!("{:>7.2} s  {text}", self.elapsed().as_secs_f64());
    }

    /// A new part of the story.
    pub fn phase(&self, name: &str) {
        let mut state = self.lock();
        let second = state.strips.values().map(String::len).max().unwrap_or(0);
        state.phases.push((name.to_owned(), second));
        drop(state);
        println!("\n{:>7.2} s  == {name}", self.elapsed().as_secs_f64());
    }

    /// Something that must not be.
    pub fn problem(&self, text: String) {
        self.note(format!("PROBLEM {text}"));
        self.lock().problems.push(text);
    }

    /// One thing that must hold, and whether it does.
    pub fn check(&self, holds: bool, what: &str) {
        self.lock().checks += 1;
        match holds {
            true => self.note(format!("✓ {what}")),
            false => self.problem(format!("not so: {what}")),
        }
    }

    pub fn checks(&self) -> u64 {
        self.lock().checks
    }

    /// The machine itself stood still for so long until now.
    pub fn stalled(&self, stall: Duration) {
        self.lock().stalls.push((Instant::now(), stall));
    }

    /// How long the machine stood still at a time since then, at most.
    pub fn longest_stall(&self, since: Instant) -> Duration {
        let state = self.lock();
        let stalls = state.stalls.iter().filter(|(until, _)| *until >= since);
        stalls.map(|(_, stall)| *stall).max().unwrap_or_default()
    }

    /// A check that says nothing about the pods, since the machine stood still for so long.
    pub fn leave_unjudged(&self, what: &str, stall: Duration) {
        self.lock().unjudged += 1;
        let stall = stall.as_millis();
        self.note(format!("NOT JUDGED, the machine stood still for {stall} ms: {what}"));
    }

    pub fn unjudged(&self) -> u64 {
        self.lock().unjudged
    }

    /// One more check that may be left unjudged.
    pub fn judgeable(&self) {
        self.lock().judgeable += 1;
    }

    /// What was held against nobody must be the exception.
    pub fn check_leniency(&self) {
        let (unjudged, judgeable) = (self.unjudged(), self.lock().judgeable);
        self.check(
            judgeable > 0 && unjudged * UNJUDGED_ONE_OF <= judgeable,
            &format!("at most one of {UNJUDGED_ONE_OF} is not judged: {unjudged} of {judgeable}"),
        );
        let Tally { good, bad, unexpected } =
            self.tallies().get(&Kind::Readiness).copied().unwrap_or_default();
        let all = good + bad + unexpected;
        self.check(
            all > 0 && bad * 100 <= all * UNREADY_MAX_PERCENT,
            &format!(
                "at most {UNREADY_MAX_PERCENT} % of the readiness probes are bad when they may be: \
                 {bad} of {all}"
            ),
        );
    }

    /// How many restarts of the host cost what they may.
    pub fn good_restarts_of_host(&self) -> usize {
        let state = self.lock();
        state.restarts.iter().filter(|restart| restart.was_host && restart.terms <= 1).count()
    }

    pub fn problems(&self) -> Vec<String> {
        self.lock().problems.clone()
    }

    /// Something was done to the chat: for a while it need not be well everywhere.
    pub fn disturb(&self) {
        self.lock().disturbed = Some(Instant::now());
    }

    /// How long nothing was done to it.
    pub fn quiet_for(&self) -> Duration {
        self.lock().disturbed.map_or(Duration::MAX, |at| at.elapsed())
    }

    /// So far is confirmed now.
    pub fn sample(&self, confirmed: u64) {
        let mut state = self.lock();
        state.confirmed.push_back((Instant::now(), confirmed));
        while state.confirmed.front().is_some_and(|(at, _)| at.elapsed() > SAMPLES_KEPT) {
            state.confirmed.pop_front();
        }
    }

    /// What was confirmed that long ago.
    pub fn confirmed_before(&self, age: Duration) -> u64 {
        let state = self.lock();
        let old = state.confirmed.iter().filter(|(at, _)| at.elapsed() >= age);
        old.map(|(_, confirmed)| *confirmed).next_back().unwrap_or(0)
    }

    pub fn probed(&self, kind: Kind, good: bool, expected: bool) {
        let mut state = self.lock();
        let tally = state.probes.entry(kind).or_default();
        match (good, expected) {
            (_, false) => tally.unexpected += 1,
            (true, true) => tally.good += 1,
            (false, true) => tally.bad += 1,
        }
    }

    pub fn tallies(&self) -> BTreeMap<Kind, Tally> {
        self.lock().probes.clone()
    }

    /// One more second of every pod's life, a letter each.
    pub fn draw(&self, letters: impl Iterator<Item = (usize, char)>) {
        let mut state = self.lock();
        for (ordinal, letter) in letters {
            state.strips.entry(ordinal).or_default().push(letter);
        }
    }

    /// Somebody hosts in a term; whether that is news.
    pub fn hosts(&self, term: u64, name: &str) -> bool {
        let mut state = self.lock();
        let news = state.hosts.last().is_none_or(|(last, _)| *last < term);
        if news {
            state.hosts.push((term, name.to_owned()));
        }
        news
    }

    pub fn stopped(&self, pod: &str, took: Duration) {
        self.lock().stops.insert(pod.to_owned(), took);
    }

    /// How long the pod's last stop took.
    pub fn stop_of(&self, pod: &str) -> Duration {
        self.lock().stops.get(pod).copied().unwrap_or_default()
    }

    pub fn restarted(&self, restart: Restart) {
        self.note(format!(
            "{}{}: stopped in {} ms, ready {:.1} s after its start; {} new term{}; first message \
             sent and confirmed after {} ms, longest gap {} ms",
            restart.pod,
            if restart.was_host { ", the host" } else { "" },
            restart.stopped_in.as_millis(),
            restart.ready_in.as_secs_f64(),
            restart.terms,
            if restart.terms == 1 { "" } else { "s" },
            restart.first_confirmed.map_or("?".into(), |it| it.as_millis().to_string()),
            restart.gap.as_millis(),
        ));
        self.lock().restarts.push(restart);
    }

    /// The pods' lives, a column for each second, and what was done when.
    pub fn timeline(&self) -> String {
        const WIDTH: usize = 90;
        let state = self.lock();
        let length = state.strips.values().map(String::len).max().unwrap_or(0);
        let mut text = String::from(
            "\na letter for each second: s starting, u up and not ready, R ready, H ready and\n\
             host, t told to stop, . not there\n",
        );
        for begin in (0..length).step_by(WIDTH) {
            let end = (begin + WIDTH).min(length);
            for (name, at) in state.phases.iter().filter(|(_, at)| (begin..end).contains(at)) {
                text += &format!("{:>10} {}v {name}\n", "", " ".repeat(at - begin));
            }
            for (ordinal, strip) in &state.strips {
                let part = strip.get(begin..end.min(strip.len())).unwrap_or("");
                text += &format!("{ordinal:>10} {part}\n");
            }
            text += &format!("{:>10} {begin} to {end} s\n", "");
        }
        text
    }

    /// Restarts in figures.
    pub fn restarts(&self) -> String {
        let state = self.lock();
        let line = |of_host: bool| {
            let all: Vec<_> = state.restarts.iter().filter(|it| it.was_host == of_host).collect();
            let most = |of: fn(&Restart) -> u128| all.iter().map(|it| of(it)).max().unwrap_or(0);
            format!(
                "{} restarts of {}: new terms at most {}, first message confirmed after at most {} \
                 ms, longest gap {} ms, stopped in at most {} ms, ready at most {} ms after the \
                 start\n",
                all.len(),
                if of_host { "the host" } else { "a member" },
                most(|it| u128::from(it.terms)),
                most(|it| it.first_confirmed.unwrap_or_default().as_millis()),
                most(|it| it.gap.as_millis()),
                most(|it| it.stopped_in.as_millis()),
                most(|it| it.ready_in.as_millis()),
            )
        };
        line(true) + &line(false)
    }
}
