//! `durable`: what a server with a database stores, and when it says so.
//!
//! Three stretches: closed loops, a fixed rate, and a lone client with one change under way in turn with bare commits on
//! the same database. Each keeps its latencies under a name of its own: `closed_ack`, `ack`, `single_ack`, `commit`.

use super::{acknowledged, group};
use crate::commits::Commits;
use crate::control::{Activity, Writing};
use crate::layout::Layout;
use crate::options::{Durable, Timing};
use crate::result::{Latency, Messages, RunResult, new_histogram};
use crate::run::{Prepared, Run};
use anyhow::Result;

/// The lone client and the bare commits take turns so often, so that both see the same moods of the disk.
const TURNS: u32 = 4;

/// Between two turns, for what is still under way.
const PAUSE_SECONDS: f64 = 0.1;

/// `durable`.
///
/// # Errors
/// An unusable database URL; no connection became ready; a worker failed; the server's process has ended.
pub fn run(options: &Durable, prepared: Prepared) -> Result<RunResult> {
    let mut commits = match &options.database_url {
        Some(url) => Some(Commits::open(url, options.shape.payload as usize)?),
        None => None,
    };
    let mut lone = group("lone", 1, 1);
    lone.fields = options.shape.fields;
    let layout = Layout {
        spread: vec![group("durable", options.connections, options.documents)],
        own: vec![lone],
    };
    let mut run = Run::begin("durable", &options.common, layout, prepared)?;
    run.parameter("connections", options.connections);
    run.parameter("documents", options.documents);
    run.parameter("in_flight", options.in_flight);
    run.parameter("rate", options.rate);
    run.parameter("single", options.single);
    run.parameter("payload", options.shape.payload);
    run.phase("connect");
    let (spread, own) = (run.spread.clone(), run.own.clone());
    run.open(spread, options.connections)?;
    run.open(own, 1)?;
    let writing = Writing {
        documents_each: options.documents / options.connections,
        documents_apart: options.connections,
        ..options.shape.into()
    };
    if options.in_flight > 0 {
        closed_loops(&mut run, options.in_flight, writing, options.timing)?;
    }
    if options.single > 0.0 {
        lone_client(&mut run, options.single, options.shape.into(), commits.as_mut())?;
    }
    if options.rate > 0.0 {
        let activity = Activity::Paced {
            per_second: options.rate,
        };
        let workers = run.spread.clone();
        run.act(workers, 0, &activity, writing)?;
        run.result.headline_latency = Some("ack".to_owned());
        run.measure(options.timing, acknowledged, None)?;
    }
    run.finish()
}

fn closed_loops(run: &mut Run, in_flight: u32, writing: Writing, timing: Timing) -> Result<()> {
    let workers = run.spread.clone();
    run.act(workers, 0, &Activity::Closed { in_flight }, writing)?;
    run.measure(timing, acknowledged, None)?;
    run.result.durable.closed_acked_per_second = run.result.messages.rate(run.result.messages.acked);
    rename(run, "ack", "closed_ack");
    run.result.headline_latency = Some("closed_ack".to_owned());
    // What other stretches send and hear is counted for itself.
    run.result.messages = Messages::default();
    Ok(())
}

fn lone_client(run: &mut Run, seconds: f64, writing: Writing, mut commits: Option<&mut Commits>) -> Result<()> {
    let (mut acks, mut bare) = (new_histogram(), new_histogram());
    run.phase("one client");
    let turn = seconds / f64::from(TURNS);
    let alone = Activity::Closed { in_flight: 1 };
    for _ in 0..TURNS {
        let workers = run.own.clone();
        run.act(workers, 0, &alone, writing)?;
        run.wait(PAUSE_SECONDS)?;
        let stretch = run.begin_stretch("one client")?;
        run.wait(turn)?;
        let totals = run.end_stretch(stretch, acknowledged, None)?;
        if let Some(times) = totals.latencies.get("ack") {
            acks.add(times)?;
        }
        run.pause()?;
        run.wait(PAUSE_SECONDS)?;
        if let Some(commits) = &mut commits {
            commits.run(turn, &mut bare)?;
        }
    }
    run.result.latencies.remove("ack");
    run.result.messages = Messages::default();
    let timed = [("single_ack", &acks), ("commit", &bare)];
    let found = timed.map(|(name, times)| Some((name, Latency::from_histogram(times, false)?)));
    if let [Some((_, ack)), Some((_, commit))] = &found {
        run.result.durable.ack_to_commit_ratio = Some(ack.p50_us / commit.p50_us);
    }
    for (name, latency) in found.into_iter().flatten() {
        run.result.latencies.insert(name.to_owned(), latency);
    }
    Ok(())
}

/// Moves a latency aside, so that the next stretch does not replace it.
fn rename(run: &mut Run, from: &str, to: &str) {
    if let Some(latency) = run.result.latencies.remove(from) {
        run.result.latencies.insert(to.to_owned(), latency);
    }
}
