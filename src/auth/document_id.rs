//! Which document ids exist (docs/protocol.md §5.2 checks 2 to 5).

use crate::config::DocumentPolicy;

/// Longest document id, in characters.
pub const DOCUMENT_ID_CHARS_MAX: usize = 256;

/// Why a document id is refused. The peer's fault; the connection stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentIdError {
    /// Missing, empty or no string.
    #[error("Invalid document ID")]
    Missing,
    /// Longer than [`DOCUMENT_ID_CHARS_MAX`].
    #[error("Document ID too long")]
    TooLong,
    /// Something outside `A-Z a-z 0-9 _ : -`.
    #[error("Document ID contains invalid characters")]
    InvalidCharacters,
    /// Outside the configured policy.
    #[error("Access denied to this document")]
    NotAllowed,
}

impl DocumentIdError {
    /// The text for the peer; connections that say `docId` expect other words for two of them.
    pub fn text(self, doc_id_naming: bool) -> &'static str {
        match (self, doc_id_naming) {
            (Self::Missing, false) => "Invalid document ID",
            (Self::Missing, true) => "Missing docId",
            (Self::TooLong, false) => "Document ID too long",
            (Self::TooLong, true) => "Document ID too long (max 256 characters)",
            (Self::InvalidCharacters, _) => "Document ID contains invalid characters",
            (Self::NotAllowed, _) => "Access denied to this document",
        }
    }

    /// The code for the peer.
    pub fn code(self, doc_id_naming: bool) -> &'static str {
        match (self, doc_id_naming) {
            (Self::Missing, true) => "INVALID_REQUEST",
            (Self::NotAllowed, _) => "ACCESS_DENIED",
            _ => "INVALID_DOCUMENT_ID",
        }
    }
}

/// Which bytes an id may hold.
const ALLOWED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-');
        byte += 1;
    }
    table
};

/// Checks presence, length and characters, in this order.
pub fn check_document_id(id: &str) -> Result<(), DocumentIdError> {
    if id.is_empty() {
        return Err(DocumentIdError::Missing);
    }
    // Characters are counted only when the bytes do not settle it: a valid id is ASCII.
    if id.len() > DOCUMENT_ID_CHARS_MAX && id.chars().count() > DOCUMENT_ID_CHARS_MAX {
        return Err(DocumentIdError::TooLong);
    }
    if id.bytes().all(|byte| ALLOWED[usize::from(byte)]) {
        Ok(())
    } else {
        Err(DocumentIdError::InvalidCharacters)
    }
}

/// Shortest number that the demo list takes for a document made from a time stamp.
const DEMO_NUMBER_DIGITS_MIN: usize = 13;

/// Whether the policy lets clients use `id` (§8.3).
pub fn allowed_by(policy: DocumentPolicy, id: &str) -> Result<(), DocumentIdError> {
    let demo = || {
        let (first, has_rest) = id.split_once(':').map_or((id, false), |(first, _)| (first, true));
        let number = first.len() >= DEMO_NUMBER_DIGITS_MIN && first.bytes().all(|b| b.is_ascii_digit());
        match first {
            "playground" | "wordwall" => true,
            "room" | "proom" => has_rest,
            _ => number,
        }
    };
    if policy == DocumentPolicy::Open || demo() {
        Ok(())
    } else {
        Err(DocumentIdError::NotAllowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_checked_in_the_documented_order() {
        assert_eq!(check_document_id("Az09_:-"), Ok(()));
        assert_eq!(check_document_id(&"a".repeat(256)), Ok(()));
        assert_eq!(check_document_id(""), Err(DocumentIdError::Missing));
        assert_eq!(check_document_id(&" ".repeat(257)), Err(DocumentIdError::TooLong));
        assert_eq!(
            check_document_id(&"é".repeat(200)),
            Err(DocumentIdError::InvalidCharacters)
        );
        for bad in ["a b", "a\n", "a/b", "a.b", "é", "\u{0}"] {
            assert_eq!(
                check_document_id(bad),
                Err(DocumentIdError::InvalidCharacters),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn texts_follow_the_naming_of_the_connection() {
        assert_eq!(DocumentIdError::Missing.text(true), "Missing docId");
        assert_eq!(DocumentIdError::Missing.code(true), "INVALID_REQUEST");
        assert_eq!(DocumentIdError::Missing.code(false), "INVALID_DOCUMENT_ID");
        assert_eq!(DocumentIdError::NotAllowed.code(true), "ACCESS_DENIED");
        assert_eq!(
            DocumentIdError::TooLong.to_string(),
            DocumentIdError::TooLong.text(false)
        );
    }

    #[test]
    fn the_demo_policy_knows_its_list() {
        let demo = |id| allowed_by(DocumentPolicy::Demo, id).is_ok();
        for good in [
            "playground",
            "playground:x",
            "wordwall",
            "wordwall:1",
            "room:a",
            "proom:a",
            "1700000000000",
            "1700000000000:x",
        ] {
            assert!(demo(good), "{good}");
        }
        for bad in [
            "playgrounds",
            "room",
            "rooms:a",
            "170000000000",
            "170000000000x:1",
            "x:1700000000000",
            "doc1",
        ] {
            assert!(!demo(bad), "{bad}");
        }
        assert!(allowed_by(DocumentPolicy::Open, "doc1").is_ok());
    }

    proptest! {
        #[test]
        fn the_check_agrees_with_its_regular_expression(id in "[ -~é\n]{0,300}") {
            let plain = id.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
            let wanted = !id.is_empty() && id.chars().count() <= 256 && plain;
            prop_assert_eq!(check_document_id(&id).is_ok(), wanted);
        }
    }
}
