//! Metrics of the whole process and of the kernel's part of it. Read from /proc by the thread that watches, at most every
//! ten seconds, so that no shard does; whoever asks gets the last sample.

use crate::config::{Config, Database, Durability};
use crate::runtime::ShardStats;
use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Clock ticks a second in /proc; the same on every Linux that glommio runs on.
const TICKS: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// How the server was configured to work, as labels of `synckit_mode_info`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modes {
    /// `memory`, `postgresql` or `sqlite`.
    pub storage: &'static str,
    /// `sync`, `async`, or `none` in memory.
    pub durability: &'static str,
    /// `redis` or `none`.
    pub cluster: &'static str,
}

impl Modes {
    /// `durable`: there is a database; it may be left out if it is optional and away.
    pub fn of(config: &Config, durable: bool) -> Modes {
        let (storage, durability) = match (&config.storage.database, config.storage.durability) {
            (Database::Postgres(_), Durability::Sync) => ("postgresql", "sync"),
            (Database::Postgres(_), Durability::Async) => ("postgresql", "async"),
            (Database::Sqlite(_), Durability::Sync) => ("sqlite", "sync"),
            (Database::Sqlite(_), Durability::Async) => ("sqlite", "async"),
            (Database::Memory, _) => ("memory", "none"),
        };
        Modes {
            storage: if durable { storage } else { "memory" },
            durability: if durable { durability } else { "none" },
            cluster: if config.cluster.redis.is_some() {
                "redis"
            } else {
                "none"
            },
        }
    }
}

/// The last sample.
pub(super) struct Sampled {
    started_unix_ms: u64,
    modes: Modes,
    stats: Arc<[ShardStats]>,
    last: Mutex<Sample>,
}

#[derive(Clone, Debug, Default)]
struct Sample {
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    cpu_s: f64,
    descriptors: u64,
    descriptors_max: u64,
    /// Of `/proc/net/sockstat`: in use, orphaned, in TIME_WAIT, allocated.
    sockets: [u64; 4],
    buffer_bytes: u64,
    /// Slab and socket memory of the control group, if it has one of its own.
    kernel_bytes: Option<(u64, u64)>,
}

const SOCKET_STATES: [(&str, &str); 4] = [
    ("inuse", "in_use"),
    ("orphan", "orphaned"),
    ("tw", "time_wait"),
    ("alloc", "allocated"),
];

impl Sampled {
    /// Takes the first sample.
    pub fn new(started_unix_ms: u64, modes: Modes, stats: Arc<[ShardStats]>) -> Sampled {
        let sampled = Sampled {
            started_unix_ms,
            modes,
            stats,
            last: Mutex::default(),
        };
        sampled.sample();
        sampled
    }

    /// Takes a sample.
    pub fn sample(&self) {
        let sample = Sample::take();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = sample;
    }

    /// Families of Prometheus' text format.
    pub fn prometheus(&self) -> String {
        let sample = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connections: u64 = self
            .stats
            .iter()
            .map(|shard| shard.connections.load(Ordering::Relaxed))
            .sum();
        sample.prometheus(self.started_unix_ms, self.modes, connections)
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number behind a name, in `name 1`, `name: 1 kB` and the like.
fn number_of(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let words = lines
        .next()
        .unwrap_or_default()
        .trim_start_matches(':')
        .split_whitespace()
        .next();
    words.and_then(|word| word.parse().ok()).unwrap_or(0)
}

impl Sample {
    fn take() -> Sample {
        let status = text("/proc/self/status");
        let stat = text("/proc/self/stat");
        let after_name: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let ticks = |index: usize| {
            after_name
                .get(index)
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let sockstat = text("/proc/net/sockstat");
        let tcp = sockstat
            .lines()
            .find_map(|line| line.strip_prefix("TCP:"))
            .unwrap_or_default();
        let words: Vec<&str> = tcp.split_whitespace().collect();
        let of_tcp = |name: &str| {
            let pair = words.chunks_exact(2).find(|pair| pair[0] == name);
            pair.and_then(|pair| pair[1].parse().ok()).unwrap_or(0)
        };
        let limits = text("/proc/self/limits");
        let max_files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        Sample {
            resident_bytes: number_of(&status, "VmRSS") * 1024,
            virtual_bytes: number_of(&status, "VmSize") * 1024,
            threads: number_of(&status, "Threads"),
            cpu_s: (ticks(11) + ticks(12)) as f64 / TICKS,
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            descriptors_max: max_files
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(0),
            sockets: SOCKET_STATES.map(|(name, _)| of_tcp(name)),
            buffer_bytes: of_tcp("mem") * PAGE_BYTES,
            kernel_bytes: kernel_bytes(),
        }
    }

    fn prometheus(&self, started_unix_ms: u64, modes: Modes, connections: u64) -> String {
        let mut text = String::new();
        let mut family = |name: &str, help: &str, kind: &str, rows: &[(&str, f64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let one = |value: u64| [("", value as f64)];
        let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        family("synckit_build_info", "Which version runs", "gauge", &[(version, 1.0)]);
        let Modes {
            storage,
            durability,
            cluster,
        } = modes;
        let modes = format!("{{storage=\"{storage}\",durability=\"{durability}\",cluster=\"{cluster}\"}}");
        family(
            "synckit_mode_info",
            "Where documents live, what an acknowledgement means, and what joins nodes",
            "gauge",
            &[(modes.as_str(), 1.0)],
        );
        let started_s = started_unix_ms as f64 / 1e3;
        family(
            "process_start_time_seconds",
            "When the process started, Unix time",
            "gauge",
            &[("", started_s)],
        );
        family(
            "process_cpu_seconds_total",
            "Processor time used, user and system",
            "counter",
            &[("", self.cpu_s)],
        );
        family(
            "process_resident_memory_bytes",
            "Resident memory",
            "gauge",
            &one(self.resident_bytes),
        );
        family(
            "process_virtual_memory_bytes",
            "Virtual memory",
            "gauge",
            &one(self.virtual_bytes),
        );
        family("process_threads", "Threads", "gauge", &one(self.threads));
        family(
            "process_open_fds",
            "Open descriptors; direct ones are none",
            "gauge",
            &one(self.descriptors),
        );
        family(
            "process_max_fds",
            "Limit of open descriptors",
            "gauge",
            &one(self.descriptors_max),
        );
        let labels = SOCKET_STATES.map(|(_, state)| format!("{{state=\"{state}\"}}"));
        let sockets: Vec<(&str, f64)> = labels
            .iter()
            .map(String::as_str)
            .zip(self.sockets.map(|count| count as f64))
            .collect();
        family(
            "synckit_tcp_sockets",
            "TCP sockets of the network namespace (/proc/net/sockstat)",
            "gauge",
            &sockets,
        );
        family(
            "synckit_tcp_buffer_bytes",
            "Memory of TCP buffers of the network namespace (/proc/net/sockstat)",
            "gauge",
            &one(self.buffer_bytes),
        );
        let mut parts = Vec::new();
        if let Some((slab, sock)) = self.kernel_bytes {
            let rows = [("{kind=\"slab\"}", slab as f64), ("{kind=\"sock\"}", sock as f64)];
            family(
                "synckit_kernel_memory_bytes",
                "Kernel memory of the control group (memory.stat)",
                "gauge",
                &rows,
            );
            parts.push(("{part=\"kernel\"}", (slab + sock) as f64));
        }
        parts.push(("{part=\"user\"}", self.resident_bytes as f64));
        parts.retain(|_| connections > 0);
        parts.iter_mut().for_each(|(_, total)| *total /= connections as f64);
        family(
            "synckit_memory_bytes_per_connection",
            "Resident memory (user) and, where the control group tells it, kernel memory, divided by open connections",
            "gauge",
            &parts,
        );
        text
    }
}

/// Only a control group of the server's own tells something about the server.
fn kernel_bytes() -> Option<(u64, u64)> {
    let group = text("/proc/self/cgroup")
        .lines()
        .find_map(|line| line.strip_prefix("0::").map(str::to_owned))?;
    if group == "/" {
        return None;
    }
    let stat = fs::read_to_string(format!("/sys/fs/cgroup{group}/memory.stat")).ok()?;
    Some((number_of(&stat, "slab "), number_of(&stat, "sock ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: Modes = Modes {
        storage: "memory",
        durability: "none",
        cluster: "none",
    };

    #[test]
    fn a_sample_of_this_process_makes_sense() {
        let sample = Sample::take();
        assert!(
            sample.resident_bytes > 1 << 20 && sample.resident_bytes < sample.virtual_bytes,
            "{sample:?}"
        );
        assert!(sample.threads >= 1 && sample.descriptors >= 3 && sample.descriptors_max >= sample.descriptors);
        let text = sample.prometheus(1_000, MODES, 10);
        assert!(text.contains("process_start_time_seconds 1\n"), "{text}");
        assert!(
            text.contains("synckit_memory_bytes_per_connection{part=\"user\"}"),
            "{text}"
        );
        assert!(
            !sample.prometheus(1_000, MODES, 0).contains("{part="),
            "nothing to divide by"
        );
    }
}
