//! Messages sent before `auth` wait for it (docs/protocol.md §7.4): they are answered in order after `auth_success`,
//! 64 of them or 1 MiB; a connection that never authenticates gets its answers and is closed; after a failed `auth`
//! nothing that waited happens.

use test_support as support;

use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::{Client, Dialect, Server, token};

#[test]
fn what_waited_is_answered() {
    let server = Server::with().auth().shards(3).start();
    for dialect in [Dialect::Json, Dialect::Sdk, Dialect::Goc] {
        let mut client = Client::connect(&server, dialect);
        let key = client.document_key();
        for number in 0..30 {
            client.say("subscribe", json!({ key: format!("early:{number}") }));
        }
        client.expect_silence();
        client.say("auth", json!({"token": token::token("ann", &["*"], &["*"])}));
        client.expect("auth_success");
        // Order is promised per document; answers about documents on different shards may overtake each other.
        let answered: BTreeSet<String> = (0..30)
            .map(|_| {
                client.take("sync_response")["documentId"]
                    .as_str()
                    .expect("a document")
                    .to_owned()
            })
            .collect();
        assert_eq!(answered, (0..30).map(|number| format!("early:{number}")).collect());
    }
}

#[test]
fn what_waited_for_one_document_keeps_its_order() {
    let server = Server::with().auth().shards(2).start();
    let mut client = Client::connect(&server, Dialect::Json);
    let asked: Vec<String> = (0..30)
        .map(|_| client.say("sync_request", json!({"documentId": "doc"})))
        .collect();
    client.say("auth", json!({"token": token::token("ann", &["*"], &["*"])}));
    client.expect("auth_success");
    let answered: Vec<_> = (0..30)
        .map(|_| client.expect("sync_response")["requestId"].clone())
        .collect();
    assert_eq!(json!(answered), json!(asked));
}

#[test]
fn a_write_that_waited_is_there_for_the_request_after_it() {
    let server = Server::with().auth().start();
    let mut client = Client::connect(&server, Dialect::Json);
    let id = client.write("doc", json!({"a": 1}));
    client.say("sync_request", json!({"documentId": "doc"}));
    client.authenticate(&token::token("ann", &["*"], &["*"]));
    client.take_ack(&id);
    assert_eq!(client.take("sync_response")["state"], json!({"a": 1}));
}

#[test]
fn a_ping_does_not_wait() {
    let server = Server::with().auth().start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.say("subscribe", json!({"documentId": "doc"}));
    client.say_as("p1", "ping", json!({}));
    assert_eq!(client.expect("pong")["id"], "p1");
}

#[test]
fn too_many_are_answered_with_an_error() {
    let server = Server::with().auth().start();
    let mut client = Client::connect(&server, Dialect::Json);
    for number in 0..80 {
        client.say_as(&format!("s{number}"), "subscribe", json!({"documentId": "doc"}));
    }
    client.take_error("NOT_AUTHENTICATED", "Not authenticated");
    client.fence();
    assert!(!client.ended(), "too many early messages do not end the connection");
}

#[test]
fn too_many_bytes_are_answered_with_an_error() {
    let server = Server::with().auth().start();
    let mut client = Client::connect(&server, Dialect::Json);
    let filler = "x".repeat(300_000);
    for _ in 0..5 {
        client.write("doc", json!({ "f": filler }));
    }
    client.take_error("NOT_AUTHENTICATED", "Not authenticated");
}

#[test]
fn whoever_never_authenticates_is_closed() {
    let server = Server::with().auth().env("SYNCKIT_AUTH_TIMEOUT_MS", 700).start();
    let mut client = Client::connect(&server, Dialect::Json);
    let began = Instant::now();
    client.say_as("s1", "subscribe", json!({"documentId": "doc"}));
    let error = client.take_error("NOT_AUTHENTICATED", "Not authenticated");
    assert_eq!((&error["id"], &error["requestId"]), (&json!("s1"), &json!("s1")));
    assert_eq!(client.expect_close(), (1008, "Authentication required".into()));
    assert!(
        began.elapsed() >= Duration::from_millis(650),
        "closed after {:?}",
        began.elapsed()
    );

    let mut silent = Client::connect(&server, Dialect::Sdk);
    assert_eq!(silent.expect_close(), (1008, "Authentication required".into()));
    let mut in_time = Client::connect(&server, Dialect::Json);
    in_time.authenticate(&token::admin());
    std::thread::sleep(Duration::from_millis(1_000));
    in_time.fence();
}

#[test]
fn after_a_failed_auth_nothing_that_waited_happens() {
    let server = Server::with().auth().start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write("doc", json!({"a": 1}));
    client.say("auth", json!({"token": "a.b.c"}));
    client.take("auth_error");
    client.expect_close();
    let mut reader = Client::connect(&server, Dialect::Json);
    reader.authenticate(&token::admin());
    assert_eq!(reader.sync("doc")["state"], json!({}));
}
