//! SIGTERM and SIGINT end the server in order (docs/protocol.md §21): pending broadcasts leave first, every client sees
//! close 1001 `Server shutdown`, the exit code is 0, and it takes less than ten seconds, whatever clients do.

use test_support as support;

use serde_json::json;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::crowd::Member;
use support::{Client, Dialect, Server};

const STOPPED: (u16, &str) = (1001, "Server shutdown");

fn closed(client: &mut Client) {
    let (code, reason) = client.expect_close();
    assert_eq!((code, reason.as_str()), STOPPED);
}

#[test]
fn what_was_acknowledged_reaches_the_subscribers_first() {
    for signal in ["TERM", "INT"] {
        // A long window, so that most writes are still pending when the signal comes.
        let mut server = Server::with().env("SYNC_BATCH_DELAY", 3_000).shards(3).start();
        let documents: Vec<String> = (0..6).map(|number| format!("last:{number}")).collect();
        let mut reader = Client::connect(&server, Dialect::Binary);
        let mut writer = Client::connect(&server, Dialect::Json);
        for document in &documents {
            reader.subscribe(document);
            for number in 0..10 {
                writer.write_acked(document, json!({ format!("f{number}"): number }));
            }
        }
        let began = Instant::now();
        server.signal(signal);
        closed(&mut reader);
        closed(&mut writer);
        for document in &documents {
            for number in 0..10 {
                assert_eq!(
                    reader.take_field(document, &format!("f{number}"))["value"],
                    number,
                    "{document}"
                );
            }
        }
        let status = server.wait_exit(Duration::from_secs(15)).expect("it ends");
        assert_eq!(status.code(), Some(0), "after SIG{signal}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[test]
fn stuck_and_half_connected_clients_do_not_hold_it_up() {
    let mut server = Server::with()
        .shards(2)
        .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
        .start();
    let mut stuck = Member::connect(server.address());
    stuck.send_text(r#"{"type":"subscribe","id":"s","documentId":"flood"}"#);
    let mut writer = Client::connect(&server, Dialect::Json);
    for number in 0..80 {
        writer.write_acked("flood", json!({ format!("f{number}"): "x".repeat(100_000) }));
    }
    let _half_open = TcpStream::connect(server.address()).expect("accepted");
    let began = Instant::now();
    server.signal("TERM");
    closed(&mut writer);
    let status = server.wait_exit(Duration::from_secs(15)).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(11),
        "forced after ten seconds: {:?}",
        began.elapsed()
    );
}

#[test]
fn many_clients_are_all_told() {
    let mut server = Server::with().shards(3).start();
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(&server, Dialect::Sdk)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.subscribe(&format!("doc:{}", number % 10));
    }
    server.signal("TERM");
    clients.iter_mut().for_each(closed);
    assert_eq!(
        server.wait_exit(Duration::from_secs(10)).expect("it ends").code(),
        Some(0)
    );
}

#[test]
fn a_server_without_clients_ends_at_once() {
    let mut server = Server::start();
    server.signal("TERM");
    let status = server.wait_exit(Duration::from_secs(5)).expect("nothing to wait for");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_it() {
    let server = Server::start();
    let port = server.address().port();
    let (status, log) = Server::with().env("PORT", port).refuses();
    assert!(!status.success() && log.contains(&port.to_string()), "{log}");
}
