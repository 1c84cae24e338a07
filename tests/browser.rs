//! The demo and the dashboard work in a real browser: two tabs of the demo see each other's list, text and pointer, the
//! dashboard shows live numbers and finds a document, neither asks for anything outside or logs an error, axe-core finds
//! nothing to object to, light, dark and at phone width. Chromium speaks TLS and compressed WebSockets to the server.
//! The tests themselves are in tests/browser; this one installs the pinned packages into the target folder, makes a
//! certificate, and runs them with Node. Screenshots are left in the target folder. Without Chromium it fails.

use test_support as support;

use std::path::Path;
use support::node::{NodeTests, chromium};
use support::redis::Redis;
use support::tls::Files;

#[test]
fn the_pages_work_in_chromium() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let certificate = Files::new("browser");
    // The dashboard shows how it is doing.
    let redis = Redis::start();
    NodeTests::installed(&source, &place)
        .env("SYNCKIT_SERVER_BINARY", env!("CARGO_BIN_EXE_synckit-server"))
        .env("CHROMIUM", chromium())
        .env("REDIS_URL", redis.url())
        .env("TLS_CERT", certificate.path("cert.pem"))
        .env("TLS_KEY", certificate.path("key.pem"))
        .env("SCREENSHOTS", place.join("screenshots"))
        .pass("pages.test.mjs", 4);
}
