//! The seam between the engine (what a connection's state means) and a socket layer (how the kernel is asked).
//!
//! Two layers implement [`Sockets`]: `direct` (private rings, direct descriptors) and `ordinary` (epoll and ordinary
//! descriptors). Both are non-blocking and batch-oriented: `receive` and `send` finish within the call, so no buffer is
//! ever lent to the kernel beyond it. What outlives a call is only the standing watch of each socket, the standing
//! accept, and a socket on its way to another shard.

use crate::handler::Outgoing;
use crate::ids::{ShardId, Slot};
use bytes::Buf;
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Sockets read or written by one batch.
pub(super) const BATCH: usize = 32;
/// Bytes one read takes at most; a batch has one such chunk of scratch for each of its sockets.
pub(super) const CHUNK_BYTES: usize = 16 * 1024;

/// A socket as its layer names it: one word, because it exists once per connection. Ordinary: the descriptor. Direct: the
/// number of the ring and the index in its file table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(u32);

impl Handle {
    /// No socket.
    pub const NONE: Self = Self(0);
    /// Bits of an index in a ring's table.
    pub const FILE_BITS: u32 = 15;

    /// An ordinary descriptor.
    pub fn ordinary(descriptor: RawFd) -> Self {
        Self(descriptor as u32)
    }

    /// The descriptor of an ordinary socket.
    pub fn descriptor(self) -> RawFd {
        self.0 as RawFd
    }

    /// A place in a ring's table.
    pub fn direct(ring: u16, file: u32) -> Self {
        assert!(file < 1 << Self::FILE_BITS, "a table larger than handles can tell");
        Self(u32::from(ring) << Self::FILE_BITS | file)
    }

    /// The ring of a direct socket.
    pub fn ring(self) -> u16 {
        (self.0 >> Self::FILE_BITS) as u16
    }

    /// The place of a direct socket in its ring's table.
    pub fn file(self) -> u32 {
        self.0 & ((1 << Self::FILE_BITS) - 1)
    }
}

/// Which connection an event is for. The generation tells a slot's present socket from its former ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub slot: Slot,
    pub generation: u32,
}

impl Key {
    /// Generations wrap at this many bits. What carries an old one is gone within a turn or two, in which no slot is taken
    /// that often.
    pub const GENERATION_BITS: u32 = 16;

    pub fn to_u60(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot.0)
    }

    pub fn from_u60(bits: u64) -> Self {
        let generation = (bits >> 32) as u32 & ((1 << Self::GENERATION_BITS) - 1);
        Self {
            slot: Slot(bits as u32),
            generation,
        }
    }
}

/// What became possible on a socket. All edge-triggered: seen once per change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The peer has closed or reset: reading will meet the end.
    pub hangup: bool,
}

/// What a layer reports.
#[derive(Debug)]
pub(super) enum Event {
    Ready {
        key: Key,
        readiness: Readiness,
        /// Whether the watch goes on; if not, it must be made again.
        watched: bool,
    },
    Accepted {
        handle: Handle,
        peer: IpAddr,
    },
    /// The socket of a move has left (`Some`) or could not be handed over and was closed (`None`).
    Departed {
        ticket: u32,
        transit: Option<Transit>,
    },
}

/// A socket between two shards.
#[derive(Debug)]
pub(super) enum Transit {
    Descriptor(OwnedFd),
    /// Already in the receiving shard's file table.
    Installed(Handle),
}

/// The outcome of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes; `more` when the socket may hold others that no event will announce.
    Bytes {
        len: usize,
        more: bool,
    },
    WouldBlock,
    Eof,
    Error,
}

/// One send, and what came of it.
#[derive(Debug)]
pub(super) struct Sending {
    pub handle: Handle,
    pub key: Key,
    pub pieces: Outgoing,
    pub result: io::Result<usize>,
}

impl Sending {
    /// Drops the first `bytes` bytes, which the kernel has taken. Returns whether nothing is left.
    pub fn advance(&mut self, mut bytes: usize) -> bool {
        let mut whole = 0;
        for piece in &mut self.pieces {
            if bytes < piece.len() {
                piece.advance(bytes);
                break;
            }
            bytes -= piece.len();
            whole += 1;
        }
        self.pieces.drain(..whole);
        self.pieces.is_empty()
    }
}

/// How a nap ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nap {
    /// There may be news.
    Woken,
    /// Its time is over.
    Over,
    /// There was none: the shard must sleep by the wake source.
    Impossible,
}

impl Nap {
    /// After a wait.
    pub fn ended(woken: bool) -> Nap {
        if woken { Nap::Woken } else { Nap::Over }
    }
}

/// A way to do socket I/O. One instance per shard, used by its thread only.
pub(super) trait Sockets: Sized {
    /// Appends what happened since the last call. Never waits.
    fn harvest(&mut self, now_us: u64, events: &mut Vec<Event>);

    /// Announces every change of the socket's readiness under `key`, beginning with the present one.
    fn watch(&mut self, handle: Handle, key: Key) -> io::Result<()>;

    /// Closes the socket; `key` is that of its watch, if it has one.
    fn close(&mut self, handle: Handle, key: Option<Key>);

    /// Reads once from each socket (at most [`BATCH`]) into its chunk of `scratch`; appends one outcome each.
    fn receive(&mut self, handles: &[Handle], scratch: &mut [u8], outcomes: &mut Vec<Received>);

    /// Tries each send once and leaves its result in place. At most [`BATCH`].
    fn send(&mut self, batch: &mut [Sending]);

    /// Ends the watch and sends the socket to another shard. [`Event::Departed`] with `ticket` follows.
    fn depart(&mut self, handle: Handle, key: Key, to: ShardId, ticket: u32);

    /// Takes in a socket that another shard let go.
    fn arrive(&mut self, transit: Transit) -> Handle;

    /// Closes the listener; connections accepted but not yet reported are closed too.
    fn stop_listening(&mut self);

    /// Waits at most `wait_us` for news or the doorbell, without the wake source if this layer knows a cheaper way. What it
    /// announced before is found by [`Sockets::pending`].
    fn nap(&mut self, wait_us: u64) -> Nap;

    /// The shard is about to sleep: from here on any news makes [`Sockets::wake_source`] readable. Rings of the doorbell
    /// from before this call may be forgotten.
    fn before_sleep(&mut self);

    /// The shard is awake again.
    fn after_sleep(&mut self);

    /// Whether [`Sockets::harvest`] would find something now that the wake source does not tell.
    fn pending(&mut self) -> bool;

    /// When to harvest again even if nothing wakes the shard (accepting or a move is to be tried again).
    fn retry_at_us(&self) -> Option<u64>;

    /// The descriptor that becomes readable when there is news, the doorbell and the timer included.
    fn wake_source(&self) -> BorrowedFd<'_>;

    /// Lets the wake source become readable in `delay_us`.
    fn wake_in(&mut self, delay_us: u64);

    /// Sockets on their way to another shard that have not been reported as departed, and those that wait to be closed.
    fn in_transit(&self) -> usize;

    /// Carries out the closes that are under way. Called once, at the end.
    fn finish(&mut self);

    /// How often accepting was suspended because descriptors or memory ran out.
    fn accept_backoffs(&self) -> u64;
}
