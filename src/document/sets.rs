//! Membership of a set object (docs/protocol.md §12.4), kept so that late subscribers can be brought up to date.
//!
//! Operations are relayed to everybody in one order, and applying one twice is harmless. What is kept per value is whether
//! it is present and the order (`lam`) of the last operation that said so. Values are equal when their canonical JSON is:
//! members sorted, numbers in shortest form. Bounds: total bytes of present values, and removed values by count and age.

use super::tombstone::Graveyard;
use hashbrown::HashMap;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// What charging an element adds to its text: table entry, counts and order.
const ELEMENT_OVERHEAD_BYTES: usize = 64;

/// One set operation; values are encoded JSON.
#[derive(Clone, Copy, Debug)]
pub enum SetOperation<'a> {
    /// The value is a member.
    Add(&'a [u8]),
    /// The value is no member.
    Remove(&'a [u8]),
    /// Nothing is a member.
    Clear,
}

/// Why a set operation is refused. Always the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SetError {
    /// Not JSON, nested too deep, or a number that no double can hold.
    #[error("Invalid set value")]
    InvalidValue,
    /// The members would exceed [`SetLimits::bytes_max`].
    #[error("Set too large")]
    TooLarge {
        /// What is allowed.
        max: usize,
    },
}

/// Bounds of one set.
#[derive(Clone, Copy, Debug)]
pub struct SetLimits {
    /// Text of all known values, present or removed, with an allowance for each.
    pub bytes_max: usize,
    /// Removed values remembered; the oldest beyond it are dropped.
    pub removed_max: usize,
    /// How long a removal is remembered.
    pub removed_ttl_ms: u64,
}

impl Default for SetLimits {
    fn default() -> Self {
        Self {
            bytes_max: 10_485_760,
            removed_max: 10_000,
            removed_ttl_ms: 24 * 3_600_000,
        }
    }
}

/// What one late subscriber is sent, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The value's canonical JSON.
    pub value: Arc<str>,
    /// `add` if true, `remove` if false.
    pub present: bool,
    /// When the operation was accepted, by the document's clock.
    pub lam: u64,
}

/// One value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedElement {
    /// The value's canonical JSON, see [`is_canonical`].
    pub value: Arc<str>,
    /// The document's clock at the last operation on it.
    pub lam: u64,
    /// When it was removed, in Unix milliseconds; `None`: it is a member.
    pub removed_at_ms: Option<u64>,
}

impl SavedElement {
    /// Whether this is to replace `other`, the same value as another server stored it: the later operation counts, and of
    /// two at once the addition. Total, so that everybody who merges ends with the same.
    pub fn beats(&self, other: &SavedElement) -> bool {
        let rank = |element: &SavedElement| (element.lam, element.removed_at_ms.is_none(), element.removed_at_ms);
        rank(self) > rank(other)
    }
}

/// Whether `value` is spelled as [`SavedElement::value`] must be; a row written by others may hold anything.
pub fn is_canonical(value: &str) -> bool {
    canonical(value.as_bytes()).is_ok_and(|canonical| canonical == value)
}

/// Who is in the set, and who was until lately.
#[derive(Default)]
pub struct SetMembership {
    /// In the order of their values, so that whatever is made of them is the same every time.
    elements: BTreeMap<Arc<str>, Element>,
    removed: Graveyard,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Element {
    present: bool,
    lam: u64,
}

impl SetMembership {
    /// Applies one operation with its place in the document's order (`Document::step`). Nothing changes if it is refused.
    pub fn apply(
        &mut self,
        now_unix_ms: u64,
        lam: u64,
        operation: SetOperation<'_>,
        limits: &SetLimits,
    ) -> Result<(), SetError> {
        match operation {
            SetOperation::Add(value) => self.put(now_unix_ms, lam, canonical(value)?, true, limits)?,
            SetOperation::Remove(value) => self.put(now_unix_ms, lam, canonical(value)?, false, limits)?,
            SetOperation::Clear => {
                for (value, element) in &mut self.elements {
                    if std::mem::replace(&mut element.present, false) {
                        element.lam = lam;
                        self.removed.bury(now_unix_ms, lam, value.clone());
                    }
                }
            }
        }
        self.expire(now_unix_ms, limits);
        Ok(())
    }

    /// Whether the value is a member.
    pub fn contains(&self, value: &[u8]) -> bool {
        canonical(value)
            .ok()
            .and_then(|value| self.elements.get(&*value))
            .is_some_and(|element| element.present)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.elements.len() - self.removed.count()
    }

    /// Whether nothing is a member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a late subscriber gets: an `add` per member and a `remove` per value removed lately, in the order of acceptance.
    pub fn replay(&self) -> Vec<Replayed> {
        let element = |(value, element): (&Arc<str>, &Element)| Replayed {
            value: value.clone(),
            present: element.present,
            lam: element.lam,
        };
        let mut replay: Vec<_> = self.elements.iter().map(element).collect();
        replay.sort_unstable_by(|a, b| (a.lam, &a.value).cmp(&(b.lam, &b.value)));
        replay
    }

    /// Every known value, in the order of values.
    pub fn saved(&self) -> Vec<SavedElement> {
        let mut removed_at: HashMap<(&str, u64), u64> = HashMap::new();
        let graves = self.removed.newest();
        removed_at.extend(graves.map(|grave| ((&*grave.key, grave.lam), grave.at_ms)));
        let saved = |(value, element): (&Arc<str>, &Element)| SavedElement {
            value: value.clone(),
            lam: element.lam,
            removed_at_ms: match element.present {
                true => None,
                false => Some(removed_at.get(&(&**value, element.lam)).copied().unwrap_or(0)),
            },
        };
        self.elements.iter().map(saved).collect()
    }

    /// Takes over a value as it was stored, unless a later operation on it is known. Returns whether it did.
    pub fn merge(&mut self, saved: &SavedElement) -> bool {
        let present = saved.removed_at_ms.is_none();
        match self.elements.get(&saved.value) {
            Some(element) if (saved.lam, present) <= (element.lam, element.present) => return false,
            Some(element) if !element.present => self.removed.risen(),
            Some(_) => {}
            None => self.bytes += cost(&saved.value),
        }
        if let Some(at_ms) = saved.removed_at_ms {
            self.removed.bury(at_ms, saved.lam, saved.value.clone());
        }
        let lam = saved.lam;
        self.elements.insert(saved.value.clone(), Element { present, lam });
        true
    }

    /// What became of the values that the operation with this place in the order touched.
    pub fn touched(&self, now_unix_ms: u64, lam: u64, operation: SetOperation<'_>) -> Vec<SavedElement> {
        let saved = |value: &Arc<str>, element: &Element| SavedElement {
            value: value.clone(),
            lam,
            removed_at_ms: (!element.present).then_some(now_unix_ms),
        };
        match operation {
            SetOperation::Add(value) | SetOperation::Remove(value) => {
                let found = canonical(value).ok();
                let found = found.and_then(|value| self.elements.get_key_value(&*value));
                found
                    .map(|(value, element)| saved(value, element))
                    .into_iter()
                    .collect()
            }
            SetOperation::Clear => {
                let cleared = self.elements.iter().filter(|(_, element)| element.lam == lam);
                cleared.map(|(value, element)| saved(value, element)).collect()
            }
        }
    }

    /// Calls `each` with every member.
    pub fn for_each_member(&self, mut each: impl FnMut(&SavedElement)) {
        for (value, element) in self.elements.iter().filter(|(_, element)| element.present) {
            each(&SavedElement {
                value: value.clone(),
                lam: element.lam,
                removed_at_ms: None,
            });
        }
    }

    /// Forgets removals that are too old or too many.
    pub fn expire(&mut self, now_unix_ms: u64, limits: &SetLimits) {
        let kept_since_ms = now_unix_ms.saturating_sub(limits.removed_ttl_ms);
        while let Some(grave) = self.removed.oldest() {
            let current = is_removed(&self.elements, &grave.key, grave.lam);
            if current && grave.at_ms >= kept_since_ms && self.removed.count() <= limits.removed_max {
                break;
            }
            if current && let Some((value, _)) = self.elements.remove_entry(&*grave.key) {
                self.bytes -= cost(&value);
                self.removed.risen();
            }
            self.removed.remove_oldest();
        }
        if self.removed.is_cluttered() {
            self.removed
                .retain(|grave| is_removed(&self.elements, &grave.key, grave.lam));
        }
    }

    /// What the set costs in memory, roughly.
    pub fn memory_bytes(&self) -> usize {
        // The nodes of the tree are at least half full.
        let elements = 2 * self.elements.len() * size_of::<(Arc<str>, Element)>();
        size_of::<Self>() + elements + self.bytes + self.removed.memory_bytes()
    }

    fn put(
        &mut self,
        now_unix_ms: u64,
        lam: u64,
        value: String,
        present: bool,
        limits: &SetLimits,
    ) -> Result<(), SetError> {
        let key = match self.elements.get_key_value(&*value) {
            Some((key, element)) => {
                if !element.present {
                    self.removed.risen();
                }
                key.clone()
            }
            None => {
                if self.bytes + cost(&value) > limits.bytes_max {
                    return Err(SetError::TooLarge { max: limits.bytes_max });
                }
                self.bytes += cost(&value);
                Arc::from(value)
            }
        };
        if !present {
            self.removed.bury(now_unix_ms, lam, key.clone());
        }
        self.elements.insert(key, Element { present, lam });
        Ok(())
    }
}

fn is_removed(elements: &BTreeMap<Arc<str>, Element>, value: &str, lam: u64) -> bool {
    elements
        .get(value)
        .is_some_and(|element| !element.present && element.lam == lam)
}

fn cost(value: &str) -> usize {
    value.len() + ELEMENT_OVERHEAD_BYTES
}

/// One spelling for equal values, as a JavaScript client would compare them: `1`, `1.0` and `1e0` are one number.
fn canonical(value: &[u8]) -> Result<String, SetError> {
    let value: Value = serde_json::from_slice(value).map_err(|_| SetError::InvalidValue)?;
    let mut text = String::new();
    write_canonical(&value, &mut text);
    Ok(text)
}

/// Recursion is bounded by the parser's own depth limit (128).
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => {
            let mut names: Vec<_> = members.iter().collect();
            names.sort_unstable_by(|a, b| a.0.cmp(b.0));
            text.push('{');
            for (at, (name, value)) in names.into_iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                text.push_str(&super::key::json_key(name));
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write_canonical(value, text);
            }
            text.push(']');
        }
        Value::Number(number) => text.push_str(&canonical_number(number)),
        Value::String(string) => text.push_str(&super::key::json_key(string)),
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
    }
}

fn canonical_number(number: &serde_json::Number) -> String {
    /// Beyond it doubles skip integers, so the shortest form of the double is used.
    const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(double) if double.fract() == 0.0 && double.abs() <= INTEGER_MAX => (double as i64).to_string(),
        Some(double) => serde_json::Number::from_f64(double).map_or_else(|| number.to_string(), |n| n.to_string()),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LIMITS: SetLimits = SetLimits {
        bytes_max: 1 << 20,
        removed_max: 3,
        removed_ttl_ms: 1000,
    };

    #[test]
    fn equal_values_have_one_spelling() {
        for (a, b) in [
            ("1", "1.0"),
            ("100", "1e2"),
            ("0", "-0.0"),
            (r#"{"a":1,"b":[2]}"#, r#" { "b" : [ 2 ], "a" : 1.0 } "#),
            (r#""é""#, r#""\u00e9""#),
            ("0.5", "5e-1"),
        ] {
            assert_eq!(canonical(a.as_bytes()), canonical(b.as_bytes()), "{a} {b}");
        }
        assert_ne!(canonical(b"1"), canonical(br#""1""#));
        assert_ne!(canonical(b"[1,2]"), canonical(b"[2,1]"));
        assert_eq!(canonical(b"[1,"), Err(SetError::InvalidValue));
    }

    #[test]
    fn removals_are_replayed_until_too_old_or_too_many() {
        let mut set = SetMembership::default();
        for (lam, value) in ["1", "2", "3", "4", "5"].into_iter().enumerate() {
            set.apply(0, lam as u64, SetOperation::Add(value.as_bytes()), &LIMITS)
                .unwrap();
        }
        set.apply(10, 10, SetOperation::Remove(b"2"), &LIMITS).unwrap();
        set.apply(10, 11, SetOperation::Remove(b"9"), &LIMITS).unwrap();
        let replay: Vec<_> = set
            .replay()
            .into_iter()
            .map(|r| (r.value.to_string(), r.present))
            .collect();
        let expected = [
            ("1", true),
            ("3", true),
            ("4", true),
            ("5", true),
            ("2", false),
            ("9", false),
        ];
        assert_eq!(replay, expected.map(|(value, present)| (value.to_owned(), present)));
        set.apply(20, 12, SetOperation::Clear, &LIMITS).unwrap();
        assert!(set.is_empty());
        assert_eq!(
            set.replay().len(),
            3,
            "the oldest removals beyond the limit are dropped"
        );
        set.expire(1021, &LIMITS);
        assert!(set.replay().is_empty());
        assert_eq!(set.bytes, 0);
    }

    #[test]
    fn a_full_set_refuses_new_values_and_keeps_the_old() {
        let limits = SetLimits {
            bytes_max: 200,
            ..LIMITS
        };
        let mut set = SetMembership::default();
        let results: Vec<_> = (0..4)
            .map(|n| set.apply(0, n, SetOperation::Add(&[b'0' + n as u8]), &limits))
            .collect();
        assert_eq!(results, [Ok(()), Ok(()), Ok(()), Err(SetError::TooLarge { max: 200 })]);
        assert_eq!(set.apply(0, 9, SetOperation::Add(b"1"), &limits), Ok(()));
        assert!(set.contains(b"2") && !set.contains(b"3"));
    }

    proptest! {
        #[test]
        fn members_are_those_of_a_plain_set(operations in prop::collection::vec((0..8u8, 0..10u8), 0..200)) {
            let (mut set, mut model) = (SetMembership::default(), BTreeSet::new());
            for (lam, (value, kind)) in operations.into_iter().enumerate() {
                let json = [b'0' + value];
                let operation = match kind {
                    0 => { model.clear(); SetOperation::Clear }
                    1..5 => { model.remove(&value); SetOperation::Remove(&json) }
                    _ => { model.insert(value); SetOperation::Add(&json) }
                };
                set.apply(lam as u64, lam as u64, operation, &LIMITS).unwrap();
                prop_assert_eq!(set.len(), model.len());
                prop_assert!((0..8).all(|n| set.contains(&[b'0' + n]) == model.contains(&n)));
                prop_assert!(set.removed.count() <= LIMITS.removed_max);
                prop_assert!(set.removed.newest().count() <= 2 * LIMITS.removed_max + 40);
                // Whoever had an older copy and applies the replay ends with the members.
                let replay: BTreeSet<_> = set.replay().into_iter().filter(|r| r.present).map(|r| r.value.to_string()).collect();
                prop_assert_eq!(replay, model.iter().map(ToString::to_string).collect::<BTreeSet<_>>());
            }
        }
    }
}
