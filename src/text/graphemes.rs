//! Characters as the text rules count them: extended grapheme clusters (UAX 29, the tables of `unicode-segmentation`).

use unicode_segmentation::UnicodeSegmentation;

/// Whether the text has a character outside ASCII or a carriage return, which clients place wrongly (rule R3d).
pub(super) fn is_exotic(text: &str) -> bool {
    text.bytes().any(|byte| byte >= 0x80 || byte == b'\r')
}

/// How many characters the text has.
pub(super) fn count(text: &str) -> usize {
    if !is_exotic(text) {
        return text.len();
    }
    let mut chars = 0;
    for c in text.chars() {
        if !stands_alone(c) {
            return text.graphemes(true).count();
        }
        chars += 1;
    }
    chars
}

/// The bytes of the first `characters` characters of the text.
pub(super) fn prefix_bytes(text: &str, characters: usize) -> usize {
    text.graphemes(true).take(characters).map(str::len).sum()
}

/// Code points that never join with each other, so that counting them is counting clusters. Segmenting costs tens of
/// nanoseconds per code point; these ranges cover most European and East Asian text. A text with any other code point
/// is segmented.
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\0'..='\u{c}' | '\u{e}'..='\u{7e}'
        | '\u{c0}'..='\u{24f}'
        | '\u{391}'..='\u{3ff}'
        | '\u{400}'..='\u{481}'
        | '\u{2010}'..='\u{2026}'
        | '\u{3001}'..='\u{3029}'
        | '\u{3041}'..='\u{3096}'
        | '\u{30a1}'..='\u{30fe}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{ff01}'..='\u{ff5e}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_clusters() {
        for (text, count_expected) in [
            ("", 0),
            ("abc", 3),
            ("a\r\nb", 3),
            ("\r\r", 2),
            ("🇩🇪🇫🇷", 2),
            ("👩‍👩‍👧é", 2),
            ("e\u{301}x", 2),
            ("日本語", 3),
        ] {
            assert_eq!(count(text), count_expected, "{text:?}");
        }
    }

    #[test]
    fn shortcut_agrees_with_segmentation() {
        // Clusters form by pairs here (no joiner, no flag, no linker is in the set), so pairs with a neighbour of each
        // kind, on both sides, are the whole proof.
        let alone = || ('\0'..='\u{ffff}').filter(|&c| stands_alone(c));
        let neighbours = ['a', '\n', 'é', 'ж', 'が', '漢', '\u{2014}', '\u{ff21}'];
        for c in alone() {
            for n in neighbours {
                let text = String::from_iter([n, c, n, c, c]);
                assert_eq!(text.graphemes(true).count(), 5, "{text:?}");
            }
        }
    }

    #[test]
    fn prefix_keeps_clusters_whole() {
        assert_eq!(prefix_bytes("a\r\nb", 2), 3);
        assert_eq!(prefix_bytes("🇩🇪🇫🇷", 1), 8);
        assert_eq!(prefix_bytes("ab", 9), 2);
    }
}
