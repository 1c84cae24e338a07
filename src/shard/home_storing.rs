//! Changes go to the database, and acknowledgements leave when they are there (docs/protocol.md §18.4, §21).
//!
//! Every change makes its document listed; with the next turn each listed document that has no store under way is
//! handed to storage whole. Broadcasts do not wait for any of this.

use super::library::Shelf;
use super::mail::{Mail, Refusal, RelayFanOut, Wrote};
use super::storehouse::{
    AUDIT_ENTRIES_MAX, PATIENCE_US, QUEUE_FULL_US, REFUSED_US, TEXT_AUDIT_US, UnderWay, WITHHELD_BYTES_MAX, Withheld,
};
use super::{Due, Shard};
use crate::clock::Now;
use crate::config::Durability;
use crate::document::counters::SavedCounters;
use crate::document::sets::SavedElement;
use crate::document::{Write, is_tombstone};
use crate::ids::{SessionRef, ShardId};
use crate::mutation::Mutation;
use crate::protocol::Fault;
use crate::saved::{
    Answer, AuditEntry, AuditKind, Request, SavedDocument, SavedText, Store, StoreFailure, Stored, StoredRow,
};
use bytes::Bytes;
use std::sync::Arc;

impl Shard {
    /// Whether a document takes writes now: not while the database does not, for longer than a write may wait.
    pub(super) fn check_storable(&mut self, place: u32) -> Result<(), Refusal> {
        let (Some(storehouse), Some(link)) = (self.storehouse.as_deref(), &self.context.storage) else {
            return Ok(());
        };
        let now_us = self.now.mono_us;
        let fault = match self.library.at(place).and_then(|shelf| shelf.durable.as_deref()) {
            Some(durable) if durable.refused_until_us > now_us => Some(Fault::UNSTORABLE),
            Some(durable) if durable.is_awaited() && durable.unsaved_us + PATIENCE_US <= now_us => {
                Some(Fault::NOT_STORED)
            }
            _ if storehouse.withheld_bytes > WITHHELD_BYTES_MAX => Some(Fault::NOT_STORED),
            _ if (link.troubled_ms)() * 1000 > PATIENCE_US => Some(Fault::NOT_STORED),
            _ => None,
        };
        let Some(fault) = fault else { return Ok(()) };
        self.metrics.writes_not_stored += 1;
        Err(Refusal {
            fault,
            reason: None,
            limit: None,
        })
    }

    /// Notes a change of a document, to be stored at the end of the turn.
    pub(super) fn changed(&mut self, place: u32) {
        let now_us = self.now.mono_us;
        if self.storehouse.is_none() {
            return;
        }
        self.content_changed(place);
        if let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) {
            shared.store_us = 0;
        }
        let Some(storehouse) = self.storehouse.as_deref_mut() else {
            return;
        };
        let Some(durable) = self.library.at(place).and_then(|shelf| shelf.durable.as_mut()) else {
            return;
        };
        // A document that was refused, and that nobody has tried to store since, begins to wait anew.
        if !durable.is_awaited() {
            durable.unsaved_us = now_us;
        }
        storehouse.unsaved += usize::from(durable.is_saved());
        if !(Mutation::ForgetUnsavedMark.is_on() && durable.under_way.is_some()) {
            durable.changes += 1;
        }
        durable.used_us = now_us;
        if durable.under_way.is_none() && !std::mem::replace(&mut durable.listed, true) {
            storehouse.listed.push_back(place);
        }
    }

    /// Keeps what the audit trail is to say of field writes that won.
    pub(super) fn audit_fields(&mut self, place: u32, session: SessionRef, writes: &[Write<'_>]) {
        if self.storehouse.is_none() || !self.context.config.storage.audit {
            return;
        }
        for write in writes {
            let deleted = is_tombstone(write.value());
            let client = match write {
                Write::Stamped { client_id, .. } => (*client_id).into(),
                Write::Plain { .. } => connection_name(session),
            };
            self.audit(place, |lam| AuditEntry {
                kind: if deleted { AuditKind::Delete } else { AuditKind::Set },
                field: write.name().into(),
                value: (!deleted).then(|| write.value().into()),
                client,
                lam,
            });
        }
    }

    /// The same for a text, at most once per second.
    pub(super) fn audit_text(&mut self, place: u32, session: SessionRef) {
        if self.storehouse.is_none() || !self.context.config.storage.audit {
            return;
        }
        let now_us = self.now.mono_us;
        let Some(durable) = self.library.at(place).and_then(|shelf| shelf.durable.as_mut()) else {
            return;
        };
        if durable.text_audited_us > 0 && durable.text_audited_us + TEXT_AUDIT_US > now_us {
            return;
        }
        durable.text_audited_us = now_us;
        self.audit(place, |lam| AuditEntry {
            kind: AuditKind::Merge,
            field: "$text".into(),
            value: None,
            client: connection_name(session),
            lam,
        });
    }

    fn audit(&mut self, place: u32, entry: impl FnOnce(u64) -> AuditEntry) {
        let Some(shelf) = self.library.at(place) else { return };
        let lam = shelf.fields.clock();
        let Some(durable) = shelf.durable.as_mut() else { return };
        if durable.audit.len() < AUDIT_ENTRIES_MAX {
            durable.audit.push(entry(lam));
        } else {
            self.metrics.audit_dropped += 1;
        }
    }

    /// Sends the answer to a write: at once, or when everything the document has been through is stored.
    pub(super) fn answer_write(&mut self, place: u32, mut wrote: Wrote) {
        let session = wrote.write.session;
        let now_us = self.now.mono_us;
        let acknowledged = wrote.accepted || wrote.refusals.is_empty();
        let is_sync = self.context.config.storage.durability == Durability::Sync;
        let durable = self.library.at(place).and_then(|shelf| shelf.durable.as_mut());
        let (Some(storehouse), Some(durable)) = (self.storehouse.as_deref_mut(), durable) else {
            return self.post(session.shard(), Mail::Wrote(wrote));
        };
        if !acknowledged || !is_sync || durable.is_saved() || Mutation::AckBeforeCommit.is_on() {
            return self.post(session.shard(), Mail::Wrote(wrote));
        }
        let joined = std::mem::take(&mut wrote.joined).then(|| wrote.write.document.clone());
        storehouse.withheld += 1;
        storehouse.withheld_bytes += wrote.write.text.len();
        durable.withheld.push_back(Withheld {
            changes: durable.changes,
            since_us: now_us,
            wrote,
        });
        if !std::mem::replace(&mut durable.patience_scheduled, true) {
            self.deadlines.at(now_us + PATIENCE_US, Due::Patience(place));
        }
        // The session listens from now on, whenever its write is acknowledged.
        if let Some(document) = joined {
            self.post(session.shard(), Mail::Joined { document, session });
        }
    }

    /// Hands documents to storage that were listed when the last turn ended. Their broadcasts have left: waking a writer
    /// takes as long as sending a few of them, and the writer may take this core.
    pub(super) fn store_listed(&mut self) {
        let Some(storehouse) = self.storehouse.as_deref_mut() else {
            return;
        };
        for _ in 0..std::mem::take(&mut storehouse.ripe) {
            let Some(place) = self
                .storehouse
                .as_deref_mut()
                .and_then(|house| house.listed.pop_front())
            else {
                return;
            };
            let Some(request) = self.store_of(place) else { continue };
            let Some(link) = &self.context.storage else { return };
            match (link.submit)(Request::Store(request)) {
                Ok(()) => {}
                Err(Request::Store(request)) => return self.store_later(place, *request),
                Err(_) => return,
            }
        }
    }

    /// What is listed now is stored with the next turn, which comes as soon as this one's effects are carried out; or when
    /// a full queue is tried again.
    pub(super) fn ripen_listed(&mut self) {
        if let Some(storehouse) = self.storehouse.as_deref_mut() {
            storehouse.ripe = if storehouse.storing_scheduled {
                0
            } else {
                storehouse.listed.len()
            };
        }
    }

    /// Whether there is something to store at once.
    pub(super) fn has_ripe(&self) -> bool {
        self.storehouse.as_deref().is_some_and(|house| house.ripe > 0)
    }

    /// The queue is full: the document stays listed, and nothing is lost but a moment.
    fn store_later(&mut self, place: u32, request: Store) {
        if let Some(durable) = self.library.at(place).and_then(|shelf| shelf.durable.as_mut()) {
            durable.under_way = None;
            durable.listed = true;
            durable.audit = request.audit;
        }
        let Some(storehouse) = self.storehouse.as_deref_mut() else {
            return;
        };
        storehouse.listed.push_front(place);
        if !std::mem::replace(&mut storehouse.storing_scheduled, true) {
            self.deadlines.at(self.now.mono_us + QUEUE_FULL_US, Due::Storing);
        }
    }

    /// The queue may have room again; the next turn tries.
    pub(super) fn storing_due(&mut self) {
        if let Some(storehouse) = self.storehouse.as_deref_mut() {
            storehouse.storing_scheduled = false;
        }
    }

    fn store_of(&mut self, place: u32) -> Option<Box<Store>> {
        let (now, shard) = (self.now, self.id);
        let now_us = now.mono_us;
        let storehouse = self.storehouse.as_deref_mut()?;
        storehouse.serial += 1;
        let serial = storehouse.serial;
        let shelf = self.library.at(place)?;
        let content = shelf.saved(now);
        let durable = shelf.durable.as_mut()?;
        durable.listed = false;
        durable.under_way = Some(UnderWay {
            serial,
            changes: durable.changes,
        });
        durable.sent_us = now_us;
        Some(Box::new(Store {
            document: shelf.id.clone(),
            shard,
            serial,
            version: durable.version,
            content,
            audit: std::mem::take(&mut durable.audit),
        }))
    }

    /// Answers of storage.
    pub(super) fn storage_answered(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer {
                Answer::Loaded(loaded) => self.loaded(loaded),
                Answer::Stored(stored) => self.stored(stored),
                Answer::Snapshot(answer) => self.snapshot_answered(answer),
                Answer::Cleared => self.tables_cleared(),
            }
        }
    }

    fn stored(&mut self, stored: Stored) {
        let Some(place) = self.library.find(&stored.document) else {
            return;
        };
        let counted = self.library.at(place).map_or(0, |shelf| shelf.memory_bytes());
        let durable = self.library.at(place).and_then(|shelf| shelf.durable.as_mut());
        let (Some(storehouse), Some(durable)) = (self.storehouse.as_deref_mut(), durable) else {
            return;
        };
        // Another serial is that of a document of this name that was cleared.
        let answered = |under_way: &mut UnderWay| under_way.serial == stored.serial;
        let Some(UnderWay { changes, .. }) = durable.under_way.take_if(answered) else {
            return;
        };
        storehouse.document_bytes = storehouse.document_bytes + counted - durable.counted_bytes;
        durable.counted_bytes = counted;
        match stored.outcome {
            Ok(StoredRow { version, merged }) => {
                durable.version = version;
                durable.saved = changes;
                durable.unsaved_us = durable.sent_us;
                if durable.is_saved() {
                    storehouse.unsaved -= 1;
                } else if !std::mem::replace(&mut durable.listed, true) {
                    storehouse.listed.push_back(place);
                }
                self.release(place, changes);
                if let Some(merged) = merged.filter(|_| !Mutation::IgnoreMergedRow.is_on()) {
                    self.merge_row(place, merged);
                }
                self.schedule_unloading();
            }
            Err(failure) => self.store_failed(place, changes, &failure),
        }
    }

    /// Sends the acknowledgements of everything up to a change.
    fn release(&mut self, place: u32, changes: u64) {
        if Mutation::LoseWithheldAcks.is_on() {
            return;
        }
        if Mutation::AckLastFirst.is_on()
            && let Some(durable) = self.library.at(place).and_then(|shelf| shelf.durable.as_mut())
        {
            durable.withheld.make_contiguous().reverse();
        }
        while let Some(wrote) = self.take_withheld(place, |withheld| withheld.changes <= changes) {
            self.post(wrote.write.session.shard(), Mail::Wrote(wrote));
        }
    }

    /// The oldest answer that waits, if it is such a one.
    fn take_withheld(&mut self, place: u32, wanted: impl Fn(&Withheld) -> bool) -> Option<Wrote> {
        let durable = self.library.at(place)?.durable.as_mut()?;
        let withheld = durable.withheld.front().filter(|withheld| wanted(withheld)).is_some();
        let withheld = withheld.then(|| durable.withheld.pop_front()).flatten()?;
        if let Some(storehouse) = self.storehouse.as_deref_mut() {
            storehouse.withheld -= 1;
            storehouse.withheld_bytes -= withheld.wrote.write.text.len();
        }
        Some(withheld.wrote)
    }

    /// Answers that wait in vain become errors. The writes stay, and are stored when that is possible.
    fn refuse_withheld(&mut self, place: u32, fault: &Fault, wanted: impl Fn(&Withheld) -> bool) {
        while let Some(mut wrote) = self.take_withheld(place, &wanted) {
            self.metrics.writes_not_stored += 1;
            wrote.accepted = false;
            wrote.unstored = true;
            wrote.refusals = vec![Refusal {
                fault: fault.clone(),
                reason: None,
                limit: None,
            }];
            self.post(wrote.write.session.shard(), Mail::Wrote(wrote));
        }
    }

    /// Answers of a document may have waited too long.
    pub(super) fn patience_due(&mut self, place: u32) {
        let now_us = self.now.mono_us;
        self.refuse_withheld(place, &Fault::NOT_STORED, |withheld| {
            withheld.since_us + PATIENCE_US <= now_us
        });
        let Some(durable) = self.library.at(place).and_then(|shelf| shelf.durable.as_mut()) else {
            return;
        };
        durable.patience_scheduled = !durable.withheld.is_empty();
        if let Some(oldest) = durable.withheld.front() {
            self.deadlines.at(oldest.since_us + PATIENCE_US, Due::Patience(place));
        }
    }

    /// The database does not take this document. It stays unsaved, and is tried again with the next write that is taken.
    fn store_failed(&mut self, place: u32, changes: u64, failure: &StoreFailure) {
        tracing::debug!("not stored: {}", failure.reason);
        let until_us = self.now.mono_us + REFUSED_US;
        if let Some(durable) = self.library.at(place).and_then(|shelf| shelf.durable.as_mut()) {
            durable.refused_until_us = until_us;
            // What is refused is this content, not the time it took.
            durable.unsaved_us = until_us;
        }
        self.refuse_withheld(place, &Fault::UNSTORABLE, |withheld| withheld.changes <= changes);
        let Some(durable) = self.library.at(place).and_then(|shelf| shelf.durable.as_mut()) else {
            return;
        };
        // What was written since may be just what makes it storable.
        if durable.changes > changes
            && !std::mem::replace(&mut durable.listed, true)
            && let Some(storehouse) = self.storehouse.as_deref_mut()
        {
            storehouse.listed.push_back(place);
        }
    }

    /// Another server had written the row: what it knew more than this one is told to the listeners.
    /// Returns whether it knew anything.
    pub(super) fn merge_row(&mut self, place: u32, row: SavedDocument) -> bool {
        let changed = self.merge_document(place, row);
        if changed {
            self.content_changed(place);
        }
        changed
    }

    /// Merges what others know of a document and tells the listeners what is new. Returns whether anything is.
    pub(super) fn merge_document(&mut self, place: u32, other: SavedDocument) -> bool {
        let now = self.now;
        let Some(shelf) = self.library.at(place) else {
            return false;
        };
        shelf.fields.raise_clock(other.clock);
        let mut fields_changed = false;
        for record in &other.records {
            fields_changed |= shelf.fields.merge(record);
        }
        let elements = other
            .set
            .into_iter()
            .filter(|element| shelf.set.get_or_insert_default().merge(element));
        let elements: Vec<SavedElement> = elements.collect();
        let mut counted = Vec::new();
        if let Some(counters) = &other.counters {
            counted = shelf.count_others(counters);
            shelf.counters.get_or_insert_default().recall(&counters.recent, now);
        }
        let text_changed = other.text.is_some_and(|text| shelf.merge_text(text));
        let changed = fields_changed || text_changed || !elements.is_empty() || !counted.is_empty();
        if changed {
            shelf.modified_ms = now.unix_ms;
        }
        if fields_changed {
            self.schedule_flush(place);
        }
        if text_changed {
            self.schedule_text_relay(place);
        }
        self.relay_elements(place, &elements);
        self.relay_counted(place, &counted);
        changed
    }

    fn relay_elements(&mut self, place: u32, elements: &[SavedElement]) {
        let unix_ms = self.now.unix_ms;
        let Some(shelf) = self.library.at(place).filter(|_| !elements.is_empty()) else {
            return;
        };
        let json = |element: &SavedElement| {
            super::home::set_element(
                &shelf.id,
                &element.value,
                element.removed_at_ms.is_none(),
                element.lam,
                unix_ms,
            )
        };
        let elements: Vec<_> = elements.iter().map(json).collect();
        self.relay_to_all(place, elements.join(&b',').into(), false);
    }

    /// Relays operations to all listeners.
    pub(super) fn relay_to_all(&mut self, place: u32, elements: Bytes, is_text: bool) {
        let Some(shelf) = self.library.at(place) else { return };
        let fan_out = Arc::new(RelayFanOut {
            document: shelf.id.clone(),
            elements,
            is_text,
            except: None,
        });
        for (shard, _) in shelf.shards.clone() {
            self.post(shard, Mail::Relay(fan_out.clone()));
        }
    }

    /// Whether something accepted is not stored yet.
    pub(super) fn has_unsaved(&self) -> bool {
        self.storehouse.as_deref().is_some_and(|house| house.unsaved > 0)
    }

    /// All documents are forgotten (`/_test/clear`): nobody waits for them any longer.
    pub(super) fn forget_unsaved(&mut self) {
        let places: Vec<u32> = self.library.iter_mut().map(|(place, _)| place).collect();
        for place in places {
            self.refuse_withheld(place, &Fault::NOT_STORED, |_| true);
        }
        if let Some(storehouse) = self.storehouse.as_deref_mut() {
            storehouse.listed.clear();
            storehouse.unsaved = 0;
            storehouse.document_bytes = 0;
        }
    }

    /// Has the tables emptied; the question is answered when they are. One shard does it for all. Returns whether it does.
    pub(super) fn clear_tables(&mut self, ticket: u64, from: ShardId) -> bool {
        let (Some(storehouse), Some(link)) = (self.storehouse.as_deref_mut(), &self.context.storage) else {
            return false;
        };
        let clears = self.id.index() == 0 && (link.submit)(Request::Clear(self.id)).is_ok();
        if clears {
            storehouse.clearing.push((ticket, from));
        }
        clears
    }

    fn tables_cleared(&mut self) {
        let Some(storehouse) = self.storehouse.as_deref_mut() else {
            return;
        };
        for (ticket, from) in std::mem::take(&mut storehouse.clearing) {
            let findings = Box::new(super::answers::Findings::Done);
            self.post(from, Mail::Answered { ticket, findings });
        }
    }
}

/// What the audit trail calls a connection that writes under no client id.
fn connection_name(session: SessionRef) -> Box<str> {
    format!("connection-{session:?}").into()
}

impl Shelf {
    /// All that is stored of the document.
    pub(super) fn saved(&self, now: Now) -> SavedDocument {
        SavedDocument {
            clock: self.fields.clock(),
            records: self.fields.saved_records(),
            text: self
                .text
                .as_ref()
                .filter(|_| !Mutation::StoreWithoutText.is_on())
                .map(|text| SavedText {
                    state: text.state.clone(),
                    timestamp: text.timestamp,
                }),
            set: self.set.as_ref().map(|set| set.saved()).unwrap_or_default(),
            counters: self.counters.as_ref().map(|counters| SavedCounters {
                recent: counters.recent(now),
                ..counters.saved()
            }),
        }
    }
}
