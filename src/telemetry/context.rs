//! The W3C trace context of spans: 25 bytes in log entries and beside messages, `traceparent` in
//! the metadata of calls. `tracestate` and `baggage` are not passed on: they are other people's
//! text, and a log entry is for ever.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use sha2::{Digest, Sha256};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::protocol::traceparent::{from_traceparent, is_sampled, to_traceparent};
use crate::protocol::types::{ChatId, Generation, Term, TraceContext};

/// The name of the metadata entry.
const TRACEPARENT: &str = "traceparent";

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Whether traces are being sent anywhere.
pub fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

pub(super) fn enable(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// The current span's context, for what follows from it elsewhere; `None` when it is not sampled or
/// traces are off.
pub fn current_context() -> TraceContext {
    if is_enabled() { context_of(&Span::current()) } else { None }
}

/// The same of any span.
pub fn context_of(span: &Span) -> TraceContext {
    if !is_enabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() || !span.is_sampled() {
        return None;
    }
    let mut bytes = [0; 25];
    bytes[..16].copy_from_slice(&span.trace_id().to_bytes());
    bytes[16..24].copy_from_slice(&span.span_id().to_bytes());
    bytes[24] = span.trace_flags().to_u8();
    Some(bytes)
}

/// Makes `span` a child of `parent`. Call it before the span is entered; nothing happens without a
/// sampled parent.
pub fn set_parent(span: &Span, parent: TraceContext) {
    if let Some(remote) = remote(parent) {
        // It fails for a span that no one records: then there is nothing to set.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote));
    }
}

/// Links `span` to another one that it follows from.
pub fn link(span: &Span, to: TraceContext) {
    if let Some(remote) = remote(to) {
        span.add_link(remote);
    }
}

/// Marks `span` as failed. `what` is one of a few fixed words.
pub fn fail(span: &Span, what: &'static str) {
    span.set_attribute("error.type", what);
    span.set_status(Status::error(what));
}

/// A span of `parent`'s trace, for work that goes on long after the call: a sync, a commit, a
/// delivery. Without a sampled parent there is no span, so that such work never begins a trace of
/// its own.
pub fn child_of(parent: TraceContext, span: impl FnOnce() -> Span) -> Span {
    if !is_enabled() || !is_sampled(&parent) {
        return Span::none();
    }
    let span = span();
    set_parent(&span, parent);
    span
}

/// Where the search for a host belongs that ends the reign of `term`'s host. All members suspect by
/// themselves, and none can ask another to begin: so each makes out the same trace, and in it the
/// same root span, from what they have in common.
pub fn election_context(chat: ChatId, generation: Generation, term: Term) -> [u8; 25] {
    let mut hash = Sha256::new_with_prefix(b"demes election trace");
    hash.update(chat.0);
    hash.update(generation.to_be_bytes());
    hash.update(term.to_be_bytes());
    let mut bytes = [0; 25];
    bytes[..24].copy_from_slice(&hash.finalize()[..24]);
    bytes[24] = TraceFlags::SAMPLED.to_u8();
    bytes
}

/// The context that a caller sent along, sampled or not. What is none is ignored.
pub fn extract(headers: &HeaderMap) -> TraceContext {
    from_traceparent(headers.get(TRACEPARENT)?.to_str().ok()?).ok()?
}

/// Sends a context along.
pub fn inject(headers: &mut HeaderMap, context: &TraceContext) {
    if context.is_some()
        && let Ok(value) = HeaderValue::from_str(&to_traceparent(context))
    {
        headers.insert(TRACEPARENT, value);
    }
}

pub(super) fn ids(bytes: &[u8; 25]) -> (TraceId, SpanId) {
    let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
    trace_id.copy_from_slice(&bytes[..16]);
    span_id.copy_from_slice(&bytes[16..24]);
    (TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id))
}

fn remote(context: TraceContext) -> Option<SpanContext> {
    let bytes = context.filter(|_| is_enabled() && is_sampled(&context))?;
    let (trace_id, span_id) = ids(&bytes);
    let flags = TraceFlags::new(bytes[24]);
    Some(SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_along_while_traces_are_off() {
        let mut headers = HeaderMap::new();
        inject(&mut headers, &current_context());
        assert!(headers.is_empty());
        assert!(child_of(Some([1; 25]), || unreachable!("traces are off")).is_none());
    }

    #[test]
    fn members_make_out_the_same_trace_for_one_lost_host_and_another_for_the_next() {
        let of = |chat, generation, term| election_context(ChatId([chat; 16]), generation, term);
        assert_eq!(of(1, 0, 7), of(1, 0, 7));
        let others = [of(2, 0, 7), of(1, 1, 7), of(1, 0, 8)];
        assert!(others.iter().all(|other| other[..16] != of(1, 0, 7)[..16]));
        assert!(is_sampled(&Some(of(1, 0, 7))));
    }

    #[test]
    fn a_callers_context_is_read_sampled_or_not_and_nonsense_is_ignored() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_static(text));
            extract(&headers)
        };
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(read(text).map(|bytes| bytes[24]), Some(0));
        assert_eq!(read("nonsense"), None);
        assert_eq!(extract(&HeaderMap::new()), None);
    }
}
