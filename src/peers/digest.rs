//! A number that tells whether two nodes hold the same document (docs/protocol.md §19.3).
//!
//! It is a sum over what the document holds, so no order is needed and nothing is sorted. Deletions do not count: nodes
//! forget them at their own pace, and a deletion that one node has missed shows by the field that is still there.

use crate::document::SavedRecord;
use crate::document::counters::SavedCounters;
use crate::document::sets::SavedElement;

/// A digest in the making.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes parts, each with its length, so that they do not run together.
#[derive(Clone, Copy)]
struct Mixer(u64);

impl Mixer {
    fn of(kind: u64) -> Mixer {
        Mixer(kind.wrapping_mul(MULTIPLIER))
    }

    fn number(self, number: u64) -> Mixer {
        let product = u128::from(self.0 ^ number ^ 0x2545_f491_4f6c_dd1d) * u128::from(MULTIPLIER);
        Mixer((product as u64 ^ (product >> 64) as u64).wrapping_add(0xd1b5_4a32_d192_ed03))
    }

    fn bytes(self, bytes: &[u8]) -> Mixer {
        let mut mixer = self.number(bytes.len() as u64);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            mixer = mixer.number(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        mixer.number(u64::from_le_bytes(last))
    }
}

impl Digest {
    /// The number; 0 if there is nothing.
    pub fn value(self) -> u64 {
        self.0
    }

    fn add(&mut self, mixer: Mixer) {
        self.0 = self.0.wrapping_add(mixer.number(MULTIPLIER).0);
    }

    /// A field, unless it is deleted.
    pub fn record(&mut self, record: &SavedRecord) {
        let Some(value) = &record.value else { return };
        let writer = record.writer.as_deref().unwrap_or_default();
        let mixer = Mixer::of(1).bytes(record.key.as_bytes()).bytes(value);
        let mixer = mixer.number(record.timestamp_ms).number(record.lam).number(record.own);
        self.add(mixer.bytes(writer.as_bytes()));
    }

    /// The text, as its canonical JSON. The clock at its end does not count: it is only what somebody has claimed.
    pub fn text(&mut self, json: &str) {
        let json = json.rfind(",\"clock\":").map_or(json, |end| &json[..end]);
        self.add(Mixer::of(2).bytes(json.as_bytes()));
    }

    /// A member of the set; nothing for a value that was removed.
    pub fn element(&mut self, element: &SavedElement) {
        if element.removed_at_ms.is_none() {
            self.add(Mixer::of(3).bytes(element.value.as_bytes()).number(element.lam));
        }
    }

    /// The counter.
    pub fn counters(&mut self, counters: &SavedCounters) {
        let others = [("", &counters.others)];
        let accounts = counters.totals.iter().map(|(account, total)| (&**account, total));
        for (account, total) in accounts.chain(others) {
            // Either zero is nothing.
            let (increments, decrements) = (total.increments + 0.0, total.decrements + 0.0);
            if increments != 0.0 || decrements != 0.0 {
                let mixer = Mixer::of(4).bytes(account.as_bytes());
                self.add(mixer.number(increments.to_bits()).number(decrements.to_bits()));
            }
        }
    }

    /// A presence entry of one node.
    pub fn presence(&mut self, client_id: &str, clock: u64, state: &[u8]) {
        self.add(Mixer::of(5).bytes(client_id.as_bytes()).number(clock).bytes(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::json_key;
    use std::sync::Arc;

    fn record(name: &str, value: Option<&str>, lam: u64) -> SavedRecord {
        SavedRecord {
            key: json_key(name),
            value: value.map(|value| Arc::from(value.as_bytes())),
            timestamp_ms: 5,
            lam,
            writer: None,
            own: 0,
            deleted_at_ms: 0,
        }
    }

    fn of(records: &[SavedRecord]) -> u64 {
        let mut digest = Digest::default();
        records.iter().for_each(|record| digest.record(record));
        digest.value()
    }

    #[test]
    fn order_and_deletions_do_not_count_and_everything_else_does() {
        let (a, b) = (record("a", Some("1"), 1), record("b", Some("2"), 2));
        assert_eq!(
            of(&[a.clone(), b.clone()]),
            of(&[b.clone(), a.clone(), record("c", None, 3)])
        );
        let others = [
            record("a", Some("2"), 1),
            record("a", Some("1"), 2),
            record("b", Some("1"), 1),
            record("a", Some("1 "), 1),
        ];
        for other in others {
            assert_ne!(of(std::slice::from_ref(&a)), of(&[other]));
        }
        assert_eq!(of(&[]), 0);
        let (zeroes, nothing) = (Mixer::of(1).bytes(b"\0"), Mixer::of(1).bytes(b""));
        assert_ne!(zeroes.0, nothing.0);
    }
}
