//! Promise: the WebSocket code passes the Autobahn test suite, the sections about compression (12 and 13) included, with no
//! FAILED and no NON-STRICT. Of those two, whose 216 cases exchange up to a hundred megabytes each, the cases with messages
//! of 16, 256 and 4,096 bytes are run for every kind of payload and every set of parameters; `AUTOBAHN=all` runs all.
//!
//! How it is tried: the suite's own case files, driven by `kosoku` (installed from PyPI into a private environment under
//! `target/`), run against `examples/echo.rs`, which is nothing but the websocket module between two socket calls. Every case
//! must end OK or INFORMATIONAL, in its behaviour and in its closing handshake, and the number of cases per section must be
//! the number the suite has, so that a case that silently did not run is a failure too.

#[path = "../examples/echo.rs"]
mod echo;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

const KOSOKU: &str = "kosoku==0.1.0";
const NEEDED: &str = "this test needs python3 (3.10 or newer) with the venv module and access to PyPI: \
    install them (Debian: `apt install python3 python3-venv`) and let `pip install kosoku==0.1.0` work";

/// Cases per section: 301, as in the original suite.
const SECTIONS: [(&str, usize); 9] = [
    ("1", 16),
    ("2", 11),
    ("3", 7),
    ("4", 10),
    ("5", 20),
    ("6", 145),
    ("7", 37),
    ("9", 54),
    ("10", 1),
];

/// Sections about compression: payloads or parameters, and cases for each.
const COMPRESSION: [(&str, usize, usize); 2] = [("12", 5, 18), ("13", 7, 18)];
/// Those of the cases that are always run.
const ALWAYS: [usize; 3] = [1, 3, 5];

/// What to run, and how many cases that is per section.
fn selection() -> (Vec<String>, BTreeMap<&'static str, usize>) {
    let everything = std::env::var("AUTOBAHN").is_ok_and(|wanted| wanted == "all");
    let mut patterns: Vec<String> = SECTIONS.iter().map(|(section, _)| format!("{section}.*")).collect();
    let mut expected = BTreeMap::from(SECTIONS);
    for (section, groups, cases) in COMPRESSION {
        if everything {
            patterns.push(format!("{section}.*"));
            expected.insert(section, groups * cases);
            continue;
        }
        for group in 1..=groups {
            patterns.extend(ALWAYS.map(|case| format!("{section}.{group}.{case}")));
        }
        expected.insert(section, groups * ALWAYS.len());
    }
    (patterns, expected)
}

#[test]
fn every_case_is_ok_or_informational() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = format!("ws://{}", listener.local_addr().unwrap());
    thread::spawn(move || echo::serve(listener));

    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let report = scratch.join("autobahn-report");
    let _ = fs::remove_dir_all(&report);
    let mut suite = Command::new(installed_kosoku(&scratch.join("autobahn-venv")));
    suite.arg("--outdir").arg(&report).args(["--parallelism", "8"]);
    let (patterns, expected) = selection();
    for pattern in &patterns {
        suite.args(["--include", pattern]);
    }
    // It exits non-zero for failed cases too, and reports them; only a missing report is its own failure.
    let output = suite.arg(&address).output().unwrap();
    let index = fs::read(report.join("index.json")).unwrap_or_else(|error| {
        panic!(
            "kosoku wrote no report ({error}):\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
    judge(&serde_json::from_slice(&index).unwrap(), &report, expected);
}

/// Panics unless all cases ran and passed.
fn judge(index: &Value, report: &Path, expected: BTreeMap<&str, usize>) {
    let mut cases_run: BTreeMap<&str, usize> = BTreeMap::new();
    let mut faults = Vec::new();
    for (case, result) in index
        .as_object()
        .unwrap()
        .values()
        .flat_map(|agent| agent.as_object().unwrap())
    {
        let section = case.split('.').next().unwrap_or_default();
        *cases_run.entry(section).or_default() += 1;
        let (behavior, close) = (&result["behavior"], &result["behaviorClose"]);
        if [behavior, close]
            .iter()
            .any(|verdict| *verdict != "OK" && *verdict != "INFORMATIONAL")
        {
            faults.push(format!(
                "{case}: {behavior}, close {close}, code {}",
                result["remoteCloseCode"]
            ));
        }
    }
    assert!(
        faults.is_empty(),
        "{} cases failed, see {}:\n{}",
        faults.len(),
        report.display(),
        faults.join("\n")
    );
    assert_eq!(cases_run, expected, "cases per section");
}

/// The path of the suite's program, installed first if this is the first run.
fn installed_kosoku(environment: &Path) -> PathBuf {
    let program = environment.join("bin/kosoku");
    if !program.exists() {
        // A half-made environment of an interrupted run must not be mistaken for a whole one.
        let _ = fs::remove_dir_all(environment);
        must_succeed(Command::new("python3").args(["-m", "venv"]).arg(environment));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", KOSOKU];
        must_succeed(Command::new(environment.join("bin/python3")).args(pip));
    }
    program
}

fn must_succeed(command: &mut Command) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{NEEDED}\n{command:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{NEEDED}\n{command:?}: {error}"),
    }
}
