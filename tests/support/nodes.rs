//! Several servers over one Redis, each behind a proxy of its own, and people who write fields, type and show themselves at
//! any of them. A person keeps the copy its client would show and remembers what was acknowledged.

use crate::support::bus_proxy::BusProxy;
use crate::support::crowd::{Member, Received};
use crate::support::redis::Redis;
use crate::support::{Message, Server, ServerBuilder, unix_ms};
use crate::text_client;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often nodes compare, in these tests.
pub const DIGEST_MS: u64 = 500;

/// Servers that share a Redis.
pub struct Nodes {
    pub proxies: Vec<BusProxy>,
    pub servers: Vec<Option<Server>>,
    database: Option<String>,
}

impl Nodes {
    /// Starts `count` nodes and waits until each hears of the others.
    pub fn start(redis: &Redis, count: usize, database: Option<String>, seed: u64) -> Self {
        let mut nodes = Self {
            proxies: (0..count)
                .map(|node| BusProxy::start(redis.port(), seed + node as u64))
                .collect(),
            servers: (0..count).map(|_| None).collect(),
            database,
        };
        (0..count).for_each(|node| nodes.restart(node));
        nodes
    }

    fn builder(&self, node: usize) -> ServerBuilder {
        let builder = Server::with()
            .env("REDIS_URL", self.proxies[node].url())
            .env("SYNCKIT_NODE_ID", format!("node-{node}"))
            .env("SYNCKIT_DIGEST_INTERVAL", DIGEST_MS)
            .env("SYNCKIT_METRICS_PUBLIC", true)
            .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
            .without_heartbeats();
        match &self.database {
            Some(url) => builder.env("DATABASE_URL", url),
            None => builder,
        }
    }

    /// Kills a node as a crash does.
    pub fn kill(&mut self, node: usize) {
        drop(self.servers[node].take());
    }

    /// Starts it (again) and waits until it is connected.
    pub fn restart(&mut self, node: usize) {
        let server = self.builder(node).start();
        let deadline = Instant::now() + Duration::from_secs(30);
        while server.metric("bus_up") == 0 {
            assert!(Instant::now() < deadline, "node {node} never found Redis");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.servers[node] = Some(server);
    }

    /// A node that lives, `wish` if it does.
    pub fn living(&self, wish: usize) -> usize {
        let count = self.servers.len();
        let found = (0..count)
            .map(|step| (wish + step) % count)
            .find(|node| self.servers[*node].is_some());
        found.expect("a living node")
    }

    pub fn server(&self, node: usize) -> &Server {
        self.servers[node].as_ref().expect("it lives")
    }

    /// What a node answers a newcomer about a document.
    pub fn snapshot(&self, node: usize, document: &str) -> Message {
        let mut member = Member::connect(self.server(node).address());
        let question = json!({"type": "sync_request", "id": "s", "timestamp": unix_ms(), "documentId": document});
        member.send_text(&question.to_string());
        member.wait_for("a snapshot", |message| message.kind == "sync_response")
    }
}

/// See the module documentation.
pub struct Person {
    pub number: usize,
    pub document: String,
    /// The node it would like to be at.
    pub wish: usize,
    at: Option<(usize, Member)>,
    pub fields: Map<String, Value>,
    pub text: text_client::Client,
    pub present: BTreeMap<String, Value>,
    /// Own writes sent and acknowledged; the last one is what the own field must show at least.
    pub sent: u64,
    pub acknowledged: u64,
    typed: String,
    awareness_clock: u64,
}

impl Person {
    pub fn new(number: usize, document: &str, wish: usize) -> Self {
        Self {
            number,
            document: document.to_owned(),
            wish,
            at: None,
            fields: Map::new(),
            text: text_client::Client::new(&format!("person-{number}")),
            present: BTreeMap::new(),
            sent: 0,
            acknowledged: 0,
            typed: String::new(),
            awareness_clock: 0,
        }
    }

    fn name(&self) -> String {
        format!("person-{}", self.number)
    }

    /// The field only this person writes.
    pub fn own_field(&self) -> String {
        format!("own-{}", self.number)
    }

    fn say(&mut self, kind: &str, fields: Value) {
        let Some((_, member)) = &mut self.at else { return };
        let mut message = fields;
        message["type"] = kind.into();
        message["timestamp"] = unix_ms().into();
        if message.get("id").is_none() {
            message["id"] = "m".into();
        }
        member.send_text(&message.to_string());
    }

    /// Connects if it is not, to the wished node or another living one.
    pub fn come(&mut self, nodes: &Nodes) {
        if self.at.is_some() {
            return;
        }
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

    /// Leaves without a word.
    pub fn vanish(&mut self) {
        self.at = None;
    }

    /// The node it is at.
    pub fn node(&self) -> Option<usize> {
        self.at.as_ref().map(|(node, _)| *node)
    }

    /// Shows itself to the others.
    pub fn show(&mut self) {
        self.awareness_clock += 1;
        let (client, clock) = (self.name(), self.awareness_clock);
        let state = json!({"cursor": clock, "name": client});
        let document = self.document.clone();
        self.say(
            "awareness_update",
            json!({"documentId": document, "clientId": client, "state": state, "clock": clock}),
        );
    }

    /// Writes its own field, and one it shares with everybody.
    pub fn write(&mut self) {
        self.sent += 1;
        let delta = json!({ self.own_field(): self.sent, format!("shared-{}", self.sent % 5): format!("{} {}", self.number, self.sent) });
        let document = self.document.clone();
        let id = format!("w{}", self.sent);
        self.say(
            "delta",
            json!({"id": id, "documentId": document, "delta": delta, "vectorClock": {}}),
        );
    }

    /// Types a letter at the end.
    pub fn type_letter(&mut self) {
        let end = self.text.shown().chars().count();
        let letter = char::from(b'a' + (self.number % 26) as u8);
        self.text.insert(end, &letter.to_string());
        self.typed.push(letter);
        self.send_text_state();
    }

    fn send_text_state(&mut self) {
        let document = self.document.clone();
        let element = json!({"type": "text-state", "documentId": document, "state": self.text.state(),
            "clientId": self.text.id, "timestamp": unix_ms(), "clock": {self.text.id.clone(): self.text.clock}});
        self.say(
            "delta_batch",
            json!({"documentId": document, "messageId": "t", "deltas": [element]}),
        );
    }

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
            "sync_response" => {
                self.fields = message["state"].as_object().expect("an object").clone();
                if let Some(state) = message["textState"].as_str() {
                    self.text.receive(state);
                }
            }
            "delta" => {
                // Whoever tells presence is told its own clock, in a delta without a field.
                let Some(field) = message["field"].as_str().map(str::to_owned) else {
                    return;
                };
                let value = message["value"].clone();
                if value["__deleted"] == true {
                    self.fields.remove(&field);
                } else {
                    self.fields.insert(field, value);
                }
            }
            "delta_batch" => {
                for element in message["deltas"].as_array().expect("elements") {
                    if let Some(state) = element["state"].as_str() {
                        self.text.receive(state);
                    }
                }
            }
            "ack" => {
                let write = message["messageId"]
                    .as_str()
                    .and_then(|id| id.strip_prefix('w')?.parse().ok());
                self.acknowledged = self.acknowledged.max(write.unwrap_or(0));
            }
            "awareness_update" => {
                let client = message["clientId"].as_str().expect("a client").to_owned();
                match &message["state"] {
                    Value::Null => drop(self.present.remove(&client)),
                    state => drop(self.present.insert(client, state.clone())),
                }
            }
            "awareness_state" => {
                self.present.clear();
                for entry in message["states"].as_array().expect("states") {
                    let client = entry["clientId"].as_str().expect("a client").to_owned();
                    self.present.insert(client, entry["state"].clone());
                }
            }
            "error" => panic!("person {} got {}", self.number, message.body),
            _ => {}
        }
    }

    /// Letters it typed are all there.
    pub fn typed_is_shown(&self) -> bool {
        let letter = char::from(b'a' + (self.number % 26) as u8);
        self.text.shown().matches(letter).count() >= self.typed.len()
    }
}

/// Pumps everybody until nothing has come for a while.
pub fn settle(people: &mut [Person], quiet: Duration) {
    let (start, mut last) = (Instant::now(), Instant::now());
    while last.elapsed() < quiet && start.elapsed() < Duration::from_secs(60) {
        if people.iter_mut().fold(false, |any, person| person.pump() | any) {
            last = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until all people, nodes and the snapshot of each agree about fields and text, and nothing acknowledged is missing.
pub fn assert_converged(nodes: &Nodes, people: &mut [Person], documents: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        settle(people, Duration::from_millis(2 * DIGEST_MS));
        let wrong = difference(nodes, people, documents);
        let Some(wrong) = wrong else { break };
        assert!(Instant::now() < deadline, "{wrong}");
    }
}

fn difference(nodes: &Nodes, people: &[Person], documents: &[String]) -> Option<String> {
    for document in documents {
        let mut first: Option<(Map<String, Value>, String)> = None;
        for node in (0..nodes.servers.len()).filter(|node| nodes.servers[*node].is_some()) {
            let message = nodes.snapshot(node, document);
            let fields = message["state"].as_object().expect("an object").clone();
            let mut reader = text_client::Client::new("reader");
            message["textState"]
                .as_str()
                .iter()
                .for_each(|state| reader.receive(state));
            let shown = reader.shown();
            match &first {
                None => first = Some((fields, shown)),
                Some((others, text)) => {
                    if *others != fields {
                        return Some(format!(
                            "fields of {document} differ at node {node}: {}",
                            diff(others, &fields)
                        ));
                    }
                    if *text != shown {
                        return Some(format!(
                            "text of {document} differs at node {node}: {text:?} and {shown:?}"
                        ));
                    }
                }
            }
        }
        let (fields, text) = first.expect("a node");
        for person in people.iter().filter(|person| person.document == *document) {
            if person.fields != fields {
                return Some(format!(
                    "person {} at {:?} shows other fields: {}",
                    person.number,
                    person.node(),
                    diff(&fields, &person.fields)
                ));
            }
            if person.text.shown() != text {
                return Some(format!(
                    "person {} shows {:?}, not {text:?}",
                    person.number,
                    person.text.shown()
                ));
            }
            let shown = fields.get(&person.own_field()).and_then(Value::as_u64).unwrap_or(0);
            if !(person.acknowledged..=person.sent).contains(&shown) {
                return Some(format!(
                    "{} is {shown}, {} acknowledged, {} sent",
                    person.own_field(),
                    person.acknowledged,
                    person.sent
                ));
            }
            if !person.typed_is_shown() {
                return Some(format!("letters of person {} are missing", person.number));
            }
        }
    }
    None
}

fn diff(one: &Map<String, Value>, other: &Map<String, Value>) -> String {
    let names = one.keys().chain(other.keys());
    let wrong = names.filter(|name| one.get(*name) != other.get(*name)).take(5);
    wrong
        .map(|name| format!("{name}: {:?} and {:?}; ", one.get(name), other.get(name)))
        .collect()
}

/// Waits until everybody sees everybody else of the document, and nobody who is gone.
pub fn assert_presence(people: &mut [Person]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        settle(people, Duration::from_millis(DIGEST_MS));
        let wrong = people.iter().find_map(|person| {
            let others = people
                .iter()
                .filter(|other| other.document == person.document && other.number != person.number);
            let mut expected: Vec<String> = others.map(Person::name).collect();
            let mut shown: Vec<String> = person
                .present
                .keys()
                .filter(|name| **name != person.name())
                .cloned()
                .collect();
            expected.sort();
            shown.sort();
            (expected != shown).then(|| format!("person {} sees {shown:?} instead of {expected:?}", person.number))
        });
        let Some(wrong) = wrong else { return };
        assert!(Instant::now() < deadline, "{wrong}");
    }
}
