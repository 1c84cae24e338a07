//! Which JSON texts a JSONB column gives back with the same meaning, and the wrapping of those it does not
//! (docs/protocol.md §18.2, third trap).
//!
//! JSONB cannot hold U+0000 or lone surrogates, keeps the last of equal member names, and writes numbers its own way. A
//! value with any of these is stored as `{"$synckit:raw": "<base64 of its JSON text>"}`, and so is a value that looks like
//! that already. JSONB also reorders the members of objects and drops white space; both mean nothing in JSON and are left
//! to it, because other servers could not read values that were wrapped for them.
//!
//! Strings (field names, client ids) that JSONB cannot hold become `$synckit:name:<base64>`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

const RAW: &str = "$synckit:raw";
const NAME: &str = "$synckit:name:";

/// Digits of a number that are left to JSONB; its own bounds are far above.
const DIGITS_MAX: usize = 1000;

/// The value (valid JSON) as it stands in a row.
pub fn stored_value(value: &[u8]) -> Cow<'_, [u8]> {
    if survives(value) {
        return Cow::Borrowed(value);
    }
    let mut wrapped = Vec::with_capacity(value.len() * 4 / 3 + 24);
    wrapped.extend_from_slice(b"{\"$synckit:raw\":\"");
    wrapped.extend_from_slice(STANDARD.encode(value).as_bytes());
    wrapped.extend_from_slice(b"\"}");
    Cow::Owned(wrapped)
}

/// The value that stands in a row as `json`: unwrapped, or without white space between its tokens. `None`: it is no JSON
/// that a client could be sent.
pub(super) fn value_of(json: &str) -> Option<Vec<u8>> {
    match unwrapped(json) {
        Some(value) => {
            // Whoever wrapped it may have left white space or a byte order mark around it.
            let text = crate::json::validate(&value).ok()?.text();
            Some(match stored_value(text.as_bytes()) {
                Cow::Borrowed(_) => compact(text),
                Cow::Owned(_) => text.as_bytes().to_vec(),
            })
        }
        None => Some(compact(json)),
    }
}

fn unwrapped(json: &str) -> Option<Vec<u8>> {
    if !json.contains(RAW) {
        return None;
    }
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
    let encoded = members.get(RAW).filter(|_| members.len() == 1)?.as_str()?;
    STANDARD.decode(encoded).ok()
}

fn compact(json: &str) -> Vec<u8> {
    let mut compact = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        compact.push(byte);
    }
    compact
}

/// A name or client id as it stands in a row.
pub(super) fn stored_name(name: &str) -> Cow<'_, str> {
    if name.contains('\0') || name.starts_with(NAME) {
        Cow::Owned(format!("{NAME}{}", STANDARD.encode(name)))
    } else {
        Cow::Borrowed(name)
    }
}

/// The name that stands in a row as `stored`.
pub(super) fn name_of(stored: &str) -> Cow<'_, str> {
    let decoded = stored
        .strip_prefix(NAME)
        .and_then(|encoded| String::from_utf8(STANDARD.decode(encoded).ok()?).ok());
    decoded.map_or(Cow::Borrowed(stored), Cow::Owned)
}

/// Whether JSONB gives the value back with the same meaning.
fn survives(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    if !numbers_survive(value) {
        return false;
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    Survives.deserialize(&mut reader).is_ok() && reader.end().is_ok()
}

/// Whether every number is written as JSONB writes it.
fn numbers_survive(value: &[u8]) -> bool {
    let (mut at, mut in_string) = (0, false);
    while let Some(&byte) = value.get(at) {
        match byte {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'0'..=b'9' if !in_string => {
                let is_part = |byte: &&u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let length = value[at..].iter().take_while(is_part).count();
                if !number_survives(&value[at..at + length]) {
                    return false;
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    true
}

fn number_survives(number: &[u8]) -> bool {
    let is_zero = !number.iter().any(|byte| (b'1'..=b'9').contains(byte));
    let exponent = number.iter().any(|byte| matches!(byte, b'e' | b'E'));
    !exponent && number.len() <= DIGITS_MAX && !(is_zero && number[0] == b'-')
}

/// Walks a value and fails where JSONB would. The parser's own errors count as failures too: lone surrogates, too deep,
/// beyond the doubles.
struct Survives;

impl<'de> DeserializeSeed<'de> for Survives {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Survives {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match text.contains('\0') {
            true => Err(E::custom("U+0000")),
            false => Ok(()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Survives)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if name.contains('\0') || name == RAW {
                return Err(A::Error::custom("a name that must be wrapped"));
            }
            if !names.insert(name) {
                return Err(A::Error::custom("a name twice"));
            }
            members.next_value_seed(Survives)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_jsonb_would_change_is_wrapped() {
        for plain in [
            "null",
            "0",
            "-1",
            "1.50",
            "\"a\"",
            r#"{"b":1,"a":[true,{}]}"#,
            r#""\\u0000""#,
            "123456789012345678901234567890",
            r#""1e5 -0""#,
        ] {
            assert_eq!(stored_value(plain.as_bytes()), plain.as_bytes(), "{plain}");
        }
        for wrapped in [
            "1e5",
            "-0",
            "-0.0",
            "1E-7",
            "1e999",
            r#""\u0000""#,
            r#""\ud800""#,
            r#"{"a":1,"a":2}"#,
            r#"{"\u0000":1}"#,
            r#"[{"$synckit:raw":"eA=="}]"#,
            r#"{"$synckit:raw":"MQ=="}"#,
        ] {
            let stored = stored_value(wrapped.as_bytes()).into_owned();
            assert_ne!(stored, wrapped.as_bytes(), "{wrapped}");
            let stored = String::from_utf8(stored).unwrap();
            assert_eq!(value_of(&stored).unwrap(), wrapped.as_bytes(), "{wrapped}");
        }
    }

    #[test]
    fn a_wrapping_that_is_none_is_a_value() {
        for odd in [
            r#"{"$synckit:raw":1}"#,
            r#"{"$synckit:raw":"*"}"#,
            r#"{"$synckit:raw":"MQ==","x":1}"#,
        ] {
            assert_eq!(value_of(odd).unwrap(), odd.as_bytes());
        }
        assert_eq!(value_of(r#"{"$synckit:raw":"e30="}"#).unwrap(), b"{}");
        assert_eq!(
            value_of(r#"{"$synckit:raw":"ew=="}"#),
            None,
            "half an object would break every message it stands in"
        );
    }

    proptest! {
        #[test]
        fn names_come_back(name in "(\\$synckit:name:)?[a\u{0}é]{0,4}") {
            let stored = stored_name(&name).into_owned();
            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(name_of(&stored), name);
        }

        #[test]
        fn white_space_goes_and_nothing_else(text: String, number: i64) {
            let text = serde_json::to_string(&text).unwrap();
            let spaced = format!(" {{ {text} :\t[ {number} , {text}\n ] }} ");
            prop_assert_eq!(value_of(&spaced).unwrap(), format!("{{{text}:[{number},{text}]}}").into_bytes());
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let stored = stored_value(&bytes).into_owned();
            if let Ok(text) = std::str::from_utf8(&stored) {
                let _ = value_of(text);
            }
        }
    }
}
