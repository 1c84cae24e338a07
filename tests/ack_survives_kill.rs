//! Ack means kept (docs/protocol.md §21): whatever was acknowledged is there after `kill -9`.
//!
//! Clients write fields, delete them and type text as fast as they are answered, each in its own fields, and note what
//! was sent and what was acknowledged. At a random moment the server is killed and started again, or PostgreSQL is, with
//! the server left running; then every field must hold what was acknowledged last or something sent after it. With
//! PostgreSQL and with SQLite. `KILLS=200 SEED=7 cargo test --test ack_survives_kill` tries more, or a failure again.

use test_support as support;
#[path = "support/text_client.rs"]
mod text_client;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::database::{Postgres, SqliteFile};
use support::{Server, Steady, eventually};
use tungstenite::{Message, WebSocket};

const CLIENTS: u64 = 8;
const FIELDS: u64 = 3;
/// Documents that several clients write, so that commits hold changes of several.
const DOCUMENTS: u64 = 4;

/// What is known of one field: every write is a number, and each third one a deletion.
#[derive(Clone, Default)]
struct Field {
    sent: u64,
    acknowledged: u64,
}

impl Field {
    fn value(write: u64) -> Value {
        if write.is_multiple_of(3) {
            json!({"__deleted": true})
        } else {
            json!(write)
        }
    }

    /// Whether a snapshot may show this.
    fn allows(&self, shown: Option<&Value>) -> bool {
        (self.acknowledged..=self.sent).any(|write| match shown {
            Some(value) => *value == Field::value(write) && !write.is_multiple_of(3),
            None => write.is_multiple_of(3),
        })
    }
}

/// A client over all its connections.
struct Author {
    number: u64,
    fields: Vec<Field>,
    text: text_client::Client,
    /// Characters of the text that were acknowledged.
    typed_acknowledged: u64,
    dice: StdRng,
}

struct Connection(WebSocket<Steady>);

impl Connection {
    fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = Steady::connect(address, 2 * support::PATIENCE).map_err(|error| format!("{error:?}"))?;
        let opened = tungstenite::client(format!("ws://{address}/ws"), stream);
        opened
            .map(|(socket, _)| Self(socket))
            .map_err(|error| format!("{error:?}"))
    }

    fn send(&mut self, message: &Value) -> Option<()> {
        self.0.send(Message::text(message.to_string())).ok()
    }

    /// The next message of one of the kinds, or why none comes any more.
    fn next_of(&mut self, kinds: &[&str]) -> Result<Value, tungstenite::Error> {
        loop {
            let Message::Text(text) = self.0.read()? else {
                continue;
            };
            let message: Value = serde_json::from_str(&text).expect("the server sends JSON");
            if kinds.iter().any(|kind| message["type"] == **kind) {
                return Ok(message);
            }
        }
    }
}

impl Author {
    fn new(number: u64, seed: u64) -> Self {
        Self {
            number,
            fields: vec![Field::default(); FIELDS as usize],
            text: text_client::Client::new(&format!("author-{number}")),
            typed_acknowledged: 0,
            dice: StdRng::seed_from_u64(seed ^ (number << 32)),
        }
    }

    fn document(&self) -> String {
        format!("kill:{}", self.number % DOCUMENTS)
    }

    fn text_document(&self) -> String {
        format!("kill:text:{}", self.number)
    }

    /// Writes until the connection is gone or `stop` is set.
    fn work(&mut self, address: SocketAddr, stop: &AtomicBool, acks: &AtomicU64) {
        let Ok(mut connection) = Connection::open(address) else {
            return;
        };
        while !stop.load(Ordering::Relaxed) {
            let done = match self.dice.random_range(0..4) {
                0 => self.type_text(&mut connection),
                _ => self.write_field(&mut connection),
            };
            match done {
                None => return,
                Some(acknowledged) => acks.fetch_add(u64::from(acknowledged), Ordering::Relaxed),
            };
        }
    }

    fn write_field(&mut self, connection: &mut Connection) -> Option<bool> {
        let at = self.dice.random_range(0..FIELDS);
        let (document, name) = (self.document(), format!("c{}f{at}", self.number));
        let field = &mut self.fields[at as usize];
        field.sent += 1;
        let write = field.sent;
        let delta = json!({ name: Field::value(write) });
        connection.send(&json!({"type": "delta", "id": "w", "documentId": document, "delta": delta}))?;
        let acknowledged = connection.next_of(&["ack", "error"]).ok()?["type"] == "ack";
        if acknowledged {
            self.fields[at as usize].acknowledged = write;
        }
        Some(acknowledged)
    }

    fn type_text(&mut self, connection: &mut Connection) -> Option<bool> {
        let end = self.text.shown().len();
        let word = format!("{} ", self.dice.random_range(0..100));
        self.text.insert(end, &word);
        let document = self.text_document();
        let element = json!({"type": "text-state", "documentId": document, "state": self.text.state(),
            "clientId": self.text.id, "timestamp": support::unix_ms(), "clock": {self.text.id.clone(): self.text.clock}});
        connection.send(
            &json!({"type": "delta_batch", "id": "t", "documentId": document, "messageId": "t",
            "deltas": [element]}),
        )?;
        let acknowledged = connection.next_of(&["ack", "error"]).ok()?["type"] == "ack";
        if acknowledged {
            self.typed_acknowledged = self.text.clock;
        }
        Some(acknowledged)
    }

    /// Panics unless everything that was acknowledged is there.
    fn check(&self, address: SocketAddr) {
        let mut connection = Connection::open(address).expect("the server takes connections");
        let mut ask = |document: &str| {
            connection
                .send(&json!({"type": "sync_request", "id": "s", "documentId": document}))
                .expect("sent");
            let answer = connection.next_of(&["sync_response", "error"]);
            answer.unwrap_or_else(|error| panic!("no answer about {document}: {error:?}"))
        };
        let state = ask(&self.document());
        assert!(state["state"].is_object(), "{state}");
        for (at, field) in self.fields.iter().enumerate() {
            let name = format!("c{}f{at}", self.number);
            let shown = state["state"].get(&name);
            assert!(
                field.allows(shown),
                "{name} is {shown:?}, but write {} was acknowledged and {} were sent",
                field.acknowledged,
                field.sent
            );
        }
        let text = ask(&self.text_document());
        let stored = text["textState"]
            .as_str()
            .map(|state| text_client::parse(state).0)
            .unwrap_or_default();
        let typed: usize = stored.values().map(|block| block.text.len()).sum();
        assert!(
            typed as u64 >= self.typed_acknowledged,
            "{typed} characters of author {}, {} were acknowledged",
            self.number,
            self.typed_acknowledged
        );
        let mut shown = String::new();
        for id in text_client::document_order(&stored) {
            shown.push_str(&stored[&id].text.concat());
        }
        assert!(self.text.shown().starts_with(&shown), "{shown:?} was never typed");
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn seed() -> u64 {
    let seed = number("SEED", rand::rng().random::<u32>().into());
    println!("SEED={seed}");
    seed
}

fn start(url: &str) -> Server {
    let unlimited = Server::with()
        .env("DATABASE_URL", url)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0);
    unlimited.start()
}

/// Authors work until `strike` has been done at a random moment, after some acknowledgements.
fn round(authors: &mut [Author], address: SocketAddr, dice: &mut StdRng, strike: impl FnOnce()) -> u64 {
    let (stop, acks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for author in authors {
            let (stop, acks) = (&stop, &acks);
            scope.spawn(move || author.work(address, stop, acks));
        }
        let begun = Instant::now();
        while acks.load(Ordering::Relaxed) < 20 && begun.elapsed() < support::PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(dice.random_range(0..250_000)));
        strike();
        stop.store(true, Ordering::Relaxed);
    });
    acks.into_inner()
}

fn server_is_killed(url: &str, kills: u64) {
    let seed = seed();
    let mut dice = StdRng::seed_from_u64(seed);
    let mut authors: Vec<Author> = (0..CLIENTS).map(|number| Author::new(number, seed)).collect();
    let mut acks = 0;
    for _ in 0..kills {
        let server = start(url);
        let address = server.address();
        authors.iter().for_each(|author| author.check(address));
        acks += round(&mut authors, address, &mut dice, || drop(server));
    }
    let server = start(url);
    authors.iter().for_each(|author| author.check(server.address()));
    println!("{kills} kills, {acks} acknowledged writes, none lost");
    assert!(acks >= kills * 10, "only {acks} acknowledgements");
}

#[test]
fn the_server_is_killed_over_postgresql() {
    let postgres = Postgres::start();
    server_is_killed(&postgres.url(), number("KILLS", 20));
}

#[test]
fn the_server_is_killed_over_sqlite() {
    let file = SqliteFile::new();
    server_is_killed(&file.url(), number("KILLS", 20));
}

#[test]
fn postgresql_is_killed_under_a_running_server() {
    let mut postgres = Postgres::start();
    let seed = seed();
    let mut dice = StdRng::seed_from_u64(seed);
    let mut authors: Vec<Author> = (0..CLIENTS).map(|number| Author::new(number, seed)).collect();
    let (mut acks, kills) = (0, number("KILLS", 20).div_ceil(2));
    for _ in 0..kills {
        // The second half of each round reads from the database, not from the server's memory.
        let server = start(&postgres.url());
        let address = server.address();
        authors.iter().for_each(|author| author.check(address));
        acks += round(&mut authors, address, &mut dice, || {
            postgres.kill();
            postgres.restart();
        });
        eventually("the server is ready again", || {
            (server.get("/health/ready").status == 200).then_some(())
        });
        acks += round(&mut authors, address, &mut dice, || drop(server));
    }
    let server = start(&postgres.url());
    authors.iter().for_each(|author| author.check(server.address()));
    println!("{kills} kills of PostgreSQL and of the server, {acks} acknowledged writes, none lost");
    assert!(acks >= kills * 10, "only {acks} acknowledgements");
}
