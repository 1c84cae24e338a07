//! A Redis of the test's own on a free port of the loopback, without persistence, that the test pauses, kills and restarts.
//! It is gone when the value is.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long Redis may take to start on a busy machine.
const START: Duration = Duration::from_secs(30);

/// A Redis server.
pub struct Redis {
    folder: PathBuf,
    port: u16,
    arguments: Vec<String>,
    server: Option<Child>,
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further arguments, as in `["--maxmemory", "2mb"]`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut redis = Self::stopped(arguments);
        redis.restart();
        redis
    }

    /// Chooses a port and starts nothing.
    pub fn stopped(arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new("/tmp").join(format!("synckit-redis-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder in /tmp");
        Self {
            folder,
            port: free_port(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            server: None,
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// For `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The same by its Unix socket.
    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.folder.join("redis.sock").display())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").id()
    }

    /// Starts it again, empty, on the same port.
    pub fn restart(&mut self) {
        let deadline = Instant::now() + START;
        assert!(self.server.is_none(), "it runs");
        loop {
            let output = fs::File::create(self.folder.join("log")).expect("a log");
            let mut server = Command::new("redis-server")
                .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
                .arg("--unixsocket")
                .arg(self.folder.join("redis.sock"))
                .arg("--dir")
                .arg(&self.folder)
                .args(&self.arguments)
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server runs");
            loop {
                if self.try_connect().is_some() {
                    self.server = Some(server);
                    return;
                }
                let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                assert!(Instant::now() < deadline, "Redis does not start:\n{}", log());
                if server.try_wait().expect("a child").is_some() {
                    // Somebody may hold the port for a moment.
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_connect(&self) -> Option<redis::Connection> {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_connection_with_timeout(Duration::from_millis(500)).ok()?;
        // Redis takes long to free a connection with very many subscriptions.
        connection.set_read_timeout(Some(START * 4)).ok()?;
        let answered: Result<String, _> = redis::cmd("PING").query(&mut connection);
        match answered {
            Ok(_) => Some(connection),
            Err(error) => error.to_string().contains("NOAUTH").then_some(connection),
        }
    }

    /// A connection of the test's own.
    pub fn connect(&self) -> redis::Connection {
        self.try_connect().expect("Redis takes connections")
    }

    /// Runs a command of the test's own.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .query(&mut self.connect())
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Cuts the connections of the kind, `normal` or `pubsub`; gives their number.
    pub fn cut(&self, kind: &str) -> i64 {
        self.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
    }

    /// A number of `INFO`.
    pub fn info(&self, name: &str) -> u64 {
        let text: String = self.command(&["INFO"]);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = line.and_then(|value| value.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in INFO"))
    }

    /// Kills it as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("it can be killed");
            server.wait().expect("it was killed");
        }
    }

    /// Stops the process where it is.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status();
        assert!(
            sent.expect("kill runs").success(),
            "the signal {name} was not delivered"
        );
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
