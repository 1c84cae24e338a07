//! What a database must be able to do. One value is one connection, used by one thread.

use crate::saved::{AuditEntry, RowFacts, SnapshotAsk, SnapshotRow};
use std::time::Instant;
use thiserror::Error;

/// One connection to a database.
pub trait Backend: Send {
    /// Does in advance what the first operation of a fresh connection would have to wait for. Nothing depends on it.
    fn warm_up(&mut self, _role: Role) -> Result<(), Trouble> {
        Ok(())
    }

    /// Reads rows, in any order; ids without a row are left out.
    fn load(&mut self, ids: &[&str]) -> Result<Vec<Row>, Trouble>;

    /// Writes rows, which come in the order of their ids, in one transaction and returns when it is committed: the new version of each, or `None` where the
    /// row's version is not the expected one and nothing was written for it. On an error nothing was written, unless the
    /// connection was lost during the commit.
    fn store(&mut self, rows: &[RowWrite<'_>]) -> Result<Vec<Option<i64>>, Trouble>;

    /// Writes what may follow a commit a little later, as far as it is due, or `all` of it. Returns when there will be more.
    fn settle(&mut self, _all: bool) -> Result<Option<Instant>, Trouble> {
        Ok(None)
    }

    /// Keeps, reads or deletes snapshots. Asked again after a lost connection it does no more than once.
    fn snapshots(&mut self, ask: &SnapshotAsk) -> Result<Vec<SnapshotRow>, Trouble>;
    /// Says of connections, which come in the order of their ids, that they are there, and deletes those that ended.
    fn note_sessions(&mut self, here: &[SessionRow], gone: &[String]) -> Result<(), Trouble>;

    /// Deletes everything.
    fn clear(&mut self) -> Result<(), Trouble>;

    /// Deletes what is too old to keep (docs/protocol.md §18.4), unless another server is doing so. Returns how many rows.
    fn clean_up(&mut self) -> Result<u64, Trouble>;

    /// Whether the database still answers.
    fn ping(&mut self) -> Result<(), Trouble>;
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reading documents, and everything about snapshots.
    Reads,
    /// Writing documents.
    Writes,
}

/// Opens a connection.
pub type Connect = Box<dyn Fn() -> Result<Box<dyn Backend>, Trouble> + Send + Sync>;

/// A row that was read.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its key.
    pub id: String,
    /// Counts its updates; never 0.
    pub version: i64,
    /// `documents.state`.
    pub state: String,
    /// What stands beside it.
    pub facts: RowFacts,
}

/// A row to be written.
#[derive(Clone, Copy, Debug)]
pub struct RowWrite<'a> {
    /// Its key.
    pub id: &'a str,
    /// The version it must have; 0: there must be none.
    pub version: i64,
    /// The new `documents.state`.
    pub state: &'a str,
    /// The document's clock, for `vector_clocks`.
    pub clock: i64,
    /// Rows for the audit trail.
    pub audit: &'a [AuditEntry],
}

/// A connection in the table of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Its key.
    pub id: String,
    /// Whose it is, at most 255 characters.
    pub user: String,
    /// The client id it gave, at most 255 characters.
    pub client: Option<String>,
}

/// Why a database did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Trouble {
    /// It is away, full, read-only or not what it should be: the operator's to repair, and then the same request works.
    /// The connection is given up.
    #[error("{0}")]
    Away(String),
    /// Others were in the way; the same request works at once or a little later.
    #[error("{0}")]
    Again(String),
    /// It does not take this very content, however often it is asked.
    #[error("{0}")]
    Refused(String),
}
