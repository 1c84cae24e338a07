//! With `TLS_CERT` and `TLS_KEY` the port speaks TLS: WebSockets and HTTP work over it on both socket layers, also for
//! connections that move between shards and for large messages; garbage, plain HTTP, half-open handshakes and old versions
//! hurt nobody; the certificate is replaced under live connections; unusable files are refused at the start with the
//! reason. Clients are tungstenite over rustls, and openssl. (Chromium and Node are in `browser.rs`.)

use test_support as support;

use rustls::{ClientConfig, HandshakeKind};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use support::tls::{Files, Stream, client_config, stream};
use support::{PATIENCE, Server, Steady, eventually};
use tungstenite::{Message, WebSocket};

fn websocket(server: &Server, config: &Arc<ClientConfig>) -> WebSocket<Stream> {
    tungstenite::client("wss://localhost/ws", stream(server, config))
        .expect("the upgrade succeeds")
        .0
}

fn send(socket: &mut WebSocket<Stream>, message: &Value) {
    socket.send(Message::text(message.to_string())).expect("sent");
}

fn wait_for(socket: &mut WebSocket<Stream>, kind: &str) -> Value {
    loop {
        if let Message::Text(text) = socket.read().expect("a message") {
            let message: Value = serde_json::from_str(&text).expect("JSON");
            if message["type"] == kind {
                return message;
            }
        }
    }
}

fn get(server: &Server, path: &str) -> String {
    let mut stream = stream(server, &client_config());
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    // A clean end: the server said that nothing follows.
    stream
        .read_to_string(&mut answer)
        .expect("an answer that ends with close_notify");
    answer
}

#[test]
fn documents_are_shared_over_both_socket_layers() {
    let files = Files::new("layers");
    for layer in ["ordinary", "direct"] {
        let server = files.server().shards(3).env("SYNCKIT_SOCKETS", layer).start();
        assert!(get(&server, "/health").starts_with("HTTP/1.1 200 "));
        let config = client_config();
        // Six documents on three shards: most connections move.
        for number in 0..6 {
            let document = format!("document-{number}");
            let mut pair = [websocket(&server, &config), websocket(&server, &config)];
            for (at, socket) in pair.iter_mut().enumerate() {
                send(
                    socket,
                    &json!({"type": "subscribe", "id": "s", "timestamp": 1, "documentId": document}),
                );
                let answer = wait_for(socket, "sync_response");
                assert_eq!(answer["documentId"], document, "client {at}");
            }
            let [writer, reader] = &mut pair;
            let value = "x".repeat(if number == 0 { 1_500_000 } else { 10 * number });
            let write =
                json!({"type": "delta", "id": "w", "timestamp": 1, "documentId": document, "delta": {"f": value}});
            send(writer, &write);
            wait_for(writer, "ack");
            assert_eq!(wait_for(reader, "delta")["value"], value);
        }
    }
}

#[test]
fn a_slow_reader_gets_everything_in_the_end() {
    let files = Files::new("slow");
    let server = files.server().start();
    let config = client_config();
    let mut socket = websocket(&server, &config);
    let value = "y".repeat(900_000);
    let write = json!({"type": "delta", "id": "w", "timestamp": 1, "documentId": "d", "delta": {"f": value}});
    send(&mut socket, &write);
    wait_for(&mut socket, "ack");
    // Twelve megabytes of answers, more than any socket buffer holds, before the first is read.
    for number in 0..12 {
        send(
            &mut socket,
            &json!({"type": "sync_request", "id": number.to_string(), "timestamp": 1, "documentId": "d"}),
        );
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    for _ in 0..12 {
        assert_eq!(wait_for(&mut socket, "sync_response")["state"]["f"], value);
    }
    socket.close(None).expect("a close frame");
    let ended = loop {
        if let Err(error) = socket.read() {
            break error;
        }
    };
    assert!(matches!(ended, tungstenite::Error::ConnectionClosed), "{ended}");
    assert_eq!(socket.get_mut().read(&mut [0; 16]).expect("close_notify"), 0);
}

#[test]
fn whatever_else_arrives_hurts_nobody() {
    let files = Files::new("garbage");
    let server = files.server().start();
    let config = client_config();
    let mut witness = websocket(&server, &config);
    let plain = support::http::request(server.address(), "GET", "/health", &[], b"");
    assert_eq!(plain.status, 400);
    assert!(plain.text().contains("TLS"), "{}", plain.text());
    let hello: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let attacks: [&[u8]; 4] = [
        &[0; 3000],
        b"SSH-2.0-x\r\n",
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[0x17, 3, 3, 0, 2, 1, 1],
    ];
    for attack in attacks {
        let mut socket = TcpStream::connect(server.address()).expect("the server accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        socket.write_all(attack).expect("sent");
        // An alert, then the end; a reset is an end too.
        let _ = socket.read_to_end(&mut Vec::new());
    }
    // A handshake that stands still is ended by the time limit of the first request.
    let mut stalled = Steady::connect(server.address(), 3 * PATIENCE).expect("the server accepts");
    stalled.write_all(hello).expect("sent");
    let end = stalled.read(&mut [0; 16]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    // A client that ends its side of TLS is gone.
    let mut leaver = websocket(&server, &config);
    leaver.get_mut().conn.send_close_notify();
    leaver.get_mut().flush().expect("sent");
    let mut rest = Vec::new();
    leaver.get_mut().read_to_end(&mut rest).expect("close_notify in return");
    eventually("one connection is left", || {
        let health = get(&server, "/health");
        health.contains("\"totalConnections\":1,").then_some(())
    });
    send(&mut witness, &json!({"type": "ping", "id": "p", "timestamp": 1}));
    wait_for(&mut witness, "pong");
}

#[test]
fn the_certificate_is_replaced_under_live_connections() {
    let files = Files::new("reload");
    let server = files.server().start();
    let config = client_config();
    let certificate = |socket: &WebSocket<Stream>| socket.get_ref().conn.peer_certificates().expect("one")[0].to_vec();
    let mut old = websocket(&server, &config);
    let fresh = || websocket(&server, &client_config());
    assert_eq!(certificate(&fresh()), certificate(&old));

    files.make("cert.pem", "key.pem", "second", "2");
    server.signal("HUP");
    eventually("the new certificate", || {
        (certificate(&fresh()) != certificate(&old)).then_some(())
    });
    let second = certificate(&fresh());
    send(&mut old, &json!({"type": "ping", "id": "p", "timestamp": 1}));
    wait_for(&mut old, "pong");

    std::fs::write(files.path("cert.pem"), "nonsense").expect("written");
    server.signal("HUP");
    eventually("a complaint", || {
        server.log().contains("TLS certificate stays as it was").then_some(())
    });
    assert_eq!(certificate(&fresh()), second);

    // A client that was here before resumes: no certificate, no signature.
    drop(websocket(&server, &config));
    let again = websocket(&server, &config);
    assert_eq!(again.get_ref().conn.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn unusable_files_are_refused_with_the_reason() {
    let files = Files::new("refused");
    files.make("other-cert.pem", "other-key.pem", "other", "2");
    files.openssl("ec -in key.pem -aes128 -passout pass:secret -out encrypted.pem");
    files.openssl("req -new -key key.pem -subj /CN=old -out request.pem");
    std::fs::write(files.path("ca.cnf"), CA).expect("written");
    std::fs::write(files.path("index.txt"), "").expect("written");
    std::fs::write(files.path("serial.txt"), "01").expect("written");
    files.openssl(
        "ca -batch -notext -config ca.cnf -selfsign -keyfile key.pem -in request.pem -startdate 20200101000000Z \
         -enddate 20210101000000Z -out expired.pem",
    );
    let cases = [
        ("cert.pem", "missing.pem", "TLS_KEY="),
        ("missing.pem", "key.pem", "cannot be read"),
        ("key.pem", "key.pem", "holds no certificate"),
        ("cert.pem", "cert.pem", "holds no private key"),
        ("cert.pem", "other-key.pem", "is not the key of"),
        ("cert.pem", "encrypted.pem", "openssl pkey"),
        ("expired.pem", "key.pem", "expired on"),
    ];
    for (certificate, key, reason) in cases {
        let start = Server::with()
            .env("TLS_CERT", files.path(certificate))
            .env("TLS_KEY", files.path(key));
        let (status, log) = start.refuses();
        assert!(
            !status.success() && log.contains(reason),
            "{certificate} with {key}: {log}"
        );
        assert!(log.contains("Remedy"), "{log}");
    }
    let (_, log) = Server::with().env("TLS_CERT", files.path("cert.pem")).refuses();
    assert!(log.contains("TLS_KEY"), "{log}");
}

const CA: &str = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial.txt\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n";

#[test]
fn old_versions_and_other_protocols_are_refused() {
    let files = Files::new("versions");
    let server = files.server().start();
    let openssl = |arguments: &str| {
        let run = Command::new("openssl")
            .args(["s_client", "-connect", &server.address().to_string()])
            .args(arguments.split(' '))
            .stdin(Stdio::null())
            .output()
            .expect("openssl runs");
        (run.status.success(), String::from_utf8_lossy(&run.stdout).into_owned())
    };
    let (works, said) = openssl("-tls1_2 -alpn http/1.1");
    assert!(
        works && said.contains("ALPN protocol: http/1.1") && said.contains("TLSv1.2"),
        "{said}"
    );
    let (works, said) = openssl("-tls1_3");
    assert!(works && said.contains("TLSv1.3"), "{said}");
    assert!(!openssl("-tls1_1 -cipher DEFAULT@SECLEVEL=0").0, "TLS 1.1");
    assert!(!openssl("-alpn h2").0, "HTTP/2");
}
