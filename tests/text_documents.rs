//! Text states through the server (docs/protocol.md §11 and docs/text-state.md): every golden case of
//! tests/vectors/text-merges.json is played with an author of the stored state, an author of the incoming one, a
//! watcher and a late joiner. All get the merged state where they must, refused states change nothing.

use test_support as support;

use serde_json::{Value, json};
use std::time::Duration;
use support::{Client, Dialect, Message, SILENCE, Server};

fn vectors(list: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("vectors/text-merges.json")).expect("the vectors are JSON");
    all[list].as_array().expect("a list").clone()
}

fn send(client: &mut Client, document: &str, state: &str, message_id: &str) {
    client.say(
        "delta_batch",
        json!({"documentId": document, "messageId": message_id, "deltas": [{"type": "text-state", "state": state,
            "documentId": document, "clientId": "client-x", "timestamp": support::unix_ms(), "clock": {"client-x": 1}}]}),
    );
    client.take_ack(message_id);
}

/// Blocks and clock of a state, parsed; member order and white space do not matter.
fn parsed(state: &str) -> Value {
    serde_json::from_str(state).unwrap_or_else(|error| panic!("{error}: {state}"))
}

fn has_blocks(state: &str) -> bool {
    parsed(state)["blocks"]
        .as_array()
        .is_some_and(|blocks| !blocks.is_empty())
}

fn relayed_states(messages: &[Message]) -> Vec<Value> {
    let mut states = Vec::new();
    for message in messages.iter().filter(|message| message.kind == "delta_batch") {
        assert_eq!(message["isTextOperation"], true, "{}", message.body);
        for element in message["deltas"].as_array().expect("deltas") {
            assert_eq!(element["type"], "text-state");
            assert_eq!(
                element["clientId"], "server",
                "anything else would make its owner ignore it"
            );
            assert!(element["clock"]["server"].is_u64(), "{element}");
            states.push(parsed(element["state"].as_str().expect("a JSON string")));
        }
    }
    states
}

#[test]
fn every_golden_case_reaches_everybody() {
    let server = Server::with().shards(3).start();
    let cases = vectors("cases");
    assert_eq!(cases.len(), 30, "all cases are tried");
    for case in cases {
        let member = |name: &str| case[name].as_str().expect("a string").to_owned();
        let name = member("name");
        let (stored, incoming, merged) = (member("a_state"), member("b_state"), member("merged_state"));
        let document = format!("text:{name}");
        let mut watcher = Client::connect(&server, Dialect::Sdk);
        watcher.subscribe(&document);
        let mut ann = Client::connect(&server, Dialect::Sdk);
        send(&mut ann, &document, &stored, "a");
        let first = relayed_states(&watcher.drain_for(Duration::from_millis(120)));
        assert_eq!(
            !first.is_empty(),
            has_blocks(&stored),
            "{name}: the first state is relayed if it has any block"
        );

        let mut bob = Client::connect(&server, Dialect::Sdk);
        bob.subscribe(&document);
        send(&mut bob, &document, &incoming, "b");
        let seen_by_bob = relayed_states(&bob.drain_for(Duration::from_millis(120)));
        let seen_by_watcher = relayed_states(&watcher.drain_for(Duration::from_millis(30)));

        let expected = parsed(&merged);
        let blocks_before = first.last().map_or(json!([]), |state| state["blocks"].clone());
        if expected["blocks"] != blocks_before {
            assert_eq!(seen_by_watcher.last(), Some(&expected), "{name}: the watcher");
        }
        if case["echo_author_of_b"] == true {
            assert_eq!(seen_by_bob.last(), Some(&expected), "{name}: the author must be told");
        }
        assert!(
            seen_by_bob.iter().all(|state| *state == expected),
            "{name}: an echo is always the merged state"
        );

        let late = Client::connect(&server, Dialect::Sdk).subscribe(&document);
        match late["textState"].as_str() {
            Some(text) => {
                assert_eq!(parsed(text), expected, "{name}: the late joiner");
                assert!(late["textClock"].is_i64(), "{}", late.body);
            }
            None => assert!(
                !late.has("textState") && !has_blocks(&merged),
                "{name}: no text for the late joiner"
            ),
        }
        assert_eq!(late["state"], json!({}), "{name}: text is no field");
    }
}

#[test]
fn refused_states_change_nothing_and_are_told() {
    let server = Server::start();
    let good = vectors("cases")[1]["b_state"].as_str().expect("a state").to_owned();
    let invalid = vectors("invalid_states");
    assert_eq!(invalid.len(), 11);
    for vector in invalid {
        let mut client = Client::connect(&server, Dialect::Sdk);
        client.subscribe("kept");
        send(&mut client, "kept", &good, "good");
        let before = client.sync("kept")["textState"].clone();
        assert!(before.is_string());
        client.say(
            "delta_batch",
            json!({"documentId": "kept", "messageId": "bad", "deltas": [{"type": "text-state", "documentId": "kept",
                "state": vector["state"], "clientId": "c", "timestamp": 1, "clock": {"c": 1}}]}),
        );
        let error = client.take_error("INTERNAL_ERROR", "Delta batch application failed");
        assert_eq!(error["details"]["documentId"], "kept");
        assert!(error["details"]["reason"].is_string(), "{}", error.body);
        assert_eq!(client.sync("kept")["textState"], before, "{}", vector["name"]);
    }
}

#[test]
fn an_empty_state_is_ignored() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Sdk);
    client.subscribe("empty");
    send(&mut client, "empty", "", "e");
    assert!(!client.sync("empty").has("textState"), "never an empty string");
}

#[test]
fn the_same_state_again_is_relayed_to_nobody() {
    let server = Server::with().shards(2).start();
    let state = vectors("cases")[1]["b_state"].as_str().expect("a state").to_owned();
    let mut watcher = Client::connect(&server, Dialect::Sdk);
    watcher.subscribe("same");
    let mut author = Client::connect(&server, Dialect::Sdk);
    send(&mut author, "same", &state, "one");
    assert_eq!(relayed_states(&watcher.drain()).len(), 1);
    send(&mut author, "same", &state, "two");
    watcher.expect_silence();
}

fn typed(client: &str, text: &str) -> String {
    // One block per character, each chained to the one before: what typing makes.
    let id = |clock: usize| json!({"client_id": client, "clock": clock, "offset": 0});
    let blocks: Vec<Value> = text
        .chars()
        .enumerate()
        .map(|(index, character)| {
            let origin = if index == 0 { Value::Null } else { id(index) };
            json!([id(index + 1), {"id": id(index + 1), "text": character.to_string(), "left_origin": origin,
                "right_origin": null, "deleted": false}])
        })
        .collect();
    json!({"blocks": blocks, "clock": {"value": text.len()}, "client_id": client}).to_string()
}

#[test]
fn typing_quickly_ends_with_the_complete_text() {
    let server = Server::with()
        .shards(2)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start();
    let mut watcher = Client::connect(&server, Dialect::Sdk);
    watcher.subscribe("typing");
    let mut author = Client::connect(&server, Dialect::Sdk);
    author.subscribe("typing");
    let text = "the quick brown fox jumps over the lazy dog";
    for length in 1..=text.len() {
        let message_id = format!("k{length}");
        author.say(
            "delta_batch",
            json!({"documentId": "typing", "messageId": message_id, "deltas": [{"type": "text-state",
                "state": typed("client-a", &text[..length]), "documentId": "typing", "clientId": "client-a",
                "timestamp": support::unix_ms(), "clock": {"client-a": length}}]}),
        );
    }
    author.take_ack(&format!("k{}", text.len()));
    let states = relayed_states(&watcher.drain_for(SILENCE));
    let lengths: Vec<usize> = states
        .iter()
        .map(|state| state["blocks"].as_array().expect("blocks").len())
        .collect();
    assert!(
        lengths.is_sorted(),
        "never an older state after a newer one: {lengths:?}"
    );
    assert!(
        lengths.windows(2).all(|pair| pair[0] != pair[1]),
        "never the same one twice: {lengths:?}"
    );
    let shown: String = states.last().expect("a state")["blocks"]
        .as_array()
        .expect("blocks")
        .iter()
        .map(|block| block[1]["text"].as_str().expect("text"))
        .collect();
    assert_eq!(shown, text);
    assert!(
        relayed_states(&author.drain()).len() <= 1,
        "an author alone needs no echo"
    );
}

#[test]
fn two_authors_at_once_end_with_both_texts() {
    let server = Server::with().shards(3).start();
    for number in 0..10 {
        let document = format!("both:{number}");
        let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(&server, Dialect::Sdk)).collect();
        clients.iter_mut().for_each(|client| drop(client.subscribe(&document)));
        for (client, (id, text)) in clients.iter_mut().zip([("client-a", "left"), ("client-b", "right")]) {
            client.say(
                "delta_batch",
                json!({"documentId": document, "messageId": id, "deltas": [{"type": "text-state", "state": typed(id, text),
                    "documentId": document, "clientId": id, "timestamp": 1, "clock": {id: 1}}]}),
            );
        }
        let mut last = clients
            .iter_mut()
            .map(|client| relayed_states(&client.drain()).pop().expect("the merged state"));
        let (first, second) = (last.next().expect("two"), last.next().expect("two"));
        assert_eq!(first, second);
        assert_eq!(first["blocks"].as_array().map(Vec::len), Some("leftright".len()));
    }
}

#[test]
fn text_and_fields_share_a_document() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Sdk);
    client.subscribe("shared");
    send(&mut client, "shared", &typed("client-a", "hi"), "t");
    let mut raw = Client::connect(&server, Dialect::Json);
    raw.write_acked("shared", json!({"title": "x"}));
    let snapshot = raw.sync("shared");
    assert_eq!(snapshot["state"], json!({"title": "x"}));
    assert!(snapshot["textState"].is_string());
}
