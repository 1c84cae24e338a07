//! What of a document outlives its process: one [`SavedRecord`] per field and tombstone, and how records of one field that
//! were written by different servers are put in order (docs/protocol.md §9.3, §19).
//!
//! The order is total and looks at nothing but the records, so merging is commutative, associative and idempotent whoever
//! merges: by (`ts`, `lam`), which local acceptance always raises; records that agree in both were written by two servers
//! within one millisecond, and then deletions win over values, and the rest decides by content.

use super::record::{Author, Record};
use super::{CLOCK_KEPT_MAX, Document, key};
use crate::mutation::Mutation;
use hashbrown::HashMap;
use std::cmp::Ordering;
use std::sync::Arc;

/// A field or tombstone as it is stored. Cheap to clone; made to travel to the threads that store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRecord {
    /// The name as a JSON string ([`super::json_key`]).
    pub key: Arc<str>,
    /// Encoded JSON; `None` is a tombstone.
    pub value: Option<Arc<[u8]>>,
    /// `ts`: Unix milliseconds that order accepted writes.
    pub timestamp_ms: u64,
    /// The document's clock when the value was accepted; 0 if a server without such clocks wrote it.
    pub lam: u64,
    /// The client id of a stamped write.
    pub writer: Option<Arc<str>>,
    /// The writer's own clock entry; 0 if it had none.
    pub own: u64,
    /// When a tombstone was made, in Unix milliseconds; 0 for a live field.
    pub deleted_at_ms: u64,
}

impl SavedRecord {
    /// Whether this record replaces `other`, a record of the same field.
    pub fn beats(&self, other: &SavedRecord) -> bool {
        self.rank(other) == Ordering::Greater
    }

    fn rank(&self, other: &SavedRecord) -> Ordering {
        (self.timestamp_ms, self.lam)
            .cmp(&(other.timestamp_ms, other.lam))
            .then_with(|| self.value.is_none().cmp(&other.value.is_none()))
            .then_with(|| self.own.cmp(&other.own))
            .then_with(|| self.writer.cmp(&other.writer))
            .then_with(|| self.value.cmp(&other.value))
            .then_with(|| self.deleted_at_ms.cmp(&other.deleted_at_ms))
    }
}

/// How far a restored clock is set beyond the stored one where the wall clock does not lead: clocks told to clients since
/// the document was last stored must be passed.
const CLOCK_MARGIN: u64 = 65_536;

impl Document {
    /// Every field and tombstone.
    pub fn saved_records(&self) -> Vec<SavedRecord> {
        let mut buried_at: HashMap<(&str, u64), u64> = HashMap::new();
        if self.tombstone_count() > 0 {
            let graves = self.graveyard.newest();
            buried_at.extend(graves.map(|grave| ((&*grave.key, grave.lam), grave.at_ms)));
        }
        let saved = |record: &Record| SavedRecord {
            deleted_at_ms: match record.is_live() {
                true => 0,
                false => buried_at.get(&(&*record.key, record.lam)).copied().unwrap_or(0),
            },
            ..self.saved(record)
        };
        self.records.iter().map(saved).collect()
    }

    /// Fields that were written here, in this process, and leave with the next [`Document::flush`]: what other nodes cannot
    /// know yet. To be asked right before it.
    pub fn accepted(&self) -> Vec<SavedRecord> {
        let until = self.flushed_until();
        let accepted = |at: &u32| {
            let record = &self.records[*at as usize];
            // A record that was taken over from elsewhere has no connection.
            (record.stamp <= until && record.author.for_all && record.author.session().is_some()).then_some(record)
        };
        let saved = |record: &Record| SavedRecord {
            deleted_at_ms: match record.is_live() {
                true => 0,
                false => self.buried_at_ms(record),
            },
            ..self.saved(record)
        };
        self.dirty.iter().filter_map(accepted).map(saved).collect()
    }

    /// When a tombstone of late was made.
    fn buried_at_ms(&self, record: &Record) -> u64 {
        let mut graves = self.graveyard.newest();
        let grave = graves.find(|grave| grave.lam == record.lam && grave.key == record.key);
        grave.map_or(record.timestamp_ms, |grave| grave.at_ms)
    }

    /// Calls `each` with every live field.
    pub fn for_each_live(&self, mut each: impl FnMut(&SavedRecord)) {
        let live = self.records.iter().filter(|record| record.is_live());
        live.for_each(|record| each(&self.saved(record)));
    }

    /// The document as it was stored: `clock` is the greatest clock value known of it. It has no dirty field and no
    /// listener. Of several records of one field the greatest counts.
    pub fn restore(id: impl Into<Arc<str>>, now_unix_ms: u64, clock: u64, mut records: Vec<SavedRecord>) -> Self {
        let mut document = Document::new(id, now_unix_ms);
        let lams = records.iter().map(|record| record.lam);
        let stored = lams.chain([clock]).filter(|clock| *clock <= CLOCK_KEPT_MAX).max();
        if stored.is_some_and(|stored| stored >= document.clock) {
            document.clock = stored
                .map_or(document.clock, |stored| stored + CLOCK_MARGIN)
                .min(CLOCK_KEPT_MAX);
        }
        // Graves stand in the order of the deletions.
        records.sort_by_key(|record| record.deleted_at_ms);
        for record in &records {
            document.take_over(record);
        }
        document.state = None;
        document
    }

    /// Merges a record that another server stored. Returns whether it replaced what was here; then the field is dirty for
    /// every subscriber.
    pub fn merge(&mut self, record: &SavedRecord) -> bool {
        if let Some(at) = self.place_of(&record.key) {
            let current = &self.records[at];
            let deleted_at_ms = match current.is_live() {
                true => 0,
                // Unknown without a search, and it orders nothing that differs in anything that matters.
                false => record.deleted_at_ms,
            };
            let current = SavedRecord {
                deleted_at_ms,
                ..self.saved(current)
            };
            if !record.beats(&current) {
                return false;
            }
        }
        self.step(record.lam);
        let at = self.take_over(record);
        let clock = self.clock;
        let author = &mut self.records[at].author;
        author.for_all = true;
        if !Mutation::TakeOverStamps.is_on() {
            self.records[at].stamp = clock;
        }
        self.mark_dirty(at);
        true
    }

    /// Puts a record in the place of whatever the field had. Returns where.
    fn take_over(&mut self, record: &SavedRecord) -> usize {
        let escaped = key::inner(&record.key);
        let hash = self.hash(escaped);
        let at = match self.position(hash, escaped) {
            Some(at) => {
                if !self.records[at].is_live() {
                    self.graveyard.risen();
                }
                self.set_value(at, record.value.as_deref());
                at
            }
            None => self.insert(hash, escaped, record.timestamp_ms, record.value.as_deref()),
        };
        let lam = Some(record.lam).filter(|lam| *lam <= CLOCK_KEPT_MAX).unwrap_or(0);
        let clock = self.clock;
        let kept = &mut self.records[at];
        kept.timestamp_ms = record.timestamp_ms;
        kept.lam = lam;
        kept.stamp = if lam == 0 { clock } else { lam };
        kept.born = kept.born.min(kept.stamp);
        let mut author = Author::nobody();
        author.own = record.own;
        author.dirty = kept.author.dirty;
        kept.author = author;
        if let Some(writer) = &record.writer {
            let id = self.intern_writer(writer, None);
            self.records[at].author.writer = Some(id);
        }
        if record.value.is_none() {
            let key = self.records[at].key.clone();
            self.graveyard.bury(record.deleted_at_ms, lam, key);
        }
        at
    }

    fn place_of(&self, key: &str) -> Option<usize> {
        let escaped = key::inner(key);
        self.position(self.hash(escaped), escaped)
    }

    /// The record without the time of its deletion, which only the graveyard knows.
    fn saved(&self, record: &Record) -> SavedRecord {
        SavedRecord {
            key: record.key.clone(),
            value: record.value.clone(),
            timestamp_ms: record.timestamp_ms,
            lam: record.lam,
            writer: self.writers.name(record.author.writer).cloned(),
            own: record.author.own,
            deleted_at_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests;
