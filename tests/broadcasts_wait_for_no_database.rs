//! Broadcasts do not wait for the database: with PostgreSQL paused a change reaches its listeners as fast as before, while its
//! acknowledgement waits. The medians of both are printed; the bound is far above them and far below any wait for a commit.
//! For figures: `cargo test --release --test broadcasts_wait_for_no_database -- --nocapture`, or `loadtest latency`.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::database::Postgres;
use support::{Client, Dialect, Server, percentile};

const ROUNDS: usize = 60;

/// Writes one change after the other and times each until a listener has it. In milliseconds.
fn time_broadcasts(writer: &mut Client, reader: &mut Client, name: &str) -> Vec<f64> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let field = format!("{name}{round}");
        let began = Instant::now();
        writer.write("doc", json!({ field.as_str(): round }));
        reader.take_field("doc", &field);
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        // Beyond the flush window, so that each change leaves at once.
        std::thread::sleep(Duration::from_millis(8));
    }
    times
}

#[test]
fn a_paused_database_does_not_delay_broadcasts() {
    let postgres = Postgres::start();
    let server = |url: String| {
        Server::with()
            .env("DATABASE_URL", url)
            .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
            .start()
    };
    let (durable, memory) = (server(postgres.url()), server(String::new()));
    let connect = |server: &Server| {
        let mut reader = Client::connect(server, Dialect::Json);
        reader.subscribe("doc");
        (Client::connect(server, Dialect::Json), reader)
    };
    let (mut memory_writer, mut memory_reader) = connect(&memory);
    let (mut writer, mut reader) = connect(&durable);
    time_broadcasts(&mut writer, &mut reader, "warm");
    let mut without = time_broadcasts(&mut memory_writer, &mut memory_reader, "memory");
    let mut healthy = time_broadcasts(&mut writer, &mut reader, "healthy");
    writer.drain();
    postgres.pause();
    let mut paused = time_broadcasts(&mut writer, &mut reader, "paused");
    let acks = writer.drain();
    postgres.go_on();
    assert!(
        acks.iter().all(|message| message.kind != "ack"),
        "acknowledged without a commit"
    );
    let median = |times: &mut [f64]| percentile(times, 50.0);
    let (without, healthy, paused) = (median(&mut without), median(&mut healthy), median(&mut paused));
    println!("broadcast, median of {ROUNDS}: memory {without:.3} ms, database {healthy:.3} ms, paused {paused:.3} ms");
    assert!(paused < 200.0 && healthy < 200.0, "broadcasts wait for the database");
}
