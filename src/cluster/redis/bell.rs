//! Wakes a thread that waits in `mio::Poll`, and costs one load when it does not.

use mio::{Poll, Token, Waker};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who wakes whom: rung after something was put where the thread looks before it sleeps. Sequentially consistent on both
/// sides: either the thread sees what was put there, or the ringer sees that it sleeps.
pub(super) struct Bell {
    asleep: AtomicBool,
    waker: Waker,
}

/// The bell's token; the connection has another.
pub(super) const BELL: Token = Token(0);

impl Bell {
    pub fn new(poll: &Poll) -> io::Result<Bell> {
        Ok(Bell {
            asleep: AtomicBool::new(false),
            waker: Waker::new(poll.registry(), BELL)?,
        })
    }

    /// Wakes the thread if it sleeps.
    pub fn ring(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.ring_always();
        }
    }

    /// Wakes the thread, or lets it not fall asleep the next time.
    pub fn ring_always(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!("a thread of the bus cannot be woken: {error}");
        }
    }

    /// The thread is about to look a last time before it sleeps.
    pub fn will_sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// The thread is awake.
    pub fn is_awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}
