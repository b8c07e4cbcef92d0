//! The text form of a trace context: `traceparent`, as W3C Trace Context has it. It is in the
//! metadata of calls and in log entries, and this is the only place that reads it.

use super::types::TraceContext;

/// Bit 0 of the flags: the caller records its part of the trace.
const SAMPLED: u8 = 1;
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Why a text is not a `traceparent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotATraceparent;

/// The text of a context, in version 00; empty when there is none.
pub fn to_traceparent(trace: &TraceContext) -> String {
    let Some(bytes) = trace else { return String::new() };
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

/// Reads a `traceparent`; an empty text is no context.
///
/// # Errors
/// When the text is of another form, or names no trace or no span.
pub fn from_traceparent(text: &str) -> Result<TraceContext, NotATraceparent> {
    if text.is_empty() {
        return Ok(None);
    }
    parse(text.as_bytes()).map(Some).ok_or(NotATraceparent)
}

/// Whether whoever made the context records its part of the trace.
pub fn is_sampled(trace: &TraceContext) -> bool {
    trace.is_some_and(|bytes| bytes[24] & SAMPLED != 0)
}

fn parse(text: &[u8]) -> Option<[u8; 25]> {
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
    named.then_some(bytes)
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
        let trace = from_traceparent(EXAMPLE).unwrap();
        assert_eq!(trace.map(|bytes| (bytes[0], bytes[24])), Some((0x4b, 1)));
        assert_eq!(to_traceparent(&trace), EXAMPLE);
        assert_eq!(to_traceparent(&None), "");
        assert_eq!(from_traceparent(""), Ok(None));
    }

    #[test]
    fn anything_else_is_an_error() {
        let no_trace = EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let no_span = EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16));
        let too_long = format!("{EXAMPLE}-00");
        let (upper, short) = (EXAMPLE.to_uppercase(), &EXAMPLE[1..]);
        let never = EXAMPLE.replacen("00", "ff", 1);
        let not_ascii = "é".repeat(40);
        for text in ["00", &no_trace, &no_span, &too_long, &upper, short, &never, &not_ascii] {
            assert_eq!(from_traceparent(text), Err(NotATraceparent), "{text}");
        }
        let later_version = format!("01{}-more", &EXAMPLE[2..]);
        assert_eq!(from_traceparent(&later_version), from_traceparent(EXAMPLE));
    }

    #[test]
    fn the_last_bit_says_whether_it_is_sampled() {
        assert!(is_sampled(&from_traceparent(EXAMPLE).unwrap()));
        assert!(!is_sampled(&from_traceparent(&EXAMPLE.replace("-01", "-02")).unwrap()));
        assert!(!is_sampled(&None));
    }
}
