//! The backends: whether the database and Redis answer, and what they are.

use super::{Finding, Verdict};
use crate::cluster::redis::RedisAddress;
use crate::config::{Config, Database, RedisUrl};
use crate::storage::postgres::PostgresUrl;
use crate::storage::postgres::probe::Facts;
use std::path::Path;
use std::time::{Duration, Instant};

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

/// Reached as the server reaches it: TLS, sentinels, sockets and passwords included.
pub(super) fn redis(config: &Config) -> Finding {
    let Some(RedisUrl(url)) = &config.cluster.redis else {
        return Finding::fine("Redis", "none: a single server");
    };
    let bad = |text, remedy: &str| Finding::bad(Verdict::Failure, "Redis", text, remedy);
    let address = match RedisAddress::parse(url) {
        Ok(address) => address,
        Err(error) => return bad(format!("REDIS_URL: {error}"), "correct REDIS_URL"),
    };
    let (place, began) = (address.place(), Instant::now());
    match address.probe() {
        Ok(version) => Finding::fine(
            "Redis",
            format!(
                "Redis {version} at {place}, connected and asked in {} ms",
                began.elapsed().as_millis()
            ),
        ),
        Err(error) => bad(
            format!("Redis at {place} does not work: {error}"),
            "start it, or correct REDIS_URL and its user and password; redis-cli -u \"$REDIS_URL\" ping shows more",
        ),
    }
}
