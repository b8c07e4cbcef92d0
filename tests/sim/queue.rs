//! What will happen, and when: the earliest first, and of those at one moment the one that was
//! planned first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use demes_protocol::event::{Event, Load};
use demes_protocol::message::Message;
use demes_protocol::types::PeerId;

use super::plan::Action;

/// Something that will happen.
#[derive(Debug)]
pub enum What {
    Deliver {
        to: usize,
        network_epoch: u64,
        message: Box<Message>,
    },
    /// A stream of entries ended.
    Detached {
        peer: usize,
        network_epoch: u64,
        host: PeerId,
    },
    Tell {
        peer: usize,
        epoch: u64,
        event: Box<Event>,
    },
    /// A peer looks at its own connection to another one.
    Link {
        peer: usize,
        other: usize,
    },
    Measure {
        peer: usize,
        epoch: u64,
    },
    Written {
        peer: usize,
        epoch: u64,
        write: u64,
    },
    DiskLook {
        peer: usize,
        epoch: u64,
        since: u64,
    },
    Loaded {
        peer: usize,
        epoch: u64,
        load: Load,
    },
    Tick {
        peer: usize,
        epoch: u64,
    },
    /// The loop has time again.
    Turn {
        peer: usize,
        epoch: u64,
    },
    /// A newcomer, or whoever has a new store, asks to be taken on.
    Join {
        peer: usize,
    },
    Start {
        peer: usize,
    },
    Thaw {
        peer: usize,
        epoch: u64,
    },
    /// A graceful stop takes too long.
    StopDeadline {
        peer: usize,
        epoch: u64,
    },
    /// The disk has room again.
    Room {
        peer: usize,
    },
    /// The loop looks how its disk does.
    DiskState {
        peer: usize,
        epoch: u64,
    },
    /// Somebody moves a damaged store away.
    Repair {
        peer: usize,
    },
    /// Nobody has noticed an old copy in time.
    StopWatching {
        peer: usize,
    },
    EndCondition(u64),
    /// The next part of a flapping link: how many are left.
    Flap {
        a: usize,
        b: usize,
        period_us: u64,
        left: u64,
    },
    /// A person says so many things.
    Say {
        peer: usize,
        count: u64,
    },
    /// What follows from a step of the plan.
    Later(Action),
    /// Syncs take as long as they did.
    FastSyncs,
    /// Somebody looks whether the chat goes on.
    Watch,
    /// A step of the plan.
    Act(usize),
}

/// It, and its moment.
struct Due {
    at: u64,
    order: u64,
    what: What,
}

impl Ord for Due {
    /// The earliest is the greatest, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Due {}

impl What {
    /// The peer whose process this happens in.
    pub fn process(&self) -> Option<usize> {
        match self {
            What::Deliver { to, .. } => Some(*to),
            What::Detached { peer, .. }
            | What::Tell { peer, .. }
            | What::Link { peer, .. }
            | What::Measure { peer, .. }
            | What::Written { peer, .. }
            | What::DiskLook { peer, .. }
            | What::Loaded { peer, .. }
            | What::Tick { peer, .. }
            | What::Turn { peer, .. }
            | What::Thaw { peer, .. }
            | What::StopDeadline { peer, .. }
            | What::DiskState { peer, .. } => Some(*peer),
            What::Join { .. }
            | What::Room { .. }
            | What::Start { .. }
            | What::Repair { .. }
            | What::StopWatching { .. }
            | What::EndCondition(_)
            | What::Flap { .. }
            | What::Watch
            | What::Later(_)
            | What::FastSyncs
            | What::Say { .. }
            | What::Act(_) => None,
        }
    }
}

/// Everything that will happen.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Due>,
    count: u64,
}

impl Queue {
    pub fn push(&mut self, at: u64, what: What) {
        self.count += 1;
        self.heap.push(Due { at, order: self.count, what });
    }

    /// The next one, if that is not after `end`, and its moment.
    pub fn pop(&mut self, end: u64) -> Option<(u64, What)> {
        if self.heap.peek()?.at > end {
            return None;
        }
        self.heap.pop().map(|due| (due.at, due.what))
    }
}
