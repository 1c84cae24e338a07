//! Positions in a list by the hash of what stands there: where the fields of a document are, and those of a long map.
//!
//! A hash table that is full is copied into a larger one, and for very many fields that takes as long as
//! handling some thousand writes. From [`STEPWISE_MIN`] entries on the old table therefore stays beside the new one, and
//! every insertion moves a few entries over.
//!
//! Invariants:
//! - Every position stands in exactly one of the two tables.
//! - Those in the old table are at least `next`, so going up from there meets all of them.

use hashbrown::HashTable;

/// A table of fewer entries is copied at once.
const STEPWISE_MIN: usize = 4096;
/// Positions that an insertion looks at for moving. Two would do: the new table has room for as many insertions as the
/// old one had entries.
const MOVED_PER_INSERTION: u32 = 4;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Index {
    table: HashTable<u32>,
    old: Option<Box<Old>>,
}

#[derive(Debug)]
struct Old {
    table: HashTable<u32>,
    next: u32,
}

impl Index {
    /// The position with that hash for which `is_it` holds.
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let is_it = |at: &u32| is_it(*at);
        if let Some(at) = self.table.find(hash, is_it) {
            return Some(*at);
        }
        self.old.as_ref()?.table.find(hash, is_it).copied()
    }

    /// Takes out the position with that hash for which `is_it` holds.
    pub fn remove(&mut self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let is_it = |at: &u32| is_it(*at);
        if let Ok(entry) = self.table.find_entry(hash, is_it) {
            return Some(entry.remove().0);
        }
        let entry = self.old.as_mut()?.table.find_entry(hash, is_it).ok()?;
        Some(entry.remove().0)
    }

    /// Puts a position that is not there in. `hash_of` gives the hash of any position.
    pub fn insert(&mut self, hash: u64, position: u32, hash_of: impl Fn(u32) -> u64) {
        if self.old.is_some() {
            self.move_some(&hash_of);
        }
        if self.table.len() == self.table.capacity() && self.table.len() >= STEPWISE_MIN {
            self.grow(&hash_of);
        }
        self.table.insert_unique(hash, position, |at| hash_of(*at));
    }

    /// How many positions there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.table.len() + self.old.as_ref().map_or(0, |old| old.table.len())
    }

    /// Heap bytes.
    pub fn memory_bytes(&self) -> usize {
        let old = self.old.as_ref();
        self.table.allocation_size() + old.map_or(0, |old| old.table.allocation_size() + size_of::<Old>())
    }

    fn grow(&mut self, hash_of: &impl Fn(u32) -> u64) {
        // Only many removals in between can have left something of the one before.
        while self.old.is_some() {
            self.move_some(hash_of);
        }
        let larger = HashTable::with_capacity(self.table.len() * 2);
        let table = std::mem::replace(&mut self.table, larger);
        self.old = Some(Box::new(Old { table, next: 0 }));
    }

    fn move_some(&mut self, hash_of: &impl Fn(u32) -> u64) {
        let Some(old) = &mut self.old else { return };
        for _ in 0..MOVED_PER_INSERTION {
            if old.table.is_empty() {
                self.old = None;
                return;
            }
            let (hash, position) = (hash_of(old.next), old.next);
            old.next += 1;
            if let Ok(entry) = old.table.find_entry(hash, |at| *at == position) {
                entry.remove();
                self.table.insert_unique(hash, position, |at| hash_of(*at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Spreads positions as a hash of names does.
    fn mixed(position: u32) -> u64 {
        u64::from(position).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn no_insertion_hashes_more_than_a_few_others() {
        let mut index = Index::default();
        let hashed = Cell::new(0);
        let hash_of = |position| {
            hashed.set(hashed.get() + 1);
            mixed(position)
        };
        for position in 0..100_000 {
            hashed.set(0);
            index.insert(mixed(position), position, hash_of);
            if position as usize > 2 * STEPWISE_MIN {
                assert!(hashed.get() <= MOVED_PER_INSERTION, "{} at {position}", hashed.get());
            }
        }
        assert_eq!(index.len(), 100_000);
        assert!((0..100_000).all(|position| index.find(mixed(position), |at| at == position) == Some(position)));
    }

    /// Removal as the document does it: the last position takes the place of the removed one. Names are numbers here.
    #[test]
    fn positions_are_found_whatever_is_removed_meanwhile() {
        let mut index = Index::default();
        let mut names: Vec<u32> = Vec::new();
        let mut dice = 1_u64;
        for name in 0..40_000 {
            names.push(name);
            let position = names.len() as u32 - 1;
            index.insert(mixed(name), position, |at| mixed(names[at as usize]));
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if dice >> 62 == 0 {
                let at = (dice >> 20) as usize % names.len();
                assert_eq!(
                    index.remove(mixed(names[at]), |found| found as usize == at),
                    Some(at as u32)
                );
                names.swap_remove(at);
                if at < names.len() {
                    let from = names.len() as u32;
                    assert_eq!(index.remove(mixed(names[at]), |found| found == from), Some(from));
                    index.insert(mixed(names[at]), at as u32, |at| mixed(names[at as usize]));
                }
            }
        }
        assert_eq!(index.len(), names.len());
        for (at, name) in names.iter().enumerate() {
            assert_eq!(index.find(mixed(*name), |found| found as usize == at), Some(at as u32));
        }
    }
}
