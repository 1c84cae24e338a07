//! Remembers refresh tokens that were used, so that a stolen one is noticed (docs/protocol.md §16.2).
//!
//! Every refresh gives out a new token of the same family (the login it descends from). When a used token comes again, two
//! parties hold the same family, and nobody can tell which one is the thief: the whole family ends. Repeats within
//! [`REPEAT_GRACE_S`] are let through, because browsers with several tabs and clients whose answer was lost do that.
//!
//! Memory is bounded by a capacity; when it is reached the oldest entries are forgotten, and with them the detection for
//! those tokens, never their expiry. What is remembered does not survive a restart.

use hashbrown::HashMap;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// Repeats of a used token that are no alarm, in seconds.
pub const REPEAT_GRACE_S: u64 = 10;
/// Default number of used tokens that are remembered: about 5 MB.
const CAPACITY: usize = 65_536;

/// What became of a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redemption {
    /// It may be exchanged.
    Granted,
    /// It was used before or its family has ended: refuse.
    Refused,
}

type Key = [u8; 16];

/// The memory of used refresh tokens.
pub struct RefreshLedger {
    /// When each token was first used, Unix seconds.
    used: Remembered,
    /// Families that ended, and when.
    ended: Remembered,
}

impl Default for RefreshLedger {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl RefreshLedger {
    /// Remembers at most `capacity` used tokens and as many ended families.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            used: Remembered::new(capacity),
            ended: Remembered::new(capacity),
        }
    }

    /// Uses up the token with id `token` of login `family`.
    pub fn redeem(&mut self, token: &str, family: &str, now_unix_s: u64) -> Redemption {
        let (token, family) = (key(token), key(family));
        if self.ended.at(&family).is_some() {
            return Redemption::Refused;
        }
        match self.used.at(&token) {
            None => {
                self.used.insert(token, now_unix_s);
                Redemption::Granted
            }
            Some(first) if now_unix_s.saturating_sub(first) <= REPEAT_GRACE_S => Redemption::Granted,
            Some(_) => {
                self.ended.insert(family, now_unix_s);
                Redemption::Refused
            }
        }
    }
}

/// A map that forgets its oldest entry when it is full.
struct Remembered {
    at: HashMap<Key, u64>,
    order: VecDeque<Key>,
    capacity: usize,
}

impl Remembered {
    fn new(capacity: usize) -> Self {
        Self {
            at: HashMap::new(),
            order: VecDeque::new(),
            capacity: capacity.max(1),
        }
    }

    fn at(&self, key: &Key) -> Option<u64> {
        self.at.get(key).copied()
    }

    fn insert(&mut self, key: Key, at: u64) {
        if self.order.len() >= self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.at.remove(&oldest);
        }
        if self.at.insert(key, at).is_none() {
            self.order.push_back(key);
        }
    }
}

/// Ids come from tokens of any length; half a digest identifies them well enough.
fn key(text: &str) -> Key {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    digest[..16].try_into().expect("16 of 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Redemption::{Granted, Refused};

    #[test]
    fn a_used_token_that_comes_again_ends_its_family() {
        let mut ledger = RefreshLedger::default();
        assert_eq!(ledger.redeem("t1", "f", 100), Granted);
        assert_eq!(ledger.redeem("t2", "f", 200), Granted);
        assert_eq!(ledger.redeem("t1", "f", 300), Refused);
        assert_eq!(
            ledger.redeem("t3", "f", 301),
            Refused,
            "the family has ended for both holders"
        );
        assert_eq!(ledger.redeem("u1", "g", 301), Granted, "other families live on");
    }

    #[test]
    fn a_repeat_at_once_is_no_theft() {
        let mut ledger = RefreshLedger::default();
        assert_eq!(ledger.redeem("t1", "f", 100), Granted);
        assert_eq!(ledger.redeem("t1", "f", 100 + REPEAT_GRACE_S), Granted);
        assert_eq!(ledger.redeem("t1", "f", 101 + REPEAT_GRACE_S), Refused);
    }

    #[test]
    fn memory_is_bounded() {
        let mut ledger = RefreshLedger::with_capacity(8);
        for token in 0..1000 {
            assert_eq!(ledger.redeem(&token.to_string(), "f", token), Granted);
        }
        assert_eq!((ledger.used.at.len(), ledger.used.order.len()), (8, 8));
        assert_eq!(ledger.redeem("999", "f", 5000), Refused, "recent ones are still known");
    }
}
