//! Compressing and decompressing single messages (RFC 7692 section 7.2). Nothing is kept from one message to the next, so
//! one [`Deflater`] and one [`Inflater`] per shard serve all its connections.
//!
//! A message may be put together from parts that were compressed by themselves: every part ends with an empty block, at a
//! byte boundary, and refers to nothing before it. So a large part is compressed once for all receivers, and the few bytes
//! around it that differ are [`stored`](store).
//!
//! Limits on what a peer sends: the output stops at the message limit, and at [`RATIO_MAX`] times the input once it has
//! reached [`RATIO_FREE_BYTES`]. No more memory than that is ever reserved, and it grows with what was really inflated.

use super::Violation;
use super::extension::WINDOW_BITS_MAX;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Messages below this stay as they are: a header of their own, and little to find in them.
pub const DEFLATED_BYTES_MIN: usize = 512;
/// How many times its size a message may grow.
pub const RATIO_MAX: usize = 256;
/// Growth that is never looked at.
pub const RATIO_FREE_BYTES: usize = 256 << 10;

/// What ends every compressed part, and is left out at the end of a message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Behind a complete message, this block is the last one; behind anything else it is not.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];
/// Effort: most of the gain for a fraction of the default's time.
const LEVEL: u32 = 4;
/// The smallest window, for clients that asked for less than the usual one.
const NARROW_WINDOW_BITS: u8 = 9;
/// A stored block's length has sixteen bits.
const STORED_BYTES_MAX: usize = 65_535;
/// Ended streams within one message. Senders that end blocks as final ones do it once or twice.
const STREAMS_MAX: usize = 8;
/// Room an output begins with, and grows by at least.
const OUTPUT_BYTES_MIN: usize = 4096;

/// Compresses. Owns about 270 KB from its first message on.
#[derive(Default)]
pub struct Deflater {
    wide: Option<Compress>,
    narrow: Option<Compress>,
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deflater")
    }
}

impl Deflater {
    /// Appends the pieces of one part, compressed, to `out`. `narrow`: within the smallest window.
    pub fn part(&mut self, pieces: &[&[u8]], narrow: bool, out: &mut Vec<u8>) {
        let (slot, bits) = match narrow {
            false => (&mut self.wide, WINDOW_BITS_MAX),
            true => (&mut self.narrow, NARROW_WINDOW_BITS),
        };
        let compress = slot.get_or_insert_with(|| Compress::new_with_window_bits(Compression::new(LEVEL), false, bits));
        compress.reset();
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        out.reserve(total / 8 + OUTPUT_BYTES_MIN);
        for (index, piece) in pieces.iter().enumerate() {
            let flush = match index + 1 == pieces.len() {
                true => FlushCompress::Sync,
                false => FlushCompress::None,
            };
            feed(compress, piece, flush, out);
        }
    }

    /// Appends the payload of a compressed message to `out`.
    pub fn message(&mut self, pieces: &[&[u8]], narrow: bool, out: &mut Vec<u8>) {
        self.part(pieces, narrow, out);
        assert!(out.ends_with(&TAIL), "a flush ends with an empty block");
        out.truncate(out.len() - TAIL.len());
    }
}

fn feed(compress: &mut Compress, mut input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
    loop {
        let before = compress.total_in();
        compress
            .compress_vec(input, out, flush)
            .expect("compressing into memory has no way to fail");
        input = &input[(compress.total_in() - before) as usize..];
        if input.is_empty() && out.len() < out.capacity() {
            return;
        }
        out.reserve(out.len().max(OUTPUT_BYTES_MIN));
    }
}

/// Appends `bytes` as they are, as a part of a compressed message.
pub fn store(bytes: &[u8], out: &mut Vec<u8>) {
    for block in bytes.chunks(STORED_BYTES_MAX) {
        let len = block.len() as u16;
        out.push(0);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
}

/// Bytes that [`store`] appends for so many.
pub fn stored_bytes(bytes: usize) -> usize {
    bytes + 5 * bytes.div_ceil(STORED_BYTES_MAX)
}

/// What ends a message made of parts: the beginning of an empty block, of which the receiver supplies the rest.
pub const MESSAGE_END: u8 = 0;

/// Decompresses. Owns about 40 KB from its first message on.
#[derive(Default)]
pub struct Inflater {
    stream: Option<Decompress>,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflater")
    }
}

/// What became of a piece of input.
#[derive(PartialEq, Eq)]
enum Fed {
    /// All of it was used, and more may come.
    Used,
    /// All of it was used, and a last block ended with it.
    Ended,
}

impl Inflater {
    /// Decompresses a whole message into `out`, which must be empty; at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Violation::MalformedDeflate`] for anything but complete blocks, [`Violation::MessageTooLarge`] and
    /// [`Violation::CompressionRatio`] as soon as a limit is passed.
    pub fn message(&mut self, payload: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Violation> {
        let by_ratio = payload.len().saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES);
        let (output_bytes_max, too_much) = match by_ratio < bytes_max {
            true => (by_ratio, Violation::CompressionRatio),
            false => (bytes_max, Violation::MessageTooLarge),
        };
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        stream.reset(false);
        let mut streams = 0;
        let mut feed = |input: &[u8], out: &mut Vec<u8>| inflate(stream, input, output_bytes_max, &mut streams, out);
        let fed = feed(payload, out)?.ok_or(too_much)?;
        if fed == Fed::Ended {
            return Ok(());
        }
        let len = out.len();
        feed(&TAIL, out)?.ok_or(too_much)?;
        match feed(&LAST_BLOCK, out)? {
            Some(Fed::Ended) if out.len() == len => Ok(()),
            // It ended in the middle of a block, which swallowed what was put behind it.
            _ => Err(Violation::MalformedDeflate),
        }
    }
}

/// `None`: the output would be larger than `bytes_max`.
fn inflate(
    stream: &mut Decompress,
    mut input: &[u8],
    bytes_max: usize,
    streams: &mut usize,
    out: &mut Vec<u8>,
) -> Result<Option<Fed>, Violation> {
    loop {
        if out.len() == out.capacity() {
            let wanted = (2 * out.len()).max(OUTPUT_BYTES_MIN).min(bytes_max.saturating_add(1));
            out.reserve_exact(wanted.saturating_sub(out.len()).max(1));
        }
        let before = (stream.total_in(), out.len());
        let status = stream
            .decompress_vec(input, out, FlushDecompress::None)
            .map_err(|_| Violation::MalformedDeflate)?;
        let used = (stream.total_in() - before.0) as usize;
        input = &input[used..];
        if out.len() > bytes_max {
            return Ok(None);
        }
        match status {
            Status::StreamEnd if input.is_empty() => return Ok(Some(Fed::Ended)),
            Status::StreamEnd => {
                *streams += 1;
                if *streams > STREAMS_MAX {
                    return Err(Violation::MalformedDeflate);
                }
                stream.reset(false);
            }
            _ if out.len() == out.capacity() => {}
            _ if input.is_empty() => return Ok(Some(Fed::Used)),
            _ if used == 0 && out.len() == before.1 => return Err(Violation::MalformedDeflate),
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "deflate_tests.rs"]
mod tests;
