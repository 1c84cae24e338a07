//! Distributions in fixed room: counting a value is one shift and three additions, and allocates nothing.

use std::fmt::Write as _;

/// Buckets of every distribution.
pub const BUCKETS: usize = 20;

/// How often values fell below each power of two, from `2^FIRST` on; what is larger than the last bucket counts only in
/// `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram<const FIRST: u32> {
    buckets: [u64; BUCKETS],
    count: u64,
    sum: u64,
}

/// Microseconds, from 64 µs to 34 s.
pub type Durations = Histogram<6>;
/// Counts, from 1 to 524,288.
pub type Sizes = Histogram<0>;

impl<const FIRST: u32> Default for Histogram<FIRST> {
    fn default() -> Self {
        Self::from_parts([0; BUCKETS], 0)
    }
}

impl<const FIRST: u32> Histogram<FIRST> {
    /// The bucket of a value; [`BUCKETS`] when it is beyond all.
    #[inline]
    pub fn bucket(value: u64) -> usize {
        // The smallest n with value <= 2^n.
        let exponent = u64::BITS - value.saturating_sub(1).leading_zeros();
        (exponent.saturating_sub(FIRST) as usize).min(BUCKETS)
    }

    /// One value.
    #[inline]
    pub fn observe(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(Self::bucket(value)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// From counts that were kept elsewhere: one for each bucket, with everything beyond them in `beyond`.
    pub fn from_parts(buckets: [u64; BUCKETS], beyond: u64) -> Self {
        Self {
            count: buckets.iter().sum::<u64>() + beyond,
            buckets,
            sum: 0,
        }
    }

    /// The same with the sum of all values.
    pub fn with_sum(mut self, sum: u64) -> Self {
        self.sum = sum;
        self
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum += other.sum;
    }

    /// The lines of Prometheus' text format. `labels` is empty or ends with a comma; values are divided by `per`.
    pub fn write(&self, text: &mut String, name: &str, labels: &str, per: f64) {
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            below += count;
            let bound = 2f64.powi(FIRST as i32 + index as i32) / per;
            let _ = writeln!(text, "{name}_bucket{{{labels}le=\"{bound}\"}} {below}");
        }
        let (sum, plain) = (self.sum as f64 / per, labels.trim_end_matches(','));
        let plain = if plain.is_empty() {
            String::new()
        } else {
            format!("{{{plain}}}")
        };
        let _ = writeln!(text, "{name}_bucket{{{labels}le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(text, "{name}_sum{plain} {sum}\n{name}_count{plain} {}", self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_below_their_bound() {
        for (value, bucket) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (1 << 19, 19),
            ((1 << 19) + 1, BUCKETS),
        ] {
            assert_eq!(Sizes::bucket(value), bucket, "{value}");
        }
        assert_eq!(
            (
                Durations::bucket(64),
                Durations::bucket(65),
                Durations::bucket(u64::MAX)
            ),
            (0, 1, BUCKETS)
        );
    }

    #[test]
    fn lines_are_cumulative_and_end_with_all() {
        let mut sizes = Sizes::default();
        [1, 2, 2, 1 << 30].into_iter().for_each(|value| sizes.observe(value));
        let mut text = String::new();
        sizes.write(&mut text, "x", "shard=\"1\",", 1.0);
        assert!(
            text.starts_with("x_bucket{shard=\"1\",le=\"1\"} 1\nx_bucket{shard=\"1\",le=\"2\"} 3\n"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "x_bucket{shard=\"1\",le=\"+Inf\"} 4\nx_sum{shard=\"1\"} 1073741829\nx_count{shard=\"1\"} 4\n"
            ),
            "{text}"
        );
    }
}
