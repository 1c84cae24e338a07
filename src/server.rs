//! From configuration to a running server: the parts, their order, and what is said on the way.

mod bus;
mod database;
mod process;
pub mod reload;
mod watch;

use crate::auth::{Authenticator, LoginWork};
use crate::cluster::redis::{self, RedisUrlError};
use crate::config::{Config, Environment, SocketChoice};
use crate::http::Api;
use crate::ids::{SessionRef, ShardId};
use crate::merging;
use crate::notify::Notifier;
use crate::runtime::{self, Mailer, Running, RuntimeConfig, RuntimeError, SocketLayer, StartError, Stopper};
use crate::shard::Shard;
use crate::shard::context::{Context, Parts, RunBlocking};
use crate::shard::mail::Mail;
use crate::storage::postgres::UrlError;
use crate::storage::{Storage, Trouble};
use crate::tls::{Certificates, Layer, TlsError};
use crossbeam_channel::{Receiver, TrySendError, bounded};
use process::{Modes, Sampled};
use reload::{Reloaders, SecretsError};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Password checks that may wait; each takes a blocking thread tens of milliseconds.
const LOGINS_WAITING_MAX: usize = 256;

/// What storage still gets after the shards have ended; nearly always there is nothing left to do.
const STORE_LAST_MAX: Duration = Duration::from_millis(500);

/// What the bus still gets then.
const PUBLISH_LAST_MAX: Duration = Duration::from_millis(500);

/// Why the server did not start. Each message says what the operator can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A configured file with secrets or accounts cannot be used.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The machine does not allow it.
    #[error(transparent)]
    Start(#[from] StartError),
    /// `TLS_CERT` or `TLS_KEY` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// `DATABASE_URL` cannot be used.
    #[error("DATABASE_URL: {0}")]
    DatabaseUrl(#[from] UrlError),
    /// `REDIS_URL` cannot be used.
    #[error("REDIS_URL: {0}")]
    RedisUrl(#[from] RedisUrlError),
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

/// Time that draining may take beside the window over which connections are closed.
const DRAIN_BESIDE_WINDOW: Duration = Duration::from_secs(7);
/// How long a shard may take to say how it is.
const DUMP_TIMEOUT: Duration = Duration::from_secs(2);

/// A running server.
pub struct Server {
    running: Running<Mail>,
    storage: Option<Storage>,
    bus: Option<redis::Running>,
    reloaders: Arc<Reloaders>,
    process: Arc<Sampled>,
    ended: Arc<AtomicBool>,
}

/// Makes a running server tell the log how it is.
pub struct Dumper {
    mailer: Mailer<Mail>,
    shards: u16,
}

impl Dumper {
    /// One line for each shard. Waits up to two seconds for shards that do not answer, and names them.
    pub fn dump(&self) {
        let (report, reports) = mpsc::sync_channel(usize::from(self.shards));
        for shard in (0..self.shards).map(ShardId) {
            self.mailer.send(shard, Mail::Measure(report.clone()));
        }
        drop(report);
        let deadline = Instant::now() + DUMP_TIMEOUT;
        let mut silent: Vec<u16> = (0..self.shards).collect();
        while let Ok((shard, metrics)) = reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            silent.retain(|silent| *silent != shard.0);
            metrics.log(shard);
        }
        if !silent.is_empty() {
            tracing::error!("state: shards {silent:?} did not answer within {DUMP_TIMEOUT:?}");
        }
    }
}

impl Server {
    /// A way to stop it from another thread.
    pub fn stopper(&self) -> Stopper {
        self.running.stopper()
    }

    /// What can change while it runs.
    pub fn reloaders(&self) -> Arc<Reloaders> {
        self.reloaders.clone()
    }

    /// A way to ask for its state.
    pub fn dumper(&self) -> Dumper {
        Dumper {
            mailer: self.running.mailer(),
            shards: self.running.stats().len() as u16,
        }
    }

    /// Gives the service manager signs of life from now on.
    pub fn watch(&self, notifier: Arc<Notifier>) -> std::io::Result<()> {
        watch::start(
            self.running.stats().clone(),
            notifier,
            self.process.clone(),
            self.ended.clone(),
        )
    }

    /// Waits until the shards have ended, and then until storage has stored what it was given. Returns whether everything
    /// accepted is stored.
    pub fn join(self) -> Result<bool, RuntimeError> {
        let outcome = self.running.join();
        self.ended.store(true, Ordering::Relaxed);
        // What is not sent is repaired by the other nodes' comparing, or lost with the memory of a node that was alone.
        if self
            .bus
            .is_some_and(|bus| !bus.finish(Instant::now() + PUBLISH_LAST_MAX))
        {
            tracing::warn!("Redis did not take the last envelopes");
        }
        let stored = self
            .storage
            .is_none_or(|storage| storage.finish(Instant::now() + STORE_LAST_MAX));
        outcome.map(|()| stored)
    }
}

/// Starts everything and says where it listens: where `config` says, or on the sockets that somebody else opened.
pub fn start(config: Config, inherited: Vec<OwnedFd>) -> Result<Server, ServerError> {
    let keys = reload::read_public_keys(&config.auth)?;
    let users = reload::read_users(&config.auth)?;
    let reloaders = Arc::new(Reloaders::new(config.clone()));
    let authenticator = Arc::new(Authenticator::new(&config.auth, keys));
    let certificates = config.tls.as_ref().map(Certificates::load).transpose()?;
    let api = Arc::new(Api::new(&config, authenticator.clone(), users));
    reload::register_secrets(&reloaders, authenticator.clone(), api.clone());
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
    let (generated, drain_ms) = (config.auth.jwt_secret.generated, config.operation.drain_ms);
    say_configuration(&config);
    let database = database::open(&config.storage)?;
    let bus = bus::open(&config.cluster, shards)?;
    let mode = match (&database, &bus) {
        (None, None) => "memory-only",
        (Some(_), None) => "durable",
        (None, Some(_)) => "cluster, memory-only",
        (Some(_), Some(_)) => "cluster, durable",
    };
    let none = || "none".to_owned();
    let modes = Modes::of(&config, database.is_some());
    let place = database.as_ref().map_or_else(none, |database| database.place.clone());
    let redis = bus.as_ref().map_or_else(none, |bus| bus.place.clone());
    let node = bus.as_ref().map_or_else(none, |bus| bus.node.to_string());
    let (merging, merges) = merging::queue(shards);
    let parts = Parts {
        authenticator: authenticator.clone(),
        api,
        started_unix_ms: unix_ms(),
        run_blocking,
        merging,
        storage: database.as_ref().map(database::Database::link),
        bus: bus.as_ref().map(bus::Bus::link),
    };
    let context = Arc::new(Context::new(config, shards, parts));
    let runtime = RuntimeConfig {
        shards,
        listen,
        sockets: socket_layer,
        ring_sockets_max: 0,
        drain_us_max: DRAIN_BESIDE_WINDOW.as_micros() as u64 + drain_ms * 1000,
    };
    let shared = context.clone();
    let running = match certificates.clone() {
        None => runtime::start_on(runtime, inherited, move |shard| Shard::new(shard, shared.clone()))?,
        Some(certificates) => {
            reload::register_certificates(&reloaders, certificates.clone());
            runtime::start_on(runtime, inherited, move |shard| {
                Layer::new(Shard::new(shard, shared.clone()), certificates.clone())
            })?
        }
    };
    context.limit_connections(running.connections_max());
    let stats = running.stats().clone();
    context.measure_memory_with(Box::new(resident_bytes));
    context.measure_with(Box::new(move |shard| stats[shard.index()].measured()));
    let process = Arc::new(Sampled::new(unix_ms(), modes, running.stats().clone()));
    let described = process.clone();
    context.describe_process_with(Box::new(move || described.prometheus()));
    check_passwords(logins, running.mailer())?;
    merging::start(&merges, shards, &running.mailer())?;
    let storage = database.map(|database| database.start(running.mailer())).transpose()?;
    let stats = running.stats().clone();
    let bus = bus.map(|bus| bus.start(running.mailer(), stats)).transpose()?;
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
        redis,
        node,
        shards,
        sockets,
        tls = certificates.is_some(),
        connections_max = context.connections_max(),
        "listening on {}",
        running.local_addr()
    );
    Ok(Server {
        running,
        storage,
        bus,
        reloaders,
        process,
        ended: Arc::default(),
    })
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

/// Resident memory of this process; `None` without /proc.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn processors() -> u16 {
    std::thread::available_parallelism().map_or(1, |count| u16::try_from(count.get()).unwrap_or(u16::MAX))
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}
