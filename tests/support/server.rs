//! The real binary as a child process on a free port. It is killed when the value goes away, and its log is printed
//! when the test that owns it fails.

use super::http::{self, Response};
use super::{PATIENCE, eventually};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The line the server prints once its port is open.
const LISTENING: &str = "listening on 127.0.0.1:";

/// The server that was built with the running test: cargo puts it one folder above the tests.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    folder.join("synckit-server")
}

/// Settings of a server that is not started yet.
pub struct ServerBuilder {
    shards: usize,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl ServerBuilder {
    /// Sets an environment variable of the server.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an argument to the command line.
    pub fn arg(mut self, argument: impl ToString) -> Self {
        self.arguments.push(argument.to_string());
        self
    }

    /// Number of shards; 2 unless a test asks for another.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Requires authentication with tokens signed by [`super::token::SECRET`].
    pub fn auth(self) -> Self {
        self.env("SYNCKIT_AUTH_REQUIRED", "true")
            .env("JWT_SECRET", super::token::SECRET)
    }

    /// No heartbeats: for tests in which clients are left alone for longer than the heartbeat time-out.
    pub fn without_heartbeats(self) -> Self {
        self.env("WS_HEARTBEAT_INTERVAL", 0)
            .env("WS_HEARTBEAT_TIMEOUT", 600_000)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("--shards")
            .arg(self.shards.to_string())
            .args(&self.arguments)
            .env_clear();
        for inherited in ["PATH", "LD_LIBRARY_PATH", "TMPDIR", "RUST_LOG"] {
            if let Ok(value) = std::env::var(inherited) {
                command.env(inherited, value);
            }
        }
        command
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("RUST_BACKTRACE", "1")
            .env("SYNCKIT_AUTH_REQUIRED", "false")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts the server and waits until its port is open.
    pub fn start(self) -> Server {
        let mut child = self.command().spawn().expect("the server binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), &log);
        collect(child.stderr.take().expect("piped"), &log);
        let mut server = Server { child, port: 0, log };
        let deadline = Instant::now() + PATIENCE;
        server.port = loop {
            if let Some(port) = announced_port(&server.log()) {
                break port;
            }
            let ended = server.child.try_wait().expect("the child can be waited for");
            assert!(
                ended.is_none(),
                "the server ended at once ({ended:?}):\n{}",
                server.settled_log()
            );
            assert!(
                Instant::now() < deadline,
                "the server never said '{LISTENING}PORT':\n{}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        server
    }

    /// Starts a server that must refuse to run; gives its exit status and everything it printed.
    pub fn refuses(self) -> (ExitStatus, String) {
        let mut child = self.command().spawn().expect("the server binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), &log);
        collect(child.stderr.take().expect("piped"), &log);
        let mut server = Server { child, port: 0, log };
        let status = server
            .wait_exit(PATIENCE)
            .expect("the server went on running instead of refusing to start");
        let log = server.settled_log();
        (status, log)
    }
}

/// A running server.
pub struct Server {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// A server with authentication off and two shards.
    pub fn start() -> Self {
        Self::with().start()
    }

    /// The settings of [`Server::start`], to be changed.
    pub fn with() -> ServerBuilder {
        ServerBuilder {
            shards: 2,
            environment: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panicked").clone()
    }

    /// The log after the readers had time to see the end of the pipes.
    fn settled_log(&self) -> String {
        std::thread::sleep(Duration::from_millis(100));
        self.log()
    }

    /// One HTTP request without headers of its own.
    pub fn get(&self, path: &str) -> Response {
        http::request(self.address(), "GET", path, &[], b"")
    }

    /// The value of `synckit_NAME` in the metrics of all shards together; needs `SYNCKIT_METRICS_PUBLIC`.
    pub fn metric(&self, name: &str) -> u64 {
        let metrics = self.get("/metrics?format=prometheus");
        let prefix = format!("synckit_{name} ");
        let value = metrics
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(&prefix).map(str::to_owned));
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no synckit_{name}"))
    }

    /// One HTTP request.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        http::request(self.address(), method, path, headers, body.as_bytes())
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server lives");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("a VmRSS line");
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .expect("a number of KiB")
    }

    /// Processor time used so far, user and system, in milliseconds (the kernel counts in steps of 10).
    pub fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the server lives");
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .expect("a command name")
            .1
            .split_whitespace()
            .collect();
        let ticks = |index: usize| fields[index].parse::<u64>().expect("ticks");
        (ticks(11) + ticks(12)) * 10
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.pid()))
            .status();
        assert!(sent.expect("a shell").success(), "the signal {name} was not delivered");
    }

    /// Waits for the process to end by itself.
    pub fn wait_exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Panics unless the server still runs and answers.
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("the child can be waited for");
        assert!(ended.is_none(), "the server ended: {ended:?}");
        assert_eq!(
            eventually("the server answers", || Some(self.get("/health"))).status,
            200
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A child that has ended already needs no killing; both errors mean just that.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "---- log of the server ----\n{}\n---- end of the log ----",
                self.settled_log()
            );
        }
    }
}

fn announced_port(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once(LISTENING)?;
    let (digits, _) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
    digits.parse().ok()
}

fn collect(pipe: impl Read + Send + 'static, log: &Arc<Mutex<String>>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            log.lock()
                .expect("no reader panicked")
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}
