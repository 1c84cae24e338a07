//! JSON as the hot path needs it: validate once, then hand out slices of the original text.
//!
//! Field values are opaque to the server: they are stored and sent as the bytes the client wrote, never decoded and
//! never re-encoded, so every value a JavaScript client can express (lone surrogates and `\u0000` included) comes back
//! exactly. A tree or tape parser cannot give those bytes back, which is why the envelope of a message is read here;
//! large structures whose content matters (text states, HTTP bodies) go through simd-json and serde.
//!
//! [`validate`] checks the whole text (RFC 8259, at most [`DEPTH_MAX`] levels); everything on [`Raw`] relies on it.

mod grammar;
mod scan;
mod stepwise;
mod write;

pub use grammar::{DEPTH_MAX, JsonError, validate, validate_object};
pub use stepwise::Steps;
pub use write::{write_string, write_u64};

use std::borrow::Cow;
use std::ops::Range;

/// So many members of a message or of an element of a batch are looked at, a hundred times more than any client writes; what
/// has more is refused or ignored. A message that is checked in one turn has no room for as many.
pub const MEMBERS_MAX: usize = 1 << 16;

/// One JSON value inside a text that passed [`validate`], without surrounding white space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    /// The value `null`, for members that are absent.
    pub const NULL: Raw<'static> = Raw("null");

    /// Takes up a slice that was cut out of a validated text earlier, as [`Raw::text`] gave it.
    pub fn from_validated(text: &'a str) -> Raw<'a> {
        debug_assert!(validate(text.as_bytes()).is_ok());
        Raw(text)
    }

    /// The bytes of the value as its author wrote them.
    pub fn text(self) -> &'a str {
        self.0
    }

    /// Takes up a value of a text that was validated in another turn, without looking at it again.
    pub(crate) fn from_kept(text: &'a str) -> Raw<'a> {
        Raw(text)
    }

    fn first(self) -> u8 {
        self.0.as_bytes()[0]
    }

    /// Whether the value is an object.
    pub fn is_object(self) -> bool {
        self.first() == b'{'
    }

    /// Whether the value is a string.
    pub fn is_string(self) -> bool {
        self.first() == b'"'
    }

    /// Whether the value is `null`.
    pub fn is_null(self) -> bool {
        self.first() == b'n'
    }

    /// Whether the value is a number.
    pub fn is_number(self) -> bool {
        matches!(self.first(), b'-' | b'0'..=b'9')
    }

    /// Whether the value is an array.
    pub fn is_array(self) -> bool {
        self.first() == b'['
    }

    /// The members of an object in their order; `None` for other values.
    pub fn members(self) -> Option<Members<'a>> {
        self.is_object().then_some(Members {
            text: self.0,
            position: 1,
        })
    }

    /// The members of an object from a place on that [`Members::position`] gave; `None` for other values.
    pub(crate) fn members_from(self, position: usize) -> Option<Members<'a>> {
        self.is_object().then_some(Members {
            text: self.0,
            position: position.max(1),
        })
    }

    /// The elements of an array in their order; `None` for other values.
    pub fn elements(self) -> Option<Elements<'a>> {
        self.is_array().then_some(Elements {
            text: self.0,
            position: 1,
        })
    }

    /// The elements of an array from a place on that [`Elements::position`] gave; `None` for other values.
    pub(crate) fn elements_from(self, position: usize) -> Option<Elements<'a>> {
        self.is_array().then_some(Elements {
            text: self.0,
            position: position.max(1),
        })
    }

    /// A string's content. Lone surrogates become U+FFFD. Borrowed unless the text holds an escape.
    pub fn string(self) -> Option<Cow<'a, str>> {
        self.is_string().then(|| Key(&self.0[1..self.0.len() - 1]).decode())
    }

    /// [`Raw::string`] for what may have `bytes_max` bytes: of a string that has more for certain, only its beginning as it is
    /// written, which is too long as well.
    pub fn string_within(self, bytes_max: usize) -> Option<Cow<'a, str>> {
        // An escape has at most six bytes and stands for at least one.
        let written_max = 6 * bytes_max;
        if !self.is_string() || self.0.len() - 2 <= written_max {
            return self.string();
        }
        let content = &self.0[1..self.0.len() - 1];
        let end = (written_max + 1..).find(|end| content.is_char_boundary(*end))?;
        Some(Cow::Borrowed(&content[..end]))
    }

    /// A number as a double; `None` for other values and for numbers beyond doubles.
    pub fn number(self) -> Option<f64> {
        if !self.is_number() {
            return None;
        }
        if let Some(integer) = self.short_integer() {
            return Some(integer as f64);
        }
        self.0.parse::<f64>().ok().filter(|number| number.is_finite())
    }

    /// A number that is an integer of at least 0 and at most 2^53, in whatever notation; `None` for others.
    pub fn integer(self) -> Option<u64> {
        if let Some(integer) = self.short_integer() {
            return Some(integer);
        }
        let number = self.number()?;
        ((0.0..=9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0).then_some(number as u64)
    }

    /// The usual case: digits only, and so few that a double holds them exactly.
    fn short_integer(self) -> Option<u64> {
        let text = self.0.as_bytes();
        (text.len() <= 15 && text.iter().all(u8::is_ascii_digit))
            .then(|| text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    }

    /// Whether an object or array has nothing in it.
    pub fn is_empty(self) -> bool {
        let inner = &self.0.as_bytes()[1..];
        skip_space(inner, 0) == inner.len() - 1
    }

    /// Whether the value is the field tombstone: an object whose member `__deleted` is `true`.
    pub fn is_tombstone(self) -> bool {
        self.member("__deleted").is_some_and(|value| value.0 == "true")
    }

    /// The member of that name; the last one when it occurs twice, as JavaScript has it.
    pub fn member(self, name: &str) -> Option<Raw<'a>> {
        self.members()?
            .filter(|(key, _)| key.is(name))
            .last()
            .map(|(_, value)| value)
    }
}

/// A member's name as it stands in the text, between its quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key<'a>(&'a str);

impl<'a> Key<'a> {
    /// Takes up a slice that was cut out of a validated text earlier, as [`Key::escaped`] gave it.
    pub fn from_validated(escaped: &'a str) -> Key<'a> {
        Key(escaped)
    }

    /// The name as written, escapes included.
    pub fn escaped(self) -> &'a str {
        self.0
    }

    /// Whether the decoded name equals `name`.
    pub fn is(self, name: &str) -> bool {
        if self.has_escapes() {
            self.decode() == name
        } else {
            self.0 == name
        }
    }

    /// The decoded name. Lone surrogates become U+FFFD.
    pub fn decode(self) -> Cow<'a, str> {
        match self.has_escapes() {
            false => Cow::Borrowed(self.0),
            true => Cow::Owned(unescape(self.0)),
        }
    }

    /// Whether the name as written is not the name itself.
    pub fn has_escapes(self) -> bool {
        // Valid string content has no bare quotes and no control characters, so nothing but a backslash is found.
        scan::string_content_end(self.0.as_bytes(), 0) < self.0.len()
    }
}

/// Decodes the escapes of a validated string body.
fn unescape(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        decoded.push_str(&rest[..at]);
        let escape = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        match escape {
            b'b' => decoded.push('\u{8}'),
            b'f' => decoded.push('\u{c}'),
            b'n' => decoded.push('\n'),
            b'r' => decoded.push('\r'),
            b't' => decoded.push('\t'),
            b'u' => {
                let unit = hex4(rest);
                rest = &rest[4..];
                let low = (0xD800..0xDC00)
                    .contains(&unit)
                    .then(|| rest.strip_prefix("\\u").map(hex4))
                    .flatten()
                    .filter(|low| (0xDC00..0xE000).contains(low));
                if let Some(low) = low {
                    rest = &rest[6..];
                    let scalar = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                    decoded.push(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
                } else {
                    decoded.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
            }
            other => decoded.push(char::from(other)),
        }
    }
    decoded.push_str(rest);
    decoded
}

/// The code unit of `\uXXXX`; the grammar has checked the four digits.
fn hex4(text: &str) -> u32 {
    text.as_bytes()[..4].iter().fold(0, |unit, digit| {
        unit * 16 + char::from(*digit).to_digit(16).unwrap_or(0)
    })
}

fn skip_space(text: &[u8], mut position: usize) -> usize {
    while matches!(text[position], b' ' | b'\t' | b'\n' | b'\r') {
        position += 1;
    }
    position
}

/// Position just behind the string that starts at `position`, in validated text.
fn skip_string(text: &[u8], position: usize) -> usize {
    let mut at = position + 1;
    loop {
        at = scan::string_content_end(text, at);
        if text[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
}

/// Position just behind the value that starts at `position`, in validated text.
fn skip_value(text: &[u8], position: usize) -> usize {
    match text[position] {
        b'"' => skip_string(text, position),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut at = position;
            loop {
                match text[at] {
                    b'"' => {
                        at = skip_string(text, at);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return at + 1;
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
        }
        _ => {
            let mut at = position;
            while at < text.len() && !matches!(text[at], b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r') {
                at += 1;
            }
            at
        }
    }
}

/// Where the long values of a text stand, as [`Steps`] found them: so that they need not be walked through again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LongValues<'l> {
    /// Their places, ascending.
    pub places: &'l [Range<usize>],
    /// Where the value that is being read starts in the text of the places.
    pub base: usize,
}

impl LongValues<'_> {
    fn end(self, text: &[u8], start: usize) -> usize {
        match self
            .places
            .binary_search_by_key(&(self.base + start), |place| place.start)
        {
            Ok(at) => self.places[at].end - self.base,
            Err(_) => skip_value(text, start),
        }
    }
}

/// Iterates the members of an object.
#[derive(Clone)]
pub struct Members<'a> {
    text: &'a str,
    position: usize,
}

impl Members<'_> {
    /// How far the object has been read.
    pub(crate) fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Members<'a> {
    /// The next one, without walking through a long value.
    pub(crate) fn next_over(&mut self, long: LongValues<'_>) -> Option<(Key<'a>, Raw<'a>)> {
        self.advance(|text, start| long.end(text, start))
    }

    #[inline]
    fn advance(&mut self, end_of: impl Fn(&[u8], usize) -> usize) -> Option<(Key<'a>, Raw<'a>)> {
        let bytes = self.text.as_bytes();
        let mut at = skip_space(bytes, self.position);
        match bytes[at] {
            b'}' => return None,
            b',' => at = skip_space(bytes, at + 1),
            _ => {}
        }
        let name_end = skip_string(bytes, at);
        let key = Key(&self.text[at + 1..name_end - 1]);
        let colon = skip_space(bytes, name_end);
        let start = skip_space(bytes, colon + 1);
        self.position = end_of(bytes, start);
        Some((key, Raw(&self.text[start..self.position])))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Key<'a>, Raw<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.advance(skip_value)
    }
}

/// Iterates the elements of an array.
#[derive(Clone)]
pub struct Elements<'a> {
    text: &'a str,
    position: usize,
}

impl Elements<'_> {
    /// How far the array has been read.
    pub(crate) fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Elements<'a> {
    /// The next one, without walking through a long value.
    pub(crate) fn next_over(&mut self, long: LongValues<'_>) -> Option<Raw<'a>> {
        self.advance(|text, start| long.end(text, start))
    }

    #[inline]
    fn advance(&mut self, end_of: impl Fn(&[u8], usize) -> usize) -> Option<Raw<'a>> {
        let bytes = self.text.as_bytes();
        let mut at = skip_space(bytes, self.position);
        match bytes[at] {
            b']' => return None,
            b',' => at = skip_space(bytes, at + 1),
            _ => {}
        }
        self.position = end_of(bytes, at);
        Some(Raw(&self.text[at..self.position]))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance(skip_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(text: &str) -> Raw<'_> {
        validate(text.as_bytes()).expect("the test gives valid JSON")
    }

    #[test]
    fn strings_that_are_too_long_are_not_decoded() {
        for (json, expected) in [
            (r#""short""#, Some("short")),
            (r#""\u0061\u0062""#, Some("ab")),
            (r#""\u0061\u0062\u0063""#, Some(r"\u0061\u0062\")),
            ("\"0123456789012\"", Some("0123456789012")),
            ("\"012345678901\u{20ac}34\"", Some("012345678901\u{20ac}")),
            ("7", None),
        ] {
            let raw = validate(json.as_bytes()).expect("valid");
            let read = raw.string_within(2);
            assert_eq!(read.as_deref(), expected, "{json}");
            assert!(read.is_none_or(|read| read.len() > 2 || raw.string().as_deref() == Some(&*read)));
        }
    }

    #[test]
    fn members_come_back_as_they_were_written() {
        let object = raw(" { \"a\" : [1, {\"x\":\"}\"} ] ,\"b\\n\":\"q\\\"\" , \"c\":-1.5e3}");
        let members: Vec<_> = object
            .members()
            .unwrap()
            .map(|(key, value)| (key.decode(), value.text()))
            .collect();
        assert_eq!(members[0], ("a".into(), "[1, {\"x\":\"}\"} ]"));
        assert_eq!(members[1], ("b\n".into(), "\"q\\\"\""));
        assert_eq!(members[2], ("c".into(), "-1.5e3"));
        assert_eq!(object.member("c").unwrap().number(), Some(-1500.0));
    }

    #[test]
    fn strings_decode_every_escape() {
        assert_eq!(
            raw(r#""\u0041\ud83d\ude00\ud800x\/\b""#).string().unwrap(),
            "A😀\u{fffd}x/\u{8}"
        );
        assert_eq!(raw(r#""plain""#).string(), Some(Cow::Borrowed("plain")));
    }

    #[test]
    fn integers_are_those_javascript_can_hold() {
        assert_eq!(raw("9007199254740992").integer(), Some(1 << 53));
        assert_eq!(raw("1e3").integer(), Some(1000));
        for text in ["-1", "1.5", "1e999", "\"1\"", "9007199254740994"] {
            assert_eq!(raw(text).integer(), None, "{text}");
        }
    }

    #[test]
    fn tombstones_are_objects_marked_deleted() {
        assert!(raw(r#"{"x":1,"__deleted":true}"#).is_tombstone());
        assert!(!raw(r#"{"__deleted":"true"}"#).is_tombstone());
        assert!(!raw(r#"{"__deleted":true,"__deleted":false}"#).is_tombstone());
        assert!(!raw("true").is_tombstone());
    }

    fn walk(value: Raw<'_>) -> serde_json::Value {
        if let Some(members) = value.members() {
            return members
                .map(|(key, value)| (key.decode().into_owned(), walk(value)))
                .collect();
        }
        if let Some(elements) = value.elements() {
            return elements.map(walk).collect();
        }
        match value.string() {
            Some(text) => serde_json::Value::String(text.into_owned()),
            None => serde_json::from_str(value.text()).expect("a scalar"),
        }
    }

    fn any_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".*".prop_map(serde_json::Value::String),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::hash_map(".*", inner, 0..8).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn reading_agrees_with_serde_json(value in any_value(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let theirs: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(walk(raw(&text)), theirs);
        }

        #[test]
        fn validity_agrees_with_serde_json(text in "[\\[\\]{},:\"\\\\a-u0-9 .eE+\\-]{0,24}") {
            // A lone surrogate escape is the one thing accepted here that serde_json refuses.
            let ours = validate(text.as_bytes()).is_ok();
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(value) = validate(&bytes) {
                walk(value);
            }
        }
    }
}
