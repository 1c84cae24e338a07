//! A shard's mailbox: a queue behind a mutex that senders append a whole batch to and the shard empties with one swap.
//!
//! Invariants: letters of one sender arrive in the order sent; a letter appended before the shard falls asleep is seen
//! before it sleeps, and whoever appends one later is told to ring. How many letters wait is counted in a number outside,
//! which anybody may read ([`super::stats::ShardStats::mailbox_depth`]).

use crate::sleeper::Sleeper;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use std::collections::VecDeque;
use std::sync::PoisonError;

/// See the module documentation.
pub struct Mailbox<T> {
    letters: Mutex<VecDeque<T>>,
    sleeper: Sleeper,
}

impl<T> Mailbox<T> {
    /// Empty, of a shard that is awake.
    #[allow(clippy::new_without_default, reason = "awake is a state, not a default")]
    pub fn new() -> Mailbox<T> {
        Mailbox {
            letters: Mutex::new(VecDeque::new()),
            sleeper: Sleeper::new(),
        }
    }

    /// Appends a batch, in order. Returns whether the shard sleeps and the caller must ring its bell.
    pub fn post(&self, depth: &AtomicU64, letters: impl ExactSizeIterator<Item = T>) -> bool {
        let count = letters.len() as u64;
        {
            let mut queue = self.lock();
            queue.extend(letters);
            depth.fetch_add(count, Ordering::SeqCst);
        }
        self.sleeper.must_be_woken()
    }

    /// Moves everything to `letters`, which must be empty.
    pub fn collect(&self, depth: &AtomicU64, letters: &mut VecDeque<T>) {
        debug_assert!(letters.is_empty());
        if depth.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut queue = self.lock();
        std::mem::swap(&mut *queue, letters);
        depth.fetch_sub(letters.len() as u64, Ordering::SeqCst);
    }

    /// Declares the shard asleep. `false` when there is mail after all: the shard must not sleep then.
    pub fn fall_asleep(&self, depth: &AtomicU64) -> bool {
        self.sleeper.will_sleep();
        if depth.load(Ordering::SeqCst) == 0 {
            return true;
        }
        self.wake_up();
        false
    }

    /// Declares the shard awake, so that nobody rings in vain.
    pub fn wake_up(&self) {
        self.sleeper.is_awake();
    }

    /// A panicking sender cannot leave the queue half-written, so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
