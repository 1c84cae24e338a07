//! Snapshots over HTTP with a database (docs/protocol.md §16.4): they outlive the server, are listed newest first, can be
//! deleted, and what is missing is named as without a database. While the database is away they are refused as retryable,
//! and other requests of the shard do not wait. Over PostgreSQL and SQLite, with one shard and with three.

use test_support as support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::database::{Postgres, SqliteFile};
use support::http::Response;
use support::{Client, Dialect, Server, ServerBuilder, eventually};

fn over(url: &str, shards: usize) -> ServerBuilder {
    Server::with()
        .env("DATABASE_URL", url)
        .env("SYNCKIT_ANONYMOUS_SNAPSHOT_DELETE", true)
        .shards(shards)
}

fn ask(server: &Server, method: &str, path: &str) -> Response {
    server.request(method, path, &[], "")
}

fn error(answer: &Response) -> (u16, Value) {
    (answer.status, answer.json()["error"].clone())
}

#[test]
fn snapshots_outlive_the_server() {
    let (postgres, file) = (Postgres::start(), SqliteFile::new());
    for (url, shards) in [(postgres.url(), 1), (postgres.url(), 3), (file.url(), 3)] {
        let document = format!("doc-{shards}");
        let server = over(&url, shards).start();
        let mut client = Client::connect(&server, Dialect::Json);
        // Taken before the first commit of the document can have been answered.
        client.write(&document, json!({"a": 0, "exact": "\u{0}"}));
        client.fence();
        let path = format!("/snapshots/{document}");
        let mut ids = Vec::new();
        for number in 0..3 {
            client.write_acked(&document, json!({ "a": number }));
            let made = ask(&server, "POST", &path);
            assert_eq!(made.status, 200, "{}", made.text());
            let snapshot = made.json();
            assert_eq!(snapshot["documentId"], json!(document));
            assert_eq!(snapshot.get("state"), None);
            assert!(snapshot["version"]["server"].is_u64(), "{snapshot}");
            ids.push(snapshot["id"].as_str().expect("an id").to_owned());
        }
        let before = ask(&server, "GET", &format!("{path}/latest")).json();
        assert_eq!(before["state"], json!({"a": 2, "exact": "\u{0}"}));
        let bytes = serde_json::to_string(&before["state"]).expect("JSON").len();
        assert_eq!(before["sizeBytes"], json!(bytes));
        drop((client, server));

        let server = over(&url, shards).start();
        assert_eq!(ask(&server, "GET", &format!("{path}/latest")).json(), before);
        let list = ask(&server, "GET", &format!("{path}?limit=2")).json();
        assert_eq!(
            (&list["count"], &list["snapshots"][0]["id"], &list["snapshots"][1]["id"]),
            (&json!(2), &json!(ids[2]), &json!(ids[1])),
            "newest first: {list}"
        );
        let first = format!("/snapshots/id/{}", ids[0]);
        assert_eq!(ask(&server, "GET", &first).json()["state"]["a"], json!(0));
        assert_eq!(ask(&server, "DELETE", &first).json(), json!({"success": true}));
        for method in ["GET", "DELETE"] {
            let gone = ask(&server, method, &first);
            assert_eq!(error(&gone), (404, json!("Snapshot not found")));
        }
        assert_eq!(
            error(&ask(&server, "POST", "/snapshots/unknown")),
            (404, json!("Document not found"))
        );
        assert_eq!(
            error(&ask(&server, "GET", "/snapshots/unknown/latest")),
            (404, json!("No snapshots found"))
        );
        // A document that only the database knows is loaded to be copied.
        assert!(ask(&server, "POST", &path).json()["version"].is_object());
    }
}

#[test]
fn while_the_database_is_away_snapshots_are_refused_and_nobody_waits() {
    let postgres = Postgres::start();
    let server = over(&postgres.url(), 1).start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("doc", json!({"a": 1}));
    let made = ask(&server, "POST", "/snapshots/doc").json();
    postgres.pause();
    for (method, path, text) in [
        ("POST", "/snapshots/doc".to_owned(), "Failed to create snapshot"),
        ("GET", "/snapshots/doc".to_owned(), "Failed to list snapshots"),
        (
            "DELETE",
            format!("/snapshots/id/{}", made["id"].as_str().expect("an id")),
            "Failed to delete snapshot",
        ),
    ] {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(&server, method, &path));
            // The only shard goes on meanwhile.
            let began = Instant::now();
            client.fence();
            assert_eq!(server.get("/health/live").status, 200);
            assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
            let refused = waiting.join().expect("an answer");
            assert_eq!(error(&refused), (503, json!(text)));
            assert_eq!(refused.json()["retryable"], true);
            assert!(refused.header("retry-after").is_some());
        });
    }
    postgres.go_on();
    eventually("snapshots work again", || {
        (ask(&server, "POST", "/snapshots/doc").status == 200).then_some(())
    });
}
