//! The published JavaScript SDK, unmodified, is a client of this server: two of them edit and converge, come back after
//! a restart, join late, and open a closed server with a token in the URL; and over TLS, with a certificate that Node
//! believes because it was given the authority, and does not believe otherwise. The tests themselves are in tests/js; this
//! one installs the pinned packages into the target folder and runs them with Node. Without Node it fails.

use test_support as support;

use std::path::Path;
use std::sync::Mutex;
use support::node::NodeTests;
use support::tls::Files;

/// Held while packages are installed: both tests use the same copy.
static INSTALLING: Mutex<()> = Mutex::new(());

fn tests() -> NodeTests {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("javascript-sdk");
    let _installing = INSTALLING.lock();
    NodeTests::installed(&source, &place).env("SYNCKIT_SERVER_BINARY", env!("CARGO_BIN_EXE_synckit-server"))
}

#[test]
fn the_published_sdk_works() {
    tests().pass("sdk.test.mjs", 7);
}

#[test]
fn the_published_sdk_works_over_tls() {
    let files = Files::new("sdk");
    files.make("authority.pem", "authority-key.pem", "authority-of-this-test", "2");
    files.openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server -keyout key.pem -out csr.pem",
    );
    std::fs::write(files.path("names"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
    let signing = "x509 -req -days 2 -CA authority.pem -CAkey authority-key.pem -CAcreateserial -extfile names";
    files.openssl(&format!("{signing} -in csr.pem -out cert.pem"));
    tests()
        .env("NODE_EXTRA_CA_CERTS", files.path("authority.pem"))
        .env("TLS_CERT", files.path("cert.pem"))
        .env("TLS_KEY", files.path("key.pem"))
        .pass("tls.test.mjs", 3);
}
