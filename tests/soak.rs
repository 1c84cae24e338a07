//! Promise: under churn the server's memory does not creep. Clients of all kinds come, subscribe, write, delete, show
//! presence, stumble and vanish without end, over a fixed set of documents; resident memory of the last quarter is held
//! against that of the second. Ten seconds by default; `SOAK_SECONDS=3600 cargo test --test soak -- --nocapture` is the
//! real thing and prints a line per minute.

use test_support as support;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::time::{Duration, Instant};
use support::crowd::Member;
use support::{Client, Dialect, Server, percentile};

/// Connections that churn at a time.
const CROWD: usize = 60;
const DOCUMENTS: usize = 40;
const FIELDS: usize = 12;
/// What the last quarter may lie above the second, whatever the duration: noise of the allocator, for which 6 MiB are allowed.
const GROWTH_KIB_MAX: f64 = 6.0 * 1024.0;

fn message(random: &mut StdRng, number: u64) -> String {
    let document = format!("soak:{}", random.random_range(0..DOCUMENTS));
    let field = format!("f{}", random.random_range(0..FIELDS));
    let body = match random.random_range(0..8) {
        0 => json!({"type": "subscribe"}),
        1 => json!({"type": "unsubscribe"}),
        2 => json!({"type": "sync_request", "clock": {"server": 1}}),
        3 => json!({"type": "delta", "field": field, "value": {"__deleted": true}}),
        4 => json!({"type": "awareness_update", "clientId": format!("c{}", number % 500), "state": {"n": number}}),
        5 => json!({"type": "awareness_subscribe"}),
        6 => json!({"type": "delta_batch", "messageId": "b", "deltas": [
            {"field": field, "value": number, "clock": {"c": 1}, "clientId": "c"},
            {"operation": "add", "value": number % 20}, {"type": "counter", "operation": "increment", "value": 1}]}),
        _ => json!({"type": "delta", "delta": {field: "x".repeat(random.random_range(0..400))}}),
    };
    let mut body = body;
    body["documentId"] = json!(document);
    body["id"] = json!("s");
    body["timestamp"] = json!(1);
    body.to_string()
}

#[test]
fn memory_does_not_creep_under_churn() {
    let seconds = std::env::var("SOAK_SECONDS")
        .ok()
        .map_or(10, |text| text.parse().expect("SOAK_SECONDS is a number"));
    let length = Duration::from_secs(seconds);
    let mut server = Server::with()
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .env("AWARENESS_TIMEOUT_MS", 1_000)
        .start();
    let mut random = StdRng::seed_from_u64(7);
    let mut crowd: Vec<Member> = (0..CROWD).map(|_| Member::connect(server.address())).collect();
    let (began, mut samples, mut number, mut left) = (Instant::now(), Vec::new(), 0_u64, 0_u64);
    let (mut sampled, mut told) = (Instant::now(), Instant::now());
    while began.elapsed() < length {
        let at = random.random_range(0..CROWD);
        number += 1;
        match random.random_range(0..40) {
            0 => {
                crowd[at] = Member::connect(server.address());
                left += 1;
            }
            // Some do not read for a while.
            1..=10 => crowd[at].discard(),
            _ => crowd[at].send_text(&message(&mut random, number)),
        }
        if number.is_multiple_of(64) {
            crowd.iter_mut().skip(at % 4).step_by(4).for_each(Member::discard);
        }
        if sampled.elapsed() > length / 200 {
            samples.push(server.rss_kib() as f64);
            sampled = Instant::now();
        }
        if told.elapsed() > Duration::from_secs(60) {
            println!(
                "{:>5} s: {} KiB, {number} steps, {left} left",
                began.elapsed().as_secs(),
                server.rss_kib()
            );
            told = Instant::now();
        }
    }
    let quarter = samples.len() / 4;
    assert!(quarter >= 5, "only {} samples in {length:?}", samples.len());
    let early = percentile(&mut samples[quarter..2 * quarter].to_vec(), 50.0);
    let late = percentile(&mut samples[3 * quarter..].to_vec(), 50.0);
    println!(
        "{number} steps, {left} connections left, {length:?}: {early:.0} KiB in the second quarter, {late:.0} KiB in the last"
    );
    assert!(late - early <= GROWTH_KIB_MAX, "grew from {early:.0} to {late:.0} KiB");
    drop(crowd);
    let mut client = Client::connect(&server, Dialect::Json);
    support::eventually("everybody is forgotten", || {
        client.fence();
        (server.get("/health").json()["connections"]["totalConnections"] == 1).then_some(())
    });
    server.assert_alive();
}
