//! Periodic work: heartbeats (docs/protocol.md §14), expiry of what documents remember, and the orderly end (§21).

use super::{Due, Shard};
use crate::handler::Effect;
use crate::ids::{SessionRef, Slot};
use crate::limits::HTTP_REQUEST_US;
use crate::session::Stage;
use crate::session::outbox::Origin;
use crate::websocket;

/// Walks over the slab in slices, so that every connection is looked at once per heartbeat interval and none has a
/// timer.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    next_slot: usize,
    due_us: u64,
}

/// Slices per round.
const SLICES: u64 = 64;
/// Shortest time between two slices.
const SLICE_US_MIN: u64 = 20_000;
/// How often tombstones and counter memories are looked at.
const HOUSEKEEPING_US: u64 = 600_000_000;

impl Shard {
    /// The time in which every connection is looked at once; `None`: heartbeats are off.
    fn sweep_period_us(&self) -> Option<u64> {
        let sync = &self.context.config.sync;
        let interval_ms = match (sync.heartbeat_interval_ms, sync.heartbeat_timeout_ms) {
            (0, u64::MAX) => return None,
            (0, timeout_ms) => timeout_ms / 2,
            (interval_ms, timeout_ms) => interval_ms.min(timeout_ms / 2),
        };
        Some(interval_ms.max(1).saturating_mul(1000))
    }

    /// When the next slice is due.
    pub(super) fn sweep_due_us(&self) -> Option<u64> {
        self.sweep_period_us()
            .filter(|_| !self.sessions.is_empty())
            .map(|_| self.sweep.due_us)
    }

    /// Looks at the next slice of connections.
    pub(super) fn run_sweep(&mut self) {
        let Some(period_us) = self.sweep_period_us() else {
            return;
        };
        let now_us = self.now.mono_us;
        if now_us < self.sweep.due_us {
            return;
        }
        let slice_us = (period_us / SLICES).max(SLICE_US_MIN.min(period_us));
        self.sweep.due_us = now_us + slice_us;
        let slots = self.sessions.slots();
        let slices = (period_us / slice_us).max(1) as usize;
        let end = (self.sweep.next_slot + slots.div_ceil(slices)).min(slots);
        for slot in self.sweep.next_slot..end {
            self.check_life(Slot(slot as u32));
        }
        self.sweep.next_slot = if end >= slots { 0 } else { end };
        if !std::mem::replace(&mut self.library.housekeeping_scheduled, true) {
            self.deadlines.at(now_us + HOUSEKEEPING_US, Due::Housekeeping);
        }
    }

    /// Pings a silent connection, and ends one that stays silent.
    fn check_life(&mut self, slot: Slot) {
        let sync = &self.context.config.sync;
        let (interval_ms, timeout_ms) = (sync.heartbeat_interval_ms, sync.heartbeat_timeout_ms);
        let now_ms = self.now.mono_ms();
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let silent_ms = u64::from(session.silent_ms(now_ms));
        if session.stage != Stage::Open {
            return;
        }
        if silent_ms >= timeout_ms {
            self.metrics.heartbeat_timeouts += 1;
            return self.close(slot, 1001, "Heartbeat timeout");
        }
        // Half an interval of life is enough to be spared this round's ping.
        if interval_ms > 0 && silent_ms >= interval_ms / 2 && session.outbox.is_none() {
            let frame = websocket::ping_frame(b"");
            if let Some(outbox) = self.outbox(slot) {
                outbox.push(frame, Origin::Owned, true);
            }
            self.metrics.pings += 1;
        }
    }

    /// Forgets old tombstones and counter messages.
    pub(super) fn housekeeping_due(&mut self) {
        self.library.housekeeping_scheduled = false;
        let (unix_ms, mono_ms) = (self.now.unix_ms, self.now.mono_ms());
        let (limits, set_limits) = (self.library.limits, self.library.set_limits);
        let mut disposable = Vec::new();
        for (place, shelf) in self.library.iter_mut() {
            shelf.fields.expire_tombstones(unix_ms, &limits);
            if let Some(set) = &mut shelf.set {
                set.expire(unix_ms, &set_limits);
            }
            if let Some(counters) = &mut shelf.counters {
                counters.expire(mono_ms);
            }
            if shelf.is_disposable() {
                disposable.push(place);
            }
        }
        for place in disposable {
            self.dispose(place);
        }
    }

    /// Begins the orderly end: everything accepted is sent, then every connection is closed with 1001.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        let waiting: Vec<u32> = self.library.iter_mut().map(|(place, _)| place).collect();
        for place in waiting {
            let Some(shelf) = self.library.at(place) else { continue };
            if shelf.flush_scheduled {
                self.library.changed.push(place);
            }
            if self
                .library
                .at(place)
                .and_then(|shelf| shelf.text.as_ref())
                .is_some_and(|text| text.relay_scheduled)
            {
                self.text_relay_due(place);
            }
        }
        self.flush_changed();
        self.deliver_local();
        self.close_drained_later();
    }

    /// Fan-outs of other shards are on their way: connections are closed a moment later. A connection that was on its
    /// way itself gets a moment of its own, else it would stay open until the process gives up on it.
    pub(super) fn close_drained_later(&mut self) {
        self.deadlines.at(self.now.mono_us + DRAIN_US, Due::Drained);
    }

    /// Closes every connection.
    pub(super) fn drained_due(&mut self) {
        let slots: Vec<Slot> = self.sessions.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            match self.stage(slot) {
                Some(Stage::Open) => self.close(slot, 1001, "Server shutdown"),
                Some(Stage::Http | Stage::Lingering) => {
                    self.forget(slot, false);
                    self.effects.push(Effect::Close(slot));
                }
                Some(Stage::Closing) | None => {}
            }
        }
    }

    /// An HTTP connection that took too long for its request, or stayed open unused.
    pub(super) fn http_request_due(&mut self, reference: SessionRef) {
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        let Some(session) = self.sessions.at(slot).filter(|session| session.stage == Stage::Http) else {
            return;
        };
        let Some(http) = session.extra.as_ref().and_then(|extra| extra.http.as_ref()) else {
            return;
        };
        let since_us = if http.awaits_answer {
            self.now.mono_us
        } else {
            http.since_us
        };
        let due_us = since_us + HTTP_REQUEST_US;
        if due_us > self.now.mono_us {
            return self.deadlines.at(due_us, Due::Http(reference));
        }
        self.drop_connection(slot);
    }
}

/// Time that fan-outs between shards get at shut-down before connections are closed.
const DRAIN_US: u64 = 20_000;
