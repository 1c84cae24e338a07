//! The home side tells other nodes what was accepted here (docs/protocol.md §19.2).
//!
//! Fields leave with the flush and texts with the relay that tell local listeners, once per document and not per listener.
//! What cannot leave is made up for: the document is announced, and whoever lacks the change asks for it.

use super::Shard;
use super::cluster::{ANNOUNCED_TIMES, COUNTED_KEPT, Outbound};
use super::home_writes::Relays;
use super::mail::DocumentId;
use crate::awareness::Change;
use crate::cluster::BusRequest;
use crate::document::SavedRecord;
use crate::document::counters::{CounterOperation, Total};
use crate::mutation::Mutation;
use crate::peers::{Body, Count, CountedOperation, Operations, PresenceEntry};
use crate::saved::SavedText;

impl Shard {
    /// Whether envelopes leave at this moment.
    pub(super) fn is_connected(&self) -> bool {
        self.context.bus.as_ref().is_some_and(|bus| (bus.is_connected)())
    }

    /// Hands a request to the bus; gives back what it does not take.
    pub(super) fn submit(&self, request: BusRequest) -> Result<(), BusRequest> {
        match &self.context.bus {
            Some(bus) => (bus.submit)(request),
            None => Err(request),
        }
    }

    /// Sends a message about a document to the nodes that hold it.
    pub(super) fn publish(&mut self, place: u32, body: &Body) {
        let connected = self.is_connected();
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        let Some(shelf) = self.library.at(place) else { return };
        let Some(shared) = &mut shelf.shared else { return };
        shared.sequence += u64::from(body.is_change());
        let document = shelf.id.clone();
        let envelopes = match connected {
            true => cluster.encoder.encode(&document, shared.epoch, shared.sequence, body),
            false => Vec::new(),
        };
        let mut left = !envelopes.is_empty();
        for envelope in envelopes {
            let document = document.clone();
            left = left && self.submit(BusRequest::Publish { document, envelope }).is_ok();
        }
        if left {
            self.metrics.nodes.sent(body);
        } else {
            self.metrics.nodes.not_sent += 1;
            if !Mutation::ForgetRefusedEnvelopes.is_on() {
                self.announce_later(place);
            }
        }
    }

    /// Asks all nodes for a document that is not here yet.
    pub(super) fn ask_about(&mut self, document: &DocumentId) {
        let (shard, body) = (self.id, Body::Want { of: None, digest: 0 });
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        for envelope in cluster.encoder.encode(document, 0, 0, &body) {
            let document = document.clone();
            let _ = self.submit(BusRequest::Ask {
                shard,
                document,
                envelope,
            });
        }
        self.metrics.nodes.sent(&body);
    }

    /// Sends a message to all nodes. Returns whether it left.
    pub(super) fn announce(&mut self, body: &Body) -> bool {
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return false;
        };
        let life = match body {
            Body::Node { .. } => self.context.bus.as_ref().map_or(0, |bus| bus.epoch),
            _ => 0,
        };
        let envelopes = cluster.encoder.encode("", life, 0, body);
        let mut left = true;
        for envelope in envelopes {
            left &= self.submit(BusRequest::Announce { envelope }).is_ok();
        }
        if left {
            self.metrics.nodes.sent(body);
        }
        left
    }

    /// The document's digest is announced with the next ones.
    pub(super) fn announce_later(&mut self, place: u32) {
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        let shared = self.library.at(place).and_then(|shelf| shelf.shared.as_mut());
        let Some(shared) = shared else { return };
        shared.announce = ANNOUNCED_TIMES;
        if !std::mem::replace(&mut shared.listed, true) {
            cluster.active.push(place);
        }
    }

    /// A document is not what it was.
    pub(super) fn content_changed(&mut self, place: u32) {
        if self.cluster.is_none() {
            return;
        }
        let now_us = self.now.mono_us;
        if let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) {
            shared.digest = None;
            shared.changed_us = now_us;
        }
        self.announce_later(place);
    }

    pub(super) fn publish_fields(&mut self, place: u32, records: Vec<SavedRecord>) {
        let Some(shelf) = self.library.at(place) else { return };
        let clock = shelf.fields.clock();
        self.publish(place, &Body::Fields { clock, records });
    }

    pub(super) fn publish_text(&mut self, place: u32) {
        let Some(shelf) = self.library.at(place) else { return };
        let clock = shelf.fields.clock();
        let Some(text) = &shelf.text else { return };
        let text = SavedText {
            state: text.state.clone(),
            timestamp: text.timestamp,
        };
        self.publish(place, &Body::Text { clock, text });
    }

    /// Operations of one write.
    pub(super) fn publish_operations(&mut self, place: u32, relays: &mut Relays) {
        let Some(outbound) = relays.outbound.take() else { return };
        let mut outbound = *outbound;
        let nothing = outbound.operations.set.is_empty() && outbound.count.is_none();
        if nothing && relays.text.is_empty() && outbound.operations.relayed.is_empty() {
            return;
        }
        outbound.operations.relayed_text = String::from_utf8_lossy(&relays.text).into_owned();
        if let Some(count) = outbound.count {
            outbound.operations.count = self.account_of(place, count);
        }
        let Some(shelf) = self.library.at(place) else { return };
        outbound.operations.clock = shelf.fields.clock();
        self.publish(place, &Body::Operations(Box::new(outbound.operations)));
    }

    /// What was counted, with what this node's account holds now.
    fn account_of(&mut self, place: u32, count: Count) -> Option<Count> {
        let account = self.cluster.as_deref()?.account.clone();
        let shelf = self.library.at(place)?;
        let total = shelf.counters.as_ref()?.account(&account);
        let shared = shelf.shared.as_mut()?;
        for counted in &count.counted {
            if shared.counted.len() >= COUNTED_KEPT {
                shared.counted.pop_front();
            }
            shared.counted.push_back(*counted);
        }
        Some(Count {
            account,
            total,
            ..count
        })
    }

    /// Operations counted twice, here and elsewhere, are taken back here.
    pub(super) fn take_back(&mut self, place: u32, taken: Total) {
        let Some(account) = self.cluster.as_deref().map(|cluster| cluster.account.clone()) else {
            return;
        };
        let Some(shelf) = self.library.at(place) else { return };
        let back = Total {
            increments: taken.decrements,
            decrements: taken.increments,
        };
        shelf.counters.get_or_insert_default().add(&account, back);
        let elements = self.counter_elements(place, &[back]);
        self.metrics.nodes.taken_back += 1;
        self.relay_to_all(place, elements.clone().into(), false);
        self.changed(place);
        let count = Count {
            elements,
            ..Count::default()
        };
        let count = self.account_of(place, count);
        let Some(shelf) = self.library.at(place) else { return };
        let operations = Operations {
            clock: shelf.fields.clock(),
            count,
            ..Operations::default()
        };
        self.publish(place, &Body::Operations(Box::new(operations)));
    }

    pub(super) fn publish_presence(&mut self, place: u32, change: &Change) {
        if self.cluster.is_none() {
            return;
        }
        let entries = vec![entry_of(change)];
        self.publish(place, &Body::Presence { entries, whole: false });
        self.list_present(place);
    }

    /// This node's presence entries of a document, all of them.
    pub(super) fn publish_all_presence(&mut self, place: u32) {
        let Some(presence) = self.library.at(place).and_then(|shelf| shelf.presence.as_ref()) else {
            return;
        };
        let entries: Vec<PresenceEntry> = presence.answered_for().map(|change| entry_of(&change)).collect();
        if !entries.is_empty() {
            self.publish(place, &Body::Presence { entries, whole: true });
        }
    }
}

fn entry_of(change: &Change) -> PresenceEntry {
    PresenceEntry {
        client_id: (*change.client_id).into(),
        state: change.state.clone(),
        clock: change.clock,
    }
}

impl Outbound {
    /// A formatting operation.
    pub(super) fn relay(&mut self, element: &str) {
        append(&mut self.operations.relayed, element);
    }

    /// A counter operation.
    pub(super) fn count(&mut self, operation: &CounterOperation<'_>, element: &str) {
        let count = self.count.get_or_insert_default();
        append(&mut count.elements, element);
        if let Some(fingerprint) = operation.fingerprint() {
            let total = operation.total();
            count.counted.push(CountedOperation { fingerprint, total });
        }
    }
}

fn append(list: &mut String, element: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(element);
}
