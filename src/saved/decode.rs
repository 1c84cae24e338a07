//! A document out of its row, whoever wrote it (docs/protocol.md §18.3).
//!
//! Rows of the TypeScript and Python servers have no `meta`; such a server may also have written over one of ours. What
//! `meta` says holds for the fields it names; the others take the row's own time. A row that cannot be understood is an
//! error and never an empty document, because the next write would destroy it.

use super::exact::{name_of, value_of};
use super::{SavedDocument, SavedText};
use crate::document::counters::{RecentOperations, STORED_MERGED_MAX, SavedCounters, Total};
use crate::document::sets::{SavedElement, is_canonical};
use crate::document::{CLOCK_KEPT_MAX, SavedRecord, is_tombstone, json_key};
use crate::json::{Raw, validate};
use crate::text::{TextError, TextState};
use hashbrown::HashMap;
use std::borrow::Cow;
use std::sync::Arc;
use thiserror::Error;

/// What else the database knows of a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowFacts {
    /// `updated_at`, in Unix milliseconds.
    pub updated_at_ms: u64,
    /// The greatest `clock_value` of its vector clock; values above 2^50 are ignored here.
    pub clock_value: Option<i64>,
}

/// Why a row cannot be read. Whoever wrote it is at fault; the document is refused and the row stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RowError {
    /// Not JSON, or nested deeper than a message may be.
    #[error("its state is not JSON that this server can read")]
    NotJson,
    /// Something else than an object.
    #[error("its state is not a JSON object")]
    NotAnObject,
    /// A field's value cannot be sent to anybody.
    #[error("a field's value is not JSON")]
    Value,
    /// The text cannot be read.
    #[error("its text cannot be read: {0}")]
    Text(#[from] TextError),
}

/// Reads `documents.state`.
pub fn decode(json: &str, facts: RowFacts) -> Result<SavedDocument, RowError> {
    let row = validate(json.as_bytes()).map_err(|_| RowError::NotJson)?;
    if !row.is_object() {
        return Err(RowError::NotAnObject);
    }
    let row = members(Some(row));
    let meta = members(row.get("meta").copied());
    let clock = meta.get("L").and_then(|clock| clock.integer());
    let clock_value = facts.clock_value.and_then(|value| u64::try_from(value).ok());
    let countable = [clock, clock_value].into_iter().flatten();
    let document = SavedDocument {
        clock: countable.filter(|clock| *clock <= CLOCK_KEPT_MAX).max().unwrap_or(0),
        records: records(&row, &meta, facts)?,
        text: text(&row)?,
        set: set(&meta),
        counters: counters(&meta),
    };
    Ok(document)
}

type Members<'a> = HashMap<Cow<'a, str>, Raw<'a>>;

/// The members of an object by their names; none of anything else. The last of equal names counts.
fn members(object: Option<Raw<'_>>) -> Members<'_> {
    let members = object.and_then(|object| object.members()).into_iter().flatten();
    members.map(|(key, value)| (key.decode(), value)).collect()
}

fn records(row: &Members<'_>, meta: &Members<'_>, facts: RowFacts) -> Result<Vec<SavedRecord>, RowError> {
    let fields = members(row.get("fields").copied());
    let (live, deleted) = (members(meta.get("f").copied()), members(meta.get("t").copied()));
    let mut records = Vec::with_capacity(fields.len() + deleted.len());
    for (name, value) in &fields {
        let value = value_of(value.text()).ok_or(RowError::Value)?;
        let mut record = Order::read(live.get(name))
            .unwrap_or(Order::of_others(facts))
            .record(name);
        match is_tombstone(&value) {
            true => record.deleted_at_ms = facts.updated_at_ms,
            false => (record.value, record.deleted_at_ms) = (Some(Arc::from(value)), 0),
        }
        records.push(record);
    }
    for (name, order) in &deleted {
        if !fields.contains_key(name) {
            let order = Order::read(Some(order)).unwrap_or(Order::of_others(facts));
            records.push(order.record(name));
        }
    }
    for name in live.keys() {
        if !fields.contains_key(name) && !deleted.contains_key(name) {
            // Another server deleted it, which leaves no trace there.
            records.push(Order::of_others(facts).record(name));
        }
    }
    // Two stored names may stand for one; the greater record counts, as when merging.
    records.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| b.beats(a).cmp(&a.beats(b))));
    records.dedup_by(|later, earlier| later.key == earlier.key);
    Ok(records)
}

/// Where a field stands in the order of writes: `[ts, lam, writer, own, deleted at]`.
struct Order<'a> {
    timestamp_ms: u64,
    lam: u64,
    writer: Option<Cow<'a, str>>,
    own: u64,
    deleted_at_ms: u64,
}

/// Greatest integer that every reader of the row understands.
const INTEGER_MAX: u64 = 1 << 53;

impl<'a> Order<'a> {
    fn read(json: Option<&Raw<'a>>) -> Option<Order<'a>> {
        let items: Vec<Raw<'_>> = json?.elements()?.collect();
        let integer = |at: usize| {
            items
                .get(at)
                .and_then(|item| item.integer())
                .filter(|n| *n <= INTEGER_MAX)
        };
        let timestamp_ms = integer(0)?;
        Some(Order {
            timestamp_ms,
            lam: integer(1).filter(|lam| *lam <= CLOCK_KEPT_MAX)?,
            writer: items.get(2).and_then(|writer| writer.string()),
            own: integer(3).unwrap_or(0),
            deleted_at_ms: integer(4).unwrap_or(timestamp_ms),
        })
    }

    /// What is assumed of a write by a server that keeps no order.
    fn of_others(facts: RowFacts) -> Order<'a> {
        Order {
            timestamp_ms: facts.updated_at_ms,
            lam: 0,
            writer: None,
            own: 0,
            deleted_at_ms: facts.updated_at_ms,
        }
    }

    /// A tombstone with this place.
    fn record(self, stored_name: &str) -> SavedRecord {
        SavedRecord {
            key: json_key(&name_of(stored_name)),
            value: None,
            timestamp_ms: self.timestamp_ms,
            lam: self.lam,
            writer: self.writer.map(|writer| Arc::from(&*name_of(&writer))),
            own: self.own,
            deleted_at_ms: self.deleted_at_ms,
        }
    }
}

fn text(row: &Members<'_>) -> Result<Option<SavedText>, RowError> {
    let Some(crdt) = row.get("crdt").filter(|crdt| !crdt.is_null()) else {
        return Ok(None);
    };
    let state = crdt.string().ok_or(RowError::Text(TextError::WrongType))?;
    if state.is_empty() {
        return Ok(None);
    }
    let timestamp = row.get("clock").and_then(|clock| clock.integer());
    Ok(Some(SavedText {
        state: TextState::from_json(&state)?,
        timestamp: timestamp.filter(|ms| *ms <= INTEGER_MAX).unwrap_or(0),
    }))
}

fn set(meta: &Members<'_>) -> Vec<SavedElement> {
    let element = |(value, order): (&Cow<'_, str>, &Raw<'_>)| {
        let order: Vec<Raw<'_>> = order.elements()?.collect();
        let lam = order.first()?.integer().filter(|lam| *lam <= CLOCK_KEPT_MAX)?;
        is_canonical(value).then(|| SavedElement {
            value: Arc::from(&**value),
            lam,
            removed_at_ms: order.get(1).and_then(|at_ms| at_ms.integer()),
        })
    };
    members(meta.get("set").copied()).iter().filter_map(element).collect()
}

fn counters(meta: &Members<'_>) -> Option<SavedCounters> {
    let counter = members(Some(*meta.get("counter")?));
    let clients = members(counter.get("clients").copied());
    let mut totals: Vec<(Box<str>, Total)> = clients
        .iter()
        .map(|(client, sums)| (Box::from(&*name_of(client)), total(Some(sums))))
        .collect();
    totals.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Some(SavedCounters {
        totals,
        others: total(counter.get("others")),
        recent: recent(counter.get("recent")).unwrap_or_default(),
    })
}

/// Nothing if it is not as this server writes it.
fn recent(raw: Option<&Raw<'_>>) -> Option<RecentOperations> {
    let mut items = raw?.elements()?;
    let counted_ms = items.next()?.integer()?;
    let digits = items.next()?.string()?;
    if !digits.is_ascii() || digits.len() > 32 * STORED_MERGED_MAX {
        return None;
    }
    let fingerprints = digits.as_bytes().chunks(32).map(|one| {
        let one = str::from_utf8(one).ok().filter(|one| one.len() == 32)?;
        u128::from_str_radix(one, 16).ok()
    });
    Some(RecentOperations {
        counted_ms,
        fingerprints: fingerprints.collect::<Option<_>>()?,
    })
}

fn total(sums: Option<&Raw<'_>>) -> Total {
    let mut sums = sums.and_then(|sums| sums.elements()).into_iter().flatten();
    let mut next = || {
        let sum = sums.next().and_then(|sum| sum.number());
        sum.filter(|sum| sum.is_finite()).unwrap_or(0.0)
    };
    Total {
        increments: next(),
        decrements: next(),
    }
}
