//! The few plain HTTP requests of the tool: logging in, and reading the server's own metrics.

use crate::target::Target;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends one request and gives status and body.
///
/// # Errors
/// No connection, or an answer that is not HTTP.
pub fn request(target: &Target, method: &str, path: &str, token: Option<&str>, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&target.address, PATIENCE)
        .with_context(|| format!("no connection to {}", target.address))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let authorization = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}",
        target.host
    );
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    // A server that keeps the connection open although asked to close it ends the wait by the time-out.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("the answer is not HTTP")?;
    Ok((status, body.to_owned()))
}

/// Fetches an access token.
///
/// # Errors
/// The server refuses, or has no such endpoint.
pub fn login(target: &Target, email: &str, password: &str) -> Result<String> {
    let permissions = serde_json::json!({"canRead": ["*"], "canWrite": ["*"], "isAdmin": false});
    let body = serde_json::json!({"email": email, "password": password, "permissions": permissions});
    let (status, answer) = request(target, "POST", "/auth/login", None, &body.to_string())?;
    let json: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    match json["accessToken"].as_str() {
        Some(token) if status == 200 => Ok(token.to_owned()),
        _ => bail!("--login: the server answered {status}: {}", answer.trim()),
    }
}

/// The unlabelled figures of a Prometheus text.
pub fn prometheus_figures(text: &str) -> std::collections::BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.contains('{'))
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_without_labels_are_read() {
        let figures = prometheus_figures("# HELP a b\nsynckit_a 5\nsynckit_b{x=\"1\"} 7\nsynckit_c 1.5e3\nbroken\n");
        assert_eq!(figures.len(), 2);
        assert_eq!((figures["synckit_a"], figures["synckit_c"]), (5.0, 1500.0));
    }
}
