//! Writes of very many fields at once, from the home's side: a map is checked whole, because it is written whole or not at
//! all, and then some fields are written per turn.
//!
//! - One write after the other, so that what was checked still fits when it is written. Only ordinary writes come in
//!   between, and a document exceeds its bound by one message at most.
//! - The connection that sent it does nothing else meanwhile (`Shard::begin_waiting`), so its order holds.
//! - It is answered, and with that acknowledged, when all of it has been written.

use super::Shard;
use super::home_writes::{Relays, field_name, value_bytes};
use super::library::refusal;
use super::mail::{Mail, Refusal, Span, Write, WriteOp, Wrote};
use crate::document::{Verdict, Write as FieldWrite};
use crate::limits::MAP_STEP_FIELDS;
use std::borrow::Cow;

/// A write under way.
#[derive(Debug)]
pub(super) struct LongWrite {
    write: Box<Write>,
    /// The session is a listener now and was none before.
    joined: bool,
    /// The operation that is next.
    op: usize,
    /// How many fields of its map have been written; `None`: it has not been checked.
    written: Option<usize>,
    refusals: Vec<Refusal>,
}

/// Whether a home takes several turns for an operation.
pub(super) fn is_long(op: &WriteOp) -> bool {
    matches!(op, WriteOp::Fields(map) if map.len() > MAP_STEP_FIELDS)
}

impl Shard {
    /// Queues a write that takes several turns.
    pub(super) fn begin_long_write(&mut self, write: Box<Write>, joined: bool) {
        self.long_writes.push_back(LongWrite {
            write,
            joined,
            op: 0,
            written: None,
            refusals: Vec::new(),
        });
    }

    /// The step of one turn.
    pub(super) fn run_long_write(&mut self) {
        let Some(mut long) = self.long_writes.pop_front() else {
            return;
        };
        let Some(place) = self.library.find(&long.write.document) else {
            // It held nothing and was disposed of before the first step: from the beginning.
            self.post(self.id, Mail::Write(long.write));
            return self.deliver_local();
        };
        self.step_long_write(place, &mut long);
        if long.op < long.write.ops.len() {
            return self.long_writes.push_front(long);
        }
        let LongWrite {
            write,
            joined,
            refusals,
            ..
        } = long;
        let accepted = refusals.len() < write.ops.len();
        self.metrics.elements_accepted += (write.ops.len() - refusals.len()) as u64;
        let wrote = Wrote {
            write,
            refusals,
            accepted,
            joined,
            unstored: false,
        };
        self.answer_write(place, wrote);
        self.deliver_local();
    }

    fn step_long_write(&mut self, place: u32, long: &mut LongWrite) {
        let write = &long.write;
        let mut relays = Relays {
            outbound: self.cluster.as_ref().map(|_| Box::default()),
            ..Relays::default()
        };
        let (mut left, refused) = (MAP_STEP_FIELDS, long.refusals.len());
        let first = long.op;
        while let Some(op) = write.ops.get(long.op).filter(|_| left > 0) {
            let WriteOp::Fields(map) = op else {
                long.refusals.extend(self.apply(place, write, op, &mut relays).err());
                (long.op, left) = (long.op + 1, left - 1);
                continue;
            };
            if long.written.is_none()
                && let Err(refusal) = self.check_map(place, write, map)
            {
                long.refusals.push(refusal);
                (long.op, left) = (long.op + 1, left - 1);
                continue;
            }
            let from = long.written.unwrap_or(0);
            let to = map.len().min(from + left);
            self.write_part(place, write, &map[from..to]);
            left -= to - from;
            long.written = (to < map.len()).then_some(to);
            long.op += usize::from(to == map.len());
            // An empty map counts as well, else the loop would not be bounded.
            left = left.saturating_sub(1);
        }
        self.publish_operations(place, &mut relays);
        self.relay(place, write.session, relays);
        if long.op > first || long.written.is_some() || long.refusals.len() > refused {
            self.changed(place);
        }
    }

    /// Whether a map fits, whole.
    fn check_map(&mut self, place: u32, write: &Write, map: &[(Span, Option<Span>)]) -> Result<(), Refusal> {
        let limits = self.library.limits;
        let Some(shelf) = self.library.at(place) else {
            return Ok(());
        };
        let names: Vec<Cow<'_, str>> = map.iter().map(|(name, _)| field_name(write, name)).collect();
        shelf
            .fields
            .check(&limits, &plain_writes(write, &names, map))
            .map_err(refusal)
    }

    /// Writes fields that have been checked.
    fn write_part(&mut self, place: u32, write: &Write, map: &[(Span, Option<Span>)]) {
        let unix_ms = self.now.unix_ms;
        let Some(shelf) = self.library.at(place) else { return };
        let names: Vec<Cow<'_, str>> = map.iter().map(|(name, _)| field_name(write, name)).collect();
        let writes = plain_writes(write, &names, map);
        let verdicts = writes
            .iter()
            .map(|one| shelf.fields.write(unix_ms, write.session, *one));
        let lost = verdicts.filter(|verdict| *verdict == Verdict::Lost).count() as u64;
        shelf.modified_ms = unix_ms;
        self.metrics.writes_lost += lost;
        self.audit_fields(place, write.session, &writes);
        self.schedule_flush(place);
    }
}

fn plain_writes<'a>(write: &'a Write, names: &'a [Cow<'a, str>], map: &[(Span, Option<Span>)]) -> Vec<FieldWrite<'a>> {
    let plain = |(name, (_, value)): (&'a Cow<'a, str>, &(Span, Option<Span>))| FieldWrite::Plain {
        name,
        value: value_bytes(write, value.as_ref()),
    };
    names.iter().zip(map).map(plain).collect()
}
