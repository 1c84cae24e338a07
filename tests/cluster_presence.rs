//! Nodes tell each other that they are there, in the words of the family (docs/protocol.md §19.1): `server_online` at the
//! start and after every reconnection, `server_offline` at the end, and what others say on these channels disturbs nobody.
//! Real servers and a real Redis, at which the test listens.

use test_support as support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::redis::Redis;
use support::{Server, ServerBuilder};

const PATIENT: Duration = Duration::from_secs(30);

fn node(redis: &Redis, name: &str) -> ServerBuilder {
    Server::with()
        .env("REDIS_URL", redis.url())
        .env("REDIS_CHANNEL_PREFIX", "app")
        .env("SYNCKIT_NODE_ID", name)
        .env("SYNCKIT_METRICS_PUBLIC", true)
}

fn wait_for_metric(server: &Server, name: &str, value: u64) {
    let deadline = Instant::now() + PATIENT;
    while server.metric(name) != value {
        assert!(
            Instant::now() < deadline,
            "{name} is {}, not {value}",
            server.metric(name)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nodes_say_when_they_come_and_go() {
    let redis = Redis::start();
    let mut listener = redis.connect();
    listener.set_read_timeout(Some(PATIENT)).expect("a time-out");
    let mut listener = listener.as_pubsub();
    listener.subscribe("app:presence").expect("subscribed");
    // The next announcement that fits, said at `since` or later: nodes also answer each other's.
    let mut said = |kind: &str, id: &str, since: i64| -> Value {
        let deadline = Instant::now() + PATIENT;
        while Instant::now() < deadline {
            let message = listener.get_message().expect("an announcement");
            let said: Value = serde_json::from_slice(message.get_payload_bytes()).unwrap_or_default();
            if said["type"] == kind && said["serverId"] == id && said["timestamp"].as_i64() >= Some(since) {
                return said;
            }
        }
        panic!("{id} never said {kind}");
    };

    let one = node(&redis, "one").start();
    let online = said("server_online", "one", 0);
    let age_ms = support::unix_ms() - online["timestamp"].as_i64().expect("Unix milliseconds");
    assert!((0..60_000).contains(&age_ms), "{online}");
    assert!(online["metadata"].is_object(), "{online}");
    wait_for_metric(&one, "bus_up", 1);

    let mut two = node(&redis, "two").start();
    said("server_online", "two", 0);
    wait_for_metric(&one, "bus_peers", 1);

    let cut_at = support::unix_ms();
    redis.cut("normal");
    said("server_online", "one", cut_at);
    wait_for_metric(&one, "bus_up", 1);
    wait_for_metric(&two, "bus_peers", 1);

    for nonsense in [
        "",
        "null",
        "[1,2]",
        "{\"type\":\"server_online\"}",
        "\u{0}\u{1}",
        "{\"type\":7,\"serverId\":[]}",
    ] {
        for channel in ["app:presence", "app:broadcast", "app:v1:nodes", "app:v1:doc:nobody"] {
            let _: i64 = redis.command(&["PUBLISH", channel, nonsense]);
        }
    }
    // Cut a moment before its end, it says farewell all the same.
    redis.cut("normal");
    two.signal("TERM");
    let offline = said("server_offline", "two", cut_at);
    assert!(offline["timestamp"].is_i64());
    assert_eq!(two.wait_exit(PATIENT).and_then(|status| status.code()), Some(0));
    wait_for_metric(&one, "bus_peers", 0);
    wait_for_metric(&one, "bus_up", 1);
    assert_eq!(one.get("/health/ready").status, 200);
}
