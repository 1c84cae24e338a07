//! Models of the four kinds of clients that keep a copy of one document, each with its own merge rules.

use super::client::{Client, Dialect, Message};
use super::server::Server;
use super::unix_ms;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Live fields of a document.
pub type Fields = BTreeMap<String, Value>;

/// Whether a value is the tombstone of docs/protocol.md §9.1.
pub fn is_tombstone(value: &Value) -> bool {
    value.get("__deleted") == Some(&Value::Bool(true))
}

/// The tombstone.
pub fn tombstone() -> Value {
    json!({"__deleted": true})
}

/// A client with a copy of one document.
pub trait Replica {
    /// What to call it in a failure.
    fn name(&self) -> &str;
    /// Writes a field as its user would.
    fn write(&mut self, field: &str, value: Value);
    /// Takes in what arrives within the time given; true if anything did.
    fn pump(&mut self, within: Duration) -> bool;
    /// What its user sees, without deleted fields.
    fn fields(&self) -> Fields;
}

/// Pumps all replicas until none receives anything any more, and gives the copies.
pub fn settle(replicas: &mut [Box<dyn Replica>]) -> Vec<(String, Fields)> {
    let mut quiet_since = Instant::now();
    let deadline = Instant::now() + super::PATIENCE;
    while quiet_since.elapsed() < super::SILENCE {
        assert!(Instant::now() < deadline, "the server never stops sending");
        for replica in replicas.iter_mut() {
            if replica.pump(Duration::from_millis(1)) {
                quiet_since = Instant::now();
            }
        }
    }
    replicas
        .iter()
        .map(|replica| (replica.name().to_owned(), replica.fields()))
        .collect()
}

/// Settles and panics unless all copies are equal; gives the copy.
pub fn assert_converged(replicas: &mut [Box<dyn Replica>]) -> Fields {
    let copies = settle(replicas);
    let (first_name, first) = &copies[0];
    for (name, copy) in &copies {
        assert_eq!(copy, first, "{name} differs from {first_name}");
    }
    first.clone()
}

/// RAW, CSC and GOC: the copy follows what arrives.
pub struct Plain {
    client: Client,
    name: String,
    document: String,
    fields: Fields,
}

impl Plain {
    /// Connects and subscribes.
    pub fn join(server: &Server, dialect: Dialect, document: &str) -> Self {
        let mut client = Client::connect(server, dialect);
        client.greet();
        let snapshot = client.subscribe(document);
        let mut plain = Self {
            client,
            name: format!("{dialect:?}"),
            document: document.to_owned(),
            fields: Fields::new(),
        };
        plain.absorb(&snapshot);
        plain
    }

    /// The connection.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    fn absorb(&mut self, message: &Message) {
        match message.kind.as_str() {
            "sync_response" if message["documentId"] == self.document.as_str() => {
                let state = message["state"].as_object().expect("state is an object");
                self.fields = state
                    .iter()
                    .map(|(field, value)| (field.clone(), value.clone()))
                    .collect();
            }
            "delta" if message["documentId"] == self.document.as_str() => {
                if let Some(changes) = message["changes"].as_object() {
                    assert_eq!(self.client.dialect(), Dialect::Goc, "changes sent to {}", self.name);
                    assert_eq!(
                        message["docId"],
                        self.document.as_str(),
                        "docId is sent to docId connections"
                    );
                    let changes = changes.clone();
                    changes.into_iter().for_each(|(field, value)| self.set(field, value));
                } else {
                    let field = message["field"].as_str().expect("a delta has a field").to_owned();
                    assert!(message.has("value"), "a delta has a value: {}", message.body);
                    self.set(field, message["value"].clone());
                    if self.client.dialect() == Dialect::Json {
                        self.client.say("ack", json!({"messageId": message["id"]}));
                    }
                }
            }
            "error" => panic!("{} got an error: {}", self.name, message.body),
            _ => {}
        }
    }

    fn set(&mut self, field: String, value: Value) {
        if is_tombstone(&value) {
            self.fields.remove(&field);
        } else {
            self.fields.insert(field, value);
        }
    }
}

impl Replica for Plain {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, field: &str, value: Value) {
        // GOC gets no echo of its own writes and shows them at once; the others follow the echo.
        if self.client.dialect() == Dialect::Goc {
            self.set(field.to_owned(), value.clone());
        }
        let document = self.document.clone();
        self.client.write(&document, json!({ field: value }));
    }

    fn pump(&mut self, within: Duration) -> bool {
        let messages = self.client.drain_for(within);
        messages.iter().for_each(|message| self.absorb(message));
        assert!(!self.client.ended(), "{} lost its connection", self.name);
        !messages.is_empty()
    }

    fn fields(&self) -> Fields {
        self.fields.clone()
    }
}

/// SDK 0.3.0: vector clock, last write wins by (clock, client id, JSON text), batches, offline edits.
pub struct Sdk {
    client: Option<Client>,
    id: String,
    document: String,
    clock: BTreeMap<String, u64>,
    held: BTreeMap<String, (u64, String, String)>,
    pending: Vec<Value>,
    batches: u64,
    /// Milliseconds the wall clock of this client is off.
    pub skew_ms: i64,
    /// Every value an own edit did not show at once because a greater clock was held.
    pub hidden_edits: usize,
}

impl Sdk {
    /// Connects and subscribes.
    pub fn join(server: &Server, id: &str, document: &str) -> Self {
        let mut sdk = Self::offline(id, document);
        sdk.reconnect(server);
        sdk
    }

    /// A client that has not connected yet.
    pub fn offline(id: &str, document: &str) -> Self {
        Self {
            client: None,
            id: id.to_owned(),
            document: document.to_owned(),
            clock: BTreeMap::new(),
            held: BTreeMap::new(),
            pending: Vec::new(),
            batches: 0,
            skew_ms: 0,
            hidden_edits: 0,
        }
    }

    /// The connection; panics while offline.
    pub fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("online")
    }

    /// Connects, subscribes, applies the snapshot, then sends what was edited meanwhile.
    pub fn reconnect(&mut self, server: &Server) {
        let mut client = Client::connect(server, Dialect::Sdk);
        let snapshot = client.subscribe(&self.document);
        self.client = Some(client);
        self.absorb(&snapshot);
        self.flush();
    }

    /// Loses the connection; edits are kept until [`Sdk::reconnect`].
    pub fn go_offline(&mut self) {
        if let Some(client) = self.client.take() {
            client.vanish();
        }
    }

    /// Edits without sending.
    pub fn edit(&mut self, field: &str, value: Value) {
        let own = self.clock.get(&self.id).copied().unwrap_or(0) + 1;
        self.clock.insert(self.id.clone(), own);
        let id = self.id.clone();
        self.apply(field, own, &id, &value);
        if self.held[field].2.as_str() != value.to_string().as_str() {
            self.hidden_edits += 1;
        }
        self.pending.push(json!({
            "type": "set", "documentId": self.document, "field": field, "value": value,
            "clock": self.clock, "clientId": self.id, "timestamp": unix_ms() + self.skew_ms,
        }));
    }

    /// Sends the edits collected, 50 a batch.
    pub fn flush(&mut self) {
        let Some(client) = self.client.as_mut() else { return };
        for elements in std::mem::take(&mut self.pending).chunks(50) {
            self.batches += 1;
            let message_id = format!("msg-{}-{}", self.id, self.batches);
            client.say(
                "delta_batch",
                json!({"documentId": self.document, "deltas": elements, "messageId": message_id}),
            );
        }
    }

    fn apply(&mut self, field: &str, clock: u64, writer: &str, value: &Value) {
        let incoming = (clock, writer.to_owned(), value.to_string());
        match self.held.get(field) {
            Some(held) if *held >= incoming => {}
            _ => drop(self.held.insert(field.to_owned(), incoming)),
        }
    }

    /// Takes in one message from the server, checking what the SDK relies on.
    pub fn absorb(&mut self, message: &Message) {
        match message.kind.as_str() {
            "sync_response" => {
                let greatest = self.merge_clock(&message["clock"]);
                let state = message["state"].as_object().expect("state is an object").clone();
                for (field, value) in state {
                    self.apply(&field, greatest, "server", &value);
                }
            }
            "delta" => {
                let greatest = self.merge_clock(&message["clock"]);
                assert_eq!(message["clientId"], "server", "{}", message.body);
                if let Some(field) = message["field"].as_str().map(str::to_owned) {
                    assert!(message.has("value"), "a delta has a value: {}", message.body);
                    self.apply(&field, greatest, "server", &message["value"].clone());
                }
            }
            "error" => panic!("{} got an error: {}", self.id, message.body),
            "sync_step1" | "sync_step2" => panic!("the SDK does not know {}", message.kind),
            "delta_batch" => assert_eq!(message.code, Some(0x50), "the SDK knows only 0x50"),
            _ => {}
        }
    }

    /// Invariant (c) of §9.4 and the maximum the SDK computes.
    fn merge_clock(&mut self, clock: &Value) -> u64 {
        let entries: &Map<String, Value> = clock.as_object().expect("a clock");
        assert!(!entries.is_empty(), "an empty clock makes the SDK throw");
        let mut greatest = 0;
        for (client, counter) in entries {
            let counter = counter
                .as_u64()
                .unwrap_or_else(|| panic!("clock entry {client}: {counter}"));
            assert!(counter < 1 << 53, "clock entry {client}: {counter}");
            greatest = greatest.max(counter);
            let known = self.clock.entry(client.clone()).or_default();
            *known = counter.max(*known);
        }
        greatest
    }
}

impl Replica for Sdk {
    fn name(&self) -> &str {
        &self.id
    }

    fn write(&mut self, field: &str, value: Value) {
        self.edit(field, value);
        self.flush();
    }

    fn pump(&mut self, within: Duration) -> bool {
        let Some(client) = self.client.as_mut() else {
            return false;
        };
        let messages = client.drain_for(within);
        assert!(!client.ended(), "{} lost its connection", self.id);
        messages.iter().for_each(|message| self.absorb(message));
        !messages.is_empty()
    }

    fn fields(&self) -> Fields {
        let parse = |(field, (_, _, text)): (&String, &(u64, String, String))| {
            (
                field.clone(),
                serde_json::from_str::<Value>(text).expect("written by this client"),
            )
        };
        self.held
            .iter()
            .map(parse)
            .filter(|(_, value)| !is_tombstone(value))
            .collect()
    }
}
