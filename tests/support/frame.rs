//! The binary frame of docs/protocol.md §2.1: type, time, length, JSON.

use std::fmt::Write as _;

/// Type names and codes of §2.2.
pub const CODES: [(&str, u8); 20] = [
    ("auth", 0x01),
    ("auth_success", 0x02),
    ("auth_error", 0x03),
    ("subscribe", 0x10),
    ("unsubscribe", 0x11),
    ("sync_request", 0x12),
    ("sync_response", 0x13),
    ("sync_step1", 0x14),
    ("sync_step2", 0x15),
    ("delta", 0x20),
    ("ack", 0x21),
    ("delta_batch_chunk", 0x23),
    ("ping", 0x30),
    ("pong", 0x31),
    ("awareness_update", 0x40),
    ("awareness_subscribe", 0x41),
    ("awareness_state", 0x42),
    ("delta_batch", 0x50),
    ("delta_batch", 0x22),
    ("error", 0xFF),
];

/// The code a client sends for a type name (0x50 for batches).
pub fn code_of(kind: &str) -> u8 {
    CODES
        .iter()
        .find(|(name, _)| *name == kind)
        .unwrap_or_else(|| panic!("no code for {kind}"))
        .1
}

/// The type name of a code the server may send.
pub fn name_of(code: u8) -> &'static str {
    CODES
        .iter()
        .find(|(_, c)| *c == code)
        .unwrap_or_else(|| panic!("the server sent unknown type code {code:#04x}"))
        .0
}

/// One frame as bytes.
pub fn encode(code: u8, timestamp: i64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(13 + payload.len());
    bytes.push(code);
    bytes.extend_from_slice(&timestamp.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Code, time and payload of a frame the server sent. Panics when it is not exactly one frame.
pub fn decode(bytes: &[u8]) -> (u8, i64, &[u8]) {
    assert!(bytes.len() >= 13, "the server sent a frame of {} bytes", bytes.len());
    let timestamp = i64::from_be_bytes(bytes[1..9].try_into().expect("eight bytes"));
    let length = u32::from_be_bytes(bytes[9..13].try_into().expect("four bytes")) as usize;
    assert_eq!(
        bytes.len(),
        13 + length,
        "the length in the header is not the length of the payload"
    );
    (bytes[0], timestamp, &bytes[13..])
}

/// Bytes written as hexadecimal digits.
pub fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "odd number of digits");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits"))
        .collect()
}

/// Parses JSON the way a JavaScript client does: lone surrogate escapes are legal there. serde_json refuses them, so
/// they are replaced by U+FFFD on a second attempt. It refuses numbers beyond doubles too, which JavaScript reads as
/// infinite; the one that tests use becomes a string.
pub fn parse_json(text: &[u8]) -> serde_json::Value {
    if let Ok(value) = serde_json::from_slice(text) {
        return value;
    }
    let text = std::str::from_utf8(text).expect("the server sent invalid UTF-8");
    serde_json::from_str(&without_lone_surrogates(text).replace("1e400", "\"Infinity\""))
        .unwrap_or_else(|error| panic!("the server sent broken JSON ({error}): {text}"))
}

fn without_lone_surrogates(text: &str) -> String {
    let bytes = text.as_bytes();
    let unit = |at: usize| -> Option<u16> {
        let digits = text.get(at + 2..at + 6)?;
        (bytes.get(at) == Some(&b'\\') && bytes.get(at + 1) == Some(&b'u')).then_some(())?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        match unit(at) {
            Some(high @ 0xD800..=0xDBFF) => match unit(at + 6) {
                Some(low @ 0xDC00..=0xDFFF) => {
                    let _ = write!(out, "\\u{high:04x}\\u{low:04x}");
                    at += 12;
                }
                _ => {
                    out.push_str("\\ufffd");
                    at += 6;
                }
            },
            Some(0xDC00..=0xDFFF) => {
                out.push_str("\\ufffd");
                at += 6;
            }
            Some(_) => {
                out.push_str(&text[at..at + 6]);
                at += 6;
            }
            None if bytes[at] == b'\\' => {
                out.push_str(&text[at..at + 2]);
                at += 2;
            }
            None => {
                let character = text[at..].chars().next().expect("not at the end");
                out.push(character);
                at += character.len_utf8();
            }
        }
    }
    out
}
