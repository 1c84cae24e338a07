//! Durable storage: documents in PostgreSQL or in an SQLite file (docs/architecture.md, durability).
//!
//! Threads that may block take requests of the shards ([`Request`]) from bounded queues and answer through a callback. Each
//! thread owns one connection. Writers take whatever is queued, up to a bound, and write it in one transaction: that is
//! the group commit. Loaders read many documents with one query, and keep and read snapshots.
//!
//! Invariants:
//! - An [`Answer::Stored`] without an error leaves after the commit that contains the document.
//! - A row is never overwritten: a write names the version it is based on, and if the row has another one, both copies
//!   are merged and the merged one is written. A commit whose outcome got lost with the connection ends the same way.
//! - Trouble with the database is never an answer. The thread keeps the batch and tries again until the database is back;
//!   shards notice by their own patience. Only a document that the database refuses for its content, alone, is answered
//!   with an error, and takes no other document of its batch along.
//! - Nothing queues without bound: a full queue gives the request back.

mod audit;
mod backend;
mod health;
mod loader;
pub mod postgres;
mod sessions;
pub mod sqlite;
mod thread;
mod writer;

pub use backend::{Backend, Connect, Role, Row, RowWrite, SessionRow, Trouble};
pub use health::{Health, HealthReport};

use crate::ids::ShardId;
use crate::saved::{Answer, Load, NoteSession, Request, SnapshotRequest, Store, Submit};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use sessions::{NoteQueue, Registrar};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thread::Worker;

/// Documents that may wait to be written.
const STORES_WAITING_MAX: usize = 8192;
/// Documents that may wait to be read.
const LOADS_WAITING_MAX: usize = 8192;

/// When old rows are deleted for the first time, and how often afterwards.
const CLEAN_UP_FIRST: Duration = Duration::from_secs(60);
const CLEAN_UP_PERIOD: Duration = Duration::from_secs(3600);

/// Threads that read; each query reads many documents.
const LOADERS_MAX: usize = 3;

/// Takes answers for one shard. Must not block for long.
pub type Reply = Arc<dyn Fn(ShardId, Vec<Answer>) + Send + Sync>;

/// How many threads do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Threads that write.
    pub writers: usize,
    /// Threads that read.
    pub loaders: usize,
    /// Connections that are opened at once and kept; further ones come and go with the work.
    pub kept: usize,
}

impl Threads {
    /// A division of at most `pool_max` connections, at least one each. Few writers make large commits, and few loaders
    /// stay warm: idle threads take turns, and one that has been idle for long must connect first.
    pub fn of_pool(pool_min: usize, pool_max: usize) -> Threads {
        let writers = (pool_max / 4).max(1);
        Threads {
            writers,
            loaders: pool_max.saturating_sub(writers).clamp(1, LOADERS_MAX),
            kept: pool_min,
        }
    }
}

/// The queues to storage, before its threads run.
pub struct Queues {
    stores: Sender<Work>,
    loads: Sender<Search>,
    stores_out: Receiver<Work>,
    loads_out: Receiver<Search>,
    notes: Option<NoteQueue>,
}

/// What a writer does.
enum Work {
    Store(Box<Store>),
    Clear(ShardId),
    /// There is nothing more to do.
    Stop,
}

/// What a loader does.
enum Search {
    Load(Load),
    Snapshot(Box<SnapshotRequest>),
    /// There is nothing more to do.
    Stop,
}

impl Default for Queues {
    fn default() -> Self {
        let (stores, stores_out) = bounded(STORES_WAITING_MAX);
        let (loads, loads_out) = bounded(LOADS_WAITING_MAX);
        Queues {
            stores,
            loads,
            stores_out,
            loads_out,
            notes: None,
        }
    }
}

impl Queues {
    /// With one for notes of connections.
    pub fn with_notes(self) -> Queues {
        let notes = Some(NoteQueue::default());
        Queues { notes, ..self }
    }

    /// Where shards put notes of connections, if they are wanted.
    pub fn note(&self) -> Option<NoteSession> {
        self.notes.as_ref().map(|notes| Box::new(notes.put()) as NoteSession)
    }

    /// Where shards put requests.
    pub fn submit(&self) -> Submit {
        let (stores, loads) = (self.stores.clone(), self.loads.clone());
        Box::new(move |request| match request {
            Request::Load(load) => match loads.try_send(Search::Load(load)).map_err(TrySendError::into_inner) {
                Err(Search::Load(load)) => Err(Request::Load(load)),
                _ => Ok(()),
            },
            Request::Snapshot(request) => {
                match loads
                    .try_send(Search::Snapshot(request))
                    .map_err(TrySendError::into_inner)
                {
                    Err(Search::Snapshot(request)) => Err(Request::Snapshot(request)),
                    _ => Ok(()),
                }
            }
            Request::Store(store) => given_back(stores.try_send(Work::Store(store))),
            Request::Clear(shard) => given_back(stores.try_send(Work::Clear(shard))),
        })
    }
}

impl Queues {
    /// Says how many stores and loads wait.
    pub fn waiting(&self) -> impl Fn() -> (u64, u64) + Send + Sync + use<> {
        let (stores, loads) = (self.stores.clone(), self.loads.clone());
        move || (stores.len() as u64, loads.len() as u64)
    }
}

fn given_back(sent: Result<(), TrySendError<Work>>) -> Result<(), Request> {
    match sent.map_err(TrySendError::into_inner) {
        Err(Work::Store(store)) => Err(Request::Store(store)),
        Err(Work::Clear(shard)) => Err(Request::Clear(shard)),
        Err(Work::Stop) | Ok(()) => Ok(()),
    }
}

/// Storage at work.
pub struct Storage {
    threads: Vec<JoinHandle<()>>,
    counts: Threads,
    registrar: Option<Registrar>,
    /// The clean-up ends when this is dropped; nobody waits for it.
    _stop_cleaning: Sender<()>,
    stores: Sender<Work>,
    loads: Sender<Search>,
    health: Arc<Health>,
}

impl Storage {
    /// Starts the threads. `ready` is a connection to begin with, for reading; `node` names this server in the rows it
    /// writes.
    pub fn start(
        queues: Queues,
        connect: Connect,
        mut ready: Option<Box<dyn Backend>>,
        threads: Threads,
        node: &str,
        health: Arc<Health>,
        reply: Reply,
    ) -> std::io::Result<Storage> {
        let connect = Arc::new(connect);
        let mut handles = Vec::new();
        for number in 0..threads.writers + threads.loaders {
            let is_writer = number < threads.writers;
            // Connections that are kept go to readers and writers in turn.
            let rank = if is_writer {
                number * 2
            } else {
                (number - threads.writers) * 2 + 1
            };
            let role = if is_writer { Role::Writes } else { Role::Reads };
            let mut worker = Worker::new(connect.clone(), health.clone(), role, rank < threads.kept);
            if !is_writer {
                worker = worker.with(ready.take());
            }
            let (reply, node) = (reply.clone(), node.to_owned());
            let (stores, loads) = (queues.stores_out.clone(), queues.loads_out.clone());
            let name = if is_writer { "store-writer" } else { "store-loader" };
            let run = move || match is_writer {
                true => writer::run(worker, &stores, &node, &reply),
                false => loader::run(worker, &loads, &reply),
            };
            handles.push(std::thread::Builder::new().name(name.into()).spawn(run)?);
        }
        let notes = queues.notes;
        let registrar = notes.map(|notes| Registrar::start(notes, connect.clone(), node));
        let (stop_cleaning, stopped) = bounded::<()>(0);
        let clean = move || clean_up_hourly(&connect, &stopped);
        std::thread::Builder::new().name("store-clean-up".into()).spawn(clean)?;
        Ok(Storage {
            threads: handles,
            counts: threads,
            registrar: registrar.transpose()?,
            _stop_cleaning: stop_cleaning,
            stores: queues.stores,
            loads: queues.loads,
            health,
        })
    }

    /// Waits until everything queued is done, at most until `deadline`. Returns whether all of it was. What is asked for
    /// afterwards is not answered.
    pub fn finish(self, deadline: Instant) -> bool {
        self.health.stop_at(deadline);
        let stops = (0..self.counts.writers).map(|_| self.stores.send_deadline(Work::Stop, deadline).is_ok());
        let mut all = stops.fold(true, |all, sent| all & sent);
        let stops = (0..self.counts.loaders).map(|_| self.loads.send_deadline(Search::Stop, deadline).is_ok());
        all &= stops.fold(true, |all, sent| all & sent);
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            all &= thread.is_finished() && thread.join().is_ok();
        }
        if let Some(registrar) = self.registrar {
            registrar.finish(deadline);
        }
        all && !self.health.gave_up()
    }
}

/// Deletes what is too old, a minute after the start and then every hour, over a connection of the moment.
fn clean_up_hourly(connect: &Connect, stopped: &Receiver<()>) {
    let mut pause = CLEAN_UP_FIRST;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = CLEAN_UP_PERIOD;
        match connect().and_then(|mut backend| backend.clean_up()) {
            Ok(rows) => tracing::debug!("cleaned up: {rows} rows deleted"),
            Err(trouble) => tracing::warn!("not cleaned up, tried again in an hour: {trouble}"),
        }
    }
}

#[cfg(test)]
mod tests;
