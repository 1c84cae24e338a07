//! What a shard counts. Plain numbers, written by one core and copied when somebody asks.

use super::bus_metrics;
use super::node_metrics::NodeMetrics;
use crate::cluster::BusFacts;
use crate::histogram::{Durations, Sizes};
use crate::http::{AckFacts, BroadcastFacts, DeltaFacts, LatencyFacts, MetricsFacts, SendFacts};
use crate::protocol::Kind;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Counters and gauges of one shard, or the sum of several.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "every field is explained by its help text in `rows`")]
pub struct Metrics {
    pub connections: u64,
    pub websockets: u64,
    pub subscriptions: u64,
    pub documents: u64,
    pub outbox_bytes: u64,
    pub mailbox_letters: u64,
    pub accepted: u64,
    pub ended: u64,
    pub moved: u64,
    pub adopted: u64,
    pub upgrades: u64,
    pub http_requests: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub unreadable: u64,
    pub throttled: u64,
    pub elements_accepted: u64,
    pub elements_ignored: u64,
    pub writes_lost: u64,
    pub flushes: u64,
    pub fields_flushed: u64,
    pub flush_wait_us: u64,
    pub flush_wait_us_max: u64,
    pub turns: u64,
    pub turn_us: u64,
    pub turn_us_max: u64,
    pub encodings: u64,
    pub deliveries: u64,
    pub coalesced: u64,
    pub slow_consumers: u64,
    pub text_merges: u64,
    pub text_collisions: u64,
    pub pings: u64,
    pub heartbeat_timeouts: u64,
    pub superseded: u64,
    pub unsaved_documents: u64,
    pub withheld_acks: u64,
    pub loading_documents: u64,
    pub document_bytes: u64,
    pub loaded: u64,
    pub unloaded: u64,
    pub not_loaded: u64,
    pub writes_not_stored: u64,
    pub audit_dropped: u64,
    pub storage_up: u64,
    pub storage_unavailable_ms: u64,
    pub storage_commits: u64,
    pub storage_stored: u64,
    pub storage_loaded: u64,
    pub storage_conflicts: u64,
    pub storage_refused: u64,
    pub storage_retries: u64,
    pub storage_us: u64,
    pub http_connections: u64,
    pub unauthenticated: u64,
    pub closing: u64,
    pub storage_stores_waiting: u64,
    pub storage_loads_waiting: u64,
    pub ack_latency: Durations,
    pub flush_wait: Durations,
    pub flush_fields: Sizes,
    pub fan_out: Sizes,
    pub turn_time: Durations,
    pub store_time: Durations,
    pub bus: Option<BusFacts>,
    pub nodes: NodeMetrics,
    received: [u64; Kind::COUNT],
    sent: [u64; Kind::COUNT],
    refused: BTreeMap<&'static str, u64>,
    closed: BTreeMap<u16, u64>,
}

/// Single numbers that are told.
const ROWS: usize = 58;

/// Name without prefix, help, type, value. Names in microseconds or milliseconds are told in seconds.
pub(super) type Row = (&'static str, &'static str, &'static str, u64);

impl Metrics {
    /// A message was handled.
    pub fn received(&mut self, kind: Kind) {
        self.received[kind.index()] += 1;
    }

    /// A message was queued for a connection.
    pub fn sent(&mut self, kind: Kind) {
        self.sent[kind.index()] += 1;
    }

    /// Something was refused with that code.
    pub fn refused(&mut self, code: &'static str) {
        *self.refused.entry(code).or_default() += 1;
    }

    /// A connection was closed with that code.
    pub fn closed(&mut self, code: u16) {
        *self.closed.entry(code).or_default() += 1;
    }

    /// A flush left after the first of its changes had waited so long.
    pub fn flushed(&mut self, wait_us: u64) {
        self.flushes += 1;
        self.flush_wait_us += wait_us;
        self.flush_wait.observe(wait_us);
        self.flush_wait_us_max = self.flush_wait_us_max.max(wait_us);
    }

    /// Adds another shard's numbers; maxima stay maxima.
    pub fn add(&mut self, other: &Metrics) {
        let Metrics {
            received,
            sent,
            refused,
            closed,
            bus,
            nodes,
            ..
        } = other;
        self.bus = self.bus.or(*bus);
        self.nodes.add(nodes);
        for (mine, theirs) in self.numbers().into_iter().zip(other.clone().numbers()) {
            *mine += *theirs;
        }
        self.flush_wait_us_max = self.flush_wait_us_max.max(other.flush_wait_us_max);
        self.turn_us_max = self.turn_us_max.max(other.turn_us_max);
        self.ack_latency.add(&other.ack_latency);
        self.flush_wait.add(&other.flush_wait);
        self.flush_fields.add(&other.flush_fields);
        self.fan_out.add(&other.fan_out);
        self.turn_time.add(&other.turn_time);
        self.store_time.add(&other.store_time);
        for index in 0..Kind::COUNT {
            self.received[index] += received[index];
            self.sent[index] += sent[index];
        }
        for (code, count) in refused {
            *self.refused.entry(code).or_default() += count;
        }
        for (code, count) in closed {
            *self.closed.entry(*code).or_default() += count;
        }
    }

    /// Everything that is simply summed.
    fn numbers(&mut self) -> [&mut u64; 56] {
        [
            &mut self.connections,
            &mut self.websockets,
            &mut self.subscriptions,
            &mut self.documents,
            &mut self.outbox_bytes,
            &mut self.mailbox_letters,
            &mut self.accepted,
            &mut self.ended,
            &mut self.moved,
            &mut self.adopted,
            &mut self.upgrades,
            &mut self.http_requests,
            &mut self.bytes_in,
            &mut self.bytes_out,
            &mut self.unreadable,
            &mut self.throttled,
            &mut self.elements_accepted,
            &mut self.elements_ignored,
            &mut self.writes_lost,
            &mut self.flushes,
            &mut self.fields_flushed,
            &mut self.flush_wait_us,
            &mut self.turns,
            &mut self.turn_us,
            &mut self.encodings,
            &mut self.deliveries,
            &mut self.coalesced,
            &mut self.slow_consumers,
            &mut self.text_merges,
            &mut self.text_collisions,
            &mut self.pings,
            &mut self.heartbeat_timeouts,
            &mut self.superseded,
            &mut self.unsaved_documents,
            &mut self.withheld_acks,
            &mut self.loading_documents,
            &mut self.document_bytes,
            &mut self.loaded,
            &mut self.unloaded,
            &mut self.not_loaded,
            &mut self.writes_not_stored,
            &mut self.audit_dropped,
            &mut self.storage_up,
            &mut self.storage_unavailable_ms,
            &mut self.storage_commits,
            &mut self.storage_stored,
            &mut self.storage_loaded,
            &mut self.storage_conflicts,
            &mut self.storage_refused,
            &mut self.storage_retries,
            &mut self.storage_us,
            &mut self.http_connections,
            &mut self.unauthenticated,
            &mut self.closing,
            &mut self.storage_stores_waiting,
            &mut self.storage_loads_waiting,
        ]
    }

    /// Tells the log how the shard is (SIGUSR1).
    pub fn log(&self, shard: crate::ids::ShardId) {
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        tracing::info!(
            shard = shard.0,
            connections = self.connections,
            websockets = self.websockets,
            subscriptions = self.subscriptions,
            documents = self.documents,
            document_bytes = self.document_bytes,
            loading_documents = self.loading_documents,
            unsaved_documents = self.unsaved_documents,
            withheld_acks = self.withheld_acks,
            outbox_bytes = self.outbox_bytes,
            mailbox_letters = self.mailbox_letters,
            messages_received = sum(&self.received),
            messages_sent = sum(&self.sent),
            deliveries = self.deliveries,
            slow_consumers = self.slow_consumers,
            turns = self.turns,
            turn_us_max = self.turn_us_max,
            refused = ?self.refused,
            closed = ?self.closed,
            "state"
        );
        if shard.index() == 0 {
            tracing::info!(
                storage_up = self.storage_up,
                storage_unavailable_ms = self.storage_unavailable_ms,
                storage_commits = self.storage_commits,
                storage_retries = self.storage_retries,
                "state of the database"
            );
        }
    }

    /// Messages handled, and messages queued, fan-outs included.
    pub(super) fn messages(&self) -> (u64, u64) {
        let sent: u64 = self.sent.iter().sum();
        (self.received.iter().sum(), sent + self.deliveries)
    }

    /// The members of the C# server's `/metrics` that this server can fill (docs/protocol.md §16.1).
    pub fn facts(&self) -> MetricsFacts {
        let mean_ms = |sum_us: u64, count: u64| {
            if count == 0 {
                0.0
            } else {
                sum_us as f64 / count as f64 / 1000.0
            }
        };
        let sent: u64 = self.sent.iter().sum();
        MetricsFacts {
            connections: self.websockets,
            documents: self.documents,
            deltas: DeltaFacts {
                received: self.elements_accepted,
                broadcast: self.fields_flushed,
                dropped: 0,
                convergence: self.writes_lost,
            },
            acks: AckFacts {
                sent: self.sent[Kind::Ack.index()],
                received: self.received[Kind::Ack.index()],
            },
            latency: LatencyFacts {
                broadcast_ms_avg: mean_ms(self.flush_wait_us, self.flushes),
                broadcast_ms_max: self.flush_wait_us_max as f64 / 1000.0,
                processing_ms_avg: mean_ms(self.turn_us, self.turns),
                processing_ms_max: self.turn_us_max as f64 / 1000.0,
            },
            broadcast: BroadcastFacts {
                count: self.flushes,
                total_ms: self.flush_wait_us as f64 / 1000.0,
                max_ms: self.flush_wait_us_max as f64 / 1000.0,
                messages_sent: self.deliveries,
                messages_failed: 0,
            },
            send: SendFacts {
                attempts: sent,
                successes: sent,
                ..SendFacts::default()
            },
            ..MetricsFacts::default()
        }
    }

    pub(super) fn rows(&self) -> [Row; ROWS] {
        [
            ("connections", "Open sockets", "gauge", self.connections),
            ("websockets", "Open WebSocket connections", "gauge", self.websockets),
            (
                "subscriptions",
                "Subscriptions of local connections",
                "gauge",
                self.subscriptions,
            ),
            ("documents", "Loaded documents", "gauge", self.documents),
            (
                "outbox_bytes",
                "Bytes queued for connections",
                "gauge",
                self.outbox_bytes,
            ),
            (
                "mailbox_letters",
                "Letters waiting in the mailbox",
                "gauge",
                self.mailbox_letters,
            ),
            ("accepted_total", "Sockets accepted", "counter", self.accepted),
            ("ended_total", "Sockets ended", "counter", self.ended),
            (
                "moved_total",
                "Connections given to the shard of their first document",
                "counter",
                self.moved,
            ),
            (
                "adopted_total",
                "Connections taken over from another shard",
                "counter",
                self.adopted,
            ),
            (
                "upgrades_total",
                "WebSocket handshakes completed",
                "counter",
                self.upgrades,
            ),
            ("http_requests_total", "HTTP requests", "counter", self.http_requests),
            (
                "received_bytes_total",
                "Bytes read from sockets",
                "counter",
                self.bytes_in,
            ),
            (
                "sent_bytes_total",
                "Bytes accepted by the kernel",
                "counter",
                self.bytes_out,
            ),
            (
                "unreadable_messages_total",
                "Messages that could not be parsed",
                "counter",
                self.unreadable,
            ),
            (
                "throttled_messages_total",
                "Messages over the rate limit",
                "counter",
                self.throttled,
            ),
            (
                "elements_accepted_total",
                "Elements of writes accepted",
                "counter",
                self.elements_accepted,
            ),
            (
                "elements_ignored_total",
                "Elements of batches of no known kind",
                "counter",
                self.elements_ignored,
            ),
            (
                "writes_lost_total",
                "Field writes that lost against a newer value",
                "counter",
                self.writes_lost,
            ),
            ("flushes_total", "Flushes of documents", "counter", self.flushes),
            (
                "fields_flushed_total",
                "Fields sent by flushes",
                "counter",
                self.fields_flushed,
            ),
            (
                "flush_wait_sum_us_total",
                "Time changes waited for their flush",
                "counter",
                self.flush_wait_us,
            ),
            (
                "flush_wait_us_max",
                "Longest such wait",
                "gauge",
                self.flush_wait_us_max,
            ),
            ("turns_total", "Loop turns with work", "counter", self.turns),
            ("turn_us_total", "Time spent in loop turns", "counter", self.turn_us),
            ("turn_us_max", "Longest loop turn", "gauge", self.turn_us_max),
            (
                "encodings_total",
                "Encodings of flushes shared by many connections",
                "counter",
                self.encodings,
            ),
            (
                "deliveries_total",
                "Fan-out messages queued for connections",
                "counter",
                self.deliveries,
            ),
            (
                "coalesced_total",
                "Fan-outs skipped for slow connections and made up for later",
                "counter",
                self.coalesced,
            ),
            (
                "slow_consumers_total",
                "Connections closed because they read too slowly",
                "counter",
                self.slow_consumers,
            ),
            ("text_merges_total", "Text states merged", "counter", self.text_merges),
            (
                "text_collisions_total",
                "Pieces of text named alike that differ",
                "counter",
                self.text_collisions,
            ),
            ("pings_total", "WebSocket pings sent", "counter", self.pings),
            (
                "heartbeat_timeouts_total",
                "Connections closed for silence",
                "counter",
                self.heartbeat_timeouts,
            ),
            (
                "superseded_total",
                "Connections left over by reconnects and closed",
                "counter",
                self.superseded,
            ),
            (
                "unsaved_documents",
                "Documents with changes that are not stored",
                "gauge",
                self.unsaved_documents,
            ),
            (
                "withheld_acks",
                "Acknowledgements that wait for the database",
                "gauge",
                self.withheld_acks,
            ),
            (
                "loading_documents",
                "Documents being loaded",
                "gauge",
                self.loading_documents,
            ),
            (
                "document_bytes",
                "Memory of stored documents in bytes",
                "gauge",
                self.document_bytes,
            ),
            (
                "loaded_total",
                "Documents taken in from the database",
                "counter",
                self.loaded,
            ),
            ("unloaded_total", "Documents unloaded", "counter", self.unloaded),
            (
                "not_loaded_total",
                "Requests refused because the database did not answer",
                "counter",
                self.not_loaded,
            ),
            (
                "writes_not_stored_total",
                "Writes refused because the database did not take them",
                "counter",
                self.writes_not_stored,
            ),
            (
                "audit_dropped_total",
                "Changes missing in the audit trail",
                "counter",
                self.audit_dropped,
            ),
            ("storage_up", "Whether the database answers", "gauge", self.storage_up),
            (
                "storage_unavailable_ms",
                "How long the database has not answered",
                "gauge",
                self.storage_unavailable_ms,
            ),
            (
                "storage_commits_total",
                "Transactions committed",
                "counter",
                self.storage_commits,
            ),
            (
                "storage_documents_stored_total",
                "Documents written by them",
                "counter",
                self.storage_stored,
            ),
            (
                "storage_documents_loaded_total",
                "Documents read",
                "counter",
                self.storage_loaded,
            ),
            (
                "storage_conflicts_total",
                "Rows that another server had changed, merged",
                "counter",
                self.storage_conflicts,
            ),
            (
                "storage_refused_total",
                "Documents the database did not take for their content",
                "counter",
                self.storage_refused,
            ),
            (
                "storage_retries_total",
                "Operations tried again",
                "counter",
                self.storage_retries,
            ),
            (
                "storage_us_total",
                "Time spent in transactions",
                "counter",
                self.storage_us,
            ),
            (
                "http_connections",
                "Open connections that are no WebSockets",
                "gauge",
                self.http_connections,
            ),
            (
                "unauthenticated_connections",
                "WebSockets that have not authenticated yet",
                "gauge",
                self.unauthenticated,
            ),
            (
                "closing_connections",
                "WebSockets that are being closed",
                "gauge",
                self.closing,
            ),
            (
                "storage_stores_waiting",
                "Documents waiting to be written",
                "gauge",
                self.storage_stores_waiting,
            ),
            (
                "storage_loads_waiting",
                "Requests waiting to read documents",
                "gauge",
                self.storage_loads_waiting,
            ),
        ]
    }

    /// Prometheus text of all shards: `synckit_…` in total, `synckit_shard_…` per shard.
    pub fn prometheus(shards: &[Metrics]) -> String {
        let mut total = Metrics::default();
        shards.iter().for_each(|shard| total.add(shard));
        let mut text = String::new();
        let rows: Vec<[Row; ROWS]> = shards.iter().map(Metrics::rows).collect();
        for (at, (name, help, kind, value)) in total.rows().into_iter().enumerate() {
            let (name, unit) = in_base_units(name);
            let value = unit.of(value);
            let _ = writeln!(
                text,
                "# HELP synckit_{name} {help}\n# TYPE synckit_{name} {kind}\nsynckit_{name} {value}"
            );
            let _ = writeln!(
                text,
                "# HELP synckit_shard_{name} {help}, per shard\n# TYPE synckit_shard_{name} {kind}"
            );
            for (shard, rows) in rows.iter().enumerate() {
                let value = unit.of(rows[at].3);
                let _ = writeln!(text, "synckit_shard_{name}{{shard=\"{shard}\"}} {value}");
            }
        }
        write_histograms(&mut text, shards);
        total.write_labelled(&mut text);
        if let Some(facts) = &total.bus {
            bus_metrics::write(facts, &mut text);
            total.nodes.write(&mut text);
        }
        text
    }

    fn write_labelled(&self, text: &mut String) {
        let mut family = |name: &str, help: &str, rows: Vec<(String, u64)>| {
            let _ = writeln!(text, "# HELP synckit_{name} {help}\n# TYPE synckit_{name} counter");
            for (label, value) in rows {
                let _ = writeln!(text, "synckit_{name}{{{label}}} {value}");
            }
        };
        let by_kind = |counts: &[u64; Kind::COUNT]| {
            Kind::all()
                .map(|kind| (format!("type=\"{}\"", kind.name()), counts[kind.index()]))
                .collect()
        };
        family(
            "messages_received_total",
            "Messages handled, by type",
            by_kind(&self.received),
        );
        family(
            "messages_sent_total",
            "Messages queued, by type; fan-outs count as deliveries",
            by_kind(&self.sent),
        );
        let refused = self
            .refused
            .iter()
            .map(|(code, count)| (format!("code=\"{code}\""), *count));
        family("refused_total", "Refusals, by code", refused.collect());
        let closed = self
            .closed
            .iter()
            .map(|(code, count)| (format!("code=\"{code}\""), *count));
        family("closed_total", "Connections closed, by close code", closed.collect());
    }
}

/// What a number is divided by to be told in base units.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn of(self, value: u64) -> String {
        match self.0 {
            1 => value.to_string(),
            per => (value as f64 / f64::from(per)).to_string(),
        }
    }
}

/// Prometheus wants seconds.
fn in_base_units(name: &str) -> (String, Unit) {
    let words = |from, to| {
        name.split('_')
            .map(|word| if word == from { to } else { word })
            .collect::<Vec<_>>()
            .join("_")
    };
    if name.split('_').any(|word| word == "us") {
        (words("us", "seconds"), Unit(1_000_000))
    } else if name.split('_').any(|word| word == "ms") {
        (words("ms", "seconds"), Unit(1_000))
    } else {
        (name.to_owned(), Unit(1))
    }
}

fn write_histograms(text: &mut String, shards: &[Metrics]) {
    let mut family = |name: &str, help: &str, write: &dyn Fn(&mut String, &Metrics, &str, &str)| {
        let _ = writeln!(
            text,
            "# HELP synckit_{name} {help}, per shard\n# TYPE synckit_{name} histogram"
        );
        for (index, shard) in shards.iter().enumerate() {
            write(text, shard, &format!("synckit_{name}"), &format!("shard=\"{index}\","));
        }
    };
    family(
        "ack_latency_seconds",
        "Time from reading a write to queueing its acknowledgement, counted in loop turns",
        &|text, shard, name, labels| shard.ack_latency.write(text, name, labels, 1e6),
    );
    family(
        "flush_wait_seconds",
        "Time the first change of a flush waited for it",
        &|text, shard, name, labels| shard.flush_wait.write(text, name, labels, 1e6),
    );
    family(
        "flush_fields",
        "Fields sent by one flush",
        &|text, shard, name, labels| {
            shard.flush_fields.write(text, name, labels, 1.0);
        },
    );
    family(
        "fan_out_listeners",
        "Local listeners of a flushed document",
        &|text, shard, name, labels| shard.fan_out.write(text, name, labels, 1.0),
    );
    family(
        "turn_duration_seconds",
        "Duration of loop turns with work",
        &|text, shard, name, labels| shard.turn_time.write(text, name, labels, 1e6),
    );
    let _ = writeln!(
        text,
        "# HELP synckit_storage_commit_seconds Duration of transactions that wrote documents\n\
         # TYPE synckit_storage_commit_seconds histogram"
    );
    let mut all = Durations::default();
    shards.iter().for_each(|shard| all.add(&shard.store_time));
    all.write(text, "synckit_storage_commit_seconds", "", 1e6);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_are_kept_apart() {
        let mut first = Metrics {
            deliveries: 2,
            turn_us_max: 7,
            ..Metrics::default()
        };
        first.received(Kind::Ping);
        first.refused("X");
        let mut second = Metrics {
            deliveries: 3,
            turn_us_max: 5,
            ..Metrics::default()
        };
        second.received(Kind::Ping);
        let text = Metrics::prometheus(&[first, second]);
        for line in [
            "synckit_deliveries_total 5",
            "synckit_shard_deliveries_total{shard=\"1\"} 3",
            "synckit_turn_seconds_max 0.000007",
            "synckit_messages_received_total{type=\"ping\"} 2",
            "synckit_refused_total{code=\"X\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_number_is_summed() {
        let mut one = Metrics::default();
        one.numbers().into_iter().for_each(|number| *number = 1);
        one.flush_wait_us_max = 1;
        one.turn_us_max = 1;
        assert!(
            one.rows().iter().all(|row| row.3 == 1),
            "a row without its number in `numbers`"
        );
    }
}
