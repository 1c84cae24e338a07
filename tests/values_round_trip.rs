//! Values arrive exactly as they were written, as a broadcast and in a snapshot: JavaScript's corner cases, deep
//! nesting, 100 KB of text, emoji, odd field names. Lone surrogates and NUL escapes, which JavaScript may send,
//! neither end a connection nor spoil the rest of the document.

use test_support as support;

use serde_json::{Value, json};
use support::{Client, Dialect, Server};

fn values() -> Vec<(&'static str, Value)> {
    let mut nested = json!("bottom");
    for level in 0..100 {
        nested = if level % 2 == 0 {
            json!([nested])
        } else {
            json!({ "down": nested })
        };
    }
    vec![
        ("null", Value::Null),
        ("empty", json!("")),
        ("zero", json!(0)),
        ("false", json!(false)),
        ("true", json!(true)),
        ("negative", json!(-1)),
        ("greatest integer", json!(9_007_199_254_740_992_i64)),
        ("smallest integer", json!(-9_007_199_254_740_992_i64)),
        ("fraction", json!(0.1)),
        ("tiny", json!(5e-324)),
        ("huge", json!(1.797_693_134_862_315_7e308)),
        ("empty object", json!({})),
        ("empty array", json!([])),
        (
            "nested",
            json!({"a": {"b": [1, 2, {"c": null}]}, "k.with.dots": 1, "": ""}),
        ),
        ("deep", nested),
        ("100 KB", json!("0123456789abcdef".repeat(6_400))),
        ("emoji", json!("👋🏽 👩‍👩‍👧 🇫🇷 ש é")),
        ("separators", json!("\u{2028}\u{2029}\u{7f}\u{1}\t\r\n\"\\/")),
        ("looks deleted", json!({"__deleted": "true"})),
        ("not deleted", json!({"__deleted": false})),
        ("__proto__", json!("an ordinary name")),
        ("constructor", json!(1)),
        ("ünïcödé 🙂 name", json!("value")),
    ]
}

#[test]
fn every_value_arrives_exactly() {
    let server = Server::with().shards(2).start();
    for (writes, reads) in [
        (Dialect::Json, Dialect::Binary),
        (Dialect::Binary, Dialect::Json),
        (Dialect::Goc, Dialect::Sdk),
    ] {
        let document = format!("values:{writes:?}");
        let mut reader = Client::connect(&server, reads);
        reader.subscribe(&document);
        let mut writer = Client::connect(&server, writes);
        for (field, value) in values() {
            writer.write(&document, json!({ field: value }));
            assert_eq!(
                reader.take_field(&document, field)["value"],
                value,
                "{field} from {writes:?} to {reads:?}"
            );
        }
        let state = Client::connect(&server, reads).sync(&document)["state"].clone();
        for (field, value) in values() {
            assert_eq!(state.get(field), Some(&value), "{field} in the snapshot");
        }
    }
}

#[test]
fn an_sdk_element_carries_every_value_too() {
    let server = Server::start();
    let mut reader = Client::connect(&server, Dialect::Goc);
    reader.subscribe("elements");
    let mut writer = Client::connect(&server, Dialect::Sdk);
    for (counter, (field, value)) in values().into_iter().enumerate() {
        writer.say(
            "delta_batch",
            json!({"documentId": "elements", "messageId": field, "deltas": [{"type": "set", "documentId": "elements",
                "field": field, "value": value, "clock": {"c": counter + 1}, "clientId": "c", "timestamp": 1}]}),
        );
        assert_eq!(reader.take_field("elements", field)["changes"][field], value, "{field}");
    }
}

#[test]
fn a_field_may_have_an_empty_name() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("empty-name", json!({"": 1}));
    client.say("delta", json!({"documentId": "empty-name", "field": "x"}));
    client.take("ack");
    assert_eq!(
        client.sync("empty-name")["state"],
        json!({"": 1, "x": null}),
        "an absent value is null"
    );
}

#[test]
fn lone_surrogates_and_nul_escapes_harm_nobody() {
    let server = Server::start();
    let mut reader = Client::connect(&server, Dialect::Binary);
    reader.subscribe("odd");
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.greet();
    for (field, escape) in [("high", r"\ud800"), ("low", r"\udc00x"), ("nul", r"a\u0000b")] {
        writer.send_text(&format!(
            r#"{{"type":"delta","id":"{field}","timestamp":1,"documentId":"odd","delta":{{"{field}":"{escape}"}}}}"#
        ));
        let answer = writer.take_where("ack or error", |message| {
            matches!(message.kind.as_str(), "ack" | "error")
        });
        if answer.kind == "error" {
            assert_eq!(
                (field, &answer["error"]),
                ("nul", &json!("Invalid message format")),
                "only NUL may be refused"
            );
            continue;
        }
        // Kept as it was (which this client reads as U+FFFD) or replaced: the same to look at.
        let expected = match field {
            "high" => "\u{fffd}",
            "low" => "\u{fffd}x",
            _ => "a\u{0}b",
        };
        assert_eq!(reader.take_field("odd", field)["value"], expected);
    }
    writer.write_acked("odd", json!({"after": "all is well"}));
    assert_eq!(reader.take_field("odd", "after")["value"], "all is well");
    assert_eq!(reader.sync("odd")["state"]["after"], "all is well");
}

#[test]
fn a_field_name_with_a_lone_surrogate_does_not_end_the_connection() {
    let server = Server::start();
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.greet();
    writer.send_text(r#"{"type":"delta","id":"s","timestamp":1,"documentId":"odd","delta":{"\udfff":1}}"#);
    writer.take_where("ack or error", |message| {
        matches!(message.kind.as_str(), "ack" | "error")
    });
    writer.write_acked("odd", json!({"after": 1}));
    assert_eq!(writer.sync("odd")["state"]["after"], 1);
}

#[test]
fn nesting_beyond_128_levels_is_refused() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.greet();
    for levels in [200, 100_000] {
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        client.send_text(&format!(
            r#"{{"type":"delta","id":"d","timestamp":1,"documentId":"deep","delta":{{"a":{deep}}}}}"#
        ));
        client.take_error("INVALID_MESSAGE", "Invalid message format");
    }
    assert_eq!(client.sync("deep")["state"], json!({}));
}
