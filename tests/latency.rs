//! How long a change takes from one client to another. A report, not a benchmark: the figures are printed, and only an
//! absurd value fails the test.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::crowd::Member;
use support::{Client, Dialect, Server, percentile};

/// Far above what is promised; a machine busy with other tests may be slow.
const ABSURD_MS: f64 = 50.0;

fn report(what: &str, samples: &mut [f64]) -> f64 {
    let (half, most) = (percentile(samples, 50.0), percentile(samples, 95.0));
    println!(
        "{what}: p50 {half:.2} ms, p95 {most:.2} ms, worst {:.2} ms",
        percentile(samples, 100.0)
    );
    most
}

#[test]
fn a_change_to_a_quiet_document() {
    let server = Server::with()
        .shards(2)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start();
    for document in ["quiet:1", "quiet:2", "quiet:3"] {
        let mut reader = Client::connect(&server, Dialect::Binary);
        reader.subscribe(document);
        let mut writer = Client::connect(&server, Dialect::Binary);
        let mut samples: Vec<f64> = (0..100)
            .map(|number| {
                let sent = Instant::now();
                writer.write(document, json!({ "n": number }));
                assert_eq!(reader.take_field(document, "n")["value"], number);
                let took = sent.elapsed().as_secs_f64() * 1000.0;
                while writer.next_within(Duration::from_millis(1)).is_some() {}
                std::thread::sleep(Duration::from_millis(6));
                took
            })
            .collect();
        assert!(report(&format!("quiet delta of {document}"), &mut samples) < ABSURD_MS);
    }
}

#[test]
fn fifty_writers_on_a_hundred_subscribers() {
    const ROUNDS: u32 = 60;
    let server = Server::with()
        .shards(2)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start();
    let mut members: Vec<Member> = (0..100).map(|_| Member::connect(server.address())).collect();
    for member in &mut members {
        member.send_text(&json!({"type": "subscribe", "id": "s", "documentId": "busy"}).to_string());
        member.wait_for("the snapshot", |message| message.kind == "sync_response");
    }
    let began = Instant::now();
    let mut samples = Vec::new();
    let now_us = |began: Instant| began.elapsed().as_micros() as u64;
    // Ten subscribers are measured, the others only receive: parsing everything would measure this test.
    let mut sweep = |members: &mut [Member]| {
        for (number, member) in members.iter_mut().enumerate() {
            if number < 90 {
                member.discard();
                continue;
            }
            for message in member.messages().into_iter().filter(|message| message.kind == "delta") {
                let sent = message["value"].as_u64().expect("microseconds");
                samples.push((now_us(began) - sent) as f64 / 1000.0);
            }
        }
    };
    // Twenty rounds a second; the fifty writes of a round are spread over it.
    for round in 0..ROUNDS {
        for writer in 0..50_u32 {
            let due = Duration::from_millis(50) * round + Duration::from_millis(1) * writer;
            while began.elapsed() < due {
                sweep(&mut members);
            }
            let text = json!({"type": "delta", "id": "w", "documentId": "busy",
                "delta": {format!("f{writer}"): now_us(began)}});
            members[writer as usize].send_text(&text.to_string());
        }
    }
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        sweep(&mut members);
    }
    assert!(samples.len() > 10 * 50, "deltas arrived: {}", samples.len());
    // The receiving side shares one thread and the machine with the server, which is part of the figure.
    assert!(report("50 writers x 20/s, 100 subscribers", &mut samples) < 4.0 * ABSURD_MS);
}
