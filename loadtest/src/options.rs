//! What can be given on the command line.

use crate::assertion::Assertion;
use crate::control::{Credentials, Writing};
use crate::dialect::{Dialect, Encoding};
use crate::http;
use crate::target::Target;
use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

const DURABLE_EXAMPLE: &str = "\
Three stretches, one after the other: closed loops (closed_acked_per_second), a fixed rate (ack_p95_ms), and with
--database-url one client with one change under way in turn with bare single-row commits (ack_to_commit_ratio).
Example, against a server that was started with the same DATABASE_URL and SYNCKIT_MAX_MESSAGES_PER_MINUTE=0:
  loadtest durable --pid $(pidof synckit-server) --connections 200 --documents 2000 --in-flight 64 --rate 10000 \\
      --database-url postgresql:///postgres?host=/run/postgresql \\
      --assert 'closed_acked_per_second >= 20000' --assert 'ack_p95_ms <= 25' --assert 'ack_to_commit_ratio <= 2'";

const EXAMPLES: &str = "\
The most common uses:
  # 1. What does an idle connection cost, and does the server hold 100,000 of them? (--pid gives its memory and CPU)
  loadtest density --url ws://127.0.0.1:8080/ws --pid $(pidof synckit-server) --connections 100000 --hold 60 \\
      --jwt-secret \"$JWT_SECRET\" --assert 'dropped == 0' --html density.html
  # 2. How many changes per second, at what cost? (start the server with SYNCKIT_MAX_MESSAGES_PER_MINUTE=0)
  loadtest throughput --pid $(pidof synckit-server) --connections 50 --documents 50 --in-flight 16
  # 3. What does sending one change to 1,000 subscribers cost, beside bare send calls of the same bytes?
  loadtest fanout --pid $(pidof synckit-server) --subscribers 1000 --rate 100 --yardstick
  # 4. How long does a change take at a fixed rate, without hiding stalls?
  loadtest latency --connections 200 --documents 20 --rate 2000 --duration 30 --assert 'delivery_p99_ms < 20'
  # 5. Two servers side by side, in alternating rounds:
  loadtest compare --server ours=ws://127.0.0.1:8080/ws,pid=4711 \\
      --server theirs=ws://127.0.0.1:9090/ws,pid=4712,dialect=typescript --rounds 3 throughput --connections 50
  # 6. With a database: how many changes are stored per second, and how late is it said? (loadtest durable --help)
  loadtest durable --pid $(pidof synckit-server) --connections 200 --documents 2000 --rate 10000

What the tool itself costs: 16 bytes of state per connection (kernel memory apart), and about 1.6 MB per worker
process, each of which holds up to 19,000 connections; its memory and CPU are part of every result.
Limits of the server to raise for such runs: SYNCKIT_MAX_MESSAGES_PER_MINUTE=0 (throughput, fanout, latency), and for
peers that are not on the server's own machine SYNCKIT_MAX_CONNECTIONS_PER_IP. --metrics needs SYNCKIT_METRICS_PUBLIC=true
or --jwt-secret.

Exit codes: 0 all well; 1 a run failed (no answer, nothing that could be measured, most connections lost on the way, another
process than the server's) or an --assert does not hold; 2 the command line is wrong;
3 the figures are invalid because the load tester itself was saturated (see --allow-saturated).";

/// Measures SyncKit servers of every dialect: density, throughput, fan-out, latency, churn, mixed use, side by side.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, after_help = EXAMPLES, max_term_width = 120)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// A scenario against one server.
    #[command(flatten)]
    Scenario(Scenario),
    /// A scenario against several servers in alternating rounds, with ratios.
    Compare(Compare),
    /// Shows saved results again, one or several side by side.
    Report(Report),
    /// The yardstick: a bare nonblocking server that echoes (/echo) or fans out (/fanout) frames, and does nothing else.
    Bare(Bare),
    /// Part of the tool: holds connections for the coordinator.
    #[command(name = crate::fleet::WORKER_COMMAND, hide = true)]
    Worker,
}

/// The scenarios.
#[derive(Clone, Debug, Subcommand)]
pub enum Scenario {
    /// Connect, authenticate, subscribe, and hold: memory and CPU of idle connections.
    Density(Density),
    /// Change to acknowledgement in closed loops: how many, at what CPU cost.
    Throughput(Throughput),
    /// One publisher, many subscribers, with proof that nothing was lost.
    Fanout(Fanout),
    /// Changes at a fixed rate, timed from when they were due.
    Latency(Latency),
    /// Storms of connections, and all clients coming back after a restart.
    Churn(Churn),
    /// Editors, typists, moving cursors and idle readers at realistic rates.
    Mixed(Mixed),
    /// Changes of a server with a database: how many, how late their acknowledgements, beside bare commits.
    #[command(after_help = DURABLE_EXAMPLE)]
    Durable(Durable),
}

impl Scenario {
    /// The name used on the command line and in results.
    pub fn name(&self) -> &'static str {
        match self {
            Scenario::Density(_) => "density",
            Scenario::Throughput(_) => "throughput",
            Scenario::Fanout(_) => "fanout",
            Scenario::Latency(_) => "latency",
            Scenario::Churn(_) => "churn",
            Scenario::Mixed(_) => "mixed",
            Scenario::Durable(_) => "durable",
        }
    }

    /// What all scenarios have.
    pub fn common(&self) -> &Common {
        match self {
            Scenario::Density(options) => &options.common,
            Scenario::Throughput(options) => &options.common,
            Scenario::Fanout(options) => &options.common,
            Scenario::Latency(options) => &options.common,
            Scenario::Churn(options) => &options.common,
            Scenario::Mixed(options) => &options.common,
            Scenario::Durable(options) => &options.common,
        }
    }

    /// As [`Scenario::common`], to be changed.
    pub fn common_mut(&mut self) -> &mut Common {
        match self {
            Scenario::Density(options) => &mut options.common,
            Scenario::Throughput(options) => &mut options.common,
            Scenario::Fanout(options) => &mut options.common,
            Scenario::Latency(options) => &mut options.common,
            Scenario::Churn(options) => &mut options.common,
            Scenario::Mixed(options) => &mut options.common,
            Scenario::Durable(options) => &mut options.common,
        }
    }

    /// Whether a bare server is to run beside the one measured, and on which path it serves this scenario.
    pub fn yardstick(&self) -> Option<&'static str> {
        match self {
            Scenario::Throughput(options) if options.beside.yardstick => Some("/echo"),
            Scenario::Fanout(options) if options.beside.yardstick => Some("/fanout"),
            _ => None,
        }
    }
}

/// Options of every scenario.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The server, `ws://host[:port][/path]`.
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws", env = "LOADTEST_URL")]
    pub url: String,
    /// What to call the server in reports.
    #[arg(long, default_value = "server")]
    pub name: String,
    /// Process of the server on this machine; without it neither its memory nor its CPU is known.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Whose clients to imitate.
    #[arg(long, value_enum, default_value_t)]
    pub dialect: Dialect,
    /// How messages are put into frames.
    #[arg(long, value_enum, default_value_t)]
    pub encoding: Encoding,
    /// Sign a token for each connection with the server's JWT_SECRET (HS256).
    #[arg(long, env = "LOADTEST_JWT_SECRET", hide_env_values = true, conflicts_with_all = ["token", "login"])]
    pub jwt_secret: Option<String>,
    /// Give this token for every connection, for example the development token the server prints.
    #[arg(long, env = "LOADTEST_TOKEN", hide_env_values = true, conflicts_with = "login")]
    pub token: Option<String>,
    /// Fetch a token for all connections from POST /auth/login: email:password.
    #[arg(long)]
    pub login: Option<String>,
    /// URL of the server's metrics in Prometheus text, for what the server itself counted; http://host:port/metrics.
    #[arg(long, visible_alias = "admin")]
    pub metrics: Option<String>,
    /// Worker processes at least; more are used where one may not hold enough descriptors.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub workers: Option<u32>,
    /// Source addresses to use in turn; loopback targets use 127.10.0.0/16 by themselves.
    #[arg(long, value_delimiter = ',')]
    pub source_address: Vec<IpAddr>,
    /// New connections per second; 0 = as many as the server takes.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub connect_rate: f64,
    /// Handshakes under way at one time.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub handshakes: u32,
    /// A handshake that takes longer has failed.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(100..=600_000))]
    pub step_timeout_ms: u32,
    /// Time between application pings of each connection, as the SDK sends them; 0 = none. WebSocket pings are always answered.
    #[arg(long, default_value_t = 30_000)]
    pub ping_interval_ms: u64,
    /// Write the result here.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write a report with charts here.
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Fail unless this holds, for example 'lost == 0' or 'ack_p99_ms < 20'. May be given several times.
    #[arg(long = "assert", value_name = "EXPRESSION")]
    pub assertions: Vec<Assertion>,
    /// Fail unless the ratio of the measured server to the baseline holds, for example 'cpu_us_per_message <= 1.25';
    /// for compare and --yardstick, where the first server is the one measured.
    #[arg(long = "assert-ratio", value_name = "EXPRESSION")]
    pub ratio_assertions: Vec<Assertion>,
    /// Report figures although the load tester itself was the limit.
    #[arg(long)]
    pub allow_saturated: bool,
    /// Sends later than this at the 99th percentile make an open-loop run invalid.
    #[arg(long, default_value_t = 1000)]
    pub lag_us_max: u64,
    /// No live progress.
    #[arg(long, short)]
    pub quiet: bool,
}

impl Common {
    /// How connections authenticate.
    ///
    /// # Errors
    /// The login is refused.
    pub fn credentials(&self, target: &Target) -> Result<Credentials> {
        if let Some(secret) = &self.jwt_secret {
            crate::token::Mint::new(secret)?;
            return Ok(Credentials::Secret(secret.clone()));
        }
        if let Some(login) = &self.login {
            let Some((email, password)) = login.split_once(':') else {
                bail!("--login: write email:password");
            };
            return Ok(Credentials::Token(http::login(target, email, password)?));
        }
        Ok(self.token.clone().map_or(Credentials::None, Credentials::Token))
    }
}

/// A non-negative finite number.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("a number of at least 0 is needed".to_owned()),
    }
}

/// A rate that is not 0.
fn positive_rate(text: &str) -> Result<f64, String> {
    match rate(text) {
        Ok(rate) if rate > 0.0 => Ok(rate),
        _ => Err("a finite number above 0 is needed".to_owned()),
    }
}

/// A positive finite number.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 && seconds <= 1e6 => Ok(seconds),
        _ => Err("a number of seconds above 0 is needed".to_owned()),
    }
}

/// A number of connections.
fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=16_000_000)
}

/// Options of `density`.
#[derive(Clone, Debug, Args)]
pub struct Density {
    /// What all scenarios have.
    #[command(flatten)]
    pub common: Common,
    /// Connections to hold.
    #[arg(long, visible_alias = "conns", default_value_t = 10_000, value_parser = count())]
    pub connections: u32,
    /// Seconds to hold them.
    #[arg(long, default_value_t = 30.0, value_parser = rate)]
    pub hold: f64,
    /// Connections that share a document.
    #[arg(long, default_value_t = 10, value_parser = count())]
    pub per_document: u32,
    /// Do not subscribe to presence.
    #[arg(long)]
    pub no_awareness: bool,
    /// Do not subscribe at all: connect and authenticate only.
    #[arg(long)]
    pub no_subscribe: bool,
    /// Connection counts at which memory is measured; the slope is taken between the first and the last. Without it: a
    /// third, two thirds and all.
    #[arg(long, value_delimiter = ',', value_parser = count())]
    pub sample_at: Vec<u32>,
    /// Seconds to let things settle before memory is measured.
    #[arg(long, default_value_t = 2.0, value_parser = rate)]
    pub settle: f64,
    /// After holding, one change to a document with so many subscribers (of those connected); 0 = none.
    #[arg(long, default_value_t = 0)]
    pub broadcast_subscribers: u32,
    /// Changes per second to other documents while connections are held; 0 = none.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub edits_per_second: f64,
    /// Connections that make these changes.
    #[arg(long, default_value_t = 100, value_parser = count())]
    pub editors: u32,
    /// Seconds the changes go on.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub edit_duration: f64,
}

/// How long to measure.
#[derive(Clone, Copy, Debug, Args)]
pub struct Timing {
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub duration: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2.0, value_parser = rate)]
    pub warmup: f64,
}

/// What changes look like.
#[derive(Clone, Copy, Debug, Args)]
pub struct Shape {
    /// Bytes of a change's message, at least.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub payload: u32,
    /// Fields each writer writes in turn. With as many fields as messages, nothing may be coalesced.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub fields: u32,
}

impl From<Shape> for Writing {
    fn from(shape: Shape) -> Self {
        Self {
            payload_bytes: shape.payload,
            fields: shape.fields,
            messages_max: 0,
            documents_each: 1,
            documents_apart: 0,
        }
    }
}

/// Options of `throughput`.
#[derive(Clone, Debug, Args)]
pub struct Throughput {
    /// What all scenarios have.
    #[command(flatten)]
    pub common: Common,
    /// Connections that write.
    #[arg(long, visible_alias = "conns", default_value_t = 50, value_parser = count())]
    pub connections: u32,
    /// Documents they write to. With more than one per connection each writes its share in turn, and measuring begins
    /// when all of them exist.
    #[arg(long, default_value_t = 50, value_parser = count())]
    pub documents: u32,
    /// Changes of each connection that wait for their acknowledgement at one time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub in_flight: u32,
    /// The bare server beside it.
    #[command(flatten)]
    pub beside: Beside,
    /// What changes look like.
    #[command(flatten)]
    pub shape: Shape,
    /// How long to measure.
    #[command(flatten)]
    pub timing: Timing,
}

/// Whether the bare server is measured too.
#[derive(Clone, Debug, Args)]
pub struct Beside {
    /// Run the bare server (echo, or fan-out) beside it, in alternating rounds, with messages of the same size.
    #[arg(long)]
    pub yardstick: bool,
    /// Rounds with --yardstick.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
}

/// Options of `fanout`.
#[derive(Clone, Debug, Args)]
pub struct Fanout {
    /// What all scenarios have.
    #[command(flatten)]
    pub common: Common,
    /// Connections that subscribe.
    #[arg(long, default_value_t = 1000, value_parser = count())]
    pub subscribers: u32,
    /// Changes per second; 0 = the next one when the last one was acknowledged.
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    pub rate: f64,
    /// The bare server beside it.
    #[command(flatten)]
    pub beside: Beside,
    /// What changes look like.
    #[command(flatten)]
    pub shape: Shape,
    /// How long to measure.
    #[command(flatten)]
    pub timing: Timing,
}

/// Options of `latency`.
#[derive(Clone, Debug, Args)]
pub struct Latency {
    /// What all scenarios have.
    #[command(flatten)]
    pub common: Common,
    /// Connections that write and subscribe.
    #[arg(long, visible_alias = "conns", default_value_t = 100, value_parser = count())]
    pub connections: u32,
    /// Documents they share.
    #[arg(long, default_value_t = 10, value_parser = count())]
    pub documents: u32,
    /// Changes per second of all together.
    #[arg(long, default_value_t = 1000.0, value_parser = positive_rate)]
    pub rate: f64,
    /// Idle connections beside them.
    #[arg(long, default_value_t = 0)]
    pub idle: u32,
    /// What changes look like.
    #[command(flatten)]
    pub shape: Shape,
    /// How long to measure.
    #[command(flatten)]
    pub timing: Timing,
}

/// Options of `churn`.
#[derive(Clone, Debug, Args)]
pub struct Churn {
    /// What all scenarios have.
    #[command(flatten)]
    pub common: Common,
    /// Connections of each storm.
    #[arg(long, visible_alias = "conns", default_value_t = 5000, value_parser = count())]
    pub connections: u32,
    /// Storms: all connect, all leave.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// Connections that share a document.
    #[arg(long, default_value_t = 10, value_parser = count())]
    pub per_document: u32,
    /// Leave by a reset instead of a close frame.
    #[arg(long)]
    pub abort: bool,
    /// Established connections that go on writing meanwhile.
    #[arg(long, default_value_t = 20, value_parser = count())]
    pub established: u32,
    /// Their changes per second together.
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    pub rate: f64,
    /// After the storms: end this server process (SIGTERM) and wait until all clients are back.
    #[arg(long, requires = "restart_command")]
    pub restart_pid: Option<u32>,
    /// Starts the server again, as a shell would.
    #[arg(long, requires = "restart_pid")]
    pub restart_command: Option<String>,
    /// What changes look like.
    #[command(flatten)]
    pub shape: Shape,
}

/// Options of `durable`.
#[derive(Clone, Debug, Args)]
pub struct Durable {
    /// What all scenarios have.
    #[command(flatten)]
    pub common: Common,
    /// Connections that write.
    #[arg(long, visible_alias = "conns", default_value_t = 200, value_parser = count())]
    pub connections: u32,
    /// Documents they write to; each connection writes an equal part of them in turn.
    #[arg(long, default_value_t = 2000, value_parser = count())]
    pub documents: u32,
    /// Changes of each connection that wait for their acknowledgement at one time, in the closed loops; 0 = no closed loops.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub in_flight: u32,
    /// Changes per second of all together, at the fixed rate; 0 = no such stretch.
    #[arg(long, default_value_t = 10_000.0, value_parser = rate)]
    pub rate: f64,
    /// Seconds one client writes alone, one change under way; 0 = it does not.
    #[arg(long, default_value_t = 4.0, value_parser = rate)]
    pub single: f64,
    /// The database of the server, for bare commits in turn with the lone client: postgresql://… or sqlite:PATH. They go to a
    /// table of their own, loadtest_commits, which is dropped at the end.
    #[arg(long, env = "LOADTEST_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// What changes look like.
    #[command(flatten)]
    pub shape: Shape,
    /// How long to measure, for each of the first two stretches.
    #[command(flatten)]
    pub timing: Timing,
}

/// Options of `mixed`.
#[derive(Clone, Debug, Args)]
pub struct Mixed {
    /// What all scenarios have.
    #[command(flatten)]
    pub common: Common,
    /// Connections that only read.
    #[arg(long, default_value_t = 900, value_parser = count())]
    pub readers: u32,
    /// Connections that write fields.
    #[arg(long, default_value_t = 80, value_parser = count())]
    pub editors: u32,
    /// Changes per second of each editor.
    #[arg(long, default_value_t = 0.5, value_parser = rate)]
    pub edits_per_second: f64,
    /// Connections that type text.
    #[arg(long, default_value_t = 20, value_parser = count())]
    pub typists: u32,
    /// Text states per second of each typist (the SDK sends one per 50 ms of typing at most).
    #[arg(long, default_value_t = 1.0, value_parser = rate)]
    pub words_per_second: f64,
    /// Cursor movements per second of each of as many more connections as there are typists.
    #[arg(long, default_value_t = 2.0, value_parser = rate)]
    pub cursors_per_second: f64,
    /// Documents of each kind they share.
    #[arg(long, default_value_t = 20, value_parser = count())]
    pub documents: u32,
    /// What changes look like.
    #[command(flatten)]
    pub shape: Shape,
    /// How long to measure.
    #[command(flatten)]
    pub timing: Timing,
}

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
pub struct Compare {
    /// A server: `name=url[,pid=N][,dialect=D][,encoding=E][,token=T][,jwt-secret=S]`. At least two.
    #[arg(long = "server", value_name = "NAME=URL[,KEY=VALUE…]", required = true)]
    pub servers: Vec<NamedServer>,
    /// Rounds of each server.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// The server that ratios are against; the first one unless given.
    #[arg(long)]
    pub baseline: Option<String>,
    /// What to run.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// One of the servers compared.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedServer {
    /// What to call it.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Options of this server alone.
    pub others: BTreeMap<String, String>,
}

impl std::str::FromStr for NamedServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("write NAME=URL")?;
        let mut parts = rest.split(',');
        let url = parts.next().unwrap_or_default();
        if name.is_empty() || url.is_empty() {
            return Err("write NAME=URL".to_owned());
        }
        let mut others = BTreeMap::new();
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?}: write KEY=VALUE"))?;
            if !["pid", "dialect", "encoding", "token", "jwt-secret", "metrics"].contains(&key) {
                return Err(format!(
                    "{key:?} is not one of pid, dialect, encoding, token, jwt-secret, metrics"
                ));
            }
            others.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            url: url.to_owned(),
            others,
        })
    }
}

impl NamedServer {
    /// Puts the server into a scenario's options.
    ///
    /// # Errors
    /// A value that is none of its option.
    pub fn apply(&self, common: &mut Common) -> Result<()> {
        use clap::ValueEnum;
        common.name.clone_from(&self.name);
        common.url.clone_from(&self.url);
        common.pid = None;
        for (key, value) in &self.others {
            let wrong = |why: String| anyhow::anyhow!("--server {}: {key}={value}: {why}", self.name);
            match key.as_str() {
                "pid" => common.pid = Some(value.parse().map_err(|_| wrong("not a process id".to_owned()))?),
                "dialect" => common.dialect = Dialect::from_str(value, true).map_err(wrong)?,
                "encoding" => common.encoding = Encoding::from_str(value, true).map_err(wrong)?,
                "metrics" => common.metrics = Some(value.clone()),
                "token" => (common.token, common.jwt_secret) = (Some(value.clone()), None),
                _ => (common.jwt_secret, common.token) = (Some(value.clone()), None),
            }
        }
        Ok(())
    }
}

/// Options of `report`.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// Files written by --json.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// The server that ratios are against.
    #[arg(long)]
    pub baseline: Option<String>,
    /// Write a report with charts here.
    #[arg(long)]
    pub html: Option<PathBuf>,
}

/// Options of `bare`.
#[derive(Clone, Debug, Args)]
pub struct Bare {
    /// Port to listen on at 127.0.0.1; 0 = a free one, which is printed.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn compared_servers_are_described_in_one_argument() {
        let server: NamedServer = "a=ws://h:1/ws,pid=7,dialect=go,encoding=json".parse().expect("valid");
        let mut scenario = match Options::try_parse_from(["loadtest", "throughput"])
            .expect("valid")
            .command
        {
            Command::Scenario(scenario) => scenario,
            other => panic!("{other:?}"),
        };
        server.apply(scenario.common_mut()).expect("valid values");
        let common = scenario.common();
        assert_eq!(
            (common.pid, common.dialect, common.encoding),
            (Some(7), Dialect::Go, Encoding::Json)
        );
        assert_eq!((common.name.as_str(), common.url.as_str()), ("a", "ws://h:1/ws"));
        for wrong in ["a", "=x", "a=", "a=u,pid", "a=u,color=red"] {
            assert!(wrong.parse::<NamedServer>().is_err(), "{wrong}");
        }
        let wrong: NamedServer = "a=u,pid=x".parse().expect("the form is right");
        assert!(wrong.apply(scenario.common_mut()).is_err());
    }
}
