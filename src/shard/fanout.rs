//! Spreading what a home sends to the local listeners (docs/protocol.md §10, §13; docs/life-of-a-message.md).
//!
//! Listeners with equal styles and no client id of their own share one encoding. A connection that writes as a client
//! has that id in its clocks, so its messages differ in a few bytes: they are assembled from shared parts. Authors of a
//! change get what the home decided for them. Whoever is behind on sending gets nothing now and everything later
//! ([`super::lagging`]).

use super::Shard;
use super::audiences::Listener;
use super::mail::{AwarenessFanOut, FieldsFanOut, RelayFanOut, TextBody, TextFanOut};
use crate::awareness::Change;
use crate::document::{FlushedField, SentClock};
use crate::ids::{SessionRef, Slot};
use crate::json::{write_string, write_u64};
use crate::protocol::{Encoder, Kind, Style};
use crate::session::outbox::Origin;
use crate::session::{Flags, Interest, Session, Stage, Subscription};
use crate::websocket::deflate::DEFLATED_BYTES_MIN;
use bytes::Bytes;

/// A larger value is not copied into the frames of a connection that gets its own variant.
const COPIED_VALUE_BYTES_MAX: usize = 16 * 1024;

/// The frames of one fan-out by style, for all listeners that get the same. Compressing styles have a table of their own,
/// made when the first of them turns up.
struct Shared {
    plain: [Option<Bytes>; Style::COUNT],
    deflating: Option<Box<[Option<Bytes>; Style::DEFLATING_COUNT]>>,
}

impl Shared {
    const fn new() -> Shared {
        Shared {
            plain: [const { None }; Style::COUNT],
            deflating: None,
        }
    }

    fn of(&mut self, style: Style) -> &mut Option<Bytes> {
        match style.index().checked_sub(Style::COUNT) {
            None => &mut self.plain[style.index()],
            Some(index) => {
                let table = || Box::new([const { None }; Style::DEFLATING_COUNT]);
                &mut self.deflating.get_or_insert_with(table)[index]
            }
        }
    }
}

impl Shard {
    /// Field changes of one flush.
    pub(super) fn fan_out_fields(&mut self, fan_out: &FieldsFanOut) {
        let Some(audience) = self.audiences.find(&fan_out.document) else {
            return;
        };
        let mark = self.mark_special(fan_out);
        let mut shared = Shared::new();
        let for_all = fan_out.fields.iter().any(|field| field.for_all);
        let listeners = if for_all {
            self.audiences.at(audience).listeners.len()
        } else {
            0
        };
        self.metrics.fan_out.observe(listeners as u64);
        for index in 0..listeners {
            let listener = self.audiences.at(audience).listeners[index];
            let slot = listener.slot;
            let Some(session) = self.sessions.at(slot) else {
                continue;
            };
            if session.skip == mark || !self.listens(listener, Interest::DOCUMENT) {
                continue;
            }
            if self.lags(slot, audience, fan_out) {
                continue;
            }
            let Some(session) = self.sessions.at(slot) else {
                continue;
            };
            let style = session.style;
            if session.writer().is_some() && !style.has(Style::DOC_ID) {
                self.send_own_variant(slot, fan_out);
                continue;
            }
            let frames = match shared.of(style) {
                Some(frames) => frames.clone(),
                place => place.insert(self.encode_shared(style, fan_out)).clone(),
            };
            self.metrics.deliveries += 1;
            if let Some(outbox) = self.outbox(slot) {
                outbox.push_shared(frames, Origin::Bounded);
            }
        }
    }

    /// Gives the authors of changes, and those who must be told that they lost, their own variant, and marks them so
    /// that the loop over all listeners skips them. Returns the mark.
    fn mark_special(&mut self, fan_out: &FieldsFanOut) -> u32 {
        self.fanouts = self.fanouts.wrapping_add(1).max(1);
        let mark = self.fanouts;
        let authors = fan_out
            .fields
            .iter()
            .filter_map(|field| field.author.as_ref().map(|author| author.0));
        let forced = fan_out.fields.iter().flat_map(|field| field.forced.iter().copied());
        let Some(audience) = self.audiences.find(&fan_out.document) else {
            return mark;
        };
        for reference in authors.chain(forced) {
            let Some(slot) = self.sessions.find(reference) else {
                continue;
            };
            let Some(session) = self.sessions.at_mut(slot) else {
                continue;
            };
            let hears = session.subscription(audience).is_some_and(Subscription::hears_document);
            if session.skip == mark || !hears {
                continue;
            }
            session.skip = mark;
            if !self.lags(slot, audience, fan_out) {
                self.send_own_variant(slot, fan_out);
            }
        }
        mark
    }

    /// The frames that all listeners of a style without client id get.
    fn encode_shared(&mut self, style: Style, fan_out: &FieldsFanOut) -> Bytes {
        let mut frames = Vec::new();
        if style.has(Style::DOC_ID) {
            self.encode_changes(style, fan_out, None, &mut frames);
        } else {
            for field in fan_out.fields.iter().filter(|field| field.for_all) {
                let clock = SentClock::Server { stamp: field.stamp };
                self.encode_field(style, &fan_out.document, field, clock, None, &mut frames);
            }
        }
        self.metrics.encodings += 1;
        frames.into()
    }

    /// What one session gets that differs from its style's shared frames.
    pub(super) fn send_own_variant(&mut self, slot: Slot, fan_out: &FieldsFanOut) {
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at(slot) else { return };
        let (style, client) = (session.style, session.writer().cloned());
        // Nothing is compressed for one connection of many; a large value is, once for all of them.
        let (large_bytes_min, style) = match style.has(Style::DEFLATE) {
            true => (DEFLATED_BYTES_MIN, style.without(Style::DEFLATE).without(Style::NARROW)),
            false => (COPIED_VALUE_BYTES_MAX, style),
        };
        let mut frames = Vec::new();
        if style.has(Style::DOC_ID) {
            self.encode_changes(style, fan_out, Some(reference), &mut frames);
        } else {
            for field in fan_out.fields.iter().filter(|field| field.reaches(reference)) {
                let clock = field.clock_for(reference, client.as_ref().map(|client| &*client.id));
                let key = client.as_ref().map(|client| &*client.key);
                match &field.value {
                    Some(value) if value.len() > large_bytes_min && !style.has(Style::VECTOR_CLOCK) => {
                        self.push_frames(slot, std::mem::take(&mut frames));
                        let value = Bytes::from_owner(value.clone());
                        self.send_large_field(slot, &fan_out.document, field, clock, key, &value);
                    }
                    _ => self.encode_field(style, &fan_out.document, field, clock, key, &mut frames),
                }
            }
        }
        self.metrics.deliveries += 1;
        self.push_frames(slot, frames);
    }

    /// Queues frames that nobody else gets.
    fn push_frames(&mut self, slot: Slot, frames: Vec<u8>) {
        if frames.is_empty() {
            return;
        }
        let Some(outbox) = self.outbox(slot) else { return };
        if frames.len() > COPIED_VALUE_BYTES_MAX {
            outbox.push(frames.into(), Origin::Bounded, true);
        } else {
            outbox.append(|tail| tail.extend_from_slice(&frames));
        }
    }

    /// One `delta` whose value is so large that all its receivers share it.
    fn send_large_field(
        &mut self,
        slot: Slot,
        document: &str,
        field: &FlushedField,
        clock: SentClock<'_>,
        client_key: Option<&str>,
        value: &Bytes,
    ) {
        let head = |encoder: &mut Encoder, style: Style| {
            encoder.document(style, document);
            encoder.raw("field", field.key.as_bytes());
            write_clock(encoder.member("clock"), clock, client_key);
            encoder.raw("clientId", b"\"server\"");
        };
        self.send_around(slot, Kind::Delta, None, head, &[(b",\"value\":", value)], |_, _| {});
    }

    /// One `delta` with `field` and `value` (protocol §6.3).
    fn encode_field(
        &mut self,
        style: Style,
        document: &str,
        field: &FlushedField,
        clock: SentClock<'_>,
        client_key: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let (unix_ms, id) = self.envelope(None);
        let encoder = &mut self.encoder;
        encoder.begin(style, Kind::Delta, unix_ms, id);
        encoder.document(style, document);
        encoder.raw("field", field.key.as_bytes());
        encoder.raw("value", field.value_json());
        write_clock(encoder.member("clock"), clock, client_key);
        encoder.raw("clientId", b"\"server\"");
        if style.has(Style::VECTOR_CLOCK) {
            let delta = encoder.member("delta");
            delta.push(b'{');
            delta.extend_from_slice(field.key.as_bytes());
            delta.push(b':');
            delta.extend_from_slice(field.value_json());
            delta.push(b'}');
            write_clock(encoder.member("vectorClock"), clock, client_key);
        }
        encoder.finish(style, Kind::Delta, unix_ms, out);
    }

    /// One `delta` with all `changes` (protocol §6.3), without those the receiver itself wrote.
    fn encode_changes(
        &mut self,
        style: Style,
        fan_out: &FieldsFanOut,
        receiver: Option<SessionRef>,
        out: &mut Vec<u8>,
    ) {
        let wanted = |field: &&FlushedField| match receiver {
            None => field.for_all,
            Some(receiver) => field.is_forced_for(receiver) || (field.for_all && !field.is_by(receiver)),
        };
        let mut fields = fan_out.fields.iter().filter(wanted).peekable();
        let Some(newest) = fields.clone().map(|field| field.stamp).max() else {
            return;
        };
        let (unix_ms, id) = self.envelope(None);
        let encoder = &mut self.encoder;
        encoder.begin(style, Kind::Delta, unix_ms, id);
        encoder.document(style, &fan_out.document);
        let changes = encoder.member("changes");
        changes.push(b'{');
        while let Some(field) = fields.next() {
            changes.extend_from_slice(field.key.as_bytes());
            changes.push(b':');
            changes.extend_from_slice(field.value_json());
            if fields.peek().is_some() {
                changes.push(b',');
            }
        }
        changes.push(b'}');
        encoder.clock("clock", newest, None);
        encoder.raw("clientId", b"\"server\"");
        encoder.finish(style, Kind::Delta, unix_ms, out);
    }

    /// A merged text state.
    pub(super) fn fan_out_text(&mut self, fan_out: &TextFanOut) {
        let Some(audience) = self.audiences.find(&fan_out.document) else {
            return;
        };
        if let Some(only) = fan_out.only {
            let slot = self.sessions.find(only);
            let hears = |session: &Session| session.subscription(audience).is_some_and(Subscription::hears_document);
            if let Some(slot) = slot.filter(|slot| self.sessions.at(*slot).is_some_and(hears)) {
                self.deliver_text(slot, audience, fan_out);
            }
            return;
        }
        for index in 0..self.audiences.at(audience).listeners.len() {
            let listener = self.audiences.at(audience).listeners[index];
            let slot = listener.slot;
            let excepted = self
                .sessions
                .reference(slot)
                .is_none_or(|session| fan_out.except.contains(&session));
            if !excepted && self.listens(listener, Interest::DOCUMENT) {
                self.deliver_text(slot, audience, fan_out);
            }
        }
    }

    fn deliver_text(&mut self, slot: Slot, audience: u32, fan_out: &TextFanOut) {
        if !self.lags_on_text(slot, audience, fan_out.clock) {
            self.metrics.deliveries += 1;
            self.send_text(slot, &fan_out.document, &fan_out.body, fan_out.clock);
        }
    }

    /// One text state in a `delta_batch` (protocol §11.1).
    pub(super) fn send_text(&mut self, slot: Slot, document: &str, body: &TextBody, clock: u64) {
        let head = |encoder: &mut Encoder, style: Style| {
            encoder.document(style, document);
            encoder
                .member("deltas")
                .extend_from_slice(b"[{\"type\":\"text-state\",\"state\":");
        };
        let tail = |encoder: &mut Encoder, _: Style| {
            encoder.string("documentId", document);
            encoder.raw("clientId", b"\"server\"");
            encoder.number("timestamp", body.timestamp);
            encoder.clock("clock", clock, None);
            encoder.append(b"}]");
            encoder.raw("isTextOperation", b"true");
        };
        self.send_around(slot, Kind::DeltaBatch, None, head, &[(b"", &body.state)], tail);
    }

    /// Operations relayed as they are.
    pub(super) fn fan_out_relay(&mut self, fan_out: &RelayFanOut) {
        let Some(audience) = self.audiences.find(&fan_out.document) else {
            return;
        };
        let mut shared = Shared::new();
        for index in 0..self.audiences.at(audience).listeners.len() {
            let listener = self.audiences.at(audience).listeners[index];
            let slot = listener.slot;
            if fan_out.except == self.sessions.reference(slot) || !self.listens(listener, Interest::DOCUMENT) {
                continue;
            }
            let Some(style) = self.sessions.at(slot).map(|session| session.style) else {
                continue;
            };
            let frames = match shared.of(style) {
                Some(frames) => frames.clone(),
                place => place.insert(self.encode_relay(style, fan_out)).clone(),
            };
            self.metrics.deliveries += 1;
            if let Some(outbox) = self.outbox(slot) {
                outbox.push_shared(frames, Origin::Shared);
            }
        }
    }

    fn encode_relay(&mut self, style: Style, fan_out: &RelayFanOut) -> Bytes {
        let (unix_ms, id) = self.envelope(None);
        let encoder = &mut self.encoder;
        encoder.begin(style, Kind::DeltaBatch, unix_ms, id);
        encoder.document(style, &fan_out.document);
        let deltas = encoder.member("deltas");
        deltas.push(b'[');
        deltas.extend_from_slice(&fan_out.elements);
        deltas.push(b']');
        if fan_out.is_text {
            encoder.raw("isTextOperation", b"true");
        }
        let mut frame = Vec::new();
        encoder.finish(style, Kind::DeltaBatch, unix_ms, &mut frame);
        frame.into()
    }

    /// A presence change: to those who subscribed to presence, and to SDK and Go-style subscribers of the document
    /// (protocol §13.2 rule 6).
    pub(super) fn fan_out_awareness(&mut self, fan_out: &AwarenessFanOut) {
        let Some(audience) = self.audiences.find(&fan_out.document) else {
            return;
        };
        let mut shared = Shared::new();
        for index in 0..self.audiences.at(audience).listeners.len() {
            let listener = self.audiences.at(audience).listeners[index];
            let slot = listener.slot;
            if fan_out.except == self.sessions.reference(slot) || !self.listens_to_presence(listener) {
                continue;
            }
            if self.lags_on_awareness(slot, audience, &fan_out.change) {
                continue;
            }
            let Some(style) = self.sessions.at(slot).map(|session| session.style) else {
                continue;
            };
            let frames = match shared.of(style) {
                Some(frames) => frames.clone(),
                place => place
                    .insert(self.encode_awareness(style, &fan_out.document, &fan_out.change))
                    .clone(),
            };
            self.metrics.deliveries += 1;
            if let Some(outbox) = self.outbox(slot) {
                outbox.push_shared(frames, Origin::Bounded);
            }
        }
    }

    /// One presence change in the dialect of `style` (protocol §13.1).
    pub(super) fn encode_awareness(&mut self, style: Style, document: &str, change: &Change) -> Bytes {
        let (unix_ms, id) = self.envelope(None);
        let kind = if style.has(Style::DOC_ID) && change.state.is_some() {
            Kind::AwarenessState
        } else {
            Kind::AwarenessUpdate
        };
        let encoder = &mut self.encoder;
        encoder.begin(style, kind, unix_ms, id);
        encoder.document(style, document);
        write_presence(encoder, change);
        if kind == Kind::AwarenessState {
            let states = encoder.member("states");
            states.push(b'[');
            write_presence_entry(states, change);
            states.push(b']');
        }
        let mut frame = Vec::new();
        encoder.finish(style, kind, unix_ms, &mut frame);
        frame.into()
    }

    fn listens(&self, listener: Listener, interest: Interest) -> bool {
        self.stage(listener.slot) == Some(Stage::Open) && listener.interest(&self.sessions).has(interest)
    }

    fn listens_to_presence(&self, listener: Listener) -> bool {
        let knows = |session: &Session| session.flags.has(Flags::SDK) || session.style.has(Style::DOC_ID);
        self.listens(listener, Interest::AWARENESS)
            || self.listens(listener, Interest::DOCUMENT) && self.sessions.at(listener.slot).is_some_and(knows)
    }
}

/// `clientId`, `state` and `clock` of a presence change.
fn write_presence(encoder: &mut Encoder, change: &Change) {
    encoder.string("clientId", &change.client_id);
    encoder.raw("state", change.state.as_deref().unwrap_or(b"null"));
    encoder.number("clock", change.clock);
}

/// A presence entry as an element of `states`.
pub(super) fn write_presence_entry(out: &mut Vec<u8>, change: &Change) {
    out.extend_from_slice(b"{\"clientId\":");
    write_string(out, &change.client_id);
    out.extend_from_slice(b",\"state\":");
    out.extend_from_slice(change.state.as_deref().unwrap_or(b"null"));
    out.extend_from_slice(b",\"clock\":");
    write_u64(out, change.clock);
    out.push(b'}');
}

/// A clock for one receiver (protocol §9.4). `client_key` is the receiver's client id as JSON: it saves escaping where the
/// clock names that id.
pub(super) fn write_clock(out: &mut Vec<u8>, clock: SentClock<'_>, client_key: Option<&str>) {
    let entry = |out: &mut Vec<u8>, name: &str, value: u64| {
        match client_key {
            Some(key) if &key[1..key.len() - 1] == name => out.extend_from_slice(key.as_bytes()),
            _ => write_string(out, name),
        }
        out.push(b':');
        write_u64(out, value);
    };
    out.push(b'{');
    match clock {
        SentClock::Server { stamp } => entry(out, "server", stamp),
        SentClock::OwnEcho { client, own } => entry(out, client, own),
        SentClock::Raised { client, stamp } => {
            entry(out, "server", stamp);
            out.push(b',');
            entry(out, client, stamp);
        }
    }
    out.push(b'}');
}
