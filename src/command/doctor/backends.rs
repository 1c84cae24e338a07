//! The backends: whether the database and Redis answer, and what they are.

use super::{Finding, Given, Verdict};
use crate::config::{Config, Database, files};
use crate::storage::postgres::PostgresUrl;
use crate::storage::postgres::probe::Facts;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a backend may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Oldest PostgreSQL that is tested.
const POSTGRES_MIN: i32 = 130_000;

pub(super) fn database(config: &Config) -> Finding {
    let subject = "database";
    match &config.storage.database {
        Database::Memory => Finding::fine(subject, "none: documents live in memory and end with the process"),
        Database::Sqlite(path) => sqlite(path),
        Database::Postgres(url) => match PostgresUrl::parse(url) {
            Err(error) => Finding::bad(
                Verdict::Failure,
                subject,
                format!("DATABASE_URL: {error}"),
                "correct DATABASE_URL",
            ),
            Ok(url) => {
                let began = Instant::now();
                match url.probe() {
                    Ok(facts) => postgres(&url.place(), &facts, began.elapsed(), config.storage.pool_max),
                    Err(trouble) => Finding::bad(
                        Verdict::Failure,
                        subject,
                        format!("PostgreSQL at {} does not work: {trouble}", url.place()),
                        "start it, or correct DATABASE_URL; psql \"$DATABASE_URL\" -c 'select 1' shows more",
                    ),
                }
            }
        },
    }
}

fn postgres(place: &str, facts: &Facts, took: Duration, pool_max: usize) -> Finding {
    let text = format!(
        "PostgreSQL {} at {place}, connected and asked in {} ms; {} of {} connections used; tables {}",
        facts.version,
        took.as_millis(),
        facts.connections,
        facts.connections_max,
        if facts.has_tables { "there" } else { "not made yet" }
    );
    if facts.version_number < POSTGRES_MIN {
        return Finding::bad(Verdict::Warning, "database", text, "PostgreSQL 13 or newer is tested");
    }
    if !facts.has_tables && !facts.may_create {
        return Finding::bad(
            Verdict::Failure,
            "database",
            format!("{text}; this user may not make them"),
            "GRANT CREATE ON SCHEMA public TO the user of DATABASE_URL",
        );
    }
    if facts.read_only {
        return Finding::bad(
            Verdict::Failure,
            "database",
            format!("{text}; it is read-only"),
            "point DATABASE_URL at the primary (target_session_attrs=read-write)",
        );
    }
    if facts.connections + pool_max as i64 > facts.connections_max {
        return Finding::bad(
            Verdict::Warning,
            "database",
            format!("{text}; DB_POOL_MAX={pool_max} more do not fit"),
            "lower DB_POOL_MAX, or raise max_connections in postgresql.conf",
        );
    }
    Finding::fine("database", text)
}

/// Does not open the file: that would make it, or change its schema.
fn sqlite(path: &Path) -> Finding {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let probe = folder.join(format!(".synckit-doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, b"");
    let _ = std::fs::remove_file(&probe);
    match written {
        Ok(()) => Finding::fine(
            "database",
            format!(
                "SQLite at {} ({}), its folder can be written",
                path.display(),
                if path.exists() { "there" } else { "will be made" }
            ),
        ),
        Err(error) => Finding::bad(
            Verdict::Failure,
            "database",
            format!("SQLite at {}: its folder cannot be written: {error}", path.display()),
            format!("mkdir -p {0} and chown synckit {0}", folder.display()),
        ),
    }
}

pub(super) fn redis(given: &Given) -> Finding {
    let Ok(sources) = files::sources(given.flags.clone(), given.config.as_deref()) else {
        return Finding::fine("Redis", "none");
    };
    match sources.value("REDIS_URL").filter(|url| !url.trim().is_empty()) {
        None => Finding::fine("Redis", "none: a single server"),
        Some(url) => match ask_redis(url.trim()) {
            Ok(text) => Finding::fine("Redis", text),
            Err((text, remedy)) => Finding::bad(Verdict::Failure, "Redis", text, remedy),
        },
    }
}

/// What a Redis URL names.
#[derive(Debug, PartialEq, Eq)]
struct RedisUrl<'a> {
    user: &'a str,
    password: &'a str,
    host: &'a str,
    port: u16,
    tls: bool,
}

impl RedisUrl<'_> {
    fn parse(url: &str) -> Option<RedisUrl<'_>> {
        let (tls, rest) = match url.split_once("://")? {
            ("redis", rest) => (false, rest),
            ("rediss", rest) => (true, rest),
            _ => return None,
        };
        let authority = rest.split(['/', '?']).next()?;
        let (credentials, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (place, 6379),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some(RedisUrl {
            user,
            password,
            host,
            port,
            tls,
        })
    }
}

/// `AUTH` and `PING` over a plain connection.
fn ask_redis(url: &str) -> Result<String, (String, String)> {
    let Some(RedisUrl {
        user,
        password,
        host,
        port,
        tls,
    }) = RedisUrl::parse(url)
    else {
        return Err((
            "REDIS_URL is not understood".to_owned(),
            "redis://user:password@host:port".to_owned(),
        ));
    };
    let remedy = format!("start Redis or correct REDIS_URL; redis-cli -h {host} -p {port} ping shows more");
    let failed = |text: String| (format!("Redis at {host}:{port}: {text}"), remedy.clone());
    let began = Instant::now();
    let address = (host, port)
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?
        .next()
        .ok_or_else(|| failed("the name has no address".to_owned()))?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| failed(error.to_string()))?;
    if tls {
        return Ok(format!("Redis at {host}:{port} takes connections; TLS was not tried"));
    }
    let ask = || -> std::io::Result<Vec<String>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut replies = BufReader::new(&stream);
        let mut answers = Vec::new();
        let mut commands = Vec::new();
        if !password.is_empty() {
            commands.push(match user {
                "" => vec!["AUTH", password],
                user => vec!["AUTH", user, password],
            });
        }
        commands.push(vec!["PING"]);
        for command in commands {
            (&stream).write_all(&request(&command))?;
            let mut line = String::new();
            replies.read_line(&mut line)?;
            answers.push(line.trim().to_owned());
        }
        Ok(answers)
    };
    let answers = ask().map_err(|error| failed(error.to_string()))?;
    match answers.iter().find(|answer| !answer.starts_with('+')) {
        None => Ok(format!(
            "Redis at {host}:{port} answers PING in {} ms",
            began.elapsed().as_millis()
        )),
        Some(refusal) => Err(failed(refusal.clone())),
    }
}

/// A command in the Redis protocol.
fn request(words: &[&str]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_urls_are_taken_apart() {
        let parsed = RedisUrl::parse("redis://:s3cret@cache:6380/2").unwrap();
        assert_eq!(
            (parsed.user, parsed.password, parsed.host, parsed.port),
            ("", "s3cret", "cache", 6380)
        );
        let parsed = RedisUrl::parse("rediss://[::1]").unwrap();
        assert_eq!((parsed.host, parsed.port, parsed.tls), ("::1", 6379, true));
        assert_eq!(RedisUrl::parse("http://cache"), None);
        assert_eq!(RedisUrl::parse("redis://"), None);
    }

    #[test]
    fn commands_are_framed() {
        assert_eq!(request(&["PING"]), b"*1\r\n$4\r\nPING\r\n");
    }
}
