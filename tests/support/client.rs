//! One WebSocket connection that speaks like one of the four kinds of clients (docs/protocol.md, introduction).

use super::frame;
use super::server::Server;
use super::{PATIENCE, SILENCE, Steady, unix_ms};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::ops::Index;
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message as WebSocketMessage, WebSocket};

/// How a client writes its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// RAW in JSON text frames, also CSC.
    Json,
    /// RAW in binary frames: `id` inside the payload.
    Binary,
    /// SDK: binary frames without `id`.
    Sdk,
    /// GOC: binary frames whose payload repeats `type`, `id` and `timestamp`, `docId` naming.
    Goc,
}

/// A message as a client writes it into a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    Text(String),
    Binary(Vec<u8>),
}

impl Dialect {
    /// The member that names a document.
    pub fn document_key(self) -> &'static str {
        if self == Dialect::Goc { "docId" } else { "documentId" }
    }

    /// Writes a message of this dialect.
    pub fn encode(self, id: &str, kind: &str, fields: Value) -> Encoded {
        let Value::Object(fields) = fields else {
            panic!("fields must be an object")
        };
        let now = unix_ms();
        let mut payload = Map::new();
        if matches!(self, Dialect::Json | Dialect::Goc) {
            payload.insert("type".into(), json!(kind));
            payload.insert("timestamp".into(), json!(now));
        }
        if self != Dialect::Sdk {
            payload.insert("id".into(), json!(id));
        }
        payload.extend(fields);
        let text = Value::Object(payload).to_string();
        if self == Dialect::Json {
            return Encoded::Text(text);
        }
        let batch = self == Dialect::Goc && kind == "delta_batch";
        let code = if batch { 0x22 } else { frame::code_of(kind) };
        Encoded::Binary(frame::encode(code, now, text.as_bytes()))
    }
}

/// One application message from the server.
#[derive(Clone, Debug)]
pub struct Message {
    /// Type name.
    pub kind: String,
    /// Type code of a binary frame, none for JSON text.
    pub code: Option<u8>,
    /// Time of header or envelope.
    pub timestamp: i64,
    /// The payload, or the whole envelope of a JSON message.
    pub body: Value,
    /// Exactly what was received.
    pub bytes: Vec<u8>,
}

impl Index<&str> for Message {
    type Output = Value;

    fn index(&self, member: &str) -> &Value {
        &self.body[member]
    }
}

impl Message {
    /// Whether the member is there at all (indexing gives null for both).
    pub fn has(&self, member: &str) -> bool {
        self.body.get(member).is_some()
    }

    fn from_text(text: &[u8]) -> Self {
        let body = frame::parse_json(text);
        let kind = body["type"]
            .as_str()
            .unwrap_or_else(|| panic!("a message without type: {body}"))
            .to_owned();
        let timestamp = body["timestamp"]
            .as_i64()
            .unwrap_or_else(|| panic!("no integer timestamp: {body}"));
        Self {
            kind,
            code: None,
            timestamp,
            body,
            bytes: text.to_vec(),
        }
    }

    fn from_frame(bytes: &[u8]) -> Self {
        let (code, timestamp, payload) = frame::decode(bytes);
        let body = frame::parse_json(payload);
        assert!(body.is_object(), "a payload that is no object: {body}");
        Self {
            kind: frame::name_of(code).to_owned(),
            code: Some(code),
            timestamp,
            body,
            bytes: bytes.to_vec(),
        }
    }

    /// The WebSocket message's data as the server's message.
    pub fn parse(is_text: bool, data: &[u8]) -> Self {
        if is_text {
            Self::from_text(data)
        } else {
            Self::from_frame(data)
        }
    }
}

/// How a connection ended: code and reason of the server's close frame, or none.
pub type Ending = Option<(u16, String)>;

/// Where and how to connect.
#[derive(Default)]
pub struct Options<'a> {
    /// Path and query; `/ws` when empty.
    pub path: &'a str,
    /// Additional header lines.
    pub headers: &'a [(&'a str, &'a str)],
}

/// A connection.
pub struct Client {
    socket: WebSocket<Steady>,
    dialect: Dialect,
    waiting: VecDeque<Message>,
    ending: Option<Ending>,
    /// Protocol pings seen.
    pub pings: usize,
    last_id: u64,
}

impl Client {
    /// Connects with the dialect given; says nothing yet.
    pub fn connect(server: &Server, dialect: Dialect) -> Self {
        Self::connect_with(server.address(), dialect, &Options::default()).expect("the upgrade succeeds")
    }

    /// Connects with path and headers; the error is the HTTP status of a refused upgrade.
    pub fn connect_with(address: SocketAddr, dialect: Dialect, options: &Options) -> Result<Self, u16> {
        let path = if options.path.is_empty() { "/ws" } else { options.path };
        let mut request = format!("ws://{address}{path}")
            .into_client_request()
            .expect("a valid URL");
        for (name, value) in options.headers {
            let name = tungstenite::http::HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            request
                .headers_mut()
                .append(name, value.parse().expect("a header value"));
        }
        let stream = Steady::connect(address, PATIENCE).expect("the server accepts");
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Self {
                socket,
                dialect,
                waiting: VecDeque::new(),
                ending: None,
                pings: 0,
                last_id: 0,
            }),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("the upgrade failed: {error}"),
        }
    }

    /// How this client writes.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The TCP connection, for tests that misbehave on it.
    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    // ---- sending ----

    /// Sends a message of this dialect with a fresh id; gives the id (SDK frames do not carry it).
    pub fn say(&mut self, kind: &str, fields: Value) -> String {
        let id = self.fresh_id();
        self.say_as(&id, kind, fields);
        id
    }

    /// An id this connection has not used yet.
    pub fn fresh_id(&mut self) -> String {
        self.last_id += 1;
        format!("m{}", self.last_id)
    }

    /// Sends a message of this dialect with an id of one's own.
    pub fn say_as(&mut self, id: &str, kind: &str, fields: Value) {
        match self.dialect.encode(id, kind, fields) {
            Encoded::Text(text) => self.send_text(&text),
            Encoded::Binary(bytes) => self.send_binary(bytes),
        }
    }

    /// Sends a text message as it is.
    pub fn send_text(&mut self, text: &str) {
        self.send_message(WebSocketMessage::text(text));
    }

    /// Sends a binary message as it is.
    pub fn send_binary(&mut self, bytes: Vec<u8>) {
        self.send_message(WebSocketMessage::binary(bytes));
    }

    /// Sends a binary frame.
    pub fn send_frame(&mut self, code: u8, timestamp: i64, payload: &[u8]) {
        self.send_binary(frame::encode(code, timestamp, payload));
    }

    fn send_message(&mut self, message: WebSocketMessage) {
        // A server may refuse and close while a large message is on its way; what it said is read afterwards.
        let _ = self.socket.send(message);
    }

    /// Sends a protocol ping.
    pub fn ping_socket(&mut self) {
        self.send_message(WebSocketMessage::Ping(b"life".as_slice().into()));
    }

    // ---- receiving ----

    /// The next message, waited for up to the time given. None: nothing came, or the connection ended.
    pub fn next_within(&mut self, within: Duration) -> Option<Message> {
        if let Some(message) = self.waiting.pop_front() {
            return Some(message);
        }
        self.receive(Instant::now() + within)
    }

    /// The next message, which must come.
    pub fn next(&mut self) -> Message {
        let message = self.next_within(PATIENCE);
        message.unwrap_or_else(|| panic!("no message came ({:?}, {:?})", self.dialect, self.ending))
    }

    /// The next message, which must be of this type.
    pub fn expect(&mut self, kind: &str) -> Message {
        let message = self.next();
        assert_eq!(message.kind, kind, "unexpected: {}", message.body);
        message
    }

    /// The first message of this type; others are kept for later.
    pub fn take(&mut self, kind: &str) -> Message {
        self.take_where(kind, |message| message.kind == kind)
    }

    /// The first message that fits; others are kept for later.
    pub fn take_where(&mut self, what: &str, fits: impl Fn(&Message) -> bool) -> Message {
        if let Some(at) = self.waiting.iter().position(&fits) {
            return self.waiting.remove(at).expect("just found");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.receive(deadline) {
                Some(message) if fits(&message) => return message,
                Some(message) => self.waiting.push_back(message),
                None => {
                    let kept: Vec<_> = self
                        .waiting
                        .iter()
                        .map(|kept| format!("{}: {}", kept.kind, kept.body))
                        .collect();
                    panic!(
                        "never got {what} ({:?}, ended {:?}); got {kept:#?}",
                        self.dialect, self.ending
                    )
                }
            }
        }
    }

    /// Everything that comes until nothing came for [`SILENCE`].
    pub fn drain(&mut self) -> Vec<Message> {
        self.drain_for(SILENCE)
    }

    /// Everything that comes until nothing came for the time given.
    pub fn drain_for(&mut self, quiet: Duration) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(message) = self.next_within(quiet) {
            all.push(message);
        }
        all
    }

    /// Nothing may come for [`SILENCE`].
    pub fn expect_silence(&mut self) {
        if let Some(message) = self.next_within(SILENCE) {
            panic!("unexpected {}: {}", message.kind, message.body);
        }
        assert!(self.ending.is_none(), "the connection ended: {:?}", self.ending);
    }

    /// The close that must come; messages before it are kept.
    pub fn expect_close(&mut self) -> (u16, String) {
        self.expect_close_within(PATIENCE)
    }

    /// The close that must come within the time given.
    pub fn expect_close_within(&mut self, within: Duration) -> (u16, String) {
        let deadline = Instant::now() + within;
        while self.ending.is_none() {
            match self.receive(deadline) {
                Some(message) => self.waiting.push_back(message),
                None if Instant::now() >= deadline => break,
                None => {}
            }
        }
        match &self.ending {
            Some(Some(ending)) => ending.clone(),
            Some(None) => panic!("the connection ended without a close frame"),
            None => panic!("the connection was not closed; waiting messages: {:#?}", self.waiting),
        }
    }

    /// Whether the connection is over, as far as this client has read.
    pub fn ended(&self) -> bool {
        self.ending.is_some()
    }

    fn receive(&mut self, deadline: Instant) -> Option<Message> {
        while self.ending.is_none() {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            self.socket.get_ref().set_read_timeout(Some(left)).expect("a time-out");
            match self.socket.read() {
                Ok(WebSocketMessage::Text(text)) => return Some(Message::parse(true, text.as_bytes())),
                Ok(WebSocketMessage::Binary(bytes)) => return Some(Message::parse(false, &bytes)),
                Ok(WebSocketMessage::Ping(_)) => {
                    self.pings += 1;
                    // The pong goes out now and not with the next message; an error shows up in the next read.
                    let _ = self.socket.flush();
                }
                Ok(WebSocketMessage::Close(close)) => {
                    self.ending = Some(close.map(|close| (u16::from(close.code), close.reason.to_string())));
                    let _ = self.socket.flush();
                    return None;
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => {
                    if Instant::now() >= deadline {
                        return None;
                    }
                }
                Err(_) => {
                    self.ending.get_or_insert(None);
                    return None;
                }
            }
        }
        None
    }

    // ---- usual exchanges ----

    /// The member name of document ids in this dialect.
    pub fn document_key(&self) -> &'static str {
        self.dialect.document_key()
    }

    /// Sends `auth` without credentials and takes the success.
    pub fn greet(&mut self) -> Message {
        self.say("auth", json!({}));
        self.take("auth_success")
    }

    /// Sends `auth` with a token and takes the success.
    pub fn authenticate(&mut self, token: &str) -> Message {
        self.say("auth", json!({ "token": token }));
        self.take("auth_success")
    }

    /// Subscribes and takes the snapshot.
    pub fn subscribe(&mut self, document: &str) -> Message {
        self.say("subscribe", json!({ self.document_key(): document }));
        self.take_snapshot(document)
    }

    /// Asks for a snapshot and takes it.
    pub fn sync(&mut self, document: &str) -> Message {
        self.say("sync_request", json!({ self.document_key(): document }));
        self.take_snapshot(document)
    }

    /// The `sync_response` of one document.
    pub fn take_snapshot(&mut self, document: &str) -> Message {
        self.take_where(&format!("sync_response of {document}"), |message| {
            message.kind == "sync_response" && message["documentId"] == document
        })
    }

    /// Sends a map of field writes in the form of this dialect; gives the id to be acknowledged.
    pub fn write(&mut self, document: &str, fields: Value) -> String {
        let id = self.fresh_id();
        let form = match self.dialect {
            Dialect::Goc => json!({"docId": document, "changes": fields}),
            _ => json!({"documentId": document, "delta": fields, "vectorClock": {}, "messageId": id}),
        };
        self.say_as(&id, "delta", form);
        id
    }

    /// Takes the `ack` of a message.
    pub fn take_ack(&mut self, id: &str) -> Message {
        self.take_where(&format!("ack of {id}"), |message| {
            message.kind == "ack" && message["messageId"] == id
        })
    }

    /// Writes fields and waits for the acknowledgement.
    pub fn write_acked(&mut self, document: &str, fields: Value) {
        let id = self.write(document, fields);
        self.take_ack(&id);
    }

    /// The broadcast of a field. With several, the first one kept.
    pub fn take_field(&mut self, document: &str, field: &str) -> Message {
        self.take_where(&format!("delta of {document}/{field}"), |message| {
            message.kind == "delta"
                && message["documentId"] == document
                && (message["field"] == field || message["changes"].get(field).is_some())
        })
    }

    /// Takes an `error` and checks its code and text.
    pub fn take_error(&mut self, code: &str, text: &str) -> Message {
        let error = self.take("error");
        assert_eq!(
            (error["code"].as_str(), error["error"].as_str()),
            (Some(code), Some(text)),
            "{}",
            error.body
        );
        assert_eq!(
            error["details"]["code"], code,
            "details carry the code too: {}",
            error.body
        );
        error
    }

    /// Sends an application `ping` and returns when its `pong` came; what came before is kept.
    pub fn fence(&mut self) {
        self.say("ping", json!({}));
        self.take("pong");
    }

    /// Closes with a close frame and waits for the answer.
    pub fn close(mut self) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        if self.socket.close(Some(frame)).is_ok() {
            let deadline = Instant::now() + PATIENCE;
            while self.ending.is_none() && Instant::now() < deadline {
                self.receive(deadline);
            }
        }
    }

    /// Ends the TCP connection without a close frame.
    pub fn vanish(self) {
        // Errors mean that the connection is gone already, which is what is wanted.
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Both);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
