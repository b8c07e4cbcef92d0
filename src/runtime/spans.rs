//! What one chat shows of its work to traces. It exists only while traces are on.
//!
//! A message's spans belong to the trace of the call that sent it, which its entry names. Those of
//! a search for a host belong to a trace that all members make out alike
//! ([`telemetry::election_context`]); those of a hand-over to the trace that the old host begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{Span, info_span};

use crate::protocol::event::{Notice, Ready};
use crate::protocol::message::{Body, Message, SubmitAnswer};
use crate::protocol::traceparent::is_sampled;
use crate::protocol::types::{
    CallId, ChatId, Entry, Generation, Incarnation, Index, Number, Payload, PeerId, Submission,
    Term, TraceContext,
};
use crate::telemetry::{self, call_span, child_of, context_of};

const SUBMIT: &str = "demes.v1.HostService/Submit";
/// Rounds of nominations that one search shows. A peer that is cut off goes on for days.
const ROUNDS_MAX: u32 = 32;
/// How long a span of a search or hand-over stays open without an end; then it is sent as it is.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Calls whose context is remembered until they are answered; the oldest is forgotten.
const CALLS_MAX: usize = 64;

/// The open spans of one chat.
pub(super) struct Spans {
    chat: ChatId,
    me: PeerId,
    /// The term of the last host that was heard of here.
    host_term: Option<Term>,
    /// This peer hosts.
    hosts: bool,
    /// Own messages until they are durable in the outbox, which bounds them.
    sending: BTreeMap<Number, Span>,
    /// Own messages on their way to the host, until it has answered or they are committed: a host
    /// that dies may not answer. Bounded like those.
    submitting: BTreeMap<Number, Span>,
    /// At the host: entries until they are committed. As many as may be ahead of the commit index.
    committing: BTreeMap<Index, Span>,
    /// The contexts of calls that ask for a vote.
    calls: BTreeMap<CallId, TraceContext>,
    search: Option<Search>,
    /// At a host that hands over.
    hand_over: Option<Open>,
    /// The context of the call by which a person asked to hand over.
    asked: TraceContext,
    /// The context of the call by which this peer was handed over to.
    handed_over: TraceContext,
}

/// A search for a host.
struct Search {
    /// Where its spans belong.
    root: TraceContext,
    /// Set where whoever is found makes that root; not in a hand-over, which has one.
    makes_root: Option<MakesRoot>,
    rounds: u32,
    suspect: Option<Open>,
    nominate: Span,
    stand: Span,
    /// From the election to the first commit.
    commit: Span,
}

#[derive(Clone, Copy)]
struct MakesRoot {
    begun: SystemTime,
    is_failover: bool,
}

/// A span that may have no end.
struct Open {
    span: Span,
    since: Instant,
}

impl Open {
    fn new(span: Span) -> Self {
        Self { span, since: Instant::now() }
    }
}

impl Spans {
    /// `None` while traces are off.
    pub fn new(chat: ChatId, me: PeerId) -> Option<Box<Self>> {
        telemetry::is_enabled().then(|| {
            Box::new(Self {
                chat,
                me,
                host_term: None,
                hosts: false,
                sending: BTreeMap::new(),
                submitting: BTreeMap::new(),
                committing: BTreeMap::new(),
                calls: BTreeMap::new(),
                search: None,
                hand_over: None,
                asked: None,
                handed_over: None,
            })
        })
    }

    // ---- a message ----

    /// An own message enters the outbox. Returns the context that goes with it from here on.
    pub fn send(&mut self, number: Number, call: TraceContext) -> TraceContext {
        let span = child_of(call, || {
            info_span!(
                "send",
                otel.kind = "producer",
                messaging.system = "demes",
                messaging.operation.name = "send",
                messaging.operation.type = "send",
                messaging.destination.name = %self.chat,
            )
        });
        let trace = context_of(&span);
        if trace.is_some() {
            self.sending.insert(number, span);
        }
        trace
    }

    /// Everything up to this number is durable in the outbox.
    pub fn queued(&mut self, number: Number) {
        self.sending = self.sending.split_off(&(number + 1));
    }

    /// Messages leave for the host: own ones, or those of `author` that come through this peer.
    pub fn submit(&mut self, author: Option<(PeerId, Incarnation)>, submissions: &[Submission]) {
        if author.is_some_and(|(author, _)| author != self.me) {
            return;
        }
        for submission in submissions {
            let span = child_of(submission.trace, || call_span(SUBMIT, "client"));
            if !span.is_none() {
                self.submitting.insert(submission.number, span);
            }
        }
    }

    fn submitted(&mut self, answer: &SubmitAnswer) {
        for accepted in &answer.accepted {
            self.end_submit(accepted.number);
        }
    }

    fn end_submit(&mut self, number: Number) {
        if let Some(span) = self.submitting.remove(&number) {
            span.record("rpc.response.status_code", "OK");
        }
    }

    /// What is being written: the spans that end when it is durable.
    pub fn write(&mut self, ready: &Ready) -> Vec<Span> {
        let mut spans = Vec::new();
        for entry in ready.persist.entries.iter().filter(|entry| is_sampled(&entry.trace)) {
            if self.hosts {
                drop(entry_span("order", entry));
                self.committing.insert(entry.index, entry_span("commit", entry));
            }
            spans.push(entry_span("append", entry));
        }
        let queued = ready.persist.outbox_put.iter();
        spans.extend(queued.filter_map(|s| self.sending.get(&s.number).cloned()));
        if ready.persist.hard_state.is_some()
            && let Some(search) = &self.search
            && !search.stand.is_none()
        {
            spans.push(search.stand.clone());
        }
        for message in &ready.messages {
            if let Body::Vote(vote) = &message.body
                && let Some(call) = self.calls.remove(&message.call)
            {
                spans.push(child_of(call, || {
                    let (term, granted) = (vote.term, vote.granted.is_some());
                    info_span!("vote", demes.term = term, demes.vote.granted = granted)
                }));
            }
        }
        spans
    }

    /// The host's commits, and the delivery at every member.
    pub fn commit(&mut self, committed: &[Arc<Entry>]) {
        for entry in committed {
            if entry.author == self.me {
                self.end_submit(entry.number);
            }
            let commit = self.committing.remove(&entry.index);
            if !is_sampled(&entry.trace) {
                continue;
            }
            if commit.is_none() && self.hosts {
                // It was ordered by an earlier host.
                drop(entry_span("commit", entry));
            }
            if matches!(entry.payload, Payload::Message { .. }) {
                self.deliver(entry);
            }
        }
    }

    fn deliver(&self, entry: &Entry) {
        let span = child_of(entry.trace, || {
            info_span!(
                "deliver",
                otel.kind = "consumer",
                messaging.system = "demes",
                messaging.operation.name = "deliver",
                messaging.operation.type = "process",
                messaging.destination.name = %self.chat,
                demes.index = entry.index,
            )
        });
        telemetry::link(&span, entry.trace);
    }

    // ---- a search for a host, and a hand-over ----

    /// A message came, by a call with this context.
    pub fn receive(&mut self, message: &Message, call: TraceContext) {
        match &message.body {
            Body::SubmitAnswer(answer) => self.submitted(answer),
            Body::RequestVote(_) if call.is_some() => {
                self.calls.insert(message.call, call);
                if self.calls.len() > CALLS_MAX {
                    self.calls.pop_first();
                }
            }
            Body::HandOver(_) => self.handed_over = call,
            _ => {}
        }
    }

    /// A person asks this peer to hand over.
    pub fn ask_hand_over(&mut self, call: TraceContext) {
        self.asked = call;
    }

    /// Looks through what is about to be done, before any message of it leaves.
    pub fn begin(&mut self, ready: &Ready, generation: impl Fn() -> Generation) {
        if ready.early.iter().any(|message| matches!(message.body, Body::HandOver(_))) {
            self.begin_hand_over();
        }
        for notice in &ready.notices {
            match notice {
                Notice::Suspect { term } => self.suspect(*term, generation()),
                Notice::Nominated { nominee, term } => self.nominate(*nominee, *term),
                Notice::Standing { term } => self.stand(*term, generation()),
                Notice::Host { host: Some(host), term } => self.found(*host, *term),
                Notice::Host { host: None, .. } => self.lost(),
                Notice::Serving { .. } => self.serve(),
                _ => {}
            }
        }
        self.handed_over = None;
    }

    /// The context that goes with a message about the choice of a host.
    pub fn context_of(&self, body: &Body) -> TraceContext {
        let search = self.search.as_ref();
        match body {
            Body::Nominate(_) | Body::Solicit(_) | Body::Withdraw(_) | Body::FetchLog(_) => {
                let search = search.filter(|search| search.rounds <= ROUNDS_MAX)?;
                let suspect = search.suspect.as_ref().map(|open| &open.span);
                let spans = [Some(&search.nominate), suspect, Some(&search.stand)];
                spans.into_iter().flatten().find_map(context_of)
            }
            Body::RequestVote(_) => context_of(&search?.stand),
            Body::Announce(_) => context_of(&search?.commit),
            Body::HandOver(_) => context_of(&self.hand_over.as_ref()?.span),
            _ => None,
        }
    }

    /// Sends spans that have been open for long as they are.
    pub fn sweep(&mut self) {
        if let Some(search) = &mut self.search
            && let Some(open) = search.suspect.take_if(|open| open.since.elapsed() > OPEN_MAX)
        {
            telemetry::fail(&open.span, "no_host_yet");
            search.nominate = Span::none();
        }
        if let Some(open) = self.hand_over.take_if(|open| open.since.elapsed() > OPEN_MAX) {
            telemetry::fail(&open.span, "no_successor");
        }
    }

    fn new_search(&self, term: Term, generation: Generation) -> Search {
        let term = self.host_term.unwrap_or(term);
        let is_failover = self.host_term.is_some();
        Search {
            root: Some(telemetry::election_context(self.chat, generation, term)),
            makes_root: Some(MakesRoot { begun: SystemTime::now(), is_failover }),
            rounds: 0,
            suspect: None,
            nominate: Span::none(),
            stand: Span::none(),
            commit: Span::none(),
        }
    }

    fn suspect(&mut self, term: Term, generation: Generation) {
        let mut search = match self.search.take() {
            Some(search) => search,
            None => self.new_search(term, generation),
        };
        let span = child_of(
            search.root,
            || info_span!("suspect", demes.chat.id = %self.chat, demes.term = term),
        );
        search.suspect = Some(Open::new(span));
        self.search = Some(search);
    }

    fn nominate(&mut self, nominee: PeerId, term: Term) {
        let Some(search) = &mut self.search else { return };
        search.end_stand();
        search.rounds += 1;
        let parent = search.suspect.as_ref().and_then(|open| context_of(&open.span));
        let parent = parent.filter(|_| search.rounds <= ROUNDS_MAX);
        search.nominate = child_of(
            parent,
            || info_span!("nominate", demes.term = term, demes.nominee.id = %nominee),
        );
    }

    fn stand(&mut self, term: Term, generation: Generation) {
        let mut search = match self.search.take() {
            Some(search) => search,
            None => self.new_search(term.saturating_sub(1), generation),
        };
        if self.handed_over.is_some() {
            (search.root, search.makes_root) = (self.handed_over, None);
        }
        search.end_stand();
        search.nominate = Span::none();
        search.rounds += 1;
        let root = search.root.filter(|_| search.rounds <= ROUNDS_MAX);
        search.stand = child_of(root, || info_span!("stand", demes.term = term));
        self.search = Some(search);
    }

    /// A host is known: this peer, or another one.
    fn found(&mut self, host: PeerId, term: Term) {
        self.host_term = Some(term);
        self.hosts = host == self.me;
        self.asked = None;
        if !self.hosts {
            self.committing.clear();
            self.search = None;
            self.hand_over = None;
        } else if let Some(search) = &mut self.search {
            search.stand = Span::none();
            search.suspect = None;
            search.nominate = Span::none();
            search.commit = child_of(
                search.root,
                || info_span!("commit", demes.chat.id = %self.chat, demes.term = term),
            );
        }
    }

    /// This peer follows nobody, and does not host.
    fn lost(&mut self) {
        self.hosts = false;
        self.committing.clear();
        if let Some(search) = &mut self.search {
            search.end_stand();
            search.commit = Span::none();
        }
    }

    /// This peer's first entry as host is committed.
    fn serve(&mut self) {
        let Some(Search { root: Some(root), makes_root, .. }) = self.search.take() else { return };
        if let Some(MakesRoot { begun, is_failover }) = makes_root {
            telemetry::end_election(&root, self.chat, is_failover, begun);
        }
    }

    fn begin_hand_over(&mut self) {
        if let Some(open) = self.hand_over.take() {
            telemetry::fail(&open.span, "no_successor");
        }
        let span = info_span!(
            "hand_over",
            otel.name = telemetry::HAND_OVER,
            demes.chat.id = %self.chat,
            demes.term = self.host_term,
        );
        telemetry::set_parent(&span, self.asked.take());
        self.hand_over = Some(Open::new(span));
    }
}

impl Search {
    /// A candidacy that goes on no more has failed.
    fn end_stand(&mut self) {
        let stand = std::mem::replace(&mut self.stand, Span::none());
        if !stand.is_none() {
            telemetry::fail(&stand, "not_elected");
        }
    }
}

/// What is done with one entry of the log, in the trace of the call that made it.
fn entry_span(name: &'static str, entry: &Entry) -> Span {
    child_of(entry.trace, || info_span!("entry", otel.name = name, demes.index = entry.index))
}
