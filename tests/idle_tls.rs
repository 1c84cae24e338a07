//! A TLS connection at rest costs the server at most 4,600 bytes of resident memory, and a handshake leaves nothing else
//! behind. Twelve hundred WebSockets over TLS subscribe and rest; memory is compared between the first quarter and all of
//! them. Prints what each costs, and the processor time of a handshake with upgrade and subscription.

use test_support as support;

use serde_json::json;
use std::time::Duration;
use support::Server;
use support::tls::{Files, Stream, client_config, stream};
use tungstenite::{Message, WebSocket};

const CONNECTIONS: usize = 1200;
/// Resident bytes of the server for each further connection.
const BYTES_MAX: f64 = 4600.0;
/// Until nothing of a connection's opening is left: its longest deadline is 10 s.
const REST: Duration = Duration::from_secs(11);

fn join(server: &Server, number: usize) -> WebSocket<Stream> {
    // Settings of its own, so that nobody resumes.
    let stream = stream(server, &client_config());
    let (mut socket, _) = tungstenite::client("wss://localhost/ws", stream).expect("the upgrade succeeds");
    let document = format!("doc-{}", number % 100);
    let subscribe = json!({"type": "subscribe", "id": "s", "timestamp": 1, "documentId": document});
    socket.send(Message::text(subscribe.to_string())).expect("sent");
    assert!(socket.read().expect("an answer").to_string().contains("sync_response"));
    socket
}

#[test]
fn idle_tls_connections_are_cheap() {
    let files = Files::new("idle");
    let server = files
        .server()
        .shards(2)
        .without_heartbeats()
        .env("SYNCKIT_MAX_CONNECTIONS_PER_IP", 0)
        .start();
    let first_part = CONNECTIONS / 4;
    let mut sockets: Vec<_> = (0..first_part).map(|number| join(&server, number)).collect();
    std::thread::sleep(REST);
    let (before, busy_before) = (server.rss_kib(), server.cpu_ms());
    sockets.extend((first_part..CONNECTIONS).map(|number| join(&server, number)));
    let busy = server.cpu_ms() - busy_before;
    std::thread::sleep(REST);
    let after = server.rss_kib();
    let more = (CONNECTIONS - first_part) as f64;
    let each = after.saturating_sub(before) as f64 * 1024.0 / more;
    println!(
        "{CONNECTIONS} idle TLS connections: {each:.0} B each; {:.2} ms of processor time per handshake, upgrade and subscription",
        busy as f64 / more
    );
    assert!(each <= BYTES_MAX, "{each:.0} bytes for each idle TLS connection");
    for socket in sockets.iter_mut().step_by(97) {
        socket
            .send(Message::text(r#"{"type":"ping","id":"p","timestamp":1}"#))
            .expect("sent");
        assert!(socket.read().expect("an answer").to_string().contains("pong"));
    }
}
