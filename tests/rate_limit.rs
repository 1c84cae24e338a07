//! A client that is too fast is slowed down and loses nothing (docs/protocol.md §17.4); its pings are answered at
//! once. In `reject` mode the excess is refused with an error instead.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::{Client, Dialect, Server};

const LIMIT: usize = 300;

#[test]
fn the_excess_is_delayed_and_nothing_is_lost() {
    let server = Server::with().env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", LIMIT).start();
    let mut client = Client::connect(&server, Dialect::Json);
    let began = Instant::now();
    let ids: Vec<String> = (0..LIMIT + 20)
        .map(|n| client.write("doc", json!({"n": n, format!("f{n}"): n})))
        .collect();
    client.say_as("p", "ping", json!({}));
    let mut acked = Vec::new();
    let mut acked_before_pong = None;
    while acked.len() < ids.len() {
        let message = client.next();
        match message.kind.as_str() {
            "ack" => acked.push(message["messageId"].as_str().expect("an id").to_owned()),
            "pong" => acked_before_pong = Some(acked.len()),
            "delta" => {}
            other => panic!("{other}: {}", message.body),
        }
    }
    assert_eq!(acked, ids, "all of them, in order");
    assert!(
        acked_before_pong.expect("a pong") < ids.len(),
        "the pong did not wait for the queue"
    );
    // 20 messages at 5 a second are 4 seconds; a little less because the bucket refills from the first message on.
    assert!(
        began.elapsed() >= Duration::from_millis(2_500),
        "not delayed: {:?}",
        began.elapsed()
    );
    let mut reader = Client::connect(&server, Dialect::Json);
    let state = reader.sync("doc")["state"].clone();
    assert_eq!(
        (state.as_object().map(serde_json::Map::len), &state["n"]),
        (Some(LIMIT + 21), &json!(LIMIT + 19))
    );
}

/// A connection that moves to the home of its first document takes what waits along, and goes on with it there.
#[test]
fn what_waits_is_handled_where_the_connection_goes() {
    let server = Server::with()
        .shards(2)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", LIMIT)
        .start();
    for number in 0..6 {
        let mut client = Client::connect(&server, Dialect::Json);
        for _ in 0..LIMIT {
            client.say("auth", json!({}));
        }
        let document = format!("doc-{number}");
        let long = json!({"long": "x".repeat(300_000)});
        let ids = [long, json!({"b": 1}), json!({"c": 2})].map(|delta| client.write(&document, delta));
        for id in &ids {
            client.take_ack(id);
        }
        assert_eq!(client.sync(&document)["state"]["c"], 2);
    }
}

#[test]
fn acks_and_pings_are_free() {
    let server = Server::with()
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 60)
        .env("SYNCKIT_RATE_LIMIT_MODE", "reject")
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    for number in 0..200 {
        client.say("ack", json!({"messageId": format!("x{number}")}));
        client.say("pong", json!({}));
        client.fence();
    }
    client.write_acked("doc", json!({"a": 1}));
}

#[test]
fn in_reject_mode_the_excess_is_refused() {
    let server = Server::with()
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 60)
        .env("SYNCKIT_RATE_LIMIT_MODE", "reject")
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    for number in 0..80 {
        client.write("doc", json!({ "n": number }));
    }
    client.take_error("RATE_LIMIT_EXCEEDED", "Too many messages. Please slow down.");
    client.fence();
    let acks = client.drain().iter().filter(|message| message.kind == "ack").count();
    assert!((60..70).contains(&acks), "{acks} accepted of a limit of 60");
}

#[test]
fn others_are_not_slowed_down() {
    let server = Server::with()
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 60)
        .shards(1)
        .start();
    let mut fast = Client::connect(&server, Dialect::Json);
    for number in 0..75 {
        fast.write("doc", json!({ "n": number }));
    }
    let mut calm = Client::connect(&server, Dialect::Json);
    calm.write_acked("doc", json!({"calm": true}));
    let acks = fast
        .drain_for(Duration::from_millis(1))
        .iter()
        .filter(|message| message.kind == "ack")
        .count();
    assert!(acks < 75, "the calm client was served while the fast one still waits");
}

#[test]
fn zero_switches_the_limit_off() {
    let server = Server::with()
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .env("SYNCKIT_RATE_LIMIT_MODE", "reject")
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    let ids: Vec<String> = (0..1_500).map(|n| client.write("doc", json!({ "n": n }))).collect();
    client.take_ack(ids.last().expect("many"));
}
