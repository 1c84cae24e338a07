//! A full disk under PostgreSQL: the tables stand on a small file system of their own. Writes are refused as retryable and
//! nothing acknowledged is lost; when there is room again everything accepted is stored, without a restart.
//!
//! Mounting needs root. Where it is not permitted the test says `SKIPPED` and checks nothing; a full disk under SQLite is
//! tried in `database_failures`, by a limit on the size of files.

use test_support as support;

use serde_json::json;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::process::Command;
use support::database::Postgres;
use support::{Client, Dialect, Server, eventually};

const SIZE: &str = "size=8m";
/// Together with what the tables begin with, this leaves room for a few documents.
const BALLAST_BYTES: usize = 5 << 20;

/// A small file system, gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(postgres: &Postgres) -> Option<SmallDisk> {
        let folder = postgres.folder().join("small");
        std::fs::create_dir(&folder).expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "none"])
            .arg(&folder)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return None;
        }
        let disk = SmallDisk(folder);
        let owner = std::fs::metadata(postgres.folder()).expect("a folder").uid();
        chown(&disk.0, Some(owner), None).expect("root may give folders away");
        Some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // PostgreSQL may have files open there; it is gone when they are closed.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_under_postgresql_loses_nothing_acknowledged() {
    let postgres = Postgres::start();
    let Some(disk) = SmallDisk::mount(&postgres) else {
        println!("SKIPPED: file systems cannot be mounted here, so PostgreSQL's disk cannot be filled");
        return;
    };
    let mut admin = postgres.connect();
    let place = disk.0.display();
    admin
        .batch_execute(&format!("CREATE TABLESPACE small LOCATION '{place}'"))
        .expect("a tablespace");
    admin
        .batch_execute("ALTER DATABASE postgres SET default_tablespace = small")
        .expect("a default");
    let server = Server::with()
        .env("DATABASE_URL", postgres.url())
        .env("SYNCKIT_METRICS_PUBLIC", true)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start();
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_BYTES]).expect("room for the ballast");

    let mut writer = Client::connect(&server, Dialect::Json);
    // Text that the database cannot make smaller.
    let mut noise = 1u64;
    let mut incompressible = || -> String {
        std::iter::repeat_with(|| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            format!("{noise:016x}")
        })
        .take(12_000)
        .collect()
    };
    let mut acknowledged = Vec::new();
    let refused = loop {
        let document = format!("d{}", acknowledged.len());
        assert!(acknowledged.len() < 100, "the disk does not fill");
        let id = writer.write(&document, json!({ "a": incompressible() }));
        let answer = writer.take_where("the answer", |message| {
            message["messageId"] == *id || message["requestId"] == *id
        });
        if answer.kind != "ack" {
            break answer;
        }
        acknowledged.push(document);
    };
    assert_eq!(refused["details"]["retryable"], true, "{}", refused.body);
    assert!(!acknowledged.is_empty());
    assert_eq!(server.get("/health/ready").status, 503);
    assert_eq!(server.get("/health").status, 200);

    std::fs::remove_file(&ballast).expect("there is room again");
    eventually("everything accepted is stored", || {
        (server.metric("unsaved_documents") == 0 && server.get("/health/ready").status == 200).then_some(())
    });
    let stored = admin.query_one("SELECT count(*) FROM documents", &[]).expect("a count");
    assert_eq!(
        stored.get::<_, i64>(0),
        acknowledged.len() as i64 + 1,
        "the refused one too"
    );
    writer.write_acked("after", json!({"a": 1}));
    drop(server);
}
