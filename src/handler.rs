//! The seam between what runs on a core (the shard) and what carries its bytes (the runtime).
//!
//! A [`Handler`] is a state machine: it is told what happened and when, and answers with [`Effect`]s. It does no I/O,
//! reads no clock and never blocks. The runtime feeds it from sockets and from the mesh; the simulation and the unit
//! tests feed it by hand.

use crate::clock::Now;
use crate::ids::{ShardId, Slot};
use bytes::Bytes;
use smallvec::SmallVec;
use std::net::IpAddr;

/// Whether the runtime may go on reading from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Read on.
    Continue,
    /// Read nothing more until [`Effect::Resume`]. Bytes already handed over were taken.
    Pause,
}

/// How a socket ended on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed its side in order (read returned 0).
    Eof,
    /// Reset, time-out or another transport error.
    Error,
}

/// What a handler wants done. The runtime carries effects out in order, at the end of every turn.
#[derive(Debug)]
pub enum Effect<M, S> {
    /// The slot has bytes to send: take them with [`Handler::take_outgoing`] as soon as no send is in flight.
    Write(Slot),
    /// Close the socket now, whatever is in flight. The slot is already free for the handler, which may give it out again
    /// from the moment it has handed out this effect, and not before.
    Close(Slot),
    /// Read again after [`Flow::Pause`].
    Resume(Slot),
    /// Give socket and session to another shard. The slot is already free for the handler. The target's handler gets
    /// [`Handler::adopted`] with `session`, in order with the mail sent there. Bytes that were taken for sending and not
    /// sent yet go along and are sent there first; neither handler gets [`Handler::sent`] for them any more.
    Move {
        /// The slot the socket had here.
        slot: Slot,
        /// Where it goes.
        to: ShardId,
        /// The handler's own state for it, unread bytes and unsent bytes included.
        session: S,
    },
    /// Deliver to another shard's [`Handler::mail`]. Order between two shards is kept. Never addressed to itself.
    Mail {
        /// The receiving shard.
        to: ShardId,
        /// What it receives.
        mail: M,
    },
}

/// The bytes of one send: at most this many pieces are inline.
pub type Outgoing = SmallVec<[Bytes; 4]>;

/// What runs on one core.
pub trait Handler {
    /// What handlers send each other.
    type Mail: Send + 'static;
    /// What travels with a socket that moves.
    type Moved: Send + 'static;

    /// A new connection. The handler gives it a slot that is free at this moment; `None` refuses it (the runtime closes).
    fn accepted(&mut self, now: Now, peer: IpAddr) -> Option<Slot>;

    /// A socket that was moved here by another shard's [`Effect::Move`]. `None` refuses it. Should the socket have been lost
    /// on the way, [`Handler::ended`] follows at once.
    /// The handler processes the unread bytes it brought; the runtime reads on unless told otherwise.
    fn adopted(&mut self, now: Now, session: Self::Moved) -> Option<(Slot, Flow)>;

    /// Bytes arrived. They may be changed in place (unmasking) and are gone after the call.
    fn received(&mut self, now: Now, slot: Slot, bytes: &mut [u8]) -> Flow;

    /// The socket ended by itself. The slot is free afterwards; the runtime closes the descriptor.
    fn ended(&mut self, now: Now, slot: Slot, end: End);

    /// Moves out what is to be sent next, at most about `bytes_max` bytes (one piece may exceed it). Empty: nothing to do.
    /// Called only when no send of this slot is in flight.
    fn take_outgoing(&mut self, slot: Slot, bytes_max: usize) -> Outgoing;

    /// `bytes` of what was taken have been accepted by the kernel; `done` when all of it was.
    fn sent(&mut self, now: Now, slot: Slot, bytes: usize, done: bool);

    /// The last bytes of a slot that [`Effect::Close`] closes, for as much of them as the kernel takes at once; they are not
    /// sent while others wait. What the handler kept for the slot goes with this call.
    fn farewell(&mut self, _slot: Slot) -> Outgoing {
        Outgoing::new()
    }

    /// Mail from another shard.
    fn mail(&mut self, now: Now, from: ShardId, mail: Self::Mail);

    /// End of a loop turn: run due timers, flush, and hand out what is to be done. `effects` is empty on entry.
    fn turn(&mut self, now: Now, effects: &mut Vec<Effect<Self::Mail, Self::Moved>>);

    /// Monotonic microseconds ([`Now::mono_us`]) at which [`Handler::turn`] has something to do even if nothing happens.
    fn deadline_us(&self) -> Option<u64>;

    /// The operator asked to stop (SIGTERM). The handler refuses new work, closes its connections and reports
    /// [`Handler::is_drained`].
    fn shut_down(&mut self, now: Now);

    /// Whether new connections are still taken after [`Handler::shut_down`], be it to tell them so.
    fn is_accepting(&self) -> bool {
        false
    }

    /// Whether nothing is left to do after [`Handler::shut_down`].
    fn is_drained(&self) -> bool;
}
