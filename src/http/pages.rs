//! The two pages of this server: `/dashboard` for operators and `/demo` for developers.
//!
//! Each is one response with everything in it. Its policy names its script and its style by their hashes and lets it talk
//! to this server only, so that nothing else ever runs in it or leaves it. The dashboard's page holds no data; what it
//! shows it asks for at `/dashboard/…`, which is for administrators ([`may_watch`]).

use super::address::client_address;
use super::api::Api;
use super::request::Head;
use super::response::Response;
use super::routes::{Answer, Question, bearer_identity};
use crate::clock::Now;
use base64::Engine as _;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::OnceLock;

/// Longest part of a document's id that is searched for.
const SEARCH_BYTES_MAX: usize = 256;

struct Page {
    body: String,
    policy: String,
}

impl Page {
    fn new(frame: &str, style: &str, script: &str) -> Page {
        let hash = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text.as_bytes()));
        Page {
            policy: format!(
                "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
                 base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                hash(script),
                hash(style)
            ),
            body: frame.replacen("/*style*/", style, 1).replacen("/*script*/", script, 1),
        }
    }

    fn response(&self) -> Response {
        Response::text(200, self.body.clone())
            .with_content_type("text/html; charset=utf-8")
            .with_policy(self.policy.clone())
            .with_header("Cache-Control", "no-cache")
    }
}

/// `GET /dashboard`.
pub(super) fn dashboard() -> Response {
    static PAGE: OnceLock<Page> = OnceLock::new();
    PAGE.get_or_init(|| {
        Page::new(
            include_str!("pages/dashboard.html"),
            include_str!("pages/dashboard.css"),
            include_str!("pages/dashboard.js"),
        )
    })
    .response()
}

/// `GET /demo`.
pub(super) fn demo() -> Response {
    static PAGE: OnceLock<Page> = OnceLock::new();
    PAGE.get_or_init(|| {
        let script = concat!(include_str!("pages/text.js"), include_str!("pages/demo.js"));
        Page::new(include_str!("pages/demo.html"), include_str!("pages/demo.css"), script)
    })
    .response()
}

/// `GET /dashboard/…`.
pub(super) fn facts(head: &Head, what: &str, peer: IpAddr, api: &Api, now: Now) -> Option<Answer> {
    let question = match what {
        "data" => Question::Overview,
        "documents" => {
            let search = head.query.value("q").unwrap_or_default();
            if search.len() > SEARCH_BYTES_MAX {
                return Some(Answer::Respond(Response::error(400, "Search text too long")));
            }
            Question::FindDocuments { search }
        }
        "document" => Question::Document {
            id: head.query.value("id").unwrap_or_default(),
        },
        _ => return None,
    };
    Some(match may_watch(head, peer, api, now) {
        Ok(()) => Answer::Ask(question),
        Err(refused) => Answer::Respond(refused),
    })
}

/// An administrator's token, or, in development, the machine itself: a page of another site that reaches this port through
/// somebody's browser names its origin, and a proxy names the client.
fn may_watch(head: &Head, peer: IpAddr, api: &Api, now: Now) -> Result<(), Response> {
    let refused = match bearer_identity(head, api, now) {
        Ok(identity) if identity.permissions.is_admin() => return Ok(()),
        Ok(_) => super::answers::permission_denied(),
        Err(refused) => refused,
    };
    let host = head.header("host").unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_here = peer.is_loopback()
        && client_address(peer, head, &api.http.trusted_proxies).is_loopback()
        && head.header("x-forwarded-for").is_none()
        && head.header("forwarded").is_none()
        && matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    let is_own_page = head
        .header("origin")
        .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, from)| from == host));
    let is_local = api.development && is_here && is_own_page && head.header("authorization").is_none();
    if is_local { Ok(()) } else { Err(refused) }
}
