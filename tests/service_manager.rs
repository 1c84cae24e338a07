//! The server is a good service: it says when it is ready, alive, reloading and stopping; the watchdog is fed only while
//! every shard moves; SIGHUP changes secrets, keys, accounts and log levels without touching connections; SIGUSR1 writes the
//! state to the log; a listening socket of the service manager outlives it; SIGTERM spreads the closing of connections over
//! its window and says "not ready" meanwhile. Tried with the real process and a notification socket of the test's own.

use test_support as support;

use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::http;
use support::token::{claims, sign_with};
use support::{Client, Dialect, PATIENCE, Server, eventually};

/// A folder of the test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("synckit-service-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Scratch(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.file(name), text).expect("a file");
        self.file(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The service manager's end of the notifications.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(scratch: &Scratch) -> Manager {
        let path = scratch.file("notify");
        Manager {
            socket: UnixDatagram::bind(&path).expect("a socket"),
            path,
        }
    }

    /// The next message, if it comes in time.
    fn next(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).expect("a time-out");
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Waits for a message that begins so; gives it and what came before.
    fn await_message(&self, start: &str) -> (String, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        while Instant::now() < deadline {
            match self.next(Duration::from_millis(200)) {
                Some(message) if message.starts_with(start) => return (message, before),
                Some(other) => before.push(other),
                None => {}
            }
        }
        panic!("{start} never came, only {before:?}");
    }
}

#[test]
fn the_service_manager_is_told_what_happens() {
    let scratch = Scratch::new("told");
    let manager = Manager::new(&scratch);
    let mut server = Server::with()
        .env("NOTIFY_SOCKET", manager.path.display())
        .env("WATCHDOG_USEC", 2_000_000)
        .start();
    let (_, before) = manager.await_message("READY=1");
    assert!(before.iter().any(|message| message == "STATUS=starting"), "{before:?}");
    let _client = Client::connect(&server, Dialect::Json);
    for _ in 0..2 {
        manager.await_message("WATCHDOG=1");
    }
    eventually("the status counts the connection", || {
        let (status, _) = manager.await_message("STATUS=serving");
        (status == "STATUS=serving: 1 connections on 2 shards").then_some(())
    });
    server.signal("HUP");
    let (reloading, _) = manager.await_message("RELOADING=1");
    let since: u64 = reloading
        .split_once("MONOTONIC_USEC=")
        .expect("the time")
        .1
        .trim()
        .parse()
        .expect("a number");
    let uptime = fs::read_to_string("/proc/uptime").expect("/proc");
    let now_s: f64 = uptime
        .split_whitespace()
        .next()
        .expect("seconds")
        .parse()
        .expect("seconds");
    assert!((now_s - since as f64 / 1e6).abs() < 3600.0, "{since} against {now_s}");
    manager.await_message("READY=1");
    server.signal("TERM");
    let (stopping, _) = manager.await_message("STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=10000000"), "{stopping}");
    assert_eq!(
        server.wait_exit(Duration::from_secs(15)).expect("it ends").code(),
        Some(0)
    );
}

#[test]
fn a_name_in_the_abstract_namespace_serves_as_well() {
    use std::os::linux::net::SocketAddrExt as _;
    let name = format!("synckit-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = Manager {
        socket: UnixDatagram::bind_addr(&address).expect("a socket"),
        path: PathBuf::new(),
    };
    let _server = Server::with().env("NOTIFY_SOCKET", format!("@{name}")).start();
    manager.await_message("READY=1");
}

/// Holds one thread of another process still.
struct Held(libc::pid_t);

impl Held {
    fn new(thread: libc::pid_t) -> std::io::Result<Held> {
        let call = |request| {
            // SAFETY: these requests take no pointers; the thread belongs to a child of this process.
            match unsafe { libc::ptrace(request, thread, 0usize, 0usize) } {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        call(libc::PTRACE_SEIZE)?;
        call(libc::PTRACE_INTERRUPT)?;
        let mut status = 0;
        // SAFETY: `status` lives across the call.
        unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        Ok(Held(thread))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0usize, 0usize) };
    }
}

/// The oldest thread whose name begins so: an executor's own, which starts its helpers.
fn thread_named(pid: u32, name: &str) -> libc::pid_t {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let named = threads
        .flatten()
        .filter(|entry| fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.starts_with(name)));
    let ids = named.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.min().unwrap_or_else(|| panic!("no thread {name}"))
}

#[test]
fn the_watchdog_starves_while_a_shard_is_stuck() {
    let scratch = Scratch::new("stuck");
    let manager = Manager::new(&scratch);
    let server = Server::with()
        .env("NOTIFY_SOCKET", manager.path.display())
        .env("WATCHDOG_USEC", 1_600_000)
        .start();
    // The first says only that nothing stood still yet, maybe while shards are starting.
    manager.await_message("WATCHDOG=1");
    manager.await_message("WATCHDOG=1");
    let held = Held::new(thread_named(server.pid(), "shard-1")).expect("a child may be traced");
    // What was on its way when the shard was stopped.
    manager.await_message("STATUS=stuck: shards [1]");
    let until = Instant::now() + Duration::from_secs(3);
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        let message = manager.next(left);
        assert_ne!(message.as_deref(), Some("WATCHDOG=1"), "fed while shard 1 stood still");
    }
    assert!(server.log().contains("the watchdog is not fed"), "{}", server.log());
    drop(held);
    manager.await_message("WATCHDOG=1");
}

#[test]
fn hanging_up_changes_secrets_keys_accounts_and_levels() {
    const OLD: &str = "the-old-secret-of-this-server-0123456789abcdef";
    const NEW: &str = "the-new-secret-of-this-server-0123456789abcdef";
    let scratch = Scratch::new("reload");
    let secret = scratch.put("secret", OLD);
    let account = |email: &str, password: &str| {
        let hash = bcrypt::hash(password, 4).expect("a hash");
        format!("{email}:{hash}:read\n")
    };
    let users = scratch.put("users", &account("ann@example.com", "first"));
    let settings = |log: &str, keys: &str, port: &str| {
        let (secret, users) = (secret.display(), users.display());
        format!(
            "log = \"{log}\"\nauth_apikeys = \"{keys}\"\njwt_secret_file = \"{secret}\"\nusers_file = \"{users}\"\nmax_subscriptions = {port}\n"
        )
    };
    let file = scratch.put("synckit.toml", &settings("info", "first-key-of-this-server=read", "10"));
    let server = Server::with()
        .env("SYNCKIT_AUTH_REQUIRED", "true")
        .env("RUST_LOG", "")
        .arg("--config")
        .arg(file.display())
        .start();
    let token = |secret: &str| {
        sign_with(
            &claims("ann", &["*"], &["*"], false),
            jsonwebtoken::Algorithm::HS256,
            secret.as_bytes(),
        )
    };
    let opens = |token: &str| {
        let bearer = format!("Bearer {token}");
        server
            .request("GET", "/auth/me", &[("Authorization", &bearer)], "")
            .status
            == 200
    };
    assert!(opens(&token(OLD)) && !opens(&token(NEW)));
    let logs_in = |email: &str, password: &str| {
        let body = json!({ "email": email, "password": password }).to_string();
        server.request("POST", "/auth/login", &[], &body).status == 200
    };
    assert!(logs_in("ann@example.com", "first"));
    let mut client = Client::connect(&server, Dialect::Json);
    client.authenticate(&token(OLD));
    client.write_acked("note", json!({ "a": 1 }));

    // A file that is wrong changes nothing.
    scratch.put("synckit.toml", "prot = 1\n");
    server.signal("HUP");
    eventually("the refusal is told", || {
        server.log().contains("everything stays as it was").then_some(())
    });
    assert!(
        opens(&token(OLD)) && server.log().contains("did you mean port?"),
        "{}",
        server.log()
    );

    scratch.put("secret", NEW);
    scratch.put("users", &account("ben@example.com", "second"));
    scratch.put(
        "synckit.toml",
        &settings("synckit_server=debug", "other-key-of-this-server=read", "11"),
    );
    server.signal("HUP");
    eventually("the new secret is in force", || opens(&token(NEW)).then_some(()));
    assert!(!opens(&token(OLD)), "the old secret still opens");
    // Accounts are read before secrets.
    assert!(logs_in("ben@example.com", "second"));
    assert!(
        !logs_in("ann@example.com", "first"),
        "an account that is gone still logs in"
    );
    client.write_acked("note", json!({ "b": 2 }));
    let with_key = |key: &str| {
        let mut client = Client::connect(&server, Dialect::Json);
        client.say("auth", json!({ "apiKey": key }));
        client.next().kind
    };
    assert_eq!(with_key("other-key-of-this-server"), "auth_success");
    assert_eq!(with_key("first-key-of-this-server"), "auth_error");
    eventually("levels changed and the rest is told", || {
        let log = server.log();
        (log.contains("log levels: synckit_server=debug") && log.contains("SYNCKIT_MAX_SUBSCRIPTIONS")).then_some(())
    });
    assert!(
        server
            .log()
            .contains("takes effect only at the next start: SYNCKIT_MAX_SUBSCRIPTIONS"),
        "{}",
        server.log()
    );
    // Each connection's end is told at debug only.
    client.close();
    eventually("debug lines", || {
        server.log().contains("connection ended").then_some(())
    });
}

#[test]
fn the_state_is_told_on_request() {
    let server = Server::with().shards(3).start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("note", json!({ "a": 1 }));
    server.signal("USR1");
    let lines = eventually("three shards tell", || {
        let log = server.log();
        let lines: Vec<String> = log
            .lines()
            .filter(|line| line.contains("\"message\":\"state\""))
            .map(str::to_owned)
            .collect();
        (lines.len() == 3).then_some(lines)
    });
    let parsed: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let sum = |name: &str| {
        parsed
            .iter()
            .map(|line| line[name].as_u64().expect("a number"))
            .sum::<u64>()
    };
    assert_eq!(
        (sum("websockets"), sum("documents"), sum("subscriptions")),
        (1, 1, 1),
        "{parsed:?}"
    );
}

/// Starts the server with `listener` as descriptor 3, as systemd does.
fn activated(listener: &TcpListener, shards: u16, sockets: &str) -> Child {
    let handle = OwnedFd::from(listener.try_clone().expect("a handle"));
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" --shards \"$1\"";
    Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_synckit-server"), &shards.to_string()])
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("SYNCKIT_AUTH_REQUIRED", "false")
        .env("SYNCKIT_SOCKETS", sockets)
        // Would fail if it were looked at.
        .env("HOST", "192.0.2.1")
        .stdin(Stdio::from(handle))
        .stdout(Stdio::null())
        .spawn()
        .expect("bash runs")
}

#[test]
fn a_socket_of_the_service_manager_outlives_the_server() {
    for sockets in ["auto", "ordinary"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut first = activated(&listener, 2, sockets);
        for _ in 0..8 {
            assert_eq!(http::request(address, "GET", "/health", &[], b"").status, 200);
        }
        let stop = format!("kill -TERM {}", first.id());
        assert!(
            Command::new("sh")
                .args(["-c", &stop])
                .status()
                .expect("a shell")
                .success()
        );
        assert_eq!(first.wait().expect("it ends").code(), Some(0));
        // Nobody serves now, and nobody is refused.
        let mut early = TcpStream::connect(address).expect("the socket is still there");
        early
            .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("it waits");
        let mut second = activated(&listener, 3, sockets);
        early.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut answer = String::new();
        early.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        second.kill().expect("it is there");
        second.wait().expect("it was killed");
    }
}

#[test]
fn connections_are_closed_over_a_window_while_the_server_says_it_is_not_ready() {
    const CLIENTS: usize = 150;
    let mut server = Server::with().shards(1).env("SYNCKIT_DRAIN_MS", 30_000).start();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(&server, Dialect::Json)).collect();
    clients.iter_mut().for_each(|client| drop(client.subscribe("note")));
    assert_eq!(server.get("/health/ready").status, 200);
    server.signal("TERM");
    eventually("the server says it drains", || {
        (server.get("/health/ready").status == 503).then_some(())
    });
    let observers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                let (code, reason) = client.expect_close_within(Duration::from_secs(40));
                assert_eq!((code, reason.as_str()), (1001, "Server shutdown"));
                Instant::now()
            })
        })
        .collect();
    let mut ends: Vec<Instant> = observers
        .into_iter()
        .map(|thread| thread.join().expect("closed in order"))
        .collect();
    ends.sort();
    let spread = ends[CLIENTS - 1] - ends[0];
    assert!(spread > Duration::from_secs(1), "one every 10 ms: {spread:?}");
    // Few connections do not take the whole window.
    assert_eq!(
        server.wait_exit(Duration::from_secs(25)).expect("it ends").code(),
        Some(0)
    );
}

#[test]
fn what_is_acknowledged_during_the_window_reaches_those_who_are_still_there() {
    // A long flush window, which does not hold any more while the server drains.
    let mut server = Server::with().shards(1).env("SYNC_BATCH_DELAY", 60_000).start();
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(&server, Dialect::Json)).collect();
    clients.iter_mut().for_each(|client| drop(client.subscribe("note")));
    clients[98].write_acked("note", json!({ "first": 0 }));
    server.signal("TERM");
    // Closing begins with the oldest connection.
    let mut first = clients.remove(0);
    assert_eq!(first.expect_close().0, 1001);
    let (mut reader, mut writer) = (clients.pop().expect("a client"), clients.pop().expect("a client"));
    let id = writer.write("note", json!({ "late": 1 }));
    let mut acknowledged = false;
    while let Some(message) = writer.next_within(PATIENCE) {
        acknowledged |= message.kind == "ack" && message["messageId"] == id.as_str();
    }
    let mut seen = false;
    while let Some(message) = reader.next_within(PATIENCE) {
        seen |= message.kind == "delta" && message["field"] == "late";
    }
    assert!(
        seen || !acknowledged,
        "acknowledged, and the reader was closed without it"
    );
    assert!(acknowledged, "the writer was closed before its turn");
    assert_eq!(
        server.wait_exit(Duration::from_secs(15)).expect("it ends").code(),
        Some(0)
    );
}
