//! The load tester measures what it says it measures: every scenario runs small against the real server, in every
//! dialect, and its counts are exact. What cannot be measured is refused: wrong input, a server that is not there or
//! cannot do a step, and figures of a run in which the load tester itself was the limit.

use loadtest::http;
use loadtest::result::{Comparison, ResultFile, RunResult, Verdict};
use loadtest::target::Target;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const SECRET: &str = "a-secret-that-only-this-test-run-knows-0123456789";

/// The server of the same build. `cargo test -p loadtest` does not build it by itself. It is built as the tests of the whole
/// workspace build it, whose dependencies have other features than those of `cargo build`, so that nothing is built twice.
fn server_binary() -> &'static PathBuf {
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
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(settings: &[(&str, &str)]) -> Self {
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
    fn bare() -> Self {
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

    fn url(&self) -> String {
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
fn loadtest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(arguments)
        .output()
        .expect("the tool runs")
}

/// Runs a scenario that must succeed and gives its saved result. Saturation is allowed: other tests run meanwhile.
fn result_of(name: &str, arguments: &[&str]) -> ResultFile {
    let file = std::env::temp_dir().join(format!("loadtest-{}-{name}.json", std::process::id()));
    let path = file.to_str().expect("a path in UTF-8");
    let mut all = arguments.to_vec();
    all.extend(["--quiet", "--allow-saturated", "--json", path]);
    let output = loadtest(&all);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {:?}: {complaint}",
        output.status
    );
    let text = std::fs::read(&file).expect("the result was written");
    std::fs::remove_file(&file).expect("it is ours");
    serde_json::from_slice(&text).expect("a result")
}

fn run_of(name: &str, arguments: &[&str]) -> RunResult {
    match result_of(name, arguments) {
        ResultFile::Run(run) => *run,
        ResultFile::Comparison(_) => panic!("one run was asked for"),
    }
}

fn comparison_of(name: &str, arguments: &[&str]) -> Comparison {
    match result_of(name, arguments) {
        ResultFile::Comparison(comparison) => *comparison,
        ResultFile::Run(_) => panic!("a comparison was asked for"),
    }
}

/// Every change was delivered, superseded or found missing; here none is missing.
fn assert_nothing_lost(run: &RunResult) {
    let messages = &run.messages;
    assert_eq!(messages.lost, Some(0), "{messages:?}");
    assert_eq!(
        (messages.duplicated, messages.out_of_order),
        (Some(0), Some(0)),
        "{messages:?}"
    );
    assert!(messages.server_errors.is_empty(), "{messages:?}");
    assert_eq!(
        (run.connections.failed_total(), run.connections.dropped_total()),
        (0, 0),
        "{:?}",
        run.connections
    );
}

#[test]
fn density_holds_authenticated_connections_and_finds_their_memory() {
    let server = Server::start(&[("SYNCKIT_AUTH_REQUIRED", "true")]);
    let (url, pid) = (server.url(), server.child.id().to_string());
    let run = run_of(
        "density",
        &[
            "density",
            "--url",
            &url,
            "--pid",
            &pid,
            "--connections",
            "900",
            "--jwt-secret",
            SECRET,
            "--hold",
            "0.5",
            "--settle",
            "0.2",
            "--broadcast-subscribers",
            "100",
            "--edits-per-second",
            "50",
            "--editors",
            "5",
            "--edit-duration",
            "0.5",
            "--assert",
            "dropped == 0",
            "--assert",
            "user_bytes_per_connection < 20000",
        ],
    );
    assert_eq!(run.connections.established, 900 + 1 + 5);
    assert_nothing_lost(&run);
    assert_eq!(
        run.latencies["broadcast"].count, 100,
        "every subscriber of the one broadcast"
    );
    let slope = run.memory.slopes.user_rss.expect("the server's memory was read");
    assert_eq!((slope.from_connections, slope.to_connections), (300, 900));
    let idle = run
        .cpu
        .server
        .iter()
        .find(|cpu| cpu.phase == "hold")
        .expect("CPU while holding");
    assert!(idle.us_per_idle_connection_second.is_some());
    assert!(run.assertions.iter().all(|outcome| outcome.holds) && run.assertions.len() == 2);
}

#[test]
fn throughput_counts_exactly_in_every_dialect() {
    let server = Server::start(&[]);
    let (url, pid) = (server.url(), server.child.id().to_string());
    for dialect in ["sdk", "typescript", "csharp", "go", "python"] {
        for encoding in ["binary", "json"] {
            let run = run_of(
                &format!("throughput-{dialect}-{encoding}"),
                &[
                    "throughput",
                    "--url",
                    &url,
                    "--pid",
                    &pid,
                    "--dialect",
                    dialect,
                    "--encoding",
                    encoding,
                    "--connections",
                    "4",
                    "--documents",
                    "2",
                    "--in-flight",
                    "4",
                    "--warmup",
                    "0",
                    "--duration",
                    "0.2",
                ],
            );
            assert_nothing_lost(&run);
            assert_eq!(run.unsupported, [], "{dialect}/{encoding}");
            assert!(
                run.messages.acked > Some(20),
                "{dialect}/{encoding}: {:?}",
                run.messages
            );
            assert!(run.messages.expected_deliveries > Some(20), "{:?}", run.messages);
            assert!(run.latencies["ack"].count > 20);
            assert!(run.cpu.server[0].us_per_message.is_some());
        }
    }
}

#[test]
fn fanout_stands_beside_bare_sends_of_the_same_bytes() {
    let server = Server::start(&[]);
    let (url, pid) = (server.url(), server.child.id().to_string());
    let comparison = comparison_of(
        "fanout",
        &[
            "fanout",
            "--url",
            &url,
            "--pid",
            &pid,
            "--subscribers",
            "50",
            "--rate",
            "100",
            "--fields",
            "1000",
            "--warmup",
            "0.1",
            "--duration",
            "0.5",
            "--yardstick",
            "--rounds",
            "1",
            "--assert",
            "lost == 0",
            "--assert-ratio",
            "cpu_us_per_message > 0.01",
        ],
    );
    assert_eq!(comparison.baseline, "bare");
    for server in &comparison.servers {
        let run = &server.runs[0];
        assert_nothing_lost(run);
        // Every change has a field of its own, so nothing may be missing at all.
        assert_eq!(run.messages.coalesced, Some(0), "{}", server.name);
        assert_eq!(run.messages.expected_deliveries.map(|count| count % 50), Some(0));
        assert!(
            run.messages.delivered > Some(500),
            "{}: {:?}",
            server.name,
            run.messages
        );
    }
    let bytes = |index: usize| comparison.servers[index].runs[0].parameters["bytes_per_delivery"].as_u64();
    assert_eq!(bytes(0), bytes(1), "the bare server sends messages of the same size");
}

#[test]
fn latency_is_timed_from_when_changes_were_due() {
    let server = Server::start(&[]);
    let run = run_of(
        "latency",
        &[
            "latency",
            "--url",
            &server.url(),
            "--connections",
            "10",
            "--documents",
            "2",
            "--rate",
            "200",
            "--idle",
            "50",
            "--warmup",
            "0.1",
            "--duration",
            "1",
        ],
    );
    assert_nothing_lost(&run);
    assert_eq!(run.connections.established, 60);
    let delivery = &run.latencies["delivery"];
    assert!(delivery.from_intended_time);
    // 200 changes to 4 others each; the ends of the stretch may cut some off on a busy machine.
    assert!((400..=1200).contains(&delivery.count), "{}", delivery.count);
}

#[test]
fn churn_storms_and_returns_after_a_restart() {
    let server = Server::start(&[]);
    let (url, pid, port) = (server.url(), server.child.id().to_string(), server.port.to_string());
    let pid_file = std::env::temp_dir().join(format!("loadtest-{}-restarted", std::process::id()));
    let restart = format!(
        "HOST=127.0.0.1 PORT={port} SYNCKIT_AUTH_REQUIRED=false exec {} --shards 1 >/dev/null 2>&1 & echo $! > {}",
        server_binary().display(),
        pid_file.display()
    );
    let waiter = std::thread::spawn(move || {
        let mut server = server;
        // The old server is this process's child: it is gone only once somebody has waited for it.
        server.child.wait().expect("it ends")
    });
    let run = run_of(
        "churn",
        &[
            "churn",
            "--url",
            &url,
            "--connections",
            "200",
            "--rounds",
            "2",
            "--established",
            "5",
            "--rate",
            "50",
            "--restart-pid",
            &pid,
            "--restart-command",
            &restart,
        ],
    );
    assert!(
        waiter.join().expect("waited").success(),
        "the server ended by SIGTERM as it should"
    );
    let restarted: i32 = std::fs::read_to_string(&pid_file)
        .expect("written")
        .trim()
        .parse()
        .expect("a pid");
    assert!(
        Command::new("kill")
            .arg(restarted.to_string())
            .status()
            .expect("kill runs")
            .success()
    );
    std::fs::remove_file(&pid_file).expect("it is ours");
    assert_nothing_lost(&run);
    assert_eq!(run.connections.established, 5 + 2 * 200 + 200 + 205);
    assert_eq!(run.connections.established, run.connections.requested);
    assert_eq!(run.latencies["reconnect"].count, 205);
    assert!(run.parameters["restart_all_back_seconds"].as_f64() > Some(0.0));
}

#[test]
fn mixed_use_includes_texts_and_presence() {
    let server = Server::start(&[]);
    let run = run_of(
        "mixed",
        &[
            "mixed",
            "--url",
            &server.url(),
            "--readers",
            "40",
            "--editors",
            "10",
            "--edits-per-second",
            "5",
            "--typists",
            "4",
            "--words-per-second",
            "10",
            "--cursors-per-second",
            "5",
            "--documents",
            "2",
            "--warmup",
            "0.1",
            "--duration",
            "1",
        ],
    );
    assert_nothing_lost(&run);
    assert_eq!(run.connections.established, 58);
    let count = |name: &str| run.parameters[name].as_u64().expect("a count");
    assert!(count("text_and_presence_sent") > 30, "{:?}", run.parameters);
    assert!(
        count("text_and_presence_received") > count("text_and_presence_sent") / 2,
        "{:?}",
        run.parameters
    );
}

#[test]
fn servers_are_compared_in_alternating_rounds() {
    let server = Server::start(&[]);
    let bare = Server::bare();
    let (first, second) = (
        format!(
            "ours={},pid={},encoding=json,dialect=typescript",
            server.url(),
            server.child.id()
        ),
        format!(
            "echo=ws://127.0.0.1:{}/echo,pid={},dialect=bare",
            bare.port,
            bare.child.id()
        ),
    );
    let comparison = comparison_of(
        "compare",
        &[
            "compare",
            "--server",
            &first,
            "--server",
            &second,
            "--rounds",
            "2",
            "--baseline",
            "echo",
            "throughput",
            "--connections",
            "3",
            "--documents",
            "3",
            "--warmup",
            "0",
            "--duration",
            "0.2",
            "--ping-interval-ms",
            "0",
        ],
    );
    assert_eq!(comparison.servers.len(), 2);
    assert!(comparison.servers.iter().all(|server| server.runs.len() == 2));
    assert!(comparison.ratio("cpu_us_per_message", "ours").is_some());
}

#[test]
fn a_server_that_cannot_do_a_step_is_not_given_a_figure() {
    let bare = Server::bare();
    let url = format!("ws://127.0.0.1:{}/echo", bare.port);
    let file = std::env::temp_dir().join(format!("loadtest-{}-unsupported.json", std::process::id()));
    let path = file.to_str().expect("a path in UTF-8");
    let output = loadtest(&[
        "throughput",
        "--url",
        &url,
        "--quiet",
        "--assert",
        "acked_per_second > 0",
        "--json",
        path,
    ]);
    assert_eq!(output.status.code(), Some(1), "what was not measured does not hold");
    let text = std::fs::read(&file).expect("the result was written all the same");
    std::fs::remove_file(&file).expect("it is ours");
    let ResultFile::Run(run) = serde_json::from_slice(&text).expect("a result") else {
        panic!("one run was asked for");
    };
    let steps: Vec<&str> = run.unsupported.iter().map(|step| step.step.as_str()).collect();
    for step in ["subscribe", "awareness_subscribe", "ack"] {
        assert!(steps.contains(&step), "{steps:?}");
    }
    assert_eq!((run.messages.acked, run.cpu.server.len()), (None, 0));
}

#[test]
fn what_cannot_work_is_refused_with_a_reason() {
    let server = Server::start(&[("SYNCKIT_AUTH_REQUIRED", "true"), ("SYNCKIT_AUTH_TIMEOUT_MS", "60000")]);
    let url = server.url();
    let wrong_path = format!("ws://127.0.0.1:{}/elsewhere", server.port);
    let other = format!("b={url}");
    let mut stranger = Command::new("sleep").arg("60").spawn().expect("it starts");
    let strange_pid = stranger.id().to_string();
    let cases: [(&[&str], i32, &str); 23] = [
        (&["density", "--url", "wss://localhost:1/ws"], 2, "TLS"),
        (&["density", "--url", "ws://localhost:99999/ws"], 2, "port"),
        (&["density", "--url", "ws://127.0.0.1:1/ws"], 1, "cannot be reached"),
        (&["density", "--url", &wrong_path], 1, "404"),
        (&["density", "--url", &url, "--jwt-secret", "short"], 2, "32 bytes"),
        (&["density", "--url", &url, "--token", "not.a.token"], 1, "credentials"),
        (&["density", "--dialect", "klingon"], 2, "possible values"),
        (&["density", "--connections", "0"], 2, "0 is not in"),
        (&["density", "--assert", "no_such_metric == 1"], 2, "no metric"),
        (
            &["density", "--url", &url, "--pid", "999999999", "--jwt-secret", SECRET],
            2,
            "no such process",
        ),
        (
            &["throughput", "--assert-ratio", "acked_per_second > 1"],
            2,
            "--yardstick",
        ),
        (&["latency", "--rate", "inf"], 2, "finite number above 0"),
        (&["density", "--broadcast-subscribers", "10000"], 2, "fewer than"),
        (&["density", "--sample-at", "50,20"], 2, "rising"),
        (&["density", "--sample-at", "20000"], 2, "rising"),
        (&["mixed", "--documents", "81"], 2, "--editors"),
        (
            &["throughput", "--json", "/nowhere/to/be/found.json"],
            2,
            "cannot be written",
        ),
        (&["throughput", "--html", "/"], 2, "cannot be written"),
        (&["compare", "--server", &other, "throughput"], 2, "at least two"),
        (
            &["compare", "--server", &other, "--server", &other, "throughput"],
            2,
            "two servers",
        ),
        (
            &[
                "compare",
                "--server",
                &other,
                "--server",
                "a=ws://h,pid=x",
                "throughput",
            ],
            2,
            "not a process id",
        ),
        // A server that lets nobody in who has no credentials, and a process that is not the server.
        (
            &["throughput", "--url", &url, "--duration", "0.2", "--quiet"],
            1,
            "nothing was measured: the server does not do",
        ),
        (
            &[
                "throughput",
                "--url",
                &url,
                "--jwt-secret",
                SECRET,
                "--pid",
                &strange_pid,
                "--duration",
                "0.5",
                "--quiet",
            ],
            1,
            "it is not the server",
        ),
    ];
    for (arguments, code, word) in cases {
        let output = loadtest(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
        assert!(complaint.contains(word), "{arguments:?}: {complaint}");
    }
    stranger.kill().and_then(|()| stranger.wait()).expect("it is ours");
}

/// Rates over a time in which nobody was there are no rates.
#[test]
fn a_server_that_dies_meanwhile_makes_a_failed_run() {
    let server = Server::start(&[]);
    let file = std::env::temp_dir().join(format!("loadtest-{}-died.json", std::process::id()));
    let tool = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([
            "throughput",
            "--url",
            &server.url(),
            "--quiet",
            "--warmup",
            "0",
            "--duration",
            "3",
            "--json",
        ])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let health = Target::parse(&server.url()).expect("a URL");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (_, body) = http::request(&health, "GET", "/health", None, "").expect("an answer");
        let facts: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        if facts["connections"]["totalConnections"].as_u64() >= Some(50) {
            break;
        }
        assert!(Instant::now() < deadline, "never connected: {body}");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    drop(server);
    let output = tool.wait_with_output().expect("the tool ends");
    let (said, complaint) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{said}{complaint}");
    assert!(
        complaint.contains("50 of 50 connections were lost on the way"),
        "{complaint}"
    );
    assert!(said.contains("FAILED") && said.contains("withheld"), "{said}");
    let text = std::fs::read(&file).expect("the result was written all the same");
    std::fs::remove_file(&file).expect("it is ours");
    let ResultFile::Run(run) = serde_json::from_slice(&text).expect("a result") else {
        panic!("one run was asked for");
    };
    assert_eq!(run.saturation.verdict, Verdict::Failed);
}

#[test]
fn a_rate_that_nobody_can_keep_ends_in_time_and_is_invalid() {
    let server = Server::start(&[]);
    let began = Instant::now();
    let output = loadtest(&[
        "latency",
        "--url",
        &server.url(),
        "--rate",
        "1e9",
        "--warmup",
        "0",
        "--duration",
        "0.5",
        "--quiet",
    ]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{complaint}");
    assert!(complaint.contains("after they were due"), "{complaint}");
    // The changes that were sent may still be answered for a while.
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}

#[test]
fn figures_of_a_run_that_fell_behind_its_schedule_are_invalid() {
    let server = Server::start(&[]);
    let url = server.url();
    // Nothing is sent within no time, so such a limit is always overrun.
    let arguments = [
        "latency",
        "--url",
        &url,
        "--connections",
        "2",
        "--documents",
        "1",
        "--rate",
        "100",
        "--warmup",
        "0",
        "--duration",
        "0.5",
        "--quiet",
        "--lag-us-max",
        "0",
    ];
    let refused = loadtest(&arguments);
    assert_eq!(
        refused.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
    assert!(String::from_utf8_lossy(&refused.stderr).contains("invalid"));
    let allowed = loadtest(&[&arguments[..], &["--allow-saturated"]].concat());
    assert_eq!(allowed.status.code(), Some(0));
}

#[test]
fn durable_measures_stored_changes_beside_bare_commits() {
    let file = std::env::temp_dir().join(format!("loadtest-durable-{}.sqlite", std::process::id()));
    let database = format!("sqlite:{}", file.display());
    let server = Server::start(&[("DATABASE_URL", &database)]);
    let url = server.url();
    let arguments = [
        "durable",
        "--url",
        &url,
        "--connections",
        "4",
        "--documents",
        "12",
        "--in-flight",
        "4",
        "--rate",
        "200",
        "--single",
        "0.8",
        "--duration",
        "0.5",
        "--warmup",
        "0.2",
        "--database-url",
        &database,
        "--assert",
        "closed_acked_per_second > 0",
        "--assert",
        "ack_to_commit_ratio > 0",
        "--assert",
        "server_errors == 0",
    ];
    let run = run_of("durable", &arguments);
    for name in ["closed_ack", "ack", "single_ack", "commit"] {
        assert!(run.latencies[name].count > 0, "{name}: {:?}", run.latencies.keys());
    }
    assert!(
        run.assertions.iter().all(|outcome| outcome.holds),
        "{:?}",
        run.assertions
    );
    for (option, value, complaint) in [
        ("--documents", "3", "--documents must not be less"),
        ("--database-url", "mysql://x", "write postgresql"),
    ] {
        let wrong = loadtest(&["durable", "--quiet", "--url", &url, "--connections", "4", option, value]);
        let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(!wrong.status.success() && text.contains(complaint), "{text}");
    }
    // The connections wrote all documents, and the table of the bare commits is gone.
    drop(server);
    let rows = rusqlite::Connection::open(&file).expect("the file");
    let count = |sql: &str| rows.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a count");
    // What the server can do was tried on documents of their own.
    let written = count("SELECT count(*) FROM documents WHERE id NOT LIKE 'probe-%'");
    assert_eq!(written, 12 + 1);
    assert_eq!(
        count("SELECT count(*) FROM sqlite_schema WHERE name = 'loadtest_commits'"),
        0
    );
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", file.display()));
    }
}
