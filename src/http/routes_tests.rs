//! The HTTP interface as a client meets it: requests in, decisions out.

use super::*;
use crate::auth::{Authenticator, Permissions, Subject, Users};
use crate::clock::Now;
use crate::config::{Config, Flags};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

const NOW: Now = Now {
    mono_us: 1_000_000,
    unix_ms: 1_800_000_000_500,
};
const PEER: &str = "203.0.113.9";

struct Server {
    api: Api,
    auth: Arc<Authenticator>,
}

fn server(variables: &[(&str, &str)]) -> Server {
    server_with(variables, None)
}

fn server_with(variables: &[(&str, &str)], users: Option<&str>) -> Server {
    let look_up = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let config = Config::from_env(look_up, &Flags::default()).unwrap();
    let auth = Arc::new(Authenticator::new(&config.auth, Vec::new()));
    let users = users.map(|text| Users::parse(text, false).unwrap());
    Server {
        api: Api::new(&config, Arc::clone(&auth), users),
        auth,
    }
}

impl Server {
    fn ask(&self, request: &str, body: &str) -> Answer {
        self.ask_at(request, body, PEER, NOW)
    }

    fn ask_at(&self, request: &str, body: &str, peer: &str, now: Now) -> Answer {
        let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
        let headers: String = headers.lines().map(|header| format!("{}\r\n", header.trim())).collect();
        let text = format!("{line} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        let head = Head::parse(text.as_bytes()).unwrap().unwrap();
        route(&head, body.as_bytes(), peer.parse::<IpAddr>().unwrap(), &self.api, now)
    }

    fn response(&self, request: &str, body: &str) -> Response {
        match self.ask(request, body) {
            Answer::Respond(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn json(&self, request: &str, body: &Value) -> (u16, Value) {
        let response = self.response(request, &body.to_string());
        (response.status(), serde_json::from_slice(response.body()).unwrap())
    }

    fn error(&self, request: &str, body: &str) -> (u16, String) {
        let response = self.response(request, body);
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        (response.status(), body["error"].as_str().unwrap_or_default().to_owned())
    }

    fn question(&self, request: &str) -> Question {
        match self.ask(request, "") {
            Answer::Ask(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn token(&self, read: &[&str], write: &[&str], admin: bool) -> String {
        let list = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let permissions = Permissions::new(list(read), list(write), admin, false);
        let subject = Subject {
            user_id: "u".into(),
            email: Some("e".into()),
            permissions,
            demo: false,
        };
        self.auth.issuer().access(&subject, NOW.unix_ms / 1000)
    }
}

fn error(status: u16, text: &str) -> (u16, String) {
    (status, text.to_owned())
}

#[test]
fn info_live_and_unknown_paths() {
    let server = server(&[]);
    let (status, body) = server.json("GET /", &json!(null));
    assert_eq!(
        (status, &body["version"], &body["endpoints"]["ws"]),
        (200, &json!("0.3.0"), &json!("/ws"))
    );
    assert_eq!(server.json("GET /health/live?x", &json!(null)).1["status"], "healthy");
    assert_eq!(server.error("GET /nothing", ""), error(404, "Not found"));
    assert_eq!(server.error("GET /auth/me/", ""), error(404, "Not found"));
    assert_eq!(server.error("GET /%ff", ""), error(404, "Not found"));
    assert_eq!(server.error("PUT /auth/login", ""), error(405, "Method not allowed"));
    assert_eq!(
        server.response("DELETE /rooms", "").header("allow"),
        Some("GET, HEAD, OPTIONS")
    );
    assert_eq!(server.error("POST /auth/login", "{"), error(400, "Invalid JSON"));
    assert!(matches!(
        server.ask("HEAD /health/ready", ""),
        Answer::Ask(Question::Ready)
    ));
    let preflight = server.response("OPTIONS /auth/login\nOrigin: https://a.example", "");
    assert_eq!(preflight.status(), 204);
    assert_eq!(
        preflight.header("access-control-allow-headers"),
        Some("Content-Type, Authorization")
    );
}

#[test]
fn health_details_need_the_flag_or_an_admin() {
    let closed = server(&[]);
    let asked = |server: &Server, token: &str| server.question(&format!("GET /health\nAuthorization: Bearer {token}"));
    assert_eq!(asked(&closed, "junk"), Question::Health { details: false });
    assert_eq!(
        asked(&closed, &closed.token(&["*"], &["*"], false)),
        Question::Health { details: false }
    );
    assert_eq!(
        asked(&closed, &closed.token(&[], &[], true)),
        Question::Health { details: true }
    );
    let open = server(&[("SYNCKIT_HEALTH_DETAILS", "true")]);
    assert_eq!(open.question("GET /health"), Question::Health { details: true });
    let document_list = vec![DocumentFacts {
        id: "secret-doc".into(),
        ..DocumentFacts::default()
    }];
    let facts = HealthFacts {
        documents: 1,
        document_list,
        uptime_ms: 1500,
        ..HealthFacts::default()
    };
    let hidden: Value = serde_json::from_slice(answers::health(&facts, false, 0).body()).unwrap();
    assert_eq!(hidden["documents"], json!({"totalDocuments": 1, "documents": []}));
    assert_eq!(
        (&hidden["uptime"], &hidden["storage"]),
        (&json!(1.5), &json!("memory-only"))
    );
    let shown: Value = serde_json::from_slice(answers::health(&facts, true, 0).body()).unwrap();
    assert_eq!(shown["documents"]["documents"][0]["id"], "secret-doc");
}

#[test]
fn metrics_need_an_admin_unless_public() {
    let server_closed = server(&[]);
    assert_eq!(
        server_closed.error("GET /metrics", ""),
        error(401, "Missing Authorization header")
    );
    let user = format!(
        "GET /metrics\nAuthorization: Bearer {}",
        server_closed.token(&["*"], &["*"], false)
    );
    assert_eq!(server_closed.error(&user, ""), error(403, "Permission denied"));
    let admin = format!(
        "GET /metrics\nAuthorization: Bearer {}",
        server_closed.token(&[], &[], true)
    );
    assert_eq!(server_closed.question(&admin), Question::Metrics { prometheus: false });
    let public = server(&[("SYNCKIT_METRICS_PUBLIC", "1")]);
    assert_eq!(
        public.question("GET /metrics?format=prometheus"),
        Question::Metrics { prometheus: true }
    );
    assert_eq!(
        public.question("GET /metrics\nAccept: text/plain;q=1"),
        Question::Metrics { prometheus: true }
    );
    let body: Value = serde_json::from_slice(answers::metrics_json(&MetricsFacts::default(), None).body()).unwrap();
    assert_eq!(body["send"]["dropRate"], json!(0.0));
}

#[test]
fn test_endpoints_exist_only_when_switched_on() {
    let off = server(&[]);
    assert_eq!(off.error("POST /_test/clear", ""), error(404, "Not found"));
    assert_eq!(off.error("POST /metrics/reset", ""), error(404, "Not found"));
    let on = server(&[("SYNCKIT_TEST_ENDPOINTS", "true")]);
    assert_eq!(on.question("POST /_test/clear"), Question::Clear);
    assert_eq!(on.question("POST /metrics/reset"), Question::MetricsReset);
    assert_eq!(on.error("GET /_test/clear", "").0, 405);
}

#[test]
fn the_demo_login_gives_what_is_asked_but_never_admin() {
    let server_user = server(&[]);
    let wished = json!({"canRead": ["a"], "canWrite": ["b"], "isAdmin": true});
    let login = json!({"email": "e@x", "password": "p", "permissions": wished});
    let (status, body) = server_user.json("POST /auth/login", &login);
    assert_eq!(
        (status, &body["userId"], &body["email"]),
        (200, &json!("user-1800000000500"), &json!("e@x"))
    );
    assert_eq!(
        body["permissions"],
        json!({"canRead": ["a"], "canWrite": ["b"], "isAdmin": false})
    );
    let token = body["accessToken"].as_str().unwrap();
    let identity = server_user.auth.verifier().access(token, NOW.unix_ms / 1000).unwrap();
    assert!(identity.permissions.can_write("b") && !identity.permissions.is_admin());
    assert_eq!(identity.proof(), crate::auth::Proof::DemoToken);
    let full = server(&[("SYNCKIT_DEMO_LOGIN", "full")]);
    assert_eq!(
        full.json("POST /auth/login", &login).1["permissions"]["isAdmin"],
        json!(true)
    );
    let off = server(&[("SYNCKIT_DEMO_LOGIN", "off")]);
    assert_eq!(
        off.error("POST /auth/login", &login.to_string()),
        error(403, "Login is disabled")
    );
    for incomplete in [
        json!({}),
        json!([]),
        json!({"email": "e"}),
        json!({"email": "", "password": "p"}),
        json!({"email": 1, "password": "p"}),
    ] {
        let wanted = error(400, "Email and password required");
        assert_eq!(
            server_user.error("POST /auth/login", &incomplete.to_string()),
            wanted,
            "{incomplete}"
        );
    }
}

#[test]
fn accounts_replace_the_demo_login_and_are_limited() {
    let hash = bcrypt::hash("right", 4).unwrap();
    let server = server_with(&[("TRUSTED_PROXIES", "10.0.0.1")], Some(&format!("ann:{hash}:write")));
    let Answer::Blocking(work) = server.ask("POST /auth/login", r#"{"email":"ann","password":"right"}"#) else {
        panic!()
    };
    assert!(!format!("{work:?}").contains("right"));
    let response = server.api.login_finished(work.run(), NOW);
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!((response.status(), &body["userId"]), (200, &json!("ann")));
    let Answer::Blocking(work) = server.ask("POST /auth/login", r#"{"email":"ann","password":"wrong"}"#) else {
        panic!()
    };
    let refused = server.api.login_finished(work.run(), NOW);
    assert_eq!(
        (refused.status(), refused.body()),
        (401, br#"{"error":"Invalid credentials"}"#.as_slice())
    );

    let attempt = |email: &str, from: &str| {
        let body = json!({"email": email, "password": "x"}).to_string();
        matches!(
            server.ask_at(
                &format!("POST /auth/login\nX-Forwarded-For: {from}"),
                &body,
                "10.0.0.1",
                NOW
            ),
            Answer::Blocking(_)
        )
    };
    assert!((0..8).all(|n| attempt(&n.to_string(), PEER)), "two of ten are used");
    assert!(!attempt("other", PEER), "the address is used up, whatever the account");
    let granted = (0..20).filter(|n| attempt("Bob", &format!("198.51.100.{n}"))).count();
    assert_eq!(granted, 10, "the account is used up, wherever from");
}

#[test]
fn refresh_tokens_rotate_and_betray_their_theft() {
    let server = server(&[]);
    let login = json!({"email": "e", "password": "p", "permissions": {"canRead": ["a"]}});
    let (_, body) = server.json("POST /auth/login", &login);
    let refresh = |token: &Value, seconds: u64| {
        let now = Now {
            unix_ms: NOW.unix_ms + seconds * 1000,
            ..NOW
        };
        let body = json!({ "refreshToken": token }).to_string();
        let Answer::Respond(response) = server.ask_at("POST /auth/refresh", &body, PEER, now) else {
            panic!()
        };
        (
            response.status(),
            serde_json::from_slice::<Value>(response.body()).unwrap(),
        )
    };
    let first = &body["refreshToken"];
    let (status, second) = refresh(first, 1);
    assert_eq!(status, 200);
    let access = second["accessToken"].as_str().unwrap();
    assert!(
        server
            .auth
            .verifier()
            .access(access, NOW.unix_ms / 1000)
            .unwrap()
            .permissions
            .can_read("a")
    );
    assert_eq!(refresh(first, 60).0, 401, "used before");
    let stolen = refresh(&second["refreshToken"], 61);
    assert_eq!(
        stolen,
        (401, json!({"error": "Invalid or expired refresh token"})),
        "the login has ended"
    );
    assert_eq!(
        refresh(&body["accessToken"], 1).0,
        401,
        "an access token refreshes nothing"
    );
    assert_eq!(
        refresh(&json!(""), 1),
        (400, json!({"error": "Refresh token required"}))
    );
}

#[test]
fn a_refresh_follows_what_the_operator_changed() {
    let secret = ("JWT_SECRET", "a-long-enough-secret-for-hs256-tokens-0123456789");
    let before = server(&[secret, ("SYNCKIT_DEMO_LOGIN", "full")]);
    let login = json!({"email": "ann", "password": "p", "permissions": {"isAdmin": true}});
    let refresh = json!({"refreshToken": before.json("POST /auth/login", &login).1["refreshToken"]});
    let is_admin = |server: &Server| {
        let (status, body) = server.json("POST /auth/refresh", &refresh);
        let access = body["accessToken"].as_str()?.to_owned();
        assert_eq!(status, 200);
        Some(
            server
                .auth
                .verifier()
                .access(&access, NOW.unix_ms / 1000)
                .unwrap()
                .permissions
                .is_admin(),
        )
    };
    assert_eq!(is_admin(&before), Some(true));
    assert_eq!(
        is_admin(&server(&[secret])),
        Some(false),
        "the demo login gives no admin any more"
    );
    assert_eq!(is_admin(&server(&[secret, ("SYNCKIT_DEMO_LOGIN", "off")])), None);
    let hash = bcrypt::hash("p", 4).unwrap();
    assert_eq!(
        is_admin(&server_with(&[secret], Some(&format!("ann:{hash}:read")))),
        Some(false)
    );
    assert_eq!(
        is_admin(&server_with(&[secret], Some(&format!("bob:{hash}:admin")))),
        None,
        "no such account"
    );
}

#[test]
fn me_and_verify() {
    let server = server(&[]);
    let token = server.token(&["a"], &[], false);
    let me = |header: &str| server.error(&format!("GET /auth/me\n{header}"), "");
    assert_eq!(me("X: y"), error(401, "Missing Authorization header"));
    assert_eq!(
        me(&format!("Authorization: {token}")),
        error(401, "Invalid Authorization header format")
    );
    assert_eq!(
        me("Authorization: Basic abc"),
        error(401, "Invalid Authorization header format")
    );
    assert_eq!(me("Authorization: Bearer abc"), error(401, "Invalid or expired token"));
    let (status, body) = server.json(&format!("GET /auth/me\nAuthorization: bearer {token}"), &json!(null));
    let permissions = json!({"canRead": ["a"], "canWrite": [], "isAdmin": false});
    assert_eq!(
        (status, body),
        (200, json!({"userId": "u", "email": "e", "permissions": permissions}))
    );
    let (_, body) = server.json("POST /auth/verify", &json!({ "token": token }));
    assert_eq!(
        body,
        json!({"valid": true, "userId": "u", "expiresAt": 1_800_000_000 + 86_400})
    );
    assert_eq!(
        server.json("POST /auth/verify", &json!({"token": "x"})).1["valid"],
        json!(false)
    );
    assert_eq!(server.error("POST /auth/verify", ""), error(400, "Token required"));
}

const UPGRADE: &str = "Connection: keep-alive, Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

#[test]
fn upgrades_carry_token_and_document() {
    let server_open = server(&[]);
    let upgrade =
        |server: &Server, target: &str, more: &str| match server.ask(&format!("GET {target}\n{UPGRADE}\n{more}"), "") {
            Answer::Upgrade(upgrade) => upgrade,
            other => panic!("{other:?}"),
        };
    let found = upgrade(&server_open, "/ws?token=a.b.c&doc=room%3A1", "");
    assert_eq!(
        (found.token.as_deref(), found.doc.as_deref()),
        (Some("a.b.c"), Some("room:1"))
    );
    assert_eq!(found.address.to_string(), PEER);
    assert!(!format!("{found:?}").contains("a.b.c"));
    assert_eq!(
        upgrade(&server_open, "/ws?token=q", "Authorization: Bearer h")
            .token
            .as_deref(),
        Some("h")
    );
    assert_eq!(upgrade(&server_open, "/ws", "Authorization: Basic h").token, None);
    assert_eq!(
        upgrade(&server(&[("SYNCKIT_URL_TOKEN", "false")]), "/ws?token=q", "").token,
        None
    );
}

#[test]
fn what_is_no_upgrade_is_told_so() {
    let server_open = server(&[]);
    for request in [
        "GET /ws",
        "POST /ws",
        "GET /ws\nUpgrade: websocket",
        "GET /ws\nConnection: Upgrade\nUpgrade: h2c",
    ] {
        let response = server_open.response(request, "");
        assert_eq!(
            (response.status(), response.body()),
            (400, b"WebSocket connections only".as_slice()),
            "{request}"
        );
    }
    let old = server_open.response(&format!("GET /ws\n{}", UPGRADE.replace("13", "8")), "");
    assert_eq!((old.status(), old.header("Sec-WebSocket-Version")), (426, Some("13")));
    let bad_key = UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short");
    assert_eq!(server_open.response(&format!("GET /ws\n{bad_key}"), "").status(), 400);
    let listed = server(&[("CORS_ORIGINS", "https://a.example")]);
    let from = |origin: &str| listed.ask(&format!("GET /ws\n{UPGRADE}\n{origin}"), "");
    assert!(matches!(from("Origin: https://evil.example"), Answer::Respond(response) if response.status() == 403));
    assert!(matches!(from("Origin: https://a.example"), Answer::Upgrade(_)));
    assert!(matches!(from("X: no origin"), Answer::Upgrade(_)));
}

#[test]
fn http_is_limited_per_client_but_not_health_and_upgrades() {
    let server = server(&[("RATE_LIMIT_PER_MINUTE", "5")]);
    let status = |request: &str, peer: &str| match server.ask_at(request, "", peer, NOW) {
        Answer::Respond(response) => response.status(),
        _ => 0,
    };
    assert!((0..5).all(|_| status("GET /", PEER) == 200));
    let forged = "GET /\nX-Forwarded-For: 198.51.100.1";
    assert_eq!(status(forged, PEER), 429, "a forged header buys nothing");
    let refused = server.response("GET /nothing", "");
    assert_eq!((refused.status(), refused.header("Retry-After")), (429, Some("12")));
    assert_eq!(refused.body(), b"Rate limit exceeded. Try again later.");
    assert_eq!(status("GET /", "198.51.100.1"), 200);
    assert_eq!(status("GET /health/live", PEER), 200);
    assert!(matches!(
        server.ask(&format!("GET /ws\n{UPGRADE}"), ""),
        Answer::Upgrade(_)
    ));
    let later = Now {
        mono_us: NOW.mono_us + 12_000_000,
        ..NOW
    };
    assert!(matches!(server.ask_at("GET /", "", PEER, later), Answer::Respond(response) if response.status() == 200));
}

const ID: &str = "0123ABCD-0000-4000-8000-000000000000";

#[test]
fn snapshots_ask_for_the_right_permission() {
    let server = server(&[]);
    let reader = server.token(&["room:1"], &[], false);
    let writer = server.token(&[], &["room:1"], false);
    let with = |request: &str, token: &str| server.ask(&format!("{request}\nAuthorization: Bearer {token}"), "");
    let refused = |answer: Answer| match answer {
        Answer::Respond(response) => response.status(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        server.error("GET /snapshots/room:1", ""),
        error(401, "Missing Authorization header")
    );
    let document = || "room:1".to_owned();
    let list = |limit| Question::SnapshotList {
        document: document(),
        limit,
    };
    assert!(matches!(with("GET /snapshots/room%3A1", &reader), Answer::Ask(q) if q == list(10)));
    assert!(matches!(with("GET /snapshots/room:1?limit=1000", &reader), Answer::Ask(q) if q == list(100)));
    assert!(matches!(with("GET /snapshots/room:1?limit=0", &reader), Answer::Ask(q) if q == list(1)));
    assert!(matches!(
        with("GET /snapshots/room:1/latest", &reader),
        Answer::Ask(Question::SnapshotLatest { .. })
    ));
    assert!(matches!(
        with("POST /snapshots/room:1", &writer),
        Answer::Ask(Question::SnapshotCreate { .. })
    ));
    assert_eq!(refused(with("POST /snapshots/room:1", &reader)), 403);
    assert_eq!(refused(with("GET /snapshots/room:1", &writer)), 403);
    assert_eq!(refused(with("GET /snapshots/a%2Fb", &reader)), 400);
    assert_eq!(refused(with("GET /snapshots/id", &reader)), 404);
    assert_eq!(refused(with("GET /snapshots/id/not-a-uuid", &reader)), 404);
    assert_eq!(refused(with("PUT /snapshots/room:1", &writer)), 405);
    assert_eq!(refused(with("POST /snapshots/room:1/latest", &writer)), 405);

    let Answer::Ask(Question::SnapshotRead { id, identity }) = with(&format!("GET /snapshots/id/{ID}"), &reader) else {
        panic!()
    };
    assert_eq!(id, ID.to_lowercase());
    let snapshot = SnapshotFacts {
        id,
        document: document(),
        version: json!({"c": 1}),
        size_bytes: 2,
        created_at_unix_ms: 0,
        state: "{\"a\":1}".into(),
    };
    assert_eq!(answers::snapshot_read(Some(&snapshot), &identity).status(), 200);
    let foreign = SnapshotFacts {
        document: "other".into(),
        ..snapshot.clone()
    };
    assert_eq!(answers::snapshot_read(Some(&foreign), &identity).status(), 403);
    assert_eq!(answers::snapshot_read(None, &identity).status(), 404);
    assert_eq!(
        answers::check_snapshot_delete(Some("room:1"), &identity)
            .unwrap_err()
            .status(),
        403
    );
    let Answer::Ask(Question::SnapshotDelete { identity, .. }) = with(&format!("DELETE /snapshots/id/{ID}"), &writer)
    else {
        panic!()
    };
    assert_eq!(answers::check_snapshot_delete(Some("room:1"), &identity), Ok(()));
    let listed: Value = serde_json::from_slice(answers::snapshot_list("room:1", &[snapshot]).body()).unwrap();
    assert_eq!(
        (&listed["count"], listed["snapshots"][0].get("state")),
        (&json!(1), None)
    );
}

#[test]
fn snapshots_without_authentication_are_open_except_deletion() {
    let off = ("SYNCKIT_AUTH_REQUIRED", "false");
    let open = server(&[off]);
    assert!(matches!(
        open.question("POST /snapshots/a"),
        Question::SnapshotCreate { .. }
    ));
    assert!(matches!(
        open.question(&format!("GET /snapshots/id/{ID}")),
        Question::SnapshotRead { .. }
    ));
    assert_eq!(
        open.error(&format!("DELETE /snapshots/id/{ID}"), ""),
        error(403, "Permission denied")
    );
    assert_eq!(open.error("POST /snapshots/a\nAuthorization: Bearer junk", "").0, 401);
    let allowed = server(&[off, ("SYNCKIT_ANONYMOUS_SNAPSHOT_DELETE", "true")]);
    assert!(matches!(
        allowed.question(&format!("DELETE /snapshots/id/{ID}")),
        Question::SnapshotDelete { .. }
    ));
    let without = server(&[off, ("SYNCKIT_MEMORY_SNAPSHOTS", "false")]);
    assert_eq!(
        without.error("GET /snapshots/a", ""),
        error(503, "Snapshot storage not configured")
    );
    let demo = server(&[off, ("SYNCKIT_DOCUMENT_POLICY", "demo")]);
    assert_eq!(
        demo.error("GET /snapshots/doc1", ""),
        error(403, "Access denied to this document")
    );
}

#[test]
fn rooms_are_documents_with_that_prefix() {
    assert_eq!(server(&[]).question("GET /rooms"), Question::Rooms);
    assert_eq!(
        server(&[("SYNCKIT_ROOMS_ENDPOINT", "off")]).error("GET /rooms", "").0,
        404
    );
    let document = |id: &str| DocumentFacts {
        id: id.to_owned(),
        subscribers: 2,
        last_modified_unix_ms: 7,
    };
    let all = [
        document("room:a"),
        document("room:a:text:b"),
        document("doc"),
        document("wordwall"),
    ];
    let body: Value = serde_json::from_slice(answers::rooms(&all, 5).body()).unwrap();
    let shown = |id: &str| json!({"id": id, "subscriberCount": 2, "lastModified": 7});
    let wanted = json!({"rooms": [shown("a")], "totalConnections": 5, "totalRooms": 1, "wordwall": shown("wordwall")});
    assert_eq!(body, wanted);
}
