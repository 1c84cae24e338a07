//! What is wrong with a command line although each of its options is well-formed: found before anything is measured, so
//! that no long run ends with a complaint.

use crate::measure;
use crate::options::{Command, Common, Compare, Scenario};
use crate::target::Target;
use crate::token::Mint;
use anyhow::{Context, Result, ensure};
use std::fs::OpenOptions;
use std::path::Path;

/// Checks a command line.
///
/// # Errors
/// Options that contradict each other, a URL this tool cannot use, a process that is not there, a file that cannot be
/// written.
pub fn check(command: &Command) -> Result<()> {
    match command {
        Command::Scenario(scenario) => {
            let common = scenario.common();
            ensure!(
                common.ratio_assertions.is_empty() || scenario.yardstick().is_some(),
                "--assert-ratio needs another server to compare with: compare, or --yardstick (throughput, fanout)"
            );
            check_files(common)?;
            check_scenario(scenario)
        }
        Command::Compare(compare) => {
            check_files(compare.scenario.common())?;
            check_servers(compare)
        }
        Command::Report(report) => report.html.as_deref().map_or(Ok(()), check_writable),
        Command::Bare(_) | Command::Worker => Ok(()),
    }
}

fn check_servers(compare: &Compare) -> Result<()> {
    ensure!(compare.servers.len() >= 2, "compare: at least two --server are needed");
    let names: Vec<&str> = compare.servers.iter().map(|server| server.name.as_str()).collect();
    for (index, name) in names.iter().enumerate() {
        ensure!(!names[..index].contains(name), "compare: two servers are called {name}");
    }
    if let Some(baseline) = &compare.baseline {
        ensure!(
            names.contains(&baseline.as_str()),
            "--baseline {baseline}: there is no such --server"
        );
    }
    for server in &compare.servers {
        let mut scenario = compare.scenario.clone();
        server.apply(scenario.common_mut())?;
        check_scenario(&scenario).with_context(|| format!("--server {}", server.name))?;
    }
    Ok(())
}

fn check_scenario(scenario: &Scenario) -> Result<()> {
    let common = scenario.common();
    Target::parse(&common.url)?;
    if let Some(pid) = common.pid {
        measure::cpu(pid).with_context(|| format!("--pid {pid}: there is no such process"))?;
    }
    if let Some(secret) = &common.jwt_secret {
        Mint::new(secret)?;
    }
    match scenario {
        Scenario::Density(options) => {
            ensure!(
                options.broadcast_subscribers < options.connections,
                "--broadcast-subscribers must be fewer than --connections"
            );
            let is_rising = options.sample_at.is_sorted_by(|one, next| one < next);
            ensure!(
                is_rising && options.sample_at.last() <= Some(&options.connections),
                "--sample-at: write rising counts, none above --connections"
            );
        }
        Scenario::Mixed(options) => ensure!(
            options.documents <= options.editors && options.documents <= options.typists,
            "--documents must not be more than --editors or --typists, so that every document has a writer"
        ),
        Scenario::Durable(options) => ensure!(
            options.documents >= options.connections,
            "--documents must not be less than --connections, so that every connection has documents of its own"
        ),
        Scenario::Throughput(_) | Scenario::Fanout(_) | Scenario::Latency(_) | Scenario::Churn(_) => {}
    }
    Ok(())
}

fn check_files(common: &Common) -> Result<()> {
    [&common.json, &common.html]
        .into_iter()
        .flatten()
        .try_for_each(|file| check_writable(file))
}

/// Leaves nothing behind and changes nothing.
fn check_writable(file: &Path) -> Result<()> {
    let is_new = !file.exists();
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    if is_new {
        std::fs::remove_file(file).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}
