//! API keys (docs/protocol.md §7.3): exact matches of the configured list, each with its role, and short keys stop a
//! production server from starting.

use test_support as support;

use serde_json::json;
use support::{Client, Dialect, Server, token};

const KEYS: &str =
    "plain-key-0123456789, writer-key-0123456789=write,reader-key-0123456789=read,admin-key-0123456789=admin";

fn with_key(server: &Server, key: &str) -> Client {
    let mut client = Client::connect(server, Dialect::Json);
    client.say("auth", json!({ "apiKey": key }));
    assert_eq!(client.take("auth_success")["userId"], "api-key-user");
    client
}

#[test]
fn every_role_may_do_what_it_says() {
    let server = Server::with().auth().env("SYNCKIT_AUTH_APIKEYS", KEYS).start();
    for key in ["plain-key-0123456789", "admin-key-0123456789", "writer-key-0123456789"] {
        let mut client = with_key(&server, key);
        client.write_acked("doc", json!({ "by": key }));
        assert_eq!(client.sync("doc")["state"], json!({ "by": key }));
    }
    let mut reader = with_key(&server, "reader-key-0123456789");
    assert_eq!(reader.subscribe("doc")["state"], json!({"by": "writer-key-0123456789"}));
    reader.write("doc", json!({"by": "reader"}));
    reader.take_error("PERMISSION_DENIED", "Permission denied");
}

#[test]
fn roles_are_shown_in_the_permissions() {
    let server = Server::with().auth().env("SYNCKIT_AUTH_APIKEYS", KEYS).start();
    for (key, admin) in [
        ("plain-key-0123456789", true),
        ("admin-key-0123456789", true),
        ("writer-key-0123456789", false),
    ] {
        let mut client = Client::connect(&server, Dialect::Binary);
        client.say("auth", json!({ "apiKey": key }));
        assert_eq!(client.take("auth_success")["permissions"]["isAdmin"], admin, "{key}");
    }
    let mut client = Client::connect(&server, Dialect::Binary);
    client.say("auth", json!({"apiKey": "reader-key-0123456789"}));
    assert_eq!(
        client.take("auth_success")["permissions"],
        json!({"canRead": ["*"], "canWrite": [], "isAdmin": false})
    );
}

#[test]
fn near_misses_open_nothing() {
    let server = Server::with().auth().env("SYNCKIT_AUTH_APIKEYS", KEYS).start();
    for key in [
        "plain-key-012345678",
        "plain-key-01234567890",
        "Plain-key-0123456789",
        "writer-key-0123456789=write",
        KEYS,
        ",",
        "",
    ] {
        let mut client = Client::connect(&server, Dialect::Json);
        client.say("auth", json!({ "apiKey": key }));
        assert_eq!(client.next().kind, "auth_error", "{key:?}");
    }
}

#[test]
fn without_a_list_no_key_is_valid() {
    let server = Server::with().auth().start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.say("auth", json!({"apiKey": "plain-key-0123456789"}));
    assert_eq!(client.next().kind, "auth_error");
}

#[test]
fn short_keys_stop_a_production_server() {
    let builder = Server::with()
        .env("NODE_ENV", "production")
        .env("JWT_SECRET", token::SECRET)
        .env("SYNCKIT_AUTH_APIKEYS", "short");
    let (status, log) = builder.refuses();
    assert!(!status.success());
    assert!(log.contains("SYNCKIT_AUTH_APIKEYS"), "{log}");
}
