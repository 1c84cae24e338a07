//! Token buckets per key in bounded memory: HTTP requests per address, logins per address and account.
//!
//! A bucket that has refilled is worth as much as none and is dropped when room is needed. When the table is full of keys
//! that all used something lately, strangers share one bucket: a flood of addresses makes the limit stricter for
//! newcomers, never the table larger.

use hashbrown::HashMap;
use std::hash::Hash;

/// Time between two searches for refilled buckets when the table is full, so that a flood does not buy a scan each time.
const SWEEP_INTERVAL_MS: u64 = 1000;

/// Buckets for keys of one kind.
pub struct Budgets<K> {
    buckets: HashMap<K, Bucket>,
    strangers: Bucket,
    per_minute_max: u32,
    capacity: usize,
    next_sweep_ms: u64,
}

/// Tokens are counted in 1/60000, so that refilling per millisecond is exact: a minute has that many milliseconds.
#[derive(Clone, Copy)]
struct Bucket {
    tokens: u64,
    at_ms: u64,
}

const TOKEN: u64 = 60_000;

impl<K: Hash + Eq> Budgets<K> {
    /// At most `per_minute_max` uses per key and minute (`u32::MAX` = no limit), for at most `capacity` keys at a time.
    pub fn new(per_minute_max: u32, capacity: usize) -> Self {
        let strangers = Bucket {
            tokens: u64::from(per_minute_max) * TOKEN,
            at_ms: 0,
        };
        Self {
            buckets: HashMap::new(),
            strangers,
            per_minute_max,
            capacity,
            next_sweep_ms: 0,
        }
    }

    /// Uses one. `Err` holds the seconds after which another one is there.
    pub fn spend(&mut self, key: K, now_ms: u64) -> Result<(), u64> {
        if self.per_minute_max == u32::MAX {
            return Ok(());
        }
        let full = u64::from(self.per_minute_max) * TOKEN;
        if self.buckets.len() >= self.capacity && !self.buckets.contains_key(&key) {
            self.sweep(now_ms);
        }
        let has_room = self.buckets.len() < self.capacity || self.buckets.contains_key(&key);
        let bucket = if has_room {
            self.buckets.entry(key).or_insert(Bucket {
                tokens: full,
                at_ms: now_ms,
            })
        } else {
            &mut self.strangers
        };
        bucket.refill(self.per_minute_max, now_ms);
        match bucket.tokens.checked_sub(TOKEN) {
            Some(rest) => {
                bucket.tokens = rest;
                Ok(())
            }
            None => {
                let missing = TOKEN - bucket.tokens;
                let per_second = u64::from(self.per_minute_max).max(1) * 1000;
                Err(missing.div_ceil(per_second).max(1))
            }
        }
    }

    /// Drops buckets that have refilled.
    fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.next_sweep_ms {
            return;
        }
        self.next_sweep_ms = now_ms + SWEEP_INTERVAL_MS;
        let full = u64::from(self.per_minute_max) * TOKEN;
        let per_minute_max = self.per_minute_max;
        self.buckets.retain(|_, bucket| {
            bucket.refill(per_minute_max, now_ms);
            bucket.tokens < full
        });
    }
}

impl Bucket {
    fn refill(&mut self, per_minute_max: u32, now_ms: u64) {
        let gained = now_ms
            .saturating_sub(self.at_ms)
            .saturating_mul(u64::from(per_minute_max));
        self.tokens = self
            .tokens
            .saturating_add(gained)
            .min(u64::from(per_minute_max) * TOKEN);
        self.at_ms = self.at_ms.max(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_uses_per_minute_and_gets_them_back() {
        let mut budgets = Budgets::new(10, 100);
        assert!((0..10).all(|_| budgets.spend("a", 0).is_ok()));
        assert_eq!(budgets.spend("a", 0), Err(6));
        assert_eq!(budgets.spend("b", 0), Ok(()), "others are not affected");
        assert_eq!(budgets.spend("a", 5_999), Err(1));
        assert_eq!(budgets.spend("a", 6_000), Ok(()));
        assert!(budgets.spend("a", 6_000).is_err());
        assert_eq!((0..20).filter(|_| budgets.spend("a", 600_000).is_ok()).count(), 10);
    }

    #[test]
    fn memory_is_bounded_and_a_flood_is_still_limited() {
        let mut budgets = Budgets::new(10, 50);
        let granted = (0..10_000).filter(|key| budgets.spend(*key, 1).is_ok()).count();
        assert_eq!(granted, 50 + 10, "fifty with a bucket, ten out of the shared one");
        assert_eq!(budgets.buckets.len(), 50);
        assert_eq!(budgets.spend(77_777, 100_000), Ok(()), "refilled buckets make room");
        assert!(budgets.buckets.len() < 50);
    }

    #[test]
    fn no_limit_is_no_table() {
        let mut budgets = Budgets::new(u32::MAX, 1);
        assert!((0..1000).all(|key| budgets.spend(key, 0).is_ok()));
        assert!(budgets.buckets.is_empty());
    }
}
