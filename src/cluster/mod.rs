//! Several nodes as one: what shards and the bus between the nodes say to each other (docs/architecture.md, cluster).
//!
//! The bus carries envelopes between nodes. It is fast and may lose, repeat and reorder them; nothing is true because it
//! came over the bus, and whoever relies on it notices gaps and repairs them. Threads that may block own the connections to
//! it ([`redis`]); shards hand them requests through a bounded queue and get events back as mail.

pub mod redis;

use crate::ids::ShardId;
use bytes::Bytes;
use std::sync::Arc;

/// What a shard asks of the bus.
#[derive(Clone, Debug)]
pub enum BusRequest {
    /// Receive what is published about a document; a second one moves it to another shard. Answered by [`BusEvent::Joined`], again after every interruption, until
    /// [`BusRequest::Leave`].
    Join {
        /// Gets the events about the document.
        shard: ShardId,
        /// Its id.
        document: Arc<str>,
    },
    /// Receive nothing more about a document.
    Leave {
        /// Its id.
        document: Arc<str>,
    },
    /// Send an envelope to every other node that joined the document.
    Publish {
        /// Its id.
        document: Arc<str>,
        /// The envelope.
        envelope: Bytes,
    },
    /// The same with a question. Answered by [`BusEvent::Reached`], unless the bus is interrupted.
    Ask {
        /// Gets the event.
        shard: ShardId,
        /// Its id.
        document: Arc<str>,
        /// The envelope.
        envelope: Bytes,
    },
    /// Send an envelope to every shard of every other node.
    Announce {
        /// The envelope.
        envelope: Bytes,
    },
}

/// What the bus tells a shard.
#[derive(Clone, Debug)]
pub enum BusEvent {
    /// From now on everything published about the document arrives, unless the bus loses it.
    Joined {
        /// Its id.
        document: Arc<str>,
    },
    /// An envelope about a document.
    Received {
        /// Its id.
        document: Arc<str>,
        /// What was published.
        envelope: Bytes,
    },
    /// A question about a document has left.
    Reached {
        /// Its id.
        document: Arc<str>,
        /// How many nodes it went to; this one too if it joined the document.
        nodes: u64,
        /// How many the last announcement of this node went to, this one included. Less than there are nodes where the bus
        /// counts some of them only, as a cluster of Redis servers does.
        announced: u64,
    },
    /// An envelope for every shard.
    Announced {
        /// What was announced.
        envelope: Bytes,
    },
    /// A connection works that did not: whatever was published or expected before this may be missing. The bus joins all
    /// documents again by itself. Also the first event there is, and sent when Redis refused an envelope.
    Interrupted,
}

/// Takes a request of a shard; gives it back when the queue is full, and an envelope also while the bus is away or when it
/// is longer than [`redis::ENVELOPE_BYTES_MAX`]. Never blocks.
pub type BusSubmit = Box<dyn Fn(BusRequest) -> Result<(), BusRequest> + Send + Sync>;

/// Takes events for one shard. Must not block for long.
pub type BusDeliver = Arc<dyn Fn(ShardId, Vec<BusEvent>) + Send + Sync>;

/// The way to the bus, shared by all shards.
pub struct BusLink {
    /// Names this node: letters, digits, `.`, `_` and `-` only, so that it stands in JSON as it is. Every envelope begins with
    /// `{"v":1,"node":"<node>",`, by which the bus knows what it sent itself and does not deliver it.
    pub node: Arc<str>,
    /// Which life of the node this is: greater after every restart, unless the machine's clock was set back.
    pub epoch: u64,
    /// Takes requests.
    pub submit: BusSubmit,
    /// Says how the bus is doing.
    pub health: Box<dyn Fn() -> BusFacts + Send + Sync>,
    /// Whether envelopes leave and arrive at this moment. Cheap.
    pub is_connected: Box<dyn Fn() -> bool + Send + Sync>,
}

/// How the bus is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusFacts {
    /// Whether envelopes leave and arrive.
    pub available: bool,
    /// How long they have not, in milliseconds; 0 while they do.
    pub unavailable_ms: u64,
    /// How long they have, in milliseconds; 0 while they do not.
    pub connected_ms: u64,
    /// Connections made, beyond the first ones.
    pub reconnects: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Envelopes that wait to be sent.
    pub queue_depth: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// Envelopes whose confirmation was timed, one at a time.
    pub timed: u64,
    /// Their times from writing to confirmation together, in microseconds.
    pub timed_us: u64,
    /// Envelopes sent and confirmed.
    pub published: u64,
    /// Their bytes.
    pub published_bytes: u64,
    /// Envelopes of other nodes that arrived.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Envelopes given back because the queue was full or the bus was away.
    pub refused: u64,
    /// Envelopes taken and then lost with a connection, or refused by Redis.
    pub dropped: u64,
    /// Documents joined.
    pub documents: u64,
    /// Of these, the ones whose envelopes do not arrive yet.
    pub joining: u64,
    /// Other nodes heard of within the last minute.
    pub peers: u64,
}
