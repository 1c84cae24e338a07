//! Permissions are checked for every kind of message and every document named in it (docs/protocol.md §8): reading,
//! writing, a second document inside a batch, presence, and the delivery of broadcasts.

use test_support as support;

use serde_json::json;
use support::{Client, Dialect, Server, token};

fn client_with(server: &Server, can_read: &[&str], can_write: &[&str]) -> Client {
    let mut client = Client::connect(server, Dialect::Json);
    client.authenticate(&token::token("ann", can_read, can_write));
    client
}

fn admin(server: &Server) -> Client {
    let mut client = Client::connect(server, Dialect::Json);
    client.authenticate(&token::admin());
    client
}

#[test]
fn every_kind_of_reading_needs_the_read_permission() {
    let server = Server::with().auth().start();
    let mut client = client_with(&server, &["mine"], &["*"]);
    for (kind, fields) in [
        ("subscribe", json!({"documentId": "closed"})),
        ("sync_request", json!({"documentId": "closed"})),
        ("sync_step1", json!({"documentId": "closed", "stateVector": {}})),
        ("awareness_subscribe", json!({"documentId": "closed"})),
        (
            "awareness_update",
            json!({"documentId": "closed", "clientId": "a", "state": {}, "clock": 1}),
        ),
    ] {
        let id = client.say(kind, fields);
        let error = client.take_error("PERMISSION_DENIED", "Permission denied");
        assert_eq!((&error["id"], &error["requestId"]), (&json!(id), &json!(id)), "{kind}");
        assert_eq!(error["details"]["documentId"], "closed", "{kind}");
    }
    client.subscribe("mine");
}

#[test]
fn every_kind_of_writing_needs_the_write_permission() {
    let server = Server::with().auth().start();
    let mut client = client_with(&server, &["*"], &["mine"]);
    let element = json!({"type": "set", "field": "f", "value": 1, "clock": {"c": 1}, "clientId": "c", "timestamp": 1});
    for (kind, fields) in [
        ("delta", json!({"documentId": "closed", "delta": {"f": 1}})),
        ("delta", json!({"documentId": "closed", "field": "f", "value": 1})),
        ("delta", json!({"documentId": "closed", "changes": {"f": 1}})),
        ("delta_batch", json!({"documentId": "closed", "deltas": [element]})),
        (
            "delta_batch",
            json!({"documentId": "closed", "deltas": [{"type": "counter", "operation": "increment", "value": 1, "clientId": "c"}]}),
        ),
    ] {
        client.say(kind, fields.clone());
        client.take_error("PERMISSION_DENIED", "Permission denied");
        assert_eq!(client.sync("closed")["state"], json!({}), "{fields}");
    }
    client.write_acked("mine", json!({"f": 1}));
}

#[test]
fn a_second_document_inside_a_batch_is_checked_too() {
    let server = Server::with().auth().shards(5).start();
    let mut watcher = admin(&server);
    for document in ["mine", "closed"] {
        watcher.subscribe(document);
    }
    let mut client = client_with(&server, &["*"], &["mine", "also-mine"]);
    let element = |document: &str, field: &str| {
        json!({"type": "set", "documentId": document, "field": field, "value": 1, "clock": {"c": 1}, "clientId": "c",
            "timestamp": support::unix_ms()})
    };
    client.say(
        "delta_batch",
        json!({"documentId": "mine", "messageId": "b", "deltas": [
            element("mine", "first"), element("closed", "smuggled"), element("also-mine", "allowed"),
            {"type": "text-state", "documentId": "closed", "clientId": "c", "timestamp": 1, "clock": {"c": 1},
                "state": r#"{"blocks":[],"clock":{"value":0},"client_id":"c"}"#},
            {"type": "counter", "operation": "increment", "value": 1, "documentId": "closed", "clientId": "c"},
            element("mine", "last")]}),
    );
    let error = client.take_error("PERMISSION_DENIED", "Permission denied");
    assert_eq!(error["details"]["documentId"], "closed");
    client.take_ack("b");
    assert_eq!(
        client.sync("mine")["state"],
        json!({"first": 1, "last": 1}),
        "the rest went on"
    );
    assert_eq!(client.sync("also-mine")["state"], json!({"allowed": 1}));
    let closed = watcher.sync("closed");
    assert_eq!(closed["state"], json!({}));
    assert!(!closed.has("textState"), "{}", closed.body);
    watcher.take_field("mine", "last");
    assert!(
        watcher.drain().iter().all(|message| message["documentId"] != "closed"),
        "nothing of it was relayed"
    );
}

#[test]
fn a_writer_that_may_not_read_is_acknowledged_and_told_nothing() {
    let server = Server::with().auth().start();
    let mut reader = admin(&server);
    reader.subscribe("box");
    let mut writer = client_with(&server, &[], &["box"]);
    writer.write_acked("box", json!({"letter": 1}));
    assert_eq!(reader.take_field("box", "letter")["value"], 1);
    reader.write_acked("box", json!({"answer": 2}));
    writer.expect_silence();
}

#[test]
fn permissions_are_exact_names_the_star_or_admin() {
    let server = Server::with().auth().start();
    for (can_read, allowed, refused) in [
        (&["room:1"][..], "room:1", "room:11"),
        (&["room:*"][..], "room:x", "room:x"),
        (&["Room"][..], "Room", "room"),
        (&["*"][..], "anything", ""),
    ] {
        let mut client = client_with(&server, can_read, &[]);
        if can_read != ["room:*"] {
            client.subscribe(allowed);
        }
        if !refused.is_empty() {
            client.say("subscribe", json!({ "documentId": refused }));
            client.take_error("PERMISSION_DENIED", "Permission denied");
        }
    }
    admin(&server).write_acked("whatever", json!({"a": 1}));
}

#[test]
fn prefixes_match_only_when_switched_on() {
    let server = Server::with().auth().env("SYNCKIT_PERMISSION_PREFIXES", "true").start();
    let mut client = client_with(&server, &["room:*"], &[]);
    client.subscribe("room:x");
    client.say("subscribe", json!({"documentId": "hall:x"}));
    client.take_error("PERMISSION_DENIED", "Permission denied");
}

#[test]
fn the_demo_policy_applies_to_every_operation() {
    let server = Server::with().env("SYNCKIT_DOCUMENT_POLICY", "demo").start();
    let mut client = Client::connect(&server, Dialect::Json);
    for open in [
        "playground",
        "playground:1",
        "wordwall",
        "wordwall:x",
        "room:1",
        "proom:1",
        "1700000000000:a",
    ] {
        client.write_acked(open, json!({"a": 1}));
    }
    for closed in ["other", "rooms:1", "170000000000:a", "playgrounds"] {
        for (kind, fields) in [
            ("subscribe", json!({ "documentId": closed })),
            ("sync_request", json!({ "documentId": closed })),
            ("delta", json!({"documentId": closed, "delta": {"a": 1}})),
            (
                "delta_batch",
                json!({"documentId": closed, "deltas": [{"field": "a", "value": 1}]}),
            ),
            ("awareness_subscribe", json!({ "documentId": closed })),
        ] {
            client.say(kind, fields);
            client.take_error("ACCESS_DENIED", "Access denied to this document");
        }
    }
}

#[test]
fn presence_reaches_only_readers() {
    let server = Server::with().auth().start();
    let mut outsider = client_with(&server, &["other"], &["*"]);
    outsider.write_acked("p", json!({"a": 1}));
    let mut insider = admin(&server);
    insider.say(
        "awareness_update",
        json!({"documentId": "p", "clientId": "i", "state": {"x": 1}, "clock": 1}),
    );
    insider.fence();
    outsider.expect_silence();
}
