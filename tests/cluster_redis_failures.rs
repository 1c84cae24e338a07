//! Redis may fail, and nodes begin while others are at work (docs/cluster.md). Redis down at the start, killed and restarted,
//! silent, out of memory: clients of a node go on among themselves all the while and are acknowledged; who was cut off gets
//! what it missed; `/health`, `/health/ready`, the metrics and the log say what is the matter; it heals without a restart. A
//! node that has just begun answers whole from its first answer. A real Redis and a real server, each its own process.

use test_support as support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::redis::Redis;
use support::{Client, Dialect, Server, ServerBuilder};

/// The node's patience with a silent Redis is seconds long, and the machine may be busy.
const PATIENT: Duration = Duration::from_secs(30);

fn node(redis: &Redis) -> ServerBuilder {
    Server::with()
        .env("REDIS_URL", redis.url())
        .env("SYNCKIT_METRICS_PUBLIC", true)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
}

fn wait_until_ready(server: &Server, ready: bool) {
    let deadline = Instant::now() + PATIENT;
    let expected = if ready { 200 } else { 503 };
    while server.get("/health/ready").status != expected {
        assert!(Instant::now() < deadline, "/health/ready never became {expected}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn pubsub(server: &Server) -> Value {
    server.get("/health").json()["pubsub"].clone()
}

/// Two clients of one node see each other's changes, with acknowledgements.
fn assert_clients_sync(server: &Server, document: &str) {
    let mut author = Client::connect(server, Dialect::Json);
    let mut reader = Client::connect(server, Dialect::Binary);
    reader.subscribe(document);
    author.write_acked(document, json!({"a": document}));
    assert_eq!(reader.take_field(document, "a")["value"], document);
}

#[test]
fn a_node_starts_without_its_redis_and_finds_it_later() {
    let mut redis = Redis::stopped(&[]);
    let server = node(&redis).start();
    wait_until_ready(&server, false);
    assert_eq!(pubsub(&server), "disconnected");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/health/live").status, 200);
    assert_eq!(server.metric("bus_up"), 0);
    let unavailable = server.get("/metrics").json()["bus"]["unavailableMs"].as_u64();
    assert!(unavailable.is_some_and(|ms| ms > 0), "{unavailable:?}");
    assert_clients_sync(&server, "early");
    redis.restart();
    wait_until_ready(&server, true);
    let health = server.get("/health").json();
    assert_eq!(
        (&health["pubsub"], &health["mode"]),
        (&json!("connected"), &json!("cluster, memory-only"))
    );
    assert_eq!(server.metric("bus_up"), 1);
    assert_eq!(server.get("/metrics").json()["bus"]["up"], 1);
    let log = server.log();
    assert!(log.contains("does not work") && log.contains("is back"), "{log}");
    assert_clients_sync(&server, "late");
}

/// A node without a database keeps snapshots in its own memory, as a single server does.
#[test]
fn a_node_without_a_database_keeps_snapshots() {
    let redis = Redis::start();
    let server = node(&redis).start();
    let mut author = Client::connect(&server, Dialect::Json);
    author.write_acked("d", json!({"a": 1}));
    let made = server.request("POST", "/snapshots/d", &[], "");
    assert_eq!(made.status, 200, "{}", made.text());
    let latest = server.get("/snapshots/d/latest");
    assert_eq!((latest.status, &latest.json()["state"]), (200, &json!({"a": 1})));
}

/// Clients do not wait until a node is ready, and without a database only the others know what the documents hold.
#[test]
fn the_first_answer_of_a_node_that_has_just_started_is_whole() {
    let redis = Redis::start();
    let first = node(&redis).start();
    wait_until_ready(&first, true);
    let mut author = Client::connect(&first, Dialect::Json);
    for document in 0..20 {
        author.write_acked(&document.to_string(), json!({"a": document}));
    }
    for _ in 0..3 {
        let second = node(&redis).start();
        let mut newcomer = Client::connect(&second, Dialect::Json);
        for document in 0..20 {
            let state = newcomer.sync(&document.to_string())["state"].clone();
            assert_eq!(state, json!({"a": document}), "document {document}");
        }
    }
}

/// Nor do they wait for other nodes where nobody else has the document: a question that reached nobody has been answered.
#[test]
fn documents_that_nobody_has_wait_for_nobody() {
    const DOCUMENTS: usize = 100;
    let redis = Redis::start();
    let (first, second) = (node(&redis).start(), node(&redis).start());
    wait_until_ready(&first, true);
    wait_until_ready(&second, true);
    let mut theirs = Client::connect(&second, Dialect::Json);
    theirs.write_acked("theirs", json!({"a": 1}));
    let mut client = Client::connect(&first, Dialect::Json);
    // A node that has just begun waits all the same: the others may be on their way back to the bus.
    let deadline = Instant::now() + PATIENT;
    for round in 0.. {
        let began = Instant::now();
        for document in 0..DOCUMENTS {
            let document = format!("{round}:{document}");
            client.send_text(
                &json!({"type": "subscribe", "id": "s", "timestamp": 1, "documentId": document}).to_string(),
            );
        }
        client.send_text(r#"{"type":"ping","id":"p","timestamp":1}"#);
        let answers: Vec<String> = (0..=DOCUMENTS).map(|_| client.next().kind).collect();
        let documents = answers.iter().filter(|kind| *kind == "sync_response");
        assert_eq!(documents.count(), DOCUMENTS, "{answers:?}");
        // Four at a time, each 300 ms, would be 7.5 s.
        if began.elapsed() < Duration::from_secs(2) {
            break;
        }
        assert!(Instant::now() < deadline, "{:?} in round {round}", began.elapsed());
    }
    assert_eq!(client.sync("theirs")["state"], json!({"a": 1}));
}

#[test]
fn clients_go_on_while_redis_is_killed_silent_or_cuts_connections() {
    let mut redis = Redis::start();
    let server = node(&redis).start();
    wait_until_ready(&server, true);
    for (number, trouble) in ["killed", "silent", "cut"].into_iter().enumerate() {
        let reconnects = server.metric("bus_reconnects_total");
        match trouble {
            "killed" => redis.kill(),
            "silent" => redis.pause(),
            _ => drop((redis.cut("pubsub"), redis.cut("normal"))),
        }
        assert_clients_sync(&server, &format!("during-{number}"));
        if trouble != "cut" {
            wait_until_ready(&server, false);
            assert_eq!(pubsub(&server), "disconnected");
            assert_clients_sync(&server, &format!("away-{number}"));
        }
        match trouble {
            "killed" => redis.restart(),
            "silent" => redis.go_on(),
            _ => {}
        }
        let deadline = Instant::now() + PATIENT;
        while server.metric("bus_reconnects_total") == reconnects || server.metric("bus_up") == 0 {
            assert!(Instant::now() < deadline, "{trouble}: never came back");
            std::thread::sleep(Duration::from_millis(20));
        }
        wait_until_ready(&server, true);
        assert_clients_sync(&server, &format!("back-{number}"));
    }
}

#[test]
fn a_redis_without_memory_does_not_matter() {
    let redis = Redis::start_with(&["--maxmemory-policy", "noeviction"]);
    let server = node(&redis).start();
    wait_until_ready(&server, true);
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused: Result<String, _> = redis::cmd("SET").arg("k").arg("v").query(&mut redis.connect());
    assert!(refused.is_err(), "Redis has memory left");
    assert_clients_sync(&server, "full");
    redis.cut("pubsub");
    redis.cut("normal");
    wait_until_ready(&server, true);
    assert_clients_sync(&server, "still-full");
    let other = node(&redis).start();
    wait_until_ready(&other, true);
    let mut reader = Client::connect(&other, Dialect::Sdk);
    reader.subscribe("crosses");
    Client::connect(&server, Dialect::Goc).write_acked("crosses", json!({"a": 7}));
    assert_eq!(reader.take_field("crosses", "a")["value"], 7);
}

/// A node that does not read is cut off by Redis, for which what waits for it is too much; it notices and is told all.
#[test]
fn a_node_cut_off_as_a_slow_consumer_gets_what_it_missed() {
    const WRITES: usize = 1_000;
    const FIELDS: usize = 20;
    let limit = ["--client-output-buffer-limit", "pubsub", "1mb", "512kb", "1"];
    let redis = Redis::start_with(&limit);
    let [fast, slow] = [(); 2].map(|()| node(&redis).start());
    [&fast, &slow]
        .into_iter()
        .for_each(|server| wait_until_ready(server, true));
    let (mut writer, mut reader) = (
        Client::connect(&fast, Dialect::Json),
        Client::connect(&slow, Dialect::Binary),
    );
    reader.subscribe("d");
    writer.write_acked("d", json!({"first": 1}));
    reader.take_field("d", "first");
    let before = slow.metric("bus_reconnects_total");
    slow.signal("STOP");
    // Far more than the kernel keeps for a socket.
    let filling = "x".repeat(20_000);
    for number in 0..WRITES {
        writer.write_acked(
            "d",
            json!({ format!("f{}", number % FIELDS): format!("{number} {filling}") }),
        );
    }
    slow.signal("CONT");
    let deadline = Instant::now() + PATIENT;
    while slow.metric("bus_reconnects_total") == before {
        assert!(Instant::now() < deadline, "Redis never cut it off");
        std::thread::sleep(Duration::from_millis(20));
    }
    let is_last = |value: &Value, field: usize| {
        let text = value.as_str().unwrap_or_default();
        text.split(' ').next() == Some(&format!("{}", WRITES - FIELDS + field))
    };
    let deadline = Instant::now() + PATIENT;
    loop {
        let state = reader.sync("d")["state"].clone();
        if (0..FIELDS).all(|field| is_last(&state[format!("f{field}")], field)) {
            break;
        }
        assert!(Instant::now() < deadline, "what was missed never came");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn wrong_settings_are_refused_by_name_and_without_secrets() {
    for (name, value) in [
        ("REDIS_URL", "http://:hunter2@localhost"),
        ("REDIS_URL", "redis+sentinel://:hunter2@nobody"),
        ("ConnectionStrings__redis", "localhost:6379,password=hunter2"),
        ("REDIS_CHANNEL_PREFIX", "star*"),
        ("SYNCKIT_DIGEST_INTERVAL", "soon"),
        ("SYNCKIT_NODE_ID", "no spaces"),
        ("SYNCKIT_REDIS_BRIDGE", "java"),
    ] {
        let (status, log) = Server::with().env(name, value).refuses();
        assert_eq!(status.code(), Some(1), "{name}");
        let shown = if name == "ConnectionStrings__redis" {
            name
        } else {
            name.split('=').next().unwrap_or(name)
        };
        assert!(log.contains(shown) && !log.contains("hunter2"), "{log}");
    }
    let redis = Redis::start_with(&["--requirepass", "hunter2"]);
    let server = Server::with()
        .env("REDIS_URL", format!("redis://:hunter2@127.0.0.1:{}", redis.port()))
        .env("RUST_LOG", "debug")
        .start();
    wait_until_ready(&server, true);
    let log = server.log();
    assert!(
        log.contains("cluster, memory-only") && log.contains("127.0.0.1") && !log.contains("hunter2"),
        "{log}"
    );
    let wrong = Server::with()
        .env("REDIS_URL", format!("redis://:hunter3@127.0.0.1:{}", redis.port()))
        .start();
    wait_until_ready(&wrong, false);
    assert!(
        wrong.log().contains("WRONGPASS") && !wrong.log().contains("hunter3"),
        "{}",
        wrong.log()
    );
}
