//! Latency distributions: recorded in nanoseconds, reported in microseconds.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer waits are recorded as this long: 10 minutes.
pub const HIGHEST_TRACKED_NS: u64 = 600_000_000_000;

/// Three digits keep every percentile within 0.1 % of the recorded value.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Points of the curve for each halving of what lies above the percentile.
const CURVE_POINTS_PER_HALVING: u32 = 4;

/// A histogram for latencies in nanoseconds. Record with `saturating_record`.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HIGHEST_TRACKED_NS, SIGNIFICANT_DIGITS).expect("constant bounds that are in order")
}

/// What is reported of a distribution of latencies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    pub count: u64,
    pub min_us: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub max_us: f64,
    /// Timed from when the message was due, not from when it could be sent, so a stalled server cannot hide its stall.
    pub from_intended_time: bool,
    /// Percentile against latency, denser towards the tail.
    pub curve: Vec<CurvePoint>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// 0 to 100.
    pub percentile: f64,
    pub us: f64,
}

impl Latency {
    /// The report of a histogram of nanoseconds; `None` when nothing was recorded.
    pub fn from_histogram(histogram: &Histogram<u64>, from_intended_time: bool) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let at = |percentile: f64| microseconds(histogram.value_at_percentile(percentile));
        let curve = histogram
            .iter_quantiles(CURVE_POINTS_PER_HALVING)
            .map(|step| CurvePoint {
                percentile: step.quantile_iterated_to() * 100.0,
                us: microseconds(step.value_iterated_to().min(histogram.max())),
            })
            .collect();
        Some(Self {
            count: histogram.len(),
            min_us: microseconds(histogram.min()),
            mean_us: histogram.mean() / 1000.0,
            p50_us: at(50.0),
            p90_us: at(90.0),
            p95_us: at(95.0),
            p99_us: at(99.0),
            p99_9_us: at(99.9),
            max_us: microseconds(histogram.max()),
            from_intended_time,
            curve,
        })
    }
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// A histogram on its way from one process of the load tester to another: value and count of each bucket in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedLatency {
    pub buckets: Vec<(u64, u64)>,
}

impl RecordedLatency {
    pub fn from_histogram(histogram: &Histogram<u64>) -> Self {
        let buckets = histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect();
        Self { buckets }
    }

    /// Adds these latencies to a histogram of [`new_histogram`]; nothing is lost, the buckets are the same.
    pub fn add_to(&self, histogram: &mut Histogram<u64>) {
        for (value, count) in &self.buckets {
            histogram.saturating_record_n(*value, *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_distribution_are_reported_in_microseconds() {
        let mut histogram = new_histogram();
        for us in 1..=10_000u64 {
            histogram.saturating_record(us * 1000);
        }
        let latency = Latency::from_histogram(&histogram, true).expect("recorded values");
        assert_eq!(latency.count, 10_000);
        for (measured, expected) in [
            (latency.p50_us, 5_000.0),
            (latency.p90_us, 9_000.0),
            (latency.p99_us, 9_900.0),
            (latency.p99_9_us, 9_990.0),
            (latency.max_us, 10_000.0),
        ] {
            assert!(
                (measured - expected).abs() <= expected * 0.001,
                "{measured} for {expected}"
            );
        }
        assert!(latency.curve.windows(2).all(|pair| pair[0].us <= pair[1].us));
        assert_eq!(latency.curve.last().map(|point| point.percentile), Some(100.0));
    }

    #[test]
    fn nothing_recorded_is_no_latency() {
        assert_eq!(Latency::from_histogram(&new_histogram(), false), None);
    }

    #[test]
    fn histograms_of_two_processes_merge_without_loss() {
        let (mut first, mut second, mut both) = (new_histogram(), new_histogram(), new_histogram());
        for ns in (1..3_000_000u64).step_by(977) {
            let part = if ns % 2 == 0 { &mut first } else { &mut second };
            part.saturating_record(ns);
            both.saturating_record(ns);
        }
        let mut merged = new_histogram();
        RecordedLatency::from_histogram(&first).add_to(&mut merged);
        RecordedLatency::from_histogram(&second).add_to(&mut merged);
        assert_eq!(
            RecordedLatency::from_histogram(&merged),
            RecordedLatency::from_histogram(&both)
        );
    }
}
