//! The database may fail (docs/protocol.md §18.1, §21): down at the start, paused, stopped and restarted in the middle,
//! its connections cut, a row it cannot give. Broadcasts go on, `/health/ready` and the metrics say so, acknowledgements
//! wait, then writes are refused as retryable; what was accepted is stored when the database is back, without a restart.
//! A real PostgreSQL and a real server, each its own process.

use test_support as support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::database::{Postgres, SqliteFile};
use support::{Client, Dialect, Message, SILENCE, Server, ServerBuilder, eventually};

/// The server's patience is 5 s; a busy machine adds to it.
const PATIENT: Duration = Duration::from_secs(30);

fn server(postgres: &Postgres) -> ServerBuilder {
    Server::with()
        .env("DATABASE_URL", postgres.url())
        .env("SYNCKIT_METRICS_PUBLIC", true)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        // On a busy machine a client may be left alone for a long time.
        .without_heartbeats()
}

fn ready(server: &Server) -> bool {
    server.get("/health/ready").status == 200
}

fn retryable(error: &Message) -> bool {
    error["details"]["retryable"] == true
}

fn answers(message: &Message, id: &str) -> bool {
    message["messageId"] == id || message["requestId"] == id
}

/// The next answer to a write: its ack or its error.
fn answer(client: &mut Client, id: &str) -> Message {
    let deadline = Instant::now() + PATIENT;
    while Instant::now() < deadline {
        let Some(message) = client.next_within(Duration::from_millis(500)) else {
            continue;
        };
        if answers(&message, id) {
            return message;
        }
    }
    panic!("no answer to {id}");
}

#[test]
fn without_its_database_the_server_does_not_start_and_says_why() {
    let nowhere = Server::with()
        .env("DATABASE_URL", "postgresql://somebody:hunter2@127.0.0.1:1/nothing")
        .env("SYNCKIT_DB_STARTUP_TIMEOUT_MS", 300);
    let (status, log) = nowhere.refuses();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("127.0.0.1:1/nothing") && log.contains("Remedy"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
    let (status, log) = Server::with()
        .env("DATABASE_URL", "sqlite:/nowhere/at/all.sqlite")
        .env("SYNCKIT_DB_STARTUP_TIMEOUT_MS", 0)
        .refuses();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("sqlite:/nowhere/at/all.sqlite"), "{log}");
    let optional = Server::with()
        .env("DATABASE_URL", "postgresql://127.0.0.1:1/nothing")
        .env("SYNCKIT_DB_STARTUP_TIMEOUT_MS", 0)
        .env("SYNCKIT_DB_OPTIONAL", true)
        .start();
    Client::connect(&optional, Dialect::Json).write_acked("d", json!({"a": 1}));
    assert_eq!(optional.get("/health").json()["storage"], "memory-only");
}

#[test]
fn a_database_that_comes_late_is_waited_for() {
    let mut postgres = Postgres::start();
    postgres.stop();
    let url = postgres.url();
    let starting = std::thread::spawn(move || Server::with().env("DATABASE_URL", url).start());
    std::thread::sleep(Duration::from_millis(700));
    postgres.restart();
    let server = starting.join().expect("it starts");
    Client::connect(&server, Dialect::Json).write_acked("d", json!({"a": 1}));
    assert_eq!(server.get("/health").json()["storage"], "connected");
}

#[test]
fn a_paused_database_delays_acknowledgements_and_nothing_else() {
    let postgres = Postgres::start();
    let server = server(&postgres).start();
    let mut reader = Client::connect(&server, Dialect::Json);
    reader.subscribe("d");
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.write_acked("d", json!({"before": 1}));
    reader.take_field("d", "before");
    let mut patient = Client::connect(&server, Dialect::Json);
    patient.write_acked("other", json!({"x": 0}));
    assert!(ready(&server));

    postgres.pause();
    let first = writer.write("d", json!({"paused": 2}));
    reader.take_field("d", "paused");
    writer.fence();
    let early = writer.drain_for(SILENCE);
    assert!(
        early.iter().all(|message| message.kind != "ack"),
        "acknowledged without a commit"
    );
    // The write is refused as retryable when it has waited for 5 s, and so is a document that cannot be looked for. On a
    // machine that stood still those 5 s may be over.
    let mut stranger = Client::connect(&server, Dialect::Json);
    stranger.say_as("sub", "subscribe", json!({"documentId": "unknown"}));
    let refused = early.into_iter().find(|message| answers(message, &first));
    let refused = refused.unwrap_or_else(|| answer(&mut writer, &first));
    assert_eq!(
        (refused.kind.as_str(), retryable(&refused)),
        ("error", true),
        "{}",
        refused.body
    );
    assert_eq!(refused["error"], "Delta application failed");
    let refused = answer(&mut stranger, "sub");
    assert_eq!(
        (refused.kind.as_str(), retryable(&refused)),
        ("error", true),
        "{}",
        refused.body
    );
    eventually("the server says that it is degraded", || {
        (!ready(&server)).then_some(())
    });
    assert_eq!(server.get("/health").json()["storage"], "disconnected");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.metric("storage_up"), 0);
    // From now on writes of the document are refused at once and not applied.
    let began = Instant::now();
    let second = writer.write("d", json!({"refused": 3}));
    let refused = answer(&mut writer, &second);
    assert!(
        retryable(&refused) && began.elapsed() < Duration::from_secs(3),
        "{}",
        refused.body
    );
    assert!(
        reader
            .drain_for(SILENCE)
            .iter()
            .all(|message| message["field"] != "refused")
    );

    postgres.go_on();
    eventually("the server is ready again", || ready(&server).then_some(()));
    writer.write_acked("d", json!({"after": 4}));
    stranger.subscribe("unknown");
    patient.write_acked("other", json!({"x": 1}));
    eventually("everything is stored", || {
        (server.metric("unsaved_documents") == 0).then_some(())
    });
    drop(server);
    let server = Server::with().env("DATABASE_URL", postgres.url()).start();
    let state = Client::connect(&server, Dialect::Json).sync("d")["state"].clone();
    assert_eq!(
        state,
        json!({"before": 1, "paused": 2, "after": 4}),
        "what was accepted is stored, what was refused is not"
    );
}

#[test]
fn a_database_that_stops_and_comes_back_gets_everything_accepted() {
    let mut postgres = Postgres::start();
    let server = server(&postgres).start();
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.write_acked("d", json!({"n": 0}));
    postgres.stop();
    // Accepted before the server's patience ends, acknowledged when the database is back.
    let ids: Vec<String> = (1..=20)
        .map(|n| writer.write("d", json!({ format!("f{n}"): n })))
        .collect();
    writer.fence();
    eventually("the outage is noticed", || (!ready(&server)).then_some(()));
    postgres.restart();
    for id in &ids {
        let answered = answer(&mut writer, id);
        // A machine so busy that the restart took longer than the server's patience makes errors of them; both are
        // promises kept, as long as they are stored.
        assert!(answered.kind == "ack" || retryable(&answered), "{}", answered.body);
    }
    eventually("the server is ready again", || ready(&server).then_some(()));
    eventually("everything is stored", || {
        (server.metric("unsaved_documents") == 0).then_some(())
    });
    drop(server);
    let server = Server::with().env("DATABASE_URL", postgres.url()).start();
    let state = Client::connect(&server, Dialect::Json).sync("d")["state"].clone();
    for n in 1..=20 {
        assert_eq!(state[format!("f{n}")], n);
    }
}

#[test]
fn cut_connections_lose_nothing() {
    let postgres = Postgres::start();
    let server = server(&postgres).start();
    let mut admin = postgres.connect();
    let mut writer = Client::connect(&server, Dialect::Json);
    for round in 0..30 {
        let ids: Vec<String> = (0..10)
            .map(|n| writer.write(&format!("cut:{n}"), json!({ "round": round })))
            .collect();
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'synckit-server'";
        admin.batch_execute(cut).expect("the superuser may");
        for id in &ids {
            writer.take_ack(id);
        }
    }
    for n in 0..10 {
        let row = admin
            .query_one(
                "SELECT state->'fields'->>'round' FROM documents WHERE id = $1",
                &[&format!("cut:{n}")],
            )
            .expect("the row");
        assert_eq!(row.get::<_, String>(0), "29");
    }
    assert!(
        server.metric("storage_retries_total") > 0,
        "no connection was ever cut in the middle"
    );
}

#[test]
fn serialization_conflicts_are_tried_again_until_all_writers_are_stored() {
    let settings = vec![
        "listen_addresses=".to_owned(),
        "default_transaction_isolation=serializable".to_owned(),
    ];
    let postgres = Postgres::start_with(|_| settings);
    let servers = [server(&postgres).start(), server(&postgres).start()];
    const ROUNDS: usize = 60;
    const DOCUMENTS: usize = 5;
    std::thread::scope(|scope| {
        for (at, server) in servers.iter().enumerate() {
            scope.spawn(move || {
                let mut writer = Client::connect(server, Dialect::Json);
                for round in 0..ROUNDS {
                    let ids: Vec<String> = (0..DOCUMENTS)
                        .map(|document| {
                            let field = format!("s{at}r{round}");
                            writer.write(&format!("d{document}"), json!({ field.as_str(): round }))
                        })
                        .collect();
                    for id in ids {
                        writer.take_ack(&id);
                    }
                }
            });
        }
    });
    let met: u64 = servers
        .iter()
        .map(|server| server.metric("storage_conflicts_total") + server.metric("storage_retries_total"))
        .sum();
    assert!(met > 0, "the servers never met");
    drop(servers);
    let reader = server(&postgres).start();
    let mut client = Client::connect(&reader, Dialect::Json);
    for document in 0..DOCUMENTS {
        let state = client.sync(&format!("d{document}"))["state"].clone();
        assert_eq!(
            state.as_object().expect("fields").len(),
            2 * ROUNDS,
            "d{document}: {state}"
        );
    }
}

#[test]
fn a_row_that_cannot_be_read_is_refused_alone_and_kept() {
    let postgres = Postgres::start();
    let server = server(&postgres).start();
    let mut admin = postgres.connect();
    admin
        .batch_execute("INSERT INTO documents (id, state) VALUES ('odd', '[1]'), ('fine', '{\"fields\":{\"a\":1}}')")
        .expect("rows");
    let mut client = Client::connect(&server, Dialect::Json);
    client.say_as("s", "subscribe", json!({"documentId": "odd"}));
    let refused = answer(&mut client, "s");
    assert_eq!(
        (refused.kind.as_str(), retryable(&refused)),
        ("error", false),
        "{}",
        refused.body
    );
    let id = client.write("odd", json!({"a": 2}));
    assert_eq!(answer(&mut client, &id).kind, "error");
    assert_eq!(client.sync("fine")["state"], json!({"a": 1}));
    let odd = admin
        .query_one("SELECT state::text FROM documents WHERE id = 'odd'", &[])
        .expect("the row");
    assert_eq!(odd.get::<_, String>(0), "[1]");
    // Repaired by hand, it is served without a restart.
    admin
        .batch_execute("UPDATE documents SET state = '{\"fields\":{\"a\":7}}' WHERE id = 'odd'")
        .expect("repaired");
    assert_eq!(client.sync("odd")["state"], json!({"a": 7}));
}

#[test]
fn a_document_the_database_refuses_takes_no_other_along() {
    let postgres = Postgres::start();
    let server = server(&postgres).start();
    postgres
        .connect()
        .batch_execute("ALTER TABLE documents ADD CONSTRAINT no_poison CHECK (state->'fields'->>'value' IS DISTINCT FROM 'poison')")
        .expect("a constraint");
    let mut client = Client::connect(&server, Dialect::Json);
    let ids: Vec<(String, bool)> = (0..40)
        .map(|n| {
            let value = if n == 17 { "poison" } else { "food" };
            (client.write(&format!("p:{n}"), json!({ "value": value })), n == 17)
        })
        .collect();
    for (id, poison) in &ids {
        // Documents are stored side by side, so their answers come in any order.
        let answered = client.take_where(&format!("the answer to {id}"), |message| {
            message["messageId"] == **id || message["requestId"] == **id
        });
        assert_eq!(
            answered.kind,
            if *poison { "error" } else { "ack" },
            "{}",
            answered.body
        );
        assert!(!retryable(&answered));
    }
    assert_eq!(server.metric("storage_refused_total"), 1);
    assert!(ready(&server), "one document is no outage");
}

#[test]
fn ids_longer_than_the_column_are_refused_with_a_clear_error() {
    let postgres = Postgres::start();
    let server = server(&postgres).start();
    let mut client = Client::connect(&server, Dialect::Json);
    let id = client.write(&"x".repeat(256), json!({"a": 1}));
    assert_eq!(answer(&mut client, &id)["error"], "Document ID too long");
    client.write_acked(&"x".repeat(255), json!({"a": 1}));
}

#[test]
fn sigterm_under_load_stores_everything_acknowledged() {
    let (postgres, file) = (Postgres::start(), SqliteFile::new());
    for url in [postgres.url(), file.url()] {
        let mut server = Server::with()
            .env("DATABASE_URL", &url)
            .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
            .start();
        let mut writers: Vec<Client> = (0..8).map(|_| Client::connect(&server, Dialect::Json)).collect();
        let mut sent = Vec::new();
        for round in 0..40 {
            for (number, writer) in writers.iter_mut().enumerate() {
                let field = format!("f{number}:{round}");
                sent.push((number, field.clone(), writer.write("last", json!({ field: round }))));
            }
        }
        let began = Instant::now();
        server.signal("TERM");
        let mut acknowledged = Vec::new();
        for (number, writer) in writers.iter_mut().enumerate() {
            let (code, reason) = writer.expect_close_within(PATIENT);
            assert_eq!((code, reason.as_str()), (1001, "Server shutdown"));
            let acks = writer.drain().into_iter().filter(|message| message.kind == "ack");
            let ids: Vec<String> = acks
                .filter_map(|ack| Some(ack["messageId"].as_str()?.to_owned()))
                .collect();
            let of_this = sent
                .iter()
                .filter(|(author, _, id)| *author == number && ids.contains(id));
            acknowledged.extend(of_this.map(|(_, field, _)| field.clone()));
        }
        let status = server.wait_exit(PATIENT).expect("it ends");
        assert_eq!(status.code(), Some(0), "{}", server.log());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(!acknowledged.is_empty(), "nothing was acknowledged");
        if url == postgres.url() {
            // Clocks that follow later have followed.
            let behind = "SELECT count(*) FROM documents d LEFT JOIN vector_clocks v ON v.document_id = d.id
                WHERE v.clock_value IS DISTINCT FROM (d.state->'meta'->>'L')::bigint";
            let behind = postgres.connect().query_one(behind, &[]).expect("a count");
            assert_eq!(behind.get::<_, i64>(0), 0);
        }
        let server = Server::with().env("DATABASE_URL", &url).start();
        let state = Client::connect(&server, Dialect::Json).sync("last")["state"].clone();
        for field in &acknowledged {
            assert!(state.get(field).is_some(), "{field} was acknowledged");
        }
    }
}

#[test]
fn a_database_that_is_away_does_not_hold_up_the_end_for_long() {
    let mut postgres = Postgres::start();
    let mut server = server(&postgres).start();
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.write_acked("d", json!({"a": 1}));
    postgres.stop();
    writer.write("d", json!({"b": 2}));
    writer.fence();
    let began = Instant::now();
    server.signal("TERM");
    let status = server.wait_exit(PATIENT).expect("it ends");
    assert_eq!(
        status.code(),
        Some(1),
        "what is not stored is no clean end:\n{}",
        server.log()
    );
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(server.log().contains("not acknowledged"), "{}", server.log());
}

/// The greatest file the server may write from now on; what is beyond fails as on a full disk.
fn allow_files(server: &Server, bytes: &str) {
    let pid = server.pid().to_string();
    let done = std::process::Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")])
        .status();
    assert!(done.expect("prlimit of util-linux").success());
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room_again() {
    let file = SqliteFile::new();
    let server = Server::with()
        .env("DATABASE_URL", file.url())
        .env("SYNCKIT_METRICS_PUBLIC", true)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .without_heartbeats()
        .start();
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.write_acked("d", json!({"before": "x".repeat(100_000)}));
    allow_files(&server, "150000");
    let id = writer.write("d", json!({"during": "y".repeat(100_000)}));
    eventually("the full disk is noticed", || (!ready(&server)).then_some(()));
    let refused = answer(&mut writer, &id);
    assert!(retryable(&refused), "{}", refused.body);
    let id = writer.write("d", json!({"refused": 1}));
    assert!(retryable(&answer(&mut writer, &id)));
    allow_files(&server, "unlimited");
    eventually("the server is ready again", || ready(&server).then_some(()));
    eventually("everything is stored", || {
        (server.metric("unsaved_documents") == 0).then_some(())
    });
    writer.write_acked("d", json!({"after": 2}));
    drop(server);
    let server = Server::with().env("DATABASE_URL", file.url()).start();
    let state = Client::connect(&server, Dialect::Json).sync("d")["state"].clone();
    let names: Vec<&String> = state.as_object().expect("fields").keys().collect();
    assert_eq!(names, ["after", "before", "during"]);
}
