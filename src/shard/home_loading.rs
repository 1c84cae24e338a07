//! Documents come from the database when they are first asked for, and leave memory when nobody uses them
//! (docs/protocol.md §18.4).
//!
//! All requests for a document that is being loaded wait in one queue and are handled in order when it is there. A load
//! that takes too long is an error for those who wait, never an empty document; the document is taken in all the same
//! when it comes.

use super::library::{Shelf, Text};
use super::mail::{DocumentId, Mail, Refusal, Wrote};
use super::storehouse::{
    Arrival, Durable, LOADING_TICK_US, Loading, PATIENCE_US, STORED_ID_CHARS_MAX, UNLOAD_IDLE_US, UNLOAD_STEP,
    UNLOAD_TICK_US,
};
use super::{Due, Shard};
use crate::document::Document;
use crate::http::Question;
use crate::limits::SNAPSHOT_WEIGHT_BYTES;
use crate::protocol::Fault;
use crate::saved::{Load, Loaded, Request, SavedDocument};

/// What mail to a home is about, and whether it makes the document needed.
fn subject(mail: &Mail) -> Option<(&DocumentId, bool)> {
    match mail {
        Mail::Subscribe(request) => Some((&request.document, true)),
        Mail::Write(write) => Some((&write.document, true)),
        Mail::AwarenessSubscribe(request) => Some((&request.document, true)),
        Mail::AwarenessUpdate(update) => Some((&update.document, true)),
        Mail::Unsubscribe(request) => Some((&request.document, false)),
        Mail::Left { document, .. } | Mail::CatchUp { document, .. } | Mail::Introduce { document, .. } => {
            Some((document, false))
        }
        _ => None,
    }
}

impl Shard {
    /// Lets mail through whose document is here, or that needs none; keeps the rest until its document has come.
    pub(super) fn await_document(&mut self, mail: Mail) -> Option<Mail> {
        let storehouse = self.storehouse.as_deref_mut()?;
        let asked;
        let (document, needed) = match (&mail, subject(&mail)) {
            (_, Some(subject)) => subject,
            (Mail::Ask { question, .. }, None) => match &**question {
                Question::SnapshotCreate { document } => {
                    asked = DocumentId::from(document.as_str());
                    (&asked, true)
                }
                _ => return Some(mail),
            },
            _ => return Some(mail),
        };
        if let Some(shelf) = self.library.shelf(document) {
            if let Some(durable) = &mut shelf.durable {
                durable.used_us = self.now.mono_us;
            }
            return Some(mail);
        }
        let since_us = self.now.mono_us;
        if let Some(loading) = storehouse.loading.get_mut(document) {
            loading.waiting.push_back((since_us, mail));
            return None;
        }
        if !needed {
            return Some(mail);
        }
        if document.len() > STORED_ID_CHARS_MAX {
            let fault = Fault::of("INVALID_DOCUMENT_ID", "Document ID too long");
            self.refuse_waiting(mail, &fault);
            return None;
        }
        let (document, waiting) = (document.clone(), [(since_us, mail)].into());
        let is_shared = self.cluster.is_some();
        let submitted = !is_shared && self.submit_load(&document);
        if let Some(storehouse) = self.storehouse.as_deref_mut() {
            let loading = Loading {
                arrival: if is_shared { Arrival::Joining } else { Arrival::Reading },
                joined: false,
                since_us,
                envelopes: Vec::new(),
                submitted,
                waiting,
            };
            storehouse.loading.insert(document.clone(), loading);
            if !std::mem::replace(&mut storehouse.loading_scheduled, true) {
                self.deadlines.at(since_us + LOADING_TICK_US, Due::Loading);
            }
        }
        if is_shared {
            self.begin_loading_shared(&document);
        }
        None
    }

    pub(super) fn submit_load(&self, document: &DocumentId) -> bool {
        let load = Load {
            document: document.clone(),
            shard: self.id,
        };
        let link = self.context.storage.as_ref();
        link.is_some_and(|link| (link.submit)(Request::Load(load)).is_ok())
    }

    /// Refuses requests that have waited too long for their documents, and asks again where the queue was full.
    pub(super) fn loading_due(&mut self) {
        let now_us = self.now.mono_us;
        let Some(storehouse) = self.storehouse.as_deref_mut() else {
            return;
        };
        storehouse.loading_scheduled = false;
        let (mut overdue, mut unsubmitted) = (Vec::new(), Vec::new());
        for (document, loading) in &mut storehouse.loading {
            while loading
                .waiting
                .front()
                .is_some_and(|(since_us, _)| since_us + PATIENCE_US <= now_us)
            {
                overdue.extend(loading.waiting.pop_front().map(|(_, mail)| mail));
            }
            if !loading.submitted && loading.arrival == Arrival::Reading {
                unsubmitted.push(document.clone());
            }
        }
        for document in unsubmitted {
            let submitted = self.submit_load(&document);
            if let Some(loading) = self
                .storehouse
                .as_deref_mut()
                .and_then(|house| house.loading.get_mut(&document))
            {
                loading.submitted = submitted;
            }
        }
        for mail in overdue {
            self.metrics.not_loaded += 1;
            let fault = match &mail {
                Mail::Subscribe(request) if request.is_subscribe => Fault::NOT_LOADED,
                Mail::Subscribe(_) => Fault::NOT_SYNCED,
                _ => Fault::NOT_STORED,
            };
            self.refuse_waiting(mail, &fault);
        }
        if let Some(storehouse) = self.storehouse.as_deref_mut().filter(|house| !house.loading.is_empty()) {
            storehouse.loading_scheduled = true;
            self.deadlines.at(now_us + LOADING_TICK_US, Due::Loading);
        }
    }

    /// Answers a request whose document cannot be had.
    fn refuse_waiting(&mut self, mail: Mail, fault: &Fault) {
        let refusal = Refusal {
            fault: fault.clone(),
            reason: None,
            limit: None,
        };
        let (document, session, id, weight_bytes) = match mail {
            Mail::Subscribe(request) => {
                let request = *request;
                (request.document, request.session, request.id, SNAPSHOT_WEIGHT_BYTES)
            }
            Mail::AwarenessSubscribe(request) => (request.document, request.session, request.id, 0),
            Mail::AwarenessUpdate(update) => {
                let state_bytes = update.state.as_ref().map_or(0, |state| state.len());
                (update.document, update.session, update.id, state_bytes)
            }
            Mail::Write(write) => {
                let wrote = Wrote {
                    refusals: vec![refusal],
                    accepted: false,
                    joined: false,
                    unstored: true,
                    write,
                };
                return self.post(wrote.write.session.shard(), Mail::Wrote(wrote));
            }
            // Without the document these have nothing to say about it.
            other => return self.open_now(other),
        };
        self.home_refuse(document, session, id, refusal, weight_bytes);
    }

    /// A document came, or there is none: those who wait are served in order.
    pub(super) fn loaded(&mut self, loaded: Loaded) {
        let Some(storehouse) = self.storehouse.as_deref_mut() else {
            return;
        };
        let Some(loading) = storehouse.loading.remove(&loaded.document) else {
            return self.reread(loaded);
        };
        let fault = match loaded.found {
            Ok(None) => None,
            Ok(Some((version, saved))) => self.take_in(&loaded.document, version, saved).err(),
            Err(_) => Some(Fault::UNREADABLE),
        };
        if fault.is_none() {
            self.take_kept(&loaded.document, loading.envelopes);
        }
        for (_, mail) in loading.waiting {
            match &fault {
                Some(fault) => self.refuse_waiting(mail, fault),
                None => self.open_now(mail),
            }
        }
        if self.cluster.is_some() {
            self.came(&loaded.document, loading.joined);
        }
        self.schedule_unloading();
    }

    /// Puts a stored document into the library.
    fn take_in(&mut self, document: &DocumentId, version: i64, saved: SavedDocument) -> Result<(), Fault> {
        if !self.context.document_added() {
            return Err(Fault::documents(self.context.config.limits.documents_max));
        }
        let now = self.now;
        let (unix_ms, now_us) = (now.unix_ms, now.mono_us);
        let place = self.add_document(document);
        let Some(shelf) = self.library.at(place) else {
            return Ok(());
        };
        shelf.fields = Document::restore(document.clone(), unix_ms, saved.clock, saved.records);
        shelf.text = saved.text.map(|text| {
            Box::new(Text {
                state: text.state,
                timestamp: text.timestamp,
                ..Text::default()
            })
        });
        if !saved.set.is_empty() {
            let set = shelf.set.get_or_insert_default();
            saved.set.iter().for_each(|element| {
                set.merge(element);
            });
        }
        if let Some(counters) = &saved.counters {
            let ours = shelf.counters.get_or_insert_default();
            ours.merge(counters);
            ours.recall(&counters.recent, now);
        }
        let counted_bytes = shelf.memory_bytes();
        shelf.durable = Some(Box::new(Durable {
            version,
            used_us: now_us,
            counted_bytes,
            ..Durable::default()
        }));
        if let Some(storehouse) = self.storehouse.as_deref_mut() {
            storehouse.document_bytes += counted_bytes;
        }
        self.metrics.loaded += 1;
        Ok(())
    }

    pub(super) fn schedule_unloading(&mut self) {
        let now_us = self.now.mono_us;
        if self.context.storage.is_some()
            && let Some(storehouse) = self.storehouse.as_deref_mut()
            && !std::mem::replace(&mut storehouse.unload_scheduled, true)
        {
            self.deadlines.at(now_us + UNLOAD_TICK_US, Due::Unload);
        }
    }

    /// Unloads what nobody has used for long, and what there is no room for.
    pub(super) fn unload_due(&mut self) {
        let now_us = self.now.mono_us;
        let budget = self.context.document_bytes_max();
        let Some(storehouse) = self.storehouse.as_deref_mut() else {
            return;
        };
        storehouse.unload_scheduled = false;
        let mut leaving = Vec::new();
        let places = self.library.places();
        let first = if storehouse.unload_next < places {
            storehouse.unload_next
        } else {
            0
        };
        let end = (first + UNLOAD_STEP).min(places);
        storehouse.unload_next = end;
        for place in first..end {
            let idle = |shelf: &&mut Shelf| {
                shelf
                    .idle_since_us()
                    .is_some_and(|since| since + UNLOAD_IDLE_US <= now_us)
            };
            if self.library.at(place as u32).as_ref().is_some_and(idle) {
                leaving.push(place as u32);
            }
        }
        for place in leaving {
            self.unload(place);
        }
        self.evict(budget);
        if self.library.len() > 0 {
            self.schedule_unloading();
        }
    }

    /// Unloads the least recently used documents until a tenth of the budget is free.
    fn evict(&mut self, budget: usize) {
        let bytes = |shard: &Shard| shard.storehouse.as_deref().map_or(0, |house| house.document_bytes);
        if bytes(self) <= budget {
            return;
        }
        let candidates = self.library.iter_mut();
        let candidates = candidates.filter_map(|(place, shelf)| Some((shelf.idle_since_us()?, place)));
        let mut candidates: Vec<(u64, u32)> = candidates.collect();
        candidates.sort_unstable();
        for (_, place) in candidates {
            if bytes(self) <= budget - budget / 10 {
                break;
            }
            self.unload(place);
        }
    }

    fn unload(&mut self, place: u32) {
        let Some(shelf) = self.library.remove(place) else {
            return;
        };
        let counted = shelf.durable.map_or(0, |durable| durable.counted_bytes);
        if let Some(storehouse) = self.storehouse.as_deref_mut() {
            storehouse.document_bytes -= counted;
        }
        if self.cluster.is_some() {
            self.leave(&shelf.id);
        }
        self.metrics.unloaded += 1;
        self.context.documents_removed(1);
    }
}

impl Shelf {
    /// Since when nobody has used the document; `None` if it must stay: somebody listens, something is not stored or
    /// not sent, or it remembers what the row does not hold.
    fn idle_since_us(&self) -> Option<u64> {
        let durable = self.durable.as_ref()?;
        let stored = durable.is_saved() && durable.under_way.is_none() && durable.withheld.is_empty();
        let quiet = self.fields.listener_count() == 0 && !self.flush_scheduled;
        let text = self.text.as_ref();
        let told = text.is_none_or(|text| !text.relay_scheduled && text.echoes.is_empty());
        let alone = self.presence.as_ref().is_none_or(|presence| !presence.has_own());
        let alone = alone && self.shared.as_ref().is_none_or(|shared| !shared.is_busy());
        let forgetful = self.counters.as_ref().is_none_or(|counters| !counters.remembers());
        (stored && quiet && told && alone && forgetful).then_some(durable.used_us)
    }

    /// What the document costs in memory, roughly.
    pub(super) fn memory_bytes(&self) -> usize {
        let text = self.text.as_ref();
        let text = text.map_or(0, |text| {
            text.state.memory_bytes() + text.encoded.as_ref().map_or(0, |bytes| bytes.len())
        });
        size_of::<Shelf>()
            + size_of::<Durable>()
            + self.fields.memory_bytes()
            + text
            + self.set.as_ref().map_or(0, |set| set.memory_bytes())
            + self.counters.as_ref().map_or(0, |counters| counters.memory_bytes())
    }
}
