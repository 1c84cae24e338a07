//! Wakes a thread that waits in `mio::Poll`, and costs one load when it does not.

use crate::sleeper::Sleeper;
use mio::{Poll, Token, Waker};
use std::io;

/// Who wakes whom: rung after something was put where the thread looks before it sleeps.
pub(super) struct Bell {
    sleeper: Sleeper,
    waker: Waker,
}

/// The bell's token; the connection has another.
pub(super) const BELL: Token = Token(0);

impl Bell {
    pub fn new(poll: &Poll) -> io::Result<Bell> {
        Ok(Bell {
            sleeper: Sleeper::new(),
            waker: Waker::new(poll.registry(), BELL)?,
        })
    }

    /// Wakes the thread if it sleeps.
    pub fn ring(&self) {
        if self.sleeper.must_be_woken() {
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
        self.sleeper.will_sleep();
    }

    /// The thread is awake.
    pub fn is_awake(&self) {
        self.sleeper.is_awake();
    }
}
