//! What the clients did and were told, and what must follow from it.
#![allow(dead_code)] // each test that has it uses a part of it

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use demes::cli::demo::check::{Confirmed, Line};

/// More are not told: by then it is clear enough.
const PROBLEMS_MAX: usize = 50;
/// So many messages are remembered to be asked about again: of those that only wait, and of the
/// others.
const ASKED_AGAIN_MAX: usize = 256;

/// Everything that was seen from outside during one chat's life.
#[derive(Default)]
pub struct History {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the number in the request id.
    messages: Vec<Message>,
    /// Messages of which nobody knows what became of them, to be sent again.
    in_doubt: VecDeque<usize>,
    /// Messages that were answered lately, to be asked about again: those that were only queued,
    /// and those that were confirmed.
    answered: [VecDeque<usize>; 2],
    /// The feed as the first reader of each sequence saw it.
    feed: Vec<Line>,
    /// When messages were confirmed to their senders, or first read by anyone.
    progress: Vec<Instant>,
    /// Since when what waits at a peer is no longer what waited there before, by peer.
    forgotten: BTreeMap<usize, Instant>,
    mark: Option<Instant>,
    first_after_mark: Option<Duration>,
    refusals: BTreeMap<String, u64>,
    problems: Vec<String>,
}

/// One message, and what its sender was told.
#[derive(Clone)]
struct Message {
    /// The peer that it was given to.
    author: usize,
    first_sent: Instant,
    /// When it was said to be durable in the author's outbox.
    queued: Option<Instant>,
    /// When it was said to be confirmed, and at which sequence.
    confirmed: Option<(Instant, u64)>,
}

/// How much a chat has seen.
#[derive(Clone, Copy, Default)]
pub struct Count {
    pub messages: u64,
    pub confirmed: u64,
    /// Messages that were only said to be queued.
    pub queued: u64,
    /// Neither: they may be in the chat once, or not at all.
    pub unknown: u64,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new message is about to be given to a peer; its number.
    pub fn sending(&self, author: usize) -> usize {
        let mut state = self.lock();
        let first_sent = Instant::now();
        state.messages.push(Message { author, first_sent, queued: None, confirmed: None });
        state.messages.len() - 1
    }

    /// The peer that this message was given to.
    pub fn author(&self, number: usize) -> usize {
        self.lock().messages[number].author
    }

    /// It was said to be queued, to a call that was made at `asked`.
    pub fn queued(&self, number: usize, asked: Instant) {
        let mut state = self.lock();
        let author = state.messages[number].author;
        if state.forgotten.get(&author).is_some_and(|since| asked <= *since) {
            return;
        }
        state.messages[number].queued.get_or_insert_with(Instant::now);
        state.was_answered(number);
    }

    /// The peer's disk is not the one any more that it was, and what only waited there may be gone.
    pub fn forget_queue(&self, author: usize) {
        let mut state = self.lock();
        state.forgotten.insert(author, Instant::now());
        let waiting = |message: &&mut Message| message.author == author;
        for message in state.messages.iter_mut().filter(waiting) {
            if message.confirmed.is_none() {
                message.queued = None;
            }
        }
    }

    /// It was said to be confirmed.
    pub fn confirmed(&self, number: usize, sequence: u64) {
        let now = Instant::now();
        let mut state = self.lock();
        let message = &mut state.messages[number];
        let sent = message.first_sent;
        match message.confirmed {
            Some((_, first)) if first != sequence => {
                let text =
                    format!("moved: message-{number} confirmed at {first} and at {sequence}");
                state.problem(text);
            }
            // What is asked again is answered from the store, whether or not the chat goes on.
            Some(_) => {}
            None => {
                message.confirmed = Some((now, sequence));
                state.goes_on(now, sent);
            }
        }
        state.was_answered(number);
    }

    /// The call failed; it may be repeated later.
    pub fn failed(&self, number: usize, why: &str, repeat: bool) {
        let mut state = self.lock();
        *state.refusals.entry(why.to_owned()).or_default() += 1;
        if repeat {
            state.in_doubt.push_back(number);
        }
    }

    /// A message to be sent again whose peer is there.
    pub fn to_repeat(&self, there: impl Fn(usize) -> bool) -> Option<usize> {
        let mut state = self.lock();
        let messages = &state.messages;
        let place = state.in_doubt.iter().position(|number| there(messages[*number].author))?;
        state.in_doubt.remove(place)
    }

    /// A message that was answered already and may be asked about again; `draw` gives a number
    /// below another one.
    pub fn to_ask_again(&self, mut draw: impl FnMut(usize) -> usize) -> Option<usize> {
        let state = self.lock();
        let some = state.answered.iter().filter(|some| !some.is_empty()).collect::<Vec<_>>();
        let some = some.get(draw(some.len().max(1)))?;
        some.get(draw(some.len())).copied()
    }

    /// All that must still be confirmed in the end: promised by a queue, or to be repeated.
    pub fn open(&self) -> Vec<usize> {
        let mut state = self.lock();
        let repeat = std::mem::take(&mut state.in_doubt);
        let messages = &state.messages;
        let queued = (0..messages.len()).filter(|number| messages[*number].queued.is_some());
        let all: std::collections::BTreeSet<usize> = repeat.into_iter().chain(queued).collect();
        all.into_iter().filter(|number| messages[*number].confirmed.is_none()).collect()
    }

    /// A reader of some peer's feed saw this event. All must see the same.
    pub fn read(&self, reader: &str, line: Line) {
        let mut state = self.lock();
        let place = usize::try_from(line.sequence).unwrap_or(usize::MAX).wrapping_sub(1);
        let text = match state.feed.get(place) {
            Some(known) if *known == line => return,
            Some(known) => format!("feeds differ: {reader} saw {line:?}, another {known:?}"),
            None if place == state.feed.len() => {
                let number = line.message.as_ref().and_then(|name| name.split_once("/message-"));
                let number = number.and_then(|(_, number)| number.parse::<usize>().ok());
                if let Some(sent) = number.and_then(|number| state.messages.get(number)) {
                    let sent = sent.first_sent;
                    state.goes_on(Instant::now(), sent);
                }
                return state.feed.push(line);
            }
            None => format!("gap: {reader} saw {} before anyone saw the one before", line.sequence),
        };
        state.problem(text);
    }

    /// The last sequence that any reader has seen.
    pub fn last_read(&self) -> u64 {
        self.lock().feed.len() as u64
    }

    /// Something is wrong.
    pub fn problem(&self, text: String) {
        self.lock().problem(text);
    }

    /// Whether anything is wrong.
    pub fn is_broken(&self) -> bool {
        !self.lock().problems.is_empty()
    }

    /// Time counts from now: see `first_after_mark`.
    pub fn mark(&self) -> Instant {
        let mut state = self.lock();
        let now = Instant::now();
        state.mark = Some(now);
        state.first_after_mark = None;
        now
    }

    /// From the mark to the first message that was sent after it and is confirmed to its sender, or
    /// read by anyone.
    pub fn first_after_mark(&self) -> Option<Duration> {
        self.lock().first_after_mark
    }

    /// The longest time without a confirmation between two moments, of which the second is past.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let gaps = self.gaps(from, to).into_iter().map(|(_, length)| length);
        gaps.max().unwrap_or_default()
    }

    /// The times without anything confirmed to anyone between two moments, of which the second is
    /// past: when each began, and how long it was.
    pub fn gaps(&self, from: Instant, to: Instant) -> Vec<(Instant, Duration)> {
        let state = self.lock();
        // They were noted in this order.
        let first = state.progress.partition_point(|at| *at < from);
        let within = state.progress[first..].iter().copied().take_while(|at| *at < to);
        let moments: Vec<Instant> = [from].into_iter().chain(within).chain([to]).collect();
        moments.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect()
    }

    /// The highest sequence that was confirmed to anyone.
    pub fn last_confirmed(&self) -> u64 {
        let state = self.lock();
        state.messages.iter().filter_map(|message| Some(message.confirmed?.1)).max().unwrap_or(0)
    }

    /// Confirmed messages, backwards from the middle of all.
    pub fn confirmed_before_the_middle(&self) -> Vec<usize> {
        let state = self.lock();
        let is_confirmed = |number: &usize| state.messages[*number].confirmed.is_some();
        (0..state.messages.len() / 2).rev().filter(is_confirmed).collect()
    }

    /// Why calls failed, and how often.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        self.lock().refusals.clone()
    }

    pub fn count(&self) -> Count {
        let state = self.lock();
        let mut count = Count { messages: state.messages.len() as u64, ..Count::default() };
        for message in &state.messages {
            match (message.confirmed, message.queued) {
                (Some(_), _) => count.confirmed += 1,
                (None, Some(_)) => count.queued += 1,
                (None, None) => count.unknown += 1,
            }
        }
        count
    }

    /// What `demes::cli::demo::check` wants to know.
    pub fn told(&self, ids: &[String]) -> Confirmed {
        let mut told = Confirmed::default();
        for (number, message) in self.lock().messages.iter().enumerate() {
            if let Some((_, sequence)) = message.confirmed {
                told.note(&ids[message.author], &request_id(number), sequence);
            }
        }
        told
    }

    /// Takes the problems found so far.
    pub fn take_problems(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().problems)
    }

    /// Checks the whole feed against what was said: nothing is invented, what was queued is there,
    /// what the readers saw is what there is, and the order is that of the calls.
    pub fn check(&self, feed: &[Line], ids: &[String]) -> Vec<String> {
        let state = self.lock();
        let mut problems = Vec::new();
        let known = state.feed.len().min(feed.len());
        if state.feed.len() > feed.len() || state.feed[..known] != feed[..known] {
            problems.push("the readers saw another feed than there is".to_owned());
        }
        let mut places = vec![None; state.messages.len()];
        for line in feed {
            let Some(name) = &line.message else { continue };
            let number = name.split_once("/message-").and_then(|(author, number)| {
                let number: usize = number.parse().ok()?;
                let message = state.messages.get(number)?;
                ids[message.author].starts_with(author).then_some(number)
            });
            match number {
                Some(number) => places[number] = Some(line.sequence),
                None => problems.push(format!("invented: {name} at {}", line.sequence)),
            }
        }
        for (number, message) in state.messages.iter().enumerate() {
            if message.queued.is_some() && places[number].is_none() {
                problems.push(format!("lost: message-{number}, which was said to be queued"));
            }
        }
        problems.extend(out_of_order(&state.messages, &places));
        problems
    }
}

impl State {
    /// Something was confirmed that was first sent then.
    fn goes_on(&mut self, now: Instant, sent: Instant) {
        self.progress.push(now);
        if let Some(mark) = self.mark.filter(|mark| sent > *mark) {
            self.first_after_mark.get_or_insert(now - mark);
        }
    }

    fn was_answered(&mut self, number: usize) {
        let which = usize::from(self.messages[number].confirmed.is_some());
        let answered = &mut self.answered[which];
        answered.push_back(number);
        if answered.len() > ASKED_AGAIN_MAX {
            answered.pop_front();
        }
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX && !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }
}

/// The id under which a message is sent, however often.
pub fn request_id(number: usize) -> String {
    format!("message-{number}")
}

/// A message that was confirmed before another one was first sent must stand before it; of one
/// author's messages, so must one that was queued before the other was first sent.
fn out_of_order(messages: &[Message], places: &[Option<u64>]) -> Vec<String> {
    let mut standing: Vec<(u64, usize)> =
        places.iter().zip(0..).filter_map(|(place, number)| Some(((*place)?, number))).collect();
    standing.sort_unstable();
    // The message that was first sent last, of those so far: of all, and of each author.
    let mut latest: Option<usize> = None;
    let mut latest_of: BTreeMap<usize, usize> = BTreeMap::new();
    let mut problems = Vec::new();
    for (sequence, number) in standing {
        let message = &messages[number];
        let pairs = [
            (latest, message.confirmed.map(|(at, _)| at)),
            (latest_of.get(&message.author).copied(), message.queued),
        ];
        for (before, told) in pairs {
            let (Some(before), Some(told)) = (before, told) else { continue };
            if told < messages[before].first_sent {
                let text =
                    format!("order: message-{number} at {sequence} stands after message-{before}");
                problems.push(text);
            }
        }
        let sent = |number: usize| messages[number].first_sent;
        latest = Some(latest.filter(|one| sent(*one) >= sent(number)).unwrap_or(number));
        let own = latest_of.entry(message.author).or_insert(number);
        if sent(*own) < sent(number) {
            *own = number;
        }
    }
    problems
}

/// The checker is itself checked, at the beginning of every run.
pub fn check_yourself() {
    let begun = Instant::now();
    let at = |ms: u64| begun + Duration::from_millis(ms);
    let message = |author, sent, queued: Option<u64>, confirmed: Option<u64>| Message {
        author,
        first_sent: at(sent),
        queued: queued.map(at),
        confirmed: confirmed.map(|ms| (at(ms), 1)),
    };
    let places = |places: &[u64]| places.iter().map(|place| Some(*place)).collect::<Vec<_>>();
    let apart = [message(0, 0, None, Some(1)), message(1, 2, None, Some(3))];
    assert_eq!(out_of_order(&apart, &places(&[1, 2])).len(), 0);
    assert_eq!(out_of_order(&apart, &places(&[2, 1])).len(), 1);
    let at_once = [message(0, 0, None, Some(3)), message(1, 2, None, Some(4))];
    assert_eq!(out_of_order(&at_once, &places(&[2, 1])).len(), 0);
    let queued = |author| [message(0, 0, Some(1), None), message(author, 2, Some(3), None)];
    assert_eq!(out_of_order(&queued(0), &places(&[2, 1])).len(), 1);
    assert_eq!(out_of_order(&queued(1), &places(&[2, 1])).len(), 0);

    let line = |sequence: u64, hash: &str| Line {
        sequence,
        hash: hash.into(),
        digest: [0; 16],
        message: None,
        host_term: None,
    };
    let history = History::default();
    history.read("one", line(1, "a"));
    history.read("other", line(1, "a"));
    assert!(!history.is_broken());
    history.read("other", line(1, "b"));
    history.read("other", line(3, "c"));
    assert_eq!(history.take_problems().len(), 2);
    history.queued(history.sending(0), Instant::now());
    let problems = history.check(&[line(1, "a")], &["a7".to_owned()]);
    assert!(problems.len() == 1 && problems[0].starts_with("lost"), "{problems:?}");
    let before = Instant::now();
    history.forget_queue(0);
    assert_eq!(history.check(&[line(1, "a")], &["a7".to_owned()]), [""; 0], "its disk was lost");
    history.queued(0, before);
    assert_eq!(history.count().unknown, 1, "that was said before the loss");
    history.confirmed(0, 1);
    history.confirmed(0, 2);
    assert_eq!(history.take_problems(), ["moved: message-0 confirmed at 1 and at 2"]);
    assert_eq!(history.to_ask_again(|below| below - 1), Some(0));
    assert_eq!(history.gaps(before, Instant::now()).len(), 2, "it went on once");
}
