//! The slab of a shard's sessions.
//!
//! Entries live in blocks that never move, so that a shard with a million connections neither copies them when it grows
//! nor holds twice the memory. A freed slot is reused last-in first-out with its generation raised, but not before the
//! effects of the turn have been carried out: until then the runtime still holds the old socket under that slot.

use crate::ids::{SessionRef, ShardId, Slot};
use crate::limits::SESSIONS_PER_SHARD_MAX;
use crate::session::Session;

const BLOCK: usize = 256;

#[derive(Debug)]
enum Entry {
    Free { next: Option<Slot>, generation: u32 },
    Taken(Session),
}

const _: () = assert!(size_of::<Entry>() <= 104, "a connection at rest got more expensive");

/// All sessions of one shard.
#[derive(Debug)]
pub struct Sessions {
    shard: ShardId,
    blocks: Vec<Box<[Entry]>>,
    used: usize,
    free: Option<Slot>,
    /// Freed in this turn.
    cooling: Vec<Slot>,
    live: usize,
}

impl Sessions {
    /// An empty slab.
    pub fn new(shard: ShardId) -> Sessions {
        Sessions {
            shard,
            blocks: Vec::new(),
            used: 0,
            free: None,
            cooling: Vec::new(),
            live: 0,
        }
    }

    /// Sessions at this moment.
    pub fn len(&self) -> usize {
        self.live
    }

    /// No session at this moment.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Slots ever used; every live slot is below.
    pub fn slots(&self) -> usize {
        self.used
    }

    /// Stores a session; its generation is set here. `None` when the slab is full.
    pub fn insert(&mut self, mut session: Session) -> Option<Slot> {
        let slot = match self.free {
            Some(slot) => slot,
            None => self.extend()?,
        };
        let entry = self.entry(slot)?;
        let Entry::Free { next, generation } = *entry else {
            unreachable!("the free list holds free slots only")
        };
        session.generation = generation;
        *entry = Entry::Taken(session);
        self.free = next;
        self.live += 1;
        Some(slot)
    }

    /// Takes a session out.
    pub fn remove(&mut self, slot: Slot) -> Option<Session> {
        let entry = self.entry(slot)?;
        let Entry::Taken(session) = entry else { return None };
        let generation = session.generation.wrapping_add(1);
        let free = Entry::Free { next: None, generation };
        let Entry::Taken(session) = std::mem::replace(entry, free) else {
            return None;
        };
        self.cooling.push(slot);
        self.live -= 1;
        Some(session)
    }

    /// Makes the slots freed so far available again.
    pub fn release_freed(&mut self) {
        while let Some(slot) = self.cooling.pop() {
            let before = self.free;
            if let Some(Entry::Free { next, .. }) = self.entry(slot) {
                *next = before;
                self.free = Some(slot);
            }
        }
    }

    /// The session in a slot.
    pub fn at(&self, slot: Slot) -> Option<&Session> {
        match self.blocks.get(slot.index() / BLOCK)?.get(slot.index() % BLOCK)? {
            Entry::Taken(session) => Some(session),
            Entry::Free { .. } => None,
        }
    }

    /// The session in a slot, to change it.
    pub fn at_mut(&mut self, slot: Slot) -> Option<&mut Session> {
        match self.entry(slot)? {
            Entry::Taken(session) => Some(session),
            Entry::Free { .. } => None,
        }
    }

    /// The slot of a reference, if that very session still lives here.
    pub fn find(&self, session: SessionRef) -> Option<Slot> {
        let slot = session.slot();
        (session.shard() == self.shard && self.reference(slot) == Some(session)).then_some(slot)
    }

    /// The reference to the session in a slot.
    pub fn reference(&self, slot: Slot) -> Option<SessionRef> {
        self.at(slot)
            .map(|session| SessionRef::new(self.shard, slot, session.generation))
    }

    /// All live sessions.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Session)> {
        (0..self.used).filter_map(|index| {
            let slot = Slot(index as u32);
            self.at(slot).map(|session| (slot, session))
        })
    }

    fn entry(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.blocks.get_mut(slot.index() / BLOCK)?.get_mut(slot.index() % BLOCK)
    }

    /// Makes one more slot, free and first in the free list.
    fn extend(&mut self) -> Option<Slot> {
        if self.used >= SESSIONS_PER_SHARD_MAX {
            return None;
        }
        if self.used == self.blocks.len() * BLOCK {
            self.blocks.push(
                (0..BLOCK)
                    .map(|_| Entry::Free {
                        next: None,
                        generation: 0,
                    })
                    .collect(),
            );
        }
        let slot = Slot(self.used as u32);
        self.used += 1;
        self.free = Some(slot);
        Some(slot)
    }
}
