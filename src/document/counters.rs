//! Counter operations (docs/protocol.md §12.3): which ones are repetitions, and what they add up to.
//!
//! Receivers add blindly, so every operation must be relayed exactly once. A batch that arrives twice is recognised by
//! (client id, message id, element) for ten minutes. Totals per client id are kept for inspection. Both are bounded: the
//! oldest operations are forgotten first, and clients beyond the bound share one total. The newest operations are stored with
//! the totals they are in, so that a batch said again after a crash counts once too.

use crate::clock::Now;
use crate::mutation::Mutation;
use hashbrown::{HashMap, HashSet};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// How long a repetition is recognised.
const REMEMBERED_MS: u64 = 10 * 60 * 1000;

/// Operations remembered per document (about 4 MiB).
const REMEMBERED_MAX: usize = 65_536;

/// The newest operations that are stored with the totals. Those a client may say again after a crash are the ones it has no
/// answer for yet.
const STORED_MAX: usize = 256;

/// The same in a row that several servers wrote. Which ones a merge drops beyond it must not depend on the order of merging.
pub const STORED_MERGED_MAX: usize = 4 * STORED_MAX;

/// Clients with a total of their own.
const CLIENTS_MAX: usize = 10_000;

/// Longer client ids share the common total, so that names cannot cost more than numbers.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// Marks the fingerprint of an operation that was counted here.
const COUNTED_HERE: u128 = 1;

/// One operation, as it stands in a batch.
#[derive(Clone, Copy, Debug)]
pub struct CounterOperation<'a> {
    /// Who counts.
    pub client_id: &'a str,
    /// Whose total takes it: the client's, or where several nodes count at once that of the node, so that no two of them
    /// ever add to one.
    pub account: &'a str,
    /// The batch; without one a repetition cannot be told from a new operation.
    pub message_id: Option<&'a str>,
    /// Position in the batch.
    pub element: u32,
    /// What is added; a decrement has the sign of the wire and `decrement` set.
    pub value: f64,
    /// Whether `value` is taken away.
    pub decrement: bool,
}

/// Whether an operation is to be relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Counted {
    /// New: relay it to the others.
    Fresh,
    /// Seen before: acknowledge it, and do nothing.
    Repeated,
}

/// What one client has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// Sum of increments.
    pub increments: f64,
    /// Sum of decrements.
    pub decrements: f64,
}

/// Totals as they are stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedCounters {
    /// Of every client that has one.
    pub totals: Vec<(Box<str>, Total)>,
    /// Of all others together.
    pub others: Total,
    /// Operations in these totals that might be said again.
    pub recent: RecentOperations,
}

/// The newest operations, as they are stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecentOperations {
    /// When the last one was counted, in Unix milliseconds. The others are remembered as long as that one.
    pub counted_ms: u64,
    /// What they are recognised by, in ascending order.
    pub fingerprints: Vec<u128>,
}

impl RecentOperations {
    /// What two copies remember, at most [`STORED_MERGED_MAX`].
    pub fn merge(&mut self, other: RecentOperations) {
        self.fingerprints.extend(other.fingerprints);
        self.fingerprints.sort_unstable();
        self.fingerprints.dedup();
        self.fingerprints.truncate(STORED_MERGED_MAX);
        self.counted_ms = self.counted_ms.max(other.counted_ms);
    }
}

impl Total {
    /// Adds one operation. Each sum only grows: an increment by less than nothing is a decrement.
    pub fn count(&mut self, value: f64, decrement: bool) {
        let (sum, value) = match decrement != (value < 0.0) {
            true => (&mut self.decrements, value.abs()),
            false => (&mut self.increments, value.abs()),
        };
        *sum = finite(*sum + value);
    }

    /// What two servers know of one client: the greater of each sum. Exact as long as a client's batches reach one server
    /// at a time.
    pub fn merge(&mut self, other: Total) {
        // Not `f64::max`, which may give either zero.
        let greater = |a: f64, b: f64| if b.total_cmp(&a).is_gt() { b } else { a };
        self.increments = greater(self.increments, other.increments);
        self.decrements = greater(self.decrements, other.decrements);
    }
}

/// Totals and memory of one document's counter. Times are monotonic milliseconds.
#[derive(Default)]
pub struct Counters {
    totals: HashMap<Box<str>, Total>,
    others: Total,
    /// Fingerprints of operations; the lowest bit says that it was counted here rather than by another node.
    remembered: HashSet<u128>,
    order: VecDeque<(u64, u128)>,
}

impl Counters {
    /// Counts one operation unless it is a repetition.
    pub fn apply(&mut self, now_ms: u64, operation: CounterOperation<'_>) -> Counted {
        self.expire(now_ms);
        if let Some(message_id) = operation.message_id {
            let fingerprint = fingerprint(operation.client_id, message_id, operation.element);
            if self.knows(fingerprint) && !Mutation::CountTwice.is_on() {
                return Counted::Repeated;
            }
            self.remember(now_ms, fingerprint | COUNTED_HERE);
        }
        self.total_mut(operation.account)
            .count(operation.value, operation.decrement);
        Counted::Fresh
    }

    /// Whether an operation has been counted, here or elsewhere.
    fn knows(&self, fingerprint: u128) -> bool {
        let elsewhere = fingerprint & !COUNTED_HERE;
        self.remembered.contains(&elsewhere) || self.remembered.contains(&(elsewhere | COUNTED_HERE))
    }

    fn remember(&mut self, now_ms: u64, fingerprint: u128) {
        self.remembered.insert(fingerprint);
        self.order.push_back((now_ms, fingerprint));
        if self.order.len() > REMEMBERED_MAX {
            self.forget_oldest();
        }
    }

    /// Another node has counted an operation. Returns whether it was counted here as well; if `theirs_counts`, that is
    /// so no longer, and the caller takes it back.
    pub fn counted_elsewhere(&mut self, now_ms: u64, fingerprint: u128, theirs_counts: bool) -> bool {
        let elsewhere = fingerprint & !COUNTED_HERE;
        let here = elsewhere | COUNTED_HERE;
        if !self.knows(fingerprint) {
            self.remember(now_ms, elsewhere);
            return false;
        }
        let twice = self.remembered.contains(&here);
        if twice && theirs_counts {
            self.remembered.remove(&here);
            self.remembered.insert(elsewhere);
        }
        twice
    }

    /// What an account holds.
    pub fn account(&self, account: &str) -> Total {
        self.totals.get(account).copied().unwrap_or_default()
    }

    /// Adds to an account without looking for repetitions.
    pub fn add(&mut self, account: &str, added: Total) {
        let total = self.total_mut(account);
        total.increments = finite(total.increments + added.increments);
        total.decrements = finite(total.decrements + added.decrements);
    }

    /// The total of every client that has one, and of all others together.
    pub fn totals(&self) -> (impl Iterator<Item = (&str, Total)>, Total) {
        (
            self.totals.iter().map(|(client, total)| (&**client, *total)),
            self.others,
        )
    }

    /// The totals, without operations.
    pub fn saved(&self) -> SavedCounters {
        let mut totals: Vec<_> = self
            .totals
            .iter()
            .map(|(client, total)| (client.clone(), *total))
            .collect();
        totals.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        SavedCounters {
            totals,
            others: self.others,
            recent: RecentOperations::default(),
        }
    }

    /// The newest operations, to be stored with the totals.
    pub fn recent(&self, now: Now) -> RecentOperations {
        let Some((newest_ms, _)) = self.order.back() else {
            return RecentOperations::default();
        };
        let surplus = self.order.len().saturating_sub(STORED_MAX);
        let kept = self.order.iter().skip(surplus);
        let kept = kept.filter(|(at_ms, _)| at_ms + REMEMBERED_MS >= now.mono_ms());
        let mut fingerprints: Vec<u128> = kept.map(|(_, fingerprint)| fingerprint & !COUNTED_HERE).collect();
        fingerprints.sort_unstable();
        RecentOperations {
            counted_ms: now.unix_ms.saturating_sub(now.mono_ms().saturating_sub(*newest_ms)),
            fingerprints,
        }
    }

    /// Operations that were stored with totals merged here are not counted again.
    pub fn recall(&mut self, recent: &RecentOperations, now: Now) {
        let age_ms = now.unix_ms.saturating_sub(recent.counted_ms);
        if age_ms > REMEMBERED_MS {
            return;
        }
        let at_ms = now.mono_ms().saturating_sub(age_ms);
        for fingerprint in &recent.fingerprints {
            if !self.knows(*fingerprint) {
                self.remember(at_ms, fingerprint & !COUNTED_HERE);
            }
        }
    }

    /// Takes over totals that were stored.
    pub fn merge(&mut self, saved: &SavedCounters) {
        for (client, total) in &saved.totals {
            self.total_mut(client).merge(*total);
        }
        self.others.merge(saved.others);
    }

    /// Whether operations are remembered that might still be repeated.
    pub fn remembers(&self) -> bool {
        !self.order.is_empty()
    }

    /// All increments minus all decrements.
    pub fn value(&self) -> f64 {
        self.totals
            .values()
            .chain([&self.others])
            .map(|total| total.increments - total.decrements)
            .sum()
    }

    /// Forgets operations older than ten minutes.
    pub fn expire(&mut self, now_ms: u64) {
        while self
            .order
            .front()
            .is_some_and(|oldest| oldest.0 + REMEMBERED_MS < now_ms)
        {
            self.forget_oldest();
        }
    }

    /// What the counter costs in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.totals.allocation_size()
            + self.totals.keys().map(|client| client.len()).sum::<usize>()
            + self.remembered.allocation_size()
            + self.order.capacity() * size_of::<(u64, u128)>()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, fingerprint)) = self.order.pop_front() {
            self.remembered.remove(&(fingerprint | COUNTED_HERE));
            self.remembered.remove(&(fingerprint & !COUNTED_HERE));
        }
    }

    fn total_mut(&mut self, client_id: &str) -> &mut Total {
        let full = self.totals.len() >= CLIENTS_MAX || client_id.len() > CLIENT_ID_BYTES_MAX;
        if full && !self.totals.contains_key(client_id) {
            return &mut self.others;
        }
        self.totals.entry(client_id.into()).or_default()
    }
}

impl CounterOperation<'_> {
    /// What it adds to nothing.
    pub fn total(&self) -> Total {
        let mut total = Total::default();
        total.count(self.value, self.decrement);
        total
    }

    /// What it is recognised by, if it can be.
    pub fn fingerprint(&self) -> Option<u128> {
        let message_id = self.message_id?;
        Some(fingerprint(self.client_id, message_id, self.element) & !COUNTED_HERE)
    }
}

/// A sum that overflowed to infinity could not be stored as JSON.
fn finite(sum: f64) -> f64 {
    sum.clamp(f64::MIN, f64::MAX)
}

/// 128 bits of SHA-256: a collision would swallow somebody's count, so it must not be makeable on purpose either.
fn fingerprint(client_id: &str, message_id: &str, element: u32) -> u128 {
    let mut hash = Sha256::new();
    hash.update((client_id.len() as u64).to_le_bytes());
    hash.update(client_id);
    hash.update(element.to_le_bytes());
    hash.update(message_id);
    let digest: [u8; 32] = hash.finalize().into();
    u128::from_le_bytes(std::array::from_fn(|at| digest[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn increment<'a>(client_id: &'a str, message_id: &'a str, element: u32) -> CounterOperation<'a> {
        CounterOperation {
            client_id,
            account: client_id,
            message_id: Some(message_id),
            element,
            value: 1.0,
            decrement: false,
        }
    }

    #[test]
    fn a_repeated_batch_counts_once_for_ten_minutes() {
        let mut counters = Counters::default();
        for element in 0..3 {
            assert_eq!(counters.apply(5, increment("a", "m1", element)), Counted::Fresh);
        }
        for element in 0..3 {
            assert_eq!(
                counters.apply(5 + REMEMBERED_MS, increment("a", "m1", element)),
                Counted::Repeated
            );
        }
        assert_eq!(counters.value(), 3.0);
        assert_eq!(
            counters.apply(6 + REMEMBERED_MS, increment("a", "m1", 0)),
            Counted::Fresh
        );
        assert_eq!(counters.order.len(), 1);
    }

    #[test]
    fn what_was_stored_is_recognised_until_its_time_is_over() {
        let at = |seconds: u64| Now {
            mono_us: seconds * 1_000_000,
            unix_ms: 1_700_000_000_000 + seconds * 1000,
        };
        let mut before = Counters::default();
        for element in 0..300 {
            assert_eq!(
                before.apply(at(50).mono_ms(), increment("a", "m1", element)),
                Counted::Fresh
            );
        }
        let recent = before.recent(at(60));
        assert_eq!(recent.fingerprints.len(), STORED_MAX);
        assert_eq!(recent.counted_ms, at(50).unix_ms);
        // Another process, whose monotonic clock begins anew.
        let later = |seconds: u64| Now {
            mono_us: seconds * 1_000_000,
            unix_ms: at(60 + seconds).unix_ms,
        };
        let mut after = Counters::default();
        after.merge(&before.saved());
        after.recall(&recent, later(1));
        after.recall(&recent, later(2));
        let now_ms = later(3).mono_ms();
        assert_eq!(after.apply(now_ms, increment("a", "m1", 299)), Counted::Repeated);
        assert_eq!(
            after.apply(now_ms, increment("a", "m1", 0)),
            Counted::Fresh,
            "beyond the bound"
        );
        assert_eq!(after.apply(now_ms, increment("a", "m2", 0)), Counted::Fresh);
        assert_eq!(after.order.len(), STORED_MAX + 2);
        let mut much_later = Counters::default();
        much_later.recall(&recent, later(REMEMBERED_MS / 1000));
        assert!(!much_later.remembers());
    }

    #[test]
    fn client_message_and_element_do_not_run_together() {
        let mut counters = Counters::default();
        for (client, message) in [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", "")] {
            assert_eq!(
                counters.apply(0, increment(client, message, 0)),
                Counted::Fresh,
                "{client} {message}"
            );
        }
        let nameless = CounterOperation {
            message_id: None,
            decrement: true,
            ..increment("a", "", 0)
        };
        assert_eq!(counters.apply(0, nameless), Counted::Fresh);
        assert_eq!(counters.apply(0, nameless), Counted::Fresh);
        assert_eq!(counters.value(), 2.0);
        let (mut totals, _) = counters.totals();
        assert!(totals.any(|total| total
            == (
                "a",
                Total {
                    increments: 1.0,
                    decrements: 2.0
                }
            )));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut counters = Counters::default();
        for element in 0..REMEMBERED_MAX as u32 + 10 {
            assert_eq!(counters.apply(0, increment("a", "m", element)), Counted::Fresh);
        }
        assert_eq!(counters.remembered.len(), REMEMBERED_MAX);
        assert_eq!(counters.order.len(), REMEMBERED_MAX);
        assert_eq!(counters.apply(0, increment("a", "m", 11)), Counted::Repeated);
        for client in 0..CLIENTS_MAX + 5 {
            let _ = counters.apply(0, increment(&format!("c{client}"), "m", 0));
        }
        assert_eq!(counters.totals.len(), CLIENTS_MAX);
        assert_eq!(counters.others.increments, 6.0);
    }
}
