//! `delta`, `delta_batch` and chunks, from the session's side: classifies the elements and sends each document's part to
//! its home (docs/protocol.md §5.6, §5.7, §15).

use super::connection::Next;
use super::long_writes::is_long;
use super::mail::{DocumentId, Mail, RequestId, Span, Write, WriteOp};
use super::requests::{message_id_of, named_document};
use super::sending::Details;
use super::{Due, Shard};
use crate::ids::{SessionRef, Slot};
use crate::json::Raw;
use crate::limits::{CHUNK_SET_IDLE_US, CLIENT_ID_BYTES_MAX, ELEMENT_ERRORS_MAX, LONG_MESSAGE_BYTES, MAP_STEP_BYTES};
use crate::protocol::{Fault, Fields, KIND_BYTES_MAX, Kind, Message, Style, parse};
use crate::session::chunks::{Chunk, Gathering, Parts};
use crate::session::received::{OwnedMessage, Received};
use crate::session::{ClientId, Flags, SplitWrite, Subscription};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::sync::Arc;

pub(super) type Ops = SmallVec<[WriteOp; 1]>;

/// Finds places in a message's text.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) text: &'a str,
}

/// Length of a member of a large map, for a first guess at how many there are.
const FIELD_BYTES_GUESSED: usize = 32;
/// Up to so many names of a map are compared one by one; more go into a table.
const COMPARED_NAMES_MAX: usize = 8;

impl<'a> Places<'a> {
    fn at(self, span: &Span) -> &'a str {
        &self.text[span.start as usize..span.end as usize]
    }

    /// The place of a slice of the text.
    pub(super) fn of(self, part: &str) -> Span {
        let start = part.as_ptr() as usize - self.text.as_ptr() as usize;
        start as u32..(start + part.len()) as u32
    }

    pub(super) fn of_raw(self, part: Option<Raw<'_>>) -> Option<Span> {
        part.map(|part| self.of(part.text()))
    }

    /// The request's id and the id to acknowledge.
    pub(super) fn ids(self, fields: &Fields<'_>) -> (Option<Span>, Option<Span>) {
        (self.of_raw(fields.request_id()), self.of_raw(message_id_of(fields)))
    }

    /// A map of plain writes; of a name that occurs twice the last value counts.
    fn map(self, map: Raw<'a>) -> WriteOp {
        let mut fields: SmallVec<[(Span, Option<Span>); 2]> = SmallVec::new();
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (name, value) in map.members().into_iter().flatten() {
            let entry = (self.of(name.escaped()), Some(self.of(value.text())));
            let known = if fields.len() < COMPARED_NAMES_MAX {
                fields.iter().position(|(known, _)| self.at(known) == name.escaped())
            } else {
                if seen.is_empty() {
                    seen.reserve(map.text().len() / FIELD_BYTES_GUESSED);
                    seen.extend(fields.iter().enumerate().map(|(at, (known, _))| (self.at(known), at)));
                }
                seen.get(name.escaped()).copied()
            };
            match known {
                Some(at) => fields[at] = entry,
                None => {
                    if !seen.is_empty() {
                        seen.insert(name.escaped(), fields.len());
                    }
                    fields.push(entry);
                }
            }
        }
        WriteOp::Fields(fields)
    }

    /// A single field write.
    fn field(self, fields: &Fields<'_>, field: Raw<'_>) -> WriteOp {
        let name = field.text();
        let client = fields
            .client_id
            .filter(|client| client.is_string() && client.text() != "\"\"");
        let clock = fields
            .any_clock()
            .filter(|clock| clock.is_object() && !clock.is_empty());
        // Without both of them the write is a plain one, and nobody asks when it was made.
        let is_stamped = client.is_some() && clock.is_some();
        WriteOp::Field {
            name: self.of(&name[1..name.len() - 1]),
            value: self.of_raw(fields.value),
            client: self.of_raw(client),
            clock: self.of_raw(clock),
            timestamp: fields.timestamp.filter(|_| is_stamped).and_then(Raw::number),
        }
    }

    /// One element of a batch, by the first test that matches (protocol §5.7); `None`: ignored.
    fn element(self, element: Raw<'_>, fields: &Fields<'a>, index: u32) -> Option<Element<'a>> {
        let kind = fields.kind.and_then(|kind| kind.string_within(KIND_BYTES_MAX));
        let whole = self.of(element.text());
        match kind.as_deref() {
            Some("text-state") => {
                let state = fields
                    .state
                    .filter(|state| state.is_string() && state.text() != "\"\"")?;
                return Some(Element::Op(WriteOp::Text {
                    state: self.of(state.text()),
                    timestamp: fields.timestamp.and_then(Raw::number),
                }));
            }
            Some("text") => return Some(Element::Op(WriteOp::LegacyText { element: whole })),
            Some("richtext") => return Some(Element::Op(WriteOp::RichText { element: whole })),
            Some("counter") => return Some(Element::Op(WriteOp::Counter { element: whole, index })),
            _ => {}
        }
        let operation = fields.operation.and_then(|name| name.string_within(KIND_BYTES_MAX));
        let is_set = matches!(operation.as_deref(), Some("add" | "remove" | "clear"));
        if is_set && fields.field.is_none() {
            return Some(Element::Op(WriteOp::Set { element: whole }));
        }
        if let Some(map) = [fields.changes, fields.delta]
            .into_iter()
            .flatten()
            .find(|map| map.is_object())
        {
            return Some(Element::Map(map));
        }
        fields
            .field
            .filter(|field| field.is_string())
            .map(|field| Element::Op(self.field(fields, field)))
    }
}

/// What an element of a batch is.
enum Element<'a> {
    Op(WriteOp),
    /// A map of plain writes, which has not been read.
    Map(Raw<'a>),
}

/// What a write message has in common for all its documents; the ids as places in the text that goes with it.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) id: Option<Span>,
    pub(super) message_id: Option<Span>,
    pub(super) is_batch: bool,
    pub(super) count: u32,
    pub(super) ticket: Option<u64>,
}

/// Elements of a batch, sorted by document.
pub(super) struct Sorted {
    document: DocumentId,
    /// For the batch's own document.
    pub(super) ops: Ops,
    /// For documents that elements name.
    pub(super) elsewhere: Vec<(DocumentId, Ops)>,
    positions: HashMap<DocumentId, usize>,
    /// Elements so far, ignored ones included.
    pub(super) count: u32,
    /// Elements that name a document which may not be written.
    pub(super) refused: usize,
    /// A longer map is not read but left in `long_map`.
    pub(super) map_bytes_max: usize,
    /// The map that was too long, and the document it is for. No further element may follow before it has been taken out.
    pub(super) long_map: Option<(DocumentId, Span)>,
}

impl Sorted {
    /// Nothing yet; `count` and `refused` go on from earlier elements of the batch.
    pub(super) fn new(document: DocumentId, count: u32, refused: usize) -> Sorted {
        Sorted {
            document,
            ops: Ops::new(),
            elsewhere: Vec::new(),
            positions: HashMap::new(),
            count,
            refused,
            map_bytes_max: usize::MAX,
            long_map: None,
        }
    }
}

impl Sorted {
    /// Whether a home takes several turns for any of them.
    pub(super) fn is_long(&self, text_bytes_min: usize) -> bool {
        let elsewhere = self.elsewhere.iter().flat_map(|(_, ops)| ops);
        self.ops.iter().chain(elsewhere).any(|op| is_long(op, text_bytes_min))
    }
}

impl Shard {
    /// `delta`: exactly one of three bodies.
    pub(super) fn delta_message(
        &mut self,
        slot: Slot,
        session: SessionRef,
        document: DocumentId,
        message: &Message<'_>,
        received: Received<'_>,
    ) {
        let places = Places {
            text: message.body.text(),
        };
        let fields = &message.fields;
        let filled = |map: &Raw<'_>| map.is_object() && !map.is_empty();
        let field = fields.field.filter(|field| field.is_string());
        let changes = || fields.changes.filter(|_| field.is_none());
        let map = fields.delta.filter(filled).or_else(|| changes().filter(filled));
        if let Some(map) = map.filter(|map| map.text().len() > MAP_STEP_BYTES) {
            return self.begin_long_map(slot, document, message, map, received);
        }
        let mut ops = Ops::new();
        if let Some(map) = map {
            ops.push(places.map(map));
        } else if let Some(field) = field {
            self.learn_writer(slot, fields);
            ops.push(places.field(fields, field));
        }
        let (id, message_id) = places.ids(fields);
        let mut common = Common {
            id,
            message_id,
            is_batch: false,
            count: 1,
            ticket: None,
        };
        let text = received.text_of(message.body);
        if ops.iter().any(|op| self.is_long(op)) {
            common.ticket = Some(self.begin_waiting(slot, document.clone(), text.clone(), &common, 1));
        }
        self.post_write(slot, session, document, text, ops, &common);
    }

    /// `delta_batch`: elements in order, each for the message's document or one it names itself.
    pub(super) fn batch_message(
        &mut self,
        slot: Slot,
        session: SessionRef,
        document: DocumentId,
        message: &Message<'_>,
        received: Received<'_>,
    ) {
        let places = Places {
            text: message.body.text(),
        };
        if message.body.text().len() > LONG_MESSAGE_BYTES {
            return self.begin_writing(slot, document, message, received);
        }
        let id = message.fields.request_id();
        let mut sorted = Sorted::new(document.clone(), 0, 0);
        for element in message.fields.deltas.and_then(Raw::elements).into_iter().flatten() {
            self.sort_element(slot, element, &Fields::read(element), places, id, &mut sorted);
        }
        let (place, message_id) = places.ids(&message.fields);
        let mut common = Common {
            id: place,
            message_id,
            is_batch: true,
            count: sorted.count,
            ticket: None,
        };
        let parts = sorted.elsewhere.len() + 1;
        let text = received.text_of(message.body);
        if sorted.is_long(self.context.merging.bytes_min) {
            common.ticket = Some(self.begin_waiting(slot, document.clone(), text.clone(), &common, parts));
        } else if parts > 1 {
            let ack = self.encode_ack(slot, &document, id, message_id_of(&message.fields), Some(sorted.count));
            common.ticket = Some(self.split_write(slot, parts, ack));
        }
        self.post_write(slot, session, document, text.clone(), sorted.ops, &common);
        for (document, ops) in sorted.elsewhere {
            self.post_write(slot, session, document, text.clone(), ops, &common);
        }
    }

    /// Puts an element of a batch to those of its document.
    pub(super) fn sort_element<'a>(
        &mut self,
        slot: Slot,
        element: Raw<'a>,
        fields: &Fields<'a>,
        places: Places<'a>,
        id: Option<Raw<'_>>,
        sorted: &mut Sorted,
    ) {
        let index = sorted.count;
        sorted.count += 1;
        self.learn_writer(slot, fields);
        let Some(found) = places.element(element, fields, index) else {
            self.metrics.elements_ignored += 1;
            return;
        };
        let other = named_document(fields).filter(|id| **id != *sorted.document && !id.is_empty());
        let other = match other {
            None => None,
            Some(_) => match self.writable_elsewhere(slot, fields, id, &mut sorted.refused) {
                None => return,
                writable => writable,
            },
        };
        let op = match found {
            Element::Op(op) => op,
            Element::Map(map) if map.text().len() > sorted.map_bytes_max => {
                let document = other.unwrap_or_else(|| sorted.document.clone());
                sorted.long_map = Some((document, places.of(map.text())));
                return;
            }
            Element::Map(map) => places.map(map),
        };
        let Some(other) = other else {
            return sorted.ops.push(op);
        };
        let elsewhere = &mut sorted.elsewhere;
        let position = *sorted.positions.entry(other.clone()).or_insert(elsewhere.len());
        if position == elsewhere.len() {
            elsewhere.push((other, Ops::new()));
        }
        elsewhere[position].1.push(op);
    }

    /// The other document an element names, if the session may write it; answers if not, unless enough such answers have
    /// been given to this batch.
    fn writable_elsewhere(
        &mut self,
        slot: Slot,
        fields: &Fields<'_>,
        id: Option<Raw<'_>>,
        refused: &mut usize,
    ) -> Option<DocumentId> {
        let identity = self.identity(slot);
        let other = self.document_of(slot, fields);
        if let Ok(other) = &other
            && identity.permissions.can_write(other)
        {
            return Some(other.clone());
        }
        *refused += 1;
        if *refused <= ELEMENT_ERRORS_MAX {
            let named = named_document(fields).unwrap_or_default();
            let shown: String = named.chars().take(256).collect();
            let details = Details {
                document: Some(&shown),
                ..Details::default()
            };
            self.send_fault(slot, id, &Fault::PERMISSION_DENIED, &details);
        }
        None
    }

    pub(super) fn post_write(
        &mut self,
        slot: Slot,
        session: SessionRef,
        document: DocumentId,
        text: ByteString,
        ops: Ops,
        common: &Common,
    ) {
        let Some(entry) = self.sessions.at(slot) else { return };
        let audience = self.audiences.find(&document);
        let home = audience.map_or_else(|| self.home(&document), |audience| self.audiences.at(audience).home);
        let held = audience.and_then(|audience| entry.subscription(audience));
        let listens = held.is_some_and(Subscription::hears_document);
        // A connection without room for one more subscription still writes; it only does not hear about the document.
        let subscribe = !listens && self.has_room(slot) && entry.identity.permissions.can_read(&document);
        let (address, client) = (entry.address, entry.client.as_ref().map(|client| client.id.clone()));
        if subscribe {
            self.count_pending(slot);
        }
        let write = Write {
            session,
            text,
            ops,
            subscribe,
            is_batch: common.is_batch,
            id: common.id.clone(),
            message_id: common.message_id.clone(),
            count: common.count,
            ticket: common.ticket,
            client,
            address,
            document,
            read_us: self.now.mono_us,
        };
        self.request_left(slot, write.text.len());
        self.post(home, Mail::Write(Box::new(write)));
    }

    /// Prepares the one acknowledgement of a batch that goes out in `remaining` parts.
    pub(super) fn split_write(&mut self, slot: Slot, remaining: usize, ack: Vec<u8>) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(session) = self.sessions.at_mut(slot) {
            session.extra().split_writes.push(SplitWrite {
                ticket,
                remaining,
                accepted: false,
                unstored: false,
                ack,
            });
        }
        ticket
    }

    /// Learns the client id of a connection from a stamped write (protocol §9.4).
    fn learn_writer(&mut self, slot: Slot, fields: &Fields<'_>) {
        let Some(client) = fields.client_id.filter(|client| client.is_string()) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        if !session.style.has(Style::DOC_ID) && !session.style.has(Style::JSON) {
            session.flags.set(Flags::SDK);
        }
        let clock = fields
            .any_clock()
            .filter(|clock| clock.is_object() && !clock.is_empty());
        let stamped = fields.field.is_some() && clock.is_some();
        if session.writer().is_none()
            && stamped
            && let Some(client) = client.string_within(CLIENT_ID_BYTES_MAX)
        {
            self.learn_client(slot, &client, true);
        }
    }

    /// Remembers the client id of a connection. `writes`: it writes under this id, which stays its own from then on and
    /// is told to the homes of its documents; otherwise it is only the name it gave.
    pub(super) fn learn_client(&mut self, slot: Slot, client_id: &str, writes: bool) {
        let known = self.sessions.at(slot).is_none_or(|session| session.writer().is_some());
        if known || client_id.is_empty() || client_id.len() > CLIENT_ID_BYTES_MAX {
            return;
        }
        self.unregister_client(slot);
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.client = Some(Arc::new(ClientId::new(client_id)));
        if writes {
            session.flags.set(Flags::WRITER);
        }
        if writes && session.flags.has(Flags::SDK) {
            let held = session.subscriptions.iter();
            let documents: Vec<DocumentId> = held
                .map(|held| self.audiences.at(held.audience).document.clone())
                .collect();
            for document in documents {
                let home = self.home(&document);
                self.post(
                    home,
                    Mail::Introduce {
                        document,
                        session: reference,
                    },
                );
            }
        }
        self.register_client(slot);
        self.note_session(slot);
    }

    /// `delta_batch_chunk`: collected until the message is whole, which is then handled like a received one.
    pub(super) fn chunk_message(&mut self, slot: Slot, message: &Message<'_>) -> Next {
        let id = message.fields.request_id();
        let Some(collected) = self.collect_chunk(slot, &message.fields) else {
            self.refuse(slot, id, &Fault::INVALID_CHUNK);
            return Next::Continue;
        };
        let Some(parts) = collected else {
            return Next::Continue;
        };
        let id: RequestId = id.map(|id| id.text().into());
        if parts.bytes() > LONG_MESSAGE_BYTES {
            self.begin_gathering(slot, parts, id);
            return Next::Continue;
        }
        let mut gathering = Gathering::begin(parts);
        gathering.step(usize::MAX);
        self.whole_message(slot, gathering.finish(), id)
    }

    /// What came in chunks, and was counted as these.
    pub(super) fn whole_message(&mut self, slot: Slot, bytes: Vec<u8>, id: RequestId) -> Next {
        let whole = OwnedMessage {
            bytes: Bytes::from(bytes),
            is_text: false,
            paid: true,
        };
        if whole.bytes.len() > self.bytes_max() {
            return self.handle(slot, whole.lend());
        }
        if whole.bytes.len() > LONG_MESSAGE_BYTES && self.begin_long(slot, whole.lend(), Some(id.clone())) {
            return Next::Continue;
        }
        let batch = parse(&whole.bytes, false).is_ok_and(|inner| inner.kind == Kind::DeltaBatch);
        if !batch {
            self.refuse(slot, id.as_deref().map(Raw::from_kept), &Fault::INVALID_CHUNK);
            return Next::Continue;
        }
        self.handle(slot, whole.lend())
    }

    /// `None`: the chunk is invalid. `Some(None)`: more are missing.
    fn collect_chunk(&mut self, slot: Slot, fields: &Fields<'_>) -> Option<Option<Parts>> {
        let now_us = self.now.mono_us;
        let bytes_max = usize::try_from(self.context.config.limits.frame_bytes_max).unwrap_or(usize::MAX);
        let set = fields.chunk_id?.string()?;
        let chunk = Chunk {
            set: &set,
            total: fields.total_chunks?.integer()?,
            index: fields.chunk_index?.integer()?,
            data: BASE64_STANDARD.decode(&*fields.data?.string()?).unwrap_or_default(),
        };
        let valid_data = !chunk.data.is_empty() || fields.data?.text() == "\"\"";
        let reference = self.sessions.reference(slot)?;
        let session = self.sessions.at_mut(slot)?;
        let chunks = &mut session.extra().chunks;
        let chunk = Chunk {
            total: if valid_data { chunk.total } else { 0 },
            ..chunk
        };
        let whole = chunks.add(chunk, now_us, bytes_max).ok();
        let open = !chunks.is_empty();
        session.trim();
        if open && !session.flags.set(Flags::CHUNKS_WATCHED) {
            self.deadlines.at(now_us + CHUNK_SET_IDLE_US, Due::Chunks(reference));
        }
        whole
    }

    /// Discards chunk sets that nobody completed.
    pub(super) fn chunks_due(&mut self, reference: SessionRef) {
        let now_us = self.now.mono_us;
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.flags.clear(Flags::CHUNKS_WATCHED);
        let Some(extra) = session.extra.as_mut() else { return };
        extra.chunks.expire(now_us);
        let open = !extra.chunks.is_empty();
        session.trim();
        if open {
            session.flags.set(Flags::CHUNKS_WATCHED);
            self.deadlines.at(now_us + CHUNK_SET_IDLE_US, Due::Chunks(reference));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::validate;

    #[test]
    fn of_a_name_that_occurs_twice_the_last_value_counts() {
        for names in [1, 2, COMPARED_NAMES_MAX, COMPARED_NAMES_MAX + 1, 30] {
            let member = |at: usize| format!("\"n{}\":{at}", at % names);
            let text = format!("{{{}}}", (0..2 * names).map(member).collect::<Vec<_>>().join(","));
            let places = Places { text: &text };
            let WriteOp::Fields(fields) = places.map(validate(text.as_bytes()).unwrap()) else {
                panic!("a map is a map");
            };
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (places.at(name), places.at(value.as_ref().unwrap())))
                .collect();
            let expected: Vec<_> = (0..names)
                .map(|at| (format!("n{at}"), (names + at).to_string()))
                .collect();
            let expected: Vec<_> = expected.iter().map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!(fields, expected, "{names} names");
        }
    }
}
