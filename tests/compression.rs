//! Compression is off unless `WS_COMPRESSION=on`, agreed on strictly, kept from no message to the next, and no weapon: a
//! compressed client converges with a plain one, the traffic of a text document shrinks at least twelve times, and bombs,
//! cut streams, references to earlier messages and misplaced marks end the connection with the right code while the server
//! goes on. Clients here speak raw frames and flate2.

use test_support as support;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::time::Instant;
use support::{PATIENCE, Server, Steady};

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A frame as it came: first byte, payload, bytes on the wire.
struct Frame {
    head: u8,
    payload: Vec<u8>,
    wire_bytes: usize,
}

struct Raw {
    stream: Steady,
    inbound: Vec<u8>,
    agreed: Option<String>,
    received_bytes: usize,
}

impl Raw {
    fn connect(server: &Server, offer: Option<&str>) -> Raw {
        let mut stream = Steady::connect(server.address(), PATIENCE).expect("the server accepts");
        let line = offer.map_or_else(String::new, |offer| format!("Sec-WebSocket-Extensions: {offer}\r\n"));
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{line}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut raw = Raw {
            stream,
            inbound: Vec::new(),
            agreed: None,
            received_bytes: 0,
        };
        let end = loop {
            if let Some(end) = raw.inbound.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(raw.fill(), "closed during the upgrade");
        };
        let answer = String::from_utf8(raw.inbound.drain(..end).collect()).expect("text");
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        raw.agreed = answer
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ").map(str::to_owned));
        raw
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 65_536];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(read) => {
                self.inbound.extend_from_slice(&piece[..read]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing arrives: {error}"),
        }
    }

    fn frame(&mut self, head: u8, payload: &[u8]) {
        let mut frame = vec![head];
        match payload.len() {
            short @ 0..=125 => frame.push(0x80 | short as u8),
            medium @ 126..=0xffff => {
                frame.push(0xfe);
                frame.extend_from_slice(&(medium as u16).to_be_bytes());
            }
            long => {
                frame.push(0xff);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).expect("sent");
    }

    fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((&[head, len], rest)) = self.inbound.split_first_chunk::<2>() {
                let (len, extra) = match len {
                    126 => (rest.get(..2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]]))), 2),
                    127 => (rest.first_chunk::<8>().map(|b| u64::from_be_bytes(*b) as usize), 8),
                    short => (Some(usize::from(short)), 0),
                };
                if let Some(len) = len
                    && rest.len() >= extra + len
                {
                    let payload = rest[extra..extra + len].to_vec();
                    self.inbound.drain(..2 + extra + len);
                    self.received_bytes += 2 + extra + len;
                    return Some(Frame {
                        head,
                        payload,
                        wire_bytes: 2 + extra + len,
                    });
                }
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The next message, inflated if it is marked, and the frame's size on the wire.
    fn message(&mut self) -> (Value, usize, bool) {
        loop {
            let frame = self.next_frame().expect("the connection is open");
            assert_ne!(frame.head & 0x0f, 8, "closed: {:?}", frame.payload);
            if frame.head & 0x0f == 1 {
                let is_deflated = frame.head & 0x40 != 0;
                let text = if is_deflated {
                    inflate(&frame.payload)
                } else {
                    frame.payload
                };
                let value = serde_json::from_slice(&text).expect("JSON");
                return (value, frame.wire_bytes, is_deflated);
            }
        }
    }

    fn wait_for(&mut self, kind: &str) -> (Value, usize, bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.message();
            assert_ne!(found.0["type"], "error", "{}", found.0);
            if found.0["type"] == kind {
                return found;
            }
            assert!(Instant::now() < deadline, "no {kind}");
        }
    }

    fn send(&mut self, message: &Value) {
        self.frame(0x81, message.to_string().as_bytes());
    }

    fn subscribe(&mut self, document: &str) {
        self.send(&json!({"type": "subscribe", "id": "s", "timestamp": 1, "documentId": document}));
        self.wait_for("sync_response");
    }

    /// The code the server closes with.
    fn close_code(&mut self) -> u16 {
        while let Some(frame) = self.next_frame() {
            if frame.head == 0x88 {
                return u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
            }
        }
        panic!("the connection ended without a close frame");
    }
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(text.len() + 1024);
    compress
        .compress_vec(text, &mut out, FlushCompress::Sync)
        .expect("room enough");
    out.truncate(out.len() - 4);
    out
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut inflate = Decompress::new(false);
    let mut out = Vec::with_capacity(8 << 20);
    inflate
        .decompress_vec(&input, &mut out, FlushDecompress::Sync)
        .expect("what the server compresses is a deflate stream");
    assert_eq!(inflate.total_in() as usize, input.len(), "all of it");
    out
}

fn compressing() -> Server {
    Server::with().env("WS_COMPRESSION", "on").start()
}

#[test]
fn it_is_agreed_on_only_when_switched_on_and_properly_offered() {
    let off = Server::start();
    assert_eq!(Raw::connect(&off, Some(OFFER)).agreed, None);
    let server = compressing();
    assert_eq!(Raw::connect(&server, None).agreed, None);
    assert_eq!(Raw::connect(&server, Some(OFFER)).agreed.as_deref(), Some(AGREED));
    let narrow = Raw::connect(&server, Some("permessage-deflate; server_max_window_bits=10"));
    assert_eq!(narrow.agreed, Some(format!("{AGREED}; server_max_window_bits=10")));
    let odd = "permessage-deflate; server_max_window_bits=99";
    let mut declined = Raw::connect(&server, Some(odd));
    assert_eq!(declined.agreed, None);
    declined.subscribe("plain");
}

#[test]
fn compressed_plain_and_narrow_clients_share_a_document() {
    let server = compressing();
    let mut clients = [
        Raw::connect(&server, Some(OFFER)),
        Raw::connect(&server, None),
        Raw::connect(&server, Some("permessage-deflate; server_max_window_bits=9")),
    ];
    for client in &mut clients {
        client.subscribe("shared");
    }
    let value = "All work and no play. ".repeat(400);
    let write = json!({"type": "delta", "id": "w", "timestamp": 1, "documentId": "shared", "delta": {"field": value}});
    // In two frames with a ping between them.
    let payload = deflate(write.to_string().as_bytes());
    let (first, second) = payload.split_at(payload.len() / 2);
    clients[0].frame(0x41, first);
    clients[0].frame(0x89, b"still here");
    clients[0].frame(0x80, second);
    clients[0].wait_for("ack");
    for (client, compressed) in clients[1..].iter_mut().zip([false, true]) {
        let (delta, bytes, is_deflated) = client.wait_for("delta");
        assert_eq!(delta["value"], value);
        assert_eq!(is_deflated, compressed);
        assert_eq!(bytes < 1000, compressed, "{bytes} bytes");
    }
    let mut late = Raw::connect(&server, Some(OFFER));
    late.send(&json!({"type": "subscribe", "id": "s", "timestamp": 1, "documentId": "shared"}));
    let (answer, bytes, _) = late.wait_for("sync_response");
    assert_eq!(answer["state"]["field"], value);
    assert!(bytes < 1000, "{bytes} bytes for the snapshot");
    // Small messages are left alone.
    late.send(&json!({"type": "ping", "id": "p", "timestamp": 1}));
    assert!(!late.wait_for("pong").2);
}

/// A text typed key by key by the client that the SDK would call this.
fn typed(keys: usize) -> String {
    let client = "client-1700000000000-abcdefg";
    let id = |clock: usize| json!({"client_id": client, "clock": clock, "offset": 0});
    let block = |clock: usize| {
        let left = if clock == 1 { Value::Null } else { id(clock - 1) };
        let letter = b"the quick brown fox jumps over the lazy dog "[clock % 44] as char;
        json!([id(clock), {"id": id(clock), "text": letter.to_string(), "left_origin": left, "right_origin": null, "deleted": false}])
    };
    let blocks: Vec<Value> = (1..=keys).map(block).collect();
    json!({"blocks": blocks, "clock": {"value": keys}, "client_id": client}).to_string()
}

#[test]
fn the_traffic_of_a_text_shrinks() {
    let server = compressing();
    let mut writer = Raw::connect(&server, None);
    let mut listeners = [Raw::connect(&server, None), Raw::connect(&server, Some(OFFER))];
    for listener in &mut listeners {
        listener.subscribe("text");
        listener.received_bytes = 0;
    }
    for keys in (20..=600).step_by(58) {
        let element = json!({"type": "text-state", "state": typed(keys), "documentId": "text", "clientId": "c", "timestamp": keys, "clock": {"c": keys}});
        writer.send(
            &json!({"type": "delta_batch", "id": "w", "timestamp": 1, "documentId": "text", "deltas": [element]}),
        );
        writer.wait_for("ack");
        let states = listeners.each_mut().map(|listener| {
            let (batch, _, _) = listener.wait_for("delta_batch");
            batch["deltas"][0]["state"].clone()
        });
        assert_eq!(states[0], states[1]);
    }
    let [plain, compressed] = listeners.map(|listener| listener.received_bytes);
    let times = plain as f64 / compressed as f64;
    println!("a text of up to 600 keystrokes: {plain} B plain, {compressed} B compressed, {times:.1} times less");
    assert!(times >= 12.0, "only {times:.1} times less");
}

#[test]
fn what_must_not_be_ends_the_connection() {
    let mut server = compressing();
    let message = deflate(br#"{"type":"ping","id":"p","timestamp":1}"#);
    let (half, rest) = message.split_at(10);
    type Attack<'a> = (&'a str, u16, Vec<(u8, Vec<u8>)>);
    let bomb = deflate(&vec![b' '; 40 << 20]);
    let mut earlier = Compress::new(Compression::default(), false);
    let text = br#"{"type":"ping","id":"0123456789abcdefghijklmnopqrstuvwxyz","timestamp":1}"#;
    let mut parts = [Vec::with_capacity(4096), Vec::with_capacity(4096)];
    for part in &mut parts {
        earlier.compress_vec(text, part, FlushCompress::Sync).expect("room");
        part.truncate(part.len() - 4);
    }
    let [before, refers] = parts;
    let attacks: Vec<Attack<'_>> = vec![
        (
            "a mark on a continuation",
            1002,
            vec![(0x41, half.to_vec()), (0xc0, rest.to_vec())],
        ),
        ("a mark on a ping", 1002, vec![(0xc9, b"x".to_vec())]),
        (
            "a mark on a ping within a message",
            1002,
            vec![(0x41, half.to_vec()), (0xc9, b"x".to_vec())],
        ),
        ("another reserved bit", 1002, vec![(0xa1, message.clone())]),
        ("a bomb", 1009, vec![(0xc1, bomb.clone())]),
        (
            "a bomb in pieces",
            1009,
            vec![(0x41, bomb[..20_000].to_vec()), (0x80, bomb[20_000..].to_vec())],
        ),
        ("a cut stream", 1007, vec![(0xc1, half.to_vec())]),
        ("nothing at all", 1007, vec![(0xc1, Vec::new())]),
        ("noise", 1007, vec![(0xc1, vec![0xff; 300])]),
        ("an earlier message", 1007, vec![(0xc1, before), (0xc1, refers)]),
        ("no UTF-8", 1007, vec![(0xc1, deflate(&[0xff, 0xfe]))]),
    ];
    for (name, code, frames) in attacks {
        let mut raw = Raw::connect(&server, Some(OFFER));
        for (head, payload) in frames {
            raw.frame(head, &payload);
        }
        assert_eq!(raw.close_code(), code, "{name}");
    }
    let mut plain = Raw::connect(&server, None);
    plain.frame(0xc1, &message);
    assert_eq!(plain.close_code(), 1002, "compressed without having agreed");
    let rss = server.rss_kib();
    assert!(rss < 400 << 10, "{rss} KiB after the bombs");
    server.assert_alive();
}
