//! Nothing a peer sends ends the process or disturbs another connection: random bytes, broken frames, absurd lengths,
//! invalid UTF-8, unmasked frames, half an HTTP request. A well-behaved client is served all the time.

use test_support as support;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use support::crowd::{Member, Received};
use support::{Client, Dialect, Server, Steady, frame};

#[test]
fn random_frames_and_messages_harm_nobody() {
    let mut server = Server::with()
        .shards(2)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start();
    let mut honest = Client::connect(&server, Dialect::Json);
    let mut random = StdRng::seed_from_u64(20);
    for round in 0..300 {
        let mut member = Member::connect(server.address());
        let mut noise = vec![0_u8; random.random_range(0..600)];
        random.fill(noise.as_mut_slice());
        match round % 4 {
            0 => member.send_bytes(&noise),
            1 => member.send_binary(&noise),
            2 => member.send_binary(&frame::encode(random.random(), random.random(), &noise)),
            _ => member.send(0x1, &noise),
        }
        if round % 3 == 0 {
            member.poll();
        }
        if round % 20 == 0 {
            honest.write_acked("safe", json!({ "round": round }));
        }
    }
    assert_eq!(honest.sync("safe")["state"], json!({"round": 280}));
    server.assert_alive();
}

#[test]
fn headers_that_lie_about_their_length() {
    let mut server = Server::start();
    for length in [u32::MAX, u32::MAX - 13, 0x8000_0000, 0x7FFF_FFFF, 22] {
        let mut client = Client::connect(&server, Dialect::Binary);
        let mut bytes = frame::encode(0x10, 1, br#"{"documentId":"doc1"}"#);
        bytes[9..13].copy_from_slice(&length.to_be_bytes());
        client.send_binary(bytes);
        client.take_error("INVALID_MESSAGE", "Invalid message format");
        client.fence();
    }
    let mut client = Client::connect(&server, Dialect::Binary);
    for length in 0..13 {
        client.send_binary(vec![0x10; length]);
        client.take_error("INVALID_MESSAGE", "Invalid message format");
    }
    for payload in [
        &b"[]"[..],
        b"5",
        b"\"x\"",
        b"{",
        b"{}x",
        b"\xFF\xFE",
        b"{\"a\":1,}",
        b"{'a':1}",
    ] {
        client.send_frame(0x30, 1, payload);
        client.take_error("INVALID_MESSAGE", "Invalid message format");
        client.fence();
    }
    // Invalid UTF-8 inside a string may be refused or replaced.
    client.send_frame(0x30, 1, b"{\"a\":\"\xC3\x28\"}");
    client.take_where("pong or error", |message| {
        matches!(message.kind.as_str(), "pong" | "error")
    });
    client.fence();
    server.assert_alive();
}

#[test]
fn timestamps_of_every_kind_are_accepted() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Binary);
    for timestamp in [0, -1, i64::MIN, i64::MAX, 1] {
        client.send_frame(0x30, timestamp, b"{}");
        client.take("pong");
    }
    for timestamp in ["-1", "1e308", "\"text\"", "null", "1.5"] {
        client.send_frame(
            0x20,
            1,
            format!(r#"{{"id":"t","documentId":"doc","field":"f","value":1,"timestamp":{timestamp}}}"#).as_bytes(),
        );
        client.take_ack("t");
    }
}

#[test]
fn invalid_utf8_in_a_text_message_ends_only_that_connection() {
    let mut server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    let mut member = Member::connect(server.address());
    member.send(0x1, b"{\"type\":\"ping\",\"id\":\"\xFF\"}");
    let ended = support::eventually("the connection ends", || {
        member.poll().into_iter().find(|it| !matches!(it, Received::Message(_)))
    });
    assert!(matches!(ended, Received::Close(1007, _)), "{ended:?}");
    client.fence();
    server.assert_alive();
}

#[test]
fn violations_of_the_websocket_protocol_end_the_connection() {
    let server = Server::start();
    let unmasked = [0x81, 0x02, b'{', b'}'];
    let reserved = [0xF1, 0x80, 0, 0, 0, 0];
    let unknown_opcode = [0x83, 0x80, 0, 0, 0, 0];
    let long_ping = [0x89, 0x80 | 126, 0, 200, 0, 0, 0, 0];
    let fragmented_ping = [0x09, 0x80, 0, 0, 0, 0];
    let lone_continuation = [0x80, 0x80, 0, 0, 0, 0];
    for violation in [
        &unmasked[..],
        &reserved,
        &unknown_opcode,
        &long_ping,
        &fragmented_ping,
        &lone_continuation,
    ] {
        let mut member = Member::connect(server.address());
        member.send_bytes(violation);
        let ended = support::eventually("the connection ends", || {
            member.poll().into_iter().find(|it| !matches!(it, Received::Message(_)))
        });
        if let Received::Close(code, _) = ended {
            assert_eq!(code, 1002, "{violation:?}");
        }
    }
}

#[test]
fn unfinished_and_odd_requests_do_not_tie_the_server_up() {
    let mut server = Server::with().shards(1).start();
    let mut open = Vec::new();
    for beginning in [
        "",
        "G",
        "GET /ws HTTP/1.1\r\nHost: x\r\n",
        "GET /health HT",
        "\r\n\r\n",
        "\0\0\0\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address()).expect("accepted");
        stream.write_all(beginning.as_bytes()).expect("sent");
        open.push(stream);
    }
    let mut endless = Steady::connect(server.address(), support::PATIENCE).expect("accepted");
    endless.write_all(b"GET /health HTTP/1.1\r\n").expect("sent");
    let line = format!("X-Filler: {}\r\n", "x".repeat(1_000));
    let refused = (0..2_000).any(|_| endless.write_all(line.as_bytes()).is_err());
    if !refused {
        let mut answer = [0; 12];
        match endless.read(&mut answer) {
            Ok(0) => {}
            Ok(_) => assert!(answer.starts_with(b"HTTP/1.1 4"), "2 MB of headers: {answer:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "2 MB of headers"),
        }
    }
    server.assert_alive();
}

#[test]
fn upgrades_that_are_not_quite_right_are_refused() {
    let server = Server::start();
    let upgrade = |lines: &str| {
        support::http::exchange(
            server.address(),
            format!("GET /ws HTTP/1.1\r\nHost: x\r\n{lines}\r\n").as_bytes(),
        )
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let plain = upgrade("");
    assert_eq!((plain.status, plain.text().trim()), (400, "WebSocket connections only"));
    let no_key = upgrade("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
    assert!((400..500).contains(&no_key.status), "{no_key:?}");
    let old = upgrade(&format!(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n{key}"
    ));
    assert!([400, 426].contains(&old.status), "{old:?}");
    let good = upgrade(&format!(
        "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n{key}"
    ));
    assert_eq!(good.status, 101);
    assert_eq!(
        good.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(good.header("sec-websocket-protocol"), None);
}

#[test]
fn connections_cut_at_any_moment_leave_nothing_behind() {
    let mut server = Server::with().shards(3).start();
    for round in 0..200 {
        let mut member = Member::connect(server.address());
        let text =
            json!({"type": "delta", "id": "x", "documentId": format!("cut:{}", round % 7), "delta": {"n": round}})
                .to_string();
        member.send_text(&text);
        if round % 2 == 0 {
            member.send_bytes(&[0x81, 0xFE]);
        }
        member.stream().shutdown(Shutdown::Both).expect("open until now");
    }
    support::eventually("all connections are forgotten", || {
        let connections = server.get("/health").json()["connections"]["totalConnections"].clone();
        (connections == 0).then_some(())
    });
    server.assert_alive();
}
