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
use super::mail::{Mail, Refusal, Span, Write, WriteOp};
use crate::document::{Growth, Verdict, Write as FieldWrite};
use crate::limits::{MAP_STEP_BYTES, MAP_STEP_FIELDS};
use std::borrow::Cow;

/// So many fields are estimated in the time in which one is written.
const ESTIMATES_PER_WRITE: usize = 4;

/// So many bytes of names and values count as a field: names may have to be decoded and encoded.
const BYTES_PER_FIELD: usize = MAP_STEP_BYTES / MAP_STEP_FIELDS;

/// A write under way.
#[derive(Debug)]
pub(super) struct LongWrite {
    pub(super) write: Box<Write>,
    /// The session is a listener now and was none before.
    pub(super) joined: bool,
    /// The operation that is next.
    pub(super) op: usize,
    /// How far it is, if it is a map.
    map: MapProgress,
    pub(super) refusals: Vec<Refusal>,
}

/// How many fields of a map have been looked at.
#[derive(Debug)]
enum MapProgress {
    Estimated(usize, Growth),
    Counted(usize, Growth),
    Written(usize),
}

impl Default for MapProgress {
    fn default() -> Self {
        MapProgress::Estimated(0, Growth::default())
    }
}

/// Whether a home takes several turns for an operation.
pub(super) fn is_long(op: &WriteOp, text_bytes_min: usize) -> bool {
    match op {
        WriteOp::Fields(map) => map.len() > MAP_STEP_FIELDS,
        WriteOp::Text { state, .. } => state.len() > text_bytes_min,
        _ => false,
    }
}

impl Shard {
    /// Whether a home takes several turns for an operation.
    pub(super) fn is_long(&self, op: &WriteOp) -> bool {
        is_long(op, self.context.merging.bytes_min)
    }

    /// Queues a write that takes several turns.
    pub(super) fn begin_long_write(&mut self, write: Box<Write>, joined: bool) {
        self.long_writes.push_back(LongWrite {
            write,
            joined,
            op: 0,
            map: MapProgress::default(),
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
        match long.write.ops.get(long.op) {
            Some(op @ WriteOp::Text { .. }) if self.is_long(op) => self.await_merge(long),
            Some(_) => self.long_writes.push_front(long),
            None => self.finish_write(place, long.write, long.refusals, long.joined),
        }
        self.deliver_local();
    }

    /// Does some of a write, up to the next large text state.
    fn step_long_write(&mut self, place: u32, long: &mut LongWrite) {
        let write = &long.write;
        let mut relays = Relays {
            outbound: self.cluster.as_ref().map(|_| Box::default()),
            ..Relays::default()
        };
        let (mut left, mut did) = (MAP_STEP_FIELDS, false);
        while let Some(op) = write.ops.get(long.op).filter(|_| left > 0) {
            let outcome = match op {
                WriteOp::Fields(map) => {
                    let progress = std::mem::take(&mut long.map);
                    did |= matches!(progress, MapProgress::Written(_));
                    match self.step_map(place, write, map, progress, &mut left) {
                        Ok(None) => Ok(()),
                        Ok(Some(progress)) => {
                            long.map = progress;
                            continue;
                        }
                        Err(refusal) => Err(refusal),
                    }
                }
                WriteOp::Text { .. } if self.is_long(op) => break,
                _ => self.apply(place, write, op, &mut relays),
            };
            long.refusals.extend(outcome.err());
            (long.op, left, did) = (long.op + 1, left.saturating_sub(1), true);
        }
        self.publish_operations(place, &mut relays);
        self.relay(place, write.session, relays);
        if did {
            self.changed(place);
        }
    }

    /// Looks at further fields of a map, for `left` in all: at first whether it fits, whole. `None`: it is written.
    fn step_map(
        &mut self,
        place: u32,
        write: &Write,
        map: &[(Span, Option<Span>)],
        progress: MapProgress,
        left: &mut usize,
    ) -> Result<Option<MapProgress>, Refusal> {
        let limits = self.library.limits;
        let Some(shelf) = self.library.at(place) else {
            return Ok(None);
        };
        let (MapProgress::Estimated(from, _) | MapProgress::Counted(from, _) | MapProgress::Written(from)) = progress;
        // Estimating looks nothing up.
        let is_estimate = matches!(progress, MapProgress::Estimated(..));
        let per_field = if is_estimate { ESTIMATES_PER_WRITE } else { 1 };
        let (fields_max, bytes_max) = (*left * per_field, *left * per_field * BYTES_PER_FIELD);
        let (mut to, mut bytes) = (from, 0);
        while to < map.len() && to - from < fields_max && bytes < bytes_max {
            let (name, value) = &map[to];
            bytes += name.len() + value.as_ref().map_or(0, |value| value.len());
            to += 1;
        }
        let cost = (to - from).max(bytes / BYTES_PER_FIELD).div_ceil(per_field);
        *left = left.saturating_sub(cost);
        let part = &map[from..to];
        let names: Vec<Cow<'_, str>> = part.iter().map(|(name, _)| field_name(write, name)).collect();
        let writes = plain_writes(write, &names, part);
        let is_last = to == map.len();
        let progress = match progress {
            MapProgress::Estimated(_, mut growth) => {
                growth.estimate(&limits, &writes).map_err(refusal)?;
                match is_last {
                    false => MapProgress::Estimated(to, growth),
                    true if shelf.fields.surely_takes(&limits, &growth) => MapProgress::Written(0),
                    true => MapProgress::Counted(0, growth),
                }
            }
            MapProgress::Counted(_, mut growth) => {
                shelf.fields.count_exactly(&mut growth, &writes);
                if is_last {
                    shelf.fields.takes(&limits, &growth).map_err(refusal)?;
                    MapProgress::Written(0)
                } else {
                    MapProgress::Counted(to, growth)
                }
            }
            MapProgress::Written(_) => {
                self.write_part(place, write, &writes);
                if is_last {
                    return Ok(None);
                }
                MapProgress::Written(to)
            }
        };
        // An empty map counts as well, else the loop would not be bounded.
        *left = left.saturating_sub(usize::from(map.is_empty()));
        Ok(Some(progress))
    }

    /// Writes fields that have been checked.
    fn write_part(&mut self, place: u32, write: &Write, writes: &[FieldWrite<'_>]) {
        let unix_ms = self.now.unix_ms;
        let Some(shelf) = self.library.at(place) else { return };
        let verdicts = writes
            .iter()
            .map(|one| shelf.fields.write(unix_ms, write.session, *one));
        let lost = verdicts.filter(|verdict| *verdict == Verdict::Lost).count() as u64;
        shelf.modified_ms = unix_ms;
        self.metrics.writes_lost += lost;
        self.audit_fields(place, write.session, writes);
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
