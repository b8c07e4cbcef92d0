//! Looks for request ids in the stores: many at a time, on a thread that may block.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::refusal::{Refusal, internal, request_id_reused, stopping, store};
use crate::planted::{Mistake, planted};
use crate::protocol::types::{Index, Payload};
use crate::runtime::handle::ChatShared;

/// Ids that wait; more wait with their callers.
const WAITING_MAX: usize = 1_024;
/// The most ids of one look.
const LOOK_MAX: usize = 256;

struct Question {
    chat: Arc<ChatShared>,
    request_id: String,
    sealed: Bytes,
    reply: oneshot::Sender<Result<Option<Index>, Refusal>>,
}

/// The asking side. One look is under way at a time, and what arrives meanwhile goes into the next
/// one: a call costs a share of a thread's waking up, not all of it.
pub struct Lookup {
    questions: mpsc::Sender<Question>,
}

impl Lookup {
    /// Starts the task; it ends with the asking side.
    pub fn start() -> Self {
        let (questions, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(waiting));
        Self { questions }
    }

    /// Where the request of that id stands committed, if it does. One that has said something else
    /// than `sealed` is refused.
    pub async fn index_of(
        &self,
        chat: &Arc<ChatShared>,
        request_id: &str,
        sealed: &Bytes,
    ) -> Result<Option<Index>, Refusal> {
        if planted(Mistake::RequestsInMemoryOnly) || chat.reader.lacks_request(request_id) {
            return Ok(None);
        }
        let (reply, replied) = oneshot::channel();
        let (chat, request_id) = (Arc::clone(chat), request_id.to_owned());
        let question = Question { chat, request_id, sealed: sealed.clone(), reply };
        self.questions.send(question).await.map_err(|_| stopping())?;
        // A look that panicked has dropped its questions.
        replied.await.unwrap_or_else(|_| Err(internal("looking for a request was interrupted")))
    }
}

fn look(question: &Question) -> Result<Option<Index>, Refusal> {
    let reader = &question.chat.reader;
    let found = reader.index_of_request(&question.request_id).map_err(|error| store(&error))?;
    let Some(index) = found else { return Ok(None) };
    let entries = reader.entries(index, index, 1).map_err(|error| store(&error))?;
    let other = entries.iter().any(|entry| match &entry.payload {
        Payload::Message { sealed, .. } => *sealed != question.sealed,
        _ => false,
    });
    if other { Err(request_id_reused()) } else { Ok(found) }
}

async fn run(mut waiting: mpsc::Receiver<Question>) {
    loop {
        let mut questions = Vec::with_capacity(LOOK_MAX);
        if waiting.recv_many(&mut questions, LOOK_MAX).await == 0 {
            return;
        }
        let looking = tokio::task::spawn_blocking(move || {
            for question in questions {
                let found = look(&question);
                let _ = question.reply.send(found);
            }
        });
        // A look that panics has dropped its questions, and their callers are told.
        let _ = looking.await;
    }
}
