//! One WebSocket message to one [`Message`] (protocol §2).

use super::kind::{BATCH_CODE_GO, Kind};
use super::{Encoding, Fault};
use crate::json::{self, Key, LongValues, MEMBERS_MAX, Raw, Steps};
use crate::limits::REQUEST_ID_BYTES_MAX;
use std::ops::Range;

/// No name that is looked for is longer.
const NAME_BYTES_MAX: usize = 16;
/// No name of a kind or an operation is longer.
pub const KIND_BYTES_MAX: usize = 64;

/// Bytes of the binary frame header: code, time stamp, payload length.
pub const HEADER_BYTES: usize = 13;

/// The members any message may have, as slices of the received text. Absent ones are `None`; of a name that occurs
/// twice the last counts.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub struct Fields<'a> {
    pub kind: Option<Raw<'a>>,
    pub id: Option<Raw<'a>>,
    pub timestamp: Option<Raw<'a>>,
    pub document_id: Option<Raw<'a>>,
    pub doc_id: Option<Raw<'a>>,
    pub vector_clock: Option<Raw<'a>>,
    pub clock: Option<Raw<'a>>,
    pub message_id: Option<Raw<'a>>,
    pub client_id: Option<Raw<'a>>,
    pub user_id: Option<Raw<'a>>,
    pub token: Option<Raw<'a>>,
    pub api_key: Option<Raw<'a>>,
    pub delta: Option<Raw<'a>>,
    pub field: Option<Raw<'a>>,
    pub value: Option<Raw<'a>>,
    pub changes: Option<Raw<'a>>,
    pub deltas: Option<Raw<'a>>,
    pub operation: Option<Raw<'a>>,
    pub state: Option<Raw<'a>>,
    pub chunk_id: Option<Raw<'a>>,
    pub total_chunks: Option<Raw<'a>>,
    pub chunk_index: Option<Raw<'a>>,
    pub data: Option<Raw<'a>>,
    payload: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    /// Reads the members of an object; anything else gives no fields.
    pub fn read(object: Raw<'a>) -> Fields<'a> {
        let mut fields = Fields::default();
        fields.absorb(object, true);
        fields
    }

    /// [`Fields::read`], without walking through long values; of an object with more than [`MEMBERS_MAX`] members, nothing.
    pub(crate) fn read_over(object: Raw<'a>, long: LongValues<'_>) -> Fields<'a> {
        let mut fields = Fields::default();
        let Some(mut members) = object.members() else {
            return fields;
        };
        for _ in 0..=MEMBERS_MAX {
            let Some((key, value)) = members.next_over(long) else {
                return fields;
            };
            fields.set(key, value, true);
        }
        Fields::default()
    }

    /// Adds the members of `object`, [`MEMBERS_MAX`] at most; the envelope's own names only from the envelope itself. Returns
    /// whether that was all.
    fn absorb(&mut self, object: Raw<'a>, envelope: bool) -> bool {
        let mut members = object.members().into_iter().flatten();
        for (key, value) in members.by_ref().take(MEMBERS_MAX) {
            self.set(key, value, envelope);
        }
        members.next().is_none()
    }

    fn set(&mut self, key: Key<'a>, value: Raw<'a>, envelope: bool) {
        if let Some(place) = self.place(key.escaped(), envelope) {
            *place = Some(value);
        } else if key.escaped().len() <= 6 * NAME_BYTES_MAX
            && key.has_escapes()
            && let Some(place) = self.place(&key.decode(), envelope)
        {
            *place = Some(value);
        }
    }

    /// Where the member of that name is kept.
    fn place(&mut self, name: &str, envelope: bool) -> Option<&mut Option<Raw<'a>>> {
        // As bytes, because the compiler then looks at length and single bytes instead of comparing one name after the other.
        Some(match name.as_bytes() {
            b"type" | b"id" | b"timestamp" if !envelope => return None,
            b"type" => &mut self.kind,
            b"id" => &mut self.id,
            b"timestamp" => &mut self.timestamp,
            b"documentId" => &mut self.document_id,
            b"docId" => &mut self.doc_id,
            b"vectorClock" => &mut self.vector_clock,
            b"clock" => &mut self.clock,
            b"messageId" => &mut self.message_id,
            b"clientId" => &mut self.client_id,
            b"userId" => &mut self.user_id,
            b"token" => &mut self.token,
            b"apiKey" => &mut self.api_key,
            b"delta" => &mut self.delta,
            b"field" => &mut self.field,
            b"value" => &mut self.value,
            b"changes" => &mut self.changes,
            b"deltas" => &mut self.deltas,
            b"operation" => &mut self.operation,
            b"state" => &mut self.state,
            b"chunkId" => &mut self.chunk_id,
            b"totalChunks" => &mut self.total_chunks,
            b"chunkIndex" => &mut self.chunk_index,
            b"data" => &mut self.data,
            b"payload" if envelope => &mut self.payload,
            _ => return None,
        })
    }

    /// `documentId`, else `docId` (protocol §5).
    pub fn document(&self) -> Option<Raw<'a>> {
        self.document_id.or(self.doc_id)
    }

    /// `vectorClock`, else `clock`.
    pub fn any_clock(&self) -> Option<Raw<'a>> {
        self.vector_clock.or(self.clock)
    }

    /// The request's own id: a non-empty string or a number. `None`: the server makes one up.
    pub fn request_id(&self) -> Option<Raw<'a>> {
        self.id
            .filter(|id| (id.is_string() && id.text() != "\"\"") || id.is_number())
            .filter(|id| id.text().len() <= REQUEST_ID_BYTES_MAX)
    }
}

/// A message that parsed.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Kind,
    /// How it was written.
    pub encoding: Encoding,
    /// Its members.
    pub fields: Fields<'a>,
    /// Its JSON object; every member is a slice of it.
    pub body: Raw<'a>,
    /// It came in a binary frame whose payload carried its own `type`.
    pub described: bool,
    /// It came under the batch code 0x22.
    pub go_batch: bool,
    /// Places of long values in `body`, where they are known.
    pub long_values: &'a [Range<usize>],
}

/// A message that is answered with an error instead of being handled.
#[derive(Debug)]
pub struct Refused<'a> {
    /// What the peer is told.
    pub fault: Fault,
    /// The unknown code of a binary frame, for `details.typeCode`.
    pub type_code: Option<u8>,
    /// The request's id, where one could be read.
    pub id: Option<Raw<'a>>,
    /// Whether the bytes could not be read at all (counts towards the limit of invalid messages in a row).
    pub unreadable: bool,
    /// How it was written.
    pub encoding: Encoding,
}

impl<'a> Refused<'a> {
    fn unreadable(encoding: Encoding) -> Refused<'a> {
        Refused {
            fault: Fault::INVALID_FORMAT,
            type_code: None,
            id: None,
            unreadable: true,
            encoding,
        }
    }
}

/// Reads one WebSocket message: text, binary with JSON inside, or a binary frame (protocol §2.4).
pub fn parse(bytes: &[u8], is_text: bool) -> Result<Message<'_>, Refused<'_>> {
    parse_with(bytes, is_text, read_object)
}

/// [`parse`] with its most expensive part, the reading of the JSON object, in steps: for messages that would hold others up.
#[derive(Debug)]
pub struct LongParse {
    is_text: bool,
    /// `None`: it is not readable.
    steps: Option<Steps>,
}

impl LongParse {
    /// Begins with a message, which must be given again in every step.
    pub fn begin(bytes: &[u8], is_text: bool) -> LongParse {
        let json = match is_json(bytes, is_text) {
            true => Some(bytes),
            false => binary_payload(bytes),
        };
        LongParse {
            is_text,
            steps: json.and_then(|json| Steps::begin(json).ok()),
        }
    }

    /// Reads about `bytes_max` further bytes (more than 0). Returns whether there is nothing more to read.
    pub fn step(&mut self, bytes: &[u8], bytes_max: usize) -> bool {
        let json = match is_json(bytes, self.is_text) {
            true => Some(bytes),
            false => binary_payload(bytes),
        };
        let (Some(json), Some(steps)) = (json, self.steps.as_mut()) else {
            return true;
        };
        steps.step(json, bytes_max).unwrap_or_else(|_| {
            self.steps = None;
            true
        })
    }

    /// What [`parse`] gives, once everything has been read.
    pub fn finish<'a>(&'a self, bytes: &'a [u8]) -> Result<Message<'a>, Refused<'a>> {
        let message = parse_with(bytes, self.is_text, |json, fields| {
            self.steps
                .as_ref()?
                .finish(json, |key, value| fields.set(key, value, true))
        })?;
        let long_values = self.steps.as_ref().map_or(&[][..], Steps::long_values);
        Ok(Message { long_values, ..message })
    }
}

fn is_json(bytes: &[u8], is_text: bool) -> bool {
    is_text || bytes.first() == Some(&b'{')
}

/// Reads a message's JSON text and puts its members into the fields, which are large enough to be filled where they stay.
trait ReadObject<'a>: FnOnce(&'a [u8], &mut Fields<'a>) -> Option<Raw<'a>> {}
impl<'a, F: FnOnce(&'a [u8], &mut Fields<'a>) -> Option<Raw<'a>>> ReadObject<'a> for F {}

fn parse_with<'a>(bytes: &'a [u8], is_text: bool, read: impl ReadObject<'a>) -> Result<Message<'a>, Refused<'a>> {
    if is_json(bytes, is_text) {
        parse_json(bytes, read)
    } else {
        parse_binary(bytes, read)
    }
}

/// The value that a JSON text is; its members if it is an object.
fn read_object<'a>(bytes: &'a [u8], fields: &mut Fields<'a>) -> Option<Raw<'a>> {
    json::validate_object(bytes, |key, value| fields.set(key, value, true)).ok()
}

fn parse_json<'a>(bytes: &'a [u8], read: impl ReadObject<'a>) -> Result<Message<'a>, Refused<'a>> {
    let encoding = Encoding::Json;
    let unreadable = || Refused::unreadable(encoding);
    let mut fields = Fields::default();
    let body = read(bytes, &mut fields)
        .filter(|body| body.is_object())
        .ok_or_else(unreadable)?;
    let payload = fields.payload.filter(|payload| payload.is_object());
    if payload.is_some_and(|payload| !fields.absorb(payload, false)) {
        return Err(unreadable());
    }
    let kind_of = |name: Raw<'a>| name.string_within(KIND_BYTES_MAX);
    let name = fields.kind.and_then(kind_of).filter(|name| !name.is_empty());
    let name = name.ok_or_else(unreadable)?;
    let kind = Kind::from_name(&name)
        .filter(|kind| kind.is_client_sendable())
        .ok_or_else(|| Refused {
            fault: Fault::invalid_type(&name),
            type_code: None,
            id: fields.request_id(),
            unreadable: false,
            encoding,
        })?;
    Ok(Message {
        kind,
        encoding,
        fields,
        body,
        described: false,
        go_batch: false,
        long_values: &[],
    })
}

/// The JSON of a binary frame; `None` if the frame is cut short. Bytes behind it mean nothing.
fn binary_payload(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.get(..HEADER_BYTES)?;
    let length = u32::from_be_bytes([header[9], header[10], header[11], header[12]]);
    bytes[HEADER_BYTES..].get(..usize::try_from(length).ok()?)
}

fn parse_binary<'a>(bytes: &'a [u8], read: impl ReadObject<'a>) -> Result<Message<'a>, Refused<'a>> {
    let encoding = Encoding::Binary;
    let unreadable = || Refused::unreadable(encoding);
    let payload = binary_payload(bytes).ok_or_else(unreadable)?;
    let code = bytes[0];
    let payload = if payload.is_empty() { b"{}" } else { payload };
    let mut fields = Fields::default();
    let body = read(payload, &mut fields)
        .filter(|body| body.is_object())
        .ok_or_else(unreadable)?;
    let named = fields.kind.and_then(|name| name.string_within(KIND_BYTES_MAX));
    let described = named.is_some();
    let named = named
        .and_then(|name| Kind::from_name(&name))
        .filter(|kind| kind.is_client_sendable());
    let kind = match (Kind::from_code(code), named) {
        (Some(Kind::Auth), Some(Kind::Connect)) => Kind::Auth,
        (Some(_), Some(named)) if fields.id.is_some() && fields.timestamp.is_some() => named,
        (Some(known), _) => known,
        (None, Some(named)) => named,
        (None, None) => {
            return Err(Refused {
                type_code: Some(code),
                id: fields.request_id(),
                ..unreadable()
            });
        }
    };
    if !kind.is_client_sendable() {
        return Err(Refused {
            fault: Fault::invalid_type(kind.name()),
            type_code: None,
            id: fields.request_id(),
            unreadable: false,
            encoding,
        });
    }
    Ok(Message {
        kind,
        encoding,
        fields,
        body,
        described,
        go_batch: code == BATCH_CODE_GO,
        long_values: &[],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(code: u8, payload: &str) -> Vec<u8> {
        let mut bytes = vec![code];
        bytes.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload.as_bytes());
        bytes
    }

    #[test]
    fn nested_payloads_are_lifted_in_json_only() {
        let text = br#"{"type":"delta","id":"1","documentId":"a","payload":{"type":"ping","id":"2","documentId":"b"}}"#;
        let message = parse(text, true).unwrap();
        assert_eq!(message.kind, Kind::Delta);
        assert_eq!(message.fields.id.unwrap().text(), "\"1\"");
        assert_eq!(message.fields.document().unwrap().text(), "\"b\"");
        let bytes = frame(0x20, r#"{"documentId":"a","payload":{"documentId":"b"}}"#);
        assert_eq!(parse(&bytes, false).unwrap().fields.document().unwrap().text(), "\"a\"");
    }

    #[test]
    fn a_self_describing_payload_may_override_the_code() {
        let kind = |code, payload: &str| {
            parse(&frame(code, payload), false)
                .map(|message| message.kind)
                .map_err(|_| ())
        };
        assert_eq!(kind(0x77, r#"{"type":"ping"}"#), Ok(Kind::Ping));
        assert_eq!(kind(0x10, r#"{"type":"ping"}"#), Ok(Kind::Subscribe));
        assert_eq!(kind(0x10, r#"{"type":"ping","id":"1","timestamp":1}"#), Ok(Kind::Ping));
        assert_eq!(
            kind(0x10, r#"{"type":"set","id":"1","timestamp":1}"#),
            Ok(Kind::Subscribe)
        );
        assert_eq!(kind(0x77, r#"{"type":"error"}"#), Err(()));
    }

    #[test]
    fn lengths_lie_without_effect() {
        let mut bytes = frame(0x30, "{}");
        bytes.extend_from_slice(b"zzzz");
        assert_eq!(parse(&bytes, false).unwrap().kind, Kind::Ping);
        bytes[9..13].copy_from_slice(&[0xFF; 4]);
        assert!(parse(&bytes, false).unwrap_err().unreadable);
        assert!(parse(&bytes[..12], false).unwrap_err().unreadable);
        assert!(parse(&[], false).unwrap_err().unreadable);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, is_text: bool) {
            let _ = parse(&bytes, is_text);
        }

        #[test]
        fn arbitrary_payloads_never_panic(code: u8, payload in "\\{.{0,64}\\}") {
            let _ = parse(&frame(code, &payload), false);
        }
    }
}
