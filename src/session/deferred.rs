//! Messages of one connection that wait: for authentication (docs/protocol.md §7.4), for the rate limit (§17.4), or
//! because the connection moves to another shard. Order is kept: while one waits, all later ones wait behind it.

use super::received::OwnedMessage;
use crate::limits::DEFERRED_MESSAGE_OVERHEAD_BYTES;
use std::collections::VecDeque;

/// The queue with its cost and the state of throttling.
#[derive(Debug, Default)]
pub struct Deferred {
    messages: VecDeque<OwnedMessage>,
    bytes: usize,
    /// Since when the queue has been full without a break.
    pub full_since_us: Option<u64>,
    /// Messages refused in a row because it stayed full.
    pub refusals: u32,
    /// The rate limit's wake-up is scheduled.
    pub wake_scheduled: bool,
}

impl Deferred {
    /// Nothing waits and nothing is remembered: the queue may go.
    pub fn is_idle(&self) -> bool {
        self.messages.is_empty() && self.full_since_us.is_none() && !self.wake_scheduled && self.refusals == 0
    }

    /// No message waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether a message of that size fits the given bounds.
    pub fn fits(&self, bytes: usize, messages_max: usize, bytes_max: usize) -> bool {
        self.messages.len() < messages_max
            && self.bytes + bytes + DEFERRED_MESSAGE_OVERHEAD_BYTES
                <= bytes_max.max(bytes + DEFERRED_MESSAGE_OVERHEAD_BYTES)
    }

    /// Appends a message.
    pub fn push(&mut self, message: OwnedMessage) {
        self.bytes += message.bytes.len() + DEFERRED_MESSAGE_OVERHEAD_BYTES;
        self.messages.push_back(message);
    }

    /// Puts a message back to the front.
    pub fn push_front(&mut self, message: OwnedMessage) {
        self.bytes += message.bytes.len() + DEFERRED_MESSAGE_OVERHEAD_BYTES;
        self.messages.push_front(message);
    }

    /// Takes the oldest message.
    pub fn pop(&mut self) -> Option<OwnedMessage> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.bytes.len() + DEFERRED_MESSAGE_OVERHEAD_BYTES;
        Some(message)
    }

    /// What the queue costs in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
