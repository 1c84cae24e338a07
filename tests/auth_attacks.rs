//! Tokens that must not open anything (docs/protocol.md §7.5 and §23.13): other algorithms, no signature, another
//! secret, expired, without expiry, refresh tokens, changed claims, key confusion. Each is tried in `auth`, in the
//! `Authorization` header, in the query string and at the HTTP API.

use test_support as support;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use support::client::Options;
use support::token::{self, SECRET};
use support::{Client, Dialect, Server};

/// An RSA public key that a server is configured with; its PEM text is no secret.
const PUBLIC_KEY: &str = include_str!("support/public_key.pem");

fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = token::claims("eve", &["*"], &["*"], true);
    change(&mut claims);
    token::sign(&claims)
}

fn remove(claims: &mut Value, member: &str) {
    claims.as_object_mut().expect("an object").remove(member);
}

fn attacks() -> Vec<(&'static str, String)> {
    let claims = token::claims("eve", &["*"], &["*"], true);
    let good = token::token("ann", &["*"], &[]);
    let parts: Vec<&str> = good.split('.').collect();
    let admin_claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let flipped = {
        let last = if parts[2].starts_with('A') { "B" } else { "A" };
        format!("{}.{}.{last}{}", parts[0], parts[1], &parts[2][1..])
    };
    vec![
        (
            "alg none",
            token::forge(&json!({"alg": "none", "typ": "JWT"}), &claims, ""),
        ),
        ("alg None", token::forge(&json!({"alg": "None"}), &claims, "")),
        (
            "alg none with a signature",
            token::forge(&json!({"alg": "none"}), &claims, parts[2]),
        ),
        ("no alg", token::forge(&json!({"typ": "JWT"}), &claims, parts[2])),
        (
            "HS384 with the right secret",
            token::sign_with(&claims, Algorithm::HS384, SECRET.as_bytes()),
        ),
        (
            "HS512 with the right secret",
            token::sign_with(&claims, Algorithm::HS512, SECRET.as_bytes()),
        ),
        (
            "says RS256",
            token::forge(&json!({"alg": "RS256", "typ": "JWT"}), &claims, parts[2]),
        ),
        (
            "another secret",
            token::sign_with(&claims, Algorithm::HS256, b"another-secret-of-at-least-32-bytes!"),
        ),
        ("the empty secret", token::sign_with(&claims, Algorithm::HS256, b"")),
        (
            "a public development secret",
            token::sign_with(
                &claims,
                Algorithm::HS256,
                b"development-secret-do-not-use-in-production",
            ),
        ),
        (
            "signed with the public key",
            token::sign_with(&claims, Algorithm::HS256, PUBLIC_KEY.as_bytes()),
        ),
        (
            "signed with the trimmed public key",
            token::sign_with(&claims, Algorithm::HS256, PUBLIC_KEY.trim().as_bytes()),
        ),
        ("claims exchanged", format!("{}.{admin_claims}.{}", parts[0], parts[2])),
        ("signature changed", flipped),
        ("signature missing", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.{}", parts[2])),
        (
            "expired",
            changed(|claims| claims["exp"] = json!(token::in_seconds(-60))),
        ),
        ("no expiry", changed(|claims| remove(claims, "exp"))),
        ("expiry is text", changed(|claims| claims["exp"] = json!("tomorrow"))),
        (
            "a refresh token",
            changed(|claims| claims["tokenUse"] = json!("refresh")),
        ),
        (
            "neither use nor permissions",
            changed(|claims| remove(claims, "permissions")),
        ),
        ("empty", " ".into()),
        ("garbage", "not a token at all".into()),
    ]
}

fn server() -> Server {
    let key_file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/public_key.pem");
    Server::with().auth().env("JWT_PUBLIC_KEY_FILE", key_file).start()
}

#[test]
fn no_attack_opens_a_connection() {
    let server = server();
    for (name, attack) in attacks() {
        let mut client = Client::connect(&server, Dialect::Json);
        client.write("loot", json!({ "by": name }));
        client.say("auth", json!({ "token": attack }));
        let error = client.next();
        assert_eq!(error.kind, "auth_error", "{name}: {}", error.body);
        assert_eq!(client.expect_close().0, 1008, "{name}");
    }
    let mut reader = Client::connect(&server, Dialect::Json);
    reader.authenticate(&token::admin());
    assert_eq!(reader.sync("loot")["state"], json!({}), "nothing was written");
}

#[test]
fn no_attack_works_in_the_upgrade_request() {
    let server = server();
    for (name, attack) in attacks() {
        if attack.contains(' ') {
            continue;
        }
        let bearer = format!("Bearer {attack}");
        let path = format!("/ws?token={attack}");
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
            let mut client = Client::connect_with(server.address(), Dialect::Json, &options).expect("upgraded first");
            assert_eq!(client.next().kind, "auth_error", "{name}");
            assert_eq!(client.expect_close().0, 1008, "{name}");
        }
    }
}

#[test]
fn no_attack_works_at_the_http_api() {
    let server = server();
    for (name, attack) in attacks() {
        let bearer = format!("Bearer {attack}");
        let answer = server.request("GET", "/auth/me", &[("Authorization", &bearer)], "");
        assert_eq!(answer.status, 401, "{name}");
        let verified = server.request("POST", "/auth/verify", &[], &json!({ "token": attack }).to_string());
        if name != "a refresh token" && name != "neither use nor permissions" {
            assert_ne!(verified.json()["valid"], true, "{name}");
        }
        assert!(
            [401, 403].contains(
                &server
                    .request("GET", "/metrics", &[("Authorization", &bearer)], "")
                    .status
            )
        );
    }
}

#[test]
fn a_user_id_that_is_no_text_identifies_nobody() {
    let server = Server::with().auth().start();
    for (user_id, sub) in [(json!(5), json!(6)), (json!(""), json!("")), (Value::Null, Value::Null)] {
        let forged = changed(|claims| {
            claims["userId"] = user_id.clone();
            claims["sub"] = sub.clone();
        });
        let mut client = Client::connect(&server, Dialect::Json);
        client.say("auth", json!({ "token": forged }));
        let answer = client.next();
        assert_eq!(answer.kind, "auth_error", "{user_id}: {}", answer.body);
    }
}

#[test]
fn known_secrets_are_refused_in_production() {
    for secret in [
        "development-secret-do-not-use-in-production",
        "your-secret-key-change-in-production",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "test-secret-key-for-integration-tests-only-32-chars",
        "too short",
        "",
    ] {
        let builder = Server::with()
            .auth()
            .env("NODE_ENV", "production")
            .env("JWT_SECRET", secret);
        let (status, log) = builder.refuses();
        assert!(!status.success(), "{secret:?}");
        assert!(log.contains("JWT_SECRET"), "the message names the variable: {log}");
        assert!(secret.len() < 10 || !log.contains(secret), "the secret is not printed");
    }
}
