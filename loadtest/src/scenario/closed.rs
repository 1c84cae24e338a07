//! Scenarios that measure what a message costs: throughput in closed loops, fan-out from one publisher.

use super::{acknowledged, delivered, group};
use crate::control::{Activity, Writing};
use crate::layout::Layout;
use crate::options::{Fanout, Throughput};
use crate::result::RunResult;
use crate::run::{Prepared, Run};
use anyhow::{Result, ensure};
use std::time::Duration;

/// How long it may take until every document has been written once.
const FILL_PATIENCE: Duration = Duration::from_secs(300);

/// `throughput`. With more documents than connections, each connection writes its share of them in turn.
///
/// # Errors
/// No connection became ready; a worker failed; the server's process has ended.
pub fn throughput(options: &Throughput, prepared: Prepared) -> Result<RunResult> {
    let mut writers = group("write", options.connections, options.documents);
    let documents_each = options.documents / options.connections;
    if documents_each <= 1 {
        writers.followed_writers = options.connections.div_ceil(writers.documents);
    }
    writers.fields = options.shape.fields;
    let layout = Layout {
        spread: vec![writers],
        own: Vec::new(),
    };
    let mut run = Run::begin("throughput", &options.common, layout, prepared)?;
    run.parameter("connections", options.connections);
    run.parameter("documents", options.documents);
    run.parameter("in_flight", options.in_flight);
    run.parameter("payload", options.shape.payload);
    run.parameter("fields", options.shape.fields);
    run.phase("connect");
    let workers = run.spread.clone();
    run.open(workers.clone(), options.connections)?;
    let in_flight = options.in_flight;
    let writing = Writing {
        documents_each,
        documents_apart: options.connections,
        ..options.shape.into()
    };
    run.act(workers, 0, &Activity::Closed { in_flight }, writing)?;
    if documents_each > 1 {
        // What a document costs when it is made is not what a change of it costs.
        run.phase("fill");
        let documents = u64::from(options.documents);
        ensure!(
            run.watch(FILL_PATIENCE, |tally| tally.acked >= documents)?,
            "the server did not take a change to each of {documents} documents within {} s; a connection that may not \
             have {documents_each} documents (SYNCKIT_MAX_SUBSCRIPTIONS, 1000) gets no further",
            FILL_PATIENCE.as_secs()
        );
    }
    run.result.headline_latency = Some("ack".to_owned());
    run.measure(options.timing, acknowledged, None)?;
    run.finish()
}

/// `fanout`.
///
/// # Errors
/// As [`throughput`].
pub fn fanout(options: &Fanout, prepared: Prepared) -> Result<RunResult> {
    let mut subscribers = group("fanout", options.subscribers, 1);
    subscribers.followed_writers = 1;
    subscribers.fields = options.shape.fields;
    let mut publisher = group("fanout", 1, 1);
    publisher.prefix.clone_from(&subscribers.prefix);
    publisher.fields = options.shape.fields;
    let layout = Layout {
        spread: vec![subscribers],
        own: vec![publisher],
    };
    let mut run = Run::begin("fanout", &options.common, layout, prepared)?;
    run.parameter("subscribers", options.subscribers);
    run.parameter("rate", options.rate);
    run.parameter("payload", options.shape.payload);
    run.parameter("fields", options.shape.fields);
    run.phase("connect");
    let (spread, own) = (run.spread.clone(), run.own.clone());
    run.open(spread, options.subscribers)?;
    run.open(own.clone(), 1)?;
    let activity = match options.rate {
        0.0 => Activity::Closed { in_flight: 1 },
        per_second => Activity::Paced { per_second },
    };
    run.act(own, 0, &activity, options.shape.into())?;
    // The publisher's punctuality does not change what a delivery costs.
    run.keeps_schedule = false;
    run.result.headline_latency = Some("delivery".to_owned());
    let totals = run.measure(options.timing, delivered, None)?;
    if let Some(bytes) = totals.tally.delivered_bytes.checked_div(totals.tally.delivered) {
        run.parameter("bytes_per_delivery", bytes);
    }
    run.finish()
}
