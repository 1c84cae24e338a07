//! A document as the JSON text of its row (docs/protocol.md §18.3).

use super::SavedDocument;
use super::exact::{stored_name, stored_value};
use crate::document::counters::Total;
use crate::document::{SavedRecord, name_of_key};
use crate::json::{write_string, write_u64};

/// The text of `documents.state`. `node` names the server that writes it, for whoever looks at the table.
pub fn encode(id: &str, node: &str, document: &SavedDocument) -> String {
    let mut row = Row(Vec::with_capacity(document.row_bytes()));
    row.member(b"{\"id\":");
    write_string(&mut row.0, id);
    row.member(b",\"fields\":");
    row.object(document.records.iter().filter_map(|record| {
        let value = record.value.as_deref()?;
        Some((record, stored_value(value)))
    }));
    if let Some(text) = &document.text {
        row.member(b",\"type\":\"text\",\"content\":");
        // The content is for other servers to read; U+0000, which the column cannot hold, is in `crdt` all the same.
        write_string(&mut row.0, &text.state.visible_text().replace('\0', "\u{fffd}"));
        row.member(b",\"crdt\":");
        write_string(&mut row.0, &text.state.to_json());
        row.member(b",\"clock\":");
        write_u64(&mut row.0, text.timestamp);
    }
    row.member(b",\"meta\":{\"v\":1,\"L\":");
    write_u64(&mut row.0, document.clock);
    row.member(b",\"node\":");
    write_string(&mut row.0, node);
    let (live, deleted): (Vec<_>, Vec<_>) = document.records.iter().partition(|record| record.value.is_some());
    row.member(b",\"f\":");
    row.object(live.into_iter().map(|record| (record, order(record))));
    if !deleted.is_empty() {
        row.member(b",\"t\":");
        row.object(deleted.into_iter().map(|record| (record, order(record))));
    }
    write_set(&mut row, document);
    write_counters(&mut row, document);
    row.member(b"}}");
    String::from_utf8(row.0).expect("names and values are UTF-8, and so is everything between them")
}

/// A text that grows.
struct Row(Vec<u8>);

impl Row {
    fn member(&mut self, text: &[u8]) {
        self.0.extend_from_slice(text);
    }

    fn name(&mut self, name: &str) {
        write_string(&mut self.0, &stored_name(name));
        self.0.push(b':');
    }

    /// An object of what belongs to records, by their names.
    fn object<'a, V: AsRef<[u8]>>(&mut self, members: impl Iterator<Item = (&'a SavedRecord, V)>) {
        self.list(b'{', b'}', members, |row, (record, json)| {
            row.name(&name_of_key(&record.key));
            row.member(json.as_ref());
        });
    }

    fn list<T>(&mut self, open: u8, close: u8, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut Row, T)) {
        self.0.push(open);
        for (at, item) in items.enumerate() {
            if at > 0 {
                self.0.push(b',');
            }
            write(self, item);
        }
        self.0.push(close);
    }
}

/// `[ts, lam, writer, own]`, and for a tombstone when it was made.
fn order(record: &SavedRecord) -> Vec<u8> {
    let mut json = Vec::with_capacity(64);
    json.push(b'[');
    write_u64(&mut json, record.timestamp_ms);
    json.push(b',');
    write_u64(&mut json, record.lam);
    json.push(b',');
    match &record.writer {
        Some(writer) => write_string(&mut json, &stored_name(writer)),
        None => json.extend_from_slice(b"null"),
    }
    json.push(b',');
    write_u64(&mut json, record.own);
    if record.value.is_none() {
        json.push(b',');
        write_u64(&mut json, record.deleted_at_ms);
    }
    json.push(b']');
    json
}

/// `"set": {canonical JSON of the value: [lam, when it was removed or null]}`.
fn write_set(row: &mut Row, document: &SavedDocument) {
    if document.set.is_empty() {
        return;
    }
    row.member(b",\"set\":");
    row.list(b'{', b'}', document.set.iter(), |row, element| {
        write_string(&mut row.0, &element.value);
        row.member(b":[");
        write_u64(&mut row.0, element.lam);
        row.member(b",");
        match element.removed_at_ms {
            Some(at_ms) => write_u64(&mut row.0, at_ms),
            None => row.member(b"null"),
        }
        row.member(b"]");
    });
}

/// `"counter": {"clients": {client id: [increments, decrements]}, "others": [increments, decrements], "recent": [when the last
/// operation was counted, 32 hexadecimal digits for each]}`; `recent` only if there are any.
fn write_counters(row: &mut Row, document: &SavedDocument) {
    let Some(counters) = &document.counters else { return };
    row.member(b",\"counter\":{\"clients\":");
    row.list(b'{', b'}', counters.totals.iter(), |row, (client, total)| {
        row.name(client);
        write_total(row, total);
    });
    row.member(b",\"others\":");
    write_total(row, &counters.others);
    if !counters.recent.fingerprints.is_empty() {
        row.member(b",\"recent\":[");
        write_u64(&mut row.0, counters.recent.counted_ms);
        row.member(b",\"");
        for fingerprint in &counters.recent.fingerprints {
            row.member(format!("{fingerprint:032x}").as_bytes());
        }
        row.member(b"\"]");
    }
    row.member(b"}");
}

fn write_total(row: &mut Row, total: &Total) {
    row.list(
        b'[',
        b']',
        [total.increments, total.decrements].into_iter(),
        |row, sum| {
            let text = serde_json::Number::from_f64(sum).map_or("0".to_owned(), |number| number.to_string());
            row.member(text.as_bytes());
        },
    );
}
