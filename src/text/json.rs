//! Writes the canonical compact form, byte for byte what the clients' own serialiser would write.

use super::blocks::{Block, Blocks, Origin};

const HEAD: &str = "{\"blocks\":[";
const CLOCK: &str = "],\"clock\":{\"value\":";
const TAIL: &str = "},\"client_id\":\"server\"}";

pub(super) fn write(blocks: &Blocks, clock: u64) -> String {
    let names = names(blocks);
    let mut numbers = itoa::Buffer::new();
    let mut out = String::with_capacity(bytes_with(blocks, &names, clock));
    out.push_str(HEAD);
    for (number, block) in blocks.list.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        out.push('[');
        let key_start = out.len();
        write_id(&mut out, &names, Origin::new(block.client, block.last), &mut numbers);
        let key_end = out.len();
        out.push_str(",{\"id\":");
        out.extend_from_within(key_start..key_end);
        out.push_str(",\"text\":\"");
        escape(&mut out, block.text(&blocks.text));
        out.push_str("\",\"left_origin\":");
        write_id(&mut out, &names, block.left, &mut numbers);
        out.push_str(",\"right_origin\":");
        write_id(&mut out, &names, block.right, &mut numbers);
        out.push_str(if block.deleted {
            ",\"deleted\":true}]"
        } else {
            ",\"deleted\":false}]"
        });
    }
    out.push_str(CLOCK);
    out.push_str(numbers.format(clock));
    out.push_str(TAIL);
    out
}

/// The length of what [`write()`] returns.
pub(super) fn bytes(blocks: &Blocks, clock: u64) -> usize {
    bytes_with(blocks, &names(blocks), clock)
}

fn bytes_with(blocks: &Blocks, names: &[String], clock: u64) -> usize {
    let id_bytes = |origin: Origin| match origin.known() {
        Some((client, clock)) => names[client as usize].len() + digits(clock) + ",\"offset\":0}".len(),
        None => "null".len(),
    };
    let block_bytes = |block: &Block| {
        let frame = "[,{\"id\":,\"text\":\"\",\"left_origin\":,\"right_origin\":,\"deleted\":true}]".len();
        let text: usize = block.text(&blocks.text).bytes().map(escaped_bytes).sum();
        let ids = 2 * id_bytes(Origin::new(block.client, block.last)) + id_bytes(block.left) + id_bytes(block.right);
        frame + usize::from(!block.deleted) + text + ids
    };
    let list: usize = blocks.list.iter().map(block_bytes).sum();
    list + blocks.list.len().saturating_sub(1) + HEAD.len() + CLOCK.len() + digits(clock) + TAIL.len()
}

/// The constant first part of an ID for each client.
fn names(blocks: &Blocks) -> Vec<String> {
    let name = |id: &str| {
        let mut name = String::from("{\"client_id\":\"");
        escape(&mut name, id);
        name.push_str("\",\"clock\":");
        name
    };
    blocks.clients.iter().map(|id| name(id)).collect()
}

fn write_id(out: &mut String, names: &[String], origin: Origin, numbers: &mut itoa::Buffer) {
    match origin.known() {
        Some((client, clock)) => {
            out.push_str(&names[client as usize]);
            out.push_str(numbers.format(clock));
            out.push_str(",\"offset\":0}");
        }
        None => out.push_str("null"),
    }
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

fn escape(out: &mut String, text: &str) {
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if escaped_bytes(byte) == 1 {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push_str("\\u00");
                out.push(HEX[usize::from(byte >> 4)] as char);
                out.push(HEX[usize::from(byte & 15)] as char);
            }
        }
    }
    out.push_str(&text[plain..]);
}

fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | 0x08 | 0x0c | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}
