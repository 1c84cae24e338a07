//! The published JavaScript SDK, unmodified, is a client of this server: two of them edit and converge, come back after
//! a restart, join late, and open a closed server with a token in the URL. The tests themselves are in tests/js; this
//! one installs the pinned packages into the target folder and runs them with Node. Without Node it fails.

use std::path::{Path, PathBuf};
use std::process::Command;

const FILES: [&str; 5] = [
    "package.json",
    "package-lock.json",
    "prepare.mjs",
    "support.mjs",
    "sdk.test.mjs",
];

fn run(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{shown}: {error}; is Node with npm installed?"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{shown} failed:\n{text}");
    text
}

/// A private copy of tests/js with its packages installed.
fn prepared() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("javascript-sdk");
    std::fs::create_dir_all(&place).expect("a folder under target");
    let lock = std::fs::read(source.join("package-lock.json")).expect("the lock file");
    let installed = place.join("installed-lock.json");
    for file in FILES {
        std::fs::copy(source.join(file), place.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    if std::fs::read(&installed).ok().as_ref() != Some(&lock) {
        run(Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(&place));
        std::fs::write(&installed, lock).expect("a note of what is installed");
    }
    place
}

#[test]
fn the_published_sdk_works() {
    let place = prepared();
    let report = run(Command::new("node")
        .args(["--test", "--test-reporter=tap", "sdk.test.mjs"])
        .env("SYNCKIT_SERVER_BINARY", env!("CARGO_BIN_EXE_synckit-server"))
        .current_dir(&place));
    println!("{report}");
    let passed = report
        .lines()
        .find_map(|line| line.strip_prefix("# pass "))
        .expect("the count of passed tests");
    assert_eq!(passed, "7", "all seven tests ran:\n{report}");
}
