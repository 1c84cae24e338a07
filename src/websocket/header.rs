//! Frame headers as bytes (RFC 6455 section 5.2): taking one apart, and making one.
//!
//! Both stand on the way of every message. `tungstenite`'s own type for headers does the same through `Read` and `Write`, for
//! some 380 instructions more per change and acknowledgement (`tests/instruction_counts.rs`); what is found here is held
//! against it by the differential tests and the fuzz target of this room.

use super::frame::Opcode;
use std::ops::Deref;
use tungstenite::protocol::frame::coding::OpCode;

/// The longest header a server sends: two bytes and eight of length.
const SERVER_HEADER_BYTES_MAX: usize = 10;
/// Lengths up to this stand in the second byte; these values of it announce two or eight bytes of length.
const SHORT_MAX: usize = 125;
const TWO_BYTES: u8 = 126;
const EIGHT_BYTES: u8 = 127;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const MASKED: u8 = 0x80;

/// The header of a frame from a client, taken apart and not yet judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientHeader {
    first: u8,
    /// `None`: the frame is not masked, which clients must not do.
    pub(super) mask: Option<[u8; 4]>,
    pub(super) payload_bytes: u64,
    /// The header's own length.
    pub(super) bytes: usize,
}

impl ClientHeader {
    /// Reads the header at the beginning of `bytes`; `None` if there is not all of it.
    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Option<ClientHeader> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let (payload_bytes, rest) = match second & !MASKED {
            TWO_BYTES => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            EIGHT_BYTES => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*length), rest)
            }
            length => (u64::from(length), rest),
        };
        let (mask, rest) = match second & MASKED {
            0 => (None, rest),
            _ => {
                let (mask, rest) = rest.split_first_chunk()?;
                (Some(*mask), rest)
            }
        };
        Some(ClientHeader {
            first: *first,
            mask,
            payload_bytes,
            bytes: bytes.len() - rest.len(),
        })
    }

    pub(super) fn opcode(&self) -> OpCode {
        OpCode::from(self.first & 0x0F)
    }

    /// Whether the frame is the last one of its message.
    pub(super) fn is_final(&self) -> bool {
        self.first & FIN != 0
    }

    pub(super) fn rsv1(&self) -> bool {
        self.first & RSV1 != 0
    }

    pub(super) fn rsv2_or_rsv3(&self) -> bool {
        self.first & RSV2_RSV3 != 0
    }

    /// Whether the length is written in the shortest form, as it must be, and has no more than 63 bits.
    pub(super) fn is_length_well_formed(&self) -> bool {
        let length_bytes = self.bytes - 2 - if self.mask.is_some() { 4 } else { 0 };
        match length_bytes {
            0 => true,
            2 => self.payload_bytes > SHORT_MAX as u64,
            _ => self.payload_bytes > u64::from(u16::MAX) && self.payload_bytes <= i64::MAX as u64,
        }
    }
}

/// A frame header, to be sent right before the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderBytes {
    bytes: [u8; SERVER_HEADER_BYTES_MAX],
    len: u8,
}

impl HeaderBytes {
    /// The header of an unfragmented, unmasked frame.
    #[inline]
    pub(super) fn new(opcode: Opcode, payload_bytes: usize, rsv1: bool) -> HeaderBytes {
        let mut bytes = [0; SERVER_HEADER_BYTES_MAX];
        bytes[0] = FIN | if rsv1 { RSV1 } else { 0 } | opcode as u8;
        let len = if payload_bytes <= SHORT_MAX {
            bytes[1] = payload_bytes as u8;
            2
        } else if let Ok(length) = u16::try_from(payload_bytes) {
            bytes[1] = TWO_BYTES;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            4
        } else {
            bytes[1] = EIGHT_BYTES;
            bytes[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        };
        HeaderBytes { bytes, len }
    }
}

impl Deref for HeaderBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use tungstenite::protocol::frame::FrameHeader;

    proptest! {
        #[test]
        fn headers_are_read_as_tungstenite_reads_them(first: u8, second: u8, rest in prop::collection::vec(any::<u8>(), 0..14)) {
            let mut bytes = vec![first, second];
            bytes.extend_from_slice(&rest);
            let mut cursor = Cursor::new(&bytes);
            let Ok(theirs) = FrameHeader::parse(&mut cursor) else {
                // It refuses reserved opcodes, and nothing else.
                let ours = ClientHeader::read(&bytes).expect("a whole header");
                prop_assert!(matches!(first & 0x0F, 3..=7 | 11..=15));
                prop_assert_eq!(u8::from(ours.opcode()), first & 0x0F);
                return Ok(());
            };
            let Some((theirs, payload_bytes)) = theirs else {
                prop_assert!(ClientHeader::read(&bytes).is_none());
                return Ok(());
            };
            let ours = ClientHeader::read(&bytes).expect("a whole header");
            prop_assert_eq!(ours.bytes as u64, cursor.position());
            prop_assert_eq!(ours.payload_bytes, payload_bytes);
            prop_assert_eq!(ours.mask, theirs.mask);
            prop_assert_eq!(ours.opcode(), theirs.opcode);
            prop_assert_eq!(ours.is_final(), theirs.is_final);
            prop_assert_eq!(ours.rsv1(), theirs.rsv1);
            prop_assert_eq!(ours.rsv2_or_rsv3(), theirs.rsv2 || theirs.rsv3);
            let shortest = theirs.len(payload_bytes) == ours.bytes && payload_bytes <= i64::MAX as u64;
            prop_assert_eq!(ours.is_length_well_formed(), shortest);
        }
    }
}
