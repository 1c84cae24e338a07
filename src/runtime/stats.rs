//! What each shard tells about itself: counters that its own thread writes and anyone may read.

use crate::histogram::{BUCKETS, Durations};
use crate::shard::context::Measured;
use std::sync::atomic::{AtomicU64, Ordering};

/// One shard's counters. Written by the shard only (`mailbox_depth` by senders too), read with no ordering between them.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Open connections.
    pub connections: AtomicU64,
    /// Connections accepted since the start, refused ones included.
    pub accepted: AtomicU64,
    /// Sockets that came from another shard.
    pub moved_in: AtomicU64,
    /// Sockets that left for another shard.
    pub moved_out: AtomicU64,
    /// Sockets whose hand-over failed, so that their sessions ended.
    pub moves_failed: AtomicU64,
    /// Bytes read from sockets.
    pub received_bytes: AtomicU64,
    /// Bytes taken by the kernel for sending.
    pub sent_bytes: AtomicU64,
    /// Letters waiting in the shard's mailbox.
    pub mailbox_depth: AtomicU64,
    /// Letters taken from the mailbox.
    pub letters: AtomicU64,
    /// Loop turns that had something to do.
    pub turns: AtomicU64,
    /// Times the shard went to sleep.
    pub sleeps: AtomicU64,
    /// Duration of all turns together.
    pub turn_us_total: AtomicU64,
    /// The longest turn.
    pub turn_us_max: AtomicU64,
    /// How many turns fell into each bucket of [`Durations`]; the last one holds those beyond all.
    pub turn_buckets: [AtomicU64; BUCKETS + 1],
    /// How often accepting was suspended because descriptors or memory ran out.
    pub accept_backoffs: AtomicU64,
}

impl ShardStats {
    /// Grows at least twice a second while the shard's loop runs, idle or not.
    pub fn progress(&self) -> u64 {
        let turns = self.turns.load(Ordering::Relaxed);
        turns.wrapping_add(self.sleeps.load(Ordering::Relaxed))
    }

    /// What the shard itself reports in its metrics.
    pub fn measured(&self) -> Measured {
        let count = |index: usize| self.turn_buckets[index].load(Ordering::Relaxed);
        let turn_us = self.turn_us_total.load(Ordering::Relaxed);
        Measured {
            turn_time: Durations::from_parts(std::array::from_fn(count), count(BUCKETS)).with_sum(turn_us),
            turns: self.turns.load(Ordering::Relaxed),
            turn_us,
            turn_us_max: self.turn_us_max.load(Ordering::Relaxed),
            mailbox_letters: self.mailbox_depth.load(Ordering::Relaxed),
        }
    }
}

/// Adds to a counter that only this thread writes.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// Raises a counter that only this thread writes to at least `value`.
pub(super) fn raise(counter: &AtomicU64, value: u64) {
    if value > counter.load(Ordering::Relaxed) {
        counter.store(value, Ordering::Relaxed);
    }
}
