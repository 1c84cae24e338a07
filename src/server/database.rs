//! The configured database: reached and prepared before anybody may connect.

use super::ServerError;
use crate::config::{Database as Choice, StorageConfig};
use crate::runtime::Mailer;
use crate::shard::mail::Mail;
use crate::shard::{StorageFacts, StorageLink};
use crate::storage::postgres::{Clocks, Postgres, PostgresUrl};
use crate::storage::sqlite::Sqlite;
use crate::storage::{Backend, Connect, Health, Queues, Role, Storage, Threads, Trouble};
use rand::Rng;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two attempts to reach the database at the start.
const RETRY: Duration = Duration::from_millis(250);

/// Reaches the database and brings its schema up to date.
type Migrate = Box<dyn Fn() -> Result<(), Trouble>>;

/// A database that works, and the queues to it.
pub(super) struct Database {
    /// Where it is, without secrets.
    pub place: String,
    connect: Connect,
    /// A reader's connection, so that the first document does not wait for one.
    reader: Option<Box<dyn Backend>>,
    threads: Threads,
    queues: Queues,
    health: Arc<Health>,
}

/// Reaches the database and brings its schema up to date; `None`: documents stay in memory.
pub(super) fn open(config: &StorageConfig) -> Result<Option<Database>, ServerError> {
    let (place, threads, connect, migrate): (String, Threads, Connect, Migrate) = match &config.database {
        Choice::Memory => return Ok(None),
        Choice::Postgres(url) => {
            let url = PostgresUrl::parse(url)?;
            let (for_connect, for_migrate, clocks) = (url.clone(), url.clone(), Clocks::default());
            (
                format!("postgresql://{}", url.place()),
                Threads::of_pool(config.pool_min, config.pool_max),
                Box::new(move || Ok(Box::new(Postgres::connect(&for_connect, &clocks)?) as Box<dyn Backend>)),
                Box::new(move || Postgres::migrate(&for_migrate)),
            )
        }
        Choice::Sqlite(path) => {
            let (for_connect, for_migrate) = (path.clone(), path.clone());
            let threads = Threads {
                writers: 1,
                loaders: 1,
                kept: 2,
            };
            (
                format!("sqlite:{}", path.display()),
                threads,
                Box::new(move || Ok(Box::new(Sqlite::open(&for_connect)?) as Box<dyn Backend>)),
                Box::new(move || Sqlite::open(&for_migrate).map(drop)),
            )
        }
    };
    match reach(&place, config, &migrate) {
        Ok(()) => {}
        Err(trouble) if config.optional => {
            tracing::error!(
                "the database {place} does not work: {trouble}. SYNCKIT_DB_OPTIONAL is set: documents stay in memory \
                 and end with this process"
            );
            return Ok(None);
        }
        Err(trouble) => return Err(ServerError::Database { place, trouble }),
    }
    // Without it the first reader connects for itself.
    let reader = connect().and_then(|mut reader| reader.warm_up(Role::Reads).map(|()| reader));
    Ok(Some(Database {
        place,
        connect,
        reader: reader.ok(),
        threads,
        queues: match config.sessions {
            true => Queues::default().with_notes(),
            false => Queues::default(),
        },
        health: Arc::new(Health::default()),
    }))
}

/// Tries until the database works or its time is over.
fn reach(place: &str, config: &StorageConfig, migrate: &Migrate) -> Result<(), Trouble> {
    let deadline = Instant::now() + Duration::from_millis(config.startup_timeout_ms);
    let mut told = false;
    loop {
        match migrate() {
            Ok(()) => return Ok(()),
            // What is refused now is refused later.
            Err(Trouble::Refused(text)) => return Err(Trouble::Refused(text)),
            Err(trouble) if Instant::now() >= deadline => return Err(trouble),
            Err(trouble) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        "the database {place} does not work yet: {trouble}; trying for {} ms",
                        config.startup_timeout_ms
                    );
                }
                std::thread::sleep(RETRY);
            }
        }
    }
}

impl Database {
    /// What shards need of it.
    pub fn link(&self) -> StorageLink {
        let (health, troubled, waiting) = (self.health.clone(), self.health.clone(), self.queues.waiting());
        StorageLink {
            submit: self.queues.submit(),
            note: self.queues.note(),
            health: Box::new(move || facts(&health, waiting())),
            troubled_ms: Box::new(move || troubled.troubled_ms()),
        }
    }

    /// Starts its threads.
    pub fn start(self, mailer: Mailer<Mail>) -> std::io::Result<Storage> {
        let node = format!("{:016x}", rand::rng().random::<u64>());
        let reply = Arc::new(move |shard, answers| mailer.send(shard, Mail::Storage(answers)));
        Storage::start(
            self.queues,
            self.connect,
            self.reader,
            self.threads,
            &node,
            self.health,
            reply,
        )
    }
}

fn facts(health: &Health, (stores_waiting, loads_waiting): (u64, u64)) -> StorageFacts {
    let report = health.report();
    StorageFacts {
        available: report.available,
        unavailable_ms: report.unavailable_ms,
        commits: report.commits,
        documents_stored: report.documents_stored,
        documents_loaded: report.documents_loaded,
        conflicts: report.conflicts,
        refused: report.refused,
        retries: report.retries,
        store_us: report.store_us,
        stores_waiting,
        loads_waiting,
        store_time: report.store_time,
    }
}
