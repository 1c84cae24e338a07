//! `REDIS_URL`: what the `redis` crate reads, the addresses of sentinels, and TLS by rustls.

use crate::tls::client::{Trust, client_config};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;

const SENTINEL_PORT: u16 = 26_379;

/// Why a URL cannot be used. The operator's fault; the text holds nothing of the URL, which may contain a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisUrlError {
    /// It is no URL of a Redis.
    #[error("it is not a URL like redis://user:password@host:6379 ({0})")]
    Malformed(String),
    /// The list of sentinels or the name of the master is missing or wrong.
    #[error("it is not a URL like redis+sentinel://user:password@host:26379,host:26379/name-of-the-master")]
    Sentinels,
    /// The authorities for TLS cannot be read.
    #[error("{0}")]
    Certificates(String),
}

/// Where Redis is and how to get there.
#[derive(Clone)]
pub struct RedisAddress {
    pub(super) target: Target,
    pub(super) sentinels: Option<Sentinels>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// Who knows which server is the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sentinels {
    pub nodes: Vec<(String, u16)>,
    pub master: String,
}

impl RedisAddress {
    /// Reads `redis://`, `rediss://` (TLS), `unix://` and `redis+sentinel://`. For TLS, `?sslrootcert=FILE` names the
    /// authorities instead of the system's, and `#insecure` takes every certificate.
    pub fn parse(url: &str) -> Result<RedisAddress, RedisUrlError> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let (sentinels, url) = match scheme.strip_suffix("+sentinel") {
            Some(scheme) => {
                let (sentinels, plain) = sentinels(scheme, rest)?;
                (Some(sentinels), plain)
            }
            None => (None, url.to_owned()),
        };
        let (url, authorities) = without_authorities(&url);
        let info: ConnectionInfo = url
            .as_str()
            .into_connection_info()
            .map_err(|error| RedisUrlError::Malformed(error.to_string()))?;
        let (target, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (Target::Tcp(host.clone(), *port), None),
            ConnectionAddr::TcpTls {
                host, port, insecure, ..
            } => {
                let trust = match insecure {
                    true => Trust::Everything,
                    false => Trust::Host(authorities.as_deref()),
                };
                let tls = client_config(trust).map_err(RedisUrlError::Certificates)?;
                (Target::Tcp(host.clone(), *port), Some(Arc::new(tls)))
            }
            ConnectionAddr::Unix(path) => (Target::Unix(path.clone()), None),
            _ => return Err(RedisUrlError::Malformed("unknown kind of address".to_owned())),
        };
        let settings = info.redis_settings();
        Ok(RedisAddress {
            target,
            sentinels,
            tls,
            username: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
        })
    }

    /// Where Redis is, without user and password.
    pub fn place(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        match (&self.sentinels, &self.target) {
            (Some(sentinels), _) => {
                let nodes: Vec<String> = sentinels
                    .nodes
                    .iter()
                    .map(|(host, port)| format!("{host}:{port}"))
                    .collect();
                format!("{scheme}+sentinel://{}/{}", nodes.join(","), sentinels.master)
            }
            (None, Target::Tcp(host, port)) => format!("{scheme}://{host}:{port}"),
            (None, Target::Unix(path)) => format!("unix://{}", path.display()),
        }
    }
}

impl std::fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisAddress({})", self.place())
    }
}

/// Takes the sentinels out and leaves a URL of the `redis` crate's kind, for user, password and TLS.
fn sentinels(scheme: &str, rest: &str) -> Result<(Sentinels, String), RedisUrlError> {
    let (rest, fragment) = rest.split_once('#').map_or((rest, ""), |(rest, part)| (rest, part));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').ok_or(RedisUrlError::Sentinels)?;
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (format!("{credentials}@"), hosts),
        None => (String::new(), authority),
    };
    let master = path.split('/').next().unwrap_or_default();
    let node = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() => Some((host.to_owned(), port.parse().ok()?)),
        None if !text.is_empty() => Some((text.to_owned(), SENTINEL_PORT)),
        _ => None,
    };
    let nodes: Option<Vec<_>> = hosts.split(',').map(node).collect();
    let nodes = nodes.filter(|_| !master.is_empty()).ok_or(RedisUrlError::Sentinels)?;
    let mut plain = format!("{scheme}://{credentials}{}", nodes[0].0);
    if !query.is_empty() {
        plain.push_str(&format!("?{query}"));
    }
    if !fragment.is_empty() {
        plain.push_str(&format!("#{fragment}"));
    }
    let master = master.to_owned();
    Ok((Sentinels { nodes, master }, plain))
}

/// Takes `sslrootcert` out, which the `redis` crate does not know.
fn without_authorities(url: &str) -> (String, Option<PathBuf>) {
    let Some((base, rest)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let (query, fragment) = rest
        .split_once('#')
        .map_or((rest, None), |(query, part)| (query, Some(part)));
    let mut authorities = None;
    let kept: Vec<&str> = query
        .split('&')
        .filter(|parameter| match parameter.strip_prefix("sslrootcert=") {
            Some(path) => {
                authorities = Some(PathBuf::from(path.replace("%2F", "/")));
                false
            }
            None => !parameter.is_empty(),
        })
        .collect();
    let mut url = base.to_owned();
    if !kept.is_empty() {
        url.push_str(&format!("?{}", kept.join("&")));
    }
    if let Some(fragment) = fragment {
        url.push_str(&format!("#{fragment}"));
    }
    (url, authorities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_kind_are_read_and_shown_without_secrets() {
        let place = |url: &str| RedisAddress::parse(url).unwrap().place();
        assert_eq!(place("redis://localhost"), "redis://localhost:6379");
        assert_eq!(place("redis://u:hunter2@r.example:7000/3"), "redis://r.example:7000");
        assert_eq!(place("unix:///run/redis.sock?pass=hunter2"), "unix:///run/redis.sock");
        assert_eq!(place("rediss://:hunter2@r#insecure"), "rediss://r:6379");
        let sentinel = RedisAddress::parse("redis+sentinel://u:hunter2@a:1,b/mymaster").unwrap();
        assert_eq!(sentinel.place(), "redis+sentinel://a:1,b:26379/mymaster");
        assert_eq!(
            (sentinel.username.as_deref(), sentinel.password.as_deref()),
            (Some("u"), Some("hunter2"))
        );
        let escaped = RedisAddress::parse("redis://:p%40ss@r").unwrap();
        assert_eq!(escaped.password.as_deref(), Some("p@ss"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_quoting_it() {
        for url in [
            "redis://:hunter2@",
            "redis+sentinel://hunter2",
            "redis+sentinel://a:hunter2/m",
            "redis+sentinel://a:1/",
            "rediss://r?sslrootcert=/does/not/exist",
        ] {
            let error = RedisAddress::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
