//! How the bus is doing: for `/health`, metrics, the log, and the decision to take envelopes.

use crate::cluster::BusFacts;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Shared by both threads, and read by everybody.
#[derive(Debug)]
pub struct Health {
    place: String,
    state: Mutex<State>,
    publishing: AtomicBool,
    receiving: AtomicBool,
    pub(super) counts: Counts,
}

#[derive(Debug)]
struct State {
    /// When connections began to work, or ceased to.
    since: Instant,
    /// The log knows of the trouble.
    told: bool,
}

/// Sums since the start, and gauges.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub connects: AtomicU64,
    pub connect_failures: AtomicU64,
    pub timed: AtomicU64,
    pub timed_us: AtomicU64,
    pub published: AtomicU64,
    pub published_bytes: AtomicU64,
    pub received: AtomicU64,
    pub received_bytes: AtomicU64,
    pub refused: AtomicU64,
    pub dropped: AtomicU64,
    pub documents: AtomicU64,
    pub joining: AtomicU64,
    pub peers: AtomicU64,
}

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Publisher,
    Subscriber,
}

impl Health {
    pub(super) fn new(place: String) -> Health {
        Health {
            place,
            state: Mutex::new(State {
                since: Instant::now(),
                told: false,
            }),
            publishing: AtomicBool::new(false),
            receiving: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    /// Whether envelopes leave and arrive.
    pub fn is_connected(&self) -> bool {
        self.publishing.load(Ordering::Relaxed) && self.receiving.load(Ordering::Relaxed)
    }

    /// Whether envelopes leave.
    pub(super) fn can_publish(&self) -> bool {
        self.publishing.load(Ordering::Relaxed)
    }

    /// Whether envelopes arrive.
    pub(super) fn can_receive(&self) -> bool {
        self.receiving.load(Ordering::Relaxed)
    }

    /// What there is to say now.
    pub fn report(&self, queue_depth: u64, queue_bytes: u64) -> BusFacts {
        let available = self.is_connected();
        let state_ms = self.state().since.elapsed().as_millis() as u64;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusFacts {
            available,
            unavailable_ms: if available { 0 } else { state_ms.max(1) },
            connected_ms: if available { state_ms.max(1) } else { 0 },
            // The first two are no reconnects.
            reconnects: count(&self.counts.connects).saturating_sub(2),
            connect_failures: count(&self.counts.connect_failures),
            queue_depth,
            queue_bytes,
            timed: count(&self.counts.timed),
            timed_us: count(&self.counts.timed_us),
            published: count(&self.counts.published),
            published_bytes: count(&self.counts.published_bytes),
            received: count(&self.counts.received),
            received_bytes: count(&self.counts.received_bytes),
            refused: count(&self.counts.refused),
            dropped: count(&self.counts.dropped),
            documents: count(&self.counts.documents),
            joining: count(&self.counts.joining),
            peers: count(&self.counts.peers),
        }
    }

    /// A connection works. Logs the end of an outage.
    pub(super) fn works(&self, role: Role) {
        let mut state = self.state();
        let was = self.is_connected();
        self.flag(role).store(true, Ordering::Relaxed);
        self.counts.connects.fetch_add(1, Ordering::Relaxed);
        if was || !self.is_connected() {
            return;
        }
        let ms = state.since.elapsed().as_millis();
        state.since = Instant::now();
        if std::mem::take(&mut state.told) {
            tracing::info!(
                "Redis {} is back after {ms} ms; nodes compare what they hold",
                self.place
            );
        } else {
            tracing::info!("connected to Redis {}", self.place);
        }
    }

    /// A connection was lost. Logs the beginning of an outage.
    pub(super) fn lost(&self, role: Role, text: &str) {
        let mut state = self.state();
        let was = self.is_connected();
        self.flag(role).store(false, Ordering::Relaxed);
        if was {
            state.since = Instant::now();
        }
        self.tell(&mut state, text);
    }

    /// A connection could not be made.
    pub(super) fn connect_failed(&self, text: &str) {
        self.counts.connect_failures.fetch_add(1, Ordering::Relaxed);
        self.tell(&mut self.state(), text);
    }

    fn tell(&self, state: &mut State, text: &str) {
        if !std::mem::replace(&mut state.told, true) {
            tracing::error!(
                "Redis {} does not work: {text}. Clients of this node go on among themselves; changes cross nodes when it \
                 is back",
                self.place
            );
        } else {
            tracing::debug!("Redis {}: {text}", self.place);
        }
    }

    fn flag(&self, role: Role) -> &AtomicBool {
        match role {
            Role::Publisher => &self.publishing,
            Role::Subscriber => &self.receiving,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Valid after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
