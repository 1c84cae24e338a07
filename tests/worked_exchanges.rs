//! The exchanges of docs/protocol.md §22 happen exactly as written there: every message with exactly its members, on
//! one shard and on three. Only ids, times and stamps, which the server chooses, are checked by their form.

use test_support as support;

use serde_json::{Value, json};
use support::{Client, Dialect, Message, Server};

/// Compares all members with those expected; `"#id"`, `"#time"` and `"#stamp"` stand for values the server chooses.
fn assert_exactly(message: &Message, expected: Value) {
    let mut seen = message.body.clone();
    for (member, value) in expected.as_object().expect("an object") {
        let Some(actual) = seen.get(member) else {
            panic!("{member} is missing in {}", message.body)
        };
        let fits = match value.as_str() {
            Some("#id") => actual.as_str().is_some_and(|id| !id.is_empty() && id.len() <= 64),
            Some("#time") => actual
                .as_i64()
                .is_some_and(|ms| (support::unix_ms() - ms).abs() < 60_000),
            _ => actual == value,
        };
        assert!(fits, "{member} is {actual} instead of {value} in {}", message.body);
        seen[member] = value.clone();
    }
    assert_eq!(seen, expected, "members that were not announced");
}

/// The only entry of a pure `{"server": n}` clock.
fn stamp(message: &Message) -> u64 {
    let clock = message["clock"].as_object().expect("a clock");
    assert_eq!(clock.len(), 1, "one entry: {}", message.body);
    clock["server"].as_u64().expect("an integer")
}

fn without_clock(mut message: Message) -> Message {
    message
        .body
        .as_object_mut()
        .expect("an object")
        .remove("clock")
        .expect("a clock");
    message
}

#[test]
fn raw_with_authentication_off() {
    for shards in [1, 3] {
        let server = Server::with().shards(shards).start();
        let mut raw = Client::connect(&server, Dialect::Json);
        raw.send_text(r#"{"type":"auth","id":"m1","timestamp":1}"#);
        assert_exactly(
            &raw.expect("auth_success"),
            json!({"type": "auth_success", "id": "m1", "requestId": "m1", "timestamp": "#time", "userId": "anonymous",
                "permissions": {"canRead": ["*"], "canWrite": ["*"], "isAdmin": false}}),
        );

        raw.send_text(r#"{"type":"sync_request","id":"m2","timestamp":2,"documentId":"doc0"}"#);
        let snapshot = raw.expect("sync_response");
        let at_start = stamp(&snapshot);
        assert!(
            at_start > 1_600_000_000_000,
            "stamps start at the wall clock: {at_start}"
        );
        assert_exactly(
            &without_clock(snapshot),
            json!({"type": "sync_response", "id": "m2", "requestId": "m2", "timestamp": "#time", "documentId": "doc0",
                "state": {}, "deltas": []}),
        );

        raw.send_text(
            r#"{"type":"delta","id":"m3","timestamp":3,"documentId":"doc0","delta":{"a":1,"b":null},"vectorClock":{}}"#,
        );
        assert_exactly(
            &raw.take("ack"),
            json!({"type": "ack", "id": "m3", "timestamp": "#time", "messageId": "m3", "documentId": "doc0"}),
        );
        let (first, second) = (raw.take("delta"), raw.take("delta"));
        assert!(
            at_start < stamp(&first) && stamp(&first) <= stamp(&second),
            "stamps ascend"
        );
        assert_ne!(first["id"], second["id"], "every message has its own id");
        let mut sent = first["id"].clone();
        let (a, b) = if first["field"] == "a" {
            (&first, &second)
        } else {
            (&second, &first)
        };
        for (message, field, value) in [(a, "a", json!(1)), (b, "b", Value::Null)] {
            assert_exactly(
                &without_clock(message.clone()),
                json!({"type": "delta", "id": "#id", "timestamp": "#time", "documentId": "doc0", "field": field,
                    "value": value, "clientId": "server"}),
            );
        }

        raw.say_as("m4", "ack", json!({"messageId": sent.take()}));
        raw.expect_silence();

        raw.send_text(
            r#"{"type":"delta","id":"m5","timestamp":5,"documentId":"doc0","delta":{"a":{"__deleted":true}},"vectorClock":{}}"#,
        );
        raw.take_ack("m5");
        let deleted = raw.take_field("doc0", "a");
        assert!(stamp(&deleted) > stamp(&second));
        assert_eq!(deleted["value"], json!({"__deleted": true}));
        assert_eq!(raw.sync("doc0")["state"], json!({"b": null}));
    }
}

#[test]
fn raw_in_binary_frames() {
    let server = Server::start();
    let mut raw = Client::connect(&server, Dialect::Binary);
    raw.say_as("m1", "auth", json!({}));
    let success = raw.expect("auth_success");
    assert_eq!(success.code, Some(0x02));
    assert_exactly(
        &success,
        json!({"id": "m1", "requestId": "m1", "userId": "anonymous",
            "permissions": {"canRead": ["*"], "canWrite": ["*"], "isAdmin": false}}),
    );
    raw.say_as("m2", "sync_request", json!({"documentId": "doc0"}));
    let snapshot = raw.expect("sync_response");
    assert_exactly(
        &without_clock(snapshot),
        json!({"id": "m2", "requestId": "m2", "documentId": "doc0", "state": {}, "deltas": []}),
    );
    raw.say_as("m3", "delta", json!({"documentId": "doc0", "field": "a", "value": [1]}));
    assert_exactly(
        &raw.take("ack"),
        json!({"id": "m3", "messageId": "m3", "documentId": "doc0"}),
    );
    let mut echo = raw.take("delta");
    assert_eq!(echo.code, Some(0x20));
    // §6.3 leaves a timestamp member in binary payloads open, §2.6 excludes it: none is what RAW expects.
    assert!(
        !echo.has("type") && !echo.has("timestamp"),
        "RAW spreads the payload over the header: {}",
        echo.body
    );
    echo = without_clock(echo);
    assert_exactly(
        &echo,
        json!({"id": "#id", "documentId": "doc0", "field": "a", "value": [1], "clientId": "server"}),
    );
}

#[test]
fn sdk_with_authentication_off() {
    let server = Server::with().shards(3).start();
    let document = "sdk-exchange";
    let mut reader = Client::connect(&server, Dialect::Sdk);
    reader.subscribe(document);
    let mut other = Client::connect(&server, Dialect::Sdk);
    other.say("subscribe", json!({"documentId": document}));
    other.take_snapshot(document);
    other.say("delta_batch", batch(document, "client-2", "first", json!("y"), 1));
    other.take_ack("msg-client-2");
    reader.take_field(document, "first");

    let mut writer = Client::connect(&server, Dialect::Sdk);
    writer.say("subscribe", json!({"documentId": document}));
    let snapshot = writer.expect("sync_response");
    assert_eq!(snapshot["state"], json!({"first": "y"}));
    stamp(&snapshot);
    writer.say("awareness_subscribe", json!({"documentId": document}));
    let presence = writer.expect("awareness_state");
    assert_eq!(
        (&presence["documentId"], &presence["states"]),
        (&json!(document), &json!([]))
    );

    writer.say("delta_batch", batch(document, "client-1", "t", json!("x"), 1));
    assert_eq!(writer.take_ack("msg-client-1")["documentId"], document);
    let echo = writer.take_field(document, "t");
    assert_eq!((&echo["value"], &echo["clientId"]), (&json!("x"), &json!("server")));
    assert_eq!(
        echo["clock"],
        json!({"client-1": 1}),
        "the own echo confirms and raises nothing"
    );

    let seen_by_writer = other.take_field(document, "t");
    let clock = seen_by_writer["clock"].as_object().expect("a clock");
    assert_eq!(clock.len(), 2, "{clock:?}");
    assert_eq!(
        clock["server"], clock["client-2"],
        "the entry of the receiver is raised too"
    );
    let seen_by_reader = reader.take_field(document, "t");
    assert_eq!(stamp(&seen_by_reader), clock["server"].as_u64().expect("an integer"));
}

fn batch(document: &str, client: &str, field: &str, value: Value, counter: u64) -> Value {
    json!({"documentId": document, "messageId": format!("msg-{client}"), "deltas": [{
        "type": "set", "documentId": document, "field": field, "value": value,
        "clock": {client: counter}, "clientId": client, "timestamp": support::unix_ms()}]})
}

#[test]
fn sdk_with_a_token_provider() {
    let server = Server::with().auth().start();
    let mut sdk = Client::connect(&server, Dialect::Sdk);
    sdk.say("subscribe", json!({"documentId": "early"}));
    sdk.say("awareness_subscribe", json!({"documentId": "early"}));
    sdk.expect_silence();
    sdk.say("auth", json!({"token": support::token::token("ann", &["*"], &["*"])}));
    assert_eq!(sdk.expect("auth_success")["userId"], "ann");
    assert_eq!(sdk.expect("sync_response")["documentId"], "early");
    assert_eq!(sdk.expect("awareness_state")["states"], json!([]));
}

#[test]
fn go_style_client() {
    let server = Server::with().shards(3).start();
    let document = "goc";
    let mut sdk = Client::connect(&server, Dialect::Sdk);
    sdk.subscribe(document);
    sdk.say("awareness_subscribe", json!({"documentId": document}));
    sdk.expect("awareness_state");
    let mut other = Client::connect(&server, Dialect::Goc);
    other.subscribe(document);

    let mut goc = Client::connect(&server, Dialect::Goc);
    goc.say_as("g1", "auth", json!({"clientId": "c9"}));
    let success = goc.expect("auth_success");
    assert_eq!(
        (&success["id"], &success["type"]),
        (&json!("g1"), &json!("auth_success"))
    );
    assert!(
        success["timestamp"].is_i64(),
        "self-describing payloads carry the time: {}",
        success.body
    );

    goc.say_as("g2", "subscribe", json!({"docId": document}));
    let snapshot = goc.expect("sync_response");
    stamp(&snapshot);
    assert_exactly(
        &without_clock(snapshot),
        json!({"type": "sync_response", "id": "g2", "timestamp": "#time", "requestId": "g2", "docId": document,
            "documentId": document, "state": {}, "deltas": []}),
    );

    goc.say_as(
        "g3",
        "delta_batch",
        json!({"docId": document, "deltas": [{"changes": {"a": 1}}, {"changes": {"b": 2}}]}),
    );
    let ack = goc.expect("ack");
    assert_eq!(
        (&ack["id"], &ack["messageId"], &ack["count"]),
        (&json!("g3"), &json!("g3"), &json!(2))
    );
    assert_eq!(
        (&ack["docId"], &ack["documentId"]),
        (&json!(document), &json!(document))
    );

    let delta = other.expect("delta");
    stamp(&delta);
    assert_exactly(
        &without_clock(delta),
        json!({"type": "delta", "id": "#id", "timestamp": "#time", "docId": document, "documentId": document,
            "changes": {"a": 1, "b": 2}, "clientId": "server"}),
    );
    other.expect_silence();
    goc.expect_silence();

    goc.say("awareness_update", json!({"docId": document, "state": {"x": 1}}));
    let presence = other.expect("awareness_state");
    assert_eq!(
        (&presence["docId"], &presence["documentId"]),
        (&json!(document), &json!(document))
    );
    assert_eq!(
        (&presence["clientId"], &presence["state"]),
        (&json!("c9"), &json!({"x": 1}))
    );
    let states = presence["states"].as_array().expect("states");
    assert_eq!(states.len(), 1);
    assert_eq!(
        (&states[0]["clientId"], &states[0]["state"]),
        (&json!("c9"), &json!({"x": 1}))
    );
    let update = sdk.take("awareness_update");
    assert_eq!(
        (&update["clientId"], &update["state"]),
        (&json!("c9"), &json!({"x": 1}))
    );
    assert_eq!((&update["documentId"], &update["clock"]), (&json!(document), &json!(1)));
}
