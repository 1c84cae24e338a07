//! Field names as they stand in JSON: escaped, between quotes.
//!
//! A document keeps only this form, because it is what every message and the state need. Escaping is deterministic and
//! injective, so two names are equal exactly when their escaped forms are, and lookups compare those.

use std::borrow::Cow;
use std::sync::Arc;

/// The JSON string for `name`, quotes included.
pub fn json_key(name: &str) -> Arc<str> {
    quoted(&escape(name))
}

/// The name a [`json_key`] stands for.
pub fn name_of_key(key: &str) -> Cow<'_, str> {
    if key.contains('\\') {
        Cow::Owned(serde_json::from_str(key).expect("a key is a JSON string made by json_key"))
    } else {
        Cow::Borrowed(inner(key))
    }
}

/// The escaped text between the quotes of a key.
pub(super) fn inner(key: &str) -> &str {
    &key[1..key.len() - 1]
}

pub(super) fn quoted(escaped: &str) -> Arc<str> {
    let mut key = String::with_capacity(escaped.len() + 2);
    key.push('"');
    key.push_str(escaped);
    key.push('"');
    Arc::from(key)
}

/// Escapes what RFC 8259 §7 demands and nothing else. Almost no name needs it, so the usual cost is one scan.
pub(super) fn escape(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        return Cow::Borrowed(name);
    }
    let json = serde_json::to_string(name).expect("a string always encodes");
    Cow::Owned(inner(&json).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_that_looks_escaped_is_not_the_name_it_would_escape_to() {
        assert_ne!(json_key("a\""), json_key("a\\\""));
        assert_eq!(&*json_key("a\""), r#""a\"""#);
    }

    proptest! {
        #[test]
        fn a_key_is_json_and_gives_the_name_back(name in any::<String>()) {
            let key = json_key(&name);
            prop_assert_eq!(&serde_json::from_str::<String>(&key).unwrap(), &name);
            prop_assert_eq!(name_of_key(&key), name);
        }
    }
}
