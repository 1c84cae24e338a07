//! What one run found out, and what several runs found side by side.
//!
//! Whatever a run could not measure is `None`, never zero: zero is a figure, and a server that cannot do a step has not
//! done it in no time. Counts are over the whole run, rates are per second, times say their unit in the name.

mod comparison;
mod latency;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use comparison::{Better, ComparedMetric, ComparedServer, ComparedValue, Comparison};
pub use latency::{CurvePoint, HIGHEST_TRACKED_NS, Latency, RecordedLatency, new_histogram};

/// Raised whenever a reader of old files would misread a new one.
pub const FORMAT: u32 = 1;

/// The content of a result file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ResultFile {
    Run(Box<RunResult>),
    Comparison(Box<Comparison>),
}

/// One run of one scenario against one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunResult {
    /// [`FORMAT`] of the tool that wrote this.
    pub format: u32,
    pub tool_version: String,
    pub scenario: String,
    /// When the run began, milliseconds since 1970.
    pub started_at_unix_ms: u64,
    pub duration_seconds: f64,
    /// The arguments the scenario ran with, by option name.
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// The machine the load tester ran on; the server's too when [`Server::is_local`].
    pub machine: Machine,
    pub server: Server,
    pub connections: Connections,
    pub phases: Vec<Phase>,
    pub memory: Memory,
    pub cpu: Cpu,
    /// By what was timed: `ack` (delta sent to ack received), `delivery` (delta sent to subscriber), `connect`, …
    pub latencies: BTreeMap<String, Latency>,
    /// The latency this scenario is about, a key of `latencies`: what `p99_ms` without a name means.
    pub headline_latency: Option<String>,
    pub messages: Messages,
    /// What only scenario `durable` measures.
    #[serde(skip_serializing_if = "Durable::is_empty")]
    pub durable: Durable,
    pub rates: Vec<RateSample>,
    /// What this server cannot do, and therefore was not measured.
    pub unsupported: Vec<UnsupportedStep>,
    pub saturation: Saturation,
    pub assertions: Vec<AssertionOutcome>,
}

impl RunResult {
    /// An empty result of this tool, on this format.
    pub fn new(scenario: &str) -> Self {
        Self {
            format: FORMAT,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: scenario.to_owned(),
            ..Self::default()
        }
    }
}

/// Figures of scenario `durable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durable {
    /// Changes acknowledged per second in closed loops.
    pub closed_acked_per_second: Option<f64>,
    /// Median time of an acknowledgement to a lone client with one change under way, by that of a bare commit.
    pub ack_to_commit_ratio: Option<f64>,
}

impl Durable {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Filled by [`crate::measure::machine`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    pub kernel: String,
    pub cpu_model: String,
    /// Cores this process may run on.
    pub cores: usize,
    pub memory_bytes: u64,
    /// Hard limit of descriptors per process.
    pub descriptors_max: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    pub url: String,
    /// The name given on the command line, used in comparisons.
    pub name: String,
    /// The protocol dialect and encoding spoken, for instance `sdk/json`.
    pub dialect: String,
    /// The process whose memory and CPU were read.
    pub pid: Option<u32>,
    pub version: Option<String>,
    /// Server and load tester share a kernel: kernel memory then counts both ends of every connection.
    pub is_local: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    pub requested: u64,
    /// Ready for the scenario: upgraded, authenticated and subscribed where the scenario asks for it.
    pub established: u64,
    /// The largest number open at one time.
    pub open_max: u64,
    /// Never became ready, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Ended by the server or the network after they were ready, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Ready connections per second while connecting.
    pub established_per_second: Option<f64>,
}

impl Connections {
    /// All connections that never became ready.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// All ready connections that were lost.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// A named stretch of the run, in seconds since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phase {
    pub name: String,
    pub from_seconds: f64,
    pub to_seconds: f64,
}

/// Memory as connections grew, and the cost per connection computed from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub samples: Vec<MemorySample>,
    pub slopes: MemorySlopes,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemorySample {
    pub at_seconds: f64,
    /// Connections open when the sample was taken.
    pub connections: u64,
    /// User memory of the server process.
    pub server: Option<ProcessMemory>,
    /// User memory of all processes of the load tester.
    pub client: Option<ProcessMemory>,
    /// Kernel memory of the whole machine.
    pub kernel: Option<KernelMemory>,
    /// The server's part of it, by the rule of [`MemorySlopes::attribution`].
    pub kernel_server_bytes: Option<u64>,
}

/// `/proc/PID/smaps_rollup` and `status`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessMemory {
    pub rss_bytes: u64,
    pub pss_bytes: u64,
    /// Resident memory no other process maps.
    pub private_bytes: u64,
    pub anonymous_bytes: u64,
    /// Kernel memory of the process's page tables.
    pub page_tables_bytes: u64,
}

/// Kernel memory of the machine, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelMemory {
    /// `Slab` of `/proc/meminfo`.
    pub slab_bytes: u64,
    /// `SUnreclaim` of `/proc/meminfo`: sockets, inodes in use and files are here.
    pub slab_unreclaimable_bytes: u64,
    pub page_tables_bytes: u64,
    pub kernel_stacks_bytes: u64,
    pub vmalloc_bytes: u64,
    /// `MemTotal − MemAvailable`: the catch-all that misses nothing and blames nobody.
    pub unavailable_bytes: u64,
    /// `/proc/net/sockstat` and `sockstat6`.
    pub sockets: Sockets,
    /// Object caches that grow with connections, by name; empty where `/proc/slabinfo` may not be read.
    pub caches: BTreeMap<String, SlabCache>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sockets {
    pub used: u64,
    pub tcp_in_use: u64,
    pub tcp_orphaned: u64,
    pub tcp_time_wait: u64,
    pub tcp_allocated: u64,
    /// Queued data and buffers charged to TCP.
    pub tcp_memory_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlabCache {
    pub objects: u64,
    pub object_bytes: u64,
    /// All pages the cache holds, unused objects included.
    pub bytes: u64,
}

/// Bytes per connection, fitted over samples at different connection counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemorySlopes {
    pub user_rss: Option<Slope>,
    pub user_pss: Option<Slope>,
    pub user_private: Option<Slope>,
    pub user_anonymous: Option<Slope>,
    /// Kernel memory of the machine: slab, page tables, vmalloc and TCP buffers, both ends where the server is local.
    pub kernel_machine: Option<Slope>,
    /// The server's part of `kernel_machine`, by the rule in `attribution`.
    pub kernel_server: Option<Slope>,
    /// `MemTotal − MemAvailable`, everything on the machine, the load tester included.
    pub machine_unavailable: Option<Slope>,
    pub client_rss: Option<Slope>,
    /// Each object cache of the machine, by name.
    pub caches: BTreeMap<String, Slope>,
    /// How `kernel_server` was told apart from the load tester's own sockets.
    pub attribution: String,
}

/// A line through samples of memory against connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slope {
    /// Least squares over all samples in range.
    pub bytes_per_connection: f64,
    /// From the medians at the fewest and at the most connections alone.
    pub endpoints_bytes_per_connection: f64,
    /// Memory at no connection, by the least squares line.
    pub base_bytes: f64,
    pub from_connections: u64,
    pub to_connections: u64,
    pub samples: usize,
    /// The part of the variance the line explains, 0 to 1.
    pub r_squared: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// The server's CPU in each measured stretch.
    pub server: Vec<ServerCpu>,
    /// The load tester's own workers over the measured stretch.
    pub client: Vec<WorkerCpu>,
}

/// The CPU time of the server in one stretch, and what it was spent on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerCpu {
    /// The phase measured.
    pub phase: String,
    pub seconds: f64,
    /// All CPU time, from the scheduler's nanosecond counts where they can be read.
    pub total_us: f64,
    pub user_us: f64,
    pub system_us: f64,
    /// Messages the server handled in this stretch; what counts as one is the scenario's to say.
    pub messages: Option<u64>,
    pub us_per_message: Option<f64>,
    pub user_us_per_message: Option<f64>,
    pub system_us_per_message: Option<f64>,
    /// Connections held idle × seconds held.
    pub idle_connection_seconds: Option<f64>,
    pub us_per_idle_connection_second: Option<f64>,
}

impl ServerCpu {
    /// CPU spent between two readings.
    pub fn between(phase: &str, before: &crate::measure::CpuReading, after: &crate::measure::CpuReading) -> Self {
        let spent = after.since(before);
        Self {
            phase: phase.to_owned(),
            seconds: spent.seconds,
            total_us: spent.total_us,
            user_us: spent.user_us,
            system_us: spent.system_us,
            ..Self::default()
        }
    }

    /// States what the stretch handled; no cost is stated for no messages.
    pub fn per_message(mut self, messages: u64) -> Self {
        self.messages = Some(messages);
        let per = |us: f64| (messages > 0).then(|| us / messages as f64);
        self.us_per_message = per(self.total_us);
        self.user_us_per_message = per(self.user_us);
        self.system_us_per_message = per(self.system_us);
        self
    }

    /// States how many connections were held idle through the stretch.
    pub fn per_idle_connection(mut self, connections: u64) -> Self {
        let held = connections as f64 * self.seconds;
        self.idle_connection_seconds = Some(held);
        self.us_per_idle_connection_second = (held > 0.0).then(|| self.total_us / held);
        self
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerCpu {
    pub worker: String,
    pub pid: u32,
    pub seconds: f64,
    pub cpu_us: f64,
    /// Part of one core, 0 to 1 for a worker of one thread.
    pub share: f64,
}

/// Counts of messages. `None`: this scenario or server does not do it.
///
/// Those from `expected_deliveries` to `out_of_order` are of the whole run, warm-up and rest included, since sequences cannot
/// be cut without missing what was under way; the others are of the measured stretch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Messages {
    pub sent: Option<u64>,
    pub acked: Option<u64>,
    /// Deliveries counted by subscribers.
    pub delivered: Option<u64>,
    /// Deliveries that would have come if each message had been sent on its own.
    pub expected_deliveries: Option<u64>,
    /// Superseded by a newer value that did arrive.
    pub coalesced: Option<u64>,
    /// Proved missing by sequence: neither delivered nor superseded.
    pub lost: Option<u64>,
    pub duplicated: Option<u64>,
    pub out_of_order: Option<u64>,
    pub bytes_sent: Option<u64>,
    pub bytes_received: Option<u64>,
    /// Length of the measured stretch; rates of the whole run are counts divided by this.
    pub measured_seconds: Option<f64>,
    /// Error messages from the server, by code.
    pub server_errors: BTreeMap<String, u64>,
}

impl Messages {
    /// `count` per second of the measured stretch.
    pub fn rate(&self, count: Option<u64>) -> Option<f64> {
        let seconds = self.measured_seconds.filter(|seconds| *seconds > 0.0)?;
        Some(count? as f64 / seconds)
    }
}

/// The rates of the interval that ended at `at_seconds`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateSample {
    pub at_seconds: f64,
    pub connections: u64,
    pub established_per_second: f64,
    pub sent_per_second: f64,
    pub acked_per_second: f64,
    pub delivered_per_second: f64,
    pub errors_per_second: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnsupportedStep {
    pub step: String,
    /// What the server answered, or why its dialect has no such message.
    pub reason: String,
}

/// Whether figures may stand. Those of a run in which the load tester itself was the limit say nothing about the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saturation {
    pub verdict: Verdict,
    pub reasons: Vec<String>,
    /// The busiest worker's part of one core.
    pub client_share_max: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The load tester had CPU to spare.
    Valid,
    /// The load tester was the limit, or fell behind its schedule.
    Saturated,
    /// It was the limit, and the figures were asked for nevertheless: they are shown under a warning.
    Allowed,
    /// Nothing could be measured, or not the server that was meant, or not all the time.
    Failed,
    /// Its own CPU was not measured.
    #[default]
    Unknown,
}

impl Verdict {
    /// Whether rates, times and costs are withheld.
    pub fn withholds(self) -> bool {
        matches!(self, Verdict::Saturated | Verdict::Failed)
    }
}

/// One `--assert` and how it went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AssertionOutcome {
    pub expression: String,
    /// `None`: not measured in this run, which fails the assertion.
    pub measured: Option<f64>,
    pub holds: bool,
    /// Why it does not hold.
    pub reason: Option<String>,
}
