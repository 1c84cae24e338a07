//! docs/backup.md is right: a backup that is taken while clients write holds every write that was acknowledged before it
//! began, and a restore brings exactly the backup back, with what was written later gone. Tried with `pg_dump` and
//! `pg_restore` against PostgreSQL, and with SQLite's online backup (Python's `sqlite3` has it, as the program of that name)
//! against a file.

use test_support as support;

use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::database::{Postgres, SqliteFile};
use support::{Client, Dialect, Server, eventually};

/// Acknowledged writes before the backup, and between its end and the end of writing.
const WRITES: usize = 30;

fn server(url: &str) -> Server {
    Server::with()
        .env("DATABASE_URL", url)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start()
}

fn stop(mut server: Server) {
    server.signal("TERM");
    let status = server.wait_exit(Duration::from_secs(15)).expect("it ends");
    assert_eq!(status.code(), Some(0));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn document(number: usize) -> String {
    format!("note-{}", number % 5)
}

fn field(number: usize) -> String {
    format!("field-{number}")
}

/// Writes while `back_up` works; stops, lets `restore` work, starts again and compares.
fn check(url: &str, back_up: impl FnOnce(), restore: impl FnOnce()) {
    let first = server(url);
    let (acknowledged, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    let before = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(&first, Dialect::Json);
            while !enough.load(Ordering::SeqCst) {
                let number = acknowledged.load(Ordering::SeqCst);
                client.write_acked(&document(number), json!({ field(number): number }));
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        });
        let at_least = |count: usize| {
            eventually("so many writes are acknowledged", || {
                let so_far = acknowledged.load(Ordering::SeqCst);
                (so_far >= count).then_some(so_far)
            })
        };
        let before = at_least(WRITES);
        back_up();
        at_least(acknowledged.load(Ordering::SeqCst) + WRITES);
        enough.store(true, Ordering::SeqCst);
        before
    });
    let mut client = Client::connect(&first, Dialect::Json);
    client.write_acked(&document(0), json!({ "later": "than the backup" }));
    drop(client);
    stop(first);
    restore();
    let again = server(url);
    let mut client = Client::connect(&again, Dialect::Json);
    for number in 0..before {
        let state = client.sync(&document(number))["state"].clone();
        assert_eq!(
            state[field(number)],
            number,
            "write {number} of {before} is missing: {state}"
        );
        assert_eq!(state.get("later"), None, "the restore left what is newer: {state}");
    }
    // And it goes on from there.
    client.write_acked(&document(0), json!({ "field-0": "newer" }));
    assert_eq!(client.sync(&document(0))["state"]["field-0"], "newer");
    stop(again);
}

#[test]
fn postgresql() {
    let postgres = Postgres::start();
    let dump = postgres.folder().join("synckit.dump");
    let url = postgres.url();
    check(
        &url,
        || {
            run(postgres
                .tool("pg_dump")
                .arg("--format=custom")
                .arg("--file")
                .arg(&dump)
                .arg(&url))
        },
        || {
            run(postgres
                .tool("pg_restore")
                .args(["--clean", "--if-exists", "--dbname"])
                .args([Path::new(&url), &dump]))
        },
    );
}

#[test]
fn sqlite() {
    let file = SqliteFile::new();
    let copy = file.path().with_extension("backup");
    let python = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))";
    check(
        &file.url(),
        || run(Command::new("python3").args(["-c", python]).args([&file.path(), &copy])),
        || {
            for suffix in ["-wal", "-shm"] {
                let beside = format!("{}{suffix}", file.path().display());
                let _ = std::fs::remove_file(beside);
            }
            std::fs::copy(&copy, file.path()).expect("the copy is put in place");
        },
    );
}
