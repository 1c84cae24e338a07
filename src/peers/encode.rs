//! Envelopes as bytes (docs/protocol.md §19.2).

use super::envelope::{Body, CountedOperation, DigestRow, Operations, PresenceEntry, State};
use crate::document::counters::Total;
use crate::document::sets::SavedElement;
use crate::document::{SavedRecord, TOMBSTONE_JSON};
use crate::json::{write_string, write_u64};
use crate::limits::{ENVELOPE_PART_BYTES, PARTS_MAX};
use crate::saved::SavedText;
use bytes::Bytes;

/// Values nested deeper than this stand as strings: the envelope's own levels must not push one beyond what is read.
const PLAIN_DEPTH_MAX: usize = 100;

/// Writes envelopes of one node.
pub struct Encoder {
    head: Vec<u8>,
    message: u64,
}

impl Encoder {
    /// `node`: the node's name, which needs no escaping.
    pub fn new(node: &str) -> Encoder {
        Encoder {
            head: format!("{{\"v\":1,\"node\":\"{node}\",").into_bytes(),
            message: 0,
        }
    }

    /// One message about a document (or about none: an empty id), in as many envelopes as it takes. Nothing if it is larger
    /// than any node takes.
    pub fn encode(&mut self, document: &str, epoch: u64, sequence: u64, body: &Body) -> Vec<Bytes> {
        let mut out = self.begin(kind_of(body), document, epoch, sequence);
        write_body(&mut out, body);
        out.push(b'}');
        if out.len() <= ENVELOPE_PART_BYTES {
            return vec![out.into()];
        }
        self.parts(document, epoch, sequence, &out)
    }

    fn begin(&self, kind: &str, document: &str, epoch: u64, sequence: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.head);
        for (name, number) in [("epoch", epoch), ("seq", sequence)] {
            if number > 0 {
                name_of(&mut out, name);
                write_u64(&mut out, number);
                out.push(b',');
            }
        }
        out.extend_from_slice(b"\"kind\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        if !document.is_empty() {
            member(&mut out, "documentId");
            write_string(&mut out, document);
        }
        out
    }

    fn parts(&mut self, document: &str, epoch: u64, sequence: u64, whole: &[u8]) -> Vec<Bytes> {
        self.message += 1;
        let whole = std::str::from_utf8(whole).unwrap_or_default();
        let mut pieces = Vec::new();
        let mut rest = whole;
        while !rest.is_empty() {
            let mut end = rest.len().min(ENVELOPE_PART_BYTES);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            pieces.push(&rest[..end]);
            rest = &rest[end..];
        }
        if pieces.len() > PARTS_MAX as usize {
            return Vec::new();
        }
        let of = pieces.len() as u64;
        let piece = |(at, piece): (usize, &&str)| {
            let mut out = self.begin("part", document, epoch, sequence);
            for (name, number) in [("message", self.message), ("at", at as u64), ("of", of)] {
                member(&mut out, name);
                write_u64(&mut out, number);
            }
            member(&mut out, "data");
            write_string(&mut out, piece);
            out.push(b'}');
            Bytes::from(out)
        };
        pieces.iter().enumerate().map(piece).collect()
    }
}

fn kind_of(body: &Body) -> &'static str {
    match body {
        Body::Fields { .. } => "fields",
        Body::Text { .. } => "text",
        Body::Operations(_) => "op",
        Body::Presence { .. } => "aware",
        Body::Want { .. } => "want",
        Body::State(_) => "state",
        Body::Part(_) => "part",
        Body::Node { .. } => "node",
        Body::Digests(_) => "digests",
    }
}

fn write_body(out: &mut Vec<u8>, body: &Body) {
    match body {
        Body::Fields { clock, records } => {
            number(out, "L", *clock);
            list(out, "records", records, write_record);
        }
        Body::Text { clock, text } => {
            number(out, "L", *clock);
            write_text(out, text);
        }
        Body::Operations(operations) => write_operations(out, operations),
        Body::Presence { entries, whole } => {
            if *whole {
                member(out, "whole");
                out.extend_from_slice(b"true");
            }
            list(out, "entries", entries, write_entry);
        }
        Body::Want { of, digest } => {
            if let Some(of) = of {
                member(out, "of");
                write_string(out, of);
            }
            member(out, "digest");
            hex(out, *digest);
        }
        Body::State(state) => write_state(out, state),
        // Parts are made from messages, see `Encoder::parts`.
        Body::Part(_) => {}
        Body::Node { leaves } => {
            if *leaves {
                member(out, "leaves");
                out.extend_from_slice(b"true");
            }
        }
        Body::Digests(rows) => list(out, "documents", rows, write_row),
    }
}

fn name_of(out: &mut Vec<u8>, name: &str) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn member(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    name_of(out, name);
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    member(out, name);
    write_u64(out, value);
}

fn hex(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(format!("\"{value:016x}\"").as_bytes());
}

fn list<T>(out: &mut Vec<u8>, name: &str, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    member(out, name);
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// `{"f":name,"val":value|"del":when,"ts","lam","writer","own"}`
fn write_record(out: &mut Vec<u8>, record: &SavedRecord) {
    out.extend_from_slice(b"{\"f\":");
    out.extend_from_slice(record.key.as_bytes());
    match record.value.as_deref() {
        Some(value) if depth(value) > PLAIN_DEPTH_MAX => {
            member(out, "json");
            write_string(out, std::str::from_utf8(value).unwrap_or("null"));
        }
        Some(value) => {
            member(out, "val");
            out.extend_from_slice(value);
        }
        None => number(out, "del", record.deleted_at_ms),
    }
    number(out, "ts", record.timestamp_ms);
    number(out, "lam", record.lam);
    if let Some(writer) = &record.writer {
        member(out, "writer");
        write_string(out, writer);
    }
    if record.own > 0 {
        number(out, "own", record.own);
    }
    out.push(b'}');
    debug_assert!(record.value.as_deref() != Some(TOMBSTONE_JSON));
}

/// How deep a value could be nested at most.
fn depth(value: &[u8]) -> usize {
    if value.len() <= 2 * PLAIN_DEPTH_MAX {
        return 0;
    }
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in value {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn write_text(out: &mut Vec<u8>, text: &SavedText) {
    member(out, "state");
    write_string(out, &text.state.to_json());
    number(out, "timestamp", text.timestamp);
}

fn write_operations(out: &mut Vec<u8>, operations: &Operations) {
    number(out, "L", operations.clock);
    for (name, elements) in [("ops", &operations.relayed), ("textOps", &operations.relayed_text)] {
        elements_of(out, name, elements);
    }
    if !operations.set.is_empty() {
        list(out, "set", &operations.set, write_element);
    }
    if let Some(count) = &operations.count {
        member(out, "count");
        out.extend_from_slice(b"{\"account\":");
        write_string(out, &count.account);
        member(out, "total");
        write_total(out, &count.total);
        elements_of(out, "ops", &count.elements);
        list(out, "counted", &count.counted, write_counted);
        out.push(b'}');
    }
}

fn elements_of(out: &mut Vec<u8>, name: &str, elements: &str) {
    if !elements.is_empty() {
        member(out, name);
        out.push(b'[');
        out.extend_from_slice(elements.as_bytes());
        out.push(b']');
    }
}

/// `[canonical JSON of the value, lam, when it was removed or null]`
fn write_element(out: &mut Vec<u8>, element: &SavedElement) {
    out.push(b'[');
    write_string(out, &element.value);
    out.push(b',');
    write_u64(out, element.lam);
    out.push(b',');
    match element.removed_at_ms {
        Some(at_ms) => write_u64(out, at_ms),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b']');
}

fn write_total(out: &mut Vec<u8>, total: &Total) {
    let text = |sum: f64| serde_json::Number::from_f64(sum).map_or("0".to_owned(), |sum| sum.to_string());
    out.extend_from_slice(format!("[{},{}]", text(total.increments), text(total.decrements)).as_bytes());
}

/// `[fingerprint, [increments, decrements]]`
fn write_counted(out: &mut Vec<u8>, counted: &CountedOperation) {
    out.extend_from_slice(format!("[\"{:032x}\",", counted.fingerprint).as_bytes());
    write_total(out, &counted.total);
    out.push(b']');
}

fn write_entry(out: &mut Vec<u8>, entry: &PresenceEntry) {
    out.extend_from_slice(b"{\"clientId\":");
    write_string(out, &entry.client_id);
    member(out, "state");
    out.extend_from_slice(entry.state.as_deref().unwrap_or(b"null"));
    number(out, "clock", entry.clock);
    out.push(b'}');
}

fn write_state(out: &mut Vec<u8>, state: &State) {
    number(out, "L", state.document.clock);
    member(out, "digest");
    hex(out, state.digest);
    list(out, "records", &state.document.records, write_record);
    if let Some(text) = &state.document.text {
        member(out, "text");
        out.extend_from_slice(b"{\"v\":1");
        write_text(out, text);
        out.push(b'}');
    }
    list(out, "set", &state.document.set, write_element);
    if let Some(counters) = &state.document.counters {
        member(out, "counters");
        out.extend_from_slice(b"{\"v\":1");
        list(out, "accounts", &counters.totals, |out, (account, total)| {
            out.push(b'[');
            write_string(out, account);
            out.push(b',');
            write_total(out, total);
            out.push(b']');
        });
        member(out, "others");
        write_total(out, &counters.others);
        out.push(b'}');
        list(out, "counted", &state.counted, write_counted);
    }
}

/// `[document, digest or null, epoch, sequence, presence digest or null]`
fn write_row(out: &mut Vec<u8>, row: &DigestRow) {
    let optional = |out: &mut Vec<u8>, value: Option<u64>| match value {
        Some(value) => hex(out, value),
        None => out.extend_from_slice(b"null"),
    };
    out.push(b'[');
    write_string(out, &row.document);
    out.push(b',');
    optional(out, row.digest);
    for number in [row.epoch, row.sequence] {
        out.push(b',');
        write_u64(out, number);
    }
    out.push(b',');
    optional(out, row.presence);
    out.push(b']');
}
