//! What is too old is deleted from PostgreSQL (docs/protocol.md §18.4): sessions after a day, the audit trail after 30 days,
//! snapshots after a week and beyond ten of a document; never documents. One server at a time.

use test_support as support;

use support::database::Postgres;
use synckit_server::storage::Backend;
use synckit_server::storage::postgres::{Clocks, Postgres as Connection, PostgresUrl};

#[test]
fn the_clean_up_deletes_what_is_too_old_and_nothing_else() {
    let postgres = Postgres::start();
    let url = PostgresUrl::parse(&postgres.url()).expect("a URL");
    Connection::migrate(&url).expect("the schema");
    let mut admin = postgres.connect();
    admin
        .batch_execute(
            "INSERT INTO documents (id, created_at, updated_at) VALUES ('d', '2001-01-01', '2001-01-01');
             INSERT INTO sessions (id, user_id, last_seen) VALUES
                 ('old', 'u', now() - INTERVAL '25 hours'), ('new', 'u', now() - INTERVAL '23 hours');
             INSERT INTO deltas (document_id, client_id, operation_type, field_path, clock_value, timestamp) VALUES
                 ('d', 'c', 'set', 'old', 1, now() - INTERVAL '31 days'),
                 ('d', 'c', 'set', 'new', 1, now() - INTERVAL '29 days');
             INSERT INTO snapshots (document_id, state, version, size_bytes, created_at)
                 SELECT 'd', '{}', '{}', n, now() - n * INTERVAL '13 hours' FROM generate_series(1, 14) n",
        )
        .expect("rows");
    let mut connection = Connection::connect(&url, &Clocks::default()).expect("a connection");
    // While another server is at it, nothing is done twice.
    let mut other = admin.transaction().expect("a transaction");
    other
        .batch_execute("SELECT pg_advisory_xact_lock(x'73796e636b6975'::bigint)")
        .expect("the lock");
    assert_eq!(connection.clean_up(), Ok(0));
    other.commit().expect("the end");
    // Two snapshots are older than a week, two more beyond the ten newest.
    assert_eq!(connection.clean_up(), Ok(1 + 1 + 4));
    let left = "SELECT (SELECT string_agg(id, '') FROM sessions), (SELECT string_agg(field_path, '') FROM deltas),
        (SELECT max(size_bytes) FROM snapshots), (SELECT count(*) FROM documents)";
    let left = admin.query_one(left, &[]).expect("what is left");
    assert_eq!(
        (left.get::<_, String>(0), left.get::<_, String>(1)),
        ("new".into(), "new".into())
    );
    assert_eq!((left.get::<_, i32>(2), left.get::<_, i64>(3)), (10, 1));
    assert_eq!(connection.clean_up(), Ok(0));
}
