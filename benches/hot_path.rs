//! What each step of the hot path takes: a frame, a message, a field, an encoding, a fan-out, a hop between shards.
//! `cargo bench --bench hot_path`, one step with `cargo bench --bench hot_path -- fan-out`. No sockets: system calls cost
//! several times all of this. Wall time is a report, never a test; `tests/instruction_counts.rs` is the test.

#[path = "../tests/support/bare_shard.rs"]
mod bare_shard;

use bare_shard::{BareShard, QUIET_US, delta, text_frame};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use synckit_server::document::{Document, Limits, Write};
use synckit_server::handler::Handler;
use synckit_server::ids::{SessionRef, ShardId, Slot};
use synckit_server::protocol::{Encoder, Kind, MessageId, Style, parse};
use synckit_server::shard::Shard;
use synckit_server::text::{Incoming, TextLimits, merge};
use synckit_server::websocket::Decoder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const UNIX_MS: u64 = 1_760_000_000_000;

/// Decodes all frames of one read.
fn decode(bytes: &mut [u8]) {
    let mut partial = None;
    let mut decoder = Decoder::new(&mut partial, bytes, usize::MAX);
    while let Some(event) = decoder.next().expect("valid frames") {
        black_box(&event);
    }
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    let sixteen: Vec<u8> = (0..16).flat_map(|number| text_frame(&delta("room", number))).collect();
    group.throughput(Throughput::Elements(16));
    group.bench_function("parse 16 of 150 B", |bencher| {
        bencher.iter_batched_ref(|| sixteen.clone(), |bytes| decode(bytes), BatchSize::SmallInput);
    });
    // One large frame: little but unmasking and the check for UTF-8.
    let large = text_frame(&"x".repeat(16 * 1024));
    group.throughput(Throughput::Bytes(large.len() as u64));
    group.bench_function("unmask 16 KiB", |bencher| {
        bencher.iter_batched_ref(|| large.clone(), |bytes| decode(bytes), BatchSize::SmallInput);
    });
    group.finish();
}

fn messages(criterion: &mut Criterion) {
    let json = delta("room", 1);
    criterion.bench_function("message/decode JSON delta", |bencher| {
        bencher.iter(|| parse(black_box(json.as_bytes()), true).is_ok());
    });
    let element = r#"{"type":"set","documentId":"room","field":"title","value":"hello","clock":{"client-a":13},"clientId":"client-a","timestamp":1700000000000}"#;
    let payload = format!(r#"{{"documentId":"room","deltas":[{element}],"messageId":"msg-1"}}"#);
    let mut binary = vec![0x50];
    binary.extend_from_slice(&UNIX_MS.to_be_bytes());
    binary.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    binary.extend_from_slice(payload.as_bytes());
    criterion.bench_function("message/decode binary delta_batch", |bencher| {
        bencher.iter(|| parse(black_box(&binary), false).is_ok());
    });
    let mut encoder = Encoder::default();
    let mut frame = Vec::with_capacity(512);
    criterion.bench_function("message/encode delta", |bencher| {
        bencher.iter(|| {
            frame.clear();
            let id = MessageId::Made {
                unix_ms: UNIX_MS,
                shard: 0,
                serial: 7,
            };
            encoder.begin(Style::JSON, Kind::Delta, UNIX_MS, id);
            encoder.document(Style::JSON, "room");
            encoder.raw("field", b"\"title\"");
            encoder.raw("value", b"\"hello\"");
            encoder.clock("clock", UNIX_MS, None);
            encoder.raw("clientId", b"\"server\"");
            encoder.finish(Style::JSON, Kind::Delta, UNIX_MS, &mut frame);
            black_box(frame.len())
        });
    });
}

fn documents(criterion: &mut Criterion) {
    let session = SessionRef::new(ShardId(0), Slot(1), 0);
    for fields in [10, 10_000] {
        let mut document = Document::new("room", UNIX_MS);
        let names: Vec<String> = (0..fields).map(|field| format!("field-{field}")).collect();
        let values: Vec<String> = (0..1000).map(|value| format!("\"value {value}\"")).collect();
        let mut at = 0;
        criterion.bench_function(&format!("field/apply, {fields} fields"), |bencher| {
            bencher.iter(|| {
                at += 1;
                let write = Write::Plain {
                    name: &names[at * 7 % fields],
                    value: values[at % 1000].as_bytes(),
                };
                let verdict = document.write(UNIX_MS, session, write);
                if at % 16 == 0 {
                    black_box(document.flush(&Limits::default()));
                }
                verdict
            });
        });
    }
}

fn texts(criterion: &mut Criterion) {
    let limits = TextLimits::default();
    let id = |clock: u64| format!(r#"{{"client_id":"client-a","clock":{clock},"offset":0}}"#);
    let block = |clock: u64| {
        let left = if clock > 1 { id(clock - 1) } else { "null".to_owned() };
        let rest = format!(r#""text":"x","left_origin":{left},"right_origin":null,"deleted":false"#);
        format!(r#"[{0},{{"id":{0},{rest}}}]"#, id(clock))
    };
    let state = |keys: u64| {
        let blocks: Vec<String> = (1..=keys).map(block).collect();
        let blocks = blocks.join(",");
        format!(r#"{{"blocks":[{blocks}],"clock":{{"value":{keys}}},"client_id":"client-a"}}"#)
    };
    let first = Incoming::parse(&state(1000), &limits, 0).expect("valid");
    let stored = merge(None, &first).state;
    let typed = state(1001);
    criterion.bench_function("text/parse and merge one key, 1,000 blocks", |bencher| {
        bencher.iter(|| merge(Some(&stored), &Incoming::parse(&typed, &limits, 1000).expect("valid")));
    });
}

fn shards(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard");
    let mut shard = BareShard::new();
    let author = shard.subscribe("room");
    let sixteen: Vec<u8> = (0..16).flat_map(|number| text_frame(&delta("room", number))).collect();
    group.throughput(Throughput::Elements(16));
    group.bench_function("16 deltas, acknowledged", |bencher| {
        bencher.iter(|| {
            shard.receive(author, &sixteen);
            shard.turn();
            shard.pass(500);
        });
    });
    for subscribers in [10, 1000] {
        let mut shard = BareShard::new();
        let author = shard.subscribe("room");
        for _ in 0..subscribers {
            shard.subscribe("room");
        }
        let mut number = 0;
        group.throughput(Throughput::Elements(subscribers));
        group.bench_function(format!("fan-out to {subscribers}"), |bencher| {
            bencher.iter(|| {
                number += 1;
                shard.receive(author, &text_frame(&delta("room", number)));
                shard.turn();
                shard.pass(QUIET_US);
            });
        });
    }
    group.throughput(Throughput::Elements(16));
    group.bench_function("16 deltas to another shard and back", |bencher| {
        let mut shards = BareShard::several(2);
        let on = |shard| {
            let names = (0..).map(|number| format!("room-{number}"));
            let mut here = names.filter(move |name| Shard::home_of(name, 2) == ShardId(shard));
            here.next().expect("half of all names")
        };
        let (near, far) = (on(0), on(1));
        let author = shards[0].subscribe(&near);
        let frames: Vec<u8> = (0..16).flat_map(|number| text_frame(&delta(&far, number))).collect();
        bencher.iter(|| {
            shards[0].receive(author, &frames);
            for from in [0, 1, 0] {
                shards[from].turn();
                let mail = std::mem::take(&mut shards[from].mail);
                for (to, letter) in mail {
                    let to = &mut shards[to.index()];
                    to.shard.mail(to.now, ShardId(from as u16), letter);
                }
            }
            shards.iter_mut().for_each(|shard| shard.pass(500));
        });
        assert!(shards[0].sends > 0, "the author heard nothing");
    });
    group.finish();
}

criterion_group!(steps, frames, messages, documents, texts, shards);
criterion_main!(steps);
