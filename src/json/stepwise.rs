//! The check of [`super::grammar`] in steps of bounded length, for texts that take longer than one turn of a shard may.
//!
//! Accepts exactly what [`super::validate`] accepts, with a stack of bits in place of recursion; property tests hold the
//! two together.

use super::grammar::{Check, DEPTH_MAX, JsonError};
use super::scan::string_content_end;
use super::{Key, MEMBERS_MAX, Raw};
use std::ops::Range;

const _: () = assert!(DEPTH_MAX == u128::BITS as usize, "one bit per level");

/// Levels on which long values are noted: the members of a message, the elements of a batch, the members of those, and one
/// more for messages that lie in a `payload`.
const LONG_VALUE_DEPTH_MAX: usize = 4;
/// What counts as one.
const LONG_VALUE_BYTES: usize = 16 << 10;

/// What stands next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Value,
    /// A value, or the end of an array.
    FirstElement,
    Name,
    /// A name, or the end of an object.
    FirstName,
    /// The rest of a string that is a name.
    NameContent,
    /// The rest of a string that is a value.
    StringContent,
    /// A comma, an end, or the end of the text.
    More,
}

/// How far a text has been checked, and the members of the object that it is. The text itself is kept by the caller and
/// must be the same in every step.
#[derive(Debug)]
pub struct Steps {
    at: usize,
    start: usize,
    expected: Expected,
    /// The lowest bit is the innermost level; set for objects.
    objects: u128,
    depth: usize,
    name: Range<usize>,
    /// Where the value under way starts on each of the outer levels, the first being that of the members.
    starts: [usize; LONG_VALUE_DEPTH_MAX + 1],
    long_values: Vec<Range<usize>>,
    members: Vec<(Range<usize>, Range<usize>)>,
    end: Option<usize>,
}

impl Steps {
    /// Nothing is checked yet but that the bytes are UTF-8, which costs little.
    pub fn begin(bytes: &[u8]) -> Result<Steps, JsonError> {
        let text = simdutf8::basic::from_utf8(bytes).map_err(|_| JsonError::Utf8)?;
        let start = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Ok(Steps {
            at: start,
            start,
            expected: Expected::Value,
            objects: 0,
            depth: 0,
            name: 0..0,
            starts: [0; LONG_VALUE_DEPTH_MAX + 1],
            long_values: Vec::new(),
            members: Vec::new(),
            end: None,
        })
    }

    /// Checks about `bytes_max` further bytes (more than 0); one number, or white space in one place, is not divided. Returns
    /// whether that was all.
    pub fn step(&mut self, bytes: &[u8], bytes_max: usize) -> Result<bool, JsonError> {
        let mut check = Check {
            text: bytes,
            at: self.at,
        };
        let stop = self.at.saturating_add(bytes_max);
        while self.end.is_none() && check.at < stop {
            self.advance(&mut check, stop)?;
        }
        self.at = check.at;
        Ok(self.end.is_some())
    }

    fn advance(&mut self, check: &mut Check<'_>, stop: usize) -> Result<(), JsonError> {
        match self.expected {
            Expected::NameContent | Expected::StringContent => return self.content(check, stop),
            _ => check.space(),
        }
        match (self.expected, check.peek()) {
            (Expected::FirstElement, Some(b']')) | (Expected::FirstName, Some(b'}')) => return self.close(check),
            (Expected::Value | Expected::FirstElement, _) => return self.value(check),
            (Expected::Name | Expected::FirstName, Some(b'"')) => {
                check.at += 1;
                if self.depth == 1 {
                    self.name = check.at..check.at;
                }
                self.expected = Expected::NameContent;
            }
            (Expected::More, None) if self.depth == 0 => {}
            (Expected::More, Some(b',')) if self.depth > 0 => {
                check.at += 1;
                self.expected = if self.in_object() {
                    Expected::Name
                } else {
                    Expected::Value
                };
            }
            (Expected::More, Some(b'}')) if self.depth > 0 && self.in_object() => return self.close(check),
            (Expected::More, Some(b']')) if self.depth > 0 && !self.in_object() => return self.close(check),
            _ => return Err(check.syntax()),
        }
        Ok(())
    }

    fn value(&mut self, check: &mut Check<'_>) -> Result<(), JsonError> {
        if self.depth == 0 {
            self.start = check.at;
        }
        if let Some(start) = self.starts.get_mut(self.depth) {
            *start = check.at;
        }
        match check.peek() {
            Some(b'"') => {
                check.at += 1;
                self.expected = Expected::StringContent;
            }
            Some(bracket @ (b'{' | b'[')) => {
                if self.depth == DEPTH_MAX {
                    return Err(JsonError::Depth);
                }
                check.at += 1;
                self.depth += 1;
                self.objects = self.objects << 1 | u128::from(bracket == b'{');
                self.expected = if bracket == b'{' {
                    Expected::FirstName
                } else {
                    Expected::FirstElement
                };
            }
            _ => {
                check.value(0)?;
                self.value_ended(check)?;
            }
        }
        Ok(())
    }

    /// Goes on with a string, to its end or until the step is over.
    fn content(&mut self, check: &mut Check<'_>, stop: usize) -> Result<(), JsonError> {
        loop {
            check.at = string_content_end(check.text, check.at);
            match check.peek() {
                Some(b'"') => break,
                Some(b'\\') => check.escape()?,
                Some(_) | None => return Err(check.syntax()),
            }
            if check.at >= stop {
                return Ok(());
            }
        }
        check.at += 1;
        if self.expected == Expected::StringContent {
            return self.value_ended(check);
        }
        if self.depth == 1 {
            self.name.end = check.at - 1;
        }
        check.space();
        if check.peek() != Some(b':') {
            return Err(check.syntax());
        }
        check.at += 1;
        self.expected = Expected::Value;
        Ok(())
    }

    fn close(&mut self, check: &mut Check<'_>) -> Result<(), JsonError> {
        check.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
        self.value_ended(check)
    }

    fn value_ended(&mut self, check: &mut Check<'_>) -> Result<(), JsonError> {
        self.expected = Expected::More;
        if let Some(start) = self.starts.get(self.depth).filter(|_| self.depth > 0)
            && check.at - start >= LONG_VALUE_BYTES
        {
            self.long_values.push(start - self.start..check.at - self.start);
        }
        if self.depth == 1 && self.in_object() {
            if self.members.len() == MEMBERS_MAX {
                return Err(JsonError::Members);
            }
            self.members.push((self.name.clone(), self.starts[1]..check.at));
        }
        if self.depth == 0 {
            let end = check.at;
            self.long_values.sort_unstable_by_key(|place| place.start);
            check.space();
            // Anything behind it is refused by the next advance.
            self.end = (check.at == check.text.len()).then_some(end);
        }
        Ok(())
    }

    /// Places of the long values on the outer levels, ascending, counted from the start of the value that the text is.
    pub(crate) fn long_values(&self) -> &[Range<usize>] {
        &self.long_values
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    /// The value, and the members of the object that it is; `None` unless the last step found the whole of it valid.
    pub fn finish<'a>(&self, bytes: &'a [u8], mut member: impl FnMut(Key<'a>, Raw<'a>)) -> Option<Raw<'a>> {
        let text = simdutf8::basic::from_utf8(bytes).ok()?;
        let end = self.end?;
        for (name, value) in &self.members {
            member(Key(&text[name.clone()]), Raw(&text[value.clone()]));
        }
        Some(Raw(&text[self.start..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LongValues, validate, validate_object};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_object_without_end_is_refused() {
        let object = |members: usize| format!("{{\"a\":[{{}}]{}}}", ",\"x\":1".repeat(members - 1));
        for (members, is_read) in [(MEMBERS_MAX, true), (MEMBERS_MAX + 1, false)] {
            let text = object(members);
            let mut steps = Steps::begin(text.as_bytes()).expect("UTF-8");
            let verdict = steps.step(text.as_bytes(), usize::MAX);
            assert_eq!(verdict, if is_read { Ok(true) } else { Err(JsonError::Members) });
        }
        // Inside of it there may be more.
        let text = format!("{{\"a\":{}}}", object(MEMBERS_MAX + 1));
        let mut steps = Steps::begin(text.as_bytes()).expect("UTF-8");
        assert_eq!(steps.step(text.as_bytes(), usize::MAX), Ok(true));
    }

    /// Verdict, value and members, checked in steps of that length.
    fn in_steps(bytes: &[u8], step: usize) -> Option<(&str, Vec<(&str, &str)>)> {
        let mut steps = Steps::begin(bytes).ok()?;
        // Every step moves on by at least a byte.
        for _ in 0..=bytes.len() {
            if steps.step(bytes, step).ok()? {
                let mut members = Vec::new();
                let value = steps.finish(bytes, |name, value| members.push((name.escaped(), value.text())))?;
                return Some((value.text(), members));
            }
        }
        panic!("no end in sight");
    }

    fn at_once(bytes: &[u8]) -> Option<(&str, Vec<(&str, &str)>)> {
        let mut members = Vec::new();
        validate_object(bytes, |name, value| members.push((name.escaped(), value.text())))
            .ok()
            .map(|value| (value.text(), members))
    }

    #[test]
    fn depth_and_ends_are_those_of_the_whole_check() {
        for depth in [1, DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1] {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                let text = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                let whole = validate(text.as_bytes()).is_ok();
                assert_eq!(in_steps(text.as_bytes(), 3).is_some(), whole, "{depth} {open}");
                assert_eq!(whole, depth <= DEPTH_MAX);
            }
        }
        for text in [
            "",
            " ",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "[1,",
            "{\"a\":1}}",
            "1 1",
            "{]",
            "[}",
            "\u{feff}{} ",
        ] {
            assert_eq!(in_steps(text.as_bytes(), 1), at_once(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn long_values_are_noted_where_they_stand() {
        let long = "x\\\"".repeat(LONG_VALUE_BYTES / 3 + 1);
        let text = format!(
            "\u{feff} {{\"a\":1,\"deltas\": [ {{\"b\":[2], \"state\" : \"{long}\" ,\"c\":3}},4,{{\"map\":{{\"d\":[\"{long}\"]}}}} ],\
             \"e\":\"{long}\"}} "
        );
        for step in [7, 1_000, 1 << 20] {
            let mut steps = Steps::begin(text.as_bytes()).unwrap();
            while !steps.step(text.as_bytes(), step).unwrap() {}
            let body = steps.finish(text.as_bytes(), |_, _| {}).unwrap();
            let places = steps.long_values();
            for place in places {
                assert_eq!(super::super::skip_value(body.text().as_bytes(), place.start), place.end);
            }
            // The list, its two objects, a string in one and an object and a list in the other, and the last string.
            assert_eq!(places.len(), 7, "{places:?}");
            assert!(places.is_sorted_by(|one, next| one.start < next.start));
            let known = |base| LongValues { places, base };
            let deltas = body.member("deltas").unwrap();
            let base = |part: &str| part.as_ptr() as usize - body.text().as_ptr() as usize;
            let mut elements = deltas.elements().unwrap();
            for element in deltas.elements().unwrap() {
                assert_eq!(elements.next_over(known(base(deltas.text()))), Some(element));
                let Some(mut members) = element.members() else { continue };
                for member in element.members().unwrap() {
                    assert_eq!(members.next_over(known(base(element.text()))), Some(member));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn steps_of_any_length_agree_with_the_whole_check(
            text in "[\\[\\]{},:\" \\\\unabtrfe\\-0-9.\u{e9}]{0,24}",
            step in 1usize..9,
        ) {
            prop_assert_eq!(in_steps(text.as_bytes(), step), at_once(text.as_bytes()));
        }

        #[test]
        fn also_of_valid_objects(
            members in prop::collection::vec(("[a-c\"\\\\\u{1}]{0,3}", "[\\[\\]{}\"\\\\x]{0,9}", 0u8..5), 0..6),
            step in 1usize..40,
        ) {
            let member = |(name, text, kind): &(String, String, u8)| {
                let name = serde_json::to_string(name).unwrap();
                let text = serde_json::to_string(text).unwrap();
                let value = match kind {
                    0 => text,
                    1 => format!("[ {text} , [], {{}} ]"),
                    2 => format!("{{ \"n\" : {{\"m\":[{text}]}} }}"),
                    3 => "-1.5e3".to_owned(),
                    _ => "null".to_owned(),
                };
                format!(" {name} : {value} ")
            };
            let text = format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","));
            prop_assert_eq!(in_steps(text.as_bytes(), step), at_once(text.as_bytes()));
            let (value, found) = in_steps(text.as_bytes(), step).expect("it is valid");
            prop_assert_eq!(value, &text);
            prop_assert_eq!(found.len(), members.len());
        }
    }
}
