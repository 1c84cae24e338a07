//! What the dashboard asks (docs/dashboard.md): numbers, documents, one document, and who reads too slowly.
//!
//! Every answer is bounded, whatever the shard holds: so many documents are looked at, so many are named, so many
//! sessions are looked at for slow ones. What was left out is said.

use super::answers::Findings;
use super::{Metrics, Shard};
use crate::http::{Question, Response};
use crate::session::Session;
use serde_json::{Map, Value, json};

/// Documents looked at for one search, per shard.
const SEARCHED_MAX: usize = 50_000;
/// Documents named in an answer.
const FOUND_MAX: usize = 50;
/// Sessions looked at for slow ones, per shard.
const LOOKED_AT_MAX: usize = 100_000;
/// Slow consumers and subscribers named, per shard.
const NAMED_MAX: usize = 20;
/// Bytes that wait for a connection from which on it is worth naming.
const SLOW_BYTES_MIN: usize = 16 << 10;
/// Presence entries and last writes named.
const ENTRIES_MAX: usize = 20;
/// Bytes of a presence state or a value that are shown.
const SHOWN_BYTES_MAX: usize = 160;

impl Shard {
    /// Numbers of this shard and its slowest readers.
    pub(super) fn overview(&self, measured: &Metrics) -> Value {
        let mut numbers: Map<String, Value> = measured
            .rows()
            .into_iter()
            .map(|(name, _, _, value)| (name.to_owned(), value.into()))
            .collect();
        let (received, sent) = measured.messages();
        numbers.insert("messages_received".to_owned(), received.into());
        numbers.insert("messages_sent".to_owned(), sent.into());
        let mut slow: Vec<(usize, Value)> = Vec::new();
        for (slot, session) in self.sessions.iter().take(LOOKED_AT_MAX) {
            let queued = session.queued_bytes();
            let lags = session.extra.as_ref().map_or(0, |extra| extra.lagging.len());
            if queued >= SLOW_BYTES_MIN || lags > 0 {
                slow.push((
                    queued,
                    json!({
                        "connection": format!("{}-{}", self.id.0, slot.0),
                        "user": &*session.identity.user_id,
                        "client": client_of(session),
                        "queuedBytes": queued,
                        "behindOn": lags,
                    }),
                ));
                if slow.len() > 2 * NAMED_MAX {
                    keep_largest(&mut slow);
                }
            }
        }
        keep_largest(&mut slow);
        let storage = self.context.storage.as_ref().map(|link| (link.health)().available);
        let redis = self.context.bus.as_ref().map(|bus| (bus.health)());
        let redis = redis.map(
            |facts| json!({ "available": facts.available, "peers": facts.peers, "queueDepth": facts.queue_depth }),
        );
        json!({
            "shard": self.id.0,
            "numbers": numbers,
            "slow": slow.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(),
            "storage": storage,
            "redis": redis,
            "uptimeMs": self.now.unix_ms.saturating_sub(self.context.started_unix_ms),
            "memoryBytes": if self.id.0 == 0 { self.context.resident_bytes() } else { None },
            "connectionsMax": self.context.connections_max(),
            "draining": self.draining,
        })
    }

    /// Documents here whose id contains `search`, newest change first.
    pub(super) fn find_documents(&self, search: &str) -> Value {
        let mut found: Vec<(u64, Value)> = Vec::new();
        let mut matching = 0;
        for shelf in self.library.iter().take(SEARCHED_MAX) {
            if !shelf.id.contains(search) {
                continue;
            }
            matching += 1;
            found.push((
                shelf.modified_ms,
                json!({
                    "id": &*shelf.id,
                    "shard": self.id.0,
                    "subscribers": shelf.fields.listener_count(),
                    "fields": shelf.fields.field_count(),
                    "bytes": shelf.fields.encoded_bytes(),
                    "text": shelf.text.is_some(),
                    "modified": shelf.modified_ms,
                }),
            ));
            if found.len() > 4 * FOUND_MAX {
                found.sort_unstable_by_key(|(modified, _)| std::cmp::Reverse(*modified));
                found.truncate(FOUND_MAX);
            }
        }
        found.sort_unstable_by_key(|(modified, _)| std::cmp::Reverse(*modified));
        found.truncate(FOUND_MAX);
        json!({
            "documents": found.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(),
            "matching": matching,
            "complete": self.library.len() <= SEARCHED_MAX,
        })
    }

    /// This shard's part of one document: everything if it lives here, and who listens from here.
    pub(super) fn describe_document(&mut self, id: &str) -> Value {
        let listeners = self
            .audiences
            .find(id)
            .map_or(&[][..], |audience| &self.audiences.at(audience).listeners);
        let subscribers: Vec<Value> = listeners
            .iter()
            .take(NAMED_MAX)
            .filter_map(|listener| Some((listener.slot, self.sessions.at(listener.slot)?)))
            .map(|(slot, session)| {
                json!({
                    "connection": format!("{}-{}", self.id.0, slot.0),
                    "user": &*session.identity.user_id,
                    "client": client_of(session),
                    "queuedBytes": session.queued_bytes(),
                })
            })
            .collect();
        let shard = self.id.0;
        let Some(shelf) = self.library.shelf(id) else {
            return json!({ "subscribers": subscribers });
        };
        let presence = shelf.presence.as_ref().map_or_else(Vec::new, |presence| presence.all());
        let entries: Vec<Value> = presence
            .iter()
            .take(ENTRIES_MAX)
            .map(|entry| json!({ "client": &*entry.client_id, "state": shown(entry.state.as_deref()) }))
            .collect();
        let writes: Vec<Value> = shelf
            .fields
            .last_writes(ENTRIES_MAX)
            .into_iter()
            .map(|(field, value, at)| {
                json!({ "field": shown(Some(field.as_bytes())), "value": value.map(|value| shown(Some(value))), "at": at })
            })
            .collect();
        json!({
            "subscribers": subscribers,
            "document": {
                "id": &*shelf.id,
                "shard": shard,
                "subscribers": shelf.fields.listener_count(),
                "fields": shelf.fields.field_count(),
                "tombstones": shelf.fields.tombstone_count(),
                "bytes": shelf.fields.encoded_bytes(),
                "textBytes": shelf.text.as_ref().map_or(0, |text| text.state.json_bytes()),
                "textBlocks": shelf.text.as_ref().map_or(0, |text| text.state.block_count()),
                "modified": shelf.modified_ms,
                "present": presence.len(),
                "presence": entries,
                "lastWrites": writes,
            },
        })
    }
}

fn keep_largest(slow: &mut Vec<(usize, Value)>) {
    slow.sort_unstable_by_key(|(queued, _)| std::cmp::Reverse(*queued));
    slow.truncate(NAMED_MAX);
}

fn client_of(session: &Session) -> Option<&str> {
    session.client.as_ref().map(|client| &*client.id)
}

/// The beginning of some JSON, as text.
fn shown(json: Option<&[u8]>) -> String {
    let json = json.unwrap_or(b"null");
    let mut text = String::from_utf8_lossy(&json[..json.len().min(SHOWN_BYTES_MAX)]).into_owned();
    if json.len() > SHOWN_BYTES_MAX {
        text.push('…');
    }
    text
}

/// One response from what all shards found.
pub(super) fn respond(question: &Question, findings: Vec<Findings>, unix_ms: u64) -> Response {
    let mut parts: Vec<Value> = findings
        .into_iter()
        .filter_map(|finding| match finding {
            Findings::Dashboard(part) => Some(*part),
            _ => None,
        })
        .collect();
    let body = match question {
        Question::Overview => {
            parts.sort_by_key(|part| part["shard"].as_u64());
            json!({ "now": unix_ms, "version": env!("CARGO_PKG_VERSION"), "shards": parts })
        }
        Question::FindDocuments { .. } => {
            let mut documents: Vec<Value> = parts
                .iter_mut()
                .flat_map(|part| part["documents"].as_array_mut().map(std::mem::take).unwrap_or_default())
                .collect();
            documents.sort_by_key(|document| std::cmp::Reverse(document["modified"].as_u64()));
            documents.truncate(FOUND_MAX);
            let matching: u64 = parts.iter().filter_map(|part| part["matching"].as_u64()).sum();
            let complete = parts.iter().all(|part| part["complete"] == true);
            json!({ "documents": documents, "matching": matching, "complete": complete })
        }
        _ => {
            let subscribers: Vec<Value> = parts
                .iter_mut()
                .flat_map(|part| {
                    part["subscribers"]
                        .as_array_mut()
                        .map(std::mem::take)
                        .unwrap_or_default()
                })
                .collect();
            let document = parts
                .iter_mut()
                .find_map(|part| part.get_mut("document").map(Value::take));
            match document {
                None => return Response::error(404, "Document not loaded"),
                Some(document) => json!({ "document": document, "subscribers": subscribers }),
            }
        }
    };
    Response::json(200, &body).with_header("Cache-Control", "no-store")
}
