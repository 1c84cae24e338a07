//! What cannot be measured is refused: wrong input, a server that is not there, cannot do a step or goes away, another
//! process than the server, and figures of a run in which the load tester itself was the limit.

mod support;

use loadtest::http;
use loadtest::result::{ResultFile, Verdict};
use loadtest::target::Target;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{SECRET, Server, loadtest};

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
