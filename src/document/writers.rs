//! The client ids that records name, each stored once per document.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::Arc;

/// A client id in its document's table; counted from 1 so that an `Option` of it takes no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriterId(NonZeroU32);

impl WriterId {
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    fn at(index: usize) -> Self {
        let number = u32::try_from(index + 1).expect("at most one writer per record, and one sweep's worth of others");
        Self(NonZeroU32::new(number).expect("index + 1 is not 0"))
    }
}

/// An answer of [`Writers::intern`].
pub(super) struct Interned {
    pub id: WriterId,
    /// After a sweep: the new id for each old index. The caller renames its records. Ids no record names map to themselves.
    pub remapped: Option<Vec<WriterId>>,
}

/// Unused ids are swept when the table has doubled since the last sweep, so that it stays proportional to the records
/// however many clients come and go.
#[derive(Default)]
pub(super) struct Writers(Option<Box<Table>>);

#[derive(Default)]
struct Table {
    names: Vec<Arc<str>>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    name_bytes: usize,
    sweep_at: usize,
}

const SWEEP_MIN: usize = 16;

impl Writers {
    pub fn name(&self, id: Option<WriterId>) -> Option<&Arc<str>> {
        self.0.as_ref()?.names.get(id?.index())
    }

    pub fn memory_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |table| {
            size_of::<Table>()
                + table.names.capacity() * size_of::<Arc<str>>()
                + table.index.allocation_size()
                + table.name_bytes
        })
    }

    /// The id of `name`. `previous` is a guess that usually holds: a field's last writer often writes it again.
    /// `in_use` names the ids of all records; it is walked only when the table is swept.
    pub fn intern<I>(&mut self, name: &str, previous: Option<WriterId>, in_use: impl FnOnce() -> I) -> Interned
    where
        I: Iterator<Item = WriterId>,
    {
        if let Some(id) = previous
            && self.name(previous).is_some_and(|known| **known == *name)
        {
            return Interned { id, remapped: None };
        }
        let table = self.0.get_or_insert_default();
        if let Some(id) = table.find(name) {
            return Interned { id, remapped: None };
        }
        let remapped = (table.names.len() >= table.sweep_at.max(SWEEP_MIN)).then(|| table.sweep(in_use()));
        Interned {
            id: table.push(Arc::from(name)),
            remapped,
        }
    }
}

impl Table {
    fn find(&self, name: &str) -> Option<WriterId> {
        let hash = self.hasher.hash_one(name);
        self.index
            .find(hash, |&at| *self.names[at as usize] == *name)
            .map(|&at| WriterId::at(at as usize))
    }

    fn push(&mut self, name: Arc<str>) -> WriterId {
        let id = WriterId::at(self.names.len());
        let hash = self.hasher.hash_one(&*name);
        self.name_bytes += name.len() + 16;
        self.names.push(name);
        let (names, hasher) = (&self.names, &self.hasher);
        self.index
            .insert_unique(hash, id.index() as u32, |&at| hasher.hash_one(&*names[at as usize]));
        id
    }

    fn sweep(&mut self, in_use: impl Iterator<Item = WriterId>) -> Vec<WriterId> {
        let old = std::mem::take(&mut self.names);
        self.index.clear();
        self.name_bytes = 0;
        let mut used = vec![false; old.len()];
        for id in in_use {
            used[id.index()] = true;
        }
        let mut remapped = Vec::with_capacity(old.len());
        for (at, name) in old.into_iter().enumerate() {
            remapped.push(if used[at] { self.push(name) } else { WriterId::at(at) });
        }
        self.sweep_at = self.names.len() * 2;
        remapped
    }
}
