//! What this machine offers the runtime, found out without starting a server: for `synckit-server doctor`.

use super::error::StartError;
use super::{direct, probe, sys};
use std::net::{SocketAddr, TcpListener};

/// What was found.
#[derive(Debug)]
pub struct Machine {
    /// Processors this process may run on.
    pub processors: usize,
    /// Limit of locked memory, in bytes; `u64::MAX`: none.
    pub memlock_bytes: u64,
    /// Soft limit of open files, which the server raises to the hard one.
    pub descriptors_soft: u64,
    /// Hard limit of open files.
    pub descriptors_hard: u64,
    /// Descriptors needed before the first connection.
    pub descriptors_needed: u64,
    /// Whether executors can run: locked memory, descriptors, io_uring and its operations, a trial executor.
    pub executors: Result<(), StartError>,
    /// Whether the layer of direct descriptors works, or the step of its trial that failed.
    pub direct: Result<(), String>,
}

impl Machine {
    /// Connections the socket layer can hold.
    pub fn connections_max(&self, shards: u16, ordinary: bool) -> u64 {
        if ordinary || self.direct.is_err() {
            self.descriptors_hard.saturating_sub(self.descriptors_needed)
        } else {
            u64::from(shards) * crate::limits::SESSIONS_PER_SHARD_MAX as u64
        }
    }
}

/// Tries everything. Raises this process's soft limit of open files, as starting does.
pub fn examine(shards: u16) -> Machine {
    let descriptors_soft = sys::soft_limit(libc::RLIMIT_NOFILE).unwrap_or(0);
    let executors = probe::check(shards);
    // The hard limit is what the soft one has become.
    let descriptors_hard = sys::soft_limit(libc::RLIMIT_NOFILE).unwrap_or(0);
    Machine {
        processors: sys::allowed_processors().map_or(0, |processors| processors.len()),
        memlock_bytes: sys::soft_limit(libc::RLIMIT_MEMLOCK).unwrap_or(0),
        descriptors_soft,
        descriptors_hard,
        descriptors_needed: probe::descriptors_needed(shards),
        direct: match &executors {
            Ok(()) => direct::check(),
            Err(_) => Err("not tried, because executors cannot run".to_owned()),
        },
        executors,
    }
}

/// Whether this process could listen there now. Takes nothing: the socket is closed at once.
pub fn could_listen(address: SocketAddr) -> Result<(), StartError> {
    TcpListener::bind(address)
        .map(drop)
        .map_err(|source| StartError::from_listen(address, source))
}
