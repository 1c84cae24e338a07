//! Heartbeats (docs/protocol.md §14): protocol pings at the configured interval, any sign of life keeps a connection,
//! silence closes it with 1001, and the server never sends `ping` messages, which SDK clients do not answer.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::crowd::{Member, Received};
use support::{Client, Dialect, Server};

fn quick() -> Server {
    Server::with()
        .env("WS_HEARTBEAT_INTERVAL", 300)
        .env("WS_HEARTBEAT_TIMEOUT", 1_500)
        .start()
}

#[test]
fn a_client_that_answers_pings_stays() {
    let server = quick();
    let mut client = Client::connect(&server, Dialect::Sdk);
    assert!(
        client.next_within(Duration::from_secs(4)).is_none(),
        "no ping messages, only protocol pings"
    );
    assert!(!client.ended());
    assert!(client.pings >= 3, "{} pings in 4 s", client.pings);
    client.fence();
}

#[test]
fn a_client_that_sends_anything_stays() {
    let server = quick();
    let mut member = Member::connect(server.address());
    let began = Instant::now();
    // Never polled meanwhile, so it answers no ping.
    while began.elapsed() < Duration::from_secs(4) {
        member.send_text(r#"{"type":"ack","id":"a","timestamp":1,"messageId":"x"}"#);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(member.poll().is_empty(), "still connected, nothing to say");
}

#[test]
fn a_silent_client_is_closed() {
    let server = quick();
    let mut member = Member::connect(server.address());
    std::thread::sleep(Duration::from_millis(4_500));
    let received = member.poll();
    let closed = received
        .iter()
        .any(|it| matches!(it, Received::Close(1001, reason) if reason == "Heartbeat timeout"));
    assert!(closed, "{received:?}");
    assert!(
        received.iter().any(|it| matches!(it, Received::End)),
        "dropped soon after: {received:?}"
    );
}

#[test]
fn zero_switches_pings_off() {
    let server = Server::with().env("WS_HEARTBEAT_INTERVAL", 0).start();
    let mut client = Client::connect(&server, Dialect::Json);
    assert!(client.next_within(Duration::from_secs(2)).is_none());
    assert_eq!(client.pings, 0);
    client.fence();
}

#[test]
fn protocol_pings_of_the_client_are_answered() {
    let server = Server::start();
    let mut member = Member::connect(server.address());
    member.send(0x9, b"are you there");
    member.send_text(&json!({"type": "ping", "id": "p", "timestamp": 1}).to_string());
    member.wait_for("the pong message", |message| message.kind == "pong");
    // tungstenite checks that frames are valid; here only that the connection lives on after the pong frame.
    let mut client = Client::connect(&server, Dialect::Json);
    client.ping_socket();
    client.fence();
}
