//! One connection works with documents that live on different shards: its writes keep their order per document, its
//! snapshots contain what it wrote before, and broadcasts of every document reach it, wherever its socket lives.

use test_support as support;

use serde_json::json;
use support::{Client, Dialect, Server};

const DOCUMENTS: usize = 40;

fn name(number: usize) -> String {
    format!("spread:{number}")
}

#[test]
fn a_connection_follows_forty_documents_on_five_shards() {
    let server = Server::with().shards(5).start();
    let mut reader = Client::connect(&server, Dialect::Json);
    for number in 0..DOCUMENTS {
        assert_eq!(reader.subscribe(&name(number))["state"], json!({}));
    }
    let mut writer = Client::connect(&server, Dialect::Binary);
    for round in 0..5 {
        for number in 0..DOCUMENTS {
            writer.write(&name(number), json!({"round": round, "number": number}));
        }
    }
    for number in 0..DOCUMENTS {
        // A sync_request after a write on the same connection sees the write.
        assert_eq!(
            writer.sync(&name(number))["state"],
            json!({"round": 4, "number": number})
        );
    }
    for number in 0..DOCUMENTS {
        let document = name(number);
        let mut last = -1;
        while last < 4 {
            let round = reader.take_field(&document, "round")["value"]
                .as_i64()
                .expect("a number");
            assert!(round > last, "{document} went from {last} back to {round}");
            last = round;
        }
    }
}

#[test]
fn another_connection_sees_what_was_acknowledged() {
    let server = Server::with().shards(5).start();
    let mut writer = Client::connect(&server, Dialect::Json);
    let mut reader = Client::connect(&server, Dialect::Binary);
    for number in 0..DOCUMENTS {
        writer.write_acked(&name(number), json!({"seen": number}));
        assert_eq!(reader.sync(&name(number))["state"], json!({"seen": number}));
    }
}

#[test]
fn acknowledgements_and_snapshots_of_one_document_come_in_order() {
    let server = Server::with().shards(3).start();
    for number in 0..12 {
        let document = name(number);
        let mut client = Client::connect(&server, Dialect::Json);
        let mut ids = Vec::new();
        for round in 0..20 {
            ids.push(client.write(&document, json!({"n": round})));
            client.say("sync_request", json!({"documentId": document}));
        }
        let answers: Vec<_> = (0..20)
            .map(|_| {
                let ack = client.take("ack");
                let snapshot = client.take("sync_response");
                (
                    ack["messageId"].as_str().expect("an id").to_owned(),
                    snapshot["state"]["n"].as_i64(),
                )
            })
            .collect();
        for (round, (acked, seen)) in answers.into_iter().enumerate() {
            assert_eq!(acked, ids[round]);
            assert_eq!(
                seen,
                Some(round as i64),
                "a snapshot between writes shows exactly the writes before it"
            );
        }
    }
}

#[test]
fn every_hint_in_the_upgrade_request_works() {
    let server = Server::with().shards(5).start();
    for number in 0..10 {
        let path = format!("/ws?doc={}", name(number));
        let options = support::client::Options {
            path: &path,
            ..Default::default()
        };
        let mut client = Client::connect_with(server.address(), Dialect::Json, &options).expect("an upgrade");
        client.expect_silence();
        // The hint subscribes to nothing and binds to nothing: another document comes first here.
        client.write_acked(&name(number + 1), json!({"a": 1}));
        assert_eq!(client.sync(&name(number))["documentId"], name(number).as_str());
    }
}
