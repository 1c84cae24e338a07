//! The client's side of WebSocket framing (RFC 6455 section 5): masked frames built in place at the end of a buffer,
//! server frames parsed where they were received. No allocation, no state.

use synckit_server::websocket::Opcode;

/// Room kept in front of a payload while it is written: the header of a frame of up to 65,535 bytes.
const HEADER_BYTES: usize = 8;

/// A frame being written: where it starts in the buffer.
#[must_use]
pub struct Started(usize);

/// Begins a frame at the end of `out`; the payload is appended next.
pub fn start(out: &mut Vec<u8>) -> Started {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    Started(at)
}

/// Ends the frame: writes its header and masks everything appended since [`start`].
pub fn finish(out: &mut Vec<u8>, started: Started, opcode: Opcode, mask: [u8; 4]) {
    let at = started.0;
    let length = out.len() - at - HEADER_BYTES;
    let header = if length < 126 {
        6
    } else if length < 65_536 {
        8
    } else {
        14
    };
    if header != HEADER_BYTES {
        let payload = at + HEADER_BYTES..out.len();
        out.resize(at + header.max(HEADER_BYTES) + length, 0);
        out.copy_within(payload, at + header);
        out.truncate(at + header + length);
    }
    out[at] = 0x80 | opcode_bits(opcode);
    match header {
        6 => out[at + 1] = 0x80 | length as u8,
        8 => {
            out[at + 1] = 0x80 | 126;
            out[at + 2..at + 4].copy_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out[at + 1] = 0x80 | 127;
            out[at + 2..at + 10].copy_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out[at + header - 4..at + header].copy_from_slice(&mask);
    apply_mask(&mut out[at + header..], mask);
}

/// Appends a whole control frame.
pub fn control(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    let started = start(out);
    out.extend_from_slice(payload);
    finish(out, started, opcode, mask);
}

fn opcode_bits(opcode: Opcode) -> u8 {
    match opcode {
        Opcode::Text => 1,
        Opcode::Binary => 2,
        Opcode::Close => 8,
        Opcode::Ping => 9,
        Opcode::Pong => 10,
    }
}

fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// One frame as received.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Low four bits of the first byte: 1 text, 2 binary, 0 continuation, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// Whether it is the last frame of its message.
    pub last: bool,
    /// Where the payload lies in the buffer.
    pub payload: std::ops::Range<usize>,
}

/// The frame that begins at `from`, or `None` while it is incomplete. A masked frame, which only the bare echo
/// server sends, is unmasked where it lies.
pub fn parse(buffer: &mut [u8], from: usize) -> Option<Received> {
    let rest = &buffer[from..];
    let (&[first, second], _) = rest.split_first_chunk::<2>()?;
    let masked = second & 0x80 != 0;
    let (length, mut header) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*rest.get(2..4)?.first_chunk()?)), 4),
        127 => (
            usize::try_from(u64::from_be_bytes(*rest.get(2..10)?.first_chunk()?)).ok()?,
            10,
        ),
        short => (usize::from(short), 2),
    };
    let mask: Option<[u8; 4]> = match masked {
        true => Some(*rest.get(header..header + 4)?.first_chunk()?),
        false => None,
    };
    header += if masked { 4 } else { 0 };
    let start = from + header;
    let end = start.checked_add(length).filter(|end| *end <= buffer.len())?;
    if let Some(mask) = mask {
        apply_mask(&mut buffer[start..end], mask);
        // The mask is taken off the header too, so that parsing the same bytes again gives the same payload.
        buffer[start - 4..start].fill(0);
    }
    Some(Received {
        opcode: first & 0x0f,
        last: first & 0x80 != 0,
        payload: start..end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_header_size_come_back_whole() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_001] {
            let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut out = b"before".to_vec();
            let started = start(&mut out);
            out.extend_from_slice(&payload);
            finish(&mut out, started, Opcode::Binary, [7, 1, 200, 90]);
            control(&mut out, Opcode::Pong, b"hi", [1, 2, 3, 4]);
            let frame = parse(&mut out, 6).expect("complete");
            assert_eq!((frame.opcode, frame.last), (2, true));
            assert_eq!(out[frame.payload.clone()], payload, "length {length}");
            let pong = parse(&mut out, frame.payload.end).expect("complete");
            assert_eq!((pong.opcode, &out[pong.payload.clone()]), (10, &b"hi"[..]));
            assert_eq!(pong.payload.end, out.len());
        }
    }

    #[test]
    fn lengths_are_written_in_the_fewest_bytes() {
        for (length, header) in [(125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let mut out = Vec::new();
            let started = start(&mut out);
            out.resize(out.len() + length, 0);
            finish(&mut out, started, Opcode::Text, [0; 4]);
            assert_eq!(out.len(), header + length);
        }
    }

    #[test]
    fn every_cut_of_a_frame_is_incomplete() {
        let mut whole = vec![0x82, 126, 0, 200];
        whole.resize(204, 9);
        for cut in 0..204 {
            assert_eq!(parse(&mut whole[..cut].to_vec(), 0), None, "cut at {cut}");
        }
        assert_eq!(parse(&mut whole, 0).map(|frame| frame.payload), Some(4..204));
    }
}
