//! Newtypes for the identities that cross module borders.

use std::fmt;

/// One executor and the documents it owns. Shards are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The sender of mail that no shard sent: storage, cluster and other threads of the process.
    pub const EXTERNAL: ShardId = ShardId(u16::MAX);

    /// The shard's position in a list of all shards.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Position of a connection in its shard's slab. Reused after the connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    /// The slot as an index into a slab.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A session for as long as its process lives: shard (10 bits), slot (24 bits) and the slot's generation (30 bits).
/// Never reused in practice (a slot would have to be taken 2^30 times), so a stale reference matches nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRef(u64);

impl SessionRef {
    const SLOT_BITS: u32 = 24;
    const GENERATION_BITS: u32 = 30;

    /// Panics when a part does not fit its bits; the slab's limits keep them in range.
    pub fn new(shard: ShardId, slot: Slot, generation: u32) -> Self {
        assert!(shard.0 < 1 << 10 && slot.0 < 1 << Self::SLOT_BITS);
        let generation = u64::from(generation) & ((1 << Self::GENERATION_BITS) - 1);
        Self(
            (u64::from(shard.0) << (Self::SLOT_BITS + Self::GENERATION_BITS))
                | (u64::from(slot.0) << Self::GENERATION_BITS)
                | generation,
        )
    }

    /// The shard whose core holds the session's socket.
    pub fn shard(self) -> ShardId {
        ShardId((self.0 >> (Self::SLOT_BITS + Self::GENERATION_BITS)) as u16)
    }

    /// The session's place in that shard's slab.
    pub fn slot(self) -> Slot {
        Slot((self.0 >> Self::GENERATION_BITS) as u32 & ((1 << Self::SLOT_BITS) - 1))
    }

    /// How often that place had been given out before.
    pub fn generation(self) -> u32 {
        self.0 as u32 & ((1 << Self::GENERATION_BITS) - 1)
    }
}

impl fmt::Debug for SessionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard().0, self.slot().0, self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ref_gives_back_its_parts() {
        let session = SessionRef::new(ShardId(1023), Slot((1 << 24) - 1), (1 << 30) - 1);
        assert_eq!(session.shard(), ShardId(1023));
        assert_eq!(session.slot(), Slot((1 << 24) - 1));
        assert_eq!(session.generation(), (1 << 30) - 1);
        assert_ne!(session, SessionRef::new(ShardId(1023), Slot((1 << 24) - 1), 0));
    }
}
