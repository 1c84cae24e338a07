//! A client of the simulated mesh: writes real bytes (HTTP upgrade, masked frames, all dialects), keeps a copy of every
//! document as its kind does, and remembers which answers it is owed.

#![allow(dead_code, reason = "each test file uses its part")]

use super::frame;
use super::mesh::{Dice, World};
use super::sdk_model::{Clock, SdkReplica};
use super::text_client;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A `pong` must come within this time, whatever else waits: the SDK gives up then (docs/protocol.md §5.10).
const PONG_US_MAX: u64 = 5_000_000;
/// Any other answer that waits for nobody else.
const ANSWER_US_MAX: u64 = 3_000_000;
/// And one that waits for a database: what it does not take within 5 s is refused.
const STORED_US_MAX: u64 = 6_500_000;

/// The four kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Binary,
    Sdk,
    Goc,
}

/// An answer the server owes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owed {
    Ack(String),
    Sync(String),
    Pong,
    Presence(String),
}

/// An answer the server owes, since when, and how much had been written by then.
#[derive(Clone, Debug)]
struct Debt {
    what: Owed,
    asked_us: u64,
    /// Fields that this connection has written into the document.
    own: usize,
    /// Fields of the document whose writes the server has acknowledged, to whomever.
    acknowledged: usize,
}

/// How far a subscription is, as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    Out,
    Asked,
    In,
    /// The `unsubscribe` with that `ack` is under way.
    Leaving,
}

/// What a client has of one document.
pub struct Copy {
    pub stand: Stand,
    pub fields: BTreeMap<String, Value>,
    pub sdk: SdkReplica,
    pub text: text_client::Client,
    text_unconfirmed: bool,
    pub watches_presence: bool,
    pub presence: BTreeMap<String, Value>,
    /// The own entry as this connection left it; `None`: it said nothing.
    pub own_presence: Option<Value>,
    /// An earlier connection told presence under the same id. What it said last may arrive after this one's and then
    /// leave with it, so nothing is promised.
    pub presence_is_contested: bool,
    leaving_ack: String,
    /// Set operations as they came.
    pub relayed: usize,
    /// Formatting operations of others as they came, by their ids.
    pub formatted: Vec<String>,
    /// What counter operations of others, as they came, and own ones add up to.
    pub counted: f64,
    /// Counter operations of others that took something away.
    pub decrements: usize,
    /// Greatest stamps that this connection has been sent, by field.
    stamps: BTreeMap<String, u64>,
    /// The clock of the newest snapshot.
    synced_at: u64,
    /// Unique fields that this connection has written, in order.
    own_writes: Vec<(String, Value)>,
    /// What its user typed last into the field that nobody else writes.
    typed: Option<Value>,
}

impl Copy {
    fn new(id: &str) -> Self {
        Self {
            stand: Stand::Out,
            fields: BTreeMap::new(),
            sdk: SdkReplica::new(id.into(), None),
            text: text_client::Client::new(id),
            text_unconfirmed: false,
            watches_presence: false,
            presence: BTreeMap::new(),
            own_presence: None,
            presence_is_contested: false,
            leaving_ack: String::new(),
            relayed: 0,
            formatted: Vec::new(),
            counted: 0.0,
            decrements: 0,
            stamps: BTreeMap::new(),
            synced_at: 0,
            own_writes: Vec::new(),
            typed: None,
        }
    }
}

/// What a write did when it was acknowledged.
#[derive(Clone, Debug)]
pub struct Written {
    pub document: String,
    /// Fields that nobody else writes; the tombstone if they were deleted.
    pub unique: Vec<(String, Value)>,
    /// Characters of a text by client and number, and whether they were deleted.
    pub characters: Vec<(text_client::Id, bool)>,
    /// Under which id.
    by: String,
}

/// A client.
pub struct Peer {
    pub kind: Kind,
    pub id: String,
    number: usize,
    lives: usize,
    pub socket: Option<usize>,
    upgraded: bool,
    input: Vec<u8>,
    pub copies: BTreeMap<String, Copy>,
    owed: Vec<Debt>,
    /// Until then it did not read.
    hindered_us: u64,
    /// Its messages are handled at a limited rate, so only a `pong` has a bound.
    pub is_throttled: bool,
    /// Its server has a database.
    waits_for_storage: bool,
    /// The longest time an answer took.
    pub waited_us_max: u64,
    unacknowledged: BTreeMap<String, Written>,
    /// Writes that were acknowledged.
    pub acknowledged: Vec<Written>,
    /// It reads nothing for so long that the server may drop it in the middle of anything.
    pub may_be_dropped: bool,
    /// A write may take longer to store than the server waits; then it comes back as after a lost connection.
    pub may_be_refused: bool,
    /// Codes of the server's close frames, of all connections.
    pub closes: Vec<u16>,
    close_sent: bool,
    serial: u64,
    presence_clock: u64,
    /// How far its wall clock is off, in milliseconds.
    clock_error_ms: f64,
    dice: Dice,
    /// What was said before the upgrade was confirmed.
    waiting: Vec<u8>,
}

pub fn is_tombstone(value: &Value) -> bool {
    value.get("__deleted") == Some(&Value::Bool(true))
}

impl Peer {
    pub fn new(number: usize, kind: Kind, seed: u64) -> Self {
        Self {
            kind,
            id: format!("p{number}"),
            number,
            lives: 0,
            socket: None,
            upgraded: false,
            input: Vec::new(),
            copies: BTreeMap::new(),
            owed: Vec::new(),
            hindered_us: 0,
            is_throttled: false,
            waits_for_storage: false,
            waited_us_max: 0,
            unacknowledged: BTreeMap::new(),
            acknowledged: Vec::new(),
            may_be_dropped: false,
            may_be_refused: false,
            closes: Vec::new(),
            close_sent: false,
            serial: 0,
            presence_clock: 0,
            clock_error_ms: [0.0, -4_000.0, 0.0, 900.0, -90_000.0][(seed as usize + number) % 5],
            dice: Dice::new(seed ^ (number as u64) << 32),
            waiting: Vec::new(),
        }
    }

    pub fn is_online(&self) -> bool {
        self.socket.is_some() && !self.close_sent
    }

    /// What is still to be answered on the present connection.
    pub fn owed(&self) -> String {
        format!("{:?}", self.owed)
    }

    pub fn is_owed_nothing(&self) -> bool {
        self.owed.is_empty()
    }

    // ---- connection ----

    /// Connects; with `subscribe` asks for all its documents in one go.
    pub fn connect(&mut self, world: &mut World, subscribe: bool) {
        assert!(self.socket.is_none());
        let socket = world.connect();
        self.waits_for_storage = world.storage.is_some();
        self.socket = Some(socket);
        self.upgraded = false;
        self.close_sent = false;
        self.input.clear();
        self.waiting.clear();
        world.send(
            socket,
            b"GET /ws HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        self.owed.clear();
        let lost = !self.unacknowledged.is_empty();
        self.unacknowledged.clear();
        // An SDK that does not know what became of its edits, and half of all others, start as a reloaded page.
        if self.kind == Kind::Sdk && lost || self.dice.percent(50) {
            self.lives += 1;
            self.id = format!("p{}-{}", self.number, self.lives);
            self.presence_clock = 0;
            let documents: Vec<String> = self.copies.keys().cloned().collect();
            self.copies = documents.into_iter().map(|name| (name, Copy::new(&self.id))).collect();
        }
        for copy in self.copies.values_mut() {
            copy.stand = Stand::Out;
            copy.watches_presence = false;
            copy.presence.clear();
            copy.presence_is_contested |= copy.own_presence.take().is_some();
            copy.stamps.clear();
            copy.own_writes.clear();
        }
        let documents: Vec<String> = self.copies.keys().filter(|_| subscribe).cloned().collect();
        for document in documents {
            self.subscribe(world, &document);
        }
    }

    /// The socket ends without a close frame.
    pub fn vanish(&mut self, world: &mut World, in_order: bool) {
        let Some(socket) = self.socket.take() else { return };
        if in_order {
            world.finish(socket);
        } else {
            world.reset(socket);
        }
    }

    /// The connection is cut and nobody is told: the server still holds it when the client comes back.
    pub fn lose_touch(&mut self, world: &mut World) {
        if let Some(socket) = self.socket.take() {
            world.lose(socket);
        }
    }

    /// Says goodbye.
    pub fn leave(&mut self, world: &mut World) {
        if self.upgraded && !self.close_sent {
            self.frame(world, 0x88, &1000u16.to_be_bytes());
            self.close_sent = true;
        } else if !self.upgraded {
            self.vanish(world, false);
        }
    }

    // ---- sending ----

    fn frame(&mut self, world: &mut World, first: u8, payload: &[u8]) {
        let Some(socket) = self.socket else { return };
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..=125 => bytes.push(0x80 | len as u8),
            len @ 126..=65535 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let mask = (self.dice.roll() as u32).to_be_bytes();
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        if self.upgraded {
            world.send(socket, &bytes);
        } else {
            self.waiting.extend_from_slice(&bytes);
        }
    }

    /// A message in this client's dialect. Gives its id.
    fn say(&mut self, world: &mut World, kind: &str, fields: Value) -> String {
        self.serial += 1;
        let id = format!("{}-{}", self.id, self.serial);
        let Value::Object(fields) = fields else {
            unreachable!("fields are an object")
        };
        let mut payload = Map::new();
        if matches!(self.kind, Kind::Json | Kind::Goc) {
            payload.insert("type".into(), json!(kind));
            payload.insert("timestamp".into(), json!(world.true_unix_ms()));
        }
        if self.kind != Kind::Sdk {
            payload.insert("id".into(), json!(id));
        }
        payload.extend(fields);
        if self.kind == Kind::Goc
            && let Some(document) = payload.remove("documentId")
        {
            payload.insert("docId".into(), document);
        }
        let text = Value::Object(payload).to_string();
        let (opcode, data) = match self.kind {
            Kind::Json => (0x1, text.into_bytes()),
            _ => {
                let batch = self.kind == Kind::Goc && kind == "delta_batch";
                let code = if batch { 0x22 } else { frame::code_of(kind) };
                (0x2, frame::encode(code, world.true_unix_ms() as i64, text.as_bytes()))
            }
        };
        if self.dice.percent(10) {
            let cut = self.dice.below(data.len() + 1);
            self.frame(world, opcode, &data[..cut]);
            if self.dice.percent(30) {
                self.frame(world, 0x89, b"between");
            }
            self.frame(world, 0x80, &data[cut..]);
        } else {
            self.frame(world, 0x80 | opcode, &data);
        }
        id
    }

    fn owe(&mut self, world: &World, document: &str, what: Owed) {
        self.owed.push(Debt {
            what,
            asked_us: world.now.mono_us,
            own: self.copies.get(document).map_or(0, |copy| copy.own_writes.len()),
            acknowledged: world.acknowledged.get(document).map_or(0, Vec::len),
        });
    }

    pub fn subscribe(&mut self, world: &mut World, document: &str) {
        let id = self.id.clone();
        let copy = self.copies.entry(document.into()).or_insert_with(|| Copy::new(&id));
        if copy.stand == Stand::Leaving {
            return;
        }
        if copy.stand == Stand::Out {
            copy.stand = Stand::Asked;
        }
        let (unconfirmed, stand) = (copy.text_unconfirmed, copy.stand);
        self.owe(world, document, Owed::Sync(document.into()));
        // Only `subscribe` tells of deletions, which a copy from an earlier connection needs.
        let kind = if stand == Stand::In && self.dice.percent(40) {
            "sync_request"
        } else {
            "subscribe"
        };
        self.say(world, kind, json!({"documentId": document}));
        if unconfirmed {
            self.send_text(world, document);
        }
    }

    /// Subscribes once more, which tells it of deletions as well.
    pub fn ask_again(&mut self, world: &mut World, document: &str) {
        self.owe(world, document, Owed::Sync(document.into()));
        self.say(world, "subscribe", json!({"documentId": document}));
    }

    pub fn watch_presence(&mut self, world: &mut World, document: &str) {
        // Go-style clients get one message per entry, so the answer cannot be told from news.
        if self.kind == Kind::Goc || !self.is_in(document) {
            return;
        }
        self.owe(world, document, Owed::Presence(document.into()));
        self.copy(document).watches_presence = true;
        self.say(world, "awareness_subscribe", json!({"documentId": document}));
    }

    pub fn tell_presence(&mut self, world: &mut World, document: &str) {
        if !self.is_in(document) {
            return;
        }
        self.presence_clock += 1;
        let state = if self.dice.percent(15) {
            Value::Null
        } else {
            json!({"at": self.presence_clock})
        };
        let (id, clock) = (self.id.clone(), self.presence_clock);
        self.copy(document).own_presence = Some(state.clone());
        let fields = json!({"documentId": document, "clientId": id, "state": state, "clock": clock});
        self.say(world, "awareness_update", fields);
    }

    pub fn unsubscribe(&mut self, world: &mut World, document: &str) {
        let copy = self.copies.get(document).map(|copy| copy.stand);
        if copy != Some(Stand::In)
            || self
                .owed
                .iter()
                .any(|owed| matches!(&owed.what, Owed::Sync(name) | Owed::Presence(name) if name == document))
        {
            return;
        }
        let message_id = self.fresh("bye");
        self.owe(world, document, Owed::Ack(message_id.clone()));
        self.say(
            world,
            "unsubscribe",
            json!({"documentId": document, "messageId": message_id}),
        );
        let copy = self.copy(document);
        copy.stand = Stand::Leaving;
        copy.leaving_ack = message_id;
        copy.watches_presence = false;
        copy.presence.clear();
        copy.own_presence = None;
    }

    pub fn ping(&mut self, world: &mut World) {
        self.owe(world, "", Owed::Pong);
        self.say(world, "ping", json!({}));
    }

    /// Writes a field of its own that is never written again, so that a lost write shows.
    pub fn write_unique(&mut self, world: &mut World, document: &str, bytes: usize) {
        let field = self.fresh("u");
        let value = json!(format!("{field}:{}", "x".repeat(bytes)));
        self.write(world, document, &field, value, true);
    }

    /// Types into the field that only this client writes, over and over. Others do so with fields of their own.
    pub fn write_own(&mut self, world: &mut World, document: &str) {
        if self.kind != Kind::Sdk || !self.is_in(document) {
            return self.write_unique(world, document, 10);
        }
        let (field, value) = (self.own_field(), json!(self.fresh("typed")));
        self.copy(document).typed = Some(value.clone());
        self.write(world, document, &field, value, false);
    }

    fn own_field(&self) -> String {
        format!("own-{}", self.id)
    }

    /// Deletes a field of its own whose write was acknowledged. Only where the last write wins: a client with a clock may
    /// have written the field in an earlier life.
    pub fn delete_unique(&mut self, world: &mut World, document: &str) {
        if !matches!(self.kind, Kind::Json | Kind::Binary) || !self.is_in(document) {
            return;
        }
        let mine =
            |write: &Written| write.document == document && write.unique.iter().any(|(_, value)| !is_tombstone(value));
        let Some(at) = self.acknowledged.iter().rposition(mine) else {
            return;
        };
        let field = self.acknowledged.remove(at).unique.remove(0).0;
        world.deleted.insert(field.clone());
        self.write(world, document, &field, json!({"__deleted": true}), true);
    }

    /// Writes or deletes a field that others write, too.
    pub fn write_shared(&mut self, world: &mut World, document: &str) {
        // A Go-style client gets no echo of its own writes, so its copy of a contested field is not promised.
        if self.kind == Kind::Goc {
            return;
        }
        let field = format!("s{}", self.dice.below(5));
        let value = match self.dice.below(5) {
            0 => json!({"__deleted": true}),
            _ => json!(self.fresh("v")),
        };
        self.write(world, document, &field, value, false);
    }

    fn write(&mut self, world: &mut World, document: &str, field: &str, value: Value, unique: bool) {
        if !self.is_in(document) {
            return;
        }
        let message_id = self.fresh("m");
        self.owe(world, document, Owed::Ack(message_id.clone()));
        let unique = if unique {
            vec![(field.to_owned(), value.clone())]
        } else {
            Vec::new()
        };
        self.copy(document).own_writes.extend(unique.iter().cloned());
        let written = Written {
            document: document.into(),
            unique,
            characters: Vec::new(),
            by: self.id.clone(),
        };
        self.unacknowledged.insert(message_id.clone(), written);
        match self.kind {
            Kind::Sdk => {
                let time = world.true_unix_ms() as f64 + self.clock_error_ms + self.dice.below(400) as f64 - 200.0;
                let (id, text) = (self.id.clone(), value.to_string());
                let element = self.copy(document).sdk.edit(field, &text, time);
                let delta = json!({"type": "set", "documentId": document, "field": field, "value": value,
                    "clock": element.clock, "clientId": id, "timestamp": time as i64});
                self.say(
                    world,
                    "delta_batch",
                    json!({"documentId": document, "deltas": [delta], "messageId": message_id}),
                );
            }
            Kind::Goc => {
                self.copy(document).fields.insert(field.into(), value.clone());
                self.say(
                    world,
                    "delta",
                    json!({"documentId": document, "changes": {field: value}, "messageId": message_id}),
                );
            }
            Kind::Json | Kind::Binary => {
                self.say(
                    world,
                    "delta",
                    json!({"documentId": document, "delta": {field: value}, "messageId": message_id}),
                );
            }
        }
    }

    /// An operation that the server relays to everybody and never leaves out.
    pub fn change_set(&mut self, world: &mut World, document: &str, bytes: usize) {
        if self.kind == Kind::Goc || !self.is_in(document) {
            return;
        }
        let message_id = self.fresh("set");
        self.owe(world, document, Owed::Ack(message_id.clone()));
        let element = json!({"type": "set", "operation": "add", "value": "e".repeat(bytes), "documentId": document});
        self.say(
            world,
            "delta_batch",
            json!({"documentId": document, "deltas": [element], "messageId": message_id}),
        );
    }

    /// An operation that is passed on as it is and that no state holds. Gives its id.
    pub fn format(&mut self, world: &mut World, document: &str) -> String {
        let message_id = self.fresh("format");
        self.owe(world, document, Owed::Ack(message_id.clone()));
        let element = json!({"type": "richtext", "operation": "format", "documentId": document, "clientId": self.id,
            "opId": message_id, "attributes": {"bold": true}});
        self.say(
            world,
            "delta_batch",
            json!({"documentId": document, "deltas": [element], "messageId": message_id}),
        );
        message_id
    }

    /// Counts. Receivers add blindly, so everybody must get it exactly once.
    pub fn count(&mut self, world: &mut World, document: &str) -> f64 {
        if self.kind == Kind::Goc || !self.is_in(document) {
            return 0.0;
        }
        let message_id = self.fresh("count");
        let (amount, id) = ((1 + self.dice.below(9)) as f64, self.id.clone());
        let signed = if self.dice.percent(30) { -amount } else { amount };
        // Sometimes sent again, because the acknowledgement was slow to come; it counts once.
        for _ in 0..1 + u32::from(self.dice.percent(20)) {
            self.count_as(world, document, (&id, &message_id), signed);
        }
        self.copy(document).counted += signed;
        signed
    }

    /// Says a batch of a client that counts, which may be another one and have said it before.
    pub fn count_as(&mut self, world: &mut World, document: &str, (client, message_id): (&str, &str), signed: f64) {
        self.owe(world, document, Owed::Ack(message_id.to_owned()));
        let operation = if signed < 0.0 { "decrement" } else { "increment" };
        let amount = signed.abs();
        let element = json!({"type": "counter", "operation": operation, "value": amount, "clientId": client, "documentId": document});
        self.say(
            world,
            "delta_batch",
            json!({"documentId": document, "deltas": [element], "messageId": message_id}),
        );
    }

    pub fn edit_text(&mut self, world: &mut World, document: &str) {
        if self.kind == Kind::Goc || !self.is_in(document) {
            return;
        }
        let (at, word, count) = (self.dice.below(200), self.dice.below(26), 1 + self.dice.below(3));
        let delete = self.dice.percent(25);
        let text = &mut self.copy(document).text;
        let shown = text.visible.len();
        if delete && shown > 0 {
            text.delete(at % shown, count);
        } else {
            let letter = char::from(b'a' + word as u8);
            text.insert(at % (shown + 1), &letter.to_string().repeat(count));
        }
        self.send_text(world, document);
    }

    /// Writes the shared field of that number.
    pub fn write_contested(&mut self, world: &mut World, document: &str, number: usize) {
        let value = json!(self.fresh("v"));
        self.write(world, document, &format!("s{number}"), value, false);
    }

    /// Its wall clock is slow from now on.
    pub fn slow_down(&mut self) {
        self.clock_error_ms = -90_000.0;
    }

    /// Comes back and sends the text it had, without asking for the document first: writing subscribes as well.
    pub fn speak_first(&mut self, world: &mut World, document: &str) {
        self.copy(document).stand = Stand::In;
        self.send_text(world, document);
    }

    /// A word near the beginning of the text, or a part of it deleted, so that edits meet.
    pub fn type_word(&mut self, world: &mut World, document: &str) {
        if self.kind == Kind::Goc || !self.is_in(document) {
            return;
        }
        let (at, letter) = (self.dice.below(10), char::from(b'a' + self.dice.below(26) as u8));
        let (length, delete) = (2 + self.dice.below(8), self.dice.percent(20));
        let text = &mut self.copy(document).text;
        let shown = text.visible.len();
        if delete && shown > 0 {
            text.delete(at % shown, length / 2);
        } else {
            text.insert(at % (shown + 1), &letter.to_string().repeat(length));
        }
        self.send_text(world, document);
    }

    fn send_text(&mut self, world: &mut World, document: &str) {
        let message_id = self.fresh(&format!("text-{document}"));
        self.owe(world, document, Owed::Ack(message_id.clone()));
        let id = self.id.clone();
        let copy = self.copy(document);
        copy.text_unconfirmed = true;
        let written = Written {
            document: document.into(),
            unique: Vec::new(),
            characters: characters(&copy.text.blocks),
            by: id.clone(),
        };
        self.unacknowledged.insert(message_id.clone(), written);
        let copy = self.copy(document);
        let delta = json!({"type": "text-state", "state": copy.text.state(), "documentId": document, "clientId": id,
            "timestamp": world.true_unix_ms(), "clock": {id.clone(): copy.text.clock}});
        self.say(
            world,
            "delta_batch",
            json!({"documentId": document, "deltas": [delta], "messageId": message_id}),
        );
    }

    fn fresh(&mut self, what: &str) -> String {
        self.serial += 1;
        format!("{what}-{}-{}", self.id, self.serial)
    }

    fn is_in(&self, document: &str) -> bool {
        self.is_online()
            && self
                .copies
                .get(document)
                .is_some_and(|copy| matches!(copy.stand, Stand::Asked | Stand::In))
    }

    fn copy(&mut self, document: &str) -> &mut Copy {
        self.copies.get_mut(document).expect("a document of this client")
    }

    // ---- receiving ----

    /// Takes in what has arrived. Returns whether there was anything.
    pub fn take_in(&mut self, world: &mut World) -> bool {
        let Some(socket) = self.socket else { return false };
        let entry = &mut world.sockets[socket];
        let arrived = std::mem::take(&mut entry.to_client);
        let closed = entry.closed;
        self.input.extend_from_slice(&arrived);
        if !self.upgraded {
            let end = self.input.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else {
                return self.ended_early(closed);
            };
            assert!(
                self.input.starts_with(b"HTTP/1.1 101"),
                "{}",
                String::from_utf8_lossy(&self.input)
            );
            self.input.drain(..end + 4);
            self.upgraded = true;
            world.send(socket, &std::mem::take(&mut self.waiting));
        }
        while self.socket.is_some()
            && let Some((first, payload)) = self.next_frame()
        {
            self.received(world, first, payload);
        }
        if closed && self.may_be_dropped {
            self.socket = None;
        }
        self.nothing_is_late(world);
        if closed && self.socket.is_some() {
            assert!(self.input.is_empty(), "{}: the server closed within a frame", self.id);
            assert!(self.close_sent, "{}: closed without a close frame", self.id);
            self.socket = None;
        }
        !arrived.is_empty() || closed
    }

    /// No answer may be missing for longer than its bound, counted from when the client reads.
    fn nothing_is_late(&mut self, world: &World) {
        let Some(socket) = self.socket else { return };
        let now_us = world.now.mono_us;
        if world.sockets[socket].stalled_until_us > now_us {
            self.hindered_us = now_us;
        }
        for debt in &self.owed {
            let bound_us = match debt.what {
                Owed::Pong => PONG_US_MAX,
                _ if self.is_throttled => continue,
                _ if self.waits_for_storage => STORED_US_MAX,
                _ => ANSWER_US_MAX,
            };
            let since_us = debt.asked_us.max(self.hindered_us);
            assert!(
                since_us + bound_us >= now_us,
                "{} waits for {:?} for {} us: {}",
                self.id,
                debt.what,
                now_us - since_us,
                world.describe(socket)
            );
        }
    }

    fn ended_early(&mut self, closed: bool) -> bool {
        if closed {
            self.socket = None;
        }
        closed
    }

    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&first, &second) = (self.input.first()?, self.input.get(1)?);
        assert_eq!(second & 0x80, 0, "servers do not mask");
        let (head, len) = match second {
            126 => (
                4,
                u16::from_be_bytes(self.input.get(2..4)?.try_into().expect("two")) as usize,
            ),
            127 => (
                10,
                u64::from_be_bytes(self.input.get(2..10)?.try_into().expect("eight")) as usize,
            ),
            len => (2, usize::from(len)),
        };
        let payload = self.input.get(head..head + len)?.to_vec();
        self.input.drain(..head + len);
        Some((first, payload))
    }

    fn received(&mut self, world: &mut World, first: u8, payload: Vec<u8>) {
        match first {
            0x81 => {
                let body = frame::parse_json(&payload);
                let kind = body["type"].as_str().expect("a type").to_owned();
                assert_eq!(self.kind, Kind::Json, "text to {}", self.id);
                self.message(world, &kind, &body);
            }
            0x82 => {
                let (code, _, json) = frame::decode(&payload);
                assert_ne!(self.kind, Kind::Json, "binary to {}", self.id);
                self.message(world, frame::name_of(code), &frame::parse_json(json));
            }
            0x89 => self.frame(world, 0x8a, &payload),
            0x8a => {}
            0x88 => self.close_frame(world, &payload),
            other => panic!("{}: first byte {other:#x}", self.id),
        }
    }

    fn close_frame(&mut self, world: &mut World, payload: &[u8]) {
        if self.close_sent {
            return;
        }
        let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
        self.closes.push(code);
        self.frame(world, 0x88, payload);
        if let Some(socket) = self.socket.take() {
            world.finish(socket);
        }
    }

    fn message(&mut self, world: &mut World, kind: &str, body: &Value) {
        let document = body["documentId"]
            .as_str()
            .or(body["docId"].as_str())
            .unwrap_or_default()
            .to_owned();
        match kind {
            "sync_response" => {
                let debt = self.answered(world, &Owed::Sync(document.clone()));
                self.holds_what_was_written_before(world, &document, &debt, body);
                self.synced(&document, body);
            }
            "ack" => {
                let id = body["messageId"].as_str().expect("a message id").to_owned();
                self.answered(world, &Owed::Ack(id.clone()));
                self.acknowledge(world, &id);
            }
            "pong" => drop(self.answered(world, &Owed::Pong)),
            "delta" => {
                self.delta(&document, body);
                if self.kind == Kind::Json {
                    self.say(world, "ack", json!({"messageId": body["id"]}));
                }
            }
            "delta_batch" => self.batch(&document, body),
            "awareness_state" | "awareness_update" => self.presence(kind, &document, body),
            "error" if self.may_be_refused && is_of_storage(body) => self.vanish(world, false),
            other => panic!("{} got {other}: {body}", self.id),
        }
    }

    fn answered(&mut self, world: &World, answer: &Owed) -> Debt {
        let at = self.owed.iter().position(|owed| owed.what == *answer);
        let at = at.unwrap_or_else(|| panic!("{}: {answer:?} was not asked for; owed {:?}", self.id, self.owed));
        let debt = self.owed.remove(at);
        let waited_us = world.now.mono_us.saturating_sub(debt.asked_us.max(self.hindered_us));
        self.waited_us_max = self.waited_us_max.max(waited_us);
        debt
    }

    /// A snapshot has what this connection wrote before it asked, and what anybody had been acknowledged by then
    /// (docs/protocol.md §21).
    fn holds_what_was_written_before(&self, world: &World, document: &str, debt: &Debt, body: &Value) {
        let state = &body["state"];
        let own = self.copies[document].own_writes[..debt.own].iter();
        let own: BTreeMap<&str, &Value> = own.map(|(field, value)| (field.as_str(), value)).collect();
        for (field, value) in own {
            let expected = (!is_tombstone(value)).then_some(value);
            assert!(
                state.get(field) == expected,
                "{} ({:?}): its own write of {field} before its question about {document} is missing",
                self.id,
                self.kind
            );
        }
        let acknowledged = world
            .acknowledged
            .get(document)
            .map_or(&[][..], |all| &all[..debt.acknowledged]);
        for field in acknowledged {
            assert!(
                state.get(field).is_some() || world.deleted.contains(field),
                "{} ({:?}): {field} of {document} was acknowledged before it asked",
                self.id,
                self.kind
            );
        }
    }

    fn acknowledge(&mut self, world: &mut World, id: &str) {
        if let Some(written) = self.unacknowledged.remove(id) {
            let known = world.acknowledged.entry(written.document.clone()).or_default();
            let live = written.unique.iter().filter(|(_, value)| !is_tombstone(value));
            known.extend(live.map(|(field, _)| field.clone()));
            // A newer state of a text contains the older ones.
            let is_text = !written.characters.is_empty();
            self.acknowledged.retain(|older| {
                !is_text || older.characters.is_empty() || older.document != written.document || older.by != written.by
            });
            self.acknowledged.push(written);
        }
        for copy in self
            .copies
            .values_mut()
            .filter(|copy| copy.stand == Stand::Leaving && copy.leaving_ack == id)
        {
            copy.stand = Stand::Out;
        }
        // Whether the newest state is confirmed is all that matters: states contain those before them.
        let owed = |prefix: &str| {
            self.owed
                .iter()
                .any(|owed| matches!(&owed.what, Owed::Ack(id) if id.starts_with(prefix)))
        };
        for (document, copy) in &mut self.copies {
            let prefix = format!("text-{document}-");
            if id.starts_with(&prefix) && !owed(&prefix) {
                copy.text_unconfirmed = false;
            }
        }
    }

    fn synced(&mut self, document: &str, body: &Value) {
        let clock = clock_of(&body["clock"]);
        let (sdk, go) = (self.kind == Kind::Sdk, self.kind == Kind::Goc);
        let own = self.unacknowledged.values().filter(|write| write.document == document);
        let copy = self.copies.get_mut(document).expect("a document of this client");
        if copy.stand == Stand::Asked {
            copy.stand = Stand::In;
        }
        let state = body["state"].as_object().expect("a state");
        if let Some(server) = clock.get("server") {
            let newest = copy.stamps.values().max().copied().unwrap_or_default();
            assert!(
                *server >= newest,
                "a snapshot of {document} at {server} after a stamp of {newest}"
            );
            copy.synced_at = *server;
        }
        if sdk {
            copy.sdk.merge_clock(&clock);
            state
                .iter()
                .for_each(|(field, value)| copy.sdk.receive(field, &value.to_string(), &clock));
        } else {
            copy.fields = state
                .iter()
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect();
            // No echo comes to Go-style clients, so what the snapshot is too old for must stay.
            let own = own.filter(|_| go).flat_map(|write| write.unique.iter().cloned());
            copy.fields.extend(own);
        }
        if let Some(text) = body["textState"].as_str() {
            copy.text.receive(text);
        }
    }

    fn delta(&mut self, document: &str, body: &Value) {
        let (kind, id) = (self.kind, self.id.clone());
        let copy = self
            .copies
            .get_mut(document)
            .unwrap_or_else(|| panic!("{id}: a delta of {document}"));
        assert!(
            matches!(copy.stand, Stand::In | Stand::Leaving),
            "{id} ({kind:?}): a delta of {document} while {:?}: {body}",
            copy.stand
        );
        if kind == Kind::Goc {
            for (field, value) in body["changes"].as_object().expect("changes") {
                put(&mut copy.fields, field, value);
            }
            return;
        }
        let clock = clock_of(&body["clock"]);
        // Deletions that belong to a snapshot have its clock and not their stamps.
        let stamp = clock.get("server").filter(|stamp| **stamp != copy.synced_at);
        if let (Some(field), Some(&stamp)) = (body["field"].as_str(), stamp) {
            let newest = copy.stamps.entry(field.to_owned()).or_default();
            assert!(
                stamp >= *newest,
                "{id}: the stamp of {field} in {document} went from {newest} down to {stamp}"
            );
            *newest = stamp;
        }
        match (kind, body["field"].as_str()) {
            (Kind::Sdk, None) => copy.sdk.merge_clock(&clock),
            (Kind::Sdk, Some(field)) => {
                let typed = copy.typed.as_ref().map(Value::to_string);
                let before = copy.sdk.shown(field).map(str::to_owned);
                copy.sdk.receive(field, &body["value"].to_string(), &clock);
                // An own echo confirms; it never replaces what its author has typed since.
                let is_echo = !clock.contains_key("server");
                if is_echo && field == format!("own-{id}") && before == typed {
                    assert_eq!(
                        copy.sdk.shown(field),
                        typed.as_deref(),
                        "{id}: an echo of {field} in {document}"
                    );
                }
            }
            (_, Some(field)) => put(&mut copy.fields, field, &body["value"]),
            // Whoever subscribes to presence counts as an SDK and is told its own clock.
            (_, None) => {}
        }
    }

    fn batch(&mut self, document: &str, body: &Value) {
        let id = self.id.clone();
        let copy = self.copy(document);
        assert!(
            matches!(copy.stand, Stand::In | Stand::Leaving),
            "{id}: a batch of {document} while {:?}",
            copy.stand
        );
        for element in body["deltas"].as_array().expect("deltas") {
            match element["type"].as_str() {
                Some("text-state") => copy.text.receive(element["state"].as_str().expect("a state")),
                Some("set") => copy.relayed += 1,
                Some("richtext") => copy.formatted.push(element["opId"].as_str().expect("an id").to_owned()),
                Some("counter") => {
                    let value = element["value"].as_f64().expect("a number");
                    let sign = if element["operation"] == "decrement" { -1.0 } else { 1.0 };
                    copy.counted += sign * value;
                    copy.decrements += usize::from(sign < 0.0);
                }
                other => panic!("{id}: an element of type {other:?}"),
            }
        }
    }

    fn presence(&mut self, kind: &str, document: &str, body: &Value) {
        let at = self
            .owed
            .iter()
            .position(|owed| owed.what == Owed::Presence(document.into()));
        let Some(copy) = self.copies.get_mut(document) else {
            panic!("{}: presence of {document}", self.id)
        };
        if kind == "awareness_state" && self.kind != Kind::Goc {
            let states = body["states"].as_array().expect("states");
            let entry = |entry: &Value| {
                (
                    entry["clientId"].as_str().expect("a client").to_owned(),
                    entry["state"].clone(),
                )
            };
            copy.presence = states.iter().map(entry).collect();
            if let Some(at) = at {
                self.owed.remove(at);
            }
            return;
        }
        let client = body["clientId"].as_str().expect("a client").to_owned();
        if body["state"].is_null() {
            copy.presence.remove(&client);
        } else {
            copy.presence.insert(client, body["state"].clone());
        }
    }

    /// The fields this client shows, of those named.
    pub fn shown(&self, document: &str, names: &[String]) -> BTreeMap<String, Value> {
        let copy = &self.copies[document];
        if self.kind != Kind::Sdk {
            return copy.fields.clone();
        }
        let shown = names.iter().filter_map(|name| {
            let text = copy.sdk.shown(name)?;
            let value: Value = serde_json::from_str(text).expect("written as JSON");
            (!is_tombstone(&value)).then(|| (name.clone(), value))
        });
        shown.collect()
    }
}

fn put(fields: &mut BTreeMap<String, Value>, field: &str, value: &Value) {
    if is_tombstone(value) {
        fields.remove(field);
    } else {
        fields.insert(field.into(), value.clone());
    }
}

/// The characters of a text, each with whether it was deleted.
fn characters(blocks: &text_client::Blocks) -> Vec<(text_client::Id, bool)> {
    let all = blocks.iter().flat_map(|((last, client), block)| {
        let numbers = block.first(*last)..=*last;
        numbers.map(|number| ((number, client.clone()), block.deleted))
    });
    all.collect()
}

/// What a write that was acknowledged put into a text is there, and what it deleted is deleted.
pub fn assert_text_holds(written: &Written, blocks: &text_client::Blocks) {
    if written.characters.is_empty() {
        return;
    }
    let present: BTreeMap<text_client::Id, bool> = characters(blocks).into_iter().collect();
    for (character, deleted) in &written.characters {
        let found = present.get(character);
        assert!(
            found.is_some_and(|found| *found || !deleted),
            "{character:?} of the text of {}, deleted {deleted}, was acknowledged and is {found:?}",
            written.document
        );
    }
}

/// A refusal because of the database: of a moment, of a document, or of a row.
fn is_of_storage(body: &Value) -> bool {
    body["details"]["retryable"] == true || body["code"] == "INTERNAL_ERROR"
}

fn clock_of(clock: &Value) -> Clock {
    let entries = clock.as_object().expect("a clock").iter();
    let clock: Clock = entries
        .map(|(name, value)| (name.clone(), value.as_u64().expect("a counter")))
        .collect();
    assert!(!clock.is_empty(), "an empty clock makes the SDK throw");
    assert!(
        clock.values().all(|value| *value < 1 << 53),
        "JavaScript cannot hold {clock:?}"
    );
    clock
}
