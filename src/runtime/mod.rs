//! The runtime: what carries a handler's bytes. One pinned glommio executor per shard, its sockets, and the mesh.
//!
//! [`start`] checks the machine, opens the listeners and starts the shards; each builds its [`Handler`] on its own thread
//! and drives it until [`Running::shut_down`]. The handler sees no socket: `handler.rs` is the seam.
//!
//! - `driver`: the loop of one shard.
//! - `engine`: what the state of its connections means.
//! - `sockets`: the seam below that, with two layers: `direct` (private rings and direct descriptors, Linux 6.7) and
//!   `ordinary` (epoll, any kernel glommio runs on). Same behaviour, both tested.
//! - `mesh`: mailboxes and doorbells between shards, and [`Mailer`] for other threads.
//! - `listen`, `probe`, `error`: starting, and explaining why not.
//! - `allocator`: what memory the process gets, and from whom.
//!
//! Limits: 1,023 shards and 2^24 connections per shard (what a session reference can name).

pub mod allocator;
mod direct;
mod driver;
mod engine;
mod error;
pub mod inherited;
mod listen;
pub mod machine;
mod mailbox;
mod mesh;
mod ordinary;
mod probe;
mod readiness;
mod signals;
mod sockets;
mod stats;
mod sys;

pub use error::{RuntimeError, StartError};
pub use mesh::Mailer;
pub use signals::{Signal, Signals};
pub use stats::ShardStats;
pub use sys::{monotonic_us, refuse_huge_pages};

use crate::handler::Handler;
use crate::ids::ShardId;
use direct::Direct;
use driver::{Clock, Driver};
use engine::Engine;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use mesh::{Mesh, ReceivingRings};
use ordinary::Ordinary;
use sockets::Sockets;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Entries of glommio's own rings; its timer cancellation walks their tables, so they stay small.
const RING_DEPTH: usize = 128;
/// A preempt timer that never fires in practice: short ones lose wake-ups (see `driver`).
const PREEMPT_TIMER: Duration = Duration::from_secs(3600);
/// How long a shard may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Shards a session reference can name, less the one that means "not a shard".
const SHARDS_MAX: u16 = 1023;

/// Which socket layer carries the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketLayer {
    /// Direct descriptors where a trial of all they need succeeds, else ordinary ones.
    #[default]
    Auto,
    /// Direct descriptors on private rings, or no start.
    DirectDescriptors,
    /// Ordinary descriptors behind epoll.
    OrdinaryDescriptors,
}

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeConfig {
    /// Executors, each with its shard. May exceed the processors; shard i is pinned to the i-th allowed one, round robin.
    pub shards: u16,
    /// Where to listen. Port 0 takes a free one, see [`Running::local_addr`].
    pub listen: SocketAddr,
    /// Which socket layer.
    pub sockets: SocketLayer,
    /// Direct descriptors: sockets per ring at most, 0 for as many as the descriptor limit allows. More rings are added as
    /// they fill.
    pub ring_sockets_max: u32,
    /// How long shards may take to drain before they give up what they still have, in microseconds.
    pub drain_us_max: u64,
}

/// A running server.
pub struct Running<M> {
    local_addr: SocketAddr,
    sockets: SocketLayer,
    stopper: Stopper,
    mailer: Mailer<M>,
    stats: Arc<[ShardStats]>,
    executors: Vec<(ShardId, ExecutorJoinHandle<()>)>,
}

/// Asks the shards to stop. Cheap to clone; for signal handlers and threads.
#[derive(Clone)]
pub struct Stopper {
    stop: Arc<dyn Stop>,
}

trait Stop: Send + Sync {
    fn stop(&self);
}

impl<M: Send, S: Send> Stop for Mesh<M, S> {
    fn stop(&self) {
        Mesh::stop(self);
    }
}

impl Stopper {
    /// Asks all shards to drain and end. Async-signal-safe: one store and one `write` per shard. Idempotent.
    pub fn shut_down(&self) {
        self.stop.stop();
    }
}

impl std::fmt::Debug for Stopper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stopper")
    }
}

impl<M> std::fmt::Debug for Running<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("local_addr", &self.local_addr)
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

impl<M: Send + 'static> Running<M> {
    /// The address in force.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The socket layer in force; never [`SocketLayer::Auto`].
    pub fn sockets(&self) -> SocketLayer {
        self.sockets
    }

    /// How many connections the descriptor limit allows. Direct descriptors do not count against it: there the limit is
    /// what session references can name.
    pub fn connections_max(&self) -> usize {
        let shards = self.stats.len();
        let named = shards * crate::limits::SESSIONS_PER_SHARD_MAX;
        match self.sockets {
            SocketLayer::OrdinaryDescriptors => probe::ordinary_connections_max(shards as u16) as usize,
            SocketLayer::DirectDescriptors | SocketLayer::Auto => named,
        }
    }

    /// The counters of each shard.
    pub fn stats(&self) -> &Arc<[ShardStats]> {
        &self.stats
    }

    /// A way for other threads to post mail to shards.
    pub fn mailer(&self) -> Mailer<M> {
        self.mailer.clone()
    }

    /// A way to stop from elsewhere, while this value is being joined.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// See [`Stopper::shut_down`].
    pub fn shut_down(&self) {
        self.stopper.shut_down();
    }

    /// Waits until all shards have ended. When one ends abnormally the others are asked to stop.
    pub fn join(self) -> Result<(), RuntimeError> {
        let mut outcome = Ok(());
        for (shard, executor) in self.executors {
            if let Err(error) = executor.join() {
                self.stopper.shut_down();
                outcome = outcome.and(Err(RuntimeError::ShardFailed {
                    shard,
                    reason: error.to_string(),
                }));
            }
        }
        outcome
    }
}

/// Starts the shards. `make` builds each shard's handler on the shard's own thread.
pub fn start<H: Handler + 'static>(
    config: RuntimeConfig,
    make: impl Fn(ShardId) -> H + Send + Sync + Clone + 'static,
) -> Result<Running<H::Mail>, StartError> {
    start_on(config, Vec::new(), make)
}

/// As [`start`], with listeners that somebody else opened (socket activation) instead of [`RuntimeConfig::listen`]. With
/// fewer of them than shards, shards share them.
pub fn start_on<H: Handler + 'static>(
    config: RuntimeConfig,
    inherited: Vec<OwnedFd>,
    make: impl Fn(ShardId) -> H + Send + Sync + Clone + 'static,
) -> Result<Running<H::Mail>, StartError> {
    if config.shards == 0 || config.shards > SHARDS_MAX {
        return Err(StartError::Configuration(
            "the number of shards must be between 1 and 1023",
        ));
    }
    probe::check(config.shards)?;
    let layer = choose(config.sockets)?;
    let files =
        direct::files_per_ring(config.ring_sockets_max).map_err(probe::system("reading the descriptor limit"))?;
    let backlog = match layer {
        SocketLayer::DirectDescriptors => listen::BACKLOG.min(direct::backlog(files)),
        _ => listen::BACKLOG,
    };
    let (listeners, local_addr) = if inherited.is_empty() {
        listen::open(config.listen, config.shards, backlog)?
    } else {
        listen::adopt(inherited, config.shards, backlog)?
    };
    let processors = sys::allowed_processors().map_err(probe::system("asking for the allowed processors"))?;
    let mesh = Mesh::new(config.shards).map_err(probe::system("making the doorbells"))?;
    let mesh: Arc<Mesh<H::Mail, H::Moved>> = Arc::new(mesh);
    let clock = Clock::new();
    let (report, reports) = mpsc::channel();
    let mut running = Running {
        local_addr,
        sockets: layer,
        stopper: Stopper {
            stop: Arc::clone(&mesh) as Arc<dyn Stop>,
        },
        mailer: Mailer::new(Arc::clone(&mesh)),
        stats: Arc::clone(mesh.stats()),
        executors: Vec::new(),
    };
    for (index, listener) in listeners.into_iter().enumerate() {
        let shard = ShardId(index as u16);
        let cpu = processors[index % processors.len()];
        let (mesh, make, report) = (Arc::clone(&mesh), make.clone(), report.clone());
        let place = Place {
            drain_us_max: config.drain_us_max,
            shard,
            layer,
            listener,
            ipv4: local_addr.is_ipv4(),
            files,
        };
        let spawned = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("shard-{index}"))
            .io_memory(0)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT_TIMER)
            .spawn(move || run_shard(place, mesh, make, clock, report));
        match spawned {
            Ok(executor) => running.executors.push((shard, executor)),
            Err(error) => {
                return Err(abandon(
                    running,
                    StartError::Shard {
                        shard,
                        reason: error.to_string(),
                    },
                ));
            }
        }
    }
    drop(report);
    match await_start(&reports, config.shards) {
        Ok(()) => Ok(running),
        Err(error) => Err(abandon(running, error)),
    }
}

/// What a shard says when it is up, or why it is not.
type Report = mpsc::Sender<(ShardId, Result<(), String>)>;

/// What one shard is given to start with.
struct Place {
    shard: ShardId,
    layer: SocketLayer,
    listener: OwnedFd,
    ipv4: bool,
    files: u32,
    drain_us_max: u64,
}

async fn run_shard<H: Handler + 'static>(
    place: Place,
    mesh: Arc<Mesh<H::Mail, H::Moved>>,
    make: impl Fn(ShardId) -> H,
    clock: Clock,
    report: Report,
) {
    let Place {
        shard,
        layer,
        listener,
        ipv4,
        files,
        drain_us_max,
    } = place;
    if layer == SocketLayer::DirectDescriptors {
        let sockets = Direct::new(
            shard,
            listener,
            ipv4,
            Arc::clone(&mesh) as Arc<dyn ReceivingRings>,
            files,
        );
        drive(shard, sockets, mesh, make, (clock, drain_us_max), report).await;
    } else {
        let sockets = Ordinary::new(listener, mesh.bell(shard));
        drive(shard, sockets, mesh, make, (clock, drain_us_max), report).await;
    }
}

async fn drive<H: Handler + 'static, L: Sockets>(
    shard: ShardId,
    sockets: std::io::Result<L>,
    mesh: Arc<Mesh<H::Mail, H::Moved>>,
    make: impl Fn(ShardId) -> H,
    (clock, drain_us_max): (Clock, u64),
    report: Report,
) {
    match sockets {
        Ok(sockets) => {
            let engine = Engine::new(shard, mesh.shards(), sockets);
            let driver = Driver {
                shard,
                handler: make(shard),
                engine,
                mesh,
                clock,
                drain_us_max,
                timer_us: 0,
            };
            let _ = report.send((shard, Ok(())));
            driver.run().await;
        }
        Err(error) => drop(report.send((shard, Err(error.to_string())))),
    }
}

/// The layer to use: as asked for, or the better one that works.
fn choose(wanted: SocketLayer) -> Result<SocketLayer, StartError> {
    match wanted {
        SocketLayer::OrdinaryDescriptors => Ok(wanted),
        SocketLayer::DirectDescriptors => match direct::check() {
            Ok(()) => Ok(wanted),
            Err(reason) => Err(StartError::DirectDescriptorsMissing { reason }),
        },
        SocketLayer::Auto => match direct::check() {
            Ok(()) => Ok(SocketLayer::DirectDescriptors),
            Err(reason) => {
                tracing::info!(reason, "direct descriptors do not work here, using ordinary ones");
                Ok(SocketLayer::OrdinaryDescriptors)
            }
        },
    }
}

fn await_start(reports: &mpsc::Receiver<(ShardId, Result<(), String>)>, shards: u16) -> Result<(), StartError> {
    let mut up = vec![false; usize::from(shards)];
    while let Some(missing) = up.iter().position(|up| !up) {
        let missing = ShardId(missing as u16);
        match reports.recv_timeout(START_TIMEOUT) {
            Ok((shard, Ok(()))) => up[shard.index()] = true,
            Ok((shard, Err(reason))) => return Err(StartError::Shard { shard, reason }),
            Err(RecvTimeoutError::Timeout) => {
                return Err(StartError::Shard {
                    shard: missing,
                    reason: "it did not come up in time".into(),
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(StartError::Shard {
                    shard: missing,
                    reason: "its thread ended".into(),
                });
            }
        }
    }
    Ok(())
}

/// Ends the shards that did come up, and gives the error back.
fn abandon<M: Send + 'static>(running: Running<M>, error: StartError) -> StartError {
    running.shut_down();
    // The first error is the one that matters.
    let _ = running.join();
    error
}
