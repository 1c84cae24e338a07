//! Frames to the client: unmasked, never fragmented, shortest length form.

use super::CONTROL_BYTES_MAX;
use super::header::HeaderBytes;
use bytes::{BufMut, Bytes, BytesMut};

/// What a frame carries (RFC 6455 section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// UTF-8 text.
    Text = 1,
    /// Anything.
    Binary = 2,
    /// The last frame of a connection.
    Close = 8,
    /// Wants a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

/// The header of an unfragmented frame with a payload of `payload_bytes`, for callers that lay out the payload themselves.
pub fn frame_header(opcode: Opcode, payload_bytes: usize) -> HeaderBytes {
    HeaderBytes::new(opcode, payload_bytes, false)
}

/// The same for a payload that is compressed (RFC 7692 section 7.2.1). `opcode` is that of a message.
pub fn deflated_frame_header(opcode: Opcode, payload_bytes: usize) -> HeaderBytes {
    debug_assert!(matches!(opcode, Opcode::Text | Opcode::Binary));
    HeaderBytes::new(opcode, payload_bytes, true)
}

/// A whole message in one frame. Encode once, share the bytes with every receiver.
pub fn data_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let header = frame_header(opcode, payload.len());
    let mut frame = BytesMut::with_capacity(header.len() + payload.len());
    frame.put_slice(&header);
    frame.put_slice(payload);
    frame.freeze()
}

/// A close frame. `code` must be one that may appear on the wire. A reason of more than 123 bytes is cut at a character.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let reason = cut(reason, CONTROL_BYTES_MAX - 2);
    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    data_frame(Opcode::Close, &payload[..2 + reason.len()])
}

/// A close frame without a code: the answer to one that had none.
pub fn empty_close_frame() -> Bytes {
    data_frame(Opcode::Close, &[])
}

/// A ping. Panics when the payload is longer than 125 bytes; it is ours to choose.
pub fn ping_frame(payload: &[u8]) -> Bytes {
    assert!(payload.len() <= CONTROL_BYTES_MAX);
    data_frame(Opcode::Ping, payload)
}

/// The answer to a ping, with its payload, which the decoder has limited to 125 bytes. Panics when it is longer.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    assert!(payload.len() <= CONTROL_BYTES_MAX);
    data_frame(Opcode::Pong, payload)
}

/// The longest beginning of `text` that has at most `bytes_max` bytes and ends between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_use_the_shortest_length_form() {
        assert_eq!(&*frame_header(Opcode::Text, 0), &[0x81, 0]);
        assert_eq!(&*frame_header(Opcode::Binary, 125), &[0x82, 125]);
        assert_eq!(&*frame_header(Opcode::Binary, 126), &[0x82, 126, 0, 126]);
        assert_eq!(&*frame_header(Opcode::Binary, 65535), &[0x82, 126, 0xff, 0xff]);
        assert_eq!(
            &*frame_header(Opcode::Text, 65536),
            &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
        assert_eq!(frame_header(Opcode::Text, usize::MAX).len(), 10);
    }

    #[test]
    fn control_frames_carry_their_payload() {
        assert_eq!(&ping_frame(b"now")[..], b"\x89\x03now");
        assert_eq!(&pong_frame(b"")[..], b"\x8a\x00");
        assert_eq!(
            &close_frame(1001, "Server shutdown")[..],
            b"\x88\x11\x03\xe9Server shutdown"
        );
        assert_eq!(&empty_close_frame()[..], b"\x88\x00");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = close_frame(1008, &"é".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122, "61 whole characters of two bytes");
        assert_eq!(std::str::from_utf8(&frame[4..]), Ok("é".repeat(61).as_str()));
    }
}
