//! Requests that are repeated by their ids: each acts once, whoever waits for it, and however long
//! that takes. Messages are not among them: a chat's log remembers theirs.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::refusal::{Refusal, internal, not_confirmed, request_id_reused, unable};
use crate::runtime::handle::Unable;

/// Ids that are remembered; the oldest that is done gives way to a new one.
const IDS_MAX: usize = 4_096;

/// What tells one request from another: a hash of the call and all that it says.
pub type Said = [u8; 32];

type Done = Arc<dyn Any + Send + Sync>;
type Outcome = Option<Result<Done, Refusal>>;

/// The latest requests. A run of the peer remembers those that are under way, and those that were
/// done; what was refused may be asked for again.
#[derive(Default)]
pub struct Repeats(Mutex<Table>);

#[derive(Default)]
struct Table {
    by_id: HashMap<String, Known>,
    /// Oldest first.
    order: VecDeque<String>,
}

struct Known {
    said: Said,
    outcome: watch::Receiver<Outcome>,
}

impl Repeats {
    /// Acts, unless a request of that id does or has; the result of the first one, as soon as
    /// there is one. What has not come to be at the deadline goes on.
    ///
    /// # Errors
    /// What the act was refused for; REQUEST_ID_REUSED where the id was another request's;
    /// NO_MAJORITY at the deadline; BUSY while all that can be remembered is under way.
    pub async fn once<T: Clone + Send + Sync + 'static>(
        self: &Arc<Self>,
        id: &str,
        said: Said,
        deadline: Option<Instant>,
        act: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let mut outcome = self.begin(id, said, act)?;
        let waiting = outcome.wait_for(Option::is_some);
        let done = match deadline {
            Some(deadline) => timeout_at(deadline, waiting).await.map_err(|_| not_confirmed(id))?,
            None => waiting.await,
        };
        match done.ok().and_then(|done| done.clone()) {
            Some(Ok(done)) => done.downcast_ref().cloned().ok_or_else(request_id_reused),
            Some(Err(refusal)) => Err(refusal),
            None => Err(internal("the request was interrupted")),
        }
    }

    fn begin<T: Clone + Send + Sync + 'static>(
        self: &Arc<Self>,
        id: &str,
        said: Said,
        act: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<watch::Receiver<Outcome>, Refusal> {
        let mut table = self.lock();
        if let Some(known) = table.by_id.get(id) {
            return if known.said == said {
                Ok(known.outcome.clone())
            } else {
                Err(request_id_reused())
            };
        }
        table.make_room()?;
        let (result, outcome) = watch::channel(None);
        table.by_id.insert(id.to_owned(), Known { said, outcome: outcome.clone() });
        table.order.push_back(id.to_owned());
        drop(table);
        let unless_done = Forget(Some((Arc::clone(self), id.to_owned())));
        tokio::spawn(async move {
            let mut unless_done = unless_done;
            let acted = act.await;
            if acted.is_ok() {
                unless_done.0 = None;
            }
            // Whoever hears that it came to nothing may ask again at once.
            drop(unless_done);
            result.send_replace(Some(acted.map(|done| Arc::new(done) as Done)));
        });
        Ok(outcome)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a request whose act has not come to a result: it was refused, or it panicked.
struct Forget(Option<(Arc<Repeats>, String)>);

impl Drop for Forget {
    fn drop(&mut self) {
        if let Some((repeats, id)) = self.0.take() {
            repeats.lock().remove(&id);
        }
    }
}

impl Table {
    fn make_room(&mut self) -> Result<(), Refusal> {
        if self.order.len() < IDS_MAX {
            return Ok(());
        }
        let is_done = |known: &Known| known.outcome.borrow().is_some();
        let done = self.order.iter().find(|id| self.by_id.get(*id).is_none_or(is_done)).cloned();
        self.remove(&done.ok_or_else(|| unable(Unable::Busy))?);
        Ok(())
    }

    fn remove(&mut self, id: &str) {
        self.by_id.remove(id);
        self.order.retain(|known| known != id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::wire::reason::Reason;

    fn reason<T>(result: Result<T, Refusal>) -> Option<Reason> {
        result.err().map(|refusal| refusal.reason)
    }

    #[tokio::test]
    async fn a_request_acts_once_however_often_it_is_made() {
        let repeats = Arc::new(Repeats::default());
        let (acts, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let act = || {
            let (acts, gate) = (Arc::clone(&acts), Arc::clone(&gate));
            async move {
                let number = acts.fetch_add(1, Ordering::SeqCst);
                let _free = gate.acquire().await;
                Ok(number)
            }
        };
        // Nothing has come of it at the first two deadlines, and it goes on.
        for _ in 0..2 {
            let soon = Some(Instant::now() + Duration::from_millis(20));
            let late = repeats.once("a", [1; 32], soon, act()).await;
            assert_eq!(reason(late), Some(Reason::NoMajority));
        }
        gate.add_permits(1);
        for _ in 0..2 {
            assert_eq!(repeats.once("a", [1; 32], None, act()).await.ok(), Some(0));
        }
        assert_eq!(repeats.once("b", [1; 32], None, act()).await.ok(), Some(1));
        let other = repeats.once("a", [2; 32], None, act()).await;
        assert_eq!(reason(other), Some(Reason::RequestIdReused));
        assert_eq!(acts.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_was_refused_may_be_asked_for_again() {
        let repeats = Arc::new(Repeats::default());
        let refused = repeats.once("a", [1; 32], None, async { Err::<(), _>(internal("no")) });
        assert_eq!(reason(refused.await), Some(Reason::Internal));
        assert_eq!(repeats.once("a", [2; 32], None, async { Ok(7) }).await.ok(), Some(7));
    }

    #[tokio::test]
    async fn an_act_that_panics_may_be_asked_for_again() {
        let repeats = Arc::new(Repeats::default());
        let torn = repeats.once("a", [1; 32], None, async { panic!("a mistake in an act") });
        assert_eq!(reason::<()>(torn.await), Some(Reason::Internal));
        assert_eq!(repeats.once("a", [1; 32], None, async { Ok(7) }).await.ok(), Some(7));
        assert_eq!(repeats.lock().order.len(), 1);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_what_is_under_way_stays() {
        let repeats = Arc::new(Repeats::default());
        let pending = || std::future::pending::<Result<(), Refusal>>();
        let begun = repeats.begin("first", [0; 32], pending());
        assert!(begun.is_ok());
        for number in 1..=IDS_MAX {
            let done = repeats.once(&number.to_string(), [0; 32], None, async { Ok(()) }).await;
            assert!(done.is_ok(), "{number}");
        }
        let table = repeats.lock();
        assert_eq!(table.order.len(), IDS_MAX);
        assert!(table.by_id.contains_key("first") && !table.by_id.contains_key("1"));
        drop(table);
        let full = Arc::new(Repeats::default());
        for number in 0..IDS_MAX {
            assert!(full.begin(&number.to_string(), [0; 32], pending()).is_ok());
        }
        assert_eq!(reason(full.begin("more", [0; 32], pending())), Some(Reason::Busy));
    }
}
