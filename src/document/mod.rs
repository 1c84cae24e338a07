//! Field documents: who wins when several clients write one field, and which clock each of them is sent.
//!
//! A [`Document`] is owned by one shard. It takes writes, marks fields dirty, and at the flush says per field what every
//! subscriber is to be told. It knows no socket, no frame and no text; values are encoded JSON that it never decodes,
//! except to recognise a deletion (an object with `__deleted` equal to `true`).
//!
//! The rules are those of docs/protocol.md §9.3 (winner), §9.4 (clocks), §9.6 (tombstones) and §10 (dirty set).
//! Invariants, each checked by the seeded simulation in `tests/lww_simulation.rs`:
//!
//! - (a) after quiescence every client that runs the SDK's own last-write-wins shows the document's value;
//! - (b) the echo of a client's own write never replaces a newer local edit of that client;
//! - (c) every clock sent is a non-empty map of integers below 2^53;
//! - (d) the stamp of a field never decreases, and the document's clock `L` is at least every stamp.
//!
//! Beside the fields live two kinds of operations that documents carry but fields do not: set membership ([`sets`]) and
//! counter totals ([`counters`]).
//!
//! What can fail: a write that would exceed a [`Limits`] entry is refused by [`Document::check`] before anything is applied.

pub mod counters;
mod flush;
pub(crate) mod index;
mod key;
mod listeners;
mod record;
mod saved;
pub mod sets;
mod tombstone;
mod write;
mod writers;

pub use flush::{AuthorClock, FlushedField, SentClock};
pub use key::{json_key, name_of_key};
pub use saved::SavedRecord;
pub use tombstone::{TOMBSTONE_JSON, is_tombstone};
pub use write::{ClockView, DocumentLimit, Limits, Verdict, Write};

use crate::ids::SessionRef;
use crate::mutation::Mutation;
use bytes::Bytes;
use hashbrown::DefaultHashBuilder;
use index::Index;
use listeners::Listeners;
use record::{Author, Record};
use std::hash::BuildHasher;
use std::sync::Arc;
use tombstone::Graveyard;
use write::Stamped;
use writers::{WriterId, Writers};

/// The greatest clock value that counts in any document where a client says it. Anything far above is ignored: a hostile
/// 2^53 would freeze the document, because no client could ever count past it.
pub const CLOCK_VALUE_MAX: u64 = 1 << 50;

/// How far a client may be ahead of a document that counts beyond [`CLOCK_VALUE_MAX`] because somebody pushed it there: the
/// edits it makes offline. So many again and again take 50 billion writes to [`CLOCK_KEPT_MAX`].
const CLOCK_LEAD_MAX: u64 = 1 << 16;

/// The greatest clock value that counts at all: in stored rows, and in what other nodes and clients say of a document that
/// was pushed beyond [`CLOCK_VALUE_MAX`].
pub const CLOCK_KEPT_MAX: u64 = 1 << 52;

/// How far a client's wall clock may run ahead of the server's before it is cut back.
const TIMESTAMP_LEAD_MAX_MS: u64 = 1000;

/// Dirty lists longer than this give their memory back after a flush, so that a document at rest stays small.
const DIRTY_CAPACITY_KEPT: usize = 64;

/// What some writes change about the size of a document. It may be put together in parts, a first time to estimate and, if
/// the estimate is too large, a second time to count.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    writes: usize,
    bytes_at_most: usize,
    bytes: isize,
    live: isize,
    records: usize,
}

impl Growth {
    /// Adds the most that these writes can add, or says that a name is too long.
    pub fn estimate(&mut self, limits: &Limits, writes: &[Write<'_>]) -> Result<(), DocumentLimit> {
        for write in writes {
            let (bytes, max) = (write.name().len(), limits.name_bytes_max);
            if max != 0 && bytes > max {
                return Err(DocumentLimit::NameTooLong { bytes, max });
            }
            // A name can grow sixfold by escaping; quotes, colon and comma make four more.
            self.bytes_at_most += bytes * 6 + 4 + write.value().len();
        }
        self.writes += writes.len();
        Ok(())
    }
}

fn unlimited_if_0(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

/// The fields of one document, with the clock that orders them.
///
/// At rest it owns: one record of 96 bytes per field plus its name and value, five bytes of index per field, 16 bytes per
/// listener, and the encoded state if somebody asked for it since the last change.
pub struct Document {
    id: Arc<str>,
    /// `L` of §9.4: at least every stamp ever given out and every countable clock value ever received.
    clock: u64,
    records: Vec<Record>,
    /// Positions in `records`, hashed by the escaped name.
    index: Index,
    hasher: DefaultHashBuilder,
    writers: Writers,
    listeners: Listeners,
    graveyard: Graveyard,
    /// The greatest stamp of a tombstone that was dropped: a catch-up from before it cannot be complete.
    forgotten_stamp: u64,
    /// Positions of the fields that have the dirty flag, each once.
    dirty: Vec<u32>,
    /// Marks for one connection only (it lost and must be told), by position. May hold duplicates until the flush.
    forced: Vec<(u32, SessionRef)>,
    live: u32,
    /// Sum over live fields of `"name":value`.
    live_bytes: usize,
    /// Heap bytes of all names and values.
    heap_bytes: usize,
    state: Option<Bytes>,
}

const _: () = assert!(size_of::<Document>() <= 384, "a document at rest grew");

impl Document {
    /// An empty document. Its clock starts at the wall clock, so that stamps keep growing over a restart without storage.
    pub fn new(id: impl Into<Arc<str>>, now_unix_ms: u64) -> Self {
        Self {
            id: id.into(),
            clock: now_unix_ms.min(CLOCK_VALUE_MAX),
            records: Vec::new(),
            index: Index::default(),
            hasher: DefaultHashBuilder::default(),
            writers: Writers::default(),
            listeners: Listeners::default(),
            graveyard: Graveyard::default(),
            forgotten_stamp: 0,
            dirty: Vec::new(),
            forced: Vec::new(),
            live: 0,
            live_bytes: 0,
            heap_bytes: 0,
            state: None,
        }
    }

    /// The document's id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// `L`: what a client of this document has been told at most.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Number of live fields.
    pub fn field_count(&self) -> usize {
        self.live as usize
    }

    /// Number of tombstones kept.
    pub fn tombstone_count(&self) -> usize {
        self.records.len() - self.live as usize
    }

    /// The live value of a field as JSON text; `None` if the field is absent or deleted.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let escaped = key::escape(name);
        self.position(self.hash(&escaped), &escaped)
            .and_then(|at| self.records[at].value.as_deref())
    }

    /// Whether all of `writes` (distinct names) fit. A delta is atomic: the caller checks it whole, then writes each field.
    ///
    /// Writes that do not make the document larger always pass, so that a full document can be emptied.
    pub fn check(&self, limits: &Limits, writes: &[Write<'_>]) -> Result<(), DocumentLimit> {
        let mut growth = Growth::default();
        growth.estimate(limits, writes)?;
        if self.surely_takes(limits, &growth) {
            return Ok(());
        }
        self.count_exactly(&mut growth, writes);
        self.takes(limits, &growth)
    }

    /// Whether estimated writes fit for sure. Usually they do, and no field has to be looked up.
    pub fn surely_takes(&self, limits: &Limits, growth: &Growth) -> bool {
        self.encoded_bytes() + growth.bytes_at_most <= unlimited_if_0(limits.document_bytes_max)
            && self.records.len() + growth.writes <= unlimited_if_0(limits.records_max)
    }

    /// Adds to `growth` what these writes change exactly.
    pub fn count_exactly(&self, growth: &mut Growth, writes: &[Write<'_>]) {
        for write in writes {
            let escaped = key::escape(write.name());
            match self.position(self.hash(&escaped), &escaped) {
                None => growth.records += 1,
                Some(at) if self.records[at].is_live() => {
                    growth.bytes -= self.records[at].live_bytes() as isize;
                    growth.live -= 1;
                }
                Some(_) => {}
            }
            if !is_tombstone(write.value()) {
                growth.bytes += (escaped.len() + 3 + write.value().len()) as isize;
                growth.live += 1;
            }
        }
    }

    /// Whether writes fit that have been counted exactly.
    pub fn takes(&self, limits: &Limits, growth: &Growth) -> Result<(), DocumentLimit> {
        let live = self.field_count().saturating_add_signed(growth.live);
        let bytes = encoded_len(self.live_bytes.saturating_add_signed(growth.bytes), live);
        let max = unlimited_if_0(limits.document_bytes_max);
        if bytes > max && bytes > self.encoded_bytes() {
            return Err(DocumentLimit::TooLarge { bytes, max });
        }
        let (fields, max) = (self.records.len() + growth.records, unlimited_if_0(limits.records_max));
        if fields > max && growth.records > 0 {
            return Err(DocumentLimit::TooManyFields { fields, max });
        }
        Ok(())
    }

    /// Applies one write by `session` (§9.3) and marks the field: for everybody if it won, for `session` alone if it lost.
    pub fn write(&mut self, now_unix_ms: u64, session: SessionRef, write: Write<'_>) -> Verdict {
        let stamped = Stamped::of(&write, now_unix_ms, self.countable_max());
        self.step(stamped.greatest);
        let value = Some(write.value()).filter(|value| !is_tombstone(value));
        let escaped = key::escape(write.name());
        let hash = self.hash(&escaped);
        let Some(at) = self.position(hash, &escaped) else {
            let at = self.insert(hash, &escaped, stamped.timestamp_ms, value);
            self.attribute(at, session, &stamped, 0);
            self.after_win(now_unix_ms, at);
            return Verdict::Won;
        };
        let record = &self.records[at];
        if !stamped.wins_over(record, self.writers.name(record.author.writer)) {
            self.mark_lost(at, session);
            return Verdict::Lost;
        }
        let seen = if record.author.is(session) {
            record.author.seen
        } else {
            record.stamp
        };
        if !record.is_live() {
            self.graveyard.risen();
        }
        self.set_value(at, value);
        let record = &mut self.records[at];
        record.timestamp_ms = record.timestamp_ms.max(stamped.timestamp_ms);
        record.lam = self.clock;
        record.stamp = self.clock;
        self.attribute(at, session, &stamped, seen);
        self.after_win(now_unix_ms, at);
        Verdict::Won
    }

    /// Counts `L` up past `greatest` and returns it: one accepted operation. Set operations take their order from it too.
    pub fn step(&mut self, greatest: u64) -> u64 {
        self.raise_clock(greatest);
        self.clock += u64::from(!Mutation::MergeClocksByMaximum.is_on());
        self.clock
    }

    /// The greatest clock value that counts where a client says it of this document.
    fn countable_max(&self) -> u64 {
        (self.clock + CLOCK_LEAD_MAX).clamp(CLOCK_VALUE_MAX, CLOCK_KEPT_MAX)
    }

    /// Takes over a clock value that a client has seen (`sync_request`), if it counts.
    pub fn raise_clock_by_client(&mut self, value: u64) {
        if value <= self.countable_max() {
            self.clock = self.clock.max(value);
        }
    }

    /// Takes over a clock value that a row or another node has seen. Values above [`CLOCK_KEPT_MAX`] are ignored.
    pub fn raise_clock(&mut self, value: u64) {
        if value <= CLOCK_KEPT_MAX {
            self.clock = self.clock.max(value);
        }
    }

    /// A `sync_response` goes to `session`, which listens from now on: returns the value its clock must have, and remembers it.
    ///
    /// It jumps to the wall clock because it must also pass the counters of batches the client sent but the network lost.
    pub fn synced(&mut self, now_unix_ms: u64, session: SessionRef) -> u64 {
        self.clock = (self.clock + 1).max(now_unix_ms.min(CLOCK_VALUE_MAX));
        self.listeners.insert(session, self.clock);
        self.clock
    }

    /// The session hears of changes from now on; returns whether it did not before.
    pub fn listen(&mut self, session: SessionRef) -> bool {
        self.listeners.join(session)
    }

    /// The session unsubscribed or ended; returns whether it listened. Its records keep its name: a session reference is
    /// never reused.
    pub fn left(&mut self, session: SessionRef) -> bool {
        if Mutation::DropDirtyOnLeave.is_on() {
            let records = &self.records;
            self.dirty.retain(|at| !records[*at as usize].author.is(session));
        }
        if Mutation::KeepListeners.is_on() {
            return false;
        }
        self.listeners.remove(session)
    }

    /// Sessions that listen.
    pub fn listener_count(&self) -> usize {
        self.listeners.len()
    }

    /// Whether a session listens.
    pub fn is_heard_by(&self, session: SessionRef) -> bool {
        self.listeners.contains(session)
    }

    /// The live fields as one JSON object, shared until the next change.
    pub fn state_json(&mut self) -> Bytes {
        if let Some(state) = &self.state {
            return state.clone();
        }
        if self.live == 0 {
            // Not kept: most documents that somebody merely subscribed to are empty.
            return Bytes::from_static(b"{}");
        }
        let mut json = Vec::with_capacity(self.encoded_bytes());
        json.push(b'{');
        for record in &self.records {
            let Some(value) = &record.value else { continue };
            if json.len() > 1 {
                json.push(b',');
            }
            json.extend_from_slice(record.key.as_bytes());
            json.push(b':');
            json.extend_from_slice(value);
        }
        json.push(b'}');
        debug_assert_eq!(json.len(), self.encoded_bytes());
        let state = Bytes::from(json);
        self.state = Some(state.clone());
        state
    }

    /// The fields written last, newest first, at most `count_max`: name (escaped, quoted), value or `None` where it was
    /// deleted, and Unix milliseconds. Walks over all fields.
    pub fn last_writes(&self, count_max: usize) -> Vec<(&str, Option<&[u8]>, u64)> {
        let mut newest: Vec<&Record> = self.records.iter().collect();
        let order = |record: &&Record| std::cmp::Reverse((record.timestamp_ms, record.lam));
        if newest.len() > count_max {
            newest.select_nth_unstable_by_key(count_max, order);
            newest.truncate(count_max);
        }
        newest.sort_unstable_by_key(order);
        newest
            .into_iter()
            .map(|record| (&*record.key, record.value.as_deref(), record.timestamp_ms))
            .collect()
    }

    /// Length of [`Document::state_json`], which is what the document size limit counts.
    pub fn encoded_bytes(&self) -> usize {
        encoded_len(self.live_bytes, self.field_count())
    }

    /// What the document costs in memory, allocation headers included, without walking it.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.records.capacity() * size_of::<Record>()
            + self.index.memory_bytes()
            + self.heap_bytes
            + self.writers.memory_bytes()
            + self.listeners.memory_bytes()
            + self.graveyard.memory_bytes()
            + self.dirty.capacity() * size_of::<u32>()
            + self.forced.capacity() * size_of::<(u32, SessionRef)>()
            + self.state.as_ref().map_or(0, Bytes::len)
    }

    /// Names (escaped, quoted) of the newest tombstones, newest first, at most `count_max`.
    pub fn tombstones_newest(&self, count_max: usize) -> impl Iterator<Item = &Arc<str>> {
        self.graveyard
            .newest()
            .filter(|grave| self.is_buried(&grave.key, grave.lam))
            .take(count_max)
            .map(|grave| &grave.key)
    }

    /// Drops tombstones older than `limits.tombstone_ttl_ms`, and the oldest beyond `limits.tombstones_max`. Does nothing
    /// while fields are dirty: a deletion that nobody was told of must not be forgotten.
    pub fn expire_tombstones(&mut self, now_unix_ms: u64, limits: &Limits) {
        if !self.dirty() {
            self.drop_tombstones(
                now_unix_ms.saturating_sub(limits.tombstone_ttl_ms),
                limits.tombstones_max,
            );
        }
    }

    fn drop_tombstones(&mut self, kept_since_ms: u64, count_max: usize) {
        while let Some(grave) = self.graveyard.oldest() {
            let (key, lam) = (grave.key.clone(), grave.lam);
            let current = self.is_buried(&key, lam);
            if current && grave.at_ms >= kept_since_ms && self.graveyard.count() <= count_max {
                break;
            }
            self.graveyard.remove_oldest();
            if current {
                self.graveyard.risen();
                self.forget(&key);
            }
        }
        if self.graveyard.is_cluttered() {
            let mut graveyard = std::mem::take(&mut self.graveyard);
            graveyard.retain(|grave| self.is_buried(&grave.key, grave.lam));
            self.graveyard = graveyard;
        }
    }

    /// Whether the tombstone that was buried with this `lam` is still the field's record.
    fn is_buried(&self, key: &str, lam: u64) -> bool {
        let escaped = key::inner(key);
        self.position(self.hash(escaped), escaped).is_some_and(|at| {
            let record = &self.records[at];
            record.lam == lam && !record.is_live()
        })
    }

    fn forget(&mut self, key: &str) {
        let escaped = key::inner(key);
        let hash = self.hash(escaped);
        let records = &self.records;
        let is_it = |at: u32| key::inner(&records[at as usize].key) == escaped;
        let Some(at) = self.index.remove(hash, is_it) else {
            return;
        };
        let at = at as usize;
        let record = self.records.swap_remove(at);
        self.heap_bytes -= record.heap_bytes();
        self.forgotten_stamp = self.forgotten_stamp.max(record.stamp);
        if at < self.records.len() {
            // The last record took the place of the removed one; its index entry still names the old place.
            let moved_from = self.records.len() as u32;
            let hash = self.hash(key::inner(&self.records[at].key));
            let moved = self.index.remove(hash, |position| position == moved_from);
            debug_assert!(moved.is_some(), "every record has an index entry");
            self.put(hash, at as u32);
        }
    }

    fn put(&mut self, hash: u64, position: u32) {
        let (records, hasher) = (&self.records, &self.hasher);
        let hash_of = |at: u32| hasher.hash_one(key::inner(&records[at as usize].key));
        self.index.insert(hash, position, hash_of);
    }

    fn hash(&self, escaped: &str) -> u64 {
        self.hasher.hash_one(escaped)
    }

    fn position(&self, hash: u64, escaped: &str) -> Option<usize> {
        self.index
            .find(hash, |at| key::inner(&self.records[at as usize].key) == escaped)
            .map(|at| at as usize)
    }

    /// A new record, born now, with nobody's name on it yet.
    fn insert(&mut self, hash: u64, escaped: &str, timestamp_ms: u64, value: Option<&[u8]>) -> usize {
        let at = self.records.len();
        let place = u32::try_from(at).expect("the document size limit keeps the number of fields below 2^32");
        let record = Record {
            key: key::quoted(escaped),
            value: None,
            timestamp_ms,
            lam: self.clock,
            stamp: self.clock,
            born: self.clock,
            author: Author::nobody(),
        };
        self.heap_bytes += record.heap_bytes();
        self.records.push(record);
        self.put(hash, place);
        self.set_value(at, value);
        at
    }

    fn set_value(&mut self, at: usize, value: Option<&[u8]>) {
        let record = &mut self.records[at];
        if record.value.as_deref() == value {
            return;
        }
        self.state = None;
        // A value that nobody shares, as between two flushes, is overwritten where it stands if the new one is as long.
        let unshared = record.value.as_mut().and_then(Arc::get_mut);
        if let (Some(old), Some(new)) = (unshared, value)
            && old.len() == new.len()
        {
            return old.copy_from_slice(new);
        }
        if record.is_live() {
            self.live -= 1;
            self.live_bytes -= record.live_bytes();
        }
        self.heap_bytes -= record.heap_bytes();
        record.value = value.map(Arc::from);
        self.heap_bytes += record.heap_bytes();
        if record.is_live() {
            self.live += 1;
            self.live_bytes += record.live_bytes();
        }
    }

    fn attribute(&mut self, at: usize, session: SessionRef, stamped: &Stamped<'_>, seen: u64) {
        let previous = self.records[at].author.writer;
        let writer = stamped
            .client_id
            .map(|client_id| self.intern_writer(client_id, previous));
        let author = &mut self.records[at].author;
        author.writer = writer;
        author.own = stamped.own;
        author.seen = seen;
        author.set_session(session);
    }

    /// The number of a client id. `previous` is a guess that usually holds.
    fn intern_writer(&mut self, name: &str, previous: Option<WriterId>) -> WriterId {
        let in_use = || self.records.iter().filter_map(|record| record.author.writer);
        let interned = self.writers.intern(name, previous, in_use);
        if let Some(remapped) = &interned.remapped {
            for record in &mut self.records {
                record.author.writer = record.author.writer.map(|old| remapped[old.index()]);
            }
        }
        interned.id
    }

    fn after_win(&mut self, now_unix_ms: u64, at: usize) {
        let record = &mut self.records[at];
        if !record.is_live() {
            self.graveyard.bury(now_unix_ms, record.lam, record.key.clone());
        }
        record.author.for_all = true;
        self.mark_dirty(at);
    }

    fn mark_lost(&mut self, at: usize, session: SessionRef) {
        let record = &mut self.records[at];
        record.stamp = self.clock;
        if record.author.is(session) {
            record.author.seen = self.clock;
        }
        if Mutation::ForgetTheWinner.is_on() {
            return;
        }
        self.forced.push((at as u32, session));
        self.mark_dirty(at);
    }

    fn mark_dirty(&mut self, at: usize) {
        if !std::mem::replace(&mut self.records[at].author.dirty, true) {
            self.dirty.push(at as u32);
        }
    }
}

/// Length of the JSON object: braces, and a comma between fields.
fn encoded_len(live_bytes: usize, live: usize) -> usize {
    2 + live_bytes + live.saturating_sub(1)
}

#[cfg(test)]
mod tests;
