//! What an earlier incarnation of this peer had in its outbox when the chat began anew (R9, R37).
//!
//! Each submission may be in the log, or not. The host ends an incarnation's submissions where its
//! successor joins, so that the log up to there says it: what is missing then is said again, with a
//! new number, and becomes part of the outbox in the same write that forgets that it was carried.

use std::sync::Arc;

use super::chat::Chat;
use super::driver::Io;
use super::journal::Done;
use crate::protocol::event::{Event, Proposal};
use crate::protocol::sign::{needs_signature, signed_submission};
use crate::protocol::time::Instant;
use crate::protocol::types::{Entry, Incarnation, Index, MemberState, Payload, PeerId, Submission};
use crate::storage::{ChatReader, StorageError};

/// How much of the log is read at a time.
const READ_BYTES: usize = 1 << 20;

/// The state of what is carried.
pub(super) enum Carried {
    /// Nothing is.
    None,
    /// The log is not known up to this incarnation's Join.
    Waiting(Vec<Submission>),
    /// The log is being read.
    Sifting(Vec<Submission>),
    /// These are not in the log.
    Left(Vec<Submission>),
    /// They are in the outbox with the next write.
    Ending,
}

impl Carried {
    pub fn new(submissions: Vec<Submission>) -> Self {
        if submissions.is_empty() { Self::None } else { Self::Waiting(submissions) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::None | Self::Ending => 0,
            Self::Waiting(submissions) | Self::Sifting(submissions) | Self::Left(submissions) => {
                submissions.len()
            }
        }
    }

    /// Whether the loop should look at them from time to time.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::Left(_))
    }

    /// Whether the write that is made now is the one that forgets them.
    pub fn ends_with_this_write(&mut self) -> bool {
        let ends = matches!(self, Self::Ending);
        if ends {
            *self = Self::None;
        }
        ends
    }
}

impl Chat {
    /// Begins to look for what is carried once the log is known up to this incarnation's Join, and
    /// says again what is left as soon as the chat takes it.
    pub fn sift_carried(&mut self, now: Instant, io: &Io) {
        match std::mem::replace(&mut self.carried, Carried::None) {
            Carried::Waiting(submissions) => self.sift(submissions, io),
            Carried::Left(submissions) => self.say_again(now, submissions, io),
            other => self.carried = other,
        }
    }

    /// The log has been read.
    pub fn on_sifted(&mut self, left: Option<Vec<Submission>>) {
        self.touched |= left.is_some();
        self.carried = match (left, std::mem::replace(&mut self.carried, Carried::None)) {
            (Some(left), Carried::Sifting(_)) => Carried::Left(left),
            // Looked for again later.
            (None, Carried::Sifting(submissions)) => Carried::Waiting(submissions),
            (_, other) => other,
        };
    }

    fn sift(&mut self, submissions: Vec<Submission>, io: &Io) {
        let (me, incarnation) = (io.identity.peer_id(), self.shared.incarnation);
        let joined = self.replica.log().state().members.get(&me);
        let joined = joined.filter(|member| {
            member.incarnation == incarnation && member.state == MemberState::Active
        });
        let Some(through) = joined.map(|member| member.since) else {
            self.carried = Carried::Waiting(submissions);
            return;
        };
        self.carried = Carried::Sifting(submissions.clone());
        let (chat, reader) = (self.id, self.shared.reader.clone());
        io.beside(move || {
            Some(match left_over(&reader, me, incarnation, through, submissions) {
                Err(error) if error.needs_repair() => Done::Damaged { chat, incarnation },
                left => Done::Sifted { chat, incarnation, left: left.ok().flatten() },
            })
        });
    }

    fn say_again(&mut self, now: Instant, submissions: Vec<Submission>, io: &Io) {
        let refused = submissions.iter().any(|s| self.replica.can_propose(&s.payload).is_err());
        if refused {
            self.carried = Carried::Left(submissions);
            return;
        }
        let count = submissions.len();
        tracing::info!(chat = ?self.id, count, "said again what an earlier incarnation had queued");
        self.carried = Carried::Ending;
        for submission in submissions {
            let Submission { created_at_ms, trace, payload, .. } = submission;
            let number = self.replica.next_number();
            let signature = needs_signature(&payload).then(|| {
                let (me, session) = (io.identity.peer_id(), self.shared.incarnation);
                io.identity.sign(&signed_submission(self.id, me, session, number, &payload))
            });
            if let Payload::Message { request_id, .. } = &payload {
                self.requests.add(request_id.clone(), number);
            }
            self.handle(now, Event::Propose(Proposal { payload, created_at_ms, trace, signature }));
        }
    }
}

/// What of `submissions` no other incarnation of `me` has in the log up to `through`; `None` where
/// the log on the disk does not reach that far yet.
fn left_over(
    reader: &ChatReader,
    me: PeerId,
    incarnation: Incarnation,
    through: Index,
    mut submissions: Vec<Submission>,
) -> Result<Option<Vec<Submission>>, StorageError> {
    let mut next = 1;
    while next <= through && !submissions.is_empty() {
        let entries = reader.entries(next, through, READ_BYTES)?;
        if entries.is_empty() {
            return Ok(None);
        }
        for entry in entries.iter().filter(|e| e.author == me && e.session != incarnation) {
            submissions.retain(|submission| !is_of(entry, submission));
        }
        next += entries.len() as Index;
    }
    Ok(Some(submissions))
}

/// Whether the entry was made from the submission. The session under which that was is not known
/// any more; the number, the moment and the content are enough.
fn is_of(entry: &Arc<Entry>, submission: &Submission) -> bool {
    entry.number == submission.number
        && entry.created_at_ms == submission.created_at_ms
        && entry.payload == submission.payload
}
