//! Time as the pure rooms see it: a value that is handed in, never read.

/// One reading of both clocks, taken once per loop turn by whoever drives a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic microseconds since an arbitrary start. Every timer and every measured duration uses this one.
    pub mono_us: u64,
    /// Unix milliseconds. May step; only clock stamps and things shown to people use it.
    pub unix_ms: u64,
}

impl Now {
    /// Monotonic milliseconds.
    pub fn mono_ms(self) -> u64 {
        self.mono_us / 1000
    }
}
