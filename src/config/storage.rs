//! Settings of durable storage (docs/protocol.md §18, §20).

use super::reader::Reader;
use super::values::{self, Expected};
use std::fmt;
use std::path::PathBuf;

/// Where documents are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// Nowhere: they end with the process.
    Memory,
    /// In PostgreSQL. The URL may hold a password.
    Postgres(String),
    /// In one file.
    Sqlite(PathBuf),
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Database {
    fn parse(text: &str) -> Result<Database, Expected> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match scheme {
            "memory" if rest.is_empty() => Ok(Database::Memory),
            "postgres" | "postgresql" => Ok(Database::Postgres(text.to_owned())),
            "sqlite" if !rest.is_empty() => {
                Ok(Database::Sqlite(PathBuf::from(rest.strip_prefix("//").unwrap_or(rest))))
            }
            _ => Err(Expected(
                "postgresql://user:password@host/database, sqlite:PATH, or memory:".to_owned(),
            )),
        }
    }

    /// What it is, without secrets.
    fn shown(&self) -> String {
        match self {
            Database::Memory => "memory".to_owned(),
            Database::Postgres(_) => "postgresql (hidden)".to_owned(),
            Database::Sqlite(path) => format!("sqlite:{}", path.display()),
        }
    }
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the commit that contains it.
    Sync,
    /// At once.
    Async,
}

/// Settings of durable storage.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// Where documents are kept.
    pub database: Database,
    /// Connections that are kept open.
    pub pool_min: usize,
    /// Connections at most.
    pub pool_max: usize,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Whether the server starts in memory when the database is away.
    pub optional: bool,
    /// Whether every change leaves a row in the audit trail.
    pub audit: bool,
    /// Whether connections have rows in the table of sessions.
    pub sessions: bool,
    /// How long the database may be away at the start, in milliseconds.
    pub startup_timeout_ms: u64,
    /// Memory for documents of all shards; stored ones that nobody uses are unloaded beyond it, in bytes.
    pub document_memory_bytes: u64,
}

const POOL_MAX: u64 = 100;
const DOCUMENT_MEMORY_BYTES: u64 = 1 << 30;

pub(super) fn storage<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> StorageConfig {
    // A connection string may hold a password, so it is never quoted.
    let database = reader.secret(
        &["DATABASE_URL", "ConnectionStrings__synckit"],
        Database::Memory,
        Database::parse,
        Database::shown,
    );
    let pool = |reader: &mut Reader<V>, names: &[&'static str], default, min| {
        reader.value(
            names,
            default,
            |text| values::number(text, min, POOL_MAX).map(|n| n as usize),
            usize::to_string,
        )
    };
    let pool_max = pool(reader, &["DB_POOL_MAX", "DATABASE_POOL_MAX"], 10, 1);
    let pool_min = pool(reader, &["DB_POOL_MIN", "DATABASE_POOL_MIN"], 2, 0).min(pool_max);
    let durability = |text: &str| match text {
        "sync" => Ok(Durability::Sync),
        "async" => Ok(Durability::Async),
        _ => Err(Expected("sync or async".to_owned())),
    };
    StorageConfig {
        database,
        pool_min,
        pool_max,
        durability: reader.value(
            &["SYNCKIT_DURABILITY"],
            Durability::Sync,
            durability,
            |durability| match durability {
                Durability::Sync => "sync".to_owned(),
                Durability::Async => "async".to_owned(),
            },
        ),
        optional: reader.value(&["SYNCKIT_DB_OPTIONAL"], false, values::switch, bool::to_string),
        audit: reader.value(&["SYNCKIT_AUDIT_DELTAS"], true, values::switch, bool::to_string),
        sessions: reader.value(&["SYNCKIT_SESSIONS"], false, values::switch, bool::to_string),
        startup_timeout_ms: reader.value(
            &["SYNCKIT_DB_STARTUP_TIMEOUT_MS"],
            30_000,
            |text| values::number(text, 0, 86_400_000),
            |ms| format!("{ms} ms"),
        ),
        document_memory_bytes: reader.value(
            &["SYNCKIT_DOC_MEMORY"],
            DOCUMENT_MEMORY_BYTES,
            |text| values::bytes(text, 1 << 20, 1 << 50),
            |bytes| format!("{bytes} bytes"),
        ),
    }
}
