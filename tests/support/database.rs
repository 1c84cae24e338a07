//! A PostgreSQL of the test's own, in a temporary folder behind a Unix socket, that the test starts, pauses, kills and
//! restarts; and SQLite files. Both are gone when the value is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long PostgreSQL may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A fresh folder that every user may enter. Not below the build folder: a Unix socket's path is short, and PostgreSQL
/// runs as another user when the tests run as root.
fn folder(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = Path::new("/tmp").join(format!("synckit-{name}-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder in /tmp");
    folder
}

/// An SQLite file.
pub struct SqliteFile {
    folder: PathBuf,
}

impl SqliteFile {
    /// A file that does not exist yet.
    pub fn new() -> Self {
        Self {
            folder: folder("sqlite"),
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.join("documents.sqlite")
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }
}

impl Drop for SqliteFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A PostgreSQL server.
pub struct Postgres {
    folder: PathBuf,
    owner: Option<u32>,
    settings: Vec<String>,
    server: Option<Child>,
}

impl Postgres {
    /// Makes a new database cluster and starts it.
    pub fn start() -> Self {
        Self::start_with(|_| vec!["listen_addresses=".to_owned()])
    }

    /// The same with settings, which may name files that the closure puts into the cluster's folder. They must be readable
    /// for the user it runs as, see [`Postgres::put`].
    pub fn start_with(settings: impl FnOnce(&Self) -> Vec<String>) -> Self {
        let folder = folder("pg");
        let owner = owner();
        if let Some(uid) = owner {
            chown(&folder, Some(uid), None).expect("root may give folders away");
        }
        let mut postgres = Self {
            folder,
            owner,
            settings: Vec::new(),
            server: None,
        };
        let made = postgres
            .command("initdb")
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(postgres.data())
            .stdout(Stdio::null())
            .output()
            .expect("initdb runs");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        postgres.settings = settings(&postgres);
        postgres.restart();
        postgres
    }

    /// Writes a file that belongs to the user PostgreSQL runs as, and that nobody else may read.
    pub fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        if let Some(uid) = self.owner {
            chown(&path, Some(uid), None).expect("root may give files away");
        }
        path
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(binary(program));
        if let Some(uid) = self.owner {
            command.uid(uid);
        }
        command.current_dir(&self.folder).env("LC_ALL", "C");
        command
    }

    /// A program that comes with PostgreSQL, to be run as the user it runs as.
    pub fn tool(&self, program: &str) -> Command {
        self.command(program)
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        // The port is a part of the socket's name.
        let port = self.settings.iter().find_map(|setting| setting.strip_prefix("port="));
        let (host, port) = (self.folder.display(), port.unwrap_or("5432"));
        format!("postgresql:///postgres?host={host}&port={port}&user=postgres")
    }

    /// A connection of the test's own.
    pub fn connect(&self) -> postgres::Client {
        postgres::Client::connect(&self.url(), postgres::NoTls).expect("PostgreSQL takes connections")
    }

    /// Starts it again after [`Postgres::kill`] or [`Postgres::stop`], and waits until it takes connections.
    pub fn restart(&mut self) {
        let deadline = Instant::now() + START;
        let log = self.folder.join("log");
        loop {
            let output = fs::File::options().create(true).append(true).open(&log).expect("a log");
            let mut server = self
                .command("postgres")
                .arg("-D")
                .arg(self.data())
                .arg("-k")
                .arg(&self.folder)
                .args(["-c", "max_connections=50"])
                .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(output.try_clone().expect("a log"))
                .stderr(output)
                .spawn()
                .expect("postgres runs");
            loop {
                if postgres::Client::connect(&self.url(), postgres::NoTls).is_ok() {
                    self.server = Some(server);
                    return;
                }
                let text = || fs::read_to_string(&log).unwrap_or_default();
                assert!(Instant::now() < deadline, "PostgreSQL does not start:\n{}", text());
                if server.try_wait().expect("a child").is_some() {
                    // After a kill its last processes may still hold the shared memory.
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills every process of it at once, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            for child in children(server.id()) {
                signal("KILL", child);
            }
            server.kill().expect("it can be killed");
            server.wait().expect("it was killed");
        }
    }

    /// Ends it in order, cutting all connections.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal("INT", server.id());
            server.wait().expect("it ends");
        }
    }

    /// Stops all of its processes where they are.
    pub fn pause(&self) {
        self.signal_all("STOP");
    }

    /// Lets them go on.
    pub fn go_on(&self) {
        self.signal_all("CONT");
    }

    fn signal_all(&self, name: &str) {
        let server = self.server.as_ref().expect("it runs").id();
        // The postmaster first, so that it starts nobody new.
        signal(name, server);
        for child in children(server) {
            signal(name, child);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.go_on();
        }
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn signal(name: &str, pid: u32) {
    // A process that is gone already needs no signal.
    let _ = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string())
        .stderr(Stdio::null())
        .status();
}

/// The processes started by a process.
fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent_of = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent_of == Some(parent) {
            found.push(pid);
        }
    }
    found
}

/// Whom PostgreSQL runs as: it refuses to be root.
fn owner() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let uid = status.lines().find_map(|line| {
        line.strip_prefix("Uid:")?
            .split_whitespace()
            .next()?
            .parse::<u32>()
            .ok()
    });
    (uid == Some(0)).then(|| {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let id_of = |name: &str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            line.split(':').nth(2)?.parse::<u32>().ok()
        };
        id_of("postgres").or(id_of("nobody")).unwrap_or(65_534)
    })
}

/// A program of PostgreSQL: where a Debian package puts it, else by the search path. The newest version counts.
fn binary(program: &str) -> PathBuf {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin").join(program),
            ))
        })
        .filter(|(_, path)| path.exists())
        .collect();
    versions.sort();
    versions.pop().map_or_else(|| PathBuf::from(program), |(_, path)| path)
}
