use super::*;
use crate::peers::Encoder;
use proptest::prelude::*;

fn total() -> impl Strategy<Value = Total> {
    (-1e12..1e12f64, 0..1000u32).prop_map(|(increments, decrements)| Total {
        increments,
        decrements: f64::from(decrements),
    })
}

fn record() -> impl Strategy<Value = SavedRecord> {
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        ".*".prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(format!("{}1{}", "[".repeat(120), "]".repeat(120))),
        Just(r#""\ud800""#.to_owned()),
    ];
    let order = (0..1u64 << 53, 0..CLOCK_KEPT_MAX, 0..1u64 << 53);
    (".*", prop::option::of(value), order, prop::option::of(".*")).prop_map(|(name, value, order, writer)| {
        SavedRecord {
            key: json_key(&name),
            deleted_at_ms: if value.is_some() { 0 } else { order.0 },
            value: value.map(|value| Arc::from(value.as_bytes())),
            timestamp_ms: order.0,
            lam: order.1,
            own: order.2,
            writer: writer.map(Arc::from),
        }
    })
}

fn element() -> impl Strategy<Value = SavedElement> {
    (".*", 0..CLOCK_KEPT_MAX, prop::option::of(0..1u64 << 53)).prop_map(|(value, lam, removed_at_ms)| SavedElement {
        value: json_key(&value),
        lam,
        removed_at_ms,
    })
}

fn counted() -> impl Strategy<Value = CountedOperation> {
    (any::<u128>(), total()).prop_map(|(fingerprint, total)| CountedOperation { fingerprint, total })
}

fn elements() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just(r#"{"type":"richtext","a":[1]},{"b":"}"}"#.to_owned())
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let clock = 0..CLOCK_KEPT_MAX;
    let count = (".{1,8}", total(), elements(), prop::collection::vec(counted(), 0..3)).prop_map(
        |(account, total, elements, counted)| Count {
            account: account.into(),
            total,
            elements,
            counted,
        },
    );
    let operations = (
        clock.clone(),
        elements(),
        elements(),
        prop::collection::vec(element(), 0..4),
        prop::option::of(count),
    )
        .prop_map(|(clock, relayed, relayed_text, set, count)| {
            Body::Operations(Box::new(Operations {
                clock,
                relayed,
                relayed_text,
                set,
                count,
            }))
        });
    let entry = (".{1,8}", prop::option::of(Just(r#"{"x":[1]}"#)), 0..1u64 << 53).prop_map(|(client, state, clock)| {
        PresenceEntry {
            client_id: client.into(),
            state: state.map(|state| Bytes::from_static(state.as_bytes())),
            clock,
        }
    });
    let row = (
        ".*",
        prop::option::of(any::<u64>()),
        0..1u64 << 53,
        0..1u64 << 53,
        prop::option::of(any::<u64>()),
    );
    let row = row.prop_map(|(document, digest, epoch, sequence, presence)| DigestRow {
        document: document.into(),
        digest,
        epoch,
        sequence,
        presence,
    });
    let accounts = prop::collection::btree_map(".{0,8}", total(), 0..4);
    let records = || prop::collection::vec(record(), 0..5);
    let state = (
        clock.clone(),
        records(),
        prop::collection::vec(element(), 0..4),
        accounts,
        any::<u64>(),
        prop::collection::vec(counted(), 0..3),
    );
    let state = state.prop_map(|(clock, records, set, accounts, digest, counted)| {
        let totals = accounts
            .into_iter()
            .map(|(account, total)| (account.into(), total))
            .collect();
        let counters = SavedCounters {
            totals,
            ..SavedCounters::default()
        };
        let document = SavedDocument {
            clock,
            records,
            set,
            counters: Some(counters),
            text: Some(SavedText::default()),
        };
        Body::State(Box::new(State {
            document,
            counted,
            digest,
        }))
    });
    prop_oneof![
        (clock.clone(), records()).prop_map(|(clock, records)| Body::Fields { clock, records }),
        clock.prop_map(|clock| Body::Text {
            clock,
            text: SavedText {
                timestamp: 5,
                ..SavedText::default()
            }
        }),
        operations,
        (prop::collection::vec(entry, 0..4), any::<bool>())
            .prop_map(|(entries, whole)| Body::Presence { entries, whole }),
        (prop::option::of("[a-z]{1,9}"), any::<u64>()).prop_map(|(of, digest)| Body::Want {
            of: of.map(String::into_boxed_str),
            digest
        }),
        state,
        any::<bool>().prop_map(|leaves| Body::Node { leaves }),
        prop::collection::vec(row, 0..4).prop_map(Body::Digests),
    ]
}

fn plain(body: &Body) -> String {
    let mut body = body.clone();
    let text = match &mut body {
        Body::Text { text, .. } => Some(std::mem::take(text)),
        Body::State(state) => state.document.text.take(),
        _ => None,
    };
    let text = text.map(|text| (text.state.to_json(), text.timestamp));
    format!("{body:?} {text:?}")
}

proptest! {
    #[test]
    fn what_is_sent_is_what_is_read(body in body(), document in ".*", epoch in 0..1u64 << 53, sequence in 0..1u64 << 53) {
        let envelopes = Encoder::new("n-1").encode(&document, epoch, sequence, &body);
        prop_assert_eq!(envelopes.len(), 1);
        let read = decode(&envelopes[0]).unwrap();
        prop_assert_eq!((&*read.node, read.epoch, read.sequence), ("n-1", epoch, sequence));
        prop_assert_eq!(plain(&read.body), plain(&body));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = decode(&bytes);
    }

    #[test]
    fn no_damaged_envelope_panics(body in body(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut bytes = Encoder::new("n").encode("d", 1, 2, &body)[0].to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes);
        let _ = decode(&bytes[..cut.index(bytes.len())]);
    }
}

#[test]
fn what_is_too_large_travels_in_parts() {
    let mut state = State {
        digest: 5,
        ..State::default()
    };
    state.document.records = (0..3)
        .map(|at| SavedRecord {
            key: json_key(&format!("f{at}")),
            value: Some(Arc::from(format!("\"{}\"", "é\\n".repeat(400_000)).as_bytes())),
            timestamp_ms: 1,
            lam: 2,
            writer: None,
            own: 0,
            deleted_at_ms: 0,
        })
        .collect();
    let body = Body::State(Box::new(state));
    let envelopes = Encoder::new("n").encode("d", 1, 2, &body);
    assert!(envelopes.len() > 2 && envelopes.iter().all(|envelope| envelope.len() <= ENVELOPE_BYTES_MAX));
    let mut whole = String::new();
    for envelope in &envelopes {
        let Body::Part(part) = decode(envelope).unwrap().body else {
            panic!("a part")
        };
        whole.push_str(&part.data);
    }
    assert_eq!(plain(&decode_whole(whole.as_bytes()).unwrap().body), plain(&body));
}

#[test]
fn what_is_not_understood_is_refused() {
    for (text, why) in [
        ("", Refused::NotJson),
        ("[]", Refused::Foreign),
        (r#"{"type":"delta","id":"x"}"#, Refused::Foreign),
        (r#"{"v":2,"node":"a","kind":"fields"}"#, Refused::Foreign),
        (r#"{"v":1,"node":"a","kind":"new"}"#, Refused::UnknownKind),
        (r#"{"v":1,"node":"a","kind":"fields"}"#, Refused::Malformed("L")),
        (
            r#"{"v":1,"node":"a","kind":"fields","L":1,"records":[{"f":"x","ts":1,"lam":1}]}"#,
            Refused::Malformed("records"),
        ),
        (
            r#"{"v":1,"node":"a","kind":"fields","L":1,"records":[{"f":"x","json":"{","ts":1,"lam":1}]}"#,
            Refused::Malformed("records"),
        ),
    ] {
        assert_eq!(decode(text.as_bytes()).unwrap_err(), why, "{text}");
    }
    assert_eq!(
        decode(&vec![b' '; ENVELOPE_BYTES_MAX + 1]).unwrap_err(),
        Refused::TooLarge
    );
}
