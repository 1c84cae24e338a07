//! The decision whether a request may become a WebSocket (docs/protocol.md §1, §7.6, §16.5; RFC 6455 §4.2.1).

use super::address::client_address;
use super::api::Api;
use super::request::{Head, Method};
use super::response::Response;
use crate::config::CorsOrigins;
use crate::websocket::{Deflate, extension};
use base64::Engine as _;
use std::fmt;
use std::net::IpAddr;

/// A request that may be upgraded. The handshake's answer is made by the websocket room from `key`.
#[derive(Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The client after trusted-proxy rules; count it with [`super::AddressGroup::of`].
    pub address: IpAddr,
    /// `Sec-WebSocket-Key`, checked to be 16 bytes in base64.
    pub key: String,
    /// The token of the `Authorization` header or the query; not checked yet. Never log it.
    pub token: Option<String>,
    /// The document the client says it will work on: a routing hint, not checked.
    pub doc: Option<String>,
    /// The compression agreed on.
    pub deflate: Option<Deflate>,
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Upgrade");
        shown
            .field("address", &self.address)
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

/// `GET /ws`.
pub(super) fn decide(head: &Head, peer: IpAddr, api: &Api) -> Result<Upgrade, Response> {
    let key = upgrade_key(head)?.to_owned();
    if let (CorsOrigins::List(list), Some(origin)) = (&api.http.cors_origins, head.header("origin"))
        && !list.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    {
        return Err(Response::error(403, "Origin not allowed").closing());
    }
    Ok(Upgrade {
        address: client_address(peer, head, &api.http.trusted_proxies),
        key,
        token: bearer(head)
            .or_else(|| head.query.value("token").filter(|_| api.url_token))
            .filter(|t| !t.is_empty()),
        doc: head.query.value("doc").filter(|doc| !doc.is_empty()),
        deflate: match api.http.compression {
            true => extension::negotiate(head.headers("sec-websocket-extensions")),
            false => None,
        },
    })
}

/// The key of a request that is a valid WebSocket handshake (RFC 6455 §4.2.1), or the response that refuses it.
pub fn upgrade_key(head: &Head) -> Result<&str, Response> {
    let wants_websocket = head.lists("upgrade", "websocket") && head.lists("connection", "upgrade");
    if head.method != Method::Get || head.http_1_0 || !wants_websocket {
        return Err(Response::text(400, "WebSocket connections only"));
    }
    if head.header("sec-websocket-version") != Some("13") {
        return Err(Response::error(426, "WebSocket version 13 required").with_header("Sec-WebSocket-Version", "13"));
    }
    let mut keys = head.headers("sec-websocket-key");
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key) => Ok(key),
        _ => Err(Response::error(400, "Invalid Sec-WebSocket-Key").closing()),
    }
}

/// The token of `Authorization: Bearer`. Another scheme is not ours: a proxy's Basic login must not end the connection.
fn bearer(head: &Head) -> Option<String> {
    let (scheme, token) = head.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn is_key(key: &str) -> bool {
    // Sixteen bytes are 24 characters; the check of the length keeps the decoder from long input.
    key.len() == 24
        && base64::engine::general_purpose::STANDARD
            .decode(key)
            .is_ok_and(|bytes| bytes.len() == 16)
}
