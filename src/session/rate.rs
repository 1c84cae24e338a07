//! The message rate of one connection: a token bucket (docs/protocol.md §17.4).

/// Tokens and the time of their last refill. A limit of `u32::MAX` switches the bucket off.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: f32,
    refilled_ms: u32,
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(per_minute: u32, now_ms: u64) -> TokenBucket {
        TokenBucket {
            tokens: per_minute as f32,
            refilled_ms: now_ms as u32,
        }
    }

    /// Takes one token if there is one. Capacity is `per_minute`, refill `per_minute / 60` a second.
    pub fn take(&mut self, per_minute: u32, now_ms: u64) -> bool {
        if per_minute == u32::MAX {
            return true;
        }
        let elapsed_ms = (now_ms as u32).wrapping_sub(self.refilled_ms);
        self.refilled_ms = now_ms as u32;
        self.tokens = (self.tokens + elapsed_ms as f32 * per_minute as f32 / 60_000.0).min(per_minute as f32);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Milliseconds until [`TokenBucket::take`] can succeed, at least 1.
    pub fn wait_ms(&self, per_minute: u32) -> u64 {
        let missing = (1.0 - self.tokens).max(0.0);
        (missing * 60_000.0 / per_minute.max(1) as f32).ceil().max(1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_the_limit_passes_and_then_the_refill_rate() {
        let mut bucket = TokenBucket::full(600, 0);
        assert!((0..600).all(|_| bucket.take(600, 0)));
        assert!(!bucket.take(600, 0));
        assert_eq!(bucket.wait_ms(600), 100);
        assert!(bucket.take(600, 101));
        assert!(!bucket.take(600, 102));
    }

    #[test]
    fn waiting_never_gives_more_than_the_limit() {
        let mut bucket = TokenBucket::full(60, 0);
        let taken = (0..1000).filter(|_| bucket.take(60, 3_600_000)).count();
        assert_eq!(taken, 60);
    }

    #[test]
    fn the_greatest_limit_switches_it_off() {
        let mut bucket = TokenBucket::full(u32::MAX, 0);
        assert!((0..10_000).all(|_| bucket.take(u32::MAX, 0)));
    }
}
