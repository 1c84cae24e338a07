//! A thread's connection: made when needed, made again when lost, and every operation tried until the database has
//! answered it.

use super::backend::{Backend, Connect, Role, Trouble};
use super::health::{Health, Place};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// First and longest pause before a failed operation is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// An idle thread looks this often whether its connection still works.
const PING_PERIOD: Duration = Duration::from_secs(2);
/// A connection beyond those that are kept is closed after this long without work.
const IDLE_MAX: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    connect: Arc<Connect>,
    connection: Option<Box<dyn Backend>>,
    health: Arc<Health>,
    place: Place,
    role: Role,
    kept: bool,
}

/// Why an operation came to no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database does not take this content.
    Refused(String),
    /// The process is ending.
    GivenUp,
}

impl Worker {
    /// `kept`: the connection stays open when there is nothing to do.
    pub fn new(connect: Arc<Connect>, health: Arc<Health>, role: Role, kept: bool) -> Worker {
        Worker {
            connect,
            connection: None,
            place: health.place(),
            health,
            role,
            kept,
        }
    }

    /// With a connection that was made before.
    pub fn with(self, connection: Option<Box<dyn Backend>>) -> Worker {
        Worker { connection, ..self }
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The next piece of work; `None`: there will be no more. Meanwhile looks after the connection, and settles.
    pub fn next<T>(&mut self, queue: &Receiver<T>) -> Option<T> {
        let idle_since = Instant::now();
        // At the start, so that the first work does not wait for a connection, and after trouble.
        if self.connection.is_none() {
            self.probe();
        }
        loop {
            let due = self.settle(false);
            let wait = due.map_or(PING_PERIOD, |due| {
                due.saturating_duration_since(Instant::now()).min(PING_PERIOD)
            });
            match queue.recv_timeout(wait) {
                Ok(work) => return Some(work),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if wait < PING_PERIOD => {}
                Err(RecvTimeoutError::Timeout) if self.kept => self.probe(),
                Err(RecvTimeoutError::Timeout) => {
                    if idle_since.elapsed() > IDLE_MAX {
                        self.connection = None;
                    }
                }
            }
        }
    }

    /// Writes what is due beside documents, or all of it; what cannot be written now is due again later. Returns when to
    /// come back.
    pub fn settle(&mut self, all: bool) -> Option<Instant> {
        if self.role != Role::Writes {
            return None;
        }
        let connection = self.connection.as_mut()?;
        self.health.begins(self.place);
        let outcome = connection.settle(all);
        self.health.ends(self.place);
        match outcome {
            Ok(due) => return due,
            Err(Trouble::Away(text)) => {
                self.connection = None;
                self.health.fails(&text);
            }
            Err(Trouble::Again(text) | Trouble::Refused(text)) => tracing::debug!("later again: {text}"),
        }
        None
    }

    /// Notices an outage, and its end, while there is nothing to do.
    fn probe(&mut self) {
        self.health.begins(self.place);
        let outcome = match &mut self.connection {
            Some(connection) => connection.ping(),
            None => (self.connect)().map(|mut connection| {
                // Whatever is wrong now will be wrong when there is something to do, and is told then.
                let _ = connection.warm_up(self.role);
                self.connection = Some(connection);
            }),
        };
        self.health.ends(self.place);
        match outcome {
            Ok(()) => self.health.works(),
            Err(Trouble::Away(text) | Trouble::Refused(text)) => {
                self.connection = None;
                self.health.fails(&text);
            }
            Err(Trouble::Again(_)) => {}
        }
    }

    /// Runs an operation until the database has answered it.
    pub fn run<T>(&mut self, mut operation: impl FnMut(&mut dyn Backend) -> Result<T, Trouble>) -> Result<T, Failure> {
        self.health.begins(self.place);
        let outcome = self.run_until_answered(&mut operation);
        self.health.ends(self.place);
        outcome
    }

    fn run_until_answered<T>(
        &mut self,
        operation: &mut impl FnMut(&mut dyn Backend) -> Result<T, Trouble>,
    ) -> Result<T, Failure> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.run_once(operation) {
                Ok(done) => {
                    self.health.works();
                    return Ok(done);
                }
                Err(Trouble::Refused(text)) => {
                    self.health.works();
                    return Err(Failure::Refused(text));
                }
                Err(Trouble::Again(text)) => tracing::debug!("tried again: {text}"),
                Err(Trouble::Away(text)) => {
                    self.connection = None;
                    self.health.fails(&text);
                }
            }
            if self.health.gives_up() {
                return Err(Failure::GivenUp);
            }
            self.health.counts.retries.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn run_once<T>(
        &mut self,
        operation: &mut impl FnMut(&mut dyn Backend) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert((self.connect)()?),
        };
        operation(connection.as_mut())
    }
}
