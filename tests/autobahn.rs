//! Promise: the WebSocket code passes the Autobahn test suite, all its sections, those about compression (12 and 13)
//! included, with no FAILED and no NON-STRICT.
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

/// Cases per section: 517 in all, as in the original suite.
const SECTIONS: [(&str, usize); 11] = [
    ("1", 16),
    ("2", 11),
    ("3", 7),
    ("4", 10),
    ("5", 20),
    ("6", 145),
    ("7", 37),
    ("9", 54),
    ("10", 1),
    ("12", 90),
    ("13", 126),
];

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
    for (section, _) in SECTIONS {
        suite.args(["--include", &format!("{section}.*")]);
    }
    // It exits non-zero for failed cases too, and reports them; only a missing report is its own failure.
    let output = suite.arg(&address).output().unwrap();
    let index = fs::read(report.join("index.json")).unwrap_or_else(|error| {
        panic!(
            "kosoku wrote no report ({error}):\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
    judge(&serde_json::from_slice(&index).unwrap(), &report);
}

/// Panics unless all cases ran and passed.
fn judge(index: &Value, report: &Path) {
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
    assert_eq!(cases_run, BTreeMap::from(SECTIONS), "cases per section");
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
