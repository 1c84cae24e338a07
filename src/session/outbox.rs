//! What waits to be sent to one connection.
//!
//! An outbox exists only while something waits (a connection at rest owns none). Small messages are appended to a tail
//! buffer, shared bytes become chunks of their own; both keep the order in which they were pushed. The outbox knows
//! where frames end, so that it can be cut short (slow consumer) or overtaken (`pong`) without breaking the stream.

use crate::handler::Outgoing;
use bytes::Bytes;
use std::collections::VecDeque;

/// Who else holds the bytes of a chunk, and what it counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody else holds it.
    Owned,
    /// Part of a fan-out, shared with other outboxes.
    Shared,
    /// Part of something whose amount is bounded elsewhere, so that it does not make a slow consumer: an answer that this
    /// connection asked for, or state that is skipped while the connection is behind.
    Bounded,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    origin: Origin,
    /// Whether a frame ends with this chunk. Chunks of one frame are neighbours.
    ends_frame: bool,
    /// It went ahead of what waited.
    urgent: bool,
}

/// The queue. Invariants: `queued` is the sum of all chunks, the tail and `in_flight`; the tail holds whole frames only.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    tail: Vec<u8>,
    in_flight: usize,
    queued: usize,
    /// The front chunk continues a frame whose beginning has been taken, or nothing may go before it.
    mid_frame: bool,
    /// Bytes waiting by origin; the tail is owned.
    owned: usize,
    bounded: usize,
    /// What of the owned bytes the shard has counted.
    pub counted: usize,
    /// When the kernel last accepted a byte, or the outbox came to life ([`crate::clock::Now::mono_us`]).
    pub progress_us: u64,
}

/// Room a tail begins with: a few answers.
const TAIL_BYTES_MIN: usize = 512;
/// Room it gets when these were more than a few.
const TAIL_BYTES_BURST: usize = 4 * 1024;

/// Room for chunks that an emptied outbox keeps.
const CHUNKS_KEPT: usize = 4;

/// A tail of this size becomes a chunk, so that one send does not have to move it.
const TAIL_BYTES_MAX: usize = 32 * 1024;

/// Shared frames up to this size are copied into a tail that is in use already.
const COPIED_BYTES_MAX: usize = 2048;

/// Pieces of one send; well below the kernel's IOV_MAX of 1024.
const PIECES_MAX: usize = 64;

impl Outbox {
    /// An empty outbox that came to life at `now_us`.
    pub fn new(now_us: u64) -> Outbox {
        Outbox {
            progress_us: now_us,
            ..Outbox::default()
        }
    }

    /// Bytes not yet accepted by the kernel.
    pub fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// Bytes not yet accepted by the kernel, without what is bounded elsewhere: what the bound of slow consumers looks at.
    pub fn unasked_bytes(&self) -> usize {
        self.queued - self.bounded
    }

    /// Bytes that wait and that no other outbox shares.
    pub fn owned_bytes(&self) -> usize {
        self.owned
    }

    /// Nothing waits and nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Whether there is something to take.
    pub fn has_waiting(&self) -> bool {
        self.queued > self.in_flight
    }

    /// As new; the room for chunks is kept unless it is large.
    pub fn reset(&mut self) {
        debug_assert!(self.is_empty(), "bytes still wait");
        let mut chunks = std::mem::take(&mut self.chunks);
        chunks.clear();
        chunks.shrink_to(CHUNKS_KEPT);
        *self = Outbox {
            chunks,
            ..Outbox::default()
        };
    }

    /// Appends whole frames by writing them into the buffer that `write` gets.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.tail.capacity() == 0 {
            self.tail.reserve_exact(TAIL_BYTES_MIN);
        } else if self.tail.capacity() == TAIL_BYTES_MIN && self.tail.len() > TAIL_BYTES_MIN / 2 {
            // Answers to a whole burst of requests: at once as large as they usually get, not by doubling.
            self.tail.reserve_exact(TAIL_BYTES_BURST - self.tail.len());
        }
        let before = self.tail.len();
        write(&mut self.tail);
        let added = self.tail.len() - before;
        self.queued += added;
        self.owned += added;
        if self.tail.len() >= TAIL_BYTES_MAX {
            self.seal();
        }
    }

    /// Appends one chunk.
    pub fn push(&mut self, bytes: Bytes, origin: Origin, ends_frame: bool) {
        self.seal();
        self.enter(&bytes, origin);
        self.chunks.push_back(Chunk {
            bytes,
            origin,
            ends_frame,
            urgent: false,
        });
    }

    /// Appends the end of a frame whose beginning was pushed, or a whole frame.
    pub fn push_last(&mut self, bytes: Vec<u8>) {
        let continues = self.chunks.back().is_some_and(|chunk| !chunk.ends_frame);
        if continues {
            self.push(bytes.into(), Origin::Owned, true);
        } else {
            self.append(|tail| tail.extend_from_slice(&bytes));
        }
    }

    /// Appends whole frames that other outboxes share. Small ones are copied: one buffer is cheaper to send than many.
    pub fn push_shared(&mut self, frames: Bytes, origin: Origin) {
        if frames.len() <= COPIED_BYTES_MAX && !self.tail.is_empty() {
            self.append(|tail| tail.extend_from_slice(&frames));
        } else {
            self.push(frames, origin, true);
        }
    }

    /// Appends the response that ends the handshake: nothing may ever go before it.
    pub fn push_handshake(&mut self, response: Bytes) {
        self.push(response, Origin::Owned, true);
        let last = self.chunks.len() - 1;
        for chunk in self.chunks.iter_mut().take(last) {
            chunk.ends_frame = false;
        }
        self.mid_frame = true;
    }

    /// Inserts a whole frame before everything that has not begun to leave, but behind earlier urgent frames.
    pub fn push_urgent(&mut self, frame: Bytes) {
        self.enter(&frame, Origin::Owned);
        let begun = if self.mid_frame { self.frame_end() } else { 0 };
        let before = self.chunks.iter().skip(begun).take_while(|chunk| chunk.urgent).count();
        self.chunks.insert(
            begun + before,
            Chunk {
                bytes: frame,
                origin: Origin::Owned,
                ends_frame: true,
                urgent: true,
            },
        );
    }

    /// Drops everything that has not begun to leave, and returns how many bytes that were. A frame whose beginning was
    /// taken stays whole.
    pub fn abandon(&mut self) -> usize {
        let before = self.queued;
        self.seal();
        let keep = if self.mid_frame { self.frame_end() } else { 0 };
        while self.chunks.len() > keep {
            if let Some(chunk) = self.chunks.pop_back() {
                self.leave(chunk.bytes.len(), chunk.origin);
                self.queued -= chunk.bytes.len();
            }
        }
        before - self.queued
    }

    /// Moves out up to about `bytes_max` bytes, at least one chunk if there is any.
    pub fn take(&mut self, bytes_max: usize) -> Outgoing {
        self.seal();
        let room = bytes_max.max(1);
        let mut outgoing = Outgoing::new();
        let mut taken = 0;
        while let Some(chunk) = self.chunks.front_mut() {
            if taken > 0 && taken + chunk.bytes.len() > bytes_max {
                break;
            }
            let (len, origin) = (chunk.bytes.len().min(room), chunk.origin);
            taken += len;
            if len < chunk.bytes.len() {
                outgoing.push(chunk.bytes.split_to(len));
                self.mid_frame = true;
                self.leave(len, origin);
                break;
            }
            self.mid_frame = !chunk.ends_frame;
            outgoing.extend(self.chunks.pop_front().map(|chunk| chunk.bytes));
            self.leave(len, origin);
            if outgoing.len() == PIECES_MAX {
                break;
            }
        }
        self.in_flight += taken;
        outgoing
    }

    /// The kernel accepted `bytes` of what was taken.
    pub fn sent(&mut self, now_us: u64, bytes: usize) {
        assert!(bytes <= self.in_flight, "more sent than taken");
        self.in_flight -= bytes;
        self.queued -= bytes;
        if bytes > 0 {
            self.progress_us = now_us;
        }
    }

    /// The connection moves to another shard: what is in flight leaves with the socket and is not accounted for again.
    pub fn depart(&mut self) {
        self.queued -= self.in_flight;
        self.in_flight = 0;
        self.counted = 0;
    }

    /// Bytes that begin to wait as a chunk.
    fn enter(&mut self, bytes: &Bytes, origin: Origin) {
        self.queued += bytes.len();
        match origin {
            Origin::Owned => self.owned += bytes.len(),
            Origin::Bounded => self.bounded += bytes.len(),
            Origin::Shared => {}
        }
    }

    /// Bytes that no longer wait.
    fn leave(&mut self, bytes: usize, origin: Origin) {
        match origin {
            Origin::Owned => self.owned -= bytes,
            Origin::Bounded => self.bounded -= bytes,
            Origin::Shared => {}
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.tail));
            self.chunks.push_back(Chunk {
                bytes,
                origin: Origin::Owned,
                ends_frame: true,
                urgent: false,
            });
        }
    }

    /// Index behind the frame at the front.
    fn frame_end(&self) -> usize {
        self.chunks
            .iter()
            .position(|chunk| chunk.ends_frame)
            .map_or(self.chunks.len(), |at| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, bytes_max: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while outbox.has_waiting() {
            let pieces = outbox.take(bytes_max);
            let taken: usize = pieces.iter().map(Bytes::len).sum();
            all.extend(pieces.iter().flat_map(|piece| piece.iter().copied()));
            outbox.sent(1, taken);
        }
        assert!(outbox.is_empty());
        all
    }

    #[test]
    fn order_is_kept_between_tail_and_chunks() {
        for bytes_max in [1, 2, 3, 100] {
            let mut outbox = Outbox::default();
            outbox.append(|tail| tail.extend_from_slice(b"ab"));
            outbox.push(Bytes::from_static(b"cdef"), Origin::Shared, true);
            outbox.append(|tail| tail.extend_from_slice(b"gh"));
            assert_eq!(outbox.queued_bytes(), 8);
            assert_eq!(drain(&mut outbox, bytes_max), b"abcdefgh");
        }
    }

    #[test]
    fn urgent_frames_overtake_whole_frames_only() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"AA"), Origin::Shared, false);
        outbox.push(Bytes::from_static(b"aa"), Origin::Shared, true);
        outbox.push(Bytes::from_static(b"BB"), Origin::Shared, true);
        let first = outbox.take(2);
        outbox.sent(1, 2);
        outbox.push_urgent(Bytes::from_static(b"!"));
        assert_eq!(first[0].as_ref(), b"AA");
        assert_eq!(drain(&mut outbox, 100), b"aa!BB");
    }

    #[test]
    fn abandoning_leaves_the_begun_frame_whole() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"AAaa"), Origin::Shared, true);
        outbox.push(Bytes::from_static(b"BB"), Origin::Shared, true);
        outbox.append(|tail| tail.push(b'c'));
        outbox.take(2);
        assert_eq!(outbox.owned_bytes(), 1, "only the tail is its own");
        assert_eq!(outbox.abandon(), 3);
        assert_eq!(outbox.owned_bytes(), 0);
        outbox.sent(1, 2);
        assert_eq!(drain(&mut outbox, 100), b"aa");
    }

    #[test]
    fn urgent_frames_keep_their_order_and_never_pass_the_handshake() {
        let mut outbox = Outbox::default();
        outbox.append(|tail| tail.extend_from_slice(b"HTTP "));
        outbox.push_handshake(Bytes::from_static(b"101 "));
        outbox.append(|tail| tail.extend_from_slice(b"later"));
        outbox.push_urgent(Bytes::from_static(b"1"));
        outbox.push_urgent(Bytes::from_static(b"2"));
        let first = outbox.take(4);
        outbox.sent(1, 4);
        outbox.push_urgent(Bytes::from_static(b"3"));
        assert_eq!(first[0].as_ref(), b"HTTP");
        assert_eq!(drain(&mut outbox, 100), b" 101 123later");
    }

    #[test]
    fn answers_do_not_count_against_slow_consumers() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"answer"), Origin::Bounded, true);
        outbox.push(Bytes::from_static(b"news"), Origin::Shared, true);
        assert_eq!(
            (outbox.queued_bytes(), outbox.unasked_bytes(), outbox.owned_bytes()),
            (10, 4, 0)
        );
        outbox.take(3);
        assert_eq!(outbox.unasked_bytes(), 7, "what is in flight counts");
        outbox.sent(1, 3);
        assert_eq!(drain(&mut outbox, 100), b"wernews");
        assert_eq!((outbox.unasked_bytes(), outbox.owned_bytes()), (0, 0));
    }
}
