//! Times at which something must be looked at again.
//!
//! Entries are never cancelled: whoever handles a due entry checks whether it still applies. Periodic work that concerns
//! every connection (heartbeats) is not here but in the sweep, so a connection at rest has no entry.

use crate::ids::SessionRef;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Authentication must have happened.
    Authentication(SessionRef),
    /// The peer had its time to answer our close frame.
    CloseGrace(SessionRef),
    /// The HTTP request must be complete.
    Http(SessionRef),
    /// A token of the rate limit is there, or the longest pause is over.
    Rate(SessionRef),
    /// The kernel must have accepted something by now.
    Stall(SessionRef),
    /// The token has expired.
    Token(SessionRef),
    /// A superseded connection may have been silent long enough.
    Superseded(SessionRef),
    /// Chunk sets may be idle.
    Chunks(SessionRef),
    /// A document's flush window is over; its place in the library.
    Flush(u32),
    /// A text's relay window is over.
    TextRelay(u32),
    /// Presence orphans may have expired.
    Presence,
    /// Tombstones and counter memories may have expired.
    Housekeeping,
    /// Outboxes kept for reuse.
    Spares,
    /// What was accepted before the shut-down has been spread.
    Drained,
    /// Requests may have waited too long for their documents.
    Loading,
    /// The queue to storage may have room again.
    Storing,
    /// Acknowledgements of a document may have waited too long; its place in the library.
    Patience(u32),
    /// Documents may have been idle long enough to be unloaded.
    Unload,
    /// Questions about stored snapshots may have waited too long.
    Snapshots,
    /// What is periodic among several nodes.
    Nodes,
    /// Something about a document is to be asked of other nodes, told them or stored; its place in the library.
    Exchange(u32),
    /// Documents that are being loaded may have waited long enough for other nodes.
    Peers,
}

/// The grid of deadlines that need no precision.
const GRID_US: u64 = 100_000;

impl Due {
    fn is_coarse(self) -> bool {
        matches!(
            self,
            Due::Authentication(_) | Due::Http(_) | Due::Stall(_) | Due::Token(_) | Due::Superseded(_) | Due::Chunks(_)
        )
    }
}

/// Room that is kept for good.
const CAPACITY_KEPT: usize = 4096;

/// A queue of them.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, Due)>>,
}

impl Deadlines {
    /// Schedules a look at `at_us` monotonic microseconds. What concerns one connection and is not urgent is rounded up to
    /// a common grid: thousands of connections that came one after the other must not wake the core one after the other.
    pub fn at(&mut self, at_us: u64, due: Due) {
        let at_us = if due.is_coarse() {
            at_us.div_ceil(GRID_US).saturating_mul(GRID_US)
        } else {
            at_us
        };
        self.heap.push(Reverse((at_us, due)));
    }

    /// The next one that is due.
    pub fn pop(&mut self, now_us: u64) -> Option<Due> {
        let Reverse((at_us, due)) = self.heap.peek().copied()?;
        if at_us > now_us {
            return None;
        }
        self.heap.pop();
        // Everybody who connects has a deadline for a while. A storm of connections must not pin its memory for good.
        if self.heap.capacity() > CAPACITY_KEPT.max(4 * self.heap.len()) {
            self.heap.shrink_to(2 * self.heap.len());
        }
        Some(due)
    }

    /// When the next one is due.
    pub fn next_us(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at_us, _))| *at_us)
    }
}
