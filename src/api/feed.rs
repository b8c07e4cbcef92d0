//! A feed's frames, made of events that were encoded once for all readers.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, encode_key, encode_varint};

use super::v1 as pb;

/// One `FeedResponse` as the server writes it: the same bytes, from shared pieces.
#[derive(Clone, Default, Debug)]
pub struct FeedFrame {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl FeedFrame {
    /// Adds an event that `encode_event` made.
    pub fn push(&mut self, event: Bytes) {
        self.bytes += event.len();
        self.pieces.push(event);
    }

    /// Adds all events of another frame.
    pub fn append(&mut self, other: FeedFrame) {
        self.bytes += other.bytes;
        if self.pieces.is_empty() {
            self.pieces = other.pieces;
        } else {
            self.pieces.extend(other.pieces);
        }
    }

    /// The length of the frame so far.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// An event as a field of `FeedResponse`, key and length included.
pub fn encode_event(event: &pb::Event) -> Bytes {
    let length = event.encoded_len();
    let mut bytes = Vec::with_capacity(length + 6);
    encode_key(1, WireType::LengthDelimited, &mut bytes);
    encode_varint(length as u64, &mut bytes);
    event.encode_raw(&mut bytes);
    bytes.into()
}

impl Message for FeedFrame {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        for piece in &self.pieces {
            buffer.put_slice(piece);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.bytes
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_feed_response() {
        let event = |sequence| pb::Event { sequence, hash: "ab".repeat(32), ..Default::default() };
        let mut frame = FeedFrame::default();
        frame.push(encode_event(&event(1)));
        frame.push(encode_event(&event(300)));
        let response = pb::FeedResponse { events: vec![event(1), event(300)] };
        assert_eq!(frame.encode_to_vec(), response.encode_to_vec());
    }
}
