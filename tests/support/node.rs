//! Tests that are written in JavaScript: a private copy of their folder with the pinned packages, and their run with Node's
//! own test runner. Every step has a time limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds that installing packages and a run of tests may take on a busy machine.
const INSTALL_S: &str = "300";
const RUN_S: &str = "400";
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// A folder of tests, installed.
pub struct NodeTests {
    place: PathBuf,
    environment: Vec<(String, String)>,
}

impl NodeTests {
    /// Copies the files of `source` to `place` and installs the packages of its lock file, if that has changed.
    pub fn installed(source: &Path, place: &Path) -> NodeTests {
        fs::create_dir_all(place).expect("a folder under target");
        for file in fs::read_dir(source).expect("the folder of the tests") {
            let file = file.expect("readable").path();
            if file.is_file() {
                fs::copy(&file, place.join(file.file_name().expect("a name")))
                    .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            }
        }
        let lock = fs::read(source.join("package-lock.json")).expect("the lock file");
        let installed = place.join("installed-lock.json");
        if fs::read(&installed).ok().as_ref() != Some(&lock) {
            let arguments = [INSTALL_S, "npm", "ci", "--no-audit", "--no-fund"];
            run(limited(&arguments).current_dir(place));
            fs::write(&installed, lock).expect("a note of what is installed");
        }
        NodeTests {
            place: place.to_owned(),
            environment: Vec::new(),
        }
    }

    /// Where the copy is.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Sets a variable for the tests.
    pub fn env(mut self, name: &str, value: impl AsRef<Path>) -> NodeTests {
        let value = value.as_ref().to_str().expect("a plain path").to_owned();
        self.environment.push((name.to_owned(), value));
        self
    }

    /// Runs one file; all of its tests must pass, and there must be `count` of them.
    pub fn pass(&self, file: &str, count: usize) {
        let arguments = [RUN_S, "node", "--test", "--test-reporter=tap", file];
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        let report = run(limited(&arguments).envs(environment).current_dir(&self.place));
        println!("{report}");
        let passed = report.lines().find_map(|line| line.strip_prefix("# pass "));
        assert_eq!(
            passed,
            Some(count.to_string().as_str()),
            "all tests of {file} ran:\n{report}"
        );
    }
}

/// `CHROMIUM`, or the first known browser on the path.
pub fn chromium() -> PathBuf {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|folder| BROWSERS.map(|name| folder.join(name)))
        .find(|candidate| candidate.exists())
        .expect("Chromium is needed (package chromium), or CHROMIUM must name it")
}

/// The words behind `timeout`, which ends what takes longer than the seconds in the first of them.
fn limited(words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=10").args(words);
    command
}

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
