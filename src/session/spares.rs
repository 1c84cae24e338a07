//! Outboxes that no connection needs at the moment.
//!
//! A connection at rest has no outbox, and one that is sent something has it for a moment only. A fan-out to ten thousand
//! connections would allocate and free as many; instead the shard keeps those that have been emptied and hands them out
//! again. [`Spares::trim`], called about once a second, frees what was not needed since its last call, so that a shard
//! at rest keeps none.

use super::outbox::Outbox;

/// The emptied outboxes of one shard.
// Boxed, because sessions hold them boxed and the box itself is what is to be reused.
#[allow(clippy::vec_box, reason = "the allocations are what is kept")]
#[derive(Debug, Default)]
pub struct Spares {
    outboxes: Vec<Box<Outbox>>,
    /// The fewest there were since the last trim: so many were never needed.
    fewest: usize,
}

impl Spares {
    /// An empty outbox that comes to life at `now_us`.
    pub fn take(&mut self, now_us: u64) -> Box<Outbox> {
        let Some(mut outbox) = self.outboxes.pop() else {
            return Box::new(Outbox::new(now_us));
        };
        self.fewest = self.fewest.min(self.outboxes.len());
        outbox.progress_us = now_us;
        outbox
    }

    /// Keeps an outbox that has been emptied.
    pub fn put(&mut self, mut outbox: Box<Outbox>) {
        outbox.reset();
        self.outboxes.push(outbox);
    }

    /// Frees what was not needed since the last call. Returns whether any are left.
    pub fn trim(&mut self) -> bool {
        self.outboxes.truncate(self.outboxes.len() - self.fewest);
        self.outboxes.shrink_to(self.outboxes.len() * 2);
        self.fewest = self.outboxes.len();
        !self.outboxes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_for_a_while_is_freed() {
        let mut spares = Spares::default();
        for outbox in (0..10).map(Outbox::new).collect::<Vec<_>>() {
            spares.put(Box::new(outbox));
        }
        assert!(spares.trim(), "all of them are new");
        let used: Vec<_> = (0..4).map(|_| spares.take(1)).collect();
        used.into_iter().for_each(|outbox| spares.put(outbox));
        assert!(spares.trim());
        assert_eq!(spares.outboxes.len(), 4, "six were not needed");
        assert!(!spares.trim(), "and now nobody needed any");
    }
}
