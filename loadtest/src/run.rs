//! One run of one scenario: the fleet, the server's process, and everything that is noted down on the way.

use crate::control::{Abilities, Activity, Audit, Order, Tally, Writing};
use crate::fleet::{Fleet, Totals};
use crate::layout::{Layout, Placed};
use crate::measure::{self, CpuReading};
use crate::options::{Common, Timing};
use crate::progress::{Moment, Progress};
use crate::result::{
    Latency, MemorySample, Phase, RateSample, RunResult, ServerCpu, UnsupportedStep, Verdict, WorkerCpu,
};
use crate::sockets;
use crate::target::Target;
use crate::{http, token};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// A worker busier than this part of a core may have been the limit.
const SHARE_MAX: f64 = 0.9;

/// Time without any progress after which opening connections is given up.
const OPENING_PATIENCE: Duration = Duration::from_secs(45);

/// Latencies that are timed from when changes were due.
const SCHEDULED: [&str; 3] = ["ack", "echo", "delivery"];

/// After writing has ended, how long acknowledgements and deliveries may still arrive.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// Deliveries that have not moved for so long have all arrived.
const QUIET: Duration = Duration::from_millis(350);

/// No server handles a message for less CPU time than this, in microseconds: far less than a bare `send` costs.
const MESSAGE_US_MIN: f64 = 0.05;

/// Fewer messages than this tell nothing about the process that handled them.
const MESSAGES_MIN: u64 = 1_000;

/// Lead given to an activity's schedule, so that all workers have the order before it begins.
const SCHEDULE_LEAD_NS: u64 = 50_000_000;

/// The run.
pub struct Run {
    /// What was found out so far.
    pub result: RunResult,
    /// The workers.
    pub fleet: Fleet,
    /// Workers of the spread groups.
    pub spread: Range<usize>,
    /// The worker of the own groups.
    pub own: Range<usize>,
    common: Common,
    target: Target,
    started: Instant,
    progress: Progress,
    rated: (Instant, Tally),
    server_before: BTreeMap<String, f64>,
    /// Failures and drops that were meant to happen.
    forgiven: Tally,
    /// Whether figures are invalid when changes left later than they were due: true where latency is what is measured.
    pub keeps_schedule: bool,
}

/// CPU readings and counts at the beginning of a measured stretch.
pub struct Stretch {
    name: String,
    started: Instant,
    server: Option<CpuReading>,
    totals: Totals,
}

impl Run {
    /// Starts the workers of a scenario.
    ///
    /// # Errors
    /// An unusable URL or secret, an unreachable server, workers that do not start.
    pub fn begin(scenario: &str, common: &Common, layout: Layout, prepared: Prepared) -> Result<Self> {
        let Prepared {
            target,
            abilities,
            unsupported,
        } = prepared;
        let mut result = RunResult::new(scenario);
        result.started_at_unix_ms = sockets::unix_ms();
        result.machine = measure::machine::describe().unwrap_or_default();
        result.server.url = target.url();
        result.server.name.clone_from(&common.name);
        result.server.dialect = format!("{}/{}", common.dialect.name(), common.encoding.name());
        result.server.pid = common.pid;
        result.server.is_local = common.pid.is_some() || target.address.ip().is_loopback();
        result.connections.requested = u64::from(layout.connections());
        result.unsupported = unsupported;
        let Placed { plans, spread, own } = layout.place(common, &target, abilities)?;
        let fleet = Fleet::start(&plans)?;
        let mut run = Self {
            result,
            fleet,
            spread,
            own,
            common: common.clone(),
            target,
            started: Instant::now(),
            progress: Progress::start(common.quiet),
            rated: (Instant::now(), Tally::default()),
            server_before: BTreeMap::new(),
            forgiven: Tally::default(),
            keeps_schedule: true,
        };
        run.server_before = run.server_figures();
        Ok(run)
    }

    /// Seconds since the run began.
    pub fn at(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Notes an option in the result.
    pub fn parameter(&mut self, name: &str, value: impl Into<serde_json::Value>) {
        self.result.parameters.insert(name.to_owned(), value.into());
    }

    /// A named stretch begins; the one before ends.
    pub fn phase(&mut self, name: &str) {
        let at = self.at();
        if let Some(last) = self.result.phases.last_mut() {
            last.to_seconds = at;
        }
        self.result.phases.push(Phase {
            name: name.to_owned(),
            from_seconds: at,
            to_seconds: at,
        });
    }

    /// A remark for the user.
    pub fn note(&mut self, text: &str) {
        self.progress.note(text);
    }

    /// Lets time pass until `enough` or the time is over, with live progress. True if it was enough.
    ///
    /// # Errors
    /// A worker failed.
    pub fn watch(&mut self, within: Duration, enough: impl FnMut(&Tally) -> bool) -> Result<bool> {
        let deadline = Instant::now() + within;
        let Self {
            fleet,
            progress,
            rated,
            result,
            started,
            ..
        } = self;
        let phase = result
            .phases
            .last()
            .map_or_else(String::new, |phase| phase.name.clone());
        let watch = |tally: &Tally| {
            let now = Instant::now();
            let wanted = result.connections.requested;
            result.connections.open_max = result.connections.open_max.max(u64::from(tally.ready));
            let seconds = now.duration_since(rated.0).as_secs_f64();
            if seconds >= 1.0 {
                let sample = rates(&rated.1, tally, seconds, started.elapsed().as_secs_f64());
                progress.show(now, &moment(&phase, tally, &sample, wanted, deadline));
                result.rates.push(sample);
                *rated = (now, tally.clone());
            }
        };
        fleet.watch(deadline, watch, enough)
    }

    /// Lets so many seconds pass.
    ///
    /// # Errors
    /// A worker failed.
    pub fn wait(&mut self, seconds: f64) -> Result<()> {
        self.watch(Duration::from_secs_f64(seconds), |_| false).map(drop)
    }

    /// Opens connections of some workers until they hold so many, and waits until all are ready or have failed.
    ///
    /// # Errors
    /// None became ready; a worker failed.
    pub fn open(&mut self, workers: Range<usize>, connections: u32) -> Result<()> {
        let before = self.fleet.count()?.tally;
        let wanted = u64::from(connections.saturating_sub(self.fleet.ready_of(workers.clone())));
        let started_ns = sockets::monotonic_ns();
        self.fleet.open(workers, connections, self.common.connect_rate, false)?;
        let tried = |tally: &Tally| tally.established + tally.failed.values().sum::<u64>();
        let tried_before = tried(&before);
        let mut moved = (Instant::now(), tried_before);
        let is_done = self.watch(Duration::from_secs(24 * 3600), |tally| {
            let now = tried(tally);
            if now != moved.1 {
                moved = (Instant::now(), now);
            }
            now >= tried_before + wanted || moved.0.elapsed() > OPENING_PATIENCE
        })?;
        debug_assert!(is_done, "a day has passed");
        let after = self.fleet.count()?.tally;
        let seconds = after.established_ns.saturating_sub(started_ns).max(1) as f64 / 1e9;
        let made = after.established - before.established;
        if made > 0 {
            let rate = made as f64 / seconds;
            let best = self.result.connections.established_per_second.unwrap_or(0.0);
            self.result.connections.established_per_second = Some(best.max(rate));
        }
        if after.ready == 0 {
            let reasons = describe(&after.failed);
            bail!("no connection to {} became ready: {reasons}", self.target.url());
        }
        Ok(())
    }

    /// Notes memory as it is now.
    ///
    /// # Errors
    /// The server's process has ended.
    pub fn sample_memory(&mut self, connections: u64) -> Result<()> {
        let server = self.common.pid.map(measure::process_memory).transpose()?;
        self.result.memory.samples.push(MemorySample {
            at_seconds: self.at(),
            connections,
            server,
            client: measure::total_memory(&self.fleet.pids()).ok(),
            kernel: if self.result.server.is_local {
                measure::kernel_memory().ok()
            } else {
                None
            },
            kernel_server_bytes: None,
        });
        Ok(())
    }

    /// A group begins to write. Rates are those of the whole group and are shared out by connections.
    ///
    /// # Errors
    /// A worker has ended.
    pub fn act(&mut self, workers: Range<usize>, group: usize, activity: &Activity, writing: Writing) -> Result<()> {
        let started_ns = sockets::monotonic_ns() + SCHEDULE_LEAD_NS;
        let part = 1.0 / workers.len().max(1) as f64;
        let share = match activity {
            Activity::Closed { in_flight } => Activity::Closed { in_flight: *in_flight },
            Activity::Paced { per_second } => Activity::Paced {
                per_second: per_second * part,
            },
            Activity::Text { per_second } => Activity::Text {
                per_second: per_second * part,
            },
            Activity::Presence { per_second } => Activity::Presence {
                per_second: per_second * part,
            },
        };
        for worker in workers {
            let order = Order::Act {
                group,
                activity: share.clone(),
                writing,
                started_ns,
            };
            self.fleet.order(worker, &order)?;
        }
        Ok(())
    }

    /// A measured stretch begins.
    ///
    /// # Errors
    /// A worker failed, or the server's process has ended.
    pub fn begin_stretch(&mut self, name: &str) -> Result<Stretch> {
        self.fleet.order_all(&Order::Forget)?;
        let totals = self.fleet.count()?;
        Ok(Stretch {
            name: name.to_owned(),
            started: Instant::now(),
            server: self.common.pid.map(measure::cpu).transpose()?,
            totals,
        })
    }

    /// It ends: latencies, counts and CPU of the stretch are noted. What counts as a message is told by `messages`, how
    /// many connections were idle by `idle`.
    ///
    /// # Errors
    /// A worker failed, or the server's process has ended.
    pub fn end_stretch(
        &mut self,
        stretch: Stretch,
        messages: impl Fn(&Tally, &Tally) -> Option<u64>,
        idle: Option<u64>,
    ) -> Result<Totals> {
        let server = self.common.pid.map(measure::cpu).transpose()?;
        let after = self.fleet.count()?;
        let before = &stretch.totals;
        if let (Some(from), Some(to)) = (&stretch.server, &server) {
            let mut cpu = ServerCpu::between(&stretch.name, from, to);
            if let Some(messages) = messages(&before.tally, &after.tally) {
                cpu = cpu.per_message(messages);
                self.judge_server(&cpu);
            }
            if let Some(idle) = idle {
                cpu = cpu.per_idle_connection(idle);
            }
            self.result.cpu.server.push(cpu);
        }
        self.note_client_cpu(before, &after);
        for (name, histogram) in &after.latencies {
            let is_open_loop = after.latencies.contains_key("lag") && SCHEDULED.contains(&name.as_str());
            if let Some(latency) = Latency::from_histogram(histogram, is_open_loop) {
                self.result.latencies.insert(name.clone(), latency);
            }
        }
        if let Some(lag) = after.latencies.get("lag") {
            self.judge_lag(lag.value_at_quantile(0.99) / 1000);
        }
        self.note_counts(&before.tally, &after.tally, stretch.started.elapsed().as_secs_f64());
        Ok(after)
    }

    /// A process that handles messages for next to nothing is not the server, but a parent or a stranger.
    fn judge_server(&mut self, cpu: &ServerCpu) {
        let (Some(pid), Some(messages), Some(us)) = (self.common.pid, cpu.messages, cpu.us_per_message) else {
            return;
        };
        if messages >= MESSAGES_MIN && us < MESSAGE_US_MIN {
            self.failed(format!(
                "--pid {pid}: this process used {:.0} µs for {messages} messages; it is not the server",
                cpu.total_us
            ));
        }
    }

    /// Changes that left late say little about how late they arrived. Where that is what is measured the run is invalid;
    /// elsewhere their latencies alone are withheld.
    fn judge_lag(&mut self, lag_us: u64) {
        if lag_us <= self.common.lag_us_max {
            return;
        }
        let reason = format!("1 % of the changes were sent {lag_us} µs or more after they were due");
        if self.keeps_schedule {
            return self.saturated(reason);
        }
        SCHEDULED
            .iter()
            .for_each(|name| drop(self.result.latencies.remove(*name)));
        self.note(&format!("latencies of changes are withheld: {reason}"));
        self.parameter("latencies_withheld", reason);
    }

    fn note_counts(&mut self, before: &Tally, after: &Tally, seconds: f64) {
        let messages = &mut self.result.messages;
        let counted = |sum: &mut Option<u64>, before: u64, after: u64| {
            if after > before {
                *sum = Some(sum.unwrap_or(0) + after - before);
            }
        };
        counted(
            &mut messages.sent,
            before.sent + before.other_sent,
            after.sent + after.other_sent,
        );
        counted(&mut messages.acked, before.acked, after.acked);
        counted(&mut messages.delivered, before.delivered, after.delivered);
        counted(&mut messages.bytes_sent, before.bytes_sent, after.bytes_sent);
        counted(
            &mut messages.bytes_received,
            before.bytes_received,
            after.bytes_received,
        );
        messages.measured_seconds = Some(messages.measured_seconds.unwrap_or(0.0) + seconds);
    }

    fn note_client_cpu(&mut self, before: &Totals, after: &Totals) {
        let pids = self.fleet.pids();
        let mut busiest: f64 = 0.0;
        for (index, (from, to)) in before.workers.iter().zip(&after.workers).enumerate() {
            let seconds = to.at_ns.saturating_sub(from.at_ns) as f64 / 1e9;
            let cpu_us = to.cpu_ns.saturating_sub(from.cpu_ns) as f64 / 1e3;
            let share = if seconds > 0.0 { cpu_us / 1e6 / seconds } else { 0.0 };
            busiest = busiest.max(share);
            self.result.cpu.client.push(WorkerCpu {
                worker: format!("worker {index}"),
                pid: pids[index],
                seconds,
                cpu_us,
                share,
            });
        }
        let waited = before.workers.iter().zip(&after.workers).map(|(from, to)| {
            to.waited_ns.saturating_sub(from.waited_ns) as f64 / to.at_ns.saturating_sub(from.at_ns).max(1) as f64
        });
        // How long the worst worker stood in line for a core that something else was using: not its own fault, but it
        // explains latencies on a machine without a core to spare.
        let waited = waited.fold(0.0, f64::max);
        self.parameter("client_wait_share_max", (waited * 1e4).round() / 1e4);
        let saturation = &mut self.result.saturation;
        saturation.client_share_max = Some(saturation.client_share_max.unwrap_or(0.0).max(busiest));
        if saturation.verdict == Verdict::Unknown {
            saturation.verdict = Verdict::Valid;
        }
        if busiest > SHARE_MAX {
            let percent = busiest * 100.0;
            self.saturated(format!(
                "a worker used {percent:.0} % of a core: add --workers or lower the load"
            ));
        }
    }

    /// What happened to connections since `before` was meant to happen: it does not count as failed or dropped.
    pub fn forgive(&mut self, before: &Tally, after: &Tally) {
        for (forgiven, before, after) in [
            (&mut self.forgiven.failed, &before.failed, &after.failed),
            (&mut self.forgiven.dropped, &before.dropped, &after.dropped),
        ] {
            for (reason, count) in after {
                let meant = count - before.get(reason).copied().unwrap_or(0);
                *forgiven.entry(reason.clone()).or_default() += meant;
            }
        }
    }

    /// The server's process is another one from now on, whose memory and CPU nobody told us to read.
    pub fn lose_sight_of_server(&mut self) {
        self.common.pid = None;
        self.server_before = BTreeMap::new();
        self.common.metrics = None;
    }

    /// The figures are not those of the server that was meant.
    fn failed(&mut self, reason: String) {
        self.result.saturation.verdict = Verdict::Failed;
        self.result.saturation.reasons.push(reason);
    }

    /// The load tester was the limit.
    pub fn saturated(&mut self, reason: String) {
        let verdict = &mut self.result.saturation.verdict;
        if *verdict != Verdict::Failed {
            *verdict = Verdict::Saturated;
        }
        self.result.saturation.reasons.push(reason);
    }

    /// Warm-up, measured stretch, rest, and the proof of no loss.
    ///
    /// # Errors
    /// A worker failed, or the server's process has ended.
    pub fn measure(
        &mut self,
        timing: Timing,
        messages: impl Fn(&Tally, &Tally) -> Option<u64>,
        idle: Option<u64>,
    ) -> Result<Totals> {
        self.phase("warm-up");
        self.wait(timing.warmup)?;
        self.phase("measured");
        let stretch = self.begin_stretch("measured")?;
        self.wait(timing.duration)?;
        let totals = self.end_stretch(stretch, messages, idle)?;
        self.rest()?;
        Ok(totals)
    }

    /// Writing ends for now.
    ///
    /// # Errors
    /// A worker has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.fleet.order_all(&Order::Rest)
    }

    /// Writing ends; what is under way may arrive; then what arrived is compared with what was written.
    ///
    /// # Errors
    /// A worker failed.
    pub fn rest(&mut self) -> Result<()> {
        self.phase("drain");
        self.fleet.order_all(&Order::Rest)?;
        let mut last = (Instant::now(), (0, 0, 0));
        self.watch(DRAIN_PATIENCE, |tally| {
            let counts = (tally.sent, tally.acked, tally.delivered);
            if counts != last.1 {
                last = (Instant::now(), counts);
            }
            last.0.elapsed() > QUIET
        })?;
        let audit = self.fleet.audit()?;
        self.note_audit(&audit);
        Ok(())
    }

    fn note_audit(&mut self, audit: &Audit) {
        if audit.expected == 0 {
            return;
        }
        let messages = &mut self.result.messages;
        // Of the whole run: sequences cannot be cut where the measured stretch begins without missing what was under way.
        messages.expected_deliveries = Some(audit.expected);
        messages.coalesced = Some(audit.coalesced);
        messages.lost = Some(audit.lost);
        messages.duplicated = Some(audit.duplicated);
        messages.out_of_order = Some(audit.out_of_order);
        self.parameter("audit.arrived", audit.arrived);
    }

    /// What the server says about itself; empty when it was not asked or does not answer.
    fn server_figures(&mut self) -> BTreeMap<String, f64> {
        let Some(url) = &self.common.metrics else {
            return BTreeMap::new();
        };
        let answer = Target::parse(url).and_then(|target| {
            let mint = self.common.jwt_secret.as_deref().map(token::Mint::new).transpose()?;
            let token = match mint {
                Some(mint) => Some(mint.admin(sockets::unix_ms())?),
                None => self.common.token.clone(),
            };
            let path = if target.path.contains('?') {
                target.path.clone()
            } else {
                format!("{}?format=prometheus", target.path)
            };
            let (status, body) = http::request(&target, "GET", &path, token.as_deref(), "")?;
            if status != 200 {
                bail!("it answered {status}");
            }
            Ok(http::prometheus_figures(&body))
        });
        answer.unwrap_or_else(|error| {
            self.progress.note(&format!("--metrics {url}: {error:#}"));
            BTreeMap::new()
        })
    }

    /// Ends the run and gives what was found out.
    ///
    /// # Errors
    /// A worker failed.
    pub fn finish(mut self) -> Result<RunResult> {
        let tally = self.fleet.count()?.tally;
        let at = self.at();
        if let Some(last) = self.result.phases.last_mut() {
            last.to_seconds = at;
        }
        self.result.duration_seconds = at;
        let connections = &mut self.result.connections;
        connections.established = tally.established;
        connections.open_max = connections.open_max.max(u64::from(tally.ready));
        connections.failed = without(tally.failed, &self.forgiven.failed);
        connections.dropped = without(tally.dropped, &self.forgiven.dropped);
        if connections.dropped_total() * 2 > connections.open_max {
            let reason = format!(
                "{} of {} connections were lost on the way: {}",
                connections.dropped_total(),
                connections.open_max,
                describe(&connections.dropped)
            );
            self.failed(reason);
        }
        self.result.messages.server_errors = tally.errors;
        let after = self.server_figures();
        for (name, value) in after {
            let change = value - self.server_before.get(&name).copied().unwrap_or(0.0);
            if name.ends_with("_total") && !name.starts_with("synckit_shard_") && change != 0.0 {
                self.result.parameters.insert(format!("server.{name}"), change.into());
            }
        }
        self.progress.finish();
        Ok(self.result)
    }
}

fn without(mut counts: BTreeMap<String, u64>, forgiven: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    for (reason, count) in &mut counts {
        *count -= forgiven.get(reason).copied().unwrap_or(0).min(*count);
    }
    counts.retain(|_, count| *count > 0);
    counts
}

/// What is known of a server before connections are made.
pub struct Prepared {
    /// Where it is.
    pub target: Target,
    /// What it answers.
    pub abilities: Abilities,
    /// What it does not.
    pub unsupported: Vec<UnsupportedStep>,
}

fn rates(before: &Tally, after: &Tally, seconds: f64, at_seconds: f64) -> RateSample {
    let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    let errors = |tally: &Tally| tally.errors.values().sum();
    RateSample {
        at_seconds,
        connections: u64::from(after.ready),
        established_per_second: per_second(before.established, after.established),
        sent_per_second: per_second(before.sent, after.sent),
        acked_per_second: per_second(before.acked, after.acked),
        delivered_per_second: per_second(before.delivered, after.delivered),
        errors_per_second: per_second(errors(before), errors(after)),
    }
}

fn moment(phase: &str, tally: &Tally, sample: &RateSample, wanted: u64, deadline: Instant) -> Moment {
    let (per_second, rate_unit) = if sample.delivered_per_second > sample.acked_per_second {
        (sample.delivered_per_second, "deliveries")
    } else if sample.acked_per_second > 0.0 {
        (sample.acked_per_second, "acks")
    } else {
        (sample.established_per_second, "connections")
    };
    let remaining = deadline.saturating_duration_since(Instant::now()).as_secs_f64();
    Moment {
        phase: phase.to_owned(),
        connections: u64::from(tally.ready),
        connections_wanted: wanted,
        per_second,
        rate_unit,
        errors: tally.errors.values().sum::<u64>() + tally.failed.values().sum::<u64>(),
        bytes_per_connection: None,
        remaining_seconds: (remaining < 3600.0 * 12.0).then_some(remaining),
    }
}

/// Counts by name, most frequent first.
pub fn describe(counts: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let text: Vec<String> = sorted.iter().map(|(name, count)| format!("{name} ({count})")).collect();
    if text.is_empty() {
        "no reason known".to_owned()
    } else {
        text.join(", ")
    }
}
