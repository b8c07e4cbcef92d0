//! What is to be said and cannot be said yet: what an earlier incarnation of this peer had in its
//! outbox when the chat began anew (R9, R37), and what comes before that is sorted out.
//!
//! Each of these submissions may be in the log, or not. The host ends an incarnation's submissions
//! where its successor joins, so that the log up to there says it. Until it has come that far,
//! nobody can tell a new request from one that is repeated. So whatever is said meanwhile is made
//! durable behind what is carried, and a repeat of it is bound to it. Then all that the log lacks
//! is said again, with a new number and in its order, and becomes part of the outbox in the same
//! write that forgets that it was carried. What comes later stands behind it.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::oneshot;

use super::chat::Chat;
use super::driver::Io;
use super::handle::{ProposalRequest, ProposalResult, Unable, Wait};
use super::journal::Done;
use super::proposing::Waiting;
use super::requests::{Digest, request_id};
use crate::planted::{Mistake, planted};
use crate::protocol::event::{Event, Proposal, ProposeError};
use crate::protocol::sign::{needs_signature, signed_submission};
use crate::protocol::time::Instant;
use crate::protocol::types::{
    Course, Entry, Incarnation, Index, MemberState, Membership, Payload, PeerId, Submission,
};
use crate::storage::{ChatReader, StorageError};

/// How much of the log is read at a time.
const READ_BYTES: usize = 1 << 20;

/// What is carried, in its order, and who waits for it.
#[derive(Default)]
pub(super) struct Carried {
    items: Vec<Item>,
    /// So many of the first may be in the log. What came when the log was known up to this
    /// incarnation's Join is new.
    doubtful: usize,
    /// What the log says up to this incarnation's Join has passed by here, or is in the store.
    is_log_known: bool,
    /// The log is being read.
    is_locating: bool,
    by_id: HashMap<String, Ticket>,
    waiting: BTreeMap<Ticket, Vec<Waiting>>,
    /// Tickets up to this one are durable, and `stored` of them were there at the start.
    durable_through: Ticket,
    stored: Ticket,
    last: Ticket,
    /// All are in the outbox, or in the log, with the next write.
    is_ending: bool,
}

/// Counts what is carried, from 1 on.
type Ticket = u64;

struct Item {
    ticket: Ticket,
    submission: Submission,
}

impl Carried {
    /// What the store carries, in its order. What is in the outbox as well is there already.
    pub fn new(submissions: Vec<Submission>, outbox: &[Submission]) -> Self {
        let mut known: HashSet<&str> = outbox.iter().filter_map(request_id).collect();
        let mut new = Vec::new();
        for submission in &submissions {
            if request_id(submission).is_none_or(|id| known.insert(id)) {
                new.push(submission.clone());
            }
        }
        let is_ending = new.is_empty() && !submissions.is_empty();
        let mut carried = Self { is_ending, ..Self::default() };
        for submission in new {
            carried.add(submission);
        }
        carried.doubtful = carried.items.len();
        (carried.stored, carried.durable_through) = (carried.last, carried.last);
        carried
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the write that is made now is the one that forgets them.
    pub fn ends_with_this_write(&mut self) -> bool {
        std::mem::take(&mut self.is_ending)
    }

    /// Forgets who waits no more.
    pub fn sweep(&mut self) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|waiting| !waiting.reply.is_closed());
            !waiting.is_empty()
        });
    }

    /// Takes whoever waits.
    pub fn take_waiting(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        std::mem::take(&mut self.waiting).into_values().flatten()
    }

    fn add(&mut self, submission: Submission) -> Ticket {
        self.last += 1;
        let ticket = self.last;
        if let Some(id) = request_id(&submission) {
            self.by_id.insert(id.to_owned(), ticket);
        }
        self.items.push(Item { ticket, submission });
        ticket
    }

    fn wait(
        &mut self,
        ticket: Ticket,
        wait: Wait,
        reply: oneshot::Sender<Result<ProposalResult, Unable>>,
    ) {
        if wait == Wait::Queued && ticket <= self.durable_through {
            let _ = reply.send(Ok(QUEUED));
        } else {
            self.waiting.entry(ticket).or_default().push(Waiting { wait, reply });
        }
    }

    /// Whether this peer wants to leave once it can.
    fn has_leaving(&self) -> bool {
        let leaving = Payload::Membership(Membership::Leaving);
        self.items.iter().any(|item| item.submission.payload == leaving)
    }

    /// So many have become durable since the start.
    fn became_durable(&mut self, count: u64) {
        self.durable_through = self.stored + count;
        for (_, waiting) in self.waiting.range_mut(..=self.durable_through) {
            for done in waiting.extract_if(.., |waiting| waiting.wait == Wait::Queued) {
                let _ = done.reply.send(Ok(QUEUED));
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
    }
}

/// What stands nowhere yet and is durable has no number.
const QUEUED: ProposalResult = ProposalResult { number: 0, index: None };

impl Chat {
    /// Takes note of whether the log has come up to this incarnation's Join. Until then nobody
    /// knows which requests an earlier one has made. It is to be called when everything that is
    /// committed so far has been executed: before, the requests in it are not known.
    pub fn note_join(&mut self, me: PeerId) {
        if self.carried.is_log_known {
            return;
        }
        let member = self.replica.log().state().members.get(&me);
        self.carried.is_log_known = member.is_some_and(|member| {
            member.incarnation == self.shared.incarnation && member.state != MemberState::Invited
        });
        self.touched |= self.carried.is_log_known;
    }

    /// Whether a proposal goes into the outbox at once.
    pub fn is_settled(&self) -> bool {
        (self.carried.is_empty() || planted(Mistake::CarriedOvertaken)) && self.carried.is_log_known
    }

    /// Binds a proposal to what it repeats of what is carried. Gives it back if it does not.
    pub fn repeat_carried(
        &mut self,
        proposal: &ProposalRequest,
        reply: oneshot::Sender<Result<ProposalResult, Unable>>,
    ) -> Option<oneshot::Sender<Result<ProposalResult, Unable>>> {
        let ticket = proposal.request_id.as_deref().and_then(|id| self.carried.by_id.get(id));
        let Some(&ticket) = ticket.filter(|_| !planted(Mistake::CarriedNotKnown)) else {
            return Some(reply);
        };
        let mut items = self.carried.items.iter();
        let item = items.find(|item| item.ticket == ticket);
        if item.is_some_and(|item| item.submission.payload != proposal.payload) {
            let _ = reply.send(Err(Unable::RequestReused));
            return None;
        }
        self.carried.wait(ticket, proposal.wait, reply);
        None
    }

    /// Keeps a proposal behind what is carried.
    pub fn carry(
        &mut self,
        proposal: ProposalRequest,
        reply: oneshot::Sender<Result<ProposalResult, Unable>>,
    ) {
        let is_doubtful = !self.carried.is_log_known;
        if let Err(error) = self.can_carry(is_doubtful, &proposal.payload) {
            let _ = reply.send(Err(Unable::Propose(error)));
            return;
        }
        let ProposalRequest { payload, created_at_ms, trace, wait, .. } = proposal;
        let submission = Submission { number: 0, created_at_ms, trace, payload, signature: None };
        self.journal.carry(submission.clone());
        let ticket = self.carried.add(submission);
        if is_doubtful {
            self.carried.doubtful = self.carried.len();
        }
        self.carried.wait(ticket, wait, reply);
        self.touched = true;
    }

    fn can_carry(&self, is_doubtful: bool, payload: &Payload) -> Result<(), ProposeError> {
        // An incarnation that has given numbers away had joined: another has taken its place (R9),
        // and what waits in its outbox was said before.
        let is_outlived = is_doubtful && self.replica.next_number() > 1;
        if is_outlived || self.carried.has_leaving() {
            return Err(ProposeError::NotMember);
        }
        if !is_doubtful {
            self.replica.can_propose(payload)?;
        }
        self.replica.can_keep(self.carried.len())
    }

    /// So many proposals have become durable since the start.
    pub fn on_carried(&mut self, count: u64) {
        self.carried.became_durable(count);
    }

    /// Begins to look for what is carried once the log is known up to this incarnation's Join, and
    /// says again what is left as soon as the chat takes it.
    pub fn settle(&mut self, now: Instant, io: &Io) {
        let carried = &self.carried;
        if carried.is_empty() || !carried.is_log_known || carried.is_locating {
            return;
        }
        if carried.doubtful > 0 {
            self.locate(io.identity.peer_id(), io);
        } else {
            self.say_again(now, io);
        }
    }

    fn locate(&mut self, me: PeerId, io: &Io) {
        let incarnation = self.shared.incarnation;
        let member = self.replica.log().state().members.get(&me);
        let Some(through) = member.map(|member| member.since) else { return };
        if through > self.shared.feed.stored_through() {
            return; // the disk may have what was cut since
        }
        self.carried.is_locating = true;
        let doubtful = self.carried.items[..self.carried.doubtful].iter();
        let submissions: Vec<_> = doubtful.map(|item| item.submission.clone()).collect();
        let (chat, reader) = (self.id, self.shared.reader.clone());
        io.beside(move || {
            Some(match places(&reader, me, incarnation, through, &submissions) {
                Err(error) if error.needs_repair() => Done::Damaged { chat, incarnation },
                found => Done::Located { chat, incarnation, found: found.ok().flatten() },
            })
        });
    }

    /// The log has been read. Where it was not there yet, it is read again later.
    pub fn on_located(&mut self, found: Option<Vec<Option<Index>>>) {
        self.carried.is_locating = false;
        let Some(found) = found.filter(|found| found.len() == self.carried.doubtful) else {
            return;
        };
        self.touched = true;
        let left = self.carried.items.split_off(self.carried.doubtful);
        self.carried.doubtful = 0;
        let items = std::mem::take(&mut self.carried.items);
        for (item, index) in items.into_iter().zip(found) {
            let Some(index) = index else {
                self.carried.items.push(item);
                continue;
            };
            let result = ProposalResult { number: item.submission.number, index: Some(index) };
            if let Some(id) = request_id(&item.submission) {
                self.carried.by_id.remove(id);
                let said = Digest::of(&item.submission.payload);
                self.requests.add_committed(id.to_owned(), said, result);
            }
            for waiting in self.carried.waiting.remove(&item.ticket).into_iter().flatten() {
                let _ = waiting.reply.send(Ok(result));
            }
        }
        self.carried.items.extend(left);
        self.carried.is_ending = self.carried.is_empty();
    }

    fn say_again(&mut self, now: Instant, io: &Io) {
        let refused = |item: &Item| self.replica.can_propose(&item.submission.payload).is_err();
        if self.carried.items.iter().any(refused) {
            return;
        }
        let items = std::mem::take(&mut self.carried.items);
        self.carried.by_id.clear();
        self.carried.is_ending = true;
        tracing::info!(chat = ?self.id, count = items.len(), "says what has waited for the log");
        for Item { ticket, submission } in items {
            let Submission { created_at_ms, trace, payload, .. } = submission;
            let number = self.replica.next_number();
            if let Payload::Message { request_id, .. } = &payload {
                self.requests.add(request_id.clone(), Digest::of(&payload), number);
            }
            if let Some(waiting) = self.carried.waiting.remove(&ticket) {
                self.waiting.insert(number, waiting);
            }
            self.put(now, Proposal { payload, created_at_ms, trace, signature: None }, io);
        }
    }

    /// Puts a proposal, signed where that must be, into the outbox.
    pub fn put(&mut self, now: Instant, mut proposal: Proposal, io: &Io) {
        let number = self.replica.next_number();
        proposal.signature = needs_signature(&proposal.payload).then(|| {
            let (me, incarnation) = (io.identity.peer_id(), self.shared.incarnation);
            let payload = &proposal.payload;
            let course = Course { chat: self.id, generation: self.replica.generation() };
            io.identity.sign(&signed_submission(course, me, incarnation, number, payload))
        });
        if let Some(measures) = &mut self.measures {
            measures.set_now(now);
            measures.on_proposed(number);
        }
        self.handle(now, Event::Propose(proposal));
    }
}

/// Where each of `submissions` stands in the log up to `through`, said by another incarnation of
/// `me`; `None` where the log on the disk does not reach that far yet.
fn places(
    reader: &ChatReader,
    me: PeerId,
    incarnation: Incarnation,
    through: Index,
    submissions: &[Submission],
) -> Result<Option<Vec<Option<Index>>>, StorageError> {
    if reader.entries(through, through, READ_BYTES)?.is_empty() {
        return Ok(None);
    }
    let messages = submissions.iter().zip(0..);
    let messages =
        messages.filter_map(|(submission, place)| Some((request_id(submission)?, place)));
    let messages: HashMap<&str, usize> = messages.collect();
    let mut found = vec![None; submissions.len()];
    let mut next = 1;
    while next <= through {
        let entries = reader.entries(next, through, READ_BYTES)?;
        if entries.is_empty() {
            return Ok(None);
        }
        for entry in entries.iter().filter(|e| e.author == me && e.incarnation != incarnation) {
            let place = match &entry.payload {
                _ if planted(Mistake::CarriedByNumber) => {
                    submissions.iter().position(|it| it.number == entry.number)
                }
                Payload::Message { request_id, .. } => messages.get(request_id.as_str()).copied(),
                _ => submissions.iter().position(|submission| is_of(entry, submission)),
            };
            if let Some(place) = place {
                found[place].get_or_insert(entry.index);
            }
        }
        next += entries.len() as Index;
    }
    Ok(Some(found))
}

// The number says nothing: the entry may have been said again under another one before, and an old
// copy of this peer's disk gives numbers away twice. A message is told by its request.
/// Whether the entry, which is no message, was made from the submission.
fn is_of(entry: &Entry, submission: &Submission) -> bool {
    entry.created_at_ms == submission.created_at_ms && entry.payload == submission.payload
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::sync::Arc;

    use super::*;
    use crate::crypto::Identity;
    use crate::protocol::config::Config;
    use crate::protocol::event::{LinkState, Persist};
    use crate::protocol::founding::founding_entry;
    use crate::protocol::message::{Announce, Append, Body, Message};
    use crate::protocol::types::{ChatId, Hash, Policy, Position, Reign, SignedVote};
    use crate::runtime::driver::{DriverOptions, start};
    use crate::runtime::handle::NewChat;
    use crate::storage::ChatStore;

    const ME: PeerId = PeerId([1; 32]);
    const OTHER: PeerId = PeerId([2; 32]);

    fn message(id: &str) -> Payload {
        Payload::Message { request_id: id.into(), sealed: bytes::Bytes::from_static(b"x") }
    }

    fn policy(name: &str) -> Payload {
        Payload::Policy(Policy::named(name))
    }

    fn submission(number: u64, payload: Payload) -> Submission {
        Submission { number, created_at_ms: number, trace: None, payload, signature: None }
    }

    /// A store with these entries: author, incarnation, number, payload.
    fn store(entries: &[(PeerId, u64, u64, Payload)]) -> (tempfile::TempDir, ChatStore) {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, _) = ChatStore::create(dir.path(), ChatId([7; 16]), 3, &[]).expect("new");
        let mut log: Vec<Arc<Entry>> = Vec::new();
        for ((author, incarnation, number, payload), index) in entries.iter().cloned().zip(1..) {
            let mut entry = Entry {
                index,
                term: 1,
                author,
                incarnation,
                number,
                generation: 0,
                created_at_ms: number,
                trace: None,
                payload,
                signature: None,
                previous: log.last().map_or(Hash::default(), |entry| entry.hash),
                hash: Hash::default(),
            };
            entry.hash = entry.computed_hash();
            log.push(Arc::new(entry));
        }
        store.persist(&Persist { entries: log, ..Persist::default() }).expect("durable");
        (dir, store)
    }

    #[test]
    fn r9_what_the_log_has_of_an_earlier_incarnation_is_found_by_its_request() {
        let (_dir, store) = store(&[
            (ME, 1, 1, message("a")),
            (OTHER, 1, 1, message("b")),
            // Said again before, under another number.
            (ME, 2, 1, message("c")),
            (ME, 2, 2, policy("x")),
            (ME, 3, 1, message("d")),
            (ME, 2, 9, message("late")),
        ]);
        let submissions = [
            submission(1, message("a")),
            submission(2, message("b")),
            submission(7, message("c")),
            submission(2, policy("x")),
            submission(3, policy("x")),
            submission(5, message("d")),
            submission(9, message("late")),
        ];
        let found = places(&store.reader(), ME, 3, 5, &submissions).expect("it reads");
        let expected = vec![Some(1), None, Some(3), Some(4), None, None, None];
        assert_eq!(found, Some(expected));
        let beyond = places(&store.reader(), ME, 3, 7, &submissions).expect("it reads");
        assert_eq!(beyond, None, "the log does not reach that far yet");
    }

    #[test]
    fn r37_what_is_carried_counts_once_and_what_is_new_stands_behind_it() {
        let carried = ["a", "b", "a", "c"].map(|id| submission(1, message(id)));
        let outbox = [submission(1, message("b"))];
        let mut carried = Carried::new(carried.into(), &outbox);
        assert_eq!((carried.len(), carried.doubtful, carried.is_ending), (2, 2, false));
        let ticket = carried.add(submission(0, message("new")));
        assert_eq!((ticket, carried.len(), carried.doubtful), (3, 3, 2));

        // What was there is durable; what is new waits for its sync.
        let mut ask = |ticket, wait| {
            let (reply, mut replied) = oneshot::channel();
            carried.wait(ticket, wait, reply);
            (replied.try_recv().is_ok(), replied)
        };
        assert!(ask(1, Wait::Queued).0);
        assert!(!ask(1, Wait::Committed).0);
        let (told, mut queued) = ask(3, Wait::Queued);
        assert!(!told);
        let (_, mut committed) = ask(3, Wait::Committed);
        carried.became_durable(1);
        assert_eq!(queued.try_recv(), Ok(Ok(QUEUED)));
        assert!(committed.try_recv().is_err(), "nobody has committed it");

        let mut over = Carried::new(vec![submission(1, message("b"))], &outbox);
        assert!(over.is_empty() && over.ends_with_this_write() && !over.ends_with_this_write());
    }

    /// The log comes up to this incarnation's Join and a request that stands in it is repeated,
    /// both in one turn of the loop.
    #[tokio::test]
    async fn r9_a_repeat_in_the_turn_in_which_the_log_is_known_is_found() {
        const HOST: PeerId = PeerId([9; 32]);
        let dir = tempfile::tempdir().expect("a directory");
        let identity = Arc::new(Identity::load_or_create(dir.path()).expect("a key"));
        let me = identity.peer_id();
        let options = DriverOptions { identity, config: Config::default(), keep_seat: false };
        let (handle, _reports) = start(options);

        let text = String::from("x:1");
        let founded =
            founding_entry(HOST, 1, text.clone(), text.clone(), text.clone(), 0, |_| [0; 64]);
        let (chat, first) = founded;
        let mut log = vec![Arc::new(first)];
        let joined = || Membership::Joined { name: "x".into(), address: "x:1".into(), proof: None };
        let vote = SignedVote { incarnation: 1, signature: [0; 64] };
        for (author, incarnation, number, payload) in [
            (HOST, 1, 0, Payload::TermStart(Reign { last_term: 0, votes: [(HOST, vote)].into() })),
            (HOST, 1, 1, Payload::Membership(Membership::Invited { peer: me, address: text })),
            (me, 2, 0, Payload::Membership(joined())),
            (me, 2, 1, message("a")),
            (me, 3, 0, Payload::Membership(joined())),
        ] {
            let last = log.last().expect("there is a first one");
            let mut entry = Entry {
                index: last.index + 1,
                term: 1,
                author,
                incarnation,
                number,
                generation: 0,
                created_at_ms: 1,
                trace: None,
                payload,
                signature: None,
                previous: last.hash,
                hash: Hash::default(),
            };
            entry.hash = entry.computed_hash();
            log.push(Arc::new(entry));
        }

        let (store, recovered) = ChatStore::create(dir.path(), chat, 3, &[]).expect("new");
        let contacts = vec![(HOST, "x:1".to_owned())];
        let new = NewChat { id: chat, store, recovered, contacts, carried: Vec::new() };
        handle.add(new).await.expect("it runs");
        handle.link(HOST, LinkState::Up).await;
        let from_host = |body| Message {
            from: HOST,
            from_incarnation: 1,
            from_boot: 1,
            to: me,
            to_incarnation: 3,
            generation: 0,
            call: 0,
            words: Vec::new(),
            body,
        };
        let announce = from_host(Body::Announce(Announce { term: 1, reign: None }));
        handle.deliver(chat, announce).await.expect("the loop runs");
        handle.view(chat).await.expect("it has been attached to");
        let append = from_host(Body::Append(Append {
            term: 1,
            attach: 1,
            previous: Position::default(),
            commit: log.len() as u64,
            entries: log,
            past: None,
            reign: None,
            last: None,
        }));
        let shared = handle.chat(chat).expect("it runs");
        let proposal = ProposalRequest {
            request_id: Some("a".into()),
            looked: Some(shared.looked()),
            payload: message("a"),
            created_at_ms: 2,
            trace: None,
            wait: Wait::Committed,
        };
        // Neither yields to the loop before both are there.
        handle.deliver(chat, append).await.expect("the loop runs");
        let found = tokio::time::timeout(Duration::from_secs(60), handle.propose(chat, proposal));
        let found = found.await.expect("the log is taken").expect("it is found");
        assert_eq!(found.index, Some(5));
        assert_eq!(handle.view(chat).await.expect("it runs").status.queued, 0);
    }
}
