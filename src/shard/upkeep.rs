//! Periodic work: heartbeats (docs/protocol.md §14), expiry of what documents remember, and the orderly end (§21).

use super::{Due, Shard};
use crate::handler::Effect;
use crate::ids::{SessionRef, Slot};
use crate::limits::{HTTP_REQUEST_US, STALLED_SOCKET_US};
use crate::mutation::Mutation;
use crate::session::outbox::Origin;
use crate::session::{Flags, Stage};
use crate::websocket;

/// Walks over the slab at an even pace, so that every connection is looked at once per round and none has a timer.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    next_slot: usize,
    rounds: u64,
    round_began_us: u64,
    due_us: u64,
}

/// A round is walked in at least this many steps,
const STEPS_MIN: usize = 64;
/// each of at most this many connections, so that pings are spread and do not delay everybody else in bursts,
const STEP_SLOTS_MAX: usize = 256;
/// unless steps would follow one another faster than this.
const STEP_US_MIN: u64 = 5_000;
/// Connections looked at in one turn when a busy moment is made up for.
const TURN_SLOTS_MAX: usize = 2048;
/// How much lateness is made up for, and at most an eighth of a round.
const CATCH_UP_US: u64 = 1_000_000;
/// Longest round, whatever the heartbeat interval: stalled sockets and expiring tokens are looked for as well.
const ROUND_US_MAX: u64 = STALLED_SOCKET_US;
/// How often tombstones and counter memories are looked at.
const HOUSEKEEPING_US: u64 = 600_000_000;

impl Shard {
    /// The time in which every connection is looked at once.
    pub(super) fn sweep_period_us(&self) -> u64 {
        let sync = &self.context.config.sync;
        let period_ms = match (sync.heartbeat_interval_ms, sync.heartbeat_timeout_ms) {
            (0, timeout_ms) => timeout_ms / 2,
            (interval_ms, timeout_ms) => interval_ms.min(timeout_ms / 2),
        };
        period_ms.max(1).saturating_mul(1000).min(ROUND_US_MAX)
    }

    /// When the next slice is due.
    pub(super) fn sweep_due_us(&self) -> Option<u64> {
        (!self.sessions.is_empty()).then_some(self.sweep.due_us)
    }

    /// Looks at the connections whose time has come. A connection's next look is never much less than a round away,
    /// however late this one is: who was asked for a sign of life gets that time to give it.
    pub(super) fn run_sweep(&mut self) {
        let now_us = self.now.mono_us;
        if now_us < self.sweep.due_us {
            return;
        }
        let period_us = self.sweep_period_us();
        let slots = self.sessions.slots().max(1);
        // What a busy moment held up is not all made up for: the pace stays even.
        let scheduled_us = period_us * (self.sweep.next_slot as u64 + 1) / slots as u64;
        let earliest_us = now_us.saturating_sub(scheduled_us + CATCH_UP_US.min(period_us / 8));
        self.sweep.round_began_us = self.sweep.round_began_us.max(earliest_us);
        let elapsed_us = now_us - self.sweep.round_began_us.min(now_us);
        let target = slots.min((slots as u128 * u128::from(elapsed_us) / u128::from(period_us)) as usize);
        let end = target.min(self.sweep.next_slot + TURN_SLOTS_MAX);
        for slot in self.sweep.next_slot..end {
            self.check_life(Slot(slot as u32));
        }
        self.sweep.next_slot = self.sweep.next_slot.max(end);
        if self.sweep.next_slot >= slots {
            self.sweep.rounds += 1;
            self.sweep.round_began_us += period_us;
            self.sweep.next_slot = 0;
        }
        self.sweep.due_us = if end < target {
            now_us
        } else {
            let step_slots = (slots / STEPS_MIN).clamp(1, STEP_SLOTS_MAX) as u64;
            let step_us = period_us * step_slots / (slots as u64).max(STEPS_MIN as u64);
            now_us + step_us.max(STEP_US_MIN.min(period_us))
        };
        if !std::mem::replace(&mut self.library.housekeeping_scheduled, true) {
            self.deadlines.at(now_us + HOUSEKEEPING_US, Due::Housekeeping);
        }
    }

    /// Pings a silent connection, ends one that stays silent, and sets deadlines for what may end before the next round.
    fn check_life(&mut self, slot: Slot) {
        let round_ms = self.sweep_period_us() / 1000;
        let sync = &self.context.config.sync;
        let (interval_ms, timeout_ms) = (sync.heartbeat_interval_ms, sync.heartbeat_timeout_ms);
        let now_ms = self.now.mono_ms();
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let silent_ms = u64::from(session.silent_ms(now_ms));
        if session.outbox.is_some() {
            self.watch_stall(slot);
        }
        let Some(session) = self
            .sessions
            .at_mut(slot)
            .filter(|session| session.stage == Stage::Open)
        else {
            return;
        };
        let expires = session.flags.has(Flags::AUTHENTICATED);
        // Silence counts against a peer only if it was asked: a round that took too long is our fault, not its.
        let is_late = silent_ms >= timeout_ms && !Mutation::KeepSilentConnections.is_on();
        if is_late && (interval_ms == 0 || session.flags.has(Flags::PINGED)) {
            self.metrics.heartbeat_timeouts += 1;
            return self.close(slot, 1001, "Heartbeat timeout");
        }
        // The next round may come half a round too late or too early.
        if interval_ms > 0 && silent_ms + round_ms / 2 >= interval_ms && session.outbox.is_none() {
            let frame = websocket::ping_frame(b"");
            if let Some(outbox) = self.outbox(slot) {
                outbox.push(frame, Origin::Owned, true);
            }
            self.metrics.pings += 1;
            if let Some(session) = self.sessions.at_mut(slot) {
                session.flags.set(Flags::PINGED);
            }
        }
        if expires {
            self.watch_token(slot);
            self.note_session_in_turn(slot);
        }
    }

    /// How often every connection has been looked at.
    pub(super) fn sweep_rounds(&self) -> u64 {
        self.sweep.rounds
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
        self.drain.started_us = self.now.mono_us;
        self.send_pending();
        self.close_drained_later();
    }

    /// Sends what waits for the end of a window.
    fn send_pending(&mut self) {
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
        self.leave_nodes();
    }

    /// Fan-outs of other shards are on their way: connections are closed a moment later. A connection that was on its
    /// way itself gets a moment of its own, else it would stay open until the process gives up on it.
    pub(super) fn close_drained_later(&mut self) {
        self.drain_again_in(DRAIN_US);
    }

    fn drain_again_in(&mut self, delay_us: u64) {
        if !std::mem::replace(&mut self.drain.scheduled, true) {
            self.deadlines.at(self.now.mono_us + delay_us, Due::Drained);
        }
    }

    /// Closes connections: WebSockets a few at a time over the configured window, then everything.
    pub(super) fn drained_due(&mut self) {
        self.drain.scheduled = false;
        let now_us = self.now.mono_us;
        // Acknowledgements that wait for the database leave before their connections are closed, if it answers in time.
        if self.has_unsaved() && now_us < self.drain.store_until_us() {
            return self.close_drained_later();
        }
        if !self.drain.window_over {
            let window_us = self.context.config.operation.drain_ms * 1000;
            let began_us = *self.drain.window_began_us.get_or_insert(now_us);
            let left_us = (began_us + window_us).saturating_sub(now_us);
            if self.websockets > 0 && left_us > 0 {
                self.close_some(left_us);
                return self.drain_again_in(DRAIN_STEP_US);
            }
            self.drain.window_over = true;
            self.drain.window_ended_us = now_us;
            if now_us > began_us {
                // Those that were still open went on writing.
                self.send_pending();
                return self.close_drained_later();
            }
        }
        self.close_rest();
    }

    /// Closes as many WebSockets as keeps the pace, those first that nobody owes an answer.
    fn close_some(&mut self, left_us: u64) {
        let steps = left_us.div_ceil(DRAIN_STEP_US);
        let count = (self.websockets.div_ceil(steps)).max(DRAIN_STEP_CLOSES_MIN) as usize;
        let ready = |session: &crate::session::Session| session.stage == Stage::Open && session.outstanding == 0;
        let open = self.sessions.iter().filter(|(_, session)| ready(session));
        let chosen: Vec<Slot> = open.map(|(slot, _)| slot).take(count).collect();
        for slot in chosen {
            self.close(slot, 1001, "Server shutdown");
        }
    }

    fn close_rest(&mut self) {
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
/// Time that the database gets to take what was accepted before connections are closed.
const STORE_DRAIN_US: u64 = 6_000_000;
/// The same for what was accepted while the window ran.
const STORE_REST_US: u64 = 500_000;
/// Time between two steps of closing connections.
const DRAIN_STEP_US: u64 = 10_000;
/// Connections closed in each step at least: few connections need no window.
const DRAIN_STEP_CLOSES_MIN: u64 = 1;

/// How far the orderly end is.
#[derive(Debug, Default)]
pub(super) struct Drain {
    started_us: u64,
    window_began_us: Option<u64>,
    window_ended_us: u64,
    window_over: bool,
    /// [`Due::Drained`] is scheduled.
    scheduled: bool,
}

impl Drain {
    /// Whether new connections are taken, so that whoever asks learns that the server is not ready.
    pub fn is_accepting(&self, draining: bool) -> bool {
        draining && !self.window_over
    }

    fn store_until_us(&self) -> u64 {
        match (self.window_over, self.window_began_us) {
            (true, _) => (self.started_us + STORE_DRAIN_US).max(self.window_ended_us + STORE_REST_US),
            // Storage is waited for before the first is closed, and again after the last.
            (false, Some(_)) => 0,
            (false, None) => self.started_us + STORE_DRAIN_US,
        }
    }
}
