//! A reader that stops reading costs a bounded amount of memory, delays nobody, and is closed 1013 or, when its socket
//! takes nothing at all, dropped (docs/protocol.md §21). A reader that only stumbles is brought up to date.

use test_support as support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::crowd::{Member, Received};
use support::{Client, Dialect, Server};

const DOCUMENTS: usize = 3;
const FIELDS: usize = 20;
const VALUE_BYTES: usize = 100_000;
const STALLED: usize = 20;

fn server() -> Server {
    Server::with()
        .shards(2)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .env("SYNCKIT_SEND_QUEUE_BYTES", 1 << 20)
        .without_heartbeats()
        .start()
}

fn subscribe_all(member: &mut Member) {
    for document in 0..DOCUMENTS {
        let text = json!({"type": "subscribe", "id": "s", "documentId": format!("big:{document}")}).to_string();
        member.send_text(&text);
    }
}

/// Writes every field of every document once: 6 MB.
fn write_round(writer: &mut Client, round: usize) {
    for document in 0..DOCUMENTS {
        for field in 0..FIELDS {
            let value = format!("{round:08}{}", "x".repeat(VALUE_BYTES));
            writer.write_acked(&format!("big:{document}"), json!({ format!("f{field}"): value }));
        }
        // The writer gets its own echo too and must not become a stalled reader itself.
        while writer.next_within(Duration::from_millis(1)).is_some() {}
    }
}

fn round_of(value: &Value) -> usize {
    value.as_str().expect("a string")[..8].parse().expect("a round")
}

#[test]
fn memory_stays_bounded_and_others_are_served() {
    let server = server();
    let mut healthy = Client::connect(&server, Dialect::Binary);
    healthy.subscribe("calm");
    let mut calm = Client::connect(&server, Dialect::Json);
    let mut writer = Client::connect(&server, Dialect::Json);
    let mut stalled: Vec<Member> = (0..STALLED).map(|_| Member::connect(server.address())).collect();
    write_round(&mut writer, 0);
    stalled.iter_mut().for_each(subscribe_all);
    write_round(&mut writer, 1);
    let before = server.rss_kib();

    let mut slowest = Duration::ZERO;
    for round in 2..22 {
        write_round(&mut writer, round);
        let began = Instant::now();
        calm.write("calm", json!({ "round": round }));
        assert_eq!(healthy.take_field("calm", "round")["value"], round);
        slowest = slowest.max(began.elapsed());
    }
    let grown = server.rss_kib().saturating_sub(before);
    println!("{STALLED} stalled readers, 120 MB written: server grew by {grown} KiB; slowest calm delta {slowest:?}");
    // Each may hold its queue and one message more; unbounded queues would keep all 120 MB.
    let allowed = (STALLED as u64) * (1024 + 128) + 40 * 1024;
    assert!(grown < allowed, "grew by {grown} KiB, allowed {allowed}");

    // Nobody reads: all of them have to be gone after the 30 s a socket may refuse every byte.
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.get("/health").json()["connections"]["totalConnections"] != 3 {
        assert!(Instant::now() < deadline, "stalled readers are still connected");
        calm.fence();
        std::thread::sleep(Duration::from_millis(500));
    }
    for member in &mut stalled {
        let ending = support::eventually("the end", || {
            member.poll().into_iter().find(|it| !matches!(it, Received::Message(_)))
        });
        // A close frame fits only if the socket took it; an end without one is the drop.
        if let Received::Close(code, reason) = ending {
            assert_eq!((code, reason.as_str()), (1013, "Slow consumer, resync"));
        }
    }
}

#[test]
fn a_reader_that_resumes_is_right_or_told_to_come_again() {
    let server = server();
    let mut writer = Client::connect(&server, Dialect::Json);
    write_round(&mut writer, 0);
    let mut reader = Member::connect(server.address());
    subscribe_all(&mut reader);
    for round in 1..8 {
        write_round(&mut writer, round);
    }
    let mut seen = vec![[usize::MAX; FIELDS]; DOCUMENTS];
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut closed = None;
    while closed.is_none() && seen.iter().flatten().any(|round| *round != 7) {
        assert!(Instant::now() < deadline, "neither up to date nor closed: {seen:?}");
        for received in reader.poll() {
            match received {
                Received::Message(message) => {
                    let document = message["documentId"]
                        .as_str()
                        .and_then(|id| id[4..].parse::<usize>().ok());
                    let document = document.expect("one of the documents");
                    if let Some(state) = message["state"].as_object() {
                        for (field, value) in state {
                            seen[document][field[1..].parse::<usize>().expect("a field")] = round_of(value);
                        }
                    } else {
                        let field = message["field"].as_str().expect("a field");
                        seen[document][field[1..].parse::<usize>().expect("a field")] = round_of(&message["value"]);
                    }
                }
                Received::Pong(_) => {}
                Received::Close(code, reason) => closed = Some((code, reason)),
                Received::End => panic!("ended without a close frame while reading"),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if let Some(closed) = closed {
        assert_eq!(closed, (1013, "Slow consumer, resync".into()));
    }
}
