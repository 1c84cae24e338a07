//! The scenarios: which connections, what they do, and what is measured meanwhile.

mod churn;
mod closed;
mod density;
mod durable;
mod rates;

use crate::control::{Abilities, Group, Tally};
use crate::measure;
use crate::options::Scenario;
use crate::probe;
use crate::result::{RunResult, Verdict};
use crate::run::Prepared;
use crate::sockets;
use anyhow::Result;

/// Runs one.
///
/// # Errors
/// An unusable URL, an unreachable server, workers that fail.
pub fn run(scenario: &Scenario) -> Result<RunResult> {
    let common = scenario.common();
    let prepared = probe::prepare(common)?;
    let missing = missing(scenario, &prepared.abilities);
    if !missing.is_empty() {
        return Ok(not_measured(scenario, prepared, &missing));
    }
    match scenario {
        Scenario::Density(options) => density::run(options, prepared),
        Scenario::Throughput(options) => closed::throughput(options, prepared),
        Scenario::Fanout(options) => closed::fanout(options, prepared),
        Scenario::Latency(options) => rates::latency(options, prepared),
        Scenario::Churn(options) => churn::run(options, prepared),
        Scenario::Mixed(options) => rates::mixed(options, prepared),
        Scenario::Durable(options) => durable::run(options, prepared),
    }
}

/// Abilities without which a scenario has nothing to measure.
fn missing(scenario: &Scenario, abilities: &Abilities) -> Vec<&'static str> {
    let needs_ack = match scenario {
        Scenario::Throughput(_) | Scenario::Durable(_) => true,
        Scenario::Fanout(options) => options.rate == 0.0,
        _ => false,
    };
    let needs_broadcast = match scenario {
        Scenario::Fanout(_) | Scenario::Latency(_) => true,
        Scenario::Density(options) => options.broadcast_subscribers > 0,
        _ => false,
    };
    let mut missing = Vec::new();
    // Connections that the server keeps waiting are not what an idle connection costs.
    if matches!(scenario, Scenario::Density(options) if !options.no_subscribe) && !abilities.subscribe {
        missing.push("subscribe");
    }
    if needs_ack && !abilities.ack {
        missing.push("ack");
    }
    if needs_broadcast && !abilities.broadcast {
        missing.push("broadcast");
    }
    missing
}

/// The result of a scenario that a server cannot take part in: what it cannot do, and no figures.
fn not_measured(scenario: &Scenario, prepared: Prepared, missing: &[&str]) -> RunResult {
    let common = scenario.common();
    let mut result = RunResult::new(scenario.name());
    result.started_at_unix_ms = sockets::unix_ms();
    result.machine = measure::machine::describe().unwrap_or_default();
    result.server.url = prepared.target.url();
    result.server.name.clone_from(&common.name);
    result.server.dialect = format!("{}/{}", common.dialect.name(), common.encoding.name());
    result.unsupported = prepared.unsupported;
    result.saturation.verdict = Verdict::Failed;
    let steps = missing.join(", ");
    result
        .saturation
        .reasons
        .push(format!("nothing was measured: the server does not do {steps}"));
    result
}

/// A group whose documents no other run shares, and no other group: to share, clone the prefix.
fn group(name: &str, count: u32, documents: u32) -> Group {
    Group {
        first: 0,
        count,
        identity_base: 0,
        prefix: format!("load-{}-{}-{name}-", sockets::unix_ms(), std::process::id()),
        documents: documents.max(1),
        subscribe: true,
        awareness: false,
        followed_writers: 0,
        fields: 1,
    }
}

/// Acknowledged changes are what counts as messages.
fn acknowledged(before: &Tally, after: &Tally) -> Option<u64> {
    Some(after.acked - before.acked)
}

/// Deliveries are what counts as messages.
fn delivered(before: &Tally, after: &Tally) -> Option<u64> {
    Some(after.delivered - before.delivered)
}
