//! Tokens over HTTP (docs/protocol.md §16.2): demo login without admin rights, refresh tokens that only refresh,
//! `me` and `verify`, each with its errors, and login switched off in production.

use test_support as support;

use serde_json::{Value, json};
use support::http::Response;
use support::token;
use support::{Client, Dialect, Server};

fn post(server: &Server, path: &str, body: Value) -> Response {
    server.request("POST", path, &[], &body.to_string())
}

fn login(server: &Server, permissions: Value) -> Value {
    let answer = post(
        server,
        "/auth/login",
        json!({"email": "a@example.com", "password": "x", "permissions": permissions}),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn me(server: &Server, authorization: Option<&str>) -> (u16, Value) {
    let headers: Vec<(&str, &str)> = authorization
        .map(|value| ("Authorization", value))
        .into_iter()
        .collect();
    let answer = server.request("GET", "/auth/me", &headers, "");
    (answer.status, answer.json())
}

#[test]
fn a_demo_login_grants_what_was_asked_but_never_admin() {
    let server = Server::with().auth().start();
    let session = login(&server, json!({"canRead": ["a"], "canWrite": ["b"], "isAdmin": true}));
    assert_eq!(session["email"], "a@example.com");
    assert!(session["userId"].as_str().is_some_and(|id| id.starts_with("user-")));
    let permissions = json!({"canRead": ["a"], "canWrite": ["b"], "isAdmin": false});
    assert_eq!(session["permissions"], permissions);
    let bearer = format!("Bearer {}", session["accessToken"].as_str().expect("a token"));
    let (status, identity) = me(&server, Some(&bearer));
    assert_eq!(
        (status, &identity["userId"], &identity["permissions"]),
        (200, &session["userId"], &permissions)
    );

    let mut client = Client::connect(&server, Dialect::Sdk);
    let success = client.authenticate(session["accessToken"].as_str().expect("a token"));
    assert_eq!(
        (&success["userId"], &success["permissions"]),
        (&session["userId"], &permissions)
    );
}

#[test]
fn refreshing_needs_a_refresh_token_and_keeps_the_permissions() {
    let server = Server::with().auth().start();
    let session = login(&server, json!({"canRead": ["a"]}));
    let refreshed = post(
        &server,
        "/auth/refresh",
        json!({"refreshToken": session["refreshToken"]}),
    );
    assert_eq!(refreshed.status, 200);
    let renewed = refreshed.json();
    assert!(renewed["refreshToken"].is_string());
    let mut client = Client::connect(&server, Dialect::Json);
    let success = client.authenticate(renewed["accessToken"].as_str().expect("a token"));
    assert_eq!(success["permissions"]["canRead"], json!(["a"]));

    for (body, status, error) in [
        (json!({}), 400, "Refresh token required"),
        (
            json!({"refreshToken": session["accessToken"]}),
            401,
            "Invalid or expired refresh token",
        ),
        (
            json!({"refreshToken": "a.b.c"}),
            401,
            "Invalid or expired refresh token",
        ),
    ] {
        let answer = post(&server, "/auth/refresh", body.clone());
        assert_eq!(
            (answer.status, answer.json()),
            (status, json!({ "error": error })),
            "{body}"
        );
    }
    let mut client = Client::connect(&server, Dialect::Json);
    client.say("auth", json!({"token": session["refreshToken"]}));
    assert_eq!(client.next().kind, "auth_error", "a refresh token is no access token");
}

#[test]
fn me_and_verify_say_what_is_wrong() {
    let server = Server::with().auth().start();
    for (authorization, error) in [
        (None, "Missing Authorization header"),
        (Some("Basic dXNlcjpwdw=="), "Invalid Authorization header format"),
        (Some("Bearer a.b.c"), "Invalid or expired token"),
    ] {
        assert_eq!(me(&server, authorization), (401, json!({ "error": error })));
    }
    let good = token::token("ann", &["a"], &[]);
    let verified = post(&server, "/auth/verify", json!({ "token": good })).json();
    assert_eq!((&verified["valid"], &verified["userId"]), (&json!(true), &json!("ann")));
    assert!((verified["expiresAt"].as_i64().expect("seconds") - token::in_seconds(3600)).abs() <= 5);
    let bad = post(&server, "/auth/verify", json!({"token": "a.b.c"}));
    assert_eq!((bad.status, &bad.json()["valid"]), (200, &json!(false)));
    let none = post(&server, "/auth/verify", json!({}));
    assert_eq!((none.status, none.json()), (400, json!({"error": "Token required"})));
}

#[test]
fn login_needs_email_and_password() {
    let server = Server::with().auth().start();
    for body in [
        json!({}),
        json!({"email": "a@example.com"}),
        json!({"password": "x"}),
        json!({"email": "", "password": ""}),
    ] {
        let answer = post(&server, "/auth/login", body);
        assert_eq!(
            (answer.status, answer.json()),
            (400, json!({"error": "Email and password required"}))
        );
    }
}

#[test]
fn login_is_off_in_production_and_when_switched_off() {
    for builder in [
        Server::with().auth().env("NODE_ENV", "production"),
        Server::with().auth().env("SYNCKIT_DEMO_LOGIN", "off"),
    ] {
        let server = builder.start();
        let answer = post(
            &server,
            "/auth/login",
            json!({"email": "a@example.com", "password": "x"}),
        );
        assert_eq!(
            (answer.status, answer.json()),
            (403, json!({"error": "Login is disabled"}))
        );
    }
    let (status, log) = Server::with()
        .auth()
        .env("NODE_ENV", "production")
        .env("SYNCKIT_DEMO_LOGIN", "full")
        .refuses();
    assert!(!status.success() && log.contains("SYNCKIT_DEMO_LOGIN"), "{log}");
}

#[test]
fn full_demo_login_grants_admin() {
    let server = Server::with().auth().env("SYNCKIT_DEMO_LOGIN", "full").start();
    assert_eq!(login(&server, json!({"isAdmin": true}))["permissions"]["isAdmin"], true);
}

#[test]
fn issuer_and_audience_are_checked_when_set() {
    let server = Server::with()
        .auth()
        .env("JWT_ISSUER", "me")
        .env("JWT_AUDIENCE", "you")
        .start();
    for (issuer, audience, valid) in [("me", "you", true), ("other", "you", false), ("me", "other", false)] {
        let mut claims = token::claims("ann", &["*"], &[], false);
        claims["iss"] = json!(issuer);
        claims["aud"] = json!(audience);
        let verified = post(&server, "/auth/verify", json!({"token": token::sign(&claims)}));
        assert_eq!(verified.json()["valid"], valid, "{issuer} {audience}");
    }
    let without = post(&server, "/auth/verify", json!({"token": token::admin()}));
    assert_eq!(without.json()["valid"], false, "absent claims do not count as right");
}

#[test]
fn life_times_follow_the_configuration() {
    let server = Server::with().auth().env("JWT_EXPIRES_IN", "90m").start();
    let session = login(&server, json!({}));
    let verified = post(&server, "/auth/verify", json!({"token": session["accessToken"]})).json();
    assert!(
        (verified["expiresAt"].as_i64().expect("seconds") - token::in_seconds(90 * 60)).abs() <= 10,
        "{verified}"
    );
}
