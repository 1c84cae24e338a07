//! The way of a newcomer: a configuration file with secrets in files of their own, `check-config`, `doctor`, the server with
//! PostgreSQL, tokens from `token`, two clients that see the same, a restart that loses nothing, and an orderly end. Every
//! step is a command that docs/operations.md names.

use test_support as support;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::database::Postgres;
use support::{Client, Dialect, Server};

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(config: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synckit-server"));
    let output = command
        .args(arguments)
        .arg("--config")
        .arg(config)
        .env_clear()
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn start(config: &Path) -> Server {
    Server::with()
        .env("SYNCKIT_AUTH_REQUIRED", "")
        .arg("--config")
        .arg(config.display())
        .start()
}

#[test]
fn from_the_binary_to_two_clients_that_agree() {
    let postgres = Postgres::start();
    let scratch = Scratch(std::env::temp_dir().join(format!("synckit-newcomer-{}", std::process::id())));
    fs::create_dir_all(&scratch.0).expect("a folder");
    let put = |name: &str, text: &str| {
        let path = scratch.0.join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    let secret = put("jwt-secret", "a-newcomers-secret-made-by-openssl-rand-0123456789\n");
    let database = put("database-url", &format!("{}\n", postgres.url()));
    let config = put(
        "synckit.toml",
        &format!(
            "env = \"production\"\nhost = \"127.0.0.1\"\nport = 0\njwt_secret_file = \"{}\"\ndatabase_url_file = \"{}\"\n",
            secret.display(),
            database.display()
        ),
    );

    let (valid, text) = run(&config, &["check-config"]);
    assert!(
        valid && text.contains("production") && text.contains("documents in PostgreSQL"),
        "{text}"
    );
    let (healthy, text) = run(&config, &["doctor"]);
    assert!(healthy && text.contains("tables not made yet"), "{text}");

    let mut server = start(&config);
    let token = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_synckit-server"));
        let output = command
            .arg("token")
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .env_clear()
            .output()
            .expect("it runs");
        String::from_utf8(output.stdout).expect("a token").trim().to_owned()
    };
    let join = |server: &Server, token: &str, dialect| {
        let mut client = Client::connect(server, dialect);
        client.authenticate(token);
        client
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

    let (healthy, text) = run(&config, &["doctor"]);
    assert!(healthy && text.contains("tables there"), "{text}");
    let again = start(&config);
    let mut ann = join(&again, &writer_token, Dialect::Json);
    assert_eq!(
        ann.sync("note")["state"],
        json!({ "title": "hello" }),
        "the token and the document outlived the server"
    );
}
