//! What every behaviour test shares: the server as a child process, clients of all four kinds, plain HTTP and tokens.
//!
//! Nothing in here uses the server's own code. The frame codec, the clients and the merge rules of the clients are
//! written a second time from docs/protocol.md, so that a mistake on one side cannot hide the same one on the other.

#![allow(
    clippy::new_without_default,
    clippy::should_implement_trait,
    reason = "`SqliteFile::new` makes files, `Client::next` panics"
)]

pub mod bus_proxy;
pub mod client;
pub mod crowd;
pub mod database;
pub mod frame;
pub mod http;
pub mod node;
pub mod redis;
pub mod replica;
pub mod server;
pub mod steady;
pub mod tls;
pub mod token;
pub mod watch;

pub use client::{Client, Dialect, Ending, Message};
pub use server::{Server, ServerBuilder};
pub use steady::Steady;

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Far above any promise, so a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long silence must last before a test believes that nothing comes.
pub const SILENCE: Duration = Duration::from_millis(250);

/// Repeats `attempt` until it gives a value; panics with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The value below which `percent` of the samples lie. Sorts them.
pub fn percentile(samples: &mut [f64], percent: f64) -> f64 {
    assert!(!samples.is_empty(), "no samples");
    samples.sort_by(f64::total_cmp);
    let index = (percent / 100.0 * samples.len() as f64).ceil() as usize;
    samples[index.clamp(1, samples.len()) - 1]
}

/// Milliseconds since 1970.
pub fn unix_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map(|elapsed| elapsed.as_millis() as i64)
        .unwrap_or(0)
}
