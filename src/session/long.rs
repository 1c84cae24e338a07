//! A message of one connection that takes more than one turn (docs/architecture.md, "The hot path"). While it lasts
//! nothing else of the connection is looked at, so order is kept; others have their turns in between.

use super::chunks::Gathering;
use super::received::OwnedMessage;
use crate::document::index::Index;
use crate::json::Raw;
use crate::limits::{MAP_STEP_BYTES, MAP_STEP_MEMBERS};
use crate::protocol::LongParse;
use crate::shard::mail::{DocumentId, RequestId, Span};
use bytestring::ByteString;
use hashbrown::DefaultHashBuilder;
use std::hash::BuildHasher;
use std::ops::Range;

/// Where such a message is.
#[derive(Debug)]
pub enum Long {
    /// It came in chunks, which are put together; then the request with this id asks for what stands in it.
    Gathering(Gathering, RequestId),
    /// Its JSON is being checked.
    Reading(Reading),
    /// Its elements leave for their homes.
    Writing(Writing),
}

impl Long {
    /// What it holds of the message.
    pub fn bytes(&self) -> usize {
        match self {
            Long::Gathering(gathering, _) => gathering.bytes(),
            Long::Reading(reading) => reading.message.bytes.len(),
            Long::Writing(writing) => writing.deltas.len(),
        }
    }
}

/// A message whose JSON is being checked.
#[derive(Debug)]
pub struct Reading {
    /// The message.
    pub message: OwnedMessage,
    /// It came in chunks: then it must be a batch, or the request with this id is refused.
    pub chunked: Option<RequestId>,
    /// How far it has been read.
    pub parse: LongParse,
}

/// A write whose elements leave for their homes.
#[derive(Debug)]
pub struct Writing {
    /// The document it is for.
    pub document: DocumentId,
    /// Its JSON text, which was validated.
    pub text: ByteString,
    /// Where the array of its elements, or its map, stands in the text; empty if there is nothing more to send.
    pub deltas: Range<usize>,
    /// Places of long values in `deltas`.
    pub long_values: Vec<Range<usize>>,
    /// How far `deltas` have been read.
    pub position: usize,
    /// Where the request's id stands in the text.
    pub id: Option<Span>,
    /// Where the id to acknowledge stands in the text.
    pub message_id: Option<Span>,
    /// A `delta_batch` rather than a `delta`.
    pub is_batch: bool,
    /// Elements so far.
    pub count: u32,
    /// Elements refused so far because of the document they name.
    pub refused: usize,
    /// The map that is being read.
    pub map: Option<Box<MapReading>>,
    /// Something has been sent for the message's own document.
    pub began: bool,
    /// Its [`super::SplitWrite`].
    pub ticket: u64,
    /// What has been sent must be answered before anything else is done, because its home takes several turns for it.
    pub waits: bool,
}

/// A long map whose members are being read; of a name that occurs twice the last value counts.
#[derive(Debug)]
pub struct MapReading {
    /// The document it is for.
    pub document: DocumentId,
    /// Where it stands in the message's text.
    pub place: Range<usize>,
    /// From where in the text the places of its names and values count.
    pub origin: usize,
    position: usize,
    fields: Vec<(Span, Option<Span>)>,
    index: Index,
    hasher: DefaultHashBuilder,
}

impl MapReading {
    /// Nothing has been read yet.
    pub fn begin(document: DocumentId, place: Range<usize>, origin: usize) -> MapReading {
        MapReading {
            document,
            place,
            origin,
            position: 0,
            fields: Vec::new(),
            index: Index::default(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Reads some members; `text` is [`Writing::text`]. Once nothing is left, gives the places of names and values.
    pub fn step(&mut self, text: &str) -> Option<Vec<(Span, Option<Span>)>> {
        let (map, text) = (&text[self.place.clone()], &text[self.origin..]);
        let span = |part: &str| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            start as u32..(start + part.len()) as u32
        };
        let at = |span: &Span| &text[span.start as usize..span.end as usize];
        let Some(mut members) = Raw::from_kept(map).members_from(self.position) else {
            return Some(Vec::new());
        };
        let (hasher, from) = (&self.hasher, self.position);
        for _ in 0..MAP_STEP_MEMBERS {
            if members.position() - from >= MAP_STEP_BYTES {
                break;
            }
            let Some((name, value)) = members.next() else {
                return Some(std::mem::take(&mut self.fields));
            };
            let (hash, fields) = (hasher.hash_one(name.escaped()), &mut self.fields);
            let known = self
                .index
                .find(hash, |known| at(&fields[known as usize].0) == name.escaped());
            match known {
                Some(known) => fields[known as usize].1 = Some(span(value.text())),
                None => {
                    fields.push((span(name.escaped()), Some(span(value.text()))));
                    let hash_of = |known: u32| hasher.hash_one(at(&fields[known as usize].0));
                    self.index.insert(hash, fields.len() as u32 - 1, hash_of);
                }
            }
        }
        self.position = members.position();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::validate;

    #[test]
    fn of_a_name_that_occurs_twice_the_last_value_counts() {
        // Under Miri, some hundred times slower, thousands of names take too long.
        let many: &[usize] = if cfg!(miri) {
            &[]
        } else {
            &[MAP_STEP_MEMBERS - 1, 2 * MAP_STEP_MEMBERS]
        };
        for &names in [1, 7].iter().chain(many) {
            let member = |at: usize| format!("\"n{}\":{at}", at % names);
            let map = format!("{{{}}}", (0..2 * names).map(member).collect::<Vec<_>>().join(","));
            validate(map.as_bytes()).expect("an object");
            let deltas = format!("[{map}]");
            let mut reading = MapReading::begin("d".into(), 1..1 + map.len(), 1);
            let mut steps = 1;
            let fields = loop {
                if let Some(fields) = reading.step(&deltas) {
                    break fields;
                }
                steps += 1;
                assert!(steps < 100, "no end in sight");
            };
            assert!(steps > 2 * names / MAP_STEP_MEMBERS, "{names} names in {steps} steps");
            let at = |span: &Span| &map[span.start as usize..span.end as usize];
            assert_eq!(fields.len(), names);
            for (number, (name, value)) in fields.iter().enumerate() {
                assert_eq!(at(name), format!("n{number}"));
                assert_eq!(at(value.as_ref().unwrap()), (names + number).to_string());
            }
        }
    }
}
