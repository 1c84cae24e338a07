//! Everything that arrives in one go is handled in order and answered completely: bytes right behind the upgrade request,
//! many requests whose answers are larger than any queue, batches beyond a limit (docs/protocol.md §1, §4, §5.7, §21).
//! Each test sends the whole pipeline before it reads.

use test_support as support;

use serde_json::json;
use std::io::{Read, Write};
use std::time::Duration;
use support::crowd::{Member, Received};
use support::{Client, Dialect, PATIENCE, Server, Steady, eventually};

fn server(shards: usize) -> Server {
    Server::with()
        .shards(shards)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .without_heartbeats()
        .start()
}

/// A masked frame with a mask of zeroes.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn nothing_overtakes_the_answer_to_the_upgrade() {
    let server = server(2);
    for target in ["/ws", "/ws?doc=a", "/ws?doc=b", "/ws?doc=c"] {
        for behind in [frame(0x9, b"hi"), frame(0x1, br#"{"type":"ping","id":"p"}"#)] {
            let mut request = format!(
                "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            .into_bytes();
            request.extend_from_slice(&behind);
            let mut stream = Steady::connect(server.address(), PATIENCE).expect("the server accepts");
            stream.write_all(&request).expect("sent");
            let mut answer = Vec::new();
            let complete = |answer: &[u8]| {
                let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
                end.is_some_and(|end| answer.len() > end + 4 + 2)
            };
            while !complete(&answer) {
                let mut piece = [0; 512];
                let read = stream.read(&mut piece).expect("response and pong");
                assert!(read > 0, "closed");
                answer.extend_from_slice(&piece[..read]);
            }
            assert!(
                answer.starts_with(b"HTTP/1.1 101 "),
                "{:?}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
}

#[test]
fn pongs_come_in_the_order_of_the_pings() {
    let server = server(1);
    let mut member = Member::connect(server.address());
    let pings: Vec<u8> = (0..10u8).flat_map(|number| frame(0x9, &[b'0' + number])).collect();
    member.send_bytes(&pings);
    let mut pongs = Vec::new();
    eventually("ten pongs", || {
        pongs.extend(member.poll().into_iter().filter_map(|received| match received {
            Received::Pong(payload) => Some(payload),
            _ => None,
        }));
        (pongs.len() == 10).then_some(())
    });
    let expected: Vec<Vec<u8>> = (0..10u8).map(|number| vec![b'0' + number]).collect();
    assert_eq!(pongs, expected);
}

#[test]
fn answers_larger_than_the_queue_wait_for_the_reader() {
    for shards in [1, 2, 5] {
        let server = server(shards);
        let mut writer = Client::connect(&server, Dialect::Json);
        for document in 0..12 {
            writer.write_acked(&format!("large:{document}"), json!({"value": "x".repeat(1_500_000)}));
            writer.drain_for(Duration::from_millis(1));
        }
        let mut member = Member::connect(server.address());
        for document in 0..12 {
            for kind in ["subscribe", "awareness_subscribe"] {
                let request =
                    json!({"type": kind, "id": format!("{kind}{document}"), "documentId": format!("large:{document}")});
                member.send_text(&request.to_string());
            }
        }
        let mut answered = 0;
        eventually("every request is answered", || {
            answered += member.messages().len();
            (answered >= 24).then_some(())
        });
        member.send_text(r#"{"type":"ping","id":"after"}"#);
        member.wait_for("the pong", |message| message.kind == "pong");
    }
}

#[test]
fn a_reader_that_stalls_while_operations_are_relayed_is_closed_and_hurts_nobody() {
    for (shards, kind) in [(1, "counter"), (2, "richtext"), (2, "text")] {
        let mut server = server(shards);
        let mut stalled = Member::connect(server.address());
        stalled.send_text(r#"{"type":"subscribe","id":"s","documentId":"ops"}"#);
        stalled.wait_for("the snapshot", |message| message.kind == "sync_response");
        let mut healthy = Client::connect(&server, Dialect::Binary);
        healthy.subscribe("ops");
        let mut writer = Client::connect(&server, Dialect::Json);
        for round in 0..400 {
            let element = json!({"type": kind, "operation": "increment", "value": 1, "clientId": "w", "note": "y".repeat(50_000)});
            let id = writer.say("delta_batch", json!({"documentId": "ops", "deltas": [element]}));
            writer.take_ack(&id);
            if round % 20 == 0 {
                healthy.drain();
            }
        }
        healthy.drain();
        healthy.fence();
        server.assert_alive();
    }
}

#[test]
fn a_batch_beyond_the_subscription_limit_is_written_and_acknowledged_once() {
    let server = Server::with()
        .shards(2)
        .env("SYNCKIT_MAX_SUBSCRIPTIONS", 10)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    let elements: Vec<_> = (0..30)
        .map(|number| json!({"documentId": format!("d{number}"), "field": "f", "value": number}))
        .collect();
    let id = client.say("delta_batch", json!({"documentId": "d0", "deltas": elements}));
    client.take_ack(&id);
    let mut reader = Client::connect(&server, Dialect::Json);
    for number in [0, 5, 9] {
        assert_eq!(reader.sync(&format!("d{number}"))["state"], json!({"f": number}));
    }
    let mut reader = Client::connect(&server, Dialect::Json);
    for number in [10, 20, 29] {
        assert_eq!(
            reader.sync(&format!("d{number}"))["state"],
            json!({"f": number}),
            "written without subscription"
        );
    }
}
