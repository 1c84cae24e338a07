//! One server message to the bytes of one WebSocket frame.
//!
//! A message is a WebSocket header, in binary encoding the 13-byte header, and a JSON object. The object is written
//! member by member into a scratch buffer; [`Encoder::finish`] puts the headers before it. Large parts that many
//! connections share (a document's state, a field's value) are not copied into the scratch: they go between
//! [`Encoder::finish_head`] and [`Encoder::tail`] as shared bytes.

use super::Encoding;
use super::envelope::HEADER_BYTES;
use super::kind::{BATCH_CODE_GO, Kind};
use crate::json::{Raw, write_string, write_u64};
use crate::websocket::deflate::{DEFLATED_BYTES_MIN, MESSAGE_END, store, stored_bytes};
use crate::websocket::{Deflate, Deflater, Opcode, deflated_frame_header, frame_header};
use bytes::Bytes;
use std::ops::Range;

/// Everything about a connection that changes how a message to it is written. Connections with equal styles can share
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Style(u8);

impl Style {
    /// JSON text frames instead of binary frames.
    pub const JSON: Style = Style(1);
    /// `docId` beside `documentId`, and field changes as one map.
    pub const DOC_ID: Style = Style(2);
    /// `type` and `timestamp` inside binary payloads too.
    pub const DESCRIBED: Style = Style(4);
    /// `delta` and `vectorClock` beside `field`, `value` and `clock` (C# clients in JSON).
    pub const VECTOR_CLOCK: Style = Style(8);
    /// Batches under code 0x22.
    pub const GO_BATCH: Style = Style(16);
    /// How many different styles there are, compression aside.
    pub const COUNT: usize = 32;
    /// Large messages are compressed (permessage-deflate was negotiated).
    pub const DEFLATE: Style = Style(32);
    /// And within a small window.
    pub const NARROW: Style = Style(64);
    /// How many compressing styles there are; their indexes follow those of the others.
    pub const DEFLATING_COUNT: usize = 96;

    /// The style with `other` added.
    #[must_use]
    pub fn with(self, other: Style) -> Style {
        Style(self.0 | other.0)
    }

    /// The style with `other` taken away.
    #[must_use]
    pub fn without(self, other: Style) -> Style {
        Style(self.0 & !other.0)
    }

    /// Whether all of `other` is set.
    pub fn has(self, other: Style) -> bool {
        self.0 & other.0 == other.0
    }

    fn opcode(self) -> Opcode {
        if self.has(Style::JSON) {
            Opcode::Text
        } else {
            Opcode::Binary
        }
    }

    /// Which encoding it stands for.
    pub fn encoding(self) -> Encoding {
        if self.has(Style::JSON) {
            Encoding::Json
        } else {
            Encoding::Binary
        }
    }

    /// The style with a negotiated compression.
    #[must_use]
    pub fn with_deflate(self, deflate: Deflate) -> Style {
        let style = self.with(Style::DEFLATE);
        if deflate.is_narrow() {
            style.with(Style::NARROW)
        } else {
            style
        }
    }

    /// For tables of [`Style::COUNT`] entries, and of [`Style::DEFLATING_COUNT`] more for compressing styles.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether the payload carries `type` and `timestamp` (protocol §2.6).
    fn carries_envelope(self) -> bool {
        self.0 & (Style::JSON.0 | Style::DESCRIBED.0 | Style::DOC_ID.0) != 0
    }
}

/// The `id` of a server message.
#[derive(Clone, Copy, Debug)]
pub enum MessageId<'a> {
    /// The id of the request it answers: a JSON string or number as received.
    Request(Raw<'a>),
    /// Made by the server: time, shard and a number that is never given twice.
    Made {
        /// Unix milliseconds.
        unix_ms: u64,
        /// The shard that made it.
        shard: u16,
        /// Counts within the shard.
        serial: u64,
    },
}

impl MessageId<'_> {
    /// Writes the id as a JSON string.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            MessageId::Request(raw) if raw.is_string() => out.extend_from_slice(raw.text().as_bytes()),
            MessageId::Request(raw) => write_string(out, raw.text()),
            MessageId::Made { unix_ms, shard, serial } => {
                out.push(b'"');
                write_u64(out, *unix_ms);
                out.push(b'-');
                write_u64(out, u64::from(*shard));
                out.push(b'-');
                write_u64(out, *serial);
                out.push(b'"');
            }
        }
    }
}

/// Writes messages; keeps its scratch buffer between them.
#[derive(Debug, Default)]
pub struct Encoder {
    body: Vec<u8>,
    /// Where the message's id stands in the body.
    id: Range<usize>,
    stamp: Stamp,
    /// From the first compressed message on.
    deflater: Option<Box<Deflater>>,
    /// What it made of the last one.
    deflated: Vec<u8>,
}

/// The last time stamp and its digits: many messages leave within one millisecond.
#[derive(Debug, Default)]
struct Stamp {
    unix_ms: u64,
    digits: Vec<u8>,
}

impl Stamp {
    fn digits(&mut self, unix_ms: u64) -> &[u8] {
        if self.unix_ms != unix_ms || self.digits.is_empty() {
            self.unix_ms = unix_ms;
            self.digits.clear();
            write_u64(&mut self.digits, unix_ms);
        }
        &self.digits
    }
}

/// A scratch buffer that had to grow beyond this is given back after the message.
const SCRATCH_BYTES_KEPT: usize = 64 * 1024;

impl Encoder {
    /// Starts a message: `{`, the envelope where the style has one, and the id.
    pub fn begin(&mut self, style: Style, kind: Kind, unix_ms: u64, id: MessageId<'_>) {
        self.body.clear();
        if self.body.capacity() > SCRATCH_BYTES_KEPT {
            self.body = Vec::new();
        }
        self.body.push(b'{');
        if style.carries_envelope() {
            self.body.extend_from_slice(b"\"type\":\"");
            self.body.extend_from_slice(kind.name().as_bytes());
            self.body.extend_from_slice(b"\",\"timestamp\":");
            self.body.extend_from_slice(self.stamp.digits(unix_ms));
            self.body.push(b',');
        }
        self.body.extend_from_slice(b"\"id\":");
        let start = self.body.len();
        id.write(&mut self.body);
        self.id = start..self.body.len();
    }

    /// A member with the message's own id as value: answers carry the id of their request twice (protocol §5).
    pub fn repeat_id(&mut self, name: &'static str) {
        let id = self.id.clone();
        self.member(name);
        self.body.extend_from_within(id);
    }

    /// Starts a member; its value is then written through the returned buffer.
    pub fn member(&mut self, name: &'static str) -> &mut Vec<u8> {
        self.body.extend_from_slice(b",\"");
        self.body.extend_from_slice(name.as_bytes());
        self.body.extend_from_slice(b"\":");
        &mut self.body
    }

    /// A member whose value is JSON already.
    pub fn raw(&mut self, name: &'static str, value: &[u8]) {
        self.member(name).extend_from_slice(value);
    }

    /// Raw bytes at this place, for what closes a nested value.
    pub fn append(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    /// A string member.
    pub fn string(&mut self, name: &'static str, value: &str) {
        write_string(self.member(name), value);
    }

    /// A number member.
    pub fn number(&mut self, name: &'static str, value: u64) {
        write_u64(self.member(name), value);
    }

    /// `documentId`, and `docId` for those who know that name. Ids need no escaping (protocol §5.2), but refused ones
    /// are echoed too.
    pub fn document(&mut self, style: Style, id: &str) {
        if style.has(Style::DOC_ID) {
            self.string("docId", id);
        }
        self.string("documentId", id);
    }

    /// `"clock":{"server":n}` and, for connections whose client id is known, that id with the same number.
    /// `client_key` is the id as an escaped JSON string.
    pub fn clock(&mut self, name: &'static str, stamp: u64, client_key: Option<&str>) {
        let body = self.member(name);
        body.extend_from_slice(b"{\"server\":");
        write_u64(body, stamp);
        if let Some(key) = client_key.filter(|key| *key != "\"server\"") {
            body.push(b',');
            body.extend_from_slice(key.as_bytes());
            body.push(b':');
            write_u64(body, stamp);
        }
        body.push(b'}');
    }

    /// Bytes written so far.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Ends the message and appends the complete frame to `out`.
    pub fn finish(&mut self, style: Style, kind: Kind, unix_ms: u64, out: &mut Vec<u8>) {
        self.body.push(b'}');
        if style.has(Style::DEFLATE) && self.body.len() >= DEFLATED_BYTES_MIN && self.deflate(style, kind, unix_ms, out)
        {
            return;
        }
        write_headers(style, kind, unix_ms, self.body.len(), out);
        out.extend_from_slice(&self.body);
    }

    /// Appends the message as a compressed frame; `false` if that would not make it smaller.
    fn deflate(&mut self, style: Style, kind: Kind, unix_ms: u64, out: &mut Vec<u8>) -> bool {
        let header = MessageHeader::new(style, kind, unix_ms, self.body.len());
        self.deflated.clear();
        let deflater = self.deflater.get_or_insert_default();
        deflater.message(&[&header, &self.body], style.has(Style::NARROW), &mut self.deflated);
        let is_smaller = self.deflated.len() < header.len() + self.body.len();
        if is_smaller {
            out.extend_from_slice(&deflated_frame_header(style.opcode(), self.deflated.len()));
            out.extend_from_slice(&self.deflated);
        }
        if self.deflated.capacity() > SCRATCH_BYTES_KEPT {
            self.deflated = Vec::new();
        }
        is_smaller
    }

    /// Compresses a part that many messages share, to be put between others by [`Encoder::finish_around`].
    pub fn deflated_part(&mut self, style: Style, part: &[u8]) -> Bytes {
        let mut out = Vec::new();
        let deflater = self.deflater.get_or_insert_default();
        deflater.part(&[part], style.has(Style::NARROW), &mut out);
        out.into()
    }

    /// Ends the part before shared bytes that were compressed by themselves. `parts` are those bytes with their length
    /// before, and what stands right before each; `tail` follows the last. Hands the pieces of the frame to `push`, with
    /// whether each is shared and whether it is the last. `false`, and nothing was handed out: the frame would not be smaller.
    pub fn finish_around(
        &mut self,
        (style, kind, unix_ms): (Style, Kind, u64),
        parts: &[(&'static [u8], &Bytes, usize)],
        tail: &[u8],
        mut push: impl FnMut(Bytes, bool, bool),
    ) -> bool {
        let between: usize = parts.iter().map(|(before, _, plain)| before.len() + plain).sum();
        let json_bytes = self.body.len() + between + tail.len();
        let header = MessageHeader::new(style, kind, unix_ms, json_bytes);
        let mut literal = header.to_vec();
        literal.extend_from_slice(&self.body);
        let (mut payload_bytes, mut waiting) = (stored_bytes(tail.len()) + 1, literal.len());
        for (before, part, _) in parts {
            payload_bytes += stored_bytes(waiting + before.len()) + part.len();
            waiting = 0;
        }
        if payload_bytes >= header.len() + json_bytes {
            return false;
        }
        let mut piece = deflated_frame_header(style.opcode(), payload_bytes).to_vec();
        for (before, part, _) in parts {
            literal.extend_from_slice(before);
            store(&literal, &mut piece);
            literal.clear();
            push(std::mem::take(&mut piece).into(), false, false);
            push((*part).clone(), true, false);
        }
        store(tail, &mut piece);
        piece.push(MESSAGE_END);
        push(piece.into(), false, true);
        self.body.clear();
        true
    }

    /// Ends the part before shared bytes: appends headers and what was written so far to `out`. `rest_bytes` is what
    /// follows, shared bytes and tail together.
    pub fn finish_head(&mut self, style: Style, kind: Kind, unix_ms: u64, rest_bytes: usize, out: &mut Vec<u8>) {
        write_headers(style, kind, unix_ms, self.body.len() + rest_bytes, out);
        out.extend_from_slice(&self.body);
        self.body.clear();
    }

    /// Begins the part behind shared bytes in a separate message body; used before [`Encoder::finish_head`] so that
    /// its length is known. Returns what was written by `write`, closing brace included.
    pub fn tail(write: impl FnOnce(&mut Encoder)) -> Vec<u8> {
        let mut tail = Encoder {
            body: Vec::with_capacity(128),
            ..Encoder::default()
        };
        write(&mut tail);
        tail.body.push(b'}');
        tail.body
    }
}

/// What stands before the JSON of a message: thirteen bytes in binary encoding, else nothing.
struct MessageHeader {
    bytes: [u8; HEADER_BYTES],
    len: usize,
}

impl MessageHeader {
    fn new(style: Style, kind: Kind, unix_ms: u64, json_bytes: usize) -> MessageHeader {
        let mut bytes = [0; HEADER_BYTES];
        if style.has(Style::JSON) {
            return MessageHeader { bytes, len: 0 };
        }
        let go = kind == Kind::DeltaBatch && style.has(Style::GO_BATCH);
        bytes[0] = if go { BATCH_CODE_GO } else { kind.code() };
        bytes[1..9].copy_from_slice(&unix_ms.to_be_bytes());
        // A message never reaches 4 GiB: documents and text states are bounded far below.
        bytes[9..].copy_from_slice(&(json_bytes as u32).to_be_bytes());
        MessageHeader {
            bytes,
            len: HEADER_BYTES,
        }
    }
}

impl std::ops::Deref for MessageHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The WebSocket header and, in binary encoding, the 13-byte header of a message with `json_bytes` of JSON.
fn write_headers(style: Style, kind: Kind, unix_ms: u64, json_bytes: usize, out: &mut Vec<u8>) {
    let header = MessageHeader::new(style, kind, unix_ms, json_bytes);
    out.extend_from_slice(&frame_header(style.opcode(), header.len() + json_bytes));
    out.extend_from_slice(&header);
}
