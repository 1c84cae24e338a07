//! One person at a node: writes fields, types, counts, changes a set and shows itself as one of the four kinds of clients
//! would, keeps the copy that client would show, and remembers what was acknowledged.

use crate::nodes::Nodes;
use crate::sdk_model::{Clock, SdkReplica};
use crate::support::crowd::{Member, Received};
use crate::support::{Dialect, Message, frame, unix_ms};
use crate::text_client;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Fields and set values that everybody of a document changes.
const SHARED: u64 = 5;

/// See the module documentation.
pub struct Person {
    pub number: usize,
    pub dialect: Dialect,
    pub document: String,
    /// The node it would like to be at.
    pub wish: usize,
    at: Option<(usize, Member)>,
    fields: Map<String, Value>,
    sdk: SdkReplica,
    pub text: text_client::Client,
    pub present: BTreeMap<String, Value>,
    /// What its set shows; `None` where it may have missed something that nobody tells it again.
    pub members: Option<BTreeSet<String>>,
    /// What its counter shows.
    pub counted: f64,
    /// It has been told what there was when it came.
    pub is_in: bool,
    /// It has been told everything, being at one node all the time.
    pub stayed: bool,
    /// Own writes sent and acknowledged; the last one is what the own field must show at least.
    pub sent: u64,
    pub acknowledged: u64,
    /// What it has added to the counter, and what was acknowledged.
    pub count_sent: f64,
    pub count_acknowledged: f64,
    /// Values it alone has added to the set and that were acknowledged.
    pub added: BTreeSet<String>,
    owed: BTreeMap<String, Owed>,
    /// Letters typed, and those that are in an acknowledged state.
    typed: usize,
    typed_acknowledged: usize,
    awareness_clock: u64,
    serial: u64,
    lives: u64,
}

/// What becomes true with an acknowledgement.
enum Owed {
    Write(u64, Value),
    Count(f64),
    Member(String),
    Letters(usize),
    Other,
}

impl Person {
    pub fn new(number: usize, dialect: Dialect, document: &str, wish: usize) -> Self {
        let name = format!("person-{number}");
        Self {
            number,
            dialect,
            document: document.to_owned(),
            wish,
            at: None,
            fields: Map::new(),
            sdk: SdkReplica::new(name.clone(), None),
            text: text_client::Client::new(&name),
            present: BTreeMap::new(),
            members: Some(BTreeSet::new()),
            counted: 0.0,
            is_in: false,
            stayed: true,
            sent: 0,
            acknowledged: 0,
            count_sent: 0.0,
            count_acknowledged: 0.0,
            added: BTreeSet::new(),
            owed: BTreeMap::new(),
            typed: 0,
            typed_acknowledged: 0,
            awareness_clock: 0,
            serial: 0,
            lives: 0,
        }
    }

    /// The name it shows itself under.
    pub fn name(&self) -> String {
        self.sdk.client_id.clone()
    }

    /// The field only this person writes.
    pub fn own_field(&self) -> String {
        format!("own-{}", self.number)
    }

    /// The node it is at.
    pub fn node(&self) -> Option<usize> {
        self.at.as_ref().map(|(node, _)| *node)
    }

    /// Whether everything it said on the present connection is acknowledged.
    pub fn is_owed_nothing(&self) -> bool {
        self.owed.is_empty()
    }

    // ---- speaking ----

    fn say(&mut self, kind: &str, fields: Value) {
        if let Some((_, member)) = &mut self.at {
            self.serial += 1;
            say_as(member, self.dialect, &format!("m{}", self.serial), kind, fields);
        }
    }

    /// Says something that is acknowledged by this name.
    fn say_owed(&mut self, id: &str, kind: &str, mut fields: Value, owed: Owed) {
        let Some((_, member)) = &mut self.at else { return };
        self.owed.insert(id.to_owned(), owed);
        fields["messageId"] = id.into();
        say_as(member, self.dialect, id, kind, fields);
    }

    fn batch(&mut self, id: &str, element: Value, owed: Owed) {
        let document = self.document.clone();
        self.say_owed(
            id,
            "delta_batch",
            json!({"documentId": document, "deltas": [element]}),
            owed,
        );
    }

    /// Connects if it is not, to the wished node or another living one.
    pub fn come(&mut self, nodes: &Nodes) {
        if self.at.is_some() {
            return;
        }
        if self.lives > 0 {
            self.come_back();
        }
        self.lives += 1;
        let node = nodes.living(self.wish);
        self.at = Some((node, Member::connect(nodes.server(node).address())));
        let document = json!({"documentId": self.document});
        self.say("subscribe", document.clone());
        self.say("awareness_subscribe", document);
        self.show();
        if self.text.clock > 0 {
            self.send_text_state();
        }
    }

    /// What is left of an earlier connection.
    fn come_back(&mut self) {
        self.stayed = false;
        self.present.clear();
        // Only the SDK is told the members again.
        self.members = (self.dialect == Dialect::Sdk).then(BTreeSet::new);
        if !std::mem::take(&mut self.owed).is_empty() && self.dialect == Dialect::Sdk {
            // It cannot know what became of its edits, and starts as a reloaded page.
            let name = format!("person-{}-{}", self.number, self.lives);
            self.text = text_client::Client::new(&name);
            self.sdk = SdkReplica::new(name, None);
            self.typed = self.typed_acknowledged;
        }
    }

    /// Leaves without a word.
    pub fn vanish(&mut self) {
        self.at = None;
    }

    /// Shows itself to the others.
    pub fn show(&mut self) {
        self.awareness_clock += 1;
        let (client, clock, document) = (self.name(), self.awareness_clock, self.document.clone());
        let state = json!({"cursor": clock, "name": client});
        let mut update = json!({"documentId": document, "clientId": client, "state": state});
        if self.dialect != Dialect::Goc {
            update["clock"] = clock.into();
        }
        self.say("awareness_update", update);
    }

    /// Writes its own field, and one it shares with everybody.
    pub fn write(&mut self) {
        self.sent += 1;
        let (own, value) = (self.own_field(), json!(self.sent));
        let (document, id) = (self.document.clone(), format!("w{}", self.sent));
        let shared = (
            format!("shared-{}", self.sent % SHARED),
            json!(format!("{} {}", self.number, self.sent)),
        );
        let owed = Owed::Write(self.sent, value.clone());
        match self.dialect {
            Dialect::Sdk => {
                let edits = [(own, value), shared];
                let elements: Vec<Value> = edits
                    .into_iter()
                    .map(|(field, value)| self.edit(&field, &value))
                    .collect();
                self.say_owed(
                    &id,
                    "delta_batch",
                    json!({"documentId": document, "deltas": elements}),
                    owed,
                );
            }
            Dialect::Goc => {
                // It gets no echo and shows what it wrote at once, so of contested fields nothing is promised to it.
                self.fields.insert(own.clone(), value.clone());
                self.say_owed(
                    &id,
                    "delta",
                    json!({"documentId": document, "changes": {own: value}}),
                    owed,
                );
            }
            Dialect::Json | Dialect::Binary => {
                let delta = json!({own: value, shared.0: shared.1});
                let write = json!({"documentId": document, "delta": delta, "vectorClock": {}});
                self.say_owed(&id, "delta", write, owed);
            }
        }
    }

    /// An edit of the SDK.
    fn edit(&mut self, field: &str, value: &Value) -> Value {
        let now = unix_ms();
        let element = self.sdk.edit(field, &value.to_string(), now as f64);
        json!({"type": "set", "documentId": self.document, "field": field, "value": value, "clock": element.clock,
            "clientId": self.sdk.client_id, "timestamp": now})
    }

    /// Counts, or counts back.
    pub fn count(&mut self, amount: f64) {
        let id = self.fresh("c");
        let element = self.counting(amount);
        self.count_sent += amount;
        self.counted += amount;
        self.batch(&id, element, Owed::Count(amount));
    }

    fn counting(&self, amount: f64) -> Value {
        let operation = if amount < 0.0 { "decrement" } else { "increment" };
        json!({"type": "counter", "operation": operation, "value": amount.abs(), "clientId": self.name(),
            "documentId": self.document, "timestamp": unix_ms()})
    }

    /// Counts, loses its connection, and says the same batch again, twice, to another node.
    pub fn count_and_move(&mut self, nodes: &Nodes, amount: f64) {
        if self.at.is_none() {
            return;
        }
        let id = format!("c{}-{}", self.lives, self.serial + 1);
        let element = self.counting(amount);
        self.count(amount);
        self.vanish();
        self.wish = (self.wish + 1) % nodes.servers.len();
        self.come(nodes);
        self.batch(&id, element.clone(), Owed::Count(amount));
        self.batch(&id, element, Owed::Count(amount));
    }

    /// Changes the set: a value of its own that stays, or one that everybody adds and removes.
    pub fn change_set(&mut self, choice: u64) {
        let id = self.fresh("s");
        let (operation, value) = match choice % 4 {
            0 => ("add", format!("own-{}-{id}", self.number)),
            1 => ("remove", format!("shared-{}", choice / 4 % SHARED)),
            _ => ("add", format!("shared-{}", choice / 4 % SHARED)),
        };
        let owed = match choice % 4 {
            0 => Owed::Member(value.clone()),
            _ => Owed::Other,
        };
        let element = json!({"type": "set", "operation": operation, "value": value, "clientId": self.name(),
            "documentId": self.document, "timestamp": unix_ms()});
        self.batch(&id, element, owed);
    }

    /// Types a letter at the end.
    pub fn type_letter(&mut self) {
        let end = self.text.shown().chars().count();
        let letter = self.letter();
        self.text.insert(end, &letter.to_string());
        self.typed += 1;
        self.send_text_state();
    }

    fn letter(&self) -> char {
        char::from(b'a' + (self.number % 26) as u8)
    }

    fn send_text_state(&mut self) {
        let (client, clock) = (self.text.id.clone(), self.text.clock);
        let element = json!({"type": "text-state", "documentId": self.document, "state": self.text.state(),
            "clientId": client, "timestamp": unix_ms(), "clock": {client.clone(): clock}});
        let id = self.fresh("t");
        self.batch(&id, element, Owed::Letters(self.typed));
    }

    fn fresh(&mut self, what: &str) -> String {
        self.serial += 1;
        format!("{what}{}-{}", self.lives, self.serial)
    }

    // ---- listening ----

    /// Takes in what has arrived; true if anything has.
    pub fn pump(&mut self) -> bool {
        let Some((_, member)) = &mut self.at else { return false };
        let received = member.poll();
        let any = !received.is_empty();
        for one in received {
            match one {
                Received::Message(message) => self.absorb(&message),
                Received::Pong(_) => {}
                Received::Close(..) | Received::End => self.at = None,
            }
        }
        any
    }

    fn absorb(&mut self, message: &Message) {
        match message.kind.as_str() {
            "sync_response" => self.synced(message),
            "delta" => self.changed(message),
            "delta_batch" => {
                for element in message["deltas"].as_array().expect("elements") {
                    self.operation(element);
                }
            }
            "ack" => self.acknowledged(message["messageId"].as_str().expect("a message id")),
            "awareness_update" => self.seen(message["clientId"].as_str().expect("a client"), &message["state"]),
            "awareness_state" => {
                // Go-style clients get one message per entry.
                if self.dialect != Dialect::Goc {
                    self.present.clear();
                }
                for entry in message["states"].as_array().expect("states") {
                    self.seen(entry["clientId"].as_str().expect("a client"), &entry["state"]);
                }
            }
            "error" => panic!("person {} got {}", self.number, message.body),
            _ => {}
        }
    }

    fn synced(&mut self, message: &Message) {
        self.is_in = true;
        let state = message["state"].as_object().expect("an object");
        if self.dialect == Dialect::Sdk {
            self.told(state.iter(), &message["clock"]);
        } else {
            self.fields = state.clone();
            // What was written behind the question is not in the answer and, to a Go-style client, is not said later.
            let unanswered = self.owed.values().filter(|_| self.dialect == Dialect::Goc);
            let writes = unanswered.filter_map(|owed| match owed {
                Owed::Write(number, value) => Some((*number, value.clone())),
                _ => None,
            });
            if let Some((_, value)) = writes.max_by_key(|(number, _)| *number) {
                self.fields.insert(self.own_field(), value);
            }
        }
        if let Some(state) = message["textState"].as_str() {
            self.text.receive(state);
        }
    }

    fn changed(&mut self, message: &Message) {
        if self.dialect == Dialect::Sdk {
            let field = message["field"].as_str().map(str::to_owned);
            let told = field.iter().map(|field| (field, &message["value"]));
            return self.told(told, &message["clock"]);
        }
        if let Some(changes) = message["changes"].as_object() {
            assert_eq!(self.dialect, Dialect::Goc, "{}", message.body);
            self.fields.extend(changes.clone());
        } else if let Some(field) = message["field"].as_str() {
            // Whoever tells presence is told its own clock, in a delta without a field.
            self.fields.insert(field.to_owned(), message["value"].clone());
        }
    }

    /// The SDK decides by the clock; `fields` only remembers which names it knows.
    fn told<'a>(&mut self, fields: impl Iterator<Item = (&'a String, &'a Value)>, clock: &Value) {
        let entries = clock.as_object().expect("a clock").iter();
        let clock: Clock = entries
            .map(|(name, value)| (name.clone(), value.as_u64().expect("a counter")))
            .collect();
        assert!(!clock.is_empty(), "an empty clock makes the SDK throw");
        self.sdk.merge_clock(&clock);
        for (field, value) in fields {
            self.sdk.receive(field, &value.to_string(), &clock);
            self.fields.insert(field.clone(), Value::Null);
        }
    }

    fn operation(&mut self, element: &Value) {
        match element["type"].as_str() {
            Some("text-state") => self.text.receive(element["state"].as_str().expect("a state")),
            Some("counter") => {
                let value = element["value"].as_f64().expect("a number");
                self.counted += if element["operation"] == "decrement" {
                    -value
                } else {
                    value
                };
            }
            Some("set") => {
                let (members, value) = (self.members.as_mut(), element["value"].as_str().expect("a text"));
                match (members, element["operation"].as_str()) {
                    (Some(members), Some("add")) => drop(members.insert(value.to_owned())),
                    (Some(members), Some("remove")) => drop(members.remove(value)),
                    _ => {}
                }
            }
            other => panic!("person {} got an element of type {other:?}", self.number),
        }
    }

    fn acknowledged(&mut self, id: &str) {
        match self.owed.remove(id) {
            Some(Owed::Write(number, _)) => self.acknowledged = self.acknowledged.max(number),
            Some(Owed::Count(amount)) => self.count_acknowledged += amount,
            Some(Owed::Member(value)) => drop(self.added.insert(value)),
            Some(Owed::Letters(typed)) => self.typed_acknowledged = self.typed_acknowledged.max(typed),
            Some(Owed::Other) | None => {}
        }
    }

    fn seen(&mut self, client: &str, state: &Value) {
        match state {
            Value::Null => drop(self.present.remove(client)),
            state => drop(self.present.insert(client.to_owned(), state.clone())),
        }
    }

    // ---- what it shows ----

    /// The fields it shows.
    pub fn shown(&self) -> Map<String, Value> {
        if self.dialect != Dialect::Sdk {
            return self.fields.clone();
        }
        let shown = |field: &String| {
            let text = self.sdk.shown(field)?;
            Some((field.clone(), serde_json::from_str(text).expect("written as JSON")))
        };
        self.fields.keys().filter_map(shown).collect()
    }

    /// Letters it typed are all there.
    pub fn typed_is_shown(&self) -> bool {
        self.text.shown().matches(self.letter()).count() >= self.typed
    }
}

/// Sends a message as a client of that kind does.
pub fn say_as(member: &mut Member, dialect: Dialect, id: &str, kind: &str, fields: Value) {
    let Value::Object(mut payload) = fields else {
        unreachable!("fields are an object")
    };
    let now = unix_ms();
    if matches!(dialect, Dialect::Json | Dialect::Goc) {
        payload.insert("type".into(), kind.into());
        payload.insert("timestamp".into(), now.into());
    }
    if dialect != Dialect::Sdk {
        payload.insert("id".into(), id.into());
    }
    if dialect == Dialect::Goc
        && let Some(document) = payload.remove("documentId")
    {
        payload.insert("docId".into(), document);
    }
    let text = Value::Object(payload).to_string();
    if dialect == Dialect::Json {
        return member.send_text(&text);
    }
    let batch = dialect == Dialect::Goc && kind == "delta_batch";
    let code = if batch { 0x22 } else { frame::code_of(kind) };
    member.send_binary(&frame::encode(code, now, text.as_bytes()));
}
