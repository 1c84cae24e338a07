//! Stored rows: whatever can be read can be written and means the same then, and copies merge in any order.

use synckit_server::saved::{RowFacts, SavedDocument, decode, encode};
use synckit_server::text::{Incoming, merge};

const FACTS: RowFacts = RowFacts {
    updated_at_ms: 1_700_000_000_000,
    clock_value: Some(77),
};

/// Two rows with a zero byte between them, or one.
pub fn stored_row(data: &[u8]) {
    let mut rows = data.splitn(2, |byte| *byte == 0);
    let first = rows.next().and_then(read);
    let second = rows.next().and_then(read);
    let Some(first) = first else {
        return;
    };
    assert_eq!(plain(&merged(&first, &first)), plain(&first), "idempotent");
    let Some(second) = second else {
        return;
    };
    let both = merged(&first, &second);
    assert_eq!(plain(&merged(&both, &second)), plain(&both), "absorbing");
    if !collide(&first, &second) {
        assert_eq!(plain(&both), plain(&merged(&second, &first)), "commutative");
    }
    again(&both);
}

fn read(row: &[u8]) -> Option<SavedDocument> {
    let document = decode(std::str::from_utf8(row).ok()?, FACTS).ok()?;
    again(&document);
    Some(document)
}

/// Through a row and back.
fn again(document: &SavedDocument) {
    let row = encode("doc", "node", document);
    let again = decode(&row, FACTS).unwrap_or_else(|error| panic!("{error}: {row}"));
    assert_eq!(plain(&again), plain(document), "{row}");
    let value: serde_json::Value = serde_json::from_str(&row).unwrap_or_else(|error| panic!("{error}: {row}"));
    assert!(!has_nul(&value), "JSONB would refuse it: {row}");
}

fn has_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(items) => items.iter().any(has_nul),
        serde_json::Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn merged(a: &SavedDocument, b: &SavedDocument) -> SavedDocument {
    let mut merged = a.clone();
    merged.merge(b.clone());
    merged
}

/// Whether one name stands for two texts, in which case the stored copy wins and the order matters.
fn collide(a: &SavedDocument, b: &SavedDocument) -> bool {
    let (Some(a), Some(b)) = (&a.text, &b.text) else {
        return false;
    };
    merge(Some(&a.state), &Incoming::from(&b.state)).collisions > 0
}

/// A document in an order that does not depend on how it came about.
fn plain(document: &SavedDocument) -> String {
    let mut document = document.clone();
    document.records.sort_by(|a, b| a.key.cmp(&b.key));
    document.set.sort_by(|a, b| a.value.cmp(&b.value));
    let text = document.text.take().map(|text| (text.state.to_json(), text.timestamp));
    format!("{document:?} {text:?}")
}
