//! The home side of a shard: requests about its documents (docs/protocol.md §5, §9, §10).

use super::context::AddressKey;
use super::library::Shelf;
use super::mail::{
    CaughtUp, DocumentId, FieldsFanOut, Mail, Refusal, RefusedRequest, RequestId, Subscribe, Synced, TextBody,
    Unsubscribe,
};
use super::{Due, Shard};
use crate::ids::SessionRef;
use crate::limits::{FLUSH_STEP_FIELDS, SNAPSHOT_WEIGHT_BYTES, TOMBSTONES_SENT_MAX};
use crate::mutation::Mutation;
use crate::protocol::Fault;
use bytes::Bytes;
use smallvec::SmallVec;
use std::sync::Arc;

impl Shard {
    /// The place of a document, made if need be and allowed.
    pub(super) fn place_of(&mut self, document: &DocumentId, address: AddressKey) -> Result<u32, Refusal> {
        if let Some(place) = self.library.find(document) {
            return Ok(place);
        }
        let limits = &self.context.config.limits;
        if !self.context.document_added() {
            let max = limits.documents_max;
            return Err(Refusal {
                fault: Fault::documents(max),
                reason: None,
                limit: Some(("documents", u64::from(max))),
            });
        }
        if let Err((max, hourly)) = self.context.addresses.count_document(address, limits, self.now) {
            self.context.documents_removed(1);
            let bound = if hourly {
                "documentsPerHour"
            } else {
                "documentsPerAddress"
            };
            return Err(Refusal {
                fault: Fault::documents_per_address(max, hourly),
                reason: None,
                limit: Some((bound, u64::from(max))),
            });
        }
        Ok(self.add_document(document))
    }

    /// Makes a place for a document that was counted.
    pub(super) fn add_document(&mut self, document: &DocumentId) -> u32 {
        let place = self.library.add(document, self.now.unix_ms);
        if let Some(cluster) = self.cluster.as_deref_mut() {
            let shared = cluster.share(self.now.mono_us);
            if let Some(shelf) = self.library.at(place) {
                shelf.shared = Some(shared);
            }
        }
        place
    }

    /// Forgets a document that holds nothing any more.
    pub(super) fn dispose(&mut self, place: u32) {
        if self.cluster.is_some() {
            return self.dispose_shared(place);
        }
        if self.library.dispose(place) {
            self.context.documents_removed(1);
        }
    }

    /// Answers a request that cannot be taken; `weight_bytes` is what it weighs among those outstanding.
    pub(super) fn home_refuse(
        &mut self,
        document: DocumentId,
        session: SessionRef,
        id: RequestId,
        refusal: Refusal,
        weight_bytes: usize,
    ) {
        let refused = RefusedRequest {
            document,
            session,
            id,
            refusal,
            weight_bytes,
        };
        self.post(session.shard(), Mail::Refused(Box::new(refused)));
    }

    /// `subscribe` and `sync_request`: the session listens, and gets the document as it is now.
    pub(super) fn home_subscribe(&mut self, request: Box<Subscribe>) {
        let place = match self.place_of(&request.document, request.address) {
            Ok(place) => place,
            Err(refusal) => {
                let Subscribe {
                    document, session, id, ..
                } = *request;
                return self.home_refuse(document, session, id, refusal, SNAPSHOT_WEIGHT_BYTES);
            }
        };
        let (unix_ms, session) = (self.now.unix_ms, request.session);
        let Some(shelf) = self.library.at(place) else { return };
        shelf.listen(session);
        shelf.fields.raise_clock_by_client(request.clock_max);
        let clock = shelf.fields.synced(unix_ms, session);
        let along = request.is_subscribe && request.sdk;
        let tombstones = if along { tombstone_keys(shelf) } else { Vec::new() };
        let synced = Synced {
            state: shelf.fields.state_json(),
            text: shelf.text_for(session),
            clock,
            tombstones,
            set_elements: if along {
                set_elements(shelf, unix_ms)
            } else {
                Vec::new()
            },
            presence: shelf
                .presence
                .as_ref()
                .filter(|_| along)
                .map(|presence| presence.all())
                .unwrap_or_default(),
            request,
        };
        self.post(session.shard(), Mail::Synced(Box::new(synced)));
    }

    /// `unsubscribe`: the session hears nothing more, and its presence leaves.
    pub(super) fn home_unsubscribe(&mut self, request: Box<Unsubscribe>) {
        let session = request.session;
        self.home_left(&request.document.clone(), session, true);
        self.post(session.shard(), Mail::Unsubscribed(request));
    }

    /// A session no longer listens.
    pub(super) fn home_left(&mut self, document: &DocumentId, session: SessionRef, clean: bool) {
        let Some(place) = self.library.find(document) else {
            return;
        };
        self.presence_left(place, session, clean);
        if let Some(shelf) = self.library.at(place) {
            shelf.unlisten(session);
        }
        self.dispose(place);
    }

    /// The client id of a subscribed session became known: it learns how far the document's clock is.
    pub(super) fn home_introduce(&mut self, document: DocumentId, session: SessionRef) {
        let Some(shelf) = self.library.shelf(&document) else {
            return;
        };
        if shelf.fields.field_count() == 0 || !shelf.fields.is_heard_by(session) {
            return;
        }
        let clock = shelf.fields.clock();
        self.post(
            session.shard(),
            Mail::Introduced {
                document,
                session,
                clock,
            },
        );
    }

    /// A slow consumer wants everything newer than a stamp.
    pub(super) fn home_catch_up(&mut self, document: &DocumentId, session: SessionRef, since: u64, text: bool) {
        let Some(shelf) = self.library.shelf(document) else {
            return;
        };
        let newer = shelf.fields.since(since, session);
        let incomplete = newer.is_none();
        let more_from = newer
            .as_ref()
            .and_then(|newer| newer.get(FLUSH_STEP_FIELDS - 1))
            .map(|last| last.stamp);
        let fields = FieldsFanOut {
            document: document.clone(),
            fields: newer.unwrap_or_default(),
            clock: shelf.fields.clock(),
        };
        let text = if text && more_from.is_none() {
            shelf.text_for(session)
        } else {
            None
        };
        let caught_up = CaughtUp {
            session,
            fields,
            incomplete,
            more_from,
            text,
        };
        self.post(session.shard(), Mail::CaughtUp(Box::new(caught_up)));
    }

    /// Notes that a document has changes to send: at the end of this turn when its last flush is long enough ago, else
    /// when the window is over.
    pub(super) fn schedule_flush(&mut self, place: u32) {
        let window_us = self.context.config.sync.flush_window_ms * 1000;
        let now_us = self.now.mono_us;
        let Some(shelf) = self.library.at(place) else { return };
        if std::mem::replace(&mut shelf.flush_scheduled, true) {
            return;
        }
        shelf.changed_us = now_us;
        let due_us = shelf.flushed_us + window_us;
        // While the server ends nobody waits for a window: listeners are being closed.
        if due_us <= now_us || shelf.flushed_us == 0 || self.draining {
            self.library.changed.push(place);
        } else {
            self.deadlines.at(due_us, Due::Flush(place));
        }
    }

    /// A flush window is over.
    pub(super) fn flush_due(&mut self, place: u32) {
        self.library.changed.push(place);
    }

    /// Sends the changes of all documents that are due.
    pub(super) fn flush_changed(&mut self) {
        let mut changed = std::mem::take(&mut self.library.changed);
        for place in changed.drain(..) {
            self.flush(place);
        }
        if self.library.changed.is_empty() {
            self.library.changed = changed;
        }
    }

    fn flush(&mut self, place: u32) {
        let limits = self.library.limits;
        let now_us = self.now.mono_us;
        let Some(shelf) = self.library.at(place) else { return };
        if !std::mem::take(&mut shelf.flush_scheduled) {
            return;
        }
        shelf.flushed_us = now_us.max(1);
        let changed_us = shelf.changed_us;
        let accepted = match &shelf.shared {
            Some(_) => shelf.fields.accepted(),
            None => Vec::new(),
        };
        let fields = shelf.fields.flush(&limits);
        if shelf.fields.dirty() {
            shelf.flush_scheduled = true;
            self.library.changed.push(place);
        }
        if !accepted.is_empty() && !Mutation::ForgetOtherNodes.is_on() {
            self.publish_fields(place, accepted);
        }
        let Some(shelf) = self.library.at(place) else { return };
        if fields.is_empty() || shelf.shards.is_empty() {
            return self.dispose(place);
        }
        let mut shards: SmallVec<[_; 2]> = SmallVec::new();
        for (shard, _) in &shelf.shards {
            let concerned = |field: &crate::document::FlushedField| {
                field.for_all || field.forced.iter().any(|session| session.shard() == *shard)
            };
            if fields.iter().any(concerned) {
                shards.push(*shard);
            }
        }
        self.metrics.flushed(now_us.saturating_sub(changed_us));
        self.metrics.fields_flushed += fields.len() as u64;
        self.metrics.flush_fields.observe(fields.len() as u64);
        let fan_out = Arc::new(FieldsFanOut {
            document: shelf.id.clone(),
            clock: shelf.fields.clock(),
            fields,
        });
        if Mutation::ForgetOtherShards.is_on() {
            shards.truncate(1);
        }
        for shard in shards {
            self.post(shard, Mail::Fields(fan_out.clone()));
        }
    }
}

impl Shelf {
    /// The text for a session that gets it now: whatever it was owed is paid with it.
    pub(super) fn text_for(&mut self, session: SessionRef) -> Option<TextBody> {
        let text = self.text.as_mut()?;
        text.echoes.retain(|other| *other != session);
        if text.relay_pending && !text.current.contains(&session) {
            text.current.push(session);
        }
        Some(text.body())
    }
}

/// The newest deletions as JSON strings (protocol §9.6).
fn tombstone_keys(shelf: &Shelf) -> Vec<Arc<str>> {
    shelf.fields.tombstones_newest(TOMBSTONES_SENT_MAX).cloned().collect()
}

/// What a late SDK subscriber must be told about a set (protocol §12.4), as batch elements.
fn set_elements(shelf: &Shelf, unix_ms: u64) -> Vec<Bytes> {
    let Some(set) = &shelf.set else { return Vec::new() };
    let element = |replayed: crate::document::sets::Replayed| {
        set_element(&shelf.id, &replayed.value, replayed.present, replayed.lam, unix_ms)
    };
    set.replay().into_iter().map(element).collect()
}

/// A set operation as it stands in a batch.
pub(super) fn set_element(id: &str, value: &str, present: bool, lam: u64, unix_ms: u64) -> Bytes {
    let operation = if present { "add" } else { "remove" };
    Bytes::from(format!(
        "{{\"type\":\"set\",\"operation\":\"{operation}\",\"value\":{value},\"documentId\":\"{id}\",\
         \"clientId\":\"server\",\"timestamp\":{unix_ms},\"clock\":{{\"server\":{lam}}}}}"
    ))
}
