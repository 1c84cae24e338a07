//! The reader of envelopes against serde_json and simd-json: the same texts are JSON, and they mean the same.

use serde_json::Value;
use simd_json::prelude::*;
use std::collections::BTreeSet;
use synckit_server::json::{DEPTH_MAX, JsonError, Raw, validate, validate_object, write_string};

/// Any bytes.
pub fn json_differential(data: &[u8]) {
    let ours = validate(data);
    let theirs = serde_json::from_slice::<&serde_json::value::RawValue>(data);
    match (&ours, &theirs) {
        (Ok(raw), Ok(text)) => {
            assert_eq!(raw.text(), text.get());
            compare(*raw, text.get());
        }
        // A byte order mark is skipped here and refused there.
        (Ok(raw), Err(error)) => {
            let marked = data.starts_with("\u{feff}".as_bytes());
            assert!(marked || is_too_deep(error), "accepted: {error}: {:?}", raw.text());
        }
        // Skipping values there does not count levels.
        (Err(JsonError::Depth), _) | (Err(_), Err(_)) => {}
        (Err(error), Ok(text)) => panic!("refused ({error}): {:?}", text.get()),
    }
    let mut members = Vec::new();
    let read = validate_object(data, |key, value| members.push((key, value)));
    assert_eq!(read.is_ok(), ours.is_ok());
    if let Ok(raw) = ours {
        let again: Vec<_> = raw.members().into_iter().flatten().collect();
        assert_eq!(members, again);
        walk(raw, 0);
    }
}

fn is_too_deep(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("recursion limit")
}

/// Both trees, where the other readers can build one: they refuse lone surrogates and numbers beyond doubles.
fn compare(raw: Raw<'_>, text: &str) {
    if let Ok(theirs) = serde_json::from_str::<Value>(text) {
        assert_eq!(tree(raw), theirs);
    }
    let mut copy = text.as_bytes().to_vec();
    match simd_json::to_owned_value(&mut copy) {
        Ok(theirs) => same_shape(raw, &theirs),
        Err(error) => {
            let text = text.to_ascii_lowercase();
            let excused = text.contains("\\ud") || text.bytes().any(|byte| byte.is_ascii_digit());
            assert!(excused, "simd-json refuses {text:?}: {error}");
        }
    }
}

fn tree(raw: Raw<'_>) -> Value {
    if let Some(members) = raw.members() {
        return members
            .map(|(key, value)| (key.decode().into_owned(), tree(value)))
            .collect();
    }
    if let Some(elements) = raw.elements() {
        return elements.map(tree).collect();
    }
    match raw.string() {
        Some(text) => Value::String(text.into_owned()),
        None => serde_json::from_str(raw.text()).expect("a scalar"),
    }
}

/// Kinds, names and strings; numbers have their own precision there.
fn same_shape(raw: Raw<'_>, theirs: &simd_json::OwnedValue) {
    if let Some(object) = theirs.as_object() {
        let members = raw.members().expect("an object");
        let names: BTreeSet<String> = members.clone().map(|(key, _)| key.decode().into_owned()).collect();
        if names.len() < members.count() {
            // It keeps both members of one name.
            return;
        }
        assert_eq!(names.len(), object.len());
        for name in names {
            same_shape(raw.member(&name).expect("it was listed"), &object[name.as_str()]);
        }
    } else if let Some(list) = theirs.as_array() {
        let elements: Vec<Raw<'_>> = raw.elements().expect("an array").collect();
        assert_eq!(elements.len(), list.len());
        elements
            .iter()
            .zip(list)
            .for_each(|(ours, theirs)| same_shape(*ours, theirs));
    } else if let Some(text) = theirs.as_str() {
        assert_eq!(raw.string().as_deref(), Some(text));
    } else if let Some(number) = theirs.cast_f64() {
        let ours = raw.number().expect("a number");
        assert!((ours - number).abs() <= ours.abs() * 1e-12, "{ours} against {number}");
    } else {
        assert_eq!(raw.is_null(), theirs.is_null());
    }
}

/// Everything that may be asked of a value, and that strings written out are read back.
fn walk(raw: Raw<'_>, depth: usize) {
    assert!(depth <= DEPTH_MAX);
    let kinds = [
        raw.is_object(),
        raw.is_array(),
        raw.is_string(),
        raw.is_number(),
        raw.is_null(),
        matches!(raw.text(), "true" | "false"),
    ];
    assert_eq!(kinds.iter().filter(|kind| **kind).count(), 1);
    assert!(validate(raw.text().as_bytes()).is_ok());
    if let Some(text) = raw.string() {
        let mut written = Vec::new();
        write_string(&mut written, &text);
        assert_eq!(serde_json::from_slice::<String>(&written).ok().as_deref(), Some(&*text));
    }
    if let Some(integer) = raw.integer() {
        assert_eq!(raw.number(), Some(integer as f64));
    }
    let _ = raw.is_tombstone();
    if raw.is_object() || raw.is_array() {
        let count = raw.members().map_or(0, Iterator::count) + raw.elements().map_or(0, Iterator::count);
        assert_eq!(raw.is_empty(), count == 0);
    }
    // Each value is checked again in full, so only a few levels: the depth is the grammar's business.
    if depth < 6 {
        raw.members()
            .into_iter()
            .flatten()
            .for_each(|(_, value)| walk(value, depth + 1));
        raw.elements()
            .into_iter()
            .flatten()
            .for_each(|value| walk(value, depth + 1));
    }
}
