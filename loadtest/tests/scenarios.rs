//! The load tester measures what it says it measures: every scenario runs small against the real server, in every
//! dialect, and its counts are exact.

mod support;

use loadtest::result::{Comparison, ResultFile, RunResult};
use std::process::Command;
use support::{SECRET, Server, loadtest, server_binary};

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

/// Rates over a time in which nobody was there are no rates.
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
