//! What the clients of each server family say, and how the answers are told apart (docs/protocol.md §2 to §6).
//!
//! [`Speaker`] writes whole client frames; [`read`] finds out what a server message is without decoding its JSON, which
//! is all that counting, timing and sequence checks need.

use crate::frame;
use crate::stamp::Stamp;
use serde::{Deserialize, Serialize};
use synckit_server::protocol::Kind;
use synckit_server::protocol::kind::BATCH_CODE_GO;
use synckit_server::websocket::Opcode;

/// Whose clients are imitated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The browser SDK: `delta_batch` with client clocks, no ids.
    #[default]
    Sdk,
    /// Clients of the TypeScript server: `delta` maps and ids.
    Typescript,
    /// Clients of the C# server: as TypeScript, with `vectorClock`.
    Csharp,
    /// Clients of the Go server: `docId` and `changes`.
    Go,
    /// Clients of the Python server: as Go.
    Python,
    /// No SyncKit at all: stamped frames for the bare echo and fan-out loops.
    Bare,
}

/// How messages are put into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// 13-byte header and JSON object in binary frames.
    #[default]
    Binary,
    /// JSON text frames.
    Json,
}

impl Dialect {
    /// Whether it calls documents `docId` and writes `changes`.
    pub fn is_doc_id(self) -> bool {
        matches!(self, Dialect::Go | Dialect::Python)
    }

    /// Whether the server sends a writer its own changes back.
    pub fn echoes(self) -> bool {
        !self.is_doc_id()
    }

    /// Whether its clients send `auth` even without a token.
    pub fn always_authenticates(self) -> bool {
        !matches!(self, Dialect::Sdk | Dialect::Bare)
    }

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Sdk => "sdk",
            Dialect::Typescript => "typescript",
            Dialect::Csharp => "csharp",
            Dialect::Go => "go",
            Dialect::Python => "python",
            Dialect::Bare => "bare",
        }
    }
}

impl Encoding {
    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Binary => "binary",
            Encoding::Json => "json",
        }
    }
}

/// A field write: what goes into it.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// The document written.
    pub document: &'a str,
    /// Number of the field among the writer's fields.
    pub field: u32,
    /// The sequence doubles as the correlation id.
    pub stamp: Stamp,
    /// The message's JSON is padded to at least so many bytes.
    pub payload_bytes: usize,
    /// The connection's number, from which its client id is made.
    pub client: u32,
}

/// Writes client frames of one dialect and encoding.
pub struct Speaker {
    dialect: Dialect,
    encoding: Encoding,
    /// State of the generator of masks; RFC 6455 wants them unpredictable, a test needs them merely different.
    mask: u32,
    /// The time put into messages, milliseconds since 1970.
    pub unix_ms: u64,
}

impl Speaker {
    /// A speaker; `seed` makes its masks differ from those of others.
    pub fn new(dialect: Dialect, encoding: Encoding, seed: u32) -> Self {
        Self {
            dialect,
            encoding,
            mask: seed | 1,
            unix_ms: crate::sockets::unix_ms(),
        }
    }

    /// What it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// A mask that has not been used lately (xorshift32).
    fn next_mask(&mut self) -> [u8; 4] {
        self.mask ^= self.mask << 13;
        self.mask ^= self.mask >> 17;
        self.mask ^= self.mask << 5;
        self.mask.to_ne_bytes()
    }

    /// Answers a WebSocket ping.
    pub fn pong_frame(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        let mask = self.next_mask();
        frame::control(out, Opcode::Pong, payload, mask);
    }

    /// Says goodbye with code 1000.
    pub fn close_frame(&mut self, out: &mut Vec<u8>) {
        let mask = self.next_mask();
        frame::control(out, Opcode::Close, &1000u16.to_be_bytes(), mask);
    }

    /// Authenticates with a token, or without one where the dialect does so.
    pub fn auth(&mut self, out: &mut Vec<u8>, token: Option<&str>, client: u32) {
        let names_client = self.dialect.is_doc_id();
        self.message(out, Kind::Auth, "auth", |body| {
            if let Some(token) = token {
                text_member(body, "token", token.as_bytes());
            }
            if names_client {
                body.extend_from_slice(b",\"clientId\":\"");
                client_id(body, client);
                body.push(b'"');
            }
        });
    }

    /// Subscribes to a document.
    pub fn subscribe(&mut self, out: &mut Vec<u8>, document: &str) {
        let name = self.document_member();
        self.message(out, Kind::Subscribe, "sub", |body| {
            text_member(body, name, document.as_bytes());
        });
    }

    /// Subscribes to a document's presence.
    pub fn awareness_subscribe(&mut self, out: &mut Vec<u8>, document: &str) {
        let name = self.document_member();
        self.message(out, Kind::AwarenessSubscribe, "aw", |body| {
            text_member(body, name, document.as_bytes());
        });
    }

    /// Says where the client's cursor is.
    pub fn awareness_update(&mut self, out: &mut Vec<u8>, document: &str, client: u32, clock: u32) {
        let name = self.document_member();
        let has_clock = !self.dialect.is_doc_id();
        self.message(out, Kind::AwarenessUpdate, "awu", |body| {
            text_member(body, name, document.as_bytes());
            body.extend_from_slice(b",\"clientId\":\"");
            client_id(body, client);
            body.extend_from_slice(b"\",\"state\":{\"cursor\":");
            decimal(body, u64::from(clock));
            body.push(b'}');
            if has_clock {
                body.extend_from_slice(b",\"clock\":");
                decimal(body, u64::from(clock));
            }
        });
    }

    /// The application's own heartbeat.
    pub fn ping(&mut self, out: &mut Vec<u8>) {
        self.message(out, Kind::Ping, "ping", |_| ());
    }

    /// Writes one field.
    pub fn delta(&mut self, out: &mut Vec<u8>, delta: &Delta<'_>) {
        match self.dialect {
            Dialect::Bare => self.bare(out, delta),
            Dialect::Sdk => self.sdk_batch(out, delta),
            _ => self.delta_map(out, delta),
        }
    }

    fn bare(&mut self, out: &mut Vec<u8>, delta: &Delta<'_>) {
        let mask = self.next_mask();
        let started = frame::start(out);
        let from = out.len();
        delta.stamp.write(out);
        out.resize(out.len().max(from + delta.payload_bytes), b'x');
        frame::finish(out, started, Opcode::Binary, mask);
    }

    fn delta_map(&mut self, out: &mut Vec<u8>, delta: &Delta<'_>) {
        let name = self.document_member();
        let (map, clock) = match self.dialect {
            Dialect::Csharp => ("delta", ",\"vectorClock\":{}"),
            dialect if dialect.is_doc_id() => ("changes", ""),
            _ => ("delta", ""),
        };
        self.identified(out, Kind::Delta, delta.stamp.sequence, |body, from| {
            text_member(body, name, delta.document.as_bytes());
            body.extend_from_slice(b",\"");
            body.extend_from_slice(map.as_bytes());
            body.extend_from_slice(b"\":{\"");
            field_name(body, delta);
            body.extend_from_slice(b"\":\"");
            value(body, delta, from, clock.len() + 3);
            body.extend_from_slice(b"\"}");
            body.extend_from_slice(clock.as_bytes());
        });
    }

    fn sdk_batch(&mut self, out: &mut Vec<u8>, delta: &Delta<'_>) {
        let time = self.unix_ms;
        self.identified(out, Kind::DeltaBatch, delta.stamp.sequence, |body, from| {
            text_member(body, "documentId", delta.document.as_bytes());
            body.extend_from_slice(b",\"deltas\":[{\"type\":\"set\"");
            text_member(body, "documentId", delta.document.as_bytes());
            body.extend_from_slice(b",\"field\":\"");
            field_name(body, delta);
            body.push(b'"');
            author(body, delta.client, delta.stamp.sequence, time);
            body.extend_from_slice(b",\"value\":\"");
            value(body, delta, from, 4);
            body.extend_from_slice(b"\"}]");
        });
    }

    /// Sends a complete text state (docs/text-state.md §1). `state` is the JSON text, not yet a JSON string.
    pub fn text_state(&mut self, out: &mut Vec<u8>, document: &str, client: u32, sequence: u32, state: &[u8]) {
        let time = self.unix_ms;
        let name = self.document_member();
        self.identified(out, Kind::DeltaBatch, sequence, |body, _| {
            text_member(body, name, document.as_bytes());
            body.extend_from_slice(b",\"deltas\":[{\"type\":\"text-state\"");
            text_member(body, "documentId", document.as_bytes());
            author(body, client, sequence, time);
            body.extend_from_slice(b",\"state\":\"");
            for byte in state {
                if *byte == b'"' {
                    body.push(b'\\');
                }
                body.push(*byte);
            }
            body.extend_from_slice(b"\"}]");
        });
    }

    fn document_member(&self) -> &'static str {
        if self.dialect.is_doc_id() {
            "docId"
        } else {
            "documentId"
        }
    }

    /// A message whose answer is matched by a sequence number.
    fn identified(&mut self, out: &mut Vec<u8>, kind: Kind, sequence: u32, members: impl FnOnce(&mut Vec<u8>, usize)) {
        let by_message_id = self.dialect == Dialect::Sdk;
        let mut id = [0; 9];
        write_id(&mut id, sequence);
        let id = std::str::from_utf8(&id).expect("hexadecimal digits");
        let from = out.len();
        self.message(out, kind, id, |body| {
            if by_message_id {
                text_member(body, "messageId", id.as_bytes());
            }
            members(body, from);
        });
    }

    /// Envelope, members (each written with a comma before it) and frame around them.
    fn message(&mut self, out: &mut Vec<u8>, kind: Kind, id: &str, members: impl FnOnce(&mut Vec<u8>)) {
        let mask = self.next_mask();
        let started = frame::start(out);
        let header = out.len();
        let opcode = match self.encoding {
            Encoding::Binary => {
                out.push(self.code(kind));
                out.extend_from_slice(&self.unix_ms.to_be_bytes());
                out.extend_from_slice(&[0; 4]);
                Opcode::Binary
            }
            Encoding::Json => Opcode::Text,
        };
        let body = out.len();
        out.push(b'{');
        if self.encoding == Encoding::Json || self.dialect.is_doc_id() {
            out.extend_from_slice(b"\"type\":\"");
            out.extend_from_slice(kind.name().as_bytes());
            out.extend_from_slice(b"\",\"id\":\"");
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(b"\",\"timestamp\":");
            decimal(out, self.unix_ms);
            members(out);
        } else if self.dialect == Dialect::Sdk {
            members(out);
            // The first member came with a comma, for which nothing stands before it here.
            if out.get(body + 1) == Some(&b',') {
                out.remove(body + 1);
            }
        } else {
            out.extend_from_slice(b"\"id\":\"");
            out.extend_from_slice(id.as_bytes());
            out.push(b'"');
            members(out);
        }
        out.push(b'}');
        if self.encoding == Encoding::Binary {
            let length = (out.len() - body) as u32;
            out[header + 9..header + 13].copy_from_slice(&length.to_be_bytes());
        }
        frame::finish(out, started, opcode, mask);
    }

    fn code(&self, kind: Kind) -> u8 {
        if kind == Kind::DeltaBatch && self.dialect.is_doc_id() {
            return BATCH_CODE_GO;
        }
        kind.code()
    }
}

fn text_member(body: &mut Vec<u8>, name: &str, text: &[u8]) {
    body.extend_from_slice(b",\"");
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(b"\":\"");
    body.extend_from_slice(text);
    body.push(b'"');
}

/// The members that tell the SDK's conflict rules who wrote: the client, its own counter and its time.
fn author(body: &mut Vec<u8>, client: u32, counter: u32, unix_ms: u64) {
    body.extend_from_slice(b",\"clientId\":\"");
    client_id(body, client);
    body.extend_from_slice(b"\",\"clock\":{\"");
    client_id(body, client);
    body.extend_from_slice(b"\":");
    decimal(body, u64::from(counter));
    body.extend_from_slice(b"},\"timestamp\":");
    decimal(body, unix_ms);
}

/// The client id of a connection.
pub fn client_id(out: &mut Vec<u8>, client: u32) {
    out.extend_from_slice(b"c-");
    decimal(out, u64::from(client));
}

fn field_name(out: &mut Vec<u8>, delta: &Delta<'_>) {
    out.push(b'f');
    decimal(out, u64::from(delta.stamp.writer));
    out.push(b'_');
    decimal(out, u64::from(delta.field));
}

/// The stamp, padded so that the message's JSON is as long as asked for when `after` bytes follow. `from` is where the
/// frame begins.
fn value(body: &mut Vec<u8>, delta: &Delta<'_>, from: usize, after: usize) {
    delta.stamp.write(body);
    let written = body.len() - from;
    let wanted = delta.payload_bytes.saturating_sub(after);
    // The frame's and the binary header's room are not JSON; a few bytes more or less do not matter here.
    let json_written = written.saturating_sub(8);
    if wanted > json_written {
        body.resize(body.len() + wanted - json_written, b'x');
    }
}

fn write_id(id: &mut [u8; 9], sequence: u32) {
    let mut text = Vec::with_capacity(9);
    text.push(b'm');
    crate::stamp::hex(&mut text, u64::from(sequence), 8);
    id.copy_from_slice(&text);
}

/// Appends a number in decimal digits.
pub fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// What a server message is, and its JSON.
pub fn read(payload: &[u8]) -> Option<(Kind, &[u8])> {
    match payload.first()? {
        b'{' => {
            let name = member(payload, b"\"type\":\"")?;
            Some((Kind::from_name(std::str::from_utf8(name).ok()?)?, payload))
        }
        code => Some((Kind::from_code(*code)?, payload.get(13..)?)),
    }
}

/// The text of the first string member whose key, quotes and colon are `key`.
pub fn member<'a>(json: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let from = memchr::memmem::find(json, key)? + key.len();
    let length = memchr::memchr(b'"', &json[from..])?;
    Some(&json[from..from + length])
}

/// The sequence number an acknowledgement answers: of `messageId`, else of `id`.
pub fn acknowledged(json: &[u8]) -> Option<u32> {
    let of = |key: &[u8]| {
        let digits = member(json, key)?
            .strip_prefix(b"m")
            .filter(|digits| digits.len() == 8)?;
        u32::try_from(crate::stamp::number(digits)?).ok()
    };
    of(b"\"messageId\":\"").or_else(|| of(b"\"id\":\""))
}

/// What an error message calls itself: its code, else its text.
pub fn error_name(json: &[u8]) -> String {
    let name = member(json, b"\"code\":\"").or_else(|| member(json, b"\"error\":\""));
    name.map_or_else(
        || "without a name".to_owned(),
        |name| String::from_utf8_lossy(name).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use synckit_server::protocol;

    const ALL: [Dialect; 5] = [
        Dialect::Sdk,
        Dialect::Typescript,
        Dialect::Csharp,
        Dialect::Go,
        Dialect::Python,
    ];

    fn payload_of(mut frames: Vec<u8>) -> Vec<u8> {
        let frame = frame::parse(&mut frames, 0).expect("one frame");
        assert_eq!(frame.payload.end, frames.len(), "exactly one frame");
        frames[frame.payload].to_vec()
    }

    fn json_of(payload: &[u8]) -> serde_json::Value {
        let (_, json) = read(payload).expect("a known message");
        serde_json::from_slice(json).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(json)))
    }

    fn delta() -> Delta<'static> {
        let stamp = Stamp {
            writer: 2,
            sequence: 0x1234,
            due_ns: 77,
        };
        Delta {
            document: "doc",
            field: 5,
            stamp,
            payload_bytes: 300,
            client: 9,
        }
    }

    #[test]
    fn every_message_of_every_dialect_is_json_with_its_kind() {
        for dialect in ALL {
            for encoding in [Encoding::Binary, Encoding::Json] {
                let mut speaker = Speaker::new(dialect, encoding, 1);
                let mut said = |say: &dyn Fn(&mut Speaker, &mut Vec<u8>)| {
                    let mut out = Vec::new();
                    say(&mut speaker, &mut out);
                    let payload = payload_of(out);
                    (read(&payload).expect("known").0, json_of(&payload))
                };
                let name = if dialect.is_doc_id() { "docId" } else { "documentId" };
                let (kind, json) = said(&|speaker, out| speaker.subscribe(out, "doc"));
                assert_eq!((kind, json[name].as_str()), (Kind::Subscribe, Some("doc")));
                let (kind, json) = said(&|speaker, out| speaker.auth(out, Some("t.o.k"), 3));
                assert_eq!((kind, json["token"].as_str()), (Kind::Auth, Some("t.o.k")));
                let (kind, json) = said(&|speaker, out| speaker.awareness_update(out, "doc", 3, 8));
                assert_eq!(
                    (kind, json["state"]["cursor"].as_u64()),
                    (Kind::AwarenessUpdate, Some(8))
                );
                let (kind, _) = said(&|speaker, out| speaker.ping(out));
                assert_eq!(kind, Kind::Ping);
                let (_, json) = said(&|speaker, out| speaker.delta(out, &delta()));
                let text = json.to_string();
                assert!(
                    (280..=330).contains(&text.len()),
                    "{dialect:?} {encoding:?}: {} bytes",
                    text.len()
                );
                assert_eq!(Stamp::find(text.as_bytes()).map(|found| found.0), Some(delta().stamp));
                assert_eq!(acknowledged(text.as_bytes()), Some(0x1234));
                let state = b"{\"blocks\":[]}";
                let (kind, json) = said(&|speaker, out| speaker.text_state(out, "doc", 3, 1, state));
                assert_eq!(
                    (kind, json["deltas"][0]["state"].as_str()),
                    (Kind::DeltaBatch, Some("{\"blocks\":[]}"))
                );
            }
        }
    }

    #[test]
    fn the_server_reads_what_the_dialects_write() {
        for dialect in ALL {
            for encoding in [Encoding::Binary, Encoding::Json] {
                let mut out = Vec::new();
                Speaker::new(dialect, encoding, 1).delta(&mut out, &delta());
                let payload = payload_of(out);
                let expected = if dialect == Dialect::Sdk {
                    Kind::DeltaBatch
                } else {
                    Kind::Delta
                };
                assert_eq!(read(&payload).expect("known").0, expected);
                let is_text = encoding == Encoding::Json;
                assert_eq!(payload[0] == b'{', is_text);
            }
        }
        assert_eq!(protocol::Kind::from_code(0x22), Some(Kind::DeltaBatch));
    }

    #[test]
    fn answers_are_told_apart_without_decoding() {
        let ack = br#"{"type":"ack","timestamp":1,"id":"x","messageId":"m0000002a","documentId":"d"}"#;
        assert_eq!(read(ack).map(|message| message.0), Some(Kind::Ack));
        assert_eq!(acknowledged(ack), Some(42));
        assert_eq!(acknowledged(br#"{"id":"m00000001","docId":"d"}"#), Some(1));
        assert_eq!(acknowledged(br#"{"id":"other"}"#), None);
        let error = br#"{"type":"error","id":"1","error":"Not authenticated","code":"NOT_AUTHENTICATED"}"#;
        assert_eq!(error_name(error), "NOT_AUTHENTICATED");
        assert_eq!(read(b""), None);
        assert_eq!(read(&[0x21, 0, 0]), None);
    }
}
