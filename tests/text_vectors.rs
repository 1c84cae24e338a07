//! Promise: the text rules are kept byte for byte as the golden vectors, recorded with the real client core, have them.
//!
//! Every case is parsed, merged, rendered and merged again; every invalid state must be refused. The model of the client
//! that the session tests rely on is held against the same vectors.

#[path = "support/text_client.rs"]
mod text_client;

use serde::Deserialize;
use synckit_server::text::{Echo, Incoming, TextError, TextLimits, TextState, merge};
use text_client::Client;

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
    invalid_states: Vec<Invalid>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    a_state: String,
    b_state: String,
    a_text: String,
    b_text: String,
    merged_state: String,
    merged_text: String,
    echo_author_of_b: bool,
}

#[derive(Deserialize)]
struct Invalid {
    name: String,
    state: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors/text-merges.json")).expect("the vectors are valid")
}

fn parse(state: &str, stored: Option<&TextState>) -> Incoming {
    Incoming::parse(
        state,
        &TextLimits::default(),
        stored.map_or(0, TextState::highest_clock),
    )
    .expect("valid state")
}

#[test]
fn every_case_merges_byte_for_byte() {
    let cases = vectors().cases;
    assert_eq!(cases.len(), 30);
    for case in &cases {
        let name = &case.name;
        let a = parse(&case.a_state, None);
        assert_eq!(a.visible_text(), case.a_text, "{name}: text of a");
        let stored = merge(None, &a).state;
        let b = parse(&case.b_state, Some(&stored));
        assert_eq!(b.visible_text(), case.b_text, "{name}: text of b");

        let merged = merge(Some(&stored), &b);
        let json = merged.state.to_json();
        assert_eq!(json, case.merged_state, "{name}: merged state");
        assert_eq!(merged.state.json_bytes(), json.len(), "{name}: announced length");
        assert_eq!(merged.state.visible_text(), case.merged_text, "{name}: merged text");
        assert_eq!(merged.echo != Echo::None, case.echo_author_of_b, "{name}: echo");
        let blocks = |state: &TextState| text_client::parse(&state.to_json()).0;
        assert_eq!(
            merged.changed,
            blocks(&stored) != blocks(&merged.state),
            "{name}: changed"
        );
        assert_eq!(
            merged.collisions > 0,
            name.starts_with("collision"),
            "{name}: collisions"
        );

        let again = merge(Some(&merged.state), &b);
        assert_eq!(again.state.to_json(), json, "{name}: merging b again");
        assert!(!again.changed, "{name}: merging b again changes nothing");
        let own = merge(Some(&merged.state), &Incoming::from(&merged.state));
        assert_eq!(
            (own.state.to_json(), own.changed, own.echo),
            (json.clone(), false, Echo::None),
            "{name}: itself"
        );
        assert_eq!(
            merge(None, &parse(&json, Some(&merged.state))).state.to_json(),
            json,
            "{name}: normal form"
        );
        assert_eq!(
            TextState::from_json(&json).map(|state| state.to_json()),
            Ok(json),
            "{name}: stored and loaded"
        );
    }
}

#[test]
fn a_lone_state_is_its_own_merge() {
    for case in &vectors().cases {
        for state in [&case.a_state, &case.b_state] {
            let incoming = parse(state, None);
            let lone = merge(None, &incoming).state;
            let twice = merge(Some(&lone), &incoming).state;
            assert_eq!(
                lone.to_json(),
                twice.to_json(),
                "{}: Merge(A, nothing) = Merge(A, A)",
                case.name
            );
        }
    }
}

#[test]
fn cuts_inside_the_authors_own_block_are_echoed_at_once() {
    for (name, echo_expected) in [
        ("cut-own-paste", Some(Echo::Coalesced)),
        ("cut-foreign-block", Some(Echo::AtOnce)),
        ("echo-own-split", Some(Echo::Coalesced)),
        ("append-vs-append", Some(Echo::Coalesced)),
        ("typed-char-by-char", Some(Echo::None)),
    ] {
        let vectors = vectors();
        let case = vectors
            .cases
            .iter()
            .find(|case| case.name == name)
            .expect("the case is there");
        let stored = merge(None, &parse(&case.a_state, None)).state;
        let echo = merge(Some(&stored), &parse(&case.b_state, Some(&stored))).echo;
        assert_eq!(Some(echo), echo_expected, "{name}");
    }
}

/// One line per block: `client@last text left right`, `-` for no origin.
fn state(blocks: &[&str]) -> String {
    let id = |name: &str| match name.split_once('@') {
        None => "null".to_string(),
        Some((client, clock)) => format!(r#"{{"client_id":"{client}","clock":{clock},"offset":0}}"#),
    };
    let block = |line: &&str| {
        let parts: Vec<&str> = line.split(' ').collect();
        let [key, left, right] = [parts[0], parts[2], parts[3]].map(id);
        format!(
            r#"[{key},{{"id":{key},"text":"{}","left_origin":{left},"right_origin":{right},"deleted":false}}]"#,
            parts[1]
        )
    };
    let list: Vec<String> = blocks.iter().map(block).collect();
    format!(
        r#"{{"blocks":[{}],"clock":{{"value":0}},"client_id":"test"}}"#,
        list.join(",")
    )
}

#[test]
fn the_cut_is_owed_at_once_until_the_author_has_it() {
    let paste = "a@4 abcd - -";
    let stored = merge(None, &parse(&state(&[paste]), None)).state;
    let inside = merge(Some(&stored), &parse(&state(&[paste, "b@5 X a@2 a@3"]), None));
    assert_eq!((inside.echo, inside.state.block_count()), (Echo::AtOnce, 3));
    // The author types on before the cut has reached it.
    let on = merge(
        Some(&inside.state),
        &parse(&state(&[paste, "b@5 X a@2 a@3", "b@6 Y b@5 a@3"]), None),
    );
    assert_eq!((on.echo, on.state.block_count()), (Echo::AtOnce, 4));
    // Somebody else still has the paste in one block, but did not type inside it.
    let other = merge(Some(&on.state), &parse(&state(&[paste, "c@5 Z a@4 -"]), None));
    assert_eq!(
        (other.echo, other.state.visible_text().as_str()),
        (Echo::Coalesced, "abXYcdZ")
    );
    // The author has the cut now.
    let cut = [
        "a@2 ab - -",
        "a@4 cd - -",
        "b@5 X a@2 a@3",
        "b@6 Y b@5 a@3",
        "c@5 Z a@4 -",
    ];
    let done = merge(Some(&other.state), &parse(&state(&cut), None));
    assert_eq!((done.echo, done.changed), (Echo::None, false));
}

/// The stored text may point at characters that arrive later; then it is the stored origins that cut.
#[test]
fn origins_stored_before_their_characters_cut_them_when_they_come() {
    let (paste, inside) = ("a@4 abcd - -", "b@5 X a@2 a@3");
    let stored = merge(None, &parse(&state(&[inside]), None)).state;
    for incoming in [&[paste][..], &[paste, inside][..]] {
        let merged = merge(Some(&stored), &parse(&state(incoming), None)).state;
        assert_eq!((merged.block_count(), merged.visible_text().as_str()), (3, "abXcd"));
    }
}

#[test]
fn every_invalid_state_is_refused() {
    let invalid = vectors().invalid_states;
    assert_eq!(invalid.len(), 11);
    let reason = |name: &str| match name {
        "not-json" => TextError::NotJson,
        "not-an-object" => TextError::WrongType,
        "blocks-missing" => TextError::Missing("blocks"),
        "clock-missing" => TextError::Missing("clock"),
        "client-id-missing" => TextError::Missing("client_id"),
        "more-characters-than-values" => TextError::MoreCharactersThanValues,
        "origin-inside-itself" | "origin-from-the-future" => TextError::OriginNotOlder,
        "offset-not-zero" => TextError::OffsetNotZero,
        "negative-clock" | "float-clock" => TextError::WrongType,
        other => panic!("unknown vector {other}"),
    };
    for state in &invalid {
        let refused = Incoming::parse(&state.state, &TextLimits::default(), 0).map(|_| ());
        assert_eq!(refused, Err(reason(&state.name)), "{}", state.name);
    }
}

#[test]
fn the_client_model_takes_merged_states_as_the_real_client_does() {
    let vectors = vectors();
    let special = |name: &str| name.starts_with("collision") || name.starts_with("zero-length");
    for case in vectors.cases.iter().filter(|case| !special(&case.name)) {
        for held in [None, Some(&case.a_state), Some(&case.b_state)] {
            let mut client = Client::new("model");
            if let Some(held) = held {
                client.receive(held);
            }
            client.receive(&case.merged_state);
            assert_eq!(client.shown(), case.merged_text, "{}", case.name);
            assert_eq!(client.blocks, text_client::parse(&case.merged_state).0, "{}", case.name);
        }
    }
}
