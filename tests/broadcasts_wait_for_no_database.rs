//! Broadcasts do not wait for the database: with PostgreSQL healthy or paused a change reaches its listeners as fast as in
//! memory mode, while its acknowledgement waits. Two servers take turns, change by change, so that both see the same moods
//! of the machine. The medians are printed; the bound is far above them and far below any wait for a commit.
//! For figures: `STRETCHES=20 cargo test --release --test broadcasts_wait_for_no_database -- --nocapture`.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::database::Postgres;
use support::{Client, Dialect, Server, percentile};

/// Changes of each server in a stretch. While PostgreSQL is paused they must be over before writes are refused.
const ROUNDS: usize = 30;

/// A server with a writer and a listener.
struct Pair {
    _server: Server,
    writer: Client,
    reader: Client,
    written: usize,
}

impl Pair {
    fn start(database: String) -> Pair {
        let server = Server::with()
            .env("DATABASE_URL", database)
            .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
            .start();
        let mut reader = Client::connect(&server, Dialect::Json);
        reader.subscribe("doc");
        Pair {
            writer: Client::connect(&server, Dialect::Json),
            reader,
            _server: server,
            written: 0,
        }
    }

    /// Writes one change and waits until the listener has it. In milliseconds.
    fn time_broadcast(&mut self) -> f64 {
        self.written += 1;
        // Few fields, so that the document, which is stored whole, stays small; each value is another.
        let field = format!("f{}", self.written % 8);
        let began = Instant::now();
        self.writer.write("doc", json!({ field.as_str(): self.written }));
        self.reader.take_field("doc", &field);
        let took = began.elapsed().as_secs_f64() * 1000.0;
        // Beyond the flush window, so that each change leaves at once.
        std::thread::sleep(Duration::from_millis(8));
        took
    }
}

/// Times of changes: in memory mode, and with a database.
#[derive(Default)]
struct Times([Vec<f64>; 2]);

impl Times {
    fn take_turns(&mut self, pairs: &mut [Pair; 2]) {
        for round in 0..ROUNDS {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                self.0[which].push(pairs[which].time_broadcast());
            }
        }
    }

    fn medians(&mut self) -> [f64; 2] {
        self.0.each_mut().map(|times| percentile(times, 50.0))
    }
}

#[test]
fn a_paused_database_does_not_delay_broadcasts() {
    let stretches: usize = match std::env::var("STRETCHES") {
        Ok(text) => text.parse().expect("STRETCHES is a number"),
        Err(_) => 1,
    };
    let postgres = Postgres::start();
    let mut pairs = [Pair::start(String::new()), Pair::start(postgres.url())];
    Times::default().take_turns(&mut pairs);
    let (mut healthy, mut paused) = (Times::default(), Times::default());
    for _ in 0..stretches {
        healthy.take_turns(&mut pairs);
        // What is under way is acknowledged before the pause.
        pairs[1].writer.write_acked("doc", json!({"pause": true}));
        pairs[1].writer.drain();
        postgres.pause();
        paused.take_turns(&mut pairs);
        let acks = pairs[1].writer.drain();
        postgres.go_on();
        assert!(
            acks.iter().all(|message| message.kind != "ack"),
            "acknowledged without a commit"
        );
        pairs[1].writer.write_acked("doc", json!({"pause": false}));
    }
    let ([memory, healthy], [memory_too, paused]) = (healthy.medians(), paused.medians());
    println!(
        "broadcast, medians of {}: memory {memory:.3} ms, database {healthy:.3} ms ({:.2} times); \
         memory {memory_too:.3} ms, database paused {paused:.3} ms ({:.2} times)",
        ROUNDS * stretches,
        healthy / memory,
        paused / memory_too
    );
    assert!(paused < 200.0 && healthy < 200.0, "broadcasts wait for the database");
}
