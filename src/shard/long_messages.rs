//! Messages that take more than one turn, from the session's side: their JSON is checked in steps, and the elements of a
//! batch leave for their homes some in each turn, all under one acknowledgement.
//!
//! - One step per shard and turn, whichever connection it is for: many such messages take longer, not their turns.
//! - Nothing else of the connection is looked at meanwhile (`Shard::is_behind_others`, `Shard::resume`), so its requests
//!   are handled and answered in order.
//! - A connection that ends before its message has left loses the rest of it, as one that ends before it has arrived.

use super::Shard;
use super::connection::Next;
use super::mail::{DocumentId, RequestId, Span, WriteOp};
use super::writes::{Common, Places, Sorted};
use crate::ids::{SessionRef, Slot};
use crate::json::{LongValues, Raw};
use crate::limits::{
    BATCH_STEP_BYTES, BATCH_STEP_ELEMENTS, DEFERRED_THROTTLED_BYTES_MAX, LONG_MESSAGE_STEP_BYTES, MAP_STEP_BYTES,
    OUTSTANDING_MAX, PARTIAL_BYTES_TOTAL_MAX,
};
use crate::protocol::{Fault, Fields, Kind, LongParse, Message};
use crate::session::chunks::{Gathering, Parts};
use crate::session::long::{Long, MapReading, Reading, Writing};
use crate::session::received::Received;
use crate::session::{Extra, Flags, Stage};
use bytestring::ByteString;

impl Shard {
    /// Takes a long message up, unless it is refused whatever stands in it. `chunked` as in [`Reading`].
    pub(super) fn begin_long(&mut self, slot: Slot, received: Received<'_>, chunked: Option<RequestId>) -> bool {
        let bytes = received.bytes();
        let bytes_max = self.bytes_max();
        let Some(session) = self.sessions.at_mut(slot) else {
            return false;
        };
        if bytes.len() > bytes_max || session.stage != Stage::Open || !session.flags.has(Flags::AUTHENTICATED) {
            return false;
        }
        self.pause(slot);
        self.keep_long(
            slot,
            Long::Reading(Reading {
                message: received.keep(),
                chunked,
                parse: LongParse::begin(bytes, received.is_text),
            }),
        );
        self.continue_long(slot);
        true
    }

    /// Lists a connection whose long message can go on.
    pub(super) fn continue_long(&mut self, slot: Slot) {
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let has_long = self
            .sessions
            .at(slot)
            .and_then(|session| session.extra.as_ref())
            .is_some_and(|extra| extra.long.is_some());
        if has_long && !self.long.contains(&reference) {
            self.long.push_back(reference);
        }
    }

    /// The steps of one turn.
    pub(super) fn run_long(&mut self) {
        self.run_long_write();
        let Some(reference) = self.long.pop_front() else {
            return;
        };
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(long) = session.extra.as_mut().and_then(|extra| extra.long.take()) else {
            return;
        };
        session.trim();
        let is_open = session.stage == Stage::Open;
        self.context.partial_bytes_changed(long.bytes(), 0);
        if !is_open {
            return;
        }
        match *long {
            Long::Gathering(gathering, id) => self.gather_on(slot, gathering, id),
            Long::Reading(reading) => self.read_on(slot, reading),
            Long::Writing(writing) => self.write_on(slot, reference, writing),
        }
        self.deliver_local();
    }

    /// Keeps what is left of a message. It counts as partly received, as it did while it came in.
    fn keep_long(&mut self, slot: Slot, long: Long) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        self.context.partial_bytes_changed(0, long.bytes());
        session.extra().long = Some(Box::new(long));
        if self.context.partial_bytes() > PARTIAL_BYTES_TOTAL_MAX {
            self.close(slot, 1009, "Message too large");
        }
    }

    /// All chunks of a long message are here.
    pub(super) fn begin_gathering(&mut self, slot: Slot, parts: Parts, id: RequestId) {
        self.pause(slot);
        self.keep_long(slot, Long::Gathering(Gathering::begin(parts), id));
        self.continue_long(slot);
    }

    fn gather_on(&mut self, slot: Slot, mut gathering: Gathering, id: RequestId) {
        if !gathering.step(LONG_MESSAGE_STEP_BYTES) {
            self.keep_long(slot, Long::Gathering(gathering, id));
            return self.continue_long(slot);
        }
        if let Next::Move(to) = self.whole_message(slot, gathering.finish(), id) {
            return self.move_connection(slot, to);
        }
        self.deliver_local();
        self.after_long(slot);
    }

    fn read_on(&mut self, slot: Slot, mut reading: Reading) {
        if !reading.parse.step(&reading.message.bytes, LONG_MESSAGE_STEP_BYTES) {
            self.keep_long(slot, Long::Reading(reading));
            return self.continue_long(slot);
        }
        let parsed = reading.parse.finish(&reading.message.bytes);
        if let Some(id) = &reading.chunked
            && !parsed.as_ref().is_ok_and(|message| message.kind == Kind::DeltaBatch)
        {
            self.refuse(slot, id.as_deref().map(Raw::from_kept), &Fault::INVALID_CHUNK);
        } else if let Next::Move(to) = self.handle_parsed(slot, parsed, reading.message.lend()) {
            return self.move_connection(slot, to);
        }
        self.deliver_local();
        self.after_long(slot);
    }

    /// What waited behind a long message goes on, unless that is not over.
    fn after_long(&mut self, slot: Slot) {
        if let Next::Move(to) = self.run_deferred(slot) {
            return self.move_connection(slot, to);
        }
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.trim();
        // What waits for its tokens is read on by whoever hands them out.
        let may_read = |extra: &Extra| extra.long.is_none() && extra.deferred.bytes() <= DEFERRED_THROTTLED_BYTES_MAX;
        if session.extra.as_deref().is_none_or(may_read) {
            self.resume(slot);
        }
    }

    /// A long batch that has been read: its elements are to leave.
    pub(super) fn begin_writing(
        &mut self,
        slot: Slot,
        document: DocumentId,
        message: &Message<'_>,
        received: Received<'_>,
    ) {
        let body = Places {
            text: message.body.text(),
        };
        let deltas = message.fields.deltas.filter(|deltas| deltas.is_array());
        let inside = body.of_raw(deltas).unwrap_or_default();
        let (from, to) = (inside.start as usize, inside.end as usize);
        let known = message
            .long_values
            .iter()
            .filter(|place| from < place.start && place.end < to);
        let (id, message_id) = body.ids(&message.fields);
        let writing = Writing {
            deltas: from..to,
            long_values: known.map(|place| place.start - from..place.end - from).collect(),
            ..self.writing(slot, document, received.text_of(message.body), id, message_id)
        };
        self.keep_writing(slot, writing);
    }

    /// A `delta` whose map is read in steps before it leaves.
    pub(super) fn begin_long_map(
        &mut self,
        slot: Slot,
        document: DocumentId,
        message: &Message<'_>,
        map: Raw<'_>,
        received: Received<'_>,
    ) {
        let body = Places {
            text: message.body.text(),
        };
        let inside = body.of(map.text());
        let place = inside.start as usize..inside.end as usize;
        let (id, message_id) = body.ids(&message.fields);
        let writing = Writing {
            deltas: place.clone(),
            is_batch: false,
            count: 1,
            began: true,
            map: Some(Box::new(MapReading::begin(document.clone(), place, 0))),
            ..self.writing(slot, document, received.text_of(message.body), id, message_id)
        };
        self.keep_writing(slot, writing);
        self.pause(slot);
    }

    /// A write for which its homes take several turns: what comes behind it waits for the answer. `text` and `common` are
    /// what is sent to so many homes as there are `parts`. Returns the ticket to send along.
    pub(super) fn begin_waiting(
        &mut self,
        slot: Slot,
        document: DocumentId,
        text: ByteString,
        common: &Common,
        parts: usize,
    ) -> u64 {
        let writing = Writing {
            is_batch: common.is_batch,
            count: common.count,
            began: true,
            waits: true,
            ..self.writing(slot, document, text, common.id.clone(), common.message_id.clone())
        };
        let ticket = writing.ticket;
        self.keep_writing(slot, writing);
        self.pause(slot);
        let extra = self.sessions.at_mut(slot).and_then(|session| session.extra.as_mut());
        let mut splits = extra.into_iter().flat_map(|extra| &mut extra.split_writes);
        if let Some(split) = splits.find(|split| split.ticket == ticket) {
            split.remaining += parts;
        }
        ticket
    }

    /// A batch of which nothing has been read or sent, under a ticket of its own.
    fn writing(
        &mut self,
        slot: Slot,
        document: DocumentId,
        text: ByteString,
        id: Option<Span>,
        message_id: Option<Span>,
    ) -> Writing {
        Writing {
            document,
            text,
            deltas: 0..0,
            long_values: Vec::new(),
            position: 0,
            id,
            message_id,
            is_batch: true,
            count: 0,
            refused: 0,
            map: None,
            began: false,
            ticket: self.split_write(slot, 1, Vec::new()),
            waits: false,
        }
    }

    fn keep_writing(&mut self, slot: Slot, writing: Writing) {
        self.keep_long(slot, Long::Writing(writing));
        self.continue_long(slot);
    }

    fn write_on(&mut self, slot: Slot, session: SessionRef, mut writing: Writing) {
        let Some(entry) = self.sessions.at(slot) else { return };
        let splits = entry.extra.as_ref().map(|extra| &extra.split_writes);
        let split = splits.and_then(|splits| splits.iter().find(|split| split.ticket == writing.ticket));
        let unanswered = split.is_some_and(|split| split.remaining > 1);
        // Whoever answers lists the connection again.
        if entry.outstanding >= OUTSTANDING_MAX || (writing.waits && unanswered) {
            return self.keep_long(slot, Long::Writing(writing));
        }
        writing.waits = false;
        if self.send_elements(slot, session, &mut writing) {
            self.finish_writing(slot, writing);
            self.deliver_local();
            return self.after_long(slot);
        }
        self.keep_long(slot, Long::Writing(writing));
        self.continue_long(slot);
    }

    /// Sends the next elements to their homes; returns whether none are left.
    fn send_elements(&mut self, slot: Slot, session: SessionRef, writing: &mut Writing) -> bool {
        if writing.map.is_some() {
            return self.send_map(slot, session, writing);
        }
        let start = writing.position.max(1);
        let deltas = &writing.text[writing.deltas.clone()];
        let array = (!deltas.is_empty()).then(|| Raw::from_kept(deltas));
        let id = writing.id.as_ref().map(|id| at(&writing.text, id));
        let mut sorted = Sorted::new(writing.document.clone(), writing.count, writing.refused);
        sorted.map_bytes_max = MAP_STEP_BYTES;
        let (mut text, mut shared, mut done) = (String::new(), false, true);
        if let Some(mut elements) = array.and_then(|array| array.elements_from(start)) {
            let (mut taken, mut end, mut next) = (0, start, start);
            done = loop {
                if taken == BATCH_STEP_ELEMENTS || shared || next - start >= BATCH_STEP_BYTES {
                    break false;
                }
                end = next;
                let long = |base| LongValues {
                    places: &writing.long_values,
                    base,
                };
                let Some(element) = elements.next_over(long(0)) else {
                    break true;
                };
                let element_bytes = element.text().len();
                // What is to be shared goes alone.
                if taken > 0 && element_bytes > BATCH_STEP_BYTES {
                    break false;
                }
                next = elements.position();
                taken += 1;
                shared = is_shared(element_bytes, &writing.text);
                let origin = if shared { 0 } else { writing.deltas.start + start };
                let places = Places {
                    text: &writing.text[origin..],
                };
                let fields = Fields::read_over(element, long(next - element_bytes));
                self.sort_element(slot, element, &fields, places, id, &mut sorted);
                if let Some((document, span)) = sorted.long_map.take() {
                    let place = origin + span.start as usize..origin + span.end as usize;
                    let origin = if shared { 0 } else { place.start };
                    writing.map = Some(Box::new(MapReading::begin(document, place, origin)));
                    break false;
                }
                end = next;
            };
            writing.position = next;
            if !shared {
                let read = &deltas[start..end];
                text.reserve(read.len() + 128);
                text.push_str(read);
            }
        }
        (writing.count, writing.refused) = (sorted.count, sorted.refused);
        writing.waits = sorted.is_long(self.context.merging.bytes_min);
        let (text, common) = parcel(writing, shared, text);
        // A batch of nothing is a write all the same: it subscribes its author and is acknowledged.
        let own = !sorted.ops.is_empty() || (done && !writing.began);
        if own {
            writing.began = true;
            self.send_part(slot, session, writing.document.clone(), &text, sorted.ops, &common);
        }
        for (document, ops) in sorted.elsewhere {
            self.send_part(slot, session, document, &text, ops, &common);
        }
        done && !writing.waits
    }

    /// Reads on in a long map, and sends it to its home once it has been read; returns whether nothing is left.
    fn send_map(&mut self, slot: Slot, session: SessionRef, writing: &mut Writing) -> bool {
        let Some(mut reading) = writing.map.take() else {
            return false;
        };
        let Some(fields) = reading.step(&writing.text) else {
            writing.map = Some(reading);
            return false;
        };
        let (mut text, shared) = (String::new(), reading.origin == 0);
        if !shared {
            let map = &writing.text[reading.place];
            text.reserve(map.len() + 128);
            text.push_str(map);
        }
        let (text, common) = parcel(writing, shared, text);
        if !writing.is_batch {
            writing.deltas = 0..0;
        }
        let op = WriteOp::Fields(fields.into());
        writing.waits = self.is_long(&op);
        writing.began |= reading.document == writing.document;
        let ops = [op].into_iter().collect();
        self.send_part(slot, session, reading.document, &text, ops, &common);
        !writing.is_batch && !writing.waits
    }

    fn send_part(
        &mut self,
        slot: Slot,
        session: SessionRef,
        document: DocumentId,
        text: &ByteString,
        ops: super::writes::Ops,
        common: &Common,
    ) {
        let extra = self.sessions.at_mut(slot).and_then(|session| session.extra.as_mut());
        let splits = extra.map(|extra| &mut extra.split_writes);
        let split = splits.and_then(|splits| splits.iter_mut().find(|split| Some(split.ticket) == common.ticket));
        if let Some(split) = split {
            split.remaining += 1;
        }
        self.post_write(slot, session, document, text.clone(), ops, common);
    }

    /// Nothing more follows: the acknowledgement leaves when all parts have been answered.
    fn finish_writing(&mut self, slot: Slot, writing: Writing) {
        let raw = |place: &Option<Span>| place.as_ref().map(|place| at(&writing.text, place));
        let ack = self.encode_ack(
            slot,
            &writing.document,
            raw(&writing.id),
            raw(&writing.message_id),
            writing.is_batch.then_some(writing.count),
        );
        let extra = self.sessions.at_mut(slot).and_then(|session| session.extra.as_mut());
        let splits = extra.map(|extra| &mut extra.split_writes);
        let split = splits.and_then(|splits| splits.iter_mut().find(|split| split.ticket == writing.ticket));
        if let Some(split) = split {
            split.ack = ack;
        }
        self.part_wrote(slot, writing.ticket, false, false);
    }
}

/// Whether a part of a message, of so many bytes, is sent with the whole text, because copying it would take long. It then
/// keeps alive at most three times as much as it needs.
fn is_shared(part_bytes: usize, text: &str) -> bool {
    part_bytes > BATCH_STEP_BYTES && part_bytes >= text.len() / 4
}

/// The value at a place.
fn at<'a>(text: &'a str, place: &Span) -> Raw<'a> {
    Raw::from_kept(&text[place.start as usize..place.end as usize])
}

/// A part of a message as it is sent, and what all parts have in common: the message's whole text, or only that of the part
/// with the ids behind it.
fn parcel(writing: &Writing, shared: bool, mut part: String) -> (ByteString, Common) {
    let mut append = |place: &Option<Span>| {
        let id = at(&writing.text, place.as_ref()?).text();
        let start = part.len() as u32;
        part.push_str(id);
        Some(start..part.len() as u32)
    };
    let (id, message_id) = match shared {
        true => (writing.id.clone(), writing.message_id.clone()),
        false => (append(&writing.id), append(&writing.message_id)),
    };
    let common = Common {
        id,
        message_id,
        is_batch: writing.is_batch,
        count: writing.count,
        ticket: Some(writing.ticket),
    };
    match shared {
        true => (writing.text.clone(), common),
        false => (part.into(), common),
    }
}
