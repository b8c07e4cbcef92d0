//! A network that delays, loses, doubles and parts. Streams (entries, submissions) keep their order
//! or break, as TCP's do; single calls do neither.

use std::collections::{BTreeMap, BTreeSet};

use demes_protocol::message::Body;
use demes_protocol::prng::Prng;

/// What may happen to messages in this run.
pub struct Network {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub delay_us_max: u64,
    /// Directed links that carry nothing.
    pub cut: BTreeSet<(usize, usize)>,
    /// When the last message of a stream arrives, per (from, to).
    stream_until: BTreeMap<(usize, usize), u64>,
}

/// What becomes of one message.
pub enum Fate {
    /// It arrives at these moments.
    Arrives(Vec<u64>),
    Lost,
    /// It was part of a stream, which breaks: the receiver notices at this moment.
    StreamBreaks(u64),
}

impl Network {
    pub fn calm() -> Self {
        Self {
            loss_percent: 0,
            duplicate_percent: 0,
            delay_us_max: 2_000,
            cut: BTreeSet::new(),
            stream_until: BTreeMap::new(),
        }
    }

    pub fn fate(&mut self, prng: &mut Prng, now: u64, from: usize, to: usize, body: &Body) -> Fate {
        let stream = matches!(
            body,
            Body::Append(_) | Body::LookBack(_) | Body::Submit(_) | Body::SubmitAnswer(_)
        );
        let arrival = now + 50 + prng.below(self.delay_us_max);
        let lost = self.cut.contains(&(from, to)) || prng.below(100) < self.loss_percent;
        if lost {
            return match body {
                Body::Append(_) | Body::LookBack(_) => Fate::StreamBreaks(arrival + 5_000),
                _ => Fate::Lost,
            };
        }
        if stream {
            let until = self.stream_until.entry((from, to)).or_insert(0);
            let arrival = arrival.max(*until + 1);
            *until = arrival;
            return Fate::Arrives(vec![arrival]);
        }
        let mut arrivals = vec![arrival];
        if prng.below(100) < self.duplicate_percent {
            arrivals.push(arrival + prng.below(10 * self.delay_us_max));
        }
        Fate::Arrives(arrivals)
    }
}
