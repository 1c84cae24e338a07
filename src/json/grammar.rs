//! The check that lets everything else read without checking: RFC 8259 grammar, UTF-8 and depth.

use super::Raw;
use super::scan::string_content_end;

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
}

/// Checks a complete JSON text and returns its value without surrounding white space. One leading byte order mark is
/// skipped (protocol §2.4).
pub fn validate(bytes: &[u8]) -> Result<Raw<'_>, JsonError> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| JsonError::Utf8)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut check = Check {
        text: text.as_bytes(),
        at: 0,
    };
    check.space();
    let start = check.at;
    check.value(0)?;
    let end = check.at;
    check.space();
    if check.at != check.text.len() {
        return Err(check.syntax());
    }
    Ok(Raw(&text[start..end]))
}

struct Check<'a> {
    text: &'a [u8],
    at: usize,
}

impl Check<'_> {
    fn syntax(&self) -> JsonError {
        JsonError::Syntax(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') => self.object(depth + 1),
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

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        self.open(depth)?;
        if self.closes(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.syntax());
            }
            self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.syntax());
            }
            self.at += 1;
            self.space();
            self.value(depth)?;
            if self.closes(b'}') {
                return Ok(());
            }
            self.comma()?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.open(depth)?;
        if self.closes(b']') {
            return Ok(());
        }
        loop {
            self.space();
            self.value(depth)?;
            if self.closes(b']') {
                return Ok(());
            }
            self.comma()?;
        }
    }

    fn open(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > DEPTH_MAX {
            return Err(JsonError::Depth);
        }
        self.at += 1;
        Ok(())
    }

    fn closes(&mut self, bracket: u8) -> bool {
        self.space();
        let closes = self.peek() == Some(bracket);
        self.at += usize::from(closes);
        closes
    }

    fn comma(&mut self) -> Result<(), JsonError> {
        if self.peek() != Some(b',') {
            return Err(self.syntax());
        }
        self.at += 1;
        Ok(())
    }

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

    fn escape(&mut self) -> Result<(), JsonError> {
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
    fn lone_surrogates_and_byte_order_marks_are_legal() {
        assert_eq!(
            validate("\u{feff} \"\\ud800\\u0000\" ".as_bytes()).unwrap().text(),
            "\"\\ud800\\u0000\""
        );
    }
}
