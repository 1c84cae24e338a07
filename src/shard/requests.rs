//! Messages about a document, from the session's side: checks, then mail to the document's home (docs/protocol.md §5).

use super::Shard;
use super::connection::Next;
use super::mail::{AwarenessSubscribe, AwarenessUpdate, DocumentId, Mail, RequestId, Subscribe, Unsubscribe};
use super::sending::Details;
use crate::auth::DOCUMENT_ID_CHARS_MAX;
use crate::ids::{SessionRef, Slot};
use crate::json::Raw;
use crate::limits::{AWARENESS_STATE_BYTES_MAX, CLIENT_ID_BYTES_MAX, REQUEST_ID_BYTES_MAX, SNAPSHOT_WEIGHT_BYTES};
use crate::protocol::{Fault, Fields, Kind, Message, MessageId, Style};
use crate::session::received::Received;
use crate::session::{Flags, Session};
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

impl Shard {
    /// Handles every kind that names a document.
    pub(super) fn document_message(&mut self, slot: Slot, message: &Message<'_>, received: Received<'_>) -> Next {
        let id = message.fields.request_id();
        if let Err(fault) = self.check_body(slot, message) {
            self.refuse(slot, id, &fault);
            return Next::Continue;
        }
        let document = match self.document_of(slot, &message.fields) {
            Ok(document) => document,
            Err(fault) => {
                self.refuse(slot, id, &fault);
                return Next::Continue;
            }
        };
        if let Some(to) = self.first_home(slot, &document) {
            return self.defer_for_move(slot, received, to);
        }
        if !self.permits(slot, message.kind, &document) {
            let details = Details {
                document: Some(&document),
                ..Details::default()
            };
            self.send_fault(slot, id, &Fault::PERMISSION_DENIED, &details);
            return Next::Continue;
        }
        let Some(session) = self.sessions.reference(slot) else {
            return Next::Continue;
        };
        match message.kind {
            Kind::Subscribe | Kind::SyncRequest => self.subscribe_message(slot, session, document, message),
            Kind::Unsubscribe => self.unsubscribe_message(slot, session, document, message),
            Kind::SyncStep1 => self.sync_step_message(slot, &document, message),
            Kind::Delta => self.delta_message(slot, session, document, message, received),
            Kind::DeltaBatch => self.batch_message(slot, session, document, message, received),
            Kind::AwarenessSubscribe => self.awareness_subscribe_message(slot, session, document, message),
            Kind::AwarenessUpdate => self.awareness_update_message(slot, session, document, message),
            other => self.refuse(slot, id, &Fault::unknown_type(other.name())),
        }
        Next::Continue
    }

    /// Whether the session's identity allows a kind of request about a document.
    fn permits(&self, slot: Slot, kind: Kind, document: &str) -> bool {
        self.sessions.at(slot).is_some_and(|session| match kind {
            Kind::Unsubscribe => true,
            Kind::Delta | Kind::DeltaBatch => session.identity.permissions.can_write(document),
            _ => session.identity.permissions.can_read(document),
        })
    }

    /// The checks of a body that come before the document's id.
    fn check_body(&self, slot: Slot, message: &Message<'_>) -> Result<(), Fault> {
        let go = self.has_style(slot, Style::DOC_ID);
        let fields = &message.fields;
        match message.kind {
            Kind::Delta => {
                let has_map = |map: Option<Raw<'_>>| map.is_some_and(|map| map.is_object() && !map.is_empty());
                let has_field = fields.field.is_some_and(Raw::is_string);
                if go || has_map(fields.delta) || has_field || has_map(fields.changes) {
                    return Ok(());
                }
                Err(Fault::EMPTY_DELTA)
            }
            Kind::DeltaBatch => {
                if fields
                    .deltas
                    .is_some_and(|deltas| deltas.is_array() && !deltas.is_empty())
                {
                    return Ok(());
                }
                Err(if go { Fault::INVALID_DELTAS } else { Fault::EMPTY_BATCH })
            }
            _ => Ok(()),
        }
    }

    /// The document a message names, checked for form and policy (protocol §5.2, checks 2–5).
    pub(super) fn document_of(&self, slot: Slot, fields: &Fields<'_>) -> Result<DocumentId, Fault> {
        let id = named_document(fields).unwrap_or_default();
        // A document that somebody here listens to has passed the checks before.
        if let Some(audience) = self.audiences.find(&id) {
            return Ok(self.audiences.at(audience).document.clone());
        }
        let go = self.has_style(slot, Style::DOC_ID);
        self.context
            .authenticator
            .check_document(&id)
            .map_err(|error| Fault::of(error.code(go), error.text(go)))?;
        Ok(Arc::from(&*id))
    }

    fn has_style(&self, slot: Slot, style: Style) -> bool {
        self.sessions.at(slot).is_some_and(|session| session.style.has(style))
    }

    /// Where the connection must go because this is its first document; `None` when it stays.
    fn first_home(&mut self, slot: Slot, document: &str) -> Option<crate::ids::ShardId> {
        let session = self.sessions.at_mut(slot)?;
        if session.flags.set(Flags::HOMED) {
            return None;
        }
        Some(self.home(document)).filter(|home| *home != self.id)
    }

    fn subscribe_message(&mut self, slot: Slot, session: SessionRef, document: DocumentId, message: &Message<'_>) {
        if !self.has_room_for_subscription(slot, &document, message.fields.request_id()) {
            return;
        }
        let is_subscribe = message.kind == Kind::Subscribe;
        let Some(entry) = self.sessions.at_mut(slot) else {
            return;
        };
        entry.pending_subscriptions += 1;
        let (sdk, address) = (entry.flags.has(Flags::SDK), entry.address);
        let clock_max = message
            .fields
            .any_clock()
            .filter(|_| !is_subscribe)
            .map_or(0, greatest_countable);
        let id = owned_id(message.fields.request_id());
        let home = self.home(&document);
        self.request_left(slot, SNAPSHOT_WEIGHT_BYTES);
        let request = Subscribe {
            document,
            session,
            id,
            is_subscribe,
            clock_max,
            sdk,
            address,
        };
        self.post(home, Mail::Subscribe(Box::new(request)));
    }

    /// Whether a session may get one more subscription.
    pub(super) fn has_room(&self, slot: Slot) -> bool {
        let max = (self.context.config.limits.subscriptions_max as usize).min(usize::from(u16::MAX));
        let held = |session: &Session| session.subscriptions.len() + usize::from(session.pending_subscriptions);
        self.sessions.at(slot).is_some_and(|session| held(session) < max)
    }

    /// Whether a session may get one more subscription to that document; answers if not.
    pub(super) fn has_room_for_subscription(&mut self, slot: Slot, document: &str, id: Option<Raw<'_>>) -> bool {
        let Some(session) = self.sessions.at(slot) else {
            return false;
        };
        let audience = self.audiences.find(document);
        let subscribed = audience.is_some_and(|audience| session.subscription(audience).is_some());
        if subscribed || self.has_room(slot) {
            return true;
        }
        let max = self.context.config.limits.subscriptions_max;
        let limit = Some(("subscriptions", u64::from(max)));
        let details = Details {
            document: Some(document),
            limit,
            ..Details::default()
        };
        self.send_fault(slot, id, &Fault::TOO_MANY_SUBSCRIPTIONS, &details);
        false
    }

    fn unsubscribe_message(&mut self, slot: Slot, session: SessionRef, document: DocumentId, message: &Message<'_>) {
        let id = owned_id(message.fields.request_id());
        let message_id = owned_id(message_id_of(&message.fields));
        let home = self.home(&document);
        self.request_left(slot, 0);
        self.post(
            home,
            Mail::Unsubscribe(Box::new(Unsubscribe {
                document,
                session,
                id,
                message_id,
            })),
        );
    }

    /// `sync_step1` exists in one server of the family only, and answers the same there (protocol §5.5).
    fn sync_step_message(&mut self, slot: Slot, document: &str, message: &Message<'_>) {
        let id = message.fields.request_id();
        self.send(slot, Kind::SyncStep2, id, |encoder, style| {
            if let Some(id) = id {
                MessageId::Request(id).write(encoder.member("requestId"));
            }
            encoder.document(style, document);
            encoder.raw("operations", b"[]");
        });
    }

    fn awareness_subscribe_message(
        &mut self,
        slot: Slot,
        session: SessionRef,
        document: DocumentId,
        message: &Message<'_>,
    ) {
        if !self.has_room_for_subscription(slot, &document, message.fields.request_id()) {
            return;
        }
        self.count_pending(slot);
        self.request_left(slot, 0);
        let id = owned_id(message.fields.request_id());
        let home = self.home(&document);
        self.post(
            home,
            Mail::AwarenessSubscribe(Box::new(AwarenessSubscribe { document, session, id })),
        );
    }

    fn awareness_update_message(
        &mut self,
        slot: Slot,
        session: SessionRef,
        document: DocumentId,
        message: &Message<'_>,
    ) {
        let fields = &message.fields;
        let id = fields.request_id();
        let Some(update) = self.read_awareness(slot, fields) else {
            return self.refuse(slot, id, &Fault::INVALID_AWARENESS);
        };
        if !self.has_room_for_subscription(slot, &document, id) {
            return;
        }
        let (client_id, clock, state) = update;
        if !self.has_style(slot, Style::DOC_ID) || fields.client_id.is_some() {
            self.learn_client(slot, &client_id, true);
        }
        self.count_pending(slot);
        self.request_left(slot, state.as_ref().map_or(0, Bytes::len));
        let home = self.home(&document);
        let id = owned_id(id);
        let update = AwarenessUpdate {
            document,
            session,
            id,
            client_id: client_id.into(),
            clock,
            state,
        };
        self.post(home, Mail::AwarenessUpdate(Box::new(update)));
    }

    /// Client id, clock and state of an update (protocol §13.2 rule 3); `None` when one of them is not valid.
    fn read_awareness(&self, slot: Slot, fields: &Fields<'_>) -> Option<(String, Option<u64>, Option<Bytes>)> {
        let client_id = match fields.client_id {
            Some(raw) => raw.string()?.into_owned(),
            None => self.fallback_client_id(slot),
        };
        if client_id.is_empty() || client_id.chars().count() > CLIENT_ID_BYTES_MAX {
            return None;
        }
        let clock = match fields.clock {
            Some(clock) => Some(clock.integer()?),
            None => None,
        };
        let state = match fields.state? {
            state if state.is_null() => None,
            state if state.is_object() && state.text().len() <= AWARENESS_STATE_BYTES_MAX => {
                Some(Bytes::copy_from_slice(state.text().as_bytes()))
            }
            _ => return None,
        };
        Some((client_id, clock, state))
    }

    /// The client id of a Go-style connection that names none: the one of its `auth`, else the connection's own.
    fn fallback_client_id(&self, slot: Slot) -> String {
        let session = self.sessions.at(slot);
        match session.and_then(|session| session.client.as_ref()) {
            Some(client) => client.id.to_string(),
            None => format!("{:?}", self.sessions.reference(slot)),
        }
    }

    /// One more subscription is on its way.
    pub(super) fn count_pending(&mut self, slot: Slot) {
        if let Some(session) = self.sessions.at_mut(slot) {
            session.pending_subscriptions += 1;
        }
    }
}

/// Keeps a request's id beyond the message.
pub(super) fn owned_id(id: Option<Raw<'_>>) -> RequestId {
    id.map(|id| id.text().into())
}

/// The document that is named; of one whose name is far too long, only a beginning, which is too long.
pub(super) fn named_document<'a>(fields: &Fields<'a>) -> Option<Cow<'a, str>> {
    fields
        .document()
        .and_then(|name| name.string_within(4 * DOCUMENT_ID_CHARS_MAX))
}

/// The id to acknowledge: `messageId` if it is a non-empty string (protocol §5).
pub(super) fn message_id_of<'a>(fields: &Fields<'a>) -> Option<Raw<'a>> {
    fields
        .message_id
        .filter(|id| id.is_string() && id.text() != "\"\"" && id.text().len() <= REQUEST_ID_BYTES_MAX)
}

/// The greatest value of a clock that may count (protocol §9.3).
pub(super) fn greatest_countable(clock: Raw<'_>) -> u64 {
    let values = clock
        .members()
        .into_iter()
        .flatten()
        .filter_map(|(_, value)| countable(value));
    values.max().unwrap_or(0)
}

/// A clock value that may count, if the document has come so far: an integer in 0 … 2^52.
pub(super) fn countable(value: Raw<'_>) -> Option<u64> {
    value
        .integer()
        .filter(|value| *value <= crate::document::CLOCK_KEPT_MAX)
}
