//! Who listens to a document, each with `S` of docs/protocol.md §9.4: the clock value its last `sync_response` had.
//!
//! One table for both, because it exists once per connection and document: 16 bytes each, or 17 in a hash table that is
//! between seven eighths and seven sixteenths full.

use crate::ids::SessionRef;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Most documents have one or two listeners: those are kept inline and cost no allocation.
pub(super) enum Listeners {
    Few(SmallVec<[(SessionRef, u64); 2]>),
    Many(Box<HashMap<SessionRef, u64>>),
}

/// Up to this many are searched one by one, which is faster than hashing.
const FEW_MAX: usize = 8;

impl Default for Listeners {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Listeners {
    /// The session listens, if it did not before; returns whether it is new.
    pub fn join(&mut self, session: SessionRef) -> bool {
        if self.clock(session).is_some() {
            return false;
        }
        self.insert(session, 0);
        true
    }

    /// A `sync_response` with this clock goes to the session, which listens from now on.
    pub fn insert(&mut self, session: SessionRef, clock: u64) {
        match self {
            Self::Few(few) => {
                if let Some(entry) = few.iter_mut().find(|entry| entry.0 == session) {
                    entry.1 = clock;
                } else if few.len() < FEW_MAX {
                    few.push((session, clock));
                } else {
                    let mut many: HashMap<_, _> = few.drain(..).collect();
                    many.insert(session, clock);
                    *self = Self::Many(Box::new(many));
                }
            }
            Self::Many(many) => {
                many.insert(session, clock);
            }
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub fn contains(&self, session: SessionRef) -> bool {
        self.clock(session).is_some()
    }

    fn clock(&self, session: SessionRef) -> Option<u64> {
        match self {
            Self::Few(few) => few.iter().find(|entry| entry.0 == session).map(|entry| entry.1),
            Self::Many(many) => many.get(&session).copied(),
        }
    }

    /// 0 for a session that never got a `sync_response` (it subscribed by writing).
    pub fn clock_of(&self, session: SessionRef) -> u64 {
        self.clock(session).unwrap_or(0)
    }

    /// The session listens no more; returns whether it did.
    pub fn remove(&mut self, session: SessionRef) -> bool {
        match self {
            Self::Few(few) => {
                let before = few.len();
                few.retain(|entry| entry.0 != session);
                few.len() < before
            }
            Self::Many(many) => {
                let removed = many.remove(&session).is_some();
                // Half of the bound, so that one client coming and going does not convert it back and forth.
                if many.len() <= FEW_MAX / 2 {
                    *self = Self::Few(many.drain().collect());
                }
                removed
            }
        }
    }

    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Few(few) if few.spilled() => few.capacity() * size_of::<(SessionRef, u64)>(),
            Self::Few(_) => 0,
            Self::Many(many) => size_of::<HashMap<SessionRef, u64>>() + many.allocation_size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ShardId, Slot};

    #[test]
    fn few_and_many_answer_alike() {
        let session = |slot| SessionRef::new(ShardId(1), Slot(slot), 0);
        let mut listeners = Listeners::default();
        for count in 0..100 {
            listeners.insert(session(count), u64::from(count) + 1);
            listeners.insert(session(0), 500 + u64::from(count));
            assert_eq!(
                listeners.clock_of(session(count)).max(500),
                500 + u64::from(if count == 0 { count } else { 0 })
            );
            assert_eq!(listeners.clock_of(session(0)), 500 + u64::from(count));
            assert_eq!(listeners.clock_of(session(count + 1)), 0);
        }
        for count in 0..100 {
            assert!(listeners.contains(session(count)) && !listeners.join(session(count)));
            assert!(listeners.remove(session(count)) && !listeners.remove(session(count)));
            assert_eq!(listeners.len(), 99 - count as usize);
            assert_eq!(listeners.clock_of(session(count)), 0);
            assert!(count == 99 || listeners.clock_of(session(99)) == 100);
        }
        assert_eq!(listeners.memory_bytes() / 1024, 0);
        assert!(listeners.join(session(5)) && listeners.clock_of(session(5)) == 0);
    }
}
