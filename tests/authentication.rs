//! The tables of docs/protocol.md §7.1 to §7.3: what `auth` brings with authentication on and off, for each kind of
//! credentials, and how a connection ends that fails. Every message is read before the close that follows it.

use test_support as support;

use serde_json::{Value, json};
use support::token::{self, SECRET};
use support::{Client, Dialect, Server};

fn everything() -> Value {
    json!({"canRead": ["*"], "canWrite": ["*"], "isAdmin": false})
}

fn closes_after_failed_auth(client: &mut Client, credentials: Value, code: &str, text: &str) {
    client.say("auth", credentials.clone());
    let error = client.take("auth_error");
    assert_eq!(
        (&error["error"], &error["code"]),
        (&json!(text), &json!(code)),
        "{credentials}"
    );
    assert!(
        error["id"].is_string() && error["requestId"].is_string(),
        "{}",
        error.body
    );
    assert_eq!(client.expect_close(), (1008, text.to_owned()), "{credentials}");
}

#[test]
fn off_an_auth_without_credentials_succeeds() {
    let server = Server::start();
    for dialect in [Dialect::Json, Dialect::Binary, Dialect::Sdk, Dialect::Goc] {
        let mut client = Client::connect(&server, dialect);
        let success = client.greet();
        assert_eq!(
            (&success["userId"], &success["permissions"]),
            (&json!("anonymous"), &everything())
        );
        client.say("auth", json!({"userId": "ann"}));
        assert_eq!(
            client.take("auth_success")["userId"],
            "ann",
            "a name of one's own is echoed"
        );
        for bad in [json!(""), json!(5), json!("x".repeat(257)), Value::Null] {
            client.say("auth", json!({"userId": bad}));
            assert_eq!(client.take("auth_success")["userId"], "anonymous", "{bad}");
        }
    }
}

#[test]
fn off_everything_works_without_auth() {
    let server = Server::start();
    for dialect in [Dialect::Json, Dialect::Binary, Dialect::Sdk, Dialect::Goc] {
        let mut client = Client::connect(&server, dialect);
        client.subscribe("doc");
    }
}

#[test]
fn off_a_valid_token_still_gives_its_identity() {
    let server = Server::with().env("JWT_SECRET", SECRET).start();
    let mut client = Client::connect(&server, Dialect::Json);
    let success = client.authenticate(&token::token("ann", &["open"], &[]));
    assert_eq!(success["userId"], "ann");
    assert_eq!(
        success["permissions"],
        json!({"canRead": ["open"], "canWrite": [], "isAdmin": false})
    );
    client.subscribe("open");
    client.say("subscribe", json!({"documentId": "closed"}));
    client.take_error("PERMISSION_DENIED", "Permission denied");
}

#[test]
fn off_an_invalid_token_is_refused_all_the_same() {
    let server = Server::with().env("JWT_SECRET", SECRET).start();
    for dialect in [Dialect::Json, Dialect::Sdk] {
        let mut client = Client::connect(&server, dialect);
        closes_after_failed_auth(
            &mut client,
            json!({"token": "a.b.c"}),
            "INVALID_TOKEN",
            "Authentication failed",
        );
    }
}

#[test]
fn on_each_kind_of_credentials_gets_its_answer() {
    let server = Server::with()
        .auth()
        .env("SYNCKIT_AUTH_APIKEYS", "a-key-of-sixteen-or-more")
        .start();
    for dialect in [Dialect::Json, Dialect::Binary, Dialect::Sdk] {
        let mut client = Client::connect(&server, dialect);
        assert_eq!(client.authenticate(&token::token("ann", &["*"], &[]))["userId"], "ann");

        let mut client = Client::connect(&server, dialect);
        client.say("auth", json!({"apiKey": "a-key-of-sixteen-or-more"}));
        let success = client.take("auth_success");
        assert_eq!(
            (&success["userId"], &success["permissions"]["isAdmin"]),
            (&json!("api-key-user"), &json!(true))
        );

        let mut client = Client::connect(&server, dialect);
        client.say("auth", json!({"token": "a.b.c", "apiKey": "a-key-of-sixteen-or-more"}));
        assert_eq!(
            client.take("auth_success")["userId"],
            "api-key-user",
            "a valid key helps a bad token"
        );

        for (credentials, code, text) in [
            (json!({"token": "a.b.c"}), "INVALID_TOKEN", "Authentication failed"),
            (
                json!({"apiKey": "a-key-nobody-configured"}),
                "INVALID_TOKEN",
                "Authentication failed",
            ),
            (
                json!({"token": "a.b.c", "apiKey": "nor-this-one-here"}),
                "INVALID_TOKEN",
                "Authentication failed",
            ),
            (json!({}), "AUTH_REQUIRED", "Authentication required"),
        ] {
            let mut client = Client::connect(&server, dialect);
            closes_after_failed_auth(&mut client, credentials, code, text);
        }
    }
}

#[test]
fn on_a_go_style_client_may_try_three_times() {
    let server = Server::with().auth().start();
    let mut patient = Client::connect(&server, Dialect::Goc);
    for _ in 0..2 {
        patient.say("auth", json!({"token": "a.b.c"}));
        let error = patient.take("auth_error");
        assert_eq!(
            (&error["error"], &error["code"]),
            (&json!("Invalid or expired token"), &json!("INVALID_TOKEN"))
        );
    }
    assert_eq!(
        patient.authenticate(&token::token("ann", &["*"], &["*"]))["userId"],
        "ann"
    );
    patient.subscribe("doc");

    let mut hopeless = Client::connect(&server, Dialect::Goc);
    for _ in 0..3 {
        hopeless.say("auth", json!({"token": "a.b.c"}));
        hopeless.take("auth_error");
    }
    assert_eq!(hopeless.expect_close().0, 1008);
}

#[test]
fn either_claim_names_the_user() {
    let server = Server::with().auth().start();
    for (drop, expected) in [("sub", "by-userId"), ("userId", "by-sub"), ("", "by-userId")] {
        let mut claims = token::claims("x", &["*"], &["*"], false);
        claims["userId"] = json!("by-userId");
        claims["sub"] = json!("by-sub");
        claims.as_object_mut().expect("an object").remove(drop);
        let mut client = Client::connect(&server, Dialect::Json);
        assert_eq!(client.authenticate(&token::sign(&claims))["userId"], expected);
    }
}

#[test]
fn malformed_permissions_mean_none() {
    let server = Server::with().auth().start();
    for permissions in [
        json!("all"),
        json!({"canRead": "*"}),
        json!({"canRead": [1], "isAdmin": "yes"}),
        json!([]),
    ] {
        let mut claims = token::claims("ann", &[], &[], false);
        claims["permissions"] = permissions.clone();
        let mut client = Client::connect(&server, Dialect::Json);
        client.say("auth", json!({"token": token::sign(&claims)}));
        // Refusing such a token is as safe as granting nothing.
        let answer = client.take_where("an answer", |message| message.kind.starts_with("auth_"));
        if answer.kind == "auth_success" {
            assert_eq!(
                answer["permissions"],
                json!({"canRead": [], "canWrite": [], "isAdmin": false}),
                "{permissions}"
            );
            client.say("subscribe", json!({"documentId": "doc"}));
            client.take_error("PERMISSION_DENIED", "Permission denied");
        }
    }
}

#[test]
fn a_second_auth_replaces_the_identity_and_drops_what_it_may_not_read() {
    let server = Server::with().auth().shards(2).start();
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.authenticate(&token::admin());
    let mut client = Client::connect(&server, Dialect::Json);
    client.authenticate(&token::token("ann", &["one", "two"], &[]));
    client.subscribe("one");
    client.subscribe("two");
    assert_eq!(
        client.authenticate(&token::token("bob", &["two"], &[]))["userId"],
        "bob"
    );
    writer.write_acked("one", json!({"a": 1}));
    writer.write_acked("two", json!({"b": 2}));
    assert_eq!(
        client.expect("delta")["documentId"],
        "two",
        "the other subscription is gone"
    );
    client.expect_silence();
}

#[test]
fn authentication_is_required_unless_switched_off() {
    for (value, required) in [
        ("false", false),
        ("FALSE", false),
        (" off ", false),
        ("0", false),
        ("no", false),
        ("true", true),
        ("", true),
        ("disabled", true),
    ] {
        let server = Server::with().auth().env("SYNCKIT_AUTH_REQUIRED", value).start();
        let mut client = Client::connect(&server, Dialect::Json);
        client.say("auth", json!({}));
        let expected = if required { "auth_error" } else { "auth_success" };
        assert_eq!(client.next().kind, expected, "SYNCKIT_AUTH_REQUIRED={value:?}");
    }
}
