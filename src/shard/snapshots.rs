//! Snapshots of documents, kept in memory (docs/protocol.md §16.4): bounded per document and per shard.

use crate::http::SnapshotFacts;
use crate::limits::{MEMORY_SNAPSHOT_BYTES_MAX, MEMORY_SNAPSHOTS_PER_DOCUMENT_MAX};
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// All snapshots of a shard's documents, newest last.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    by_document: HashMap<Arc<str>, VecDeque<SnapshotFacts>>,
    bytes: usize,
}

impl Snapshots {
    /// Keeps one more; the document's oldest goes when it has too many. `false`: no room for it.
    pub fn add(&mut self, snapshot: SnapshotFacts) -> bool {
        let bytes = snapshot.state.len();
        if self.bytes + bytes > MEMORY_SNAPSHOT_BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        let kept = self.by_document.entry(snapshot.document.as_str().into()).or_default();
        kept.push_back(snapshot);
        if kept.len() > MEMORY_SNAPSHOTS_PER_DOCUMENT_MAX
            && let Some(oldest) = kept.pop_front()
        {
            self.bytes -= oldest.state.len();
        }
        true
    }

    /// The newest of a document.
    pub fn latest(&self, document: &str) -> Option<&SnapshotFacts> {
        self.by_document.get(document)?.back()
    }

    /// Those of a document, newest first.
    pub fn newest_first(&self, document: &str) -> impl Iterator<Item = &SnapshotFacts> {
        self.by_document
            .get(document)
            .into_iter()
            .flat_map(|kept| kept.iter().rev())
    }

    /// The one with that id.
    pub fn find(&self, id: &str) -> Option<&SnapshotFacts> {
        self.by_document.values().flatten().find(|snapshot| snapshot.id == id)
    }

    /// Deletes the one with that id.
    pub fn remove(&mut self, id: &str) -> Option<SnapshotFacts> {
        let kept = self
            .by_document
            .values_mut()
            .find(|kept| kept.iter().any(|snapshot| snapshot.id == id))?;
        let at = kept.iter().position(|snapshot| snapshot.id == id)?;
        let removed = kept.remove(at)?;
        self.bytes -= removed.state.len();
        Some(removed)
    }
}
