//! Several servers over one Redis, each behind a proxy of its own, and what the people at them must agree on.

use crate::person::{Person, say_as};
use crate::support::bus_proxy::BusProxy;
use crate::support::crowd::Member;
use crate::support::redis::Redis;
use crate::support::{Dialect, Message, PATIENCE, Server, ServerBuilder};
use crate::text_client;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often nodes compare, in these tests.
pub const DIGEST_MS: u64 = 500;
/// How long presence of a node that died may still be shown, in these tests.
const AWARENESS_MS: u64 = 6_000;
/// How long everything may take to be equal again: several digests and presence time-outs on a busy machine.
const HEALING: Duration = Duration::from_secs(90);

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
            .env("AWARENESS_TIMEOUT_MS", AWARENESS_MS)
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

    /// Takes a node out that is asked to stop: nobody comes to it any more.
    pub fn stop(&mut self, node: usize) -> Server {
        let server = self.servers[node].take().expect("it lives");
        server.signal("TERM");
        server
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

    /// What a node shows a newcomer, an SDK: its snapshot and the set.
    pub fn shown(&self, node: usize, document: &str) -> Shown {
        let mut member = Member::connect(self.server(node).address());
        let question = json!({"documentId": document});
        say_as(&mut member, Dialect::Sdk, "", "subscribe", question.clone());
        // The set comes behind the snapshot; the answer to a second question is behind both.
        say_as(&mut member, Dialect::Sdk, "", "sync_request", question);
        let (deadline, mut messages): (_, Vec<Message>) = (Instant::now() + PATIENCE, Vec::new());
        let is_answer = |message: &&Message| message.kind == "sync_response";
        while messages.iter().filter(is_answer).count() < 2 {
            assert!(Instant::now() < deadline, "node {node} never told of {document}");
            messages.append(&mut member.messages());
            std::thread::sleep(Duration::from_millis(1));
        }
        let last = messages.iter().rfind(is_answer).expect("just counted");
        let mut shown = Shown {
            fields: last["state"].as_object().expect("an object").clone(),
            ..Shown::default()
        };
        if let Some(state) = last["textState"].as_str() {
            let mut reader = text_client::Client::new("reader");
            reader.receive(state);
            shown.text = reader.shown();
        }
        for batch in messages.iter().filter(|message| message.kind == "delta_batch") {
            let elements = batch["deltas"].as_array().expect("elements").iter();
            for element in elements.filter(|element| element["type"] == "set") {
                let value = element["value"].as_str().expect("a text");
                match element["operation"] == "add" {
                    true => shown.members.insert(value.to_owned()),
                    false => shown.members.remove(value),
                };
            }
        }
        shown
    }
}

/// What a client shows of a document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    pub fields: Map<String, Value>,
    pub text: String,
    pub members: BTreeSet<String>,
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

/// Waits until everybody has come in: who comes later is not told of earlier counting.
pub fn assert_all_in(people: &mut [Person]) {
    let deadline = Instant::now() + HEALING;
    while !people.iter().all(|person| person.is_in) {
        assert!(Instant::now() < deadline, "somebody's subscription was never answered");
        settle(people, Duration::from_millis(20));
    }
}

/// Waits until all people and what each node shows a newcomer agree, and nothing acknowledged is missing.
pub fn assert_converged(nodes: &Nodes, people: &mut [Person], documents: &[String]) {
    let deadline = Instant::now() + HEALING;
    loop {
        settle(people, Duration::from_millis(2 * DIGEST_MS));
        let wrong = difference(nodes, people, documents);
        let Some(wrong) = wrong else { break };
        assert!(Instant::now() < deadline, "{wrong}");
    }
}

fn difference(nodes: &Nodes, people: &[Person], documents: &[String]) -> Option<String> {
    for document in documents {
        let living = (0..nodes.servers.len()).filter(|node| nodes.servers[*node].is_some());
        let all: Vec<(usize, Shown)> = living.map(|node| (node, nodes.shown(node, document))).collect();
        let (_, truth) = &all[0];
        for (node, shown) in &all[1..] {
            let who = format!("node {node}, {document}");
            if let Some(wrong) = differs(&who, shown, truth) {
                return Some(wrong);
            }
        }
        let here: Vec<&Person> = people.iter().filter(|person| person.document == *document).collect();
        let wrong = here.iter().find_map(|person| wrong_with(person, truth));
        if let Some(wrong) = wrong.or_else(|| miscounted(&here)) {
            return Some(wrong);
        }
    }
    None
}

fn differs(who: &str, shown: &Shown, truth: &Shown) -> Option<String> {
    if shown.fields != truth.fields {
        return Some(format!("fields at {who}: {}", diff(&truth.fields, &shown.fields)));
    }
    if shown.text != truth.text {
        return Some(format!("text at {who}: {:?} instead of {:?}", shown.text, truth.text));
    }
    let wrong: Vec<_> = shown.members.symmetric_difference(&truth.members).take(5).collect();
    (!wrong.is_empty()).then(|| format!("set at {who}: {wrong:?}"))
}

fn wrong_with(person: &Person, truth: &Shown) -> Option<String> {
    let who = format!("person {} ({:?}) at {:?}", person.number, person.dialect, person.node());
    if !person.is_owed_nothing() {
        return Some(format!("{who} waits for acknowledgements"));
    }
    let shown = Shown {
        fields: person.shown(),
        text: person.text.shown(),
        members: person.members.clone().unwrap_or_else(|| truth.members.clone()),
    };
    if let Some(wrong) = differs(&who, &shown, truth) {
        return Some(wrong);
    }
    let own = person.own_field();
    let written = truth.fields.get(&own).and_then(Value::as_u64).unwrap_or(0);
    if !(person.acknowledged..=person.sent).contains(&written) {
        let (acknowledged, sent) = (person.acknowledged, person.sent);
        return Some(format!("{own} is {written}, {acknowledged} acknowledged, {sent} sent"));
    }
    if !person.typed_is_shown() {
        return Some(format!("letters of {who} are missing"));
    }
    let lost = person.added.difference(&truth.members).next();
    lost.map(|value| format!("the set lost {value} of {who}"))
}

/// Everybody who has been told everything has counted the same: no less than was acknowledged, no more than was said.
fn miscounted(people: &[&Person]) -> Option<String> {
    let first = people.iter().find(|person| person.stayed)?;
    let other = people
        .iter()
        .find(|person| person.stayed && person.counted != first.counted);
    if let Some(other) = other {
        return Some(format!(
            "person {} at {:?} counts {}, person {} at {:?} {}",
            first.number,
            first.node(),
            first.counted,
            other.number,
            other.node(),
            other.counted
        ));
    }
    let range = count_bounds(people.iter().copied());
    (!range.contains(&first.counted)).then(|| format!("everybody counts {}, which is not in {range:?}", first.counted))
}

/// What the counter may be: operations that nobody acknowledged may or may not have been counted.
pub fn count_bounds<'a>(people: impl Iterator<Item = &'a Person>) -> std::ops::RangeInclusive<f64> {
    let (mut least, mut most) = (0.0, 0.0);
    for person in people {
        let open = person.count_sent - person.count_acknowledged;
        least += person.count_acknowledged + open.min(0.0);
        most += person.count_acknowledged + open.max(0.0);
    }
    least..=most
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
    let deadline = Instant::now() + HEALING;
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
