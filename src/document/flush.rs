//! What leaves a document: the fields to tell subscribers of, and the clock each of them is told (docs/protocol.md §9.4, §10).

use super::record::Record;
use super::{DIRTY_CAPACITY_KEPT, Document, Limits, TOMBSTONE_JSON};
use crate::ids::SessionRef;
use crate::limits::FLUSH_STEP_FIELDS;
use crate::mutation::Mutation;
use smallvec::SmallVec;
use std::sync::Arc;

/// Marks of a document: places of dirty fields, and those for one connection only.
type Marks = (Vec<u32>, Vec<(u32, SessionRef)>);

/// One field on its way to subscribers. Cheap to clone, and made to travel to the shards where they live.
#[derive(Clone, Debug)]
pub struct FlushedField {
    /// The name as a JSON string, quotes included.
    pub key: Arc<str>,
    /// The value as JSON; `None` is a tombstone. [`FlushedField::value_json`] has the bytes for both.
    pub value: Option<Arc<[u8]>>,
    /// The clock value for everybody but the author.
    pub stamp: u64,
    /// Every subscriber gets it. Otherwise only the sessions in `forced` do.
    pub for_all: bool,
    /// The connection that wrote the current value, if it is among the recipients, and the clock it gets.
    pub author: Option<(SessionRef, AuthorClock)>,
    /// Sessions whose write lost: they must get it, even if they would not get an echo.
    pub forced: SmallVec<[SessionRef; 2]>,
}

/// The clock for the connection that wrote a field's current value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorClock {
    /// `{writer: own}`: confirms the write, and cannot disturb newer local typing.
    OwnEcho {
        /// The client id it wrote as.
        writer: Arc<str>,
        /// Its own counter in the write.
        own: u64,
    },
    /// `{"server": stamp, writer: stamp}`: replaces what the client shows.
    Stamp {
        /// The client id it wrote as.
        writer: Arc<str>,
    },
    /// The write had no counter of its own: the clock any other subscriber would get.
    Ordinary,
}

/// The `clock` member of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentClock<'a> {
    /// `{client: own}`
    OwnEcho {
        /// The author's client id.
        client: &'a str,
        /// Its counter.
        own: u64,
    },
    /// `{"server": stamp, client: stamp}`
    Raised {
        /// The client id the connection is known by.
        client: &'a str,
        /// The field's stamp.
        stamp: u64,
    },
    /// `{"server": stamp}`
    Server {
        /// The field's stamp.
        stamp: u64,
    },
}

impl FlushedField {
    /// The value to send.
    pub fn value_json(&self) -> &[u8] {
        self.value.as_deref().unwrap_or(TOMBSTONE_JSON)
    }

    /// Whether `session`, a subscriber, gets it. (docId connections additionally skip what they wrote themselves, unless
    /// [`FlushedField::is_forced_for`].)
    pub fn reaches(&self, session: SessionRef) -> bool {
        let untold = Mutation::ForgetEcho.is_on() && self.is_by(session);
        self.for_all && !untold || self.is_forced_for(session)
    }

    /// Whether `session` lost a write of this field and must be told.
    pub fn is_forced_for(&self, session: SessionRef) -> bool {
        self.forced.contains(&session)
    }

    /// Whether `session` wrote the current value.
    pub fn is_by(&self, session: SessionRef) -> bool {
        self.author.as_ref().is_some_and(|author| author.0 == session)
    }

    /// The clock for `session`; `known_as` is the client id its connection is known to write as.
    pub fn clock_for<'a>(&'a self, session: SessionRef, known_as: Option<&'a str>) -> SentClock<'a> {
        let client = match &self.author {
            Some((author, AuthorClock::OwnEcho { writer, own })) if *author == session => {
                return SentClock::OwnEcho {
                    client: writer,
                    own: *own,
                };
            }
            Some((author, AuthorClock::Stamp { writer })) if *author == session => Some(&**writer),
            _ => known_as,
        };
        match client {
            // Nobody may be called "server"; if somebody is, one member must not stand twice.
            None | Some("server") => SentClock::Server { stamp: self.stamp },
            Some(client) => SentClock::Raised {
                client,
                stamp: self.stamp,
            },
        }
    }
}

impl Document {
    /// Whether a flush has something to say.
    pub fn dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Drains the dirty set: every dirty field with its current value, in ascending order of stamps; of more than
    /// [`FLUSH_STEP_FIELDS`] the oldest, and the others are left dirty.
    ///
    /// Marks outlive the sessions that caused them, so nothing is lost when a writer disconnects. Tombstones beyond the limit
    /// are dropped afterwards, when everybody has been told.
    pub fn flush(&mut self, limits: &Limits) -> Vec<FlushedField> {
        let rest = self.set_rest_aside();
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut forced = std::mem::take(&mut self.forced);
        dirty.sort_unstable_by_key(|&at| self.records[at as usize].stamp);
        forced.sort_unstable();
        forced.dedup();
        let mut fields = Vec::with_capacity(dirty.len());
        for &at in &dirty {
            let first = forced.partition_point(|mark| mark.0 < at);
            let marks = forced[first..].iter().take_while(|mark| mark.0 == at);
            fields.push(self.flush_field(at as usize, marks.map(|mark| mark.1).collect()));
        }
        match rest {
            Some((dirty, forced)) => (self.dirty, self.forced) = (dirty, forced),
            None => {
                if dirty.capacity() <= DIRTY_CAPACITY_KEPT {
                    dirty.clear();
                    self.dirty = dirty;
                }
                self.drop_tombstones(0, limits.tombstones_max);
            }
        }
        if Mutation::LoseTombstones.is_on() {
            fields.retain(|field| field.value.is_some());
        }
        fields
    }

    /// The greatest stamp that leaves with the next flush.
    pub(super) fn flushed_until(&self) -> u64 {
        if self.dirty.len() <= FLUSH_STEP_FIELDS {
            return u64::MAX;
        }
        let mut stamps: Vec<u64> = self.dirty.iter().map(|&at| self.records[at as usize].stamp).collect();
        *stamps.select_nth_unstable(FLUSH_STEP_FIELDS - 1).1
    }

    /// Takes the marks out that have to wait for the next flush because there are too many.
    fn set_rest_aside(&mut self) -> Option<Marks> {
        let until = self.flushed_until();
        if until == u64::MAX {
            return None;
        }
        let leaves = |at: u32| self.records[at as usize].stamp <= until;
        let (dirty, later) = std::mem::take(&mut self.dirty).into_iter().partition(|at| leaves(*at));
        let (forced, forced_later) = std::mem::take(&mut self.forced)
            .into_iter()
            .partition(|mark| leaves(mark.0));
        (self.dirty, self.forced) = (dirty, forced);
        Some((later, forced_later))
    }

    fn flush_field(&mut self, at: usize, forced: SmallVec<[SessionRef; 2]>) -> FlushedField {
        let flags = &mut self.records[at].author;
        flags.dirty = false;
        let for_all = std::mem::replace(&mut flags.for_all, false);
        let author = self.records[at].author.session().and_then(|session| {
            let is_forced = forced.contains(&session);
            // A connection that is not told must not be remembered as told.
            (for_all || is_forced).then(|| (session, self.author_clock(at, session, is_forced)))
        });
        let Record { key, value, stamp, .. } = &self.records[at];
        FlushedField {
            key: key.clone(),
            value: value.clone(),
            stamp: *stamp,
            for_all,
            author,
            forced,
        }
    }

    /// Chooses the clock for the author of a field, and remembers what it will have seen.
    fn author_clock(&mut self, at: usize, session: SessionRef, forced: bool) -> AuthorClock {
        let record = &mut self.records[at];
        let Some(writer) = self
            .writers
            .name(record.author.writer)
            .filter(|_| record.author.own > 0)
            .cloned()
        else {
            return AuthorClock::Ordinary;
        };
        let synced = self.listeners.clock_of(session);
        // What the client's copy of the field may hold from its `sync_response`: nothing if the field is younger.
        let base = if record.born <= synced { synced } else { 0 };
        let own = record.author.own;
        if !forced && own > base.max(record.author.seen) {
            let stamped = Mutation::EchoWithStamp.is_on();
            let own = if stamped { record.stamp } else { own };
            return AuthorClock::OwnEcho { writer, own };
        }
        record.author.seen = record.stamp;
        AuthorClock::Stamp { writer }
    }

    /// What `session` has missed that was last told everything up to `stamp`: every newer record, tombstones included,
    /// ascending; of more than [`FLUSH_STEP_FIELDS`] the oldest, and then it is to be asked again from there. For that
    /// session alone, under the rules of a flush ([`FlushedField::reaches`] is true of all of them).
    /// Costs a walk over all fields; made for slow consumers that caught up.
    ///
    /// `None` if tombstones newer than `stamp` have been dropped: only a new connection can repair that one.
    pub fn since(&mut self, stamp: u64, session: SessionRef) -> Option<Vec<FlushedField>> {
        if self.forgotten_stamp > stamp {
            return None;
        }
        let mut newer: Vec<usize> = (0..self.records.len())
            .filter(|&at| self.records[at].stamp > stamp)
            .collect();
        if newer.len() > FLUSH_STEP_FIELDS {
            newer.select_nth_unstable_by_key(FLUSH_STEP_FIELDS, |&at| self.records[at].stamp);
            newer.truncate(FLUSH_STEP_FIELDS);
        }
        newer.sort_unstable_by_key(|&at| self.records[at].stamp);
        let fields = newer.into_iter().map(|at| {
            let is_author = self.records[at].author.is(session);
            // The forced mark itself went with the flush that was skipped; a loss against one's own value left this trace.
            let is_forced = is_author && self.records[at].author.seen == self.records[at].stamp;
            let author = is_author.then(|| (session, self.author_clock(at, session, is_forced)));
            let Record { key, value, stamp, .. } = &self.records[at];
            FlushedField {
                key: key.clone(),
                value: value.clone(),
                stamp: *stamp,
                for_all: true,
                author,
                forced: is_forced.then_some(session).into_iter().collect(),
            }
        });
        Some(fields.collect())
    }
}
