//! The server and the tool as processes, for tests of the load tester.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

pub const SECRET: &str = "a-secret-that-only-this-test-run-knows-0123456789";

/// The server of the same build. `cargo test -p loadtest` does not build it by itself. It is built as the tests of the whole
/// workspace build it, whose dependencies have other features than those of `cargo build`, so that nothing is built twice.
pub fn server_binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let tool = PathBuf::from(env!("CARGO_BIN_EXE_loadtest"));
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "test",
            "--quiet",
            "--no-run",
            "--workspace",
            "--test",
            "shutdown",
            "--manifest-path",
            manifest,
        ]);
        // What cargo tells this test about its own package would make build scripts run again, and all that depends on them.
        let own = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ];
        for (name, _) in std::env::vars_os() {
            if own
                .iter()
                .any(|own| name.as_encoded_bytes().starts_with(own.as_bytes()))
            {
                build.env_remove(name);
            }
        }
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(
            build.status().expect("cargo runs").success(),
            "the server cannot be built"
        );
        tool.with_file_name("synckit-server")
    })
}

/// A server process, killed when the value goes away.
pub struct Server {
    pub child: Child,
    pub port: u16,
}

impl Server {
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(server_binary());
        command
            .args(["--shards", "1"])
            .env_clear()
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("SYNCKIT_AUTH_REQUIRED", "false")
            .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", "0")
            .env("SYNCKIT_METRICS_PUBLIC", "true")
            .env("JWT_SECRET", SECRET)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Self::await_port(command.spawn().expect("the server starts"))
    }

    /// The load tester's own bare server.
    pub fn bare() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        Self::await_port(command.arg("bare").stdout(Stdio::piped()).spawn().expect("it starts"))
    }

    fn await_port(mut child: Child) -> Self {
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(
                output.read_line(&mut line).expect("readable") > 0,
                "it ended without listening"
            );
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                break digits.parse().expect("a port");
            }
        };
        // The rest is read and forgotten, so that the process never waits for room in the pipe.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { child, port }
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the tool as a user does.
pub fn loadtest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(arguments)
        .output()
        .expect("the tool runs")
}
