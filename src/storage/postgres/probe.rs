//! What a PostgreSQL is, asked without changing anything: for `synckit-server doctor`.

use super::trouble;
use super::url::PostgresUrl;
use crate::storage::Trouble;

/// What it says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As people write it: `16.4`.
    pub version: String,
    /// As programs compare it: 160004.
    pub version_number: i32,
    /// Connections open now, and at most.
    pub connections: i64,
    /// See there.
    pub connections_max: i64,
    /// Whether the table of documents is there.
    pub has_tables: bool,
    /// Whether this user may make it.
    pub may_create: bool,
    /// Whether writes are refused.
    pub read_only: bool,
}

const ASK: &str = "
    SELECT split_part(current_setting('server_version'), ' ', 1), current_setting('server_version_num')::int4,
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
           current_setting('max_connections')::int8,
           to_regclass('documents') IS NOT NULL,
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
           current_setting('transaction_read_only')::bool";

impl PostgresUrl {
    /// Connects and asks.
    pub fn probe(&self) -> Result<Facts, Trouble> {
        let mut client = self.connect()?;
        let row = client.query_one(ASK, &[]).map_err(|error| trouble(&error))?;
        let read = || -> Result<Facts, postgres::Error> {
            Ok(Facts {
                version: row.try_get(0)?,
                version_number: row.try_get(1)?,
                connections: row.try_get(2)?,
                connections_max: row.try_get(3)?,
                has_tables: row.try_get(4)?,
                may_create: row.try_get(5)?,
                read_only: row.try_get(6)?,
            })
        };
        read().map_err(|error| trouble(&error))
    }
}
