//! The way of a newcomer, as docs/operations.md tells it: the commands of its first section are run (below a folder of the
//! test's own instead of `/`), then a configuration with secrets in files of their own, `check-config`, `doctor`, a server
//! with PostgreSQL and Redis, tokens from `token`, two clients that see the same, a restart that loses nothing, an orderly
//! end. Two nodes of the same configuration then serve two tabs of Chromium, one each. The kernel settings that the section
//! installs are applied in a network namespace of their own, where `doctor` must be content with them.
//!
//! The clean clone and the build before all that are what the continuous integration begins with.

use test_support as support;

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::database::Postgres;
use support::node::{NodeTests, chromium};
use support::redis::Redis;
use support::{Client, Dialect, Server, ServerBuilder};

/// What stands for `/`.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("synckit-newcomer-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Scratch(path)
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The commands of the section "From nothing to a tuned node" up to the configuration file.
fn first_commands() -> String {
    let chapter = fs::read_to_string(root().join("docs/operations.md")).expect("docs/operations.md");
    let section = chapter
        .split_once("## From nothing to a tuned node")
        .expect("the section")
        .1;
    let block = section.split_once("```sh\n").expect("commands").1;
    block.split_once("```").expect("their end").0.to_owned()
}

/// Runs them below `scratch`. What would build a second time, make users or change this machine is said to be done.
fn install(scratch: &Scratch) {
    for folder in ["usr/bin", "etc/sysctl.d", "etc/systemd/system"] {
        fs::create_dir_all(scratch.path(folder)).expect("a folder");
    }
    let built = Path::new(env!("CARGO_BIN_EXE_synckit-server"))
        .parent()
        .expect("a folder");
    let below = |path: &str| format!(" {}{path}", scratch.0.display());
    let commands = first_commands()
        .replace(" /etc/", &below("/etc/"))
        .replace(" /usr/bin/", &below("/usr/bin/"))
        .replace("target/release", &built.display().to_string())
        .replace(" -g synckit", "");
    let pretend = "set -eu\nsudo() { \"$@\"; }\ncargo() { :; }\nuseradd() { :; }\nsysctl() { :; }\n";
    let output = Command::new("bash")
        .args(["-c", &format!("{pretend}{commands}")])
        .current_dir(root())
        .output()
        .expect("bash runs");
    assert!(
        output.status.success(),
        "{commands}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn output(scratch: &Scratch, arguments: &[&str]) -> Output {
    Command::new(scratch.path("/usr/bin/synckit-server"))
        .args(arguments)
        .arg("--config")
        .arg(scratch.path("/etc/synckit/synckit.toml"))
        .env_clear()
        .output()
        .expect("the binary runs")
}

/// Whether it went well, and everything it said.
fn run(scratch: &Scratch, arguments: &[&str]) -> (bool, String) {
    let output = output(scratch, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn configured(scratch: &Scratch) -> ServerBuilder {
    Server::with()
        .env("SYNCKIT_AUTH_REQUIRED", "")
        .arg("--config")
        .arg(scratch.path("/etc/synckit/synckit.toml").display())
}

fn join(server: &Server, token: &str, dialect: Dialect) -> Client {
    let mut client = Client::connect(server, dialect);
    client.authenticate(token);
    client
}

#[test]
fn from_the_first_command_to_two_tabs_at_two_nodes() {
    let (postgres, redis) = (Postgres::start(), Redis::start());
    let scratch = Scratch::new("node");
    install(&scratch);
    let secret = scratch.path("/etc/synckit/jwt-secret");
    let mode = fs::metadata(&secret).expect("the secret").permissions().mode() & 0o777;
    assert_eq!(mode, 0o640, "who may read the secret");
    assert!(fs::read(&secret).expect("the secret").len() >= 32);
    for installed in [
        "/etc/sysctl.d/90-synckit.conf",
        "/etc/systemd/system/synckit-server.service",
    ] {
        assert!(scratch.path(installed).exists(), "{installed}");
    }
    let put = |name: &str, text: &str| fs::write(scratch.path("/etc/synckit").join(name), text).expect("a file");
    put("database-url", &format!("{}\n", postgres.url()));
    put("redis-url", &format!("{}\n", redis.url()));
    let settings = "env = \"production\"\nhost = \"127.0.0.1\"\nport = 0\njwt_secret_file = \"ETC/jwt-secret\"\n\
        database_url_file = \"ETC/database-url\"\nredis_url_file = \"ETC/redis-url\"\n";
    let folder = scratch.path("/etc/synckit").display().to_string();
    put("synckit.toml", &settings.replace("ETC", &folder));

    let (valid, text) = run(&scratch, &["check-config"]);
    assert!(
        valid && text.contains("production") && text.contains("documents in PostgreSQL"),
        "{text}"
    );
    let (healthy, text) = run(&scratch, &["doctor"]);
    assert!(healthy && text.contains("tables not made yet"), "{text}");
    assert!(text.contains(&format!("at {}, connected", redis.url())), "{text}");

    let mut server = configured(&scratch).start();
    let token = |arguments: &[&str]| {
        let mut line = vec!["token"];
        line.extend(arguments);
        let token = output(&scratch, &line).stdout;
        String::from_utf8(token).expect("a token").trim().to_owned()
    };
    let writer_token = token(&["--user", "ann", "--role", "write"]);
    let mut ann = join(&server, &writer_token, Dialect::Json);
    let mut ben = join(
        &server,
        &token(&["--user", "ben", "--read", "note", "--expires", "1h"]),
        Dialect::Binary,
    );
    ben.subscribe("note");
    ann.write_acked("note", json!({ "title": "hello" }));
    assert_eq!(ben.take_field("note", "title")["value"], "hello");
    let states: Vec<Value> = [ann.sync("note"), ben.sync("note")]
        .into_iter()
        .map(|message| message["state"].clone())
        .collect();
    assert_eq!(states, [json!({ "title": "hello" }), json!({ "title": "hello" })]);

    server.signal("TERM");
    for client in [&mut ann, &mut ben] {
        assert_eq!(client.expect_close().0, 1001);
    }
    assert_eq!(
        server.wait_exit(Duration::from_secs(15)).expect("it ends").code(),
        Some(0)
    );

    let (healthy, text) = run(&scratch, &["doctor"]);
    assert!(healthy && text.contains("tables there"), "{text}");
    let again = configured(&scratch).start();
    let mut ann = join(&again, &writer_token, Dialect::Json);
    assert_eq!(
        ann.sync("note")["state"],
        json!({ "title": "hello" }),
        "the token and the document outlived the server"
    );
    drop(again);
    two_tabs_at_two_nodes(&scratch);
}

/// The demo is there in development only.
fn two_tabs_at_two_nodes(scratch: &Scratch) {
    let node = || configured(scratch).arg("--env").arg("development").start();
    let nodes = [node(), node()];
    support::eventually("both nodes know of each other", || {
        let ready = |node: &Server| node.get("/health/ready").status == 200;
        nodes.iter().all(ready).then_some(())
    });
    let origins = nodes.each_ref().map(|node| format!("http://{}", node.address()));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    NodeTests::installed(&root().join("tests/browser"), &place)
        .env("CHROMIUM", chromium())
        .env("NODES", origins.join(","))
        .pass("tabs.test.mjs", 1);
}

#[test]
fn the_doctor_is_content_with_the_installed_kernel_settings() {
    let scratch = Scratch::new("tuned");
    install(&scratch);
    // Settings of the network belong to a namespace; those of the whole machine are left alone.
    let script = "doctor() { \"$1/usr/bin/synckit-server\" doctor --json; }; doctor \"$1\"; echo ---; \
        grep '^net' \"$1/etc/sysctl.d/90-synckit.conf\" | sysctl -e -q -p - 2>/dev/null; doctor \"$1\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "bash", "-c", script, "bash"])
        .arg(&scratch.0)
        .env("PORT", "0")
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        .output()
        .expect("unshare runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some((before, after)) = text.split_once("---\n").filter(|(before, _)| !before.is_empty()) else {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(reason.contains("unshare"), "{text}{reason}");
        println!("SKIPPED: no network namespace here: {reason}");
        return;
    };
    let untuned = |report: &str| -> Vec<String> {
        let report: Value = serde_json::from_str(report).expect("JSON");
        let findings = report["findings"].as_array().expect("findings").clone();
        let bad = findings.into_iter().filter(|finding| finding["verdict"] == "warn");
        bad.map(|finding| finding["subject"].as_str().expect("a subject").to_owned())
            .filter(|subject| subject.starts_with("net.core.") || subject.starts_with("net.ipv4."))
            .collect()
    };
    assert!(!untuned(before).is_empty(), "a fresh namespace is not tuned: {before}");
    assert_eq!(untuned(after), Vec::<String>::new(), "{after}");
}
