//! Documents in PostgreSQL, in the tables of docs/protocol.md §18.2.
//!
//! A batch is one statement, so it is one transaction and one round trip however many documents it writes: rows are
//! updated where their version is the expected one, new rows are inserted where there is none, and vector clocks and
//! audit trail follow only those that were written. Rows are locked in the order of their ids, so that servers which
//! write the same documents cannot lock each other out.

mod migrations;
pub mod probe;
mod tls;
mod url;

pub use url::{PostgresUrl, UrlError};

use super::backend::{Backend, Row, RowWrite, Trouble};
use crate::saved::{RowFacts, stored_value};
use hashbrown::HashMap;
use postgres::error::{Error, SqlState};
use postgres::{Client, Statement};
use std::error::Error as _;

/// Longest `field_path` and `client_id` in the audit trail, in characters.
const FIELD_PATH_CHARS_MAX: usize = 500;

// The plan is made once and knows nothing of the arrays' lengths, so nothing here may depend on a good guess: what is
// joined is found by index, or by a hashed subplan (the `IS TRUE` keeps the planner from making a join of it).
const STORE: &str = "
WITH input AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) AS t(id, version, state)
), locked AS (
    SELECT d.id, i.state FROM input i JOIN documents d ON d.id = i.id AND d.version = i.version
    ORDER BY d.id FOR NO KEY UPDATE OF d
), updated AS (
    UPDATE documents d SET state = l.state::jsonb FROM locked l WHERE d.id = l.id
    RETURNING d.id, d.version, (d.state->'meta'->>'L')::bigint AS clock
), inserted AS (
    INSERT INTO documents (id, state) SELECT i.id, i.state::jsonb FROM input i WHERE i.version = 0 ORDER BY i.id
    ON CONFLICT (id) DO NOTHING RETURNING id, version, (state->'meta'->>'L')::bigint AS clock
), done AS (
    SELECT * FROM updated UNION ALL SELECT * FROM inserted
), clocks AS (
    INSERT INTO vector_clocks AS v (document_id, client_id, clock_value)
    SELECT id, 'server', clock FROM done ORDER BY id
    ON CONFLICT (document_id, client_id)
    DO UPDATE SET clock_value = greatest(v.clock_value, excluded.clock_value), updated_at = now()
)";

const AUDIT: &str = ", audited AS (
    INSERT INTO deltas (document_id, client_id, operation_type, field_path, value, clock_value)
    SELECT a.id, a.client, a.kind, a.field, a.value::jsonb, a.clock
    FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[])
        AS a(id, client, kind, field, value, clock)
    WHERE (a.id IN (SELECT id FROM done)) IS TRUE
)";

const LOAD: &str = "
SELECT d.id, d.version, d.state::text, (extract(epoch FROM d.updated_at) * 1000)::bigint,
    (SELECT max(v.clock_value) FROM vector_clocks v WHERE v.document_id = d.id AND v.clock_value <= 1125899906842624)
FROM documents d WHERE d.id = ANY($1::text[])";

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
    store: Statement,
    store_audited: Statement,
    load: Statement,
}

impl Postgres {
    /// Connects to a database that [`Postgres::migrate`] has prepared.
    pub fn connect(url: &PostgresUrl) -> Result<Postgres, Trouble> {
        let mut client = url.connect()?;
        let prepare = |client: &mut Client, text: &str| client.prepare(text).map_err(|error| trouble(&error));
        Ok(Postgres {
            store: prepare(&mut client, &format!("{STORE} SELECT id, version FROM done"))?,
            store_audited: prepare(&mut client, &format!("{STORE}{AUDIT} SELECT id, version FROM done"))?,
            load: prepare(&mut client, LOAD)?,
            client,
        })
    }

    /// Brings the schema up to date. Safe from several servers at once.
    pub fn migrate(url: &PostgresUrl) -> Result<(), Trouble> {
        migrations::migrate(&mut url.connect()?)
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
        let ids: Vec<&str> = rows.iter().map(|row| row.id).collect();
        let versions: Vec<i64> = rows.iter().map(|row| row.version).collect();
        let states: Vec<&str> = rows.iter().map(|row| row.state).collect();
        let done = if rows.iter().all(|row| row.audit.is_empty()) {
            self.client.query(&self.store, &[&ids, &versions, &states])
        } else {
            let audit = Audit::of(rows);
            self.client.query(
                &self.store_audited,
                &[
                    &ids,
                    &versions,
                    &states,
                    &audit.ids,
                    &audit.clients,
                    &audit.kinds,
                    &audit.fields,
                    &audit.values,
                    &audit.clocks,
                ],
            )
        };
        let done = done.map_err(|error| trouble(&error))?;
        let places: HashMap<&str, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let mut outcome = vec![None; rows.len()];
        for row in done {
            let (id, version) = match (row.try_get::<_, &str>(0), row.try_get::<_, i64>(1)) {
                (Ok(id), Ok(version)) => (id, version),
                (Err(error), _) | (_, Err(error)) => return Err(trouble(&error)),
            };
            if let Some(&at) = places.get(id) {
                outcome[at] = Some(version);
            }
        }
        Ok(outcome)
    }

    fn clear(&mut self) -> Result<(), Trouble> {
        let all = "DELETE FROM sessions; DELETE FROM snapshots; DELETE FROM deltas; DELETE FROM vector_clocks; DELETE FROM documents";
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

/// The audit trail of a batch as columns.
#[derive(Default)]
struct Audit<'a> {
    ids: Vec<&'a str>,
    clients: Vec<String>,
    kinds: Vec<&'static str>,
    fields: Vec<String>,
    values: Vec<Option<String>>,
    clocks: Vec<i64>,
}

impl<'a> Audit<'a> {
    fn of(rows: &'a [RowWrite<'a>]) -> Audit<'a> {
        let mut audit = Audit::default();
        for (row, entry) in rows
            .iter()
            .flat_map(|row| row.audit.iter().map(move |entry| (row, entry)))
        {
            audit.ids.push(row.id);
            audit.clients.push(super::audit::client_id(&entry.client));
            audit.kinds.push(entry.kind.name());
            audit.fields.push(super::audit::cut(&entry.field, FIELD_PATH_CHARS_MAX));
            let value = entry.value.as_deref().map(|value| stored_value(value).into_owned());
            audit.values.push(value.and_then(|value| String::from_utf8(value).ok()));
            audit.clocks.push(entry.lam as i64);
        }
        audit
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
