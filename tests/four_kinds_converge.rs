//! RAW in JSON, RAW in binary, SDK and Go-style clients edit one document at the same time and end with the same
//! copy, equal to what a late joiner gets. Tried on one, two and five shards with each kind's own merge rules.

use test_support as support;

use serde_json::json;
use std::time::Duration;
use support::replica::{Plain, Replica, Sdk, assert_converged, settle, tombstone};
use support::{Client, Dialect, Server};

fn one_of_each(server: &Server, document: &str) -> Vec<Box<dyn Replica>> {
    vec![
        Box::new(Plain::join(server, Dialect::Json, document)),
        Box::new(Plain::join(server, Dialect::Binary, document)),
        Box::new(Sdk::join(server, "client-one", document)),
        Box::new(Sdk::join(server, "client-two", document)),
        Box::new(Plain::join(server, Dialect::Goc, document)),
    ]
}

fn converge(shards: usize) {
    let server = Server::with().shards(shards).start();
    for number in 0..3 {
        let document = format!("room:{number}");
        let mut replicas = one_of_each(&server, &document);
        for round in 0..6 {
            // Each kind edits a field of its own, all at once; those that echo also fight for a shared one. (A
            // Go-style client gets no echo, so it can only take part in the shared field when nobody else writes.)
            for (index, replica) in replicas.iter_mut().enumerate() {
                replica.write(&format!("own-{index}"), json!({"round": round, "by": index}));
                if index < 4 {
                    replica.write("shared", json!(format!("{round}/{index}")));
                }
                replica.pump(Duration::from_millis(1));
            }
            let copy = assert_converged(&mut replicas);
            assert_eq!(copy.len(), 6, "five own fields and the shared one");
            assert_eq!(copy["own-4"], json!({"round": round, "by": 4}));
            let author = round % 5;
            replicas[author].write("shared", json!(format!("{round}, alone")));
            assert_eq!(
                assert_converged(&mut replicas)["shared"],
                format!("{round}, alone"),
                "by {author}"
            );
        }
        replicas[4].write("own-0", tombstone());
        replicas[0].write("own-1", tombstone());
        let copy = assert_converged(&mut replicas);
        assert!(
            !copy.contains_key("own-0") && !copy.contains_key("own-1"),
            "deleted everywhere: {copy:?}"
        );

        let mut late = Client::connect(&server, Dialect::Json);
        assert_eq!(
            late.sync(&document)["state"],
            json!(copy),
            "a late joiner gets the same"
        );
    }
}

#[test]
fn on_one_shard() {
    converge(1);
}

#[test]
fn on_two_shards() {
    converge(2);
}

#[test]
fn on_five_shards() {
    converge(5);
}

#[test]
fn two_raw_clients_fighting_for_one_field_agree() {
    let server = Server::start();
    let mut replicas: Vec<Box<dyn Replica>> = (0..2)
        .map(|_| Box::new(Plain::join(&server, Dialect::Json, "fight")) as Box<dyn Replica>)
        .collect();
    for round in 0..100 {
        for (index, replica) in replicas.iter_mut().enumerate() {
            replica.write("field", json!([round, index]));
        }
    }
    let copy = assert_converged(&mut replicas);
    assert_eq!(copy["field"][0], 99, "one of the last writes wins: {copy:?}");
    let mut late: Vec<Box<dyn Replica>> = vec![Box::new(Plain::join(&server, Dialect::Binary, "fight"))];
    assert_eq!(settle(&mut late)[0].1, copy);
}
