//! `sslmode` means what it means to libpq: a database that takes only encrypted connections is reached with `prefer` and
//! `require` whatever its certificate, with `verify-ca` if an authority is known, with `verify-full` if the name fits too,
//! and not at all with `disable`. A PostgreSQL with a certificate made for the test.

use test_support as support;

use serde_json::json;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use support::database::Postgres;
use support::{Client, Dialect, Server, ServerBuilder};

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let run = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    assert!(
        run.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&run.stderr)
    );
}

/// A PostgreSQL at `port` that refuses plain TCP. Its certificate names `localhost` only and comes from an authority of
/// the test, `authority.pem`.
fn encrypted(port: u16) -> Postgres {
    Postgres::start_with(|postgres| {
        let (key, certificate) = (postgres.put("key.pem", b""), postgres.put("cert.pem", b""));
        postgres.put("names", b"subjectAltName=DNS:localhost");
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let folder = postgres.folder();
        openssl(
            folder,
            &format!("req -x509 {new_key} -days 2 -subj /CN=authority -keyout ca.pem -out authority.pem"),
        );
        openssl(
            folder,
            &format!("req {new_key} -subj /CN=localhost -keyout key.pem -out request.pem"),
        );
        let sign = "x509 -req -in request.pem -CA authority.pem -CAkey ca.pem -CAcreateserial -days 2";
        openssl(folder, &format!("{sign} -extfile names -out cert.pem"));
        let rules = postgres.put("hba.conf", b"local all all trust\nhostssl all all 127.0.0.1/32 trust\n");
        vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "ssl=on".to_owned(),
            format!("ssl_key_file={}", key.display()),
            format!("ssl_cert_file={}", certificate.display()),
            format!("hba_file={}", rules.display()),
        ]
    })
}

fn over(url: String) -> ServerBuilder {
    Server::with()
        .env("DATABASE_URL", url)
        .env("SYNCKIT_DB_STARTUP_TIMEOUT_MS", 0)
}

#[test]
fn certificates_are_checked_exactly_when_asked_for() {
    let port = free_port();
    let postgres = encrypted(port);
    let authority = postgres.folder().join("authority.pem");
    let url = |host: &str, rest: &str| format!("postgresql://postgres@{host}:{port}/postgres?{rest}");
    let known = |mode: &str| format!("sslmode={mode}&sslrootcert={}", authority.display());
    for works in [
        url("127.0.0.1", ""),
        url("127.0.0.1", "sslmode=require"),
        url("127.0.0.1", &known("verify-ca")),
        url("localhost", &known("verify-full")),
    ] {
        let server = over(works.clone()).start();
        let mut client = Client::connect(&server, Dialect::Json);
        client.write_acked("d", json!({"a": 1}));
        assert_eq!(server.get("/health").json()["storage"], "connected", "{works}");
    }
    for fails in [
        url("127.0.0.1", "sslmode=disable"),
        // Nobody vouches for the certificate, or it is somebody else's.
        url("localhost", "sslmode=verify-full"),
        url("127.0.0.1", &known("verify-full")),
    ] {
        let (status, log) = over(fails.clone()).refuses();
        assert_eq!(status.code(), Some(1), "{fails} was taken:\n{log}");
    }
}
