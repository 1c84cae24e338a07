//! Deleting is writing the tombstone: the field leaves every snapshot, the tombstone is broadcast, writing again
//! brings the field back. SDK subscribers get the retained tombstones after their snapshot, nobody else does.

use test_support as support;

use serde_json::json;
use support::replica::{Plain, Replica, assert_converged, tombstone};
use support::{Client, Dialect, Server};

#[test]
fn a_deleted_field_is_gone_and_may_come_back() {
    let server = Server::start();
    let mut reader = Client::connect(&server, Dialect::Binary);
    reader.subscribe("doc");
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.greet();
    let mut last_stamp = 0;
    for (value, state) in [
        (json!(1), json!({"a": 1})),
        (tombstone(), json!({})),
        (tombstone(), json!({})),
        (json!(2), json!({"a": 2})),
        (json!({"__deleted": true, "by": "someone"}), json!({})),
        (json!({"__deleted": 1}), json!({"a": {"__deleted": 1}})),
    ] {
        writer.write_acked("doc", json!({ "a": value }));
        let delta = reader.take_field("doc", "a");
        if state == json!({}) {
            assert_eq!(delta["value"]["__deleted"], true, "{}", delta.body);
        } else {
            assert_eq!(delta["value"], value);
        }
        let stamp = delta["clock"]["server"].as_u64().expect("a stamp");
        assert!(stamp > last_stamp, "stamps grow through deletions");
        last_stamp = stamp;
        assert_eq!(writer.sync("doc")["state"], state);
    }
}

#[test]
fn concurrent_deletes_and_writes_agree() {
    let server = Server::with().shards(3).start();
    let mut replicas: Vec<Box<dyn Replica>> = [Dialect::Json, Dialect::Binary, Dialect::Json]
        .into_iter()
        .map(|dialect| Box::new(Plain::join(&server, dialect, "race")) as Box<dyn Replica>)
        .collect();
    for round in 0..40 {
        for (index, replica) in replicas.iter_mut().enumerate() {
            let value = if (round + index) % 3 == 0 {
                tombstone()
            } else {
                json!([round, index])
            };
            replica.write(&format!("f{}", round % 4), value);
        }
    }
    let copy = assert_converged(&mut replicas);
    let mut late = Client::connect(&server, Dialect::Json);
    assert_eq!(late.sync("race")["state"], json!(copy));
}

#[test]
fn an_sdk_subscriber_learns_of_deletions_after_its_snapshot() {
    let server = Server::start();
    let mut writer = Client::connect(&server, Dialect::Json);
    writer.write_acked("doc", json!({"kept": 1, "gone": 2}));
    writer.write_acked("doc", json!({"gone": tombstone()}));
    // A flush that was waiting for its window may repeat what the snapshot holds; let it pass first.
    std::thread::sleep(std::time::Duration::from_millis(50));

    let mut sdk = Client::connect(&server, Dialect::Sdk);
    let snapshot = sdk.subscribe("doc");
    assert_eq!(snapshot["state"], json!({"kept": 1}));
    let told = sdk.expect("delta");
    assert_eq!((&told["field"], &told["value"]), (&json!("gone"), &tombstone()));
    assert_eq!(told["clock"], snapshot["clock"], "the clock of the snapshot");
    sdk.expect_silence();

    let mut raw = Client::connect(&server, Dialect::Json);
    assert_eq!(raw.sync("doc")["state"], json!({"kept": 1}));
    raw.expect_silence();
}
