//! Whether a thread sleeps, so that it is woken when something has come for it, and costs nobody a system call otherwise.
//!
//! The thread says that it will sleep and *then* looks a last time whether something has come; whoever brings something
//! puts it there and *then* asks whether the thread must be woken. All of it is sequentially consistent: either the thread
//! sees what was brought, or whoever brought it is told to wake the thread. `tests/sleep_and_wake.rs` tries every interleaving.

use crate::sync::{AtomicBool, Ordering};

/// See the module documentation.
pub struct Sleeper {
    asleep: AtomicBool,
}

impl Sleeper {
    /// Of a thread that is awake.
    #[allow(clippy::new_without_default, reason = "awake is a state, not a default")]
    pub fn new() -> Sleeper {
        Sleeper {
            asleep: AtomicBool::new(false),
        }
    }

    /// The thread is about to look a last time before it sleeps.
    pub fn will_sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// The thread does not sleep (any more): nobody need wake it.
    pub fn is_awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Whether the thread must be woken for what was put there before; one caller per sleep is told so.
    pub fn must_be_woken(&self) -> bool {
        self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst)
    }
}
