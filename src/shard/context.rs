//! What all shards of a process share. Nothing here is touched per message: counters of sockets, addresses at accept and
//! close, the configuration.

use super::storehouse::StorageLink;
use crate::auth::{Authenticator, LoginWork};
use crate::clock::Now;
use crate::cluster::BusLink;
use crate::config::{Config, LimitsConfig, TrustedProxies};
use crate::histogram::Durations;
use crate::http::Api;
use crate::ids::{SessionRef, ShardId};
use crate::merging::MergeLink;
use hashbrown::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// What the runtime measured of one shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Loop turns that had something to do.
    pub turns: u64,
    /// Microseconds spent in them.
    pub turn_us: u64,
    /// The longest one, in microseconds.
    pub turn_us_max: u64,
    /// Letters waiting in the shard's mailbox.
    pub mailbox_letters: u64,
    /// How long turns took, in microseconds.
    pub turn_time: Durations,
}

/// Asks the runtime what it measured.
pub type Measure = Box<dyn Fn(ShardId) -> Measured + Send + Sync>;

/// Asks how much memory the process occupies, in bytes.
pub type Resident = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// Runs work that blocks and mails the result to the session's shard.
pub type RunBlocking = Box<dyn Fn(LoginWork, SessionRef) + Send + Sync>;

/// Shared by all shards.
pub struct Context {
    /// What the operator chose.
    pub config: Config,
    /// How many shards there are.
    pub shards: u16,
    /// Decides who connections are.
    pub authenticator: Arc<Authenticator>,
    /// Answers HTTP requests that need no shard.
    pub api: Arc<Api>,
    /// Per-address counts.
    pub addresses: Addresses,
    /// Unix milliseconds at which the process started.
    pub started_unix_ms: u64,
    /// Where blocking work goes.
    pub run_blocking: RunBlocking,
    /// Where large text states are merged.
    pub merging: MergeLink,
    /// Where documents are stored, if they are.
    pub storage: Option<StorageLink>,
    /// The bus to other nodes, if there is one.
    pub bus: Option<BusLink>,
    measure: OnceLock<Measure>,
    process: OnceLock<Box<dyn Fn() -> String + Send + Sync>>,
    resident: OnceLock<Resident>,
    connections_max: AtomicUsize,
    websockets: AtomicUsize,
    documents: AtomicUsize,
    partial_bytes: AtomicUsize,
}

/// What [`Context::new`] is given.
pub struct Parts {
    /// Decides who connections are.
    pub authenticator: Arc<Authenticator>,
    /// Answers HTTP requests that need no shard.
    pub api: Arc<Api>,
    /// Unix milliseconds at which the process started.
    pub started_unix_ms: u64,
    /// Where blocking work goes.
    pub run_blocking: RunBlocking,
    /// Where large text states are merged.
    pub merging: MergeLink,
    /// Where documents are stored; there is one exactly if the configuration names a database.
    pub storage: Option<StorageLink>,
    /// The bus to other nodes; there is one exactly if the configuration names a Redis.
    pub bus: Option<BusLink>,
}

impl Context {
    /// Puts the shared parts together.
    pub fn new(config: Config, shards: u16, parts: Parts) -> Context {
        let configured = usize::try_from(config.limits.connections_max).unwrap_or(usize::MAX);
        Context {
            config,
            shards,
            authenticator: parts.authenticator,
            api: parts.api,
            addresses: Addresses::default(),
            started_unix_ms: parts.started_unix_ms,
            run_blocking: parts.run_blocking,
            merging: parts.merging,
            storage: parts.storage,
            bus: parts.bus,
            measure: OnceLock::new(),
            process: OnceLock::new(),
            resident: OnceLock::new(),
            connections_max: AtomicUsize::new(if configured == 0 { usize::MAX } else { configured }),
            websockets: AtomicUsize::new(0),
            documents: AtomicUsize::new(0),
            partial_bytes: AtomicUsize::new(0),
        }
    }

    /// Says where the runtime's measurements come from; once, as soon as it runs.
    pub fn measure_with(&self, measure: Measure) {
        let _ = self.measure.set(measure);
    }

    /// Says how the process's memory is measured; once.
    pub fn measure_memory_with(&self, resident: Resident) {
        let _ = self.resident.set(resident);
    }

    /// Resident bytes of the process, where somebody can tell.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.resident.get().and_then(|resident| resident())
    }

    /// What the runtime measured of a shard; zeroes without a runtime.
    pub fn measured(&self, shard: ShardId) -> Measured {
        self.measure.get().map(|measure| measure(shard)).unwrap_or_default()
    }

    /// Says where metrics of the whole process come from, as complete families of Prometheus' text format; once.
    pub fn describe_process_with(&self, describe: Box<dyn Fn() -> String + Send + Sync>) {
        let _ = self.process.set(describe);
    }

    /// Metrics of the whole process; nothing without [`Context::describe_process_with`].
    pub fn process_metrics(&self) -> String {
        self.process.get().map(|describe| describe()).unwrap_or_default()
    }

    /// Says how many connections the runtime can hold; used unless the operator chose a number.
    pub fn limit_connections(&self, possible: usize) {
        if self.config.limits.connections_max == 0 {
            self.connections_max.store(possible, Ordering::Relaxed);
        }
    }

    /// Connections the process may hold.
    pub fn connections_max(&self) -> usize {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Bytes that may wait for one connection.
    pub fn send_queue_bytes_max(&self) -> usize {
        usize::try_from(self.config.limits.send_queue_bytes_max).unwrap_or(usize::MAX)
    }

    /// Memory for the documents of one shard, in bytes; only stored ones can make room.
    pub fn document_bytes_max(&self) -> usize {
        let total = usize::try_from(self.config.storage.document_memory_bytes).unwrap_or(usize::MAX);
        total / usize::from(self.shards.max(1))
    }

    /// Counts a new document; `false` when the process holds as many as it may.
    pub fn document_added(&self) -> bool {
        let max = usize::try_from(self.config.limits.documents_max).unwrap_or(usize::MAX);
        let room = |count: usize| (count < max).then_some(count + 1);
        self.documents
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_ok()
    }

    /// Documents were forgotten.
    pub fn documents_removed(&self, count: usize) {
        self.documents.fetch_sub(count, Ordering::Relaxed);
    }

    /// A connection became a WebSocket.
    pub fn websockets_opened(&self) {
        self.websockets.fetch_add(1, Ordering::Relaxed);
    }

    /// A WebSocket ended.
    pub fn websockets_closed(&self) {
        self.websockets.fetch_sub(1, Ordering::Relaxed);
    }

    /// WebSockets of the whole process.
    pub fn websockets(&self) -> usize {
        self.websockets.load(Ordering::Relaxed)
    }

    /// A partly received message changed its size.
    pub fn partial_bytes_changed(&self, before: usize, after: usize) {
        if before != after {
            self.partial_bytes
                .fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// Bytes of all partly received messages.
    pub fn partial_bytes(&self) -> usize {
        self.partial_bytes.load(Ordering::Relaxed)
    }
}

/// What per-address limits count: an IPv4 address, or an IPv6 /64 (docs/protocol.md §17.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey(u64);

impl AddressKey {
    /// Nobody's address: never counted.
    pub const UNCOUNTED: AddressKey = AddressKey(0);

    /// IPv4 addresses get a prefix that no global IPv6 address has.
    pub fn of(address: IpAddr) -> AddressKey {
        match address.to_canonical() {
            IpAddr::V4(address) => AddressKey(1 << 32 | u64::from(u32::from(address))),
            IpAddr::V6(address) => AddressKey((u128::from(address) >> 64) as u64),
        }
    }
}

/// Whether connections of a client are counted: not those of this machine itself, unless it is a trusted proxy.
pub fn is_counted(peer: IpAddr, client: IpAddr, proxies: &TrustedProxies) -> bool {
    let peer = peer.to_canonical();
    let trusted = match proxies {
        TrustedProxies::None => false,
        TrustedProxies::Networks(networks) => networks.iter().any(|network| network.contains(peer)),
        TrustedProxies::Hops(_) => true,
    };
    trusted || !client.to_canonical().is_loopback()
}

#[derive(Debug, Default)]
struct Counts {
    connections: u32,
    documents: u32,
    documents_this_hour: u32,
    hour_started_ms: u64,
}

/// Counts per address, for the limits of docs/protocol.md §17.1.
#[derive(Debug, Default)]
pub struct Addresses {
    counts: Mutex<HashMap<AddressKey, Counts>>,
}

/// Addresses whose document counts are remembered; beyond it, idle ones are forgotten.
const ADDRESSES_MAX: usize = 1 << 20;
const HOUR_MS: u64 = 3_600_000;

impl Addresses {
    fn lock(&self) -> MutexGuard<'_, HashMap<AddressKey, Counts>> {
        // Counts are valid after every statement, so a panic elsewhere does not spoil them.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection; `false` when the address has as many as it may.
    pub fn take(&self, key: AddressKey, max: u32) -> bool {
        let mut counts = self.lock();
        let entry = counts.entry(key).or_default();
        if entry.connections >= max {
            return false;
        }
        entry.connections += 1;
        true
    }

    /// One connection less.
    pub fn release(&self, key: AddressKey) {
        let mut counts = self.lock();
        if let Some(entry) = counts.get_mut(&key) {
            entry.connections = entry.connections.saturating_sub(1);
            if entry.connections == 0 && entry.documents == 0 {
                counts.remove(&key);
            }
        }
    }

    /// Counts a new document, or says which limit stands against it: its size, and whether it is the hourly one.
    pub fn count_document(&self, key: AddressKey, limits: &LimitsConfig, now: Now) -> Result<(), (u32, bool)> {
        let (total_max, hour_max) = (
            limits.documents_per_address_max,
            limits.documents_per_address_per_hour_max,
        );
        if key == AddressKey::UNCOUNTED || (total_max == u32::MAX && hour_max == u32::MAX) {
            return Ok(());
        }
        let mut counts = self.lock();
        if counts.len() >= ADDRESSES_MAX {
            counts.retain(|_, entry| entry.connections > 0);
        }
        let entry = counts.entry(key).or_default();
        if now.mono_ms() >= entry.hour_started_ms + HOUR_MS {
            entry.hour_started_ms = now.mono_ms();
            entry.documents_this_hour = 0;
        }
        if entry.documents >= total_max {
            return Err((total_max, false));
        }
        if entry.documents_this_hour >= hour_max {
            return Err((hour_max, true));
        }
        entry.documents += 1;
        entry.documents_this_hour += 1;
        Ok(())
    }
}
