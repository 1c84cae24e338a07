//! Every mistake gets the text and code of docs/protocol.md §6.7, in the answer's `error`, `code` and `details.code`,
//! with the id of the request, and never ends the connection (except too many invalid messages in a row).

use test_support as support;

use serde_json::{Value, json};
use support::{Client, Dialect, Server};

fn cases() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let long = "x".repeat(257);
    let missing_delta = "Invalid delta message: missing or empty delta";
    let missing_deltas = "Invalid delta batch: missing or empty deltas array";
    vec![
        ("subscribe", json!({}), "INVALID_DOCUMENT_ID", "Invalid document ID"),
        (
            "subscribe",
            json!({"documentId": 5}),
            "INVALID_DOCUMENT_ID",
            "Invalid document ID",
        ),
        (
            "subscribe",
            json!({"documentId": ""}),
            "INVALID_DOCUMENT_ID",
            "Invalid document ID",
        ),
        (
            "subscribe",
            json!({ "documentId": long }),
            "INVALID_DOCUMENT_ID",
            "Document ID too long",
        ),
        (
            "subscribe",
            json!({"documentId": "a b"}),
            "INVALID_DOCUMENT_ID",
            "Document ID contains invalid characters",
        ),
        (
            "subscribe",
            json!({"documentId": "a\n"}),
            "INVALID_DOCUMENT_ID",
            "Document ID contains invalid characters",
        ),
        (
            "subscribe",
            json!({"documentId": "é"}),
            "INVALID_DOCUMENT_ID",
            "Document ID contains invalid characters",
        ),
        (
            "subscribe",
            json!({"documentId": "a/b"}),
            "INVALID_DOCUMENT_ID",
            "Document ID contains invalid characters",
        ),
        ("sync_request", json!({}), "INVALID_DOCUMENT_ID", "Invalid document ID"),
        (
            "sync_request",
            json!({"documentId": "a.b"}),
            "INVALID_DOCUMENT_ID",
            "Document ID contains invalid characters",
        ),
        ("sync_step1", json!({}), "INVALID_DOCUMENT_ID", "Invalid document ID"),
        (
            "awareness_subscribe",
            json!({}),
            "INVALID_DOCUMENT_ID",
            "Invalid document ID",
        ),
        (
            "awareness_update",
            json!({"clientId": "c", "state": {}, "clock": 1}),
            "INVALID_DOCUMENT_ID",
            "Invalid document ID",
        ),
        ("delta", json!({"documentId": "doc"}), "INVALID_REQUEST", missing_delta),
        (
            "delta",
            json!({"documentId": "doc", "delta": {}}),
            "INVALID_REQUEST",
            missing_delta,
        ),
        (
            "delta",
            json!({"documentId": "doc", "delta": "text"}),
            "INVALID_REQUEST",
            missing_delta,
        ),
        (
            "delta",
            json!({"documentId": "doc", "field": 5, "value": 1}),
            "INVALID_REQUEST",
            missing_delta,
        ),
        (
            "delta",
            json!({"delta": {"a": 1}}),
            "INVALID_DOCUMENT_ID",
            "Invalid document ID",
        ),
        (
            "delta",
            json!({"documentId": "a b", "delta": {"a": 1}}),
            "INVALID_DOCUMENT_ID",
            "Document ID contains invalid characters",
        ),
        (
            "delta_batch",
            json!({"documentId": "doc"}),
            "INVALID_REQUEST",
            missing_deltas,
        ),
        (
            "delta_batch",
            json!({"documentId": "doc", "deltas": []}),
            "INVALID_REQUEST",
            missing_deltas,
        ),
        (
            "delta_batch",
            json!({"documentId": "doc", "deltas": {}}),
            "INVALID_REQUEST",
            missing_deltas,
        ),
        (
            "delta_batch",
            json!({"deltas": [{"field": "a", "value": 1}]}),
            "INVALID_DOCUMENT_ID",
            "Invalid document ID",
        ),
        ("delta_batch_chunk", json!({}), "INVALID_REQUEST", "Invalid chunk"),
    ]
}

#[test]
fn every_mistake_has_its_text_and_code() {
    let server = Server::start();
    for dialect in [Dialect::Json, Dialect::Binary] {
        let mut client = Client::connect(&server, dialect);
        client.greet();
        for (kind, fields, code, text) in cases() {
            let id = client.say(kind, fields.clone());
            let error = client.take_error(code, text);
            assert_eq!(
                (&error["id"], &error["requestId"]),
                (&json!(id), &json!(id)),
                "{kind} {fields}"
            );
        }
        client.fence();
    }
}

#[test]
fn json_only_types() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    for unknown in [
        "sync_response",
        "auth_success",
        "error",
        "awareness_state",
        "nonsense",
        "Subscribe",
    ] {
        client.say(unknown, json!({"documentId": "doc"}));
        client.take_error("INVALID_MESSAGE", &format!("Invalid message type: {unknown}"));
    }
    for unimplemented in ["snapshot_request", "snapshot_upload"] {
        client.say(unimplemented, json!({"documentId": "doc"}));
        client.take_error(
            "UNKNOWN_MESSAGE_TYPE",
            &format!("Unknown message type: {unimplemented}"),
        );
    }
    client.say("connect", json!({"clientId": "c", "version": "1"}));
    client.expect_silence();
    client.say("disconnect", json!({}));
    assert_eq!(client.expect_close().0, 1000);
}

#[test]
fn go_style_connections_get_their_own_texts() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Goc);
    client.subscribe("doc");
    client.say("subscribe", json!({}));
    client.take_error("INVALID_REQUEST", "Missing docId");
    client.say("subscribe", json!({"docId": "x".repeat(257)}));
    client.take_error("INVALID_DOCUMENT_ID", "Document ID too long (max 256 characters)");
    client.say("delta_batch", json!({"docId": "doc", "deltas": []}));
    client.take_error("INVALID_REQUEST", "Invalid deltas");
    let id = client.say("delta", json!({"docId": "doc", "changes": {}}));
    client.take_ack(&id);
}

#[test]
fn the_longest_document_id_is_fine() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.subscribe(&"x".repeat(256));
    client.subscribe("AZaz09_:-");
}

#[test]
fn twenty_invalid_messages_in_a_row_end_the_connection() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    for _ in 0..15 {
        client.send_text("{not json");
        client.take_error("INVALID_MESSAGE", "Invalid message format");
    }
    client.fence();
    for _ in 0..15 {
        client.send_text("[]");
        client.take_error("INVALID_MESSAGE", "Invalid message format");
    }
    client.fence();
    for _ in 0..25 {
        client.send_text("\"text\"");
    }
    assert_eq!(client.expect_close(), (1008, "Too many invalid messages".into()));
}

#[test]
fn ids_and_shapes_are_taken_leniently() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.send_text(r#"{"type":"ping","id":77,"timestamp":1}"#);
    assert_eq!(client.expect("pong")["id"], "77", "numbers are turned into strings");
    client.send_text(r#"{"type":"ping"}"#);
    assert!(client.expect("pong")["id"].as_str().is_some_and(|id| !id.is_empty()));
    client.send_text("\u{feff}  {\"type\":\"ping\",\"id\":\"bom\"}");
    assert_eq!(client.expect("pong")["id"], "bom");
    client.send_text(r#"{"type":"subscribe","id":"n","payload":{"documentId":"nested","id":"inner","type":"ping"}}"#);
    let snapshot = client.expect("sync_response");
    assert_eq!(
        (&snapshot["documentId"], &snapshot["requestId"]),
        (&json!("nested"), &json!("n"))
    );
    client.send_text(r#"{"type":"subscribe","id":"b","documentId":"outer","payload":{"documentId":"payload-wins"}}"#);
    assert_eq!(client.expect("sync_response")["documentId"], "payload-wins");
    client.send_text(r#"{"type":"subscribe","id":"d","documentId":"first","docId":"second"}"#);
    assert_eq!(client.expect("sync_response")["documentId"], "first");
}

#[test]
fn the_reply_encoding_follows_the_first_message() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.fence();
    client.send_frame(0x30, 1, br#"{"id":"binary"}"#);
    let pong = client.expect("pong");
    assert_eq!((pong.code, &pong["id"]), (None, &json!("binary")), "JSON came first");

    let mut client = Client::connect(&server, Dialect::Binary);
    client.fence();
    client.send_text(r#"{"type":"ping","id":"text"}"#);
    let pong = client.expect("pong");
    assert_eq!(
        (pong.code, &pong["id"]),
        (Some(0x31), &json!("text")),
        "binary came first"
    );
    client.send_text(r#"{"type":"auth","id":"a"}"#);
    assert_eq!(client.expect("auth_success").code, None, "an auth changes the encoding");
}

#[test]
fn self_describing_payloads_may_overrule_the_code() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Binary);
    client.send_frame(0x77, 5, br#"{"type":"ping","id":"x"}"#);
    assert_eq!(client.expect("pong")["id"], "x");
    client.send_frame(0x10, 5, br#"{"type":"ping","id":"y","timestamp":5}"#);
    assert_eq!(client.expect("pong")["id"], "y");
    client.send_frame(0x12, 5, br#"{"type":"set","id":"z","timestamp":5,"documentId":"doc"}"#);
    assert_eq!(
        client.expect("sync_response")["requestId"],
        "z",
        "no type a client may send: the code decides"
    );
}
