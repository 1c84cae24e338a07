//! Answers of homes, written to the sessions that asked (docs/protocol.md §6).

use super::Shard;
use super::fanout::write_presence_entry;
use super::mail::{AwarenessAnswered, DocumentId, Mail, RefusedRequest, Synced, Unsubscribe, Wrote};
use super::sending::Details;
use crate::awareness::Change;
use crate::document::{SentClock, TOMBSTONE_JSON};
use crate::ids::{SessionRef, Slot};
use crate::json::Raw;
use crate::limits::{ELEMENT_ERRORS_MAX, SNAPSHOT_WEIGHT_BYTES};
use crate::protocol::{Encoder, Fault, Kind, MessageId, Style};
use crate::session::outbox::Origin;
use crate::session::{Flags, Interest, Stage};
use bytes::Bytes;
use smallvec::SmallVec;

impl Shard {
    /// The slot of a session that a home answers. A session that is gone must not stay a listener.
    fn answered_slot(&mut self, document: &DocumentId, session: SessionRef) -> Option<Slot> {
        let slot = self.sessions.find(session);
        let open = slot.filter(|slot| self.stage(*slot) == Some(Stage::Open));
        if open.is_none() {
            let home = self.home(document);
            let closed = slot.and_then(|slot| self.sessions.at(slot));
            let clean = closed.is_some_and(|session| session.flags.has(Flags::PEER_CLOSED));
            self.post(
                home,
                Mail::Left {
                    document: document.clone(),
                    session,
                    clean,
                },
            );
        }
        open
    }

    fn pending_done(&mut self, slot: Slot) {
        if let Some(session) = self.sessions.at_mut(slot) {
            session.pending_subscriptions = session.pending_subscriptions.saturating_sub(1);
        }
    }

    /// `sync_response`, and what an SDK connection gets behind it.
    pub(super) fn synced(&mut self, synced: Synced) {
        let request = &synced.request;
        let Some(slot) = self.answered_slot(&request.document, request.session) else {
            return;
        };
        self.pending_done(slot);
        self.request_answered(slot, SNAPSHOT_WEIGHT_BYTES);
        self.listen(slot, &request.document, Interest::DOCUMENT);
        let id = request.id.as_deref().map(Raw::from_validated);
        let client = self.sessions.at(slot).and_then(|session| session.writer().cloned());
        let head = |encoder: &mut Encoder, style: Style| {
            encoder.repeat_id("requestId");
            encoder.document(style, &request.document);
            encoder.raw("deltas", b"[]");
            encoder.clock("clock", synced.clock, client.as_ref().map(|client| &*client.key));
            if let Some(text) = &synced.text {
                encoder.number("textClock", text.timestamp);
            }
        };
        let mut parts: SmallVec<[(&'static [u8], &Bytes); 2]> = SmallVec::new();
        parts.push((b",\"state\":", &synced.state));
        if let Some(text) = &synced.text {
            parts.push((b",\"textState\":", &text.state));
        }
        self.send_around(slot, Kind::SyncResponse, id, head, &parts, |_, _| {});
        self.send_tombstones(slot, &synced);
        self.send_set_elements(slot, &request.document, &synced.set_elements);
        if !synced.presence.is_empty() {
            self.send_presence(slot, None, &request.document, &synced.presence);
        }
    }

    /// Deletions that `state` cannot express (protocol §9.6).
    fn send_tombstones(&mut self, slot: Slot, synced: &Synced) {
        let client = self.sessions.at(slot).and_then(|session| session.writer().cloned());
        // With the client's own entry, which an empty `state` does not deliver: without it a later edit of the deleted
        // field would stay hidden from its author.
        let client_key = client.as_ref().map(|client| &*client.key);
        for key in &synced.tombstones {
            self.send(slot, Kind::Delta, None, |encoder, style| {
                encoder.document(style, &synced.request.document);
                encoder.raw("field", key.as_bytes());
                encoder.raw("value", TOMBSTONE_JSON);
                encoder.clock("clock", synced.clock, client_key);
                encoder.raw("clientId", b"\"server\"");
            });
        }
    }

    fn send_set_elements(&mut self, slot: Slot, document: &str, elements: &[Bytes]) {
        if elements.is_empty() {
            return;
        }
        self.send(slot, Kind::DeltaBatch, None, |encoder, style| {
            encoder.document(style, document);
            let deltas = encoder.member("deltas");
            deltas.push(b'[');
            deltas.extend_from_slice(&elements.join(&b','));
            deltas.push(b']');
        });
    }

    /// `ack` of an `unsubscribe`; the session hears nothing more.
    pub(super) fn unsubscribed(&mut self, request: &Unsubscribe) {
        let Some(slot) = self.sessions.find(request.session) else {
            return;
        };
        self.request_answered(slot, 0);
        if let Some(audience) = self.audiences.find(&request.document) {
            self.forget_lag(slot, audience);
            let session = self.sessions.at(slot);
            let at =
                session.and_then(|session| session.subscriptions.iter().position(|held| held.audience == audience));
            if let Some(at) = at {
                self.audiences.leave(&mut self.sessions, slot, at);
            }
        }
        let id = request.id.as_deref().map(Raw::from_validated);
        let message_id = request.message_id.as_deref().map(Raw::from_validated);
        self.send_ack(slot, &request.document, id, message_id, None);
    }

    /// A write that is not acknowledged yet made the session a listener.
    pub(super) fn joined(&mut self, document: &DocumentId, session: SessionRef) {
        if let Some(slot) = self.answered_slot(document, session) {
            self.listen(slot, document, Interest::DOCUMENT);
        }
    }

    /// The result of a write: refusals first, then the acknowledgement if anything was taken or there was nothing to
    /// take.
    pub(super) fn wrote(&mut self, wrote: Wrote) {
        let write = &wrote.write;
        let session = write.session;
        let slot = match write.subscribe {
            true => self.answered_slot(&write.document, session),
            false => self.sessions.find(session),
        };
        let Some(slot) = slot else { return };
        self.request_answered(slot, write.text.len());
        if write.subscribe {
            self.pending_done(slot);
        }
        if wrote.joined {
            self.listen(slot, &write.document, Interest::DOCUMENT);
        }
        let id = write.id.as_ref().map(|span| Raw::from_validated(write.at(span)));
        for refusal in wrote.refusals.iter().take(ELEMENT_ERRORS_MAX) {
            let (reason, limit) = (refusal.reason.as_deref(), refusal.limit);
            let details = Details {
                document: Some(&write.document),
                reason,
                limit,
                retryable: refusal.fault.retryable,
                ..Details::default()
            };
            self.send_fault(slot, id, &refusal.fault, &details);
        }
        let accepted = wrote.accepted || wrote.refusals.is_empty();
        if let Some(ticket) = write.ticket {
            return self.part_wrote(slot, ticket, accepted, wrote.unstored);
        }
        if accepted {
            self.metrics
                .ack_latency
                .observe(self.now.mono_us.saturating_sub(write.read_us));
            let message_id = write
                .message_id
                .as_ref()
                .map(|span| Raw::from_validated(write.at(span)));
            self.send_ack(
                slot,
                &write.document,
                id,
                message_id,
                write.is_batch.then_some(write.count),
            );
        }
    }

    /// One document's part of a batch is done; the last one sends the acknowledgement.
    pub(super) fn part_wrote(&mut self, slot: Slot, ticket: u64, accepted: bool, unstored: bool) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(extra) = session.extra.as_mut() else { return };
        let Some(at) = extra.split_writes.iter().position(|split| split.ticket == ticket) else {
            return;
        };
        let split = &mut extra.split_writes[at];
        split.accepted |= accepted;
        split.unstored |= unstored;
        split.remaining -= 1;
        match split.remaining {
            0 => {}
            1 => return self.continue_long(slot),
            _ => return,
        }
        let split = extra.split_writes.swap_remove(at);
        session.trim();
        if split.accepted
            && !split.unstored
            && let Some(outbox) = self.outbox(slot)
        {
            outbox.append(|tail| tail.extend_from_slice(&split.ack));
            self.metrics.sent(Kind::Ack);
        }
    }

    fn send_ack(
        &mut self,
        slot: Slot,
        document: &str,
        id: Option<Raw<'_>>,
        message_id: Option<Raw<'_>>,
        count: Option<u32>,
    ) {
        self.send(slot, Kind::Ack, id, |encoder, style| {
            write_ack(encoder, style, document, message_id, count);
        });
    }

    /// The frame of an `ack` that is sent later.
    pub(super) fn encode_ack(
        &mut self,
        slot: Slot,
        document: &str,
        id: Option<Raw<'_>>,
        message_id: Option<Raw<'_>>,
        count: Option<u32>,
    ) -> Vec<u8> {
        let style = self.sessions.at(slot).map(|session| session.style).unwrap_or_default();
        let (unix_ms, answer_id) = self.envelope(id);
        let encoder = &mut self.encoder;
        encoder.begin(style, Kind::Ack, unix_ms, answer_id);
        write_ack(encoder, style, document, message_id, count);
        let mut frame = Vec::with_capacity(128);
        encoder.finish(style, Kind::Ack, unix_ms, &mut frame);
        frame
    }

    /// Presence was subscribed to or updated.
    pub(super) fn awareness_answered(&mut self, answer: AwarenessAnswered) {
        let Some(slot) = self.answered_slot(&answer.document, answer.session) else {
            return;
        };
        self.pending_done(slot);
        self.request_answered(slot, answer.state_bytes);
        self.listen(slot, &answer.document, Interest::AWARENESS);
        let id = answer.id.as_deref().map(Raw::from_validated);
        if answer.refused {
            let details = Details {
                document: Some(&answer.document),
                ..Details::default()
            };
            self.send_fault(slot, id, &Fault::AWARENESS_LIMIT, &details);
        }
        if let Some(states) = &answer.states {
            self.send_presence(slot, id, &answer.document, states);
        }
    }

    /// Who is there: one list, or one message per client to Go-style connections (protocol §13.1).
    fn send_presence(&mut self, slot: Slot, id: Option<Raw<'_>>, document: &str, states: &[Change]) {
        let Some(style) = self.sessions.at(slot).map(|session| session.style) else {
            return;
        };
        if style.has(Style::DOC_ID) && !states.is_empty() {
            for change in states {
                let frame = self.encode_awareness(style, document, change);
                if let Some(outbox) = self.outbox(slot) {
                    outbox.push_shared(frame, Origin::Bounded);
                }
            }
            return;
        }
        self.send(slot, Kind::AwarenessState, id, |encoder, style| {
            encoder.document(style, document);
            let list = encoder.member("states");
            list.push(b'[');
            for (index, change) in states.iter().enumerate() {
                if index > 0 {
                    list.push(b',');
                }
                write_presence_entry(list, change);
            }
            list.push(b']');
        });
    }

    /// The home could not take a request.
    pub(super) fn refused(&mut self, refused: &RefusedRequest) {
        let Some(slot) = self.sessions.find(refused.session) else {
            return;
        };
        self.pending_done(slot);
        self.request_answered(slot, refused.weight_bytes);
        let id = refused.id.as_deref().map(Raw::from_validated);
        let refusal = &refused.refusal;
        let (reason, limit) = (refusal.reason.as_deref(), refusal.limit);
        let details = Details {
            document: Some(&refused.document),
            reason,
            limit,
            retryable: refusal.fault.retryable,
            ..Details::default()
        };
        self.send_fault(slot, id, &refusal.fault, &details);
    }

    /// The `delta` without `field` that raises a client's own clock entry (protocol §9.4).
    pub(super) fn introduced(&mut self, document: &DocumentId, session: SessionRef, clock: u64) {
        let Some(slot) = self.sessions.find(session) else {
            return;
        };
        let Some(session) = self.sessions.at(slot) else { return };
        let sdk = session.flags.has(Flags::SDK) && !session.style.has(Style::DOC_ID);
        let Some(client) = session.writer().cloned().filter(|_| sdk) else {
            return;
        };
        let known = SentClock::OwnEcho {
            client: &client.id,
            own: clock,
        };
        self.send(slot, Kind::Delta, None, |encoder, style| {
            encoder.document(style, document);
            super::fanout::write_clock(encoder.member("clock"), known, Some(&client.key));
            encoder.raw("clientId", b"\"server\"");
        });
    }
}

/// The members of an `ack` (protocol §6.5).
fn write_ack(encoder: &mut Encoder, style: Style, document: &str, message_id: Option<Raw<'_>>, count: Option<u32>) {
    match message_id {
        Some(message_id) => MessageId::Request(message_id).write(encoder.member("messageId")),
        None => encoder.repeat_id("messageId"),
    }
    encoder.document(style, document);
    if let Some(count) = count.filter(|_| style.has(Style::DOC_ID)) {
        encoder.number("count", u64::from(count));
    }
}
