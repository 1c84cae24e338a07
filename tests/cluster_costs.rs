//! A report on several nodes as their clients meet them, through whole servers: how much later a change is seen at another
//! node than at the same one, beside a bare `PUBLISH` to `SUBSCRIBE` on the same Redis in the same run; and what loaded but
//! quiet documents cost two nodes and Redis, in bytes and in traffic. The figures are printed; only an absurd value fails.
//! `DOCUMENTS=` and `SAMPLES=` take more of either.

use test_support as support;

use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::crowd::Member;
use support::redis::Redis;
use support::{Client, Dialect, Server, percentile};

/// For single answers, on a busy machine.
const PATIENT: Duration = Duration::from_secs(30);
/// Over which documents are loaded: a connection waits for answers before it is read further.
const CONNECTIONS: usize = 100;
/// Length of the envelopes of the changes that are timed.
const ENVELOPE_BYTES: usize = 200;

fn number(name: &str, default: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Two nodes that know each other.
fn two_nodes(redis: &Redis, digest_interval_ms: u64) -> [Server; 2] {
    let nodes = [(); 2].map(|()| {
        let builder = Server::with()
            .env("REDIS_URL", redis.url())
            .env("SYNCKIT_DIGEST_INTERVAL", digest_interval_ms)
            .env("SYNCKIT_METRICS_PUBLIC", true)
            .env("SYNCKIT_MAX_MESSAGES_PER_MINUTE", 0)
            .env("SYNCKIT_MAX_CONNECTIONS_PER_IP", 0);
        builder.without_heartbeats().start()
    });
    let deadline = Instant::now() + PATIENT;
    while nodes.iter().any(|node| node.metric("bus_peers") == 0) {
        assert!(Instant::now() < deadline, "the nodes never heard of each other");
        std::thread::sleep(Duration::from_millis(20));
    }
    nodes
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

/// Publisher, subscriber and the number of bytes a message takes to the subscriber.
fn bare(redis: &Redis, payload: &str) -> (TcpStream, TcpStream, Vec<u8>, usize) {
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", redis.port())).expect("Redis accepts");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENT)).expect("a time-out");
        stream
    };
    let (publisher, mut subscriber) = (connect(), connect());
    let subscribe = redis::cmd("SUBSCRIBE").arg("bare").get_packed_command();
    subscriber.write_all(&subscribe).expect("sent");
    let confirmed = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nbare\r\n:1\r\n";
    subscriber.read_exact(&mut vec![0; confirmed.len()]).expect("confirmed");
    let command = redis::cmd("PUBLISH").arg("bare").arg(payload).get_packed_command();
    let head = format!("*3\r\n$7\r\nmessage\r\n$4\r\nbare\r\n${}\r\n", payload.len());
    (publisher, subscriber, command, head.len() + payload.len() + 2)
}

#[test]
fn latency_of_a_change() {
    let redis = Redis::start();
    let [a, b] = two_nodes(&redis, 5_000);
    let mut writer = Client::connect(&a, Dialect::Binary);
    let mut readers = [&a, &b].map(|node| Client::connect(node, Dialect::Binary));
    readers.iter_mut().for_each(|reader| drop(reader.subscribe("doc")));
    let (mut publisher, mut subscriber, command, push) = bare(&redis, &"x".repeat(ENVELOPE_BYTES));
    let samples = number("SAMPLES", 300);
    let (mut same, mut cross, mut through_redis) = (Vec::new(), Vec::new(), Vec::new());
    for sample in 0..samples {
        // Longer than the flush window: every change leaves at once.
        std::thread::sleep(Duration::from_millis(6));
        let start = Instant::now();
        publisher.write_all(&command).expect("sent");
        subscriber.read_exact(&mut vec![0; push]).expect("published");
        through_redis.push(micros(start));
        publisher.read_exact(&mut [0; 4]).expect("answered");
        std::thread::sleep(Duration::from_millis(6));
        let start = Instant::now();
        let id = writer.write("doc", json!({"field": sample}));
        let seen = [0, 1].map(|at: usize| {
            let change = readers[at].take_field("doc", "field");
            assert_eq!(change["value"], sample);
            micros(start)
        });
        same.push(seen[0]);
        cross.push(seen[1]);
        writer.take_ack(&id);
        writer.take_field("doc", "field");
    }
    let mut added: Vec<f64> = same.iter().zip(&cross).map(|(same, cross)| cross - same).collect();
    let [same, cross, added, bare] =
        [&mut same, &mut cross, &mut added, &mut through_redis].map(|samples| percentile(samples, 50.0));
    println!(
        "a change, {samples} samples, medians: {same:.0} us to the same node, {cross:.0} us to the other, added {added:.0} us; \
         bare PUBLISH to SUBSCRIBE {bare:.0} us; added / bare {:.2}",
        added / bare
    );
    assert!(added < bare * 100.0, "absurd");
}

/// Sends a message about each document over many connections and waits for all answers.
fn with_each(node: &Server, documents: &[String], answer: &str, ask: impl Fn(&str) -> serde_json::Value) {
    let mut members: Vec<Member> = (0..CONNECTIONS).map(|_| Member::connect(node.address())).collect();
    for (number, document) in documents.iter().enumerate() {
        members[number % CONNECTIONS].send_text(&ask(document).to_string());
    }
    let (mut answers, mut last) = (0, Instant::now());
    while answers < documents.len() {
        let before = answers;
        for member in &mut members {
            let messages = member.messages();
            answers += messages.iter().filter(|message| message.kind == answer).count();
        }
        if answers > before {
            last = Instant::now();
        }
        assert!(
            last.elapsed() < PATIENT,
            "{answers} answers about {} documents",
            documents.len()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes and commands that went through Redis so far.
fn traffic(redis: &Redis) -> [u64; 3] {
    [
        "total_net_input_bytes",
        "total_net_output_bytes",
        "total_commands_processed",
    ]
    .map(|name| redis.info(name))
}

#[test]
fn quiet_documents() {
    let redis = Redis::start();
    let count = number("DOCUMENTS", 4_000);
    // The default takes 15 s until what was just loaded counts as quiet.
    let interval_ms = if count > 10_000 { 5_000 } else { 400 };
    let nodes = two_nodes(&redis, interval_ms);
    let documents: Vec<String> = (0..count).map(|number| format!("room:document-{number:07}")).collect();
    let resident = || nodes.each_ref().map(|node| node.rss_kib() * 1024);
    let (before, redis_before) = (resident(), redis.info("used_memory"));
    let start = Instant::now();
    with_each(
        &nodes[0],
        &documents,
        "ack",
        |document| json!({"type": "delta", "id": "w", "timestamp": 1, "documentId": document, "delta": {"title": "x"}}),
    );
    with_each(
        &nodes[1],
        &documents,
        "sync_response",
        |document| json!({"type": "sync_request", "id": "s", "timestamp": 1, "documentId": document}),
    );
    let took = start.elapsed();
    // What changed is announced three times, then it is quiet.
    std::thread::sleep(Duration::from_millis(5 * interval_ms));
    let (after, redis_after) = (resident(), redis.info("used_memory"));
    let [one, other] = [0, 1].map(|node| after[node].saturating_sub(before[node]) / count as u64);
    let cpu = || nodes.iter().map(Server::cpu_ms).sum::<u64>();
    let (before, cpu_before, start) = (traffic(&redis), cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(if count > 10_000 { 60 } else { 2 }));
    let (after, seconds) = (traffic(&redis), start.elapsed().as_secs_f64());
    let [input, output, commands] = [0, 1, 2].map(|at| (after[at] - before[at]) as f64 / seconds);
    println!(
        "{count} documents on 2 nodes, loaded in {:.1} s: {one} bytes per document at the node that wrote them, {other} at the \
         other, {} in Redis; quiet: {commands:.0} commands, {input:.0} bytes in and {output:.0} bytes out a second at Redis \
         (of which the measuring is a part), {:.1} % of a core for both nodes",
        took.as_secs_f64(),
        redis_after.saturating_sub(redis_before) / count as u64,
        (cpu() - cpu_before) as f64 / seconds / 10.0,
    );
    for (number, node) in nodes.iter().enumerate() {
        assert_eq!(node.metric("bus_documents"), count as u64, "joined by node {number}");
    }
    // 100 rows of about 100 bytes per second and shard, 4 shards, each read by one other node; and the nodes' own signs of life.
    assert!(
        commands < 200.0 && input < 100_000.0 && output < 200_000.0,
        "quiet documents flood Redis"
    );
}
