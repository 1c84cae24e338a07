//! What a shard with a database keeps beside its documents: which are being loaded, which have changes that are not
//! stored, which acknowledgements wait for that.
//!
//! Invariants:
//! - A document is in the library or being loaded, never both: nobody is served from a document that was not looked for.
//! - At most one store of a document is under way, and it carries the whole document; so what it confirms is everything
//!   up to the change that was the last when it was made.
//! - `unsaved` counts the shelves of the library for which [`Durable::is_saved`] is false.

use super::mail::{DocumentId, Mail, Wrote};
use super::stored_snapshots::StoredSnapshots;
use crate::peers::Envelope;
use crate::saved::{AuditEntry, NoteSession, Submit};
use std::collections::{BTreeMap, VecDeque};

/// The way to storage, shared by all shards.
pub struct StorageLink {
    /// Takes requests.
    pub submit: Submit,
    /// Takes notes of connections, if the operator wants them in the database.
    pub note: Option<NoteSession>,
    /// Says how storage is doing.
    pub health: Box<dyn Fn() -> StorageFacts + Send + Sync>,
    /// How long it has been in trouble, in milliseconds; 0: it is not. Cheap.
    pub troubled_ms: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// How storage is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "every number is explained by its help text in the metrics")]
pub struct StorageFacts {
    pub available: bool,
    pub unavailable_ms: u64,
    pub commits: u64,
    pub documents_stored: u64,
    pub documents_loaded: u64,
    pub conflicts: u64,
    pub refused: u64,
    pub retries: u64,
    pub store_us: u64,
    pub stores_waiting: u64,
    pub loads_waiting: u64,
    pub store_time: crate::histogram::Durations,
}

/// How long a request waits for storage before it is answered with an error (docs/protocol.md §21).
pub(super) const PATIENCE_US: u64 = 5_000_000;
/// How often requests that wait for documents are looked at.
pub(super) const LOADING_TICK_US: u64 = 250_000;
/// When a full queue is tried again.
pub(super) const QUEUE_FULL_US: u64 = 2_000;
/// How often documents that could be unloaded are looked for.
pub(super) const UNLOAD_TICK_US: u64 = 1_000_000;
/// A stored document that nobody has used for this long is unloaded (docs/protocol.md §18.4).
pub(super) const UNLOAD_IDLE_US: u64 = 300_000_000;
/// Documents looked at in one tick.
pub(super) const UNLOAD_STEP: usize = 4096;
/// After the database refused a document for its content, its writes are refused for so long.
pub(super) const REFUSED_US: u64 = 10_000_000;
/// Text of messages whose acknowledgements wait, per shard; beyond it writes are refused.
pub(super) const WITHHELD_BYTES_MAX: usize = 256 << 20;
/// Audit entries kept for one document until it is stored; further ones are counted and dropped.
pub(super) const AUDIT_ENTRIES_MAX: usize = 10_000;
/// Shortest time between two entries about one text.
pub(super) const TEXT_AUDIT_US: u64 = 1_000_000;
/// Longest id the tables take (docs/protocol.md §18.2).
pub(super) const STORED_ID_CHARS_MAX: usize = 255;

/// See the module documentation.
#[derive(Default)]
pub(super) struct Storehouse {
    /// In the order of their ids: what is overdue is asked for in the same order every time.
    pub loading: BTreeMap<DocumentId, Loading>,
    /// Places of documents to be stored, each once.
    pub listed: VecDeque<u32>,
    /// How many of them were listed when the last turn ended: the next one hands them to storage.
    pub ripe: usize,
    /// Numbers the stores.
    pub serial: u64,
    /// Documents in the library that have changes which are not stored.
    pub unsaved: usize,
    /// Acknowledgements that wait, and the text of their messages.
    pub withheld: usize,
    pub withheld_bytes: usize,
    /// What the documents of the library cost in memory, as of their last store.
    pub document_bytes: usize,
    /// Where the search for documents to unload goes on.
    pub unload_next: usize,
    pub loading_scheduled: bool,
    pub storing_scheduled: bool,
    pub unload_scheduled: bool,
    /// Questions about snapshots that storage has.
    pub snapshots: StoredSnapshots,
    /// Questions that are answered when the tables are empty.
    pub clearing: Vec<(u64, crate::ids::ShardId)>,
}

/// A document on its way here.
pub(super) struct Loading {
    /// What it waits for.
    pub arrival: Arrival,
    /// The bus delivers what is published about it.
    pub joined: bool,
    /// Since when.
    pub since_us: u64,
    /// What other nodes have said about it meanwhile.
    pub envelopes: Vec<(u64, Envelope)>,
    /// Storage has the request.
    pub submitted: bool,
    /// Requests in the order they came, with the time they came at.
    pub waiting: VecDeque<(u64, Mail)>,
}

/// What a document on its way waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The bus, to deliver what is published about it.
    Joining,
    /// Other nodes, to say what they know.
    Asking,
    /// The database.
    Reading,
}

/// What a document's shelf keeps for its row.
#[derive(Default)]
pub(super) struct Durable {
    /// The row's version; 0: there is none.
    pub version: i64,
    /// Changes accepted here so far.
    pub changes: u64,
    /// How many of them are stored.
    pub saved: u64,
    /// The store under way.
    pub under_way: Option<UnderWay>,
    /// When the oldest change was made that is not stored, in monotonic microseconds. (An upper bound: after a store, the
    /// time it was sent.)
    pub unsaved_us: u64,
    /// When the store under way was sent.
    pub sent_us: u64,
    /// Acknowledgements that wait, oldest first.
    pub withheld: VecDeque<Withheld>,
    pub patience_scheduled: bool,
    /// In the list of documents to be stored.
    pub listed: bool,
    /// Until when writes are refused because the database refused the document.
    pub refused_until_us: u64,
    /// When the document was last used.
    pub used_us: u64,
    /// Its part of `document_bytes`.
    pub counted_bytes: usize,
    pub audit: Vec<AuditEntry>,
    /// When a change of the text was last noted there.
    pub text_audited_us: u64,
}

/// A store that has not been answered.
#[derive(Clone, Copy)]
pub(super) struct UnderWay {
    /// Its number.
    pub serial: u64,
    /// How many of the document's changes it contains.
    pub changes: u64,
}

/// The answer to a write, which leaves when the write is stored.
pub(super) struct Withheld {
    /// Number of the document's last change at that time.
    pub changes: u64,
    pub since_us: u64,
    pub wrote: Wrote,
}

impl Durable {
    /// Whether the row contains everything.
    pub fn is_saved(&self) -> bool {
        self.saved == self.changes
    }

    /// Whether there is something to store that storage has, or will be given. What the database refused for its content is
    /// not tried again by itself.
    pub fn is_awaited(&self) -> bool {
        !self.is_saved() && (self.listed || self.under_way.is_some())
    }

    /// Whether there is no row, and nothing for one.
    pub fn is_empty(&self) -> bool {
        self.version == 0 && self.is_saved() && self.under_way.is_none()
    }
}
