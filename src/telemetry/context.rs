//! The W3C trace context: as `traceparent` text in metadata, and as 25 bytes in log entries.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::protocol::types::TraceContext;

/// The name of the metadata entry.
const TRACEPARENT: &str = "traceparent";
/// Bit 0 of the flags: the caller records its part of the trace.
const SAMPLED: u8 = 1;
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Whether traces are being sent anywhere.
pub fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

pub(super) fn enable(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// The current span's context for a log entry; `None` when it is not sampled or traces are off.
pub fn current_context() -> TraceContext {
    if !is_enabled() {
        return None;
    }
    let context = Span::current().context();
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
/// parent.
pub fn set_parent(span: &Span, parent: TraceContext) {
    let Some(bytes) = parent else { return };
    if !is_enabled() {
        return;
    }
    let mut trace_id = [0; 16];
    trace_id.copy_from_slice(&bytes[..16]);
    let mut span_id = [0; 8];
    span_id.copy_from_slice(&bytes[16..24]);
    let remote = SpanContext::new(
        TraceId::from_bytes(trace_id),
        SpanId::from_bytes(span_id),
        TraceFlags::new(bytes[24]),
        true,
        TraceState::NONE,
    );
    // It fails for a span that no one records: then there is nothing to link.
    let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote));
}

/// A span of `parent`'s trace, for work that goes on long after the call: a sync, a commit, a
/// delivery. Without a parent there is no span, so that such work never begins a trace of its own.
pub fn child_of(parent: TraceContext, span: impl FnOnce() -> Span) -> Span {
    if parent.is_none() || !is_enabled() {
        return Span::none();
    }
    let span = span();
    set_parent(&span, parent);
    span
}

/// The text of a context, as the wire has it; empty when there is none.
pub fn traceparent(context: &TraceContext) -> String {
    let Some(bytes) = context else { return String::new() };
    let mut text = String::with_capacity(55);
    text.push_str("00-");
    for (at, byte) in bytes.iter().enumerate() {
        if at == 16 || at == 24 {
            text.push('-');
        }
        text.push(HEX_DIGITS[usize::from(byte >> 4)] as char);
        text.push(HEX_DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// Reads a `traceparent`. Anything that is not one, or was not sampled, is no context.
pub fn context_from_traceparent(text: &str) -> TraceContext {
    let text = text.as_bytes();
    // Later versions may append more fields after another dash; 00 has exactly these four.
    let (known, rest) = text.split_at_checked(55)?;
    let version = hex_byte(&known[..2])?;
    let well_formed = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !well_formed || [known[2], known[35], known[52]] != [b'-'; 3] {
        return None;
    }
    let mut bytes = [0; 25];
    let digits = known[3..35].chunks(2).chain(known[36..52].chunks(2)).chain([&known[53..55]]);
    for (byte, pair) in bytes.iter_mut().zip(digits) {
        *byte = hex_byte(pair)?;
    }
    let named = bytes[..16] != [0; 16] && bytes[16..24] != [0; 8];
    (named && bytes[24] & SAMPLED != 0).then_some(bytes)
}

/// The context that a caller sent along.
pub fn extract(headers: &HeaderMap) -> TraceContext {
    context_from_traceparent(headers.get(TRACEPARENT)?.to_str().ok()?)
}

/// Sends the current span's context along, if it is sampled.
pub fn inject(headers: &mut HeaderMap) {
    let context = current_context();
    if context.is_some()
        && let Ok(value) = HeaderValue::from_str(&traceparent(&context))
    {
        headers.insert(TRACEPARENT, value);
    }
}

fn hex_byte(pair: &[u8]) -> Option<u8> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    match pair {
        [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_reads_back() {
        let context = context_from_traceparent(EXAMPLE);
        assert_eq!(context.map(|bytes| bytes[0]), Some(0x4b));
        assert_eq!(traceparent(&context), EXAMPLE);
        assert_eq!(traceparent(&None), "");
    }

    #[test]
    fn anything_else_is_no_context() {
        let not_sampled = EXAMPLE.replace("-01", "-00");
        let no_trace = EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let too_long = format!("{EXAMPLE}-00");
        let later_version = format!("01{}-more", &EXAMPLE[2..]);
        let upper = EXAMPLE.to_uppercase();
        for text in ["", "00", &not_sampled, &no_trace, &too_long, &upper, "é".repeat(40).as_str()]
        {
            assert_eq!(context_from_traceparent(text), None, "{text}");
        }
        assert!(context_from_traceparent(&later_version).is_some());
    }

    #[test]
    fn nothing_is_sent_along_while_traces_are_off() {
        let mut headers = HeaderMap::new();
        inject(&mut headers);
        assert!(headers.is_empty());
        assert_eq!(current_context(), None);
    }
}
