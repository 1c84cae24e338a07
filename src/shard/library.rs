//! The documents that live on a shard.

use super::mail::{DocumentId, Refusal};
use super::snapshots::Snapshots;
use crate::awareness::Presence;
use crate::config::Config;
use crate::document::counters::Counters;
use crate::document::sets::{SetLimits, SetMembership};
use crate::document::{Document, Limits};
use crate::ids::{SessionRef, ShardId};
use crate::protocol::Fault;
use crate::session::Interest;
use crate::text::{TextLimits, TextState};
use bytes::Bytes;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Everything about one document on its home shard.
pub(super) struct Shelf {
    pub id: DocumentId,
    pub fields: Document,
    /// Who listens, and to what.
    pub listeners: HashMap<SessionRef, Interest>,
    /// How many of them each shard holds; a fan-out goes to these.
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
}

impl Shelf {
    /// Adds to what a session hears; returns whether it is new among the listeners.
    pub fn listen(&mut self, session: SessionRef, interest: Interest) -> bool {
        let before = self.listeners.get(&session).copied();
        let after = before.unwrap_or_default().with(interest);
        self.listeners.insert(session, after);
        if before.is_some() {
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
        self.fields.left(session);
        if let Some(text) = &mut self.text {
            text.current.retain(|other| *other != session);
            text.echoes.retain(|other| *other != session);
        }
        if self.listeners.remove(&session).is_none() {
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
        self.listeners.is_empty()
            && self.fields.field_count() == 0
            && self.fields.tombstone_count() == 0
            && self.text.is_none()
            && self.set.is_none()
            && self.counters.is_none()
            && self.presence.as_ref().is_none_or(|presence| presence.is_empty())
            && !self.flush_scheduled
    }

    /// Whether a newcomer would get anything to see.
    pub fn has_content(&self) -> bool {
        self.fields.field_count() > 0 || self.text.is_some() || self.set.is_some()
    }
}

/// All documents of a shard, addressed by place.
pub(super) struct Library {
    by_id: HashMap<DocumentId, u32>,
    shelves: Vec<Option<Shelf>>,
    free: Vec<u32>,
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
}

impl Library {
    pub fn new(config: &Config) -> Library {
        let bytes_max = usize::try_from(config.limits.document_bytes_max).unwrap_or(usize::MAX);
        let ttl_ms = config.sync.tombstone_ttl_s.saturating_mul(1000);
        Library {
            by_id: HashMap::new(),
            shelves: Vec::new(),
            free: Vec::new(),
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
        }
    }

    /// Where a document stands, if it is known.
    pub fn find(&self, id: &str) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// The document at a place, unless it is gone.
    pub fn at(&mut self, place: u32) -> Option<&mut Shelf> {
        self.shelves.get_mut(place as usize)?.as_mut()
    }

    /// The document with an id, if it is known.
    pub fn shelf(&mut self, id: &str) -> Option<&mut Shelf> {
        let place = self.find(id)?;
        self.at(place)
    }

    /// Makes a place for a new document.
    pub fn add(&mut self, id: &DocumentId, now_unix_ms: u64) -> u32 {
        let shelf = Some(Shelf {
            id: id.clone(),
            fields: Document::new(id.clone(), now_unix_ms),
            listeners: HashMap::new(),
            shards: SmallVec::new(),
            text: None,
            presence: None,
            set: None,
            counters: None,
            flushed_us: 0,
            changed_us: 0,
            flush_scheduled: false,
            modified_ms: now_unix_ms,
        });
        let place = match self.free.pop() {
            Some(place) => {
                self.shelves[place as usize] = shelf;
                place
            }
            None => {
                self.shelves.push(shelf);
                (self.shelves.len() - 1) as u32
            }
        };
        self.by_id.insert(id.clone(), place);
        place
    }

    /// Forgets a document that holds nothing any more; returns whether it did.
    pub fn dispose(&mut self, place: u32) -> bool {
        if !self.at(place).is_some_and(|shelf| shelf.is_disposable()) {
            return false;
        }
        if let Some(shelf) = self.shelves[place as usize].take() {
            self.by_id.remove(&shelf.id);
            self.free.push(place);
        }
        true
    }

    /// Forgets all documents (`/_test/clear`). Returns how many there were.
    pub fn clear(&mut self) -> usize {
        let cleared = self.by_id.len();
        self.by_id.clear();
        self.changed.clear();
        self.orphaned.clear();
        self.snapshots = Snapshots::default();
        for (place, shelf) in self.shelves.iter_mut().enumerate() {
            if shelf.take().is_some() {
                self.free.push(place as u32);
            }
        }
        cleared
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All documents.
    pub fn iter(&self) -> impl Iterator<Item = &Shelf> {
        self.shelves.iter().flatten()
    }

    /// All documents with their places, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Shelf)> {
        let numbered = self.shelves.iter_mut().enumerate();
        numbered.filter_map(|(place, shelf)| shelf.as_mut().map(|shelf| (place as u32, shelf)))
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
