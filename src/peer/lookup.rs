//! Looks for request ids in the stores: many at a time, on a thread that may block.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::refusal::{Refusal, internal, stopping, store};
use crate::planted::{Mistake, planted};
use crate::protocol::types::Index;
use crate::runtime::handle::ChatShared;

/// Ids that wait; more wait with their callers.
const WAITING_MAX: usize = 1_024;
/// The most ids of one look.
const LOOK_MAX: usize = 256;

struct Question {
    chat: Arc<ChatShared>,
    request_id: String,
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

    /// Where the request of that id stands committed, if it does.
    pub async fn index_of(
        &self,
        chat: &Arc<ChatShared>,
        request_id: &str,
    ) -> Result<Option<Index>, Refusal> {
        if planted(Mistake::RequestsInMemoryOnly) || chat.reader.lacks_request(request_id) {
            return Ok(None);
        }
        let (reply, replied) = oneshot::channel();
        let (chat, request_id) = (Arc::clone(chat), request_id.to_owned());
        let question = Question { chat, request_id, reply };
        self.questions.send(question).await.map_err(|_| stopping())?;
        // A look that panicked has dropped its questions.
        replied.await.unwrap_or_else(|_| Err(internal("looking for a request was interrupted")))
    }
}

async fn run(mut waiting: mpsc::Receiver<Question>) {
    loop {
        let mut questions = Vec::with_capacity(LOOK_MAX);
        if waiting.recv_many(&mut questions, LOOK_MAX).await == 0 {
            return;
        }
        let looking = tokio::task::spawn_blocking(move || {
            for question in questions {
                let found = question.chat.reader.index_of_request(&question.request_id);
                let found = found.map_err(|error| store(&error));
                let _ = question.reply.send(found);
            }
        });
        // A look that panics has dropped its questions, and their callers are told.
        let _ = looking.await;
    }
}
