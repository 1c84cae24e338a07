//! `S` of docs/protocol.md §9.4: the clock value each subscriber's last `sync_response` had.

use crate::ids::SessionRef;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Most documents have one or two subscribers: those are kept inline and cost no allocation.
pub(super) enum Synced {
    Few(SmallVec<[(SessionRef, u64); 2]>),
    Many(Box<HashMap<SessionRef, u64>>),
}

/// Up to this many are searched one by one, which is faster than hashing.
const FEW_MAX: usize = 8;

impl Default for Synced {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Synced {
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

    /// 0 for a session that never got a `sync_response` (it subscribed by writing).
    pub fn clock_of(&self, session: SessionRef) -> u64 {
        match self {
            Self::Few(few) => few.iter().find(|entry| entry.0 == session).map_or(0, |entry| entry.1),
            Self::Many(many) => many.get(&session).copied().unwrap_or(0),
        }
    }

    pub fn remove(&mut self, session: SessionRef) {
        match self {
            Self::Few(few) => few.retain(|entry| entry.0 != session),
            Self::Many(many) => {
                many.remove(&session);
                // Half of the bound, so that one client coming and going does not convert it back and forth.
                if many.len() <= FEW_MAX / 2 {
                    *self = Self::Few(many.drain().collect());
                }
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
        let mut synced = Synced::default();
        for count in 0..100 {
            synced.insert(session(count), u64::from(count) + 1);
            synced.insert(session(0), 500 + u64::from(count));
            assert_eq!(
                synced.clock_of(session(count)).max(500),
                500 + u64::from(if count == 0 { count } else { 0 })
            );
            assert_eq!(synced.clock_of(session(0)), 500 + u64::from(count));
            assert_eq!(synced.clock_of(session(count + 1)), 0);
        }
        for count in 0..100 {
            synced.remove(session(count));
            assert_eq!(synced.clock_of(session(count)), 0);
            assert!(count == 99 || synced.clock_of(session(99)) == 100);
        }
        assert_eq!(synced.memory_bytes() / 1024, 0);
    }
}
