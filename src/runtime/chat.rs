//! One chat in the loop: its replica, and how the loop executes what the replica wants.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;
use tracing::Span;

use super::absences::Absences;
use super::carry::Carried;
use super::driver::{Ended, Io};
use super::handle::{Answerer, ChatShared, ChatView, ProposalResult, Unable};
use super::journal::Journal;
use super::lanes::Lane;
use super::measure::Measures;
use super::proposing::Waiting;
use super::requests::{Digest, Requests};
use super::send_queue::dropped;
use super::spans::Spans;
use crate::crypto::Identity;
use crate::protocol::event::{DiskState, Event, Notice, ProposeError, Ready};
use crate::protocol::message::{Body, Heartbeat, Message, Submit};
use crate::protocol::replica::Replica;
use crate::protocol::sign::{signed_hand_over, signed_past, signed_submission};
use crate::protocol::time::{Instant, MS, Micros};
use crate::protocol::types::{
    CallId, ChatId, Course, Entry, Incarnation, Index, Member, Number, Past, Payload, PeerId,
    TraceContext,
};

/// R24: how long a sync may take before the host hands over, before it pauses, and before the
/// process ends.
const SYNC_STALLING_US: Micros = 500 * MS;
const SYNC_STALLED_US: Micros = 2_000 * MS;
pub(super) const SYNC_DEAD_US: Micros = 20_000 * MS;

/// Peers to dial that the log does not name.
const CONTACTS_MAX: usize = 64;
/// A chat's view is renewed at most this often, unless the host or the members changed.
const VIEW_US: Micros = 50 * MS;
/// What people are told of two running peers with one key.
const KEY_IN_USE: &str = "another running peer has this one's key, and takes part in its place: \
                          stop one of the two, and begin that one anew with a key of its own";

/// One chat.
pub(super) struct Chat {
    pub id: ChatId,
    pub replica: Replica,
    pub journal: Journal,
    pub shared: Arc<ChatShared>,
    pub view: watch::Sender<Arc<ChatView>>,
    /// Members of the committed log, as of the newest notice.
    pub members: Arc<BTreeMap<PeerId, Member>>,
    /// Peers to ask before the log says who the members are.
    pub contacts: Vec<(PeerId, String)>,
    pub requests: Requests,
    /// `Ready`s that are being written, or stand behind one that is.
    pub pending: VecDeque<Pending>,
    pub streams: HashMap<PeerId, Streams>,
    pub waiting: BTreeMap<Number, Vec<Waiting>>,
    /// Proposals up to this number are durable in the outbox.
    pub queued_through: Number,
    pub disk: DiskState,
    pub fault: &'static str,
    pub absences: Absences,
    pub view_at: Instant,
    pub view_due: Option<Instant>,
    pub may_stop: bool,
    /// Why the loop must end the chat, once it must.
    pub ended: Option<Ended>,
    /// Somebody has removed this peer: the chat can still be read, and that is all.
    pub read_only: bool,
    pub carried: Carried,
    /// None while metrics are off.
    pub measures: Option<Box<Measures>>,
    /// What traces are shown; nothing while they are off.
    pub spans: Option<Box<Spans>>,
    pub touched: bool,
}

/// What waits for a sync.
pub(super) struct Pending {
    ready: u64,
    /// Whether the storage thread has a job for it.
    written: bool,
    since: Instant,
    /// The commit index that it writes down, and the last of the entries.
    commit: Option<Index>,
    last: Option<Index>,
    messages: Vec<Message>,
    notices: Vec<Notice>,
    /// What is traced of it; the spans end with this.
    _spans: Vec<Span>,
}

/// What a member is sent here, over the streams that its peer shares with this one.
#[derive(Default)]
pub(super) struct Streams {
    replicate: Option<Arc<Lane>>,
    heartbeats: Option<Arc<Lane>>,
}

impl Chat {
    /// Lets something happen.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.touched = true;
        self.replica.handle(now, event);
    }

    /// Lets a message arrive, by a call with this context.
    pub fn receive(&mut self, now: Instant, message: Message, call: TraceContext) {
        if let Some(spans) = &mut self.spans {
            spans.receive(&message, call);
        }
        self.handle(now, Event::Message(message));
    }

    /// Whether the peer matters in this chat.
    pub fn knows(&self, peer: &PeerId) -> bool {
        let is_contact = || self.contacts.iter().any(|(other, _)| other == peer);
        !self.read_only && (self.members.contains_key(peer) || is_contact())
    }

    /// Takes a peer, whose joining is not in the log here yet, for a contact. The longest known of
    /// too many is given up: whoever needs to be dialled says so again.
    pub fn dial_stranger(&mut self, stranger: PeerId, address: String) {
        let members = &self.members;
        self.contacts.retain(|(peer, _)| !members.contains_key(peer) && *peer != stranger);
        if !self.members.contains_key(&stranger) {
            let surplus = (self.contacts.len() + 1).saturating_sub(CONTACTS_MAX);
            self.contacts.drain(..surplus);
            self.contacts.push((stranger, address));
        }
    }

    /// Executes everything that the replica wants, and shows what changed.
    pub fn run(&mut self, now: Instant, io: &mut Io) {
        self.touched = false;
        self.set_now(now);
        self.settle(now, io);
        let ready = self.replica.take_ready();
        if !ready.is_empty() {
            self.execute(now, ready, io);
        }
        self.note_join(io.identity.peer_id());
        if self.view_due.is_none() {
            self.view_due = Some((self.view_at + VIEW_US).max(now));
        }
        if self.view_due.is_some_and(|due| due <= now) {
            self.show(now);
        }
    }

    /// When the chat wants the loop's attention at the latest.
    pub fn timeout(&self) -> Option<Instant> {
        let disk = self.oldest_sync().map(|since| match self.disk {
            DiskState::Stalling => since + SYNC_STALLED_US,
            DiskState::Stalled => since + SYNC_DEAD_US,
            DiskState::Fit | DiskState::Full => since + SYNC_STALLING_US,
        });
        [self.replica.poll_timeout(), disk, self.view_due].into_iter().flatten().min()
    }

    /// Looks at the clock. The error is why the process must end.
    pub fn on_time(&mut self, now: Instant, disk_full: bool) -> Result<(), String> {
        if self.replica.poll_timeout().is_some_and(|due| due <= now) {
            self.handle(now, Event::Tick);
        }
        if self.view_due.is_some_and(|due| due <= now) {
            self.show(now);
        }
        let waited = self.oldest_sync().map_or(0, |since| now.since(since));
        if waited >= SYNC_DEAD_US {
            return Err("the disk has not finished a write for 20 seconds".to_owned());
        }
        let disk = if waited >= SYNC_STALLED_US {
            DiskState::Stalled
        } else if waited >= SYNC_STALLING_US {
            DiskState::Stalling
        } else if disk_full {
            DiskState::Full
        } else {
            DiskState::Fit
        };
        if disk != self.disk {
            self.disk = disk;
            self.handle(now, Event::Disk(disk));
        }
        Ok(())
    }

    /// A sync came back: what relied on it happens, in order, and then the replica hears of it.
    pub fn on_persisted(&mut self, now: Instant, ready: u64, sync_us: Micros, io: &mut Io) {
        self.set_now(now);
        while let Some(pending) = self.pending.front() {
            if pending.written && pending.ready > ready {
                break;
            }
            let pending = self.pending.pop_front().expect("there is a first one");
            if let Some(commit) = pending.commit {
                self.requests.stored(commit);
            }
            if let Some(last) = pending.last {
                io.committed |= self.shared.feed.stored(last);
            }
            self.finish(pending.messages, pending.notices, io);
            if pending.written {
                self.handle(now, Event::Persisted { ready: pending.ready, sync_us });
            }
        }
        // R24: the next sync begins now. What waited for this one does not make that one slow.
        if let Some(next) = self.pending.front_mut() {
            next.since = now;
        }
    }

    /// A member attaches: what was on its way for an older attach is forgotten.
    pub fn open_replicate(&mut self, member: PeerId, lane: Arc<Lane>) {
        let streams = self.streams.entry(member).or_default();
        lane.clear();
        replace_lane(&mut streams.replicate, lane);
    }

    /// A member asks for heartbeats.
    pub fn open_heartbeats(&mut self, member: PeerId, lane: Arc<Lane>) {
        let streams = self.streams.entry(member).or_default();
        replace_lane(&mut streams.heartbeats, lane);
    }

    /// Forgets streams that nobody reads any more, and looks whether a reader has found damage.
    pub fn sweep(&mut self) {
        if self.shared.reader.is_damaged() {
            self.end(Ended::Damaged);
        }
        self.touched |= !self.carried.is_empty();
        self.carried.sweep();
        if let Some(spans) = &mut self.spans {
            spans.sweep();
        }
        self.streams.retain(|_, streams| {
            for lane in [&mut streams.replicate, &mut streams.heartbeats] {
                lane.take_if(|lane| lane.is_over());
            }
            streams.replicate.is_some() || streams.heartbeats.is_some()
        });
        self.waiting.retain(|_, waiting| {
            waiting.retain(|waiting| !waiting.reply.is_closed());
            !waiting.is_empty()
        });
    }

    /// Ends the chat's streams.
    pub fn close(&mut self) {
        self.close_streams(|_| true);
    }

    /// Ends the chat as it is. The file is closed when the thread that writes it has ended.
    pub fn into_thread(mut self) -> JoinHandle<()> {
        self.close();
        self.shared.reader.close();
        self.journal.end()
    }

    /// Ends the streams of those who are no members any more. What was on its way still arrives.
    pub fn close_streams_of_others(&mut self, members: &BTreeMap<PeerId, Member>) {
        self.close_streams(|peer| !members.contains_key(peer));
    }

    fn close_streams(&mut self, of: impl Fn(&PeerId) -> bool) {
        for (_, streams) in self.streams.extract_if(|peer, _| of(peer)) {
            [streams.replicate, streams.heartbeats].iter().flatten().for_each(|lane| lane.end());
        }
    }

    fn set_now(&mut self, now: Instant) {
        if let Some(measures) = &mut self.measures {
            measures.set_now(now);
        }
    }

    fn oldest_sync(&self) -> Option<Instant> {
        self.pending.front().map(|pending| pending.since)
    }

    // The order is that of `Ready`'s fields; see its contract.
    fn execute(&mut self, now: Instant, ready: Ready, io: &mut Io) {
        if let Some(spans) = &mut self.spans {
            spans.begin(&ready, || self.replica.status().generation);
        }
        let traced = self.spans.as_mut().map_or_else(Vec::new, |spans| spans.write(&ready));
        for message in ready.early {
            self.route(message, io);
        }
        if !ready.committed.is_empty() {
            if let Some(spans) = &mut self.spans {
                spans.commit(&ready.committed);
            }
            if let Some(measures) = &mut self.measures {
                measures.on_committed(&ready.committed, self.shared.feed.commit());
            }
            self.shared.feed.push(&ready.committed);
            self.note_outlived(&ready.committed, io.identity.peer_id());
            io.committed = true;
        }
        for notice in ready.notices {
            self.on_notice(notice, io);
        }
        for load in ready.loads {
            io.load(&self.shared, load);
        }
        let written = !ready.persist.is_empty();
        let (commit, last) =
            (ready.persist.commit, ready.persist.entries.last().map(|it| it.index));
        if let Some(from) = ready.persist.truncate_from {
            // What is on its way to the disk stands there for a moment only.
            for pending in &mut self.pending {
                pending.last = pending.last.map(|last| last.min(from.saturating_sub(1)));
            }
            self.shared.feed.cut(from);
        }
        if written {
            if let Some(measures) = &mut self.measures {
                measures.on_written(&ready.persist.entries);
            }
            let ends_carrying = self.carried.ends_with_this_write();
            self.journal.write(ready.number, ready.persist, ends_carrying, traced.clone());
        } else if self.pending.is_empty() {
            self.finish(ready.messages, ready.persisted_notices, io);
            return;
        }
        self.pending.push_back(Pending {
            ready: ready.number,
            written,
            since: now,
            commit,
            last,
            messages: ready.messages,
            notices: ready.persisted_notices,
            _spans: traced,
        });
    }

    /// What an earlier incarnation of this peer has said is found when it is repeated.
    fn note_outlived(&mut self, committed: &[Arc<Entry>], me: PeerId) {
        let own = self.shared.incarnation;
        for entry in committed.iter().filter(|it| it.author == me && it.incarnation != own) {
            if let Payload::Message { request_id, .. } = &entry.payload {
                let result = ProposalResult { number: entry.number, index: Some(entry.index) };
                let said = Digest::of(&entry.payload);
                self.requests.add_committed(request_id.clone(), said, result);
            }
        }
    }

    fn finish(&mut self, messages: Vec<Message>, notices: Vec<Notice>, io: &mut Io) {
        for message in messages {
            self.route(message, io);
        }
        for notice in notices {
            self.on_notice(notice, io);
        }
    }

    /// Sends a message the way that its kind takes.
    fn route(&mut self, mut message: Message, io: &mut Io) {
        let course = Course { chat: self.id, generation: message.generation };
        match &mut message.body {
            Body::Append(_) | Body::LookBack(_) => {
                let Some(streams) = self.streams.get_mut(&message.to) else { return };
                // A member whose lane is full attaches again once it has read what there is.
                if let Some(lane) = streams.replicate.take_if(|lane| !lane.push(message)) {
                    dropped(1, "stream_full");
                    lane.end();
                }
            }
            Body::Heartbeat(heartbeat) => {
                sign_own_past(course, &message.from, heartbeat, &io.identity);
                let streams = self.streams.get(&message.to);
                if let Some(lane) = streams.and_then(|streams| streams.heartbeats.as_ref()) {
                    lane.put_heartbeat(message);
                }
            }
            body if body.is_answer() => io.answer(message),
            Body::HandOver(hand_over) => {
                if hand_over.signature.is_none() {
                    let signed = signed_hand_over(course, hand_over);
                    hand_over.signature = Some(io.identity.sign(&signed));
                }
                self.send(message, io);
            }
            Body::Submit(submit)
                if submit.author.is_some_and(|(author, _)| author == message.from) =>
            {
                sign_submissions(course, submit, &io.identity);
                self.send(message, io);
            }
            Body::ReportDelays(report) => {
                let (me, incarnation) = (message.from, message.from_incarnation);
                if let Some(past) = &mut report.past {
                    sign_past(course, me, incarnation, past, &io.identity);
                }
                self.send(message, io);
            }
            Body::Goodbye if io.keep_seat => {}
            _ => self.send(message, io),
        }
    }

    /// Sends a message over this peer's own connection.
    fn send(&mut self, message: Message, io: &Io) {
        let mut trace = None;
        if let Some(spans) = &mut self.spans {
            trace = spans.context_of(&message.body);
            if let Body::Submit(submit) = &message.body {
                spans.submit(submit.author, &submit.submissions);
            }
        }
        io.send(self.id, message, trace);
    }

    fn on_notice(&mut self, notice: Notice, io: &mut Io) {
        if let Some(measures) = &mut self.measures {
            measures.on_notice(&notice);
        }
        match notice {
            Notice::Queued { number } => {
                self.queued_through = self.queued_through.max(number);
                if let Some(spans) = &mut self.spans {
                    spans.queued(number);
                }
                self.reply(number, None);
            }
            Notice::Confirmed { number, index } => {
                self.requests.confirm(number, index);
                self.reply(number, Some(index));
            }
            Notice::Host { host, term } => {
                match host {
                    Some(host) => tracing::info!(chat = ?self.id, term, ?host, "host changed"),
                    None => tracing::info!(chat = ?self.id, term, "no host is known"),
                }
                self.view_due = Some(Instant::default());
            }
            Notice::Serving { term } => {
                tracing::info!(chat = ?self.id, term, "this peer hosts");
                self.view_due = Some(Instant::default());
            }
            Notice::Suspect { term } => {
                tracing::info!(chat = ?self.id, term, "the host is suspected");
            }
            Notice::Nominated { nominee, term } => {
                tracing::info!(chat = ?self.id, term, ?nominee, "nominated");
            }
            Notice::Standing { term } => {
                tracing::info!(chat = ?self.id, term, "this peer stands");
            }
            Notice::Paused { paused } => {
                match paused {
                    true => {
                        tracing::warn!(chat = ?self.id, "nothing is confirmed until a majority \
                        is back: `demes status` shows who is away")
                    }
                    false => tracing::info!(chat = ?self.id, "a majority is in contact again"),
                }
                self.view_due = Some(Instant::default());
            }
            Notice::Members => {
                io.members_changed.push(self.id);
                self.view_due = Some(Instant::default());
            }
            Notice::MayStop => self.may_stop = true,
            Notice::Removed { by: None } => self.end(Ended::Left),
            Notice::Removed { by: Some(_) } => {
                tracing::info!(chat = ?self.id, "this peer was removed from the chat");
                self.stay_readable();
                io.members_changed.push(self.id);
                io.committed = true;
            }
            Notice::BelowOwnPast => self.end(Ended::BelowOwnPast),
            Notice::OtherGeneration { peer, generation } => {
                tracing::warn!(chat = ?self.id, ?peer, generation, "a member is in another course \
                    of the chat: it was recovered, here or there. `demes status` says what to do");
                // It is written down: a person may choose to follow it.
                io.members_changed.push(self.id);
                self.view_due = Some(Instant::default());
            }
            Notice::Evidence { peer, term, what } => {
                let what = what.text();
                tracing::error!(chat = ?self.id, ?peer, term, what, "a peer lies or is broken and \
                    is not followed in this term: if it goes on, remove it");
                self.view_due = Some(Instant::default());
            }
            Notice::Fault { what } => self.stop_here(what, io),
        }
    }

    /// Lets the loop end the chat in this turn.
    pub fn end(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
    }

    /// The chat as it is at this moment.
    pub fn view_now(&mut self) -> ChatView {
        let mut status = self.replica.status();
        status.queued += self.carried.len();
        let away_since = self.absences.look(&status);
        let fault = if status.key_in_use { KEY_IN_USE } else { self.fault };
        ChatView { status, fault, away_since }
    }

    /// This peer takes part no more: whoever waits for a proposal is told, and streams end.
    pub fn stay_readable(&mut self) {
        self.read_only = true;
        self.may_stop = true;
        self.view_due = Some(Instant::default());
        self.close();
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        for waiting in waiting.chain(self.carried.take_waiting()) {
            let _ = waiting.reply.send(Err(Unable::Propose(ProposeError::NotMember)));
        }
    }

    fn stop_here(&mut self, what: &'static str, io: &mut Io) {
        tracing::error!(chat = ?self.id, what, "the chat stops at this peer: `demes status` shows \
            it, and the other members go on");
        self.fault = what;
        self.may_stop = true;
        self.view_due = Some(Instant::default());
        io.committed = true;
    }

    fn show(&mut self, now: Instant) {
        self.view_at = now;
        self.view_due = None;
        let view = self.view_now();
        self.view.send_if_modified(|shown| {
            let changed = **shown != view;
            if changed {
                *shown = Arc::new(view);
            }
            changed
        });
    }
}

/// Puts a newer lane in the place of an older one, which on the same stream gives way.
fn replace_lane(place: &mut Option<Arc<Lane>>, newer: Arc<Lane>) {
    if let Some(older) = place.take() {
        if older.is_beside(&newer) { older.give_way() } else { older.end() }
    }
    *place = Some(newer);
}

/// Signs what goes to the host through another member (R35).
fn sign_submissions(course: Course, submit: &mut Submit, identity: &Identity) {
    let Some((author, incarnation)) = submit.author else { return };
    for submission in &mut submit.submissions {
        if submission.signature.is_none() {
            let (number, payload) = (submission.number, &submission.payload);
            let signed = signed_submission(course, author, incarnation, number, payload);
            submission.signature = Some(identity.sign(&signed));
        }
    }
}

/// Signs what this peer says of itself (L5).
fn sign_past(
    course: Course,
    me: PeerId,
    incarnation: Incarnation,
    past: &mut Past,
    identity: &Identity,
) {
    if past.signature.is_none() {
        past.signature = Some(identity.sign(&signed_past(course, me, incarnation, past)));
    }
}

fn sign_own_past(course: Course, me: &PeerId, heartbeat: &mut Heartbeat, identity: &Identity) {
    let own = heartbeat.pasts.iter_mut().find(|(peer, _, _)| peer == me);
    if let Some((me, incarnation, past)) = own {
        sign_past(course, *me, *incarnation, past, identity);
    }
}

/// Whether the runtime, and not the core, ends a call of this kind.
pub(super) fn ends_without_answer(body: &Body) -> bool {
    matches!(
        body,
        Body::Goodbye
            | Body::Announce(_)
            | Body::ReportDelays(_)
            | Body::Withdraw(_)
            | Body::HandOver(_)
    )
}

/// Calls that wait for an answer.
pub(super) type Calls = HashMap<CallId, Answerer>;
