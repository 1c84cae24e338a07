//! `doctor`: what holds this node back, each with the command that mends it, and how many connections it could hold.
//!
//! Changes nothing. Run it as the user and with the limits that the server gets, or it judges those of your login.

mod backends;
mod host;

use super::capacity::{Demand, bytes, count};
use super::{Given, show};
use crate::config::{Config, SocketChoice};
use crate::runtime::machine::{Machine, examine};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use std::fmt::Write as _;
use std::process::ExitCode;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// As it should be.
    Fine,
    /// The server runs, with less than it could.
    Warning,
    /// The server does not start, or does not do what was configured.
    Failure,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Fine => "ok",
            Verdict::Warning => "warn",
            Verdict::Failure => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    verdict: Verdict,
    subject: String,
    text: String,
    /// The command or change that mends it.
    remedy: Option<String>,
}

impl Finding {
    fn fine(subject: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding {
            verdict: Verdict::Fine,
            subject: subject.into(),
            text: text.into(),
            remedy: None,
        }
    }

    fn bad(
        verdict: Verdict,
        subject: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            verdict,
            subject: subject.into(),
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// A bound on the number of connections, and what sets it.
type Bound = (u64, &'static str);

pub(super) fn definition() -> Command {
    Command::new("doctor")
        .about("Examine this machine and the configured backends: what holds the node back and what mends it")
        .after_help(
            "Exit code 1 if the server would not start as configured, or with --strict if there is any warning. Run it with \
             the server's user, limits and configuration.",
        )
        .arg(super::json_switch())
        .arg(Arg::new("strict").long("strict").action(ArgAction::SetTrue).help("Count warnings as failures"))
}

pub(super) fn run(given: &Given, matches: &ArgMatches) -> ExitCode {
    let config = match given.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u16);
    let shards = if config.shards == 0 { processors } else { config.shards };
    let machine = examine(shards);
    let mut findings = configuration(&config);
    findings.extend(host::kernel(&machine, &config));
    findings.extend(host::limits(&machine, &config, shards));
    findings.extend(host::settings(&config));
    findings.push(host::port(&config));
    findings.push(backends::database(&config));
    findings.push(backends::redis(&config));
    let bound = lowest_bound(&machine, &config, shards);
    let worst = findings
        .iter()
        .map(|finding| finding.verdict)
        .max()
        .unwrap_or(Verdict::Fine);
    let accepted = if matches.get_flag("strict") {
        Verdict::Fine
    } else {
        Verdict::Warning
    };
    show(&if matches.get_flag("json") {
        as_json(&findings, bound)
    } else {
        as_text(&findings, bound)
    });
    if worst <= accepted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn configuration(config: &Config) -> Vec<Finding> {
    let warning = |text: &String| {
        Finding::bad(
            Verdict::Warning,
            "configuration",
            text.clone(),
            "synckit-server config print",
        )
    };
    let mut findings: Vec<Finding> = config.warnings.iter().map(warning).collect();
    if config.auth.jwt_secret.generated && config.auth.required {
        findings.push(Finding::bad(
            Verdict::Warning,
            "JWT_SECRET",
            "not set: every token ends with the process",
            "JWT_SECRET=$(openssl rand -base64 48)",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("configuration", "no warnings"));
    }
    findings
}

/// What bounds the number of connections first.
fn lowest_bound(machine: &Machine, config: &Config, shards: u16) -> Bound {
    let ordinary = config.sockets == SocketChoice::Ordinary || machine.direct.is_err();
    let demand = Demand {
        connections: 0,
        per_document: 100,
        tokens: config.auth.required,
        ordinary,
        shards: u64::from(shards),
        heartbeat_ms: config.sync.heartbeat_interval_ms,
    };
    let layer = if ordinary {
        "the limit of open files, since each connection is an ordinary descriptor"
    } else {
        "what session references can name"
    };
    let mut bounds: Vec<Bound> = vec![(machine.connections_max(shards, ordinary), layer)];
    if let Some((free, source)) = host::free_memory() {
        bounds.push((demand.fitting_into(free), source));
    }
    if let Some(max) = host::number("/proc/sys/net/netfilter/nf_conntrack_max") {
        bounds.push((max, "net.netfilter.nf_conntrack_max"));
    }
    if let Some(max) = host::number("/proc/sys/fs/file-max") {
        bounds.push((max, "fs.file-max"));
    }
    if config.limits.connections_max > 0 {
        bounds.push((u64::from(config.limits.connections_max), "WS_MAX_CONNECTIONS"));
    }
    bounds.into_iter().min().unwrap_or((0, "nothing known"))
}

fn as_text(findings: &[Finding], bound: Bound) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let Finding {
            subject, text: found, ..
        } = finding;
        let _ = writeln!(text, "{:<5} {subject:<width$}  {found}", finding.verdict.word());
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "      {:<width$}  fix: {remedy}", "");
        }
    }
    let number = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let _ = writeln!(
        text,
        "\nThis node could hold about {} connections at rest; the first bound is {}.\n{} failures, {} warnings",
        count(bound.0),
        bound.1,
        number(Verdict::Failure),
        number(Verdict::Warning)
    );
    text
}

fn as_json(findings: &[Finding], bound: Bound) -> String {
    let finding = |finding: &Finding| {
        json!({
            "verdict": finding.verdict.word().to_lowercase(),
            "subject": finding.subject,
            "text": finding.text,
            "remedy": finding.remedy,
        })
    };
    let findings: Vec<_> = findings.iter().map(finding).collect();
    let object = json!({"connectionsMax": bound.0, "firstBound": bound.1, "findings": findings});
    format!("{object:#}\n")
}

/// For findings about memory.
fn megabytes(amount: u64) -> String {
    bytes(amount)
}
