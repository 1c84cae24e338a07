//! Documents in PostgreSQL, in the tables of docs/protocol.md §18.2.
//!
//! A batch is one statement, so it is one transaction and one round trip however many documents it writes: rows are
//! updated where their version is the expected one, new rows are inserted where there is none, and the audit trail follows
//! only those that were written; their vector clocks come within a second ([`Clocks`]). Batches come in the order of their
//! ids, so that servers which write the same documents do not lock each other out.

mod clocks;
mod migrations;
pub mod probe;
mod snapshots;
mod store;
mod tls;
mod url;

pub use clocks::Clocks;
pub use url::{PostgresUrl, UrlError};

use super::backend::{Backend, Role, Row, RowWrite, SessionRow, Trouble};
use crate::saved::{RowFacts, SnapshotAsk, SnapshotRow};
use postgres::error::{Error, SqlState};
use postgres::{Client, Statement};
use std::error::Error as _;
use std::time::Instant;
use store::Writes;

/// Plans of writes are made once, perhaps while the tables are empty, and know nothing of the arrays' lengths. So nothing may
/// depend on a guess: with these settings, and with `= ANY (ARRAY[…])` in place of `=`, which no merge join could use and for
/// which no index would be read from end to end, a row is found by one look into its index. (A hashed subplan is no join; the
/// `IS TRUE` keeps the planner from making one of it.)
const SETTINGS: &str = "
SET plan_cache_mode = force_generic_plan; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off";

const LOAD: &str = "
SELECT d.id, d.version, d.state::text, (extract(epoch FROM d.updated_at) * 1000)::bigint,
    (SELECT max(v.clock_value) FROM vector_clocks v WHERE v.document_id = d.id AND v.clock_value <= 1125899906842624)
FROM documents d WHERE d.id = ANY($1::text[])";

const SESSIONS_HERE: &str = "
INSERT INTO sessions (id, user_id, client_id) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, client_id = excluded.client_id, last_seen = now()";

/// The advisory lock of the clean-up: "synckit" in ASCII, plus one.
const CLEAN_UP_LOCK: i64 = 0x0073_796e_636b_6975;

/// Sessions of a day ago, deltas of 30 days ago, snapshots of a week ago and all but the newest ten of a document.
const CLEAN_UP: [&str; 4] = [
    "DELETE FROM sessions WHERE last_seen < now() - INTERVAL '24 hours'",
    "DELETE FROM deltas WHERE timestamp < now() - INTERVAL '30 days'",
    "DELETE FROM snapshots WHERE created_at < now() - INTERVAL '7 days'",
    "DELETE FROM snapshots s USING (
         SELECT id, row_number() OVER (PARTITION BY document_id ORDER BY created_at DESC, id) AS age FROM snapshots
     ) aged WHERE s.id = aged.id AND aged.age > 10",
];

/// One connection.
pub struct Postgres {
    client: Client,
    load: Statement,
    /// Prepared with the first write, or by [`Backend::warm_up`] for those who write.
    writes: Option<Writes>,
    clocks: Clocks,
}

impl Postgres {
    /// Connects to a database that [`Postgres::migrate`] has prepared. `clocks` are shared by all connections.
    pub fn connect(url: &PostgresUrl, clocks: &Clocks) -> Result<Postgres, Trouble> {
        let mut client = url.connect()?;
        client.batch_execute(SETTINGS).map_err(|error| trouble(&error))?;
        let load = client.prepare(LOAD).map_err(|error| trouble(&error))?;
        Ok(Postgres {
            client,
            load,
            writes: None,
            clocks: clocks.clone(),
        })
    }

    /// Brings the schema up to date. Safe from several servers at once.
    pub fn migrate(url: &PostgresUrl) -> Result<(), Trouble> {
        migrations::migrate(&mut url.connect()?)
    }

    fn writing(&mut self) -> Result<(&mut Client, &Writes), Error> {
        let writes = match self.writes.take() {
            Some(writes) => writes,
            None => Writes::prepare(&mut self.client)?,
        };
        Ok((&mut self.client, self.writes.insert(writes)))
    }
}

impl Backend for Postgres {
    fn load(&mut self, ids: &[&str]) -> Result<Vec<Row>, Trouble> {
        let rows = self
            .client
            .query(&self.load, &[&ids])
            .map_err(|error| trouble(&error))?;
        let row = |row: &postgres::Row| -> Result<Row, Error> {
            let updated_at: i64 = row.try_get(3)?;
            Ok(Row {
                id: row.try_get(0)?,
                version: row.try_get(1)?,
                state: row.try_get(2)?,
                facts: RowFacts {
                    updated_at_ms: u64::try_from(updated_at).unwrap_or(0),
                    clock_value: row.try_get(4)?,
                },
            })
        };
        rows.iter()
            .map(|read| row(read).map_err(|error| trouble(&error)))
            .collect()
    }

    fn store(&mut self, rows: &[RowWrite<'_>]) -> Result<Vec<Option<i64>>, Trouble> {
        let stored = self.writing().and_then(|(client, writes)| writes.run(client, rows));
        let versions = stored.map_err(|error| trouble(&error))?;
        let updated = rows.iter().zip(&versions);
        let updated = updated.filter(|(row, version)| row.version != 0 && version.is_some());
        self.clocks
            .owe(updated.map(|(row, _)| (row.id, row.clock)), Instant::now());
        Ok(versions)
    }

    fn settle(&mut self, all: bool) -> Result<Option<Instant>, Trouble> {
        let shared = self.clocks.clone();
        loop {
            let now = Instant::now();
            let clocks = shared.take(all, now);
            if clocks.is_empty() {
                return Ok(shared.due());
            }
            let written = self
                .writing()
                .and_then(|(client, writes)| writes.clocks(client, &clocks));
            if let Err(error) = written {
                shared.owe(clocks.iter().map(|(document, clock)| (&**document, *clock)), now);
                return Err(trouble(&error));
            }
            if !all {
                return Ok(shared.due());
            }
        }
    }

    fn warm_up(&mut self, role: Role) -> Result<(), Trouble> {
        let nobody = match role {
            Role::Reads => self.client.query(&self.load, &[&[""].as_slice()]).map(drop),
            Role::Writes => self.writing().and_then(|(client, writes)| writes.warm_up(client)),
        };
        nobody.map_err(|error| trouble(&error))
    }

    fn snapshots(&mut self, ask: &SnapshotAsk) -> Result<Vec<SnapshotRow>, Trouble> {
        snapshots::run(&mut self.client, ask).map_err(|error| trouble(&error))
    }

    fn note_sessions(&mut self, here: &[SessionRow], gone: &[String]) -> Result<(), Trouble> {
        let noted = |client: &mut Client| -> Result<(), Error> {
            let mut transaction = client.transaction()?;
            if !here.is_empty() {
                let ids: Vec<&str> = here.iter().map(|row| &*row.id).collect();
                let users: Vec<&str> = here.iter().map(|row| &*row.user).collect();
                let clients: Vec<Option<&str>> = here.iter().map(|row| row.client.as_deref()).collect();
                transaction.execute(SESSIONS_HERE, &[&ids, &users, &clients])?;
            }
            if !gone.is_empty() {
                transaction.execute("DELETE FROM sessions WHERE id = ANY($1::text[])", &[&gone])?;
            }
            transaction.commit()
        };
        noted(&mut self.client).map_err(|error| trouble(&error))
    }

    fn clear(&mut self) -> Result<(), Trouble> {
        let all = "DELETE FROM sessions; DELETE FROM snapshots; DELETE FROM deltas; DELETE FROM vector_clocks; DELETE FROM documents";
        self.clocks.clear();
        self.client.batch_execute(all).map_err(|error| trouble(&error))
    }

    fn clean_up(&mut self) -> Result<u64, Trouble> {
        let cleaned = |client: &mut Client| -> Result<u64, Error> {
            let mut transaction = client.transaction()?;
            let turn = transaction.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&CLEAN_UP_LOCK])?;
            let mut rows = 0;
            if turn.try_get(0)? {
                for statement in CLEAN_UP {
                    rows += transaction.execute(statement, &[])?;
                }
            }
            transaction.commit()?;
            Ok(rows)
        };
        cleaned(&mut self.client).map_err(|error| trouble(&error))
    }

    fn ping(&mut self) -> Result<(), Trouble> {
        self.client.simple_query("").map(drop).map_err(|error| trouble(&error))
    }
}

/// What an error of the database means for whoever asked.
fn trouble(error: &Error) -> Trouble {
    let text = match error.as_db_error() {
        Some(refusal) => format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code()),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    };
    let Some(code) = error.code() else {
        return Trouble::Away(text);
    };
    let again = [SqlState::LOCK_NOT_AVAILABLE, SqlState::OBJECT_IN_USE];
    match &code.code()[..2] {
        "40" => Trouble::Again(text),
        _ if again.contains(code) => Trouble::Again(text),
        // What the content can cause: data exceptions, broken constraints, limits of the database, its internal errors.
        "21" | "22" | "23" | "54" | "XX" => Trouble::Refused(text),
        _ => Trouble::Away(text),
    }
}
