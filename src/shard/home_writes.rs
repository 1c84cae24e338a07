//! The home side of writes: fields, text states, sets, counters and relayed operations (docs/protocol.md §9, §11, §12).

use super::cluster::Outbound;
use super::context::AddressKey;
use super::library::{Text, refusal};
use super::mail::{DocumentId, Mail, Refusal, RelayFanOut, Span, TextBody, TextFanOut, Write, WriteOp, Wrote};
use super::requests::countable;
use super::{Due, Shard};
use crate::document::counters::{Counted, CounterOperation};
use crate::document::sets::SetOperation;
use crate::document::{ClockView, Document, Limits, Verdict, Write as FieldWrite};
use crate::ids::SessionRef;
use crate::json::{Raw, write_string};
use crate::limits::TEXT_RELAY_US;
use crate::merging;
use crate::mutation::Mutation;
use crate::protocol::{Fault, Fields};
use crate::text::{Echo, Merged, TextError};
use bytes::Bytes;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;

/// Operations of one write on their way to be relayed, and who must not get them.
#[derive(Default)]
pub(super) struct Relays {
    /// Relayed to the others, text operations.
    pub(super) text: Vec<u8>,
    /// Relayed to the others, all other kinds.
    pub(super) others: Vec<u8>,
    /// Relayed to all, the author included.
    pub(super) all: Vec<u8>,
    /// What other nodes are told; `None` on a server of one node.
    pub(super) outbound: Option<Box<Outbound>>,
}

impl Shard {
    /// A `delta` or a document's part of a `delta_batch`.
    pub(super) fn home_write(&mut self, write: Box<Write>) {
        let session = write.session;
        let place = match self.writable_place(&write.document, write.address) {
            Ok(place) => place,
            Err(refusal) => {
                let unstored = refusal.fault.retryable;
                let refusals = vec![refusal];
                let wrote = Wrote {
                    write,
                    refusals,
                    accepted: false,
                    joined: false,
                    unstored,
                };
                return self.post(session.shard(), Mail::Wrote(wrote));
            }
        };
        let (mut joined, mut adopted) = (false, None);
        if let Some(shelf) = self.library.at(place) {
            joined = write.subscribe;
            if write.subscribe {
                shelf.listen(session);
            }
            if let (Some(client), Some(presence)) = (&write.client, &mut shelf.presence) {
                adopted = presence.adopt(session, client);
            }
        }
        if let Some(change) = adopted {
            self.publish_presence(place, &change);
        }
        if write.ops.iter().any(|op| self.is_long(op)) {
            return self.begin_long_write(write, joined);
        }
        let mut refusals = Vec::new();
        let mut relays = Relays {
            outbound: self.cluster.as_ref().map(|_| Box::default()),
            ..Relays::default()
        };
        for op in &write.ops {
            if let Err(refusal) = self.apply(place, &write, op, &mut relays) {
                refusals.push(refusal);
            }
        }
        self.publish_operations(place, &mut relays);
        self.relay(place, session, relays);
        let kept = |op: &WriteOp| !matches!(op, WriteOp::RichText { .. } | WriteOp::LegacyText { .. });
        if refusals.len() < write.ops.len() && write.ops.iter().any(kept) {
            self.changed(place);
        }
        self.finish_write(place, write, refusals, joined);
    }

    /// All operations have been done, but for the refused ones: the write is answered.
    pub(super) fn finish_write(&mut self, place: u32, write: Box<Write>, refusals: Vec<Refusal>, joined: bool) {
        self.metrics.elements_accepted += (write.ops.len() - refusals.len()) as u64;
        let wrote = Wrote {
            accepted: refusals.len() < write.ops.len(),
            write,
            refusals,
            joined,
            unstored: false,
        };
        self.answer_write(place, wrote);
    }

    /// The place of a document that takes writes.
    fn writable_place(&mut self, document: &DocumentId, address: AddressKey) -> Result<u32, Refusal> {
        let place = self.place_of(document, address)?;
        self.check_storable(place).inspect_err(|_| self.dispose(place))?;
        Ok(place)
    }

    pub(super) fn apply(
        &mut self,
        place: u32,
        write: &Write,
        op: &WriteOp,
        relays: &mut Relays,
    ) -> Result<(), Refusal> {
        match op {
            WriteOp::Fields(map) => self.apply_map(place, write, map),
            WriteOp::Field {
                name,
                value,
                client,
                clock,
                timestamp,
            } => {
                let stamp = client
                    .as_ref()
                    .zip(clock.as_ref())
                    .map(|(client, clock)| (client, clock, *timestamp));
                self.apply_field(place, write, name, value.as_ref(), stamp)
            }
            WriteOp::Text { state, timestamp } => self.apply_text(place, write, state, *timestamp),
            WriteOp::Set { element } => self.apply_set(place, write.at(element), relays),
            WriteOp::Counter { element, index } => {
                self.apply_counter(place, write, write.at(element), *index, relays);
                Ok(())
            }
            WriteOp::RichText { element } => {
                if let Some(outbound) = &mut relays.outbound {
                    outbound.relay(write.at(element));
                }
                append_element(&mut relays.others, write.at(element), None);
                Ok(())
            }
            WriteOp::LegacyText { element } => {
                append_element(&mut relays.text, write.at(element), write.client.as_deref());
                Ok(())
            }
        }
    }

    /// A map of plain writes: all or none.
    fn apply_map(&mut self, place: u32, write: &Write, map: &[(Span, Option<Span>)]) -> Result<(), Refusal> {
        let (unix_ms, limits) = (self.now.unix_ms, self.library.limits);
        let Some(shelf) = self.library.at(place) else {
            return Ok(());
        };
        let names: SmallVec<[Cow<'_, str>; 4]> = map.iter().map(|(name, _)| field_name(write, name)).collect();
        let writes: SmallVec<[FieldWrite<'_>; 4]> = names
            .iter()
            .zip(map)
            .map(|(name, (_, value))| FieldWrite::Plain {
                name,
                value: value_bytes(write, value.as_ref()),
            })
            .collect();
        let lost = commit(&mut shelf.fields, unix_ms, &limits, write.session, &writes)?;
        shelf.modified_ms = unix_ms;
        self.metrics.writes_lost += lost;
        self.audit_fields(place, write.session, &writes);
        self.schedule_flush(place);
        Ok(())
    }

    /// A single field write, stamped if it has client id and clock.
    fn apply_field(
        &mut self,
        place: u32,
        write: &Write,
        name: &Span,
        value: Option<&Span>,
        stamp: Option<(&Span, &Span, Option<f64>)>,
    ) -> Result<(), Refusal> {
        let (unix_ms, limits) = (self.now.unix_ms, self.library.limits);
        let Some(shelf) = self.library.at(place) else {
            return Ok(());
        };
        let name = field_name(write, name);
        let value = value_bytes(write, value);
        let Some((client, clock, timestamp_ms)) = stamp else {
            let writes = [FieldWrite::Plain { name: &name, value }];
            commit(&mut shelf.fields, unix_ms, &limits, write.session, &writes)?;
            shelf.modified_ms = unix_ms;
            self.audit_fields(place, write.session, &writes);
            self.schedule_flush(place);
            return Ok(());
        };
        let client_id = Raw::from_validated(write.at(client)).string().unwrap_or_default();
        let members = Raw::from_validated(write.at(clock)).members().into_iter().flatten();
        let entries = members.filter_map(|(key, value)| Some((key.decode(), countable(value)?)));
        let entries: SmallVec<[(Cow<'_, str>, u64); 4]> = entries.collect();
        let view: SmallVec<[(&str, u64); 4]> = entries.iter().map(|(name, value)| (&**name, *value)).collect();
        let clock = ClockView::new(&view);
        let writes = [FieldWrite::Stamped {
            name: &name,
            value: Some(value),
            timestamp_ms,
            clock,
            client_id: &client_id,
        }];
        let lost = commit(&mut shelf.fields, unix_ms, &limits, write.session, &writes)?;
        shelf.modified_ms = unix_ms;
        self.metrics.writes_lost += lost;
        if lost == 0 {
            self.audit_fields(place, write.session, &writes);
        }
        self.schedule_flush(place);
        Ok(())
    }

    /// A text state: merged at once; relayed within the window, or at once where that protects the author's next edits.
    fn apply_text(&mut self, place: u32, write: &Write, state: &Span, timestamp: Option<f64>) -> Result<(), Refusal> {
        let limits = self.library.text_limits;
        let Some(shelf) = self.library.at(place) else {
            return Ok(());
        };
        let stored = shelf.text.as_ref().map(|text| &text.state);
        let incoming = merging::read(write.at(state), stored, &limits).map_err(text_refusal)?;
        let merged = merging::merge_read(stored, &incoming, &limits).map_err(text_refusal)?;
        self.take_merged(place, write.session, timestamp, merged, None);
        Ok(())
    }

    /// Takes over a merged text. `encoded`: what it is in messages, if that is known.
    pub(super) fn take_merged(
        &mut self,
        place: u32,
        session: SessionRef,
        timestamp: Option<f64>,
        merged: Merged,
        encoded: Option<Bytes>,
    ) {
        let unix_ms = self.now.unix_ms;
        let Some(shelf) = self.library.at(place) else { return };
        self.metrics.text_merges += 1;
        self.metrics.text_collisions += merged.collisions as u64;
        let client_ms = timestamp
            .filter(|ms| ms.is_finite() && *ms > 0.0)
            .map_or(unix_ms, |ms| ms as u64);
        let text = shelf.text.get_or_insert_default();
        text.timestamp = text.timestamp.max(client_ms.min(unix_ms + 1000));
        if merged.changed || text.encoded.is_none() {
            text.encoded = encoded;
            text.state = merged.state;
        }
        if merged.changed {
            shelf.modified_ms = unix_ms;
            text.relay_pending = true;
            text.untold = true;
            text.current.clear();
        }
        let changed = merged.changed;
        let is_first = shelf.shared.is_some() && text.known.insert(session);
        match merged.echo {
            Echo::None if is_first => text.owe(session),
            Echo::None if text.relay_pending && !text.echoes.contains(&session) && !text.current.contains(&session) => {
                text.current.push(session);
            }
            Echo::None => {}
            Echo::Coalesced => text.owe(session),
            Echo::AtOnce => {
                text.owe(session);
                self.echo_text(place, session);
            }
        }
        self.schedule_text_relay(place);
        if changed {
            self.audit_text(place, session);
        }
    }

    /// Sends the current state to its author without waiting (R5).
    fn echo_text(&mut self, place: u32, session: SessionRef) {
        let Some(shelf) = self.library.at(place) else { return };
        let (document, clock) = (shelf.id.clone(), shelf.fields.step(0));
        let Some(body) = shelf.text_for(session) else { return };
        let fan_out = TextFanOut {
            document,
            body,
            clock,
            except: SmallVec::new(),
            only: Some(session),
        };
        self.post(session.shard(), Mail::Text(Arc::new(fan_out)));
    }

    pub(super) fn schedule_text_relay(&mut self, place: u32) {
        let now_us = self.now.mono_us;
        let Some(text) = self.library.at(place).and_then(|shelf| shelf.text.as_mut()) else {
            return;
        };
        let owes = text.relay_pending || !text.echoes.is_empty();
        if text.relay_scheduled || !owes {
            return;
        }
        text.relay_scheduled = true;
        // A quiet text relays at the end of the turn, like fields; a busy one once per window.
        let due_us = if text.relayed_us == 0 {
            now_us
        } else {
            (text.relayed_us + TEXT_RELAY_US).max(now_us)
        };
        self.deadlines.at(due_us, Due::TextRelay(place));
    }

    /// Sends the current state to everybody who does not have it.
    pub(super) fn text_relay_due(&mut self, place: u32) {
        let now_us = self.now.mono_us;
        let Some(shelf) = self.library.at(place) else { return };
        let Some(text) = shelf.text.as_mut().filter(|text| text.relay_scheduled) else {
            return;
        };
        text.relay_scheduled = false;
        text.relayed_us = now_us.max(1);
        let everybody = std::mem::take(&mut text.relay_pending);
        let except = std::mem::take(&mut text.current);
        let echoes = std::mem::take(&mut text.echoes);
        let body = text.body();
        let untold = std::mem::take(&mut text.untold);
        let (document, clock) = (shelf.id.clone(), shelf.fields.step(0));
        let shards = shelf.shards.clone();
        if untold {
            self.publish_text(place);
        }
        let fan_out = |only| TextFanOut {
            document: document.clone(),
            body: body.clone(),
            clock,
            except: except.clone(),
            only,
        };
        if everybody {
            let fan_out = Arc::new(fan_out(None));
            for (shard, _) in shards {
                self.post(shard, Mail::Text(fan_out.clone()));
            }
            return;
        }
        for session in echoes {
            self.post(session.shard(), Mail::Text(Arc::new(fan_out(Some(session)))));
        }
    }

    fn apply_set(&mut self, place: u32, element: &str, relays: &mut Relays) -> Result<(), Refusal> {
        let (unix_ms, limits) = (self.now.unix_ms, self.library.set_limits);
        let Some(shelf) = self.library.at(place) else {
            return Ok(());
        };
        let fields = Fields::read(Raw::from_validated(element));
        let value = fields.value.map_or("null", Raw::text).as_bytes();
        let operation = match fields.operation.and_then(Raw::string).as_deref() {
            Some("add") => SetOperation::Add(value),
            Some("remove") => SetOperation::Remove(value),
            _ => SetOperation::Clear,
        };
        let lam = shelf.fields.step(0);
        let set = shelf.set.get_or_insert_default();
        set.apply(unix_ms, lam, operation, &limits).map_err(|error| Refusal {
            fault: Fault::BATCH_FAILED,
            reason: Some(error.to_string()),
            limit: None,
        })?;
        shelf.modified_ms = unix_ms;
        if let Some(outbound) = &mut relays.outbound {
            outbound.operations.set.extend(set.touched(unix_ms, lam, operation));
        }
        append_element(&mut relays.all, element, None);
        Ok(())
    }

    fn apply_counter(&mut self, place: u32, write: &Write, element: &str, index: u32, relays: &mut Relays) {
        let now_ms = self.now.mono_ms();
        let account = self.cluster.as_deref().map(|cluster| &*cluster.account);
        let Some(shelf) = self.library.at(place) else { return };
        let fields = Fields::read(Raw::from_validated(element));
        let client = fields.client_id.and_then(Raw::string);
        let client_id = client.as_deref().or(write.client.as_deref()).unwrap_or_default();
        let message_id = write.message_id.as_ref().map(|span| write.at(span));
        let operation = CounterOperation {
            client_id,
            account: account.unwrap_or(client_id),
            message_id,
            element: index,
            value: fields.value.and_then(Raw::number).unwrap_or(0.0),
            decrement: fields.operation.and_then(Raw::string).as_deref() == Some("decrement"),
        };
        let counted = shelf.counters.get_or_insert_default().apply(now_ms, operation);
        if counted == Counted::Fresh {
            if let Some(outbound) = &mut relays.outbound {
                outbound.count(&operation, element);
            }
            append_element(&mut relays.others, element, None);
        }
    }

    pub(super) fn relay(&mut self, place: u32, author: SessionRef, relays: Relays) {
        // Changes of fields, which are nearly all there is, have nothing to relay.
        if relays.text.is_empty() && relays.others.is_empty() && relays.all.is_empty() {
            return;
        }
        let Some(shelf) = self.library.at(place) else { return };
        let (document, shards) = (shelf.id.clone(), shelf.shards.clone());
        let kinds = [
            (relays.text, true, Some(author)),
            (relays.others, false, Some(author)),
            (relays.all, false, None),
        ];
        for (elements, is_text, except) in kinds {
            if elements.is_empty() {
                continue;
            }
            let fan_out = RelayFanOut {
                document: document.clone(),
                elements: elements.into(),
                is_text,
                except,
            };
            let fan_out = Arc::new(fan_out);
            for (shard, _) in &shards {
                self.post(*shard, Mail::Relay(fan_out.clone()));
            }
        }
    }
}

impl Text {
    /// The state as messages carry it.
    pub(super) fn body(&mut self) -> TextBody {
        let state = &self.state;
        let encoded = self.encoded.get_or_insert_with(|| merging::encoded(state));
        TextBody {
            state: encoded.clone(),
            timestamp: self.timestamp,
        }
    }

    /// The session must be sent the state, whatever it sends meanwhile (R4).
    fn owe(&mut self, session: SessionRef) {
        if Mutation::ForgetTextEcho.is_on() {
            return;
        }
        self.current.retain(|other| *other != session);
        if !self.echoes.contains(&session) {
            self.echoes.push(session);
        }
    }
}

/// Checks and applies field writes: all or none. Returns how many lost against a newer value.
fn commit(
    document: &mut Document,
    unix_ms: u64,
    limits: &Limits,
    session: SessionRef,
    writes: &[FieldWrite<'_>],
) -> Result<u64, Refusal> {
    document.check(limits, writes).map_err(refusal)?;
    let verdicts = writes.iter().map(|write| document.write(unix_ms, session, *write));
    Ok(verdicts.filter(|verdict| *verdict == Verdict::Lost).count() as u64)
}

/// Why a text state is refused.
pub(super) fn text_refusal(error: TextError) -> Refusal {
    Refusal {
        fault: Fault::BATCH_FAILED,
        reason: Some(error.to_string()),
        limit: None,
    }
}

pub(super) fn field_name<'a>(write: &'a Write, name: &Span) -> Cow<'a, str> {
    crate::json::Key::from_validated(write.at(name)).decode()
}

pub(super) fn value_bytes<'a>(write: &'a Write, value: Option<&Span>) -> &'a [u8] {
    value.map_or(b"null", |value| write.at(value).as_bytes())
}

/// Appends an element to a list; with `client_id` where the element has none (protocol §12.1).
fn append_element(list: &mut Vec<u8>, element: &str, client_id: Option<&str>) {
    if !list.is_empty() {
        list.push(b',');
    }
    let raw = Raw::from_validated(element);
    let missing = client_id.filter(|_| raw.member("clientId").is_none());
    let Some(client_id) = missing else {
        return list.extend_from_slice(element.as_bytes());
    };
    list.extend_from_slice(b"{\"clientId\":");
    write_string(list, client_id);
    if !raw.is_empty() {
        list.push(b',');
    }
    list.extend_from_slice(&element.as_bytes()[1..]);
}
