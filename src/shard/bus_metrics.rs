//! The state of the bus between the nodes as metrics: Prometheus text and JSON.

use crate::cluster::BusFacts;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// Name without prefix, name in JSON, help, type, value.
type Row = (&'static str, &'static str, &'static str, &'static str, u64);

fn rows(facts: &BusFacts) -> [Row; 18] {
    let counter = |name, json, help, value| (name, json, help, "counter", value);
    let gauge = |name, json, help, value| (name, json, help, "gauge", value);
    [
        gauge(
            "up",
            "up",
            "Whether envelopes leave and arrive",
            u64::from(facts.available),
        ),
        gauge(
            "unavailable_seconds",
            "unavailableMs",
            "How long they have not",
            facts.unavailable_ms,
        ),
        gauge(
            "connected_seconds",
            "connectedMs",
            "How long they have",
            facts.connected_ms,
        ),
        counter(
            "reconnects_total",
            "reconnects",
            "Connections made after a loss",
            facts.reconnects,
        ),
        counter(
            "connect_failures_total",
            "connectFailures",
            "Attempts to connect that failed",
            facts.connect_failures,
        ),
        gauge(
            "queue_depth",
            "queueDepth",
            "Envelopes that wait to be sent",
            facts.queue_depth,
        ),
        gauge("queue_bytes", "queueBytes", "Their bytes", facts.queue_bytes),
        counter(
            "published_total",
            "published",
            "Envelopes sent and confirmed",
            facts.published,
        ),
        counter(
            "published_bytes_total",
            "publishedBytes",
            "Their bytes",
            facts.published_bytes,
        ),
        counter(
            "confirmations_timed_total",
            "confirmationsTimed",
            "Envelopes whose confirmation by Redis was timed: one at a time",
            facts.timed,
        ),
        counter(
            "confirmation_seconds_total",
            "confirmationUs",
            "Time from writing these to their confirmation",
            facts.timed_us,
        ),
        counter(
            "received_total",
            "received",
            "Envelopes of other nodes that arrived",
            facts.received,
        ),
        counter(
            "received_bytes_total",
            "receivedBytes",
            "Their bytes",
            facts.received_bytes,
        ),
        counter(
            "refused_total",
            "refused",
            "Envelopes given back because the queue was full or the bus was away",
            facts.refused,
        ),
        counter(
            "dropped_total",
            "dropped",
            "Envelopes lost with a connection or refused by Redis, and made up for by a repair",
            facts.dropped,
        ),
        gauge("documents", "documents", "Documents joined", facts.documents),
        gauge(
            "joining",
            "joining",
            "Of these, the ones whose envelopes do not arrive yet",
            facts.joining,
        ),
        gauge(
            "peers",
            "peers",
            "Other nodes heard of within the last minute or so",
            facts.peers,
        ),
    ]
}

/// What a unit in the name for JSON is of one without: Prometheus wants base units.
fn scale(json: &str) -> f64 {
    if json.ends_with("Ms") {
        1e-3
    } else if json.ends_with("Us") {
        1e-6
    } else {
        1.0
    }
}

/// Appends Prometheus text: `synckit_bus_…`.
pub(super) fn write(facts: &BusFacts, text: &mut String) {
    for (name, json, help, kind, value) in rows(facts) {
        let value = value as f64 * scale(json);
        let _ = writeln!(
            text,
            "# HELP synckit_bus_{name} {help}\n# TYPE synckit_bus_{name} {kind}\nsynckit_bus_{name} {value}"
        );
    }
}

/// The same as an object.
pub(super) fn json(facts: &BusFacts) -> Value {
    let members = rows(facts).map(|(_, name, _, _, value)| (name.to_owned(), Value::from(value)));
    Value::Object(Map::from_iter(members))
}
