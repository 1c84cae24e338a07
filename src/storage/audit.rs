//! Fitting names into the columns of the audit trail.

use sha2::{Digest, Sha256};

/// Longest client id the columns take, in characters.
const CLIENT_ID_CHARS_MAX: usize = 255;

/// A client id of at most 255 characters: the tail of a longer one is replaced by its hash.
pub(super) fn client_id(id: &str) -> String {
    const HASH_CHARS: usize = 32;
    if id.chars().count() <= CLIENT_ID_CHARS_MAX {
        return cut(id, CLIENT_ID_CHARS_MAX);
    }
    let hash: String = Sha256::digest(id).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}{}", cut(id, CLIENT_ID_CHARS_MAX - HASH_CHARS), &hash[..HASH_CHARS])
}

/// At most `chars` characters, and none that a text column cannot hold.
pub(super) fn cut(text: &str, chars: usize) -> String {
    text.chars()
        .take(chars)
        .map(|char| if char == '\0' { '\u{fffd}' } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ids_stay_different() {
        let (a, b) = ("x".repeat(255) + "a", "x".repeat(255) + "b");
        assert_ne!(client_id(&a), client_id(&b));
        assert_eq!(client_id(&a).chars().count(), 255);
        assert_eq!(client_id("ab\0"), "ab\u{fffd}");
        assert_eq!(cut("äöü", 2), "äö");
    }
}
