//! Promise: when writes stop, every client shows the server's value, whatever the network and the wall clocks did.
//!
//! Real [`Document`]s serve simulated clients that run the SDK's own last-write-wins (`support/sdk_model.rs`), next to plain
//! writers, plain docId clients and readers. Latency, clock skew, cuts with lost messages, offline edits, late discovery of
//! cuts and slow consumers come from a seed, which every failure prints, with the shortest list of writes that fails. Checked are
//! the invariants of docs/protocol.md §9.4:
//! (a) equality after quiescence, (b) an own echo never replaces a newer local edit of a field nobody else writes,
//! (c) clocks are non-empty integers below 2^53, (d) stamps never decrease; and two promises to authors: (e) once a client
//! has been told its own entry, it sees its own edits at once, and (f) once an edit of a field nobody else writes has
//! come back, nothing the server sends replaces what it types there. `SEEDS=from..to` runs others than the usual ones.

#[path = "support/sdk_model.rs"]
mod sdk_model;
#[path = "support/simulated_server.rs"]
mod simulated_server;
#[path = "support/trace.rs"]
mod trace;

use sdk_model::{Clock, Element, PlainReplica, SdkReplica};
use simulated_server::{Message, Naming, Outgoing, Request, Rule, Server};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use synckit_server::ids::SessionRef;

/// When clients stop writing.
const WRITING_ENDS_MS: u64 = 6_000;
const EPOCH_MS: u64 = 1_760_000_000_000;
const TOMBSTONE: &str = r#"{"__deleted":true}"#;
/// The SDK sends a batch this long after the last change.
const BATCH_DELAY_MS: u64 = 50;
const BATCH_ELEMENTS_MAX: usize = 50;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

enum Replica {
    Sdk(SdkReplica),
    Plain(PlainReplica),
}

struct Client {
    number: usize,
    replica: Replica,
    writes: bool,
    docid: bool,
    skew_ms: i64,
    latency_ms: u64,
    /// Sends an awareness update right after connecting, so that the server knows its client id early.
    announces: bool,
    /// Sends what it queued while offline before it subscribes again.
    flushes_first: bool,
    /// `None` while offline.
    connection: Option<SessionRef>,
    connections: u32,
    /// Milliseconds between two actions, at most.
    pause_ms: u64,
    /// Starts with clock values from a server whose wall clock ran ahead. Has one long connection.
    from_earlier_life: bool,
    /// Loses what it queued while offline.
    forgetful: bool,
    /// On this connection, the `sync_response` has arrived.
    synced: bool,
    /// On this connection, the server has said that it knows the client id.
    told_own_entry: bool,
    pending: Vec<Element>,
    pending_since: u64,
    queue: VecDeque<Vec<Element>>,
    last_edit: BTreeMap<String, Edit>,
    edits: u64,
    up_free_ms: u64,
    down_free_ms: u64,
}

impl Client {
    fn shown(&self, field: &str) -> Option<&str> {
        match &self.replica {
            Replica::Sdk(replica) => replica.shown(field),
            Replica::Plain(replica) => replica.shown(field),
        }
    }
}

/// The newest edit of a field.
#[derive(Default)]
struct Edit {
    value: String,
    /// It came back on this connection.
    confirmed: bool,
    /// The one before it was confirmed or settled: no greater clock for the field can be under way (f).
    settled: bool,
}

enum Event {
    Act(usize),
    BatchTimer(usize, u64),
    Connect(usize),
    Cut(usize),
    ServerNotices(SessionRef),
    Stall(usize, bool),
    ToServer(SessionRef, usize, Request),
    ToClient(SessionRef, usize, Message),
    Flush,
}

struct Simulation {
    random: Random,
    now_ms: u64,
    events: BTreeMap<(u64, u64), Event>,
    event_count: u64,
    server: Server,
    clients: Vec<Client>,
    accepted: BTreeSet<String>,
    violations: Vec<String>,
    hidden_edits: u64,
    edits: u64,
}

fn run(seed: u64, rule: Rule) -> Simulation {
    let mut random = Random(seed);
    let sdk_count = 2 + random.below(3) as usize;
    let raw_count = random.below(2) as usize;
    let mut clients = Vec::new();
    for number in 0..sdk_count + raw_count + 2 {
        let sdk = number < sdk_count || number == sdk_count + raw_count;
        let writes = number < sdk_count + raw_count || number == sdk_count + raw_count + 1;
        clients.push(new_client(
            &mut random,
            number,
            sdk,
            writes,
            number == sdk_count + raw_count + 1,
        ));
    }
    let mut simulation = Simulation {
        random,
        now_ms: 0,
        events: BTreeMap::new(),
        event_count: 0,
        server: Server::new(EPOCH_MS, rule),
        clients,
        accepted: BTreeSet::new(),
        violations: Vec::new(),
        hidden_edits: 0,
        edits: 0,
    };
    simulation.plan();
    while let Some(((at_ms, _), event)) = simulation.events.pop_first() {
        simulation.now_ms = at_ms;
        simulation.handle(event);
        simulation.plan_flush();
    }
    simulation.compare();
    simulation
}

fn new_client(random: &mut Random, number: usize, sdk: bool, writes: bool, docid: bool) -> Client {
    let from_earlier_life = sdk && random.chance(10);
    // Ties between "server" and the client id go either way, so both orders must occur.
    let prefix = if random.chance(50) { "client" } else { "tab" };
    Client {
        number,
        replica: if sdk {
            Replica::Sdk(SdkReplica::new(
                format!("{prefix}-{number}"),
                from_earlier_life.then_some(EPOCH_MS + 4_000),
            ))
        } else {
            Replica::Plain(PlainReplica::default())
        },
        writes,
        docid,
        skew_ms: random.below(10_001) as i64 - 5_000,
        latency_ms: random.below(151),
        announces: random.chance(50),
        flushes_first: random.chance(30),
        pause_ms: [60, 300, 3_000][random.below(3) as usize],
        from_earlier_life,
        // A lost edit above the server's clock cannot be overruled before the wall clock has passed it.
        forgetful: random.chance(30) && !from_earlier_life,
        connection: None,
        connections: 0,
        synced: false,
        told_own_entry: false,
        pending: Vec::new(),
        pending_since: 0,
        queue: VecDeque::new(),
        last_edit: BTreeMap::new(),
        edits: 0,
        up_free_ms: 0,
        down_free_ms: 0,
    }
}

impl Simulation {
    fn at(&mut self, at_ms: u64, event: Event) {
        self.event_count += 1;
        self.events.insert((at_ms.max(self.now_ms), self.event_count), event);
    }

    fn unix_ms(&self) -> u64 {
        EPOCH_MS + self.now_ms
    }

    /// The whole fate of all connections, up front.
    fn plan(&mut self) {
        for number in 0..self.clients.len() {
            let start = self.random.below(1_000);
            self.at(start, Event::Connect(number));
            if self.clients[number].writes {
                self.at(self.random.0 % 300, Event::Act(number));
            }
            let mut at = start;
            let cuts = if self.clients[number].from_earlier_life {
                0
            } else {
                self.random.below(4)
            };
            for _ in 0..cuts {
                at += 200 + self.random.below(2_000);
                let back = at + 20 + self.random.below(1_500);
                self.at(at, Event::Cut(number));
                self.at(back, Event::Connect(number));
                at = back;
            }
            if self.random.chance(30) {
                let from = self.random.below(5_000);
                let to = from + self.random.below(1_500);
                self.at(from, Event::Stall(number, true));
                self.at(to, Event::Stall(number, false));
            }
        }
    }

    fn plan_flush(&mut self) {
        if let Some(at_ms) = self.server.plan_flush(self.now_ms) {
            self.at(at_ms, Event::Flush);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Act(number) => self.act(number),
            Event::BatchTimer(number, since) => {
                if self.clients[number].pending_since == since {
                    self.close_batch(number);
                }
            }
            Event::Connect(number) => self.connect(number),
            Event::Cut(number) => self.cut(number),
            Event::ServerNotices(session) => self.server.ended(session),
            Event::Stall(number, stalled) => {
                if let Some(session) = self.clients[number].connection {
                    let outgoing = self.server.stall(session, stalled);
                    self.deliver(outgoing);
                }
            }
            Event::ToServer(session, number, request) => {
                // Bytes of a connection that was cut while they were under way never arrive.
                if self.clients[number].connection == Some(session) {
                    let unix_ms = self.unix_ms();
                    let outgoing = self.server.request(unix_ms, session, request, &mut self.accepted);
                    self.deliver(outgoing);
                }
            }
            Event::ToClient(session, number, message) => {
                if self.clients[number].connection == Some(session) {
                    self.receive(number, message);
                }
            }
            Event::Flush => {
                let outgoing = self.server.flush(self.now_ms, &mut self.violations);
                self.deliver(outgoing);
            }
        }
    }

    fn connect(&mut self, number: usize) {
        let now_ms = self.now_ms;
        let client = &mut self.clients[number];
        if client.connection.is_some() {
            return;
        }
        client.connections += 1;
        (client.synced, client.told_own_entry) = (false, false);
        client
            .last_edit
            .values_mut()
            .for_each(|edit| (edit.confirmed, edit.settled) = (false, false));
        (client.up_free_ms, client.down_free_ms) = (now_ms, now_ms);
        let naming = match (&client.replica, client.docid) {
            (Replica::Sdk(_), _) => Naming::Sdk,
            (Replica::Plain(_), false) => Naming::Raw,
            (Replica::Plain(_), true) => Naming::DocId,
        };
        let session = self.server.accepted(number, client.connections, naming);
        client.connection = Some(session);
        if client.forgetful {
            client.pending.clear();
            client.queue.clear();
        }
        let hello = match &client.replica {
            Replica::Sdk(replica) if client.announces && client.writes => Some(Request::Awareness {
                client_id: replica.client_id.clone(),
            }),
            _ => None,
        };
        if client.flushes_first {
            self.send_queue(number);
        }
        self.send(number, Request::Subscribe);
        if let Some(hello) = hello {
            self.send(number, hello);
        }
        self.send_queue(number);
    }

    fn cut(&mut self, number: usize) {
        if let Some(session) = self.clients[number].connection.take() {
            // Often the server learns of it only after the client is back.
            let late_ms = if self.random.chance(50) {
                self.random.below(2_000)
            } else {
                0
            };
            self.at(self.now_ms + late_ms, Event::ServerNotices(session));
        }
    }

    /// One user action, and the time of the next.
    fn act(&mut self, number: usize) {
        if self.now_ms >= WRITING_ENDS_MS {
            return;
        }
        // Bursts of typing faster than the batch delay, and pauses.
        let pause_ms = self.clients[number].pause_ms;
        let pause = if self.random.chance(60) {
            self.random.below(40)
        } else {
            self.random.below(pause_ms)
        };
        self.at(self.now_ms + 1 + pause, Event::Act(number));
        // docId clients get no echo of their own writes (G, P behave so). So two writers of one field could not agree, and a
        // write before the `sync_response` would be hidden by it for good: such clients wait, and keep to their own field.
        if self.clients[number].docid && !self.clients[number].synced {
            return;
        }
        let private = self.clients[number].docid || self.random.chance(40);
        let field = if private {
            format!("own-{number}")
        } else {
            format!("shared\"{}", self.random.below(2))
        };
        let deletes = self.random.chance(8);
        let at_ms = self.now_ms;
        if !trace::act(|| {
            format!(
                "{at_ms:>5} ms: client {number} {} {field}",
                if deletes { "deletes" } else { "writes" }
            )
        }) {
            return;
        }
        self.clients[number].edits += 1;
        self.edits += 1;
        let value = if deletes {
            TOMBSTONE.into()
        } else {
            format!("\"{}/{}\"", self.clients[number].edits, number)
        };
        self.edit(number, field, value);
    }

    fn edit(&mut self, number: usize, field: String, value: String) {
        let timestamp_ms = (self.unix_ms() as i64 + self.clients[number].skew_ms) as f64;
        let client = &mut self.clients[number];
        let edit = client.last_edit.entry(field.clone()).or_default();
        let settled = client.synced && client.told_own_entry && (edit.confirmed || edit.settled);
        *edit = Edit {
            value: value.clone(),
            confirmed: false,
            settled,
        };
        match &mut client.replica {
            Replica::Plain(replica) => {
                replica.put(&field, &value);
                // RAW clients do not queue: offline writes never leave. Their next state overwrites them.
                self.send(number, Request::Plain { field, value });
            }
            Replica::Sdk(replica) => {
                let element = replica.edit(&field, &value, timestamp_ms);
                if replica.shown(&field) != Some(&value) {
                    self.hidden_edits += 1;
                    if client.told_own_entry {
                        self.violations
                            .push(format!("(e) {} does not see its own {field}={value}", client.number));
                    }
                }
                client.pending.push(element);
                client.pending_since = self.event_count;
                let (since, full) = (client.pending_since, client.pending.len() >= BATCH_ELEMENTS_MAX);
                if full {
                    self.close_batch(number);
                } else {
                    self.at(self.now_ms + BATCH_DELAY_MS, Event::BatchTimer(number, since));
                }
            }
        }
    }

    fn close_batch(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if !client.pending.is_empty() {
            client.queue.push_back(std::mem::take(&mut client.pending));
        }
        self.send_queue(number);
    }

    fn send_queue(&mut self, number: usize) {
        let Replica::Sdk(replica) = &self.clients[number].replica else {
            return;
        };
        let client_id = replica.client_id.clone();
        while self.clients[number].connection.is_some() {
            let Some(elements) = self.clients[number].queue.pop_front() else {
                return;
            };
            self.send(
                number,
                Request::Batch {
                    client_id: client_id.clone(),
                    elements,
                },
            );
        }
    }

    fn send(&mut self, number: usize, request: Request) {
        let jitter = self.random.below(20);
        let client = &mut self.clients[number];
        let Some(session) = client.connection else { return };
        client.up_free_ms = client.up_free_ms.max(self.now_ms + client.latency_ms + jitter);
        let at_ms = client.up_free_ms;
        self.at(at_ms, Event::ToServer(session, number, request));
    }

    fn deliver(&mut self, outgoing: Vec<Outgoing>) {
        for Outgoing {
            session,
            client: number,
            message,
        } in outgoing
        {
            for clock in message.clocks() {
                if clock.is_empty() || clock.values().any(|&value| value >= 1 << 53) {
                    self.violations.push(format!("(c) clock {clock:?}"));
                }
            }
            let jitter = self.random.below(20);
            let client = &mut self.clients[number];
            client.down_free_ms = client.down_free_ms.max(self.now_ms + client.latency_ms + jitter);
            let at_ms = client.down_free_ms;
            self.at(at_ms, Event::ToClient(session, number, message));
        }
    }

    fn receive(&mut self, number: usize, message: Message) {
        let client = &mut self.clients[number];
        client.synced |= matches!(message, Message::Sync { .. });
        match (&mut client.replica, message) {
            (Replica::Sdk(replica), Message::Sync { state, clock }) => {
                for (field, value) in &state {
                    replica.receive(field, value, &clock);
                }
            }
            (Replica::Plain(replica), Message::Sync { state, .. }) => replica.replace(&state),
            (Replica::Plain(replica), Message::Delta { field, value, .. }) => replica.put(&field, &value),
            (Replica::Sdk(replica), Message::OwnEntry { clock }) => {
                replica.merge_clock(&clock);
                client.told_own_entry = true;
            }
            (Replica::Sdk(replica), Message::Delta { field, value, clock }) => {
                let before = replica.shown(&field).map(str::to_owned);
                replica.receive(&field, &value, &clock);
                let changed = before.as_deref() != replica.shown(&field);
                let Some(edit) = client.last_edit.get_mut(&field).filter(|_| field.starts_with("own-")) else {
                    return;
                };
                // Deletions all look alike, so their return proves nothing.
                edit.confirmed |= edit.value == value && value != TOMBSTONE;
                if !changed || Some(edit.value.as_str()) == replica.shown(&field) {
                    return;
                }
                if is_own_echo(&clock) {
                    self.violations
                        .push(format!("(b) echo {value} replaced {before:?} at {number}"));
                }
                if edit.settled && before.as_ref() == Some(&edit.value) {
                    self.violations
                        .push(format!("(f) {value} with {clock:?} replaced {before:?} at {number}"));
                }
            }
            (Replica::Plain(_), Message::OwnEntry { .. }) => unreachable!("never sent to plain clients"),
        }
    }

    /// Invariant (a): for every field the server ever accepted.
    fn compare(&mut self) {
        for client in &self.clients {
            for field in &self.accepted {
                let server = self.server.shown(field);
                let shown = client.shown(field).filter(|&value| value != TOMBSTONE);
                if shown != server.as_deref() {
                    let number = client.number;
                    self.violations
                        .push(format!("(a) {field}: server {server:?}, client {number} {shown:?}"));
                }
            }
        }
    }
}

fn is_own_echo(clock: &Clock) -> bool {
    !clock.contains_key("server")
}

fn seeds() -> Range<u64> {
    let Ok(seeds) = std::env::var("SEEDS") else {
        return 0..2000;
    };
    let parsed = seeds
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.expect("SEEDS is from..to")
}

#[test]
fn all_clients_end_with_the_servers_values() {
    let (mut red, mut seeds_run, mut edits, mut hidden) = (Vec::new(), 0, 0, 0);
    for seed in seeds() {
        trace::begin(usize::MAX);
        let simulation = run(seed, Rule::Specified);
        seeds_run += 1;
        edits += simulation.edits;
        hidden += simulation.hidden_edits;
        if !simulation.violations.is_empty() {
            red.push((seed, simulation.violations));
        }
    }
    println!("{seeds_run} seeds, {edits} edits, {hidden} at first hidden from their authors");
    for (seed, violations) in &red {
        println!("seed {seed}: {}", violations[0]);
    }
    if let Some((seed, violations)) = red.first() {
        let kind = &violations[0][..3];
        trace::begin(usize::MAX);
        run(*seed, Rule::Specified);
        trace::print_shortest(|| {
            let found = run(*seed, Rule::Specified).violations;
            let same = found.iter().find(|violation| violation.starts_with(kind));
            assert!(same.is_none(), "{}", same.expect("just looked"));
        });
    }
    let kinds = ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)"].map(|kind| {
        format!(
            "{kind} {}",
            red.iter().filter(|r| r.1.iter().any(|v| v.starts_with(kind))).count()
        )
    });
    assert!(
        red.is_empty(),
        "{} of {seeds_run} seeds fail: {kinds:?}; first: seed {} {:#?}",
        red.len(),
        red[0].0,
        red[0].1
    );
}

/// The simulation itself must be able to fail: two ways to choose clocks that are known to be wrong.
#[test]
fn wrong_clocks_are_noticed() {
    for (rule, kind) in [(Rule::MergedVectorClock, "(a)"), (Rule::WithoutClientEntry, "(e)")] {
        let red = |seed: &u64| {
            run(*seed, rule)
                .violations
                .iter()
                .any(|violation| violation.starts_with(kind))
        };
        let count = (0..40).filter(red).count();
        println!("{rule:?}: {count} of 40 seeds break {kind}");
        assert!(count > 0, "{rule:?} went unnoticed");
    }
}
