//! What `src/sync.rs` is to the server, for the model checker.
//!
//! Loom treats sequentially consistent accesses as acquiring and releasing ones, but models fences in full. So each such
//! access stands between two fences here, which is what sequential consistency means where all accesses are of this kind.
//! And a store is an exchange: loom would else let it come, for some, before an exchange that has read an older value.

use std::cell::Cell;

pub use loom::sync::atomic::Ordering;
pub use loom::sync::{Mutex, MutexGuard};

thread_local! {
    static WEAK: Cell<bool> = const { Cell::new(false) };
}

/// Whether sequentially consistent accesses are to be only acquiring and releasing, for models run by this thread.
pub fn weaken(weak: bool) {
    WEAK.set(weak);
}

fn is_strict(ordering: Ordering) -> bool {
    ordering == Ordering::SeqCst && !WEAK.get()
}

fn ordered<T>(ordering: Ordering, access: impl FnOnce() -> T) -> T {
    let strict = is_strict(ordering);
    let fence = || {
        if strict {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    };
    fence();
    let result = access();
    fence();
    result
}

/// A flag.
pub struct AtomicBool(loom::sync::atomic::AtomicBool);

impl AtomicBool {
    pub fn new(value: bool) -> Self {
        Self(loom::sync::atomic::AtomicBool::new(value))
    }

    pub fn load(&self, ordering: Ordering) -> bool {
        ordered(ordering, || self.0.load(ordering))
    }

    pub fn store(&self, value: bool, ordering: Ordering) {
        ordered(ordering, || {
            if is_strict(ordering) {
                self.0.swap(value, Ordering::AcqRel);
            } else {
                self.0.store(value, ordering);
            }
        });
    }

    pub fn swap(&self, value: bool, ordering: Ordering) -> bool {
        ordered(ordering, || self.0.swap(value, ordering))
    }
}

/// A number.
pub struct AtomicU64(loom::sync::atomic::AtomicU64);

impl AtomicU64 {
    pub fn new(value: u64) -> Self {
        Self(loom::sync::atomic::AtomicU64::new(value))
    }

    pub fn load(&self, ordering: Ordering) -> u64 {
        ordered(ordering, || self.0.load(ordering))
    }

    pub fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
        ordered(ordering, || self.0.fetch_add(value, ordering))
    }

    pub fn fetch_sub(&self, value: u64, ordering: Ordering) -> u64 {
        ordered(ordering, || self.0.fetch_sub(value, ordering))
    }
}
