//! Messages that take more than one turn, from the session's side: their JSON is checked in steps, and the elements of a
//! batch leave for their homes some in each turn, all under one acknowledgement.
//!
//! - One step per shard and turn, whichever connection it is for: many such messages take longer, not their turns.
//! - Nothing else of the connection is looked at meanwhile (`Shard::is_behind_others`, `Shard::resume`), so its requests
//!   are handled and answered in order.
//! - A connection that ends before its message has left loses the rest of it, as one that ends before it has arrived.

use super::Shard;
use super::connection::Next;
use super::inbound::to_usize;
use super::mail::{DocumentId, WriteOp};
use super::requests::message_id_of;
use super::writes::{Common, Places, Sorted};
use crate::ids::{SessionRef, Slot};
use crate::json::{LongValues, Raw};
use crate::limits::{
    BATCH_STEP_BYTES, BATCH_STEP_ELEMENTS, LONG_MESSAGE_STEP_BYTES, MAP_STEP_BYTES, OUTSTANDING_MAX,
    PARTIAL_BYTES_TOTAL_MAX,
};
use crate::protocol::{Fault, Fields, Kind, LongParse, Message};
use crate::session::long::{Long, MapReading, Reading, Writing};
use crate::session::{Flags, Stage};
use std::sync::Arc;

impl Shard {
    /// Takes a long message up, unless it is refused whatever stands in it. `paid` as for [`Shard::handle`]; `chunked` as
    /// in [`Reading`].
    pub(super) fn begin_long(
        &mut self,
        slot: Slot,
        bytes: &[u8],
        is_text: bool,
        paid: bool,
        chunked: Option<Option<Box<str>>>,
    ) -> bool {
        let limits = &self.context.config.limits;
        let bytes_max = to_usize(limits.message_bytes_max.max(limits.batch_bytes_max));
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
                bytes: bytes.into(),
                is_text,
                paid,
                chunked,
                parse: LongParse::begin(bytes, is_text),
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

    fn read_on(&mut self, slot: Slot, mut reading: Reading) {
        if !reading.parse.step(&reading.bytes, LONG_MESSAGE_STEP_BYTES) {
            self.keep_long(slot, Long::Reading(reading));
            return self.continue_long(slot);
        }
        let parsed = reading.parse.finish(&reading.bytes);
        if let Some(id) = &reading.chunked
            && !parsed.as_ref().is_ok_and(|message| message.kind == Kind::DeltaBatch)
        {
            self.refuse(slot, id.as_deref().map(Raw::from_kept), &Fault::INVALID_CHUNK);
        } else if let Next::Move(to) = self.handle_parsed(slot, parsed, &reading.bytes, reading.is_text, reading.paid) {
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
        if session.extra.as_ref().is_none_or(|extra| extra.long.is_none()) {
            self.resume(slot);
        }
    }

    /// A long batch that has been read: its elements are to leave.
    pub(super) fn begin_writing(&mut self, slot: Slot, document: DocumentId, message: &Message<'_>) {
        let deltas = message.fields.deltas.filter(|deltas| deltas.is_array());
        self.keep_writing(slot, document, &message.fields, deltas.map_or("", Raw::text));
        let body = Places {
            text: message.body.text(),
        };
        let Some(inside) = deltas.map(|deltas| body.of(deltas.text())) else {
            return;
        };
        let (from, to) = (inside.start as usize, inside.end as usize);
        let known = message
            .long_values
            .iter()
            .filter(|place| from < place.start && place.end < to);
        let extra = self.sessions.at_mut(slot).and_then(|session| session.extra.as_mut());
        if let Some(Long::Writing(writing)) = extra.and_then(|extra| extra.long.as_deref_mut()) {
            writing.long_values = known.map(|place| place.start - from..place.end - from).collect();
        }
    }

    /// A `delta` whose map is read in steps before it leaves.
    pub(super) fn begin_long_map(&mut self, slot: Slot, document: DocumentId, fields: &Fields<'_>, map: Raw<'_>) {
        self.keep_writing(slot, document.clone(), fields, map.text());
        self.pause(slot);
        let extra = self.sessions.at_mut(slot).and_then(|session| session.extra.as_mut());
        if let Some(Long::Writing(writing)) = extra.and_then(|extra| extra.long.as_deref_mut()) {
            (writing.is_batch, writing.count, writing.began) = (false, 1, true);
            writing.map = Some(Box::new(MapReading::begin(document, 0..map.text().len())));
        }
    }

    /// A write for which its homes take several turns: what comes behind it waits for the answer. `parts`: so many homes
    /// are asked; `count`: the elements of a batch. Returns the ticket to send along.
    pub(super) fn begin_waiting(
        &mut self,
        slot: Slot,
        document: DocumentId,
        fields: &Fields<'_>,
        parts: usize,
        count: Option<u32>,
    ) -> u64 {
        let ticket = self.keep_writing(slot, document, fields, "");
        self.pause(slot);
        let extra = self.sessions.at_mut(slot).and_then(|session| session.extra.as_mut());
        let Some(extra) = extra else { return ticket };
        if let Some(Long::Writing(writing)) = extra.long.as_deref_mut() {
            (writing.is_batch, writing.count) = (count.is_some(), count.unwrap_or(1));
            (writing.began, writing.waits) = (true, true);
        }
        if let Some(split) = extra.split_writes.iter_mut().find(|split| split.ticket == ticket) {
            split.remaining += parts;
        }
        ticket
    }

    fn keep_writing(&mut self, slot: Slot, document: DocumentId, fields: &Fields<'_>, deltas: &str) -> u64 {
        let ticket = self.split_write(slot, 1, Vec::new());
        let owned = |raw: Option<Raw<'_>>| raw.map(|raw| raw.text().into());
        let writing = Writing {
            document,
            deltas: deltas.into(),
            long_values: Vec::new(),
            position: 0,
            id: owned(fields.request_id()),
            message_id: owned(message_id_of(fields)),
            is_batch: true,
            count: 0,
            refused: 0,
            map: None,
            began: false,
            ticket,
            waits: false,
        };
        self.keep_long(slot, Long::Writing(writing));
        self.continue_long(slot);
        ticket
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
        let array = (!writing.deltas.is_empty()).then(|| Raw::from_kept(&writing.deltas));
        let id = writing.id.as_deref().map(Raw::from_kept);
        let mut sorted = Sorted::new(writing.document.clone(), writing.count, writing.refused);
        sorted.map_bytes_max = MAP_STEP_BYTES;
        let (mut text, mut done) = (String::new(), true);
        if let Some(mut elements) = array.and_then(|array| array.elements_from(start)) {
            let places = Places {
                text: &writing.deltas[start..],
            };
            let (mut taken, mut end) = (0, start);
            done = loop {
                if taken == BATCH_STEP_ELEMENTS || elements.position() - start >= BATCH_STEP_BYTES {
                    break false;
                }
                end = elements.position();
                let long = |base| LongValues {
                    places: &writing.long_values,
                    base,
                };
                let Some(element) = elements.next_over(long(0)) else {
                    break true;
                };
                taken += 1;
                let fields = Fields::read_over(element, long(elements.position() - element.text().len()));
                self.sort_element(slot, element, &fields, places, id, &mut sorted);
                if let Some((document, span)) = sorted.long_map.take() {
                    let place = start + span.start as usize..start + span.end as usize;
                    writing.map = Some(Box::new(MapReading::begin(document, place)));
                    break false;
                }
                end = elements.position();
            };
            writing.position = elements.position();
            let read = &writing.deltas[start..end];
            text.reserve(read.len() + 128);
            text.push_str(read);
        }
        (writing.count, writing.refused) = (sorted.count, sorted.refused);
        writing.waits = sorted.is_long(self.context.merging.bytes_min);
        let common = common_of(writing, &mut text);
        let text: Arc<str> = text.into();
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
        let Some(fields) = reading.step(&writing.deltas) else {
            writing.map = Some(reading);
            return false;
        };
        let map = &writing.deltas[reading.place.clone()];
        let mut text = String::with_capacity(map.len() + 128);
        text.push_str(map);
        if !writing.is_batch {
            writing.deltas = Box::default();
        }
        let common = common_of(writing, &mut text);
        let op = WriteOp::Fields(fields.into());
        writing.waits = self.is_long(&op);
        writing.began |= reading.document == writing.document;
        let ops = [op].into_iter().collect();
        self.send_part(slot, session, reading.document, &text.into(), ops, &common);
        !writing.is_batch && !writing.waits
    }

    fn send_part(
        &mut self,
        slot: Slot,
        session: SessionRef,
        document: DocumentId,
        text: &Arc<str>,
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
        let raw = |text: &'_ Option<Box<str>>| text.as_deref().map(Raw::from_kept).map(Raw::text).map(str::to_owned);
        let (id, message_id) = (raw(&writing.id), raw(&writing.message_id));
        let ack = self.encode_ack(
            slot,
            &writing.document,
            id.as_deref().map(Raw::from_kept),
            message_id.as_deref().map(Raw::from_kept),
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

/// What the parts of a write have in common; the ids are put behind `text`.
fn common_of(writing: &Writing, text: &mut String) -> Common {
    let mut append = |part: &Option<Box<str>>| {
        let part = part.as_deref()?;
        let start = text.len() as u32;
        text.push_str(part);
        Some(start..text.len() as u32)
    };
    Common {
        id: append(&writing.id),
        message_id: append(&writing.message_id),
        is_batch: writing.is_batch,
        count: writing.count,
        ticket: Some(writing.ticket),
    }
}
