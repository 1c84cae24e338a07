//! A report on the bus between nodes, beside what bare `PUBLISH` and `SUBSCRIBE` reach on the same Redis in the same run:
//! latency of an envelope, envelopes per second, and what loaded but quiet documents cost. The figures are printed; only an
//! absurd value fails. `FIGURES=long` takes more samples and 1,000,000 documents.

use test_support as support;

#[path = "support/bare_bus.rs"]
mod bare_bus;

use bare_bus::{Node, PATIENT};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::percentile;
use support::redis::Redis;
use synckit_server::cluster::{BusEvent, BusRequest};

fn is_long() -> bool {
    std::env::var("FIGURES").is_ok_and(|value| value == "long")
}

fn envelope(node: &str, length: usize) -> Bytes {
    let head = format!("{{\"v\":1,\"node\":\"{node}\",\"x\":\"");
    format!("{head}{}\"}}", "x".repeat(length.saturating_sub(head.len() + 2))).into()
}

/// A connection to Redis with nothing between it and the test.
fn bare(redis: &Redis) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", redis.port())).expect("Redis accepts");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(PATIENT)).expect("a time-out");
    stream
}

fn read_exactly(stream: &mut TcpStream, count: usize) {
    let mut rest = vec![0; count];
    stream.read_exact(&mut rest).expect("Redis answers");
}

fn subscribed(redis: &Redis, channel: &str) -> TcpStream {
    let mut stream = bare(redis);
    let command = redis::cmd("SUBSCRIBE").arg(channel).get_packed_command();
    stream.write_all(&command).expect("sent");
    let mut bytes = [0; 256];
    assert!(stream.read(&mut bytes).expect("confirmed") > 20);
    stream
}

/// What arrives at a subscriber for one envelope.
fn push_length(channel: &str, payload: &[u8]) -> usize {
    let head = format!(
        "*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n",
        channel.len(),
        payload.len()
    );
    head.len() + payload.len() + 2
}

#[test]
fn latency_of_an_envelope() {
    let redis = Redis::start();
    let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
    b.joined(0, "doc");
    let payload = envelope("a", 200);
    let samples = if is_long() { 20_000 } else { 2_000 };
    let (mut publisher, mut subscriber) = (bare(&redis), subscribed(&redis, "test:v1:doc:bare"));
    let command = redis::cmd("PUBLISH")
        .arg("test:v1:doc:bare")
        .arg(&payload[..])
        .get_packed_command();
    let push = push_length("test:v1:doc:bare", &payload);
    let (mut through_bus, mut through_redis) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        let start = Instant::now();
        publisher.write_all(&command).expect("sent");
        read_exactly(&mut subscriber, push);
        through_redis.push(start.elapsed().as_secs_f64() * 1e6);
        read_exactly(&mut publisher, 4);
        let document: Arc<str> = "doc".into();
        let start = Instant::now();
        let envelope = payload.clone();
        (a.link.submit)(BusRequest::Publish { document, envelope }).expect("room");
        let arrived = b.events.recv_timeout(PATIENT).expect("an event").1;
        through_bus.push(start.elapsed().as_secs_f64() * 1e6);
        assert!(matches!(arrived, BusEvent::Received { .. }));
    }
    let [bus, bare] = [&mut through_bus, &mut through_redis].map(|samples| percentile(samples, 50.0));
    let [bus99, bare99] = [&mut through_bus, &mut through_redis].map(|samples| percentile(samples, 99.0));
    println!(
        "one envelope of 200 bytes, {samples} samples: bus {bus:.0} us (p99 {bus99:.0}), bare PUBLISH to SUBSCRIBE {bare:.0} us (p99 {bare99:.0}); ratio of medians {:.2}",
        bus / bare
    );
    assert!(bus < bare * 100.0, "absurd");
}

#[test]
fn envelopes_per_second() {
    let redis = Redis::start();
    let count: usize = if is_long() { 2_000_000 } else { 200_000 };
    for length in [200, 1000] {
        let payload = envelope("a", length);
        let bare = bare_rate(&redis, &payload, count);
        let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
        let documents: Vec<Arc<str>> = (0..100).map(|number| format!("doc{number:03}").into()).collect();
        documents.iter().for_each(|document| b.joined(0, document));
        let start = Instant::now();
        let receiving = std::thread::spawn({
            let events = b.events.clone();
            move || {
                let mut received = 0;
                while received < count {
                    let event = events.recv_timeout(PATIENT).expect("an event").1;
                    received += usize::from(matches!(event, BusEvent::Received { .. }));
                }
            }
        });
        for number in 0..count {
            let mut request = BusRequest::Publish {
                document: documents[number % documents.len()].clone(),
                envelope: payload.clone(),
            };
            while let Err(back) = (a.link.submit)(request) {
                request = back;
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        receiving.join().expect("all arrive");
        let rate = count as f64 / start.elapsed().as_secs_f64();
        println!(
            "envelopes of {length} bytes through the bus: {rate:.0}/s; bare pipelined PUBLISH to one SUBSCRIBE: {bare:.0}/s; ratio {:.2}",
            bare / rate
        );
        assert!(rate > 500.0, "absurd");
    }
}

/// One connection that publishes as fast as it can in batches of 100, as `redis-benchmark -P 100` does, and one that reads.
fn bare_rate(redis: &Redis, payload: &[u8], count: usize) -> f64 {
    const BATCH: usize = 100;
    let channel = "test:v1:doc:bare00";
    let batch = redis::cmd("PUBLISH")
        .arg(channel)
        .arg(payload)
        .get_packed_command()
        .repeat(BATCH);
    let (mut publisher, mut subscriber) = (bare(redis), subscribed(redis, channel));
    let total = push_length(channel, payload) * count;
    let start = Instant::now();
    let reading = std::thread::spawn(move || {
        let (mut bytes, mut rest) = (vec![0; 256 << 10], total);
        while rest > 0 {
            let read = subscriber.read(&mut bytes).expect("messages");
            assert!(read > 0, "cut off");
            rest -= read;
        }
    });
    let mut answers = publisher.try_clone().expect("a handle");
    let answering = std::thread::spawn(move || read_exactly(&mut answers, 4 * count));
    for _ in 0..count / BATCH {
        publisher.write_all(&batch).expect("sent");
    }
    reading.join().expect("all arrive");
    answering.join().expect("all are answered");
    count as f64 / start.elapsed().as_secs_f64()
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages = status
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("pages") * 4096
}

#[test]
fn quiet_documents() {
    let redis = Redis::start_with(&["--maxclients", "100"]);
    let (a, b) = (Node::connected("a", &redis.url()), Node::connected("b", &redis.url()));
    let count = if is_long() { 1_000_000u64 } else { 50_000 };
    let names: Vec<Arc<str>> = (0..count)
        .map(|number| format!("room:document-{number:07}").into())
        .collect();
    let (memory, ours) = (redis.info("used_memory"), resident());
    let start = Instant::now();
    for node in [&a, &b] {
        for (number, document) in names.iter().enumerate() {
            let mut request = BusRequest::Join {
                shard: synckit_server::ids::ShardId((number % 2) as u16),
                document: document.clone(),
            };
            while let Err(back) = (node.link.submit)(request) {
                request = back;
                node.events.try_iter().for_each(drop);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    let deadline = Instant::now() + PATIENT * 10;
    for node in [&a, &b] {
        while (node.link.health)().joining > 0 || (node.link.health)().documents < count {
            assert!(Instant::now() < deadline, "{:?}", (node.link.health)());
            node.events.try_iter().for_each(drop);
            std::thread::sleep(Duration::from_millis(5));
        }
        node.events.try_iter().for_each(drop);
    }
    let took = start.elapsed();
    let (in_redis, in_nodes) = (redis.info("used_memory") - memory, resident().saturating_sub(ours));
    let traffic = || {
        (
            redis.info("total_net_input_bytes"),
            redis.info("total_commands_processed"),
        )
    };
    let (bytes, commands) = traffic();
    let pause = Duration::from_secs(if is_long() { 60 } else { 3 });
    std::thread::sleep(pause);
    let (bytes, commands) = (traffic().0 - bytes, traffic().1 - commands);
    println!(
        "{count} documents joined by 2 nodes in {:.1} s: {} bytes per document in Redis, {} bytes per document and node in the bus; quiet, both nodes together: {:.0} commands/s, {:.0} bytes/s (of which the measuring is a part)",
        took.as_secs_f64(),
        in_redis / count,
        in_nodes / count / 2,
        commands as f64 / pause.as_secs_f64(),
        bytes as f64 / pause.as_secs_f64(),
    );
    assert!(in_redis / count < 2000 && commands < 1000, "absurd");
    if is_long() {
        let start = Instant::now();
        redis.cut("pubsub");
        std::thread::sleep(Duration::from_millis(200));
        for node in [&a, &b] {
            while (node.link.health)().joining > 0 || !(node.link.is_connected)() {
                assert!(start.elapsed() < PATIENT * 10, "{:?}", (node.link.health)());
                node.events.try_iter().for_each(drop);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        println!("joined again after a cut in {:.1} s", start.elapsed().as_secs_f64());
    }
}
