//! Writing documents: statements that are one transaction and one round trip each.
//!
//! A document that comes alone has a statement of its own. Setting up arrays, joins and hashed subplans takes PostgreSQL as
//! long as all the rest of such a write, and who writes alone waits for it.

use super::super::audit;
use super::super::backend::RowWrite;
use crate::saved::{AuditEntry, AuditKind, stored_value};
use hashbrown::HashMap;
use postgres::error::Error;
use postgres::{Client, Row, Statement};
use rand::Rng;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest `field_path` and `client_id` in the audit trail, in characters.
const FIELD_PATH_CHARS_MAX: usize = 500;

// Rows are written in the order of the arrays, which is that of the ids. Version and time are what the triggers would make
// them, who then need not be called. The clocks of rows that are updated follow later: see [`super::clocks`].
const UPDATE: &str = "
WITH input AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS t(id, version, state, clock)
), updated AS (
    UPDATE documents d SET state = i.state::jsonb, version = d.version + 1, updated_at = now()
    FROM input i WHERE d.id = ANY (ARRAY[i.id]) AND d.version = i.version
    RETURNING d.id, d.version
)";

/// The same where some documents have no row yet. Two texts, because every part of a statement takes its time to be set up,
/// and nearly all writes find their rows.
const INSERT: &str = ", inserted AS (
    INSERT INTO documents (id, state) SELECT i.id, i.state::jsonb FROM input i WHERE i.version = 0
    ON CONFLICT (id) DO NOTHING RETURNING id, version
), done AS (
    SELECT id, version FROM updated UNION ALL SELECT id, version FROM inserted
), clocks AS (
    INSERT INTO vector_clocks (document_id, client_id, clock_value)
    SELECT i.id, 'server', i.clock FROM input i WHERE (i.id IN (SELECT id FROM inserted)) IS TRUE
)";

const AUDIT: &str = ", audited AS (
    INSERT INTO deltas (id, document_id, client_id, operation_type, field_path, value, clock_value)
    SELECT a.uuid::uuid, a.id, a.client, a.kind, a.field, a.value::jsonb, a.clock
    FROM unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[])
        AS a(uuid, id, client, kind, field, value, clock)
    WHERE (a.id IN (SELECT id FROM DONE)) IS TRUE
)";

/// One document that has a row.
const UPDATE_ONE: &str = "
WITH updated AS (
    UPDATE documents d SET state = $3::text::jsonb, version = d.version + 1, updated_at = now()
    WHERE d.id = $1 AND d.version = $2 RETURNING d.id, d.version
)";

/// The one entry it has in the audit trail.
const AUDIT_ONE: &str = ", audited AS (
    INSERT INTO deltas (id, document_id, client_id, operation_type, field_path, value, clock_value)
    SELECT $4::text::uuid, u.id, $5::text, $6::text, $7::text, $8::text::jsonb, $9::bigint FROM updated u
)";

/// What was written.
const UPDATED: &str = "SELECT id, version FROM updated";
const STORED: &str = "SELECT id, version FROM done";

/// Clocks of rows that were updated. `updated_at` moves once a minute: as long as no indexed column changes, no index is
/// touched.
const CLOCKS: &str = "
INSERT INTO vector_clocks AS v (document_id, client_id, clock_value)
SELECT d.id, 'server', t.clock FROM unnest($1::text[], $2::bigint[]) AS t(id, clock), documents d
WHERE d.id = ANY (ARRAY[t.id])
ON CONFLICT (document_id, client_id) DO UPDATE SET clock_value = greatest(v.clock_value, excluded.clock_value),
    updated_at = CASE WHEN v.updated_at > now() - INTERVAL '1 minute' THEN v.updated_at ELSE now() END";

/// The statements, prepared; each without and with an audit trail.
pub(super) struct Writes {
    one: [Statement; 2],
    update: [Statement; 2],
    insert: [Statement; 2],
    clocks: Statement,
}

impl Writes {
    pub(super) fn prepare(client: &mut Client) -> Result<Writes, Error> {
        let mut both = |parts: &str, audit: &str, found: &str| -> Result<[Statement; 2], Error> {
            Ok([
                client.prepare(&format!("{parts} {found}"))?,
                client.prepare(&format!("{parts}{audit} {found}"))?,
            ])
        };
        Ok(Writes {
            one: both(UPDATE_ONE, AUDIT_ONE, UPDATED)?,
            update: both(UPDATE, &AUDIT.replace("DONE", "updated"), UPDATED)?,
            insert: both(&format!("{UPDATE}{INSERT}"), &AUDIT.replace("DONE", "done"), STORED)?,
            clocks: client.prepare(CLOCKS)?,
        })
    }

    /// Has the statements planned that nearly all writes use, by writing nothing.
    pub(super) fn warm_up(&self, client: &mut Client) -> Result<(), Error> {
        let nobody = RowWrite {
            id: "",
            version: -1,
            state: "{}",
            clock: 0,
            audit: &[],
        };
        let nothing = AuditEntry {
            kind: AuditKind::Set,
            field: "".into(),
            value: None,
            client: "".into(),
            lam: 0,
        };
        self.write_one(client, &nobody, Some(&nothing))?;
        self.clocks(client, &[])?;
        self.write_many(client, &[], true).map(drop)
    }

    /// See [`Backend::store`](super::Backend::store).
    pub(super) fn run(&self, client: &mut Client, rows: &[RowWrite<'_>]) -> Result<Vec<Option<i64>>, Error> {
        let done = match rows {
            [row] if row.version != 0 && row.audit.len() <= 1 => self.write_one(client, row, row.audit.first()),
            _ => self.write_many(client, rows, rows.iter().any(|row| !row.audit.is_empty())),
        }?;
        let places: HashMap<&str, usize> = rows.iter().enumerate().map(|(at, row)| (row.id, at)).collect();
        let mut outcome = vec![None; rows.len()];
        for row in done {
            let (id, version): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
            if let Some(&at) = places.get(id) {
                outcome[at] = Some(version);
            }
        }
        Ok(outcome)
    }

    /// Writes clocks, which come in the order of their documents; those of rows that are gone are left out.
    pub(super) fn clocks(&self, client: &mut Client, clocks: &[(Arc<str>, i64)]) -> Result<(), Error> {
        let (ids, clocks): (Vec<&str>, Vec<i64>) = clocks.iter().map(|(id, clock)| (&**id, *clock)).unzip();
        client.execute(&self.clocks, &[&ids, &clocks]).map(drop)
    }

    fn write_one(
        &self,
        client: &mut Client,
        row: &RowWrite<'_>,
        entry: Option<&AuditEntry>,
    ) -> Result<Vec<Row>, Error> {
        let Some(entry) = entry else {
            return client.query(&self.one[0], &[&row.id, &row.version, &row.state]);
        };
        let entry = Audited::of(entry);
        let id = uuid_v7(unix_ms(), rand::rng().random());
        client.query(
            &self.one[1],
            &[
                &row.id,
                &row.version,
                &row.state,
                &id,
                &entry.client,
                &entry.kind,
                &entry.field,
                &entry.value,
                &entry.clock,
            ],
        )
    }

    fn write_many(&self, client: &mut Client, rows: &[RowWrite<'_>], audited: bool) -> Result<Vec<Row>, Error> {
        let ids: Vec<&str> = rows.iter().map(|row| row.id).collect();
        let versions: Vec<i64> = rows.iter().map(|row| row.version).collect();
        let states: Vec<&str> = rows.iter().map(|row| row.state).collect();
        let clocks: Vec<i64> = rows.iter().map(|row| row.clock).collect();
        let statements = match rows.iter().any(|row| row.version == 0) {
            true => &self.insert,
            false => &self.update,
        };
        if !audited {
            return client.query(&statements[0], &[&ids, &versions, &states, &clocks]);
        }
        let audit = Audit::of(rows);
        client.query(
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
    }
}

/// An entry of the audit trail as its table takes it.
struct Audited {
    client: String,
    kind: &'static str,
    field: String,
    value: Option<String>,
    clock: i64,
}

impl Audited {
    fn of(entry: &AuditEntry) -> Audited {
        let value = entry.value.as_deref().map(|value| stored_value(value).into_owned());
        Audited {
            client: audit::client_id(&entry.client),
            kind: entry.kind.name(),
            field: audit::cut(&entry.field, FIELD_PATH_CHARS_MAX),
            value: value.and_then(|value| String::from_utf8(value).ok()),
            clock: entry.lam as i64,
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
        let unix_ms = unix_ms();
        for (row, entry) in rows
            .iter()
            .flat_map(|row| row.audit.iter().map(move |entry| (row, entry)))
        {
            let entry = Audited::of(entry);
            audit.uuids.push(uuid_v7(unix_ms, random.random()));
            audit.ids.push(row.id);
            audit.clients.push(entry.client);
            audit.kinds.push(entry.kind);
            audit.fields.push(entry.field);
            audit.values.push(entry.value);
            audit.clocks.push(entry.clock);
        }
        audit
    }
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
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
