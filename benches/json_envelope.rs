//! What reading the envelope of a message costs: the slice reader of `json` beside a simd-json tape and a serde_json map
//! of raw values, on messages as clients send them. `cargo bench --bench json_envelope`
//!
//! The tape gives no slices of the source text, so with it every field value would have to be encoded again; that cost is
//! not even counted here.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;
use synckit_server::json;
use synckit_server::protocol::Fields;

fn messages() -> Vec<(&'static str, String)> {
    let delta =
        r#"{"type":"delta","id":"m3","timestamp":1700000000000,"documentId":"room:1","delta":{"title":"hello","n":1}}"#;
    let element = r#"{"type":"set","documentId":"room:1","field":"title","value":"hello world","clock":{"client-mc3x9k2a-7h1q0zb4t":13},"clientId":"client-mc3x9k2a-7h1q0zb4t","timestamp":1700000000000}"#;
    let batch = format!(r#"{{"documentId":"room:1","deltas":[{element}],"messageId":"msg-mwzrs9hf-j2itaqmgnoi"}}"#);
    let elements = vec![element; 50].join(",");
    let large = format!(r#"{{"documentId":"room:1","deltas":[{elements}],"messageId":"msg-mwzrs9hf-j2itaqmgnoi"}}"#);
    vec![
        ("delta, 111 B", delta.to_owned()),
        ("batch of 1, 265 B", batch),
        ("batch of 50, 10 kB", large),
    ]
}

/// Nanoseconds of one call, the best of several rounds.
fn measure(mut call: impl FnMut()) -> f64 {
    let rounds = (0..9).map(|_| {
        let began = Instant::now();
        (0..20_000).for_each(|_| call());
        began.elapsed().as_nanos() as f64 / 20_000.0
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn main() {
    println!(
        "{:<20} {:>12} {:>16} {:>16}",
        "nanoseconds", "json (ours)", "simd-json tape", "serde_json raw"
    );
    for (name, text) in messages() {
        let bytes = text.as_bytes();
        let ours = measure(|| {
            let value = json::validate(black_box(bytes)).expect("valid");
            black_box(Fields::read(value));
        });
        let mut buffers = simd_json::Buffers::default();
        let mut copy = Vec::with_capacity(bytes.len());
        let tape = measure(|| {
            copy.clear();
            copy.extend_from_slice(black_box(bytes));
            black_box(simd_json::to_tape_with_buffers(&mut copy, &mut buffers).expect("valid"));
        });
        let raw = measure(|| {
            let map: HashMap<&str, &serde_json::value::RawValue> =
                serde_json::from_slice(black_box(bytes)).expect("valid");
            black_box(map);
        });
        println!("{name:<20} {ours:>12.0} {tape:>16.0} {raw:>16.0}");
    }
}
