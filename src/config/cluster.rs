//! Settings of several nodes that behave as one (docs/cluster.md).

use super::reader::Reader;
use super::values::{self, Expected};
use std::fmt;

/// Where Redis is. May hold a password, which it never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(pub String);

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl RedisUrl {
    fn shown(&self) -> String {
        let scheme = self.0.split(':').next().unwrap_or_default();
        format!("{scheme}: (hidden)")
    }
}

/// Settings of several nodes that behave as one.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The Redis that joins the nodes; `None`: this is the only one.
    pub redis: Option<RedisUrl>,
    /// What the names of all channels begin with; ends with a colon.
    pub channel_prefix: String,
    /// How often nodes compare what they hold of documents that change, in milliseconds.
    pub digest_interval_ms: u64,
    /// The node's name; `None`: made up at the start.
    pub node_id: Option<String>,
}

const DEFAULT_PREFIX: &str = "synckit:";
const PREFIX_BYTES_MAX: usize = 128;
const NODE_ID_BYTES_MAX: usize = 64;
const DIGEST_INTERVAL_MS: u64 = 5_000;
const SCHEMES: [&str; 6] = ["redis", "rediss", "valkey", "valkeys", "unix", "redis+unix"];

pub(super) fn cluster<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> ClusterConfig {
    // The URL may hold a password, so it is never quoted.
    let redis = reader.secret(
        &["REDIS_URL", "ConnectionStrings__redis"],
        None,
        |text| redis_url(text).map(Some),
        |url: &Option<RedisUrl>| url.as_ref().map_or("none (single server)".to_owned(), RedisUrl::shown),
    );
    if reader
        .optional(&["SYNCKIT_REDIS_BRIDGE"], bridge)
        .is_some_and(|(_, csharp)| csharp)
    {
        reader.refuse(
            "SYNCKIT_REDIS_BRIDGE",
            "this version does not serve the channels of the C# server, and ignoring it would lose its changes",
            "unset it",
        );
    }
    ClusterConfig {
        redis,
        channel_prefix: reader.value(
            &["REDIS_CHANNEL_PREFIX"],
            DEFAULT_PREFIX.to_owned(),
            channel_prefix,
            String::clone,
        ),
        digest_interval_ms: reader.value(&["SYNCKIT_DIGEST_INTERVAL"], DIGEST_INTERVAL_MS, interval, |ms| {
            format!("{ms} ms")
        }),
        node_id: reader.value(
            &["SYNCKIT_NODE_ID"],
            None,
            |text| node_id(text).map(Some),
            |id| id.clone().unwrap_or("(random)".to_owned()),
        ),
    }
}

/// The scheme is looked at here; the rest is read when the parts are put together. `redis-sentinel` and `redis-cluster`
/// are schemes that other clients have, hence a hint instead of a mere refusal.
fn redis_url(text: &str) -> Result<RedisUrl, Expected> {
    let scheme = text.split("://").next().unwrap_or_default();
    let is_known = text.contains("://") && (SCHEMES.contains(&scheme) || scheme.ends_with("+sentinel"));
    if is_known {
        return Ok(RedisUrl(text.to_owned()));
    }
    Err(Expected(
        "redis://[user:password@]host[:port], rediss://… for TLS, unix:///path/to/socket, \
         redis+sentinel://[user:password@]host[:port][,host[:port]…]/name-of-the-master; \
         of a Redis Cluster, the redis:// URL of any node"
            .to_owned(),
    ))
}

/// One without a colon at the end gets one.
fn channel_prefix(text: &str) -> Result<String, Expected> {
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '*' | '?' | '[' | ']' | '\\');
    if text.len() > PREFIX_BYTES_MAX || !text.chars().all(good) {
        return Err(Expected(format!(
            "up to {PREFIX_BYTES_MAX} visible ASCII characters other than * ? [ ] \\"
        )));
    }
    let colon = if text.ends_with(':') { "" } else { ":" };
    Ok(format!("{text}{colon}"))
}

fn node_id(text: &str) -> Result<String, Expected> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.len() <= NODE_ID_BYTES_MAX && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(Expected(format!(
        "up to {NODE_ID_BYTES_MAX} letters, digits, '.', '_' and '-', different for every node"
    )))
}

/// Milliseconds, or with a unit as in `500ms` and `5s`.
fn interval(text: &str) -> Result<u64, Expected> {
    let refusal = || Expected("100 ms to 1 hour: milliseconds, or with a unit like 500ms or 5s".to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match text[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(refusal()),
    };
    let count = values::number(&text[..digits], 0, 3_600_000).map_err(|_| refusal())?;
    Some(count * unit)
        .filter(|ms| (100..=3_600_000).contains(ms))
        .ok_or_else(refusal)
}

/// Whether the channels of the C# server are asked for.
fn bridge(text: &str) -> Result<bool, Expected> {
    match text {
        "off" => Ok(false),
        "csharp" => Ok(true),
        _ => Err(Expected("off".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError, Flags};

    fn load(variables: &[(&str, &str)]) -> Result<ClusterConfig, ConfigError> {
        let look_up = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::from_env(look_up, &Flags::default()).map(|config| config.cluster)
    }

    #[test]
    fn redis_is_chosen_by_its_url_which_is_never_shown() {
        assert_eq!(load(&[]).unwrap().redis, None);
        assert_eq!(load(&[("REDIS_URL", "")]).unwrap().redis, None);
        for url in [
            "redis://:hunter2@localhost:6379",
            "rediss://u:hunter2@redis/1",
            "unix:///run/redis.sock?pass=hunter2",
            "redis+sentinel://u:hunter2@a:26379,b/mymaster",
        ] {
            let config = load(&[("ConnectionStrings__redis", url)]).unwrap();
            assert_eq!(config.redis, Some(RedisUrl(url.to_owned())));
            assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        }
        for wrong in [
            "localhost:6379,password=hunter2",
            "http://hunter2",
            "redis",
            "redis-cluster://a",
        ] {
            let error = load(&[("REDIS_URL", wrong)]).unwrap_err().to_string();
            assert!(error.contains("REDIS_URL") && error.contains("redis://"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_other_settings_have_defaults_and_refuse_nonsense_by_name() {
        let config = load(&[]).unwrap();
        assert_eq!(config.channel_prefix, "synckit:");
        assert_eq!((config.digest_interval_ms, config.node_id), (5000, None));
        let prefix = |text| load(&[("REDIS_CHANNEL_PREFIX", text)]).unwrap().channel_prefix;
        assert_eq!(
            (prefix("app"), prefix("app:x:")),
            ("app:".to_owned(), "app:x:".to_owned())
        );
        let interval = |text| load(&[("SYNCKIT_DIGEST_INTERVAL", text)]).map(|config| config.digest_interval_ms);
        assert_eq!(interval("250").unwrap(), 250);
        assert_eq!(interval("250ms").unwrap(), 250);
        assert_eq!(interval("2s").unwrap(), 2000);
        let config = load(&[("SYNCKIT_REDIS_BRIDGE", "off"), ("SYNCKIT_NODE_ID", "eu-1.a")]).unwrap();
        assert_eq!(config.node_id.as_deref(), Some("eu-1.a"));
        for (name, value) in [
            ("REDIS_CHANNEL_PREFIX", "a*"),
            ("SYNCKIT_DIGEST_INTERVAL", "0"),
            ("SYNCKIT_DIGEST_INTERVAL", "5 parsecs"),
            ("SYNCKIT_DIGEST_INTERVAL", "2h"),
            ("SYNCKIT_NODE_ID", "a b"),
            ("SYNCKIT_NODE_ID", "a\"b"),
            ("SYNCKIT_REDIS_BRIDGE", "go"),
            ("SYNCKIT_REDIS_BRIDGE", "csharp"),
        ] {
            let error = load(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
