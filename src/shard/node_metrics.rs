//! What a shard counts of its dealings with other nodes.

use crate::peers::Body;
use std::fmt::Write as _;

const KINDS: [&str; 9] = [
    "fields", "text", "op", "aware", "want", "state", "part", "node", "digests",
];

fn index_of(body: &Body) -> usize {
    match body {
        Body::Fields { .. } => 0,
        Body::Text { .. } => 1,
        Body::Operations(_) => 2,
        Body::Presence { .. } => 3,
        Body::Want { .. } => 4,
        Body::State(_) => 5,
        Body::Part(_) => 6,
        Body::Node { .. } => 7,
        Body::Digests(_) => 8,
    }
}

/// Counters of one shard, or the sum of several.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "every field is explained by its help text in `rows`")]
pub struct NodeMetrics {
    sent: [u64; KINDS.len()],
    received: [u64; KINDS.len()],
    pub not_sent: u64,
    pub refused: u64,
    pub repeated: u64,
    pub gaps: u64,
    pub digests: u64,
    pub mismatches: u64,
    pub questions: u64,
    pub answers: u64,
    pub repaired: u64,
    pub taken_back: u64,
}

impl NodeMetrics {
    /// A message left.
    pub fn sent(&mut self, body: &Body) {
        self.sent[index_of(body)] += 1;
    }

    /// One came.
    pub fn received(&mut self, body: &Body) {
        self.received[index_of(body)] += 1;
    }

    /// Adds another shard's numbers.
    pub fn add(&mut self, other: &NodeMetrics) {
        for kind in 0..KINDS.len() {
            self.sent[kind] += other.sent[kind];
            self.received[kind] += other.received[kind];
        }
        let mut other = *other;
        for (mine, theirs) in self.numbers().into_iter().zip(other.numbers()) {
            *mine += *theirs;
        }
    }

    fn numbers(&mut self) -> [&mut u64; 10] {
        [
            &mut self.not_sent,
            &mut self.refused,
            &mut self.repeated,
            &mut self.gaps,
            &mut self.digests,
            &mut self.mismatches,
            &mut self.questions,
            &mut self.answers,
            &mut self.repaired,
            &mut self.taken_back,
        ]
    }

    fn rows(&self) -> [(&'static str, &'static str, u64); 10] {
        [
            (
                "not_sent_total",
                "Messages the bus did not take; digests make up for them",
                self.not_sent,
            ),
            ("refused_total", "Envelopes that were not understood", self.refused),
            ("repeated_total", "Changes that came again", self.repeated),
            (
                "gaps_total",
                "Times that changes of another node were found missing",
                self.gaps,
            ),
            ("digests_total", "Digests of documents announced", self.digests),
            (
                "mismatches_total",
                "Digests of other nodes that differed",
                self.mismatches,
            ),
            ("questions_total", "Full documents asked for", self.questions),
            ("answers_total", "Full documents sent", self.answers),
            (
                "repairs_total",
                "Full documents received that held something new",
                self.repaired,
            ),
            (
                "taken_back_total",
                "Counter operations counted by two nodes and taken back",
                self.taken_back,
            ),
        ]
    }

    /// Appends Prometheus text: `synckit_nodes_…`.
    pub fn write(&self, text: &mut String) {
        for (name, help, value) in self.rows() {
            let _ = writeln!(
                text,
                "# HELP synckit_nodes_{name} {help}\n# TYPE synckit_nodes_{name} counter\nsynckit_nodes_{name} {value}"
            );
        }
        for (name, help, counts) in [
            ("messages_sent_total", "Messages to other nodes, by kind", &self.sent),
            (
                "messages_received_total",
                "Envelopes of other nodes, by kind",
                &self.received,
            ),
        ] {
            let _ = writeln!(
                text,
                "# HELP synckit_nodes_{name} {help}\n# TYPE synckit_nodes_{name} counter"
            );
            for (kind, count) in KINDS.iter().zip(counts) {
                let _ = writeln!(text, "synckit_nodes_{name}{{kind=\"{kind}\"}} {count}");
            }
        }
    }
}
