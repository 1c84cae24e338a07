//! Documents as they are stored: what is kept of one, how two copies merge, and how it stands in a row.
//!
//! The row layout is that of docs/protocol.md §18.3, which the TypeScript and Python servers read too and whose rows are
//! taken over ([`encode()`], [`decode()`]). Merging looks at nothing but the two copies, so servers that write one row in any
//! order end with the same document.
//!
//! Between a shard and whatever stores its documents travel a [`Request`] and an [`Answer`]. A shard has at most one
//! [`Store`] of a document under way, and every one of them carries the whole document, so none needs to be remembered
//! when a later one was stored.

mod decode;
mod encode;
mod exact;
mod request;
mod session;
mod snapshot;

pub use decode::{RowError, RowFacts, decode};
pub use encode::encode;
pub use exact::stored_value;
pub use request::{
    Answer, AuditEntry, AuditKind, Load, Loaded, Request, Store, StoreFailure, Stored, StoredRow, Submit,
};
pub use session::{NoteSession, SessionNote};
pub use snapshot::{
    NewSnapshot, SnapshotAnswer, SnapshotAsk, SnapshotRequest, SnapshotRow, decode_snapshot, encode_snapshot,
};

use crate::document::SavedRecord;
use crate::document::counters::SavedCounters;
use crate::document::sets::SavedElement;
use crate::text::{Incoming, TextState, merge};
use hashbrown::HashMap;
use std::sync::Arc;

/// All that is stored of one document. Cheap to clone field by field: names, values and texts are shared.
#[derive(Clone, Debug, Default)]
pub struct SavedDocument {
    /// `L`: the document's clock.
    pub clock: u64,
    /// Fields and tombstones, each name once.
    pub records: Vec<SavedRecord>,
    /// The text, if there is one.
    pub text: Option<SavedText>,
    /// Set elements, each value once.
    pub set: Vec<SavedElement>,
    /// Counter totals, if anybody counted.
    pub counters: Option<SavedCounters>,
}

/// A text as it is stored.
#[derive(Clone, Debug, Default)]
pub struct SavedText {
    /// Merged and canonical.
    pub state: TextState,
    /// Greatest client time stamp merged, in Unix milliseconds.
    pub timestamp: u64,
}

impl SavedDocument {
    /// Merges another copy into this one, which is the one that stands in the database: where two texts contradict each
    /// other, it wins (text-state.md §7).
    pub fn merge(&mut self, other: SavedDocument) {
        self.clock = self.clock.max(other.clock);
        merge_by_key(
            &mut self.records,
            other.records,
            |record| record.key.clone(),
            SavedRecord::beats,
        );
        merge_by_key(
            &mut self.set,
            other.set,
            |element| element.value.clone(),
            SavedElement::beats,
        );
        match (&mut self.text, other.text) {
            (Some(ours), Some(theirs)) => {
                ours.state = merge(Some(&ours.state), &Incoming::from(&theirs.state)).state;
                ours.timestamp = ours.timestamp.max(theirs.timestamp);
            }
            (ours @ None, theirs) => *ours = theirs,
            (Some(_), None) => {}
        }
        match (&mut self.counters, other.counters) {
            (Some(ours), Some(theirs)) => merge_counters(ours, theirs),
            (ours @ None, theirs) => *ours = theirs,
            (Some(_), None) => {}
        }
    }

    /// Roughly what the document takes as a row, in bytes; for the bounds of batches, not for accounting.
    pub fn row_bytes(&self) -> usize {
        let record = |record: &SavedRecord| 2 * record.key.len() + record.value.as_ref().map_or(0, |v| v.len()) + 64;
        let text = self.text.as_ref().map_or(0, |text| 2 * text.state.memory_bytes());
        let set: usize = self.set.iter().map(|element| element.value.len() + 32).sum();
        128 + self.records.iter().map(record).sum::<usize>() + text + set
    }
}

fn merge_by_key<T>(ours: &mut Vec<T>, theirs: Vec<T>, key: impl Fn(&T) -> Arc<str>, beats: impl Fn(&T, &T) -> bool) {
    let mut places: HashMap<Arc<str>, usize> = ours.iter().enumerate().map(|(at, item)| (key(item), at)).collect();
    for item in theirs {
        match places.get(&key(&item)) {
            Some(&at) if beats(&item, &ours[at]) => ours[at] = item,
            Some(_) => {}
            None => {
                places.insert(key(&item), ours.len());
                ours.push(item);
            }
        }
    }
}

fn merge_counters(ours: &mut SavedCounters, theirs: SavedCounters) {
    ours.others.merge(theirs.others);
    ours.recent.merge(theirs.recent);
    for (client, total) in theirs.totals {
        match ours.totals.binary_search_by(|known| known.0.cmp(&client)) {
            Ok(at) => ours.totals[at].1.merge(total),
            Err(at) => ours.totals.insert(at, (client, total)),
        }
    }
}

#[cfg(test)]
mod tests;
