//! A write as it arrives, and whether it wins (docs/protocol.md §9.3).

use super::TIMESTAMP_LEAD_MAX_MS;
use super::record::Record;
use thiserror::Error;

/// A write of one field. Values are encoded JSON, checked by whoever parsed the message; they are copied, never decoded.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// Without client id or with an empty clock: the last to arrive wins.
    Plain {
        /// The field; any text.
        name: &'a str,
        /// Its new value.
        value: &'a [u8],
    },
    /// With client id and a non-empty clock: may lose against a write that is newer by clock and by wall clock.
    Stamped {
        /// The field; any text.
        name: &'a str,
        /// Its new value; absent means `null`.
        value: Option<&'a [u8]>,
        /// The client's wall clock in Unix milliseconds. Counts only if finite and positive.
        timestamp_ms: Option<f64>,
        /// The client's vector clock.
        clock: ClockView<'a>,
        /// Who the client says it is.
        client_id: &'a str,
    },
}

impl<'a> Write<'a> {
    /// The field that is written.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Plain { name, .. } | Self::Stamped { name, .. } => name,
        }
    }

    /// The value as JSON.
    pub fn value(&self) -> &'a [u8] {
        match self {
            Self::Plain { value, .. } => value,
            Self::Stamped { value, .. } => value.unwrap_or(b"null"),
        }
    }
}

/// The integer entries of a clock that came with a write, in the order they came. Whoever parses leaves out entries that
/// are no non-negative integers; those that do not count in the document are ignored here.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockView<'a> {
    entries: &'a [(&'a str, u64)],
    /// Greater values do not count.
    countable_max: u64,
}

impl<'a> ClockView<'a> {
    /// A view of parsed entries.
    pub fn new(entries: &'a [(&'a str, u64)]) -> Self {
        Self {
            entries,
            countable_max: u64::MAX,
        }
    }

    /// The greatest value that counts; 0 if there is none.
    fn greatest(self) -> u64 {
        let values = self.entries.iter().map(|entry| entry.1);
        values.filter(|&value| value <= self.countable_max).max().unwrap_or(0)
    }

    /// The value of one entry, if it counts. The last of equal names counts, as in every JSON parser that clients use.
    fn entry(self, name: &str) -> Option<u64> {
        let entry = self.entries.iter().rfind(|entry| entry.0 == name)?;
        (entry.1 <= self.countable_max).then_some(entry.1)
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It is the field's value now.
    Won,
    /// The field kept its value, and the writer will be told at the next flush.
    Lost,
}

/// Bounds of one document. 0 means unlimited, except for tombstones, where it means that none are kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Length of the encoded state.
    pub document_bytes_max: usize,
    /// Length of a field name in UTF-8.
    pub name_bytes_max: usize,
    /// Fields and tombstones together. The state's length alone would let a million two-byte fields cost a hundred times it.
    pub records_max: usize,
    /// Tombstones; the oldest beyond it are dropped.
    pub tombstones_max: usize,
    /// How long a tombstone is kept.
    pub tombstone_ttl_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes_max: 10_485_760,
            name_bytes_max: 1024,
            records_max: 262_144,
            tombstones_max: 10_000,
            tombstone_ttl_ms: 24 * 3_600_000,
        }
    }
}

/// Why a write is refused. Always the peer's doing; the connection stays open and gets `LIMIT_EXCEEDED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DocumentLimit {
    /// The encoded state would exceed [`Limits::document_bytes_max`].
    #[error("Document too large")]
    TooLarge {
        /// What it would be.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// Fields and tombstones would exceed [`Limits::records_max`].
    #[error("Document too large")]
    TooManyFields {
        /// What there would be.
        fields: usize,
        /// What is allowed.
        max: usize,
    },
    /// A name exceeds [`Limits::name_bytes_max`].
    #[error("Field name too long")]
    NameTooLong {
        /// The name's length.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
}

/// The parts of a write that decide, after the rules that apply to each part alone.
pub(super) struct Stamped<'a> {
    /// The greatest countable clock value.
    pub greatest: u64,
    /// The writer's own entry; 0 for plain writes.
    pub own: u64,
    /// `None` for plain writes.
    pub client_id: Option<&'a str>,
    /// `ts_op`, capped; server time if there is none.
    pub timestamp_ms: u64,
    clock: ClockView<'a>,
}

impl<'a> Stamped<'a> {
    /// Clock values up to `countable_max` count.
    pub fn of(write: &Write<'a>, now_unix_ms: u64, countable_max: u64) -> Self {
        match *write {
            Write::Plain { .. } => Self {
                greatest: 0,
                own: 0,
                client_id: None,
                timestamp_ms: now_unix_ms,
                clock: ClockView::default(),
            },
            Write::Stamped {
                timestamp_ms,
                clock,
                client_id,
                ..
            } => {
                let clock = ClockView { countable_max, ..clock };
                Self {
                    greatest: clock.greatest(),
                    own: clock.entry(client_id).unwrap_or(0),
                    client_id: Some(client_id),
                    timestamp_ms: match timestamp_ms {
                        // The cast saturates, and what is too far ahead is cut back anyway.
                        Some(ms) if ms.is_finite() && ms > 0.0 => (ms as u64).min(now_unix_ms + TIMESTAMP_LEAD_MAX_MS),
                        _ => now_unix_ms,
                    },
                    clock,
                }
            }
        }
    }

    /// Whether it replaces `record`, whose value was written by `record_writer`.
    pub fn wins_over(&self, record: &Record, record_writer: Option<&std::sync::Arc<str>>) -> bool {
        if self.client_id.is_none() || self.timestamp_ms >= record.timestamp_ms {
            return true;
        }
        // Causally newer: it has seen the current value. This keeps a client whose wall clock is slow from losing against
        // what it has already seen, its own writes included.
        let has_seen_stamp = self.clock.entry("server").is_some_and(|seen| seen >= record.lam);
        let has_seen_writer = record.author.own > 0
            && record_writer
                .and_then(|writer| self.clock.entry(writer))
                .is_some_and(|seen| seen >= record.author.own);
        has_seen_stamp || has_seen_writer
    }
}
