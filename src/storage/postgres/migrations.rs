//! The schema of docs/protocol.md §18.2, in numbered steps.
//!
//! Every step runs in one transaction that holds an advisory lock, so servers that start together take turns. Steps only
//! create what is missing, because a server of the family may have made the tables before.

use super::{Trouble, trouble};
use postgres::Client;

/// The advisory lock of schema changes: "synckit" in ASCII.
const LOCK: i64 = 0x0073_796e_636b_6974;

const STEPS: [&str; 2] = [STEP_1, STEP_2];

const STEP_1: &str = r#"
CREATE TABLE IF NOT EXISTS documents (
    id VARCHAR(255) PRIMARY KEY,
    state JSONB NOT NULL DEFAULT '{}',
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    version BIGINT NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS vector_clocks (
    document_id VARCHAR(255) NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    client_id VARCHAR(255) NOT NULL,
    clock_value BIGINT NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    PRIMARY KEY (document_id, client_id)
);
CREATE TABLE IF NOT EXISTS deltas (
    id UUID PRIMARY KEY DEFAULT NEW_UUID,
    document_id VARCHAR(255) NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    client_id VARCHAR(255) NOT NULL,
    operation_type VARCHAR(50) NOT NULL,
    field_path VARCHAR(500) NOT NULL,
    value JSONB,
    clock_value BIGINT NOT NULL,
    timestamp TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS sessions (
    id VARCHAR(255) PRIMARY KEY,
    user_id VARCHAR(255) NOT NULL,
    client_id VARCHAR(255),
    connected_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    last_seen TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    metadata JSONB DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS snapshots (
    id UUID PRIMARY KEY DEFAULT NEW_UUID,
    document_id VARCHAR(255) NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    state JSONB NOT NULL,
    version JSONB NOT NULL,
    size_bytes INTEGER NOT NULL,
    compressed BOOLEAN DEFAULT false,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS idx_documents_updated_at ON documents (updated_at DESC);
CREATE INDEX IF NOT EXISTS idx_vector_clocks_document_id ON vector_clocks (document_id);
CREATE INDEX IF NOT EXISTS idx_vector_clocks_updated_at ON vector_clocks (updated_at DESC);
CREATE INDEX IF NOT EXISTS idx_deltas_document_id ON deltas (document_id, timestamp DESC);
CREATE INDEX IF NOT EXISTS idx_deltas_timestamp ON deltas (timestamp DESC);
CREATE INDEX IF NOT EXISTS idx_sessions_user_id ON sessions (user_id);
CREATE INDEX IF NOT EXISTS idx_sessions_last_seen ON sessions (last_seen DESC);
CREATE INDEX IF NOT EXISTS idx_snapshots_document_id ON snapshots (document_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_snapshots_created_at ON snapshots (created_at DESC);

CREATE OR REPLACE FUNCTION update_updated_at_column() RETURNS TRIGGER AS $$
BEGIN NEW.updated_at := now(); RETURN NEW; END; $$ LANGUAGE plpgsql;
CREATE OR REPLACE FUNCTION increment_document_version() RETURNS TRIGGER AS $$
BEGIN NEW.version := OLD.version + 1; RETURN NEW; END; $$ LANGUAGE plpgsql;
CREATE OR REPLACE FUNCTION cleanup_old_sessions() RETURNS INTEGER AS $$
DECLARE deleted INTEGER;
BEGIN
    DELETE FROM sessions WHERE last_seen < now() - INTERVAL '24 hours';
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END; $$ LANGUAGE plpgsql;
CREATE OR REPLACE FUNCTION cleanup_old_deltas() RETURNS INTEGER AS $$
DECLARE deleted INTEGER;
BEGIN
    DELETE FROM deltas WHERE timestamp < now() - INTERVAL '30 days';
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END; $$ LANGUAGE plpgsql;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = 'documents'::regclass AND tgname = 'update_documents_updated_at') THEN
        CREATE TRIGGER update_documents_updated_at BEFORE UPDATE ON documents
            FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = 'documents'::regclass AND tgname = 'increment_documents_version') THEN
        CREATE TRIGGER increment_documents_version BEFORE UPDATE ON documents
            FOR EACH ROW EXECUTE FUNCTION increment_document_version();
    END IF;
    IF to_regclass('documents_with_clocks') IS NULL THEN
        CREATE VIEW documents_with_clocks AS
            SELECT d.id, d.state, d.created_at, d.updated_at, d.version,
                coalesce(jsonb_object_agg(v.client_id, v.clock_value) FILTER (WHERE v.client_id IS NOT NULL),
                         '{}'::jsonb) AS vector_clock
            FROM documents d LEFT JOIN vector_clocks v ON v.document_id = d.id
            GROUP BY d.id, d.state, d.created_at, d.updated_at, d.version;
    END IF;
END $$;
"#;

/// The triggers give `updated_at` and `version` the same values as before, whoever writes. They are only not called where a
/// statement has set those values itself: the two calls cost about a tenth of the whole write.
const STEP_2: &str = "
DROP TRIGGER IF EXISTS update_documents_updated_at ON documents;
CREATE TRIGGER update_documents_updated_at BEFORE UPDATE ON documents
    FOR EACH ROW WHEN (NEW.updated_at IS DISTINCT FROM now()) EXECUTE FUNCTION update_updated_at_column();
DROP TRIGGER IF EXISTS increment_documents_version ON documents;
CREATE TRIGGER increment_documents_version BEFORE UPDATE ON documents
    FOR EACH ROW WHEN (NEW.version IS DISTINCT FROM OLD.version + 1) EXECUTE FUNCTION increment_document_version();
";

/// Runs the steps that have not been run.
pub(super) fn migrate(client: &mut Client) -> Result<(), Trouble> {
    run(client).map_err(|error| match error {
        MigrationError::Database(error) => trouble(&error),
        MigrationError::Newer(version) => Trouble::Refused(format!(
            "the schema has version {version}, this server knows {}. Remedy: run a newer version of the server",
            STEPS.len()
        )),
    })
}

enum MigrationError {
    Database(postgres::Error),
    Newer(i32),
}

impl From<postgres::Error> for MigrationError {
    fn from(error: postgres::Error) -> Self {
        MigrationError::Database(error)
    }
}

fn run(client: &mut Client) -> Result<(), MigrationError> {
    let mut transaction = client.transaction()?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
    transaction.batch_execute(
        "SET LOCAL client_min_messages = warning;
         CREATE TABLE IF NOT EXISTS synckit_migrations (
             version INTEGER PRIMARY KEY,
             applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now()
         )",
    )?;
    let done = transaction.query_one("SELECT coalesce(max(version), 0) FROM synckit_migrations", &[])?;
    let done: i32 = done.try_get(0)?;
    let known = usize::try_from(done).unwrap_or(0);
    if known > STEPS.len() {
        return Err(MigrationError::Newer(done));
    }
    for (at, step) in STEPS.iter().enumerate().skip(known) {
        let uuid = new_uuid(&mut transaction)?;
        transaction.batch_execute(&step.replace("NEW_UUID", uuid))?;
        let version = at as i32 + 1;
        transaction.execute("INSERT INTO synckit_migrations (version) VALUES ($1)", &[&version])?;
    }
    transaction.commit()?;
    Ok(())
}

/// The default of UUID columns: that of the family where its extension can be had, else the database's own.
fn new_uuid(transaction: &mut postgres::Transaction<'_>) -> Result<&'static str, postgres::Error> {
    let mut attempt = transaction.transaction()?;
    match attempt.batch_execute(r#"CREATE EXTENSION IF NOT EXISTS "uuid-ossp"; SELECT uuid_generate_v4()"#) {
        Ok(()) => attempt.commit().map(|()| "uuid_generate_v4()"),
        Err(_) => attempt.rollback().map(|()| "gen_random_uuid()"),
    }
}
