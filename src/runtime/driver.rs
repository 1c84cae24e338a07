//! The loop of one shard: the only task that touches its handler and its sockets.
//!
//! A turn takes in what sockets and mailbox have, lets the handler decide, and carries that out. When nothing is left the
//! shard re-checks and then awaits its one wake source, which covers sockets, doorbell and deadline. It yields to the
//! executor by its own clock, because glommio's preempt timer can lose a wake-up when it is short.

use super::engine::Engine;
use super::mesh::Mesh;
use super::readiness;
use super::sockets::{Nap, Sockets};
use super::stats::{self, ShardStats};
use super::sys;
use crate::clock::Now;
use crate::handler::{Effect, Handler};
use crate::histogram::Durations;
use crate::ids::ShardId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the loop runs before it lets the executor look around.
const YIELD_AFTER_US: u64 = 1_500;
/// How long an idle shard waits in the kernel by itself before it lets glommio park the thread. Parking costs about ten
/// system calls, one of which interrupts all other cores, so between messages that follow each other closely it would
/// cost more than the messages. The executor has nothing else to do meanwhile but the tick, and is let in at least every
/// [`YIELD_AFTER_US`].
const NAP_US: u64 = 1_000;
/// How often a draining shard looks at the others, should their doorbell be missed.
const DRAIN_CHECK_US: u64 = 50_000;
/// The longest sleep: bounds whatever wake-up might get lost, at two wake-ups a second.
const SLEEP_US_MAX: u64 = 500_000;
/// glommio can park over a runnable task; this tick bounds how long that goes unnoticed.
const TICK: Duration = Duration::from_millis(500);

/// Reads the clocks. All shards of a process count from the same start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub fn now(self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono_us: self.mono_us(),
            unix_ms: unix.as_millis() as u64,
        }
    }

    fn mono_us(self) -> u64 {
        // Not from zero: a handler may subtract an interval from the present time.
        self.start.elapsed().as_micros() as u64 + 3_600_000_000
    }
}

/// Stops the other shards when this one panics: half a server is worse than a restart.
struct Alarm<M, S> {
    shard: ShardId,
    mesh: Arc<Mesh<M, S>>,
}

impl<M, S> Drop for Alarm<M, S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.mesh.stop();
        }
        // Nobody needs to wait for a shard that is gone.
        self.mesh.report_drained(self.shard, true);
    }
}

/// One shard with everything it owns.
pub(super) struct Driver<H: Handler, L> {
    pub shard: ShardId,
    pub handler: H,
    pub engine: Engine<H, L>,
    pub mesh: Arc<Mesh<H::Mail, H::Moved>>,
    pub clock: Clock,
    /// See [`super::RuntimeConfig::drain_us_max`].
    pub drain_us_max: u64,
    /// When the timer is set to expire (or has).
    pub timer_us: u64,
}

impl<H: Handler, L: Sockets> Driver<H, L> {
    /// Runs until the mesh is stopped and everything has drained, or the time for that is over.
    pub async fn run(mut self) {
        let _alarm = Alarm {
            shard: self.shard,
            mesh: Arc::clone(&self.mesh),
        };
        glommio::spawn_local(async {
            loop {
                glommio::timer::sleep(TICK).await;
            }
        })
        .detach();
        let all_stats = Arc::clone(self.mesh.stats());
        let stats = &all_stats[self.shard.index()];
        let mut effects = Vec::new();
        let mut drain_until_us = None;
        let mut listening = true;
        let mut yielded_us = self.clock.mono_us();
        loop {
            let now = self.clock.now();
            if drain_until_us.is_none() && self.mesh.is_stopping() {
                drain_until_us = Some(now.mono_us + self.drain_us_max);
                self.handler.shut_down(now);
            }
            let worked = self.turn(now, &mut effects, stats);
            if listening && drain_until_us.is_some() && !self.handler.is_accepting() {
                self.engine.sockets().stop_listening();
                listening = false;
            }
            if let Some(until) = drain_until_us
                && (self.is_drained() || now.mono_us >= until)
            {
                break;
            }
            let after_us = self.clock.mono_us();
            if worked {
                self.account(stats, after_us - now.mono_us);
            }
            if after_us - yielded_us > YIELD_AFTER_US {
                glommio::executor().yield_task_queue_now().await;
                yielded_us = after_us;
            }
            if !worked && self.sleep(after_us, drain_until_us.is_some(), stats).await {
                yielded_us = self.clock.mono_us();
            }
        }
        self.engine.close_all();
        stats.connections.store(0, Ordering::Relaxed);
    }

    /// One turn. Returns whether there was anything to do.
    fn turn(&mut self, now: Now, effects: &mut Vec<Effect<H::Mail, H::Moved>>, stats: &ShardStats) -> bool {
        let Self {
            handler, engine, mesh, ..
        } = self;
        let mut worked = engine.harvest(handler, now, stats);
        if !mesh.is_crowded() {
            worked |= engine.read_all(handler, now, stats);
        }
        worked |= engine.read_mail(mesh, handler, now, stats);
        handler.turn(now, effects);
        worked |= engine.carry_out(handler, effects, stats);
        worked |= engine.write_all(handler, now, stats);
        engine.post_all(mesh);
        worked || engine.has_work()
    }

    fn account(&self, stats: &ShardStats, turn_us: u64) {
        stats::add(&stats.turns, 1);
        stats::add(&stats.turn_us_total, turn_us);
        stats::raise(&stats.turn_us_max, turn_us);
        stats::add(&stats.turn_buckets[Durations::bucket(turn_us)], 1);
        stats.connections.store(self.engine.connections(), Ordering::Relaxed);
    }

    /// All shards leave together, so that none loses mail of another that still works.
    fn is_drained(&mut self) -> bool {
        let idle = self.mesh.stats()[self.shard.index()]
            .mailbox_depth
            .load(Ordering::SeqCst)
            == 0;
        let drained = self.handler.is_drained() && idle && !self.engine.has_work() && self.engine.departing() == 0;
        self.mesh.report_drained(self.shard, drained)
    }

    /// Waits for news or the next deadline. Returns at once when there is either already, and otherwise whether the executor
    /// was let in.
    async fn sleep(&mut self, now_us: u64, draining: bool, stats: &ShardStats) -> bool {
        let sleep_us_max = if draining { DRAIN_CHECK_US } else { SLEEP_US_MAX };
        let deadlines = [
            self.handler.deadline_us(),
            self.engine.sockets().retry_at_us(),
            Some(now_us + sleep_us_max),
        ];
        let deadline_us = deadlines.into_iter().flatten().min().unwrap_or(now_us);
        if deadline_us <= now_us {
            return false;
        }
        let nap_us = NAP_US.min(deadline_us - now_us);
        let napped = match self.may_sleep(draining) {
            true => {
                stats::add(&stats.sleeps, 1);
                self.engine.sockets().nap(nap_us)
            }
            false => Nap::Woken,
        };
        let parked = match napped {
            Nap::Woken => false,
            Nap::Over if nap_us < NAP_US => false,
            nap => {
                self.sleep_by_bell(nap == Nap::Impossible, nap_us, deadline_us, draining)
                    .await
            }
        };
        self.mesh.wake_up(self.shard);
        parked
    }

    /// Waits for the wake source, first for the length of a nap if there has been none. Returns whether the executor was let
    /// in.
    async fn sleep_by_bell(&mut self, nap: bool, nap_us: u64, deadline_us: u64, draining: bool) -> bool {
        // In this order: the doorbell is quieted first, then everything it may have announced is looked at once more.
        self.engine.sockets().before_sleep();
        let mut parked = false;
        if self.may_sleep(draining) {
            let wake_source = self.engine.sockets().wake_source();
            let over = !nap || !sys::wait_readable(wake_source, nap_us) && nap_us == NAP_US;
            if over {
                self.set_timer(deadline_us);
                readiness::readable(self.engine.sockets().wake_source()).await;
                parked = true;
            }
        }
        self.engine.sockets().after_sleep();
        parked
    }

    /// Declares the shard asleep and looks whether there is nothing to do; from then on the doorbell rings for all that comes.
    fn may_sleep(&mut self, draining: bool) -> bool {
        let stop = self.mesh.is_stopping() && !draining;
        self.mesh.fall_asleep(self.shard) && !stop && !self.engine.sockets().pending()
    }

    /// Lets the wake source become readable at the deadline. A timer that is set to expire earlier serves as well: one
    /// wake-up in vain is cheaper than a call per sleep.
    fn set_timer(&mut self, deadline_us: u64) {
        let now_us = self.clock.mono_us();
        if self.timer_us <= now_us || self.timer_us > deadline_us {
            self.engine.sockets().wake_in(deadline_us.saturating_sub(now_us));
            self.timer_us = deadline_us;
        }
    }
}
