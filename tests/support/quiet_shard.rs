//! One real shard without sockets, thread or clock: whatever it sends is taken at once, and time passes only when told to.

#![allow(dead_code, reason = "each test file uses its part")]

use crate::bare_shard::{UNIX_MS, context};
use crate::support::token;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use synckit_server::clock::Now;
use synckit_server::handler::{Effect, Handler};
use synckit_server::ids::{ShardId, Slot};
use synckit_server::shard::{Shard, ShardEffect};

/// See the module documentation.
pub struct QuietShard {
    pub shard: Shard,
    now: Now,
    effects: Vec<ShardEffect>,
    pub connections: usize,
    /// Sends so far.
    pub answers: usize,
    /// What the last of them held.
    pub last_sent: Vec<u8>,
}

impl QuietShard {
    pub fn new(variables: &[(&str, &str)]) -> Self {
        let now = Now {
            mono_us: 1_000_000,
            unix_ms: UNIX_MS,
        };
        let shard = Shard::new(ShardId(0), context(variables, 1));
        Self {
            shard,
            now,
            effects: Vec::new(),
            connections: 0,
            answers: 0,
            last_sent: Vec::new(),
        }
    }

    /// Bytes of a client.
    pub fn receive(&mut self, slot: Slot, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.shard.received(self.now, slot, &mut bytes);
        self.turn();
    }

    /// One turn; what it sends is taken at once.
    pub fn turn(&mut self) {
        self.shard.turn(self.now, &mut self.effects);
        for effect in std::mem::take(&mut self.effects) {
            let slot = match effect {
                Effect::Write(slot) => slot,
                Effect::Close(_) => continue,
                other => panic!("unexpected: {other:?}"),
            };
            loop {
                let pieces = self.shard.take_outgoing(slot, 1 << 20);
                let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
                if bytes == 0 {
                    break;
                }
                self.answers += 1;
                self.last_sent = pieces.concat();
                self.shard.sent(self.now, slot, bytes, true);
            }
        }
    }

    /// Connects, authenticates if asked to, and subscribes to a document and its presence.
    pub fn connect(&mut self, own_token: bool, per_document: usize) -> Slot {
        let number = self.connections;
        self.connections += 1;
        self.now.mono_us += 50;
        let peer = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
        let slot = self.shard.accepted(self.now, peer).expect("room for a connection");
        self.receive(
            slot,
            b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let mut messages = Vec::new();
        if own_token {
            let mut claims = token::claims(&format!("user-{number}"), &["*"], &["*"], false);
            claims["exp"] = json!(UNIX_MS / 1000 + 86_400);
            messages.push(json!({"type": "auth", "id": "a", "timestamp": 1, "token": token::sign(&claims)}));
        }
        let document = format!("document-{}", number / per_document);
        for kind in ["subscribe", "awareness_subscribe"] {
            messages.push(json!({"type": kind, "id": kind, "timestamp": 1, "documentId": document}));
        }
        for message in messages {
            self.receive(slot, &masked_text(&message.to_string()));
        }
        slot
    }

    /// Lets time pass, with a turn now and then.
    pub fn pass(&mut self, time: Duration) {
        let step = time / 1000;
        for _ in 0..1000 {
            self.skip(step);
            self.turn();
        }
    }

    /// Lets time pass during which the shard gets no turn.
    pub fn skip(&mut self, time: Duration) {
        self.now.mono_us += time.as_micros() as u64;
        self.now.unix_ms += time.as_millis() as u64;
    }
}

fn masked_text(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(long).expect("short messages").to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}
