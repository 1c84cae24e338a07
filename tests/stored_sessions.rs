//! With `SYNCKIT_SESSIONS=true` every authenticated connection has a row in the table of sessions (docs/protocol.md §18.4):
//! whose it is, the client id it gave, when it came and was last seen. The row goes with the connection, however that ends,
//! and with the server. Without the setting nobody has one. Tried over sockets with PostgreSQL and SQLite; that a
//! connection is noted once a minute, on a shard with a simulated clock.

#[path = "support/bare_shard.rs"]
mod bare_shard;

use bare_shard::{BareShard, text_frame};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::database::{Postgres, SqliteFile};
use support::{Client, Dialect, Server, eventually, token};
use synckit_server::handler::{End, Handler};
use synckit_server::ids::Slot;
use synckit_server::saved::SessionNote;
use synckit_server::shard::{StorageFacts, StorageLink};
use test_support as support;

/// Rows as user and client id.
type Rows = Vec<(String, Option<String>)>;

fn connect(server: &Server, user: &str) -> Client {
    let mut client = Client::connect(server, Dialect::Json);
    client.authenticate(&token::token(user, &["*"], &["*"]));
    client
}

fn rows_follow_connections(url: &str, rows: &mut dyn FnMut() -> Rows) {
    let server = |sessions: bool| {
        let server = Server::with().auth().env("DATABASE_URL", url);
        match sessions {
            true => server.env("SYNCKIT_SESSIONS", true).start(),
            false => server.start(),
        }
    };
    let mut wait_for = |users: &[(&str, Option<&str>)]| {
        eventually(&format!("rows of {users:?}"), || {
            let mut found = rows();
            found.sort();
            let found = found.iter().map(|(user, client)| (user.as_str(), client.as_deref()));
            found.eq(users.iter().copied()).then_some(())
        });
    };
    let mut on = server(true);
    // A guest who never says who it is has no row.
    let _guest = Client::connect(&on, Dialect::Json);
    let (mut ann, ben) = (connect(&on, "ann"), connect(&on, "ben"));
    wait_for(&[("ann", None), ("ben", None)]);
    // Its first document may move the connection to another shard.
    for document in 0..4 {
        ann.subscribe(&format!("document-{document}"));
    }
    ann.say("connect", serde_json::json!({"clientId": "client-of-ann"}));
    wait_for(&[("ann", Some("client-of-ann")), ("ben", None)]);
    ben.vanish();
    wait_for(&[("ann", Some("client-of-ann"))]);
    let eve = connect(&on, "eve");
    wait_for(&[("ann", Some("client-of-ann")), ("eve", None)]);
    ann.close();
    wait_for(&[("eve", None)]);
    on.signal("TERM");
    let ended = on.wait_exit(Duration::from_secs(60)).expect("it ends");
    assert!(ended.success());
    wait_for(&[]);
    drop(eve);

    let off = server(false);
    let mut ann = connect(&off, "ann");
    ann.write_acked("d", serde_json::json!({"a": 1}));
    std::thread::sleep(Duration::from_millis(700));
    wait_for(&[]);
}

#[test]
fn rows_come_and_go_with_connections_in_postgresql() {
    let postgres = Postgres::start();
    let mut admin: Option<postgres::Client> = None;
    rows_follow_connections(&postgres.url(), &mut || {
        let admin = admin.get_or_insert_with(|| postgres.connect());
        let select = "SELECT user_id, client_id FROM sessions WHERE last_seen >= connected_at";
        let rows = admin.query(select, &[]).expect("the table is there");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    });
}

#[test]
fn rows_come_and_go_with_connections_in_sqlite() {
    let file = SqliteFile::new();
    let path = file.path();
    rows_follow_connections(&file.url(), &mut || {
        let admin = rusqlite::Connection::open(&path).expect("the file");
        admin.busy_timeout(Duration::from_secs(5)).expect("a time-out");
        let mut select = admin
            .prepare("SELECT user_id, client_id FROM sessions WHERE last_seen >= connected_at")
            .expect("the table is there");
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    });
}

type Notes = Arc<Mutex<Vec<SessionNote>>>;

fn link(notes: &Notes) -> StorageLink {
    let notes = notes.clone();
    StorageLink {
        note: Some(Box::new(move |note| notes.lock().unwrap().push(note))),
        submit: Box::new(|_| Ok(())),
        health: Box::new(StorageFacts::default),
        troubled_ms: Box::new(|| 0),
    }
}

#[test]
fn a_connection_is_noted_when_it_comes_once_a_minute_and_when_it_goes() {
    for interval_ms in ["0", "30000", "7000"] {
        let notes = Notes::default();
        let variables = [
            ("WS_HEARTBEAT_INTERVAL", interval_ms),
            ("WS_HEARTBEAT_TIMEOUT", "60000"),
        ];
        let mut shard = BareShard::stored_with(link(&notes), &variables);
        let slots: Vec<Slot> = (0..10).map(|_| shard.connect()).collect();
        let taken = || std::mem::take(&mut *notes.lock().unwrap());
        let came = taken();
        for slot in &slots {
            assert!(
                came.iter().any(|note| note.session().slot() == *slot),
                "not noted when it came"
            );
        }
        for _ in 0..600 {
            shard.pass(1_000_000);
            for slot in &slots {
                shard.receive(*slot, &text_frame(r#"{"type":"ping","id":"p","timestamp":1}"#));
            }
            shard.turn();
        }
        let seen = taken();
        for slot in &slots {
            let count = seen.iter().filter(|note| note.session().slot() == *slot).count();
            assert!(
                (8..=11).contains(&count),
                "{count} notes in ten minutes, every {interval_ms} ms"
            );
        }
        let now = shard.now;
        shard.shard.ended(now, slots[3], End::Error);
        shard.turn();
        let last = taken();
        assert!(
            matches!(last[..], [SessionNote::Gone(session)] if session.slot() == slots[3]),
            "{last:?}"
        );
    }
}
