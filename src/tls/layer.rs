//! The handler that runs on a core between the runtime and the shard.
//!
//! Invariants:
//! - A slot that the inner handler gave out has a [`Connection`] here until the runtime has been told to close it, was
//!   told that it ended, or moved it away.
//! - The inner handler hears of plaintext only, and counts plaintext: of a send in flight it hears the last byte when the
//!   kernel has taken all records of it.
//! - A handshake that stands still is ended by the inner handler's deadline for the first request, for it sees a
//!   connection on which nothing was sent.

use super::Certificates;
use super::connection::{Connection, Peer, RECORD_BYTES_MAX};
use crate::clock::Now;
use crate::handler::{Effect, End, Flow, Handler, Outgoing};
use crate::ids::{ShardId, Slot};
use bytes::Bytes;
use std::mem;
use std::net::IpAddr;

/// See the module documentation.
pub struct Layer<H: Handler> {
    inner: H,
    certificates: Certificates,
    connections: Vec<Option<Box<Connection>>>,
    /// Slots with records of our own to send.
    writable: Vec<Slot>,
    /// Slots whose connection ended here: the inner handler knows, the runtime does not yet.
    ended: Vec<Slot>,
    /// Slots that cannot send any more; ended in the next turn.
    failed: Vec<Slot>,
    /// Plaintext of one read, or of one record.
    plaintext: Vec<u8>,
    effects: Vec<Effect<H::Mail, H::Moved>>,
    now_us: u64,
}

/// What travels with a socket.
pub type Moved<M> = (M, Option<Box<Connection>>);

impl<H: Handler> Layer<H> {
    /// TLS around `inner`.
    pub fn new(inner: H, certificates: Certificates) -> Self {
        Self {
            inner,
            certificates,
            connections: Vec::new(),
            writable: Vec::new(),
            ended: Vec::new(),
            failed: Vec::new(),
            plaintext: Vec::new(),
            effects: Vec::new(),
            now_us: 0,
        }
    }

    fn at(&mut self, slot: Slot) -> Option<&mut Connection> {
        self.connections.get_mut(slot.index())?.as_deref_mut()
    }

    fn put(&mut self, slot: Slot, connection: Box<Connection>) {
        if slot.index() >= self.connections.len() {
            self.connections.resize_with(slot.index() + 1, || None);
        }
        self.connections[slot.index()] = Some(connection);
    }

    fn take(&mut self, slot: Slot) -> Option<Box<Connection>> {
        self.connections.get_mut(slot.index())?.take()
    }

    /// The connection ends by itself; the runtime hears of it at the end of the turn.
    fn end(&mut self, now: Now, slot: Slot, end: End) {
        if let Some(connection) = self.at(slot)
            && !mem::replace(&mut connection.is_over, true)
        {
            self.ended.push(slot);
            self.inner.ended(now, slot, end);
        }
    }

    fn translate(&mut self, effect: Effect<H::Mail, H::Moved>) -> Effect<H::Mail, Moved<H::Moved>> {
        match effect {
            Effect::Write(slot) => Effect::Write(slot),
            Effect::Close(slot) => Effect::Close(slot),
            Effect::Resume(slot) => Effect::Resume(slot),
            Effect::Mail { to, mail } => Effect::Mail { to, mail },
            Effect::Move { slot, to, session } => Effect::Move {
                slot,
                to,
                session: (session, self.take(slot)),
            },
        }
    }
}

impl<H: Handler> Handler for Layer<H> {
    type Mail = H::Mail;
    type Moved = Moved<H::Moved>;

    fn accepted(&mut self, now: Now, peer: IpAddr) -> Option<Slot> {
        // Fails only for a configuration that `Certificates` would not have taken.
        let connection = Connection::new(self.certificates.current()).ok()?;
        let slot = self.inner.accepted(now, peer)?;
        self.put(slot, Box::new(connection));
        Some(slot)
    }

    fn adopted(&mut self, now: Now, (session, connection): Self::Moved) -> Option<(Slot, Flow)> {
        let (slot, flow) = self.inner.adopted(now, session)?;
        if let Some(mut connection) = connection {
            connection.in_flight = 0;
            if !connection.pending.is_empty() {
                self.writable.push(slot);
            }
            self.put(slot, connection);
        }
        Some((slot, flow))
    }

    fn received(&mut self, now: Now, slot: Slot, bytes: &mut [u8]) -> Flow {
        let mut plaintext = mem::take(&mut self.plaintext);
        plaintext.clear();
        let Some(connection) = self.at(slot).filter(|connection| !connection.is_over) else {
            self.plaintext = plaintext;
            return Flow::Continue;
        };
        let outcome = connection.read(bytes, &mut plaintext);
        let has_records = !connection.pending.is_empty();
        if has_records && outcome.is_ok() {
            self.writable.push(slot);
        }
        let flow = match plaintext.is_empty() {
            true => Flow::Continue,
            false => self.inner.received(now, slot, &mut plaintext),
        };
        self.plaintext = plaintext;
        match outcome {
            Ok(Peer::Open) => {}
            Ok(Peer::Closed) => self.end(now, slot, End::Eof),
            Err(error) => {
                tracing::debug!(slot = slot.0, %error, "TLS");
                self.end(now, slot, End::Error);
            }
        }
        flow
    }

    fn ended(&mut self, now: Now, slot: Slot, end: End) {
        if self.take(slot).is_some_and(|connection| !connection.is_over) {
            self.inner.ended(now, slot, end);
        }
    }

    fn take_outgoing(&mut self, slot: Slot, bytes_max: usize) -> Outgoing {
        let connections = &mut self.connections;
        let Some(connection) = connections.get_mut(slot.index()).and_then(Option::as_deref_mut) else {
            return Outgoing::new();
        };
        if connection.is_over {
            return Outgoing::new();
        }
        let mut records = mem::take(&mut connection.pending);
        if connection.is_open() {
            let pieces = self.inner.take_outgoing(slot, bytes_max);
            connection.in_flight = pieces.iter().map(Bytes::len).sum();
            let encrypted = encrypt(connection, &pieces, &mut self.plaintext, &mut records);
            if encrypted.is_err() {
                self.failed.push(slot);
                return Outgoing::new();
            }
        }
        let mut outgoing = Outgoing::new();
        if !records.is_empty() {
            outgoing.push(records.into());
        }
        outgoing
    }

    fn sent(&mut self, now: Now, slot: Slot, bytes: usize, done: bool) {
        let Some(connection) = self.at(slot).filter(|connection| !connection.is_over) else {
            return;
        };
        if connection.in_flight == 0 {
            return;
        }
        // Records are longer than what they hold, so the last byte is kept back until all of them have left.
        let plain = match done {
            true => connection.in_flight,
            false => bytes.min(connection.in_flight - 1),
        };
        connection.in_flight -= plain;
        self.inner.sent(now, slot, plain, done);
    }

    fn mail(&mut self, now: Now, from: ShardId, mail: H::Mail) {
        self.inner.mail(now, from, mail);
    }

    fn turn(&mut self, now: Now, effects: &mut Vec<Effect<H::Mail, Self::Moved>>) {
        self.now_us = now.mono_us;
        while let Some(slot) = self.failed.pop() {
            self.end(now, slot, End::Error);
        }
        let mut inner = mem::take(&mut self.effects);
        self.inner.turn(now, &mut inner);
        effects.extend(inner.drain(..).map(|effect| self.translate(effect)));
        self.effects = inner;
        effects.extend(self.writable.drain(..).map(Effect::Write));
        effects.extend(self.ended.drain(..).map(Effect::Close));
    }

    fn deadline_us(&self) -> Option<u64> {
        if !self.writable.is_empty() || !self.ended.is_empty() || !self.failed.is_empty() {
            return Some(self.now_us);
        }
        self.inner.deadline_us()
    }

    fn farewell(&mut self, slot: Slot) -> Outgoing {
        let last = self.take(slot).map(|connection| connection.farewell());
        last.filter(|bytes| !bytes.is_empty())
            .into_iter()
            .map(Bytes::from)
            .collect()
    }

    fn shut_down(&mut self, now: Now) {
        self.inner.shut_down(now);
    }

    fn is_drained(&self) -> bool {
        self.inner.is_drained() && self.ended.is_empty()
    }
}

/// Appends `pieces` as records. `scratch` gathers what several pieces put into one record.
fn encrypt(
    connection: &mut Connection,
    pieces: &[Bytes],
    scratch: &mut Vec<u8>,
    records: &mut Vec<u8>,
) -> Result<(), ()> {
    scratch.clear();
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let fits = rest.len().min(RECORD_BYTES_MAX - scratch.len());
            scratch.extend_from_slice(&rest[..fits]);
            rest = &rest[fits..];
            if scratch.len() == RECORD_BYTES_MAX {
                connection.encrypt(scratch, records)?;
                scratch.clear();
            }
        }
    }
    if !scratch.is_empty() {
        connection.encrypt(scratch, records)?;
    }
    Ok(())
}
