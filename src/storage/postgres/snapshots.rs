//! Table `snapshots` (docs/protocol.md §18.2). Rare, so nothing is prepared for it.

use crate::saved::{NewSnapshot, SnapshotAsk, SnapshotRow, encode_snapshot};
use postgres::error::Error;
use postgres::{Client, Row};

/// What every answer says of a snapshot, from a table called `s`.
macro_rules! facts {
    () => {
        "s.id::text, s.document_id, s.version::text, s.size_bytes, (extract(epoch FROM s.created_at) * 1000)::bigint"
    };
}

/// Asked again after a lost commit, it finds its own row.
const ADD: &str = concat!(
    "INSERT INTO snapshots AS s (id, document_id, state, version, size_bytes)
     SELECT $1::text::uuid, d.id, $3::text::jsonb, jsonb_build_object('server', $4::bigint), $5
     FROM documents d WHERE d.id = $2
     ON CONFLICT (id) DO UPDATE SET size_bytes = excluded.size_bytes RETURNING ",
    facts!(),
    ", ''"
);
const LATEST: &str = concat!(
    "SELECT ",
    facts!(),
    ", s.state::text FROM snapshots s WHERE s.document_id = $1 ORDER BY s.created_at DESC, s.id LIMIT 1"
);
const LIST: &str = concat!(
    "SELECT ",
    facts!(),
    ", '' FROM snapshots s WHERE s.document_id = $1 ORDER BY s.created_at DESC, s.id LIMIT $2"
);
const FIND: &str = concat!(
    "SELECT ",
    facts!(),
    ", s.state::text FROM snapshots s WHERE s.id = $1::text::uuid"
);
const REMOVE: &str = concat!(
    "DELETE FROM snapshots s WHERE s.id = $1::text::uuid RETURNING ",
    facts!(),
    ", ''"
);

pub(super) fn run(client: &mut Client, ask: &SnapshotAsk) -> Result<Vec<SnapshotRow>, Error> {
    let rows = match ask {
        SnapshotAsk::Add(snapshot) => add(client, snapshot)?,
        SnapshotAsk::Latest(document) => client.query(LATEST, &[&&**document])?,
        SnapshotAsk::List { document, limit } => {
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            client.query(LIST, &[&&**document, &limit])?
        }
        SnapshotAsk::Find(id) => client.query(FIND, &[id])?,
        SnapshotAsk::Remove(id) => client.query(REMOVE, &[id])?,
    };
    rows.iter().map(read).collect()
}

fn add(client: &mut Client, snapshot: &NewSnapshot) -> Result<Vec<Row>, Error> {
    let (state, size_bytes) = encode_snapshot(&snapshot.content);
    let clock = i64::try_from(snapshot.content.clock).unwrap_or(i64::MAX);
    let size_bytes = i32::try_from(size_bytes).unwrap_or(i32::MAX);
    client.query(ADD, &[&snapshot.id, &&*snapshot.document, &state, &clock, &size_bytes])
}

fn read(row: &Row) -> Result<SnapshotRow, Error> {
    Ok(SnapshotRow {
        id: row.try_get(0)?,
        document: row.try_get(1)?,
        version: row.try_get(2)?,
        size_bytes: u64::try_from(row.try_get::<_, i32>(3)?).unwrap_or(0),
        created_at_ms: u64::try_from(row.try_get::<_, i64>(4)?).unwrap_or(0),
        state: row.try_get(5)?,
    })
}
