//! The HTTP API of docs/protocol.md §16: information, health, metrics, rooms, CORS, security headers, and the errors
//! for unknown paths, wrong methods, broken and oversized bodies.

use test_support as support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::client::Options;
use support::{Client, Dialect, Server, http, token};

#[test]
fn the_root_describes_the_server() {
    let server = Server::start();
    let answer = server.get("/");
    assert_eq!(answer.status, 200);
    let info = answer.json();
    assert_eq!(
        (&info["name"], &info["version"]),
        (&json!("SyncKit Server"), &json!("0.3.0"))
    );
    assert_eq!(
        info["endpoints"],
        json!({"health": "/health", "ws": "/ws", "auth": "/auth"})
    );
    assert_eq!(
        info["features"],
        json!({"websocket": "Real-time sync via WebSocket", "auth": "JWT authentication",
            "sync": "Delta-based document synchronization", "crdt": "LWW conflict resolution"})
    );
    assert!(
        info["serverVersion"].is_string() && info["implementation"].is_string(),
        "{info}"
    );
}

#[test]
fn health_counts_connections_and_documents() {
    let server = Server::with().shards(3).start();
    let before = server.get("/health").json();
    assert_eq!(
        (&before["status"], &before["version"]),
        (&json!("healthy"), &json!("0.3.0"))
    );
    assert_eq!(
        (&before["storage"], &before["pubsub"]),
        (&json!("memory-only"), &json!("single-instance"))
    );
    assert!(before["uptime"].is_number());
    let timestamp = before["timestamp"].as_str().expect("ISO 8601");
    assert!(
        timestamp.len() >= 20 && timestamp.ends_with('Z') && timestamp.as_bytes()[10] == b'T',
        "{timestamp}"
    );
    assert_eq!(before["connections"]["totalConnections"], 0);

    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(&server, Dialect::Json)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_acked(&format!("doc:{number}"), json!({"a": 1}));
    }
    let health = support::eventually("all five are counted", || {
        let health = server.get("/health").json();
        (health["connections"]["totalConnections"] == 5).then_some(health)
    });
    assert_eq!(health["documents"]["totalDocuments"], 5);
    assert_eq!(health["documents"]["documents"], json!([]), "ids are not published");
    assert!(health["connections"]["totalUsers"].is_u64() && health["connections"]["totalClients"].is_u64());
}

#[test]
fn health_details_can_be_switched_on_or_asked_for_by_an_admin() {
    let server = Server::with().env("SYNCKIT_HEALTH_DETAILS", "true").start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("doc", json!({"a": 1}));
    let documents = server.get("/health").json()["documents"]["documents"].clone();
    assert_eq!(
        (&documents[0]["id"], &documents[0]["subscribers"]),
        (&json!("doc"), &json!(1))
    );
    assert!((documents[0]["lastModified"].as_i64().expect("Unix ms") - support::unix_ms()).abs() < 60_000);

    let server = Server::with().auth().start();
    let bearer = format!("Bearer {}", token::admin());
    let mut client = Client::connect(&server, Dialect::Json);
    client.authenticate(&token::admin());
    client.write_acked("doc", json!({"a": 1}));
    let details = |headers: &[(&str, &str)]| {
        server.request("GET", "/health", headers, "").json()["documents"]["documents"].clone()
    };
    assert_eq!(details(&[("Authorization", &bearer)])[0]["id"], "doc");
    assert_eq!(details(&[]), json!([]));
}

#[test]
fn live_and_ready() {
    let server = Server::start();
    for path in ["/health/live", "/health/ready"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.json()["status"], "healthy");
        assert!(answer.json()["duration"].is_number());
    }
}

#[test]
fn health_answers_under_load() {
    let server = Server::with().env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0).start();
    let mut client = Client::connect(&server, Dialect::Json);
    let mut slowest = Duration::ZERO;
    for round in 0..40 {
        for number in 0..50 {
            client.write("busy", json!({ format!("f{number}"): round }));
        }
        let began = Instant::now();
        assert_eq!(server.get("/health").status, 200);
        slowest = slowest.max(began.elapsed());
    }
    println!("slowest /health under load: {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

const METRICS: [(&str, &[&str]); 8] = [
    ("deltas", &["received", "broadcast", "dropped", "convergence"]),
    ("acks", &["sent", "received"]),
    (
        "latency",
        &["avgBroadcastMs", "maxBroadcastMs", "avgProcessingMs", "maxProcessingMs"],
    ),
    ("queue", &["avgDepth", "maxDepth"]),
    (
        "broadcast",
        &[
            "count",
            "totalTimeMs",
            "avgTimeMs",
            "maxTimeMs",
            "messagesSent",
            "messagesFailed",
        ],
    ),
    (
        "send",
        &[
            "attempts",
            "successes",
            "dropped",
            "totalTimeMs",
            "maxTimeMs",
            "avgQueueDepth",
            "maxQueueDepth",
            "dropRate",
        ],
    ),
    (
        "sendTiming",
        &[
            "samples",
            "avgSerializeUs",
            "maxSerializeUs",
            "avgSemaphoreWaitUs",
            "maxSemaphoreWaitUs",
        ],
    ),
    (
        "sendTiming",
        &[
            "avgWebSocketSendUs",
            "maxWebSocketSendUs",
            "pendingSends",
            "maxPendingSends",
        ],
    ),
];

#[test]
fn metrics_have_all_their_numbers() {
    let server = Server::with().env("SYNCKIT_METRICS_PUBLIC", "true").shards(2).start();
    let mut client = Client::connect(&server, Dialect::Json);
    for number in 0..5 {
        client.write_acked("doc", json!({ "n": number }));
    }
    client.say("ack", json!({"messageId": "x"}));
    client.fence();
    let metrics = server.get("/metrics").json();
    for (group, names) in METRICS {
        for name in names {
            assert!(metrics[group][name].is_number(), "{group}.{name}: {metrics}");
        }
    }
    assert_eq!(metrics["deltas"]["received"], 5);
    assert_eq!(
        (&metrics["acks"]["sent"], &metrics["acks"]["received"]),
        (&json!(5), &json!(1))
    );
    for answer in [
        server.get("/metrics?format=prometheus"),
        server.request("GET", "/metrics", &[("Accept", "text/plain")], ""),
    ] {
        assert!(
            answer
                .header("content-type")
                .is_some_and(|it| it.starts_with("text/plain")),
            "{answer:?}"
        );
        assert!(
            answer
                .text()
                .lines()
                .any(|line| !line.starts_with('#') && line.split(' ').count() >= 2)
        );
    }
}

#[test]
fn metrics_are_for_admins() {
    let server = Server::with().auth().start();
    assert_eq!(server.get("/metrics").status, 401);
    for (token, status) in [(token::admin(), 200), (token::token("ann", &["*"], &["*"]), 403)] {
        let bearer = format!("Bearer {token}");
        assert_eq!(
            server
                .request("GET", "/metrics", &[("Authorization", &bearer)], "")
                .status,
            status
        );
    }
}

#[test]
fn test_endpoints_exist_only_when_switched_on() {
    let server = Server::start();
    for path in ["/metrics/reset", "/_test/clear"] {
        assert_eq!(server.request("POST", path, &[], "").status, 404, "{path}");
    }
    let server = Server::with()
        .env("SYNCKIT_TEST_ENDPOINTS", "true")
        .env("SYNCKIT_METRICS_PUBLIC", "true")
        .shards(3)
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    for number in 0..6 {
        client.write_acked(&format!("doc:{number}"), json!({"a": 1}));
    }
    let reset = server.request("POST", "/metrics/reset", &[], "");
    assert_eq!((reset.status, reset.json()), (200, json!({"message": "Metrics reset"})));
    assert_eq!(server.get("/metrics").json()["deltas"]["received"], 0);
    let cleared = server.request("POST", "/_test/clear", &[], "");
    assert_eq!(
        (cleared.status, cleared.json()),
        (200, json!({"message": "Storage and metrics cleared"}))
    );
    client.fence();
    client.drain();
    let mut other = Client::connect(&server, Dialect::Json);
    for number in 0..6 {
        assert_eq!(other.sync(&format!("doc:{number}"))["state"], json!({}));
    }
    other.write_acked("doc:0", json!({"b": 1}));
    client.expect_silence();

    let (status, log) = Server::with()
        .auth()
        .env("NODE_ENV", "production")
        .env("SYNCKIT_TEST_ENDPOINTS", "true")
        .refuses();
    assert!(!status.success() && log.contains("SYNCKIT_TEST_ENDPOINTS"), "{log}");
}

#[test]
fn rooms_are_listed() {
    let server = Server::with().shards(3).start();
    let mut client = Client::connect(&server, Dialect::Json);
    for document in ["room:one", "room:two", "room:two:text:t", "other", "wordwall"] {
        client.write_acked(document, json!({"a": 1}));
    }
    let rooms = server.get("/rooms").json();
    let mut ids: Vec<&str> = rooms["rooms"]
        .as_array()
        .expect("rooms")
        .iter()
        .filter_map(|room| room["id"].as_str())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["one", "two"]);
    assert_eq!(
        (&rooms["totalRooms"], &rooms["totalConnections"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(
        (&rooms["wordwall"]["id"], &rooms["wordwall"]["subscriberCount"]),
        (&json!("wordwall"), &json!(1))
    );
    assert!(rooms["rooms"][0]["lastModified"].is_i64());

    let server = Server::with().env("SYNCKIT_ROOMS_ENDPOINT", "false").start();
    assert_eq!(server.get("/rooms").status, 404);
    assert_eq!(Server::start().get("/rooms").json()["wordwall"], Value::Null);
}

#[test]
fn unknown_paths_methods_and_bodies() {
    let server = Server::start();
    let missing = server.get("/nothing/here");
    assert_eq!((missing.status, missing.json()), (404, json!({"error": "Not found"})));
    for (method, path) in [
        ("DELETE", "/health"),
        ("POST", "/"),
        ("GET", "/auth/login"),
        ("PUT", "/rooms"),
    ] {
        assert_eq!(server.request(method, path, &[], "").status, 405, "{method} {path}");
    }
    let broken = server.request("POST", "/auth/verify", &[], "{not json");
    assert_eq!((broken.status, broken.json()), (400, json!({"error": "Invalid JSON"})));
    let large = format!(r#"{{"token":"{}"}}"#, "x".repeat(1024 * 1024));
    let refused = server.request("POST", "/auth/verify", &[], &large);
    assert_eq!(
        (refused.status, refused.json()),
        (413, json!({"error": "Payload too large"}))
    );
    assert_eq!(server.get("/health?with=query").status, 200);
}

#[test]
fn several_requests_may_use_one_connection() {
    let server = Server::start();
    let two =
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(http::exchange(server.address(), two).status, 200);
}

#[test]
fn every_answer_carries_the_security_headers() {
    let server = Server::start();
    for answer in [
        server.get("/"),
        server.get("/nothing"),
        server.request("POST", "/auth/verify", &[], "{"),
    ] {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("x-xss-protection", "1; mode=block"),
            ("referrer-policy", "strict-origin-when-cross-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{answer:?}");
        }
        assert!(answer.header("content-security-policy").is_some());
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(
            answer.header("access-control-allow-credentials"),
            None,
            "never with a star"
        );
    }
}

#[test]
fn a_list_of_origins_is_obeyed() {
    for list in [
        "https://a.example, https://b.example",
        r#"["https://a.example","https://b.example"]"#,
    ] {
        let server = Server::with().env("CORS_ORIGINS", list).start();
        let allowed = server.request("GET", "/health", &[("Origin", "https://b.example")], "");
        assert_eq!(allowed.header("access-control-allow-origin"), Some("https://b.example"));
        assert_eq!(allowed.header("access-control-allow-credentials"), Some("true"));
        assert!(allowed.header("vary").is_some_and(|vary| vary.contains("Origin")));
        let other = server.request("GET", "/health", &[("Origin", "https://evil.example")], "");
        assert_eq!(other.header("access-control-allow-origin"), None);

        let connect = |headers: &[(&str, &str)]| {
            Client::connect_with(
                server.address(),
                Dialect::Json,
                &Options {
                    headers,
                    ..Default::default()
                },
            )
            .map(|_| ())
        };
        assert_eq!(connect(&[("Origin", "https://evil.example")]), Err(403));
        assert_eq!(connect(&[("Origin", "https://a.example")]), Ok(()));
        assert_eq!(connect(&[]), Ok(()), "no browser, no origin");
    }
}

#[test]
fn preflight_requests_are_answered() {
    let server = Server::start();
    let headers = [
        ("Origin", "https://a.example"),
        ("Access-Control-Request-Method", "POST"),
    ];
    let answer = server.request("OPTIONS", "/auth/login", &headers, "");
    assert_eq!(answer.status, 204);
    let methods = answer.header("access-control-allow-methods").expect("methods");
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        assert!(methods.contains(method), "{methods}");
    }
    let allowed = answer
        .header("access-control-allow-headers")
        .expect("headers")
        .to_ascii_lowercase();
    assert!(
        allowed.contains("content-type") && allowed.contains("authorization"),
        "{allowed}"
    );
}

#[test]
fn too_many_requests_are_refused_except_for_health() {
    let server = Server::with()
        .env("RATE_LIMIT_PER_MINUTE", 10)
        .env("TRUSTED_PROXIES", "127.0.0.1")
        .start();
    let ask = |path: &str, address: &str| server.request("GET", path, &[("X-Forwarded-For", address)], "");
    let answers: Vec<_> = (0..15).map(|_| ask("/rooms", "203.0.113.7")).collect();
    let refused = answers.last().expect("fifteen");
    assert_eq!(
        (
            refused.status,
            refused.text().contains("Rate limit exceeded. Try again later.")
        ),
        (429, true)
    );
    assert!(
        refused
            .header("retry-after")
            .is_some_and(|seconds| seconds.parse::<u32>().is_ok()),
        "{refused:?}"
    );
    assert!(answers[..10].iter().all(|answer| answer.status == 200));
    assert_eq!(ask("/rooms", "203.0.113.8").status, 200, "others are not affected");
    assert!((0..20).all(|_| ask("/health", "203.0.113.7").status == 200));
}

#[test]
fn invalid_numbers_stop_the_server_from_starting() {
    for (name, value) in [
        ("SYNC_BATCH_DELAY", "fast"),
        ("WS_HEARTBEAT_INTERVAL", "30s"),
        ("SYNCKIT_MAX_MESSAGES_PER_MINUTE", "-1"),
        ("PORT", "70000"),
        ("TRUSTED_PROXIES", "everybody"),
    ] {
        let (status, log) = Server::with().env(name, value).refuses();
        assert!(!status.success() && log.contains(name), "{name}={value}: {log}");
    }
}

#[test]
fn the_configuration_is_printed_without_secrets() {
    let server = Server::with()
        .auth()
        .env("SYNCKIT_AUTH_APIKEYS", "a-very-secret-key-0123456789")
        .start();
    let log = server.log();
    assert!(
        !log.contains(token::SECRET) && !log.contains("a-very-secret-key"),
        "{log}"
    );
}
