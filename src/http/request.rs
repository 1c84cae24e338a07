//! The head of an HTTP/1 request: parsed incrementally, checked strictly.
//!
//! httparse splits the bytes; this file adds what it leaves to its users, above all the rules against request smuggling
//! (RFC 9112 §6.3, §11.2). A head that is refused ends the connection, because what follows cannot be trusted.

use super::body::BODY_BYTES_MAX;
use super::percent::Query;
use super::response::Response;
use std::fmt;

/// Longest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header lines of a request.
pub const HEADERS_MAX: usize = 100;

/// Why a request is refused before its path matters. Always the peer's fault; the connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Not HTTP, or HTTP that could be read in two ways.
    #[error("Bad request")]
    Malformed,
    /// The head is longer than [`HEAD_BYTES_MAX`] or has more than [`HEADERS_MAX`] lines.
    #[error("Request header fields too large")]
    HeadTooLarge,
    /// The body is longer than [`BODY_BYTES_MAX`].
    #[error("Payload too large")]
    BodyTooLarge,
    /// A transfer coding other than `chunked`.
    #[error("Not implemented")]
    TransferCoding,
    /// `Expect` with anything but `100-continue`.
    #[error("Expectation failed")]
    Expectation,
    /// HTTP, but not version 1.
    #[error("HTTP version not supported")]
    Version,
}

impl HttpError {
    /// The answer to send before closing.
    pub fn response(self) -> Response {
        let status = match self {
            Self::Malformed => 400,
            Self::HeadTooLarge => 431,
            Self::BodyTooLarge => 413,
            Self::TransferCoding => 501,
            Self::Expectation => 417,
            Self::Version => 505,
        };
        Response::error(status, &self.to_string())
    }
}

/// A request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Read.
    Get,
    /// Read, but the answer is sent without its body.
    Head,
    /// Do.
    Post,
    /// Nothing here uses it.
    Put,
    /// Remove.
    Delete,
    /// Ask what a page may do (CORS preflight).
    Options,
    /// Anything else.
    Other,
}

/// How the end of the body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// That many bytes, at most [`BODY_BYTES_MAX`]; 0 when there is none.
    Bytes(usize),
    /// Chunks.
    Chunked,
}

/// A complete request head.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// What to do.
    pub method: Method,
    /// The path as sent, still percent-encoded, without the query.
    pub path: String,
    /// The query.
    pub query: Query,
    /// HTTP/1.0 instead of 1.1.
    pub http_1_0: bool,
    /// Where the body ends.
    pub body: BodyLength,
    /// Whether the connection may carry another request afterwards.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Bytes of the buffer that the head took.
    pub head_bytes: usize,
    headers: Vec<(String, String)>,
}

/// Header values and the query may hold tokens: neither is shown.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        let mut shown = f.debug_struct("Head");
        shown
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &names);
        shown.field("body", &self.body).finish_non_exhaustive()
    }
}

impl Head {
    /// Parses the head at the start of `buf`. `None`: more bytes are needed.
    ///
    /// # Errors
    /// The request is refused; answer [`HttpError::response`] and close.
    pub fn parse(buf: &[u8]) -> Result<Option<Self>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let head_bytes = match request.parse(&buf[..buf.len().min(HEAD_BYTES_MAX)]) {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) if buf.len() >= HEAD_BYTES_MAX => return Err(HttpError::HeadTooLarge),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HttpError::HeadTooLarge),
            Err(httparse::Error::Version) => return Err(HttpError::Version),
            Err(_) => return Err(HttpError::Malformed),
        };
        if has_bare_line_feed(&buf[..head_bytes]) {
            return Err(HttpError::Malformed);
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(HttpError::Malformed);
        };
        let headers: Vec<(String, String)> = request
            .headers
            .iter()
            .map(|header| {
                (
                    header.name.to_ascii_lowercase(),
                    String::from_utf8_lossy(header.value).trim().to_owned(),
                )
            })
            .collect();
        let (path, query) = split_target(target).ok_or(HttpError::Malformed)?;
        let mut head = Self {
            method: method_named(method),
            path: path.to_owned(),
            query: Query::new(query),
            http_1_0: version == 0,
            body: BodyLength::Bytes(0),
            keep_alive: false,
            expects_continue: false,
            head_bytes,
            headers,
        };
        head.check_host()?;
        head.body = head.body_length()?;
        head.keep_alive = head.lists("connection", "keep-alive") || !head.http_1_0;
        head.keep_alive &= !head.lists("connection", "close");
        head.expects_continue = head.expectation()?;
        Ok(Some(head))
    }

    /// The first header called `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// All headers called `name` (lower case), in order.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a comma-list header contains `member`, without regard to case.
    pub fn lists(&self, name: &str, member: &str) -> bool {
        self.headers(name)
            .flat_map(|value| value.split(','))
            .any(|one| one.trim().eq_ignore_ascii_case(member))
    }

    /// RFC 9112 §3.2: exactly one `Host` in HTTP/1.1, at most one in 1.0.
    fn check_host(&self) -> Result<(), HttpError> {
        match self.headers("host").count() {
            1 => Ok(()),
            0 if self.http_1_0 => Ok(()),
            _ => Err(HttpError::Malformed),
        }
    }

    fn body_length(&self) -> Result<BodyLength, HttpError> {
        let mut codings = self.headers("transfer-encoding");
        let mut lengths = self.headers("content-length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(BodyLength::Bytes(0)),
            // HTTP/1.0 has no chunks, so a proxy of that age in front would see another end of the body.
            (Some(_), Some(_)) => Err(HttpError::Malformed),
            (Some(_), None) if self.http_1_0 || codings.next().is_some() => Err(HttpError::Malformed),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(BodyLength::Chunked),
            (Some(_), None) => Err(HttpError::TransferCoding),
            // Even equal repetitions are refused: no client sends them, and proxies disagree about them.
            (None, Some(_)) if lengths.next().is_some() => Err(HttpError::Malformed),
            (None, Some(length)) => content_length(length),
        }
    }

    fn expectation(&self) -> Result<bool, HttpError> {
        match self.header("expect") {
            None => Ok(false),
            Some(_) if self.http_1_0 => Ok(false),
            Some(value) if value.eq_ignore_ascii_case("100-continue") => Ok(self.body != BodyLength::Bytes(0)),
            Some(_) => Err(HttpError::Expectation),
        }
    }
}

fn content_length(text: &str) -> Result<BodyLength, HttpError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HttpError::Malformed);
    }
    // More digits than fit are a length that is too large, not a malformed one.
    match text.parse::<usize>() {
        Ok(length) if length <= BODY_BYTES_MAX => Ok(BodyLength::Bytes(length)),
        _ => Err(HttpError::BodyTooLarge),
    }
}

/// httparse takes a lone line feed for a line end; a proxy in front may not, and then sees other lines.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|&byte| {
        let bare = byte == b'\n' && before != b'\r';
        before = byte;
        bare
    })
}

/// Path and query of an origin-form, absolute-form or `*` target (RFC 9112 §3.2).
fn split_target(target: &str) -> Option<(&str, &str)> {
    let local = match target.find("://") {
        _ if target.starts_with('/') || target == "*" => target,
        Some(at) if target[..at].eq_ignore_ascii_case("http") || target[..at].eq_ignore_ascii_case("ws") => {
            let rest = &target[at + 3..];
            rest.find(['/', '?']).map_or("/", |slash| &rest[slash..])
        }
        _ => return None,
    };
    let local = local.split_once('#').map_or(local, |(before, _)| before);
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    Some((if path.is_empty() { "/" } else { path }, query))
}

fn method_named(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<Head>, HttpError> {
        Head::parse(text.as_bytes())
    }

    fn head(text: &str) -> Head {
        parse(text).expect("accepted").expect("complete")
    }

    #[test]
    fn a_request_is_taken_apart() {
        let text = "GET /a%20b?doc=x&token=s%2B HTTP/1.1\r\nHost: h\r\nX-Thing:  v \r\nx-thing: w\r\n\r\nrest";
        let head = head(text);
        assert_eq!(
            (head.method, head.path.as_str(), head.keep_alive),
            (Method::Get, "/a%20b", true)
        );
        assert_eq!(head.query.value("token").as_deref(), Some("s+"));
        assert_eq!(head.headers("x-thing").collect::<Vec<_>>(), ["v", "w"]);
        assert_eq!(&text[head.head_bytes..], "rest");
        assert!(!format!("{head:?}").contains("s%2B"), "queries are not shown");
    }

    #[test]
    fn every_prefix_is_incomplete_and_not_an_error() {
        let text = "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{end}");
        }
        assert_eq!(head(text).body, BodyLength::Bytes(3));
    }

    #[test]
    fn smuggling_tricks_are_refused() {
        let refused = |lines: &str| {
            let outcome = parse(&format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n"));
            outcome.expect_err(lines)
        };
        for lines in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: ",
            "Content-Length : 1",
            "Content-Length\t: 1",
            " Content-Length: 1",
            "X: a\r\n folded",
            "X: a\r\n\tfolded",
            "X: a\nContent-Length: 1",
            "X: a\rContent-Length: 1",
            "X: a\0b",
            "X y: a",
            ": a",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Host: other",
        ] {
            assert_eq!(refused(lines), HttpError::Malformed, "{lines:?}");
        }
        for coding in [
            "gzip, chunked",
            "identity",
            "chunked, identity",
            "xchunked",
            "chunked;q=1",
            "\"chunked\"",
            "",
        ] {
            assert_eq!(
                refused(&format!("Transfer-Encoding: {coding}")),
                HttpError::TransferCoding,
                "{coding}"
            );
        }
        assert_eq!(parse("GET / HTTP/1.1\nHost: h\n\n"), Err(HttpError::Malformed));
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: h\r\n\n"), Err(HttpError::Malformed));
        assert_eq!(
            parse("GET / HTTP/1.1\r\n\r\n"),
            Err(HttpError::Malformed),
            "HTTP/1.1 needs a Host"
        );
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse(old), Err(HttpError::Malformed), "HTTP/1.0 knows no chunks");
    }

    #[test]
    fn limits_hold() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse(&long), Err(HttpError::HeadTooLarge));
        let lines = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert!(parse(&lines(HEADERS_MAX - 1)).is_ok());
        assert_eq!(parse(&lines(HEADERS_MAX)), Err(HttpError::HeadTooLarge));
        let body = |length: &str| {
            parse(&format!(
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"
            ))
        };
        assert!(body("1048576").is_ok());
        assert_eq!(body("1048577"), Err(HttpError::BodyTooLarge));
        assert_eq!(body("99999999999999999999999999"), Err(HttpError::BodyTooLarge));
        assert_eq!(parse("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), Err(HttpError::Version));
        assert_eq!(HttpError::BodyTooLarge.response().status(), 413);
    }

    #[test]
    fn connections_stay_open_when_both_sides_can() {
        let keeps = |line: &str| head(&format!("GET / {line}\r\n\r\n")).keep_alive;
        assert!(keeps("HTTP/1.1\r\nHost: h"));
        assert!(!keeps("HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, Close"));
        assert!(!keeps("HTTP/1.0"));
        assert!(keeps("HTTP/1.0\r\nConnection: Keep-Alive"));
        assert!(!keeps("HTTP/1.0\r\nConnection: keep-alive, close"));
    }

    #[test]
    fn expectations() {
        let with = |lines: &str| parse(&format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n"));
        assert!(
            with("Expect: 100-Continue\r\nContent-Length: 1")
                .unwrap()
                .unwrap()
                .expects_continue
        );
        assert!(
            !with("Expect: 100-continue").unwrap().unwrap().expects_continue,
            "no body to wait for"
        );
        assert_eq!(with("Expect: tea"), Err(HttpError::Expectation));
    }

    #[test]
    fn targets_come_in_three_forms() {
        let path = |target: &str| parse(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).map(|h| h.unwrap().path);
        assert_eq!(path("/x?y#z"), Ok("/x".to_owned()));
        assert_eq!(path("http://h:1/x?y"), Ok("/x".to_owned()));
        assert_eq!(path("HTTP://h"), Ok("/".to_owned()));
        assert_eq!(path("http://h?x=/y"), Ok("/".to_owned()));
        assert_eq!(path("*"), Ok("*".to_owned()));
        assert_eq!(path("/redirect?to=http://x/y"), Ok("/redirect".to_owned()));
        assert_eq!(path("h:443"), Err(HttpError::Malformed));
        assert_eq!(path("x"), Err(HttpError::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Head::parse(&bytes);
        }

        #[test]
        fn no_nearly_right_bytes_panic(lines in "(GET|POST|é) [/?a%=:]{0,9} HTTP/1.[01]\r?\n([A-Za-z-]{1,9}: ?[ -~]{0,20}\r?\n){0,4}\r\n") {
            if let Ok(Some(head)) = parse(&lines) {
                prop_assert!(head.head_bytes <= lines.len());
            }
        }
    }
}
