//! How storage is doing: for `/health`, metrics, and the shards' decision to take writes.

use crate::histogram::{BUCKETS, Durations};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an operation may take before the database counts as not answering.
const SLOW: Duration = Duration::from_secs(5);

/// Shared by all threads of storage, and read by everybody.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    /// Milliseconds since `started` at which each operation under way began, plus one; 0: none.
    under_way: Mutex<Vec<u64>>,
    /// When the trouble began, likewise.
    troubled_since_ms: AtomicU64,
    trouble: Mutex<String>,
    stop_at_ms: AtomicU64,
    gave_up: AtomicBool,
    pub(super) counts: Counts,
}

/// Sums since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub commits: AtomicU64,
    pub documents_stored: AtomicU64,
    pub documents_loaded: AtomicU64,
    pub conflicts: AtomicU64,
    pub refused: AtomicU64,
    pub retries: AtomicU64,
    pub store_us: AtomicU64,
    /// Transactions by duration; the last bucket holds those beyond all.
    pub store_buckets: [AtomicU64; BUCKETS + 1],
}

/// Health at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether the database answers.
    pub available: bool,
    /// How long it has not, in milliseconds.
    pub unavailable_ms: u64,
    /// What is wrong, for the operator.
    pub trouble: String,
    /// Transactions committed.
    pub commits: u64,
    /// Documents written by them.
    pub documents_stored: u64,
    /// Documents read.
    pub documents_loaded: u64,
    /// Rows that another server had changed, merged.
    pub conflicts: u64,
    /// Documents the database does not take for their content.
    pub refused: u64,
    /// Operations that were tried again.
    pub retries: u64,
    /// Time spent in transactions, in microseconds.
    pub store_us: u64,
    /// How long each took, in microseconds.
    pub store_time: Durations,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            started: Instant::now(),
            under_way: Mutex::new(Vec::new()),
            troubled_since_ms: AtomicU64::new(0),
            trouble: Mutex::new(String::new()),
            stop_at_ms: AtomicU64::new(u64::MAX),
            gave_up: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }
}

/// A thread's place among the operations under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(usize);

impl Health {
    /// What there is to say now.
    pub fn report(&self) -> HealthReport {
        let now_ms = self.now_ms();
        let since = self.troubled_since_ms.load(Ordering::Relaxed);
        let oldest = self.places().iter().copied().filter(|since| *since > 0).min();
        let stuck = oldest.filter(|since| now_ms.saturating_sub(*since) > SLOW.as_millis() as u64);
        let trouble = match (since, stuck) {
            (0, None) => String::new(),
            (0, Some(_)) => "it does not answer".to_owned(),
            _ => self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let since = [Some(since).filter(|since| *since > 0), stuck]
            .into_iter()
            .flatten()
            .min();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HealthReport {
            available: since.is_none(),
            unavailable_ms: since.map_or(0, |since| now_ms.saturating_sub(since)),
            trouble,
            commits: count(&self.counts.commits),
            documents_stored: count(&self.counts.documents_stored),
            documents_loaded: count(&self.counts.documents_loaded),
            conflicts: count(&self.counts.conflicts),
            refused: count(&self.counts.refused),
            retries: count(&self.counts.retries),
            store_us: count(&self.counts.store_us),
            store_time: Durations::from_parts(
                std::array::from_fn(|index| count(&self.counts.store_buckets[index])),
                count(&self.counts.store_buckets[BUCKETS]),
            )
            .with_sum(count(&self.counts.store_us)),
        }
    }

    /// Milliseconds since the database was last known to work; 0 if it works. Cheap: one load.
    pub fn troubled_ms(&self) -> u64 {
        match self.troubled_since_ms.load(Ordering::Relaxed) {
            0 => 0,
            since => self.now_ms().saturating_sub(since).max(1),
        }
    }

    pub(super) fn place(&self) -> Place {
        let mut places = self.places();
        places.push(0);
        Place(places.len() - 1)
    }

    pub(super) fn begins(&self, place: Place) {
        self.places()[place.0] = self.now_ms() + 1;
    }

    pub(super) fn ends(&self, place: Place) {
        self.places()[place.0] = 0;
    }

    /// The database did what it was asked. Logs the end of an outage.
    pub(super) fn works(&self) {
        let since = self.troubled_since_ms.load(Ordering::Relaxed);
        if since > 0 && self.troubled_since_ms.swap(0, Ordering::Relaxed) > 0 {
            let ms = self.now_ms().saturating_sub(since);
            tracing::info!("the database is back after {ms} ms; everything accepted meanwhile is being stored");
        }
    }

    /// The database did not. Logs the beginning of an outage.
    pub(super) fn fails(&self, text: &str) {
        text.clone_into(&mut self.trouble.lock().unwrap_or_else(PoisonError::into_inner));
        let now_ms = self.now_ms() + 1;
        let first = self
            .troubled_since_ms
            .compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            tracing::error!(
                "the database does not work: {text}. Acknowledgements wait, then writes are refused until it is back"
            );
        }
    }

    /// From `deadline` on nothing is tried again.
    pub(super) fn stop_at(&self, deadline: Instant) {
        let ms = deadline.saturating_duration_since(self.started).as_millis() as u64;
        self.stop_at_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether it is too late to try again; then something will stay undone.
    pub(super) fn gives_up(&self) -> bool {
        let late = self.now_ms() >= self.stop_at_ms.load(Ordering::Relaxed);
        if late {
            self.gave_up.store(true, Ordering::Relaxed);
        }
        late
    }

    pub(super) fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        // Every value is valid by itself.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
