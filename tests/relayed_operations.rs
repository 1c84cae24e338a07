//! Operations the server passes on without interpreting them (docs/protocol.md §12): counters exactly once and only to
//! others, set operations to everybody in one order, rich text formatting and old text operations to the others. What was
//! counted and stored is not counted again after a `kill -9`.

use test_support as support;

use serde_json::{Value, json};
use std::time::Duration;
use support::database::{Postgres, SqliteFile};
use support::{Client, Dialect, Message, Server};

fn subscriber(server: &Server, document: &str) -> Client {
    let mut client = Client::connect(server, Dialect::Sdk);
    client.subscribe(document);
    client
}

fn batch(client: &mut Client, document: &str, message_id: &str, elements: Value) {
    client.say(
        "delta_batch",
        json!({"documentId": document, "messageId": message_id, "deltas": elements}),
    );
    client.take_ack(message_id);
}

fn counter(document: &str, who: &str, operation: &str, value: i64) -> Value {
    json!({"type": "counter", "operation": operation, "value": value, "documentId": document, "clientId": who,
        "timestamp": 1, "clock": {who: 1}})
}

fn set(document: &str, who: &str, operation: &str, value: Value) -> Value {
    json!({"type": "set", "operation": operation, "value": value, "documentId": document, "clientId": who,
        "timestamp": 1, "clock": {who: 1}})
}

/// All elements of the relayed batches, in order of arrival.
fn elements(messages: &[Message]) -> Vec<Value> {
    let batches = messages.iter().filter(|message| message.kind == "delta_batch");
    batches
        .flat_map(|batch| batch["deltas"].as_array().expect("deltas").clone())
        .collect()
}

fn total(elements: &[Value]) -> i64 {
    let signed = |element: &Value| {
        assert_eq!(element["type"], "counter", "{element}");
        let value = element["value"].as_i64().expect("a number");
        if element["operation"] == "decrement" {
            -value
        } else {
            value
        }
    };
    elements.iter().map(signed).sum()
}

#[test]
fn counters_reach_the_others_exactly_once() {
    let server = Server::with().shards(3).start();
    let (mut ann, mut bob) = (subscriber(&server, "c"), subscriber(&server, "c"));
    batch(&mut ann, "c", "a1", json!([counter("c", "ann", "increment", 1)]));
    batch(&mut bob, "c", "b1", json!([counter("c", "bob", "increment", 1)]));
    // The network sent one batch twice; both copies are acknowledged.
    batch(&mut ann, "c", "a1", json!([counter("c", "ann", "increment", 1)]));
    batch(
        &mut ann,
        "c",
        "a2",
        json!([counter("c", "ann", "increment", 5), counter("c", "ann", "decrement", 2)]),
    );
    assert_eq!(total(&elements(&bob.drain())), 4, "1 + 5 - 2 by ann");
    assert_eq!(total(&elements(&ann.drain())), 1, "nothing of one's own");
    let mut late = subscriber(&server, "c");
    late.expect_silence();
    // Nor does coming back replay anything, not even on another connection with the same batch.
    let mut again = subscriber(&server, "c");
    batch(
        &mut again,
        "c",
        "a2",
        json!([counter("c", "ann", "increment", 5), counter("c", "ann", "decrement", 2)]),
    );
    assert_eq!(elements(&bob.drain()), Vec::<Value>::new());
}

/// A client that never heard the answer says its batch again, and the server it says it to knows it from the row.
fn a_stored_batch_counts_once(url: &str, stored: &mut dyn FnMut() -> String) {
    let start = || Server::with().env("DATABASE_URL", url).start();
    let mut server = start();
    let mut ann = subscriber(&server, "c");
    let three = json!([counter("c", "ann", "increment", 3)]);
    batch(&mut ann, "c", "a1", three.clone());
    server.signal("KILL");
    server.wait_exit(Duration::from_secs(20)).expect("it is killed");
    let server = start();
    let (mut ann, mut bob) = (subscriber(&server, "c"), subscriber(&server, "c"));
    batch(&mut ann, "c", "a1", three);
    batch(&mut ann, "c", "a2", json!([counter("c", "ann", "increment", 4)]));
    assert_eq!(
        total(&elements(&bob.drain())),
        4,
        "what was counted is not counted again"
    );
    let row: Value = serde_json::from_str(&stored()).expect("JSON");
    assert_eq!(row["meta"]["counter"]["clients"]["ann"], json!([7.0, 0.0]), "{row}");
}

#[test]
fn a_batch_said_again_after_a_crash_counts_once_over_sqlite() {
    let file = SqliteFile::new();
    a_stored_batch_counts_once(&file.url(), &mut || {
        let database = rusqlite::Connection::open(file.path()).expect("the file");
        let row = database.query_row("SELECT state FROM documents WHERE id = 'c'", [], |row| row.get(0));
        row.expect("the document's row")
    });
}

#[test]
fn a_batch_said_again_after_a_crash_counts_once_over_postgresql() {
    let postgres = Postgres::start();
    a_stored_batch_counts_once(&postgres.url(), &mut || {
        let row = postgres
            .connect()
            .query_one("SELECT state::text FROM documents WHERE id = 'c'", &[]);
        row.expect("the document's row").get(0)
    });
}

#[test]
fn a_counter_batch_carries_no_text_flag() {
    let server = Server::start();
    let (mut ann, mut bob) = (subscriber(&server, "c"), subscriber(&server, "c"));
    batch(&mut ann, "c", "a1", json!([counter("c", "ann", "increment", 1)]));
    let relayed = bob.expect("delta_batch");
    assert_eq!(relayed.code, Some(0x50));
    assert_eq!(relayed["documentId"], "c");
    assert!(
        !relayed.has("isTextOperation") || relayed["isTextOperation"] == false,
        "{}",
        relayed.body
    );
    let element = &relayed["deltas"][0];
    for (member, value) in [
        ("type", json!("counter")),
        ("operation", json!("increment")),
        ("value", json!(1)),
        ("clientId", json!("ann")),
    ] {
        assert_eq!(element[member], value, "{element}");
    }
}

#[test]
fn set_operations_reach_everybody_in_one_order() {
    let server = Server::with().shards(2).start();
    let (mut ann, mut bob) = (subscriber(&server, "s"), subscriber(&server, "s"));
    for round in 0..10 {
        ann.say("delta_batch", json!({"documentId": "s", "messageId": format!("a{round}"), "deltas": [set("s", "ann", "add", json!("x"))]}));
        bob.say("delta_batch", json!({"documentId": "s", "messageId": format!("b{round}"), "deltas": [set("s", "bob", "remove", json!("x"))]}));
    }
    let of = |client: &mut Client| {
        let seen = elements(&client.drain());
        seen.iter()
            .map(|element| (element["clientId"].clone(), element["operation"].clone()))
            .collect::<Vec<_>>()
    };
    let (seen_by_ann, seen_by_bob) = (of(&mut ann), of(&mut bob));
    assert!(!seen_by_ann.is_empty());
    assert_eq!(
        seen_by_ann.last(),
        seen_by_bob.last(),
        "the same operation is the last one for both"
    );
    if seen_by_ann.len() == 20 {
        assert_eq!(seen_by_ann, seen_by_bob, "the same order for both");
    }
}

#[test]
fn set_values_of_every_kind_survive() {
    let server = Server::start();
    let (mut ann, mut bob) = (subscriber(&server, "s"), subscriber(&server, "s"));
    for (number, value) in [json!("x"), json!(1), json!(null), json!({"a": [1, "é"]}), json!(false)]
        .into_iter()
        .enumerate()
    {
        batch(
            &mut ann,
            "s",
            &format!("a{number}"),
            json!([set("s", "ann", "add", value.clone())]),
        );
        let relayed = bob.expect("delta_batch");
        assert_eq!(relayed["deltas"][0]["value"], value);
        assert_eq!(
            ann.take("delta_batch")["deltas"][0]["value"],
            value,
            "the sender gets it too"
        );
    }
    batch(
        &mut bob,
        "s",
        "b",
        json!([{"type": "set", "operation": "clear", "documentId": "s", "clientId": "bob", "timestamp": 1, "clock": {"bob": 1}}]),
    );
    assert_eq!(ann.take("delta_batch")["deltas"][0]["operation"], "clear");
}

#[test]
fn formatting_reaches_the_others_as_it_is() {
    let server = Server::start();
    let (mut ann, mut bob) = (subscriber(&server, "r"), subscriber(&server, "r"));
    let format = json!({"type": "richtext", "operation": "format", "documentId": "r", "clientId": "ann", "timestamp": 5,
        "opId": "op-1", "start": "ann:1:0", "end": "ann:4:0", "attributes": {"bold": true}, "clock": {"ann": 3}});
    batch(&mut ann, "r", "a1", json!([format]));
    let relayed = bob.expect("delta_batch");
    assert!(!relayed.has("isTextOperation") || relayed["isTextOperation"] == false);
    for member in [
        "type",
        "operation",
        "opId",
        "start",
        "end",
        "attributes",
        "clientId",
        "clock",
    ] {
        assert_eq!(relayed["deltas"][0][member], format[member], "{member}");
    }
    ann.expect_silence();
}

#[test]
fn old_text_operations_reach_the_others_in_order() {
    let server = Server::start();
    let (mut ann, mut bob) = (subscriber(&server, "t"), subscriber(&server, "t"));
    for position in 0..10 {
        batch(
            &mut ann,
            "t",
            &format!("a{position}"),
            json!([{"type": "text", "operation": "insert", "position": position,
            "value": "x", "documentId": "t", "clientId": "ann", "timestamp": 1, "clock": {"ann": position + 1}}]),
        );
    }
    let relayed = bob.drain();
    assert!(
        relayed.iter().all(|message| message["isTextOperation"] == true),
        "flagged as text"
    );
    let positions: Vec<Value> = elements(&relayed)
        .iter()
        .map(|element| element["position"].clone())
        .collect();
    assert_eq!(json!(positions), json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
    ann.expect_silence();
}

#[test]
fn none_of_them_touches_fields() {
    let server = Server::start();
    let mut ann = subscriber(&server, "mixed");
    batch(
        &mut ann,
        "mixed",
        "a",
        json!([
        counter("mixed", "ann", "increment", 1), set("mixed", "ann", "add", json!("x")),
        {"type": "set", "documentId": "mixed", "field": "operation", "value": "add", "clock": {"ann": 1}, "clientId": "ann", "timestamp": 1},
        {"nothing": "known"}]),
    );
    assert_eq!(
        Client::connect(&server, Dialect::Json).sync("mixed")["state"],
        json!({"operation": "add"})
    );
}
