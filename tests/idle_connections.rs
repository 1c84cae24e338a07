//! A connection at rest, authenticated by its own token and subscribed to a document and its presence, costs the server at
//! most 400 bytes of resident memory and no processor time. Sixteen thousand of them are opened (fewer if the descriptor
//! limit of this machine is lower, which is printed), memory is compared between the first quarter and all of them, and
//! all must still work afterwards. At this size whole pages that are partly used still count; what a connection owns to
//! the byte is in `idle_allocations.rs`, and larger crowds are a matter of the load tester.

use test_support as support;

use serde_json::json;
use std::time::Duration;
use support::crowd::Member;
use support::{Server, token};

const WANTED: usize = 16_000;
/// Resident bytes of the server for each further connection.
const BYTES_MAX: f64 = 400.0;
/// Until nothing of a connection's opening is left: its longest deadline is 10 s.
const REST: Duration = Duration::from_secs(11);
/// Descriptors this process needs for anything else.
const SPARE: usize = 300;

fn descriptors_allowed() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("/proc is there");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("the limit");
    line.split_whitespace()
        .nth(3)
        .and_then(|soft| soft.parse().ok())
        .unwrap_or(usize::MAX)
}

/// Connects with a token of its own, subscribes, and reads the answers, so that nothing is under way.
fn join(server: &Server, number: usize) -> Member {
    let bearer = token::token(&format!("user-{number}"), &["*"], &["*"]);
    let mut member = Member::connect_with(server.address(), &format!("Authorization: Bearer {bearer}\r\n"));
    for kind in ["subscribe", "awareness_subscribe"] {
        let document = format!("doc-{}", number % 100);
        member.send_text(&json!({"type": kind, "id": kind, "timestamp": 1, "documentId": document}).to_string());
    }
    // The answers come in order, so the last one says that the first has been there.
    member.wait_for("who is there", |message| message.kind == "awareness_state");
    member
}

#[test]
fn sixteen_thousand_idle_connections_are_cheap() {
    let connections = WANTED.min(descriptors_allowed() - SPARE);
    assert!(
        connections >= 700,
        "too few descriptors for a meaningful number: raise `ulimit -n` above 1000"
    );
    if connections < WANTED {
        println!("only {connections} connections: `ulimit -n` is too low for {WANTED}");
    }
    let server = Server::with().auth().shards(2).without_heartbeats().start();
    let first_part = connections / 4;
    let mut members: Vec<Member> = (0..first_part).map(|number| join(&server, number)).collect();
    std::thread::sleep(REST);
    let before = server.rss_kib();
    members.extend((first_part..connections).map(|number| join(&server, number)));
    std::thread::sleep(REST);
    let after = server.rss_kib();
    let each = (after.saturating_sub(before)) as f64 * 1024.0 / (connections - first_part) as f64;
    println!("{connections} idle connections: {each:.0} B each between {first_part} and all; {after} KiB in total");
    assert!(each <= BYTES_MAX, "{each:.0} bytes for each idle connection");

    let busy_before = server.cpu_ms();
    std::thread::sleep(Duration::from_secs(3));
    let busy = server.cpu_ms() - busy_before;
    println!("processor time in 3 s of rest: {busy} ms");
    assert!(busy <= 90, "{busy} ms of processor time in 3 s without any work");

    let health = server.get("/health").json();
    assert_eq!(health["connections"]["totalConnections"], connections);
    for member in members.iter_mut().step_by(97) {
        member.send_text(&json!({"type": "ping", "id": "p", "timestamp": 1}).to_string());
    }
    for member in members.iter_mut().step_by(97) {
        member.wait_for("the pong", |message| message.kind == "pong");
    }
    drop(members);
    support::eventually("all are gone", || {
        (server.get("/health").json()["connections"]["totalConnections"] == 0).then_some(())
    });
}
