//! The demo and the dashboard work in a real browser: two tabs of the demo see each other's list, text and pointer, the
//! dashboard shows live numbers and finds a document, neither asks for anything outside or logs an error, axe-core finds
//! nothing to object to, light, dark and at phone width. Chromium speaks TLS and compressed WebSockets to the server.
//! The tests themselves are in tests/browser; this one installs the pinned packages into the target folder, makes a
//! certificate, and runs them with Node. Screenshots are left in the target folder. Without Chromium it fails.

use std::path::{Path, PathBuf};
use std::process::Command;

const FILES: [&str; 3] = ["package.json", "package-lock.json", "pages.test.mjs"];
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

fn run(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{shown} failed:\n{text}");
    text
}

/// `CHROMIUM`, or the first known browser on the path.
fn chromium() -> PathBuf {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|folder| BROWSERS.map(|name| folder.join(name)))
        .find(|candidate| candidate.exists())
        .expect("Chromium is needed (package chromium), or CHROMIUM must name it")
}

/// A private copy of tests/browser with its packages installed and a certificate.
fn prepared() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
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
    let certificate = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 \
        -keyout key.pem -out certificate.pem";
    run(Command::new("openssl").args(certificate.split(' ')).current_dir(&place));
    place
}

#[test]
fn the_pages_work_in_chromium() {
    let place = prepared();
    let report = run(Command::new("node")
        .args(["--test", "--test-reporter=tap", "pages.test.mjs"])
        .env("SYNCKIT_SERVER_BINARY", env!("CARGO_BIN_EXE_synckit-server"))
        .env("CHROMIUM", chromium())
        .env("TLS_CERT", place.join("certificate.pem"))
        .env("TLS_KEY", place.join("key.pem"))
        .env("SCREENSHOTS", place.join("screenshots"))
        .current_dir(&place));
    println!("{report}");
    let passed = report
        .lines()
        .find_map(|line| line.strip_prefix("# pass "))
        .expect("the count of passed tests");
    assert_eq!(passed, "4", "all four tests ran:\n{report}");
}
