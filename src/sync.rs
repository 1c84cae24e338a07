//! Locks and atomics of what threads share by a protocol of our own. `tests/sleep_and_wake.rs` compiles those files with
//! a model checker's in their place.

pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub use std::sync::{Mutex, MutexGuard};
