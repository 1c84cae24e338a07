//! `churn`: storms of connections beside established ones that go on writing, and everybody's return after a restart.

use super::group;
use crate::control::{Activity, Order};
use crate::layout::Layout;
use crate::options::Churn;
use crate::result::{Latency, RunResult};
use crate::run::{Prepared, Run, describe};
use crate::{measure, sockets};
use anyhow::{Context, Result, bail};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for all connections of a storm to be gone.
const LEAVING_PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for the server to end after SIGTERM.
const ENDING_PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for all clients to be back.
const RETURN_PATIENCE: Duration = Duration::from_secs(120);

/// Runs it.
///
/// # Errors
/// No connection became ready; a worker failed; the server does not end or does not come back.
pub fn run(options: &Churn, prepared: Prepared) -> Result<RunResult> {
    let documents = options.connections.div_ceil(options.per_document);
    let mut storm = group("storm", options.connections, documents);
    storm.awareness = true;
    let mut established = group("established", options.established, options.established);
    established.followed_writers = 1;
    established.fields = options.shape.fields;
    let layout = Layout {
        spread: vec![storm],
        own: vec![established],
    };
    let mut run = Run::begin("churn", &options.common, layout, prepared)?;
    // Late changes spoil the latencies of established connections, but not the count of new ones.
    run.keeps_schedule = false;
    run.parameter("connections", options.connections);
    run.parameter("rounds", options.rounds);
    run.parameter("abort", options.abort);
    run.parameter("established", options.established);
    run.parameter("rate", options.rate);
    run.phase("connect established");
    let own = run.own.clone();
    run.open(own.clone(), options.established)?;
    run.result.connections.established_per_second = None;
    if options.rate > 0.0 {
        let activity = Activity::Paced {
            per_second: options.rate,
        };
        run.act(own, 0, &activity, options.shape.into())?;
    }
    storms(&mut run, options)?;
    run.rest()?;
    if let (Some(pid), Some(command)) = (options.restart_pid, &options.restart_command) {
        restart(&mut run, options, pid, command)?;
    }
    let mut result = run.finish()?;
    let everybody = u64::from(options.connections);
    let returns = if options.restart_pid.is_some() {
        2 * everybody + u64::from(options.established)
    } else {
        0
    };
    result.connections.requested = u64::from(options.established) + everybody * u64::from(options.rounds) + returns;
    Ok(result)
}

/// What counts as a message here is a connection: upgraded, authenticated and subscribed.
fn storms(run: &mut Run, options: &Churn) -> Result<()> {
    let workers = run.spread.clone();
    let stretch = run.begin_stretch("storms")?;
    for round in 1..=options.rounds {
        run.phase(&format!("storm {round}"));
        run.open(workers.clone(), options.connections)?;
        run.phase(&format!("leave {round}"));
        run.fleet.open(workers.clone(), 0, 0.0, options.abort)?;
        run.watch(LEAVING_PATIENCE, |tally| tally.ready <= options.established)?;
    }
    run.end_stretch(
        stretch,
        |before, after| Some(after.established - before.established),
        None,
    )?;
    // Changes of established connections were timed while storms went on.
    if let Some(latency) = run.result.latencies.remove("ack") {
        run.result.latencies.insert("established".to_owned(), latency);
        run.result.headline_latency = Some("established".to_owned());
    }
    Ok(())
}

fn restart(run: &mut Run, options: &Churn, pid: u32, command: &str) -> Result<()> {
    let workers = run.spread.clone();
    run.phase("connect all");
    run.open(workers, options.connections)?;
    let before = run.fleet.count()?.tally;
    run.fleet.order_all(&Order::Reconnect(true))?;
    run.fleet.order_all(&Order::Forget)?;
    run.lose_sight_of_server();
    run.phase("restart");
    let started_ns = sockets::monotonic_ns();
    end_server(pid)?;
    let down_ns = sockets::monotonic_ns() - started_ns;
    let mut server = start(command)?;
    let wanted = before.established + u64::from(before.ready);
    let all_back = run.watch(RETURN_PATIENCE, |tally| tally.established >= wanted)?;
    if let Some(status) = server.try_wait()?.filter(|status| !status.success()) {
        bail!("--restart-command ended with {status}");
    }
    let after = run.fleet.count()?;
    if !all_back {
        let reasons = describe(&after.tally.failed);
        bail!(
            "{} of {} clients came back after the restart: {reasons}",
            after.tally.ready,
            before.ready
        );
    }
    let back_ns = after.tally.established_ns.saturating_sub(started_ns);
    run.parameter("restart_down_seconds", down_ns as f64 / 1e9);
    run.parameter("restart_all_back_seconds", back_ns as f64 / 1e9);
    run.parameter("restart_connections", before.ready);
    if let Some(latency) = after
        .latencies
        .get("connect")
        .and_then(|times| Latency::from_histogram(times, false))
    {
        run.result.latencies.insert("reconnect".to_owned(), latency);
    }
    run.forgive(&before, &after.tally);
    run.fleet.order_all(&Order::Reconnect(false))
}

fn end_server(pid: u32) -> Result<()> {
    sockets::signal(pid, libc::SIGTERM).with_context(|| format!("--restart-pid {pid}"))?;
    let deadline = Instant::now() + ENDING_PATIENCE;
    while is_running(pid) {
        if Instant::now() > deadline {
            let seconds = ENDING_PATIENCE.as_secs();
            bail!("--restart-pid {pid}: the server has not ended {seconds} s after SIGTERM");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A zombie that its parent has not yet waited for has ended too.
fn is_running(pid: u32) -> bool {
    measure::process_memory(pid).is_ok()
}

/// The server is meant to go on when this tool ends, so nothing waits for it or kills it.
fn start(command: &str) -> Result<Child> {
    Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("--restart-command cannot be started")
}
