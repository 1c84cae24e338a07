//! Several servers in alternating rounds, so that whatever else the machine does meanwhile hits all of them alike.

use crate::options::{Compare, Scenario};
use crate::result::{ComparedServer, Comparison, RunResult};
use crate::{dialect::Dialect, scenario};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The name of the bare server in comparisons.
pub const YARDSTICK: &str = "bare";

/// Pause between runs, so that sockets of the last one are gone.
const PAUSE: Duration = Duration::from_millis(300);

/// `compare`.
///
/// # Errors
/// A run that fails.
pub fn run(options: &Compare) -> Result<Comparison> {
    let names: Vec<&str> = options.servers.iter().map(|server| server.name.as_str()).collect();
    let scenarios = options
        .servers
        .iter()
        .map(|server| {
            let mut scenario = options.scenario.clone();
            server.apply(scenario.common_mut())?;
            Ok(scenario)
        })
        .collect::<Result<Vec<Scenario>>>()?;
    let mut compared: Vec<ComparedServer> = names.iter().map(|name| server(name)).collect();
    for _ in 0..options.rounds {
        for (scenario, compared) in scenarios.iter().zip(&mut compared) {
            compared
                .runs
                .push(scenario::run(scenario).with_context(|| format!("server {}", compared.name))?);
            std::thread::sleep(PAUSE);
        }
    }
    Ok(Comparison::of(compared, options.baseline.as_deref()))
}

/// A scenario beside the bare server, which this starts and ends.
///
/// # Errors
/// A run that fails.
pub fn beside_yardstick(scenario: &Scenario, path: &str) -> Result<Comparison> {
    let bare = BareProcess::start()?;
    let rounds = match scenario {
        Scenario::Throughput(options) => options.beside.rounds,
        Scenario::Fanout(options) => options.beside.rounds,
        _ => bail!("this scenario has no yardstick"),
    };
    let mut measured = server(&scenario.common().name);
    let mut yardstick = server(YARDSTICK);
    for _ in 0..rounds {
        let run = scenario::run(scenario)?;
        std::thread::sleep(PAUSE);
        let mut bare_scenario = scenario.clone();
        take_size(&mut bare_scenario, &run);
        let common = bare_scenario.common_mut();
        YARDSTICK.clone_into(&mut common.name);
        common.url = format!("ws://127.0.0.1:{}{path}", bare.port);
        common.pid = Some(bare.child.id());
        common.dialect = Dialect::Bare;
        common.metrics = None;
        (common.jwt_secret, common.token, common.login) = (None, None, None);
        // The bare server would echo or fan out application pings as if they were changes.
        common.ping_interval_ms = 0;
        measured.runs.push(run);
        yardstick
            .runs
            .push(scenario::run(&bare_scenario).context("the bare server")?);
        std::thread::sleep(PAUSE);
    }
    Ok(Comparison::of(vec![measured, yardstick], Some(YARDSTICK)))
}

/// Messages of the bare run are as long as those of the run before: what the server received per change (echo) or sent
/// per delivery (fan-out), frame headers included.
fn take_size(scenario: &mut Scenario, run: &RunResult) {
    const HEADER_BYTES: u64 = 4;
    const MASKED_HEADER_BYTES: u64 = 8;
    let per = |bytes: Option<u64>, count: Option<u64>| Some(bytes? / count.filter(|count| *count > 0)?);
    match scenario {
        Scenario::Throughput(options) => {
            if let Some(bytes) = per(run.messages.bytes_sent, run.messages.sent) {
                options.shape.payload = bytes.saturating_sub(MASKED_HEADER_BYTES).max(1) as u32;
            }
        }
        Scenario::Fanout(options) => {
            let bytes = run
                .parameters
                .get("bytes_per_delivery")
                .and_then(serde_json::Value::as_u64);
            if let Some(bytes) = bytes {
                options.shape.payload = bytes.saturating_sub(HEADER_BYTES).max(1) as u32;
            }
        }
        _ => {}
    }
}

fn server(name: &str) -> ComparedServer {
    ComparedServer {
        name: name.to_owned(),
        runs: Vec::new(),
    }
}

/// The bare server as a child process, killed when the value goes away.
struct BareProcess {
    child: Child,
    port: u16,
}

impl BareProcess {
    fn start() -> Result<Self> {
        let program = std::env::current_exe().context("the tool cannot find its own binary")?;
        let mut child = Command::new(program)
            .arg("bare")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the bare server cannot be started")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        let mut bare = Self { child, port: 0 };
        bare.port = port.context("the bare server did not start")?;
        Ok(bare)
    }
}

impl Drop for BareProcess {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
