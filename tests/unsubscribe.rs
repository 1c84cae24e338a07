//! After `unsubscribe` and its `ack` nothing of the document comes any more; a later write or subscribe begins anew.
//! Unsubscribing what was never subscribed gets the same answer.

use test_support as support;

use serde_json::json;
use support::{Client, Dialect, Server};

#[test]
fn nothing_comes_after_the_acknowledgement() {
    let server = Server::with().shards(3).start();
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.greet();
    for dialect in [Dialect::Json, Dialect::Binary, Dialect::Sdk, Dialect::Goc] {
        let document = format!("u:{dialect:?}");
        let mut client = Client::connect(&server, dialect);
        client.subscribe(&document);
        client.subscribe("kept");
        writer.write_acked(&document, json!({"before": 1}));
        client.take_field(&document, "before");

        let id = client.say("unsubscribe", json!({ client.document_key(): document }));
        let ack = client.take("ack");
        assert_eq!(ack["documentId"], document.as_str());
        if dialect != Dialect::Sdk {
            assert_eq!((&ack["id"], &ack["messageId"]), (&json!(id), &json!(id)));
        }
        writer.write_acked(&document, json!({"after": 1}));
        client.expect_silence();
        writer.write_acked("kept", json!({ format!("{dialect:?}"): 1 }));
        client.take_field("kept", &format!("{dialect:?}"));

        assert_eq!(client.subscribe(&document)["state"], json!({"before": 1, "after": 1}));
        writer.write_acked(&document, json!({"again": 1}));
        client.take_field(&document, "again");
    }
}

#[test]
fn writing_subscribes_again() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.subscribe("doc");
    client.say("unsubscribe", json!({"documentId": "doc"}));
    client.take("ack");
    client.write_acked("doc", json!({"mine": 1}));
    client.take_field("doc", "mine");
    let mut other = Client::connect(&server, Dialect::Binary);
    other.write_acked("doc", json!({"theirs": 1}));
    client.take_field("doc", "theirs");
}

#[test]
fn unsubscribing_twice_or_without_need_is_acknowledged() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    for document in ["doc", "doc", "never-heard-of"] {
        let id = client.say("unsubscribe", json!({ "documentId": document }));
        assert_eq!(client.take_ack(&id)["documentId"], document);
    }
    client.expect_silence();
}
