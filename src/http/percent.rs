//! Percent-decoding of paths and queries (RFC 3986 §2.1).

use std::fmt;

/// A query string. Values are decoded when asked for; it never shows itself, because it may hold a token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Query(String);

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Query(hidden)")
    }
}

impl Query {
    /// The part of a target after its `?`.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The first value of `name`, decoded; `None` when it is absent or not UTF-8.
    pub fn value(&self, name: &str) -> Option<String> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        // Forms write a space as a plus sign, in queries only.
        let decoded = |text: &str| decode(&text.replace('+', " "));
        let mut found = pairs.filter(|(key, _)| *key == name || decoded(key).as_deref() == Some(name));
        decoded(found.next()?.1)
    }
}

/// Replaces `%xx`. A `%` without two hexadecimal digits stays as it is, which browsers do too; `None` when the result is
/// not UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(hex_pair);
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).ok()
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_found_and_decoded() {
        let query = Query::new("a&token=x%2Ey+z&doc=room%3A1&token=second&to%6Ben2=k&bad=%ff");
        assert_eq!(query.value("token").as_deref(), Some("x.y z"));
        assert_eq!(query.value("doc").as_deref(), Some("room:1"));
        assert_eq!(query.value("a").as_deref(), Some(""));
        assert_eq!(query.value("token2").as_deref(), Some("k"));
        assert_eq!(query.value("bad"), None);
        assert_eq!(query.value("none"), None);
        assert_eq!(format!("{query:?}"), "Query(hidden)");
    }

    #[test]
    fn broken_escapes_stay() {
        assert_eq!(decode("100%").as_deref(), Some("100%"));
        assert_eq!(decode("%g1%4").as_deref(), Some("%g1%4"));
        assert_eq!(decode("%41%é").as_deref(), Some("A%é"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", name in "[a-z%+]{0,3}") {
            let _ = Query::new(&text).value(&name);
        }
    }
}
