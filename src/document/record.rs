//! What a document keeps per field (docs/protocol.md §9.3).

use super::writers::WriterId;
use crate::ids::{SessionRef, ShardId, Slot};
use std::sync::Arc;

/// Bytes in front of the text or value of an `Arc` allocation (two counts).
const ARC_HEADER_BYTES: usize = 16;

/// One field: its value, where it stands in the order of writes, and who wrote it.
pub(super) struct Record {
    /// The name as a JSON string, shared with every message about the field.
    pub key: Arc<str>,
    /// Encoded JSON; `None` is a tombstone.
    pub value: Option<Arc<[u8]>>,
    /// `ts`: wall-clock order of the accepted writes; never decreases.
    pub timestamp_ms: u64,
    /// The document's clock when the current value was accepted.
    pub lam: u64,
    /// The clock subscribers are told: `lam`, raised by every write that lost since.
    pub stamp: u64,
    /// The document's clock when the field got its record.
    pub born: u64,
    pub author: Author,
}

const _: () = assert!(size_of::<Record>() <= 96, "a field's record grew");

impl Record {
    pub fn is_live(&self) -> bool {
        self.value.is_some()
    }

    /// What the field adds to the state: `"name":value`; nothing for a tombstone.
    pub fn live_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, |value| self.key.len() + 1 + value.len())
    }

    /// Heap bytes of name and value.
    pub fn heap_bytes(&self) -> usize {
        self.key.len() + ARC_HEADER_BYTES + self.value.as_ref().map_or(0, |value| value.len() + ARC_HEADER_BYTES)
    }
}

/// Who wrote the current value, and what that connection has been told. The dirty flags live here to share its padding.
pub(super) struct Author {
    /// The connection, meaningless unless `connected`.
    session: SessionRef,
    /// The client's own clock entry in the write; 0 if it had none.
    pub own: u64,
    /// The greatest stamp that the author's copy of the field may already have (§9.4): an own echo at or below it would be
    /// ignored by the client, so it gets the stamp instead.
    pub seen: u64,
    /// The client id of a stamped write.
    pub writer: Option<WriterId>,
    connected: bool,
    /// In the document's dirty list.
    pub dirty: bool,
    /// Dirty for every subscriber, not only for those with a forced mark.
    pub for_all: bool,
}

impl Author {
    pub fn nobody() -> Self {
        Self {
            session: SessionRef::new(ShardId(0), Slot(0), 0),
            own: 0,
            seen: 0,
            writer: None,
            connected: false,
            dirty: false,
            for_all: false,
        }
    }

    pub fn session(&self) -> Option<SessionRef> {
        self.connected.then_some(self.session)
    }

    pub fn is(&self, session: SessionRef) -> bool {
        self.session() == Some(session)
    }

    pub fn set_session(&mut self, session: SessionRef) {
        self.session = session;
        self.connected = true;
    }
}
