//! How a document comes to its home, and leaves it, where other nodes may hold it as well: the bus joins it, they are asked, and
//! what arrives meanwhile is kept (docs/protocol.md §19.3).
//!
//! Bounds: [`JOIN_PATIENCE_US`] for the bus, [`PEERS_PATIENCE_US`] for the other nodes, [`ENVELOPES_WAITING_MAX`] and
//! [`ENVELOPES_WAITING_BYTES_MAX`] for what is kept.

use super::cluster::{JOIN_PATIENCE_US, PEERS_PATIENCE_US, UNASKED_MAX};
use super::context::AddressKey;
use super::mail::DocumentId;
use super::storehouse::Arrival;
use super::{Due, Shard};
use crate::cluster::BusRequest;
use crate::limits::{ENVELOPES_WAITING_BYTES_MAX, ENVELOPES_WAITING_MAX};
use crate::peers::{Body, Envelope};
use crate::saved::Loaded;

/// How often documents that wait for other nodes are looked at.
const PEERS_TICK_US: u64 = 50_000;

impl Shard {
    /// Asks the bus for what is published about a document.
    pub(super) fn join(&mut self, document: &DocumentId) {
        let (shard, document) = (self.id, document.clone());
        self.submit_in_order(BusRequest::Join { shard, document });
    }

    pub(super) fn leave(&mut self, document: &DocumentId) {
        let document = document.clone();
        self.submit_in_order(BusRequest::Leave { document });
    }

    fn submit_in_order(&mut self, request: BusRequest) {
        let waiting = self
            .cluster
            .as_deref()
            .is_none_or(|cluster| !cluster.backlog.is_empty());
        let rejected = if waiting { Err(request) } else { self.submit(request) };
        if let (Err(request), Some(cluster)) = (rejected, self.cluster.as_deref_mut()) {
            cluster.backlog.push_back(request);
        }
    }

    /// Forgets a document that holds nothing, here and at the bus.
    pub(super) fn dispose_shared(&mut self, place: u32) {
        let Some(shelf) = self.library.at(place) else { return };
        let document = shelf.id.clone();
        if self.library.dispose(place) {
            self.context.documents_removed(1);
            self.leave(&document);
        }
    }

    /// The bus delivers what is published about a document from now on.
    pub(super) fn bus_joined(&mut self, document: &DocumentId) {
        let Some(place) = self.library.find(document) else {
            let storehouse = self.storehouse.as_deref_mut();
            if let Some(loading) = storehouse.and_then(|house| house.loading.get_mut(document)) {
                loading.joined = true;
            }
            return self.proceed_loading(document);
        };
        let shared = self.library.at(place).and_then(|shelf| shelf.shared.as_mut());
        if shared.is_some_and(|shared| std::mem::take(&mut shared.unjoined)) {
            let spread_us = self.cluster.as_deref_mut().map_or(0, |cluster| cluster.spread_us());
            self.ask_later(place, 0, spread_us, true);
        }
    }

    /// A document that is being loaded has been joined, or will not be for now.
    fn proceed_loading(&mut self, document: &DocumentId) {
        let now_us = self.now.mono_us;
        let ask = self.context.storage.is_none() && self.is_connected() && (self.has_peers() || self.is_newcomer());
        let Some(storehouse) = self.storehouse.as_deref_mut() else {
            return;
        };
        let Some(loading) = storehouse.loading.get_mut(document) else {
            return;
        };
        if loading.arrival != Arrival::Joining {
            return;
        }
        loading.since_us = now_us;
        if self.context.storage.is_some() {
            loading.arrival = Arrival::Reading;
            let submitted = self.submit_load(document);
            let storehouse = self.storehouse.as_deref_mut();
            if let Some(loading) = storehouse.and_then(|house| house.loading.get_mut(document)) {
                loading.submitted = submitted;
            }
        } else if ask {
            loading.arrival = Arrival::Asking;
            self.ask_about(document);
            self.watch_peers();
        } else {
            self.nobody_knows(document);
        }
    }

    /// A question about a document went to so many nodes, and the last announcement to `announced`. If it came to this node
    /// alone, nobody else holds the document, and it need not wait for answers; provided that all who are known are counted,
    /// and that all have been heard of and are back at the bus.
    pub(super) fn question_reached(&mut self, document: &DocumentId, nodes: u64, announced: u64) {
        let now_us = self.now.mono_us;
        let counts_all = self
            .cluster
            .as_deref()
            .is_some_and(|cluster| !cluster.is_newcomer(now_us) && cluster.peers(now_us) < announced);
        let loading = self.storehouse.as_deref().and_then(|house| house.loading.get(document));
        if nodes == 1 && counts_all && loading.is_some_and(|loading| loading.arrival == Arrival::Asking) {
            self.nobody_knows(document);
        }
    }

    /// There is nothing of the document anywhere that could be asked.
    fn nobody_knows(&mut self, document: &DocumentId) {
        self.loaded(Loaded {
            document: document.clone(),
            found: Ok(None),
        });
    }

    fn has_peers(&self) -> bool {
        let now_us = self.now.mono_us;
        self.cluster.as_deref().is_some_and(|cluster| cluster.has_peers(now_us))
    }

    fn is_newcomer(&self) -> bool {
        let now_us = self.now.mono_us;
        self.cluster
            .as_deref()
            .is_some_and(|cluster| cluster.is_newcomer(now_us))
    }

    /// Starts the way of a document into memory among several nodes. A node that has just begun may take clients before it
    /// has reached the bus.
    pub(super) fn begin_loading_shared(&mut self, document: &DocumentId) {
        self.join(document);
        if self.is_connected() || self.is_newcomer() {
            self.watch_peers();
        } else {
            self.proceed_loading(document);
        }
    }

    fn watch_peers(&mut self) {
        let now_us = self.now.mono_us;
        if let Some(cluster) = self.cluster.as_deref_mut()
            && !std::mem::replace(&mut cluster.peers_scheduled, true)
        {
            self.deadlines.at(now_us + PEERS_TICK_US, Due::Peers);
        }
    }

    /// Documents may have waited long enough for the bus or for other nodes.
    pub(super) fn peers_due(&mut self) {
        let now_us = self.now.mono_us;
        if let Some(cluster) = self.cluster.as_deref_mut() {
            cluster.peers_scheduled = false;
        }
        let Some(storehouse) = self.storehouse.as_deref() else {
            return;
        };
        let (mut unjoined, mut unknown, mut waiting) = (Vec::new(), Vec::new(), false);
        for (document, loading) in &storehouse.loading {
            match loading.arrival {
                Arrival::Joining if loading.since_us + JOIN_PATIENCE_US <= now_us => unjoined.push(document.clone()),
                Arrival::Asking if loading.since_us + PEERS_PATIENCE_US <= now_us => unknown.push(document.clone()),
                Arrival::Joining | Arrival::Asking => waiting = true,
                Arrival::Reading => {}
            }
        }
        for document in unjoined {
            self.proceed_loading(&document);
        }
        for document in unknown {
            self.nobody_knows(&document);
        }
        if waiting {
            self.watch_peers();
        }
    }

    /// Keeps what arrives about a document while it is being loaded.
    pub(super) fn keep_for_loading(&mut self, document: &DocumentId, node: u64, envelope: Envelope) {
        let storehouse = self.storehouse.as_deref_mut();
        let Some(loading) = storehouse.and_then(|house| house.loading.get_mut(document)) else {
            return;
        };
        let answered = loading.arrival == Arrival::Asking && matches!(envelope.body, Body::State(_));
        let is_question = matches!(envelope.body, Body::Want { .. });
        let bytes: usize = loading.envelopes.iter().map(|(_, envelope)| envelope.bytes).sum();
        let has_room = loading.envelopes.len() < ENVELOPES_WAITING_MAX && bytes < ENVELOPES_WAITING_BYTES_MAX;
        if !is_question && has_room {
            loading.envelopes.push((node, envelope));
        }
        if answered {
            self.nobody_knows(document);
        }
    }

    /// A document has come: what arrived about it meanwhile is taken in.
    pub(super) fn take_kept(&mut self, document: &DocumentId, envelopes: Vec<(u64, Envelope)>) {
        if envelopes.is_empty() {
            return;
        }
        let Ok(place) = self.place_of(document, AddressKey::UNCOUNTED) else {
            return;
        };
        for (node, envelope) in envelopes {
            self.take(place, node, envelope);
        }
    }

    /// Those who waited for a document have been served: the others are asked what the database does not hold yet, and once
    /// more when it has been `joined` if it has not been.
    pub(super) fn came(&mut self, document: &DocumentId, joined: bool) {
        let Some(place) = self.library.find(document) else {
            return self.leave(document);
        };
        if let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) {
            shared.unjoined = !joined;
        }
        if self.has_peers() && self.is_connected() {
            self.ask_later(place, 0, 0, true);
        } else if let Some(cluster) = self
            .cluster
            .as_deref_mut()
            .filter(|cluster| cluster.unasked.len() < UNASKED_MAX)
        {
            cluster.unasked.push(place);
        }
    }

    /// Somebody may know of documents that nobody could be asked about.
    pub(super) fn ask_about_unasked(&mut self) {
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        for place in std::mem::take(&mut cluster.unasked) {
            let spread_us = self.cluster.as_deref_mut().map_or(0, |cluster| cluster.spread_us());
            self.ask_later(place, 0, spread_us, true);
        }
    }
}
