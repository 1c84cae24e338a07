//! Large parts of messages, compressed once for all who get them.
//!
//! A text state, a snapshot or a large value is the same bytes for every receiver; what surrounds it differs. Its
//! compressed form is kept to the end of the turn and found again by the place of the original bytes, which is sound
//! because a copy of their handle is kept too.

use crate::protocol::{Encoder, Kind, Style};
use crate::session::outbox::{Origin, Outbox};
use crate::websocket::deflate::DEFLATED_BYTES_MIN;
use bytes::Bytes;
use smallvec::SmallVec;

/// Parts that are remembered at a time; the oldest goes first.
const PARTS_MAX: usize = 16;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Parts {
    kept: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    plain: Bytes,
    narrow: bool,
    deflated: Bytes,
}

impl Parts {
    /// Forgets everything; at the end of every turn.
    pub fn clear(&mut self) {
        if !self.kept.is_empty() {
            self.kept = Vec::new();
        }
    }

    /// Queues a message around shared parts as one compressed frame. `false`: nothing was queued, because its parts are
    /// small or would not shrink.
    pub fn push_around(
        &mut self,
        encoder: &mut Encoder,
        (style, kind, unix_ms): (Style, Kind, u64),
        parts: &[(&'static [u8], &Bytes)],
        tail: &[u8],
        outbox: &mut Outbox,
    ) -> bool {
        if parts.iter().all(|(_, part)| part.len() < DEFLATED_BYTES_MIN) {
            return false;
        }
        let deflated: SmallVec<[Bytes; 4]> = parts.iter().map(|(_, part)| self.of(encoder, style, part)).collect();
        let both: SmallVec<[(&'static [u8], &Bytes, usize); 4]> = parts
            .iter()
            .zip(&deflated)
            .map(|((before, plain), deflated)| (*before, deflated, plain.len()))
            .collect();
        encoder.finish_around((style, kind, unix_ms), &both, tail, |piece, is_shared, is_last| {
            let origin = if is_shared { Origin::Bounded } else { Origin::Owned };
            outbox.push(piece, origin, is_last);
        })
    }

    fn of(&mut self, encoder: &mut Encoder, style: Style, plain: &Bytes) -> Bytes {
        let narrow = style.has(Style::NARROW);
        let is_it = |part: &&Part| {
            part.narrow == narrow && part.plain.as_ptr() == plain.as_ptr() && part.plain.len() == plain.len()
        };
        if let Some(part) = self.kept.iter().find(is_it) {
            return part.deflated.clone();
        }
        let deflated = encoder.deflated_part(style, plain);
        if self.kept.len() == PARTS_MAX {
            self.kept.remove(0);
        }
        self.kept.push(Part {
            plain: plain.clone(),
            narrow,
            deflated: deflated.clone(),
        });
        deflated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_compressed_once_a_turn() {
        let (mut parts, mut encoder) = (Parts::default(), Encoder::default());
        let plain = Bytes::from("again and ".repeat(200));
        let first = parts.of(&mut encoder, Style::DEFLATE, &plain);
        assert!(first.len() < 100);
        let again = parts.of(&mut encoder, Style::DEFLATE.with(Style::JSON), &plain.clone());
        assert_eq!(first.as_ptr(), again.as_ptr(), "every dialect shares it");
        let narrow = parts.of(&mut encoder, Style::DEFLATE.with(Style::NARROW), &plain);
        assert_ne!(first.as_ptr(), narrow.as_ptr());
        parts.clear();
        let later = parts.of(&mut encoder, Style::DEFLATE, &plain);
        assert_ne!(first.as_ptr(), later.as_ptr(), "nothing outlives the turn");
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        let (mut parts, mut encoder) = (Parts::default(), Encoder::default());
        let plain: Vec<Bytes> = (0..2 * PARTS_MAX).map(|_| Bytes::from(vec![b'x'; 600])).collect();
        for part in &plain {
            parts.of(&mut encoder, Style::DEFLATE, part);
        }
        assert_eq!(parts.kept.len(), PARTS_MAX);
    }
}
