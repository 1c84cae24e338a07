//! From configuration to a running server: the parts, their order, and what is said on the way.

mod database;

use crate::auth::{Authenticator, LoginWork, PublicKeyError, Users, UsersError, public_keys};
use crate::config::files::{self, FileError};
use crate::config::{Config, Environment, SocketChoice};
use crate::http::Api;
use crate::ids::SessionRef;
use crate::runtime::{self, Mailer, Running, RuntimeConfig, RuntimeError, SocketLayer, StartError, Stopper};
use crate::shard::Shard;
use crate::shard::context::{Context, Parts, RunBlocking};
use crate::shard::mail::Mail;
use crate::storage::postgres::UrlError;
use crate::storage::{Storage, Trouble};
use crossbeam_channel::{Receiver, TrySendError, bounded};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Password checks that may wait; each takes a blocking thread tens of milliseconds.
const LOGINS_WAITING_MAX: usize = 256;

/// What storage still gets after the shards have ended; nearly always there is nothing left to do.
const STORE_LAST_MAX: Duration = Duration::from_millis(500);

/// Why the server did not start. Each message says what the operator can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A configured file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// `JWT_PUBLIC_KEY_FILE` holds something else.
    #[error("JWT_PUBLIC_KEY_FILE: {0}")]
    PublicKeys(#[from] PublicKeyError),
    /// `SYNCKIT_USERS_FILE` holds something else.
    #[error("SYNCKIT_USERS_FILE: {0}")]
    Users(#[from] UsersError),
    /// The machine does not allow it.
    #[error(transparent)]
    Start(#[from] StartError),
    /// `DATABASE_URL` cannot be used.
    #[error("DATABASE_URL: {0}")]
    DatabaseUrl(#[from] UrlError),
    /// The database did not answer.
    #[error(
        "the database {place} does not work: {trouble}. Remedy: start it or correct DATABASE_URL; \
         SYNCKIT_DB_STARTUP_TIMEOUT_MS says how long to wait, SYNCKIT_DB_OPTIONAL=true starts without it, in memory"
    )]
    Database {
        /// Where it was looked for.
        place: String,
        /// What is wrong.
        trouble: Trouble,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}. Remedy: raise the limit of processes (ulimit -u)")]
    Thread(#[from] std::io::Error),
}

/// A running server.
pub struct Server {
    running: Running<Mail>,
    storage: Option<Storage>,
}

impl Server {
    /// A way to stop it from another thread.
    pub fn stopper(&self) -> Stopper {
        self.running.stopper()
    }

    /// Waits until the shards have ended, and then until storage has stored what it was given. Returns whether everything
    /// accepted is stored.
    pub fn join(self) -> Result<bool, RuntimeError> {
        let outcome = self.running.join();
        let stored = self
            .storage
            .is_none_or(|storage| storage.finish(Instant::now() + STORE_LAST_MAX));
        outcome.map(|()| stored)
    }
}

/// Starts everything and says where it listens.
pub fn start(config: Config) -> Result<Server, ServerError> {
    let keys = match &config.auth.public_key_file {
        Some(path) => public_keys(&files::read("JWT_PUBLIC_KEY_FILE", path)?)?,
        None => Vec::new(),
    };
    let users = match &config.auth.users_file {
        Some(path) => Some(Users::parse(
            &files::read("SYNCKIT_USERS_FILE", path)?,
            config.auth.permission_prefixes,
        )?),
        None => None,
    };
    let authenticator = Arc::new(Authenticator::new(&config.auth, keys));
    let api = Arc::new(Api::new(&config, authenticator.clone(), users));
    let (run_blocking, logins) = login_queue();
    let shards = if config.shards == 0 {
        processors()
    } else {
        config.shards
    };
    let (listen, development) = (config.listen_address(), config.environment != Environment::Production);
    let socket_layer = match config.sockets {
        SocketChoice::Auto => SocketLayer::Auto,
        SocketChoice::Direct => SocketLayer::DirectDescriptors,
        SocketChoice::Ordinary => SocketLayer::OrdinaryDescriptors,
    };
    let generated = config.auth.jwt_secret.generated;
    say_configuration(&config);
    let database = database::open(&config.storage)?;
    let (mode, place) = match &database {
        Some(database) => ("durable", database.place.clone()),
        None => ("memory-only", "none".to_owned()),
    };
    let parts = Parts {
        authenticator: authenticator.clone(),
        api,
        started_unix_ms: unix_ms(),
        run_blocking,
        storage: database.as_ref().map(database::Database::link),
    };
    let context = Arc::new(Context::new(config, shards, parts));
    let runtime = RuntimeConfig {
        shards,
        listen,
        sockets: socket_layer,
        ring_sockets_max: 0,
    };
    let shared = context.clone();
    let running = runtime::start(runtime, move |shard| Shard::new(shard, shared.clone()))?;
    context.limit_connections(running.connections_max());
    let stats = running.stats().clone();
    context.measure_with(Box::new(move |shard| stats[shard.index()].measured()));
    check_passwords(logins, running.mailer())?;
    let storage = database.map(|database| database.start(running.mailer())).transpose()?;
    if generated && development {
        tracing::warn!(
            "JWT_SECRET is not set: a random one is used and every token ends with this process. \
             Remedy: set JWT_SECRET to at least 32 bytes"
        );
        tracing::info!(
            "development token: {}",
            authenticator.issuer().development_token(unix_ms() / 1000)
        );
    }
    let sockets = match running.sockets() {
        SocketLayer::OrdinaryDescriptors => "ordinary descriptors (epoll)",
        SocketLayer::DirectDescriptors | SocketLayer::Auto => "direct descriptors (io_uring)",
    };
    tracing::info!(
        mode,
        database = place,
        shards,
        sockets,
        connections_max = context.connections_max(),
        "listening on {}",
        running.local_addr()
    );
    Ok(Server { running, storage })
}

fn say_configuration(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for setting in config.describe() {
        tracing::debug!(origin = %setting.origin, "{}={}", setting.name, setting.value);
    }
}

/// Where shards put password checks. A full queue answers at once as a wrong password would: the rate limits before it
/// make that an attack.
fn login_queue() -> (RunBlocking, Receiver<(LoginWork, SessionRef)>) {
    let (queue, logins) = bounded(LOGINS_WAITING_MAX);
    let put = move |work, session| match queue.try_send((work, session)) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(_)) => tracing::warn!("too many logins at once: one is refused"),
    };
    (Box::new(put), logins)
}

/// One thread that checks passwords.
fn check_passwords(logins: Receiver<(LoginWork, SessionRef)>, mailer: Mailer<Mail>) -> std::io::Result<()> {
    let work = move || {
        for (work, session) in logins {
            let login = Box::new(work.run());
            mailer.send(session.shard(), Mail::LoggedIn { session, login });
        }
    };
    std::thread::Builder::new()
        .name("passwords".into())
        .spawn(work)
        .map(drop)
}

fn processors() -> u16 {
    std::thread::available_parallelism().map_or(1, |count| u16::try_from(count.get()).unwrap_or(u16::MAX))
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}
