//! The request ids that this peer's programs have used lately, with what became of each.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::handle::ProposalResult;
use crate::protocol::event::Recovered;
use crate::protocol::types::{Index, Number, Payload, PeerId, Submission};

/// With so many ids in memory, the oldest are forgotten that the store has, down to the second
/// number. More stay where more wait, or are not in the store yet.
const REQUESTS_MAX: usize = 16_384;
const REQUESTS_KEPT: usize = 8_192;

/// Recent requests by id. What is not here and was not in the store when somebody looked there is
/// new, unless ids were forgotten in between: `forgotten` tells.
#[derive(Default)]
pub struct Requests {
    by_id: HashMap<String, Known>,
    /// Those of this incarnation.
    by_number: HashMap<Number, String>,
    order: VecDeque<(String, Option<Number>)>,
    /// What is committed up to here is in the store, with its ids.
    stored: Index,
    forgotten: Arc<AtomicU64>,
}

/// What is known of one request.
#[derive(Clone, Copy)]
struct Known {
    result: ProposalResult,
    said: Digest,
}

/// Tells what one request wants said from what another does, within one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(u64);

impl Digest {
    pub fn of(payload: &Payload) -> Self {
        let mut hasher = DefaultHasher::new();
        if let Payload::Message { sealed, .. } = payload {
            sealed.hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

impl Requests {
    /// What a store has that is not in its table of request ids: what waits in the outbox, or is
    /// committed by a recovery (R30) and was waiting there.
    pub fn of(recovered: &Recovered, me: PeerId) -> Self {
        let mut requests = Self::default();
        let committed = recovered.entries.iter().filter(|entry| entry.index <= recovered.commit);
        let own = committed.filter(|it| it.author == me && it.incarnation == recovered.incarnation);
        let places: HashMap<_, _> = own.map(|entry| (entry.number, entry.index)).collect();
        for submission in &recovered.outbox {
            let (Some(id), number) = (request_id(submission), submission.number) else { continue };
            let said = Digest::of(&submission.payload);
            match places.get(&number) {
                Some(&index) => {
                    let result = ProposalResult { number, index: Some(index) };
                    requests.add_committed(id.to_owned(), said, result);
                }
                None => requests.add(id.to_owned(), said, number),
            }
        }
        requests
    }

    /// How many ids were forgotten so far.
    pub fn forgotten(&self) -> &Arc<AtomicU64> {
        &self.forgotten
    }

    /// What has become of a request.
    pub fn get(&self, id: &str) -> Option<ProposalResult> {
        self.by_id.get(id).map(|known| known.result)
    }

    /// Whether a request of that id has said something else.
    pub fn is_other(&self, id: &str, said: Digest) -> bool {
        self.by_id.get(id).is_some_and(|known| known.said != said)
    }

    /// Takes note of a new request.
    pub fn add(&mut self, id: String, said: Digest, number: Number) {
        self.by_number.insert(number, id.clone());
        let result = ProposalResult { number, index: None };
        self.insert(id, Known { result, said }, Some(number));
    }

    /// Takes note of a committed one that was not made in this run: until the store has it, a
    /// repeat finds it here only.
    pub fn add_committed(&mut self, id: String, said: Digest, result: ProposalResult) {
        if !self.by_id.contains_key(&id) {
            self.insert(id, Known { result, said }, None);
        }
    }

    /// The request of that number is committed.
    pub fn confirm(&mut self, number: Number, index: Index) {
        let known = self.by_number.get(&number).and_then(|id| self.by_id.get_mut(id));
        if let Some(known) = known.filter(|known| known.result.number == number) {
            known.result.index = Some(index);
        }
    }

    /// The store has everything that is committed up to there, and its ids.
    pub fn stored(&mut self, through: Index) {
        self.stored = self.stored.max(through);
    }

    fn insert(&mut self, id: String, known: Known, number: Option<Number>) {
        if self.order.len() >= REQUESTS_MAX {
            self.forget();
        }
        self.by_id.insert(id.clone(), known);
        self.order.push_back((id, number));
    }

    // Many at a time: whoever looked into the store before has to look again.
    fn forget(&mut self) {
        let before = self.order.len();
        while self.order.len() > REQUESTS_KEPT {
            let Some((id, number)) = self.order.front() else { break };
            let index = self.by_id.get(id).and_then(|known| known.result.index);
            if index.is_none_or(|index| index > self.stored) {
                break;
            }
            number.and_then(|number| self.by_number.remove(&number));
            self.by_id.remove(id);
            self.order.pop_front();
        }
        let forgotten = (before - self.order.len()) as u64;
        self.forgotten.fetch_add(forgotten, Ordering::Release);
    }
}

/// The id of the request that a submission was made by, if it is a message.
pub(super) fn request_id(submission: &Submission) -> Option<&str> {
    match &submission.payload {
        Payload::Message { request_id, .. } => Some(request_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event::Persist;
    use crate::protocol::types::{ChatId, Entry, Hash, Payload, Submission};
    use crate::storage::ChatStore;

    const SAID: Digest = Digest(1);

    #[test]
    fn a_request_that_says_something_else_is_told_apart() {
        let message = |sealed: &'static [u8]| Payload::Message {
            request_id: "a".into(),
            sealed: bytes::Bytes::from_static(sealed),
        };
        let mut requests = Requests::default();
        requests.add("a".into(), Digest::of(&message(b"x")), 1);
        assert!(!requests.is_other("a", Digest::of(&message(b"x"))));
        assert!(requests.is_other("a", Digest::of(&message(b"y"))));
        assert!(!requests.is_other("b", Digest::of(&message(b"y"))));
    }

    #[test]
    fn a_repeat_finds_the_first_result_and_the_oldest_are_forgotten_that_the_store_has() {
        let mut requests = Requests::default();
        requests.add("a".into(), SAID, 1);
        assert_eq!(requests.get("a"), Some(ProposalResult { number: 1, index: None }));
        requests.confirm(1, 9);
        assert_eq!(requests.get("a"), Some(ProposalResult { number: 1, index: Some(9) }));
        let last = REQUESTS_MAX as u64 + 1;
        for number in 2..=last {
            requests.add(number.to_string(), SAID, number);
        }
        let known = Some(ProposalResult { number: 1, index: Some(9) });
        assert_eq!(requests.get("a"), known, "the store does not have it yet");
        requests.stored(9);
        requests.add("b".into(), SAID, last + 1);
        assert_eq!((requests.get("a"), requests.forgotten().load(Ordering::Acquire)), (None, 1));
        let waiting = Some(ProposalResult { number: 2, index: None });
        assert_eq!(requests.get("2"), waiting, "what is not committed stays");
    }

    #[test]
    fn the_oldest_are_forgotten_many_at_a_time() {
        let mut requests = Requests::default();
        requests.stored(Index::MAX);
        for number in 1..=REQUESTS_MAX as u64 + 1 {
            requests.add(number.to_string(), SAID, number);
            requests.confirm(number, number);
        }
        let forgotten = requests.forgotten().load(Ordering::Acquire);
        assert_eq!(forgotten, (REQUESTS_MAX - REQUESTS_KEPT) as u64);
        assert_eq!(requests.get(&forgotten.to_string()), None);
        assert!(requests.get(&(forgotten + 1).to_string()).is_some());
    }

    #[test]
    fn a_repeat_finds_what_an_earlier_incarnation_has_said() {
        let mut requests = Requests::default();
        requests.add_committed("a".into(), SAID, ProposalResult { number: 1, index: Some(9) });
        requests.add("b".into(), SAID, 1);
        requests.confirm(1, 12);
        assert_eq!(requests.get("a"), Some(ProposalResult { number: 1, index: Some(9) }));
        assert_eq!(requests.get("b"), Some(ProposalResult { number: 1, index: Some(12) }));
    }

    /// A recovery commits what the outbox still has.
    #[test]
    fn r30_what_is_committed_and_waits_all_the_same_is_known_with_its_place() {
        const ME: PeerId = PeerId([1; 32]);
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, _) = ChatStore::create(dir.path(), ChatId([7; 16]), 3, &[]).expect("new");
        let submission = |number: Number, id: &str| {
            let sealed = bytes::Bytes::from_static(b"x");
            let payload = Payload::Message { request_id: id.into(), sealed };
            Submission { number, created_at_ms: 0, trace: None, payload, signature: None }
        };
        let mut entry = Entry {
            index: 1,
            term: 1,
            author: ME,
            incarnation: 3,
            number: 1,
            generation: 0,
            created_at_ms: 0,
            trace: None,
            payload: submission(1, "a").payload,
            signature: None,
            previous: Hash::default(),
            hash: Hash::default(),
        };
        entry.hash = entry.computed_hash();
        let persist = Persist {
            entries: vec![Arc::new(entry)],
            outbox_put: vec![submission(1, "a"), submission(2, "b")],
            commit: Some(1),
            ..Persist::default()
        };
        store.persist(&persist).expect("durable");
        let path = store.path();
        drop(store);
        let (_store, recovered) = ChatStore::open(&path).expect("it opens");
        let requests = Requests::of(&recovered, ME);
        assert_eq!(requests.get("a"), Some(ProposalResult { number: 1, index: Some(1) }));
        assert_eq!(requests.get("b"), Some(ProposalResult { number: 2, index: None }));
    }
}
