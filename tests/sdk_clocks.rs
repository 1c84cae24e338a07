//! The clocks sent to SDK clients keep them equal (docs/protocol.md §9.3 and §9.4): simulated SDK clients, with their
//! own last-write-wins, wall clocks off by up to five seconds, offline periods and a RAW writer, converge after every
//! burst; a lone editor never sees its own edit replaced or hidden; stamps never go back; every clock is valid (the
//! model of the client checks each one it receives).

use test_support as support;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use support::replica::{Fields, Plain, Replica, Sdk};
use support::{Client, Dialect, SILENCE, Server};

const FIELDS: [&str; 3] = ["title", "body", "colour"];

fn unlimited(shards: usize) -> Server {
    Server::with()
        .shards(shards)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start()
}

fn settle(sdks: &mut [Sdk], raw: &mut Plain) {
    let mut quiet_since = Instant::now();
    let began = Instant::now();
    while quiet_since.elapsed() < SILENCE {
        assert!(began.elapsed() < support::PATIENCE, "the server never stops sending");
        let mut any = raw.pump(Duration::from_millis(1));
        for sdk in sdks.iter_mut() {
            any |= sdk.pump(Duration::from_millis(1));
        }
        if any {
            quiet_since = Instant::now();
        }
    }
}

fn session(server: &Server, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let document = format!("session:{seed}");
    let mut raw = Plain::join(server, Dialect::Json, &document);
    let mut sdks: Vec<Sdk> = (0..3)
        .map(|index| {
            let mut sdk = Sdk::join(server, &format!("client-{seed}-{index}"), &document);
            sdk.skew_ms = random.random_range(-5_000..=5_000);
            sdk
        })
        .collect();
    let mut offline = [false; 3];
    for step in 0..60 {
        let index = random.random_range(0..4);
        let field = FIELDS[random.random_range(0..FIELDS.len())];
        match (index, random.random_range(0..10)) {
            (3, _) => raw.write(field, json!(format!("raw {step}"))),
            (_, 0) if !offline[index] => {
                sdks[index].go_offline();
                offline[index] = true;
            }
            (_, 0 | 1) if offline[index] => {
                sdks[index].reconnect(server);
                offline[index] = false;
            }
            (_, 2..6) => sdks[index].write(field, json!(format!("{index} {step}"))),
            _ => sdks[index].edit(field, json!({ "by": index, "step": step })),
        }
        for (sdk, offline) in sdks.iter_mut().zip(offline) {
            if !offline && random.random_bool(0.5) {
                sdk.pump(Duration::from_millis(1));
            }
        }
    }
    for (sdk, offline) in sdks.iter_mut().zip(offline) {
        if offline {
            sdk.reconnect(server);
        }
        sdk.flush();
    }
    settle(&mut sdks, &mut raw);
    let state = Client::connect(server, Dialect::Json).sync(&document)["state"].clone();
    assert_eq!(json!(raw.fields()), state, "seed {seed}: RAW differs from the server");
    for sdk in &sdks {
        assert_eq!(
            json!(sdk.fields()),
            state,
            "seed {seed}: {} differs from the server",
            sdk.name()
        );
    }
}

#[test]
fn random_sessions_on_one_shard_end_equal() {
    let server = unlimited(1);
    (0..12).for_each(|seed| session(&server, seed));
}

#[test]
fn random_sessions_on_three_shards_end_equal() {
    let server = unlimited(3);
    (100..112).for_each(|seed| session(&server, seed));
}

#[test]
fn a_lone_editor_never_loses_sight_of_an_edit() {
    let server = unlimited(2);
    let mut other = Sdk::join(&server, "watcher", "alone");
    let mut editor = Sdk::join(&server, "editor", "alone");
    editor.skew_ms = -5_000;
    let mut expected = Fields::new();
    for step in 0..80 {
        let field = FIELDS[step % 3];
        editor.write(field, json!(step));
        expected.insert(field.to_owned(), json!(step));
        // Echoes arrive while typing goes on: neither may bring an older value back.
        editor.pump(Duration::from_millis(if step % 7 == 0 { 20 } else { 1 }));
        assert_eq!(editor.fields(), expected, "after edit {step}");
        if step == 40 {
            editor.go_offline();
            editor.reconnect(&server);
            assert_eq!(editor.fields(), expected, "after reconnecting");
            // The new connection does not know its writer until the first edit, which may be hidden until its echo.
            editor.write("title", json!("first after reconnecting"));
            expected.insert("title".into(), json!("first after reconnecting"));
            while editor.pump(SILENCE) {}
            assert_eq!(editor.fields(), expected, "after the echo");
        }
    }
    assert!(
        editor.hidden_edits <= 1,
        "{} edits were hidden from their author",
        editor.hidden_edits
    );
    while other.pump(SILENCE) {}
    assert_eq!(other.fields(), expected);
}

#[test]
fn an_edit_made_offline_before_a_later_one_by_another_loses() {
    let server = unlimited(2);
    let mut early = Sdk::join(&server, "early", "offline");
    let mut late = Sdk::join(&server, "late", "offline");
    early.write("f", json!("seen by both"));
    while early.pump(SILENCE) | late.pump(SILENCE) {}
    early.go_offline();
    early.edit("f", json!("edited first, sent last"));
    std::thread::sleep(Duration::from_millis(50));
    late.write("f", json!("edited last"));
    while late.pump(SILENCE) {}
    early.reconnect(&server);
    while early.pump(SILENCE) | late.pump(SILENCE) {}
    for sdk in [&early, &late] {
        assert_eq!(sdk.fields()["f"], "edited last", "{}", sdk.name());
    }
}

#[test]
fn a_slow_wall_clock_does_not_lose_against_what_it_has_seen() {
    let server = unlimited(2);
    let mut ahead = Sdk::join(&server, "ahead", "skew");
    let mut behind = Sdk::join(&server, "behind", "skew");
    (ahead.skew_ms, behind.skew_ms) = (5_000, -60_000);
    ahead.write("f", json!("first"));
    while ahead.pump(SILENCE) | behind.pump(SILENCE) {}
    behind.write("f", json!("an answer to the first"));
    while ahead.pump(SILENCE) | behind.pump(SILENCE) {}
    for sdk in [&ahead, &behind] {
        assert_eq!(sdk.fields()["f"], "an answer to the first", "{}", sdk.name());
    }
}

#[test]
fn stamps_of_a_field_never_decrease() {
    let server = unlimited(2);
    let mut reader = Client::connect(&server, Dialect::Binary);
    reader.subscribe("stamps");
    let mut writers: Vec<Sdk> = (0..3)
        .map(|index| Sdk::join(&server, &format!("w{index}"), "stamps"))
        .collect();
    for step in 0..60 {
        writers[step % 3].write(FIELDS[step % 2], json!(step));
        writers[(step + 1) % 3].pump(Duration::from_millis(1));
    }
    let mut last: HashMap<String, u64> = HashMap::new();
    for delta in reader.drain().into_iter().filter(|message| message.kind == "delta") {
        let stamp = delta["clock"]["server"].as_u64().expect("a stamp");
        let field = delta["field"].as_str().expect("a field").to_owned();
        let before = last.insert(field.clone(), stamp).unwrap_or(0);
        assert!(stamp >= before, "{field} went from {before} to {stamp}");
    }
    assert_eq!(last.len(), 2, "both fields were seen");
}

#[test]
fn hostile_clock_entries_do_not_freeze_a_document() {
    let server = unlimited(1);
    let mut hostile = Client::connect(&server, Dialect::Sdk);
    hostile.subscribe("frozen");
    for (number, counter) in [
        json!(9_007_199_254_740_992_u64),
        json!(-5),
        json!(1.5),
        json!("x"),
        json!(1e300),
    ]
    .into_iter()
    .enumerate()
    {
        hostile.say(
            "delta_batch",
            json!({"documentId": "frozen", "messageId": format!("b{number}"), "deltas": [{"type": "set",
                "documentId": "frozen", "field": "f", "value": number, "timestamp": 4_000_000_000_000_000_i64,
                "clock": {"evil": counter, "server": counter}, "clientId": "evil"}]}),
        );
        hostile.take_ack(&format!("b{number}"));
    }
    let mut honest = Sdk::join(&server, "honest", "frozen");
    std::thread::sleep(Duration::from_millis(1100));
    honest.write("f", json!("still editable"));
    while honest.pump(SILENCE) {}
    assert_eq!(honest.fields()["f"], "still editable");
    let snapshot = Client::connect(&server, Dialect::Json).sync("frozen");
    assert_eq!(snapshot["state"]["f"], "still editable");
    assert!(snapshot["clock"]["server"].as_u64().expect("a stamp") < 1 << 50);
}

/// A client sends the document as far as one can. What others have seen of it counts nevertheless: one whose wall clock is
/// slow wins against it, and an own write is echoed with the own clock, not the server's.
#[test]
fn a_clock_at_the_bound_leaves_the_document_usable() {
    let server = unlimited(1);
    let mut hostile = Client::connect(&server, Dialect::Sdk);
    hostile.subscribe("pushed");
    let write = |client: &mut Client, who: &str, number: u64, clock: Value, unix_ms: i64| {
        client.say(
            "delta_batch",
            json!({"documentId": "pushed", "messageId": format!("{who}{number}"), "deltas": [{"type": "set",
                "documentId": "pushed", "field": "f", "value": number, "timestamp": unix_ms, "clock": clock, "clientId": who}]}),
        );
        client.take_ack(&format!("{who}{number}"));
    };
    for number in 0..3 {
        // And then as far as it can again.
        let clock = (1_u64 << 50) + number * (1 << 16);
        write(&mut hostile, "evil", number, json!({"evil": clock}), support::unix_ms());
    }
    let mut plain = Client::connect(&server, Dialect::Json);
    plain.say(
        "delta",
        json!({"documentId": "pushed", "delta": {"f": "plain"}, "messageId": "p"}),
    );
    plain.take_ack("p");
    let mut slow = Client::connect(&server, Dialect::Sdk);
    let seen = slow.subscribe("pushed")["clock"]["server"].as_u64().expect("a stamp");
    assert!(seen > 1 << 50);
    let clock = json!({"server": seen, "slow": seen + 1});
    write(&mut slow, "slow", 7, clock, support::unix_ms() - 5_000);
    // The other's write may still have been in its flush window when this client subscribed, and then comes first.
    let echo = slow.take_where("its echo", |message| message.kind == "delta" && message["value"] == 7);
    assert_eq!(echo["clock"], json!({"slow": seen + 1}));
    assert_eq!(plain.sync("pushed")["state"]["f"], 7);
}

#[test]
fn a_known_writer_has_its_entry_in_every_clock() {
    let server = unlimited(2);
    let mut client = Client::connect(&server, Dialect::Sdk);
    client.subscribe("one");
    client.say(
        "delta_batch",
        json!({"documentId": "one", "messageId": "b", "deltas": [{"type": "set", "documentId": "one", "field": "f",
            "value": 1, "clock": {"me": 1}, "clientId": "me", "timestamp": support::unix_ms()}]}),
    );
    client.take_ack("b");
    // The client id was learnt in one document and counts for all later answers on this connection.
    let snapshot = client.subscribe("two");
    let clock = snapshot["clock"].as_object().expect("a clock");
    assert_eq!(clock.len(), 2, "{clock:?}");
    assert_eq!(clock["server"], clock["me"]);
}
