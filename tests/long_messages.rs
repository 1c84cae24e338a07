//! Promise: a message that takes more than one turn of its shard delays nobody by more than a step, and is handled as any
//! other: in its place among the messages of its connection, whole or not at all where it is a map, with one
//! acknowledgement (docs/protocol.md §4, §5.6, §5.7).
//!
//! Steps are counted turn by turn on a shard that is fed by hand; order and content are looked at over real sockets.

use test_support as support;

#[path = "support/bare_shard.rs"]
mod bare_shard;

use bare_shard::{BareShard, QUIET_US, text_frame};
use serde_json::{Value, json};
use std::sync::mpsc::sync_channel;
use support::database::SqliteFile;
use support::{Client, Dialect, Server};
use synckit_server::handler::{End, Handler};
use synckit_server::ids::ShardId;
use synckit_server::limits::{
    BATCH_STEP_ELEMENTS, FLUSH_STEP_FIELDS, LONG_MESSAGE_BYTES, LONG_MESSAGE_STEP_BYTES, MAP_STEP_BYTES,
    MAP_STEP_FIELDS, MAP_STEP_MEMBERS, PARTIAL_BYTES_TOTAL_MAX, TEXT_MERGE_TRIES,
};
use synckit_server::shard::Metrics;
use synckit_server::shard::mail::Mail;

/// Far more turns than any of the messages here takes.
const TURNS_MAX: usize = 2_000;

fn metrics(shard: &mut BareShard) -> Metrics {
    let (sender, receiver) = sync_channel(1);
    shard.shard.mail(shard.now, ShardId(0), Mail::Measure(sender));
    *receiver.recv().expect("it measures").1
}

fn elements(count: usize) -> Vec<Value> {
    let element = |n| json!({"field": format!("f{n}"), "value": n, "clientId": "c", "clock": {"c": n + 1}});
    (0..count).map(element).collect()
}

fn map(count: usize, value: usize) -> Value {
    (0..count)
        .map(|n| (format!("f{n}"), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Sends one message to a shard with a listener and gives the turns it took and the fields that the document then has.
/// Fails if a turn did more than a step.
fn turns_of(message: &Value) -> (usize, u64) {
    turns_of_text(&message.to_string())
}

fn turns_of_text(message: &str) -> (usize, u64) {
    let mut shard = BareShard::new();
    shard.subscribe("long");
    let author = shard.connect();
    let accepted_before = metrics(&mut shard).elements_accepted;
    shard.receive(author, &text_frame(message));
    assert_eq!(
        metrics(&mut shard).elements_accepted,
        accepted_before,
        "handled while it was read"
    );
    let mut turns = 0;
    while shard.shard.deadline_us().is_some_and(|due| due <= shard.now.mono_us) || turns < 3 {
        let before = metrics(&mut shard);
        shard.turn();
        shard.pass(QUIET_US);
        let after = metrics(&mut shard);
        let accepted = after.elements_accepted - before.elements_accepted;
        let flushed = after.fields_flushed - before.fields_flushed;
        assert!(
            accepted <= BATCH_STEP_ELEMENTS as u64,
            "{accepted} elements in one turn"
        );
        assert!(
            flushed <= FLUSH_STEP_FIELDS as u64,
            "{flushed} fields flushed in one turn"
        );
        turns += 1;
        assert!(turns < TURNS_MAX, "no end in sight");
    }
    (turns, metrics(&mut shard).fields_flushed)
}

#[test]
fn no_turn_does_more_than_a_step() {
    let batch = |deltas: Vec<Value>| json!({"type": "delta_batch", "id": "1", "documentId": "long", "deltas": deltas});
    let (turns, flushed) = turns_of(&batch(elements(60_000)));
    assert_eq!(flushed, 60_000);
    assert!(turns >= 60_000 / BATCH_STEP_ELEMENTS, "{turns} turns");
    let (turns, flushed) =
        turns_of(&json!({"type": "delta", "id": "1", "documentId": "long", "delta": map(60_000, 1)}));
    assert_eq!(flushed, 60_000);
    // Read, looked at for its size, and written, all in steps.
    assert!(
        turns >= 60_000 / MAP_STEP_FIELDS + 60_000 / MAP_STEP_MEMBERS + 60_000 / (4 * MAP_STEP_FIELDS),
        "{turns} turns"
    );
    // Long names count as many fields.
    let long_name = |n: usize| format!("\"{}{n}\":0", r"\u0001".repeat(150));
    let long_names = format!("{{{}}}", (0..2_000).map(long_name).collect::<Vec<_>>().join(","));
    let head = r#""type":"delta","id":"1","documentId":"long","delta":"#;
    let (turns, flushed) = turns_of_text(&format!("{{{head}{long_names}}}"));
    assert_eq!(flushed, 2_000);
    assert!(turns >= long_names.len() / MAP_STEP_BYTES * 9 / 4, "{turns} turns");
    let same = (0..100_000).map(|n| format!("\"same\":{}", n % 10));
    let same = format!("{{{}}}", same.collect::<Vec<_>>().join(","));
    let (turns, flushed) = turns_of_text(&format!("{{{head}{same}}}"));
    assert_eq!(flushed, 1);
    assert!(turns >= 100_000 / MAP_STEP_MEMBERS, "{turns} turns");
    // Also where it is an element of a batch, between others.
    let element = format!(r#"{{"field":"a","value":1}},{{"delta":{same}}},{{"field":"b","value":2}}"#);
    let head = r#""type":"delta_batch","id":"1","documentId":"long","deltas":"#;
    let (turns, flushed) = turns_of_text(&format!("{{{head}[{element}]}}"));
    assert_eq!(flushed, 3);
    assert!(turns >= 100_000 / MAP_STEP_MEMBERS, "{turns} turns");
    let maps = (0..3).map(|value| json!({"delta": map(20_000, value)})).collect();
    let (turns, flushed) = turns_of(&batch(maps));
    assert!(flushed >= 20_000);
    assert!(turns >= 60_000 / MAP_STEP_FIELDS, "{turns} turns");
    // So is what means nothing: a member nobody knows,
    let filler = r"\n".repeat(2 << 20);
    let (turns, _) = turns_of_text(&format!(
        r#"{{"type":"delta","id":"1","documentId":"long","delta":{{"a":1}},"x":"{filler}"}}"#
    ));
    assert!(turns >= filler.len() / LONG_MESSAGE_STEP_BYTES, "{turns} turns");
    // and elements.
    let (turns, _) = turns_of(&batch(vec![json!(1); 200_000]));
    assert!(turns >= 200_000 / BATCH_STEP_ELEMENTS, "{turns} turns");
}

/// A batch that brings the text of somebody who typed so many characters, each a block of its own.
fn typed(document: &str, client: &str, count: usize) -> Value {
    let id = |clock: usize| json!({"client_id": client, "clock": clock, "offset": 0});
    let block = |clock: usize| {
        let left = if clock == 1 { Value::Null } else { id(clock - 1) };
        json!([id(clock), {"id": id(clock), "text": "x", "left_origin": left, "right_origin": null, "deleted": false}])
    };
    let blocks: Vec<Value> = (1..=count).map(block).collect();
    let state = json!({"blocks": blocks, "clock": {"value": count}, "client_id": client}).to_string();
    let element = json!({"type": "text-state", "state": state, "clientId": client});
    json!({"type": "delta_batch", "id": "t", "messageId": "t", "documentId": document, "deltas": [element]})
}

/// Turns until the shard has nothing more to do by itself.
fn rest(shard: &mut BareShard) {
    for turn in 0.. {
        shard.turn();
        shard.pass(QUIET_US);
        if turn > 3 && shard.shard.deadline_us().is_none_or(|due| due > shard.now.mono_us) {
            return;
        }
        assert!(turn < TURNS_MAX, "no end in sight");
    }
}

#[test]
fn no_turn_merges_a_large_text() {
    // One in a message that takes several turns, one in a message that does not.
    for count in [2_000, 500] {
        let mut shard = BareShard::new();
        shard.subscribe("long");
        let author = shard.connect();
        let message = typed("long", "ann", count).to_string();
        assert_eq!(message.len() > LONG_MESSAGE_BYTES, count == 2_000);
        shard.receive(author, &text_frame(&message));
        rest(&mut shard);
        let before = metrics(&mut shard);
        assert_eq!(
            (before.text_merges, before.elements_accepted),
            (0, 0),
            "merged by the shard"
        );
        let deliveries = before.deliveries;
        assert!(shard.merge(), "nothing was to be merged");
        rest(&mut shard);
        let after = metrics(&mut shard);
        assert_eq!((after.text_merges, after.elements_accepted), (1, 1));
        assert!(after.deliveries > deliveries, "the listener was told nothing");
        assert!(!shard.merge(), "merged twice");
        // Typing goes on as before: what is small is merged when it comes.
        shard.receive(author, &text_frame(&typed("long", "bob", 3).to_string()));
        assert_eq!(metrics(&mut shard).text_merges, 2);
    }
}

#[test]
fn a_state_that_is_too_large_is_not_read_by_the_shard_either() {
    let mut shard = BareShard::new();
    let author = shard.connect();
    let blocks: Vec<Value> = (1..=100_001)
        .map(|clock| json!([{"client_id": "c", "clock": clock, "offset": 0}, {}]))
        .collect();
    let state = json!({"blocks": blocks, "clock": {"value": 1}, "client_id": "c"}).to_string();
    let element = json!({"type": "text-state", "state": state, "clientId": "c"});
    let message = json!({"type": "delta_batch", "id": "t", "documentId": "d", "deltas": [element]});
    shard.receive(author, &text_frame(&message.to_string()));
    rest(&mut shard);
    let sent_bytes = shard.sent_bytes;
    assert!(shard.merge());
    rest(&mut shard);
    assert!(shard.sent_bytes > sent_bytes, "no answer");
    assert_eq!(metrics(&mut shard).elements_accepted, 0);
}

/// Others type while a large state is being merged: the result does not count, and after some tries the shard does it.
#[test]
fn a_merge_that_comes_too_late_is_done_again() {
    let mut shard = BareShard::new();
    let (author, other) = (shard.connect(), shard.connect());
    shard.receive(author, &text_frame(&typed("d", "ann", 2_000).to_string()));
    rest(&mut shard);
    for tried in 1..=u64::from(TEXT_MERGE_TRIES) {
        shard.receive(other, &text_frame(&typed("d", "bob", tried as usize).to_string()));
        assert_eq!(metrics(&mut shard).text_merges, tried, "the other waited");
        assert!(shard.merge(), "merged without having been asked for, try {tried}");
        rest(&mut shard);
    }
    let merges = metrics(&mut shard).text_merges;
    assert_eq!(merges, u64::from(TEXT_MERGE_TRIES) + 1, "it was never taken over");
    assert!(!shard.merge());
}

#[test]
fn the_end_waits_for_what_is_being_merged() {
    let mut shard = BareShard::new();
    let author = shard.connect();
    shard.receive(author, &text_frame(&typed("d", "ann", 2_000).to_string()));
    rest(&mut shard);
    shard.shard.shut_down(shard.now);
    shard.shard.ended(shard.now, author, End::Error);
    for _ in 0..20 {
        shard.turn();
        shard.pass(QUIET_US);
    }
    assert!(!shard.shard.is_drained(), "left while a text was being merged");
    assert!(shard.merge());
    for _ in 0..20 {
        shard.turn();
        shard.pass(QUIET_US);
    }
    assert!(shard.shard.is_drained(), "a text that was merged holds the end up");
    assert_eq!(metrics(&mut shard).text_merges, 1);
}

#[test]
fn others_are_served_between_the_steps() {
    let mut shard = BareShard::new();
    let (author, other) = (shard.connect(), shard.subscribe("calm"));
    let message = json!({"type": "delta_batch", "id": "1", "documentId": "long", "deltas": elements(30_000)});
    shard.receive(author, &text_frame(&message.to_string()));
    for number in 0..20 {
        let before = metrics(&mut shard).elements_accepted;
        let write = json!({"type": "delta", "id": "w", "documentId": "calm", "delta": {"n": number}});
        shard.receive(other, &text_frame(&write.to_string()));
        assert_eq!(
            metrics(&mut shard).elements_accepted,
            before + 1,
            "write {number} waited"
        );
        shard.turn();
        shard.pass(QUIET_US);
    }
    assert!(
        metrics(&mut shard).elements_accepted < 30_000,
        "the batch was over too soon to show anything"
    );
}

fn server(shards: usize) -> Server {
    Server::with()
        .shards(shards)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start()
}

/// Which of these ids are acknowledged or refused, in the order in which that is said; ends at the pong behind them.
fn answers(client: &mut Client) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..50 {
        let message = client.take_where("an answer", |m| {
            matches!(m.kind.as_str(), "ack" | "error" | "sync_response" | "awareness_state")
        });
        match message.kind.as_str() {
            "ack" => answers.push(format!("ack {}", message["messageId"].as_str().unwrap_or("?"))),
            "awareness_state" => return answers,
            kind => answers.push(kind.to_owned()),
        }
    }
    panic!("too many answers: {answers:?}")
}

#[test]
fn messages_behind_a_long_one_wait_for_it() {
    const COUNT: usize = 12_000;
    for shards in [1, 2] {
        let server = server(shards);
        for dialect in [Dialect::Json, Dialect::Binary] {
            // One that listens to another document already, and one that moves to its shard with the long message.
            for settled in [true, false] {
                let document = format!("doc:{dialect:?}:{settled}");
                let mut client = Client::connect(&server, dialect);
                if settled {
                    client.subscribe(&format!("other:{document}"));
                }
                let fields = |extra: Value| {
                    let mut fields = json!({"documentId": document});
                    fields
                        .as_object_mut()
                        .unwrap()
                        .extend(extra.as_object().unwrap().clone());
                    fields
                };
                client.say_as(
                    "b",
                    "delta_batch",
                    fields(json!({"messageId": "b", "deltas": elements(COUNT)})),
                );
                client.say_as(
                    "t",
                    "delta_batch",
                    fields(json!({"messageId": "t", "deltas": typed(&document, "ann", 2_000)["deltas"]})),
                );
                client.say_as(
                    "d",
                    "delta",
                    fields(json!({"messageId": "d", "delta": {"f0": "after"}})),
                );
                client.say_as(
                    "m",
                    "delta",
                    fields(json!({"messageId": "m", "delta": map(COUNT + 1, 7)})),
                );
                client.say_as("e", "delta", fields(json!({"messageId": "e", "delta": {"f1": "last"}})));
                client.say_as(
                    "n",
                    "delta_batch",
                    fields(json!({"messageId": "n", "deltas": [{"delta": map(2_000, 7)}]})),
                );
                client.say_as(
                    "l",
                    "delta",
                    fields(json!({"messageId": "l", "delta": {"f1": "really last"}})),
                );
                client.say_as("s", "sync_request", fields(json!({})));
                client.say_as("a", "awareness_subscribe", fields(json!({})));
                let said = answers(&mut client);
                assert_eq!(
                    said,
                    [
                        "ack b",
                        "ack t",
                        "ack d",
                        "ack m",
                        "ack e",
                        "ack n",
                        "ack l",
                        "sync_response"
                    ],
                    "{document}, {shards} shards"
                );
                let mut late = Client::connect(&server, Dialect::Json);
                let state = late.subscribe(&document)["state"].clone();
                let mut expected = map(COUNT + 1, 7);
                expected["f1"] = json!("really last");
                assert!(
                    state == expected,
                    "{document} on {shards} shards is not what was written"
                );
            }
        }
    }
}

#[test]
fn a_large_map_is_written_whole_or_not_at_all() {
    let server = Server::with().env("SYNCKIT_MAX_DOC_SIZE", 300_000).start();
    let mut client = Client::connect(&server, Dialect::Json);
    let mut refused = map(9_000, 1);
    refused["x".repeat(2_000)] = json!(0);
    client.say_as(
        "1",
        "delta",
        json!({"documentId": "d", "messageId": "1", "delta": refused}),
    );
    client.take_error("LIMIT_EXCEEDED", "Field name too long");
    let long: serde_json::Map<_, _> = (0..9_000).map(|n| (format!("f{n}"), json!("y".repeat(40)))).collect();
    client.say_as(
        "2",
        "delta",
        json!({"documentId": "d", "messageId": "2", "delta": long}),
    );
    client.take_error("LIMIT_EXCEEDED", "Document too large");
    assert_eq!(
        client.sync("d")["state"],
        json!({}),
        "a part of a refused map was written"
    );
    // What fits is written, and a second one that replaces it fits as well.
    for value in 0..2 {
        client.say_as(
            "3",
            "delta",
            json!({"documentId": "d", "messageId": "3", "delta": map(9_000, value)}),
        );
        client.take_ack("3");
    }
    let mut late = Client::connect(&server, Dialect::Json);
    assert!(late.sync("d")["state"] == map(9_000, 1));
}

#[test]
fn a_long_message_is_refused_as_a_short_one_is() {
    let server = server(2);
    let mut client = Client::connect(&server, Dialect::Json);
    let filler = "x".repeat(400_000);
    client.send_text(&format!(
        r#"{{"type":"delta","id":"1","documentId":"d","delta":{{"a":"{filler}"}}"#
    ));
    client.take_error("INVALID_MESSAGE", "Invalid message format");
    client.send_text(&format!(
        r#"{{"type":"nothing","id":"1","documentId":"d","a":"{filler}"}}"#
    ));
    client.take_error("INVALID_MESSAGE", "Invalid message type: nothing");
    client.send_text(&format!(
        r#"{{"type":"delta","id":"1","documentId":"d","delta":{{"a":{}1{}}}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    ));
    client.take_error("INVALID_MESSAGE", "Invalid message format");
    client.write_acked("d", json!({"a": filler}));
    assert_eq!(client.sync("d")["state"]["a"], json!(filler));
}

/// An acknowledged long batch is stored, whichever of its parts was committed last.
#[test]
fn a_long_batch_is_acknowledged_when_all_of_it_is_stored() {
    let file = SqliteFile::new();
    let url = file.url();
    let start = || Server::with().env("DATABASE_URL", &url).start();
    let server = start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.say_as(
        "b",
        "delta_batch",
        json!({"documentId": "d", "messageId": "b", "deltas": elements(12_000)}),
    );
    client.say_as(
        "m",
        "delta",
        json!({"documentId": "e", "messageId": "m", "delta": map(12_000, 7)}),
    );
    client.say_as(
        "t",
        "delta_batch",
        json!({"documentId": "f", "messageId": "t", "deltas": typed("f", "ann", 2_000)["deltas"]}),
    );
    client.take_ack("b");
    client.take_ack("m");
    client.take_ack("t");
    // Dropping it kills it.
    drop(server);
    let server = start();
    let mut late = Client::connect(&server, Dialect::Json);
    let state = late.subscribe("d")["state"].clone();
    assert_eq!(state.as_object().map(serde_json::Map::len), Some(12_000));
    assert!(late.subscribe("e")["state"] == map(12_000, 7));
    let text: Value = serde_json::from_str(late.subscribe("f")["textState"].as_str().expect("a text")).expect("JSON");
    assert_eq!(text["blocks"].as_array().map(Vec::len), Some(2_000));
}

/// Messages that have begun to arrive may take so much memory in all; beyond it, whoever brings more of one is closed.
/// That others hold nearly all of it is said, not done: it would be a gigabyte.
#[test]
fn unfinished_messages_of_all_connections_together_are_bounded() {
    let mut shard = BareShard::new();
    let frame = text_frame(&delta_of(10_000));
    let (begin, rest) = frame.split_at(6_000);
    let closed_as_too_large = |shard: &mut BareShard, slot| {
        let pieces = shard.shard.take_outgoing(slot, 64 * 1024);
        let said: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        said.first() == Some(&0x88) && said[2..4] == 1009u16.to_be_bytes()
    };
    let elsewhere = PARTIAL_BYTES_TOTAL_MAX - 20_000;
    shard.context.partial_bytes_changed(0, elsewhere);
    let [first, second, third] = [(); 3].map(|()| shard.connect());
    shard.receive(first, begin);
    assert!(!closed_as_too_large(&mut shard, first));
    shard.receive(second, begin);
    assert!(!closed_as_too_large(&mut shard, second));
    let held = shard.context.partial_bytes() - elsewhere;
    assert!((12_000..20_000).contains(&held), "{held} bytes");
    shard.context.partial_bytes_changed(0, 20_000);
    shard.receive(third, begin);
    assert!(closed_as_too_large(&mut shard, third));
    shard.shard.ended(shard.now, third, End::Error);
    assert_eq!(shard.context.partial_bytes() - elsewhere - 20_000, held);
    // What comes whole needs none of it, and what is finished gives its share back.
    let accepted = metrics(&mut shard).elements_accepted;
    let whole = shard.connect();
    shard.receive(whole, &frame);
    shard.receive(first, rest);
    shard.receive(second, rest);
    shard.turn();
    assert_eq!(metrics(&mut shard).elements_accepted - accepted, 3);
    assert_eq!(shard.context.partial_bytes(), elsewhere + 20_000);
}

/// A message of about so many bytes.
fn delta_of(bytes: usize) -> String {
    json!({"type": "delta", "documentId": "d", "field": "f", "value": "x".repeat(bytes)}).to_string()
}
