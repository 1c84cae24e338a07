//! A server over a large database starts as fast as over an empty one: nothing is read ahead, and a document is served by one
//! look into an index. Prints how long it took to listen, and to serve first documents. Small by default; figures come from
//! `DOCUMENTS=1000000 cargo test --release --test restart_with_many_documents -- --nocapture`.

use test_support as support;

use std::time::{Duration, Instant};
use support::database::Postgres;
use support::{Client, Dialect, Server};

const DEFAULT: i64 = 5_000;
/// Far above what it takes; a server that read its documents ahead would need minutes for a million.
const START_MAX: Duration = Duration::from_secs(20);

#[test]
fn a_restart_does_not_depend_on_the_number_of_documents() {
    let documents: i64 = match std::env::var("DOCUMENTS") {
        Ok(text) => text.parse().expect("DOCUMENTS is a number"),
        Err(_) => DEFAULT,
    };
    let postgres = Postgres::start();
    let server = || Server::with().env("DATABASE_URL", postgres.url());
    // Its first start makes the tables.
    drop(server().start());
    let mut admin = postgres.connect();
    let rows = "INSERT INTO documents (id, state)
        SELECT 'doc-' || n, jsonb_build_object('id', 'doc-' || n, 'fields', jsonb_build_object('a', n, 'b', repeat('x', 100)))
        FROM generate_series(1, $1::bigint) n";
    assert_eq!(admin.execute(rows, &[&documents]).expect("rows"), documents as u64);
    admin.batch_execute("CHECKPOINT").expect("the rows are on disk");

    let began = Instant::now();
    let server = server().start();
    let listening = began.elapsed();
    let mut served = Vec::new();
    for document in [documents, 1, documents / 2] {
        let mut client = Client::connect(&server, Dialect::Json);
        let began = Instant::now();
        let state = client.sync(&format!("doc-{document}"))["state"].clone();
        served.push(format!("{:.1} ms", began.elapsed().as_secs_f64() * 1000.0));
        assert_eq!(state["a"], document);
    }
    println!(
        "{documents} documents: listening after {:.0} ms, first documents served in {}",
        listening.as_secs_f64() * 1000.0,
        served.join(", ")
    );
    assert!(listening < START_MAX, "{listening:?}");
}
