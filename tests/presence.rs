//! Presence (docs/protocol.md §13): who is told what about whom, taking entries over, leaving politely and by
//! vanishing, limits, and that a silent but connected user never disappears.

use test_support as support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{Client, Dialect, SILENCE, Server};

fn update(client: &mut Client, document: &str, who: &str, state: Value, clock: u64) {
    client.say(
        "awareness_update",
        json!({"documentId": document, "clientId": who, "state": state, "clock": clock}),
    );
}

fn join(server: &Server, document: &str) -> (Client, Value) {
    let mut client = Client::connect(server, Dialect::Sdk);
    client.say("awareness_subscribe", json!({"documentId": document}));
    let answer = client.expect("awareness_state");
    assert_eq!(answer["documentId"], document);
    (client, answer["states"].clone())
}

#[test]
fn users_see_each_other_and_not_themselves() {
    let server = Server::with().shards(3).start();
    let (mut ann, states) = join(&server, "p");
    assert_eq!(states, json!([]), "always an array");
    update(&mut ann, "p", "ann", json!({"cursor": {"x": 1}}), 1);
    ann.expect_silence();
    let (mut bob, states) = join(&server, "p");
    assert_eq!(
        states,
        json!([{"clientId": "ann", "state": {"cursor": {"x": 1}}, "clock": 1}]),
        "nothing is added"
    );
    update(&mut bob, "p", "bob", json!({"name": "Bob"}), 1);
    let seen = ann.expect("awareness_update");
    assert_eq!(seen.code, Some(0x40));
    assert_eq!(
        [&seen["documentId"], &seen["clientId"], &seen["state"], &seen["clock"]],
        [&json!("p"), &json!("bob"), &json!({"name": "Bob"}), &json!(1)]
    );
    bob.expect_silence();
}

#[test]
fn old_clocks_of_the_owner_are_dropped() {
    let server = Server::start();
    let (mut watcher, _) = join(&server, "p");
    let (mut ann, _) = join(&server, "p");
    for clock in [5, 5, 3, 6] {
        update(&mut ann, "p", "ann", json!({ "n": clock }), clock);
    }
    assert_eq!(watcher.expect("awareness_update")["clock"], 5);
    assert_eq!(watcher.expect("awareness_update")["clock"], 6);
    watcher.expect_silence();
    ann.say(
        "awareness_update",
        json!({"documentId": "p", "clientId": "ann", "state": {"n": "no clock"}}),
    );
    assert_eq!(
        watcher.expect("awareness_update")["clock"],
        7,
        "an absent clock is the last one plus one"
    );
}

#[test]
fn another_connection_takes_an_entry_over_and_clocks_go_on_growing() {
    let server = Server::with().shards(2).start();
    let (mut watcher, _) = join(&server, "p");
    let (mut before, _) = join(&server, "p");
    update(&mut before, "p", "ann", json!({"n": 1}), 40);
    assert_eq!(watcher.expect("awareness_update")["clock"], 40);
    // A reloaded page starts counting anew.
    let mut after = Client::connect(&server, Dialect::Sdk);
    let mut last = 40;
    for clock in 1..=3 {
        update(&mut after, "p", "ann", json!({ "reloaded": clock }), clock);
        let seen = watcher.expect("awareness_update");
        assert_eq!(seen["state"], json!({ "reloaded": clock }));
        let sent = seen["clock"].as_u64().expect("a clock");
        assert!(sent > last, "{sent} after {last}");
        last = sent;
    }
    // The old connection owns nothing any more: its end is no leave.
    before.close();
    watcher.expect_silence();
}

#[test]
fn leaving_is_seen_at_once() {
    let server = Server::with().shards(2).start();
    let (mut watcher, _) = join(&server, "p");
    let (mut ann, _) = join(&server, "p");
    update(&mut ann, "p", "ann", json!({"n": 1}), 1);
    watcher.expect("awareness_update");
    update(&mut ann, "p", "ann", Value::Null, 2);
    let left = watcher.expect("awareness_update");
    assert_eq!(
        (&left["state"], &left["clock"], left.has("state")),
        (&Value::Null, &json!(2), true)
    );
    assert_eq!(join(&server, "p").1, json!([]));

    update(&mut ann, "p", "ann", json!({"n": 2}), 3);
    watcher.expect("awareness_update");
    ann.close();
    let left = watcher.expect("awareness_update");
    assert_eq!(
        (&left["clientId"], &left["state"], &left["clock"]),
        (&json!("ann"), &Value::Null, &json!(4))
    );
    assert_eq!(join(&server, "p").1, json!([]));
}

#[test]
fn unsubscribing_leaves_too() {
    let server = Server::start();
    let (mut watcher, _) = join(&server, "p");
    let (mut ann, _) = join(&server, "p");
    update(&mut ann, "p", "ann", json!({"n": 1}), 1);
    watcher.expect("awareness_update");
    ann.say("unsubscribe", json!({"documentId": "p"}));
    ann.take("ack");
    assert_eq!(watcher.expect("awareness_update")["state"], Value::Null);
    update(&mut watcher, "p", "watcher", json!({}), 1);
    ann.expect_silence();
}

#[test]
fn a_vanished_user_stays_for_the_grace_period_and_then_leaves() {
    let server = Server::with().env("AWARENESS_TIMEOUT_MS", 2_000).start();
    let (mut watcher, _) = join(&server, "p");
    let (mut ann, _) = join(&server, "p");
    update(&mut ann, "p", "ann", json!({"n": 1}), 1);
    watcher.expect("awareness_update");
    let vanished = Instant::now();
    ann.vanish();
    assert!(watcher.next_within(Duration::from_millis(1_000)).is_none(), "too early");
    assert_eq!(join(&server, "p").1[0]["clientId"], "ann", "an orphan is still shown");
    let left = watcher.expect("awareness_update");
    assert_eq!((&left["clientId"], &left["state"]), (&json!("ann"), &Value::Null));
    assert!(
        vanished.elapsed() >= Duration::from_millis(1_900),
        "after {:?}",
        vanished.elapsed()
    );
}

#[test]
fn a_returning_user_adopts_the_orphan() {
    let server = Server::with().env("AWARENESS_TIMEOUT_MS", 1_000).start();
    let (mut watcher, _) = join(&server, "p");
    let (mut ann, _) = join(&server, "p");
    update(&mut ann, "p", "ann", json!({"n": 1}), 7);
    watcher.expect("awareness_update");
    ann.vanish();
    let mut ann = Client::connect(&server, Dialect::Sdk);
    update(&mut ann, "p", "ann", json!({"n": 2}), 1);
    let back = watcher.expect("awareness_update");
    assert_eq!(back["state"], json!({"n": 2}));
    assert!(back["clock"].as_u64() > Some(7), "{}", back.body);
    assert!(
        watcher.next_within(Duration::from_millis(7_000)).is_none(),
        "an adopted entry does not expire"
    );
}

#[test]
fn a_silent_connected_user_never_expires() {
    let server = Server::with().env("AWARENESS_TIMEOUT_MS", 500).start();
    let (mut ann, _) = join(&server, "p");
    update(&mut ann, "p", "ann", json!({"n": 1}), 1);
    std::thread::sleep(Duration::from_millis(6_500));
    assert_eq!(join(&server, "p").1[0]["clientId"], "ann");
}

#[test]
fn raw_connections_are_told_nothing_and_document_subscribers_of_the_other_kinds_are() {
    let server = Server::with().shards(2).start();
    let mut raw = Client::connect(&server, Dialect::Json);
    raw.subscribe("p");
    let mut binary = Client::connect(&server, Dialect::Binary);
    binary.subscribe("p");
    let mut sdk = Client::connect(&server, Dialect::Sdk);
    sdk.subscribe("p");
    let mut goc = Client::connect(&server, Dialect::Goc);
    goc.subscribe("p");
    let mut ann = Client::connect(&server, Dialect::Sdk);
    update(&mut ann, "p", "ann", json!({"n": 1}), 1);
    assert_eq!(sdk.expect("awareness_update")["clientId"], "ann");
    let state = goc.expect("awareness_state");
    assert_eq!(
        (&state["docId"], &state["clientId"], &state["state"]),
        (&json!("p"), &json!("ann"), &json!({"n": 1}))
    );
    assert_eq!(state["states"].as_array().map(Vec::len), Some(1));
    ann.close();
    let left = goc.expect("awareness_update");
    assert_eq!((&left["docId"], &left["documentId"]), (&json!("p"), &json!("p")));
    assert_eq!((&left["clientId"], &left["state"]), (&json!("ann"), &Value::Null));
    raw.expect_silence();
    binary.expect_silence();
}

#[test]
fn a_resubscribing_sdk_client_is_told_who_is_there() {
    let server = Server::start();
    let (mut ann, _) = join(&server, "p");
    update(&mut ann, "p", "ann", json!({"n": 1}), 1);
    let mut sdk = Client::connect(&server, Dialect::Sdk);
    sdk.subscribe("p");
    assert_eq!(sdk.expect("awareness_state")["states"][0]["clientId"], "ann");
    let mut raw = Client::connect(&server, Dialect::Json);
    raw.subscribe("p");
    raw.expect_silence();
}

#[test]
fn bad_updates_are_refused() {
    let server = Server::start();
    let (mut watcher, _) = join(&server, "p");
    let (mut client, _) = join(&server, "p");
    let big = "x".repeat(70 * 1024);
    for bad in [
        json!({"documentId": "p", "clientId": "a", "state": "text", "clock": 1}),
        json!({"documentId": "p", "clientId": "a", "state": [1], "clock": 1}),
        json!({"documentId": "p", "clientId": "a", "state": {}, "clock": -1}),
        json!({"documentId": "p", "clientId": "a", "state": {}, "clock": 1.5}),
        json!({"documentId": "p", "clientId": "", "state": {}, "clock": 1}),
        json!({"documentId": "p", "clientId": "x".repeat(257), "state": {}, "clock": 1}),
        json!({"documentId": "p", "clientId": "a", "state": {"big": big}, "clock": 1}),
    ] {
        client.say("awareness_update", bad.clone());
        let error = client.expect("error");
        assert!(
            ["INVALID_REQUEST", "LIMIT_EXCEEDED"].contains(&error["code"].as_str().unwrap_or_default()),
            "{bad}"
        );
    }
    client.say(
        "awareness_update",
        json!({"documentId": "p", "clientId": "a", "state": 5, "clock": 1}),
    );
    client.take_error("INVALID_REQUEST", "Invalid awareness state format");
    client.say(
        "awareness_update",
        json!({"documentId": "not valid", "clientId": "a", "state": {}, "clock": 1}),
    );
    client.take_error("INVALID_DOCUMENT_ID", "Document ID contains invalid characters");
    watcher.expect_silence();
}

#[test]
fn a_connection_owns_at_most_a_hundred_entries() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Sdk);
    for number in 0..101 {
        update(&mut client, "p", &format!("user-{number}"), json!({}), 1);
    }
    let error = client.take("error");
    assert!(["LIMIT_EXCEEDED", "PERMISSION_DENIED"].contains(&error["code"].as_str().unwrap_or_default()));
    assert_eq!(join(&server, "p").1.as_array().map(Vec::len), Some(100));
}

#[test]
fn fast_updates_end_with_the_newest_state() {
    let server = Server::with().shards(2).start();
    let (mut watcher, _) = join(&server, "p");
    let (mut ann, _) = join(&server, "p");
    for clock in 1..=100 {
        update(&mut ann, "p", "ann", json!({ "n": clock }), clock);
    }
    let seen = watcher.drain_for(SILENCE);
    let clocks: Vec<u64> = seen
        .iter()
        .map(|message| message["clock"].as_u64().expect("a clock"))
        .collect();
    assert!(clocks.is_sorted(), "{clocks:?}");
    assert_eq!(seen.last().expect("something was seen")["state"], json!({"n": 100}));
}
