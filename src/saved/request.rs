//! What shards ask of storage, and what they are answered.

use super::{SavedDocument, SnapshotAnswer, SnapshotRequest};
use crate::ids::ShardId;
use std::sync::Arc;

/// Takes a request on its way to storage; gives it back when the queue is full. Never blocks.
pub type Submit = Box<dyn Fn(Request) -> Result<(), Request> + Send + Sync>;

/// What a shard asks.
#[derive(Debug)]
pub enum Request {
    /// Read a document.
    Load(Load),
    /// Write a document.
    Store(Box<Store>),
    /// Keep, read or delete snapshots.
    Snapshot(Box<SnapshotRequest>),
    /// Delete everything (`/_test/clear`).
    Clear(ShardId),
}

/// Read a document.
#[derive(Clone, Debug)]
pub struct Load {
    /// Its id.
    pub document: Arc<str>,
    /// Who asks.
    pub shard: ShardId,
}

/// Write a document.
#[derive(Clone, Debug)]
pub struct Store {
    /// Its id.
    pub document: Arc<str>,
    /// Who asks.
    pub shard: ShardId,
    /// Tells the answer from those to other requests.
    pub serial: u64,
    /// The row's version when it was last seen; 0: there was none.
    pub version: i64,
    /// The whole document.
    pub content: SavedDocument,
    /// What changed since it was last stored, for the audit trail.
    pub audit: Vec<AuditEntry>,
}

/// One row of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// What was done.
    pub kind: AuditKind,
    /// The field's name; empty for a text.
    pub field: Box<str>,
    /// The value as JSON; `None` if there is none to keep.
    pub value: Option<Arc<[u8]>>,
    /// Who did it: a client id, or a made-up id of the connection.
    pub client: Box<str>,
    /// The document's clock.
    pub lam: u64,
}

/// Kinds of audited changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditKind {
    /// A field was written.
    Set,
    /// A field was deleted.
    Delete,
    /// A text was merged.
    Merge,
}

impl AuditKind {
    /// The word in the row.
    pub fn name(self) -> &'static str {
        match self {
            AuditKind::Set => "set",
            AuditKind::Delete => "delete",
            AuditKind::Merge => "merge",
        }
    }
}

/// What a shard is answered, in batches.
#[derive(Debug)]
pub enum Answer {
    /// To [`Request::Load`].
    Loaded(Loaded),
    /// To [`Request::Store`].
    Stored(Stored),
    /// To [`Request::Snapshot`].
    Snapshot(SnapshotAnswer),
    /// To [`Request::Clear`].
    Cleared,
}

/// A document was looked for.
#[derive(Debug)]
pub struct Loaded {
    /// Its id.
    pub document: Arc<str>,
    /// The row's version and what it held; `None`: there is no such row. An error is the row's own, and retrying does not
    /// help; the text is for the operator.
    pub found: Result<Option<(i64, SavedDocument)>, String>,
}

/// A document was written, or cannot be.
#[derive(Debug)]
pub struct Stored {
    /// Its id.
    pub document: Arc<str>,
    /// [`Store::serial`].
    pub serial: u64,
    /// The outcome.
    pub outcome: Result<StoredRow, StoreFailure>,
}

/// The row after a write.
#[derive(Debug)]
pub struct StoredRow {
    /// Its version.
    pub version: i64,
    /// What the row holds, if another server had written it meanwhile and the two copies were merged.
    pub merged: Option<SavedDocument>,
}

/// This document cannot be written as it is. (Trouble that concerns all documents is no answer: storage tries again.)
#[derive(Debug)]
pub struct StoreFailure {
    /// For the operator.
    pub reason: String,
}
