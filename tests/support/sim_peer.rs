//! A client of the simulated mesh: writes real bytes (HTTP upgrade, masked frames, all dialects), keeps a copy of every
//! document as its kind does, and remembers which answers it is owed.

#![allow(dead_code, reason = "each test file uses its part")]

#[path = "sim_hearing.rs"]
mod hearing;

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

/// The same if that goes away: a write waits 5 s for its document and 5 s for its commit.
const AWAY_US_MAX: u64 = 10_000_000;
/// And so long a connection with that much under way is not read (docs/durability.md §3).
const UNREAD_US_MAX: u64 = AWAY_US_MAX + 1_500_000;

/// Clients look at least so often, while time passes.
const LOOKING_US_MAX: u64 = 100_000;

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
    /// The `ack` of an `unsubscribe`, which waits for no write.
    Goodbye(String),
    Sync(String),
    Pong,
    Presence(String),
}

/// An answer the server owes, since when, and how much had been written by then.
#[derive(Clone, Debug)]
struct Debt {
    what: Owed,
    asked_us: u64,
    document: String,
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
    /// In the order of asking.
    owed: Vec<Debt>,
    /// Until then it did not read.
    hindered_us: u64,
    /// Since when, without a pause.
    hindered_from_us: u64,
    /// Its messages are handled at a limited rate, so only a `pong` has a bound.
    pub is_throttled: bool,
    /// Its server has a database.
    waits_for_storage: bool,
    /// And that may be away for long.
    pub storage_goes_away: bool,
    /// The longest time an answer took.
    pub waited_us_max: u64,
    unacknowledged: BTreeMap<String, Written>,
    /// Writes that were acknowledged.
    pub acknowledged: Vec<Written>,
    /// It reads nothing for so long that the server may drop it in the middle of anything.
    pub may_be_dropped: bool,
    /// A write may take longer to store than the server waits; then it comes back as after a lost connection.
    pub may_be_refused: bool,
    /// How often that happened.
    pub refusals: usize,
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
            hindered_from_us: 0,
            is_throttled: false,
            waits_for_storage: false,
            storage_goes_away: false,
            waited_us_max: 0,
            unacknowledged: BTreeMap::new(),
            acknowledged: Vec::new(),
            may_be_dropped: false,
            may_be_refused: false,
            refusals: 0,
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
            document: document.to_owned(),
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
        self.owe(world, document, Owed::Goodbye(message_id.clone()));
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

/// A client shows what a late joiner was told, in these fields.
pub fn same_fields(who: &str, shown: &BTreeMap<String, Value>, truth: &BTreeMap<String, Value>) {
    let brief = |value: Option<&Value>| value.map(|value| value.to_string().chars().take(60).collect::<String>());
    for name in shown.keys().chain(truth.keys()) {
        let (one, other) = (shown.get(name), truth.get(name));
        assert!(
            one == other,
            "{who}: {name} is {:?}, a late joiner has {:?}",
            brief(one),
            brief(other)
        );
    }
}
