//! How single values are written: numbers, durations, switches, lists, hosts. Each parser returns what it would have
//! accepted, so the error can tell the operator.

use super::network::Network;
use super::settings::{ApiKey, CorsOrigins, DemoLogin, DocumentPolicy, Environment, RateLimitMode, Role, SocketChoice};
use std::net::{IpAddr, Ipv4Addr};

/// What a parser would have accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected(pub(super) String);

fn expected<T>(what: &str) -> Result<T, Expected> {
    Err(Expected(what.to_owned()))
}

/// A whole number from `min` to `max`.
pub(super) fn number(text: &str, min: u64, max: u64) -> Result<u64, Expected> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(value) if digits && (min..=max).contains(&value) => Ok(value),
        _ => Err(Expected(format!("a whole number from {min} to {max}"))),
    }
}

/// A number of bytes, optionally with a unit: `16777216`, `16MiB`, `2MB`, `64k`. Bare `k`, `m`, `g` are binary.
pub(super) fn bytes(text: &str, min: u64, max: u64) -> Result<u64, Expected> {
    let refusal = || {
        Expected(format!(
            "a number of bytes from {min} to {max}, like 2000000, 16MiB or 2MB"
        ))
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u64 = text[..digits].parse().map_err(|_| refusal())?;
    let unit: u64 = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(refusal()),
    };
    count
        .checked_mul(unit)
        .filter(|size| (min..=max).contains(size))
        .ok_or_else(refusal)
}

/// A token's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) seconds: u64,
    /// Written without unit, which other servers of the family read as milliseconds.
    pub(super) bare: bool,
}

/// Longest life that is accepted. Ten years is a typo away from "for ever", but some installations want it.
const LIFE_MAX_S: u64 = 10 * 365 * 86_400;

/// `number + ms|s|m|h|d|w|y`, or bare digits meaning seconds (docs/protocol.md §16.2). At least one second.
pub(super) fn life(text: &str) -> Result<Life, Expected> {
    let refusal = || Expected("a duration from 1s to 10y: digits and ms, s, m, h, d, w or y, like 24h".to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u64 = text[..digits].parse().map_err(|_| refusal())?;
    let unit = text[digits..].trim();
    let milliseconds_per_unit: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        "y" => 365 * 86_400_000,
        _ => return Err(refusal()),
    };
    let seconds = count.checked_mul(milliseconds_per_unit).ok_or_else(refusal)? / 1000;
    if (1..=LIFE_MAX_S).contains(&seconds) {
        Ok(Life {
            seconds,
            bare: unit.is_empty(),
        })
    } else {
        Err(refusal())
    }
}

/// A duration as `JWT_EXPIRES_IN` takes it, in seconds; for command-line arguments.
///
/// # Errors
/// What would have been accepted.
pub fn duration_s(text: &str) -> Result<u64, String> {
    life(text).map(|life| life.seconds).map_err(|expected| expected.0)
}

/// An on/off switch.
pub(super) fn switch(text: &str) -> Result<bool, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => expected("true or false (also 1, 0, yes, no, on, off)"),
    }
}

/// An address to listen on.
pub(super) fn host(text: &str) -> Result<IpAddr, Expected> {
    match text {
        "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        "*" | "+" => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        _ => {
            let bare = text
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .unwrap_or(text);
            bare.parse()
                .or_else(|_| expected("an IP address like 0.0.0.0 or ::, or localhost"))
        }
    }
}

/// `http://host:port[/ws]`, the C# server's way to say where to listen.
pub(super) fn server_url(text: &str) -> Result<(IpAddr, u16), Expected> {
    let refusal = || Expected("http://host:port or http://host:port/ws, with an IP address or localhost".to_owned());
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("ws://"))
        .ok_or_else(refusal)?;
    let authority = rest
        .strip_suffix("/ws")
        .or_else(|| rest.strip_suffix('/'))
        .unwrap_or(rest);
    let (name, port) = authority.rsplit_once(':').ok_or_else(refusal)?;
    let port = number(port, 0, 65_535).map_err(|_| refusal())?;
    Ok((host(name).map_err(|_| refusal())?, port as u16))
}

pub(super) fn environment(text: &str) -> Result<Environment, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "development" | "dev" => Ok(Environment::Development),
        "test" => Ok(Environment::Test),
        "production" | "prod" => Ok(Environment::Production),
        _ => expected("development, test or production"),
    }
}

pub(super) fn demo_login(text: &str) -> Result<DemoLogin, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "off" => Ok(DemoLogin::Off),
        "user" => Ok(DemoLogin::User),
        "full" => Ok(DemoLogin::Full),
        _ => expected("off, user or full"),
    }
}

pub(super) fn document_policy(text: &str) -> Result<DocumentPolicy, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "open" => Ok(DocumentPolicy::Open),
        "demo" => Ok(DocumentPolicy::Demo),
        _ => expected("open or demo"),
    }
}

pub(super) fn rate_limit_mode(text: &str) -> Result<RateLimitMode, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "backpressure" => Ok(RateLimitMode::Backpressure),
        "reject" => Ok(RateLimitMode::Reject),
        _ => expected("backpressure or reject"),
    }
}

pub(super) fn sockets(text: &str) -> Result<SocketChoice, Expected> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(SocketChoice::Auto),
        "direct" => Ok(SocketChoice::Direct),
        "ordinary" => Ok(SocketChoice::Ordinary),
        _ => expected("auto, direct or ordinary"),
    }
}

/// Members of a comma list, trimmed, empty ones dropped.
fn members(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|member| !member.is_empty())
}

/// A comma list of address ranges.
pub(super) fn networks(text: &str) -> Result<Vec<Network>, Expected> {
    let parsed = members(text).map(Network::parse).collect::<Option<Vec<_>>>();
    parsed.map_or_else(
        || expected("a comma list of addresses or CIDR ranges, like 10.0.0.0/8,::1"),
        Ok,
    )
}

/// `*`, a comma list of origins, or a JSON list of them. A `*` anywhere in the list means everybody.
pub(super) fn cors_origins(text: &str) -> Result<CorsOrigins, Expected> {
    let accepted = "*, or a comma list (or JSON list) of origins like https://app.example.com";
    let written: Vec<String> = if text.starts_with('[') {
        serde_json::from_str(text).or_else(|_| expected(accepted))?
    } else {
        members(text).map(str::to_owned).collect()
    };
    if written.iter().any(|origin| origin == "*") {
        return Ok(CorsOrigins::Any);
    }
    // Browsers send an origin without a trailing slash; operators often copy one from the address bar.
    let origins: Vec<String> = written
        .iter()
        .map(|origin| origin.trim_end_matches('/').to_owned())
        .collect();
    if origins.is_empty() || !origins.iter().all(|origin| is_origin(origin)) {
        return expected(accepted);
    }
    Ok(CorsOrigins::List(origins))
}

fn is_origin(text: &str) -> bool {
    // "null" is what sandboxed frames send; an operator may want them.
    text == "null"
        || text.split_once("://").is_some_and(|(scheme, authority)| {
            let clean = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '"' | ',');
            !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
                && !authority.is_empty()
                && authority.chars().all(clean)
        })
}

/// A comma list of `key` or `key=role`. The last `=` splits, and only before a role: base64 keys end in `=`.
pub(super) fn api_keys(text: &str) -> Result<Vec<ApiKey>, Expected> {
    members(text)
        .map(|entry| {
            let (key, role) = match entry.rsplit_once('=') {
                None | Some((_, "")) => (entry, Role::Admin),
                Some((key, role)) => (key.trim_end(), self::role(role.trim_start())?),
            };
            if key.is_empty() {
                return expected("a comma list of key or key=role, role being admin, write or read");
            }
            Ok(ApiKey {
                key: key.to_owned(),
                role,
            })
        })
        .collect()
}

fn role(text: &str) -> Result<Role, Expected> {
    match text {
        "admin" => Ok(Role::Admin),
        "write" => Ok(Role::Write),
        "read" => Ok(Role::Read),
        _ => expected("a comma list of key or key=role, role being admin, write or read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let seconds = |text| life(text).map(|life| life.seconds).ok();
        assert_eq!(seconds("24h"), Some(86_400));
        assert_eq!(seconds("7d"), Some(604_800));
        assert_eq!(seconds("90"), Some(90));
        assert_eq!(seconds("5000ms"), Some(5));
        assert_eq!(seconds("1y"), Some(31_536_000));
        assert!(life("90").unwrap().bare && !life("90s").unwrap().bare);
        for bad in [
            "",
            "h",
            "0",
            "999ms",
            "-1h",
            "1.5h",
            "11y",
            "24 hours",
            "99999999999999999999h",
            "1H",
        ] {
            assert!(life(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("16MiB", 0, u64::MAX), Ok(16 << 20));
        assert_eq!(bytes("2mb", 0, u64::MAX), Ok(2_000_000));
        assert_eq!(bytes("64k", 0, u64::MAX), Ok(65_536));
        for bad in ["", "MiB", "1TiB", "99999999999999999999", "18446744073709551615k", "-1"] {
            assert!(bytes(bad, 0, u64::MAX).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_urls() {
        assert_eq!(host("[::1]").unwrap().to_string(), "::1");
        assert_eq!(
            server_url("http://localhost:9000/ws").unwrap(),
            ("127.0.0.1".parse().unwrap(), 9000)
        );
        assert_eq!(server_url("http://[::]:80").unwrap(), ("::".parse().unwrap(), 80));
        assert!(
            server_url("https://localhost:9000").is_err(),
            "TLS is not spoken, so https must not be accepted"
        );
        assert!(server_url("http://localhost").is_err());
        assert!(host("example.com").is_err());
    }

    #[test]
    fn origins() {
        assert_eq!(cors_origins("*"), Ok(CorsOrigins::Any));
        let two = CorsOrigins::List(vec!["https://a.example".into(), "http://localhost:3000".into()]);
        assert_eq!(
            cors_origins("https://a.example, http://localhost:3000/"),
            Ok(two.clone())
        );
        assert_eq!(
            cors_origins(r#"["https://a.example","http://localhost:3000"]"#),
            Ok(two)
        );
        for bad in ["a.example", "[1]", "https://a/b", "https://a\r\nx: y", ","] {
            assert!(cors_origins(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_with_roles() {
        let keys = api_keys("plain, writer=write,cmVhZA==,r=read,YQ===read").unwrap();
        let seen: Vec<_> = keys.iter().map(|key| (key.key.as_str(), key.role)).collect();
        let wanted = [
            ("plain", Role::Admin),
            ("writer", Role::Write),
            ("cmVhZA==", Role::Admin),
            ("r", Role::Read),
            ("YQ==", Role::Read),
        ];
        assert_eq!(seen, wanted);
        assert!(api_keys("key=owner").is_err());
        assert!(api_keys("=read").is_err());
    }

    proptest! {
        #[test]
        fn no_value_panics(text in "\\PC*") {
            let _ = (number(&text, 0, 9), bytes(&text, 0, 9), life(&text), switch(&text), host(&text));
            let _ = (server_url(&text), networks(&text), cors_origins(&text), api_keys(&text));
        }

        #[test]
        fn no_nearly_right_value_panics(text in "[0-9a-z\\[\\]:/.,=*\" é-]{0,24}") {
            let _ = (number(&text, 0, 9), bytes(&text, 0, 9), life(&text), switch(&text), host(&text));
            let _ = (server_url(&text), networks(&text), cors_origins(&text), api_keys(&text));
        }
    }
}
