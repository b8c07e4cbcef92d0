//! The storage thread of one chat: it makes `Ready`s durable, in order, and tells the loop.
//!
//! What arrives while it syncs is written by the next sync, all together: the group commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tracing::{Span, info_span};

use super::measure::Gauges;
use crate::planted::{Mistake, planted};
use crate::protocol::event::{Load, Persist};
use crate::protocol::time::Micros;
use crate::protocol::types::{ChatId, Entry, Incarnation, Index, Submission};
use crate::storage::{Carry, ChatStore};
use crate::telemetry::metrics::{self, Metric};

/// The most bytes of entries in one sync; the rest goes into the next one.
const SYNC_BYTES_MAX: usize = 4 << 20;

/// What the disk has done, for the loop. There are as many as the loop has asked for.
pub enum Done {
    /// Everything up to this `Ready`, of the chat in this incarnation, is durable.
    Persisted { chat: ChatId, incarnation: Incarnation, ready: u64, sync_us: Micros },
    /// What `Ready::loads` asked for.
    Loaded { chat: ChatId, incarnation: Incarnation, load: Load, entries: Vec<Arc<Entry>> },
    /// Damage was found in the chat's file by a reader. The chat ends here; the others go on.
    Damaged { chat: ChatId, incarnation: Incarnation },
    /// So many submissions have joined what is carried since the start, durably (`carry.rs`).
    Carried { chat: ChatId, incarnation: Incarnation, count: u64 },
    /// Where each of the first submissions that are carried stands in the log, if it does. None
    /// where the disk does not have that part of the log yet, or reading failed.
    Located { chat: ChatId, incarnation: Incarnation, found: Option<Vec<Option<Index>>> },
    /// A write failed. Nothing is tried again (R38).
    Failed { what: String },
}

/// The sending side. Dropping it ends the thread after what was given to it.
///
/// The channel has no bound of its own: what the loop can give is bounded by the limits of the
/// outbox, of entries beyond the commit index, and of bytes that a follower has not acknowledged.
pub struct Journal {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
    gauges: Arc<Gauges>,
}

#[derive(Default)]
struct Job {
    /// None where it is not a `Ready`'s.
    ready: Option<u64>,
    persist: Persist,
    carry: Carry,
    /// What is traced of it.
    spans: Vec<Span>,
}

impl Journal {
    /// Starts the thread.
    pub fn start(
        store: ChatStore,
        done: UnboundedSender<Done>,
        gauges: Arc<Gauges>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        let counted = Arc::clone(&gauges);
        let thread = thread::Builder::new().name("demes-storage".into()).spawn(move || {
            let mut guard = PanicGuard { done: done.clone(), armed: true };
            run(store, &queue, &done, &counted);
            guard.armed = false;
        })?;
        Ok(Self { jobs, thread, gauges })
    }

    /// Makes `persist` durable after everything that was given before. With `ends_carrying`, what
    /// was carried of an earlier incarnation is forgotten in the same write. Each of `spans` gets
    /// the sync as its child.
    pub fn write(&self, ready: u64, persist: Persist, ends_carrying: bool, spans: Vec<Span>) {
        let carry = Carry { put: Vec::new(), ends: ends_carrying };
        self.send(Job { ready: Some(ready), persist, carry, spans });
    }

    /// Makes a submission durable with those that are carried.
    pub fn carry(&self, submission: Submission) {
        let carry = Carry { put: vec![submission], ends: false };
        self.send(Job { carry, ..Job::default() });
    }

    fn send(&self, job: Job) {
        self.gauges.writes.fetch_add(1, Ordering::Relaxed);
        // The thread is gone only after it has told the loop that it failed.
        let _ = self.jobs.send(job);
    }

    /// Ends the thread after what was given to it. Once the handle is joined, the file is closed,
    /// unless a reader still has it.
    pub fn end(self) -> JoinHandle<()> {
        self.thread
    }
}

fn run(mut store: ChatStore, queue: &Receiver<Job>, done: &UnboundedSender<Done>, gauges: &Gauges) {
    let (chat, incarnation) = (store.chat(), store.incarnation());
    let mut held: Option<Job> = None;
    let mut carried = 0;
    while let Some(mut job) = held.take().or_else(|| queue.recv().ok()) {
        let mut bytes = size(&job.persist);
        let mut jobs = 1;
        while bytes < SYNC_BYTES_MAX
            && let Ok(next) = queue.try_recv()
        {
            if next.persist.truncate_from.is_some() || job.carry.ends {
                held = Some(next);
                break;
            }
            bytes += size(&next.persist);
            jobs += 1;
            job.ready = next.ready.or(job.ready);
            job.carry.put.extend(next.carry.put);
            job.carry.ends = next.carry.ends;
            job.spans.extend(next.spans);
            append(&mut job.persist, next.persist);
        }
        let syncs: Vec<Span> =
            job.spans.drain(..).map(|span| info_span!(parent: &span, "sync")).collect();
        let written = store.persist_with(&job.persist, &job.carry);
        drop(syncs);
        gauges.writes.fetch_sub(jobs, Ordering::Relaxed);
        let took = match written {
            Ok(took) => took,
            Err(_) if planted(Mistake::WriteErrorIgnored) => Duration::ZERO,
            Err(error) => {
                let _ = done.send(Done::Failed { what: error.to_string() });
                return;
            }
        };
        metrics::record(Metric::SyncDuration, took, &[]);
        let sync_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        carried += job.carry.put.len() as u64;
        let has_carried = !job.carry.put.is_empty();
        let messages = [
            job.ready.map(|ready| Done::Persisted { chat, incarnation, ready, sync_us }),
            has_carried.then_some(Done::Carried { chat, incarnation, count: carried }),
        ];
        if messages.into_iter().flatten().any(|message| done.send(message).is_err()) {
            return;
        }
    }
}

fn size(persist: &Persist) -> usize {
    persist.entries.iter().map(|entry| entry.size()).sum()
}

/// Adds `next`, which cuts nothing, to `first`: the same as one after the other.
fn append(first: &mut Persist, next: Persist) {
    let Persist {
        hard_state,
        truncate_from: _,
        furthest,
        entries,
        outbox_put,
        outbox_remove_through,
        commit,
        request_ids,
        checkpoint,
        read,
        pasts,
        evidence,
        generation,
        removed_by,
    } = next;
    first.hard_state = hard_state.or(first.hard_state);
    first.furthest = furthest.or(first.furthest);
    first.entries.extend(entries);
    first.outbox_put.extend(outbox_put);
    first.outbox_remove_through = outbox_remove_through.max(first.outbox_remove_through);
    first.commit = commit.or(first.commit);
    first.request_ids.extend(request_ids);
    first.checkpoint = checkpoint.or(first.checkpoint.take());
    first.read = read.or(first.read);
    first.pasts = pasts.or(first.pasts.take());
    first.evidence = evidence.or(first.evidence.take());
    first.generation = generation.or(first.generation);
    first.removed_by = removed_by.or(first.removed_by);
}

/// A panic in the storage library ends the process, like a failed write (R38).
struct PanicGuard {
    done: UnboundedSender<Done>,
    armed: bool,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if self.armed {
            let what = "the storage thread ended unexpectedly".to_owned();
            let _ = self.done.send(Done::Failed { what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::{HardState, Past, Pasts, PeerId};

    #[test]
    fn two_writes_in_one_are_the_same_as_one_after_the_other() {
        let mut first = Persist {
            hard_state: Some(HardState { term: 1, vote: None }),
            outbox_remove_through: Some(4),
            commit: Some(7),
            read: Some(2),
            pasts: Some(Arc::default()),
            ..Persist::default()
        };
        let request_ids = vec![("r".to_owned(), 9)];
        let pasts = Arc::new(Pasts::from([((PeerId([1; 32]), 2), Past::default())]));
        append(
            &mut first,
            Persist {
                outbox_remove_through: Some(3),
                commit: Some(9),
                request_ids: request_ids.clone(),
                pasts: Some(Arc::clone(&pasts)),
                ..Persist::default()
            },
        );
        let expected = Persist {
            hard_state: Some(HardState { term: 1, vote: None }),
            outbox_remove_through: Some(4),
            commit: Some(9),
            read: Some(2),
            request_ids,
            pasts: Some(pasts),
            ..Persist::default()
        };
        assert_eq!(first, expected);
    }

    // R38: the loop ends the process then.
    #[test]
    fn a_failed_write_is_told_and_nothing_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = ChatStore::create(dir.path(), ChatId([1; 16]), 7, &[]).unwrap();
        store.fail_writes();
        let (done, mut told) = tokio::sync::mpsc::unbounded_channel();
        let journal = Journal::start(store, done, Arc::default()).unwrap();
        let persist = Persist { read: Some(1), ..Persist::default() };
        for ready in 1..=2 {
            journal.write(ready, persist.clone(), false, Vec::new());
        }
        assert!(matches!(told.blocking_recv(), Some(Done::Failed { .. })));
        assert!(told.blocking_recv().is_none(), "the thread has ended");
    }
}
