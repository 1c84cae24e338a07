//! Chunked batches (docs/protocol.md §15.1): put together in any order, acknowledged once, bounded, and refused with
//! `Invalid chunk` for every violation.

use test_support as support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{Client, Dialect, Server, frame};

fn batch(field: &str) -> Vec<u8> {
    let payload = json!({"documentId": "doc", "messageId": "batch", "deltas": [{"field": field, "value": "chunked"}]});
    frame::encode(0x50, 1, payload.to_string().as_bytes())
}

fn chunks(id: &str, whole: &[u8], pieces: usize) -> Vec<Value> {
    let size = whole.len().div_ceil(pieces);
    let total = whole.chunks(size).len();
    whole
        .chunks(size)
        .enumerate()
        .map(|(index, piece)| {
            json!({"chunkId": id, "totalChunks": total, "chunkIndex": index, "data": STANDARD.encode(piece)})
        })
        .collect()
}

#[test]
fn chunks_in_any_order_make_one_batch() {
    let server = Server::start();
    for dialect in [Dialect::Binary, Dialect::Json] {
        let mut client = Client::connect(&server, dialect);
        let mut all = chunks("c1", &batch("f"), 5);
        all.reverse();
        let repeated = all[0].clone();
        all.insert(2, repeated);
        all.into_iter()
            .for_each(|chunk| drop(client.say("delta_batch_chunk", chunk)));
        client.take_ack("batch");
        assert_eq!(client.take_field("doc", "f")["value"], "chunked");
        assert_eq!(client.sync("doc")["state"], json!({"f": "chunked"}));
        client.expect_silence();
    }
}

#[test]
fn the_message_inside_may_be_json() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Binary);
    let inside = json!({"type": "delta_batch", "id": "j", "timestamp": 1, "documentId": "doc", "deltas": [{"field": "f", "value": 1}]});
    for chunk in chunks("c", inside.to_string().as_bytes(), 2) {
        client.say("delta_batch_chunk", chunk);
    }
    client.take_ack("j");
}

#[test]
fn several_sets_may_be_open_at_once() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Binary);
    let sets: Vec<Vec<Value>> = (0..8)
        .map(|number| chunks(&format!("set{number}"), &batch(&format!("f{number}")), 2))
        .collect();
    for half in 0..2 {
        for set in &sets {
            client.say("delta_batch_chunk", set[half].clone());
        }
    }
    for _ in 0..8 {
        client.take("ack");
    }
    assert_eq!(
        client.sync("doc")["state"].as_object().map(serde_json::Map::len),
        Some(8)
    );
}

#[test]
fn violations_are_refused_and_the_connection_goes_on() {
    let server = Server::start();
    let chunk = |total: Value, index: Value, data: Value| json!({"chunkId": "bad", "totalChunks": total, "chunkIndex": index, "data": data});
    for bad in [
        chunk(json!(0), json!(0), json!("")),
        chunk(json!(257), json!(0), json!("")),
        chunk(json!(2), json!(2), json!("")),
        chunk(json!(2), json!(-1), json!("")),
        chunk(json!(2.5), json!(0), json!("")),
        chunk(json!(2), json!(0), json!("not base64!")),
        chunk(json!(2), json!(0), json!(5)),
        json!({"totalChunks": 1, "chunkIndex": 0, "data": ""}),
    ] {
        let mut client = Client::connect(&server, Dialect::Binary);
        client.say("delta_batch_chunk", bad);
        client.take_error("INVALID_REQUEST", "Invalid chunk");
        client.fence();
    }
}

#[test]
fn a_set_that_changes_its_mind_is_dropped() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Binary);
    let set = chunks("c", &batch("f"), 2);
    client.say("delta_batch_chunk", set[0].clone());
    client.say(
        "delta_batch_chunk",
        json!({"chunkId": "c", "totalChunks": 3, "chunkIndex": 1, "data": ""}),
    );
    client.take_error("INVALID_REQUEST", "Invalid chunk");
    client.say("delta_batch_chunk", set[1].clone());
    client.expect_silence();
    assert_eq!(client.sync("doc")["state"], json!({}));
}

#[test]
fn only_a_batch_may_be_inside() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Binary);
    let delta = frame::encode(0x20, 1, br#"{"documentId":"doc","field":"f","value":1}"#);
    let inner = chunks("inner", &batch("f"), 1).remove(0);
    let nested = frame::encode(0x23, 1, inner.to_string().as_bytes());
    for inside in [delta, nested] {
        for chunk in chunks("c", &inside, 2) {
            client.say("delta_batch_chunk", chunk);
        }
        client.take_error("INVALID_REQUEST", "Invalid chunk");
    }
    assert_eq!(client.sync("doc")["state"], json!({}));
}

#[test]
fn more_than_eight_open_sets_are_refused() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Binary);
    for number in 0..9 {
        client.say(
            "delta_batch_chunk",
            chunks(&format!("set{number}"), &batch("f"), 2).remove(0),
        );
    }
    client.take_error("INVALID_REQUEST", "Invalid chunk");
}

#[test]
fn authentication_comes_before_collecting() {
    let server = Server::with().auth().start();
    let mut reader = Client::connect(&server, Dialect::Binary);
    reader.authenticate(&support::token::admin());
    let mut client = Client::connect(&server, Dialect::Binary);
    client.authenticate(&support::token::token("reader", &["*"], &[]));
    for chunk in chunks("c", &batch("f"), 2) {
        client.say("delta_batch_chunk", chunk);
    }
    client.take_error("PERMISSION_DENIED", "Permission denied");
    assert_eq!(reader.sync("doc")["state"], json!({}));
}
