//! Credentials in the upgrade request (docs/protocol.md §7.6): the header and the query parameter authenticate from
//! the first byte, bad ones are told and closed, the parameter can be switched off, and the query never reaches the
//! log.

use test_support as support;

use serde_json::json;
use support::client::Options;
use support::{Client, Dialect, Server, token};

#[test]
fn header_and_query_authenticate_from_the_first_byte() {
    let server = Server::with().auth().start();
    let good = token::token("ann", &["*"], &["*"]);
    let (bearer, path) = (format!("Bearer {good}"), format!("/ws?other=1&token={good}&doc=doc"));
    for options in [
        Options {
            headers: &[("Authorization", &bearer)],
            ..Default::default()
        },
        Options {
            path: &path,
            ..Default::default()
        },
    ] {
        for dialect in [Dialect::Json, Dialect::Sdk, Dialect::Goc] {
            let mut client = Client::connect_with(server.address(), dialect, &options).expect("an upgrade");
            client.expect_silence();
            client.subscribe("doc");
            assert_eq!(
                client.greet()["userId"],
                "ann",
                "a later auth without token keeps the identity"
            );
        }
    }
}

#[test]
fn the_permissions_are_those_of_the_token() {
    let server = Server::with().auth().start();
    let path = format!("/ws?token={}", token::token("ann", &["mine"], &[]));
    let options = Options {
        path: &path,
        ..Default::default()
    };
    let mut client = Client::connect_with(server.address(), Dialect::Json, &options).expect("an upgrade");
    client.subscribe("mine");
    client.say("subscribe", json!({"documentId": "other"}));
    client.take_error("PERMISSION_DENIED", "Permission denied");
    client.write("mine", json!({"a": 1}));
    client.take_error("PERMISSION_DENIED", "Permission denied");
}

#[test]
fn a_bad_token_is_told_and_closed() {
    let server = Server::with().auth().start();
    let options = Options {
        path: "/ws?token=a.b.c",
        ..Default::default()
    };
    let mut client = Client::connect_with(server.address(), Dialect::Sdk, &options).expect("upgraded first");
    let error = client.expect("auth_error");
    assert_eq!(
        (&error["error"], &error["code"]),
        (&json!("Authentication failed"), &json!("INVALID_TOKEN"))
    );
    assert_eq!(client.expect_close(), (1008, "Authentication failed".into()));
}

#[test]
fn the_query_parameter_can_be_switched_off() {
    let server = Server::with().auth().env("SYNCKIT_URL_TOKEN", "false").start();
    let good = token::token("ann", &["*"], &["*"]);
    let path = format!("/ws?token={good}");
    let options = Options {
        path: &path,
        ..Default::default()
    };
    let mut client = Client::connect_with(server.address(), Dialect::Json, &options).expect("an upgrade");
    client.say("subscribe", json!({"documentId": "doc"}));
    client.expect_silence();
    client.authenticate(&good);
    client.take_snapshot("doc");
}

#[test]
fn the_query_is_never_logged() {
    let server = Server::with().auth().env("RUST_LOG", "trace").start();
    let good = token::token("ann", &["*"], &["*"]);
    let path = format!("/ws?token={good}");
    let options = Options {
        path: &path,
        ..Default::default()
    };
    let mut client = Client::connect_with(server.address(), Dialect::Json, &options).expect("an upgrade");
    client.subscribe("doc");
    client.close();
    server.get("/health?token=very-visible-query");
    let log = server.log();
    assert!(
        !log.contains(&good) && !log.contains("very-visible-query"),
        "the query string is in the log"
    );
}
