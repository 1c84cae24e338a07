//! Documents outlive the server exactly (docs/protocol.md §18): the row has the layout that other servers of the family
//! read, their rows are taken over, values that JSONB would change come back as they were written, servers that write one
//! row merge, and documents far beyond the memory budget are served.

use test_support as support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::database::{Postgres, SqliteFile};
use support::{Client, Dialect, Server, ServerBuilder, eventually};

fn over(url: &str) -> ServerBuilder {
    Server::with()
        .env("DATABASE_URL", url)
        .env("SYNCKIT_METRICS_PUBLIC", true)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
}

/// Both kinds of databases, each kept for the test.
fn databases() -> (Postgres, SqliteFile, Vec<String>) {
    let (postgres, file) = (Postgres::start(), SqliteFile::new());
    let urls = vec![postgres.url(), file.url()];
    (postgres, file, urls)
}

/// Values as they stand in a message, and every one a trap for some database.
const VALUES: [(&str, &str); 13] = [
    ("null", "null"),
    ("false", "false"),
    ("empty", "\"\""),
    ("zero", "0"),
    ("text", "\"ünï \\\" \\\\ 🙂\""),
    ("nul", "\"a\\u0000b\""),
    ("lone surrogate", "\"\\ud800\""),
    ("exponent", "1e5"),
    ("negative zero", "-0"),
    ("long number", "12345678901234567890123456789.10"),
    ("twice", "{\"a\":1,\"a\":2}"),
    ("looks stored", "{\"$synckit:raw\":\"MQ==\"}"),
    ("nested", "[1,{\"x\":[null,{}]},\"y\"]"),
];

#[test]
fn values_names_deletions_and_texts_come_back_after_a_restart() {
    let (_postgres, _file, urls) = databases();
    for url in &urls {
        let server = over(url).start();
        let mut writer = Client::connect(&server, Dialect::Json);
        for (at, (name, value)) in VALUES.iter().enumerate() {
            let name = serde_json::to_string(name).expect("a string");
            writer.send_text(&format!(
                "{{\"type\":\"delta\",\"id\":\"v{at}\",\"timestamp\":1,\"documentId\":\"values\",\"delta\":{{{name}:{value}}}}}"
            ));
            writer.take_ack(&format!("v{at}"));
        }
        writer.write_acked(
            "values",
            json!({"nul\u{0}name": 1, "$synckit:name:x": 2, "gone": 3, "big": "x".repeat(1 << 20)}),
        );
        writer.write_acked("values", json!({"gone": {"__deleted": true}}));
        let state = r#"{"blocks":[[{"client_id":"a","clock":2,"offset":0},{"id":{"client_id":"a","clock":2,"offset":0},"text":"hi","left_origin":null,"right_origin":null,"deleted":false}]],"clock":{"value":2},"client_id":"a"}"#;
        writer.say_as(
            "t",
            "delta_batch",
            json!({"documentId": "text", "messageId": "t", "deltas": [{"type": "text-state",
            "documentId": "text", "state": state, "clientId": "a", "timestamp": 5, "clock": {"a": 2}}]}),
        );
        writer.take_ack("t");
        let before = writer.sync("values")["clock"]["server"].as_u64().expect("a clock");
        drop(server);

        let server = over(url).start();
        let mut reader = Client::connect(&server, Dialect::Json);
        let snapshot = reader.sync("values");
        let text = String::from_utf8(snapshot.bytes.clone()).expect("text");
        for (name, value) in VALUES {
            let name = serde_json::to_string(name).expect("a string");
            assert!(
                text.contains(&format!("{name}:{value}")),
                "{name}:{value} is not in the snapshot over {url}"
            );
        }
        let plain = ["\"nul\\u0000name\":1", "\"$synckit:name:x\":2"];
        assert!(plain.iter().all(|field| text.contains(field)));
        assert!(!text.contains("\"gone\""));
        assert!(text.contains(&"x".repeat(1 << 20)));
        assert!(snapshot["clock"]["server"].as_u64() > Some(before), "clocks go on");
        assert!(
            reader.sync("text")["textState"]
                .as_str()
                .expect("a text")
                .contains("\"hi\"")
        );
        // The deletion is remembered too, and told to SDK subscribers.
        let mut sdk = Client::connect(&server, Dialect::Sdk);
        sdk.subscribe("values");
        assert_eq!(sdk.take_field("values", "gone")["value"], json!({"__deleted": true}));
    }
}

/// Sends a field's value as the bytes it is, and waits for the acknowledgement.
fn write_raw(client: &mut Client, document: &str, id: &str, field: &str, value: &str) {
    client.send_text(&format!(
        "{{\"type\":\"delta\",\"id\":\"{id}\",\"timestamp\":1,\"documentId\":\"{document}\",\"field\":\"{field}\",\"value\":{value}}}"
    ));
    client.take_ack(id);
}

#[test]
fn numbers_beyond_doubles_and_a_document_of_ten_megabytes_come_back_exactly() {
    let numbers = [
        ("huge", "1e400"),
        ("tiny", "-1e-400"),
        ("negative", "-0"),
        ("negative_fraction", "-0.0"),
        ("digits", "123456789012345678901234567890"),
        ("fraction", "0.1000000000000000055511151231257827021181583404541015625"),
        ("inside", "{\"a\":[1e400,-0]}"),
    ];
    // Eight of these are nearly as large as a document may be (10,485,760 bytes).
    const PAIRS: usize = 162_500;
    let part = "é\\u2028".repeat(PAIRS);
    let (_postgres, _file, urls) = databases();
    for url in &urls {
        let server = over(url).start();
        let mut writer = Client::connect(&server, Dialect::Json);
        for (name, value) in numbers {
            write_raw(&mut writer, "numbers", name, name, value);
        }
        for field in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            write_raw(&mut writer, "large", field, field, &format!("\"{part}\""));
        }
        let before = writer.sync("large").bytes.len();
        assert!(before > 10_000_000, "{before} bytes");
        drop((writer, server));

        let server = over(url).start();
        let mut reader = Client::connect(&server, Dialect::Json);
        let text = String::from_utf8(reader.sync("numbers").bytes.clone()).expect("text");
        for (name, value) in numbers {
            assert!(
                text.contains(&format!("\"{name}\":{value}")),
                "{name} is not {value} over {url}: {text}"
            );
        }
        let large = String::from_utf8(reader.sync("large").bytes.clone()).expect("text");
        // JSONB keeps the character, SQLite the way it was written.
        let pairs = large.matches("é\\u2028").count() + large.matches("é\u{2028}").count();
        assert_eq!(pairs, 8 * PAIRS, "over {url}");
    }
}

#[test]
fn the_row_is_what_other_servers_read_and_their_rows_are_taken_over() {
    let postgres = Postgres::start();
    let server = over(&postgres.url()).start();
    let mut admin = postgres.connect();
    let mut state = |id: &str| -> Value {
        let row = admin
            .query_one("SELECT state::text FROM documents WHERE id = $1", &[&id])
            .expect("the row");
        serde_json::from_str(row.get(0)).expect("JSON")
    };
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("ours", json!({"a": [1, 2], "b": null, "c": 3}));
    client.write_acked("ours", json!({"c": {"__deleted": true}}));
    let row = state("ours");
    assert_eq!(
        (&row["id"], &row["fields"]),
        (&json!("ours"), &json!({"a": [1, 2], "b": null}))
    );
    assert_eq!(row["meta"]["v"], 1);
    assert_eq!(row["meta"]["f"]["a"].as_array().map(Vec::len), Some(4));
    assert_eq!(row["meta"]["t"]["c"].as_array().map(Vec::len), Some(5));
    let sums = "SELECT count(*), count(value), count(*) FILTER (WHERE operation_type = 'delete'),
        (SELECT clock_value FROM vector_clocks WHERE document_id = 'ours' AND client_id = 'server') FROM deltas";
    let mut admin = postgres.connect();
    // The clock follows within a second.
    let clock_follows = Instant::now() + Duration::from_secs(3);
    let sums = loop {
        let sums = admin.query_one(sums, &[]).expect("the audit trail");
        if Some(sums.get::<_, i64>(3) as u64) == row["meta"]["L"].as_u64() {
            break sums;
        }
        assert!(
            Instant::now() < clock_follows,
            "the table has {}",
            sums.get::<_, i64>(3)
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(
        (sums.get::<_, i64>(0), sums.get::<_, i64>(1), sums.get::<_, i64>(2)),
        (4, 3, 1)
    );

    // Rows as the TypeScript server writes them, one of them over a row of ours.
    admin
        .batch_execute(
            "INSERT INTO documents (id, state) VALUES
                 ('theirs', '{\"id\":\"theirs\",\"fields\":{\"x\":0,\"gone\":{\"__deleted\":true}}}');
             INSERT INTO vector_clocks (document_id, client_id, clock_value) VALUES ('theirs', 'conn-1', 5)",
        )
        .expect("rows");
    assert_eq!(client.sync("theirs")["state"], json!({"x": 0}));
    client.write_acked("theirs", json!({"y": 1}));
    drop(server);
    admin
        .batch_execute(
            "UPDATE documents SET state = '{\"id\":\"ours\",\"fields\":{\"a\":5,\"new\":6}}' WHERE id = 'ours'",
        )
        .expect("an update");
    let server = over(&postgres.url()).start();
    let mut client = Client::connect(&server, Dialect::Json);
    assert_eq!(client.sync("theirs")["state"], json!({"x": 0, "y": 1}));
    assert_eq!(client.sync("ours")["state"], json!({"a": 5, "new": 6}));
}

#[test]
fn servers_that_write_one_document_merge_and_overwrite_nothing() {
    let (_postgres, _file, urls) = databases();
    for url in &urls {
        let servers = [over(url).start(), over(url).start()];
        let mut clients: Vec<Client> = servers
            .iter()
            .map(|server| Client::connect(server, Dialect::Json))
            .collect();
        for client in &mut clients {
            client.subscribe("both");
        }
        let mut ids: Vec<(usize, String)> = Vec::new();
        for round in 0..40 {
            for (number, client) in clients.iter_mut().enumerate() {
                ids.push((
                    number,
                    client.write("both", json!({ format!("s{number}r{round}"): round })),
                ));
            }
        }
        for (number, id) in &ids {
            clients[*number].take_ack(id);
        }
        let conflicts: u64 = servers
            .iter()
            .map(|server| server.metric("storage_conflicts_total"))
            .sum();
        assert!(conflicts > 0, "they never met over {url}");
        drop(servers);
        let server = over(url).start();
        let state = Client::connect(&server, Dialect::Json).sync("both")["state"].clone();
        assert_eq!(state.as_object().map(|fields| fields.len()), Some(80), "over {url}");
    }
}

#[test]
fn servers_that_start_together_make_the_schema_once() {
    let postgres = Postgres::start();
    let starting: Vec<_> = (0..4)
        .map(|_| {
            let url = postgres.url();
            std::thread::spawn(move || over(&url).shards(1).start())
        })
        .collect();
    let servers: Vec<Server> = starting
        .into_iter()
        .map(|server| server.join().expect("it starts"))
        .collect();
    Client::connect(&servers[3], Dialect::Json).write_acked("d", json!({"a": 1}));
    assert_eq!(
        Client::connect(&servers[0], Dialect::Json).sync("d")["state"],
        json!({"a": 1})
    );
    let mut admin = postgres.connect();
    let steps = admin
        .query_one("SELECT count(*), count(*) = max(version) FROM synckit_migrations", &[])
        .expect("the table");
    assert!(steps.get::<_, i64>(0) > 0 && steps.get::<_, bool>(1));
    // What the other servers of the family look for.
    admin
        .batch_execute("SELECT cleanup_old_sessions(), cleanup_old_deltas(); SELECT vector_clock FROM documents_with_clocks; SELECT * FROM snapshots, sessions")
        .expect("tables, view and functions are there");
}

#[test]
fn many_who_ask_for_one_document_load_it_once() {
    let file = SqliteFile::new();
    {
        let server = over(&file.url()).start();
        Client::connect(&server, Dialect::Json).write_acked("popular", json!({"a": 1}));
    }
    let server = over(&file.url()).start();
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(&server, Dialect::Json)).collect();
    for client in &mut clients {
        client.say("subscribe", json!({"documentId": "popular"}));
        client.write("popular", json!({"b": 2}));
    }
    for client in &mut clients {
        let state = client.take_snapshot("popular")["state"].clone();
        assert_eq!(state["a"], 1, "the first answer already has what was stored");
    }
    assert_eq!(server.metric("storage_documents_loaded_total"), 1);
}

#[test]
fn documents_beyond_the_memory_budget_are_unloaded_and_served() {
    const DOCUMENTS: usize = 1500;
    let file = SqliteFile::new();
    let server = over(&file.url())
        .env("SYNCKIT_DOC_MEMORY", "1MiB")
        .env("SYNCKIT_MAX_SUBSCRIPTIONS", 0)
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    for first in (0..DOCUMENTS).step_by(50) {
        let ids: Vec<String> = (first..first + 50)
            .map(|n| client.write(&format!("big:{n}"), json!({ "n": n, "filling": "x".repeat(8_000) })))
            .collect();
        ids.iter().for_each(|id| drop(client.take_ack(id)));
    }
    // A writer listens to what it writes, and what has listeners stays.
    client.close();
    eventually("documents are unloaded", || {
        (server.metric("document_bytes") <= 1 << 20).then_some(())
    });
    assert!(server.metric("documents") < 200);
    let mut reader = Client::connect(&server, Dialect::Json);
    for n in (0..DOCUMENTS).step_by(7) {
        let document = format!("big:{n}");
        assert_eq!(reader.sync(&document)["state"]["n"], n);
        reader.say("unsubscribe", json!({"documentId": document}));
    }
    reader.drain_for(Duration::from_millis(50));
    assert!(server.metric("unloaded_total") > 1000);
}

#[test]
fn clearing_empties_the_database_too() {
    let (_postgres, _file, urls) = databases();
    for url in &urls {
        let server = over(url).env("SYNCKIT_TEST_ENDPOINTS", true).start();
        let mut client = Client::connect(&server, Dialect::Json);
        client.write_acked("d", json!({"a": 1}));
        assert_eq!(server.request("POST", "/_test/clear", &[], "").status, 200);
        client.write_acked("e", json!({"b": 2}));
        drop(server);
        let server = over(url).start();
        let mut client = Client::connect(&server, Dialect::Json);
        assert_eq!(client.sync("d")["state"], json!({}));
        assert_eq!(client.sync("e")["state"], json!({"b": 2}));
    }
}
