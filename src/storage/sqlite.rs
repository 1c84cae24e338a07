//! Documents in one SQLite file: the tables of docs/protocol.md §18.2 as far as this server uses them.
//!
//! Write-ahead log with `synchronous = FULL`: a commit that returned survives the loss of power. Readers do not wait for the
//! writer.

use super::audit;
use super::backend::{Backend, Row, RowWrite, SessionRow, Trouble};
use crate::saved::{RowFacts, SnapshotAsk, SnapshotRow, encode_snapshot, stored_value};
use rusqlite::types::Value;
use rusqlite::{Connection, Error, ErrorCode, OptionalExtension, Params, TransactionBehavior, params};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How long another process may hold the file before it counts as in the way.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Pages of the log after which it is copied into the file.
const CHECKPOINT_PAGES: u32 = 4096;

const VERSION: u32 = 3;

/// Schema changes in order; the file's `user_version` counts those it has.
const STEPS: [&str; VERSION as usize] = [
    "
    CREATE TABLE documents (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        version INTEGER NOT NULL DEFAULT 1,
        created_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
        updated_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ) WITHOUT ROWID;
    CREATE TABLE deltas (
        id INTEGER PRIMARY KEY,
        document_id TEXT NOT NULL,
        client_id TEXT NOT NULL,
        operation_type TEXT NOT NULL,
        field_path TEXT NOT NULL,
        value TEXT,
        clock_value INTEGER NOT NULL,
        timestamp INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
    );
    CREATE INDEX idx_deltas_document_id ON deltas (document_id, timestamp DESC);
    CREATE INDEX idx_deltas_timestamp ON deltas (timestamp DESC);
",
    "
    CREATE TABLE snapshots (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        document_id TEXT NOT NULL,
        state TEXT NOT NULL,
        version TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        created_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
    );
    CREATE INDEX idx_snapshots_document_id ON snapshots (document_id, number DESC);
    CREATE INDEX idx_snapshots_created_at ON snapshots (created_at DESC);
",
    "
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        user_id TEXT NOT NULL,
        client_id TEXT,
        connected_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
        last_seen INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ) WITHOUT ROWID;
    CREATE INDEX idx_sessions_last_seen ON sessions (last_seen DESC);
",
];

/// What every answer says of a snapshot.
const SNAPSHOT_FACTS: &str = "id, document_id, version, size_bytes, created_at";

/// Sessions of a day ago, deltas of 30 days ago, snapshots of a week ago and all but the newest ten of a document.
const CLEAN_UP: [&str; 4] = [
    "DELETE FROM sessions WHERE last_seen < CAST(unixepoch('subsec') * 1000 AS INTEGER) - 86400000",
    "DELETE FROM deltas WHERE timestamp < CAST(unixepoch('subsec') * 1000 AS INTEGER) - 30 * 86400000",
    "DELETE FROM snapshots WHERE created_at < CAST(unixepoch('subsec') * 1000 AS INTEGER) - 7 * 86400000",
    "DELETE FROM snapshots WHERE number IN (
         SELECT number FROM (
             SELECT number, row_number() OVER (PARTITION BY document_id ORDER BY number DESC) AS age FROM snapshots
         ) WHERE age > 10)",
];

/// One connection.
pub struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    /// Opens the file, makes it if need be, and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Sqlite, Trouble> {
        let mut connection = Connection::open(path).map_err(|error| trouble(&error))?;
        prepare(&mut connection).map_err(|error| match trouble(&error) {
            Trouble::Refused(text) => Trouble::Away(text),
            trouble => trouble,
        })?;
        Ok(Sqlite { connection })
    }

    fn store_all(&mut self, rows: &[RowWrite<'_>]) -> Result<Vec<Option<i64>>, Error> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut outcome = Vec::with_capacity(rows.len());
        {
            let mut update = transaction.prepare_cached(
                "UPDATE documents SET state = ?2, version = version + 1,
                     updated_at = CAST(unixepoch('subsec') * 1000 AS INTEGER)
                 WHERE id = ?1 AND version = ?3 RETURNING version",
            )?;
            let mut insert = transaction.prepare_cached(
                "INSERT INTO documents (id, state) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING RETURNING version",
            )?;
            let mut audit = transaction.prepare_cached(
                "INSERT INTO deltas (document_id, client_id, operation_type, field_path, value, clock_value)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for row in rows {
                let version: Option<i64> = match row.version {
                    0 => insert
                        .query_row(params![row.id, row.state], |row| row.get(0))
                        .optional()?,
                    version => update
                        .query_row(params![row.id, row.state, version], |row| row.get(0))
                        .optional()?,
                };
                for entry in row.audit.iter().filter(|_| version.is_some()) {
                    let value = entry.value.as_deref().map(|value| stored_value(value).into_owned());
                    audit.execute(params![
                        row.id,
                        audit::client_id(&entry.client),
                        entry.kind.name(),
                        audit::cut(&entry.field, 500),
                        value.and_then(|value| String::from_utf8(value).ok()),
                        entry.lam as i64
                    ])?;
                }
                outcome.push(version);
            }
        }
        transaction.commit()?;
        Ok(outcome)
    }

    fn load_all(&mut self, ids: &[&str]) -> Result<Vec<Row>, Error> {
        let ids: Vec<Value> = ids.iter().map(|id| Value::from((*id).to_owned())).collect();
        let mut select = self.connection.prepare_cached(
            "SELECT id, version, state, updated_at FROM documents WHERE id IN (SELECT value FROM rarray(?1))",
        )?;
        let rows = select.query_map([Rc::new(ids)], |row| {
            Ok(Row {
                id: row.get(0)?,
                version: row.get(1)?,
                state: row.get(2)?,
                facts: RowFacts {
                    updated_at_ms: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                    clock_value: None,
                },
            })
        })?;
        rows.collect()
    }
}

impl Sqlite {
    fn snapshot_rows(&mut self, ask: &SnapshotAsk) -> Result<Vec<SnapshotRow>, Error> {
        let select = |with_state: bool, rest: &str| {
            let state = if with_state { "state" } else { "''" };
            format!("SELECT {SNAPSHOT_FACTS}, {state} FROM snapshots WHERE {rest}")
        };
        match ask {
            SnapshotAsk::Add(snapshot) => {
                let (state, size_bytes) = encode_snapshot(&snapshot.content);
                let version = format!("{{\"server\":{}}}", snapshot.content.clock);
                // The id is there already when the commit was lost on the way.
                let insert = format!(
                    "INSERT INTO snapshots (id, document_id, state, version, size_bytes)
                     SELECT ?1, id, ?3, ?4, ?5 FROM documents WHERE id = ?2
                     ON CONFLICT (id) DO UPDATE SET size_bytes = excluded.size_bytes RETURNING {SNAPSHOT_FACTS}, ''"
                );
                let size_bytes = size_bytes as i64;
                let row = params![snapshot.id, &*snapshot.document, state, version, size_bytes];
                self.snapshots_of(&insert, row)
            }
            SnapshotAsk::Latest(document) => {
                let newest = select(true, "document_id = ?1 ORDER BY number DESC LIMIT 1");
                self.snapshots_of(&newest, params![&**document])
            }
            SnapshotAsk::List { document, limit } => {
                let newest = select(false, "document_id = ?1 ORDER BY number DESC LIMIT ?2");
                self.snapshots_of(&newest, params![&**document, *limit as i64])
            }
            SnapshotAsk::Find(id) => self.snapshots_of(&select(true, "id = ?1"), params![id]),
            SnapshotAsk::Remove(id) => {
                let delete = format!("DELETE FROM snapshots WHERE id = ?1 RETURNING {SNAPSHOT_FACTS}, ''");
                self.snapshots_of(&delete, params![id])
            }
        }
    }

    fn snapshots_of(&self, sql: &str, parameters: impl Params) -> Result<Vec<SnapshotRow>, Error> {
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map(parameters, |row| {
            Ok(SnapshotRow {
                id: row.get(0)?,
                document: row.get(1)?,
                version: row.get(2)?,
                size_bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                created_at_ms: u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0),
                state: row.get(5)?,
            })
        })?;
        rows.collect()
    }
}

impl Backend for Sqlite {
    fn load(&mut self, ids: &[&str]) -> Result<Vec<Row>, Trouble> {
        self.load_all(ids).map_err(|error| trouble(&error))
    }

    fn store(&mut self, rows: &[RowWrite<'_>]) -> Result<Vec<Option<i64>>, Trouble> {
        self.store_all(rows).map_err(|error| trouble(&error))
    }

    fn snapshots(&mut self, ask: &SnapshotAsk) -> Result<Vec<SnapshotRow>, Trouble> {
        self.snapshot_rows(ask).map_err(|error| trouble(&error))
    }

    fn note_sessions(&mut self, here: &[SessionRow], gone: &[String]) -> Result<(), Trouble> {
        let noted = |connection: &mut Connection| -> Result<(), Error> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut upsert = transaction.prepare_cached(
                    "INSERT INTO sessions (id, user_id, client_id) VALUES (?1, ?2, ?3)
                     ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, client_id = excluded.client_id,
                         last_seen = CAST(unixepoch('subsec') * 1000 AS INTEGER)",
                )?;
                for row in here {
                    upsert.execute(params![row.id, row.user, row.client])?;
                }
                let mut delete = transaction.prepare_cached("DELETE FROM sessions WHERE id = ?1")?;
                for id in gone {
                    delete.execute(params![id])?;
                }
            }
            transaction.commit()
        };
        noted(&mut self.connection).map_err(|error| trouble(&error))
    }

    fn clear(&mut self) -> Result<(), Trouble> {
        let all = "BEGIN IMMEDIATE; DELETE FROM sessions; DELETE FROM snapshots; DELETE FROM deltas; DELETE FROM documents; COMMIT";
        self.connection.execute_batch(all).map_err(|error| trouble(&error))
    }

    fn clean_up(&mut self) -> Result<u64, Trouble> {
        let cleaned = |connection: &Connection| -> Result<usize, Error> {
            CLEAN_UP.iter().map(|statement| connection.execute(statement, [])).sum()
        };
        let deleted = cleaned(&self.connection);
        deleted.map(|rows| rows as u64).map_err(|error| trouble(&error))
    }

    fn ping(&mut self) -> Result<(), Trouble> {
        let one = self
            .connection
            .query_row("SELECT count(*) FROM (SELECT 1 FROM documents LIMIT 1)", [], |_| Ok(()));
        one.map_err(|error| trouble(&error))
    }
}

fn prepare(connection: &mut Connection) -> Result<(), Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    rusqlite::vtab::array::load_module(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let done: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if done == VERSION {
        return Ok(());
    }
    drop(transaction);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let done: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if done > VERSION {
        return Err(Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_SCHEMA),
            Some(format!(
                "the schema has version {done}, this server knows {VERSION}. Remedy: run a newer version of the server"
            )),
        ));
    }
    for step in &STEPS[done as usize..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// What an error of the database means for whoever asked.
fn trouble(error: &Error) -> Trouble {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Trouble::Again(text),
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => Trouble::Refused(text),
        _ => Trouble::Away(text),
    }
}
