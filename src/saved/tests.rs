use super::*;
use crate::document::counters::{RecentOperations, Total};
use crate::document::{CLOCK_VALUE_MAX, json_key};
use crate::text::TextLimits;
use proptest::prelude::*;

const UPDATED: RowFacts = RowFacts {
    updated_at_ms: 1_700_000_000_000,
    clock_value: Some(77),
};

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]", "(\\$synckit:name:)?[\u{0}\"é\\\\]{0,3}"]
}

fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "null",
        "1",
        "1e5",
        "-0",
        r#""x""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#"{"b":1,"a":[]}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"$synckit:raw":"MQ=="}"#,
    ])
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, 0..CLOCK_VALUE_MAX]
}

fn record() -> impl Strategy<Value = SavedRecord> {
    let value = prop::option::of(value().prop_map(|value| Arc::from(value.as_bytes())));
    let writer = prop::option::of(name().prop_map(Arc::from));
    (name(), value, number(), number(), writer, number(), number()).prop_map(
        |(name, value, timestamp_ms, lam, writer, own, deleted)| SavedRecord {
            key: json_key(&name),
            deleted_at_ms: if value.is_none() { deleted } else { 0 },
            value,
            timestamp_ms,
            lam,
            writer,
            own,
        },
    )
}

fn element() -> impl Strategy<Value = SavedElement> {
    let value = prop::sample::select(vec!["1", r#""a""#, r#""\u0000""#, r#"{"a":[null]}"#]);
    (value, number(), prop::option::of(number())).prop_map(|(value, lam, removed_at_ms)| SavedElement {
        value: Arc::from(value),
        lam,
        removed_at_ms,
    })
}

fn text() -> impl Strategy<Value = SavedText> {
    let block = (0..3u8, "[a-zé\u{0}]{1,4}", any::<bool>());
    (prop::collection::vec(block, 1..4), number()).prop_map(|(blocks, timestamp)| {
        let mut pairs = Vec::new();
        let mut clocks = [0u64; 3];
        for (client, text, deleted) in blocks {
            // What a name stands for must be one text, whatever else is drawn.
            let text: String = text.chars().map(|_| char::from(b'a' + client)).collect();
            let clock = &mut clocks[usize::from(client)];
            *clock += text.len() as u64;
            let id = serde_json::json!({"client_id": format!("c{client}"), "clock": *clock, "offset": 0});
            pairs.push(serde_json::json!([id, {
                "id": id, "text": text, "left_origin": null, "right_origin": null, "deleted": deleted
            }]));
        }
        let state = serde_json::json!({"blocks": pairs, "clock": {"value": 9}, "client_id": "x"}).to_string();
        let incoming = Incoming::parse(&state, &TextLimits::default(), 0).unwrap();
        SavedText {
            state: merge(None, &incoming).state,
            timestamp,
        }
    })
}

fn counters() -> impl Strategy<Value = SavedCounters> {
    let total = || (any::<i32>(), any::<f32>().prop_filter("finite", |sum| sum.is_finite()));
    let total = move || {
        total().prop_map(|(increments, decrements)| Total {
            increments: f64::from(increments),
            decrements: f64::from(decrements),
        })
    };
    let recent =
        (number(), prop::collection::btree_set(any::<u128>(), 0..4)).prop_map(|(counted_ms, found)| match found {
            none if none.is_empty() => RecentOperations::default(),
            some => RecentOperations {
                counted_ms,
                fingerprints: some.into_iter().collect(),
            },
        });
    let totals = prop::collection::btree_map(name(), total(), 0..3);
    (totals, total(), recent).prop_map(|(totals, others, recent)| SavedCounters {
        totals: totals
            .into_iter()
            .map(|(client, total)| (client.into(), total))
            .collect(),
        others,
        recent,
    })
}

fn document() -> impl Strategy<Value = SavedDocument> {
    (
        number(),
        prop::collection::vec(record(), 0..6),
        prop::option::of(text()),
        prop::collection::vec(element(), 0..4),
        prop::option::of(counters()),
    )
        .prop_map(|(clock, records, text, set, counters)| {
            let mut document = SavedDocument {
                clock,
                text,
                counters,
                ..SavedDocument::default()
            };
            // Through a merge, so that each name and value stands once.
            document.merge(SavedDocument {
                records,
                set,
                ..SavedDocument::default()
            });
            document
        })
}

/// A document in an order that does not depend on how it came about.
fn plain(document: &SavedDocument) -> String {
    let mut document = document.clone();
    document.records.sort_by(|a, b| a.key.cmp(&b.key));
    document.set.sort_by(|a, b| a.value.cmp(&b.value));
    let text = document.text.take().map(|text| (text.state.to_json(), text.timestamp));
    format!("{document:?} {text:?}")
}

fn merged(a: &SavedDocument, b: &SavedDocument) -> SavedDocument {
    let mut merged = a.clone();
    merged.merge(b.clone());
    merged
}

proptest! {
    #[test]
    fn a_row_gives_back_the_document(mut document in document()) {
        document.clock = document.clock.max(100);
        let row = encode("doc", "node", &document);
        prop_assert!(!row.contains("\\u0000") || !contains_nul(&row), "JSONB would refuse it: {row}");
        let read = decode(&row, UPDATED).unwrap();
        prop_assert_eq!(plain(&read), plain(&document));
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent(a in document(), b in document(), c in document()) {
        prop_assert_eq!(plain(&merged(&a, &b)), plain(&merged(&b, &a)));
        prop_assert_eq!(plain(&merged(&merged(&a, &b), &c)), plain(&merged(&a, &merged(&b, &c))));
        prop_assert_eq!(plain(&merged(&a, &a)), plain(&a));
        prop_assert_eq!(plain(&merged(&merged(&a, &b), &b)), plain(&merged(&a, &b)));
    }

    #[test]
    fn no_row_panics(text: String) {
        let _ = decode(&text, UPDATED);
    }

    #[test]
    fn no_damaged_row_panics(document in document(), at: prop::sample::Index, byte: u8) {
        let mut row = encode("doc", "node", &document).into_bytes();
        let at = at.index(row.len());
        row[at] = byte;
        if let Ok(row) = String::from_utf8(row) && let Ok(read) = decode(&row, UPDATED) {
            // Whatever was read can be written, and means the same then.
            let again = decode(&encode("doc", "node", &read), UPDATED).unwrap();
            prop_assert_eq!(plain(&again), plain(&read));
        }
    }
}

fn contains_nul(row: &str) -> bool {
    fn nul(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::String(text) => text.contains('\0'),
            serde_json::Value::Array(items) => items.iter().any(nul),
            serde_json::Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || nul(value)),
            _ => false,
        }
    }
    nul(&serde_json::from_str(row).unwrap())
}

fn record_of<'a>(document: &'a SavedDocument, name: &str) -> &'a SavedRecord {
    let key = json_key(name);
    document.records.iter().find(|record| record.key == key).unwrap()
}

#[test]
fn the_layout_is_that_of_the_specification() {
    let record = |name: &str, value: Option<&str>, lam| SavedRecord {
        key: json_key(name),
        value: value.map(|value| Arc::from(value.as_bytes())),
        timestamp_ms: 5,
        lam,
        writer: value.map(|_| Arc::from("c1")),
        own: 3,
        deleted_at_ms: if value.is_none() { 9 } else { 0 },
    };
    let document = SavedDocument {
        clock: 12,
        records: vec![record("a", Some("[1]"), 10), record("b", None, 11)],
        ..SavedDocument::default()
    };
    assert_eq!(
        encode("doc", "n1", &document),
        r#"{"id":"doc","fields":{"a":[1]},"meta":{"v":1,"L":12,"node":"n1","f":{"a":[5,10,"c1",3]},"t":{"b":[5,11,null,3,9]}}}"#
    );
}

#[test]
fn a_row_of_the_typescript_server_is_taken_over() {
    let row = r#"{"id": "doc", "fields": {"a": 0, "gone": {"__deleted": true}, "o": {"x": "a b"}}}"#;
    let document = decode(row, UPDATED).unwrap();
    assert_eq!(document.clock, 77);
    let a = record_of(&document, "a");
    assert_eq!(
        (a.value.as_deref(), a.timestamp_ms, a.lam),
        (Some(&b"0"[..]), UPDATED.updated_at_ms, 0)
    );
    assert_eq!(record_of(&document, "o").value.as_deref(), Some(&br#"{"x":"a b"}"#[..]));
    let gone = record_of(&document, "gone");
    assert_eq!(
        (gone.value.as_deref(), gone.deleted_at_ms),
        (None, UPDATED.updated_at_ms)
    );
    let huge = RowFacts {
        clock_value: Some(i64::MAX),
        ..UPDATED
    };
    assert_eq!(decode(row, huge).unwrap().clock, 0, "values above 2^50 do not count");
    assert!(decode("{}", UPDATED).unwrap().records.is_empty());
}

#[test]
fn what_another_server_changed_in_our_row_counts() {
    let row = r#"{"id":"doc","fields":{"same":2,"new":1,"back":3},
        "meta":{"v":1,"L":50,"f":{"same":[5,10,"c1",3],"lost":[5,11,null,0]},"t":{"back":[5,12,null,0,9],"gone":[5,13,null,0,9]}}}"#;
    let document = decode(row, UPDATED).unwrap();
    let facts = |name| {
        let record = record_of(&document, name);
        let value = record
            .value
            .as_deref()
            .map(|value| String::from_utf8_lossy(value).into_owned());
        (value, record.timestamp_ms, record.lam)
    };
    let row_time = UPDATED.updated_at_ms;
    assert_eq!(facts("same"), (Some("2".into()), 5, 10));
    assert_eq!(facts("new"), (Some("1".into()), row_time, 0));
    assert_eq!(facts("back"), (Some("3".into()), row_time, 0));
    assert_eq!(facts("lost"), (None, row_time, 0));
    assert_eq!(facts("gone"), (None, 5, 13));
    assert_eq!(document.clock, 77);
}

#[test]
fn a_row_that_cannot_be_understood_is_an_error_and_no_empty_document() {
    for (row, error) in [
        ("", RowError::NotJson),
        ("[]", RowError::NotAnObject),
        (r#"{"fields":{"a":{"$synckit:raw":"ew=="}}}"#, RowError::Value),
        (r#"{"crdt":5}"#, RowError::Text(TextError::WrongType)),
        (r#"{"crdt":"{"}"#, RowError::Text(TextError::NotJson)),
    ] {
        assert_eq!(decode(row, UPDATED).unwrap_err(), error, "{row}");
    }
    assert!(
        decode(r#"{"type":"text","content":"","crdt":"","clock":1}"#, UPDATED)
            .unwrap()
            .text
            .is_none()
    );
}

use crate::text::TextError;
