//! Snapshots of documents as rows (docs/protocol.md §16.4, table `snapshots` of §18.2).
//!
//! The state of a snapshot is one object: the live fields, and `__text` if there is a text. In the row each value stands as
//! in `documents.state`, wrapped where JSONB would not give it back.

use super::SavedDocument;
use super::exact::{name_of, stored_name, stored_value, value_of};
use crate::document::name_of_key;
use crate::ids::ShardId;
use crate::json::{validate, write_string};
use std::sync::Arc;

/// What a shard asks about snapshots.
#[derive(Debug)]
pub struct SnapshotRequest {
    /// Who asks.
    pub shard: ShardId,
    /// Tells the answer from those to other requests.
    pub serial: u64,
    /// What.
    pub ask: SnapshotAsk,
}

/// What is to be done; each gives rows.
#[derive(Debug)]
pub enum SnapshotAsk {
    /// Keep one. Gives it without state; nothing if the document has no row.
    Add(Box<NewSnapshot>),
    /// The newest of a document, with state.
    Latest(Arc<str>),
    /// Those of a document, newest first, without state.
    List {
        /// The document.
        document: Arc<str>,
        /// At most so many.
        limit: usize,
    },
    /// The one of this id (a UUID in lower case), with state.
    Find(String),
    /// Delete the one of this id. Gives it without state.
    Remove(String),
}

/// A snapshot to be kept.
#[derive(Debug)]
pub struct NewSnapshot {
    /// Its id, a UUID in lower case.
    pub id: String,
    /// Of which document.
    pub document: Arc<str>,
    /// What the document held.
    pub content: SavedDocument,
}

/// A snapshot as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its id.
    pub id: String,
    /// Of which document.
    pub document: String,
    /// Client id → counter, as JSON.
    pub version: String,
    /// Length of the state a client is given, in bytes.
    pub size_bytes: u64,
    /// When it was taken, in Unix milliseconds.
    pub created_at_ms: u64,
    /// What [`encode_snapshot`] made; empty where it was not asked for.
    pub state: String,
}

/// Answers a [`SnapshotRequest`].
#[derive(Debug)]
pub struct SnapshotAnswer {
    /// [`SnapshotRequest::serial`].
    pub serial: u64,
    /// The rows, or why the database does not do this; for the operator.
    pub found: Result<Vec<SnapshotRow>, String>,
}

/// The state of a snapshot for its row, and its length as clients are given it.
pub fn encode_snapshot(document: &SavedDocument) -> (String, u64) {
    let mut row = vec![b'{'];
    let (mut plain_bytes, mut members) = (2, 0u64);
    let mut member = |name: &str, value: &[u8]| {
        if members > 0 {
            row.push(b',');
        }
        members += 1;
        let before = row.len();
        write_string(&mut row, name);
        plain_bytes += (row.len() - before + 1 + value.len()) as u64;
        row.truncate(before);
        write_string(&mut row, &stored_name(name));
        row.push(b':');
        row.extend_from_slice(&stored_value(value));
    };
    for record in &document.records {
        if let Some(value) = record.value.as_deref() {
            member(&name_of_key(&record.key), value);
        }
    }
    if let Some(text) = &document.text {
        member("__text", text.state.to_json().as_bytes());
    }
    row.push(b'}');
    let json = String::from_utf8(row).expect("names and values are UTF-8, and so is everything between them");
    (json, plain_bytes + members.saturating_sub(1))
}

/// The state of a row as clients are given it; `None`: it is not JSON that this server can read.
pub fn decode_snapshot(state: &str) -> Option<Vec<u8>> {
    let json = validate(state.as_bytes()).ok()?;
    let mut plain = vec![b'{'];
    for (name, value) in json.members()? {
        if plain.len() > 1 {
            plain.push(b',');
        }
        write_string(&mut plain, &name_of(&name.decode()));
        plain.push(b':');
        plain.extend_from_slice(&value_of(value.text())?);
    }
    plain.push(b'}');
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{SavedRecord, json_key};

    #[test]
    fn values_come_back_exactly_and_deleted_fields_do_not() {
        let record = |name: &str, value: Option<&str>| SavedRecord {
            key: json_key(name),
            value: value.map(|value| value.as_bytes().into()),
            timestamp_ms: 1,
            lam: 1,
            writer: None,
            own: 0,
            deleted_at_ms: 0,
        };
        let document = SavedDocument {
            records: vec![
                record("a", Some("1e5")),
                record("b\0", Some("\"\\u0000\\ud800\"")),
                record("gone", None),
                record("z", Some("{\"x\":[1,null]}")),
            ],
            ..SavedDocument::default()
        };
        let (stored, size) = encode_snapshot(&document);
        let plain = String::from_utf8(decode_snapshot(&stored).unwrap()).unwrap();
        assert_eq!(plain, r#"{"a":1e5,"b\u0000":"\u0000\ud800","z":{"x":[1,null]}}"#);
        assert_eq!(size, plain.len() as u64);
        assert!(!stored.contains("1e5") && !stored.contains("\\u0000"), "{stored}");
        assert_eq!(encode_snapshot(&SavedDocument::default()), ("{}".to_owned(), 2));
        assert_eq!(decode_snapshot("[1]"), None);
        assert_eq!(decode_snapshot("{\"a\":"), None);
    }
}
