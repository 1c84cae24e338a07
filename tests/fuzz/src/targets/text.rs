//! Text states: both readers agree, what is written can be read, and the fast merge does what the rules say.

use crate::text_client::{Block, Blocks, document_order, parse, to_json};
use crate::text_oracle;
use std::collections::BTreeMap;
use synckit_server::text::{Echo, Incoming, TextLimits, TextState, merge};

const LIMITS: TextLimits = TextLimits {
    state_bytes_max: 16 << 20,
    blocks_max: 40,
    client_id_bytes_max: 12,
};

/// A state as it comes from a client: any text.
pub fn text_state(data: &[u8]) {
    let Ok(json) = std::str::from_utf8(data) else {
        return;
    };
    let read = Incoming::parse(json, &LIMITS, 7);
    // White space in front is nothing to the general reader and too much for the fast one.
    let lenient = Incoming::parse(&format!(" {json}"), &LIMITS, 7);
    assert_eq!(
        read.is_ok(),
        lenient.is_ok(),
        "{:?} against {:?}",
        read.err(),
        lenient.err()
    );
    let (Ok(read), Ok(lenient)) = (read, lenient) else {
        return;
    };
    assert_eq!(read.visible_text(), lenient.visible_text());
    let state = merge(None, &read).state;
    let written = state.to_json();
    assert_eq!(written, merge(None, &lenient).state.to_json());
    assert_eq!(written.len(), state.json_bytes());
    let again = TextState::from_json(&written).expect("what was written can be read");
    assert_eq!(again.to_json(), written);
    let merged = merge(Some(&state), &read);
    assert!(!merged.changed && merged.collisions == 0, "idempotent");
    assert_eq!(merged.state.to_json(), written);
    assert_eq!(state.visible_text(), text_of(&written));
    assert!(state.block_count() <= 2 * LIMITS.blocks_max);
}

/// Bytes that choose.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn is_done(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    /// A number below `bound`, which is at most 256.
    fn below(&mut self, bound: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte) % bound)
    }
}

/// Several states, built from choices so that each passes the checks, merged one after the other; every merge is held
/// against the transcription of the rules.
pub fn text_merge(data: &[u8]) {
    let mut choices = Choices(data.iter());
    let mut stored = TextState::default();
    // What `stored` says: each time it is written it must read like this.
    let (mut before, mut clock) = (Blocks::new(), 0);
    for _ in 0..5 {
        if choices.is_done() {
            return;
        }
        let (blocks, incoming_clock) = state(&mut choices);
        let json = to_json(&blocks, incoming_clock, "someone");
        let incoming = Incoming::parse(&json, &TextLimits::default(), 0).expect("built to be valid");
        assert_eq!(incoming.visible_text(), shown(&blocks));
        let expected = text_oracle::merge(&before, &blocks);
        let merged = merge(Some(&stored), &incoming);
        let highest = expected.blocks.keys().map(|id| id.0).max().unwrap_or(0);
        clock = clock.max(incoming_clock).max(highest);
        let written = merged.state.to_json();
        assert_eq!(written, to_json(&expected.blocks, clock, "server"));
        assert_eq!(merged.state.json_bytes(), written.len());
        assert_eq!(merged.changed, expected.changed);
        assert_eq!(merged.echo != Echo::None, expected.echo);
        assert_eq!(merged.collisions, expected.collisions);
        (stored, before) = (merged.state, expected.blocks);
        assert_eq!(stored.visible_text(), shown(&before));
    }
}

/// What the model client shows of a state.
fn text_of(json: &str) -> String {
    shown(&parse(json).0)
}

fn shown(blocks: &Blocks) -> String {
    let order = document_order(blocks);
    let live = order.iter().filter(|id| !blocks[*id].deleted);
    live.flat_map(|id| &blocks[id].text).map(String::as_str).collect()
}

/// Few clients and few values, so that ids collide and blocks nest.
fn state(choices: &mut Choices<'_>) -> (Blocks, u64) {
    const CLIENTS: [&str; 4] = ["a", "B", "c\"", "é"];
    const TEXTS: [&str; 5] = ["x", "y", "🇩🇪", "\r\n", "ж"];
    let mut blocks = Blocks::new();
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    for _ in 0..choices.below(9) {
        let client = CLIENTS[choices.below(4)];
        let shape = choices.below(256);
        let first = next.get(client).copied().unwrap_or(1) + (shape % 5) as u64;
        let text: Vec<String> = (0..1 + shape / 5 % 4).map(|_| TEXTS[choices.below(5)].into()).collect();
        let last = first + text.len() as u64 - 1;
        next.insert(client, last + 1);
        let mut origin = |known: bool| {
            let (at, of) = if known {
                (choices.below(256), choices.below(4))
            } else {
                (0, 0)
            };
            known.then(|| (at as u64 % first, CLIENTS[of].to_owned()))
        };
        let block = Block {
            text,
            left: origin(shape / 20 % 2 == 1),
            right: origin(shape / 40 % 2 == 1),
            deleted: shape / 80 % 2 == 1,
        };
        blocks.insert((last, client.to_owned()), block);
    }
    (blocks, choices.below(100) as u64)
}
