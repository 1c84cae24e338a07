//! `capacity`: what a number of connections at rest needs. The figures are those of docs/density.md, measured on Linux 6.18
//! (x86-64); a test holds the two together.

use super::{Given, fail, show};
use crate::config::SocketChoice;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;
use std::fmt::Write as _;
use std::process::ExitCode;

/// The server before its first connection, in bytes.
const BASE_BYTES: u64 = 20_800_000;
/// What a connection makes the heap grow by, counted at the allocator, plus what the engine and its rings hold for it:
/// for tokens of their own at 100, 10 and 1 connections per document, and for anonymous ones at 100.
const HEAP_BYTES: [(u64, f64); 3] = [(100, 214.0), (10, 272.0), (1, 705.0)];
const ENGINE_BYTES: f64 = 25.0;
/// How much less an anonymous connection has.
const IDENTITY_BYTES: f64 = 72.0;
/// Resident bytes for each byte the heap holds: what the allocator cannot use.
const RESIDENT_PER_HEAP: f64 = 1.26;
/// Pages that connecting needed and the allocator keeps, per connection and at most.
const STORM_BYTES_EACH: u64 = 780;
const STORM_BYTES_MAX: u64 = 56_000_000;
/// The server's end of an idle connection in the kernel: socket, inode, dentry, file, poll, and smaller ones.
const KERNEL_BYTES_EACH: u64 = 4_260;
/// Without direct descriptors there is no poll on a ring, but an entry in an epoll set (`eventpoll_epi`, 128 bytes).
const KERNEL_BYTES_EACH_ORDINARY: u64 = 4_260 - 290 + 128;
/// Processor time for heartbeats, seconds per connection and second.
const HEARTBEAT_S: f64 = 0.355e-6;
/// Descriptors before the first connection: of the process, of a shard.
const DESCRIPTORS_BASE: u64 = 64;
const DESCRIPTORS_PER_SHARD: u64 = 24;
/// Ports that one client address (or proxy) has towards one server address, by default and at most.
const PORTS_DEFAULT: u64 = 28_232;
const PORTS_MOST: u64 = 64_512;
/// Memory for the rest of the machine.
const SPARE_BYTES: u64 = 512 << 20;

/// What is to be held.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Connections.
    pub connections: u64,
    /// How many of them share a document.
    pub per_document: u64,
    /// Whether each has a token of its own.
    pub tokens: bool,
    /// Whether sockets are ordinary descriptors.
    pub ordinary: bool,
    /// Shards.
    pub shards: u64,
    /// Time between heartbeats, in milliseconds; 0: none.
    pub heartbeat_ms: u64,
}

/// What that needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Resident memory of the server, in bytes.
    pub user_bytes: u64,
    /// Memory of the kernel for the server's ends, in bytes.
    pub kernel_bytes: u64,
    /// Descriptors of the process.
    pub descriptors: u64,
    /// Files of the machine, direct descriptors among them.
    pub files: u64,
    /// Source addresses that clients or proxies need, with default port ranges and with the widest.
    pub source_addresses: (u64, u64),
    /// Processor time for heartbeats, in cores.
    pub heartbeat_cores: f64,
}

impl Demand {
    /// Bytes of the server that one more connection costs.
    pub fn user_bytes_each(&self) -> f64 {
        let identity = if self.tokens { 0.0 } else { IDENTITY_BYTES };
        (heap_bytes(self.per_document) - identity + ENGINE_BYTES) * RESIDENT_PER_HEAP
    }

    /// Bytes of the kernel that one more connection costs.
    pub fn kernel_bytes_each(&self) -> u64 {
        if self.ordinary {
            KERNEL_BYTES_EACH_ORDINARY
        } else {
            KERNEL_BYTES_EACH
        }
    }

    /// Everything it needs.
    pub fn need(&self) -> Need {
        let count = self.connections;
        let storm = count.saturating_mul(STORM_BYTES_EACH).min(STORM_BYTES_MAX);
        let own = DESCRIPTORS_BASE + DESCRIPTORS_PER_SHARD * self.shards;
        Need {
            user_bytes: BASE_BYTES + storm + (count as f64 * self.user_bytes_each()) as u64,
            kernel_bytes: count.saturating_mul(self.kernel_bytes_each()),
            descriptors: own + if self.ordinary { count } else { 0 },
            files: own + count,
            source_addresses: (count.div_ceil(PORTS_DEFAULT), count.div_ceil(PORTS_MOST)),
            heartbeat_cores: match self.heartbeat_ms {
                0 => 0.0,
                interval_ms => count as f64 * HEARTBEAT_S * 30_000.0 / interval_ms as f64,
            },
        }
    }

    /// Connections that fit into so much memory, whatever else stands in the way.
    pub fn fitting_into(&self, bytes: u64) -> u64 {
        let each = self.user_bytes_each() + self.kernel_bytes_each() as f64;
        let free = bytes.saturating_sub(BASE_BYTES + STORM_BYTES_MAX + SPARE_BYTES);
        (free as f64 / each) as u64
    }
}

/// Between the measured points, in proportion to the documents each connection brings along.
fn heap_bytes(per_document: u64) -> f64 {
    let share = 1.0 / per_document.max(1) as f64;
    let [(many, least), (ten, middle), (_, most)] = HEAP_BYTES.map(|(count, bytes)| (1.0 / count as f64, bytes));
    let between = |from: (f64, f64), to: (f64, f64)| from.1 + (to.1 - from.1) * (share - from.0) / (to.0 - from.0);
    if share <= many {
        least
    } else if share <= ten {
        between((many, least), (ten, middle))
    } else {
        between((ten, middle), (1.0, most))
    }
}

pub(super) fn definition() -> Command {
    Command::new("capacity")
        .about("Say what a number of connections at rest needs: memory, descriptors, ports, kernel settings")
        .after_help("Documents come on top (SYNCKIT_DOC_MEMORY), and what busy or slow connections have waiting.")
        .arg(
            Arg::new("conns")
                .long("conns")
                .value_name("N")
                .required(true)
                .value_parser(value_parser!(u64).range(1..=1_000_000_000))
                .help("connections"),
        )
        .arg(
            Arg::new("per-document")
                .long("per-document")
                .value_name("N")
                .default_value("100")
                .value_parser(value_parser!(u64).range(1..))
                .help("connections that share a document"),
        )
        .arg(
            Arg::new("anonymous")
                .long("anonymous")
                .action(ArgAction::SetTrue)
                .help("authentication is off"),
        )
        .arg(super::json_switch())
}

pub(super) fn run(given: &Given, matches: &ArgMatches) -> ExitCode {
    let config = match given.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let (Some(connections), Some(per_document)) =
        (matches.get_one::<u64>("conns"), matches.get_one::<u64>("per-document"))
    else {
        return fail(&"--conns is needed");
    };
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let demand = Demand {
        connections: *connections,
        per_document: *per_document,
        tokens: !matches.get_flag("anonymous"),
        ordinary: config.sockets == SocketChoice::Ordinary,
        shards: match config.shards {
            0 => processors,
            shards => u64::from(shards),
        },
        heartbeat_ms: config.sync.heartbeat_interval_ms,
    };
    let settings = settings(&demand);
    if matches.get_flag("json") {
        let need = demand.need();
        let object = json!({
            "connections": demand.connections,
            "userBytes": need.user_bytes,
            "userBytesEach": demand.user_bytes_each(),
            "kernelBytes": need.kernel_bytes,
            "kernelBytesEach": demand.kernel_bytes_each(),
            "descriptors": need.descriptors,
            "files": need.files,
            "sourceAddresses": need.source_addresses.0,
            "heartbeatCores": need.heartbeat_cores,
            "settings": settings.iter().map(|(name, value, _)| json!({"name": name, "atLeast": value})).collect::<Vec<_>>(),
        });
        return show(&format!("{object:#}\n"));
    }
    show(&text(&demand, &settings))
}

/// Kernel settings that must have at least so much, and why.
fn settings(demand: &Demand) -> Vec<(&'static str, u64, &'static str)> {
    let need = demand.need();
    let mut settings = vec![
        (
            "fs.file-max",
            need.files + 100_000,
            "every socket is a file of the machine",
        ),
        (
            "net.core.somaxconn",
            4_096,
            "connections that wait to be accepted, per shard",
        ),
        (
            "net.netfilter.nf_conntrack_max",
            demand.connections + demand.connections / 4,
            "only where connection tracking is loaded; better: none for the server's port",
        ),
    ];
    if demand.ordinary {
        settings.push(("fs.nr_open", need.descriptors, "the ceiling of the descriptor limit"));
    }
    settings
}

fn text(demand: &Demand, settings: &[(&str, u64, &str)]) -> String {
    let need = demand.need();
    let layer = if demand.ordinary { "ordinary" } else { "direct" };
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<24}{value}");
    };
    line(
        "connections",
        format!(
            "{} at rest, {} per document, {layer} descriptors",
            count(demand.connections),
            demand.per_document
        ),
    );
    line(
        "memory of the server",
        format!("{} ({:.0} B each)", bytes(need.user_bytes), demand.user_bytes_each()),
    );
    line(
        "memory of the kernel",
        format!("{} ({} B each)", bytes(need.kernel_bytes), demand.kernel_bytes_each()),
    );
    line(
        "both",
        format!(
            "{}; with documents and the rest of the machine plan for {}",
            bytes(need.user_bytes + need.kernel_bytes),
            bytes(need.user_bytes + need.kernel_bytes + (1 << 30) + SPARE_BYTES)
        ),
    );
    line(
        "descriptors",
        format!("{} (ulimit -n, LimitNOFILE=)", count(need.descriptors)),
    );
    line("heartbeats", format!("{:.2} cores", need.heartbeat_cores));
    line(
        "ports",
        format!(
            "none of this machine; clients or proxies need {} source addresses ({} with net.ipv4.ip_local_port_range=\"1024 65535\")",
            need.source_addresses.0, need.source_addresses.1
        ),
    );
    for (name, value, reason) in settings {
        line("kernel setting", format!("{name} >= {value}: {reason}"));
    }
    text
}

/// Thousands in groups.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes for people, in decimal units.
pub(super) fn bytes(bytes: u64) -> String {
    if bytes >= 10_000_000_000 {
        format!("{:.1} GB", bytes as f64 / 1e9)
    } else if bytes >= 1_000_000_000 {
        format!("{:.2} GB", bytes as f64 / 1e9)
    } else {
        format!("{:.1} MB", bytes as f64 / 1e6)
    }
}
