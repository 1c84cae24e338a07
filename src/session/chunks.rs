//! Chunked messages of one connection (docs/protocol.md §15.1).

use crate::limits::{CHUNK_ID_BYTES_MAX, CHUNK_SET_IDLE_US, CHUNK_SETS_MAX, CHUNKS_MAX};

/// One part as it arrived.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Which message it belongs to.
    pub set: &'a str,
    /// Parts of that message.
    pub total: u64,
    /// Which one this is, from 0.
    pub index: u64,
    /// Its bytes, decoded.
    pub data: Vec<u8>,
}

/// A part that breaks the rules; its set is gone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid chunk")]
pub struct InvalidChunk;

/// All parts of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts {
    /// In their order; none is missing.
    parts: Vec<Option<Vec<u8>>>,
    /// Of all of them.
    bytes: usize,
}

impl Parts {
    /// How many bytes the whole message has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The parts of a long message while they are put together.
#[derive(Debug)]
pub struct Gathering {
    whole: Vec<u8>,
    rest: std::iter::Flatten<std::vec::IntoIter<Option<Vec<u8>>>>,
    bytes: usize,
}

impl Gathering {
    /// Nothing has been put together yet.
    pub fn begin(parts: Parts) -> Gathering {
        Gathering {
            whole: Vec::with_capacity(parts.bytes),
            rest: parts.parts.into_iter().flatten(),
            bytes: parts.bytes,
        }
    }

    /// How many bytes the whole message has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts parts together until these have `bytes_max` bytes or more. Returns whether none is left.
    pub fn step(&mut self, bytes_max: usize) -> bool {
        let stop = self.whole.len().saturating_add(bytes_max);
        while self.whole.len() < stop {
            match self.rest.next() {
                Some(part) => self.whole.extend_from_slice(&part),
                None => return true,
            }
        }
        false
    }

    /// What has been put together.
    pub fn finish(self) -> Vec<u8> {
        self.whole
    }
}

#[derive(Debug)]
struct ChunkSet {
    id: Box<str>,
    parts: Vec<Option<Vec<u8>>>,
    touched_us: u64,
}

impl ChunkSet {
    fn bytes(&self) -> usize {
        self.parts.iter().flatten().map(Vec::len).sum()
    }
}

/// The sets being collected.
#[derive(Debug, Default)]
pub struct ChunkSets {
    sets: Vec<ChunkSet>,
}

impl ChunkSets {
    /// No set is open.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Adds a part; returns all of them, in order, when it was the last one missing. `bytes_max` bounds the whole message,
    /// and what all open sets hold together.
    pub fn add(&mut self, chunk: Chunk<'_>, now_us: u64, bytes_max: usize) -> Result<Option<Parts>, InvalidChunk> {
        self.expire(now_us);
        let id = chunk.set;
        let result = self.try_add(chunk, now_us, bytes_max);
        if result.is_err() {
            self.sets.retain(|set| &*set.id != id);
        }
        result
    }

    fn try_add(&mut self, chunk: Chunk<'_>, now_us: u64, bytes_max: usize) -> Result<Option<Parts>, InvalidChunk> {
        let valid = (1..=CHUNKS_MAX).contains(&chunk.total) && chunk.index < chunk.total;
        if !valid || chunk.set.is_empty() || chunk.set.len() > CHUNK_ID_BYTES_MAX {
            return Err(InvalidChunk);
        }
        let position = match self.sets.iter().position(|set| &*set.id == chunk.set) {
            Some(position) => position,
            None if self.sets.len() == CHUNK_SETS_MAX => return Err(InvalidChunk),
            None => {
                let parts = (0..chunk.total).map(|_| None).collect();
                self.sets.push(ChunkSet {
                    id: chunk.set.into(),
                    parts,
                    touched_us: now_us,
                });
                self.sets.len() - 1
            }
        };
        let set = &mut self.sets[position];
        if set.parts.len() as u64 != chunk.total {
            return Err(InvalidChunk);
        }
        set.touched_us = now_us;
        set.parts[chunk.index as usize] = Some(chunk.data);
        if self.sets.iter().map(ChunkSet::bytes).sum::<usize>() > bytes_max {
            return Err(InvalidChunk);
        }
        let set = &mut self.sets[position];
        if set.parts.iter().any(Option::is_none) {
            return Ok(None);
        }
        let set = self.sets.swap_remove(position);
        Ok(Some(Parts {
            bytes: set.bytes(),
            parts: set.parts,
        }))
    }

    /// Discards sets that have been idle too long.
    pub fn expire(&mut self, now_us: u64) {
        self.sets
            .retain(|set| now_us.saturating_sub(set.touched_us) < CHUNK_SET_IDLE_US);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk<'a>(set: &'a str, total: u64, index: u64, data: &[u8]) -> Chunk<'a> {
        Chunk {
            set,
            total,
            index,
            data: data.to_vec(),
        }
    }

    #[test]
    fn parts_in_any_order_make_the_message() {
        let mut sets = ChunkSets::default();
        assert_eq!(sets.add(chunk("a", 3, 2, b"c"), 0, 100), Ok(None));
        assert_eq!(sets.add(chunk("a", 3, 0, b"x"), 0, 100), Ok(None));
        assert_eq!(
            sets.add(chunk("a", 3, 0, b"a"), 0, 100),
            Ok(None),
            "a repeated index replaces"
        );
        let parts = sets.add(chunk("a", 3, 1, b"bb"), 0, 100).unwrap().expect("all parts");
        assert!(sets.is_empty());
        assert_eq!(parts.bytes(), 4);
        let mut gathering = Gathering::begin(parts);
        let steps: Vec<bool> = (0..4).map(|_| gathering.step(1)).collect();
        assert_eq!(steps, [false, false, false, true]);
        assert_eq!(gathering.finish(), b"abbc");
    }

    #[test]
    fn violations_drop_the_set() {
        for bad in [
            chunk("a", 3, 1, b""),
            chunk("a", 2, 2, b""),
            chunk("a", 2, 1, &[0; 101]),
        ] {
            let mut sets = ChunkSets::default();
            sets.add(chunk("a", 2, 0, b"a"), 0, 100).unwrap();
            assert_eq!(sets.add(bad, 0, 100), Err(InvalidChunk));
            assert!(sets.is_empty());
        }
        for (total, index) in [(0, 0), (257, 0)] {
            assert_eq!(
                ChunkSets::default().add(chunk("a", total, index, b""), 0, 100),
                Err(InvalidChunk)
            );
        }
    }

    #[test]
    fn idle_sets_make_room_and_open_sets_are_bounded() {
        let mut sets = ChunkSets::default();
        for set in 0..CHUNK_SETS_MAX {
            sets.add(chunk(&set.to_string(), 2, 0, b"a"), 0, 100).unwrap();
        }
        assert_eq!(sets.add(chunk("more", 2, 0, b"a"), 1, 100), Err(InvalidChunk));
        assert_eq!(sets.add(chunk("more", 2, 0, b"a"), CHUNK_SET_IDLE_US, 100), Ok(None));
    }
}
