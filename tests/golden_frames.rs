//! Frames recorded from real clients (tests/vectors/frames.json) get a sane answer, and what a client may send by
//! mistake gets exactly the answer listed there. Each frame goes to a fresh connection, which must survive it.

use test_support as support;

use serde_json::{Value, json};
use support::frame::unhex;
use support::{Client, Dialect, Message, Server};

fn vectors(list: &str) -> Vec<Value> {
    let text = include_str!("vectors/frames.json");
    let all: Value = serde_json::from_str(text).expect("the vectors are JSON");
    all[list].as_array().expect("a list").clone()
}

/// The recorded bytes. Where only the decoded form was recorded, because it is long, the frame is made from that.
fn bytes_of(vector: &Value) -> Vec<u8> {
    if let Some(hex) = vector["hex"].as_str() {
        return unhex(hex);
    }
    let decoded = &vector["decoded"];
    let payload = decoded["payload"].to_string();
    let mut frame = vec![decoded["type_code"].as_u64().expect("a code") as u8];
    frame.extend_from_slice(&decoded["timestamp"].as_i64().expect("milliseconds").to_be_bytes());
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload.as_bytes());
    frame
}

/// The answer a recorded frame must get; the message type, or nothing.
fn expected_kind(name: &str) -> Option<&'static str> {
    Some(match name.split(':').next().unwrap_or(name) {
        "auth" if name == "auth:token" => "auth_error",
        // Authentication is off: an API key that is not configured is a credential that fails, or is not looked at.
        "auth" if name == "auth:apikey" => return None,
        "auth" => "auth_success",
        "subscribe" | "sync_request" => "sync_response",
        "sync_step1" => "sync_step2",
        "unsubscribe" | "delta" => "ack",
        // The last one is JSON in a binary message, which some Node clients send.
        "ping" | "unknown_123" => "pong",
        "awareness_subscribe" => "awareness_state",
        // An empty batch is refused, all others are acknowledged.
        "delta_batch" if name == "delta_batch" => "error",
        "delta_batch" => "ack",
        "ack" | "awareness_update" | "delta_batch_chunk" => return None,
        "sync_response" | "unknown_119" | "unknown_short" => "error",
        other => panic!("no expectation for the recorded frame {other}"),
    })
}

#[test]
fn every_recorded_frame_gets_a_sane_answer() {
    let server = Server::start();
    let frames = vectors("client_to_server");
    assert_eq!(frames.len(), 33, "all recorded frames are tried");
    for vector in frames {
        let name = vector["name"].as_str().expect("a name");
        if name == "auth:apikey" {
            // Decided by the tables of §7; tests/authentication.rs has the cases.
            continue;
        }
        let mut client = Client::connect(&server, Dialect::Sdk);
        client.send_binary(bytes_of(&vector));
        match expected_kind(name) {
            Some(kind) => {
                let answer = client.take(kind);
                let message_id = &vector["decoded"]["payload"]["messageId"];
                if kind == "ack" && message_id.is_string() {
                    assert_eq!(&answer["messageId"], message_id, "{name}");
                }
                if kind == "error" {
                    assert!(
                        answer["code"] == "INVALID_MESSAGE" || answer["code"] == "INVALID_REQUEST",
                        "{name}"
                    );
                }
            }
            None => client.expect_silence(),
        }
        if name == "auth:token" {
            assert_eq!(client.expect_close(), (1008, "Authentication failed".into()));
            continue;
        }
        client.fence();
    }
}

#[test]
fn recorded_edits_arrive_at_another_client() {
    let server = Server::start();
    for vector in vectors("client_to_server") {
        let payload = &vector["decoded"]["payload"];
        let field_writes: Vec<(Value, Value)> = payload["deltas"]
            .as_array()
            .map_or(std::slice::from_ref(payload), Vec::as_slice)
            .iter()
            .filter(|element| element["field"].is_string())
            .map(|element| (element["field"].clone(), element["value"].clone()))
            .collect();
        if field_writes.is_empty() {
            continue;
        }
        let document = payload["documentId"].as_str().expect("a document");
        let mut reader = Client::connect(&server, Dialect::Binary);
        reader.subscribe(document);
        let mut author = Client::connect(&server, Dialect::Sdk);
        author.send_binary(bytes_of(&vector));
        author.take("ack");
        for (field, value) in field_writes {
            let field = field.as_str().expect("a string");
            let delta = reader.take_field(document, field);
            assert_eq!(delta["value"], value, "{}", vector["name"]);
        }
    }
}

fn matches_expectation(name: &str, answer: &Message) {
    let invalid = |text: &str| {
        assert_eq!(
            (answer.kind.as_str(), &answer["code"]),
            ("error", &json!("INVALID_MESSAGE")),
            "{name}"
        );
        assert_eq!(answer["error"], text, "{name}");
    };
    match name {
        "short-3-bytes" | "length-overrun" | "bad-json" | "null-payload" => invalid("Invalid message format"),
        "unknown-type-0x77" => {
            invalid("Invalid message format");
            assert_eq!(answer["details"]["typeCode"], 119, "{}", answer.body);
        }
        "zero-length-payload" | "trailing-bytes-ignored" => {
            assert_eq!((answer.kind.as_str(), answer.code), ("pong", Some(0x31)), "{name}");
        }
        "json-in-binary-frame" => {
            assert_eq!(
                (answer.kind.as_str(), answer.code, &answer["id"]),
                ("pong", None, &json!("j1")),
                "{name}"
            );
        }
        "server-only-type-from-client" => invalid("Invalid message type: sync_response"),
        other => panic!("no expectation for {other}"),
    }
}

#[test]
fn mistakes_get_the_answer_listed() {
    let server = Server::start();
    let mistakes = vectors("malformed");
    assert_eq!(mistakes.len(), 9, "all mistakes are tried");
    for vector in mistakes {
        let name = vector["name"].as_str().expect("a name");
        let mut client = Client::connect(&server, Dialect::Sdk);
        client.send_binary(bytes_of(&vector));
        matches_expectation(name, &client.next());
        client.expect_silence();
    }
}
