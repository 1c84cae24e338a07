//! A whole shard fed by up to four hostile connections: it never panics, says only well-formed things, and forgets
//! everybody once they are gone.

use crate::bare_shard::{QUIET_US, context, text_frame};
use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use synckit_server::clock::Now;
use synckit_server::handler::{Effect, End, Handler};
use synckit_server::ids::{ShardId, Slot};
use synckit_server::shard::Shard;
use synckit_server::shard::context::Context;

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

thread_local! {
    static CONTEXT: OnceCell<Arc<Context>> = const { OnceCell::new() };
}

/// Steps, one after the other: a byte that says what happens and to whom, and for bytes that arrive their length in two.
pub fn connections(data: &[u8]) {
    let context = CONTEXT.with(|made| {
        let variables = [("SYNCKIT_AUTH_REQUIRED", "false"), ("SYNCKIT_TEST_MODE", "true")];
        made.get_or_init(|| context(&variables, 1)).clone()
    });
    let mut world = World::new(context);
    let mut rest = data;
    while let Some((step, later)) = rest.split_first() {
        rest = later;
        let who = usize::from(step >> 6);
        match step % 8 {
            0 => world.connect(who),
            1..=3 => {
                let len = rest.first().copied().unwrap_or(0);
                let len = usize::from(len).min(rest.len().saturating_sub(1));
                let (bytes, later) = rest.get(1..).unwrap_or_default().split_at(len);
                rest = later;
                match step % 8 {
                    1 => world.receive(who, bytes),
                    2 => world.receive(who, &text_frame(&String::from_utf8_lossy(bytes))),
                    _ => world.receive(who, &binary_frame(bytes)),
                }
            }
            4 => world.pass(QUIET_US),
            5 => world.pass(31_000_000),
            6 => world.end(who),
            _ => world
                .peers
                .iter_mut()
                .flatten()
                .for_each(|peer| peer.reads = step & 8 == 0),
        }
        world.turn();
    }
    world.finish();
}

fn binary_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

struct Peer {
    slot: Slot,
    reads: bool,
    /// What it read; emptied as messages are checked.
    heard: Vec<u8>,
    is_websocket: bool,
}

pub(super) struct World {
    pub shard: Shard,
    pub now: Now,
    peers: [Option<Peer>; 4],
}

impl World {
    pub fn new(context: Arc<Context>) -> World {
        World {
            shard: Shard::new(ShardId(0), context),
            now: Now {
                mono_us: 3_600_000_000,
                unix_ms: 1_760_000_000_000,
            },
            peers: [const { None }; 4],
        }
    }

    pub fn connect(&mut self, who: usize) {
        if self.peers[who].is_some() {
            return;
        }
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, who as u8));
        let slot = self.shard.accepted(self.now, address).expect("there is room");
        self.peers[who] = Some(Peer {
            slot,
            reads: true,
            heard: Vec::new(),
            is_websocket: false,
        });
        self.receive(who, UPGRADE);
    }

    pub fn receive(&mut self, who: usize, bytes: &[u8]) {
        let Some(peer) = &self.peers[who] else {
            return;
        };
        let _ = self.shard.received(self.now, peer.slot, &mut bytes.to_vec());
    }

    pub fn end(&mut self, who: usize) {
        if let Some(peer) = self.peers[who].take() {
            self.shard.ended(self.now, peer.slot, End::Eof);
        }
    }

    /// Time passes as it does for a shard: it is asked whenever it said it has something to do.
    pub fn pass(&mut self, us: u64) {
        let until = self.now.mono_us + us;
        for _ in 0..64 {
            let due = self.shard.deadline_us().unwrap_or(u64::MAX).max(self.now.mono_us);
            if due > until {
                break;
            }
            self.set_time(due + 1);
            self.turn();
        }
        self.set_time(until.max(self.now.mono_us));
    }

    fn set_time(&mut self, mono_us: u64) {
        self.now.unix_ms += (mono_us - self.now.mono_us) / 1000;
        self.now.mono_us = mono_us;
    }

    pub fn turn(&mut self) {
        for _ in 0..8 {
            let mut effects = Vec::new();
            self.shard.turn(self.now, &mut effects);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Write(slot) => self.write(slot),
                    Effect::Close(slot) => {
                        let closed = self
                            .peers
                            .iter_mut()
                            .find(|peer| peer.as_ref().is_some_and(|p| p.slot == slot));
                        if let Some(closed) = closed {
                            *closed = None;
                        }
                    }
                    Effect::Resume(_) => {}
                    Effect::Mail { .. } | Effect::Move { .. } => panic!("there is one shard"),
                }
            }
        }
    }

    fn write(&mut self, slot: Slot) {
        let Some(peer) = self.peers.iter_mut().flatten().find(|peer| peer.slot == slot) else {
            return;
        };
        while peer.reads {
            let pieces = self.shard.take_outgoing(slot, 256 * 1024);
            if pieces.is_empty() {
                break;
            }
            let bytes = pieces.iter().map(|piece| piece.len()).sum();
            pieces.iter().for_each(|piece| peer.heard.extend_from_slice(piece));
            self.shard.sent(self.now, slot, bytes, true);
        }
        peer.hear();
    }

    pub fn finish(&mut self) {
        for who in 0..self.peers.len() {
            self.end(who);
        }
        self.pass(120_000_000);
        let mut effects = Vec::new();
        self.shard.shut_down(self.now);
        self.pass(10_000_000);
        self.shard.turn(self.now, &mut effects);
        assert!(self.shard.is_drained(), "somebody is not forgotten");
    }
}

impl Peer {
    /// Checks the complete frames that arrived: server frames are unmasked, unfragmented and carry well-formed messages.
    fn hear(&mut self) {
        if !self.is_websocket {
            let end = self.heard.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else {
                return;
            };
            assert!(self.heard.starts_with(b"HTTP/1.1 101"));
            self.heard.drain(..end + 4);
            self.is_websocket = true;
        }
        while let Some((first, len, at)) = header(&self.heard) {
            if self.heard.len() < at + len {
                return;
            }
            let payload: Vec<u8> = self.heard.drain(..at + len).skip(at).collect();
            match first {
                0x81 => assert!(is_json(&payload)),
                0x82 => {
                    let said = u32::from_be_bytes([payload[9], payload[10], payload[11], payload[12]]);
                    assert_eq!(said as usize, payload.len() - 13);
                    assert!(is_json(&payload[13..]));
                }
                0x88..=0x8a => assert!(payload.len() <= 125),
                other => panic!("a server frame that begins with {other:#x}"),
            }
        }
    }
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok()
}

/// First byte, payload length and where the payload begins.
fn header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "servers do not mask");
    Some(match second {
        126 => (first, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into(), 4),
        127 => (first, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize, 10),
        len => (first, len.into(), 2),
    })
}
