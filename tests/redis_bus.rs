//! The bus over Redis, alone: envelopes of one node reach the others that joined, in order and never the sender; whatever
//! happens to Redis or the connections, every shard is told that something may be missing, everything is joined again, and
//! nothing that was taken is lost without that being said. A real Redis, and the bus of the library without shards.

use test_support as support;

#[path = "support/bare_bus.rs"]
mod bare_bus;

use bare_bus::{Node, PATIENT, SHARDS, until_it_arrives};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::bus_proxy::{BusProxy, Faults};
use support::redis::Redis;
use synckit_server::cluster::redis::ENVELOPE_BYTES_MAX;
use synckit_server::cluster::{BusEvent, BusRequest};
use synckit_server::ids::ShardId;

#[test]
fn envelopes_reach_the_others_in_order_and_not_the_sender() {
    let redis = Redis::start();
    let (a, b) = (
        Node::connected("a", &redis.url()),
        Node::connected("b", &redis.unix_url()),
    );
    a.joined(0, "doc");
    b.joined(1, "doc");
    b.joined(0, "other");
    for number in 0..5000 {
        a.publish("doc", &number.to_string());
    }
    a.publish("nobody's", "lost");
    let announcement = a.envelope("to all");
    (a.link.submit)(BusRequest::Announce {
        envelope: announcement.clone(),
    })
    .expect("room");
    let mut announced = 0;
    let mut expected = 0;
    while expected < 5000 || announced < SHARDS {
        let (shard, event) = b.events.recv_timeout(PATIENT).expect("an event");
        match event {
            BusEvent::Received { document, envelope } => {
                assert_eq!((shard, &*document), (ShardId(1), "doc"));
                assert_eq!(envelope, a.envelope(&expected.to_string()), "out of order");
                expected += 1;
            }
            BusEvent::Announced { envelope } => {
                assert_eq!(envelope, announcement);
                announced += 1;
            }
            _ => {}
        }
    }
    b.publish("doc", "answer");
    a.receives("doc", &b, "answer");
    assert!(a.events.is_empty(), "own envelopes came back");
    a.wait("to count", |a| (a.link.health)().published == 5002);
    b.wait("to know its peer", |b| (b.link.health)().peers == 1);
    let facts = (b.link.health)();
    assert_eq!(
        (facts.received, facts.documents, facts.joining, facts.peers),
        (5001, 2, 0, 1)
    );
    assert_eq!((facts.dropped, facts.refused, facts.reconnects), (0, 0, 0));
    assert!(
        !redis
            .command::<Vec<String>>(&["PUBSUB", "CHANNELS", "test:v1:doc:*"])
            .is_empty()
    );
}

#[test]
fn what_was_left_is_silent_and_what_is_joined_again_speaks() {
    let redis = Redis::start();
    let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
    for _ in 0..200 {
        b.join(0, "doc");
        b.leave("doc");
    }
    b.join(0, "fence");
    b.joined(1, "doc");
    a.publish("doc", "first");
    let event = b.next("an envelope", |_, event| matches!(event, BusEvent::Received { .. }));
    assert!(matches!(event, BusEvent::Received { envelope, .. } if envelope == a.envelope("first")));
    b.leave("doc");
    b.joined(0, "later");
    a.publish("doc", "unheard");
    a.publish("fence", "heard");
    let event = b.next("an envelope", |_, event| matches!(event, BusEvent::Received { .. }));
    assert!(matches!(event, BusEvent::Received { document, .. } if *document == *"fence"));
}

#[test]
fn a_question_says_how_many_nodes_it_reached() {
    let redis = Redis::start();
    let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
    let ask = |document: &str| {
        let asked = BusRequest::Ask {
            shard: ShardId(1),
            document: document.into(),
            envelope: a.envelope("question"),
        };
        (a.link.submit)(asked).expect("room");
        let reached = a.next("Reached", |_, event| matches!(event, BusEvent::Reached { .. }));
        let BusEvent::Reached {
            document: which,
            nodes,
            announced,
        } = reached
        else {
            unreachable!()
        };
        assert_eq!(*which, *document);
        (nodes, announced)
    };
    assert_eq!(ask("nobody's"), (0, 0));
    a.joined(0, "doc");
    (0..50).for_each(|number| a.publish("doc", &number.to_string()));
    let envelope = a.envelope("announcement");
    (a.link.submit)(BusRequest::Announce { envelope }).expect("room");
    (0..50).for_each(|number| a.publish("doc", &number.to_string()));
    assert_eq!(ask("doc"), (1, 2));
    b.joined(0, "doc");
    assert_eq!(ask("doc"), (2, 2));
    b.receives("doc", &a, "question");
    // Nothing is known of a new connection.
    redis.cut("normal");
    a.interrupted();
    a.wait("to be connected", |node| (node.link.is_connected)());
    assert_eq!(ask("doc"), (2, 0));
}

#[test]
fn after_every_loss_all_is_joined_again_and_every_shard_is_told() {
    let mut redis = Redis::start();
    let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
    for number in 0..3000 {
        b.join(number % SHARDS, &format!("doc{number}"));
    }
    b.wait("to have joined", |b| (b.link.health)().joining == 0);
    for trouble in ["pubsub cut", "normal cut", "killed", "paused"] {
        a.forget_events();
        b.forget_events();
        match trouble {
            "pubsub cut" => assert_eq!(redis.cut("pubsub"), 2),
            "normal cut" => assert!(redis.cut("normal") >= 2),
            "killed" => {
                redis.kill();
                b.wait("to notice", |b| !(b.link.is_connected)());
                // Its two connections notice apart; what is taken in between is lost with the second.
                a.wait("to refuse envelopes", |a| !a.try_publish("doc7", "while away"));
                assert!(!(a.link.is_connected)(), "refused while all is well");
                redis.restart();
            }
            _ => {
                redis.pause();
                b.wait("to notice the silence", |b| !(b.link.is_connected)());
                assert!((b.link.health)().unavailable_ms > 0);
                redis.go_on();
            }
        }
        b.interrupted();
        until_it_arrives(&a, &b, "doc7");
        b.wait("to have joined again", |b| {
            let facts = (b.link.health)();
            facts.available && facts.joining == 0 && facts.documents == 3000
        });
        until_it_arrives(&a, &b, "doc2999");
    }
    assert!((b.link.health)().reconnects >= 4);
}

#[test]
fn a_redis_that_comes_late_is_found() {
    let mut redis = Redis::stopped(&[]);
    let (a, b) = (Node::start("a", &redis.url()), Node::start("b", &redis.url()));
    b.join(1, "doc");
    assert!(!a.try_publish("doc", "early"), "taken without a Redis");
    a.wait("to have tried", |a| (a.link.health)().connect_failures > 2);
    redis.restart();
    b.interrupted();
    b.next("Joined", |shard, event| {
        shard == ShardId(1) && matches!(event, BusEvent::Joined { .. })
    });
    a.wait("to be connected", |a| (a.link.is_connected)());
    a.publish("doc", "now");
    b.receives("doc", &a, "now");
    assert!((a.link.health)().refused >= 1);
}

#[test]
fn a_refused_envelope_is_counted_and_told() {
    let redis = Redis::start();
    let _: String = redis.command(&[
        "ACL",
        "SETUSER",
        "limited",
        "on",
        ">secret",
        "+@all",
        "~*",
        "resetchannels",
        "&test:v1:doc:good*",
        "&test:v1:nodes",
        "&test:presence",
        "&test:broadcast",
    ]);
    let url = format!("redis://limited:secret@127.0.0.1:{}", redis.port());
    let a = Node::connected("a", &url);
    a.interrupted();
    a.publish("good", "one");
    a.wait("to count", |a| (a.link.health)().published == 1);
    a.forget_events();
    a.publish("bad", "two");
    a.wait("to count", |a| (a.link.health)().dropped == 1);
    a.interrupted();
    a.wait("to be back", |a| (a.link.is_connected)());
    a.publish("good", "three");
    a.wait("to count", |a| (a.link.health)().published == 2);
    let wrong = Node::start("w", &format!("redis://limited:wrong@127.0.0.1:{}", redis.port()));
    wrong.wait("to be refused", |node| (node.link.health)().connect_failures > 0);
    assert!(!(wrong.link.is_connected)());
}

#[test]
fn who_does_not_read_is_cut_off_and_told() {
    let redis = Redis::start_with(&["--client-output-buffer-limit", "pubsub 256kb 0 0"]);
    let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
    b.joined(0, "doc");
    b.forget_events();
    b.crowded.store(true, Ordering::SeqCst);
    let text = "x".repeat(60_000);
    let deadline = Instant::now() + PATIENT;
    while redis
        .command::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"])
        .lines()
        .count()
        == 2
    {
        assert!(Instant::now() < deadline, "Redis was patient");
        a.try_publish("doc", &text);
    }
    b.crowded.store(false, Ordering::SeqCst);
    b.interrupted();
    until_it_arrives(&a, &b, "doc");
}

#[test]
fn a_full_queue_gives_back_and_takes_again() {
    let redis = Redis::start();
    let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
    b.joined(0, "doc");
    let long = Bytes::from(vec![b'x'; ENVELOPE_BYTES_MAX + 1]);
    let document: Arc<str> = "doc".into();
    assert!(
        (a.link.submit)(BusRequest::Publish {
            document,
            envelope: long
        })
        .is_err(),
        "longer than allowed"
    );
    redis.pause();
    let text = "x".repeat(100_000);
    let mut taken = 0u64;
    while a.try_publish("doc", &text) {
        taken += 1;
        assert!(taken < 10_000, "the queue has no end");
    }
    assert!((a.link.health)().queue_bytes < 80 << 20, "{:?}", (a.link.health)());
    redis.go_on();
    // Redis answers again before or after the node gave up; either way nothing goes missing without being counted.
    a.wait("to be done", |a| {
        let facts = (a.link.health)();
        facts.available && facts.queue_depth == 0 && facts.published + facts.dropped == taken
    });
    until_it_arrives(&a, &b, "doc");
}

#[test]
fn what_was_taken_leaves_before_the_end() {
    let redis = Redis::start();
    let (mut a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
    b.joined(0, "doc");
    b.wait("to know its peer", |b| (b.link.health)().peers == 1);
    let mut taken = 0u64;
    while taken < 20_000 {
        taken += u64::from(a.try_publish("doc", &taken.to_string()));
    }
    assert!(
        a.running.take().expect("it runs").finish(Instant::now() + PATIENT),
        "not everything was sent"
    );
    b.wait("to have received all", |b| (b.link.health)().received == taken);
    b.wait("to hear the farewell", |b| (b.link.health)().peers == 0);
}

#[test]
fn the_proxy_of_other_tests_does_what_it_says() {
    let redis = Redis::start();
    let proxy = BusProxy::start(redis.port(), 7);
    let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &proxy.url()));
    b.joined(0, "doc");
    proxy.set(Faults {
        drop: 0.1,
        duplicate: 0.1,
        reorder: 0.1,
        ..Faults::default()
    });
    (0..2000).for_each(|number| a.publish("doc", &number.to_string()));
    let deadline = Instant::now() + PATIENT;
    while proxy.counts().0 + proxy.counts().1 < 2000 {
        assert!(Instant::now() < deadline, "{:?}", proxy.counts());
        std::thread::sleep(Duration::from_millis(5));
    }
    proxy.set(Faults::default());
    until_it_arrives(&a, &b, "doc");
    let (dropped, passed) = proxy.counts();
    assert!(
        (100..400).contains(&dropped) && passed > 1600,
        "{dropped} dropped, {passed} passed"
    );
    assert!((b.link.health)().received > passed, "nothing was repeated");
    b.forget_events();
    proxy.cut();
    b.interrupted();
    until_it_arrives(&a, &b, "doc");
}
