//! Every update of a document's row in PostgreSQL moves its version by one and its time to now (docs/protocol.md §18.2),
//! whoever writes: this server one document or many, or another program that relies on the triggers or means to set those
//! columns itself. A write that expects another version writes nothing, beside the document neither. Tried on a real
//! PostgreSQL with the triggers of this server, and with those that other servers of the family make.

use test_support as support;

use postgres::Client;
use std::time::{Duration, Instant};
use support::database::Postgres;
use synckit_server::saved::{AuditEntry, AuditKind};
use synckit_server::storage::postgres::{Clocks, Postgres as Connection, PostgresUrl};
use synckit_server::storage::{Backend, RowWrite};

const FAMILY_TRIGGERS: &str = "
DROP TRIGGER update_documents_updated_at ON documents;
CREATE TRIGGER update_documents_updated_at BEFORE UPDATE ON documents
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
DROP TRIGGER increment_documents_version ON documents;
CREATE TRIGGER increment_documents_version BEFORE UPDATE ON documents
    FOR EACH ROW EXECUTE FUNCTION increment_document_version();";

fn entry(field: &str) -> AuditEntry {
    AuditEntry {
        kind: AuditKind::Set,
        field: field.into(),
        value: Some((*b"{\"n\":null}").into()),
        client: "writer".into(),
        lam: 7,
    }
}

/// The row's version, its state's `n`, its clock and its entries in the audit trail; and whether its time is that of the
/// last write.
fn row(admin: &mut Client, id: &str) -> (i64, i32, Option<i64>, i64, bool) {
    let facts = "SELECT version, (state->>'n')::int, (SELECT clock_value FROM vector_clocks WHERE document_id = d.id),
            (SELECT count(*) FROM deltas WHERE document_id = d.id AND value = '{\"n\": null}' AND client_id = 'writer'
                AND operation_type = 'set' AND clock_value = 7),
            updated_at > now() - INTERVAL '1 hour'
        FROM documents d WHERE id = $1";
    let row = admin.query_one(facts, &[&id]).expect("a row");
    (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))
}

fn writes_are_counted(connection: &mut Connection, admin: &mut Client) {
    let (one, two) = ([entry("a")], [entry("a"), entry("b")]);
    let write = |id, version, state, clock, audit| RowWrite {
        id,
        version,
        state,
        clock,
        audit,
    };
    // Alone: made, updated without and with an entry in the audit trail.
    assert_eq!(
        connection.store(&[write("a", 0, "{\"n\":1}", 10, &[])]),
        Ok(vec![Some(1)])
    );
    assert_eq!(row(admin, "a"), (1, 1, Some(10), 0, true));
    let age = "ALTER TABLE documents DISABLE TRIGGER USER;
        UPDATE documents SET updated_at = '2001-01-01'; ALTER TABLE documents ENABLE TRIGGER USER;";
    admin.batch_execute(age).expect("an old row");
    assert_eq!(
        connection.store(&[write("a", 1, "{\"n\":2}", 20, &[])]),
        Ok(vec![Some(2)])
    );
    // Clocks of rows that are updated follow within a second.
    assert_eq!(row(admin, "a"), (2, 2, Some(10), 0, true));
    let due = connection.settle(false).expect("nothing is due yet").expect("a time");
    assert!(due > Instant::now() && due < Instant::now() + Duration::from_secs(1));
    assert_eq!(row(admin, "a"), (2, 2, Some(10), 0, true));
    std::thread::sleep(due - Instant::now());
    assert_eq!(connection.settle(false), Ok(None));
    assert_eq!(row(admin, "a"), (2, 2, Some(20), 0, true));
    admin.batch_execute(age).expect("an old row");
    assert_eq!(
        connection.store(&[write("a", 2, "{\"n\":3}", 15, &one)]),
        Ok(vec![Some(3)])
    );
    assert_eq!(connection.settle(true), Ok(None));
    assert_eq!(row(admin, "a"), (3, 3, Some(20), 1, true));
    // Another version than that of the row, alone and beside others: nothing is written for it.
    assert_eq!(
        connection.store(&[write("a", 2, "{\"n\":4}", 40, &one)]),
        Ok(vec![None])
    );
    assert_eq!(
        connection.store(&[write("none", 5, "{\"n\":4}", 40, &one)]),
        Ok(vec![None])
    );
    admin.batch_execute(age).expect("an old row");
    let batch = [
        write("a", 3, "{\"n\":5}", 50, &two),
        write("b", 0, "{\"n\":5}", 50, &one),
    ];
    assert_eq!(connection.store(&batch), Ok(vec![Some(4), Some(1)]));
    let batch = [
        write("a", 3, "{\"n\":6}", 60, &two),
        write("b", 1, "{\"n\":6}", 60, &one),
    ];
    assert_eq!(connection.store(&batch), Ok(vec![None, Some(2)]));
    assert_eq!(row(admin, "b"), (2, 6, Some(50), 2, true));
    assert_eq!(connection.settle(true), Ok(None));
    assert_eq!(row(admin, "a"), (4, 5, Some(50), 3, true));
    assert_eq!(row(admin, "b"), (2, 6, Some(60), 2, true));
    // A row that another program made has no clock yet.
    let made = "INSERT INTO documents (id, state) VALUES ('theirs', '{\"n\":0}')";
    admin.batch_execute(made).expect("their row");
    assert_eq!(
        connection.store(&[write("theirs", 1, "{\"n\":7}", 70, &one)]),
        Ok(vec![Some(2)])
    );
    assert_eq!(connection.settle(true), Ok(None));
    assert_eq!(row(admin, "theirs"), (2, 7, Some(70), 1, true));
    // Other programs: the version counts and the time is now, also if they set them.
    for (version, update) in (3..).zip([
        "state = '{\"n\":8}'",
        "version = 99",
        "version = version + 2",
        "created_at = now()",
    ]) {
        admin.batch_execute(age).expect("an old row");
        let update = format!("UPDATE documents SET {update}, updated_at = '2002-02-02' WHERE id = 'theirs'");
        assert_eq!(admin.execute(&update, &[]).expect("their update"), 1);
        assert_eq!(row(admin, "theirs"), (version, 8, Some(70), 1, true), "{update}");
    }
    // What was deleted meanwhile has no clock to write.
    assert_eq!(
        connection.store(&[write("theirs", 6, "{\"n\":9}", 80, &[])]),
        Ok(vec![Some(7)])
    );
    let delete = "DELETE FROM documents WHERE id = 'theirs'";
    assert_eq!(admin.execute(delete, &[]).expect("their deletion"), 1);
    assert_eq!(connection.settle(true), Ok(None));
    connection.clear().expect("the tables can be emptied");
}

#[test]
fn every_update_moves_version_and_time_whoever_writes() {
    let postgres = Postgres::start();
    let url = PostgresUrl::parse(&postgres.url()).expect("a URL");
    Connection::migrate(&url).expect("the schema");
    let mut admin = postgres.connect();
    let mut connection = Connection::connect(&url, &Clocks::default()).expect("a connection");
    writes_are_counted(&mut connection, &mut admin);
    admin.batch_execute(FAMILY_TRIGGERS).expect("their triggers");
    writes_are_counted(&mut connection, &mut admin);
    // They are replaced when an older schema is migrated.
    let older = "DELETE FROM synckit_migrations WHERE version > 1";
    assert!(admin.execute(older, &[]).expect("an older schema") > 0);
    Connection::migrate(&url).expect("the schema again");
    let spared = "SELECT count(*) FROM pg_trigger
        WHERE tgrelid = 'documents'::regclass AND NOT tgisinternal AND tgqual IS NOT NULL";
    assert_eq!(admin.query_one(spared, &[]).expect("triggers").get::<_, i64>(0), 2);
    writes_are_counted(&mut connection, &mut admin);
}
