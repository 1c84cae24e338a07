//! Finding the end of plain string content, eight bytes at a time.
//!
//! The word tricks are those of "Bit Twiddling Hacks" (Anderson): a byte of `word ^ pattern` is zero where the pattern
//! stands, and `(x - 0x01…) & !x & 0x80…` marks the first zero byte exactly (bytes behind the first mark may be marked
//! wrongly, which does not matter here).

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Position of the first quote, backslash or control character at or behind `at`; the length of the text if there is
/// none.
#[inline]
pub(super) fn string_content_end(text: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = text.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        let quotes = word ^ (ONES * u64::from(b'"'));
        let backslashes = word ^ (ONES * u64::from(b'\\'));
        // All three patterns are ASCII, so one test of the high bit serves for all of them.
        let borrows = quotes.wrapping_sub(ONES) | backslashes.wrapping_sub(ONES) | word.wrapping_sub(ONES * 0x20);
        let found = borrows & !word & HIGHS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < text.len() && !matches!(text[at], b'"' | b'\\' | 0..=0x1f) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_plain_loop_finds(bytes: Vec<u8>, start in 0usize..8) {
            let start = start.min(bytes.len());
            let plain = bytes[start..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            let plain = plain.map_or(bytes.len(), |at| start + at);
            prop_assert_eq!(string_content_end(&bytes, start), plain);
        }

        #[test]
        fn also_where_special_bytes_are_common(bytes in prop::collection::vec(prop::sample::select(vec![
            b'a', b'"', b'\\', 0x1f, 0x20, 0x21, 0x80, 0xff, 0xa2, 0xdc, b'#', b'!', b']', b'[',
        ]), 0..40)) {
            let plain = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(bytes.len());
            prop_assert_eq!(string_content_end(&bytes, 0), plain);
        }
    }
}
