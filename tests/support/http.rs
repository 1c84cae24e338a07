//! HTTP/1.1 as plainly as possible: one request per connection.

use super::{PATIENCE, Steady};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::SocketAddr;

/// A complete answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// Body without transfer coding.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON; checks the content type too.
    pub fn json(&self) -> Value {
        let content_type = self.header("content-type").unwrap_or_default();
        assert!(
            content_type.starts_with("application/json"),
            "content type {content_type:?}: {self:?}"
        );
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Sends one request and reads the answer to its end.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            head.push_str("Content-Type: application/json\r\n");
        }
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    exchange(address, &bytes)
}

/// Sends bytes as they are and reads one answer.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Response {
    let mut stream = Steady::connect(address, PATIENCE).expect("the server accepts");
    // A server may answer (413) and close before it took everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(_) if is_complete(&answer) => break,
            Err(error) => panic!(
                "no complete HTTP answer ({error}): {}",
                String::from_utf8_lossy(&answer)
            ),
        }
        if is_complete(&answer) {
            break;
        }
    }
    parse(&answer)
}

fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = head_end(answer) else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    match head.lines().find_map(|line| line.strip_prefix("content-length:")) {
        Some(length) => length
            .trim()
            .parse::<usize>()
            .is_ok_and(|length| answer.len() >= end + 4 + length),
        None => head.starts_with("http/1.1 204") || head.starts_with("http/1.1 101"),
    }
}

fn head_end(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|window| window == b"\r\n\r\n")
}

fn parse(answer: &[u8]) -> Response {
    let end = head_end(answer).unwrap_or_else(|| panic!("no HTTP head: {:?}", String::from_utf8_lossy(answer)));
    let head = std::str::from_utf8(&answer[..end]).expect("a head in UTF-8");
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("header without colon: {line}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let mut response = Response {
        status: status.unwrap_or_else(|| panic!("status line {status_line:?}")),
        headers,
        body: answer[end + 4..].to_vec(),
    };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = unchunk(&response.body);
    } else if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().expect("a content length");
        assert!(
            response.body.len() >= length,
            "body cut short: {} of {length} bytes",
            response.body.len()
        );
        response.body.truncate(length);
    }
    response
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = rest
            .windows(2)
            .position(|window| window == b"\r\n")
            .expect("a chunk size line");
        let digits = std::str::from_utf8(&rest[..line]).expect("digits");
        let size = usize::from_str_radix(digits.split(';').next().unwrap_or_default(), 16).expect("a chunk size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 4 + size..];
    }
}
