//! Which request gets which answer (docs/protocol.md §16).

use super::address::{AddressGroup, client_address};
use super::answers::{permission_denied, readiness, snapshot_missing};
use super::api::Api;
use super::request::{Head, Method};
use super::response::Response;
use super::upgrade::Upgrade;
use super::{login, pages, percent, upgrade};
use crate::auth::{Identity, LoginWork, Proof};
use crate::clock::Now;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// The protocol family's version; the program's own is `serverVersion`.
pub(super) const FAMILY_VERSION: &str = "0.3.0";
/// Snapshots in a list: default and most.
const LIST_DEFAULT: usize = 10;
const LIST_MAX: usize = 100;

/// What to do about a request.
#[derive(Debug)]
pub enum Answer {
    /// Send this.
    Respond(Response),
    /// Make it a WebSocket.
    Upgrade(Upgrade),
    /// Ask the shards and turn their facts into a response with [`super::answers`].
    Ask(Question),
    /// Run this where blocking is allowed and give the result to [`Api::login_finished`].
    Blocking(LoginWork),
}

/// What only the shards can answer or do. Permissions have been checked, except where a field says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `answers::health`.
    Health {
        /// Whether documents may be named.
        details: bool,
    },
    /// `answers::readiness`.
    Ready,
    /// `answers::rooms`.
    Rooms,
    /// `answers::metrics_json` or `answers::metrics_prometheus`.
    Metrics {
        /// Which of the two.
        prometheus: bool,
    },
    /// What the dashboard shows at a glance.
    Overview,
    /// Documents by a part of their id, for the dashboard.
    FindDocuments {
        /// That part; empty for all.
        search: String,
    },
    /// One document, for the dashboard.
    Document {
        /// Which.
        id: String,
    },
    /// Set all metrics to zero: `answers::metrics_were_reset`.
    MetricsReset,
    /// Delete everything: `answers::cleared`.
    Clear,
    /// `answers::snapshot_created`.
    SnapshotCreate {
        /// Of this document.
        document: String,
    },
    /// `answers::snapshot_latest`.
    SnapshotLatest {
        /// Of this document.
        document: String,
    },
    /// `answers::snapshot_list`.
    SnapshotList {
        /// Of this document.
        document: String,
        /// At most so many, newest first.
        limit: usize,
    },
    /// `answers::snapshot_read`, which checks the permission.
    SnapshotRead {
        /// The snapshot.
        id: String,
        /// Who wants it.
        identity: Arc<Identity>,
    },
    /// `answers::check_snapshot_delete`, then delete and `answers::snapshot_deleted`.
    SnapshotDelete {
        /// The snapshot.
        id: String,
        /// Who wants it gone.
        identity: Arc<Identity>,
    },
}

impl Question {
    /// One of §16.4.
    pub fn is_about_snapshots(&self) -> bool {
        self.snapshot_failure().is_some()
    }

    /// What is said when a question about snapshots cannot be answered.
    pub(super) fn snapshot_failure(&self) -> Option<&'static str> {
        match self {
            Question::SnapshotCreate { .. } => Some("Failed to create snapshot"),
            Question::SnapshotLatest { .. } | Question::SnapshotRead { .. } => Some("Failed to fetch snapshot"),
            Question::SnapshotList { .. } => Some("Failed to list snapshots"),
            Question::SnapshotDelete { .. } => Some("Failed to delete snapshot"),
            _ => None,
        }
    }
}

/// Decides about a complete request. `peer` is the other end of the socket.
pub fn route(head: &Head, body: &[u8], peer: IpAddr, api: &Api, now: Now) -> Answer {
    // The method that decides: HEAD is a GET whose body the framing takes away.
    let method = if head.method == Method::Head {
        Method::Get
    } else {
        head.method
    };
    let address = AddressGroup::of(client_address(peer, head, &api.http.trusted_proxies));
    let path = head.path.as_str();
    let free = matches!(path, "/ws" | "/health" | "/health/live" | "/health/ready");
    if !free && let Err(seconds) = api.count_request(address, now) {
        return Answer::Respond(too_many(seconds));
    }
    match path {
        _ if method == Method::Options => return Answer::Respond(preflight()),
        "/ws" => return upgrade::decide(head, peer, api).map_or_else(Answer::Respond, Answer::Upgrade),
        _ if free => return health(head, method, api, now),
        _ => {}
    }
    let segments: Option<Vec<String>> = path.split('/').skip(1).map(percent::decode).collect();
    let Some(segments) = segments else { return not_found() };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (method, segments.as_slice()) {
        (Method::Get, [""]) => Answer::Respond(info()),
        (Method::Post, ["auth", "login"]) => with_json(body, |body| login::login(body, address, api, now)),
        (Method::Post, ["auth", "refresh"]) => with_json(body, |body| Answer::Respond(login::refresh(body, api, now))),
        (Method::Post, ["auth", "verify"]) => with_json(body, |body| Answer::Respond(login::verify(body, api, now))),
        (Method::Get, ["auth", "me"]) => Answer::Respond(login::me(head, api, now)),
        (Method::Get, ["rooms"]) if api.http.rooms_endpoint => Answer::Ask(Question::Rooms),
        (Method::Get, ["metrics"]) => metrics(head, api, now),
        (Method::Get, ["dashboard"]) => Answer::Respond(pages::dashboard()),
        (Method::Get, ["dashboard", what]) => pages::facts(head, what, peer, api, now).unwrap_or_else(not_found),
        (Method::Get, ["demo"]) if api.development => Answer::Respond(pages::demo()),
        (Method::Post, ["metrics", "reset"]) if api.http.test_endpoints => Answer::Ask(Question::MetricsReset),
        (Method::Post, ["_test", "clear"]) if api.http.test_endpoints => Answer::Ask(Question::Clear),
        (_, ["snapshots", rest @ ..]) => snapshots(head, method, rest, api, now),
        (_, known) => allowed_methods(known, api).map_or_else(not_found, wrong_method),
    }
}

/// The method of a path that exists, for 405.
fn allowed_methods(segments: &[&str], api: &Api) -> Option<&'static str> {
    match segments {
        [""] | ["auth", "me"] | ["metrics"] | ["dashboard"] => Some("GET, HEAD, OPTIONS"),
        ["dashboard", "data" | "documents" | "document"] => Some("GET, HEAD, OPTIONS"),
        ["demo"] if api.development => Some("GET, HEAD, OPTIONS"),
        ["rooms"] if api.http.rooms_endpoint => Some("GET, HEAD, OPTIONS"),
        ["auth", "login" | "refresh" | "verify"] => Some("POST, OPTIONS"),
        ["metrics", "reset"] | ["_test", "clear"] if api.http.test_endpoints => Some("POST, OPTIONS"),
        _ => None,
    }
}

fn info() -> Response {
    let body = json!({
        "name": "SyncKit Server",
        "version": FAMILY_VERSION,
        "description": "Production-ready WebSocket sync server",
        "endpoints": { "health": "/health", "ws": "/ws", "auth": "/auth" },
        "features": {
            "websocket": "Real-time sync via WebSocket",
            "auth": "JWT authentication",
            "sync": "Delta-based document synchronization",
            "crdt": "LWW conflict resolution",
        },
        "implementation": env!("CARGO_PKG_NAME"),
        "serverVersion": env!("CARGO_PKG_VERSION"),
    });
    Response::json(200, &body)
}

fn preflight() -> Response {
    Response::empty(204)
        .with_header("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS")
        .with_header("Access-Control-Allow-Headers", "Content-Type, Authorization")
        .with_header("Access-Control-Max-Age", "86400")
}

fn health(head: &Head, method: Method, api: &Api, now: Now) -> Answer {
    match (method, head.path.as_str()) {
        (Method::Get, "/health") => {
            let admin = || bearer_identity(head, api, now).is_ok_and(|identity| identity.permissions.is_admin());
            Answer::Ask(Question::Health {
                details: api.http.health_details || admin(),
            })
        }
        (Method::Get, "/health/live") => Answer::Respond(readiness(true, 0.0)),
        (Method::Get, _) => Answer::Ask(Question::Ready),
        _ => wrong_method("GET, HEAD, OPTIONS"),
    }
}

fn metrics(head: &Head, api: &Api, now: Now) -> Answer {
    if !api.http.metrics_public {
        match bearer_identity(head, api, now) {
            Ok(identity) if identity.permissions.is_admin() => {}
            Ok(_) => return Answer::Respond(permission_denied()),
            Err(refused) => return Answer::Respond(refused),
        }
    }
    // Prometheus itself sends a list that begins with its own format, so looking for text/plain anywhere is right.
    let accepts_text = head
        .headers("accept")
        .any(|value| value.to_ascii_lowercase().contains("text/plain"));
    let prometheus = match head.query.value("format").as_deref() {
        Some(format) => format == "prometheus",
        None => accepts_text,
    };
    Answer::Ask(Question::Metrics { prometheus })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// `/snapshots…` (§16.4). A document called `id` cannot be listed: its path belongs to snapshot ids.
fn snapshots(head: &Head, method: Method, rest: &[&str], api: &Api, now: Now) -> Answer {
    let decided = match (method, rest) {
        (Method::Get, ["id", id]) => snapshot_by_id(head, id, Access::Read, api, now),
        (Method::Delete, ["id", id]) => snapshot_by_id(head, id, Access::Write, api, now),
        (_, ["id", _]) => return wrong_method("GET, HEAD, DELETE, OPTIONS"),
        (Method::Get, [document, "latest"]) => {
            document_access(head, document, Access::Read, api, now).map(|()| Question::SnapshotLatest {
                document: (*document).to_owned(),
            })
        }
        (_, [_, "latest"]) => return wrong_method("GET, HEAD, OPTIONS"),
        (_, ["id" | ""]) => return not_found(),
        (Method::Get, [document]) => {
            document_access(head, document, Access::Read, api, now).map(|()| Question::SnapshotList {
                document: (*document).to_owned(),
                limit: list_limit(head),
            })
        }
        (Method::Post, [document]) => {
            document_access(head, document, Access::Write, api, now).map(|()| Question::SnapshotCreate {
                document: (*document).to_owned(),
            })
        }
        (_, [_]) => return wrong_method("GET, HEAD, POST, OPTIONS"),
        _ => return not_found(),
    };
    decided.map_or_else(Answer::Respond, Answer::Ask)
}

fn list_limit(head: &Head) -> usize {
    let wanted = head.query.value("limit").and_then(|text| text.parse::<usize>().ok());
    wanted.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX)
}

fn snapshot_by_id(head: &Head, id: &str, access: Access, api: &Api, now: Now) -> Result<Question, Response> {
    let identity = snapshot_identity(head, api, now)?;
    if access == Access::Write && identity.proof() == Proof::Anonymous && !api.http.anonymous_snapshot_delete {
        return Err(permission_denied());
    }
    if !is_uuid(id) {
        return Err(snapshot_missing());
    }
    let id = id.to_ascii_lowercase();
    Ok(match access {
        Access::Read => Question::SnapshotRead { id, identity },
        Access::Write => Question::SnapshotDelete { id, identity },
    })
}

fn document_access(head: &Head, document: &str, access: Access, api: &Api, now: Now) -> Result<(), Response> {
    let identity = snapshot_identity(head, api, now)?;
    if let Err(error) = api.auth.check_document(document) {
        let status = if error == crate::auth::DocumentIdError::NotAllowed {
            403
        } else {
            400
        };
        return Err(Response::error(status, error.text(false)));
    }
    let permissions = &identity.permissions;
    let granted = match access {
        Access::Read => permissions.can_read(document),
        Access::Write => permissions.can_write(document),
    };
    if granted { Ok(()) } else { Err(permission_denied()) }
}

/// Who asks for snapshots: the bearer, or anybody while authentication is off. A token that was sent is always checked.
fn snapshot_identity(head: &Head, api: &Api, now: Now) -> Result<Arc<Identity>, Response> {
    if !api.http.memory_snapshots {
        return Err(Response::error(503, "Snapshot storage not configured"));
    }
    if !api.auth.is_required() && head.header("authorization").is_none() {
        return Ok(Arc::clone(api.auth.anonymous()));
    }
    bearer_identity(head, api, now).map(Arc::new)
}

/// The identity of `Authorization: Bearer <token>`, or the 401 to answer.
pub(super) fn bearer_identity(head: &Head, api: &Api, now: Now) -> Result<Identity, Response> {
    bearer_with_email(head, api, now).map(|(identity, _)| identity)
}

/// The same with the e-mail address in the token.
pub(super) fn bearer_with_email(head: &Head, api: &Api, now: Now) -> Result<(Identity, Option<String>), Response> {
    let refused = |text| Response::error(401, text).with_header("WWW-Authenticate", "Bearer");
    let header = head
        .header("authorization")
        .ok_or_else(|| refused("Missing Authorization header"))?;
    let token = match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => token.trim(),
        _ => return Err(refused("Invalid Authorization header format")),
    };
    api.auth
        .verifier()
        .access_with_email(token, now.unix_ms / 1000)
        .map_err(|_| refused("Invalid or expired token"))
}

/// 429, the same text for every limit.
pub(super) fn too_many(seconds: u64) -> Response {
    Response::text(429, "Rate limit exceeded. Try again later.").with_header("Retry-After", seconds.to_string())
}

/// Parses the body; an empty one counts as `{}`.
fn with_json(body: &[u8], act: impl FnOnce(&Value) -> Answer) -> Answer {
    let body = if body.is_empty() {
        Ok(json!({}))
    } else {
        // Decodes in place, so it gets a copy.
        simd_json::serde::from_slice(&mut body.to_vec())
    };
    match body {
        Ok(body) => act(&body),
        Err(_) => Answer::Respond(Response::error(400, "Invalid JSON")),
    }
}

fn not_found() -> Answer {
    Answer::Respond(Response::error(404, "Not found"))
}

fn wrong_method(allowed: &'static str) -> Answer {
    Answer::Respond(Response::error(405, "Method not allowed").with_header("Allow", allowed))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
