//! Promise: under churn the server's memory does not creep. Clients of all kinds come, subscribe, write, delete, type, show
//! presence, stumble and vanish without end, over a fixed set of documents; resident memory of the last quarter is held
//! against that of the second. Ten seconds by default; `SOAK_SECONDS=3600 cargo test --test soak -- --nocapture` is the
//! real thing and prints a line per minute.

#[path = "support/text_client.rs"]
mod text_client;

use test_support as support;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::client::Encoded;
use support::crowd::Member;
use support::{Client, Dialect, Server, percentile};

/// Connections that churn at a time.
const CROWD: usize = 60;
const DOCUMENTS: usize = 40;
const FIELDS: usize = 12;
const TEXT_STATES: usize = 24;
const DIALECTS: [Dialect; 4] = [Dialect::Json, Dialect::Binary, Dialect::Sdk, Dialect::Goc];
/// What the last quarter may lie above the second, whatever the duration: noise of the allocator, for which 6 MiB are allowed.
const GROWTH_KIB_MAX: f64 = 6.0 * 1024.0;

/// Has a member say something in its dialect.
fn say(member: &mut Member, dialect: Dialect, (kind, fields): (&str, Value)) {
    match dialect.encode("s", kind, fields) {
        Encoded::Text(text) => member.send_text(&text),
        Encoded::Binary(bytes) => member.send_binary(&bytes),
    }
}

/// A text as it grew and shrank, a state for every edit: sent again and again, in any order, so that all documents have texts
/// that are merged all the time, and none is ever larger than the last of these.
fn text_states() -> Vec<String> {
    let mut writers = [text_client::Client::new("ann"), text_client::Client::new("bob")];
    (0..TEXT_STATES)
        .map(|number| {
            let (writer, other) = (number % 2, 1 - number % 2);
            writers[writer].insert(number * 7 % 40, "some words ");
            writers[writer].delete(number * 5 % 30, 6);
            let state = writers[writer].state();
            if number % 3 != 0 {
                writers[other].receive(&state);
            }
            state
        })
        .collect()
}

fn message(random: &mut StdRng, number: u64, dialect: Dialect, texts: &[String]) -> (&'static str, Value) {
    let document = format!("soak:{}", random.random_range(0..DOCUMENTS));
    let field = format!("f{}", random.random_range(0..FIELDS));
    let (kind, mut fields) = match random.random_range(0..9) {
        0 => ("subscribe", json!({})),
        1 => ("unsubscribe", json!({})),
        2 => ("sync_request", json!({"clock": {"server": 1}})),
        3 => ("delta", json!({"field": field, "value": {"__deleted": true}})),
        4 => (
            "awareness_update",
            json!({"clientId": format!("c{}", number % 500), "state": {"n": number}}),
        ),
        5 => ("awareness_subscribe", json!({})),
        6 => (
            "delta_batch",
            json!({"messageId": "b", "deltas": [
            {"field": field, "value": number, "clock": {"c": 1}, "clientId": "c"},
            {"operation": "add", "value": number % 20}, {"type": "counter", "operation": "increment", "value": 1}]}),
        ),
        7 => ("delta_batch", text_batch(&texts[random.random_range(0..texts.len())])),
        _ => (
            "delta",
            json!({"delta": {field: "x".repeat(random.random_range(0..400))}}),
        ),
    };
    fields[dialect.document_key()] = json!(document);
    (kind, fields)
}

fn text_batch(state: &str) -> Value {
    json!({"messageId": "t", "deltas": [{"type": "text-state", "state": state, "clientId": "c", "clock": {"c": 1}}]})
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
    let (mut random, texts) = (StdRng::seed_from_u64(7), text_states());
    for dialect in DIALECTS {
        let mut member = Member::connect(server.address());
        let mut batch = text_batch(&texts[0]);
        batch[dialect.document_key()] = json!("soak:0");
        say(&mut member, dialect, ("delta_batch", batch));
        member.wait_for("its acknowledgement", |message| message.kind == "ack");
    }
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
            _ => {
                let dialect = DIALECTS[at % DIALECTS.len()];
                say(&mut crowd[at], dialect, message(&mut random, number, dialect, &texts));
            }
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
    let state = client.subscribe("soak:0");
    assert!(
        state["state"].as_object().is_some_and(|fields| !fields.is_empty()),
        "nobody wrote: {}",
        state.body
    );
    assert!(state["textState"].is_string(), "nobody typed: {}", state.body);
    server.assert_alive();
}
