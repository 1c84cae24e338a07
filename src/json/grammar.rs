//! The check that lets everything else read without checking: RFC 8259 grammar, UTF-8 and depth.

use super::scan::string_content_end;
use super::{Key, Raw};
use std::ops::Range;

/// Deepest nesting accepted (protocol §2.7). Also bounds the recursion of the check.
pub const DEPTH_MAX: usize = 128;

/// Why a text is not acceptable JSON. Always the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The bytes are not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// The grammar is violated at this byte.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// More than [`DEPTH_MAX`] arrays and objects inside each other.
    #[error("nested deeper than {DEPTH_MAX} levels")]
    Depth,
    /// More than [`MEMBERS_MAX`](super::MEMBERS_MAX) members in the object that the text is.
    #[error("more than {} members", super::MEMBERS_MAX)]
    Members,
}

/// Checks a complete JSON text and returns its value without surrounding white space. One leading byte order mark is
/// skipped (protocol §2.4).
pub fn validate(bytes: &[u8]) -> Result<Raw<'_>, JsonError> {
    check(bytes, |check, _| check.value(0))
}

/// Like [`validate`], and hands out the members of the object that the text is, in the same pass. What was handed out counts
/// only if the whole text turns out to be valid; of a text that is no object nothing is handed out.
pub fn validate_object<'a>(bytes: &'a [u8], mut member: impl FnMut(Key<'a>, Raw<'a>)) -> Result<Raw<'a>, JsonError> {
    check(bytes, |check, text| match check.peek() {
        Some(b'{') => check.object(1, |name, value| member(Key(&text[name]), Raw(&text[value]))),
        _ => check.value(0),
    })
}

fn check<'a>(
    bytes: &'a [u8],
    value: impl FnOnce(&mut Check<'a>, &'a str) -> Result<(), JsonError>,
) -> Result<Raw<'a>, JsonError> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| JsonError::Utf8)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut check = Check {
        text: text.as_bytes(),
        at: 0,
    };
    check.space();
    let start = check.at;
    value(&mut check, text)?;
    let end = check.at;
    check.space();
    if check.at != check.text.len() {
        return Err(check.syntax());
    }
    Ok(Raw(&text[start..end]))
}

/// A text that is known to be UTF-8, and how far it has been read.
pub(super) struct Check<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
}

impl Check<'_> {
    pub(super) fn syntax(&self) -> JsonError {
        JsonError::Syntax(self.at)
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub(super) fn space(&mut self) {
        self.token();
    }

    /// Skips white space and returns the byte behind it, which is not taken; 0, which begins nothing, at the end of the text
    /// and before other control characters.
    #[inline]
    fn token(&mut self) -> u8 {
        loop {
            match self.peek() {
                Some(byte) if byte > b' ' => return byte,
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                _ => return 0,
            }
        }
    }

    pub(super) fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') => self.object(depth + 1, |_, _| {}),
            Some(b'[') => self.array(depth + 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => Err(self.syntax()),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.syntax());
        }
        self.at += word.len();
        Ok(())
    }

    /// `member` gets the places of each name (without quotes) and value.
    #[inline]
    fn object(&mut self, depth: usize, mut member: impl FnMut(Range<usize>, Range<usize>)) -> Result<(), JsonError> {
        self.open(depth)?;
        let mut token = self.token();
        if token == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            if token != b'"' {
                return Err(self.syntax());
            }
            let name = self.at + 1;
            self.string()?;
            let name = name..self.at - 1;
            if self.token() != b':' {
                return Err(self.syntax());
            }
            self.at += 1;
            // Strings, which most values are, without a call.
            let is_string = self.token() == b'"';
            let value = self.at;
            if is_string {
                self.string()?;
            } else {
                self.value(depth)?;
            }
            member(name, value..self.at);
            if self.ends(b'}')? {
                return Ok(());
            }
            token = self.token();
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.open(depth)?;
        if self.token() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth)?;
            if self.ends(b']')? {
                return Ok(());
            }
            self.space();
        }
    }

    fn open(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > DEPTH_MAX {
            return Err(JsonError::Depth);
        }
        self.at += 1;
        Ok(())
    }

    /// Takes what stands behind a member or an element: the bracket that ends the list (`true`), or a comma.
    #[inline]
    fn ends(&mut self, bracket: u8) -> Result<bool, JsonError> {
        let token = self.token();
        if token != bracket && token != b',' {
            return Err(self.syntax());
        }
        self.at += 1;
        Ok(token == bracket)
    }

    #[inline]
    fn string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        loop {
            self.at = string_content_end(self.text, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) | None => return Err(self.syntax()),
            }
        }
    }

    pub(super) fn escape(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        let digits = match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 0,
            Some(b'u') => 4,
            _ => return Err(self.syntax()),
        };
        self.at += 1;
        for _ in 0..digits {
            if !self.peek().is_some_and(|digit| digit.is_ascii_hexdigit()) {
                return Err(self.syntax());
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|digit| digit.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.syntax()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(validate(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(validate(nested(DEPTH_MAX + 1).as_bytes()), Err(JsonError::Depth));
        assert_eq!(validate("[".repeat(1_000_000).as_bytes()), Err(JsonError::Depth));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "{\"a\"}",
            "[1,]",
            "{,}",
            "01",
            "1.",
            "-",
            "nul",
            "\"\\x\"",
            "\"\\u12g4\"",
            "1 2",
            "\"\n\"",
        ] {
            assert!(validate(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(validate(b"\"\xff\""), Err(JsonError::Utf8));
    }

    #[test]
    fn members_of_the_outermost_object_are_handed_out_as_the_iterator_gives_them() {
        for text in [
            " { \"a\" : [1, {\"x\":\"}\"} ] ,\"b\\n\":\"q\\\"\" , \"c\":-1.5e3 } ",
            "{}",
            "[{\"a\":1}]",
            "\u{feff}{\"\":{\"inner\":null},\"\":true}",
        ] {
            let mut members = Vec::new();
            let value = validate_object(text.as_bytes(), |key, value| members.push((key, value))).unwrap();
            assert_eq!(Ok(value), validate(text.as_bytes()));
            let iterated: Vec<_> = value.members().into_iter().flatten().collect();
            assert_eq!(members, iterated, "{text:?}");
        }
        assert!(validate_object(b"{\"a\":1,}", |_, _| {}).is_err());
    }

    #[test]
    fn lone_surrogates_and_byte_order_marks_are_legal() {
        assert_eq!(
            validate("\u{feff} \"\\ud800\\u0000\" ".as_bytes()).unwrap().text(),
            "\"\\ud800\\u0000\""
        );
    }
}
