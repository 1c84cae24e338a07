use super::*;
use crate::ids::{ShardId, Slot};
use proptest::prelude::*;
use std::collections::BTreeMap;

const NOW: u64 = 1_760_000_000_000;

fn session(number: u32) -> SessionRef {
    SessionRef::new(ShardId(number as u16 % 4), Slot(number), 1)
}

fn document() -> Document {
    Document::new("doc", NOW)
}

fn plain<'a>(name: &'a str, value: &'a str) -> Write<'a> {
    Write::Plain {
        name,
        value: value.as_bytes(),
    }
}

fn stamped<'a>(value: &'a str, timestamp_ms: u64, clock: &'a [(&'a str, u64)], client_id: &'a str) -> Write<'a> {
    Write::Stamped {
        name: "f",
        value: Some(value.as_bytes()),
        timestamp_ms: Some(timestamp_ms as f64),
        clock: ClockView::new(clock),
        client_id,
    }
}

fn flush_one(document: &mut Document) -> FlushedField {
    let mut fields = document.flush(&Limits::default());
    assert_eq!(fields.len(), 1);
    fields.remove(0)
}

#[test]
fn a_plain_write_always_wins_and_goes_to_all() {
    let mut document = document();
    assert_eq!(
        document.write(NOW, session(1), stamped("1", NOW, &[("a", 1)], "a")),
        Verdict::Won
    );
    assert_eq!(document.write(NOW - 60_000, session(2), plain("f", "2")), Verdict::Won);
    let field = flush_one(&mut document);
    assert_eq!(
        (field.value_json(), field.for_all, field.stamp),
        (&b"2"[..], true, NOW + 2)
    );
    assert_eq!(field.author, Some((session(2), AuthorClock::Ordinary)));
    assert_eq!(
        field.clock_for(session(1), Some("a")),
        SentClock::Raised {
            client: "a",
            stamp: NOW + 2
        }
    );
    assert_eq!(field.clock_for(session(2), None), SentClock::Server { stamp: NOW + 2 });
    assert!(!document.dirty() && document.flush(&Limits::default()).is_empty());
}

#[test]
fn an_older_write_loses_and_its_author_alone_is_told() {
    let mut document = document();
    assert_eq!(document.write(NOW, session(1), plain("f", "1")), Verdict::Won);
    let first = flush_one(&mut document);
    assert_eq!(
        document.write(NOW, session(2), stamped("2", NOW - 1, &[("b", 5)], "b")),
        Verdict::Lost
    );
    let field = flush_one(&mut document);
    assert_eq!(
        (field.value_json(), field.for_all, field.author.is_none()),
        (&b"1"[..], false, true)
    );
    assert!(field.stamp > first.stamp, "the loser's own clock must be passed");
    assert!(field.reaches(session(2)) && !field.reaches(session(1)));
}

#[test]
fn a_field_that_is_dirty_for_all_and_forced_is_one_field() {
    let mut document = document();
    assert_eq!(
        document.write(NOW, session(1), stamped("1", NOW, &[("a", 7)], "a")),
        Verdict::Won
    );
    for _ in 0..3 {
        assert_eq!(
            document.write(NOW, session(2), stamped("2", NOW - 1, &[("b", 5)], "b")),
            Verdict::Lost
        );
    }
    let field = flush_one(&mut document);
    assert_eq!((field.for_all, field.forced.as_slice()), (true, &[session(2)][..]));
    assert!(!field.is_forced_for(session(1)) && field.is_by(session(1)));
    assert_eq!(
        field.clock_for(session(1), Some("a")),
        SentClock::OwnEcho { client: "a", own: 7 }
    );
}

#[test]
fn a_client_with_a_slow_wall_clock_wins_against_what_it_has_seen() {
    let win = |clock: &[(&str, u64)]| {
        let mut document = document();
        assert_eq!(
            document.write(NOW, session(1), stamped("1", NOW, &[("a", 3)], "a")),
            Verdict::Won
        );
        document.write(NOW, session(2), stamped("2", NOW - 5000, clock, "b")) == Verdict::Won
    };
    let lam = NOW + 1;
    assert!(win(&[("b", 1), ("server", lam)]));
    assert!(!win(&[("b", 1), ("server", lam - 1)]));
    assert!(win(&[("b", 1), ("a", 3)]), "it has seen the writer's own entry");
    assert!(!win(&[("b", 1), ("a", 2)]));
    assert!(
        !win(&[("b", 1), ("a", CLOCK_VALUE_MAX + 1)]),
        "a value that does not count is no proof"
    );
}

#[test]
fn a_wall_clock_ahead_is_cut_back_and_a_timestamp_never_decreases() {
    let mut document = document();
    assert_eq!(
        document.write(NOW, session(1), stamped("1", NOW + 60_000, &[("a", 1)], "a")),
        Verdict::Won
    );
    assert_eq!(
        document.write(NOW, session(2), stamped("2", NOW + 999, &[("b", 1)], "b")),
        Verdict::Lost
    );
    assert_eq!(
        document.write(NOW, session(2), stamped("2", NOW + 1000, &[("b", 2)], "b")),
        Verdict::Won
    );
    // A plain write with the server's clock stepped back keeps the record's timestamp.
    assert_eq!(document.write(NOW - 9, session(3), plain("f", "3")), Verdict::Won);
    assert_eq!(
        document.write(NOW, session(2), stamped("4", NOW + 999, &[("c", 1)], "c")),
        Verdict::Lost
    );
    for nonsense in [f64::NAN, f64::INFINITY, -5.0, 0.0] {
        let write = Write::Stamped {
            name: "g",
            value: None,
            timestamp_ms: Some(nonsense),
            clock: ClockView::new(&[("z", 1)]),
            client_id: "z",
        };
        assert_eq!(
            document.write(NOW, session(1), write),
            Verdict::Won,
            "counts as now: {nonsense}"
        );
    }
    assert_eq!(document.value("g"), Some(&b"null"[..]));
}

#[test]
fn hostile_clock_values_do_not_count() {
    let mut document = document();
    let clock = [("a", CLOCK_VALUE_MAX + 1), ("server", u64::MAX)];
    assert_eq!(
        document.write(NOW, session(1), stamped("1", NOW, &clock, "a")),
        Verdict::Won
    );
    document.raise_clock(1 << 53);
    assert_eq!(document.clock(), NOW + 1);
    document.raise_clock(CLOCK_VALUE_MAX);
    assert_eq!(document.synced(NOW, session(1)), CLOCK_VALUE_MAX + 1);
    let field = flush_one(&mut document);
    assert_eq!(
        field.author,
        Some((session(1), AuthorClock::Ordinary)),
        "no countable own entry"
    );
}

#[test]
fn an_own_echo_is_sent_only_above_what_the_author_may_have_seen() {
    let echo = |synced_first: bool, own: u64| {
        let mut document = document();
        assert_eq!(document.write(NOW, session(9), plain("f", "0")), Verdict::Won);
        document.flush(&Limits::default());
        let synced = if synced_first {
            document.synced(NOW, session(1))
        } else {
            0
        };
        assert_eq!(
            document.write(NOW, session(1), stamped("1", NOW, &[("a", own)], "a")),
            Verdict::Won
        );
        let field = flush_one(&mut document);
        (
            synced,
            matches!(field.clock_for(session(1), Some("a")), SentClock::OwnEcho { .. }),
        )
    };
    assert_eq!(echo(true, 1), (NOW + 2, false));
    assert_eq!(echo(true, NOW + 2), (NOW + 2, false));
    assert_eq!(echo(true, NOW + 3), (NOW + 2, true));
    assert!(
        !echo(false, NOW + 1).1,
        "the stamp of the value it replaced may be under way"
    );
    assert!(echo(false, NOW + 2).1);
}

#[test]
fn a_field_younger_than_the_sync_response_is_echoed_at_once() {
    let mut document = document();
    document.synced(NOW, session(1));
    assert_eq!(
        document.write(NOW, session(1), stamped("1", NOW, &[("a", 1)], "a")),
        Verdict::Won
    );
    let field = flush_one(&mut document);
    assert_eq!(
        field.clock_for(session(1), None),
        SentClock::OwnEcho { client: "a", own: 1 }
    );
}

#[test]
fn nobody_called_server_makes_a_clock_with_two_equal_members() {
    let mut document = document();
    assert_eq!(document.write(NOW, session(1), plain("f", "1")), Verdict::Won);
    let field = flush_one(&mut document);
    assert_eq!(
        field.clock_for(session(2), Some("server")),
        SentClock::Server { stamp: field.stamp }
    );
}

#[test]
fn dirty_marks_outlive_their_writer() {
    let mut document = document();
    assert_eq!(document.write(NOW, session(1), plain("f", "1")), Verdict::Won);
    document.left(session(1));
    assert!(flush_one(&mut document).reaches(session(2)));
}

#[test]
fn names_are_any_text_and_stay_apart() {
    let mut document = document();
    let names = [
        "__proto__",
        "",
        "a\"",
        "a\\\"",
        "\u{0}",
        "é",
        "e\u{301}",
        "\u{2028}",
        "😀",
    ];
    for (at, name) in names.iter().enumerate() {
        assert_eq!(
            document.write(NOW, session(1), plain(name, &at.to_string())),
            Verdict::Won
        );
    }
    let state: BTreeMap<String, usize> = serde_json::from_slice(&document.state_json()).unwrap();
    assert_eq!(
        state,
        names
            .iter()
            .enumerate()
            .map(|(at, name)| ((*name).to_owned(), at))
            .collect()
    );
}

#[test]
fn a_deleted_field_leaves_the_state_and_can_come_back() {
    let mut document = document();
    assert_eq!(document.write(NOW, session(1), plain("f", "1")), Verdict::Won);
    assert_eq!(
        document.write(NOW, session(1), plain("f", r#"{"__deleted":true,"by":"x"}"#)),
        Verdict::Won
    );
    assert_eq!(
        (&document.state_json()[..], document.tombstone_count()),
        (&b"{}"[..], 1)
    );
    assert_eq!(flush_one(&mut document).value_json(), TOMBSTONE_JSON);
    assert_eq!(
        document.tombstones_newest(5).map(|key| &**key).collect::<Vec<_>>(),
        ["\"f\""]
    );
    assert_eq!(document.write(NOW, session(1), plain("f", "2")), Verdict::Won);
    assert_eq!(
        (&document.state_json()[..], document.tombstones_newest(5).count()),
        (&br#"{"f":2}"#[..], 0)
    );
}

#[test]
fn old_and_surplus_tombstones_go_but_never_before_they_were_told() {
    let limits = Limits {
        tombstones_max: 3,
        tombstone_ttl_ms: 100,
        ..Limits::default()
    };
    let mut document = document();
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(
            document.write(NOW, session(1), plain(name, r#"{"__deleted":true}"#)),
            Verdict::Won
        );
    }
    document.expire_tombstones(NOW + 1000, &limits);
    assert_eq!(document.tombstone_count(), 5);
    let before = document.clock();
    assert_eq!(document.flush(&limits).len(), 5);
    let newest: Vec<_> = document.tombstones_newest(2).map(|key| &**key).collect();
    assert_eq!((document.tombstone_count(), newest), (3, vec!["\"e\"", "\"d\""]));
    assert!(
        document.since(before - 5, session(1)).is_none(),
        "a and b are forgotten"
    );
    assert_eq!(
        document.since(before - 3, session(1)).map(|fields| fields.len()),
        Some(3)
    );
    document.expire_tombstones(NOW + 100, &limits);
    assert_eq!(document.tombstone_count(), 3);
    document.expire_tombstones(NOW + 101, &limits);
    assert_eq!(document.tombstone_count(), 0);
    assert_eq!(document.write(NOW, session(1), plain("d", "1")), Verdict::Won);
    assert_eq!(&document.state_json()[..], br#"{"d":1}"#);
}

#[test]
fn deleting_and_recreating_for_ever_costs_bounded_memory() {
    let mut document = document();
    let mut most = 0;
    for round in 0..20_000_u64 {
        let value = if round % 2 == 0 { r#"{"__deleted":true}"# } else { "1" };
        let client_id = format!("client-{round}");
        let clock = [(client_id.as_str(), 1)];
        assert_eq!(
            document.write(NOW + round, session(1), stamped(value, NOW + round, &clock, &client_id)),
            Verdict::Won
        );
        if round % 10 == 0 {
            let field = flush_one(&mut document);
            let (_, AuthorClock::OwnEcho { writer, .. } | AuthorClock::Stamp { writer }) = field.author.unwrap() else {
                panic!("a stamped write has an author");
            };
            assert_eq!(*writer, *client_id, "sweeping unused writers keeps the names right");
            most = most.max(document.memory_bytes());
        }
    }
    assert!(most < 8 * 1024, "{most}");
}

#[test]
fn limits_refuse_what_grows_and_let_a_full_document_shrink() {
    let limits = Limits {
        document_bytes_max: 40,
        name_bytes_max: 4,
        records_max: 3,
        ..Limits::default()
    };
    let mut document = document();
    assert_eq!(
        document.check(&limits, &[plain("ééé", "1")]),
        Err(DocumentLimit::NameTooLong { bytes: 6, max: 4 })
    );
    for name in ["a", "b", "c"] {
        let write = plain(name, "\"12345\"");
        assert_eq!(document.check(&limits, &[write]), Ok(()));
        assert_eq!(document.write(NOW, session(1), write), Verdict::Won);
    }
    let wide = Limits {
        document_bytes_max: 50,
        ..limits
    };
    assert_eq!(
        document.check(&wide, &[plain("d", "1")]),
        Err(DocumentLimit::TooManyFields { fields: 4, max: 3 })
    );
    assert_eq!(
        document.check(&limits, &[plain("a", "\"1234567\"")]),
        Ok(()),
        "39 bytes"
    );
    assert_eq!(
        document.check(&limits, &[plain("a", "\"123456789\"")]),
        Err(DocumentLimit::TooLarge { bytes: 41, max: 40 })
    );
    assert_eq!(
        document.check(&limits, &[plain("a", "\"123456789\""), plain("b", "1")]),
        Ok(()),
        "checked as a whole"
    );
    let smaller = Limits {
        document_bytes_max: 10,
        records_max: 1,
        ..limits
    };
    assert_eq!(document.check(&smaller, &[plain("a", "1")]), Ok(()));
    assert_eq!(document.check(&smaller, &[plain("a", r#"{"__deleted":true}"#)]), Ok(()));
    assert_eq!(
        document.check(
            &Limits {
                document_bytes_max: 0,
                records_max: 0,
                ..limits
            },
            &[plain("z", "1")]
        ),
        Ok(())
    );
}

#[derive(Clone, Debug)]
enum Step {
    Plain {
        name: u8,
        value: u8,
    },
    Stamped {
        name: u8,
        value: u8,
        lag_ms: u64,
        own: u64,
        client: u8,
    },
    Flush,
    Sync {
        client: u8,
    },
    Left {
        client: u8,
    },
    Since {
        back: u64,
        client: u8,
    },
    Expire {
        later_ms: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..12u8, 0..9u8).prop_map(|(name, value)| Step::Plain { name, value }),
        6 => (0..12u8, 0..9u8, 0..40u64, 0..9u64, 0..20u8)
            .prop_map(|(name, value, lag_ms, own, client)| Step::Stamped { name, value, lag_ms, own, client }),
        2 => Just(Step::Flush),
        1 => (0..20u8).prop_map(|client| Step::Sync { client }),
        1 => (0..20u8).prop_map(|client| Step::Left { client }),
        1 => (0..30u64, 0..20u8).prop_map(|(back, client)| Step::Since { back, client }),
        1 => (0..30u64).prop_map(|later_ms| Step::Expire { later_ms }),
    ];
    prop::collection::vec(step, 0..300)
}

/// Small numbers of fields and values, deletions and names that need escaping among them.
fn name_and_value(name: u8, value: u8) -> (String, String) {
    let name = if name.is_multiple_of(3) {
        format!("\"{name}\\")
    } else {
        format!("n{name}")
    };
    let value = if value < 3 {
        r#"{"__deleted":true}"#.to_owned()
    } else {
        format!("[{}]", "7,".repeat(value.into()) + "0")
    };
    (name, value)
}

/// What is known about a document from outside: live values, and what is dirty for whom.
#[derive(Default)]
struct Model {
    live: BTreeMap<String, String>,
    for_all: BTreeMap<String, ()>,
    forced: BTreeMap<String, Vec<SessionRef>>,
    stamps: BTreeMap<String, u64>,
}

impl Model {
    fn wrote(&mut self, by: SessionRef, name: &str, value: &str, verdict: Verdict) {
        if verdict == Verdict::Lost {
            self.forced.entry(name.to_owned()).or_default().push(by);
            return;
        }
        self.for_all.insert(name.to_owned(), ());
        if is_tombstone(value.as_bytes()) {
            self.live.remove(name);
        } else {
            self.live.insert(name.to_owned(), value.to_owned());
        }
    }

    fn check_flush(&mut self, fields: &[FlushedField], clock: u64) -> Result<(), TestCaseError> {
        prop_assert!(
            fields.windows(2).all(|pair| pair[0].stamp < pair[1].stamp),
            "ascending stamps"
        );
        for field in fields {
            let name = name_of_key(&field.key).into_owned();
            let before = self.stamps.insert(name.clone(), field.stamp).unwrap_or(0);
            prop_assert!(before < field.stamp && field.stamp <= clock);
            prop_assert_eq!(self.for_all.remove(&name).is_some(), field.for_all);
            let mut forced = self.forced.remove(&name).unwrap_or_default();
            forced.sort_unstable();
            forced.dedup();
            prop_assert_eq!(&forced[..], &field.forced[..]);
            prop_assert_eq!(self.live.get(&name).map(String::as_bytes), field.value.as_deref());
        }
        prop_assert!(
            self.for_all.is_empty() && self.forced.is_empty(),
            "a flush leaves nothing behind"
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn state_flush_and_accounts_agree_with_a_model(steps in steps()) {
        let limits = Limits { tombstones_max: 4, tombstone_ttl_ms: 50, ..Limits::default() };
        let (mut document, mut model, mut now) = (document(), Model::default(), NOW);
        for step in steps {
            let clock_before = document.clock();
            match step {
                Step::Plain { name, value } => {
                    let (name, value) = name_and_value(name, value);
                    let verdict = document.write(now, session(77), plain(&name, &value));
                    prop_assert_eq!(verdict, Verdict::Won);
                    model.wrote(session(77), &name, &value, verdict);
                }
                Step::Stamped { name, value, lag_ms, own, client } => {
                    let (name, value) = name_and_value(name, value);
                    let client_id = format!("c{client}");
                    let entries = [(client_id.as_str(), own)];
                    let write = Write::Stamped {
                        name: &name,
                        value: Some(value.as_bytes()),
                        timestamp_ms: Some((now - lag_ms) as f64),
                        clock: ClockView::new(&entries),
                        client_id: &client_id,
                    };
                    let verdict = document.write(now, session(client.into()), write);
                    model.wrote(session(client.into()), &name, &value, verdict);
                }
                Step::Flush => {
                    let fields = document.flush(&limits);
                    model.check_flush(&fields, document.clock())?;
                    prop_assert!(document.tombstone_count() <= limits.tombstones_max);
                }
                Step::Sync { client } => prop_assert_eq!(document.synced(now, session(client.into())), document.clock()),
                Step::Left { client } => {
                    document.left(session(client.into()));
                }
                Step::Since { back, client } => {
                    let from = document.clock() - back;
                    if let Some(fields) = document.since(from, session(client.into())) {
                        prop_assert!(fields.iter().all(|field| field.stamp > from && field.reaches(session(client.into()))));
                        prop_assert!(fields.windows(2).all(|pair| pair[0].stamp < pair[1].stamp));
                    }
                }
                Step::Expire { later_ms } => {
                    now += later_ms;
                    document.expire_tombstones(now, &limits);
                }
            }
            prop_assert!(document.clock() >= clock_before);
            // Asking twice finds the cache in every state it can be in.
            for _ in 0..2 {
                let json = document.state_json();
                prop_assert_eq!(json.len(), document.encoded_bytes());
                let state: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_slice(&json).unwrap();
                let state: BTreeMap<_, _> = state.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect();
                prop_assert_eq!(&state, &model.live);
            }
            prop_assert_eq!(document.field_count(), model.live.len());
            prop_assert_eq!(document.heap_bytes, document.records.iter().map(Record::heap_bytes).sum::<usize>());
            prop_assert_eq!(document.index.len(), document.records.len());
            prop_assert_eq!(document.tombstones_newest(usize::MAX).count(), document.tombstone_count());
            for name in model.live.keys() {
                prop_assert_eq!(document.value(name), model.live.get(name).map(String::as_bytes));
            }
        }
    }

    #[test]
    fn check_allows_exactly_what_fits(
        existing in prop::collection::btree_map(0..12u8, 0..9u8, 0..12),
        writes in prop::collection::btree_map(0..12u8, 0..9u8, 1..6),
        document_bytes_max in 1..200usize,
        records_max in 1..14usize,
    ) {
        let limits = Limits { document_bytes_max, records_max, ..Limits::default() };
        let mut document = document();
        for (name, value) in existing {
            let (name, value) = name_and_value(name, value);
            prop_assert_eq!(document.write(NOW, session(1), plain(&name, &value)), Verdict::Won);
        }
        let (bytes_before, records_before) = (document.encoded_bytes(), document.records.len());
        let texts: Vec<_> = writes.into_iter().map(|(name, value)| name_and_value(name, value)).collect();
        let writes: Vec<_> = texts.iter().map(|(name, value)| plain(name, value)).collect();
        let allowed = document.check(&limits, &writes).is_ok();
        for write in writes {
            prop_assert_eq!(document.write(NOW, session(1), write), Verdict::Won);
        }
        let bytes_fit = document.encoded_bytes() <= document_bytes_max.max(bytes_before);
        let records_fit = document.records.len() <= records_max.max(records_before);
        prop_assert_eq!(allowed, bytes_fit && records_fit);
    }
}
