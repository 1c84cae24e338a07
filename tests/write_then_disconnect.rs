//! A write reaches everybody even when its author is gone a moment later: the client sends its change and ends the
//! connection within 10 ms, with and without a close frame, on one, two and five shards, as any of the four kinds.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::{Client, Dialect, Server};

fn everybody_still_gets_it(shards: usize) {
    let server = Server::with().shards(shards).start();
    for dialect in [Dialect::Json, Dialect::Binary, Dialect::Goc] {
        for polite in [true, false] {
            let document = format!("leaving:{dialect:?}:{polite}");
            let mut reader = Client::connect(&server, Dialect::Binary);
            reader.subscribe(&document);

            let mut author = Client::connect(&server, dialect);
            let began = Instant::now();
            author.write(&document, json!({"last": "words"}));
            if polite {
                author.close();
            } else {
                // The FIN follows the data at once; a reset could take the data with it.
                let _ = author.stream().shutdown(std::net::Shutdown::Write);
            }
            let took = began.elapsed();

            assert_eq!(
                reader.take_field(&document, "last")["value"],
                "words",
                "{dialect:?}, polite {polite}"
            );
            let mut late = Client::connect(&server, Dialect::Json);
            assert_eq!(late.sync(&document)["state"], json!({"last": "words"}));
            // Printed, not asserted: a busy machine may need longer to close.
            if took > Duration::from_millis(10) {
                println!("the author of {document} took {took:?} to leave");
            }
        }
    }
}

#[test]
fn on_one_shard() {
    everybody_still_gets_it(1);
}

#[test]
fn on_two_shards() {
    everybody_still_gets_it(2);
}

#[test]
fn on_five_shards() {
    everybody_still_gets_it(5);
}

#[test]
fn a_batch_of_an_sdk_client_that_closes_at_once_arrives() {
    let server = Server::start();
    let mut reader = Client::connect(&server, Dialect::Sdk);
    reader.subscribe("batch");
    let mut author = Client::connect(&server, Dialect::Sdk);
    author.say(
        "delta_batch",
        json!({"documentId": "batch", "messageId": "msg-1", "deltas": [
            {"type": "set", "documentId": "batch", "field": "a", "value": 1, "clock": {"c": 1}, "clientId": "c", "timestamp": 1},
            {"type": "set", "documentId": "batch", "field": "b", "value": 2, "clock": {"c": 2}, "clientId": "c", "timestamp": 2},
        ]}),
    );
    author.close();
    assert_eq!(reader.take_field("batch", "a")["value"], 1);
    assert_eq!(reader.take_field("batch", "b")["value"], 2);
}
