//! Crowds (docs/protocol.md §23.8 to §23.10): a thousand connections join one document while fifty of them write and
//! all end equal; 500 subscribers get a document of 10,000 fields while another document's latency is watched; a field
//! written a hundred times a second arrives with its last value everywhere, never going back.

use test_support as support;

use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use support::crowd::Member;
use support::{Client, Dialect, Message, Server};

fn unlimited(shards: usize) -> Server {
    Server::with()
        .shards(shards)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start()
}

fn say(member: &mut Member, message: Value) {
    member.send_text(&message.to_string());
}

fn apply(copy: &mut HashMap<String, Value>, message: &Message) {
    match message.kind.as_str() {
        "sync_response" => {
            let state = message["state"].as_object().expect("state");
            *copy = state
                .iter()
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect();
        }
        "delta" => {
            copy.insert(
                message["field"].as_str().expect("a field").to_owned(),
                message["value"].clone(),
            );
        }
        "error" => panic!("{}", message.body),
        _ => {}
    }
}

#[test]
fn a_thousand_join_one_document_while_fifty_write() {
    const MEMBERS: usize = 1_000;
    const WRITERS: usize = 50;
    const ROUNDS: usize = 10;
    let server = unlimited(3);
    let began = Instant::now();
    let mut members: Vec<Member> = Vec::new();
    let mut copies: Vec<HashMap<String, Value>> = vec![HashMap::new(); MEMBERS];
    let mut round = 0;
    let write = |members: &mut [Member], round: usize| {
        for (number, member) in members.iter_mut().take(WRITERS).enumerate() {
            say(
                member,
                json!({"type": "delta", "id": format!("w{round}"), "documentId": "crowd",
                "delta": {format!("own{number}"): round, "shared": format!("{round}/{number}")}}),
            );
        }
    };
    while members.len() < MEMBERS {
        for _ in 0..200 {
            let mut member = Member::connect(server.address());
            say(
                &mut member,
                json!({"type": "subscribe", "id": "s", "documentId": "crowd"}),
            );
            members.push(member);
        }
        write(&mut members, round);
        round += 1;
    }
    while round < ROUNDS {
        write(&mut members, round);
        round += 1;
        for (member, copy) in members.iter_mut().zip(&mut copies) {
            member.messages().iter().for_each(|message| apply(copy, message));
        }
    }
    println!("joined and written after {:?}", began.elapsed());
    let is_complete = |copy: &HashMap<String, Value>| {
        (0..WRITERS).all(|number| copy.get(&format!("own{number}")) == Some(&json!(ROUNDS - 1)))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut quiet_sweeps = 0;
    while quiet_sweeps < 20 {
        assert!(Instant::now() < deadline, "never quiet");
        let mut any = false;
        for (member, copy) in members.iter_mut().zip(&mut copies) {
            for message in member.messages() {
                apply(copy, &message);
                any = true;
            }
        }
        quiet_sweeps = if any { 0 } else { quiet_sweeps + 1 };
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("settled after {:?}", began.elapsed());
    assert!(
        is_complete(&copies[0]),
        "the last round of every writer arrived: {:?}",
        copies[0]
    );
    assert!(
        copies.iter().all(|copy| *copy == copies[0]),
        "all thousand copies are equal"
    );
    let state = Client::connect(&server, Dialect::Binary).sync("crowd")["state"].clone();
    assert_eq!(state, json!(copies[0]), "a late joiner gets the same");
}

#[test]
fn a_document_of_ten_thousand_fields_for_five_hundred_subscribers() {
    const SUBSCRIBERS: usize = 500;
    let server = unlimited(2);
    let mut writer = Client::connect(&server, Dialect::Binary);
    for hundred in 0..100 {
        let fields: serde_json::Map<String, Value> = (0..100)
            .map(|number| (format!("field-{}", hundred * 100 + number), json!({ "n": number })))
            .collect();
        writer.write_acked("wide", Value::Object(fields));
    }
    writer.say("unsubscribe", json!({"documentId": "wide"}));

    let mut watcher = Client::connect(&server, Dialect::Json);
    watcher.subscribe("other");
    let mut author = Client::connect(&server, Dialect::Binary);
    let mut members: Vec<Member> = (0..SUBSCRIBERS).map(|_| Member::connect(server.address())).collect();
    let began = Instant::now();
    for member in &mut members {
        say(member, json!({"type": "subscribe", "id": "s", "documentId": "wide"}));
    }
    let mut snapshots = 0;
    let mut latencies = Vec::new();
    let mut done = vec![false; SUBSCRIBERS];
    while snapshots < SUBSCRIBERS {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{snapshots} snapshots of {SUBSCRIBERS}"
        );
        let sent = Instant::now();
        author.write("other", json!({ "n": latencies.len() }));
        watcher.take_field("other", "n");
        latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
        for (member, done) in members.iter_mut().zip(&mut done).filter(|(_, done)| !**done).take(40) {
            for message in member
                .messages()
                .into_iter()
                .filter(|message| message.kind == "sync_response")
            {
                assert_eq!(message["state"].as_object().map(serde_json::Map::len), Some(10_000));
                assert_eq!(message["state"]["field-9999"], json!({"n": 99}));
                *done = true;
                snapshots += 1;
            }
        }
    }
    println!(
        "500 snapshots of 10,000 fields in {:?}; another document meanwhile: p95 {:.1} ms, worst {:.1} ms",
        began.elapsed(),
        support::percentile(&mut latencies.clone(), 95.0),
        support::percentile(&mut latencies, 100.0)
    );
    writer.write_acked("wide", json!({"field-0": "changed"}));
    for member in &mut members {
        let delta = member.wait_for("the change", |message| message.kind == "delta");
        assert_eq!(
            (&delta["field"], &delta["value"]),
            (&json!("field-0"), &json!("changed"))
        );
    }
}

#[test]
fn a_field_written_a_hundred_times_a_second_ends_right_everywhere() {
    const WRITES: u64 = 300;
    let server = unlimited(3);
    let mut members: Vec<Member> = (0..50).map(|_| Member::connect(server.address())).collect();
    for member in &mut members {
        say(member, json!({"type": "subscribe", "id": "s", "documentId": "busy"}));
    }
    let mut writer = Client::connect(&server, Dialect::Binary);
    let mut last = vec![None; members.len()];
    let follow = |members: &mut [Member], last: &mut [Option<u64>]| {
        for (member, last) in members.iter_mut().zip(last) {
            for message in member.messages().into_iter().filter(|message| message.kind == "delta") {
                let value = message["value"].as_u64().expect("a number");
                assert!(last.is_none_or(|before| before < value), "{value} after {last:?}");
                *last = Some(value);
            }
        }
    };
    for number in 0..WRITES {
        writer.write("busy", json!({ "field": number }));
        std::thread::sleep(Duration::from_millis(9));
        if number % 10 == 0 {
            follow(&mut members, &mut last);
            while writer.next_within(Duration::from_millis(1)).is_some() {}
        }
    }
    support::eventually("everybody has the last value", || {
        follow(&mut members, &mut last);
        last.iter().all(|last| *last == Some(WRITES - 1)).then_some(())
    });
    assert_eq!(
        Client::connect(&server, Dialect::Json).sync("busy")["state"],
        json!({"field": WRITES - 1})
    );
}
