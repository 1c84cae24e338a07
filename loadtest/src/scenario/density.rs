//! `density`: memory and CPU of connections that are merely there.

use super::{acknowledged, group};
use crate::control::{Activity, Writing};
use crate::layout::Layout;
use crate::measure::{self, SlopeRange};
use crate::options::Density;
use crate::result::RunResult;
use crate::run::{Prepared, Run};
use anyhow::Result;
use std::time::Duration;

/// Memory is read so often at each count; the slope takes the medians.
const SAMPLES_PER_COUNT: usize = 3;

/// Longest wait for the deliveries of the broadcast.
const BROADCAST_PATIENCE: Duration = Duration::from_secs(30);

/// Runs it.
///
/// # Errors
/// No connection became ready; a worker failed; the server's process has ended.
pub fn run(options: &Density, prepared: Prepared) -> Result<RunResult> {
    let mut run = Run::begin("density", &options.common, layout(options), prepared)?;
    // Late edits spoil their own latencies, but neither the memory nor the CPU of idle connections.
    run.keeps_schedule = false;
    run.parameter("connections", options.connections);
    run.parameter("hold", options.hold);
    run.parameter("per_document", options.per_document);
    run.parameter("awareness", !options.no_awareness);
    run.parameter("subscribe", !options.no_subscribe);
    run.parameter("ping_interval_ms", options.common.ping_interval_ms);
    run.sample_memory(0)?;
    for count in counts(options) {
        run.phase(&format!("connect {count}"));
        let workers = run.spread.clone();
        run.open(workers, count)?;
        run.phase(&format!("settle {count}"));
        run.wait(options.settle)?;
        let ready = u64::from(run.fleet.tally().ready);
        for _ in 0..SAMPLES_PER_COUNT {
            run.wait(0.2)?;
            run.sample_memory(ready)?;
        }
    }
    if options.hold > 0.0 {
        run.phase("hold");
        let stretch = run.begin_stretch("hold")?;
        run.wait(options.hold)?;
        let idle = u64::from(run.fleet.tally().ready);
        run.end_stretch(stretch, |_, _| None, Some(idle))?;
        let idle = u64::from(run.fleet.tally().ready);
        run.sample_memory(idle)?;
    }
    note_slopes(&mut run, options);
    broadcast_and_edit(&mut run, options)?;
    run.finish()
}

fn layout(options: &Density) -> Layout {
    let idle = options.connections - options.broadcast_subscribers;
    let mut holders = group("idle", idle, idle.div_ceil(options.per_document));
    holders.awareness = !options.no_awareness;
    holders.subscribe = !options.no_subscribe;
    let mut layout = Layout {
        spread: vec![holders],
        own: Vec::new(),
    };
    if options.broadcast_subscribers > 0 {
        let mut audience = group("broadcast", options.broadcast_subscribers, 1);
        audience.awareness = !options.no_awareness;
        audience.followed_writers = 1;
        // The broadcaster and the editors are not idle: they come after the memory was measured.
        let mut broadcaster = group("broadcast", 1, 1);
        broadcaster.prefix.clone_from(&audience.prefix);
        layout.spread.push(audience);
        layout.own.push(broadcaster);
    }
    if options.edits_per_second > 0.0 {
        let mut editors = group("edit", options.editors, options.editors);
        editors.followed_writers = 1;
        layout.own.push(editors);
    }
    layout
}

fn counts(options: &Density) -> Vec<u32> {
    let all = options.connections;
    let mut counts = match options.sample_at.as_slice() {
        [] => vec![all / 3, all / 3 * 2],
        given => given.to_vec(),
    };
    counts.retain(|count| (1..all).contains(count));
    counts.push(all);
    counts.sort_unstable();
    counts.dedup();
    counts
}

fn note_slopes(run: &mut Run, options: &Density) {
    // This tool waits with epoll. A server that does not has no part in epoll's objects.
    let epoll = ["eventpoll_epi", "eventpoll_pwq"].map(str::to_owned).to_vec();
    let server_waits_with = options.common.pid.map(polling_descriptors).unwrap_or_default();
    let range = SlopeRange {
        // What is allocated once, before the first count, is not a cost of connections.
        from_connections: u64::from(counts(options)[0]) * 9 / 10,
        server_caches: vec!["io_kiocb".to_owned()],
        client_caches: if server_waits_with == ["io_uring"] {
            epoll
        } else {
            Vec::new()
        },
        ..SlopeRange::default()
    };
    run.result.memory = measure::memory(std::mem::take(&mut run.result.memory.samples), &range);
}

/// Which of epoll and io_uring a process has descriptors of.
fn polling_descriptors(pid: u32) -> Vec<&'static str> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let links: Vec<_> = entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .collect();
    let has = |name: &str| {
        links
            .iter()
            .any(|link| link.to_string_lossy() == format!("anon_inode:[{name}]"))
    };
    [("eventpoll", has("eventpoll")), ("io_uring", has("io_uring"))]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect()
}

fn broadcast_and_edit(run: &mut Run, options: &Density) -> Result<()> {
    let own = run.own.clone();
    if own.is_empty() {
        return Ok(());
    }
    let writing = Writing {
        payload_bytes: 150,
        fields: 1,
        messages_max: 1,
        documents_each: 1,
        documents_apart: 0,
    };
    run.phase("connect editors");
    let has_broadcast = options.broadcast_subscribers > 0;
    let editors = if options.edits_per_second > 0.0 {
        options.editors
    } else {
        0
    };
    run.open(own.clone(), editors + u32::from(has_broadcast))?;
    if has_broadcast {
        run.phase("broadcast");
        run.parameter("broadcast_subscribers", options.broadcast_subscribers);
        let stretch = run.begin_stretch("broadcast")?;
        run.act(own.clone(), 0, &Activity::Closed { in_flight: 1 }, writing)?;
        let wanted = run.fleet.tally().delivered + u64::from(options.broadcast_subscribers);
        run.watch(BROADCAST_PATIENCE, |tally| tally.delivered >= wanted)?;
        run.end_stretch(stretch, |before, after| Some(after.delivered - before.delivered), None)?;
        if let Some(latency) = run.result.latencies.remove("delivery") {
            run.result.latencies.insert("broadcast".to_owned(), latency);
        }
    }
    if options.edits_per_second > 0.0 {
        run.phase("edits");
        run.parameter("edits_per_second", options.edits_per_second);
        let activity = Activity::Paced {
            per_second: options.edits_per_second,
        };
        let writing = Writing {
            messages_max: 0,
            ..writing
        };
        run.act(own, usize::from(has_broadcast), &activity, writing)?;
        let stretch = run.begin_stretch("edits")?;
        run.wait(options.edit_duration)?;
        run.end_stretch(stretch, acknowledged, None)?;
    }
    run.rest()
}
