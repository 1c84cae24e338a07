//! A head count of a shard, for simulations and tests: what must be gone when everybody has left, and what must never
//! grow beyond its bound. Walks over everything; never called while serving.

use super::Shard;
use super::mail::DocumentId;

/// What a shard holds at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// Connections, whatever their stage.
    pub sessions: usize,
    /// Subscriptions of local connections.
    pub subscriptions: usize,
    /// Listeners that the homes here count, wherever they live.
    pub listeners: usize,
    /// Documents that live here.
    pub documents: Vec<DocumentId>,
    /// Requests that no home has answered yet.
    pub pending_subscriptions: usize,
    /// Documents that slow connections are behind on.
    pub lagging: usize,
    /// Bytes waiting for the connection that has most of them.
    pub outbox_bytes_max: usize,
    /// Bytes of all outboxes as the shard accounts for them.
    pub outbox_bytes: usize,
    /// Bytes of all documents as the shard accounts for them, where it has a budget for them.
    pub document_bytes: usize,
    /// What the accounts of the documents themselves add up to: the same, unless something was counted twice or not at all.
    pub document_bytes_counted: usize,
    /// Client ids known to be connected.
    pub clients: usize,
    /// Counters, with what they add up to.
    pub counters: Vec<(DocumentId, f64)>,
    /// Fan-outs skipped for slow connections so far.
    pub coalesced: u64,
}

impl Shard {
    /// Counts.
    pub fn census(&self) -> Census {
        let mut census = Census {
            sessions: self.sessions.len(),
            subscriptions: self.audiences.listeners(),
            clients: self.clients.len(),
            outbox_bytes: self.outbox_bytes,
            document_bytes: self
                .storehouse
                .as_deref()
                .map_or(0, |storehouse| storehouse.document_bytes),
            coalesced: self.metrics.coalesced,
            ..Census::default()
        };
        for (_, session) in self.sessions.iter() {
            census.pending_subscriptions += usize::from(session.pending_subscriptions);
            census.outbox_bytes_max = census.outbox_bytes_max.max(session.queued_bytes());
            census.lagging += session.extra.as_ref().map_or(0, |extra| extra.lagging.len());
        }
        for shelf in self.library.iter() {
            census.listeners += shelf.fields.listener_count();
            census.documents.push(shelf.id.clone());
            census.document_bytes_counted += shelf.durable.as_deref().map_or(0, |durable| durable.counted_bytes);
            if let Some(counters) = &shelf.counters {
                census.counters.push((shelf.id.clone(), counters.value()));
            }
        }
        census
    }
}
