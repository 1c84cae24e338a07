//! Scenarios at fixed rates: latency, and mixed use.

use super::{acknowledged, group};
use crate::control::{Activity, Group, Tally};
use crate::layout::Layout;
use crate::options::{Latency, Mixed};
use crate::result::RunResult;
use crate::run::{Prepared, Run};
use anyhow::Result;

/// `latency`: writers share documents, so that every change is delivered to the other connections of its document too.
///
/// # Errors
/// No connection became ready; a worker failed; the server's process has ended.
pub fn latency(options: &Latency, prepared: Prepared) -> Result<RunResult> {
    let mut writers = group("write", options.connections, options.documents.min(options.connections));
    writers.followed_writers = options.connections.div_ceil(writers.documents);
    writers.fields = options.shape.fields;
    let mut layout = Layout::default();
    if options.idle > 0 {
        let mut idle = group("idle", options.idle, options.idle.div_ceil(10));
        idle.awareness = true;
        layout.spread.push(idle);
    }
    layout.own.push(writers);
    let mut run = Run::begin("latency", &options.common, layout, prepared)?;
    run.parameter("connections", options.connections);
    run.parameter("documents", options.documents);
    run.parameter("rate", options.rate);
    run.parameter("idle", options.idle);
    run.parameter("payload", options.shape.payload);
    run.parameter("fields", options.shape.fields);
    run.phase("connect");
    let (spread, own) = (run.spread.clone(), run.own.clone());
    if options.idle > 0 {
        run.open(spread, options.idle)?;
    }
    run.open(own.clone(), options.connections)?;
    let activity = Activity::Paced {
        per_second: options.rate,
    };
    run.act(own, 0, &activity, options.shape.into())?;
    run.result.headline_latency = Some("delivery".to_owned());
    run.measure(options.timing, acknowledged, None)?;
    run.finish()
}

/// The groups of `mixed`, in the order of their numbers.
struct Cast {
    groups: Vec<Group>,
    /// Number and activity of those that act.
    acting: Vec<(usize, Activity)>,
}

/// Readers and editors share field documents, typists and moving cursors share text documents.
fn cast(options: &Mixed) -> Cast {
    let mut editors = group("fields", options.editors, options.documents);
    editors.awareness = true;
    editors.followed_writers = options.editors.div_ceil(editors.documents);
    editors.fields = options.shape.fields;
    let readers = Group {
        count: options.readers,
        ..editors.clone()
    };
    let mut typists = group("text", options.typists, options.documents);
    typists.awareness = true;
    let cursors = typists.clone();
    let total = |count: u32, rate: f64| f64::from(count) * rate;
    let acting = [
        (
            1,
            Activity::Paced {
                per_second: total(options.editors, options.edits_per_second),
            },
        ),
        (
            2,
            Activity::Text {
                per_second: total(options.typists, options.words_per_second),
            },
        ),
        (
            3,
            Activity::Presence {
                per_second: total(options.typists, options.cursors_per_second),
            },
        ),
    ];
    Cast {
        groups: vec![readers, editors, typists, cursors],
        acting: acting.into(),
    }
}

/// `mixed`.
///
/// # Errors
/// As [`latency`].
pub fn mixed(options: &Mixed, prepared: Prepared) -> Result<RunResult> {
    let Cast { groups, mut acting } = cast(options);
    // A server without texts or presence is measured without them; the result says so.
    let abilities = prepared.abilities;
    acting.retain(|(_, activity)| match activity {
        Activity::Text { .. } => abilities.text,
        Activity::Presence { .. } => abilities.awareness,
        _ => true,
    });
    let connections = groups.iter().map(|group| group.count).sum();
    let layout = Layout {
        spread: groups,
        own: Vec::new(),
    };
    let mut run = Run::begin("mixed", &options.common, layout, prepared)?;
    run.parameter("readers", options.readers);
    run.parameter("editors", options.editors);
    run.parameter("edits_per_second", options.edits_per_second);
    run.parameter("typists", options.typists);
    run.parameter("words_per_second", options.words_per_second);
    run.parameter("cursors_per_second", options.cursors_per_second);
    run.parameter("documents", options.documents);
    run.phase("connect");
    let workers = run.spread.clone();
    run.open(workers.clone(), connections)?;
    for (group, activity) in &acting {
        run.act(workers.clone(), *group, activity, options.shape.into())?;
    }
    run.result.headline_latency = Some("delivery".to_owned());
    // What counts as a message: everything clients sent and everything they were sent.
    let totals = run.measure(
        options.timing,
        |before, after| {
            let all = |tally: &Tally| tally.sent + tally.other_sent + tally.delivered + tally.other_received;
            Some(all(after) - all(before))
        },
        None,
    )?;
    run.parameter("text_and_presence_sent", totals.tally.other_sent);
    run.parameter("text_and_presence_received", totals.tally.other_received);
    run.finish()
}
