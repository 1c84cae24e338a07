//! What helps an operator beside a running server: tokens that open what they say and nothing else, a doctor that finds
//! what holds a node back, capacities that agree with what was measured (docs/density.md), a manual page and completions.
//! Tried with the real binary.

use test_support as support;

use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use support::redis::Redis;
use support::token::SECRET;
use support::{Client, Dialect, Server};

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synckit-server"));
    command
        .args(arguments)
        .env_clear()
        .env("PORT", "0")
        .env("HOST", "127.0.0.1");
    command
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn token(arguments: &[&str]) -> String {
    let mut line = vec!["token"];
    line.extend(arguments);
    let output = run(&line, &[("JWT_SECRET", SECRET)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stdout(&output).trim().to_owned()
}

fn json(arguments: &[&str], variables: &[(&str, &str)]) -> Value {
    serde_json::from_slice(&run(arguments, variables).stdout).expect("JSON")
}

#[test]
fn an_issued_token_opens_what_it_says() {
    let server = Server::with().auth().start();
    let me = |token: &str| {
        let answer = server.request("GET", "/auth/me", &[("Authorization", &format!("Bearer {token}"))], "");
        (answer.status, answer.text().to_owned())
    };
    let (status, text) = me(&token(&[
        "--user", "ann", "--read", "note", "--write", "note", "--write", "other",
    ]));
    assert_eq!(status, 200, "{text}");
    let facts: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(facts["userId"], "ann");
    assert_eq!(facts["permissions"]["canRead"], serde_json::json!(["note"]));
    assert_eq!(facts["permissions"]["canWrite"], serde_json::json!(["note", "other"]));
    assert_eq!(facts["permissions"]["isAdmin"], false);
    let metrics = |token: &str| {
        let bearer = format!("Bearer {token}");
        server
            .request("GET", "/metrics", &[("Authorization", &bearer)], "")
            .status
    };
    assert_eq!(metrics(&token(&[])), 200, "an administrator unless asked otherwise");
    assert_ne!(metrics(&token(&["--role", "write"])), 200);
}

#[test]
fn a_token_lives_as_long_as_it_was_asked_to() {
    let claims = |token: String| -> Value {
        use base64::Engine as _;
        let payload = token.split('.').nth(1).expect("a JWT").to_owned();
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload)
            .expect("base64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let life = |claims: Value| claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert_eq!(life(claims(token(&[]))), 86_400);
    assert_eq!(life(claims(token(&["--expires", "90m"]))), 5_400);
    let wrong = run(&["token", "--expires", "soon"], &[("JWT_SECRET", SECRET)]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn the_doctor_finds_what_is_wrong_and_what_mends_it() {
    let healthy = json(&["doctor", "--json"], &[]);
    let finding = |report: &Value, subject: &str| {
        let findings = report["findings"].as_array().expect("findings").clone();
        findings
            .into_iter()
            .find(|finding| finding["subject"] == subject)
            .unwrap_or_else(|| panic!("no {subject} in {report}"))
    };
    for subject in [
        "kernel",
        "io_uring",
        "open files",
        "locked memory",
        "port",
        "database",
        "Redis",
    ] {
        let finding = finding(&healthy, subject);
        assert_ne!(finding["verdict"], "fail", "{finding}");
    }
    assert!(
        healthy["connectionsMax"].as_u64().expect("a number") > 1_000,
        "{healthy}"
    );

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let variables = [
        ("PORT", port.as_str()),
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none"),
    ];
    let output = run(&["doctor", "--json"], &variables);
    assert_eq!(output.status.code(), Some(1));
    let sick: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for (subject, remedy) in [("port", "ss -ltnp"), ("database", "DATABASE_URL")] {
        let finding = finding(&sick, subject);
        assert_eq!(finding["verdict"], "fail", "{finding}");
        assert!(
            finding["remedy"].as_str().expect("a remedy").contains(remedy),
            "{finding}"
        );
    }
    let words = stdout(&run(&["doctor"], &variables));
    assert!(
        words.contains("FAIL  port") && words.contains("fix: ss -ltnp"),
        "{words}"
    );
}

/// The finding about Redis, whether the exit code says "well", and everything that was said.
fn doctor_about_redis(url: &str) -> (Value, bool, String) {
    let output = run(&["doctor", "--json"], &[("REDIS_URL", url)]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings").clone();
    let finding = findings.into_iter().find(|finding| finding["subject"] == "Redis");
    let said = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    (finding.expect("a finding"), output.status.success(), said)
}

#[test]
fn the_doctor_reaches_redis_as_the_server_does() {
    let redis = Redis::start();
    let version: String = redis.command(&["INFO", "server"]);
    let version = version.lines().find_map(|line| line.strip_prefix("redis_version:"));
    for (url, place) in [(redis.url(), redis.url()), (redis.unix_url(), redis.unix_url())] {
        let (finding, well, said) = doctor_about_redis(&url);
        assert!(well && finding["verdict"] == "ok", "{said}");
        let wanted = format!("Redis {} at {place}, connected", version.expect("a version"));
        assert!(
            finding["text"].as_str().expect("a text").starts_with(&wanted),
            "{finding}"
        );
    }
}

#[test]
fn the_doctor_says_why_redis_cannot_be_used_and_no_secret() {
    let redis = Redis::start_with(&["--requirepass", "the-right-password"]);
    let with = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port());
    let (finding, well, said) = doctor_about_redis(&with("the-right-password"));
    assert!(well && finding["verdict"] == "ok", "{said}");
    assert!(!said.contains("the-right-password"), "{said}");
    let away = Redis::stopped(&[]);
    let sentinels = format!("redis+sentinel://127.0.0.1:{}/mymaster", away.port());
    for (url, why) in [
        (with("a-wrong-password"), "WRONGPASS"),
        (redis.url(), "NOAUTH"),
        (away.url(), "refused"),
        (sentinels, "refused"),
        ("redis://127.0.0.1:notaport".to_owned(), "it is not a URL"),
    ] {
        let (finding, well, said) = doctor_about_redis(&url);
        assert!(!well && finding["verdict"] == "fail", "{said}");
        assert!(
            finding["text"].as_str().expect("a text").contains(why),
            "{why}: {finding}"
        );
        assert!(
            finding["remedy"].as_str().expect("a remedy").contains("REDIS_URL"),
            "{finding}"
        );
        assert!(!said.contains("a-wrong-password"), "{said}");
    }
}

#[test]
fn a_low_limit_is_found() {
    let doctor = format!(
        "ulimit -n 70; exec {} doctor --json --shards 2",
        env!("CARGO_BIN_EXE_synckit-server")
    );
    let output = Command::new("bash")
        .args(["-c", &doctor])
        .env_clear()
        .env("PORT", "0")
        .output()
        .expect("bash");
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(
        text.contains("2 shards need 112") && text.contains("LimitNOFILE=1048576"),
        "{text}"
    );
}

/// Rows of the table of resident memory in docs/density.md: connections and bytes.
fn measured() -> Vec<(u64, f64)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/density.md");
    let text = std::fs::read_to_string(path).expect("docs/density.md");
    let (_, table) = text
        .split_once("| connections | RSS of the server |")
        .expect("the table of measurements");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let count = cells.get(1)?.replace(',', "").parse().ok()?;
        let megabytes: f64 = cells.get(2)?.strip_suffix(" MB")?.parse().ok()?;
        Some((count, megabytes * 1e6))
    };
    table.lines().skip(2).map_while(row).collect()
}

#[test]
fn capacities_agree_with_what_was_measured() {
    let measured = measured();
    assert!(
        measured.len() >= 5,
        "the table of docs/density.md was not understood: {measured:?}"
    );
    let capacity = |count: u64| {
        let count = count.max(1).to_string();
        json(&["capacity", "--json", "--conns", &count], &[])
    };
    let within = |computed: f64, found: f64| (computed - found).abs() <= found * 0.1;
    for (connections, bytes) in measured {
        let computed = capacity(connections)["userBytes"].as_f64().expect("bytes");
        assert!(
            within(computed, bytes),
            "{connections} connections: {computed} computed, {bytes} measured"
        );
    }
    // The slope up to a million and the kernel's part, as docs/density.md and the README state them.
    let slope = (capacity(300_000)["userBytes"].as_f64().unwrap() - capacity(100_000)["userBytes"].as_f64().unwrap())
        / 200_000.0;
    assert!(within(slope, 298.0), "{slope}");
    let kernel = capacity(1_000_000)["kernelBytes"].as_f64().expect("bytes") / 1e6;
    assert!(
        within(kernel, 8.24 * 1024.0 / 2.0),
        "{kernel} bytes each, half of what both ends had"
    );
    let alone = json(&["capacity", "--json", "--conns", "100000", "--per-document", "1"], &[]);
    assert!(
        within(alone["userBytesEach"].as_f64().expect("bytes"), 897.0),
        "{alone}"
    );
    let cores = capacity(1_000_000)["heartbeatCores"].as_f64().expect("cores");
    assert!(within(cores, 0.355), "{cores}");
}

#[test]
fn capacities_tell_what_ordinary_descriptors_need() {
    let ordinary = json(
        &[
            "capacity",
            "--json",
            "--conns",
            "2000000",
            "--sockets",
            "ordinary",
            "--shards",
            "4",
        ],
        &[],
    );
    assert_eq!(ordinary["descriptors"], 2_000_000 + 64 + 4 * 24);
    let names: Vec<&str> = ordinary["settings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"fs.nr_open"), "{names:?}");
    let text = stdout(&run(&["capacity", "--conns", "1000000"], &[]));
    assert!(
        text.contains("1,000,000 at rest") && text.contains("source addresses"),
        "{text}"
    );
}

#[test]
fn the_manual_page_and_completions_are_made() {
    let page = stdout(&run(&["man"], &[]));
    assert!(
        page.contains(".TH synckit-server") && page.contains("max\\-doc\\-size"),
        "{page}"
    );
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef synckit-server"),
        ("fish", "complete -c synckit-server"),
    ] {
        let script = stdout(&run(&["completions", shell], &[]));
        assert!(script.contains(mark), "{shell}");
    }
}

#[test]
fn a_configured_server_is_the_one_that_was_checked() {
    let folder = std::env::temp_dir().join(format!("synckit-command-line-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("synckit.toml");
    std::fs::write(
        &file,
        "auth_required = false\nsync_batch_delay = 0\nport = 0\nhost = \"127.0.0.1\"\n",
    )
    .expect("a file");
    let path = file.to_str().expect("a plain path");
    let checked = run(&["check-config", "--config", path], &[]);
    assert!(
        stdout(&checked).contains("the configuration is valid: development"),
        "{}",
        stdout(&checked)
    );
    let server = Server::with()
        .env("SYNCKIT_AUTH_REQUIRED", "")
        .arg("--config")
        .arg(path)
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.write_acked("note", serde_json::json!({ "title": "from the file" }));
    drop(server);
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}
