//! What happens to a connection after a time that the protocol fixes at about a minute; together here, so that only one
//! minute passes:
//! - A token that expires during a connection ends it a minute later with a message that says why (docs/protocol.md §7.5),
//!   unless that is switched off.
//! - Sockets an SDK client has left behind (§1, reconnect doubling): when its client id is seen on a newer connection, older
//!   ones that have been silent for 45 s are closed 1000 `Superseded`; lively ones and those of other addresses stay.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::client::Options;
use support::{Client, Dialect, Server, token};

fn expires_in(seconds: i64) -> String {
    let mut claims = token::claims("ann", &["*"], &["*"], false);
    claims["exp"] = json!(token::in_seconds(seconds));
    token::sign(&claims)
}

#[test]
fn an_expired_token_ends_the_connection_after_a_minute() {
    let strict = Server::with().auth().without_heartbeats().start();
    let lenient = Server::with()
        .auth()
        .without_heartbeats()
        .env("SYNCKIT_CLOSE_ON_TOKEN_EXPIRY", "false")
        .start();
    let began = Instant::now();
    let mut client = Client::connect(&strict, Dialect::Sdk);
    client.authenticate(&expires_in(2));
    let mut renewed = Client::connect(&strict, Dialect::Json);
    renewed.authenticate(&expires_in(2));
    let mut kept = Client::connect(&lenient, Dialect::Json);
    kept.authenticate(&expires_in(2));
    renewed.authenticate(&token::token("ann", &["*"], &["*"]));

    assert!(
        client.next_within(Duration::from_secs(50)).is_none(),
        "the grace time is a minute"
    );
    client.subscribe("still-working");
    assert_eq!(
        client.expect_close_within(Duration::from_secs(40)),
        (1008, "Token expired".into())
    );
    let error = client.take("auth_error");
    assert_eq!(
        (&error["error"], &error["code"]),
        (&json!("Token expired"), &json!("INVALID_TOKEN"))
    );
    assert!(
        began.elapsed() >= Duration::from_secs(59),
        "closed after {:?}",
        began.elapsed()
    );
    renewed.fence();
    kept.fence();
    assert!(!renewed.ended() && !kept.ended());
}

fn edit(client: &mut Client, id: &str, number: usize) {
    client.say(
        "delta_batch",
        json!({"documentId": "doc", "messageId": format!("b{number}"), "deltas": [{"type": "set", "documentId": "doc",
            "field": "f", "value": number, "clock": {id: number}, "clientId": id, "timestamp": support::unix_ms()}]}),
    );
    client.take_ack(&format!("b{number}"));
}

#[test]
fn silent_older_connections_of_one_client_are_closed() {
    let server = Server::with()
        .shards(3)
        .without_heartbeats()
        .env("TRUSTED_PROXIES", "127.0.0.1")
        .start();
    let connect = |address: &str| {
        let options = Options {
            headers: &[("X-Forwarded-For", address)],
            ..Default::default()
        };
        Client::connect_with(server.address(), Dialect::Sdk, &options).expect("an upgrade")
    };
    let (here, there) = ("203.0.113.7", "203.0.113.8");
    let mut left_behind: Vec<Client> = (0..3).map(|_| connect(here)).collect();
    let mut lively = connect(here);
    let mut elsewhere = connect(there);
    let mut somebody_else = connect(here);
    for client in left_behind.iter_mut().chain([&mut lively, &mut elsewhere]) {
        client.subscribe("doc");
        edit(client, "client-1", 1);
    }
    somebody_else.subscribe("doc");
    edit(&mut somebody_else, "client-2", 1);

    // The sockets left behind are open and read all the time; only their application says nothing.
    for _ in 0..47 {
        lively.fence();
        for client in &mut left_behind {
            while client.next_within(Duration::from_millis(1)).is_some() {}
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut newest = connect(here);
    newest.subscribe("doc");
    edit(&mut newest, "client-1", 2);
    for client in &mut left_behind {
        assert_eq!(client.expect_close(), (1000, "Superseded".into()));
    }
    for client in [&mut lively, &mut elsewhere, &mut somebody_else, &mut newest] {
        client.fence();
        assert!(!client.ended());
    }
}
