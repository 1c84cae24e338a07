//! Promise: no input makes the text room panic, hang or take memory out of proportion, and what the rules refuse is
//! refused, whichever of the two readers meets it.

#[path = "support/text_client.rs"]
mod text_client;
#[path = "support/text_session.rs"]
mod text_session;

use proptest::prelude::*;
use serde_json::Value;
use synckit_server::text::{Incoming, TextError, TextLimits, TextState, merge};
use text_session::{Mix, Session};

fn parse(json: &str) -> Result<TextState, TextError> {
    Incoming::parse(json, &TextLimits::default(), 0).map(|incoming| merge(None, &incoming).state)
}

fn refusal(json: &str) -> TextError {
    match parse(json) {
        Err(error) => error,
        Ok(state) => panic!("taken: {json} as {}", state.to_json()),
    }
}

fn id(client: &str, clock: impl std::fmt::Display) -> String {
    format!(r#"{{"client_id":"{client}","clock":{clock},"offset":0}}"#)
}

fn state(blocks: &str) -> String {
    format!(r#"{{"blocks":[{blocks}],"clock":{{"value":9}},"client_id":"a"}}"#)
}

fn block(key: &str, text: &str, left: &str, right: &str) -> String {
    format!(r#"[{key},{{"id":{key},"text":"{text}","left_origin":{left},"right_origin":{right},"deleted":false}}]"#)
}

#[test]
fn tolerated_layouts_mean_the_same() {
    let plain = state(
        &[
            block(&id("a", 2), "hi", "null", "null"),
            block(&id("b", 3), "!", &id("a", 2), "null"),
        ]
        .join(","),
    );
    let expected = parse(&plain).expect("valid").to_json();
    let (one, two) = (r#"{"offset":0,"x":[{}],"clock":2,"client_id":"a"}"#, id("b", 3));
    let origin = id("a", 2);
    for variant in [
        format!(
            r#" {{ "client_id" : "z", "extra": {{"deep":[[[1e9,-1,"\ud800"]]]}}, "clock":{{"v":1,"value":9}}, "blocks": [ [{two},{{"text":"!","left_origin":{origin}}}], [{one} , {{"text":"\u0068i"}}] ] }} "#
        ),
        plain.replace(r#""text":"hi""#, r#""text":"\u0068i""#),
        plain.replace(r#""text":"hi""#, r#""text":"no","text":"hi""#),
        plain.replace(r#"{"id":{"client_id":"a","clock":2,"offset":0}"#, r#"{"id":"anything""#),
        // The same ID twice: the last one wins.
        plain.replacen("[[", &format!(r#"[[{},{{"text":"XY"}}],["#, id("a", 2)), 1),
        plain.replace(r#"{"blocks":"#, r#"{"blocks":[],"blocks":"#),
        // A block without text takes part in nothing, whatever it claims.
        plain.replacen(
            "[[",
            &format!(r#"[[{},{{"left_origin":{}}}],["#, id("ghost", 7), id("ghost", 8)),
            1,
        ),
    ] {
        assert_eq!(
            parse(&variant).map(|state| state.to_json()),
            Ok(expected.clone()),
            "{variant}"
        );
    }
}

#[test]
fn the_last_of_equal_ids_may_be_empty() {
    let twice = state(&format!(
        r#"{},[{},{{}}]"#,
        block(&id("a", 2), "hi", "null", "null"),
        id("a", 2)
    ));
    assert_eq!(parse(&twice).expect("valid").block_count(), 0);
}

#[test]
fn wrong_shapes_are_refused() {
    let good = block(&id("a", 2), "hi", "null", "null");
    let replaced = |from: &str, to: &str| refusal(&state(&good.replacen(from, to, 1)));
    for number in [
        "-1",
        "2.0",
        "2e0",
        "-0",
        "null",
        "\"2\"",
        "9007199254740992",
        "18446744073709551616",
        "[]",
    ] {
        let error = refusal(&state(&block(&id("a", number), "hi", "null", "null")));
        assert_eq!(error, TextError::WrongType, "{number}");
        let clock = state(&good).replace(r#""value":9"#, &format!(r#""value":{number}"#));
        assert_eq!(refusal(&clock), TextError::WrongType, "{number}");
    }
    assert_eq!(replaced(r#""clock":2"#, r#""clock":02"#), TextError::NotJson);
    assert_eq!(replaced(r#""clock":2,"#, ""), TextError::Missing("clock"));
    assert_eq!(replaced(r#","offset":0"#, ""), TextError::Missing("offset"));
    assert_eq!(replaced(r#""client_id":"a","#, ""), TextError::Missing("client_id"));
    assert_eq!(replaced(r#""offset":0"#, r#""offset":1"#), TextError::OffsetNotZero);
    assert_eq!(replaced(r#""text":"hi""#, r#""text":null"#), TextError::WrongType);
    assert_eq!(
        replaced(r#""deleted":false"#, r#""deleted":null"#),
        TextError::WrongType
    );
    assert_eq!(
        replaced(r#""left_origin":null"#, r#""left_origin":{}"#),
        TextError::Missing("client_id")
    );
    assert_eq!(
        replaced(r#""left_origin":null"#, r#""left_origin":[]"#),
        TextError::WrongType
    );
    for lone_surrogate in [r"\ud800", r"\udc00", r"\ud800\ud800", r"\ud83d x"] {
        assert_eq!(replaced("hi", lone_surrogate), TextError::NotJson, "{lone_surrogate}");
    }
    assert_eq!(refusal(&state(&id("a", 2))), TextError::WrongType);
    assert_eq!(refusal(&state("[]")), TextError::NotAPair);
    assert_eq!(refusal(&state(&format!("[{}]", id("a", 2)))), TextError::NotAPair);
    assert_eq!(
        refusal(&state(&format!("[{},{{}},1]", id("a", 2)))),
        TextError::NotAPair
    );
    assert_eq!(refusal(&format!("{}x", state(&good))), TextError::NotJson);
    assert_eq!(
        refusal(&state(&good).replace(r#""value":9"#, "")),
        TextError::Missing("clock.value")
    );
    assert_eq!(
        refusal(r#"{"blocks":[],"clock":{"value":1},"client_id":1}"#),
        TextError::WrongType
    );
}

#[test]
fn impossible_blocks_are_refused() {
    let two = |one: String, other: String| refusal(&state(&format!("{one},{other}")));
    let plain = |clock: u64, text: &str| block(&id("a", clock), text, "null", "null");
    assert_eq!(two(plain(5, "12345"), plain(6, "56")), TextError::Overlap);
    assert_eq!(two(plain(3, "3"), plain(6, "3456")), TextError::Overlap);
    assert_eq!(refusal(&state(&plain(1, "12"))), TextError::MoreCharactersThanValues);
    assert_eq!(
        refusal(&state(&block(&id("a", 5), "345", &id("b", 3), "null"))),
        TextError::OriginNotOlder
    );
    assert_eq!(
        refusal(&state(&block(&id("a", 5), "345", "null", &id("b", 3)))),
        TextError::OriginNotOlder
    );
    assert_eq!(refusal(&state(&plain(1_000_003, "12"))), TextError::ClockAhead);
    assert!(parse(&state(&plain(1_000_002, "12"))).is_ok());
    let ahead = state(&plain(1_000_007, "12"));
    assert!(
        Incoming::parse(&ahead, &TextLimits::default(), 5).is_ok(),
        "the stored clock counts"
    );
}

#[test]
fn limits_hold_for_both_readers() {
    let limits = TextLimits {
        state_bytes_max: 600,
        blocks_max: 2,
        client_id_bytes_max: 3,
    };
    let parse = |json: &str| Incoming::parse(json, &limits, 0).map(|_| ());
    let blocks = |count: u64| {
        let list: Vec<String> = (1..=count)
            .map(|clock| block(&id("abc", clock), "x", "null", "null"))
            .collect();
        state(&list.join(","))
    };
    for space in ["", " "] {
        assert_eq!(parse(&format!("{space}{}", blocks(2))), Ok(()));
        assert_eq!(
            parse(&format!("{space}{}", blocks(3))),
            Err(TextError::TooManyBlocks { max: 2 })
        );
        let long_id = block(&id("abcd", 1), "x", "null", "null");
        assert_eq!(
            parse(&format!("{space}{}", state(&long_id))),
            Err(TextError::ClientIdTooLong { max: 3 })
        );
        let long_replica = blocks(0).replace(r#""client_id":"a""#, r#""client_id":"abcd""#);
        assert_eq!(
            parse(&format!("{space}{long_replica}")),
            Err(TextError::ClientIdTooLong { max: 3 })
        );
        let long_origin = block(&id("abc", 2), "x", &id("abcd", 1), "null");
        assert_eq!(
            parse(&format!("{space}{}", state(&long_origin))),
            Err(TextError::ClientIdTooLong { max: 3 })
        );
    }
    assert_eq!(
        parse(&format!("{}{}", blocks(2), " ".repeat(400))),
        Err(TextError::TooLarge { max: 600 })
    );
}

/// Cuts count: a merged state above the limits could never be sent back by its clients.
#[test]
fn a_merged_state_is_checked_with_its_cuts() {
    let pasted = state(&format!(
        "{},{}",
        block(&id("a", 4), "abcd", "null", "null"),
        block(&id("a", 5), "X", &id("a", 2), &id("a", 3))
    ));
    let merged = parse(&pasted).expect("valid");
    assert_eq!(merged.block_count(), 3);
    let limits = |blocks_max, state_bytes_max| TextLimits {
        blocks_max,
        state_bytes_max,
        ..TextLimits::default()
    };
    assert_eq!(merged.check(&limits(3, merged.to_json().len())), Ok(()));
    assert_eq!(
        merged.check(&limits(2, 10_000)),
        Err(TextError::TooManyBlocks { max: 2 })
    );
    let short = merged.to_json().len() - 1;
    assert_eq!(merged.check(&limits(3, short)), Err(TextError::TooLarge { max: short }));
}

/// A chain in each direction as deep as a state may be, and deep JSON. Quadratic or recursive code would not survive.
#[test]
fn deep_inputs_are_handled_iteratively() {
    const DEPTH: u64 = 100_000;
    let limits = TextLimits {
        state_bytes_max: 64 << 20,
        ..TextLimits::default()
    };
    type Origins = fn(u64) -> (u64, u64);
    let appended: Origins = |clock| (clock - 1, 0);
    let prepended: Origins = |clock| (0, clock - 1);
    let inserted_after_first: Origins = |clock| (u64::from(clock > 1), clock - 1);
    for origins in [appended, prepended, inserted_after_first] {
        let origin = |clock: u64| if clock == 0 { "null".into() } else { id("a", clock) };
        let one = |clock: u64| {
            let (left, right) = origins(clock);
            block(&id("a", clock), "x", &origin(left), &origin(right))
        };
        let list: Vec<String> = (1..=DEPTH).map(one).collect();
        let incoming = Incoming::parse(&state(&list.join(",")), &limits, 0).expect("valid");
        assert_eq!(incoming.visible_text().len() as u64, DEPTH);
        assert_eq!(merge(None, &incoming).state.block_count() as u64, DEPTH);
    }
    for deep in ["[", "{\"a\":", "{\"blocks\":["] {
        assert!(!refusal(&deep.repeat(200_000)).to_string().is_empty());
        let ignored = format!(r#"{{"x":{}"#, deep.repeat(200_000));
        assert_eq!(refusal(&ignored), TextError::NotJson);
    }
}

/// Ids that came with text which lost against stored text must not stay behind.
#[test]
fn collisions_leave_no_memory_behind() {
    let mut stored = parse(&state(&block(&id("a", 9), "stored", &id("z", 1), "null"))).expect("valid");
    let before = stored.memory_bytes();
    for other in 0..50 {
        let collided = state(&block(&id("a", 9), "collid", &id(&format!("other-{other}"), 1), "null"));
        let merged = merge(
            Some(&stored),
            &Incoming::parse(&collided, &TextLimits::default(), 9).expect("valid"),
        );
        assert_eq!((merged.collisions, merged.changed), (1, false));
        stored = merged.state;
    }
    assert_eq!(stored.memory_bytes(), before);
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_string()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<u64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| format!("{value:e}")),
        any::<String>().prop_map(|value| Value::from(value).to_string()),
        Just(id("a", 3)),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let names = vec![
            "blocks",
            "clock",
            "client_id",
            "value",
            "offset",
            "id",
            "text",
            "left_origin",
            "deleted",
        ];
        let member =
            (prop::sample::select(names), inner.clone()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec(member, 0..5).prop_map(|list| format!("{{{}}}", list.join(","))),
        ]
    })
}

/// A valid state of a random session.
fn honest() -> impl Strategy<Value = String> {
    any::<u64>().prop_map(|seed| {
        let mut session = Session::new(seed, Mix::NonAscii, 2);
        for _ in 0..40 {
            session.step();
        }
        session.settle();
        session.stored.map_or_else(|| state(""), |stored| stored.to_json())
    })
}

fn drive(json: &str) {
    if let Ok(state) = parse(json) {
        let text = state.visible_text();
        let again = TextState::from_json(&state.to_json()).expect("what was merged is valid");
        assert_eq!((again.to_json(), again.visible_text()), (state.to_json(), text));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_json_never_panics(json in any_json(), text in any::<String>()) {
        drive(&json);
        drive(&text);
        drive(&state(&json));
        drive(&state(&format!("[{},{json}]", id("a", 5))));
    }

    /// Bytes replaced, removed, doubled.
    #[test]
    fn mutated_states_never_panic(
        json in honest(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3, any::<u8>(), 1..40_usize), 1..6),
    ) {
        let mut bytes = json.into_bytes();
        for (at, kind, byte, len) in changes {
            let at = at.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            let end = (at + len).min(bytes.len());
            match kind {
                0 => bytes[at] = b"0123456789\",:{}[]\\u-.enfat"[byte as usize % 26],
                1 => { bytes.drain(at..end); }
                _ => { let copy = bytes[at..end].to_vec(); bytes.splice(at..at, copy); }
            }
            if bytes.is_empty() { break; }
        }
        drive(&String::from_utf8_lossy(&bytes));
    }

    /// Numbers changed only, so that most states stay well-formed and the checks decide.
    #[test]
    fn states_with_other_numbers_never_panic(
        json in honest(),
        numbers in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![0..40_u64, (1_u64 << 53) - 3..1 << 53]), 1..5),
    ) {
        let mut json = json;
        for (at, number) in numbers {
            let places: Vec<usize> = json.match_indices("\"clock\":").map(|(at, _)| at + 8).collect();
            if places.is_empty() { break; }
            let start = places[at.index(places.len())];
            let len = json[start..].bytes().take_while(u8::is_ascii_digit).count();
            json.replace_range(start..start + len, &number.to_string());
        }
        drive(&json);
        if let Ok(state) = TextState::from_json(&json) { drive(&state.to_json()); }
    }

    /// White space sends a state to the general reader: both must read the same, or refuse the same.
    #[test]
    fn both_readers_agree(json in honest(), at in any::<prop::sample::Index>(), byte in prop::sample::select(b"0129\"\\n,:{}[]ae -.".to_vec())) {
        let mut bytes = json.into_bytes();
        let at = at.index(bytes.len());
        for change in [false, true] {
            if change { bytes[at] = byte; }
            let json = String::from_utf8_lossy(&bytes);
            let fast = parse(&json).map(|state| state.to_json());
            let general = parse(&format!(" {json}")).map(|state| state.to_json());
            prop_assert_eq!(&fast, &general, "{}", json);
            prop_assert!(change || fast.is_ok());
        }
    }
}
