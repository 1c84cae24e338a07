//! Message sizes (docs/protocol.md §17): over the soft limit an error that names both numbers and an open connection,
//! batches may be larger, over the hard limit close 1009 while the message is still coming in, and less before
//! authentication.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::crowd::{Member, Received};
use support::{Client, Dialect, Server};

fn limited() -> support::ServerBuilder {
    Server::with()
        .env("SYNCKIT_MAX_MESSAGE_SIZE", 10_000)
        .env("SYNCKIT_MAX_BATCH_SIZE", 50_000)
        .env("SYNCKIT_MAX_FRAME_SIZE", 100_000)
}

fn delta_of(bytes: usize) -> String {
    let empty = r#"{"type":"delta","id":"d","timestamp":1,"documentId":"doc","delta":{"f":""}}"#;
    empty.replace(r#""f":"""#, &format!(r#""f":"{}""#, "x".repeat(bytes - empty.len())))
}

#[test]
fn the_soft_limit_is_exact_and_keeps_the_connection() {
    let server = limited().start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.greet();
    client.send_text(&delta_of(10_000));
    client.take_ack("d");
    client.send_text(&delta_of(10_001));
    client.take_error("INVALID_MESSAGE", "Message too large (10001 bytes, max 10000)");
    client.fence();

    let mut binary = Client::connect(&server, Dialect::Binary);
    let payload = json!({"documentId": "doc", "delta": {"f": "x".repeat(11_000)}}).to_string();
    binary.send_frame(0x20, 1, payload.as_bytes());
    let text = format!("Message too large ({} bytes, max 10000)", payload.len() + 13);
    binary.take_error("INVALID_MESSAGE", &text);
}

#[test]
fn batches_may_be_larger() {
    let server = limited().start();
    for dialect in [Dialect::Json, Dialect::Sdk, Dialect::Goc] {
        let mut client = Client::connect(&server, dialect);
        let batch = |bytes: usize| {
            json!({"documentId": "doc", "messageId": format!("b{bytes}"),
                "deltas": [{"field": "f", "value": "x".repeat(bytes)}]})
        };
        client.say("delta_batch", batch(40_000));
        client.take_ack("b40000");
        client.say("delta_batch", batch(60_000));
        let error = client.take("error");
        let text = error["error"].as_str().expect("a text");
        assert!(
            text.starts_with("Message too large (") && text.ends_with("bytes, max 50000)"),
            "{text}"
        );
        client.fence();
    }
}

fn wait_for_close(member: &mut Member) -> (u16, String) {
    let deadline = Instant::now() + support::PATIENCE;
    while Instant::now() < deadline {
        match member.poll().into_iter().next() {
            Some(Received::Close(code, reason)) => return (code, reason),
            Some(Received::End) => panic!("ended without a close frame"),
            Some(Received::Message(message)) => panic!("{}: {}", message.kind, message.body),
            Some(Received::Pong(_)) | None => {}
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not closed");
}

fn announce(first: u8, bytes: u64) -> Vec<u8> {
    let mut header = vec![first];
    match u16::try_from(bytes) {
        Ok(short) => {
            header.push(0x80 | 126);
            header.extend_from_slice(&short.to_be_bytes());
        }
        Err(_) => {
            header.push(0x80 | 127);
            header.extend_from_slice(&bytes.to_be_bytes());
        }
    }
    header.extend_from_slice(&[1, 2, 3, 4]);
    header
}

#[test]
fn the_hard_limit_closes_while_the_message_comes_in() {
    let server = limited().start();
    let mut member = Member::connect(server.address());
    // The header announces too much: no need to wait for the rest, nor to make room for it.
    member.send_bytes(&announce(0x82, 100_001));
    member.send_bytes(&[0; 100]);
    assert_eq!(wait_for_close(&mut member), (1009, "Message too large".into()));

    let mut member = Member::connect(server.address());
    member.send_bytes(&announce(0x82, u64::from(u32::MAX) * 1000));
    // Lengths that no message can have may also count as a violation of RFC 6455.
    assert!([1002, 1009].contains(&wait_for_close(&mut member).0));
}

#[test]
fn fragments_are_added_up() {
    let server = limited().start();
    let mut member = Member::connect(server.address());
    for (index, first) in [0x02, 0x00, 0x00].into_iter().enumerate() {
        member.send_bytes(&announce(first, 40_000));
        if index < 2 {
            member.send_bytes(&vec![0; 40_000]);
        }
    }
    assert_eq!(wait_for_close(&mut member), (1009, "Message too large".into()));
}

#[test]
fn fragments_of_an_honest_message_are_put_together() {
    let server = Server::start();
    let mut member = Member::connect(server.address());
    let text = br#"{"type":"ping","id":"in pieces","timestamp":1}"#;
    let mut wire = Vec::new();
    for (index, piece) in text.chunks(7).enumerate() {
        let is_last = (index + 1) * 7 >= text.len();
        wire.push(if is_last { 0x80 } else { 0 } | u8::from(index == 0));
        wire.push(0x80 | piece.len() as u8);
        wire.extend_from_slice(&[0; 4]);
        wire.extend_from_slice(piece);
        // A control frame may stand between fragments.
        if index == 2 {
            wire.extend_from_slice(&[0x89, 0x80, 0, 0, 0, 0]);
        }
    }
    for byte in wire {
        member.send_bytes(&[byte]);
    }
    let pong = member.wait_for("the pong", |message| message.kind == "pong");
    assert_eq!(pong["id"], "in pieces");
}

#[test]
fn less_is_allowed_before_authentication() {
    let server = Server::with().auth().start();
    let mut member = Member::connect(server.address());
    member.send_bytes(&announce(0x81, 1024 * 1024 + 1));
    assert_eq!(wait_for_close(&mut member), (1009, "Message too large".into()));
}

#[test]
fn a_document_that_grows_too_large_is_refused() {
    let server = Server::with().env("SYNCKIT_MAX_DOC_SIZE", 5_000).start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("doc", json!({"small": "x".repeat(1_000)}));
    client.write("doc", json!({"a": 1, "big": "x".repeat(6_000)}));
    client.take_error("LIMIT_EXCEEDED", "Document too large");
    assert_eq!(
        client.sync("doc")["state"],
        json!({"small": "x".repeat(1_000)}),
        "all fields or none"
    );
    client.write_acked("doc", json!({"small": 1}));
}

#[test]
fn field_names_and_subscriptions_have_limits() {
    let server = Server::with().env("SYNCKIT_MAX_SUBSCRIPTIONS", 3).start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("doc", json!({ "n".repeat(1_024): 1 }));
    client.write("doc", json!({ "n".repeat(1_025): 1 }));
    client.take_error("LIMIT_EXCEEDED", "Field name too long");
    client.subscribe("two");
    client.subscribe("three");
    client.subscribe("three");
    client.say("subscribe", json!({"documentId": "four"}));
    let error = client.take_error("LIMIT_EXCEEDED", "Too many subscriptions");
    assert_eq!(error["details"]["max"], 3, "{}", error.body);
}

#[test]
fn a_server_with_all_the_documents_it_may_have_refuses_new_ones() {
    let server = Server::with().env("SYNCKIT_MAX_MEMORY_DOCS", 1).start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("first", json!({"a": 1}));
    for (kind, fields) in [
        ("subscribe", json!({"documentId": "second"})),
        ("delta", json!({"documentId": "second", "delta": {"a": 1}})),
        ("awareness_subscribe", json!({"documentId": "second"})),
        (
            "awareness_update",
            json!({"documentId": "second", "clientId": "c", "state": {}, "clock": 1}),
        ),
    ] {
        let id = client.say(kind, fields);
        let error = client.take_error("LIMIT_EXCEEDED", "Maximum 1 documents in memory reached");
        assert_eq!(error["id"], id, "{kind}: {}", error.body);
    }
    client.write_acked("first", json!({"a": 2}));
}
