//! Several nodes as one: what shards and the bus between the nodes say to each other (docs/architecture.md, cluster).
//!
//! The bus carries envelopes between nodes. It is fast and may lose, repeat and reorder them; nothing is true because it
//! came over the bus, and whoever relies on it notices gaps and repairs them. Threads that may block own the connections to
//! it; shards hand them requests through a bounded queue and get events back as mail.

use crate::ids::ShardId;
use bytes::Bytes;
use std::sync::Arc;

/// What a shard asks of the bus.
#[derive(Clone, Debug)]
pub enum BusRequest {
    /// Receive what is published about a document. Answered by [`BusEvent::Joined`], again after every interruption, until
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
    /// An envelope for every shard.
    Announced {
        /// What was announced.
        envelope: Bytes,
    },
    /// Connections were lost: anything may have been missed and anything sent may not have left. The bus joins all
    /// documents again by itself.
    Interrupted,
}

/// Takes a request of a shard; gives it back when the queue is full or the bus is away. Never blocks.
pub type BusSubmit = Box<dyn Fn(BusRequest) -> Result<(), BusRequest> + Send + Sync>;

/// Takes events for one shard. Must not block for long.
pub type BusDeliver = Arc<dyn Fn(ShardId, Vec<BusEvent>) + Send + Sync>;
