//! One function per fuzz target: it takes arbitrary bytes and panics if a promise is broken. Shared by the libFuzzer
//! binaries (`tests/fuzz`) and by the replay on stable Rust (`tests/fuzz_smoke.rs`).

mod connections;
mod envelopes;
mod http;
mod json;
mod messages;
mod rows;
mod text;
mod websocket;

pub use connections::connections;
pub use envelopes::bus_envelopes;
pub use http::http_head;
pub use json::json_differential;
pub use messages::{binary_message, json_message};
pub use rows::stored_row;
pub use text::{text_merge, text_state};
pub use websocket::websocket;

/// A target's name, as its corpus folder is called, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
#[allow(dead_code, reason = "the libFuzzer binaries name theirs")]
pub const ALL: [Target; 10] = [
    ("http_head", http_head),
    ("websocket", websocket),
    ("binary_message", binary_message),
    ("json_message", json_message),
    ("json_differential", json_differential),
    ("text_state", text_state),
    ("text_merge", text_merge),
    ("stored_row", stored_row),
    ("connections", connections),
    ("bus_envelopes", bus_envelopes),
];

/// Cuts a stream into reads: `recipe` gives their sizes round and round, 0 meaning all the rest.
fn cut(stream: &[u8], recipe: u8) -> Vec<Vec<u8>> {
    let sizes: &[usize] = match recipe % 6 {
        0 => &[usize::MAX],
        1 => &[1],
        2 => &[2, 5, 1],
        3 => &[7],
        4 => &[3, 40],
        _ => &[usize::from(recipe)],
    };
    let (mut rest, mut reads) = (stream, Vec::new());
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (read, later) = rest.split_at((*size).min(rest.len()));
        reads.push(read.to_vec());
        rest = later;
    }
    reads
}
