//! Snapshots over HTTP (docs/protocol.md §16.4), kept in memory by a server without a database: creating, reading,
//! listing, deleting, who may, and what is said when something is missing.

use test_support as support;

use serde_json::{Value, json};
use support::http::Response;
use support::{Client, Dialect, Server, token};

fn ask(server: &Server, method: &str, path: &str, token: Option<&str>) -> Response {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|value| ("Authorization", value.as_str())).collect();
    server.request(method, path, &headers, "")
}

fn error(answer: &Response) -> (u16, String) {
    (
        answer.status,
        answer.json()["error"].as_str().expect("an error").to_owned(),
    )
}

#[test]
fn a_snapshot_is_made_found_listed_and_deleted() {
    let server = Server::with()
        .env("SYNCKIT_ANONYMOUS_SNAPSHOT_DELETE", "true")
        .shards(3)
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("doc", json!({"a": 1, "gone": 2}));
    client.write_acked("doc", json!({"gone": {"__deleted": true}}));

    let mut ids = Vec::new();
    for number in 0..3 {
        client.write_acked("doc", json!({ "a": number }));
        let made = ask(&server, "POST", "/snapshots/doc", None);
        assert_eq!(made.status, 200, "{}", made.text());
        let snapshot = made.json();
        assert_eq!(
            (&snapshot["documentId"], &snapshot["compressed"]),
            (&json!("doc"), &json!(false))
        );
        assert!(
            snapshot["sizeBytes"].is_u64() && snapshot["version"].is_object(),
            "{snapshot}"
        );
        assert!(
            snapshot["createdAt"].as_str().is_some_and(|time| time.ends_with('Z')),
            "{snapshot}"
        );
        assert_eq!(snapshot.get("state"), None);
        ids.push(snapshot["id"].as_str().expect("an id").to_owned());
    }
    let latest = ask(&server, "GET", "/snapshots/doc/latest", None).json();
    assert_eq!(
        (&latest["id"], &latest["state"]),
        (&json!(ids[2]), &json!({"a": 2})),
        "live fields only"
    );
    let first = ask(&server, "GET", &format!("/snapshots/id/{}", ids[0]), None).json();
    assert_eq!(first["state"], json!({"a": 0}), "a snapshot does not change");

    let list = ask(&server, "GET", "/snapshots/doc?limit=2", None).json();
    assert_eq!((&list["documentId"], &list["count"]), (&json!("doc"), &json!(2)));
    let listed: Vec<&Value> = list["snapshots"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| &it["id"])
        .collect();
    assert_eq!(listed, [&json!(ids[2]), &json!(ids[1])], "newest first");
    assert_eq!(list["snapshots"][0].get("state"), None);

    let path = format!("/snapshots/id/{}", ids[0]);
    assert_eq!(ask(&server, "DELETE", &path, None).json(), json!({"success": true}));
    for method in ["GET", "DELETE"] {
        assert_eq!(
            error(&ask(&server, method, &path, None)),
            (404, "Snapshot not found".into())
        );
    }
}

#[test]
fn what_is_missing_is_named() {
    let server = Server::start();
    for (method, path, text) in [
        ("POST", "/snapshots/unknown", "Document not found"),
        ("GET", "/snapshots/unknown/latest", "No snapshots found"),
        ("GET", "/snapshots/id/not-a-uuid", "Snapshot not found"),
        (
            "GET",
            "/snapshots/id/00000000-0000-4000-8000-000000000000",
            "Snapshot not found",
        ),
    ] {
        assert_eq!(
            error(&ask(&server, method, path, None)),
            (404, text.into()),
            "{method} {path}"
        );
    }
    let empty = ask(&server, "GET", "/snapshots/unknown", None);
    assert_eq!((empty.status, &empty.json()["count"]), (200, &json!(0)));
    assert_eq!(
        error(&ask(&server, "GET", "/snapshots/a.b/latest", None)),
        (400, "Document ID contains invalid characters".into())
    );
    let long = format!("/snapshots/{}/latest", "x".repeat(257));
    assert_eq!(
        error(&ask(&server, "GET", &long, None)),
        (400, "Document ID too long".into())
    );
}

#[test]
fn reading_and_writing_need_their_permissions() {
    let server = Server::with().auth().start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.authenticate(&token::admin());
    client.write_acked("doc", json!({"a": 1}));
    let (reader, writer) = (token::token("r", &["doc"], &[]), token::token("w", &[], &["doc"]));
    assert_eq!(
        error(&ask(&server, "POST", "/snapshots/doc", None)),
        (401, "Missing Authorization header".into())
    );
    assert_eq!(
        error(&ask(&server, "POST", "/snapshots/doc", Some(&reader))),
        (403, "Permission denied".into())
    );
    let made = ask(&server, "POST", "/snapshots/doc", Some(&writer));
    assert_eq!(made.status, 200, "{}", made.text());
    let by_id = format!("/snapshots/id/{}", made.json()["id"].as_str().expect("an id"));
    for path in ["/snapshots/doc", "/snapshots/doc/latest", &by_id] {
        assert_eq!(ask(&server, "GET", path, None).status, 401, "{path}");
        assert_eq!(
            error(&ask(&server, "GET", path, Some(&writer))),
            (403, "Permission denied".into()),
            "{path}"
        );
        assert_eq!(ask(&server, "GET", path, Some(&reader)).status, 200, "{path}");
    }
    assert_eq!(ask(&server, "DELETE", &by_id, Some(&reader)).status, 403);
    assert_eq!(ask(&server, "DELETE", &by_id, Some(&writer)).status, 200);
}

#[test]
fn anonymous_users_may_not_delete() {
    let server = Server::start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("doc", json!({"a": 1}));
    let made = ask(&server, "POST", "/snapshots/doc", None).json();
    let path = format!("/snapshots/id/{}", made["id"].as_str().expect("an id"));
    assert!([401, 403].contains(&ask(&server, "DELETE", &path, None).status));
    assert_eq!(ask(&server, "GET", &path, None).status, 200);
}

#[test]
fn memory_snapshots_can_be_switched_off() {
    let server = Server::with().env("SYNCKIT_MEMORY_SNAPSHOTS", "false").start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("doc", json!({"a": 1}));
    assert_eq!(
        error(&ask(&server, "POST", "/snapshots/doc", None)),
        (503, "Snapshot storage not configured".into())
    );
}
