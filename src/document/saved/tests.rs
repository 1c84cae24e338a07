use super::*;
use crate::document::{ClockView, Limits, Write};
use crate::ids::{SessionRef, ShardId, Slot};
use proptest::prelude::*;
use std::collections::BTreeMap;

const NOW: u64 = 1_760_000_000_000;

fn session(number: u32) -> SessionRef {
    SessionRef::new(ShardId(0), Slot(number), 1)
}

fn sorted(document: &Document) -> Vec<SavedRecord> {
    let mut records = document.saved_records();
    records.sort_by(|a, b| a.key.cmp(&b.key));
    records
}

/// A write of one of a few fields by one of a few clients, or a deletion.
fn writes() -> impl Strategy<Value = Vec<(u8, u8, u16, u8)>> {
    prop::collection::vec((0..6u8, 0..4u8, any::<u16>(), 0..4u8), 0..40)
}

fn apply(document: &mut Document, writes: &[(u8, u8, u16, u8)]) {
    for (at, (field, client, value, kind)) in writes.iter().enumerate() {
        let (now, name, client_id) = (NOW + at as u64 * 7, format!("f{field}\u{0}\""), format!("c{client}"));
        let value = match kind {
            0 => r#"{"__deleted":true}"#.to_owned(),
            _ => value.to_string(),
        };
        let clock = [(&*client_id, at as u64 + 1)];
        let write = match kind {
            1 => Write::Stamped {
                name: &name,
                value: Some(value.as_bytes()),
                timestamp_ms: Some((now - 3000 + u64::from(*client) * 1500) as f64),
                clock: ClockView::new(&clock),
                client_id: &client_id,
            },
            _ => Write::Plain {
                name: &name,
                value: value.as_bytes(),
            },
        };
        let _ = document.write(now, session(u32::from(*client)), write);
    }
    document.flush(&Limits::default());
}

/// Any record at all, as two servers or a hostile row may have it; few distinct values, so that ties are common.
fn record() -> impl Strategy<Value = SavedRecord> {
    let value = prop::option::of((0..3u8).prop_map(|value| Arc::from(value.to_string().as_bytes())));
    let writer = prop::option::of((0..2u8).prop_map(|writer| Arc::from(format!("w{writer}"))));
    let number = || prop_oneof![0..3u64, Just(CLOCK_KEPT_MAX), any::<u64>()];
    (0..3u8, value, number(), number(), writer, number(), number()).prop_map(
        |(field, value, timestamp_ms, lam, writer, own, deleted)| SavedRecord {
            key: super::super::json_key(&format!("f{field}")),
            deleted_at_ms: if value.is_none() { deleted } else { 0 },
            value,
            timestamp_ms,
            lam,
            writer,
            own,
        },
    )
}

/// The greatest record of every field, whatever the order they come in.
fn winners<'a>(records: impl IntoIterator<Item = &'a SavedRecord>) -> BTreeMap<Arc<str>, SavedRecord> {
    let mut winners: BTreeMap<Arc<str>, SavedRecord> = BTreeMap::new();
    for record in records {
        match winners.get(&record.key) {
            Some(current) if !record.beats(current) => {}
            _ => {
                winners.insert(record.key.clone(), record.clone());
            }
        }
    }
    winners
}

proptest! {
    #[test]
    fn a_document_comes_back_as_it_was_stored(writes in writes()) {
        let mut document = Document::new("doc", NOW);
        apply(&mut document, &writes);
        let mut restored = Document::restore("doc", NOW + 1_000_000, document.clock(), document.saved_records());
        prop_assert_eq!(sorted(&restored), sorted(&document));
        prop_assert_eq!(restored.encoded_bytes(), document.encoded_bytes());
        prop_assert_eq!(restored.tombstone_count(), document.tombstone_count());
        prop_assert!(restored.clock() >= document.clock());
        prop_assert!(!restored.dirty());
        let fields = |document: &mut Document| serde_json::from_slice::<serde_json::Value>(&document.state_json()).unwrap();
        prop_assert_eq!(fields(&mut restored), fields(&mut document));
        // Everything is still known: of a tombstone also when it may be forgotten.
        restored.expire_tombstones(NOW + 25 * 3_600_000, &Limits::default());
        prop_assert_eq!(restored.tombstone_count(), 0);
    }

    #[test]
    fn a_restored_document_goes_on_as_the_original(before in writes(), after in writes()) {
        let mut original = Document::new("doc", NOW);
        apply(&mut original, &before);
        let mut restored = Document::restore("doc", NOW, original.clock(), original.saved_records());
        apply(&mut original, &after);
        apply(&mut restored, &after);
        let values = |document: &Document| {
            let records = sorted(document).into_iter();
            records.map(|record| (record.key, record.value, record.own, record.writer)).collect::<Vec<_>>()
        };
        // Plain writes and those with a fresh timestamp win on both; a stamped one may lose only on both.
        prop_assert_eq!(values(&restored), values(&original));
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent(records in prop::collection::vec(record(), 0..12)) {
        let forwards = winners(&records);
        prop_assert_eq!(&winners(records.iter().rev()), &forwards);
        prop_assert_eq!(&winners(records.iter().chain(&records)), &forwards);
        let (left, right) = records.split_at(records.len() / 2);
        let (left, right) = (winners(left), winners(right));
        prop_assert_eq!(&winners(right.values().chain(left.values())), &forwards);
    }

    #[test]
    fn documents_that_exchange_records_become_equal(
        ours in prop::collection::vec(record(), 0..8),
        theirs in prop::collection::vec(record(), 0..8),
    ) {
        let (ours, theirs) = (winners(&ours), winners(&theirs));
        let document = |records: &BTreeMap<Arc<str>, SavedRecord>| {
            Document::restore("doc", NOW, 0, records.values().cloned().collect())
        };
        let (mut a, mut b) = (document(&ours), document(&theirs));
        let (from_a, from_b) = (a.saved_records(), b.saved_records());
        let changed: Vec<_> = from_b.iter().filter(|record| a.merge(record)).map(|record| record.key.clone()).collect();
        from_a.iter().for_each(|record| { b.merge(record); });
        let values = |document: &Document| {
            let records = sorted(document).into_iter();
            records.map(|record| (record.key, record.value, record.timestamp_ms, record.lam)).collect::<Vec<_>>()
        };
        prop_assert_eq!(values(&a), values(&b));
        prop_assert_eq!(a.dirty(), !changed.is_empty());
        // What changed is told to everybody, with a clock beyond everything known.
        let told: Vec<_> = a.flush(&Limits { tombstones_max: usize::MAX, ..Limits::default() });
        prop_assert!(told.iter().all(|field| field.for_all && field.author.is_none() && field.stamp <= a.clock()));
        let mut told: Vec<_> = told.into_iter().map(|field| field.key).collect();
        told.sort();
        let mut changed = changed;
        changed.sort();
        prop_assert_eq!(told, changed);
        // Again changes nothing.
        prop_assert!(!from_b.iter().any(|record| a.merge(record)));
        a.expire_tombstones(u64::MAX, &Limits::default());
        prop_assert_eq!(a.tombstone_count(), 0);
    }
}

#[test]
fn the_clock_passes_what_was_told_before_the_restart() {
    let mut document = Document::new("doc", NOW);
    let clock = [("c", NOW + 1_000_000)];
    let write = Write::Stamped {
        name: "f",
        value: Some(b"1"),
        timestamp_ms: None,
        clock: ClockView::new(&clock),
        client_id: "c",
    };
    let _ = document.write(NOW, session(1), write);
    let (stored, records) = (document.clock(), document.saved_records());
    let told = (0..100).map(|_| document.synced(NOW, session(1))).max().unwrap();
    let restored = Document::restore("doc", NOW, stored, records);
    assert!(restored.clock() > told);
}
