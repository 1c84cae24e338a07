//! What only shards know, as plain data: the caller adds it up over all shards and hands it to [`super::answers`].

use bytes::Bytes;
use serde_json::Value;

/// State of a backend as `/health` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendState {
    /// None is configured.
    #[default]
    Absent,
    /// It answers.
    Connected,
    /// It is configured and does not answer.
    Disconnected,
}

/// One loaded document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentFacts {
    /// Its id.
    pub id: String,
    /// Connections subscribed to it.
    pub subscribers: u64,
    /// Unix milliseconds.
    pub last_modified_unix_ms: u64,
}

/// For `GET /health`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthFacts {
    /// Since the process started.
    pub uptime_ms: u64,
    /// Open WebSocket connections.
    pub connections: u64,
    /// Distinct user ids among them.
    pub users: u64,
    /// Distinct client ids among them.
    pub clients: u64,
    /// Loaded documents.
    pub documents: u64,
    /// Them, if details were asked for; empty otherwise.
    pub document_list: Vec<DocumentFacts>,
    /// The database.
    pub storage: BackendState,
    /// Redis.
    pub pubsub: BackendState,
}

/// For `GET /rooms`: documents whose id starts with `room:`, and `wordwall`. Others may be left in; they are filtered.
pub type RoomFacts = DocumentFacts;

/// A snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotFacts {
    /// Its id, a UUID.
    pub id: String,
    /// The document it was taken of.
    pub document: String,
    /// Client id → counter, as an object.
    pub version: Value,
    /// Encoded length of the state.
    pub size_bytes: u64,
    /// When it was taken, Unix milliseconds.
    pub created_at_unix_ms: u64,
    /// The live fields (plus `__text`) as one JSON object; left out of lists.
    pub state: Bytes,
}

/// Changes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeltaFacts {
    /// Accepted from clients.
    pub received: u64,
    /// Delivered to clients.
    pub broadcast: u64,
    /// Lost. Stays 0.
    pub dropped: u64,
    /// Writes that lost against an earlier one and sent the winner back.
    pub convergence: u64,
}

/// Acknowledgements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AckFacts {
    /// To clients.
    pub sent: u64,
    /// From clients.
    pub received: u64,
}

/// How long messages took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LatencyFacts {
    /// From accepting a change to handing it to the last outbox, mean.
    pub broadcast_ms_avg: f64,
    /// The longest.
    pub broadcast_ms_max: f64,
    /// From reading a message to having answered it, mean.
    pub processing_ms_avg: f64,
    /// The longest.
    pub processing_ms_max: f64,
}

/// Flushes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BroadcastFacts {
    /// How many.
    pub count: u64,
    /// Their time together, in milliseconds.
    pub total_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
    /// Messages they sent.
    pub messages_sent: u64,
    /// Messages that met a closed connection.
    pub messages_failed: u64,
}

/// Sends to sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SendFacts {
    /// Started.
    pub attempts: u64,
    /// Completed.
    pub successes: u64,
    /// Given up, always together with the connection.
    pub dropped: u64,
    /// Their time together, in milliseconds.
    pub total_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
    /// Messages waiting per connection, mean.
    pub queue_depth_avg: f64,
    /// The most.
    pub queue_depth_max: u64,
}

/// Where the time of a send goes, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SendTimingFacts {
    /// Sends measured.
    pub samples: u64,
    /// Encoding, mean.
    pub serialize_us_avg: f64,
    /// Encoding, longest.
    pub serialize_us_max: f64,
    /// Waiting for the socket, mean.
    pub wait_us_avg: f64,
    /// Waiting for the socket, longest.
    pub wait_us_max: f64,
    /// In the kernel, mean.
    pub send_us_avg: f64,
    /// In the kernel, longest.
    pub send_us_max: f64,
    /// In flight now.
    pub pending: u64,
    /// Most at one time.
    pub pending_max: u64,
}

/// For `GET /metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricsFacts {
    /// Open WebSocket connections.
    pub connections: u64,
    /// Loaded documents.
    pub documents: u64,
    /// Changes.
    pub deltas: DeltaFacts,
    /// Acknowledgements.
    pub acks: AckFacts,
    /// Times.
    pub latency: LatencyFacts,
    /// Flushes.
    pub broadcast: BroadcastFacts,
    /// Sends.
    pub send: SendFacts,
    /// Details of sends.
    pub send_timing: SendTimingFacts,
}
