//! The connections of one shard: what each one's socket state means, independent of the socket layer.
//!
//! A connection at rest is one [`Entry`] in a table indexed by the handler's slot, and nothing else. Work is kept in two
//! queues of keys (to read, to write) that are worked off in batches.
//!
//! Invariants:
//! - A slot's generation rises whenever its socket goes. Events and queued work carry the generation they were made
//!   for, so nothing of a former socket reaches the next one in its slot.
//! - Reads and writes finish within [`Sockets::receive`] and [`Sockets::send`], so at any other time no send is in flight
//!   and nothing borrowed from a connection is known to the kernel.
//! - A socket is in at most one of: the table, a departure, a parcel.

use super::mesh::{Letter, Mesh, Parcel};
use super::sockets::{BATCH, CHUNK_BYTES, Event, Handle, Key, Readiness, Received, Sending, Sockets, Transit};
use super::stats::{self, ShardStats};
use crate::clock::Now;
use crate::handler::{Effect, End, Flow, Handler, Outgoing};
use crate::ids::{ShardId, Slot};
use std::collections::VecDeque;
use std::io;
use std::mem;

/// Bytes asked of a handler for one send. Enough to fill a socket buffer in few calls, little enough that the unsent
/// rest of a slow reader stays small.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// Slots a handler may use; `SessionRef` has 24 bits for them.
const SLOTS_MAX: usize = 1 << 24;

/// A connection as the runtime sees it: 16 bytes, and a box only while the kernel refuses more bytes.
struct Entry {
    handle: Handle,
    flags: u16,
    generation: u16,
    /// What the handler has given out and the kernel not yet taken.
    unsent: Option<Box<Outgoing>>,
}

const _: () = assert!(Key::GENERATION_BITS == u16::BITS);
const _: () = assert!(mem::size_of::<Entry>() <= 16);

const OCCUPIED: u16 = 1;
/// The handler wants no bytes.
const PAUSED: u16 = 1 << 1;
/// There may be bytes that no event will announce again.
const READABLE: u16 = 1 << 2;
const READ_QUEUED: u16 = 1 << 3;
const WRITE_QUEUED: u16 = 1 << 4;
/// The kernel takes no more; an event will say when it does.
const BLOCKED: u16 = 1 << 5;
/// The end of the stream is near: read until it is met.
const HANGUP: u16 = 1 << 6;
/// The unsent bytes were given out by a former shard's handler, so this one is not told of them.
const INHERITED: u16 = 1 << 7;

impl Entry {
    const VACANT: Entry = Entry {
        handle: Handle::NONE,
        flags: 0,
        generation: 0,
        unsent: None,
    };

    fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn handle(&self) -> Handle {
        self.handle
    }

    fn key(&self, slot: Slot) -> Key {
        Key {
            slot,
            generation: u32::from(self.generation),
        }
    }

    fn has(&self, key: Key) -> bool {
        self.is(OCCUPIED) && u32::from(self.generation) == key.generation
    }
}

/// A socket on its way out. Letters to the same shard that were sent later wait behind it.
struct Departure<S> {
    to: ShardId,
    /// Its position in all that was ever queued for that shard.
    place: u64,
    parcel: Box<Parcel<S>>,
}

/// What waits to be posted to one shard.
enum Posting<M, S> {
    Ready(Letter<M, S>),
    /// The place of a socket that has not left yet.
    Awaiting,
}

/// What waits to be posted to one shard, in order.
struct Outbound<M, S> {
    postings: VecDeque<Posting<M, S>>,
    /// How many postings have left the front since the start.
    posted: u64,
}

impl<M, S> Outbound<M, S> {
    fn next_place(&self) -> u64 {
        self.posted + self.postings.len() as u64
    }
}

/// One shard's connections over the socket layer `L`.
pub(super) struct Engine<H: Handler, L> {
    shard: ShardId,
    sockets: L,
    entries: Vec<Entry>,
    open: usize,
    to_read: VecDeque<Key>,
    to_write: VecDeque<Key>,
    departures: Vec<Option<Departure<H::Moved>>>,
    tickets_free: Vec<u32>,
    outbound: Vec<Outbound<H::Mail, H::Moved>>,
    events: Vec<Event>,
    scratch: Box<[u8]>,
    batch: Vec<Sending>,
    handles: Vec<Handle>,
    keys: Vec<Key>,
    outcomes: Vec<Received>,
    inbox: VecDeque<Letter<H::Mail, H::Moved>>,
}

impl<H: Handler, L: Sockets> Engine<H, L> {
    pub fn new(shard: ShardId, shards: u16, sockets: L) -> Self {
        Self {
            shard,
            sockets,
            entries: Vec::new(),
            open: 0,
            to_read: VecDeque::new(),
            to_write: VecDeque::new(),
            departures: Vec::new(),
            tickets_free: Vec::new(),
            outbound: (0..shards)
                .map(|_| Outbound {
                    postings: VecDeque::new(),
                    posted: 0,
                })
                .collect(),
            events: Vec::new(),
            scratch: vec![0; BATCH * CHUNK_BYTES].into_boxed_slice(),
            batch: Vec::with_capacity(BATCH),
            handles: Vec::with_capacity(BATCH),
            keys: Vec::with_capacity(BATCH),
            outcomes: Vec::with_capacity(BATCH),
            inbox: VecDeque::new(),
        }
    }

    pub fn sockets(&mut self) -> &mut L {
        &mut self.sockets
    }

    /// Sockets that are on their way to another shard, or still being closed by the kernel.
    pub fn departing(&self) -> usize {
        self.departures.len() - self.tickets_free.len() + self.sockets.in_transit()
    }

    /// Whether queued work is left, so that the shard must not sleep.
    pub fn has_work(&self) -> bool {
        !self.to_read.is_empty() || !self.to_write.is_empty()
    }

    /// Takes in what the sockets report. Returns whether there was anything.
    pub fn harvest(&mut self, handler: &mut H, now: Now, stats: &ShardStats) -> bool {
        let mut events = mem::take(&mut self.events);
        self.sockets.harvest(now.mono_us, &mut events);
        let any = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::Ready {
                    key,
                    readiness,
                    watched,
                } => {
                    self.ready(key, readiness);
                    if !watched {
                        self.watch_again(handler, now, key);
                    }
                }
                Event::Accepted { handle, peer } => {
                    stats::add(&stats.accepted, 1);
                    match handler.accepted(now, peer) {
                        Some(slot) => self.settle(handler, now, slot, handle, Flow::Continue, Outgoing::new()),
                        None => self.sockets.close(handle, None),
                    }
                }
                Event::Departed { ticket, transit } => {
                    if transit.is_none() {
                        stats::add(&stats.moves_failed, 1);
                    }
                    self.departed(ticket, transit);
                }
            }
        }
        self.events = events;
        stats::raise(&stats.accept_backoffs, self.sockets.accept_backoffs());
        any
    }

    fn ready(&mut self, key: Key, readiness: Readiness) {
        let Some(entry) = self.entries.get_mut(key.slot.index()) else {
            return;
        };
        if !entry.has(key) {
            return;
        }
        if readiness.hangup {
            entry.flags |= HANGUP;
        }
        if readiness.readable || readiness.hangup {
            entry.flags |= READABLE;
            self.queue_read(key);
        }
        let entry = &mut self.entries[key.slot.index()];
        if (readiness.writable || readiness.hangup) && entry.is(BLOCKED) {
            entry.flags &= !BLOCKED;
            self.queue_write(key.slot);
        }
    }

    /// The kernel ended a watch by itself (its completion queue was full). A new one reports the present state first.
    fn watch_again(&mut self, handler: &mut H, now: Now, key: Key) {
        let Some(entry) = live(&mut self.entries, key) else {
            return;
        };
        let handle = entry.handle();
        if self.sockets.watch(handle, key).is_err() {
            self.end(handler, now, key, End::Error);
        }
    }

    /// Reads from every connection that had something to read when the call began, once.
    pub fn read_all(&mut self, handler: &mut H, now: Now, stats: &ShardStats) -> bool {
        let mut left = self.to_read.len();
        let any = left > 0;
        while left > 0 {
            left -= left.min(BATCH);
            self.read_batch(handler, now, stats);
        }
        any
    }

    fn read_batch(&mut self, handler: &mut H, now: Now, stats: &ShardStats) {
        self.handles.clear();
        self.keys.clear();
        self.outcomes.clear();
        for _ in 0..BATCH {
            let Some(key) = self.to_read.pop_front() else { break };
            let Some(entry) = live(&mut self.entries, key) else {
                continue;
            };
            entry.flags &= !READ_QUEUED;
            if !entry.is(PAUSED) {
                self.handles.push(entry.handle());
                self.keys.push(key);
            }
        }
        if self.handles.is_empty() {
            return;
        }
        self.sockets
            .receive(&self.handles, &mut self.scratch, &mut self.outcomes);
        debug_assert_eq!(self.outcomes.len(), self.keys.len());
        let mut bytes_total = 0;
        for index in 0..self.keys.len() {
            let key = self.keys[index];
            match self.outcomes[index] {
                Received::Bytes { len, more } => {
                    bytes_total += len as u64;
                    let chunk = &mut self.scratch[index * CHUNK_BYTES..][..len];
                    let flow = handler.received(now, key.slot, chunk);
                    self.after_read(key, flow, more);
                }
                Received::WouldBlock => {
                    if let Some(entry) = live(&mut self.entries, key) {
                        entry.flags &= !READABLE;
                    }
                }
                Received::Eof => self.end(handler, now, key, End::Eof),
                Received::Error => self.end(handler, now, key, End::Error),
            }
        }
        stats::add(&stats.received_bytes, bytes_total);
    }

    fn after_read(&mut self, key: Key, flow: Flow, more: bool) {
        let Some(entry) = live(&mut self.entries, key) else {
            return;
        };
        if flow == Flow::Pause {
            entry.flags |= PAUSED;
        }
        if more || entry.is(HANGUP) {
            self.queue_read(key);
        } else {
            entry.flags &= !READABLE;
        }
    }

    fn queue_read(&mut self, key: Key) {
        let entry = &mut self.entries[key.slot.index()];
        if !entry.is(PAUSED | READ_QUEUED) {
            entry.flags |= READ_QUEUED;
            self.to_read.push_back(key);
        }
    }

    fn queue_write(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get_mut(slot.index()) else {
            return;
        };
        if entry.is(OCCUPIED) && !entry.is(WRITE_QUEUED | BLOCKED) {
            entry.flags |= WRITE_QUEUED;
            self.to_write.push_back(entry.key(slot));
        }
    }

    /// Sends for every connection that had something to send when the call began, once.
    pub fn write_all(&mut self, handler: &mut H, now: Now, stats: &ShardStats) -> bool {
        let mut left = self.to_write.len();
        let any = left > 0;
        while left > 0 {
            left -= left.min(BATCH);
            self.write_batch(handler, now, stats);
        }
        any
    }

    fn write_batch(&mut self, handler: &mut H, now: Now, stats: &ShardStats) {
        for _ in 0..BATCH {
            let Some(key) = self.to_write.pop_front() else { break };
            let Some(entry) = live(&mut self.entries, key) else {
                continue;
            };
            entry.flags &= !WRITE_QUEUED;
            let pieces = match entry.unsent.take() {
                Some(unsent) => *unsent,
                None => handler.take_outgoing(key.slot, SEND_BYTES_MAX),
            };
            if !pieces.is_empty() {
                self.batch.push(Sending {
                    handle: entry.handle(),
                    key,
                    pieces,
                    result: Ok(0),
                });
            }
        }
        if self.batch.is_empty() {
            return;
        }
        let mut batch = mem::take(&mut self.batch);
        self.sockets.send(&mut batch);
        for sending in batch.drain(..) {
            self.after_send(handler, now, stats, sending);
        }
        self.batch = batch;
    }

    fn after_send(&mut self, handler: &mut H, now: Now, stats: &ShardStats, mut sending: Sending) {
        let key = sending.key;
        let Some(entry) = live(&mut self.entries, key) else {
            return;
        };
        let bytes = match mem::replace(&mut sending.result, Ok(0)) {
            Ok(bytes) => bytes,
            Err(error) if is_temporary(&error) => 0,
            Err(_) => return self.end(handler, now, key, End::Error),
        };
        let inherited = entry.is(INHERITED);
        let done = sending.advance(bytes);
        stats::add(&stats.sent_bytes, bytes as u64);
        if done {
            entry.flags &= !INHERITED;
        } else {
            entry.unsent = Some(Box::new(sending.pieces));
        }
        if bytes == 0 && !done {
            entry.flags |= BLOCKED;
        } else if !done || inherited {
            // Part taken: try again, since only a refusal promises an event.
            self.queue_write(key.slot);
        }
        if !inherited && (bytes > 0 || done) {
            handler.sent(now, key.slot, bytes, done);
        }
        if done && !inherited {
            self.send_on(handler, key);
        }
    }

    /// All that was taken has been sent: asks for more at once, so that a further turn is needed only if there is some.
    fn send_on(&mut self, handler: &mut H, key: Key) {
        let Some(entry) = live(&mut self.entries, key) else {
            return;
        };
        let pieces = handler.take_outgoing(key.slot, SEND_BYTES_MAX);
        if !pieces.is_empty() {
            entry.unsent = Some(Box::new(pieces));
            self.queue_write(key.slot);
        }
    }

    /// The socket ended by itself: closes it and tells the handler.
    fn end(&mut self, handler: &mut H, now: Now, key: Key, end: End) {
        if let Some((handle, key, _)) = self.vacate(key.slot) {
            self.sockets.close(handle, Some(key));
            handler.ended(now, key.slot, end);
        }
    }

    /// Gives a new or adopted socket its place.
    fn settle(&mut self, handler: &mut H, now: Now, slot: Slot, handle: Handle, flow: Flow, unsent: Outgoing) {
        let key = self.occupy(slot, handle);
        let entry = &mut self.entries[slot.index()];
        if flow == Flow::Pause {
            entry.flags |= PAUSED;
        }
        if !unsent.is_empty() {
            entry.unsent = Some(Box::new(unsent));
            entry.flags |= INHERITED;
            self.queue_write(slot);
        }
        if self.sockets.watch(handle, key).is_err() {
            self.end(handler, now, key, End::Error);
        }
    }

    fn occupy(&mut self, slot: Slot, handle: Handle) -> Key {
        let index = slot.index();
        assert!(
            index < SLOTS_MAX,
            "a slot beyond the {SLOTS_MAX} that session references can name"
        );
        if index >= self.entries.len() {
            // Grown by an eighth, not doubled: at a million connections a doubled table would waste megabytes.
            let target = (index + 1)
                .max(self.entries.len() + self.entries.len() / 8)
                .next_multiple_of(1024);
            self.entries.reserve_exact(target - self.entries.len());
            self.entries.resize_with(target, || Entry::VACANT);
        }
        let entry = &mut self.entries[index];
        assert!(
            !entry.is(OCCUPIED),
            "the handler gave out a slot that still has a socket"
        );
        *entry = Entry {
            handle,
            flags: OCCUPIED,
            generation: entry.generation,
            unsent: None,
        };
        self.open += 1;
        entry.key(slot)
    }

    /// Empties a slot. Whatever still carries the old generation is void from here on.
    fn vacate(&mut self, slot: Slot) -> Option<(Handle, Key, Outgoing)> {
        let entry = self.entries.get_mut(slot.index()).filter(|entry| entry.is(OCCUPIED))?;
        let key = entry.key(slot);
        let handle = entry.handle();
        let unsent = entry.unsent.take().map_or_else(Outgoing::new, |unsent| *unsent);
        let generation = entry.generation.wrapping_add(1);
        *entry = Entry {
            generation,
            ..Entry::VACANT
        };
        self.open -= 1;
        Some((handle, key, unsent))
    }

    /// Carries out what the handler decided, in order. Writes are queued, mail is posted by [`Engine::post_all`].
    pub fn carry_out(
        &mut self,
        handler: &mut H,
        effects: &mut Vec<Effect<H::Mail, H::Moved>>,
        stats: &ShardStats,
    ) -> bool {
        let any = !effects.is_empty();
        for effect in effects.drain(..) {
            match effect {
                Effect::Write(slot) => self.queue_write(slot),
                Effect::Close(slot) => self.close(slot, handler.farewell(slot)),
                Effect::Resume(slot) => self.resume(slot),
                Effect::Move { slot, to, session } => {
                    stats::add(&stats.moved_out, 1);
                    self.depart(slot, to, session);
                }
                Effect::Mail { to, mail } => {
                    let letter = Letter::Mail { from: self.shard, mail };
                    self.outbound[to.index()].postings.push_back(Posting::Ready(letter));
                }
            }
        }
        any
    }

    fn close(&mut self, slot: Slot, farewell: Outgoing) {
        let Some((handle, key, unsent)) = self.vacate(slot) else {
            return;
        };
        if !farewell.is_empty() && unsent.is_empty() {
            let last = Sending {
                handle,
                key,
                pieces: farewell,
                result: Ok(0),
            };
            self.sockets.send(&mut [last]);
        }
        self.sockets.close(handle, Some(key));
    }

    fn resume(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get_mut(slot.index()).filter(|entry| entry.is(OCCUPIED)) else {
            return;
        };
        entry.flags &= !PAUSED;
        if entry.is(READABLE) {
            let key = entry.key(slot);
            self.queue_read(key);
        }
    }

    fn depart(&mut self, slot: Slot, to: ShardId, session: H::Moved) {
        assert!(
            to != self.shard && to.index() < self.outbound.len(),
            "a move to {to:?} from {:?}",
            self.shard
        );
        let Some((handle, key, unsent)) = self.vacate(slot) else {
            // The socket ended in this very turn, before the handler could know: the session goes on without it.
            let parcel = Box::new(Parcel {
                transit: None,
                session,
                unsent: Outgoing::new(),
            });
            self.outbound[to.index()]
                .postings
                .push_back(Posting::Ready(Letter::Parcel(parcel)));
            return;
        };
        let place = self.outbound[to.index()].next_place();
        let departure = Departure {
            to,
            place,
            parcel: Box::new(Parcel {
                transit: None,
                session,
                unsent,
            }),
        };
        let ticket = self.tickets_free.pop().unwrap_or_else(|| {
            self.departures.push(None);
            self.departures.len() as u32 - 1
        });
        self.departures[ticket as usize] = Some(departure);
        self.outbound[to.index()].postings.push_back(Posting::Awaiting);
        self.sockets.depart(handle, key, to, ticket);
    }

    fn departed(&mut self, ticket: u32, transit: Option<Transit>) {
        let departure = self.departures.get_mut(ticket as usize).and_then(Option::take);
        let Some(Departure { to, place, mut parcel }) = departure else {
            return;
        };
        self.tickets_free.push(ticket);
        parcel.transit = transit;
        // It cannot have been posted: an awaiting place holds back everything behind it.
        let outbound = &mut self.outbound[to.index()];
        let index = (place - outbound.posted) as usize;
        outbound.postings[index] = Posting::Ready(Letter::Parcel(parcel));
    }

    /// Posts what is ready. A socket that has not left yet holds back what was sent to the same shard after it.
    pub fn post_all(&mut self, mesh: &Mesh<H::Mail, H::Moved>) {
        for (index, outbound) in self.outbound.iter_mut().enumerate() {
            let ready = outbound
                .postings
                .iter()
                .take_while(|posting| matches!(posting, Posting::Ready(_)))
                .count();
            if ready == 0 {
                continue;
            }
            outbound.posted += ready as u64;
            let letters = outbound.postings.drain(..ready).map(|posting| match posting {
                Posting::Ready(letter) => letter,
                Posting::Awaiting => unreachable!("only ready postings were counted"),
            });
            mesh.post(ShardId(index as u16), letters);
        }
    }

    /// Hands the handler everything in its mailbox.
    pub fn read_mail(&mut self, mesh: &Mesh<H::Mail, H::Moved>, handler: &mut H, now: Now, stats: &ShardStats) -> bool {
        let mut inbox = mem::take(&mut self.inbox);
        mesh.collect(self.shard, &mut inbox);
        let any = !inbox.is_empty();
        stats::add(&stats.letters, inbox.len() as u64);
        for letter in inbox.drain(..) {
            match letter {
                Letter::Mail { from, mail } => handler.mail(now, from, mail),
                Letter::Parcel(parcel) => {
                    stats::add(&stats.moved_in, 1);
                    self.adopt(handler, now, *parcel);
                }
            }
        }
        // A burst must not pin its memory for good.
        inbox.shrink_to(1024);
        self.inbox = inbox;
        any
    }

    fn adopt(&mut self, handler: &mut H, now: Now, parcel: Parcel<H::Moved>) {
        let Parcel {
            transit,
            session,
            unsent,
        } = parcel;
        let handle = transit.map(|transit| self.sockets.arrive(transit));
        match (handler.adopted(now, session), handle) {
            (Some((slot, flow)), Some(handle)) => self.settle(handler, now, slot, handle, flow, unsent),
            (Some((slot, _)), None) => handler.ended(now, slot, End::Error),
            (None, Some(handle)) => self.sockets.close(handle, None),
            (None, None) => {}
        }
    }

    /// Closes every socket that is left, without telling anyone. For the end of the shard.
    pub fn close_all(&mut self) {
        for index in 0..self.entries.len() {
            if let Some((handle, key, _)) = self.vacate(Slot(index as u32)) {
                self.sockets.close(handle, Some(key));
            }
        }
        self.sockets.finish();
    }

    pub fn connections(&self) -> u64 {
        self.open as u64
    }
}

fn live(entries: &mut [Entry], key: Key) -> Option<&mut Entry> {
    let entry = entries.get_mut(key.slot.index())?;
    entry.has(key).then_some(entry)
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
