//! Bare commits: one row, one transaction, one at a time, on the database that a server uses. What an acknowledgement
//! that means "stored" can cost at best.

use crate::sockets;
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// The table they go to. A name of its own, so that nobody else's table is dropped.
const TABLE: &str = "loadtest_commits";

/// A connection to the database.
pub struct Commits {
    database: Database,
    number: i64,
    payload: String,
}

enum Database {
    Postgres(Box<postgres::Client>, postgres::Statement),
    Sqlite(rusqlite::Connection),
}

impl Commits {
    /// Connects and makes the table. Rows are `payload_bytes` long.
    ///
    /// # Errors
    /// The URL is of another kind of database; it does not answer; it refuses the table.
    pub fn open(url: &str, payload_bytes: usize) -> Result<Self> {
        let create = format!("CREATE TABLE IF NOT EXISTS {TABLE} (id BIGINT PRIMARY KEY, payload TEXT NOT NULL)");
        let clear = format!("DELETE FROM {TABLE}");
        let insert = format!("INSERT INTO {TABLE} (id, payload) VALUES ($1, $2)");
        let database = if let Some(path) = url.strip_prefix("sqlite:") {
            let connection = rusqlite::Connection::open(path).with_context(|| format!("--database-url {url}"))?;
            connection.busy_timeout(Duration::from_secs(5))?;
            // As careful as the server: the commit has reached the disk when it returns.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.execute_batch(&format!("{create}; {clear}"))?;
            Database::Sqlite(connection)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let mut client = postgres::Client::connect(url, postgres::NoTls).context("--database-url")?;
            client.batch_execute(&format!("{create}; {clear}"))?;
            let insert = client.prepare(&insert)?;
            Database::Postgres(Box::new(client), insert)
        } else {
            bail!("--database-url: write postgresql://… or sqlite:PATH");
        };
        Ok(Self {
            database,
            number: 0,
            payload: "x".repeat(payload_bytes),
        })
    }

    /// Commits one row after the other for so many seconds and records how long each took, in nanoseconds.
    ///
    /// # Errors
    /// The database refuses a row or went away.
    pub fn run(&mut self, seconds: f64, times: &mut Histogram<u64>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            self.number += 1;
            let started_ns = sockets::monotonic_ns();
            match &mut self.database {
                Database::Postgres(client, insert) => {
                    client.execute(&*insert, &[&self.number, &self.payload])?;
                }
                Database::Sqlite(connection) => {
                    let insert = format!("INSERT INTO {TABLE} (id, payload) VALUES (?1, ?2)");
                    let mut insert = connection.prepare_cached(&insert)?;
                    insert.execute((self.number, &self.payload))?;
                }
            }
            times.saturating_record(sockets::monotonic_ns() - started_ns);
        }
        Ok(())
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        let drop_table = format!("DROP TABLE {TABLE}");
        // If the database is gone there is nobody left to tidy up for.
        match &mut self.database {
            Database::Postgres(client, _) => drop(client.batch_execute(&drop_table)),
            Database::Sqlite(connection) => drop(connection.execute_batch(&drop_table)),
        }
    }
}
