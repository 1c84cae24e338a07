//! A token that expires during a connection ends it a minute later with a message that says why
//! (docs/protocol.md §7.5), unless that is switched off. Takes a little over a minute: the grace time is fixed.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
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
