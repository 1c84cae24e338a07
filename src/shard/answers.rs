//! Questions of the HTTP API that only shards can answer (docs/protocol.md §16): what one shard finds, and how the
//! findings of all become one response.

use super::Metrics;
use super::Shard;
use super::StorageFacts;
use super::bus_metrics;
use super::context::Context;
use crate::cluster::BusFacts;
use crate::http::{BackendState, DocumentFacts, HealthFacts, Question, Response, SnapshotFacts, answers};
use crate::session::{Flags, Stage};
use rand::Rng;
use serde_json::json;

/// What one shard found.
#[derive(Debug)]
pub enum Findings {
    /// Counts, and documents if they were asked for.
    Health(HealthFacts),
    /// Whether the shard takes new work.
    Ready(bool),
    /// Its documents.
    Rooms {
        documents: Vec<DocumentFacts>,
        connections: u64,
    },
    /// Its numbers.
    Metrics(Box<Metrics>),
    /// What the dashboard asked for.
    Dashboard(Box<serde_json::Value>),
    /// It did as told.
    Done,
    /// The response, if the matter is this shard's.
    Response(Option<Response>),
}

impl Shard {
    /// This shard's part of an answer.
    pub(super) fn find_out(&mut self, question: &Question) -> Findings {
        match question {
            Question::Health { details } => Findings::Health(self.health_facts(*details)),
            Question::Ready => {
                let bus = self.bus_facts().is_none_or(|facts| facts.available);
                Findings::Ready(bus && !self.draining && self.storage_facts().is_none_or(|facts| facts.available))
            }
            Question::Rooms => Findings::Rooms {
                documents: self.document_facts(),
                connections: self.websockets,
            },
            Question::Metrics { .. } => Findings::Metrics(Box::new(self.measured())),
            Question::Overview => Findings::Dashboard(Box::new(self.overview(&self.measured()))),
            Question::FindDocuments { search } => Findings::Dashboard(Box::new(self.find_documents(search))),
            Question::Document { id } => Findings::Dashboard(Box::new(self.describe_document(id))),
            Question::MetricsReset => {
                self.metrics = Metrics::default();
                Findings::Done
            }
            Question::Clear => {
                self.clear();
                Findings::Done
            }
            _ => Findings::Response(self.answer_about_snapshot(question)),
        }
    }

    fn health_facts(&self, details: bool) -> HealthFacts {
        HealthFacts {
            uptime_ms: self.now.unix_ms.saturating_sub(self.context.started_unix_ms),
            connections: self.websockets,
            users: self.users.count(),
            clients: self.clients.len() as u64,
            documents: self.library.len() as u64,
            document_list: if details { self.document_facts() } else { Vec::new() },
            storage: match self.storage_facts() {
                None => BackendState::Absent,
                Some(facts) if facts.available => BackendState::Connected,
                Some(_) => BackendState::Disconnected,
            },
            pubsub: match self.bus_facts() {
                None => BackendState::Absent,
                Some(facts) if facts.available => BackendState::Connected,
                Some(_) => BackendState::Disconnected,
            },
        }
    }

    fn storage_facts(&self) -> Option<StorageFacts> {
        self.context.storage.as_ref().map(|link| (link.health)())
    }

    fn document_facts(&self) -> Vec<DocumentFacts> {
        let facts = |shelf: &super::library::Shelf| DocumentFacts {
            id: shelf.id.to_string(),
            subscribers: shelf.fields.listener_count() as u64,
            last_modified_unix_ms: shelf.modified_ms,
        };
        self.library.iter().map(facts).collect()
    }

    /// The counters with the gauges of this moment.
    pub(super) fn measured(&self) -> Metrics {
        let mut measured = self.metrics.clone();
        measured.connections = self.sessions.len() as u64;
        measured.websockets = self.websockets;
        measured.subscriptions = self.audiences.listeners() as u64;
        let runtime = self.context.measured(self.id);
        (measured.turns, measured.turn_us, measured.turn_us_max) =
            (runtime.turns, runtime.turn_us, runtime.turn_us_max);
        measured.mailbox_letters = runtime.mailbox_letters;
        measured.turn_time = runtime.turn_time;
        measured.documents = self.library.len() as u64;
        self.measure_storage(&mut measured);
        for (_, session) in self.sessions.iter() {
            measured.outbox_bytes += session.queued_bytes() as u64;
            match session.stage {
                Stage::Http | Stage::Lingering => measured.http_connections += 1,
                Stage::Closing => measured.closing += 1,
                Stage::Open if !session.flags.has(Flags::AUTHENTICATED) => measured.unauthenticated += 1,
                Stage::Open => {}
            }
        }
        measured.bus = self.bus_facts().filter(|_| self.id.index() == 0);
        measured
    }

    fn measure_storage(&self, measured: &mut Metrics) {
        let (Some(storehouse), Some(link)) = (self.storehouse.as_deref(), &self.context.storage) else {
            return;
        };
        measured.unsaved_documents = storehouse.unsaved as u64;
        measured.withheld_acks = storehouse.withheld as u64;
        measured.loading_documents = storehouse.loading.len() as u64;
        measured.document_bytes = storehouse.document_bytes as u64;
        // Storage is one for the process; the first shard speaks for it.
        if self.id.index() == 0 {
            let facts = (link.health)();
            measured.storage_up = u64::from(facts.available);
            measured.storage_unavailable_ms = facts.unavailable_ms;
            measured.storage_commits = facts.commits;
            measured.storage_stored = facts.documents_stored;
            measured.storage_loaded = facts.documents_loaded;
            measured.storage_conflicts = facts.conflicts;
            measured.storage_refused = facts.refused;
            measured.storage_retries = facts.retries;
            measured.storage_us = facts.store_us;
            measured.storage_stores_waiting = facts.stores_waiting;
            measured.storage_loads_waiting = facts.loads_waiting;
            measured.store_time = facts.store_time;
        }
    }

    /// The bus is one for the process as well.
    fn bus_facts(&self) -> Option<BusFacts> {
        self.context.bus.as_ref().map(|bus| (bus.health)())
    }

    /// Deletes all documents (`/_test/clear`). Connections stay, their subscriptions go.
    fn clear(&mut self) {
        self.forget_unsaved();
        let documents: Vec<_> = match self.cluster {
            Some(_) => self.library.iter().map(|shelf| shelf.id.clone()).collect(),
            None => Vec::new(),
        };
        self.context.documents_removed(self.library.clear());
        for document in documents {
            self.leave(&document);
        }
        if let Some(cluster) = self.cluster.as_deref_mut() {
            cluster.active.clear();
            cluster.present.clear();
        }
        self.metrics = Metrics::default();
        let slots: Vec<_> = self.sessions.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            while self.audiences.leave(&mut self.sessions, slot, 0).is_some() {}
            if let Some(session) = self.sessions.at_mut(slot) {
                if let Some(extra) = session.extra.as_mut() {
                    extra.lagging.clear();
                }
                session.trim();
            }
        }
    }

    fn answer_about_snapshot(&mut self, question: &Question) -> Option<Response> {
        match question {
            Question::SnapshotCreate { document } => Some(self.create_snapshot(document)),
            Question::SnapshotLatest { document } => {
                Some(answers::snapshot_latest(self.library.snapshots.latest(document)))
            }
            Question::SnapshotList { document, limit } => {
                let newest: Vec<SnapshotFacts> = self
                    .library
                    .snapshots
                    .newest_first(document)
                    .take(*limit)
                    .cloned()
                    .collect();
                Some(answers::snapshot_list(document, &newest))
            }
            Question::SnapshotRead { id, identity } => {
                let snapshot = self.library.snapshots.find(id)?;
                Some(answers::snapshot_read(Some(snapshot), identity))
            }
            Question::SnapshotDelete { id, identity } => {
                let document = self.library.snapshots.find(id)?.document.clone();
                Some(match answers::check_snapshot_delete(Some(&document), identity) {
                    Err(refused) => refused,
                    Ok(()) => {
                        self.library.snapshots.remove(id);
                        answers::snapshot_deleted()
                    }
                })
            }
            _ => None,
        }
    }

    fn create_snapshot(&mut self, document: &str) -> Response {
        let unix_ms = self.now.unix_ms;
        let Some(shelf) = self.library.shelf(document).filter(|shelf| shelf.has_content()) else {
            return answers::snapshot_created(None);
        };
        let mut state = shelf.fields.state_json().to_vec();
        if let Some(text) = shelf.text.as_mut() {
            state.pop();
            state.extend_from_slice(if state.len() > 1 {
                b",\"__text\":"
            } else {
                b"\"__text\":"
            });
            state.extend_from_slice(&text.body().state);
            state.push(b'}');
        }
        let snapshot = SnapshotFacts {
            id: uuid_v4(),
            document: document.to_owned(),
            version: json!({ "server": shelf.fields.clock() }),
            size_bytes: state.len() as u64,
            created_at_unix_ms: unix_ms,
            state: state.into(),
        };
        if !self.library.snapshots.add(snapshot.clone()) {
            return Response::error(500, "Failed to create snapshot");
        }
        answers::snapshot_created(Some(&snapshot))
    }
}

/// One response from what all asked shards found.
pub(super) fn respond(question: &Question, findings: Vec<Findings>, unix_ms: u64, context: &Context) -> Response {
    match question {
        Question::Health { details } => {
            let mut sum = HealthFacts::default();
            for finding in findings {
                let Findings::Health(facts) = finding else { continue };
                sum.uptime_ms = sum.uptime_ms.max(facts.uptime_ms);
                sum.connections += facts.connections;
                sum.users += facts.users;
                sum.clients += facts.clients;
                sum.documents += facts.documents;
                (sum.storage, sum.pubsub) = (facts.storage, facts.pubsub);
                sum.document_list.extend(facts.document_list);
            }
            answers::health(&sum, *details, unix_ms)
        }
        Question::Ready => {
            let ready = findings.iter().all(|finding| matches!(finding, Findings::Ready(true)));
            answers::readiness(ready, 0.0)
        }
        Question::Rooms => {
            let (mut all, mut total) = (Vec::new(), 0);
            for finding in findings {
                let Findings::Rooms { documents, connections } = finding else {
                    continue;
                };
                all.extend(documents);
                total += connections;
            }
            answers::rooms(&all, total)
        }
        Question::Metrics { prometheus } => {
            let shards = findings.into_iter().filter_map(|finding| match finding {
                Findings::Metrics(metrics) => Some(*metrics),
                _ => None,
            });
            let shards: Vec<Metrics> = shards.collect();
            if *prometheus {
                let text = Metrics::prometheus(&shards) + &context.process_metrics();
                return answers::metrics_prometheus(text);
            }
            let mut total = Metrics::default();
            shards.iter().for_each(|shard| total.add(shard));
            answers::metrics_json(&total.facts(), total.bus.as_ref().map(bus_metrics::json))
        }
        Question::Overview | Question::FindDocuments { .. } | Question::Document { .. } => {
            super::dashboard::respond(question, findings, unix_ms)
        }
        Question::MetricsReset => answers::metrics_were_reset(),
        Question::Clear => answers::cleared(),
        _ => {
            let found = findings.into_iter().find_map(|finding| match finding {
                Findings::Response(response) => response,
                _ => None,
            });
            found.unwrap_or_else(answers::snapshot_missing)
        }
    }
}

/// A random UUID (RFC 9562, version 4).
pub(super) fn uuid_v4() -> String {
    let bits: u128 = rand::rng().random();
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
