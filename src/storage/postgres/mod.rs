//! Documents in PostgreSQL, in the tables of docs/protocol.md §18.2.
//!
//! A batch is one statement, so it is one transaction and one round trip however many documents it writes: rows are
//! updated where their version is the expected one, new rows are inserted where there is none, and vector clocks and
//! audit trail follow only those that were written. Batches come in the order of their ids, so that servers which write the
//! same documents do not lock each other out.

mod migrations;
pub mod probe;
mod snapshots;
mod tls;
mod url;

pub use url::{PostgresUrl, UrlError};

use super::backend::{Backend, Row, RowWrite, Trouble};
use crate::saved::{RowFacts, SnapshotAsk, SnapshotRow, stored_value};
use hashbrown::HashMap;
use postgres::error::{Error, SqlState};
use postgres::{Client, Statement};
use rand::Rng;
use std::error::Error as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest `field_path` and `client_id` in the audit trail, in characters.
const FIELD_PATH_CHARS_MAX: usize = 500;

/// Plans of writes are made once, perhaps while the tables are empty, and know nothing of the arrays' lengths. So nothing may
/// depend on a guess: with these settings, and with `= ANY (ARRAY[…])` in place of `=`, which no merge join could use and for
/// which no index would be read from end to end, a row is found by one look into its index. (A hashed subplan is no join; the
/// `IS TRUE` keeps the planner from making one of it.)
const SETTINGS: &str = "
SET plan_cache_mode = force_generic_plan; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off";

// Rows are written in the order of the arrays, which is that of the ids. `vector_clocks.updated_at` moves once a minute: as
// long as no indexed column changes, an update touches no index.
const UPDATE: &str = "
WITH input AS (
    SELECT t.*, 'server' AS client
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS t(id, version, state, clock)
), updated AS (
    UPDATE documents d SET state = i.state::jsonb FROM input i WHERE d.id = ANY (ARRAY[i.id]) AND d.version = i.version
    RETURNING d.id, d.version, i.clock, i.client
), counted AS (
    UPDATE vector_clocks v SET clock_value = greatest(v.clock_value, u.clock),
        updated_at = CASE WHEN v.updated_at > now() - INTERVAL '1 minute' THEN v.updated_at ELSE now() END
    FROM updated u WHERE v.document_id = ANY (ARRAY[u.id]) AND v.client_id = ANY (ARRAY[u.client])
    RETURNING v.document_id
)";

/// The same where some documents have no row yet. Two texts, because every part of a statement takes its time to be set up,
/// and nearly all writes find their rows.
const INSERT: &str = ", inserted AS (
    INSERT INTO documents (id, state) SELECT i.id, i.state::jsonb FROM input i WHERE i.version = 0
    ON CONFLICT (id) DO NOTHING RETURNING id, version
), done AS (
    SELECT id, version FROM updated UNION ALL SELECT id, version FROM inserted
), clocks AS (
    INSERT INTO vector_clocks AS v (document_id, client_id, clock_value)
    SELECT i.id, 'server', i.clock FROM input i
    WHERE (i.id IN (SELECT id FROM done)) IS TRUE AND (i.id IN (SELECT document_id FROM counted)) IS NOT TRUE
    ON CONFLICT (document_id, client_id)
    DO UPDATE SET clock_value = greatest(v.clock_value, excluded.clock_value), updated_at = now()
)";

/// Clocks of rows that another program made.
const CLOCKS: &str = "
INSERT INTO vector_clocks AS v (document_id, client_id, clock_value)
SELECT t.id, 'server', t.clock FROM unnest($1::text[], $2::bigint[]) AS t(id, clock) JOIN documents d ON d.id = t.id
ON CONFLICT (document_id, client_id)
DO UPDATE SET clock_value = greatest(v.clock_value, excluded.clock_value), updated_at = now()";

const AUDIT: &str = ", audited AS (
    INSERT INTO deltas (id, document_id, client_id, operation_type, field_path, value, clock_value)
    SELECT a.uuid::uuid, a.id, a.client, a.kind, a.field, a.value::jsonb, a.clock
    FROM unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[])
        AS a(uuid, id, client, kind, field, value, clock)
    WHERE (a.id IN (SELECT id FROM DONE)) IS TRUE
)";

/// What was written, and whether its clock was.
const UPDATED: &str = "SELECT id, version, (id IN (SELECT document_id FROM counted)) IS TRUE FROM updated";
const STORED: &str = "SELECT id, version, true FROM done";

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
    /// Without and with an audit trail.
    update: [Statement; 2],
    insert: [Statement; 2],
    load: Statement,
}

impl Postgres {
    /// Connects to a database that [`Postgres::migrate`] has prepared.
    pub fn connect(url: &PostgresUrl) -> Result<Postgres, Trouble> {
        let mut client = url.connect()?;
        client.batch_execute(SETTINGS).map_err(|error| trouble(&error))?;
        let prepare = |client: &mut Client, text: &str| client.prepare(text).map_err(|error| trouble(&error));
        Ok(Postgres {
            update: [
                prepare(&mut client, &format!("{UPDATE} {UPDATED}"))?,
                prepare(
                    &mut client,
                    &format!("{UPDATE}{} {UPDATED}", AUDIT.replace("DONE", "updated")),
                )?,
            ],
            insert: [
                prepare(&mut client, &format!("{UPDATE}{INSERT} {STORED}"))?,
                prepare(
                    &mut client,
                    &format!("{UPDATE}{INSERT}{} {STORED}", AUDIT.replace("DONE", "done")),
                )?,
            ],
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
        let clocks: Vec<i64> = rows.iter().map(|row| row.clock).collect();
        let statements = match rows.iter().any(|row| row.version == 0) {
            true => &self.insert,
            false => &self.update,
        };
        let done = if rows.iter().all(|row| row.audit.is_empty()) {
            self.client.query(&statements[0], &[&ids, &versions, &states, &clocks])
        } else {
            let audit = Audit::of(rows);
            self.client.query(
                &statements[1],
                &[
                    &ids,
                    &versions,
                    &states,
                    &clocks,
                    &audit.uuids,
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
        let mut uncounted = Vec::new();
        for row in done {
            let read = |row: &postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            let (id, version, counted): (String, i64, bool) = read(&row).map_err(|error: Error| trouble(&error))?;
            if let Some(&at) = places.get(&*id) {
                outcome[at] = Some(version);
                if !counted {
                    uncounted.push(at);
                }
            }
        }
        self.count(rows, &uncounted);
        Ok(outcome)
    }

    fn snapshots(&mut self, ask: &SnapshotAsk) -> Result<Vec<SnapshotRow>, Trouble> {
        snapshots::run(&mut self.client, ask).map_err(|error| trouble(&error))
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

impl Postgres {
    /// Gives clocks to rows that had none. The documents are committed: if this fails, the next write of each tries again.
    fn count(&mut self, rows: &[RowWrite<'_>], places: &[usize]) {
        if places.is_empty() {
            return;
        }
        let ids: Vec<&str> = places.iter().map(|at| rows[*at].id).collect();
        let clocks: Vec<i64> = places.iter().map(|at| rows[*at].clock).collect();
        if let Err(error) = self.client.execute(CLOCKS, &[&ids, &clocks]) {
            tracing::warn!("vector clocks of {} documents are not written: {error}", ids.len());
        }
    }
}

/// The audit trail of a batch as columns.
#[derive(Default)]
struct Audit<'a> {
    uuids: Vec<String>,
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
        let mut random = rand::rng();
        let unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        for (row, entry) in rows
            .iter()
            .flat_map(|row| row.audit.iter().map(move |entry| (row, entry)))
        {
            audit.uuids.push(uuid_v7(unix_ms, random.random()));
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

/// An id that grows with time (RFC 9562 §5.7), so that new rows stand side by side in the index: random ones would touch a
/// page of the index each.
fn uuid_v7(unix_ms: u64, random: u128) -> String {
    const VERSION: u128 = 7 << 76;
    const VARIANT: u128 = 2 << 62;
    // 74 random bits, around version and variant.
    const RANDOM: u128 = 0xfff << 64 | 0x3fff_ffff_ffff_ffff;
    let bits = u128::from(unix_ms) << 80 | VERSION | VARIANT | random & RANDOM;
    format!("{bits:032x}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_audit_trail_are_uuids_in_the_order_of_time() {
        let id = uuid_v7(0x0123_4567_89ab, u128::MAX);
        assert_eq!(id, "0123456789ab7fffbfffffffffffffff");
        assert_eq!(uuid_v7(1, 0), "00000000000170008000000000000000");
        assert!(uuid_v7(1, u128::MAX) < uuid_v7(2, 0));
    }
}
