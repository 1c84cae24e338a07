//! Facts from the shards turned into responses (docs/protocol.md §16.1, §16.3, §16.4).

use super::facts::{BackendState, DocumentFacts, HealthFacts, MetricsFacts, RoomFacts, SnapshotFacts};
use super::iso8601::iso8601_utc;
use super::response::Response;
use super::routes::{FAMILY_VERSION, Question};
use crate::auth::Identity;
use serde_json::{Value, json};

/// `GET /health`. `details` as in the question: without it no document is named, whatever the facts hold.
pub fn health(facts: &HealthFacts, details: bool, unix_ms: u64) -> Response {
    let storage = match facts.storage {
        BackendState::Absent => "memory-only",
        BackendState::Connected => "connected",
        BackendState::Disconnected => "disconnected",
    };
    let pubsub = match facts.pubsub {
        BackendState::Absent => "single-instance",
        BackendState::Connected => "connected",
        BackendState::Disconnected => "disconnected",
    };
    let listed = facts.document_list.iter().filter(|_| details).map(|document| {
        let DocumentFacts {
            id,
            subscribers,
            last_modified_unix_ms,
        } = document;
        json!({ "id": id, "subscribers": subscribers, "lastModified": last_modified_unix_ms })
    });
    let body = json!({
        "status": "healthy",
        "timestamp": iso8601_utc(unix_ms),
        "version": FAMILY_VERSION,
        "serverVersion": env!("CARGO_PKG_VERSION"),
        "uptime": facts.uptime_ms as f64 / 1000.0,
        "connections": {
            "totalConnections": facts.connections,
            "totalUsers": facts.users,
            "totalClients": facts.clients,
        },
        "documents": { "totalDocuments": facts.documents, "documents": listed.collect::<Vec<_>>() },
        "mode": match (facts.storage, facts.pubsub) {
            (BackendState::Absent, BackendState::Absent) => "memory-only",
            (_, BackendState::Absent) => "durable",
            (BackendState::Absent, _) => "cluster, memory-only",
            _ => "cluster, durable",
        },
        "storage": storage,
        "pubsub": pubsub,
    });
    Response::json(200, &body)
}

/// `GET /health/live` and `/health/ready`: 503 while the server starts, drains or lacks a configured backend.
pub fn readiness(ready: bool, duration_ms: f64) -> Response {
    let status = if ready { "healthy" } else { "unhealthy" };
    Response::json(
        if ready { 200 } else { 503 },
        &json!({ "status": status, "duration": duration_ms }),
    )
}

/// `GET /rooms` (§16.3).
pub fn rooms(documents: &[RoomFacts], connections: u64) -> Response {
    let shown = |document: &RoomFacts, id: &str| {
        json!({
            "id": id,
            "subscriberCount": document.subscribers,
            "lastModified": document.last_modified_unix_ms,
        })
    };
    let rooms: Vec<Value> = documents
        .iter()
        .filter(|document| !document.id.contains(":text:"))
        .filter_map(|document| Some(shown(document, document.id.strip_prefix("room:")?)))
        .collect();
    let wordwall = documents.iter().find(|document| document.id == "wordwall");
    let body = json!({
        "totalConnections": connections,
        "totalRooms": rooms.len(),
        "rooms": rooms,
        "wordwall": wordwall.map(|document| shown(document, "wordwall")),
    });
    Response::json(200, &body)
}

/// `GET /metrics` as JSON, in the C# server's words; `bus` is our own addition where there are several nodes.
pub fn metrics_json(facts: &MetricsFacts, bus: Option<Value>) -> Response {
    let MetricsFacts {
        deltas,
        acks,
        latency,
        broadcast,
        send,
        send_timing: timing,
        ..
    } = facts;
    let mut body = json!({
        "deltas": {
            "received": deltas.received, "broadcast": deltas.broadcast,
            "dropped": deltas.dropped, "convergence": deltas.convergence,
        },
        "acks": { "sent": acks.sent, "received": acks.received },
        "latency": {
            "avgBroadcastMs": latency.broadcast_ms_avg, "maxBroadcastMs": latency.broadcast_ms_max,
            "avgProcessingMs": latency.processing_ms_avg, "maxProcessingMs": latency.processing_ms_max,
        },
        "queue": { "avgDepth": send.queue_depth_avg, "maxDepth": send.queue_depth_max },
        "broadcast": {
            "count": broadcast.count, "totalTimeMs": broadcast.total_ms,
            "avgTimeMs": ratio(broadcast.total_ms, broadcast.count), "maxTimeMs": broadcast.max_ms,
            "messagesSent": broadcast.messages_sent, "messagesFailed": broadcast.messages_failed,
        },
        "send": {
            "attempts": send.attempts, "successes": send.successes, "dropped": send.dropped,
            "totalTimeMs": send.total_ms, "maxTimeMs": send.max_ms,
            "avgQueueDepth": send.queue_depth_avg, "maxQueueDepth": send.queue_depth_max,
            "dropRate": ratio(send.dropped as f64, send.attempts),
        },
        "sendTiming": {
            "samples": timing.samples,
            "avgSerializeUs": timing.serialize_us_avg, "maxSerializeUs": timing.serialize_us_max,
            "avgSemaphoreWaitUs": timing.wait_us_avg, "maxSemaphoreWaitUs": timing.wait_us_max,
            "avgWebSocketSendUs": timing.send_us_avg, "maxWebSocketSendUs": timing.send_us_max,
            "pendingSends": timing.pending, "maxPendingSends": timing.pending_max,
        },
    });
    if let Some(bus) = bus {
        body["bus"] = bus;
    }
    Response::json(200, &body)
}

/// A mean or rate; 0 rather than NaN when nothing was counted, because every member must be a JSON number.
fn ratio(sum: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// `GET /metrics` for Prometheus, text format 0.0.4.
pub fn metrics_prometheus(text: String) -> Response {
    Response::text(200, text).with_content_type("text/plain; version=0.0.4; charset=utf-8")
}

/// `POST /metrics/reset` was carried out.
pub fn metrics_were_reset() -> Response {
    Response::json(200, &json!({ "message": "Metrics reset" }))
}

/// `POST /_test/clear` was carried out.
pub fn cleared() -> Response {
    Response::json(200, &json!({ "message": "Storage and metrics cleared" }))
}

/// `POST /snapshots/:documentId`; `None` when there is no such document.
pub fn snapshot_created(snapshot: Option<&SnapshotFacts>) -> Response {
    match snapshot {
        Some(snapshot) => Response::json(200, &snapshot_json(snapshot)),
        None => Response::error(404, "Document not found"),
    }
}

/// `GET /snapshots/:documentId/latest`.
pub fn snapshot_latest(snapshot: Option<&SnapshotFacts>) -> Response {
    match snapshot {
        Some(snapshot) => whole_snapshot(snapshot),
        None => Response::error(404, "No snapshots found"),
    }
}

/// `GET /snapshots/:documentId`; newest first, already cut to the limit of the question.
pub fn snapshot_list(document: &str, snapshots: &[SnapshotFacts]) -> Response {
    let listed: Vec<Value> = snapshots.iter().map(snapshot_json).collect();
    Response::json(
        200,
        &json!({ "documentId": document, "count": listed.len(), "snapshots": listed }),
    )
}

/// `GET /snapshots/id/:snapshotId`: whether `identity` may see it is only known now that the document is.
pub fn snapshot_read(snapshot: Option<&SnapshotFacts>, identity: &Identity) -> Response {
    match snapshot {
        None => snapshot_missing(),
        Some(snapshot) if identity.permissions.can_read(&snapshot.document) => whole_snapshot(snapshot),
        Some(_) => permission_denied(),
    }
}

/// Before `DELETE /snapshots/id/:snapshotId` is carried out: `document` is the snapshot's, `None` if there is no such
/// snapshot. `Err` is the answer instead of deleting.
pub fn check_snapshot_delete(document: Option<&str>, identity: &Identity) -> Result<(), Response> {
    match document {
        None => Err(snapshot_missing()),
        Some(document) if identity.permissions.can_write(document) => Ok(()),
        Some(_) => Err(permission_denied()),
    }
}

/// `DELETE /snapshots/id/:snapshotId` was carried out.
pub fn snapshot_deleted() -> Response {
    Response::json(200, &json!({ "success": true }))
}

/// Something unexpected happened.
pub fn internal_error() -> Response {
    Response::error(500, "Internal server error")
}

/// The database does not take the snapshot, or cannot give it.
pub fn snapshot_failed(question: &Question) -> Response {
    match question.snapshot_failure() {
        Some(text) => Response::error(500, text),
        None => internal_error(),
    }
}

/// The database does not answer now; the same request works later.
pub fn snapshot_unavailable(question: &Question) -> Response {
    let text = question.snapshot_failure().unwrap_or("Service unavailable");
    Response::json(503, &json!({ "error": text, "retryable": true })).with_header("Retry-After", "5")
}

/// There is no such snapshot.
pub fn snapshot_missing() -> Response {
    Response::error(404, "Snapshot not found")
}

pub(super) fn permission_denied() -> Response {
    Response::error(403, "Permission denied")
}

fn snapshot_json(snapshot: &SnapshotFacts) -> Value {
    json!({
        "id": snapshot.id,
        "documentId": snapshot.document,
        "version": snapshot.version,
        "sizeBytes": snapshot.size_bytes,
        "createdAt": iso8601_utc(snapshot.created_at_unix_ms),
        "compressed": false,
    })
}

/// A snapshot with its state, whose bytes are passed on as they are.
fn whole_snapshot(snapshot: &SnapshotFacts) -> Response {
    let mut body = snapshot_json(snapshot).to_string().into_bytes();
    body.pop();
    body.extend_from_slice(b",\"state\":");
    body.extend_from_slice(&snapshot.state);
    body.push(b'}');
    Response::encoded_json(200, body)
}
