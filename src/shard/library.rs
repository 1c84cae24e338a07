//! The documents that live on a shard.

use super::by_document::{ByDocument, OfDocument};
use super::cluster::Shared;
use super::mail::{DocumentId, Refusal};
use super::snapshots::Snapshots;
use super::storehouse::Durable;
use crate::awareness::Presence;
use crate::config::Config;
use crate::document::counters::Counters;
use crate::document::sets::{SetLimits, SetMembership};
use crate::document::{Document, Limits};
use crate::ids::{SessionRef, ShardId};
use crate::protocol::Fault;
use crate::text::{TextLimits, TextState};
use bytes::Bytes;
use hashbrown::HashSet;
use smallvec::SmallVec;

/// Everything about one document on its home shard.
pub(super) struct Shelf {
    pub id: DocumentId,
    pub fields: Document,
    /// How many listeners each shard holds; a fan-out goes to these.
    pub shards: SmallVec<[(ShardId, u32); 2]>,
    pub text: Option<Box<Text>>,
    pub presence: Option<Box<Presence>>,
    pub set: Option<Box<SetMembership>>,
    pub counters: Option<Box<Counters>>,
    /// When the fields were flushed last, in monotonic microseconds.
    pub flushed_us: u64,
    /// When the first of the changes that wait for a flush was made.
    pub changed_us: u64,
    /// A flush is scheduled or listed for the end of the turn.
    pub flush_scheduled: bool,
    /// Unix milliseconds of the last accepted write.
    pub modified_ms: u64,
    /// What is known of the document's row; `None` without a database.
    pub durable: Option<Box<Durable>>,
    /// What is known of other nodes that hold the document; `None` on a server of one node.
    pub shared: Option<Box<Shared>>,
}

/// The text of a document and what its listeners have of it (text-state.md §6).
#[derive(Default)]
pub(super) struct Text {
    pub state: TextState,
    /// The state as it stands in messages: JSON inside a JSON string. Made on demand.
    pub encoded: Option<Bytes>,
    /// Greatest client time stamp merged.
    pub timestamp: u64,
    /// The state changed since the last relay.
    pub relay_pending: bool,
    /// When the last relay left, in monotonic microseconds.
    pub relayed_us: u64,
    /// A relay is scheduled.
    pub relay_scheduled: bool,
    /// Sessions that have the current state although it has not been relayed.
    pub current: SmallVec<[SessionRef; 2]>,
    /// Sessions that must be sent the state even if it has not changed (R3, R4).
    pub echoes: SmallVec<[SessionRef; 2]>,
    /// It was changed here, and other nodes have not been told.
    pub untold: bool,
    /// Among several nodes: sessions whose states have been merged here. What a client shows may be out of step with its
    /// blocks when its former node owed it an echo, so the first state it sends is always answered.
    pub known: HashSet<SessionRef>,
}

impl Shelf {
    /// A session hears of the document from now on; of what, its own shard knows. Returns whether it is new here.
    pub fn listen(&mut self, session: SessionRef) -> bool {
        if !self.fields.listen(session) {
            return false;
        }
        match self.shards.iter_mut().find(|(shard, _)| *shard == session.shard()) {
            Some((_, count)) => *count += 1,
            None => self.shards.push((session.shard(), 1)),
        }
        true
    }

    /// A session hears nothing more; returns whether it did before.
    pub fn unlisten(&mut self, session: SessionRef) -> bool {
        if let Some(text) = &mut self.text {
            text.current.retain(|other| *other != session);
            text.echoes.retain(|other| *other != session);
            text.known.remove(&session);
        }
        if !self.fields.left(session) {
            return false;
        }
        if let Some(at) = self.shards.iter().position(|(shard, _)| *shard == session.shard()) {
            self.shards[at].1 -= 1;
            if self.shards[at].1 == 0 {
                self.shards.swap_remove(at);
            }
        }
        true
    }

    /// Whether forgetting the document loses nothing.
    pub fn is_disposable(&self) -> bool {
        self.fields.listener_count() == 0
            && self.fields.field_count() == 0
            && self.fields.tombstone_count() == 0
            && self.text.is_none()
            && self.set.is_none()
            && self.counters.is_none()
            && self.presence.as_ref().is_none_or(|presence| !presence.has_own())
            && !self.flush_scheduled
            && self.durable.as_ref().is_none_or(|durable| durable.is_empty())
    }

    /// Whether a newcomer would get anything to see.
    pub fn has_content(&self) -> bool {
        self.fields.field_count() > 0 || self.text.is_some() || self.set.is_some()
    }
}

impl OfDocument for Shelf {
    fn document(&self) -> &str {
        &self.id
    }
}

/// All documents of a shard, addressed by place.
pub(super) struct Library {
    shelves: ByDocument<Shelf>,
    /// Documents to flush at the end of the turn.
    pub changed: Vec<u32>,
    /// Documents with presence orphans.
    pub orphaned: Vec<u32>,
    pub limits: Limits,
    pub text_limits: TextLimits,
    pub set_limits: SetLimits,
    pub snapshots: Snapshots,
    pub presence_scheduled: bool,
    pub housekeeping_scheduled: bool,
    /// Documents have rows in a database.
    durable: bool,
}

impl Library {
    /// An empty one; `durable`: its documents have rows in a database.
    pub fn new(config: &Config, durable: bool) -> Library {
        let bytes_max = usize::try_from(config.limits.document_bytes_max).unwrap_or(usize::MAX);
        let ttl_ms = config.sync.tombstone_ttl_s.saturating_mul(1000);
        Library {
            shelves: ByDocument::default(),
            changed: Vec::new(),
            orphaned: Vec::new(),
            limits: Limits {
                document_bytes_max: bytes_max,
                tombstone_ttl_ms: ttl_ms,
                ..Limits::default()
            },
            text_limits: TextLimits::default(),
            set_limits: SetLimits {
                bytes_max,
                removed_ttl_ms: ttl_ms,
                ..SetLimits::default()
            },
            snapshots: Snapshots::default(),
            presence_scheduled: false,
            housekeeping_scheduled: false,
            durable,
        }
    }

    /// Where a document stands, if it is known.
    pub fn find(&self, id: &str) -> Option<u32> {
        self.shelves.find(id)
    }

    /// The document at a place, unless it is gone.
    pub fn at(&mut self, place: u32) -> Option<&mut Shelf> {
        self.shelves.at_mut(place)
    }

    /// The document with an id, if it is known.
    pub fn shelf(&mut self, id: &str) -> Option<&mut Shelf> {
        let place = self.find(id)?;
        self.at(place)
    }

    /// Makes a place for a new document.
    pub fn add(&mut self, id: &DocumentId, now_unix_ms: u64) -> u32 {
        self.shelves.insert(Shelf {
            id: id.clone(),
            fields: Document::new(id.clone(), now_unix_ms),
            shards: SmallVec::new(),
            text: None,
            presence: None,
            set: None,
            counters: None,
            flushed_us: 0,
            changed_us: 0,
            flush_scheduled: false,
            modified_ms: now_unix_ms,
            durable: self.durable.then(Box::default),
            shared: None,
        })
    }

    /// Forgets a document that holds nothing any more; returns whether it did.
    pub fn dispose(&mut self, place: u32) -> bool {
        if !self.at(place).is_some_and(|shelf| shelf.is_disposable()) {
            return false;
        }
        self.remove(place).is_some()
    }

    /// Takes a document out.
    pub fn remove(&mut self, place: u32) -> Option<Shelf> {
        self.shelves.take(place)
    }

    /// Places that have been given out so far, free ones included.
    pub fn places(&self) -> usize {
        self.shelves.places()
    }

    /// Forgets all documents (`/_test/clear`). Returns how many there were.
    pub fn clear(&mut self) -> usize {
        let cleared = self.shelves.len();
        self.changed.clear();
        self.orphaned.clear();
        self.snapshots = Snapshots::default();
        let places: Vec<u32> = self.shelves.iter_mut().map(|(place, _)| place).collect();
        for place in places {
            self.shelves.take(place);
        }
        cleared
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.shelves.len()
    }

    /// All documents.
    pub fn iter(&self) -> impl Iterator<Item = &Shelf> {
        self.shelves.iter()
    }

    /// All documents with their places, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Shelf)> {
        self.shelves.iter_mut()
    }

    /// Whether the end of the turn has something to flush.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }
}

/// A limit of a document as a refusal.
pub(super) fn refusal(limit: crate::document::DocumentLimit) -> Refusal {
    use crate::document::DocumentLimit as Limit;
    let (fault, limit) = match limit {
        Limit::TooLarge { max, .. } => (Fault::DOCUMENT_TOO_LARGE, ("documentBytes", max)),
        Limit::TooManyFields { max, .. } => (Fault::DOCUMENT_TOO_LARGE, ("fields", max)),
        Limit::NameTooLong { max, .. } => (Fault::FIELD_NAME_TOO_LONG, ("fieldNameBytes", max)),
    };
    Refusal {
        fault,
        reason: None,
        limit: Some((limit.0, limit.1 as u64)),
    }
}
