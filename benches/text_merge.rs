//! What a batch of keystrokes costs the core that owns a text: parse, merge, serialise. Run with
//! `cargo bench --bench text_merge`; prints the median of each step in nanoseconds. Wall time is a report, not a test.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;
use synckit_server::text::{Incoming, TextLimits, TextState, merge};

const RUNS: usize = 41;

fn main() {
    for blocks in [100, 1_000, 10_000] {
        measure(blocks);
    }
}

fn measure(blocks: u64) {
    let limits = TextLimits::default();
    let json = state(blocks, "");
    // The same state in the layout of another serialiser, for the general reader.
    let spaced = format!(" {json}");
    println!("{blocks} blocks, {} bytes", json.len());
    let incoming = Incoming::parse(&json, &limits, 0).expect("valid");
    let stored = merge(None, &incoming).state;
    let parse = |json: &str| Incoming::parse(json, &limits, blocks).expect("valid");

    report("parse", || parse(&json));
    report("parse, other layout", || parse(&spaced));
    report("merge, first state", || merge(None, &incoming));
    report("merge, equal", || merge(Some(&stored), &incoming));
    let typed = parse(&state(blocks + 1, ""));
    report("merge, one key typed", || merge(Some(&stored), &typed));
    let deleted = parse(&json.replacen("\"deleted\":false", "\"deleted\":true", 1));
    report("merge, one key deleted", || merge(Some(&stored), &deleted));
    let pasted = parse(&state(blocks, "client-mc3x9zzz-k2v8sd01e"));
    report("merge, nothing in common", || merge(Some(&stored), &pasted));
    report("serialise", || stored.to_json());
    report("visible text", || stored.visible_text());
    report("whole: parse, merge equal, serialise", || {
        merge(Some(&stored), &parse(&json)).state.to_json()
    });
    println!("in memory: {} bytes", TextState::memory_bytes(&stored));
}

/// One block per keystroke, as typed at the end of a text.
fn state(blocks: u64, client: &str) -> String {
    let client = if client.is_empty() {
        "client-mc3x9k2a-7h1q0zb4t"
    } else {
        client
    };
    let id = |clock: u64| format!("{{\"client_id\":\"{client}\",\"clock\":{clock},\"offset\":0}}");
    let mut out = String::from("{\"blocks\":[");
    for clock in 1..=blocks {
        let comma = if clock > 1 { "," } else { "" };
        let left = if clock > 1 { id(clock - 1) } else { "null".into() };
        let letter = char::from(b'a' + (clock % 26) as u8);
        write!(
            out,
            "{comma}[{0},{{\"id\":{0},\"text\":\"{letter}\",\"left_origin\":{left},\"right_origin\":null,\"deleted\":false}}]",
            id(clock)
        )
        .expect("writing to a string cannot fail");
    }
    write!(out, "],\"clock\":{{\"value\":{blocks}}},\"client_id\":\"{client}\"}}").expect("as above");
    out
}

fn report<T>(name: &str, mut run: impl FnMut() -> T) {
    let mut times: Vec<u128> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            black_box(run());
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    println!("  {name:<38} {:>12} ns", times[RUNS / 2]);
}
