//! A raw TCP handler for the runtime tests, without WebSocket: echo, bulk sending, pausing and moving.
//!
//! The first byte of a connection chooses what it does (and is echoed like the rest, except for `B`):
//! `E` echoes; `P` echoes, pausing after every read for a millisecond; `M` echoes and moves to the next shard again and again;
//! `B` + length (u32, big-endian) sends so many patterned bytes; `X` is closed by the server at once; `K` makes the shard panic.

#![allow(dead_code, reason = "each test file uses its part")]

use bytes::Bytes;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use synckit_server::clock::Now;
use synckit_server::handler::{Effect, End, Flow, Handler, Outgoing};
use synckit_server::ids::{ShardId, Slot};

/// Backlog at which the echo stops reading.
const OUT_BYTES_MAX: usize = 4 << 20;
/// An `M` connection moves after so many bytes received on one shard.
const MOVE_AFTER_BYTES: usize = 20_000;

/// What the tests see of all handlers together.
#[derive(Debug, Default)]
pub struct Seen {
    pub accepted: AtomicU64,
    pub eof: AtomicU64,
    pub errors: AtomicU64,
    pub adopted: AtomicU64,
    pub pauses: AtomicU64,
    pub foreign_peers: AtomicU64,
    pub per_shard: [AtomicU64; 8],
    /// (receiver, sender, number), in order of arrival.
    pub mail: Mutex<Vec<(u16, u16, u64)>>,
}

/// One connection's state; travels when it moves.
#[derive(Debug, Default)]
pub struct Conn {
    mode: u8,
    header: Vec<u8>,
    out: VecDeque<Bytes>,
    out_bytes: usize,
    in_flight: usize,
    here_bytes: usize,
    paused: bool,
    resume_at_us: Option<u64>,
    moving: bool,
}

pub struct Echo {
    shard: ShardId,
    shards: u16,
    seen: Arc<Seen>,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    dirty: Vec<usize>,
    closing: Vec<usize>,
    sleepers: Vec<usize>,
    mail_out: Vec<(ShardId, u64)>,
    stopping: bool,
}

impl Echo {
    pub fn new(shard: ShardId, shards: u16, seen: Arc<Seen>) -> Self {
        Self {
            shard,
            shards,
            seen,
            conns: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            closing: Vec::new(),
            sleepers: Vec::new(),
            mail_out: Vec::new(),
            stopping: false,
        }
    }

    fn insert(&mut self, conn: Conn) -> usize {
        // Last freed first, so that slots are reused at once.
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        assert!(self.conns[index].is_none());
        self.conns[index] = Some(conn);
        index
    }

    fn remove(&mut self, index: usize) -> Conn {
        self.free.push(index);
        self.conns[index]
            .take()
            .expect("a slot without a connection was removed")
    }
}

impl Handler for Echo {
    type Mail = u64;
    type Moved = Conn;

    fn accepted(&mut self, _now: Now, peer: IpAddr) -> Option<Slot> {
        if self.stopping {
            return None;
        }
        self.seen.accepted.fetch_add(1, Relaxed);
        self.seen.per_shard[self.shard.index()].fetch_add(1, Relaxed);
        if !peer.is_loopback() {
            self.seen.foreign_peers.fetch_add(1, Relaxed);
        }
        Some(Slot(self.insert(Conn::default()) as u32))
    }

    fn adopted(&mut self, _now: Now, mut conn: Conn) -> Option<(Slot, Flow)> {
        self.seen.adopted.fetch_add(1, Relaxed);
        conn.moving = false;
        conn.here_bytes = 0;
        // What was given out before the move is not reported here.
        conn.in_flight = 0;
        let index = self.insert(conn);
        self.dirty.push(index);
        Some((Slot(index as u32), Flow::Continue))
    }

    fn received(&mut self, now: Now, slot: Slot, bytes: &mut [u8]) -> Flow {
        let index = slot.index();
        let conn = self.conns[index]
            .as_mut()
            .expect("bytes for a slot without a connection");
        assert!(!bytes.is_empty());
        assert!(!conn.paused, "bytes for a paused connection");
        if conn.mode == 0 {
            conn.mode = bytes[0];
        }
        match conn.mode {
            b'B' => {
                conn.header.extend_from_slice(bytes);
                if conn.header.len() >= 5 {
                    let len = u32::from_be_bytes(conn.header[1..5].try_into().unwrap()) as usize;
                    let all = Bytes::from(pattern(len));
                    for start in (0..len).step_by(50_000) {
                        conn.out.push_back(all.slice(start..len.min(start + 50_000)));
                    }
                    conn.out_bytes += len;
                    self.dirty.push(index);
                }
                return Flow::Continue;
            }
            b'K' => panic!("asked to by a test"),
            b'X' => {
                self.closing.push(index);
                return Flow::Pause;
            }
            _ => {}
        }
        conn.out.push_back(Bytes::copy_from_slice(bytes));
        conn.out_bytes += bytes.len();
        conn.here_bytes += bytes.len();
        self.dirty.push(index);
        if conn.mode == b'P' {
            conn.paused = true;
            conn.resume_at_us = Some(now.mono_us + 1000);
            self.sleepers.push(index);
            self.seen.pauses.fetch_add(1, Relaxed);
            return Flow::Pause;
        }
        if conn.mode == b'M' && self.shards > 1 && conn.here_bytes >= MOVE_AFTER_BYTES {
            conn.moving = true;
        }
        if conn.out_bytes > OUT_BYTES_MAX {
            conn.paused = true;
            return Flow::Pause;
        }
        Flow::Continue
    }

    fn ended(&mut self, _now: Now, slot: Slot, end: End) {
        match end {
            End::Eof => self.seen.eof.fetch_add(1, Relaxed),
            End::Error => self.seen.errors.fetch_add(1, Relaxed),
        };
        self.remove(slot.index());
    }

    fn take_outgoing(&mut self, slot: Slot, bytes_max: usize) -> Outgoing {
        let mut outgoing = Outgoing::new();
        let Some(conn) = self.conns[slot.index()].as_mut() else {
            return outgoing;
        };
        assert_eq!(conn.in_flight, 0, "asked for more while a send is in flight");
        while let Some(piece) = conn.out.front() {
            if conn.in_flight > 0 && conn.in_flight + piece.len() > bytes_max {
                break;
            }
            conn.in_flight += piece.len();
            outgoing.extend(conn.out.pop_front());
        }
        outgoing
    }

    fn sent(&mut self, _now: Now, slot: Slot, bytes: usize, done: bool) {
        let conn = self.conns[slot.index()]
            .as_mut()
            .expect("sent for a slot without a connection");
        assert!(bytes <= conn.in_flight);
        conn.in_flight -= bytes;
        assert_eq!(done, conn.in_flight == 0);
        conn.out_bytes -= bytes;
        if conn.mode != b'P' && conn.paused && conn.out_bytes < OUT_BYTES_MAX / 2 {
            conn.resume_at_us = Some(0);
            self.sleepers.push(slot.index());
        }
    }

    fn mail(&mut self, _now: Now, from: ShardId, mail: u64) {
        self.seen.mail.lock().unwrap().push((self.shard.0, from.0, mail));
        if from == ShardId::EXTERNAL {
            for to in (0..self.shards).map(ShardId).filter(|to| *to != self.shard) {
                self.mail_out.push((to, mail));
            }
        }
    }

    fn turn(&mut self, now: Now, effects: &mut Vec<Effect<u64, Conn>>) {
        assert!(effects.is_empty());
        effects.extend(self.mail_out.drain(..).map(|(to, mail)| Effect::Mail { to, mail }));
        for index in std::mem::take(&mut self.closing) {
            if self.conns[index].is_some() {
                effects.push(Effect::Close(Slot(index as u32)));
                self.remove(index);
            }
        }
        for index in std::mem::take(&mut self.dirty) {
            let slot = Slot(index as u32);
            let Some(conn) = &self.conns[index] else { continue };
            if conn.moving {
                let to = ShardId((self.shard.0 + 1) % self.shards);
                let mut session = self.remove(index);
                session.out_bytes = session.out.iter().map(Bytes::len).sum();
                effects.push(Effect::Move { slot, to, session });
            } else {
                effects.push(Effect::Write(slot));
            }
        }
        let mut sleepers = std::mem::take(&mut self.sleepers);
        sleepers.retain(|&index| {
            let Some(conn) = self.conns[index].as_mut() else {
                return false;
            };
            let Some(at) = conn.resume_at_us else { return false };
            if now.mono_us < at {
                return true;
            }
            conn.resume_at_us = None;
            conn.paused = false;
            effects.push(Effect::Resume(Slot(index as u32)));
            false
        });
        self.sleepers = sleepers;
    }

    fn deadline_us(&self) -> Option<u64> {
        self.sleepers
            .iter()
            .filter_map(|&index| self.conns[index].as_ref()?.resume_at_us)
            .min()
    }

    fn shut_down(&mut self, _now: Now) {
        self.stopping = true;
        self.closing
            .extend((0..self.conns.len()).filter(|&index| self.conns[index].is_some()));
    }

    fn is_drained(&self) -> bool {
        self.stopping && self.free.len() == self.conns.len()
    }
}

/// Bytes that betray any shift, loss or doubling.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}
