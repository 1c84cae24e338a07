//! Responses, and what every one of them carries (docs/protocol.md §16.5).

use super::request::{Head, Method};
use crate::config::CorsOrigins;
use serde::Serialize;
use std::borrow::Cow;

/// An answer, not yet bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Vec<u8>,
    closes: bool,
    /// Instead of [`POLICY`].
    policy: Option<String>,
}

/// The policy of every response that is no page: nothing is allowed.
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
/// Header lines of every response.
const SECURITY_HEADERS: &str = "X-Content-Type-Options: nosniff\r\n\
    X-Frame-Options: DENY\r\n\
    X-XSS-Protection: 1; mode=block\r\n\
    Referrer-Policy: strict-origin-when-cross-origin\r\n";

impl Response {
    /// A JSON body.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("bodies are built from strings, numbers and JSON values");
        Self::new(status, "application/json; charset=utf-8", body)
    }

    /// A body that is JSON already.
    pub fn encoded_json(status: u16, body: Vec<u8>) -> Self {
        Self::new(status, "application/json; charset=utf-8", body)
    }

    /// `{"error": text}`.
    pub fn error(status: u16, text: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": text }))
    }

    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.into().into_bytes())
    }

    /// No body.
    pub fn empty(status: u16) -> Self {
        Self::new(status, "", Vec::new())
    }

    fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self {
            status,
            content_type,
            headers: Vec::new(),
            body,
            closes: false,
            policy: None,
        }
    }

    /// With the content security policy of a page. `policy` must come from this program, like every header.
    pub fn with_policy(self, policy: String) -> Self {
        assert!(!policy.contains(['\r', '\n']), "a header value never holds line ends");
        Self {
            policy: Some(policy),
            ..self
        }
    }

    /// With another header line. `value` must come from this program: line ends in it would split the response.
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        let value = value.into();
        assert!(!value.contains(['\r', '\n']), "a header value never holds line ends");
        self.headers.push((name, value));
        self
    }

    /// With another content type.
    pub fn with_content_type(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }

    /// Ends the connection whatever the client wanted.
    pub fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body before a `HEAD` request takes it away.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// A header that was added.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_ref())
    }

    /// Whether the connection must be closed after this answer.
    pub fn closes(&self, framing: &Framing) -> bool {
        self.closes || !framing.keep_alive
    }

    /// The bytes to send.
    pub fn encode(&self, framing: &Framing) -> Vec<u8> {
        use std::fmt::Write as _;
        let mut head = String::with_capacity(640);
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            head.write_fmt(arguments)
                .and_then(|()| head.write_str("\r\n"))
                .expect("writing to a String never fails");
        };
        line(format_args!("HTTP/1.1 {} {}", self.status, reason(self.status)));
        // RFC 9110 §8.6: 204 has no Content-Length.
        if self.status != 204 {
            line(format_args!("Content-Length: {}", self.body.len()));
        }
        if !self.content_type.is_empty() {
            line(format_args!("Content-Type: {}", self.content_type));
        }
        match (self.closes(framing), framing.http_1_0) {
            (true, _) => line(format_args!("Connection: close")),
            (false, true) => line(format_args!("Connection: keep-alive")),
            (false, false) => {}
        }
        match &framing.cors {
            Cors::Everybody => line(format_args!("Access-Control-Allow-Origin: *")),
            Cors::Origin(origin) => {
                line(format_args!("Access-Control-Allow-Origin: {origin}"));
                line(format_args!("Access-Control-Allow-Credentials: true"));
                line(format_args!("Vary: Origin"));
            }
            Cors::Nobody => line(format_args!("Vary: Origin")),
        }
        for (name, value) in &self.headers {
            line(format_args!("{name}: {value}"));
        }
        line(format_args!(
            "Content-Security-Policy: {}",
            self.policy.as_deref().unwrap_or(POLICY)
        ));
        head.push_str(SECURITY_HEADERS);
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !framing.head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// What a request says about the form of its answer. Small, so that it can wait while shards are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    head_only: bool,
    keep_alive: bool,
    http_1_0: bool,
    cors: Cors,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cors {
    Everybody,
    /// The spelling of the configuration, never the bytes of the request.
    Origin(String),
    Nobody,
}

impl Framing {
    /// The framing for an answer to `head`.
    pub fn new(head: &Head, origins: &CorsOrigins) -> Self {
        let cors = match (origins, head.header("origin")) {
            (CorsOrigins::Any, _) => Cors::Everybody,
            (CorsOrigins::List(list), Some(origin)) => {
                let listed = list.iter().find(|listed| listed.eq_ignore_ascii_case(origin));
                listed.map_or(Cors::Nobody, |listed| Cors::Origin(listed.clone()))
            }
            (CorsOrigins::List(_), None) => Cors::Nobody,
        };
        let head_only = head.method == Method::Head;
        Self {
            head_only,
            keep_alive: head.keep_alive,
            http_1_0: head.http_1_0,
            cors,
        }
    }

    /// The framing for the answer to something that could not be parsed: say it and close.
    pub fn closing(origins: &CorsOrigins) -> Self {
        let cors = if *origins == CorsOrigins::Any {
            Cors::Everybody
        } else {
            Cors::Nobody
        };
        Self {
            head_only: false,
            keep_alive: false,
            http_1_0: false,
            cors,
        }
    }

    /// Whether the connection stays open, if the response does not close it.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }
}

/// What to send when [`Head::expects_continue`] before reading the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(response: &Response, request: &str, origins: &CorsOrigins) -> String {
        let head = Head::parse(request.as_bytes()).unwrap().unwrap();
        String::from_utf8(response.encode(&Framing::new(&head, origins))).unwrap()
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    #[test]
    fn every_response_carries_length_and_security_headers() {
        let text = encoded(&Response::error(404, "Not found"), GET, &CorsOrigins::Any);
        assert!(
            text.starts_with("HTTP/1.1 404 Not Found\r\nContent-Length: 21\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n{\"error\":\"Not found\"}"));
        for line in SECURITY_HEADERS.split_terminator("\r\n").chain([
            "Access-Control-Allow-Origin: *",
            "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
        ]) {
            assert_eq!(text.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line}");
        }
        assert!(
            !text.contains("Allow-Credentials"),
            "credentials and * exclude each other"
        );
    }

    #[test]
    fn head_gets_the_length_but_no_body() {
        let text = encoded(
            &Response::text(200, "hello"),
            "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
            &CorsOrigins::Any,
        );
        assert!(text.contains("Content-Length: 5\r\n") && text.ends_with("\r\n\r\n"));
        assert!(!encoded(&Response::empty(204), GET, &CorsOrigins::Any).contains("Content-Length"));
    }

    #[test]
    fn a_listed_origin_is_echoed_and_another_is_not() {
        let origins = CorsOrigins::List(vec!["https://a.example".into()]);
        let from = |origin: &str| {
            let request = format!("GET / HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n");
            encoded(&Response::text(200, ""), &request, &origins)
        };
        let good = from("https://A.example");
        assert!(good.contains("Access-Control-Allow-Origin: https://a.example\r\n"));
        assert!(good.contains("Access-Control-Allow-Credentials: true\r\n") && good.contains("Vary: Origin\r\n"));
        let bad = from("https://a.example.evil");
        assert!(!bad.contains("Access-Control") && bad.contains("Vary: Origin\r\n"));
    }

    #[test]
    fn the_connection_header_follows_request_and_response() {
        let of =
            |response: &Response, line: &str| encoded(response, &format!("GET / {line}\r\n\r\n"), &CorsOrigins::Any);
        let fine = Response::text(200, "");
        assert!(!of(&fine, "HTTP/1.1\r\nHost: h").contains("Connection:"));
        assert!(of(&fine, "HTTP/1.0\r\nConnection: keep-alive").contains("Connection: keep-alive\r\n"));
        assert!(of(&fine, "HTTP/1.0").contains("Connection: close\r\n"));
        assert!(of(&fine.closing(), "HTTP/1.1\r\nHost: h").contains("Connection: close\r\n"));
    }
}
