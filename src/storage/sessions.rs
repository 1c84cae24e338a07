//! The thread that keeps the table of sessions (docs/protocol.md §18.4): what shards say of connections, a second's worth at
//! a time, over a connection of its own that is open while there is something to say.
//!
//! The table is a convenience for operators. So nothing waits for it: notes that find the queue full are dropped, and
//! trouble with the database is no news here. A connection that is there is noted again within a minute; the row of one
//! whose end was not noted is deleted by the clean-up, a day after it was last seen.

use super::audit;
use super::backend::{Backend, Connect, SessionRow};
use crate::ids::SessionRef;
use crate::saved::SessionNote;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use hashbrown::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Notes that may wait.
const NOTES_WAITING_MAX: usize = 8192;
/// Connections noted in one transaction.
const BATCH_MAX: usize = 1000;
/// How long a note waits for company.
const GATHER: Duration = Duration::from_millis(200);
/// Pause after trouble with the database, and how often somebody looks whether the process is ending.
const PAUSE: Duration = Duration::from_millis(500);
/// The connection is closed after this long without a note.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// The queue of notes.
pub(super) struct NoteQueue {
    sender: Sender<SessionNote>,
    receiver: Receiver<SessionNote>,
    dropped: Arc<AtomicU64>,
}

impl Default for NoteQueue {
    fn default() -> Self {
        let (sender, receiver) = bounded(NOTES_WAITING_MAX);
        NoteQueue {
            sender,
            receiver,
            dropped: Arc::default(),
        }
    }
}

impl NoteQueue {
    /// Where shards put notes.
    pub fn put(&self) -> impl Fn(SessionNote) + Send + Sync + use<> {
        let (sender, dropped) = (self.sender.clone(), self.dropped.clone());
        move |note| {
            if sender.try_send(note).is_err() {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The thread at work.
pub(super) struct Registrar {
    thread: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

impl Registrar {
    /// Starts it. `node` is a part of every row's id, so that servers over one database do not meet.
    pub fn start(queue: NoteQueue, connect: Arc<Connect>, node: &str) -> std::io::Result<Registrar> {
        let stopping = Arc::<AtomicBool>::default();
        let mut worker = Worker {
            connect,
            connection: None,
            node: node.to_owned(),
            dropped: queue.dropped,
            stopping: stopping.clone(),
        };
        let notes = queue.receiver;
        let run = move || worker.run(&notes);
        let thread = std::thread::Builder::new().name("store-sessions".into()).spawn(run)?;
        Ok(Registrar { thread, stopping })
    }

    /// Lets it write what is queued, at most until `deadline`.
    pub fn finish(self, deadline: Instant) {
        self.stopping.store(true, Ordering::Relaxed);
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The last note of each connection.
type Batch = HashMap<SessionRef, SessionNote>;

struct Worker {
    connect: Arc<Connect>,
    connection: Option<Box<dyn Backend>>,
    node: String,
    dropped: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
}

impl Worker {
    fn run(&mut self, notes: &Receiver<SessionNote>) {
        let mut idle_since = Instant::now();
        loop {
            match notes.recv_timeout(PAUSE) {
                Ok(note) => {
                    let batch = self.gather(note, notes);
                    self.write(&batch);
                    idle_since = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) if !self.is_stopping() => {
                    if idle_since.elapsed() > IDLE_MAX {
                        self.connection = None;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn gather(&self, first: SessionNote, notes: &Receiver<SessionNote>) -> Batch {
        let mut batch = Batch::new();
        batch.insert(first.session(), first);
        let until = Instant::now() + if self.is_stopping() { Duration::ZERO } else { GATHER };
        while batch.len() < BATCH_MAX
            && let Ok(note) = notes.recv_deadline(until)
        {
            batch.insert(note.session(), note);
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!("the table of sessions is behind: {dropped} notes of connections were dropped");
        }
        batch
    }

    /// Tries until the batch is written; once only when the process is ending.
    fn write(&mut self, batch: &Batch) {
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (session, note) in batch {
            let id = format!("{}-{session:?}", self.node);
            match note {
                SessionNote::Gone(_) => gone.push(id),
                SessionNote::Here { user, client, .. } => here.push(SessionRow {
                    id,
                    user: audit::client_id(user),
                    client: client.as_deref().map(audit::client_id),
                }),
            }
        }
        // In one order everywhere, as with documents.
        here.sort_by(|a, b| a.id.cmp(&b.id));
        gone.sort();
        loop {
            let connection = match &mut self.connection {
                Some(connection) => Ok(connection),
                None => (self.connect)().map(|connection| self.connection.insert(connection)),
            };
            match connection.and_then(|connection| connection.note_sessions(&here, &gone)) {
                Ok(()) => return,
                Err(trouble) => {
                    tracing::debug!("the table of sessions is not written: {trouble}");
                    self.connection = None;
                }
            }
            if self.is_stopping() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}
